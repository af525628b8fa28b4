//! Bundles of placement groups on one node.

use ray_rs_types::bundles::{BUNDLE, BundleDemand};
use ray_rs_types::placing::{LabelRule, Placing, Strategy};
use ray_rs_types::{NodeId, PlacementGroupId, Quantity, ResourceSet};

use super::{World, actor_id, cpus, job};
use crate::*;

pub(super) fn group(number: u8) -> PlacementGroupId {
    PlacementGroupId([number; 18])
}

/// What asks for `resources` in a group (or in one of its bundles).
pub(super) fn inside(number: u8, index: Option<u32>, resources: ResourceSet) -> ResourceSet {
    BundleDemand {
        group: group(number),
        index,
        resources: resources.with(BUNDLE, 0.001),
    }
    .by_name()
}

impl World {
    /// Whether there was room.
    pub(super) fn reserve(&mut self, group: PlacementGroupId, bundles: &[(u32, ResourceSet)], commit: bool) -> bool {
        self.has_room = None;
        self.on(Event::BundlesWanted {
            group,
            attempt: 1,
            bundles: bundles.to_vec(),
            commit,
        });
        self.has_room.expect("it is answered at once")
    }

    fn refused(&self) -> Option<Refusal> {
        self.refusals.last().copied()
    }

    fn is_whole(&self) -> bool {
        self.scheduler.available() == self.scheduler.total()
    }
}

#[test]
fn all_bundles_or_none() {
    let mut world = World::new(cpus(4.0));
    assert!(!world.reserve(group(1), &[(0, cpus(3.0)), (1, cpus(2.0))], true));
    assert!(world.is_whole(), "what was prepared is given back");
    assert!(world.reserve(group(1), &[(0, cpus(3.0)), (1, cpus(1.0))], true));
    assert_eq!(world.scheduler.available(), &ResourceSet::new());
    assert!(world.request(0, cpus(1.0)) == RequestKey(1) && world.granted.is_empty());
    assert_eq!(world.scheduler.used_outside_bundles(), ResourceSet::new());
    world.on(Event::GroupRemoved { group: group(1) });
    assert_eq!(world.granted.len(), 1, "what came free goes to whoever waits");
}

#[test]
fn only_committed_bundles_are_used() {
    let mut world = World::new(cpus(4.0));
    assert!(world.reserve(group(1), &[(0, cpus(2.0))], false));
    let early = world.request(0, inside(1, Some(0), cpus(1.0)));
    assert!(world.lease(early).is_none());
    // The control store may have to take it back.
    assert_eq!(world.scheduler.bundles_held(), [(group(1), vec![0])]);
    world.on(Event::BundlesCommitted { group: group(1) });
    assert!(world.lease(early).is_some());
}

#[test]
fn requests_use_their_bundle_or_any_and_nothing_else() {
    let mut world = World::new(cpus(4.0));
    world.reserve(group(1), &[(0, cpus(1.0)), (1, cpus(2.0))], true);
    let first = world.request(0, inside(1, Some(1), cpus(2.0)));
    let any = world.request(0, inside(1, None, cpus(1.0)));
    let none_left = world.request(0, inside(1, None, cpus(1.0)));
    let outside = world.request(0, cpus(1.0));
    assert!(
        [first, any, outside]
            .iter()
            .all(|request| world.lease(*request).is_some())
    );
    assert!(world.lease(none_left).is_none());
    let hex = group(1).hex();
    let free = world.scheduler.available_with_groups();
    assert_eq!(free.get(&format!("CPU_group_{hex}")), Quantity::ZERO);
    assert_eq!(free.get(&format!("bundle_group_0_{hex}")), Quantity::from_f64(999.999));
    assert_eq!(
        world.scheduler.total_with_groups().get(&format!("CPU_group_1_{hex}")),
        Quantity::from_f64(2.0)
    );
    let lease = world.lease(first).expect("granted");
    world.give_back(lease);
    assert!(world.lease(none_left).is_some());
}

#[test]
fn no_bundle_serves_more_than_it_has_though_the_group_has_enough() {
    let mut world = World::new(cpus(4.0));
    world.reserve(group(1), &[(0, cpus(1.0)), (1, cpus(1.0))], true);
    let request = world.request(0, inside(1, None, cpus(2.0)));
    assert!(world.lease(request).is_none());
    assert!(world.notices[0].contains("none has as much"), "{:?}", world.notices);
}

#[test]
fn sleepers_in_a_bundle_lend_its_cpus_to_their_children() {
    let mut world = World::new(cpus(4.0));
    world.reserve(group(1), &[(0, cpus(1.0))], true);
    let mut workers = Vec::new();
    for _ in 0..3 {
        let request = world.request(0, inside(1, None, cpus(1.0)));
        let lease = world.lease(request).expect("the parent sleeps");
        let worker = world.granted[&lease].2;
        world.on(Event::WorkerBlocked { worker });
        workers.push(worker);
    }
    for worker in workers {
        world.on(Event::WorkerUnblocked { worker });
    }
    let request = world.request(0, inside(1, None, cpus(1.0)));
    assert!(world.lease(request).is_none());
    assert_eq!(world.scheduler.available(), &cpus(3.0), "the node's own are left alone");
}

#[test]
fn gpus_of_a_bundle_are_its_own() {
    let mut world = World::new(cpus(8.0).with("GPU", 3.0));
    let gpu = |amount: f64| cpus(1.0).with("GPU", amount);
    world.reserve(group(1), &[(0, gpu(1.0)), (1, gpu(1.0))], true);
    let of = |world: &World, request| world.granted[&world.lease(request).expect("granted")].3.clone();
    let second = world.request(0, inside(1, Some(1), gpu(1.0)));
    let outside = world.request(0, gpu(1.0));
    let any = world.request(0, inside(1, None, gpu(1.0)));
    assert_eq!(
        (of(&world, second), of(&world, outside), of(&world, any)),
        (vec![1], vec![2], vec![0])
    );
    world.on(Event::GroupRemoved { group: group(1) });
    assert_eq!(world.scheduler.available().get("GPU"), Quantity::from_f64(2.0));
}

#[test]
fn a_removed_group_ends_what_runs_in_it_and_refuses_what_waits() {
    let mut world = World::new(cpus(4.0));
    world.reserve(group(1), &[(0, cpus(2.0))], true);
    let runs = world.request(0, inside(1, None, cpus(1.0)));
    world.on(Event::ActorRequested(ActorDemand {
        actor: actor_id(1),
        job: job(1),
        env: EnvKey::JOB,
        placement: inside(1, Some(0), cpus(1.0)),
        running: inside(1, Some(0), ResourceSet::new()),
        class_name: "A".to_owned(),
    }));
    assert!(world.lease(runs).is_some() && world.actors.len() == 1);
    let next = world.request(1, inside(1, None, cpus(1.0)));
    let waits = world.request(0, inside(1, None, cpus(1.0)));
    assert!(
        world.lease(next).is_some(),
        "an actor that needs no CPU leaves its CPU to others"
    );
    let outside = world.request(1, cpus(1.0));
    world.on(Event::GroupRemoved { group: group(1) });
    let reasons: Vec<StopReason> = world.stopped.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, [StopReason::GroupRemoved; 3]);
    assert_eq!(world.rejected, [waits]);
    assert_eq!(world.refused(), Some(Refusal::GroupRemoved));
    assert!(world.lease(outside).is_some());
    assert_eq!(world.scheduler.available(), &cpus(3.0));
    let late = world.request(0, inside(1, None, cpus(1.0)));
    assert_eq!(world.rejected, [waits, late]);
}

#[test]
fn a_group_that_is_not_here_is_asked_about_once_and_waited_for() {
    let mut world = World::new(cpus(4.0));
    let requests: Vec<_> = (0..2).map(|_| world.request(0, inside(1, None, cpus(1.0)))).collect();
    assert_eq!(
        (world.asked_about.as_slice(), world.notices.len()),
        (&[group(1)][..], 0)
    );
    world.reserve(group(1), &[(0, cpus(2.0))], true);
    assert!(requests.iter().all(|request| world.lease(*request).is_some()));
}

#[test]
fn what_is_said_of_the_node_decides() {
    let labels = [("zone".to_owned(), "a".to_owned())].into();
    let here = NodeId([1; 28]);
    let mut world = World::new(cpus(4.0));
    world.scheduler = Scheduler::new(cpus(4.0), Options::default()).on_node(here, labels);
    world.on(Event::JobStarted { job: job(1) });
    world.on(Event::ClientJoined {
        client: ClientKey(0),
        job: job(1),
    });
    let ask = |world: &mut World, placing| {
        world.next_request += 1;
        let request = RequestKey(world.next_request);
        world.on(Event::LeaseRequested {
            client: ClientKey(0),
            request: LeaseRequest {
                request,
                resources: cpus(1.0),
                env: EnvKey::JOB,
                placing: Some(placing),
                task_name: "f".to_owned(),
                ahead: false,
            },
        });
        request
    };
    let affinity = |node, soft| Placing {
        strategy: Strategy::NodeAffinity {
            node,
            soft,
            spill_on_unavailable: false,
            fail_on_unavailable: false,
        },
        selectors: Vec::new(),
    };
    let elsewhere = NodeId([2; 28]);
    for placing in [affinity(here, false), affinity(elsewhere, true)] {
        let request = ask(&mut world, placing);
        assert!(world.lease(request).is_some());
    }
    let never = ask(&mut world, affinity(elsewhere, false));
    assert_eq!(
        (world.rejected.as_slice(), world.refused()),
        (&[never][..], Some(Refusal::ForEver))
    );
    let labelled = |value: &str| Placing {
        strategy: Strategy::Default,
        selectors: vec![vec![LabelRule::is("zone", value)]],
    };
    let request = ask(&mut world, labelled("a"));
    assert!(world.lease(request).is_some());
    let request = ask(&mut world, labelled("b"));
    assert!(world.lease(request).is_none());
    assert!(world.notices[0].contains("zone: in(b)"), "{:?}", world.notices);
}
