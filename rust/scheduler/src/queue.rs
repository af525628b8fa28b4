//! Waiting requests of one source and shape, in their order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ray_rs_types::ActorId;

use crate::event::{ClientKey, EnvKey, JobKey, RequestKey};
use crate::shape::Shape;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Client(ClientKey),
    /// The control store, on behalf of the actors of a job.
    Actors(JobKey),
}

/// A queue is a source, a resource shape and an environment; the turns are taken among queues.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct QueueKey {
    pub source: Source,
    pub shape: Shape,
    pub env: EnvKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    Lease(ClientKey, RequestKey),
    Actor(ActorId),
}

#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub wanted: Wanted,
    pub name: Arc<str>,
    /// Name of the task or class, as its people call it.
    pub task: Arc<str>,
    pub since: Duration,
    /// There is no task for it yet.
    pub ahead: bool,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub job: JobKey,
    pub items: VecDeque<Item>,
    /// Leases of this queue that are granted or wait for their worker only.
    pub held: usize,
    /// Of those, the ones asked back.
    pub revoked: usize,
    /// Grants to others, of something that the head lacks, since the head's turn had come.
    pub passed_over: u32,
    /// Since when its first request waits for memory, if it does.
    pub held_back_since: Option<Duration>,
    /// A person was told that this shape can never run here.
    pub told_infeasible: bool,
    /// A person was told that this shape has waited for very long.
    pub told_stuck: bool,
}

impl Queue {
    pub fn new(job: JobKey) -> Self {
        Self {
            job,
            items: VecDeque::new(),
            held: 0,
            revoked: 0,
            passed_over: 0,
            held_back_since: None,
            told_infeasible: false,
            told_stuck: false,
        }
    }

    /// Leases that it will still have when all revocations have been obeyed.
    pub fn keeps(&self) -> usize {
        self.held - self.revoked
    }

    pub fn is_forgettable(&self) -> bool {
        self.items.is_empty() && self.held == 0
    }
}
