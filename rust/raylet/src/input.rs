//! Everything that can happen to a raylet.

use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use ray_rs_object_store::spill::{FileId, Key, Part, Place};
use ray_rs_object_store::{LentPart, PendingGrant, Restore};
use ray_rs_proto::v1;
use ray_rs_scheduler::PoolKey;
use ray_rs_transport::visit::Greeting;
use ray_rs_types::{ActorId, JobId, NodeId};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::clients::Outbox;
use crate::copies::CopyKey;
use crate::lending::Asker;
use crate::spill_io::{NotRead, NotWritten};
use crate::transfer::{CopyHere, Fetch, Lookup, OwnValue};

/// A connection on the raylet's socket. The scheduler knows the client by the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnKey(pub u64);

/// A fork order and the worker that comes of it. The scheduler knows the worker by the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(pub u64);

/// One zygote process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ZygoteKey(pub u64);

/// What a zygote says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZygoteWord {
    Forked {
        token: Token,
        pid: u32,
    },
    /// `status` as `waitpid` gave it.
    Exited {
        pid: u32,
        status: i32,
    },
    /// Its end of the socket is closed.
    Closed,
}

#[derive(Debug)]
pub(crate) enum Input {
    Connected {
        conn: ConnKey,
        pid: Option<u32>,
        outbox: Outbox,
        reader: AbortHandle,
    },
    Frame {
        conn: ConnKey,
        body: v1::to_raylet::Body,
    },
    Disconnected {
        conn: ConnKey,
    },
    /// A client has read what was queued for it, after there had been much.
    Drained {
        conn: ConnKey,
    },
    Zygote {
        zygote: ZygoteKey,
        word: ZygoteWord,
    },
    /// A runtime environment's set-up is over: "ok", "error <why>", or it ended without a word.
    EnvironmentMade {
        pool: PoolKey,
        answer: String,
    },
    /// SIGCHLD: some child has ended.
    ChildEnded,
    /// An order or a publication of the control store.
    Gcs(Box<v1::node_command::Body>),
    GcsLost,
    /// Its process on this node has ended.
    GcsEnded,
    /// The control store is asked, since that moment, to take this node.
    GcsAsked(std::time::Instant),
    /// Whoever wanted to connect then was refused: there is no control store.
    GcsNotThere(std::time::Instant),
    /// The control store has answered a client's call.
    CallAnswered {
        conn: ConnKey,
        reply: v1::GcsReply,
    },
    JobRegistered {
        conn: ConnKey,
        reply: Result<v1::RegisterJobReply, String>,
    },
    /// The answer to the question that a subscription begins with.
    ActorLookedUp {
        actor: ActorId,
        reply: Box<Result<v1::GetActorReply, String>>,
    },
    PagesReserved {
        conn: ConnKey,
        request_id: u64,
        row: u32,
        grant: PendingGrant,
    },
    /// Objects were set aside and written to one file, or could not be.
    FileWritten {
        file: FileId,
        parts: Vec<Part>,
        outcome: Result<Vec<u32>, NotWritten>,
        took: Duration,
    },
    /// An object was read from disk, or could not be.
    ObjectRead {
        key: Key,
        restore: Restore,
        outcome: Result<(), NotRead>,
        took: Duration,
    },
    /// An object was read to memory outside the arena, or could not be.
    ObjectLent {
        key: Key,
        asker: Asker,
        part: LentPart,
        outcome: Result<(), NotRead>,
        took: Duration,
    },
    LogsWritten(Vec<String>),
    /// Somebody came through the node's port and has shown that it may.
    Visitor {
        stream: TcpStream,
        greeting: Greeting,
    },
    JobFetched {
        job: JobId,
        reply: Result<v1::GetJobReply, String>,
    },
    /// The global scheduler's proposal for a request that waits here.
    NodePicked {
        conn: ConnKey,
        request_id: u64,
        reply: Result<v1::PickNodeReply, String>,
    },
    /// There is room for a value of another node.
    RoomForCopy {
        key: CopyKey,
        room: Restore,
        fetch: Box<Fetch>,
    },
    /// A value of another node: the room that was made for it and whether it is there, or why there was no room.
    Pulled {
        key: CopyKey,
        outcome: Result<(Restore, Result<(), String>), String>,
        bytes: u64,
        /// Since there was room for it.
        took: Duration,
    },
    /// Another node has said what its processes are about, or why it has not.
    NodeDescribed {
        inquiry: u64,
        node: NodeId,
        outcome: Result<v1::Descriptions, String>,
    },
    /// A reader from another node wants an object that is not where it was made,
    VisitorWants {
        key: Key,
        answer: Lookup,
    },
    /// and has pinned it where it is now.
    VisitorHasIt(Place),
    /// A reader from another node asks for a value of this one, and is told where it gets it.
    ReaderAsks {
        key: Key,
        bytes: u64,
        reader: NodeId,
        failed: Option<NodeId>,
        answer: oneshot::Sender<OwnValue>,
    },
    /// A reader from another node was sent here for a third one's value.
    CopyAsked {
        key: CopyKey,
        answer: oneshot::Sender<CopyHere>,
    },
    /// The cluster does not want this node.
    Refused(String),
    /// The driver that the session belongs to has ended, or somebody asked the session to end.
    EndSession(&'static str),
}

pub(crate) type Inputs = mpsc::Sender<Input>;

/// The answer to a call, as a client gets it.
pub(crate) type CallOutcome = Result<Bytes, String>;

/// Descriptors that go with a message.
pub(crate) type Fds = Vec<OwnedFd>;
