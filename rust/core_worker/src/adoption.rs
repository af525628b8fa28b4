//! The death of an owner: who holds its objects asks the control store who is to own them now, and owns them, or borrows them
//! from the one chosen (`FT-4` in `docs/failure-model.md`). What it takes to have them came with their references
//! ([`crate::estate`]).

use std::time::Duration;

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

/// Two processes are said to own one object: one of them is dead, and which, is not known here.
#[derive(Debug)]
pub(crate) struct Doubt {
    id: ObjectId,
    /// The one known when it arose.
    known: OwnerIndex,
    /// The one that somebody has named since.
    named: OwnerIndex,
    /// So many grants came with that, which count if `named` is right: it has noted them.
    grants: u32,
}

/// An object that others take for this process's is waited for so long (ADO-5). Who was to tell of it has sent that before
/// anybody could ask, so it is here as soon as that one is reached; one that cannot be reached is taken for dead long before.
const WILLS_AWAITED: Duration = Duration::from_secs(60);

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
            // Those that came only with a spec which was not needed are gone.
            match self.owner.is_orphan(slot, lies_in_a_store) {
                Some(true) => self.claim(self.owner.owner(slot), vec![slot]),
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
        let (slots, _) = self.refs_and_orphans(message.refs, Coverage::ToTheirAdopter);
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

    // ---- two owners --------------------------------------------------------------------------------------------

    /// A sender takes `named` for the owner of an object of which another is known here. One of the two has adopted it, from the
    /// other or a later one; as messages of different senders overtake each other, it may be either. Nobody is declared dead:
    /// the control store is asked. Grants that came with it wait for the answer.
    #[cold]
    pub fn owners_differ(&mut self, slot: RefSlot, named: OwnerIndex, grants: u32) {
        let known = self.owner.owner(slot);
        if known == OwnerIndex::ME || named == OwnerIndex::ME || self.peers.is_dead(named) {
            // Whoever is named and dead counts no grants.
            return;
        }
        let id = self.owner.id(slot);
        self.ask_who_owns(Doubt {
            id,
            known,
            named,
            grants,
        });
    }

    fn ask_who_owns(&mut self, doubt: Doubt) {
        let request = v1::AdoptRequest {
            job_id: self.job.0.to_vec(),
            adopter: Some((&self.me).into()),
            dead: None,
            keys: vec![adoption_key(&doubt.id)],
        };
        self.ask_gcs("Adopt", request.encode_to_vec(), Question::WhoOwns(Box::new(doubt)));
    }

    /// The control store has told who was chosen last: of all that ever owned the object only that one can live.
    pub fn owner_told(&mut self, doubt: Doubt, answer: Result<bytes::Bytes, String>) {
        let reply = answer.and_then(|bytes| v1::AdoptReply::decode(bytes).map_err(|error| error.to_string()));
        let on_record = match reply {
            Ok(reply) => reply.adopters.first().map(WorkerAddress::try_from),
            Err(error) => {
                tracing::warn!(object_id = %doubt.id, error, "the control store could not be asked who owns an object");
                return;
            }
        };
        // Nobody is on record when the job has ended.
        let Some(Ok(on_record)) = on_record else { return };
        let on_record = self.owner_index(&on_record);
        let Some(slot) = self.owner.find(&doubt.id) else {
            if on_record == doubt.named {
                self.give_back(&doubt);
            }
            return;
        };
        let known = self.owner.owner(slot);
        if known == OwnerIndex::ME {
            // It was adopted here meanwhile: whoever was named is dead, and nobody counts what that one granted.
        } else if on_record == OwnerIndex::ME {
            self.adopt(slot);
        } else if self.peers.is_dead(on_record) {
            // And so is who is known, if it is another: that death brings the next question.
        } else if known != doubt.known && known != on_record {
            // The answer may be older than what is known now.
            self.ask_who_owns(Doubt { known, ..doubt });
        } else {
            if known != on_record {
                self.borrow_from(on_record, &[slot]);
            }
            // Told of its new owner, what nobody needs is gone.
            match self.owner.find(&doubt.id) {
                _ if doubt.named != on_record => {}
                Some(slot) => (0..doubt.grants).for_each(|_| self.owner.grant_received(slot)),
                None => self.give_back(&doubt),
            }
        }
        self.run_effects();
    }

    /// The object is gone here, and the owner has noted grants for this process.
    fn give_back(&mut self, doubt: &Doubt) {
        if doubt.grants > 0 && !self.peers.is_dead(doubt.named) {
            let message = v1::BorrowRemove {
                object_id: doubt.id.0.to_vec(),
                count: doubt.grants,
            };
            self.send_to(doubt.named, Kind::BorrowRemove, &message);
        }
    }

    // ---- objects of which this process has not heard yet -------------------------------------------------------

    pub fn await_wills(&mut self) {
        let until = self.now() + WILLS_AWAITED;
        let new = self.owner.newly_awaited();
        self.awaited_wills.extend(new.into_iter().map(|id| (until, id)));
    }

    /// Those that nobody has told of in time are lost.
    pub fn end_awaited_wills(&mut self, now: Duration) {
        while let Some((until, id)) = self.awaited_wills.front().copied()
            && until <= now
        {
            self.awaited_wills.pop_front();
            let why = "this process was chosen to own it, but has heard from nobody who has it";
            let error = StoredValue::failed(Failure::owner_died_and(why));
            if self.owner.will_is_lost(&id, error, &mut self.owner_effects) {
                tracing::warn!(object_id = %id, "{why}");
            }
        }
    }
}
