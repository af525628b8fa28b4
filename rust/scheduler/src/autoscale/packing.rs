//! What of a demand fits into which nodes: first the hard things, each where it fits first.

use ray_rs_types::placing::GroupStrategy;
use ray_rs_types::{Quantity, ResourceSet};

use super::Group;

/// Room on one node, or on one that could be.
#[derive(Debug, Clone)]
pub(super) struct Bin {
    pub free: ResourceSet,
    /// Something was put in.
    pub is_used: bool,
}

impl Bin {
    pub fn new(free: ResourceSet) -> Self {
        Self { free, is_used: false }
    }

    /// Puts as many of `count` in as fit; how many those are.
    pub fn fill(&mut self, shape: &ResourceSet, count: u32) -> u32 {
        let fits = |(name, wanted): (&str, Quantity)| (self.free.get(name).0 / wanted.0.max(1)).max(0);
        let fitting = shape.iter().map(fits).min().unwrap_or(i64::from(count));
        let taken = u32::try_from(fitting).unwrap_or(u32::MAX).min(count);
        if taken > 0 {
            self.is_used = true;
            let all = shape.iter();
            let all = all.map(|(name, wanted)| (name.to_owned(), Quantity(wanted.0 * i64::from(taken))));
            self.free.subtract(&all.collect());
        }
        taken
    }
}

/// Puts what fits into the bins; how many do not.
pub(super) fn fill(bins: &mut [Bin], shape: &ResourceSet, mut count: u32) -> u32 {
    for bin in bins {
        if count == 0 {
            break;
        }
        count -= bin.fill(shape, count);
    }
    count
}

/// The order in which things are packed: many kinds of resources first, then large amounts.
pub(super) fn hardest_first(demand: &mut [(ResourceSet, u32)]) {
    let size = |shape: &ResourceSet| {
        let amounts = shape.iter().map(|(_, amount)| amount.0);
        (shape.iter().count(), amounts.max().unwrap_or(0))
    };
    demand.sort_by(|(one, _), (other, _)| size(other).cmp(&size(one)).then_with(|| one.cmp(other)));
}

/// Places the bundles of a group that fit; those that do not. (Of a STRICT_PACK that does not fit: the sum of all.)
pub(super) fn place_group(bins: &mut [Bin], group: &Group) -> Vec<ResourceSet> {
    let whole = || {
        let mut sum = ResourceSet::new();
        group.bundles.iter().for_each(|bundle| sum.add(bundle));
        sum
    };
    match group.strategy {
        GroupStrategy::StrictPack => match fill(bins, &whole(), 1) {
            0 => Vec::new(),
            _ => vec![whole()],
        },
        GroupStrategy::Pack if fill(bins, &whole(), 1) == 0 => Vec::new(),
        GroupStrategy::Pack | GroupStrategy::Spread => {
            let mut left = group.bundles.clone();
            left.retain(|bundle| fill(bins, bundle, 1) > 0);
            left
        }
        GroupStrategy::StrictSpread => {
            let mut taken = vec![false; bins.len()];
            let mut left = group.bundles.clone();
            left.retain(|bundle| {
                let mut open = (0..bins.len()).filter(|at| !taken[*at]);
                let found = open.find(|at| bins[*at].free.covers(bundle));
                if let Some(at) = found {
                    taken[at] = true;
                    bins[at].fill(bundle, 1);
                }
                found.is_none()
            });
            left
        }
    }
}

/// How much of a node of `total` is used by what is put in of `demand`, in parts of 1, on average over its resources.
pub(super) fn use_of(total: &ResourceSet, demand: &[(ResourceSet, u32)]) -> f64 {
    let mut bin = Bin::new(total.clone());
    for (shape, count) in demand {
        bin.fill(shape, *count);
    }
    let used = total.iter().map(|(name, amount)| {
        let free = bin.free.get(name).0;
        (amount.0 - free) as f64 / amount.0.max(1) as f64
    });
    let (sum, count) = used.fold((0.0, 0), |(sum, count), used| (sum + used, count + 1));
    sum / f64::from(count.max(1))
}
