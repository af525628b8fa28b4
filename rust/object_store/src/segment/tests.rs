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
    writer.hand_over(sealed.offset, sealed.generation, READER);
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
    writer.hand_over(block.offset, block.generation, READER);
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
        writer.hand_over(block.offset, block.generation, READER);
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
    writer.hand_over(given.offset, given.generation, READER);
    writer.hand_over(for_ever.offset, for_ever.generation, 0);
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
        writer.hand_over(block.offset, block.generation, READER);
        reader.mark_unwanted(block.offset, block.generation);
    }
    assert_eq!(writer.free(heard.offset, heard.generation), FreeOutcome::Freed);
    assert_eq!(host.client_died(writer.client(), WRITER).kept_blocks, 0);
    assert_eq!(host.stats().free_bytes, host.capacity());
}
