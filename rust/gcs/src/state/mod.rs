//! Everything a gcs holds, in memory: what the service asks and changes under one short lock.
//!
//! A change decides, queues its writes, and queues what the world is told behind them ([`outbox`]); nothing here waits.
//! The tables are the truth while the process runs; the store is their log, read once by [`recovery`].
//!
//! * `GCS-3`: an order to start an actor, and every reply to a change, leaves after the change is durable.
//! * `GCS-4`: what is told leaves in the order in which it was decided.
//! * `GCS-5`: while the disk takes nothing, what clients ask for is refused, or waits; what is known is still told. What is said
//!   once, by whoever will not try again, is answered when it is stored.

mod actors;
mod adoptions;
mod autoscaling;
mod durable;
mod followers;
mod hearing;
mod jobs;
mod kv;
mod metrics;
mod moves;
mod nodes;
mod once;
mod outbox;
mod package_store;
mod picking;
mod placement_groups;
mod recovery;
mod task_events;
mod task_listing;

use std::collections::VecDeque;

use ray_rs_actors::lifecycle::{Effect, Event, Lifecycle, Phase};
use ray_rs_proto::v1::{self, DeadWorker, NodeCommand, StopActor, node_command::Body};
use ray_rs_scheduler::placement_group::Event as GroupEvent;
use ray_rs_types::{ActorId, NodeId};
use rustc_hash::FxHashSet;
use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::commit::{Committer, Flushed};
use crate::packages::Packages;
use crate::storage::{StorageError, Write};

pub use actors::actor_id;
pub use nodes::{NodeRegistration, RECONNECT_GRACE};
pub use picking::propose;

use actors::Actors;
use durable::CallLogs;
use jobs::Jobs;
use kv::KeyValues;
use metrics::Metrics;
use nodes::{Nodes, Place};
use once::Once;
use outbox::{Outbox, Target};
use placement_groups::PlacementGroups;
use task_events::TaskEventLog;

/// Resolves when what was changed is durable.
pub type Durable = oneshot::Receiver<Result<(), StorageError>>;

/// All tables of the control store.
#[derive(Debug)]
pub struct State {
    committer: Committer,
    /// How the last flush ended.
    disk: Result<(), StorageError>,
    outbox: Outbox,
    lifecycle: Lifecycle,
    actors: Actors,
    /// Workers that wait for an answer, see [`Self::worker_says`].
    early: Vec<(ActorId, oneshot::Sender<Result<(), StorageError>>)>,
    call_logs: CallLogs,
    jobs: Jobs,
    nodes: Nodes,
    kv: KeyValues,
    groups: PlacementGroups,
    task_events: TaskEventLog,
    metrics: Metrics,
    dead_workers: VecDeque<DeadWorker>,
    once: Once,
    packages: Packages,
    /// Name of the session; set before anything is served.
    pub session: String,
    /// How things stand with the nodes that the cluster starts by itself.
    pub autoscaler_report: Option<v1::AutoscalerReport>,
    clock: Clock,
    /// Somebody may wait for a node.
    changes: watch::Sender<()>,
}

impl State {
    /// What was flushed may now be told.
    pub fn flushed(&mut self, flushed: &Flushed) {
        self.disk = flushed.outcome.clone();
        self.outbox.flushed(flushed, &mut self.nodes);
        if self.disk.is_ok() {
            self.groups_no_longer_held_up();
        }
    }

    /// GCS-5: what is asked for while the disk takes nothing is refused before anything changes.
    ///
    /// # Errors
    /// Why the last flush failed, if it did.
    pub fn takes_changes(&self) -> Result<(), StorageError> {
        self.disk.clone()
    }

    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        self.lifecycle.check_invariants();
    }

    /// Ends the channels to all nodes and closes the store, with everything written.
    pub fn close(&mut self) {
        self.nodes.disconnect_all();
        self.committer.finish();
    }

    /// Feeds actors' facts to the lifecycle and performs what follows. `writes` go into the same batch.
    fn actor_events(&mut self, events: impl IntoIterator<Item = Event>, writes: Vec<Write>) -> Durable {
        let number = self.feed(events, writes);
        self.durable(number)
    }

    /// The same; the number of the batch.
    fn feed(&mut self, events: impl IntoIterator<Item = Event>, mut writes: Vec<Write>) -> u64 {
        let effects = self.follow(events, &mut writes);
        let number = self.committer.submit(writes);
        for effect in &effects {
            self.perform(effect, number);
        }
        self.answer_the_early(number);
        number
    }

    /// What a process says of an actor, once: nobody is there who would hear that it could not be stored and try again. So the
    /// answer waits until it is, and a control store that has restarted meanwhile is told again.
    fn actor_news(&mut self, event: Event) -> Durable {
        let number = self.feed([event], Vec::new());
        let (sender, receiver) = oneshot::channel();
        self.outbox.reply_once_stored(number, sender, &mut self.nodes);
        receiver
    }

    /// The same of its worker. If its node has not named that yet, nothing of it is stored: the answer waits for that, too.
    fn worker_says(&mut self, actor: ActorId, event: Event) -> Durable {
        let durable = self.actor_news(event);
        if !self.lifecycle.has_heard_early(actor) {
            return durable;
        }
        let (sender, receiver) = oneshot::channel();
        self.early.push((actor, sender));
        receiver
    }

    fn answer_the_early(&mut self, number: u64) {
        if self.early.is_empty() {
            return;
        }
        for (actor, sender) in std::mem::take(&mut self.early) {
            match self.lifecycle.has_heard_early(actor) {
                true => self.early.push((actor, sender)),
                false => self.outbox.reply_once_stored(number, sender, &mut self.nodes),
            }
        }
    }

    /// What a node says of an actor, and says again to a control store that has restarted: nobody waits until it is
    /// stored. What follows from it and has to wait does so.
    fn actor_fact(&mut self, event: Event) {
        let mut writes = Vec::new();
        let effects = self.follow([event], &mut writes);
        let number = match effects
            .iter()
            .any(|effect| matches!(effect, Effect::StartOnNode { .. }))
        {
            true => self.committer.submit(writes),
            false => self.committer.submit_unawaited(writes),
        };
        for effect in &effects {
            self.perform(effect, number);
        }
        self.answer_the_early(number);
    }

    /// What the lifecycle orders, and what of it is to be stored.
    fn follow(&mut self, events: impl IntoIterator<Item = Event>, writes: &mut Vec<Write>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for event in events {
            self.lifecycle.on_event(event, &mut effects);
        }
        self.choose_nodes(&mut effects);
        self.collect_writes(&effects, writes);
        effects
    }

    /// Performs what a recovery, or a node's coming, set in motion.
    fn perform_all(&mut self, mut effects: Vec<Effect>) {
        self.choose_nodes(&mut effects);
        let mut writes = Vec::new();
        self.collect_writes(&effects, &mut writes);
        let number = self.committer.submit(writes);
        for effect in &effects {
            self.perform(effect, number);
        }
    }

    /// Answers each `ChooseNode` for which there is a node; what follows from the answers joins `effects`.
    fn choose_nodes(&mut self, effects: &mut Vec<Effect>) {
        let mut next = 0;
        while let Some(effect) = effects.get(next) {
            next += 1;
            let Effect::ChooseNode { actor } = *effect else {
                continue;
            };
            match self.place_for(actor) {
                Place::Node(node) => self.lifecycle.on_event(Event::NodeChosen { actor, node }, effects),
                Place::Never(message) => self.lifecycle.on_event(Event::NoNodeCan { actor, message }, effects),
                Place::GroupRemoved => self.lifecycle.on_event(Event::GroupRemoved { actor }, effects),
                Place::Wait => {}
            }
        }
    }

    fn collect_writes(&mut self, effects: &[Effect], writes: &mut Vec<Write>) {
        let mut written = FxHashSet::default();
        let mut has_detached_ended = false;
        for effect in effects {
            // What is written is how the actor stands after all of it.
            if let Effect::Persist { actor } = effect
                && written.insert(*actor)
            {
                let status = self.lifecycle.status(*actor);
                if status.is_none_or(|status| status.phase == Phase::Dead) {
                    self.call_logs.forget(*actor, writes);
                    has_detached_ended |= self.actors.spec(*actor).is_some_and(|spec| spec.detached);
                }
                self.actors.persist(*actor, status, writes);
            }
        }
        for actor in self.actors.forgettable() {
            self.lifecycle.forget(actor);
            if let Some(demand) = self.actors.spec(actor).and_then(placement_groups::group_demand) {
                self.groups.forget_actor(actor, demand.group);
            }
            self.actors.forget(actor, writes);
        }
        if has_detached_ended {
            self.release_packages();
        }
    }

    fn perform(&mut self, effect: &Effect, number: u64) {
        match effect {
            Effect::StartOnNode {
                actor,
                node,
                incarnation,
            } => {
                if let Some(order) = self.actors.start_order(*actor, *incarnation) {
                    self.nodes.starting.insert(*actor, (*node, *incarnation));
                    self.tell(number, Target::Node(*node), Body::StartActor(order));
                }
            }
            Effect::StopWorker {
                actor,
                node,
                worker,
                graceful,
                reason,
            } => {
                let order = StopActor {
                    actor_id: actor.0.to_vec(),
                    worker_id: worker.map(|worker| worker.0.to_vec()).unwrap_or_default(),
                    graceful: *graceful,
                    reason: (*reason).to_owned(),
                };
                self.tell(0, Target::Node(*node), Body::StopActor(order));
            }
            Effect::Publish { actor } => {
                if let Some(update) = self.published(*actor) {
                    let is_dead = update.state == crate::convert::phase_number(Phase::Dead);
                    self.tell(0, Target::AllNodes, Body::ActorUpdate(update));
                    if is_dead {
                        self.group_events([GroupEvent::ActorDied { actor: *actor }]);
                    }
                }
            }
            Effect::ReleaseName { actor } => self.actors.release_name(*actor),
            // The first is answered in `choose_nodes`, or when a node comes; the second was collected.
            Effect::ChooseNode { .. } | Effect::Persist { .. } => {}
        }
    }

    fn tell(&mut self, after: u64, target: Target, body: Body) {
        self.outbox
            .tell(after, target, NodeCommand { body: Some(body) }, &mut self.nodes);
    }

    /// Tells a node to do what nobody can conclude anything from; it overtakes news that waits to be durable. Orders stay
    /// in order among themselves.
    fn order(&mut self, node: NodeId, body: Body) {
        self.nodes.send(Target::Node(node), NodeCommand { body: Some(body) });
    }

    fn durable(&mut self, number: u64) -> Durable {
        let (sender, receiver) = oneshot::channel();
        self.outbox.reply(number, sender, &mut self.nodes);
        receiver
    }

    /// Resolves when everything changed so far is durable: for answers that repeat what somebody else changed.
    pub fn durable_so_far(&mut self) -> Durable {
        let last = self.committer.last();
        self.durable(last)
    }

    fn commit(&mut self, writes: Vec<Write>) -> Durable {
        let number = self.committer.submit(writes);
        self.durable(number)
    }
}
