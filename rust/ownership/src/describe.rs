//! The table as it is seen from outside, for explanations and lists. Walks it: nothing here is on the way of a task.

use ray_rs_types::ObjectId;

use crate::entry::{Entry, OwnerIndex, RefKind, RefSlot, State};
use crate::table::OwnerTable;
use crate::task::{TaskKey, TaskState};

/// One object, owned or borrowed.
#[derive(Debug)]
pub struct ObjectView<'a, V> {
    pub id: ObjectId,
    pub owner: OwnerIndex,
    pub kind: RefKind,
    /// The value, and whether it is an error.
    pub value: Option<(&'a V, bool)>,
    pub local: u32,
    pub submitted: u32,
    pub contained: u32,
    /// Processes that borrow it.
    pub borrowers: usize,
    /// As [`OwnerTable::made_at`] was told; 0: nothing.
    pub site: u32,
    /// The task that makes it, while it does; or would make it again, if it is gone.
    pub task: Option<TaskKey>,
    /// It was lost, or let go, and nobody has needed it since.
    pub is_gone: bool,
}

fn view<V>(entry: &Entry<V>) -> ObjectView<'_, V> {
    let value = match &entry.state {
        State::Ready { value, is_error } => Some((value, *is_error)),
        State::Absent | State::Fetching | State::Gone => None,
    };
    ObjectView {
        id: entry.id,
        owner: entry.owner,
        kind: entry.kind,
        value,
        local: entry.local,
        submitted: entry.submitted,
        contained: entry.contained,
        borrowers: entry.borrowers.len(),
        site: entry.site,
        task: entry.task.filter(|_| value.is_none() && entry.owner == OwnerIndex::ME),
        is_gone: matches!(entry.state, State::Gone),
    }
}

impl<V, S> OwnerTable<V, S> {
    /// All references, in no order.
    pub fn objects(&self) -> impl Iterator<Item = ObjectView<'_, V>> {
        self.entries.iter().map(|(_, entry)| view(entry))
    }

    /// One of them, while it is there.
    pub fn object(&self, slot: RefSlot) -> Option<ObjectView<'_, V>> {
        self.entries.get(slot.0).map(view)
    }

    /// What is kept of all tasks, those that have ended and may run again among them.
    pub fn specs(&self) -> impl Iterator<Item = &S> {
        self.tasks.iter().map(|(_, task)| &task.spec)
    }

    /// The tasks that have not ended, in no order.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskKey, TaskState, &S)> {
        self.tasks
            .iter()
            .filter(|(_, task)| task.state != TaskState::Lineage)
            .map(|(index, task)| (TaskKey(index), task.state, &task.spec))
    }

    /// The arguments of a task that are not there.
    pub fn missing_arguments(&self, key: TaskKey) -> impl Iterator<Item = ObjectId> {
        let deps = self.tasks.get(key.0).map_or(&[][..], |task| &task.deps);
        deps.iter()
            .filter_map(|slot| self.entries.get(slot.0))
            .filter(|entry| !entry.is_ready())
            .map(|entry| entry.id)
    }
}
