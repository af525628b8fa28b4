//! A worker process, and the actor that it hosts: what the core worker does, around the real [`Calls`].
//!
//! The actor's state is the list of the calls that it has executed, and a number that depends on all of them in order.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use ray_rs_actors::durable::calls::{Calls, Commit, Effect, Event, Settings};
use ray_rs_actors::durable::{CallId, CallerState};
use ray_rs_gcs::stepped::{Outcome, Reply, Request};
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, WorkerId};

use super::messages::{Answer, LaneMsg, Proc, Push, ToProc, worker_id};
use super::options::Mutation;
use super::oracle::Journal;
use super::program::{ActorPlan, Program};
use crate::rng::{Rng, mixed};

/// A commit that failed is sent again after so long.
const COMMIT_PAUSE: Duration = Duration::from_millis(100);

/// What it may do to the world.
pub(crate) struct HostContext<'a> {
    pub now: Duration,
    pub program: &'a Program,
    pub journal: &'a mut Journal,
    pub rng: &'a mut Rng,
    pub mutation: Mutation,
    pub sent: Vec<(Proc, LaneMsg)>,
    pub asks: Vec<Request>,
    /// [`Host::resume`] is wanted after so long.
    pub resume: Option<Duration>,
    pub ends: bool,
}

/// What an actor is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub digest: u64,
    pub log: Vec<u64>,
}

impl State {
    /// One more call; what the state is then.
    pub fn apply(&mut self, uid: u64) -> u64 {
        self.digest = mixed(self.digest, uid);
        self.log.push(uid);
        self.digest
    }

    fn saved(&self) -> Bytes {
        self.log
            .iter()
            .flat_map(|uid| uid.to_le_bytes())
            .collect::<Vec<u8>>()
            .into()
    }

    fn restored(saved: &[u8]) -> Self {
        let mut state = Self::default();
        for uid in numbers(saved) {
            state.apply(uid);
        }
        state
    }
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    let (chunks, _) = bytes.as_chunks();
    chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}

fn packed(numbers: &[u64]) -> Bytes {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect::<Vec<u8>>()
        .into()
}

fn answer_from(bytes: &[u8]) -> Answer {
    let [position, digest, by] = numbers(bytes)[..] else {
        panic!("an answer is three numbers");
    };
    let by = by as Proc;
    Answer { position, digest, by }
}

fn answer_bytes(answer: Answer) -> Bytes {
    packed(&[answer.position, answer.digest, u64::from(answer.by)])
}

/// Where an answer goes.
type Address = (Proc, u64);

#[derive(Debug)]
struct Durable {
    calls: Calls,
    /// Answers that wait, with their positions.
    held: VecDeque<(u64, Address, Answer)>,
    outgoing: Option<v1::CommitCallsRequest>,
    /// The commit under way failed, and is sent again then.
    retry_at: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits to be told how it was.
    Fetching,
    /// Runs the constructor, or waits until its first state is stored.
    Constructing,
    Serving,
    /// Its constructor has raised.
    Broken,
}

#[derive(Debug)]
struct Hosting {
    actor: ActorId,
    plan: usize,
    incarnation: u32,
    phase: Phase,
    state: State,
    durable: Option<Durable>,
    /// The history is to be asked for again then.
    fetch_at: Option<Duration>,
    running: Option<(Proc, Push)>,
    queue: VecDeque<(Proc, Push)>,
    leaving: bool,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub who: Proc,
    pub node: usize,
    hosting: Option<Box<Hosting>>,
    /// What came before it was told what it is.
    early: VecDeque<(Proc, Push)>,
}

impl Host {
    pub fn new(who: Proc, node: usize) -> Self {
        Self {
            who,
            node,
            hosting: None,
            early: VecDeque::new(),
        }
    }

    /// Its actor's plan, incarnation, and state, once it takes calls.
    pub fn serves(&self) -> Option<(ActorId, u32, &State)> {
        let hosting = self
            .hosting
            .as_deref()
            .filter(|hosting| hosting.phase == Phase::Serving)?;
        Some((hosting.actor, hosting.incarnation, &hosting.state))
    }

    pub fn plan(&self) -> Option<usize> {
        self.hosting.as_ref().map(|hosting| hosting.plan)
    }

    /// Whether all its answers have left.
    pub fn is_settled(&self) -> bool {
        let Some(hosting) = &self.hosting else { return true };
        hosting.running.is_none()
            && hosting
                .durable
                .as_ref()
                .is_none_or(|durable| durable.calls.is_settled() && durable.held.is_empty())
    }

    pub fn told(&mut self, cx: &mut HostContext<'_>, message: ToProc) {
        match message {
            ToProc::StartActor {
                actor,
                plan,
                incarnation,
            } => self.start(cx, actor, plan, incarnation),
            ToProc::Exit { graceful } => match &mut self.hosting {
                Some(hosting) if graceful => {
                    hosting.leaving = true;
                    self.go_on(cx);
                }
                Some(_) | None => cx.ends = true,
            },
            ToProc::Update(_) => {}
        }
    }

    fn start(&mut self, cx: &mut HostContext<'_>, actor: ActorId, plan: usize, incarnation: u32) {
        let is_durable = cx.program.actors[plan].is_durable();
        self.hosting = Some(Box::new(Hosting {
            actor,
            plan,
            incarnation,
            phase: if is_durable {
                Phase::Fetching
            } else {
                Phase::Constructing
            },
            state: State::default(),
            durable: None,
            fetch_at: None,
            running: None,
            queue: std::mem::take(&mut self.early),
            leaving: false,
        }));
        if is_durable {
            self.fetch(cx);
        } else {
            cx.resume = Some(Duration::from_micros(100 + cx.rng.below(3000)));
        }
    }

    fn fetch(&mut self, cx: &mut HostContext<'_>) {
        let Some(hosting) = &mut self.hosting else { return };
        hosting.fetch_at = None;
        cx.asks.push(Request::GetCallLog(v1::GetCallLogRequest {
            actor_id: hosting.actor.0.to_vec(),
            incarnation: hosting.incarnation,
            from: 0,
            with_checkpoint: true,
        }));
    }

    /// The control store has answered.
    pub fn answered(&mut self, cx: &mut HostContext<'_>, request: &Request, outcome: Outcome) {
        match (request, outcome) {
            (Request::GetCallLog(_), Ok(Reply::GetCallLog(reply))) => self.fetched(cx, reply),
            (Request::GetCallLog(_), _) => {
                if let Some(hosting) = &mut self.hosting {
                    hosting.fetch_at = Some(cx.now + COMMIT_PAUSE);
                }
            }
            (Request::CommitCalls(_), Ok(Reply::CommitCalls(reply))) => self.commit_answered(cx, &reply.refused),
            (Request::CommitCalls(_), _) => {
                if let Some(durable) = self.hosting.as_mut().and_then(|hosting| hosting.durable.as_mut()) {
                    durable.retry_at = Some(cx.now + COMMIT_PAUSE);
                }
            }
            _ => {}
        }
    }

    fn fetched(&mut self, cx: &mut HostContext<'_>, reply: v1::GetCallLogReply) {
        let Some(hosting) = self.hosting.as_mut().filter(|hosting| hosting.phase == Phase::Fetching) else {
            return;
        };
        if !reply.refused.is_empty() && cx.mutation != Mutation::RefusalsAreIgnored {
            cx.ends = true;
            return;
        }
        assert_eq!(reply.next, 0, "a simulated history is one page");
        let plan = &cx.program.actors[hosting.plan];
        let settings = settings_of(plan);
        hosting.phase = Phase::Constructing;
        let from = reply.checkpoint.map(|checkpoint| {
            let read = v1::CallCheckpoint::decode(checkpoint.data).expect("what was stored is what is read");
            hosting.state = State::restored(&read.state);
            assert_eq!(
                hosting.state.log.len() as u64,
                checkpoint.position,
                "DUR-5: a checkpoint and its position"
            );
            (checkpoint.position, read.callers.into_iter().map(caller_from).collect())
        });
        let is_new = from.is_none();
        let mut calls = Calls::new(settings, cx.now, from);
        for record in reply.records {
            let [caller, number, uid, position, digest, by] = numbers(&record)[..] else {
                panic!("a record is six numbers");
            };
            let by = by as Proc;
            let caller = worker_id(caller as Proc);
            let answer = Answer { position, digest, by };
            assert_eq!(
                hosting.state.log.len() as u64,
                position,
                "DUR-3: a replayed call and its position"
            );
            assert_eq!(hosting.state.apply(uid), digest, "a replay gives another state");
            let event = Event::<Address>::Replayed {
                call: CallId { caller, number },
                record_bytes: record.len(),
                answer: answer_bytes(answer),
            };
            calls.on_event(cx.now, event, &mut Vec::new());
            calls.check_invariants();
        }
        cx.journal.restored(hosting.plan, &hosting.state.log);
        hosting.durable = Some(Durable {
            calls,
            held: VecDeque::new(),
            outgoing: None,
            retry_at: None,
        });
        if is_new {
            let state = hosting.state.saved();
            self.call_event(cx, Event::CheckpointTaken { state });
        } else {
            cx.resume = Some(Duration::from_micros(100 + cx.rng.below(3000)));
        }
    }

    /// What it computes is done.
    pub fn resume(&mut self, cx: &mut HostContext<'_>) {
        let Some(hosting) = &mut self.hosting else { return };
        match hosting.phase {
            Phase::Fetching | Phase::Broken => {}
            Phase::Constructing => self.constructed(cx),
            Phase::Serving => {
                if let Some((from, push)) = hosting.running.take() {
                    self.executed(cx, from, push);
                }
                self.go_on(cx);
            }
        }
    }

    fn constructed(&mut self, cx: &mut HostContext<'_>) {
        let Some(hosting) = &mut self.hosting else { return };
        let is_broken = cx.program.actors[hosting.plan].broken;
        hosting.phase = if is_broken { Phase::Broken } else { Phase::Serving };
        cx.asks.push(Request::ReportActorStarted(v1::ReportActorStartedRequest {
            actor_id: hosting.actor.0.to_vec(),
            incarnation: hosting.incarnation,
            message: if is_broken {
                "it raised".to_owned()
            } else {
                String::new()
            },
            ..v1::ReportActorStartedRequest::default()
        }));
        self.go_on(cx);
    }

    pub fn received(&mut self, cx: &mut HostContext<'_>, from: Proc, message: LaneMsg) {
        match message {
            LaneMsg::Push(push) => match &mut self.hosting {
                Some(hosting) => {
                    hosting.queue.push_back((from, push));
                    self.go_on(cx);
                }
                None => self.early.push_back((from, push)),
            },
            LaneMsg::Acknowledged { upto } => {
                let caller = worker_id(from);
                self.call_event(cx, Event::Acknowledged { caller, upto });
            }
            LaneMsg::Reply { .. } | LaneMsg::Undone { .. } | LaneMsg::NotRun { .. } => {
                unreachable!("nobody answers a host")
            }
        }
    }

    /// Takes the next call in, if it can.
    fn go_on(&mut self, cx: &mut HostContext<'_>) {
        loop {
            let Some(hosting) = &mut self.hosting else { return };
            if hosting.running.is_some() || cx.ends {
                return;
            }
            let wants_checkpoint = |durable: &Durable| durable.calls.wants_checkpoint();
            if hosting.phase == Phase::Serving && hosting.durable.as_ref().is_some_and(wants_checkpoint) {
                self.take_checkpoint(cx);
                continue;
            }
            if hosting.leaving {
                cx.sent.extend(
                    hosting
                        .queue
                        .drain(..)
                        .map(|(from, push)| (from, LaneMsg::NotRun { seq: push.seq })),
                );
                let settled = |durable: &Durable| durable.calls.is_settled() || durable.calls.has_ended();
                cx.ends |= hosting.durable.as_ref().is_none_or(settled);
                return;
            }
            if hosting.phase != Phase::Serving {
                return;
            }
            if hosting
                .durable
                .as_ref()
                .is_some_and(|durable| !durable.calls.has_room())
            {
                return;
            }
            let Some((from, push)) = hosting.queue.pop_front() else {
                return;
            };
            if self.may_run(cx, from, push) {
                let hosting = self.hosting.as_mut().expect("as above");
                hosting.running = Some((from, push));
                cx.journal.begun(cx.now, hosting.plan, push.uid, self.node);
                cx.resume = Some(Duration::from_micros(1 + push.work));
                return;
            }
        }
    }

    fn may_run(&mut self, cx: &mut HostContext<'_>, from: Proc, push: Push) -> bool {
        let Some(durable) = self.hosting.as_mut().and_then(|hosting| hosting.durable.as_mut()) else {
            return true;
        };
        let call = CallId {
            caller: worker_id(from),
            number: push.number,
        };
        let event = Event::Arrived {
            call,
            acknowledged: push.acknowledged,
            to: (from, push.seq),
        };
        let mut effects = Vec::new();
        durable.calls.on_event(cx.now, event, &mut effects);
        durable.calls.check_invariants();
        let runs = effects.contains(&Effect::Run { call });
        if !runs && cx.mutation == Mutation::CallsRunAgain {
            self.hosting.as_mut().expect("it is hosted").state.apply(push.uid);
        }
        self.perform(cx, effects);
        runs
    }

    fn take_checkpoint(&mut self, cx: &mut HostContext<'_>) {
        let Some(hosting) = &mut self.hosting else { return };
        let fails = cx.rng.chance(cx.program.actors[hosting.plan].failing_checkpoints);
        let state = hosting.state.saved();
        let event = if fails {
            Event::CheckpointFailed
        } else {
            Event::CheckpointTaken { state }
        };
        self.call_event(cx, event);
        let durable = self.hosting.as_ref().and_then(|hosting| hosting.durable.as_ref());
        cx.ends |= durable.is_some_and(|durable| durable.calls.has_ended());
    }

    fn executed(&mut self, cx: &mut HostContext<'_>, from: Proc, push: Push) {
        let Some(hosting) = &mut self.hosting else { return };
        let position = hosting.state.log.len() as u64;
        let digest = hosting.state.apply(push.uid);
        let by = self.who;
        let answer = Answer { position, digest, by };
        let Some(durable) = &mut hosting.durable else {
            cx.journal.executed(hosting.plan, by, push.uid);
            cx.sent.push((from, LaneMsg::Reply { seq: push.seq, answer }));
            return;
        };
        if cx.mutation == Mutation::AnswersLeaveEarly {
            cx.sent.push((from, LaneMsg::Reply { seq: push.seq, answer }));
        }
        durable.held.push_back((position, (from, push.seq), answer));
        let record = match durable.calls.records() {
            true => packed(&[u64::from(from), push.number, push.uid, position, digest, u64::from(by)]),
            false => Bytes::new(),
        };
        let call = CallId {
            caller: worker_id(from),
            number: push.number,
        };
        let answer = answer_bytes(answer);
        self.call_event(cx, Event::Executed { call, record, answer });
    }

    fn call_event(&mut self, cx: &mut HostContext<'_>, event: Event<Address>) {
        let Some(durable) = self.hosting.as_mut().and_then(|hosting| hosting.durable.as_mut()) else {
            return;
        };
        let mut effects = Vec::new();
        durable.calls.on_event(cx.now, event, &mut effects);
        durable.calls.check_invariants();
        self.perform(cx, effects);
    }

    fn perform(&mut self, cx: &mut HostContext<'_>, effects: Vec<Effect<Address>>) {
        for effect in effects {
            let Some(hosting) = &mut self.hosting else { return };
            let Some(durable) = &mut hosting.durable else { return };
            match effect {
                // Whoever asks whether it runs looks for this one.
                Effect::Run { .. } | Effect::Drop { .. } => {}
                Effect::Answer { to: (who, seq), answer } => {
                    let answer = answer_from(&answer);
                    cx.sent.push((who, LaneMsg::Reply { seq, answer }));
                }
                Effect::Readdress { position, to } => {
                    let held = durable.held.iter_mut().find(|held| held.0 == position);
                    held.expect("it is held").1 = to;
                }
                Effect::Commit(commit) => self.send_commit(cx, commit),
                Effect::Release { position } => {
                    let (at, (who, seq), answer) = durable.held.pop_front().expect("DUR-1: it is held");
                    assert_eq!(at, position, "DUR-1: answers leave in the order of calls");
                    cx.journal
                        .released(hosting.plan, position, hosting.state.log[position as usize]);
                    if cx.mutation != Mutation::AnswersLeaveEarly {
                        cx.sent.push((who, LaneMsg::Reply { seq, answer }));
                    }
                }
                Effect::Undo { position } => {
                    let held = durable.held.iter().find(|held| held.0 == position);
                    let (_, (who, seq), _) = *held.expect("it is held");
                    cx.sent.push((who, LaneMsg::Undone { seq }));
                    cx.ends = true;
                }
            }
        }
    }

    fn send_commit(&mut self, cx: &mut HostContext<'_>, commit: Commit) {
        let Some(hosting) = &mut self.hosting else { return };
        if cx.mutation == Mutation::CommitsAreTakenForStored && hosting.phase == Phase::Serving {
            return self.call_event(cx, Event::Committed);
        }
        let forgets = cx.mutation == Mutation::CheckpointsForgetAnswers;
        let request = v1::CommitCallsRequest {
            actor_id: hosting.actor.0.to_vec(),
            incarnation: hosting.incarnation,
            first: commit.first,
            records: commit.records,
            checkpoint: commit.checkpoint.map(|checkpoint| {
                let callers = checkpoint
                    .callers
                    .into_iter()
                    .map(|known| caller_record(known, forgets));
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
        if let Some(durable) = &mut hosting.durable {
            durable.outgoing = Some(request.clone());
            cx.asks.push(Request::CommitCalls(request));
        }
    }

    fn commit_answered(&mut self, cx: &mut HostContext<'_>, refused: &str) {
        let Some(hosting) = &mut self.hosting else { return };
        let Some(durable) = &mut hosting.durable else { return };
        durable.outgoing = None;
        if refused.is_empty() || cx.mutation == Mutation::RefusalsAreIgnored {
            let is_first = hosting.phase == Phase::Constructing;
            self.call_event(cx, Event::Committed);
            if is_first {
                return self.constructed(cx);
            }
        } else {
            self.call_event(cx, Event::Refused);
            cx.ends = true;
        }
        self.go_on(cx);
    }

    /// When [`Self::tick`] is wanted.
    pub fn next_deadline(&self) -> Option<Duration> {
        let hosting = self.hosting.as_ref()?;
        let durable = hosting.durable.as_ref();
        let of_calls = durable.and_then(|durable| durable.calls.next_deadline());
        let retry = durable.and_then(|durable| durable.retry_at);
        [hosting.fetch_at, retry, of_calls].into_iter().flatten().min()
    }

    /// Something is due.
    pub fn tick(&mut self, cx: &mut HostContext<'_>) {
        let Some(hosting) = &mut self.hosting else { return };
        if hosting.fetch_at.is_some_and(|at| at <= cx.now) {
            self.fetch(cx);
        }
        let hosting = self.hosting.as_mut().expect("as above");
        let Some(durable) = &mut hosting.durable else { return };
        if durable.retry_at.is_some_and(|at| at <= cx.now) {
            durable.retry_at = None;
            cx.asks.extend(durable.outgoing.clone().map(Request::CommitCalls));
        }
        if durable.calls.next_deadline().is_some_and(|at| at <= cx.now) {
            self.call_event(cx, Event::Tick);
        }
        self.go_on(cx);
    }
}

fn settings_of(plan: &ActorPlan) -> Settings {
    let interval = (plan.checkpoint_interval_ms > 0).then(|| Duration::from_millis(plan.checkpoint_interval_ms));
    Settings {
        every: plan.checkpoint_every,
        interval,
    }
}

fn caller_record(known: CallerState, forgets_answers: bool) -> v1::CallerRecord {
    let answers = known.answers.into_iter().filter(|_| !forgets_answers);
    v1::CallerRecord {
        caller: known.caller.0.to_vec(),
        last: known.last,
        answers: answers
            .map(|(number, reply)| v1::AnswerRecord { number, reply })
            .collect(),
    }
}

fn caller_from(record: v1::CallerRecord) -> CallerState {
    CallerState {
        caller: WorkerId::from_bytes(&record.caller).expect("an id was stored"),
        last: record.last,
        answers: record
            .answers
            .into_iter()
            .map(|answer| (answer.number, answer.reply))
            .collect(),
    }
}
