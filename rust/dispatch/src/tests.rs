//! What time alone must set right. The rest of the dispatcher is tested by simulated nodes, in the crate `testing`.

use std::time::Duration;

use crate::dispatcher::Dispatcher;
use crate::event::{ClassKey, Effect, Event, FunctionKey, LeaseKey, TaskKey};

const CLASS: ClassKey = ClassKey(0);
const FUNCTION: FunctionKey = FunctionKey(0);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn ready(task: u32) -> Event {
    Event::TaskReady {
        task: TaskKey(task),
        class: CLASS,
        function: FUNCTION,
        again: false,
    }
}

/// Lets time pass until a deadline beyond `until`.
fn pass(dispatcher: &mut Dispatcher, until: Duration, effects: &mut Vec<Effect>) {
    while let Some(due) = dispatcher.next_deadline().filter(|due| *due <= until) {
        dispatcher.on_event(due, Event::Tick, effects);
        dispatcher.check_invariants();
    }
}

#[test]
fn a_task_that_waits_for_room_beside_one_that_waits_for_it_gets_a_lease_of_its_own() {
    let mut dispatcher = Dispatcher::new(4);
    let mut effects = Vec::new();
    dispatcher.on_event(at(0), ready(1), &mut effects);
    let Some(Effect::RequestLease { request, .. }) = effects.pop() else {
        panic!("a lease is asked for");
    };
    let lease = LeaseKey(1);
    dispatcher.on_event(at(0), Event::LeaseGranted { request, lease }, &mut effects);
    // From now on the function is known to run for more than half of a window.
    let finished = Event::TaskFinished {
        lease,
        task: TaskKey(1),
        run: Duration::from_micros(1300),
    };
    dispatcher.on_event(at(2), finished, &mut effects);
    effects.clear();
    dispatcher.on_event(at(3), ready(2), &mut effects);
    assert!(matches!(effects[..], [Effect::Push { task: TaskKey(2), .. }]));
    // It calls `get` on the result of task 3 with nothing behind it to give back, so that nobody is told.
    effects.clear();
    dispatcher.on_event(at(4), ready(3), &mut effects);
    assert!(effects.is_empty(), "there will be room for it soon");
    pass(&mut dispatcher, at(100), &mut effects);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::RequestLease { .. })),
        "but it does not rely on that for ever: {effects:?}"
    );
}

#[test]
fn a_lease_that_is_asked_for_ahead_takes_the_first_task_and_goes_back_when_none_comes() {
    let mut dispatcher = Dispatcher::new(4);
    let mut effects = Vec::new();
    dispatcher.on_event(at(0), Event::Expected { class: CLASS }, &mut effects);
    let Some(Effect::RequestAhead { request, class: CLASS }) = effects.pop() else {
        panic!("a lease is asked for");
    };
    dispatcher.on_event(at(0), Event::Expected { class: CLASS }, &mut effects);
    dispatcher.on_event(at(0), ready(1), &mut effects);
    assert_eq!(effects, [], "one is on its way");
    let lease = LeaseKey(1);
    dispatcher.on_event(at(1), Event::LeaseGranted { request, lease }, &mut effects);
    assert_eq!(
        effects,
        [Effect::Push {
            lease,
            task: TaskKey(1)
        }]
    );

    let mut dispatcher = Dispatcher::new(4);
    effects.clear();
    dispatcher.on_event(at(0), Event::Expected { class: CLASS }, &mut effects);
    dispatcher.on_event(at(1), Event::LeaseGranted { request, lease }, &mut effects);
    effects.clear();
    pass(&mut dispatcher, at(1000), &mut effects);
    assert_eq!(effects, [Effect::ReturnLease { lease }]);

    // The raylet has nobody to give.
    let mut dispatcher = Dispatcher::new(4);
    effects.clear();
    dispatcher.on_event(at(0), Event::Expected { class: CLASS }, &mut effects);
    effects.clear();
    pass(&mut dispatcher, at(1000), &mut effects);
    assert_eq!(effects, [Effect::CancelRequest { request }]);
    assert_eq!(dispatcher.next_deadline(), None);
}

#[test]
fn a_lease_that_is_wanted_back_at_once_serves_one_task_all_the_same() {
    let mut dispatcher = Dispatcher::new(4);
    let mut effects = Vec::new();
    dispatcher.on_event(at(0), ready(1), &mut effects);
    let Some(Effect::RequestLease { request, .. }) = effects.pop() else {
        panic!("a lease is asked for");
    };
    let lease = LeaseKey(1);
    dispatcher.on_event(at(1), Event::LeaseGranted { request, lease }, &mut effects);
    effects.clear();
    dispatcher.on_event(at(1), Event::LeaseRevoked { lease }, &mut effects);
    dispatcher.check_invariants();
    assert_eq!(effects, [], "DSP-7: nothing is withdrawn");
    dispatcher.on_event(at(2), ready(2), &mut effects);
    assert!(matches!(effects[..], [Effect::RequestLease { .. }]), "DSP-4");
    effects.clear();
    let finished = Event::TaskFinished {
        lease,
        task: TaskKey(1),
        run: Duration::from_micros(10),
    };
    dispatcher.on_event(at(3), finished, &mut effects);
    assert!(effects.contains(&Effect::ReturnLease { lease }), "DSP-6");
}

#[test]
fn tasks_that_a_dead_worker_had_not_begun_come_before_those_submitted_later() {
    let mut dispatcher = Dispatcher::new(1);
    let mut effects = Vec::new();
    dispatcher.on_event(at(0), ready(0), &mut effects);
    let Some(Effect::RequestLease { request, .. }) = effects.pop() else {
        panic!("a lease is asked for");
    };
    let lease = LeaseKey(1);
    dispatcher.on_event(at(0), Event::LeaseGranted { request, lease }, &mut effects);
    // The function is known as a short one, so that several tasks are in flight; the last ones wait in the queue.
    let finished = Event::TaskFinished {
        lease,
        task: TaskKey(0),
        run: Duration::from_micros(400),
    };
    dispatcher.on_event(at(1), finished, &mut effects);
    effects.clear();
    let tasks = 1..=20;
    for task in tasks.clone() {
        dispatcher.on_event(at(1), ready(task), &mut effects);
    }
    assert!(dispatcher.in_flight(lease) > 2, "several are in flight");
    assert!(dispatcher.queued() > 2, "and several wait");

    // All but the first were unclaimed.
    dispatcher.on_event(at(2), Event::LeaseDied { lease }, &mut effects);
    let lost: Vec<u32> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::LostClaimed { task } => Some(task.0),
            _ => None,
        })
        .collect();
    for &task in lost.iter().filter(|task| **task != 1) {
        let back = Event::TaskReady {
            task: TaskKey(task),
            class: CLASS,
            function: FUNCTION,
            again: true,
        };
        dispatcher.on_event(at(2), back, &mut effects);
        dispatcher.check_invariants();
    }

    let Some(request) = effects.iter().find_map(|effect| match effect {
        Effect::RequestLease { request, .. } => Some(*request),
        _ => None,
    }) else {
        panic!("a lease is asked for: {effects:?}");
    };
    let lease = LeaseKey(2);
    effects.clear();
    dispatcher.on_event(at(3), Event::LeaseGranted { request, lease }, &mut effects);
    let mut order = Vec::new();
    while let Some(task) = effects.iter().find_map(|effect| match effect {
        Effect::Push { task, .. } if !order.contains(&task.0) => Some(*task),
        _ => None,
    }) {
        order.push(task.0);
        let finished = Event::TaskFinished {
            lease,
            task,
            run: Duration::from_micros(400),
        };
        dispatcher.on_event(at(4), finished, &mut effects);
    }
    assert_eq!(order, tasks.skip(1).collect::<Vec<_>>(), "as they were submitted");
}

#[test]
fn a_few_short_tasks_stay_with_the_worker_that_is_awake() {
    let mut dispatcher = Dispatcher::new(2);
    let mut effects = Vec::new();
    let leases = [LeaseKey(1), LeaseKey(2)];
    for (task, lease) in (1..).zip(leases) {
        dispatcher.on_event(at(0), ready(task), &mut effects);
        let request = effects.iter().find_map(|effect| match effect {
            Effect::RequestLease { request, .. } => Some(*request),
            _ => None,
        });
        let request = request.expect("a lease is asked for");
        effects.clear();
        dispatcher.on_event(at(0), Event::LeaseGranted { request, lease }, &mut effects);
    }
    for (task, lease) in (1..).zip(leases) {
        let finished = Event::TaskFinished {
            lease,
            task: TaskKey(task),
            run: Duration::from_micros(10),
        };
        dispatcher.on_event(at(1), finished, &mut effects);
    }

    // Each is charged 10 us, so that five are as much work as to wake the other one.
    for task in 10..16 {
        dispatcher.on_event(at(1), ready(task), &mut effects);
        dispatcher.check_invariants();
    }
    assert_eq!(leases.map(|lease| dispatcher.in_flight(lease)), [1, 5]);

    // The first of the five runs for longer than all before it did: others are taken from behind it.
    let finished = Event::TaskFinished {
        lease: leases[0],
        task: TaskKey(15),
        run: Duration::from_micros(10),
    };
    dispatcher.on_event(at(1), finished, &mut effects);
    effects.clear();
    pass(&mut dispatcher, at(3), &mut effects);
    let withdrawn: Vec<u32> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Withdraw { lease, task } if *lease == leases[1] => Some(task.0),
            _ => None,
        })
        .collect();
    assert!(withdrawn.starts_with(&[14, 13]), "{effects:?}");

    // And they do not go there again, little as it has to do by what is known of the function.
    effects.clear();
    let result = Event::WithdrawResult {
        lease: leases[1],
        task: TaskKey(14),
        withdrawn: true,
    };
    dispatcher.on_event(at(3), result, &mut effects);
    let push = Effect::Push {
        lease: leases[0],
        task: TaskKey(14),
    };
    assert!(effects.contains(&push), "{effects:?}");
}

#[test]
fn a_grant_for_a_class_that_was_forgotten_is_not_taken_by_the_next_of_its_key() {
    let mut dispatcher = Dispatcher::new(4);
    let mut effects = Vec::new();
    dispatcher.on_event(at(0), ready(1), &mut effects);
    let Some(Effect::RequestLease { request: old, .. }) = effects.pop() else {
        panic!("a lease is asked for");
    };
    assert!(!dispatcher.is_unused(CLASS));
    dispatcher.on_event(at(1), Event::TaskGone { task: TaskKey(1) }, &mut effects);
    pass(&mut dispatcher, at(100), &mut effects);
    assert_eq!(effects.pop(), Some(Effect::CancelRequest { request: old }));
    assert!(dispatcher.is_unused(CLASS));
    dispatcher.forget_class(CLASS);
    dispatcher.on_event(at(100), ready(2), &mut effects);
    let Some(Effect::RequestLease { request, .. }) = effects.pop() else {
        panic!("a lease is asked for");
    };
    let (late, lease) = (LeaseKey(1), LeaseKey(2));
    let crossed = Event::LeaseGranted {
        request: old,
        lease: late,
    };
    dispatcher.on_event(at(101), crossed, &mut effects);
    assert_eq!(effects, [Effect::ReturnLease { lease: late }]);
    effects.clear();
    dispatcher.on_event(at(101), Event::LeaseGranted { request, lease }, &mut effects);
    assert_eq!(
        effects,
        [Effect::Push {
            lease,
            task: TaskKey(2)
        }]
    );
    dispatcher.check_invariants();
}
