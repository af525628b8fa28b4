//! Events, effects, and what can be asked of an actor.

use ray_rs_types::{ActorId, JobId, NodeId, WorkerAddress, WorkerId};

/// What is fixed when an actor is registered. Its job is part of its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorFacts {
    /// Process whose end ends the actor, unless it is detached.
    pub owner: WorkerAddress,
    /// Negative: without limit.
    pub max_restarts: i32,
    /// It outlives its owner and its job.
    pub detached: bool,
}

/// A fact about an actor, a worker, a node or a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An actor was registered. Registering it again changes nothing. Unless `has_arguments`, its constructor's
    /// arguments are still being computed.
    Registered {
        actor: ActorId,
        facts: ActorFacts,
        has_arguments: bool,
    },
    /// Its constructor's arguments have come.
    ArgumentsCame {
        actor: ActorId,
    },
    /// A node can take the actor.
    NodeChosen {
        actor: ActorId,
        node: NodeId,
    },
    /// The node gave it a worker process; the constructor runs.
    Assigned {
        actor: ActorId,
        incarnation: u32,
        worker: WorkerAddress,
    },
    /// The node could not give it one; `environment_failed`: nor could it at another try.
    StartFailed {
        actor: ActorId,
        incarnation: u32,
        message: String,
        environment_failed: bool,
    },
    /// The node gives it back, because it is about to leave, or another has room: no try has failed.
    StartDeclined {
        actor: ActorId,
        incarnation: u32,
    },
    /// The constructor returned.
    Started {
        actor: ActorId,
        incarnation: u32,
    },
    /// The constructor raised; `error` is the pickled exception.
    ConstructorFailed {
        actor: ActorId,
        incarnation: u32,
        message: String,
        error: Vec<u8>,
    },
    /// A process ended: it may have hosted an actor, and owned others.
    WorkerDied {
        worker: WorkerId,
        message: String,
    },
    /// It is about to leave: actors that can be started anew elsewhere end there, in order. That is no failure of theirs,
    /// and not counted against `max_restarts`.
    NodeDrains {
        node: NodeId,
    },
    NodeDied {
        node: NodeId,
    },
    /// `ray.kill`.
    KillRequested {
        actor: ActorId,
        no_restart: bool,
    },
    /// No handle is left and no call is under way.
    OutOfScope {
        actor: ActorId,
    },
    /// `exit_actor`: the worker is ending.
    ExitedItself {
        actor: ActorId,
        message: String,
    },
    JobFinished {
        job: JobId,
    },
    /// No node can ever take it.
    NoNodeCan {
        actor: ActorId,
        message: String,
    },
    /// The placement group that it belongs to is gone.
    GroupRemoved {
        actor: ActorId,
    },
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find a node and answer with [`Event::NodeChosen`]; when there is none, ask again as nodes come.
    ChooseNode { actor: ActorId },
    StartOnNode {
        actor: ActorId,
        node: NodeId,
        incarnation: u32,
    },
    /// `worker` is `None` when the node was told to start the actor and has not yet said with which worker.
    StopWorker {
        actor: ActorId,
        node: NodeId,
        worker: Option<WorkerId>,
        graceful: bool,
        reason: &'static str,
    },
    /// Tell whoever follows the actor its [`Lifecycle::status`](super::Lifecycle::status).
    Publish { actor: ActorId },
    /// Keep its status where a restart of the GCS finds it.
    Persist { actor: ActorId },
    /// Nobody finds it by its name any more. May come twice.
    ReleaseName { actor: ActorId },
}

/// Why an actor is dead, with words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Death {
    WorkerDied(String),
    Killed,
    CreationFailed {
        message: String,
        error: Vec<u8>,
    },
    OutOfScope,
    ExitedItself(String),
    OwnerDied(String),
    CannotBeScheduled(String),
    /// Its runtime environment can't be made.
    EnvironmentFailed(String),
    /// No node can ever take it.
    NoNode(String),
    /// Its placement group was removed; while it ran, or before.
    GroupRemoved {
        ran: bool,
    },
}

/// What a follower of the actor needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    PendingCreation,
    /// It has a worker; calls may be sent and wait for the constructor.
    Placed,
    Alive,
    Restarting,
    Dead,
}

/// An actor as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status<'a> {
    pub phase: Phase,
    pub worker: Option<WorkerAddress>,
    /// The node that was told to start it and has not named a worker yet.
    pub starting_on: Option<NodeId>,
    /// Restarts so far.
    pub incarnation: u32,
    /// Those of them that are not counted.
    pub moves: u32,
    /// Before the actor is dead: the end that it is coming to. Then another may take its name.
    pub death: Option<&'a Death>,
}

/// An actor as it was persisted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub phase: Phase,
    pub worker: Option<WorkerAddress>,
    pub starting_on: Option<NodeId>,
    pub incarnation: u32,
    pub moves: u32,
    pub death: Option<Death>,
    /// Its constructor's arguments had come.
    pub has_arguments: bool,
}
