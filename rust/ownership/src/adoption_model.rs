//! Some processes that submit tasks, pass references on, drop them and die, each with its table, and a control store that
//! chooses adopters. Messages between two of them stay in order; everything else happens in any order.
//!
//! It covers: values in the process and in a store, tasks with an argument that begin anew with their adopter; references passed
//! on before, while and after their owner's death is noticed, by those who have told the adopter and those who have not; adopters
//! that let go at once, die in their turn, or are named to others before they have heard of it themselves (ADO-5); processes that
//! hear of two owners of one object, in either order. It does not: memory of values in a store, messages that a dead process had
//! not sent yet (what it sent arrives), answers of the control store that overtake each other, and several returns of one task.
//!
//! At the end, when nothing is under way any more: whoever has a reference has the value, and when all references are
//! dropped, nothing is left anywhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ray_rs_types::{ActorId, JobId, ObjectId, TaskId};
use smallvec::{SmallVec, smallvec};

use crate::{
    AfterEnd, Contains, Effect, Inheritance, NoLineage, OwnerIndex, OwnerTable, RefKind, RefSlot, TaskKey, Watcher,
};

mod schedules;

const PROCESSES: usize = 4;
const FOR_EVER: i32 = -1;

/// The number of the task that made it, and whether it lies in a store.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Value {
    task: u64,
    is_large: bool,
}

impl Contains for Value {
    fn references(&self) -> &[RefSlot] {
        &[]
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// With what it depends on, of the objects that the process holds.
    Submit(usize, Option<usize>),
    Give(usize, usize, usize),
    Drop(usize, usize),
    Finish(usize, usize),
    Deliver(usize),
    Kill(usize),
    Learn(usize),
    Answer(usize),
    Watch(usize, usize),
}

/// What goes along with a reference.
#[derive(Debug, Clone)]
struct Will {
    id: ObjectId,
    owner: usize,
    value: Option<Value>,
    task: Option<(u64, Vec<Will>)>,
    ask: bool,
}

#[derive(Debug, Clone)]
enum Message {
    Reference(Will),
    Get(ObjectId),
    Object(ObjectId, Option<Value>),
    Granted(ObjectId, usize),
    Returned(ObjectId, u32),
    Adopted(Will, u32),
}

/// What a reference means to the receiver.
#[derive(Debug, Clone, Copy)]
enum Comes {
    Granted,
    /// The receiver owns it now, says a holder.
    ToItsAdopter,
}

/// What the control store is asked.
#[derive(Debug, Clone, Copy)]
enum Question {
    /// Who is to own the object, whose owner is dead.
    Adopt { dead: usize, id: ObjectId },
    /// Who owns it: `known`, or `named`, as somebody says who has given so many grants of it.
    Who {
        id: ObjectId,
        known: usize,
        named: usize,
        grants: u32,
    },
}

struct Process {
    table: OwnerTable<Value, u64>,
    effects: Vec<Effect<Value>>,
    handles: BTreeMap<ObjectId, RefSlot>,
    /// Tasks that may end.
    running: Vec<TaskKey>,
    dead: BTreeSet<usize>,
    questions: VecDeque<Question>,
    fetches: BTreeMap<ObjectId, RefSlot>,
}

struct World {
    processes: Vec<Process>,
    living: BTreeSet<usize>,
    lanes: BTreeMap<(usize, usize), VecDeque<Message>>,
    adopters: BTreeMap<ObjectId, usize>,
    tasks: u64,
    /// How often a task was begun by an adopter.
    begun_again: BTreeMap<u64, usize>,
    deaths: usize,
}

fn task_id(unique: u64) -> TaskId {
    TaskId::new(unique, ActorId::nil_of(JobId::from_int(1)))
}

fn index_of(me: usize, other: usize) -> OwnerIndex {
    if me == other {
        OwnerIndex::ME
    } else {
        OwnerIndex(other as u32 + 1)
    }
}

fn number_of(me: usize, index: OwnerIndex) -> usize {
    if index == OwnerIndex::ME {
        me
    } else {
        index.0 as usize - 1
    }
}

fn is_large(value: &Value) -> bool {
    value.is_large
}

impl World {
    fn new() -> Self {
        let process = |_| Process {
            table: OwnerTable::default(),
            effects: vec![],
            handles: BTreeMap::new(),
            running: vec![],
            dead: BTreeSet::new(),
            questions: VecDeque::new(),
            fetches: BTreeMap::new(),
        };
        Self {
            processes: (0..PROCESSES).map(process).collect(),
            living: (0..PROCESSES).collect(),
            lanes: BTreeMap::new(),
            adopters: BTreeMap::new(),
            tasks: 0,
            begun_again: BTreeMap::new(),
            deaths: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Submit(p, dep) => self.submit(p, dep),
            Step::Give(p, q, which) => self.give(p, q, which),
            Step::Drop(p, which) => {
                if let Some(id) = self.pick_handle(p, which) {
                    self.drop_handle(p, id);
                }
            }
            Step::Finish(p, which) => {
                let running = self.processes[p].running.len();
                if self.living.contains(&p) && running > 0 {
                    self.finish(p, which % running);
                }
            }
            Step::Deliver(which) => {
                let full: Vec<_> = self
                    .lanes
                    .iter()
                    .filter(|(_, lane)| !lane.is_empty())
                    .map(|(key, _)| *key)
                    .collect();
                if !full.is_empty() {
                    self.deliver(full[which % full.len()]);
                }
            }
            Step::Kill(p) => {
                if self.living.len() > 1 && self.living.remove(&p) {
                    self.deaths += 1;
                    self.lanes.retain(|(_, to), _| *to != p);
                }
            }
            Step::Learn(which) => {
                let unknown = self.unknown_deaths();
                if !unknown.is_empty() {
                    let (p, dead) = unknown[which % unknown.len()];
                    self.learn(p, dead);
                }
            }
            Step::Answer(which) => {
                let asking: Vec<usize> = self
                    .living
                    .iter()
                    .copied()
                    .filter(|p| !self.processes[*p].questions.is_empty())
                    .collect();
                if !asking.is_empty() {
                    self.answer(asking[which % asking.len()]);
                }
            }
            Step::Watch(p, which) => {
                if let Some(id) = self.pick_handle(p, which) {
                    self.watch(p, id);
                }
            }
        }
        for p in &self.living {
            self.processes[*p].table.check_invariants();
        }
    }

    fn pick_handle(&self, p: usize, which: usize) -> Option<ObjectId> {
        let handles = &self.processes[p].handles;
        (self.living.contains(&p) && !handles.is_empty())
            .then(|| *handles.keys().nth(which % handles.len()).expect("in range"))
    }

    fn unknown_deaths(&self) -> Vec<(usize, usize)> {
        let all = self
            .living
            .iter()
            .flat_map(|p| (0..PROCESSES).map(move |dead| (*p, dead)));
        all.filter(|(p, dead)| !self.living.contains(dead) && !self.processes[*p].dead.contains(dead))
            .collect()
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.living.contains(&to) {
            self.lanes.entry((from, to)).or_default().push_back(message);
        }
    }

    fn submit(&mut self, p: usize, dep: Option<usize>) {
        if !self.living.contains(&p) || self.tasks >= 12 {
            return;
        }
        self.tasks += 1;
        let unique = self.tasks;
        let dep = dep.and_then(|which| self.pick_handle(p, which));
        let process = &mut self.processes[p];
        let deps: SmallVec<[RefSlot; 2]> = dep.into_iter().map(|id| process.handles[&id]).collect();
        deps.iter().for_each(|slot| process.table.local_added(*slot));
        let effects = &mut process.effects;
        let (_, returns) =
            process
                .table
                .task_submitted(task_id(unique), 1, unique, deps, smallvec![], FOR_EVER, effects);
        process.handles.insert(ObjectId::new(task_id(unique), 1), returns[0]);
        self.run_effects(p);
    }

    fn give(&mut self, p: usize, q: usize, which: usize) {
        let Some(id) = self.pick_handle(p, which).filter(|_| p != q) else {
            return;
        };
        let process = &mut self.processes[p];
        let slot = process.handles[&id];
        process.table.grant_given(slot, index_of(p, q), &mut process.effects);
        let will = self.will_of(p, slot, q);
        self.send(p, q, Message::Reference(will));
        self.run_effects(p);
    }

    fn drop_handle(&mut self, p: usize, id: ObjectId) {
        let process = &mut self.processes[p];
        let slot = process.handles.remove(&id).expect("the caller looked");
        process.table.local_dropped(slot, &mut process.effects);
        self.run_effects(p);
    }

    fn watch(&mut self, p: usize, id: ObjectId) {
        let process = &mut self.processes[p];
        process
            .table
            .watch(process.handles[&id], Watcher::Waiter(0), &mut process.effects);
        self.run_effects(p);
    }

    fn finish(&mut self, p: usize, which: usize) {
        let process = &mut self.processes[p];
        let key = process.running.swap_remove(which);
        let task = *process.table.spec(key).expect("it runs");
        let value = Value {
            task,
            is_large: task.is_multiple_of(2),
        };
        let then = match value.is_large {
            true => AfterEnd::Keep {
                bytes: 10,
                arguments: value.clone(),
            },
            false => AfterEnd::Forget(NoLineage::NotKept),
        };
        process
            .table
            .task_finished(key, [(value, false)], then, &mut process.effects);
        self.run_effects(p);
    }

    // ---- as the core worker does it ----------------------------------------------------------------------------

    fn will_of(&mut self, p: usize, slot: RefSlot, receiver: usize) -> Will {
        let process = &mut self.processes[p];
        process.table.outlives_owner(slot);
        let (id, owner) = (process.table.id(slot), number_of(p, process.table.owner(slot)));
        let mut will = Will {
            id,
            owner,
            value: process.table.value(slot).map(|(value, _)| value.clone()),
            task: None,
            ask: false,
        };
        if owner == receiver {
            return will;
        }
        let key = process.table.task_behind(slot);
        let deps: Vec<RefSlot> = key.map(|key| process.table.deps(key).to_vec()).unwrap_or_default();
        let wants_task = match &will.value {
            Some(value) => value.is_large && deps.is_empty(),
            None => true,
        };
        will.ask = will.value.is_none() && !process.table.object(slot).is_some_and(|view| view.is_gone);
        if let Some(key) = key.filter(|_| wants_task) {
            let task = *process.table.spec(key).expect("a task has one");
            for dep in &deps {
                process
                    .table
                    .grant_given(*dep, index_of(p, receiver), &mut process.effects);
            }
            let deps = deps.into_iter().map(|dep| self.will_of(p, dep, receiver)).collect();
            will.task = Some((task, deps));
        }
        will
    }

    /// One local count.
    fn reference_arrived(&mut self, p: usize, will: &Will, comes: Comes, orphans: &mut Vec<RefSlot>) -> RefSlot {
        let owner = index_of(p, will.owner);
        let process = &mut self.processes[p];
        let slot = process.table.imported(will.id, owner, RefKind::Value);
        match comes {
            Comes::ToItsAdopter => process.table.will_comes(slot, owner),
            Comes::Granted if process.table.owner(slot) == owner => process.table.grant_received(slot),
            Comes::Granted => self.owners_differ(p, slot, will),
        }
        let mut deps: SmallVec<[RefSlot; 2]> = smallvec![];
        for dep in will.task.iter().flat_map(|(_, deps)| deps) {
            deps.push(self.reference_arrived(p, dep, Comes::Granted, orphans));
        }
        let process = &mut self.processes[p];
        process.table.outlives_owner(slot);
        if let Some((task, _)) = &will.task {
            let key = process.table.inherited(&task_id(*task)).unwrap_or_else(|| {
                deps.iter().for_each(|slot| process.table.local_added(*slot));
                let inheritance = Inheritance {
                    spec: *task,
                    num_returns: 1,
                    deps: deps.clone(),
                    held: smallvec![],
                    retries_left: FOR_EVER,
                    attempt: 0,
                };
                let arguments = Value {
                    task: 0,
                    is_large: false,
                };
                process
                    .table
                    .spec_inherited(task_id(*task), inheritance, 10, arguments, &mut process.effects)
            });
            if !process.table.is_ready(slot) {
                process.table.inherits(slot, key);
            }
            if let Some(value) = &will.value {
                process
                    .table
                    .value_shown(slot, &will.id, value.clone(), false, &mut process.effects);
            }
            process.table.inheritance_read(key, &mut process.effects);
        } else if let Some(value) = &will.value {
            process
                .table
                .value_shown(slot, &will.id, value.clone(), false, &mut process.effects);
        }
        deps.iter()
            .for_each(|slot| process.table.local_dropped(*slot, &mut process.effects));
        self.value_is_known(p, slot);
        let process = &mut self.processes[p];
        let owner = number_of(p, process.table.owner(slot));
        if will.ask && !process.table.is_ready(slot) && !process.dead.contains(&owner) {
            process.table.ask_ahead(slot, &mut process.effects);
        }
        if process.dead.contains(&owner) {
            orphans.push(slot);
        }
        slot
    }

    /// The sender takes another for the owner than is known here: one of the two is dead, and which, is not known here.
    fn owners_differ(&mut self, p: usize, slot: RefSlot, will: &Will) {
        let process = &mut self.processes[p];
        if process.table.owner(slot) == OwnerIndex::ME || will.owner == p || process.dead.contains(&will.owner) {
            return;
        }
        process.questions.push_back(Question::Who {
            id: will.id,
            known: number_of(p, process.table.owner(slot)),
            named: will.owner,
            grants: 1,
        });
    }

    /// The control store has told who of two owns an object. Only the last that was chosen lives.
    fn owner_told(&mut self, p: usize, (id, known_then, named, grants): (ObjectId, usize, usize, u32)) {
        let on_record = *self
            .adopters
            .get(&id)
            .expect("who differs from the first owner was chosen");
        let process = &mut self.processes[p];
        let Some(slot) = process.table.find(&id) else {
            if on_record == named && !process.dead.contains(&named) {
                self.send(p, named, Message::Returned(id, grants));
            }
            return;
        };
        let known = number_of(p, process.table.owner(slot));
        if known == p {
            // It was adopted here meanwhile: whoever was named is dead, and nobody counts what that one granted.
        } else if on_record == p {
            process.table.adopted(slot, &mut process.effects);
        } else if process.dead.contains(&on_record) {
            // And so is who is known, if it is another: that death brings the next question.
        } else if known != known_then && known != on_record {
            // The answer may be older than what is known now.
            process.questions.push_back(Question::Who {
                id,
                known,
                named,
                grants,
            });
        } else {
            if known != on_record {
                self.borrow_from(p, on_record, slot);
            }
            // Told of its new owner, what nobody needs is gone.
            match self.processes[p].table.find(&id) {
                _ if named != on_record => {}
                Some(slot) => (0..grants).for_each(|_| self.processes[p].table.grant_received(slot)),
                None => self.send(p, named, Message::Returned(id, grants)),
            }
        }
        self.run_effects(p);
    }

    fn value_is_known(&mut self, p: usize, slot: RefSlot) {
        let process = &mut self.processes[p];
        let Some((value, _)) = process.table.value(slot) else {
            return;
        };
        if !value.is_large || process.table.inheritance_names_others(slot) {
            process.table.forget_inheritance(slot, &mut process.effects);
        }
    }

    fn orphaned(&mut self, p: usize, slots: Vec<RefSlot>) {
        for slot in slots {
            // Those that came only with a spec which was not needed are gone.
            match self.processes[p].table.is_orphan(slot, is_large) {
                Some(true) => {
                    let (id, owner) = (
                        self.processes[p].table.id(slot),
                        number_of(p, self.processes[p].table.owner(slot)),
                    );
                    self.processes[p]
                        .questions
                        .push_back(Question::Adopt { dead: owner, id });
                }
                Some(false) => self.lost(p, slot),
                None => {}
            }
        }
    }

    /// Nobody can have it.
    fn lost(&mut self, p: usize, slot: RefSlot) {
        let process = &mut self.processes[p];
        let value = Value {
            task: 0,
            is_large: false,
        };
        process.table.fetched(slot, value, true, &mut process.effects);
    }

    fn learn(&mut self, p: usize, dead: usize) {
        if dead == p || !self.processes[p].dead.insert(dead) {
            return;
        }
        assert!(!self.living.contains(&dead), "only the dead are taken for dead");
        self.deliver_all((dead, p));
        let process = &mut self.processes[p];
        process.table.borrower_died(index_of(p, dead), &mut process.effects);
        let orphans = process.table.owner_died(index_of(p, dead), is_large);
        let (table, fetches) = (&process.table, &mut process.fetches);
        fetches.retain(|_, slot| {
            table
                .object(*slot)
                .is_some_and(|object| object.owner != index_of(p, dead))
        });
        for slot in orphans.lost {
            self.lost(p, slot);
        }
        for slot in orphans.claims {
            let id = self.processes[p].table.id(slot);
            self.processes[p].questions.push_back(Question::Adopt { dead, id });
        }
        self.run_effects(p);
    }

    fn answer(&mut self, p: usize) {
        let Some(question) = self.processes[p].questions.pop_front() else {
            return;
        };
        let (dead, id) = match question {
            Question::Adopt { dead, id } => (dead, id),
            Question::Who {
                id,
                known,
                named,
                grants,
            } => return self.owner_told(p, (id, known, named, grants)),
        };
        let adopter = match self.adopters.get(&id) {
            Some(known) if *known != dead => *known,
            Some(_) | None => p,
        };
        self.adopters.insert(id, adopter);
        let process = &mut self.processes[p];
        let is_orphan = |slot: &RefSlot| process.dead.contains(&number_of(p, process.table.owner(*slot)));
        let Some(slot) = process.table.find(&id).filter(is_orphan) else {
            return;
        };
        if adopter == p {
            process.table.adopted(slot, &mut process.effects);
        } else if process.dead.contains(&adopter) {
            process.questions.push_back(Question::Adopt { dead: adopter, id });
        } else {
            self.borrow_from(p, adopter, slot);
        }
        self.run_effects(p);
    }

    fn borrow_from(&mut self, p: usize, adopter: usize, slot: RefSlot) {
        let will = self.will_of(p, slot, adopter);
        let process = &mut self.processes[p];
        let grants = process
            .table
            .has_new_owner(slot, index_of(p, adopter), &mut process.effects);
        self.send(p, adopter, Message::Adopted(will, grants.unwrap_or_default()));
    }

    fn deliver_all(&mut self, lane: (usize, usize)) {
        while self.lanes.get(&lane).is_some_and(|lane| !lane.is_empty()) {
            self.deliver(lane);
        }
    }

    fn deliver(&mut self, (from, p): (usize, usize)) {
        let Some(message) = self.lanes.get_mut(&(from, p)).and_then(VecDeque::pop_front) else {
            return;
        };
        match message {
            Message::Reference(will) => {
                let mut orphans = vec![];
                let slot = self.reference_arrived(p, &will, Comes::Granted, &mut orphans);
                self.orphaned(p, orphans);
                let process = &mut self.processes[p];
                if let Some(twice) = process.handles.insert(will.id, slot) {
                    process.table.local_dropped(twice, &mut process.effects);
                }
            }
            Message::Adopted(will, grants) => {
                let slot = self.reference_arrived(p, &will, Comes::ToItsAdopter, &mut vec![]);
                let process = &mut self.processes[p];
                process.table.adopted(slot, &mut process.effects);
                for _ in 0..grants {
                    process
                        .table
                        .borrow_granted(&will.id, index_of(p, from), &mut process.effects);
                }
                process.table.local_dropped(slot, &mut process.effects);
            }
            Message::Get(id) => {
                let process = &mut self.processes[p];
                let watcher = Watcher::Peer {
                    lane: from as u32,
                    request: id.task_id().unique(),
                };
                match process.table.find_or_await(&id) {
                    None => self.send(p, from, Message::Object(id, None)),
                    Some(slot) if process.table.watch(slot, watcher, &mut process.effects) => {}
                    Some(slot) => self.tell(p, from, slot, id),
                }
            }
            Message::Object(id, value) => {
                if let Some(slot) = self.processes[p].fetches.remove(&id) {
                    let process = &mut self.processes[p];
                    let is_error = value.is_none();
                    let value = value.unwrap_or(Value {
                        task: 0,
                        is_large: false,
                    });
                    process
                        .table
                        .value_shown(slot, &id, value, is_error, &mut process.effects);
                    if process.table.object(slot).is_some_and(|object| object.id == id) {
                        self.value_is_known(p, slot);
                    }
                }
            }
            Message::Granted(id, borrower) => {
                let process = &mut self.processes[p];
                process
                    .table
                    .borrow_granted(&id, index_of(p, borrower), &mut process.effects);
            }
            Message::Returned(id, count) => {
                let process = &mut self.processes[p];
                process
                    .table
                    .borrow_returned(&id, index_of(p, from), count, &mut process.effects);
            }
        }
        self.run_effects(p);
    }

    fn tell(&mut self, p: usize, to: usize, slot: RefSlot, id: ObjectId) {
        let value = self.processes[p].table.value(slot).map(|(value, _)| value.clone());
        self.send(p, to, Message::Object(id, value));
    }

    fn run_effects(&mut self, p: usize) {
        while !self.processes[p].effects.is_empty() {
            for effect in std::mem::take(&mut self.processes[p].effects) {
                match effect {
                    Effect::TaskAgain(key) => {
                        let task = *self.processes[p].table.spec(key).expect("it is to run");
                        *self.begun_again.entry(task).or_default() += 1;
                    }
                    Effect::TaskReady(key) => self.processes[p].running.push(key),
                    Effect::ArgumentFailed { task, .. } => {
                        let process = &mut self.processes[p];
                        let value = Value {
                            task: 0,
                            is_large: false,
                        };
                        let then = AfterEnd::Forget(NoLineage::NotKept);
                        process
                            .table
                            .task_finished(task, [(value, true)], then, &mut process.effects);
                    }
                    Effect::CannotBeMade { slot } => self.lost(p, slot),
                    Effect::LetGo { slot } => {
                        let process = &mut self.processes[p];
                        process.table.local_dropped(slot, &mut process.effects);
                    }
                    Effect::Tell { watcher, slot } => {
                        if let Watcher::Peer { lane, request } = watcher {
                            self.tell(p, lane as usize, slot, ObjectId::new(task_id(request), 1));
                        }
                    }
                    Effect::Fetch { slot, id, owner } => {
                        let to = number_of(p, owner);
                        if self.processes[p].dead.contains(&to) {
                            self.orphaned(p, vec![slot]);
                        } else {
                            self.processes[p].fetches.insert(id, slot);
                            self.send(p, to, Message::Get(id));
                        }
                    }
                    Effect::GrantBorrow { owner, id, borrower } => {
                        self.send(p, number_of(p, owner), Message::Granted(id, number_of(p, borrower)));
                    }
                    Effect::ReturnBorrow { owner, id, count } => {
                        self.send(p, number_of(p, owner), Message::Returned(id, count));
                    }
                    Effect::Free { .. } | Effect::FreeUnseenError { .. } | Effect::ActorHandlesGone { .. } => {}
                }
            }
        }
    }

    /// Until nothing is under way.
    fn settle(&mut self) {
        loop {
            let full: Vec<_> = self
                .lanes
                .iter()
                .filter(|(_, lane)| !lane.is_empty())
                .map(|(key, _)| *key)
                .collect();
            let unknown = self.unknown_deaths();
            let asking = self
                .living
                .iter()
                .copied()
                .find(|p| !self.processes[*p].questions.is_empty());
            let running = self
                .living
                .iter()
                .copied()
                .find(|p| !self.processes[*p].running.is_empty());
            if let Some(lane) = full.first() {
                self.deliver(*lane);
            } else if let Some((p, dead)) = unknown.first() {
                self.learn(*p, *dead);
            } else if let Some(p) = asking {
                self.answer(p);
            } else if let Some(p) = running {
                self.finish(p, 0);
            } else {
                break;
            }
        }
        for p in &self.living {
            self.processes[*p].table.check_invariants();
        }
    }

    fn check_the_end(&mut self) {
        self.settle();
        let living: Vec<usize> = self.living.iter().copied().collect();
        let all = |world: &Self| -> Vec<(usize, ObjectId)> {
            let of = |p: &usize| {
                world.processes[*p]
                    .handles
                    .keys()
                    .map(|id| (*p, *id))
                    .collect::<Vec<_>>()
            };
            living.iter().flat_map(of).collect()
        };
        for (p, id) in all(self) {
            self.watch(p, id);
        }
        self.settle();
        for (p, id) in all(self) {
            let process = &self.processes[p];
            let value = process.table.value(process.handles[&id]);
            let (value, is_error) = value.unwrap_or_else(|| panic!("process {p} waits for {id} for ever"));
            assert!(!is_error, "process {p} has lost {id}");
            assert_eq!(value.task, id.task_id().unique());
        }
        for (task, times) in &self.begun_again {
            // An adopter that has let go of what it made makes it again for a holder that comes later.
            let most = self.deaths * (PROCESSES - 1);
            assert!(
                *times <= most,
                "task {task} was begun {times} times after {} deaths",
                self.deaths
            );
        }
        for (p, id) in all(self) {
            self.drop_handle(p, id);
        }
        self.settle();
        for p in living {
            let table = &self.processes[p].table;
            assert_eq!(
                (table.reference_count(), table.lineage_bytes(), table.task_count()),
                (0, 0, 0),
                "left in process {p}"
            );
            assert!(!table.owns_any());
        }
    }
}
