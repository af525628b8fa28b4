//! The control store's side: what is stored of one durable actor.
//!
//! The incarnation that may store is the one that the lifecycle has counted last; who calls says which that is, under the
//! lock that also guards the lifecycle (`DUR-4`). Whoever takes over asks first what there is.

use std::collections::VecDeque;

use bytes::Bytes;

/// What a process has sent to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub first: u64,
    pub records: Vec<Bytes>,
    /// With the number of calls that it covers.
    pub checkpoint: Option<(u64, Bytes)>,
}

/// How the tables change: what is removed first, then what is added.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Positions of records that go.
    pub removed: std::ops::Range<u64>,
    /// Records that come, with the position of the first.
    pub added: (u64, Vec<Bytes>),
    /// The checkpoint is another one.
    pub checkpoint: bool,
}

/// A commit that does not follow on what is there (`DUR-3`): an answer that said so has been lost, or nonsense was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Position after the last call that is stored.
    pub next: u64,
}

/// What is stored of one actor.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Shelf {
    /// Of the first record.
    first: u64,
    records: VecDeque<Bytes>,
    checkpoint: Option<(u64, Bytes)>,
}

impl Shelf {
    /// From what was stored: the checkpoint, and records in the order of their positions. Those that the checkpoint covers,
    /// or that do not follow without a gap, are left out; and so is everything without a checkpoint, as the first commit
    /// is one.
    pub fn restored(checkpoint: Option<(u64, Bytes)>, records: impl IntoIterator<Item = (u64, Bytes)>) -> Self {
        let Some((position, data)) = checkpoint else {
            return Self::default();
        };
        let mut shelf = Self {
            first: position,
            records: VecDeque::new(),
            checkpoint: Some((position, data)),
        };
        for (position, record) in records {
            if position == shelf.next() {
                shelf.records.push_back(record);
            }
        }
        shelf
    }

    /// Position after the last call.
    pub fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    pub fn checkpoint(&self) -> Option<&(u64, Bytes)> {
        self.checkpoint.as_ref()
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let records: usize = self.records.iter().map(Bytes::len).sum();
        records + self.checkpoint.as_ref().map_or(0, |(_, data)| data.len())
    }

    /// Records from a position on, one at least and no more than `limit` bytes, with the position of the first.
    pub fn page(&self, from: u64, limit: usize) -> (u64, Vec<Bytes>) {
        let from = from.max(self.first);
        let mut bytes = 0;
        let mut page = Vec::new();
        for record in self.records.iter().skip((from - self.first) as usize) {
            bytes += record.len();
            if bytes > limit && !page.is_empty() {
                break;
            }
            page.push(record.clone());
        }
        (from, page)
    }

    /// Takes a commit in. A commit that is there already changes nothing.
    ///
    /// # Errors
    /// [`Gap`]; then nothing has changed.
    pub fn commit(&mut self, commit: Commit) -> Result<Change, Gap> {
        let mut change = Change {
            removed: self.first..self.first,
            added: (self.next(), Vec::new()),
            checkpoint: false,
        };
        let covered = commit.checkpoint.as_ref().map_or(0, |(position, _)| *position);
        let next = self.next().max(covered);
        if commit.first > next || (self.checkpoint.is_none() && commit.checkpoint.is_none()) {
            return Err(Gap { next: self.next() });
        }
        if let Some((position, data)) = commit.checkpoint
            && (self.checkpoint.as_ref()).is_none_or(|(stored, _)| position >= *stored)
        {
            let gone = position.min(self.next()).saturating_sub(self.first);
            self.records.drain(..gone as usize);
            change.removed = self.first..self.first + gone;
            change.checkpoint = true;
            self.first = position;
            self.checkpoint = Some((position, data));
        }
        change.added.0 = self.next();
        let known = self.next().saturating_sub(commit.first) as usize;
        for record in commit.records.into_iter().skip(known) {
            self.records.push_back(record.clone());
            change.added.1.push(record);
        }
        Ok(change)
    }
}
