//! One direction of a lane: a ring of records with one writer and one reader.
//!
//! A record is an 8-byte header (length and kind) and its payload, padded to 8 bytes and never split over the ring's
//! end. Kinds: a whole message; the start of a long one (payload: its length) and its parts; a skip to the ring's end;
//! a marker behind which the ring is larger.

mod cursor;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use cursor::announce_starved;
pub(crate) use cursor::{ReadCursor, RingWords, WriteCursor};
pub use receiver::{LaneProbe, LaneReceiver};
pub use sender::{LaneSender, Sent};

use crate::lane::{LaneMap, RING_OFFSET, WORDS_OFFSET};
use crate::words::Shared;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// What a ring begins with.
pub const RING_BYTES_MIN: u64 = 64 << 10;
/// What a ring grows to, fourfold each time that it was full.
pub const RING_BYTES_MAX: u64 = 1 << 20;
/// The longest message; longer values belong in the object store.
pub const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Everything in a ring lies on a multiple of this.
const UNIT: u64 = 8;
/// A record takes at most this share of the ring, so that it fits wherever an empty ring happens to stand.
const SHARE: u64 = 4;
/// The longest message that is sent in one record.
const WHOLE_MAX: usize = (RING_BYTES_MAX / SHARE - UNIT) as usize;

/// The peer has written something that no lane writes. The lane is of no more use; throw it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane's peer wrote {0}")]
pub struct Corrupt(pub(crate) &'static str);

/// Header of a record: `kind << 32 | length of the payload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header(u64);

impl Header {
    const WHOLE: u32 = 1;
    const START: u32 = 2;
    const PART: u32 = 3;
    const SKIP: u32 = 4;
    /// Its "length" is the ring's new size; it has no payload.
    const GROW: u32 = 5;

    fn new(kind: u32, len: u64) -> Self {
        Self(u64::from(kind) << 32 | len)
    }

    fn kind(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn len(self) -> u64 {
        self.0 & 0xffff_ffff
    }
}

/// Bytes that a payload of `len` takes in the ring.
#[inline(always)]
const fn record_bytes(len: u64) -> u64 {
    UNIT + len.next_multiple_of(UNIT)
}

/// The memory of one direction.
#[derive(Clone, Debug)]
struct RingMemory {
    map: Arc<LaneMap>,
    words: usize,
    data: usize,
}

impl RingMemory {
    fn new(map: Arc<LaneMap>, direction: usize) -> Self {
        Self {
            map,
            words: WORDS_OFFSET[direction],
            data: RING_OFFSET[direction],
        }
    }

    #[inline(always)]
    fn words(&self) -> &RingWords<Shared> {
        self.map.at(self.words)
    }

    #[inline(always)]
    fn header(&self, offset: u64) -> Header {
        Header(self.map.at::<Unit>(self.data + offset as usize).0.load(Relaxed))
    }

    /// Seen by the reader once the writer has published the position behind it.
    #[inline(always)]
    fn set_header(&self, offset: u64, header: Header) {
        self.map
            .at::<Unit>(self.data + offset as usize)
            .0
            .store(header.0, Relaxed)
    }

    /// The payload of the record whose header is at `offset`; inside the ring's region or panics.
    #[inline(always)]
    fn payload(&self, offset: u64, len: u64) -> *mut u8 {
        let at = offset + UNIT;
        assert!(at <= RING_BYTES_MAX && len <= RING_BYTES_MAX - at);
        self.map.bytes(self.data + at as usize, len as usize)
    }
}

#[repr(C)]
struct Unit(AtomicU64);

// SAFETY: one atomic.
unsafe impl crate::shm::InSharedMemory for Unit {}
