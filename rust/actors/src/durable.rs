//! Durable actors: each call changes the state exactly once, whatever process or node dies in between.
//!
//! A call is executed, then *committed*: written down off the node, in the order of execution, or covered by a
//! checkpoint. Only then does its caller get the answer. What was not committed when the process died never happened as
//! far as anybody knows: the caller sends the call again, with the number that it had, and the next process, which starts
//! from the last checkpoint and replays the committed calls in their order, executes it for the first time. What was
//! committed is known by the caller and the number; sent again it is not executed, and gets the answer that it had.
//!
//! The log is written *after* the execution, and not before: its order is that of execution without anything else being
//! agreed upon, the answer is part of it, calls go on being executed while others are on their way to the disk, and a
//! call that kills its process leaves nothing that would kill the next one at each replay. A log written before would
//! cost the same disk write per answer, and would have to be undone for calls that are never executed.
//!
//! Three machines, which meet only in messages:
//!
//! * [`numbers`]: in each caller's process; which number a call has, and up to which it has its answers;
//! * [`calls`]: in the actor's process; which call runs, what is committed when, which answers may leave;
//! * [`shelf`]: in the control store, one for each durable actor; what is stored, and from whom it takes anything.
//!
//! # Invariants
//!
//! * `DUR-1` An answer leaves only when its call is committed.
//! * `DUR-2` A call of one caller is executed only if it is newer than all that are part of the state.
//! * `DUR-3` A commit follows without a gap on what is stored; what is stored twice is stored once.
//! * `DUR-4` Nothing of an incarnation is stored once a later one has been told what there is.
//! * `DUR-5` A checkpoint covers exactly the calls before its position, with the answers that their callers may lack.
//!
//! Deliberately not here: what a call or a state is. Both are bytes.

pub mod calls;
pub mod numbers;
pub mod shelf;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use ray_rs_types::WorkerId;

/// A call, by who made it and its number among those that it made to this actor, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    pub caller: WorkerId,
    pub number: u64,
}

/// What is known of one caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerState {
    pub caller: WorkerId,
    /// Its last call that is part of the state.
    pub last: u64,
    /// Answers that it may not have had yet, in the order of their numbers.
    pub answers: Vec<(u64, Bytes)>,
}

/// The actor after so many calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Calls that it covers.
    pub position: u64,
    pub state: Bytes,
    pub callers: Vec<CallerState>,
}
