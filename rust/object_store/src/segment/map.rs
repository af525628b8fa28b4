//! The mapping, and the words in it that several processes share.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustc_hash::FxHashSet;
use rustix::mm::{MapFlags, ProtFlags};

use super::heap::Heap;
use super::protocol::{self, Header, PinTable};
use crate::allocator::HEADER_BYTES;
use crate::extents::PAGE;

/// Rows of pin tables; row 0 is nobody's.
pub const MAX_CLIENTS: u32 = 1024;
/// Objects that one process can have pinned at once.
pub(super) const PINS_PER_ROW: u32 = 1 << 16;
const ROWS_START: u64 = 2 * PAGE;
const ROW_BYTES: u64 = PINS_PER_ROW as u64 * 8;
/// Where blocks begin.
pub(super) const DATA_START: u64 = ROWS_START + MAX_CLIENTS as u64 * ROW_BYTES;
const MAGIC: u64 = 0x6172_656e_6130_3031;

/// Counts what the raylet grants: the age of blocks is measured by it.
const EPOCH: u64 = 8;

const _: () = assert!(size_of::<Header>() as u64 == HEADER_BYTES);

/// A view of the whole arena: a mapping of its file, or the heap that it lies in.
pub(super) struct Map {
    start: *mut u8,
    len: u64,
    /// Of the twin on the heap; otherwise the mapping is this value's.
    heap: Option<Arc<Heap>>,
}

// SAFETY: the mapping lives as long as the value, and all shared words in it are atomics; data bytes are handed out under
// the rules of STO-1 and STO-2.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the file behind `fd`, which must hold at least one page of data.
    pub fn new(fd: impl AsFd) -> io::Result<Self> {
        let len = rustix::fs::fstat(&fd)?.st_size as u64;
        if len < DATA_START + PAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is no arena"));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )?
        };
        Ok(Self {
            start: start.cast(),
            len,
            heap: None,
        })
    }

    pub fn of_heap(heap: &Arc<Heap>) -> Self {
        Self {
            start: heap.start(),
            len: heap.len(),
            heap: Some(Arc::clone(heap)),
        }
    }

    pub fn initialise(&self) {
        self.word(0).store(MAGIC, Ordering::Release);
    }

    pub fn is_arena(&self) -> bool {
        self.word(0).load(Ordering::Acquire) == MAGIC
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "STO-3");
        // SAFETY: in bounds and aligned (checked above); shared words are only ever touched as atomics.
        unsafe { &*self.start.add(offset as usize).cast::<AtomicU64>() }
    }

    pub fn epoch(&self) -> u32 {
        self.word(EPOCH).load(Ordering::Relaxed) as u32
    }

    /// Only the raylet counts on.
    pub fn next_epoch(&self) {
        self.word(EPOCH).fetch_add(1, Ordering::Relaxed);
    }

    /// The header of the block whose data is at `data_offset`; `None` when no block can be there.
    pub fn header(&self, data_offset: u64) -> Option<&Header> {
        let offset = data_offset.checked_sub(HEADER_BYTES)?;
        if offset < DATA_START || !offset.is_multiple_of(HEADER_BYTES) || data_offset > self.len {
            return None;
        }
        // SAFETY: in bounds and aligned (checked above); headers consist of atomics.
        Some(unsafe { &*self.start.add(offset as usize).cast::<Header>() })
    }

    /// Writes the header of a block: its state last.
    pub fn write_header(&self, block_offset: u64, block_len: u64, state: u32, generation: u64, data_len: u64) {
        self.header(block_offset + HEADER_BYTES)
            .expect("STO-1: blocks lie in the data")
            .write(block_len, state, generation, data_len);
    }

    /// The blocks of an extent from header to header, as header offset and length; ends at the first header that makes
    /// no sense (STO-3).
    pub fn blocks(&self, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
        let end = offset + len;
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let len = self.header(at + HEADER_BYTES)?.block_len.load(Ordering::Relaxed);
            if len < HEADER_BYTES || !len.is_multiple_of(HEADER_BYTES) || len > end - at {
                return None;
            }
            at += len;
            Some((at - len, len))
        })
    }

    /// The data of a block; `None` when the range leaves the arena.
    pub fn data(&self, offset: u64, len: u64) -> Option<*mut u8> {
        if offset < DATA_START || len > self.len || offset > self.len - len {
            return None;
        }
        // SAFETY: in bounds, checked above.
        Some(unsafe { self.start.add(offset as usize) })
    }

    /// Makes the page of the table that `slot` is the first of. Out of memory is an error here, and never a SIGBUS.
    pub fn reserve_pins(&self, row: u32, slot: u32) -> bool {
        if !u64::from(slot).is_multiple_of(PAGE / 8) {
            return true;
        }
        let word: *const AtomicU64 = self.pin_word(row, slot);
        // SAFETY: a whole page of the mapping (rows begin at pages); its content is not changed.
        let populated = unsafe {
            rustix::mm::madvise(
                word.cast_mut().cast(),
                PAGE as usize,
                rustix::mm::Advice::LinuxPopulateWrite,
            )
        };
        // Kernels before 5.14 do not know the word: there the page comes with the first write.
        matches!(populated, Ok(()) | Err(rustix::io::Errno::INVAL))
    }

    /// See [`protocol::announce`].
    pub fn set_pin(&self, row: u32, slot: u32, data_offset: u64) {
        protocol::announce(self, row, slot, data_offset);
    }

    pub fn clear_pin(&self, row: u32, slot: u32) {
        protocol::withdraw(self, row, slot);
    }

    /// See [`protocol::is_pinned`].
    pub fn is_pinned(&self, data_offset: u64) -> bool {
        protocol::is_pinned(self, data_offset)
    }

    /// Data offsets of everything that any process has pinned. The caller has changed the states that it asks for.
    pub fn pinned(&self) -> FxHashSet<u64> {
        <protocol::Shared as protocol::Words>::fence();
        self.rows().flat_map(|row| protocol::pins_of(self, row)).collect()
    }

    pub fn each_pin(&self, see: impl FnMut(u64)) {
        self.rows().flat_map(|row| protocol::pins_of(self, row)).for_each(see);
    }

    pub fn each_pin_of(&self, row: u32, see: impl FnMut(u64)) {
        protocol::pins_of(self, row).for_each(see);
    }

    /// Forgets all pins of a row; how many there were.
    pub fn clear_row(&self, row: u32) -> u64 {
        let used = self.mark(row).load(Ordering::Relaxed).min(PINS_PER_ROW);
        let pins = (0..used)
            .filter(|slot| self.pin_word(row, *slot).swap(0, Ordering::AcqRel) != 0)
            .count();
        self.mark(row).store(0, Ordering::Release);
        pins as u64
    }
}

impl PinTable for Map {
    fn rows(&self) -> Range<u32> {
        1..MAX_CLIENTS
    }

    fn slots(&self) -> u32 {
        PINS_PER_ROW
    }

    fn mark(&self, row: u32) -> &AtomicU32 {
        assert!(row < MAX_CLIENTS, "STO-3");
        // SAFETY: the page of marks is in bounds for all rows; it is only ever touched as atomics.
        unsafe { &*self.start.add((PAGE + u64::from(row) * 4) as usize).cast::<AtomicU32>() }
    }

    fn pin_word(&self, row: u32, slot: u32) -> &AtomicU64 {
        assert!(row < MAX_CLIENTS && slot < PINS_PER_ROW, "STO-3");
        self.word(ROWS_START + u64::from(row) * ROW_BYTES + u64::from(slot) * 8)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.heap.is_some() {
            return;
        }
        // SAFETY: mapped by `new`, and everything that points into it holds the value alive.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len as usize) };
    }
}
