//! The end of another process, learned from a pidfd; and a second process out of a young one.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process that is watched. It stays the same process even when its number is used again.
#[derive(Debug)]
pub struct ProcessWatch {
    pid: u32,
    /// `None`: it was gone already when the watch began.
    fd: Option<AsyncFd<OwnedFd>>,
}

impl ProcessWatch {
    /// Starts to watch. A process that does not exist (any more) counts as ended.
    ///
    /// Must be called inside a Tokio runtime with I/O enabled.
    pub fn new(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is no process id")))?;
        let fd = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(fd) => Some(watch_readable(fd)?),
            Err(rustix::io::Errno::SRCH) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { pid, fd })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Resolves when the process has ended (a zombie has). May be dropped and called again.
    pub async fn ended(&self) {
        if let Some(fd) = &self.fd {
            // An error here means that the runtime shuts down; then nobody needs the answer.
            let _ = fd.readable().await;
        }
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Some(fd) = &self.fd else { return false };
        !poll(&mut [PollFd::new(fd.get_ref(), PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    /// Whether a signal has stopped it (SIGSTOP, SIGTSTP), and none has let it go on.
    pub fn is_stopped(&self) -> bool {
        stat_fields(self.pid).is_some_and(|fields| fields.starts_with('T'))
    }

    /// Asks the process to end. One that has ended already is no error.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends the process at once.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        match pidfd_send_signal(fd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Watches when a descriptor can be read: a pidfd, or a socket that listens.
///
/// Must be called inside a Tokio runtime with I/O enabled.
pub fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, always answers with the same number, and nobody can take it out of
    // the `AsyncFd` without ending the watch.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? })
}

/// A process as others of its machine find it: also from another container they can tell whether they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub pid: u32,
    /// Inode of the name space in which that is its number.
    pub pid_namespace: u64,
    /// When it began, in ticks since the machine started.
    pub started_ticks: u64,
}

impl Identity {
    /// This process; `None`: there is no `/proc`.
    pub fn mine() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// The process that has this number here.
    fn of(pid: u32) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let pid_namespace = std::fs::metadata("/proc/self/ns/pid").ok()?.ino();
        let started_ticks = stat_fields(pid)?.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self {
            pid,
            pid_namespace,
            started_ticks,
        })
    }

    /// Whether it is a process that is seen from here, under its number.
    pub fn is_here(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

/// What `/proc/<pid>/stat` says after the name: the state, then numbers.
fn stat_fields(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.trim().to_owned())
}

/// Which of the two processes this is, after [`fork_sibling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The one that was there before, with the new one's number.
    Old {
        new: u32,
    },
    New,
}

/// Forks this process; the new process is not its child but its parent's, as if that had started both.
///
/// The two share what they have loaded and relocated until one of them writes to it. Neither the C library's nor
/// Python's handlers of a fork run, so it is for a process that has just begun.
///
/// # Errors
/// This process has more than one thread, or the kernel refuses.
pub fn fork_sibling() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "a process of {threads} threads is not forked"
        )));
    }
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    let nothing: libc::c_long = 0;
    // SAFETY: no flag shares memory, descriptors or anything else, and no stack is given: the new process goes on from here
    // on a copy of everything, as after `fork`. What `fork` of the C library does besides is for other threads, which
    // there are none of: locks that they may hold. All other arguments are ignored without their flags.
    match unsafe { libc::syscall(libc::SYS_clone, flags, nothing, nothing, nothing, nothing) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::New),
        new => Ok(Forked::Old {
            new: u32::try_from(new).expect("the kernel's process ids are positive"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_seen_once_and_for_ever() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut child = std::process::Command::new("sleep")
                .arg("1000")
                .spawn()
                .expect("started");
            let watch = ProcessWatch::new(child.id()).expect("watched");
            watch.kill().expect("signalled");
            watch.ended().await;
            watch.ended().await;
            child.wait().expect("reaped");
            watch.terminate().expect("gone is no error");
            ProcessWatch::new(child.id()).expect("watched").ended().await;
        });
    }

    #[test]
    fn a_process_is_found_by_its_identity_and_no_other_is() {
        let mine = Identity::mine().expect("there is /proc");
        assert!(mine.is_here());
        let later = Identity {
            started_ticks: mine.started_ticks + 1,
            ..mine
        };
        let elsewhere = Identity {
            pid_namespace: mine.pid_namespace + 1,
            ..mine
        };
        assert!(!later.is_here() && !elsewhere.is_here());
    }

    #[test]
    fn a_stopped_process_is_seen_to_be_stopped() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut child = std::process::Command::new("sleep")
                .arg("1000")
                .spawn()
                .expect("started");
            let watch = ProcessWatch::new(child.id()).expect("watched");
            assert!(!watch.is_stopped());
            watch.signal(Signal::STOP).expect("signalled");
            while !watch.is_stopped() {
                std::thread::yield_now();
            }
            watch.kill().expect("a stopped process can be killed");
            watch.ended().await;
            assert!(!watch.is_stopped());
            child.wait().expect("reaped");
        });
    }
}
