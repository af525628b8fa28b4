//! Starts a node: a session directory, and in it a raylet and, on a head node, a gcs.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ray_rs_raylet::{DriverConfig, RayletConfig};
use ray_rs_transport::Token;
use ray_rs_transport::session::LATEST_LINK;
use serde::{Deserialize, Serialize};

use crate::autoscaling::{AutoscalingArguments, LocalNodes};
use crate::boot;
use crate::daemon::Daemon;
use crate::daemons::{GcsArguments, SchedulerArguments};
use crate::session::{self, SessionInfo};
use crate::web::WebArguments;
use crate::{resources, stop};

/// Loads the extension module by its path and runs one of its daemons: nothing else is imported, not even `site`.
/// Nor is anything torn down at the end: the kernel does that faster.
const BOOT: &str = "\
import posix, sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
path, daemon, *configs = sys.argv[1:]
loader = ExtensionFileLoader('ray_rs._core', path)
module = loader.create_module(ModuleSpec('ray_rs._core', loader, origin=path))
loader.exec_module(module)
posix._exit(getattr(module, 'run_' + daemon)(*configs))
";

/// In how many shards the control store keeps its tables.
const SHARDS_VARIABLE: &str = "RAY_RS_GCS_SHARDS";
/// How many seconds a node may be silent, or stopped, before it is declared dead.
const NODE_BOUND_VARIABLE: &str = "RAY_RS_NODE_TIMEOUT_S";
/// How many replicas of the global scheduler a head starts beside the one in its control store.
const SCHEDULERS_VARIABLE: &str = "RAY_RS_GLOBAL_SCHEDULERS";

/// What the caller decides about a head node, as JSON from Python. Everything but the first two has a default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadConfig {
    /// Absolute path of the Python that runs the daemons.
    pub python: PathBuf,
    /// Absolute path of the extension module's file, inside the package `ray_rs`.
    pub core_path: PathBuf,
    pub num_cpus: Option<f64>,
    pub num_gpus: Option<f64>,
    /// Bytes of the `memory` resource.
    pub memory: Option<f64>,
    /// Bytes of the arena.
    pub object_store_memory: Option<u64>,
    /// Where objects go when the arena is full: a directory, or a URL; empty: the session's directory.
    pub spill_directory: String,
    /// Custom resources.
    pub resources: BTreeMap<String, f64>,
    pub labels: BTreeMap<String, String>,
    pub node_name: String,
    pub node_ip: String,
    /// The session ends with this process; none: it lives until it is stopped.
    pub driver_pid: Option<u32>,
    /// What the launching driver will register with; its workers are prepared while it connects.
    pub driver_config: Option<DriverConfig>,
    /// Where the raylet listens for other nodes; none: there are no others.
    pub listen: Option<SocketAddr>,
    /// Where the gcs listens.
    pub gcs_listen: Option<SocketAddr>,
    /// A further address at which the gcs listens, for programs from outside of the cluster.
    pub client_listen: Option<SocketAddr>,
    /// The node only hosts a program from outside of the cluster that it joins.
    pub is_client: bool,
    /// The cluster that the node joins; none: it is the head of its own.
    pub join: Option<Join>,
    /// On a head: a file with the cluster's token; none: a new one is made.
    pub token_path: Option<PathBuf>,
    /// Of a head: connections between the machines of its cluster are encrypted. Who joins knows it from the token.
    pub tls: bool,
    /// Python's minor version ("3.12"), which all nodes of a cluster share.
    pub python_version: String,
    /// The session ends with `driver_pid`, not already when that process leaves the session.
    pub outlives_goodbye: bool,
    /// The node's id in hex; a random one when it is empty.
    pub node_id: String,
    /// Of a head: which nodes its cluster starts and ends by itself.
    pub autoscaling: Option<AutoscalingArguments>,
    /// Of a head: where its web service listens; none: there is none.
    pub web_listen: Option<SocketAddr>,
    /// The web service takes another port when that one is taken.
    pub web_may_move: bool,
}

/// A cluster to join.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Join {
    pub gcs_address: SocketAddr,
    /// The file with the cluster's token.
    pub token_path: PathBuf,
}

impl From<&HeadConfig> for LocalNodes {
    fn from(config: &HeadConfig) -> Self {
        Self {
            python: config.python.clone(),
            core_path: config.core_path.clone(),
            python_version: config.python_version.clone(),
        }
    }
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            python: PathBuf::new(),
            core_path: PathBuf::new(),
            num_cpus: None,
            num_gpus: None,
            memory: None,
            object_store_memory: None,
            spill_directory: String::new(),
            resources: BTreeMap::new(),
            labels: BTreeMap::new(),
            node_name: String::new(),
            node_ip: "127.0.0.1".to_owned(),
            driver_pid: None,
            driver_config: None,
            listen: None,
            gcs_listen: None,
            client_listen: None,
            is_client: false,
            join: None,
            token_path: None,
            tls: false,
            python_version: String::new(),
            outlives_goodbye: false,
            node_id: String::new(),
            autoscaling: None,
            web_listen: None,
            web_may_move: false,
        }
    }
}

/// Why no session could be launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot read the cluster's token: {0}")]
    Token(io::Error),
    #[error("cannot make a session directory: {0}")]
    Directory(io::Error),
    #[error("cannot start {}: {source}", python.display())]
    Spawn { python: PathBuf, source: io::Error },
}

/// A session that this process has launched. Dropping it stops nothing: [`stop`](crate::stop()) does.
#[derive(Debug)]
pub struct Session {
    pub info: SessionInfo,
    /// None on a node that has joined a cluster.
    pub gcs: Option<Daemon>,
    pub raylet: Daemon,
    pub schedulers: Vec<Daemon>,
    _lock: File,
}

impl Session {
    /// Whether both daemons still run.
    pub fn is_running(&mut self) -> bool {
        self.gcs.iter_mut().chain([&mut self.raylet]).all(Daemon::is_running)
    }
}

/// Starts a session. Clients may connect to `sockets/raylet` in its directory at once.
///
/// # Errors
/// When the directory cannot be made or Python not be started; then nothing stays behind.
pub fn launch_head(config: &HeadConfig) -> Result<Session, LaunchError> {
    if let Err(error) = session::sweep() {
        tracing::warn!(%error, "could not look for dead sessions");
    }
    let given = config
        .join
        .as_ref()
        .map(|join| &join.token_path)
        .or(config.token_path.as_ref());
    let token = given
        .map(|path| Token::read(path).map_err(LaunchError::Token))
        .transpose()?;
    let token = match (config.tls, token) {
        (false, token) => token,
        (true, Some(token)) => Some(token.with_tls()),
        (true, None) => Some(Token::random().map_err(LaunchError::Token)?.with_tls()),
    };
    let made = SessionDir::make(token.as_ref()).map_err(LaunchError::Directory)?;
    let driver_pid = config.driver_pid;
    match start_daemons(config, &made) {
        Ok((gcs, raylet, schedulers)) => {
            let info = SessionInfo {
                session: made.name.clone(),
                gcs_pid: gcs.as_ref().map_or(0, Daemon::id),
                raylet_pid: raylet.id(),
                scheduler_pids: schedulers.iter().map(Daemon::id).collect(),
                driver_pid,
                gcs_address: config
                    .join
                    .as_ref()
                    .map(|join| join.gcs_address.to_string())
                    .unwrap_or_default(),
                session_dir: made.dir.clone(),
                starts_nodes: config.autoscaling.is_some(),
                is_client: config.is_client,
                client_address: config
                    .client_listen
                    .map(|address| address.to_string())
                    .unwrap_or_default(),
            };
            let session = Session {
                info,
                gcs,
                raylet,
                schedulers,
                _lock: made.lock,
            };
            let pointed = |()| match config.join {
                Some(_) => session.info.write_gcs_address(),
                None => point_latest_to(&session.info),
            };
            match session.info.write().and_then(pointed) {
                Ok(()) => Ok(session),
                Err(error) => {
                    stop::stop(session);
                    Err(LaunchError::Directory(error))
                }
            }
        }
        Err(error) => {
            let _ = ray_rs_transport::session::clean_up(&made.dir);
            Err(error)
        }
    }
}

/// Session directories that this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A new session directory, its sockets bound.
struct SessionDir {
    name: String,
    dir: PathBuf,
    lock: File,
    gcs_socket: OwnedFd,
    raylet_socket: OwnedFd,
}

impl SessionDir {
    fn make(token: Option<&Token>) -> io::Result<Self> {
        let root = session::root()?;
        let pid = std::process::id();
        let count = MADE.fetch_add(1, Ordering::Relaxed);
        // Several may be made by one process in one microsecond.
        let more = if count == 0 { String::new() } else { format!("_{count}") };
        let name = format!("session_{}_{pid}{more}", stamp(SystemTime::now()));
        let dir = root.join(&name);
        let mut private = DirBuilder::new();
        private.mode(0o700);
        private.create(&dir)?;
        let filled = Self::fill(&dir, &private, token);
        if filled.is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        let (lock, gcs_socket, raylet_socket) = filled?;
        Ok(Self {
            name,
            dir,
            lock,
            gcs_socket,
            raylet_socket,
        })
    }

    fn fill(dir: &Path, private: &DirBuilder, token: Option<&Token>) -> io::Result<(File, OwnedFd, OwnedFd)> {
        let lock = session::found(dir)?;
        for inner in ["sockets", "gcs", "logs"] {
            private.create(dir.join(inner))?;
        }
        match token {
            Some(token) => token.write_new(&dir.join("token"))?,
            None => {
                Token::create(&dir.join("token"))?;
            }
        }
        let bind = |name: &str| {
            let path = dir.join("sockets").join(name);
            UnixListener::bind(&path).map(OwnedFd::from).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("{} (a socket's path may have 107 bytes): {error}", path.display()),
                )
            })
        };
        Ok((lock, bind("gcs")?, bind("raylet")?))
    }
}

type Daemons = (Option<Daemon>, Daemon, Vec<Daemon>);

fn start_daemons(config: &HeadConfig, made: &SessionDir) -> Result<Daemons, LaunchError> {
    let (object_store_bytes, resources) = resources::of_node(config);
    let raylet_config = RayletConfig {
        session_dir: made.dir.clone(),
        python: config.python.to_string_lossy().into_owned(),
        package_dir: package_dir(&config.core_path),
        resources,
        object_store_bytes,
        spill_directory: config.spill_directory.clone(),
        driver_pid: config.driver_pid,
        gcs_pid: None,
        gcs_command: Vec::new(),
        // The raylet inherits this environment, and a command line is no place for a second copy of it.
        driver_config: config.driver_config.clone().map(DriverConfig::without_inherited),
        is_head: config.join.is_none(),
        node_name: config.node_name.clone(),
        node_ip: config.node_ip.clone(),
        labels: config.labels.clone(),
        listen: config.listen,
        is_client: config.is_client,
        gcs_address: config.join.as_ref().map(|join| join.gcs_address),
        python_version: config.python_version.clone(),
        outlives_goodbye: config.outlives_goodbye,
        node_id: config.node_id.clone(),
    };
    let started = match config.join {
        Some(_) => start_raylet(config, made, &raylet_config).map(|raylet| (None, raylet)),
        None => start_head(config, made, raylet_config).map(|(gcs, raylet)| (Some(gcs), raylet)),
    };
    let (gcs, raylet) = started.map_err(|source| LaunchError::Spawn {
        python: config.python.clone(),
        source,
    })?;
    // A cluster can do without: the control store has a global scheduler of its own.
    let schedulers = match (&gcs, config.listen) {
        (Some(gcs), Some(_)) => start_schedulers(config, made, gcs.id()).unwrap_or_else(|error| {
            tracing::warn!(%error, "could not start replicas of the global scheduler");
            Vec::new()
        }),
        (_, _) => Vec::new(),
    };
    Ok((gcs, raylet, schedulers))
}

fn start_raylet(config: &HeadConfig, made: &SessionDir, raylet: &RayletConfig) -> io::Result<Daemon> {
    let arguments = serde_json::to_string(raylet)?;
    spawn(config, made, "raylet", &["raylet", &arguments], &made.raylet_socket)
}

/// Both daemons, out of one Python.
fn start_head(config: &HeadConfig, made: &SessionDir, mut raylet: RayletConfig) -> io::Result<(Daemon, Daemon)> {
    let gcs_arguments = serde_json::to_string(&GcsArguments {
        session_dir: made.dir.clone(),
        driver_pid: config.driver_pid,
        listen: config.gcs_listen,
        client_listen: config.client_listen,
        shards: number_in(SHARDS_VARIABLE),
        node_timeout_s: number_in(NODE_BOUND_VARIABLE),
        autoscaling: config
            .autoscaling
            .clone()
            .map(|autoscaling| (autoscaling, config.into())),
        web: config.web_listen.map(|listen| WebArguments {
            listen,
            may_move: config.web_may_move,
            python: config.python.clone(),
            package_dir: package_dir(&config.core_path),
        }),
    })?;
    raylet.gcs_command = command_line(config, &["gcs", &gcs_arguments]);
    let raylet_arguments = serde_json::to_string(&raylet)?;
    let (channel, theirs) = UnixStream::pair()?;
    boot::hand_over(&channel, [made.gcs_socket.as_fd(), made.raylet_socket.as_fd()])?;
    let mut gcs = spawn(
        config,
        made,
        "gcs",
        &["head", &gcs_arguments, &raylet_arguments],
        &theirs.into(),
    )?;
    let started = boot::raylet_of(&channel)
        .map_err(|_| io::Error::other(ended_at_once(made)))
        .and_then(|pid| match pid {
            Some(pid) => Daemon::of_child(pid),
            None => {
                raylet.gcs_pid = Some(gcs.id());
                start_raylet(config, made, &raylet)
            }
        });
    match started {
        Ok(raylet) => Ok((gcs, raylet)),
        Err(error) => {
            gcs.kill();
            Err(error)
        }
    }
}

/// What is in the log of a Python that came to nothing.
fn ended_at_once(made: &SessionDir) -> String {
    let said = fs::read_to_string(boot::log_of(&made.dir, "gcs")).unwrap_or_default();
    match said.trim() {
        "" => "it ended at once".to_owned(),
        said => format!("it ended at once, and said: {said}"),
    }
}

/// A number above zero in the environment.
fn number_in(variable: &str) -> Option<usize> {
    std::env::var(variable)
        .ok()?
        .trim()
        .parse()
        .ok()
        .filter(|number| *number > 0)
}

fn start_schedulers(config: &HeadConfig, made: &SessionDir, gcs_pid: u32) -> io::Result<Vec<Daemon>> {
    let mut started = Vec::new();
    for number in 0..number_in(SCHEDULERS_VARIABLE).unwrap_or(0) {
        let arguments = SchedulerArguments {
            session_dir: made.dir.clone(),
            gcs_pid,
            listen: config.node_ip.parse().map_err(io::Error::other)?,
            seed: number as u64 + 1,
        };
        let arguments = serde_json::to_string(&arguments)?;
        let name = format!("scheduler-{number}");
        started.push(spawn(
            config,
            made,
            &name,
            &["scheduler", &arguments],
            &made.gcs_socket,
        )?);
    }
    Ok(started)
}

fn spawn(
    config: &HeadConfig,
    made: &SessionDir,
    daemon: &str,
    arguments: &[&str],
    socket: &OwnedFd,
) -> io::Result<Daemon> {
    let log = boot::log_of(&made.dir, daemon);
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let line = command_line(config, arguments);
    let (program, arguments) = line.split_first().expect("a command line begins with its program");
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(socket.try_clone()?))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .current_dir("/")
        // Ctrl-C at the driver's terminal is the driver's affair.
        .process_group(0)
        .spawn()?;
    Daemon::of_child(child.id())
}

/// What runs a daemon, the program first.
fn command_line(config: &HeadConfig, arguments: &[&str]) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut line = vec![text(&config.python)];
    line.extend(["-I", "-S", "-c", BOOT].map(str::to_owned));
    line.push(text(&config.core_path));
    line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    line
}

/// What has to be on the path for `import ray_rs`.
fn package_dir(core_path: &Path) -> String {
    core_path
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/"))
        .to_string_lossy()
        .into_owned()
}

fn point_latest_to(info: &SessionInfo) -> io::Result<()> {
    let root = info.session_dir.parent().expect("a session lies in the root");
    let temporary = root.join(format!(".{LATEST_LINK}.{}", info.session));
    symlink(&info.session, &temporary)?;
    fs::rename(&temporary, root.join(LATEST_LINK))
}

/// `2025-01-31_12-59-59_123456`, in UTC: names sort by age.
fn stamp(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since_epoch.as_secs();
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let micros = since_epoch.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}_{hour:02}-{minute:02}-{second:02}_{micros:06}")
}

/// Year, month and day of a number of days since 1970-01-01.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn stamps_are_dates() {
        let at = |seconds| stamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01_00-00-00_000000");
        assert_eq!(at(951_827_696), "2000-02-29_12-34-56_000000");
        assert_eq!(at(1_735_689_599), "2024-12-31_23-59-59_000000");
        assert_eq!(at(1_735_689_600), "2025-01-01_00-00-00_000000");
    }
}
