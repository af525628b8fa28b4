//! What the table orders, and who waits for an object.

use ray_rs_types::ObjectId;

use crate::entry::{OwnerIndex, RefSlot};
use crate::task::TaskKey;

/// Who is to be told when an object becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watcher {
    /// A thread inside `get` or `wait`; the number is the core worker's.
    Waiter(u32),
    /// Another process that asked for the value, by the core worker's number of its lane.
    Peer { lane: u32, request: u64 },
    /// The language above asked to be told.
    Notify(u64),
    /// A task that has it as an argument.
    Task(TaskKey),
}

/// An order to the core worker.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<V> {
    /// A task that had finished runs once more, since somebody needs a value of its that is gone; an attempt is counted.
    /// [`Self::TaskReady`] or [`Self::ArgumentFailed`] follows when its arguments are there.
    TaskAgain(TaskKey),
    /// Somebody needs a value that is gone, and the spec of its task was dropped ([`crate::NoLineage::Evicted`]): it must be
    /// [`crate::OwnerTable::fetched`] as an error.
    CannotBeMade { slot: RefSlot },
    /// All arguments are there: hand the task to the dispatcher or to its actor's queue.
    TaskReady(TaskKey),
    /// An argument is an error: the task must be finished with that error, without running.
    ArgumentFailed { task: TaskKey, argument: RefSlot },
    /// `slot` became ready.
    Tell { watcher: Watcher, slot: RefSlot },
    /// Comes after what is told of an object that nobody is known to hold: a process has asked for it whose grant is still on its
    /// way (ADO-5). One [`crate::OwnerTable::local_dropped`], so that the value is there while it is told.
    LetGo { slot: RefSlot },
    /// Nobody can reach the value any more: give its memory back.
    Free { value: V },
    /// The same for an error that a task left and nobody ever looked at.
    FreeUnseenError { value: V },
    /// Ask the owner for the value of a borrowed object.
    Fetch {
        slot: RefSlot,
        id: ObjectId,
        owner: OwnerIndex,
    },
    /// Tell `owner` that `borrower` holds the object once more (OWN-1).
    GrantBorrow {
        owner: OwnerIndex,
        id: ObjectId,
        borrower: OwnerIndex,
    },
    /// Give `count` grants back to the owner (OWN-1).
    ReturnBorrow {
        owner: OwnerIndex,
        id: ObjectId,
        count: u32,
    },
    /// No handle of the actor is left anywhere.
    ActorHandlesGone { id: ObjectId },
}
