//! The columns of the rows that the state API has for tasks, the words that stand in them, and filters on them.
//!
//! Who holds the records (the control store of tries that have ended, each process of its tasks that have not) filters where
//! they are; a record tells its cells one by one, so that nothing is made of those that no filter asks for.

use std::borrow::Cow;

/// What a listing says of one try of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskColumn {
    TaskId,
    AttemptNumber,
    /// Also the function's or class's name: it is the same.
    Name,
    State,
    JobId,
    ActorId,
    Type,
    ParentTaskId,
    NodeId,
    WorkerId,
    WorkerPid,
    ErrorType,
    Language,
    CreationTimeMs,
    StartTimeMs,
    EndTimeMs,
    ErrorMessage,
}

impl TaskColumn {
    /// By the name that it has in `ray.util.state`; `None`: there is no such column.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "task_id" => Self::TaskId,
            "attempt_number" => Self::AttemptNumber,
            "name" | "func_or_class_name" => Self::Name,
            "state" => Self::State,
            "job_id" => Self::JobId,
            "actor_id" => Self::ActorId,
            "type" => Self::Type,
            "parent_task_id" => Self::ParentTaskId,
            "node_id" => Self::NodeId,
            "worker_id" => Self::WorkerId,
            "worker_pid" => Self::WorkerPid,
            "error_type" => Self::ErrorType,
            "language" => Self::Language,
            "creation_time_ms" => Self::CreationTimeMs,
            "start_time_ms" => Self::StartTimeMs,
            "end_time_ms" => Self::EndTimeMs,
            "error_message" => Self::ErrorMessage,
            _ => return None,
        })
    }
}

/// What stands in one column of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    /// Nothing, as Python's None.
    Absent,
    Text(Cow<'a, str>),
    /// An id, shown in hexadecimal digits.
    Id(Cow<'a, [u8]>),
    Number(f64),
}

impl<'a> Cell<'a> {
    pub fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub fn owned_id(bytes: &[u8]) -> Cell<'static> {
        Cell::Id(Cow::Owned(bytes.to_vec()))
    }

    /// No bytes: there is none.
    pub fn id(bytes: &'a [u8]) -> Self {
        match bytes {
            [] => Self::Absent,
            bytes => Self::Id(Cow::Borrowed(bytes)),
        }
    }
}

/// One column has this value, or has another one. Text is compared without regard to case, and stands for numbers too.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnFilter {
    pub column: TaskColumn,
    /// The rows with any other value are meant.
    differs: bool,
    /// `None`: the column is empty.
    wanted: Option<Wanted>,
}

#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    /// In small letters.
    text: String,
    number: Option<f64>,
    id: Option<Vec<u8>>,
}

impl ColumnFilter {
    pub fn new(column: TaskColumn, differs: bool, wanted: Option<&str>) -> Self {
        let wanted = wanted.map(|text| Wanted {
            text: text.chars().flat_map(char::to_lowercase).collect(),
            number: text.trim().parse().ok(),
            id: bytes_of_digits(text),
        });
        Self {
            column,
            differs,
            wanted,
        }
    }

    /// Whether a row with this cell passes.
    pub fn accepts(&self, cell: &Cell<'_>) -> bool {
        self.equals(cell) != self.differs
    }

    fn equals(&self, cell: &Cell<'_>) -> bool {
        match (&self.wanted, cell) {
            (None, Cell::Absent) => true,
            (None, _) | (_, Cell::Absent) => false,
            (Some(wanted), Cell::Text(text)) => text.chars().flat_map(char::to_lowercase).eq(wanted.text.chars()),
            (Some(wanted), Cell::Id(id)) => wanted.id.as_deref() == Some(&**id),
            (Some(wanted), Cell::Number(number)) => wanted.number == Some(*number),
        }
    }
}

fn bytes_of_digits(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| (pair[0] << 4 | pair[1]) as u8)
            .collect(),
    )
}

/// Whether a row passes all filters; `cell` tells what stands in its columns.
pub fn passes<'a>(filters: &[ColumnFilter], cell: impl Fn(TaskColumn) -> Cell<'a>) -> bool {
    filters.iter().all(|filter| filter.accepts(&cell(filter.column)))
}

/// What kind of task a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskKind {
    Normal,
    Creation,
    Call,
}

impl TaskKind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL_TASK",
            Self::Creation => "ACTOR_CREATION_TASK",
            Self::Call => "ACTOR_TASK",
        }
    }
}

/// `TaskEvents.outcome` of an actor whose constructor failed, when nothing is left but what the actor died of.
pub const CREATION_FAILED: u32 = 11;
/// `TaskEvents.outcome` of a task that raised.
const RAISED: u32 = 1;

/// The state of a task that has ended, by `TaskEvents.outcome`.
pub fn state_of_ended(outcome: u32) -> &'static str {
    if outcome == 0 { "FINISHED" } else { "FAILED" }
}

/// Ray's word for what a task failed of, by `TaskEvents.outcome`; `None`: it did not fail.
pub fn error_type(kind: TaskKind, outcome: u32) -> Option<&'static str> {
    Some(match outcome {
        0 => return None,
        _ if kind == TaskKind::Creation => "ACTOR_CREATION_FAILED",
        RAISED => "TASK_EXECUTION_EXCEPTION",
        2 => "TASK_CANCELLED",
        4 => "OUT_OF_MEMORY",
        5 => "ACTOR_DIED",
        6 => "ACTOR_UNAVAILABLE",
        7 => "RUNTIME_ENV_SETUP_FAILED",
        8 => "TASK_UNSCHEDULABLE_ERROR",
        9 => "TASK_PLACEMENT_GROUP_REMOVED",
        _ => "WORKER_DIED",
    })
}

/// What befell a task, by `TaskEvents.outcome`, and what its error said. What was raised speaks for itself.
pub fn error_message(outcome: u32, text: &str) -> Option<Cow<'_, str>> {
    let befell = match outcome {
        0 => "",
        RAISED if !text.is_empty() => "",
        RAISED => "One of the task's arguments is an error; `get` of its result raises it.",
        2 => "The task was cancelled.",
        3 => "The worker that ran the task died unexpectedly.",
        4 => "The task's worker was ended since the node's memory was running out.",
        5 => "The actor died.",
        6 => "The actor could not be reached.",
        7 => "The runtime environment could not be made.",
        8 => "No node can ever run the task.",
        9 => "The placement group that the task was to run in was removed.",
        CREATION_FAILED => "",
        _ => "The engine failed the task.",
    };
    match (befell, text) {
        ("", "") => None,
        ("", text) => Some(Cow::Borrowed(text)),
        (befell, "") => Some(Cow::Borrowed(befell)),
        (befell, text) => Some(Cow::Owned(format!("{befell} {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(column: &str, differs: bool, wanted: Option<&str>) -> ColumnFilter {
        ColumnFilter::new(TaskColumn::named(column).expect("a column"), differs, wanted)
    }

    #[test]
    fn text_is_compared_without_case_numbers_as_numbers_and_ids_by_their_digits() {
        let name = filter("name", false, Some("FÜNF"));
        assert!(name.accepts(&Cell::text("fünf")) && !name.accepts(&Cell::text("fün")));
        let pid = filter("worker_pid", false, Some(" 12.0"));
        assert!(pid.accepts(&Cell::Number(12.0)) && !pid.accepts(&Cell::Number(13.0)));
        assert!(!filter("worker_pid", false, Some("twelve")).accepts(&Cell::Number(12.0)));
        let id = filter("task_id", false, Some("aB01"));
        assert!(id.accepts(&Cell::id(&[0xab, 1])) && !id.accepts(&Cell::id(&[0xab])));
        assert!(!filter("task_id", false, Some("xyz")).accepts(&Cell::id(&[0xab])));
    }

    #[test]
    fn what_is_absent_equals_only_nothing() {
        assert!(filter("actor_id", false, None).accepts(&Cell::id(&[])));
        assert!(!filter("actor_id", false, Some("")).accepts(&Cell::Absent));
        assert!(filter("actor_id", true, Some("ab")).accepts(&Cell::Absent));
        assert!(filter("actor_id", true, None).accepts(&Cell::id(&[1])));
    }

    #[test]
    fn all_filters_hold_and_only_their_columns_are_asked_for() {
        let filters = [filter("name", false, Some("f")), filter("state", true, Some("FAILED"))];
        let row = |state: &'static str| {
            move |column| match column {
                TaskColumn::Name => Cell::text("f"),
                TaskColumn::State => Cell::text(state),
                other => panic!("nobody asked for {other:?}"),
            }
        };
        assert!(passes(&filters, row("FINISHED")));
        assert!(!passes(&filters, row("failed")));
    }

    #[test]
    fn what_was_raised_speaks_for_itself() {
        assert_eq!(error_message(0, ""), None);
        assert_eq!(error_message(RAISED, "no").as_deref(), Some("no"));
        assert!(error_message(RAISED, "").expect("words").contains("argument"));
        assert_eq!(error_message(5, "killed").as_deref(), Some("The actor died. killed"));
        assert_eq!(error_message(CREATION_FAILED, ""), None);
        assert_eq!(error_type(TaskKind::Creation, 1), Some("ACTOR_CREATION_FAILED"));
        assert_eq!(error_type(TaskKind::Call, 3), Some("WORKER_DIED"));
    }
}
