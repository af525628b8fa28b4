//! Storage in one embedded sled database. A flush of it goes through threads of its own and costs more
//! than a write and a sync: a [journal](super::JournaledStorage) before it makes flushes rare.
//!
//! One tree holds all tables (the table's number is the key's first byte), because sled applies a batch to one tree
//! atomically. sled's own timed flush is off: the commit thread flushes, and an idle gcs wakes for nothing.

use std::path::Path;
use std::sync::Arc;

use super::{Storage, StorageError, Table, Write};

/// The tables live in memory beside it, so that sled's own cache can be small.
const CACHE_BYTES: u64 = 4 << 20;
/// Size of sled's file segments: with the default of 512 KiB a session's first writes would make a file of megabytes.
const SEGMENT_BYTES: usize = 64 << 10;

/// A sled database in a directory.
#[derive(Debug)]
pub struct SledStorage(sled::Db);

impl SledStorage {
    /// Opens the database in `dir`, or makes it.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(None)
            .print_profile_on_drop(false);
        Ok(Self(config.open()?))
    }
}

impl From<sled::Error> for StorageError {
    fn from(error: sled::Error) -> Self {
        Self::Disk(Arc::new(error))
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
        let mut changes = sled::Batch::default();
        for write in batch {
            let key = key_of(write.table, &write.key);
            match &write.value {
                Some(value) => changes.insert(key, &value[..]),
                None => changes.remove(key),
            }
        }
        Ok(self.0.apply_batch(changes)?)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.0.flush()?;
        Ok(())
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        for pair in self.0.scan_prefix([table as u8]) {
            let (key, value) = pair?;
            visit(&key[1..], &value);
        }
        Ok(())
    }
}
