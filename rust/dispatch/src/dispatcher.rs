//! The dispatcher: one function per thing that can happen.

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::event::{ClassKey, Effect, Event, FunctionKey, LeaseKey, RequestKey, TaskKey};
use crate::function::RunTime;
use crate::lease::{Lease, LeaseState};
use crate::queue::{ClassQueue, TaskPlace, TaskSlot};
use crate::requests::Requests;

/// Decides for one owner. See the crate's page for rules and invariants.
#[derive(Debug)]
pub struct Dispatcher {
    /// By [`TaskKey`].
    pub(crate) tasks: Vec<TaskSlot>,
    /// By [`FunctionKey`].
    pub(crate) functions: Vec<RunTime>,
    /// By [`ClassKey`].
    pub(crate) classes: Vec<Class>,
    /// A slab: leases keep their index for life, and a free place keeps its queue's memory.
    pub(crate) leases: Vec<Lease>,
    pub(crate) free_leases: Vec<u32>,
    pub(crate) lease_index: FxHashMap<LeaseKey, u32>,
    pub(crate) max_leases_hint: usize,
    pub(crate) requests_made: u32,
    /// No look at the clock is needed before; may be early, is never late. `Duration::MAX`: never.
    pub(crate) next_check: Duration,
}

/// The tasks and leases of one scheduling class.
#[derive(Debug, Default)]
pub(crate) struct Class {
    pub(crate) queue: ClassQueue,
    /// All leases of the class, in no order.
    pub(crate) leases: Vec<u32>,
    /// Those that are idle, the most recently used one last: it is the likeliest to be still awake.
    pub(crate) idle: VecDeque<u32>,
    /// How many leases are streaming: those will have room again soon.
    pub(crate) streaming: usize,
    pub(crate) requests: Requests,
    /// Requests with a smaller number are of a class that went by this key before.
    pub(crate) first_request: u32,
}

impl Dispatcher {
    /// `max_leases_hint`: how many leases could be of use at once, such as the CPUs of the node.
    pub fn new(max_leases_hint: u32) -> Self {
        Self {
            tasks: Vec::new(),
            functions: Vec::new(),
            classes: Vec::new(),
            leases: Vec::new(),
            free_leases: Vec::new(),
            lease_index: FxHashMap::default(),
            max_leases_hint: max_leases_hint.max(1) as usize,
            requests_made: 0,
            next_check: Duration::MAX,
        }
    }

    /// Takes in one fact and appends the orders that follow from it.
    pub fn on_event(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::TaskReady {
                task,
                class,
                function,
                again,
            } => self.task_ready(now, task, class, function, again, effects),
            Event::Expected { class } => self.expect(now, class, effects),
            Event::TaskFinished { lease, task, run } => self.task_finished(now, lease, task, run, effects),
            Event::TaskGone { task } => self.task_gone(now, task, effects),
            Event::LeaseGranted { request, lease } => self.lease_granted(now, request, lease, effects),
            Event::LeaseRejected { request } => self.lease_rejected(now, request, effects),
            Event::LeaseRefused { request } => self.lease_refused(now, request, effects),
            Event::LeaseRevoked { lease } => self.lease_revoked(now, lease, effects),
            Event::LeaseDied { lease } => self.lease_died(now, lease, effects),
            Event::EntriesReturned { lease, tasks } => self.entries_returned(now, lease, &tasks, effects),
            Event::WithdrawResult { lease, task, withdrawn } => {
                self.withdraw_result(now, lease, task, withdrawn, effects);
            }
            Event::Tick => self.sweep(now, effects),
        }
    }

    /// When to send the next [`Event::Tick`], if nothing else happens. Tell the replies that are already there first:
    /// a lane that was merely not read looks like a stalled one.
    pub fn next_deadline(&self) -> Option<Duration> {
        (self.next_check != Duration::MAX).then_some(self.next_check)
    }

    /// So many leases could be of use at once; more than before as a rule, since nodes come.
    pub fn useful_leases(&mut self, hint: u32) {
        self.max_leases_hint = self.max_leases_hint.max(hint as usize);
    }

    /// Nothing of the class waits, runs or is asked for.
    pub fn is_unused(&self, ClassKey(class): ClassKey) -> bool {
        let unused =
            |class: &Class| class.queue.is_empty() && class.leases.is_empty() && class.requests.outstanding.is_empty();
        self.classes.get(class as usize).is_none_or(unused)
    }

    /// The key is that of another class from now on.
    ///
    /// # Panics
    /// The class is not [unused](Self::is_unused).
    pub fn forget_class(&mut self, key: ClassKey) {
        assert!(self.is_unused(key), "class {} is in use", key.0);
        if let Some(class) = self.classes.get_mut(key.0 as usize) {
            *class = Class {
                first_request: self.requests_made,
                ..Class::default()
            };
        }
    }

    /// The key is that of another function from now on. No task of this one may be known.
    pub fn forget_function(&mut self, FunctionKey(function): FunctionKey) {
        if let Some(known) = self.functions.get_mut(function as usize) {
            *known = RunTime::default();
        }
    }

    /// Tasks that wait for a lease.
    pub fn queued(&self) -> usize {
        self.classes.iter().map(|class| class.queue.len()).sum()
    }

    /// Tasks in flight on `lease`; zero if it is unknown.
    pub fn in_flight(&self, lease: LeaseKey) -> usize {
        self.lease_index
            .get(&lease)
            .map_or(0, |&index| self.leases[index as usize].in_flight.len())
    }

    /// The leases held, with what each is doing.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseKey, LeaseState)> {
        self.lease_index
            .iter()
            .map(|(&key, &index)| (key, self.leases[index as usize].state))
    }

    /// Where a task sits, and on which lease.
    pub fn place(&self, task: TaskKey) -> (TaskPlace, Option<LeaseKey>) {
        match self.tasks.get(task.0 as usize) {
            None => (TaskPlace::Unknown, None),
            Some(slot) => (
                slot.place,
                slot.in_flight().then(|| self.leases[slot.lease as usize].key),
            ),
        }
    }

    fn task_ready(
        &mut self,
        now: Duration,
        task: TaskKey,
        ClassKey(class): ClassKey,
        FunctionKey(function): FunctionKey,
        again: bool,
        effects: &mut Vec<Effect>,
    ) {
        if self.tasks.len() <= task.0 as usize {
            self.tasks.resize(task.0 as usize + 1, TaskSlot::FREE);
        }
        if self.functions.len() <= function as usize {
            self.functions.resize(function as usize + 1, RunTime::default());
        }
        self.know_class(class);
        let slot = &mut self.tasks[task.0 as usize];
        assert!(
            slot.place == TaskPlace::Unknown,
            "DSP-1: task {} is ready twice",
            task.0
        );
        slot.class = class;
        slot.function = function;
        // Nobody may overtake: with tasks queued there is no lease that could take this one.
        if self.classes[class as usize].queue.is_empty() {
            let charge = self.functions[function as usize].charge;
            if let Some(lease) = self.best_lease(now, class, charge) {
                self.push(now, lease, task, charge, effects);
                return;
            }
        }
        let queue = &mut self.classes[class as usize].queue;
        let slot = &mut self.tasks[task.0 as usize];
        if again {
            queue.push_front(task, slot);
        } else {
            queue.push_back(task, slot);
        }
        self.ask(now, class, effects);
    }

    pub(crate) fn know_class(&mut self, class: u32) {
        if self.classes.len() <= class as usize {
            self.classes.resize_with(class as usize + 1, Class::default);
        }
    }

    fn task_finished(
        &mut self,
        now: Duration,
        lease: LeaseKey,
        task: TaskKey,
        run: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Some(index) = self.lease_of(task, lease) else {
            return;
        };
        let function = self.tasks[task.0 as usize].function;
        self.functions[function as usize].learn(run);
        self.take_from_lease(index, task);
        let lease = &mut self.leases[index as usize];
        lease.last_progress = now;
        lease.has_served = true;
        if matches!(lease.state, LeaseState::Stalled | LeaseState::Blocked) && !lease.in_flight.is_empty() {
            self.set_state(index, LeaseState::Streaming);
        }
        self.settle(now, index, effects);
    }

    fn task_gone(&mut self, now: Duration, task: TaskKey, effects: &mut Vec<Effect>) {
        let Some(slot) = self.tasks.get_mut(task.0 as usize) else {
            return;
        };
        match slot.place {
            TaskPlace::Unknown => {}
            TaskPlace::Queued => {
                slot.place = TaskPlace::Unknown;
                let class = slot.class;
                self.classes[class as usize].queue.forget_one(&self.tasks);
                self.ask(now, class, effects);
            }
            TaskPlace::InFlight | TaskPlace::Withdrawing => {
                let index = slot.lease;
                self.take_from_lease(index, task);
                self.settle(now, index, effects);
            }
        }
    }

    fn lease_granted(&mut self, now: Duration, request: RequestKey, lease: LeaseKey, effects: &mut Vec<Effect>) {
        let class = request.class().0;
        if self.lease_index.contains_key(&lease) {
            return;
        }
        let useful = match self.classes.get_mut(class as usize) {
            None => false,
            // A grant may cross the cancellation of its request: then take it only if there is work for it again.
            Some(state) => {
                state.requests.granted(now, request)
                    || (!state.queue.is_empty() && !request.is_before(state.first_request))
            }
        };
        if !useful {
            effects.push(Effect::ReturnLease { lease });
            return;
        }
        let index = match self.free_leases.pop() {
            Some(index) => {
                let place = &mut self.leases[index as usize];
                let in_flight = std::mem::take(&mut place.in_flight);
                *place = Lease {
                    in_flight,
                    ..Lease::new(lease, class, now)
                };
                index
            }
            None => {
                self.leases.push(Lease::new(lease, class, now));
                u32::try_from(self.leases.len() - 1).expect("a node has fewer workers than that")
            }
        };
        self.lease_index.insert(lease, index);
        self.classes[class as usize].leases.push(index);
        self.settle(now, index, effects);
    }

    fn lease_revoked(&mut self, now: Duration, lease: LeaseKey, effects: &mut Vec<Effect>) {
        let Some(&index) = self.lease_index.get(&lease) else {
            return;
        };
        let class = self.leases[index as usize].class;
        if self.leases[index as usize].state == LeaseState::Idle {
            self.drop_lease(index);
            effects.push(Effect::ReturnLease { lease });
        } else {
            self.set_state(index, LeaseState::Revoked);
            // DSP-7. Its worker has nothing else to do, so the task begins soon if it has not.
            let keep = usize::from(!self.leases[index as usize].has_served);
            self.withdraw_behind(index, keep, effects);
        }
        self.ask(now, class, effects);
    }

    fn lease_died(&mut self, now: Duration, lease: LeaseKey, effects: &mut Vec<Effect>) {
        let Some(&index) = self.lease_index.get(&lease) else {
            return;
        };
        let class = self.leases[index as usize].class;
        while let Some(task) = self.leases[index as usize].in_flight.pop_back() {
            self.tasks[task.0 as usize].place = TaskPlace::Unknown;
            effects.push(Effect::LostClaimed { task });
        }
        self.drop_lease(index);
        self.ask(now, class, effects);
    }

    fn entries_returned(&mut self, now: Duration, lease: LeaseKey, tasks: &[TaskKey], effects: &mut Vec<Effect>) {
        let Some(&index) = self.lease_index.get(&lease) else {
            return;
        };
        let class = self.leases[index as usize].class;
        match self.leases[index as usize].state {
            // The task that blocks has been answered for already (lost, gone): there is nothing to give back.
            LeaseState::Idle => return,
            LeaseState::Revoked => {}
            LeaseState::Alone | LeaseState::Streaming | LeaseState::Stalled | LeaseState::Blocked => {
                self.set_state(index, LeaseState::Blocked);
            }
        }
        for &task in tasks.iter().rev() {
            if self.lease_of(task, lease).is_some() {
                self.take_from_lease(index, task);
                self.classes[class as usize]
                    .queue
                    .push_front(task, &mut self.tasks[task.0 as usize]);
            }
        }
        // What was pushed after the worker looked is still there, behind a task that may need it.
        self.withdraw_behind(index, 1, effects);
        self.place_queued(now, class, effects);
        self.settle(now, index, effects);
    }

    fn withdraw_result(
        &mut self,
        now: Duration,
        lease: LeaseKey,
        task: TaskKey,
        withdrawn: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(index) = self.lease_of(task, lease) else {
            return;
        };
        let slot = &mut self.tasks[task.0 as usize];
        if slot.place != TaskPlace::Withdrawing {
            return;
        }
        if !withdrawn {
            slot.place = TaskPlace::InFlight;
            return;
        }
        let class = slot.class;
        self.take_from_lease(index, task);
        self.classes[class as usize]
            .queue
            .push_front(task, &mut self.tasks[task.0 as usize]);
        self.place_queued(now, class, effects);
        self.settle(now, index, effects);
    }
}
