//! The raylet's truth about the arena: which client holds which extent, which blocks of ended clients are kept, what is
//! free, and which pages exist already. Offsets only: it never touches the arena.
//!
//! Held by [`ArenaHost`](crate::ArenaHost).
//!
//! * `EXT-1` free ranges, grants, and the pages of kept blocks tile the arena's data exactly, in whole pages;
//! * `EXT-2` free ranges never touch each other;
//! * `EXT-3` `populated` only names pages that were written or filled in once and not handed back to the kernel since.

use std::collections::BTreeMap;
use std::fmt;

/// Extents, and everything free, consist of whole pages.
pub const PAGE: u64 = 4096;
/// What a client gets when it asks for little.
pub const DEFAULT_EXTENT: u64 = 4 << 20;
/// Larger extents are rounded up by a sixteenth of their length, and by this at the most, so that objects of about
/// the same size can take turns in one.
const MAX_ROUNDING: u64 = 2 << 20;
const MIN_ROUNDING: u64 = 64 << 10;

/// A range of the arena that one client allocates in. The offset counts from the start of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub len: u64,
}

/// That client does not hold that extent.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("client {client} holds no extent of {len} bytes at {offset}")]
pub struct NotGranted {
    pub client: u32,
    pub offset: u64,
    pub len: u64,
}

/// Why an extent could not be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FullReason {
    /// No free range is long enough.
    NoRoom,
    /// The store has room, but the machine (or the container, or `/dev/shm`) has no memory for it.
    NoMemory,
    /// The client has no row in the arena's tables: too many processes use the store.
    NoRow,
    /// The client died meanwhile.
    ClientGone,
}

/// There is no extent to grant. The text is meant for the user whose `put` failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct StoreFull {
    pub reason: FullReason,
    pub requested_bytes: u64,
    pub capacity_bytes: u64,
    pub granted_bytes: u64,
    /// Objects of ended processes, which somebody still refers to.
    pub kept_bytes: u64,
    pub largest_free_bytes: u64,
    /// The clients that hold most, largest first, at most three.
    pub largest_holders: Vec<(u32, u64)>,
}

impl fmt::Display for StoreFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = Bytes(self.requested_bytes);
        let capacity = Bytes(self.capacity_bytes);
        match self.reason {
            FullReason::NoRoom => write!(f, "the object store has no room for {wanted}: ")?,
            FullReason::NoMemory => write!(f, "the machine has no memory left for {wanted} in the object store: ")?,
            FullReason::NoRow => write!(
                f,
                "too many processes of this node use the object store, {wanted} were refused: "
            )?,
            FullReason::ClientGone => write!(f, "the process that wanted {wanted} of the object store has ended: ")?,
        }
        write!(
            f,
            "{} of its {capacity} are in use",
            Bytes(self.granted_bytes + self.kept_bytes)
        )?;
        let mut separator = " (";
        for (client, bytes) in &self.largest_holders {
            write!(f, "{separator}client {client}: {}", Bytes(*bytes))?;
            separator = ", ";
        }
        if self.kept_bytes > 0 {
            write!(f, "{separator}objects of ended processes: {}", Bytes(self.kept_bytes))?;
            separator = ", ";
        }
        if separator == ", " {
            f.write_str(")")?;
        }
        write!(
            f,
            ", and the largest free piece has {}. ",
            Bytes(self.largest_free_bytes)
        )?;
        f.write_str(match self.reason {
            FullReason::NoRoom => "Drop references to objects that are no longer needed, or start with a larger object_store_memory.",
            FullReason::NoMemory => "Free memory on the machine (in a container: raise its memory or /dev/shm limit), or drop references to objects.",
            FullReason::NoRow => "End some workers or actors.",
            FullReason::ClientGone => "Nothing is to be done.",
        })
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match UNITS.iter().find(|(_, unit)| self.0 >= *unit) {
            Some((name, unit)) => write!(f, "{:.1} {name}", self.0 as f64 / *unit as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Disjoint ranges, merged where they touch.
#[derive(Debug, Default)]
struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    fn insert(&mut self, mut start: u64, mut end: u64) {
        self.remove(start, end);
        if let Some((&before, &before_end)) = self.0.range(..start).next_back()
            && before_end == start
        {
            start = before;
        }
        if let Some(after_end) = self.0.remove(&end) {
            end = after_end;
        }
        self.0.insert(start, end);
    }

    fn remove(&mut self, start: u64, end: u64) {
        if let Some((&before, &before_end)) = self.0.range(..start).next_back()
            && before_end > start
        {
            self.0.insert(before, start);
            if before_end > end {
                self.0.insert(end, before_end);
            }
        }
        while let Some((&inside, &inside_end)) = self.0.range(start..end).next() {
            self.0.remove(&inside);
            if inside_end > end {
                self.0.insert(end, inside_end);
            }
        }
    }

    /// The parts of the set inside `[start, end)`.
    fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        let first = self.0.range(..=start).next_back().map_or(start, |(&before, _)| before);
        let ranges = self.0.range(first..end.max(first));
        ranges
            .map(move |(&s, &e)| (s.max(start), e.min(end)))
            .filter(|(s, e)| s < e)
    }

    fn bytes_within(&self, start: u64, end: u64) -> u64 {
        self.within(start, end).map(|(start, end)| end - start).sum()
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    fn longest(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).max().unwrap_or(0)
    }
}

#[derive(Debug, Clone, Copy)]
struct Grant {
    client: u32,
    len: u64,
    /// Its pages are being reserved; set until [`ExtentTable::confirm`].
    pending: bool,
}

/// Who has a part of the arena that is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Its pages are being made.
    Pending,
    Extent(u32),
    Kept,
}

/// A block (header included) that the raylet holds: of an ended client, or brought back from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptBlock {
    pub offset: u64,
    pub len: u64,
    pub generation: u64,
}

#[derive(Debug)]
pub struct ExtentTable {
    start: u64,
    end: u64,
    free: RangeSet,
    populated: RangeSet,
    grants: BTreeMap<u64, Grant>,
    /// By offset of the header.
    kept: BTreeMap<u64, KeptBlock>,
}

impl ExtentTable {
    /// A table of the data between `start` and `end`, both whole pages.
    pub fn new(start: u64, end: u64) -> Self {
        assert!(
            start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE) && start < end,
            "EXT-1: whole pages"
        );
        let mut free = RangeSet::default();
        free.insert(start, end);
        Self {
            start,
            end,
            free,
            populated: RangeSet::default(),
            grants: BTreeMap::new(),
            kept: BTreeMap::new(),
        }
    }

    /// Grants at least `min_bytes`; the grant stays pending until [`Self::confirm`] or [`Self::cancel`].
    ///
    /// # Errors
    /// [`StoreFull`] with [`FullReason::NoRoom`].
    pub fn grant(&mut self, client: u32, min_bytes: u64) -> Result<Extent, StoreFull> {
        let least = min_bytes.max(PAGE).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let comfortable = comfortable_len(least);
        let found = self.best_window(comfortable).map(|offset| (offset, comfortable));
        let found = found.or_else(|| self.best_window(least).map(|offset| (offset, least)));
        let Some((offset, len)) = found else {
            return Err(self.full(FullReason::NoRoom, min_bytes));
        };
        self.free.remove(offset, offset + len);
        self.grants.insert(
            offset,
            Grant {
                client,
                len,
                pending: true,
            },
        );
        Ok(Extent { offset, len })
    }

    /// The same for exactly `len` bytes, in whole pages.
    ///
    /// # Errors
    /// As [`Self::grant`].
    pub fn grant_exactly(&mut self, client: u32, len: u64) -> Result<Extent, StoreFull> {
        let whole = len.max(PAGE).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let Some(offset) = self.best_window(whole) else {
            return Err(self.full(FullReason::NoRoom, len));
        };
        let pending = true;
        self.free.remove(offset, offset + whole);
        self.grants.insert(
            offset,
            Grant {
                client,
                len: whole,
                pending,
            },
        );
        Ok(Extent { offset, len: whole })
    }

    /// Everything but the free pages, in order: extents whose grant is final (with their client) or not (without), and
    /// kept blocks.
    pub fn taken(&self) -> Vec<(u64, u64, Taken)> {
        let grants = self.grants.iter().map(|(&offset, grant)| {
            let taken = match grant.pending {
                true => Taken::Pending,
                false => Taken::Extent(grant.client),
            };
            (offset, grant.len, taken)
        });
        let kept = self.kept.values().map(|block| (block.offset, block.len, Taken::Kept));
        let mut all: Vec<_> = grants.chain(kept).collect();
        all.sort_unstable_by_key(|(offset, ..)| *offset);
        all
    }

    /// The free ranges, in order.
    pub fn free_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.free.0.iter().map(|(start, end)| (*start, end - start))
    }

    /// The client that holds the extent around `offset`.
    pub fn holder_of(&self, offset: u64) -> Option<u32> {
        let (start, grant) = self.grants.range(..=offset).next_back()?;
        (offset < start + grant.len).then_some(grant.client)
    }

    /// The free window of `len` bytes with most pages already there; among equals the one in the shortest free range.
    fn best_window(&self, len: u64) -> Option<u64> {
        let mut best: Option<((u64, u64), u64)> = None;
        let mut consider = |warm: u64, range_len: u64, offset: u64| {
            let merit = (warm, u64::MAX - range_len);
            if best.is_none_or(|(best_merit, _)| merit > best_merit) {
                best = Some((merit, offset));
            }
        };
        for (&start, &end) in &self.free.0 {
            let Some(last) = end.checked_sub(len).filter(|last| *last >= start) else {
                continue;
            };
            consider(self.populated.bytes_within(start, start + len), end - start, start);
            for (warm_start, warm_end) in self.populated.within(start, end) {
                for offset in [warm_start, warm_end.saturating_sub(len)] {
                    let offset = offset.clamp(start, last);
                    consider(self.populated.bytes_within(offset, offset + len), end - start, offset);
                }
            }
        }
        best.map(|(_, offset)| offset)
    }

    /// Whether all pages of the range are there already.
    pub fn is_populated(&self, extent: Extent) -> bool {
        self.populated.bytes_within(extent.offset, extent.offset + extent.len) == extent.len
    }

    /// The parts of an extent whose pages are absent, in order.
    pub fn cold_within(&self, extent: Extent) -> Vec<Extent> {
        let end = extent.offset + extent.len;
        let mut cold = Vec::new();
        let mut at = extent.offset;
        let warm = self.populated.within(extent.offset, end);
        for (start, after) in warm.chain(std::iter::once((end, end))) {
            if start > at {
                cold.push(Extent {
                    offset: at,
                    len: start - at,
                });
            }
            at = after;
        }
        cold
    }

    /// Makes a pending grant final: its pages are reserved, and its holder fills them in.
    ///
    /// # Errors
    /// [`StoreFull`] when the client died meanwhile; the range is free again.
    pub fn confirm(&mut self, client: u32, extent: Extent) -> Result<(), StoreFull> {
        self.populated.insert(extent.offset, extent.offset + extent.len);
        match self.grants.get_mut(&extent.offset) {
            Some(grant) if grant.client == client && grant.len == extent.len => {
                grant.pending = false;
                Ok(())
            }
            Some(_) | None => {
                self.cancel(extent);
                Err(self.full(FullReason::ClientGone, extent.len))
            }
        }
    }

    /// Takes back a grant whose pages could not be had.
    pub fn cancel(&mut self, extent: Extent) {
        self.grants.remove(&extent.offset);
        self.free.insert(extent.offset, extent.offset + extent.len);
    }

    /// Takes back an extent that its client no longer uses.
    ///
    /// # Errors
    /// [`NotGranted`] unless exactly this extent is granted to exactly this client.
    pub fn give_back(&mut self, client: u32, extent: Extent) -> Result<(), NotGranted> {
        let grant = self.grants.get(&extent.offset);
        if !grant.is_some_and(|grant| grant.client == client && grant.len == extent.len && !grant.pending) {
            return Err(NotGranted {
                client,
                offset: extent.offset,
                len: extent.len,
            });
        }
        self.cancel(extent);
        Ok(())
    }

    /// The final grants of a client; pending ones are disowned, so that their [`Self::confirm`] takes them back.
    pub fn extents_of_dead(&mut self, client: u32) -> Vec<Extent> {
        let mut extents = Vec::new();
        for (&offset, grant) in self.grants.iter_mut().filter(|(_, grant)| grant.client == client) {
            if grant.pending {
                grant.client = 0;
            } else {
                extents.push(Extent { offset, len: grant.len });
            }
        }
        extents
    }

    /// Turns an ended client's extent into kept blocks and free pages. The blocks come in order of their offsets.
    pub fn take_over(&mut self, extent: Extent, kept: &[KeptBlock]) {
        let grant = self
            .grants
            .remove(&extent.offset)
            .expect("EXT-1: only a granted extent is taken over");
        assert_eq!(grant.len, extent.len, "EXT-1");
        self.free.insert(extent.offset, extent.offset + extent.len);
        for block in kept {
            assert!(
                block.offset >= extent.offset && block.offset + block.len <= extent.offset + extent.len,
                "EXT-1"
            );
            let (start, end) = pages_of(block);
            self.free.remove(start, end);
            self.kept.insert(block.offset, *block);
        }
    }

    pub fn kept(&self, offset: u64) -> Option<KeptBlock> {
        self.kept.get(&offset).copied()
    }

    pub fn all_kept(&self) -> impl Iterator<Item = KeptBlock> {
        self.kept.values().copied()
    }

    /// Frees the pages of a kept block, but for those it shares with its neighbours.
    pub fn release_kept(&mut self, offset: u64) {
        let block = self.kept.remove(&offset).expect("EXT-1: only a kept block is released");
        let (mut start, mut end) = pages_of(&block);
        if let Some((_, before)) = self.kept.range(..offset).next_back() {
            start = start.max(pages_of(before).1);
        }
        if let Some((_, after)) = self.kept.range(offset..).next() {
            end = end.min(pages_of(after).0);
        }
        if start < end {
            self.free.insert(start, end);
        }
    }

    /// Whether `offset` lies in an extent that some client holds.
    pub fn is_granted(&self, offset: u64) -> bool {
        self.holder_of(offset).is_some()
    }

    /// The next free range, up to `bytes` long, to fill in ahead of need. `None` when `reserve_bytes` are ready.
    pub fn next_prefault(&self, bytes: u64, reserve_bytes: u64) -> Option<Extent> {
        let ready = self.populated_free_bytes();
        let missing = reserve_bytes.saturating_sub(ready).min(bytes).next_multiple_of(PAGE);
        if missing == 0 {
            return None;
        }
        // Growing what is ready makes one long range of it.
        let after_ready = |start: u64, end: u64| {
            let mut cold = start;
            for (warm_start, warm_end) in self.populated.within(start, end) {
                if warm_start > cold && cold > start {
                    return (cold, warm_start);
                }
                cold = warm_end;
            }
            (cold, end)
        };
        let pieces = self.free.0.iter().flat_map(|(&start, &end)| {
            let first_warm = self.populated.within(start, end).next().map_or(end, |(warm, _)| warm);
            [after_ready(start, end), (start, first_warm)]
        });
        let (start, end) = pieces
            .filter(|(start, end)| start < end)
            .max_by_key(|(start, end)| (end - start).min(missing))?;
        Some(Extent {
            offset: start,
            len: (end - start).min(missing),
        })
    }

    pub fn mark_populated(&mut self, extent: Extent) {
        self.populated.insert(extent.offset, extent.offset + extent.len);
    }

    /// Free pages that exist, from the end of the arena down, up to `bytes`; from now on they count as absent.
    pub fn take_populated_free(&mut self, bytes: u64) -> Option<Extent> {
        let free = self.free.0.iter().rev();
        let (start, end) = free
            .filter_map(|(&start, &end)| self.populated.within(start, end).last())
            .find(|(start, end)| start < end)?;
        let len = (end - start).min(bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX));
        if len == 0 {
            return None;
        }
        self.populated.remove(end - len, end);
        Some(Extent { offset: end - len, len })
    }

    pub fn full(&self, reason: FullReason, requested_bytes: u64) -> StoreFull {
        let mut by_client: BTreeMap<u32, u64> = BTreeMap::new();
        for grant in self.grants.values() {
            *by_client.entry(grant.client).or_default() += grant.len;
        }
        let mut largest_holders: Vec<(u32, u64)> = by_client.into_iter().collect();
        largest_holders.sort_by_key(|(client, bytes)| (u64::MAX - bytes, *client));
        largest_holders.truncate(3);
        StoreFull {
            reason,
            requested_bytes,
            capacity_bytes: self.end - self.start,
            granted_bytes: self.granted_bytes(),
            kept_bytes: self.kept_page_bytes(),
            largest_free_bytes: self.free.longest(),
            largest_holders,
        }
    }

    pub fn granted_bytes(&self) -> u64 {
        self.grants.values().map(|grant| grant.len).sum()
    }

    pub fn free_bytes(&self) -> u64 {
        self.free.bytes()
    }

    /// Pages that kept blocks occupy.
    pub fn kept_page_bytes(&self) -> u64 {
        self.end - self.start - self.free.bytes() - self.granted_bytes()
    }

    pub fn kept_blocks(&self) -> u64 {
        self.kept.len() as u64
    }

    pub fn populated_bytes(&self) -> u64 {
        self.populated.bytes()
    }

    pub fn populated_free_bytes(&self) -> u64 {
        self.free
            .0
            .iter()
            .map(|(&start, &end)| self.populated.bytes_within(start, end))
            .sum()
    }

    /// Recounts everything that is kept twice.
    ///
    /// # Panics
    /// Naming the invariant that is broken.
    pub fn check_invariants(&self) {
        let mut taken = RangeSet::default();
        for block in self.kept.values() {
            let (start, end) = pages_of(block);
            taken.insert(start, end);
        }
        let kept_bytes = taken.bytes();
        for (&offset, grant) in &self.grants {
            assert_eq!(taken.bytes_within(offset, offset + grant.len), 0, "EXT-1");
            taken.insert(offset, offset + grant.len);
        }
        let mut last_end = None;
        for (&start, &end) in &self.free.0 {
            assert!(last_end.is_none_or(|last| last < start), "EXT-2");
            last_end = Some(end);
            assert_eq!(taken.bytes_within(start, end), 0, "EXT-1");
            assert!(
                start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE) && start >= self.start && end <= self.end,
                "EXT-1"
            );
        }
        assert_eq!(taken.bytes() + self.free.bytes(), self.end - self.start, "EXT-1");
        assert_eq!(kept_bytes, self.kept_page_bytes(), "EXT-1");
    }
}

/// How much to grant for `least` bytes: several blocks of this size when they are small, or some slack when not.
fn comfortable_len(least: u64) -> u64 {
    if least == u64::MAX {
        return least;
    }
    if least <= DEFAULT_EXTENT / 4 {
        return DEFAULT_EXTENT;
    }
    let several = least.saturating_mul(DEFAULT_EXTENT.div_ceil(least));
    let rounding = (least / 16).next_power_of_two().clamp(MIN_ROUNDING, MAX_ROUNDING);
    several.checked_next_multiple_of(rounding).unwrap_or(several)
}

fn pages_of(block: &KeptBlock) -> (u64, u64) {
    (
        block.offset / PAGE * PAGE,
        (block.offset + block.len).next_multiple_of(PAGE),
    )
}

#[cfg(test)]
mod tests;
