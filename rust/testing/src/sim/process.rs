//! A driver or worker: the real tables, and around them what the core worker does with their orders.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ray_rs_dispatch::{
    ClassKey, Dispatcher, Effect as Order, Event, FunctionKey, LeaseKey, RequestKey, TaskKey as Key,
};
use ray_rs_ownership::{
    AfterEnd, Contains, Effect, NoLineage, OwnerIndex, OwnerTable, RefKind, RefSlot, TaskKey, Watcher,
};
use ray_rs_types::{ActorId, JobId, ObjectId, TaskId};
use smallvec::SmallVec;

use super::frame::Frame;
use super::messages::{Msg, Proc, RAYLET, WireRef, WireValue};
use super::program::{Op, Program};
use super::world::{Claims, Mutation};
use crate::rng::mixed;

mod explain;
mod running;

#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub number: u64,
    pub is_error: bool,
    pub refs: SmallVec<[RefSlot; 0]>,
}

impl Contains for Value {
    fn references(&self) -> &[RefSlot] {
        &self.refs
    }
}

const FORGET: AfterEnd<Value> = AfterEnd::Forget(NoLineage::NotKept);

fn error() -> Value {
    Value {
        number: 0,
        is_error: true,
        refs: SmallVec::new(),
    }
}

pub(crate) struct Spec {
    function: usize,
    nested: Vec<RefSlot>,
    unique: u64,
    sent: Option<(Proc, u64)>,
}

#[derive(Default)]
struct Lane {
    next_seq: u64,
    in_flight: BTreeMap<u64, TaskKey>,
}

struct Queued {
    from: Proc,
    seq: u64,
    unique: u64,
    function: usize,
    deps: Vec<WireValue>,
    nested: Vec<WireRef>,
}

/// What one event of a process leads to outside of it.
pub(crate) struct Context<'a> {
    pub now: Duration,
    pub program: &'a Program,
    pub claims: &'a mut Claims,
    pub mutation: Mutation,
    pub out: Vec<(Proc, Msg)>,
    /// The frame goes on after so long.
    pub resume: Option<Duration>,
    /// Tasks that have begun.
    pub begun: Vec<(u64, usize)>,
    /// It leaves in order.
    pub leaves: bool,
}

pub(crate) struct Process {
    id: Proc,
    pub owner: OwnerTable<Value, Spec>,
    owner_effects: Vec<Effect<Value>>,
    pub dispatch: Dispatcher,
    dispatch_effects: Vec<Order>,
    pub leases: BTreeMap<u64, Proc>,
    lanes: BTreeMap<Proc, Lane>,
    queue: VecDeque<Queued>,
    pub frame: Option<Frame>,
    awaited_reports: BTreeMap<Proc, Vec<TaskKey>>,
    fetches: BTreeMap<u64, RefSlot>,
    next_number: u64,
    gone: BTreeSet<Proc>,
    asked_to_leave: bool,
    asked_ahead: Option<u64>,
    /// Granted ahead, and not used yet.
    unused: Option<u64>,
    /// Of a driver: what its `get`s saw; `None` is an error.
    pub seen: Vec<Option<u64>>,
    pub is_done: bool,
}

fn index_of(me: Proc, other: Proc) -> OwnerIndex {
    match me == other {
        true => OwnerIndex::ME,
        false => OwnerIndex(other + 1),
    }
}

impl Process {
    pub fn new(id: Proc, cpus: u32) -> Self {
        Self {
            id,
            owner: OwnerTable::default(),
            owner_effects: Vec::new(),
            dispatch: Dispatcher::new(cpus),
            dispatch_effects: Vec::new(),
            leases: BTreeMap::new(),
            lanes: BTreeMap::new(),
            queue: VecDeque::new(),
            frame: None,
            awaited_reports: BTreeMap::new(),
            fetches: BTreeMap::new(),
            next_number: 1,
            gone: BTreeSet::new(),
            asked_to_leave: false,
            asked_ahead: None,
            unused: None,
            seen: Vec::new(),
            is_done: false,
        }
    }

    pub fn check_invariants(&self) {
        self.owner.check_invariants();
        self.dispatch.check_invariants();
    }

    /// What it still knows or holds, for people; nothing is right.
    pub fn leftovers(&self) -> Option<String> {
        let counts = [
            ("references", self.owner.reference_count()),
            ("tasks", self.owner.task_count()),
            ("queued", self.dispatch.queued()),
            ("leases", self.leases.len()),
            ("leases of the dispatcher", self.dispatch.leases().count()),
            ("entries", self.queue.len()),
            ("in flight", self.lanes.values().map(|lane| lane.in_flight.len()).sum()),
            ("fetches", self.fetches.len()),
            ("awaited reports", self.awaited_reports.len()),
            ("frames", usize::from(self.frame.is_some())),
        ];
        let left: Vec<String> = counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        (!left.is_empty()).then(|| left.join(", "))
    }

    fn fresh(&mut self) -> u64 {
        self.next_number += 1;
        u64::from(self.id) << 36 | self.next_number
    }

    fn who(&self, index: OwnerIndex) -> Proc {
        match index {
            OwnerIndex::ME => self.id,
            other => other.0 - 1,
        }
    }

    /// The driver's own function.
    pub fn start_driver(&mut self, cx: &mut Context<'_>) {
        self.frame = Some(Frame {
            function: 0,
            origin: None,
            unique: 0,
            vars: Vec::new(),
            at: 0,
            number: mixed(0, 1),
            arg_refs: Vec::new(),
            started: cx.now,
            waiting: None,
        });
        cx.resume = Some(Duration::ZERO);
        let class = ClassKey(2);
        self.tell_dispatch(cx, Event::Expected { class });
    }

    pub fn tick(&mut self, cx: &mut Context<'_>) {
        if self.dispatch.next_deadline().is_some_and(|at| at <= cx.now) {
            self.tell_dispatch(cx, Event::Tick);
        }
        self.after(cx);
    }

    // ---- messages ----------------------------------------------------------------------------------------------

    pub fn receive(&mut self, cx: &mut Context<'_>, from: Proc, msg: Msg) {
        match msg {
            Msg::PushTask {
                seq,
                unique,
                function,
                deps,
                nested,
            } => self.queue.push_back(Queued {
                from,
                seq,
                unique,
                function,
                deps,
                nested,
            }),
            Msg::TaskReply {
                seq,
                value,
                run,
                borrowed,
            } => self.reply_arrived(cx, from, seq, value, run, &borrowed),
            Msg::EntriesReturned { seqs } => self.entries_returned(cx, from, &seqs),
            Msg::GetObject { request, id } => self.object_asked_for(cx, from, request, id),
            Msg::ObjectValue { request, value } => self.object_came(request, value),
            Msg::BorrowAdd { id, borrower } => {
                let borrower = index_of(self.id, borrower);
                self.owner.borrow_granted(&id, borrower, &mut self.owner_effects);
            }
            Msg::BorrowRemove { id, count } => {
                let borrower = index_of(self.id, from);
                self.owner
                    .borrow_returned(&id, borrower, count, &mut self.owner_effects);
            }
            Msg::Closed => self.process_died(cx, from),
            Msg::LeaseGranted { request, lease, worker } => self.lease_granted(cx, request, lease, worker),
            Msg::LeaseRejected { request } => self.tell_dispatch(
                cx,
                Event::LeaseRejected {
                    request: RequestKey(request),
                },
            ),
            Msg::LeaseRevoked { lease } => self.tell_dispatch(cx, Event::LeaseRevoked { lease: LeaseKey(lease) }),
            Msg::DeathReport { worker } => self.death_reported(cx, worker),
            Msg::Exit if self.owner.owns_any() => {
                self.asked_to_leave = true;
                cx.out.push((RAYLET, Msg::Stays));
            }
            Msg::Exit => cx.leaves = true,
            Msg::RequestLease { .. }
            | Msg::LeaseBegun { .. }
            | Msg::CancelLeaseRequest { .. }
            | Msg::ReturnLease { .. }
            | Msg::Blocked
            | Msg::Unblocked
            | Msg::WhyDied { .. }
            | Msg::Stays
            | Msg::Unneeded => unreachable!("only raylets are told"),
        }
        self.after(cx);
    }

    /// All orders carried out, and the next task begun if nothing runs.
    fn after(&mut self, cx: &mut Context<'_>) {
        self.run_effects(cx);
        if self.frame.is_none() && self.id != 0 {
            self.begin_next(cx);
            self.run_effects(cx);
        }
        if self.asked_to_leave && !self.owner.owns_any() {
            self.asked_to_leave = false;
            cx.out.push((RAYLET, Msg::Unneeded));
        }
    }

    fn lease_granted(&mut self, cx: &mut Context<'_>, request: u64, lease: u64, worker: Proc) {
        let request = RequestKey(request);
        if self.gone.contains(&worker) {
            let worker_gone = true;
            cx.out.push((RAYLET, Msg::ReturnLease { lease, worker_gone }));
            return self.tell_dispatch(cx, Event::LeaseRejected { request });
        }
        self.leases.insert(lease, worker);
        if self.asked_ahead == Some(request.0) {
            self.unused = Some(lease);
        }
        let lease = LeaseKey(lease);
        self.tell_dispatch(cx, Event::LeaseGranted { request, lease });
    }

    fn lease_on(&self, worker: Proc) -> Option<LeaseKey> {
        let found = self.leases.iter().find(|(_, on)| **on == worker);
        found.map(|(lease, _)| LeaseKey(*lease))
    }

    fn take_in_flight(&mut self, worker: Proc, seq: u64) -> Option<TaskKey> {
        self.lanes.get_mut(&worker)?.in_flight.remove(&seq)
    }

    fn reply_arrived(
        &mut self,
        cx: &mut Context<'_>,
        from: Proc,
        seq: u64,
        value: WireValue,
        run: Duration,
        borrowed: &[WireRef],
    ) {
        let Some(key) = self.take_in_flight(from, seq) else {
            let value = self.value_from_wire(value);
            return self.owner.value_abandoned(value, &mut self.owner_effects);
        };
        let receiver = index_of(self.id, from);
        for slot in self.import(borrowed) {
            self.owner.grant_given(slot, receiver, &mut self.owner_effects);
            self.owner.local_dropped(slot, &mut self.owner_effects);
        }
        self.owner.spec_mut(key).expect("in flight").sent = None;
        if let Some(lease) = self.lease_on(from) {
            let task = Key(key.0);
            self.tell_dispatch(cx, Event::TaskFinished { lease, task, run });
        }
        let value = self.value_from_wire(value);
        let is_error = value.is_error;
        let values = [(value, is_error)];
        self.owner.task_finished(key, values, FORGET, &mut self.owner_effects);
    }

    fn entries_returned(&mut self, cx: &mut Context<'_>, from: Proc, seqs: &[u64]) {
        let mut tasks = Vec::new();
        for seq in seqs {
            if let Some(key) = self.take_in_flight(from, *seq) {
                self.owner.spec_mut(key).expect("in flight").sent = None;
                tasks.push(Key(key.0));
            }
        }
        match self.lease_on(from) {
            Some(lease) => self.tell_dispatch(cx, Event::EntriesReturned { lease, tasks }),
            None => tasks
                .into_iter()
                .for_each(|task| self.task_ready(cx, TaskKey(task.0), false)),
        }
    }

    fn object_asked_for(&mut self, cx: &mut Context<'_>, from: Proc, request: u64, id: ObjectId) {
        let Some(slot) = self.owner.find(&id) else {
            return cx.out.push((from, Msg::ObjectValue { request, value: None }));
        };
        let watcher = Watcher::Peer { lane: from, request };
        if !self.owner.watch(slot, watcher, &mut self.owner_effects) {
            self.answer(cx, from, request, slot);
        }
    }

    fn answer(&mut self, cx: &mut Context<'_>, to: Proc, request: u64, slot: RefSlot) {
        if self.gone.contains(&to) {
            return;
        }
        // None: it came and went at once, as nobody needs it any more.
        let value = self.owner.value(slot).map(|(value, _)| value.clone());
        let value = value.map(|value| self.value_to_wire(&value, Some(to)));
        cx.out.push((to, Msg::ObjectValue { request, value }));
    }

    fn object_came(&mut self, request: u64, value: Option<WireValue>) {
        let Some(slot) = self.fetches.remove(&request) else {
            return;
        };
        let value = value.map_or_else(error, |value| self.value_from_wire(value));
        let is_error = value.is_error;
        self.owner.fetched(slot, value, is_error, &mut self.owner_effects);
    }

    // ---- deaths ------------------------------------------------------------------------------------------------

    fn process_died(&mut self, cx: &mut Context<'_>, who: Proc) {
        if who == self.id || !self.gone.insert(who) {
            return;
        }
        while let Some(lease) = self.lease_on(who) {
            self.leases.remove(&lease.0);
            self.tell_dispatch(cx, Event::LeaseDied { lease });
            self.run_effects(cx);
            let message = Msg::ReturnLease {
                lease: lease.0,
                worker_gone: true,
            };
            cx.out.push((RAYLET, message));
        }
        self.queue.retain(|queued| queued.from != who);
        self.lanes.remove(&who);
        let index = index_of(self.id, who);
        self.owner.borrower_died(index, &mut self.owner_effects);
        for slot in self.owner.owner_died(index, |_| false).lost {
            self.fetches.retain(|_, fetched| *fetched != slot);
            self.owner.fetched(slot, error(), true, &mut self.owner_effects);
        }
    }

    /// Was in flight on a lane that died.
    fn lost(&mut self, cx: &mut Context<'_>, key: TaskKey) {
        let Some((worker, seq)) = self.owner.spec_mut(key).and_then(|spec| spec.sent.take()) else {
            return self.task_ready(cx, key, true);
        };
        self.take_in_flight(worker, seq);
        if !cx.claims.is_claimed((self.id, worker, seq)) || cx.mutation == Mutation::ClaimedTasksRunAgainForFree {
            return self.task_ready(cx, key, true);
        }
        let waiting = self.awaited_reports.entry(worker).or_default();
        waiting.push(key);
        if waiting.len() == 1 {
            cx.out.push((RAYLET, Msg::WhyDied { worker }));
        }
    }

    fn death_reported(&mut self, cx: &mut Context<'_>, worker: Proc) {
        self.process_died(cx, worker);
        for key in self.awaited_reports.remove(&worker).unwrap_or_default() {
            if self.owner.may_retry(key) {
                self.task_ready(cx, key, false);
            } else {
                self.owner
                    .task_finished(key, [(error(), true)], FORGET, &mut self.owner_effects);
            }
        }
    }

    // ---- orders ------------------------------------------------------------------------------------------------

    fn tell_dispatch(&mut self, cx: &mut Context<'_>, event: Event) {
        self.dispatch.on_event(cx.now, event, &mut self.dispatch_effects);
    }

    fn task_ready(&mut self, cx: &mut Context<'_>, key: TaskKey, again: bool) {
        let Some(spec) = self.owner.spec(key) else { return };
        let event = Event::TaskReady {
            task: Key(key.0),
            class: ClassKey(cx.program.functions[spec.function].half_cpus),
            function: FunctionKey(spec.function as u32),
            again,
        };
        self.tell_dispatch(cx, event);
    }

    fn run_effects(&mut self, cx: &mut Context<'_>) {
        while !self.owner_effects.is_empty() || !self.dispatch_effects.is_empty() {
            for effect in std::mem::take(&mut self.owner_effects) {
                self.run_owner_effect(cx, effect);
            }
            for order in std::mem::take(&mut self.dispatch_effects) {
                self.run_order(cx, order);
            }
        }
    }

    fn run_owner_effect(&mut self, cx: &mut Context<'_>, effect: Effect<Value>) {
        match effect {
            Effect::TaskReady(key) => self.task_ready(cx, key, false),
            Effect::TaskAgain(_) | Effect::CannotBeMade { .. } => unreachable!("no spec is kept here"),
            Effect::ArgumentFailed { task, .. } => {
                self.owner
                    .task_finished(task, [(error(), true)], FORGET, &mut self.owner_effects);
            }
            Effect::Tell { watcher, slot } => match watcher {
                Watcher::Waiter(_) => self.wake(cx, slot),
                Watcher::Peer { lane, request } => self.answer(cx, lane, request, slot),
                Watcher::Notify(_) | Watcher::Task(_) => unreachable!("nobody asked for that"),
            },
            Effect::LetGo { slot } => self.owner.local_dropped(slot, &mut self.owner_effects),
            Effect::Free { .. } | Effect::FreeUnseenError { .. } | Effect::ActorHandlesGone { .. } => {}
            Effect::Fetch { slot, id, owner } => {
                let owner = self.who(owner);
                if self.gone.contains(&owner) {
                    return self.owner.fetched(slot, error(), true, &mut self.owner_effects);
                }
                let request = self.fresh();
                self.fetches.insert(request, slot);
                cx.out.push((owner, Msg::GetObject { request, id }));
            }
            Effect::GrantBorrow { owner, id, borrower } => {
                let (owner, borrower) = (self.who(owner), self.who(borrower));
                if cx.mutation != Mutation::GrantsAreLost {
                    cx.out.push((owner, Msg::BorrowAdd { id, borrower }));
                }
            }
            Effect::ReturnBorrow { owner, id, count } => {
                let owner = self.who(owner);
                if cx.mutation != Mutation::ReturnedBorrowsAreLost {
                    cx.out.push((owner, Msg::BorrowRemove { id, count }));
                }
            }
        }
    }

    fn run_order(&mut self, cx: &mut Context<'_>, order: Order) {
        match order {
            Order::Push { lease, task } => self.push_task(cx, lease, TaskKey(task.0)),
            Order::RequestLease { request, class, .. } => {
                self.request_lease(cx, request.0, class.0, false);
            }
            Order::RequestAhead { request, class } => {
                self.asked_ahead = Some(request.0);
                self.request_lease(cx, request.0, class.0, true);
            }
            Order::CancelRequest { request } => {
                cx.out.push((RAYLET, Msg::CancelLeaseRequest { request: request.0 }));
            }
            Order::ReturnLease { lease } => {
                let worker_gone = self.leases.remove(&lease.0).is_none();
                if cx.mutation != Mutation::ReturnedLeasesAreLost {
                    let lease = lease.0;
                    cx.out.push((RAYLET, Msg::ReturnLease { lease, worker_gone }));
                }
            }
            Order::Withdraw { lease, task } => {
                let withdrawn = self.withdraw(cx, TaskKey(task.0));
                self.tell_dispatch(cx, Event::WithdrawResult { lease, task, withdrawn });
            }
            Order::Refused { task } => {
                self.owner
                    .task_finished(TaskKey(task.0), [(error(), true)], FORGET, &mut self.owner_effects);
            }
            Order::LostClaimed { task } => self.lost(cx, TaskKey(task.0)),
        }
    }

    fn request_lease(&self, cx: &mut Context<'_>, request: u64, half_cpus: u32, ahead: bool) {
        let message = Msg::RequestLease {
            request,
            half_cpus,
            ahead,
        };
        cx.out.push((RAYLET, message));
    }

    fn withdraw(&mut self, cx: &mut Context<'_>, key: TaskKey) -> bool {
        let Some((worker, seq)) = self.owner.spec(key).and_then(|spec| spec.sent) else {
            return false;
        };
        let withdrawn = cx.claims.withdraw((self.id, worker, seq));
        if !withdrawn && cx.mutation != Mutation::WithdrawalsAlwaysSucceed {
            return false;
        }
        self.take_in_flight(worker, seq);
        self.owner.spec_mut(key).expect("just looked at").sent = None;
        true
    }

    fn push_task(&mut self, cx: &mut Context<'_>, lease: LeaseKey, key: TaskKey) {
        let Some(worker) = self.leases.get(&lease.0).copied() else {
            return;
        };
        let spec = self.owner.spec(key).expect("a task that is pushed is known");
        let (function, unique, nested) = (spec.function, spec.unique, spec.nested.clone());
        let deps: Vec<RefSlot> = self.owner.deps(key).to_vec();
        let mut values = Vec::new();
        for slot in deps {
            let value = self.owner.value(slot).expect("its arguments are there").0.clone();
            values.push(self.value_to_wire(&value, None));
        }
        let lane = self.lanes.entry(worker).or_default();
        lane.next_seq += 1;
        let seq = lane.next_seq;
        lane.in_flight.insert(seq, key);
        cx.claims.publish((self.id, worker, seq));
        self.owner.spec_mut(key).expect("just looked at").sent = Some((worker, seq));
        let nested = self.refs_to_wire(&nested);
        let message = Msg::PushTask {
            seq,
            unique,
            function,
            deps: values,
            nested,
        };
        if self.unused == Some(lease.0) {
            self.unused = None;
            cx.out.push((RAYLET, Msg::LeaseBegun { lease: lease.0 }));
        }
        cx.out.push((worker, message));
    }

    // ---- the wire ----------------------------------------------------------------------------------------------

    fn refs_to_wire(&mut self, slots: &[RefSlot]) -> Vec<WireRef> {
        let mut refs = Vec::new();
        for slot in slots {
            self.owner.index(*slot);
            let owner = self.who(self.owner.owner(*slot));
            refs.push(WireRef {
                id: self.owner.id(*slot),
                owner,
            });
        }
        refs
    }

    /// `receiver` is granted the references inside (OWN-2); arguments grant nothing (OWN-3).
    fn value_to_wire(&mut self, value: &Value, receiver: Option<Proc>) -> WireValue {
        if let Some(receiver) = receiver {
            let receiver = index_of(self.id, receiver);
            for slot in &value.refs {
                self.owner.grant_given(*slot, receiver, &mut self.owner_effects);
            }
        }
        WireValue {
            number: value.number,
            is_error: value.is_error,
            refs: self.refs_to_wire(&value.refs),
        }
    }

    fn import(&mut self, refs: &[WireRef]) -> Vec<RefSlot> {
        let me = self.id;
        let import = |wire: &WireRef| self.owner.imported(wire.id, index_of(me, wire.owner), RefKind::Value);
        refs.iter().map(import).collect()
    }

    fn value_from_wire(&mut self, wire: WireValue) -> Value {
        let refs = self.import(&wire.refs);
        for slot in &refs {
            self.owner.grant_received(*slot);
        }
        Value {
            number: wire.number,
            is_error: wire.is_error,
            refs: refs.into(),
        }
    }
}
