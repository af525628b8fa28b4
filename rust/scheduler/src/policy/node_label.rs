//! NodeLabel: nodes that meet every hard rule, of those the ones that meet the soft rules, and of those the default's.
//! A node that has room now goes before one that only meets the soft rules.

use ray_rs_types::placing::LabelRule;
use ray_rs_types::{NodeId, ResourceSet};

use super::labels::{describe, meets};
use super::{Choice, NodeView, hybrid};

pub(super) fn choose(
    nodes: &[&NodeView],
    local: Option<NodeId>,
    (hard, soft): (&[LabelRule], &[LabelRule]),
    demand: &ResourceSet,
) -> Choice {
    let possible: Vec<&NodeView> = nodes.iter().copied().filter(|view| meets(view, hard)).collect();
    if possible.is_empty() {
        return Choice::Wait(format!("no node of this cluster has the labels {}", describe(hard)));
    }
    let preferred: Vec<&NodeView> = possible.iter().copied().filter(|view| meets(view, soft)).collect();
    let with_room = |views: &[&NodeView]| {
        let views: Vec<&NodeView> = views.iter().copied().filter(|view| view.fits(demand)).collect();
        hybrid::best(&views, local, demand)
    };
    let best = with_room(&preferred)
        .or_else(|| with_room(&possible))
        .or_else(|| hybrid::best(&preferred, local, demand));
    match best {
        Some(node) => Choice::Node(node),
        None => hybrid::choose(&possible, local, demand),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chosen, cpus, node};
    use super::*;

    #[test]
    fn hard_rules_bind_and_soft_ones_only_prefer() {
        let nodes = [node(1, 4.0, 4.0), node(2, 4.0, 4.0), node(3, 1.0, 1.0)];
        let views: Vec<&NodeView> = nodes.iter().collect();
        let pick =
            |hard: &[LabelRule], soft: &[LabelRule], cpu| chosen(&choose(&views, None, (hard, soft), &cpus(cpu)));
        let is = |number: &str| vec![LabelRule::is("number", number)];
        assert_eq!(pick(&is("2"), &[], 1.0), Some(2));
        assert_eq!(pick(&[], &is("3"), 1.0), Some(3));
        assert_eq!(pick(&[], &is("3"), 2.0), Some(1), "the preferred one could never");
        assert_eq!(pick(&is("4"), &[], 1.0), None);
    }

    #[test]
    fn room_now_goes_before_soft_rules() {
        let nodes = [node(1, 1.0, 1.0), node(2, 1.0, 0.0)];
        let views: Vec<&NodeView> = nodes.iter().collect();
        let soft = [LabelRule::is("number", "2")];
        assert_eq!(chosen(&choose(&views, None, (&[], &soft), &cpus(1.0))), Some(1));
        let nodes = [node(1, 1.0, 0.0), node(2, 1.0, 0.0)];
        let views: Vec<&NodeView> = nodes.iter().collect();
        assert_eq!(
            chosen(&choose(&views, None, (&[], &soft), &cpus(1.0))),
            Some(2),
            "both are full"
        );
    }
}
