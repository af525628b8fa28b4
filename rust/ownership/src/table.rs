//! The table: events are its methods, named in the past tense or after the question they answer.

use ray_rs_types::{ObjectId, TaskId};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::effect::{Effect, Watcher};
use crate::entry::{Entry, NoLineage, OwnerIndex, RefKind, RefSlot, State};
use crate::lineage::{AfterEnd, Lineage};
use crate::slab::Slab;
use crate::task::{NO_RETURN, Task, TaskKey, TaskState};

/// A value that may hold references.
pub trait Contains {
    fn references(&self) -> &[RefSlot];
}

/// All references and submitted tasks of one process. `V` is a stored value, `S` a task's spec.
pub struct OwnerTable<V, S> {
    pub(crate) entries: Slab<Entry<V>>,
    pub(crate) tasks: Slab<Task<V, S>>,
    /// Only of ids that other processes know (every borrowed one, and owned ones once given away).
    pub(crate) by_id: FxHashMap<ObjectId, RefSlot>,
    /// How many entries are other processes' objects.
    pub(crate) borrowed: usize,
    /// Processes that have died: what is still said of their borrows comes too late.
    dead: FxHashSet<OwnerIndex>,
    /// Entries to look at for freeing; empty between calls.
    pub(crate) unreferenced: Vec<RefSlot>,
    pub(crate) lineage: Lineage,
    /// Entries that are gone and needed; empty between calls.
    pub(crate) wanted: Vec<RefSlot>,
    /// Tasks of other processes whose specs are here (ADO-1).
    pub(crate) inherited: FxHashMap<TaskId, TaskKey>,
    /// What this process has asked for to own it, by unit of adoption: it may have been chosen (ADO-5).
    pub(crate) claimed: FxHashSet<ObjectId>,
    /// Objects that await their wills since nobody asked for these ([`Self::newly_awaited`]).
    pub(crate) newly_awaited: Vec<ObjectId>,
    stamp: u32,
}

impl<V, S> Default for OwnerTable<V, S> {
    fn default() -> Self {
        Self {
            entries: Slab::default(),
            tasks: Slab::default(),
            by_id: FxHashMap::default(),
            borrowed: 0,
            dead: FxHashSet::default(),
            unreferenced: Vec::new(),
            lineage: Lineage::default(),
            wanted: Vec::new(),
            inherited: FxHashMap::default(),
            claimed: FxHashSet::default(),
            newly_awaited: Vec::new(),
            stamp: 0,
        }
    }
}

pub(crate) const HELD: &str = "OWN: a slot is used only while a count of it is held";

impl<V: Contains, S> OwnerTable<V, S> {
    // ---- making objects and tasks ------------------------------------------------------------------------------

    /// An object that exists already (a put): owned, ready, one local count.
    pub fn value_put(&mut self, id: ObjectId, value: V) -> RefSlot {
        self.contain(value.references());
        let mut entry = Entry::new(id, OwnerIndex::ME, RefKind::Value);
        entry.state = State::Ready { value, is_error: false };
        RefSlot(self.entries.insert(entry))
    }

    /// An object of ours that will come as [`Self::fetched`]: one local count. When that goes first, it is forgotten.
    pub fn promised(&mut self, id: ObjectId) -> RefSlot {
        let mut entry = Entry::new(id, OwnerIndex::ME, RefKind::Value);
        entry.no_lineage = NoLineage::Generator;
        RefSlot(self.entries.insert(entry))
    }

    /// The counter of an actor's handles: owned, one local count.
    pub fn actor_handle_created(&mut self, id: ObjectId) -> RefSlot {
        let slot = RefSlot(
            self.entries
                .insert(Entry::new(id, OwnerIndex::ME, RefKind::ActorHandle)),
        );
        self.index(slot);
        slot
    }

    /// A task was submitted. Takes over one local count of each of `deps` and `held`; each return gets one.
    /// Orders [`Effect::TaskReady`], [`Effect::ArgumentFailed`] or fetches.
    #[allow(clippy::too_many_arguments)]
    pub fn task_submitted(
        &mut self,
        task_id: TaskId,
        num_returns: u32,
        spec: S,
        deps: SmallVec<[RefSlot; 2]>,
        held: SmallVec<[RefSlot; 0]>,
        max_retries: i32,
        effects: &mut Vec<Effect<V>>,
    ) -> (TaskKey, SmallVec<[RefSlot; 1]>) {
        for slot in deps.iter().chain(held.iter()) {
            let entry = self.entry_mut(*slot);
            entry.submitted += 1;
            entry.local -= 1;
        }
        let key = TaskKey(self.tasks.insert(Task {
            spec,
            state: TaskState::WaitingForArguments,
            missing: 0,
            deps,
            held,
            returns: SmallVec::new(),
            items: None,
            live_returns: num_returns,
            retries_left: max_retries,
            attempt: 0,
            kept: None,
            inherited_as: None,
        }));
        let mut returns = SmallVec::new();
        for index in 1..=num_returns {
            let mut entry = Entry::new(ObjectId::new(task_id, index), OwnerIndex::ME, RefKind::Value);
            entry.task = Some(key);
            returns.push(RefSlot(self.entries.insert(entry)));
        }
        self.tasks.get_mut(key.0).expect("just made").returns = returns.clone();
        self.look_at_arguments(key, effects);
        self.make_what_is_wanted(effects);
        (key, returns)
    }

    /// What of them is gone is wanted afterwards.
    pub(crate) fn look_at_arguments(&mut self, key: TaskKey, effects: &mut Vec<Effect<V>>) {
        let task = self.tasks.get(key.0).expect("the caller names a live task");
        if task.deps.is_empty() {
            self.tasks.get_mut(key.0).expect("live").state = TaskState::Submitted;
            effects.push(Effect::TaskReady(key));
            return;
        }
        let deps = task.deps.clone();
        let mut missing = 0;
        for slot in &deps {
            let entry = self.entry_mut(*slot);
            match entry.state {
                State::Ready { is_error: false, .. } => {}
                State::Ready { is_error: true, .. } => {
                    self.tasks.get_mut(key.0).expect("live").state = TaskState::Submitted;
                    effects.push(Effect::ArgumentFailed {
                        task: key,
                        argument: *slot,
                    });
                    return;
                }
                State::Absent | State::Fetching | State::Gone => {
                    entry.watchers.push(Watcher::Task(key));
                    missing += 1;
                    self.fetch_or_want(*slot, effects);
                }
            }
        }
        let task = self.tasks.get_mut(key.0).expect("live");
        task.missing = missing;
        if missing == 0 {
            task.state = TaskState::Submitted;
            effects.push(Effect::TaskReady(key));
        }
    }

    // ---- values arriving ---------------------------------------------------------------------------------------

    /// The task ended, well or not: its returns are ready in order, and its arguments are let go; the spec stays if `then`
    /// says so. Of a task that ran again only those returns get their value that have none (LIN-4).
    pub fn task_finished(
        &mut self,
        key: TaskKey,
        values: impl IntoIterator<Item = (V, bool)>,
        then: AfterEnd<V>,
        effects: &mut Vec<Effect<V>>,
    ) {
        let Some(task) = self.tasks.get_mut(key.0) else { return };
        task.state = TaskState::Lineage;
        let returns = task.returns.clone();
        let deps = task.deps.clone();
        let held = task.held.clone();
        let mut values = values.into_iter();
        for slot in &returns {
            let Some((value, is_error)) = values.next() else { break };
            match self.entries.get(slot.0).is_some_and(|entry| !entry.is_ready()) {
                true => self.value_arrived(*slot, value, is_error, effects),
                false => self.abandon(value, effects),
            }
        }
        for slot in &deps {
            // It ended before all arguments came: those that are still to come must not tell whoever gets its key next.
            let entry = self.entry_mut(*slot);
            if !entry.is_ready() {
                entry.watchers.retain(|watcher| *watcher != Watcher::Task(key));
            }
        }
        let items = self.live_items(key);
        let is_kept = matches!(then, AfterEnd::Keep { .. });
        for slot in deps.iter().chain(held.iter()) {
            let entry = self.entry_mut(*slot);
            entry.submitted -= 1;
            entry.lineage += u32::from(is_kept);
            self.look_if_unreferenced(*slot);
        }
        match then {
            AfterEnd::Keep { bytes, arguments } => {
                self.keep_spec(key, bytes, arguments, effects);
                self.drop_spec_if_unneeded(key, effects);
            }
            AfterEnd::Forget(why) => {
                self.disown_all(key, why);
                let forgotten = self.tasks.remove(key.0);
                self.forget_inherited_id(forgotten.and_then(|task| task.inherited_as));
            }
        }
        self.look_at_items(&items, effects);
        for slot in returns {
            self.look_if_unreferenced(slot);
        }
        self.free_unreferenced(effects);
    }

    /// The value of a borrowed object came, or the certainty that it never will (`value` is the error then).
    pub fn fetched(&mut self, slot: RefSlot, value: V, is_error: bool, effects: &mut Vec<Effect<V>>) {
        match self.entries.get(slot.0) {
            Some(entry) if !entry.is_ready() => {}
            // Nobody waits any more: the references that came with it are let go at once.
            _ => return self.value_abandoned(value, effects),
        }
        self.value_arrived(slot, value, is_error, effects);
        self.look_if_unreferenced(slot);
        self.free_unreferenced(effects);
    }

    /// Takes over one local count of each reference in `value`.
    pub(crate) fn value_arrived(&mut self, slot: RefSlot, value: V, is_error: bool, effects: &mut Vec<Effect<V>>) {
        self.contain(value.references());
        let entry = self.entry_mut(slot);
        debug_assert!(!entry.is_ready(), "OWN-4");
        entry.shared = false;
        entry.awaits_will = false;
        entry.state = State::Ready { value, is_error };
        let watchers = std::mem::take(&mut entry.watchers);
        let is_told = watchers.iter().any(|watcher| matches!(watcher, Watcher::Peer { .. }));
        let is_told_alone = is_told && entry.is_unreferenced();
        entry.local += u32::from(is_told_alone);
        for watcher in watchers {
            match watcher {
                Watcher::Task(key) => self.argument_ready(key, slot, is_error, effects),
                other => effects.push(Effect::Tell { watcher: other, slot }),
            }
        }
        if is_told_alone {
            effects.push(Effect::LetGo { slot });
        }
    }

    fn argument_ready(&mut self, key: TaskKey, slot: RefSlot, is_error: bool, effects: &mut Vec<Effect<V>>) {
        let Some(task) = self.tasks.get_mut(key.0) else { return };
        if task.state != TaskState::WaitingForArguments {
            return;
        }
        task.missing -= 1;
        if is_error {
            task.state = TaskState::Submitted;
            effects.push(Effect::ArgumentFailed {
                task: key,
                argument: slot,
            });
        } else if task.missing == 0 {
            task.state = TaskState::Submitted;
            effects.push(Effect::TaskReady(key));
        }
    }

    /// The slots of returns stay valid while their entries name the task.
    pub(crate) fn disown_returns(&mut self, returns: &[RefSlot], why: NoLineage) {
        for slot in returns.iter().filter(|slot| **slot != NO_RETURN) {
            let entry = self.entry_mut(*slot);
            entry.task = None;
            entry.no_lineage = why;
        }
    }

    /// Each reference in a value moves from a local count to a contained one.
    pub(crate) fn contain(&mut self, references: &[RefSlot]) {
        for slot in references {
            let entry = self.entries.get_mut(slot.0).expect(HELD);
            entry.contained += 1;
            entry.local -= 1;
        }
    }

    // ---- watching ----------------------------------------------------------------------------------------------

    /// Registers `watcher`; false, and nothing registered, when the object is ready.
    pub fn watch(&mut self, slot: RefSlot, watcher: Watcher, effects: &mut Vec<Effect<V>>) -> bool {
        let entry = self.entry_mut(slot);
        if entry.is_ready() {
            return false;
        }
        entry.watchers.push(watcher);
        self.fetch_or_want(slot, effects);
        self.make_what_is_wanted(effects);
        true
    }

    pub fn unwatch(&mut self, slot: RefSlot, watcher: Watcher) {
        if let Some(entry) = self.entries.get_mut(slot.0) {
            entry.watchers.retain(|other| *other != watcher);
        }
    }

    pub(crate) fn fetch_or_want(&mut self, slot: RefSlot, effects: &mut Vec<Effect<V>>) {
        let entry = self.entry_mut(slot);
        if matches!(entry.state, State::Gone) {
            self.wanted.push(slot);
        } else if entry.owner != OwnerIndex::ME && matches!(entry.state, State::Absent) {
            entry.state = State::Fetching;
            effects.push(Effect::Fetch {
                slot,
                id: entry.id,
                owner: entry.owner,
            });
        }
    }

    // ---- counts ------------------------------------------------------------------------------------------------

    pub fn local_added(&mut self, slot: RefSlot) {
        self.entry_mut(slot).local += 1;
    }

    pub fn local_dropped(&mut self, slot: RefSlot, effects: &mut Vec<Effect<V>>) {
        let entry = self.entry_mut(slot);
        entry.local -= 1;
        if entry.local == 0 {
            self.look_if_unreferenced(slot);
            self.free_unreferenced(effects);
        }
    }

    /// A value that no entry owns is given up: its references go, and [`Effect::Free`] is ordered.
    pub fn value_abandoned(&mut self, value: V, effects: &mut Vec<Effect<V>>) {
        self.abandon(value, effects);
        self.free_unreferenced(effects);
    }

    fn abandon(&mut self, value: V, effects: &mut Vec<Effect<V>>) {
        self.contain(value.references());
        self.release_contents(&value);
        effects.push(Effect::Free { value });
    }

    pub(crate) fn look_if_unreferenced(&mut self, slot: RefSlot) {
        if self.entries.get(slot.0).is_some_and(Entry::is_unreferenced) {
            self.unreferenced.push(slot);
        }
    }

    pub(crate) fn release_contents(&mut self, value: &V) {
        for slot in value.references() {
            let entry = self.entries.get_mut(slot.0).expect(HELD);
            entry.contained -= 1;
            if entry.is_unreferenced() {
                self.unreferenced.push(*slot);
            }
        }
    }

    pub(crate) fn free_unreferenced(&mut self, effects: &mut Vec<Effect<V>>) {
        while let Some(slot) = self.unreferenced.pop() {
            let Some(entry) = self.entries.get(slot.0) else {
                continue;
            };
            if !entry.is_unreferenced() {
                continue;
            }
            // An owned object in the making is freed when its task finishes; one being fetched, when it arrives. Whoever
            // asks for one that awaits its will is answered.
            let in_the_making = entry.kind == RefKind::Value
                && match entry.state {
                    State::Absent if entry.awaits_will => !entry.watchers.is_empty(),
                    State::Absent => entry.task.is_some() && entry.owner == OwnerIndex::ME,
                    State::Fetching => true,
                    State::Ready { .. } | State::Gone => false,
                };
            if in_the_making {
                continue;
            }
            if entry.lineage > 0 {
                self.let_go(slot, effects);
                continue;
            }
            let entry = self.entries.remove(slot.0).expect("looked at above");
            if entry.indexed {
                self.by_id.remove(&entry.id);
            }
            if let Some(key) = entry.task {
                self.return_removed(key, slot, &entry.id, effects);
            }
            if entry.owner != OwnerIndex::ME {
                self.borrowed -= 1;
                if entry.grants > 0 {
                    effects.push(Effect::ReturnBorrow {
                        owner: entry.owner,
                        id: entry.id,
                        count: entry.grants,
                    });
                }
            } else if entry.kind == RefKind::ActorHandle && !matches!(entry.state, State::Gone) {
                effects.push(Effect::ActorHandlesGone { id: entry.id });
            }
            if let State::Ready { value, is_error } = entry.state {
                self.release_contents(&value);
                // A borrowed value's memory is its owner's to free.
                if entry.owner == OwnerIndex::ME {
                    effects.push(match is_error && !entry.seen {
                        true => Effect::FreeUnseenError { value },
                        false => Effect::Free { value },
                    });
                }
            }
        }
    }

    // ---- borrowing ---------------------------------------------------------------------------------------------

    /// A reference arrived from elsewhere: one local count on its entry, which is made if need be.
    pub fn imported(&mut self, id: ObjectId, owner: OwnerIndex, kind: RefKind) -> RefSlot {
        if let Some(slot) = self.by_id.get(&id) {
            let slot = *slot;
            self.entry_mut(slot).local += 1;
            return slot;
        }
        if owner == OwnerIndex::ME
            && let Some(slot) = self.awaited(&id)
        {
            self.entry_mut(slot).local += 1;
            return slot;
        }
        let mut entry = Entry::new(id, owner, kind);
        entry.indexed = true;
        self.borrowed += usize::from(owner != OwnerIndex::ME);
        let slot = RefSlot(self.entries.insert(entry));
        self.by_id.insert(id, slot);
        slot
    }

    /// Somebody names an object by its id alone; one more local count of it, if it is known here. Looks at every entry:
    /// ids that never left the process are in no index.
    pub fn named(&mut self, id: &ObjectId) -> Option<RefSlot> {
        let by_scan = || self.entries.iter().find(|(_, entry)| entry.id == *id);
        let slot = self.find(id).or_else(|| by_scan().map(|(slot, _)| RefSlot(slot)))?;
        self.entry_mut(slot).local += 1;
        Some(slot)
    }

    /// The sender of a value granted this process the reference (OWN-2); nothing when it is owned here.
    pub fn grant_received(&mut self, slot: RefSlot) {
        let entry = self.entry_mut(slot);
        if entry.owner != OwnerIndex::ME {
            entry.grants += 1;
        }
    }

    /// A value with this reference goes to `receiver` (OWN-2).
    pub fn grant_given(&mut self, slot: RefSlot, receiver: OwnerIndex, effects: &mut Vec<Effect<V>>) {
        self.index(slot);
        let is_dead = self.dead.contains(&receiver);
        let entry = self.entry_mut(slot);
        if entry.owner == receiver {
            return;
        }
        if entry.owner == OwnerIndex::ME && is_dead {
            // It takes nothing any more, and nobody would give it back.
        } else if entry.owner == OwnerIndex::ME {
            add_grants(&mut entry.borrowers, receiver, 1);
        } else {
            effects.push(Effect::GrantBorrow {
                owner: entry.owner,
                id: entry.id,
                borrower: receiver,
            });
        }
    }

    /// Another holder granted `borrower` an object of ours. False when the object is unknown.
    pub fn borrow_granted(&mut self, id: &ObjectId, borrower: OwnerIndex, effects: &mut Vec<Effect<V>>) -> bool {
        self.change_borrow(id, borrower, 1, effects)
    }

    /// `borrower` gave grants back.
    pub fn borrow_returned(
        &mut self,
        id: &ObjectId,
        borrower: OwnerIndex,
        count: u32,
        effects: &mut Vec<Effect<V>>,
    ) -> bool {
        self.change_borrow(id, borrower, -i64::from(count), effects)
    }

    fn change_borrow(&mut self, id: &ObjectId, borrower: OwnerIndex, by: i64, effects: &mut Vec<Effect<V>>) -> bool {
        if self.dead.contains(&borrower) {
            return self.by_id.contains_key(id);
        }
        let Some(slot) = self.find_or_await(id) else {
            return false;
        };
        let entry = self.entry_mut(slot);
        add_grants(&mut entry.borrowers, borrower, by);
        self.look_if_unreferenced(slot);
        self.free_unreferenced(effects);
        true
    }

    /// A task's argument named this reference, and the task ends now: should the reply report it (OWN-3)?
    /// `own_counts` is how many local counts the task itself still holds. When true, the grant is booked.
    pub fn reported_as_borrowed(&mut self, slot: RefSlot, own_counts: u32) -> bool {
        let entry = self.entry_mut(slot);
        let others = entry.local - own_counts.min(entry.local) + entry.submitted + entry.contained;
        if entry.owner == OwnerIndex::ME || entry.grants > 0 || others == 0 {
            return false;
        }
        entry.grants += 1;
        true
    }

    /// The process is gone, and with it all it borrowed.
    pub fn borrower_died(&mut self, borrower: OwnerIndex, effects: &mut Vec<Effect<V>>) {
        self.dead.insert(borrower);
        let mut touched = Vec::new();
        for (index, entry) in self.entries.iter_mut() {
            let before = entry.borrowers.len();
            entry.borrowers.retain(|(who, _)| *who != borrower);
            if entry.borrowers.len() != before {
                touched.push(RefSlot(index));
            }
        }
        for slot in touched {
            self.look_if_unreferenced(slot);
        }
        self.free_unreferenced(effects);
    }

    /// Whether the object is ready; if so, whoever asks knows of the error that it may be. One that is gone is wanted.
    pub fn see_if_ready(&mut self, slot: RefSlot, effects: &mut Vec<Effect<V>>) -> bool {
        let Some(entry) = self.entries.get_mut(slot.0) else {
            return false;
        };
        let ready = entry.is_ready();
        entry.seen |= ready;
        if matches!(entry.state, State::Gone) {
            self.wanted.push(slot);
            self.make_what_is_wanted(effects);
        }
        ready
    }

    /// Where the program made it, as a number of the caller's.
    pub fn made_at(&mut self, slot: RefSlot, site: u32) {
        if let Some(entry) = self.entries.get_mut(slot.0) {
            entry.site = site;
        }
    }

    /// Someone looks at the value of the object, now or as soon as there is one.
    pub fn seen(&mut self, slot: RefSlot) {
        if let Some(entry) = self.entries.get_mut(slot.0) {
            entry.seen = true;
        }
    }

    /// The id is about to leave the process.
    pub fn index(&mut self, slot: RefSlot) {
        let entry = self.entries.get_mut(slot.0).expect(HELD);
        if !entry.indexed {
            entry.indexed = true;
            self.by_id.insert(entry.id, slot);
        }
    }

    // ---- questions ---------------------------------------------------------------------------------------------

    pub fn is_ready(&self, slot: RefSlot) -> bool {
        self.entries.get(slot.0).is_some_and(Entry::is_ready)
    }

    /// The value and whether it is an error, once ready.
    pub fn value(&self, slot: RefSlot) -> Option<(&V, bool)> {
        match &self.entries.get(slot.0)?.state {
            State::Ready { value, is_error } => Some((value, *is_error)),
            State::Absent | State::Fetching | State::Gone => None,
        }
    }

    pub fn id(&self, slot: RefSlot) -> ObjectId {
        self.entries.get(slot.0).expect(HELD).id
    }

    pub fn owner(&self, slot: RefSlot) -> OwnerIndex {
        self.entries.get(slot.0).expect(HELD).owner
    }

    /// Of an object of ours that no task would make again: why.
    pub fn no_lineage(&self, slot: RefSlot) -> NoLineage {
        self.entries.get(slot.0).expect(HELD).no_lineage
    }

    pub fn kind(&self, slot: RefSlot) -> RefKind {
        self.entries.get(slot.0).expect(HELD).kind
    }

    pub fn find(&self, id: &ObjectId) -> Option<RefSlot> {
        self.by_id.get(id).copied()
    }

    pub fn has_duplicates(&mut self, slots: &[RefSlot]) -> bool {
        self.stamp = self.stamp.wrapping_add(1).max(1);
        let stamp = self.stamp;
        slots.iter().any(|slot| {
            let entry = self.entries.get_mut(slot.0).expect(HELD);
            std::mem::replace(&mut entry.stamp, stamp) == stamp
        })
    }

    pub fn spec(&self, key: TaskKey) -> Option<&S> {
        self.tasks.get(key.0).map(|task| &task.spec)
    }

    pub fn spec_mut(&mut self, key: TaskKey) -> Option<&mut S> {
        self.tasks.get_mut(key.0).map(|task| &mut task.spec)
    }

    pub fn task_state(&self, key: TaskKey) -> Option<TaskState> {
        self.tasks.get(key.0).map(|task| task.state)
    }

    /// The task that makes this object now, for the first time or once more.
    pub fn task_of(&self, slot: RefSlot) -> Option<TaskKey> {
        let entry = self.entries.get(slot.0)?;
        match entry.state {
            State::Absent => entry.task.filter(|_| entry.owner == OwnerIndex::ME),
            State::Fetching | State::Ready { .. } | State::Gone => None,
        }
    }

    /// The task that made this object, or makes it, or would make it again; of a borrowed one: would, if it were adopted.
    pub fn task_behind(&self, slot: RefSlot) -> Option<TaskKey> {
        self.entries.get(slot.0)?.task
    }

    /// The first return of a task that has not ended.
    pub fn return_of(&self, key: TaskKey) -> Option<RefSlot> {
        let first = self.tasks.get(key.0)?.returns.first().copied();
        first.filter(|slot| *slot != NO_RETURN)
    }

    /// The tasks that have not ended and whose spec `wanted` picks.
    pub fn unfinished(&self, wanted: impl Fn(&S) -> bool) -> Vec<TaskKey> {
        self.tasks
            .iter()
            .filter(|(_, task)| task.state != TaskState::Lineage && wanted(&task.spec))
            .map(|(index, _)| TaskKey(index))
            .collect()
    }

    pub fn deps(&self, key: TaskKey) -> &[RefSlot] {
        self.tasks.get(key.0).map_or(&[], |task| &task.deps)
    }

    pub fn held(&self, key: TaskKey) -> &[RefSlot] {
        self.tasks.get(key.0).map_or(&[], |task| &task.held)
    }

    pub fn num_returns(&self, key: TaskKey) -> usize {
        self.tasks.get(key.0).map_or(0, |task| task.returns.len())
    }

    pub fn attempt(&self, key: TaskKey) -> u32 {
        self.tasks.get(key.0).map_or(0, |task| task.attempt)
    }

    pub fn retries_left(&self, key: TaskKey) -> i32 {
        self.tasks.get(key.0).map_or(0, |task| task.retries_left)
    }

    /// A try failed: whether the task may run once more. Counts the attempt.
    pub fn may_retry(&mut self, key: TaskKey) -> bool {
        let Some(task) = self.tasks.get_mut(key.0) else {
            return false;
        };
        if task.retries_left == 0 {
            return false;
        }
        if task.retries_left > 0 {
            task.retries_left -= 1;
        }
        task.tries_again();
        true
    }

    /// A try came to nothing by no fault of the task's: it runs once more, and no retry is used.
    pub fn tried_for_free(&mut self, key: TaskKey) {
        if let Some(task) = self.tasks.get_mut(key.0) {
            task.tries_again();
        }
    }

    pub fn reference_count(&self) -> usize {
        self.entries.len()
    }

    /// Whether something would be lost with this process: an object of its own that is still referenced, an actor whose
    /// handles it counts, or a task that it has submitted.
    pub fn owns_any(&self) -> bool {
        self.entries.len() > self.borrowed || self.tasks.len() > self.idle_inheritances()
    }

    /// Those that have not ended.
    pub fn task_count(&self) -> usize {
        self.tasks.len() - self.lineage.count()
    }

    pub(crate) fn entry_mut(&mut self, slot: RefSlot) -> &mut Entry<V> {
        self.entries.get_mut(slot.0).expect(HELD)
    }
}

fn add_grants(borrowers: &mut SmallVec<[(OwnerIndex, i64); 0]>, borrower: OwnerIndex, by: i64) {
    match borrowers.iter_mut().position(|(who, _)| *who == borrower) {
        Some(at) => {
            borrowers[at].1 += by;
            if borrowers[at].1 == 0 {
                borrowers.swap_remove(at);
            }
        }
        None => borrowers.push((borrower, by)),
    }
}
