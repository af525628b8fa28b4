//! Ends a session: asks, waits a while, and then insists.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use ray_rs_transport::session::clean_up;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::launch::Session;
use crate::session::SessionInfo;

/// Time for both daemons to end by themselves; the gcs waits for the raylet and removes the directory.
const GRACE: Duration = Duration::from_secs(3);
/// The same for a gcs that ends nodes first.
const GRACE_WITH_NODES: Duration = Duration::from_secs(25);
/// Time to end after SIGKILL.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Ends a session that this process launched. Nothing of it is left when this returns.
pub fn stop(mut session: Session) {
    stop_session(&session.info);
    let others = session.schedulers.iter_mut().chain([&mut session.raylet]);
    for daemon in session.gcs.iter_mut().chain(others) {
        daemon.wait();
    }
}

/// Ends any session of this user's. One that has ended already is no error.
pub fn stop_session(info: &SessionInfo) {
    // The control store may be another process than the one that was launched.
    let now = SessionInfo::read(&info.session_dir);
    let info = now.as_ref().unwrap_or(info);
    let pids = [info.raylet_pid, info.gcs_pid].into_iter().filter(|pid| *pid != 0);
    let pids = pids.chain(info.scheduler_pids.iter().copied());
    let daemons: Vec<OwnedFd> = pids.filter_map(watch).collect();
    signal(&daemons, Signal::TERM);
    let grace = if info.starts_nodes { GRACE_WITH_NODES } else { GRACE };
    if !wait_for_all(&daemons, grace) {
        tracing::warn!(session = info.session, "a session did not end in time and is killed");
        signal(&daemons, Signal::KILL);
        wait_for_all(&daemons, LAST_WAIT);
    }
    if is_unfinished(&info.session_dir)
        && let Err(error) = clean_up(&info.session_dir)
    {
        tracing::warn!(%error, "could not remove the session's directory");
    }
}

/// Whether more than logs is left. The gcs may have been killed in the middle of removing many spilled objects.
fn is_unfinished(session_dir: &Path) -> bool {
    let entries = std::fs::read_dir(session_dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name() != "logs")
}

fn watch(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

fn signal(daemons: &[OwnedFd], signal: Signal) {
    for daemon in daemons {
        // It may have ended meanwhile.
        let _ = pidfd_send_signal(daemon, signal);
    }
}

/// True when all have ended in time.
fn wait_for_all(daemons: &[OwnedFd], limit: Duration) -> bool {
    let until = Instant::now() + limit;
    daemons.iter().all(|daemon| {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("a few seconds fit");
            match poll(&mut [PollFd::new(daemon, PollFlags::IN)], Some(&left)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    })
}
