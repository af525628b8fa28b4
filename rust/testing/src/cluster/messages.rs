//! What virtual processes say to one another. What goes to the control store and comes from it are the messages of `proto/`.

use ray_rs_proto::v1;
use ray_rs_types::{ActorId, JobId, NodeId, WorkerAddress, WorkerId};

/// A process other than raylets and the control store: drivers first, then workers. Never used twice.
pub type Proc = u32;

/// What the actor's answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Calls that were part of the state before this one.
    pub position: u64,
    /// The state after it.
    pub digest: u64,
    /// In which process.
    pub by: Proc,
}

/// A call, whoever sends it how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Push {
    /// Of the call, in all the world.
    pub uid: u64,
    /// Of this try.
    pub seq: u64,
    pub work: u64,
    /// Zero for an actor that is not durable.
    pub number: u64,
    pub acknowledged: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum LaneMsg {
    Push(Push),
    Acknowledged {
        upto: u64,
    },
    Reply {
        seq: u64,
        answer: Answer,
    },
    /// The state could not be saved after it.
    Undone {
        seq: u64,
    },
    NotRun {
        seq: u64,
    },
}

/// From a raylet to a process of its node.
#[derive(Debug, Clone)]
pub(crate) enum ToProc {
    StartActor {
        actor: ActorId,
        plan: usize,
        incarnation: u32,
    },
    Exit {
        graceful: bool,
    },
    Update(Box<v1::ActorUpdate>),
}

pub(crate) fn node_id(index: usize) -> NodeId {
    let mut bytes = [0; 28];
    bytes[0] = index as u8 + 1;
    NodeId(bytes)
}

pub(crate) fn worker_id(who: Proc) -> WorkerId {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&who.to_le_bytes());
    // Zero is nobody's.
    bytes[27] = 1;
    WorkerId(bytes)
}

pub(crate) fn proc_of(worker: &[u8]) -> Option<Proc> {
    Some(Proc::from_le_bytes(*worker.first_chunk()?))
}

pub(crate) fn address(who: Proc, node: usize) -> WorkerAddress {
    WorkerAddress {
        node_id: node_id(node),
        worker_id: worker_id(who),
        pid: who + 1,
    }
}

pub(crate) fn actor_id(plan: usize, job: JobId) -> ActorId {
    let mut unique = [0; 12];
    unique[0] = plan as u8 + 1;
    ActorId::new(unique, job)
}

/// The plan of the actor with this id.
pub(crate) fn plan_of(actor: ActorId) -> usize {
    usize::from(actor.0[0]) - 1
}
