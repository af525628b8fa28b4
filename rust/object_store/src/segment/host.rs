//! The raylet's end of the arena.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backing::Backing;
use super::heap::Heap;
use super::map::{DATA_START, MAX_CLIENTS, Map};
use super::protocol::{FREEING, SEALED, SPILLING};
use super::{ArenaClient, FreeOutcome};
use crate::allocator::HEADER_BYTES;
use crate::extents::{Extent, ExtentTable, FullReason, KeptBlock, NotGranted, PAGE, StoreFull};

/// Pages kept ready ahead of need, at most; a quarter of a small store. With the pages of the pin tables, less than 64 MiB.
const RESERVE_BYTES: u64 = (64 << 20) - (512 << 10);

/// What a dead client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeathSummary {
    pub freed_bytes: u64,
    pub kept_blocks: u64,
    pub kept_bytes: u64,
    pub cleared_pins: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostStats {
    pub capacity_bytes: u64,
    pub granted_bytes: u64,
    pub kept_bytes: u64,
    pub kept_blocks: u64,
    pub free_bytes: u64,
    pub populated_bytes: u64,
    pub clients: u64,
}

/// A grant whose pages are still to be made.
#[derive(Debug)]
pub struct PendingGrant {
    client: u32,
    pub(super) extent: Extent,
    /// Its parts that had no pages.
    cold: Vec<Extent>,
    backing: Option<Backing>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Pages are still to be made.
    Cold,
    /// All pages are there.
    Reserved,
    Failed,
}

/// What is left to be done for pages that were only reserved: the kernel gives them a content when somebody first looks,
/// page by page, and maps pages that have none one by one. Given one beforehand, they are mapped sixteen at a time, which
/// more than halves the time of the first copy into them.
#[derive(Debug)]
pub struct PageFill {
    backing: Backing,
    client: u32,
    left: Vec<Extent>,
}

impl PageFill {
    /// Fills up to `bytes`, on any thread; false when nothing is left to do. The caller has looked that it
    /// [is wanted](ArenaHost::wants_filled): should the extent have gone since, some pages exist that count as absent.
    pub fn step(&mut self, bytes: u64) -> bool {
        let Some(first) = self.left.first_mut() else {
            return false;
        };
        let len = first.len.min(bytes);
        if self.backing.fill_in(Extent { len, ..*first }).is_err() {
            return false;
        }
        *first = Extent {
            offset: first.offset + len,
            len: first.len - len,
        };
        if first.len == 0 {
            self.left.remove(0);
        }
        !self.left.is_empty()
    }
}

impl PendingGrant {
    pub fn needs_pages(&self) -> bool {
        self.stage == Stage::Cold
    }

    pub(super) fn has_pages(&self) -> bool {
        self.stage == Stage::Reserved
    }

    /// Makes the pages. Out of memory is an error of the grant, and never a SIGBUS in whoever writes later.
    pub fn reserve_pages(&mut self) {
        if self.stage != Stage::Cold {
            return;
        }
        // Not the whole extent: it takes a third of a microsecond to find a page that is there.
        let backing = self.backing.as_ref();
        let all = backing.is_some_and(|backing| self.cold.iter().all(|cold| backing.make_pages(*cold).is_ok()));
        self.stage = if all { Stage::Reserved } else { Stage::Failed };
    }

    /// What may be done for its new pages once they are made, beside whoever uses them already.
    pub fn fill(&mut self) -> Option<PageFill> {
        if !self.has_pages() {
            return None;
        }
        Some(PageFill {
            backing: self.backing.take()?,
            client: self.client,
            left: std::mem::take(&mut self.cold),
        })
    }
}

/// The arena, with the truth about who may allocate where.
pub struct ArenaHost {
    backing: Backing,
    pub(super) map: Arc<Map>,
    pub(super) table: ExtentTable,
    capacity: u64,
    free_rows: Vec<u32>,
    next_row: u32,
    live_rows: u64,
    /// Kept blocks that were freed while somebody looked: data offset and generation.
    pub(super) zombies: Vec<(u64, u64)>,
    /// Of the blocks that the raylet writes itself.
    pub(super) next_generation: u64,
    is_memfd: bool,
}

impl ArenaHost {
    /// Makes an arena of `capacity` bytes that has no name: it ends with the last process that maps it.
    ///
    /// # Errors
    /// When no shared memory of that size can be made.
    pub fn create(capacity: u64) -> io::Result<(Self, OwnedFd)> {
        let capacity = capacity.max(PAGE).next_multiple_of(PAGE);
        let (backing, is_memfd) = Backing::file(DATA_START + capacity)?;
        let host = Self::over(backing, capacity, is_memfd)?;
        let share = host.share()?;
        Ok((host, share))
    }

    /// The twin on the heap of this process: see [`Heap`]. Its clients come from [`Self::client_here`].
    ///
    /// # Errors
    /// When not even the first pages are within `limit_bytes`.
    pub fn on_heap(capacity: u64, limit_bytes: u64) -> io::Result<(Self, Arc<Heap>)> {
        let capacity = capacity.max(PAGE).next_multiple_of(PAGE);
        let heap = Arc::new(Heap::new(DATA_START + capacity, limit_bytes));
        let host = Self::over(Backing::Heap(Arc::clone(&heap)), capacity, false)?;
        Ok((host, heap))
    }

    fn over(backing: Backing, capacity: u64, is_memfd: bool) -> io::Result<Self> {
        let size = DATA_START + capacity;
        // The first pages are written before anything is granted.
        backing.make_pages(Extent {
            offset: 0,
            len: 2 * PAGE,
        })?;
        let map = Arc::new(backing.map()?);
        map.initialise();
        Ok(Self {
            backing,
            map,
            table: ExtentTable::new(DATA_START, size),
            capacity,
            free_rows: Vec::new(),
            next_row: 1,
            live_rows: 0,
            zombies: Vec::new(),
            next_generation: 0,
            is_memfd,
        })
    }

    /// Another descriptor of the arena, for a client.
    ///
    /// # Errors
    /// When there is none left, or the arena lies on the heap.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.backing.descriptor()?.try_clone_to_owned()
    }

    /// A client in this process, with a view of its own where the arena is a file.
    ///
    /// # Errors
    /// As of [`ArenaClient::attach`].
    pub fn client_here(&self, client: u32, owner: u64) -> io::Result<ArenaClient> {
        ArenaClient::over(self.backing.try_clone()?, client, owner)
    }

    /// A row of the pin tables for a new client; 0 when all are taken.
    pub fn allocate_client(&mut self) -> u32 {
        let row = match self.free_rows.pop() {
            Some(row) => row,
            None if self.next_row < MAX_CLIENTS => {
                self.next_row += 1;
                self.next_row - 1
            }
            None => return 0,
        };
        if !self.map.reserve_pins(row, 0) {
            self.free_rows.push(row);
            return 0;
        }
        self.live_rows += 1;
        row
    }

    /// Room for at least `min_bytes`, with pages that exist. Blocks while they are made (0.5 ms for a MiB of fresh ones).
    ///
    /// # Errors
    /// [`StoreFull`], whose text is for the user.
    pub fn grant(&mut self, client: u32, min_bytes: u64) -> Result<Extent, StoreFull> {
        let mut pending = self.begin_grant(client, min_bytes)?;
        pending.reserve_pages();
        self.finish_grant(pending)
    }

    /// The same in three steps, so that a loop need not block: this, [`PendingGrant::reserve_pages`] on any thread if
    /// [`PendingGrant::needs_pages`], and [`Self::finish_grant`].
    ///
    /// # Errors
    /// [`StoreFull`], whose text is for the user.
    pub fn begin_grant(&mut self, client: u32, min_bytes: u64) -> Result<PendingGrant, StoreFull> {
        if client == 0 {
            return Err(self.table.full(FullReason::NoRow, min_bytes));
        }
        self.reap();
        let extent = self.table.grant(client, min_bytes)?;
        Ok(self.pending(client, extent))
    }

    pub(super) fn pending(&self, client: u32, extent: Extent) -> PendingGrant {
        self.map.next_epoch();
        let cold = self.table.cold_within(extent);
        let backing = match cold.is_empty() {
            true => None,
            false => self.backing.try_clone().ok(),
        };
        let stage = match (cold.is_empty(), &backing) {
            (true, _) => Stage::Reserved,
            (false, Some(_)) => Stage::Cold,
            (false, None) => Stage::Failed,
        };
        PendingGrant {
            client,
            extent,
            cold,
            backing,
            stage,
        }
    }

    /// # Errors
    /// [`StoreFull`] when the pages could not be had, or the client died meanwhile.
    pub fn finish_grant(&mut self, pending: PendingGrant) -> Result<Extent, StoreFull> {
        let PendingGrant { client, extent, .. } = pending;
        if !pending.has_pages() {
            self.table.cancel(extent);
            return Err(self.table.full(FullReason::NoMemory, extent.len));
        }
        self.table.confirm(client, extent)?;
        Ok(extent)
    }

    /// Whether the first of what is left to fill in is still its client's.
    pub fn wants_filled(&self, fill: &PageFill) -> bool {
        let holder = |extent: &Extent| self.table.holder_of(extent.offset);
        fill.left.first().and_then(holder) == Some(fill.client)
    }

    /// # Errors
    /// [`NotGranted`] when the client does not hold exactly this extent.
    pub fn give_back(&mut self, client: u32, offset: u64, len: u64) -> Result<(), NotGranted> {
        self.table.give_back(client, Extent { offset, len })
    }

    /// The client's pins, its unsealed blocks and those that `owner` (it) owned go; what others own stays with the raylet.
    pub fn client_died(&mut self, client: u32, owner: u64) -> DeathSummary {
        let mut summary = DeathSummary {
            cleared_pins: self.map.clear_row(client),
            ..DeathSummary::default()
        };
        for extent in self.table.extents_of_dead(client) {
            let kept = self.blocks_to_keep(extent, owner);
            let kept_bytes: u64 = kept.iter().map(|block| block.len).sum();
            summary.kept_blocks += kept.len() as u64;
            summary.kept_bytes += kept_bytes;
            summary.freed_bytes += extent.len - kept_bytes;
            self.table.take_over(extent, &kept);
        }
        self.owners_died(|dead| dead == owner);
        if client != 0 {
            self.live_rows -= 1;
            self.free_rows.push(client);
        }
        summary
    }

    /// What of a dead client's extent somebody owns or looks at.
    fn blocks_to_keep(&mut self, extent: Extent, dead: u64) -> Vec<KeptBlock> {
        let mut kept = Vec::new();
        for (offset, len) in self.map.blocks(extent.offset, extent.len) {
            let data_offset = offset + HEADER_BYTES;
            let Some(header) = self.map.header(data_offset) else {
                continue;
            };
            let generation = header.generation.load(Ordering::Relaxed);
            let state = header.state.load(Ordering::Acquire);
            // What is on its way to disk is the spill table's affair.
            let is_owned = state == SPILLING || (state == SEALED && header.owner.load(Ordering::Acquire) != dead);
            if !is_owned {
                if state != SEALED && state != FREEING {
                    continue;
                }
                header.state.store(FREEING, Ordering::SeqCst);
                if !self.map.is_pinned(data_offset) {
                    continue;
                }
                self.zombies.push((data_offset, generation));
            }
            kept.push(KeptBlock {
                offset,
                len,
                generation,
            });
        }
        kept
    }

    /// Of the blocks that processes left which ended before, those go whose owners have now ended as well.
    pub fn owners_died(&mut self, are_dead: impl Fn(u64) -> bool) {
        let is_its = |block: &KeptBlock| {
            let header = self.map.header(block.offset + HEADER_BYTES);
            header.is_some_and(|header| {
                let owner = header.owner.load(Ordering::Acquire);
                header.state.load(Ordering::Acquire) == SEALED && are_dead(owner)
            })
        };
        let orphans: Vec<_> = self.table.all_kept().filter(is_its).collect();
        for block in orphans {
            self.free(block.offset + HEADER_BYTES, block.generation);
        }
    }

    /// From here on `owner` counts the references to a block, whoever has made it.
    pub fn hand_over(&mut self, offset: u64, generation: u64, owner: u64) {
        if let Some(header) = self.map.header(offset) {
            header.hand_over(generation, owner);
        }
    }

    /// Frees a kept block, as soon as nobody looks at it.
    pub fn free(&mut self, offset: u64, generation: u64) -> FreeOutcome {
        let Some(start) = offset.checked_sub(HEADER_BYTES) else {
            return FreeOutcome::Stale;
        };
        match self.table.kept(start) {
            Some(block) if block.generation == generation => {}
            Some(_) => return FreeOutcome::Stale,
            None if self.table.is_granted(offset) => {
                // Its writer has died, as the owner knows and this node's daemon does not yet.
                if let Some(header) = self.map.header(offset) {
                    header.mark_unwanted(generation);
                }
                return FreeOutcome::NotMine;
            }
            None => return FreeOutcome::Stale,
        }
        if let Some(header) = self.map.header(offset) {
            header.state.store(FREEING, Ordering::SeqCst);
        }
        if self.map.is_pinned(offset) {
            self.zombies.push((offset, generation));
            return FreeOutcome::Pinned;
        }
        self.table.release_kept(start);
        FreeOutcome::Freed
    }

    pub fn reap(&mut self) -> usize {
        let zombies = std::mem::take(&mut self.zombies);
        let before = zombies.len();
        for (offset, generation) in zombies {
            if self.map.is_pinned(offset) {
                self.zombies.push((offset, generation));
            } else if self
                .table
                .kept(offset - HEADER_BYTES)
                .is_some_and(|block| block.generation == generation)
            {
                self.table.release_kept(offset - HEADER_BYTES);
            }
        }
        before - self.zombies.len()
    }

    pub fn has_zombies(&self) -> bool {
        !self.zombies.is_empty()
    }

    /// Makes up to `bytes` of pages ready ahead of need; how many (0: enough are ready, or memory is short).
    pub fn prefault_step(&mut self, bytes: u64) -> u64 {
        let Some(extent) = self.table.next_prefault(bytes, RESERVE_BYTES.min(self.capacity / 4)) else {
            return 0;
        };
        if self.backing.make_pages(extent).is_err() || self.backing.fill_in(extent).is_err() {
            return 0;
        }
        self.table.mark_populated(extent);
        extent.len
    }

    /// Gives up to `bytes` of free pages back to the kernel; how many.
    pub fn trim(&mut self, bytes: u64) -> u64 {
        let mut trimmed = 0;
        while trimmed < bytes {
            let Some(extent) = self.table.take_populated_free(bytes - trimmed) else {
                break;
            };
            if self.backing.drop_pages(extent).is_err() {
                break;
            }
            trimmed += extent.len;
        }
        trimmed
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether a client holds an extent that begins at `offset`.
    pub fn is_extent(&self, offset: u64) -> bool {
        self.table.is_granted(offset)
    }

    /// The text of a refusal, for what was not even tried.
    pub fn full(&self, reason: FullReason, requested_bytes: u64) -> StoreFull {
        self.table.full(reason, requested_bytes)
    }

    /// `/dev/shm` had no room, so the arena is an anonymous file.
    pub fn is_memfd(&self) -> bool {
        self.is_memfd
    }

    pub fn stats(&self) -> HostStats {
        HostStats {
            capacity_bytes: self.capacity,
            granted_bytes: self.table.granted_bytes(),
            kept_bytes: self.table.kept_page_bytes(),
            kept_blocks: self.table.kept_blocks(),
            free_bytes: self.table.free_bytes(),
            populated_bytes: self.table.populated_bytes(),
            clients: self.live_rows,
        }
    }
}
