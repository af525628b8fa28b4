//! What the thread that asks is running.

use std::cell::Cell;

use crate::model::Next;

std::thread_local! {
    /// Number of the task that this thread runs; 0: none; [`CONSTRUCTOR`].
    pub(crate) static EXECUTING: Cell<u64> = const { Cell::new(0) };
    /// This thread runs a normal task, whose CPU is given back while it blocks.
    pub(crate) static EXECUTING_NORMAL: Cell<bool> = const { Cell::new(false) };
}

/// As the number of a task: an actor's constructor runs.
pub(crate) const CONSTRUCTOR: u64 = u64::MAX;

/// This thread is about to do it.
pub(crate) fn note_executing(next: &Option<Next>) {
    match next {
        Some(Next::Task(task)) => {
            EXECUTING_NORMAL.set(task.callee.function_id.is_some());
            EXECUTING.set(task.task_id.unique());
        }
        Some(Next::StartActor(_)) => EXECUTING.set(CONSTRUCTOR),
        Some(Next::Exit { .. } | Next::Checkpoint | Next::Nothing) | None => {}
    }
}
