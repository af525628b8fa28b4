//! Model tests: loom runs the protocol code itself (it is generic over its words) in every interleaving, up to a bound
//! on preemptions. What is modelled beside it: ring memory as cells that loom watches for races, and the kernel's futex.

use crate::bell::BellWords;
use crate::claims;
use crate::ring::{ReadCursor, RingWords, WriteCursor};
use crate::words::{Line, Memory, Word, word};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

word!(AtomicU32, u32);
word!(AtomicU64, u64);

struct Loom;

impl Memory for Loom {
    type W32 = AtomicU32;
    type W64 = AtomicU64;
    fn fence() {
        fence(SeqCst)
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(check);
}

/// A ring of 8-byte units; loom reports it when one side touches a unit that the other may be touching.
struct Ring {
    words: RingWords<Loom>,
    units: Vec<UnsafeCell<u64>>,
}

impl Ring {
    fn new(units: u64) -> Arc<Self> {
        let line = || Line(AtomicU64::new(0));
        let words = RingWords {
            head: line(),
            tail: line(),
            starved: Line(AtomicU32::new(0)),
        };
        Arc::new(Self {
            words,
            units: (0..units).map(|_| UnsafeCell::new(0)).collect(),
        })
    }

    fn write(&self, offset: u64, value: u64) {
        // SAFETY: that nobody else touches the unit is what the model checks.
        self.units[offset as usize / 8].with_mut(|unit| unsafe { *unit = value });
    }

    fn read(&self, offset: u64) -> u64 {
        // SAFETY: as in `write`.
        self.units[offset as usize / 8].with(|unit| unsafe { *unit })
    }

    fn send(&self, cursor: &mut WriteCursor, value: u64) -> bool {
        let Some(place) = cursor.place(&self.words, 8) else {
            return false;
        };
        assert!(place.skip.is_none());
        self.write(place.offset, value);
        cursor.publish(&self.words, place);
        true
    }
}

const GROW: u64 = 1 << 40;

#[test]
fn what_is_read_was_written_whole_through_wraps_and_growth() {
    model(|| {
        // 4 units, one of which stays free for a marker; 16 after growing.
        let ring = Ring::new(16);
        let writer = ring.clone();
        let sending = thread::spawn(move || {
            let mut cursor = WriteCursor::with_sizes(32, 128);
            let mut queued = 0;
            for value in 1..=5 {
                if !writer.send(&mut cursor, value) {
                    if let Some((offset, size)) = cursor.may_grow(&writer.words) {
                        writer.write(offset, GROW | size);
                        cursor.grow(&writer.words, size);
                        assert!(writer.send(&mut cursor, value));
                    } else {
                        queued = 6 - value;
                        break;
                    }
                }
            }
            5 - queued
        });
        let mut cursor = ReadCursor::with_sizes(32, 128);
        let mut last = 0;
        let mut drain = |last: &mut u64| {
            while let Some(offset) = cursor.next(&ring.words).unwrap() {
                cursor.holds(8).unwrap();
                let value = ring.read(offset);
                if value & GROW != 0 {
                    cursor.grow(&ring.words, value & !GROW).unwrap();
                } else {
                    *last += 1;
                    assert_eq!(value, *last);
                    cursor.release(&ring.words, 8);
                }
            }
        };
        drain(&mut last);
        let sent = sending.join().unwrap();
        drain(&mut last);
        assert_eq!(last, sent);
    });
}

#[test]
fn a_starved_writer_or_its_reader_notices_the_room() {
    model(|| {
        let ring = Ring::new(2);
        let mut write = WriteCursor::with_sizes(16, 16);
        assert!(ring.send(&mut write, 1));
        let reader = ring.clone();
        let reading = thread::spawn(move || {
            let mut cursor = ReadCursor::with_sizes(16, 16);
            let offset = cursor.next(&reader.words).unwrap().unwrap();
            assert_eq!(reader.read(offset), 1);
            cursor.release(&reader.words, 8);
            cursor.take_starved(&reader.words)
        });
        let mut sent = ring.send(&mut write, 2);
        if !sent {
            crate::ring::announce_starved(&ring.words);
            sent = ring.send(&mut write, 2);
        }
        assert!(reading.join().unwrap() | sent, "both sides wait for each other");
    });
}

#[test]
fn an_entry_is_claimed_or_withdrawn_never_both() {
    model(|| {
        let slot = Arc::new(AtomicU64::new(0));
        let argument = Arc::new(UnsafeCell::new(0));
        // SAFETY: not yet shared.
        argument.with_mut(|argument| unsafe { *argument = 7 });
        claims::publish::<Loom>(&slot, 9);
        let (their_slot, their_argument) = (slot.clone(), argument.clone());
        let worker = thread::spawn(move || {
            let claimed = claims::claim::<Loom>(&their_slot, 9);
            if claimed {
                // SAFETY: claimed, so the owner leaves it alone; loom checks.
                assert_eq!(their_argument.with(|argument| unsafe { *argument }), 7);
            }
            claimed
        });
        let withdrawn = claims::withdraw::<Loom>(&slot, 9);
        if withdrawn {
            // SAFETY: withdrawn, so the worker leaves it alone; loom checks.
            argument.with_mut(|argument| unsafe { *argument = 0 });
            // The word serves another entry now; a late claim of the old one must still fail.
            claims::publish::<Loom>(&slot, 9 + 1024);
        }
        assert!(worker.join().unwrap() != withdrawn);
    });
}

/// The kernel's part: compares and sleeps in one step, and wakes one.
struct Futex {
    lock: Mutex<u32>,
    wakes: Condvar,
}

struct Bell {
    words: BellWords<Loom>,
    futex: Futex,
    eventfd: AtomicBool,
    data: AtomicU32,
}

impl Bell {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            words: BellWords::for_model(AtomicU32::new(0), AtomicU32::new(0)),
            futex: Futex {
                lock: Mutex::new(0),
                wakes: Condvar::new(),
            },
            eventfd: AtomicBool::new(false),
            data: AtomicU32::new(0),
        })
    }

    fn change_and_ring(&self, what: u32) {
        self.data.fetch_or(what, Relaxed);
        if self.words.has_sleeper(what) {
            let sleepers = self.words.take_sleepers(what);
            if sleepers.on_futex {
                *self.futex.lock.lock().unwrap() += 1;
                self.futex.wakes.notify_one();
            }
            if sleepers.on_eventfd {
                self.eventfd.store(true, SeqCst);
            }
        }
    }

    fn seen(&self, what: u32) -> bool {
        self.data.load(Relaxed) & what == what
    }

    /// As `Doorbell::wait` without its spin, until everything in `what` was seen. A lost ring is a deadlock, which loom
    /// reports.
    fn wait(&self, wants: u32, what: u32) {
        while !self.seen(what) {
            let sequence = self.words.announce_futex(wants);
            if !self.seen(what) {
                let mut wakes = self.futex.lock.lock().unwrap();
                let before = *wakes;
                if Word::load(self.words.sequence_word(), SeqCst) == sequence {
                    while *wakes == before {
                        wakes = self.futex.wakes.wait(wakes).unwrap();
                    }
                }
            }
            self.words.leave_futex();
        }
    }
}

#[test]
fn no_ring_is_lost_with_two_ringers() {
    model(|| {
        let bell = Bell::new();
        let ringers: Vec<_> = [1, 2]
            .map(|what| {
                let bell = bell.clone();
                thread::spawn(move || bell.change_and_ring(what))
            })
            .into();
        bell.wait(3, 3);
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}

#[test]
fn a_sleeper_that_left_and_another_that_came_are_not_mixed_up() {
    model(|| {
        let bell = Bell::new();
        let ringer = {
            let bell = bell.clone();
            thread::spawn(move || {
                bell.change_and_ring(1);
                bell.change_and_ring(2);
            })
        };
        // A first wait that ends by its deadline, then one with other bits.
        bell.words.announce_futex(1);
        bell.words.leave_futex();
        bell.wait(2, 2);
        ringer.join().unwrap();
    });
}

#[test]
fn an_armed_eventfd_is_written_or_the_change_is_seen() {
    model(|| {
        let bell = Bell::new();
        let ringer = {
            let bell = bell.clone();
            thread::spawn(move || {
                bell.change_and_ring(1);
                bell.change_and_ring(2);
            })
        };
        // One thread is about to sleep in epoll for bit 1 while this one sleeps on the futex for bit 2.
        let armed = {
            let bell = bell.clone();
            thread::spawn(move || {
                bell.words.announce_eventfd(1);
                bell.seen(1)
            })
        };
        bell.wait(2, 2);
        ringer.join().unwrap();
        let saw = armed.join().unwrap();
        assert!(saw || bell.eventfd.load(SeqCst), "asleep in epoll for ever");
    });
}
