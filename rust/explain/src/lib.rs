//! Why something does not go on, out of what the processes of a node say of themselves. Pure: a [`Snapshot`] in, words out.
//!
//! * [`why`] tells of one object, task or actor what it waits for, and what that waits for.
//! * [`deadlock`](deadlock()) tells whether a wait can never end because tasks wait for each other.
//!
//! # When a cycle is a deadlock
//!
//! * **EXP-1** A wait in `get` is blocked when one of its objects is (it needs all of them). A wait with a time limit is
//!   not, nor is one for some of its objects: such a one is never counted. A coroutine that awaits is such a wait, too.
//! * **EXP-2** A task is blocked when one of its arguments is, or an earlier call that must go first, or the wait that its
//!   own thread is in. A call that has not begun is blocked when *every* call that occupies its actor's concurrency is;
//!   with one place free it is not.
//! * **EXP-3** What is not known is not blocked: a process that was silent, a row that was left out, a task that waits
//!   for resources.
//! * **EXP-4** Processes answer one after another, so the edges of a cycle in one snapshot need not have held at the same
//!   time. Two snapshots prove that they did, if the second was begun when the first was complete, and all that the
//!   verdict rests on ([`Deadlock::proof`]) is in both: each wait has a serial number that no other wait ever has, so a
//!   wait that is in both snapshots lasted from its one description to the other, and so through the moment between the
//!   snapshots. A task that runs and is in the same wait has not left its place meanwhile; an argument that was missing
//!   in the second was missing all the time. At that moment all edges held, and nobody on the cycle can ever move.
//!
//! Deliberately absent: the questions and the clock. Whoever asks sees to it that the snapshots are apart.

mod deadlock;
mod index;
mod snapshot;
#[cfg(test)]
mod tests;
mod why;

pub use deadlock::{Deadlock, WaitKey, deadlock, deadlocks};
pub use snapshot::{
    Called, Connection, Executing, Hosted, Object, Place, Process, Snapshot, Task, TaskKind, TaskState, Wait, Waiting,
};
pub use why::{Subject, Why, why};
