//! What became of the latest tasks, for the state API. Never stored: owners report it in batches, and a new gcs starts
//! with an empty log.

use std::collections::VecDeque;

use ray_rs_proto::v1::TaskEvents;
use ray_rs_types::WorkerId;
use rustc_hash::FxHashMap;
use tonic::Status;

use super::State;

/// Older events make room for newer ones, whole batches at a time.
pub(super) const MAX_EVENTS: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct TaskEventLog {
    batches: VecDeque<TaskEvents>,
    events: usize,
    /// Events that were dropped, here or before they came here.
    dropped: u64,
}

impl TaskEventLog {
    fn add(&mut self, batch: TaskEvents) -> Result<(), Status> {
        let count = batch.task_unique.len();
        let columns = [
            batch.name_of.len(),
            batch.outcome.len(),
            batch.end_us.len(),
            batch.run_us.len(),
        ];
        if columns.iter().any(|length| *length != count) || batch.workers.len() != count * WorkerId::SIZE {
            return Err(Status::invalid_argument("the columns differ in length"));
        }
        if batch.name_of.iter().any(|index| *index as usize >= batch.names.len()) {
            return Err(Status::invalid_argument("an event has no name"));
        }
        self.dropped += batch.dropped;
        self.events += count;
        self.batches.push_back(batch);
        while self.events > MAX_EVENTS {
            let oldest = self.batches.pop_front().expect("there are events");
            self.events -= oldest.task_unique.len();
            self.dropped += oldest.task_unique.len() as u64;
        }
        Ok(())
    }

    /// All in one batch. Its job is that of the events when they share one, else empty.
    fn all(&self) -> TaskEvents {
        let mut all = TaskEvents {
            dropped: self.dropped,
            ..TaskEvents::default()
        };
        let mut indices: FxHashMap<&str, u32> = FxHashMap::default();
        let first_job = self.batches.front().map(|batch| &batch.job_id);
        if let Some(job) = first_job
            && self.batches.iter().all(|batch| batch.job_id == *job)
        {
            all.job_id.clone_from(job);
        }
        for batch in &self.batches {
            for name_of in &batch.name_of {
                let name = batch.names[*name_of as usize].as_str();
                let index = *indices.entry(name).or_insert_with(|| {
                    all.names.push(name.to_owned());
                    u32::try_from(all.names.len() - 1).expect("at most MAX_EVENTS names")
                });
                all.name_of.push(index);
            }
            all.task_unique.extend(&batch.task_unique);
            all.outcome.extend(&batch.outcome);
            all.end_us.extend(&batch.end_us);
            all.run_us.extend(&batch.run_us);
            all.workers.extend(&batch.workers);
        }
        all
    }
}

impl State {
    pub fn add_task_events(&mut self, batch: TaskEvents) -> Result<(), Status> {
        self.task_events.add(batch)
    }

    pub fn list_task_events(&self) -> TaskEvents {
        self.task_events.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(job: u8, names: &[&str], name_of: &[u32]) -> TaskEvents {
        let count = name_of.len();
        TaskEvents {
            job_id: vec![job; 4],
            names: names.iter().map(|&name| name.to_owned()).collect(),
            name_of: name_of.to_vec(),
            task_unique: vec![1; count],
            outcome: vec![0; count],
            end_us: vec![2; count],
            run_us: vec![3; count],
            workers: vec![4; count * WorkerId::SIZE],
            dropped: 1,
        }
    }

    #[test]
    fn batches_are_joined_and_names_renumbered() {
        let mut log = TaskEventLog::default();
        log.add(batch(1, &["f", "g"], &[1, 0])).expect("good");
        log.add(batch(1, &["g"], &[0])).expect("good");
        let all = log.all();
        let names: Vec<&str> = all
            .name_of
            .iter()
            .map(|index| all.names[*index as usize].as_str())
            .collect();
        assert_eq!(names, ["g", "f", "g"]);
        assert_eq!((all.job_id, all.dropped), (vec![1; 4], 2));
        log.add(batch(2, &["g"], &[0])).expect("good");
        assert!(log.all().job_id.is_empty());
    }

    #[test]
    fn the_oldest_make_room_and_crooked_batches_are_refused() {
        let mut log = TaskEventLog::default();
        let half = vec![0; MAX_EVENTS / 2];
        for _ in 0..3 {
            log.add(batch(1, &["f"], &half)).expect("good");
        }
        assert_eq!(log.all().task_unique.len(), MAX_EVENTS);
        assert_eq!(log.all().dropped, 3 + MAX_EVENTS as u64 / 2);
        assert!(
            log.add(TaskEvents {
                workers: vec![1],
                ..batch(1, &["f"], &[0])
            })
            .is_err()
        );
        assert!(log.add(batch(1, &["f"], &[1])).is_err());
    }
}
