//! Recounts every index from scratch.

use crate::dispatcher::Dispatcher;
use crate::function::ALONE;
use crate::lease::LeaseState;
use crate::queue::TaskPlace;
use ray_rs_types::config::MAX_IN_FLIGHT;

impl Dispatcher {
    /// Panics with the name of the invariant that does not hold. Slow: for tests.
    pub fn check_invariants(&self) {
        let mut seen = vec![0u32; self.tasks.len()];
        for (number, class) in self.classes.iter().enumerate() {
            let mut queued = 0;
            for task in class.queue.iter(&self.tasks) {
                seen[task.0 as usize] += 1;
                queued += 1;
                assert_eq!(
                    self.tasks[task.0 as usize].class as usize, number,
                    "DSP-1: in the queue of its class"
                );
            }
            assert_eq!(queued, class.queue.len(), "DSP-1: the queue counts its living entries");
            let count = |state| {
                class
                    .leases
                    .iter()
                    .filter(|&&index| self.leases[index as usize].state == state)
                    .count()
            };
            assert_eq!(
                count(LeaseState::Streaming),
                class.streaming,
                "count of streaming leases"
            );
            assert_eq!(count(LeaseState::Idle), class.idle.len(), "count of idle leases");
            assert!(
                class.queue.is_empty() || class.idle.is_empty(),
                "DSP-3: queued tasks and an idle lease"
            );
            assert!(
                class.requests.outstanding.len() <= self.max_leases_hint,
                "DSP-5: too many requests"
            );
            for &index in &class.leases {
                assert_eq!(
                    self.leases[index as usize].class as usize, number,
                    "a lease has one class"
                );
            }
            for &index in &class.idle {
                assert_eq!(
                    self.leases[index as usize].state,
                    LeaseState::Idle,
                    "an idle lease among the idle ones"
                );
            }
        }
        let held: usize = self.classes.iter().map(|class| class.leases.len()).sum();
        assert_eq!(held, self.lease_index.len(), "every lease has one class");
        assert_eq!(
            held + self.free_leases.len(),
            self.leases.len(),
            "every place of the slab is held or free"
        );
        for (key, &index) in &self.lease_index {
            let lease = &self.leases[index as usize];
            assert_eq!(lease.key, *key, "a lease is found by its key");
            let mut load = 0;
            for task in &lease.in_flight {
                seen[task.0 as usize] += 1;
                let slot = &self.tasks[task.0 as usize];
                assert!(slot.in_flight() && slot.lease == index, "DSP-1: in flight here");
                load += slot.charge;
            }
            assert_eq!(load, lease.load, "DSP-2: the load is the sum of the charges");
            assert!(
                load <= ALONE && lease.in_flight.len() <= MAX_IN_FLIGHT,
                "DSP-2: window exceeded"
            );
            let empty = lease.in_flight.is_empty();
            assert_eq!(
                empty,
                lease.state == LeaseState::Idle,
                "DSP-6: {key:?} is {:?}",
                lease.state
            );
        }
        for (task, slot) in self.tasks.iter().enumerate() {
            let places = u32::from(slot.place != TaskPlace::Unknown);
            assert_eq!(seen[task], places, "DSP-1: task {task} is {:?}", slot.place);
        }
    }
}
