//! Makes the listing of tasks of what the control store knows of those that have ended, and processes of those that have not.
//!
//! An owner knows that a task was sent, the process that runs it that it runs: an owner's rows get their state here. Of an
//! owner that has more tasks than it gives rows, numbers are had from its counts by name, and those of its tasks that run are
//! told from those that wait at a worker by what executors say.

use ray_rs_proto::convert::{NoSuchColumn, column_filters, kind_of_number};
use ray_rs_proto::v1;
use ray_rs_types::task_columns::{
    Cell, ColumnFilter, TaskColumn, TaskKind, error_message, error_type, passes, state_of_ended,
};
use ray_rs_types::{ActorId, TaskId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::describe::{GROUP, RUNNING, SUBMITTED};
use crate::listing::{STATES, is_told_by_executors};

/// What is to be listed.
#[derive(Debug, Clone, Default)]
pub struct TaskQuery {
    /// All of them hold.
    pub filters: Vec<v1::ColumnFilter>,
    /// Most rows.
    pub limit: u32,
    /// Of the page before; 0: the first page.
    pub cursor: u64,
    /// Only those that have ended, the oldest first. Else the latest come first, and before them those that have not.
    pub ended_only: bool,
    /// With counts by name, kind and state.
    pub counts: bool,
}

/// Some rows of a listing.
#[derive(Debug, Default)]
pub struct TaskPage {
    pub rows: Vec<TaskRow>,
    /// How many pass the filters; of the first page only.
    pub total: u64,
    /// Of the next page; 0: there is none.
    pub cursor: u64,
    /// Tasks that have ended and are not kept any more.
    pub dropped: u64,
    /// Name, kind, state and number; of the first page, if they were asked for.
    pub counts: Vec<(String, TaskKind, &'static str, u64)>,
}

/// One try of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    pub task_id: TaskId,
    pub attempt: u32,
    pub name: String,
    pub state: &'static str,
    pub job_id: Vec<u8>,
    /// Empty: of a normal task.
    pub actor_id: Vec<u8>,
    pub kind: TaskKind,
    /// Empty: a driver submitted it.
    pub parent: Vec<u8>,
    pub worker: Option<v1::WorkerAddress>,
    pub error_type: Option<&'static str>,
    /// Microseconds since 1970.
    pub submitted_us: Option<u64>,
    pub start_us: Option<u64>,
    pub end_us: Option<u64>,
    pub error_message: Option<String>,
}

impl TaskRow {
    pub(crate) fn of_ended(row: v1::EndedTask) -> Option<Self> {
        let kind = kind_of_number(row.kind);
        let known = |us: u64| (us != 0).then_some(us);
        Some(Self {
            task_id: TaskId::from_bytes(&row.task_id).ok()?,
            attempt: row.attempt,
            name: row.name,
            state: state_of_ended(row.outcome),
            job_id: row.job_id,
            actor_id: row.actor_id,
            kind,
            parent: row.parent_task_id,
            worker: row.worker,
            error_type: error_type(kind, row.outcome),
            submitted_us: known(row.submitted_us),
            start_us: known(row.start_us),
            end_us: known(row.end_us),
            error_message: error_message(row.outcome, &row.text).map(Into::into),
        })
    }

    fn cell(&self, column: TaskColumn) -> Cell<'_> {
        let ms = |us: Option<u64>| us.map_or(Cell::Absent, |us| Cell::Number(us as f64 / 1000.0));
        let worker = self.worker.as_ref();
        match column {
            TaskColumn::TaskId => Cell::id(&self.task_id.0),
            TaskColumn::AttemptNumber => Cell::Number(f64::from(self.attempt)),
            TaskColumn::Name => Cell::text(&self.name),
            TaskColumn::State => Cell::text(self.state),
            TaskColumn::JobId => Cell::id(&self.job_id),
            TaskColumn::ActorId => Cell::id(&self.actor_id),
            TaskColumn::Type => Cell::text(self.kind.word()),
            TaskColumn::ParentTaskId => Cell::id(&self.parent),
            TaskColumn::NodeId => worker.map_or(Cell::Absent, |worker| Cell::id(&worker.node_id)),
            TaskColumn::WorkerId => worker.map_or(Cell::Absent, |worker| Cell::id(&worker.worker_id)),
            TaskColumn::WorkerPid => worker.map_or(Cell::Absent, |worker| Cell::Number(f64::from(worker.pid))),
            TaskColumn::ErrorType => self.error_type.map_or(Cell::Absent, Cell::text),
            TaskColumn::Language => Cell::text("PYTHON"),
            TaskColumn::CreationTimeMs => ms(self.submitted_us),
            TaskColumn::StartTimeMs => ms(self.start_us),
            TaskColumn::EndTimeMs => ms(self.end_us),
            TaskColumn::ErrorMessage => self.error_message.as_deref().map_or(Cell::Absent, Cell::text),
        }
    }

    /// As in `ListTasksRequest.unfinished`.
    pub(crate) fn key(&self) -> impl Iterator<Item = u8> {
        self.task_id.0.into_iter().chain(self.attempt.to_le_bytes())
    }
}

/// What processes say of tasks that have not ended, put together.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    /// The latest first.
    pub rows: Vec<TaskRow>,
    /// By name, kind and state: of all that pass the filters.
    pub counts: FxHashMap<(String, TaskKind, &'static str), u64>,
    pub total: u64,
    /// Tasks that run and pass, as far as that is known, but of which no owner gave a row.
    pub without_row: Vec<TaskId>,
    /// How many rows of owners did not pass for what executors say of them. They took the place of others.
    pub refused: usize,
    /// How many tasks run: no more rows than these can be refused.
    pub running: usize,
}

struct Execution<'a> {
    task: &'a v1::ExecutingTask,
    process: &'a v1::WorkerAddress,
    state: &'static str,
}

/// Joins what owners and executors say.
///
/// # Errors
/// [`NoSuchColumn`]
pub(crate) fn unfinished(said: &v1::Descriptions, filters: &[v1::ColumnFilter]) -> Result<Unfinished, NoSuchColumn> {
    let joining = Joining::new(said, column_filters(filters)?);
    let mut found = Unfinished {
        running: joining.running.len(),
        ..Unfinished::default()
    };
    for owner in &said.processes {
        joining.add_owner(owner, &mut found);
    }
    found.total = found.counts.values().sum();
    found.rows.sort_by_key(|row| std::cmp::Reverse(row.submitted_us));
    Ok(found)
}

struct Joining<'a> {
    filters: Vec<ColumnFilter>,
    /// What runs, by its task.
    running: FxHashMap<&'a [u8], Execution<'a>>,
    /// WorkerIDs of processes that have said what they run.
    answered: FxHashSet<&'a [u8]>,
    all_answered: bool,
}

impl<'a> Joining<'a> {
    fn new(said: &'a v1::Descriptions, filters: Vec<ColumnFilter>) -> Self {
        // A coroutine that awaits runs, as in Ray.
        let waits = said.processes.iter().flat_map(|process| &process.waits);
        let waits: FxHashMap<&[u8], &'static str> = (waits.filter(|wait| !wait.is_await && !wait.task_id.is_empty()))
            .map(|wait| {
                let state = if wait.all_of {
                    "RUNNING_IN_RAY_GET"
                } else {
                    "RUNNING_IN_RAY_WAIT"
                };
                (&*wait.task_id, state)
            })
            .collect();
        let mut running = FxHashMap::default();
        let mut answered = FxHashSet::default();
        for said in &said.processes {
            let Some(process) = &said.process else { continue };
            answered.insert(&*process.worker_id);
            for task in &said.executing {
                let state = waits.get(&*task.task_id).copied().unwrap_or(STATES[RUNNING as usize]);
                running.insert(&*task.task_id, Execution { task, process, state });
            }
        }
        Self {
            filters,
            running,
            answered,
            all_answered: said.silent.is_empty() && said.silent_nodes.is_empty(),
        }
    }

    fn add_owner(&self, owner: &'a v1::Description, found: &mut Unfinished) {
        let begin = found.rows.len();
        for row in owner.tasks.iter().filter_map(|task| self.row(owner, task)) {
            if passes(&self.filters, |column| row.cell(column)) {
                found.rows.push(row);
            } else {
                found.refused += 1;
            }
        }
        if owner.tasks.len() as u64 == owner.total_tasks {
            for row in &found.rows[begin..] {
                *found.counts.entry((row.name.clone(), row.kind, row.state)).or_default() += 1;
            }
            return;
        }
        let told: FxHashSet<&[u8]> = owner.tasks.iter().map(|task| &*task.task_id).collect();
        let running = self.running_of(owner);
        let untold = running.iter().filter(|one| !told.contains(&*one.task.task_id));
        found.without_row.extend(untold.filter_map(|one| {
            let state_passes = self.states_pass(one.state);
            TaskId::from_bytes(&one.task.task_id).ok().filter(|_| state_passes)
        }));
        for ((name, kind, state), count) in self.counts_of(owner, &running) {
            if self.states_pass(state) {
                *found.counts.entry((name.to_owned(), kind, state)).or_default() += count;
            }
        }
    }

    fn row(&self, owner: &v1::Description, task: &v1::UnfinishedTask) -> Option<TaskRow> {
        if task.kind == GROUP || task.unlisted {
            return None;
        }
        let mut row = TaskRow {
            task_id: TaskId::from_bytes(&task.task_id).ok()?,
            attempt: task.attempt,
            name: task.name.clone(),
            state: STATES.get(task.state as usize).copied().unwrap_or(STATES[0]),
            job_id: owner.job_id.clone(),
            actor_id: task.actor_id.clone(),
            kind: kind_of_number(task.kind),
            parent: task.parent.clone(),
            worker: task.worker.clone(),
            error_type: None,
            submitted_us: Some(task.submitted_us),
            start_us: None,
            end_us: None,
            error_message: None,
        };
        let worker = task.worker.as_ref();
        if let Some(running) = self.running.get(&*task.task_id) {
            row.worker = Some(running.process.clone());
            row.state = running.state;
            row.start_us = Some(running.task.started_us);
            // The clock of submissions is some milliseconds coarse.
            row.submitted_us = Some(task.submitted_us.min(running.task.started_us));
        } else if task.state == RUNNING && worker.is_some_and(|worker| self.answered.contains(&*worker.worker_id)) {
            // Taken by a worker that has not begun with it.
            row.state = STATES[SUBMITTED as usize];
        }
        Some(row)
    }

    /// What runs of an owner's tasks, and passes the filters as far as an executor knows.
    fn running_of(&self, owner: &v1::Description) -> Vec<&Execution<'a>> {
        let me = owner.process.as_ref().map(|process| &process.worker_id);
        let of_owner = |one: &&Execution<'_>| one.task.caller.as_ref().map(|caller| &caller.worker_id) == me;
        let passing = |one: &&Execution<'_>| {
            let known = self
                .filters
                .iter()
                .filter(|filter| !is_unknown_to_executors(filter.column));
            let cell = |column| cell_of_execution(one, &owner.job_id, column);
            known.into_iter().all(|filter| filter.accepts(&cell(filter.column)))
        };
        self.running.values().filter(of_owner).filter(passing).collect()
    }

    fn states_pass(&self, state: &str) -> bool {
        let mut filters = self.filters.iter().filter(|filter| filter.column == TaskColumn::State);
        filters.all(|filter| filter.accepts(&Cell::text(state)))
    }

    /// An owner's counts, in which those of its tasks that run are found among those that were sent.
    fn counts_of<'o>(
        &self,
        owner: &'o v1::Description,
        running: &[&Execution<'a>],
    ) -> FxHashMap<(&'o str, TaskKind, &'static str), u64> {
        // Of each name and kind: how many there are in each of the states that an owner knows.
        let mut known: FxHashMap<(&str, TaskKind), [u64; STATES.len()]> = FxHashMap::default();
        for count in &owner.task_counts {
            let states = known.entry((&count.name, kind_of_number(count.kind))).or_default();
            if let Some(state) = states.get_mut(count.state as usize) {
                *state += count.count;
            }
        }
        let mut counts = FxHashMap::default();
        for one in running {
            let what = known
                .iter_mut()
                .find(|((name, kind), _)| *name == one.task.name && *kind == kind_of(&one.task.task_id));
            // The owner may have heard of its end since.
            let Some(((name, kind), states)) = what else { continue };
            let Some(state) = (states.iter_mut().rev()).find(|count| **count > 0) else {
                continue;
            };
            *state -= 1;
            *counts.entry((*name, *kind, one.state)).or_default() += 1;
        }
        for ((name, kind), states) in known {
            for (state, count) in states.into_iter().enumerate().filter(|(_, count)| *count > 0) {
                let waits_there = state as u32 == RUNNING && self.all_answered;
                let state = if waits_there { SUBMITTED as usize } else { state };
                *counts.entry((name, kind, STATES[state])).or_default() += count;
            }
        }
        counts
    }
}

fn kind_of(task: &[u8]) -> TaskKind {
    let actor = TaskId::from_bytes(task).map_or(ActorId::NIL, |task| task.actor_id());
    if actor.0[..12] == [0xff; 12] {
        TaskKind::Normal
    } else {
        TaskKind::Call
    }
}

fn is_unknown_to_executors(column: TaskColumn) -> bool {
    use TaskColumn::{AttemptNumber, CreationTimeMs, ParentTaskId};
    is_told_by_executors(column) || matches!(column, AttemptNumber | ParentTaskId | CreationTimeMs)
}

fn cell_of_execution<'c>(one: &'c Execution<'_>, job: &'c [u8], column: TaskColumn) -> Cell<'c> {
    let kind = kind_of(&one.task.task_id);
    match column {
        TaskColumn::TaskId => Cell::id(&one.task.task_id),
        TaskColumn::Name => Cell::text(&one.task.name),
        TaskColumn::JobId => Cell::id(job),
        TaskColumn::ActorId if kind == TaskKind::Call => Cell::id(&one.task.task_id[8..]),
        TaskColumn::Type => Cell::text(kind.word()),
        TaskColumn::NodeId => Cell::id(&one.process.node_id),
        TaskColumn::WorkerId => Cell::id(&one.process.worker_id),
        TaskColumn::WorkerPid => Cell::Number(f64::from(one.process.pid)),
        TaskColumn::Language => Cell::text("PYTHON"),
        TaskColumn::ActorId | TaskColumn::ErrorType | TaskColumn::EndTimeMs | TaskColumn::ErrorMessage => Cell::Absent,
        TaskColumn::AttemptNumber
        | TaskColumn::ParentTaskId
        | TaskColumn::CreationTimeMs
        | TaskColumn::State
        | TaskColumn::StartTimeMs => unreachable!("an executor does not know it, and is not asked"),
    }
}

#[cfg(test)]
mod tests {
    use ray_rs_types::JobId;

    use super::*;

    fn address(number: u8) -> v1::WorkerAddress {
        v1::WorkerAddress {
            node_id: vec![1; 28],
            worker_id: vec![number; 28],
            pid: u32::from(number),
        }
    }

    fn task(unique: u64, name: &str, state: u32) -> v1::UnfinishedTask {
        v1::UnfinishedTask {
            task_id: TaskId::new(unique, ActorId::nil_of(JobId::from_int(1))).0.to_vec(),
            name: name.to_owned(),
            state,
            kind: 1,
            submitted_us: 1000 + unique,
            worker: (state >= SUBMITTED).then(|| address(2)),
            ..v1::UnfinishedTask::default()
        }
    }

    /// Tasks 1 to 4 of `f` in each state, of which 4 really runs.
    fn said() -> v1::Descriptions {
        let tasks: Vec<v1::UnfinishedTask> = (1..=4).map(|n| task(n, "f", n as u32)).collect();
        let executing = v1::ExecutingTask {
            task_id: tasks[3].task_id.clone(),
            name: "f".to_owned(),
            started_us: 900,
            caller: Some(address(1)),
            ..v1::ExecutingTask::default()
        };
        let counts = (1..=4).map(|state| v1::TaskCount {
            name: "f".to_owned(),
            kind: 1,
            state,
            count: 1,
        });
        let owner = v1::Description {
            process: Some(address(1)),
            total_tasks: 4,
            task_counts: counts.collect(),
            tasks,
            ..v1::Description::default()
        };
        let executor = v1::Description {
            process: Some(address(2)),
            executing: vec![executing],
            ..v1::Description::default()
        };
        v1::Descriptions {
            processes: vec![owner, executor],
            ..v1::Descriptions::default()
        }
    }

    fn state_is(word: &str) -> Vec<v1::ColumnFilter> {
        vec![v1::ColumnFilter {
            column: "state".to_owned(),
            differs: false,
            value: Some(word.to_owned()),
        }]
    }

    #[test]
    fn rows_get_their_state_from_who_runs_them() {
        let mut said = said();
        // Another one that the owner takes for running: its worker says it does not.
        said.processes[0].tasks.push(task(5, "f", RUNNING));
        said.processes[0].total_tasks = 5;
        let found = unfinished(&said, &[]).expect("good");
        let states: Vec<_> = found.rows.iter().map(|row| (row.task_id.unique(), row.state)).collect();
        assert_eq!(
            states,
            [
                (5, "SUBMITTED_TO_WORKER"),
                (3, "SUBMITTED_TO_WORKER"),
                (2, "PENDING_NODE_ASSIGNMENT"),
                (1, "PENDING_ARGS_AVAIL"),
                (4, "RUNNING"),
            ]
        );
        let ran = found.rows.last().expect("five");
        assert_eq!((ran.start_us, ran.submitted_us), (Some(900), Some(900)));
        assert_eq!(found.total, 5);
        // Nobody has heard of the worker.
        said.processes.pop();
        let found = unfinished(&said, &[]).expect("good");
        assert_eq!(found.counts[&("f".to_owned(), TaskKind::Normal, "RUNNING")], 2);
    }

    #[test]
    fn a_task_that_sleeps_in_get_or_wait_says_so() {
        let mut said = said();
        let task_id = said.processes[1].executing[0].task_id.clone();
        for (all_of, word) in [(true, "RUNNING_IN_RAY_GET"), (false, "RUNNING_IN_RAY_WAIT")] {
            said.processes[1].waits = vec![v1::BlockedThread {
                task_id: task_id.clone(),
                all_of,
                ..v1::BlockedThread::default()
            }];
            let found = unfinished(&said, &state_is(word)).expect("good");
            assert_eq!((found.rows.len(), found.total), (1, 1));
        }
    }

    #[test]
    fn numbers_are_the_same_whether_all_rows_came_or_few() {
        let whole = unfinished(&said(), &[]).expect("good");
        let mut said = said();
        said.processes[0].tasks.truncate(1);
        let part = unfinished(&said, &[]).expect("good");
        assert_eq!((part.total, &part.counts), (4, &whole.counts));
        assert_eq!(part.without_row.len(), 1);
        let running = unfinished(&said, &state_is("RUNNING")).expect("good");
        assert_eq!(
            (running.rows.len(), running.total, running.without_row.len()),
            (0, 1, 1)
        );
        let pending = unfinished(&said, &state_is("PENDING_NODE_ASSIGNMENT")).expect("good");
        assert_eq!((pending.total, pending.without_row.len()), (1, 0));
    }

    #[test]
    fn a_row_that_did_not_pass_for_what_runs_is_told_of() {
        let mut filters = state_is("RUNNING");
        filters[0].differs = true;
        let mut said = said();
        // The owner gave as many as it was asked for, and the one that runs took a place.
        said.processes[0].tasks = vec![said.processes[0].tasks[3].clone()];
        let found = unfinished(&said, &filters).expect("good");
        assert_eq!((found.rows.len(), found.total), (0, 3));
        assert_eq!((found.refused, found.running), (1, 1));
    }

    #[test]
    fn who_does_not_answer_may_run_what_it_took() {
        let mut said = said();
        said.processes[0].tasks.clear();
        said.processes.pop();
        let counted = |said: &v1::Descriptions, word: &'static str| {
            let found = unfinished(said, &[]).expect("good");
            found.counts.get(&("f".to_owned(), TaskKind::Normal, word)).copied()
        };
        assert_eq!(counted(&said, "RUNNING"), None);
        assert_eq!(counted(&said, "SUBMITTED_TO_WORKER"), Some(2));
        said.silent.push(address(2));
        assert_eq!(counted(&said, "RUNNING"), Some(1));
    }

    #[test]
    fn what_wants_to_be_in_no_listing_is_in_none() {
        let mut said = said();
        said.processes[0].tasks[0].unlisted = true;
        said.processes[0].tasks[1].kind = GROUP;
        let found = unfinished(&said, &[]).expect("good");
        assert_eq!((found.rows.len(), found.total), (2, 2));
    }
}
