//! Which lease takes a task, and what happens to a lease when tasks come and leave.

use std::time::Duration;

use ray_rs_types::config::{LEASE_LINGER, STALLED_LANE, WAKE_WORK};

use crate::dispatcher::Dispatcher;
use crate::event::{Effect, LeaseKey, TaskKey};
use crate::function::ALONE;
use crate::lease::{Lease, LeaseState};
use crate::queue::TaskPlace;
use crate::sweep::{HUNGRY, SLOW_HEAD};

impl Dispatcher {
    /// The index of `lease` if `task` is in flight on it.
    pub(crate) fn lease_of(&self, task: TaskKey, lease: LeaseKey) -> Option<u32> {
        let slot = self.tasks.get(task.0 as usize)?;
        (slot.in_flight() && self.leases[slot.lease as usize].key == lease).then_some(slot.lease)
    }

    /// The lease that should run a task of that charge now: one that runs so little before it that no other would have
    /// begun it sooner, else the idle one used last, else the least loaded one with room. One whose current task takes its
    /// time is no such: what was taken back from it would go there again.
    pub(crate) fn best_lease(&self, now: Duration, class: u32, charge: u32) -> Option<u32> {
        let class = &self.classes[class as usize];
        let idle = class.idle.back().copied();
        if charge == ALONE || class.streaming == 0 {
            return idle;
        }
        let streaming = class.leases.iter().copied().filter(|&index| {
            let lease = &self.leases[index as usize];
            lease.state == LeaseState::Streaming && lease.takes(charge)
        });
        let least = streaming.min_by_key(|&index| self.leases[index as usize].load);
        let is_short = |index: &u32| {
            let lease = &self.leases[*index as usize];
            lease.load < WAKE_WORK.as_nanos() as u32 && now < lease.last_progress + SLOW_HEAD
        };
        least.filter(is_short).or(idle).or(least)
    }

    pub(crate) fn push(&mut self, now: Duration, index: u32, task: TaskKey, charge: u32, effects: &mut Vec<Effect>) {
        let lease = &mut self.leases[index as usize];
        if lease.in_flight.is_empty() {
            lease.last_progress = now;
            let class = &mut self.classes[lease.class as usize];
            if lease.state == LeaseState::Idle && class.idle.back() == Some(&index) {
                class.idle.pop_back();
            }
            self.set_state(
                index,
                if charge == ALONE {
                    LeaseState::Alone
                } else {
                    LeaseState::Streaming
                },
            );
        } else {
            // May be past: then the next tick finds that this worker should not have been trusted with more.
            let an_idle_one_helps = !self.classes[lease.class as usize].idle.is_empty();
            let stalls_at = lease.last_progress + if an_idle_one_helps { SLOW_HEAD } else { STALLED_LANE };
            self.check_at(stalls_at);
        }
        let lease = &mut self.leases[index as usize];
        lease.load += charge;
        lease.in_flight.push_back(task);
        let slot = &mut self.tasks[task.0 as usize];
        slot.place = TaskPlace::InFlight;
        slot.lease = index;
        slot.charge = charge;
        effects.push(Effect::Push {
            lease: self.leases[index as usize].key,
            task,
        });
    }

    /// Gives queued tasks to any lease that has room.
    pub(crate) fn place_queued(&mut self, now: Duration, class: u32, effects: &mut Vec<Effect>) {
        while let Some((task, charge)) = self.head(class) {
            let Some(lease) = self.best_lease(now, class, charge) else {
                break;
            };
            self.classes[class as usize].queue.pop();
            self.push(now, lease, task, charge, effects);
        }
    }

    /// A lease lost entries or is new: returns it if it was wanted back, fills it from the queue, or lets it be idle.
    pub(crate) fn settle(&mut self, now: Duration, index: u32, effects: &mut Vec<Effect>) {
        let Lease { key, class, .. } = self.leases[index as usize];
        if self.leases[index as usize].in_flight.is_empty() {
            match self.leases[index as usize].state {
                LeaseState::Revoked => {
                    self.drop_lease(index);
                    effects.push(Effect::ReturnLease { lease: key });
                    self.ask(now, class, effects);
                    return;
                }
                LeaseState::Idle => {}
                LeaseState::Alone | LeaseState::Streaming | LeaseState::Stalled | LeaseState::Blocked => {
                    self.set_state(index, LeaseState::Idle);
                }
            }
        }
        while let Some((task, charge)) = self.head(class) {
            if !self.leases[index as usize].takes(charge) {
                break;
            }
            self.classes[class as usize].queue.pop();
            self.push(now, index, task, charge, effects);
        }
        if self.leases[index as usize].state == LeaseState::Idle {
            self.rest(now, index);
        }
        self.ask(now, class, effects);
    }

    /// Puts a lease that runs nothing among the idle ones.
    pub(crate) fn rest(&mut self, now: Duration, index: u32) {
        let lease = &mut self.leases[index as usize];
        lease.last_progress = now;
        let class = &mut self.classes[lease.class as usize];
        class.idle.push_back(index);
        let others_run = class.streaming > 0;
        let look_again = if others_run {
            SLOW_HEAD
        } else if self.classes.iter().any(|class| !class.requests.outstanding.is_empty()) {
            HUNGRY
        } else {
            LEASE_LINGER
        };
        self.check_at(now + look_again);
    }

    pub(crate) fn head(&mut self, class: u32) -> Option<(TaskKey, u32)> {
        let task = self.classes[class as usize].queue.head(&self.tasks)?;
        let function = self.tasks[task.0 as usize].function;
        Some((task, self.functions[function as usize].charge))
    }

    /// Removes a task in flight from its lease; its new place is for the caller to set if it is not `Unknown`.
    pub(crate) fn take_from_lease(&mut self, index: u32, task: TaskKey) {
        let slot = &mut self.tasks[task.0 as usize];
        slot.place = TaskPlace::Unknown;
        let lease = &mut self.leases[index as usize];
        lease.load -= slot.charge;
        // Finished tasks leave at the front and withdrawn ones at the back; only odd cases search.
        if lease.in_flight.front() == Some(&task) {
            lease.in_flight.pop_front();
        } else if lease.in_flight.back() == Some(&task) {
            lease.in_flight.pop_back();
        } else {
            let at = lease
                .in_flight
                .iter()
                .position(|&other| other == task)
                .expect("DSP-1: in flight on its lease");
            lease.in_flight.remove(at);
        }
    }

    /// Orders the withdrawal of all entries but the first `keep`, last ones first: the worker comes from the other end.
    pub(crate) fn withdraw_behind(&mut self, index: u32, keep: usize, effects: &mut Vec<Effect>) {
        let lease = &self.leases[index as usize];
        for &task in lease.in_flight.range(keep.min(lease.in_flight.len())..).rev() {
            let slot = &mut self.tasks[task.0 as usize];
            if slot.place == TaskPlace::InFlight {
                slot.place = TaskPlace::Withdrawing;
                effects.push(Effect::Withdraw { lease: lease.key, task });
            }
        }
    }

    pub(crate) fn withdraw_last(&mut self, index: u32, count: usize, effects: &mut Vec<Effect>) {
        let length = self.leases[index as usize].in_flight.len();
        self.withdraw_behind(index, length - count.min(length), effects);
    }

    pub(crate) fn set_state(&mut self, index: u32, state: LeaseState) {
        let lease = &mut self.leases[index as usize];
        let class = &mut self.classes[lease.class as usize];
        class.streaming += usize::from(state == LeaseState::Streaming);
        class.streaming -= usize::from(lease.state == LeaseState::Streaming);
        lease.state = state;
    }

    /// Forgets a lease with nothing in flight.
    pub(crate) fn drop_lease(&mut self, index: u32) {
        self.set_state(index, LeaseState::Idle);
        let lease = &mut self.leases[index as usize];
        lease.load = 0;
        self.lease_index.remove(&lease.key);
        let class = &mut self.classes[lease.class as usize];
        class.leases.retain(|&other| other != index);
        class.idle.retain(|&other| other != index);
        self.free_leases.push(index);
    }

    pub(crate) fn check_at(&mut self, at: Duration) {
        self.next_check = self.next_check.min(at);
    }
}
