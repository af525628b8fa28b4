//! The table of actors and its transitions.

use ray_rs_types::{ActorId, JobId, NodeId, WorkerAddress, WorkerId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::index::Index;
use super::words::{ActorFacts, Death, Effect, Event, Phase, Restored, Status};

/// A node may fail so often to give one incarnation a worker before the actor is given up.
const MAX_START_ATTEMPTS: u32 = 3;

const NOT_WANTED: &str = "the actor has no use for this worker any more";

/// All actors.
#[derive(Debug, Default)]
pub struct Lifecycle {
    actors: FxHashMap<ActorId, Actor>,
    /// Worker to the actor it hosts: exactly those in `Constructing`, `Alive` and `Leaving`.
    hosts: FxHashMap<WorkerId, ActorId>,
    /// Owner and job to their actors that end with them: exactly those in which [`Actor::is_bound`] holds.
    by_owner: Index<WorkerAddress>,
    by_job: Index<JobId>,
    /// Nodes that are about to leave.
    draining: FxHashSet<NodeId>,
}

#[derive(Debug)]
struct Actor {
    facts: ActorFacts,
    incarnation: u32,
    /// Of its restarts those that a node's leaving was the cause of.
    moves: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It has its name and can be followed; its owner still computes what the constructor is called with.
    WaitingForArguments,
    /// No node was chosen yet.
    WaitingForNode {
        attempts: u32,
    },
    /// The node was told to start it, and has not yet named a worker.
    Starting {
        node: NodeId,
        attempts: u32,
        early: Option<Early>,
    },
    /// The worker runs the constructor.
    Constructing {
        worker: WorkerAddress,
    },
    Alive {
        worker: WorkerAddress,
    },
    /// The worker is ending, and with it the actor.
    Leaving {
        worker: WorkerAddress,
        death: Death,
    },
    Dead {
        death: Death,
    },
}

/// What a worker said before its node named it.
#[derive(Debug)]
enum Early {
    Started,
    ExitedItself(String),
}

impl State {
    fn host(&self) -> Option<WorkerAddress> {
        match self {
            Self::Constructing { worker } | Self::Alive { worker } | Self::Leaving { worker, .. } => Some(*worker),
            Self::WaitingForArguments | Self::WaitingForNode { .. } | Self::Starting { .. } | Self::Dead { .. } => None,
        }
    }
}

impl Lifecycle {
    /// Takes one fact; appends what is to be done, in order, to `effects`. Facts about unknown actors, old
    /// incarnations and dead actors change nothing.
    pub fn on_event(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Registered {
                actor,
                facts,
                has_arguments,
            } => self.registered(actor, facts, has_arguments, effects),
            Event::ArgumentsCame { actor } => self.arguments_came(actor, effects),
            Event::NodeChosen { actor, node } => self.node_chosen(actor, node, effects),
            Event::Assigned {
                actor,
                incarnation,
                worker,
            } => self.assigned(actor, incarnation, worker, effects),
            Event::StartFailed {
                actor,
                incarnation,
                message,
                environment_failed,
            } => {
                self.start_failed(actor, incarnation, message, environment_failed, effects);
            }
            Event::StartDeclined { actor, incarnation } => self.start_declined(actor, incarnation, effects),
            Event::Started { actor, incarnation } => self.started(actor, incarnation, effects),
            Event::ConstructorFailed {
                actor,
                incarnation,
                message,
                error,
            } => {
                if self.is_constructing(actor, incarnation) {
                    self.end(actor, Death::CreationFailed { message, error }, true, effects);
                }
            }
            Event::WorkerDied { worker, message } => self.worker_died(worker, message, effects),
            Event::NodeDrains { node } => self.node_drains(node, effects),
            Event::NodeDied { node } => self.node_died(node, effects),
            Event::KillRequested { actor, no_restart } => self.kill_requested(actor, no_restart, effects),
            Event::OutOfScope { actor } => self.out_of_scope(actor, effects),
            Event::ExitedItself { actor, message } => self.exited_itself(actor, message, effects),
            Event::NoNodeCan { actor, message } => {
                let waits = |entry: &Actor| matches!(entry.state, State::WaitingForNode { .. });
                if self.actors.get(&actor).is_some_and(waits) {
                    self.end(actor, Death::NoNode(message), false, effects);
                }
            }
            Event::GroupRemoved { actor } => self.group_removed(actor, effects),
            Event::JobFinished { job } => {
                for actor in self.by_job.actors(job) {
                    self.end(
                        actor,
                        Death::OwnerDied("its job has finished".to_owned()),
                        false,
                        effects,
                    );
                }
            }
        }
    }

    /// Puts back an actor that was persisted. One that a node was told to start may run there by now: it is that node's
    /// until the node says otherwise, or is dead. One without asks for a node again.
    pub fn restore(&mut self, actor: ActorId, facts: ActorFacts, was: Restored, effects: &mut Vec<Effect>) {
        let state = match (was.phase, was.worker, was.death) {
            (Phase::Dead, _, death) => State::Dead {
                death: death.unwrap_or_else(|| Death::WorkerDied("the cause was not recorded".to_owned())),
            },
            (Phase::Placed, Some(worker), None) => State::Constructing { worker },
            (Phase::Alive, Some(worker), None) => State::Alive { worker },
            (_, Some(worker), Some(death)) => State::Leaving { worker, death },
            (_, _, _) if !was.has_arguments => State::WaitingForArguments,
            (_, _, _) => match was.starting_on {
                Some(node) => State::Starting {
                    node,
                    attempts: 0,
                    early: None,
                },
                None => State::WaitingForNode { attempts: 0 },
            },
        };
        if let Some(worker) = state.host() {
            self.hosts.insert(worker.worker_id, actor);
        }
        if matches!(state, State::WaitingForNode { .. }) {
            effects.push(Effect::ChooseNode { actor });
        }
        let entry = Actor {
            facts,
            incarnation: was.incarnation,
            moves: was.moves,
            state,
        };
        self.insert(actor, entry);
    }

    /// Forgets a dead actor; false (and nothing changes) when it is not dead.
    pub fn forget(&mut self, actor: ActorId) -> bool {
        let dead = self
            .actors
            .get(&actor)
            .is_some_and(|entry| matches!(entry.state, State::Dead { .. }));
        if dead {
            self.actors.remove(&actor);
        }
        dead
    }

    pub fn status(&self, actor: ActorId) -> Option<Status<'_>> {
        let entry = self.actors.get(&actor)?;
        let (phase, death) = match &entry.state {
            State::WaitingForArguments => (Phase::PendingCreation, None),
            State::WaitingForNode { .. } | State::Starting { .. } if entry.incarnation == 0 => {
                (Phase::PendingCreation, None)
            }
            State::WaitingForNode { .. } | State::Starting { .. } => (Phase::Restarting, None),
            State::Constructing { .. } => (Phase::Placed, None),
            State::Alive { .. } => (Phase::Alive, None),
            State::Leaving { death, .. } => (Phase::Alive, Some(death)),
            State::Dead { death } => (Phase::Dead, Some(death)),
        };
        Some(Status {
            phase,
            worker: entry.state.host(),
            starting_on: match &entry.state {
                State::Starting { node, .. } => Some(*node),
                _ => None,
            },
            incarnation: entry.incarnation,
            moves: entry.moves,
            death,
        })
    }

    /// Whether it was registered without its constructor's arguments, and they have not come yet.
    pub fn awaits_arguments(&self, actor: ActorId) -> bool {
        self.actors
            .get(&actor)
            .is_some_and(|entry| matches!(entry.state, State::WaitingForArguments))
    }

    /// Whether a worker of it has said something before its node has named the worker: only this process knows that.
    pub fn has_heard_early(&self, actor: ActorId) -> bool {
        let is_early = |entry: &Actor| matches!(entry.state, State::Starting { early: Some(_), .. });
        self.actors.get(&actor).is_some_and(is_early)
    }

    /// Actors without a node, for whoever chooses when nodes come or change.
    pub fn waiting_for_node(&self) -> Vec<ActorId> {
        let waiting = |entry: &Actor| matches!(entry.state, State::WaitingForNode { .. });
        let mut actors: Vec<ActorId> = self
            .actors
            .iter()
            .filter(|(_, entry)| waiting(entry))
            .map(|(actor, _)| *actor)
            .collect();
        actors.sort();
        actors
    }

    /// Actors (and their incarnations) that `node` was told to start and has not yet named a worker for: its orders
    /// may have been lost with its connection.
    pub fn starting_on(&self, node: NodeId) -> Vec<(ActorId, u32)> {
        let mut starting: Vec<(ActorId, u32)> = self
            .actors
            .iter()
            .filter(|(_, entry)| matches!(entry.state, State::Starting { node: chosen, .. } if chosen == node))
            .map(|(actor, entry)| (*actor, entry.incarnation))
            .collect();
        starting.sort();
        starting
    }

    /// Workers of `node` that host actors, or own some that end with them.
    pub fn workers_on(&self, node: NodeId) -> Vec<WorkerId> {
        let hosts = self.hosts.values().filter_map(|actor| self.actors[actor].state.host());
        let owners = self.by_owner.keys().copied();
        let there = hosts.chain(owners).filter(|worker| worker.node_id == node);
        let mut workers: Vec<WorkerId> = there.map(|worker| worker.worker_id).collect();
        workers.sort();
        workers.dedup();
        workers
    }

    /// Whether `node` was told to start this incarnation, and has not named a worker yet.
    pub fn is_starting_on(&self, actor: ActorId, node: NodeId, incarnation: u32) -> bool {
        self.actors.get(&actor).is_some_and(|entry| {
            let is_there = matches!(entry.state, State::Starting { node: chosen, .. } if chosen == node);
            is_there && entry.incarnation == incarnation
        })
    }

    /// Recounts every index.
    ///
    /// # Panics
    /// When one disagrees with the table.
    pub fn check_invariants(&self) {
        let mut hosts = FxHashMap::default();
        let (mut by_owner, mut by_job) = (Index::default(), Index::default());
        for (actor, entry) in &self.actors {
            if let Some(worker) = entry.state.host() {
                assert_eq!(
                    hosts.insert(worker.worker_id, *actor),
                    None,
                    "ACT-2: a worker hosts one actor"
                );
            }
            if entry.is_bound() {
                by_owner.add(entry.facts.owner, *actor);
                by_job.add(actor.job_id(), *actor);
            }
            let limit = u32::try_from(entry.facts.max_restarts).unwrap_or(u32::MAX);
            assert!(entry.moves <= entry.incarnation, "ACT-1: a move is a restart");
            let counted = entry.incarnation - entry.moves;
            assert!(counted <= limit, "ACT-1: no more restarts than allowed");
        }
        assert_eq!(hosts, self.hosts, "ACT-2: every host is known");
        assert!(
            by_owner.agrees_with(&self.by_owner) && by_job.agrees_with(&self.by_job),
            "actors that end together"
        );
    }

    fn registered(&mut self, actor: ActorId, facts: ActorFacts, has_arguments: bool, effects: &mut Vec<Effect>) {
        if self.actors.contains_key(&actor) {
            return;
        }
        let state = if has_arguments {
            State::WaitingForNode { attempts: 0 }
        } else {
            State::WaitingForArguments
        };
        let entry = Actor {
            facts,
            incarnation: 0,
            moves: 0,
            state,
        };
        self.insert(actor, entry);
        effects.push(Effect::Persist { actor });
        if has_arguments {
            effects.push(Effect::ChooseNode { actor });
        }
    }

    fn insert(&mut self, actor: ActorId, entry: Actor) {
        if entry.is_bound() {
            self.by_owner.add(entry.facts.owner, actor);
            self.by_job.add(actor.job_id(), actor);
        }
        self.actors.insert(actor, entry);
    }

    fn arguments_came(&mut self, actor: ActorId, effects: &mut Vec<Effect>) {
        if !self.awaits_arguments(actor) {
            return;
        }
        self.change(actor, State::WaitingForNode { attempts: 0 });
        effects.push(Effect::ChooseNode { actor });
    }

    /// Changes the state and, where that frees the actor from its owner and job, the indices.
    fn change(&mut self, actor: ActorId, state: State) {
        let entry = self.actors.get_mut(&actor).expect("callers have looked it up");
        let was_bound = entry.is_bound();
        entry.state = state;
        if was_bound && !entry.is_bound() {
            self.by_owner.remove(entry.facts.owner, actor);
            self.by_job.remove(actor.job_id(), actor);
        }
    }

    fn node_chosen(&mut self, actor: ActorId, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.actors.get_mut(&actor) else {
            return;
        };
        let State::WaitingForNode { attempts } = entry.state else {
            return;
        };
        entry.state = State::Starting {
            node,
            attempts,
            early: None,
        };
        // Before the node hears of it: else a GCS that is started again would tell another one.
        effects.push(Effect::Persist { actor });
        effects.push(Effect::StartOnNode {
            actor,
            node,
            incarnation: entry.incarnation,
        });
    }

    fn assigned(&mut self, actor: ActorId, incarnation: u32, worker: WorkerAddress, effects: &mut Vec<Effect>) {
        let entry = self
            .actors
            .get_mut(&actor)
            .filter(|entry| entry.incarnation == incarnation);
        let state = entry.map(|entry| &mut entry.state);
        let next = match state.as_deref() {
            Some(State::Starting {
                early: Some(Early::Started),
                ..
            }) => State::Alive { worker },
            Some(State::Starting {
                early: Some(Early::ExitedItself(message)),
                ..
            }) => State::Leaving {
                worker,
                death: Death::ExitedItself(message.clone()),
            },
            // The node may speak before it was chosen again, when the GCS has just been restarted.
            Some(State::Starting { early: None, .. } | State::WaitingForNode { .. }) => State::Constructing { worker },
            Some(State::Constructing { worker: known } | State::Alive { worker: known }) if *known == worker => return,
            // The order to stop it may have been lost, with whoever had given it.
            Some(State::Leaving { worker: known, death }) if *known == worker => {
                effects.push(Effect::StopWorker {
                    actor,
                    node: worker.node_id,
                    worker: Some(worker.worker_id),
                    graceful: matches!(death, Death::ExitedItself(_)),
                    reason: NOT_WANTED,
                });
                return;
            }
            Some(
                State::WaitingForArguments
                | State::Constructing { .. }
                | State::Alive { .. }
                | State::Leaving { .. }
                | State::Dead { .. },
            )
            | None => {
                effects.push(Effect::StopWorker {
                    actor,
                    node: worker.node_id,
                    worker: Some(worker.worker_id),
                    graceful: false,
                    reason: NOT_WANTED,
                });
                return;
            }
        };
        *state.expect("every arm without a state returned") = next;
        self.hosts.insert(worker.worker_id, actor);
        effects.push(Effect::Persist { actor });
        effects.push(Effect::Publish { actor });
    }

    fn start_failed(
        &mut self,
        actor: ActorId,
        incarnation: u32,
        message: String,
        environment_failed: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self
            .actors
            .get_mut(&actor)
            .filter(|entry| entry.incarnation == incarnation)
        else {
            return;
        };
        let State::Starting { attempts, .. } = entry.state else {
            return;
        };
        if attempts + 1 < MAX_START_ATTEMPTS && !environment_failed {
            entry.state = State::WaitingForNode { attempts: attempts + 1 };
            effects.push(Effect::ChooseNode { actor });
        } else {
            // The node has nothing left to stop.
            entry.state = State::WaitingForNode { attempts };
            let death = match environment_failed {
                true => Death::EnvironmentFailed(message),
                false => Death::CannotBeScheduled(message),
            };
            self.end(actor, death, false, effects);
        }
    }

    fn start_declined(&mut self, actor: ActorId, incarnation: u32, effects: &mut Vec<Effect>) {
        if let Some(entry) = self.actors.get_mut(&actor)
            && entry.incarnation == incarnation
            && let State::Starting { attempts, .. } = entry.state
        {
            entry.state = State::WaitingForNode { attempts };
            effects.push(Effect::ChooseNode { actor });
        }
    }

    fn started(&mut self, actor: ActorId, incarnation: u32, effects: &mut Vec<Effect>) {
        let Some(entry) = self
            .actors
            .get_mut(&actor)
            .filter(|entry| entry.incarnation == incarnation)
        else {
            return;
        };
        match &mut entry.state {
            State::Starting { early, .. } => {
                early.get_or_insert(Early::Started);
            }
            State::Constructing { worker } => {
                entry.state = State::Alive { worker: *worker };
                effects.push(Effect::Persist { actor });
                effects.push(Effect::Publish { actor });
            }
            State::WaitingForArguments
            | State::WaitingForNode { .. }
            | State::Alive { .. }
            | State::Leaving { .. }
            | State::Dead { .. } => {}
        }
    }

    /// An argument that could not be computed counts as the constructor's failure.
    fn is_constructing(&self, actor: ActorId, incarnation: u32) -> bool {
        self.actors.get(&actor).is_some_and(|entry| {
            entry.incarnation == incarnation
                && matches!(
                    entry.state,
                    State::WaitingForArguments | State::Constructing { .. } | State::Starting { early: None, .. }
                )
        })
    }

    fn worker_died(&mut self, worker: WorkerId, message: String, effects: &mut Vec<Effect>) {
        // What it owned ends first, so that nothing is restarted only to end.
        let as_owner: Vec<_> = self
            .by_owner
            .keys()
            .filter(|owner| owner.worker_id == worker)
            .copied()
            .collect();
        for owner in as_owner {
            self.owner_died(owner, effects);
        }
        if let Some(actor) = self.hosts.get(&worker).copied() {
            self.host_gone(actor, message, effects);
        }
    }

    fn owner_died(&mut self, owner: WorkerAddress, effects: &mut Vec<Effect>) {
        for actor in self.by_owner.actors(owner) {
            let message = format!(
                "the process that owned it (worker {}, pid {}) has ended",
                owner.worker_id, owner.pid
            );
            self.end(actor, Death::OwnerDied(message), false, effects);
        }
    }

    fn node_drains(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        if !self.draining.insert(node) {
            return;
        }
        let is_there = |worker: &WorkerAddress| worker.node_id == node;
        let mut there: Vec<ActorId> = (self.actors.iter())
            .filter(|(_, entry)| match &entry.state {
                State::Constructing { worker } | State::Alive { worker } => {
                    is_there(worker) && entry.facts.max_restarts != 0
                }
                State::WaitingForArguments
                | State::WaitingForNode { .. }
                | State::Starting { .. }
                | State::Leaving { .. }
                | State::Dead { .. } => false,
            })
            .map(|(actor, _)| *actor)
            .collect();
        there.sort();
        for actor in there {
            // It is restarted when its process has ended.
            self.stop(actor, true, "its node is drained", effects);
        }
    }

    fn node_died(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let mut owners: Vec<_> = self
            .by_owner
            .keys()
            .filter(|owner| owner.node_id == node)
            .copied()
            .collect();
        owners.sort_by_key(|owner| owner.worker_id);
        for owner in owners {
            self.owner_died(owner, effects);
        }
        let mut touched: Vec<ActorId> = self.actors.keys().copied().collect();
        // Not the map's order: the same events must give the same effects.
        touched.sort();
        for actor in touched {
            let entry = &self.actors[&actor];
            match &entry.state {
                State::Starting {
                    node: chosen, attempts, ..
                } if *chosen == node => {
                    let state = State::WaitingForNode { attempts: *attempts };
                    self.actors.get_mut(&actor).expect("just seen").state = state;
                    effects.push(Effect::Persist { actor });
                    effects.push(Effect::ChooseNode { actor });
                }
                state if state.host().is_some_and(|host| host.node_id == node) => {
                    self.host_gone(actor, "its node has died".to_owned(), effects);
                }
                _ => {}
            }
        }
        self.draining.remove(&node);
    }

    fn kill_requested(&mut self, actor: ActorId, no_restart: bool, effects: &mut Vec<Effect>) {
        let Some(entry) = self.actors.get(&actor) else { return };
        let may_restart = !no_restart && self.may_restart(entry);
        match &entry.state {
            State::Dead { .. } => {}
            // It never ran: there is nothing to start over.
            State::WaitingForArguments | State::WaitingForNode { .. } if may_restart => {}
            State::Starting { .. } | State::Constructing { .. } | State::Alive { .. } if may_restart => {
                self.stop(actor, false, "ray.kill", effects);
                self.restart(actor, effects);
            }
            State::WaitingForArguments
            | State::WaitingForNode { .. }
            | State::Starting { .. }
            | State::Constructing { .. }
            | State::Alive { .. }
            | State::Leaving { .. } => self.end(actor, Death::Killed, false, effects),
        }
    }

    /// It is not restarted: there is no place for it.
    fn group_removed(&mut self, actor: ActorId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.actors.get(&actor) else { return };
        let ran = match &entry.state {
            State::Dead { .. } => return,
            State::WaitingForArguments | State::WaitingForNode { .. } | State::Starting { .. } => entry.incarnation > 0,
            State::Constructing { .. } | State::Alive { .. } | State::Leaving { .. } => true,
        };
        self.end(actor, Death::GroupRemoved { ran }, false, effects);
    }

    fn out_of_scope(&mut self, actor: ActorId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.actors.get_mut(&actor).filter(|entry| !entry.facts.detached) else {
            return;
        };
        match &entry.state {
            State::WaitingForArguments | State::WaitingForNode { .. } | State::Starting { .. } => {
                self.end(actor, Death::OutOfScope, true, effects);
            }
            State::Constructing { worker } | State::Alive { worker } => {
                entry.state = State::Leaving {
                    worker: *worker,
                    death: Death::OutOfScope,
                };
                // It is found by its name as long as it runs.
                effects.push(Effect::Persist { actor });
                self.stop(actor, true, "no handle to the actor is left", effects);
            }
            State::Leaving { .. } | State::Dead { .. } => {}
        }
    }

    fn exited_itself(&mut self, actor: ActorId, message: String, effects: &mut Vec<Effect>) {
        let Some(entry) = self.actors.get_mut(&actor) else {
            return;
        };
        match &mut entry.state {
            State::Starting { early, .. } => *early = Some(Early::ExitedItself(message)),
            State::Constructing { worker } | State::Alive { worker } => {
                entry.state = State::Leaving {
                    worker: *worker,
                    death: Death::ExitedItself(message),
                };
                effects.push(Effect::Persist { actor });
                effects.push(Effect::ReleaseName { actor });
            }
            State::WaitingForArguments | State::WaitingForNode { .. } | State::Leaving { .. } | State::Dead { .. } => {}
        }
    }

    /// The process that hosted `actor` has ended.
    fn host_gone(&mut self, actor: ActorId, message: String, effects: &mut Vec<Effect>) {
        let entry = &self.actors[&actor];
        if let State::Leaving { death, .. } = &entry.state {
            let death = death.clone();
            self.bury(actor, death, effects);
        } else if self.may_restart(entry) {
            self.restart(actor, effects);
        } else {
            self.bury(actor, Death::WorkerDied(message), effects);
        }
    }

    /// Begins the next incarnation. The old one's process has ended or was told to.
    fn restart(&mut self, actor: ActorId, effects: &mut Vec<Effect>) {
        let entry = self.actors.get_mut(&actor).expect("callers have looked it up");
        if let Some(worker) = entry.state.host() {
            self.hosts.remove(&worker.worker_id);
            entry.moves += u32::from(self.draining.contains(&worker.node_id));
        }
        entry.incarnation += 1;
        entry.state = State::WaitingForNode { attempts: 0 };
        effects.push(Effect::Persist { actor });
        effects.push(Effect::Publish { actor });
        effects.push(Effect::ChooseNode { actor });
    }

    /// Ends an actor that is not dead, wherever it is.
    fn end(&mut self, actor: ActorId, death: Death, graceful: bool, effects: &mut Vec<Effect>) {
        let reason = match death {
            Death::Killed => "ray.kill",
            Death::OwnerDied(_) => "the actor's owner has ended",
            Death::CreationFailed { .. } => "the actor's constructor raised",
            Death::OutOfScope => "no handle to the actor is left",
            Death::WorkerDied(_)
            | Death::ExitedItself(_)
            | Death::CannotBeScheduled(_)
            | Death::EnvironmentFailed(_)
            | Death::NoNode(_) => NOT_WANTED,
            Death::GroupRemoved { .. } => "its placement group was removed",
        };
        self.stop(actor, graceful, reason, effects);
        self.bury(actor, death, effects);
    }

    /// Orders the actor's worker, if one has it or will get it, to end.
    fn stop(&self, actor: ActorId, graceful: bool, reason: &'static str, effects: &mut Vec<Effect>) {
        let (node, worker) = match &self.actors[&actor].state {
            State::Starting { node, .. } => (*node, None),
            State::Constructing { worker } | State::Alive { worker } | State::Leaving { worker, .. } => {
                (worker.node_id, Some(worker.worker_id))
            }
            State::WaitingForArguments | State::WaitingForNode { .. } | State::Dead { .. } => return,
        };
        effects.push(Effect::StopWorker {
            actor,
            node,
            worker,
            graceful,
            reason,
        });
    }

    /// One whose node is about to leave is moved, even if it has used up all its restarts.
    fn may_restart(&self, entry: &Actor) -> bool {
        let host = entry.state.host();
        let moves = host.is_some_and(|host| self.draining.contains(&host.node_id));
        entry.has_restarts() || moves && entry.facts.max_restarts != 0
    }

    fn bury(&mut self, actor: ActorId, death: Death, effects: &mut Vec<Effect>) {
        if let Some(worker) = self.actors[&actor].state.host() {
            self.hosts.remove(&worker.worker_id);
        }
        self.change(actor, State::Dead { death });
        effects.push(Effect::Persist { actor });
        effects.push(Effect::Publish { actor });
        effects.push(Effect::ReleaseName { actor });
    }
}

impl Actor {
    /// It ends with its owner and with its job. A detached actor does so only as long as its owner alone has what its
    /// constructor needs.
    fn is_bound(&self) -> bool {
        match self.state {
            State::Dead { .. } => false,
            State::WaitingForArguments => true,
            State::WaitingForNode { .. }
            | State::Starting { .. }
            | State::Constructing { .. }
            | State::Alive { .. }
            | State::Leaving { .. } => !self.facts.detached,
        }
    }

    /// Whether a restart that is counted is left to it.
    fn has_restarts(&self) -> bool {
        u32::try_from(self.facts.max_restarts).map_or(true, |limit| self.incarnation - self.moves < limit)
    }
}
