//! How many worker processes each job keeps.
//!
//! Enough for every CPU, one more than is in use (so that an actor or a nested task starts at once), and no others
//! for longer than a grace. A job that has ended keeps none, and gets one only for what its detached actors ask.

use std::collections::VecDeque;
use std::time::Duration;

use crate::effect::{Effect, StopReason};
use crate::event::{ClientKey, JobKey, WorkerKey};
use crate::queue::Wanted;
use crate::scheduler::{AwaitsWorker, Scheduler, Worker, WorkerState};

#[derive(Debug, Default)]
pub(crate) struct JobPool {
    /// Its driver lives.
    pub alive: bool,
    /// The one that became idle last is at the end.
    pub idle: Vec<WorkerKey>,
    /// Ordered and not yet answered.
    pub starting: usize,
    /// Worker processes in any role.
    pub workers: usize,
    /// Starts that failed since the last success.
    pub failures: u32,
    pub awaiting: VecDeque<AwaitsWorker>,
}

impl Scheduler {
    pub(crate) fn worker_started(&mut self, now: Duration, key: WorkerKey, client: ClientKey, job: JobKey) {
        let pool = self.jobs.entry(job).or_default();
        pool.starting = pool.starting.saturating_sub(1);
        pool.failures = 0;
        pool.workers += 1;
        self.workers.insert(
            key,
            Worker {
                job,
                state: WorkerState::Leaving,
                last_client: None,
                client,
                needed: false,
            },
        );
        self.set_worker_state(key, WorkerState::Idle { since: now });
    }

    /// It is of use again, and is not asked once more before it owns nothing, or has worked.
    pub(crate) fn worker_stays(&mut self, now: Duration, key: WorkerKey, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(&key).filter(|w| w.state == WorkerState::Leaving) else {
            return;
        };
        worker.needed = true;
        if self.jobs[&worker.job].alive {
            return self.set_worker_state(key, WorkerState::Idle { since: now });
        }
        effects.push(Effect::StopWorker {
            worker: key,
            reason: StopReason::JobEnded,
        });
    }

    /// A worker that was given back goes to whoever awaits one before it counts as idle.
    pub(crate) fn hand_out_idle(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut jobs: Vec<JobKey> = self
            .jobs
            .iter()
            .filter(|(_, pool)| !pool.awaiting.is_empty() && !pool.idle.is_empty())
            .map(|(job, _)| *job)
            .collect();
        jobs.sort_unstable();
        for job in jobs {
            let mut index = 0;
            while let Some(waiting) = self.jobs[&job].awaiting.get(index) {
                match self.pick_idle(job, &waiting.item.wanted) {
                    Some(worker) => {
                        let pool = self.jobs.get_mut(&job).expect("just looked at");
                        let waiting = pool.awaiting.remove(index).expect("just looked at");
                        self.give_worker(now, waiting, worker, effects);
                    }
                    // All that are idle are the one that asks.
                    None => index += 1,
                }
            }
        }
    }

    /// After a few failures in a row whoever waits for a worker is told why there is none.
    pub(crate) fn worker_start_failed(&mut self, job: JobKey, reason: String, effects: &mut Vec<Effect>) {
        let Some(pool) = self.jobs.get_mut(&job) else { return };
        pool.starting = pool.starting.saturating_sub(1);
        pool.failures = pool.failures.saturating_add(1);
        if pool.failures < self.options.max_start_failures {
            return;
        }
        for waiting in std::mem::take(&mut pool.awaiting) {
            self.release_awaiting(&waiting);
            self.forget_if_empty(&waiting.queue);
            match waiting.item.wanted {
                Wanted::Lease(client, request) => {
                    effects.push(Effect::RejectLease {
                        client,
                        request,
                        reason: reason.clone(),
                    });
                }
                Wanted::Actor(actor) => {
                    self.actors.remove(&actor);
                    effects.push(Effect::RejectActor {
                        actor,
                        reason: reason.clone(),
                    });
                }
            }
        }
    }

    pub(crate) fn size_pools(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut jobs: Vec<JobKey> = self.jobs.keys().copied().collect();
        jobs.sort_unstable();
        for job in jobs {
            self.size_pool(now, job, effects);
        }
    }

    fn size_pool(&mut self, now: Duration, job: JobKey, effects: &mut Vec<Effect>) {
        let wanted_idle = self.wanted_idle(job);
        let pool = self.jobs.get_mut(&job).expect("the caller lists the jobs");
        if !pool.alive && pool.workers == 0 && pool.starting == 0 && pool.awaiting.is_empty() {
            self.jobs.remove(&job);
            return;
        }
        // Where starts keep failing, only real need tries again: a spare would fail for ever.
        let may_spare = pool.failures < self.options.max_start_failures;
        let spare = if may_spare {
            wanted_idle.saturating_sub(pool.idle.len())
        } else {
            0
        };
        let target = (pool.awaiting.len() + spare).min(self.options.max_starting);
        while pool.starting < target {
            pool.starting += 1;
            effects.push(Effect::StartWorker { job });
        }
        let surplus = pool.idle.len().saturating_sub(wanted_idle);
        let not_needed = pool.idle.iter().filter(|worker| !self.workers[worker].needed);
        let oldest: Vec<WorkerKey> = not_needed.take(surplus).copied().collect();
        for worker in oldest {
            let WorkerState::Idle { since } = self.workers[&worker].state else {
                unreachable!("SCH-2: the idle list holds idle workers")
            };
            let due = since + self.options.idle_grace;
            if due <= now {
                self.set_worker_state(worker, WorkerState::Leaving);
                effects.push(Effect::StopWorker {
                    worker,
                    reason: StopReason::Surplus,
                });
            } else {
                self.look_again(due);
            }
        }
    }

    fn wanted_idle(&self, job: JobKey) -> usize {
        if !self.jobs[&job].alive {
            return 0;
        }
        let computing = self
            .leases
            .values()
            .filter(|lease| !lease.holding.cpu_lent && self.workers[&lease.worker].job == job)
            .count();
        self.cpus.saturating_sub(computing).max(1)
    }
}
