//! Everything one process knows, behind one lock that is never held across a system call of the task path.
//!
//! What must happen after the lock is let go (doorbells, frames to the raylet, threads to wake) is collected in
//! [`After`]; `CoreWorker::with` carries it out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ray_rs_dispatch::{Dispatcher, LeaseKey};
use ray_rs_lanes::{Doorbell, RemoteBell};
use ray_rs_object_store::{ArenaClient, FreeOutcome};
use ray_rs_ownership::{Effect, OwnerIndex, OwnerTable, RefSlot, TaskKey, Watcher};
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, JobId, ObjectId, PlacementGroupId, TaskId, WorkerAddress, WorkerId};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::actors::ActorTarget;
use crate::adoption::{Claim, Doubt};
use crate::ahead::Ahead;
use crate::awaits::Awaits;
use crate::bring::Brought;
use crate::describe::Blocked;
use crate::events::TaskEvents;
use crate::execute::Execution;
use crate::frames;
use crate::functions::Class;
use crate::groups::GroupView;
use crate::lineage;
use crate::memory_retries::MemoryRetries;
use crate::model::{Failure, FunctionSpec, HostEvent, Location, MethodSpec, StoredValue, ValueData};
use crate::peers::Peers;
use crate::pull::Pulls;
use crate::registry::Registry;
use crate::remote::{Pipe, Remote, Target};
use crate::sites::Sites;
use crate::stream::Stream;
use crate::submit::{Lease, Spec};

/// Functions are put into the control store so long after their first use, those of this time together.
const KEEP_FUNCTIONS_AFTER: Duration = Duration::from_millis(20);

impl ray_rs_ownership::Contains for StoredValue {
    fn references(&self) -> &[RefSlot] {
        &self.refs
    }
}

/// What to do once the lock is free.
#[derive(Default)]
pub(crate) struct After {
    pub bells: SmallVec<[(Arc<RemoteBell>, u32); 4]>,
    pub wake: SmallVec<[Thread; 2]>,
    pub host: Vec<HostEvent>,
    /// Connections to other nodes that have something to send.
    pub pipes: Vec<(Target, Arc<Pipe>)>,
    /// The progress thread sleeps past the next deadline.
    pub kick: bool,
    pub raylet: bool,
    /// This process ends, with the rest of the orders carried out.
    pub die: bool,
}

impl After {
    pub fn is_empty(&self) -> bool {
        self.bells.is_empty()
            && self.wake.is_empty()
            && self.host.is_empty()
            && self.pipes.is_empty()
            && !self.kick
            && !self.raylet
            && !self.die
    }
}

/// One thread inside `get` or `wait`.
pub(crate) struct Waiter {
    /// Once it really sleeps.
    pub blocked: Option<Box<Blocked>>,
    pub remaining: usize,
    pub stop_at_error: bool,
    pub satisfied: bool,
    pub thread: Thread,
    /// Sleeping in-process, because another thread drains the lanes.
    pub parked: bool,
}

/// A blocking question to the raylet, such as a call to the GCS.
pub(crate) enum Answer {
    Gcs(Result<Bytes, String>),
    /// With a refusal: whether it is for want of disk.
    Extent(Result<(u64, u64), (String, bool)>),
    /// With the memory that does not lie in the arena.
    Restored(v1::ObjectsRestored, Option<OwnedFd>),
    Cluster(v1::ClusterViewReply),
    Store(v1::StoreStatsReply),
    Objects(v1::ListObjectsReply),
    Descriptions(v1::Descriptions),
    LogsFlushed,
}

pub(crate) enum Question {
    /// A thread waits for it.
    Thread { thread: Thread, answer: Option<Answer> },
    /// The registration of an actor.
    RegisterActor(ActorId),
    /// A function for the control store: its workers have it, so only a failure matters.
    StoreFunction,
    /// An object that somebody awaits who must not block.
    Bring { token: u64, location: Location },
    /// A wait looks round.
    Look { waiter: u32, serial: u64 },
    /// Awaits last.
    LookAtAwaits,
    /// The commit of a durable actor's calls.
    CommitCalls,
    /// Who owns objects of a process that has died.
    Adopt(Box<Claim>),
    /// Who of two owns an object.
    WhoOwns(Box<Doubt>),
    /// Nobody waits.
    Forget,
}

/// A task that lost its worker and waits for the raylet's report of why.
pub(crate) struct AwaitingReport {
    pub worker: WorkerId,
    pub tasks: Vec<TaskKey>,
}

pub(crate) struct State {
    pub owner: OwnerTable<StoredValue, Spec>,
    pub owner_effects: Vec<Effect<StoredValue>>,
    pub dispatch: Dispatcher,
    pub dispatch_effects: Vec<ray_rs_dispatch::Effect>,
    pub leases: FxHashMap<LeaseKey, Lease>,
    pub ahead: Ahead,
    /// What tasks ask for, as far as it is in use; the index is the dispatcher's class.
    pub classes: Registry<Class>,
    /// Why the raylet refuses, while the dispatcher's answer to that is carried out.
    pub refusal: Option<Failure>,
    pub groups: FxHashMap<PlacementGroupId, GroupView>,
    /// References to groups that are not ready yet, with the values that they will have.
    pub group_tasks: FxHashMap<TaskKey, (PlacementGroupId, StoredValue)>,
    /// With the class of each.
    pub functions: Registry<(Arc<FunctionSpec>, u32)>,
    pub methods: Registry<Arc<MethodSpec>>,
    pub peers: Peers,
    pub actors: Vec<ActorTarget>,
    pub actor_by_id: FxHashMap<ActorId, u32>,
    pub execution: Execution,
    pub waiters: Vec<Option<Waiter>>,
    /// A thread of this process drains the lanes and sleeps on the doorbell.
    pub holder: bool,
    /// The holder does not look at this state now: it spins or sleeps. Whoever changes what it waits for nudges it.
    pub holder_rests: bool,
    pub questions: FxHashMap<u64, Question>,
    pub next_request: u64,
    /// Serial number of the next wait that really sleeps.
    pub next_wait: u64,
    /// Values asked for from their owners, by request.
    pub fetches: FxHashMap<u64, (RefSlot, ObjectId)>,
    /// Borrowed objects whose owners are yet to be told where their value was, and why it is lost.
    pub lost_places: FxHashMap<RefSlot, (Location, String)>,
    /// Objects of this process of which it has not heard yet (ADO-5), and until when it is waited for that, in order.
    pub awaited_wills: VecDeque<(Duration, ObjectId)>,
    pub awaiting_reports: Vec<AwaitingReport>,
    pub raylet_out: Vec<u8>,
    /// Frames that nobody waits for, and when they are to be sent.
    pub raylet_later: Vec<u8>,
    pub send_later_at: Option<Duration>,
    pub raylet_dead: bool,
    pub closed: bool,
    pub after: After,
    /// Until when the progress thread sleeps; `None`: until something wakes it.
    pub progress_wakes_at: Option<Duration>,
    pub progress_sleeping: bool,
    pub next_unique: u64,
    pub put_task: TaskId,
    pub next_put: u32,
    pub events: TaskEvents,
    pub blocked_threads: u32,
    /// A person reads what it says.
    pub is_driver: bool,
    /// This worker was asked to leave as idle, and stayed since it owned something.
    pub asked_to_leave: bool,
    /// Why this worker takes nothing any more and ends as soon as it owns nothing; see [`CoreWorker::retire`].
    pub retires: Option<String>,
    pub submits: u32,
    pub started: Instant,
    pub arena: Arc<ArenaClient>,
    pub bell: Arc<Doorbell>,
    /// There is something for the thread that sleeps on the bell which no ring of a lane it knows tells.
    pub nudged: Arc<AtomicBool>,
    pub me: WorkerAddress,
    /// Address of this node.
    pub node_ip: String,
    pub job: JobId,
    pub session: String,
    pub socket_dir: PathBuf,
    /// Where objects were brought back to, by where they were made; looked at only when they are not there.
    pub moved: FxHashMap<(u64, u64), Location>,
    /// Objects that were awaited by a token and came, until they are taken.
    pub brought: FxHashMap<u64, Brought>,
    pub pins_for_life: Vec<RefSlot>,
    pub remote: Remote,
    pub pulls: Pulls,
    /// Generators whose consumers are there, by the number of their task.
    pub streams: FxHashMap<u64, Stream>,
    /// Those of them that wait for their consumer.
    pub limited_streams: FxHashSet<u64>,
    /// When tasks are over their time: (when, key, number of the task).
    pub time_limits: BinaryHeap<Reverse<(Duration, u32, u64)>>,
    pub memory_retries: MemoryRetries,
    pub awaits: Awaits,
    pub sites: Sites,
    /// Number of the task whose thread is to be interrupted; 0: none. Shared with `CoreWorker`.
    pub interrupted: Arc<AtomicU64>,
}

impl State {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        me: WorkerAddress,
        job: JobId,
        session: String,
        socket_dir: PathBuf,
        process_number: u32,
        cpus: u32,
        arena: Arc<ArenaClient>,
        bell: Arc<Doorbell>,
    ) -> Self {
        let first_unique = u64::from(process_number) << 36;
        let mut state = Self {
            owner: OwnerTable::default(),
            owner_effects: Vec::new(),
            dispatch: Dispatcher::new(cpus.max(1)),
            dispatch_effects: Vec::new(),
            leases: FxHashMap::default(),
            ahead: Ahead::default(),
            classes: Registry::default(),
            refusal: None,
            groups: FxHashMap::default(),
            group_tasks: FxHashMap::default(),
            functions: Registry::default(),
            methods: Registry::default(),
            peers: Peers::new(me),
            actors: Vec::new(),
            actor_by_id: FxHashMap::default(),
            execution: Execution::default(),
            waiters: Vec::new(),
            holder: false,
            holder_rests: false,
            questions: FxHashMap::default(),
            next_request: 1,
            next_wait: 1,
            fetches: FxHashMap::default(),
            lost_places: FxHashMap::default(),
            awaited_wills: VecDeque::new(),
            awaiting_reports: Vec::new(),
            raylet_out: Vec::new(),
            raylet_later: Vec::new(),
            send_later_at: None,
            raylet_dead: false,
            closed: false,
            after: After::default(),
            progress_wakes_at: None,
            progress_sleeping: false,
            next_unique: first_unique + 1,
            put_task: TaskId::NIL,
            next_put: 0,
            events: TaskEvents::new(me.node_id, job),
            blocked_threads: 0,
            is_driver: false,
            asked_to_leave: false,
            retires: None,
            submits: 0,
            started: Instant::now(),
            arena,
            bell,
            nudged: Arc::new(AtomicBool::new(false)),
            me,
            node_ip: String::new(),
            job,
            session,
            socket_dir,
            moved: FxHashMap::default(),
            brought: FxHashMap::default(),
            pins_for_life: Vec::new(),
            remote: Remote::default(),
            pulls: Pulls::default(),
            streams: FxHashMap::default(),
            limited_streams: FxHashSet::default(),
            time_limits: BinaryHeap::new(),
            memory_retries: MemoryRetries::from_env(),
            awaits: Awaits::default(),
            sites: Sites::default(),
            interrupted: Arc::new(AtomicU64::new(0)),
        };
        state.put_task = state.fresh_task_id(ActorId::nil_of(job));
        let limit = std::env::var(lineage::LIMIT).ok();
        if let Some(limit) = limit.and_then(|text| text.trim().parse().ok()) {
            state.owner.limit_lineage(limit);
        }
        state
    }

    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn fresh_unique(&mut self) -> u64 {
        let unique = self.next_unique;
        self.next_unique += 1;
        unique
    }

    pub fn fresh_task_id(&mut self, actor: ActorId) -> TaskId {
        TaskId::new(self.fresh_unique(), actor)
    }

    pub fn fresh_put_id(&mut self) -> ObjectId {
        if self.next_put == u32::MAX - ObjectId::FIRST_PUT_INDEX {
            self.next_put = 0;
            self.put_task = self.fresh_task_id(ActorId::nil_of(self.job));
        }
        self.next_put += 1;
        ObjectId::new(self.put_task, ObjectId::FIRST_PUT_INDEX + self.next_put)
    }

    pub fn fresh_request(&mut self) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        request
    }

    /// The number of the process at `address`.
    pub fn owner_index(&mut self, address: &WorkerAddress) -> OwnerIndex {
        self.peers.index_of(address)
    }

    // ---- raylet ------------------------------------------------------------------------------------------------

    pub fn tell_raylet(&mut self, body: v1::to_raylet::Body) {
        frames::append(&mut self.raylet_out, &v1::ToRaylet { body: Some(body) });
        self.after.raylet = true;
    }

    /// A call to the GCS that nobody waits for.
    pub fn tell_gcs(&mut self, method: &str, message: &impl prost::Message) {
        self.ask_gcs(method, message.encode_to_vec(), Question::Forget);
    }

    pub fn ask_gcs(&mut self, method: &str, payload: Vec<u8>, question: Question) -> u64 {
        let request_id = self.fresh_request();
        self.questions.insert(request_id, question);
        self.tell_raylet(v1::to_raylet::Body::GcsCall(v1::GcsCall {
            request_id,
            method: method.to_owned(),
            payload,
        }));
        request_id
    }

    /// Sends a function to the GCS a little later: nobody waits for it, and at once it would take the processors from
    /// the first task, which brings the function along.
    pub fn keep_function(&mut self, message: &v1::KvPutRequest) {
        let request_id = self.fresh_request();
        self.questions.insert(request_id, Question::StoreFunction);
        let call = v1::GcsCall {
            request_id,
            method: "KvPut".to_owned(),
            payload: prost::Message::encode_to_vec(message),
        };
        let body = Some(v1::to_raylet::Body::GcsCall(call));
        frames::append(&mut self.raylet_later, &v1::ToRaylet { body });
        let due = self.now() + KEEP_FUNCTIONS_AFTER;
        self.send_later_at.get_or_insert(due);
    }

    fn send_what_was_put_off(&mut self, now: Duration) {
        if self.send_later_at.is_some_and(|at| at <= now) {
            self.send_later_at = None;
            let later = std::mem::take(&mut self.raylet_later);
            self.raylet_out.extend_from_slice(&later);
            self.after.raylet = true;
        }
    }

    // ---- memory ------------------------------------------------------------------------------------------------

    /// Gives the memory of a value back (its references are not touched).
    pub fn free_data(&mut self, data: &ValueData) {
        if let ValueData::Arena(location) = data {
            self.free_block(*location);
        }
    }

    fn free_block(&mut self, location: Location) {
        if location.node.is_some() {
            return self.free_elsewhere(&location);
        }
        self.forget_copies(&location);
        let Location { offset, generation, .. } = location;
        if !self.moved.is_empty() {
            self.moved.remove(&(offset, generation));
        }
        match location.holder {
            Some(holder) if holder == self.me.worker_id => self.free_own_block(offset, generation),
            Some(holder) if self.peers.is_alive(&holder) => {
                // Said in its header as well: the message may find its reader dead.
                if !self.arena.mark_unwanted(offset, generation) {
                    self.tell_raylet(v1::to_raylet::Body::FreeObject(v1::FreeObject { offset, generation }));
                }
                let message = v1::FreeBlock { offset, generation };
                self.send_to_worker(&holder, ray_rs_proto::lane::Kind::FreeBlock, &message);
            }
            Some(_) | None => {
                self.tell_raylet(v1::to_raylet::Body::FreeObject(v1::FreeObject { offset, generation }));
            }
        }
    }

    /// A block that was made here. If it is here no more, the raylet has it on disk.
    pub fn free_own_block(&mut self, offset: u64, generation: u64) {
        match self.arena.free(offset, generation) {
            FreeOutcome::Freed | FreeOutcome::Pinned => {}
            FreeOutcome::NotMine | FreeOutcome::Stale => {
                self.tell_raylet(v1::to_raylet::Body::FreeObject(v1::FreeObject { offset, generation }));
            }
        }
        self.return_drained_extents();
    }

    /// Extents that the raylet wants back go as soon as they are empty.
    pub fn return_drained_extents(&mut self) {
        for (offset, length) in self.arena.drained_extents() {
            self.tell_raylet(v1::to_raylet::Body::ReturnExtent(v1::ReturnExtent { offset, length }));
        }
    }

    /// From here on `owner` (as in a block's header) counts the references to an object that was made here.
    pub fn hand_over(&mut self, offset: u64, generation: u64, owner: u64) {
        if !self.arena.hand_over(offset, generation, owner) {
            let object = Some(v1::BlockName { offset, generation });
            self.tell_raylet(v1::to_raylet::Body::ObjectHandedOver(v1::ObjectHandedOver {
                object,
                owner,
            }));
        }
    }

    // ---- effects -----------------------------------------------------------------------------------------------

    /// Carries out what the pure cores ordered, until they order no more.
    pub fn run_effects(&mut self) {
        if self.owner.has_newly_awaited() {
            self.await_wills();
        }
        while !self.owner_effects.is_empty() || !self.dispatch_effects.is_empty() {
            if !self.owner_effects.is_empty() {
                let mut batch = std::mem::take(&mut self.owner_effects);
                for effect in batch.drain(..) {
                    self.run_owner_effect(effect);
                }
                if self.owner_effects.is_empty() {
                    // Keeps the buffer.
                    self.owner_effects = batch;
                }
            }
            if !self.dispatch_effects.is_empty() {
                let mut batch = std::mem::take(&mut self.dispatch_effects);
                for effect in batch.drain(..) {
                    self.run_dispatch_effect(effect);
                }
                if self.dispatch_effects.is_empty() {
                    self.dispatch_effects = batch;
                }
            }
        }
    }

    fn run_owner_effect(&mut self, effect: Effect<StoredValue>) {
        match effect {
            Effect::TaskReady(key) => self.task_ready(key),
            Effect::TaskAgain(key) => self.task_again(key),
            Effect::CannotBeMade { slot } => self.cannot_be_made(slot),
            Effect::ArgumentFailed { task, argument } => self.argument_failed(task, argument),
            Effect::Tell { watcher, slot } => self.tell_watcher(watcher, slot),
            Effect::LetGo { slot } => self.owner.local_dropped(slot, &mut self.owner_effects),
            Effect::Free { value } => self.free_data(&value.data),
            Effect::FreeUnseenError { value } => {
                self.tell_of_unseen_error(&value);
                self.free_data(&value.data);
            }
            Effect::Fetch { slot, id, owner } => self.fetch(slot, id, owner),
            Effect::GrantBorrow { owner, id, borrower } => {
                let borrower = self.peers.address(borrower);
                let message = v1::BorrowAdd {
                    object_ids: id.0.to_vec(),
                    borrower: Some((&borrower).into()),
                };
                self.send_to(owner, ray_rs_proto::lane::Kind::BorrowAdd, &message);
            }
            Effect::ReturnBorrow { owner, id, count } => {
                let message = v1::BorrowRemove {
                    object_id: id.0.to_vec(),
                    count,
                };
                self.send_to(owner, ray_rs_proto::lane::Kind::BorrowRemove, &message);
            }
            Effect::ActorHandlesGone { id } => self.actor_handles_gone(id),
        }
    }

    fn tell_watcher(&mut self, watcher: Watcher, slot: RefSlot) {
        match watcher {
            Watcher::Waiter(index) => {
                let is_error = self.owner.value(slot).is_some_and(|(_, is_error)| is_error);
                let Some(waiter) = self.waiters.get_mut(index as usize).and_then(Option::as_mut) else {
                    return;
                };
                waiter.remaining = waiter.remaining.saturating_sub(1);
                if waiter.remaining == 0 || (is_error && waiter.stop_at_error) {
                    waiter.satisfied = true;
                    if waiter.parked {
                        waiter.parked = false;
                        self.after.wake.push(waiter.thread.clone());
                    } else if self.holder_rests {
                        // Another thread has drained what the holder may be waiting for.
                        self.nudge();
                    }
                }
            }
            Watcher::Peer { lane, request } => self.answer_peer(lane, request, slot),
            Watcher::Notify(token) => {
                self.drop_local(slot);
                if !self.awaits.lending.is_idle() {
                    self.await_ends(token);
                }
                match self.after.host.last_mut() {
                    Some(HostEvent::Ready(tokens)) => tokens.push(token),
                    _ => self.after.host.push(HostEvent::Ready(vec![token])),
                }
            }
            Watcher::Task(_) => {}
        }
    }

    /// Wakes the thread that sleeps on the bell, or keeps it from falling asleep.
    pub fn nudge(&self) {
        self.nudged.store(true, Ordering::SeqCst);
        self.bell.ring_self(ray_rs_lanes::PROGRESS | ray_rs_lanes::EXEC);
    }

    pub fn drop_local(&mut self, slot: RefSlot) {
        self.owner.local_dropped(slot, &mut self.owner_effects);
    }

    // ---- threads -----------------------------------------------------------------------------------------------

    /// The thread that drained the lanes leaves: another that waits takes over, or the progress thread does.
    pub fn pass_holder_on(&mut self) {
        self.holder = false;
        if let Some(waiter) = self.waiters.iter_mut().flatten().find(|waiter| waiter.parked) {
            waiter.parked = false;
            self.after.wake.push(waiter.thread.clone());
        } else if let Some(thread) = self.execution.parked.pop() {
            self.after.wake.push(thread);
        }
    }

    /// Whether anything is on its way to this process over a lane.
    pub fn expects_something(&self) -> bool {
        self.peers.in_flight > 0 || !self.fetches.is_empty() || self.peers.backlog > 0
    }

    /// When the engine itself has something to do, whoever wakes it.
    pub fn next_deadline(&self) -> Option<Duration> {
        let mut deadline = self.dispatch.next_deadline();
        let limit = self.time_limits.peek().map(|Reverse((at, _, _))| *at);
        let others = [
            limit,
            self.interrupt_deadline(),
            self.memory_retries.next_due(),
            self.send_later_at,
            self.awaited_wills.front().map(|(until, _)| *until),
            self.awaits.next_deadline(),
            self.execution
                .durable
                .as_ref()
                .and_then(|hosted| hosted.next_deadline()),
        ];
        for at in others.into_iter().flatten() {
            deadline = Some(deadline.map_or(at, |other| other.min(at)));
        }
        if let Some(at) = self.events.flush_at() {
            deadline = Some(deadline.map_or(at, |other| other.min(at)));
        }
        if self.arena.has_zombies() {
            let at = self.now() + Duration::from_millis(50);
            deadline = Some(deadline.map_or(at, |other| other.min(at)));
        }
        deadline
    }

    pub fn on_deadline(&mut self) {
        let now = self.now();
        if self.dispatch.next_deadline().is_some_and(|at| at <= now) {
            self.dispatch
                .on_event(now, ray_rs_dispatch::Event::Tick, &mut self.dispatch_effects);
        }
        self.cancel_overdue(now);
        self.end_if_deaf(now);
        self.run_memory_retries(now);
        self.send_what_was_put_off(now);
        self.await_deadlines(now);
        self.durable_deadlines(now);
        self.end_awaited_wills(now);
        if let Some(batch) = self
            .events
            .take_if_due(now, self.execution.actor.map(|(actor, _)| actor))
        {
            self.tell_gcs("AddTaskEvents", &batch);
        }
        if self.arena.has_zombies() {
            self.arena.reap();
            self.return_drained_extents();
        }
        self.run_effects();
    }
}
