//! Jobs: one for each driver, from its registration to its end.

use std::collections::{BTreeMap, VecDeque};

use prost::Message;
use ray_rs_actors::lifecycle::Event;
use ray_rs_proto::v1::{self, node_command::Body};
use ray_rs_scheduler::placement_group::Event as GroupEvent;
use ray_rs_types::{JobId, NodeId, WorkerAddress};
use rustc_hash::{FxHashMap, FxHashSet};
use tonic::Status;

use super::{Durable, State, Target};
use crate::storage::{Table, Write};

/// Finished jobs that can still be asked about.
const MAX_FINISHED: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// By number, so in the order in which they came.
    jobs: BTreeMap<u32, v1::JobInfo>,
    /// In the order in which they ended.
    finished: VecDeque<u32>,
    /// Of those that run and were registered with this process: the connection of the driver's node then. What that node
    /// had said of its processes on it may be older than the driver.
    came_with: FxHashMap<u32, u64>,
}

impl Jobs {
    /// Numbers grow, so one that is not known and not above all others was forgotten after its end.
    pub(super) fn has_finished(&self, job: JobId) -> bool {
        let number = job.to_int();
        match self.jobs.get(&number) {
            Some(info) => info.finished,
            None => number > 0 && self.jobs.last_key_value().is_some_and(|(last, _)| number < *last),
        }
    }

    /// Notes that a job has ended, and forgets those past the number that is kept. The youngest job always stays: the next
    /// one's number follows from it.
    fn has_ended(&mut self, number: u32) -> Vec<Write> {
        self.finished.push_back(number);
        let mut writes = Vec::new();
        while self.finished.len() > MAX_FINISHED {
            let last = self.jobs.last_key_value().map(|(last, _)| *last);
            let Some(at) = self.finished.iter().position(|number| Some(*number) != last) else {
                break;
            };
            let oldest = self.finished.remove(at).and_then(|number| self.jobs.remove(&number));
            writes.extend(oldest.map(|info| Write {
                table: Table::Jobs,
                key: info.job_id,
                value: None,
            }));
        }
        writes
    }

    /// Unfinished jobs whose driver `of_driver` picks.
    fn running(&self, of_driver: impl Fn(&v1::WorkerAddress) -> bool) -> Vec<JobId> {
        let picked = |info: &v1::JobInfo| !info.finished && info.driver.as_ref().is_some_and(&of_driver);
        self.jobs
            .iter()
            .filter(|(_, info)| picked(info))
            .map(|(number, _)| JobId::from_int(*number))
            .collect()
    }

    pub(super) fn restore(&mut self, info: v1::JobInfo) {
        if let Ok(job) = JobId::from_bytes(&info.job_id) {
            if info.finished {
                self.finished.push_back(job.to_int());
            }
            self.jobs.insert(job.to_int(), info);
        }
    }
}

fn write_of(info: &v1::JobInfo) -> Write {
    Write {
        table: Table::Jobs,
        key: info.job_id.clone(),
        value: Some(info.encode_to_vec().into()),
    }
}

impl State {
    /// `now_ms`: milliseconds since the epoch.
    pub fn register_job(
        &mut self,
        request: v1::RegisterJobRequest,
        now_ms: u64,
    ) -> Result<(v1::RegisterJobReply, Durable), Status> {
        let driver = request
            .driver
            .ok_or_else(|| Status::invalid_argument("a job needs a driver"))?;
        let address = WorkerAddress::try_from(&driver).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let driver_node = address.node_id;
        if let Some(job) = self.jobs.running(|known| *known == driver).first() {
            // The same request once more, after a connection was lost.
            return Ok((v1::RegisterJobReply { job_id: job.0.to_vec() }, self.durable_so_far()));
        }
        let number = self.jobs.jobs.last_key_value().map_or(0, |(last, _)| *last) + 1;
        let job_id = JobId::from_int(number).0.to_vec();
        let info = v1::JobInfo {
            job_id: job_id.clone(),
            driver: Some(driver),
            entrypoint: request.entrypoint,
            namespace: request.namespace,
            start_ms: now_ms,
            end_ms: 0,
            finished: false,
            config: request.config,
        };
        let writes = vec![write_of(&info)];
        if let Some(connection) = self.nodes.connection_of(driver_node) {
            self.jobs.came_with.insert(number, connection);
        }
        self.jobs.jobs.insert(number, info);
        Ok((v1::RegisterJobReply { job_id }, self.commit(writes)))
    }

    /// A job that is unknown or has finished is no error.
    pub fn finish_job(&mut self, job_id: &[u8], now_ms: u64) -> Result<Durable, Status> {
        let job = JobId::from_bytes(job_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let Some(info) = self.jobs.jobs.get_mut(&job.to_int()).filter(|info| !info.finished) else {
            return Ok(self.durable_so_far());
        };
        info.finished = true;
        info.end_ms = now_ms;
        self.jobs.came_with.remove(&job.to_int());
        let mut writes = vec![write_of(info)];
        writes.extend(self.jobs.has_ended(job.to_int()));
        writes.extend(self.adoptions_end(job_id));
        let durable = self.actor_events([Event::JobFinished { job }], writes);
        self.release_packages();
        self.group_events([GroupEvent::JobFinished { job }]);
        self.tell(
            0,
            Target::AllNodes,
            Body::JobFinished(v1::JobFinished {
                job_id: job_id.to_vec(),
            }),
        );
        Ok(durable)
    }

    /// Finishes the jobs whose drivers `of_driver` picks.
    pub(super) fn drivers_died(&mut self, now_ms: u64, of_driver: impl Fn(&v1::WorkerAddress) -> bool) {
        for job in self.jobs.running(of_driver) {
            drop(self.finish_job(&job.0, now_ms));
        }
    }

    /// Finishes the jobs of a node's drivers that are not among those that it has on this connection.
    pub(super) fn drivers_are(&mut self, node: NodeId, connection: u64, living: &FxHashSet<&[u8]>, now_ms: u64) {
        let is_gone = |driver: &v1::WorkerAddress| driver.node_id == node.0 && !living.contains(&*driver.worker_id);
        for job in self.jobs.running(is_gone) {
            if self.jobs.came_with.get(&job.to_int()) != Some(&connection) {
                drop(self.finish_job(&job.0, now_ms));
            }
        }
    }

    /// Drivers whose jobs began while their node had this connection: what it says of its processes may be older.
    pub(super) fn drivers_that_came_with(&self, connection: u64) -> FxHashSet<Vec<u8>> {
        let came = self.jobs.came_with.iter().filter(|(_, with)| **with == connection);
        let jobs = came.filter_map(|(job, _)| self.jobs.jobs.get(job)?.driver.as_ref());
        jobs.map(|driver| driver.worker_id.clone()).collect()
    }

    pub fn list_jobs(&self) -> v1::ListJobsReply {
        v1::ListJobsReply {
            jobs: self
                .jobs
                .jobs
                .values()
                .map(|info| v1::JobInfo {
                    config: Vec::new(),
                    ..info.clone()
                })
                .collect(),
        }
    }

    /// With its configuration: for the node that is to run its first process there.
    pub fn get_job(&self, request: &v1::GetJobRequest) -> Result<v1::GetJobReply, Status> {
        let job = JobId::from_bytes(&request.job_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(v1::GetJobReply {
            job: self.jobs.jobs.get(&job.to_int()).cloned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u32, finished: bool) -> v1::JobInfo {
        v1::JobInfo {
            job_id: JobId::from_int(number).0.to_vec(),
            finished,
            ..v1::JobInfo::default()
        }
    }

    #[test]
    fn the_oldest_finished_jobs_are_forgotten_and_are_finished_all_the_same() {
        let mut jobs = Jobs::default();
        let running = 5;
        let count = MAX_FINISHED as u32 + 20;
        let mut forgotten = Vec::new();
        for number in 1..=count {
            jobs.restore(job(number, false));
            if number != running {
                jobs.jobs.get_mut(&number).expect("just entered").finished = true;
                forgotten.extend(jobs.has_ended(number).into_iter().map(|write| write.key));
            }
        }
        assert_eq!(jobs.jobs.len(), MAX_FINISHED + 1);
        let expected = (1..=20).filter(|number| *number != running);
        let expected: Vec<Vec<u8>> = expected.map(|number| JobId::from_int(number).0.to_vec()).collect();
        assert_eq!(forgotten, expected);
        assert!(jobs.has_finished(JobId::from_int(1)) && jobs.has_finished(JobId::from_int(count)));
        assert!(!jobs.has_finished(JobId::from_int(running)) && !jobs.has_finished(JobId::from_int(count + 1)));
    }

    #[test]
    fn the_youngest_job_stays_whenever_it_ended() {
        let mut jobs = Jobs::default();
        let youngest = 10_000;
        jobs.restore(job(youngest, true));
        for number in 1..=MAX_FINISHED as u32 + 3 {
            jobs.restore(job(number, false));
            jobs.has_ended(number);
        }
        assert!(jobs.jobs.contains_key(&youngest));
        assert_eq!(jobs.jobs.len(), MAX_FINISHED);
    }
}
