//! Recounts every count from scratch.

use rustc_hash::FxHashMap;

use crate::entry::{OwnerIndex, RefSlot, State};
use crate::table::{Contains, OwnerTable};
use crate::task::{NO_RETURN, TaskKey, TaskState};

impl<V: Contains, S> OwnerTable<V, S> {
    /// # Panics
    /// When a count does not equal what it counts, or an index is wrong.
    pub fn check_invariants(&self) {
        assert!(
            self.wanted.is_empty() && self.unreferenced.is_empty(),
            "what one call was to look at was left for the next"
        );
        let mut contained: FxHashMap<RefSlot, u32> = FxHashMap::default();
        let mut submitted: FxHashMap<RefSlot, u32> = FxHashMap::default();
        let mut lineage: FxHashMap<RefSlot, u32> = FxHashMap::default();
        let (mut kept_specs, mut kept_bytes) = (0, 0);
        for (_, entry) in self.entries.iter() {
            if let State::Ready { value, .. } = &entry.state {
                for slot in value.references() {
                    *contained.entry(*slot).or_default() += 1;
                }
            }
        }
        for (index, task) in self.tasks.iter() {
            let counts = match task.state {
                TaskState::Lineage => &mut lineage,
                TaskState::WaitingForArguments | TaskState::Submitted => &mut submitted,
            };
            for slot in task.deps.iter().chain(task.held.iter()) {
                *counts.entry(*slot).or_default() += 1;
            }
            assert_eq!(
                task.kept.is_some(),
                task.state == TaskState::Lineage,
                "what is kept is known with its size"
            );
            if let Some(kept) = &task.kept {
                kept_specs += 1;
                kept_bytes += kept.bytes;
            }
            let names_it = |slot: RefSlot| {
                let entry = self.entries.get(slot.0);
                entry.is_some_and(|entry| entry.task == Some(TaskKey(index)))
            };
            let items = task.items.iter().flat_map(|items| items.live());
            let returns = task.returns.iter().copied().filter(|slot| *slot != NO_RETURN);
            let live: Vec<RefSlot> = returns.chain(items).collect();
            assert_eq!(live.len(), task.live_returns as usize, "returns that are left");
            assert!(live.into_iter().all(names_it), "a return that names another task");
            assert!(
                task.live_returns > 0 || task.state != TaskState::Lineage || task.returns.is_empty(),
                "LIN-3"
            );
        }
        assert_eq!(
            (kept_specs, kept_bytes),
            (self.lineage.count(), self.lineage.bytes()),
            "LIN-3"
        );
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
                entry.lineage,
                lineage.remove(&slot).unwrap_or(0),
                "lineage count of {:?} (LIN-1)",
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
            let owner_makes_it = entry.task.and_then(|key| self.tasks.get(key.0));
            assert!(
                entry.owner == OwnerIndex::ME || owner_makes_it.is_none_or(|task| task.inherited_as.is_some()),
                "a borrowed object that a task of this process makes (ADO-2)"
            );
            assert!(
                !entry.awaits_will
                    || entry.owner == OwnerIndex::ME && entry.task.is_none() && matches!(entry.state, State::Absent),
                "{:?} awaits what is here (ADO-5)",
                entry.id
            );
            assert!(
                !entry.is_unreferenced() || !entry.is_ready(),
                "{:?} is ready and unreferenced but not freed",
                entry.id
            );
        }
        for (index, task) in self.tasks.iter() {
            let known = task.inherited_as.as_deref().map(|task_id| self.inherited.get(task_id));
            assert!(
                known.is_none_or(|key| key == Some(&TaskKey(index))),
                "an inherited task that is not known by its id (ADO-1)"
            );
        }
        let inherited = self.tasks.iter().filter(|(_, task)| task.inherited_as.is_some());
        assert_eq!(self.inherited.len(), inherited.count(), "ADO-1");
        let borrowed = self.entries.iter().filter(|(_, entry)| entry.owner != OwnerIndex::ME);
        assert_eq!(self.borrowed, borrowed.count(), "count of borrowed objects");
        assert!(
            contained.is_empty() && submitted.is_empty() && lineage.is_empty(),
            "a count of a reference that is not in the table"
        );
    }
}
