//! What the tables take for the time: since this process began, and only ever forward.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub enum Clock {
    Machine(Instant),
    Simulated(SimulatedClock),
}

impl Clock {
    pub fn of_machine() -> Self {
        Self::Machine(Instant::now())
    }

    pub fn now(&self) -> Duration {
        match self {
            Self::Machine(began) => began.elapsed(),
            Self::Simulated(clock) => clock.now(),
        }
    }
}

/// A clock that stands still until it is set. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct SimulatedClock(Arc<AtomicU64>);

impl SimulatedClock {
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    pub fn set(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).expect("a simulation takes less than centuries");
        self.0.store(nanos, Ordering::Relaxed);
    }
}
