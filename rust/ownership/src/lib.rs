//! Ownership: who owns which object, who may still use it, and which tasks wait for it. Pure: no clock, no I/O.
//!
//! The process that submits a task owns its returns (Ray's ownership, Wang et al., NSDI '21). One [`OwnerTable`] sits in
//! each driver, worker and actor process, behind the core worker's lock; what it orders comes out as [`Effect`]s, to be
//! carried out after the decision.
//!
//! # Counting
//! An entry lives while any of these is not zero: `local` (handles in this process), `submitted` (tasks in flight that
//! use it), `contained` (stored values in this process that hold it), `lineage` (kept specs that name it) and, with its
//! owner, the grants of its borrowers.
//!
//! * **OWN-1** A *grant* is given by whoever holds an object, on behalf of the receiver, and is given back by the
//!   receiver exactly once. The owner adds grants up per borrower with a sign, so that giving back may overtake giving:
//!   only a sum of zero ends the borrow.
//! * **OWN-2** A value sent to another process grants the receiver each reference in it, unless the receiver owns it.
//! * **OWN-3** Arguments grant nothing: the submitter holds them until the reply. The reply lists the references that the
//!   worker still holds and was never granted; the submitter grants these before it lets go of its own hold.
//! * **OWN-4** An object is ready once, and its value never changes; unless it is lost, and made again ([`lineage`]).
//!
//! Deliberately absent: values (type `V` is opaque but for the references in it), transport, and who owns what a dead process
//! has owned ([`adoption`]: somebody else chooses).

mod adoption;
#[cfg(test)]
mod adoption_model;
mod describe;
mod effect;
mod entry;
mod invariants;
mod items;
mod lineage;
#[cfg(test)]
mod lineage_model;
mod slab;
mod table;
mod task;
#[cfg(test)]
mod tests;

pub use adoption::{Inheritance, Orphans};
pub use describe::ObjectView;
pub use effect::{Effect, Watcher};
pub use entry::{NoLineage, OwnerIndex, RefKind, RefSlot};
pub use lineage::{AfterEnd, MAX_LINEAGE_BYTES};
pub use table::{Contains, OwnerTable};
pub use task::{TaskKey, TaskState};
