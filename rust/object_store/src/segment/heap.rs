//! The twin of the arena file: the same bytes on the heap of one process.
//!
//! For tests and models of whatever stores objects: no file, no mapping, no kernel behind it, and as little memory as they
//! say. Its clients live in the process of its host. The conformance suite (`tests.rs`) holds both to the same behaviour.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeSet;
use std::io;

use parking_lot::Mutex;

use crate::extents::{Extent, PAGE};

/// Zeroed memory that starts at a page. What it would cost as a file is counted: pages "exist" once they were made.
#[derive(Debug)]
pub struct Heap {
    memory: *mut u8,
    layout: Layout,
    len: u64,
    pages: Mutex<BTreeSet<u64>>,
    /// So many pages can exist; then memory is short.
    limit_pages: usize,
}

// SAFETY: the memory is this value's own and lives as long; who may touch which bytes is the protocol's affair, as in a
// file that several processes map.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}

impl Heap {
    /// `limit_bytes`: of the pages that can exist.
    pub fn new(len: u64, limit_bytes: u64) -> Self {
        // A page more, since an allocation that asks for an alignment would be written to from end to end.
        let layout = Layout::from_size_align((len + PAGE) as usize, 8).expect("an arena is shorter than all addresses");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        Self {
            memory,
            layout,
            len,
            pages: Mutex::default(),
            limit_pages: (limit_bytes / PAGE) as usize,
        }
    }

    pub(super) fn start(&self) -> *mut u8 {
        let skipped = self.memory.addr().next_multiple_of(PAGE as usize) - self.memory.addr();
        // SAFETY: less than a page, and there is a page more than `len`.
        unsafe { self.memory.add(skipped) }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// All of them, or none.
    pub(super) fn make_pages(&self, extent: Extent) -> io::Result<()> {
        let mut pages = self.pages.lock();
        let missing: Vec<u64> = pages_of(extent).filter(|page| !pages.contains(page)).collect();
        if pages.len() + missing.len() > self.limit_pages {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        pages.extend(missing);
        Ok(())
    }

    /// Pages that come again later will be zeros.
    pub(super) fn drop_pages(&self, extent: Extent) {
        let mut pages = self.pages.lock();
        for page in pages_of(extent) {
            if pages.remove(&page) {
                // SAFETY: whole pages inside the memory; nobody holds an extent there, as the caller knows.
                unsafe { self.start().add((page * PAGE) as usize).write_bytes(0, PAGE as usize) };
            }
        }
    }

    /// Bytes of the pages that exist.
    pub fn made_bytes(&self) -> u64 {
        self.pages.lock().len() as u64 * PAGE
    }
}

fn pages_of(extent: Extent) -> impl Iterator<Item = u64> {
    (extent.offset / PAGE)..(extent.offset + extent.len).div_ceil(PAGE)
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; whatever points into it holds the value alive.
        unsafe { dealloc(self.memory, self.layout) };
    }
}
