//! How an actor that this process creates comes to be known: its registration with the GCS, and what waits for that.
//!
//! The actor is registered at once, so that it has its name and whoever gets a handle can follow it. When its
//! constructor's arguments are still being computed, they come with a second request. Calls to the GCS overtake one
//! another, so what is said of an actor waits until its registration was answered.

use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use ray_rs_ownership::{OwnerIndex, RefSlot, TaskKey};
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, ObjectId, TaskId};

use crate::control::GCS_TIMEOUT;
use crate::core::{CoreWorker, Interrupt};
use crate::describe::Moment;
use crate::model::{ActorCreated, ActorIndex, ActorRequest, CoreError, NamedActor, StoredValue, TaskArgs, ValueData};
use crate::state::{Answer, Question, State};
use crate::submit::{Work, split};

/// How gRPC calls the refusal of a name, in front of the GCS's words.
const NAME_TAKEN: &str = "AlreadyExists: ";

/// What this process may tell the GCS of an actor.
pub(crate) enum Registration {
    /// Anything: it is registered, or another process sees to that.
    Over,
    /// Nothing: it is just being made.
    Due { get_if_exists: bool },
    /// Nothing before the answer; `then` is told after it. `follows`: its updates come already.
    Asked {
        then: Vec<v1::to_raylet::Body>,
        follows: bool,
    },
}

/// The thread that waits for the answer to a registration.
pub(crate) struct Creator {
    thread: Thread,
    answer: Option<Result<Bytes, String>>,
}

impl CoreWorker {
    /// Creates an actor. With a name, this waits until the control store has given it the name.
    ///
    /// # Errors
    /// [`CoreError::AlreadyExists`] when another actor has the name and `get_if_exists` is not set.
    pub fn create_actor(&self, request: ActorRequest, interrupt: Interrupt<'_>) -> Result<ActorCreated, CoreError> {
        let is_named = !request.name.is_empty();
        let (actor_id, actor, handle) = self.with(|state| {
            let created = state.create_actor(request);
            if is_named {
                state.actor(created.1).creator = Some(Creator {
                    thread: std::thread::current(),
                    answer: None,
                });
            }
            created
        });
        if is_named {
            let answer = self.await_registration(actor, interrupt);
            self.with(|state| state.actor(actor).creator = None);
            match answer {
                Ok(None) => {}
                Ok(Some(existing)) => {
                    self.drop_ref(handle);
                    return Ok(ActorCreated::Existing(existing));
                }
                Err(error) => {
                    self.drop_ref(handle);
                    return Err(error);
                }
            }
        }
        Ok(ActorCreated::New {
            actor_id,
            actor,
            handle,
        })
    }

    /// `Some`: the actor that has the name already.
    fn await_registration(&self, actor: ActorIndex, interrupt: Interrupt<'_>) -> Result<Option<NamedActor>, CoreError> {
        let began = Instant::now();
        if self.is_forked() {
            return Err(CoreError::RayletDied);
        }
        loop {
            let answer = self.with(|state| {
                if state.closed {
                    return Err(CoreError::Closed);
                }
                if state.raylet_dead {
                    return Err(CoreError::RayletDied);
                }
                Ok(state
                    .actor(actor)
                    .creator
                    .as_mut()
                    .and_then(|creator| creator.answer.take()))
            })?;
            match answer {
                Some(Ok(bytes)) => {
                    let reply = v1::RegisterActorReply::decode(bytes)
                        .map_err(|error| CoreError::Gcs(format!("an unreadable answer: {error}")))?;
                    return Ok(reply.existing.and_then(|existing| self.named_actor(existing)));
                }
                Some(Err(text)) => {
                    return Err(match text.strip_prefix(NAME_TAKEN) {
                        Some(text) => CoreError::AlreadyExists(text.to_owned()),
                        None => CoreError::Gcs(text),
                    });
                }
                None => {}
            }
            if interrupt() {
                return Err(CoreError::Interrupted);
            }
            if began.elapsed() >= GCS_TIMEOUT {
                return Err(CoreError::TimedOut {
                    what: "RegisterActor".to_owned(),
                    after: GCS_TIMEOUT,
                });
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    pub fn get_named_actor(
        &self,
        name: &str,
        namespace: &str,
        interrupt: Interrupt<'_>,
    ) -> Result<Option<NamedActor>, CoreError> {
        let message = v1::GetActorRequest {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ..v1::GetActorRequest::default()
        };
        let reply = self.gcs_call("GetActor", message.encode_to_vec(), interrupt)?;
        let reply = v1::GetActorReply::decode(reply)
            .map_err(|error| CoreError::Gcs(format!("an unreadable answer: {error}")))?;
        Ok(reply.actor.and_then(|actor| self.named_actor(actor)))
    }

    fn named_actor(&self, info: v1::ActorInfo) -> Option<NamedActor> {
        let spec = info.spec?;
        let actor_id = ActorId::from_bytes(&spec.actor_id).ok()?;
        let actor = self.actor_index(actor_id, None);
        Some(NamedActor {
            actor_id,
            actor,
            handle_descriptor: spec.handle_descriptor,
        })
    }

    pub fn kill_actor(&self, actor_id: ActorId, no_restart: bool, interrupt: Interrupt<'_>) -> Result<(), CoreError> {
        let message = v1::KillActorRequest {
            actor_id: actor_id.0.to_vec(),
            no_restart,
        };
        let send = |state: &mut State, request_id| {
            let body = gcs_call(request_id, "KillActor", &message);
            state.tell_once_registered(actor_id, body);
        };
        match self.ask_with(send, "KillActor", GCS_TIMEOUT, interrupt)? {
            Answer::Gcs(Ok(_)) => Ok(()),
            Answer::Gcs(Err(text)) => Err(CoreError::of_gcs(text)),
            _ => Err(CoreError::Gcs("the raylet answered something else".to_owned())),
        }
    }
}

impl State {
    fn create_actor(&mut self, request: ActorRequest) -> (ActorId, ActorIndex, RefSlot) {
        let unique = self.fresh_unique();
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&unique.to_le_bytes());
        let id = ActorId::new(bytes, self.job);
        let handle_id = ObjectId::new(TaskId::new(unique, id), 0);
        let handle = self.owner.actor_handle_created(handle_id);
        let index = self.new_actor(id, request.max_pending_calls);
        let get_if_exists = request.get_if_exists;
        let (spec, args) = self.actor_spec(id, handle_id, request);
        let target = self.actor(index);
        target.spec = Some(Box::new(spec));
        target.registration = Registration::Due { get_if_exists };
        let (spec, deps, held) = split(Work::Creation(index), unique, args, None);
        let task_id = TaskId::new(unique, id);
        let (key, _) = self
            .owner
            .task_submitted(task_id, 0, spec, deps, held, 0, &mut self.owner_effects);
        self.actor(index).creation = Some(key);
        // When the arguments are there already, this registers the actor with them.
        self.run_effects();
        self.register_without_arguments(index);
        (id, index, handle)
    }

    /// All of it but the constructor's arguments, which are given back.
    fn actor_spec(&self, id: ActorId, handle_id: ObjectId, request: ActorRequest) -> (v1::ActorSpec, TaskArgs) {
        let spec = v1::ActorSpec {
            actor_id: id.0.to_vec(),
            job_id: self.job.0.to_vec(),
            class_id: request.class_id.0.to_vec(),
            class_name: request.class_name,
            args: None,
            layout: Vec::new(),
            kwarg_names: Vec::new(),
            deps: Vec::new(),
            dep_refs: None,
            placement_resources: Some((&request.placement_resources).into()),
            running_resources: Some((&request.running_resources).into()),
            max_restarts: request.max_restarts,
            max_concurrency: request.max_concurrency,
            is_async: request.is_async,
            detached: request.detached,
            name: request.name,
            namespace: request.namespace,
            owner: Some((&self.me).into()),
            handle_descriptor: request.handle_descriptor,
            max_task_retries: request.max_task_retries,
            handle_id: handle_id.0.to_vec(),
            extra: request.extra,
            runtime_env: request.runtime_env,
            definition: request.definition.to_vec(),
            strategy: request.strategy,
            captures_children: request.captures_children,
            created_us: Moment::now().us(),
            unlisted: request.unlisted,
            durability: request.durability.map(|durability| v1::Durability {
                checkpoint_every: durability.checkpoint_every,
                checkpoint_interval_ms: (durability.checkpoint_interval).map_or(0, |interval| {
                    u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1)
                }),
            }),
            concurrency_groups: request
                .groups
                .into_iter()
                .map(|(name, limit)| v1::ConcurrencyGroup { name, limit })
                .collect(),
        };
        (spec, request.args)
    }

    fn register_without_arguments(&mut self, index: ActorIndex) {
        let target = self.actor(index);
        if let (Registration::Due { .. }, Some(spec)) = (&target.registration, &target.spec) {
            let spec = v1::ActorSpec::clone(spec);
            self.register(index, spec);
        }
    }

    /// The constructor's arguments are there: the GCS takes over.
    pub fn constructor_arguments_came(&mut self, index: ActorIndex, key: TaskKey) {
        let mut deps = self.resolved_deps(key, OwnerIndex::ME);
        let dep_refs = self.argument_refs(key, &deps);
        let Some(task) = self.owner.spec(key) else { return };
        let mut args = task.args.clone();
        args.refs = task.nested.clone();
        let (layout, kwarg_names) = (task.layout.clone(), task.kwarg_names.clone());
        let mut args = self.value_to_wire(&args, OwnerIndex::ME, false);
        let Some(spec) = self.actor(index).spec.take() else {
            return;
        };
        if spec.detached {
            // A restart may need them when this process has long ended.
            let here = |location: &&v1::ObjectLocation| location.node_id.is_empty();
            let locations = deps.iter().chain([&args]).filter_map(|value| value.location.as_ref());
            for location in locations.filter(here) {
                self.hand_over(location.offset, location.generation, 0);
            }
        }
        for value in deps.iter_mut().chain([&mut args]) {
            self.name_node(value);
        }
        let spec = v1::ActorSpec {
            args: Some(args),
            layout,
            kwarg_names,
            deps,
            dep_refs,
            ..*spec
        };
        self.register(index, spec);
    }

    fn register(&mut self, index: ActorIndex, spec: v1::ActorSpec) {
        let target = self.actor(index);
        let id = target.id;
        let first = match target.registration {
            Registration::Due { get_if_exists } => Some(get_if_exists),
            Registration::Asked { .. } | Registration::Over => None,
        };
        // One with a name may turn out to be another actor.
        let follows = spec.name.is_empty();
        let message = v1::RegisterActorRequest {
            spec: Some(spec),
            get_if_exists: first.unwrap_or(false),
        };
        let request_id = self.fresh_request();
        self.questions.insert(request_id, Question::RegisterActor(id));
        let body = gcs_call(request_id, "RegisterActor", &message);
        if first.is_some() {
            if follows {
                self.follow_actor(id, true);
            }
            self.tell_raylet(body);
            self.actor(index).registration = Registration::Asked {
                then: Vec::new(),
                follows,
            };
        } else {
            self.tell_once_registered(id, body);
        }
    }

    /// Tells the raylet now, or when the registration of this actor was answered.
    fn tell_once_registered(&mut self, id: ActorId, body: v1::to_raylet::Body) {
        let known = self.actor_by_id.get(&id).map(|index| &mut self.actors[*index as usize]);
        match known.map(|target| &mut target.registration) {
            Some(Registration::Asked { then, .. }) => then.push(body),
            Some(Registration::Over | Registration::Due { .. }) | None => self.tell_raylet(body),
        }
    }

    fn tell_gcs_once_registered(&mut self, id: ActorId, method: &str, message: &impl Message) {
        let request_id = self.fresh_request();
        self.questions.insert(request_id, Question::Forget);
        self.tell_once_registered(id, gcs_call(request_id, method, message));
    }

    /// The GCS has registered the actor, has refused to, or has found another that has the name.
    pub fn actor_registration_answered(&mut self, id: ActorId, answer: &Result<Bytes, String>) {
        let Some(index) = self.actor_by_id.get(&id).copied().map(ActorIndex) else {
            return;
        };
        let target = self.actor(index);
        let before = std::mem::replace(&mut target.registration, Registration::Over);
        if let Some(creator) = &mut target.creator {
            creator.answer = Some(answer.clone());
            let thread = creator.thread.clone();
            self.after.wake.push(thread);
        }
        let refusal = match answer {
            Ok(bytes) => v1::RegisterActorReply::decode(bytes.clone()).map_or_else(
                |error| Some(error.to_string()),
                |reply| reply.existing.map(|_| "another actor has its name".to_owned()),
            ),
            Err(text) => Some(text.clone()),
        };
        let (then, follows) = match before {
            Registration::Asked { then, follows } => (then, follows),
            Registration::Over | Registration::Due { .. } => (Vec::new(), false),
        };
        match refusal {
            None => {
                if !follows && self.actor(index).death.is_none() {
                    self.follow_actor(id, false);
                }
                for body in then {
                    self.tell_raylet(body);
                }
            }
            Some(message) => {
                self.actor_died_locally(id, 7, message, Vec::new());
                // What was to follow has no object any more.
                for body in then {
                    if let v1::to_raylet::Body::GcsCall(call) = body {
                        self.answered(call.request_id, Answer::Gcs(Ok(Bytes::new())));
                    }
                }
            }
        }
    }

    /// The name of the creation as a task.
    pub fn constructor_name(&self, index: ActorIndex) -> String {
        let spec = self.actors[index.0 as usize].spec.as_ref();
        format!("{}.__init__", spec.map_or("", |spec| &spec.class_name))
    }

    pub fn creation_argument_failed(&mut self, index: ActorIndex, error: &StoredValue) {
        let id = self.actor(index).id;
        let creation_error = match &error.data {
            ValueData::Inline(bytes) => bytes.to_vec(),
            _ => Vec::new(),
        };
        let message = "an argument of its constructor could not be computed".to_owned();
        self.register_without_arguments(index);
        // Whoever else has a handle learns it from the control store.
        let report = v1::ReportActorStartedRequest {
            actor_id: id.0.to_vec(),
            incarnation: 0,
            creation_error: creation_error.clone(),
            message: message.clone(),
        };
        self.tell_gcs_once_registered(id, "ReportActorStarted", &report);
        let cause = if creation_error.is_empty() { 7 } else { 3 };
        self.actor_died_locally(id, cause, message, creation_error);
    }

    fn actor_died_locally(&mut self, id: ActorId, cause: u32, message: String, creation_error: Vec<u8>) {
        self.actor_updated(v1::ActorUpdate {
            actor_id: id.0.to_vec(),
            state: 4,
            death: Some(v1::ActorDeath {
                cause,
                message,
                creation_error,
                ..v1::ActorDeath::default()
            }),
            ..v1::ActorUpdate::default()
        });
    }

    /// No handle is left anywhere.
    pub fn actor_handles_gone(&mut self, handle_id: ObjectId) {
        let id = handle_id.task_id().actor_id();
        let is_dead = |index: &u32| self.actors[*index as usize].death.is_some();
        if self.actor_by_id.get(&id).is_some_and(|index| !is_dead(index)) {
            let message = v1::ActorOutOfScopeRequest {
                actor_id: id.0.to_vec(),
            };
            self.tell_gcs_once_registered(id, "ActorOutOfScope", &message);
        }
    }
}

fn gcs_call(request_id: u64, method: &str, message: &impl Message) -> v1::to_raylet::Body {
    v1::to_raylet::Body::GcsCall(v1::GcsCall {
        request_id,
        method: method.to_owned(),
        payload: message.encode_to_vec(),
    })
}
