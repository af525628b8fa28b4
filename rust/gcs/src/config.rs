//! What a gcs process is told when it starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use ray_rs_scheduler::liveness;

use crate::autoscaler::Autoscaling;

/// Where the tables are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StorageChoice {
    /// In `<session>/gcs`, by sled behind a journal.
    #[default]
    Sled,
    /// Nowhere: they end with the process.
    Memory,
}

/// Everything [`run`](crate::run) needs.
#[derive(Debug)]
pub struct GcsConfig {
    pub session_dir: PathBuf,
    /// `<session>/sockets/gcs`, bound and listening already.
    pub listener: OwnedFd,
    /// Where to listen for other nodes. The address that came of it is written to `<session>/gcs_address`.
    pub tcp_bind: SocketAddr,
    /// A further address to listen at: programs from outside of the cluster know that one.
    pub client_bind: Option<SocketAddr>,
    pub token_path: PathBuf,
    /// The driver that started the session and whose end ends it; `None` for a session that stands alone.
    pub driver_pid: Option<u32>,
    /// The raylet whose child this process is, if one before it has ended: it ends last, and removes the directory.
    pub supervisor: Option<u32>,
    pub storage: StorageChoice,
    /// In how many shards the tables lie: as many as in the session's earlier processes.
    pub shards: usize,
    /// A node that was silent, or stopped, for so long is dead.
    pub node_bound: Duration,
    /// Nodes that it starts by itself; none: it starts none.
    pub autoscaling: Option<Autoscaling>,
}

impl GcsConfig {
    /// The defaults for a session directory.
    pub fn new(session_dir: PathBuf, listener: OwnedFd, driver_pid: Option<u32>) -> Self {
        Self {
            token_path: session_dir.join("token"),
            session_dir,
            listener,
            tcp_bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            client_bind: None,
            driver_pid,
            supervisor: None,
            storage: StorageChoice::default(),
            shards: 1,
            node_bound: liveness::DEFAULT_BOUND,
            autoscaling: None,
        }
    }
}
