//! Lineage: a value that was lost is made again by running its task once more, and so are those that this task needs.
//!
//! A part of the [`OwnerTable`]. The specs of finished tasks whose values can be lost are kept as long as they may be
//! needed, up to a limit of bytes. Whoever knows what makes a value losable decides which those are ([`AfterEnd`]).
//!
//! * **LIN-1** A kept spec has one `lineage` count of each of its arguments. These keep the arguments' entries and, if a
//!   task can make them again, those tasks' specs, but not their values. What nothing can make again (a put, a borrowed
//!   object, the result of an actor whose calls are not repeated) stays as a value.
//! * **LIN-2** A value that was lost, or let go under LIN-1, is [`State::Gone`]. It is made again when somebody needs it,
//!   once for all who do, and what its task needs and is gone comes first.
//! * **LIN-3** A spec is kept as long as the entry of one of its returns or items is there, or until the limit is reached: then those
//!   go that were kept first.
//! * **LIN-4** A task that runs again gives values only to those of its returns that have none.
//!
//! Deliberately absent: how a loss is noticed, and copies elsewhere; a value is lost when none can be had.

use std::collections::VecDeque;

use ray_rs_types::ObjectId;
use smallvec::SmallVec;

use crate::effect::Effect;
use crate::entry::{NoLineage, OwnerIndex, RefKind, RefSlot, State};
use crate::table::{Contains, OwnerTable};
use crate::task::{Kept, NO_RETURN, TaskKey, TaskState};

/// Kept specs take so much, unless [`OwnerTable::limit_lineage`] says otherwise. Ray's default.
pub const MAX_LINEAGE_BYTES: u64 = 1 << 30;

/// What becomes of a task's spec when it has ended.
#[derive(Debug)]
pub enum AfterEnd<V> {
    /// It is kept while it may be needed, and counts for so many bytes. `arguments` (which holds no references) is freed
    /// with it.
    Keep { bytes: u64, arguments: V },
    /// It goes. What its values are should they be lost.
    Forget(NoLineage),
}

/// Which specs are kept, in what order, and how much they take.
#[derive(Debug)]
pub(crate) struct Lineage {
    /// As they were kept. Names some that are kept no more, or kept again since: the number tells.
    order: VecDeque<(TaskKey, u64)>,
    next_order: u64,
    count: usize,
    bytes: u64,
    limit_bytes: u64,
}

impl Default for Lineage {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            next_order: 0,
            count: 0,
            bytes: 0,
            limit_bytes: MAX_LINEAGE_BYTES,
        }
    }
}

impl Lineage {
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn add(&mut self, key: TaskKey, bytes: u64) -> u64 {
        let order = self.next_order;
        self.next_order += 1;
        self.order.push_back((key, order));
        self.count += 1;
        self.bytes += bytes;
        order
    }

    fn subtract(&mut self, bytes: u64) {
        self.count -= 1;
        self.bytes -= bytes;
    }
}

impl<V: Contains, S> OwnerTable<V, S> {
    /// Kept specs may take so much; 0: none is kept.
    pub fn limit_lineage(&mut self, bytes: u64) {
        self.lineage.limit_bytes = bytes;
    }

    /// Bytes of all specs that are kept.
    pub fn lineage_bytes(&self) -> u64 {
        self.lineage.bytes()
    }

    /// The value of an object can't be had any more. From here on it is not ready: it is made again, or fetched from its
    /// owner again, when somebody needs it. Nothing happens when it is not ready.
    ///
    /// # Errors
    /// Why nothing can make it again; it stays as it is then.
    pub fn value_lost(&mut self, slot: RefSlot, effects: &mut Vec<Effect<V>>) -> Result<(), NoLineage> {
        let Some(entry) = self.entries.get_mut(slot.0).filter(|entry| entry.is_ready()) else {
            return Ok(());
        };
        let is_mine = entry.owner == OwnerIndex::ME;
        let after = match entry.task {
            _ if !is_mine => State::Absent,
            None => return Err(entry.no_lineage),
            // For another of its returns it runs again already.
            Some(key) => match self.tasks.get(key.0).map(|task| task.state) {
                Some(TaskState::WaitingForArguments | TaskState::Submitted) => State::Absent,
                Some(TaskState::Lineage) | None => State::Gone,
            },
        };
        if let State::Ready { value, .. } = std::mem::replace(&mut entry.state, after) {
            self.release_contents(&value);
            if is_mine {
                effects.push(Effect::Free { value });
            }
        }
        self.free_unreferenced(effects);
        Ok(())
    }

    /// Runs what makes the objects that are gone and needed, and what makes what these need.
    pub(crate) fn make_what_is_wanted(&mut self, effects: &mut Vec<Effect<V>>) {
        while let Some(slot) = self.wanted.pop() {
            let entry = self.entry_mut(slot);
            if !matches!(entry.state, State::Gone) || entry.kind == RefKind::ActorHandle {
                continue;
            }
            let Some(key) = entry.task else {
                effects.push(Effect::CannotBeMade { slot });
                continue;
            };
            entry.state = State::Absent;
            self.run_again(key, effects);
        }
    }

    /// Nothing happens when it runs already.
    fn run_again(&mut self, key: TaskKey, effects: &mut Vec<Effect<V>>) {
        let task = self.tasks.get_mut(key.0).expect("LIN-3");
        let Some(kept) = task.kept.take() else { return };
        self.lineage.subtract(kept.bytes);
        task.state = TaskState::WaitingForArguments;
        task.tries_again();
        if task.retries_left > 0 {
            task.retries_left -= 1;
        }
        let arguments: SmallVec<[RefSlot; 4]> = task.deps.iter().chain(task.held.iter()).copied().collect();
        for slot in arguments {
            let entry = self.entry_mut(slot);
            entry.lineage -= 1;
            entry.submitted += 1;
        }
        effects.push(Effect::TaskAgain(key));
        self.look_at_arguments(key, effects);
    }

    /// Its `submitted` counts have become `lineage` counts.
    pub(crate) fn keep_spec(&mut self, key: TaskKey, bytes: u64, arguments: V, effects: &mut Vec<Effect<V>>) {
        let order = self.lineage.add(key, bytes);
        let task = self.tasks.get_mut(key.0).expect("it has just ended");
        task.kept = Some(Box::new(Kept {
            bytes,
            order,
            arguments,
        }));
        while self.lineage.bytes > self.lineage.limit_bytes {
            let Some((oldest, order)) = self.lineage.order.pop_front() else {
                break;
            };
            if self.is_kept_since(oldest, order) {
                self.disown_all(oldest, NoLineage::Evicted);
                self.drop_spec(oldest, effects);
            }
        }
        if self.lineage.order.len() > 2 * self.lineage.count + 64 {
            let mut order = std::mem::take(&mut self.lineage.order);
            order.retain(|(key, order)| self.is_kept_since(*key, *order));
            self.lineage.order = order;
        }
    }

    fn is_kept_since(&self, key: TaskKey, order: u64) -> bool {
        let kept = self.tasks.get(key.0).and_then(|task| task.kept.as_ref());
        kept.is_some_and(|kept| kept.order == order)
    }

    /// The entry of one of its returns or items is gone.
    pub(crate) fn return_removed(&mut self, key: TaskKey, slot: RefSlot, id: &ObjectId, effects: &mut Vec<Effect<V>>) {
        let Some(task) = self.tasks.get_mut(key.0) else { return };
        // Numbers of returns begin with 1, and those of items follow.
        let number = (id.index() as usize).saturating_sub(1);
        match (task.returns.get_mut(number), &mut task.items) {
            (Some(place), _) => *place = NO_RETURN,
            (None, Some(items)) => items.remove(slot, (number - task.returns.len()) as u32),
            (None, None) => {}
        }
        task.live_returns -= 1;
        self.drop_spec_if_unneeded(key, effects);
    }

    /// While a generator runs once more, the last of its items may come again and go.
    pub(crate) fn drop_spec_if_unneeded(&mut self, key: TaskKey, effects: &mut Vec<Effect<V>>) {
        let task = self.tasks.get(key.0);
        if task.is_some_and(|task| task.live_returns == 0 && task.state == TaskState::Lineage) {
            self.drop_spec(key, effects);
        }
    }

    /// Leaves what it lets go of to [`Self::free_unreferenced`].
    fn drop_spec(&mut self, key: TaskKey, effects: &mut Vec<Effect<V>>) {
        let Some(mut task) = self.tasks.remove(key.0) else {
            return;
        };
        self.forget_inherited_id(task.inherited_as.take());
        for slot in task.deps.iter().chain(task.held.iter()) {
            self.entry_mut(*slot).lineage -= 1;
            self.look_if_unreferenced(*slot);
        }
        if let Some(kept) = task.kept {
            self.lineage.subtract(kept.bytes);
            effects.push(Effect::Free { value: kept.arguments });
        }
    }

    /// Only lineage names it (LIN-1): its value goes.
    pub(crate) fn let_go(&mut self, slot: RefSlot, effects: &mut Vec<Effect<V>>) {
        let entry = self.entry_mut(slot);
        let (kind, id, seen) = (entry.kind, entry.id, entry.seen);
        match std::mem::replace(&mut entry.state, State::Gone) {
            State::Ready { value, is_error } => {
                self.release_contents(&value);
                effects.push(match is_error && !seen {
                    true => Effect::FreeUnseenError { value },
                    false => Effect::Free { value },
                });
            }
            State::Absent | State::Fetching if kind == RefKind::ActorHandle => {
                effects.push(Effect::ActorHandlesGone { id });
            }
            State::Absent | State::Fetching | State::Gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use ray_rs_types::{ActorId, JobId, TaskId};
    use smallvec::smallvec;

    use super::*;
    use crate::effect::Watcher;

    #[derive(Debug, PartialEq, Eq, Clone)]
    struct Value(u32, Vec<RefSlot>);

    impl Contains for Value {
        fn references(&self) -> &[RefSlot] {
            &self.1
        }
    }

    type Table = OwnerTable<Value, &'static str>;

    fn value(number: u32) -> Value {
        Value(number, vec![])
    }

    fn free(number: u32) -> Effect<Value> {
        Effect::Free { value: value(number) }
    }

    fn keep() -> AfterEnd<Value> {
        AfterEnd::Keep {
            bytes: 10,
            arguments: value(0),
        }
    }

    fn task_id(unique: u64) -> TaskId {
        TaskId::new(unique, ActorId::nil_of(JobId::from_int(1)))
    }

    fn submit(table: &mut Table, unique: u64, deps: &[RefSlot], returns: u32) -> (TaskKey, SmallVec<[RefSlot; 1]>) {
        for slot in deps {
            table.local_added(*slot);
        }
        let deps = deps.into();
        table.task_submitted(task_id(unique), returns, "f", deps, smallvec![], 3, &mut Vec::new())
    }

    /// A finished task that was kept, and its return.
    fn made(table: &mut Table, unique: u64, deps: &[RefSlot], number: u32) -> (TaskKey, RefSlot) {
        let (task, returns) = submit(table, unique, deps, 1);
        table.task_finished(task, [(value(number), false)], keep(), &mut Vec::new());
        (task, returns[0])
    }

    /// What happens in `step`, and that the table is whole after it.
    fn of(table: &mut Table, step: impl FnOnce(&mut Table, &mut Vec<Effect<Value>>)) -> Vec<Effect<Value>> {
        let mut effects = vec![];
        step(table, &mut effects);
        table.check_invariants();
        effects
    }

    fn watch(table: &mut Table, slot: RefSlot) -> Vec<Effect<Value>> {
        of(table, |table, effects| {
            assert!(table.watch(slot, Watcher::Waiter(1), effects));
        })
    }

    #[test]
    fn a_lost_value_is_made_again_when_somebody_needs_it_and_once() {
        let mut table = Table::default();
        let (task, slot) = made(&mut table, 1, &[], 1);
        let lost = of(&mut table, |table, effects| {
            assert_eq!(table.value_lost(slot, effects), Ok(()));
            assert_eq!(table.value_lost(slot, effects), Ok(()), "it is not there any more");
        });
        assert_eq!(lost, [free(1)]);
        assert!(!table.is_ready(slot) && table.task_of(slot).is_none());
        assert_eq!(
            watch(&mut table, slot),
            [Effect::TaskAgain(task), Effect::TaskReady(task)]
        );
        assert_eq!((table.attempt(task), table.retries_left(task)), (1, 2));
        assert_eq!(table.task_of(slot), Some(task));
        assert_eq!(watch(&mut table, slot), [], "it is being made");
        let finished = of(&mut table, |table, effects| {
            table.task_finished(task, [(value(2), false)], keep(), effects);
        });
        let watcher = Watcher::Waiter(1);
        assert_eq!(
            finished,
            [Effect::Tell { watcher, slot }, Effect::Tell { watcher, slot }]
        );
        assert_eq!(table.value(slot), Some((&value(2), false)));
    }

    #[test]
    fn a_look_at_what_is_gone_has_it_made() {
        let mut table = Table::default();
        let (task, slot) = made(&mut table, 1, &[], 1);
        let seen = of(&mut table, |table, effects| {
            assert!(table.see_if_ready(slot, effects));
            table.value_lost(slot, effects).expect("it is kept");
            assert!(!table.see_if_ready(slot, effects));
        });
        assert_eq!(seen, [free(1), Effect::TaskAgain(task), Effect::TaskReady(task)]);
    }

    #[test]
    fn an_argument_that_was_let_go_is_made_first() {
        let mut table = Table::default();
        let (first, a) = made(&mut table, 1, &[], 1);
        let (second, b) = made(&mut table, 2, &[a], 2);
        let (third, c) = made(&mut table, 3, &[b], 3);
        let dropped = of(&mut table, |table, effects| {
            table.local_dropped(a, effects);
            table.local_dropped(b, effects);
        });
        assert_eq!(dropped, [free(1), free(2)], "values are freed as ever");
        assert_eq!((table.reference_count(), table.lineage_bytes()), (3, 30));
        of(&mut table, |table, effects| {
            table.value_lost(c, effects).expect("it is kept");
        });
        let again = [third, second, first].map(Effect::TaskAgain);
        assert_eq!(
            watch(&mut table, c),
            again.into_iter().chain([Effect::TaskReady(first)]).collect::<Vec<_>>()
        );
        let finish = |table: &mut Table, task, number| {
            of(table, |table, effects| {
                table.task_finished(task, [(value(number), false)], keep(), effects)
            })
        };
        assert_eq!(finish(&mut table, first, 4), [Effect::TaskReady(second)]);
        assert_eq!(finish(&mut table, second, 5), [Effect::TaskReady(third), free(4)]);
        let watcher = Watcher::Waiter(1);
        assert_eq!(
            finish(&mut table, third, 6),
            [Effect::Tell { watcher, slot: c }, free(5)]
        );
        let end = of(&mut table, |table, effects| table.local_dropped(c, effects));
        assert_eq!(
            end,
            [free(0), free(6), free(0), free(0)],
            "and what was kept of arguments"
        );
        assert_eq!(
            (table.reference_count(), table.lineage_bytes(), table.tasks.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn what_nothing_can_make_again_stays_as_long_as_something_may_need_it() {
        let mut table = Table::default();
        let put = table.value_put(ObjectId::new(task_id(9), ObjectId::FIRST_PUT_INDEX), value(7));
        let (_, result) = made(&mut table, 1, &[put], 1);
        assert_eq!(of(&mut table, |table, effects| table.local_dropped(put, effects)), []);
        assert_eq!(table.value_lost(put, &mut vec![]), Err(NoLineage::Put));
        assert!(table.is_ready(put));
        let end = of(&mut table, |table, effects| table.local_dropped(result, effects));
        assert_eq!(end, [free(0), free(1), free(7)]);
        assert_eq!(table.reference_count(), 0);
    }

    #[test]
    fn an_actor_ends_though_lineage_names_its_handle() {
        let mut table = Table::default();
        let id = ObjectId::new(task_id(9), 1);
        let handle = table.actor_handle_created(id);
        let (task, returns) =
            table.task_submitted(task_id(1), 1, "f", smallvec![], smallvec![handle], 3, &mut Vec::new());
        let finished = of(&mut table, |table, effects| {
            table.task_finished(task, [(value(1), false)], keep(), effects);
        });
        assert_eq!(finished, [Effect::ActorHandlesGone { id }]);
        of(&mut table, |table, effects| {
            table.value_lost(returns[0], effects).expect("it is kept");
        });
        assert_eq!(
            watch(&mut table, returns[0]),
            [Effect::TaskAgain(task), Effect::TaskReady(task)]
        );
        let failed = of(&mut table, |table, effects| {
            table.task_finished(task, [(value(2), true)], AfterEnd::Forget(NoLineage::NotKept), effects);
        });
        let watcher = Watcher::Waiter(1);
        let slot = returns[0];
        assert_eq!(failed, [Effect::Tell { watcher, slot }], "its end is told once");
        assert_eq!(
            table.value(slot),
            Some((&value(2), true)),
            "an error of the second try is the result"
        );
        assert_eq!(table.reference_count(), 1);
    }

    #[test]
    fn returns_that_are_still_there_are_not_touched() {
        let mut table = Table::default();
        let (task, returns) = submit(&mut table, 1, &[], 3);
        let all = |from: u32| (from..from + 3).map(|number| (value(number), false));
        table.task_finished(task, all(1), keep(), &mut Vec::new());
        let lost = of(&mut table, |table, effects| {
            table.local_dropped(returns[0], effects);
            table.value_lost(returns[1], effects).expect("it is kept");
        });
        assert_eq!(lost, [free(1), free(2)]);
        watch(&mut table, returns[1]);
        let finished = of(&mut table, |table, effects| {
            table.task_finished(task, all(11), keep(), effects)
        });
        let watcher = Watcher::Waiter(1);
        let tell = Effect::Tell {
            watcher,
            slot: returns[1],
        };
        assert_eq!(finished, [free(11), tell, free(13)]);
        assert_eq!(table.value(returns[1]), Some((&value(12), false)));
        assert_eq!(table.value(returns[2]), Some((&value(3), false)));
    }

    #[test]
    fn a_return_that_is_lost_while_its_task_runs_again_comes_with_the_other() {
        let mut table = Table::default();
        let (task, returns) = submit(&mut table, 1, &[], 2);
        table.task_finished(task, [(value(1), false), (value(2), false)], keep(), &mut Vec::new());
        of(&mut table, |table, effects| {
            table.value_lost(returns[0], effects).expect("it is kept");
        });
        watch(&mut table, returns[0]);
        let late = of(&mut table, |table, effects| {
            table.value_lost(returns[1], effects).expect("its task runs");
            assert!(table.watch(returns[1], Watcher::Waiter(2), effects));
        });
        assert_eq!(late, [free(2)]);
        of(&mut table, |table, effects| {
            table.task_finished(task, [(value(3), false), (value(4), false)], keep(), effects);
        });
        assert_eq!(table.value(returns[1]), Some((&value(4), false)));
    }

    #[test]
    fn those_that_were_kept_first_go_when_the_limit_is_reached() {
        let mut table = Table::default();
        table.limit_lineage(20);
        let (_, a) = made(&mut table, 1, &[], 1);
        let (second, b) = made(&mut table, 2, &[a], 2);
        table.local_dropped(a, &mut vec![]);
        let (third, c) = made(&mut table, 3, &[], 3);
        table.check_invariants();
        assert_eq!(table.lineage_bytes(), 20);
        let lost = of(&mut table, |table, effects| {
            table.value_lost(b, effects).expect("it is kept");
            table.value_lost(c, effects).expect("it is kept");
        });
        assert_eq!(lost, [free(2), free(3)]);
        assert_eq!(
            watch(&mut table, c),
            [Effect::TaskAgain(third), Effect::TaskReady(third)]
        );
        let stuck = watch(&mut table, b);
        assert_eq!(stuck, [Effect::TaskAgain(second), Effect::CannotBeMade { slot: a }]);
        assert_eq!(table.no_lineage(a), NoLineage::Evicted);
        let failed = of(&mut table, |table, effects| table.fetched(a, value(9), true, effects));
        assert_eq!(
            failed,
            [Effect::ArgumentFailed {
                task: second,
                argument: a
            }]
        );
    }

    #[test]
    fn nothing_is_kept_when_nothing_may_be() {
        let mut table = Table::default();
        table.limit_lineage(0);
        let (_, slot) = made(&mut table, 1, &[], 1);
        assert_eq!(table.value_lost(slot, &mut vec![]), Err(NoLineage::Evicted));
        assert_eq!((table.tasks.len(), table.lineage_bytes()), (0, 0));
    }

    #[test]
    fn what_was_borrowed_and_lost_is_asked_for_again() {
        let mut table = Table::default();
        let (owner, id) = (OwnerIndex(7), ObjectId::new(task_id(9), 1));
        let slot = table.imported(id, owner, RefKind::Value);
        watch(&mut table, slot);
        table.fetched(slot, value(1), false, &mut vec![]);
        let lost = of(&mut table, |table, effects| {
            table.value_lost(slot, effects).expect("its owner knows more");
        });
        assert_eq!(lost, [], "its memory is its owner's");
        assert_eq!(watch(&mut table, slot), [Effect::Fetch { slot, id, owner }]);
    }
}
