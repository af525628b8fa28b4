//! Recounts every count from scratch.

use rustc_hash::FxHashMap;

use crate::entry::{OwnerIndex, RefSlot, State};
use crate::table::{Contains, OwnerTable};

impl<V: Contains, S> OwnerTable<V, S> {
    /// # Panics
    /// When a count does not equal what it counts, or an index is wrong.
    pub fn check_invariants(&self) {
        let mut contained: FxHashMap<RefSlot, u32> = FxHashMap::default();
        let mut submitted: FxHashMap<RefSlot, u32> = FxHashMap::default();
        for (_, entry) in self.entries.iter() {
            if let State::Ready { value, .. } = &entry.state {
                for slot in value.references() {
                    *contained.entry(*slot).or_default() += 1;
                }
            }
        }
        for (_, task) in self.tasks.iter() {
            for slot in task.deps.iter().chain(task.held.iter()) {
                *submitted.entry(*slot).or_default() += 1;
            }
        }
        for (index, entry) in self.entries.iter() {
            let slot = RefSlot(index);
            assert_eq!(
                entry.contained,
                contained.remove(&slot).unwrap_or(0),
                "contained count of {:?}",
                entry.id
            );
            assert_eq!(
                entry.submitted,
                submitted.remove(&slot).unwrap_or(0),
                "submitted count of {:?}",
                entry.id
            );
            assert_eq!(
                entry.indexed,
                self.by_id.get(&entry.id) == Some(&slot),
                "index of {:?}",
                entry.id
            );
            assert!(
                entry.borrowers.iter().all(|(_, sum)| *sum != 0),
                "a sum of zero ends a borrow (OWN-1)"
            );
            assert!(
                !entry.is_unreferenced() || !entry.is_ready(),
                "{:?} is ready and unreferenced but not freed",
                entry.id
            );
        }
        let borrowed = self.entries.iter().filter(|(_, entry)| entry.owner != OwnerIndex::ME);
        assert_eq!(self.borrowed, borrowed.count(), "count of borrowed objects");
        assert!(
            contained.is_empty() && submitted.is_empty(),
            "a count of a reference that is not in the table"
        );
    }
}
