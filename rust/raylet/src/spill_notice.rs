//! When to tell people how much was spilled: at first when there is a lot of it, then each time it has doubled.

use std::time::Duration;

/// Ray's variable: so many bytes are a lot; 0: nobody is told.
const VARIABLE: &str = "RAY_verbose_spill_logs";
const A_LOT: u64 = 2 << 30;
const MIB: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct SpillNotice {
    /// `None`: never.
    next_bytes: Option<u64>,
    writing: Duration,
}

impl SpillNotice {
    pub fn from_env() -> Self {
        let said = std::env::var(VARIABLE).ok();
        Self::new(said.and_then(|text| text.trim().parse().ok()).unwrap_or(A_LOT))
    }

    fn new(first_bytes: u64) -> Self {
        Self {
            next_bytes: Some(first_bytes).filter(|bytes| *bytes > 0),
            writing: Duration::ZERO,
        }
    }

    /// A file is written, after which there are so many in all. What to tell, if anything.
    pub fn written(&mut self, took: Duration, objects: u64, bytes: u64) -> Option<String> {
        self.writing += took;
        let mut next = self.next_bytes.filter(|next| bytes >= *next)?;
        while next <= bytes {
            next = next.saturating_mul(2);
        }
        self.next_bytes = Some(next);
        let per_second = bytes as f64 / MIB as f64 / self.writing.as_secs_f64().max(1e-6);
        Some(format!(
            "Spilled {} MiB, {objects} objects, write throughput {per_second:.0} MiB/s. Set {VARIABLE}=0 to disable this \
             message.",
            bytes / MIB
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn told_when_it_is_much_and_each_time_that_it_has_doubled() {
        let mut notice = SpillNotice::new(100 * MIB);
        assert_eq!(notice.written(SECOND, 3, 99 * MIB), None);
        let text = notice.written(SECOND, 7, 100 * MIB).expect("it is much");
        assert!(
            text.starts_with("Spilled 100 MiB, 7 objects, write throughput 50 MiB/s."),
            "{text}"
        );
        assert_eq!(notice.written(SECOND, 9, 199 * MIB), None);
        // More than one step at once is told once.
        assert!(notice.written(SECOND, 9, 900 * MIB).is_some());
        assert_eq!(notice.written(SECOND, 9, 1599 * MIB), None);
        assert!(notice.written(SECOND, 9, 1600 * MIB).is_some());
    }

    #[test]
    fn nobody_is_told_who_does_not_want_to_be() {
        assert_eq!(SpillNotice::new(0).written(SECOND, 1, u64::MAX), None);
    }
}
