//! What the daemons' processes run. Each gets its configuration as JSON.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use ray_rs_gcs::GcsConfig;
use ray_rs_gcs::replica::ReplicaConfig;
use ray_rs_raylet::RayletConfig;
use ray_rs_transport::code_pages::give_back_code;
use ray_rs_transport::grpc::Address;
use ray_rs_transport::session::GCS_ADDRESS_FILE;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::autoscaling::{AutoscalingArguments, LocalNodes};
use crate::boot::title;
use crate::session;
use crate::web::{WebArguments, WebSocket};

/// Idle threads of the blocking pool end soon: an idle daemon should be one thread.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_millis(200);
const MAX_BLOCKING_THREADS: usize = 4;
/// A daemon has started by then, and runs little of its code from then on.
const START: Duration = Duration::from_secs(1);

/// The gcs's part of the command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GcsArguments {
    pub session_dir: PathBuf,
    /// The driver whose end ends the session.
    #[serde(default)]
    pub driver_pid: Option<u32>,
    /// Where to listen for other nodes; any free port of the loopback when it is not said.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// A further address to listen at, for programs from outside of the cluster.
    #[serde(default)]
    pub client_listen: Option<SocketAddr>,
    /// In how many shards its tables lie.
    #[serde(default)]
    pub shards: Option<usize>,
    /// How long a node may be silent, or stopped.
    #[serde(default)]
    pub node_timeout_s: Option<usize>,
    /// Nodes that it starts by itself, and what is needed for those of this machine.
    #[serde(default)]
    pub autoscaling: Option<(AutoscalingArguments, LocalNodes)>,
    /// The web service; none: there is none.
    #[serde(default)]
    pub web: Option<WebArguments>,
}

pub(crate) fn gcs(arguments: GcsArguments, socket: OwnedFd) -> anyhow::Result<()> {
    serve_gcs(arguments, socket, None)
}

fn serve_gcs(arguments: GcsArguments, socket: OwnedFd, supervisor: Option<u32>) -> anyhow::Result<()> {
    let _lock = session::join(&arguments.session_dir)?;
    let mut config = GcsConfig::new(arguments.session_dir.clone(), socket, arguments.driver_pid);
    config.supervisor = supervisor;
    config.tcp_bind = arguments.listen.unwrap_or(config.tcp_bind);
    config.client_bind = arguments.client_listen;
    config.shards = arguments.shards.unwrap_or(config.shards);
    if let Some(seconds) = arguments.node_timeout_s {
        config.node_bound = Duration::from_secs(seconds as u64);
    }
    config.autoscaling =
        (arguments.autoscaling).map(|(autoscaling, head)| autoscaling.compose(head, &arguments.session_dir));
    block_on(async {
        let control_store = ray_rs_gcs::run(config);
        let service = async {
            if let Some(web) = arguments.web {
                match WebSocket::bind(web, &arguments.session_dir).await {
                    Ok(socket) => socket.watch().await,
                    // A cluster can do without.
                    Err(error) => tracing::error!(%error, "no web service"),
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = control_store => outcome,
            () = service => unreachable!("it never ends"),
        }
    })
}

/// Runs the control store of a session whose earlier one has ended, as a child of the raylet with this process number: with
/// the same tables, at the same address. Returns the process's exit code. `entitle` is told what the process is.
pub fn run_gcs(arguments: &str, raylet_pid: &str, entitle: impl Fn(&str)) -> i32 {
    run("gcs", || {
        let mut arguments: GcsArguments = serde_json::from_str(arguments).context("bad arguments")?;
        let raylet_pid = raylet_pid.parse().context("bad process number")?;
        entitle(&title("gcs", &arguments.session_dir));
        let socket = take_socket()?;
        let address = std::fs::read_to_string(arguments.session_dir.join(GCS_ADDRESS_FILE));
        // It may have ended before it had one.
        arguments.listen = address
            .ok()
            .and_then(|address| address.trim().parse().ok())
            .or(arguments.listen);
        if let Some(mut info) = session::SessionInfo::read(&arguments.session_dir) {
            info.gcs_pid = std::process::id();
            info.write().context("cannot write who it is")?;
        }
        serve_gcs(arguments, socket, Some(raylet_pid))
    })
}

/// A replica's part of the command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SchedulerArguments {
    pub session_dir: PathBuf,
    pub gcs_pid: u32,
    /// The address at which raylets reach it.
    pub listen: IpAddr,
    pub seed: u64,
}

/// Runs a replica of the global scheduler to the end of its control store; returns the process's exit code. `entitle` is
/// told what the process is.
pub fn run_scheduler(arguments: &str, entitle: impl Fn(&str)) -> i32 {
    run("scheduler", || {
        let arguments: SchedulerArguments = serde_json::from_str(arguments).context("bad arguments")?;
        let _lock = session::join(&arguments.session_dir)?;
        entitle(&title("scheduler", &arguments.session_dir));
        // The control store's; nobody may wait there when that has ended.
        drop(take_socket()?);
        block_on(ray_rs_gcs::replica::run(ReplicaConfig {
            gcs: Address::Unix(arguments.session_dir.join("sockets/gcs")),
            token_path: arguments.session_dir.join("token"),
            listen: SocketAddr::new(arguments.listen, 0),
            gcs_pid: arguments.gcs_pid,
            seed: arguments.seed,
        }))
    })
}

/// Runs a raylet to the end of its session; returns the process's exit code. `entitle` is told what the process is.
pub fn run_raylet(arguments: &str, entitle: impl Fn(&str)) -> i32 {
    run("raylet", || {
        let config: RayletConfig = serde_json::from_str(arguments).context("bad arguments")?;
        entitle(&title("raylet", &config.session_dir));
        raylet(config, take_socket()?)
    })
}

pub(crate) fn raylet(config: RayletConfig, socket: OwnedFd) -> anyhow::Result<()> {
    let _lock = session::join(&config.session_dir)?;
    let (session_dir, gcs_pid) = (config.session_dir.clone(), config.gcs_pid);
    let (has_joined, starts_gcs) = (config.gcs_address.is_some(), !config.gcs_command.is_empty());
    // Taken while it is surely the gcs that has the number.
    let gcs = gcs_pid.and_then(watch);
    let outcome = block_on(ray_rs_raylet::run(config, socket));
    // One that this process has started has ended as well.
    if has_joined
        || (starts_gcs && gcs.as_ref().is_none_or(has_ended))
        || (gcs_pid.is_some() && gcs.as_ref().is_none_or(has_ended))
    {
        clean_up(&session_dir);
    }
    outcome
}

pub(crate) fn run(daemon: &'static str, body: impl FnOnce() -> anyhow::Result<()>) -> i32 {
    ray_rs_telemetry::init(daemon);
    match body() {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "{daemon} failed");
            1
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .build()?;
    let outcome = runtime.block_on(async {
        let started = async {
            tokio::time::sleep(START).await;
            give_back_code();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = work => outcome,
            () = started => unreachable!("it never ends"),
        }
    });
    runtime.shutdown_background();
    outcome
}

/// Takes the socket from standard input and leaves nothing readable there.
pub(crate) fn take_socket() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    Ok(socket)
}

fn watch(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::NONBLOCK).ok()
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}

fn clean_up(session_dir: &Path) {
    if let Err(error) = ray_rs_transport::session::clean_up(session_dir) {
        tracing::warn!(%error, "could not remove the session's directory");
    }
}
