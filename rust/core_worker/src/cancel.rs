//! Cancellation: by the owner of a task wherever the task stands, and in the worker that runs it.
//!
//! A task that has not begun ends at once. One that runs is asked to: `SIGINT` on a worker's main thread, `cancel()` of
//! an actor's coroutine, a flag for an actor's plain method. The owner marks the task meanwhile, so that whatever comes of
//! it (a reply, the end of the process, entries given back) is the end of it: a cancelled task is never run again.
//!
//! A worker interrupts a task by its number: a signal that comes late finds another number, or none, and does nothing.
//! One whose main thread has not noticed within [`GRACE`] (it is in a C function that looks for no signals) is ended.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ray_rs_dispatch::{Event, TaskKey as DispatchKey};
use ray_rs_lanes::PROGRESS;
use ray_rs_ownership::{OwnerIndex, RefSlot, TaskKey, TaskState};
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::{ObjectId, TaskId};

use crate::core::CoreWorker;
use crate::model::{Failure, HostEvent, StoredValue};
use crate::peers::{CALL_SEQ, PeerIndex};
use crate::state::State;
use crate::submit::Work;

/// From the signal to the end of a worker whose main thread takes no signals.
const GRACE: Duration = Duration::from_secs(5);

/// Why a task is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancelled {
    ByUser,
    /// Its `timeout_s` is over.
    TimedOut,
}

/// A task that runs in this process, from its start to its reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    pub lane: PeerIndex,
    pub seq: u64,
    pub unique: u64,
    /// Its number on the lane.
    pub function: u32,
    pub started: Instant,
    pub cancelled: bool,
    /// Of a generator: the items that were taken of it.
    pub consumed: u32,
}

/// What an interrupted task is given to notice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interrupted {
    unique: u64,
    until: Duration,
}

impl CoreWorker {
    /// Cancels the task that makes this object; nothing happens when it has ended, or when no task does.
    pub fn cancel(&self, slot: RefSlot, force: bool, recursive: bool) {
        self.with(|state| {
            state.drain_lanes(256);
            state.cancel(slot, force, recursive);
            state.run_effects();
        });
    }

    /// Whether the object is made by an actor's method. Known of objects owned here that are not there yet.
    pub fn is_actor_call(&self, slot: RefSlot) -> bool {
        let state = self.state.lock();
        let task = state.owner.task_of(slot);
        task.and_then(|key| state.owner.spec(key))
            .is_some_and(|spec| matches!(spec.work, Work::Call { .. }))
    }

    /// Whether this task, which runs here, was cancelled.
    pub fn is_cancelled(&self, task: TaskId) -> bool {
        let state = self.state.lock();
        let mut running = state.execution.running.iter();
        running.any(|running| running.unique == task.unique() && running.cancelled)
    }

    /// True once for a task that is to be interrupted: its thread is about to do so.
    pub fn take_interrupt(&self, task: TaskId) -> bool {
        let unique = task.unique();
        let exchange = || {
            self.interrupted
                .compare_exchange(unique, 0, Ordering::SeqCst, Ordering::SeqCst)
        };
        self.interrupted.load(Ordering::Relaxed) == unique && exchange().is_ok()
    }
}

impl State {
    pub fn cancel(&mut self, slot: RefSlot, force: bool, recursive: bool) {
        // Whoever cancels a task needs not be told that it failed.
        self.owner.seen(slot);
        if self.owner.is_ready(slot) {
            return;
        }
        let owner = self.owner.owner(slot);
        if owner != OwnerIndex::ME {
            let message = v1::CancelObject {
                object_id: self.owner.id(slot).0.to_vec(),
                force,
                recursive,
            };
            return self.send_to(owner, Kind::CancelObject, &message);
        }
        if let Some(key) = self.owner.task_of(slot) {
            self.cancel_task(key, Cancelled::ByUser, force, recursive);
        }
    }

    /// A borrower asks.
    pub fn cancel_object(&mut self, message: &v1::CancelObject) {
        let slot = ObjectId::from_bytes(&message.object_id)
            .ok()
            .and_then(|id| self.owner.find(&id));
        if let Some(slot) = slot {
            self.cancel(slot, message.force, message.recursive);
            self.run_effects();
        }
    }

    pub fn cancel_task(&mut self, key: TaskKey, why: Cancelled, force: bool, recursive: bool) {
        let Some(spec) = self.owner.spec_mut(key) else { return };
        if spec.cancelled.is_some() && !force {
            return;
        }
        spec.cancelled.get_or_insert(why);
        let (work, sent) = (spec.work, spec.sent);
        let waits = self.owner.task_state(key) == Some(TaskState::WaitingForArguments);
        match (work, sent) {
            (Work::Creation(_), _) => {}
            (Work::Group, _) => {
                self.forget_group_task(key);
                self.end_cancelled(key);
            }
            (Work::Normal(_), _) if waits => self.end_cancelled(key),
            (Work::Call { actor, .. }, None) => {
                self.call_dropped(actor, key);
                self.end_cancelled(key);
            }
            (Work::Normal(_), None) => {
                // Its worker died, and the raylet is being asked how: the answer ends it.
                if !self.awaiting_reports.iter().any(|waiting| waiting.tasks.contains(&key)) {
                    self.dispatch_gone(key);
                    self.end_cancelled(key);
                }
            }
            (Work::Normal(_), Some(at)) => {
                if self.withdraw(key) {
                    self.dispatch_gone(key);
                    self.end_cancelled(key);
                } else {
                    self.ask_to_cancel(at, force, recursive);
                }
            }
            (Work::Call { actor, .. }, Some((lane, seq))) => {
                self.ask_to_cancel((lane, seq), false, recursive);
                if why == Cancelled::TimedOut {
                    // A plain method can't be made to end: its caller goes on without it.
                    self.take_in_flight(lane, seq);
                    self.call_replied(actor, key);
                    self.end_cancelled(key);
                }
            }
        }
    }

    fn ask_to_cancel(&mut self, (lane, seq): (PeerIndex, u64), force: bool, recursive: bool) {
        let message = v1::CancelTask { seq, force, recursive };
        self.send_on(lane, Kind::CancelTask, &message, PROGRESS);
    }

    pub fn dispatch_gone(&mut self, key: TaskKey) {
        let now = self.now();
        let event = Event::TaskGone {
            task: DispatchKey(key.0),
        };
        self.dispatch.on_event(now, event, &mut self.dispatch_effects);
    }

    /// What a task that was given up has come to.
    pub fn end_cancelled(&mut self, key: TaskKey) {
        let Some(spec) = self.owner.spec(key) else { return };
        let failure = Failure::Cancelled {
            task_id: self.task_id_of(spec),
            timed_out: spec.cancelled == Some(Cancelled::TimedOut),
        };
        self.finish_with(key, &StoredValue::failed(failure));
    }

    pub fn is_given_up(&self, key: TaskKey) -> bool {
        self.owner.spec(key).is_some_and(|spec| spec.cancelled.is_some())
    }

    // ---- time limits -------------------------------------------------------------------------------------------

    /// Cancels the tasks whose time is over.
    pub fn cancel_overdue(&mut self, now: Duration) {
        while let Some(std::cmp::Reverse((at, key, unique))) = self.time_limits.peek().copied()
            && at <= now
        {
            self.time_limits.pop();
            let key = TaskKey(key);
            // The key may be another task's by now.
            if self.owner.spec(key).is_some_and(|spec| spec.unique == unique)
                && self.owner.task_state(key) != Some(TaskState::Lineage)
            {
                self.cancel_task(key, Cancelled::TimedOut, false, true);
            }
        }
    }

    // ---- in the worker -----------------------------------------------------------------------------------------

    pub fn cancel_asked(&mut self, lane: PeerIndex, message: &v1::CancelTask) {
        if self.execution.take_queued(lane, message.seq) {
            // An actor's call, or an entry that its owner has just failed to withdraw. (Claimed, so that it counts once.)
            let claimed =
                message.seq & CALL_SEQ != 0 || self.peers.get_mut(lane).is_some_and(|peer| peer.claim(message.seq));
            if claimed {
                self.reply_not_run(lane, message.seq);
            }
            return;
        }
        let is_it = |running: &&mut Running| running.lane == lane && running.seq == message.seq;
        let Some(running) = self.execution.running.iter_mut().find(is_it) else {
            return;
        };
        running.cancelled = true;
        let unique = running.unique;
        if message.recursive {
            for child in self.owner.unfinished(|spec| spec.parent == unique) {
                self.cancel_task(child, Cancelled::ByUser, message.force, true);
            }
            self.run_effects();
        }
        let is_call = message.seq & CALL_SEQ != 0;
        if message.force && !is_call {
            self.after.die = true;
            return;
        }
        if !is_call {
            self.interrupted.store(unique, Ordering::SeqCst);
            self.execution.interrupted = Some(Interrupted {
                unique,
                until: self.now() + GRACE,
            });
        }
        self.after.host.push(HostEvent::TaskCancelled { unique, is_call });
    }

    fn reply_not_run(&mut self, lane: PeerIndex, seq: u64) {
        let reply = v1::TaskReply {
            seq,
            status: 5,
            ..v1::TaskReply::default()
        };
        self.send_on(lane, Kind::TaskReply, &reply, PROGRESS);
    }

    /// A task has ended here: nothing is left to interrupt.
    pub fn no_longer_running(&mut self, lane: PeerIndex, seq: u64) {
        let running = &mut self.execution.running;
        if let Some(at) = running.iter().position(|one| one.lane == lane && one.seq == seq) {
            let ended = running.swap_remove(at);
            if ended.cancelled {
                let _ = self
                    .interrupted
                    .compare_exchange(ended.unique, 0, Ordering::SeqCst, Ordering::SeqCst);
                self.execution.interrupted = None;
            }
            if !self.awaits.lending.is_idle() {
                self.awaiting_task_ended(ended.unique);
            }
        }
    }

    pub fn interrupt_deadline(&self) -> Option<Duration> {
        self.execution.interrupted.map(|interrupted| interrupted.until)
    }

    /// Ends this process when the task that it was to interrupt takes no notice.
    pub fn end_if_deaf(&mut self, now: Duration) {
        let Some(interrupted) = self.execution.interrupted else {
            return;
        };
        if self.interrupted.load(Ordering::SeqCst) != interrupted.unique {
            self.execution.interrupted = None;
        } else if interrupted.until <= now {
            self.after.die = true;
        }
    }
}
