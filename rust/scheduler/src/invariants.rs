//! Recounts everything that is kept twice.

use ray_rs_types::resources::CPU;
use ray_rs_types::{Quantity, ResourceSet};

use crate::ledger::Holding;
use crate::queue::Wanted;
use crate::scheduler::{Scheduler, WorkerState};

impl Scheduler {
    /// # Panics
    /// With the name of the promise that is broken.
    pub fn check_invariants(&self) {
        self.check_resources();
        self.check_workers();
        self.check_queues();
    }

    fn holdings(&self) -> impl Iterator<Item = &Holding> {
        let leases = self.leases.values().map(|lease| &lease.holding);
        let waiting = self.awaiting_workers().map(|waiting| &waiting.holding);
        leases
            .chain(waiting)
            .chain(self.actors.values().filter_map(|hosted| hosted.holding.as_ref()))
    }

    fn check_resources(&self) {
        let mut available = self.ledger.total.clone();
        let mut gpus = crate::gpus::Gpus::new(available.get(ray_rs_types::resources::GPU))
            .free()
            .to_vec();
        for holding in self.holdings() {
            available.subtract(&holding.returns());
            for share in &holding.gpus {
                gpus[share.device as usize] -= share.units;
            }
        }
        assert_eq!(
            available, self.ledger.available,
            "SCH-1: available is total less granted"
        );
        assert_eq!(
            gpus,
            self.ledger.gpus.free(),
            "SCH-4: free GPU shares are what is not granted"
        );
        assert!(
            gpus.iter().all(|free| *free >= 0),
            "SCH-4: no GPU is shared beyond itself"
        );

        // Beyond zero goes only what woke from a sleep, and an actor that runs with more than it was placed with.
        let mut excess = ResourceSet::new();
        for lease in self.leases.values().filter(|lease| lease.holding.cpu_retaken) {
            excess.set(CPU, Quantity(excess.get(CPU).0 + lease.holding.cpu().0));
        }
        for hosted in self.actors.values().filter(|hosted| hosted.worker.is_some()) {
            excess.add(&hosted.demand.running);
        }
        for (name, amount) in available.iter() {
            assert!(
                amount.0 >= -excess.get(name).0,
                "SCH-1: {name} is granted beyond what the node has"
            );
        }
    }

    fn check_workers(&self) {
        let idle: usize = self.pools.values().map(|pool| pool.idle.len()).sum();
        let mut seen_idle = 0;
        for (key, worker) in &self.workers {
            let pool = &self.pools[&worker.pool];
            match worker.state {
                WorkerState::Idle { .. } => {
                    seen_idle += 1;
                    assert!(pool.idle.contains(key), "SCH-2: an idle worker is listed");
                }
                WorkerState::Leased(lease) => {
                    let lease = &self.leases[&lease];
                    assert_eq!(lease.worker, *key, "SCH-2: one lease, one worker");
                    assert_ne!(lease.client, worker.client, "SCH-2: nobody leases itself");
                }
                WorkerState::Actor(actor) => {
                    assert_eq!(self.actors[&actor].worker, Some(*key), "SCH-2: one actor, one worker");
                }
                WorkerState::Leaving => {}
            }
        }
        assert_eq!(idle, seen_idle, "SCH-2: the idle lists hold idle workers only");
        for (key, pool) in &self.pools {
            let count = self.workers.values().filter(|worker| worker.pool == *key).count();
            assert_eq!(pool.workers, count, "SCH-2: a pool counts its workers");
            assert!(
                pool.awaiting
                    .iter()
                    .all(|waiting| self.pick_idle(*key, &waiting.item.wanted).is_none()),
                "SCH-2: nobody waits beside an idle worker that is not its own"
            );
            assert!(
                pool.awaiting.is_empty()
                    || pool.starts.under_way > 0
                    || pool.starts.is_paused() && self.deadline.is_some(),
                "SCH-3: who waits for a worker gets one started, now or after a pause"
            );
        }
        for (key, lease) in &self.leases {
            assert_eq!(
                self.workers[&lease.worker].state,
                WorkerState::Leased(*key),
                "SCH-2: one lease, one worker"
            );
            assert!(
                self.clients.contains_key(&lease.client),
                "SCH-2: a lease's client is connected"
            );
        }
        for (actor, hosted) in &self.actors {
            assert_eq!(
                hosted.worker.is_some(),
                hosted.holding.is_some(),
                "SCH-2: a placed actor holds resources"
            );
            if let Some(worker) = hosted.worker {
                assert_eq!(
                    self.workers[&worker].state,
                    WorkerState::Actor(*actor),
                    "SCH-2: one actor, one worker"
                );
            }
        }
    }

    fn check_queues(&self) {
        for (key, queue) in &self.queues {
            let held = self.leases.values().filter(|lease| lease.queue == *key).count()
                + self.awaiting_workers().filter(|waiting| waiting.queue == *key).count();
            assert_eq!(queue.held, held, "SCH-3: a queue counts what it holds");
            let revoked = self
                .leases
                .values()
                .filter(|lease| lease.queue == *key && lease.revoked)
                .count();
            assert_eq!(queue.revoked, revoked, "SCH-3: a queue counts what was asked back");
            assert!(!queue.is_forgettable(), "SCH-3: empty queues are forgotten");
            let turns = self.turns.iter().filter(|turn| *turn == key).count();
            assert_eq!(
                turns,
                usize::from(!queue.items.is_empty()),
                "SCH-3: a queue with items has one turn"
            );
            for item in &queue.items {
                match item.wanted {
                    Wanted::Lease(client, _) => {
                        assert!(self.clients.contains_key(&client), "SCH-3: who waits is connected");
                    }
                    Wanted::Actor(actor) => assert!(
                        self.actors[&actor].worker.is_none(),
                        "SCH-3: a placed actor does not wait"
                    ),
                }
            }
        }
        if self.waited_for.is_none() && self.admission.is_open() {
            for key in &self.turns {
                let limited = key.shape.get(CPU) == Quantity::ZERO;
                assert!(
                    limited || !self.ledger.fits(&key.shape),
                    "SCH-3: nothing waits that fits"
                );
            }
        }
    }
}
