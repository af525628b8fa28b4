//! A lease in this owner's hands.

use std::collections::VecDeque;
use std::time::Duration;

use crate::event::{LeaseKey, TaskKey};
use crate::function::ALONE;

/// What a lease is doing. See `docs/states/lease.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Runs nothing; kept for a while in case more work comes.
    Idle,
    /// Runs one task of unknown or long run time and gets nothing more until that has finished.
    Alone,
    /// Runs short tasks, a window of them.
    Streaming,
    /// Made no progress for long though several tasks were in flight, or others waited for room beside one; gets nothing
    /// until one finishes.
    Stalled,
    /// Its current task waits for others and gave the rest back; gets nothing until one finishes.
    Blocked,
    /// The raylet wants it back; gets nothing any more.
    Revoked,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) key: LeaseKey,
    pub(crate) class: u32,
    pub(crate) state: LeaseState,
    /// Sum of the charges of `in_flight`, in nanoseconds.
    pub(crate) load: u32,
    /// In the order of pushing; the first one is what the worker runs, if it has begun.
    pub(crate) in_flight: VecDeque<TaskKey>,
    /// When a task last finished, or when it got its first task, whichever is later. While idle: since when.
    pub(crate) last_progress: Duration,
    /// A task of it has finished.
    pub(crate) has_served: bool,
}

impl Lease {
    pub(crate) fn new(key: LeaseKey, class: u32, now: Duration) -> Self {
        Self {
            key,
            class,
            state: LeaseState::Idle,
            load: 0,
            in_flight: VecDeque::new(),
            last_progress: now,
            has_served: false,
        }
    }

    /// Whether a task of that charge may be pushed (`DSP-2`, `DSP-4`).
    pub(crate) fn takes(&self, charge: u32) -> bool {
        match self.state {
            LeaseState::Idle => true,
            LeaseState::Streaming => self.load + charge <= ALONE,
            LeaseState::Alone | LeaseState::Stalled | LeaseState::Blocked | LeaseState::Revoked => false,
        }
    }
}
