//! The mark by which each process that descends from a session's workers is known, wherever it went.
//!
//! A process leaves its group with `setsid`, its parent by forking twice, and its environment when it is given another.
//! What it keeps all its life, and hands to all that it starts, are its limits. The mark is a number in one that nothing
//! uses: the soft limit of the time that a process with a real-time policy may run without sleeping, in microseconds. All
//! marks are of more than a hundred thousand years. Whoever shares the user may read it in `/proc`, and no privilege is
//! needed to set it. A kernel that has no such limit leaves processes unmarked; the environment's mark
//! ([`PROCESS_MARK`](crate::session::PROCESS_MARK)) and the process group tell of them then.
//!
//! Zygotes set the mark, each worker its own over it; the raylet looks for what dead workers leave among its children, and
//! who survives a raylet ends all of its session with [`end_session`].

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getrlimit, pidfd_open, pidfd_send_signal, setrlimit,
};

/// Set in every mark and in no limit that anybody would choose; below the sign of a signed number.
const IS_MARK: u64 = 1 << 62;
const SESSION_BITS: u32 = 28;
const ZYGOTE_BITS: u32 = 12;
const WORKER_BITS: u32 = 22;
/// How `/proc/<pid>/limits` calls the limit.
const NAME: &str = "Max realtime timeout";
/// By then all that can be ended has ended.
const END_LIMIT: Duration = Duration::from_secs(2);
const END_PAUSE: Duration = Duration::from_millis(5);

/// Which session, zygote and worker a process descends from. Numbers are cut to some bits: see [`ProcessMark::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessMark(u64);

impl ProcessMark {
    /// `worker` is the number of the order to fork it, from 1; 0 for the zygote itself, and what that has started. Zygotes
    /// and workers are told apart if their numbers differ by less than 4096 and 4 million.
    pub fn new(session_dir: &Path, zygote: u64, worker: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        session_dir.hash(&mut hasher);
        let session = hasher.finish() & low(SESSION_BITS);
        let zygote = zygote & low(ZYGOTE_BITS);
        Self(IS_MARK | ((session << ZYGOTE_BITS | zygote) << WORKER_BITS) | (worker & low(WORKER_BITS)))
    }

    /// Of a living process; `None` if it has none, has been reaped, or is another user's that keeps it to itself.
    pub fn of(pid: u32) -> Option<Self> {
        in_limits(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
    }

    /// Marks this process and all that it starts from now on.
    ///
    /// # Errors
    /// Where the kernel refuses it.
    pub fn set(self) -> io::Result<()> {
        let maximum = getrlimit(Resource::Rttime).maximum;
        let current = Some(self.0);
        Ok(setrlimit(Resource::Rttime, Rlimit { current, maximum })?)
    }

    pub fn is_of_session(self, session_dir: &Path) -> bool {
        self.without_worker() >> ZYGOTE_BITS == Self::new(session_dir, 0, 0).without_worker() >> ZYGOTE_BITS
    }

    /// Whether both descend from the same zygote.
    pub fn same_zygote(self, other: Self) -> bool {
        self.without_worker() == other.without_worker()
    }

    /// It descends from a worker, and not from a zygote alone.
    pub fn is_of_a_worker(self) -> bool {
        self.0 & low(WORKER_BITS) != 0
    }

    fn without_worker(self) -> u64 {
        self.0 >> WORKER_BITS
    }
}

/// Ends all that descends from the workers of a session whose raylet is gone, and these themselves: but not this process,
/// and not its zygotes, which do the same. Returns when nothing of it is left, or after two seconds.
pub fn end_session(session_dir: &Path) {
    let until = Instant::now() + END_LIMIT;
    // What was just ended is still there for a moment, and may have started another before.
    while end_all_once(session_dir) && Instant::now() < until {
        std::thread::sleep(END_PAUSE);
    }
}

/// Whether there was any.
fn end_all_once(session_dir: &Path) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    let mut found = false;
    for process in processes.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid.and_then(Pid::from_raw).filter(|pid| *pid != getpid()) else {
            continue;
        };
        // Opened first, so that what is looked at is what is ended.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let mark = ProcessMark::of(pid.as_raw_nonzero().get().cast_unsigned());
        let is_its = mark.is_some_and(|mark| mark.is_of_a_worker() && mark.is_of_session(session_dir));
        // The dead that nobody has reaped have no program any more.
        if is_its && fs::read_link(process.path().join("exe")).is_ok() {
            found |= pidfd_send_signal(pidfd, Signal::KILL).is_ok();
        }
    }
    found
}

fn in_limits(text: &str) -> Option<ProcessMark> {
    let values = text.lines().find_map(|line| line.strip_prefix(NAME))?;
    let soft = values.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
    (soft >> 62 == 1).then_some(ProcessMark(soft))
}

const fn low(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_tell_what_they_were_made_of(
            zygotes in [0_u64..4096, 0..4096], workers in [0_u64..1 << 22, 0..1 << 22]
        ) {
            let (here, there) = (Path::new("/r/session_1"), Path::new("/r/session_2"));
            let marks = [0, 1].map(|which| ProcessMark::new(here, zygotes[which], workers[which]));
            prop_assert_eq!(marks[0].same_zygote(marks[1]), zygotes[0] == zygotes[1]);
            prop_assert_eq!(marks[0] == marks[1], zygotes[0] == zygotes[1] && workers[0] == workers[1]);
            prop_assert_eq!(marks[0].is_of_a_worker(), workers[0] != 0);
            prop_assert!(marks[0].is_of_session(here) && !marks[0].is_of_session(there));
            prop_assert!(!marks[0].same_zygote(ProcessMark::new(there, zygotes[0], workers[0])));
            let limits = format!("Limit Soft Hard\nMax realtime priority  0  0\n{NAME}   {}  unlimited  us\n", marks[0].0);
            prop_assert_eq!(in_limits(&limits), Some(marks[0]));
        }
    }

    #[test]
    fn other_limits_are_no_marks() {
        for limits in [
            "",
            NAME,
            "Max realtime timeout      unlimited   unlimited  us",
            "Max realtime timeout 200000 200000 us",
        ] {
            assert_eq!(in_limits(limits), None);
        }
    }

    /// A shell that is marked, with what it starts: `script` says what.
    fn start(mark: ProcessMark, script: &str) -> Child {
        // The limit is the shell's own, so that this process stays unmarked.
        let script = format!("ulimit -S -R {} && {script}", mark.0);
        Command::new("bash")
            .args(["-c", &script])
            .spawn()
            .expect("bash is there")
    }

    fn wait_for(mark: ProcessMark, count: usize) {
        let is_marked = |entry: &fs::DirEntry| {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            pid.and_then(ProcessMark::of) == Some(mark) && fs::read_link(entry.path().join("exe")).is_ok()
        };
        let until = Instant::now() + Duration::from_secs(20);
        while fs::read_dir("/proc")
            .expect("listed")
            .flatten()
            .filter(is_marked)
            .count()
            != count
        {
            assert!(
                Instant::now() < until,
                "there are never {count} processes with the mark"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn all_of_a_session_ends_and_nothing_of_another() {
        let here = format!("/r/session_here_{}", std::process::id());
        let there = format!("/r/session_there_{}", std::process::id());
        let (here, there) = (Path::new(&here), Path::new(&there));
        let (its, others, zygotes) = (
            ProcessMark::new(here, 3, 7),
            ProcessMark::new(there, 3, 7),
            ProcessMark::new(here, 3, 0),
        );
        let far = "(setsid env -i sleep 60 &) ; setsid -f env -i sleep 60 ; exec sleep 60";
        let mut worker = start(its, far);
        let mut other = start(others, "exec sleep 60");
        let mut zygote = start(zygotes, "exec sleep 60");
        wait_for(its, 3);
        wait_for(others, 1);
        wait_for(zygotes, 1);
        end_session(here);
        wait_for(its, 0);
        assert_eq!(worker.wait().expect("a child").signal(), Some(9));
        for left in [&mut other, &mut zygote] {
            assert!(left.try_wait().expect("a child").is_none());
            left.kill().expect("killed");
            left.wait().expect("a child");
        }
    }
}
