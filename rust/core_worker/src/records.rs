//! The records of tasks that have ended, put together for people who look at very many of them: by name, page by page, and
//! as a chart that is no larger than the screen it is for.
//!
//! Pure: records in, sums out. The control store's log has each record (`ListTaskEvents`); here they are in the order in
//! which they ended.

use ray_rs_proto::v1;
use ray_rs_types::{ActorId, TaskId, WorkerId};
use rustc_hash::FxHashMap;

/// A chart of more columns than this shows nothing more.
pub const MAX_COLUMNS: usize = 4096;
const THOUSAND: u64 = 1000;

/// What kind of task a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Normal,
    Creation,
    Call,
}

impl Kind {
    /// Ray's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL_TASK",
            Self::Creation => "ACTOR_CREATION_TASK",
            Self::Call => "ACTOR_TASK",
        }
    }
}

/// One try of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRecord {
    /// Index into [`TaskRecords::names`].
    pub name: u32,
    pub kind: Kind,
    /// Index into [`TaskRecords::workers`]; `None`: it ran nowhere.
    pub worker: Option<u32>,
    pub task_id: TaskId,
    pub attempt: u32,
    pub submitted_us: u64,
    /// The time of the end, if it ran nowhere.
    pub start_us: u64,
    pub end_us: u64,
    /// As in `TaskEvents.outcome`: 0 when it has worked.
    pub outcome: u32,
    /// Where what its error said is: index of the batch, and into its texts.
    text: Option<(u32, u32)>,
}

/// Where tasks ran.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskWorker {
    pub node_id: Vec<u8>,
    pub worker_id: Vec<u8>,
    pub pid: u32,
}

/// What all records of a name sum up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameSums {
    pub name: u32,
    pub kind: Kind,
    pub finished: u64,
    pub failed: u64,
    /// Of those that ran.
    pub ran: u64,
    pub run_us: u64,
    pub longest_us: u64,
    /// From submission to start, of those that ran.
    pub wait_us: u64,
    pub last_end_us: u64,
}

/// A part of a worker's row in a chart in which the same happened all along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub column: u32,
    pub width: u32,
    /// Index of the name that took most of the time.
    pub name: u32,
    /// How much of the time something ran, in thousandths.
    pub busy: u32,
    pub failed: bool,
}

/// What ran where in a span of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chart {
    /// Indices of workers with their cells, in the order in which the workers began.
    pub rows: Vec<(u32, Vec<Cell>)>,
    /// Records in the span.
    pub records: usize,
}

/// Which records are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordFilter {
    pub name: Option<String>,
    /// A part of the name, or the beginning of the task's id in hexadecimal digits; letters of any case.
    pub search: String,
    /// Only those that have failed, or only those that have not.
    pub failed: Option<bool>,
}

/// The log, put together.
#[derive(Debug, Default)]
pub struct TaskRecords {
    names: Vec<String>,
    workers: Vec<TaskWorker>,
    /// By end.
    records: Vec<TaskRecord>,
    texts: Vec<Vec<String>>,
    dropped: u64,
}

impl TaskRecords {
    #[must_use]
    pub fn new(log: v1::TaskEventBatches) -> Self {
        let mut this = Self {
            dropped: log.dropped,
            ..Self::default()
        };
        let mut names: FxHashMap<String, u32> = FxHashMap::default();
        let mut workers: FxHashMap<TaskWorker, u32> = FxHashMap::default();
        for (batch_index, batch) in log.batches.into_iter().enumerate() {
            let name_of: Vec<u32> = batch
                .names
                .iter()
                .map(|name| {
                    *names.entry(name.clone()).or_insert_with(|| {
                        this.names.push(name.clone());
                        this.names.len() as u32 - 1
                    })
                })
                .collect();
            for at in 0..batch.task_unique.len() {
                let record = record(&batch, at, batch_index as u32, &name_of, &mut |worker| {
                    *workers.entry(worker.clone()).or_insert_with(|| {
                        this.workers.push(worker);
                        this.workers.len() as u32 - 1
                    })
                });
                this.records.extend(record);
            }
            this.texts.push(batch.texts);
        }
        this.records
            .sort_by_key(|record| (record.end_us, record.start_us, record.task_id));
        this
    }

    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    #[must_use]
    pub fn workers(&self) -> &[TaskWorker] {
        &self.workers
    }

    /// In the order in which they ended.
    #[must_use]
    pub fn records(&self) -> &[TaskRecord] {
        &self.records
    }

    /// Older records that are not there any more.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What the error of a record said.
    #[must_use]
    pub fn text_of(&self, record: &TaskRecord) -> Option<&str> {
        let (batch, text) = record.text?;
        Some(self.texts.get(batch as usize)?.get(text as usize)?)
    }

    /// From the first start to the last end of what ran.
    #[must_use]
    pub fn span_us(&self) -> Option<(u64, u64)> {
        let ran = || self.records.iter().filter(|record| record.worker.is_some());
        let first = ran().map(|record| record.start_us).min()?;
        Some((first, ran().map(|record| record.end_us).max()?))
    }

    #[must_use]
    pub fn by_name(&self) -> Vec<NameSums> {
        let mut sums: FxHashMap<(u32, Kind), NameSums> = FxHashMap::default();
        for record in &self.records {
            let sum = sums
                .entry((record.name, record.kind))
                .or_insert_with(|| NameSums::of(record.name, record.kind));
            sum.add(record);
        }
        let mut sums: Vec<NameSums> = sums.into_values().collect();
        sums.sort_by_key(|sum| (sum.name, sum.kind));
        sums
    }

    /// How many records the filter lets through, and some of them, the latest first.
    #[must_use]
    pub fn page(&self, filter: &RecordFilter, offset: usize, limit: usize) -> (usize, Vec<&TaskRecord>) {
        let search = filter.search.to_lowercase();
        let named: Vec<(bool, bool)> = (self.names.iter())
            .map(|name| {
                let is_wanted = filter.name.as_ref().is_none_or(|wanted| wanted == name);
                (is_wanted, name.to_lowercase().contains(&search))
            })
            .collect();
        let mut total = 0;
        let mut page = Vec::new();
        for record in self.records.iter().rev() {
            let (is_named, is_found) = named[record.name as usize];
            let is_wanted = is_named
                && (is_found || begins_with(&record.task_id, &search))
                && filter.failed.is_none_or(|failed| failed == (record.outcome != 0));
            if is_wanted {
                if total >= offset && page.len() < limit {
                    page.push(record);
                }
                total += 1;
            }
        }
        (total, page)
    }

    /// What ran between two times, in so many columns of equal length.
    #[must_use]
    pub fn chart(&self, from_us: u64, to_us: u64, columns: usize) -> Chart {
        let columns = columns.clamp(1, MAX_COLUMNS);
        let span = to_us.saturating_sub(from_us);
        if span == 0 {
            return Chart::default();
        }
        let mut rows: FxHashMap<u32, Row> = FxHashMap::default();
        let mut records = 0;
        for record in &self.records {
            let Some(worker) = record.worker else { continue };
            if record.end_us < from_us || record.start_us >= to_us {
                continue;
            }
            records += 1;
            let row = rows.entry(worker).or_insert_with(|| Row::new(columns, record.start_us));
            row.began_us = row.began_us.min(record.start_us);
            row.add(record, from_us, span);
        }
        let mut rows: Vec<(u64, u32, Vec<Cell>)> = (rows.into_iter())
            .map(|(worker, row)| (row.began_us, worker, row.cells(span)))
            .collect();
        rows.sort_by_key(|(began_us, worker, _)| (*began_us, *worker));
        Chart {
            rows: rows.into_iter().map(|(_, worker, cells)| (worker, cells)).collect(),
            records,
        }
    }
}

fn record(
    batch: &v1::TaskEvents,
    at: usize,
    batch_index: u32,
    name_of: &[u32],
    worker_index: &mut impl FnMut(TaskWorker) -> u32,
) -> Option<TaskRecord> {
    let actor = batch.actors.get(at * ActorId::SIZE..)?.get(..ActorId::SIZE)?;
    let actor = ActorId::from_bytes(actor).ok()?;
    let worker = batch.workers.get(at * WorkerId::SIZE..)?.get(..WorkerId::SIZE)?;
    let task_id = TaskId::new(*batch.task_unique.get(at)?, actor);
    let is_actors = actor.0[..12].iter().any(|byte| *byte != 0xff);
    let kind = match is_actors {
        false => Kind::Normal,
        true if task_id.0[..8] == actor.0[..8] => Kind::Creation,
        true => Kind::Call,
    };
    let end_us = *batch.end_us.get(at)?;
    let ran = worker.iter().any(|byte| *byte != 0);
    let run_us = if ran { *batch.run_us.get(at)? } else { 0 };
    let text = batch.text_of.get(at).and_then(|text| text.checked_sub(1));
    Some(TaskRecord {
        name: *name_of.get(*batch.name_of.get(at)? as usize)?,
        kind,
        worker: ran.then(|| {
            worker_index(TaskWorker {
                node_id: batch.node_id.clone(),
                worker_id: worker.to_vec(),
                pid: batch.pids.get(at).copied().unwrap_or_default(),
            })
        }),
        task_id,
        attempt: *batch.attempts.get(at)?,
        submitted_us: *batch.submitted_us.get(at)?,
        start_us: end_us.saturating_sub(run_us),
        end_us,
        outcome: *batch.outcome.get(at)?,
        text: text.map(|text| (batch_index, text)),
    })
}

/// Whether an id's digits begin with these.
fn begins_with(task_id: &TaskId, digits: &str) -> bool {
    let digits = digits.as_bytes();
    let digit = |index: usize| {
        let byte = task_id.0[index / 2];
        b"0123456789abcdef"[usize::from(if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 })]
    };
    digits.len() <= 2 * task_id.0.len() && digits.iter().enumerate().all(|(index, wanted)| digit(index) == *wanted)
}

impl NameSums {
    fn of(name: u32, kind: Kind) -> Self {
        Self {
            name,
            kind,
            finished: 0,
            failed: 0,
            ran: 0,
            run_us: 0,
            longest_us: 0,
            wait_us: 0,
            last_end_us: 0,
        }
    }

    fn add(&mut self, record: &TaskRecord) {
        if record.outcome == 0 {
            self.finished += 1;
        } else {
            self.failed += 1;
        }
        self.last_end_us = self.last_end_us.max(record.end_us);
        if record.worker.is_some() {
            let run_us = record.end_us - record.start_us;
            self.ran += 1;
            self.run_us += run_us;
            self.longest_us = self.longest_us.max(run_us);
            self.wait_us += record.start_us.saturating_sub(record.submitted_us);
        }
    }
}

/// A worker's row while records are added. What ran at the same time (in threads of an actor) counts once each, and a
/// column is full at most.
struct Row {
    began_us: u64,
    columns: Vec<Column>,
}

#[derive(Clone, Default)]
struct Column {
    busy_us: u64,
    /// The name with most time so far, by majority vote: right whenever one has more than half.
    name: u32,
    vote_us: u64,
    records: u32,
    failed: bool,
}

impl Row {
    fn new(columns: usize, began_us: u64) -> Self {
        Self {
            began_us,
            columns: vec![Column::default(); columns],
        }
    }

    fn add(&mut self, record: &TaskRecord, from_us: u64, span: u64) {
        let count = self.columns.len() as u64;
        // Relative to the chart's beginning, where a chart's width is that of all its columns.
        let start = record.start_us.saturating_sub(from_us).min(span - 1);
        let end = (record.end_us - from_us).clamp(start, span);
        let (first, last) = (start * count / span, end.saturating_sub(1).max(start) * count / span);
        for index in first..=last {
            let (left, right) = (index * span / count, (index + 1) * span / count);
            let busy_us = end.min(right).saturating_sub(start.max(left)).max(1);
            self.columns[index as usize].add(record, busy_us);
        }
    }

    fn cells(&self, span: u64) -> Vec<Cell> {
        let width_us = (span / self.columns.len() as u64).max(1);
        let mut cells: Vec<Cell> = Vec::new();
        for (index, column) in self.columns.iter().enumerate().filter(|(_, column)| column.records > 0) {
            let cell = Cell {
                column: index as u32,
                width: 1,
                name: column.name,
                busy: (column.busy_us * THOUSAND / width_us).clamp(1, THOUSAND) as u32,
                failed: column.failed,
            };
            match cells.last_mut() {
                Some(before)
                    if before.column + before.width == cell.column
                        && (before.name, before.failed) == (cell.name, cell.failed)
                        && before.busy.abs_diff(cell.busy) < 50 =>
                {
                    before.width += 1;
                }
                _ => cells.push(cell),
            }
        }
        cells
    }
}

impl Column {
    fn add(&mut self, record: &TaskRecord, busy_us: u64) {
        self.records += 1;
        self.busy_us += busy_us;
        self.failed |= record.outcome != 0;
        if self.name == record.name || self.vote_us == 0 {
            (self.name, self.vote_us) = (record.name, self.vote_us + busy_us);
        } else if busy_us > self.vote_us {
            (self.name, self.vote_us) = (record.name, busy_us - self.vote_us);
        } else {
            self.vote_us -= busy_us;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// (name, worker or 0, start, length, outcome)
    type Told = (&'static str, u8, u64, u64, u32);

    fn log(told: &[Told]) -> v1::TaskEventBatches {
        let batches = told
            .iter()
            .enumerate()
            .map(|(number, (name, worker, start, length, outcome))| {
                let mut actor = vec![0xff; 12];
                actor.extend([1, 0, 0, 0]);
                v1::TaskEvents {
                    names: vec!["another".to_owned(), (*name).to_owned()],
                    name_of: vec![1],
                    task_unique: vec![number as u64],
                    outcome: vec![*outcome],
                    end_us: vec![start + length],
                    run_us: vec![*length],
                    workers: vec![*worker; WorkerId::SIZE],
                    pids: vec![u32::from(*worker)],
                    actors: actor,
                    parent_unique: vec![0],
                    attempts: vec![0],
                    submitted_us: vec![start.saturating_sub(10)],
                    node_id: vec![9; 28],
                    texts: vec!["it is broken".to_owned()],
                    text_of: vec![u32::from(*outcome != 0)],
                    ..v1::TaskEvents::default()
                }
            });
        v1::TaskEventBatches {
            batches: batches.collect(),
            dropped: 3,
        }
    }

    fn records(told: &[Told]) -> TaskRecords {
        TaskRecords::new(log(told))
    }

    #[test]
    fn names_sum_up() {
        let records = records(&[
            ("f", 1, 100, 20, 0),
            ("f", 2, 100, 40, 1),
            ("g", 1, 200, 5, 0),
            ("f", 0, 300, 0, 2),
        ]);
        let sums = records.by_name();
        let f = sums
            .iter()
            .find(|sum| records.names()[sum.name as usize] == "f")
            .expect("f");
        assert_eq!((f.finished, f.failed, f.ran), (1, 2, 2));
        assert_eq!((f.run_us, f.longest_us, f.wait_us, f.last_end_us), (60, 40, 20, 300));
        assert_eq!(f.kind, Kind::Normal);
        assert_eq!(sums.len(), 2);
        assert_eq!(records.span_us(), Some((100, 205)));
        assert_eq!(records.dropped(), 3);
        assert_eq!(TaskRecords::default().span_us(), None);
    }

    #[test]
    fn pages_are_of_what_is_wanted_the_latest_first() {
        let records = records(&[("f", 1, 100, 20, 0), ("g", 1, 130, 20, 1), ("F2", 1, 160, 20, 0)]);
        let ends = |filter: RecordFilter, offset, limit| {
            let (total, page) = records.page(&filter, offset, limit);
            (total, page.iter().map(|record| record.end_us).collect::<Vec<_>>())
        };
        assert_eq!(ends(RecordFilter::default(), 0, 2), (3, vec![180, 150]));
        assert_eq!(ends(RecordFilter::default(), 2, 2), (3, vec![120]));
        assert_eq!(ends(RecordFilter::default(), 9, 2), (3, vec![]));
        let of = |name: &str| RecordFilter {
            name: Some(name.to_owned()),
            ..RecordFilter::default()
        };
        assert_eq!(ends(of("f"), 0, 9), (1, vec![120]));
        let search = |text: &str| RecordFilter {
            search: text.to_owned(),
            ..RecordFilter::default()
        };
        assert_eq!(ends(search("F"), 0, 9), (2, vec![180, 120]));
        let id = records.records()[1].task_id;
        let digits: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(ends(search(&digits), 0, 9), (1, vec![150]));
        assert_eq!(
            ends(search(&digits[..5].to_uppercase()), 0, 9).0,
            records.page(&search(&digits[..5]), 0, 9).0
        );
        assert_eq!(ends(search(&format!("{digits}0")), 0, 9), (0, vec![]));
        let failed = RecordFilter {
            failed: Some(true),
            ..RecordFilter::default()
        };
        assert_eq!(ends(failed.clone(), 0, 9), (1, vec![150]));
        assert_eq!(records.text_of(records.page(&failed, 0, 9).1[0]), Some("it is broken"));
        assert_eq!(records.text_of(&records.records()[0]), None);
    }

    #[test]
    fn a_chart_has_a_row_for_each_worker() {
        let records = records(&[("f", 1, 0, 500, 0), ("g", 2, 500, 250, 1), ("f", 2, 900, 100, 0)]);
        let chart = records.chart(0, 1000, 10);
        let index = |name: &str| records.names().iter().position(|known| known == name).expect("known") as u32;
        let cell = |column, width, name, busy, failed| Cell {
            column,
            width,
            name,
            busy,
            failed,
        };
        let (f, g) = (index("f"), index("g"));
        assert_eq!(chart.rows.len(), 2);
        assert_eq!(chart.rows[0].1, [cell(0, 5, f, 1000, false)]);
        assert_eq!(
            chart.rows[1].1,
            [
                cell(5, 2, g, 1000, true),
                cell(7, 1, g, 500, true),
                cell(9, 1, f, 1000, false)
            ]
        );
        assert_eq!(chart.records, 3);
        assert_eq!(records.chart(600, 700, 1).rows.len(), 1);
        assert_eq!(records.chart(5, 5, 10), Chart::default());
        assert_eq!(records.chart(2000, 3000, 10), Chart::default());
    }

    #[test]
    fn columns_that_lie_about_their_length_are_passed_over() {
        let mut log = log(&[("f", 1, 0, 5, 0), ("g", 1, 0, 5, 0)]);
        log.batches[0].workers.clear();
        log.batches[1].name_of = vec![7];
        assert_eq!(TaskRecords::new(log).records(), []);
    }

    proptest! {
        #[test]
        fn charts_fit_and_have_all(
            told in prop::collection::vec((1..4u8, 0..5_000u64, 0..2_000u64, 0..2u32), 0..60),
            from in 0..6_000u64,
            span in 0..6_000u64,
            columns in 0..200usize,
        ) {
            let told: Vec<Told> = told.into_iter().map(|(worker, start, length, outcome)| ("f", worker, start, length, outcome)).collect();
            let records = records(&told);
            let chart = records.chart(from, from + span, columns);
            let is_inside = |(_, _, start, length, _): &&Told| span > 0 && start + length >= from && *start < from + span;
            prop_assert_eq!(chart.records, told.iter().filter(is_inside).count());
            for (_, cells) in &chart.rows {
                prop_assert!(!cells.is_empty());
                let mut next = 0;
                for cell in cells {
                    prop_assert!(cell.column >= next && cell.width > 0);
                    prop_assert!((1..=1000).contains(&cell.busy));
                    next = cell.column + cell.width;
                }
                prop_assert!(next as usize <= columns.max(1));
            }
        }
    }
}
