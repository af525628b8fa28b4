//! The worker's side: what is to be run, in order, and the answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use ray_rs_lanes::PROGRESS;
use ray_rs_ownership::RefSlot;
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::config::REPLIES_PER_RING;
use ray_rs_types::{ActorId, FunctionId, JobId, TaskId};
use smallvec::SmallVec;

use crate::cancel::{Interrupted, Running};
use crate::durable;
use crate::events::cut;
use crate::lineage::ArgumentRefs;
use crate::loops::Loops;
use crate::model::{ActorStart, Callee, Durability, ExecTask, Next, ReadValue, StoredValue, TaskStatus};
use crate::peers::{CALL_SEQ, PeerIndex};
use crate::pull::{Brought, Reader};
use crate::state::State;
use crate::wire::{Coverage, lost_argument};

/// Where the answer of a task goes.
pub struct ReplyTo {
    lane: PeerIndex,
    seq: u64,
    started: Instant,
    /// References that came with the arguments; one local count each.
    arg_refs: SmallVec<[RefSlot; 0]>,
}

impl ReplyTo {
    /// Of a call that is replayed: nobody is answered.
    pub(crate) fn nowhere(arg_refs: SmallVec<[RefSlot; 0]>) -> Self {
        Self {
            lane: PeerIndex(u32::MAX),
            seq: 0,
            started: Instant::now(),
            arg_refs,
        }
    }

    pub(crate) fn into_refs(self) -> SmallVec<[RefSlot; 0]> {
        self.arg_refs
    }

    /// Which task of which lane it answers.
    pub(crate) fn at(&self) -> (PeerIndex, u64) {
        (self.lane, self.seq)
    }
}

/// How a task ended, on the way to its submitter.
pub(crate) struct Answered {
    pub lane: PeerIndex,
    pub seq: u64,
    pub status: TaskStatus,
    pub returns: Vec<StoredValue>,
    run: Duration,
    arg_refs: SmallVec<[RefSlot; 0]>,
    pub error_text: String,
    exiting: bool,
}

struct Queued {
    lane: PeerIndex,
    task: v1::PushTask,
    /// Arguments that lie on other nodes; few tasks have any.
    travelling: Option<Box<Travelling>>,
}

/// Arguments on their way. Nothing behind their task begins before it.
struct Travelling {
    awaited: usize,
    /// Those that have come.
    brought: Vec<Brought>,
}

/// Whether the value may lie on another node.
fn names_a_node(value: &v1::Value) -> bool {
    let location = value.location.as_ref();
    location.is_some_and(|location| !location.node_id.is_empty())
}

impl Queued {
    #[inline]
    fn is_whole(&self) -> bool {
        self.travelling.as_ref().is_none_or(|arguments| arguments.awaited == 0)
    }
}

/// A concurrency group by its name; `None`: calls of all groups, as they come.
pub type Group<'a> = Option<&'a str>;

/// The actor of this process as its creator wanted it.
pub(crate) struct Hosted {
    pub class_name: String,
    pub max_concurrency: u32,
    pub is_async: bool,
    pub groups: Vec<(String, u32)>,
    /// While its constructor runs.
    pub constructing: Option<Instant>,
    /// When it was asked for: microseconds since 1970.
    pub created_us: u64,
    /// No listing of tasks shows its creation.
    pub unlisted: bool,
}

#[derive(Default)]
pub(crate) struct Execution {
    /// The actor has threads.
    pub has_threads: bool,
    /// Each takes the calls of its own concurrency group only.
    pub has_groups: bool,
    queue: VecDeque<Queued>,
    orders: VecDeque<Next>,
    pub running: SmallVec<[Running; 2]>,
    pub interrupted: Option<Interrupted>,
    /// Threads of the executor that sleep in-process.
    pub parked: Vec<Thread>,
    /// The actor that this process hosts, and which life of it.
    pub actor: Option<(ActorId, u32)>,
    /// What else there is to say of it, to whoever asks.
    pub hosted: Option<Hosted>,
    creation_refs: Vec<RefSlot>,
    /// It is a durable one: its calls are kept.
    pub durable: Option<Box<durable::Hosted>>,
    /// Those of an async actor, which sleep in epoll.
    pub loops: Loops,
}

impl Execution {
    /// What came over it and has not begun.
    pub fn forget_lane(&mut self, lane: PeerIndex) -> Vec<v1::PushTask> {
        let (its, others) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|queued| queued.lane == lane);
        self.queue = others;
        self.loops.queue_changed();
        let its: VecDeque<Queued> = its;
        its.into_iter().map(|queued| queued.task).collect()
    }

    /// Takes a task out that has not begun; whether it was there.
    pub fn take_queued(&mut self, lane: PeerIndex, seq: u64) -> bool {
        let at = self
            .queue
            .iter()
            .position(|queued| queued.lane == lane && queued.task.seq == seq);
        self.loops.queue_changed();
        at.and_then(|at| self.queue.remove(at)).is_some()
    }

    pub fn consumed(&mut self, lane: PeerIndex, message: &v1::GeneratorConsumed) {
        let is_it = |running: &&mut Running| running.lane == lane && running.seq == message.seq;
        if let Some(running) = self.running.iter_mut().find(is_it) {
            running.consumed = running.consumed.max(message.count);
        }
    }

    pub fn consumed_of(&self, lane: PeerIndex, seq: u64) -> Option<u32> {
        let is_it = |running: &&Running| running.lane == lane && running.seq == seq;
        self.running.iter().find(is_it).map(|running| running.consumed)
    }

    pub fn has_work(&self) -> bool {
        let runnable = self
            .queue
            .front()
            .is_some_and(|first| first.is_whole() && (first.task.seq & CALL_SEQ == 0 || self.actor.is_some()));
        match &self.durable {
            None => runnable || !self.orders.is_empty(),
            Some(hosted) => runnable && hosted.has_room() || hosted.wants_checkpoint() || !self.orders.is_empty(),
        }
    }

    /// Whether a call can begin while some thread waits for something: whoever sleeps on the doorbell hears of it.
    pub fn calls_begin_on_others(&self) -> bool {
        self.has_threads || !self.loops.is_empty()
    }

    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

impl State {
    pub fn task_pushed(&mut self, lane: PeerIndex, task: v1::PushTask) {
        if task.args.iter().chain(&task.deps).any(names_a_node) {
            return self.task_with_travelling_arguments(lane, task);
        }
        let travelling = None;
        self.execution.queue.push_back(Queued { lane, task, travelling });
        self.wake_executor();
    }

    #[cold]
    fn task_with_travelling_arguments(&mut self, lane: PeerIndex, task: v1::PushTask) {
        let seq = task.seq;
        let awaited = self.pull_all(task.args.iter().chain(&task.deps), || Reader::Task(lane, seq));
        let brought = Vec::new();
        let travelling = (awaited > 0).then(|| Box::new(Travelling { awaited, brought }));
        self.execution.queue.push_back(Queued { lane, task, travelling });
        if awaited == 0 {
            self.wake_executor();
        }
    }

    /// An argument of a task is here; the task may be gone.
    pub fn argument_brought(&mut self, lane: PeerIndex, seq: u64, brought: Brought) {
        let is_it = |queued: &&mut Queued| queued.lane == lane && queued.task.seq == seq;
        let queued = self.execution.queue.iter_mut().find(is_it);
        let Some(arguments) = queued.and_then(|queued| queued.travelling.as_mut()) else {
            return;
        };
        arguments.brought.push(brought);
        arguments.awaited -= 1;
        if arguments.awaited == 0 {
            self.wake_executor();
            self.nudge();
        }
    }

    pub fn order_given(&mut self, order: Next) {
        self.execution.orders.push_back(order);
        self.wake_executor();
        self.nudge();
    }

    /// Whether a thread of this concurrency group has something to do; `None`: of any.
    pub fn has_work_for(&self, group: Group<'_>) -> bool {
        match group {
            None => self.execution.has_work(),
            Some(group) => !self.execution.orders.is_empty() || self.next_of(group).is_some(),
        }
    }

    fn next_of(&self, group: &str) -> Option<usize> {
        self.execution.actor?;
        let at = self.execution.queue.iter().position(|queued| {
            let callees = self.peers.get(queued.lane).map(|peer| &peer.callees);
            let callee = callees.and_then(|callees| callees.get(queued.task.function as usize));
            // What can't be run goes with whoever comes first, and is dropped there.
            callee.is_none_or(|callee| &*callee.group == group)
        })?;
        self.execution.queue[at].is_whole().then_some(at)
    }

    pub fn wake_executor(&mut self) {
        self.execution.loops.queue_changed();
        if self.execution.has_groups {
            // Which of them is of the right group, each finds out for itself.
            self.after.wake.extend(self.execution.parked.drain(..));
        } else if let Some(thread) = self.execution.parked.pop() {
            self.after.wake.push(thread);
            return;
        }
        if self.holder_rests {
            // Another thread has taken the task from its lane: the executor that sleeps on the bell sees no data there.
            self.nudge();
        }
    }

    pub fn start_actor(&mut self, start: v1::StartActor) {
        let awaited = match &start.spec {
            Some(spec) => self.pull_all(spec.args.iter().chain(&spec.deps), || Reader::Constructor),
            None => 0,
        };
        if awaited > 0 {
            self.pulls.starting = Some((start, awaited, Vec::new()));
        } else {
            self.construct(start);
        }
    }

    pub fn constructor_argument_brought(&mut self, brought: Brought) {
        let Some((start, awaited, mut all)) = self.pulls.starting.take() else {
            return;
        };
        all.push(brought);
        if awaited > 1 {
            self.pulls.starting = Some((start, awaited - 1, all));
            return;
        }
        self.pulls.reading = all;
        self.construct(start);
        self.pulls.reading.clear();
    }

    fn construct(&mut self, start: v1::StartActor) {
        let Some(spec) = start.spec else { return };
        let Ok(actor_id) = ActorId::from_bytes(&start.actor_id) else {
            return;
        };
        let mut refs = SmallVec::new();
        let args = self.read_argument(spec.args.unwrap_or_default(), &mut refs);
        let deps = spec
            .deps
            .into_iter()
            .map(|dep| self.read_argument(dep, &mut refs))
            .collect();
        self.execution.creation_refs = refs.into_vec();
        self.execution.actor = Some((actor_id, start.incarnation));
        self.execution.hosted = Some(Hosted {
            class_name: spec.class_name.clone(),
            max_concurrency: spec.max_concurrency,
            is_async: spec.is_async,
            groups: (spec.concurrency_groups.iter())
                .map(|group| (group.name.clone(), group.limit))
                .collect(),
            constructing: Some(Instant::now()),
            created_us: spec.created_us,
            unlisted: spec.unlisted,
        });
        let order = ActorStart {
            actor_id,
            class_id: FunctionId::from_bytes(&spec.class_id).unwrap_or(FunctionId::NIL),
            definition: spec.definition,
            class_name: spec.class_name,
            args,
            layout: spec.layout,
            kwarg_names: spec.kwarg_names,
            deps,
            dep_refs: ArgumentRefs(spec.dep_refs.map(Box::new)),
            incarnation: start.incarnation,
            max_concurrency: spec.max_concurrency,
            is_async: spec.is_async,
            groups: spec
                .concurrency_groups
                .into_iter()
                .map(|group| (group.name, group.limit))
                .collect(),
            name: spec.name,
            namespace: spec.namespace,
            resources: spec.running_resources.as_ref().map(Into::into).unwrap_or_default(),
            captures_children: spec.captures_children,
            gpu_ids: start.gpu_ids,
            handle_descriptor: spec.handle_descriptor,
            extra: spec.extra,
            job_id: JobId::from_bytes(&spec.job_id).unwrap_or(self.job),
            durability: spec.durability.map(|durability| Durability {
                checkpoint_every: durability.checkpoint_every,
                checkpoint_interval: Some(durability.checkpoint_interval_ms)
                    .filter(|millis| *millis > 0)
                    .map(Duration::from_millis),
            }),
        };
        self.order_given(Next::StartActor(Box::new(order)));
    }

    pub fn read_argument(&mut self, wire: v1::Value, refs: &mut SmallVec<[RefSlot; 0]>) -> ReadValue {
        let value = self.value_from_wire(wire, Coverage::ByTask);
        refs.extend(value.refs.iter().copied());
        match self.read_value(&value) {
            Ok(value) => value,
            Err(failure) => lost_argument(&failure),
        }
    }

    /// The next thing to run, if one is here.
    pub fn pop_next(&mut self, group: Group<'_>) -> Option<Next> {
        // Actor methods wait until the constructor has been ordered; orders come first in any case.
        let leaves = matches!(self.execution.orders.front(), Some(Next::Exit { graceful: true, .. }));
        let durable = self.execution.durable.as_ref();
        if leaves && durable.is_some_and(|hosted| hosted.wants_checkpoint()) {
            // Where each call needs one, answers wait for it: without it the process would wait for them in vain.
            return Some(Next::Checkpoint);
        }
        if let Some(order) = self.execution.orders.pop_front() {
            self.ring_callers();
            return Some(order);
        }
        if let Some(hosted) = &self.execution.durable {
            if hosted.wants_checkpoint() {
                return Some(Next::Checkpoint);
            }
            if !hosted.has_room() {
                self.ring_callers();
                return None;
            }
        }
        loop {
            let at = match group {
                None => Some(0),
                Some(group) => self.next_of(group),
            };
            let ready = |at: &usize| self.execution.queue.get(*at).is_some_and(Queued::is_whole);
            let Some(queued) = at.filter(ready).and_then(|at| self.execution.queue.remove(at)) else {
                break;
            };
            if queued.task.seq & CALL_SEQ != 0 && self.execution.actor.is_none() {
                // A caller was faster than the raylet's order to become the actor.
                self.execution.queue.push_front(queued);
                break;
            }
            self.execution.loops.queue_changed();
            let Queued { lane, task, travelling } = queued;
            let Some(peer) = self.peers.get(lane) else { continue };
            if task.seq & CALL_SEQ == 0 && !peer.claim(task.seq) {
                continue;
            }
            let Some(callee) = peer.callees.get(task.function as usize).cloned() else {
                continue;
            };
            let caller = self.peers.address(peer.who);
            let lease = Arc::clone(&peer.lease_terms);
            let mut recorded = None;
            if self.execution.durable.is_some() {
                if !self.call_may_run(lane, &task) {
                    continue;
                }
                recorded = self.begin_record(caller.worker_id, &task, &callee);
            }
            // The caller must not wait for results that are there while a task that may take long runs.
            if callee.average_us.load(Ordering::Relaxed) > SHORT_US {
                self.ring_callers();
            }
            let mut arg_refs = SmallVec::new();
            if let Some(arguments) = travelling {
                self.pulls.reading = arguments.brought;
            }
            let args = match task.args {
                Some(args) => self.read_argument(args, &mut arg_refs),
                None => ReadValue::empty(),
            };
            let deps = task
                .deps
                .into_iter()
                .map(|dep| self.read_argument(dep, &mut arg_refs))
                .collect();
            if !self.pulls.reading.is_empty() {
                self.pulls.reading.clear();
            }
            if !self.owner_effects.is_empty() {
                // What came along with references of other processes.
                self.run_effects();
            }
            let actor = match ActorId::from_bytes(&task.actor_id) {
                Ok(actor) => actor,
                Err(_) => ActorId::nil_of(callee.job_id),
            };
            let started = Instant::now();
            self.execution.running.push(Running {
                lane,
                seq: task.seq,
                unique: task.task_unique,
                function: task.function,
                started,
                cancelled: false,
                consumed: 0,
            });
            return Some(Next::Task(Box::new(ExecTask {
                task_id: TaskId::new(task.task_unique, actor),
                callee,
                args,
                layout: task.layout,
                kwarg_names: task.kwarg_names,
                deps,
                dep_refs: ArgumentRefs(task.dep_refs),
                num_returns: task.num_returns,
                streaming: task.streaming.then_some(task.backpressure),
                attempt: task.attempt,
                caller,
                lease,
                recorded,
                reply: ReplyTo {
                    lane,
                    seq: task.seq,
                    started,
                    arg_refs,
                },
            })));
        }
        self.ring_callers();
        None
    }

    /// Rings for all replies that were written quietly.
    pub fn ring_callers(&mut self) {
        for index in 0..self.peers.lanes.len() as u32 {
            let lane = PeerIndex(index);
            if let Some(peer) = self.peers.get_mut(lane)
                && peer.quiet_replies > 0
            {
                peer.quiet_replies = 0;
                self.ring(lane, PROGRESS);
            }
        }
    }

    pub fn finish(
        &mut self,
        mut task: ExecTask,
        status: TaskStatus,
        returns: Vec<StoredValue>,
        error_text: String,
        exiting: bool,
    ) {
        let run = task.reply.started.elapsed();
        task.callee.ran(run);
        let ReplyTo {
            lane, seq, arg_refs, ..
        } = task.reply;
        self.no_longer_running(lane, seq);
        let answered = Answered {
            lane,
            seq,
            status,
            returns,
            run,
            arg_refs,
            error_text,
            exiting,
        };
        match task.recorded.take() {
            // An actor that has left by its own will is not restarted: nothing of it is kept.
            Some(recorded) if status != TaskStatus::ActorExited => self.hold_answer(*recorded, answered),
            _ => self.answer(answered),
        }
    }

    /// Tells the submitter how its task ended.
    pub fn answer(&mut self, answered: Answered) {
        let Answered {
            lane,
            seq,
            status,
            returns,
            run,
            arg_refs,
            error_text,
            exiting,
        } = answered;
        let who = self.peers.get(lane).map(|peer| peer.who);
        let Some(who) = who else {
            for value in returns {
                self.owner.value_abandoned(value, &mut self.owner_effects);
            }
            for slot in arg_refs {
                self.drop_local(slot);
            }
            return self.run_effects();
        };
        let mut wire = Vec::with_capacity(returns.len());
        for value in &returns {
            wire.push(self.give_away(value, who));
        }
        let borrowed: SmallVec<[RefSlot; 0]> = arg_refs
            .iter()
            .copied()
            .filter(|slot| self.owner.reported_as_borrowed(*slot, 1))
            .collect();
        let borrowed = (!borrowed.is_empty()).then(|| self.refs_to_wire(&borrowed));
        let reply = v1::TaskReply {
            seq,
            status: status as u32,
            returns: wire,
            run_ns: run.as_nanos() as u64,
            borrowed,
            exiting,
            error_text: cut(&error_text).into_owned(),
        };
        self.send_on(lane, Kind::TaskReply, &reply, 0);
        for slot in returns.iter().flat_map(|value| value.refs.iter()) {
            self.drop_local(*slot);
        }
        for slot in arg_refs {
            self.drop_local(slot);
        }
        let peer = self.peers.get_mut(lane).expect("looked at above");
        peer.quiet_replies += 1;
        if peer.quiet_replies >= REPLIES_PER_RING || exiting {
            peer.quiet_replies = 0;
            self.ring(lane, PROGRESS);
        }
        self.run_effects();
    }

    /// A submitter on another node wants back what has not begun.
    pub fn entries_wanted(&mut self, lane: PeerIndex, mut seqs: Vec<u64>) {
        seqs.retain(|seq| self.execution.take_queued(lane, *seq));
        if !seqs.is_empty() {
            self.send_on(lane, Kind::EntriesReturned, &v1::EntriesReturned { seqs }, PROGRESS);
        }
    }

    /// The task of this thread is about to sleep: its unclaimed neighbours go back to their owners, its CPU to the node.
    pub fn task_blocks(&mut self) {
        self.ring_callers();
        self.blocked_threads += 1;
        if self.blocked_threads > 1 {
            return;
        }
        let mut returned: Vec<(PeerIndex, Vec<u64>)> = Vec::new();
        let mut kept = VecDeque::new();
        for queued in std::mem::take(&mut self.execution.queue) {
            if queued.task.seq & CALL_SEQ != 0 {
                kept.push_back(queued);
                continue;
            }
            let Some(peer) = self.peers.get(queued.lane) else {
                continue;
            };
            // Claimed, so that the owner's withdrawal and this return cannot both count.
            if !peer.claim(queued.task.seq) {
                continue;
            }
            match returned.iter_mut().find(|(lane, _)| *lane == queued.lane) {
                Some((_, seqs)) => seqs.push(queued.task.seq),
                None => returned.push((queued.lane, vec![queued.task.seq])),
            }
        }
        self.execution.queue = kept;
        for (lane, seqs) in returned {
            self.send_on(lane, Kind::EntriesReturned, &v1::EntriesReturned { seqs }, PROGRESS);
        }
        self.tell_raylet(v1::to_raylet::Body::Blocked(v1::Blocked {}));
    }

    pub fn task_unblocks(&mut self) {
        self.blocked_threads -= 1;
        if self.blocked_threads == 0 {
            self.tell_raylet(v1::to_raylet::Body::Unblocked(v1::Unblocked {}));
        }
    }

    pub fn actor_started(&mut self, error: Option<Vec<u8>>, message: String) {
        let Some((actor_id, incarnation)) = self.execution.actor else {
            return;
        };
        self.note_constructed(error.as_ref().map(|_| &*message));
        if let Some(hosted) = &mut self.execution.hosted {
            hosted.constructing = None;
        }
        for slot in std::mem::take(&mut self.execution.creation_refs) {
            self.drop_local(slot);
        }
        let report = v1::ReportActorStartedRequest {
            actor_id: actor_id.0.to_vec(),
            incarnation,
            creation_error: error.unwrap_or_default(),
            message,
        };
        self.tell_gcs("ReportActorStarted", &report);
        // A process whose actor failed ends at once.
        if !report.creation_error.is_empty() {
            self.send_task_events();
        }
        self.run_effects();
    }
}

/// Functions that take longer on average are worth a ring before they start.
const SHORT_US: u32 = 100;

impl Callee {
    pub fn new(definition: v1::DefineFunction, job: JobId) -> Self {
        Self {
            function_id: FunctionId::from_bytes(&definition.function_id).ok(),
            name: definition.name.into(),
            method: definition.method.into(),
            job_id: JobId::from_bytes(&definition.job_id).unwrap_or(job),
            retry_exceptions: definition.retry_exceptions,
            max_calls: definition.max_calls,
            no_retry: definition.no_retry,
            captures_children: definition.captures_children,
            definition: definition.definition,
            group: definition.concurrency_group.into(),
            binding_slot: AtomicU32::new(0),
            average_us: AtomicU32::new(u32::MAX),
        }
    }

    fn ran(&self, run: Duration) {
        let us = u32::try_from(run.as_micros()).unwrap_or(u32::MAX / 2);
        let before = self.average_us.load(Ordering::Relaxed);
        let average = if before == u32::MAX {
            us
        } else {
            before - before / 4 + us / 4
        };
        self.average_us.store(average, Ordering::Relaxed);
    }
}
