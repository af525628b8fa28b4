//! One task that this process submitted.

use ray_rs_types::TaskId;
use smallvec::SmallVec;

use crate::entry::RefSlot;
use crate::items::Items;

/// Index of a submitted task in this process's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey(pub u32);

/// Where a submitted task stands for its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Some argument is not ready.
    WaitingForArguments,
    /// Handed on, to the dispatcher or to its actor's queue.
    Submitted,
    /// Finished; kept because a return's value could have to be made again.
    Lineage,
}

#[derive(Debug)]
pub(crate) struct Task<V, S> {
    pub spec: S,
    pub state: TaskState,
    /// Arguments not ready yet.
    pub missing: u32,
    /// Top-level references: waited for, then sent as values. One `submitted` count each; in `Lineage`, one `lineage`
    /// count.
    pub deps: SmallVec<[RefSlot; 2]>,
    /// References inside arguments, and the actor handle of a call: only held. Counted likewise.
    pub held: SmallVec<[RefSlot; 0]>,
    /// [`NO_RETURN`] in the place of one whose entry is gone.
    pub returns: SmallVec<[RefSlot; 1]>,
    /// Of a generator, once one has come.
    pub items: Option<Box<Items>>,
    /// Returns and items whose entry still names this task.
    pub live_returns: u32,
    /// -1: for ever.
    pub retries_left: i32,
    pub attempt: u32,
    /// In `Lineage`.
    pub kept: Option<Box<Kept<V>>>,
    /// Another process has submitted it (ADO-1).
    pub inherited_as: Option<Box<TaskId>>,
}

impl<V, S> Task<V, S> {
    pub fn tries_again(&mut self) {
        self.attempt += 1;
        if let Some(items) = &mut self.items {
            items.begins_again();
        }
    }
}

/// The place of a return whose entry is gone.
pub(crate) const NO_RETURN: RefSlot = RefSlot(u32::MAX);

/// What is remembered with a spec that is kept.
#[derive(Debug)]
pub(crate) struct Kept<V> {
    pub bytes: u64,
    /// Its place among all that were ever kept.
    pub order: u64,
    /// To be freed with the spec.
    pub arguments: V,
}
