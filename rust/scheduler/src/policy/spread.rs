//! SPREAD: one request to each node after another, those with room first.
//!
//! Assumes that the caller keeps the count of turns; nodes are in the order of their ids.

use ray_rs_types::ResourceSet;

use super::{Choice, NodeView, infeasible};

pub(super) fn choose(nodes: &[&NodeView], demand: &ResourceSet, turn: &mut usize) -> Choice {
    let mut feasible: Vec<&NodeView> = nodes.iter().copied().filter(|view| view.is_feasible(demand)).collect();
    if feasible.is_empty() {
        return Choice::Wait(infeasible(demand));
    }
    feasible.sort_by_key(|view| view.node);
    let first = *turn % feasible.len();
    *turn = turn.wrapping_add(1);
    let in_turn = || feasible[first..].iter().chain(&feasible[..first]);
    let chosen = in_turn().find(|view| view.fits(demand)).unwrap_or(&feasible[first]);
    Choice::Node(chosen.node)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chosen, cpus, node};
    use super::*;

    #[test]
    fn every_node_has_its_turn_and_full_ones_are_passed() {
        let nodes = [node(1, 4.0, 4.0), node(2, 4.0, 0.0), node(3, 4.0, 4.0)];
        let views: Vec<&NodeView> = nodes.iter().collect();
        let mut turn = 0;
        let took: Vec<_> = (0..6).map(|_| chosen(&choose(&views, &cpus(1.0), &mut turn))).collect();
        assert_eq!(took, [1, 3, 3, 1, 3, 3].map(Some));
        let full = [node(1, 4.0, 0.0), node(2, 4.0, 0.0)];
        let views: Vec<&NodeView> = full.iter().collect();
        let took: Vec<_> = (0..2).map(|_| chosen(&choose(&views, &cpus(1.0), &mut turn))).collect();
        assert_eq!(took, [1, 2].map(Some), "where all are full they queue in turns");
    }
}
