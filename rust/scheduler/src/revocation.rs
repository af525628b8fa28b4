//! When a lease is asked back: a request waits, and a queue that has more than its share has held it for a while; or it
//! was granted ahead of need, and somebody else needs something.

use std::time::Duration;

use ray_rs_types::{Quantity, ResourceSet};
use rustc_hash::FxHashSet;

use crate::effect::Effect;
use crate::event::LeaseKey;
use crate::queue::QueueKey;
use crate::scheduler::{Scheduler, Use};

impl Scheduler {
    pub(crate) fn ask_leases_back(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.turns.is_empty() || self.leases.is_empty() {
            return;
        }
        // Few, however many sleeping tasks hold a lease: theirs have lent their CPUs and would free nothing a task wants.
        let awake: Vec<LeaseKey> = self
            .leases
            .iter()
            .filter(|(_, lease)| !lease.revoked && !lease.holding.cpu_lent)
            .map(|(key, _)| *key)
            .collect();
        if awake.is_empty() {
            return;
        }
        // Beyond what is free: what comes when every lease asked back so far has been returned, less what the queues before
        // claim of it.
        let mut coming = ResourceSet::new();
        let groups: FxHashSet<_> = self.turns.iter().filter_map(|key| key.shape.group()).collect();
        for group in groups {
            coming.add(&self.ledger.bundles.available_by_name(group));
        }
        for lease in self.leases.values().filter(|lease| lease.revoked) {
            coming.add(&lease.holding.returns());
        }
        let mut first_due = self.earliest_due(&awake);
        for index in 0..self.turns.len() {
            // The rest could change nothing: all are asked back, or the first of them will be as soon as it may.
            let Some(due) = first_due else { break };
            if due > now && self.deadline.is_some_and(|deadline| deadline <= due) {
                break;
            }
            let key = self.turns.get(index).expect("nothing here changes the turns").clone();
            if self.ledger.fits(&key.shape) || !self.could_fit(&key.shape) {
                continue;
            }
            while !self.will_cover(&coming, &key.shape) {
                let Some(lease) = self.pick_lease_to_revoke(now, &key, &coming, &awake) else {
                    break;
                };
                coming.add(&self.leases[&lease].holding.returns());
                self.revoke(lease, effects);
                first_due = self.earliest_due(&awake);
            }
            coming.subtract(&key.shape);
        }
    }

    /// When the first of those leases that are not asked back yet may be.
    fn earliest_due(&self, awake: &[LeaseKey]) -> Option<Duration> {
        let open = awake.iter().map(|key| &self.leases[key]).filter(|lease| !lease.revoked);
        open.map(|lease| lease.granted_at + self.options.revoke_after).min()
    }

    /// What will be free of a resource, if so much is coming.
    fn will_be_free(&self, coming: &ResourceSet, name: &str) -> Quantity {
        Quantity(self.ledger.available.get(name).0 + coming.get(name).0)
    }

    fn will_cover(&self, coming: &ResourceSet, demand: &ResourceSet) -> bool {
        (demand.iter()).all(|(name, amount)| self.will_be_free(coming, name) >= amount)
    }

    /// Whoever wants anything else has a better right to a worker than a client that only might have a task.
    pub(crate) fn ask_unused_back(&mut self, wanted: &QueueKey, effects: &mut Vec<Effect>) {
        let unused = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.usage == Use::None && !lease.revoked && lease.queue != *wanted);
        let unused: Vec<LeaseKey> = unused.map(|(key, _)| *key).collect();
        for key in unused {
            self.revoke(key, effects);
        }
    }

    /// The node is about to leave: clients finish what runs and push no more. What is granted all the same is left alone for
    /// a while, so that a process is not started for each task.
    pub(crate) fn ask_all_back(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut due: Vec<LeaseKey> = Vec::new();
        let mut next: Option<Duration> = None;
        for (key, lease) in self.leases.iter().filter(|(_, lease)| !lease.revoked) {
            let at = lease.granted_at + self.options.drain_lease;
            if at <= now || lease.usage == Use::None {
                due.push(*key);
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        due.sort_unstable();
        for key in due {
            self.revoke(key, effects);
        }
        if let Some(at) = next {
            self.look_again(at);
        }
    }

    fn revoke(&mut self, key: LeaseKey, effects: &mut Vec<Effect>) {
        let lease = self.leases.get_mut(&key).expect("the caller has looked it up");
        lease.revoked = true;
        effects.push(Effect::RevokeLease {
            client: lease.client,
            lease: key,
        });
        let queue = self.queues.get_mut(&lease.queue);
        queue.expect("a queue lives as long as its leases").revoked += 1;
    }

    /// The longest held lease of the queue that has most, if that queue has more than its share.
    fn pick_lease_to_revoke(
        &mut self,
        now: Duration,
        waiting: &QueueKey,
        coming: &ResourceSet,
        awake: &[LeaseKey],
    ) -> Option<LeaseKey> {
        let has = self.queues[waiting].keeps();
        let mut best: Option<(usize, std::cmp::Reverse<Duration>, std::cmp::Reverse<LeaseKey>)> = None;
        let mut next_due: Option<Duration> = None;
        for key in awake {
            let lease = &self.leases[key];
            if lease.revoked || lease.queue == *waiting {
                continue;
            }
            let keeps = self.queues[&lease.queue].keeps();
            if keeps <= has + usize::from(has > 0) {
                continue;
            }
            let helps = (lease.holding.resources.iter())
                .any(|(name, _)| waiting.shape.get(name) > self.will_be_free(coming, name).max(Quantity::ZERO));
            if !helps {
                continue;
            }
            let due = lease.granted_at + self.options.revoke_after;
            if due > now {
                next_due = Some(next_due.map_or(due, |next| next.min(due)));
                continue;
            }
            let candidate = (keeps, std::cmp::Reverse(lease.granted_at), std::cmp::Reverse(*key));
            best = best.max(Some(candidate));
        }
        match (best, next_due) {
            (Some((_, _, lease)), _) => Some(lease.0),
            (None, Some(due)) => {
                self.look_again(due);
                None
            }
            (None, None) => None,
        }
    }
}
