//! Values that are lost: whoever reads one and cannot have it tells its owner, and the owner has its task run again.
//!
//! The owner's table ([`ray_rs_ownership`]) decides what is kept and what is made again. Here is what only a process knows:
//! which values can be lost at all (those in an arena), how it is noticed (the raylet has no such block and no file of it,
//! or could not fetch it), and how those hear of it who only borrow the object or were sent it as an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ray_rs_ownership::{AfterEnd, NoLineage, OwnerIndex, RefSlot, TaskKey, TaskState};
use ray_rs_proto::v1;
use smallvec::SmallVec;

use crate::core::{CoreWorker, Interrupt};
use crate::describe::Moment;
use crate::model::{
    CoreError, Failure, Location, NotMadeAgain, Read, ReadData, ReadValue, StoredValue, ValueData, ValueKind,
    WaitOutcome,
};
use crate::state::State;
use crate::submit::{Spec, Work};
use crate::wire::{Coverage, lost_argument};

/// Bytes that the specs of finished tasks may take; 0: none is kept.
pub(crate) const LIMIT: &str = "RAY_max_lineage_bytes";

/// What a kept spec takes besides its arguments, with the entries of its returns.
pub(crate) const SPEC_BYTES: u64 = 512;

/// Why a value could not be read to the end.
pub enum NotRead {
    /// The wait for it ended otherwise; never [`WaitOutcome::Satisfied`].
    Waited(WaitOutcome),
    Refused(CoreError),
}

/// The top-level references of a task or constructor, for which values were sent. The submitter holds them.
#[derive(Debug, Default)]
pub struct ArgumentRefs(pub(crate) Option<Box<v1::RefTable>>);

impl Location {
    fn is_same(&self, other: &Self) -> bool {
        (self.node, self.offset, self.generation) == (other.node, other.offset, other.generation)
    }
}

impl StoredValue {
    /// What is sent for an argument that is being made again: its receiver finds nothing there, and asks the owner.
    pub fn nowhere() -> Self {
        let location = Location {
            offset: 0,
            length: 0,
            // No block ever has it.
            generation: 0,
            holder: None,
            node: None,
        };
        Self {
            kind: ValueKind::Pickle,
            data: ValueData::Arena(location),
            refs: SmallVec::new(),
        }
    }
}

impl From<NoLineage> for NotMadeAgain {
    fn from(why: NoLineage) -> Self {
        match why {
            NoLineage::Put => Self::Put,
            NoLineage::RetriesDisabled => Self::RetriesDisabled,
            NoLineage::AttemptsExceeded => Self::AttemptsExceeded,
            NoLineage::Evicted => Self::LineageEvicted,
            NoLineage::ActorCall => Self::ActorCall,
            NoLineage::Generator => Self::Generator,
            NoLineage::NotKept | NoLineage::Adopted => Self::NotKept,
        }
    }
}

fn not_made_again(why: NoLineage, message: String) -> Failure {
    match why {
        NoLineage::Adopted => Failure::owner_died_and(&message),
        why => Failure::NotMadeAgain {
            why: why.into(),
            message,
        },
    }
}

impl State {
    // ---- in the owner ------------------------------------------------------------------------------------------

    /// What becomes of the spec of a task that ends with these values.
    pub fn after_end(&self, key: TaskKey, values: &[(StoredValue, bool)]) -> AfterEnd<StoredValue> {
        let can_be_lost = |value: &StoredValue| matches!(value.data, ValueData::Arena(_));
        let any_return = values.iter().any(|(value, _)| can_be_lost(value));
        match self.owner.spec(key) {
            Some(spec) if any_return || self.owner.any_item(key, can_be_lost) => self.keep_or_not(key, spec),
            Some(_) | None => AfterEnd::Forget(NoLineage::NotKept),
        }
    }

    fn keep_or_not(&self, key: TaskKey, spec: &Spec) -> AfterEnd<StoredValue> {
        match spec.work {
            Work::Normal(function) if self.function(function).max_retries == 0 => {
                return AfterEnd::Forget(NoLineage::RetriesDisabled);
            }
            Work::Normal(_) => {}
            Work::Call { method, .. } => {
                let method = self.method(method);
                // A durable actor's state has the call in it: it would not run.
                if method.max_task_retries == 0 || method.is_durable {
                    return AfterEnd::Forget(NoLineage::ActorCall);
                }
            }
            Work::Creation(_) | Work::Group => return AfterEnd::Forget(NoLineage::NotKept),
        }
        if self.owner.retries_left(key) == 0 {
            return AfterEnd::Forget(NoLineage::AttemptsExceeded);
        }
        let inline = match &spec.args.data {
            ValueData::Inline(data) => data.len() as u64,
            ValueData::Empty | ValueData::Arena(_) | ValueData::Failed(_) => 0,
        };
        let names: usize = spec.kwarg_names.iter().map(String::len).sum();
        AfterEnd::Keep {
            bytes: SPEC_BYTES + inline + (spec.layout.len() + names) as u64,
            arguments: spec.args.clone(),
        }
    }

    /// A task that had finished runs once more.
    pub fn task_again(&mut self, key: TaskKey) {
        let attempt = self.owner.attempt(key);
        let Some(spec) = self.owner.spec_mut(key) else { return };
        spec.since = Moment::now();
        // Of a generator: nobody takes items that were taken, which it would wait for.
        spec.backpressure = 0;
        let (work, unique) = (spec.work, spec.unique);
        let (name, limit) = match work {
            Work::Normal(function) => {
                let function = self.function(function);
                (Arc::clone(&function.name), function.time_limit)
            }
            Work::Call { method, .. } => {
                let method = self.method(method);
                (Arc::clone(&method.name), method.time_limit)
            }
            Work::Creation(_) | Work::Group => return,
        };
        tracing::info!(name = &*name, attempt, "a lost value is made again");
        if let Some(limit) = limit {
            self.limit_time(key, unique, limit);
        }
        if let Work::Call { actor, .. } = work {
            self.call_runs_again(actor, key);
        }
    }

    /// A value that somebody needs is gone, and its task forgotten.
    pub fn cannot_be_made(&mut self, slot: RefSlot) {
        let failure = not_made_again(
            self.owner.no_lineage(slot),
            "it was lost, or not kept any longer".to_owned(),
        );
        let value = StoredValue::failed(failure);
        self.owner.fetched(slot, value, true, &mut self.owner_effects);
    }

    /// The value that lay at `location` could not be had. `None`: the object is not ready any more, or has another value by
    /// now, and is to be waited for and read again; else what is to be raised.
    pub fn value_lost(&mut self, slot: RefSlot, location: &Location, failure: Box<Failure>) -> Option<Box<Failure>> {
        let Failure::ObjectLost {
            owner_died: false,
            message,
        } = *failure
        else {
            return Some(failure);
        };
        let owner = self.owner.owner(slot);
        match self.owner.value(slot).map(|(value, _)| &value.data) {
            Some(ValueData::Arena(known)) if known.is_same(location) => {}
            None if owner != OwnerIndex::ME => {
                self.lost_places.insert(slot, (*location, message));
                return None;
            }
            Some(_) | None => return None,
        }
        if self.peers.is_dead(owner) && self.owner.task_behind(slot).is_none() {
            return Some(Box::new(Failure::owner_died_and(&message)));
        }
        if let Some(why) = self.no_second_run(slot) {
            return Some(Box::new(Failure::NotMadeAgain { why, message }));
        }
        let others = self.lost_with(slot, location);
        let outcome = self.owner.value_lost(slot, &mut self.owner_effects);
        if outcome.is_ok() {
            for other in others {
                let _ = self.owner.value_lost(other, &mut self.owner_effects);
            }
        }
        self.run_effects();
        match outcome {
            Ok(()) => {
                if owner != OwnerIndex::ME {
                    self.lost_places.insert(slot, (*location, message));
                }
                None
            }
            Err(why) => Some(Box::new(not_made_again(why, message))),
        }
    }

    /// What is probably lost with a value on another node, since the node is. What the same task made: one more run of it is
    /// enough for all. And of a call of an actor, what it was given, with what the calls were given that made that: the actor
    /// could not find out, as it would wait, in the call, for its own answer to an earlier one.
    fn lost_with(&self, slot: RefSlot, location: &Location) -> Vec<RefSlot> {
        if location.node.is_none() {
            return Vec::new();
        }
        let lies_there = |other: &RefSlot| match self.owner.value(*other).map(|(value, _)| &value.data) {
            Some(ValueData::Arena(known)) => known.node == location.node,
            Some(ValueData::Empty | ValueData::Inline(_) | ValueData::Failed(_)) | None => false,
        };
        let mut all = self.owner.made_with(slot);
        all.retain(lies_there);
        let mut made = vec![slot];
        while let Some(slot) = made.pop() {
            let Some(key) = self.owner.task_behind(slot) else {
                continue;
            };
            if !matches!(self.owner.spec(key).map(|spec| spec.work), Some(Work::Call { .. })) {
                continue;
            }
            let given = self.owner.deps(key).iter().copied().filter(lies_there);
            for argument in given.collect::<Vec<_>>() {
                if !all.contains(&argument) {
                    all.push(argument);
                    made.push(argument);
                }
            }
        }
        all
    }

    /// Of an item of a generator that still runs: why there would be no second run, if so. One that does not go on before
    /// items are taken might never end.
    fn no_second_run(&self, slot: RefSlot) -> Option<NotMadeAgain> {
        let key = self.owner.task_behind(slot)?;
        let spec = self.owner.spec(key).filter(|spec| spec.streaming)?;
        if self.owner.task_state(key) == Some(TaskState::Lineage) {
            return None;
        }
        match self.keep_or_not(key, spec) {
            AfterEnd::Forget(why) => Some(why.into()),
            AfterEnd::Keep { .. } => (spec.backpressure > 0).then_some(NotMadeAgain::Generator),
        }
    }

    /// A borrower asks for the object since the value that it knew is lost; what it is to be told at once, if anything.
    pub fn value_lost_elsewhere(&mut self, slot: RefSlot, lost: &v1::LostValue) -> Option<StoredValue> {
        let location = self.location_from_wire(lost.location.as_ref()?);
        let failure = Failure::ObjectLost {
            owner_died: false,
            message: lost.why.clone(),
        };
        let failure = self.value_lost(slot, &location, Box::new(failure))?;
        Some(StoredValue::failed(*failure))
    }

    // ---- in a borrower -----------------------------------------------------------------------------------------

    /// What the owner of `slot`, who is asked for its value, has to know of the one that was lost.
    pub fn lost_value_of(&mut self, slot: RefSlot) -> Option<v1::LostValue> {
        let (location, why) = self.lost_places.remove(&slot)?;
        let mut location = v1::ObjectLocation::from(&location);
        if location.node_id.is_empty() {
            location.node_id = self.me.node_id.0.to_vec();
        }
        Some(v1::LostValue {
            location: Some(location),
            why,
        })
    }

    /// To be sent with the values of a task's top-level references, if any of these can be lost.
    pub fn argument_refs(&mut self, key: TaskKey, deps: &[v1::Value]) -> Option<v1::RefTable> {
        if !deps.iter().any(|value| value.location.is_some()) {
            return None;
        }
        let slots = self.owner.deps(key).to_vec();
        Some(self.refs_to_wire(&slots))
    }
}

impl CoreWorker {
    /// Reads a value, and waits as long as it is not ready, or not here, or lost and being made again. `read`: what was
    /// read of it just now.
    ///
    /// # Errors
    /// [`NotRead`]: it is not ready at the deadline, or the wait was interrupted, or the raylet refuses.
    pub fn read_whole(
        self: &Arc<Self>,
        slot: RefSlot,
        mut read: Option<Read>,
        deadline: Option<Instant>,
        interrupt: Interrupt<'_>,
    ) -> Result<Read, NotRead> {
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        loop {
            let Some(found) = read.take().or_else(|| self.try_read(slot)) else {
                match self.wait(&[slot], 1, left(), false, interrupt) {
                    WaitOutcome::Satisfied => continue,
                    other => return Err(NotRead::Waited(other)),
                }
            };
            let mut value = match found {
                Read::Value(value) => value,
                failed @ Read::Failed(_) => return Ok(failed),
            };
            let ReadData::Away(location) = value.data else {
                return Ok(Read::Value(value));
            };
            let brought = self.bring(&[location], left(), interrupt).and_then(|mut all| {
                let nothing = || CoreError::Gcs("the raylet answered something else".to_owned());
                all.pop().ok_or_else(nothing)
            });
            if let Ok(Ok(data)) = brought {
                value.data = data;
                return Ok(Read::Value(value));
            }
            value.refs.iter().for_each(|slot| self.drop_ref(*slot));
            match brought {
                Ok(Err(failure)) => {
                    if let Some(failure) = self.value_lost(slot, &location, failure) {
                        return Ok(Read::Failed(*failure));
                    }
                }
                Err(CoreError::TimedOut { .. }) if deadline.is_some() => {
                    return Err(NotRead::Waited(WaitOutcome::TimedOut));
                }
                Err(error) => return Err(NotRead::Refused(error)),
                Ok(Ok(_)) => unreachable!("looked at above"),
            }
        }
    }

    /// The value that was read as being at `location` could not be had from there. `None`: wait for the object and read it
    /// again; else what is to be raised.
    pub fn value_lost(&self, slot: RefSlot, location: &Location, failure: Box<Failure>) -> Option<Box<Failure>> {
        self.with(|state| state.value_lost(slot, location, failure))
    }

    /// An argument that was sent as the value at `location`, which is lost: from its owner, who may have to make it again.
    pub(crate) fn argument_from_owner(
        self: &Arc<Self>,
        refs: &ArgumentRefs,
        index: usize,
        location: &Location,
        failure: Box<Failure>,
        interrupt: Interrupt<'_>,
    ) -> Result<ReadValue, CoreError> {
        let Some(table) = &refs.0 else {
            return Ok(lost_argument(&failure));
        };
        let slot = self.with(|state| {
            let slots = state.refs_from_wire(Some((**table).clone()), Coverage::ByTask);
            let slot = slots.get(index).copied();
            let others = slots.iter().enumerate().filter(|(other, _)| *other != index);
            others.for_each(|(_, other)| state.drop_local(*other));
            state.run_effects();
            slot
        });
        let Some(slot) = slot else {
            return Ok(lost_argument(&failure));
        };
        let read = match self.value_lost(slot, location, failure) {
            Some(failure) => Ok(Read::Failed(*failure)),
            None => self.read_whole(slot, None, None, interrupt),
        };
        self.drop_ref(slot);
        match read {
            Ok(Read::Value(value)) => Ok(value),
            Ok(Read::Failed(failure)) => Ok(lost_argument(&failure)),
            Err(NotRead::Refused(error)) => Err(error),
            Err(NotRead::Waited(outcome)) => Err(match outcome {
                WaitOutcome::Interrupted => CoreError::Interrupted,
                WaitOutcome::Deadlocked(why) => return Ok(lost_argument(&Failure::System { message: why })),
                WaitOutcome::Disconnected | WaitOutcome::Satisfied => CoreError::RayletDied,
                WaitOutcome::TimedOut => CoreError::TimedOut {
                    what: "an argument that is made again".to_owned(),
                    after: Duration::ZERO,
                },
            }),
        }
    }
}
