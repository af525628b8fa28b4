//! The death of an owner: who holds its objects asks the control store who is to own them now, and owns them, or borrows them
//! from the one chosen (`FT-4` in `docs/failure-model.md`). What it takes to have them came with their references
//! ([`crate::estate`]).

use prost::Message;
use ray_rs_ownership::{OwnerIndex, RefSlot};
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::{ObjectId, WorkerAddress};

use crate::estate::{Allowance, adoption_key};
use crate::model::{Failure, StoredValue, ValueData};
use crate::peers::PeerIndex;
use crate::state::{Question, State};
use crate::wire::Coverage;

/// What the control store was asked about one process's objects.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Keys, and the objects that are adopted as one.
    keys: Vec<(Vec<u8>, Vec<ObjectId>)>,
}

fn lies_in_a_store(value: &StoredValue) -> bool {
    matches!(value.data, ValueData::Arena(_))
}

impl State {
    /// All that was borrowed from a process that has died.
    pub fn owner_gone(&mut self, who: OwnerIndex) {
        let orphans = self.owner.owner_died(who, lies_in_a_store);
        let owner = &self.owner;
        self.fetches.retain(|_, (slot, id)| {
            owner
                .object(*slot)
                .is_some_and(|object| object.owner != who && object.id == *id)
        });
        for slot in orphans.lost {
            self.end_with_owner(
                slot,
                "nothing came with its reference from which it could be had without that process",
            );
        }
        self.claim(who, orphans.claims);
    }

    /// The same for single objects that are known since then.
    pub fn orphaned(&mut self, slots: Vec<RefSlot>) {
        for slot in slots {
            let who = self.owner.owner(slot);
            match self.owner.is_orphan(slot, lies_in_a_store) {
                Some(true) => self.claim(who, vec![slot]),
                Some(false) => {
                    self.end_with_owner(
                        slot,
                        "nothing came with its reference from which it could be had without that process",
                    );
                }
                None => {}
            }
        }
    }

    fn end_with_owner(&mut self, slot: RefSlot, why: &str) {
        let value = StoredValue::failed(Failure::owner_died_and(why));
        self.owner.fetched(slot, value, true, &mut self.owner_effects);
    }

    fn claim(&mut self, dead: OwnerIndex, slots: Vec<RefSlot>) {
        let mut keys: Vec<(Vec<u8>, Vec<ObjectId>)> = Vec::new();
        for slot in slots {
            let id = self.owner.id(slot);
            let key = adoption_key(&id);
            // Slots of one task were made together, more often than not.
            match keys.last_mut().filter(|(known, _)| *known == key) {
                Some((_, ids)) => ids.push(id),
                None => keys.push((key, vec![id])),
            }
        }
        if keys.is_empty() {
            return;
        }
        let request = v1::AdoptRequest {
            job_id: self.job.0.to_vec(),
            adopter: Some((&self.me).into()),
            dead: Some((&self.peers.address(dead)).into()),
            keys: keys.iter().map(|(key, _)| key.clone()).collect(),
        };
        let claim = Box::new(Claim { keys });
        self.ask_gcs("Adopt", request.encode_to_vec(), Question::Adopt(claim));
    }

    /// The control store has chosen, or cannot be asked.
    pub fn adopters_chosen(&mut self, claim: Claim, answer: Result<bytes::Bytes, String>) {
        let reply = answer.and_then(|bytes| v1::AdoptReply::decode(bytes).map_err(|error| error.to_string()));
        let adopters = match reply {
            Ok(reply) => reply.adopters,
            Err(error) => {
                let why = format!("the control store could not be asked who owns it now: {error}");
                for id in claim.keys.iter().flat_map(|(_, ids)| ids) {
                    if let Some(slot) = self.owner.find(id)
                        && self.peers.is_dead(self.owner.owner(slot))
                        && !self.owner.is_ready(slot)
                    {
                        self.end_with_owner(slot, &why);
                    }
                }
                return self.run_effects();
            }
        };
        for ((_, ids), adopter) in claim.keys.iter().zip(&adopters) {
            let Ok(adopter) = WorkerAddress::try_from(adopter) else {
                continue;
            };
            let adopter = self.owner_index(&adopter);
            // Its owner may be another than the one that the control store was told of: a later one has died as well.
            let is_orphan = |slot: &RefSlot| self.peers.is_dead(self.owner.owner(*slot));
            let known = ids.iter().filter_map(|id| self.owner.find(id));
            let slots: Vec<RefSlot> = known.filter(is_orphan).collect();
            match adopter {
                OwnerIndex::ME => slots.into_iter().for_each(|slot| self.adopt(slot)),
                // It has died since it was chosen.
                other if self.peers.is_dead(other) => self.claim(other, slots),
                other => self.borrow_from(other, &slots),
            }
        }
        self.run_effects();
    }

    /// The control store has chosen this process.
    fn adopt(&mut self, slot: RefSlot) {
        let location = match self.owner.value(slot).map(|(value, _)| &value.data) {
            Some(ValueData::Arena(location)) => Some(*location),
            Some(ValueData::Empty | ValueData::Inline(_) | ValueData::Failed(_)) | None => None,
        };
        if self.owner.adopted(slot, &mut self.owner_effects)
            && let Some(location) = location
        {
            tracing::info!(object_id = %self.owner.id(slot), "an object whose owner has died is this process's now");
            self.owner.value_shared(slot);
            self.tell_block_of_its_owner(&location);
        }
    }

    /// Another process owns these now: it is told what is held here.
    pub fn borrow_from(&mut self, adopter: OwnerIndex, slots: &[RefSlot]) {
        if slots.is_empty() {
            return;
        }
        // As long as the table names the dead one, what is sent is taken up whether or not it is known there.
        let refs = self.refs_and_estate(slots, adopter, &mut Allowance::default());
        let told: Vec<Option<u32>> = slots
            .iter()
            .map(|slot| self.owner.has_new_owner(*slot, adopter, &mut self.owner_effects))
            .collect();
        let grants = told.into_iter().map(Option::unwrap_or_default).collect();
        let message = v1::Adopted {
            refs: Some(refs),
            grants,
        };
        self.send_to(adopter, Kind::Adopted, &message);
    }

    /// A process of those that hold an object has been told that this one owns it.
    pub fn chosen_by_another(&mut self, lane: PeerIndex, message: v1::Adopted) {
        let Some(who) = self.peers.get(lane).map(|peer| peer.who) else {
            return;
        };
        let (slots, _) = self.refs_and_orphans(message.refs, Coverage::ByTask);
        for (slot, grants) in slots.iter().zip(&message.grants) {
            self.adopt(*slot);
            let id = self.owner.id(*slot);
            for _ in 0..*grants {
                self.owner.borrow_granted(&id, who, &mut self.owner_effects);
            }
        }
        slots.iter().for_each(|slot| self.drop_local(*slot));
        self.run_effects();
    }
}
