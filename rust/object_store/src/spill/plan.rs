//! Which part of the arena to clear.
//!
//! Room is needed in one piece, and clients give extents back as a whole. So what is chosen is a run of neighbouring
//! regions from which nothing is kept, and of all such runs the one whose youngest object is the oldest: what was made
//! first is, in most programs, what is read last. Regions in which something cannot be moved are left alone.

use std::ops::Range;

/// Who has a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionKind {
    Free,
    /// An extent of a client, by its row.
    Extent(u32),
    /// The pages of a block that the raylet holds itself.
    Kept,
}

/// A part of the arena, with what a look at its blocks gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub offset: u64,
    pub len: u64,
    pub kind: RegionKind,
    /// Bytes of values that lie there, movable or not.
    pub live_bytes: u64,
    /// Bytes that would have to be written to disk; 0: nothing lies there, or all of it is on disk already.
    pub spill_bytes: u64,
    /// When the last of what lies there was made; 0: nothing lies there that is missed.
    pub youngest: u32,
    /// Something in it cannot be moved now: it is looked at, being written, or just brought back for somebody.
    pub stuck: bool,
}

/// The regions to clear, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Together they make the room that was asked for. Empty: there was no request.
    pub window: Range<usize>,
    /// Cleared along with them, so that files are large and the next request finds room.
    pub ahead: Vec<usize>,
}

impl Plan {
    pub fn regions(&self) -> impl Iterator<Item = usize> {
        self.window.clone().chain(self.ahead.iter().copied())
    }
}

/// Whether no more than `free_share` (one part in so many) of the arena is left when what clients keep empty is counted
/// as free: they give it back when somebody is short, and nothing is written to disk for it.
pub fn is_nearly_full(regions: &[Region], free_share: u64) -> bool {
    let capacity: u64 = regions.iter().map(|region| region.len).sum();
    let live: u64 = regions.iter().map(|region| region.live_bytes).sum();
    capacity.saturating_sub(live) < capacity / free_share
}

/// Chooses what to clear so that `need_bytes` of room come to be in one piece; and further, as long as less than
/// `batch_bytes` would be written. `regions` lie side by side in order of their offsets. `None` when no run of movable
/// regions is long enough, or when there is nothing to clear.
pub fn plan(regions: &[Region], need_bytes: u64, batch_bytes: u64) -> Option<Plan> {
    let window = if need_bytes == 0 {
        0..0
    } else {
        best_window(regions, need_bytes)?
    };
    let mut writes: u64 = regions[window.clone()].iter().map(|region| region.spill_bytes).sum();
    let mut others: Vec<usize> = (0..regions.len())
        .filter(|index| !window.contains(index))
        .filter(|index| regions[*index].kind != RegionKind::Free && !regions[*index].stuck)
        .collect();
    others.sort_by_key(|index| (regions[*index].youngest, regions[*index].offset));
    let mut ahead = Vec::new();
    for index in others {
        // What costs nothing comes along only with what does: it may be wanted again.
        if writes >= batch_bytes {
            break;
        }
        writes += regions[index].spill_bytes;
        ahead.push(index);
    }
    let has_work = window
        .clone()
        .chain(ahead.iter().copied())
        .any(|index| regions[index].kind != RegionKind::Free);
    has_work.then_some(Plan { window, ahead })
}

fn best_window(regions: &[Region], need_bytes: u64) -> Option<Range<usize>> {
    let mut best: Option<((u32, u64, u64), Range<usize>)> = None;
    for start in 0..regions.len() {
        let (mut len, mut youngest, mut writes) = (0, 0, 0);
        for (index, region) in regions.iter().enumerate().skip(start) {
            if region.stuck {
                break;
            }
            len += region.len;
            youngest = youngest.max(region.youngest);
            writes += region.spill_bytes;
            if best.as_ref().is_some_and(|(merit, _)| (youngest, writes, 0) >= *merit) {
                break;
            }
            if len >= need_bytes {
                best = Some(((youngest, writes, len), start..index + 1));
                break;
            }
        }
    }
    best.map(|(_, window)| window)
}

/// Distributes objects of these lengths to files, in order: a file is closed when the next object would take it past
/// `file_bytes`. An object that is larger has a file of its own.
pub fn fuse(lens: &[u64], file_bytes: u64) -> Vec<Range<usize>> {
    let mut files = Vec::new();
    let (mut start, mut total) = (0, 0);
    for (index, len) in lens.iter().enumerate() {
        if index > start && total + len > file_bytes {
            files.push(start..index);
            (start, total) = (index, 0);
        }
        total += len;
    }
    if start < lens.len() {
        files.push(start..lens.len());
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(offset: u64, len: u64, spill_bytes: u64, youngest: u32) -> Region {
        Region {
            offset,
            len,
            kind: RegionKind::Extent(1),
            live_bytes: spill_bytes,
            spill_bytes,
            youngest,
            stuck: false,
        }
    }

    fn row(parts: &[(u64, u64, u32)]) -> Vec<Region> {
        let mut offset = 0;
        let place = |(len, spill_bytes, youngest): &(u64, u64, u32)| {
            offset += len;
            region(offset - len, *len, *spill_bytes, *youngest)
        };
        parts.iter().map(place).collect()
    }

    #[test]
    fn the_oldest_goes_first() {
        let regions = row(&[(4, 4, 9), (4, 4, 3), (4, 4, 5)]);
        assert_eq!(plan(&regions, 4, 0).map(|plan| plan.window), Some(1..2));
        assert_eq!(plan(&regions, 8, 0).map(|plan| plan.window), Some(1..3));
        assert_eq!(plan(&regions, 12, 0).map(|plan| plan.window), Some(0..3));
        assert_eq!(plan(&regions, 13, 0), None);
    }

    #[test]
    fn what_is_looked_at_divides_the_arena() {
        let mut regions = row(&[(4, 4, 1), (4, 4, 2), (4, 4, 3), (4, 4, 4)]);
        regions[1].stuck = true;
        assert_eq!(plan(&regions, 8, 0).map(|plan| plan.window), Some(2..4));
        assert_eq!(plan(&regions, 12, 0), None);
        regions.iter_mut().for_each(|region| region.stuck = true);
        assert_eq!(plan(&regions, 1, 0), None);
        assert_eq!(plan(&regions, 0, 100), None);
    }

    #[test]
    fn what_costs_nothing_is_preferred_and_a_batch_is_filled_up_oldest_first() {
        let regions = row(&[(4, 4, 7), (4, 0, 0), (4, 4, 2), (4, 4, 1)]);
        let chosen = plan(&regions, 4, 8).expect("room");
        assert_eq!((chosen.window, chosen.ahead), (1..2, vec![3, 2]));
    }

    #[test]
    fn free_regions_join_a_window_but_are_no_work() {
        let mut regions = row(&[(4, 0, 0), (4, 4, 6), (4, 4, 2)]);
        regions[0].kind = RegionKind::Free;
        assert_eq!(
            plan(&regions, 8, 0).map(|plan| plan.window),
            Some(0..2),
            "as young, and less to write"
        );
        assert_eq!(plan(&regions[..1], 4, 100), None, "nothing to clear");
    }

    #[test]
    fn what_clients_keep_empty_counts_as_free() {
        let mut regions = row(&[(10, 4, 1), (10, 3, 2)]);
        assert!(!is_nearly_full(&regions, 5), "7 of 20 are taken");
        // Nothing of it could be written to disk, but it is there.
        regions[1].live_bytes = 10;
        regions[0].live_bytes = 6;
        assert!(!is_nearly_full(&regions, 5), "16 of 20 are taken: a fifth is left");
        regions[0].live_bytes = 7;
        assert!(is_nearly_full(&regions, 5));
    }

    #[test]
    fn objects_share_files_up_to_the_limit() {
        assert!(fuse(&[], 10).is_empty());
        assert_eq!(fuse(&[3, 3, 3, 3, 30, 1], 10), [0..3, 3..4, 4..5, 5..6]);
    }

    proptest! {
        /// Against every window there is, tried one by one.
        #[test]
        fn the_window_is_the_best_there_is(
            parts in prop::collection::vec((1u64..6, 0u64..6, 0u32..8, any::<bool>(), any::<bool>()), 1..24),
            need in 1u64..40,
        ) {
            let mut regions = row(&parts.iter().map(|(len, spill, youngest, ..)| (*len, (*spill).min(*len), *youngest)).collect::<Vec<_>>());
            for (region, (.., stuck, free)) in regions.iter_mut().zip(&parts) {
                if *free {
                    (region.kind, region.spill_bytes, region.youngest) = (RegionKind::Free, 0, 0);
                } else {
                    region.stuck = *stuck;
                }
            }
            let merit = |window: Range<usize>| {
                let inside = &regions[window];
                let enough = inside.iter().map(|region| region.len).sum::<u64>() >= need;
                let movable = inside.iter().all(|region| !region.stuck);
                (enough && movable).then(|| {
                    let youngest = inside.iter().map(|region| region.youngest).max().unwrap_or(0);
                    (youngest, inside.iter().map(|region| region.spill_bytes).sum::<u64>())
                })
            };
            let naive = (0..regions.len())
                .flat_map(|start| (start + 1..=regions.len()).map(move |end| start..end))
                .filter_map(merit)
                .min();
            let chosen = best_window(&regions, need);
            prop_assert_eq!(chosen.clone().and_then(merit), naive);
            if let Some(plan) = plan(&regions, need, 10) {
                prop_assert!(plan.regions().all(|index| !regions[index].stuck));
                let mut seen: Vec<_> = plan.regions().collect();
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), plan.regions().count(), "each region once");
            }
        }

        #[test]
        fn every_object_is_in_one_file(lens in prop::collection::vec(0u64..50, 0..60), limit in 1u64..120) {
            let files = fuse(&lens, limit);
            prop_assert_eq!(files.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..lens.len()).collect::<Vec<_>>());
            for file in files {
                prop_assert!(file.len() == 1 || lens[file].iter().sum::<u64>() <= limit);
            }
        }
    }
}
