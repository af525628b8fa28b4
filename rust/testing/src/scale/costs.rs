//! Time of the processor that deciding takes: that of this thread, so that whatever else the machine does counts for nothing.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    pub calls: u64,
    pub spent: Duration,
    pub longest: Duration,
}

pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Cost {
    pub(super) fn time<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let begin = cpu_time();
        let result = act();
        let spent = cpu_time().saturating_sub(begin);
        self.calls += 1;
        self.spent += spent;
        self.longest = self.longest.max(spent);
        result
    }

    pub fn microseconds(&self) -> f64 {
        self.spent.as_nanos() as f64 / 1e3 / self.calls.max(1) as f64
    }
}

/// What was called how often, and took how long.
#[derive(Debug, Clone, Copy, Default)]
pub struct Costs {
    /// Events of local schedulers.
    pub local: Cost,
    /// Looks for what to send away.
    pub forwarding: Cost,
    /// Proposals of the global scheduler.
    pub proposals: Cost,
    /// Heartbeats taken in by the global scheduler.
    pub heartbeats: Cost,
    /// Events of the table of placement groups.
    pub groups: Cost,
}
