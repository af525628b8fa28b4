//! What this process tells of its unfinished tasks when tasks are listed: those that pass the filters, up to a limit, and how
//! many there are by name and state. All of them are walked; rows are made only of those that are told.

use ray_rs_ownership::{TaskKey, TaskState};
use ray_rs_proto::convert::{column_filters, kind_number};
use ray_rs_proto::v1;
use ray_rs_types::task_columns::{Cell, ColumnFilter, TaskColumn, TaskKind, passes};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::describe::{RUNNING, SUBMITTED};
use crate::model::ActorIndex;
use crate::state::State;
use crate::submit::{Spec, Work};

/// Names that are counted; what has others is only in the total.
const MOST_COUNTS: usize = 10_000;
/// Ray's words for `UnfinishedTask.state`.
pub(crate) const STATES: [&str; 5] = [
    "NIL",
    "PENDING_ARGS_AVAIL",
    "PENDING_NODE_ASSIGNMENT",
    "SUBMITTED_TO_WORKER",
    "RUNNING",
];
/// The states that a task may be in of which its owner knows that it was sent.
pub(crate) const SENT_STATES: [&str; 4] = [
    "SUBMITTED_TO_WORKER",
    "RUNNING",
    "RUNNING_IN_RAY_GET",
    "RUNNING_IN_RAY_WAIT",
];

/// Whether an owner cannot judge the column: whether a task really runs, its executor knows.
pub(crate) fn is_told_by_executors(column: TaskColumn) -> bool {
    matches!(column, TaskColumn::State | TaskColumn::StartTimeMs)
}

/// How a task stands, as its owner knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// As in `UnfinishedTask`.
    pub state: u32,
    pub kind: Option<TaskKind>,
    pub unlisted: bool,
}

/// Whether a task that its owner says is in `state` can be in one that passes.
fn may_pass(filters: &[ColumnFilter], state: u32) -> bool {
    let accepted = |word: &&str| {
        let mut states = filters.iter().filter(|filter| filter.column == TaskColumn::State);
        states.all(|filter| filter.accepts(&Cell::text(word)))
    };
    match state {
        SUBMITTED | RUNNING => SENT_STATES.iter().any(accepted),
        other => STATES.get(other as usize).is_some_and(accepted),
    }
}

/// The same for all tasks that are counted together: their function, method or actor.
fn group_of(work: Work) -> (TaskKind, u32) {
    match work {
        Work::Normal(function) => (TaskKind::Normal, function.0),
        Work::Call { method, .. } => (TaskKind::Call, method.0),
        Work::Creation(ActorIndex(actor)) => (TaskKind::Creation, actor),
        Work::Group => unreachable!("the readiness of a group is in no listing"),
    }
}

impl State {
    /// Fills in the tasks, their number and the counts of a description.
    pub fn list_unfinished(
        &self,
        question: &v1::DescribeYourself,
        first: &FxHashSet<&[u8]>,
        limit: usize,
        description: &mut v1::Description,
    ) {
        let Ok(filters) = column_filters(&question.task_filters) else {
            // The control store says what is wrong with them.
            return;
        };
        let (undecided, decided): (Vec<_>, Vec<_>) = filters
            .into_iter()
            .partition(|filter| is_told_by_executors(filter.column));
        // Those asked for; those that run; those that were sent; the others.
        let mut rows: [Vec<(TaskKey, TaskState)>; 4] = Default::default();
        let mut counts: FxHashMap<(TaskKind, u32, u32), (Work, u64)> = FxHashMap::default();
        for (key, state, spec) in self.owner.tasks().filter(|(_, _, spec)| !self.is_made(spec)) {
            let standing = self.standing_of(key, state, spec);
            let Some(kind) = standing.kind.filter(|_| !standing.unlisted) else {
                continue;
            };
            if !passes(&decided, |column| self.cell(key, spec, kind, column)) {
                continue;
            }
            description.total_tasks += 1;
            let (kind, group) = group_of(spec.work);
            counts.entry((kind, group, standing.state)).or_insert((spec.work, 0)).1 += 1;
            if !may_pass(&undecided, standing.state) {
                continue;
            }
            let urgency = match standing.state {
                _ if !first.is_empty() && first.contains(&self.task_id_of(spec).0[..]) => 0,
                RUNNING => 1,
                SUBMITTED => 2,
                _ => 3,
            };
            if rows[urgency].len() < limit {
                rows[urgency].push((key, state));
            }
        }
        let rows = rows.iter().flatten().take(limit);
        description.tasks = rows
            .filter_map(|(key, state)| {
                let spec = self.owner.spec(*key)?;
                Some(self.describe_task(*key, *state, spec))
            })
            .collect();
        let mut by_name: FxHashMap<(String, TaskKind, u32), u64> = FxHashMap::default();
        for ((kind, _, state), (work, count)) in counts {
            *by_name.entry((self.name_of(work), kind, state)).or_default() += count;
        }
        let counts = by_name.into_iter().take(MOST_COUNTS);
        description.task_counts = counts
            .map(|((name, kind, state), count)| v1::TaskCount {
                name,
                kind: kind_number(kind),
                state,
                count,
            })
            .collect();
    }

    fn cell(&self, key: TaskKey, spec: &Spec, kind: TaskKind, column: TaskColumn) -> Cell<'_> {
        let sent_to = || {
            let peer = self.peers.get(spec.sent?.0)?;
            Some(self.peers.address(peer.who))
        };
        match column {
            TaskColumn::TaskId => Cell::owned_id(&self.task_id_of(spec).0),
            TaskColumn::AttemptNumber => Cell::Number(f64::from(self.owner.attempt(key))),
            TaskColumn::Name => Cell::Text(self.name_of(spec.work).into()),
            TaskColumn::JobId => Cell::id(&self.job.0),
            TaskColumn::ActorId if kind == TaskKind::Normal => Cell::Absent,
            TaskColumn::ActorId => Cell::owned_id(&self.task_id_of(spec).actor_id().0),
            TaskColumn::Type => Cell::text(kind.word()),
            TaskColumn::ParentTaskId => match self.parent_of(spec) {
                parent if parent.is_empty() => Cell::Absent,
                parent => Cell::Id(parent.into()),
            },
            TaskColumn::NodeId => sent_to().map_or(Cell::Absent, |worker| Cell::owned_id(&worker.node_id.0)),
            TaskColumn::WorkerId => sent_to().map_or(Cell::Absent, |worker| Cell::owned_id(&worker.worker_id.0)),
            TaskColumn::WorkerPid => sent_to().map_or(Cell::Absent, |worker| Cell::Number(f64::from(worker.pid))),
            TaskColumn::Language => Cell::text("PYTHON"),
            TaskColumn::CreationTimeMs => Cell::Number(spec.since.us() as f64 / 1000.0),
            TaskColumn::ErrorType | TaskColumn::EndTimeMs | TaskColumn::ErrorMessage => Cell::Absent,
            TaskColumn::State | TaskColumn::StartTimeMs => unreachable!("what executors tell is not asked for here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_on_the_state_leaves_what_may_turn_out_to_pass() {
        let state = |differs, word| vec![ColumnFilter::new(TaskColumn::State, differs, Some(word))];
        let passing =
            |filters: &[ColumnFilter]| -> Vec<u32> { (1..=4).filter(|state| may_pass(filters, *state)).collect() };
        assert_eq!(passing(&[]), [1, 2, 3, 4]);
        assert_eq!(passing(&state(false, "running_in_ray_get")), [3, 4]);
        assert_eq!(passing(&state(false, "PENDING_ARGS_AVAIL")), [1]);
        assert_eq!(passing(&state(true, "PENDING_ARGS_AVAIL")), [2, 3, 4]);
        assert_eq!(passing(&state(true, "SUBMITTED_TO_WORKER")), [1, 2, 3, 4]);
        assert_eq!(passing(&state(false, "FINISHED")), [0; 0]);
    }
}
