//! How long a request would wait on this node.

use std::time::Duration;

use ray_rs_types::{Quantity, ResourceSet};

use super::ASSUMED_HOLD;

/// Of the latest lease so much goes into the average.
const NEWS: f64 = 0.125;

/// How long leases are kept. A lease that is still held counts with its age: a node whose tasks all run for an hour must
/// not look quick until the first of them ends.
#[derive(Debug, Clone, Default)]
pub struct Holds {
    /// Of those that have ended, the late ones most; zero: none has.
    average: f64,
    open: u32,
    /// Of the open ones.
    sum_of_starts: Duration,
}

impl Holds {
    pub fn began(&mut self, now: Duration) {
        self.open += 1;
        self.sum_of_starts += now;
    }

    /// A lease that began `since` has ended.
    pub fn ended(&mut self, now: Duration, since: Duration) {
        self.open = self.open.saturating_sub(1);
        self.sum_of_starts = self.sum_of_starts.saturating_sub(since);
        let held = now.saturating_sub(since).as_secs_f64();
        self.average = match self.average {
            0.0 => held,
            before => before + NEWS * (held - before),
        };
    }

    /// Zero: nothing is known.
    pub fn average(&self, now: Duration) -> Duration {
        let of_ended = Duration::from_secs_f64(self.average);
        match self.open {
            0 => of_ended,
            open => of_ended.max(now.saturating_sub(self.sum_of_starts / open)),
        }
    }

    /// The same for a heartbeat: to a sixteenth, as an average that changes by a hair is no news.
    pub fn reported(&self, now: Duration) -> Duration {
        let ns = u64::try_from(self.average(now).as_nanos()).unwrap_or(u64::MAX);
        let drop_bits = ns.checked_ilog2().unwrap_or(0).saturating_sub(4);
        Duration::from_nanos(ns >> drop_bits << drop_bits)
    }
}

/// This node, as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    pub total: &'a ResourceSet,
    pub available: &'a ResourceSet,
    /// How long what is granted is kept, on average; zero: not known.
    pub hold: Duration,
}

impl Load<'_> {
    /// How long the last of what is `queued`, the sum of all that waits, will wait, or one that waits alone.
    pub fn wait(&self, queued: &ResourceSet, demand: &ResourceSet) -> Duration {
        let hold = if self.hold.is_zero() { ASSUMED_HOLD } else { self.hold };
        let rounds = |(name, wanted): (&str, Quantity)| {
            (queued.get(name).0.max(wanted.0)) as f64 / self.total.get(name).0.max(1) as f64
        };
        hold.mul_f64(demand.iter().map(rounds).fold(0.0, f64::max).min(1e6))
    }

    /// It would begin at once.
    pub fn has_room(&self, demand: &ResourceSet) -> bool {
        self.available.covers(demand)
    }

    pub fn could_serve(&self, demand: &ResourceSet) -> bool {
        self.total.covers(demand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_average_follows_what_ends_and_never_lags_behind_what_is_held() {
        let mut holds = Holds::default();
        assert_eq!(holds.average(s(5)), Duration::ZERO);
        holds.began(s(10));
        holds.began(s(20));
        assert_eq!(holds.average(s(30)), s(15), "ages of 20 and 10");
        holds.ended(s(30), s(10));
        assert_eq!(holds.average(s(30)), s(20));
        holds.ended(s(32), s(20));
        assert_eq!(holds.average(s(32)), s(19), "an eighth of the way from 20 to 12");
        let told = holds.reported(s(32));
        assert!(told <= s(19) && told * 17 > s(19) * 16, "{told:?}");
    }

    #[test]
    fn a_wait_is_as_many_rounds_as_the_scarcest_resource_takes() {
        let cpus = |cpus: f64| ResourceSet::new().with("CPU", cpus);
        let (total, none) = (cpus(4.0).with("GPU", 1.0), ResourceSet::new());
        let queued = cpus(8.0).with("GPU", 3.0);
        let load = Load {
            total: &total,
            available: &none,
            hold: s(1),
        };
        assert_eq!(load.wait(&queued, &cpus(1.0)), s(2));
        assert_eq!(load.wait(&queued, &cpus(1.0).with("GPU", 1.0)), s(3));
        assert_eq!(load.wait(&queued, &none), Duration::ZERO);
    }
}
