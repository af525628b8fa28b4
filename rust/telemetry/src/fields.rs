//! Names of the fields of log events, so that one word finds an actor, a job or a worker in every process's log.
//!
//! Used as `tracing::info!({ fields::ACTOR_ID } = %id, "...")`.

/// Kind of process that writes.
pub const PROCESS: &str = "process";
pub const NODE_ID: &str = "node_id";
pub const JOB_ID: &str = "job_id";
pub const WORKER_ID: &str = "worker_id";
pub const ACTOR_ID: &str = "actor_id";
pub const TASK: &str = "task";
pub const LEASE_ID: &str = "lease_id";
pub const PID: &str = "pid";
/// How often an actor was restarted.
pub const INCARNATION: &str = "incarnation";
