//! What is decided about actors: in which order a caller's calls leave, the life of an actor as the GCS sees it, and how a
//! durable one is kept.
//!
//! All are pure: events in, effects out. `call_order` lives in every process that calls an actor, one per (caller,
//! actor); `lifecycle` lives in the GCS, one for all actors. They never meet; the GCS's published updates reach the
//! callers through their raylets. Of `durable` one half lives in the actor's process and the other in the GCS.

pub mod call_order;
pub mod durable;
pub mod lifecycle;
