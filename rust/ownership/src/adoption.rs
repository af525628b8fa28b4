//! Adoption: what a process holds of another's objects outlives that one.
//!
//! A part of the [`OwnerTable`]. A reference that leaves a worker brings along what makes its object to be had without its
//! owner: the value, or the spec of the task that makes it. Such a spec is *inherited*: kept like those of own tasks that have
//! ended ([`crate::lineage`]), but its returns are borrowed. When the owner dies, whoever holds the object asks the control
//! store who is to own it now; the one chosen adopts it, the others borrow it from that one.
//!
//! * **ADO-1** An inherited spec counts its arguments like any that is kept (LIN-1), so that they are there when it is run. It
//!   goes with the last reference to its returns, or as soon as their values are known and cannot be lost.
//! * **ADO-2** A borrowed object is never made here, whatever is inherited; an adopted one is, once for all of its task.
//! * **ADO-3** An adopter begins with no borrowers: each tells it how many grants it holds (OWN-1). From then on the sum is right,
//!   since whoever held a grant of the dead owner tells, and nobody else.
//! * **ADO-5** What this process asked to own it may be named as its own by others before it knows anything of it: it was chosen,
//!   let go of the object or never had it (what one task makes is adopted as one), and one of the holders that have yet to tell
//!   it (ADO-3) has passed the object on. Whoever names an adopter has told it before, but on another lane. So such an object is
//!   taken for this process's own, and awaits its will: the entry is there with whoever asks for it and with the sums of its
//!   borrowers, until a teller fills it. A teller may have died before it was heard; then the wait ends as
//!   [`OwnerTable::will_is_lost`]: the caller says when, since nobody can know who was to tell.
//!
//! Deliberately absent: who adopts. The control store chooses.

use ray_rs_types::{ObjectId, TaskId};
use smallvec::SmallVec;

use crate::effect::Effect;
use crate::entry::{Entry, NoLineage, OwnerIndex, RefKind, RefSlot, State};
use crate::table::{Contains, OwnerTable};
use crate::task::{NO_RETURN, Task, TaskKey, TaskState};

/// What came along with a reference of the task that makes its object.
#[derive(Debug)]
pub struct Inheritance<S> {
    pub spec: S,
    pub num_returns: u32,
    /// One local count of each is taken over.
    pub deps: SmallVec<[RefSlot; 2]>,
    pub held: SmallVec<[RefSlot; 0]>,
    /// Not 0. -1: for ever.
    pub retries_left: i32,
    pub attempt: u32,
}

/// Objects of a process that has died.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Somebody can own them: the control store is to be asked who.
    pub claims: Vec<RefSlot>,
    /// Nothing is known here from which they could be had. They must be [`OwnerTable::fetched`] as errors.
    pub lost: Vec<RefSlot>,
}

/// What is adopted as one: all that a task makes, or what was put.
fn unit_of(id: &ObjectId) -> ObjectId {
    match id.index() < ObjectId::FIRST_PUT_INDEX {
        true => ObjectId::new(id.task_id(), 0),
        false => *id,
    }
}

impl<V: Contains, S> OwnerTable<V, S> {
    /// The object, if it is known, or if this process may have been chosen to own it: then it awaits its will (ADO-5). Somebody
    /// must be noted who needs it before the next call.
    pub fn find_or_await(&mut self, id: &ObjectId) -> Option<RefSlot> {
        self.find(id).or_else(|| self.awaited(id))
    }

    pub(crate) fn awaited(&mut self, id: &ObjectId) -> Option<RefSlot> {
        if !self.claimed.contains(&unit_of(id)) {
            return None;
        }
        let mut entry = Entry::new(*id, OwnerIndex::ME, RefKind::Value);
        entry.local = 0;
        entry.indexed = true;
        entry.outlives = true;
        entry.awaits_will = true;
        let slot = RefSlot(self.entries.insert(entry));
        self.by_id.insert(*id, slot);
        self.newly_awaited.push(*id);
        Some(slot)
    }

    pub fn has_newly_awaited(&self) -> bool {
        !self.newly_awaited.is_empty()
    }

    /// Those that await their wills since the last call: the caller sees to it that none does for ever.
    pub fn newly_awaited(&mut self) -> Vec<ObjectId> {
        std::mem::take(&mut self.newly_awaited)
    }

    /// Others say that the object is this process's, which has not heard yet of what it takes to have it.
    pub fn awaits_will(&self, slot: RefSlot) -> bool {
        self.entries.get(slot.0).is_some_and(|entry| entry.awaits_will)
    }

    /// The control store has chosen this process, says a holder of the object, who names `owner` as its dead owner: if the object
    /// awaits its will, it is taken for borrowed from there while that will is read, and [`Self::adopted`] after it.
    pub fn will_comes(&mut self, slot: RefSlot, owner: OwnerIndex) {
        let entry = self.entry_mut(slot);
        if owner != OwnerIndex::ME && std::mem::take(&mut entry.awaits_will) {
            entry.owner = owner;
            self.borrowed += 1;
        }
    }

    /// Whoever was to tell of the object is gone: if it still awaits its will, it is `error` for those who need it, and nobody's
    /// borrow of it counts. Whether it was.
    pub fn will_is_lost(&mut self, id: &ObjectId, error: V, effects: &mut Vec<Effect<V>>) -> bool {
        let Some(slot) = self.find(id).filter(|slot| self.awaits_will(*slot)) else {
            return false;
        };
        self.value_arrived(slot, error, true, effects);
        self.entry_mut(slot).borrowers.clear();
        self.look_if_unreferenced(slot);
        self.free_unreferenced(effects);
        true
    }

    /// Its owner's death need not be its end.
    pub fn outlives_owner(&mut self, slot: RefSlot) {
        self.entry_mut(slot).outlives = true;
    }

    pub fn does_outlive_owner(&self, slot: RefSlot) -> bool {
        self.entries.get(slot.0).is_some_and(|entry| entry.outlives)
    }

    /// The block of its value was marked as one that outlives the owner: true the first time.
    pub fn value_shared(&mut self, slot: RefSlot) -> bool {
        !std::mem::replace(&mut self.entry_mut(slot).shared, true)
    }

    /// The task, if its spec was inherited before.
    pub fn inherited(&self, task_id: &TaskId) -> Option<TaskKey> {
        self.inherited.get(task_id).copied()
    }

    /// A spec came along with references; those of its returns are told by [`Self::inherits`].
    pub fn spec_inherited(
        &mut self,
        task_id: TaskId,
        inheritance: Inheritance<S>,
        bytes: u64,
        arguments: V,
        effects: &mut Vec<Effect<V>>,
    ) -> TaskKey {
        let Inheritance {
            spec,
            num_returns,
            deps,
            held,
            retries_left,
            attempt,
        } = inheritance;
        for slot in deps.iter().chain(held.iter()) {
            let entry = self.entry_mut(*slot);
            entry.lineage += 1;
            entry.local -= 1;
        }
        let key = TaskKey(self.tasks.insert(Task {
            spec,
            state: TaskState::Lineage,
            missing: 0,
            deps,
            held,
            returns: std::iter::repeat_n(NO_RETURN, num_returns as usize).collect(),
            items: None,
            live_returns: 0,
            retries_left,
            attempt,
            kept: None,
            inherited_as: Some(Box::new(task_id)),
        }));
        self.inherited.insert(task_id, key);
        self.keep_spec(key, bytes, arguments, effects);
        key
    }

    /// The borrowed object in `slot` is a return of an inherited task.
    pub fn inherits(&mut self, slot: RefSlot, key: TaskKey) {
        let entry = self.entries.get(slot.0).expect("OWN: the caller holds a count");
        if entry.owner == OwnerIndex::ME || entry.task.is_some() {
            return;
        }
        let number = (entry.id.index() as usize).wrapping_sub(1);
        let Some(task) = self.tasks.get_mut(key.0) else { return };
        let Some(place) = task.returns.get_mut(number) else {
            return;
        };
        debug_assert_eq!(*place, NO_RETURN, "ADO-1");
        *place = slot;
        task.live_returns += 1;
        self.entry_mut(slot).task = Some(key);
    }

    /// Whether the inherited spec of the object names other objects, which it keeps.
    pub fn inheritance_names_others(&self, slot: RefSlot) -> bool {
        let task = self.entries.get(slot.0).and_then(|entry| self.tasks.get(entry.task?.0));
        task.is_some_and(|task| !task.deps.is_empty() || !task.held.is_empty())
    }

    /// The borrowed object will not have to be made.
    pub fn forget_inheritance(&mut self, slot: RefSlot, effects: &mut Vec<Effect<V>>) {
        let entry = self.entry_mut(slot);
        if entry.owner == OwnerIndex::ME {
            return;
        }
        let id = entry.id;
        if let Some(key) = entry.task.take() {
            self.return_removed(key, slot, &id, effects);
            self.free_unreferenced(effects);
        }
    }

    /// All wills have been read that came with this spec: it goes if none needs it.
    pub fn inheritance_read(&mut self, key: TaskKey, effects: &mut Vec<Effect<V>>) {
        self.drop_spec_if_unneeded(key, effects);
        self.free_unreferenced(effects);
    }

    /// The value of a borrowed object came along with the reference, or from the owner, which may be asked more than once:
    /// nothing happens if it is known, or the object is another by now.
    pub fn value_shown(
        &mut self,
        slot: RefSlot,
        id: &ObjectId,
        value: V,
        is_error: bool,
        effects: &mut Vec<Effect<V>>,
    ) {
        let entry = self.entries.get(slot.0).filter(|entry| entry.id == *id);
        if entry.is_some_and(|entry| entry.owner != OwnerIndex::ME && !entry.is_ready()) {
            self.value_arrived(slot, value, is_error, effects);
            self.look_if_unreferenced(slot);
        } else {
            // Its memory is the owner's.
            self.contain(value.references());
            self.release_contents(&value);
        }
        self.free_unreferenced(effects);
    }

    /// The borrowed object's owner is to be asked for the value, though nobody waits for it. What this process owns by now is
    /// made when somebody needs it.
    pub fn ask_ahead(&mut self, slot: RefSlot, effects: &mut Vec<Effect<V>>) {
        if self.entry_mut(slot).owner != OwnerIndex::ME {
            self.fetch_or_want(slot, effects);
        }
    }

    /// The process has died. `lies_elsewhere`: the value is not in this process, but somewhere that an owner has to see to.
    pub fn owner_died(&mut self, owner: OwnerIndex, lies_elsewhere: impl Fn(&V) -> bool) -> Orphans {
        let mut all: Vec<RefSlot> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.owner == owner)
            .map(|(index, _)| RefSlot(index))
            .collect();
        all.sort_unstable();
        let mut orphans = Orphans::default();
        for slot in all {
            match self.is_orphan(slot, &lies_elsewhere) {
                Some(true) => orphans.claims.push(slot),
                Some(false) => orphans.lost.push(slot),
                None => {}
            }
        }
        orphans
    }

    /// Of a borrowed object whose owner is dead: whether somebody can own it. `None`: nobody needs to.
    pub fn is_orphan(&mut self, slot: RefSlot, lies_elsewhere: impl Fn(&V) -> bool) -> Option<bool> {
        let entry = self.entries.get_mut(slot.0)?;
        if entry.kind != RefKind::Value || entry.owner == OwnerIndex::ME {
            return None;
        }
        let can_be_owned = match &entry.state {
            State::Ready { value, .. } if entry.outlives && lies_elsewhere(value) => true,
            State::Ready { .. } => return None,
            State::Absent | State::Fetching if entry.task.is_some() => {
                // Nothing is asked of the dead; what comes is the control store's answer.
                entry.state = State::Fetching;
                true
            }
            State::Absent | State::Fetching | State::Gone => false,
        };
        if can_be_owned {
            self.claimed.insert(unit_of(&entry.id));
        }
        Some(can_be_owned)
    }

    /// This process owns the object from here on (ADO-3). If it is not there, it is made, or [`Effect::CannotBeMade`] is ordered.
    /// False when it was this process's before.
    pub fn adopted(&mut self, slot: RefSlot, effects: &mut Vec<Effect<V>>) -> bool {
        let entry = self.entry_mut(slot);
        if entry.owner == OwnerIndex::ME {
            return false;
        }
        entry.owner = OwnerIndex::ME;
        entry.grants = 0;
        entry.shared = false;
        self.borrowed -= 1;
        let entry = self.entry_mut(slot);
        let task = entry.task;
        if task.is_none() {
            entry.no_lineage = NoLineage::Adopted;
        }
        if !entry.is_ready() {
            let runs = task.and_then(|key| self.task_state(key));
            let entry = self.entry_mut(slot);
            entry.state = match runs {
                Some(TaskState::WaitingForArguments | TaskState::Submitted) => State::Absent,
                Some(TaskState::Lineage) | None => State::Gone,
            };
            if !entry.is_unreferenced() {
                self.wanted.push(slot);
                self.make_what_is_wanted(effects);
            }
        }
        self.look_if_unreferenced(slot);
        self.free_unreferenced(effects);
        true
    }

    /// Another process owns the object from here on. How many grants this one holds, and has to tell the new owner (ADO-3);
    /// `None` when it is known already.
    pub fn has_new_owner(&mut self, slot: RefSlot, owner: OwnerIndex, effects: &mut Vec<Effect<V>>) -> Option<u32> {
        let entry = self.entry_mut(slot);
        if entry.owner == OwnerIndex::ME || entry.owner == owner || owner == OwnerIndex::ME {
            return None;
        }
        entry.owner = owner;
        entry.grants = entry.grants.max(1);
        let grants = entry.grants;
        if matches!(entry.state, State::Fetching) {
            entry.state = State::Absent;
            if entry.is_unreferenced() {
                self.look_if_unreferenced(slot);
                self.free_unreferenced(effects);
            } else {
                self.fetch_or_want(slot, effects);
            }
        }
        Some(grants)
    }

    /// Inherited specs of which nothing has come yet.
    pub(crate) fn idle_inheritances(&self) -> usize {
        let idle = |key: &&TaskKey| {
            self.tasks
                .get(key.0)
                .is_some_and(|task| task.state == TaskState::Lineage)
        };
        self.inherited.values().filter(idle).count()
    }

    pub(crate) fn forget_inherited_id(&mut self, inherited_as: Option<Box<TaskId>>) {
        if let Some(task_id) = inherited_as {
            self.inherited.remove(&*task_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use ray_rs_types::{ActorId, JobId};
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

    type Table = OwnerTable<Value, &'static str>;

    const OWNER: OwnerIndex = OwnerIndex(1);
    const OTHER: OwnerIndex = OwnerIndex(2);
    /// Above it, values lie in a store.
    const LARGE: u32 = 1000;

    fn is_large(value: &Value) -> bool {
        value.0 >= LARGE
    }

    fn task_id() -> TaskId {
        TaskId::new(7, ActorId::nil_of(JobId::from_int(1)))
    }

    fn id(index: u32) -> ObjectId {
        ObjectId::new(task_id(), index)
    }

    /// A granted reference to a return of the owner's task.
    fn borrowed(table: &mut Table, index: u32) -> RefSlot {
        let slot = table.imported(id(index), OWNER, RefKind::Value);
        table.grant_received(slot);
        table.outlives_owner(slot);
        slot
    }

    fn inherit(table: &mut Table, returns: &[RefSlot], deps: &[RefSlot]) -> TaskKey {
        let inheritance = Inheritance {
            spec: "f",
            num_returns: 2,
            deps: deps.into(),
            held: smallvec![],
            retries_left: 3,
            attempt: 0,
        };
        let key = table.spec_inherited(task_id(), inheritance, 10, Value(0), &mut vec![]);
        returns.iter().for_each(|slot| table.inherits(*slot, key));
        table.inheritance_read(key, &mut vec![]);
        table.check_invariants();
        key
    }

    fn adopt(table: &mut Table, slot: RefSlot) -> Vec<Effect<Value>> {
        let mut effects = vec![];
        assert!(table.adopted(slot, &mut effects));
        table.check_invariants();
        effects
    }

    #[test]
    fn a_task_is_run_once_for_all_of_its_returns_by_whoever_adopts_them() {
        let mut table = Table::default();
        let (first, second) = (borrowed(&mut table, 1), borrowed(&mut table, 2));
        let key = inherit(&mut table, &[first, second], &[]);
        assert!(!table.owns_any() && table.task_of(first).is_none(), "ADO-2");
        let orphans = table.owner_died(OWNER, is_large);
        assert_eq!((orphans.claims, orphans.lost), (vec![first, second], vec![]));
        assert_eq!(
            adopt(&mut table, first),
            [Effect::TaskAgain(key), Effect::TaskReady(key)]
        );
        assert_eq!(adopt(&mut table, second), [], "it runs");
        assert_eq!((table.retries_left(key), table.owns_any()), (2, true));
        let values = [(Value(1), false), (Value(2), false)];
        table.task_finished(key, values, AfterEnd::Forget(NoLineage::NotKept), &mut vec![]);
        table.check_invariants();
        assert_eq!(table.value(second), Some((&Value(2), false)));
        assert!(!table.adopted(first, &mut vec![]), "it is this process's own");
    }

    #[test]
    fn a_known_value_ends_what_was_inherited_for_it() {
        let mut table = Table::default();
        let dep = table.imported(id(9), OTHER, RefKind::Value);
        table.grant_received(dep);
        let slot = borrowed(&mut table, 1);
        inherit(&mut table, &[slot], &[dep]);
        assert!(table.inheritance_names_others(slot));
        let mut effects = vec![];
        table.value_shown(slot, &id(1), Value(1), false, &mut effects);
        table.forget_inheritance(slot, &mut effects);
        table.check_invariants();
        let dropped = Effect::ReturnBorrow {
            owner: OTHER,
            id: id(9),
            count: 1,
        };
        assert!(effects.contains(&dropped), "ADO-1: {effects:?}");
        assert_eq!(table.lineage_bytes(), 0);
        assert_eq!(table.owner_died(OWNER, is_large), Orphans::default(), "small, and here");
    }

    #[test]
    fn a_late_answer_is_nobody_elses() {
        let mut table = Table::default();
        let slot = borrowed(&mut table, 1);
        let mut effects = vec![];
        table.ask_ahead(slot, &mut effects);
        table.value_shown(slot, &id(1), Value(1), false, &mut effects);
        table.local_dropped(slot, &mut effects);
        assert_eq!(borrowed(&mut table, 2), slot, "the same place for another object");
        table.value_shown(slot, &id(1), Value(LARGE), false, &mut effects);
        table.check_invariants();
        assert!(!table.is_ready(slot));
        assert!(
            !effects.iter().any(|effect| matches!(effect, Effect::Free { .. })),
            "its memory is the owner's"
        );
    }

    #[test]
    fn what_came_with_nothing_is_lost_and_what_lies_in_a_store_is_claimed() {
        let mut table = Table::default();
        let (bare, stored) = (borrowed(&mut table, 1), borrowed(&mut table, 2));
        table.value_shown(stored, &id(2), Value(LARGE), false, &mut vec![]);
        let orphans = table.owner_died(OWNER, is_large);
        assert_eq!((orphans.claims, orphans.lost), (vec![stored], vec![bare]));
        assert_eq!(adopt(&mut table, stored), []);
        assert_eq!(table.value_lost(stored, &mut vec![]), Err(NoLineage::Adopted));
    }

    #[test]
    fn a_new_owner_is_told_of_all_grants_and_asked_for_the_value() {
        let mut table = Table::default();
        let slot = borrowed(&mut table, 1);
        table.grant_received(slot);
        inherit(&mut table, &[slot], &[]);
        assert!(table.watch(slot, Watcher::Waiter(1), &mut vec![]));
        assert_eq!(table.owner_died(OWNER, is_large).claims, [slot]);
        let mut effects = vec![];
        assert_eq!(table.has_new_owner(slot, OTHER, &mut effects), Some(2), "ADO-3");
        assert_eq!(table.has_new_owner(slot, OTHER, &mut effects), None);
        let (id, owner) = (id(1), OTHER);
        assert_eq!(effects, [Effect::Fetch { slot, id, owner }]);
        effects.clear();
        table.value_shown(slot, &id, Value(1), false, &mut effects);
        table.local_dropped(slot, &mut effects);
        table.check_invariants();
        assert!(effects.contains(&Effect::ReturnBorrow { owner, id, count: 2 }));
    }

    /// A table that has asked for return 1 of the task, and let go of it.
    fn claimed() -> Table {
        let mut table = Table::default();
        let slot = borrowed(&mut table, 1);
        table.value_shown(slot, &id(1), Value(LARGE), false, &mut vec![]);
        assert_eq!(table.owner_died(OWNER, is_large).claims, [slot]);
        table.local_dropped(slot, &mut vec![]);
        assert_eq!(table.reference_count(), 0);
        table
    }

    #[test]
    fn what_it_may_have_been_chosen_for_awaits_its_will() {
        let mut table = claimed();
        let put = ObjectId::new(task_id(), ObjectId::FIRST_PUT_INDEX);
        assert_eq!(table.find_or_await(&put), None, "it is adopted by itself");
        // Return 2 was never here, but is adopted with return 1.
        assert!(table.borrow_returned(&id(2), OTHER, 1, &mut vec![]));
        table.check_invariants();
        assert_eq!(table.newly_awaited(), [id(2)], "ADO-5");
        let slot = table.imported(id(2), OWNER, RefKind::Value);
        table.will_comes(slot, OWNER);
        let mut effects = vec![];
        table.value_shown(slot, &id(2), Value(LARGE), false, &mut effects);
        assert!(table.adopted(slot, &mut effects));
        table.check_invariants();
        table.local_dropped(slot, &mut effects);
        assert!(table.is_ready(slot), "the sum of its borrower is not zero");
        table.borrow_granted(&id(2), OTHER, &mut effects);
        assert_eq!(effects, [Effect::Free { value: Value(LARGE) }]);
        assert_eq!(table.reference_count(), 0);
    }

    #[test]
    fn a_will_that_never_comes_is_an_error_for_who_waits_and_ends_all_borrows() {
        let mut table = claimed();
        let slot = table.find_or_await(&id(1)).expect("ADO-5");
        let watcher = Watcher::Peer { lane: 3, request: 4 };
        let mut effects = vec![];
        assert!(table.watch(slot, watcher, &mut effects));
        table.borrow_granted(&id(1), OTHER, &mut effects);
        table.borrow_returned(&id(1), OTHER, 1, &mut effects);
        table.check_invariants();
        assert_eq!(table.find(&id(1)), Some(slot), "somebody is to be answered");
        table.borrow_returned(&id(1), OTHER, 1, &mut effects);
        assert_eq!(effects, []);
        assert!(table.will_is_lost(&id(1), Value(9), &mut effects));
        table.check_invariants();
        assert_eq!(effects[0], Effect::Tell { watcher, slot });
        assert_eq!(table.reference_count(), 0);
        assert!(!table.will_is_lost(&id(1), Value(9), &mut effects), "it does not wait");
    }
}
