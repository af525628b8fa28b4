//! Where tables survive the process: a small ordered key-value store, whole or in shards, and one set of promises.
//!
//! * `GCS-1`: a batch is there whole or not at all, before and after a crash.
//! * `GCS-2`: what was applied before a [`Storage::flush`] that returned `Ok` is there after a crash.
//!
//! Reads happen only when a gcs starts: while it runs, its tables are in memory and this is their log.

mod codec;
#[cfg(test)]
mod conformance;
mod journal;
mod journaled;
mod memory;
mod sharded;
mod sled;

pub use self::journal::JournalFile;
pub use self::journaled::JournaledStorage;
pub use self::memory::MemoryStorage;
pub use self::sharded::ShardedStorage;
pub use self::sled::SledStorage;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ray_rs_types::ActorId;

/// A name space of keys. The number is the first byte of each stored key: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// JobID to `JobInfo`.
    Jobs = 1,
    /// ActorID to `ActorSpec`. Names are found in it, and so have no table of their own.
    ActorSpecs = 2,
    /// ActorID to `ActorUpdate`.
    ActorStates = 3,
    /// Content hash to pickled function or class.
    Functions = 4,
    /// Name space, zero byte, key.
    KeyValue = 5,
    /// NodeID to its index, four bytes little endian; a fifth byte, and it was declared dead.
    Nodes = 6,
    /// PlacementGroupID to `PlacementGroupInfo`, of groups that are not removed.
    PlacementGroups = 40,
    /// A batch for several shards that is being carried out.
    Intents = 41,
    /// ActorID, and the call's position (eight bytes, big endian), to an encoded `CallRecord` of a durable actor.
    CallRecords = 60,
    /// ActorID, and the part's number (four bytes, big endian), to that part of its checkpoint. The first part begins with the
    /// checkpoint's position (eight bytes, little endian) and the number of parts (four).
    Checkpoints = 61,
}

impl Table {
    /// All that callers know.
    pub const ALL: [Self; 9] = [
        Self::Jobs,
        Self::ActorSpecs,
        Self::ActorStates,
        Self::Functions,
        Self::KeyValue,
        Self::Nodes,
        Self::PlacementGroups,
        Self::CallRecords,
        Self::Checkpoints,
    ];

    /// The part of a key that says in which shard it lies: what changes together lies together.
    fn shard_key(self, key: &[u8]) -> &[u8] {
        match self {
            Self::CallRecords | Self::Checkpoints => &key[..key.len().min(ActorId::SIZE)],
            Self::Jobs
            | Self::ActorSpecs
            | Self::ActorStates
            | Self::Functions
            | Self::KeyValue
            | Self::Nodes
            | Self::PlacementGroups
            | Self::Intents => key,
        }
    }

    fn of(number: u8) -> Option<Self> {
        let mut all = Self::ALL.into_iter().chain([Self::Intents]);
        all.find(|table| *table as u8 == number)
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub table: Table,
    pub key: Vec<u8>,
    /// `None` deletes.
    pub value: Option<Bytes>,
}

/// The store did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    #[error("the control store's tables in {} failed: {error}{}", place.display(), self.advice())]
    Tables { place: PathBuf, error: Arc<::sled::Error> },
    #[error("the control store could not read {}: {error}", place.display())]
    Unreadable { place: PathBuf, error: Arc<io::Error> },
    #[error("the control store could not write {bytes} bytes to {}: {error}{}", place.display(), self.advice())]
    Journal {
        place: PathBuf,
        /// What waits to be written.
        bytes: u64,
        error: Arc<io::Error>,
    },
    #[error("the control store has ended")]
    Ended,
}

impl StorageError {
    /// There was no room: it goes on by itself when there is some again.
    pub fn is_full(&self) -> bool {
        let kind = match self {
            Self::Journal { error, .. } | Self::Unreadable { error, .. } => error.kind(),
            Self::Tables { error, .. } => match &**error {
                ::sled::Error::Io(error) => error.kind(),
                _ => return false,
            },
            Self::Ended => return false,
        };
        matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    fn advice(&self) -> &'static str {
        match self.is_full() {
            true => ". Make some room there: it goes on by itself then, and what was refused can be asked for again",
            false => "",
        }
    }
}

/// A store. All calls block; [`commit`](crate::commit) makes them on a thread of its own.
pub trait Storage: Send + 'static {
    /// Applies a batch: visible to reads at once, durable after the next [`flush`](Self::flush).
    fn apply(&self, batch: &[Write]) -> Result<(), StorageError>;

    /// Makes everything applied so far durable.
    fn flush(&self) -> Result<(), StorageError>;

    /// Visits the keys of `table` in order.
    fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError>;
}
