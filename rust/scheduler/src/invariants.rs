//! Recounts everything that is kept twice.

use ray_rs_types::bundles::cpus_of;
use ray_rs_types::resources::{CPU, GPU};
use ray_rs_types::{Quantity, ResourceSet};

use crate::gpus::Gpus;
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
        let mut held_by_actors = ResourceSet::new();
        for holding in self.actors.values().filter_map(|hosted| hosted.holding.as_ref()) {
            held_by_actors.add(&holding.resources);
        }
        assert_eq!(
            held_by_actors, self.held_by_actors,
            "SCH-1: what actors hold is summed up"
        );
        let mut available = self.ledger.total.clone();
        available.subtract(&self.ledger.bundles.reserved());
        let mut whole = Gpus::new(self.ledger.total.get(GPU)).free().to_vec();
        for (_, _, bundle) in self.ledger.bundles.all() {
            for (device, units) in bundle.empty_gpus().free().iter().enumerate() {
                whole[device] -= units;
            }
        }
        for holding in self.holdings().filter(|holding| holding.inside.is_none()) {
            available.subtract(&holding.returns());
            for share in &holding.gpus {
                whole[share.device as usize] -= share.units;
            }
        }
        assert_eq!(
            available, self.ledger.available,
            "SCH-1: available is total less granted"
        );
        assert_eq!(
            whole,
            self.ledger.gpus.free(),
            "SCH-4: free GPU shares are what is not granted"
        );
        assert!(
            whole.iter().all(|free| *free >= 0),
            "SCH-4: no GPU is shared beyond itself"
        );
        self.check_excess(
            &available,
            |holding| holding.inside.is_none(),
            |holding| holding.resources.clone(),
        );
        self.check_bundles();
    }

    fn check_bundles(&self) {
        for (group, index, bundle) in self.ledger.bundles.all() {
            let is_here = |holding: &Holding| {
                let inside = holding.inside.as_ref();
                inside.is_some_and(|inside| inside.group == group && inside.index == Some(index))
            };
            let taken = |holding: &Holding| holding.inside.as_ref().expect("it is here").resources.clone();
            let (mut available, mut gpus) = (bundle.total().clone(), bundle.empty_gpus().free().to_vec());
            for holding in self.holdings().filter(|holding| is_here(holding)) {
                let mut held = taken(holding);
                if holding.cpu_lent {
                    held.set(CPU, Quantity::ZERO);
                }
                available.subtract(&held);
                for share in &holding.gpus {
                    gpus[share.device as usize] -= share.units;
                }
            }
            assert_eq!(
                available, bundle.available,
                "SCH-5: a bundle has what is not granted of it"
            );
            assert_eq!(gpus, bundle.gpus.free(), "SCH-4: and so it is with its GPUs");
            self.check_excess(&available, is_here, taken);
        }
        let lost = |holding: &&Holding| {
            let inside = holding.inside.as_ref();
            inside.is_some_and(|inside| !self.ledger.bundles.has(inside.group, inside.index.unwrap_or(u32::MAX)))
        };
        assert_eq!(
            self.holdings().find(lost).map(Holding::group),
            None,
            "SCH-5: what is held is there"
        );
    }

    /// Beyond zero goes only what woke from a sleep, and an actor that runs with more than it was placed with.
    fn check_excess(
        &self,
        available: &ResourceSet,
        is_here: impl Fn(&Holding) -> bool,
        taken: impl Fn(&Holding) -> ResourceSet,
    ) {
        let mut excess = ResourceSet::new();
        for lease in self
            .leases
            .values()
            .filter(|lease| lease.holding.cpu_retaken && is_here(&lease.holding))
        {
            excess.set(CPU, Quantity(excess.get(CPU).0 + lease.holding.cpu().0));
        }
        for holding in self.actors.values().filter_map(|hosted| hosted.holding.as_ref()) {
            if is_here(holding) {
                excess.add(&taken(holding));
            }
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
        self.turns.check_invariants();
        if self.waited_for.is_none() && self.admission.is_open() {
            for key in self.turns.iter() {
                let limited = cpus_of(&key.shape) == Quantity::ZERO;
                assert!(
                    limited || !self.ledger.fits(&key.shape),
                    "SCH-3: nothing waits that fits"
                );
            }
        }
    }
}
