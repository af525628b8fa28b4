//! The web service's listening socket, in the process of the control store: whoever connects first makes it start the
//! process that serves, which gets the socket and ends when nobody has been connected for a while.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ray_rs_transport::Token;
use ray_rs_transport::process::watch_readable;
use ray_rs_web::gate::KEY_PURPOSE;
use ray_rs_web::{Api, WebConfig};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::daemons::take_socket;

/// In a session's directory: where its web service listens.
const ADDRESS_FILE: &str = "dashboard_address";
/// Ports that are tried after one that is taken, when any will do.
const MORE_PORTS: u16 = 50;
/// After a service that failed, those who wait are turned away; so long until the next is started.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// One that has served for so long did not fail to start.
const STARTED_AFTER: Duration = Duration::from_secs(10);

/// "disabled": everybody who can connect is let in.
const AUTH_VARIABLE: &str = "RAY_AUTH_MODE";
/// Names under which browsers may know the service, with commas between.
const HOSTS_VARIABLE: &str = "RAY_RS_WEB_HOSTS";
/// Seconds without a connection after which the service ends.
const IDLE_VARIABLE: &str = "RAY_RS_WEB_IDLE_S";
const IDLE: Duration = Duration::from_secs(60);

/// The process that served for a control store ends with it, a moment later.
const REBIND_LIMIT: Duration = Duration::from_secs(5);
const REBIND_PAUSE: Duration = Duration::from_millis(10);

/// Runs the Python package's service.
const BOOT: &str = "\
import sys
sys.path.insert(0, sys.argv[1])
from ray_rs import _web
_web.main(sys.argv[2])
";

/// What the control store has to know of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebArguments {
    pub listen: SocketAddr,
    /// Another port will do when that one is taken.
    pub may_move: bool,
    pub python: PathBuf,
    /// Directory that holds the package `ray_rs`.
    pub package_dir: String,
}

/// A socket that listens, and is known by its session.
pub(crate) struct WebSocket {
    listener: TcpListener,
    watched: AsyncFd<OwnedFd>,
    arguments: WebArguments,
    session_dir: PathBuf,
}

impl WebSocket {
    /// Binds the socket and writes its address into the session's directory. A control store that is started again takes
    /// the address that the one before had, as soon as what served there has ended.
    ///
    /// Must be called inside a Tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// The port is taken, or the address is none of this machine.
    pub async fn bind(arguments: WebArguments, session_dir: &Path) -> io::Result<Self> {
        let listener = match address_in(session_dir) {
            None => bind(arguments.listen, arguments.may_move)?,
            Some(address) => bind_again(address).await?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let watched = watch_readable(listener.as_fd().try_clone_to_owned()?)?;
        // Whoever looks sees all of it or nothing.
        let partial = session_dir.join(format!(".{ADDRESS_FILE}"));
        fs::write(&partial, format!("{address}\n"))?;
        fs::rename(&partial, session_dir.join(ADDRESS_FILE))?;
        Ok(Self {
            listener,
            watched,
            arguments,
            session_dir: session_dir.to_owned(),
        })
    }

    /// Starts a service whenever somebody connects and none runs. Never returns.
    pub async fn watch(self) {
        loop {
            match self.watched.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime ends.
                Err(_) => return std::future::pending().await,
            }
            // Somebody may have come and gone.
            if !self.has_visitors() {
                continue;
            }
            let began = Instant::now();
            let outcome = match self.start() {
                Ok(mut child) => child.wait().await,
                Err(error) => Err(error),
            };
            if outcome.as_ref().is_ok_and(ExitStatus::success) {
                continue;
            }
            tracing::warn!(?outcome, "the web service ended");
            self.turn_away();
            if began.elapsed() < STARTED_AFTER {
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                self.turn_away();
            }
        }
    }

    fn has_visitors(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    /// Ends the connections that nobody will serve.
    fn turn_away(&self) {
        while self.listener.accept().is_ok() {}
    }

    fn start(&self) -> io::Result<Child> {
        let log = self.log()?;
        let socket: OwnedFd = self.listener.as_fd().try_clone_to_owned()?;
        Command::new(&self.arguments.python)
            .args(["-I", "-c", BOOT])
            .arg(&self.arguments.package_dir)
            .arg(&self.session_dir)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    fn log(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        options.open(self.session_dir.join("logs").join("dashboard.log"))
    }
}

/// Serves on the socket that is this process's standard input, until nobody has been connected for a while. `page_dir` has
/// the files of the page.
///
/// # Errors
/// There is no such socket, or the cluster's token or the page can't be read.
pub fn serve_web(session_dir: &Path, page_dir: PathBuf, api: Arc<dyn Api>) -> anyhow::Result<()> {
    ray_rs_telemetry::init("web");
    // What it serves is over with the control store; that may have ended before this line.
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != parent {
        return Ok(());
    }
    let listener = TcpListener::from(take_socket()?);
    let token = Token::read(&session_dir.join("token")).context("cannot read the cluster's token")?;
    let variable = |name| std::env::var(name).unwrap_or_default();
    let config = WebConfig {
        package_dir: session_dir.join("runtime_resources").join("packages"),
        page_dir,
        key: (variable(AUTH_VARIABLE) != "disabled").then(|| token.key_for(KEY_PURPOSE)),
        hosts: variable(HOSTS_VARIABLE)
            .split(',')
            .map(|host| host.trim().to_owned())
            .filter(|host| !host.is_empty())
            .collect(),
        idle: variable(IDLE_VARIABLE).parse().map_or(IDLE, Duration::from_secs_f64),
    };
    Ok(ray_rs_web::serve(listener, &config, api, std::future::pending())?)
}

/// Where the session's service was bound before.
fn address_in(session_dir: &Path) -> Option<SocketAddr> {
    let text = fs::read_to_string(session_dir.join(ADDRESS_FILE)).ok()?;
    text.trim().parse().ok()
}

async fn bind_again(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + REBIND_LIMIT;
    loop {
        match bind(address, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                tokio::time::sleep(REBIND_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

fn bind(address: SocketAddr, may_move: bool) -> io::Result<TcpListener> {
    let last = if may_move {
        address.port().saturating_add(MORE_PORTS)
    } else {
        address.port()
    };
    let mut failed = io::Error::from(io::ErrorKind::AddrInUse);
    for port in address.port()..=last {
        match TcpListener::bind(SocketAddr::new(address.ip(), port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => failed = error,
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(failed.kind(), format!("{address}: {failed}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_one_waits_for_the_address_of_the_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(address_in(dir.path()), None);
        let before = bind("127.0.0.1:0".parse().expect("an address"), false).expect("bound");
        let address = before.local_addr().expect("bound");
        fs::write(dir.path().join(ADDRESS_FILE), format!("{address}\n")).expect("written");
        assert_eq!(address_in(dir.path()), Some(address));
        let ending = tokio::spawn(async move {
            tokio::task::yield_now().await;
            drop(before);
        });
        assert_eq!(
            bind_again(address)
                .await
                .expect("free by now")
                .local_addr()
                .expect("bound"),
            address
        );
        ending.await.expect("no panic");
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over_only_when_it_may() {
        let first = bind("127.0.0.1:0".parse().expect("an address"), false).expect("bound");
        let taken = first.local_addr().expect("bound");
        assert_eq!(bind(taken, false).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
        if taken.port() < u16::MAX - MORE_PORTS {
            let second = bind(taken, true).expect("one of fifty is free");
            assert!(second.local_addr().expect("bound").port() > taken.port());
        }
    }
}
