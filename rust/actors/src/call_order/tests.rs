//! Stories, each as the events of one caller and the orders that follow; and any order of events at all.

use proptest::prelude::*;

use super::*;

const A: CallKey = CallKey(1);
const B: CallKey = CallKey(2);
const C: CallKey = CallKey(3);

/// Gives the events one by one; the effects of the last.
fn told(order: &mut CallOrder, events: &[Event]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for event in events {
        effects.clear();
        order.on_event(*event, &mut effects);
        order.check_invariants();
    }
    effects
}

fn placed(incarnation: u32, worker: u8) -> Event {
    let worker = WorkerId([worker; 28]);
    Event::Placed { incarnation, worker }
}

/// To an actor that is placed, whose calls have three retries.
fn connected() -> CallOrder {
    let mut order = CallOrder::new(Config::default());
    told(&mut order, &[placed(0, 4)]);
    order
}

fn submitted(call: CallKey, ready: bool) -> Event {
    Event::CallSubmitted {
        call,
        ready,
        retries: 3,
    }
}

fn again(call: CallKey) -> Event {
    Event::CallRunsAgain { call, retries: 3 }
}

fn send(call: CallKey) -> Effect {
    Effect::Send { call }
}

#[test]
fn a_call_that_repeats_goes_before_one_that_waits_for_it() {
    let mut order = connected();
    let effects = told(&mut order, &[submitted(A, true), submitted(B, false)]);
    assert_eq!(effects, []);
    assert_eq!(told(&mut order, &[Event::CallRepeats { call: A }]), [send(A)]);
    assert_eq!(
        told(
            &mut order,
            &[Event::CallReplied { call: A }, Event::CallReady { call: B }]
        ),
        [send(B)]
    );
}

#[test]
fn errors_and_deaths_take_from_the_same_retries() {
    let mut order = connected();
    let submitted = Event::CallSubmitted {
        call: A,
        ready: true,
        retries: 2,
    };
    told(&mut order, &[submitted, Event::CallRepeats { call: A }]);
    assert_eq!(told(&mut order, &[Event::Restarting]), [Effect::TryLost { call: A }]);
    let effects = told(&mut order, &[placed(1, 5), Event::Restarting]);
    let why = Why::Unavailable;
    assert_eq!(effects, [Effect::Fail { call: A, why }]);
}

#[test]
fn what_runs_again_goes_before_a_call_that_waits_for_what_it_gives() {
    let mut order = connected();
    told(&mut order, &[submitted(A, false), submitted(B, true)]);
    assert_eq!(told(&mut order, &[again(C)]), []);
    assert_eq!(told(&mut order, &[Event::CallReady { call: C }]), [send(C)]);
}

#[test]
fn what_runs_again_and_has_lost_its_arguments_holds_nothing_up() {
    let mut order = connected();
    told(&mut order, &[again(A), again(B)]);
    assert_eq!(told(&mut order, &[submitted(C, true)]), [send(C)]);
    assert_eq!(told(&mut order, &[Event::CallReady { call: B }]), [send(B)]);
    assert_eq!(
        told(
            &mut order,
            &[Event::CallReplied { call: B }, Event::CallReady { call: A }]
        ),
        [send(A)]
    );
}

#[test]
fn what_runs_again_for_a_dead_actor_fails() {
    let mut order = connected();
    let why = Why::Died;
    assert_eq!(
        told(&mut order, &[Event::Dead, again(A)]),
        [Effect::Fail { call: A, why }]
    );
}

#[test]
fn what_runs_again_waits_for_the_actor_to_restart() {
    let mut order = connected();
    told(&mut order, &[Event::Restarting, again(A)]);
    assert_eq!(told(&mut order, &[Event::CallReady { call: A }]), []);
    assert_eq!(told(&mut order, &[submitted(B, true)]), []);
    let effects = told(&mut order, &[placed(1, 5)]);
    assert_eq!(effects, [send(A), send(B)]);
}

#[test]
fn an_incarnation_that_goes_on_in_another_process_is_a_restart() {
    let mut order = CallOrder::new(Config::default());
    assert_eq!(told(&mut order, &[placed(1, 4)]), []);
    for (call, retries) in [(A, 0), (B, 1)] {
        let ready = true;
        let submitted = Event::CallSubmitted { call, ready, retries };
        assert_eq!(told(&mut order, &[submitted]), [send(call)]);
    }
    assert_eq!(told(&mut order, &[placed(1, 4)]), [], "the same news again");
    assert_eq!(told(&mut order, &[placed(0, 3)]), [], "old news");
    let why = Why::Unavailable;
    assert_eq!(
        told(&mut order, &[placed(1, 6)]),
        [Effect::TryLost { call: B }, Effect::Fail { call: A, why }, send(B)]
    );
}

/// What may happen to one of a few calls, or to the actor.
fn any_event() -> impl Strategy<Value = Event> {
    let call = || (0_u32..6).prop_map(CallKey);
    let retries = || -1..3_i32;
    prop_oneof![
        4 => (call(), any::<bool>(), retries())
            .prop_map(|(call, ready, retries)| Event::CallSubmitted { call, ready, retries }),
        2 => (call(), retries()).prop_map(|(call, retries)| Event::CallRunsAgain { call, retries }),
        4 => call().prop_map(|call| Event::CallReady { call }),
        1 => call().prop_map(|call| Event::CallDropped { call }),
        4 => call().prop_map(|call| Event::CallReplied { call }),
        2 => call().prop_map(|call| Event::CallRepeats { call }),
        1 => call().prop_map(|call| Event::CallNotRun { call }),
        3 => (0_u32..4, 0_u8..3).prop_map(|(incarnation, worker)| placed(incarnation, worker)),
        1 => Just(Event::Restarting),
    ]
}

proptest! {
    #[test]
    fn the_invariants_hold_and_nothing_is_left(events in prop::collection::vec(any_event(), 1..60), out_of_order: bool) {
        let mut order = CallOrder::new(Config { out_of_order, ..Config::default() });
        let mut effects = Vec::new();
        for event in events {
            match event {
                // A key is free when its call has left.
                Event::CallSubmitted { call, .. } | Event::CallRunsAgain { call, .. } if order.place(call).is_some() => {}
                event => order.on_event(event, &mut effects),
            }
            order.check_invariants();
        }
        let mut effects = Vec::new();
        let pending = order.pending();
        order.on_event(Event::Dead, &mut effects);
        order.check_invariants();
        prop_assert_eq!((effects.len(), order.pending()), (pending, 0));
    }
}
