//! The default: fill nodes in a fixed order, the local one first, up to half; then the least used.
//!
//! Assumes that a node's use is well told by its fullest resource, and that nodes without GPUs should be taken first by
//! whoever needs none.

use ray_rs_types::resources::GPU;
use ray_rs_types::{NodeId, Quantity, ResourceSet};

use super::{Choice, FULL, NodeView, infeasible};

/// Up to here nodes are filled one after another. Ray's `scheduler_spread_threshold`.
const SPREAD_THRESHOLD: i64 = FULL / 2;

pub(super) fn choose(nodes: &[&NodeView], local: Option<NodeId>, demand: &ResourceSet) -> Choice {
    best(nodes, local, demand).map_or_else(|| Choice::Wait(infeasible(demand)), Choice::Node)
}

/// The best of the nodes that could ever serve it: one with room now, if there is one.
pub(super) fn best(nodes: &[&NodeView], local: Option<NodeId>, demand: &ResourceSet) -> Option<NodeId> {
    let needs_gpu = demand.get(GPU) > Quantity::ZERO;
    let rank = |view: &&&NodeView| {
        let wastes_gpus = !needs_gpu && view.total.get(GPU) > Quantity::ZERO;
        let filled = view.use_with(demand);
        let filled = if filled <= SPREAD_THRESHOLD { 0 } else { filled };
        (
            !view.fits(demand),
            wastes_gpus && Some(view.node) != local,
            filled,
            Some(view.node) != local,
            view.node,
        )
    };
    nodes
        .iter()
        .filter(|view| view.is_feasible(demand))
        .min_by_key(rank)
        .map(|view| view.node)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chosen, cpus, node};
    use super::*;

    fn choose_of(nodes: &[NodeView], local: u8, demand: &ResourceSet) -> Option<u8> {
        let views: Vec<&NodeView> = nodes.iter().collect();
        chosen(&choose(&views, Some(NodeId([local; 28])), demand))
    }

    #[test]
    fn the_local_node_is_filled_to_half_and_then_the_least_used_one() {
        let nodes = [node(1, 4.0, 4.0), node(2, 4.0, 4.0)];
        assert_eq!(choose_of(&nodes, 2, &cpus(2.0)), Some(2));
        let nodes = [node(1, 4.0, 3.0), node(2, 4.0, 2.0)];
        assert_eq!(choose_of(&nodes, 2, &cpus(1.0)), Some(1));
        let nodes = [node(1, 4.0, 1.0), node(2, 4.0, 1.5)];
        assert_eq!(choose_of(&nodes, 1, &cpus(1.0)), Some(2));
    }

    #[test]
    fn room_now_goes_before_room_later() {
        let nodes = [node(1, 8.0, 0.0), node(2, 4.0, 1.0)];
        assert_eq!(choose_of(&nodes, 1, &cpus(1.0)), Some(2));
        assert_eq!(choose_of(&nodes, 1, &cpus(6.0)), Some(1), "only one could ever");
        assert_eq!(choose_of(&nodes, 1, &cpus(9.0)), None);
    }

    #[test]
    fn gpus_are_left_to_those_who_need_them() {
        let mut nodes = [node(1, 4.0, 4.0), node(2, 4.0, 1.0)];
        nodes[0].total.set(GPU, Quantity::from_f64(1.0));
        nodes[0].available.set(GPU, Quantity::from_f64(1.0));
        assert_eq!(choose_of(&nodes, 9, &cpus(1.0)), Some(2));
        assert_eq!(choose_of(&nodes, 9, &cpus(1.0).with(GPU, 1.0)), Some(1));
    }
}
