//! What became of the latest tasks, for the state API. Never stored: owners report it in batches, and a new gcs starts
//! with an empty log. How it is listed: [`super::task_listing`].
//!
//! Each record has a number, from 1 on, in the order in which they came; those that are kept have the latest numbers, without
//! a gap.

use std::collections::VecDeque;

use ray_rs_proto::convert::kind_number;
use ray_rs_proto::v1::{self, TaskEvents};
use ray_rs_types::task_columns::{Cell, TaskColumn, TaskKind, error_message, error_type, state_of_ended};
use ray_rs_types::{ActorId, TaskId, WorkerId};
use tonic::Status;

use super::State;

/// Older events make room for newer ones.
pub(super) const MAX_EVENTS: usize = 100_000;
/// Bytes of what errors said: older events lose theirs.
const MAX_TEXT_BYTES: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct TaskEventLog {
    batches: VecDeque<Batch>,
    /// Records that ever came.
    last: u64,
    events: usize,
    text_bytes: usize,
    /// Events that were dropped, here or before they came here.
    pub(super) dropped: u64,
}

#[derive(Debug)]
struct Batch {
    /// Number of its first record.
    first: u64,
    /// So many of the first records have made room.
    gone: usize,
    events: TaskEvents,
}

/// One try of a task that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    batch: &'a TaskEvents,
    at: usize,
}

impl TaskEventLog {
    fn add(&mut self, batch: TaskEvents) -> Result<(), Status> {
        let count = batch.task_unique.len();
        let columns = [
            batch.name_of.len(),
            batch.outcome.len(),
            batch.end_us.len(),
            batch.run_us.len(),
            batch.pids.len(),
            batch.parent_unique.len(),
            batch.attempts.len(),
            batch.submitted_us.len(),
        ];
        if columns.iter().any(|length| *length != count)
            || batch.workers.len() != count * WorkerId::SIZE
            || batch.actors.len() != count * ActorId::SIZE
        {
            return Err(Status::invalid_argument("the columns differ in length"));
        }
        if batch.parent_actor.len() != ActorId::SIZE {
            return Err(Status::invalid_argument("a batch names no process"));
        }
        if batch.name_of.iter().any(|index| *index as usize >= batch.names.len()) {
            return Err(Status::invalid_argument("an event has no name"));
        }
        let bad_text = |index: &u32| *index as usize > batch.texts.len();
        if !(batch.text_of.is_empty() || batch.text_of.len() == count) || batch.text_of.iter().any(bad_text) {
            return Err(Status::invalid_argument("an event has no such text"));
        }
        self.dropped += batch.dropped;
        if count == 0 {
            return Ok(());
        }
        self.events += count;
        self.text_bytes += text_bytes(&batch);
        self.batches.push_back(Batch {
            first: self.last + 1,
            gone: 0,
            events: batch,
        });
        self.last += count as u64;
        let mut older = self.batches.iter_mut().map(|batch| &mut batch.events);
        while self.text_bytes > MAX_TEXT_BYTES
            && let Some(batch) = older.next()
        {
            self.text_bytes -= text_bytes(batch);
            (batch.texts, batch.text_of) = (Vec::new(), Vec::new());
        }
        while self.events > MAX_EVENTS {
            let surplus = self.events - MAX_EVENTS;
            let oldest = self.batches.front_mut().expect("there are events");
            let kept = oldest.events.task_unique.len() - oldest.gone;
            let going = surplus.min(kept);
            oldest.gone += going;
            self.events -= going;
            self.dropped += going as u64;
            if going == kept {
                let oldest = self.batches.pop_front().expect("it was there");
                self.text_bytes -= text_bytes(&oldest.events);
            }
        }
        Ok(())
    }

    /// All that is kept, the oldest first.
    fn all(&self) -> v1::TaskEventBatches {
        let batches = self.batches.iter().map(|batch| {
            let mut events = batch.events.clone();
            if batch.gone > 0 {
                without_first(&mut events, batch.gone);
            }
            events
        });
        v1::TaskEventBatches {
            batches: batches.collect(),
            dropped: self.dropped,
        }
    }

    /// Records and their numbers, the oldest first: those with the number `from` and above.
    pub(super) fn from(&self, from: u64) -> impl Iterator<Item = (u64, Record<'_>)> {
        let begin = self.batches.partition_point(|batch| batch.end() <= from);
        let batches = self.batches.range(begin..);
        batches
            .flat_map(Batch::records)
            .filter(move |(number, _)| *number >= from)
    }

    /// Records and their numbers, the latest first: those below the number `before`.
    pub(super) fn before(&self, before: u64) -> impl Iterator<Item = (u64, Record<'_>)> {
        let end = self.batches.partition_point(|batch| batch.first < before);
        let batches = self.batches.range(..end).rev();
        batches
            .flat_map(|batch| batch.records().rev())
            .filter(move |(number, _)| *number < before)
    }
}

impl Batch {
    fn end(&self) -> u64 {
        self.first + self.events.task_unique.len() as u64
    }

    fn records(&self) -> impl DoubleEndedIterator<Item = (u64, Record<'_>)> {
        let batch = &self.events;
        (self.gone..batch.task_unique.len()).map(move |at| (self.first + at as u64, Record { batch, at }))
    }
}

impl<'a> Record<'a> {
    fn actor(self) -> ActorId {
        let at = self.at * ActorId::SIZE;
        ActorId::from_bytes(&self.batch.actors[at..at + ActorId::SIZE]).expect("a batch has as many bytes")
    }

    pub(super) fn task_id(self) -> TaskId {
        TaskId::new(self.batch.task_unique[self.at], self.actor())
    }

    pub(super) fn attempt(self) -> u32 {
        self.batch.attempts[self.at]
    }

    pub(super) fn name(self) -> &'a str {
        &self.batch.names[self.batch.name_of[self.at] as usize]
    }

    pub(super) fn kind(self) -> TaskKind {
        let task = self.task_id();
        if task.actor_id().0[..12] == [0xff; 12] {
            TaskKind::Normal
        } else if task == TaskId::of_creation(task.actor_id()) {
            TaskKind::Creation
        } else {
            TaskKind::Call
        }
    }

    pub(super) fn has_failed(self) -> bool {
        self.outcome() != 0
    }

    fn outcome(self) -> u32 {
        self.batch.outcome[self.at]
    }

    fn parent(self) -> Option<TaskId> {
        let unique = self.batch.parent_unique[self.at];
        let actor = ActorId::from_bytes(&self.batch.parent_actor).unwrap_or(ActorId::NIL);
        (unique != 0).then(|| TaskId::new(unique, actor))
    }

    /// Where it ran; empty: nowhere.
    fn worker(self) -> &'a [u8] {
        let at = self.at * WorkerId::SIZE;
        let worker = &self.batch.workers[at..at + WorkerId::SIZE];
        if worker.iter().all(|byte| *byte == 0) {
            &[]
        } else {
            worker
        }
    }

    fn start_us(self) -> u64 {
        self.batch.end_us[self.at].saturating_sub(self.batch.run_us[self.at])
    }

    /// What its error said.
    fn text(self) -> &'a str {
        let index = self.batch.text_of.get(self.at).copied().unwrap_or(0) as usize;
        index.checked_sub(1).map_or("", |index| &self.batch.texts[index])
    }

    pub(super) fn cell(self, column: TaskColumn) -> Cell<'a> {
        let ran = !self.worker().is_empty();
        let ms = |us: u64| Cell::Number(us as f64 / 1000.0);
        match column {
            TaskColumn::TaskId => Cell::owned_id(&self.task_id().0),
            TaskColumn::AttemptNumber => Cell::Number(f64::from(self.attempt())),
            TaskColumn::Name => Cell::text(self.name()),
            TaskColumn::State => Cell::text(state_of_ended(self.outcome())),
            TaskColumn::JobId => Cell::id(&self.batch.job_id),
            TaskColumn::ActorId if self.kind() == TaskKind::Normal => Cell::Absent,
            TaskColumn::ActorId => Cell::owned_id(&self.actor().0),
            TaskColumn::Type => Cell::text(self.kind().word()),
            TaskColumn::ParentTaskId => self.parent().map_or(Cell::Absent, |parent| Cell::owned_id(&parent.0)),
            TaskColumn::NodeId if ran => Cell::id(&self.batch.node_id),
            TaskColumn::WorkerId => Cell::id(self.worker()),
            TaskColumn::WorkerPid if ran => Cell::Number(f64::from(self.batch.pids[self.at])),
            TaskColumn::StartTimeMs if ran => ms(self.start_us()),
            TaskColumn::NodeId | TaskColumn::WorkerPid | TaskColumn::StartTimeMs => Cell::Absent,
            TaskColumn::ErrorType => error_type(self.kind(), self.outcome()).map_or(Cell::Absent, Cell::text),
            TaskColumn::Language => Cell::text("PYTHON"),
            TaskColumn::CreationTimeMs => ms(self.batch.submitted_us[self.at]),
            TaskColumn::EndTimeMs => ms(self.batch.end_us[self.at]),
            TaskColumn::ErrorMessage => error_message(self.outcome(), self.text()).map_or(Cell::Absent, Cell::Text),
        }
    }

    pub(super) fn row(self) -> v1::EndedTask {
        let (kind, worker) = (self.kind(), self.worker());
        let ran = !worker.is_empty();
        let actor = match kind {
            TaskKind::Normal => Vec::new(),
            TaskKind::Creation | TaskKind::Call => self.actor().0.to_vec(),
        };
        v1::EndedTask {
            task_id: self.task_id().0.to_vec(),
            attempt: self.attempt(),
            name: self.name().to_owned(),
            kind: kind_number(kind),
            outcome: self.outcome(),
            job_id: self.batch.job_id.clone(),
            actor_id: actor,
            parent_task_id: self.parent().map_or_else(Vec::new, |parent| parent.0.to_vec()),
            worker: ran.then(|| v1::WorkerAddress {
                node_id: self.batch.node_id.clone(),
                worker_id: worker.to_vec(),
                pid: self.batch.pids[self.at],
            }),
            submitted_us: self.batch.submitted_us[self.at],
            start_us: if ran { self.start_us() } else { 0 },
            end_us: self.batch.end_us[self.at],
            text: self.text().to_owned(),
        }
    }
}

fn without_first(events: &mut TaskEvents, gone: usize) {
    events.name_of.drain(..gone);
    events.task_unique.drain(..gone);
    events.outcome.drain(..gone);
    events.end_us.drain(..gone);
    events.run_us.drain(..gone);
    events.pids.drain(..gone);
    events.parent_unique.drain(..gone);
    events.attempts.drain(..gone);
    events.submitted_us.drain(..gone);
    events.workers.drain(..gone * WorkerId::SIZE);
    events.actors.drain(..gone * ActorId::SIZE);
    if !events.text_of.is_empty() {
        events.text_of.drain(..gone);
    }
}

fn text_bytes(batch: &TaskEvents) -> usize {
    batch.texts.iter().map(String::len).sum()
}

impl State {
    pub fn add_task_events(&mut self, batch: TaskEvents) -> Result<(), Status> {
        self.task_events.add(batch)
    }

    pub fn list_task_events(&self) -> v1::TaskEventBatches {
        self.task_events.all()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::state) fn batch(job: u8, names: &[&str], name_of: &[u32]) -> TaskEvents {
        let count = name_of.len();
        TaskEvents {
            job_id: vec![job; 4],
            names: names.iter().map(|&name| name.to_owned()).collect(),
            name_of: name_of.to_vec(),
            task_unique: vec![1; count],
            outcome: vec![0; count],
            end_us: vec![2; count],
            run_us: vec![3; count],
            workers: vec![4; count * WorkerId::SIZE],
            dropped: 1,
            pids: vec![5; count],
            actors: vec![6; count * ActorId::SIZE],
            parent_unique: vec![7; count],
            parent_actor: vec![8; ActorId::SIZE],
            attempts: vec![0; count],
            submitted_us: vec![1; count],
            node_id: vec![9; 28],
            texts: Vec::new(),
            text_of: Vec::new(),
        }
    }

    #[test]
    fn all_that_is_kept_is_told_and_no_more() {
        let mut log = TaskEventLog::default();
        let mut first = batch(1, &["f"], &[0; 3]);
        first.end_us = vec![1, 2, 3];
        first.texts = vec!["no".to_owned()];
        first.text_of = vec![0, 0, 1];
        log.add(first).expect("good");
        log.add(batch(2, &["g"], &vec![0; MAX_EVENTS - 1])).expect("good");
        let told = log.all();
        assert_eq!(told.batches.len(), 2);
        let kept = &told.batches[0];
        assert_eq!((kept.end_us.as_slice(), kept.text_of.as_slice()), (&[3][..], &[1][..]));
        assert_eq!((kept.workers.len(), kept.actors.len()), (WorkerId::SIZE, ActorId::SIZE));
        let again = TaskEventLog::default().add(kept.clone());
        assert!(again.is_ok(), "its columns are of one length");
        assert_eq!(told.dropped, log.dropped);
    }

    #[test]
    fn the_oldest_make_room_and_crooked_batches_are_refused() {
        let mut log = TaskEventLog::default();
        let many = vec![0; MAX_EVENTS / 5 * 2];
        for _ in 0..3 {
            log.add(batch(1, &["f"], &many)).expect("good");
        }
        // Half of the first batch went.
        assert_eq!(log.from(0).count(), MAX_EVENTS);
        assert_eq!(
            log.from(0).next().map(|(number, _)| number),
            Some(MAX_EVENTS as u64 / 5 + 1)
        );
        assert_eq!(log.dropped, 3 + MAX_EVENTS as u64 / 5);
        log.add(batch(1, &["f"], &many[1..])).expect("good");
        assert_eq!((log.from(0).count(), log.batches.len()), (MAX_EVENTS, 3));
        assert!(
            log.add(TaskEvents {
                workers: vec![1],
                ..batch(1, &["f"], &[0])
            })
            .is_err()
        );
        assert!(log.add(batch(1, &["f"], &[1])).is_err());
        let crooked = TaskEvents {
            texts: vec!["no".to_owned()],
            text_of: vec![2],
            ..batch(1, &["f"], &[0])
        };
        assert!(log.add(crooked).is_err());
    }

    #[test]
    fn records_are_found_by_their_numbers_from_either_end() {
        let mut log = TaskEventLog::default();
        for count in [2, 1, 0, 3] {
            log.add(batch(1, &["f"], &vec![0; count])).expect("good");
        }
        let numbers = |records: &mut dyn Iterator<Item = (u64, Record<'_>)>| -> Vec<u64> {
            records.map(|(number, _)| number).collect()
        };
        assert_eq!(numbers(&mut log.from(0)), [1, 2, 3, 4, 5, 6]);
        assert_eq!(numbers(&mut log.from(3)), [3, 4, 5, 6]);
        assert_eq!(numbers(&mut log.from(7)), [0; 0]);
        assert_eq!(numbers(&mut log.before(u64::MAX)), [6, 5, 4, 3, 2, 1]);
        assert_eq!(numbers(&mut log.before(3)), [2, 1]);
        assert_eq!(numbers(&mut log.before(1)), [0; 0]);
    }

    #[test]
    fn the_oldest_lose_their_texts_first() {
        let mut log = TaskEventLog::default();
        let text = "x".repeat(MAX_TEXT_BYTES / 2);
        for _ in 0..3 {
            let told = TaskEvents {
                texts: vec![text.clone()],
                text_of: vec![1],
                ..batch(1, &["f"], &[0])
            };
            log.add(told).expect("good");
        }
        let kept: Vec<usize> = log.batches.iter().map(|batch| batch.events.text_of.len()).collect();
        assert_eq!(kept, [0, 1, 1]);
        assert_eq!(log.text_bytes, MAX_TEXT_BYTES);
    }
}
