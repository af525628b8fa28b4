//! Storage that ends with the process; for tests it can also crash.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{Storage, StorageError, Table, Write};

type Keys = BTreeMap<(Table, Vec<u8>), Bytes>;

/// Clones share their content.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    /// What reads see.
    visible: Keys,
    /// Applied since the last flush; what a crash takes back.
    unflushed: Vec<Write>,
    /// What a crash leaves.
    durable: Keys,
}

impl MemoryStorage {
    /// Loses what was not flushed, as a power cut would.
    pub fn crash(&self) {
        let mut content = self.content();
        content.unflushed.clear();
        content.visible = content.durable.clone();
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("no code here panics with the lock held")
    }
}

fn change(keys: &mut Keys, write: &Write) {
    let key = (write.table, write.key.clone());
    match &write.value {
        Some(value) => keys.insert(key, value.clone()),
        None => keys.remove(&key),
    };
}

impl Storage for MemoryStorage {
    fn apply(&self, batch: &[Write]) -> Result<(), StorageError> {
        let mut content = self.content();
        for write in batch {
            change(&mut content.visible, write);
            content.unflushed.push(write.clone());
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        let mut content = self.content();
        for write in std::mem::take(&mut content.unflushed) {
            change(&mut content.durable, &write);
        }
        Ok(())
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        for ((owner, key), value) in &self.content().visible {
            if *owner == table {
                visit(key, value);
            }
        }
        Ok(())
    }
}
