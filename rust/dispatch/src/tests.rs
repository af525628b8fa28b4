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
