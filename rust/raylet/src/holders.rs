//! Who has copies of this node's values: which of them a reader is sent to, so that a value that everybody reads does not
//! leave its node once for each.
//!
//! The first readers get the value from here. Those that come later are sent to earlier ones, each of which passes it on to
//! a few, also while it is still getting it itself: a tree whose root this node is. A reader that got nothing where it
//! was sent comes back and says who failed it. Ids and counts only; [`crate::transfer`] moves the bytes.
//!
//! * `HLD-1` a reader is sent only to one that asked before it, so nobody ever waits in a circle.
//! * `HLD-2` as long as all whom readers are sent to do pass the value on, it leaves this node [`FROM_HERE`] times.
//! * `HLD-3` no more than [`FAN_OUT`] readers are sent to the same one.

use ray_rs_object_store::spill::Key;
use ray_rs_types::NodeId;
use rustc_hash::FxHashMap;

/// Smaller values always come from here: they are sent sooner than somebody else is asked.
pub(crate) const WORTH_SHARING_BYTES: u64 = 1 << 20;
/// How often a value is sent from here.
const FROM_HERE: usize = 2;
/// To how many others a reader passes it on.
const FAN_OUT: usize = 2;
/// Values whose readers are remembered. Beyond that the one is forgotten that was asked for longest ago.
const MAX_VALUES: usize = 1024;

/// Where a reader gets a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Here,
    Reader(NodeId),
}

#[derive(Debug)]
struct Reader {
    node: NodeId,
    from: Origin,
    /// It passes nothing on: it has died, or somebody whom it was to pass the value on to got nothing.
    fails: bool,
}

#[derive(Debug, Default)]
struct Value {
    /// In the order in which they first asked.
    readers: Vec<Reader>,
    asked_at: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Holders {
    values: FxHashMap<Key, Value>,
    questions: u64,
}

impl Holders {
    /// `reader` wants the value. `failed`: the one that it was sent to before, and got nothing or not all from.
    pub fn asked(&mut self, key: Key, bytes: u64, reader: NodeId, failed: Option<NodeId>) -> Origin {
        if bytes < WORTH_SHARING_BYTES {
            return Origin::Here;
        }
        self.questions += 1;
        if self.values.len() >= MAX_VALUES && !self.values.contains_key(&key) {
            self.forget_oldest();
        }
        let value = self.values.entry(key).or_default();
        value.asked_at = self.questions;
        if let Some(known) = value.readers.iter_mut().find(|known| Some(known.node) == failed) {
            known.fails = true;
        }
        let index = value.readers.iter().position(|known| known.node == reader);
        let before = index.unwrap_or(value.readers.len());
        let from = value.source_for(before, reader);
        let entry = Reader {
            node: reader,
            from,
            fails: false,
        };
        match index {
            Some(index) => value.readers[index] = entry,
            None => value.readers.push(entry),
        }
        from
    }

    pub fn node_died(&mut self, node: NodeId) {
        for value in self.values.values_mut() {
            for reader in value.readers.iter_mut().filter(|reader| reader.node == node) {
                reader.fails = true;
            }
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.values.iter().min_by_key(|(_, value)| value.asked_at);
        if let Some(key) = oldest.map(|(key, _)| *key) {
            self.values.remove(&key);
        }
    }

    /// Panics when `HLD-1` or `HLD-3` does not hold.
    #[cfg(test)]
    fn check_invariants(&self) {
        for value in self.values.values() {
            for (index, reader) in value.readers.iter().enumerate() {
                if let Origin::Reader(other) = reader.from {
                    let at = value.readers.iter().position(|known| known.node == other);
                    assert!(at.is_some_and(|at| at < index), "HLD-1");
                }
                assert!(value.sent_to(Origin::Reader(reader.node)) <= FAN_OUT, "HLD-3");
            }
        }
    }
}

impl Value {
    /// For the reader at this place in the order: from here if few had it from here, else from the first that may pass it on.
    fn source_for(&self, before: usize, reader: NodeId) -> Origin {
        let others = |from: Origin| {
            let sent = self.readers.iter().filter(|other| other.from == from && !other.fails);
            sent.filter(|other| other.node != reader).count()
        };
        if others(Origin::Here) < FROM_HERE {
            return Origin::Here;
        }
        self.readers[..before]
            .iter()
            .find(|earlier| !earlier.fails && self.sent_to(Origin::Reader(earlier.node)) < FAN_OUT)
            .map_or(Origin::Here, |earlier| Origin::Reader(earlier.node))
    }

    fn sent_to(&self, from: Origin) -> usize {
        self.readers.iter().filter(|reader| reader.from == from).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key {
        offset: 64,
        generation: 3,
    };
    const LARGE: u64 = 1 << 30;

    fn node(number: u8) -> NodeId {
        NodeId([number; 28])
    }

    #[test]
    fn the_first_get_it_from_here_and_the_later_ones_from_them() {
        let mut holders = Holders::default();
        let from: Vec<Origin> = (1..=8)
            .map(|reader| holders.asked(KEY, LARGE, node(reader), None))
            .collect();
        let reader = |number| Origin::Reader(node(number));
        assert_eq!(
            from,
            [
                Origin::Here,
                Origin::Here,
                reader(1),
                reader(1),
                reader(2),
                reader(2),
                reader(3),
                reader(3)
            ]
        );
        holders.check_invariants();
    }

    #[test]
    fn a_small_value_is_sent_from_here_whoever_asks() {
        let mut holders = Holders::default();
        for reader in 1..=50 {
            assert_eq!(
                holders.asked(KEY, WORTH_SHARING_BYTES - 1, node(reader), None),
                Origin::Here
            );
        }
        assert!(holders.values.is_empty());
    }

    #[test]
    fn who_was_failed_is_sent_to_another_that_came_before_it_or_served_here() {
        let mut holders = Holders::default();
        for reader in 1..=4 {
            holders.asked(KEY, LARGE, node(reader), None);
        }
        // The third was sent to the first, which has died.
        assert_eq!(holders.asked(KEY, LARGE, node(3), Some(node(1))), Origin::Here);
        assert_eq!(
            holders.asked(KEY, LARGE, node(4), Some(node(1))),
            Origin::Reader(node(2))
        );
        assert_eq!(holders.asked(KEY, LARGE, node(5), None), Origin::Reader(node(2)));
        assert_eq!(holders.asked(KEY, LARGE, node(6), None), Origin::Reader(node(3)));
        holders.check_invariants();
    }

    #[test]
    fn nobody_is_sent_to_a_node_that_died() {
        let mut holders = Holders::default();
        for reader in 1..=2 {
            holders.asked(KEY, LARGE, node(reader), None);
        }
        holders.node_died(node(1));
        holders.node_died(node(2));
        assert_eq!(holders.asked(KEY, LARGE, node(3), None), Origin::Here);
        assert_eq!(holders.asked(KEY, LARGE, node(4), None), Origin::Here);
        assert_eq!(holders.asked(KEY, LARGE, node(5), None), Origin::Reader(node(3)));
        holders.check_invariants();
    }

    #[test]
    fn the_values_that_were_asked_for_longest_ago_are_forgotten() {
        let mut holders = Holders::default();
        for offset in 0..=MAX_VALUES as u64 {
            holders.asked(Key { offset, ..KEY }, LARGE, node(1), None);
        }
        assert_eq!(holders.values.len(), MAX_VALUES);
        assert!(!holders.values.contains_key(&Key { offset: 0, ..KEY }));
    }

    proptest::proptest! {
        /// Whoever asks, again and again, and whoever fails: nobody is sent to itself, to one that came later, or to one
        /// known to fail; and each who asks on ends up here.
        #[test]
        fn asking_always_comes_to_an_end(
            steps in proptest::collection::vec((0u8..12, proptest::bool::ANY, proptest::bool::ANY), 1..200)
        ) {
            let mut holders = Holders::default();
            for (reader, dies, insists) in steps {
                if dies {
                    holders.node_died(node(reader));
                    continue;
                }
                let mut from = holders.asked(KEY, LARGE, node(reader), None);
                holders.check_invariants();
                let mut turns = 0;
                while let Origin::Reader(other) = from && insists {
                    assert_ne!(other, node(reader));
                    from = holders.asked(KEY, LARGE, node(reader), Some(other));
                    holders.check_invariants();
                    turns += 1;
                    assert!(turns < 13, "each that fails is asked once");
                }
            }
        }
    }
}
