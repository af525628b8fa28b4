//! The bundles of placement groups that this node holds, each with what it has and what of that is free.
//!
//! A demand for no particular bundle goes to the one that it fills most. What a bundle holds was taken from the node's
//! own resources when it was prepared, and goes back there with it.

use std::collections::BTreeMap;

use ray_rs_types::bundles::{BUNDLE, BUNDLE_UNITS, BundleDemand};
use ray_rs_types::resources::GPU;
use ray_rs_types::{PlacementGroupId, ResourceSet};
use rustc_hash::FxHashMap;

use crate::gpus::{Gpus, Share};
use crate::ledger::Holding;

#[derive(Debug, Default)]
pub(crate) struct Bundles {
    groups: FxHashMap<PlacementGroupId, BTreeMap<u32, Bundle>>,
}

#[derive(Debug)]
pub(crate) struct Bundle {
    /// Taken from the node for it.
    holding: Holding,
    /// What is held, and the units of `bundle`.
    total: ResourceSet,
    pub available: ResourceSet,
    pub gpus: Gpus,
    /// Only then may it be used.
    committed: bool,
}

impl Bundle {
    pub fn empty_gpus(&self) -> Gpus {
        Gpus::of_shares(&self.holding.gpus)
    }

    pub fn total(&self) -> &ResourceSet {
        &self.total
    }
}

impl Bundles {
    pub fn add(&mut self, group: PlacementGroupId, index: u32, holding: Holding, committed: bool) {
        let mut total = holding.resources.clone();
        total.set(BUNDLE, BUNDLE_UNITS);
        let bundle = Bundle {
            available: total.clone(),
            total,
            gpus: Gpus::of_shares(&holding.gpus),
            holding,
            committed,
        };
        self.groups.entry(group).or_default().insert(index, bundle);
    }

    pub fn has(&self, group: PlacementGroupId, index: u32) -> bool {
        self.groups
            .get(&group)
            .is_some_and(|bundles| bundles.contains_key(&index))
    }

    pub fn commit(&mut self, group: PlacementGroupId) {
        for bundle in self.groups.get_mut(&group).into_iter().flat_map(BTreeMap::values_mut) {
            bundle.committed = true;
        }
    }

    /// Gives up a bundle, in which nothing runs any more; what it held is the caller's to give back.
    pub fn remove(&mut self, group: PlacementGroupId, index: u32) -> Option<Holding> {
        let bundles = self.groups.get_mut(&group)?;
        let bundle = bundles.remove(&index)?;
        if bundles.is_empty() {
            self.groups.remove(&group);
        }
        Some(bundle.holding)
    }

    /// Whether some bundle of the group is here and may be used.
    pub fn knows(&self, group: PlacementGroupId) -> bool {
        self.groups
            .get(&group)
            .is_some_and(|bundles| bundles.values().any(|bundle| bundle.committed))
    }

    /// The bundles of each group, committed or not.
    pub fn indices(&self) -> impl Iterator<Item = (PlacementGroupId, Vec<u32>)> {
        (self.groups.iter()).map(|(group, bundles)| (*group, bundles.keys().copied().collect()))
    }

    pub fn all(&self) -> impl Iterator<Item = (PlacementGroupId, u32, &Bundle)> {
        self.groups
            .iter()
            .flat_map(|(group, bundles)| bundles.iter().map(|(index, bundle)| (*group, *index, bundle)))
    }

    fn usable(&self, demand: &BundleDemand) -> impl Iterator<Item = (u32, &Bundle)> {
        let index = demand.index;
        self.groups
            .get(&demand.group)
            .into_iter()
            .flatten()
            .map(|(index, bundle)| (*index, bundle))
            .filter(move |(at, bundle)| bundle.committed && index.is_none_or(|index| index == *at))
    }

    /// The bundle that takes the demand now.
    pub fn pick(&self, demand: &BundleDemand) -> Option<u32> {
        let left = |bundle: &Bundle| -> i64 {
            let resources = demand.resources.iter();
            resources
                .map(|(name, amount)| bundle.available.get(name).0 - amount.0)
                .sum()
        };
        self.usable(demand)
            .filter(|(_, bundle)| {
                bundle.available.covers(&demand.resources) && bundle.gpus.fits(demand.resources.get(GPU))
            })
            .min_by_key(|(index, bundle)| (left(bundle), *index))
            .map(|(index, _)| index)
    }

    pub fn is_feasible(&self, demand: &BundleDemand) -> bool {
        self.usable(demand).any(|(_, bundle)| {
            bundle.total.covers(&demand.resources) && bundle.empty_gpus().fits(demand.resources.get(GPU))
        })
    }

    fn bundle_mut(&mut self, demand: &BundleDemand) -> &mut Bundle {
        let index = demand.index.expect("what is held is in one bundle");
        self.groups
            .get_mut(&demand.group)
            .and_then(|bundles| bundles.get_mut(&index))
            .expect("SCH-5: a bundle lives as long as what it is used by")
    }

    /// The demand names its bundle, where it fits.
    pub fn take(&mut self, demand: &BundleDemand) -> Vec<Share> {
        let bundle = self.bundle_mut(demand);
        bundle.available.subtract(&demand.resources);
        let gpus = demand.resources.get(GPU);
        // An actor may run with more than it was placed with, and there is no more than what the bundle has.
        if bundle.gpus.fits(gpus) {
            bundle.gpus.take(gpus)
        } else {
            Vec::new()
        }
    }

    /// Of what is in the bundle already, whether or not it is free.
    pub fn take_anyway(&mut self, place: &BundleDemand, resources: &ResourceSet) {
        self.bundle_mut(place).available.subtract(resources);
    }

    pub fn give_back(&mut self, place: &BundleDemand, resources: &ResourceSet, gpus: &[Share]) {
        let bundle = self.bundle_mut(place);
        bundle.available.add(resources);
        bundle.gpus.give_back(gpus);
    }

    pub fn reserved(&self) -> ResourceSet {
        let mut sum = ResourceSet::new();
        for (_, _, bundle) in self.all() {
            sum.add(&bundle.holding.resources);
        }
        sum
    }

    fn by_name(&self, group: PlacementGroupId, of: impl Fn(&Bundle) -> &ResourceSet) -> ResourceSet {
        let mut sum = ResourceSet::new();
        for (index, bundle) in self.groups.get(&group).into_iter().flatten() {
            if bundle.committed {
                let here = BundleDemand {
                    group,
                    index: Some(*index),
                    resources: of(bundle).clone(),
                };
                sum.add(&here.by_name());
            }
        }
        sum
    }

    pub fn available_by_name(&self, group: PlacementGroupId) -> ResourceSet {
        self.by_name(group, |bundle| &bundle.available)
    }

    pub fn total_by_name(&self, group: PlacementGroupId) -> ResourceSet {
        self.by_name(group, |bundle| &bundle.total)
    }

    pub fn groups(&self) -> impl Iterator<Item = PlacementGroupId> {
        self.groups.keys().copied()
    }
}
