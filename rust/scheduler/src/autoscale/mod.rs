//! How many nodes of which types there should be: what to start, and which to give up.
//!
//! Whoever runs it shows it the cluster now and then ([`View`]: the nodes, what waits, what somebody asked for), tells it what
//! became of its orders, and carries out what it orders: that a node be started, drained, or ended for good. Like everything
//! here it knows no clock and no process: `now` is the caller's.
//!
//! | module | what it decides or holds |
//! | --- | --- |
//! | `packing` | what of a demand fits into which nodes |
//! | `plan` | from one look: what is to be started, which nodes are of use, what no type of node could ever serve |
//! | [`machine`] | the life of each node that was ordered, failures and pauses, and when a node that is idle goes |
//!
//! * `AUT-1`: of no type, and of all together, are more ordered than the configuration allows.
//! * `AUT-2`: whatever was ordered is told to end one day: when it is not needed, did not come, or died; and never while its
//!   start may still go on.
//! * `AUT-3`: a node that came is ended only once it has left the cluster; it is asked to leave only when it is idle, and
//!   neither a minimum nor what waits nor what was requested needs it.
//! * `AUT-4`: nothing is started for what fits into nodes that are there or are coming.
//!
//! Deliberately absent: what label selectors ask for (shapes count, labels do not), and prices.

pub mod machine;
mod packing;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ray_rs_types::placing::GroupStrategy;
use ray_rs_types::{NodeId, ResourceSet};

pub use machine::{Autoscaler, Effect, Event, Failure, InstanceReport, Report, Stage};
pub use plan::{Plan, plan};

/// A kind of node that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeType {
    pub name: String,
    pub resources: ResourceSet,
    /// So many are there even if nobody needs them.
    pub min_workers: u32,
    pub max_workers: u32,
}

/// What the user has said.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub types: Vec<NodeType>,
    /// Of all types together.
    pub max_workers: u32,
    pub idle_timeout: Duration,
    /// Who has not come by then does not come.
    pub start_timeout: Duration,
    /// So many may be coming at a time, as a multiple of those that are there; [`MIN_STARTING`] always.
    pub upscaling_speed: f64,
    /// After a start that failed nothing of the type is started for so long; each further failure doubles it.
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

/// So many nodes may be coming at a time in any cluster.
pub const MIN_STARTING: u32 = 5;

impl Config {
    fn of_name(&self, name: &str) -> Option<&NodeType> {
        self.types.iter().find(|known| known.name == name)
    }
}

/// The cluster, as it is now.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Those that live.
    pub nodes: Vec<Node>,
    /// Instances whose nodes have joined and are dead by now, perhaps since the last look.
    pub gone: BTreeSet<String>,
    /// What tasks and actors wait for that have no worker, and how many of each.
    pub demand: BTreeMap<ResourceSet, u32>,
    /// Placement groups that have no place, and the bundles that they lack.
    pub groups: Vec<Group>,
    /// What somebody wants there to be room for, used or not.
    pub requested: BTreeMap<ResourceSet, u32>,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub node: NodeId,
    /// Set if it is one of those that were ordered, perhaps by an earlier life of this.
    pub ordered: Option<Ordered>,
    pub total: ResourceSet,
    pub available: ResourceSet,
    /// For how long nothing needs it; `None`: something does.
    pub idle_for: Option<Duration>,
    /// It is about to leave.
    pub drains: bool,
}

/// What a node that was ordered says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    pub instance: String,
    pub node_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub strategy: GroupStrategy,
    pub bundles: Vec<ResourceSet>,
}
