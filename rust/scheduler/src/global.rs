//! The global scheduler: which other node should serve what a local scheduler cannot, or not now.
//!
//! It knows what nodes report (totals, what is free, how many requests wait) and what it has proposed since, for a
//! moment: a proposal counts as taken until the node's next report, or for [`PROMISE_HOLDS`], so that a burst of
//! requests is not sent to one node on the word of one report. It keeps nothing else, and nothing that the next reports
//! would not bring back; any number of replicas may run. A proposal is a proposal: the node's own scheduler decides.

use std::collections::BTreeMap;
use std::time::Duration;

use ray_rs_types::resources::CPU;
use ray_rs_types::{NodeId, Quantity, ResourceSet};

/// A proposal that no report confirms is forgotten after so long.
pub const PROMISE_HOLDS: Duration = Duration::from_millis(500);

/// One living node.
#[derive(Debug, Clone, Default)]
struct Node {
    total: ResourceSet,
    available: ResourceSet,
    backlog: u32,
    promised: Vec<(Duration, ResourceSet)>,
    /// Number of its latest report.
    view: u64,
}

impl Node {
    fn free(&self) -> ResourceSet {
        let mut free = self.available.clone();
        for (_, promised) in &self.promised {
            free.subtract(promised);
        }
        free
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct GlobalScheduler {
    /// Ordered, so that equals are decided the same way every time.
    nodes: BTreeMap<NodeId, Node>,
    reports: u64,
}

/// What is asked of the global scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    pub resources: &'a ResourceSet,
    /// The node that asks, which is no answer.
    pub from: Option<NodeId>,
    /// The asking node can serve it as well, in time: only a node that can do so now is better.
    pub only_if_free: bool,
    /// Nodes that would not, and the views on which they were proposed.
    pub refused: &'a [(NodeId, u64)],
}

impl GlobalScheduler {
    /// A node came, or reports anew.
    pub fn node_reported(&mut self, node: NodeId, total: ResourceSet, available: ResourceSet, backlog: u32) {
        self.reports += 1;
        let known = self.nodes.entry(node).or_default();
        known.view = self.reports;
        (known.total, known.available, known.backlog) = (total, available, backlog);
        known.promised.clear();
    }

    /// It died, or does not answer.
    pub fn node_gone(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Names what the node has said last.
    pub fn view(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |node| node.view)
    }

    /// Whether it is in vain to ask the node: it refused, and has said nothing since.
    pub fn has_refused(&self, node: NodeId, refused: &[(NodeId, u64)]) -> bool {
        let view = self.view(node);
        refused.iter().any(|(who, when)| *who == node && *when == view)
    }

    /// What the node has free, less what was proposed to others.
    pub fn free(&self, node: NodeId) -> ResourceSet {
        self.nodes.get(&node).map(Node::free).unwrap_or_default()
    }

    /// Counts `resources` as taken until the node reports.
    pub fn promise(&mut self, now: Duration, node: NodeId, resources: &ResourceSet) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.promised.push((now, resources.clone()));
        }
    }

    /// When the oldest proposal is forgotten that no report has confirmed: then there may be more room than now.
    pub fn next_lapse(&self) -> Option<Duration> {
        let promised = self.nodes.values().flat_map(|node| &node.promised);
        promised.map(|(since, _)| *since + PROMISE_HOLDS).min()
    }

    /// The node with the most processors free among those that have room now; else, unless only that would help, the one
    /// with the shortest queue among those that could ever.
    pub fn pick(&mut self, now: Duration, wish: Wish<'_>) -> Option<NodeId> {
        for node in self.nodes.values_mut() {
            node.promised
                .retain(|(since, _)| now.saturating_sub(*since) < PROMISE_HOLDS);
        }
        let others = || {
            let nodes = self.nodes.iter();
            nodes.filter(|(id, _)| Some(**id) != wish.from && !self.has_refused(**id, wish.refused))
        };
        let roomy = others()
            .map(|(id, node)| (*id, node.free()))
            .filter(|(_, free)| free.covers(wish.resources))
            .map(|(id, free)| (id, free.get(CPU)));
        let mut best: Option<(NodeId, Quantity)> = None;
        for (id, cpus) in roomy {
            if best.is_none_or(|(_, most)| cpus > most) {
                best = Some((id, cpus));
            }
        }
        let chosen = best.map(|(id, _)| id).or_else(|| {
            if wish.only_if_free {
                return None;
            }
            others()
                .filter(|(_, node)| node.total.covers(wish.resources))
                .min_by_key(|(_, node)| (node.backlog, node.promised.len()))
                .map(|(id, _)| *id)
        })?;
        self.promise(now, chosen, wish.resources);
        Some(chosen)
    }

    /// Whether any node could ever serve it.
    pub fn is_feasible(&self, resources: &ResourceSet) -> bool {
        self.nodes.values().any(|node| node.total.covers(resources))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cpus(amount: f64) -> ResourceSet {
        ResourceSet::new().with(CPU, amount)
    }

    fn id(number: u8) -> NodeId {
        NodeId([number; 28])
    }

    fn cluster(nodes: &[(u8, f64, f64)]) -> GlobalScheduler {
        let mut global = GlobalScheduler::default();
        for (number, total, free) in nodes {
            global.node_reported(id(*number), cpus(*total), cpus(*free), 0);
        }
        global
    }

    fn wish(resources: &ResourceSet, from: u8, only_if_free: bool) -> Wish<'_> {
        Wish {
            resources,
            from: Some(id(from)),
            only_if_free,
            refused: &[],
        }
    }

    #[test]
    fn a_node_that_refused_is_asked_again_when_it_says_something_new() {
        let mut global = cluster(&[(1, 1.0, 0.0), (2, 2.0, 2.0)]);
        let one = cpus(1.0);
        let refused = [(id(2), global.view(id(2)))];
        let again = Wish {
            refused: &refused,
            ..wish(&one, 1, false)
        };
        assert_eq!(global.pick(Duration::ZERO, again), None);
        global.node_reported(id(2), cpus(2.0), cpus(2.0), 0);
        assert_eq!(global.pick(Duration::ZERO, again), Some(id(2)));
    }

    #[test]
    fn room_now_decides_and_the_asking_node_is_no_answer() {
        let mut global = cluster(&[(1, 8.0, 8.0), (2, 4.0, 1.0), (3, 4.0, 3.0)]);
        let one = cpus(1.0);
        assert_eq!(global.pick(Duration::ZERO, wish(&one, 1, true)), Some(id(3)));
    }

    #[test]
    fn what_was_proposed_is_not_proposed_again_until_the_node_reports_or_time_passes() {
        let mut global = cluster(&[(1, 1.0, 0.0), (2, 2.0, 2.0)]);
        let one = cpus(1.0);
        let pick = |global: &mut GlobalScheduler, ms| global.pick(Duration::from_millis(ms), wish(&one, 1, true));
        assert_eq!(pick(&mut global, 0), Some(id(2)));
        assert_eq!(pick(&mut global, 1), Some(id(2)));
        assert_eq!(pick(&mut global, 2), None, "both processors are promised");
        global.node_reported(id(2), cpus(2.0), cpus(1.0), 0);
        assert_eq!(pick(&mut global, 3), Some(id(2)));
        assert_eq!(pick(&mut global, 4), None);
        assert_eq!(global.next_lapse(), Some(Duration::from_millis(3) + PROMISE_HOLDS));
        assert_eq!(pick(&mut global, 600), Some(id(2)), "a promise that came to nothing");
    }

    #[test]
    fn a_node_that_could_is_asked_when_the_asking_one_never_can() {
        let mut global = cluster(&[(1, 1.0, 1.0), (2, 4.0, 0.0)]);
        let two = cpus(2.0);
        assert_eq!(global.pick(Duration::ZERO, wish(&two, 1, true)), None);
        assert_eq!(global.pick(Duration::ZERO, wish(&two, 1, false)), Some(id(2)));
        assert!(!global.is_feasible(&cpus(5.0)));
        global.node_gone(id(2));
        assert_eq!(global.pick(Duration::ZERO, wish(&two, 1, false)), None);
    }

    proptest! {
        #[test]
        fn nothing_is_promised_twice(frees in prop::collection::vec(0_u32..5, 1..6), asks in 1_usize..40) {
            let nodes: Vec<_> = frees.iter().enumerate().map(|(n, free)| (n as u8 + 2, 8.0, f64::from(*free))).collect();
            let mut global = cluster(&nodes);
            let one = cpus(1.0);
            let given = (0..asks).filter(|_| global.pick(Duration::ZERO, wish(&one, 1, true)).is_some()).count();
            prop_assert_eq!(given, asks.min(frees.iter().sum::<u32>() as usize));
        }
    }
}
