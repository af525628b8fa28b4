//! Placement groups: the table that decides, and what is known of each group besides: its spec, its name, who follows it.
//!
//! A group is stored when it waits, and when it is to be placed: while nodes set its bundles aside the disk writes, and who
//! waits is told when both are done. What was not answered yet is asked for again by the raylet that passed it on.

use std::collections::hash_map::Entry;

use prost::Message;
use ray_rs_actors::lifecycle;
use ray_rs_proto::convert::label_rules;
use ray_rs_proto::v1::{self, node_command::Body};
use ray_rs_scheduler::placement_group::{Effect, Event, GroupFacts, GroupState, GroupStatus, GroupTable, PendingGroup};
use ray_rs_scheduler::policy::bundle::BundleSpec;
use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::placing::GroupStrategy;
use ray_rs_types::{ActorId, IdError, JobId, NodeId, PlacementGroupId, ResourceSet};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tonic::Status;

use super::{State, Target};
use crate::storage::{Table, Write};

/// `GroupUpdate.state` of a group whose name is taken.
const REFUSED: u32 = 5;
pub(super) const CREATED: u32 = 2;
const REMOVED: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct PlacementGroups {
    table: GroupTable,
    records: FxHashMap<PlacementGroupId, v1::PlacementGroupInfo>,
    /// The last batch in which something of it was stored.
    stored: FxHashMap<PlacementGroupId, u64>,
    /// Of groups that are not removed.
    names: FxHashMap<(String, String), PlacementGroupId>,
    /// Nodes that are told what becomes of a group, until it is removed.
    followers: FxHashMap<PlacementGroupId, Vec<NodeId>>,
    /// Actors that were ever placed in a group that is not removed, but those that are dead and forgotten.
    actors: FxHashMap<PlacementGroupId, Vec<ActorId>>,
    /// Asked for while the disk takes nothing: with the node that passed it on, and when.
    held_up: Vec<(NodeId, v1::PlacementGroupSpec, u64)>,
    /// Not known yet, with whoever waits for that.
    awaited: FxHashMap<PlacementGroupId, Vec<oneshot::Sender<()>>>,
}

/// Where an actor of a group may go.
pub(super) enum GroupPlace {
    Nodes(Vec<NodeId>),
    /// The group has no place itself yet.
    Wait,
    Removed,
}

impl PlacementGroups {
    pub(super) fn restore(&mut self, record: v1::PlacementGroupInfo) {
        let Some(spec) = &record.spec else { return };
        let (Ok(group), Ok(facts)) = (group_id(&spec.group_id), facts_of(spec, |_| false)) else {
            return;
        };
        if !spec.name.is_empty() {
            self.names.insert((spec.namespace.clone(), spec.name.clone()), group);
        }
        let nodes = record.nodes.iter().map(|node| NodeId::from_bytes(node).ok());
        self.table.restore(group, facts, nodes.collect());
        self.records.insert(group, record);
    }

    /// An actor whose resources are those of a group was registered.
    pub(super) fn note_actor(&mut self, actor: ActorId, spec: &v1::ActorSpec) {
        if let Some(demand) = group_demand(spec) {
            self.actors.entry(demand.group).or_default().push(actor);
        }
    }

    /// An actor is dead, and nobody may ask about it any more.
    pub(super) fn forget_actor(&mut self, actor: ActorId, group: PlacementGroupId) {
        if let Entry::Occupied(mut entry) = self.actors.entry(group) {
            entry.get_mut().retain(|other| *other != actor);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }

    pub(super) fn place_of(&self, demand: &BundleDemand) -> GroupPlace {
        let Some(status) = self.table.status(demand.group) else {
            // Its id travelled faster than its registration.
            return GroupPlace::Wait;
        };
        match status.state {
            GroupState::Removed => GroupPlace::Removed,
            GroupState::Pending | GroupState::Rescheduling => GroupPlace::Wait,
            GroupState::Created => {
                let of_bundle = |index: u32| status.nodes.get(index as usize).copied().flatten();
                let mut nodes: Vec<NodeId> = match demand.index {
                    Some(index) => of_bundle(index).into_iter().collect(),
                    None => status.nodes.into_iter().flatten().collect(),
                };
                nodes.dedup();
                GroupPlace::Nodes(nodes)
            }
        }
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = PendingGroup<'_>> {
        self.table.pending()
    }

    fn record(&self, group: PlacementGroupId) -> Option<v1::PlacementGroupInfo> {
        let mut record = self.records.get(&group)?.clone();
        let status = self.table.status(group)?;
        describe(&mut record, &status);
        if matches!(status.state, GroupState::Pending | GroupState::Rescheduling) {
            let feasible = self.table.is_feasible(group);
            record.detail = if feasible {
                "waiting for resources"
            } else {
                "infeasible"
            }
            .to_owned();
        }
        Some(record)
    }

    fn write_of(&self, group: PlacementGroupId) -> Write {
        let status = self.table.kept(group).filter(|kept| kept.state != GroupState::Removed);
        let record = self.records.get(&group).zip(status).map(|(record, status)| {
            let mut record = record.clone();
            describe(&mut record, &status);
            record.encode_to_vec().into()
        });
        Write {
            table: Table::PlacementGroups,
            key: group.0.to_vec(),
            value: record,
        }
    }

    fn release_name(&mut self, group: PlacementGroupId) {
        let Some(spec) = self.records.get(&group).and_then(|record| record.spec.as_ref()) else {
            return;
        };
        if let Entry::Occupied(entry) = self.names.entry((spec.namespace.clone(), spec.name.clone()))
            && *entry.get() == group
        {
            entry.remove();
        }
    }

    fn order(&self, group: PlacementGroupId, attempt: u32, indices: &[u32], commit: bool) -> Option<Body> {
        let spec = self.records.get(&group)?.spec.as_ref()?;
        let bundle = |index: &u32| spec.bundles.get(*index as usize).cloned().unwrap_or_default();
        Some(Body::PrepareBundles(v1::PrepareBundles {
            group_id: group.0.to_vec(),
            attempt,
            indices: indices.to_vec(),
            bundles: indices.iter().map(bundle).collect(),
            commit,
        }))
    }
}

fn describe(record: &mut v1::PlacementGroupInfo, status: &GroupStatus) {
    record.state = state_number(status.state);
    let node = |node: &Option<NodeId>| node.map(|node| node.0.to_vec()).unwrap_or_default();
    record.nodes = status.nodes.iter().map(node).collect();
}

fn state_number(state: GroupState) -> u32 {
    match state {
        GroupState::Pending => 0,
        GroupState::Created => CREATED,
        GroupState::Removed => REMOVED,
        GroupState::Rescheduling => 4,
    }
}

fn group_id(bytes: &[u8]) -> Result<PlacementGroupId, Status> {
    PlacementGroupId::from_bytes(bytes).map_err(invalid)
}

fn invalid(error: IdError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The group that an actor is to be placed in.
pub(super) fn group_demand(spec: &v1::ActorSpec) -> Option<BundleDemand> {
    let resources = spec.placement_resources.as_ref().map(ResourceSet::from)?;
    BundleDemand::of(&resources)
}

fn facts_of(spec: &v1::PlacementGroupSpec, is_detached_actor: impl Fn(ActorId) -> bool) -> Result<GroupFacts, Status> {
    let strategy = match spec.strategy {
        0 => GroupStrategy::Pack,
        1 => GroupStrategy::Spread,
        2 => GroupStrategy::StrictPack,
        3 => GroupStrategy::StrictSpread,
        _ => return Err(Status::invalid_argument("no such strategy")),
    };
    let bundle = |(index, resources): (usize, &v1::ResourceSet)| BundleSpec {
        resources: resources.into(),
        labels: label_rules(spec.bundle_selectors.get(index)),
    };
    let creator = match spec.creator_actor.is_empty() {
        true => None,
        false => Some(ActorId::from_bytes(&spec.creator_actor).map_err(invalid)?),
    };
    Ok(GroupFacts {
        strategy,
        bundles: spec.bundles.iter().enumerate().map(bundle).collect(),
        job: JobId::from_bytes(&spec.job_id).map_err(invalid)?,
        creator,
        outlives_job: creator.is_some_and(is_detached_actor),
        detached: spec.detached,
        wish: NodeId::from_bytes(&spec.soft_target_node).ok(),
    })
}

impl State {
    /// A raylet passes on that a group is wanted; it is told what becomes of it.
    pub(super) fn group_wanted(
        &mut self,
        node: NodeId,
        spec: v1::PlacementGroupSpec,
        now_ms: u64,
    ) -> Result<(), Status> {
        let group = group_id(&spec.group_id)?;
        if self.disk.is_err() && !self.groups.records.contains_key(&group) {
            // GCS-5: to whoever waits for it, it is a group that waits.
            self.groups.held_up.push((node, spec, now_ms));
            return Ok(());
        }
        let is_detached = |actor| self.actors.spec(actor).is_some_and(|spec| spec.detached);
        let facts = facts_of(&spec, is_detached)?;
        self.follow_group(node, group);
        if self.groups.records.contains_key(&group) {
            // The same request once more, after a connection was lost.
            self.tell_group(node, group);
            return Ok(());
        }
        if self.jobs.has_finished(facts.job) && !facts.detached && !facts.outlives_job {
            self.tell_group_state(node, group, REMOVED, String::new());
            return Ok(());
        }
        if !spec.name.is_empty() {
            let key = (spec.namespace.clone(), spec.name.clone());
            if self.groups.names.contains_key(&key) {
                let message = format!(
                    "A placement group with the name {:?} exists already in the namespace {:?}. Use another name, or \
                     get it with ray_rs.util.get_placement_group({0:?}).",
                    spec.name, spec.namespace
                );
                self.tell_group_state(node, group, REFUSED, message);
                return Ok(());
            }
            self.groups.names.insert(key, group);
        }
        let record = v1::PlacementGroupInfo {
            spec: Some(spec),
            creation_ms: now_ms,
            ..v1::PlacementGroupInfo::default()
        };
        self.groups.records.insert(group, record);
        // Dropping a sender wakes the one who waits.
        self.groups.awaited.remove(&group);
        self.group_events([Event::Wanted { group, facts }]);
        Ok(())
    }

    /// The disk takes changes.
    pub(super) fn groups_no_longer_held_up(&mut self) {
        for (node, spec, asked_ms) in std::mem::take(&mut self.groups.held_up) {
            if let Err(error) = self.group_wanted(node, spec, asked_ms) {
                tracing::warn!(node_id = %node, %error, "ignored a placement group that was held up");
            }
        }
    }

    fn follow_group(&mut self, node: NodeId, group: PlacementGroupId) {
        let followers = self.groups.followers.entry(group).or_default();
        if !followers.contains(&node) {
            followers.push(node);
        }
    }

    /// Feeds facts to the table and performs what follows.
    pub(super) fn group_events(&mut self, events: impl IntoIterator<Item = Event>) {
        let mut effects = Vec::new();
        for event in events {
            self.groups.table.on_event(event, &mut effects);
        }
        if effects.is_empty() {
            return;
        }
        self.changes.send_replace(());
        let mut writes = Vec::new();
        for effect in &effects {
            match effect {
                Effect::Persist { group } => {
                    writes.push(self.groups.write_of(*group));
                    self.groups.stored.insert(*group, self.committer.last() + 1);
                }
                Effect::Forget { group } => {
                    self.groups.records.remove(group);
                    self.groups.stored.remove(group);
                }
                _ => {}
            }
        }
        match writes.iter().all(|write| write.value.is_none()) {
            // Whoever removes a group does not wait for it: its end is told with the next flush.
            true => self.committer.submit_unawaited(writes),
            false => self.committer.submit(writes),
        };
        for effect in effects {
            self.perform_group(effect);
        }
    }

    fn perform_group(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare {
                node,
                group,
                attempt,
                bundles,
                commit,
            } => {
                if let Some(order) = self.groups.order(group, attempt, &bundles, commit) {
                    self.order(node, order);
                }
            }
            Effect::Commit { node, group } => {
                let order = v1::CommitBundles {
                    group_id: group.0.to_vec(),
                };
                self.order(node, Body::CommitBundles(order));
            }
            Effect::Return {
                node,
                group,
                bundles,
                removed,
            } => {
                let order = v1::ReturnBundles {
                    group_id: group.0.to_vec(),
                    indices: bundles,
                    removed,
                };
                self.order(node, Body::ReturnBundles(order));
            }
            Effect::Publish { group } => self.publish_group(group),
            Effect::Removed { group } => {
                self.groups.release_name(group);
                let actors = self.groups.actors.remove(&group).unwrap_or_default();
                if !actors.is_empty() {
                    let events = actors.into_iter().map(|actor| lifecycle::Event::GroupRemoved { actor });
                    drop(self.actor_events(events, Vec::new()));
                }
            }
            Effect::Persist { .. } | Effect::Forget { .. } => {}
        }
    }

    /// GCS-3: once what is stored of it is durable.
    fn publish_group(&mut self, group: PlacementGroupId) {
        let Some(state) = self.groups.table.status(group).map(|status| status.state) else {
            return;
        };
        let number = self.groups.stored.get(&group).copied().unwrap_or(0);
        let followers = match state {
            GroupState::Removed => self.groups.followers.remove(&group),
            _ => self.groups.followers.get(&group).cloned(),
        };
        for node in followers.unwrap_or_default() {
            let update = v1::GroupUpdate {
                group_id: group.0.to_vec(),
                state: state_number(state),
                message: String::new(),
            };
            self.tell(number, Target::Node(node), Body::GroupUpdate(update));
        }
        if state == GroupState::Created
            && let Some(actors) = self.groups.actors.get(&group).cloned()
        {
            let choose = actors.into_iter().map(|actor| lifecycle::Effect::ChooseNode { actor });
            self.perform_all(choose.collect());
        }
    }

    /// What is known of a group, or that it is not there.
    pub(super) fn group_followed(&mut self, node: NodeId, id: &[u8]) -> Result<(), Status> {
        let group = group_id(id)?;
        if self.groups.table.status(group).is_some() {
            self.follow_group(node, group);
        }
        self.tell_group(node, group);
        Ok(())
    }

    /// GCS-3: what is told is durable.
    fn tell_group(&mut self, node: NodeId, group: PlacementGroupId) {
        let state = self.groups.table.status(group);
        let state = state.map_or(REMOVED, |status| state_number(status.state));
        self.tell_group_state(node, group, state, String::new());
    }

    fn tell_group_state(&mut self, node: NodeId, group: PlacementGroupId, state: u32, message: String) {
        let update = v1::GroupUpdate {
            group_id: group.0.to_vec(),
            state,
            message,
        };
        let last = self.committer.last();
        self.tell(last, Target::Node(node), Body::GroupUpdate(update));
    }

    pub(super) fn group_unwanted(&mut self, id: &[u8]) -> Result<(), Status> {
        let group = group_id(id)?;
        self.groups.held_up.retain(|(_, spec, _)| spec.group_id != id);
        self.group_events([Event::Unwanted { group }]);
        Ok(())
    }

    pub(super) fn bundles_prepared(&mut self, node: NodeId, answer: &v1::BundlesAnswer) -> Result<(), Status> {
        self.group_events([Event::Prepared {
            group: group_id(&answer.group_id)?,
            attempt: answer.attempt,
            node,
            has_room: answer.has_room,
        }]);
        Ok(())
    }

    /// A node's first words on a connection: what it is, and which bundles it has.
    pub(super) fn node_holds(&mut self, node: NodeId, info: &v1::NodeInfo, held: &[v1::HeldBundles]) {
        let bundles = |held: &v1::HeldBundles| Some((group_id(&held.group_id).ok()?, held.indices.clone()));
        self.group_events([Event::NodeCame {
            node,
            total: info.total.as_ref().map(ResourceSet::from).unwrap_or_default(),
            labels: info.labels.clone().into_iter().collect(),
            held: held.iter().filter_map(bundles).collect(),
        }]);
    }

    /// Resolves when it is worth looking again whether the group is known; `None`: it is.
    pub fn await_group(&mut self, id: &[u8]) -> Option<oneshot::Receiver<()>> {
        let group = group_id(id).ok()?;
        if self.groups.records.contains_key(&group) {
            return None;
        }
        self.groups.awaited.retain(|_, waiting| {
            waiting.retain(|waiting| !waiting.is_closed());
            !waiting.is_empty()
        });
        let (sender, receiver) = oneshot::channel();
        self.groups.awaited.entry(group).or_default().push(sender);
        Some(receiver)
    }

    /// By id, or by name; empty when there is none.
    pub fn get_placement_group(
        &self,
        request: &v1::GetPlacementGroupRequest,
    ) -> Result<v1::ListPlacementGroupsReply, Status> {
        let group = if request.group_id.is_empty() {
            let key = (request.namespace.clone(), request.name.clone());
            self.groups.names.get(&key).copied()
        } else {
            Some(group_id(&request.group_id)?)
        };
        let found = group.and_then(|group| self.groups.record(group));
        Ok(v1::ListPlacementGroupsReply {
            groups: found.into_iter().collect(),
        })
    }

    pub fn list_placement_groups(&self) -> v1::ListPlacementGroupsReply {
        let mut groups: Vec<v1::PlacementGroupInfo> = (self.groups.records.keys())
            .filter_map(|group| self.groups.record(*group))
            .collect();
        groups.sort_by(|a, b| (a.creation_ms, &a.nodes).cmp(&(b.creation_ms, &b.nodes)));
        v1::ListPlacementGroupsReply { groups }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_does_not_remember_actors_that_are_forgotten() {
        let mut groups = PlacementGroups::default();
        let group = PlacementGroupId([1; 18]);
        let resources = ResourceSet::new().with(format!("CPU_group_{group}"), 1.0);
        let spec = v1::ActorSpec {
            placement_resources: Some((&resources).into()),
            ..v1::ActorSpec::default()
        };
        let actors = [1, 2].map(|number| ActorId([number; 16]));
        for actor in actors {
            groups.note_actor(actor, &spec);
        }
        groups.forget_actor(actors[0], group);
        assert_eq!(groups.actors[&group], [actors[1]]);
        groups.forget_actor(actors[1], group);
        groups.forget_actor(actors[1], group);
        assert!(groups.actors.is_empty());
    }
}
