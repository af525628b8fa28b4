//! The node's daemon: it starts worker processes, grants them, owns the object store's memory, passes calls on to the
//! control store, and sees to it that nothing outlives the session.
//!
//! One thread, one loop: everything that happens (a frame of a client, a word of a zygote, an order of the control
//! store, the end of a process, a timer) is an [`input::Input`]; the loop takes one, asks the pure
//! [`ray_rs_scheduler`] where something has to be decided, and does what follows. When nothing happens there is no
//! timer either, so an idle node costs nothing.
//!
//! | module | holds or does |
//! | --- | --- |
//! | [`config`] | what the raylet is told, and what a driver tells of itself |
//! | [`raylet`], [`input`], [`timers`] | the loop's state, what comes in, and what is due when |
//! | [`clients`], [`registration`], [`requests`] | connections, how a process becomes a client, what clients may ask |
//! | [`leases`] | the scheduler's orders carried out |
//! | [`environments`], [`env_spec`] | runtime environments: what each consists of, and how one is made |
//! | [`jobs`], [`workers`], [`zygote`] | jobs and the processes of each: ordered, registered, dead |
//! | [`reaper`] | exit statuses, and orphans that dead workers left |
//! | [`actors`] | actors placed here, and who follows which actor |
//! | [`gcs_link`], [`gcs_process`] | the stream to the control store, and clients' calls to it; on a head, its process, which is started again |
//! | [`cluster`], [`visitors`] | the other nodes, and the port for them |
//! | [`draining`] | whether the node is idle, and how it leaves in order |
//! | [`replicas`] | which global scheduler is asked |
//! | [`tenure`] | workers halt while the node may be taken for dead |
//! | [`transfer`], [`copies`], [`holders`] | values that travel between nodes, which copies are here, and who else has copies |
//! | [`object_service`], [`room`], [`rounds`] | extents of the arena, pages made ready ahead of demand; who waits for room; how some is made |
//! | [`lending`] | objects from disk that find no room beside what is looked at |
//! | [`spill_io`], [`spill_notice`], [`store_report`] | files of spilled objects; how much was spilled, and what the store holds, for people |
//! | [`logs`] | what workers print, cut into lines and sent to their driver |
//! | [`memory`] | what the node and its workers use of its memory, and the ends that follow when it runs short |
//!
//! Promises:
//! * `RAY-1` a client's end of file is its death: what it held is free at once, whatever its process still does.
//! * `RAY-2` no process of a job outlives its driver by more than a moment, and none outlives the raylet.
//! * `RAY-3` what a worker has printed before its task's reply reaches the driver before the flush that the driver asks
//!   for is answered.

mod actors;
mod clients;
mod cluster;
pub mod config;
mod copies;
mod describe;
mod describe_nodes;
mod draining;
mod env_spec;
mod environments;
mod gcs_link;
mod gcs_process;
mod groups;
mod holders;
mod input;
mod jobs;
mod leases;
mod lending;
mod logs;
mod memory;
mod moves;
mod object_service;
mod raylet;
mod reaper;
mod registration;
mod replicas;
mod requests;
mod room;
mod rounds;
mod spill_io;
mod spill_notice;
mod store_report;
mod tenure;
mod timers;
mod transfer;
mod visitors;
mod workers;
mod zygote;

pub use config::{DriverConfig, RayletConfig};
pub use raylet::run;
