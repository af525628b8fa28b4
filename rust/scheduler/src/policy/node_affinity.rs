//! NodeAffinity: one node, or (softly) another when that one is gone.

use ray_rs_types::{NodeId, ResourceSet};

use super::{Choice, NodeView, hybrid};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub node: NodeId,
    pub soft: bool,
    pub spill_on_unavailable: bool,
    pub fail_on_unavailable: bool,
}

pub(crate) fn choose(nodes: &[&NodeView], local: Option<NodeId>, wish: Wish, demand: &ResourceSet) -> Choice {
    let named = nodes.iter().find(|view| view.node == wish.node);
    let elsewhere = || hybrid::choose(nodes, local, demand);
    let Some(view) = named.filter(|view| view.is_feasible(demand)) else {
        if wish.soft {
            return elsewhere();
        }
        let why = match named {
            Some(view) => format!("it has {}, and {demand} is asked for", view.total),
            None => "it is not in the cluster, is dead, or has not the labels that are asked for".to_owned(),
        };
        return Choice::Never(format!(
            "the node {} that its NodeAffinitySchedulingStrategy names (soft=False) can't run it: {why}. Name a node \
             of ray_rs.nodes(), or let another node do with soft=True",
            wish.node
        ));
    };
    if view.fits(demand) {
        return Choice::Node(view.node);
    }
    if wish.soft && wish.spill_on_unavailable {
        return elsewhere();
    }
    if !wish.soft && wish.fail_on_unavailable {
        return Choice::Never(format!(
            "the node {} has not {demand} free now, and its strategy says not to wait (_fail_on_unavailable=True)",
            wish.node
        ));
    }
    // Busy: it waits there.
    Choice::Node(view.node)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chosen, cpus, node};
    use super::*;

    fn wish(number: u8, soft: bool) -> Wish {
        Wish {
            node: NodeId([number; 28]),
            soft,
            spill_on_unavailable: false,
            fail_on_unavailable: false,
        }
    }

    #[test]
    fn the_named_node_or_none_unless_soft() {
        let nodes = [node(1, 4.0, 4.0), node(2, 4.0, 0.0)];
        let views: Vec<&NodeView> = nodes.iter().collect();
        let pick = |wish| choose(&views, None, wish, &cpus(1.0));
        assert_eq!(chosen(&pick(wish(2, false))), Some(2), "busy: it waits there");
        assert_eq!(chosen(&pick(wish(9, true))), Some(1));
        let Choice::Never(why) = pick(wish(9, false)) else {
            panic!("it can never run")
        };
        assert!(why.contains("not in the cluster"));
        assert!(matches!(
            choose(&views, None, wish(1, false), &cpus(5.0)),
            Choice::Never(_)
        ));
        let spill = Wish {
            spill_on_unavailable: true,
            ..wish(2, true)
        };
        assert_eq!(chosen(&pick(spill)), Some(1));
        let fail = Wish {
            fail_on_unavailable: true,
            ..wish(2, false)
        };
        assert!(matches!(pick(fail), Choice::Never(_)));
    }
}
