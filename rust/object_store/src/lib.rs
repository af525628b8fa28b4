//! The node's object store: one arena of shared memory that every process of the node maps.
//!
//! The raylet ([`ArenaHost`]) grants extents whose pages exist; a client ([`ArenaClient`]) places blocks in them without
//! a message; readers pin what they look at. `allocator`, `extents` and `layout` decide on offsets alone; `segment` is
//! the only part that touches memory.
//!
//! * **STO-1** A block's header is written by its holder only, and says FREE, WRITING, SEALED or FREEING. Every extent is
//!   tiled by blocks, so that the raylet can take over the extents of a client that died.
//! * **STO-2** A reader announces its pin, then looks at the header; the holder says FREEING, then looks at the pins. So
//!   one of them sees the other, and nothing is reused under a reader.
//! * **STO-4** A sealed block that nobody pins may be set aside by the raylet (SPILLING): from then on its bytes are the
//!   raylet's, until it says SEALED again, or SPILLED, which returns the block to its holder as empty.
//! * **STO-3** Whatever is read from the arena is checked against its bounds.
//!
//! Deliberately absent: who owns an object and when it may go (`ray-rs-ownership`), reading and writing files, messages.

pub mod allocator;
pub mod extents;
pub mod layout;
mod segment;
pub mod spill;

pub use allocator::NeedExtent;
pub use extents::{Extent, FullReason, NotGranted, StoreFull};
pub use segment::{
    ArenaClient, ArenaHost, Block, BlockWriter, Class, ClientStats, DeathSummary, FreeOutcome, Heap, HostStats,
    LentFile, LentMap, LentPart, MAX_CLIENTS, PageFill, PendingGrant, Pin, PrivateBlock, Restore, SetAside,
    SetAsideBlocks, StoredObject, copy_bytes,
};
