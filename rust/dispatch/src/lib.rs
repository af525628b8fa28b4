//! Which ready task goes to which leased worker: decided by every owner for its own tasks, under the core worker's lock.
//!
//! A raylet grants leases on workers; the owner then pushes tasks to them directly. This crate decides how many tasks are
//! in flight on each, when to ask for another lease, when to give one back, and what to withdraw from a worker that is
//! slow, blocked or wanted by others. It sees tasks as bare numbers: arguments, retries, results and lanes are the
//! caller's. Events in, effects out into the caller's buffer; the time is a parameter.
//!
//! # Rules
//!
//! A task is *charged* the usual run time of its function ([`WINDOW_WORK`](ray_rs_types::config::WINDOW_WORK) when that is
//! unknown or longer). A lease takes what fits into one `WINDOW_WORK` of charges, and an empty lease takes anything: so
//! functions of unknown or long run time travel alone and short ones in windows of up to
//! [`MAX_IN_FLIGHT`](ray_rs_types::config::MAX_IN_FLIGHT). Tasks of a class leave in the order in which they became ready.
//!
//! # Invariants
//!
//! * `DSP-1` A task sits in one place: in the queue of its class or in flight on one lease.
//! * `DSP-2` The charges on a lease never exceed `WINDOW_WORK`, nor its tasks `MAX_IN_FLIGHT`.
//! * `DSP-3` While tasks of a class are queued, none of its leases is idle.
//! * `DSP-4` A lease that is stalled, blocked or revoked gets no task.
//! * `DSP-5` A class has at most `max_leases_hint` requests outstanding, and starts none that its queue does not need.
//! * `DSP-6` A revoked lease runs something; once it does not, it is returned.
//! * `DSP-7` A lease that got a task serves one, also if it is revoked at once: where each is, tasks would be asked for leases
//!   and taken back from them for ever.
//!
//! The state pages are `docs/states/task.md` and `docs/states/lease.md`.

mod dispatcher;
mod event;
mod explain;
mod function;
mod invariants;
mod lease;
mod placement;
mod queue;
mod requests;
mod sweep;
#[cfg(test)]
mod tests;

pub use dispatcher::Dispatcher;
pub use event::{ClassKey, Effect, Event, FunctionKey, LeaseKey, RequestKey, TaskKey};
pub use lease::LeaseState;
pub use queue::TaskPlace;
