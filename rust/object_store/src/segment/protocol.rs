//! The life of a block, as the words tell it that several processes share: the state in its header, and the pins of its
//! readers (STO-2, STO-4).
//!
//! Written once over [`Words`]. In an arena its words are the standard atomics; in the model tests they are loom's, which
//! try every interleaving. Called by [`Map`](super::map::Map), which knows where the words are.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

pub(super) const FREE: u32 = 0x00f2_ee01;
pub(super) const WRITING: u32 = 0x00f2_ee02;
pub(super) const SEALED: u32 = 0x00f2_ee03;
pub(super) const FREEING: u32 = 0x00f2_ee04;
/// Set aside by the raylet, which writes it to disk. Only the raylet ends this state.
pub(super) const SPILLING: u32 = 0x00f2_ee05;
/// It is on disk; the holder may use the room again as soon as it hears of it.
pub(super) const SPILLED: u32 = 0x00f2_ee06;

/// What the protocol does with one word.
pub(super) trait Word<T> {
    fn load(&self, order: Ordering) -> T;
    fn store(&self, value: T, order: Ordering);
    fn fetch_max(&self, value: T, order: Ordering) -> T;
    fn compare_exchange(&self, current: T, new: T, success: Ordering, failure: Ordering) -> Result<T, T>;
}

/// Words of two sizes, and a full fence.
pub(super) trait Words {
    type W32: Word<u32>;
    type W64: Word<u64>;
    /// Sequentially consistent: a store before it and a load behind it keep their order.
    fn fence();
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl $crate::segment::protocol::Word<$value> for $atomic {
            #[inline(always)]
            fn load(&self, order: std::sync::atomic::Ordering) -> $value {
                <$atomic>::load(self, order)
            }
            #[inline(always)]
            fn store(&self, value: $value, order: std::sync::atomic::Ordering) {
                <$atomic>::store(self, value, order)
            }
            #[inline(always)]
            fn fetch_max(&self, value: $value, order: std::sync::atomic::Ordering) -> $value {
                <$atomic>::fetch_max(self, value, order)
            }
            #[inline(always)]
            fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: std::sync::atomic::Ordering,
                failure: std::sync::atomic::Ordering,
            ) -> Result<$value, $value> {
                <$atomic>::compare_exchange(self, current, new, success, failure)
            }
        }
    };
}
#[cfg(test)]
pub(super) use word;

word!(AtomicU32, u32);
word!(AtomicU64, u64);

/// Memory that other processes, or other mappings, see too.
pub(super) struct Shared;

impl Words for Shared {
    type W32 = AtomicU32;
    type W64 = AtomicU64;
    #[inline(always)]
    fn fence() {
        fence(Ordering::SeqCst)
    }
}

/// In front of each block's data.
#[repr(C, align(64))]
pub(super) struct Header<W: Words = Shared> {
    pub state: W::W32,
    /// [`Map::epoch`](super::map::Map::epoch) when it was allocated.
    pub epoch: W::W32,
    pub generation: W::W64,
    pub data_len: W::W64,
    pub block_len: W::W64,
    /// The process that counts the references to a sealed block: the one that wrote it, until it is handed over. With
    /// the end of that process the block is nobody's. 0: it stays whoever ends.
    pub owner: W::W64,
}

impl<W: Words> Header<W> {
    /// What is here from now on: the lengths first, the state last.
    pub fn write(&self, block_len: u64, state: u32, generation: u64, data_len: u64) {
        self.block_len.store(block_len, Ordering::Relaxed);
        self.data_len.store(data_len, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Relaxed);
        self.state.store(state, Ordering::Release);
    }

    pub fn is(&self, generation: u64, state: u32) -> bool {
        self.state.load(Ordering::Acquire) == state && self.generation.load(Ordering::Relaxed) == generation
    }

    fn turn(&self, from: u32, to: u32) -> Result<u32, u32> {
        self.state
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
    }

    /// By its writer: from here on the data never changes.
    pub fn seal(&self) {
        self.state.store(SEALED, Ordering::Release);
    }

    /// By the holder of a block that is SEALED, or FREEING by the word of its owner: nobody new may look. Whoever looks
    /// already is found by [`is_pinned`] afterwards. False when the raylet was faster: it is on its way to disk.
    pub fn begin_free(&self) -> bool {
        match self.turn(SEALED, FREEING) {
            Ok(_) => true,
            Err(state) => state == FREEING,
        }
    }

    /// By the owner of a block in another's extent: nobody needs it, for whoever is to free it. False when there is no
    /// such block.
    pub fn mark_unwanted(&self, generation: u64) -> bool {
        let is_it = || self.generation.load(Ordering::Relaxed) == generation;
        if !is_it() || self.turn(SEALED, FREEING).is_err() {
            return false;
        }
        if !is_it() {
            // It went to disk in between, and this is another block.
            let _ = self.turn(FREEING, SEALED);
            return false;
        }
        true
    }

    /// By the raylet: its bytes are the raylet's, if nobody turns out to look at them ([`is_pinned`]). False when it is
    /// not sealed.
    pub fn set_aside(&self) -> bool {
        self.turn(SEALED, SPILLING).is_ok()
    }

    /// By the raylet, of a block that it has set aside: it is as it was.
    pub fn put_back(&self) {
        self.state.store(SEALED, Ordering::SeqCst);
    }

    /// By the raylet, of a block that it has set aside: who was to be told that it is gone. Later hand-overs see that it
    /// is set aside.
    pub fn owner_of_set_aside(&self) -> u64 {
        W::fence();
        self.owner.load(Ordering::SeqCst)
    }

    /// From here on `owner` counts the references to a sealed block. False when the raylet must hear of it as well: the
    /// block is on its way to disk, or there.
    pub fn hand_over(&self, generation: u64, owner: u64) -> bool {
        if self.generation.load(Ordering::Relaxed) != generation {
            return false;
        }
        self.owner.store(owner, Ordering::SeqCst);
        W::fence();
        self.state.load(Ordering::SeqCst) == SEALED
    }
}

/// Where the pins stand: a row for each process, which alone writes there.
pub(super) trait PinTable<W: Words = Shared> {
    /// Rows that processes may have.
    fn rows(&self) -> Range<u32>;
    /// Slots of each.
    fn slots(&self) -> u32;
    /// How many slots of a row were ever used.
    fn mark(&self, row: u32) -> &W::W32;
    /// Offset of the data that is pinned; 0: none.
    fn pin_word(&self, row: u32, slot: u32) -> &W::W64;
}

/// A reader pins whatever is at `data_offset`; only then it looks at the header (STO-2).
pub(super) fn announce<W: Words>(table: &impl PinTable<W>, row: u32, slot: u32, data_offset: u64) {
    table.mark(row).fetch_max(slot + 1, Ordering::Relaxed);
    table.pin_word(row, slot).store(data_offset, Ordering::Release);
    W::fence();
}

/// The reader is done.
pub(super) fn withdraw<W: Words>(table: &impl PinTable<W>, row: u32, slot: u32) {
    table.pin_word(row, slot).store(0, Ordering::Release);
}

/// Whether any process has pinned the data at `data_offset`. The caller has said FREEING or SPILLING.
pub(super) fn is_pinned<W: Words>(table: &impl PinTable<W>, data_offset: u64) -> bool {
    W::fence();
    table
        .rows()
        .any(|row| pins_of(table, row).any(|pinned| pinned == data_offset))
}

/// Data offsets of what a row pins. Whoever asks in order to move or free something has changed the states first, and
/// then come past a fence.
pub(super) fn pins_of<W: Words>(table: &impl PinTable<W>, row: u32) -> impl Iterator<Item = u64> {
    let used = table.mark(row).load(Ordering::Relaxed).min(table.slots());
    (0..used)
        .map(move |slot| table.pin_word(row, slot).load(Ordering::Acquire))
        .filter(|offset| *offset != 0)
}
