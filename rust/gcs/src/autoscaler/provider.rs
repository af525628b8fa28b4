//! What starts nodes, and ends them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;

/// A label by which a node says which of the ordered ones it is.
pub const INSTANCE_LABEL: &str = "ray_rs.io/instance";
/// A label by which it says of which type it is; Ray's own.
pub const TYPE_LABEL: &str = "ray.io/node-group";

/// What comes of an order; the error is for people.
pub type Outcome<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// A node that is wanted.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its name: small letters, digits and hyphens; no other ever has it.
    pub instance: String,
    pub node_type: String,
    /// What it is to have, by name.
    pub resources: BTreeMap<String, f64>,
    /// What it is to say of itself; [`INSTANCE_LABEL`] and [`TYPE_LABEL`] are among them.
    pub labels: BTreeMap<String, String>,
    /// The cluster that it is to join.
    pub cluster: ClusterPlace,
}

/// Where a cluster is reached, and the file with its token.
#[derive(Debug, Clone)]
pub struct ClusterPlace {
    pub address: SocketAddr,
    pub token_path: PathBuf,
}

/// Starts nodes and ends them: machines of a cloud, jobs of a batch system, processes on this machine.
///
/// Whatever is ordered is ended one day, also what did not come: ending what is not there (any more) is no error.
pub trait NodeProvider: fmt::Debug + Send + Sync {
    /// Sees to it that the node comes. It need not be there when this resolves, which it has to do one day: the node is not
    /// ended before.
    fn start(&self, order: Order) -> Outcome<'_>;

    /// Sees to it that nothing of it is left. It has left the cluster, or never was part of it, or the cluster ends.
    fn end(&self, instance: String) -> Outcome<'_>;
}
