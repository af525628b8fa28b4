//! The writing half of a ring, with the sender's own queue for what does not fit.

use super::cursor::{Place, announce_starved};
use super::{Header, MAX_MESSAGE_BYTES, RingMemory, SHARE, UNIT, WHOLE_MAX, WriteCursor, record_bytes};
use crate::lane::LaneMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Where a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Into the ring: ring the peer's bell.
    InRing,
    /// Into the sender's own memory (a long message perhaps partly into the ring): ring as well, and call `flush`
    /// now and then until it is out.
    Queued,
}

/// Sends messages to the peer. One thread at a time, which `&mut` says.
#[derive(Debug)]
pub struct LaneSender {
    ring: RingMemory,
    cursor: WriteCursor,
    /// The ring was full, or too small for a message, since it last grew: grow it as soon as its contents allow.
    hungry: bool,
    /// Messages that wait for room, oldest first.
    outbox: VecDeque<Box<[u8]>>,
    /// How much of the outbox's first message is in the ring; `Some` only for a long one whose start record is there.
    begun: Option<usize>,
    queued_bytes: usize,
    /// A call that answered `Queued` has put something into the ring, and no `flush` has reported it yet.
    unreported: bool,
}

impl LaneSender {
    pub(crate) fn new(map: Arc<LaneMap>, direction: usize) -> Self {
        Self {
            ring: RingMemory::new(map, direction),
            cursor: WriteCursor::new(),
            hungry: false,
            outbox: VecDeque::new(),
            begun: None,
            queued_bytes: 0,
            unreported: false,
        }
    }

    /// Sends a message of `len` bytes, which `encode` writes: all of them, straight into the ring if there is room and
    /// nothing is queued before it. The buffer it gets holds old bytes. If `encode` panics, nothing was sent.
    ///
    /// # Panics
    /// When `len` is more than [`MAX_MESSAGE_BYTES`].
    #[inline]
    pub fn send_with(&mut self, len: usize, encode: impl FnOnce(&mut [u8])) -> Sent {
        if len <= WHOLE_MAX
            && self.outbox.is_empty()
            && let Some(place) = self.room(len)
        {
            encode(self.record(place, Header::WHOLE, len));
            self.cursor.publish(self.ring.words(), place);
            return Sent::InRing;
        }
        assert!(
            len <= MAX_MESSAGE_BYTES,
            "a lane message of {len} bytes; large values belong in the object store"
        );
        let mut message = vec![0; len].into_boxed_slice();
        encode(&mut message);
        self.queue(message)
    }

    /// Moves queued messages into the ring. True when something is there that the peer has not been rung for: ring.
    pub fn flush(&mut self) -> bool {
        let moved = self.drain();
        if self.has_backlog() {
            announce_starved(self.ring.words());
            // The reader may have made room just before it could see that we want it.
            return self.drain() | moved | std::mem::take(&mut self.unreported);
        }
        moved | std::mem::take(&mut self.unreported)
    }

    /// Whether messages wait in this sender's memory.
    #[inline]
    pub fn has_backlog(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Bytes of the messages that wait in this sender's memory.
    pub fn backlog_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The size that the ring has grown to.
    pub fn ring_bytes(&self) -> u64 {
        self.cursor.size()
    }

    #[cold]
    fn queue(&mut self, message: Box<[u8]>) -> Sent {
        let first = self.outbox.is_empty();
        self.queued_bytes += message.len();
        self.outbox.push_back(message);
        if first {
            let moved = self.flush();
            if !self.has_backlog() {
                return Sent::InRing;
            }
            self.unreported |= moved;
        }
        Sent::Queued
    }

    /// Room for a record of `len` payload bytes; grows the ring when it is too small and may grow.
    #[inline]
    fn room(&mut self, len: usize) -> Option<Place> {
        let bytes = record_bytes(len as u64);
        if !self.hungry
            && bytes <= self.cursor.size() / SHARE
            && let Some(place) = self.cursor.place(self.ring.words(), bytes)
        {
            return Some(place);
        }
        self.room_in_larger(bytes)
    }

    #[cold]
    fn room_in_larger(&mut self, bytes: u64) -> Option<Place> {
        self.hungry = true;
        while let Some((offset, size)) = self.cursor.may_grow(self.ring.words()) {
            self.ring.set_header(offset, Header::new(Header::GROW, size));
            self.cursor.grow(self.ring.words(), size);
            self.hungry = false;
            if bytes <= size / SHARE {
                break;
            }
        }
        if self.cursor.is_at_max() {
            self.hungry = false;
        }
        if bytes > self.cursor.size() / SHARE {
            return None;
        }
        self.cursor.place(self.ring.words(), bytes)
    }

    /// Writes the record's header (not yet published) and gives its payload.
    #[inline]
    fn record(&mut self, place: Place, kind: u32, len: usize) -> &mut [u8] {
        if let Some((offset, bytes)) = place.skip {
            self.ring.set_header(offset, Header::new(Header::SKIP, bytes - UNIT));
        }
        self.ring.set_header(place.offset, Header::new(kind, len as u64));
        let payload = self.ring.payload(place.offset, len as u64);
        // SAFETY: `payload` has checked the range. The place is free: a correct reader reads nothing between its tail
        // and our published head, and this half is the ring's only writer, borrowed mutably for the slice's life.
        // Mapped memory is always initialised.
        unsafe { std::slice::from_raw_parts_mut(payload, len) }
    }

    fn put(&mut self, kind: u32, place: Place, payload: &[u8]) {
        self.record(place, kind, payload.len()).copy_from_slice(payload);
        self.cursor.publish(self.ring.words(), place);
    }

    /// Moves what fits from the outbox into the ring; true when that was something.
    fn drain(&mut self) -> bool {
        let mut moved = false;
        while let Some(message) = self.outbox.pop_front() {
            let done = if message.len() <= WHOLE_MAX {
                let place = self.room(message.len());
                if let Some(place) = place {
                    self.put(Header::WHOLE, place, &message);
                    moved = true;
                }
                place.is_some()
            } else {
                self.put_long(&message, &mut moved)
            };
            if !done {
                self.outbox.push_front(message);
                break;
            }
            self.queued_bytes -= message.len();
        }
        moved
    }

    /// Puts as many parts of a long message into the ring as fit; true when that was the last.
    fn put_long(&mut self, message: &[u8], moved: &mut bool) -> bool {
        if self.begun.is_none() {
            // A larger ring takes it in fewer rounds; its parts go into any.
            self.hungry = !self.cursor.is_at_max();
            let Some(place) = self.room(8) else { return false };
            self.put(Header::START, place, &(message.len() as u64).to_le_bytes());
            (self.begun, *moved) = (Some(0), true);
        }
        let mut sent = self.begun.unwrap_or(0);
        while sent < message.len() {
            let len = (message.len() - sent).min((self.cursor.size() / SHARE - UNIT) as usize);
            let Some(place) = self.room(len) else {
                self.begun = Some(sent);
                return false;
            };
            self.put(Header::PART, place, &message[sent..sent + len]);
            (sent, *moved) = (sent + len, true);
        }
        self.begun = None;
        true
    }
}
