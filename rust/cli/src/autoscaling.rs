//! The autoscaler's configuration as it comes from Python, and the provider of nodes on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ray_rs_gcs::autoscaler::command::Template;
use ray_rs_gcs::autoscaler::provider::{NodeProvider, Order, Outcome};
use ray_rs_gcs::autoscaler::{Autoscaling, by_commands};
use ray_rs_scheduler::autoscale::{Config, NodeType};
use ray_rs_types::Quantity;
use ray_rs_types::resources::{CPU, GPU, MEMORY, OBJECT_STORE_MEMORY};
use serde::{Deserialize, Serialize};

use crate::launch::{HeadConfig, Join, Session, launch_head};
use crate::stop;

/// After a start that failed: the first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Of a node on this machine that says nothing else.
const LOCAL_STORE_BYTES: u64 = 150 << 20;

/// What `ray_rs._autoscaling.checked` gives.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoscalingArguments {
    pub max_workers: u32,
    pub idle_timeout_s: f64,
    pub start_timeout_s: f64,
    pub upscaling_speed: f64,
    pub types: Vec<TypeArguments>,
    pub provider: ProviderArguments,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeArguments {
    pub name: String,
    pub resources: BTreeMap<String, f64>,
    pub labels: BTreeMap<String, String>,
    pub min_workers: u32,
    pub max_workers: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ProviderArguments {
    /// Nodes are processes on this machine.
    Local,
    Command {
        start_command: CommandArguments,
        end_command: Option<CommandArguments>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandArguments {
    Shell(String),
    Words(Vec<String>),
}

impl From<CommandArguments> for Template {
    fn from(command: CommandArguments) -> Self {
        match command {
            CommandArguments::Shell(text) => Self::Shell(text),
            CommandArguments::Words(words) => Self::Words(words),
        }
    }
}

/// What is needed to start nodes on this machine: that of the head.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalNodes {
    pub python: PathBuf,
    pub core_path: PathBuf,
    pub python_version: String,
}

impl AutoscalingArguments {
    /// For a gcs. `head`: what the head was started with.
    pub fn compose(self, head: LocalNodes, session_dir: &Path) -> Autoscaling {
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let start_timeout = seconds(self.start_timeout_s);
        let provider: Arc<dyn NodeProvider> = match self.provider {
            ProviderArguments::Local => Arc::new(LocalProvider {
                head,
                started: Mutex::default(),
            }),
            ProviderArguments::Command {
                start_command,
                end_command,
            } => by_commands(
                start_command.into(),
                end_command.map(Into::into),
                start_timeout,
                session_dir.join("logs"),
            ),
        };
        let amounts = |resources: &BTreeMap<String, f64>| {
            let amounts = resources.iter();
            amounts
                .map(|(name, amount)| (name.clone(), Quantity::from_f64(*amount)))
                .collect()
        };
        Autoscaling {
            labels: (self.types.iter())
                .map(|each| (each.name.clone(), each.labels.clone()))
                .collect(),
            config: Config {
                types: (self.types.iter())
                    .map(|each| NodeType {
                        name: each.name.clone(),
                        resources: amounts(&each.resources),
                        min_workers: each.min_workers,
                        max_workers: each.max_workers,
                    })
                    .collect(),
                max_workers: self.max_workers,
                idle_timeout: seconds(self.idle_timeout_s),
                start_timeout,
                upscaling_speed: self.upscaling_speed,
                first_pause: FIRST_PAUSE,
                longest_pause: LONGEST_PAUSE,
            },
            provider,
        }
    }
}

/// Nodes on this machine, each with a session of its own, which end with the control store's process at the latest.
#[derive(Debug)]
struct LocalProvider {
    head: LocalNodes,
    started: Mutex<BTreeMap<String, Session>>,
}

impl LocalProvider {
    fn started(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Session>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self, order: &Order) -> HeadConfig {
        let amount = |name: &str| order.resources.get(name).copied();
        let mut resources = order.resources.clone();
        for name in [CPU, GPU, MEMORY, OBJECT_STORE_MEMORY] {
            resources.remove(name);
        }
        HeadConfig {
            python: self.head.python.clone(),
            core_path: self.head.core_path.clone(),
            python_version: self.head.python_version.clone(),
            num_cpus: Some(amount(CPU).unwrap_or(0.0)),
            num_gpus: Some(amount(GPU).unwrap_or(0.0)),
            memory: amount(MEMORY),
            object_store_memory: Some(amount(OBJECT_STORE_MEMORY).map_or(LOCAL_STORE_BYTES, |bytes| bytes as u64)),
            resources,
            labels: order.labels.clone(),
            node_name: order.instance.clone(),
            node_ip: order.cluster.address.ip().to_string(),
            listen: Some((order.cluster.address.ip(), 0).into()),
            join: Some(Join {
                gcs_address: order.cluster.address,
                token_path: order.cluster.token_path.clone(),
            }),
            driver_pid: Some(std::process::id()),
            outlives_goodbye: true,
            ..HeadConfig::default()
        }
    }
}

impl NodeProvider for LocalProvider {
    fn start(&self, order: Order) -> Outcome<'_> {
        Box::pin(async move {
            let config = self.config(&order);
            let launched = tokio::task::spawn_blocking(move || launch_head(&config)).await;
            let session = launched
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
            self.started().insert(order.instance, session);
            Ok(())
        })
    }

    fn end(&self, instance: String) -> Outcome<'_> {
        Box::pin(async move {
            let session = self.started().remove(&instance);
            if let Some(session) = session {
                let ended = tokio::task::spawn_blocking(move || stop::stop(session)).await;
                ended.map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    }
}
