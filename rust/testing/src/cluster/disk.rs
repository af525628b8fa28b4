//! The control store's disk: what was not flushed is lost in a crash, and sometimes it takes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ray_rs_gcs::stepped::{MemoryStorage, Storage, StorageError, Table, Write};

/// Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    kept: MemoryStorage,
    fails: Arc<AtomicBool>,
    /// What is decided about actors is thrown away.
    forgets_decisions: bool,
}

impl Disk {
    pub fn new(forgets_decisions: bool) -> Self {
        Self {
            forgets_decisions,
            ..Self::default()
        }
    }

    pub fn set_failing(&self, fails: bool) {
        self.fails.store(fails, Ordering::Relaxed);
    }

    pub fn is_failing(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }

    /// Power is cut.
    pub fn crash(&self) {
        self.kept.crash();
    }

    fn works(&self) -> Result<(), StorageError> {
        match self.is_failing() {
            true => Err(StorageError::Ended),
            false => Ok(()),
        }
    }
}

impl Storage for Disk {
    fn apply(&self, batch: &[Write]) -> Result<(), StorageError> {
        self.works()?;
        if !self.forgets_decisions {
            return self.kept.apply(batch);
        }
        // The first is that of the registration.
        let known = |key: &[u8]| {
            let mut found = false;
            let scanned = self
                .kept
                .scan(Table::ActorStates, &mut |other, _| found |= other == key);
            scanned.is_ok() && found
        };
        let is_kept = |write: &&Write| write.table != Table::ActorStates || !known(&write.key);
        let batch: Vec<Write> = batch.iter().filter(is_kept).cloned().collect();
        self.kept.apply(&batch)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.works()?;
        self.kept.flush()
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        self.kept.scan(table, visit)
    }
}
