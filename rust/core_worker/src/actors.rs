//! The caller's side of actors: calls over a lane, news of restarts and deaths.

use std::sync::Arc;

use ray_rs_actors::call_order::{self, CallKey, CallOrder, Why};
use ray_rs_actors::durable::numbers::CallNumbers;
use ray_rs_ownership::{Effect, RefSlot, TaskKey};
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, WorkerAddress};

use crate::creation::{Creator, Registration};
use crate::model::{ActorDeathCause, ActorIndex, CoreError, Failure, MethodIndex, Returns, StoredValue, TaskArgs};
use crate::peers::{CALL_SEQ, PeerIndex};
use crate::state::State;
use crate::submit::{Work, split};

/// One actor as seen from this process.
pub(crate) struct ActorTarget {
    pub id: ActorId,
    pub order: CallOrder,
    pub max_pending: Option<usize>,
    pub lane: Option<PeerIndex>,
    pub death: Option<v1::ActorDeath>,
    /// Process id that it had last; 0: not known.
    pub pid: u32,
    /// Address of that process's node; empty with `pid` 0.
    pub node_ip: String,
    /// In its creator, until the constructor's arguments have come.
    pub spec: Option<Box<v1::ActorSpec>>,
    pub registration: Registration,
    /// In its creator, when it has a name: the thread that creates it waits for the control store's answer.
    pub creator: Option<Creator>,
    /// The creation task, which holds the constructor's references for the actor's life.
    pub creation: Option<TaskKey>,
    next_seq: u64,
    /// Of a durable actor that was called.
    pub numbers: Option<Box<CallNumbers>>,
}

impl State {
    pub fn actor_index(&mut self, id: ActorId, max_pending: Option<usize>) -> ActorIndex {
        if let Some(index) = self.actor_by_id.get(&id) {
            return ActorIndex(*index);
        }
        let index = self.new_actor(id, max_pending);
        self.follow_actor(id, false);
        index
    }

    /// Has the raylet tell what becomes of an actor; `is_new`: of one that this process is about to register.
    pub fn follow_actor(&mut self, id: ActorId, is_new: bool) {
        self.tell_raylet(v1::to_raylet::Body::SubscribeActor(v1::SubscribeActor {
            actor_id: id.0.to_vec(),
            is_new,
        }));
    }

    pub fn new_actor(&mut self, id: ActorId, max_pending: Option<usize>) -> ActorIndex {
        let config = call_order::Config {
            max_pending,
            max_task_retries: 0,
            out_of_order: false,
        };
        let index = self.actors.len() as u32;
        self.actors.push(ActorTarget {
            id,
            order: CallOrder::new(config),
            max_pending,
            lane: None,
            death: None,
            pid: 0,
            node_ip: String::new(),
            spec: None,
            registration: Registration::Over,
            creator: None,
            creation: None,
            next_seq: 1,
            numbers: None,
        });
        self.actor_by_id.insert(id, index);
        ActorIndex(index)
    }

    pub fn actor(&mut self, index: ActorIndex) -> &mut ActorTarget {
        &mut self.actors[index.0 as usize]
    }

    // ---- calls -------------------------------------------------------------------------------------------------

    pub fn actor_call(
        &mut self,
        actor: ActorIndex,
        handle: Option<RefSlot>,
        method: MethodIndex,
        args: TaskArgs,
        num_returns: u32,
    ) -> Result<Returns, CoreError> {
        let target = self.actor(actor);
        if target.order.would_overflow() {
            let limit = target.max_pending.unwrap_or(0);
            return Err(CoreError::PendingCallsLimit { limit });
        }
        let id = target.id;
        if let Some(handle) = handle {
            self.owner.local_added(handle);
        }
        let task_id = self.fresh_task_id(id);
        let spec = self.method(method);
        let retries = spec.max_task_retries;
        let resends = if spec.is_durable { -1 } else { retries };
        let backpressure = self.method(method).backpressure;
        let (mut spec, deps, held) = split(Work::Call { actor, method }, task_id.unique(), args, handle);
        let num_returns = self.open_if_streaming(task_id, num_returns, backpressure, &mut spec);
        let before = self.owner_effects.len();
        let (key, returns) =
            self.owner
                .task_submitted(task_id, num_returns, spec, deps, held, retries, &mut self.owner_effects);
        // The call joins the order before anything else is decided about it.
        let mut ready = false;
        let mut failed = false;
        self.owner_effects.retain(|effect| match effect {
            Effect::TaskReady(other) if *other == key => {
                ready = true;
                false
            }
            Effect::ArgumentFailed { task, .. } if *task == key => {
                failed = true;
                true
            }
            _ => true,
        });
        debug_assert!(before <= self.owner_effects.len() + 1);
        if let Some(limit) = self.method(method).time_limit {
            self.limit_time(key, task_id.unique(), limit);
        }
        if !failed {
            self.order_event(
                actor,
                call_order::Event::CallSubmitted {
                    call: CallKey(key.0),
                    ready,
                    retries: resends,
                },
            );
        }
        self.run_effects();
        Ok(returns)
    }

    fn order_event(&mut self, actor: ActorIndex, event: call_order::Event) {
        let mut effects = Vec::new();
        self.actor(actor).order.on_event(event, &mut effects);
        for effect in effects {
            match effect {
                call_order::Effect::Send { call } => self.send_call(actor, TaskKey(call.0)),
                call_order::Effect::TryLost { call } => self.try_lost(TaskKey(call.0)),
                call_order::Effect::Fail { call, why } => self.fail_call(actor, TaskKey(call.0), why),
            }
        }
    }

    pub fn call_ready(&mut self, actor: ActorIndex, key: TaskKey) {
        self.order_event(actor, call_order::Event::CallReady { call: CallKey(key.0) });
    }

    pub fn call_dropped(&mut self, actor: ActorIndex, key: TaskKey) {
        self.close_call(actor, key);
        self.order_event(actor, call_order::Event::CallDropped { call: CallKey(key.0) });
    }

    pub fn call_replied(&mut self, actor: ActorIndex, key: TaskKey) {
        self.close_call(actor, key);
        self.order_event(actor, call_order::Event::CallReplied { call: CallKey(key.0) });
    }

    pub fn call_not_run(&mut self, actor: ActorIndex, key: TaskKey) {
        self.order_event(actor, call_order::Event::CallNotRun { call: CallKey(key.0) });
    }

    /// The method raised an error that its retry rule covers, and the call's owner has counted that.
    pub fn call_repeats(&mut self, actor: ActorIndex, key: TaskKey) {
        self.close_call(actor, key);
        self.order_event(actor, call_order::Event::CallRepeats { call: CallKey(key.0) });
    }

    /// What an answered call gave is lost, and needed.
    pub fn call_runs_again(&mut self, actor: ActorIndex, key: TaskKey) {
        let event = call_order::Event::CallRunsAgain {
            call: CallKey(key.0),
            retries: self.owner.retries_left(key),
        };
        self.order_event(actor, event);
    }

    /// Whether the process that is gone ran the call is not known. Calls of durable actors are not counted: they are sent
    /// until they are part of the state.
    fn try_lost(&mut self, key: TaskKey) {
        let method = match self.owner.spec(key).map(|spec| spec.work) {
            Some(Work::Call { method, .. }) => self.method(method),
            Some(Work::Normal(_) | Work::Creation(_) | Work::Group) | None => return,
        };
        if !method.is_durable {
            self.owner.may_retry(key);
        }
    }

    /// `exit_actor`: the call itself fails as all later ones do.
    pub fn call_ended_its_actor(&mut self, actor: ActorIndex, key: TaskKey) {
        let class_name = self.class_name_of(key);
        let target = self.actor(actor);
        let error = StoredValue::failed(Failure::ActorDied {
            actor_id: target.id,
            class_name,
            pid: target.pid,
            node_ip: target.node_ip.clone(),
            name: String::new(),
            namespace: String::new(),
            cause: ActorDeathCause::ExitedItself,
            message: "in this call".to_owned(),
            creation_error: Vec::new(),
        });
        self.finish_with(key, &error);
    }

    fn send_call(&mut self, actor: ActorIndex, key: TaskKey) {
        if self.is_given_up(key) {
            self.call_dropped(actor, key);
            return self.end_cancelled(key);
        }
        let Some(lane) = self.actor(actor).lane else { return };
        let Some(Work::Call { method, .. }) = self.owner.spec(key).map(|spec| spec.work) else {
            return;
        };
        if self.peers.get(lane).is_none() {
            return;
        }
        if self.method(method).is_durable {
            self.number_call(actor, key);
        }
        let index = self.define_method(lane, method);
        let who = self.peers.get(lane).expect("looked at above").who;
        let deps = self.resolved_deps(key, who);
        let num_returns = self.owner.num_returns(key) as u32;
        let attempt = self.owner.attempt(key);
        let target = self.actor(actor);
        let seq = CALL_SEQ | target.next_seq;
        target.next_seq += 1;
        let id = target.id;
        // Sequence numbers of several actors never meet on one lane: a process hosts one actor.
        let peer = self.peers.get_mut(lane).expect("looked at above");
        peer.calls.insert(seq, key);
        self.peers.in_flight += 1;
        self.write_push(lane, key, seq, index, deps, num_returns, attempt, id.0.to_vec());
    }

    fn define_method(&mut self, lane: PeerIndex, method: MethodIndex) -> u32 {
        let peer = self.peers.get_mut(lane).expect("the caller looked");
        let index = match peer.definition_of(method.on_lanes()) {
            Ok(index) => return index,
            Err(new) => new,
        };
        let spec = Arc::clone(self.method(method));
        let message = v1::DefineFunction {
            index,
            function_id: Vec::new(),
            name: spec.name.to_string(),
            method: spec.method.to_string(),
            job_id: self.job.0.to_vec(),
            retry_exceptions: spec.retry_exceptions.clone(),
            max_calls: 0,
            definition: Vec::new(),
            concurrency_group: spec.group.to_string(),
            no_retry: true,
            captures_children: false,
        };
        self.send_on(lane, Kind::DefineFunction, &message, 0);
        index
    }

    fn fail_call(&mut self, actor: ActorIndex, key: TaskKey, why: Why) {
        self.close_call(actor, key);
        if let Some((lane, seq)) = self.owner.spec_mut(key).and_then(|spec| spec.sent.take()) {
            self.take_in_flight(lane, seq);
        }
        let class_name = self.class_name_of(key);
        let target = self.actor(actor);
        let actor_id = target.id;
        let failure = match why {
            Why::Unavailable => Failure::ActorUnavailable {
                actor_id,
                message: restarting(target.pid, &target.node_ip),
            },
            Why::Died => {
                let death = target.death.clone().unwrap_or_default();
                Failure::ActorDied {
                    actor_id,
                    class_name,
                    pid: target.pid,
                    node_ip: target.node_ip.clone(),
                    name: death.name,
                    namespace: death.namespace,
                    cause: cause_of(death.cause),
                    message: death.message,
                    creation_error: death.creation_error,
                }
            }
        };
        self.finish_with(key, &StoredValue::failed(failure));
    }

    fn class_name_of(&self, call: TaskKey) -> String {
        match self.owner.spec(call).map(|spec| spec.work) {
            Some(Work::Call { method, .. }) => self.method(method).class_name.to_string(),
            Some(Work::Normal(_) | Work::Creation(_) | Work::Group) | None => String::new(),
        }
    }

    // ---- news --------------------------------------------------------------------------------------------------

    pub fn actor_updated(&mut self, update: v1::ActorUpdate) {
        let Ok(id) = ActorId::from_bytes(&update.actor_id) else {
            return;
        };
        let Some(index) = self.actor_by_id.get(&id).copied().map(ActorIndex) else {
            return;
        };
        match update.state {
            1 | 2 => {
                let worker = update
                    .worker
                    .as_ref()
                    .and_then(|worker| WorkerAddress::try_from(worker).ok());
                let Some(worker) = worker else { return };
                let node_ip = match worker.node_id == self.me.node_id {
                    true => self.node_ip.clone(),
                    false => update.node_ip.clone(),
                };
                let target = self.actor(index);
                (target.pid, target.node_ip) = (worker.pid, node_ip);
                let who = self.owner_index(&worker);
                let Some(lane) = self.open_lane_to_actor(who) else {
                    return;
                };
                self.actor(index).lane = Some(lane);
                self.order_event(
                    index,
                    call_order::Event::Placed {
                        incarnation: update.incarnation,
                        worker: worker.worker_id,
                    },
                );
            }
            3 => {
                self.actor(index).lane = None;
                self.order_event(index, call_order::Event::Restarting);
            }
            4 => {
                let target = self.actor(index);
                target.lane = None;
                if target.death.is_none() {
                    target.death = Some(update.death.unwrap_or_default());
                }
                let creation = target.creation.take();
                self.order_event(index, call_order::Event::Dead);
                if let Some(key) = creation {
                    self.finish_with(key, &StoredValue::none());
                }
            }
            _ => {}
        }
        self.run_effects();
    }
}

fn restarting(pid: u32, node_ip: &str) -> String {
    match pid {
        0 => "it is being restarted".to_owned(),
        pid => format!("its process (pid={pid}, ip={node_ip}) has died and it is being restarted"),
    }
}

pub(crate) fn cause_of(number: u32) -> ActorDeathCause {
    match number {
        1 => ActorDeathCause::WorkerDied,
        2 => ActorDeathCause::Killed,
        3 => ActorDeathCause::CreationFailed,
        4 => ActorDeathCause::OutOfScope,
        5 => ActorDeathCause::ExitedItself,
        6 => ActorDeathCause::OwnerDied,
        7 => ActorDeathCause::Unschedulable,
        8 => ActorDeathCause::EnvironmentFailed,
        9 => ActorDeathCause::GroupRemovedBefore,
        10 => ActorDeathCause::GroupRemoved,
        11 => ActorDeathCause::NoNode,
        _ => ActorDeathCause::Unknown,
    }
}
