//! Task events: one record for each finished task, sent to the GCS in batches, off the task path. Best effort, as in Ray:
//! past a bound the oldest unsent ones are counted and dropped.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ray_rs_proto::v1;
use ray_rs_types::{JobId, WorkerId};
use rustc_hash::FxHashMap;

/// Records kept unsent.
const MAX_PENDING: usize = 100_000;
/// Time between batches.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct TaskEvents {
    job: JobId,
    records: Vec<Record>,
    names: Vec<Arc<str>>,
    index_of: FxHashMap<usize, u32>,
    due: Option<Duration>,
    dropped: u64,
}

struct Record {
    name: u32,
    failed: bool,
    unique: u64,
    end: Duration,
    run: Duration,
    worker: WorkerId,
}

impl TaskEvents {
    pub fn new(job: JobId) -> Self {
        Self {
            job,
            records: Vec::new(),
            names: Vec::new(),
            index_of: FxHashMap::default(),
            due: None,
            dropped: 0,
        }
    }

    /// Remembers that a task ended at `now` (time since the process joined).
    pub fn add(&mut self, name: &Arc<str>, unique: u64, failed: bool, now: Duration, run: Duration, worker: WorkerId) {
        if self.records.len() == MAX_PENDING {
            self.dropped += 1;
            return;
        }
        // Names are interned by address: a function's name is one allocation for its life, kept alive in `names`.
        let names = &mut self.names;
        let name = *self.index_of.entry(name.as_ptr() as usize).or_insert_with(|| {
            names.push(Arc::clone(name));
            names.len() as u32 - 1
        });
        self.records.push(Record {
            name,
            failed,
            unique,
            end: now,
            run,
            worker,
        });
        if self.due.is_none() {
            self.due = Some(now + INTERVAL);
        }
    }

    pub fn flush_at(&self) -> Option<Duration> {
        self.due
    }

    pub fn take_if_due(&mut self, now: Duration) -> Option<v1::TaskEvents> {
        if self.due.is_none_or(|at| at > now) {
            return None;
        }
        self.take(now)
    }

    pub fn take(&mut self, now: Duration) -> Option<v1::TaskEvents> {
        self.due = None;
        if self.records.is_empty() {
            return None;
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut batch = v1::TaskEvents {
            job_id: self.job.0.to_vec(),
            names: self.names.iter().map(|name| name.to_string()).collect(),
            dropped: std::mem::take(&mut self.dropped),
            ..v1::TaskEvents::default()
        };
        for record in self.records.drain(..) {
            batch.name_of.push(record.name);
            batch.task_unique.push(record.unique);
            batch.outcome.push(u32::from(record.failed));
            batch
                .end_us
                .push((since_epoch.saturating_sub(now.saturating_sub(record.end))).as_micros() as u64);
            batch.run_us.push(record.run.as_micros() as u64);
            batch.workers.extend_from_slice(&record.worker.0);
        }
        self.records.shrink_to(1024);
        self.names.clear();
        self.index_of.clear();
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_due_a_second_after_its_first_record() {
        let mut events = TaskEvents::new(JobId::from_int(1));
        let name: Arc<str> = "f".into();
        let at = Duration::from_secs(5);
        events.add(&name, 1, false, at, Duration::from_micros(3), WorkerId([1; 28]));
        events.add(&name, 2, true, at, Duration::from_micros(4), WorkerId([2; 28]));
        assert_eq!(events.flush_at(), Some(at + INTERVAL));
        assert!(events.take_if_due(at).is_none());
        let batch = events.take_if_due(at + INTERVAL).expect("due");
        assert_eq!(batch.names, ["f"]);
        assert_eq!(
            (batch.outcome, batch.run_us, batch.workers.len()),
            (vec![0, 1], vec![3, 4], 56)
        );
        assert_eq!(events.flush_at(), None);
    }
}
