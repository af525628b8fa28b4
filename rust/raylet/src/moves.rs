//! What the object store wrote to disk, read from there and fetched from other nodes lately, for traces.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ray_rs_types::NodeId;

/// Older ones are forgotten.
const KEPT: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MoveKind {
    Spill = 1,
    Restore = 2,
    Fetch = 3,
}

/// One file that was written, or one object that was read or fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    pub kind: MoveKind,
    /// Since 1970.
    pub end: Duration,
    pub took: Duration,
    pub bytes: u64,
    pub objects: u32,
    pub failed: bool,
    /// Of what was fetched.
    pub from: Option<NodeId>,
}

#[derive(Debug, Default)]
pub(crate) struct MoveLog(VecDeque<Move>);

impl MoveLog {
    /// It has ended just now.
    pub fn note(&mut self, kind: MoveKind, took: Duration, bytes: u64, objects: u32, failed: bool) {
        self.add(Move {
            kind,
            end: now(),
            took,
            bytes,
            objects,
            failed,
            from: None,
        });
    }

    /// One object has come from another node just now, or has not.
    pub fn note_fetched(&mut self, from: NodeId, took: Duration, bytes: u64, failed: bool) {
        self.add(Move {
            kind: MoveKind::Fetch,
            end: now(),
            took,
            bytes,
            objects: 1,
            failed,
            from: Some(from),
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

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
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
