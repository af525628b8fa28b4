//! What an arena lies in: a file that processes map, or its twin on the heap.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags};
use shared_memory::ShmemConf;

use super::heap::Heap;
use super::map::{DATA_START, Map};
use crate::extents::Extent;

#[derive(Debug)]
pub(super) enum Backing {
    File(OwnedFd),
    Heap(Arc<Heap>),
}

impl Backing {
    /// A file of `size` bytes without a name, and whether it lies outside `/dev/shm`, which had no room.
    pub fn file(size: u64) -> io::Result<(Self, bool)> {
        Ok(match posix_segment(size) {
            Ok(file) => (Self::File(file), false),
            Err(_) => (Self::File(anonymous_file(size)?), true),
        })
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::File(file) => Self::File(file.try_clone()?),
            Self::Heap(heap) => Self::Heap(Arc::clone(heap)),
        })
    }

    /// The descriptor, which another process can have.
    ///
    /// # Errors
    /// `Unsupported`: a heap has none.
    pub fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::File(file) => Ok(file.as_fd()),
            Self::Heap(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub fn map(&self) -> io::Result<Map> {
        match self {
            Self::File(file) => Map::new(file),
            Self::Heap(heap) => Ok(Map::of_heap(heap)),
        }
    }

    /// Makes pages, whose content is still to come. Out of memory is an error here, and never a SIGBUS in whoever writes
    /// later.
    pub fn make_pages(&self, extent: Extent) -> io::Result<()> {
        match self {
            Self::File(file) => Ok(rustix::fs::fallocate(
                file,
                FallocateFlags::empty(),
                extent.offset,
                extent.len,
            )?),
            Self::Heap(heap) => heap.make_pages(extent),
        }
    }

    /// Gives zeros to pages that were made and have no content; changes nothing else.
    pub fn fill_in(&self, extent: Extent) -> io::Result<()> {
        // The kernel fills in what it finds reserved already. Anything else would have to map the pages.
        self.make_pages(extent)
    }

    /// Gives pages back. What comes there again is zeros.
    pub fn drop_pages(&self, extent: Extent) -> io::Result<()> {
        match self {
            Self::File(file) => Ok(rustix::fs::fallocate(
                file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                extent.offset,
                extent.len,
            )?),
            Self::Heap(heap) => {
                heap.drop_pages(extent);
                Ok(())
            }
        }
    }
}

/// A POSIX segment, opened once more as a descriptor and unlinked at once: nothing is left to clean up.
fn posix_segment(size: u64) -> io::Result<OwnedFd> {
    let space = rustix::fs::statvfs("/dev/shm")?;
    if space.f_bavail.saturating_mul(space.f_frsize) < size - DATA_START {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "/dev/shm is too small"));
    }
    let segment = ShmemConf::new()
        .size(size as usize)
        .create()
        .map_err(io::Error::other)?;
    let path = format!("/dev/shm/{}", segment.get_os_id().trim_start_matches('/'));
    let file: File = OpenOptions::new().read(true).write(true).open(path)?;
    // Dropping it unmaps and unlinks.
    drop(segment);
    Ok(file.into())
}

fn anonymous_file(size: u64) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("ray_rs-arena", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(file.as_fd(), size)?;
    Ok(file)
}
