//! The global scheduler: which other node should serve what a local scheduler cannot, or not soon.
//!
//! It knows what nodes report in their heartbeats ([`heartbeat`]: changes only) and what it has proposed since, for a
//! moment. It keeps nothing that the next reports would not bring back, so any number of replicas may run, each raylet may
//! ask any of them, and one that ends takes nothing along. A proposal is a proposal: the node's own scheduler decides, and
//! may send the request on, at most [`forward::MAX_HOPS`] times.
//!
//! | module | what it decides or holds |
//! | --- | --- |
//! | [`heartbeat`] | what a node says of itself; the difference to what it said before, and back |
//! | `view` | all nodes, what is free on each less what was proposed, and which node can serve which shape |
//! | `classes` | requests of one shape and its label rules: the nodes that could ever serve it, and those with room now |
//! | `decide` | the proposal: the strategies, and of several nodes the one that would begin soonest |
//! | [`forward`] | the other end: when a raylet asks at all, how often, and whom it turns away |
//! | [`load`] | how long a request would wait on this node, from how long leases are kept |
//!
//! * `GLB-1`: what is free of a node is what it last reported less what was proposed since.
//! * `GLB-2`: the sets of each class are those that a look at every node would give.
//! * `GLB-3`: where some node has room, one with room is proposed, be it the one that asks, or one where the arguments are.
//! * `GLB-4`: of what it may not have heard of it does not say that it is not there.
//!
//! What is free in bundles of placement groups is known as far as nodes report it among their resources; where the bundles
//! of a group are, whoever asks says. Deliberately absent: any order among requests, which wait where they came from.

mod classes;
mod decide;
pub mod forward;
pub mod heartbeat;
pub mod load;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

use ray_rs_types::placing::Placing;
use ray_rs_types::{NodeId, ResourceSet};

pub use heartbeat::NodeReport;
pub use view::{GlobalScheduler, ShapeDemand};

/// A proposal that no report confirms is forgotten after so long.
pub const PROMISE_HOLDS: Duration = Duration::from_millis(500);
/// A report that comes sooner after a proposal was probably sent before the node heard of it.
pub const PROMISE_SETTLES: Duration = Duration::from_millis(5);

/// What a node keeps what it is granted, as long as nobody has said how long that is.
const ASSUMED_HOLD: Duration = Duration::from_millis(10);
/// What links between nodes carry, to weigh bytes against waiting.
const LINK_BYTES_PER_SECOND: f64 = 1e9;

/// How long so many bytes travel from one node to another.
fn travel_time(bytes: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / LINK_BYTES_PER_SECOND)
}

/// What is asked of the global scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    pub resources: &'a ResourceSet,
    /// What it says of its node; `None`: nothing.
    pub placing: Option<&'a Placing>,
    /// The node that asks, which is no answer.
    pub from: Option<NodeId>,
    /// The asking node can serve it as well, in time: only a node that can do so now, or sooner than after `wait_here`,
    /// is better.
    pub only_if_free: bool,
    pub wait_here: Option<Duration>,
    /// Bytes of its arguments that lie on nodes. What is not on the node of its task has to travel.
    pub arguments: &'a [(NodeId, u64)],
    /// Nodes that did not take it, each with the [view](GlobalScheduler::view) on which it was proposed: in vain until it
    /// says something new.
    pub refused: &'a [(NodeId, u64)],
    /// It is in a placement group, with bundles on these nodes: no other will do.
    pub among: Option<&'a [NodeId]>,
}

impl<'a> Wish<'a> {
    /// Any node will do, now or later.
    pub fn of(resources: &'a ResourceSet) -> Self {
        Self {
            resources,
            placing: None,
            from: None,
            only_if_free: false,
            wait_here: None,
            arguments: &[],
            refused: &[],
            among: None,
        }
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposal {
    /// Ask that node. `has_room`: it can begin at once, as far as is known.
    Node { node: NodeId, has_room: bool },
    /// Stay where you are: it can run there, and no other node is better.
    Stay,
    /// Nodes could serve it one day, but the asker cannot, and there is none to propose now.
    Pending(String),
    /// No node that is here could ever serve it. One may join.
    Infeasible(String),
    /// It fails.
    Never(String),
}

impl Proposal {
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node { node, .. } => Some(*node),
            Self::Stay | Self::Pending(_) | Self::Infeasible(_) | Self::Never(_) => None,
        }
    }
}
