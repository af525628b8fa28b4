//! The table of groups and its transitions.

use std::collections::{BTreeMap, VecDeque};

use ray_rs_types::{ActorId, JobId, NodeId, PlacementGroupId, ResourceSet};
use rustc_hash::{FxHashMap, FxHashSet};

use super::reservation::Nodes;
use super::words::{Effect, Event, GroupFacts, GroupState, GroupStatus, PendingGroup};
use crate::policy::bundle;

/// Removed groups that can still be asked about.
pub(super) const MAX_REMOVED: usize = 1_000;

/// All groups.
#[derive(Debug, Default)]
pub struct GroupTable {
    groups: FxHashMap<PlacementGroupId, Group>,
    /// Those in `Pending`, in the order in which they came.
    pending: VecDeque<PlacementGroupId>,
    nodes: Nodes,
    /// In the order in which they went.
    removed: VecDeque<PlacementGroupId>,
    by_job: FxHashMap<JobId, Vec<PlacementGroupId>>,
    by_creator: FxHashMap<ActorId, Vec<PlacementGroupId>>,
    attempts: u32,
}

#[derive(Debug)]
struct Group {
    facts: GroupFacts,
    phase: Phase,
    /// Of each bundle: confirmed by the node, and usable.
    placed: Vec<Option<NodeId>>,
    was_created: bool,
}

#[derive(Debug)]
enum Phase {
    Pending,
    Preparing(Attempt),
    Created,
    Removed,
}

/// One try to place what is missing.
#[derive(Debug)]
struct Attempt {
    number: u32,
    bundles: BTreeMap<NodeId, Vec<u32>>,
    /// Nodes that have not answered.
    awaited: FxHashSet<NodeId>,
    refused: FxHashSet<NodeId>,
}

impl Group {
    fn sum(&self, bundles: &[u32]) -> ResourceSet {
        let mut sum = ResourceSet::new();
        for index in bundles {
            sum.add(&self.facts.bundles[*index as usize].resources);
        }
        sum
    }

    /// Bundles confirmed by each node.
    fn confirmed(&self) -> BTreeMap<NodeId, Vec<u32>> {
        let mut by_node: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for (index, node) in self.placed.iter().enumerate() {
            if let Some(node) = node {
                by_node.entry(*node).or_default().push(index as u32);
            }
        }
        by_node
    }

    fn attempt(&self) -> Option<&Attempt> {
        match &self.phase {
            Phase::Preparing(attempt) => Some(attempt),
            Phase::Pending | Phase::Created | Phase::Removed => None,
        }
    }
}

impl GroupTable {
    /// Takes one fact; appends what is to be done, in order, to `effects`. What is said of groups that are not known, or
    /// of earlier attempts, changes nothing.
    pub fn on_event(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Wanted { group, facts } => self.wanted(group, facts, effects),
            Event::Unwanted { group } => {
                self.remove(group, effects);
                self.place_pending(effects);
            }
            Event::JobFinished { job } => {
                let groups = self.by_job.remove(&job).unwrap_or_default();
                self.remove_all(groups, effects);
            }
            Event::ActorDied { actor } => {
                let groups = self.by_creator.remove(&actor).unwrap_or_default();
                self.remove_all(groups, effects);
            }
            Event::NodeCame {
                node,
                total,
                labels,
                held,
            } => {
                self.nodes.came(node, total, labels);
                self.compare_with_held(node, held, effects);
                self.place_pending(effects);
            }
            Event::NodeUse { node, in_use } => {
                if self.nodes.uses(node, in_use) && self.could_help(node) {
                    self.place_pending(effects);
                }
            }
            Event::NodeDrains { node } => self.nodes.drains(node),
            Event::NodeDied { node } => {
                self.node_died(node, effects);
                self.place_pending(effects);
            }
            Event::Prepared {
                group,
                attempt,
                node,
                has_room,
            } => self.prepared(group, attempt, node, has_room, effects),
        }
    }

    /// Puts back a group that was kept, with the nodes that had confirmed its bundles; they say themselves, when they
    /// come, whether they still have them.
    pub fn restore(&mut self, group: PlacementGroupId, facts: GroupFacts, placed: Vec<Option<NodeId>>) {
        let is_created = placed.len() == facts.bundles.len() && placed.iter().all(Option::is_some);
        let placed = if is_created {
            placed
        } else {
            vec![None; facts.bundles.len()]
        };
        self.index(group, &facts);
        let phase = if is_created { Phase::Created } else { Phase::Pending };
        if !is_created {
            self.pending.push_back(group);
        }
        self.groups.insert(
            group,
            Group {
                facts,
                phase,
                placed,
                was_created: is_created,
            },
        );
    }

    pub fn status(&self, group: PlacementGroupId) -> Option<GroupStatus> {
        let entry = self.groups.get(&group)?;
        let state = match &entry.phase {
            Phase::Pending | Phase::Preparing(_) if entry.was_created => GroupState::Rescheduling,
            Phase::Pending | Phase::Preparing(_) => GroupState::Pending,
            Phase::Created => GroupState::Created,
            Phase::Removed => GroupState::Removed,
        };
        Some(GroupStatus {
            state,
            nodes: entry.placed.clone(),
        })
    }

    /// What is to be kept of it: with an attempt under way, what it will be when that succeeds. Whether it did is for the
    /// nodes to say when they come, after a restart.
    pub fn kept(&self, group: PlacementGroupId) -> Option<GroupStatus> {
        let mut status = self.status(group)?;
        if let Some(attempt) = self.groups[&group].attempt() {
            for (node, indices) in &attempt.bundles {
                for index in indices {
                    status.nodes[*index as usize] = Some(*node);
                }
            }
            if status.nodes.iter().all(Option::is_some) {
                status.state = GroupState::Created;
            }
        }
        Some(status)
    }

    /// Whether some groups wait for resources.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What waits to be placed, in the order in which it came.
    pub fn pending(&self) -> impl Iterator<Item = PendingGroup<'_>> {
        self.pending.iter().map(|group| {
            let entry = &self.groups[group];
            let missing = entry.facts.bundles.iter().zip(&entry.placed);
            let missing = missing.filter(|(_, node)| node.is_none());
            PendingGroup {
                strategy: entry.facts.strategy,
                bundles: missing.map(|(bundle, _)| &bundle.resources).collect(),
            }
        })
    }

    /// Whether the group could be placed if nothing else were there.
    pub fn is_feasible(&self, group: PlacementGroupId) -> bool {
        self.groups
            .get(&group)
            .is_some_and(|entry| bundle::is_feasible(entry.facts.strategy, &entry.facts.bundles, self.nodes.views()))
    }

    /// Recounts what is kept twice.
    ///
    /// # Panics
    /// With the name of the promise that is broken.
    pub fn check_invariants(&self) {
        let mut reserved: FxHashMap<NodeId, ResourceSet> = FxHashMap::default();
        let mut pending = 0;
        for (id, group) in &self.groups {
            let confirmed = group.confirmed();
            let attempted = group.attempt().map(|attempt| &attempt.bundles);
            for (node, bundles) in confirmed.iter().chain(attempted.into_iter().flatten()) {
                reserved.entry(*node).or_default().add(&group.sum(bundles));
            }
            match &group.phase {
                Phase::Pending => {
                    pending += 1;
                    assert!(self.pending.contains(id), "PG-4: who waits is in the queue");
                }
                Phase::Created => assert!(
                    group.placed.iter().all(Option::is_some),
                    "PG-1: created with all bundles"
                ),
                Phase::Removed => assert!(confirmed.is_empty(), "PG-2: a removed group has nothing"),
                Phase::Preparing(attempt) => {
                    assert!(!attempt.awaited.is_empty(), "PG-2: an attempt waits for somebody");
                }
            }
        }
        assert_eq!(pending, self.pending.len(), "PG-4: only who waits is in the queue");
        for (node, kept) in self.nodes.reserved() {
            let counted = reserved.remove(&node).unwrap_or_default();
            assert_eq!(&counted, kept, "PG-3: reserved is the sum of what is placed");
        }
    }

    fn index(&mut self, group: PlacementGroupId, facts: &GroupFacts) {
        if facts.detached {
            return;
        }
        if let Some(creator) = facts.creator {
            self.by_creator.entry(creator).or_default().push(group);
        }
        if !facts.outlives_job {
            self.by_job.entry(facts.job).or_default().push(group);
        }
    }

    fn wanted(&mut self, group: PlacementGroupId, facts: GroupFacts, effects: &mut Vec<Effect>) {
        if self.groups.contains_key(&group) {
            return;
        }
        self.index(group, &facts);
        let entry = Group {
            placed: vec![None; facts.bundles.len()],
            facts,
            phase: Phase::Pending,
            was_created: false,
        };
        self.groups.insert(group, entry);
        // PG-4: those that wait may be of its shape.
        if self.pending.is_empty() {
            if self.try_to_place(group, effects) {
                return;
            }
            self.pending.push_back(group);
        } else {
            self.pending.push_back(group);
            self.place_pending(effects);
        }
        if matches!(self.groups[&group].phase, Phase::Pending) {
            // Whoever asked for it learns that it is known, and waits.
            effects.push(Effect::Persist { group });
            effects.push(Effect::Publish { group });
        }
    }

    /// Whether what that node has free now could be of use to one that waits: every node is heard of many times a second.
    fn could_help(&self, node: NodeId) -> bool {
        let mut pending = self.pending.iter();
        pending.any(|group| self.nodes.takes_one_of(node, &self.groups[group].facts.bundles))
    }

    /// Tries all that wait, in their order; of equal ones that can't be placed only the first.
    fn place_pending(&mut self, effects: &mut Vec<Effect>) {
        let mut in_vain: Vec<PlacementGroupId> = Vec::new();
        for group in std::mem::take(&mut self.pending) {
            let facts = &self.groups[&group].facts;
            let same = |other: &PlacementGroupId| {
                let other = &self.groups[other];
                (other.facts.strategy, &other.facts.bundles) == (facts.strategy, &facts.bundles) && !other.was_created
            };
            if in_vain.iter().any(same) || !self.try_to_place(group, effects) {
                // Few shapes are many enough to tell the rest apart.
                if in_vain.len() < 16 {
                    in_vain.push(group);
                }
                self.pending.push_back(group);
            }
        }
    }

    /// Begins an attempt if there is room, by what is known; the caller keeps the queue.
    fn try_to_place(&mut self, group: PlacementGroupId, effects: &mut Vec<Effect>) -> bool {
        let entry = self.groups.get_mut(&group).expect("callers have looked it up");
        let facts = &entry.facts;
        // Whoever has bundles already, or names a node, is not served by just any nodes.
        let is_free = facts.wish.is_none() && entry.placed.iter().all(Option::is_none);
        let some = if is_free {
            self.nodes.some_views(&facts.bundles)
        } else {
            None
        };
        let found = some
            .and_then(|views| bundle::place(facts.strategy, &facts.bundles, &entry.placed, views, None))
            .filter(|nodes| bundle::is_as_wished(facts.strategy, nodes));
        let found = found.or_else(|| {
            let all = self.nodes.views();
            bundle::place(facts.strategy, &facts.bundles, &entry.placed, all, facts.wish)
        });
        let Some(nodes) = found else { return false };
        self.attempts = self.attempts.wrapping_add(1);
        let mut bundles: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for (index, node) in nodes.into_iter().enumerate() {
            if entry.placed[index].is_none() {
                bundles.entry(node).or_default().push(index as u32);
            }
        }
        // Made durable while the nodes prepare.
        effects.push(Effect::Persist { group });
        let commit = bundles.len() == 1;
        for (node, indices) in &bundles {
            self.nodes.reserve(*node, &entry.sum(indices));
            effects.push(Effect::Prepare {
                node: *node,
                group,
                attempt: self.attempts,
                bundles: indices.clone(),
                commit,
            });
        }
        entry.phase = Phase::Preparing(Attempt {
            number: self.attempts,
            awaited: bundles.keys().copied().collect(),
            refused: FxHashSet::default(),
            bundles,
        });
        true
    }

    fn prepared(
        &mut self,
        group: PlacementGroupId,
        number: u32,
        node: NodeId,
        has_room: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.groups.get_mut(&group) else {
            return;
        };
        let Phase::Preparing(attempt) = &mut entry.phase else {
            return;
        };
        if attempt.number != number || !attempt.awaited.remove(&node) {
            return;
        }
        if !has_room {
            attempt.refused.insert(node);
        }
        if !attempt.awaited.is_empty() {
            return;
        }
        if !attempt.refused.is_empty() {
            return self.give_up_attempt(group, effects);
        }
        self.created(group, effects);
    }

    /// PG-1: every node of the attempt holds its bundles for the group. That they are to be used is on its way to the nodes
    /// before anybody is told, and a node that does not get it is asked what it holds when it comes back.
    fn created(&mut self, group: PlacementGroupId, effects: &mut Vec<Effect>) {
        let entry = self.groups.get_mut(&group).expect("callers have looked it up");
        let Phase::Preparing(attempt) = std::mem::replace(&mut entry.phase, Phase::Created) else {
            unreachable!("callers have looked at the attempt")
        };
        let commit = attempt.bundles.len() > 1;
        for (node, indices) in attempt.bundles {
            for index in indices {
                entry.placed[index as usize] = Some(node);
            }
            if commit {
                effects.push(Effect::Commit { node, group });
            }
        }
        // A node that held others of its bundles may have died while these were reserved.
        let is_whole = entry.placed.iter().all(Option::is_some);
        if is_whole {
            // What is kept says so since the attempt began.
            entry.was_created = true;
            effects.push(Effect::Publish { group });
        } else {
            entry.phase = Phase::Pending;
            self.pending.push_back(group);
            effects.push(Effect::Persist { group });
            effects.push(Effect::Publish { group });
            self.place_pending(effects);
        }
    }

    /// Takes back what the attempt reserved; nodes that did not refuse are told so.
    fn undo_attempt(&mut self, group: PlacementGroupId, removed: bool, effects: &mut Vec<Effect>) {
        let entry = self.groups.get_mut(&group).expect("callers have looked it up");
        if let Phase::Preparing(attempt) = std::mem::replace(&mut entry.phase, Phase::Pending) {
            for (node, bundles) in attempt.bundles {
                self.nodes.release(node, &entry.sum(&bundles));
                if !attempt.refused.contains(&node) && self.nodes.knows(node) {
                    effects.push(Effect::Return {
                        node,
                        group,
                        bundles,
                        removed,
                    });
                }
            }
        }
    }

    /// Some node had no room after all: the group waits until something changes.
    fn give_up_attempt(&mut self, group: PlacementGroupId, effects: &mut Vec<Effect>) {
        self.undo_attempt(group, false, effects);
        self.pending.push_back(group);
        effects.push(Effect::Persist { group });
        effects.push(Effect::Publish { group });
    }

    fn remove_all(&mut self, groups: Vec<PlacementGroupId>, effects: &mut Vec<Effect>) {
        for group in groups {
            self.remove(group, effects);
        }
        self.place_pending(effects);
    }

    fn remove(&mut self, group: PlacementGroupId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.groups.get_mut(&group) else {
            return;
        };
        let was_pending = match entry.phase {
            Phase::Removed => return,
            Phase::Pending => true,
            Phase::Preparing(_) | Phase::Created => false,
        };
        // Whatever runs in it ends before its resources are free.
        effects.push(Effect::Removed { group });
        self.undo_attempt(group, true, effects);
        let entry = self.groups.get_mut(&group).expect("looked up above");
        for (node, bundles) in entry.confirmed() {
            self.nodes.release(node, &entry.sum(&bundles));
            if self.nodes.knows(node) {
                effects.push(Effect::Return {
                    node,
                    group,
                    bundles,
                    removed: true,
                });
            }
        }
        entry.placed.fill(None);
        entry.phase = Phase::Removed;
        let (job, creator) = (entry.facts.job, entry.facts.creator);
        if was_pending {
            self.pending.retain(|waiting| *waiting != group);
        }
        forget_in(&mut self.by_job, &job, group);
        if let Some(creator) = creator {
            forget_in(&mut self.by_creator, &creator, group);
        }
        effects.push(Effect::Persist { group });
        effects.push(Effect::Publish { group });
        self.removed.push_back(group);
        if self.removed.len() > MAX_REMOVED
            && let Some(oldest) = self.removed.pop_front()
        {
            self.groups.remove(&oldest);
            effects.push(Effect::Forget { group: oldest });
        }
    }

    fn node_died(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        self.nodes.died(node);
        let mut ids: Vec<PlacementGroupId> = self.groups.keys().copied().collect();
        ids.sort_unstable();
        for group in ids {
            let entry = self.groups.get_mut(&group).expect("just listed");
            let in_attempt = entry
                .attempt()
                .is_some_and(|attempt| attempt.bundles.contains_key(&node));
            let loses = entry.placed.contains(&Some(node));
            for placed in entry.placed.iter_mut().filter(|placed| **placed == Some(node)) {
                *placed = None;
            }
            if in_attempt {
                self.give_up_attempt(group, effects);
            } else if loses && matches!(entry.phase, Phase::Created) {
                entry.phase = Phase::Pending;
                self.pending.push_back(group);
                effects.push(Effect::Publish { group });
            }
        }
    }

    /// What a node has, after this table or the node was away, against what it should have: `PG-2` and `PG-3`.
    fn compare_with_held(&mut self, node: NodeId, held: Vec<(PlacementGroupId, Vec<u32>)>, effects: &mut Vec<Effect>) {
        let mut held: BTreeMap<PlacementGroupId, Vec<u32>> = held.into_iter().collect();
        let mut ids: Vec<PlacementGroupId> = self.groups.keys().copied().collect();
        ids.sort_unstable();
        let mut reserved = ResourceSet::new();
        for group in ids {
            if self.groups[&group]
                .attempt()
                .is_some_and(|attempt| attempt.bundles.contains_key(&node))
            {
                // Its answer, or our order, may have been lost.
                self.give_up_attempt(group, effects);
                held.remove(&group);
            }
            let entry = self.groups.get_mut(&group).expect("just listed");
            let expected = entry.confirmed().remove(&node).unwrap_or_default();
            let has = held.get(&group).cloned().unwrap_or_default();
            let lost: Vec<u32> = expected.iter().copied().filter(|index| !has.contains(index)).collect();
            if let Some(has) = held.get_mut(&group) {
                has.retain(|index| !expected.contains(index));
            }
            if !lost.is_empty() {
                for index in &lost {
                    entry.placed[*index as usize] = None;
                }
                if matches!(entry.phase, Phase::Created) {
                    entry.phase = Phase::Pending;
                    self.pending.push_back(group);
                    effects.push(Effect::Publish { group });
                }
            }
            let entry = &self.groups[&group];
            let kept: Vec<u32> = expected.into_iter().filter(|index| !lost.contains(index)).collect();
            reserved.add(&entry.sum(&kept));
            if !kept.is_empty() {
                // PG-2: the order to commit may have been lost.
                effects.push(Effect::Commit { node, group });
            }
        }
        for (group, bundles) in held {
            if !bundles.is_empty() {
                let removed = self
                    .groups
                    .get(&group)
                    .is_none_or(|entry| matches!(entry.phase, Phase::Removed));
                effects.push(Effect::Return {
                    node,
                    group,
                    bundles,
                    removed,
                });
            }
        }
        self.nodes.set_reserved(node, reserved);
    }
}

fn forget_in<K: std::hash::Hash + Eq>(
    index: &mut FxHashMap<K, Vec<PlacementGroupId>>,
    key: &K,
    group: PlacementGroupId,
) {
    if let Some(groups) = index.get_mut(key) {
        groups.retain(|other| *other != group);
        if groups.is_empty() {
            index.remove(key);
        }
    }
}
