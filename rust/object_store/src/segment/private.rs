//! A reader's own version of a sealed block: the same pages, until it writes to one.

use std::io;
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags};

use super::client::Pin;
use crate::extents::PAGE;

/// A private mapping of a block's part of the arena file. Pages that were never written are the arena's, so the block
/// stays pinned while this lives.
pub struct PrivateBlock {
    start: *mut u8,
    mapped: usize,
    skip: usize,
    len: usize,
    _pin: Pin,
}

// SAFETY: the mapping is this value's alone and lives as long as it.
unsafe impl Send for PrivateBlock {}
// SAFETY: nothing here writes through a shared reference; whoever writes through `start` answers for it.
unsafe impl Sync for PrivateBlock {}

impl PrivateBlock {
    /// Maps `len` bytes at `offset` of the arena behind `fd`, which `pin` keeps in place.
    pub(super) fn map(fd: impl AsFd, offset: u64, len: usize, pin: Pin) -> io::Result<Self> {
        let from = offset / PAGE * PAGE;
        let skip = (offset - from) as usize;
        let mapped = (skip + len).max(1);
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours; a private one changes
        // nothing in the file.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
                fd,
                from,
            )?
        };
        Ok(Self {
            start: start.cast(),
            mapped,
            skip,
            len,
            _pin: pin,
        })
    }

    /// Where the data starts; valid for reads and writes of [`Self::len`] bytes while this lives.
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: `skip` lies inside the mapping.
        unsafe { self.start.add(self.skip) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for PrivateBlock {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and everything that points into it holds the value alive.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.mapped) };
    }
}
