//! A driver: runs its part of the program, and does what the core worker does for a caller, around the real [`CallOrder`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ray_rs_actors::call_order::{self, CallKey, CallOrder, Config, Effect, Event, Why};
use ray_rs_actors::durable::numbers::CallNumbers;
use ray_rs_gcs::stepped::{Outcome, Reply, Request};
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, JobId, ResourceSet};

use super::messages::{LaneMsg, Proc, Push, actor_id, address, plan_of, proc_of, worker_id};
use super::options::Mutation;
use super::oracle::{End, Journal};
use super::program::{Op, Program};

const NAMESPACE: &str = "world";
/// A name that nobody has is asked for so often before the driver does without.
const LOOKS: u32 = 100;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct DriverContext<'a> {
    pub now: Duration,
    pub program: &'a Program,
    pub journal: &'a mut Journal,
    pub mutation: Mutation,
    pub sent: Vec<(Proc, LaneMsg)>,
    pub asks: Vec<Request>,
    /// Actors to follow, and whether they are about to be registered.
    pub follows: Vec<(ActorId, bool)>,
    /// [`Driver::step`] is wanted after so long.
    pub resume: Option<Duration>,
    /// It has a job now.
    pub job: Option<JobId>,
}

#[derive(Debug)]
struct Call {
    uid: u64,
    work: u64,
    /// Its number, once it was sent to a durable actor.
    number: u64,
    tries: u32,
}

#[derive(Debug)]
struct Target {
    actor: ActorId,
    order: CallOrder,
    numbers: CallNumbers,
    lane: Option<Proc>,
    next_seq: u64,
    /// Calls that were sent to the process at the lane's end.
    sent: BTreeMap<u64, u32>,
    calls: BTreeMap<u32, Call>,
    next_key: u32,
    /// Its registration is not answered: what waits for that.
    registration: Option<Vec<Request>>,
    /// Nobody here uses it any more, once its calls have ended.
    dropped: bool,
    told_dropped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Nothing,
    /// For its job.
    Job,
    /// For an answer of the control store.
    Answer,
    /// For all its calls.
    Calls,
    /// For a time.
    Time,
}

#[derive(Debug)]
pub(crate) struct Driver {
    pub who: Proc,
    pub node: usize,
    index: usize,
    job: Option<JobId>,
    next: usize,
    waits: Waits,
    looks: u32,
    look_began: Duration,
    /// Names that nobody had.
    unknown: BTreeSet<usize>,
    targets: BTreeMap<usize, Target>,
    /// What may be kept under each key.
    kept: BTreeMap<u8, BTreeSet<Option<u64>>>,
    calls_made: u64,
}

impl Driver {
    pub fn new(who: Proc, node: usize, index: usize) -> Self {
        Self {
            who,
            node,
            index,
            job: None,
            next: 0,
            waits: Waits::Job,
            looks: 0,
            look_began: Duration::ZERO,
            unknown: BTreeSet::new(),
            targets: BTreeMap::new(),
            kept: BTreeMap::new(),
            calls_made: 0,
        }
    }

    pub fn start(&mut self, cx: &mut DriverContext<'_>) {
        cx.asks.push(Request::RegisterJob(v1::RegisterJobRequest {
            driver: Some((&address(self.who, self.node)).into()),
            namespace: NAMESPACE.to_owned(),
            ..v1::RegisterJobRequest::default()
        }));
    }

    pub fn index(&self) -> usize {
        self.index
    }

    pub fn is_done(&self, program: &Program) -> bool {
        self.next >= program.drivers[self.index].len() && self.waits == Waits::Nothing && self.open_calls() == 0
    }

    fn open_calls(&self) -> usize {
        self.targets.values().map(|target| target.calls.len()).sum()
    }

    /// What it is about, for people.
    pub fn explain(&self, program: &Program) -> String {
        let mut text = format!(
            "driver {} waits for {:?} before step {}",
            self.who, self.waits, self.next
        );
        if let Some(op) = program.drivers[self.index].get(self.next.saturating_sub(1)) {
            text += &format!(" ({op:?})");
        }
        for (plan, target) in &self.targets {
            text += &format!(
                "\n  actor {plan}: {:?}, lane to {:?}",
                target.order.connection(),
                target.lane
            );
            for (key, call) in &target.calls {
                text += &format!("\n    call {}: {:?}", call.uid, target.order.place(CallKey(*key)));
            }
        }
        text + "\n"
    }

    /// Goes on with the program, as far as it can.
    pub fn step(&mut self, cx: &mut DriverContext<'_>) {
        if self.waits == Waits::Time {
            self.waits = Waits::Nothing;
        }
        loop {
            if self.waits == Waits::Calls && self.open_calls() == 0 {
                self.waits = Waits::Nothing;
            }
            if self.waits != Waits::Nothing {
                return;
            }
            let Some(op) = cx.program.drivers[self.index].get(self.next) else {
                return;
            };
            if self.perform(cx, &op.clone()) {
                self.next += 1;
            }
        }
    }

    /// Whether the step is behind it, but for what it waits for.
    fn perform(&mut self, cx: &mut DriverContext<'_>, op: &Op) -> bool {
        match *op {
            Op::Create(plan) => self.create(cx, plan),
            Op::Call { actor, work } => {
                if !self.knows(cx, actor) {
                    return self.unknown.contains(&actor);
                }
                if !self.targets[&actor].dropped {
                    self.call(cx, actor, work);
                }
            }
            Op::Wait => self.waits = Waits::Calls,
            Op::Work(micros) => {
                self.waits = Waits::Time;
                cx.resume = Some(Duration::from_micros(micros));
            }
            Op::Kill { actor, no_restart } => {
                if !self.knows(cx, actor) {
                    return self.unknown.contains(&actor);
                }
                let request = v1::KillActorRequest {
                    actor_id: self.targets[&actor].actor.0.to_vec(),
                    no_restart,
                };
                cx.journal.kill_asked(actor, no_restart);
                self.ask_once_registered(cx, actor, Request::KillActor(request));
            }
            Op::Drop(plan) => {
                if let Some(target) = self.targets.get_mut(&plan)
                    && !cx.program.actors[plan].detached
                {
                    target.dropped = true;
                    self.tell_dropped(cx, plan);
                }
            }
            Op::Put { key, value } => {
                self.waits = Waits::Answer;
                cx.asks.push(Request::KvPut(v1::KvPutRequest {
                    namespace: NAMESPACE.to_owned(),
                    key: vec![self.index as u8, key],
                    value: value.to_le_bytes().to_vec(),
                    overwrite: true,
                }));
            }
            Op::Get { key } => {
                self.waits = Waits::Answer;
                cx.asks.push(Request::KvGet(v1::KvGetRequest {
                    namespace: NAMESPACE.to_owned(),
                    key: vec![self.index as u8, key],
                }));
            }
        }
        true
    }

    /// Whether it has the actor's id; if not, it asks for that by the actor's name.
    fn knows(&mut self, cx: &mut DriverContext<'_>, plan: usize) -> bool {
        if self.targets.contains_key(&plan) {
            return true;
        }
        let is_own = cx.program.actors[plan].creator == self.index;
        if is_own || !cx.program.actors[plan].named || self.looks >= LOOKS {
            self.looks = 0;
            self.unknown.insert(plan);
        }
        if !self.unknown.contains(&plan) {
            self.waits = Waits::Answer;
            self.look_began = cx.now;
            cx.asks.push(Request::GetActor(v1::GetActorRequest {
                name: plan.to_string(),
                namespace: NAMESPACE.to_owned(),
                ..v1::GetActorRequest::default()
            }));
        }
        false
    }

    fn create(&mut self, cx: &mut DriverContext<'_>, plan: usize) {
        let job = self.job.expect("it waited for that");
        let facts = &cx.program.actors[plan];
        let actor = actor_id(plan, job);
        let one = ResourceSet::new().with("CPU", 1.0);
        let spec = v1::ActorSpec {
            actor_id: actor.0.to_vec(),
            job_id: job.0.to_vec(),
            class_id: vec![7; 28],
            class_name: format!("Actor{plan}"),
            args: Some(v1::Value::default()),
            placement_resources: Some((&one).into()),
            max_restarts: facts.max_restarts,
            max_task_retries: facts.max_task_retries,
            detached: facts.detached,
            name: if facts.named { plan.to_string() } else { String::new() },
            namespace: NAMESPACE.to_owned(),
            owner: Some((&address(self.who, self.node)).into()),
            durability: facts.is_durable().then_some(v1::Durability {
                checkpoint_every: facts.checkpoint_every,
                checkpoint_interval_ms: facts.checkpoint_interval_ms,
            }),
            ..v1::ActorSpec::default()
        };
        cx.journal.creation_begins(plan, actor);
        self.add_target(cx, plan, actor, Some(Vec::new()));
        if !facts.named {
            cx.follows.push((actor, true));
        }
        let spec = Some(spec);
        let get_if_exists = false;
        cx.asks.push(Request::RegisterActor(Box::new(v1::RegisterActorRequest {
            spec,
            get_if_exists,
        })));
    }

    fn add_target(&mut self, cx: &DriverContext<'_>, plan: usize, actor: ActorId, registration: Option<Vec<Request>>) {
        let config = Config {
            max_pending: None,
            max_task_retries: cx.program.actors[plan].max_task_retries,
            out_of_order: false,
        };
        self.targets.insert(
            plan,
            Target {
                actor,
                order: CallOrder::new(config),
                numbers: CallNumbers::default(),
                lane: None,
                next_seq: 1,
                sent: BTreeMap::new(),
                calls: BTreeMap::new(),
                next_key: 0,
                registration,
                dropped: false,
                told_dropped: false,
            },
        );
    }

    fn ask_once_registered(&mut self, cx: &mut DriverContext<'_>, plan: usize, request: Request) {
        match self
            .targets
            .get_mut(&plan)
            .and_then(|target| target.registration.as_mut())
        {
            Some(then) => then.push(request),
            None => cx.asks.push(request),
        }
    }

    // ---- calls --------------------------------------------------------------------------------------------------------

    fn call(&mut self, cx: &mut DriverContext<'_>, plan: usize, work: u64) {
        self.calls_made += 1;
        let uid = u64::from(self.who) << 32 | self.calls_made;
        let facts = &cx.program.actors[plan];
        let retries = if facts.is_durable() {
            -1
        } else {
            call_order::ACTORS_RETRIES
        };
        let target = self.targets.get_mut(&plan).expect("looked at before");
        let key = target.next_key;
        target.next_key += 1;
        let call = Call {
            uid,
            work,
            number: 0,
            tries: 0,
        };
        target.calls.insert(key, call);
        let most = if facts.is_durable() { -1 } else { facts.max_task_retries };
        cx.journal.submitted(cx.now, plan, uid, self.who, most);
        let event = Event::CallSubmitted {
            call: CallKey(key),
            ready: true,
            retries,
        };
        self.order_event(cx, plan, event);
    }

    fn order_event(&mut self, cx: &mut DriverContext<'_>, plan: usize, event: Event) {
        let Some(target) = self.targets.get_mut(&plan) else {
            return;
        };
        let mut effects = Vec::new();
        target.order.on_event(event, &mut effects);
        target.order.check_invariants();
        for effect in effects {
            match effect {
                Effect::Send { call } => self.send(cx, plan, call.0),
                // `CallOrder` counts by itself.
                Effect::TryLost { .. } => {}
                Effect::Fail { call, why } => {
                    let end = match why {
                        Why::Unavailable => End::Unavailable,
                        Why::Died => End::Died,
                    };
                    self.ended(cx, plan, call.0, end);
                }
            }
        }
    }

    fn send(&mut self, cx: &mut DriverContext<'_>, plan: usize, key: u32) {
        let target = self.targets.get_mut(&plan).expect("whose effect this is");
        let Some(lane) = target.lane else { return };
        let call = target.calls.get_mut(&key).expect("it has not ended");
        call.tries += 1;
        if call.tries > 1 && cx.mutation == Mutation::CallsAreNotSentAgain {
            return;
        }
        if cx.program.actors[plan].is_durable() && call.number == 0 {
            call.number = target.numbers.open();
        }
        let push = Push {
            uid: call.uid,
            seq: target.next_seq,
            work: call.work,
            number: call.number,
            acknowledged: target.numbers.acknowledged(),
        };
        target.sent.insert(target.next_seq, key);
        target.next_seq += 1;
        cx.sent.push((lane, LaneMsg::Push(push)));
    }

    fn ended(&mut self, cx: &mut DriverContext<'_>, plan: usize, key: u32, end: End) {
        let target = self.targets.get_mut(&plan).expect("whose call it is");
        let Some(call) = target.calls.remove(&key) else { return };
        target.sent.retain(|_, other| *other != key);
        cx.journal.ended(cx.now, call.uid, end);
        if call.number > 0
            && let Some(upto) = target.numbers.close(call.number)
            && let Some(lane) = target.lane
        {
            cx.sent.push((lane, LaneMsg::Acknowledged { upto }));
        }
        self.tell_dropped(cx, plan);
    }

    /// When nothing is left of what it had to do with the actor.
    fn tell_dropped(&mut self, cx: &mut DriverContext<'_>, plan: usize) {
        let Some(target) = self.targets.get_mut(&plan) else {
            return;
        };
        if target.dropped && target.calls.is_empty() && !std::mem::replace(&mut target.told_dropped, true) {
            let actor_id = target.actor.0.to_vec();
            cx.journal.dropped(plan);
            self.ask_once_registered(
                cx,
                plan,
                Request::ActorOutOfScope(v1::ActorOutOfScopeRequest { actor_id }),
            );
        }
    }

    pub fn received(&mut self, cx: &mut DriverContext<'_>, from: Proc, message: LaneMsg) {
        let (seq, end) = match message {
            LaneMsg::Reply { seq, answer } => (seq, Some(End::Answered(answer))),
            LaneMsg::Undone { seq } => (seq, Some(End::Undone)),
            LaneMsg::NotRun { seq } => (seq, None),
            LaneMsg::Push(_) | LaneMsg::Acknowledged { .. } => unreachable!("nobody calls a driver"),
        };
        let mut targets = self.targets.iter_mut().filter(|(_, target)| target.lane == Some(from));
        let Some((plan, key)) = targets.find_map(|(plan, target)| Some((*plan, target.sent.remove(&seq)?))) else {
            return;
        };
        match end {
            Some(end) => {
                self.ended(cx, plan, key, end);
                self.order_event(cx, plan, Event::CallReplied { call: CallKey(key) });
            }
            None => self.order_event(cx, plan, Event::CallNotRun { call: CallKey(key) }),
        }
        self.step(cx);
    }

    pub fn updated(&mut self, cx: &mut DriverContext<'_>, update: &v1::ActorUpdate) {
        let Ok(actor) = ActorId::from_bytes(&update.actor_id) else {
            return;
        };
        let plan = plan_of(actor);
        let Some(target) = self.targets.get_mut(&plan).filter(|target| target.actor == actor) else {
            return;
        };
        match update.state {
            1 | 2 => {
                let Some(worker) = update.worker.as_ref().and_then(|worker| proc_of(&worker.worker_id)) else {
                    return;
                };
                if target.lane != Some(worker) {
                    target.sent.clear();
                }
                target.lane = Some(worker);
                let incarnation = update.incarnation;
                let event = Event::Placed {
                    incarnation,
                    worker: worker_id(worker),
                };
                self.order_event(cx, plan, event);
            }
            3 | 4 => {
                target.lane = None;
                target.sent.clear();
                let event = if update.state == 3 {
                    Event::Restarting
                } else {
                    Event::Dead
                };
                self.order_event(cx, plan, event);
            }
            _ => {}
        }
        self.step(cx);
    }

    // ---- the control store's answers -------------------------------------------------------------------------------------

    pub fn answered(&mut self, cx: &mut DriverContext<'_>, request: &Request, outcome: Outcome) {
        match (request, outcome) {
            (Request::RegisterJob(_), Ok(Reply::RegisterJob(reply))) => {
                let job = JobId::from_bytes(&reply.job_id).expect("a job has an id");
                self.job = Some(job);
                cx.job = Some(job);
                self.waits = Waits::Nothing;
            }
            // The disk: a user would start the program again.
            (Request::RegisterJob(_), _) => self.start(cx),
            (Request::RegisterActor(request), outcome) => {
                let id = request
                    .spec
                    .as_ref()
                    .map(|spec| spec.actor_id.clone())
                    .unwrap_or_default();
                self.registered(cx, &id, outcome.is_ok());
            }
            (Request::GetActor(_), outcome) => {
                self.waits = Waits::Nothing;
                self.looked(cx, outcome);
            }
            (Request::KillActor(request), Ok(_)) => {
                let actor = ActorId::from_bytes(&request.actor_id).expect("it was made here");
                cx.journal.killed(plan_of(actor), request.no_restart);
            }
            (Request::KvPut(request), outcome) => {
                self.waits = Waits::Nothing;
                let value = u64::from_le_bytes(request.value[..].try_into().expect("it was made here"));
                let kept = self
                    .kept
                    .entry(request.key[1])
                    .or_insert_with(|| BTreeSet::from([None]));
                if outcome.is_ok() {
                    kept.clear();
                }
                kept.insert(Some(value));
            }
            (Request::KvGet(request), outcome) => {
                self.waits = Waits::Nothing;
                let Ok(Reply::KvGet(reply)) = outcome else {
                    return self.step(cx);
                };
                let found = reply
                    .found
                    .then(|| u64::from_le_bytes(reply.value[..].try_into().expect("eight bytes")));
                let kept = self
                    .kept
                    .entry(request.key[1])
                    .or_insert_with(|| BTreeSet::from([None]));
                cx.journal.check(kept.contains(&found), || {
                    format!(
                        "what was acknowledged is forgotten: key {} has {found:?}, not {kept:?}",
                        request.key[1]
                    )
                });
            }
            _ => {}
        }
        self.step(cx);
    }

    fn registered(&mut self, cx: &mut DriverContext<'_>, id: &[u8], is_ok: bool) {
        let Ok(actor) = ActorId::from_bytes(id) else { return };
        let plan = plan_of(actor);
        let Some(target) = self.targets.get_mut(&plan) else {
            return;
        };
        let then = target.registration.take().unwrap_or_default();
        cx.journal.registered(cx.now, plan, is_ok);
        if !is_ok {
            return self.order_event(cx, plan, Event::Dead);
        }
        if cx.program.actors[plan].named {
            cx.follows.push((actor, false));
        }
        cx.asks.extend(then);
    }

    fn looked(&mut self, cx: &mut DriverContext<'_>, outcome: Outcome) {
        let (Op::Call { actor: plan, .. } | Op::Kill { actor: plan, .. }) = cx.program.drivers[self.index][self.next]
        else {
            unreachable!("only these ask for a name");
        };
        let Ok(Reply::GetActor(reply)) = outcome else { return };
        match reply.actor.and_then(|info| info.spec) {
            Some(spec) => {
                self.looks = 0;
                let actor = ActorId::from_bytes(&spec.actor_id).expect("an actor has an id");
                self.add_target(cx, plan, actor, None);
                cx.follows.push((actor, false));
            }
            None => {
                cx.journal.not_found(cx.program, plan, self.look_began);
                self.looks += 1;
                self.waits = Waits::Time;
                cx.resume = Some(LOOK_PAUSE);
            }
        }
    }
}
