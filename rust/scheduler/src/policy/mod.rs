//! Which node: one policy a file, each a pure function of what is known of the nodes.
//!
//! A request names a [`Strategy`] and, if it likes, label selectors; [`choose`] answers with a node, with the reason why
//! it has to wait, or with the reason why it never will run. What the answer is made of may be old: a node that is
//! chosen may refuse, and is asked about again then. Bundles of placement groups have a policy of their own, [`bundle`].

pub mod bundle;
mod hybrid;
pub mod labels;
pub(crate) mod node_affinity;
mod node_label;
mod spread;

use std::collections::BTreeMap;

use ray_rs_types::placing::{Placing, Strategy};
use ray_rs_types::{NodeId, Quantity, ResourceSet};

/// A node as whoever chooses knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    pub node: NodeId,
    pub total: ResourceSet,
    pub available: ResourceSet,
    pub labels: BTreeMap<String, String>,
}

impl NodeView {
    /// Whether the empty node could serve it.
    pub fn is_feasible(&self, demand: &ResourceSet) -> bool {
        self.total.covers(demand)
    }

    pub fn fits(&self, demand: &ResourceSet) -> bool {
        self.available.covers(demand)
    }

    /// How full the node would be with `demand`, in parts of [`FULL`]: the fullest of its resources counts.
    pub(crate) fn use_with(&self, demand: &ResourceSet) -> i64 {
        let used = |(name, total): (&str, Quantity)| {
            let free = self.available.get(name).0 - demand.get(name).0;
            (total.0 - free).max(0) * FULL / total.0.max(1)
        };
        self.total.iter().map(used).max().unwrap_or(0)
    }
}

/// The whole of a node, in the parts that [`NodeView::use_with`] counts in.
pub(crate) const FULL: i64 = 1_000;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    Node(NodeId),
    /// No node now; one may come.
    Wait(String),
    /// No node, ever.
    Never(String),
}

/// Chooses a node for `demand`. `local` is the node that is asked first, if it is one of `nodes`; `turn` counts the
/// requests that were spread so far.
pub fn choose(
    nodes: &[NodeView],
    local: Option<NodeId>,
    placing: &Placing,
    demand: &ResourceSet,
    turn: &mut usize,
) -> Choice {
    let selected = match labels::select(nodes, &placing.selectors, demand) {
        Ok(selected) => selected,
        Err(why) => return Choice::Wait(why),
    };
    match &placing.strategy {
        Strategy::Default => hybrid::choose(&selected, local, demand),
        Strategy::Spread => spread::choose(&selected, demand, turn),
        Strategy::NodeAffinity {
            node,
            soft,
            spill_on_unavailable,
            fail_on_unavailable,
        } => {
            let wish = node_affinity::Wish {
                node: *node,
                soft: *soft,
                spill_on_unavailable: *spill_on_unavailable,
                fail_on_unavailable: *fail_on_unavailable,
            };
            node_affinity::choose(&selected, local, wish, demand)
        }
        Strategy::NodeLabels { hard, soft } => node_label::choose(&selected, local, (hard, soft), demand),
    }
}

/// Why none of the nodes could ever serve it.
pub fn infeasible(demand: &ResourceSet) -> String {
    format!("no node of this cluster has {demand}")
}

#[cfg(test)]
pub(crate) mod tests {
    use ray_rs_types::placing::LabelRule;

    use super::*;

    pub(crate) fn node(number: u8, cpus: f64, free: f64) -> NodeView {
        NodeView {
            node: NodeId([number; 28]),
            total: ResourceSet::new().with("CPU", cpus),
            available: ResourceSet::new().with("CPU", free),
            labels: BTreeMap::from([("number".to_owned(), number.to_string())]),
        }
    }

    pub(crate) fn cpus(amount: f64) -> ResourceSet {
        ResourceSet::new().with("CPU", amount)
    }

    pub(crate) fn chosen(choice: &Choice) -> Option<u8> {
        match choice {
            Choice::Node(node) => Some(node.0[0]),
            Choice::Wait(_) | Choice::Never(_) => None,
        }
    }

    #[test]
    fn selectors_come_before_the_strategy() {
        let nodes = [node(1, 4.0, 4.0), node(2, 4.0, 4.0)];
        let placing = |number: &str| Placing {
            strategy: Strategy::Default,
            selectors: vec![vec![LabelRule::is("number", number)]],
        };
        let mut turn = 0;
        let here = Some(NodeId([1; 28]));
        assert_eq!(
            chosen(&choose(&nodes, here, &placing("2"), &cpus(1.0), &mut turn)),
            Some(2)
        );
        assert!(matches!(
            choose(&nodes, here, &placing("3"), &cpus(1.0), &mut turn),
            Choice::Wait(_)
        ));
    }
}
