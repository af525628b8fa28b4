//! Where each task sits, and the queue of one class.

use std::collections::VecDeque;

use crate::event::TaskKey;

/// Where a task sits. See `docs/states/task.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskPlace {
    /// The key is free.
    Unknown,
    /// In the queue of its class.
    Queued,
    /// Pushed to a lease, which has not answered.
    InFlight,
    /// As `InFlight`, and a withdrawal has been ordered whose result is not known yet.
    Withdrawing,
}

/// One entry of the dispatcher's array over task keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskSlot {
    pub(crate) place: TaskPlace,
    /// Grows each time the key is queued, so that entries left behind in a queue are known as such.
    pub(crate) stamp: u32,
    pub(crate) class: u32,
    pub(crate) function: u32,
    /// While in flight: index of the lease.
    pub(crate) lease: u32,
    /// While in flight: what the lease was charged for it.
    pub(crate) charge: u32,
}

impl TaskSlot {
    pub(crate) const FREE: Self = Self {
        place: TaskPlace::Unknown,
        stamp: 0,
        class: 0,
        function: 0,
        lease: 0,
        charge: 0,
    };

    pub(crate) fn in_flight(&self) -> bool {
        matches!(self.place, TaskPlace::InFlight | TaskPlace::Withdrawing)
    }
}

/// First in, first out. A task that leaves from the middle leaves its entry behind (its stamp no longer matches); entries
/// are dropped when they come to the head, or all at once when they outnumber the living.
#[derive(Debug, Default)]
pub(crate) struct ClassQueue {
    entries: VecDeque<(TaskKey, u32)>,
    living: usize,
}

impl ClassQueue {
    pub(crate) fn len(&self) -> usize {
        self.living
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.living == 0
    }

    pub(crate) fn push_back(&mut self, task: TaskKey, slot: &mut TaskSlot) {
        self.entries.push_back((task, Self::enter(slot)));
        self.living += 1;
    }

    pub(crate) fn push_front(&mut self, task: TaskKey, slot: &mut TaskSlot) {
        self.entries.push_front((task, Self::enter(slot)));
        self.living += 1;
    }

    fn enter(slot: &mut TaskSlot) -> u32 {
        slot.place = TaskPlace::Queued;
        slot.stamp = slot.stamp.wrapping_add(1);
        slot.stamp
    }

    /// The task whose turn it is.
    pub(crate) fn head(&mut self, tasks: &[TaskSlot]) -> Option<TaskKey> {
        while let Some(&(task, stamp)) = self.entries.front() {
            if is_living(tasks, task, stamp) {
                return Some(task);
            }
            self.entries.pop_front();
        }
        None
    }

    /// Takes what [`Self::head`] has just returned; the caller sets the task's new place.
    pub(crate) fn pop(&mut self) {
        self.entries.pop_front();
        self.living -= 1;
    }

    /// `task` has just left by another way: its place is no longer `Queued`.
    pub(crate) fn forget_one(&mut self, tasks: &[TaskSlot]) {
        self.living -= 1;
        if self.entries.len() > 2 * self.living + 64 {
            self.entries.retain(|&(task, stamp)| is_living(tasks, task, stamp));
        }
    }

    pub(crate) fn iter<'a>(&'a self, tasks: &'a [TaskSlot]) -> impl Iterator<Item = TaskKey> + 'a {
        self.entries
            .iter()
            .filter(|&&(task, stamp)| is_living(tasks, task, stamp))
            .map(|&(task, _)| task)
    }
}

fn is_living(tasks: &[TaskSlot], task: TaskKey, stamp: u32) -> bool {
    let slot = &tasks[task.0 as usize];
    slot.place == TaskPlace::Queued && slot.stamp == stamp
}
