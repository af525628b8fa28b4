//! Reading the lanes: every message of another core worker arrives here.

use std::sync::Arc;

use prost::Message;
use ray_rs_lanes::PROGRESS;
use ray_rs_ownership::{OwnerIndex, RefSlot, Watcher};
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::{ObjectId, WorkerAddress};

use crate::model::{Callee, Failure, LeaseTerms, StoredValue};
use crate::peers::PeerIndex;
use crate::state::State;
use crate::wire::Coverage;

/// A message, decoded in place in the ring.
enum Incoming {
    Define(v1::DefineFunction),
    Lease(v1::LeaseContext),
    Push(v1::PushTask),
    Reply(v1::TaskReply),
    Returned(v1::EntriesReturned),
    Get(v1::GetObject),
    Object(v1::ObjectValue),
    BorrowAdd(v1::BorrowAdd),
    BorrowRemove(v1::BorrowRemove),
    FreeBlock(v1::FreeBlock),
    Cancel(v1::CancelTask),
    CancelObject(v1::CancelObject),
    Item(v1::GeneratorItem),
    Withdraw(v1::WithdrawEntries),
    Consumed(v1::GeneratorConsumed),
    Acknowledged(v1::CallsAcknowledged),
    Adopted(v1::Adopted),
    Ping,
}

#[inline(always)]
fn decode(bytes: &[u8]) -> Result<Incoming, prost::DecodeError> {
    let (kind, body) = bytes.split_first().map_or((0, bytes), |(kind, body)| (*kind, body));
    Ok(match Kind::from_byte(kind) {
        Some(Kind::DefineFunction) => Incoming::Define(Message::decode(body)?),
        Some(Kind::LeaseContext) => Incoming::Lease(Message::decode(body)?),
        Some(Kind::PushTask) => Incoming::Push(Message::decode(body)?),
        Some(Kind::TaskReply) => Incoming::Reply(Message::decode(body)?),
        Some(Kind::EntriesReturned) => Incoming::Returned(Message::decode(body)?),
        Some(Kind::GetObject) => Incoming::Get(Message::decode(body)?),
        Some(Kind::ObjectValue) => Incoming::Object(Message::decode(body)?),
        Some(Kind::BorrowAdd) => Incoming::BorrowAdd(Message::decode(body)?),
        Some(Kind::BorrowRemove) => Incoming::BorrowRemove(Message::decode(body)?),
        Some(Kind::FreeBlock) => Incoming::FreeBlock(Message::decode(body)?),
        Some(Kind::CancelTask) => Incoming::Cancel(Message::decode(body)?),
        Some(Kind::CancelObject) => Incoming::CancelObject(Message::decode(body)?),
        Some(Kind::GeneratorItem) => Incoming::Item(Message::decode(body)?),
        Some(Kind::GeneratorConsumed) => Incoming::Consumed(Message::decode(body)?),
        Some(Kind::CallsAcknowledged) => Incoming::Acknowledged(Message::decode(body)?),
        Some(Kind::Adopted) => Incoming::Adopted(Message::decode(body)?),
        Some(Kind::WithdrawEntries) => Incoming::Withdraw(Message::decode(body)?),
        // An unknown kind is a broken peer, as is a message that cannot be decoded.
        Some(Kind::Ping) => Incoming::Ping,
        None => return v1::Ping::decode(&[0xff_u8][..]).map(|_| Incoming::Ping),
    })
}

impl State {
    /// Reads up to `limit` messages of each lane, and sends what had to wait for room. True when anything moved.
    pub fn drain_lanes(&mut self, limit: usize) -> bool {
        let mut moved = false;
        for index in 0..self.peers.lanes.len() as u32 {
            moved |= self.drain_lane(PeerIndex(index), limit);
        }
        if self.peers.backlog > 0 {
            moved |= self.flush_backlogs();
        }
        moved
    }

    pub fn drain_lane(&mut self, lane: PeerIndex, limit: usize) -> bool {
        let mut count = 0;
        let had_data = self.peers.get(lane).is_some_and(|peer| !peer.is_empty());
        while count < limit {
            let Some(peer) = self.peers.get_mut(lane) else { break };
            match peer.receive(decode) {
                Ok(None) => break,
                Ok(Some(Ok(message))) => {
                    count += 1;
                    self.message_arrived(lane, message);
                }
                Ok(Some(Err(_))) | Err(_) => {
                    tracing::warn!("a lane carries nonsense; its peer counts as dead");
                    let who = peer.who;
                    if let Some(socket) = &peer.socket {
                        let _ = rustix::net::shutdown(&**socket, rustix::net::Shutdown::Both);
                    }
                    self.peers.remove(lane);
                    self.process_died(who);
                    break;
                }
            }
        }
        if had_data
            && let Some(peer) = self.peers.get_mut(lane)
            && peer.waits_for_room()
        {
            self.ring(lane, PROGRESS);
        }
        count > 0
    }

    fn flush_backlogs(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.peers.lanes.len() as u32 {
            let lane = PeerIndex(index);
            let Some(peer) = self.peers.get_mut(lane) else { continue };
            if !peer.had_backlog {
                continue;
            }
            let (flushed, waits) = peer.flush();
            if !waits {
                peer.had_backlog = false;
                self.peers.backlog -= 1;
            }
            if flushed {
                moved = true;
                self.ring(lane, PROGRESS | ray_rs_lanes::EXEC);
            }
        }
        moved
    }

    fn message_arrived(&mut self, lane: PeerIndex, message: Incoming) {
        match message {
            Incoming::Push(task) => self.task_pushed(lane, task),
            Incoming::Reply(reply) => self.reply_arrived(lane, reply),
            Incoming::Define(definition) => {
                let job = self.job;
                let Some(peer) = self.peers.get_mut(lane) else { return };
                let index = definition.index as usize;
                let callee = Arc::new(Callee::new(definition, job));
                if index == peer.callees.len() {
                    peer.callees.push(callee);
                } else if let Some(place) = peer.callees.get_mut(index) {
                    // The other side needs what went by this number no more.
                    *place = callee;
                }
            }
            Incoming::Lease(context) => {
                if let Some(peer) = self.peers.get_mut(lane) {
                    peer.lease_terms = Arc::new(LeaseTerms {
                        resources: context.resources.as_ref().map(Into::into).unwrap_or_default(),
                        gpu_ids: context.gpu_ids,
                    });
                }
            }
            Incoming::Returned(returned) => self.entries_returned(lane, &returned.seqs),
            Incoming::Get(get) => self.object_asked_for(lane, get),
            Incoming::Object(object) => self.object_came(object),
            Incoming::BorrowAdd(add) => {
                let Some(Ok(borrower)) = add.borrower.as_ref().map(WorkerAddress::try_from) else {
                    return;
                };
                let borrower = self.owner_index(&borrower);
                for id in add.object_ids.chunks_exact(ObjectId::SIZE) {
                    let id = ObjectId::from_bytes(id).expect("chunks are of the size of an id");
                    self.owner.borrow_granted(&id, borrower, &mut self.owner_effects);
                }
                self.run_effects();
            }
            Incoming::BorrowRemove(remove) => {
                let Some(who) = self.peers.get(lane).map(|peer| peer.who) else {
                    return;
                };
                if let Ok(id) = ObjectId::from_bytes(&remove.object_id) {
                    self.owner
                        .borrow_returned(&id, who, remove.count, &mut self.owner_effects);
                    self.run_effects();
                }
            }
            Incoming::FreeBlock(block) => {
                self.free_own_block(block.offset, block.generation);
            }
            Incoming::Cancel(cancel) => self.cancel_asked(lane, &cancel),
            Incoming::CancelObject(cancel) => self.cancel_object(&cancel),
            Incoming::Item(item) => self.item_arrived(lane, item),
            Incoming::Consumed(consumed) => self.execution.consumed(lane, &consumed),
            Incoming::Withdraw(wanted) => self.entries_wanted(lane, wanted.seqs),
            Incoming::Acknowledged(message) => self.calls_acknowledged(lane, &message),
            Incoming::Adopted(message) => self.chosen_by_another(lane, message),
            Incoming::Ping => {}
        }
    }

    // ---- values on request -------------------------------------------------------------------------------------

    pub fn fetch(&mut self, slot: RefSlot, id: ObjectId, owner: OwnerIndex) {
        let request = self.fresh_request();
        match self.open_lane(owner) {
            Some(lane) => {
                self.fetches.insert(request, (slot, id));
                let message = v1::GetObject {
                    request,
                    object_id: id.0.to_vec(),
                    lost: self.lost_value_of(slot),
                };
                self.send_on(lane, Kind::GetObject, &message, PROGRESS);
            }
            // The death of the owner may have been noticed only now, and what follows from it be under way already.
            None if self.owner.object(slot).is_some_and(|object| object.owner == owner) => self.orphaned(vec![slot]),
            None => {}
        }
    }

    fn object_asked_for(&mut self, lane: PeerIndex, get: v1::GetObject) {
        let slot = ObjectId::from_bytes(&get.object_id)
            .ok()
            .and_then(|id| self.owner.find_or_await(&id));
        let Some(slot) = slot else {
            let message = v1::ObjectValue {
                request: get.request,
                value: None,
                lost: true,
            };
            return self.send_on(lane, Kind::ObjectValue, &message, PROGRESS);
        };
        if let Some(lost) = &get.lost
            && let Some(failed) = self.value_lost_elsewhere(slot, lost)
            && let Some(who) = self.peers.get(lane).map(|peer| peer.who)
        {
            let message = v1::ObjectValue {
                request: get.request,
                value: Some(self.value_to_wire(&failed, who, true)),
                lost: false,
            };
            return self.send_on(lane, Kind::ObjectValue, &message, PROGRESS);
        }
        let watcher = Watcher::Peer {
            lane: lane.0,
            request: get.request,
        };
        if self.owner.watch(slot, watcher, &mut self.owner_effects) {
            self.run_effects();
        } else {
            self.answer_peer(lane.0, get.request, slot);
        }
    }

    pub fn answer_peer(&mut self, lane: u32, request: u64, slot: RefSlot) {
        let lane = PeerIndex(lane);
        let Some(who) = self.peers.get(lane).map(|peer| peer.who) else {
            return;
        };
        // It came and went at once when nobody needs it any more, whoever asked included; that one still keeps its place.
        let value = self.owner.value(slot).map(|(value, _)| value.clone());
        let value = value.map(|value| {
            self.owner.seen(slot);
            if let crate::model::ValueData::Arena(location) = &value.data
                && !self.is_driver
            {
                self.share(slot, location);
            }
            self.value_to_wire(&value, who, true)
        });
        let message = v1::ObjectValue {
            request,
            lost: value.is_none(),
            value,
        };
        self.send_on(lane, Kind::ObjectValue, &message, PROGRESS);
        self.run_effects();
    }

    fn object_came(&mut self, object: v1::ObjectValue) {
        let Some((slot, id)) = self.fetches.remove(&object.request) else {
            return;
        };
        let value = match object.value {
            Some(wire) if !object.lost => self.value_from_wire(wire, Coverage::Granted),
            _ => {
                let message = "its owner does not know it any more".to_owned();
                StoredValue::failed(Failure::ObjectLost {
                    owner_died: false,
                    message,
                })
            }
        };
        let is_error = value.is_error();
        self.owner
            .value_shown(slot, &id, value, is_error, &mut self.owner_effects);
        if self.owner.object(slot).is_some_and(|object| object.id == id) {
            self.value_is_known(slot);
        }
        self.run_effects();
    }
}
