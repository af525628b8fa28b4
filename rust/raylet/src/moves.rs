//! What the object store wrote to disk and read from there lately, for traces.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Older ones are forgotten.
const KEPT: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MoveKind {
    Spill = 1,
    Restore = 2,
}

/// One file that was written, or one object that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    pub kind: MoveKind,
    /// Since 1970.
    pub end: Duration,
    pub took: Duration,
    pub bytes: u64,
    pub objects: u32,
    pub failed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct MoveLog(VecDeque<Move>);

impl MoveLog {
    /// It has ended just now.
    pub fn note(&mut self, kind: MoveKind, took: Duration, bytes: u64, objects: u32, failed: bool) {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.add(Move {
            kind,
            end,
            took,
            bytes,
            objects,
            failed,
        });
    }

    fn add(&mut self, one: Move) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(one);
    }

    /// The oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Move> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let mut log = MoveLog::default();
        for bytes in 0..KEPT as u64 + 3 {
            log.note(MoveKind::Spill, Duration::ZERO, bytes, 1, false);
        }
        let kept: Vec<u64> = log.iter().map(|one| one.bytes).collect();
        assert_eq!((kept.len(), kept[0]), (KEPT, 3));
    }
}
