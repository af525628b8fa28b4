//! Where a core worker can be reached.

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, WorkerId};

/// Address of a driver, worker or actor process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WorkerAddress {
    pub node_id: NodeId,
    pub worker_id: WorkerId,
    /// Operating system process id on its node.
    pub pid: u32,
}

impl WorkerAddress {
    /// Name of the worker's Unix socket inside the session's `sockets` directory: `w-` and 16 hex digits of its id,
    /// short because a socket's path may have 107 bytes only.
    pub fn socket_name(&self) -> String {
        socket_name(&self.worker_id)
    }
}

/// The process in the arena's headers, where there is no room for its whole id: the owner of a block that ends with it.
pub fn arena_owner(worker_id: &WorkerId) -> u64 {
    let (head, _) = worker_id.0.split_first_chunk().expect("an id is longer than 8 bytes");
    u64::from_le_bytes(*head) & !1
}

/// The same of a block that does not end with its owner, as long as somebody may adopt it.
pub fn arena_shared(worker_id: &WorkerId) -> u64 {
    arena_owner(worker_id) | 1
}

/// See [`WorkerAddress::socket_name`].
pub fn socket_name(worker_id: &WorkerId) -> String {
    format!("w-{}", &worker_id.hex()[..16])
}
