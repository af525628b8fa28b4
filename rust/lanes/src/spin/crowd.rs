//! When a thread should leave its core to others.
//!
//! The kernel wakes a peer on the core of whoever rang as a rule, since two that take turns need one core only. Two that
//! spin need two: on one core each spins away the time in which the other would answer, and as both sleep now and then the
//! kernel never finds one core overloaded and the other idle. A thread that was woken from its own core a few times in a row,
//! after short sleeps, moves. (It does not give its core away while it spins: beside a busy neighbour that costs a whole time
//! slice of the neighbour's.) No clock here: the time comes in.

use std::time::{Duration, Instant};

/// So often in a row the ring came from its own core. The two sides of a lane count to different numbers, or both would move.
const AT_LEAST: u32 = 2;
const SPREAD: u32 = 7;
/// Between two moves: where every core has its own work, moving helps nobody.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));
/// So many waits in a row without company, and the last move was a good one.
const ALONE_TO_TRUST: u32 = 256;

#[derive(Debug)]
pub(super) struct Crowd {
    limit: u32,
    in_a_row: u32,
    alone: u32,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Crowd {
    /// `seed` tells apart those that might move at once: the process number.
    pub fn new(seed: u32) -> Self {
        Self {
            limit: AT_LEAST + seed % SPREAD,
            in_a_row: 0,
            alone: 0,
            pause: PAUSE.0,
            not_before: None,
        }
    }

    /// A spin has hit, or the ring came from another core.
    #[inline]
    pub fn alone(&mut self) {
        self.in_a_row = 0;
        self.alone = self.alone.saturating_add(1);
    }

    /// Whoever has rung did so on this core. True: move.
    pub fn in_company(&mut self, now: Instant) -> bool {
        if self.alone >= ALONE_TO_TRUST {
            self.pause = PAUSE.0;
        }
        self.alone = 0;
        self.in_a_row += 1;
        if self.in_a_row < self.limit || self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        self.in_a_row = 0;
        self.not_before = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE.1);
        true
    }
}

/// Moves this thread to another of the cores that it may run on; whether there was one.
pub(super) fn move_away() -> bool {
    use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else {
        return false;
    };
    let here = sched_getcpu();
    if !allowed.is_set(here) || allowed.count() < 2 {
        return false;
    }
    let mut others = allowed;
    others.unset(here);
    // The first call moves it; the second gives back its freedom, and does not move it again.
    sched_setaffinity(None, &others).is_ok() && sched_setaffinity(None, &allowed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_after_some_company_in_a_row_and_then_less_and_less_often() {
        let mut crowd = Crowd::new(1);
        let mut now = Instant::now();
        assert!(!crowd.in_company(now) && !crowd.in_company(now));
        crowd.alone();
        assert!(!crowd.in_company(now) && !crowd.in_company(now), "not in a row");
        assert!(crowd.in_company(now));
        let mut gaps = Vec::new();
        for _ in 0..12 {
            let began = now;
            while !crowd.in_company(now) {
                now += Duration::from_millis(1);
            }
            gaps.push((now - began).as_millis());
        }
        assert!(gaps.is_sorted() && gaps[0] >= 9 && gaps[11] >= 1999, "{gaps:?}");
        (0..ALONE_TO_TRUST).for_each(|_| crowd.alone());
        now += PAUSE.1;
        while !crowd.in_company(now) {}
        now += PAUSE.0;
        assert!((0..3).any(|_| crowd.in_company(now)), "trusted again");
    }

    #[test]
    fn the_two_sides_of_a_lane_differ() {
        let limits: Vec<u32> = (100..107).map(|pid| Crowd::new(pid).limit).collect();
        let mut distinct = limits.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), limits.len());
    }

    #[test]
    fn moving_leaves_the_allowed_cores_as_they_were() {
        let allowed = || {
            let set = rustix::thread::sched_getaffinity(None).expect("own affinity");
            (0..rustix::thread::CpuSet::MAX_CPU)
                .filter(|cpu| set.is_set(*cpu))
                .collect::<Vec<_>>()
        };
        let before = allowed();
        let moved = move_away();
        assert_eq!(moved, before.len() > 1);
        assert_eq!(allowed(), before);
    }
}
