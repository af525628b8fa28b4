//! Storage in one embedded sled database. A flush of it goes through threads of its own and costs more
//! than a write and a sync: a [journal](super::JournaledStorage) before it makes flushes rare.
//!
//! One tree holds all tables (the table's number is the key's first byte), because sled applies a batch to one tree
//! atomically. sled's own timed flush is off: the commit thread flushes, and an idle gcs wakes for nothing.
//!
//! A sled that meets a full disk in the middle of its work never works again, and its end waits for ever. So it is given
//! nothing while the disk has little room, and one that has failed all the same is left alone until the process ends.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Storage, StorageError, Table, Write};

/// The tables live in memory beside it, so that sled's own cache can be small.
const CACHE_BYTES: u64 = 4 << 20;
/// Size of sled's file segments: with the default of 512 KiB a session's first writes would make a file of megabytes.
const SEGMENT_BYTES: usize = 64 << 10;
/// Room on the disk for what sled writes besides: segments, and pages that it writes anew.
const SLACK_BYTES: u64 = 1 << 20;

/// A sled database in a directory.
#[derive(Debug)]
pub struct SledStorage {
    dir: PathBuf,
    /// `None`: it has failed. What it is not given stays in the journal, which the next process reads.
    database: RefCell<Option<sled::Db>>,
}

impl SledStorage {
    /// Opens the database in `dir`, or makes it.
    ///
    /// # Errors
    /// When the disk fails, or another process has it open.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(None)
            .print_profile_on_drop(false);
        let database = config.open().map_err(|error| failed(dir, error))?;
        Ok(Self {
            dir: dir.to_owned(),
            database: RefCell::new(Some(database)),
        })
    }

    fn attempt<T>(&self, what: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StorageError> {
        let mut slot = self.database.borrow_mut();
        let Some(database) = slot.take() else {
            let before = "they have failed before, and are opened anew by the next control store";
            return Err(failed(&self.dir, io::Error::other(before).into()));
        };
        match what(&database) {
            Ok(done) => {
                *slot = Some(database);
                Ok(done)
            }
            Err(error) => {
                // Its end would wait for what it can't write.
                std::mem::forget(database);
                Err(failed(&self.dir, error))
            }
        }
    }

    /// Whether the disk takes so many bytes, whatever sled makes of them.
    fn check_room(&self, bytes: usize) -> Result<(), StorageError> {
        let disk = rustix::fs::statvfs(&self.dir).map_err(|error| failed(&self.dir, io::Error::from(error).into()))?;
        let (free, needed) = (disk.f_bavail * disk.f_frsize, 2 * bytes as u64 + SLACK_BYTES);
        if free >= needed {
            return Ok(());
        }
        let text = format!("{needed} bytes are needed there, and {free} are free");
        let error = io::Error::new(io::ErrorKind::StorageFull, text);
        Err(failed(&self.dir, error.into()))
    }
}

fn failed(dir: &Path, error: sled::Error) -> StorageError {
    StorageError::Tables {
        place: dir.to_owned(),
        error: Arc::new(error),
    }
}

fn key_of(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(table as u8);
    full.extend_from_slice(key);
    full
}

impl Storage for SledStorage {
    fn apply(&self, batch: &[Write]) -> Result<(), StorageError> {
        let (mut changes, mut bytes) = (sled::Batch::default(), 0);
        for write in batch {
            bytes += write.key.len() + write.value.as_ref().map_or(0, bytes::Bytes::len);
            let key = key_of(write.table, &write.key);
            match &write.value {
                Some(value) => changes.insert(key, &value[..]),
                None => changes.remove(key),
            }
        }
        self.check_room(bytes)?;
        self.attempt(|database| database.apply_batch(changes))
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.attempt(|database| database.flush().map(drop))
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        self.attempt(|database| {
            for pair in database.scan_prefix([table as u8]) {
                let (key, value) = pair?;
                visit(&key[1..], &value);
            }
            Ok(())
        })
    }
}
