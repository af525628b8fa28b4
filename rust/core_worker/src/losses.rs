//! Tasks that come back: from a worker that gives them up, and from one that is lost.

use std::sync::Arc;

use ray_rs_dispatch::{Event, TaskKey as DispatchKey};
use ray_rs_ownership::TaskKey;
use ray_rs_proto::v1;
use ray_rs_types::WorkerId;
use ray_rs_types::address::arena_owner;

use crate::events::WORKER_DIED;
use crate::model::{Failure, StoredValue};
use crate::peers::PeerIndex;
use crate::state::{AwaitingReport, State};
use crate::submit::Work;
use crate::telling;

impl State {
    /// The worker gave unclaimed entries back, since its current task is about to block.
    pub fn entries_returned(&mut self, lane: PeerIndex, seqs: &[u64]) {
        let mut tasks = Vec::new();
        for seq in seqs {
            if let Some(key) = self.take_in_flight(lane, *seq) {
                if let Some(spec) = self.owner.spec_mut(key) {
                    spec.sent = None;
                }
                if self.is_given_up(key) {
                    self.dispatch_gone(key);
                    self.end_cancelled(key);
                    continue;
                }
                tasks.push(DispatchKey(key.0));
            }
        }
        match self.lease_of_lane(lane) {
            Some(lease) => self.dispatch_event(Event::EntriesReturned { lease, tasks }),
            None => {
                for task in tasks {
                    self.task_ready(TaskKey(task.0));
                }
                self.run_effects();
            }
        }
    }

    // ---- loss --------------------------------------------------------------------------------------------------

    /// In flight on a lane that died: unclaimed tasks run elsewhere for free, claimed ones wait for the raylet's word.
    pub fn lost(&mut self, key: TaskKey) {
        let Some((lane, seq)) = self.owner.spec_mut(key).and_then(|spec| spec.sent.take()) else {
            return self.never_begun(key);
        };
        let claimed = self.peers.get(lane).is_none_or(|peer| peer.is_claimed(seq));
        let worker = self.peers.get(lane).map(|peer| self.peers.address(peer.who).worker_id);
        self.take_in_flight(lane, seq);
        match worker {
            Some(worker) if claimed => self.await_report(worker, key),
            _ => self.never_begun(key),
        }
    }

    fn never_begun(&mut self, key: TaskKey) {
        match self.owner.spec(key).map(|spec| spec.work) {
            Some(Work::Normal(function)) => self.enqueue(key, function, true),
            _ => self.task_ready(key),
        }
    }

    fn await_report(&mut self, worker: WorkerId, key: TaskKey) {
        if let Some(waiting) = self
            .awaiting_reports
            .iter_mut()
            .find(|waiting| waiting.worker == worker)
        {
            return waiting.tasks.push(key);
        }
        self.awaiting_reports.push(AwaitingReport {
            worker,
            tasks: vec![key],
        });
        self.ask_why_died(worker);
    }

    /// The raylet says how a process ended.
    pub fn death_reported(&mut self, report: &v1::DeathReport) {
        let Ok(worker) = WorkerId::from_bytes(&report.worker_id) else {
            return;
        };
        if let Some(who) = self.peers.find(&worker) {
            self.process_died(who);
        }
        let Some(at) = self
            .awaiting_reports
            .iter()
            .position(|waiting| waiting.worker == worker)
        else {
            return;
        };
        for key in self.awaiting_reports.swap_remove(at).tasks {
            let Some(Work::Normal(function)) = self.owner.spec(key).map(|spec| spec.work) else {
                continue;
            };
            let name = Arc::clone(&self.function(function).name);
            if self.is_given_up(key) {
                self.end_cancelled(key);
                continue;
            }
            if let Some(end) = &report.out_of_memory {
                self.ended_for_memory(key, function, end.may_retry, report);
                continue;
            }
            if report.group_removed {
                self.finish_with(key, &StoredValue::failed(Failure::GroupRemoved));
                continue;
            }
            let crash = telling::crash(&name, report);
            self.tell_of_crash(crash.clone());
            let attempt = self.owner.attempt(key);
            if self.owner.may_retry(key) {
                self.note_failed(key, attempt, WORKER_DIED, &report.detail);
                self.tell_of_retry(key, &name, None);
                self.enqueue(key, function, false);
            } else {
                self.finish_with(key, &StoredValue::failed(crash));
            }
        }
        self.run_effects();
    }

    /// The number may be another lane's from here on: nothing that was meant for this one may get there.
    fn forget_lane_number(&mut self, lane: PeerIndex) {
        for target in &mut self.actors {
            if target.lane == Some(lane) {
                target.lane = None;
            }
        }
        self.remote.forget_opening(lane);
    }

    /// A process is gone: its lanes, leases, borrows and objects.
    pub fn process_died(&mut self, who: ray_rs_ownership::OwnerIndex) {
        if who == ray_rs_ownership::OwnerIndex::ME || !self.peers.mark_dead(who) {
            return;
        }
        // It may have been killed after it had taken our sleeper's announcement and before it woke it: then no other
        // peer's ring would reach that sleeper (BELL-2).
        self.bell.wake_all();
        let lanes: Vec<PeerIndex> = (0..self.peers.lanes.len() as u32)
            .map(PeerIndex)
            .filter(|lane| self.peers.get(*lane).is_some_and(|peer| peer.who == who))
            .collect();
        for lane in &lanes {
            // What it wrote before it died counts.
            self.drain_lane(*lane, usize::MAX);
        }
        for lane in &lanes {
            if let Some(lease) = self.lease_of_lane(*lane) {
                self.leases.remove(&lease);
                let now = self.now();
                self.dispatch
                    .on_event(now, Event::LeaseDied { lease }, &mut self.dispatch_effects);
                self.run_effects();
                self.return_lease(lease, true);
            }
        }
        for lane in lanes {
            for task in self.execution.forget_lane(lane) {
                self.discard_arguments(task);
            }
            self.peers.remove(lane);
            self.forget_lane_number(lane);
        }
        self.owner.borrower_died(who, &mut self.owner_effects);
        self.arena.owner_died(arena_owner(&self.peers.address(who).worker_id));
        self.return_drained_extents();
        self.owner_gone(who);
        self.run_effects();
    }
}
