//! Values and references between the wire and this process's tables.

use bytes::Bytes;
use ray_rs_ownership::{OwnerIndex, RefKind, RefSlot};
use ray_rs_proto::v1;
use ray_rs_types::address::arena_owner;
use ray_rs_types::{ObjectId, WorkerAddress};
use smallvec::SmallVec;

use crate::estate::Allowance;
use crate::model::{Failure, ReadData, ReadValue, StoredValue, ValueData, ValueKind};
use crate::state::State;

/// `Value.kind` of a failure of the engine; its data is JSON.
const FAILURE: u32 = 5;

/// What the references of an arriving value bring with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// The sender granted each (OWN-2).
    Granted,
    /// The submitter holds them while the task runs (OWN-3).
    ByTask,
    /// The receiver owns them now, says a holder; what came along with their estate was granted.
    ToTheirAdopter,
}

impl StoredValue {
    pub fn none() -> Self {
        Self {
            kind: ValueKind::None,
            data: ValueData::Empty,
            refs: SmallVec::new(),
        }
    }

    pub fn failed(failure: Failure) -> Self {
        Self {
            kind: ValueKind::Error,
            data: ValueData::Failed(std::sync::Arc::new(failure)),
            refs: SmallVec::new(),
        }
    }

    pub fn is_error(&self) -> bool {
        self.kind == ValueKind::Error
    }
}

impl State {
    /// The value as it travels to `receiver`. With `grant` each reference in it is granted, and what its object leaves goes along.
    pub fn value_to_wire(&mut self, value: &StoredValue, receiver: OwnerIndex, grant: bool) -> v1::Value {
        let mut wire = self.data_to_wire(value, receiver);
        if !value.refs.is_empty() {
            wire.refs = Some(match grant {
                true => self.granted_refs(&value.refs, receiver, &mut Allowance::default()),
                false => self.refs_to_wire(&value.refs),
            });
        }
        wire
    }

    /// The same, granted, as a part of what goes along with a reference.
    pub fn value_with_estate(&mut self, value: &StoredValue, receiver: OwnerIndex, left: &mut Allowance) -> v1::Value {
        let mut wire = self.data_to_wire(value, receiver);
        if !value.refs.is_empty() {
            wire.refs = Some(self.granted_refs(&value.refs, receiver, left));
        }
        wire
    }

    fn granted_refs(&mut self, slots: &[RefSlot], receiver: OwnerIndex, left: &mut Allowance) -> v1::RefTable {
        for slot in slots {
            self.owner.grant_given(*slot, receiver, &mut self.owner_effects);
        }
        self.refs_and_estate(slots, receiver, left)
    }

    /// The value without its references.
    pub fn data_to_wire(&mut self, value: &StoredValue, receiver: OwnerIndex) -> v1::Value {
        let mut wire = v1::Value {
            kind: value.kind as u32,
            ..v1::Value::default()
        };
        match &value.data {
            ValueData::Empty => {}
            ValueData::Inline(bytes) => wire.data = bytes.clone(),
            ValueData::Arena(location) => {
                wire.location = Some(self.location_to_wire(location, receiver));
            }
            ValueData::Failed(failure) => {
                wire.kind = FAILURE;
                wire.data = serde_json::to_vec(&**failure).expect("a failure is plain data").into();
            }
        }
        wire
    }

    /// As [`Self::value_to_wire`], granted, for a value that is the receiver's from here on: its memory ends with the receiver.
    pub fn give_away(&mut self, value: &StoredValue, receiver: OwnerIndex) -> v1::Value {
        if let ValueData::Arena(location) = value.data
            && location.node.is_none()
        {
            let owner = arena_owner(&self.peers.address(receiver).worker_id);
            self.hand_over(location.offset, location.generation, owner);
        }
        self.value_to_wire(value, receiver, true)
    }

    pub fn refs_to_wire(&mut self, slots: &[RefSlot]) -> v1::RefTable {
        let mut table = v1::RefTable::default();
        let mut owners: SmallVec<[OwnerIndex; 4]> = SmallVec::new();
        let mut owner_of = Vec::with_capacity(slots.len());
        table.ids.reserve(slots.len() * ObjectId::SIZE);
        for (index, slot) in slots.iter().enumerate() {
            self.owner.index(*slot);
            table.ids.extend_from_slice(&self.owner.id(*slot).0);
            let owner = self.owner.owner(*slot);
            let at = owners.iter().position(|other| *other == owner).unwrap_or_else(|| {
                owners.push(owner);
                owners.len() - 1
            });
            owner_of.push(at as u32);
            if self.owner.kind(*slot) == RefKind::ActorHandle {
                table.actor_handles.push(index as u32);
            }
        }
        if owners.len() > 1 {
            table.owner_of = owner_of;
        }
        table.owners = owners
            .iter()
            .map(|owner| (&self.peers.address(*owner)).into())
            .collect();
        table
    }

    /// One local count on each reference of the value, in order; ill-formed parts are left out.
    pub fn refs_from_wire(&mut self, table: Option<v1::RefTable>, coverage: Coverage) -> SmallVec<[RefSlot; 0]> {
        let (slots, orphans) = self.refs_and_orphans(table, coverage);
        if !orphans.is_empty() {
            self.orphaned(orphans);
        }
        slots
    }

    /// The same, and those whose owners are known to be dead.
    pub fn refs_and_orphans(
        &mut self,
        table: Option<v1::RefTable>,
        coverage: Coverage,
    ) -> (SmallVec<[RefSlot; 0]>, Vec<RefSlot>) {
        let mut slots = SmallVec::new();
        let Some(mut table) = table else {
            return (slots, Vec::new());
        };
        let estate = table.estate.take();
        let only_here = estate.as_ref().map_or(0, |estate| estate.only_here as usize);
        let own = (table.ids.len() / ObjectId::SIZE).saturating_sub(only_here);
        let owners: Vec<OwnerIndex> = table
            .owners
            .iter()
            .filter_map(|owner| WorkerAddress::try_from(owner).ok())
            .map(|owner| self.owner_index(&owner))
            .collect();
        for (index, id) in table.ids.chunks_exact(ObjectId::SIZE).enumerate() {
            let id = ObjectId::from_bytes(id).expect("chunks are of the size of an id");
            let owner = table.owner_of.get(index).copied().unwrap_or(0) as usize;
            let Some(owner) = owners.get(owner).copied() else { break };
            let is_handle = table.actor_handles.contains(&(index as u32));
            let kind = if is_handle {
                RefKind::ActorHandle
            } else {
                RefKind::Value
            };
            let slot = self.owner.imported(id, owner, kind);
            let is_granted = coverage == Coverage::Granted || index >= own;
            if coverage == Coverage::ToTheirAdopter && index < own {
                self.owner.will_comes(slot, owner);
            } else if kind == RefKind::Value && self.owner.owner(slot) != owner {
                self.owners_differ(slot, owner, u32::from(is_granted));
            } else if is_granted {
                self.owner.grant_received(slot);
            }
            slots.push(slot);
        }
        let Some(estate) = estate else {
            return (slots, Vec::new());
        };
        let orphans = self.estate_arrived(*estate, &slots);
        for slot in slots.drain(own.min(slots.len())..) {
            self.owner.local_dropped(slot, &mut self.owner_effects);
        }
        (slots, orphans)
    }

    pub fn value_from_wire(&mut self, wire: v1::Value, coverage: Coverage) -> StoredValue {
        let refs = self.refs_from_wire(wire.refs, coverage);
        let kind = match wire.kind {
            0 => ValueKind::None,
            1 => ValueKind::Raw,
            2 => ValueKind::Pickle,
            3 => ValueKind::Laid,
            4 => ValueKind::Error,
            FAILURE => {
                return StoredValue::failed(serde_json::from_slice(&wire.data).unwrap_or_else(|error| {
                    Failure::System {
                        message: format!("an unreadable failure arrived: {error}"),
                    }
                }));
            }
            other => {
                return StoredValue::failed(Failure::System {
                    message: format!("a value of unknown kind {other}"),
                });
            }
        };
        let data = match wire.location {
            Some(location) => ValueData::Arena(self.location_from_wire(&location)),
            None if kind == ValueKind::None => ValueData::Empty,
            None => ValueData::Inline(wire.data),
        };
        StoredValue { kind, data, refs }
    }

    /// The value in this process's memory; one more local count on each reference for the reader.
    pub fn read_value(&mut self, value: &StoredValue) -> Result<ReadValue, Box<Failure>> {
        let data = match &value.data {
            ValueData::Empty => ReadData::Empty,
            ValueData::Inline(bytes) => ReadData::Inline(bytes.clone()),
            ValueData::Arena(location) if location.node.is_some() => match self.read_brought(location) {
                Some(Ok(copy)) => ReadData::Copied(copy),
                // Whoever brings it hears why it is lost.
                Some(Err(_)) | None => ReadData::Away(*location),
            },
            ValueData::Arena(location) => match self.pin(*location) {
                Some(pin) => ReadData::Arena(pin),
                None => ReadData::Away(*location),
            },
            ValueData::Failed(failure) => return Err(Box::new((**failure).clone())),
        };
        for slot in &value.refs {
            self.owner.local_added(*slot);
        }
        Ok(ReadValue {
            kind: value.kind,
            data,
            refs: value.refs.to_vec(),
        })
    }
}

impl ReadValue {
    pub fn empty() -> Self {
        Self {
            kind: ValueKind::None,
            data: ReadData::Empty,
            refs: Vec::new(),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            ReadData::Empty => &[],
            ReadData::Inline(bytes) => bytes,
            ReadData::Arena(pin) | ReadData::Copied(pin) => pin,
            // Whoever decodes a value has brought it here before.
            ReadData::Away(_) => &[],
        }
    }
}

impl Failure {
    /// What stands in the place of an argument that was lost.
    pub fn from_argument(bytes: &[u8]) -> Option<Self> {
        // No pickle begins like that.
        bytes.starts_with(b"{").then(|| serde_json::from_slice(bytes).ok())?
    }
}

/// A failure seen as the data of an argument, for a worker whose argument turned out to be lost.
pub(crate) fn lost_argument(failure: &Failure) -> ReadValue {
    let text = serde_json::to_vec(failure).expect("a failure is plain data");
    ReadValue {
        kind: ValueKind::Error,
        data: ReadData::Inline(Bytes::from(text)),
        refs: Vec::new(),
    }
}
