//! From one look at the cluster: what is to be started.

use std::collections::{BTreeMap, BTreeSet};

use ray_rs_types::placing::GroupStrategy;
use ray_rs_types::resources::GPU;
use ray_rs_types::{NodeId, Quantity, ResourceSet};

use super::packing::{Bin, fill, hardest_first, place_group, use_of};
use super::{Config, NodeType, View};

/// What follows from a look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// How many of each type.
    pub start: BTreeMap<String, u32>,
    /// Nodes into which something fits that waits: they are about to be used.
    pub wanted: BTreeSet<NodeId>,
    /// What waits, or was requested, and neither a node nor a type of node could ever take.
    pub infeasible: BTreeMap<ResourceSet, u32>,
    /// What waits for a node that may not be started now: there are as many as may be, or starts have failed lately.
    pub delayed: BTreeMap<ResourceSet, u32>,
}

/// `ordered`: of each type, how many there are in whatever state. `coming`: the types of those that are to join.
/// `paused`: types of which none may be started now.
pub fn plan(
    config: &Config,
    view: &View,
    ordered: &BTreeMap<String, u32>,
    coming: &[String],
    paused: &BTreeSet<String>,
) -> Plan {
    let mut planner = Planner {
        config,
        counts: ordered.clone(),
        paused,
        plan: Plan::default(),
        new: Vec::new(),
    };
    for node_type in &config.types {
        while planner.count(node_type) < node_type.min_workers && planner.may_start(node_type) {
            planner.start(node_type);
        }
    }
    let open: Vec<_> = view.nodes.iter().filter(|node| !node.drains).collect();
    let coming = || coming.iter().filter_map(|name| config.of_name(name));
    // What was requested is to fit into the cluster, whatever is in use of it.
    let mut whole: Vec<Bin> = open.iter().map(|node| Bin::new(node.total.clone())).collect();
    whole.extend(coming().map(|node_type| Bin::new(node_type.resources.clone())));
    whole.extend(planner.new.clone());
    let mut requested: Vec<(ResourceSet, u32)> = view.requested.clone().into_iter().collect();
    hardest_first(&mut requested);
    planner.serve(&mut whole, &requested, view);
    // What waits is to fit into what is free of it.
    let mut free: Vec<Bin> = open.iter().map(|node| Bin::new(node.available.clone())).collect();
    free.extend(coming().map(|node_type| Bin::new(node_type.resources.clone())));
    free.extend(planner.new.iter().map(|bin| Bin::new(bin.free.clone())));
    for group in &view.groups {
        planner.serve_group(&mut free, group, view);
    }
    let mut demand: Vec<(ResourceSet, u32)> = view.demand.clone().into_iter().collect();
    hardest_first(&mut demand);
    planner.serve(&mut free, &demand, view);
    planner.plan.wanted = (open.iter().zip(&free))
        .filter(|(_, bin)| bin.is_used)
        .map(|(node, _)| node.node)
        .collect();
    planner.plan
}

struct Planner<'a> {
    config: &'a Config,
    counts: BTreeMap<String, u32>,
    paused: &'a BTreeSet<String>,
    plan: Plan,
    /// Of those that are to be started, all that they have.
    new: Vec<Bin>,
}

impl Planner<'_> {
    fn count(&self, node_type: &NodeType) -> u32 {
        self.counts.get(&node_type.name).copied().unwrap_or(0)
    }

    /// AUT-1.
    fn may_start(&self, node_type: &NodeType) -> bool {
        self.count(node_type) < node_type.max_workers
            && self.counts.values().sum::<u32>() < self.config.max_workers
            && !self.paused.contains(&node_type.name)
    }

    fn start(&mut self, node_type: &NodeType) {
        *self.counts.entry(node_type.name.clone()).or_default() += 1;
        *self.plan.start.entry(node_type.name.clone()).or_default() += 1;
        self.new.push(Bin::new(node_type.resources.clone()));
    }

    /// Of the types that may be started and take the shape the one that is of most use: no GPUs for who needs none, then
    /// the fullest with all that waits, then the largest, of which fewer are needed.
    fn best(&self, shape: &ResourceSet, waiting: &[(ResourceSet, u32)]) -> Option<NodeType> {
        let wastes_gpus =
            |node_type: &NodeType| node_type.resources.get(GPU) > Quantity::ZERO && shape.get(GPU) == Quantity::ZERO;
        let size = |node_type: &NodeType| node_type.resources.iter().map(|(_, amount)| amount.0).sum::<i64>();
        let rank = |node_type: &NodeType| {
            let mut all = vec![(shape.clone(), 1)];
            all.extend_from_slice(waiting);
            (
                wastes_gpus(node_type),
                -use_of(&node_type.resources, &all),
                -size(node_type),
            )
        };
        let may = |node_type: &&NodeType| node_type.resources.covers(shape) && self.may_start(node_type);
        let ranked = self
            .config
            .types
            .iter()
            .filter(may)
            .map(|node_type| (rank(node_type), node_type));
        let best = ranked.min_by(|(one, a), (other, b)| {
            let by_use = one.0.cmp(&other.0).then(one.1.total_cmp(&other.1));
            by_use.then(one.2.cmp(&other.2)).then_with(|| a.name.cmp(&b.name))
        });
        best.map(|(_, node_type)| node_type.clone())
    }

    /// Fits what it can into the bins, and new ones for the rest.
    fn serve(&mut self, bins: &mut Vec<Bin>, demand: &[(ResourceSet, u32)], view: &View) {
        for at in 0..demand.len() {
            let (shape, count) = &demand[at];
            let mut left = fill(bins, shape, *count);
            while left > 0 {
                let mut waiting = demand[at..].to_vec();
                waiting[0].1 = left;
                let Some(node_type) = self.best(shape, &waiting) else {
                    self.cannot(shape, left, view);
                    break;
                };
                self.start(&node_type);
                let mut bin = Bin::new(node_type.resources);
                left -= bin.fill(shape, left);
                bins.push(bin);
            }
        }
    }

    /// All or nothing: half a group is of no use.
    fn serve_group(&mut self, bins: &mut Vec<Bin>, group: &super::Group, view: &View) {
        let mut tried = bins.clone();
        let (counts, start, new) = (self.counts.clone(), self.plan.start.clone(), self.new.len());
        let left = place_group(&mut tried, group).into_iter();
        let mut left: Vec<(ResourceSet, u32)> = left.map(|bundle| (bundle, 1)).collect();
        hardest_first(&mut left);
        let added = tried.len();
        for at in 0..left.len() {
            let shape = &left[at].0;
            let is_apart = group.strategy == GroupStrategy::StrictSpread;
            // Others of the group may have made room for it.
            if !is_apart && fill(&mut tried[added..], shape, 1) == 0 {
                continue;
            }
            let waiting = if is_apart { &left[at..=at] } else { &left[at..] };
            let Some(node_type) = self.best(shape, waiting) else {
                (self.counts, self.plan.start) = (counts, start);
                self.new.truncate(new);
                for (shape, count) in &left {
                    self.cannot(shape, *count, view);
                }
                return;
            };
            self.start(&node_type);
            let mut bin = Bin::new(node_type.resources);
            bin.fill(shape, 1);
            tried.push(bin);
        }
        *bins = tried;
    }

    fn cannot(&mut self, shape: &ResourceSet, count: u32, view: &View) {
        let mut types = self.config.types.iter();
        let is_of_a_type = types.any(|node_type| node_type.max_workers > 0 && node_type.resources.covers(shape));
        let is_there = || view.nodes.iter().any(|node| !node.drains && node.total.covers(shape));
        let into = match is_of_a_type {
            true => &mut self.plan.delayed,
            // It waits for what is in use.
            false if is_there() => return,
            false => &mut self.plan.infeasible,
        };
        *into.entry(shape.clone()).or_default() += count;
    }
}

/// Whether all that was requested still fits into the cluster without these nodes.
pub(super) fn are_spare(view: &View, coming: &[&ResourceSet], without: &BTreeSet<NodeId>) -> bool {
    let left_over = |without: &BTreeSet<NodeId>| {
        let open = view
            .nodes
            .iter()
            .filter(|node| !node.drains && !without.contains(&node.node));
        let mut bins: Vec<Bin> = open.map(|node| Bin::new(node.total.clone())).collect();
        bins.extend(coming.iter().map(|resources| Bin::new((*resources).clone())));
        let mut requested: Vec<(ResourceSet, u32)> = view.requested.clone().into_iter().collect();
        hardest_first(&mut requested);
        let left = requested.iter().map(|(shape, count)| fill(&mut bins, shape, *count));
        left.sum::<u32>()
    };
    view.requested.is_empty() || left_over(without) <= left_over(&BTreeSet::new())
}
