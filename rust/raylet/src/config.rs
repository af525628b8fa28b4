//! What a raylet is told when it starts, and what a driver tells of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ray_rs_types::{Quantity, ResourceSet};
use serde::{Deserialize, Serialize};

/// The raylet's part of the command line, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RayletConfig {
    pub session_dir: PathBuf,
    /// Python that runs zygotes, unless a driver names its own.
    pub python: String,
    /// Directory that holds the package `ray_rs`; added to a driver's `sys_path` when it is not there.
    pub package_dir: String,
    /// Amounts by name, `CPU` among them.
    pub resources: BTreeMap<String, f64>,
    /// Size of the arena.
    pub object_store_bytes: u64,
    /// Where objects go when the arena is full: a directory, or a URL; empty: the session's directory.
    #[serde(default)]
    pub spill_directory: String,
    /// The driver whose end ends the session; none for a session that stands alone.
    #[serde(default)]
    pub driver_pid: Option<u32>,
    /// The control store's process: when it is gone at the end, the raylet cleans up.
    #[serde(default)]
    pub gcs_pid: Option<u32>,
    /// On a head: the command line that starts the control store again when its process has ended; its standard input is
    /// to be the bound socket. Empty: nobody does.
    #[serde(default)]
    pub gcs_command: Vec<String>,
    /// What the launching driver will register with, so that its zygote starts before it does.
    #[serde(default)]
    pub driver_config: Option<DriverConfig>,
    #[serde(default)]
    pub is_head: bool,
    #[serde(default)]
    pub node_name: String,
    #[serde(default = "loopback")]
    pub node_ip: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The one TCP port of the node, for other nodes; none: nobody but this machine's processes reaches it.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// The node only hosts a program from outside of the cluster: nothing runs there, nobody connects to it, and of the
    /// cluster it reaches nothing but the control store's port.
    #[serde(default)]
    pub is_client: bool,
    /// Control store of the cluster that the node joins; none: the session's own.
    #[serde(default)]
    pub gcs_address: Option<SocketAddr>,
    /// Python's minor version, which all nodes of a cluster share.
    #[serde(default)]
    pub python_version: String,
    /// The session ends with the process `driver_pid`, not already when that process leaves the session.
    #[serde(default)]
    pub outlives_goodbye: bool,
    /// The node's id in hex; a random one when it is empty.
    #[serde(default)]
    pub node_id: String,
}

fn loopback() -> String {
    "127.0.0.1".to_owned()
}

impl RayletConfig {
    /// What has to be the same in all nodes of a cluster.
    pub fn versions(&self) -> String {
        format!(
            "ray_rs {} (wire {}) on Python {}",
            env!("CARGO_PKG_VERSION"),
            ray_rs_transport::visit::WIRE_VERSION,
            self.python_version
        )
    }

    /// Whether there are other nodes, or may be some day.
    pub fn is_in_cluster(&self) -> bool {
        self.listen.is_some() || self.is_client
    }

    pub fn resource_set(&self) -> ResourceSet {
        self.resources
            .iter()
            .map(|(name, amount)| (name.clone(), Quantity::from_f64(*amount)))
            .collect()
    }
}

/// What a driver's workers need to be like it. Travels as a pickled dict in `Register`, and as JSON to the raylet that
/// the driver launches. Unknown keys are ignored, missing ones are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DriverConfig {
    pub sys_path: Vec<String>,
    pub cwd: String,
    /// Empty: the raylet's.
    pub executable: String,
    /// Put before the arguments of its zygote.
    pub executable_args: Vec<String>,
    /// Modules that the zygote imports before it forks.
    pub preload: Vec<String>,
    /// Variables laid over the raylet's own environment.
    pub env: BTreeMap<String, String>,
    pub namespace: String,
    pub entrypoint: String,
    /// JSON of the job's runtime environment, which is laid over all of this; empty: none.
    pub runtime_env: String,
    /// Whether the driver wants to see what its workers print; absent: it does.
    pub log_to_driver: Option<bool>,
}

/// A driver's configuration was no pickled dict of plain values.
#[derive(Debug, thiserror::Error)]
#[error("driver_config is not a pickled dict of plain values: {0}")]
pub struct BadDriverConfig(#[from] serde_pickle::Error);

impl DriverConfig {
    pub fn from_pickle(bytes: &[u8]) -> Result<Self, BadDriverConfig> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        Ok(serde_pickle::from_slice(bytes, serde_pickle::DeOptions::new())?)
    }

    pub fn python<'a>(&'a self, default: &'a str) -> &'a str {
        if self.executable.is_empty() {
            default
        } else {
            &self.executable
        }
    }

    /// `sys_path`, with the place of this package if it is not there.
    pub fn full_path(&self, package_dir: &str) -> Vec<String> {
        let mut path = self.sys_path.clone();
        if !path.iter().any(|entry| entry == package_dir) {
            path.push(package_dir.to_owned());
        }
        path
    }

    /// Leaves out the variables that this process has as well, and so hands down to zygotes anyway.
    #[must_use]
    pub fn without_inherited(mut self) -> Self {
        self.env
            .retain(|name, value| std::env::var(name).ok().as_ref() != Some(value));
        self
    }

    /// Whether a zygote made for `other` serves this driver as well: all that it took from there is the same.
    pub fn same_zygote(&self, other: &Self) -> bool {
        self.sys_path == other.sys_path
            && self.cwd == other.cwd
            && self.executable == other.executable
            && self.preload == other.preload
            && self.env == other.env
            && self.runtime_env == other.runtime_env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pickled_dict_is_read_without_python() {
        let sent = BTreeMap::from([("cwd", "/tmp"), ("namespace", "n"), ("some_later_key", "x")]);
        let pickled = serde_pickle::to_vec(&sent, serde_pickle::SerOptions::new()).expect("pickled");
        let config = DriverConfig::from_pickle(&pickled).expect("read");
        assert_eq!((config.cwd.as_str(), config.namespace.as_str()), ("/tmp", "n"));
        assert!(config.sys_path.is_empty());
        assert!(DriverConfig::from_pickle(b"nonsense").is_err());
        assert_eq!(DriverConfig::from_pickle(b"").expect("absent"), DriverConfig::default());
    }

    #[test]
    fn what_python_pickles_is_read() {
        // pickle.dumps({"sys_path": ["/a"], "cwd": "/b", "log_to_driver": False, "env": {"A": "1"}}, protocol=5)
        let pickled =
            b"\x80\x05\x95E\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x08sys_path\x94]\x94\x8c\x02/a\x94a\x8c\x03cwd\
            \x94\x8c\x02/b\x94\x8c\rlog_to_driver\x94\x89\x8c\x03env\x94}\x94\x8c\x01A\x94\x8c\x011\x94su.";
        let config = DriverConfig::from_pickle(pickled).expect("read");
        assert_eq!(
            (config.sys_path, config.log_to_driver),
            (vec!["/a".to_owned()], Some(false))
        );
        assert_eq!(config.env["A"], "1");
    }
}
