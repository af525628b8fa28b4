//! A file of records that costs one write and one `fdatasync` to add to, however many records are added at once.
//!
//! ```text
//! head (512 bytes): magic 8 | salt 8 | checksum 4
//! record:           length 4 | checksum 4 | batch        checksum over salt, length and batch
//! ```
//!
//! What was written since the last sync may be on the disk after a crash in any part and order. So a journal is read up to
//! the first record that is not whole, and no further: what lies behind it was never synced.
//!
//! The file is used again when its content is no longer needed, as blocks that are there are synced sooner than new ones.
//! A new salt in the head makes all records of earlier rounds invalid, and is durable before the first of the new ones:
//! else a part of the new ones would hide some of the old, and the rest would be taken for all.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Write;
use super::codec::{decode, encode_to};

const MAGIC: [u8; 8] = *b"RAYRSJ01";
/// A sector of its own.
pub(super) const HEAD_BYTES: u64 = 512;
const RECORD_HEAD_BYTES: usize = 8;
/// The file grows by so much at once, as a sync takes longer when it has to note a new length.
const GROWTH_BYTES: u64 = 64 << 10;

/// Where the bytes are: a file, or in tests something that forgets what was not synced.
pub trait Medium: Send + 'static {
    /// All of it.
    fn read(&self) -> io::Result<Vec<u8>>;
    /// Puts bytes there, beyond the end, too. Durable after the next [`sync`](Self::sync).
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    /// For errors.
    fn place(&self) -> &Path;
}

/// A medium that is a file.
#[derive(Debug)]
pub struct JournalFile {
    file: File,
    path: PathBuf,
}

impl JournalFile {
    /// Opens the file, or makes it, in a directory that is there.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let is_new = !path.exists();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        if is_new && let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(Self { file, path })
    }
}

impl Medium for JournalFile {
    fn read(&self) -> io::Result<Vec<u8>> {
        std::fs::read(&self.path)
    }

    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn place(&self) -> &Path {
        &self.path
    }
}

/// Whether the medium's head has the journal's salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    Durable,
    /// There are no records of earlier rounds: it is written with the first of this one.
    WithRecords,
    /// It has to be durable first.
    BeforeRecords,
}

/// Batches, in the order in which they were added.
#[derive(Debug)]
pub(super) struct Journal<M> {
    pub medium: M,
    salt: [u8; 8],
    head: Head,
    /// Where the next record goes: all before it is durable.
    end: u64,
    /// Length of the medium.
    length: u64,
    /// Records that are not durable yet.
    tail: Vec<u8>,
}

impl<M: Medium> Journal<M> {
    /// The journal, and what is in it. If that is anything, it has to be made durable elsewhere, and the journal to
    /// [`start_over`](Self::start_over), before something is added.
    pub fn open(medium: M) -> io::Result<(Self, Vec<Vec<Write>>)> {
        let bytes = medium.read()?;
        let (batches, end) = read_records(&bytes);
        let mut journal = Self {
            medium,
            salt: [0; 8],
            head: Head::WithRecords,
            end,
            length: bytes.len() as u64,
            tail: Vec::new(),
        };
        journal.change_salt()?;
        Ok((journal, batches))
    }

    fn change_salt(&mut self) -> io::Result<()> {
        getrandom::fill(&mut self.salt).map_err(io::Error::other)
    }

    /// Bytes of it that are durable.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Bytes that wait to be durable.
    pub fn need(&self) -> u64 {
        self.tail.len() as u64
    }

    /// Adds a batch, in memory; it is durable after the next [`sync`](Self::sync).
    pub fn append(&mut self, batch: &[Write]) {
        let start = self.tail.len();
        self.tail.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
        encode_to(batch, &mut self.tail);
        let (head, payload) = self.tail[start..].split_at_mut(RECORD_HEAD_BYTES);
        let length = u32::try_from(payload.len()).expect("records are smaller than a message");
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&checksum(self.salt, payload).to_le_bytes());
    }

    /// Makes all that was added durable. What failed is tried again by the next one.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.tail.is_empty() {
            return Ok(());
        }
        match self.head {
            Head::Durable => {}
            Head::WithRecords => self.medium.write_at(&head(self.salt), 0)?,
            Head::BeforeRecords => self.write_head()?,
        }
        let records = self.tail.len();
        let end = self.end + records as u64;
        let mut length = self.length;
        if end > length {
            length = end.next_multiple_of(GROWTH_BYTES);
            self.tail.resize((length - self.end) as usize, 0);
        }
        let written = self.medium.write_at(&self.tail, self.end);
        self.tail.truncate(records);
        written?;
        self.medium.sync()?;
        self.head = Head::Durable;
        self.tail.clear();
        (self.end, self.length) = (end, length);
        Ok(())
    }

    /// Forgets everything, for good: what was in it is durable elsewhere, and nothing waits to be synced. Where this fails,
    /// the next [`sync`](Self::sync) does it.
    pub fn start_over(&mut self) -> io::Result<()> {
        debug_assert!(self.tail.is_empty(), "what is not synced is not kept elsewhere");
        self.change_salt()?;
        self.end = HEAD_BYTES;
        self.head = Head::BeforeRecords;
        self.write_head()
    }

    fn write_head(&mut self) -> io::Result<()> {
        self.medium.write_at(&head(self.salt), 0)?;
        self.medium.sync()?;
        self.head = Head::Durable;
        Ok(())
    }
}

fn checksum(salt: [u8; 8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt);
    hasher.update(&(payload.len() as u64).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn head(salt: [u8; 8]) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&salt);
    head.extend_from_slice(&checksum(salt, &MAGIC).to_le_bytes());
    head.resize(HEAD_BYTES as usize, 0);
    head
}

/// What is whole, and where it ends.
fn read_records(bytes: &[u8]) -> (Vec<Vec<Write>>, u64) {
    let mut batches = Vec::new();
    let mut end = HEAD_BYTES;
    let salt = bytes.get(8..16).and_then(|salt| <[u8; 8]>::try_from(salt).ok());
    let Some(salt) = salt.filter(|salt| bytes.starts_with(&head(*salt))) else {
        return (batches, end);
    };
    while let Some((batch, length)) = read_record(salt, &bytes[end as usize..]) {
        batches.push(batch);
        end += length as u64;
    }
    (batches, end)
}

fn read_record(salt: [u8; 8], bytes: &[u8]) -> Option<(Vec<Write>, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if payload.is_empty() || checksum(salt, payload) != u32::from_le_bytes(*sum) {
        return None;
    }
    Some((decode(payload)?, RECORD_HEAD_BYTES + payload.len()))
}

#[cfg(test)]
pub(super) mod twin {
    use std::sync::{Arc, Mutex, MutexGuard};

    use super::*;

    const SECTOR_BYTES: usize = 512;

    /// A disk in memory. A crash keeps, of what was not synced, any sectors.
    #[derive(Debug, Clone, Default)]
    pub struct Disk(Arc<Mutex<Content>>);

    #[derive(Debug, Default)]
    struct Content {
        durable: Vec<u8>,
        /// Sectors with what they will hold, in the order in which they were written.
        unsynced: Vec<(usize, Vec<u8>)>,
        /// So many things can be done, and then everything fails; `None`: no end.
        budget: Option<u32>,
    }

    fn put(bytes: &mut Vec<u8>, sector: usize, content: &[u8]) {
        let start = sector * SECTOR_BYTES;
        if bytes.len() < start + SECTOR_BYTES {
            bytes.resize(start + SECTOR_BYTES, 0);
        }
        bytes[start..start + SECTOR_BYTES].copy_from_slice(content);
    }

    impl Disk {
        fn content(&self) -> MutexGuard<'_, Content> {
            self.0.lock().expect("no code here panics with the lock held")
        }

        /// What each sector that was written since the last sync has then: `survives` says, one after the other, which
        /// writes reached the disk.
        pub fn crash(&self, mut survives: impl FnMut() -> bool) {
            let mut content = self.content();
            for (sector, bytes) in std::mem::take(&mut content.unsynced) {
                if survives() {
                    put(&mut content.durable, sector, &bytes);
                }
            }
        }

        /// Writes and syncs beyond so many fail.
        pub fn fail_after(&self, budget: Option<u32>) {
            self.content().budget = budget;
        }

        pub fn bytes(&self) -> usize {
            self.content().durable.len()
        }
    }

    impl Content {
        fn visible(&self) -> Vec<u8> {
            let mut bytes = self.durable.clone();
            for (sector, content) in &self.unsynced {
                put(&mut bytes, *sector, content);
            }
            bytes
        }

        fn spend(&mut self) -> io::Result<()> {
            if let Some(budget) = &mut self.budget {
                *budget = budget.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            }
            Ok(())
        }
    }

    impl Medium for Disk {
        fn read(&self) -> io::Result<Vec<u8>> {
            Ok(self.content().visible())
        }

        fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
            let mut content = self.content();
            let mut all = content.visible();
            let (start, end) = (at as usize, at as usize + bytes.len());
            all.resize(all.len().max(end.next_multiple_of(SECTOR_BYTES)), 0);
            all[start..end].copy_from_slice(bytes);
            for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
                let held = all[sector * SECTOR_BYTES..][..SECTOR_BYTES].to_vec();
                content.unsynced.push((sector, held));
            }
            // A write that fails may have happened in part.
            content.spend()
        }

        fn sync(&mut self) -> io::Result<()> {
            let mut content = self.content();
            content.spend()?;
            content.durable = content.visible();
            content.unsynced.clear();
            Ok(())
        }

        fn place(&self) -> &Path {
            Path::new("memory")
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::Table;
    use super::twin::Disk;
    use super::*;

    fn batch(key: u8, length: usize) -> Vec<Write> {
        vec![Write {
            table: Table::KeyValue,
            key: vec![key],
            value: Some(Bytes::from(vec![key; length])),
        }]
    }

    fn journal_of(disk: &Disk, batches: &[Vec<Write>]) -> Journal<Disk> {
        let (mut journal, found) = Journal::open(disk.clone()).expect("opened");
        assert!(found.is_empty());
        for batch in batches {
            journal.append(batch);
            journal.sync().expect("synced");
        }
        journal
    }

    fn content(disk: &Disk) -> Vec<Vec<Write>> {
        Journal::open(disk.clone()).expect("opened").1
    }

    #[test]
    fn the_new_head_is_durable_before_what_follows_it() {
        let disk = Disk::default();
        let earlier: Vec<_> = (0..20).map(|key| batch(key, 600)).collect();
        let mut journal = journal_of(&disk, &earlier);
        assert_eq!(content(&disk), earlier);
        journal.start_over().expect("synced");
        for key in 100..120 {
            journal.append(&batch(key, 600));
        }
        disk.fail_after(Some(1));
        journal.sync().expect_err("the sync failed");
        // All but the first sectors reached the disk.
        let mut sectors = 0;
        disk.crash(|| {
            sectors += 1;
            sectors > 6
        });
        disk.fail_after(None);
        assert_eq!(
            content(&disk),
            Vec::<Vec<Write>>::new(),
            "nothing was synced since it started over"
        );
    }

    #[test]
    fn a_start_that_failed_is_made_good_by_the_next_sync() {
        let disk = Disk::default();
        let mut journal = journal_of(&disk, &[batch(1, 600), batch(2, 600)]);
        for budget in [0, 1] {
            disk.fail_after(Some(budget));
            journal.start_over().expect_err("the disk is full");
        }
        disk.fail_after(None);
        journal.append(&batch(3, 10));
        journal.sync().expect("synced");
        disk.crash(|| false);
        assert_eq!(content(&disk), [batch(3, 10)]);
    }

    proptest! {
        #[test]
        fn what_is_cut_or_damaged_is_read_up_to_there(
            lengths in proptest::collection::vec(0..1500_usize, 1..9),
            cut in any::<proptest::sample::Index>(),
            flip in any::<proptest::sample::Index>(),
        ) {
            let batches: Vec<_> = lengths.iter().zip(0..).map(|(length, key)| batch(key, *length)).collect();
            let disk = Disk::default();
            let journal = journal_of(&disk, &batches);
            let whole = journal.medium.read().expect("read");
            let is_prefix = |bytes: &[u8]| {
                let found = read_records(bytes).0;
                (batches.starts_with(&found), found.len())
            };
            prop_assert_eq!(is_prefix(&whole), (true, batches.len()));
            prop_assert!(is_prefix(&whole[..cut.index(whole.len())]).0);
            // Anywhere in the records.
            let mut damaged = whole.clone();
            let place = HEAD_BYTES as usize + flip.index((journal.size() - HEAD_BYTES) as usize);
            damaged[place] ^= 0x10;
            let (is_prefix, length) = is_prefix(&damaged);
            prop_assert!(is_prefix && length < batches.len());
        }

        #[test]
        fn nonsense_is_no_journal(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(read_records(&bytes).0.is_empty());
        }
    }
}
