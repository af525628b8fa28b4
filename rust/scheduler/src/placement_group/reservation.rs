//! What is known of each node, and what the table has reserved on it.

use std::collections::BTreeMap;

use ray_rs_types::{NodeId, ResourceSet};
use rustc_hash::FxHashMap;

use crate::policy::NodeView;

#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: FxHashMap<NodeId, Node>,
}

#[derive(Debug)]
struct Node {
    total: ResourceSet,
    labels: BTreeMap<String, String>,
    /// Outside of bundles, by the node's latest word.
    in_use: ResourceSet,
    /// PG-3.
    reserved: ResourceSet,
}

impl Nodes {
    pub fn came(&mut self, node: NodeId, total: ResourceSet, labels: BTreeMap<String, String>) {
        let before = self.nodes.remove(&node);
        let (in_use, reserved) = before.map(|node| (node.in_use, node.reserved)).unwrap_or_default();
        self.nodes.insert(
            node,
            Node {
                total,
                labels,
                in_use,
                reserved,
            },
        );
    }

    /// True when it leaves more free than what was known before.
    pub fn uses(&mut self, node: NodeId, in_use: ResourceSet) -> bool {
        let Some(known) = self.nodes.get_mut(&node) else {
            return false;
        };
        let frees = !in_use.covers(&known.in_use);
        known.in_use = in_use;
        frees
    }

    pub fn died(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    pub fn reserve(&mut self, node: NodeId, resources: &ResourceSet) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.reserved.add(resources);
        }
    }

    pub fn release(&mut self, node: NodeId, resources: &ResourceSet) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.reserved.subtract(resources);
        }
    }

    pub fn set_reserved(&mut self, node: NodeId, resources: ResourceSet) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.reserved = resources;
        }
    }

    pub fn knows(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    pub fn reserved(&self) -> impl Iterator<Item = (NodeId, &ResourceSet)> {
        self.nodes.iter().map(|(node, known)| (*node, &known.reserved))
    }

    pub fn views(&self) -> Vec<NodeView> {
        let view = |(node, known): (&NodeId, &Node)| {
            let mut available = known.total.clone();
            available.subtract(&known.in_use);
            available.subtract(&known.reserved);
            NodeView {
                node: *node,
                total: known.total.clone(),
                available,
                labels: known.labels.clone(),
            }
        };
        self.nodes.iter().map(view).collect()
    }
}
