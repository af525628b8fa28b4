//! Objects built in place: their bytes are written where they will stay, and sealed without a copy.
//!
//! The block is as long as its buffer and a little more: in front of the buffer there is room for the header and for the
//! pickle stream that leads to it, which are written when the object is sealed.

use std::sync::Arc;

use parking_lot::Mutex;
use ray_rs_object_store::{ArenaClient, Block, NeedExtent, Pin, layout};
use smallvec::SmallVec;

use crate::core::{CoreWorker, Interrupt};
use crate::model::{CoreError, Location, RefSlot, StoredValue, ValueData, ValueKind};

/// Where the buffer starts in its block: what is in front is the header's and the pickle's.
const BUFFER_OFFSET: u64 = 4096;

enum Stage {
    /// Its user writes.
    Open(Block),
    /// Its memory stays in place as long as anybody can look at it through here.
    Sealed { _pin: Pin },
}

/// A block of the arena that is being filled. Dropped unsealed, it is free again; so it is when the process dies.
pub struct Building {
    arena: Arc<ArenaClient>,
    stage: Mutex<Stage>,
    /// Address of the buffer.
    address: usize,
    len: usize,
}

impl Building {
    /// Address of the buffer in this process, the same before and after it is sealed.
    pub fn address(&self) -> usize {
        self.address
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn is_sealed(&self) -> bool {
        matches!(*self.stage.lock(), Stage::Sealed { .. })
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Stage::Open(block) = *self.stage.get_mut() {
            self.arena.abandon(block);
        }
    }
}

impl CoreWorker {
    /// A block with a buffer of `bytes` bytes, whose content is anything.
    ///
    /// # Errors
    /// As [`Self::store`].
    pub fn build(&self, bytes: u64, interrupt: Interrupt<'_>) -> Result<Building, CoreError> {
        let total = BUFFER_OFFSET.saturating_add(bytes);
        let block = self.allocate_block(total, interrupt)?;
        let address = {
            let mut writer = self.arena.writer(&block);
            writer[BUFFER_OFFSET as usize..].as_mut_ptr().expose_provenance()
        };
        Ok(Building {
            arena: Arc::clone(&self.arena),
            stage: Mutex::new(Stage::Open(block)),
            address,
            len: bytes as usize,
        })
    }

    /// Room for `total` bytes, asked of the raylet if need be.
    pub(crate) fn allocate_block(&self, total: u64, interrupt: Interrupt<'_>) -> Result<Block, CoreError> {
        loop {
            match self.arena.allocate(total) {
                Ok(block) => return Ok(block),
                Err(NeedExtent { min_bytes }) => {
                    let (offset, length) = self.request_extent(min_bytes, interrupt)?;
                    self.arena.add_extent(offset, length);
                }
            }
        }
    }

    /// Makes a stored value of a built buffer and the pickle stream that leads to it: from here on the bytes never
    /// change. `None`, and nothing has happened: it is sealed already, of another session, the stream
    /// is too long, or no pin is left.
    pub fn seal(&self, building: &Building, stream: &[u8], refs: &SmallVec<[RefSlot; 0]>) -> Option<StoredValue> {
        if !Arc::ptr_eq(&self.arena, &building.arena) {
            return None;
        }
        let plan = layout::plan_in_front(stream.len() as u64, BUFFER_OFFSET, building.len as u64)?;
        let mut stage = building.stage.lock();
        let Stage::Open(block) = *stage else { return None };
        {
            let mut bytes = self.arena.writer(&block);
            layout::write_header(&plan, &mut bytes);
            bytes[plan.pickle.clone()].copy_from_slice(stream);
        }
        // Pinned first: its user's views look at this memory whatever becomes of the object.
        let pin = self.arena.seal_pinned(block)?;
        *stage = Stage::Sealed { _pin: pin };
        let location = Location {
            offset: block.offset,
            length: block.len,
            generation: block.generation,
            holder: Some(self.info().address.worker_id),
            node: None,
        };
        Some(StoredValue {
            kind: ValueKind::Laid,
            data: ValueData::Arena(location),
            refs: refs.clone(),
        })
    }
}
