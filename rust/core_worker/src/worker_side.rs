//! What a worker's executor asks of the core worker: tasks to run, what came of them, and how to sleep for the next.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ray_rs_lanes::{EXEC, PROGRESS};
use ray_rs_proto::v1;

use crate::core::{CoreWorker, Interrupt};
use crate::execute::Group;
use crate::executing::{EXECUTING, EXECUTING_NORMAL, note_executing};
use crate::model::*;
use crate::objects::Rester;

impl CoreWorker {
    /// From here on several threads take calls, each those of its own concurrency group if the actor has any.
    pub fn use_threads(&self, has_groups: bool) {
        self.with(|state| {
            state.execution.has_threads = true;
            state.execution.has_groups = has_groups;
        });
    }

    /// What to do next, without waiting.
    pub fn try_next_task(&self) -> Option<Next> {
        self.try_next_task_of(None)
    }

    /// The same for one concurrency group of the actor hosted here.
    pub fn try_next_task_of(&self, group: Group<'_>) -> Option<Next> {
        if self.is_forked() {
            return Some(Next::Exit {
                graceful: true,
                reason: "this process was forked by a worker and is none itself".to_owned(),
            });
        }
        let next = self.with(|state| {
            if !state.has_work_for(group) {
                state.drain_lanes(64);
            }
            state.pop_next(group)
        });
        note_executing(&next);
        next
    }

    /// Waits for what to do next. Any number of threads may.
    pub fn next_task(&self, max_wait: Option<Duration>, interrupt: Interrupt<'_>) -> Next {
        self.next_task_of(None, max_wait, interrupt)
    }

    /// The same for one concurrency group of the actor hosted here.
    pub fn next_task_of(&self, group: Group<'_>, max_wait: Option<Duration>, interrupt: Interrupt<'_>) -> Next {
        let began = std::time::Instant::now();
        loop {
            if let Some(next) = self.try_next_task_of(group) {
                return next;
            }
            if self.closed.load(Ordering::Relaxed) {
                return Next::Exit {
                    graceful: false,
                    reason: "the session ended".to_owned(),
                };
            }
            let mut slice = Duration::from_secs(3600);
            if let Some(limit) = max_wait {
                let left = limit.saturating_sub(began.elapsed());
                if left.is_zero() {
                    return Next::Nothing;
                }
                slice = slice.min(left);
            }
            let woke = self.hold_or_park(EXEC | PROGRESS, slice, Rester::Executor(group));
            if woke == crate::objects::Rested::Interrupted && interrupt() {
                return Next::Nothing;
            }
        }
    }

    /// `error_text`: of a task that failed, what a listing shows of its error.
    pub fn finish(
        &self,
        task: ExecTask,
        status: TaskStatus,
        returns: Vec<StoredValue>,
        error_text: String,
        exiting: bool,
    ) {
        EXECUTING_NORMAL.set(false);
        EXECUTING.set(0);
        self.with(|state| state.finish(task, status, returns, error_text, exiting));
        if exiting {
            self.flush_answers();
        }
    }

    /// The process is about to end: answers must be out of our own memory.
    pub(crate) fn flush_answers(&self) {
        while self.with(|state| {
            state.drain_lanes(16);
            state.peers.backlog > 0
        }) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        self.flush_pipes();
    }

    /// This worker is to end after the task that it is about to finish. False: it may do so at once. Else it owns what others
    /// need: it takes no more work, and [`Next::Exit`] comes when it owns nothing any more.
    pub fn retire(&self, reason: &str) -> bool {
        self.with(|state| {
            if !state.owner.owns_any() {
                return false;
            }
            state.retires = Some(reason.to_owned());
            state.tell_raylet(v1::to_raylet::Body::Retires(v1::Retires {}));
            true
        })
    }

    /// Spins, as far as policy allows, until there is something to run.
    pub fn spin_for_exec(&self) -> bool {
        let probes = self.with(|state| {
            state.ring_callers();
            Arc::clone(&state.peers.probes)
        });
        // Another thread that has it spins already, or sleeps on the doorbell; it takes what comes out of the lanes.
        let Some(mut spinner) = self.spinner.try_lock() else {
            return false;
        };
        if !spinner.is_on() {
            return false;
        }
        spinner.spin_until(|| probes.iter().any(|probe| probe.has_data()))
    }

    pub fn task_count_waiting(&self) -> usize {
        self.state.lock().execution.waiting()
    }

    pub fn actor_started(&self, error: Option<Vec<u8>>, message: String) {
        EXECUTING.set(0);
        if self.is_forked() {
            return;
        }
        self.with(|state| state.actor_started(error, message));
    }

    /// `exit_actor`: the control store knows before any caller can see the process end.
    pub fn actor_exiting(&self, message: String) {
        let actor = self.state.lock().execution.actor;
        if let Some((actor_id, _)) = actor {
            let message = v1::ReportActorExitRequest {
                actor_id: actor_id.0.to_vec(),
                message,
            };
            let _ = self.gcs_call("ReportActorExit", prost::Message::encode_to_vec(&message), &mut || {
                false
            });
        }
    }
}
