//! A daemon that this process has launched: a child of its own, though perhaps started by another one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

#[derive(Debug)]
pub struct Daemon {
    pid: u32,
    fd: OwnedFd,
}

impl Daemon {
    /// `pid` is a child that nobody has waited for yet.
    pub(crate) fn of_child(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            pid,
            fd: pidfd_open(raw, PidfdFlags::empty())?,
        })
    }

    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Whether it runs. One that has ended is not a zombie any more afterwards.
    pub fn is_running(&mut self) -> bool {
        let ended = waitid(
            WaitId::PidFd(self.fd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
        matches!(ended, Ok(None))
    }

    /// Waits for its end. No error if somebody else in this process has done that.
    pub fn wait(&mut self) {
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::PidFd(self.fd.as_fd()), WaitIdOptions::EXITED) {}
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
        self.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_runs_until_it_has_ended() {
        #[expect(clippy::zombie_processes, reason = "it is waited for by its pidfd")]
        let child = Command::new("sleep").arg("1000").spawn().expect("started");
        let mut daemon = Daemon::of_child(child.id()).expect("a child");
        assert!(daemon.is_running());
        daemon.kill();
        assert!(!daemon.is_running());
        daemon.wait();
        assert!(Daemon::of_child(0).is_err());
    }
}
