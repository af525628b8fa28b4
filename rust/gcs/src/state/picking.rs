//! Proposals of nodes for leases: what the global scheduler has to know of strategies and placement groups, and its answer
//! in words of the wire.

use std::time::Duration;

use ray_rs_proto::v1;
use ray_rs_scheduler::bottom_up::{GlobalScheduler, Proposal, Wish};
use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::placing::Placing;
use ray_rs_types::{NodeId, ResourceSet};
use tokio::sync::watch;

use super::State;
use super::placement_groups::GroupPlace;

impl State {
    /// A node for a lease. `waited`: so long it has been asked for one already.
    pub fn pick_node(&mut self, request: &v1::PickNodeRequest, waited: Duration) -> v1::PickNodeReply {
        let resources = request.resources.as_ref().map(ResourceSet::from).unwrap_or_default();
        let among = match BundleDemand::of(&resources).map(|demand| self.groups.place_of(&demand)) {
            None => None,
            Some(GroupPlace::Nodes(nodes)) => Some(nodes),
            Some(GroupPlace::Wait) => return v1::PickNodeReply::default(),
            Some(GroupPlace::Removed) => {
                return v1::PickNodeReply {
                    group_removed: true,
                    ..v1::PickNodeReply::default()
                };
            }
        };
        propose(
            &mut self.nodes.global,
            self.clock.now(),
            request,
            waited,
            among.as_deref(),
        )
    }

    /// For how long nothing changes by itself.
    pub fn until_a_proposal_lapses(&self) -> Option<Duration> {
        let now = self.clock.now();
        self.nodes.global.next_lapse().map(|at| at.saturating_sub(now))
    }

    /// Told whenever a node or a placement group has become able to do more than before, perhaps.
    pub fn cluster_changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// A node for a lease, of those `among` if that is said. `waited`: so long it has been asked for one already.
pub fn propose(
    global: &mut GlobalScheduler,
    now: Duration,
    request: &v1::PickNodeRequest,
    waited: Duration,
    among: Option<&[NodeId]>,
) -> v1::PickNodeReply {
    let resources = request.resources.as_ref().map(ResourceSet::from).unwrap_or_default();
    let from = NodeId::from_bytes(&request.from_node).ok();
    let refusals = request.refused.iter();
    let refused: Vec<(NodeId, u64)> = refusals
        .filter_map(|refusal| Some((NodeId::from_bytes(&refusal.node_id).ok()?, refusal.view)))
        .collect();
    let arguments: Vec<(NodeId, u64)> = (request.arguments.iter())
        .filter_map(|held| Some((NodeId::from_bytes(&held.node_id).ok()?, held.bytes)))
        .collect();
    let strategy = request.strategy.as_ref();
    let placing = strategy.and_then(|strategy| Placing::try_from(strategy).ok());
    // The estimate is as old as the question.
    let wait_here = request.wait_here_us.map(|us| Duration::from_micros(us).max(waited));
    let wish = Wish {
        resources: &resources,
        placing: placing.as_ref(),
        from,
        only_if_free: request.only_if_free,
        wait_here,
        arguments: &arguments,
        refused: &refused,
        among,
    };
    match global.propose(now, wish) {
        Proposal::Node { node, has_room } => v1::PickNodeReply {
            node_id: node.0.to_vec(),
            view: global.view(node),
            has_room,
            ..v1::PickNodeReply::default()
        },
        // To whoever has named nodes it is an answer that the one that asks is one of them.
        Proposal::Stay if placing.is_some() => v1::PickNodeReply {
            node_id: request.from_node.clone(),
            ..v1::PickNodeReply::default()
        },
        Proposal::Stay => v1::PickNodeReply::default(),
        Proposal::Pending(why) | Proposal::Infeasible(why) => v1::PickNodeReply {
            waits_for: why,
            ..v1::PickNodeReply::default()
        },
        Proposal::Never(why) => v1::PickNodeReply {
            never: why,
            ..v1::PickNodeReply::default()
        },
    }
}
