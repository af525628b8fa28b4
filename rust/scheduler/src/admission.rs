//! Requests held back for want of memory.
//!
//! A request is held while another lease computes and either memory is short or the function that it names would not fit
//! (what it needed before is known). One lease always goes: a node where nothing computes holds nothing back. A lease whose
//! task has only just begun to sleep still computes here: most sleeps are over in a moment, and it would find its memory
//! gone. And nothing is held for longer than [`Options::memory_patience`](crate::Options), so a lease that lasts keeps
//! nobody out for ever; what then does not fit is ended by the memory watch, newest first.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::event::JobKey;
use crate::queue::QueueKey;
use crate::scheduler::{Lease, Scheduler, Use};

/// What new leases may take of the node's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Memory is short: idle workers leave, and nothing new begins beside what runs.
    pub stop: bool,
    pub room_bytes: u64,
    /// By job and task name; of other functions nothing is known.
    pub needs: FxHashMap<(JobKey, Arc<str>), u64>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            stop: false,
            room_bytes: u64::MAX,
            needs: FxHashMap::default(),
        }
    }
}

impl Admission {
    /// Whether it could hold anything back.
    pub(crate) fn is_open(&self) -> bool {
        !self.stop && self.needs.is_empty()
    }
}

impl Scheduler {
    fn need_of_first(&self, key: &QueueKey) -> u64 {
        let queue = &self.queues[key];
        let name = queue.items.front().map(|item| Arc::clone(&item.task));
        let need = name.and_then(|name| self.admission.needs.get(&(queue.job, name)));
        need.copied().unwrap_or(0)
    }

    /// Whether the queue's first request waits for memory. Notes since when.
    pub(crate) fn is_held_back(&mut self, now: Duration, key: &QueueKey) -> bool {
        if self.admission.is_open() {
            return false;
        }
        let need = self.need_of_first(key);
        let is_tight = self.admission.stop || need > self.admission.room_bytes;
        let computes_until = self.computes_until().filter(|until| now < *until);
        let queue = self
            .queues
            .get_mut(key)
            .expect("the caller lists queues that are there");
        let Some(computes_until) = computes_until.filter(|_| is_tight) else {
            queue.held_back_since = None;
            return false;
        };
        let until = *queue.held_back_since.get_or_insert(now) + self.options.memory_patience;
        if until <= now {
            return false;
        }
        self.look_again(until.min(computes_until));
        true
    }

    /// When nothing computes any more, should nothing else happen; `None` when nothing does now.
    fn computes_until(&self) -> Option<Duration> {
        if self.awaiting_workers().next().is_some() {
            return Some(Duration::MAX);
        }
        let of_lease = |lease: &Lease| match lease.usage {
            _ if !lease.holding.cpu_lent => Some(Duration::MAX),
            // Asked for ahead of any task, and lent ever since.
            Use::None => None,
            Use::Begun | Use::Blocked => Some(lease.lent_at + self.options.memory_settles),
        };
        self.leases.values().filter_map(of_lease).max()
    }

    /// The queue's first request is about to be granted: what it will need is spoken for until the next look.
    pub(crate) fn speak_for_memory(&mut self, key: &QueueKey) {
        if !self.admission.is_open() {
            let need = self.need_of_first(key);
            self.admission.room_bytes = self.admission.room_bytes.saturating_sub(need);
            self.queues.get_mut(key).expect("it is being served").held_back_since = None;
        }
    }
}
