//! The control store of a cluster: nodes, jobs, actors and their names, functions, keys and values, task events.
//!
//! One process per cluster, on its head node. It decides where actors live and when they restart (through
//! `ray_rs_actors::lifecycle`), and keeps what must survive it. Raylets are its clients, each by one bidirectional
//! stream, and forward their workers' calls unread. It is on no task's path and on no actor call's path.
//!
//! | module | what it holds or decides |
//! | --- | --- |
//! | [`config`] | what a gcs process is told |
//! | [`run`] | the process from start to end: listeners, the end of the session |
//! | [`service`] | the gRPC service, which only asks and changes the state |
//! | [`state`] | all tables, in memory; what is told to whom, and after which flush |
//! | [`autoscaler`] | nodes that come and go as work needs them |
//! | [`commit`] | the thread that makes batches durable, as many with one flush as wait |
//! | [`packages`] | directories of runtime environments, in files, for the nodes that need them |
//! | [`storage`] | the log of the tables: sled behind a journal, in one shard or several, or memory, under one conformance suite |
//! | [`stepped`] | the same tables without sockets, threads and clock, for simulators |
//! | [`replica`] | a process of its own: a replica of the global scheduler |
//!
//! What is deliberately not here: object locations and reference counts (their owners know), leases (local schedulers
//! grant them), and a clock inside the tables: what they take for the time is given them.

pub mod autoscaler;
mod clock;
mod commit;
mod config;
mod convert;
mod packages;
pub mod replica;
mod run;
mod service;
mod state;
pub mod stepped;
mod storage;
#[cfg(test)]
mod tests;

pub use config::{GcsConfig, StorageChoice};
pub use run::run;
