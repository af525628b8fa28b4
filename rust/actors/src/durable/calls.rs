//! The side of the actor's process: which calls run, what is committed when, which answers may leave.
//!
//! One commit is under way at a time; what is executed meanwhile goes with the next one (group commit). Where an answer
//! goes (`A`) is the shell's affair, and so is the sending again of a commit that was not answered.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ray_rs_types::WorkerId;
use rustc_hash::FxHashMap;

use super::{CallId, CallerState, Checkpoint};

/// A commit takes so many calls at most,
const COMMIT_CALLS: usize = 4096;
/// or so many bytes of them, and one call in any case.
const COMMIT_BYTES: usize = 8 << 20;
/// No further call is executed while so many wait for their commit,
const HELD_CALLS: usize = 8192;
/// or so many bytes.
const HELD_BYTES: usize = 64 << 20;
/// Bytes of calls after which a checkpoint is due, whatever its owner said: what a restart has to read.
const LOG_BYTES: usize = 64 << 20;
/// Callers without an open answer that are remembered. Of one that is forgotten only a message that was lost on its way and
/// turns up after as many other callers could be taken for a new call.
const CALLERS: usize = 8192;
/// Callers in all. Beyond that the ones not heard of for the longest time are forgotten although they never said that they
/// had their answers: callers that died.
const CALLERS_WITH_ANSWERS: usize = 65_536;

/// When checkpoints are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// After so many calls. With 1 calls are not recorded: what is committed is always a checkpoint.
    pub every: u32,
    /// And after so long since the last one, if there were calls.
    pub interval: Option<Duration>,
}

/// A fact.
#[derive(Debug)]
pub enum Event<A> {
    /// A call is next in line. `acknowledged`: its caller has the answers up to that number.
    Arrived { call: CallId, acknowledged: u64, to: A },
    /// The caller has the answers up to this number.
    Acknowledged { caller: WorkerId, upto: u64 },
    /// The call is part of the state. `record` is what replays it (empty where none is wanted: [`Calls::records`]).
    Executed { call: CallId, record: Bytes, answer: Bytes },
    /// The same before the actor takes calls: it was committed by an earlier process.
    Replayed {
        call: CallId,
        record_bytes: usize,
        answer: Bytes,
    },
    /// The state after all calls that were executed; none runs.
    CheckpointTaken { state: Bytes },
    /// There will be none for now.
    CheckpointFailed,
    /// The commit that was under way is durable.
    Committed,
    /// It never will be, nor any other: this process is not the actor's any more.
    Refused,
    /// Time has passed.
    Tick,
}

/// An order to the shell.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<A> {
    /// Execute this call now; [`Event::Executed`] follows before the next [`Event::Arrived`].
    Run { call: CallId },
    /// It was executed and committed before: this is its answer.
    Answer { to: A, answer: Bytes },
    /// It was executed and is not committed yet. What is held at this position is now for this address.
    Readdress { position: u64, to: A },
    /// Nobody waits for an answer to it any more.
    Drop { call: CallId },
    /// Store this; answered by [`Event::Committed`] or [`Event::Refused`].
    Commit(Commit),
    /// The answer held at this position may leave.
    Release { position: u64 },
    /// The call at this position cannot be committed: its caller gets an error, and the process has to end, so that the
    /// actor goes on from what is committed.
    Undo { position: u64 },
}

/// What is stored at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Position of the first of `records`.
    pub first: u64,
    pub records: Vec<Bytes>,
    pub checkpoint: Option<Checkpoint>,
}

#[derive(Debug)]
struct Held {
    call: CallId,
    record: Bytes,
    answer_bytes: usize,
}

#[derive(Debug, Default)]
struct Caller {
    last: u64,
    answers: VecDeque<(u64, Bytes)>,
    /// When it was heard of, counted in calls.
    heard: u64,
}

/// Decides for one actor, in its process.
#[derive(Debug)]
pub struct Calls {
    settings: Settings,
    callers: FxHashMap<WorkerId, Caller>,
    /// Calls that are part of the state.
    position: u64,
    /// Of them those whose answers have left; the rest is in `held`.
    released: u64,
    /// Those that are in a commit that is durable or under way.
    sent: u64,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Where the commit that is under way ends.
    committing: Option<u64>,
    /// Taken, and not yet sent.
    checkpoint: Option<Checkpoint>,
    /// Since the last one was taken, or tried.
    since_calls: u64,
    since_bytes: usize,
    since: Duration,
    is_due: bool,
    running: Option<CallId>,
    ended: bool,
}

impl Calls {
    /// For an actor that starts, or that starts again from `checkpoint`; then come its [`Event::Replayed`].
    pub fn new(settings: Settings, now: Duration, from: Option<(u64, Vec<CallerState>)>) -> Self {
        let (position, callers) = from.unwrap_or_default();
        let known = |state: CallerState| {
            let caller = Caller {
                last: state.last,
                answers: state.answers.into(),
                heard: position,
            };
            (state.caller, caller)
        };
        Self {
            settings,
            callers: callers.into_iter().map(known).collect(),
            position,
            released: position,
            sent: position,
            held: VecDeque::new(),
            held_bytes: 0,
            committing: None,
            checkpoint: None,
            since_calls: 0,
            since_bytes: 0,
            since: now,
            is_due: false,
            running: None,
            ended: false,
        }
    }

    /// Takes in one fact and appends the orders that follow from it.
    pub fn on_event<A: Copy>(&mut self, now: Duration, event: Event<A>, effects: &mut Vec<Effect<A>>) {
        match event {
            Event::Arrived { call, acknowledged, to } => {
                self.acknowledged(call.caller, acknowledged);
                self.arrived(call, to, effects);
            }
            Event::Acknowledged { caller, upto } => self.acknowledged(caller, upto),
            Event::Executed { call, record, answer } => self.executed(now, call, record, answer, effects),
            Event::Replayed {
                call,
                record_bytes,
                answer,
            } => {
                assert!(self.held.is_empty(), "DUR-2: replayed after calls were taken");
                self.applied(call, record_bytes, answer);
                self.released = self.position;
                self.sent = self.position;
            }
            Event::CheckpointTaken { state } => self.checkpoint_taken(now, state, effects),
            Event::CheckpointFailed => self.checkpoint_failed(now, effects),
            Event::Committed => self.committed(effects),
            Event::Refused => self.ended = true,
            Event::Tick => self.look_at_the_clock(now),
        }
    }

    /// Whether calls are recorded.
    pub fn records(&self) -> bool {
        self.settings.every > 1
    }

    /// Whether a call may be executed now.
    pub fn has_room(&self) -> bool {
        !self.ended && self.held.len() < HELD_CALLS && self.held_bytes < HELD_BYTES
    }

    /// Whether a checkpoint is to be taken before the next call. One at a time: while one waits for a commit to end, another
    /// would only be more work for the same commit.
    pub fn wants_checkpoint(&self) -> bool {
        self.is_due && !self.ended && self.running.is_none() && self.checkpoint.is_none()
    }

    /// Whether all answers have left.
    pub fn is_settled(&self) -> bool {
        self.held.is_empty() && self.committing.is_none()
    }

    /// This process is not the actor's any more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// When a [`Event::Tick`] is wanted.
    pub fn next_deadline(&self) -> Option<Duration> {
        let interval = self.settings.interval?;
        (self.since_calls > 0 && !self.is_due && !self.ended).then(|| self.since + interval)
    }

    fn arrived<A>(&mut self, call: CallId, to: A, effects: &mut Vec<Effect<A>>) {
        assert!(self.running.is_none(), "DUR-2: two calls at once");
        let heard = self.position;
        let known = self.callers.get_mut(&call.caller);
        let Some(caller) = known.filter(|caller| call.number <= caller.last) else {
            self.running = Some(call);
            effects.push(Effect::Run { call });
            return;
        };
        caller.heard = heard;
        if let Some(at) = self.held.iter().position(|held| held.call == call) {
            let position = self.released + at as u64;
            effects.push(Effect::Readdress { position, to });
        } else if let Some((_, answer)) = caller.answers.iter().find(|(number, _)| *number == call.number) {
            let answer = answer.clone();
            effects.push(Effect::Answer { to, answer });
        } else {
            effects.push(Effect::Drop { call });
        }
    }

    fn acknowledged(&mut self, caller: WorkerId, upto: u64) {
        if let Some(caller) = self.callers.get_mut(&caller) {
            while caller.answers.front().is_some_and(|(number, _)| *number <= upto) {
                caller.answers.pop_front();
            }
        }
    }

    /// One more call is part of the state.
    fn applied(&mut self, call: CallId, record_bytes: usize, answer: Bytes) {
        self.position += 1;
        self.since_calls += 1;
        self.since_bytes += record_bytes;
        let caller = self.callers.entry(call.caller).or_default();
        assert!(call.number > caller.last, "DUR-2: a call is part of the state twice");
        caller.last = call.number;
        caller.heard = self.position;
        caller.answers.push_back((call.number, answer));
        if self.callers.len() > CALLERS {
            self.forget_callers();
        }
    }

    fn executed<A>(&mut self, now: Duration, call: CallId, record: Bytes, answer: Bytes, effects: &mut Vec<Effect<A>>) {
        assert_eq!(self.running.take(), Some(call), "DUR-2: executed without being told to");
        if self.ended {
            return;
        }
        let answer_bytes = answer.len();
        self.held_bytes += record.len() + answer_bytes;
        self.applied(call, record.len(), answer);
        self.held.push_back(Held {
            call,
            record,
            answer_bytes,
        });
        self.is_due |= self.since_calls >= u64::from(self.settings.every) || self.since_bytes >= LOG_BYTES;
        self.look_at_the_clock(now);
        self.commit(effects);
    }

    fn look_at_the_clock(&mut self, now: Duration) {
        if self.next_deadline().is_some_and(|at| at <= now) {
            self.is_due = true;
        }
    }

    fn tried(&mut self, now: Duration) {
        self.since_calls = 0;
        self.since_bytes = 0;
        self.since = now;
        self.is_due = false;
    }

    fn checkpoint_taken<A>(&mut self, now: Duration, state: Bytes, effects: &mut Vec<Effect<A>>) {
        assert!(self.running.is_none(), "DUR-5: a checkpoint in the middle of a call");
        self.tried(now);
        if self.ended {
            return;
        }
        let mut callers: Vec<CallerState> = (self.callers.iter())
            .map(|(caller, known)| CallerState {
                caller: *caller,
                last: known.last,
                answers: known.answers.iter().cloned().collect(),
            })
            .collect();
        callers.sort_by_key(|known| known.caller);
        self.checkpoint = Some(Checkpoint {
            position: self.position,
            state,
            callers,
        });
        self.commit(effects);
    }

    fn checkpoint_failed<A>(&mut self, now: Duration, effects: &mut Vec<Effect<A>>) {
        self.tried(now);
        if self.records() || self.ended {
            // The log goes on, and the next one may be better.
            return;
        }
        let covered = self
            .checkpoint
            .as_ref()
            .map_or(self.sent, |checkpoint| checkpoint.position);
        effects.extend((covered..self.position).map(|position| Effect::Undo { position }));
        self.ended = true;
    }

    /// Sends what is there, if nothing is under way.
    fn commit<A>(&mut self, effects: &mut Vec<Effect<A>>) {
        if self.committing.is_some() || self.ended {
            return;
        }
        let checkpoint = self.checkpoint.take();
        let first = match &checkpoint {
            Some(checkpoint) => checkpoint.position.max(self.sent),
            None => self.sent,
        };
        let mut records = Vec::new();
        if self.records() {
            let mut bytes = 0;
            let unsent = self.held.iter().skip((first - self.released) as usize);
            for held in unsent.take(COMMIT_CALLS) {
                bytes += held.record.len();
                if bytes > COMMIT_BYTES && !records.is_empty() {
                    break;
                }
                records.push(held.record.clone());
            }
        }
        if checkpoint.is_none() && records.is_empty() {
            return;
        }
        self.sent = first + records.len() as u64;
        self.committing = Some(self.sent);
        effects.push(Effect::Commit(Commit {
            first,
            records,
            checkpoint,
        }));
    }

    fn committed<A>(&mut self, effects: &mut Vec<Effect<A>>) {
        let Some(upto) = self.committing.take() else { return };
        while self.released < upto {
            let held = self.held.pop_front().expect("DUR-1: what is not released is held");
            self.held_bytes -= held.record.len() + held.answer_bytes;
            effects.push(Effect::Release {
                position: self.released,
            });
            self.released += 1;
        }
        self.commit(effects);
    }

    /// An eighth of them at a time, those first that were heard of the longest ago.
    fn forget_callers(&mut self) {
        let is_held = |caller: &WorkerId| self.held.iter().any(|held| held.call.caller == *caller);
        let mut may_go: Vec<(bool, u64, WorkerId)> = (self.callers.iter())
            .filter(|(_, known)| known.answers.is_empty() || self.callers.len() > CALLERS_WITH_ANSWERS)
            .map(|(caller, known)| (!known.answers.is_empty(), known.heard, *caller))
            .collect();
        may_go.sort_unstable();
        may_go.truncate(CALLERS / 8);
        may_go.retain(|(_, _, caller)| !is_held(caller));
        for (_, _, caller) in may_go {
            self.callers.remove(&caller);
        }
    }

    /// Panics with the name of the invariant that does not hold. Slow: for tests.
    pub fn check_invariants(&self) {
        assert_eq!(
            self.released + self.held.len() as u64,
            self.position,
            "DUR-1: what is not released is held"
        );
        assert!(self.released <= self.sent && self.sent <= self.position, "DUR-3: a gap");
        let bytes: usize = (self.held.iter())
            .map(|held| held.record.len() + held.answer_bytes)
            .sum();
        assert_eq!(bytes, self.held_bytes, "bytes held");
        assert!(
            self.committing.is_none_or(|upto| upto == self.sent),
            "DUR-3: what is sent is under way"
        );
        if self.committing.is_none() && !self.ended && self.records() {
            assert_eq!(self.sent, self.position, "DUR-1: a call waits for nothing");
        }
        for caller in self.callers.values() {
            let numbers: Vec<u64> = caller.answers.iter().map(|(number, _)| *number).collect();
            assert!(numbers.is_sorted(), "DUR-2: answers in the order of calls");
            assert!(numbers.last().is_none_or(|last| *last <= caller.last), "DUR-2");
        }
    }
}
