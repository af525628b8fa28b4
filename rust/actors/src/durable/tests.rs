//! Both machines in one small world: callers that send again, a process that dies, a control store that dies and forgets
//! what it had not flushed. Whatever happens, each call is in the state once, in its caller's order, and every answer says
//! where.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use ray_rs_types::WorkerId;

use super::calls::{Calls, Effect, Event, Settings};
use super::shelf::{Commit, Gap, Shelf};
use super::{CallId, CallerState};

const CALLERS: usize = 3;

/// A call on its way: the address is the life of the process that it was sent to.
type Address = u32;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A caller makes a call.
    Call(usize),
    /// The process takes in what is next.
    Deliver,
    /// The control store takes in the commit that was sent.
    Store,
    /// And flushes, and answers.
    Flush,
    ProcessDies,
    StoreDies,
    /// A second copy of what a caller sent reaches the process.
    Repeat(usize),
    Pass,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..CALLERS).prop_map(Step::Call),
        8 => Just(Step::Deliver),
        6 => Just(Step::Store),
        6 => Just(Step::Flush),
        1 => Just(Step::ProcessDies),
        1 => Just(Step::StoreDies),
        1 => (0..CALLERS).prop_map(Step::Repeat),
        1 => Just(Step::Pass),
    ]
}

fn worker(index: usize) -> WorkerId {
    let mut bytes = [0; 28];
    bytes[0] = index as u8 + 1;
    WorkerId(bytes)
}

#[derive(Debug, Default)]
struct Caller {
    made: u64,
    unanswered: VecDeque<u64>,
    answers: Vec<(u64, u64)>,
}

impl Caller {
    fn acknowledged(&self) -> u64 {
        self.unanswered.front().map_or(self.made, |first| first - 1)
    }
}

struct World {
    settings: Settings,
    now: Duration,
    callers: Vec<Caller>,
    /// Calls on their way to the process.
    lane: VecDeque<(CallId, u64)>,
    life: u32,
    calls: Calls,
    /// The actor's state: the calls, in order.
    state: Vec<CallId>,
    /// Answers that wait, by position.
    held: VecDeque<(u64, CallId, Address)>,
    /// The commit that was sent, and whether it has been stored.
    sent: Option<(u32, Commit, bool)>,
    shelf: Shelf,
    flushed: Shelf,
    fails: u32,
}

impl World {
    fn new(settings: Settings, fails: u32) -> Self {
        let mut world = Self {
            settings,
            now: Duration::ZERO,
            callers: (0..CALLERS).map(|_| Caller::default()).collect(),
            lane: VecDeque::new(),
            life: 0,
            calls: Calls::new(settings, Duration::ZERO, None),
            state: Vec::new(),
            held: VecDeque::new(),
            sent: None,
            shelf: Shelf::default(),
            flushed: Shelf::default(),
            fails,
        };
        world.take_checkpoint();
        world
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Call(index) => {
                let caller = &mut self.callers[index];
                caller.made += 1;
                caller.unanswered.push_back(caller.made);
                let call = CallId {
                    caller: worker(index),
                    number: caller.made,
                };
                self.lane.push_back((call, caller.acknowledged()));
            }
            Step::Repeat(index) => {
                let caller = &self.callers[index];
                if let Some(number) = caller.unanswered.front() {
                    let call = CallId {
                        caller: worker(index),
                        number: *number,
                    };
                    let in_lane = |(other, _): &(CallId, u64)| other.caller == call.caller;
                    // A lane keeps its order: what it repeats comes before what follows.
                    let at = self.lane.iter().position(in_lane).unwrap_or(self.lane.len());
                    self.lane.insert(at, (call, caller.acknowledged()));
                }
            }
            Step::Deliver => self.deliver(),
            Step::Store => {
                if let Some((life, commit, stored)) = &mut self.sent
                    && *life == self.life
                {
                    self.shelf.commit(commit.clone()).expect("DUR-3: no gap");
                    *stored = true;
                }
            }
            Step::Flush => {
                self.flushed = self.shelf.clone();
                if let Some((_, _, true)) = self.sent {
                    self.sent = None;
                    self.tell(Event::Committed);
                }
            }
            Step::StoreDies => {
                self.shelf = self.flushed.clone();
                if let Some((_, _, stored)) = &mut self.sent {
                    // The process sends it again.
                    *stored = false;
                }
            }
            Step::ProcessDies => self.process_dies(),
            Step::Pass => self.now += Duration::from_millis(400),
        }
        self.calls.check_invariants();
    }

    fn deliver(&mut self) {
        if self.calls.wants_checkpoint() {
            return self.take_checkpoint();
        }
        if !self.calls.has_room() {
            return;
        }
        if let Some((call, acknowledged)) = self.lane.pop_front() {
            let to = self.life;
            self.tell(Event::Arrived { call, acknowledged, to });
        }
    }

    fn take_checkpoint(&mut self) {
        if self.fails > 0 && self.life > 0 && self.state.len() % 5 == 3 {
            self.fails -= 1;
            return self.tell(Event::CheckpointFailed);
        }
        let state = encode(&self.state);
        self.tell(Event::CheckpointTaken { state });
    }

    fn tell(&mut self, event: Event<Address>) {
        let mut effects = Vec::new();
        self.calls.on_event(self.now, event, &mut effects);
        let mut undone = false;
        for effect in effects {
            match effect {
                Effect::Run { call } => {
                    let position = self.state.len() as u64;
                    self.state.push(call);
                    self.held.push_back((position, call, self.life));
                    let record = if self.calls.records() {
                        encode(&[call])
                    } else {
                        Bytes::new()
                    };
                    let answer = Bytes::copy_from_slice(&position.to_le_bytes());
                    self.tell(Event::Executed { call, record, answer });
                }
                Effect::Answer { to, answer } => {
                    assert_eq!(to, self.life);
                    let position = u64::from_le_bytes(answer[..].try_into().expect("eight bytes"));
                    self.answered(self.state[position as usize], position);
                }
                Effect::Readdress { position, to } => {
                    let held = self
                        .held
                        .iter_mut()
                        .find(|held| held.0 == position)
                        .expect("it is held");
                    held.2 = to;
                }
                Effect::Drop { call } => {
                    let index = (call.caller.0[0] - 1) as usize;
                    assert!(
                        !self.callers[index].unanswered.contains(&call.number),
                        "an answer is lost"
                    );
                }
                Effect::Commit(commit) => {
                    assert!(self.sent.is_none(), "one at a time");
                    let commit = Commit {
                        first: commit.first,
                        records: commit.records,
                        checkpoint: commit.checkpoint.map(|checkpoint| {
                            let mut data = Vec::new();
                            data.extend_from_slice(&(checkpoint.state.len() as u64).to_le_bytes());
                            data.extend_from_slice(&checkpoint.state);
                            for known in checkpoint.callers {
                                data.extend_from_slice(&known.caller.0);
                                data.extend_from_slice(&known.last.to_le_bytes());
                                data.extend_from_slice(&(known.answers.len() as u64).to_le_bytes());
                                for (number, answer) in known.answers {
                                    data.extend_from_slice(&number.to_le_bytes());
                                    data.extend_from_slice(&answer);
                                }
                            }
                            (checkpoint.position, data.into())
                        }),
                    };
                    self.sent = Some((self.life, commit, false));
                }
                Effect::Release { position } => {
                    let (at, call, to) = self.held.pop_front().expect("DUR-1: it is held");
                    assert_eq!((at, to), (position, self.life));
                    // Durable: it is in what a crash leaves.
                    assert!(position < self.flushed.next(), "DUR-1: released before it is on disk");
                    self.answered(call, position);
                }
                Effect::Undo { position } => {
                    let (at, call, _) = *self.held.iter().find(|held| held.0 == position).expect("it is held");
                    assert!(at >= self.shelf.next(), "an undone call is stored");
                    self.given_up(call);
                    undone = true;
                }
            }
        }
        if undone {
            self.process_dies();
        }
    }

    fn answered(&mut self, call: CallId, position: u64) {
        let caller = &mut self.callers[(call.caller.0[0] - 1) as usize];
        if let Some(at) = caller.unanswered.iter().position(|number| *number == call.number) {
            caller.unanswered.remove(at);
            caller.answers.push((call.number, position));
        }
    }

    /// The caller has got an error: the call is not part of the state.
    fn given_up(&mut self, call: CallId) {
        let caller = &mut self.callers[(call.caller.0[0] - 1) as usize];
        caller.unanswered.retain(|number| *number != call.number);
    }

    fn process_dies(&mut self) {
        self.life += 1;
        self.held.clear();
        self.sent = None;
        // What the next one is told is durable.
        self.flushed = self.shelf.clone();
        let restored = read(&self.shelf);
        self.state = restored.0;
        self.calls = Calls::new(self.settings, self.now, restored.1);
        let mut from = self.state.len() as u64;
        loop {
            let (first, page) = self.shelf.page(from, 20);
            assert!(page.is_empty() || first == from);
            if page.is_empty() {
                break;
            }
            for record in page {
                let call = decode(&record)[0];
                let answer = Bytes::copy_from_slice(&from.to_le_bytes());
                self.state.push(call);
                from += 1;
                let record_bytes = record.len();
                self.tell(Event::Replayed {
                    call,
                    record_bytes,
                    answer,
                });
            }
        }
        if self.shelf.checkpoint().is_none() {
            self.take_checkpoint();
        }
        self.lane.clear();
        for (index, caller) in self.callers.iter().enumerate() {
            for number in &caller.unanswered {
                let call = CallId {
                    caller: worker(index),
                    number: *number,
                };
                self.lane.push_back((call, caller.acknowledged()));
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.callers.iter().all(|caller| caller.unanswered.is_empty()) && self.calls.is_settled() {
                return;
            }
            for step in [Step::Deliver, Step::Store, Step::Flush] {
                self.step(step);
            }
        }
        panic!("an answer never comes");
    }
}

fn encode(calls: &[CallId]) -> Bytes {
    let bytes = calls.iter().flat_map(|call| {
        let number = call.number.to_le_bytes();
        std::iter::once(call.caller.0[0]).chain(number)
    });
    bytes.collect::<Vec<u8>>().into()
}

fn decode(bytes: &[u8]) -> Vec<CallId> {
    let calls = bytes.chunks_exact(9).map(|chunk| CallId {
        caller: worker(chunk[0] as usize - 1),
        number: u64::from_le_bytes(chunk[1..].try_into().expect("eight bytes")),
    });
    calls.collect()
}

/// The state and what is known of callers, from a checkpoint.
fn read(shelf: &Shelf) -> (Vec<CallId>, Option<(u64, Vec<CallerState>)>) {
    let Some((position, data)) = shelf.checkpoint() else {
        return (Vec::new(), None);
    };
    let mut rest = &data[..];
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at(count);
        rest = left;
        taken.to_vec()
    };
    let number = |bytes: Vec<u8>| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let length = number(take(8));
    let state = decode(&take(length as usize));
    let mut callers = Vec::new();
    let mut left = data.len() - 8 - length as usize;
    while left > 0 {
        let caller = WorkerId::from_bytes(&take(28)).expect("an id");
        let last = number(take(8));
        let count = number(take(8));
        let answers = (0..count).map(|_| (number(take(8)), take(8).into())).collect();
        left -= 44 + 16 * count as usize;
        callers.push(CallerState { caller, last, answers });
    }
    assert_eq!(state.len() as u64, *position, "DUR-5");
    (state, Some((*position, callers)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn each_call_is_in_the_state_once_and_every_answer_says_where(
        every in prop_oneof![Just(1_u32), 2..5_u32, Just(100)],
        interval in proptest::option::of(1..900_u64),
        fails in 0..3_u32,
        steps in proptest::collection::vec(any_step(), 0..300),
    ) {
        let interval = interval.map(Duration::from_millis);
        let mut world = World::new(Settings { every, interval }, fails);
        for step in steps {
            world.step(step);
        }
        world.settle();
        let mut lasts = [0; CALLERS];
        for call in &world.state {
            let last = &mut lasts[(call.caller.0[0] - 1) as usize];
            prop_assert!(call.number > *last, "DUR-2: twice, or out of order: {:?}", world.state);
            *last = call.number;
        }
        for (index, caller) in world.callers.iter().enumerate() {
            for (number, position) in &caller.answers {
                let call = CallId { caller: worker(index), number: *number };
                prop_assert_eq!(world.state[*position as usize], call, "an answer that is not true");
            }
            if every > 1 {
                let expected: Vec<u64> = (1..=caller.made).collect();
                let executed = world.state.iter().filter(|call| call.caller == worker(index));
                prop_assert_eq!(executed.map(|call| call.number).collect::<Vec<_>>(), expected);
            } else {
                // Those that could not be saved were undone, and their callers told.
                prop_assert_eq!(world.state.iter().filter(|call| call.caller == worker(index)).count(), caller.answers.len());
            }
        }
        // And a process that started now would have the same state.
        let state = world.state.clone();
        world.process_dies();
        prop_assert_eq!(world.state, state);
    }
}

fn call(number: u64) -> CallId {
    CallId {
        caller: worker(0),
        number,
    }
}

fn run(calls: &mut Calls, number: u64) -> Vec<Effect<u32>> {
    let mut effects = Vec::new();
    let arrived = Event::Arrived {
        call: call(number),
        acknowledged: 0,
        to: 0,
    };
    calls.on_event(Duration::ZERO, arrived, &mut effects);
    assert_eq!(effects, [Effect::Run { call: call(number) }]);
    effects.clear();
    let executed = Event::Executed {
        call: call(number),
        record: Bytes::from_static(b"record"),
        answer: Bytes::from_static(b"answer"),
    };
    calls.on_event(Duration::ZERO, executed, &mut effects);
    effects
}

fn started(every: u32) -> Calls {
    let settings = Settings { every, interval: None };
    let mut calls = Calls::new(settings, Duration::ZERO, None);
    let mut effects: Vec<Effect<u32>> = Vec::new();
    let state = Bytes::from_static(b"first");
    calls.on_event(Duration::ZERO, Event::CheckpointTaken { state }, &mut effects);
    assert!(matches!(&effects[..], [Effect::Commit(commit)] if commit.checkpoint.is_some()));
    effects.clear();
    calls.on_event(Duration::ZERO, Event::Committed, &mut effects);
    assert_eq!(effects, []);
    calls
}

#[test]
fn what_is_executed_during_a_commit_goes_with_the_next_one() {
    let mut calls = started(100);
    assert!(matches!(&run(&mut calls, 1)[..], [Effect::Commit(commit)] if commit.records.len() == 1));
    for number in 2..10 {
        assert_eq!(run(&mut calls, number), []);
    }
    let mut effects: Vec<Effect<u32>> = Vec::new();
    calls.on_event(Duration::ZERO, Event::Committed, &mut effects);
    assert_eq!(effects[0], Effect::Release { position: 0 });
    assert!(matches!(&effects[1], Effect::Commit(commit) if commit.records.len() == 8 && commit.first == 1));
    assert_eq!(effects.len(), 2);
}

#[test]
fn with_every_call_a_checkpoint_nothing_else_is_committed() {
    let mut calls = started(1);
    assert_eq!(run(&mut calls, 1), []);
    assert!(calls.wants_checkpoint());
    let mut effects: Vec<Effect<u32>> = Vec::new();
    let state = Bytes::from_static(b"one");
    calls.on_event(Duration::ZERO, Event::CheckpointTaken { state }, &mut effects);
    let [Effect::Commit(commit)] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(commit.records.is_empty());
    let checkpoint = commit.checkpoint.as_ref().expect("one");
    assert_eq!(checkpoint.position, 1);
    assert_eq!(checkpoint.callers[0].answers, [(1, Bytes::from_static(b"answer"))]);
}

#[test]
fn there_is_one_checkpoint_for_each_commit() {
    let mut calls = started(1);
    let mut effects: Vec<Effect<u32>> = Vec::new();
    let taken = |calls: &mut Calls, effects: &mut Vec<Effect<u32>>| {
        let state = Bytes::from_static(b"state");
        calls.on_event(Duration::ZERO, Event::CheckpointTaken { state }, effects);
    };
    run(&mut calls, 1);
    taken(&mut calls, &mut effects);
    run(&mut calls, 2);
    assert!(calls.wants_checkpoint(), "it will be sent when the first is stored");
    taken(&mut calls, &mut effects);
    run(&mut calls, 3);
    assert!(!calls.wants_checkpoint());
    effects.clear();
    calls.on_event(Duration::ZERO, Event::Committed, &mut effects);
    assert_eq!(effects[0], Effect::Release { position: 0 });
    assert!(
        matches!(&effects[1], Effect::Commit(commit) if commit.checkpoint.as_ref().is_some_and(|one| one.position == 2))
    );
    assert!(calls.wants_checkpoint(), "of what came meanwhile");
}

#[test]
fn answers_that_came_are_not_kept() {
    let mut calls = started(100);
    for number in 1..=3 {
        run(&mut calls, number);
    }
    let mut effects: Vec<Effect<u32>> = Vec::new();
    let caller = worker(0);
    calls.on_event(Duration::ZERO, Event::Acknowledged { caller, upto: 2 }, &mut effects);
    let state = Bytes::new();
    calls.on_event(Duration::ZERO, Event::Committed, &mut effects);
    calls.on_event(Duration::ZERO, Event::Committed, &mut effects);
    effects.clear();
    calls.on_event(Duration::ZERO, Event::CheckpointTaken { state }, &mut effects);
    let [Effect::Commit(commit)] = &effects[..] else {
        panic!("{effects:?}");
    };
    let known = &commit.checkpoint.as_ref().expect("one").callers[0];
    assert_eq!((known.last, known.answers.len()), (3, 1));
}

#[test]
fn after_a_refusal_nothing_leaves_any_more() {
    let mut calls = started(100);
    run(&mut calls, 1);
    let mut effects: Vec<Effect<u32>> = Vec::new();
    calls.on_event(Duration::ZERO, Event::Refused, &mut effects);
    assert_eq!(effects, []);
    assert!(calls.has_ended() && !calls.has_room());
}

#[test]
fn a_shelf_takes_no_commit_with_a_gap_and_the_same_one_twice() {
    let mut shelf = Shelf::default();
    let records = |count: usize| vec![Bytes::from_static(b"x"); count];
    let commit = |first, count, checkpoint: Option<u64>| Commit {
        first,
        records: records(count),
        checkpoint: checkpoint.map(|position| (position, Bytes::new())),
    };
    assert_eq!(
        shelf.commit(commit(0, 1, None)),
        Err(Gap { next: 0 }),
        "the first has a checkpoint"
    );
    shelf.commit(commit(0, 3, Some(0))).expect("the first");
    assert_eq!(shelf.commit(commit(4, 1, None)), Err(Gap { next: 3 }));
    let change = shelf.commit(commit(0, 3, Some(0))).expect("again");
    assert_eq!((change.removed, change.added.1.len()), (0..0, 0));
    let change = shelf.commit(commit(3, 2, Some(2))).expect("two records more");
    assert_eq!((change.removed, change.added.0, change.added.1.len()), (0..2, 3, 2));
    assert_eq!(shelf.next(), 5);
    assert_eq!(shelf.page(0, usize::MAX), (2, records(3)));
    assert_eq!(shelf.page(3, 1), (3, records(1)));
}
