//! The local scheduler: which request gets a worker, and when one has to be given back.
//!
//! It keeps the node's resources, the queues of lease requests and actor placements, and what it knows of each worker
//! process (idle, leased, an actor's, leaving), and decides on grants, revocations and the size of the worker pool.
//! The raylet feeds it [`Event`]s and carries out its [`Effect`]s. There is no clock, no process and no socket here:
//! `now` is a [`std::time::Duration`] since a moment of the caller's choice. [`memory`] decides beside it what happens when the
//! node's memory runs short, and tells it what may begin.
//!
//! Promises, checked by [`Scheduler::check_invariants`]:
//! * `SCH-1` what is available is what the node has less what is granted; no resource is granted twice. Only a worker
//!   that wakes from a blocking call may take CPUs that are not there, and nothing that needs CPUs is granted until the
//!   sum fits again.
//! * `SCH-2` each worker has exactly one role, and each lease exactly one worker.
//! * `SCH-3` requests of one client and shape are served in their order; clients take turns; a request that others
//!   overtake again and again ends up being waited for, so none starves.
//! * `SCH-4` GPU indices are distinct, and shares of one index never exceed it.
//! * `SCH-5` what is in a bundle of a placement group is served from it alone, and ends before the bundle does.
//!
//! Beside it stand the decisions about many nodes: [`policy`] chooses nodes for strategies and for bundles,
//! [`placement_group`] is the control store's table of groups, and [`bottom_up`] decides when a request leaves its node, and
//! which other serves it; [`liveness`] says how long a node may work unheard. Deliberately absent: what an environment consists of.

mod admission;
pub mod autoscale;
pub mod bottom_up;
mod bundles;
mod effect;
mod event;
mod explain;
mod gpus;
mod groups;
mod here;
mod invariants;
mod ledger;
pub mod liveness;
pub mod memory;
pub mod placement_group;
mod placing;
pub mod policy;
mod pool;
mod queue;
mod revocation;
mod scheduler;
mod shape;
mod starts;
#[cfg(test)]
mod tests;

pub use admission::Admission;
pub use effect::{Effect, Refusal, StopReason};
pub use event::{
    ActorDemand, ClientKey, EnvKey, Event, JobKey, LeaseKey, LeaseRequest, PoolKey, RequestKey, StartFailure, WorkerKey,
};
pub use explain::{Waiter, Waiting};
pub use scheduler::{Occupant, Options, Running, Scheduler};
