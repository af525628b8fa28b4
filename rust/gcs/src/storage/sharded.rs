//! Tables in several shards, each a store of its own: a key, of whatever table, lies in the shard that its hash names. So
//! the tables of one actor, which change together, lie together.
//!
//! A batch for one shard is that shard's affair. One for several is first written whole, as an intent, to the first shard,
//! then to all, and the intent is taken away again; each step is durable before the next one begins. A process that finds
//! an intent when it starts carries it out (`GCS-1`). Such batches are rare, and cost three flushes.

use bytes::Bytes;

use super::codec::{decode, encode};
use super::{Storage, StorageError, Table, Write};

/// Key of the one intent that there can be: the commit thread does one thing at a time.
const INTENT: &[u8] = b"";

/// Several stores as one.
#[derive(Debug)]
pub struct ShardedStorage<S> {
    shards: Vec<S>,
}

impl<S: Storage> ShardedStorage<S> {
    /// Of one shard at least. Opened again, the shards must be as many as before, in the same order.
    ///
    /// # Errors
    /// When what an earlier process had begun cannot be finished.
    ///
    /// # Panics
    /// Without a shard.
    pub fn open(shards: Vec<S>) -> Result<Self, StorageError> {
        assert!(!shards.is_empty(), "tables lie somewhere");
        let storage = Self { shards };
        let mut begun = None;
        storage.shards[0].scan(Table::Intents, &mut |_, value| begun = decode(value))?;
        if let Some(batch) = begun {
            storage.carry_out(&batch)?;
        }
        Ok(storage)
    }

    pub(super) fn shard_of(&self, table: Table, key: &[u8]) -> usize {
        (fnv(table.shard_key(key)) % self.shards.len() as u64) as usize
    }

    fn parts(&self, batch: &[Write]) -> Vec<Vec<Write>> {
        let mut parts = vec![Vec::new(); self.shards.len()];
        for write in batch {
            parts[self.shard_of(write.table, &write.key)].push(write.clone());
        }
        parts
    }

    /// What an intent says, and then there is none.
    fn carry_out(&self, batch: &[Write]) -> Result<(), StorageError> {
        for (shard, part) in self.shards.iter().zip(self.parts(batch)) {
            if !part.is_empty() {
                shard.apply(&part)?;
            }
        }
        self.flush()?;
        self.shards[0].apply(&[intent(None)])?;
        self.shards[0].flush()
    }
}

impl<S: Storage> Storage for ShardedStorage<S> {
    fn apply(&self, batch: &[Write]) -> Result<(), StorageError> {
        let mut shards = batch.iter().map(|write| self.shard_of(write.table, &write.key));
        let Some(first) = shards.next() else { return Ok(()) };
        if shards.all(|shard| shard == first) {
            return self.shards[first].apply(batch);
        }
        // What came before must not be missing when this is found.
        self.flush()?;
        self.shards[0].apply(&[intent(Some(encode(batch)))])?;
        self.shards[0].flush()?;
        self.carry_out(batch)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.shards.iter().try_for_each(Storage::flush)
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        let mut found: Vec<(Vec<u8>, Bytes)> = Vec::new();
        for shard in &self.shards {
            shard.scan(table, &mut |key, value| {
                found.push((key.to_vec(), Bytes::copy_from_slice(value)));
            })?;
        }
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        for (key, value) in &found {
            visit(key, value);
        }
        Ok(())
    }
}

fn intent(batch: Option<Vec<u8>>) -> Write {
    Write {
        table: Table::Intents,
        key: INTENT.to_vec(),
        value: batch.map(Bytes::from),
    }
}

/// FNV-1a: the same in every process and version, as what lies on disk must be found again.
fn fnv(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::super::MemoryStorage;
    use super::*;

    fn write(key: &[u8], value: Option<&[u8]>) -> Write {
        Write {
            table: Table::KeyValue,
            key: key.to_vec(),
            value: value.map(Bytes::copy_from_slice),
        }
    }

    fn content(storage: &impl Storage) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        storage
            .scan(Table::KeyValue, &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
            })
            .expect("scanned");
        found
    }

    #[test]
    fn keys_lie_in_all_shards() {
        let shards = [MemoryStorage::default(), MemoryStorage::default()];
        let storage = ShardedStorage::open(shards.to_vec()).expect("opened");
        for number in 0..100_u8 {
            storage.apply(&[write(&[number], Some(b"x"))]).expect("applied");
        }
        let sizes = shards.each_ref().map(|shard| content(shard).len());
        assert_eq!(sizes[0] + sizes[1], 100);
        assert!(sizes.iter().all(|size| *size > 20), "{sizes:?}");
    }

    #[test]
    fn a_batch_that_was_begun_is_finished_by_the_next_process() {
        let batch: Vec<Write> = (0..20_u8).map(|key| write(&[key], Some(&[key]))).collect();
        let shards = vec![MemoryStorage::default(), MemoryStorage::default()];
        // The process ended after the intent and one of the writes.
        shards[0].apply(&[intent(Some(encode(&batch)))]).expect("applied");
        let storage = ShardedStorage::open(shards.clone()).expect("opened");
        assert_eq!(content(&storage).len(), 20);
        let mut intents = 0;
        shards[0]
            .scan(Table::Intents, &mut |_, _| intents += 1)
            .expect("scanned");
        assert_eq!(intents, 0);
    }
}
