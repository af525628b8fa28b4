//! What is registered once and then goes by a small number: functions with their options, and the classes of what they ask
//! for. A place is used again when nobody uses what lies there, so that `f.options(...)` in a loop leaves nothing behind,
//! whatever its options are.

use std::hash::{BuildHasher, Hash};

use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;

/// So many may lie there unused.
const ROOM: usize = 256;

#[derive(Debug)]
struct Entry<T> {
    value: T,
    hash: u64,
    /// Handles of the program.
    users: u32,
}

#[derive(Debug)]
pub(crate) struct Registry<T> {
    entries: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    by_hash: FxHashMap<u64, SmallVec<[u32; 1]>>,
    /// With so many entries it is time to look which are used.
    sweep_at: usize,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            by_hash: FxHashMap::default(),
            sweep_at: ROOM,
        }
    }
}

impl<T> Registry<T> {
    pub fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.as_ref().map(|entry| &entry.value)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten().map(|entry| &entry.value)
    }

    /// As [`Registry::place_of`], with one user more.
    pub fn use_or_add(&mut self, wanted: T) -> u32
    where
        T: Hash + PartialEq,
    {
        let index = self.place_of(wanted);
        self.entries[index as usize].as_mut().expect("it is there").users += 1;
        index
    }

    /// The place of what equals `wanted`, which is added if there is none.
    pub fn place_of(&mut self, wanted: T) -> u32
    where
        T: Hash + PartialEq,
    {
        let hash = FxBuildHasher.hash_one(&wanted);
        let known = self.by_hash.get(&hash).and_then(|candidates| {
            let equals = |at: &&u32| self.get(**at) == Some(&wanted);
            candidates.iter().find(equals).copied()
        });
        known.unwrap_or_else(|| {
            let entry = Some(Entry {
                value: wanted,
                hash,
                users: 0,
            });
            let index = match self.free.pop() {
                Some(index) => {
                    self.entries[index as usize] = entry;
                    index
                }
                None => {
                    self.entries.push(entry);
                    u32::try_from(self.entries.len() - 1).expect("memory ends before")
                }
            };
            self.by_hash.entry(hash).or_default().push(index);
            index
        })
    }

    /// A user has gone. What lies there stays until it is swept away.
    pub fn unuse(&mut self, index: u32) {
        if let Some(Some(entry)) = self.entries.get_mut(index as usize) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether looking is worth its cost, which is then a constant for each entry added.
    pub fn should_sweep(&self) -> bool {
        self.len() >= self.sweep_at
    }

    /// Removes what has neither users nor a need that `is_needed` knows; returns where.
    pub fn sweep(&mut self, mut is_needed: impl FnMut(u32, &T) -> bool) -> Vec<u32> {
        let mut freed = Vec::new();
        for (place, index) in self.entries.iter_mut().zip(0_u32..) {
            let Some(entry) = place else { continue };
            if entry.users > 0 || is_needed(index, &entry.value) {
                continue;
            }
            if let Some(candidates) = self.by_hash.get_mut(&entry.hash) {
                candidates.retain(|other| *other != index);
                if candidates.is_empty() {
                    self.by_hash.remove(&entry.hash);
                }
            }
            *place = None;
            freed.push(index);
        }
        self.free.extend(&freed);
        self.sweep_at = (self.len() * 2).max(ROOM);
        freed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_is_found_and_the_rest_is_new() {
        let mut registry = Registry::default();
        let at: Vec<u32> = ["a", "b", "a", "c", "b"].map(|text| registry.use_or_add(text)).into();
        assert_eq!(at, [0, 1, 0, 2, 1]);
        registry.unuse(0);
        registry.unuse(2);
        // One of the two users of `a` is still there.
        assert_eq!(registry.sweep(|_, _| false), [2]);
        assert_eq!((registry.get(0), registry.get(2)), (Some(&"a"), None));
        assert_eq!(registry.use_or_add("d"), 2);
        assert_eq!(registry.use_or_add("a"), 0);
    }

    proptest! {
        /// Whoever uses a number finds what it registered, and what nobody uses does not pile up.
        #[test]
        fn numbers_mean_what_they_meant(steps in prop::collection::vec((any::<bool>(), 0_u16..2000), 1..4000)) {
            let mut registry = Registry::default();
            let mut users: Vec<(u32, u16)> = Vec::new();
            for (comes, number) in steps {
                if comes || users.is_empty() {
                    if registry.should_sweep() {
                        registry.sweep(|_, _| false);
                    }
                    users.push((registry.use_or_add(number), number));
                } else {
                    let (index, _) = users.swap_remove(usize::from(number) % users.len());
                    registry.unuse(index);
                }
                prop_assert!(registry.len() <= users.len() * 2 + ROOM);
            }
            for (index, number) in &users {
                prop_assert_eq!(registry.get(*index), Some(number));
            }
        }
    }
}
