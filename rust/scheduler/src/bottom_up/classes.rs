//! Requests of one shape and its label rules, and the nodes for them.
//!
//! A class is made when a shape is first asked for, by one look at every node; from then on each change of a node changes
//! its place in each class. So a decision looks at no more nodes than it compares, however many there are.

use ray_rs_types::ResourceSet;
use ray_rs_types::placing::LabelRule;
use rustc_hash::FxHashMap;

use super::view::{Demand, Node};
use crate::policy::labels;

/// Shapes that are known at a time; the one that was not asked for longest makes way.
pub(super) const MAX_CLASSES: usize = 128;

/// A set of nodes by their places, which can be walked from anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places {
    words: Vec<u64>,
    count: usize,
}

impl Places {
    pub fn set(&mut self, place: usize, is_in: bool) {
        let (word, bit) = (place / 64, 1 << (place % 64));
        if word >= self.words.len() {
            if !is_in {
                return;
            }
            self.words.resize(word + 1, 0);
        }
        let was_in = self.words[word] & bit != 0;
        if is_in && !was_in {
            self.words[word] |= bit;
            self.count += 1;
        } else if !is_in && was_in {
            self.words[word] &= !bit;
            self.count -= 1;
        }
    }

    pub fn has(&self, place: usize) -> bool {
        self.words
            .get(place / 64)
            .is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// All places, once, beginning with the first at or after `start`.
    pub fn from(&self, start: usize) -> impl Iterator<Item = usize> + '_ {
        let words = self.words.len();
        let first = if words == 0 { 0 } else { (start / 64) % words };
        let low_bits = (1_u64 << (start % 64)) - 1;
        // The first word is walked in two parts, its lower one at the end.
        (0..=words).flat_map(move |step| {
            let word = if words == 0 { 0 } else { (first + step) % words };
            let mut bits = match (words, step) {
                (0, _) => 0,
                (_, 0) => self.words[word] & !low_bits,
                _ if step == words => self.words[word] & low_bits,
                _ => self.words[word],
            };
            std::iter::from_fn(move || {
                if bits == 0 {
                    return None;
                }
                let place = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                Some(place)
            })
        })
    }
}

#[derive(Debug)]
pub(super) struct Class {
    pub resources: ResourceSet,
    /// The same by number; `None`: it names a resource that no node has.
    pub demand: Option<Demand>,
    pub rules: Vec<LabelRule>,
    /// The empty node could serve it.
    pub feasible: Places,
    /// It has room now.
    pub roomy: Places,
    /// Where SPREAD goes on.
    pub turn: usize,
    last_asked: u64,
}

impl Class {
    pub fn place(&mut self, place: usize, node: Option<&Node>) {
        let open = node.filter(|node| !node.report().draining);
        let (could, has_room) = match (open, &self.demand) {
            (Some(node), Some(demand))
                if node.could_serve(demand) && labels::are_met(&node.report().labels, &self.rules) =>
            {
                (true, node.has_room(demand))
            }
            _ => (false, false),
        };
        self.feasible.set(place, could);
        self.roomy.set(place, has_room);
    }
}

#[derive(Debug, Default)]
pub(super) struct Classes {
    all: Vec<Class>,
    /// Few rules go with one shape.
    by_shape: FxHashMap<ResourceSet, Vec<usize>>,
    asked: u64,
}

impl Classes {
    pub fn find(&mut self, resources: &ResourceSet, rules: &[&[LabelRule]]) -> Option<usize> {
        self.asked += 1;
        let is_same = |class: &Class| class.rules.iter().eq(rules.iter().copied().flatten());
        let found = self.by_shape.get(resources)?;
        let at = found.iter().copied().find(|at| is_same(&self.all[*at]))?;
        self.all[at].last_asked = self.asked;
        Some(at)
    }

    /// Enters a class without nodes.
    pub fn make(&mut self, resources: &ResourceSet, demand: Option<Demand>, rules: &[&[LabelRule]]) -> usize {
        let class = Class {
            resources: resources.clone(),
            demand,
            rules: rules.iter().copied().flatten().cloned().collect(),
            feasible: Places::default(),
            roomy: Places::default(),
            turn: 0,
            last_asked: self.asked,
        };
        let at = if self.all.len() < MAX_CLASSES {
            self.all.push(class);
            self.all.len() - 1
        } else {
            let oldest = (0..self.all.len()).min_by_key(|at| self.all[*at].last_asked);
            let at = oldest.expect("there are many");
            let gone = std::mem::replace(&mut self.all[at], class);
            self.forget(&gone.resources, at);
            at
        };
        self.by_shape.entry(resources.clone()).or_default().push(at);
        at
    }

    fn forget(&mut self, resources: &ResourceSet, at: usize) {
        if let Some(places) = self.by_shape.get_mut(resources) {
            places.retain(|other| *other != at);
            if places.is_empty() {
                self.by_shape.remove(resources);
            }
        }
    }

    /// The numbers of resources have changed their meaning.
    pub fn clear(&mut self) {
        self.all.clear();
        self.by_shape.clear();
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Class> {
        self.all.iter_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Class> {
        self.all.iter()
    }
}

impl std::ops::Index<usize> for Classes {
    type Output = Class;

    fn index(&self, at: usize) -> &Class {
        &self.all[at]
    }
}

impl std::ops::IndexMut<usize> for Classes {
    fn index_mut(&mut self, at: usize) -> &mut Class {
        &mut self.all[at]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_walk_meets_each_place_once_from_where_it_starts(
            places in prop::collection::btree_set(0_usize..200, 0..60),
            start in 0_usize..300,
        ) {
            let mut set = Places::default();
            for place in &places {
                set.set(*place, true);
                set.set(*place, true);
            }
            set.set(500, false);
            let walked: Vec<usize> = set.from(start).collect();
            let wraps = set.words.len() * 64;
            let from = if wraps == 0 { 0 } else { start % wraps };
            let expected: Vec<usize> = places.range(from..).chain(places.range(..from)).copied().collect();
            prop_assert_eq!(&walked, &expected);
            prop_assert_eq!(set.count(), places.len());
            for place in &places {
                prop_assert!(set.has(*place));
                set.set(*place, false);
            }
            prop_assert_eq!(set.from(0).count(), 0);
        }
    }
}
