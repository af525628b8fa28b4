//! The arena in one process with several clients; other processes are played by further mappings of the same file.

use std::sync::Arc;

use super::*;

const MIB: u64 = 1 << 20;
const WRITER: u64 = 11;
const READER: u64 = 22;

fn arena() -> (ArenaHost, Arc<ArenaClient>, Arc<ArenaClient>) {
    let (mut host, fd) = ArenaHost::create(64 * MIB).expect("shared memory");
    let first = host.allocate_client();
    let second = host.allocate_client();
    let writer = ArenaClient::attach(fd, first, WRITER).expect("mapped");
    let reader = ArenaClient::attach(host.share().expect("dup"), second, READER).expect("mapped");
    (host, Arc::new(writer), Arc::new(reader))
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

#[test]
fn what_one_process_writes_the_other_reads_in_place() {
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

#[test]
fn a_pinned_block_stays_until_it_is_let_go() {
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

#[test]
fn freed_memory_is_used_again_at_once() {
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

#[test]
fn the_raylet_keeps_the_blocks_of_the_dead_that_others_own() {
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

#[test]
fn an_owner_may_hear_of_a_death_before_the_raylet_does() {
    let (mut host, writer, _reader) = arena();
    let block = put(&mut host, &writer, 1, MIB);
    assert!(writer.hand_over(block.offset, block.generation, READER));
    assert_eq!(host.free(block.offset, block.generation), FreeOutcome::NotMine);
    assert_eq!(host.client_died(writer.client(), WRITER).kept_blocks, 0);
    assert_eq!(host.stats().free_bytes, host.capacity());
}

#[test]
fn a_full_store_says_what_holds_it() {
    let (mut host, writer, _reader) = arena();
    put(&mut host, &writer, 1, 40 * MIB);
    let error = host.grant(writer.client(), 40 * MIB).expect_err("no room");
    let text = error.to_string();
    assert!(
        text.contains("no room for 40.0 MiB") && text.contains("client 1: 4"),
        "{text}"
    );
}

#[test]
fn dead_readers_pin_nothing() {
    let (mut host, writer, reader) = arena();
    let block = put(&mut host, &writer, 1, MIB);
    std::mem::forget(reader.pin(block.offset, block.len, block.generation).expect("sealed"));
    assert_eq!(writer.free(block.offset, block.generation), FreeOutcome::Pinned);
    assert_eq!(host.client_died(reader.client(), READER).cleared_pins, 1);
    assert_eq!(writer.reap(), 1);
}

#[test]
fn a_block_ends_with_its_owner() {
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

#[test]
fn a_block_ends_with_its_owner_when_its_writer_has_ended_before() {
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

#[test]
fn what_its_owner_gave_up_is_not_kept_although_its_writer_never_heard() {
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

// ---- short of room ---------------------------------------------------------------------------------------------------

fn ordinary(_: u64) -> Class {
    Class::Ordinary
}

fn all_aside(host: &mut ArenaHost) -> SetAsideBlocks {
    let regions = host.survey(ordinary);
    host.set_aside(&regions, ordinary)
}

#[test]
fn what_is_set_aside_can_be_read_by_nobody_else_and_comes_back() {
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

#[test]
fn what_is_looked_at_or_being_written_is_not_moved() {
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
    let aside = host.set_aside(&regions, ordinary);
    assert_eq!(
        aside.parts.iter().map(|part| part.key.offset).collect::<Vec<_>>(),
        [movable.offset]
    );
    assert_eq!(pin[0], 1);
    assert_eq!(host.set_aside(&regions, |_| Class::Held).parts, []);
}

#[test]
fn what_was_made_first_is_older() {
    let (mut host, writer, _reader) = arena();
    for byte in 0..3 {
        put(&mut host, &writer, byte, 5 * MIB);
    }
    let mut regions = host.survey(ordinary);
    regions.retain(|region| region.spill_bytes > 0);
    assert!(regions.is_sorted_by_key(|region| region.youngest) && regions[0].youngest < regions[2].youngest);
}

#[test]
fn a_closed_extent_comes_back_as_soon_as_it_is_empty() {
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

#[test]
fn a_block_on_its_way_to_disk_outlives_its_holder() {
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
