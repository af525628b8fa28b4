//! What a local scheduler orders.

use ray_rs_types::{ActorId, PlacementGroupId};

use crate::event::{ClientKey, JobKey, LeaseKey, PoolKey, RequestKey, WorkerKey};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Idle and not needed: it leaves in order, or stays as long as it owns something.
    Surplus,
    /// The client that leased it has no use for it any more: it has ended, is about to, or cannot be reached.
    Unusable,
    /// The client that leased it is gone: what it runs is worthless.
    OwnerGone,
    /// Its job has ended.
    JobEnded,
    /// The placement group that it runs in was removed.
    GroupRemoved,
}

/// What a rejected request is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Workers of this pool do not start. The reason is why the last start came to nothing; empty: its worker ended
    /// before anybody used it.
    NoWorker(PoolKey),
    /// Fail: no node will ever serve it.
    ForEver,
    /// Fail: the placement group that it names was removed.
    GroupRemoved,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    GrantLease {
        client: ClientKey,
        request: RequestKey,
        lease: LeaseKey,
        worker: WorkerKey,
        gpus: Vec<u32>,
    },
    RejectLease {
        client: ClientKey,
        request: RequestKey,
        refusal: Refusal,
        reason: String,
    },
    /// Ask the client to return the lease as soon as what runs under it has ended.
    RevokeLease { client: ClientKey, lease: LeaseKey },
    /// Answered by `WorkerStarted` or `WorkerStartFailed`.
    StartWorker { pool: PoolKey },
    /// Nobody needs a worker of this environment at the moment.
    PoolEmptied { pool: PoolKey },
    /// Answered by `WorkerDied`.
    StopWorker { worker: WorkerKey, reason: StopReason },
    /// The worker is to become the actor; it holds its running resources from now on.
    PlaceActor {
        actor: ActorId,
        worker: WorkerKey,
        gpus: Vec<u32>,
    },
    RejectActor {
        actor: ActorId,
        refusal: Refusal,
        reason: String,
    },
    /// The answer to `BundlesWanted`.
    BundlesPrepared {
        group: PlacementGroupId,
        attempt: u32,
        has_room: bool,
    },
    /// Something waits for a group of which nothing is here: find out whether it exists. Answered, if it does not, by
    /// `GroupRemoved`.
    AskAboutGroup { group: PlacementGroupId },
    /// A line for the people of one job.
    Notice { job: JobKey, text: String },
}
