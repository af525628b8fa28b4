//! Sealed memory files and their mappings.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

/// A type that may lie in memory which another process writes at any time.
///
/// # Safety
/// Every bit pattern must be a valid value, and all of it must be atomics (or padding), so that a reference to it
/// never promises that the memory stays as it is.
pub(crate) unsafe trait InSharedMemory {}

/// A mapping of `LEN` bytes of a sealed memfd; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping<const LEN: usize> {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to the process, not to a thread; what is handed out are references to atomics, and raw
// byte pointers whose users answer for exclusiveness themselves.
unsafe impl<const LEN: usize> Send for Mapping<LEN> {}
// SAFETY: as above.
unsafe impl<const LEN: usize> Sync for Mapping<LEN> {}

impl<const LEN: usize> Mapping<LEN> {
    /// A new file of `LEN` zero bytes whose size nobody can change any more, and its mapping.
    pub fn create(name: &str) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, LEN as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(&fd)?, fd))
    }

    /// Maps a file that a peer has sent. Refused unless its size is right and sealed: a file that could shrink would
    /// turn a later access into a fatal signal.
    pub fn attach(fd: impl AsFd) -> io::Result<Self> {
        let size = fstat(&fd)?.st_size;
        if size != LEN as i64 {
            return Err(invalid(format!(
                "a shared file of {size} bytes where {LEN} were expected"
            )));
        }
        if !fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
            return Err(invalid("a shared file whose size is not sealed".to_owned()));
        }
        Self::map(fd)
    }

    fn map(fd: impl AsFd) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )?
        };
        Ok(Self {
            base: NonNull::new(base.cast()).expect("mmap never maps the zero page here"),
        })
    }

    /// The words at `offset`.
    #[inline(always)]
    pub fn at<T: InSharedMemory>(&self, offset: usize) -> &T {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset <= LEN && size_of::<T>() <= LEN - offset);
        // SAFETY: inside the mapping and aligned (checked above; the base is page-aligned), mapped as long as `self`
        // lives, and `InSharedMemory` says that any contents and concurrent changes are fine.
        unsafe { self.base.add(offset).cast::<T>().as_ref() }
    }

    /// The address of `len` bytes at `offset`, checked to lie inside the mapping.
    #[inline(always)]
    pub fn bytes(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= LEN && len <= LEN - offset);
        // SAFETY: inside the mapping, checked above.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl<const LEN: usize> Drop for Mapping<LEN> {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` has mapped; every reference into it borrows `self`.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), LEN) };
    }
}

pub(crate) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
