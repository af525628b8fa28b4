//! How many worker processes each pool keeps.
//!
//! A job's own environment has enough for every CPU, one more than is in use (so that an actor or a nested task starts
//! at once; but one alone at first, see [`Options::spares_after`](crate::Options::spares_after)), and no others for longer than a grace. An environment of single tasks or actors has what is asked for, and
//! so has a job that has ended, for its detached actors.

use std::collections::VecDeque;
use std::time::Duration;

use crate::effect::{Effect, Refusal, StopReason};
use crate::event::{ClientKey, EnvKey, JobKey, PoolKey, StartFailure, WorkerKey};
use crate::queue::Wanted;
use crate::scheduler::{AwaitsWorker, Scheduler, Use, Worker, WorkerState};
use crate::starts::Starts;

#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// It has workers ready before anybody asks: the environment of a job whose driver lives.
    pub is_kept: bool,
    /// The one that became idle last is at the end.
    pub idle: Vec<WorkerKey>,
    pub starts: Starts,
    /// Worker processes in any role.
    pub workers: usize,
    pub awaiting: VecDeque<AwaitsWorker>,
    /// When the first worker came.
    pub since: Option<Duration>,
}

impl Scheduler {
    pub(crate) fn worker_started(&mut self, now: Duration, key: WorkerKey, client: ClientKey, pool: PoolKey) {
        let known = self.pools.entry(pool).or_default();
        known.starts.came();
        known.workers += 1;
        known.since.get_or_insert(now);
        self.workers.insert(
            key,
            Worker {
                pool,
                state: WorkerState::Leaving,
                last_client: None,
                client,
                needed: false,
                retired: false,
            },
        );
        self.set_worker_state(key, WorkerState::Idle { since: now });
    }

    pub(crate) fn worker_retires(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        worker.retired = true;
        if matches!(worker.state, WorkerState::Idle { .. }) {
            self.set_worker_state(key, WorkerState::Leaving);
        }
    }

    /// It is of use again, and is not asked once more before it owns nothing, or has worked.
    pub(crate) fn worker_stays(&mut self, now: Duration, key: WorkerKey, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(&key).filter(|w| w.state == WorkerState::Leaving) else {
            return;
        };
        worker.needed = true;
        let job = worker.pool.job;
        if self.lives(job) {
            return self.set_worker_state(key, WorkerState::Idle { since: now });
        }
        effects.push(Effect::StopWorker {
            worker: key,
            reason: StopReason::JobEnded,
        });
    }

    /// Whether the job's driver lives.
    fn lives(&self, job: JobKey) -> bool {
        let own = PoolKey { job, env: EnvKey::JOB };
        self.pools.get(&own).is_some_and(|pool| pool.is_kept)
    }

    /// A worker that was given back goes to whoever awaits one before it counts as idle.
    pub(crate) fn hand_out_idle(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut pools: Vec<PoolKey> = self
            .pools
            .iter()
            .filter(|(_, pool)| !pool.awaiting.is_empty() && !pool.idle.is_empty())
            .map(|(key, _)| *key)
            .collect();
        pools.sort_unstable();
        for key in pools {
            let mut index = 0;
            while let Some(waiting) = self.pools[&key].awaiting.get(index) {
                match self.pick_idle(key, &waiting.item.wanted) {
                    Some(worker) => {
                        let pool = self.pools.get_mut(&key).expect("just looked at");
                        let waiting = pool.awaiting.remove(index).expect("just looked at");
                        self.give_worker(now, waiting, worker, effects);
                    }
                    // All that are idle are the one that asks.
                    None => index += 1,
                }
            }
        }
    }

    pub(crate) fn worker_start_failed(
        &mut self,
        now: Duration,
        key: PoolKey,
        reason: &str,
        how: StartFailure,
        effects: &mut Vec<Effect>,
    ) {
        let Some(pool) = self.pools.get_mut(&key) else { return };
        pool.starts.came_to_nothing();
        self.note_failed_start(now, key, reason, how, effects);
    }

    /// Whether a worker that has ended by itself was so young and unused that its start has failed.
    pub(crate) fn died_unused(&self, now: Duration, worker: WorkerKey) -> bool {
        let worker = &self.workers[&worker];
        matches!(worker.state, WorkerState::Idle { since }
            if worker.last_client.is_none() && now < since + self.options.young)
    }

    /// After a few failures in a row whoever waits for a worker is told why there is none.
    pub(crate) fn note_failed_start(
        &mut self,
        now: Duration,
        key: PoolKey,
        reason: &str,
        how: StartFailure,
        effects: &mut Vec<Effect>,
    ) {
        let pool = self.pools.get_mut(&key).expect("the caller has looked it up");
        if !pool.starts.failed(now, &self.options, how) {
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
                        refusal: Refusal::NoWorker(key),
                        reason: reason.to_owned(),
                    });
                }
                Wanted::Actor(actor) => {
                    self.actors.remove(&actor);
                    effects.push(Effect::RejectActor {
                        actor,
                        refusal: Refusal::NoWorker(key),
                        reason: reason.to_owned(),
                    });
                }
            }
        }
    }

    pub(crate) fn size_pools(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut pools: Vec<PoolKey> = self.pools.keys().copied().collect();
        pools.sort_unstable();
        for key in pools {
            self.size_pool(now, key, effects);
        }
    }

    fn size_pool(&mut self, now: Duration, key: PoolKey, effects: &mut Vec<Effect>) {
        let wanted_idle = self.wanted_idle(key);
        let pool = self.pools.get_mut(&key).expect("the caller lists the pools");
        if !pool.is_kept && pool.workers == 0 && pool.starts.under_way == 0 && pool.awaiting.is_empty() {
            // What is known of failed starts is kept as long as it matters.
            if pool.starts.is_paused() && now < pool.starts.not_before() {
                let due = pool.starts.not_before();
                return self.look_again(due);
            }
            self.pools.remove(&key);
            if key.env != EnvKey::JOB {
                effects.push(Effect::PoolEmptied { pool: key });
            }
            return;
        }
        let (idle, needed) = (pool.idle.len(), pool.awaiting.len());
        let spare = wanted_idle.saturating_sub(idle);
        let settled = pool.since.map(|since| since + self.options.spares_after);
        let spare = match settled {
            None => spare.min(1_usize.saturating_sub(needed)),
            Some(settled) if now < settled => 0,
            Some(_) => spare,
        };
        for _ in 0..pool.starts.room(now, needed, spare, &self.options) {
            pool.starts.under_way += 1;
            effects.push(Effect::StartWorker { pool: key });
        }
        let surplus = idle.saturating_sub(wanted_idle);
        let paused = pool.starts.is_paused() && needed + spare > 0 && pool.starts.not_before() > now;
        let not_before = pool.starts.not_before();
        let not_needed = pool.idle.iter().filter(|worker| !self.workers[worker].needed);
        let oldest: Vec<WorkerKey> = not_needed.take(surplus).copied().collect();
        if paused {
            self.look_again(not_before);
        }
        if let Some(settled) = settled.filter(|settled| now < *settled && wanted_idle > idle) {
            self.look_again(settled);
        }
        for worker in oldest {
            let WorkerState::Idle { since } = self.workers[&worker].state else {
                unreachable!("SCH-2: the idle list holds idle workers")
            };
            // What is idle when memory is short, or the node about to leave, goes at once.
            let grace = if self.admission.stop || self.drains {
                Duration::ZERO
            } else {
                self.options.idle_grace
            };
            let due = since + grace;
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

    fn wanted_idle(&self, key: PoolKey) -> usize {
        if !self.pools[&key].is_kept || self.admission.stop || self.drains {
            return 0;
        }
        let computing = self
            .leases
            .values()
            .filter(|lease| !lease.holding.cpu_lent || lease.usage == Use::None)
            .filter(|lease| self.workers[&lease.worker].pool == key)
            .count();
        self.cpus.saturating_sub(computing).max(1)
    }
}
