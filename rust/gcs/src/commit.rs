//! Group commit: one thread applies every batch that waits, flushes once, and says up to which batch all is durable.
//!
//! The caller numbers the batches by handing them in; answers come as a single growing number. So a burst of a hundred
//! registrations costs one or two flushes, and a lone one is not held back for company. What nobody waits for (nodes would
//! report it again) is, for a moment: it goes with the next flush, or after [`COMPANY`].
//!
//! What could not be stored is told to those who wait, is kept in order, and is tried again until it is: a full disk needs
//! nobody's help but room.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::storage::{Storage, StorageError, Write};

/// How long a batch that nobody waits for is held back.
const COMPANY: Duration = Duration::from_millis(10);
/// A store that has failed is tried again after so long, if nobody changes anything sooner.
const RETRY: Duration = Duration::from_secs(1);
/// A flush that takes longer is worth a line in the log: everybody who changes something waits for it.
const SLOW_FLUSH: Duration = Duration::from_secs(2);

/// A numbered batch.
struct Batch {
    number: u64,
    writes: Vec<Write>,
    /// Somebody waits for it.
    is_awaited: bool,
}

/// One flush, told in order.
#[derive(Debug, Clone)]
pub struct Flushed {
    /// All batches up to this number were dealt with.
    pub upto: u64,
    /// The error is that of all batches since the flush before. They are not forgotten: a later `Ok` is theirs, too.
    pub outcome: Result<(), StorageError>,
}

/// Hands batches to the commit thread. Dropping it finishes, too.
#[derive(Debug, Default)]
pub struct Committer {
    batches: Option<mpsc::Sender<Batch>>,
    last: u64,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub fn start(storage: Box<dyn Storage>) -> std::io::Result<(Self, UnboundedReceiver<Flushed>)> {
        let (sender, receiver) = mpsc::channel();
        let (flushed, told) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("gcs-commit".to_owned())
            .stack_size(256 << 10)
            .spawn(move || commit_all(storage, &receiver, &flushed))?;
        Ok((
            Self {
                batches: Some(sender),
                last: 0,
                thread: Some(thread),
            },
            told,
        ))
    }

    /// Without a thread: whoever has the other half decides when something is stored.
    pub fn stepped(storage: Box<dyn Storage>) -> (Self, SteppedCommits) {
        let (sender, batches) = mpsc::channel();
        let committer = Self {
            batches: Some(sender),
            last: 0,
            thread: None,
        };
        let commits = Commits::new(storage);
        (committer, SteppedCommits { commits, batches })
    }

    /// Queues a batch and returns its number. An empty batch is as durable as the one before it.
    pub fn submit(&mut self, writes: Vec<Write>) -> u64 {
        self.hand_over(writes, true)
    }

    /// The same for what nobody waits for.
    pub fn submit_unawaited(&mut self, writes: Vec<Write>) -> u64 {
        self.hand_over(writes, false)
    }

    fn hand_over(&mut self, writes: Vec<Write>, is_awaited: bool) -> u64 {
        if !writes.is_empty() {
            self.last += 1;
            if let Some(batches) = &self.batches {
                // When the thread is gone (it panicked), whoever waits sees the other channel closed.
                let _ = batches.send(Batch {
                    number: self.last,
                    writes,
                    is_awaited,
                });
            }
        }
        self.last
    }

    /// Number of the latest batch.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Lets the thread finish what was handed in, and closes the store. Later batches are lost.
    pub fn finish(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The other half of [`Committer::stepped`].
pub struct SteppedCommits {
    commits: Commits,
    batches: mpsc::Receiver<Batch>,
}

impl SteppedCommits {
    /// Takes in so many of the batches that wait, and flushes.
    pub fn flush(&mut self, most: usize) -> Flushed {
        let mut outcome = self.commits.apply();
        for batch in self.batches.try_iter().take(most) {
            outcome = self.commits.add(batch);
        }
        let outcome = self.commits.flush(outcome);
        let upto = self.commits.upto;
        Flushed { upto, outcome }
    }
}

/// What the commit thread knows.
struct Commits {
    storage: Box<dyn Storage>,
    /// Not applied yet, in order: none, unless the store has failed.
    left: VecDeque<Vec<Write>>,
    /// The number of the latest batch.
    upto: u64,
    /// The store has failed, and not done anything since.
    is_behind: bool,
}

impl Commits {
    fn new(storage: Box<dyn Storage>) -> Self {
        Self {
            storage,
            left: VecDeque::new(),
            upto: 0,
            is_behind: false,
        }
    }

    /// Applies what is left; what fails stays there.
    fn apply(&mut self) -> Result<(), StorageError> {
        while let Some(writes) = self.left.front() {
            self.storage.apply(writes)?;
            self.left.pop_front();
        }
        Ok(())
    }

    /// The batch, and those that may go with it.
    fn gather(&mut self, first: Batch, batches: &mpsc::Receiver<Batch>) -> Result<(), StorageError> {
        let mut is_awaited = first.is_awaited;
        let mut outcome = self.add(first);
        let due = Instant::now() + COMPANY;
        loop {
            let next = match is_awaited {
                true => batches.try_recv().ok(),
                false => batches.recv_timeout(due.saturating_duration_since(Instant::now())).ok(),
            };
            let Some(batch) = next else { return outcome };
            is_awaited |= batch.is_awaited;
            outcome = self.add(batch);
        }
    }

    fn add(&mut self, batch: Batch) -> Result<(), StorageError> {
        self.upto = batch.number;
        self.left.push_back(batch.writes);
        self.apply()
    }

    /// The outcome of all that came since the flush before.
    fn flush(&mut self, applied: Result<(), StorageError>) -> Result<(), StorageError> {
        let began = Instant::now();
        let outcome = applied.and_then(|()| self.storage.flush());
        let (taken, upto) = (began.elapsed(), self.upto);
        if taken > SLOW_FLUSH {
            tracing::warn!(
                ?taken,
                upto,
                "the control store's disk is slow; all changes wait for it"
            );
        }
        match &outcome {
            Err(error) if !self.is_behind => tracing::error!(%error, upto, "could not store control state"),
            Ok(()) if self.is_behind => tracing::info!(upto, "the control store's disk takes changes again"),
            Ok(()) | Err(_) => {}
        }
        self.is_behind = outcome.is_err();
        outcome
    }
}

fn commit_all(storage: Box<dyn Storage>, batches: &mpsc::Receiver<Batch>, flushed: &UnboundedSender<Flushed>) {
    let mut commits = Commits::new(storage);
    loop {
        let first = match commits.is_behind {
            false => batches.recv().map_err(RecvTimeoutError::from),
            true => batches.recv_timeout(RETRY),
        };
        let outcome = match first {
            Ok(batch) => commits.gather(batch, batches),
            Err(RecvTimeoutError::Timeout) => commits.apply(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let outcome = commits.flush(outcome);
        // Nobody listens any more when the gcs ends; what was handed in is still written.
        let _ = flushed.send(Flushed {
            upto: commits.upto,
            outcome,
        });
    }
    if commits.is_behind {
        let outcome = commits.apply();
        if let Err(error) = commits.flush(outcome) {
            tracing::error!(%error, "the last changes are not stored");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::storage::{MemoryStorage, Table};

    /// Memory that waits at its first flush until it may go on, and counts flushes.
    struct Gated {
        inner: MemoryStorage,
        gate: mpsc::Receiver<()>,
        flushes: Arc<AtomicU32>,
        broken: bool,
    }

    impl Storage for Gated {
        fn apply(&self, batch: &[Write]) -> Result<(), StorageError> {
            self.inner.apply(batch)
        }

        fn flush(&self) -> Result<(), StorageError> {
            self.flushes.fetch_add(1, Ordering::Relaxed);
            let _ = self.gate.recv();
            if self.broken {
                Err(StorageError::Ended)
            } else {
                self.inner.flush()
            }
        }

        fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
            self.inner.scan(table, visit)
        }
    }

    fn batch(key: u8) -> Vec<Write> {
        vec![Write {
            table: Table::Jobs,
            key: vec![key],
            value: Some(Bytes::from_static(b"x")),
        }]
    }

    fn gated(
        broken: bool,
    ) -> (
        Committer,
        UnboundedReceiver<Flushed>,
        mpsc::Sender<()>,
        Arc<AtomicU32>,
        MemoryStorage,
    ) {
        let (open, gate) = mpsc::channel();
        let (inner, flushes) = (MemoryStorage::default(), Arc::new(AtomicU32::new(0)));
        let storage = Gated {
            inner: inner.clone(),
            gate,
            flushes: Arc::clone(&flushes),
            broken,
        };
        let (committer, told) = Committer::start(Box::new(storage)).expect("a thread");
        (committer, told, open, flushes, inner)
    }

    fn run<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test)
    }

    #[test]
    fn batches_that_come_during_a_flush_share_the_next_one() {
        run(async {
            let (mut committer, mut told, open, flushes, kept) = gated(false);
            assert_eq!(committer.submit(batch(0)), 1);
            // The first flush has begun when its batch cannot be joined any more.
            while flushes.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            for key in 1..50 {
                committer.submit(batch(key));
            }
            assert_eq!(committer.submit(Vec::new()), 50, "nothing to write");
            open.send(()).expect("waiting");
            assert_eq!(told.recv().await.expect("alive").upto, 1);
            open.send(()).expect("waiting");
            assert_eq!(told.recv().await.expect("alive").upto, 50);
            assert_eq!(flushes.load(Ordering::Relaxed), 2);
            kept.crash();
            let mut count = 0;
            kept.scan(Table::Jobs, &mut |_, _| count += 1).expect("scanned");
            assert_eq!(count, 50);
        });
    }

    #[test]
    fn what_nobody_waits_for_goes_with_what_somebody_does() {
        run(async {
            let (mut committer, mut told, open, flushes, kept) = gated(false);
            for key in 0..3 {
                committer.submit_unawaited(batch(key));
            }
            committer.submit(batch(3));
            open.send(()).expect("waiting");
            open.send(()).expect("waiting");
            let mut upto = 0;
            while upto < 4 {
                upto = told.recv().await.expect("alive").upto;
            }
            // Two where this thread was held up for longer than company is waited for.
            assert!(flushes.load(Ordering::Relaxed) <= 2);
            committer.submit_unawaited(batch(4));
            open.send(()).expect("waiting");
            assert_eq!(told.recv().await.expect("alive").upto, 5, "alone after a while");
            kept.crash();
            let mut count = 0;
            kept.scan(Table::Jobs, &mut |_, _| count += 1).expect("scanned");
            assert_eq!(count, 5);
        });
    }

    #[test]
    fn a_failed_flush_is_told_to_those_who_waited_for_it() {
        run(async {
            let (mut committer, mut told, open, ..) = gated(true);
            committer.submit(batch(0));
            open.send(()).expect("waiting");
            assert!(told.recv().await.expect("alive").outcome.is_err());
        });
    }

    /// Memory that is full as long as the flag is set.
    struct Full(MemoryStorage, Arc<std::sync::atomic::AtomicBool>);

    impl Storage for Full {
        fn apply(&self, batch: &[Write]) -> Result<(), StorageError> {
            if self.1.load(Ordering::Relaxed) {
                return Err(StorageError::Ended);
            }
            self.0.apply(batch)
        }

        fn flush(&self) -> Result<(), StorageError> {
            self.0.flush()
        }

        fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
            self.0.scan(table, visit)
        }
    }

    #[test]
    fn what_failed_is_stored_without_anybody_asking_when_there_is_room() {
        run(async {
            let (kept, full) = (MemoryStorage::default(), Arc::new(true.into()));
            let storage = Full(kept.clone(), Arc::clone(&full));
            let (mut committer, mut told) = Committer::start(Box::new(storage)).expect("a thread");
            for key in 0..3 {
                committer.submit(batch(key));
                let flushed = told.recv().await.expect("alive");
                assert!(flushed.outcome.is_err());
            }
            full.store(false, Ordering::Relaxed);
            let recovered = loop {
                let flushed = told.recv().await.expect("alive");
                if flushed.outcome.is_ok() {
                    break flushed.upto;
                }
            };
            assert_eq!(recovered, 3);
            kept.crash();
            let mut count = 0;
            kept.scan(Table::Jobs, &mut |_, _| count += 1).expect("scanned");
            assert_eq!(count, 3);
        });
    }

    #[test]
    fn dropping_finishes_what_was_handed_in() {
        let storage = MemoryStorage::default();
        let (mut committer, _told) = Committer::start(Box::new(storage.clone())).expect("a thread");
        committer.submit(batch(1));
        drop(committer);
        storage.crash();
        let mut count = 0;
        storage.scan(Table::Jobs, &mut |_, _| count += 1).expect("scanned");
        assert_eq!(count, 1);
    }
}
