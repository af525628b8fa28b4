//! Lists tasks that have ended: filtered, counted and cut into pages where the records are.
//!
//! Behind the records come the constructors of actors of which no record is kept, or has come yet: what the table of actors
//! knows of them. A cursor is the number of the record where the page before ended, or the place of such an actor.

use ray_rs_proto::convert::{column_filters, kind_number};
use ray_rs_proto::v1::{self, EndedTask, ListTasksReply, ListTasksRequest};
use ray_rs_types::task_columns::{
    CREATION_FAILED, Cell, ColumnFilter, TaskColumn, TaskKind, error_message, error_type, passes, state_of_ended,
};
use ray_rs_types::{ActorId, TaskId};
use rustc_hash::{FxHashMap, FxHashSet};
use tonic::Status;

use super::State;
use super::task_events::{Record, TaskEventLog};

/// Rows of one answer.
const MAX_ROWS: usize = 10_000;
/// Set in cursors that name an actor.
const ACTORS: u64 = 1 << 63;
/// Of an `ActorUpdate`: its constructor has ended.
const ALIVE: u32 = 2;
const DEAD: u32 = 4;
/// Causes of death of actors that never came to life, as in `ActorDeath.cause`.
const FAILED_CREATION: [u32; 5] = [3, 7, 8, 9, 11];
/// As in `TaskCount.state`.
const FINISHED: u32 = 5;
const FAILED: u32 = 6;
/// Bytes of a key in `ListTasksRequest.unfinished`.
const KEY_BYTES: usize = TaskId::SIZE + 4;

type Key = (TaskId, u32);

fn keys(bytes: &[u8]) -> Result<FxHashMap<Key, u32>, Status> {
    if !bytes.len().is_multiple_of(KEY_BYTES) {
        return Err(Status::invalid_argument("the keys have another length"));
    }
    let keys = bytes.chunks_exact(KEY_BYTES).zip(0..).map(|(key, index)| {
        let (task, attempt) = key.split_at(TaskId::SIZE);
        let task = TaskId::from_bytes(task).expect("a key is as long");
        let attempt = u32::from_le_bytes(attempt.try_into().expect("a key ends in four bytes"));
        ((task, attempt), index)
    });
    Ok(keys.collect())
}

impl State {
    /// # Errors
    /// The filters are about columns that there are not, or the keys are none.
    pub fn list_tasks(&self, request: &ListTasksRequest) -> Result<ListTasksReply, Status> {
        let filters = column_filters(&request.filters)
            .map_err(|column| Status::invalid_argument(format!("there is no column {:?}", column.0)))?;
        let unfinished = keys(&request.unfinished)?;
        let mut page = Page::new(&filters, request);
        if request.cursor & ACTORS == 0 {
            page.add_records(&self.task_events, &unfinished);
        }
        if page.wants_more() {
            page.add_creations(self, &unfinished);
        }
        Ok(ListTasksReply {
            dropped: self.task_events.dropped,
            ..page.reply
        })
    }

    /// Actors whose constructor has ended and of which no record tells, in the order of their ids.
    fn untold_creations(&self) -> impl Iterator<Item = (usize, EndedTask)> {
        let told: FxHashSet<ActorId> = (self.task_events.from(0))
            .map(|(_, record)| record)
            .filter(|record| record.kind() == TaskKind::Creation)
            .map(|record| record.task_id().actor_id())
            .collect();
        let actors = self.actors.all().into_iter().enumerate();
        let untold = actors.filter(move |(_, actor)| !told.contains(actor));
        untold.filter_map(|(place, actor)| Some((place, self.creation(actor)?)))
    }

    fn creation(&self, actor: ActorId) -> Option<EndedTask> {
        let spec = self.actors.spec(actor).filter(|spec| !spec.unlisted)?;
        let status = self.published(actor).filter(|status| status.state >= ALIVE)?;
        let death = status.death.filter(|_| status.state == DEAD);
        let death = death.filter(|death| FAILED_CREATION.contains(&death.cause));
        Some(EndedTask {
            task_id: TaskId::of_creation(actor).0.to_vec(),
            name: format!("{}.__init__", spec.class_name),
            kind: kind_number(TaskKind::Creation),
            outcome: if death.is_some() { CREATION_FAILED } else { 0 },
            job_id: spec.job_id.clone(),
            actor_id: actor.0.to_vec(),
            worker: status.worker,
            submitted_us: spec.created_us,
            text: death.map_or_else(String::new, |death| death.message),
            ..EndedTask::default()
        })
    }
}

/// What stands in the columns of a constructor's row: it has no times but that of its submission.
fn cell_of_creation(row: &EndedTask, column: TaskColumn) -> Cell<'_> {
    let worker = row.worker.as_ref();
    match column {
        TaskColumn::TaskId => Cell::id(&row.task_id),
        TaskColumn::AttemptNumber => Cell::Number(f64::from(row.attempt)),
        TaskColumn::Name => Cell::text(&row.name),
        TaskColumn::State => Cell::text(state_of_ended(row.outcome)),
        TaskColumn::JobId => Cell::id(&row.job_id),
        TaskColumn::ActorId => Cell::id(&row.actor_id),
        TaskColumn::Type => Cell::text(TaskKind::Creation.word()),
        TaskColumn::NodeId => worker.map_or(Cell::Absent, |worker| Cell::id(&worker.node_id)),
        TaskColumn::WorkerId => worker.map_or(Cell::Absent, |worker| Cell::id(&worker.worker_id)),
        TaskColumn::WorkerPid => worker.map_or(Cell::Absent, |worker| Cell::Number(f64::from(worker.pid))),
        TaskColumn::ErrorType => error_type(TaskKind::Creation, row.outcome).map_or(Cell::Absent, Cell::text),
        TaskColumn::ErrorMessage => error_message(row.outcome, &row.text).map_or(Cell::Absent, Cell::Text),
        TaskColumn::Language => Cell::text("PYTHON"),
        TaskColumn::CreationTimeMs if row.submitted_us != 0 => Cell::Number(row.submitted_us as f64 / 1000.0),
        TaskColumn::CreationTimeMs | TaskColumn::ParentTaskId | TaskColumn::StartTimeMs | TaskColumn::EndTimeMs => {
            Cell::Absent
        }
    }
}

/// An answer that is being made.
struct Page<'a> {
    filters: &'a [ColumnFilter],
    limit: usize,
    cursor: u64,
    oldest_first: bool,
    /// Only the first page counts.
    counts: bool,
    reply: ListTasksReply,
}

impl<'a> Page<'a> {
    fn new(filters: &'a [ColumnFilter], request: &ListTasksRequest) -> Self {
        Self {
            filters,
            limit: (request.limit as usize).min(MAX_ROWS),
            cursor: request.cursor,
            oldest_first: request.oldest_first,
            counts: request.counts && request.cursor == 0,
            reply: ListTasksReply::default(),
        }
    }

    fn is_first(&self) -> bool {
        self.cursor == 0
    }

    fn is_full(&self) -> bool {
        self.reply.rows.len() >= self.limit
    }

    /// The first page counts all that there is; another one ends when it is full.
    fn wants_more(&self) -> bool {
        self.is_first() || !self.is_full()
    }

    fn add_records(&mut self, log: &TaskEventLog, unfinished: &FxHashMap<Key, u32>) {
        match (self.oldest_first, self.cursor) {
            (true, cursor) => self.walk(log.from(cursor), unfinished),
            (false, 0) => self.walk(log.before(ACTORS), unfinished),
            (false, cursor) => self.walk(log.before(cursor), unfinished),
        }
    }

    fn walk<'r>(&mut self, records: impl Iterator<Item = (u64, Record<'r>)>, unfinished: &FxHashMap<Key, u32>) {
        let mut counts: FxHashMap<(&str, TaskKind, bool), u64> = FxHashMap::default();
        for (number, record) in records {
            if !unfinished.is_empty()
                && let Some(index) = unfinished.get(&(record.task_id(), record.attempt()))
            {
                self.reply.ended.push(*index);
            }
            if !passes(self.filters, |column| record.cell(column)) {
                continue;
            }
            self.reply.total += 1;
            if self.counts {
                *counts
                    .entry((record.name(), record.kind(), record.has_failed()))
                    .or_default() += 1;
            }
            if !self.is_full() {
                self.reply.rows.push(record.row());
                self.reply.cursor = if self.oldest_first { number + 1 } else { number };
            } else if self.limit == 0 && self.reply.cursor == 0 {
                // The next page begins with this one.
                self.reply.cursor = if self.oldest_first { number } else { number + 1 };
            }
            if !self.wants_more() {
                return;
            }
        }
        self.reply
            .counts
            .extend(counts.into_iter().map(|(what, count)| count_of(what, count)));
    }

    fn add_creations(&mut self, state: &State, unfinished: &FxHashMap<Key, u32>) {
        let begin = if self.cursor & ACTORS != 0 {
            self.cursor & !ACTORS
        } else {
            0
        };
        let had_room = !self.is_full();
        for (place, row) in state.untold_creations() {
            let task = TaskId::from_bytes(&row.task_id).expect("made of a task's id");
            if (place as u64) < begin
                || unfinished.contains_key(&(task, 0))
                || !passes(self.filters, |column| cell_of_creation(&row, column))
            {
                continue;
            }
            self.reply.total += 1;
            if self.counts {
                let what = (row.name.as_str(), TaskKind::Creation, row.outcome != 0);
                let count = count_of(what, 1);
                self.reply.counts.push(count);
            }
            if !self.is_full() {
                self.reply.rows.push(row);
                self.reply.cursor = ACTORS | (place as u64 + 1);
            } else if self.limit == 0 && self.reply.cursor == 0 {
                self.reply.cursor = ACTORS | place as u64;
            }
            if !self.wants_more() {
                return;
            }
        }
        // All was looked at, and there was room for it.
        if had_room && !self.is_full() {
            self.reply.cursor = 0;
        }
    }
}

fn count_of((name, kind, has_failed): (&str, TaskKind, bool), count: u64) -> v1::TaskCount {
    v1::TaskCount {
        name: name.to_owned(),
        kind: kind_number(kind),
        state: if has_failed { FAILED } else { FINISHED },
        count,
    }
}

#[cfg(test)]
mod tests {
    use super::super::task_events::tests::batch;
    use super::*;
    use crate::storage::MemoryStorage;

    /// Two hundred records: every fifth is of `g`, and failed.
    fn state() -> State {
        let (mut state, _flushed) = State::open(Box::new(MemoryStorage::default())).expect("opened");
        for first in (0..200).step_by(50) {
            let name_of: Vec<u32> = (first..first + 50).map(|n| u32::from(n % 5 == 0)).collect();
            let events = v1::TaskEvents {
                task_unique: (first..first + 50).collect(),
                outcome: name_of.clone(),
                actors: ActorId::nil_of(ray_rs_types::JobId::from_int(1)).0.repeat(50),
                ..batch(1, &["f", "g"], &name_of)
            };
            state.add_task_events(events).expect("good");
        }
        state
    }

    fn of(name: &str) -> Vec<v1::ColumnFilter> {
        vec![v1::ColumnFilter {
            column: "name".to_owned(),
            differs: false,
            value: Some(name.to_owned()),
        }]
    }

    fn uniques(reply: &ListTasksReply) -> Vec<u64> {
        let tasks = reply.rows.iter().map(|row| TaskId::from_bytes(&row.task_id));
        tasks.map(|task| task.expect("an id").unique()).collect()
    }

    #[test]
    fn pages_follow_each_other_from_either_end_and_only_the_first_counts() {
        let state = state();
        for oldest_first in [true, false] {
            let mut request = ListTasksRequest {
                filters: of("g"),
                limit: 7,
                oldest_first,
                ..ListTasksRequest::default()
            };
            let mut all = Vec::new();
            loop {
                let reply = state.list_tasks(&request).expect("good");
                if request.cursor == 0 {
                    assert_eq!(reply.total, 40);
                }
                all.extend(uniques(&reply));
                request.cursor = reply.cursor;
                if reply.cursor == 0 {
                    break;
                }
            }
            let mut expected: Vec<u64> = (0..200).step_by(5).collect();
            if !oldest_first {
                expected.reverse();
            }
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn a_page_goes_on_where_it_ended_although_older_records_went_and_new_ones_came() {
        let mut state = state();
        let mut request = ListTasksRequest {
            limit: 10,
            oldest_first: true,
            ..ListTasksRequest::default()
        };
        request.cursor = state.list_tasks(&request).expect("good").cursor;
        let many = vec![0; super::super::task_events::MAX_EVENTS - 100];
        state.add_task_events(batch(1, &["h"], &many)).expect("good");
        // The first hundred made room.
        let reply = state.list_tasks(&request).expect("good");
        assert_eq!(uniques(&reply), (100..110).collect::<Vec<u64>>());
        request.oldest_first = false;
        request.cursor = 103;
        let reply = state.list_tasks(&request).expect("good");
        assert_eq!((uniques(&reply), reply.cursor), (vec![101, 100], 0));
    }

    #[test]
    fn a_page_without_rows_says_where_they_begin() {
        let state = state();
        let mut request = ListTasksRequest::default();
        let reply = state.list_tasks(&request).expect("good");
        assert_eq!((reply.rows.len(), reply.total), (0, 200));
        (request.cursor, request.limit) = (reply.cursor, 2);
        assert_eq!(uniques(&state.list_tasks(&request).expect("good")), [199, 198]);
    }

    #[test]
    fn counts_are_of_all_that_passes() {
        let request = ListTasksRequest {
            counts: true,
            ..ListTasksRequest::default()
        };
        let reply = state().list_tasks(&request).expect("good");
        assert!(reply.rows.is_empty());
        let mut counts: Vec<_> = (reply.counts.iter())
            .map(|count| (count.name.as_str(), count.kind, count.state, count.count))
            .collect();
        counts.sort();
        assert_eq!(counts, [("f", 1, FINISHED, 160), ("g", 1, FAILED, 40)]);
    }

    #[test]
    fn what_has_ended_meanwhile_is_named() {
        let actor = ActorId::nil_of(ray_rs_types::JobId::from_int(1));
        let mut unfinished = Vec::new();
        for (unique, attempt) in [(1000u64, 0u32), (7, 0), (7, 1), (8, 0)] {
            unfinished.extend_from_slice(&TaskId::new(unique, actor).0);
            unfinished.extend_from_slice(&attempt.to_le_bytes());
        }
        let request = ListTasksRequest {
            unfinished,
            filters: of("g"),
            ..ListTasksRequest::default()
        };
        let mut reply = state().list_tasks(&request).expect("good");
        reply.ended.sort_unstable();
        assert_eq!(reply.ended, [1, 3]);
    }

    #[test]
    fn what_is_crooked_is_refused() {
        let state = state();
        let filters = vec![v1::ColumnFilter {
            column: "colour".to_owned(),
            ..v1::ColumnFilter::default()
        }];
        let colour = ListTasksRequest {
            filters,
            ..ListTasksRequest::default()
        };
        assert!(state.list_tasks(&colour).is_err());
        let keys = ListTasksRequest {
            unfinished: vec![1; KEY_BYTES + 1],
            ..ListTasksRequest::default()
        };
        assert!(state.list_tasks(&keys).is_err());
    }
}
