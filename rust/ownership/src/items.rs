//! The items of a generator: objects that its task gives one by one, beside its return.
//!
//! A part of the [`OwnerTable`]. An item that has come, and can be lost, names its task like a return, so that the spec is kept
//! as long as the item is there (LIN-3), and a lost one is made again by running the generator once more. Of other items
//! nothing is known here.
//!
//! * **ITEM-1** Items are numbered from 0, in the order in which they first came.
//! * **ITEM-2** A generator that runs again gives values only to those of its items that have none (as LIN-4 for returns).
//! * **ITEM-3** What is lost while its generator runs may have been sent already: it is looked at once more at the end.

use std::collections::VecDeque;

use crate::effect::Effect;
use crate::entry::{NoLineage, RefSlot, State};
use crate::table::{Contains, OwnerTable};
use crate::task::{NO_RETURN, TaskKey, TaskState};

/// Those of one task.
#[derive(Debug, Default)]
pub(crate) struct Items {
    /// By their numbers, which rise. [`NO_RETURN`] in the place of one whose entry is gone.
    slots: VecDeque<(u32, RefSlot)>,
    /// How many have come in this attempt.
    came: u32,
}

impl Items {
    /// Those that are there.
    pub fn live(&self) -> impl Iterator<Item = RefSlot> + '_ {
        self.slots
            .iter()
            .map(|(_, slot)| *slot)
            .filter(|slot| *slot != NO_RETURN)
    }

    pub fn begins_again(&mut self) {
        self.came = 0;
    }

    pub fn remove(&mut self, slot: RefSlot, number: u32) {
        let Some(at) = self.find(number) else { return };
        debug_assert_eq!(self.slots[at].1, slot, "ITEM-1");
        self.slots[at].1 = NO_RETURN;
        while self.slots.front().is_some_and(|(_, slot)| *slot == NO_RETURN) {
            self.slots.pop_front();
        }
    }

    fn find(&self, number: u32) -> Option<usize> {
        self.slots.binary_search_by_key(&number, |(number, _)| *number).ok()
    }
}

impl<V: Contains, S> OwnerTable<V, S> {
    /// The promised object in `slot` is an item of a generator that runs, later than all before (ITEM-1): it has come, and its
    /// value, which can be lost, follows as [`Self::fetched`].
    pub fn item_came(&mut self, key: TaskKey, slot: RefSlot, number: u32) {
        let Some(task) = self.tasks.get_mut(key.0) else { return };
        let items = task.items.get_or_insert_default();
        items.slots.push_back((number, slot));
        items.came = number + 1;
        task.live_returns += 1;
        self.entry_mut(slot).task = Some(key);
    }

    /// An item has come that came in an earlier attempt as well: its object, if that has no value now.
    pub fn item_came_again(&mut self, key: TaskKey, number: u32) -> Option<RefSlot> {
        let items = self.tasks.get_mut(key.0)?.items.as_mut()?;
        items.came = items.came.max(number + 1);
        let (_, slot) = items.slots[items.find(number)?];
        (slot != NO_RETURN && !self.is_ready(slot)).then_some(slot)
    }

    /// Whether there is an item whose value `wanted` picks, or that has none now.
    pub fn any_item(&self, key: TaskKey, wanted: impl Fn(&V) -> bool) -> bool {
        let items = self.tasks.get(key.0).and_then(|task| task.items.as_ref());
        items.is_some_and(|items| {
            items
                .live()
                .any(|slot| self.value(slot).is_none_or(|(value, _)| wanted(value)))
        })
    }

    /// For a generator that is about to end: items without a value. `all`: also those that have come in this attempt.
    pub fn items_without_value(&self, key: TaskKey, all: bool) -> Vec<RefSlot> {
        let Some(items) = self.tasks.get(key.0).and_then(|task| task.items.as_ref()) else {
            return Vec::new();
        };
        let wanted = items.slots.iter().filter(|(number, _)| all || *number >= items.came);
        (wanted.map(|(_, slot)| *slot))
            .filter(|slot| *slot != NO_RETURN && !self.is_ready(*slot))
            .collect()
    }

    /// The other returns and items of the finished task that made this object: another run of it would make them as well.
    pub fn made_with(&self, slot: RefSlot) -> Vec<RefSlot> {
        let Some(key) = self.entries.get(slot.0).and_then(|entry| entry.task) else {
            return Vec::new();
        };
        let Some(task) = self.tasks.get(key.0).filter(|task| task.state == TaskState::Lineage) else {
            return Vec::new();
        };
        let returns = task.returns.iter().copied();
        let items = task.items.iter().flat_map(|items| items.live());
        (returns.chain(items))
            .filter(|other| *other != slot && *other != NO_RETURN)
            .collect()
    }

    /// The generator has ended: what was lost meanwhile is made by another run as soon as it is needed (ITEM-3).
    pub(crate) fn look_at_items(&mut self, items: &[RefSlot], effects: &mut Vec<Effect<V>>) {
        for slot in items {
            let Some(entry) = self.entries.get_mut(slot.0) else {
                continue;
            };
            if matches!(entry.state, State::Absent) {
                entry.state = State::Gone;
                if !entry.watchers.is_empty() {
                    self.wanted.push(*slot);
                }
            }
            self.look_if_unreferenced(*slot);
        }
        self.make_what_is_wanted(effects);
    }

    /// The items that are there.
    pub(crate) fn live_items(&self, key: TaskKey) -> Vec<RefSlot> {
        let items = self.tasks.get(key.0).and_then(|task| task.items.as_ref());
        items.map_or_else(Vec::new, |items| items.live().collect())
    }

    /// Nothing makes the values again that the task has given.
    pub(crate) fn disown_all(&mut self, key: TaskKey, why: NoLineage) {
        let Some(task) = self.tasks.get(key.0) else { return };
        let mut slots = task.returns.to_vec();
        slots.extend(self.live_items(key));
        self.disown_returns(&slots, why);
    }
}

#[cfg(test)]
mod tests {
    use ray_rs_types::{ActorId, JobId, ObjectId, TaskId};
    use smallvec::smallvec;

    use super::*;
    use crate::effect::Watcher;
    use crate::lineage::AfterEnd;

    #[derive(Debug, PartialEq, Eq, Clone)]
    struct Value(u32);

    impl Contains for Value {
        fn references(&self) -> &[RefSlot] {
            &[]
        }
    }

    type Table = OwnerTable<Value, ()>;

    /// The number of the first item's object.
    const FIRST: u32 = 2;

    fn task_id() -> TaskId {
        TaskId::new(1, ActorId::nil_of(JobId::from_int(1)))
    }

    fn keep() -> AfterEnd<Value> {
        AfterEnd::Keep {
            bytes: 10,
            arguments: Value(0),
        }
    }

    /// A generator that has given `count` items with the values 100, 101 ...; its return, and the items.
    fn running(table: &mut Table, count: u32) -> (TaskKey, RefSlot, Vec<RefSlot>) {
        let (key, returns) = table.task_submitted(task_id(), 1, (), smallvec![], smallvec![], 3, &mut Vec::new());
        let items = (0..count)
            .map(|number| {
                let slot = table.promised(ObjectId::new(task_id(), FIRST + number));
                table.item_came(key, slot, number);
                table.fetched(slot, Value(100 + number), false, &mut Vec::new());
                slot
            })
            .collect();
        table.check_invariants();
        (key, returns[0], items)
    }

    fn end(table: &mut Table, key: TaskKey, then: AfterEnd<Value>) -> Vec<Effect<Value>> {
        let mut effects = Vec::new();
        table.task_finished(key, [(Value(1), false)], then, &mut effects);
        table.check_invariants();
        effects
    }

    fn lose(table: &mut Table, slot: RefSlot) {
        table.value_lost(slot, &mut Vec::new()).expect("it can be made again");
        table.check_invariants();
    }

    fn watch(table: &mut Table, slot: RefSlot) -> Vec<Effect<Value>> {
        let mut effects = Vec::new();
        assert!(table.watch(slot, Watcher::Waiter(1), &mut effects));
        table.check_invariants();
        effects
    }

    #[test]
    fn a_lost_item_is_made_by_running_the_generator_again() {
        let mut table = Table::default();
        let (key, _, items) = running(&mut table, 3);
        end(&mut table, key, keep());
        lose(&mut table, items[1]);
        assert_eq!(
            watch(&mut table, items[1]),
            [Effect::TaskAgain(key), Effect::TaskReady(key)]
        );
        assert_eq!(table.item_came_again(key, 0), None, "it still has its value");
        assert_eq!(table.item_came_again(key, 1), Some(items[1]));
        let mut effects = Vec::new();
        table.fetched(items[1], Value(7), false, &mut effects);
        let (watcher, slot) = (Watcher::Waiter(1), items[1]);
        assert_eq!(effects, [Effect::Tell { watcher, slot }]);
        assert_eq!(table.item_came_again(key, 2), None);
        assert_eq!(table.item_came_again(key, 3), None, "a fourth it never gave");
        assert_eq!(end(&mut table, key, keep()), [Effect::Free { value: Value(1) }]);
        assert_eq!(table.value(items[0]), Some((&Value(100), false)));
    }

    #[test]
    fn what_a_task_has_made_is_known_together_once_it_has_ended() {
        let mut table = Table::default();
        let (key, end_ref, items) = running(&mut table, 3);
        assert_eq!(table.made_with(items[0]), [], "it runs");
        end(&mut table, key, keep());
        table.local_dropped(items[1], &mut Vec::new());
        assert_eq!(table.made_with(items[0]), [end_ref, items[2]]);
        assert_eq!(table.made_with(end_ref), [items[0], items[2]]);
    }

    #[test]
    fn the_spec_is_kept_as_long_as_an_item_is_there() {
        let mut table = Table::default();
        let (key, end_ref, items) = running(&mut table, 2);
        end(&mut table, key, keep());
        let mut effects = Vec::new();
        table.local_dropped(end_ref, &mut effects);
        table.local_dropped(items[1], &mut effects);
        table.check_invariants();
        assert_eq!(table.lineage_bytes(), 10);
        table.local_dropped(items[0], &mut effects);
        table.check_invariants();
        assert_eq!((table.lineage_bytes(), table.reference_count()), (0, 0));
        assert!(effects.contains(&Effect::Free { value: Value(0) }), "what it kept goes");
    }

    #[test]
    fn items_that_are_taken_and_dropped_leave_nothing_behind() {
        let mut table = Table::default();
        let (key, _, items) = running(&mut table, 1000);
        for slot in &items[..999] {
            table.local_dropped(*slot, &mut Vec::new());
        }
        table.check_invariants();
        let known = table
            .tasks
            .get(key.0)
            .and_then(|task| task.items.as_ref())
            .expect("it has items");
        assert_eq!((known.slots.len(), known.came), (1, 1000));
        assert_eq!(table.reference_count(), 2);
    }

    #[test]
    fn items_that_cannot_be_lost_lie_between() {
        let mut table = Table::default();
        let (key, _, mut items) = running(&mut table, 1);
        let small = table.promised(ObjectId::new(task_id(), FIRST + 1));
        table.fetched(small, Value(5), false, &mut Vec::new());
        let third = table.promised(ObjectId::new(task_id(), FIRST + 2));
        table.item_came(key, third, 2);
        table.fetched(third, Value(102), false, &mut Vec::new());
        items.push(third);
        end(&mut table, key, keep());
        assert_eq!(table.value_lost(small, &mut Vec::new()), Err(NoLineage::Generator));
        lose(&mut table, third);
        watch(&mut table, third);
        assert_eq!(table.item_came_again(key, 1), None);
        assert_eq!(table.item_came_again(key, 2), Some(third));
        table.local_dropped(items[0], &mut Vec::new());
        table.local_dropped(third, &mut Vec::new());
        table.check_invariants();
    }

    #[test]
    fn a_second_run_whose_last_item_goes_leaves_nothing_behind() {
        let mut table = Table::default();
        let (key, end_ref, items) = running(&mut table, 1);
        end(&mut table, key, keep());
        table.local_dropped(end_ref, &mut Vec::new());
        lose(&mut table, items[0]);
        watch(&mut table, items[0]);
        let again = table.item_came_again(key, 0).expect("it was lost");
        table.fetched(again, Value(8), false, &mut Vec::new());
        table.local_dropped(again, &mut Vec::new());
        end(&mut table, key, keep());
        assert_eq!(
            (table.reference_count(), table.lineage_bytes(), table.tasks.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn what_is_lost_while_the_generator_runs_is_made_by_another_run() {
        let mut table = Table::default();
        let (key, _, items) = running(&mut table, 2);
        lose(&mut table, items[0]);
        assert_eq!(watch(&mut table, items[0]), [], "it runs: perhaps the item comes");
        let ended = end(&mut table, key, keep());
        assert_eq!(ended, [Effect::TaskAgain(key), Effect::TaskReady(key)]);
        assert_eq!(table.item_came_again(key, 0), Some(items[0]));
    }

    #[test]
    fn what_a_generator_that_is_not_kept_has_lost_cannot_be_made() {
        let mut table = Table::default();
        let (key, _, items) = running(&mut table, 2);
        lose(&mut table, items[0]);
        watch(&mut table, items[0]);
        let ended = end(&mut table, key, AfterEnd::Forget(NoLineage::RetriesDisabled));
        assert_eq!(ended, [Effect::CannotBeMade { slot: items[0] }]);
        assert_eq!(table.no_lineage(items[0]), NoLineage::RetriesDisabled);
        assert_eq!(
            table.value_lost(items[1], &mut Vec::new()),
            Err(NoLineage::RetriesDisabled)
        );
    }

    #[test]
    fn items_that_another_run_does_not_give_are_told() {
        let mut table = Table::default();
        let (key, _, items) = running(&mut table, 3);
        end(&mut table, key, keep());
        lose(&mut table, items[0]);
        lose(&mut table, items[2]);
        watch(&mut table, items[2]);
        let again = table.item_came_again(key, 0).expect("it was lost");
        table.fetched(again, Value(8), false, &mut Vec::new());
        assert_eq!(table.items_without_value(key, false), [items[2]]);
        assert_eq!(table.items_without_value(key, true), [items[2]]);
        lose(&mut table, items[0]);
        assert_eq!(table.items_without_value(key, false), [items[2]], "the first came");
        assert_eq!(table.items_without_value(key, true), [items[0], items[2]]);
    }

    #[test]
    fn an_item_nobody_wants_is_forgotten_though_it_was_lost() {
        let mut table = Table::default();
        let (key, end_ref, items) = running(&mut table, 1);
        lose(&mut table, items[0]);
        let mut effects = Vec::new();
        table.local_dropped(items[0], &mut effects);
        table.local_dropped(end_ref, &mut effects);
        end(&mut table, key, keep());
        assert_eq!((table.reference_count(), table.lineage_bytes()), (0, 0));
    }
}
