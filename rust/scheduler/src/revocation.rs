//! When a lease is asked back: a request waits, and a queue that has more than its share has held it for a while.

use std::time::Duration;

use ray_rs_types::{Quantity, ResourceSet};

use crate::effect::Effect;
use crate::event::LeaseKey;
use crate::queue::QueueKey;
use crate::scheduler::Scheduler;

impl Scheduler {
    pub(crate) fn ask_leases_back(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.turns.is_empty() || self.leases.is_empty() {
            return;
        }
        // What will be free when every lease asked back so far has been returned; waiting queues claim it in turn.
        let mut coming = self.ledger.available.clone();
        for lease in self.leases.values().filter(|lease| lease.revoked) {
            coming.add(&lease.holding.returns());
        }
        for key in self.turns.clone() {
            if self.ledger.fits(&key.shape) || !self.could_fit(&key.shape) {
                continue;
            }
            while !coming.covers(&key.shape) {
                let Some(lease) = self.pick_lease_to_revoke(now, &key, &coming) else {
                    break;
                };
                let held = self.leases.get_mut(&lease).expect("just picked");
                held.revoked = true;
                coming.add(&held.holding.returns());
                effects.push(Effect::RevokeLease {
                    client: held.client,
                    lease,
                });
                let queue = held.queue.clone();
                self.queues
                    .get_mut(&queue)
                    .expect("a queue lives as long as its leases")
                    .revoked += 1;
            }
            coming.subtract(&key.shape);
        }
    }

    /// The longest held lease of the queue that has most, if that queue has more than its share.
    fn pick_lease_to_revoke(&mut self, now: Duration, waiting: &QueueKey, coming: &ResourceSet) -> Option<LeaseKey> {
        let has = self.queues[waiting].keeps();
        let mut best: Option<(usize, std::cmp::Reverse<Duration>, std::cmp::Reverse<LeaseKey>)> = None;
        let mut next_due: Option<Duration> = None;
        for (key, lease) in &self.leases {
            let helps = lease
                .holding
                .returns()
                .iter()
                .any(|(name, _)| waiting.shape.get(name) > Quantity(coming.get(name).0.max(0)));
            if lease.revoked || lease.holding.cpu_lent || lease.queue == *waiting || !helps {
                continue;
            }
            let keeps = self.queues[&lease.queue].keeps();
            if keeps <= has + usize::from(has > 0) {
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
