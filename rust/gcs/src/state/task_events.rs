//! What became of the latest tasks, for the state API. Never stored: owners report it in batches, and a new gcs starts
//! with an empty log.

use std::collections::VecDeque;

use ray_rs_proto::v1::{TaskEventBatches, TaskEvents};
use ray_rs_types::{ActorId, WorkerId};
use tonic::Status;

use super::State;

/// Older events make room for newer ones, whole batches at a time.
pub(super) const MAX_EVENTS: usize = 100_000;
/// Bytes of what errors said: older events lose theirs.
const MAX_TEXT_BYTES: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct TaskEventLog {
    batches: VecDeque<TaskEvents>,
    events: usize,
    text_bytes: usize,
    /// Events that were dropped, here or before they came here.
    dropped: u64,
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
        if batch.name_of.iter().any(|index| *index as usize >= batch.names.len()) {
            return Err(Status::invalid_argument("an event has no name"));
        }
        let bad_text = |index: &u32| *index as usize > batch.texts.len();
        if !(batch.text_of.is_empty() || batch.text_of.len() == count) || batch.text_of.iter().any(bad_text) {
            return Err(Status::invalid_argument("an event has no such text"));
        }
        self.dropped += batch.dropped;
        self.events += count;
        self.text_bytes += text_bytes(&batch);
        self.batches.push_back(batch);
        let mut older = self.batches.iter_mut();
        while self.text_bytes > MAX_TEXT_BYTES
            && let Some(batch) = older.next()
        {
            self.text_bytes -= text_bytes(batch);
            (batch.texts, batch.text_of) = (Vec::new(), Vec::new());
        }
        while self.events > MAX_EVENTS {
            let oldest = self.batches.pop_front().expect("there are events");
            self.events -= oldest.task_unique.len();
            self.text_bytes -= text_bytes(&oldest);
            self.dropped += oldest.task_unique.len() as u64;
        }
        Ok(())
    }

    fn all(&self) -> TaskEventBatches {
        TaskEventBatches {
            batches: self.batches.iter().cloned().collect(),
            dropped: self.dropped,
        }
    }
}

fn text_bytes(batch: &TaskEvents) -> usize {
    batch.texts.iter().map(String::len).sum()
}

impl State {
    pub fn add_task_events(&mut self, batch: TaskEvents) -> Result<(), Status> {
        self.task_events.add(batch)
    }

    pub fn list_task_events(&self) -> TaskEventBatches {
        self.task_events.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(job: u8, names: &[&str], name_of: &[u32]) -> TaskEvents {
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
    fn the_oldest_make_room_and_crooked_batches_are_refused() {
        let mut log = TaskEventLog::default();
        let half = vec![0; MAX_EVENTS / 2];
        for _ in 0..3 {
            log.add(batch(1, &["f"], &half)).expect("good");
        }
        let kept: usize = log.all().batches.iter().map(|batch| batch.task_unique.len()).sum();
        assert_eq!(kept, MAX_EVENTS);
        assert_eq!(log.all().dropped, 3 + MAX_EVENTS as u64 / 2);
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
        let kept: Vec<usize> = log.all().batches.iter().map(|batch| batch.text_of.len()).collect();
        assert_eq!(kept, [0, 1, 1]);
        assert_eq!(log.text_bytes, MAX_TEXT_BYTES);
    }
}
