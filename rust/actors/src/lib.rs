//! What is decided about actors: in which order a caller's calls leave, and the life of an actor as the GCS sees it.
//!
//! Both are pure: events in, effects out. `call_order` lives in every process that calls an actor, one per (caller,
//! actor); `lifecycle` lives in the GCS, one for all actors. They never meet; the GCS's published updates reach the
//! callers through their raylets.

pub mod call_order;
pub mod lifecycle;
