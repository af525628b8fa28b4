//! The process of a durable actor: what `ray_rs_actors::durable::calls` decides is carried out here. And the numbers that
//! callers of such actors give to their calls.
//!
//! An answer is held with all that leaves with it until its call is committed; then it leaves as any other does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use ray_rs_actors::durable::calls::{Calls, Commit, Effect, Event, Settings};
use ray_rs_actors::durable::{CallId, CallerState};
use ray_rs_lanes::PROGRESS;
use ray_rs_ownership::{OwnerIndex, TaskKey};
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, WorkerId};
use smallvec::SmallVec;

use crate::core::{CoreWorker, Interrupt};
use crate::execute::{Answered, ReplyTo};
use crate::lineage::ArgumentRefs;
use crate::model::*;
use crate::peers::PeerIndex;
use crate::state::{Answer, Question, State};

/// Most bytes that the arguments of a call of a durable actor may have, and its result: both are written down.
pub const MAX_CALL_BYTES: usize = 16 << 20;
/// Most bytes of its state.
pub const MAX_STATE_BYTES: usize = 256 << 20;

/// A commit that failed is sent again after so long.
const COMMIT_PAUSE: Duration = Duration::from_millis(100);
/// A process that is to end in order waits so long for its last commit.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// To whoever made a call after which the state could not be saved, where it is saved after each.
const UNDONE: &str = "The state of the durable actor could not be saved after this call. The call counts as not made: the actor \
                      goes on from the state before it. What its process printed says why.";

/// Where an answer goes: lane, and the call's number on it.
type Address = (PeerIndex, u64);

/// Of the actor that this process hosts.
pub(crate) struct Hosted {
    calls: Calls,
    actor: ActorId,
    incarnation: u32,
    /// Answers that wait for their calls' commits, in the order of the calls' positions.
    held: VecDeque<Answered>,
    /// Position of the first.
    first_held: u64,
    /// The commit that is under way, encoded.
    outgoing: Option<Vec<u8>>,
    /// It failed, and is sent again at this time.
    retry_at: Option<Duration>,
    failures: u32,
    /// Waits until all answers have left.
    settling: Option<Thread>,
}

impl Hosted {
    pub fn has_room(&self) -> bool {
        self.calls.has_room()
    }

    pub fn wants_checkpoint(&self) -> bool {
        self.calls.wants_checkpoint()
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        let tick = self.calls.next_deadline();
        tick.into_iter().chain(self.retry_at).min()
    }
}

/// A call that runs, on its way into the log.
pub struct Recorded {
    call: CallId,
    record: v1::CallRecord,
}

/// What an actor's new process starts from.
pub struct CallHistory {
    /// As it was saved. `None`: the actor was never started before.
    pub state: Option<Bytes>,
    from: Option<(u64, Vec<CallerState>)>,
    records: Vec<Bytes>,
}

impl CallHistory {
    /// How many calls are to be replayed.
    pub fn calls(&self) -> usize {
        self.records.len()
    }
}

/// A call that is replayed.
pub struct Replay {
    call: CallId,
    record_bytes: usize,
    answer: Bytes,
    /// `None`: the method was not run.
    pub task: Option<Box<ExecTask>>,
}

// ---- the caller ------------------------------------------------------------------------------------------------------

impl State {
    /// Gives the call its number, which it keeps when it is sent again.
    pub fn number_call(&mut self, actor: ActorIndex, key: TaskKey) {
        if let Some(spec) = self.owner.spec_mut(key)
            && spec.call_number == 0
        {
            let numbers = self.actors[actor.0 as usize].numbers.get_or_insert_default();
            spec.call_number = numbers.open();
        }
    }

    /// Up to which number the caller has its answers.
    pub fn acknowledged(&self, actor: ActorIndex) -> u64 {
        let numbers = self.actors[actor.0 as usize].numbers.as_ref();
        numbers.map_or(0, |numbers| numbers.acknowledged())
    }

    /// There is an answer to the call, or nobody waits for one. Made again, it is another call.
    pub fn close_call(&mut self, actor: ActorIndex, key: TaskKey) {
        let Some(spec) = self.owner.spec_mut(key) else { return };
        let number = std::mem::take(&mut spec.call_number);
        if number == 0 {
            return;
        }
        let target = &mut self.actors[actor.0 as usize];
        let Some(numbers) = &mut target.numbers else { return };
        let Some(upto) = numbers.close(number) else { return };
        // Nobody is woken for it: the actor reads it when it reads the next thing.
        let message = v1::CallsAcknowledged {
            actor_id: target.id.0.to_vec(),
            upto,
        };
        if let Some(lane) = target.lane
            && self.peers.get(lane).is_some()
        {
            self.send_on(lane, Kind::CallsAcknowledged, &message, 0);
        }
    }
}

// ---- the actor's process -----------------------------------------------------------------------------------------------

impl State {
    fn call_event(&mut self, event: Event<Address>) {
        let now = self.now();
        let Some(hosted) = &mut self.execution.durable else {
            return;
        };
        let mut effects = Vec::new();
        hosted.calls.on_event(now, event, &mut effects);
        for effect in effects {
            self.run_call_effect(effect);
        }
    }

    fn run_call_effect(&mut self, effect: Effect<Address>) {
        match effect {
            // Whoever asks whether it runs looks for this one.
            Effect::Run { .. } => {}
            Effect::Answer { to, answer } => self.answer_again(to, &answer),
            Effect::Readdress { position, to } => {
                if let Some(held) = self.held_at(position) {
                    (held.lane, held.seq) = to;
                }
            }
            Effect::Drop { call } => {
                tracing::debug!(caller = %call.caller, number = call.number, "a call came once more after its answer had");
            }
            Effect::Commit(commit) => self.send_commit(commit),
            Effect::Release { position } => {
                let hosted = self.execution.durable.as_mut().expect("whose effect this is");
                assert_eq!(
                    hosted.first_held, position,
                    "DUR-1: answers leave in the order of calls"
                );
                hosted.first_held += 1;
                if let Some(answered) = hosted.held.pop_front() {
                    self.answer(answered);
                }
            }
            Effect::Undo { position } => {
                let Some(held) = self.held_at(position) else { return };
                let (lane, seq, count) = (held.lane, held.seq, held.returns.len());
                self.answer_with_failure((lane, seq), count, UNDONE.to_owned());
            }
        }
    }

    fn answer_with_failure(&mut self, (lane, seq): Address, count: usize, message: String) {
        let error = StoredValue::failed(Failure::System { message });
        let reply = v1::TaskReply {
            seq,
            status: TaskStatus::Failed as u32,
            returns: (0..count)
                .map(|_| self.value_to_wire(&error, OwnerIndex::ME, false))
                .collect(),
            ..v1::TaskReply::default()
        };
        if self.peers.get(lane).is_some() {
            self.send_on(lane, Kind::TaskReply, &reply, PROGRESS);
        }
    }

    fn held_at(&mut self, position: u64) -> Option<&mut Answered> {
        let hosted = self.execution.durable.as_mut()?;
        let at = position.checked_sub(hosted.first_held)?;
        hosted.held.get_mut(at as usize)
    }

    /// Whether this call of the durable actor hosted here is to run; if not, it has been dealt with.
    pub fn call_may_run(&mut self, lane: PeerIndex, task: &v1::PushTask) -> bool {
        let Some(caller) = self.peers.get(lane).map(|peer| self.peers.address(peer.who).worker_id) else {
            return false;
        };
        if task.call_number == 0 {
            let message = "a durable actor was called by somebody who does not know that it is one".to_owned();
            self.answer_with_failure((lane, task.seq), task.num_returns as usize, message);
            return false;
        }
        let now = self.now();
        let Some(hosted) = &mut self.execution.durable else {
            return true;
        };
        let call = CallId {
            caller,
            number: task.call_number,
        };
        let event = Event::Arrived {
            call,
            acknowledged: task.acknowledged,
            to: (lane, task.seq),
        };
        let mut effects = Vec::new();
        hosted.calls.on_event(now, event, &mut effects);
        let runs = effects.contains(&Effect::Run { call });
        for effect in effects {
            self.run_call_effect(effect);
        }
        runs
    }

    /// The beginning of a call's record: what is known without its arguments' data.
    pub fn begin_record(&self, caller: WorkerId, task: &v1::PushTask, callee: &Callee) -> Option<Box<Recorded>> {
        self.execution.durable.as_ref()?;
        let call = CallId {
            caller,
            number: task.call_number,
        };
        let record = v1::CallRecord {
            caller: caller.0.to_vec(),
            number: task.call_number,
            method: callee.method.to_string(),
            num_returns: task.num_returns,
            task_unique: task.task_unique,
            not_run: true,
            ..v1::CallRecord::default()
        };
        Some(Box::new(Recorded { call, record }))
    }

    fn answer_again(&mut self, (lane, seq): Address, answer: &Bytes) {
        let Ok(record) = v1::TaskReplyRecord::decode(answer.clone()) else {
            return tracing::error!("an answer that was kept cannot be read");
        };
        let reply = v1::TaskReply {
            seq,
            status: record.status,
            returns: record.returns,
            error_text: record.error_text,
            ..v1::TaskReply::default()
        };
        if self.peers.get(lane).is_some() {
            self.send_on(lane, Kind::TaskReply, &reply, PROGRESS);
        }
    }

    /// The call was executed: its answer is held until that is committed.
    pub fn hold_answer(&mut self, recorded: Recorded, answered: Answered) {
        let mut returns = Vec::with_capacity(answered.returns.len());
        for value in &answered.returns {
            returns.push(self.value_for_keeps(value));
        }
        let reply = v1::TaskReplyRecord {
            status: answered.status as u32,
            returns,
            error_text: answered.error_text.clone(),
        };
        let answer = Bytes::from(reply.encode_to_vec());
        let Recorded { call, mut record } = recorded;
        let Some(hosted) = &mut self.execution.durable else {
            return;
        };
        hosted.held.push_back(answered);
        let record = if hosted.calls.records() {
            record.reply = Some(reply);
            Bytes::from(record.encode_to_vec())
        } else {
            Bytes::new()
        };
        self.call_event(Event::Executed { call, record, answer });
    }

    /// A value with its data, wherever it lies.
    fn value_for_keeps(&mut self, value: &StoredValue) -> v1::Value {
        let ValueData::Arena(location) = value.data else {
            return self.value_to_wire(value, OwnerIndex::ME, false);
        };
        match self.pin(location) {
            Some(pin) => v1::Value {
                kind: value.kind as u32,
                data: Bytes::copy_from_slice(&pin),
                ..v1::Value::default()
            },
            None => {
                // It went to disk within the moment since it was made.
                let message = "the result of this call was not kept, and the process that had it is gone".to_owned();
                let failed = StoredValue::failed(Failure::System { message });
                self.value_to_wire(&failed, OwnerIndex::ME, false)
            }
        }
    }

    fn send_commit(&mut self, commit: Commit) {
        let Some(hosted) = &mut self.execution.durable else {
            return;
        };
        let request = v1::CommitCallsRequest {
            actor_id: hosted.actor.0.to_vec(),
            incarnation: hosted.incarnation,
            first: commit.first,
            records: commit.records,
            checkpoint: commit.checkpoint.map(|checkpoint| {
                let callers = checkpoint.callers.into_iter().map(|known| v1::CallerRecord {
                    caller: known.caller.0.to_vec(),
                    last: known.last,
                    answers: (known.answers.into_iter())
                        .map(|(number, reply)| v1::AnswerRecord { number, reply })
                        .collect(),
                });
                let data = v1::CallCheckpoint {
                    state: checkpoint.state,
                    callers: callers.collect(),
                };
                v1::Checkpoint {
                    position: checkpoint.position,
                    data: data.encode_to_vec().into(),
                }
            }),
        };
        hosted.outgoing = Some(request.encode_to_vec());
        self.send_commit_again();
    }

    fn send_commit_again(&mut self) {
        let outgoing = self
            .execution
            .durable
            .as_ref()
            .and_then(|hosted| hosted.outgoing.clone());
        if let Some(payload) = outgoing {
            self.ask_gcs("CommitCalls", payload, Question::CommitCalls);
        }
    }

    pub fn commit_answered(&mut self, answer: Answer) {
        let Answer::Gcs(answer) = answer else { return };
        let now = self.now();
        let Some(hosted) = &mut self.execution.durable else {
            return;
        };
        let reply = answer.and_then(|bytes| v1::CommitCallsReply::decode(bytes).map_err(|error| error.to_string()));
        match reply {
            Ok(reply) if reply.refused.is_empty() => {
                hosted.outgoing = None;
                hosted.failures = 0;
                let had_room = hosted.has_room();
                self.call_event(Event::Committed);
                self.ring_callers();
                let wants_checkpoint =
                    (self.execution.durable.as_ref()).is_some_and(|hosted| hosted.wants_checkpoint());
                if !had_room || wants_checkpoint {
                    self.wake_executor();
                    self.nudge();
                }
            }
            Ok(reply) => {
                hosted.outgoing = None;
                self.call_event(Event::Refused);
                self.order_given(Next::Exit {
                    graceful: false,
                    reason: reply.refused,
                });
            }
            Err(error) => {
                hosted.failures += 1;
                if hosted.failures == 10 {
                    tracing::warn!(%error, "the control store takes no calls of this durable actor; answers wait");
                }
                hosted.retry_at = Some(now + COMMIT_PAUSE);
            }
        }
        let hosted = self.execution.durable.as_mut().expect("looked at above");
        if (hosted.calls.is_settled() || hosted.calls.has_ended())
            && let Some(thread) = hosted.settling.take()
        {
            self.after.wake.push(thread);
        }
    }

    /// What is due: a commit that failed, a checkpoint.
    pub fn durable_deadlines(&mut self, now: Duration) {
        let Some(hosted) = &mut self.execution.durable else {
            return;
        };
        if hosted.retry_at.is_some_and(|at| at <= now) {
            hosted.retry_at = None;
            self.send_commit_again();
        }
        let hosted = self.execution.durable.as_mut().expect("looked at above");
        if hosted.calls.next_deadline().is_some_and(|at| at <= now) {
            self.call_event(Event::Tick);
            self.wake_executor();
            self.nudge();
        }
    }

    pub fn calls_acknowledged(&mut self, lane: PeerIndex, message: &v1::CallsAcknowledged) {
        let Some(caller) = self.peers.get(lane).map(|peer| self.peers.address(peer.who).worker_id) else {
            return;
        };
        let upto = message.upto;
        self.call_event(Event::Acknowledged { caller, upto });
    }
}

fn callers_from(checkpoint: v1::CallCheckpoint) -> Result<Vec<CallerState>, CoreError> {
    let known = |record: v1::CallerRecord| {
        Ok(CallerState {
            caller: WorkerId::from_bytes(&record.caller).map_err(unreadable)?,
            last: record.last,
            answers: (record.answers.into_iter())
                .map(|answer| (answer.number, answer.reply))
                .collect(),
        })
    };
    checkpoint.callers.into_iter().map(known).collect()
}

fn unreadable(error: impl std::fmt::Display) -> CoreError {
    CoreError::Gcs(format!("what was stored of the durable actor cannot be read: {error}"))
}

impl CoreWorker {
    /// What is stored of the actor that this process is to become. As long as the control store does not answer, this waits.
    ///
    /// # Errors
    /// [`CoreError::Interrupted`], [`CoreError::RayletDied`]; [`CoreError::Gcs`] when this process is not wanted any more, or
    /// what was stored cannot be read.
    pub fn call_history(
        &self,
        actor: ActorId,
        incarnation: u32,
        interrupt: Interrupt<'_>,
    ) -> Result<CallHistory, CoreError> {
        let mut history = CallHistory {
            state: None,
            from: None,
            records: Vec::new(),
        };
        let mut request = v1::GetCallLogRequest {
            actor_id: actor.0.to_vec(),
            incarnation,
            from: 0,
            with_checkpoint: true,
        };
        loop {
            let reply = match self.gcs_call("GetCallLog", request.encode_to_vec(), interrupt) {
                Ok(bytes) => v1::GetCallLogReply::decode(bytes).map_err(unreadable)?,
                Err(CoreError::Gcs(error) | CoreError::TimedOut { what: error, .. }) => {
                    tracing::debug!(%error, "the control store does not say how the actor was");
                    if interrupt() {
                        return Err(CoreError::Interrupted);
                    }
                    std::thread::park_timeout(COMMIT_PAUSE);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !reply.refused.is_empty() {
                return Err(CoreError::Gcs(reply.refused));
            }
            if let Some(checkpoint) = reply.checkpoint {
                let position = checkpoint.position;
                let mut read = v1::CallCheckpoint::decode(checkpoint.data).map_err(unreadable)?;
                history.state = Some(std::mem::take(&mut read.state));
                history.from = Some((position, callers_from(read)?));
            }
            history.records.extend(reply.records);
            if reply.next == 0 {
                return Ok(history);
            }
            (request.from, request.with_checkpoint) = (reply.next, false);
        }
    }

    /// From here on calls are kept. The history's calls are given back, to be replayed one after another.
    pub fn begin_calls(
        &self,
        (actor, incarnation): (ActorId, u32),
        durability: Durability,
        history: CallHistory,
    ) -> Vec<Bytes> {
        let settings = Settings {
            every: durability.checkpoint_every.max(1),
            interval: durability.checkpoint_interval,
        };
        self.with(|state| {
            let first_held = history.from.as_ref().map_or(0, |(position, _)| *position);
            let now = state.now();
            state.execution.durable = Some(Box::new(Hosted {
                calls: Calls::new(settings, now, history.from),
                actor,
                incarnation,
                held: VecDeque::new(),
                first_held,
                outgoing: None,
                retry_at: None,
                failures: 0,
                settling: None,
            }));
        });
        history.records
    }

    /// A call of the history, as it was made.
    ///
    /// # Errors
    /// [`CoreError::Gcs`] when it cannot be read.
    pub fn replay(&self, record: &Bytes) -> Result<Replay, CoreError> {
        let record_bytes = record.len();
        let record = v1::CallRecord::decode(record.clone()).map_err(unreadable)?;
        let caller = WorkerId::from_bytes(&record.caller).map_err(unreadable)?;
        let number = record.number;
        let answer = record.reply.unwrap_or_default().encode_to_vec().into();
        let task = (!record.not_run).then(|| {
            self.with(|state| {
                let actor = state.execution.actor.map(|(actor, _)| actor);
                let actor = actor.unwrap_or_else(|| ActorId::nil_of(state.job));
                let class = state.execution.hosted.as_ref().map_or("", |hosted| &hosted.class_name);
                let definition = v1::DefineFunction {
                    name: format!("{class}.{}", record.method),
                    method: record.method,
                    ..v1::DefineFunction::default()
                };
                let callee = Arc::new(Callee::new(definition, actor.job_id()));
                let mut arg_refs = SmallVec::new();
                let args = state.read_argument(record.args.unwrap_or_default(), &mut arg_refs);
                let deps = (record.deps.into_iter())
                    .map(|dep| state.read_argument(dep, &mut arg_refs))
                    .collect();
                Box::new(ExecTask {
                    task_id: ray_rs_types::TaskId::new(record.task_unique, actor),
                    callee,
                    args,
                    layout: record.layout,
                    kwarg_names: record.kwarg_names,
                    deps,
                    dep_refs: ArgumentRefs(None),
                    num_returns: record.num_returns,
                    streaming: None,
                    attempt: 0,
                    caller: state.me,
                    lease: Arc::default(),
                    recorded: None,
                    reply: ReplyTo::nowhere(arg_refs),
                })
            })
        });
        Ok(Replay {
            call: CallId { caller, number },
            record_bytes,
            answer,
            task,
        })
    }

    /// It was made again; `task` as it was given.
    pub fn replayed(&self, replay: Replay, task: Option<Box<ExecTask>>) {
        self.with(|state| {
            if let Some(task) = task {
                for slot in task.reply.into_refs() {
                    // What the actor keeps of its arguments it borrows: the caller, who would say so, is not there.
                    if state.owner.reported_as_borrowed(slot, 1) {
                        let (owner, id) = (state.owner.owner(slot), state.owner.id(slot));
                        let message = v1::BorrowAdd {
                            object_ids: id.0.to_vec(),
                            borrower: Some((&state.me).into()),
                        };
                        state.send_to(owner, Kind::BorrowAdd, &message);
                    }
                    state.drop_local(slot);
                }
            }
            if let Some(hosted) = &mut state.execution.durable {
                hosted.first_held += 1;
            }
            state.call_event(Event::Replayed {
                call: replay.call,
                record_bytes: replay.record_bytes,
                answer: replay.answer,
            });
            state.run_effects();
        });
    }

    /// The state after all calls so far. `Err`: it could not be saved, in words. True: then this process has to end, since
    /// what was done cannot be kept.
    pub fn checkpoint_taken(&self, saved: Result<Bytes, String>) -> bool {
        let saved = saved.and_then(|state| match state.len() {
            0..=MAX_STATE_BYTES => Ok(state),
            length => Err(format!("it has {length} bytes, and {MAX_STATE_BYTES} is the most")),
        });
        match saved {
            Ok(state) => self.with(|core| core.call_event(Event::CheckpointTaken { state })),
            Err(error) => {
                tracing::error!(%error, "the state of a durable actor could not be saved");
                self.with(|state| state.call_event(Event::CheckpointFailed));
            }
        }
        let has_ended = |state: &mut State| {
            state
                .execution
                .durable
                .as_ref()
                .is_some_and(|hosted| hosted.calls.has_ended())
        };
        let ends = self.with(has_ended);
        if ends {
            self.flush_answers();
        }
        ends
    }

    /// Waits until all answers have left, or can't any more; at most `limit`. Whether they have.
    pub fn settle_calls(&self, limit: Option<Duration>, interrupt: Interrupt<'_>) -> Result<bool, CoreError> {
        let began = Instant::now();
        loop {
            let settled = self.with(|state| {
                let Some(hosted) = &mut state.execution.durable else {
                    return Some(true);
                };
                if state.raylet_dead || hosted.calls.has_ended() {
                    return Some(false);
                }
                if hosted.calls.is_settled() {
                    return Some(true);
                }
                hosted.settling = Some(std::thread::current());
                None
            });
            if let Some(settled) = settled {
                return Ok(settled);
            }
            if interrupt() {
                return Err(CoreError::Interrupted);
            }
            if limit.is_some_and(|limit| began.elapsed() > limit) {
                return Ok(false);
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// The same, for a process that is about to end. A child that user code has forked has nothing to answer for, and no
    /// threads that could.
    pub fn settle_before_end(&self, interrupt: Interrupt<'_>) {
        if self.is_forked() || self.with(|state| state.execution.durable.is_none()) {
            return;
        }
        let settled = self.settle_calls(Some(LAST_COMMIT), interrupt);
        if matches!(settled, Ok(true)) {
            self.flush_answers();
        }
    }

    /// Writes the arguments of a call down, if it is to be recorded. `Some`: they cannot be, and why; then the call must not be
    /// made.
    ///
    /// # Errors
    /// When an argument that is elsewhere cannot be had.
    pub fn record_arguments(
        self: &Arc<Self>,
        task: &mut ExecTask,
        interrupt: Interrupt<'_>,
    ) -> Result<Option<String>, CoreError> {
        let Some(mut recorded) = task.recorded.take() else {
            return Ok(None);
        };
        let records =
            self.with(|state| (state.execution.durable.as_ref()).is_some_and(|hosted| hosted.calls.records()));
        let outcome = match records {
            true => self.write_down(task, &mut recorded.record, interrupt),
            false => Ok(None),
        };
        task.recorded = Some(recorded);
        outcome
    }

    fn write_down(
        self: &Arc<Self>,
        task: &mut ExecTask,
        record: &mut v1::CallRecord,
        interrupt: Interrupt<'_>,
    ) -> Result<Option<String>, CoreError> {
        self.bring_arguments(&mut task.args, &mut task.deps, &task.dep_refs, interrupt)?;
        let values = || task.deps.iter().chain([&task.args]);
        let bytes: usize = values().map(|value| value.bytes().len()).sum();
        if bytes > MAX_CALL_BYTES {
            return Ok(Some(format!(
                "the arguments have {bytes} bytes, and of a durable actor's call no more than {MAX_CALL_BYTES} are kept for a \
                 replay. Give it less, or a name by which it finds the data; or with checkpoint_every=1 no call is replayed."
            )));
        }
        let holds_values = self.with(|state| {
            let is_value = |slot: &RefSlot| state.owner.kind(*slot) == ray_rs_ownership::RefKind::Value;
            values().flat_map(|value| &value.refs).any(is_value)
        });
        if holds_values {
            return Ok(Some(
                "there is an ObjectRef inside an argument, and what it refers to need not be there any more when the call is \
                 replayed. Give the ref as an argument of its own: then its value is kept with the call; or with \
                 checkpoint_every=1 no call is replayed."
                    .to_owned(),
            ));
        }
        let mut kept: Vec<v1::Value> = values()
            .map(|value| v1::Value {
                kind: value.kind as u32,
                data: match &value.data {
                    ReadData::Inline(bytes) => bytes.clone(),
                    _ => Bytes::copy_from_slice(value.bytes()),
                },
                location: None,
                refs: (!value.refs.is_empty()).then(|| self.with(|state| state.refs_to_wire(&value.refs))),
            })
            .collect();
        record.args = kept.pop();
        record.deps = kept;
        record.layout.clone_from(&task.layout);
        record.kwarg_names.clone_from(&task.kwarg_names);
        record.not_run = false;
        Ok(None)
    }
}
