//! The raylet's end of the arena when room is short: what lies where, blocks set aside for the disk, and room for what is
//! brought back.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::host::{ArenaHost, PendingGrant};
use super::map::Map;
use super::protocol::{FREE, FREEING, Header, SEALED, SPILLED, SPILLING, WRITING};
use crate::allocator::{HEADER_BYTES, block_len};
use crate::extents::{KeptBlock, StoreFull, Taken};
use crate::spill::{Key, Part, Place, Region, RegionKind};

/// The raylet's number as a holder of extents; no client has it.
const RAYLET: u32 = u32::MAX;

/// What the raylet knows of a block that its header does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Ordinary,
    /// Somebody is about to look at it.
    Held,
    /// Its bytes are on disk as well, and whoever had it brought back has had it.
    Copy,
    /// Its bytes are on disk as well, and it is still awaited.
    AwaitedCopy,
}

/// What was set aside.
#[derive(Debug, Default)]
pub struct SetAsideBlocks {
    /// To be written to disk.
    pub parts: Vec<Part>,
    /// Data offsets of copies that are gone from memory already.
    pub evicted: Vec<u64>,
}

/// An object in the arena, as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredObject {
    pub key: Key,
    pub len: u64,
    /// With its header, and what rounding took.
    pub block_len: u64,
    /// Its holder still writes it; nobody else can read it.
    pub unsealed: bool,
    /// The process that counts the references; 0: it stays whoever ends.
    pub owner: u64,
    /// Row of the client whose extent holds it; 0: the raylet.
    pub holder: u32,
    /// Processes that look at it.
    pub pins: u32,
}

impl ArenaHost {
    /// The whole arena in regions, as they lie. `class` is asked by data offset.
    pub fn survey(&self, class: impl Fn(u64) -> Class) -> Vec<Region> {
        let pinned = self.map.pinned();
        let mut regions = Vec::new();
        let free = self.table.free_ranges().map(|(offset, len)| (offset, len, None));
        let taken = self
            .table
            .taken()
            .into_iter()
            .map(|(offset, len, taken)| (offset, len, Some(taken)));
        let mut parts: Vec<_> = free.chain(taken).collect();
        parts.sort_unstable_by_key(|(offset, ..)| *offset);
        for (offset, len, taken) in parts {
            let mut region = Region {
                offset,
                len,
                kind: RegionKind::Free,
                live_bytes: 0,
                spill_bytes: 0,
                youngest: 0,
                stuck: false,
            };
            match taken {
                None => {}
                Some(Taken::Pending) => {
                    (region.kind, region.stuck) = (RegionKind::Kept, true);
                    region.live_bytes = len;
                }
                Some(Taken::Extent(client)) => {
                    region.kind = RegionKind::Extent(client);
                    for (block, _) in self.map.blocks(offset, len) {
                        self.look(block, &pinned, &class, &mut region);
                    }
                }
                Some(Taken::Kept) => {
                    region.kind = RegionKind::Kept;
                    self.look(offset, &pinned, &class, &mut region);
                }
            }
            regions.push(region);
        }
        regions
    }

    fn look(
        &self,
        block: u64,
        pinned: &rustc_hash::FxHashSet<u64>,
        class: &impl Fn(u64) -> Class,
        region: &mut Region,
    ) {
        let data_offset = block + HEADER_BYTES;
        let Some(header) = self.map.header(data_offset) else {
            return;
        };
        let state = header.state.load(Ordering::Acquire);
        if matches!(state, FREE | SPILLED) {
            return;
        }
        let len = header.data_len.load(Ordering::Relaxed);
        region.live_bytes += len;
        // Otherwise it is being written, on its way to disk, or freed while somebody looks at it.
        if state != SEALED {
            return region.stuck = true;
        }
        if pinned.contains(&data_offset) {
            return region.stuck = true;
        }
        let epoch = header.epoch.load(Ordering::Relaxed);
        match class(data_offset) {
            Class::Held => region.stuck = true,
            Class::Copy => {}
            Class::AwaitedCopy => region.youngest = region.youngest.max(epoch),
            Class::Ordinary => {
                region.youngest = region.youngest.max(epoch);
                region.spill_bytes += len;
            }
        }
    }

    /// Sets aside what can be moved of these regions. Copies go at once; the rest is the caller's to write.
    pub fn set_aside<'a>(
        &mut self,
        regions: impl IntoIterator<Item = &'a Region>,
        class: impl Fn(u64) -> Class,
    ) -> SetAsideBlocks {
        self.map.next_epoch();
        let mut blocks = Vec::new();
        for region in regions {
            match region.kind {
                RegionKind::Free => {}
                RegionKind::Kept => blocks.push(region.offset),
                RegionKind::Extent(_) => {
                    blocks.extend(self.map.blocks(region.offset, region.len).map(|(block, _)| block))
                }
            }
        }
        // All say that they are going before the pins are looked at, as in STO-2.
        blocks.retain(|block| {
            self.map
                .header(block + HEADER_BYTES)
                .is_some_and(|header| class(block + HEADER_BYTES) != Class::Held && header.set_aside())
        });
        let pinned = self.map.pinned();
        let mut done = SetAsideBlocks::default();
        for block in blocks {
            let data_offset = block + HEADER_BYTES;
            let header = self.map.header(data_offset).expect("looked at above");
            if pinned.contains(&data_offset) {
                header.put_back();
                continue;
            }
            if matches!(class(data_offset), Class::Copy | Class::AwaitedCopy) {
                header.state.store(FREEING, Ordering::SeqCst);
                self.table.release_kept(block);
                done.evicted.push(data_offset);
                continue;
            }
            done.parts.push(Part {
                key: Key {
                    offset: data_offset,
                    generation: header.generation.load(Ordering::Relaxed),
                },
                len: header.data_len.load(Ordering::Relaxed),
                owner: header.owner_of_set_aside(),
            });
        }
        done
    }

    /// The bytes of a block that was set aside, to be read on any thread.
    pub fn bytes_of(&self, part: &Part) -> Option<SetAside> {
        self.map.data(part.key.offset, part.len)?;
        Some(SetAside {
            map: Arc::clone(&self.map),
            offset: part.key.offset,
            len: part.len,
        })
    }

    /// A block that was set aside is in use again.
    pub fn keep_block(&mut self, key: Key) {
        if let Some(header) = self.spilling(key) {
            header.put_back();
        }
    }

    /// A block that was set aside is no longer needed. The row of the client that is to hear of it; `None` when the
    /// raylet held it, and its pages are free.
    pub fn release_block(&mut self, key: Key) -> Option<u32> {
        self.spilling(key)?.state.store(SPILLED, Ordering::Release);
        let start = key.offset - HEADER_BYTES;
        if self
            .table
            .kept(start)
            .is_some_and(|block| block.generation == key.generation)
        {
            self.table.release_kept(start);
            return None;
        }
        self.table.holder_of(start)
    }

    fn spilling(&self, key: Key) -> Option<&Header> {
        let header = self.map.header(key.offset)?;
        header.is(key.generation, SPILLING).then_some(header)
    }

    /// Length of the object, if it lies where it was made.
    pub fn sealed_len(&self, key: Key) -> Option<u64> {
        let header = self.map.header(key.offset)?;
        header
            .is(key.generation, SEALED)
            .then(|| header.data_len.load(Ordering::Relaxed))
    }

    /// Every object in the arena that is being written, readable, set aside, or freed and still looked at.
    pub fn objects(&self) -> Vec<StoredObject> {
        let mut pins: rustc_hash::FxHashMap<u64, u32> = rustc_hash::FxHashMap::default();
        self.map.each_pin(|offset| *pins.entry(offset).or_default() += 1);
        let mut objects = Vec::new();
        for (offset, len, taken) in self.table.taken() {
            let blocks: Vec<u64> = match taken {
                Taken::Pending => continue,
                Taken::Kept => vec![offset],
                Taken::Extent(_) => self.map.blocks(offset, len).map(|(block, _)| block).collect(),
            };
            for block in blocks {
                let offset = block + HEADER_BYTES;
                let Some(header) = self.map.header(offset) else {
                    continue;
                };
                let state = header.state.load(Ordering::Acquire);
                let pins = pins.get(&offset).copied().unwrap_or(0);
                // What was freed lives on as long as somebody looks at it.
                let unsealed = state == WRITING;
                if !unsealed && state != SEALED && state != SPILLING && (state != FREEING || pins == 0) {
                    continue;
                }
                objects.push(StoredObject {
                    key: Key {
                        offset,
                        generation: header.generation.load(Ordering::Relaxed),
                    },
                    len: header.data_len.load(Ordering::Relaxed),
                    block_len: header.block_len.load(Ordering::Relaxed),
                    unsealed,
                    owner: header.owner.load(Ordering::Acquire),
                    holder: match taken {
                        Taken::Extent(client) => client,
                        Taken::Kept | Taken::Pending => 0,
                    },
                    pins,
                });
            }
        }
        objects
    }

    /// Bytes of the objects that one client looks at.
    pub fn pinned_by(&self, row: u32) -> u64 {
        let mut bytes = 0;
        self.map.each_pin_of(row, |offset| {
            if let Some(header) = self.map.header(offset) {
                bytes += header.data_len.load(Ordering::Relaxed);
            }
        });
        bytes
    }

    // ---- back --------------------------------------------------------------------------------------------------

    /// Room for an object that comes back.
    ///
    /// # Errors
    /// [`StoreFull`] when something must go first.
    pub fn begin_restore(&mut self, len: u64) -> Result<Restore, StoreFull> {
        let extent = self.table.grant_exactly(RAYLET, block_len(len))?;
        Ok(Restore {
            grant: self.pending(RAYLET, extent),
            map: Arc::clone(&self.map),
            len,
        })
    }

    /// The object is back: it is readable, and held by the raylet.
    ///
    /// # Errors
    /// [`StoreFull`] when its pages could not be had.
    pub fn finish_restore(&mut self, restore: Restore) -> Result<Place, StoreFull> {
        let Restore { grant, len, .. } = restore;
        let extent = self.finish_grant(grant)?;
        self.next_generation += 1;
        let generation = self.next_generation;
        let block = KeptBlock {
            offset: extent.offset,
            len: extent.len,
            generation,
        };
        self.table.take_over(extent, &[block]);
        self.map.write_header(extent.offset, extent.len, FREE, generation, len);
        let offset = extent.offset + HEADER_BYTES;
        let header = self.map.header(offset).expect("STO-1: blocks lie in the data");
        // The spill table knows whose it is.
        header.owner.store(0, Ordering::Relaxed);
        header.epoch.store(self.map.epoch(), Ordering::Relaxed);
        header.state.store(SEALED, Ordering::Release);
        Ok(Place {
            offset,
            len,
            generation,
        })
    }

    /// What was to come back does not.
    pub fn cancel_restore(&mut self, restore: Restore) {
        let extent = restore.grant.extent;
        self.table.cancel(extent);
    }
}

/// The bytes of a block that the raylet has set aside.
pub struct SetAside {
    map: Arc<Map>,
    offset: u64,
    len: u64,
}

impl Deref for SetAside {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let data = self
            .map
            .data(self.offset, self.len)
            .expect("looked at when it was made");
        // SAFETY: in bounds; the block is SPILLING, so nobody writes to it until the raylet, whose thread has this value
        // read, says that it is done (STO-4).
        unsafe { std::slice::from_raw_parts(data, self.len as usize) }
    }
}

impl AsRef<[u8]> for SetAside {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Room for an object that is being read.
pub struct Restore {
    grant: PendingGrant,
    map: Arc<Map>,
    len: u64,
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore")
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

impl Restore {
    /// Of the object.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        self.len
    }

    /// Where it will be.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.grant.extent.offset + HEADER_BYTES
    }

    /// Makes the pages, on any thread. False when there is no memory for them.
    #[must_use]
    pub fn reserve_pages(&mut self) -> bool {
        self.grant.reserve_pages();
        self.grant.has_pages()
    }

    /// The whole object, to be filled from wherever it comes.
    ///
    /// # Panics
    /// When there are no pages yet.
    pub fn bytes(&mut self) -> &mut [u8] {
        assert!(self.grant.has_pages(), "STO-3");
        let start = self.grant.extent.offset + HEADER_BYTES;
        let data = self.map.data(start, self.len).expect("STO-1: blocks lie in the data");
        // SAFETY: in bounds and mapped as long as `map` is held; the extent is granted to nobody else, no reference to its
        // data exists before it is sealed, and this one borrows the only handle to it. All bytes of the arena are initialised.
        unsafe { std::slice::from_raw_parts_mut(data, self.len as usize) }
    }

    /// Writes a piece of the object.
    ///
    /// # Panics
    /// When it does not fit, or there are no pages yet.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = at.checked_add(bytes.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.len) && self.grant.has_pages(),
            "STO-3"
        );
        let start = self.grant.extent.offset + HEADER_BYTES + at;
        let data = self
            .map
            .data(start, bytes.len() as u64)
            .expect("STO-1: blocks lie in the data");
        // SAFETY: in bounds; the extent is granted to nobody else, and no reference to its data exists before it is
        // sealed.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len()) }
    }
}
