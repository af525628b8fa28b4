//! The scheduler against a small world that obeys its orders.

mod admission;
mod groups;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ray_rs_types::{ActorId, JobId, PlacementGroupId, ResourceSet};

use crate::*;

const MS: Duration = Duration::from_millis(1);

/// Obeys every effect at once, except that revoked leases stay until `return_revoked`.
struct World {
    scheduler: Scheduler,
    now: Duration,
    next_worker: u64,
    next_request: u64,
    /// Worker starts ordered and not yet carried out.
    starts: Vec<PoolKey>,
    auto_start: bool,
    granted: BTreeMap<LeaseKey, (ClientKey, RequestKey, WorkerKey, Vec<u32>)>,
    revoked: BTreeSet<LeaseKey>,
    actors: BTreeMap<ActorId, WorkerKey>,
    rejected: Vec<RequestKey>,
    refusals: Vec<Refusal>,
    asked_about: Vec<PlacementGroupId>,
    /// The latest answer to `BundlesWanted`.
    has_room: Option<bool>,
    stopped: Vec<(WorkerKey, StopReason)>,
    notices: Vec<String>,
    emptied: Vec<PoolKey>,
    live: BTreeSet<WorkerKey>,
    /// Those that own something.
    owners: BTreeSet<WorkerKey>,
}

fn job(number: u32) -> JobKey {
    JobKey(number)
}

/// What a worker is when it asks for leases.
fn own_client(worker: WorkerKey) -> ClientKey {
    ClientKey(1000 + worker.0)
}

fn cpus(amount: f64) -> ResourceSet {
    ResourceSet::new().with("CPU", amount)
}

fn actor_id(number: u8) -> ActorId {
    ActorId::new([number; 12], JobId::from_int(1))
}

impl World {
    /// A node whose job has all its workers.
    fn new(total: ResourceSet) -> Self {
        let mut world = Self::just_begun(total);
        world.advance(Options::default().spares_after);
        world
    }

    fn just_begun(total: ResourceSet) -> Self {
        let mut world = Self {
            scheduler: Scheduler::new(total, Options::default()),
            now: Duration::ZERO,
            next_worker: 0,
            next_request: 0,
            starts: Vec::new(),
            auto_start: true,
            granted: BTreeMap::new(),
            revoked: BTreeSet::new(),
            actors: BTreeMap::new(),
            rejected: Vec::new(),
            refusals: Vec::new(),
            asked_about: Vec::new(),
            has_room: None,
            stopped: Vec::new(),
            notices: Vec::new(),
            emptied: Vec::new(),
            live: BTreeSet::new(),
            owners: BTreeSet::new(),
        };
        world.on(Event::JobStarted { job: job(1) });
        for client in 0..3 {
            world.on(Event::ClientJoined {
                client: ClientKey(client),
                job: job(1),
            });
        }
        world
    }

    fn on(&mut self, event: Event) {
        let mut pending = vec![event];
        while let Some(event) = pending.pop() {
            let mut effects = Vec::new();
            self.scheduler.on_event(self.now, event, &mut effects);
            self.scheduler.check_invariants();
            for effect in effects {
                match effect {
                    Effect::GrantLease {
                        client,
                        request,
                        lease,
                        worker,
                        gpus,
                    } => {
                        assert!(self.live.contains(&worker), "granted a dead worker");
                        assert!(
                            self.granted.values().all(|(_, _, used, _)| *used != worker),
                            "SCH-2: one worker, one lease"
                        );
                        self.granted.insert(lease, (client, request, worker, gpus));
                    }
                    Effect::RejectLease { request, refusal, .. } => {
                        self.rejected.push(request);
                        self.refusals.push(refusal);
                    }
                    Effect::BundlesPrepared { has_room, .. } => self.has_room = Some(has_room),
                    Effect::AskAboutGroup { group } => self.asked_about.push(group),
                    Effect::RevokeLease { lease, .. } => {
                        assert!(self.revoked.insert(lease), "asked back once only");
                    }
                    Effect::StartWorker { pool } => self.starts.push(pool),
                    Effect::StopWorker { worker, reason }
                        if reason == StopReason::Surplus && self.owners.contains(&worker) =>
                    {
                        pending.push(Event::WorkerStays { worker });
                    }
                    Effect::StopWorker { worker, reason } => {
                        self.stopped.push((worker, reason));
                        self.live.remove(&worker);
                        self.granted.retain(|_, (_, _, used, _)| *used != worker);
                        pending.push(Event::WorkerDied { worker });
                    }
                    Effect::PlaceActor { actor, worker, .. } => {
                        self.actors.insert(actor, worker);
                    }
                    Effect::RejectActor { .. } => {}
                    Effect::PoolEmptied { pool } => self.emptied.push(pool),
                    Effect::Notice { text, .. } => self.notices.push(text),
                }
            }
            if self.auto_start && pending.is_empty() && !self.starts.is_empty() {
                pending.push(self.start_one());
            }
        }
    }

    fn start_one(&mut self) -> Event {
        let pool = self.starts.remove(0);
        self.next_worker += 1;
        let worker = WorkerKey(self.next_worker);
        self.live.insert(worker);
        let client = own_client(worker);
        let job = pool.job;
        self.scheduler
            .on_event(self.now, Event::ClientJoined { client, job }, &mut Vec::new());
        Event::WorkerStarted { worker, client, pool }
    }

    fn request(&mut self, client: u64, resources: ResourceSet) -> RequestKey {
        self.request_in(EnvKey::JOB, client, resources)
    }

    fn request_in(&mut self, env: EnvKey, client: u64, resources: ResourceSet) -> RequestKey {
        self.request_as(env, client, resources, false)
    }

    /// A lease for a task that may come.
    fn request_ahead(&mut self, client: u64, resources: ResourceSet) -> RequestKey {
        self.request_as(EnvKey::JOB, client, resources, true)
    }

    fn request_as(&mut self, env: EnvKey, client: u64, resources: ResourceSet, ahead: bool) -> RequestKey {
        self.next_request += 1;
        let request = RequestKey(self.next_request);
        let request_of = LeaseRequest {
            request,
            resources,
            env,
            placing: None,
            task_name: "f".to_owned(),
            ahead,
        };
        self.on(Event::LeaseRequested {
            client: ClientKey(client),
            request: request_of,
        });
        request
    }

    fn lease(&self, request: RequestKey) -> Option<LeaseKey> {
        self.granted
            .iter()
            .find(|(_, held)| held.1 == request)
            .map(|(lease, _)| *lease)
    }

    fn give_back(&mut self, lease: LeaseKey) {
        let (client, ..) = self.granted.remove(&lease).expect("it was granted");
        self.revoked.remove(&lease);
        self.on(Event::LeaseReturned {
            client,
            lease,
            worker_gone: false,
        });
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some(deadline) = self.scheduler.next_deadline().filter(|deadline| *deadline <= until) {
            self.now = deadline.max(self.now);
            self.on(Event::Tick);
            assert!(
                self.scheduler.next_deadline().is_none_or(|next| next > self.now),
                "a tick does what is due"
            );
        }
        self.now = until;
    }

    fn kill(&mut self, worker: WorkerKey) {
        self.live.remove(&worker);
        self.granted.retain(|_, (_, _, used, _)| *used != worker);
        self.on(Event::WorkerDied { worker });
    }
}

#[test]
fn a_job_starts_with_a_worker_for_each_cpu_and_then_nothing_happens() {
    let mut world = World::new(cpus(2.0));
    assert_eq!(world.live.len(), 2);
    assert_eq!(world.scheduler.next_deadline(), None, "an idle node has no timer");
    world.advance(Duration::from_secs(100));
    assert_eq!((world.live.len(), world.stopped.len()), (2, 0));
}

#[test]
fn a_job_begins_with_one_worker_and_more_come_when_asked_for_or_a_little_later() {
    let later = Options::default().spares_after;
    let mut world = World::just_begun(cpus(2.0));
    assert_eq!(world.live.len(), 1);
    let first = world.request(0, cpus(1.0));
    assert!(world.lease(first).is_some());
    assert_eq!(world.live.len(), 1, "its first task has the processors to itself");
    world.advance(later - Duration::from_millis(1));
    assert_eq!(world.live.len(), 1);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.live.len(), 2);

    let mut world = World::just_begun(cpus(2.0));
    let requests = [world.request(0, cpus(1.0)), world.request(0, cpus(1.0))];
    assert!(requests.iter().all(|request| world.lease(*request).is_some()));
    assert_eq!(world.now, Duration::ZERO, "who asks waits for nothing");
    assert_eq!(world.live.len(), 2);
}

#[test]
fn a_lease_granted_ahead_costs_nobody_anything_before_it_is_begun() {
    let mut world = World::just_begun(cpus(2.0));
    let request = world.request_ahead(0, cpus(1.0));
    let lease = world.lease(request).expect("granted");
    assert_eq!(world.scheduler.available(), &cpus(2.0));
    assert_eq!(world.scheduler.running().count(), 0);
    world.on(Event::LeaseBegun {
        client: ClientKey(1),
        lease,
    });
    assert_eq!(world.scheduler.available(), &cpus(2.0), "only its own client begins it");
    let begun = Event::LeaseBegun {
        client: ClientKey(0),
        lease,
    };
    world.on(begun.clone());
    assert_eq!(world.scheduler.available(), &cpus(1.0));
    world.on(begun);
    assert_eq!(world.scheduler.available(), &cpus(1.0));
    assert_eq!(world.scheduler.running().count(), 1);
    world.give_back(lease);
    assert_eq!(world.scheduler.available(), &cpus(2.0));

    // What its task says may come before what its client says.
    let request = world.request_ahead(0, cpus(1.0));
    let lease = world.lease(request).expect("granted");
    let (.., worker, _) = world.granted[&lease].clone();
    world.on(Event::WorkerBlocked { worker });
    world.on(Event::LeaseBegun {
        client: ClientKey(0),
        lease,
    });
    assert_eq!(world.scheduler.available(), &cpus(2.0), "its task sleeps");
    world.on(Event::WorkerUnblocked { worker });
    assert_eq!(world.scheduler.available(), &cpus(1.0));
}

#[test]
fn an_unused_lease_is_asked_back_when_anybody_wants_something_else() {
    let mut world = World::just_begun(cpus(1.0));
    let request = world.request_ahead(0, cpus(1.0));
    let lease = world.lease(request).expect("granted");
    let more = world.request(0, cpus(1.0));
    assert!(world.revoked.is_empty(), "for more of the same it is kept");
    let more = world.lease(more).expect("with a worker of its own");
    world.give_back(more);
    let other = world.request(1, cpus(0.5));
    assert!(world.revoked.contains(&lease));
    assert!(world.lease(other).is_some(), "there is another worker");
    world.give_back(lease);

    let mut world = World::just_begun(cpus(1.0));
    let request = world.request_ahead(0, cpus(1.0));
    let lease = world.lease(request).expect("granted");
    world.auto_start = false;
    world.on(Event::ActorRequested(ActorDemand {
        actor: actor_id(1),
        job: job(1),
        env: EnvKey::JOB,
        placement: cpus(1.0),
        running: cpus(1.0),
        class_name: "A".to_owned(),
    }));
    assert!(world.revoked.contains(&lease) && world.actors.is_empty());
    world.give_back(lease);
    assert!(world.actors.contains_key(&actor_id(1)), "it has the worker");
    assert_eq!(world.scheduler.available(), &cpus(0.0));
}

#[test]
fn grants_while_there_is_room_then_in_order() {
    let mut world = World::new(cpus(2.0));
    let requests: Vec<_> = (0..4).map(|_| world.request(0, cpus(1.0))).collect();
    let first = world.lease(requests[0]).expect("granted");
    assert!(world.lease(requests[1]).is_some() && world.lease(requests[2]).is_none());
    world.give_back(first);
    assert!(world.lease(requests[2]).is_some() && world.lease(requests[3]).is_none());
    world.on(Event::LeaseRequestCancelled {
        client: ClientKey(0),
        request: requests[3],
    });
    assert_eq!(world.scheduler.available(), &ResourceSet::new());
}

#[test]
fn a_worker_that_owns_something_stays_and_is_asked_again_when_it_does_not() {
    let mut world = World::new(cpus(2.0));
    let requests: Vec<_> = (0..2).map(|_| world.request(0, cpus(1.0))).collect();
    world.owners = world.live.clone();
    for request in requests {
        let lease = world.lease(request).expect("granted");
        world.give_back(lease);
    }
    world.advance(Duration::from_secs(100));
    assert_eq!(world.live.len(), 3, "all of them own something");
    assert_eq!(
        world.scheduler.next_deadline(),
        None,
        "they are not asked again and again"
    );
    let free = *world.owners.iter().next_back().expect("there are three");
    world.owners.remove(&free);
    world.on(Event::WorkerUnneeded { worker: free });
    world.advance(Duration::from_secs(1));
    assert_eq!(world.stopped, [(free, StopReason::Surplus)]);
}

#[test]
fn a_node_that_drains_asks_all_back_keeps_no_spare_and_serves_what_comes_all_the_same() {
    let mut world = World::new(cpus(2.0));
    let request = world.request(0, cpus(1.0));
    let lease = world.lease(request).expect("there is room");
    world.advance(Duration::from_secs(1));
    world.on(Event::NodeDrains);
    assert_eq!(world.revoked, BTreeSet::from([lease]));
    assert_eq!(world.live.len(), 1, "the idle one left at once");
    assert!(!world.scheduler.is_at_rest());
    let other = world.request(1, cpus(1.0));
    let other = world.lease(other).expect("it has no other node");
    assert!(!world.revoked.contains(&other), "short tasks share it");
    world.advance(Duration::from_secs(1));
    assert!(world.revoked.contains(&other), "after the first task");
    world.give_back(lease);
    world.give_back(other);
    assert!(world.scheduler.is_at_rest());
    assert_eq!(world.live.len(), 0);
}

#[test]
fn actors_that_wait_are_told_by_shape() {
    let mut world = World::new(cpus(1.0));
    let demand = |number| ActorDemand {
        actor: actor_id(number),
        job: job(1),
        env: EnvKey::JOB,
        placement: cpus(1.0),
        running: cpus(1.0),
        class_name: "A".to_owned(),
    };
    for number in 1..4 {
        world.on(Event::ActorRequested(demand(number)));
    }
    assert_eq!(world.scheduler.actors_waiting(), BTreeMap::from([(cpus(1.0), 2)]));
    assert!(!world.scheduler.is_queued(actor_id(1)) && world.scheduler.is_queued(actor_id(2)));
    world.on(Event::ActorCancelled { actor: actor_id(2) });
    assert_eq!(world.scheduler.actors_waiting(), BTreeMap::from([(cpus(1.0), 1)]));
    assert!(!world.scheduler.is_queued(actor_id(2)));
}

#[test]
fn a_worker_never_leases_itself() {
    let mut world = World::new(cpus(1.0));
    world.auto_start = false;
    let only = *world.live.iter().next().expect("one for the CPU");
    let request = world.request(own_client(only).0, cpus(1.0));
    assert_eq!(world.lease(request), None);
    assert_eq!(world.starts.len(), 1, "it gets another");
    // Somebody else may have the one that waits.
    world.auto_start = true;
    let event = world.start_one();
    world.on(event);
    let lease = world.lease(request).expect("granted");
    assert_ne!(world.granted[&lease].2, only);
}

#[test]
fn a_worker_that_could_not_be_reached_is_ended() {
    let mut world = World::new(cpus(1.0));
    let request = world.request(0, cpus(1.0));
    let lease = world.lease(request).expect("granted");
    let (client, _, worker, _) = world.granted.remove(&lease).expect("granted");
    world.on(Event::LeaseReturned {
        client,
        lease,
        worker_gone: true,
    });
    assert_eq!(world.stopped, [(worker, StopReason::Unusable)]);
}

#[test]
fn a_worker_is_kept_spare_and_surplus_ends_after_the_grace() {
    let mut world = World::new(cpus(2.0));
    let leases: Vec<_> = (0..2).map(|_| world.request(0, cpus(1.0))).collect();
    assert_eq!(world.live.len(), 3, "one more than is in use");
    for request in leases {
        let lease = world.lease(request).expect("granted");
        world.give_back(lease);
    }
    world.advance(999 * MS);
    assert_eq!(world.live.len(), 3);
    world.advance(MS);
    assert_eq!(world.live.len(), 2);
    assert!(world.stopped.iter().all(|(_, reason)| *reason == StopReason::Surplus));
    assert_eq!(world.scheduler.next_deadline(), None);
}

#[test]
fn the_worker_used_before_is_used_again() {
    let mut world = World::new(cpus(2.0));
    let mine = world.request(0, cpus(1.0));
    let lease = world.lease(mine).expect("granted");
    let worker = world.granted[&lease].2;
    let others = world.request(1, cpus(1.0));
    world.give_back(lease);
    let lease = world.lease(others).expect("granted");
    world.give_back(lease);
    let again = world.request(0, cpus(1.0));
    let lease = world.lease(again).expect("granted");
    assert_eq!(world.granted[&lease].2, worker);
}

#[test]
fn nested_tasks_run_to_any_depth_and_wakers_over_subscribe() {
    let mut world = World::new(cpus(2.0));
    let mut chain = Vec::new();
    for _ in 0..200 {
        let request = world.request(0, cpus(1.0));
        let lease = world.lease(request).expect("a blocked parent's CPU is free");
        let worker = world.granted[&lease].2;
        world.on(Event::WorkerBlocked { worker });
        chain.push((lease, worker));
    }
    for (_, worker) in &chain {
        world.on(Event::WorkerUnblocked { worker: *worker });
    }
    assert_eq!(world.scheduler.available().get("CPU").to_f64(), -198.0);
    let waiting = world.request(1, cpus(1.0));
    for (index, (lease, _)) in chain.into_iter().enumerate() {
        assert_eq!(
            world.lease(waiting).is_some(),
            index >= 199,
            "nothing is granted before the sum fits"
        );
        world.give_back(lease);
    }
    let lease = world.lease(waiting).expect("it fits now");
    world.give_back(lease);
    assert_eq!(world.scheduler.available(), world.scheduler.total());
}

#[test]
fn blocking_twice_or_without_a_lease_changes_nothing_more() {
    let mut world = World::new(cpus(1.0));
    let request = world.request(0, cpus(1.0));
    let lease = world.lease(request).expect("granted");
    let worker = world.granted[&lease].2;
    world.on(Event::WorkerUnblocked { worker });
    world.on(Event::WorkerBlocked { worker });
    world.on(Event::WorkerBlocked { worker });
    assert_eq!(world.scheduler.available(), &cpus(1.0));
    world.give_back(lease);
    world.on(Event::WorkerBlocked { worker });
    assert_eq!(world.scheduler.available(), &cpus(1.0));
}

#[test]
fn a_blocked_task_keeps_what_is_not_a_cpu() {
    let mut world = World::new(cpus(1.0).with("GPU", 1.0).with("special", 1.0));
    let request = world.request(0, cpus(1.0).with("GPU", 1.0).with("special", 1.0));
    let lease = world.lease(request).expect("granted");
    world.on(Event::WorkerBlocked {
        worker: world.granted[&lease].2,
    });
    assert_eq!(world.scheduler.available(), &cpus(1.0));
    world.give_back(lease);
    assert_eq!(world.scheduler.available(), world.scheduler.total());
}

#[test]
fn a_waiting_client_gets_a_share_after_five_milliseconds() {
    let mut world = World::new(cpus(2.0));
    let first = world.request(0, cpus(1.0));
    let second = world.request(0, cpus(1.0));
    let waiting = world.request(1, cpus(1.0));
    assert!(world.revoked.is_empty());
    world.advance(5 * MS);
    assert_eq!(
        world.revoked,
        BTreeSet::from([world.lease(first).expect("granted")]),
        "the longest held one, once"
    );
    world.advance(100 * MS);
    assert_eq!(world.revoked.len(), 1);
    let lease = *world.revoked.first().expect("one");
    world.give_back(lease);
    assert!(world.lease(waiting).is_some());
    // Now each has one: equal shares are left alone, however many wait.
    world.request(0, cpus(1.0));
    world.request(1, cpus(1.0));
    world.advance(1000 * MS);
    assert!(world.revoked.is_empty());
    assert!(world.lease(second).is_some());
}

#[test]
fn a_big_request_is_not_starved_by_small_ones() {
    let mut world = World::new(cpus(2.0));
    for _ in 0..4 {
        world.request(0, cpus(1.0));
    }
    let big = world.request(1, cpus(2.0));
    let mut steps = 0;
    while world.lease(big).is_none() {
        steps += 1;
        assert!(steps < 200, "SCH-3: the big request starves");
        world.advance(MS);
        let oldest = *world.granted.first_key_value().expect("something runs").0;
        world.give_back(oldest);
        world.request(0, cpus(1.0));
        world.request(0, cpus(1.0));
    }
}

#[test]
fn nobody_waits_for_what_actors_hold_for_ever() {
    let mut world = World::new(cpus(2.0));
    let demand = ActorDemand {
        actor: actor_id(1),
        job: job(1),
        env: EnvKey::JOB,
        placement: cpus(1.0),
        running: cpus(1.0),
        class_name: "Keeper".to_owned(),
    };
    world.on(Event::ActorRequested(demand));
    world.request(1, cpus(2.0));
    for _ in 0..100 {
        let small = world.request(0, cpus(1.0));
        let lease = world.lease(small).expect("the free CPU is used");
        world.give_back(lease);
    }
    world.advance(Duration::from_secs(10));
    assert_eq!(world.notices.len(), 1);
    assert!(
        world.notices[0].contains("actors hold what it asks for"),
        "{}",
        world.notices[0]
    );
}

#[test]
fn an_actor_is_placed_with_one_cpu_and_runs_with_none() {
    let mut world = World::new(cpus(1.0));
    for number in 1..=20 {
        let demand = ActorDemand {
            actor: actor_id(number),
            job: job(1),
            env: EnvKey::JOB,
            placement: cpus(1.0),
            running: ResourceSet::new(),
            class_name: "A".to_owned(),
        };
        world.on(Event::ActorRequested(demand));
    }
    assert_eq!(world.actors.len(), 20);
    assert_eq!(world.scheduler.available(), &cpus(1.0));
    assert_eq!(world.live.len(), 21, "twenty actors and the idle worker");
    let worker = world.actors[&actor_id(3)];
    world.kill(worker);
    assert_eq!(world.scheduler.available(), &cpus(1.0));
}

#[test]
fn infeasible_requests_say_once_what_is_missing_and_wait() {
    let mut world = World::new(cpus(2.0));
    let request = world.request(0, cpus(1.0).with("GPU", 1.0));
    world.request(0, cpus(1.0).with("GPU", 1.0));
    assert_eq!(world.notices.len(), 1);
    assert!(world.notices[0].contains("{GPU: 1} is missing"), "{}", world.notices[0]);
    assert!(world.scheduler.explain(ClientKey(0), request).contains("is missing"));
    world.advance(Duration::from_secs(60));
    assert_eq!(world.notices.len(), 1);
    assert!(world.lease(request).is_none() && world.rejected.is_empty());
}

#[test]
fn gpus_are_distinct() {
    let mut world = World::new(cpus(4.0).with("GPU", 2.0));
    let shape = || cpus(1.0).with("GPU", 1.0);
    let requests = [
        world.request(0, shape()),
        world.request(1, shape()),
        world.request(2, shape()),
    ];
    let gpus = |world: &World, request| world.lease(request).map(|lease| world.granted[&lease].3.clone());
    assert_eq!(gpus(&world, requests[0]), Some(vec![0]));
    assert_eq!(gpus(&world, requests[1]), Some(vec![1]));
    assert_eq!(gpus(&world, requests[2]), None);
}

#[test]
fn when_a_client_dies_its_leased_workers_end_and_its_requests_go() {
    let mut world = World::new(cpus(2.0));
    let requests: Vec<_> = (0..3).map(|_| world.request(0, cpus(1.0))).collect();
    let lease = world.lease(requests[0]).expect("granted");
    let worker = world.granted[&lease].2;
    world.on(Event::ClientGone { client: ClientKey(0) });
    assert!(world.stopped.contains(&(worker, StopReason::OwnerGone)));
    assert_eq!(world.scheduler.available(), world.scheduler.total());
    assert_eq!(world.live.len(), 2, "the pool is filled up again");
}

#[test]
fn a_worker_that_leaves_by_itself_is_not_used_again() {
    let mut world = World::new(cpus(1.0));
    let request = world.request(0, cpus(1.0));
    let lease = world.lease(request).expect("granted");
    let (client, _, worker, _) = world.granted.remove(&lease).expect("granted");
    world.on(Event::LeaseReturned {
        client,
        lease,
        worker_gone: true,
    });
    let next = world.request(0, cpus(1.0));
    let lease = world.lease(next).expect("granted");
    assert_ne!(world.granted[&lease].2, worker);
}

#[test]
fn workers_that_do_not_start_reject_requests_with_the_reason() {
    let mut world = World::new(cpus(1.0));
    world.auto_start = false;
    let running = world.request(0, cpus(0.5));
    assert!(world.lease(running).is_some());
    let waiting = world.request(0, cpus(0.5));
    let mut failures = 0;
    while !world.starts.is_empty() {
        assert_eq!(world.rejected.is_empty(), failures < 3);
        failures += 1;
        assert!(failures < 10, "it does not try for ever");
        let pool = world.starts.remove(0);
        world.on(Event::WorkerStartFailed {
            pool,
            reason: "no python".to_owned(),
            how: StartFailure::Failed,
        });
        world.advance(MS * 50);
    }
    assert_eq!(world.rejected, [waiting]);
    assert_eq!(failures, 3);
    let retried = world.request(0, cpus(0.5));
    world.advance(MS * 500);
    assert_eq!(world.starts.len(), 1, "real need tries again, once");
    let event = world.start_one();
    world.on(event);
    assert!(world.lease(retried).is_some());
}

#[test]
fn workers_that_die_unused_are_replaced_more_and_more_slowly() {
    let mut world = World::new(cpus(2.0));
    let mut forks = 0;
    while world.now < Duration::from_secs(60) {
        for worker in world.live.clone() {
            forks += 1;
            world.kill(worker);
        }
        world.advance(MS * 5);
    }
    assert!(forks <= 5, "{forks} forks that nobody asked for");
    let wanted = world.request(0, cpus(1.0));
    assert!(world.lease(wanted).is_some(), "real need tries again");
}

#[test]
fn environments_share_no_worker_and_keep_none_for_long() {
    let mut world = World::new(cpus(4.0));
    let before = world.live.clone();
    let first = world.request_in(EnvKey(1), 0, cpus(1.0));
    let second = world.request_in(EnvKey(2), 0, cpus(1.0));
    let own = world.request(0, cpus(1.0));
    let worker = |world: &World, request| world.granted[&world.lease(request).expect("granted")].2;
    let (in_first, in_second) = (worker(&world, first), worker(&world, second));
    assert!(!before.contains(&in_first) && !before.contains(&in_second) && in_first != in_second);
    assert!(before.contains(&worker(&world, own)));
    let lease = world.lease(first).expect("granted");
    world.give_back(lease);
    let again = world.request_in(EnvKey(1), 1, cpus(1.0));
    assert_eq!(worker(&world, again), in_first, "of the same environment");
    let lease = world.lease(again).expect("granted");
    world.give_back(lease);
    world.advance(Duration::from_secs(5));
    assert!(!world.live.contains(&in_first));
    let emptied = PoolKey {
        job: job(1),
        env: EnvKey(1),
    };
    assert_eq!(world.emptied, [emptied]);
    assert!(world.live.contains(&in_second));
}

#[test]
fn an_environment_that_cannot_be_made_fails_those_who_ask_for_it_and_no_others() {
    let mut world = World::new(cpus(4.0));
    world.auto_start = false;
    let broken = world.request_in(EnvKey(1), 0, cpus(1.0));
    let fine = world.request_in(EnvKey(2), 0, cpus(1.0));
    let pool = PoolKey {
        job: job(1),
        env: EnvKey(1),
    };
    assert!(world.starts.contains(&pool));
    world.starts.retain(|start| *start != pool);
    world.on(Event::WorkerStartFailed {
        pool,
        reason: "no such package".to_owned(),
        how: StartFailure::Final,
    });
    assert_eq!(world.rejected, [broken]);
    while world.lease(fine).is_none() {
        let event = world.start_one();
        world.on(event);
    }
    assert_eq!(world.scheduler.available(), &cpus(3.0));
}

#[test]
fn an_ended_job_keeps_no_workers_but_serves_its_detached_actors() {
    let mut world = World::new(cpus(2.0));
    world.on(Event::JobEnded { job: job(1) });
    for client in 0..3 {
        world.on(Event::ClientGone {
            client: ClientKey(client),
        });
    }
    assert!(world.live.is_empty());
    let demand = ActorDemand {
        actor: actor_id(1),
        job: job(1),
        env: EnvKey::JOB,
        placement: cpus(1.0),
        running: cpus(1.0),
        class_name: "Detached".to_owned(),
    };
    world.on(Event::ActorRequested(demand));
    assert_eq!((world.live.len(), world.actors.len()), (1, 1));
    assert_eq!(world.scheduler.next_deadline(), None);
}

#[test]
fn a_worker_that_retires_gets_nothing_any_more_and_ends_with_its_job_at_the_latest() {
    for told_first in [false, true] {
        let mut world = World::new(cpus(1.0));
        let request = world.request(0, cpus(1.0));
        let lease = world.lease(request).expect("granted");
        let (client, _, worker, _) = world.granted.remove(&lease).expect("granted");
        let retires = Event::WorkerRetires { worker };
        let returned = Event::LeaseReturned {
            client,
            lease,
            worker_gone: false,
        };
        let mut words = [returned, retires];
        if told_first {
            words.reverse();
        }
        words.into_iter().for_each(|word| world.on(word));
        assert!(world.scheduler.has_needed_workers(), "the node does not leave under it");
        let next = world.request(0, cpus(1.0));
        let lease = world.lease(next).expect("its resources are free");
        assert_ne!(world.granted[&lease].2, worker);
        assert!(!world.stopped.iter().any(|(stopped, _)| *stopped == worker));
        world.on(Event::JobEnded { job: job(1) });
        assert!(world.stopped.contains(&(worker, StopReason::JobEnded)));
    }
}
