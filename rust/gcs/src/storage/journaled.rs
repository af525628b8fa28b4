//! A store behind a journal: a flush costs one small write to a file that is there, and the store itself is written to when
//! the journal has grown.
//!
//! Changes reach the store only from a journal in which they are durable, and the journal starts over only when they are
//! durable in the store: whatever part of its work the store had done at a crash, reading the journal once more completes it
//! (`GCS-1`, `GCS-2`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::journal::{Journal, Medium};
use super::{Storage, StorageError, Table, Write};

/// A journal that has grown to this size is moved to the store.
const LIMIT_BYTES: u64 = 1 << 20;
/// The store takes so many changes at once.
const BATCH_WRITES: usize = 1000;

/// What was changed since the journal started over; `None`: it was deleted.
type Changes = BTreeMap<(Table, Vec<u8>), Option<Bytes>>;

/// A store, and a journal before it.
#[derive(Debug)]
pub struct JournaledStorage<S, M> {
    base: S,
    recent: RefCell<Recent<M>>,
}

#[derive(Debug)]
struct Recent<M> {
    journal: Journal<M>,
    changes: Changes,
    /// The size of the journal at which it is moved,
    limit: u64,
    /// and at which that is tried next.
    next_move: u64,
}

impl<S: Storage, M: Medium> JournaledStorage<S, M> {
    /// Moves to the store what an earlier process left in the journal.
    ///
    /// # Errors
    /// When the journal cannot be read, or the store cannot take what is in it.
    pub fn open(base: S, medium: M) -> Result<Self, StorageError> {
        Self::open_with(base, medium, LIMIT_BYTES)
    }

    /// `open`, with another limit.
    pub(super) fn open_with(base: S, medium: M, limit: u64) -> Result<Self, StorageError> {
        let place = medium.place().to_owned();
        let (journal, batches) = Journal::open(medium).map_err(|error| StorageError::Unreadable {
            place,
            error: Arc::new(error),
        })?;
        let mut recent = Recent {
            journal,
            changes: Changes::new(),
            limit,
            next_move: limit,
        };
        for batch in &batches {
            recent.note(batch);
        }
        if !batches.is_empty() {
            recent.settle(&base)?;
        }
        Ok(Self {
            base,
            recent: RefCell::new(recent),
        })
    }
}

impl<M: Medium> Recent<M> {
    fn note(&mut self, batch: &[Write]) {
        for write in batch {
            let key = (write.table, write.key.clone());
            self.changes.insert(key, write.value.clone());
        }
    }

    fn of_table(&self, table: Table) -> Range<'_, (Table, Vec<u8>), Option<Bytes>> {
        self.changes.range((table, Vec::new())..)
    }

    fn failed(&self, error: io::Error) -> StorageError {
        StorageError::Journal {
            place: self.journal.medium.place().to_owned(),
            bytes: self.journal.need(),
            error: Arc::new(error),
        }
    }

    /// Moves what is in the journal, all of it durable, to the store.
    fn settle(&mut self, base: &impl Storage) -> Result<(), StorageError> {
        let mut batch = Vec::new();
        for ((table, key), value) in &self.changes {
            batch.push(Write {
                table: *table,
                key: key.clone(),
                value: value.clone(),
            });
            if batch.len() == BATCH_WRITES {
                base.apply(&std::mem::take(&mut batch))?;
            }
        }
        base.apply(&batch)?;
        base.flush()?;
        self.journal.start_over().map_err(|error| self.failed(error))?;
        self.changes.clear();
        Ok(())
    }
}

impl<S: Storage, M: Medium> Storage for JournaledStorage<S, M> {
    fn apply(&self, batch: &[Write]) -> Result<(), StorageError> {
        if !batch.is_empty() {
            let mut recent = self.recent.borrow_mut();
            recent.journal.append(batch);
            recent.note(batch);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        let mut recent = self.recent.borrow_mut();
        recent.journal.sync().map_err(|error| recent.failed(error))?;
        let size = recent.journal.size();
        if size < recent.next_move {
            return Ok(());
        }
        recent.next_move = recent.limit;
        if let Err(error) = recent.settle(&self.base) {
            // All is durable in the journal, which goes on growing for now.
            recent.next_move = size + recent.limit;
            tracing::warn!(%error, size, "the control store's journal could not be moved to its tables");
        }
        Ok(())
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        let recent = self.recent.borrow();
        let mut changed = (recent.of_table(table))
            .take_while(|((of, _), _)| *of == table)
            .map(|((_, key), value)| (key, value))
            .peekable();
        self.base.scan(table, &mut |key, value| {
            while let Some((earlier, new)) = changed.next_if(|(changed, _)| changed.as_slice() < key) {
                if let Some(new) = new {
                    visit(earlier, new);
                }
            }
            match changed.next_if(|(changed, _)| changed.as_slice() == key) {
                Some((_, Some(new))) => visit(key, new),
                Some((_, None)) => {}
                None => visit(key, value),
            }
        })?;
        for (key, new) in changed {
            if let Some(new) = new {
                visit(key, new);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::journal::twin::Disk;
    use super::super::{MemoryStorage, conformance};
    use super::*;

    fn put(key: u8, value: &[u8]) -> Vec<Write> {
        vec![Write {
            table: Table::KeyValue,
            key: vec![key],
            value: Some(Bytes::copy_from_slice(value)),
        }]
    }

    fn count(storage: &impl Storage) -> usize {
        let mut count = 0;
        storage.scan(Table::KeyValue, &mut |_, _| count += 1).expect("scanned");
        count
    }

    #[test]
    fn a_journal_that_has_grown_is_moved_and_used_again() {
        let (base, disk) = (MemoryStorage::default(), Disk::default());
        let storage = JournaledStorage::open(base.clone(), disk.clone()).expect("opened");
        for round in 0..40 {
            storage.apply(&put(round, &vec![round; 100_000])).expect("applied");
            storage.flush().expect("flushed");
        }
        assert_eq!(count(&storage), 40);
        assert!(count(&base) >= 30, "most are in the store itself");
        assert!(disk.bytes() < 2 << 20, "and the journal stays small");
    }

    #[test]
    fn what_cannot_be_written_is_told_and_written_later() {
        let (base, disk) = (MemoryStorage::default(), Disk::default());
        let storage = JournaledStorage::open(base.clone(), disk.clone()).expect("opened");
        disk.fail_after(Some(0));
        storage.apply(&put(1, b"one")).expect("applied");
        let error = storage.flush().expect_err("the disk is full");
        assert!(error.to_string().contains(" bytes to memory: "), "{error}");
        disk.fail_after(None);
        storage.apply(&put(2, b"two")).expect("applied");
        storage.flush().expect("flushed");
        disk.crash(|| false);
        base.crash();
        assert_eq!(count(&JournaledStorage::open(base, disk).expect("opened")), 2);
    }

    #[derive(Debug, Clone)]
    struct Life {
        history: Vec<(Vec<Write>, bool)>,
        /// When its disk begins to fail.
        budget: u32,
        /// Which of the last sectors written reach the disk.
        survives: Vec<bool>,
        /// Whether the store has what it did not flush.
        base_keeps: bool,
    }

    fn any_life() -> impl Strategy<Value = Life> {
        let survives = proptest::collection::vec(any::<bool>(), 1..9);
        (conformance::any_history(), 0..60_u32, survives, any::<bool>()).prop_map(
            |(history, budget, survives, base_keeps)| Life {
                history,
                budget,
                survives,
                base_keeps,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Power fails in the middle of any write or sync, sectors reach the disk in any order, life after life.
        #[test]
        fn any_cut_leaves_a_prefix_with_all_that_was_flushed(lives in proptest::collection::vec(any_life(), 1..4)) {
            let (base, disk) = (MemoryStorage::default(), Disk::default());
            let mut kept: Vec<Vec<Write>> = Vec::new();
            for life in lives {
                disk.fail_after(None);
                let storage = JournaledStorage::open_with(base.clone(), disk.clone(), 3000).expect("opened");
                prop_assert_eq!(conformance::content(&storage), conformance::model(&kept));
                disk.fail_after(Some(life.budget));
                let mut flushed = kept.len();
                for (batch, flush) in &life.history {
                    storage.apply(batch).expect("applied");
                    kept.push(batch.clone());
                    if *flush && storage.flush().is_ok() {
                        flushed = kept.len();
                    }
                }
                prop_assert_eq!(conformance::content(&storage), conformance::model(&kept));
                let mut survives = life.survives.iter().cycle();
                disk.crash(|| *survives.next().expect("endless"));
                if !life.base_keeps {
                    base.crash();
                }
                disk.fail_after(None);
                let found = conformance::content(&JournaledStorage::open_with(base.clone(), disk.clone(), 3000).expect("opened"));
                let length = (flushed..=kept.len()).find(|length| found == conformance::model(&kept[..*length]));
                let Some(length) = length else {
                    return Err(TestCaseError::fail(format!("GCS-1, GCS-2: {flushed} of {} were flushed", kept.len())));
                };
                kept.truncate(length);
            }
        }
    }
}
