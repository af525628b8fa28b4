//! Requests that wait for memory.

use super::*;

/// Of the function that all requests name it is known that it does not fit.
fn world_without_room() -> World {
    let mut world = World::new(cpus(2.0));
    world.on(Event::AdmissionChanged(Admission {
        stop: false,
        room_bytes: 0,
        needs: [((job(1), "f".into()), 1)].into_iter().collect(),
    }));
    world
}

/// A task that runs, and its worker.
fn running(world: &mut World) -> (LeaseKey, WorkerKey) {
    let request = world.request(0, cpus(1.0));
    let lease = world.lease(request).expect("one always goes");
    (lease, world.granted[&lease].2)
}

#[test]
fn what_does_not_fit_waits_while_another_computes() {
    let mut world = world_without_room();
    let (lease, _) = running(&mut world);
    let second = world.request(1, cpus(1.0));
    world.advance(10_000 * MS);
    assert_eq!(world.lease(second), None);
    world.give_back(lease);
    assert!(world.lease(second).is_some());
}

#[test]
fn nothing_waits_for_memory_for_ever() {
    let mut world = world_without_room();
    running(&mut world);
    let second = world.request(1, cpus(1.0));
    let patience = Options::default().memory_patience;
    world.advance(patience - MS);
    assert_eq!(world.lease(second), None);
    world.advance(MS);
    assert!(world.lease(second).is_some());
}

#[test]
fn a_short_sleep_lets_nothing_in_that_does_not_fit() {
    let mut world = world_without_room();
    let (_, worker) = running(&mut world);
    let second = world.request(1, cpus(1.0));
    let settles = Options::default().memory_settles;
    for _ in 0..100 {
        world.on(Event::WorkerBlocked { worker });
        world.advance(settles - MS);
        assert_eq!(world.lease(second), None, "it may wake at any moment");
        world.on(Event::WorkerUnblocked { worker });
        world.advance(MS);
    }
    assert_eq!(world.lease(second), None);
}

#[test]
fn a_long_sleep_lets_one_in() {
    let mut world = world_without_room();
    let (_, worker) = running(&mut world);
    world.on(Event::WorkerBlocked { worker });
    let second = world.request(1, cpus(1.0));
    let third = world.request(1, cpus(1.0));
    let settles = Options::default().memory_settles;
    world.on(Event::WorkerBlocked { worker });
    world.advance(settles);
    assert!(world.lease(second).is_some(), "the sleeper may wait for it");
    world.advance(settles);
    assert_eq!(world.lease(third), None, "the second computes");
}

#[test]
fn a_lease_that_nobody_uses_keeps_nobody_out() {
    let mut world = world_without_room();
    let request = world.request_ahead(0, cpus(1.0));
    let ahead = world.lease(request).expect("granted");
    let worker = world.granted[&ahead].2;
    let (lease, _) = running(&mut world);
    world.give_back(lease);
    // What its task says may come before what its client says.
    world.advance(1_000 * MS);
    world.on(Event::WorkerBlocked { worker });
    let second = world.request(1, cpus(1.0));
    world.advance(Options::default().memory_settles - MS);
    assert_eq!(world.lease(second), None);
    world.advance(MS);
    assert!(world.lease(second).is_some());
}
