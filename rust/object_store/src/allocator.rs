//! Where in its extents a client places its blocks. Offsets only: it never touches the arena.
//!
//! Held by [`ArenaClient`](crate::ArenaClient) under its lock. Best fit, and among equal fits the range freed last,
//! whose pages are still in the caches. Neighbouring free ranges of one extent merge at once.
//!
//! * `ALC-1` the free ranges and the blocks of an extent tile it exactly;
//! * `ALC-2` two free ranges of one extent never touch;
//! * `ALC-3` `by_size` holds each free range once, but for those of closed extents, in which nothing more is placed.
//!
//! A large freed range is kept whole for the next large block: without that, one small block placed at its start would
//! send the next large one to fresh pages, which cost ten times the copy. Small blocks ask for extents of their own
//! instead, until what that has cost reaches a share of the range that was spared.

use std::collections::{BTreeMap, BTreeSet};

/// Blocks begin at multiples of this, and so does the data behind their headers.
pub const ALIGN: u64 = 64;
/// Bytes in front of a block's data.
pub const HEADER_BYTES: u64 = 64;
/// No remainder smaller than this is split off a range.
const MIN_BLOCK: u64 = 2 * HEADER_BYTES;
/// A freed block of this size or more makes its range one that is kept whole.
const LARGE_BLOCK: u64 = 16 << 20;
/// A block of at least this share (one in four) of a range may take from it though it is kept whole.
const FITTING_SHARE: u64 = 4;
/// What sparing large ranges may cost: this, or an eighth of the range if that is more.
const SPARE_BUDGET: u64 = 64 << 20;

/// No extent has room; ask the raylet for one of at least so many bytes.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("no extent has {min_bytes} free bytes")]
pub struct NeedExtent {
    pub min_bytes: u64,
}

/// Whether a small block may break up a large free range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    SpareLarge,
    Anywhere,
}

/// A block's place, and what is left of the range it was cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub offset: u64,
    /// At least what was asked for.
    pub len: u64,
    /// The free range behind the block, whose header must be written before the block's.
    pub remainder: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct ExtentState {
    len: u64,
    free_bytes: u64,
    /// When something in it was last allocated or freed.
    touched: u64,
    /// Nothing more is placed in it: it goes back to the raylet once it is empty.
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct FreeRange {
    len: u64,
    /// When it was freed; higher is hotter.
    stamp: u64,
    keep_whole: bool,
    /// Its extent is closed.
    closed: bool,
}

#[derive(Debug, Default)]
pub struct Allocator {
    extents: BTreeMap<u64, ExtentState>,
    free: BTreeMap<u64, FreeRange>,
    /// (length, inverted stamp, offset): the first entry not shorter than a need is the hottest of the best fits.
    by_size: BTreeSet<(u64, u64, u64)>,
    clock: u64,
    /// Bytes asked of the raylet so far only to keep large ranges whole.
    spared_bytes: u64,
}

/// Bytes of a block that holds `data_len` bytes.
pub fn block_len(data_len: u64) -> u64 {
    data_len
        .saturating_add(HEADER_BYTES)
        .checked_next_multiple_of(ALIGN)
        .unwrap_or(u64::MAX)
        .max(MIN_BLOCK)
}

impl Allocator {
    /// Takes over `[offset, offset + len)`, all of it free.
    ///
    /// # Panics
    /// When it is unaligned, too small for a block, or overlaps an extent already here.
    pub fn add_extent(&mut self, offset: u64, len: u64) {
        assert!(
            offset.is_multiple_of(ALIGN) && len.is_multiple_of(ALIGN) && len >= MIN_BLOCK,
            "ALC-1: extents are aligned"
        );
        let before = self.extents.range(..offset + len).next_back();
        assert!(
            before.is_none_or(|(start, state)| start + state.len <= offset),
            "ALC-1: extents don't overlap"
        );
        self.clock += 1;
        self.extents.insert(
            offset,
            ExtentState {
                len,
                free_bytes: len,
                touched: self.clock,
                closed: false,
            },
        );
        self.insert_free(
            offset,
            FreeRange {
                len,
                stamp: self.clock,
                keep_whole: false,
                closed: false,
            },
        );
    }

    /// Places nothing more in the extent at `offset`. False when there is none.
    pub fn close(&mut self, offset: u64) -> bool {
        let Some(state) = self.extents.get_mut(&offset) else {
            return false;
        };
        state.closed = true;
        let end = offset + state.len;
        for (&start, range) in self.free.range_mut(offset..end) {
            if !range.closed {
                range.closed = true;
                self.by_size.remove(&(range.len, !range.stamp, start));
            }
        }
        true
    }

    /// Gives up the extent around `offset`, if it is closed and empty.
    pub fn remove_drained(&mut self, offset: u64) -> Option<(u64, u64)> {
        let (&start, state) = self.extents.range(..=offset).next_back()?;
        let len = state.len;
        if !state.closed || state.free_bytes < len || offset >= start + len {
            return None;
        }
        self.remove_extent(start);
        Some((start, len))
    }

    /// Places a block of `len` bytes, header included (see [`block_len`]).
    ///
    /// # Errors
    /// [`NeedExtent`] when no free range may take it.
    pub fn allocate(&mut self, len: u64, placement: Placement) -> Result<Placed, NeedExtent> {
        let (offset, range) = self.choose(len, placement).ok_or(NeedExtent { min_bytes: len })?;
        self.remove_free(offset, range);
        self.clock += 1;
        let rest = range.len - len;
        let (len, remainder) = if rest < MIN_BLOCK {
            (range.len, None)
        } else {
            (len, Some((offset + len, rest)))
        };
        if let Some((start, rest)) = remainder {
            self.insert_free(start, FreeRange { len: rest, ..range });
        }
        if range.keep_whole && len.saturating_mul(FITTING_SHARE) > range.len {
            self.spared_bytes = 0;
        }
        let clock = self.clock;
        let (_, extent) = self.extent_of_mut(offset);
        extent.free_bytes -= len;
        extent.touched = clock;
        Ok(Placed { offset, len, remainder })
    }

    fn choose(&mut self, len: u64, placement: Placement) -> Option<(u64, FreeRange)> {
        let mut spared_range = None;
        for &(range_len, _, offset) in self.by_size.range((len, 0, 0)..) {
            let range = self.free[&offset];
            let fits = !range.keep_whole || range_len < LARGE_BLOCK || len.saturating_mul(FITTING_SHARE) > range_len;
            if fits || placement == Placement::Anywhere {
                return Some((offset, range));
            }
            spared_range = spared_range.or(Some((offset, range)));
        }
        let (offset, range) = spared_range?;
        if self.spared_bytes + len > SPARE_BUDGET.max(range.len / 8) {
            return Some((offset, range));
        }
        self.spared_bytes += len;
        None
    }

    /// Frees a block placed by [`Self::allocate`]; returns the free range that it is now part of.
    ///
    /// # Panics
    /// When the block is in no extent here or overlaps a free range (freed twice).
    pub fn release(&mut self, offset: u64, len: u64) -> (u64, u64) {
        self.clock += 1;
        let stamp = self.clock;
        let (extent_start, extent) = self.extent_of_mut(offset);
        assert!(
            offset + len <= extent_start + extent.len,
            "ALC-1: a block lies in one extent"
        );
        extent.free_bytes += len;
        extent.touched = stamp;
        let closed = extent.closed;
        let extent_end = extent_start + extent.len;
        let mut start = offset;
        let mut end = offset + len;
        let mut keep_whole = len >= LARGE_BLOCK;
        if let Some((&before, &range)) = self.free.range(extent_start..offset + len).next_back() {
            assert!(before + range.len <= offset, "ALC-1: a block is freed once");
            if before + range.len == offset {
                self.remove_free(before, range);
                start = before;
                keep_whole |= range.keep_whole;
            }
        }
        if let Some(&range) = self.free.get(&end).filter(|_| end < extent_end) {
            self.remove_free(end, range);
            end += range.len;
            keep_whole |= range.keep_whole;
        }
        self.insert_free(
            start,
            FreeRange {
                len: end - start,
                stamp,
                keep_whole,
                closed,
            },
        );
        (start, end - start)
    }

    /// Gives up extents in which nothing is allocated, the coldest first, until they make up `wanted` bytes.
    pub fn remove_unused(&mut self, wanted: u64) -> Vec<(u64, u64)> {
        let unused = self.extents.iter().filter(|(_, state)| state.free_bytes == state.len);
        let mut unused: Vec<_> = unused
            .map(|(&offset, state)| (state.touched, offset, state.len))
            .collect();
        unused.sort_unstable();
        let mut sum = 0;
        let mut removed = Vec::new();
        for (_, offset, len) in unused {
            if sum >= wanted {
                break;
            }
            sum += len;
            self.remove_extent(offset);
            removed.push((offset, len));
        }
        removed
    }

    /// Forgets an extent in which nothing is allocated.
    fn remove_extent(&mut self, offset: u64) {
        self.extents.remove(&offset);
        let range = self.free[&offset];
        self.remove_free(offset, range);
    }

    /// Whether `offset` lies in one of the extents.
    pub fn contains(&self, offset: u64) -> bool {
        self.extents
            .range(..=offset)
            .next_back()
            .is_some_and(|(start, state)| offset < start + state.len)
    }

    /// Offset and length of each extent.
    pub fn extents(&self) -> impl Iterator<Item = (u64, u64)> {
        self.extents.iter().map(|(offset, state)| (*offset, state.len))
    }

    pub fn extent_bytes(&self) -> u64 {
        self.extents.values().map(|state| state.len).sum()
    }

    pub fn free_bytes(&self) -> u64 {
        self.extents.values().map(|state| state.free_bytes).sum()
    }

    fn insert_free(&mut self, offset: u64, range: FreeRange) {
        self.free.insert(offset, range);
        if !range.closed {
            self.by_size.insert((range.len, !range.stamp, offset));
        }
    }

    fn remove_free(&mut self, offset: u64, range: FreeRange) {
        self.free.remove(&offset);
        self.by_size.remove(&(range.len, !range.stamp, offset));
    }

    fn extent_of_mut(&mut self, offset: u64) -> (u64, &mut ExtentState) {
        let (start, state) = self
            .extents
            .range_mut(..=offset)
            .next_back()
            .expect("ALC-1: every block lies in an extent");
        (*start, state)
    }

    /// Recounts everything that is kept twice.
    ///
    /// # Panics
    /// Naming the invariant that is broken.
    pub fn check_invariants(&self) {
        let open = self.free.values().filter(|range| !range.closed);
        assert_eq!(self.by_size.len(), open.count(), "ALC-3");
        for (&offset, range) in &self.free {
            let entry = (range.len, !range.stamp, offset);
            assert_eq!(self.by_size.contains(&entry), !range.closed, "ALC-3");
            assert!(offset.is_multiple_of(ALIGN) && range.len.is_multiple_of(ALIGN), "ALC-1");
            let (start, state) = self.extents.range(..=offset).next_back().expect("ALC-1");
            assert!(offset + range.len <= start + state.len, "ALC-1");
        }
        for (&start, state) in &self.extents {
            let mut free_bytes = 0;
            let mut end = None;
            for (&offset, range) in self.free.range(start..start + state.len) {
                assert!(end.is_none_or(|end| end < offset), "ALC-2");
                end = Some(offset + range.len);
                free_bytes += range.len;
                assert_eq!(range.closed, state.closed, "ALC-3");
            }
            assert_eq!(free_bytes, state.free_bytes, "ALC-1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn with_extent(len: u64) -> Allocator {
        let mut allocator = Allocator::default();
        allocator.add_extent(4096, len);
        allocator
    }

    fn place(allocator: &mut Allocator, len: u64) -> Placed {
        let placed = allocator.allocate(len, Placement::SpareLarge).expect("there is room");
        allocator.check_invariants();
        placed
    }

    #[test]
    fn the_block_freed_last_is_reused_first() {
        let mut allocator = with_extent(4 * MIB);
        let blocks: Vec<_> = (0..4).map(|_| place(&mut allocator, MIB)).collect();
        allocator.release(blocks[0].offset, MIB);
        allocator.release(blocks[2].offset, MIB);
        assert_eq!(place(&mut allocator, MIB).offset, blocks[2].offset);
        assert_eq!(place(&mut allocator, MIB).offset, blocks[0].offset);
        assert_eq!(
            allocator.allocate(MIB, Placement::Anywhere),
            Err(NeedExtent { min_bytes: MIB })
        );
    }

    #[test]
    fn freed_neighbours_merge_but_never_across_extents() {
        let mut allocator = with_extent(2 * MIB);
        allocator.add_extent(4096 + 2 * MIB, 2 * MIB);
        assert!(allocator.allocate(3 * MIB, Placement::Anywhere).is_err());
        let blocks: Vec<_> = (0..4).map(|_| place(&mut allocator, MIB)).collect();
        for block in &blocks {
            allocator.release(block.offset, MIB);
            allocator.check_invariants();
        }
        assert_eq!(allocator.free.len(), 2);
        assert!(allocator.allocate(3 * MIB, Placement::Anywhere).is_err());
    }

    #[test]
    fn a_small_block_leaves_a_large_free_range_whole() {
        let mut allocator = with_extent(800 * MIB);
        let large = place(&mut allocator, 800 * MIB);
        allocator.release(large.offset, large.len);
        assert_eq!(
            allocator.allocate(MIB, Placement::SpareLarge),
            Err(NeedExtent { min_bytes: MIB })
        );
        allocator.add_extent(4096 + 800 * MIB, 4 * MIB);
        assert_eq!(place(&mut allocator, MIB).offset, 4096 + 800 * MIB);
        assert_eq!(place(&mut allocator, 800 * MIB), large);
    }

    #[test]
    fn sparing_a_large_range_has_a_budget() {
        let mut allocator = with_extent(800 * MIB);
        let large = place(&mut allocator, 800 * MIB);
        allocator.release(large.offset, large.len);
        let refusals = (0..200)
            .filter(|_| allocator.allocate(MIB, Placement::SpareLarge).is_err())
            .count();
        assert_eq!(refusals, 100, "an eighth of the range");
        assert!(allocator.allocate(MIB, Placement::Anywhere).is_ok());
    }

    #[test]
    fn a_fresh_extent_takes_whatever_asked_for_it() {
        let mut allocator = with_extent(100 * MIB);
        assert!(allocator.allocate(MIB, Placement::SpareLarge).is_ok());
    }

    #[test]
    fn unused_extents_leave_coldest_first() {
        let mut allocator = with_extent(4 * MIB);
        allocator.add_extent(100 * MIB, 4 * MIB);
        allocator.add_extent(200 * MIB, 4 * MIB);
        let hot = allocator.allocate(4 * MIB, Placement::Anywhere).expect("room");
        allocator.release(hot.offset, hot.len);
        assert_eq!(hot.offset, 200 * MIB, "the extent added last is the hottest");
        let used = allocator.allocate(64, Placement::Anywhere).expect("room");
        assert_eq!(used.offset, 200 * MIB);
        assert_eq!(allocator.remove_unused(1), [(4096, 4 * MIB)]);
        assert_eq!(allocator.remove_unused(u64::MAX), [(100 * MIB, 4 * MIB)]);
        assert_eq!(allocator.remove_unused(u64::MAX), []);
        assert!(allocator.contains(used.offset) && !allocator.contains(4096));
        allocator.check_invariants();
    }

    #[test]
    fn a_closed_extent_takes_nothing_more_and_leaves_when_it_is_empty() {
        let mut allocator = with_extent(4 * MIB);
        let kept = place(&mut allocator, MIB);
        assert!(allocator.close(4096) && !allocator.close(8192));
        allocator.check_invariants();
        assert!(allocator.allocate(64, Placement::Anywhere).is_err());
        assert_eq!(allocator.remove_drained(kept.offset), None);
        allocator.release(kept.offset, kept.len);
        allocator.check_invariants();
        assert!(allocator.allocate(64, Placement::Anywhere).is_err());
        assert_eq!(allocator.remove_drained(kept.offset), Some((4096, 4 * MIB)));
        allocator.check_invariants();
        assert!(!allocator.contains(4096));
    }

    #[test]
    #[should_panic(expected = "ALC-1: a block is freed once")]
    fn freeing_twice_is_noticed() {
        let mut allocator = with_extent(MIB);
        let block = place(&mut allocator, 1024);
        allocator.release(block.offset, block.len);
        allocator.release(block.offset, block.len);
    }

    #[test]
    fn lengths_that_overflow_are_simply_too_long() {
        let mut allocator = with_extent(MIB);
        assert!(allocator.allocate(block_len(u64::MAX), Placement::Anywhere).is_err());
        assert_eq!((block_len(0), block_len(64), block_len(65)), (128, 128, 192));
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_nothing_is_lost(steps in prop::collection::vec((any::<u8>(), 0u64..300_000), 1..200)) {
            let mut allocator = Allocator::default();
            let mut blocks: Vec<Placed> = Vec::new();
            let mut next_extent = 4096;
            for (choice, size) in steps {
                if choice < 150 {
                    let len = block_len(size);
                    let placed = allocator.allocate(len, Placement::SpareLarge).unwrap_or_else(|need| {
                        assert_eq!(need.min_bytes, len);
                        // Some extents touch, some don't.
                        next_extent += u64::from(choice % 2) * 4096;
                        allocator.add_extent(next_extent, 1 << 20);
                        next_extent += 1 << 20;
                        allocator.allocate(len, Placement::SpareLarge).expect("a fresh extent has room")
                    });
                    prop_assert!(placed.len >= len && placed.offset % ALIGN == 0);
                    for other in &blocks {
                        prop_assert!(placed.offset + placed.len <= other.offset || other.offset + other.len <= placed.offset);
                    }
                    blocks.push(placed);
                } else if choice < 240 {
                    if !blocks.is_empty() {
                        let block = blocks.swap_remove(usize::from(choice) % blocks.len());
                        let (start, len) = allocator.release(block.offset, block.len);
                        prop_assert!(start <= block.offset && start + len >= block.offset + block.len);
                    }
                } else {
                    if choice == 255 && next_extent > 4096 {
                        allocator.close(next_extent - (1 << 20));
                    }
                    for (offset, len) in allocator.remove_unused(size) {
                        prop_assert!(blocks.iter().all(|block| block.offset < offset || block.offset >= offset + len));
                    }
                }
                allocator.check_invariants();
                let used: u64 = blocks.iter().map(|block| block.len).sum();
                prop_assert_eq!(allocator.extent_bytes() - allocator.free_bytes(), used);
            }
        }
    }
}
