//! The arena in one process with several clients. Those over a file play other processes: each has a mapping of its own.
//!
//! Every test of the suite runs twice: over a file, and over its twin on the heap.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::spill::Part;

const MIB: u64 = 1 << 20;
const WRITER: u64 = 11;
const READER: u64 = 22;

/// A host, a client that writes, and one that reads.
type Arena = (ArenaHost, Arc<ArenaClient>, Arc<ArenaClient>);

fn over_a_file() -> Arena {
    with_clients(ArenaHost::create(64 * MIB).expect("shared memory").0)
}

fn on_the_heap() -> Arena {
    with_clients(ArenaHost::on_heap(64 * MIB, u64::MAX).expect("memory").0)
}

fn with_clients(mut host: ArenaHost) -> Arena {
    let [writer, reader] = [WRITER, READER].map(|owner| {
        let row = host.allocate_client();
        Arc::new(host.client_here(row, owner).expect("mapped"))
    });
    (host, writer, reader)
}

/// Makes each test one for both.
macro_rules! conformance {
    ($($(#[$meta:meta])* fn $name:ident($arena:ident) $body:block)*) => {
        $(fn $name($arena: fn() -> Arena) $body)*

        mod file {
            $(#[test] fn $name() { super::$name(super::over_a_file) })*
        }

        mod heap {
            $(#[test] fn $name() { super::$name(super::on_the_heap) })*
        }
    };
}

fn put(host: &mut ArenaHost, client: &ArenaClient, byte: u8, len: u64) -> Block {
    let block = loop {
        match client.allocate(len) {
            Ok(block) => break block,
            Err(need) => {
                let extent = host.grant(client.client(), need.min_bytes).expect("room");
                client.add_extent(extent.offset, extent.len);
            }
        }
    };
    client.writer(&block).fill(byte);
    client.seal(block);
    block
}

// ---- short of room ---------------------------------------------------------------------------------------------------

fn ordinary(_: u64) -> Class {
    Class::Ordinary
}

fn all_aside(host: &mut ArenaHost) -> SetAsideBlocks {
    let regions = host.survey(ordinary);
    host.set_aside(&regions, ordinary)
}

conformance! {
fn what_one_process_writes_the_other_reads_in_place(arena) {
    let (mut host, writer, reader) = arena();
    let block = put(&mut host, &writer, 7, 3 * MIB);
    let pin = reader.pin(block.offset, block.len, block.generation).expect("sealed");
    assert!(pin.iter().all(|byte| *byte == 7) && pin.len() as u64 == 3 * MIB);
    assert!(
        reader.pin(block.offset, block.len, block.generation + 1).is_none(),
        "another generation"
    );
    assert!(
        reader.pin(block.offset, 1 << 40, block.generation).is_none(),
        "beyond the arena"
    );
}

fn a_pinned_block_stays_until_it_is_let_go(arena) {
    let (mut host, writer, reader) = arena();
    let block = put(&mut host, &writer, 1, MIB);
    let pin = reader.pin(block.offset, block.len, block.generation).expect("sealed");
    assert_eq!(writer.free(block.offset, block.generation), FreeOutcome::Pinned);
    assert!(
        reader.pin(block.offset, block.len, block.generation).is_none(),
        "no new readers"
    );
    let other = put(&mut host, &writer, 2, MIB);
    assert_ne!(other.offset, block.offset);
    assert_eq!(pin[0], 1);
    drop(pin);
    assert_eq!(writer.reap(), 1);
    assert_eq!(writer.free(block.offset, block.generation), FreeOutcome::Stale);
}

fn a_late_mark_does_not_keep_what_was_freed(arena) {
    let (mut host, writer, reader) = arena();
    let block = put(&mut host, &writer, 1, MIB);
    let pin = reader.pin(block.offset, block.len, block.generation).expect("sealed");
    assert_eq!(writer.free(block.offset, block.generation), FreeOutcome::Pinned);
    // What `mark_unwanted` does when it finds that the block is another one than it meant.
    host.map.header(block.offset).expect("in bounds").put_back();
    assert_eq!(writer.reap(), 0);
    drop(pin);
    assert_eq!(writer.reap(), 1);
    assert_eq!(writer.stats().used_bytes, 0);
}

fn freed_memory_is_used_again_at_once(arena) {
    let (mut host, writer, _reader) = arena();
    let first = put(&mut host, &writer, 1, 20 * MIB);
    assert_eq!(writer.free(first.offset, first.generation), FreeOutcome::Freed);
    for _ in 0..100 {
        let block = put(&mut host, &writer, 2, 20 * MIB);
        assert_eq!(block.offset, first.offset);
        writer.free(block.offset, block.generation);
    }
    assert!(host.stats().granted_bytes < 30 * MIB);
}

fn the_raylet_keeps_the_blocks_of_the_dead_that_others_own(arena) {
    let (mut host, writer, reader) = arena();
    let sealed = put(&mut host, &writer, 9, MIB);
    assert!(writer.hand_over(sealed.offset, sealed.generation, READER));
    put(&mut host, &writer, 8, MIB);
    let open = writer.allocate(MIB).expect("room in the extent");
    let _ = open;
    let summary = host.client_died(writer.client(), WRITER);
    assert_eq!(summary.kept_blocks, 1);
    let pin = reader
        .pin(sealed.offset, sealed.len, sealed.generation)
        .expect("still there");
    assert_eq!(host.free(sealed.offset, sealed.generation), FreeOutcome::Pinned);
    assert_eq!(pin[100], 9);
    drop(pin);
    assert_eq!(host.reap(), 1);
    assert_eq!(host.stats().kept_blocks, 0);
    assert_eq!(host.stats().free_bytes, host.capacity());
}

fn an_owner_may_hear_of_a_death_before_the_raylet_does(arena) {
    let (mut host, writer, _reader) = arena();
    let block = put(&mut host, &writer, 1, MIB);
    assert!(writer.hand_over(block.offset, block.generation, READER));
    assert_eq!(host.free(block.offset, block.generation), FreeOutcome::NotMine);
    assert_eq!(host.client_died(writer.client(), WRITER).kept_blocks, 0);
    assert_eq!(host.stats().free_bytes, host.capacity());
}

fn a_full_store_says_what_holds_it(arena) {
    let (mut host, writer, _reader) = arena();
    put(&mut host, &writer, 1, 40 * MIB);
    let error = host.grant(writer.client(), 40 * MIB).expect_err("no room");
    let text = error.to_string();
    assert!(
        text.contains("no room for 40.0 MiB") && text.contains("client 1: 4"),
        "{text}"
    );
}

fn dead_readers_pin_nothing(arena) {
    let (mut host, writer, reader) = arena();
    let block = put(&mut host, &writer, 1, MIB);
    std::mem::forget(reader.pin(block.offset, block.len, block.generation).expect("sealed"));
    assert_eq!(writer.free(block.offset, block.generation), FreeOutcome::Pinned);
    assert_eq!(host.client_died(reader.client(), READER).cleared_pins, 1);
    assert_eq!(writer.reap(), 1);
}

fn a_block_ends_with_its_owner(arena) {
    let (mut host, writer, reader) = arena();
    let given = put(&mut host, &writer, 1, MIB);
    let looked_at = put(&mut host, &writer, 2, MIB);
    let own = put(&mut host, &writer, 3, MIB);
    for block in [given, looked_at] {
        assert!(writer.hand_over(block.offset, block.generation, READER));
    }
    let pin = writer
        .pin(looked_at.offset, looked_at.len, looked_at.generation)
        .expect("sealed");
    host.client_died(reader.client(), READER);
    assert_eq!(writer.owner_died(READER), 2);
    assert_eq!(writer.owner_died(READER), 0, "once is enough");
    assert_eq!(writer.free(given.offset, given.generation), FreeOutcome::Stale);
    assert_eq!(pin[5], 2, "who looks keeps it");
    drop(pin);
    assert_eq!(writer.reap(), 1);
    assert_eq!(writer.free(own.offset, own.generation), FreeOutcome::Freed);
}

fn a_block_ends_with_its_owner_when_its_writer_has_ended_before(arena) {
    let (mut host, writer, reader) = arena();
    let given = put(&mut host, &writer, 1, MIB);
    let for_ever = put(&mut host, &writer, 2, MIB);
    assert!(writer.hand_over(given.offset, given.generation, READER));
    assert!(writer.hand_over(for_ever.offset, for_ever.generation, 0));
    assert_eq!(host.client_died(writer.client(), WRITER).kept_blocks, 2);
    host.client_died(reader.client(), READER);
    assert_eq!(host.stats().kept_blocks, 1);
    assert_eq!(host.free(for_ever.offset, for_ever.generation), FreeOutcome::Freed);
}

fn what_its_owner_gave_up_is_not_kept_although_its_writer_never_heard(arena) {
    let (mut host, writer, reader) = arena();
    let heard = put(&mut host, &writer, 1, MIB);
    let unheard = put(&mut host, &writer, 2, MIB);
    for block in [heard, unheard] {
        assert!(writer.hand_over(block.offset, block.generation, READER));
        assert!(reader.mark_unwanted(block.offset, block.generation));
    }
    assert_eq!(writer.free(heard.offset, heard.generation), FreeOutcome::Freed);
    assert_eq!(host.client_died(writer.client(), WRITER).kept_blocks, 0);
    assert_eq!(host.stats().free_bytes, host.capacity());
}

fn what_is_set_aside_can_be_read_by_nobody_else_and_comes_back(arena) {
    let (mut host, writer, reader) = arena();
    let block = put(&mut host, &writer, 7, MIB);
    let aside = all_aside(&mut host);
    assert_eq!(
        (aside.parts.len(), aside.parts[0].len, aside.parts[0].owner),
        (1, MIB, WRITER)
    );
    let key = aside.parts[0].key;
    let bytes = host.bytes_of(&aside.parts[0]).expect("in bounds").to_vec();
    assert!(bytes.iter().all(|byte| *byte == 7));
    assert!(reader.pin(block.offset, block.len, block.generation).is_none());
    assert_eq!(
        writer.free(block.offset, block.generation),
        FreeOutcome::Stale,
        "the raylet must hear of it"
    );
    assert!(
        !writer.hand_over(block.offset, block.generation, READER)
            && !reader.mark_unwanted(block.offset, block.generation)
    );
    host.keep_block(key);
    assert!(reader.pin(block.offset, block.len, block.generation).is_some());
    assert_eq!(all_aside(&mut host).parts.len(), 1);
    assert_eq!(host.release_block(key), Some(writer.client()));
    assert_eq!(host.sealed_len(key), None);
    writer.spilled(block.offset, block.generation);
    assert_eq!(writer.stats().used_bytes, 0);
    let mut restore = host.begin_restore(MIB).expect("room");
    assert!(restore.reserve_pages());
    restore.write(0, &bytes[..1000]);
    restore.write(1000, &bytes[1000..]);
    let place = host.finish_restore(restore).expect("pages");
    let pin = reader
        .pin(place.offset, place.len, place.generation)
        .expect("it is back");
    assert_eq!(&pin[..], &bytes[..]);
    // As long as somebody looks, it stays; then it goes without being written again.
    let copy = |offset: u64| {
        if offset == place.offset {
            Class::Copy
        } else {
            Class::Ordinary
        }
    };
    let regions = host.survey(copy);
    assert_eq!(host.set_aside(&regions, copy).evicted, [0; 0]);
    drop(pin);
    assert_eq!(host.set_aside(&regions, copy).evicted, [place.offset]);
    assert!(reader.pin(place.offset, place.len, place.generation).is_none());
    for (offset, len) in writer.unused_extents(u64::MAX) {
        host.give_back(writer.client(), offset, len).expect("its own");
    }
    assert_eq!(host.stats().free_bytes, host.capacity());
}

fn what_is_looked_at_or_being_written_is_not_moved(arena) {
    let (mut host, writer, reader) = arena();
    let looked_at = put(&mut host, &writer, 1, 5 * MIB);
    let movable = put(&mut host, &writer, 2, 5 * MIB);
    let _open = {
        let need = writer.allocate(6 * MIB).expect_err("no extent of that size yet");
        let extent = host.grant(writer.client(), need.min_bytes).expect("room");
        writer.add_extent(extent.offset, extent.len);
        writer.allocate(6 * MIB).expect("room")
    };
    let pin = reader
        .pin(looked_at.offset, looked_at.len, looked_at.generation)
        .expect("sealed");
    let regions = host.survey(ordinary);
    let stuck = regions.iter().filter(|region| region.stuck).count();
    assert_eq!(
        (stuck, regions.iter().map(|region| region.spill_bytes).sum::<u64>()),
        (2, 5 * MIB)
    );
    assert!(regions.iter().map(|region| region.live_bytes).sum::<u64>() >= 16 * MIB);
    let aside = host.set_aside(&regions, ordinary);
    assert_eq!(
        aside.parts.iter().map(|part| part.key.offset).collect::<Vec<_>>(),
        [movable.offset]
    );
    assert_eq!(pin[0], 1);
    assert_eq!(host.set_aside(&regions, |_| Class::Held).parts, []);
}

fn what_was_made_first_is_older(arena) {
    let (mut host, writer, _reader) = arena();
    for byte in 0..3 {
        put(&mut host, &writer, byte, 5 * MIB);
    }
    let mut regions = host.survey(ordinary);
    regions.retain(|region| region.spill_bytes > 0);
    assert!(regions.is_sorted_by_key(|region| region.youngest) && regions[0].youngest < regions[2].youngest);
}

fn a_closed_extent_comes_back_as_soon_as_it_is_empty(arena) {
    let (mut host, writer, _reader) = arena();
    let block = put(&mut host, &writer, 1, MIB);
    let extent = host
        .survey(ordinary)
        .into_iter()
        .find(|region| region.spill_bytes > 0)
        .expect("granted");
    writer.close_extent(extent.offset);
    assert!(writer.allocate(MIB).is_err(), "nothing more is placed in it");
    assert_eq!(writer.drained_extents(), []);
    writer.free(block.offset, block.generation);
    assert_eq!(writer.drained_extents(), [(extent.offset, extent.len)]);
    assert_eq!(writer.drained_extents(), []);
}

fn a_block_on_its_way_to_disk_outlives_its_holder(arena) {
    let (mut host, writer, reader) = arena();
    let block = put(&mut host, &writer, 4, MIB);
    assert!(writer.hand_over(block.offset, block.generation, READER));
    let key = all_aside(&mut host).parts[0].key;
    assert_eq!(host.client_died(writer.client(), WRITER).kept_blocks, 1);
    host.keep_block(key);
    assert_eq!(
        reader.pin(block.offset, block.len, block.generation).expect("kept")[9],
        4
    );
    let key = all_aside(&mut host).parts[0].key;
    assert_eq!(host.release_block(key), None);
    assert_eq!(
        (host.stats().kept_blocks, host.stats().free_bytes),
        (0, host.capacity())
    );
}
}

fn made(host: &mut ArenaHost) -> u64 {
    std::iter::from_fn(|| Some(host.prefault_step(MIB)).filter(|bytes| *bytes > 0)).sum()
}

#[test]
fn memory_that_is_short_is_an_error_of_the_grant() {
    let (host, heap) = ArenaHost::on_heap(64 * MIB, 24 * MIB).expect("memory");
    let (mut host, writer, _reader) = with_clients(host);
    let block = put(&mut host, &writer, 1, 10 * MIB);
    let full = host
        .grant(writer.client(), 20 * MIB)
        .expect_err("24 MiB are all there is");
    assert!(
        full.to_string().contains("the machine has no memory left for"),
        "{full}"
    );
    assert_eq!(
        host.begin_restore(20 * MIB).map(|mut restore| restore.reserve_pages()),
        Ok(false)
    );
    // What could be had is still good, and what comes free can be had.
    assert_eq!(writer.free(block.offset, block.generation), FreeOutcome::Freed);
    for (offset, len) in writer.unused_extents(u64::MAX) {
        host.give_back(writer.client(), offset, len).expect("its own");
    }
    let before = heap.made_bytes();
    assert!(host.trim(u64::MAX) >= 10 * MIB && heap.made_bytes() <= before - 10 * MIB);
    put(&mut host, &writer, 2, 20 * MIB);
}

#[test]
fn a_reserved_page_that_was_filled_in_is_mapped_with_its_neighbours() {
    let (mut host, _writer, reader) = over_a_file();
    let mut faults_of = |fills: bool| {
        let mut grant = host.begin_grant(reader.client(), 4 * MIB).expect("room");
        assert!(grant.needs_pages());
        grant.reserve_pages();
        if let Some(mut fill) = grant.fill().filter(|_| fills) {
            let mut steps = 1;
            while host.wants_filled(&fill) && fill.step(MIB) {
                steps += 1;
            }
            assert_eq!(steps, 4);
        }
        let extent = host.finish_grant(grant).expect("pages");
        // A mapping of its own: nothing of it is in this process yet.
        let fresh = host.client_here(reader.client(), READER).expect("mapped");
        fresh.add_extent(extent.offset, extent.len);
        let block = fresh.allocate(extent.len - 4096).expect("room");
        let before = copy::page_faults();
        assert!(fresh.writer(&block).iter().step_by(4096).all(|byte| *byte == 0));
        copy::page_faults() - before
    };
    let (bare, filled) = (faults_of(false), faults_of(true));
    assert!(filled * 4 < bare, "{filled} against {bare}");
}

#[test]
fn what_is_left_to_fill_in_is_not_wanted_once_its_client_is_gone() {
    let (mut host, writer, _reader) = over_a_file();
    let mut grant = host.begin_grant(writer.client(), 4 * MIB).expect("room");
    assert!(grant.fill().is_none(), "there are no pages yet");
    grant.reserve_pages();
    let fill = grant.fill().expect("pages without a content");
    let extent = host.finish_grant(grant).expect("pages");
    assert!(host.wants_filled(&fill));
    host.give_back(writer.client(), extent.offset, extent.len)
        .expect("its own");
    assert!(!host.wants_filled(&fill));
}

/// What a client or the host may be asked to do.
#[derive(Debug, Clone, Copy)]
enum Step {
    Put { byte: u8, kib: u64 },
    Pin { pick: usize },
    Unpin { pick: usize },
    Free { pick: usize },
    HandOver { pick: usize },
    GiveBack,
    AllAside,
    Keep,
    Release,
    Prefault,
    Trim { mib: u64 },
    Reap,
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<usize>();
    prop_oneof![
        4 => (any::<u8>(), 1..6000u64).prop_map(|(byte, kib)| Step::Put { byte, kib }),
        3 => pick.prop_map(|pick| Step::Pin { pick }),
        2 => pick.prop_map(|pick| Step::Unpin { pick }),
        3 => pick.prop_map(|pick| Step::Free { pick }),
        1 => pick.prop_map(|pick| Step::HandOver { pick }),
        1 => Just(Step::GiveBack),
        1 => Just(Step::AllAside),
        1 => Just(Step::Keep),
        1 => Just(Step::Release),
        1 => Just(Step::Prefault),
        1 => (0..20u64).prop_map(|mib| Step::Trim { mib }),
        1 => Just(Step::Reap),
    ]
}

/// One of the twins, and what its user has in hands.
struct Used {
    arena: Arena,
    blocks: Vec<(Block, u8)>,
    pins: Vec<(Pin, u8)>,
    aside: Vec<Part>,
}

impl Used {
    fn new(arena: Arena) -> Self {
        Self {
            arena,
            blocks: Vec::new(),
            pins: Vec::new(),
            aside: Vec::new(),
        }
    }

    /// What can be seen of it; generations are left out, which begin at random.
    fn take(&mut self, step: Step) -> String {
        let (host, writer, reader) = &mut self.arena;
        let chosen = |pick: usize| self.blocks.get(pick % self.blocks.len().max(1)).copied();
        match step {
            Step::Put { byte, kib } => {
                if host.stats().free_bytes > 16 * MIB {
                    let block = put(host, writer, byte, kib << 10);
                    self.blocks.push((block, byte));
                    return format!("{} {}", block.offset, block.len);
                }
            }
            Step::Pin { pick } => {
                if let Some((block, byte)) = chosen(pick) {
                    let pin = reader.pin(block.offset, block.len, block.generation);
                    let is_there = pin.is_some();
                    self.pins.extend(pin.map(|pin| (pin, byte)));
                    return is_there.to_string();
                }
            }
            Step::Unpin { pick } => {
                if !self.pins.is_empty() {
                    self.pins.swap_remove(pick % self.pins.len());
                }
            }
            Step::Free { pick } => {
                if let Some((block, _)) = chosen(pick) {
                    return format!("{:?}", writer.free(block.offset, block.generation));
                }
            }
            Step::HandOver { pick } => {
                if let Some((block, _)) = chosen(pick) {
                    return writer.hand_over(block.offset, block.generation, READER).to_string();
                }
            }
            Step::GiveBack => {
                let unused = writer.unused_extents(u64::MAX);
                for (offset, len) in &unused {
                    host.give_back(writer.client(), *offset, *len).expect("its own");
                }
                return format!("{unused:?}");
            }
            Step::AllAside => {
                let aside = all_aside(host);
                self.aside.extend(&aside.parts);
                let parts: Vec<_> = aside
                    .parts
                    .iter()
                    .map(|part| (part.key.offset, part.len, part.owner))
                    .collect();
                return format!("{parts:?} {:?}", aside.evicted);
            }
            Step::Keep => {
                if let Some(part) = self.aside.pop() {
                    host.keep_block(part.key);
                }
            }
            Step::Release => {
                if let Some(part) = self.aside.pop() {
                    let told = host.release_block(part.key);
                    writer.spilled(part.key.offset, part.key.generation);
                    return format!("{told:?}");
                }
            }
            Step::Prefault => return made(host).to_string(),
            Step::Trim { mib } => return host.trim(mib * MIB).to_string(),
            Step::Reap => return format!("{} {}", host.reap(), writer.reap()),
        }
        String::new()
    }

    fn check(&self) {
        let (host, ..) = &self.arena;
        host.table.check_invariants();
        for (pin, byte) in &self.pins {
            assert!(pin.iter().step_by(4096).all(|read| read == byte), "STO-2");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_twins_cannot_be_told_apart(steps in prop::collection::vec(step(), 1..60)) {
        let mut twins = [over_a_file(), on_the_heap()].map(Used::new);
        for step in steps {
            let [file, heap] = twins.each_mut().map(|twin| twin.take(step));
            prop_assert_eq!(file, heap, "{:?}", step);
            prop_assert_eq!(twins[0].arena.0.stats(), twins[1].arena.0.stats());
            prop_assert_eq!(twins[0].arena.1.stats(), twins[1].arena.1.stats());
            twins.iter().for_each(Used::check);
        }
    }
}
