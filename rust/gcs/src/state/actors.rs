//! What is known of each actor besides its life: its spec, and who holds which name.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use prost::Message;
use ray_rs_actors::lifecycle::{ActorFacts, Event, Phase, Status as Life};
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, FunctionId, JobId, WorkerAddress};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tonic::Status;

use super::{Durable, State};
use crate::convert;
use crate::storage::{Table, Write};

/// Dead actors that can still be asked about.
const MAX_DEAD_ACTORS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Actors {
    specs: FxHashMap<ActorId, v1::ActorSpec>,
    /// Name space and name of every actor that runs or will, but for those of which another took it when they were
    /// about to end.
    names: FxHashMap<(String, String), ActorId>,
    /// In the order in which they died.
    dead: VecDeque<ActorId>,
    /// Not registered yet, with whoever waits for that.
    awaited: FxHashMap<ActorId, Vec<oneshot::Sender<()>>>,
}

impl Actors {
    pub(super) fn spec(&self, actor: ActorId) -> Option<&v1::ActorSpec> {
        self.specs.get(&actor)
    }

    /// Actors that outlive this job, or did.
    pub(super) fn detached_of(&self, job: JobId) -> impl Iterator<Item = ActorId> {
        let detached = self.specs.iter().filter(|(_, spec)| spec.detached);
        detached
            .map(|(actor, _)| *actor)
            .filter(move |actor| actor.job_id() == job)
    }

    pub(super) fn all(&self) -> Vec<ActorId> {
        let mut all: Vec<ActorId> = self.specs.keys().copied().collect();
        all.sort();
        all
    }

    pub(super) fn start_order(&self, actor: ActorId, incarnation: u32) -> Option<v1::StartActor> {
        let spec = Some(self.specs.get(&actor)?.clone());
        Some(v1::StartActor {
            actor_id: actor.0.to_vec(),
            spec,
            incarnation,
            gpu_ids: Vec::new(),
        })
    }

    /// The write that stores it.
    fn keep_spec(&mut self, actor: ActorId, spec: v1::ActorSpec) -> Write {
        let value = Some(spec.encode_to_vec().into());
        self.specs.insert(actor, spec);
        Write {
            table: Table::ActorSpecs,
            key: actor.0.to_vec(),
            value,
        }
    }

    pub(super) fn release_name(&mut self, actor: ActorId) {
        let Some(spec) = self.specs.get(&actor).filter(|spec| !spec.name.is_empty()) else {
            return;
        };
        if let Entry::Occupied(entry) = self.names.entry((spec.namespace.clone(), spec.name.clone()))
            && *entry.get() == actor
        {
            entry.remove();
        }
    }

    /// It is registered now, or never will be: those who wait look again.
    fn end_wait(&mut self, actor: ActorId) {
        // Dropping a sender wakes the one who waits.
        self.awaited.remove(&actor);
    }

    /// Queues the actor's status to be stored; drops from memory what a dead or lasting actor never needs again.
    pub(super) fn persist(&mut self, actor: ActorId, status: Option<Life<'_>>, writes: &mut Vec<Write>) {
        let (Some(status), Some(spec)) = (status, self.specs.get_mut(&actor)) else {
            return;
        };
        let value = convert::persisted(actor, status).encode_to_vec().into();
        writes.push(Write {
            table: Table::ActorStates,
            key: actor.0.to_vec(),
            value: Some(value),
        });
        match status.phase {
            Phase::Dead => {
                forget_construction(spec);
                self.dead.push_back(actor);
            }
            Phase::Alive if spec.max_restarts == 0 => forget_construction(spec),
            Phase::Alive | Phase::PendingCreation | Phase::Placed | Phase::Restarting => {}
        }
    }

    /// Dead actors past the number that is kept.
    pub(super) fn forgettable(&mut self) -> Vec<ActorId> {
        let surplus = self.dead.len().saturating_sub(MAX_DEAD_ACTORS);
        self.dead.drain(..surplus).collect()
    }

    pub(super) fn forget(&mut self, actor: ActorId, writes: &mut Vec<Write>) {
        self.specs.remove(&actor);
        for table in [Table::ActorSpecs, Table::ActorStates] {
            writes.push(Write {
                table,
                key: actor.0.to_vec(),
                value: None,
            });
        }
    }

    /// Puts back what was stored. The name is taken unless the actor is dead or about to be.
    pub(super) fn restore(&mut self, actor: ActorId, mut spec: v1::ActorSpec, phase: Phase, ending: bool) {
        if phase == Phase::Dead {
            forget_construction(&mut spec);
            self.dead.push_back(actor);
        } else if !ending && !spec.name.is_empty() {
            self.names.insert((spec.namespace.clone(), spec.name.clone()), actor);
        }
        self.specs.insert(actor, spec);
    }
}

/// What only the constructor needs, which may be large.
fn forget_construction(spec: &mut v1::ActorSpec) {
    spec.args = None;
    spec.definition = Vec::new();
    spec.deps = Vec::new();
    spec.layout = Vec::new();
    spec.kwarg_names = Vec::new();
}

pub(super) fn facts_of(spec: &v1::ActorSpec) -> Result<ActorFacts, Status> {
    let owner = spec
        .owner
        .as_ref()
        .ok_or_else(|| Status::invalid_argument("an actor needs an owner"))?;
    let owner = WorkerAddress::try_from(owner).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(ActorFacts {
        owner,
        max_restarts: spec.max_restarts,
        detached: spec.detached,
    })
}

pub fn actor_id(bytes: &[u8]) -> Result<ActorId, Status> {
    ActorId::from_bytes(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

impl State {
    pub fn register_actor(
        &mut self,
        request: v1::RegisterActorRequest,
    ) -> Result<(v1::RegisterActorReply, Durable), Status> {
        let spec = request
            .spec
            .ok_or_else(|| Status::invalid_argument("there is no spec"))?;
        let actor = actor_id(&spec.actor_id)?;
        let facts = facts_of(&spec)?;
        FunctionId::from_bytes(&spec.class_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let has_arguments = spec.args.is_some();
        if self.actors.specs.contains_key(&actor) {
            let durable = if has_arguments && self.lifecycle.awaits_arguments(actor) {
                let writes = vec![self.actors.keep_spec(actor, spec)];
                self.actor_events([Event::ArgumentsCame { actor }], writes)
            } else {
                // The same request once more, after a connection was lost.
                self.durable_so_far()
            };
            return Ok((v1::RegisterActorReply::default(), durable));
        }
        self.actors.end_wait(actor);
        if self.jobs.has_finished(actor.job_id()) {
            return Err(Status::failed_precondition("the job has finished"));
        }
        if !spec.name.is_empty() {
            let key = (spec.namespace.clone(), spec.name.clone());
            let holder = self.actors.names.get(&key).copied();
            if let Some(holder) = holder.filter(|holder| !self.is_ending(*holder)) {
                if !request.get_if_exists {
                    return Err(Status::already_exists(format!(
                        "The name {name} (namespace={namespace}) is already taken. Use a different name, or get the \
                         existing actor with ray_rs.get_actor({name:?}, namespace={namespace:?}) or get_if_exists=True.",
                        name = spec.name,
                        namespace = spec.namespace
                    )));
                }
                let existing = self.actor_info(holder);
                return Ok((v1::RegisterActorReply { existing }, self.durable_so_far()));
            }
            self.actors.names.insert(key, actor);
        }
        self.groups.note_actor(actor, &spec);
        let writes = vec![self.actors.keep_spec(actor, spec)];
        let registered = Event::Registered {
            actor,
            facts,
            has_arguments,
        };
        let durable = self.actor_events([registered], writes);
        Ok((v1::RegisterActorReply::default(), durable))
    }

    fn is_ending(&self, actor: ActorId) -> bool {
        self.lifecycle.status(actor).is_none_or(|status| status.death.is_some())
    }

    /// Resolves (with an error or not) when it is worth looking again whether the actor is known; `None`: it is.
    pub fn await_registration(&mut self, actor: ActorId) -> Option<oneshot::Receiver<()>> {
        if self.actors.specs.contains_key(&actor) {
            return None;
        }
        // Those who gave up are forgotten.
        self.actors.awaited.retain(|_, waiting| {
            waiting.retain(|waiting| !waiting.is_closed());
            !waiting.is_empty()
        });
        let (sender, receiver) = oneshot::channel();
        self.actors.awaited.entry(actor).or_default().push(sender);
        Some(receiver)
    }

    /// How many actors are waited for.
    #[cfg(test)]
    pub fn awaited_actors(&self) -> usize {
        self.actors.awaited.len()
    }

    /// By id, or by name; without an actor when there is none.
    pub fn get_actor(&self, request: &v1::GetActorRequest) -> Result<v1::GetActorReply, Status> {
        let actor = if request.actor_id.is_empty() {
            self.actors
                .names
                .get(&(request.namespace.clone(), request.name.clone()))
                .copied()
        } else {
            Some(actor_id(&request.actor_id)?)
        };
        Ok(v1::GetActorReply {
            actor: actor.and_then(|actor| self.actor_info(actor)),
        })
    }

    pub fn list_actors(&self) -> v1::ListActorsReply {
        v1::ListActorsReply {
            actors: self
                .actors
                .all()
                .into_iter()
                .filter_map(|actor| self.actor_info(actor))
                .collect(),
        }
    }

    fn actor_info(&self, actor: ActorId) -> Option<v1::ActorInfo> {
        let mut spec = self.actors.specs.get(&actor)?.clone();
        let has_arguments = spec.args.is_some();
        forget_construction(&mut spec);
        Some(v1::ActorInfo {
            spec: Some(spec),
            status: self.published(actor),
            has_arguments,
        })
    }

    /// What followers of the actor are told, with where it runs.
    pub(super) fn published(&self, actor: ActorId) -> Option<v1::ActorUpdate> {
        let status = self.lifecycle.status(actor)?;
        let mut update = convert::published(actor, status, self.actors.spec(actor));
        if let Some(worker) = status.worker {
            update.node_ip = self.nodes.ip_of(worker.node_id);
        }
        Some(update)
    }

    /// An actor that is gone already is no error.
    pub fn kill_actor(&mut self, request: &v1::KillActorRequest) -> Result<Durable, Status> {
        let actor = actor_id(&request.actor_id)?;
        Ok(self.actor_events(
            [Event::KillRequested {
                actor,
                no_restart: request.no_restart,
            }],
            Vec::new(),
        ))
    }

    pub fn actor_started(&mut self, request: v1::ReportActorStartedRequest) -> Result<Durable, Status> {
        let (actor, incarnation) = (actor_id(&request.actor_id)?, request.incarnation);
        let event = if request.creation_error.is_empty() && request.message.is_empty() {
            Event::Started { actor, incarnation }
        } else {
            let (message, error) = (request.message, request.creation_error);
            Event::ConstructorFailed {
                actor,
                incarnation,
                message,
                error,
            }
        };
        Ok(self.worker_says(actor, event))
    }

    pub fn actor_out_of_scope(&mut self, request: &v1::ActorOutOfScopeRequest) -> Result<Durable, Status> {
        let actor = actor_id(&request.actor_id)?;
        Ok(self.actor_news(Event::OutOfScope { actor }))
    }

    pub fn actor_exited(&mut self, request: v1::ReportActorExitRequest) -> Result<Durable, Status> {
        let actor = actor_id(&request.actor_id)?;
        let message = request.message;
        Ok(self.worker_says(actor, Event::ExitedItself { actor, message }))
    }
}
