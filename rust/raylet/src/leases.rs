//! The scheduler's orders carried out.

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_scheduler::{ClientKey, Effect, EnvKey, Event, JobKey, PoolKey, Refusal, StopReason};
use ray_rs_types::WorkerAddress;

use crate::clients::{Client, Role};
use crate::input::{ConnKey, Token};
use crate::raylet::Raylet;
use crate::workers::Leave;

/// Causes of `LeaseRejected`.
const WORKERS_DO_NOT_START: u32 = 1;
const ENVIRONMENT_FAILED: u32 = 2;
pub(crate) const NO_NODE_EVER: u32 = 3;
pub(crate) const GROUP_IS_REMOVED: u32 = 4;

/// Why a worker was ended whose placement group went; told apart by who reports its death.
pub(crate) const GROUP_REMOVED: &str = "its placement group was removed";

impl Raylet {
    /// Tells the scheduler what has happened and does what follows; what happens while it is done is told after it.
    pub fn decide(&mut self, event: Event) {
        self.undecided.push_back(event);
        if self.deciding {
            return;
        }
        self.deciding = true;
        let mut effects = Vec::new();
        while let Some(event) = self.undecided.pop_front() {
            let now = self.now();
            self.scheduler.on_event(now, event, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect);
            }
        }
        self.deciding = false;
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::GrantLease {
                client,
                request,
                lease,
                worker,
                gpus,
            } => {
                let token = Token(worker.0);
                self.cluster.no_longer_waits(ConnKey(client.0), request.0);
                let (Some(address), Some(client)) = (self.worker_address(token), self.client(client)) else {
                    return;
                };
                let is_of_another = client.role == Role::Remote;
                client.outbox.send(Body::LeaseGranted(v1::LeaseGranted {
                    request_id: request.0,
                    lease_id: lease.0,
                    worker: Some((&address).into()),
                    gpu_ids: gpus,
                }));
                let counts = &mut self.cluster.forwarder.counts;
                match is_of_another {
                    true => counts.granted_to_others += 1,
                    false => counts.granted_locally += 1,
                }
            }
            Effect::RejectLease {
                client,
                request,
                refusal,
                reason,
            } => {
                self.cluster.no_longer_waits(ConnKey(client.0), request.0);
                let (cause, reason) = match refusal {
                    Refusal::NoWorker(pool) => self.why_no_worker(pool, reason),
                    Refusal::ForEver => (NO_NODE_EVER, reason),
                    Refusal::GroupRemoved => (GROUP_IS_REMOVED, reason),
                };
                if let Some(client) = self.client(client) {
                    client.outbox.send(Body::LeaseRejected(v1::LeaseRejected {
                        request_id: request.0,
                        reason,
                        cause,
                    }));
                }
            }
            Effect::RevokeLease { client, lease } => {
                if let Some(client) = self.client(client) {
                    client
                        .outbox
                        .send(Body::LeaseRevoked(v1::LeaseRevoked { lease_id: lease.0 }));
                }
            }
            Effect::StartWorker { pool } => self.start_worker(pool),
            Effect::PoolEmptied { pool } => self.pool_emptied(pool),
            Effect::StopWorker { worker, reason } => {
                let token = Token(worker.0);
                match reason {
                    StopReason::Surplus => self.ask_to_leave(token, "it was idle", Leave::UnlessNeeded),
                    StopReason::Unusable => self.let_go(token),
                    StopReason::OwnerGone => self.kill_worker(token, "the owner of its task has died"),
                    StopReason::JobEnded => self.kill_worker(token, "its job has ended"),
                    StopReason::GroupRemoved => {
                        self.kill_worker(token, GROUP_REMOVED);
                        if let Some((actor, _)) = self.workers.get(&token).and_then(|worker| worker.actor) {
                            self.actors.worker_gone(actor, token);
                        }
                    }
                }
            }
            Effect::PlaceActor { actor, worker, gpus } => self.place_actor(actor, Token(worker.0), gpus),
            Effect::RejectActor { actor, refusal, reason } => {
                let (cause, reason) = match refusal {
                    Refusal::NoWorker(pool) => self.why_no_worker(pool, reason),
                    Refusal::ForEver | Refusal::GroupRemoved => (0, reason),
                };
                self.actor_rejected(actor, cause == ENVIRONMENT_FAILED, reason);
            }
            Effect::BundlesPrepared {
                group,
                attempt,
                has_room,
            } => self.bundles_prepared(group, attempt, has_room),
            Effect::AskAboutGroup { group } => self.ask_about_group(group),
            Effect::Notice { job, text } => self.notice(job, text),
        }
    }

    /// What a rejection says: where workers of an environment do not start, the environment is to blame.
    fn why_no_worker(&mut self, pool: PoolKey, reason: String) -> (u32, String) {
        let last = match reason.is_empty() {
            true => {
                let words = self.environment(pool).map(|known| known.last_failure.clone());
                let words = words.unwrap_or_default();
                format!("they end before they can be used\n{words}")
                    .trim_end()
                    .to_owned()
            }
            false => reason,
        };
        if pool.env == EnvKey::JOB && self.environment(pool).is_none_or(|known| known.text.is_empty()) {
            (WORKERS_DO_NOT_START, format!("worker processes do not start: {last}"))
        } else {
            (ENVIRONMENT_FAILED, last)
        }
    }

    fn client(&self, key: ClientKey) -> Option<&Client> {
        self.clients.get(&ConnKey(key.0))
    }

    pub fn worker_address(&self, token: Token) -> Option<WorkerAddress> {
        let worker = self.workers.get(&token)?;
        Some(WorkerAddress {
            node_id: self.node_id,
            worker_id: worker.worker_id,
            pid: worker.pid?,
        })
    }

    pub fn notice(&self, job: JobKey, text: String) {
        let driver = self
            .jobs
            .get(&job)
            .and_then(|job| job.driver)
            .and_then(|conn| self.clients.get(&conn));
        if let Some(driver) = driver {
            driver.outbox.send(Body::Notice(v1::Notice { level: 1, text }));
        }
    }
}
