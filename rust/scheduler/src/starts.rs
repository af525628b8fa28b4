//! Worker starts of one pool: how many are under way, and when the next may begin.
//!
//! Where starts fail, another is tried after a pause that doubles, one at a time. After a few failures in a row whoever
//! waits is told; who asks later waits out the pause, for one try more. So a package that breaks every worker costs a
//! few forks a minute, and nobody waits for ever.

use std::time::Duration;

use crate::event::StartFailure;
use crate::scheduler::Options;

#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// Ordered and not yet answered.
    pub under_way: usize,
    /// In a row.
    failures: u32,
    /// Of these, those that were none of the start's own.
    killed: u32,
    not_before: Duration,
}

impl Starts {
    /// A worker came of one.
    pub fn came(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// None came of one.
    pub fn came_to_nothing(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Workers are of use: what failed before does not count any more.
    pub fn proved(&mut self) {
        (self.failures, self.killed) = (0, 0);
        self.not_before = Duration::ZERO;
    }

    /// Counts a failure. True: whoever waits is to be told.
    pub fn failed(&mut self, now: Duration, options: &Options, how: StartFailure) -> bool {
        if how == StartFailure::Counted {
            return false;
        }
        if now > self.not_before + options.longest_start_pause {
            (self.failures, self.killed) = (0, 0); // what was long ago is no row
        }
        self.failures = self.failures.saturating_add(1);
        self.killed += u32::from(how == StartFailure::Killed);
        let doublings = (self.failures - 1).min(16);
        let pause = options.first_start_pause * (1 << doublings);
        self.not_before = now + pause.min(options.longest_start_pause);
        how == StartFailure::Final || self.is_hopeless(options)
    }

    fn is_hopeless(&self, options: &Options) -> bool {
        self.failures - self.killed >= options.max_start_failures || self.failures >= options.max_killed_starts
    }

    /// How many more may be ordered of those that are wanted, `needed` of them by somebody who waits.
    pub fn room(&self, now: Duration, needed: usize, spare: usize, options: &Options) -> usize {
        let wanted = match self.failures {
            0 => (needed + spare).min(options.max_starting),
            _ if now < self.not_before => 0,
            // A spare that nobody waits for would fail for ever.
            failures if failures >= options.max_start_failures => needed.min(1),
            _ => (needed + spare).min(1),
        };
        wanted.saturating_sub(self.under_way)
    }

    /// Starts have failed, so that the next may have to wait.
    pub fn is_paused(&self) -> bool {
        self.failures > 0
    }

    /// When the next may begin.
    pub fn not_before(&self) -> Duration {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_success_ends_them() {
        let options = Options::default();
        let mut starts = Starts::default();
        let mut now = Duration::ZERO;
        assert_eq!(starts.room(now, 20, 4, &options), options.max_starting);
        let mut pauses = Vec::new();
        let mut told = Vec::new();
        for _ in 0..14 {
            told.push(starts.failed(now, &options, StartFailure::Failed));
            assert_eq!(starts.room(now, 5, 5, &options), 0);
            pauses.push(starts.not_before() - now);
            now = starts.not_before();
            assert_eq!(starts.room(now, 5, 5, &options), 1);
        }
        assert_eq!(told[..4], [false, false, true, true]);
        assert!(
            pauses
                .windows(2)
                .all(|two| two[1] == (two[0] * 2).min(options.longest_start_pause))
        );
        assert_eq!(*pauses.last().expect("some"), options.longest_start_pause);
        assert_eq!(starts.room(now, 0, 5, &options), 0, "nobody waits");
        starts.proved();
        assert_eq!(starts.room(now, 2, 0, &options), 2);
    }

    #[test]
    fn an_old_failure_begins_no_row_and_a_final_one_needs_none() {
        let options = Options::default();
        let mut starts = Starts::default();
        for minutes in 0..5 {
            assert!(!starts.failed(Duration::from_secs(60 * minutes), &options, StartFailure::Failed));
        }
        assert!(starts.failed(Duration::from_secs(600), &options, StartFailure::Final));
    }

    #[test]
    fn what_was_killed_counts_less_and_one_cause_counts_once() {
        let options = Options::default();
        let mut starts = Starts::default();
        let mut tell = |how| {
            let now = starts.not_before();
            starts.failed(now, &options, how)
        };
        for _ in 0..9 {
            assert!(!tell(StartFailure::Killed));
            assert!(!tell(StartFailure::Counted));
        }
        assert!(tell(StartFailure::Killed), "not for ever");
        starts.proved();
        let mut tell = |how| starts.failed(Duration::ZERO, &options, how);
        assert!(!tell(StartFailure::Failed));
        assert!(!tell(StartFailure::Killed));
        assert!(!tell(StartFailure::Failed));
        assert!(tell(StartFailure::Failed));
    }
}
