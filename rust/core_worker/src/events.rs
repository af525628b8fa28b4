//! Task events: one record for each try of a task that has ended, sent to the GCS in batches, off the task path. Best
//! effort, as in Ray: past a bound further ones are counted and dropped. Tasks that have not ended are not told of; who
//! wants to know asks their owners (see `describe`).

use std::borrow::Cow;
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
/// Bytes of what errors said, kept unsent; further errors are noted without.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Characters of one error.
const MAX_TEXT: usize = 1000;
/// Records that are sent at once, however young they are.
const FULL_BATCH: usize = 8192;
/// Time between batches.
const INTERVAL: Duration = Duration::from_secs(1);

/// As in `TaskEvents.outcome`.
pub(crate) const RAISED: u8 = 1;
pub(crate) const WORKER_DIED: u8 = 3;

pub(crate) fn outcome_of(error: &StoredValue) -> u8 {
    let ValueData::Failed(failure) = &error.data else {
        // The error of an argument, or of what ran.
        return RAISED;
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

/// What the error says, as far as the engine can read it.
pub(crate) fn text_of(error: &StoredValue) -> String {
    match &error.data {
        ValueData::Failed(failure) => failure.text().to_owned(),
        ValueData::Empty | ValueData::Inline(_) | ValueData::Arena(_) => String::new(),
    }
}

/// As much of an error's text as listings show.
pub(crate) fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_TEXT) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.chars().take(MAX_TEXT - 3).chain("...".chars()).collect()),
    }
}

pub(crate) struct TaskEvents {
    node: NodeId,
    job: JobId,
    records: Vec<Record>,
    names: Vec<Arc<str>>,
    index_of: FxHashMap<usize, u32>,
    /// What errors said, each text once, and 1 + its place.
    texts: FxHashMap<Box<str>, u32>,
    text_bytes: usize,
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
    /// What its error says; may be empty.
    pub text: &'a str,
}

struct Record {
    name: u32,
    attempt: u32,
    pid: u32,
    /// 1 + index; 0: none.
    text: u32,
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
            texts: FxHashMap::default(),
            text_bytes: 0,
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
        let text = match ended.text {
            "" => 0,
            text => self.text_index(text),
        };
        self.records.push(Record {
            name,
            text,
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

    fn is_full(&self) -> bool {
        self.records.len() >= FULL_BATCH
    }

    fn text_index(&mut self, text: &str) -> u32 {
        let text = &*cut(text);
        if let Some(index) = self.texts.get(text) {
            return *index;
        }
        if self.text_bytes + text.len() > MAX_TEXT_BYTES {
            return 0;
        }
        self.text_bytes += text.len();
        let index = self.texts.len() as u32 + 1;
        self.texts.insert(text.into(), index);
        index
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
        let mut texts: Vec<(Box<str>, u32)> = self.texts.drain().collect();
        texts.sort_unstable_by_key(|(_, index)| *index);
        batch.texts = texts.into_iter().map(|(text, _)| text.into()).collect();
        self.text_bytes = 0;
        for record in self.records.drain(..) {
            if !batch.texts.is_empty() {
                batch.text_of.push(record.text);
            }
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
    /// Those that there are, whether they are due or not.
    pub fn send_task_events(&mut self) {
        let now = self.now();
        if let Some(batch) = self.events.take(now, self.execution.actor.map(|(actor, _)| actor)) {
            self.tell_gcs("AddTaskEvents", &batch);
        }
    }

    /// A try has ended. While results are drained as fast as they come nobody looks at deadlines: a full batch goes at once.
    pub fn note_ended(&mut self, name: &Arc<str>, ended: &Ended<'_>, now: Duration) {
        self.events.add(name, ended, now);
        if self.events.is_full() {
            self.send_task_events();
        }
    }

    /// For the state API: a try failed of which no worker told.
    pub fn note_failed(&mut self, key: TaskKey, attempt: u32, outcome: u8, text: &str) {
        let now = self.now();
        let Some(spec) = self.owner.spec(key) else { return };
        let (name, actor, unlisted) = match spec.work {
            Work::Normal(function) => {
                let function = self.function(function);
                (Arc::clone(&function.name), None, function.unlisted)
            }
            Work::Call { actor, method } => {
                let method = self.method(method);
                (
                    Arc::clone(&method.name),
                    Some(self.actors[actor.0 as usize].id),
                    method.unlisted,
                )
            }
            Work::Creation(_) | Work::Group => return,
        };
        if unlisted {
            return;
        }
        let ended = Ended {
            outcome,
            attempt,
            unique: spec.unique,
            parent: spec.parent,
            actor,
            since: spec.since,
            run: Duration::ZERO,
            worker: None,
            text,
        };
        self.events.add(&name, &ended, now);
    }

    /// For the state API: the constructor of the actor that this process hosts has ended. Its creator never learns when.
    pub fn note_constructed(&mut self, error_text: Option<&str>) {
        let (Some((actor, incarnation)), Some(hosted)) = (self.execution.actor, &self.execution.hosted) else {
            return;
        };
        let Some(began) = hosted.constructing.filter(|_| !hosted.unlisted) else {
            return;
        };
        let run = began.elapsed();
        let ended = Ended {
            outcome: if error_text.is_some() { RAISED } else { 0 },
            attempt: incarnation,
            unique: u64::from_le_bytes(actor.0[..8].try_into().expect("an id has as many bytes")),
            parent: 0,
            actor: Some(actor),
            since: Moment::at_us(hosted.created_us),
            run,
            worker: Some(&self.me),
            text: error_text.unwrap_or_default(),
        };
        let name: Arc<str> = format!("{}.__init__", hosted.class_name).into();
        let now = self.now();
        self.events.add(&name, &ended, now);
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
            text: "",
        };
        events.add(&name, &ended, at);
        let failed = Ended {
            outcome: WORKER_DIED,
            attempt: 1,
            unique: 2,
            actor: Some(ActorId([9; 16])),
            run: Duration::from_micros(4),
            worker: None,
            text: "no",
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
        assert_eq!((batch.texts, batch.text_of), (vec!["no".to_owned()], vec![0, 1]));
        assert_eq!(events.flush_at(), None);
    }

    #[test]
    fn the_same_text_is_sent_once_and_cut_and_too_much_is_left_out() {
        let mut events = TaskEvents::new(NodeId([7; 28]), JobId::from_int(1));
        let name: Arc<str> = "f".into();
        let long = "ü".repeat(MAX_TEXT + 1);
        let many: Vec<String> = (0..MAX_TEXT_BYTES / MAX_TEXT + 1)
            .map(|number| format!("{number:01000}"))
            .collect();
        let first = ["no", "", "no", &long];
        for text in first.into_iter().chain(many.iter().map(|text| &**text)) {
            let ended = Ended {
                outcome: RAISED,
                attempt: 0,
                unique: 1,
                parent: 0,
                actor: None,
                since: Moment::now(),
                run: Duration::ZERO,
                worker: None,
                text,
            };
            events.add(&name, &ended, Duration::ZERO);
        }
        let batch = events.take(Duration::ZERO, None).expect("there are records");
        assert_eq!((&*batch.texts[0], &batch.text_of[..4]), ("no", &[1, 0, 1, 2][..]));
        assert_eq!(batch.texts[1].chars().count(), MAX_TEXT);
        assert!(batch.texts[1].ends_with("ü..."));
        assert!(batch.texts.iter().map(String::len).sum::<usize>() <= MAX_TEXT_BYTES);
        assert_eq!((batch.text_of.len(), batch.text_of.last()), (many.len() + 4, Some(&0)));
    }
}
