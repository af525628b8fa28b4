//! Task events: one record for each try of a task that has ended, sent to the GCS in batches, off the task path. Best
//! effort, as in Ray: past a bound further ones are counted and dropped. Tasks that have not ended are not told of; who
//! wants to know asks their owners (see `describe`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ray_rs_ownership::TaskKey;
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, JobId, NodeId, WorkerAddress};
use rustc_hash::FxHashMap;

use crate::describe::Moment;
use crate::model::{Failure, StoredValue, ValueData};
use crate::state::State;
use crate::submit::Work;

/// Records kept unsent.
const MAX_PENDING: usize = 100_000;
/// Time between batches.
const INTERVAL: Duration = Duration::from_secs(1);

/// As in `TaskEvents.outcome`.
pub(crate) const WORKER_DIED: u8 = 3;

pub(crate) fn outcome_of(error: &StoredValue) -> u8 {
    let ValueData::Failed(failure) = &error.data else {
        // The error of an argument, or of what ran.
        return 1;
    };
    match &**failure {
        Failure::Cancelled { .. } => 2,
        Failure::WorkerCrashed { .. } => WORKER_DIED,
        Failure::OutOfMemory { .. } => 4,
        Failure::ActorDied { .. } => 5,
        Failure::ActorUnavailable { .. } => 6,
        Failure::EnvironmentFailed { .. } => 7,
        Failure::Unschedulable { .. } => 8,
        Failure::GroupRemoved => 9,
        _ => 10,
    }
}

pub(crate) struct TaskEvents {
    node: NodeId,
    job: JobId,
    records: Vec<Record>,
    names: Vec<Arc<str>>,
    index_of: FxHashMap<usize, u32>,
    due: Option<Duration>,
    dropped: u64,
}

/// A try that has ended, as whoever notes it knows it.
pub(crate) struct Ended<'a> {
    pub outcome: u8,
    pub attempt: u32,
    pub unique: u64,
    pub parent: u64,
    /// Of a call.
    pub actor: Option<ActorId>,
    pub since: Moment,
    pub run: Duration,
    /// `None`: it ran nowhere, or nobody knows how long.
    pub worker: Option<&'a WorkerAddress>,
}

struct Record {
    name: u32,
    attempt: u32,
    pid: u32,
    outcome: u8,
    worker: [u8; 28],
    actor: [u8; 16],
    unique: u64,
    parent: u64,
    since: Moment,
    end: Duration,
    run_ns: u64,
}

impl TaskEvents {
    pub fn new(node: NodeId, job: JobId) -> Self {
        Self {
            node,
            job,
            records: Vec::new(),
            names: Vec::new(),
            index_of: FxHashMap::default(),
            due: None,
            dropped: 0,
        }
    }

    /// Remembers that a try ended at `now` (time since the process joined).
    pub fn add(&mut self, name: &Arc<str>, ended: &Ended<'_>, now: Duration) {
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
            attempt: ended.attempt,
            pid: ended.worker.map_or(0, |worker| worker.pid),
            outcome: ended.outcome,
            worker: ended.worker.map_or([0; 28], |worker| worker.worker_id.0),
            actor: ended.actor.map_or([0; 16], |actor| actor.0),
            unique: ended.unique,
            parent: ended.parent,
            since: ended.since,
            end: now,
            run_ns: ended.run.as_nanos() as u64,
        });
        if self.due.is_none() {
            self.due = Some(now + INTERVAL);
        }
    }

    pub fn flush_at(&self) -> Option<Duration> {
        self.due
    }

    /// `actor`: that this process hosts.
    pub fn take_if_due(&mut self, now: Duration, actor: Option<ActorId>) -> Option<v1::TaskEvents> {
        if self.due.is_none_or(|at| at > now) {
            return None;
        }
        self.take(now, actor)
    }

    pub fn take(&mut self, now: Duration, actor: Option<ActorId>) -> Option<v1::TaskEvents> {
        self.due = None;
        if self.records.is_empty() {
            return None;
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nil = ActorId::nil_of(self.job);
        let mut batch = v1::TaskEvents {
            job_id: self.job.0.to_vec(),
            node_id: self.node.0.to_vec(),
            parent_actor: actor.unwrap_or(nil).0.to_vec(),
            names: self.names.iter().map(|name| name.to_string()).collect(),
            dropped: std::mem::take(&mut self.dropped),
            ..v1::TaskEvents::default()
        };
        for record in self.records.drain(..) {
            batch.name_of.push(record.name);
            batch.task_unique.push(record.unique);
            batch.outcome.push(u32::from(record.outcome));
            let end = (since_epoch.saturating_sub(now.saturating_sub(record.end))).as_micros() as u64;
            batch.end_us.push(end);
            let run = record.run_ns / 1000;
            batch.run_us.push(run);
            batch.workers.extend_from_slice(&record.worker);
            batch.pids.push(record.pid);
            let actor = if record.actor == [0; 16] { nil.0 } else { record.actor };
            batch.actors.extend_from_slice(&actor);
            batch.parent_unique.push(record.parent);
            batch.attempts.push(record.attempt);
            // Known to a few milliseconds only: never after the start.
            batch.submitted_us.push(record.since.us().min(end.saturating_sub(run)));
        }
        self.records.shrink_to(1024);
        self.names.clear();
        self.index_of.clear();
        Some(batch)
    }
}

impl State {
    /// For the state API: a try failed of which no worker told.
    pub fn note_failed(&mut self, key: TaskKey, attempt: u32, outcome: u8) {
        let now = self.now();
        let Some(spec) = self.owner.spec(key) else { return };
        let (name, actor) = match spec.work {
            Work::Normal(function) => (&self.functions[function.0 as usize].0.name, None),
            Work::Call { actor, method } => (
                &self.methods[method.0 as usize].name,
                Some(self.actors[actor.0 as usize].id),
            ),
            Work::Creation(_) | Work::Group => return,
        };
        let ended = Ended {
            outcome,
            attempt,
            unique: spec.unique,
            parent: spec.parent,
            actor,
            since: spec.since,
            run: Duration::ZERO,
            worker: None,
        };
        self.events.add(name, &ended, now);
    }
}

#[cfg(test)]
mod tests {
    use ray_rs_types::WorkerId;

    use super::*;

    #[test]
    fn a_batch_is_due_a_second_after_its_first_record() {
        let mut events = TaskEvents::new(NodeId([7; 28]), JobId::from_int(1));
        let name: Arc<str> = "f".into();
        let at = Duration::from_secs(5);
        let worker = WorkerAddress {
            node_id: NodeId([7; 28]),
            worker_id: WorkerId([1; 28]),
            pid: 3,
        };
        let ended = Ended {
            outcome: 0,
            attempt: 0,
            unique: 1,
            parent: 0,
            actor: None,
            since: Moment::now(),
            run: Duration::from_micros(3),
            worker: Some(&worker),
        };
        events.add(&name, &ended, at);
        let failed = Ended {
            outcome: WORKER_DIED,
            attempt: 1,
            unique: 2,
            actor: Some(ActorId([9; 16])),
            run: Duration::from_micros(4),
            worker: None,
            ..ended
        };
        events.add(&name, &failed, at);
        assert_eq!(events.flush_at(), Some(at + INTERVAL));
        assert!(events.take_if_due(at, None).is_none());
        let batch = events.take_if_due(at + INTERVAL, None).expect("due");
        assert_eq!(batch.names, ["f"]);
        assert_eq!(
            (batch.outcome, batch.run_us, batch.workers.len()),
            (vec![0, 3], vec![3, 4], 56)
        );
        assert_eq!((batch.pids, batch.attempts), (vec![3, 0], vec![0, 1]));
        assert_eq!(batch.actors[..16], ActorId::nil_of(JobId::from_int(1)).0);
        assert_eq!(batch.actors[16..], [9; 16]);
        assert_eq!(events.flush_at(), None);
    }
}
