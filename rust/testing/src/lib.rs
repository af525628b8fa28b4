//! For tests only: worlds in which the crates that decide can be run by the thousand.
//!
//! [`sim`] runs one node: a driver, workers and a raylet as virtual processes, with a clock that jumps from event to event
//! and links that delay. What decides in it is the real [`ray_rs_ownership`], [`ray_rs_dispatch`] and
//! [`ray_rs_scheduler`]; what stands around them (who sends what to whom) does here what the core worker and the raylet do.
//! Everything follows from one number, so a run that goes wrong can be had again.
//!
//! [`cluster`] runs several nodes with drivers, actors, the control store and its disk, while processes and nodes die, networks
//! part and disks fill up; an oracle compares every answer with a model.
//!
//! [`scale`] runs thousands of nodes: the schedulers alone, local and global, and the table of placement groups. It says what
//! deciding costs, and what comes of it.
//!
//! Deliberately absent, so far: tasks of one node that have their values on another, cancellation, objects that travel.

pub mod cluster;
mod rng;
pub mod scale;
pub mod sim;
