//! In which order the calls of one caller leave for one actor, and what becomes of them when the actor restarts or dies.
//!
//! Every process that calls an actor keeps one [`CallOrder`] for it, under its core worker's lock. Arguments, values,
//! lanes and the GCS's news are the caller's; here calls are bare numbers.
//!
//! # Invariants
//!
//! * `ORD-1` A call that was submitted leaves once: replied, dropped or failed.
//! * `ORD-2` Calls are sent in the order of their submission, also again after a restart; a call whose arguments are not
//!   ready holds up the later ones. Unless the actor runs `out_of_order`: then calls are sent as they become ready.
//!   What is to be sent once more keeps its place, or goes first: calls that wait may wait for what it gives.
//! * `ORD-3` At most [`MAX_CALLS_IN_FLIGHT`] calls are sent and not replied, and only to an actor that is placed.
//! * `ORD-4` A call is sent once, and once more for each of its retries; one that the actor did not start is not counted.
//!
//! The state page is `docs/states/actor.md`.

use std::collections::VecDeque;

use ray_rs_types::WorkerId;
use ray_rs_types::config::MAX_CALLS_IN_FLIGHT;
use rustc_hash::FxHashMap;

/// A call, as numbered by its caller. Free to be used again once the call has left (`ORD-1`); the caller sees to it that
/// no event about the old call comes after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey(pub u32);

/// What the actor's creator and the caller chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// Most calls that may be submitted and not left; None is no limit. Asked by [`CallOrder::would_overflow`].
    pub max_pending: Option<usize>,
    /// Retries of calls submitted with [`ACTORS_RETRIES`].
    pub max_task_retries: i32,
    /// Calls need not wait for earlier ones (asynchronous and threaded actors that ask for it).
    pub out_of_order: bool,
}

/// As `retries` of a call: what [`Config::max_task_retries`] says.
pub const ACTORS_RETRIES: i32 = i32::MIN;

/// A fact. One about a call that has left is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// `ready`: its arguments are there. `retries`: how often it may be sent again; -1 is for ever.
    CallSubmitted { call: CallKey, ready: bool, retries: i32 },
    /// One that had left is to run once more, since what it gave is lost; its arguments may be lost as well.
    CallRunsAgain { call: CallKey, retries: i32 },
    /// Its arguments are there now.
    CallReady { call: CallKey },
    /// The caller has dealt with it: an argument failed, or it was cancelled before the actor started it.
    CallDropped { call: CallKey },
    /// The actor lives in this process, which can be reached. News of an older incarnation are ignored. One incarnation may
    /// come to another process, if the control store did not hear of the first before that had ended.
    Placed { incarnation: u32, worker: WorkerId },
    /// The actor's process is gone or cannot be reached, and a new one may come.
    Restarting,
    /// The actor will not come back.
    Dead,
    /// The answer is there.
    CallReplied { call: CallKey },
    /// The answer is an error after which it is to be sent again: one of its retries, as the caller has looked.
    CallRepeats { call: CallKey },
    /// The actor's process let it be, because it is leaving: the call waits for the next incarnation and keeps its retries.
    CallNotRun { call: CallKey },
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It may have run in a process that is gone, and it has no retries left; later calls may succeed.
    Unavailable,
    /// The actor is dead.
    Died,
}

/// An order to the caller's shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Write the call to the actor's lane.
    Send { call: CallKey },
    /// The process is gone that it was sent to, which took one of its retries. It will be sent again.
    TryLost { call: CallKey },
    /// Let the call fail; it has left.
    Fail { call: CallKey, why: Why },
}

/// What the caller knows of the actor. See `docs/states/actor.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Not placed yet.
    Unresolved,
    /// Calls are sent.
    Connected,
    /// Between two processes; calls queue.
    Restarting,
    /// Calls fail.
    Dead,
}

/// Where a call sits. See `docs/states/actor.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallPlace {
    /// Its arguments are not ready.
    Waiting,
    /// It waits for its turn.
    Ready,
    /// Sent, not replied.
    InFlight,
}

#[derive(Debug, Clone, Copy)]
struct Call {
    place: CallPlace,
    /// Number of its submission: the order, and what tells a call from an earlier one of the same key.
    seq: u64,
    /// It has left before, and holds nothing up: it gets its number, before all others, when its arguments are there.
    again: bool,
    /// Sends that are left after the first; -1 for ever.
    retries: i32,
}

/// Decides for one caller and one actor.
#[derive(Debug)]
pub struct CallOrder {
    config: Config,
    connection: Connection,
    incarnation: Option<u32>,
    worker: Option<WorkerId>,
    calls: FxHashMap<CallKey, Call>,
    /// Calls to be sent, next first; those that have left meanwhile are skipped when they come up. Sorted by `seq`, and
    /// with the waiting ones among them, unless `out_of_order`: then only ready ones.
    queue: VecDeque<(u64, CallKey)>,
    in_flight: usize,
    next_seq: u64,
    /// The lowest number that was given to one that runs again.
    first_seq: u64,
}

/// Numbers of submissions begin here, so that there are enough before the first.
const FIRST_SEQ: u64 = 1 << 62;

impl CallOrder {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            connection: Connection::Unresolved,
            incarnation: None,
            worker: None,
            calls: FxHashMap::default(),
            queue: VecDeque::new(),
            in_flight: 0,
            next_seq: FIRST_SEQ,
            first_seq: FIRST_SEQ,
        }
    }

    /// Whether one more call would be too many; ask before submitting.
    pub fn would_overflow(&self) -> bool {
        self.config.max_pending.is_some_and(|most| self.calls.len() >= most)
    }

    /// Calls that have not left.
    pub fn pending(&self) -> usize {
        self.calls.len()
    }

    /// Calls sent and not replied.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub fn connection(&self) -> Connection {
        self.connection
    }

    /// Where a call sits; None when it has left.
    pub fn place(&self, call: CallKey) -> Option<CallPlace> {
        self.calls.get(&call).map(|call| call.place)
    }

    /// The call that holds the later ones up, since its arguments are not ready (`ORD-2`).
    pub fn holds_up_others(&self) -> Option<CallKey> {
        if self.config.out_of_order {
            return None;
        }
        let mut living = self
            .queue
            .iter()
            .filter(|(seq, key)| self.calls.get(key).is_some_and(|call| call.seq == *seq));
        let (_, first) = living.next()?;
        (self.calls[first].place == CallPlace::Waiting).then_some(*first)
    }

    /// Takes in one fact and appends the orders that follow from it.
    pub fn on_event(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::CallSubmitted { call, ready, retries } => self.call_submitted(call, ready, retries, effects),
            Event::CallRunsAgain { call, retries } => self.call_runs_again(call, retries, effects),
            Event::CallReady { call } => self.call_ready(call, effects),
            Event::CallRepeats { call } => self.call_repeats(call, effects),
            Event::CallDropped { call } | Event::CallReplied { call } => self.call_left(call, effects),
            Event::CallNotRun { call } => self.call_not_run(call),
            Event::Placed { incarnation, worker } => self.placed(incarnation, worker, effects),
            Event::Restarting => self.restarting(effects),
            Event::Dead => self.dead(effects),
        }
    }

    fn call_submitted(&mut self, key: CallKey, ready: bool, retries: i32, effects: &mut Vec<Effect>) {
        if self.connection == Connection::Dead {
            effects.push(Effect::Fail {
                call: key,
                why: Why::Died,
            });
            return;
        }
        let retries = if retries == ACTORS_RETRIES {
            self.config.max_task_retries
        } else {
            retries
        };
        let seq = self.next_seq;
        self.next_seq += 1;
        let at_once = ready && self.can_send() && self.queue.is_empty();
        let place = match (at_once, ready) {
            (true, _) => CallPlace::InFlight,
            (false, true) => CallPlace::Ready,
            (false, false) => CallPlace::Waiting,
        };
        let again = false;
        let earlier = self.calls.insert(
            key,
            Call {
                place,
                seq,
                again,
                retries,
            },
        );
        assert!(earlier.is_none(), "ORD-1: call {} is submitted twice", key.0);
        if at_once {
            self.in_flight += 1;
            effects.push(Effect::Send { call: key });
        } else if ready || !self.config.out_of_order {
            self.queue.push_back((seq, key));
            self.send_queued(effects);
        }
    }

    fn call_runs_again(&mut self, key: CallKey, retries: i32, effects: &mut Vec<Effect>) {
        if self.connection == Connection::Dead {
            effects.push(Effect::Fail {
                call: key,
                why: Why::Died,
            });
            return;
        }
        let call = Call {
            place: CallPlace::Waiting,
            seq: 0,
            again: true,
            retries,
        };
        let earlier = self.calls.insert(key, call);
        assert!(earlier.is_none(), "ORD-1: call {} is submitted twice", key.0);
    }

    fn call_repeats(&mut self, key: CallKey, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if call.place == CallPlace::InFlight {
            call.place = CallPlace::Ready;
            call.retries -= i32::from(call.retries > 0);
            let seq = call.seq;
            self.in_flight -= 1;
            self.enqueue_again(seq, key);
            self.send_queued(effects);
        }
    }

    fn call_ready(&mut self, key: CallKey, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if call.place == CallPlace::Waiting {
            call.place = CallPlace::Ready;
            if call.again {
                self.first_seq -= 1;
                call.seq = self.first_seq;
                self.queue.push_front((call.seq, key));
            } else if self.config.out_of_order {
                self.queue.push_back((call.seq, key));
            }
            self.send_queued(effects);
        }
    }

    fn call_left(&mut self, key: CallKey, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.remove(&key) else { return };
        self.in_flight -= usize::from(call.place == CallPlace::InFlight);
        self.send_queued(effects);
        self.forget_entries_of_the_left();
    }

    fn call_not_run(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if call.place == CallPlace::InFlight {
            call.place = CallPlace::Ready;
            let seq = call.seq;
            self.in_flight -= 1;
            self.enqueue_again(seq, key);
            // The process that refused this call would refuse the next ones.
            self.connection = Connection::Restarting;
        }
    }

    fn placed(&mut self, incarnation: u32, worker: WorkerId, effects: &mut Vec<Effect>) {
        if self.connection == Connection::Dead || self.incarnation > Some(incarnation) {
            return;
        }
        if self.connection == Connection::Connected {
            if self.incarnation == Some(incarnation) && self.worker == Some(worker) {
                return;
            }
            // The news of the restart was overtaken by that of the new place.
            self.restarting(effects);
        }
        self.connection = Connection::Connected;
        self.incarnation = Some(incarnation);
        self.worker = Some(worker);
        self.send_queued(effects);
    }

    fn restarting(&mut self, effects: &mut Vec<Effect>) {
        if self.connection == Connection::Dead {
            return;
        }
        self.connection = Connection::Restarting;
        // Last ones first, each to the front: so they stand in the queue as they were submitted.
        let mut failed = Vec::new();
        let mut again = Vec::new();
        for (seq, key) in self.sorted(|call| call.place == CallPlace::InFlight).into_iter().rev() {
            let call = self.calls.get_mut(&key).expect("listed just now");
            if call.retries == 0 {
                self.calls.remove(&key);
                failed.push(key);
            } else {
                call.place = CallPlace::Ready;
                call.retries -= i32::from(call.retries > 0);
                self.enqueue_again(seq, key);
                again.push(key);
            }
        }
        self.in_flight = 0;
        effects.extend(again.into_iter().rev().map(|call| Effect::TryLost { call }));
        effects.extend(failed.into_iter().rev().map(|call| Effect::Fail {
            call,
            why: Why::Unavailable,
        }));
    }

    fn dead(&mut self, effects: &mut Vec<Effect>) {
        self.connection = Connection::Dead;
        let all = self.sorted(|_| true);
        effects.extend(all.into_iter().map(|(_, call)| Effect::Fail { call, why: Why::Died }));
        self.calls.clear();
        self.queue.clear();
        self.in_flight = 0;
    }

    fn can_send(&self) -> bool {
        self.connection == Connection::Connected && self.in_flight < MAX_CALLS_IN_FLIGHT
    }

    fn send_queued(&mut self, effects: &mut Vec<Effect>) {
        while self.can_send() {
            let Some(&(seq, key)) = self.queue.front() else { return };
            match self.calls.get_mut(&key) {
                Some(call) if call.seq == seq => {
                    if call.place == CallPlace::Waiting {
                        return;
                    }
                    call.place = CallPlace::InFlight;
                    self.in_flight += 1;
                    effects.push(Effect::Send { call: key });
                }
                // It has left.
                Some(_) | None => {}
            }
            self.queue.pop_front();
        }
    }

    /// A call that was sent goes back before those that were submitted after it.
    fn enqueue_again(&mut self, seq: u64, key: CallKey) {
        let at = if self.config.out_of_order {
            0
        } else {
            self.queue.partition_point(|&(other, _)| other < seq)
        };
        self.queue.insert(at, (seq, key));
    }

    fn sorted(&self, wanted: impl Fn(&Call) -> bool) -> Vec<(u64, CallKey)> {
        let mut calls: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, call)| wanted(call))
            .map(|(&key, call)| (call.seq, key))
            .collect();
        calls.sort_unstable();
        calls
    }

    /// Calls dropped from the middle of a queue that does not move must not pile up there.
    fn forget_entries_of_the_left(&mut self) {
        if self.queue.len() > 2 * (self.calls.len() - self.in_flight) + 64 {
            let calls = &self.calls;
            self.queue
                .retain(|(seq, key)| calls.get(key).is_some_and(|call| call.seq == *seq));
        }
    }

    /// Panics with the name of the invariant that does not hold. Slow: for tests.
    pub fn check_invariants(&self) {
        let in_flight = self
            .calls
            .values()
            .filter(|call| call.place == CallPlace::InFlight)
            .count();
        assert_eq!(in_flight, self.in_flight, "ORD-3: count of calls in flight");
        assert!(in_flight <= MAX_CALLS_IN_FLIGHT, "ORD-3: window exceeded");
        assert!(
            in_flight == 0 || self.connection != Connection::Dead,
            "ORD-1: in flight to a dead actor"
        );
        assert!(
            self.calls.is_empty() || self.connection != Connection::Dead,
            "ORD-1: waiting for a dead actor"
        );
        let living = |(seq, key): &&(u64, CallKey)| {
            self.calls
                .get(key)
                .is_some_and(|call| call.seq == *seq && call.place != CallPlace::InFlight)
        };
        let queued: Vec<_> = self.queue.iter().filter(living).collect();
        let expected = self.calls.values().filter(|call| match call.place {
            CallPlace::Waiting => !self.config.out_of_order && !call.again,
            CallPlace::Ready => true,
            CallPlace::InFlight => false,
        });
        assert_eq!(queued.len(), expected.count(), "ORD-1: a call is queued once");
        assert!(
            self.config.out_of_order || queued.is_sorted(),
            "ORD-2: queued out of order"
        );
        let next_waits = queued
            .first()
            .is_none_or(|(_, key)| self.calls[key].place == CallPlace::Waiting);
        assert!(!self.can_send() || next_waits, "ORD-2: a call could be sent");
    }
}

#[cfg(test)]
mod tests;
