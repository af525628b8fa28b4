//! What only time tells: idle leases to give back, stalled lanes, a slow head with others waiting behind it.

use std::time::Duration;

use ray_rs_types::config::{LEASE_LINGER, STALLED_LANE};

use crate::dispatcher::Dispatcher;
use crate::event::Effect;
use crate::lease::LeaseState;
use crate::requests::SURPLUS;

/// A lease whose current task runs for so long gives half of what waits behind it to an idle one.
pub(crate) const SLOW_HEAD: Duration = Duration::from_micros(500);
/// A request that is unanswered for so long may be waiting for resources that our own idle leases hold.
pub(crate) const HUNGRY: Duration = Duration::from_millis(1);

impl Dispatcher {
    pub(crate) fn sweep(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if now < self.next_check {
            return;
        }
        self.next_check = Duration::MAX;
        for class in 0..self.classes.len() as u32 {
            self.review_requests(now, class, effects);
        }
        let hungry = self.any_hungry(now);
        for class in 0..self.classes.len() as u32 {
            self.return_idle(now, class, hungry, effects);
            self.withdraw_stalled(now, class, effects);
            self.rebalance(now, class, effects);
        }
    }

    fn review_requests(&mut self, now: Duration, class: u32, effects: &mut Vec<Effect>) {
        match self.classes[class as usize].requests.surplus_since {
            Some(since) if now >= since + SURPLUS => self.cancel_surplus(class, effects),
            Some(since) => self.check_at(since + SURPLUS),
            None => self.ask(now, class, effects),
        }
    }

    /// Whether some class has waited long for a lease. (It has no idle ones itself: `DSP-3`.)
    fn any_hungry(&mut self, now: Duration) -> bool {
        let mut any = false;
        let mut next = Duration::MAX;
        for class in &self.classes {
            if !class.queue.is_empty() && !class.requests.outstanding.is_empty() {
                let hungry_at = class.requests.waiting_since + HUNGRY;
                any |= now >= hungry_at;
                if now < hungry_at {
                    next = next.min(hungry_at);
                }
            }
        }
        if self.classes.iter().any(|class| !class.idle.is_empty()) {
            self.check_at(next);
        }
        any
    }

    fn return_idle(&mut self, now: Duration, class: u32, hungry: bool, effects: &mut Vec<Effect>) {
        while let Some(&index) = self.classes[class as usize].idle.front() {
            let lease = &self.leases[index as usize];
            let until = lease.last_progress + LEASE_LINGER;
            if now < until && !hungry {
                self.check_at(until);
                return;
            }
            effects.push(Effect::ReturnLease { lease: lease.key });
            self.drop_lease(index);
        }
    }

    fn withdraw_stalled(&mut self, now: Duration, class: u32, effects: &mut Vec<Effect>) {
        let mut stalled = false;
        for at in 0..self.classes[class as usize].leases.len() {
            let index = self.classes[class as usize].leases[at];
            let lease = &self.leases[index as usize];
            // A single task matters, too, when others wait for room beside it: it may be waiting for one of them.
            let nobody_waits = lease.in_flight.len() < 2 && self.classes[class as usize].queue.is_empty();
            if lease.state != LeaseState::Streaming || nobody_waits {
                continue;
            }
            let stalls_at = lease.last_progress + STALLED_LANE;
            if now < stalls_at {
                self.check_at(stalls_at);
                continue;
            }
            stalled = true;
            let behind = lease.in_flight.len() - 1;
            self.set_state(index, LeaseState::Stalled);
            self.withdraw_last(index, behind, effects);
        }
        if stalled {
            self.ask(now, class, effects);
        }
    }

    fn rebalance(&mut self, now: Duration, class: u32, effects: &mut Vec<Effect>) {
        let state = &self.classes[class as usize];
        if state.idle.is_empty() || state.streaming == 0 {
            return;
        }
        let several = |index: &u32| {
            let lease = &self.leases[*index as usize];
            (lease.state == LeaseState::Streaming && lease.in_flight.len() > 1).then_some(lease)
        };
        let slow = |since: Duration| now >= since + SLOW_HEAD;
        let longest = state
            .leases
            .iter()
            .filter(|index| several(index).is_some_and(|lease| slow(lease.last_progress)))
            .max_by_key(|index| self.leases[**index as usize].load)
            .copied();
        let next = state
            .leases
            .iter()
            .filter_map(several)
            .map(|lease| lease.last_progress + SLOW_HEAD)
            .min();
        if let Some(index) = longest {
            let behind = self.leases[index as usize].in_flight.len() - 1;
            self.withdraw_last(index, behind.div_ceil(2), effects);
        }
        if let Some(next) = next {
            // Someone who is slow already is looked at again after the same time.
            self.check_at(if slow(next - SLOW_HEAD) { now + SLOW_HEAD } else { next });
        }
    }
}
