//! What leaves memory when the arena is short of it, and what is known of what left. Offsets, lengths and states only:
//! the raylet moves the bytes.
//!
//! | module | holds or decides |
//! | --- | --- |
//! | [`plan`] | which part of the arena to clear for a request, and how blocks share files |
//! | [`table`] | the objects on disk, the files they lie in, and the copies that were brought back |
//!
//! An object is known by where its block was when it was made ([`Key`]): that is what every reference to it carries, and
//! the generation keeps it apart from whatever lies there later.
//!
//! Deliberately absent: who waits for room or for an object, and in which order they are served (the raylet's object
//! service), reading and writing (its spill I/O).

pub mod plan;
pub mod table;

pub use plan::{Plan, Region, RegionKind, fuse, is_nearly_full, plan};
pub use table::{FileId, Found, Order, Part, Place, Reading, SpillStats, SpillTable};

/// Name of an object: the data offset and the generation of its first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub offset: u64,
    pub generation: u64,
}
