//! One node: the local scheduler and what sends requests away, with the glue that a raylet is.

use std::time::Duration;

use ray_rs_scheduler::bottom_up::forward::{self, Arrival, Ask, Forwarder, Manner, Rules, Verdict};
use ray_rs_scheduler::bottom_up::heartbeat::{Encoder, Heartbeat};
use ray_rs_scheduler::bottom_up::load::Load;
use ray_rs_scheduler::bottom_up::{NodeReport, Proposal};
use ray_rs_scheduler::{
    ClientKey, Effect, EnvKey, Event, JobKey, LeaseKey, LeaseRequest, Options as Knobs, PoolKey, RequestKey, Scheduler,
    StopReason, WorkerKey,
};
use ray_rs_types::{NodeId, PlacementGroupId, ResourceSet};
use rustc_hash::{FxHashMap, FxHashSet};

use super::costs::Costs;
use super::workload::{Task, Workload, id_of};

const JOB: JobKey = JobKey(1);
const POOL: PoolKey = PoolKey {
    job: JOB,
    env: EnvKey::JOB,
};

/// What is to happen outside.
#[derive(Debug)]
pub(super) enum Order {
    Granted {
        task: u32,
        lease: LeaseKey,
    },
    Ask(Ask<u32>),
    /// The task's owner is to ask that node.
    Move {
        task: u32,
        to: NodeId,
        expects_room: bool,
    },
    /// The task's owner is to ask its own raylet again.
    SpillBack {
        task: u32,
    },
    ComeAgain {
        task: u32,
        after: Duration,
    },
    Failed {
        task: u32,
        why: String,
    },
    StartWorker,
    WorkerEnds(WorkerKey),
    BundlesPrepared {
        group: PlacementGroupId,
        attempt: u32,
        has_room: bool,
    },
}

#[derive(Debug)]
pub(super) struct Node {
    pub number: u32,
    id: NodeId,
    pub scheduler: Scheduler,
    pub forwarder: Forwarder<u32>,
    pub leases: FxHashMap<LeaseKey, u32>,
    /// Owners that have asked for leases.
    clients: FxHashSet<u32>,
    encoders: Vec<Encoder>,
    report: NodeReport,
    last_worker: u64,
    pub is_dead: bool,
}

impl Node {
    pub fn new(number: u32, replicas: u32, workload: &Workload, rules: &Rules) -> Self {
        let (total, labels) = (workload.resources_of(number), workload.labels_of(number));
        let id = id_of(number);
        Self {
            number,
            id,
            scheduler: Scheduler::new(total.clone(), Knobs::default()).on_node(id, labels.clone()),
            forwarder: Forwarder::new(rules.clone()),
            leases: FxHashMap::default(),
            clients: FxHashSet::default(),
            encoders: (0..replicas).map(|_| Encoder::new(1)).collect(),
            report: NodeReport {
                available: total.clone(),
                total,
                labels,
                ..NodeReport::default()
            },
            last_worker: 0,
            is_dead: false,
        }
    }

    pub fn start(&mut self, now: Duration, costs: &mut Costs, orders: &mut Vec<Order>) {
        self.decide(now, Event::JobStarted { job: JOB }, costs, orders);
    }

    pub fn drain(&mut self) {
        self.report.draining = true;
    }

    pub fn could_serve(&self, resources: &ResourceSet) -> bool {
        self.scheduler.total().covers(resources)
    }

    /// A request of a client of this node; `hops`: it was elsewhere before.
    pub fn submitted(
        &mut self,
        now: Duration,
        (number, task): (u32, &Task),
        hops: u8,
        workload: &Workload,
        costs: &mut Costs,
        orders: &mut Vec<Order>,
    ) {
        let resources = &workload.shapes[task.shape];
        let placing = task.placing();
        let rules = self.forwarder.rules();
        let manner = forward::first_stop(self.id, rules, placing.as_ref(), &task.arguments());
        // Whoever has travelled enough stays for good where that is possible.
        let may_stay = self.could_serve(resources) && manner != Manner::Named;
        if may_stay && (manner == Manner::Queued || hops >= forward::MAX_HOPS) {
            return self.enqueue(now, number, task, resources, hops, costs, orders);
        }
        let waits = costs
            .forwarding
            .time(|| self.forwarder.waits(now, number, resources.clone(), manner, 0));
        if let Err(after) = waits {
            orders.push(Order::ComeAgain { task: number, after });
        }
    }

    /// A request that another node has sent here.
    pub fn arrived(
        &mut self,
        now: Duration,
        (number, task): (u32, &Task),
        (expects_room, hops): (bool, u8),
        workload: &Workload,
        costs: &mut Costs,
        orders: &mut Vec<Order>,
    ) {
        let resources = &workload.shapes[task.shape];
        let load = load(&self.scheduler, now);
        let arrival = costs
            .forwarding
            .time(|| self.forwarder.arrived(&load, resources, expects_room, hops));
        match arrival {
            Arrival::SpillBack => orders.push(Order::SpillBack { task: number }),
            Arrival::Serve => {
                let hops = if task.placing().is_some() {
                    forward::MAX_HOPS
                } else {
                    hops
                };
                self.enqueue(now, number, task, resources, hops, costs, orders);
            }
        }
    }

    fn enqueue(
        &mut self,
        now: Duration,
        number: u32,
        task: &Task,
        resources: &ResourceSet,
        hops: u8,
        costs: &mut Costs,
        orders: &mut Vec<Order>,
    ) {
        let waits = costs.forwarding.time(|| {
            self.forwarder
                .waits(now, number, resources.clone(), Manner::Queued, hops)
        });
        match waits {
            Ok(()) => self.request(now, number, task, resources, costs, orders),
            Err(_) if task.home != self.number => orders.push(Order::SpillBack { task: number }),
            Err(after) => orders.push(Order::ComeAgain { task: number, after }),
        }
    }

    fn request(
        &mut self,
        now: Duration,
        number: u32,
        task: &Task,
        resources: &ResourceSet,
        costs: &mut Costs,
        orders: &mut Vec<Order>,
    ) {
        let client = ClientKey(u64::from(task.home));
        if self.clients.insert(task.home) {
            self.decide(now, Event::ClientJoined { client, job: JOB }, costs, orders);
        }
        let request = LeaseRequest {
            request: RequestKey(u64::from(number)),
            resources: resources.clone(),
            env: EnvKey::JOB,
            placing: None,
            task_name: String::new(),
            ahead: false,
        };
        self.decide(now, Event::LeaseRequested { client, request }, costs, orders);
    }

    pub fn answered(
        &mut self,
        now: Duration,
        (number, task): (u32, &Task),
        proposal: Option<Proposal>,
        workload: &Workload,
        costs: &mut Costs,
        orders: &mut Vec<Order>,
    ) {
        let verdict = costs.forwarding.time(|| self.forwarder.answered(now, number, proposal));
        match verdict {
            Verdict::Move { node, expects_room } => {
                self.withdraw(now, number, task.home, costs, orders);
                orders.push(Order::Move {
                    task: number,
                    to: node,
                    expects_room,
                });
            }
            Verdict::Stay => {
                self.forwarder.stays(now, number);
                self.request(now, number, task, &workload.shapes[task.shape], costs, orders);
            }
            Verdict::Fail(why) => {
                self.withdraw(now, number, task.home, costs, orders);
                orders.push(Order::Failed { task: number, why });
            }
            Verdict::Wait | Verdict::WaitTelling(_) => {}
        }
    }

    fn withdraw(&mut self, now: Duration, number: u32, home: u32, costs: &mut Costs, orders: &mut Vec<Order>) {
        let event = Event::LeaseRequestCancelled {
            client: ClientKey(u64::from(home)),
            request: RequestKey(u64::from(number)),
        };
        self.decide(now, event, costs, orders);
    }

    /// The lease's task has ended. False: the lease is not held any more.
    pub fn returned(
        &mut self,
        now: Duration,
        lease: LeaseKey,
        home: u32,
        costs: &mut Costs,
        orders: &mut Vec<Order>,
    ) -> bool {
        if self.leases.remove(&lease).is_none() {
            return false;
        }
        let event = Event::LeaseReturned {
            client: ClientKey(u64::from(home)),
            lease,
            worker_gone: false,
        };
        self.decide(now, event, costs, orders);
        true
    }

    pub fn worker_started(&mut self, now: Duration, costs: &mut Costs, orders: &mut Vec<Order>) {
        self.last_worker += 1;
        let worker = WorkerKey(self.last_worker);
        // Nothing that runs here asks for leases itself.
        let client = ClientKey(u64::MAX - self.last_worker);
        let event = Event::WorkerStarted {
            worker,
            client,
            pool: POOL,
        };
        self.decide(now, event, costs, orders);
    }

    /// The owners on a node are no more: what runs for them here ends. Returns the tasks that were here.
    pub fn client_gone(
        &mut self,
        now: Duration,
        home: u32,
        is_its: impl Fn(u32) -> bool,
        costs: &mut Costs,
        orders: &mut Vec<Order>,
    ) {
        if !self.clients.remove(&home) {
            return;
        }
        let waiting: Vec<u32> = self.forwarder.keys().filter(|task| is_its(*task)).collect();
        for task in waiting {
            self.forwarder.no_longer_waits(task);
        }
        let held: Vec<LeaseKey> = (self.leases.iter())
            .filter(|(_, task)| is_its(**task))
            .map(|(lease, _)| *lease)
            .collect();
        for lease in held {
            self.leases.remove(&lease);
        }
        let client = ClientKey(u64::from(home));
        self.decide(now, Event::ClientGone { client }, costs, orders);
    }

    pub fn decide(&mut self, now: Duration, event: Event, costs: &mut Costs, orders: &mut Vec<Order>) {
        let mut effects = Vec::new();
        costs.local.time(|| self.scheduler.on_event(now, event, &mut effects));
        for effect in effects {
            match effect {
                Effect::GrantLease { request, lease, .. } => {
                    let task = request.0 as u32;
                    self.forwarder.no_longer_waits(task);
                    self.leases.insert(lease, task);
                    orders.push(Order::Granted { task, lease });
                }
                Effect::StartWorker { .. } => orders.push(Order::StartWorker),
                Effect::StopWorker { worker, reason } => {
                    debug_assert_ne!(reason, StopReason::JobEnded, "the job goes on");
                    orders.push(Order::WorkerEnds(worker));
                }
                Effect::BundlesPrepared {
                    group,
                    attempt,
                    has_room,
                } => orders.push(Order::BundlesPrepared {
                    group,
                    attempt,
                    has_room,
                }),
                // Each task has its own lease, which comes back as soon as it can.
                Effect::RevokeLease { .. } | Effect::PoolEmptied { .. } | Effect::Notice { .. } => {}
                Effect::RejectLease { .. }
                | Effect::PlaceActor { .. }
                | Effect::RejectActor { .. }
                | Effect::AskAboutGroup { .. } => unreachable!("nothing here brings that about"),
            }
        }
    }

    /// What to ask the global scheduler after something has happened.
    pub fn look_round(&mut self, now: Duration, costs: &mut Costs, orders: &mut Vec<Order>) {
        if self.forwarder.is_empty() {
            return;
        }
        // What has all it asked for, and waits for a worker, is served.
        for (_, request) in self.scheduler.await_workers() {
            self.forwarder.no_longer_waits(request.0 as u32);
        }
        if self.forwarder.next_deadline().is_none_or(|due| due > now) {
            return;
        }
        let mut asks = Vec::new();
        let load = load(&self.scheduler, now);
        costs.forwarding.time(|| self.forwarder.asks(now, &load, &mut asks));
        orders.extend(asks.into_iter().map(Order::Ask));
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        let (one, other) = (self.scheduler.next_deadline(), self.forwarder.next_deadline());
        one.into_iter().chain(other).min()
    }

    /// Whether the next heartbeat would say something.
    pub fn has_news(&self) -> bool {
        self.report.available != *self.scheduler.available() || self.report.backlog != *self.forwarder.backlog()
    }

    /// To each replica, by its number, what it has not heard yet.
    pub fn beats(&mut self, now: Duration) -> Vec<Heartbeat> {
        self.report.available.clone_from(self.scheduler.available());
        self.report.backlog.clone_from(self.forwarder.backlog());
        self.report.hold = self.scheduler.holds().reported(now);
        self.encoders
            .iter_mut()
            .map(|encoder| encoder.next(&self.report))
            .collect()
    }

    pub fn start_over(&mut self, replica: usize) -> Heartbeat {
        self.encoders[replica].start_over();
        self.encoders[replica].next(&self.report)
    }

    pub fn check_invariants(&self) {
        self.scheduler.check_invariants();
        self.forwarder.check_invariants();
    }
}

fn load(scheduler: &Scheduler, now: Duration) -> Load<'_> {
    Load {
        total: scheduler.total(),
        available: scheduler.available(),
        hold: scheduler.holds().average(now),
    }
}
