//! The raylet: the real scheduler, and processes that come and go as it orders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ray_rs_scheduler::{
    ClientKey, Effect, EnvKey, Event, JobKey, LeaseKey, LeaseRequest, Options, PoolKey, RequestKey, Scheduler,
    StartFailure, StopReason, WorkerKey,
};
use ray_rs_types::ResourceSet;

use super::messages::{Msg, Proc};

const JOB: JobKey = JobKey(1);
const POOL: PoolKey = PoolKey {
    job: JOB,
    env: EnvKey::JOB,
};

/// What is to happen outside.
pub(crate) enum Order {
    Send(Proc, Msg),
    StartWorker,
    Kill(Proc),
}

pub(crate) struct Raylet {
    pub scheduler: Scheduler,
    dead: BTreeSet<Proc>,
    /// Who waits to be told how a process ended.
    asked: BTreeMap<Proc, Vec<Proc>>,
    clients: BTreeSet<Proc>,
}

fn client(who: Proc) -> ClientKey {
    ClientKey(u64::from(who))
}

fn worker(who: Proc) -> WorkerKey {
    WorkerKey(u64::from(who))
}

impl Raylet {
    pub fn new(cpus: u32) -> Self {
        let total = ResourceSet::new().with("CPU", f64::from(cpus));
        Self {
            scheduler: Scheduler::new(total, Options::default()),
            dead: BTreeSet::new(),
            asked: BTreeMap::new(),
            clients: BTreeSet::new(),
        }
    }

    pub fn start(&mut self, now: Duration, orders: &mut Vec<Order>) {
        self.decide(now, Event::JobStarted { job: JOB }, orders);
        self.joined(now, 0, orders);
    }

    fn joined(&mut self, now: Duration, who: Proc, orders: &mut Vec<Order>) {
        self.clients.insert(who);
        let client = client(who);
        self.decide(now, Event::ClientJoined { client, job: JOB }, orders);
    }

    pub fn worker_started(&mut self, now: Duration, who: Proc, orders: &mut Vec<Order>) {
        self.joined(now, who, orders);
        let event = Event::WorkerStarted {
            worker: worker(who),
            client: client(who),
            pool: POOL,
        };
        self.decide(now, event, orders);
    }

    pub fn worker_start_failed(&mut self, now: Duration, orders: &mut Vec<Order>) {
        let event = Event::WorkerStartFailed {
            pool: POOL,
            reason: "it did not start".to_owned(),
            how: StartFailure::Failed,
        };
        self.decide(now, event, orders);
    }

    pub fn tick(&mut self, now: Duration, orders: &mut Vec<Order>) {
        if self.scheduler.next_deadline().is_some_and(|at| at <= now) {
            self.decide(now, Event::Tick, orders);
        }
    }

    pub fn receive(&mut self, now: Duration, from: Proc, msg: Msg, orders: &mut Vec<Order>) {
        let event = match msg {
            Msg::RequestLease {
                request,
                half_cpus,
                ahead,
            } => Event::LeaseRequested {
                client: client(from),
                request: LeaseRequest {
                    request: RequestKey(request),
                    resources: ResourceSet::new().with("CPU", f64::from(half_cpus) / 2.0),
                    env: EnvKey::JOB,
                    placing: None,
                    task_name: String::new(),
                    ahead,
                },
            },
            Msg::LeaseBegun { lease } => Event::LeaseBegun {
                client: client(from),
                lease: LeaseKey(lease),
            },
            Msg::CancelLeaseRequest { request } => Event::LeaseRequestCancelled {
                client: client(from),
                request: RequestKey(request),
            },
            Msg::ReturnLease { lease, worker_gone } => Event::LeaseReturned {
                client: client(from),
                lease: LeaseKey(lease),
                worker_gone,
            },
            Msg::Blocked => Event::WorkerBlocked { worker: worker(from) },
            Msg::Unblocked => Event::WorkerUnblocked { worker: worker(from) },
            Msg::Stays => Event::WorkerStays { worker: worker(from) },
            Msg::Unneeded => Event::WorkerUnneeded { worker: worker(from) },
            Msg::WhyDied { worker } if self.dead.contains(&worker) => {
                return orders.push(Order::Send(from, Msg::DeathReport { worker }));
            }
            Msg::WhyDied { worker } => return self.asked.entry(worker).or_default().push(from),
            Msg::Closed => return self.died(now, from, orders),
            other => unreachable!("no raylet is told {other:?}"),
        };
        self.decide(now, event, orders);
    }

    fn died(&mut self, now: Duration, who: Proc, orders: &mut Vec<Order>) {
        self.dead.insert(who);
        self.clients.remove(&who);
        self.decide(now, Event::WorkerDied { worker: worker(who) }, orders);
        self.decide(now, Event::ClientGone { client: client(who) }, orders);
        self.asked.remove(&who);
        for other in &self.clients {
            orders.push(Order::Send(*other, Msg::DeathReport { worker: who }));
        }
    }

    fn decide(&mut self, now: Duration, event: Event, orders: &mut Vec<Order>) {
        let mut effects = Vec::new();
        self.scheduler.on_event(now, event, &mut effects);
        self.scheduler.check_invariants();
        for effect in effects {
            orders.extend(match effect {
                Effect::GrantLease {
                    client,
                    request,
                    lease,
                    worker,
                    ..
                } => {
                    let (request, lease, worker) = (request.0, lease.0, worker.0 as Proc);
                    Some(Order::Send(
                        client.0 as Proc,
                        Msg::LeaseGranted { request, lease, worker },
                    ))
                }
                Effect::RejectLease { client, request, .. } => {
                    let request = request.0;
                    Some(Order::Send(client.0 as Proc, Msg::LeaseRejected { request }))
                }
                Effect::RevokeLease { client, lease } => {
                    Some(Order::Send(client.0 as Proc, Msg::LeaseRevoked { lease: lease.0 }))
                }
                Effect::StartWorker { .. } => Some(Order::StartWorker),
                Effect::StopWorker { worker, reason } => Some(match reason {
                    StopReason::Surplus => Order::Send(worker.0 as Proc, Msg::Exit),
                    StopReason::OwnerGone | StopReason::JobEnded | StopReason::Unusable | StopReason::GroupRemoved => {
                        Order::Kill(worker.0 as Proc)
                    }
                }),
                Effect::PoolEmptied { .. } | Effect::Notice { .. } => None,
                Effect::PlaceActor { .. }
                | Effect::RejectActor { .. }
                | Effect::BundlesPrepared { .. }
                | Effect::AskAboutGroup { .. } => unreachable!("there are no actors and no placement groups here"),
            });
        }
    }
}
