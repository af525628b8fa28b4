//! When a thread spins, judged by how its last waits went. No clock here: the time comes in.
//!
//! *On* until two spins in a row have missed, or one was preempted. *Off* until there is a reason to try again: a few
//! sleeps in a row that were so short that a spin would have caught them, or a pause. A try that fails costs
//! more patience each time (the pause doubles from 1 ms to the policy's longest, the number of short sleeps from 1 to
//! 64), so that beside busy neighbours nearly every wait is a plain sleep; eight hits in a row restore full trust.

use std::time::{Duration, Instant};

const MISSES_TO_STOP: u32 = 2;
const HITS_TO_TRUST: u32 = 8;
/// A sleep so short would have been a spin that hits.
const SHORT_SLEEP: Duration = Duration::from_micros(60);
const PAUSE: Duration = Duration::from_millis(1);
const SHORT_SLEEPS: (u32, u32) = (1, 64);
/// What a preemption asks for at least.
const PAUSE_PREEMPTED: Duration = Duration::from_millis(8);
const SHORT_SLEEPS_PREEMPTED: u32 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Trusted,
    ShortSleeps,
    PauseOver,
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    On { misses: u32, why: Why },
    Off { until: Instant, short_sleeps: u32 },
}

#[derive(Debug)]
pub(super) struct Pace {
    mode: Mode,
    hits: u32,
    pause: Duration,
    longest_pause: Duration,
    short_sleeps_needed: u32,
}

impl Pace {
    pub fn new(longest_pause: Duration) -> Self {
        let mode = Mode::On {
            misses: 0,
            why: Why::Trusted,
        };
        Self {
            mode,
            hits: 0,
            pause: PAUSE.min(longest_pause),
            longest_pause,
            short_sleeps_needed: SHORT_SLEEPS.0,
        }
    }

    #[inline(always)]
    pub fn allows(&self, now: impl FnOnce() -> Instant) -> bool {
        match self.mode {
            Mode::On { .. } => true,
            Mode::Off { until, .. } => now() >= until,
        }
    }

    #[inline]
    pub fn hit(&mut self) {
        self.hits = self.hits.saturating_add(1);
        if self.hits >= HITS_TO_TRUST {
            (self.pause, self.short_sleeps_needed) = (PAUSE.min(self.longest_pause), SHORT_SLEEPS.0);
            self.mode = Mode::On {
                misses: 0,
                why: Why::Trusted,
            };
            return;
        }
        self.mode = match self.mode {
            Mode::On { why: Why::Trusted, .. } => Mode::On {
                misses: 0,
                why: Why::Trusted,
            },
            // Still on trial: a lucky hit beside a busy neighbour must not buy two more misses.
            Mode::On { why, .. } => Mode::On {
                misses: MISSES_TO_STOP - 1,
                why,
            },
            Mode::Off { .. } => Mode::On {
                misses: MISSES_TO_STOP - 1,
                why: Why::PauseOver,
            },
        };
    }

    pub fn missed(&mut self, now: Instant) {
        let (misses, why) = match self.mode {
            Mode::On { misses, why } => (misses + 1, why),
            // The pause was over: one try.
            Mode::Off { .. } => (MISSES_TO_STOP, Why::PauseOver),
        };
        self.hits = 0;
        if misses < MISSES_TO_STOP {
            self.mode = Mode::On { misses, why };
            return;
        }
        match why {
            Why::Trusted | Why::PauseOver => {}
            Why::ShortSleeps => self.short_sleeps_needed = (self.short_sleeps_needed * 2).min(SHORT_SLEEPS.1),
        }
        self.stop(now);
    }

    pub fn preempted(&mut self, now: Instant) {
        self.hits = 0;
        self.pause = self.pause.max(PAUSE_PREEMPTED).min(self.longest_pause);
        self.short_sleeps_needed = (self.short_sleeps_needed * 2).clamp(SHORT_SLEEPS_PREEMPTED, SHORT_SLEEPS.1);
        self.stop(now);
    }

    /// A ring has ended a sleep of `took`.
    pub fn woken(&mut self, took: Duration) {
        if let Mode::Off { short_sleeps, .. } = &mut self.mode {
            *short_sleeps = if took <= SHORT_SLEEP { *short_sleeps + 1 } else { 0 };
            if *short_sleeps >= self.short_sleeps_needed {
                self.mode = Mode::On {
                    misses: MISSES_TO_STOP - 1,
                    why: Why::ShortSleeps,
                };
            }
        }
    }

    fn stop(&mut self, now: Instant) {
        self.mode = Mode::Off {
            until: now + self.pause,
            short_sleeps: 0,
        };
        self.pause = (self.pause * 2).min(self.longest_pause);
    }
}
