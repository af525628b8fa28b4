//! What a node does before its memory runs out.
//!
//! [`MemoryWatch`] is told what the node uses and what each worker uses, and decides in two steps. Short of the line, new
//! leases are held back and idle workers leave; beyond it, one worker at a time is ended: the newest retriable task of the
//! owner that runs most of them, so that what has run longest ends well. It learns what each function needed at most, and
//! a lease for a function that would not fit waits ([`Admission`]).
//!
//! Promises:
//! * `MEM-1` while one ordered end is under way, no other is ordered.
//! * `MEM-2` what cannot be run again is ended only when nothing that can be is left.
//! * `MEM-3` a task that has the node to itself and still does not fit is not tried again: it would never end.
//! * `MEM-4` nothing is read while no worker is busy, and far from the limit the node's use only.
//!
//! Deliberately absent: files, processes, the clock. The raylet reads and kills.

mod victim;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::admission::Admission;
use crate::event::{ClientKey, JobKey, WorkerKey};

pub use watch::MemoryWatch;

/// The watch's knobs.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// The share of the limit that may be used.
    pub threshold: f64,
    /// Where this leaves less free, it is the line instead.
    pub min_free_bytes: Option<u64>,
    /// Pause between two looks when memory is short; zero: the watch is off.
    pub refresh: Duration,
    /// The longest pause, far from the limit.
    pub slowest: Duration,
    /// How fast the node's use may grow: pages that its cores can touch.
    pub growth_bytes_per_second: u64,
    /// What a function needed is forgotten after so long without being seen.
    pub remember: Duration,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            threshold: 0.95,
            min_free_bytes: None,
            refresh: Duration::from_millis(250),
            slowest: Duration::from_secs(1),
            growth_bytes_per_second: 4 << 30,
            remember: Duration::from_secs(600),
        }
    }
}

/// What the node uses, of what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub used_bytes: u64,
    pub limit_bytes: u64,
    /// The kernel says that processes stand still for want of memory.
    pub stalled: bool,
}

/// One worker, as it was found.
#[derive(Debug, Clone)]
pub struct WorkerUse {
    pub worker: WorkerKey,
    pub bytes: u64,
    pub role: WorkerRole,
}

#[derive(Debug, Clone)]
pub enum WorkerRole {
    Idle,
    Task {
        job: JobKey,
        owner: ClientKey,
        name: Arc<str>,
        since: Duration,
        retriable: bool,
    },
    Actor {
        since: Duration,
        /// It is started again when its process ends.
        restartable: bool,
    },
}

#[derive(Debug, Clone)]
pub enum MemoryEvent {
    /// Whether any worker has something to do.
    BusyChanged {
        busy: bool,
    },
    UsageRead(Usage),
    WorkersRead {
        usage: Usage,
        workers: Vec<WorkerUse>,
    },
    WorkerDied {
        worker: WorkerKey,
    },
    /// The deadline has come.
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub enum MemoryEffect {
    /// Answered by `UsageRead`.
    ReadUsage,
    /// Answered by `WorkersRead`.
    ReadWorkers,
    /// For the scheduler.
    Admit(Admission),
    /// Answered by `WorkerDied`.
    EndWorker {
        worker: WorkerKey,
        /// What it ran may be tried again.
        may_retry: bool,
        usage: Usage,
        line_bytes: u64,
    },
}
