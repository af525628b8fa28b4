//! Where the bundles of a placement group go.
//!
//! Assumes that bundles are placed once and stay: it looks for a good place, not for the best of all. PACK and SPREAD are
//! greedy, with the largest bundles first; STRICT_SPREAD finds a place for each bundle whenever there is one, by
//! augmenting paths. A group that lost a node keeps the bundles that it has elsewhere.

use ray_rs_types::placing::{GroupStrategy, LabelRule};
use ray_rs_types::{NodeId, Quantity, ResourceSet};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{NodeView, labels};

/// One bundle to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleSpec {
    pub resources: ResourceSet,
    /// The node must have these labels.
    pub labels: Vec<LabelRule>,
}

/// A node for each bundle; `None` when there is none for some now. `placed`: what has its node already (the nodes'
/// `available` is without that). `wish`: the node that a STRICT_PACK goes to if it can.
pub fn place<'a>(
    strategy: GroupStrategy,
    bundles: &'a [BundleSpec],
    placed: &[Option<NodeId>],
    nodes: impl IntoIterator<Item = &'a NodeView>,
    wish: Option<NodeId>,
) -> Option<Vec<NodeId>> {
    Plan::new(bundles, placed, nodes, false).find(strategy, wish)
}

/// Whether the group could be placed if all nodes were empty.
pub fn is_feasible<'a>(
    strategy: GroupStrategy,
    bundles: &'a [BundleSpec],
    nodes: impl IntoIterator<Item = &'a NodeView>,
) -> bool {
    Plan::new(bundles, &[], nodes, true).find(strategy, None).is_some()
}

/// Whether no other nodes could keep the strategy better.
pub fn is_as_wished(strategy: GroupStrategy, nodes: &[NodeId]) -> bool {
    let distinct = nodes.iter().collect::<FxHashSet<_>>().len();
    match strategy {
        GroupStrategy::Pack | GroupStrategy::StrictPack => distinct == 1,
        GroupStrategy::Spread | GroupStrategy::StrictSpread => distinct == nodes.len(),
    }
}

struct Plan<'a> {
    bundles: &'a [BundleSpec],
    placed: Vec<Option<NodeId>>,
    /// In the order of their ids.
    nodes: Vec<&'a NodeView>,
    /// They count as if nothing ran there.
    are_empty: bool,
    /// What is free of those to which this plan gives something.
    left: FxHashMap<usize, ResourceSet>,
    /// Bundles of the group on each.
    used: Vec<usize>,
}

impl<'a> Plan<'a> {
    fn new(
        bundles: &'a [BundleSpec],
        placed: &[Option<NodeId>],
        nodes: impl IntoIterator<Item = &'a NodeView>,
        are_empty: bool,
    ) -> Self {
        let mut nodes: Vec<&NodeView> = nodes.into_iter().collect();
        nodes.sort_by_key(|view| view.node);
        let mut used = vec![0; nodes.len()];
        for node in placed.iter().flatten() {
            if let Ok(at) = nodes.binary_search_by_key(node, |view| view.node) {
                used[at] += 1;
            }
        }
        let mut placed = placed.to_vec();
        placed.resize(bundles.len(), None);
        Self {
            bundles,
            placed,
            nodes,
            are_empty,
            left: FxHashMap::default(),
            used,
        }
    }

    fn find(mut self, strategy: GroupStrategy, wish: Option<NodeId>) -> Option<Vec<NodeId>> {
        let found = match strategy {
            GroupStrategy::StrictPack => self.on_one_node(wish),
            GroupStrategy::Pack => self.on_one_node(None) || self.on_few_nodes(),
            GroupStrategy::Spread => self.on_many_nodes(),
            GroupStrategy::StrictSpread => self.on_distinct_nodes(),
        };
        found.then(|| self.placed.into_iter().flatten().collect())
    }

    fn free(&self, node: usize) -> &ResourceSet {
        let view = self.nodes[node];
        let before = if self.are_empty { &view.total } else { &view.available };
        self.left.get(&node).unwrap_or(before)
    }

    fn can_take(&self, node: usize, bundle: usize) -> bool {
        let spec = &self.bundles[bundle];
        self.free(node).covers(&spec.resources) && labels::meets(self.nodes[node], &spec.labels)
    }

    fn put(&mut self, bundle: usize, node: usize) {
        let mut free = self.free(node).clone();
        free.subtract(&self.bundles[bundle].resources);
        self.left.insert(node, free);
        self.used[node] += 1;
        self.placed[bundle] = Some(self.nodes[node].node);
    }

    /// Not placed yet, the largest first.
    fn missing(&self) -> Vec<usize> {
        let mut missing: Vec<usize> = (0..self.bundles.len())
            .filter(|at| self.placed[*at].is_none())
            .collect();
        missing.sort_by_key(|at| std::cmp::Reverse(size(&self.bundles[*at].resources)));
        missing
    }

    fn on_one_node(&mut self, wish: Option<NodeId>) -> bool {
        let missing = self.missing();
        let mut sum = ResourceSet::new();
        missing.iter().for_each(|at| sum.add(&self.bundles[*at].resources));
        let bound = self.placed.iter().flatten().next().copied();
        let possible = |plan: &Self, node: usize| {
            let view = plan.nodes[node];
            bound.is_none_or(|bound| bound == view.node)
                && plan.free(node).covers(&sum)
                && missing.iter().all(|at| labels::meets(view, &plan.bundles[*at].labels))
        };
        let best = (0..self.nodes.len())
            .filter(|node| possible(self, *node))
            .min_by_key(|node| (Some(self.nodes[*node].node) != wish, left_over(self.free(*node), &sum)));
        let Some(node) = best else { return false };
        missing.into_iter().for_each(|at| self.put(at, node));
        true
    }

    /// Each next node is the one that takes most of what is left.
    fn on_few_nodes(&mut self) -> bool {
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                return true;
            }
            let load = |plan: &Self, node: usize| {
                let mut taken = Vec::new();
                // Most that are full take nothing, and cost nothing more.
                let Some(first) = missing.iter().position(|at| plan.can_take(node, *at)) else {
                    return taken;
                };
                let mut free = plan.free(node).clone();
                for at in &missing[first..] {
                    let spec = &plan.bundles[*at];
                    if free.covers(&spec.resources) && labels::meets(plan.nodes[node], &spec.labels) {
                        free.subtract(&spec.resources);
                        taken.push(*at);
                    }
                }
                taken
            };
            let best = (0..self.nodes.len())
                .map(|node| (load(self, node), node))
                .filter(|(taken, _)| !taken.is_empty())
                // A node that the group has already is as good as none more; of equals the first.
                .max_by_key(|(taken, node)| (self.used[*node] > 0, taken.len(), std::cmp::Reverse(*node)));
            let Some((taken, node)) = best else { return false };
            taken.into_iter().for_each(|at| self.put(at, node));
        }
    }

    /// Each bundle goes to the node that has fewest of the group, and of those to the one with most left.
    fn on_many_nodes(&mut self) -> bool {
        for at in self.missing() {
            let resources = &self.bundles[at].resources;
            let best = (0..self.nodes.len())
                .filter(|node| self.can_take(*node, at))
                .min_by_key(|node| {
                    let left = left_over(self.free(*node), resources);
                    (self.used[*node], std::cmp::Reverse(left), *node)
                });
            let Some(node) = best else { return false };
            self.put(at, node);
        }
        true
    }

    /// A matching of bundles and nodes: a bundle for which there is no free node makes others move on.
    fn on_distinct_nodes(&mut self) -> bool {
        let missing = self.missing();
        let mut holder: Vec<Option<usize>> = vec![None; self.nodes.len()];
        let taken: Vec<bool> = self.used.iter().map(|used| *used > 0).collect();
        for at in &missing {
            let mut seen = taken.clone();
            if !self.find_node(*at, &mut holder, &mut seen) {
                return false;
            }
        }
        for (node, bundle) in holder.into_iter().enumerate() {
            if let Some(at) = bundle {
                self.put(at, node);
            }
        }
        true
    }

    fn find_node(&self, at: usize, holder: &mut [Option<usize>], seen: &mut [bool]) -> bool {
        for node in 0..self.nodes.len() {
            if seen[node] || !self.can_take(node, at) {
                continue;
            }
            seen[node] = true;
            if holder[node].is_none_or(|other| self.find_node(other, holder, seen)) {
                holder[node] = Some(at);
                return true;
            }
        }
        false
    }
}

/// Orders bundles: what has GPUs or other special resources is hardest to place.
fn size(resources: &ResourceSet) -> (usize, i64) {
    let special = resources
        .iter()
        .filter(|(name, _)| !matches!(*name, "CPU" | "memory"))
        .count();
    let sum = resources
        .iter()
        .filter(|(name, _)| *name != "memory")
        .map(|(_, amount)| amount.0)
        .sum();
    (special, sum)
}

/// What the node would have left of the resources that are asked for, and then of all others.
fn left_over(free: &ResourceSet, demand: &ResourceSet) -> (i64, usize) {
    let left = |(name, amount): (&str, Quantity)| free.get(name).0 - amount.0;
    (demand.iter().map(left).sum(), free.iter().count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{cpus, node};
    use super::*;

    fn specs(amounts: &[f64]) -> Vec<BundleSpec> {
        let spec = |amount: &f64| BundleSpec {
            resources: cpus(*amount),
            labels: Vec::new(),
        };
        amounts.iter().map(spec).collect()
    }

    fn placed(strategy: GroupStrategy, amounts: &[f64], nodes: &[NodeView]) -> Option<Vec<u8>> {
        place(strategy, &specs(amounts), &[], nodes, None).map(|nodes| nodes.iter().map(|node| node.0[0]).collect())
    }

    #[test]
    fn each_strategy_on_three_nodes() {
        use GroupStrategy::{Pack, Spread, StrictPack, StrictSpread};
        let nodes = [node(1, 2.0, 2.0), node(2, 4.0, 4.0), node(3, 2.0, 2.0)];
        assert_eq!(placed(StrictPack, &[1.0, 2.0], &nodes), Some(vec![2, 2]));
        assert_eq!(placed(StrictPack, &[3.0, 2.0], &nodes), None);
        assert_eq!(placed(Pack, &[3.0, 2.0], &nodes), Some(vec![2, 1]));
        assert_eq!(placed(Pack, &[1.0, 1.0], &nodes), Some(vec![1, 1]), "the tightest fit");
        assert_eq!(placed(Spread, &[1.0, 1.0, 1.0], &nodes), Some(vec![2, 1, 3]));
        assert_eq!(placed(Spread, &[2.0; 4], &nodes), Some(vec![2, 1, 3, 2]));
        assert_eq!(placed(StrictSpread, &[1.0; 4], &nodes), None);
        assert_eq!(placed(StrictSpread, &[1.0, 3.0, 1.0], &nodes), Some(vec![3, 2, 1]));
    }

    #[test]
    fn distinct_nodes_are_found_when_a_bundle_has_to_make_way() {
        // Greedily, the first bundle would take the node that only the second can use.
        let nodes = [node(1, 4.0, 4.0), node(2, 4.0, 4.0)];
        let only = |number: &str| BundleSpec {
            resources: cpus(1.0),
            labels: vec![LabelRule::is("number", number)],
        };
        let bundles = [specs(&[1.0]).remove(0), only("1")];
        let found = place(GroupStrategy::StrictSpread, &bundles, &[], &nodes, None).expect("there is a way");
        assert_eq!(found.iter().map(|node| node.0[0]).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn a_wish_is_granted_where_it_can_be() {
        let nodes = [node(1, 2.0, 2.0), node(2, 4.0, 4.0)];
        let go = |wish, amount| {
            place(
                GroupStrategy::StrictPack,
                &specs(&[amount]),
                &[],
                &nodes,
                Some(NodeId([wish; 28])),
            )
            .map(|nodes| nodes[0].0[0])
        };
        assert_eq!((go(2, 1.0), go(1, 3.0), go(9, 1.0)), (Some(2), Some(2), Some(1)));
    }

    #[test]
    fn what_is_placed_already_stays_and_counts() {
        let nodes = [node(1, 4.0, 3.0), node(2, 4.0, 4.0), node(3, 4.0, 4.0)];
        let kept = [Some(NodeId([1; 28])), None];
        let go = |strategy| {
            place(strategy, &specs(&[1.0, 1.0]), &kept, &nodes, None).map(|nodes| (nodes[0].0[0], nodes[1].0[0]))
        };
        assert_eq!(go(GroupStrategy::Pack), Some((1, 1)));
        assert_eq!(go(GroupStrategy::StrictPack), Some((1, 1)));
        assert_eq!(go(GroupStrategy::StrictSpread), Some((1, 2)));
        assert_eq!(go(GroupStrategy::Spread), Some((1, 2)));
    }

    fn strategy() -> impl Strategy<Value = GroupStrategy> {
        prop_oneof![
            Just(GroupStrategy::Pack),
            Just(GroupStrategy::Spread),
            Just(GroupStrategy::StrictPack),
            Just(GroupStrategy::StrictSpread),
        ]
    }

    proptest! {
        #[test]
        fn a_plan_fits_and_keeps_its_strategy(
            strategy in strategy(),
            bundles in prop::collection::vec(1u8..5, 1..12),
            free in prop::collection::vec(0u8..9, 1..40),
        ) {
            let nodes: Vec<NodeView> = free.iter().enumerate()
                .map(|(at, free)| node(at as u8, 8.0, f64::from(*free))).collect();
            let amounts: Vec<f64> = bundles.iter().map(|amount| f64::from(*amount)).collect();
            let whole: f64 = amounts.iter().sum();
            let found = placed(strategy, &amounts, &nodes);
            if let Some(found) = &found {
                prop_assert_eq!(found.len(), amounts.len());
                for (at, free) in free.iter().enumerate() {
                    let load: f64 = found.iter().zip(&amounts)
                        .filter(|(node, _)| usize::from(**node) == at).map(|(_, amount)| amount).sum();
                    prop_assert!(load <= f64::from(*free), "no node takes more than it has");
                }
                let mut distinct = found.clone();
                distinct.sort_unstable();
                distinct.dedup();
                match strategy {
                    GroupStrategy::StrictPack => prop_assert_eq!(distinct.len(), 1),
                    GroupStrategy::StrictSpread => prop_assert_eq!(distinct.len(), amounts.len()),
                    GroupStrategy::Pack | GroupStrategy::Spread => {}
                }
            }
            let one_takes_all = free.iter().any(|free| f64::from(*free) >= whole);
            match strategy {
                GroupStrategy::StrictPack => prop_assert_eq!(found.is_some(), one_takes_all),
                GroupStrategy::Pack => prop_assert!(found.is_some() || !one_takes_all),
                GroupStrategy::StrictSpread => {
                    // With one resource the largest bundles to the largest nodes is the best there is.
                    let (mut amounts, mut free) = (bundles.clone(), free.clone());
                    amounts.sort_unstable_by(|a, b| b.cmp(a));
                    free.sort_unstable_by(|a, b| b.cmp(a));
                    let possible = amounts.len() <= free.len() && amounts.iter().zip(&free).all(|(a, f)| a <= f);
                    prop_assert_eq!(found.is_some(), possible);
                }
                GroupStrategy::Spread => {}
            }
        }
    }
}
