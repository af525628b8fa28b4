//! Exit statuses of children, and orphans.
//!
//! The raylet is a subreaper: a process whose parent has ended becomes its child. Programs that a dead worker had
//! started are found that way and ended. They are told apart by the mark in their environment (which zygote they
//! descend from) and by their process group; one that has made itself a session of its own is left alone until the job
//! ends, and ends with it.

use std::time::{Duration, Instant};

use ray_rs_transport::session::PROCESS_MARK;
use rustix::process::{Pid, Signal, WaitOptions, getpgid, getpid, kill_process, wait};

use crate::gcs_process::GcsProcess;
use crate::input::ZygoteKey;
use crate::raylet::Raylet;
use crate::timers::Timer;
use crate::workers::raw_status;
use crate::zygote::Zygote;

/// At the end of the session all processes must be gone by then.
const END_LIMIT: Duration = Duration::from_secs(1);
/// A process in the middle of `exec` shows no mark; it is looked at again, a few times.
const LOOKS_AT_ORPHANS: u32 = 10;
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(10);

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

    /// Ends what carries the mark of a job that has ended. Each process that ends may leave orphans in turn: their end
    /// calls this again, until nothing with such a mark is left.
    pub fn end_orphans(&mut self) {
        if self.marks_to_end.is_empty() {
            return;
        }
        let workers = self.worker_pids();
        let mut found = Vec::new();
        let mut unreadable = false;
        for pid in orphans(&workers, &self.zygote_pids()) {
            match mark_of(pid) {
                Mark::Of(mark) if self.marks_to_end.iter().any(|(known, _)| *known == mark) => {
                    let _ = kill_process(pid, Signal::KILL);
                    found.push(mark);
                }
                Mark::Of(_) | Mark::None => {}
                Mark::Unreadable => unreadable = true,
            }
        }
        let look_again = unreadable && self.looks_at_orphans < LOOKS_AT_ORPHANS;
        if look_again {
            self.looks_at_orphans += 1;
            self.timers
                .set(Instant::now() + PAUSE_BETWEEN_LOOKS, Timer::LookAtOrphans);
        }
        // A mark whose workers and orphans are gone is done with.
        let workers = &self.workers;
        self.marks_to_end.retain(|(mark, job)| {
            look_again || found.contains(mark) || workers.values().any(|worker| worker.pool.job == *job)
        });
    }

    /// Ends what a dead worker had started.
    pub fn end_orphans_of(&mut self, worker_pid: u32, zygote: ZygoteKey) {
        let Some(zygote) = self.all_zygotes().find(|known| known.key == zygote) else {
            return self.end_orphans();
        };
        for pid in orphans(&self.worker_pids(), &self.zygote_pids()) {
            let Ok(group) = getpgid(Some(pid)) else { continue };
            // The worker's number is that of its group, and nobody else's as long as the group has members. No mark is
            // asked for: a process in the middle of `exec` shows none.
            let is_its = as_u32(group) == worker_pid
                || group == zygote.pid && matches!(mark_of(pid), Mark::Of(mark) if mark == zygote.mark);
            if is_its {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
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
fn orphans(workers: &rustc_hash::FxHashSet<u32>, zygotes: &[Pid]) -> Vec<Pid> {
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

/// Which zygote a process descends from.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Of(String),
    None,
    /// Its environment is empty: it has ended, is in the middle of `exec`, or was started with none.
    Unreadable,
}

fn mark_of(pid: Pid) -> Mark {
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
        Some(mark) => Mark::Of(String::from_utf8_lossy(mark).into_owned()),
        None => Mark::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_among_other_variables() {
        assert_eq!(mark_in(b"A=1\0RAY_RS_ZYGOTE=/s/2\0B=\0"), Mark::Of("/s/2".to_owned()));
        assert_eq!(mark_in(b"A=1\0XRAY_RS_ZYGOTE=/s/2\0"), Mark::None);
        assert_eq!(mark_in(b""), Mark::Unreadable);
    }
}
