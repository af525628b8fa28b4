//! Submission of normal tasks: leases, pushes, answers.

use std::sync::Arc;
use std::time::Duration;

use ray_rs_dispatch::{ClassKey, Effect as Order, Event, FunctionKey, LeaseKey, TaskKey as DispatchKey};
use ray_rs_lanes::{CLAIM_WORDS, EXEC};
use ray_rs_ownership::{AfterEnd, RefSlot, TaskKey};
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::{ActorId, NodeId, TaskId};
use smallvec::{SmallVec, smallvec};

use crate::argument_error;
use crate::cancel::Cancelled;
use crate::describe::Moment;
use crate::events::{Ended, outcome_of, text_of};
use crate::functions::Class;
use crate::model::{
    ActorIndex, Failure, FunctionIndex, Location, MethodIndex, Returns, StoredValue, TaskArgs, ValueData,
};
use crate::other_nodes::OtherNode;
use crate::peers::{CALL_SEQ, Peer, PeerIndex};
use crate::state::State;
use crate::stream::{DYNAMIC, STREAMING};
use crate::wire::Coverage;

/// What a submitted task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Normal(FunctionIndex),
    Call {
        actor: ActorIndex,
        method: MethodIndex,
    },
    Creation(ActorIndex),
    /// A reference that is there when a placement group is: nothing runs.
    Group,
}

/// All that is needed to send the task, once or again.
pub(crate) struct Spec {
    pub work: Work,
    pub unique: u64,
    /// Its references are held by the task's entry, not by the value.
    pub args: StoredValue,
    pub nested: SmallVec<[RefSlot; 0]>,
    pub layout: Vec<u8>,
    pub kwarg_names: Vec<String>,
    /// Where it was pushed: lane and sequence number.
    pub sent: Option<(PeerIndex, u64)>,
    /// The task that submitted it; 0: none.
    pub parent: u64,
    /// Whatever comes of it now is the end of it.
    pub cancelled: Option<Cancelled>,
    /// A generator.
    pub streaming: bool,
    /// A generator whose items are collected where it runs.
    pub dynamic: bool,
    /// How often it ran again after its worker was ended for want of memory.
    pub memory_retries: u16,
    pub backpressure: u32,
    /// When it was submitted.
    pub since: Moment,
    /// Of a call to a durable actor that was sent: its number. Else 0.
    pub call_number: u64,
}

pub(crate) struct Lease {
    pub lane: PeerIndex,
}

/// Arguments that lie elsewhere are worth a look at other nodes from so many bytes on.
const WORTH_A_LOOK: u64 = 2 << 20;

impl State {
    /// Bytes of the task's arguments in the arenas of nodes.
    fn bytes_on_nodes(&self, key: TaskKey) -> SmallVec<[(NodeId, u64); 2]> {
        let mut held: SmallVec<[(NodeId, u64); 2]> = SmallVec::new();
        for slot in self.owner.deps(key) {
            let Some((value, _)) = self.owner.value(*slot) else {
                continue;
            };
            let ValueData::Arena(location) = &value.data else {
                continue;
            };
            let node = location.node.map_or(self.me.node_id, OtherNode::id);
            match held.iter_mut().find(|(other, _)| *other == node) {
                Some((_, bytes)) => *bytes += location.length,
                None => held.push((node, location.length)),
            }
        }
        held
    }

    /// The class of a task that is ready: where its arguments are counts, unless it names its nodes itself.
    fn class_of_task(&mut self, key: TaskKey, usual: u32) -> u32 {
        let lies_elsewhere = |slot: &RefSlot| {
            let value = self.owner.value(*slot);
            value.is_some_and(|(value, _)| matches!(&value.data, ValueData::Arena(at) if at.node.is_some()))
        };
        if !self.owner.deps(key).iter().any(lies_elsewhere) {
            return usual;
        }
        let held = self.bytes_on_nodes(key);
        let here = held
            .iter()
            .find(|(node, _)| *node == self.me.node_id)
            .map_or(0, |(_, bytes)| *bytes);
        let Some(class) = self.class(ClassKey(usual)) else {
            return usual;
        };
        let names_nodes = class.strategy.is_some() || BundleDemand::group_of(&class.resources).is_some();
        match held.into_iter().max_by_key(|(_, bytes)| *bytes) {
            Some((node, bytes)) if !names_nodes && bytes > here + WORTH_A_LOOK => {
                let near = Class {
                    resources: class.resources.clone(),
                    runtime_env: Arc::clone(&class.runtime_env),
                    strategy: None,
                    near: Some(node),
                };
                self.class_like(near)
            }
            _ => usual,
        }
    }

    pub fn submit_normal(&mut self, function: FunctionIndex, args: TaskArgs, num_returns: u32) -> Returns {
        let task_id = self.fresh_task_id(ActorId::nil_of(self.job));
        let function_spec = self.function(function);
        let (max_retries, time_limit) = (function_spec.max_retries, function_spec.time_limit);
        let backpressure = function_spec.backpressure;
        let (mut spec, deps, held) = split(Work::Normal(function), task_id.unique(), args, None);
        let num_returns = self.open_if_streaming(task_id, num_returns, backpressure, &mut spec);
        let (key, returns) = self.owner.task_submitted(
            task_id,
            num_returns,
            spec,
            deps,
            held,
            max_retries,
            &mut self.owner_effects,
        );
        if let Some(limit) = time_limit {
            self.limit_time(key, task_id.unique(), limit);
        }
        self.run_effects();
        returns
    }

    /// How many returns the task has, once what streams has its stream.
    pub fn open_if_streaming(&mut self, task_id: TaskId, num_returns: u32, backpressure: u32, spec: &mut Spec) -> u32 {
        if num_returns == DYNAMIC {
            spec.dynamic = true;
            return 1;
        }
        if num_returns != STREAMING {
            return num_returns;
        }
        spec.streaming = true;
        spec.backpressure = backpressure;
        self.open_stream(task_id);
        if backpressure > 0 {
            self.limited_streams.insert(task_id.unique());
        }
        1
    }

    pub fn limit_time(&mut self, key: TaskKey, unique: u64, limit: Duration) {
        let at = self.now() + limit;
        self.time_limits.push(std::cmp::Reverse((at, key.0, unique)));
    }

    pub fn task_id_of(&self, spec: &Spec) -> TaskId {
        let actor = match spec.work {
            Work::Normal(_) | Work::Group => ActorId::nil_of(self.job),
            Work::Call { actor, .. } | Work::Creation(actor) => self.actors[actor.0 as usize].id,
        };
        TaskId::new(spec.unique, actor)
    }

    /// All arguments are there.
    pub fn task_ready(&mut self, key: TaskKey) {
        let Some(spec) = self.owner.spec(key) else { return };
        match spec.work {
            Work::Normal(function) => self.enqueue(key, function, false),
            Work::Call { actor, .. } => self.call_ready(actor, key),
            Work::Creation(actor) => self.constructor_arguments_came(actor, key),
            Work::Group => self.group_task_ready(key),
        }
    }

    /// `again`: its worker died before it took the task up.
    pub fn enqueue(&mut self, key: TaskKey, function: FunctionIndex, again: bool) {
        if self.is_given_up(key) {
            return self.end_cancelled(key);
        }
        let usual = self.usual_class(function);
        let class = ClassKey(self.class_of_task(key, usual));
        let event = Event::TaskReady {
            task: DispatchKey(key.0),
            class,
            function: FunctionKey(function.0),
            again,
        };
        let now = self.now();
        self.dispatch.on_event(now, event, &mut self.dispatch_effects);
    }

    pub fn argument_failed(&mut self, key: TaskKey, argument: RefSlot) {
        let Some(work) = self.owner.spec(key).map(|spec| spec.work) else {
            return;
        };
        match work {
            Work::Normal(function) => {
                let name = Arc::clone(&self.function(function).name);
                let error = self.error_after(&name, argument);
                self.finish_with(key, &error);
            }
            Work::Call { actor, method } => {
                let name = Arc::clone(&self.method(method).name);
                let error = self.error_after(&name, argument);
                self.call_dropped(actor, key);
                self.finish_with(key, &error);
            }
            Work::Creation(actor) => {
                let name = self.constructor_name(actor);
                let error = self.error_after(&name, argument);
                self.creation_argument_failed(actor, &error);
            }
            // It has no arguments.
            Work::Group => {}
        }
    }

    /// The error of a task that waited for `argument`, whose value is an error. Holds no counts of its references: these
    /// are as alive as the argument.
    fn error_after(&mut self, task: &str, argument: RefSlot) -> StoredValue {
        self.owner.seen(argument);
        let (error, _) = self.owner.value(argument).expect("a failed argument is ready");
        let (data, refs) = match &error.data {
            ValueData::Inline(pickle) => (argument_error::after(task, pickle), error.refs.clone()),
            ValueData::Arena(_) => (argument_error::after_referenced(task), smallvec![argument]),
            // A failure of the engine speaks for itself.
            ValueData::Empty | ValueData::Failed(_) => return error.clone(),
        };
        StoredValue {
            kind: error.kind,
            data: ValueData::Inline(data),
            refs,
        }
    }

    /// Every return of the task becomes `error`, which is inline, and gets counts of its own of the references inside.
    pub fn finish_with(&mut self, key: TaskKey, error: &StoredValue) {
        self.note_failed(key, self.owner.attempt(key), outcome_of(error), &text_of(error));
        let count = self.owner.num_returns(key);
        for _ in 0..count {
            error.refs.iter().for_each(|slot| self.owner.local_added(*slot));
        }
        let values: Vec<_> = (0..count).map(|_| (error.clone(), true)).collect();
        self.end_task(key, values);
    }

    pub fn finish_with_value(&mut self, key: TaskKey, value: StoredValue) {
        self.end_task(key, vec![(value, false)]);
    }

    fn end_task(&mut self, key: TaskKey, values: Vec<(StoredValue, bool)>) {
        let then = self.after_end(key, &values);
        if let Some(spec) = self.owner.spec_mut(key) {
            let (streaming, unique) = (spec.streaming, spec.unique);
            if matches!(then, AfterEnd::Forget(_)) {
                let args = std::mem::replace(&mut spec.args, StoredValue::none());
                self.free_data(&args.data);
            }
            if streaming {
                let error = values.first().filter(|(_, is_error)| *is_error).map(|(error, _)| error);
                self.stream_ended(unique, error);
                self.items_not_given_again(key, error);
                if let Some(end) = self.owner.return_of(key) {
                    // The stream tells of it.
                    self.owner.seen(end);
                }
            }
        }
        self.owner.task_finished(key, values, then, &mut self.owner_effects);
    }

    // ---- orders of the dispatcher ------------------------------------------------------------------------------

    pub fn run_dispatch_effect(&mut self, order: Order) {
        match order {
            Order::Push { lease, task } => self.push_task(lease, TaskKey(task.0)),
            Order::RequestLease {
                request,
                class,
                backlog,
                first,
            } => {
                let task_name = match self.owner.spec(TaskKey(first.0)).map(|spec| spec.work) {
                    Some(Work::Normal(function)) => self.function(function).name.to_string(),
                    Some(Work::Call { .. } | Work::Creation(_) | Work::Group) | None => String::new(),
                };
                let refused = self.remote.refusals_of(class);
                let class = self.class(class).expect("its first task waits");
                let arguments = match class.near {
                    Some(_) => self.bytes_on_nodes(TaskKey(first.0)),
                    None => SmallVec::new(),
                };
                let arguments = arguments.into_iter().map(|(node, bytes)| v1::NodeBytes {
                    node_id: node.0.to_vec(),
                    bytes,
                });
                let message = v1::RequestLease {
                    request_id: request.0,
                    resources: Some((&class.resources).into()),
                    backlog,
                    task_name,
                    runtime_env: class.runtime_env.to_string(),
                    strategy: class.strategy.clone(),
                    spilled: false,
                    refused,
                    expects_room: false,
                    arguments: arguments.collect(),
                    ahead: false,
                };
                self.tell_raylet(v1::to_raylet::Body::RequestLease(message));
            }
            Order::RequestAhead { request, class } => self.request_ahead(request, class),
            Order::CancelRequest { request } => {
                self.cancel_lease_request(request);
            }
            Order::ReturnLease { lease } => {
                let worker_gone = match self.leases.remove(&lease).map(|known| self.peers.get_mut(known.lane)) {
                    Some(Some(peer)) => {
                        peer.lease = None;
                        false
                    }
                    Some(None) | None => true,
                };
                self.return_lease(lease, worker_gone);
            }
            Order::Withdraw { lease, task } => {
                let withdrawn = self.withdraw(TaskKey(task.0));
                if !withdrawn {
                    self.ask_to_withdraw(TaskKey(task.0));
                }
                let event = Event::WithdrawResult { lease, task, withdrawn };
                let now = self.now();
                self.dispatch.on_event(now, event, &mut self.dispatch_effects);
            }
            Order::Refused { task } => self.refused(TaskKey(task.0)),
            Order::LostClaimed { task } => self.lost(TaskKey(task.0)),
        }
    }

    pub fn withdraw(&mut self, key: TaskKey) -> bool {
        let Some((lane, seq)) = self.owner.spec(key).and_then(|spec| spec.sent) else {
            return false;
        };
        let Some(peer) = self.peers.get_mut(lane) else {
            return false;
        };
        if !peer.withdraw(seq) {
            return false;
        }
        self.take_in_flight(lane, seq);
        if let Some(spec) = self.owner.spec_mut(key) {
            spec.sent = None;
        }
        true
    }

    /// On another node there is no taking back without asking: EntriesReturned may follow.
    fn ask_to_withdraw(&mut self, key: TaskKey) {
        if let Some((lane, seq)) = self.owner.spec(key).and_then(|spec| spec.sent)
            && self.peers.get(lane).is_some_and(Peer::is_remote)
        {
            let message = v1::WithdrawEntries { seqs: vec![seq] };
            self.send_on(lane, Kind::WithdrawEntries, &message, EXEC);
        }
    }

    pub fn take_in_flight(&mut self, lane: PeerIndex, seq: u64) -> Option<TaskKey> {
        let peer = self.peers.get_mut(lane)?;
        let key = if seq & CALL_SEQ != 0 {
            peer.calls.remove(&seq)
        } else {
            let at = usize::try_from(seq.checked_sub(peer.first_seq)?).ok()?;
            let key = peer.in_flight.get_mut(at)?.take();
            while let Some(None) = peer.in_flight.front() {
                peer.in_flight.pop_front();
                peer.first_seq += 1;
            }
            key
        }?;
        self.peers.in_flight -= 1;
        Some(key)
    }

    pub fn push_task(&mut self, lease: LeaseKey, key: TaskKey) {
        let Some(lane) = self.leases.get(&lease).map(|lease| lease.lane) else {
            return;
        };
        let Some(Work::Normal(function)) = self.owner.spec(key).map(|spec| spec.work) else {
            return;
        };
        if self.peers.get(lane).is_none() {
            // The lane died a moment ago: `process_died` reports the lease dead, and this task with it.
            return;
        }
        if self.would_take_a_claim_word(lane) {
            // So far behind, the worker gets nothing more until it has answered for what it has.
            let tasks = vec![DispatchKey(key.0)];
            let now = self.now();
            let event = Event::EntriesReturned { lease, tasks };
            return self.dispatch.on_event(now, event, &mut self.dispatch_effects);
        }
        self.note_use(lease);
        let index = self.define_function(lane, function);
        let who = self.peers.get(lane).expect("looked at above").who;
        let deps = self.resolved_deps(key, who);
        let num_returns = self.owner.num_returns(key) as u32;
        let attempt = self.owner.attempt(key);
        let peer = self.peers.get_mut(lane).expect("looked at above");
        let seq = peer.next_seq;
        peer.next_seq += 1;
        peer.in_flight.push_back(Some(key));
        peer.publish(seq);
        self.peers.in_flight += 1;
        self.write_push(lane, key, seq, index, deps, num_returns, attempt, Vec::new());
    }

    /// Whether the next entry's claim word belongs to one that is still in flight. Withdrawals move sequence numbers on
    /// without the worker's doing, so few entries can be far apart.
    fn would_take_a_claim_word(&self, lane: PeerIndex) -> bool {
        let holder = self.peers.get(lane).and_then(|peer| {
            let at = peer.in_flight.len().checked_sub(CLAIM_WORDS)?;
            peer.in_flight[at]
        });
        // Of one that was given up nobody asks any more whether it was claimed.
        holder.is_some_and(|key| !self.is_given_up(key))
    }

    #[allow(clippy::too_many_arguments)]
    pub fn write_push(
        &mut self,
        lane: PeerIndex,
        key: TaskKey,
        seq: u64,
        function: u32,
        deps: Vec<v1::Value>,
        num_returns: u32,
        attempt: u32,
        actor_id: Vec<u8>,
    ) {
        let who = self.peers.get(lane).expect("the caller looked").who;
        let dep_refs = self.argument_refs(key, &deps).map(Box::new);
        let Some(spec) = self.owner.spec_mut(key) else { return };
        spec.sent = Some((lane, seq));
        let (unique, streaming, backpressure) = (spec.unique, spec.streaming, spec.backpressure);
        let num_returns = if spec.dynamic { DYNAMIC } else { num_returns };
        let (work, call_number) = (spec.work, spec.call_number);
        let layout = spec.layout.clone();
        let kwarg_names = spec.kwarg_names.clone();
        let args = match spec.args.data {
            ValueData::Empty => None,
            _ => {
                let mut value = spec.args.clone();
                value.refs = spec.nested.clone();
                // A durable actor keeps no reference of an argument.
                match work {
                    Work::Call { .. } if call_number == 0 => Some(self.argument_of_call(&value, who)),
                    _ => Some(self.value_to_wire(&value, who, false)),
                }
            }
        };
        let message = v1::PushTask {
            seq,
            task_unique: unique,
            function,
            args,
            layout,
            kwarg_names,
            deps,
            num_returns,
            attempt,
            actor_id,
            streaming,
            backpressure,
            dep_refs,
            call_number,
            acknowledged: match work {
                Work::Call { actor, .. } if call_number != 0 => self.acknowledged(actor),
                _ => 0,
            },
        };
        self.send_on(lane, Kind::PushTask, &message, EXEC);
    }

    /// The values of the top-level references, in order.
    pub fn resolved_deps(&mut self, key: TaskKey, receiver: ray_rs_ownership::OwnerIndex) -> Vec<v1::Value> {
        let deps: SmallVec<[RefSlot; 2]> = self.owner.deps(key).into();
        let is_call = matches!(self.owner.spec(key).map(|spec| spec.work), Some(Work::Call { .. }));
        let mut values = Vec::with_capacity(deps.len());
        let mut away: SmallVec<[Location; 2]> = SmallVec::new();
        for slot in deps {
            let value = self.owner.value(slot).map(|(value, _)| value.clone());
            let Some(value) = value else {
                // Lost since the task was found ready.
                values.push(self.value_to_wire(&StoredValue::nowhere(), receiver, false));
                continue;
            };
            if let ValueData::Arena(location) = &value.data
                && !self.is_here(location)
            {
                away.push(*location);
            }
            values.push(match is_call {
                true => self.argument_of_call(&value, receiver),
                false => self.value_to_wire(&value, receiver, false),
            });
        }
        // On their way while the task waits in its worker's queue.
        self.bring_ahead(&away);
        values
    }

    fn define_function(&mut self, lane: PeerIndex, function: FunctionIndex) -> u32 {
        let peer = self.peers.get_mut(lane).expect("the caller looked");
        let index = match peer.definition_of(function.on_lanes()) {
            Ok(index) => return index,
            Err(new) => new,
        };
        let spec = Arc::clone(self.function(function));
        let message = v1::DefineFunction {
            index,
            function_id: spec.id.0.to_vec(),
            name: spec.name.to_string(),
            method: String::new(),
            job_id: self.job.0.to_vec(),
            retry_exceptions: spec.retry_exceptions.clone(),
            max_calls: spec.max_calls,
            definition: spec.definition.to_vec(),
            concurrency_group: String::new(),
            no_retry: spec.max_retries == 0,
            captures_children: spec.captures_children,
        };
        self.send_on(lane, Kind::DefineFunction, &message, 0);
        index
    }

    // ---- news --------------------------------------------------------------------------------------------------

    pub fn dispatch_event(&mut self, event: Event) {
        let now = self.now();
        self.dispatch.on_event(now, event, &mut self.dispatch_effects);
        self.run_effects();
    }

    pub fn lease_of_lane(&self, lane: PeerIndex) -> Option<LeaseKey> {
        self.peers.get(lane)?.lease
    }

    pub fn reply_arrived(&mut self, lane: PeerIndex, reply: v1::TaskReply) {
        let Some(key) = self.take_in_flight(lane, reply.seq) else {
            // It was given up meanwhile.
            return self.discard_returns(reply.returns);
        };
        let Some(who) = self.peers.get(lane).map(|peer| peer.who) else {
            return;
        };
        // OWN-3: grants first, then the task's own hold goes.
        if let Some(table) = &reply.borrowed {
            let borrowed = self.refs_from_wire(Some(table.clone()), Coverage::ByTask);
            for slot in borrowed {
                self.owner.grant_given(slot, who, &mut self.owner_effects);
                self.drop_local(slot);
            }
        }
        let run = Duration::from_nanos(reply.run_ns);
        let now = self.now();
        let worker = self.peers.address(who);
        let attempt = self.owner.attempt(key);
        let spec = self.owner.spec_mut(key).expect("in flight tasks have a spec");
        spec.sent = None;
        let (work, unique, cancelled) = (spec.work, spec.unique, spec.cancelled);
        let failed = reply.status != 0;
        let ended = Ended {
            outcome: u8::from(failed),
            attempt,
            unique,
            parent: spec.parent,
            actor: None,
            since: spec.since,
            run,
            worker: Some(&worker),
            text: &reply.error_text,
        };
        match work {
            Work::Normal(function) => {
                let spec = Arc::clone(self.function(function));
                let is_cancelled = reply.status == 5 || (failed && cancelled == Some(Cancelled::TimedOut));
                if !is_cancelled && !spec.unlisted {
                    self.note_ended(&spec.name, &ended, now);
                }
                if let Some(lease) = self.lease_of_lane(lane) {
                    if reply.exiting {
                        let event = Event::LeaseRevoked { lease };
                        self.dispatch.on_event(now, event, &mut self.dispatch_effects);
                    }
                    let event = Event::TaskFinished {
                        lease,
                        task: DispatchKey(key.0),
                        run,
                    };
                    self.dispatch.on_event(now, event, &mut self.dispatch_effects);
                }
                if is_cancelled {
                    self.discard_returns(reply.returns);
                    self.end_cancelled(key);
                    return self.run_effects();
                }
                if reply.status == 2 && cancelled.is_none() && self.owner.may_retry(key) {
                    self.discard_failed_try(key, &spec.name, reply.returns);
                    self.enqueue(key, function, false);
                    return self.run_effects();
                }
            }
            Work::Call { actor, method } => {
                let called = self.method(method);
                let (name, unlisted) = (Arc::clone(&called.name), called.unlisted);
                if cancelled.is_none() && reply.status != 3 && !unlisted {
                    let actor = Some(self.actors[actor.0 as usize].id);
                    self.note_ended(&name, &Ended { actor, ..ended }, now);
                }
                if cancelled.is_some() {
                    self.call_replied(actor, key);
                    self.discard_returns(reply.returns);
                    self.end_cancelled(key);
                    return self.run_effects();
                }
                if reply.status == 3 {
                    self.call_not_run(actor, key);
                    return self.run_effects();
                }
                if reply.status == 2 && self.owner.may_retry(key) {
                    self.discard_failed_try(key, &name, reply.returns);
                    self.call_repeats(actor, key);
                    return self.run_effects();
                }
                self.call_replied(actor, key);
                if reply.status == 4 {
                    self.call_ended_its_actor(actor, key);
                    return self.run_effects();
                }
            }
            Work::Creation(_) | Work::Group => return,
        }
        let mut values = Vec::with_capacity(reply.returns.len());
        for wire in reply.returns {
            let value = self.value_from_wire(wire, Coverage::Granted);
            let is_error = value.is_error();
            values.push((value, is_error));
        }
        while values.len() < self.owner.num_returns(key) {
            let message = "the worker answered with too few values".to_owned();
            values.push((StoredValue::failed(Failure::System { message }), true));
        }
        self.end_task(key, values);
        self.run_effects();
    }

    fn discard_returns(&mut self, returns: Vec<v1::Value>) {
        for wire in returns {
            let value = self.value_from_wire(wire, Coverage::Granted);
            self.owner.value_abandoned(value, &mut self.owner_effects);
        }
    }

    /// The task runs again: the errors of this try are told and given up.
    fn discard_failed_try(&mut self, key: TaskKey, name: &Arc<str>, returns: Vec<v1::Value>) {
        let values: Vec<_> = returns
            .into_iter()
            .map(|wire| self.value_from_wire(wire, Coverage::Granted))
            .collect();
        // What a generator had given before comes first.
        self.tell_of_retry(key, name, values.last());
        for value in values {
            self.owner.value_abandoned(value, &mut self.owner_effects);
        }
    }
}

/// Parts the arguments into what travels and what is counted.
pub(crate) fn split(
    work: Work,
    unique: u64,
    args: TaskArgs,
    handle: Option<RefSlot>,
) -> (Spec, SmallVec<[RefSlot; 2]>, SmallVec<[RefSlot; 0]>) {
    let TaskArgs {
        mut values,
        layout,
        kwarg_names,
        deps,
        parent,
    } = args;
    let nested = std::mem::take(&mut values.refs);
    let mut held = nested.clone();
    held.extend(handle);
    (
        Spec {
            work,
            unique,
            args: values,
            nested,
            layout,
            kwarg_names,
            sent: None,
            parent,
            cancelled: None,
            streaming: false,
            dynamic: false,
            memory_retries: 0,
            backpressure: 0,
            since: Moment::now(),
            call_number: 0,
        },
        deps,
        held,
    )
}
