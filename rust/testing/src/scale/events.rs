//! What happens in a world, in its order.

use std::cmp::Ordering;
use std::time::Duration;

use ray_rs_scheduler::bottom_up::Proposal;
use ray_rs_scheduler::bottom_up::forward::Ask;
use ray_rs_scheduler::bottom_up::heartbeat::Heartbeat;
use ray_rs_scheduler::placement_group::{Effect as GroupEffect, Event as GroupEvent};
use ray_rs_scheduler::{LeaseKey, WorkerKey};
use ray_rs_types::PlacementGroupId;

use super::trouble::Trouble;

#[derive(Debug)]
pub(super) enum Event {
    /// The next task is made.
    Arrival,
    AtHome {
        task: u32,
        attempt: u8,
    },
    AtNode {
        node: u32,
        task: u32,
        attempt: u8,
        expects_room: bool,
    },
    Ask {
        replica: usize,
        node: u32,
        ask: Box<Ask<u32>>,
    },
    Answer {
        node: u32,
        task: u32,
        proposal: Box<Option<Proposal>>,
    },
    Finished {
        node: u32,
        lease: LeaseKey,
        task: u32,
    },
    WorkerUp {
        node: u32,
    },
    WorkerEnded {
        node: u32,
        worker: WorkerKey,
    },
    Tick {
        node: u32,
    },
    Beat {
        node: u32,
    },
    /// A heartbeat though there is nothing new: what was lost is noticed by it.
    SignOfLife {
        node: u32,
    },
    Heartbeat {
        replica: usize,
        node: u32,
        beat: Box<Heartbeat>,
    },
    StartOver {
        node: u32,
        replica: usize,
    },
    GroupWanted(u32),
    GroupUnwanted(PlacementGroupId),
    ToTable(Box<GroupEvent>),
    ToNode(u32, Box<GroupEffect>),
    Trouble(Trouble),
}

pub(super) struct Due {
    pub at: Duration,
    pub number: u64,
    pub event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    NotYet,
    Waiting,
    Running,
    Done,
    Abandoned,
    Failed,
}

/// What its owner knows of a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub called: Duration,
    /// Where its request is, or it runs.
    pub at: u32,
    pub state: State,
    /// How often its request was sent on.
    pub hops: u8,
    /// Grows when its node has died: what is said of earlier ones is stale.
    pub attempt: u8,
}
