//! Placement groups that come and go: the control store's table, and what their owners want.

use std::time::Duration;

use ray_rs_scheduler::placement_group::{Effect, Event, GroupFacts, GroupState, GroupTable};
use ray_rs_scheduler::policy::bundle::BundleSpec;
use ray_rs_types::placing::GroupStrategy;
use ray_rs_types::resources::CPU;
use ray_rs_types::{JobId, PlacementGroupId, ResourceSet};
use rustc_hash::FxHashMap;

use super::costs::Cost;

const BUNDLES: u32 = 4;
const CPUS_EACH: f64 = 2.0;

#[derive(Debug, Default)]
pub(super) struct Groups {
    pub table: GroupTable,
    /// When it was asked for; none once it has been created.
    wanted: FxHashMap<PlacementGroupId, Duration>,
    /// Not removed, or not asked for yet.
    pub left: u32,
}

pub(super) fn id_of(number: u32) -> PlacementGroupId {
    let mut id = [0; 18];
    id[..4].copy_from_slice(&number.to_be_bytes());
    PlacementGroupId(id)
}

fn facts(number: u32) -> GroupFacts {
    let bundle = BundleSpec {
        resources: ResourceSet::new().with(CPU, CPUS_EACH),
        labels: Vec::new(),
    };
    let strategies = [
        GroupStrategy::Pack,
        GroupStrategy::Spread,
        GroupStrategy::StrictPack,
        GroupStrategy::StrictSpread,
    ];
    GroupFacts {
        strategy: strategies[number as usize % strategies.len()],
        bundles: vec![bundle; BUNDLES as usize],
        job: JobId::from_int(1),
        creator: None,
        outlives_job: false,
        detached: false,
        wish: None,
    }
}

/// The resources of these bundles of a group.
pub(super) fn bundles(indices: &[u32]) -> Vec<(u32, ResourceSet)> {
    let resources = ResourceSet::new().with(CPU, CPUS_EACH);
    indices.iter().map(|index| (*index, resources.clone())).collect()
}

impl Groups {
    pub fn want(&mut self, now: Duration, number: u32) -> Event {
        let group = id_of(number);
        self.wanted.insert(group, now);
        Event::Wanted {
            group,
            facts: facts(number),
        }
    }

    pub fn on_event(&mut self, event: Event, cost: &mut Cost) -> Vec<Effect> {
        let mut effects = Vec::new();
        cost.time(|| self.table.on_event(event, &mut effects));
        effects
    }

    /// How long it took, when the group was created for the first time.
    pub fn published(&mut self, now: Duration, group: PlacementGroupId) -> Option<Duration> {
        let state = self.table.status(group)?.state;
        match state {
            GroupState::Created => Some(now - self.wanted.remove(&group)?),
            GroupState::Pending | GroupState::Removed | GroupState::Rescheduling => None,
        }
    }
}
