//! What travels with references, so that their objects can be had without the process that owns them: the estate.
//!
//! Of an object of a worker goes along, to whoever gets a reference to it: its value, if that is small; where it lies, if it is
//! large, and then its block is marked as one that outlives the worker; or, while its task has not ended, all that it takes to
//! run this task elsewhere, and the receiver asks for the value at once. A driver's objects leave nothing: its death ends the
//! job. What is done when an owner has died is in [`crate::adoption`].

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use ray_rs_ownership::{Inheritance, OwnerIndex, RefKind, RefSlot, TaskKey};
use ray_rs_proto::v1;
use ray_rs_types::address::{arena_owner, arena_shared};
use ray_rs_types::{ActorId, FunctionId, ObjectId, TaskId};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::describe::Moment;
use crate::lineage::SPEC_BYTES;
use crate::model::{FunctionIndex, FunctionSpec, Location, StoredValue, ValueData};
use crate::state::State;
use crate::submit::{Spec, Work};
use crate::wire::Coverage;

/// So much goes along with the references of one value, about; the receiver asks for the rest.
const MAX_BYTES: usize = 1 << 20;
/// What a will, a task and its place in a table take besides their data.
const OVERHEAD: usize = 128;
/// Values inside values go along so deep.
const MAX_DEPTH: u32 = 4;

/// How much may still go along.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    bytes: usize,
    depth: u32,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            bytes: MAX_BYTES,
            depth: MAX_DEPTH,
        }
    }
}

impl Allowance {
    fn take(&mut self, bytes: usize) -> bool {
        let enough = self.bytes >= bytes + OVERHEAD;
        if enough {
            self.bytes -= bytes + OVERHEAD;
        }
        enough
    }
}

/// An estate while it is put together.
#[derive(Default)]
struct Draft {
    estate: v1::Estate,
    /// The references of the table.
    slots: Vec<RefSlot>,
    known: FxHashSet<RefSlot>,
    tasks: FxHashMap<TaskKey, u32>,
    functions: FxHashMap<u32, u32>,
    allowance: Allowance,
}

impl Draft {
    /// The index of a reference; it is added if it is not there yet.
    fn place_of(&mut self, slot: RefSlot) -> (u32, bool) {
        if !self.known.insert(slot)
            && let Some(at) = self.slots.iter().position(|other| *other == slot)
        {
            return (at as u32, false);
        }
        self.slots.push(slot);
        (self.slots.len() as u32 - 1, true)
    }
}

impl State {
    // ---- in the sender -----------------------------------------------------------------------------------------

    /// Whether something goes along with a reference.
    fn leaves_something(&self, slot: RefSlot, receiver: OwnerIndex) -> bool {
        let owner = self.owner.owner(slot);
        let outlives = match owner {
            OwnerIndex::ME => !self.is_driver,
            _ => self.owner.does_outlive_owner(slot),
        };
        outlives && owner != receiver && self.owner.kind(slot) == RefKind::Value
    }

    /// The table of a value's references, with what goes along to `receiver`.
    pub fn refs_and_estate(
        &mut self,
        slots: &[RefSlot],
        receiver: OwnerIndex,
        allowance: &mut Allowance,
    ) -> v1::RefTable {
        let any = slots.iter().any(|slot| self.leaves_something(*slot, receiver));
        if !any || allowance.depth == 0 {
            return self.refs_to_wire(slots);
        }
        let mut draft = Draft {
            slots: slots.to_vec(),
            known: slots.iter().copied().collect(),
            allowance: Allowance {
                bytes: allowance.bytes,
                depth: allowance.depth - 1,
            },
            ..Draft::default()
        };
        let mut told = FxHashSet::default();
        let mut at = 0;
        while at < draft.slots.len() {
            let slot = draft.slots[at];
            if told.insert(slot) && self.leaves_something(slot, receiver) {
                let will = self.will_of(slot, at as u32, receiver, &mut draft);
                draft.estate.wills.push(will);
            }
            at += 1;
        }
        allowance.bytes = draft.allowance.bytes;
        draft.estate.only_here = (draft.slots.len() - slots.len()) as u32;
        let mut table = self.refs_to_wire(&draft.slots);
        table.estate = Some(Box::new(draft.estate));
        table
    }

    fn will_of(&mut self, slot: RefSlot, object: u32, receiver: OwnerIndex, draft: &mut Draft) -> v1::Will {
        self.owner.outlives_owner(slot);
        let mut will = v1::Will {
            object,
            ..v1::Will::default()
        };
        let value = self.owner.value(slot).map(|(value, _)| value.clone());
        let Some(value) = value else {
            will.ask = !self.owner.object(slot).is_some_and(|view| view.is_gone);
            will.task = self.task_of_will(slot, receiver, draft, true);
            return will;
        };
        self.owner.seen(slot);
        let bytes = match &value.data {
            ValueData::Inline(data) => data.len(),
            ValueData::Arena(location) => {
                let location = *location;
                self.share(slot, &location);
                // With arguments that are objects it is not made again: they would be kept for it all the time.
                will.task = self.task_of_will(slot, receiver, draft, false);
                0
            }
            ValueData::Empty | ValueData::Failed(_) => 0,
        };
        if draft.allowance.take(bytes) {
            will.value = Some(self.value_with_estate(&value, receiver, &mut draft.allowance));
        } else {
            will.ask = true;
        }
        will
    }

    /// The place of the task behind an object, and 1; 0 when it does not go along. `with_others`: also if it names objects.
    fn task_of_will(&mut self, slot: RefSlot, receiver: OwnerIndex, draft: &mut Draft, with_others: bool) -> u32 {
        let Some(key) = self.owner.task_behind(slot) else {
            return 0;
        };
        if let Some(place) = draft.tasks.get(&key) {
            return place + 1;
        }
        let names_others = !self.owner.deps(key).is_empty() || !self.owner.held(key).is_empty();
        let (retries_left, attempt) = (self.owner.retries_left(key), self.owner.attempt(key));
        let Some(spec) = self.owner.spec(key) else { return 0 };
        let Work::Normal(function) = spec.work else { return 0 };
        let data = match &spec.args.data {
            ValueData::Empty => bytes::Bytes::new(),
            ValueData::Inline(data) => data.clone(),
            ValueData::Arena(_) | ValueData::Failed(_) => return 0,
        };
        if retries_left == 0 || spec.streaming || spec.cancelled.is_some() || (names_others && !with_others) {
            return 0;
        }
        let mut task = v1::EstateTask {
            unique: spec.unique,
            num_returns: self.owner.num_returns(key) as u32,
            retries_left,
            attempt,
            args: Some(v1::Value {
                kind: spec.args.kind as u32,
                data,
                ..v1::Value::default()
            }),
            layout: spec.layout.clone(),
            kwarg_names: spec.kwarg_names.clone(),
            parent: spec.parent,
            dynamic: spec.dynamic,
            ..v1::EstateTask::default()
        };
        let nested = spec.nested.clone();
        let is_new_function = !draft.functions.contains_key(&function.0);
        let described = Arc::clone(self.function(function));
        let names: usize = task.kwarg_names.iter().map(String::len).sum();
        let mut bytes = task.args.as_ref().map_or(0, |args| args.data.len()) + task.layout.len() + names;
        if is_new_function {
            bytes += described.definition.len() + described.retry_exceptions.len() + described.runtime_env.len();
        }
        if !draft.allowance.take(bytes) {
            return 0;
        }
        if is_new_function {
            let place = draft.estate.functions.len() as u32;
            draft.functions.insert(function.0, place);
            draft.estate.functions.push(function_to_wire(&described));
        }
        task.function = draft.functions[&function.0];
        let deps: SmallVec<[RefSlot; 2]> = self.owner.deps(key).into();
        let mut place_of = |slot: &RefSlot| {
            let (place, is_new) = draft.place_of(*slot);
            if is_new {
                self.owner.grant_given(*slot, receiver, &mut self.owner_effects);
            }
            place
        };
        task.nested = nested.iter().map(&mut place_of).collect();
        task.deps = deps.iter().map(&mut place_of).collect();
        let place = draft.estate.tasks.len() as u32;
        draft.tasks.insert(key, place);
        draft.estate.tasks.push(task);
        place + 1
    }

    /// The block of an object of ours does not end with this process: the control store may choose another to see to it.
    pub fn share(&mut self, slot: RefSlot, location: &Location) {
        if self.owner.owner(slot) == OwnerIndex::ME && self.owner.value_shared(slot) {
            self.tell_block_of_its_owner(location);
        }
    }

    /// This process counts the references to what lies there, and is noted as who does.
    pub fn tell_block_of_its_owner(&mut self, location: &Location) {
        let owner = match self.is_driver {
            true => arena_owner(&self.me.worker_id),
            false => arena_shared(&self.me.worker_id),
        };
        match location.node {
            None => self.hand_over(location.offset, location.generation, owner),
            Some(node) => {
                let object = Some(v1::BlockName {
                    offset: location.offset,
                    generation: location.generation,
                });
                let message = v1::ObjectHandedOver { object, owner };
                self.tell_raylet_of(node.id(), v1::to_raylet::Body::ObjectHandedOver(message));
            }
        }
    }

    // ---- in the receiver ---------------------------------------------------------------------------------------

    /// What came along with the references in `slots`, each of which is held. Those whose owners are dead.
    pub fn estate_arrived(&mut self, estate: v1::Estate, slots: &[RefSlot]) -> Vec<RefSlot> {
        let functions: Vec<Option<FunctionIndex>> = estate
            .functions
            .into_iter()
            .map(|function| Some(self.register_function(function_from_wire(function)?)))
            .collect();
        let mut tasks: Vec<Option<TaskKey>> = Vec::with_capacity(estate.tasks.len());
        for task in estate.tasks {
            let function = functions.get(task.function as usize).copied().flatten();
            let key = function.and_then(|function| self.inherit(task, function, slots));
            tasks.push(key);
        }
        // From here on they are needed as long as one of these tasks is.
        for function in functions.into_iter().flatten() {
            self.functions.unuse(function.0);
        }
        let mut orphans = Vec::new();
        for will in estate.wills {
            let value = will.value.map(|value| self.value_from_wire(value, Coverage::Granted));
            let Some(slot) = slots.get(will.object as usize).copied() else {
                continue;
            };
            self.owner.outlives_owner(slot);
            let task = (will.task as usize)
                .checked_sub(1)
                .and_then(|at| tasks.get(at).copied().flatten());
            if let Some(key) = task
                && !self.owner.is_ready(slot)
            {
                self.owner.inherits(slot, key);
            }
            if let Some(value) = value {
                let is_error = value.is_error();
                let id = self.owner.id(slot);
                self.owner
                    .value_shown(slot, &id, value, is_error, &mut self.owner_effects);
                self.value_is_known(slot);
            } else if will.ask && !self.owner.is_ready(slot) && !self.peers.is_dead(self.owner.owner(slot)) {
                self.owner.ask_ahead(slot, &mut self.owner_effects);
            }
            if self.peers.is_dead(self.owner.owner(slot)) {
                orphans.push(slot);
            }
        }
        for key in tasks.into_iter().flatten() {
            self.owner.inheritance_read(key, &mut self.owner_effects);
        }
        orphans
    }

    /// The value of a borrowed object has come: its spec stays here only if it can be lost, and keeps nothing else.
    pub fn value_is_known(&mut self, slot: RefSlot) {
        let can_be_lost = self
            .owner
            .value(slot)
            .is_some_and(|(value, _)| matches!(value.data, ValueData::Arena(_)));
        if !can_be_lost || self.owner.inheritance_names_others(slot) {
            self.owner.forget_inheritance(slot, &mut self.owner_effects);
        }
    }

    fn inherit(&mut self, task: v1::EstateTask, function: FunctionIndex, slots: &[RefSlot]) -> Option<TaskKey> {
        let task_id = TaskId::new(task.unique, ActorId::nil_of(self.job));
        if let Some(known) = self.owner.inherited(&task_id) {
            return Some(known);
        }
        let at = |place: &u32| slots.get(*place as usize).copied();
        let nested: SmallVec<[RefSlot; 0]> = task.nested.iter().map(at).collect::<Option<_>>()?;
        let deps: SmallVec<[RefSlot; 2]> = task.deps.iter().map(at).collect::<Option<_>>()?;
        let mut args = self.value_from_wire(task.args?, Coverage::Granted);
        args.refs = SmallVec::new();
        let bytes = match &args.data {
            ValueData::Inline(data) => data.len() as u64,
            ValueData::Empty | ValueData::Arena(_) | ValueData::Failed(_) => 0,
        };
        nested
            .iter()
            .chain(&deps)
            .for_each(|slot| self.owner.local_added(*slot));
        let spec = Spec {
            work: Work::Normal(function),
            unique: task.unique,
            args: args.clone(),
            nested: nested.clone(),
            layout: task.layout,
            kwarg_names: task.kwarg_names,
            sent: None,
            parent: task.parent,
            cancelled: None,
            streaming: false,
            dynamic: task.dynamic,
            memory_retries: 0,
            backpressure: 0,
            since: Moment::now(),
            call_number: 0,
        };
        let inheritance = Inheritance {
            spec,
            num_returns: task.num_returns,
            deps,
            held: nested,
            retries_left: task.retries_left,
            attempt: task.attempt,
        };
        let effects = &mut self.owner_effects;
        Some(
            self.owner
                .spec_inherited(task_id, inheritance, SPEC_BYTES + bytes, args, effects),
        )
    }

    /// A call that will not be made has come with references: what came along with them is let go.
    pub fn discard_arguments(&mut self, task: v1::PushTask) {
        for value in task.args.into_iter().chain(task.deps) {
            if value.refs.as_ref().is_some_and(|refs| refs.estate.is_some()) {
                let value = self.value_from_wire(value, Coverage::ByTask);
                value.refs.iter().for_each(|slot| self.drop_local(*slot));
            }
        }
    }

    /// An argument of a call to an actor, which may keep the references in it when the caller is dead.
    pub fn argument_of_call(&mut self, value: &StoredValue, receiver: OwnerIndex) -> v1::Value {
        let mut wire = self.data_to_wire(value, receiver);
        if !value.refs.is_empty() {
            wire.refs = Some(self.refs_and_estate(&value.refs, receiver, &mut Allowance::default()));
        }
        wire
    }
}

/// The unit in which objects are adopted: all that one task makes, or what was put.
pub(crate) fn adoption_key(id: &ObjectId) -> Vec<u8> {
    match id.index() < ObjectId::FIRST_PUT_INDEX {
        true => id.task_id().0.to_vec(),
        false => id.0.to_vec(),
    }
}

fn function_to_wire(spec: &FunctionSpec) -> v1::EstateFunction {
    v1::EstateFunction {
        function_id: spec.id.0.to_vec(),
        name: spec.name.to_string(),
        resources: Some((&spec.resources).into()),
        runtime_env: spec.runtime_env.to_string(),
        strategy: spec.strategy.as_ref().map(Message::encode_to_vec).unwrap_or_default(),
        captures_children: spec.captures_children,
        max_retries: spec.max_retries,
        retry_exceptions: spec.retry_exceptions.clone(),
        max_calls: spec.max_calls,
        time_limit_ms: spec
            .time_limit
            .map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)),
        unlisted: spec.unlisted,
        definition: spec.definition.to_vec(),
    }
}

fn function_from_wire(wire: v1::EstateFunction) -> Option<FunctionSpec> {
    let strategy = match wire.strategy.is_empty() {
        true => None,
        false => Some(v1::SchedulingStrategy::decode(&*wire.strategy).ok()?),
    };
    Some(FunctionSpec {
        id: FunctionId::from_bytes(&wire.function_id).ok()?,
        name: wire.name.into(),
        resources: wire.resources.as_ref().map(Into::into).unwrap_or_default(),
        runtime_env: wire.runtime_env.into(),
        strategy,
        captures_children: wire.captures_children,
        max_retries: wire.max_retries,
        retry_exceptions: wire.retry_exceptions,
        max_calls: wire.max_calls,
        time_limit: Some(wire.time_limit_ms)
            .filter(|millis| *millis > 0)
            .map(Duration::from_millis),
        backpressure: 0,
        unlisted: wire.unlisted,
        definition: wire.definition.into(),
    })
}
