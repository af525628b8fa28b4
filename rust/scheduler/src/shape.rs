//! What a request asks for, as a part of its queue's name, and the queues whose turn it is.
//!
//! A node may have thousands of resources, and as many queues: what is asked of each of them at every event must not cost
//! more than a few comparisons, however many names a shape has.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::resources::CPU;
use ray_rs_types::{PlacementGroupId, Quantity, ResourceSet};
use rustc_hash::FxHasher;

use crate::queue::QueueKey;

/// A set of resources that is hashed once.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    set: Arc<ResourceSet>,
    hash: u64,
    group: Option<PlacementGroupId>,
}

impl Shape {
    pub fn new(set: ResourceSet) -> Self {
        let mut hasher = FxHasher::default();
        set.hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            group: BundleDemand::group_of(&set),
            set: Arc::new(set),
        }
    }

    /// The placement group whose resources it names.
    pub fn group(&self) -> Option<PlacementGroupId> {
        self.group
    }

    /// Where in a placement group it is to be served.
    pub fn inside(&self) -> Option<BundleDemand> {
        self.group.and_then(|_| BundleDemand::of(&self.set))
    }

    pub fn set(&self) -> &Arc<ResourceSet> {
        &self.set
    }

    /// What of the node's own processors must be free for it.
    fn own_cpus(&self) -> Quantity {
        match self.group {
            Some(_) => Quantity::ZERO,
            None => self.set.get(CPU),
        }
    }
}

impl Deref for Shape {
    type Target = ResourceSet;

    fn deref(&self) -> &ResourceSet {
        &self.set
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.set.fmt(f)
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.set, &other.set) || (self.hash == other.hash && self.set == other.set)
    }
}

impl Eq for Shape {}

impl Hash for Shape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Queues with items, whose turn is next in front.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    order: VecDeque<QueueKey>,
    /// How many of them ask for how much of the node's own processors.
    by_cpus: BTreeMap<Quantity, usize>,
}

impl Turns {
    pub fn push_back(&mut self, key: QueueKey) {
        *self.by_cpus.entry(key.shape.own_cpus()).or_default() += 1;
        self.order.push_back(key);
    }

    pub fn remove(&mut self, index: usize) {
        if let Some(key) = self.order.remove(index) {
            self.count_out(&key);
        }
    }

    pub fn forget(&mut self, key: &QueueKey) {
        if let Some(index) = self.order.iter().position(|turn| turn == key) {
            self.remove(index);
        }
    }

    fn count_out(&mut self, key: &QueueKey) {
        let cpus = key.shape.own_cpus();
        let count = self.by_cpus.get_mut(&cpus).expect("a queue is counted as it enters");
        *count -= 1;
        if *count == 0 {
            self.by_cpus.remove(&cpus);
        }
    }

    /// Whether one of them asks for no more processors than are free.
    pub fn any_asks_for_at_most(&self, free: Quantity) -> bool {
        self.by_cpus
            .keys()
            .next()
            .is_some_and(|least| *least <= free.max(Quantity::ZERO))
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&QueueKey> {
        self.order.get(index)
    }

    pub fn iter(&self) -> impl Iterator<Item = &QueueKey> {
        self.order.iter()
    }

    pub fn check_invariants(&self) {
        let mut counted = BTreeMap::new();
        for key in &self.order {
            *counted.entry(key.shape.own_cpus()).or_default() += 1;
        }
        assert_eq!(self.by_cpus, counted, "SCH-3: turns are counted by their processors");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ClientKey, EnvKey};
    use crate::queue::Source;

    fn key(cpus: f64, other: &str) -> QueueKey {
        QueueKey {
            source: Source::Client(ClientKey(1)),
            shape: Shape::new(ResourceSet::new().with(CPU, cpus).with(other, 1.0)),
            env: EnvKey::JOB,
        }
    }

    #[test]
    fn shapes_of_equal_content_are_one() {
        assert_eq!(key(1.0, "a"), key(1.0, "a"));
        assert_ne!(key(1.0, "a"), key(1.0, "b"));
        assert_eq!(key(1.0, "a").shape.group(), None);
    }

    #[test]
    fn the_least_processors_that_any_turn_asks_for() {
        let mut turns = Turns::default();
        assert!(!turns.any_asks_for_at_most(Quantity::from_f64(9.0)));
        for (cpus, other) in [(2.0, "a"), (1.0, "b"), (1.0, "c")] {
            turns.push_back(key(cpus, other));
        }
        assert!(turns.any_asks_for_at_most(Quantity::from_f64(1.0)));
        assert!(!turns.any_asks_for_at_most(Quantity::from_f64(0.5)));
        turns.forget(&key(1.0, "b"));
        turns.forget(&key(1.0, "absent"));
        assert!(turns.any_asks_for_at_most(Quantity::from_f64(1.0)));
        turns.remove(1);
        assert!(!turns.any_asks_for_at_most(Quantity::from_f64(1.0)));
        assert!(turns.any_asks_for_at_most(Quantity::from_f64(2.0)));
        turns.push_back(key(0.0, "d"));
        assert!(
            turns.any_asks_for_at_most(Quantity::from_f64(-1.0)),
            "what needs none may always begin"
        );
        turns.check_invariants();
        assert_eq!(turns.len(), 2);
    }
}
