//! Which actors belong to a worker, an owner, a job.

use std::hash::Hash;

use ray_rs_types::ActorId;
use rustc_hash::FxHashMap;

/// From a key to its actors, in the order in which they came. No key is kept without an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index<K: Eq + Hash>(FxHashMap<K, Vec<ActorId>>);

impl<K: Eq + Hash> Default for Index<K> {
    fn default() -> Self {
        Self(FxHashMap::default())
    }
}

impl<K: Eq + Hash + Copy> Index<K> {
    pub(super) fn add(&mut self, key: K, actor: ActorId) {
        self.0.entry(key).or_default().push(actor);
    }

    pub(super) fn remove(&mut self, key: K, actor: ActorId) {
        if let Some(actors) = self.0.get_mut(&key) {
            actors.retain(|other| *other != actor);
            if actors.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    pub(super) fn actors(&self, key: K) -> Vec<ActorId> {
        self.0.get(&key).cloned().unwrap_or_default()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// The same actors under the same keys, in whatever order.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let sorted = |index: &Self, key: &K| {
            let mut actors = index.actors(*key);
            actors.sort();
            actors
        };
        self.0.len() == other.0.len() && self.0.keys().all(|key| sorted(self, key) == sorted(other, key))
    }
}
