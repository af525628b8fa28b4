//! Objects that are not where they were made: on disk, or brought back from there by somebody.
//!
//! The raylet knows. It keeps in memory what it answers until it hears that this process has pinned it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ray_rs_object_store::{LentMap, Pin};
use ray_rs_ownership::RefSlot;
use ray_rs_proto::v1;

use crate::control::ROOM_TIMEOUT;
use crate::core::{CoreWorker, Interrupt};
use crate::lineage::ArgumentRefs;
use crate::model::{CoreError, Failure, HostEvent, Location, ReadData, ReadValue, ValueData, WaitOutcome};
use crate::state::{Answer, Question, State};

/// What became of an object that was asked for.
pub type Brought = Result<Result<ReadData, Box<Failure>>, CoreError>;

/// Objects are asked for ahead of the one that is waited for up to so many bytes.
const AHEAD_BYTES: u64 = 64 << 20;
/// Places of objects that were brought back are forgotten when there are so many: the raylet still knows.
const MAX_MOVED: usize = 1 << 16;

impl State {
    /// Where the object is now, as far as this process knows.
    pub fn pin(&mut self, location: Location) -> Option<Pin> {
        let Location {
            offset,
            length,
            generation,
            ..
        } = location;
        if let Some(pin) = self.arena.pin(offset, length, generation) {
            return Some(pin);
        }
        let moved = *self.moved.get(&(offset, generation))?;
        let pin = self.arena.pin(moved.offset, moved.length, moved.generation);
        if pin.is_none() {
            self.moved.remove(&(offset, generation));
        }
        pin
    }

    /// Whether it is in memory. (What lies on another node is no concern of this module.)
    pub fn is_here(&self, location: &Location) -> bool {
        if location.node.is_some() {
            return true;
        }
        let moved = self.moved.get(&(location.offset, location.generation));
        self.arena.is_there(location.offset, location.generation)
            || moved.is_some_and(|moved| self.arena.is_there(moved.offset, moved.generation))
    }

    /// Tells the raylet that these will soon be wanted, and are not in memory.
    pub fn bring_ahead(&mut self, away: &[Location]) {
        let objects: Vec<v1::BlockName> = away.iter().map(name).collect();
        if !objects.is_empty() {
            let request_id = self.fresh_request();
            self.tell_raylet(v1::to_raylet::Body::RestoreObjects(v1::RestoreObjects {
                request_id,
                objects,
                ahead: true,
            }));
        }
    }
}

fn lost(message: &str) -> Box<Failure> {
    Box::new(Failure::ObjectLost {
        owner_died: false,
        message: message.to_owned(),
    })
}

/// The object is there; it just cannot be read here.
fn broken(message: &str) -> Box<Failure> {
    Box::new(Failure::System {
        message: message.to_owned(),
    })
}

fn take_lent(lent: &Bytes, location: Location, at: u64) -> Result<ReadData, Box<Failure>> {
    let end = at.checked_add(location.length).filter(|end| *end <= lent.len() as u64);
    let end = end.ok_or_else(|| broken("the memory that it was brought back to is too small"))?;
    Ok(ReadData::Inline(lent.slice(at as usize..end as usize)))
}

fn name(location: &Location) -> v1::BlockName {
    v1::BlockName {
        offset: location.offset,
        generation: location.generation,
    }
}

impl CoreWorker {
    /// Brings objects back, all of them at once; what became of each, in order.
    ///
    /// # Errors
    /// [`CoreError::StoreFull`] when there is no room for all of them, [`CoreError::TimedOut`], and as for any question.
    pub fn bring(
        self: &Arc<Self>,
        locations: &[Location],
        timeout: Option<Duration>,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Result<ReadData, Box<Failure>>>, CoreError> {
        if locations.iter().any(|location| location.node.is_some()) {
            return self.bring_from_nodes(locations, timeout, interrupt);
        }
        let mut request = 0;
        let send = |state: &mut State, request_id: u64| {
            request = request_id;
            let objects = locations.iter().map(name).collect();
            state.tell_raylet(v1::to_raylet::Body::RestoreObjects(v1::RestoreObjects {
                request_id,
                objects,
                ahead: false,
            }));
        };
        let timeout = timeout.unwrap_or(ROOM_TIMEOUT).min(ROOM_TIMEOUT);
        let answer = self.ask_with(send, "an object that is on disk", timeout, interrupt)?;
        let Answer::Restored(restored, memory) = answer else {
            return Err(CoreError::Gcs("the raylet answered something else".to_owned()));
        };
        debug_assert_eq!(restored.request_id, request);
        self.with(|state| state.take_all(locations, &restored, memory))
    }

    /// The same when some of them lie on other nodes.
    fn bring_from_nodes(
        self: &Arc<Self>,
        locations: &[Location],
        timeout: Option<Duration>,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Result<ReadData, Box<Failure>>>, CoreError> {
        let (elsewhere, here): (Vec<Location>, Vec<Location>) =
            locations.iter().partition(|location| location.node.is_some());
        let mut here = match here.is_empty() {
            true => Vec::new(),
            false => self.bring(&here, timeout, interrupt)?,
        }
        .into_iter();
        let (outcome, _fetched) = self.fetch(elsewhere, timeout, interrupt);
        match outcome {
            WaitOutcome::Satisfied => {}
            WaitOutcome::TimedOut => {
                return Err(CoreError::TimedOut {
                    what: "an object of another node".to_owned(),
                    after: timeout.unwrap_or_default(),
                });
            }
            WaitOutcome::Interrupted => return Err(CoreError::Interrupted),
            WaitOutcome::Disconnected | WaitOutcome::Deadlocked(_) => return Err(CoreError::RayletDied),
        }
        let state = self.state.lock();
        let gone = || lost("its memory was freed: its owner no longer held it");
        let one = |location: &Location| match location.node {
            None => here.next().unwrap_or_else(|| Err(gone())),
            Some(_) => state
                .read_brought(location)
                .unwrap_or_else(|| Err(gone()))
                .map(ReadData::Copied),
        };
        Ok(locations.iter().map(one).collect())
    }

    /// Brings one object back without waiting. [`HostEvent::Ready`] with `token` says that [`Self::take_brought`] has it.
    pub fn bring_for(&self, token: u64, location: Location) {
        self.with(|state| {
            if state.raylet_dead || state.closed {
                state.brought.insert(token, Err(CoreError::RayletDied));
                return state.after.host.push(HostEvent::Ready(vec![token]));
            }
            if location.node.is_some() {
                return state.pull_for(token, &location);
            }
            let request_id = state.fresh_request();
            state.questions.insert(request_id, Question::Bring { token, location });
            state.tell_raylet(v1::to_raylet::Body::RestoreObjects(v1::RestoreObjects {
                request_id,
                objects: vec![name(&location)],
                ahead: false,
            }));
        });
    }

    /// What came of [`Self::bring_for`]; `None` when nothing has come yet.
    pub fn take_brought(&self, token: u64) -> Option<Brought> {
        self.with(|state| state.brought.remove(&token))
    }

    /// Brings back whatever of a task's arguments is away: all of this node's at once, so that of two tasks that need more
    /// than the store holds one gets what it needs. What is lost comes from the owner of its reference, which may have to make
    /// it again; of what cannot be had there is the error in its place. `own`, the arguments by value, have no owner but the
    /// submitter: these stay away.
    ///
    /// # Errors
    /// As [`Self::bring`].
    pub fn bring_arguments(
        self: &Arc<Self>,
        own: &mut ReadValue,
        deps: &mut [ReadValue],
        refs: &ArgumentRefs,
        interrupt: Interrupt<'_>,
    ) -> Result<(), CoreError> {
        let is_away = |value: &ReadValue| matches!(value.data, ReadData::Away(_));
        if !is_away(own) && !deps.iter().any(is_away) {
            return Ok(());
        }
        let mut wanted = Vec::new();
        let mut locations = Vec::new();
        let values = deps.iter_mut().enumerate().map(|(index, value)| (Some(index), value));
        for (index, value) in values.chain([(None, own)]) {
            let location = match &value.data {
                // A copy stays where it is: it might be gone for good when it is asked for again by its place here. (Whoever
                // waits for room is lent some in the end, so two tasks cannot wait for what the other holds.)
                ReadData::Empty | ReadData::Inline(_) | ReadData::Copied(_) => continue,
                ReadData::Away(location) => *location,
                ReadData::Arena(pin) => {
                    let (offset, length, generation) = pin.place();
                    Location {
                        offset,
                        length,
                        generation,
                        holder: None,
                        node: None,
                    }
                }
            };
            locations.push(location);
            wanted.push((index, value));
        }
        // Nothing is held while this waits.
        for ((_, value), location) in wanted.iter_mut().zip(&locations) {
            value.data = ReadData::Away(*location);
        }
        let brought = self.bring(&locations, None, interrupt)?;
        for (((index, value), location), outcome) in wanted.into_iter().zip(&locations).zip(brought) {
            match (outcome, index) {
                (Ok(data), _) => value.data = data,
                (Err(failure), Some(index)) => {
                    let again = self.argument_from_owner(refs, index, location, failure, interrupt)?;
                    let before = std::mem::replace(value, again);
                    before.refs.iter().for_each(|slot| self.drop_ref(*slot));
                }
                (Err(_), None) => {}
            }
        }
        Ok(())
    }

    /// These will be read one after the other, the first of them now: those that come next are on their way meanwhile.
    /// How many of them were looked at.
    pub fn bring_next(&self, slots: &[RefSlot]) -> usize {
        self.with(|state| {
            let mut bytes = 0;
            let mut locations = Vec::new();
            let mut seen = 0;
            for slot in slots {
                if let Some(ValueData::Arena(location)) = state.owner.value(*slot).map(|(value, _)| &value.data) {
                    bytes += location.length;
                    if bytes > AHEAD_BYTES && seen > 0 {
                        break;
                    }
                    if !state.is_here(location) {
                        locations.push(*location);
                    }
                }
                seen += 1;
            }
            state.bring_ahead(&locations);
            seen
        })
    }
}

/// Whether a descriptor comes with a message.
pub(crate) fn carries_memory(message: &v1::FromRaylet) -> bool {
    match &message.body {
        Some(v1::from_raylet::Body::ObjectsRestored(restored)) => restored.objects.iter().any(|object| object.lent),
        _ => false,
    }
}

impl State {
    pub fn brought_for(
        &mut self,
        token: u64,
        location: Location,
        restored: &v1::ObjectsRestored,
        memory: Option<OwnedFd>,
    ) {
        let taken = self.take_all(&[location], restored, memory);
        let brought = taken.and_then(|mut all| {
            let nothing = || CoreError::Gcs("the raylet answered something else".to_owned());
            all.pop().ok_or_else(nothing)
        });
        self.brought.insert(token, brought);
        self.after.host.push(HostEvent::Ready(vec![token]));
    }

    /// Nothing more comes from the raylet.
    pub fn bring_nothing_more(&mut self) {
        let asked = self
            .questions
            .extract_if(|_, question| matches!(question, Question::Bring { .. }));
        let tokens: Vec<u64> = asked
            .filter_map(|(_, question)| match question {
                Question::Bring { token, .. } => Some(token),
                _ => None,
            })
            .collect();
        for token in &tokens {
            self.brought.insert(*token, Err(CoreError::RayletDied));
        }
        if !tokens.is_empty() {
            self.after.host.push(HostEvent::Ready(tokens));
        }
        self.pull_nothing_more();
    }

    /// What became of each object, once it is pinned here; then the raylet need hold it no longer.
    fn take_all(
        &mut self,
        locations: &[Location],
        restored: &v1::ObjectsRestored,
        memory: Option<OwnedFd>,
    ) -> Result<Vec<Result<ReadData, Box<Failure>>>, CoreError> {
        if !restored.error.is_empty() {
            let text = restored.error.clone();
            return Err(match restored.out_of_disk {
                true => CoreError::OutOfDisk(text),
                false => CoreError::StoreFull(text),
            });
        }
        let lent = memory
            .and_then(|file| LentMap::attach(file).ok())
            .map(Bytes::from_owner);
        let found = locations.iter().zip(&restored.objects);
        let values = found
            .map(|(location, object)| match (&lent, object.lent) {
                (_, false) => self.take_restored(*location, object),
                (Some(lent), true) => take_lent(lent, *location, object.offset),
                (None, true) => Err(broken("the memory that it was brought back to cannot be mapped")),
            })
            .collect();
        let request_id = restored.request_id;
        self.tell_raylet(v1::to_raylet::Body::RestoredTaken(v1::RestoredTaken { request_id }));
        Ok(values)
    }

    fn take_restored(&mut self, location: Location, object: &v1::RestoredObject) -> Result<ReadData, Box<Failure>> {
        if object.length == 0 && object.generation == 0 {
            return Err(lost(match object.lost.as_str() {
                "" => "its memory was freed: its owner no longer held it",
                why => why,
            }));
        }
        let Some(pin) = self.arena.pin(object.offset, location.length, object.generation) else {
            let copied = self.arena.copy_out(object.offset, location.length, object.generation);
            let bytes = copied.ok_or_else(|| lost("its memory was freed: its owner no longer held it"))?;
            return Ok(ReadData::Inline(Bytes::from(bytes)));
        };
        if object.offset != location.offset || object.generation != location.generation {
            if self.moved.len() >= MAX_MOVED {
                self.moved.clear();
            }
            let moved = Location {
                offset: object.offset,
                length: location.length,
                generation: object.generation,
                holder: None,
                node: None,
            };
            self.moved.insert((location.offset, location.generation), moved);
        }
        Ok(ReadData::Arena(pin))
    }
}
