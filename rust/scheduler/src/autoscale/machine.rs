//! The life of each node that was ordered.
//!
//! `ordered -> starting -> joined -> draining -> ending`. A start that fails and a node that does not come go straight to
//! `ending`, as does one that dies: whatever is left of it is cleared away, but not before the provider has said what became
//! of the start: else that could still go on when nothing remembers it any more. A look sees whether nodes with their names have
//! joined; a node that nobody remembers having ordered, since the control store has restarted, is taken on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ray_rs_types::{NodeId, ResourceSet};

use super::plan::{Plan, are_spare, plan};
use super::{Config, MIN_STARTING, View};

/// Failures that are remembered.
const FAILURES: usize = 20;
const LEFT: &str = "it has left the cluster unasked";
/// A node that cannot be ended so often is given up: somebody has to look after it.
const END_ATTEMPTS: u32 = 8;

#[derive(Debug, Clone)]
pub enum Event {
    /// A look at the cluster.
    Looked(View),
    /// The provider has done its part: the node is to join.
    Started {
        instance: String,
    },
    StartFailed {
        instance: String,
        why: String,
    },
    /// The node agreed to leave, or it did not.
    DrainAnswered {
        instance: String,
        refused: Option<String>,
    },
    Ended {
        instance: String,
    },
    EndFailed {
        instance: String,
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answered by [`Event::Started`] or [`Event::StartFailed`].
    Start { instance: String, node_type: String },
    /// Ask the node to leave for being idle. Answered by [`Event::DrainAnswered`].
    Drain { instance: String, node: NodeId },
    /// Nothing of it is to be left; its start is over. Answered by [`Event::Ended`] or [`Event::EndFailed`].
    End { instance: String },
}

/// Something went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub at: Duration,
    pub node_type: String,
    pub instance: String,
    pub why: String,
}

/// Where a node is in its life, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Ordered,
    Starting,
    Joined,
    Draining,
    Ending,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceReport {
    pub instance: String,
    pub node_type: String,
    pub stage: Stage,
    /// Set while it is part of the cluster.
    pub node: Option<NodeId>,
    pub since: Duration,
}

/// How things stand, for people.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub instances: Vec<InstanceReport>,
    /// The latest, oldest first.
    pub failures: Vec<Failure>,
    /// Types of which nothing is started before then.
    pub paused: Vec<(String, Duration)>,
    pub infeasible: BTreeMap<ResourceSet, u32>,
    pub delayed: BTreeMap<ResourceSet, u32>,
    pub requested: BTreeMap<ResourceSet, u32>,
}

#[derive(Debug)]
enum State {
    Ordered,
    Starting,
    Joined {
        node: NodeId,
    },
    /// `agreed`: the node has not refused.
    Draining {
        node: NodeId,
    },
    /// `again_at` is set while the next try waits for its time.
    Ending {
        attempts: u32,
        again_at: Option<Duration>,
    },
}

#[derive(Debug)]
struct Instance {
    node_type: String,
    state: State,
    since: Duration,
    /// The provider has not said yet what became of its start.
    is_start_open: bool,
}

#[derive(Debug, Default)]
struct Pause {
    failures: u32,
    until: Duration,
}

/// See the module's description.
#[derive(Debug)]
pub struct Autoscaler {
    config: Config,
    /// Of this life: names of nodes never come twice.
    life: String,
    started: u64,
    instances: BTreeMap<String, Instance>,
    pauses: BTreeMap<String, Pause>,
    failures: VecDeque<Failure>,
    /// What waited at the last look: only what is still there at the next one is served, since most finds its place.
    last: Option<View>,
    plan: Plan,
}

impl Autoscaler {
    /// `life`: letters and digits that no earlier autoscaler of the cluster has used.
    pub fn new(config: Config, life: &str) -> Self {
        Self {
            config,
            life: life.to_owned(),
            started: 0,
            instances: BTreeMap::new(),
            pauses: BTreeMap::new(),
            failures: VecDeque::new(),
            last: None,
            plan: Plan::default(),
        }
    }

    /// Takes a fact in and appends the orders that follow from it.
    pub fn on_event(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Looked(view) => self.looked(now, view, effects),
            Event::Started { instance } => self.start_is_over(&instance, effects),
            Event::StartFailed { instance, why } => {
                self.start_is_over(&instance, effects);
                self.start_failed(now, &instance, why, effects);
            }
            Event::DrainAnswered { instance, refused } => {
                if let Some(known) = self.instances.get_mut(&instance)
                    && let State::Draining { node } = known.state
                    && refused.is_some()
                {
                    // It was needed again in the meantime.
                    (known.state, known.since) = (State::Joined { node }, now);
                }
            }
            Event::Ended { instance } => {
                if (self.instances.get(&instance)).is_some_and(|known| matches!(known.state, State::Ending { .. })) {
                    self.instances.remove(&instance);
                }
            }
            Event::EndFailed { instance, why } => self.end_failed(now, &instance, why),
        }
    }

    /// All that may still be there of what was ordered.
    pub fn instances(&self) -> Vec<String> {
        self.instances.keys().cloned().collect()
    }

    pub fn report(&self) -> Report {
        let instances = self.instances.iter().map(|(instance, known)| InstanceReport {
            instance: instance.clone(),
            node_type: known.node_type.clone(),
            stage: match known.state {
                State::Ordered => Stage::Ordered,
                State::Starting => Stage::Starting,
                State::Joined { .. } => Stage::Joined,
                State::Draining { .. } => Stage::Draining,
                State::Ending { .. } => Stage::Ending,
            },
            node: known.node(),
            since: known.since,
        });
        let pauses = self.pauses.iter().filter(|(_, pause)| pause.failures > 0);
        Report {
            instances: instances.collect(),
            failures: self.failures.iter().cloned().collect(),
            paused: pauses.map(|(name, pause)| (name.clone(), pause.until)).collect(),
            infeasible: self.plan.infeasible.clone(),
            delayed: self.plan.delayed.clone(),
            requested: self
                .last
                .as_ref()
                .map(|view| view.requested.clone())
                .unwrap_or_default(),
        }
    }

    /// # Panics
    /// With the name of the promise that is broken. Nodes that were taken on may be more than are allowed.
    pub fn check_invariants(&self) {
        let counts = self.counts();
        for node_type in &self.config.types {
            let count = counts.get(&node_type.name).copied().unwrap_or(0);
            assert!(count <= node_type.max_workers, "AUT-1: {count} of {}", node_type.name);
        }
        assert!(
            counts.values().sum::<u32>() <= self.config.max_workers,
            "AUT-1: of all types"
        );
    }

    fn counts(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for known in self.instances.values() {
            *counts.entry(known.node_type.clone()).or_default() += 1;
        }
        counts
    }

    fn looked(&mut self, now: Duration, view: View, effects: &mut Vec<Effect>) {
        self.compare(now, &view, effects);
        self.plan = self.plan_for(now, &view);
        self.start_what_is_missing(now, effects);
        self.drain_what_is_idle(now, &view, effects);
        self.last = Some(view);
    }

    /// Who has joined, who is gone, who does not come, and who is to be ended once more.
    fn compare(&mut self, now: Duration, view: &View, effects: &mut Vec<Effect>) {
        let mut joined: BTreeMap<&str, NodeId> = BTreeMap::new();
        for node in &view.nodes {
            let Some(ordered) = &node.ordered else { continue };
            joined.insert(&ordered.instance, node.node);
            if !self.instances.contains_key(&ordered.instance) {
                let taken_on = Instance {
                    node_type: ordered.node_type.clone(),
                    state: match node.drains {
                        true => State::Draining { node: node.node },
                        false => State::Joined { node: node.node },
                    },
                    since: now,
                    is_start_open: false,
                };
                self.instances.insert(ordered.instance.clone(), taken_on);
            }
        }
        let mut over = Vec::new();
        for (instance, known) in &mut self.instances {
            let node = joined.get(instance.as_str()).copied();
            match (&mut known.state, node) {
                (State::Ordered | State::Starting, Some(node)) => {
                    (known.state, known.since) = (State::Joined { node }, now);
                    self.pauses.remove(&known.node_type);
                }
                // It came and went between two looks.
                (State::Ordered | State::Starting, None) if view.gone.contains(instance) => {
                    over.push((instance.clone(), Some(LEFT.to_owned()), false));
                }
                (State::Ordered | State::Starting, None) => {
                    if now.saturating_sub(known.since) >= self.config.start_timeout {
                        let limit = self.config.start_timeout.as_secs_f64();
                        over.push((
                            instance.clone(),
                            Some(format!("it has not joined within {limit} s")),
                            true,
                        ));
                    }
                }
                (State::Joined { .. }, None) => {
                    over.push((instance.clone(), Some(LEFT.to_owned()), false));
                }
                (State::Draining { .. }, None) => over.push((instance.clone(), None, false)),
                (State::Ending { again_at, .. }, _) if again_at.is_some_and(|due| due <= now) => {
                    *again_at = None;
                    effects.push(Effect::End {
                        instance: instance.clone(),
                    });
                }
                (State::Joined { .. } | State::Draining { .. }, Some(_)) | (State::Ending { .. }, _) => {}
            }
        }
        for (instance, why, pauses) in over {
            if let Some(why) = why {
                self.failed(now, &instance, why, pauses);
            }
            self.end(now, &instance, effects);
        }
    }

    fn plan_for(&self, now: Duration, view: &View) -> Plan {
        let nothing = View::default();
        let last = self.last.as_ref().unwrap_or(&nothing);
        let still = |(shape, count): (&ResourceSet, &u32)| {
            let count = *count.min(last.demand.get(shape)?);
            Some((shape.clone(), count))
        };
        let mut before = last.groups.clone();
        let still_waits = |group: &&super::Group| {
            let at = before.iter().position(|other| other == *group);
            at.map(|at| before.swap_remove(at)).is_some()
        };
        let steady = View {
            nodes: view.nodes.clone(),
            gone: BTreeSet::new(),
            demand: view.demand.iter().filter_map(still).collect(),
            groups: view.groups.iter().filter(still_waits).cloned().collect(),
            requested: view.requested.clone(),
        };
        let paused = self.pauses.iter().filter(|(_, pause)| pause.until > now);
        plan(
            &self.config,
            &steady,
            &self.counts(),
            &self.coming(),
            &paused.map(|(name, _)| name.clone()).collect(),
        )
    }

    /// Types of the nodes that are to join.
    fn coming(&self) -> Vec<String> {
        let coming = self.instances.values();
        let coming = coming.filter(|known| matches!(known.state, State::Ordered | State::Starting));
        coming.map(|known| known.node_type.clone()).collect()
    }

    fn start_what_is_missing(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let coming = self.coming().len();
        let there = self.instances.len() - coming;
        let at_a_time = ((there as f64 * self.config.upscaling_speed) as usize).max(MIN_STARTING as usize);
        let mut room = at_a_time.saturating_sub(coming);
        for (node_type, count) in self.plan.start.clone() {
            for _ in 0..(count as usize).min(room) {
                room -= 1;
                self.started += 1;
                let instance = format!("{}-{}-{}", plain(&node_type), self.life, self.started);
                let ordered = Instance {
                    node_type: node_type.clone(),
                    state: State::Ordered,
                    since: now,
                    is_start_open: true,
                };
                self.instances.insert(instance.clone(), ordered);
                effects.push(Effect::Start {
                    instance,
                    node_type: node_type.clone(),
                });
            }
        }
    }

    /// AUT-3.
    fn drain_what_is_idle(&mut self, now: Duration, view: &View, effects: &mut Vec<Effect>) {
        // A node that joined a moment ago for something that waits is idle until that has found it.
        let ripe = |known: &Instance| now.saturating_sub(known.since) >= self.config.idle_timeout;
        let mut idle: Vec<(Duration, &String, NodeId)> = Vec::new();
        for (instance, known) in &self.instances {
            let State::Joined { node } = known.state else { continue };
            let seen = view.nodes.iter().find(|seen| seen.node == node && !seen.drains);
            let idle_for = seen.and_then(|seen| seen.idle_for);
            let idle_for = idle_for.filter(|idle| *idle >= self.config.idle_timeout && ripe(known));
            if let Some(idle_for) = idle_for.filter(|_| !self.plan.wanted.contains(&node)) {
                idle.push((idle_for, instance, node));
            }
        }
        idle.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(other.1)));
        let mut staying: BTreeMap<&str, u32> = BTreeMap::new();
        for known in self.instances.values() {
            if !matches!(known.state, State::Draining { .. } | State::Ending { .. }) {
                *staying.entry(&known.node_type).or_default() += 1;
            }
        }
        let coming = self.coming();
        let coming: Vec<&ResourceSet> = (coming.iter())
            .filter_map(|name| self.config.of_name(name))
            .map(|node_type| &node_type.resources)
            .collect();
        let mut without = BTreeSet::new();
        let mut leaving = Vec::new();
        for (_, instance, node) in idle {
            let node_type = self.instances[instance].node_type.as_str();
            let minimum = self.config.of_name(node_type).map_or(0, |known| known.min_workers);
            let count = staying.get_mut(node_type).expect("it stays so far");
            without.insert(node);
            if *count > minimum && are_spare(view, &coming, &without) {
                *count -= 1;
                leaving.push((instance.clone(), node));
            } else {
                without.remove(&node);
            }
        }
        for (instance, node) in leaving {
            let known = self.instances.get_mut(&instance).expect("just listed");
            (known.state, known.since) = (State::Draining { node }, now);
            effects.push(Effect::Drain { instance, node });
        }
    }

    fn start_is_over(&mut self, instance: &str, effects: &mut Vec<Effect>) {
        let Some(known) = self.instances.get_mut(instance) else {
            return;
        };
        let was_open = std::mem::replace(&mut known.is_start_open, false);
        match known.state {
            State::Ordered => known.state = State::Starting,
            State::Ending { .. } if was_open => effects.push(Effect::End {
                instance: instance.to_owned(),
            }),
            State::Starting | State::Joined { .. } | State::Draining { .. } | State::Ending { .. } => {}
        }
    }

    fn start_failed(&mut self, now: Duration, instance: &str, why: String, effects: &mut Vec<Effect>) {
        let Some(known) = self.instances.get(instance) else {
            return;
        };
        if matches!(known.state, State::Ordered | State::Starting) {
            self.failed(now, instance, why, true);
            // Half of it may be there.
            self.end(now, instance, effects);
        }
    }

    /// AUT-2.
    fn end(&mut self, now: Duration, instance: &str, effects: &mut Vec<Effect>) {
        let known = self.instances.get_mut(instance).expect("the caller has looked it up");
        known.since = now;
        known.state = State::Ending {
            attempts: 0,
            again_at: None,
        };
        if !known.is_start_open {
            effects.push(Effect::End {
                instance: instance.to_owned(),
            });
        }
    }

    fn end_failed(&mut self, now: Duration, instance: &str, why: String) {
        let Some(known) = self.instances.get_mut(instance) else {
            return;
        };
        let State::Ending { attempts, .. } = known.state else {
            return;
        };
        let attempts = attempts + 1;
        let again_at = Some(now + pause_after(&self.config, attempts));
        known.state = State::Ending { attempts, again_at };
        if attempts < END_ATTEMPTS {
            self.failed(now, instance, format!("it could not be ended: {why}"), false);
        } else {
            let why = format!("it could not be ended, and is not tried to be any more; look after it yourself: {why}");
            self.failed(now, instance, why, false);
            self.instances.remove(instance);
        }
    }

    fn failed(&mut self, now: Duration, instance: &str, why: String, pauses: bool) {
        let node_type = self.instances[instance].node_type.clone();
        if pauses {
            let pause = self.pauses.entry(node_type.clone()).or_default();
            // Those that were ordered together fail together, and count once.
            if now >= pause.until {
                pause.failures += 1;
                pause.until = now + pause_after(&self.config, pause.failures);
            }
        }
        if self.failures.len() == FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(Failure {
            at: now,
            node_type,
            instance: instance.to_owned(),
            why,
        });
    }
}

impl Instance {
    fn node(&self) -> Option<NodeId> {
        match self.state {
            State::Joined { node } | State::Draining { node } => Some(node),
            State::Ordered | State::Starting | State::Ending { .. } => None,
        }
    }
}

fn pause_after(config: &Config, failures: u32) -> Duration {
    let doubled = config.first_pause.saturating_mul(1 << (failures.max(1) - 1).min(20));
    doubled.min(config.longest_pause)
}

/// As names of machines, jobs and pods may be: small letters, digits and hyphens.
fn plain(name: &str) -> String {
    let mut plain = String::new();
    for letter in name.to_lowercase().chars() {
        if letter.is_ascii_alphanumeric() {
            plain.push(letter);
        } else if !plain.is_empty() && !plain.ends_with('-') {
            plain.push('-');
        }
    }
    let plain = plain.trim_end_matches('-');
    let short: String = plain.chars().take(40).collect();
    if short.is_empty() {
        "node".to_owned()
    } else {
        short.trim_end_matches('-').to_owned()
    }
}
