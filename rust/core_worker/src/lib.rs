//! The core worker: what every driver, worker and actor process carries.
//!
//! It submits tasks and actor calls, owns their results, keeps small values and maps the arena for large ones, and in a
//! worker hands out what is to be run. The language binding above calls [`CoreWorker`]; below are the pure cores that
//! decide (`ray-rs-ownership`, `ray-rs-dispatch`, `ray-rs-actors`) and the memory shared with other processes
//! (`ray-rs-lanes`, `ray-rs-object-store`).
//!
//! * **CORE-1** One lock guards all state; nobody holds it across a system call of the task path.
//! * **CORE-2** Lanes are drained by whoever holds the lock; one thread at a time (the holder) sleeps on the doorbell: a
//!   thread inside `get` or `wait`, or the executor, or else the progress thread.
//! * **CORE-3** Every wait ends: by its condition, its time limit, an interrupt, or the death of what it waits for.
//!
//! Deliberately absent: Python, gRPC, and any async runtime (a worker process stays small).

mod actors;
mod adoption;
mod ahead;
mod argument_error;
mod await_lending;
mod awaits;
mod bring;
mod building;
mod cancel;
mod control;
mod core;
mod creation;
mod describe;
mod drain;
mod durable;
mod estate;
mod events;
mod execute;
mod executing;
mod frames;
mod functions;
mod groups;
mod host;
mod joining;
mod lease_news;
mod lineage;
mod listing;
mod look;
mod loops;
mod losses;
mod memory_retries;
mod model;
mod objects;
mod observer;
mod other_nodes;
mod peers;
mod progress;
mod pull;
mod records;
mod registry;
mod remote;
mod sites;
mod state;
mod stream;
mod submit;
mod task_rows;
mod telling;
#[cfg(test)]
mod tests;
mod trace;
mod wire;
mod worker_side;

pub use crate::core::{CoreWorker, Counters};
pub use awaits::{Awaited, AwaitingCall, AwaitsSeen};
pub use bring::Brought;
pub use building::Building;
pub use durable::{CallHistory, MAX_CALL_BYTES, MAX_STATE_BYTES, Recorded, Replay};
pub use execute::{Group, ReplyTo};
pub use groups::{GroupRequest, GroupWait};
pub use lineage::{ArgumentRefs, NotRead};
pub use loops::{Haste, LoopSeat, Rooms};
pub use model::*;
pub use observer::Observer;
pub use other_nodes::OtherNode;
pub use pull::Fetched;
pub use ray_rs_explain::Subject;
pub use ray_rs_lanes::SpinPolicy;
pub use ray_rs_proto::v1;
pub use records::{Cell, Chart, Kind, NameSums, RecordFilter, TaskRecord, TaskRecords, TaskWorker};
pub use stream::{DYNAMIC, NextItem, STREAMING};
pub use task_rows::{TaskPage, TaskQuery, TaskRow};
pub use trace::{TraceEvent, TraceRows, TracedTask, json_of};
