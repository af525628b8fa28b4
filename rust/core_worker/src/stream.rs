//! Generators: a task whose items arrive one by one while it runs.
//!
//! The owner keeps one entry more than there are items: the last is a promise, which the next item keeps, or the end of
//! the stream. So waiting for the next item is waiting for an object, with all that `get`, `wait` and `await` know of it.
//! An item that arrives again, because the task is run once more, is recognised by its number: it becomes the value of the
//! object that it was if that one was lost, and is dropped otherwise.

use std::collections::VecDeque;
use std::time::Duration;

use ray_rs_lanes::PROGRESS;
use ray_rs_ownership::{RefSlot, TaskKey};
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::{ObjectId, TaskId};

use crate::core::{CoreWorker, Interrupt};
use crate::model::{ExecTask, Failure, NotMadeAgain, StoredValue, ValueData};
use crate::objects::{Rested, Rester};
use crate::peers::{CALL_SEQ, PeerIndex};
use crate::state::State;
use crate::wire::Coverage;

/// As the number of returns of a call: a stream of them.
pub const STREAMING: u32 = u32::MAX;
/// As the number of returns of a call: one, which names all that a generator has yielded. Its worker is told the same.
pub const DYNAMIC: u32 = u32::MAX - 1;
/// Return number of the first item; the one before it is the task's own end.
const FIRST_ITEM: u32 = 2;
/// How long a producer that waits for its consumer sleeps at a time.
const SLICE: Duration = Duration::from_millis(50);

/// The owner's side of one generator, until its consumer drops it.
pub(crate) struct Stream {
    task_id: TaskId,
    /// What was not taken yet, and at the end the promise. One local count each.
    queue: VecDeque<RefSlot>,
    /// Items that have arrived.
    filled: u32,
    taken: u32,
    ended: bool,
}

/// Which task of which lane.
#[derive(Debug, Clone, Copy)]
pub struct ReplyAddress(PeerIndex, u64);

impl ExecTask {
    pub fn reply_address(&self) -> ReplyAddress {
        let (lane, seq) = self.reply.at();
        ReplyAddress(lane, seq)
    }
}

/// What comes next of a stream.
pub enum NextItem {
    /// One local count, which the taker takes over.
    Item(RefSlot),
    /// The promise, with one local count: wait for it and ask again.
    Wait(RefSlot),
    End,
}

impl CoreWorker {
    /// Takes the next item if it is there. `stream` is the number of the task that makes it (`TaskId::unique`).
    pub fn next_item(&self, stream: u64) -> NextItem {
        self.with(|state| {
            state.drain_lanes(256);
            state.next_item(stream)
        })
    }

    /// A reference to what [`Self::next_item`] would give: one local count. `None` for a stream that was dropped.
    pub fn peek_item(&self, stream: u64) -> Option<RefSlot> {
        self.with(|state| {
            let slot = *state.streams.get(&stream)?.queue.front()?;
            state.owner.local_added(slot);
            Some(slot)
        })
    }

    /// Whether all items were taken and no more come.
    pub fn is_stream_over(&self, stream: u64) -> bool {
        let state = self.state.lock();
        let over = |stream: &Stream| stream.ended && stream.queue.len() == 1;
        state.streams.get(&stream).is_none_or(over)
    }

    /// Nobody will take any more: what is there goes, and what still comes is dropped. The task goes on.
    pub fn drop_stream(&self, stream: u64) {
        self.with(|state| {
            let Some(dropped) = state.streams.remove(&stream) else {
                return;
            };
            for slot in dropped.queue {
                // Of an error in it nobody wants to know.
                state.owner.seen(slot);
                state.drop_local(slot);
            }
            state.tell_producer(stream, u32::MAX);
            state.run_effects();
        });
    }

    /// An item of a generator that runs here goes to its owner.
    pub fn report_item(&self, task: &ExecTask, index: u32, value: StoredValue) {
        self.with(|state| {
            let (lane, seq) = task.reply.at();
            let Some(who) = state.peers.get(lane).map(|peer| peer.who) else {
                state.owner.value_abandoned(value, &mut state.owner_effects);
                return state.run_effects();
            };
            let wire = state.give_away(&value, who);
            let message = v1::GeneratorItem {
                seq,
                index,
                value: Some(wire),
            };
            state.send_on(lane, Kind::GeneratorItem, &message, PROGRESS);
            for slot in value.refs {
                state.drop_local(slot);
            }
            state.run_effects();
        });
    }

    /// Waits until fewer than `limit` of `produced` items are left to be taken; false when interrupted.
    pub fn await_consumer(&self, task: &ExecTask, produced: u32, limit: u32, interrupt: Interrupt<'_>) -> bool {
        self.await_consumer_at(task.reply_address(), produced, limit, interrupt)
    }

    /// The same, for a thread that does not have the task.
    pub fn await_consumer_at(
        &self,
        ReplyAddress(lane, seq): ReplyAddress,
        produced: u32,
        limit: u32,
        interrupt: Interrupt<'_>,
    ) -> bool {
        loop {
            let may_go_on = self.with(|state| {
                state.drain_lanes(64);
                let consumed = state.execution.consumed_of(lane, seq);
                // A consumer that is gone takes nothing, and stops nobody.
                consumed.is_none_or(|consumed| produced.saturating_sub(consumed) < limit)
            });
            if may_go_on || self.is_disconnected() {
                return true;
            }
            if self.hold_or_park(PROGRESS, SLICE, Rester::Waiter) != Rested::Something && interrupt() {
                return false;
            }
        }
    }
}

impl State {
    pub fn open_stream(&mut self, task_id: TaskId) {
        let promise = self.owner.promised(ObjectId::new(task_id, FIRST_ITEM));
        let stream = Stream {
            task_id,
            queue: VecDeque::from([promise]),
            filled: 0,
            taken: 0,
            ended: false,
        };
        self.streams.insert(task_id.unique(), stream);
    }

    fn next_item(&mut self, unique: u64) -> NextItem {
        let Some(slot) = self
            .streams
            .get(&unique)
            .and_then(|stream| stream.queue.front().copied())
        else {
            return NextItem::End;
        };
        let Some((value, _)) = self.owner.value(slot) else {
            self.owner.local_added(slot);
            return NextItem::Wait(slot);
        };
        let is_end = matches!(&value.data, ValueData::Failed(failure) if **failure == Failure::StreamEnded);
        if is_end {
            return NextItem::End;
        }
        let stream = self.streams.get_mut(&unique).expect("just looked at");
        stream.queue.pop_front();
        stream.taken += 1;
        let taken = stream.taken;
        self.tell_producer(unique, taken);
        NextItem::Item(slot)
    }

    /// How many items were taken, for a producer that waits for that.
    fn tell_producer(&mut self, unique: u64, taken: u32) {
        let waits = |spec: &crate::submit::Spec| spec.unique == unique && spec.backpressure > 0;
        // Only streams with a limit are looked for: few, and each producer works at its consumer's pace.
        if !self.limited_streams.contains(&unique) {
            return;
        }
        let Some(key) = self.owner.unfinished(waits).first().copied() else {
            return;
        };
        if taken == u32::MAX {
            self.owner.spec_mut(key).expect("just found").backpressure = 0;
        }
        if let Some((lane, seq)) = self.owner.spec(key).and_then(|spec| spec.sent) {
            let message = v1::GeneratorConsumed { seq, count: taken };
            self.send_on(lane, Kind::GeneratorConsumed, &message, PROGRESS);
        }
    }

    pub fn item_arrived(&mut self, lane: PeerIndex, item: v1::GeneratorItem) {
        let value = self.value_from_wire(item.value.unwrap_or_default(), Coverage::Granted);
        let can_be_lost = matches!(value.data, ValueData::Arena(_));
        match self.slot_of_item(lane, item.seq, item.index, can_be_lost) {
            Some(slot) => self.owner.fetched(slot, value, false, &mut self.owner_effects),
            None => self.owner.value_abandoned(value, &mut self.owner_effects),
        }
        self.run_effects();
    }

    /// The object whose value an item is that has just come; `None`: nobody's.
    fn slot_of_item(&mut self, lane: PeerIndex, seq: u64, number: u32, can_be_lost: bool) -> Option<RefSlot> {
        let key = self.in_flight_at(lane, seq)?;
        let unique = self.owner.spec(key)?.unique;
        match self.streams.get_mut(&unique) {
            Some(stream) if number == stream.filled && !stream.ended => {
                let slot = *stream.queue.back().expect("a stream has a promise");
                stream.filled += 1;
                let next = ObjectId::new(stream.task_id, FIRST_ITEM + stream.filled);
                let promise = self.owner.promised(next);
                stream.queue.push_back(promise);
                if can_be_lost {
                    self.owner.item_came(key, slot, number);
                }
                Some(slot)
            }
            // An item of an earlier try has its number already.
            Some(_) | None => self.owner.item_came_again(key, number),
        }
    }

    /// A generator is about to end: items that were lost, and that it has not given again, get its error, or one that says so.
    pub fn items_not_given_again(&mut self, key: TaskKey, error: Option<&StoredValue>) {
        for slot in self.owner.items_without_value(key, error.is_some()) {
            let error = error.cloned().unwrap_or_else(|| {
                StoredValue::failed(Failure::NotMadeAgain {
                    why: NotMadeAgain::Generator,
                    message: "when its generator ran again, it gave fewer items".to_owned(),
                })
            });
            error.refs.iter().for_each(|slot| self.owner.local_added(*slot));
            self.owner.fetched(slot, error, true, &mut self.owner_effects);
        }
    }

    fn in_flight_at(&self, lane: PeerIndex, seq: u64) -> Option<TaskKey> {
        let peer = self.peers.get(lane)?;
        if seq & CALL_SEQ != 0 {
            return peer.calls.get(&seq).copied();
        }
        let at = usize::try_from(seq.checked_sub(peer.first_seq)?).ok()?;
        *peer.in_flight.get(at)?
    }

    /// The task has ended: its error, if it left one, is the last item.
    pub fn stream_ended(&mut self, unique: u64, error: Option<&StoredValue>) {
        self.limited_streams.remove(&unique);
        let Some(stream) = self.streams.get_mut(&unique) else {
            return;
        };
        if std::mem::replace(&mut stream.ended, true) {
            return;
        }
        if let Some(error) = error {
            let slot = *stream.queue.back().expect("a stream has a promise");
            let promise = self
                .owner
                .promised(ObjectId::new(stream.task_id, FIRST_ITEM + stream.filled + 1));
            stream.queue.push_back(promise);
            self.owner.fetched(slot, error.clone(), true, &mut self.owner_effects);
        }
        let stream = self.streams.get_mut(&unique).expect("just looked at");
        let last = *stream.queue.back().expect("a stream has a promise");
        self.owner.seen(last);
        let end = StoredValue::failed(Failure::StreamEnded);
        self.owner.fetched(last, end, true, &mut self.owner_effects);
    }
}
