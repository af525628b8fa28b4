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
//!
//! * `GLB-1`: what is free of a node is what it last reported less what was proposed since.
//! * `GLB-2`: the sets of each class are those that a look at every node would give.
//! * `GLB-3`: where some other node has room, one with room is proposed, or one where the arguments are.
//!
//! Deliberately absent: bundles of placement groups, which have a place already, and whose resources no node reports
//! here; and any order among requests, which wait where they came from.

mod classes;
mod decide;
pub mod forward;
pub mod heartbeat;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

use ray_rs_types::placing::Placing;
use ray_rs_types::{NodeId, ResourceSet};

pub use heartbeat::NodeReport;
pub use view::GlobalScheduler;

/// A proposal that no report confirms is forgotten after so long.
pub const PROMISE_HOLDS: Duration = Duration::from_millis(500);
/// A report that comes sooner after a proposal was probably sent before the node heard of it.
pub const PROMISE_SETTLES: Duration = Duration::from_millis(5);

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
