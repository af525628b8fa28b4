//! Exit statuses of children, and orphans.
//!
//! `FT-9` The raylet is a subreaper: a process whose parent has ended becomes its child. Programs that a dead worker had
//! started are found that way and ended. They are told apart by their [`ProcessMark`], which they keep in sessions of their
//! own and with other environments; where a kernel knows no such mark, by their process group and by the mark in their
//! environment (which zygote they descend from). What a worker that lives has started is left alone, whoever its parent is, and
//! so is what one that has left in order has put into sessions of their own: an idle worker's end is the raylet's doing, of which
//! a program that starts a server in a task knows nothing. That ends with its job.
//!
//! With `RAY_kill_child_processes_on_worker_exit=0` what a worker has started ends with its job.

use std::path::Path;
use std::time::{Duration, Instant};

use ray_rs_transport::ProcessMark;
use ray_rs_transport::session::PROCESS_MARK;
use rustc_hash::FxHashSet;
use rustix::process::{Pid, Signal, WaitOptions, getpgid, getpid, kill_process, wait};

use crate::gcs_process::GcsProcess;
use crate::input::{Token, ZygoteKey};
use crate::raylet::Raylet;
use crate::timers::Timer;
use crate::workers::raw_status;
use crate::zygote::Zygote;

/// At the end of the session all processes must be gone by then.
const END_LIMIT: Duration = Duration::from_secs(1);
/// A process in the middle of `exec` shows no mark; it is looked at again, a few times.
const LOOKS_AT_ORPHANS: u32 = 10;
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(10);
/// Ray's setting, in the raylet's environment: whether what a worker has started ends with it.
const KILL_CHILDREN: &str = "RAY_kill_child_processes_on_worker_exit";

impl Raylet {
    /// Takes the statuses of all children that have ended.
    pub fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let zygote = self
                .all_zygotes()
                .find(|zygote| zygote.pid == pid)
                .map(|zygote| zygote.key);
            match zygote {
                Some(zygote) => self.zygote_gone(zygote, raw_status(status)),
                None if self.set_up_reaped(pid) => {}
                None => self.process_ended(pid.as_raw_nonzero().get().cast_unsigned(), Some(raw_status(status))),
            }
        }
        self.give_up_lost_statuses();
        self.end_orphans();
    }

    /// Ends what workers that are dead have left, and what descends from a job that has ended. Each process that ends may
    /// leave orphans in turn: their end calls this again, until nothing of the kind is left.
    pub fn end_orphans(&mut self) {
        let workers = self.worker_pids();
        let left = orphans(&workers, &self.zygote_pids());
        if left.is_empty() && self.marks_to_end.is_empty() {
            self.marks_left_behind.clear();
            return;
        }
        let mut found = Vec::new();
        let mut still_there = FxHashSet::default();
        let mut unreadable = false;
        for pid in left {
            match self.mark_of(pid) {
                // Also of a job that has ended: its workers are ended as well, but for detached actors.
                Mark::Worker(mark) if self.children_end && !self.marks_left_behind.contains(&mark) => {
                    if !self.is_of_the_living(mark) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
                Mark::Worker(mark) => {
                    still_there.insert(mark);
                    let is_its = |zygote: &ZygoteKey| mark.same_zygote(self.mark(*zygote, Token(0)));
                    found.extend(self.end_with_its_job(pid, is_its));
                }
                Mark::Zygote(text) => {
                    found.extend(self.end_with_its_job(pid, |zygote| text == self.environment_mark(*zygote)));
                }
                Mark::None => {}
                Mark::Unreadable => unreadable = true,
            }
        }
        self.marks_left_behind.retain(|mark| still_there.contains(mark));
        let unreadable = unreadable && !self.marks_to_end.is_empty();
        let look_again = unreadable && self.looks_at_orphans < LOOKS_AT_ORPHANS;
        if look_again {
            self.looks_at_orphans += 1;
            self.timers
                .set(Instant::now() + PAUSE_BETWEEN_LOOKS, Timer::LookAtOrphans);
        }
        // A mark whose workers and orphans are gone is done with.
        let workers = &self.workers;
        self.marks_to_end.retain(|(zygote, job)| {
            look_again || found.contains(zygote) || workers.values().any(|worker| worker.pool.job == *job)
        });
    }

    /// Ends an orphan if its zygote's job has ended, and says which zygote that was.
    fn end_with_its_job(&self, pid: Pid, is_its: impl Fn(&ZygoteKey) -> bool) -> Option<ZygoteKey> {
        let (zygote, _) = self.marks_to_end.iter().find(|(zygote, _)| is_its(zygote))?;
        let _ = kill_process(pid, Signal::KILL);
        Some(*zygote)
    }

    /// Ends what a dead worker had started; of one that has left in order only what is in its process group still.
    pub fn end_orphans_of(&mut self, token: Token, zygote: ZygoteKey, worker_pid: u32, left_in_order: bool) {
        if left_in_order {
            self.marks_left_behind.insert(self.mark(zygote, token));
        }
        if self.children_end {
            for pid in orphans(&self.worker_pids(), &self.zygote_pids()) {
                // The worker's number is that of its group, and nobody else's as long as the group has members.
                if getpgid(Some(pid)).is_ok_and(|group| as_u32(group) == worker_pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
        self.end_orphans();
    }

    /// Whether a worker that was ordered and is not known to have ended has started the process.
    fn is_of_the_living(&self, mark: ProcessMark) -> bool {
        self.workers
            .iter()
            .any(|(token, worker)| self.mark(worker.zygote, *token) == mark)
    }

    fn mark(&self, zygote: ZygoteKey, worker: Token) -> ProcessMark {
        ProcessMark::new(&self.config.session_dir, zygote.0, worker.0)
    }

    fn mark_of(&self, pid: Pid) -> Mark {
        match ProcessMark::of(as_u32(pid)) {
            Some(mark) if mark.is_of_a_worker() && mark.is_of_session(&self.config.session_dir) => Mark::Worker(mark),
            _ => environment_mark_of(pid),
        }
    }

    fn environment_mark(&self, zygote: ZygoteKey) -> String {
        environment_mark(&self.config.session_dir, zygote)
    }

    pub fn all_zygotes(&self) -> impl Iterator<Item = &Zygote> {
        let environments = self.jobs.values().flat_map(|job| &job.environments);
        environments.filter_map(|environment| environment.zygote.as_ref())
    }

    fn zygote_pids(&self) -> Vec<Pid> {
        self.all_zygotes().map(|zygote| zygote.pid).collect()
    }

    /// RAY-2: ends every process of the node, and waits for their ends.
    pub fn end_everything(&mut self) {
        self.store.stop();
        for worker in self.workers.values_mut() {
            worker.kill();
        }
        for zygote in self.all_zygotes() {
            zygote.kill();
        }
        for environment in self.jobs.values_mut().flat_map(|job| &mut job.environments) {
            environment.end_set_up();
        }
        let until = Instant::now() + END_LIMIT;
        let gcs = self.gcs_process.as_ref().and_then(GcsProcess::child);
        loop {
            // Workers become our children as their zygotes end, and so does what they had started.
            let left: Vec<Pid> = children().into_iter().filter(|pid| Some(*pid) != gcs).collect();
            for pid in &left {
                let _ = kill_process(*pid, Signal::KILL);
            }
            if left.is_empty() && gcs.is_some() {
                // Its end comes last.
                return;
            }
            loop {
                match wait(WaitOptions::NOHANG) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    // No child is left.
                    Err(_) => return,
                }
            }
            if Instant::now() > until {
                tracing::warn!("some processes of the session do not end");
                return;
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }
}

/// Our children that are neither workers nor zygotes.
fn orphans(workers: &FxHashSet<u32>, zygotes: &[Pid]) -> Vec<Pid> {
    children()
        .into_iter()
        .filter(|pid| !workers.contains(&as_u32(*pid)) && !zygotes.contains(pid))
        .collect()
}

fn as_u32(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// Every child of this process, whichever of its threads the kernel lists it under.
fn children() -> Vec<Pid> {
    let mut found = Vec::new();
    let own = as_u32(getpid());
    let Ok(threads) = std::fs::read_dir(format!("/proc/{own}/task")) else {
        return found;
    };
    for thread in threads.flatten() {
        let Ok(text) = std::fs::read_to_string(thread.path().join("children")) else {
            continue;
        };
        found.extend(
            text.split_ascii_whitespace()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?)),
        );
    }
    found
}

/// Whether what a worker has started ends with it: so it is unless Ray's setting says otherwise.
pub(crate) fn children_end() -> bool {
    means_yes(std::env::var(KILL_CHILDREN).ok().as_deref())
}

fn means_yes(setting: Option<&str>) -> bool {
    setting.is_none_or(|text| text == "1" || text.eq_ignore_ascii_case("true"))
}

/// The value of [`PROCESS_MARK`] for what descends from a zygote.
pub(crate) fn environment_mark(session_dir: &Path, zygote: ZygoteKey) -> String {
    format!("{}/{}", session_dir.display(), zygote.0)
}

/// What a process descends from.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    /// A worker of this session.
    Worker(ProcessMark),
    /// A zygote, as its environment says.
    Zygote(String),
    None,
    /// Its environment is empty: it has ended, is in the middle of `exec`, or was started with none.
    Unreadable,
}

fn environment_mark_of(pid: Pid) -> Mark {
    let environment = std::fs::read(format!("/proc/{}/environ", as_u32(pid))).unwrap_or_default();
    mark_in(&environment)
}

fn mark_in(environment: &[u8]) -> Mark {
    if environment.is_empty() {
        return Mark::Unreadable;
    }
    let prefix = format!("{PROCESS_MARK}=");
    let mut entries = environment.split(|byte| *byte == 0);
    match entries.find_map(|entry| entry.strip_prefix(prefix.as_bytes())) {
        Some(mark) => Mark::Zygote(String::from_utf8_lossy(mark).into_owned()),
        None => Mark::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_among_other_variables() {
        assert_eq!(
            mark_in(b"A=1\0RAY_RS_ZYGOTE=/s/2\0B=\0"),
            Mark::Zygote("/s/2".to_owned())
        );
        assert_eq!(mark_in(b"A=1\0XRAY_RS_ZYGOTE=/s/2\0"), Mark::None);
        assert_eq!(mark_in(b""), Mark::Unreadable);
    }

    #[test]
    fn children_stay_where_the_setting_says_so() {
        for (setting, ends) in [
            (None, true),
            (Some("true"), true),
            (Some("1"), true),
            (Some("0"), false),
            (Some("False"), false),
        ] {
            assert_eq!(means_yes(setting), ends, "{setting:?}");
        }
    }
}
