//! What is known of a function's run time.

use std::time::Duration;

use ray_rs_types::config::{MAX_IN_FLIGHT, WINDOW_WORK};

/// The charge of a task that travels alone: it fills a window.
pub(crate) const ALONE: u32 = WINDOW_WORK.as_nanos() as u32;

/// Nothing is charged less, so that a window full of the shortest tasks holds `MAX_IN_FLIGHT` of them and no counting
/// is needed (`DSP-2`).
const LEAST: u32 = ALONE.div_ceil(MAX_IN_FLIGHT as u32);

/// Moving average of one function's run time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunTime {
    /// None until the first task of the function has finished.
    average_ns: Option<u64>,
    /// What a task of this function is charged, in nanoseconds; [`ALONE`] while unknown.
    pub(crate) charge: u32,
}

impl Default for RunTime {
    fn default() -> Self {
        Self {
            average_ns: None,
            charge: ALONE,
        }
    }
}

impl RunTime {
    pub(crate) fn learn(&mut self, run: Duration) {
        let run_ns = u64::try_from(run.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        // A quarter each: a first call that paid for imports is forgotten within a dozen calls.
        let average = match self.average_ns {
            None => run_ns,
            Some(average) => average - average / 4 + run_ns / 4,
        };
        self.average_ns = Some(average);
        self.charge = u32::try_from(average).unwrap_or(ALONE).clamp(LEAST, ALONE);
    }

    pub(crate) fn average(&self) -> Option<Duration> {
        self.average_ns.map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_the_shortest_tasks_holds_max_in_flight() {
        let mut function = RunTime::default();
        assert_eq!(function.charge, ALONE);
        function.learn(Duration::ZERO);
        assert_eq!(
            ALONE / function.charge,
            MAX_IN_FLIGHT as u32 - 1 + u32::from(ALONE.is_multiple_of(function.charge))
        );
        assert!(ALONE / function.charge <= MAX_IN_FLIGHT as u32);
    }

    #[test]
    fn a_slow_first_call_is_soon_forgotten() {
        let mut function = RunTime::default();
        function.learn(Duration::from_millis(50));
        for _ in 0..12 {
            assert_eq!(function.charge, ALONE);
            function.learn(Duration::from_micros(5));
        }
        assert!(function.charge < ALONE);
    }
}
