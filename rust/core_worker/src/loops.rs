//! The event loops of an async actor: one, or one for each concurrency group, each on a thread of its own.
//!
//! A loop sleeps in `epoll`, where only its own eventfd can end the sleep. It says so first ([`CoreWorker::arm_loop`]), and
//! whoever then leaves the lock with a call for it in the queue writes the eventfd, once. Calls that still lie in lanes
//! must not be overseen either: a thread that sleeps on the doorbell in a `get` wants [`EXEC`] as well, and as long as
//! a loop sleeps so does the progress thread.
//!
//! [`Rooms`] decides which loop may begin a call, and when all are to end; it knows neither lock nor clock.
//!
//! * `LOOP-1`: a loop that is armed has no call to begin in the queue, or its eventfd is readable.
//! * `LOOP-2`: while a loop is armed, a ring for `EXEC` wakes somebody who drains the lanes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ray_rs_lanes::{EXEC, PROGRESS};
use rustix::event::{EventfdFlags, eventfd};

use crate::core::CoreWorker;
use crate::state::State;

/// A loop's place among those of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopSeat(usize);

#[derive(Debug)]
struct Seat {
    /// `None`: takes the calls of all groups.
    group: Option<Box<str>>,
    event: Arc<OwnedFd>,
    asleep: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Loops {
    seats: Vec<Seat>,
    asleep: usize,
    /// The queue has changed since sleeping loops were last looked at.
    changed: bool,
}

impl Loops {
    /// Something may now be the first in the queue for some loop.
    pub fn queue_changed(&mut self) {
        self.changed = true;
    }

    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// What is to write the doorbell's eventfd on behalf of loops.
    pub fn wants(&self) -> u32 {
        if self.asleep > 0 { EXEC } else { 0 }
    }

    fn set_asleep(&mut self, at: usize, asleep: bool) {
        let was = std::mem::replace(&mut self.seats[at].asleep, asleep);
        self.asleep = self.asleep + usize::from(asleep) - usize::from(was);
    }
}

impl State {
    /// Ends the sleep of loops that have something to do now. Part of leaving the lock.
    #[inline]
    pub fn wake_loops(&mut self) {
        if self.execution.loops.asleep > 0 {
            self.look_at_sleeping_loops();
        }
    }

    fn look_at_sleeping_loops(&mut self) {
        let changed = std::mem::take(&mut self.execution.loops.changed);
        for at in 0..self.execution.loops.seats.len() {
            let seat = &self.execution.loops.seats[at];
            // Looking for a group's next call may go through the whole queue.
            if seat.asleep && (changed || seat.group.is_none()) && self.has_work_for(seat.group.as_deref()) {
                self.execution.loops.set_asleep(at, false);
                let _ = rustix::io::write(&*self.execution.loops.seats[at].event, &1u64.to_ne_bytes());
            }
        }
    }
}

impl CoreWorker {
    /// A further loop of the actor hosted here.
    ///
    /// # Errors
    /// When the process may not open another file descriptor.
    pub fn add_loop(&self, group: Option<&str>) -> std::io::Result<LoopSeat> {
        let seat = Seat {
            group: group.map(Into::into),
            event: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            asleep: false,
        };
        Ok(self.with(|state| {
            state.execution.loops.seats.push(seat);
            LoopSeat(state.execution.loops.seats.len() - 1)
        }))
    }

    /// What the loop is to have in its selector.
    pub fn loop_eventfd(&self, seat: LoopSeat) -> Arc<OwnedFd> {
        Arc::clone(&self.state.lock().execution.loops.seats[seat.0].event)
    }

    /// For a loop that is about to sleep. True when there is work already.
    pub fn arm_loop(&self, seat: LoopSeat) -> bool {
        self.with(|state| {
            state.drain_lanes(64);
            state.ring_callers();
            let has_work = |state: &State| state.has_work_for(state.execution.loops.seats[seat.0].group.as_deref());
            if has_work(state) {
                return true;
            }
            state.execution.loops.set_asleep(seat.0, true);
            if !state.holder {
                self.bell.arm_eventfd(EXEC | PROGRESS);
            }
            state.drain_lanes(64);
            let has_work = has_work(state);
            if has_work {
                state.execution.loops.set_asleep(seat.0, false);
            }
            has_work
        })
    }

    /// The loop no longer sleeps.
    pub fn disarm_loop(&self, seat: LoopSeat) {
        let mut state = self.state.lock();
        let loops = &mut state.execution.loops;
        loops.set_asleep(seat.0, false);
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&*loops.seats[seat.0].event, &mut count);
    }
}

/// Which loop may begin a call, and when all end. `E`: why they end.
#[derive(Debug)]
pub struct Rooms<E> {
    /// The constructor has returned.
    constructed: bool,
    rooms: Vec<Room>,
    exit: Option<(E, Haste)>,
}

#[derive(Debug)]
struct Room {
    running: usize,
    limit: usize,
}

/// Whether calls that run are finished before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    AfterCalls,
    AtOnce,
}

impl<E> Rooms<E> {
    /// `limits`: of each loop, how many calls may run at the same time; at least one in any case.
    pub fn new(limits: impl IntoIterator<Item = usize>) -> Self {
        let room = |limit: usize| Room {
            running: 0,
            limit: limit.max(1),
        };
        Self {
            constructed: false,
            rooms: limits.into_iter().map(room).collect(),
            exit: None,
        }
    }

    /// Calls may begin.
    pub fn constructed(&mut self) {
        self.constructed = true;
    }

    /// Whether the loop would take a call.
    pub fn is_open(&self, at: usize) -> bool {
        self.constructed && self.exit.is_none() && self.rooms[at].running < self.rooms[at].limit
    }

    /// Takes room for a call before one is looked for, so that no end can come between.
    pub fn reserve(&mut self, at: usize) -> bool {
        let is_open = self.is_open(at);
        self.rooms[at].running += usize::from(is_open);
        is_open
    }

    /// A call has ended, or none was found. Whether all loops are to end.
    pub fn release(&mut self, at: usize) -> bool {
        let room = &mut self.rooms[at];
        room.running = room.running.checked_sub(1).expect("it was reserved");
        self.all_end()
    }

    /// No more calls begin. The first reason counts, unless one with more haste follows. Whether all loops are to end.
    pub fn stop(&mut self, exit: E, haste: Haste) -> bool {
        let known = self.exit.as_ref().map(|(_, known)| *known);
        if known.is_none_or(|known| known == Haste::AfterCalls && haste == Haste::AtOnce) {
            self.exit = Some((exit, haste));
        }
        self.all_end()
    }

    fn all_end(&self) -> bool {
        let is_idle = || self.rooms.iter().all(|room| room.running == 0);
        (self.exit.as_ref()).is_some_and(|(_, haste)| *haste == Haste::AtOnce || is_idle())
    }

    /// Why they end.
    pub fn exit(&self) -> Option<&E> {
        self.exit.as_ref().map(|(exit, _)| exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_before_the_constructor_has_returned_or_over_the_limit() {
        let mut rooms = Rooms::<&str>::new([1, 2]);
        assert!(!rooms.reserve(0) && !rooms.is_open(1));
        rooms.constructed();
        assert!(rooms.reserve(0) && !rooms.reserve(0), "one room has one place");
        assert!(rooms.reserve(1) && rooms.reserve(1) && !rooms.reserve(1));
        assert!(!rooms.release(0) && rooms.reserve(0), "a place that is left is free");
        assert_eq!(rooms.exit(), None);
    }

    #[test]
    fn a_limit_of_nothing_is_one() {
        let mut rooms = Rooms::<&str>::new([0]);
        rooms.constructed();
        assert!(rooms.reserve(0) && !rooms.reserve(0));
    }

    #[test]
    fn all_end_when_the_last_call_of_any_loop_has() {
        let mut rooms = Rooms::new([1, 1]);
        rooms.constructed();
        assert!(rooms.reserve(0) && rooms.reserve(1));
        assert!(!rooms.stop("dropped", Haste::AfterCalls) && !rooms.is_open(0));
        assert!(
            !rooms.release(0) && !rooms.reserve(0),
            "the other loop still runs a call"
        );
        assert!(rooms.release(1));
        assert!(rooms.stop("later", Haste::AfterCalls));
        assert_eq!(rooms.exit(), Some(&"dropped"));
    }

    #[test]
    fn an_end_at_once_waits_for_nobody() {
        let mut rooms = Rooms::new([1, 1]);
        rooms.constructed();
        assert!(rooms.reserve(1));
        assert!(!rooms.stop("dropped", Haste::AfterCalls));
        assert!(rooms.stop("killed", Haste::AtOnce));
        assert!(rooms.stop("again", Haste::AtOnce));
        assert_eq!(rooms.exit(), Some(&"killed"));
    }

    #[test]
    fn a_loop_that_found_no_call_may_be_the_last() {
        let mut rooms = Rooms::new([1, 1]);
        rooms.constructed();
        assert!(rooms.reserve(0));
        assert!(
            !rooms.stop("dropped", Haste::AfterCalls),
            "it may be about to begin one"
        );
        assert!(rooms.release(0));
    }
}
