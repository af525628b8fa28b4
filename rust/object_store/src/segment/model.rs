//! Model tests: loom runs the life of a block (`protocol.rs`, the code itself, over loom's words) in every interleaving, up
//! to a bound on preemptions. What is modelled beside it: the data of one block, as a cell that loom watches for races.

use std::ops::Range;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::thread;

use super::protocol::{
    self, FREE, FREEING, Header, PinTable, SEALED, SPILLED, SPILLING, WRITING, Words, is_pinned, word,
};

word!(AtomicU32, u32);
word!(AtomicU64, u64);

struct Loom;

impl Words for Loom {
    type W32 = AtomicU32;
    type W64 = AtomicU64;
    fn fence() {
        fence(SeqCst)
    }
}

/// Where the block's data would lie.
const PLACE: u64 = 64;
const HOLDER: u64 = 7;
const HEIR: u64 = 8;

/// One block of an extent, and a pin for each of two readers.
struct Arena {
    header: Header<Loom>,
    data: UnsafeCell<u64>,
    marks: [AtomicU32; 2],
    pins: [AtomicU64; 2],
}

impl PinTable<Loom> for Arena {
    fn rows(&self) -> Range<u32> {
        0..2
    }

    fn slots(&self) -> u32 {
        1
    }

    fn mark(&self, row: u32) -> &AtomicU32 {
        &self.marks[row as usize]
    }

    fn pin_word(&self, row: u32, _slot: u32) -> &AtomicU64 {
        &self.pins[row as usize]
    }
}

impl Arena {
    /// With a sealed block of the first generation, whose data is its generation, as it always is here.
    fn new() -> Arc<Self> {
        let arena = Self {
            header: Header {
                state: AtomicU32::new(FREE),
                epoch: AtomicU32::new(0),
                generation: AtomicU64::new(0),
                data_len: AtomicU64::new(0),
                block_len: AtomicU64::new(0),
                owner: AtomicU64::new(HOLDER),
            },
            data: UnsafeCell::new(0),
            marks: [AtomicU32::new(0), AtomicU32::new(0)],
            pins: [AtomicU64::new(0), AtomicU64::new(0)],
        };
        arena.make(1);
        Arc::new(arena)
    }

    /// By the holder, of a free block.
    fn make(&self, generation: u64) {
        self.header.write(128, WRITING, generation, 8);
        // SAFETY: that nobody looks at a block in the making is what loom checks.
        self.data.with_mut(|data| unsafe { *data = generation });
        self.header.seal();
    }

    fn read(&self) -> u64 {
        // SAFETY: that nobody writes to a sealed and pinned block is what loom checks.
        self.data.with(|data| unsafe { *data })
    }

    /// By the holder, as in `ArenaClient::free`: the block is free at once, or never as far as these tests go.
    fn free(&self, generation: u64) -> bool {
        let sealed_or_marked = self.header.is(generation, SEALED) || self.header.is(generation, FREEING);
        if !sealed_or_marked || !self.header.begin_free() || is_pinned(self, PLACE) {
            return false;
        }
        self.header.write(128, FREE, 0, 0);
        true
    }

    /// By a reader, as in `ArenaClient::pin`: what it read, if the block was there.
    fn look(&self, row: u32, generation: u64) -> Option<u64> {
        protocol::announce(self, row, 0, PLACE);
        let seen = self.header.is(generation, SEALED).then(|| self.read());
        protocol::withdraw(self, row, 0);
        seen
    }

    /// By the raylet, as in `ArenaHost::set_aside`: the owner who is to be told that it went to disk, if it did.
    fn spill(&self) -> Option<u64> {
        if !self.header.set_aside() {
            return None;
        }
        if is_pinned(self, PLACE) {
            self.header.put_back();
            return None;
        }
        let owner = self.header.owner_of_set_aside();
        assert_eq!(
            self.read(),
            self.header.generation.load(Relaxed),
            "what goes to disk is whole"
        );
        Some(owner)
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(check);
}

#[test]
fn nothing_is_made_anew_under_a_reader() {
    model(|| {
        let arena = Arena::new();
        let readers: Vec<_> = [0, 1]
            .map(|row| {
                let arena = arena.clone();
                thread::spawn(move || arena.look(row, 1))
            })
            .into();
        if arena.free(1) {
            arena.make(2);
        }
        for reader in readers {
            assert!(matches!(reader.join().unwrap(), None | Some(1)));
        }
    });
}

#[test]
fn who_reads_a_new_block_reads_its_data() {
    model(|| {
        let arena = Arena::new();
        let reader = arena.clone();
        let reading = thread::spawn(move || reader.look(0, 2));
        if arena.free(1) {
            arena.make(2);
        }
        assert!(matches!(reading.join().unwrap(), None | Some(2)));
    });
}

#[test]
fn a_block_goes_to_disk_or_is_looked_at_and_its_room_is_used_once() {
    model(|| {
        let arena = Arena::new();
        let reader = arena.clone();
        let reading = thread::spawn(move || reader.look(0, 1));
        let raylet = arena.clone();
        let spilling = thread::spawn(move || {
            let told = raylet.spill();
            if told.is_some() {
                raylet.header.state.store(SPILLED, std::sync::atomic::Ordering::Release);
            }
            told
        });
        let freed = arena.free(1);
        if freed {
            arena.make(2);
        }
        // What it had freed and made again may go to disk as well.
        let told = spilling.join().unwrap();
        if arena.header.is(1, SPILLED) {
            assert!(told.is_some() && !freed);
            // The raylet has said so: the room is the holder's again.
            arena.header.write(128, FREE, 0, 0);
            arena.make(3);
        }
        assert!(matches!(reading.join().unwrap(), None | Some(1)));
    });
}

#[test]
fn either_the_raylet_sees_a_new_owner_or_the_new_owner_tells_it() {
    model(|| {
        let arena = Arena::new();
        let raylet = arena.clone();
        let spilling = thread::spawn(move || raylet.spill());
        let is_there = arena.header.hand_over(1, HEIR);
        if let Some(owner) = spilling.join().unwrap() {
            assert!(owner == HEIR || !is_there);
        }
    });
}

#[test]
fn a_mark_that_comes_too_late_changes_no_other_block() {
    model(|| {
        let arena = Arena::new();
        let owner = arena.clone();
        let marking = thread::spawn(move || owner.header.mark_unwanted(1));
        // Meanwhile the first block goes to disk, and its holder makes another one there.
        if arena.spill().is_some() {
            arena.header.state.store(SPILLED, SeqCst);
            arena.make(2);
        }
        let marked = marking.join().unwrap();
        let state = match marked {
            true => FREEING,
            false => SEALED,
        };
        let generation = arena.header.generation.load(Relaxed);
        assert!(arena.header.is(generation, state));
        assert_eq!(marked, generation == 1);
    });
}

#[test]
fn a_block_that_was_set_aside_in_vain_is_as_it_was() {
    model(|| {
        let arena = Arena::new();
        let raylet = arena.clone();
        let spilling = thread::spawn(move || {
            if raylet.spill().is_some() {
                assert!(raylet.header.is(1, SPILLING));
                raylet.header.put_back();
            }
        });
        let seen = arena.look(0, 1);
        spilling.join().unwrap();
        assert!(arena.header.is(1, SEALED));
        assert!(matches!(seen, None | Some(1)));
        assert_eq!(arena.look(1, 1), Some(1));
    });
}
