use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const START: u64 = 16 * PAGE;

fn table(capacity: u64) -> ExtentTable {
    ExtentTable::new(START, START + capacity)
}

fn granted(table: &mut ExtentTable, client: u32, bytes: u64) -> Extent {
    let extent = table.grant(client, bytes).expect("room");
    table.confirm(client, extent).expect("the client lives");
    table.check_invariants();
    extent
}

#[test]
fn lengths_are_comfortable() {
    assert_eq!(comfortable_len(PAGE), DEFAULT_EXTENT);
    assert_eq!(comfortable_len(MIB), DEFAULT_EXTENT);
    assert_eq!(
        comfortable_len(3 * MIB),
        6 * MIB,
        "two blocks of three MiB, and nothing wasted"
    );
    assert_eq!(comfortable_len(800 * MIB + PAGE), 802 * MIB);
    assert!(comfortable_len(5 * MIB + PAGE) <= 6 * MIB);
}

#[test]
fn pages_that_exist_are_preferred() {
    let mut table = table(64 * MIB);
    let first = granted(&mut table, 1, 8 * MIB);
    let second = granted(&mut table, 1, 8 * MIB);
    let third = granted(&mut table, 1, 8 * MIB);
    table.give_back(1, second).expect("held");
    assert_eq!(granted(&mut table, 2, 8 * MIB), second);
    table.give_back(2, second).expect("held");
    table.give_back(1, third).expect("held");
    let over = table.grant(2, 20 * MIB).expect("room");
    assert_eq!(over.offset, second.offset, "sixteen warm MiB, the rest is new");
    assert!(!table.is_populated(over) && table.is_populated(first));
    table.cancel(over);
    table.check_invariants();
}

#[test]
fn the_last_pages_go_to_whoever_needs_no_more() {
    let mut table = table(5 * MIB);
    assert_eq!(granted(&mut table, 1, 100).len, DEFAULT_EXTENT);
    assert_eq!(
        granted(&mut table, 1, 100).len,
        PAGE,
        "a default extent is not there any more"
    );
    let error = table.grant(2, MIB).expect_err("fragments of less than a MiB");
    assert_eq!(
        error.to_string(),
        "the object store has no room for 1.0 MiB: 4.0 MiB of its 5.0 MiB are in use (client 1: 4.0 MiB), and the \
         largest free piece has 1020.0 KiB. Drop references to objects that are no longer needed, or start with a \
         larger object_store_memory."
    );
    assert!(table.grant(2, u64::MAX).is_err());
    table.check_invariants();
}

#[test]
fn only_the_holder_gives_back_and_only_once() {
    let mut table = table(16 * MIB);
    let extent = granted(&mut table, 1, MIB);
    assert!(table.give_back(2, extent).is_err());
    assert!(table.give_back(1, Extent { len: PAGE, ..extent }).is_err());
    assert_eq!(table.give_back(1, extent), Ok(()));
    assert!(table.give_back(1, extent).is_err());
    table.check_invariants();
}

#[test]
fn kept_blocks_hold_their_pages_and_no_others() {
    let mut table = table(16 * MIB);
    let extent = granted(&mut table, 7, MIB);
    // Three in a row that share pages, and one apart.
    let blocks: Vec<_> = [(0, 6000), (6016, 1000), (7040, 9000), (MIB, 128)]
        .map(|(at, len)| KeptBlock {
            offset: extent.offset + at,
            len,
            generation: at,
        })
        .to_vec();
    assert_eq!(table.extents_of_dead(7), [extent]);
    table.take_over(extent, &blocks);
    table.check_invariants();
    assert_eq!(table.kept_page_bytes(), 5 * PAGE);
    for (index, pages) in [(1, 5), (0, 4), (3, 3), (2, 0)] {
        table.release_kept(blocks[index].offset);
        table.check_invariants();
        assert_eq!(table.kept_page_bytes(), pages * PAGE);
    }
    assert_eq!(table.free_bytes(), 16 * MIB);
}

#[test]
fn a_grant_that_is_still_pending_outlives_its_client_only_until_it_is_confirmed() {
    let mut table = table(16 * MIB);
    let extent = table.grant(3, MIB).expect("room");
    assert_eq!(table.extents_of_dead(3), []);
    assert_eq!(table.free_bytes(), 12 * MIB, "its pages are being written");
    let error = table.confirm(3, extent).expect_err("gone");
    assert_eq!(error.reason, FullReason::ClientGone);
    assert_eq!(table.free_bytes(), 16 * MIB);
    table.check_invariants();
}

#[test]
fn as_much_as_the_reserve_is_ready_ahead_of_need() {
    let mut table = table(64 * MIB);
    let fill = |table: &mut ExtentTable| {
        let step = |table: &mut ExtentTable| {
            let step = table.next_prefault(MIB, 8 * MIB)?;
            table.mark_populated(step);
            Some(step.len)
        };
        std::iter::from_fn(|| step(table)).sum::<u64>()
    };
    assert_eq!(fill(&mut table), 8 * MIB, "before anything is stored");
    let first = table.grant(1, MIB).expect("room");
    assert!(table.is_populated(first), "it comes from the reserve");
    let taken = first.len;
    table.cancel(first);
    assert_eq!(table.populated_free_bytes(), 8 * MIB);
    granted(&mut table, 1, MIB);
    let larger = table.grant(2, 12 * MIB).expect("room");
    let cold: u64 = table.cold_within(larger).iter().map(|part| part.len).sum();
    assert_eq!(
        cold + table.populated.bytes_within(larger.offset, larger.offset + larger.len),
        larger.len
    );
    assert!(cold < larger.len, "of a larger one only what is missing is made");
    table.cancel(larger);
    assert_eq!(fill(&mut table), taken, "what was taken is made good");
    let next = table.grant(2, MIB).expect("room");
    assert!(table.is_populated(next), "one whole range was made ready");
    table.cancel(next);
    let freed: u64 = std::iter::from_fn(|| table.take_populated_free(MIB))
        .map(|extent| extent.len)
        .sum();
    assert_eq!((freed, table.populated_free_bytes()), (8 * MIB, 0));
    table.check_invariants();
}

proptest! {
    #[test]
    fn a_range_set_is_a_set(steps in prop::collection::vec((any::<bool>(), 0usize..64, 1usize..20), 1..60)) {
        let mut set = RangeSet::default();
        let mut model = [false; 96];
        for (insert, start, len) in steps {
            let (from, to) = (start as u64, (start + len) as u64);
            if insert { set.insert(from, to) } else { set.remove(from, to) }
            model[start..start + len].fill(insert);
            prop_assert_eq!(set.bytes(), model.iter().filter(|in_set| **in_set).count() as u64);
            prop_assert_eq!(set.bytes_within(10, 50), model[10..50].iter().filter(|in_set| **in_set).count() as u64);
            let ends: Vec<_> = set.0.iter().collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }

    #[test]
    fn the_table_tiles_the_arena_whatever_happens(steps in prop::collection::vec((0u8..6, 1u32..4, 1u64..(9 << 20)), 1..80)) {
        let mut table = table(64 * MIB);
        let mut held: Vec<(u32, Extent)> = Vec::new();
        let mut kept: Vec<KeptBlock> = Vec::new();
        for (what, client, bytes) in steps {
            match what {
                0 | 1 => if let Ok(extent) = table.grant(client, bytes) {
                    prop_assert!(extent.len >= bytes);
                    table.confirm(client, extent).expect("alive");
                    held.push((client, extent));
                },
                2 => if !held.is_empty() {
                    let (client, extent) = held.swap_remove(bytes as usize % held.len());
                    table.give_back(client, extent).expect("held");
                },
                3 => {
                    held.retain(|(holder, _)| *holder != client);
                    for extent in table.extents_of_dead(client) {
                        let mut at = extent.offset + bytes % 64 * 64;
                        let mut blocks = Vec::new();
                        while at + 70_000 < extent.offset + extent.len && blocks.len() < 8 {
                            let len = 128 + (bytes ^ at) % 1000 * 64;
                            blocks.push(KeptBlock { offset: at, len, generation: at });
                            at += len + (at ^ bytes) % 3 * 64;
                        }
                        table.take_over(extent, &blocks);
                        kept.extend(blocks);
                    }
                },
                4 => if !kept.is_empty() {
                    let block = kept.swap_remove(bytes as usize % kept.len());
                    prop_assert_eq!(table.kept(block.offset), Some(block));
                    table.release_kept(block.offset);
                },
                _ => {
                    if let Some(ahead) = table.next_prefault(bytes, 16 * MIB) {
                        prop_assert!(!table.is_populated(ahead));
                        table.mark_populated(ahead);
                    }
                    table.take_populated_free(bytes / 4);
                },
            }
            table.check_invariants();
        }
    }
}
