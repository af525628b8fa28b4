//! What can happen to a local scheduler.

use ray_rs_types::placing::Placing;
use ray_rs_types::{ActorId, PlacementGroupId, ResourceSet};

use crate::admission::Admission;

/// A job, as the caller numbers them: it may have workers before the control store has given it an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey(pub u32);

/// A runtime environment of a job's tasks and actors, as the caller numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EnvKey(pub u32);

impl EnvKey {
    /// The environment of the job itself.
    pub const JOB: Self = Self(0);
}

/// Worker processes that can stand for one another: those of a job that have the same environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    pub job: JobKey,
    pub env: EnvKey,
}

/// A connected client: a driver or a worker, each of which may ask for leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(pub u64);

/// A worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerKey(pub u64);

/// A granted lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey(pub u64);

/// A lease request, as its client numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey(pub u64);

#[derive(Debug, Clone)]
pub struct LeaseRequest {
    pub request: RequestKey,
    pub resources: ResourceSet,
    pub env: EnvKey,
    /// What it says of the node to run on; most say nothing.
    pub placing: Option<Placing>,
    /// Name of the task that waits, for messages to people.
    pub task_name: String,
    /// No task waits yet. Until [`Event::LeaseBegun`] the lease takes no CPU from others, and goes back to whoever else
    /// asks for anything.
    pub ahead: bool,
}

#[derive(Debug, Clone)]
pub struct ActorDemand {
    pub actor: ActorId,
    pub job: JobKey,
    pub env: EnvKey,
    /// What must be free for the actor to be placed.
    pub placement: ResourceSet,
    /// What it holds from then on.
    pub running: ResourceSet,
    pub class_name: String,
}

/// What a start that has come to nothing says of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFailure {
    /// By itself: the next may end the same way.
    Failed,
    /// Another try would end the same way.
    Final,
    /// Something else has killed the process: little. Only a long row of those counts.
    Killed,
    /// By the same cause as one that was counted already.
    Counted,
}

#[derive(Debug, Clone)]
pub enum Event {
    ClientJoined {
        client: ClientKey,
        job: JobKey,
    },
    /// Its requests are forgotten; the workers that it leased are ended, since what they run has lost its owner.
    ClientGone {
        client: ClientKey,
    },
    JobStarted {
        job: JobKey,
    },
    /// Its pool is given up. Workers of detached actors live on, and may still ask for leases.
    JobEnded {
        job: JobKey,
    },
    /// A worker process has registered. `client` is what it is when it asks for leases itself.
    WorkerStarted {
        worker: WorkerKey,
        client: ClientKey,
        pool: PoolKey,
    },
    /// A worker that was asked to leave as surplus stays: it owns objects or tasks.
    WorkerStays {
        worker: WorkerKey,
    },
    /// A worker that stayed owns nothing any more.
    WorkerUnneeded {
        worker: WorkerKey,
    },
    /// A worker is of no use any more after what it runs now, if anything. It ends by itself, when it owns nothing.
    WorkerRetires {
        worker: WorkerKey,
    },
    /// One `StartWorker` has come to nothing.
    WorkerStartFailed {
        pool: PoolKey,
        reason: String,
        how: StartFailure,
    },
    WorkerDied {
        worker: WorkerKey,
    },
    LeaseRequested {
        client: ClientKey,
        request: LeaseRequest,
    },
    LeaseRequestCancelled {
        client: ClientKey,
        request: RequestKey,
    },
    /// A lease that was asked for ahead has its first task.
    LeaseBegun {
        client: ClientKey,
        lease: LeaseKey,
    },
    /// `worker_gone`: the worker is ending by itself, or its client could not reach it; it must not be used again.
    LeaseReturned {
        client: ClientKey,
        lease: LeaseKey,
        worker_gone: bool,
    },
    /// The task that runs in this worker is about to sleep in `get` or `wait`.
    WorkerBlocked {
        worker: WorkerKey,
    },
    WorkerUnblocked {
        worker: WorkerKey,
    },
    ActorRequested(ActorDemand),
    /// The actor is no longer wanted, and had no worker yet.
    ActorCancelled {
        actor: ActorId,
    },
    /// Memory has become short, or is no longer; or more is known of what functions need.
    AdmissionChanged(Admission),
    /// The control store reserves bundles here: all or none. With `commit` they may be used at once.
    BundlesWanted {
        group: PlacementGroupId,
        attempt: u32,
        bundles: Vec<(u32, ResourceSet)>,
        commit: bool,
    },
    BundlesCommitted {
        group: PlacementGroupId,
    },
    /// Not to be had here any more; what runs in them ends.
    BundlesReturned {
        group: PlacementGroupId,
        bundles: Vec<u32>,
    },
    /// Gone for good, with the bundles that are here.
    GroupRemoved {
        group: PlacementGroupId,
    },
    /// The node is about to leave its cluster: leases are asked back, and no worker is kept ready. What is asked for all the
    /// same is served: whoever sends requests here has no other node for them.
    NodeDrains,
    /// Time has passed: the deadline of `next_deadline` has come.
    Tick,
}
