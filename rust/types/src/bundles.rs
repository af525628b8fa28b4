//! The resources of placement groups by their names, as Ray calls them.
//!
//! A bundle's `CPU` is `CPU_group_<index>_<group>` to whoever asks for that bundle and `CPU_group_<group>` to whoever
//! takes any of the group's; so a demand is a plain set of resources wherever it travels, and says by its names where
//! it is to be served. Each bundle also has [`BUNDLE_UNITS`] of the resource `bundle`, of which everything that runs in
//! it takes [`BUNDLE_SHARE`], so that what needs no other resource is placed there as well.

use crate::resources::CPU;
use crate::{PlacementGroupId, Quantity, ResourceSet};

pub const BUNDLE: &str = "bundle";
/// What each bundle has of [`BUNDLE`].
pub const BUNDLE_UNITS: Quantity = Quantity(1_000 * Quantity::UNITS_PER_ONE);
/// What each task or actor in a bundle takes of it.
pub const BUNDLE_SHARE: Quantity = Quantity(Quantity::UNITS_PER_ONE / 1_000);

const SEPARATOR: &str = "_group_";

/// What a resource's name says of bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleResource<'a> {
    /// The resource's name outside of groups.
    pub base: &'a str,
    /// `None`: of any bundle of the group.
    pub index: Option<u32>,
    pub group: PlacementGroupId,
}

impl BundleResource<'_> {
    /// `None` when the name is that of an ordinary resource.
    pub fn parse(name: &str) -> Option<BundleResource<'_>> {
        let at = name.rfind(SEPARATOR)?;
        let (base, place) = (&name[..at], &name[at + SEPARATOR.len()..]);
        let (index, hex) = match place.split_once('_') {
            Some((index, hex)) => (Some(index.parse().ok()?), hex),
            None => (None, place),
        };
        let group = PlacementGroupId::from_hex(hex)?;
        Some(BundleResource { base, index, group })
    }

    pub fn name(&self) -> String {
        match self.index {
            Some(index) => format!("{}{SEPARATOR}{index}_{}", self.base, self.group),
            None => format!("{}{SEPARATOR}{}", self.base, self.group),
        }
    }
}

/// Where a demand is to be served, and what it takes there, by ordinary names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleDemand {
    pub group: PlacementGroupId,
    /// `None`: in any bundle.
    pub index: Option<u32>,
    pub resources: ResourceSet,
}

impl BundleDemand {
    /// `None` when the demand is for no group.
    pub fn of(demand: &ResourceSet) -> Option<Self> {
        let mut found: Option<Self> = None;
        for (name, amount) in demand.iter() {
            let Some(named) = BundleResource::parse(name) else {
                continue;
            };
            let found = found.get_or_insert_with(|| Self {
                group: named.group,
                index: None,
                resources: ResourceSet::new(),
            });
            if named.group == found.group {
                found.index = found.index.or(named.index);
                found.resources.set(named.base, amount);
            }
        }
        found
    }

    /// Whether the demand is for some group; cheaper than [`Self::of`].
    pub fn group_of(demand: &ResourceSet) -> Option<PlacementGroupId> {
        demand
            .iter()
            .find_map(|(name, _)| BundleResource::parse(name))
            .map(|named| named.group)
    }

    /// The demand by the names of the group: those of the bundle, if it is known, and those of the group as a whole.
    pub fn by_name(&self) -> ResourceSet {
        let mut set = ResourceSet::new();
        for (base, amount) in self.resources.iter() {
            for index in [self.index, None] {
                let group = self.group;
                set.set(BundleResource { base, index, group }.name(), amount);
            }
        }
        set
    }
}

/// The processors of a demand, wherever they come from.
pub fn cpus_of(demand: &ResourceSet) -> Quantity {
    let ordinary = demand.get(CPU);
    if ordinary != Quantity::ZERO {
        return ordinary;
    }
    demand
        .iter()
        .filter(|(name, _)| name.starts_with(CPU))
        .find(|(name, _)| BundleResource::parse(name).is_some_and(|named| named.base == CPU))
        .map_or(Quantity::ZERO, |(_, amount)| amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: PlacementGroupId = PlacementGroupId([0xab; 18]);

    #[test]
    fn names_are_read_as_they_are_written() {
        for (base, index) in [("CPU", Some(12)), ("GPU", None), ("my_group_thing", Some(0))] {
            let named = BundleResource {
                base,
                index,
                group: GROUP,
            };
            assert_eq!(BundleResource::parse(&named.name()), Some(named));
        }
        let hex = GROUP.hex();
        assert_eq!(
            BundleResource::parse(&format!("CPU_group_3_{hex}")).and_then(|named| named.index),
            Some(3)
        );
        for ordinary in ["CPU", "a_group_b", "CPU_group_", &format!("CPU_group_x_{hex}")] {
            assert_eq!(BundleResource::parse(ordinary), None, "{ordinary}");
        }
    }

    #[test]
    fn a_demand_says_where_it_is_served() {
        let demand = BundleDemand {
            group: GROUP,
            index: Some(1),
            resources: ResourceSet::new().with("CPU", 2.0).with(BUNDLE, 0.001),
        };
        let named = demand.by_name();
        assert_eq!(named.iter().count(), 4, "by the bundle's names and by the group's");
        assert_eq!(BundleDemand::of(&named), Some(demand));
        assert_eq!(cpus_of(&named), Quantity::from_f64(2.0));
        assert_eq!(BundleDemand::of(&ResourceSet::new().with("CPU", 1.0)), None);
    }
}
