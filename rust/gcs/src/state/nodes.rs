//! Nodes: who they are, what they have free, and the channel to each.

use std::collections::BTreeMap;
use std::time::Duration;

use ray_rs_actors::lifecycle::{Effect, Event};
use ray_rs_proto::v1::{self, NodeCommand, node_command::Body, node_report};
use ray_rs_scheduler::bottom_up::heartbeat::Heard;
use ray_rs_scheduler::bottom_up::{GlobalScheduler, NodeReport, ShapeDemand};
use ray_rs_scheduler::placement_group::Event as GroupEvent;
use ray_rs_scheduler::policy::{self, Choice, NodeView};
use ray_rs_transport::relay;
use ray_rs_types::placing::{Placing, Strategy};
use ray_rs_types::{ActorId, NodeId, ResourceSet, WorkerAddress, WorkerId};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tonic::Status;

use super::actors::actor_id;
use super::followers::{Followers, NodeNewsStream};
use super::hearing::FollowedWorkers;
use super::placement_groups::{GroupPlace, group_demand};
use super::{State, Target};
use crate::convert;
use crate::storage::{Table, Write};

/// Commands that may wait for a node to read them. One that lags further is cut off: it connects anew and is told how
/// things stand.
const MAX_WAITING_COMMANDS: usize = 1 << 16;
/// A node whose connection has broken may be away for so long before it counts as dead.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(3);

/// What goes down a node's channel.
pub type NodeCommands = Receiver<Result<NodeCommand, Status>>;

/// A node that just registered.
#[derive(Debug)]
pub struct NodeRegistration {
    pub node: NodeId,
    /// Tells this connection of the node from later ones.
    pub connection: u64,
    pub commands: NodeCommands,
}

#[derive(Debug, Default)]
pub(super) struct Nodes {
    pub(super) nodes: FxHashMap<NodeId, Node>,
    /// Given out so far; the first node's is 1.
    last_index: u32,
    connections: u64,
    /// Of nodes that registered with an earlier gcs.
    indices: FxHashMap<NodeId, u32>,
    /// Of nodes that were declared dead: none comes back, since its work was given to others.
    dead: FxHashSet<NodeId>,
    /// Actors that were spread so far.
    pub(super) spread_turn: usize,
    /// Actors whose users know what they wait for.
    told_of_waiting: FxHashSet<ActorId>,
    /// Actors that a node was told to start and has said nothing of; some that have ended meanwhile may be among them.
    pub(super) starting: FxHashMap<ActorId, (NodeId, u32)>,
    pub(super) global: GlobalScheduler,
    /// Nodes that an earlier process knew have not come to this one yet.
    some_are_absent: bool,
    /// Replicas of the global scheduler.
    pub(super) followers: Followers,
    pub(super) followed_workers: FollowedWorkers,
    /// What the head node was built of; nodes that differ are not let in.
    versions: Option<String>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) info: v1::NodeInfo,
    /// `None` while the node is not connected.
    commands: Option<Sender<Result<NodeCommand, Status>>>,
    connection: u64,
    /// When it said something last.
    pub(super) heard: Duration,
    /// When it said that it is idle; `None`: it is in use, or has not said.
    idle_since: Option<Duration>,
    /// What it had said last, and who was offered its room then, and what that had said.
    offered: Option<(u64, NodeId, u64)>,
    /// Who waits for its answer to an order to drain.
    pub(super) drain_askers: Vec<oneshot::Sender<v1::DrainNodeReply>>,
}

impl Nodes {
    pub(super) fn restore_index(&mut self, node: NodeId, index: u32) {
        self.last_index = self.last_index.max(index);
        self.indices.insert(node, index);
    }

    pub(super) fn restore_death(&mut self, node: NodeId) {
        self.dead.insert(node);
    }

    /// What is stored of a node.
    fn record(&self, node: NodeId) -> Write {
        let mut value = self.indices.get(&node).copied().unwrap_or(0).to_le_bytes().to_vec();
        value.extend(self.dead.contains(&node).then_some(1));
        Write {
            table: Table::Nodes,
            key: node.0.to_vec(),
            value: Some(value.into()),
        }
    }

    pub(super) fn send(&mut self, target: Target, command: NodeCommand) {
        match target {
            Target::Node(id) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.send(command);
                }
            }
            Target::AllNodes => {
                for node in self.nodes.values_mut() {
                    node.send(command.clone());
                }
            }
        }
    }

    /// Those that were ever registered, and not declared dead.
    pub(super) fn known_living(&self) -> impl Iterator<Item = NodeId> {
        self.indices.keys().copied().filter(|node| !self.dead.contains(node))
    }

    /// The connection that a living node has or had last; none of one that has not come to this process.
    pub(super) fn connection_of(&self, node: NodeId) -> Option<u64> {
        self.nodes.get(&node).map(|entry| entry.connection)
    }

    /// Whether it is neither here nor known to be dead: its connection has ended, or it has not come yet to a control store
    /// that was started again.
    fn may_come_back(&self, node: NodeId) -> bool {
        let is_connected = || self.nodes.get(&node).is_some_and(|entry| entry.commands.is_some());
        self.indices.contains_key(&node) && !self.dead.contains(&node) && !is_connected()
    }

    /// Until all have come, or are dead, that an earlier process knew, nothing that a node is asked for is impossible.
    pub(super) fn look_for_absent_ones(&mut self) {
        let is_partial = self.known_living().any(|node| self.connection_of(node).is_none());
        self.some_are_absent = is_partial;
        self.global.set_partial(is_partial);
    }

    /// The same when one of them may have come, or died.
    fn fewer_are_absent(&mut self) {
        if self.some_are_absent {
            self.look_for_absent_ones();
        }
    }

    pub(super) fn disconnect_all(&mut self) {
        for node in self.nodes.values_mut() {
            node.commands = None;
        }
    }

    /// What it said when it registered; its first heartbeat on the connection says it anew.
    fn report(&mut self, now: Duration, node: NodeId) {
        let Some(info) = self.nodes.get(&node).map(|node| &node.info) else {
            return;
        };
        let set = |set: &Option<v1::ResourceSet>| set.as_ref().map(ResourceSet::from).unwrap_or_default();
        let report = NodeReport {
            total: set(&info.total),
            available: set(&info.available),
            labels: info.labels.clone().into_iter().collect(),
            draining: info.drain.is_some(),
            ..NodeReport::default()
        };
        self.followers.node_changed(node, &report);
        self.global.node_reported(now, node, report);
    }

    /// Empty when it is not known.
    pub(super) fn ip_of(&self, node: NodeId) -> String {
        self.nodes
            .get(&node)
            .map_or_else(String::new, |node| node.info.address.clone())
    }

    /// Whether other nodes may join: then what no node can take waits for one that can.
    fn may_grow(&self) -> bool {
        self.nodes.values().any(|node| !node.info.raylet_address.is_empty())
    }

    /// Whether something that asks for this waits on the node, by what it has said last.
    pub(super) fn waits_there(&self, node: NodeId, wanted: &ResourceSet) -> bool {
        let report = self.global.report(node);
        report.is_some_and(|report| report.backlog.contains_key(wanted))
    }

    /// Whether the node's room was not offered yet to what waits on another, as the two are now. What was asked back for it
    /// is on its way, and nothing is asked for twice.
    pub(super) fn has_room_to_offer(&self, node: NodeId) -> bool {
        let offered = self.nodes.get(&node).and_then(|entry| entry.offered);
        offered
            .is_none_or(|(view, place, its_view)| view != self.global.view(node) || its_view != self.global.view(place))
    }

    pub(super) fn offered_to(&mut self, node: NodeId, place: NodeId) {
        let offered = (self.global.view(node), place, self.global.view(place));
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.offered = Some(offered);
        }
    }

    /// The nodes that can be told to do something new.
    pub(super) fn offers(&self) -> Vec<NodeView> {
        let connected = self
            .nodes
            .iter()
            .filter(|(_, node)| node.info.alive && node.commands.is_some() && node.info.drain.is_none());
        let mut offers: Vec<NodeView> = connected
            .map(|(id, node)| NodeView {
                node: *id,
                total: node.info.total.as_ref().map(ResourceSet::from).unwrap_or_default(),
                available: self.global.free(*id),
                labels: node.info.labels.clone().into_iter().collect(),
            })
            .collect();
        offers.sort_by_key(|offer| offer.node);
        offers
    }

    /// Why a node cannot be part of this cluster.
    fn why_refused(&mut self, node: NodeId, info: &v1::NodeInfo) -> Option<String> {
        if self.dead.contains(&node) {
            let known = self.nodes.get(&node).map(|known| known.info.death_reason.as_str());
            return Some(format!(
                "the node {node} was declared dead ({}), and what it did was given to others: start it anew",
                known
                    .filter(|reason| !reason.is_empty())
                    .unwrap_or("before the control store restarted")
            ));
        }
        if let Some(known) = self
            .nodes
            .get(&node)
            .filter(|known| known.info.incarnation != info.incarnation)
        {
            return Some(format!(
                "there is a node {node} already, at {}: two nodes can't have one id",
                known.info.raylet_address
            ));
        }
        let nonsense = |set: &Option<v1::ResourceSet>| {
            let set = set.as_ref().map(ResourceSet::from).unwrap_or_default();
            set.iter()
                .find(|(_, amount)| amount.0 < 0)
                .map(|(name, amount)| format!("{} {name}", amount.to_f64()))
        };
        if let Some(amount) = nonsense(&info.total) {
            return Some(format!("a node can't have {amount}"));
        }
        let ours = self.versions.get_or_insert_with(|| info.versions.clone());
        (*ours != info.versions).then(|| {
            format!(
                "the cluster runs {ours}, and the node that wants to join runs {}: all nodes must be of one version",
                info.versions
            )
        })
    }
}

/// Where an actor goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Node(NodeId),
    /// No node yet: asked again as nodes and groups come.
    Wait,
    Never(String),
    GroupRemoved,
}

impl Node {
    fn send(&mut self, command: NodeCommand) {
        let Some(commands) = &self.commands else { return };
        match commands.try_send(Ok(command)) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => {
                let index = self.info.node_index;
                tracing::warn!(index, "cut off a node that does not read its commands");
            }
            // Its connection has ended, of which `follow` will tell.
            Err(TrySendError::Closed(_)) => {}
        }
        self.commands = None;
    }
}

/// The node for an actor of which nothing is said: one with room now before one with room later, then the one with the
/// most processors free. When none could ever take it, some node gets it all the same, and tells the user what is missing.
fn choose_node(offers: &[NodeView], wanted: &ResourceSet) -> Option<NodeId> {
    let rank = |offer: &NodeView| {
        (
            offer.fits(wanted),
            offer.is_feasible(wanted),
            offer.available.get("CPU"),
        )
    };
    // Of equals the lowest id, so that the choice is the same every time.
    let better = |a: &&NodeView, b: &&NodeView| rank(a).cmp(&rank(b)).then(b.node.cmp(&a.node));
    offers.iter().max_by(better).map(|offer| offer.node)
}

/// The only node that may be chosen.
fn named(placing: &Placing) -> Option<NodeId> {
    match placing.strategy {
        Strategy::NodeAffinity { node, soft: false, .. } => Some(node),
        Strategy::NodeAffinity { soft: true, .. }
        | Strategy::Default
        | Strategy::Spread
        | Strategy::NodeLabels { .. } => None,
    }
}

impl State {
    /// The nodes that may get something to do.
    #[cfg(test)]
    pub fn offered_nodes(&self) -> Vec<NodeId> {
        self.nodes.offers().into_iter().map(|offer| offer.node).collect()
    }

    /// Where a living node listens for others.
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        let info = &self.nodes.nodes.get(&node)?.info;
        let address = &info.raylet_address;
        let listens = info.alive && !address.is_empty() && relay::node_behind(address).is_none();
        listens.then(|| address.clone())
    }

    pub(super) fn place_for(&mut self, actor: ActorId) -> Place {
        let Some(spec) = self.actors.spec(actor) else {
            return Place::Wait;
        };
        let offers = self.nodes.offers();
        if let Some(demand) = group_demand(spec) {
            return match self.groups.place_of(&demand) {
                GroupPlace::Removed => Place::GroupRemoved,
                GroupPlace::Wait => Place::Wait,
                GroupPlace::Nodes(nodes) => offers
                    .iter()
                    .find(|offer| nodes.contains(&offer.node))
                    .map_or(Place::Wait, |offer| Place::Node(offer.node)),
            };
        }
        let wanted = spec
            .placement_resources
            .as_ref()
            .map(ResourceSet::from)
            .unwrap_or_default();
        let placing = spec
            .strategy
            .as_ref()
            .and_then(|strategy| Placing::try_from(strategy).ok());
        if self.nodes.may_grow() && !offers.is_empty() && !offers.iter().any(|offer| offer.is_feasible(&wanted)) {
            self.tell_of_waiting_actor(actor, &format!("no node of this cluster has {wanted}"));
            return Place::Wait;
        }
        let place = match placing.filter(|_| !offers.is_empty()) {
            None => choose_node(&offers, &wanted).map_or(Place::Wait, Place::Node),
            Some(placing) => self.place_by(actor, &offers, &placing, &wanted),
        };
        if let Place::Node(node) = place {
            self.nodes.global.promise(self.clock.now(), node, &wanted);
        }
        place
    }

    fn place_by(&mut self, actor: ActorId, offers: &[NodeView], placing: &Placing, wanted: &ResourceSet) -> Place {
        let may_come_back = named(placing).is_some_and(|node| self.nodes.may_come_back(node));
        let mut ask = |demand: &ResourceSet| policy::choose(offers, None, placing, demand, &mut self.nodes.spread_turn);
        match ask(wanted) {
            Choice::Node(node) => Place::Node(node),
            Choice::Never(_) if may_come_back => Place::Wait,
            Choice::Never(why) => Place::Never(why),
            // Its raylet tells the user what is missing; labels that no node has are told from here.
            Choice::Wait(why) => match ask(&ResourceSet::new()) {
                Choice::Node(node) if !self.nodes.may_grow() => Place::Node(node),
                Choice::Node(_) | Choice::Wait(_) | Choice::Never(_) => {
                    self.tell_of_waiting_actor(actor, &why);
                    Place::Wait
                }
            },
        }
    }

    /// Once for each actor.
    fn tell_of_waiting_actor(&mut self, actor: ActorId, why: &str) {
        let Some(spec) = self
            .actors
            .spec(actor)
            .filter(|_| self.nodes.told_of_waiting.insert(actor))
        else {
            return;
        };
        let notice = v1::JobNotice {
            job_id: spec.job_id.clone(),
            text: format!(
                "The actor {} can't be placed: {why}. It waits until such a node joins. Name nodes with the option \
                 labels of ray_rs.init(), or ask for others.",
                spec.class_name
            ),
        };
        self.tell(0, Target::AllNodes, Body::JobNotice(notice));
    }

    /// A node connects, for the first time or again. It is told its index, then how things stand: every actor's
    /// status, and what it is to start.
    /// `bound`: it is declared dead when it was not heard for so long; `None`: the kernel tells of its end.
    pub fn register_node(&mut self, info: v1::NodeInfo, bound: Option<Duration>) -> Result<NodeRegistration, Status> {
        let node = NodeId::from_bytes(&info.node_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let nodes = &mut self.nodes;
        if let Some(refused) = nodes.why_refused(node, &info) {
            return Err(Status::failed_precondition(refused));
        }
        nodes.connections += 1;
        let connection = nodes.connections;
        let (index, writes) = match nodes.indices.get(&node) {
            Some(index) => (*index, Vec::new()),
            None => {
                nodes.restore_index(node, nodes.last_index + 1);
                (nodes.last_index, vec![nodes.record(node)])
            }
        };
        let (sender, commands) = channel(MAX_WAITING_COMMANDS);
        let info = v1::NodeInfo {
            alive: true,
            node_index: index,
            ..info
        };
        nodes.nodes.insert(
            node,
            Node {
                info,
                commands: Some(sender),
                connection,
                heard: self.clock.now(),
                idle_since: None,
                offered: None,
                drain_askers: Vec::new(),
            },
        );
        nodes.report(self.clock.now(), node);
        nodes.fewer_are_absent();
        self.changes.send_replace(());
        let number = self.committer.submit(writes);
        self.tell(
            number,
            Target::Node(node),
            Body::Accepted(v1::NodeAccepted {
                node_index: index,
                session: self.session.clone(),
                bound_ms: bound.map_or(0, |bound| bound.as_millis() as u32),
            }),
        );
        self.tell_of_nodes(node);
        self.tell_of_schedulers(Target::Node(node));
        self.tell_how_things_stand(node);
        Ok(NodeRegistration {
            node,
            connection,
            commands,
        })
    }

    /// A session of one node hears nothing of this.
    fn tell_of_nodes(&mut self, came: NodeId) {
        if self.nodes.nodes.len() < 2 {
            return;
        }
        let others: Vec<v1::NodeInfo> = self
            .nodes
            .nodes
            .iter()
            .filter(|(id, _)| **id != came)
            .map(|(_, node)| node.info.clone())
            .collect();
        for info in others {
            self.tell(0, Target::Node(came), Body::NodeChanged(info));
        }
        if let Some(info) = self.nodes.nodes.get(&came).map(|node| node.info.clone()) {
            self.tell(0, Target::AllNodes, Body::NodeChanged(info));
        }
    }

    fn tell_how_things_stand(&mut self, node: NodeId) {
        for actor in self.actors.all() {
            if let Some(update) = self.published(actor) {
                self.tell(0, Target::Node(node), Body::ActorUpdate(update));
            }
        }
        // Orders that may have been lost with an earlier connection.
        for (actor, incarnation) in self.lifecycle.starting_on(node) {
            self.perform(
                &Effect::StartOnNode {
                    actor,
                    node,
                    incarnation,
                },
                self.committer.last(),
            );
        }
        // They waited because no node was connected: any node takes an actor, if only to say what is missing.
        self.choose_for_the_waiting();
    }

    fn choose_for_the_waiting(&mut self) {
        let waiting = self.lifecycle.waiting_for_node();
        self.perform_all(waiting.into_iter().map(|actor| Effect::ChooseNode { actor }).collect());
    }

    /// One report of a connected node. `now_ms`: milliseconds since the epoch.
    pub fn node_report(&mut self, node: NodeId, report: v1::NodeReport, now_ms: u64) -> Result<(), Status> {
        use node_report::Body as Report;
        let invalid = |error: ray_rs_types::IdError| Status::invalid_argument(error.to_string());
        self.node_heard(node);
        match report.body {
            Some(Report::Heartbeat(heartbeat)) => {
                let Some(entry) = self.nodes.nodes.get_mut(&node) else {
                    return Ok(());
                };
                entry.info.leases = heartbeat.leases;
                let (now, mut beat) = (self.clock.now(), convert::heartbeat(&heartbeat));
                if beat.base == 0 {
                    // It said them when it registered, and they stay.
                    beat.labels = Some(entry.info.labels.clone().into_iter().collect());
                }
                // What is lost is what was meant for an earlier connection: the first on this one says everything.
                let heard = self.nodes.global.hear(now, node, beat);
                if heard == Heard::Changed
                    && let Some(report) = self.nodes.global.report(node)
                {
                    entry.info.available = Some((&report.available).into());
                    entry.info.backlog = report.waiting();
                    self.nodes.followers.node_changed(node, report);
                }
                if let Some(is_idle) = heartbeat.idle {
                    entry.idle_since = is_idle.then_some(now);
                }
                if heartbeat.first {
                    let info = entry.info.clone();
                    self.node_holds(node, &info, &heartbeat.held);
                }
                if let Some(drain) = heartbeat.drain {
                    self.node_drains(node, drain);
                } else if heard == Heard::Changed {
                    self.move_waiting_actors();
                }
                self.changes.send_replace(());
                let in_use = heartbeat.used_outside_bundles.as_ref();
                self.group_events([GroupEvent::NodeUse {
                    node,
                    in_use: in_use.map(ResourceSet::from).unwrap_or_default(),
                }]);
            }
            Some(Report::ActorAssigned(assigned)) => {
                let actor = actor_id(&assigned.actor_id)?;
                self.nodes.starting.remove(&actor);
                let worker = assigned
                    .worker
                    .ok_or_else(|| Status::invalid_argument("there is no worker"))?;
                let worker = WorkerAddress::try_from(&worker).map_err(invalid)?;
                self.actor_fact(Event::Assigned {
                    actor,
                    incarnation: assigned.incarnation,
                    worker,
                });
            }
            Some(Report::ActorStartFailed(failed)) if failed.given_back => {
                let (actor, incarnation) = (actor_id(&failed.actor_id)?, failed.incarnation);
                self.nodes.starting.remove(&actor);
                self.actor_fact(Event::StartDeclined { actor, incarnation });
            }
            Some(Report::ActorStartFailed(failed)) => {
                let actor = actor_id(&failed.actor_id)?;
                self.nodes.starting.remove(&actor);
                let (incarnation, message) = (failed.incarnation, failed.message);
                self.actor_fact(Event::StartFailed {
                    actor,
                    incarnation,
                    message,
                    environment_failed: failed.environment_failed,
                });
            }
            Some(Report::WorkerDied(died)) => {
                let worker = WorkerId::from_bytes(&died.worker_id).map_err(invalid)?;
                let message = convert::end_of_process(died.report.as_ref());
                if !died.driver_job_id.is_empty() {
                    drop(self.finish_job(&died.driver_job_id, now_ms)?);
                }
                self.note_dead_worker(node, died, now_ms);
                self.actor_fact(Event::WorkerDied { worker, message });
                self.tell_who_follows(node, |gone| gone == worker);
            }
            Some(Report::WorkerNotHere(asked)) => {
                let worker = WorkerId::from_bytes(&asked.worker_id).map_err(invalid)?;
                self.tell_who_follows(node, |gone| gone == worker);
            }
            Some(Report::FollowWorker(followed)) => self.worker_followed(node, &followed)?,
            Some(Report::Processes(living)) => self.node_has_processes(node, &living, now_ms)?,
            Some(Report::CreateGroup(spec)) => self.group_wanted(node, spec, now_ms)?,
            Some(Report::RemoveGroup(request)) => self.group_unwanted(&request.group_id)?,
            Some(Report::FollowGroup(request)) => self.group_followed(node, &request.group_id)?,
            Some(Report::BundlesPrepared(answer)) => self.bundles_prepared(node, &answer)?,
            Some(Report::DrainAnswered(answer)) => {
                let asked = self.nodes.nodes.get_mut(&node);
                for asker in asked
                    .map(|entry| std::mem::take(&mut entry.drain_askers))
                    .unwrap_or_default()
                {
                    // Who has given up waiting sees it in the list of nodes.
                    let _ = asker.send(answer.clone());
                }
            }
            // No flush is waited for: it concludes nothing of what was told before.
            Some(Report::AsksWhetherHeard(number)) => self.order(node, Body::Heard(number)),
            Some(Report::Registered(_)) => return Err(Status::invalid_argument("the node has registered already")),
            // A report that only a newer raylet knows.
            None => {}
        }
        Ok(())
    }

    /// The node's connection ended; false when it has a newer one already.
    pub fn node_disconnected(&mut self, node: NodeId, connection: u64) -> bool {
        match self
            .nodes
            .nodes
            .get_mut(&node)
            .filter(|entry| entry.connection == connection)
        {
            Some(entry) => {
                entry.commands = None;
                true
            }
            None => false,
        }
    }

    /// The node did not come back: what ran on it is dead.
    pub fn node_died(&mut self, node: NodeId, connection: u64, reason: &str, now_ms: u64) {
        let Some(entry) = self.nodes.nodes.get_mut(&node) else {
            return;
        };
        if entry.connection != connection || !entry.info.alive {
            return;
        }
        entry.info.alive = false;
        entry.drain_askers.clear();
        entry.info.death_reason = reason.to_owned();
        let info = entry.info.clone();
        // It learns of it on the connection that it may still have, or when it comes back.
        entry.commands = None;
        self.nodes.dead.insert(node);
        self.bury(node, info, now_ms);
    }

    /// Tells everybody of a node that is among the dead from now on.
    pub(super) fn bury(&mut self, node: NodeId, info: v1::NodeInfo, now_ms: u64) {
        self.committer.submit_unawaited(vec![self.nodes.record(node)]);
        self.nodes.global.node_gone(node);
        // Who follows a process of it knows by the node's death.
        self.nodes.followed_workers.remove(&node);
        self.nodes.followers.node_gone(node);
        self.nodes.fewer_are_absent();
        self.changes.send_replace(());
        self.tell(0, Target::AllNodes, Body::NodeChanged(info));
        self.drivers_died(now_ms, |driver| driver.node_id == node.0);
        self.actor_fact(Event::NodeDied { node });
        // Some may have waited for this very node.
        self.choose_for_the_waiting();
        self.group_events([GroupEvent::NodeDied { node }]);
    }

    /// The node ends in order.
    pub fn node_left(&mut self, request: &v1::LeaveClusterRequest, now_ms: u64) -> Result<(), Status> {
        let node = NodeId::from_bytes(&request.node_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(connection) = self.nodes.nodes.get(&node).map(|entry| entry.connection) {
            let reason = match request.reason.as_str() {
                "" => "it was stopped",
                reason => reason,
            };
            self.node_died(node, connection, reason, now_ms);
        }
        Ok(())
    }

    /// A replica of the global scheduler wants to know what nodes there are; its number, and what it is told.
    pub fn follow_nodes(&mut self, address: String) -> (u64, NodeNewsStream) {
        let nodes = self.nodes.nodes.iter().filter(|(_, node)| node.info.alive);
        let reports = nodes.filter_map(|(id, _)| Some((*id, self.nodes.global.report(*id)?)));
        let following = self.nodes.followers.add(address, reports);
        self.tell_of_schedulers(Target::AllNodes);
        following
    }

    pub fn follower_gone(&mut self, number: u64) {
        if self.nodes.followers.remove(number) {
            self.tell_of_schedulers(Target::AllNodes);
        }
    }

    fn tell_of_schedulers(&mut self, whom: Target) {
        let addresses = self.nodes.followers.addresses();
        if whom == Target::AllNodes || !addresses.is_empty() {
            self.tell(0, whom, Body::Schedulers(v1::Schedulers { addresses }));
        }
    }

    pub fn list_nodes(&self) -> v1::ListNodesReply {
        let now = self.clock.now();
        let info = |node: &Node| v1::NodeInfo {
            idle_ms: (node.idle_since.filter(|_| node.info.alive)).map(|since| (now - since).as_millis() as u64),
            ..node.info.clone()
        };
        let mut nodes: Vec<v1::NodeInfo> = self.nodes.nodes.values().map(info).collect();
        nodes.sort_by_key(|info| info.node_index);
        let waiting = self.nodes.global.demand().into_iter();
        v1::ListNodesReply {
            nodes,
            waiting: waiting.map(shape_count).collect(),
            waiting_actors: self.actors_without_node().into_iter().map(shape_count).collect(),
            requested: self.requested_shapes(),
            autoscaler: self.autoscaler_report.clone(),
        }
    }

    /// What the actors ask for that no node was chosen for, by shape.
    pub(super) fn actors_without_node(&self) -> Vec<ShapeDemand> {
        let mut by_shape: BTreeMap<ResourceSet, u32> = BTreeMap::new();
        for actor in self.lifecycle.waiting_for_node() {
            let spec = self.actors.spec(actor);
            let wanted = spec.and_then(|spec| spec.placement_resources.as_ref());
            *by_shape
                .entry(wanted.map(ResourceSet::from).unwrap_or_default())
                .or_default() += 1;
        }
        let of_shape = |(shape, waiting): (ResourceSet, u32)| ShapeDemand {
            is_feasible: self.nodes.global.could_serve(&shape),
            shape,
            waiting,
        };
        by_shape.into_iter().map(of_shape).collect()
    }
}

fn shape_count(demand: ShapeDemand) -> v1::ShapeCount {
    v1::ShapeCount {
        resources: Some((&demand.shape).into()),
        count: demand.waiting,
        why: match demand.is_feasible {
            true => "the nodes that have it are in use".to_owned(),
            false => policy::infeasible(&demand.shape),
        },
        infeasible: !demand.is_feasible,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(number: u8, total: f64, available: f64) -> NodeView {
        let cpus = |amount| ResourceSet::new().with("CPU", amount);
        NodeView {
            node: NodeId([number; 28]),
            total: cpus(total),
            available: cpus(available),
            labels: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn room_now_goes_before_room_later_and_then_free_processors_count() {
        let wanted = ResourceSet::new().with("CPU", 2.0);
        let chosen = |offers: &[NodeView]| choose_node(offers, &wanted).map(|node| node.0[0]);
        assert_eq!(chosen(&[]), None);
        assert_eq!(
            chosen(&[offer(1, 1.0, 1.0)]),
            Some(1),
            "its raylet says what is missing"
        );
        assert_eq!(chosen(&[offer(1, 1.0, 1.0), offer(2, 4.0, 0.0)]), Some(2));
        assert_eq!(
            chosen(&[offer(1, 8.0, 1.0), offer(2, 4.0, 2.0), offer(3, 4.0, 3.0)]),
            Some(3)
        );
        assert_eq!(chosen(&[offer(2, 4.0, 4.0), offer(1, 4.0, 4.0)]), Some(1));
    }
}
