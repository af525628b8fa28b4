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
