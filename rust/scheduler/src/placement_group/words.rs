//! Events, effects, and what can be asked of a group.

use std::collections::BTreeMap;

use ray_rs_types::placing::GroupStrategy;
use ray_rs_types::{ActorId, JobId, NodeId, PlacementGroupId, ResourceSet};

use crate::policy::bundle::BundleSpec;

/// What is fixed when a group is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFacts {
    pub strategy: GroupStrategy,
    pub bundles: Vec<BundleSpec>,
    /// Its end is the group's, unless that is detached or bound to an actor.
    pub job: JobId,
    /// The actor that asked for it, whose end is the group's unless that is detached.
    pub creator: Option<ActorId>,
    /// The job's end is not the group's: it is detached, or its creator is.
    pub outlives_job: bool,
    pub detached: bool,
    /// Where a STRICT_PACK goes if it can.
    pub wish: Option<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Wanting it again changes nothing.
    Wanted {
        group: PlacementGroupId,
        facts: GroupFacts,
    },
    Unwanted {
        group: PlacementGroupId,
    },
    JobFinished {
        job: JobId,
    },
    ActorDied {
        actor: ActorId,
    },
    /// A node registered, for the first time or again, and has the bundles `held`, committed or not.
    NodeCame {
        node: NodeId,
        total: ResourceSet,
        labels: BTreeMap<String, String>,
        held: Vec<(PlacementGroupId, Vec<u32>)>,
    },
    /// What is in use there outside of bundles.
    NodeUse {
        node: NodeId,
        in_use: ResourceSet,
    },
    /// It is about to leave: what it has it keeps as long as it is there.
    NodeDrains {
        node: NodeId,
    },
    NodeDied {
        node: NodeId,
    },
    /// A node answers: it has prepared the bundles, or has no room.
    Prepared {
        group: PlacementGroupId,
        attempt: u32,
        node: NodeId,
        has_room: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answered by [`Event::Prepared`]. With `commit` nothing more is to come: what is prepared may be used.
    Prepare {
        node: NodeId,
        group: PlacementGroupId,
        attempt: u32,
        bundles: Vec<u32>,
        commit: bool,
    },
    /// What the node holds of the group may be used. Doing it again changes nothing; nobody waits for it.
    Commit { node: NodeId, group: PlacementGroupId },
    /// Give up these bundles and end what runs in them. `removed`: the group is gone for good.
    Return {
        node: NodeId,
        group: PlacementGroupId,
        bundles: Vec<u32>,
        removed: bool,
    },
    /// Keep [`GroupTable::kept`](super::GroupTable::kept) of it where a restart finds it.
    Persist { group: PlacementGroupId },
    /// Tell whoever follows it its [`GroupTable::status`](super::GroupTable::status), once the last thing to be kept is.
    Publish { group: PlacementGroupId },
    /// It is gone for good: its name is free, what waits for it fails.
    Removed { group: PlacementGroupId },
    /// It can be forgotten altogether.
    Forget { group: PlacementGroupId },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    Pending,
    Created,
    Removed,
    /// It was created and lost a node.
    Rescheduling,
}

/// A group as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    pub state: GroupState,
    /// Of each bundle, once the node holds it.
    pub nodes: Vec<Option<NodeId>>,
}

/// A group that waits: the bundles that have no node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingGroup<'a> {
    pub strategy: GroupStrategy,
    pub bundles: Vec<&'a ResourceSet>,
}
