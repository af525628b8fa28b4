//! What is known of the processes of all nodes. Times are microseconds since 1970 by the clock of the process that said them.

use ray_rs_types::{ActorId, NodeId, ObjectId, TaskId, WorkerId};

#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub processes: Vec<Process>,
    /// Process ids of those that did not answer.
    pub silent: Vec<u32>,
    /// Nodes that did not answer as a whole.
    pub silent_nodes: Vec<NodeId>,
    /// What waits for the resources of a node.
    pub waiting: Vec<Waiting>,
}

#[derive(Debug, Clone)]
pub struct Process {
    pub worker: WorkerId,
    pub pid: u32,
    /// When it said this. Clocks of two machines need not agree: how long something takes is told by one of them.
    pub now_us: u64,
    /// Its node, when that is not the asker's own.
    pub elsewhere: Option<NodeId>,
    pub is_driver: bool,
    pub hosted: Option<Hosted>,
    pub tasks: Vec<Task>,
    pub executing: Vec<Executing>,
    pub waits: Vec<Wait>,
    pub called: Vec<Called>,
    pub objects: Vec<Object>,
}

impl Process {
    /// How people find it.
    pub fn place(&self) -> String {
        match self.elsewhere {
            Some(node) => format!("pid {} on node {}", self.pid, short(node)),
            None => format!("pid {}", self.pid),
        }
    }
}

/// Enough of an id to find the node by.
pub(crate) fn short(node: NodeId) -> String {
    node.hex()[..12].to_owned()
}

/// The actor of a process.
#[derive(Debug, Clone)]
pub struct Hosted {
    pub actor: ActorId,
    pub class_name: String,
    /// Of the default group, or of all calls when there are no groups.
    pub max_concurrency: u32,
    pub groups: Vec<(String, u32)>,
    /// Since when its constructor runs, while it does.
    pub constructing_since_us: Option<u64>,
    /// Calls that have come and not begun.
    pub queued: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    PendingArguments,
    PendingNode,
    Submitted,
    Running,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    Normal,
    Creation,
    Call,
    Group,
}

/// A task that its owner, the process, has not seen end.
#[derive(Debug, Clone)]
pub struct Task {
    pub id: TaskId,
    pub name: String,
    pub state: TaskState,
    pub kind: TaskKind,
    pub attempt: u32,
    pub actor: Option<ActorId>,
    /// Of a call: its concurrency group; empty: the default one.
    pub group: String,
    /// The worker, and its process id, that it was sent to.
    pub sent_to: Option<(WorkerId, u32)>,
    pub submitted_us: u64,
    pub missing: Vec<ObjectId>,
    pub behind: Option<TaskId>,
    /// Together with the owner: the requests for workers that are for it.
    pub class: u32,
    /// What the owner's dispatcher says.
    pub why: String,
    pub cancelled: bool,
}

/// A task that the process runs.
#[derive(Debug, Clone)]
pub struct Executing {
    pub id: TaskId,
    pub name: String,
    pub started_us: u64,
    pub group: String,
}

/// A thread that sleeps in `get` or `wait`.
#[derive(Debug, Clone)]
pub struct Wait {
    pub serial: u64,
    pub since_us: u64,
    pub missing: Vec<ObjectId>,
    pub has_timeout: bool,
    pub all_of: bool,
    /// The task whose own thread it is.
    pub task: Option<TaskId>,
    pub is_constructor: bool,
    /// A coroutine awaits, and no thread sleeps.
    pub is_await: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    Unresolved,
    Connected,
    Restarting,
    Dead,
}

/// An actor as the process, its caller, sees it.
#[derive(Debug, Clone)]
pub struct Called {
    pub actor: ActorId,
    pub connection: Connection,
    pub pending: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Pending,
    /// Nothing to store, as of `None`.
    Empty,
    Inline,
    Arena,
    Spilled,
    Error,
}

/// An object in the words of its owner or a borrower.
#[derive(Debug, Clone)]
pub struct Object {
    pub id: ObjectId,
    pub is_owned: bool,
    pub place: Place,
    pub size: u64,
    /// Where the program made it; may be empty.
    pub site: String,
}

/// Waits for the node's resources.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The owner of the tasks, and their class there.
    pub owner: Option<(WorkerId, u32)>,
    pub actor: Option<ActorId>,
    pub why: String,
}
