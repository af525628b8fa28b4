//! The words between the core worker and the language binding above it.

use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ray_rs_object_store::Pin;
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, FunctionId, JobId, NodeId, ResourceSet, TaskId, WorkerAddress, WorkerId};
use smallvec::SmallVec;

pub use ray_rs_ownership::RefSlot;

use crate::other_nodes::OtherNode;

/// How the data of a value is to be read. The numbers are those of `Value.kind` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ValueKind {
    /// Python's `None`; no data.
    None = 0,
    /// The content of a `bytes` object.
    Raw = 1,
    /// One pickle stream.
    Pickle = 2,
    /// A pickle stream and its out-of-band buffers, as laid out by `ray_rs_object_store::layout`.
    Laid = 3,
    /// A pickled error that `get` raises.
    Error = 4,
}

/// A value about to be stored: the bytes stay where they are until [`crate::CoreWorker::store`] copies them once.
pub struct ValueParts<'a> {
    pub kind: ValueKind,
    /// The raw bytes, or the pickle stream.
    pub data: &'a [u8],
    /// Out-of-band buffers; only with [`ValueKind::Laid`].
    pub buffers: &'a [&'a [u8]],
}

/// A block of the arena, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub offset: u64,
    pub length: u64,
    pub generation: u64,
    /// The client whose extent holds it; `None`: the raylet.
    pub holder: Option<WorkerId>,
    /// The node whose arena it is; `None`: this one.
    pub node: Option<OtherNode>,
}

/// Where the data of a value is.
#[derive(Debug, Clone)]
pub enum ValueData {
    Empty,
    Inline(Bytes),
    Arena(Location),
    /// There is no value: the engine failed to make it. Always of kind [`ValueKind::Error`].
    Failed(Arc<Failure>),
}

/// A value at rest, and the references inside it.
#[derive(Debug, Clone)]
pub struct StoredValue {
    pub kind: ValueKind,
    pub data: ValueData,
    /// In the order of the pickle's reference table. Whoever holds the value holds one count of each.
    pub refs: SmallVec<[RefSlot; 0]>,
}

/// The data of a value in this process's address space.
pub enum ReadData {
    Empty,
    Inline(Bytes),
    /// Stays valid, and its block in place, until dropped.
    Arena(Pin),
    /// The same for a copy of what lies on another node.
    Copied(Pin),
    /// Not where it was made, perhaps on disk: [`crate::CoreWorker::bring`] asks the raylet.
    Away(Location),
}

/// A value to be decoded.
pub struct ReadValue {
    pub kind: ValueKind,
    pub data: ReadData,
    /// One local count each, which the reader takes over (wraps in an `ObjectRef`, or drops with `drop_ref`).
    pub refs: Vec<RefSlot>,
}

/// What does not change from call to call of one remote function with one set of options.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionSpec {
    pub id: FunctionId,
    /// Display name.
    pub name: Arc<str>,
    pub resources: ResourceSet,
    /// JSON of its runtime environment; empty: the job's.
    pub runtime_env: Arc<str>,
    /// `None`: any node will do.
    pub strategy: Option<v1::SchedulingStrategy>,
    /// What it makes runs in its placement group, unless that says otherwise.
    pub captures_children: bool,
    /// -1: for ever.
    pub max_retries: i32,
    /// Empty: application errors are final; `[1]`: all are retried; else a pickled tuple of classes.
    pub retry_exceptions: Vec<u8>,
    pub max_calls: u32,
    /// From the call to its end; a task that takes longer is cancelled.
    pub time_limit: Option<Duration>,
    /// A generator pauses while so many of its items were not taken; 0: never.
    pub backpressure: u32,
    /// No listing shows its tasks.
    pub unlisted: bool,
    /// As [`crate::CoreWorker::export_function`] gave it: what workers are told of the function itself.
    pub definition: Bytes,
}

impl Hash for FunctionSpec {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What tells most of them apart.
        (self.id, &self.name, &self.resources, &self.runtime_env).hash(state);
        (self.max_retries, self.max_calls, self.time_limit).hash(state);
    }
}

/// The same for an actor's method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MethodSpec {
    pub class_name: Arc<str>,
    /// "Counter.inc".
    pub name: Arc<str>,
    pub method: Arc<str>,
    /// -1: for ever.
    pub max_task_retries: i32,
    pub retry_exceptions: Vec<u8>,
    /// From the call to its end; its caller does not wait longer.
    pub time_limit: Option<Duration>,
    /// As [`FunctionSpec::backpressure`].
    pub backpressure: u32,
    /// The concurrency group that runs it; empty: the default one.
    pub group: Arc<str>,
    /// As [`FunctionSpec::unlisted`].
    pub unlisted: bool,
    /// Its actor is durable: calls have numbers, and are sent again for as long as the actor restarts.
    pub is_durable: bool,
}

/// How a durable actor is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durability {
    /// A checkpoint after so many calls, 1 at least.
    pub checkpoint_every: u32,
    /// And after so long, if there were calls.
    pub checkpoint_interval: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FunctionIndex(pub u32);
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MethodIndex(pub u32);
/// This process's view of one actor it can call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActorIndex(pub u32);

/// The arguments of one call.
pub struct TaskArgs {
    /// The pickled tuple of all by-value arguments; [`ValueKind::None`] when there are none. Its `refs` are the nested
    /// references (one count each, taken over from the caller).
    pub values: StoredValue,
    /// Empty when no argument is a reference; else 0 (next by-value item) or 1 (next of `deps`) for each argument.
    pub layout: Vec<u8>,
    pub kwarg_names: Vec<String>,
    /// Top-level references, one count each, taken over from the caller.
    pub deps: SmallVec<[RefSlot; 2]>,
    /// Number of the task that makes this call (`TaskId::unique`); 0: none, as in a driver.
    pub parent: u64,
}

pub type Returns = SmallVec<[RefSlot; 1]>;

/// A new actor.
pub struct ActorRequest {
    pub class_id: FunctionId,
    pub class_name: String,
    pub args: TaskArgs,
    pub placement_resources: ResourceSet,
    pub running_resources: ResourceSet,
    pub strategy: Option<v1::SchedulingStrategy>,
    /// As [`FunctionSpec::captures_children`].
    pub captures_children: bool,
    pub max_restarts: i32,
    pub max_task_retries: i32,
    pub max_concurrency: u32,
    pub max_pending_calls: Option<usize>,
    pub is_async: bool,
    pub detached: bool,
    /// Empty: none.
    pub name: String,
    pub namespace: String,
    pub get_if_exists: bool,
    /// Opaque to the engine; handed to whoever looks the actor up by name.
    pub handle_descriptor: Vec<u8>,
    /// Opaque pickled dict for the worker that hosts the actor.
    pub extra: Vec<u8>,
    /// Names and limits of concurrency groups.
    pub groups: Vec<(String, u32)>,
    /// JSON of its runtime environment; empty: the job's.
    pub runtime_env: String,
    /// The class, as [`crate::CoreWorker::export_function`] gave it.
    pub definition: Bytes,
    /// As [`FunctionSpec::unlisted`], of its creation.
    pub unlisted: bool,
    /// Its state outlives its process.
    pub durability: Option<Durability>,
}

/// What `create_actor` gives.
pub enum ActorCreated {
    /// `handle` counts the handles of the actor; one local count is the caller's.
    New {
        actor_id: ActorId,
        actor: ActorIndex,
        handle: RefSlot,
    },
    /// `get_if_exists` found it.
    Existing(NamedActor),
}

/// An actor found by name.
pub struct NamedActor {
    pub actor_id: ActorId,
    pub actor: ActorIndex,
    pub handle_descriptor: Vec<u8>,
}

/// Who a process is.
#[derive(Debug, Clone)]
pub enum Role {
    /// `config`: pickled dict of plain values, see `Register.driver_config` in raylet.proto.
    Driver { config: Vec<u8> },
    Worker {
        fork_token: u64,
        /// [`crate::CoreWorker::worker_ready`] will be called; nothing is given to it before.
        set_up_follows: bool,
    },
}

pub struct ConnectConfig {
    pub session_dir: PathBuf,
    pub role: Role,
    /// Called on a thread of the engine that holds no lock; may take the GIL. Only for drivers and for processes that
    /// use [`crate::CoreWorker::notify_when_ready`].
    pub on_event: Box<dyn Fn(HostEvent) + Send + Sync>,
}

/// What the engine tells the language above it.
pub enum HostEvent {
    /// Lines printed by a worker.
    Log {
        name: String,
        pid: u32,
        is_stderr: bool,
        lines: Vec<String>,
    },
    /// A message for the person at the driver. 0 info, 1 warning, 2 error.
    Notice { level: u32, text: String },
    /// The references registered with these tokens are ready.
    Ready(Vec<u64>),
    /// A task that runs here is to end: a worker's own (`SIGINT` to the main thread, whose handler asks
    /// [`crate::CoreWorker::take_interrupt`]), or an actor's call.
    TaskCancelled { unique: u64, is_call: bool },
    /// A task failed with `error` (`None`: its worker died) and runs again; there were so many retries left before.
    /// `retries_left` `None`: infinitely many.
    Retried {
        task_name: Arc<str>,
        retries_left: Option<u32>,
        error: Option<Read>,
    },
    /// A worker died in the middle of a task of this process; [`Failure::WorkerCrashed`].
    WorkerCrashed(Failure),
    /// The last reference to an error went before anyone had looked at it.
    UnseenError(Read),
    /// What a wait of this process waits for, after a while.
    Explanation(String),
    /// Which references are awaited? Answered by [`crate::CoreWorker::awaits_seen`]. Unless `is_asked`, nobody cares as
    /// long as none has been awaited for long.
    LookAtAwaits { is_asked: bool },
    /// What all processes are about, since awaits last: [`crate::CoreWorker::awaits_described`] draws conclusions.
    AwaitsDescribed(Box<v1::Descriptions>),
    /// The raylet is gone; everything fails from here on.
    RayletDied,
}

/// Facts given at registration.
#[derive(Debug, Clone)]
pub struct ProcessInfo {
    pub address: WorkerAddress,
    pub job_id: JobId,
    pub node_id: NodeId,
    pub session: String,
    pub session_dir: String,
    pub gcs_address: String,
    pub node_ip: String,
    pub namespace: String,
    pub node_resources: ResourceSet,
    pub arena_bytes: u64,
    /// A driver is answered when this worker's loop begins.
    pub is_awaited: bool,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitOutcome {
    Satisfied,
    TimedOut,
    /// `interrupt` returned true.
    Interrupted,
    /// What is waited for will never come, since it waits for this; in words.
    Deadlocked(String),
    /// What is waited for will never come: this process has left the session, or its raylet is gone.
    Disconnected,
}

/// What a worker does next.
pub enum Next {
    Task(Box<ExecTask>),
    StartActor(Box<ActorStart>),
    /// Of a durable actor: save its state; answered by [`crate::CoreWorker::checkpoint_taken`].
    Checkpoint,
    /// End the process; when graceful, run atexit handlers.
    Exit {
        graceful: bool,
        reason: String,
    },
    /// Nothing came within the time given, or `interrupt` returned true.
    Nothing,
}

/// What a definition on a lane says of a function or method.
#[derive(Debug)]
pub struct Callee {
    /// `None` for an actor method.
    pub function_id: Option<FunctionId>,
    pub name: Arc<str>,
    pub method: Arc<str>,
    pub job_id: JobId,
    pub retry_exceptions: Vec<u8>,
    pub max_calls: u32,
    /// It is not run again when its worker ends.
    pub no_retry: bool,
    pub captures_children: bool,
    /// The concurrency group that runs a method; empty: the default one.
    pub group: Box<str>,
    /// The pickled function, if its owner sent it along.
    pub definition: Vec<u8>,
    /// Free for the binding: the unpickled function's index in its own cache, 0 when none yet.
    pub binding_slot: std::sync::atomic::AtomicU32,
    /// Moving average of its run time here, in microseconds; `u32::MAX` before the first run.
    pub(crate) average_us: std::sync::atomic::AtomicU32,
}

/// What a task holds while it runs: the same for all that come under one lease.
#[derive(Debug, Default)]
pub struct LeaseTerms {
    pub resources: ResourceSet,
    pub gpu_ids: Vec<u32>,
}

/// One task or actor call to run.
pub struct ExecTask {
    pub task_id: TaskId,
    pub callee: Arc<Callee>,
    pub args: ReadValue,
    pub layout: Vec<u8>,
    pub kwarg_names: Vec<String>,
    pub deps: Vec<ReadValue>,
    pub dep_refs: crate::lineage::ArgumentRefs,
    pub num_returns: u32,
    /// A generator, with the number of items that may wait for its consumer (0: any).
    pub streaming: Option<u32>,
    pub attempt: u32,
    pub caller: WorkerAddress,
    /// Of a normal task; an actor's call holds what its actor holds, and has empty terms.
    pub lease: Arc<LeaseTerms>,
    /// Of a durable actor's call.
    pub(crate) recorded: Option<Box<crate::durable::Recorded>>,
    pub(crate) reply: crate::execute::ReplyTo,
}

/// The order to become an actor.
pub struct ActorStart {
    pub actor_id: ActorId,
    pub class_id: FunctionId,
    /// The pickled class, if it came along.
    pub definition: Vec<u8>,
    pub class_name: String,
    pub args: ReadValue,
    pub layout: Vec<u8>,
    pub kwarg_names: Vec<String>,
    pub deps: Vec<ReadValue>,
    pub dep_refs: crate::lineage::ArgumentRefs,
    pub incarnation: u32,
    pub max_concurrency: u32,
    pub is_async: bool,
    /// Names and limits of concurrency groups besides the default one.
    pub groups: Vec<(String, u32)>,
    pub name: String,
    pub namespace: String,
    pub resources: ResourceSet,
    pub captures_children: bool,
    pub gpu_ids: Vec<u32>,
    pub handle_descriptor: Vec<u8>,
    pub extra: Vec<u8>,
    pub job_id: JobId,
    pub durability: Option<Durability>,
}

impl ExecTask {
    /// A call that is kept, so that it must not hold or give what does not last.
    pub fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum TaskStatus {
    Finished = 0,
    /// Each return holds the error.
    Failed = 1,
    /// The same, and the retry rule of the call covers the error.
    FailedRetryable = 2,
    /// The actor left by its own will in this call (`exit_actor`).
    ActorExited = 4,
}

/// Why a lost value is not made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum NotMadeAgain {
    /// It was put; no task made it.
    Put,
    /// `max_retries` is 0.
    RetriesDisabled,
    /// `max_retries` is used up.
    AttemptsExceeded,
    /// Specs of tasks are kept up to a limit, and its own had to go.
    LineageEvicted,
    /// An actor's method made it, that may not run again.
    ActorCall,
    /// It is an item of a generator.
    Generator,
    /// Its task is not known any more.
    NotKept,
}

/// What became of a call's process; the binding makes the Python exception of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Failure {
    WorkerCrashed {
        task_name: String,
        pid: u32,
        exit_code: i32,
        signal: i32,
        last_stderr: String,
        detail: String,
    },
    ActorDied {
        actor_id: ActorId,
        class_name: String,
        /// Of the process that it had last; 0: not known here.
        pid: u32,
        /// Address of that process's node; may be empty.
        node_ip: String,
        name: String,
        namespace: String,
        cause: ActorDeathCause,
        message: String,
        creation_error: Vec<u8>,
    },
    ActorUnavailable {
        actor_id: ActorId,
        message: String,
    },
    /// The owner of the object died or no longer knows it.
    ObjectLost {
        owner_died: bool,
        message: String,
    },
    /// The value was lost, as `message` says, and is not made again.
    NotMadeAgain {
        why: NotMadeAgain,
        message: String,
    },
    /// The store could not hold the value.
    StoreFull {
        message: String,
    },
    /// Its worker was ended since its node's memory ran out.
    OutOfMemory {
        message: String,
    },
    /// It was given up before it ended.
    Cancelled {
        task_id: TaskId,
        /// Because its `timeout_s` was over.
        timed_out: bool,
    },
    /// The runtime environment could not be made.
    EnvironmentFailed {
        message: String,
    },
    /// No node can ever run it.
    Unschedulable {
        message: String,
    },
    /// The placement group that it was to run in was removed.
    GroupRemoved,
    /// Not a failure: what stands after the last item of a generator.
    StreamEnded,
    /// The engine itself failed the task.
    System {
        message: String,
    },
}

impl Failure {
    /// What there is to say of it besides its kind; may be empty.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::WorkerCrashed { detail, .. } => detail,
            Self::ActorDied { message, .. }
            | Self::ActorUnavailable { message, .. }
            | Self::ObjectLost { message, .. }
            | Self::NotMadeAgain { message, .. }
            | Self::StoreFull { message }
            | Self::OutOfMemory { message }
            | Self::EnvironmentFailed { message }
            | Self::Unschedulable { message }
            | Self::System { message } => message,
            Self::Cancelled { timed_out: true, .. } => "It took longer than its timeout_s.",
            Self::Cancelled { .. } | Self::GroupRemoved | Self::StreamEnded => "",
        }
    }

    /// `why`: it could not be had without its owner.
    pub fn owner_died_and(why: &str) -> Self {
        Self::ObjectLost {
            owner_died: true,
            message: format!("the process that owned it has ended, and {why}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum ActorDeathCause {
    Unknown = 0,
    WorkerDied = 1,
    Killed = 2,
    CreationFailed = 3,
    OutOfScope = 4,
    ExitedItself = 5,
    OwnerDied = 6,
    Unschedulable = 7,
    EnvironmentFailed = 8,
    /// Its placement group was removed before it ran.
    GroupRemovedBefore = 9,
    /// And while it ran.
    GroupRemoved = 10,
    /// No node can ever take it.
    NoNode = 11,
}

/// What `read` gives.
pub enum Read {
    Value(ReadValue),
    Failed(Failure),
}

impl CoreError {
    /// What the control store, or the way to it, said: `"<grpc code>: <message>"`.
    pub(crate) fn of_gcs(text: String) -> Self {
        match text.strip_prefix("ResourceExhausted: ") {
            Some(message) => Self::OutOfDisk(message.to_owned()),
            None => Self::Gcs(text),
        }
    }
}

/// Why the engine refused or could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CoreError {
    #[error("{0}")]
    ConnectionFailed(String),
    #[error("{0}")]
    StoreFull(String),
    #[error("{0}")]
    OutOfDisk(String),
    #[error("the raylet of this node is gone; start again with ray_rs.shutdown() and ray_rs.init()")]
    RayletDied,
    #[error("the session was shut down meanwhile; start another with ray_rs.init()")]
    Closed,
    #[error("no answer to {what} within {after:?}")]
    TimedOut { what: String, after: Duration },
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    AlreadyExists(String),
    #[error(
        "more than {limit} calls are pending on this actor handle; the actor's option `max_pending_calls` sets the limit"
    )]
    PendingCallsLimit { limit: usize },
    #[error("{0}")]
    Gcs(String),
}
