//! Memory outside the arena, for objects that find no room in it: a file without a name, filled by the raylet and then
//! mapped by one reader. It ends with the last view of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::extents::PAGE;

/// The raylet's end: a file that grows by one object after the other.
#[derive(Debug)]
pub struct LentFile {
    file: Arc<OwnedFd>,
    len: u64,
}

/// Writes to a part of it, on any thread.
#[derive(Debug)]
pub struct LentPart {
    file: Arc<OwnedFd>,
    pub at: u64,
    pub len: u64,
}

impl LentFile {
    /// # Errors
    /// When there is no descriptor for it.
    pub fn create() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("ray_rs-lent", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        Ok(Self {
            file: Arc::new(file),
            len: 0,
        })
    }

    /// Room for one more object.
    pub fn add(&mut self, len: u64) -> LentPart {
        let at = self.len;
        self.len = (at + len).next_multiple_of(PAGE);
        LentPart {
            file: Arc::clone(&self.file),
            at,
            len,
        }
    }

    /// For the reader: neither its size nor its bytes change from here on.
    ///
    /// # Errors
    /// When no descriptor is left, or a part was never written.
    pub fn finish(self) -> io::Result<OwnedFd> {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&self.file, seals)?;
        match Arc::try_unwrap(self.file) {
            Ok(file) => Ok(file),
            Err(shared) => shared.try_clone(),
        }
    }
}

impl LentPart {
    /// Makes the pages. Out of memory is an error here, and never a SIGBUS in whoever reads.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn reserve_pages(&self) -> io::Result<()> {
        let whole_pages = self.len.max(1).next_multiple_of(PAGE);
        Ok(rustix::fs::fallocate(
            &self.file,
            FallocateFlags::empty(),
            self.at,
            whole_pages,
        )?)
    }

    /// # Errors
    /// As of any file.
    pub fn write(&self, at: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut offset = self.at + at;
        while !bytes.is_empty() {
            match rustix::io::pwrite(&self.file, bytes, offset) {
                Ok(count) => (bytes, offset) = (&bytes[count..], offset + count as u64),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The reader's end.
#[derive(Debug)]
pub struct LentMap {
    start: *const u8,
    len: usize,
}

// SAFETY: the mapping is read-only, of a file that is sealed, and lives as long as the value.
unsafe impl Send for LentMap {}
// SAFETY: as above.
unsafe impl Sync for LentMap {}

impl LentMap {
    /// Maps all of it.
    ///
    /// # Errors
    /// When it is not sealed (what could shrink would turn a later look into a fatal signal), or cannot be mapped.
    pub fn attach(file: impl AsFd) -> io::Result<Self> {
        let sealed = rustix::fs::fcntl_get_seals(&file)?;
        if !sealed.contains(SealFlags::SHRINK | SealFlags::WRITE) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "lent memory is not sealed"));
        }
        let len = rustix::fs::fstat(&file)?.st_size as usize;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "lent memory is empty"));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, file, 0)? };
        Ok(Self {
            start: start.cast_const().cast(),
            len,
        })
    }
}

impl AsRef<[u8]> for LentMap {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped as long as this lives, and nobody writes to a sealed file.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for LentMap {
    fn drop(&mut self) {
        // SAFETY: mapped by `attach`, and everything that points into it holds the value alive.
        let _ = unsafe { rustix::mm::munmap(self.start.cast_mut().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_can_no_longer_change() {
        let mut lent = LentFile::create().expect("a file");
        let (one, two) = (lent.add(5000), lent.add(3));
        assert_eq!((one.at, two.at), (0, 2 * PAGE));
        for (part, byte) in [(&one, 7), (&two, 9)] {
            part.reserve_pages().expect("memory");
            part.write(0, &vec![byte; part.len as usize]).expect("written");
        }
        let file = lent.finish().expect("sealed");
        assert!(one.write(0, &[1]).is_err() && rustix::fs::ftruncate(&file, 0).is_err());
        let map = LentMap::attach(&file).expect("mapped");
        drop(file);
        let bytes = map.as_ref();
        assert_eq!(bytes.len() as u64, 3 * PAGE);
        assert!(bytes[..5000].iter().all(|byte| *byte == 7) && bytes[8192..8195] == [9, 9, 9]);
    }

    #[test]
    fn what_could_shrink_is_not_mapped() {
        let lent = LentFile::create().expect("a file");
        assert!(LentMap::attach(&*lent.file).is_err());
    }
}
