//! What leaves a node in order: actors that wait where there is no room, and everything, when the node is drained.

use std::collections::BTreeMap;

use ray_rs_actors::lifecycle::Event;
use ray_rs_proto::v1::{self, node_command::Body};
use ray_rs_scheduler::placement_group::Event as GroupEvent;
use ray_rs_types::{ActorId, NodeId, ResourceSet};
use tokio::sync::oneshot;

use super::placement_groups::group_demand;
use super::{State, Target};

impl State {
    /// Actors that wait on a node while another has what they want free are asked back, to be sent there. Called when
    /// a node says something new: that it has room, or that somebody waits.
    pub(crate) fn move_waiting_actors(&mut self) {
        if self.nodes.starting.is_empty() || self.nodes.nodes.len() < 2 {
            return;
        }
        let lifecycle = &self.lifecycle;
        (self.nodes.starting)
            .retain(|actor, (place, incarnation)| lifecycle.is_starting_on(*actor, *place, *incarnation));
        let starting = self.nodes.starting.iter();
        let waiting = starting.filter_map(|(actor, (place, incarnation))| {
            let spec = self.actors.spec(*actor).filter(|spec| spec.strategy.is_none())?;
            let wanted: ResourceSet = spec.placement_resources.as_ref().map(Into::into).unwrap_or_default();
            let waits = group_demand(spec).is_none() && self.nodes.waits_there(*place, &wanted);
            waits.then_some((*actor, *place, *incarnation, wanted))
        });
        let mut waiting: Vec<(ActorId, NodeId, u32, ResourceSet)> = waiting.collect();
        if waiting.is_empty() {
            return;
        }
        waiting.sort();
        let mut by_place: BTreeMap<(NodeId, ResourceSet), Vec<v1::AwaitedActor>> = BTreeMap::new();
        for (actor, place, incarnation, wanted) in waiting {
            by_place.entry((place, wanted)).or_default().push(v1::AwaitedActor {
                actor_id: actor.0.to_vec(),
                incarnation,
            });
        }
        let mut offers = self.nodes.offers();
        for ((place, wanted), actors) in by_place {
            let mut count = 0;
            for offer in &mut offers {
                if offer.node == place || !self.nodes.has_room_to_offer(offer.node) {
                    continue;
                }
                let before = count;
                while count < actors.len() && offer.fits(&wanted) {
                    offer.available.subtract(&wanted);
                    count += 1;
                }
                if count > before {
                    self.nodes.offered_to(offer.node, place);
                }
            }
            if count > 0 {
                let order = v1::ReturnActors {
                    actors,
                    count: count as u32,
                };
                self.tell(0, Target::Node(place), Body::ReturnActors(order));
            }
        }
    }

    /// Asks a node to take nothing new, and to leave in its time; its answer comes later.
    pub fn drain_node(
        &mut self,
        request: v1::DrainNodeRequest,
    ) -> Result<oneshot::Receiver<v1::DrainNodeReply>, String> {
        let node = NodeId::from_bytes(&request.node_id).map_err(|error| error.to_string())?;
        let entry = self.nodes.nodes.get_mut(&node);
        let entry = entry.ok_or_else(|| format!("there is no node {node} in this cluster"))?;
        if !entry.info.alive {
            return Err(format!("the node is dead: {}", entry.info.death_reason));
        }
        if entry.info.is_head {
            return Err(
                "it is the head, whose end is the cluster's: end that with `ray_rs stop` on its machine".to_owned(),
            );
        }
        let (sender, receiver) = oneshot::channel();
        entry.drain_askers.push(sender);
        self.tell(0, Target::Node(node), Body::DrainNode(request));
        Ok(receiver)
    }

    /// It has agreed to leave, or says so again on a new connection.
    pub(super) fn node_drains(&mut self, node: NodeId, drain: v1::DrainInfo) {
        let Some(entry) = self.nodes.nodes.get_mut(&node) else {
            return;
        };
        entry.info.drain = Some(drain);
        let info = entry.info.clone();
        self.tell(0, Target::AllNodes, Body::NodeChanged(info));
        self.actor_fact(Event::NodeDrains { node });
        self.group_events([GroupEvent::NodeDrains { node }]);
    }
}
