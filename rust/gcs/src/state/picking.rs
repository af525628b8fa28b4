//! Proposals of nodes for leases: the global scheduler, and what it has to know of strategies and placement groups.

use std::time::Duration;

use ray_rs_proto::v1;
use ray_rs_scheduler::global::Wish;
use ray_rs_scheduler::policy::{self, Choice};
use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::placing::Placing;
use ray_rs_types::{NodeId, ResourceSet};
use tokio::sync::watch;

use super::State;
use super::placement_groups::GroupPlace;

impl State {
    /// A node for a lease.
    pub fn pick_node(&mut self, request: &v1::PickNodeRequest) -> v1::PickNodeReply {
        let resources = request.resources.as_ref().map(ResourceSet::from).unwrap_or_default();
        let from = NodeId::from_bytes(&request.from_node).ok();
        let refusals = request.refused.iter();
        let refused: Vec<(NodeId, u64)> = refusals
            .filter_map(|refusal| Some((NodeId::from_bytes(&refusal.node_id).ok()?, refusal.view)))
            .collect();
        let wish = Wish {
            resources: &resources,
            from,
            only_if_free: request.only_if_free,
            refused: &refused,
        };
        if let Some(demand) = BundleDemand::of(&resources) {
            return self.pick_bundle(&demand, wish);
        }
        let strategy = request.strategy.as_ref();
        if let Some(placing) = strategy.and_then(|strategy| Placing::try_from(strategy).ok()) {
            return self.pick_by(&placing, wish);
        }
        let node = self.nodes.global.pick(self.started.elapsed(), wish);
        self.picked(node)
    }

    fn picked(&self, node: Option<NodeId>) -> v1::PickNodeReply {
        v1::PickNodeReply {
            node_id: node.map(|node| node.0.to_vec()).unwrap_or_default(),
            view: node.map(|node| self.nodes.global.view(node)).unwrap_or_default(),
            ..v1::PickNodeReply::default()
        }
    }

    fn promised(&mut self, node: NodeId, resources: &ResourceSet) -> v1::PickNodeReply {
        self.nodes.global.promise(self.started.elapsed(), node, resources);
        self.picked(Some(node))
    }

    fn pick_by(&mut self, placing: &Placing, wish: Wish<'_>) -> v1::PickNodeReply {
        let mut offers = self.nodes.offers();
        let turn = &mut self.nodes.spread_turn;
        let mut choice = policy::choose(&offers, wish.from, placing, wish.resources, turn);
        if let Choice::Node(node) = choice
            && self.nodes.global.has_refused(node, wish.refused)
        {
            offers.retain(|offer| !self.nodes.global.has_refused(offer.node, wish.refused));
            choice = match policy::choose(&offers, wish.from, placing, wish.resources, turn) {
                Choice::Node(other) => Choice::Node(other),
                // It is there, and only has no room.
                Choice::Wait(_) | Choice::Never(_) => Choice::Wait(String::new()),
            };
        }
        match choice {
            Choice::Node(node) => self.promised(node, wish.resources),
            Choice::Wait(why) => v1::PickNodeReply {
                waits_for: why,
                ..v1::PickNodeReply::default()
            },
            Choice::Never(why) => v1::PickNodeReply {
                never: why,
                ..v1::PickNodeReply::default()
            },
        }
    }

    /// What is in a placement group goes to one of its nodes.
    fn pick_bundle(&mut self, demand: &BundleDemand, wish: Wish<'_>) -> v1::PickNodeReply {
        let nodes = match self.groups.place_of(demand) {
            GroupPlace::Nodes(nodes) => nodes,
            GroupPlace::Wait => return self.picked(None),
            GroupPlace::Removed => {
                return v1::PickNodeReply {
                    group_removed: true,
                    ..v1::PickNodeReply::default()
                };
            }
        };
        let global = &self.nodes.global;
        let others = || {
            let nodes = nodes.iter().copied();
            nodes.filter(|node| Some(*node) != wish.from && !global.has_refused(*node, wish.refused))
        };
        let roomy = others().find(|node| global.free(*node).covers(wish.resources));
        match roomy.or_else(|| others().next().filter(|_| !wish.only_if_free)) {
            Some(node) => self.promised(node, wish.resources),
            None => self.picked(None),
        }
    }

    /// For how long nothing changes by itself.
    pub fn until_a_proposal_lapses(&self) -> Option<Duration> {
        let now = self.started.elapsed();
        self.nodes.global.next_lapse().map(|at| at.saturating_sub(now))
    }

    /// Told whenever a node or a placement group has become able to do more than before, perhaps.
    pub fn cluster_changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}
