//! Words that every crate shares: ids, resources, addresses, failures, configuration.
//!
//! Cheap to depend on: no I/O, no async, no Python.

pub mod address;
pub mod bundles;
pub mod config;
pub mod ids;
pub mod placing;
pub mod resources;
pub mod task_columns;

pub use address::WorkerAddress;
pub use ids::{
    ActorId, ClusterId, FunctionId, IdError, JobId, NodeId, ObjectId, PlacementGroupId, TaskId, UniqueId, WorkerId,
};
pub use resources::{Quantity, ResourceSet};
