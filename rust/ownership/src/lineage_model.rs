//! The table beside a model of it that keeps no counts: after every step it is worked out anew what must be there.

use proptest::prelude::*;
use ray_rs_types::{ActorId, JobId, ObjectId, TaskId};
use smallvec::smallvec;

use crate::{AfterEnd, Contains, Effect, NoLineage, OwnerTable, RefSlot, TaskKey, Watcher};

#[derive(Debug, PartialEq, Eq, Clone)]
struct Value(u32);

impl Contains for Value {
    fn references(&self) -> &[RefSlot] {
        &[]
    }
}

const SPEC_BYTES: u64 = 10;
/// Values above are arguments of the task of that number.
const ARGUMENTS: u32 = 1 << 20;

#[derive(Debug, Clone)]
enum Step {
    Put,
    /// With what it depends on, of the objects that have a handle.
    Submit(Vec<usize>, u32),
    /// A task that runs gives an item, as a generator.
    Item(usize),
    Finish(usize, bool),
    Drop(usize),
    Lose(usize),
    Watch(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::Put),
        4 => (prop::collection::vec(0..64_usize, 0..3), 1..3_u32).prop_map(|(deps, returns)| Step::Submit(deps, returns)),
        4 => (0..64_usize).prop_map(Step::Item),
        6 => (0..64_usize, prop::bool::weighted(0.9)).prop_map(|(which, keep)| Step::Finish(which, keep)),
        3 => (0..64_usize).prop_map(Step::Drop),
        2 => (0..64_usize).prop_map(Step::Lose),
        3 => (0..64_usize).prop_map(Step::Watch),
    ];
    prop::collection::vec(step, 1..80)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Absent,
    Present { number: u32, is_error: bool },
    Gone,
    Removed,
}

#[derive(Debug)]
struct Object {
    slot: RefSlot,
    has_handle: bool,
    task: Option<usize>,
    held: Held,
    /// Somebody waits for its value, other than a task.
    watched: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Ready,
    Kept,
    Dropped,
}

#[derive(Debug)]
struct Task {
    key: TaskKey,
    deps: Vec<usize>,
    /// Of these, those that had no value when they were looked at, and have got none since.
    awaited: Vec<usize>,
    returns: Vec<usize>,
    items: Vec<usize>,
    /// Of the items, in this run.
    came: usize,
    stage: Stage,
    retries_left: u32,
}

struct Model {
    table: OwnerTable<Value, usize>,
    effects: Vec<Effect<Value>>,
    objects: Vec<Object>,
    tasks: Vec<Task>,
    /// Tasks in the order in which they were kept.
    order: Vec<usize>,
    limit: u64,
    numbers: u32,
    freed: Vec<u32>,
}

impl Model {
    fn new(limit: u64) -> Self {
        let mut table = OwnerTable::default();
        table.limit_lineage(limit);
        Self {
            table,
            effects: vec![],
            objects: vec![],
            tasks: vec![],
            order: vec![],
            limit,
            numbers: 0,
            freed: vec![],
        }
    }

    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn pick(&self, which: usize, wanted: impl Fn(&Object) -> bool) -> Option<usize> {
        let all: Vec<usize> = (0..self.objects.len())
            .filter(|index| wanted(&self.objects[*index]))
            .collect();
        (!all.is_empty()).then(|| all[which % all.len()])
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put => {
                let (number, unique) = (self.number(), self.objects.len() as u64);
                let id = ObjectId::new(task_id(unique), ObjectId::FIRST_PUT_INDEX);
                let slot = self.table.value_put(id, Value(number));
                let held = Held::Present {
                    number,
                    is_error: false,
                };
                self.add_object(slot, None, held);
            }
            Step::Submit(deps, returns) => self.submit(&deps, returns),
            Step::Item(which) => {
                if let Some(task) = self.pick_running(which) {
                    self.give_item(task);
                }
            }
            Step::Finish(which, keep) => {
                if let Some(task) = self.pick_running(which) {
                    self.finish(task, keep, false);
                }
            }
            Step::Drop(which) => {
                if let Some(index) = self.pick(which, |object| object.has_handle) {
                    self.objects[index].has_handle = false;
                    self.table.local_dropped(self.objects[index].slot, &mut self.effects);
                }
            }
            Step::Lose(which) => {
                let is_there = |object: &Object| matches!(object.held, Held::Present { is_error: false, .. });
                if let Some(index) = self.pick(which, is_there) {
                    let can_be_made = self.is_remakeable(index);
                    let lost = self.table.value_lost(self.objects[index].slot, &mut self.effects);
                    assert_eq!(lost.is_ok(), can_be_made);
                    if can_be_made {
                        let running = self.is_running(self.objects[index].task.expect("it can be made"));
                        let after = if running { Held::Absent } else { Held::Gone };
                        self.let_go(index, after);
                    }
                }
            }
            Step::Watch(which) => {
                if let Some(index) = self.pick(which, |object| object.has_handle) {
                    let slot = self.objects[index].slot;
                    if self.table.watch(slot, Watcher::Waiter(0), &mut self.effects) {
                        self.objects[index].watched = true;
                        self.want(index);
                    }
                }
            }
        }
        self.settle();
        self.check();
    }

    fn add_object(&mut self, slot: RefSlot, task: Option<usize>, held: Held) -> usize {
        self.objects.push(Object {
            slot,
            has_handle: true,
            task,
            held,
            watched: false,
        });
        self.objects.len() - 1
    }

    fn pick_running(&self, which: usize) -> Option<usize> {
        let running = |task: &usize| self.tasks[*task].stage == Stage::Ready;
        let ready: Vec<usize> = (0..self.tasks.len()).filter(running).collect();
        (!ready.is_empty()).then(|| ready[which % ready.len()])
    }

    fn give_item(&mut self, task: usize) {
        let number = self.number();
        let (key, came) = (self.tasks[task].key, self.tasks[task].came);
        self.tasks[task].came += 1;
        let present = Held::Present {
            number,
            is_error: false,
        };
        if let Some(index) = self.tasks[task].items.get(came).copied() {
            let is_wanted = matches!(self.objects[index].held, Held::Absent | Held::Gone);
            let slot = self.table.item_came_again(key, came as u32);
            assert_eq!(slot, is_wanted.then_some(self.objects[index].slot));
            let Some(slot) = slot else { return };
            self.table.fetched(slot, Value(number), false, &mut self.effects);
            self.arrived(index, present);
        } else {
            let place = (self.tasks[task].returns.len() + came + 1) as u32;
            let slot = self.table.promised(ObjectId::new(task_id(1000 + task as u64), place));
            self.table.item_came(key, slot, came as u32);
            self.table.fetched(slot, Value(number), false, &mut self.effects);
            let index = self.add_object(slot, Some(task), present);
            self.tasks[task].items.push(index);
        }
    }

    fn arrived(&mut self, index: usize, held: Held) {
        self.objects[index].held = held;
        self.objects[index].watched = false;
        for task in &mut self.tasks {
            task.awaited.retain(|other| *other != index);
        }
    }

    /// What was lost while its task ran, and has not come again.
    fn look_at_items(&mut self, task: usize) {
        let mut lost = self.tasks[task].items.clone();
        lost.retain(|index| self.objects[*index].held == Held::Absent);
        for index in &lost {
            self.objects[*index].held = Held::Gone;
        }
        let waits_for = |task: &Task, index| task.stage == Stage::Waiting && task.awaited.contains(&index);
        lost.retain(|index| self.objects[*index].watched || self.tasks.iter().any(|task| waits_for(task, *index)));
        for index in lost {
            self.want(index);
        }
    }

    fn submit(&mut self, deps: &[usize], returns: u32) {
        let mut deps: Vec<usize> = (deps.iter())
            .filter_map(|which| self.pick(*which, |object| object.has_handle))
            .collect();
        deps.dedup();
        let task = self.tasks.len();
        let slots: Vec<RefSlot> = deps.iter().map(|dep| self.objects[*dep].slot).collect();
        slots.iter().for_each(|slot| self.table.local_added(*slot));
        let unique = 1000 + task as u64;
        let (key, made) = self.table.task_submitted(
            task_id(unique),
            returns,
            task,
            slots.as_slice().into(),
            smallvec![],
            2,
            &mut self.effects,
        );
        let returns = (made.iter())
            .map(|slot| self.add_object(*slot, Some(task), Held::Absent))
            .collect();
        self.tasks.push(Task {
            key,
            deps: deps.clone(),
            awaited: vec![],
            returns,
            items: vec![],
            came: 0,
            stage: Stage::Waiting,
            retries_left: 2,
        });
        self.want_arguments(task);
    }

    fn finish(&mut self, task: usize, keep: bool, is_error: bool) {
        let returns = self.tasks[task].returns.clone();
        let numbers: Vec<u32> = returns.iter().map(|_| self.number()).collect();
        let keep = keep && !is_error && self.tasks[task].retries_left > 0;
        let then = match keep {
            true => AfterEnd::Keep {
                bytes: SPEC_BYTES,
                arguments: Value(ARGUMENTS + task as u32),
            },
            false => AfterEnd::Forget(NoLineage::NotKept),
        };
        let values = numbers.iter().map(|number| (Value(*number), is_error));
        let key = self.tasks[task].key;
        self.table.task_finished(key, values, then, &mut self.effects);
        for (index, number) in returns.into_iter().zip(numbers) {
            match self.objects[index].held {
                Held::Absent | Held::Gone => self.arrived(index, Held::Present { number, is_error }),
                Held::Present { .. } | Held::Removed => self.freed.push(number),
            }
        }
        self.tasks[task].stage = Stage::Dropped;
        if keep {
            self.tasks[task].stage = Stage::Kept;
            self.order.push(task);
            while self.kept().count() as u64 * SPEC_BYTES > self.limit {
                let oldest = self
                    .order
                    .iter()
                    .position(|task| self.tasks[*task].stage == Stage::Kept);
                let oldest = self.order.remove(oldest.expect("one is kept"));
                self.tasks[oldest].stage = Stage::Dropped;
            }
        }
        self.look_at_items(task);
    }

    fn kept(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(|task| task.stage == Stage::Kept)
    }

    fn is_running(&self, task: usize) -> bool {
        matches!(self.tasks[task].stage, Stage::Waiting | Stage::Ready)
    }

    fn is_remakeable(&self, index: usize) -> bool {
        (self.objects[index].task).is_some_and(|task| self.tasks[task].stage != Stage::Dropped)
    }

    fn is_referenced(&self, index: usize) -> bool {
        let uses_it = |task: usize| self.is_running(task) && self.tasks[task].deps.contains(&index);
        self.objects[index].has_handle || (0..self.tasks.len()).any(uses_it)
    }

    /// Somebody needs it.
    fn want(&mut self, index: usize) {
        if self.objects[index].held != Held::Gone {
            return;
        }
        match self.objects[index].task {
            Some(task) if self.tasks[task].stage != Stage::Dropped => {
                self.objects[index].held = Held::Absent;
                if self.tasks[task].stage == Stage::Kept {
                    self.order.retain(|kept| *kept != task);
                    self.tasks[task].stage = Stage::Waiting;
                    self.tasks[task].retries_left -= 1;
                    self.tasks[task].came = 0;
                    self.want_arguments(task);
                }
            }
            // The table says so: `settle` gives it its error.
            Some(_) | None => {}
        }
    }

    /// Up to one that is an error: then the task does not run.
    fn want_arguments(&mut self, task: usize) {
        let deps = self.tasks[task].deps.clone();
        let is_error = |object: &Object| matches!(object.held, Held::Present { is_error: true, .. });
        let before_error = deps.iter().position(|dep| is_error(&self.objects[*dep]));
        for dep in &deps[..before_error.unwrap_or(deps.len())] {
            if !matches!(self.objects[*dep].held, Held::Present { .. }) {
                self.tasks[task].awaited.push(*dep);
            }
            self.want(*dep);
        }
    }

    fn let_go(&mut self, index: usize, after: Held) {
        if let Held::Present { number, .. } = std::mem::replace(&mut self.objects[index].held, after) {
            self.freed.push(number);
        }
    }

    /// Carries out what the table orders, and works out what must be gone by now.
    fn settle(&mut self) {
        loop {
            self.work_out();
            let effects = std::mem::take(&mut self.effects);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::TaskReady(key) => {
                        let task = *self.table.spec(key).expect("it is ready");
                        assert_eq!(self.tasks[task].stage, Stage::Waiting);
                        self.tasks[task].stage = Stage::Ready;
                    }
                    Effect::ArgumentFailed { task, .. } => {
                        let task = *self.table.spec(task).expect("it has not ended");
                        self.finish(task, false, true);
                    }
                    Effect::CannotBeMade { slot } => {
                        let is_it = |object: &Object| object.slot == slot && object.held == Held::Gone;
                        let index = self.objects.iter().position(is_it);
                        let number = self.number();
                        self.table.fetched(slot, Value(number), true, &mut self.effects);
                        match index {
                            Some(index) => {
                                self.arrived(index, Held::Present { number, is_error: true });
                            }
                            // It was needed twice.
                            None => self.freed.push(number),
                        }
                    }
                    Effect::Free { value } | Effect::FreeUnseenError { value } => {
                        if value.0 < ARGUMENTS {
                            let at = self.freed.iter().position(|number| *number == value.0);
                            self.freed.swap_remove(at.expect("freed at the right time, and once"));
                        }
                    }
                    Effect::TaskAgain(_) | Effect::Tell { .. } => {}
                    Effect::LetGo { .. }
                    | Effect::Fetch { .. }
                    | Effect::GrantBorrow { .. }
                    | Effect::ReturnBorrow { .. }
                    | Effect::ActorHandlesGone { .. } => unreachable!("nothing is borrowed"),
                }
            }
        }
    }

    fn work_out(&mut self) {
        loop {
            let mut changed = false;
            for index in 0..self.objects.len() {
                let in_lineage = self.kept().any(|task| task.deps.contains(&index));
                let is_absent = self.objects[index].held == Held::Absent;
                let after = match (self.is_referenced(index), in_lineage) {
                    (true, _) => continue,
                    (false, _) if is_absent => continue,
                    (false, true) if self.is_remakeable(index) => Held::Gone,
                    (false, true) => continue,
                    (false, false) => Held::Removed,
                };
                changed |= self.objects[index].held != after;
                self.let_go(index, after);
            }
            for task in &mut self.tasks {
                let is_removed = |index: &usize| self.objects[*index].held == Held::Removed;
                if task.stage == Stage::Kept && task.returns.iter().chain(&task.items).all(is_removed) {
                    task.stage = Stage::Dropped;
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    fn check(&self) {
        self.table.check_invariants();
        assert_eq!(self.freed, [], "values that were not freed");
        assert_eq!(self.table.lineage_bytes(), self.kept().count() as u64 * SPEC_BYTES);
        let there = self.objects.iter().filter(|object| object.held != Held::Removed);
        assert_eq!(self.table.reference_count(), there.clone().count());
        for object in there {
            let value = match object.held {
                Held::Present { number, is_error } => Some((number, is_error)),
                Held::Absent | Held::Gone | Held::Removed => None,
            };
            let known = self.table.value(object.slot);
            assert_eq!(known.map(|(value, is_error)| (value.0, is_error)), value);
        }
        for task in &self.tasks {
            let present = |dep: &usize| matches!(self.objects[*dep].held, Held::Present { .. });
            assert!(
                task.stage != Stage::Waiting || !task.deps.iter().all(present),
                "a task waits for nothing"
            );
        }
    }

    /// Everything runs to its end, and everybody lets go.
    fn end(mut self) {
        while self.tasks.iter().any(|task| task.stage == Stage::Ready) {
            self.step(Step::Finish(0, true));
        }
        let waits = |task: &Task| task.stage == Stage::Waiting;
        assert!(!self.tasks.iter().any(waits), "what it waits for never comes");
        while self.objects.iter().any(|object| object.has_handle) {
            self.step(Step::Drop(0));
        }
        assert_eq!((self.table.reference_count(), self.table.lineage_bytes()), (0, 0));
        assert_eq!(self.table.tasks.len(), 0);
    }
}

fn task_id(unique: u64) -> TaskId {
    TaskId::new(unique, ActorId::nil_of(JobId::from_int(1)))
}

proptest! {
    #[test]
    fn the_table_keeps_what_may_be_needed_and_nothing_else(
        steps in steps(),
        limit in prop_oneof![Just(0), Just(2 * SPEC_BYTES), Just(5 * SPEC_BYTES), Just(u64::MAX)],
    ) {
        let mut model = Model::new(limit);
        for step in steps {
            model.step(step);
        }
        model.end();
    }
}
