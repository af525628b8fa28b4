//! A core worker's end of the arena.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::FreeOutcome;
use super::PrivateBlock;
use super::backing::Backing;
use super::map::{DATA_START, Map, PINS_PER_ROW};
use super::protocol::{FREE, FREEING, SEALED, SPILLED, WRITING};
use crate::allocator::{Allocator, HEADER_BYTES, NeedExtent, Placement, block_len};

/// A block that was allocated: its data is at `offset` from the start of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub offset: u64,
    pub len: u64,
    pub generation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientStats {
    pub extent_bytes: u64,
    pub used_bytes: u64,
    pub zombies: u64,
    pub pins: u64,
}

#[derive(Default)]
struct Inside {
    allocator: Allocator,
    next_generation: u64,
    /// Freed while somebody looked: data offset and generation.
    zombies: Vec<(u64, u64)>,
    /// Closed extents that are empty: the raylet's again, which is still to be told.
    drained: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Pins {
    /// By data offset: slot in the row, and how many pins share it.
    held: FxHashMap<u64, (u32, u32)>,
    free: Vec<u32>,
    next: u32,
}

/// A process's view of the arena: the extents it allocates in, and what it reads.
pub struct ArenaClient {
    map: Map,
    /// For mappings of a reader's own, and for sockets.
    backing: Backing,
    client: u32,
    /// What stands in the headers of the blocks that are this process's own.
    owner: u64,
    inside: Mutex<Inside>,
    pins: Mutex<Pins>,
    has_zombies: AtomicBool,
    has_drained: AtomicBool,
    /// Some block of ours has another owner.
    has_handed_over: AtomicBool,
    /// This process is a forked child of the client: the row of pins is its parent's.
    forked: AtomicBool,
}

impl ArenaClient {
    /// `owner` stands for this process in the headers of its blocks; no other process of the node has it.
    ///
    /// # Errors
    /// When `fd` is no arena or cannot be mapped.
    pub fn attach(fd: OwnedFd, client: u32, owner: u64) -> io::Result<Self> {
        Self::over(Backing::File(fd), client, owner)
    }

    pub(super) fn over(backing: Backing, client: u32, owner: u64) -> io::Result<Self> {
        let map = backing.map()?;
        if !map.is_arena() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is no arena"));
        }
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        // Rows are used again after a death; a random start keeps the generations of two lives apart.
        let next_generation = u64::from(client) << 48 | u64::from(u32::from_le_bytes(random)) << 8;
        Ok(Self {
            map,
            backing,
            client,
            owner,
            inside: Mutex::new(Inside {
                next_generation,
                ..Inside::default()
            }),
            pins: Mutex::new(Pins::default()),
            has_zombies: AtomicBool::new(false),
            has_drained: AtomicBool::new(false),
            has_handed_over: AtomicBool::new(false),
            forked: AtomicBool::new(false),
        })
    }

    /// In a forked child of the client: from here on nothing that is dropped here changes what the parent has pinned.
    /// What is read here stays in place only while the parent holds it.
    pub fn after_fork_in_child(&self) {
        self.forked.store(true, Ordering::Relaxed);
    }

    pub fn client(&self) -> u32 {
        self.client
    }

    pub fn capacity(&self) -> u64 {
        self.map.len() - DATA_START
    }

    /// The raylet granted this range.
    pub fn add_extent(&self, offset: u64, len: u64) {
        self.map.write_header(offset, len, FREE, 0, 0);
        self.inside.lock().allocator.add_extent(offset, len);
    }

    /// A block for `len` bytes, to be written and sealed.
    ///
    /// # Errors
    /// [`NeedExtent`] when the raylet must be asked for room.
    pub fn allocate(&self, len: u64) -> Result<Block, NeedExtent> {
        self.place(len, Placement::SpareLarge)
    }

    /// The same, also from large free extents that are otherwise kept whole: for when the raylet has no more.
    pub fn allocate_anywhere(&self, len: u64) -> Result<Block, NeedExtent> {
        self.place(len, Placement::Anywhere)
    }

    fn place(&self, len: u64, placement: Placement) -> Result<Block, NeedExtent> {
        self.reap();
        let mut inside = self.inside.lock();
        let placed = inside.allocator.allocate(block_len(len), placement)?;
        inside.next_generation += 1;
        let generation = inside.next_generation;
        if let Some((offset, len)) = placed.remainder {
            self.map.write_header(offset, len, FREE, 0, 0);
        }
        self.map
            .write_header(placed.offset, placed.len, WRITING, generation, len);
        if let Some(header) = self.map.header(placed.offset + HEADER_BYTES) {
            header.owner.store(self.owner, Ordering::Relaxed);
            header.epoch.store(self.map.epoch(), Ordering::Relaxed);
        }
        Ok(Block {
            offset: placed.offset + HEADER_BYTES,
            len,
            generation,
        })
    }

    /// The bytes of a block that was allocated here and not sealed yet.
    pub fn writer(&self, block: &Block) -> BlockWriter<'_> {
        assert!(
            self.is(block.offset, block.generation, WRITING),
            "only a block in the making is written"
        );
        let data = self
            .map
            .data(block.offset, block.len)
            .expect("STO-1: blocks lie in the data");
        // SAFETY: the block is ours and in the making: nobody reads it, and its `Block` is used by one thread.
        BlockWriter(unsafe { std::slice::from_raw_parts_mut(data, block.len as usize) })
    }

    /// From here on the data never changes.
    pub fn seal(&self, block: Block) {
        if let Some(header) = self.map.header(block.offset) {
            header.seal();
        }
    }

    /// Gives up a block that was not sealed.
    pub fn abandon(&self, block: Block) {
        // A forked child has its parent's blocks in its hands, and not its locks.
        if self.forked.load(Ordering::Relaxed) {
            return;
        }
        let mut inside = self.inside.lock();
        if self.is(block.offset, block.generation, WRITING) {
            self.release(&mut inside, block.offset);
        }
    }

    fn is(&self, offset: u64, generation: u64, state: u32) -> bool {
        self.map
            .header(offset)
            .is_some_and(|header| header.is(generation, state))
    }

    /// Frees a sealed block of one of our extents, as soon as nobody looks at it.
    pub fn free(&self, offset: u64, generation: u64) -> FreeOutcome {
        let mut inside = self.inside.lock();
        if !inside.allocator.contains(offset) {
            return FreeOutcome::NotMine;
        }
        let is_unwanted = self.is(offset, generation, FREEING) && !inside.zombies.contains(&(offset, generation));
        if !self.is(offset, generation, SEALED) && !is_unwanted {
            return FreeOutcome::Stale;
        }
        self.free_sealed(&mut inside, offset, generation)
    }

    /// A block that is SEALED, or FREEING by the word of its owner.
    fn free_sealed(&self, inside: &mut Inside, offset: u64, generation: u64) -> FreeOutcome {
        let header = self.map.header(offset).expect("the caller looked at it");
        if !header.begin_free() {
            // The raylet was faster: it is on its way to disk.
            return FreeOutcome::Stale;
        }
        if self.map.is_pinned(offset) {
            inside.zombies.push((offset, generation));
            self.has_zombies.store(true, Ordering::Release);
            return FreeOutcome::Pinned;
        }
        self.release(inside, offset);
        FreeOutcome::Freed
    }

    /// From here on `owner` counts the references to a sealed block of ours (0: it stays whoever ends). False when the
    /// raylet must hear of it as well: the block is on its way to disk, or there.
    #[must_use]
    pub fn hand_over(&self, offset: u64, generation: u64, owner: u64) -> bool {
        let Some(header) = self.map.header(offset) else {
            return false;
        };
        self.has_handed_over.store(true, Ordering::Release);
        header.hand_over(generation, owner)
    }

    /// Nothing more is placed in the extent at `offset`, which goes back to the raylet once it is empty.
    pub fn close_extent(&self, offset: u64) {
        let mut inside = self.inside.lock();
        if inside.allocator.close(offset) {
            self.note_drained(&mut inside, offset);
        }
    }

    /// The raylet has the block on disk: its room is ours again.
    pub fn spilled(&self, offset: u64, generation: u64) {
        let mut inside = self.inside.lock();
        if inside.allocator.contains(offset) && self.is(offset, generation, SPILLED) {
            self.release(&mut inside, offset);
        }
    }

    fn note_drained(&self, inside: &mut Inside, offset: u64) {
        if let Some(extent) = inside.allocator.remove_drained(offset) {
            inside.drained.push(extent);
            self.has_drained.store(true, Ordering::Release);
        }
    }

    /// Closed extents that became empty since the last call; they are the raylet's again.
    pub fn drained_extents(&self) -> Vec<(u64, u64)> {
        if !self.has_drained.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.has_drained.store(false, Ordering::Release);
        std::mem::take(&mut self.inside.lock().drained)
    }

    /// Whether the block is where it was made.
    pub fn is_there(&self, offset: u64, generation: u64) -> bool {
        self.is(offset, generation, SEALED)
    }

    /// For the owner of a block in another process's extent, before it tells that process to free it: should that end
    /// before it hears, whoever takes its extent over knows. False when the raylet must hear of it as well: the block is
    /// on its way to disk, or there.
    #[must_use]
    pub fn mark_unwanted(&self, offset: u64, generation: u64) -> bool {
        self.map
            .header(offset)
            .is_some_and(|header| header.mark_unwanted(generation))
    }

    /// Frees what was handed over to a process that has ended; how many blocks.
    pub fn owner_died(&self, owner: u64) -> usize {
        if !self.has_handed_over.load(Ordering::Acquire) || owner == 0 {
            return 0;
        }
        let mut inside = self.inside.lock();
        let extents: Vec<_> = inside.allocator.extents().collect();
        let mut orphans = Vec::new();
        for (offset, _) in extents
            .into_iter()
            .flat_map(|(offset, len)| self.map.blocks(offset, len))
        {
            let data_offset = offset + HEADER_BYTES;
            let Some(header) = self.map.header(data_offset) else {
                continue;
            };
            let generation = header.generation.load(Ordering::Relaxed);
            let is_held = match header.state.load(Ordering::Acquire) {
                SEALED => true,
                FREEING => !inside.zombies.contains(&(data_offset, generation)),
                _ => false,
            };
            if is_held && header.owner.load(Ordering::Acquire) == owner {
                orphans.push((data_offset, generation));
            }
        }
        for (offset, generation) in &orphans {
            self.free_sealed(&mut inside, *offset, *generation);
        }
        orphans.len()
    }

    fn release(&self, inside: &mut Inside, data_offset: u64) {
        let header = self.map.header(data_offset).expect("the caller looked at it");
        let len = header.block_len.load(Ordering::Relaxed);
        header.state.store(FREE, Ordering::Release);
        let (start, len) = inside.allocator.release(data_offset - HEADER_BYTES, len);
        self.map.write_header(start, len, FREE, 0, 0);
        self.note_drained(inside, start);
    }

    /// Frees what was looked at when it was freed and is not any more; how many.
    pub fn reap(&self) -> usize {
        if !self.has_zombies() {
            return 0;
        }
        let mut inside = self.inside.lock();
        let zombies = std::mem::take(&mut inside.zombies);
        let before = zombies.len();
        for (offset, generation) in zombies {
            // A mark that was meant for the block here before may have made it SEALED again.
            let is_ours = self.map.header(offset).is_some_and(|header| {
                (header.is(generation, FREEING) || header.is(generation, SEALED)) && header.begin_free()
            });
            if is_ours && self.map.is_pinned(offset) {
                inside.zombies.push((offset, generation));
            } else if is_ours {
                self.release(&mut inside, offset);
            }
        }
        self.has_zombies.store(!inside.zombies.is_empty(), Ordering::Release);
        before - inside.zombies.len()
    }

    pub fn has_zombies(&self) -> bool {
        self.has_zombies.load(Ordering::Acquire)
    }

    /// [`Self::seal`], with the data kept in place from before anybody else can have it; `None`, and nothing sealed, when
    /// this process has pinned as much as it can.
    pub fn seal_pinned(self: &Arc<Self>, block: Block) -> Option<Pin> {
        let pin = self.announce(block.offset, block.len, block.generation)?;
        self.seal(block);
        Some(pin)
    }

    /// Makes a sealed block readable and keeps it in place; `None` when it is not there (any more).
    pub fn pin(self: &Arc<Self>, offset: u64, len: u64, generation: u64) -> Option<Pin> {
        let header = self.map.header(offset)?;
        let pin = self.announce(offset, len, generation)?;
        let there = self.is(offset, generation, SEALED) && header.data_len.load(Ordering::Relaxed) >= len;
        there.then_some(pin)
    }

    /// A pin, of whatever is there. The caller looks at that afterwards (STO-2).
    fn announce(self: &Arc<Self>, offset: u64, len: u64, generation: u64) -> Option<Pin> {
        let data = self.map.data(offset, len)?;
        let mut pins = self.pins.lock();
        if let Some((_, count)) = pins.held.get_mut(&offset) {
            *count += 1;
        } else {
            let slot = match pins.free.pop() {
                Some(slot) => slot,
                None if pins.next < PINS_PER_ROW && self.map.reserve_pins(self.client, pins.next) => {
                    pins.next += 1;
                    pins.next - 1
                }
                None => return None,
            };
            self.map.set_pin(self.client, slot, offset);
            pins.held.insert(offset, (slot, 1));
        }
        drop(pins);
        Some(Pin {
            client: Arc::clone(self),
            data,
            len: len as usize,
            offset,
            generation,
        })
    }

    /// Gives pages of the arena to a socket, without a copy; returns how many bytes it took. Not one of them may change until
    /// the other side has read them: the socket holds the pages, not what they were.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` when the socket is full.
    pub fn send_pages(&self, socket: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<u64> {
        let mut offset = offset;
        let count = usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(rustix::fs::sendfile(socket, self.backing.descriptor()?, Some(&mut offset), count)? as u64)
    }

    /// The bytes of a sealed block that cannot be pinned, because this process has pinned as much as it can. The caller
    /// has the raylet's word that it is not moved meanwhile.
    pub fn copy_out(&self, offset: u64, len: u64, generation: u64) -> Option<Vec<u8>> {
        let data = self.map.data(offset, len)?;
        if !self.is(offset, generation, SEALED) {
            return None;
        }
        let mut bytes = vec![0; len as usize];
        // SAFETY: in bounds. Should the owner give it up meanwhile, what was copied is thrown away below.
        unsafe { std::ptr::copy_nonoverlapping(data, bytes.as_mut_ptr(), bytes.len()) };
        self.is(offset, generation, SEALED).then_some(bytes)
    }

    fn unpin(&self, offset: u64) {
        // Not even its lock is taken in a forked child: another thread of the parent may have held it.
        if self.forked.load(Ordering::Relaxed) {
            return;
        }
        let mut pins = self.pins.lock();
        let Some((slot, count)) = pins.held.get_mut(&offset) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            let slot = *slot;
            pins.held.remove(&offset);
            self.map.clear_pin(self.client, slot);
            pins.free.push(slot);
        }
    }

    /// Whether this process holds a pin of the block that lies here.
    pub fn is_pinned_here(&self, offset: u64) -> bool {
        self.pins.lock().held.contains_key(&offset)
    }

    /// Extents in which nothing lies, up to about `wanted` bytes; they are the raylet's again.
    pub fn unused_extents(&self, wanted: u64) -> Vec<(u64, u64)> {
        self.inside.lock().allocator.remove_unused(wanted)
    }

    pub fn stats(&self) -> ClientStats {
        let inside = self.inside.lock();
        let extent_bytes = inside.allocator.extent_bytes();
        ClientStats {
            extent_bytes,
            used_bytes: extent_bytes - inside.allocator.free_bytes(),
            zombies: inside.zombies.len() as u64,
            pins: self.pins.lock().held.len() as u64,
        }
    }
}

/// The bytes of a block in the making.
pub struct BlockWriter<'a>(&'a mut [u8]);

impl Deref for BlockWriter<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl DerefMut for BlockWriter<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

/// The data of a sealed block, in place; it stays there until the last pin is dropped.
pub struct Pin {
    client: Arc<ArenaClient>,
    data: *const u8,
    len: usize,
    offset: u64,
    generation: u64,
}

impl Pin {
    /// Data offset, length and generation of what is pinned.
    pub fn place(&self) -> (u64, u64, u64) {
        (self.offset, self.len as u64, self.generation)
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pin")
            .field("offset", &self.offset)
            .field("len", &self.len)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

// SAFETY: the data behind it does not change while it is pinned, and the mapping lives as long as the client.
unsafe impl Send for Pin {}
// SAFETY: as above.
unsafe impl Sync for Pin {}

impl Pin {
    /// The same data in pages of this process's own from the first write to each.
    ///
    /// # Errors
    /// When there is no room for another mapping.
    pub fn into_private(self) -> io::Result<PrivateBlock> {
        let client = Arc::clone(&self.client);
        let (offset, len) = (self.offset, self.len);
        PrivateBlock::map(client.backing.descriptor()?, offset, len, self)
    }
}

impl Deref for Pin {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: in bounds (checked by `pin`); sealed and pinned, so nobody writes (STO-2).
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl AsRef<[u8]> for Pin {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.client.unpin(self.offset);
    }
}
