//! Positions in a ring: where the writer may write, what the reader may read, and how both agree on the ring's size.
//!
//! Positions count bytes and only grow; `offset(position)` says where that is in memory. The writer owns `head`, the
//! reader owns `tail`, and each keeps what it last saw of the other's word, so that the cache line travels only when a
//! side believes that the ring is full or empty.
//!
//! Growing needs no copy and no agreement beyond one marker in the stream: the new, larger ring keeps the marker at the
//! offset where it stands, and all that is unread lies at the same offsets in both sizes. That is so whenever the
//! unread bytes do not wrap around the ring's end; then the writer may grow the ring even though it is not empty.

use super::{Corrupt, RING_BYTES_MAX, RING_BYTES_MIN, UNIT};
use crate::shm::InSharedMemory;
use crate::words::{Line, Memory, Shared, Word};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The words of one ring that both sides see, each on lines of its own.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct RingWords<M: Memory> {
    /// Behind the last record; the writer's.
    pub head: Line<M::W64>,
    /// Behind the last record read; the reader's.
    pub tail: Line<M::W64>,
    /// Not zero: the writer has a backlog and would like to hear of room. Set by the writer, taken by the reader.
    pub starved: Line<M::W32>,
}

// SAFETY: only atomics, valid for any bits.
unsafe impl InSharedMemory for RingWords<Shared> {}

/// How positions map to offsets, for a ring of `size` bytes.
#[derive(Debug, Clone, Copy)]
struct Layout {
    size: u64,
    shift: u64,
}

impl Layout {
    fn new(size: u64) -> Self {
        Self { size, shift: 0 }
    }

    #[inline(always)]
    fn offset(self, position: u64) -> u64 {
        position.wrapping_add(self.shift) & (self.size - 1)
    }

    /// A larger ring in which the marker at `position` stays where it is.
    fn grown(self, position: u64, size: u64) -> Self {
        Self {
            size,
            shift: self.offset(position).wrapping_sub(position),
        }
    }
}

/// Where a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub offset: u64,
    /// Before it the rest of the ring has to be skipped: (offset, bytes).
    pub skip: Option<(u64, u64)>,
    /// What `publish` will publish.
    head: u64,
}

#[derive(Debug)]
pub(crate) struct WriteCursor {
    head: u64,
    tail_seen: u64,
    layout: Layout,
    max: u64,
}

impl WriteCursor {
    pub fn new() -> Self {
        Self::with_sizes(RING_BYTES_MIN, RING_BYTES_MAX)
    }

    pub fn with_sizes(min: u64, max: u64) -> Self {
        Self {
            head: 0,
            tail_seen: 0,
            layout: Layout::new(min),
            max,
        }
    }

    #[inline(always)]
    pub fn size(&self) -> u64 {
        self.layout.size
    }

    pub fn is_at_max(&self) -> bool {
        self.layout.size == self.max
    }

    /// Room for `bytes` on end (a multiple of the unit), if there is any. One unit always stays free for a marker.
    #[inline(always)]
    pub fn place<M: Memory>(&mut self, words: &RingWords<M>, bytes: u64) -> Option<Place> {
        let offset = self.layout.offset(self.head);
        let to_end = self.layout.size - offset;
        let skipped = if bytes > to_end { to_end } else { 0 };
        let needed = skipped + bytes + UNIT;
        if needed > self.free() {
            self.look(words);
            if needed > self.free() {
                return None;
            }
        }
        Some(Place {
            offset: if skipped > 0 { 0 } else { offset },
            skip: (skipped > 0).then_some((offset, skipped)),
            head: self.head + skipped + bytes,
        })
    }

    /// Makes what was written at `place` visible.
    #[inline(always)]
    pub fn publish<M: Memory>(&mut self, words: &RingWords<M>, place: Place) {
        self.head = place.head;
        words.head.0.store(self.head, Release);
    }

    /// The next larger ring, if there is one and the unread bytes allow it: (where the marker has to be written, the
    /// new size). The marker's unit is free because `place` leaves it so.
    pub fn may_grow<M: Memory>(&mut self, words: &RingWords<M>) -> Option<(u64, u64)> {
        if self.layout.size >= self.max {
            return None;
        }
        self.look(words);
        let offset = self.layout.offset(self.head);
        let wraps = self.head != self.tail_seen && self.layout.offset(self.tail_seen) >= offset;
        (!wraps).then(|| (offset, (self.layout.size * 4).min(self.max)))
    }

    /// Publishes the marker that `may_grow` asked for, and goes on in the larger ring.
    pub fn grow<M: Memory>(&mut self, words: &RingWords<M>, size: u64) {
        self.layout = self.layout.grown(self.head, size);
        self.head += UNIT;
        words.head.0.store(self.head, Release);
    }

    #[inline(always)]
    fn free(&self) -> u64 {
        self.layout.size - (self.head - self.tail_seen)
    }

    /// Takes note of what the reader has read. A tail that goes backwards or overtakes us comes from a broken peer and
    /// is not believed: the ring then stays full for ever.
    fn look<M: Memory>(&mut self, words: &RingWords<M>) {
        let tail = words.tail.0.load(Acquire);
        if self.head.wrapping_sub(tail) <= self.head - self.tail_seen {
            self.tail_seen = tail;
        }
    }
}

#[derive(Debug)]
pub(crate) struct ReadCursor {
    position: u64,
    head_seen: u64,
    layout: Layout,
    max: u64,
}

impl ReadCursor {
    pub fn new() -> Self {
        Self::with_sizes(RING_BYTES_MIN, RING_BYTES_MAX)
    }

    pub fn with_sizes(min: u64, max: u64) -> Self {
        Self {
            position: 0,
            head_seen: 0,
            layout: Layout::new(min),
            max,
        }
    }

    #[inline(always)]
    pub fn is_empty<M: Memory>(&self, words: &RingWords<M>) -> bool {
        self.position == self.head_seen && words.head.0.load(Acquire) == self.position
    }

    /// The offset of the next record, if one is published.
    #[inline(always)]
    pub fn next<M: Memory>(&mut self, words: &RingWords<M>) -> Result<Option<u64>, Corrupt> {
        if self.position == self.head_seen {
            let head = words.head.0.load(Acquire);
            if head == self.position {
                return Ok(None);
            }
            let unread = head.wrapping_sub(self.position);
            if unread > self.max || !unread.is_multiple_of(UNIT) {
                return Err(Corrupt("a head that no writer publishes"));
            }
            self.head_seen = head;
        }
        Ok(Some(self.layout.offset(self.position)))
    }

    /// Whether a record of `bytes` at the current position was published whole and does not cross the ring's end.
    #[inline(always)]
    pub fn holds(&self, bytes: u64) -> Result<(), Corrupt> {
        let to_end = self.layout.size - self.layout.offset(self.position);
        if bytes > self.head_seen - self.position || bytes > to_end {
            return Err(Corrupt("a record longer than what it published"));
        }
        Ok(())
    }

    /// Leaves `bytes` behind and gives them to the writer.
    #[inline(always)]
    pub fn release<M: Memory>(&mut self, words: &RingWords<M>, bytes: u64) {
        self.position += bytes;
        words.tail.0.store(self.position, Release);
    }

    /// Follows the marker at the current position into a ring of `size`, and releases it.
    pub fn grow<M: Memory>(&mut self, words: &RingWords<M>, size: u64) -> Result<(), Corrupt> {
        if !size.is_power_of_two() || size <= self.layout.size || size > self.max {
            return Err(Corrupt("a ring size that no writer chooses"));
        }
        self.layout = self.layout.grown(self.position, size);
        self.release(words, UNIT);
        Ok(())
    }

    /// True once for each time that the writer got stuck and at least half of the ring is free again.
    pub fn take_starved<M: Memory>(&self, words: &RingWords<M>) -> bool {
        // The reader has stored `tail`, the writer `starved`; each then looks at the other's word.
        M::fence();
        words.starved.0.load(Relaxed) != 0
            && words.head.0.load(Relaxed).wrapping_sub(self.position) <= self.layout.size / 2
            && words.starved.0.swap(0, Relaxed) != 0
    }
}

/// Says that the writer has a backlog. The caller must try once more to write after this.
pub(crate) fn announce_starved<M: Memory>(words: &RingWords<M>) {
    words.starved.0.store(1, Relaxed);
    M::fence();
}
