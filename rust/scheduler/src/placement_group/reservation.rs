//! What is known of each node, and what the table has reserved on it.

use std::collections::BTreeMap;

use ray_rs_types::{NodeId, ResourceSet};

use crate::policy::bundle::BundleSpec;
use crate::policy::{NodeView, labels};

/// Nodes that are compared for one group where there are many more.
const SOME: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// In the order that plans are made in.
    nodes: BTreeMap<NodeId, Node>,
    /// Where the next look at some nodes begins.
    turn: Option<NodeId>,
}

#[derive(Debug)]
struct Node {
    /// What is available is what is neither in use nor reserved.
    view: NodeView,
    /// Outside of bundles, by the node's latest word.
    in_use: ResourceSet,
    /// PG-3.
    reserved: ResourceSet,
    /// It is about to leave, and takes nothing new.
    drains: bool,
}

impl Node {
    fn count_available(&mut self) {
        self.view.available.clone_from(&self.view.total);
        self.view.available.subtract(&self.in_use);
        self.view.available.subtract(&self.reserved);
    }
}

impl Nodes {
    pub fn came(&mut self, node: NodeId, total: ResourceSet, labels: BTreeMap<String, String>) {
        let before = self.nodes.remove(&node);
        let before = before.map(|node| (node.in_use, node.reserved, node.drains));
        let (in_use, reserved, drains) = before.unwrap_or_default();
        let view = NodeView {
            node,
            available: ResourceSet::new(),
            total,
            labels,
        };
        let mut known = Node {
            view,
            in_use,
            reserved,
            drains,
        };
        known.count_available();
        self.nodes.insert(node, known);
    }

    /// True when it leaves more free than what was known before.
    pub fn uses(&mut self, node: NodeId, in_use: ResourceSet) -> bool {
        let Some(known) = self.nodes.get_mut(&node) else {
            return false;
        };
        let frees = !in_use.covers(&known.in_use);
        known.in_use = in_use;
        known.count_available();
        frees
    }

    pub fn drains(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.drains = true;
        }
    }

    pub fn died(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    pub fn reserve(&mut self, node: NodeId, resources: &ResourceSet) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.reserved.add(resources);
            known.view.available.subtract(resources);
        }
    }

    pub fn release(&mut self, node: NodeId, resources: &ResourceSet) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.reserved.subtract(resources);
            known.view.available.add(resources);
        }
    }

    pub fn set_reserved(&mut self, node: NodeId, resources: ResourceSet) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.reserved = resources;
            known.count_available();
        }
    }

    pub fn knows(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    pub fn reserved(&self) -> impl Iterator<Item = (NodeId, &ResourceSet)> {
        self.nodes.iter().map(|(node, known)| (*node, &known.reserved))
    }

    /// Of those that take something new.
    pub fn views(&self) -> impl Iterator<Item = &NodeView> {
        let open = self.nodes.values().filter(|node| !node.drains);
        open.map(|node| &node.view)
    }

    /// Of a large cluster the next nodes in turn that take one of the bundles. `None`: it is small, or nearly full, and all
    /// are to be looked at.
    pub fn some_views(&mut self, bundles: &[BundleSpec]) -> Option<Vec<&NodeView>> {
        let needed = SOME.max(bundles.len() * 4);
        if self.nodes.len() < 2 * needed {
            return None;
        }
        let start = self.turn.unwrap_or(NodeId([0; NodeId::SIZE]));
        let in_turn = self.nodes.range(start..).chain(self.nodes.range(..start));
        let roomy = in_turn
            .filter(|(_, node)| !node.drains)
            .map(|(_, node)| &node.view)
            .filter(|view| takes_one(view, bundles));
        let some: Vec<&NodeView> = roomy.take(needed).collect();
        self.turn = some.last().map(|view| view.node);
        (some.len() == needed).then_some(some)
    }

    /// Whether one of the bundles finds room there.
    pub fn takes_one_of(&self, node: NodeId, bundles: &[BundleSpec]) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|known| !known.drains && takes_one(&known.view, bundles))
    }
}

fn takes_one(view: &NodeView, bundles: &[BundleSpec]) -> bool {
    let mut bundles = bundles.iter();
    bundles.any(|bundle| view.fits(&bundle.resources) && labels::meets(view, &bundle.labels))
}
