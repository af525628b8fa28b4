//! The arena in memory: mapping, headers, pins, copies. With `client` and `host`, the home of this crate's `unsafe`.
//!
//! ```text
//! page 0: magic, capacity | page 1: high-water mark of each pin row | pin rows | data
//! ```

mod backing;
mod client;
mod copy;
mod heap;
mod host;
mod lent;
mod map;
mod private;
mod protocol;
mod spill;

pub use client::{ArenaClient, Block, BlockWriter, ClientStats, Pin};
pub use copy::copy_bytes;
pub use heap::Heap;
pub use host::{ArenaHost, DeathSummary, HostStats, PageFill, PendingGrant};
pub use lent::{LentFile, LentMap, LentPart};
pub use map::MAX_CLIENTS;
pub use private::PrivateBlock;
pub use spill::{Class, Restore, SetAside, SetAsideBlocks, StoredObject};

/// What became of a request to free a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreeOutcome {
    Freed,
    /// Somebody looks at it: kept until `reap` finds that nobody does.
    Pinned,
    /// It lies in no extent of this holder.
    NotMine,
    /// Another block lies there by now.
    Stale,
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
