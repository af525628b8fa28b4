//! The promises of [`Storage`](super::Storage), checked against every implementation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;

use super::journal::twin::Disk;
use super::{JournalFile, JournaledStorage, MemoryStorage, ShardedStorage, SledStorage, Storage, Table, Write};

/// An implementation that can be stopped dead and opened again.
trait Bench {
    type Kept: Storage;
    fn storage(&self) -> &Self::Kept;
    /// What a process finds that starts after this one was killed now.
    fn crash(self) -> Self;
    const SHARDS: usize = 1;
    /// Where a key lies.
    fn shard_of(_: &Self::Kept, _table: Table, _key: &[u8]) -> usize {
        0
    }
}

struct InMemory(MemoryStorage);

impl Bench for InMemory {
    type Kept = MemoryStorage;

    fn storage(&self) -> &MemoryStorage {
        &self.0
    }

    fn crash(self) -> Self {
        self.0.crash();
        self
    }
}

struct OnDisk {
    storage: SledStorage,
    root: tempfile::TempDir,
    lives: u32,
}

impl OnDisk {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let storage = SledStorage::open(&root.path().join("0")).expect("opened");
        Self {
            storage,
            root,
            lives: 0,
        }
    }
}

impl Bench for OnDisk {
    type Kept = SledStorage;

    fn storage(&self) -> &SledStorage {
        &self.storage
    }

    /// Dropping sled would flush it. The files as they are at this moment are what a killed process leaves.
    fn crash(self) -> Self {
        let from = self.root.path().join(self.lives.to_string());
        let lives = self.lives + 1;
        let to = self.root.path().join(lives.to_string());
        copy_tree(&from, &to);
        let storage = SledStorage::open(&to).expect("recovered");
        Self {
            storage,
            root: self.root,
            lives,
        }
    }
}

/// What a gcs has: sled behind a journal.
struct Journaled {
    storage: JournaledStorage<SledStorage, JournalFile>,
    root: tempfile::TempDir,
    lives: u32,
}

impl Journaled {
    fn new() -> Self {
        Self::opened(tempfile::tempdir().expect("a directory"), 0)
    }

    fn opened(root: tempfile::TempDir, lives: u32) -> Self {
        let dir = root.path().join(lives.to_string());
        let sled = SledStorage::open(&dir).expect("opened");
        let file = JournalFile::open(dir.join("journal")).expect("opened");
        // Moved often.
        let storage = JournaledStorage::open_with(sled, file, 4000).expect("opened");
        Self { storage, root, lives }
    }
}

impl Bench for Journaled {
    type Kept = JournaledStorage<SledStorage, JournalFile>;

    fn storage(&self) -> &Self::Kept {
        &self.storage
    }

    fn crash(self) -> Self {
        let lives = self.lives + 1;
        let at = |lives: u32| self.root.path().join(lives.to_string());
        copy_tree(&at(self.lives), &at(lives));
        Self::opened(self.root, lives)
    }
}

/// The same with nothing of it on a disk, which so loses what was not synced.
struct JournaledInMemory {
    storage: JournaledStorage<MemoryStorage, Disk>,
    base: MemoryStorage,
    disk: Disk,
}

impl JournaledInMemory {
    fn opened(base: MemoryStorage, disk: Disk) -> Self {
        let storage = JournaledStorage::open_with(base.clone(), disk.clone(), 4000).expect("opened");
        Self { storage, base, disk }
    }
}

impl Bench for JournaledInMemory {
    type Kept = JournaledStorage<MemoryStorage, Disk>;

    fn storage(&self) -> &Self::Kept {
        &self.storage
    }

    fn crash(self) -> Self {
        self.disk.crash(|| false);
        self.base.crash();
        Self::opened(self.base, self.disk)
    }
}

/// Two shards in memory.
struct InShards {
    storage: ShardedStorage<MemoryStorage>,
    shards: Vec<MemoryStorage>,
}

impl InShards {
    fn new() -> Self {
        Self::opened(vec![MemoryStorage::default(), MemoryStorage::default()])
    }

    fn opened(shards: Vec<MemoryStorage>) -> Self {
        let storage = ShardedStorage::open(shards.clone()).expect("opened");
        Self { storage, shards }
    }
}

impl Bench for InShards {
    type Kept = ShardedStorage<MemoryStorage>;
    const SHARDS: usize = 2;

    fn shard_of(storage: &Self::Kept, table: Table, key: &[u8]) -> usize {
        storage.shard_of(table, key)
    }

    fn storage(&self) -> &Self::Kept {
        &self.storage
    }

    fn crash(self) -> Self {
        for shard in &self.shards {
            shard.crash();
        }
        Self::opened(self.shards)
    }
}

/// Two shards on disk, each with its journal.
struct OnDisks {
    storage: ShardedStorage<JournaledStorage<SledStorage, JournalFile>>,
    root: tempfile::TempDir,
    lives: u32,
}

impl OnDisks {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("0")).expect("made");
        Self::opened(root, 0)
    }

    fn opened(root: tempfile::TempDir, lives: u32) -> Self {
        let open = |shard| {
            let dir = root.path().join(lives.to_string()).join(shard);
            let sled = SledStorage::open(&dir).expect("opened");
            let file = JournalFile::open(dir.join("journal")).expect("opened");
            JournaledStorage::open_with(sled, file, 4000).expect("opened")
        };
        let storage = ShardedStorage::open(vec![open("a"), open("b")]).expect("opened");
        Self { storage, root, lives }
    }
}

impl Bench for OnDisks {
    type Kept = ShardedStorage<JournaledStorage<SledStorage, JournalFile>>;
    const SHARDS: usize = 2;

    fn shard_of(storage: &Self::Kept, table: Table, key: &[u8]) -> usize {
        storage.shard_of(table, key)
    }

    fn storage(&self) -> &Self::Kept {
        &self.storage
    }

    fn crash(self) -> Self {
        let lives = self.lives + 1;
        let at = |lives: u32| self.root.path().join(lives.to_string());
        copy_tree(&at(self.lives), &at(lives));
        Self::opened(self.root, lives)
    }
}

fn copy_tree(from: &Path, to: &PathBuf) {
    std::fs::create_dir(to).expect("made");
    for entry in std::fs::read_dir(from).expect("read") {
        let entry = entry.expect("read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn put(table: Table, key: &[u8], value: &[u8]) -> Write {
    Write {
        table,
        key: key.to_vec(),
        value: Some(Bytes::copy_from_slice(value)),
    }
}

fn delete(table: Table, key: &[u8]) -> Write {
    Write {
        table,
        key: key.to_vec(),
        value: None,
    }
}

pub(super) type Content = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

pub(super) fn content(storage: &impl Storage) -> Content {
    let mut all = Content::new();
    for table in Table::ALL {
        let mut last: Option<Vec<u8>> = None;
        storage
            .scan(table, &mut |key, value| {
                assert!(
                    last.as_deref().is_none_or(|last| last < key),
                    "keys come in order, once"
                );
                last = Some(key.to_vec());
                all.insert((table, key.to_vec()), value.to_vec());
            })
            .expect("scanned");
    }
    all
}

pub(super) fn model(batches: &[Vec<Write>]) -> Content {
    let mut all = Content::new();
    for write in batches.iter().flatten() {
        let key = (write.table, write.key.clone());
        match &write.value {
            Some(value) => all.insert(key, value.to_vec()),
            None => all.remove(&key),
        };
    }
    all
}

fn tables_do_not_meet(bench: impl Bench) {
    let storage = bench.storage();
    let batch = vec![
        put(Table::Jobs, b"k", b"job"),
        put(Table::ActorSpecs, b"k", b"spec"),
        put(Table::ActorSpecs, b"", b"an empty key is a key"),
        put(Table::Functions, b"gone", b"x"),
        delete(Table::Functions, b"gone"),
        delete(Table::Nodes, b"never there"),
    ];
    storage.apply(&batch).expect("applied");
    assert_eq!(content(storage), model(&[batch]), "visible before any flush");
}

fn flushed_survives_a_crash(bench: impl Bench) {
    let first = vec![put(Table::KeyValue, b"a", &[7; 100_000]), put(Table::Jobs, b"a", b"1")];
    let second = vec![delete(Table::Jobs, b"a"), put(Table::KeyValue, b"b", b"2")];
    bench.storage().apply(&first).expect("applied");
    bench.storage().flush().expect("flushed");
    let bench = bench.crash();
    assert_eq!(content(bench.storage()), model(std::slice::from_ref(&first)));
    bench.storage().apply(&second).expect("applied");
    bench.storage().flush().expect("flushed");
    let bench = bench.crash();
    assert_eq!(content(bench.storage()), model(&[first, second]));
}

/// After a crash the content of each shard is that of some prefix of the batches, and of all that were flushed at least.
fn any_history_survives<B: Bench>(bench: B, history: &[(Vec<Write>, bool)]) {
    let mut flushed = 0;
    for (index, (batch, flush)) in history.iter().enumerate() {
        bench.storage().apply(batch).expect("applied");
        let mut shards = batch
            .iter()
            .map(|write| B::shard_of(bench.storage(), write.table, &write.key));
        let first = shards.next();
        // A batch for several shards is as good as flushed.
        if *flush || shards.any(|shard| Some(shard) != first) {
            flushed = index + 1;
        }
        if *flush {
            bench.storage().flush().expect("flushed");
        }
    }
    let batches: Vec<Vec<Write>> = history.iter().map(|(batch, _)| batch.clone()).collect();
    assert_eq!(content(bench.storage()), model(&batches));
    let bench = bench.crash();
    let of_shard = |mut all: Content, shard: usize| {
        all.retain(|(table, key), _| B::shard_of(bench.storage(), *table, key) == shard);
        all
    };
    for shard in 0..B::SHARDS {
        let found = of_shard(content(bench.storage()), shard);
        assert!(
            (flushed..=batches.len()).any(|length| found == of_shard(model(&batches[..length]), shard)),
            "GCS-1, GCS-2: {flushed} of {} batches were flushed, found {found:?}",
            batches.len()
        );
    }
}

fn any_write() -> impl Strategy<Value = Write> {
    let table = prop_oneof![Just(Table::Jobs), Just(Table::ActorStates), Just(Table::KeyValue)];
    let key = proptest::collection::vec(0u8..3, 0..3);
    let value = proptest::option::of((any::<u8>(), 0usize..2000).prop_map(|(byte, len)| Bytes::from(vec![byte; len])));
    (table, key, value).prop_map(|(table, key, value)| Write { table, key, value })
}

pub(super) fn any_history() -> impl Strategy<Value = Vec<(Vec<Write>, bool)>> {
    proptest::collection::vec((proptest::collection::vec(any_write(), 1..4), any::<bool>()), 0..20)
}

#[test]
fn memory_keeps_tables_apart() {
    tables_do_not_meet(InMemory(MemoryStorage::default()));
}

#[test]
fn sled_keeps_tables_apart() {
    tables_do_not_meet(OnDisk::new());
}

#[test]
fn memory_keeps_what_was_flushed() {
    flushed_survives_a_crash(InMemory(MemoryStorage::default()));
}

#[test]
fn sled_keeps_what_was_flushed() {
    flushed_survives_a_crash(OnDisk::new());
}

#[test]
fn journals_keep_tables_apart() {
    tables_do_not_meet(Journaled::new());
    tables_do_not_meet(JournaledInMemory::opened(MemoryStorage::default(), Disk::default()));
}

#[test]
fn journals_keep_what_was_flushed() {
    flushed_survives_a_crash(Journaled::new());
    flushed_survives_a_crash(JournaledInMemory::opened(MemoryStorage::default(), Disk::default()));
}

#[test]
fn shards_keep_tables_apart() {
    tables_do_not_meet(InShards::new());
    tables_do_not_meet(OnDisks::new());
}

#[test]
fn shards_keep_what_was_flushed() {
    flushed_survives_a_crash(InShards::new());
    flushed_survives_a_crash(OnDisks::new());
}

#[test]
fn memory_loses_what_was_not_flushed() {
    let bench = InMemory(MemoryStorage::default());
    bench.storage().apply(&[put(Table::Jobs, b"a", b"1")]).expect("applied");
    assert!(content(bench.crash().storage()).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn memory_survives_any_history(history in any_history()) {
        any_history_survives(InMemory(MemoryStorage::default()), &history);
    }

    #[test]
    fn sled_survives_any_history(history in any_history()) {
        any_history_survives(OnDisk::new(), &history);
    }

    #[test]
    fn journals_survive_any_history(history in any_history()) {
        any_history_survives(Journaled::new(), &history);
        any_history_survives(JournaledInMemory::opened(MemoryStorage::default(), Disk::default()), &history);
    }

    #[test]
    fn shards_survive_any_history(history in any_history()) {
        any_history_survives(InShards::new(), &history);
        any_history_survives(OnDisks::new(), &history);
    }
}
