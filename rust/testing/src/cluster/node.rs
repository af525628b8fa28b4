//! A node: its raylet does what `ray_rs_raylet` does about actors, with the real local scheduler and the real tenure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ray_rs_proto::v1::{self, node_command::Body as Command, node_report::Body as Report};
use ray_rs_scheduler::liveness::{Order as TenureOrder, Tenure, pause_of, tenure_of};
use ray_rs_scheduler::{
    ActorDemand, ClientKey, Effect, EnvKey, Event, JobKey, Options as SchedulerOptions, PoolKey, Scheduler,
    StartFailure, StopReason, WorkerKey,
};
use ray_rs_types::{ActorId, JobId, ResourceSet};

use super::messages::{Proc, ToProc, address, node_id, plan_of, proc_of, worker_id};
use super::options::Mutation;

/// All jobs share their workers here.
const JOB: JobKey = JobKey(1);
const POOL: PoolKey = PoolKey {
    job: JOB,
    env: EnvKey::JOB,
};
const PLACED: u32 = 1;
const ALIVE: u32 = 2;
const DEAD: u32 = 4;
const CPUS: f64 = 4.0;

/// What is to happen outside.
#[derive(Debug)]
pub(crate) enum Order {
    Tell(Proc, ToProc),
    StartWorker,
    Kill(Proc),
    /// Asks the control store how an actor is.
    LookUp(ActorId),
}

#[derive(Debug)]
struct Hosted {
    incarnation: u32,
    detached: bool,
    worker: Option<Proc>,
    is_alive: bool,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Followed {
    clients: Vec<Proc>,
    last: Option<v1::ActorUpdate>,
}

#[derive(Debug, Default)]
struct Worker {
    actor: Option<(ActorId, u32)>,
    is_scheduled: bool,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub index: usize,
    pub is_up: bool,
    /// The control store has let it in, at least once.
    pub was_accepted: bool,
    /// The open channel to the control store.
    pub channel: Option<u64>,
    /// When it asked to be let in.
    pub asked_to_join: Duration,
    /// What waits for a channel.
    pub reports: VecDeque<v1::NodeReport>,
    pub scheduler: Scheduler,
    pub tenure: Tenure,
    pub asks_each: Option<Duration>,
    /// Until then its processes stand still.
    pub frozen_until: Duration,
    /// Until then nothing gets to it or from it.
    pub cut_until: Duration,
    hosted: BTreeMap<ActorId, Hosted>,
    followed: BTreeMap<ActorId, Followed>,
    workers: BTreeMap<Proc, Worker>,
    drivers: BTreeMap<Proc, Option<JobId>>,
    pub orders: Vec<Order>,
    mutation: Mutation,
}

impl Node {
    pub fn new(index: usize, mutation: Mutation) -> Self {
        let mut scheduler = Scheduler::new(ResourceSet::new().with("CPU", CPUS), SchedulerOptions::default());
        let mut effects = Vec::new();
        scheduler.on_event(Duration::ZERO, Event::JobStarted { job: JOB }, &mut effects);
        let mut node = Self {
            index,
            is_up: true,
            was_accepted: false,
            channel: None,
            asked_to_join: Duration::ZERO,
            reports: VecDeque::new(),
            scheduler,
            tenure: Tenure::default(),
            asks_each: None,
            frozen_until: Duration::ZERO,
            cut_until: Duration::ZERO,
            hosted: BTreeMap::new(),
            followed: BTreeMap::new(),
            workers: BTreeMap::new(),
            drivers: BTreeMap::new(),
            orders: Vec::new(),
            mutation,
        };
        node.perform(effects);
        node
    }

    pub fn info(&self) -> v1::NodeInfo {
        let total = ResourceSet::new().with("CPU", CPUS);
        v1::NodeInfo {
            node_id: node_id(self.index).0.to_vec(),
            address: format!("10.0.0.{}", self.index + 1),
            raylet_address: format!("10.0.0.{}:1", self.index + 1),
            total: Some((&total).into()),
            available: Some((&total).into()),
            is_head: self.index == 0,
            incarnation: self.index as u64 + 1,
            ..v1::NodeInfo::default()
        }
    }

    fn report(&mut self, body: Report) {
        self.reports.push_back(v1::NodeReport { body: Some(body) });
    }

    // ---- processes ---------------------------------------------------------------------------------------------------

    pub fn driver_joined(&mut self, now: Duration, who: Proc) {
        self.drivers.insert(who, None);
        self.decide(
            now,
            Event::ClientJoined {
                client: client(who),
                job: JOB,
            },
        );
    }

    pub fn job_began(&mut self, who: Proc, job: JobId) {
        self.drivers.insert(who, Some(job));
    }

    pub fn worker_started(&mut self, now: Duration, who: Proc) {
        self.workers.insert(
            who,
            Worker {
                actor: None,
                is_scheduled: true,
            },
        );
        self.decide(
            now,
            Event::ClientJoined {
                client: client(who),
                job: JOB,
            },
        );
        let (worker, client) = (worker(who), client(who));
        self.decide(
            now,
            Event::WorkerStarted {
                worker,
                client,
                pool: POOL,
            },
        );
    }

    pub fn worker_start_failed(&mut self, now: Duration) {
        let reason = "it did not start".to_owned();
        let how = StartFailure::Failed;
        self.decide(
            now,
            Event::WorkerStartFailed {
                pool: POOL,
                reason,
                how,
            },
        );
    }

    /// The actor that a worker hosts.
    pub fn actor_of(&self, who: Proc) -> Option<ActorId> {
        self.workers
            .get(&who)
            .and_then(|worker| worker.actor)
            .map(|(actor, _)| actor)
    }

    pub fn workers(&self) -> impl Iterator<Item = Proc> {
        self.workers.keys().copied()
    }

    pub fn drivers(&self) -> impl Iterator<Item = Proc> {
        self.drivers.keys().copied()
    }

    /// A process of the node has ended.
    pub fn process_ended(&mut self, now: Duration, who: Proc) {
        self.unschedule(now, who);
        self.decide(now, Event::ClientGone { client: client(who) });
        self.followed.retain(|_, followed| {
            followed.clients.retain(|client| *client != who);
            !followed.clients.is_empty()
        });
        let mut driver_job_id = Vec::new();
        if let Some(job) = self.drivers.remove(&who) {
            let Some(job) = job else { return };
            self.end_job(now, job);
            driver_job_id = job.0.to_vec();
        } else if let Some(worker) = self.workers.remove(&who) {
            if let Some((actor, _)) = worker.actor {
                self.worker_gone(actor, who);
            }
        } else {
            return;
        }
        self.report(Report::WorkerDied(v1::NodeWorkerDied {
            worker_id: worker_id(who).0.to_vec(),
            driver_job_id,
            report: None,
        }));
    }

    fn unschedule(&mut self, now: Duration, who: Proc) {
        if let Some(entry) = self.workers.get_mut(&who)
            && std::mem::take(&mut entry.is_scheduled)
        {
            self.decide(now, Event::WorkerDied { worker: worker(who) });
        }
    }

    fn worker_gone(&mut self, actor: ActorId, who: Proc) {
        if self.hosted.get(&actor).is_some_and(|hosted| hosted.worker == Some(who)) {
            self.hosted.remove(&actor);
        }
    }

    fn end_job(&mut self, now: Duration, job: JobId) {
        let ends = |(actor, hosted): (&ActorId, &Hosted)| (actor.job_id() == job && !hosted.detached).then_some(*actor);
        let over: Vec<ActorId> = self.hosted.iter().filter_map(ends).collect();
        for actor in over {
            match self.hosted.get(&actor).and_then(|hosted| hosted.worker) {
                Some(who) => self.orders.push(Order::Kill(who)),
                None => {
                    self.hosted.remove(&actor);
                    self.decide(now, Event::ActorCancelled { actor });
                }
            }
        }
    }

    // ---- the scheduler ------------------------------------------------------------------------------------------------

    pub fn tick(&mut self, now: Duration) {
        if self.scheduler.next_deadline().is_some_and(|at| at <= now) {
            self.decide(now, Event::Tick);
        }
    }

    fn decide(&mut self, now: Duration, event: Event) {
        let mut effects = Vec::new();
        self.scheduler.on_event(now, event, &mut effects);
        self.scheduler.check_invariants();
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::StartWorker { .. } => self.orders.push(Order::StartWorker),
                Effect::StopWorker { worker, reason } => {
                    let who = worker.0 as Proc;
                    self.orders.push(match reason {
                        StopReason::Surplus => Order::Tell(who, ToProc::Exit { graceful: true }),
                        StopReason::OwnerGone
                        | StopReason::JobEnded
                        | StopReason::Unusable
                        | StopReason::GroupRemoved => Order::Kill(who),
                    });
                }
                Effect::PlaceActor { actor, worker, .. } => self.place_actor(actor, worker.0 as Proc),
                Effect::RejectActor { actor, reason, .. } => {
                    if let Some(hosted) = self.hosted.remove(&actor) {
                        self.report(Report::ActorStartFailed(v1::ActorStartFailed {
                            actor_id: actor.0.to_vec(),
                            incarnation: hosted.incarnation,
                            message: reason,
                            ..v1::ActorStartFailed::default()
                        }));
                    }
                }
                Effect::PoolEmptied { .. } | Effect::Notice { .. } => {}
                Effect::GrantLease { .. }
                | Effect::RejectLease { .. }
                | Effect::RevokeLease { .. }
                | Effect::BundlesPrepared { .. }
                | Effect::AskAboutGroup { .. } => unreachable!("there are no tasks and no placement groups here"),
            }
        }
    }

    // ---- the control store --------------------------------------------------------------------------------------------

    pub fn obey(&mut self, now: Duration, command: Command) {
        match command {
            Command::Accepted(accepted) => {
                self.was_accepted = true;
                self.tenure_begins(now, Duration::from_millis(accepted.bound_ms.into()));
                self.report_again();
            }
            Command::StartActor(start) => self.start_actor(now, start),
            Command::StopActor(stop) => self.stop_actor(now, &stop),
            Command::ActorUpdate(update) => self.publish(update),
            Command::Heard(number) => {
                self.tenure.answered(number);
                self.look_at_tenure(now);
            }
            Command::JobFinished(finished) => {
                if let Ok(job) = JobId::from_bytes(&finished.job_id) {
                    self.end_job(now, job);
                }
            }
            // Nothing here depends on it.
            Command::NodeChanged(_)
            | Command::JobNotice(_)
            | Command::Schedulers(_)
            | Command::WorkerGone(_)
            | Command::WhetherItLives(_)
            | Command::ReturnActors(_)
            | Command::DrainNode(_)
            | Command::PrepareBundles(_)
            | Command::CommitBundles(_)
            | Command::ReturnBundles(_)
            | Command::GroupUpdate(_) => {}
        }
    }

    fn report_again(&mut self) {
        if self.mutation == Mutation::NodesComeBackInSilence {
            return;
        }
        let total = ResourceSet::new().with("CPU", CPUS);
        self.report(Report::Heartbeat(v1::NodeHeartbeat {
            available: Some((&total).into()),
            total: Some((&total).into()),
            first: true,
            number: 1,
            ..v1::NodeHeartbeat::default()
        }));
        let hosts: Vec<(Proc, (ActorId, u32))> = self
            .workers
            .iter()
            .filter_map(|(who, worker)| Some((*who, worker.actor?)))
            .collect();
        for (who, (actor, incarnation)) in hosts {
            self.report_assigned(actor, incarnation, who);
        }
        let living = self.workers.keys().chain(self.drivers.keys());
        let worker_ids = living.map(|who| worker_id(*who).0.to_vec()).collect();
        self.report(Report::Processes(v1::NodeProcesses { worker_ids }));
    }

    fn report_assigned(&mut self, actor: ActorId, incarnation: u32, who: Proc) {
        let worker = address(who, self.index);
        self.report(Report::ActorAssigned(v1::ActorAssigned {
            actor_id: actor.0.to_vec(),
            incarnation,
            worker: Some((&worker).into()),
        }));
    }

    fn tenure_begins(&mut self, now: Duration, bound: Duration) {
        let length = (!bound.is_zero()).then(|| tenure_of(bound));
        self.tenure.begin(self.asked_to_join, length);
        let was = std::mem::replace(&mut self.asks_each, length.map(|_| pause_of(bound)));
        if was.is_none() {
            self.ask_whether_heard(now);
        }
        self.look_at_tenure(now);
    }

    /// Asks; when to do so again.
    pub fn ask_whether_heard(&mut self, now: Duration) -> Option<Duration> {
        let pause = self.asks_each?;
        // Questions that cannot leave are asked with the next channel.
        if self.reports.len() < 64 {
            let number = self.tenure.ask(now);
            self.report(Report::AsksWhetherHeard(number));
        }
        Some(pause)
    }

    pub fn look_at_tenure(&mut self, now: Duration) {
        match self.tenure.look(now) {
            Some(TenureOrder::Halt | TenureOrder::GoOn) | None => {}
        }
    }

    /// Whether its workers stand still, as it may have been declared dead.
    pub fn is_halted(&self) -> bool {
        self.tenure.is_halted() && self.mutation != Mutation::NodesThatAreCutOffGoOn
    }

    // ---- actors -------------------------------------------------------------------------------------------------------

    fn start_actor(&mut self, now: Duration, start: v1::StartActor) {
        let (Some(spec), Ok(actor)) = (start.spec, ActorId::from_bytes(&start.actor_id)) else {
            return;
        };
        let incarnation = start.incarnation;
        if let Some(before) = self.hosted.get(&actor) {
            if before.incarnation >= incarnation {
                return;
            }
            match before.worker {
                Some(who) => self.end_at_once(now, who),
                None => self.decide(now, Event::ActorCancelled { actor }),
            }
        }
        let demand = ActorDemand {
            actor,
            job: JOB,
            env: EnvKey::JOB,
            placement: (&spec.placement_resources.unwrap_or_default()).into(),
            running: (&spec.running_resources.unwrap_or_default()).into(),
            class_name: spec.class_name,
        };
        let hosted = Hosted {
            incarnation,
            detached: spec.detached,
            worker: None,
            is_alive: false,
            is_over: false,
        };
        self.hosted.insert(actor, hosted);
        self.decide(now, Event::ActorRequested(demand));
    }

    fn place_actor(&mut self, actor: ActorId, who: Proc) {
        let hosted = self
            .hosted
            .get_mut(&actor)
            .expect("the scheduler places actors that were asked for");
        hosted.worker = Some(who);
        let incarnation = hosted.incarnation;
        self.workers
            .get_mut(&who)
            .expect("the scheduler gives registered workers")
            .actor = Some((actor, incarnation));
        let plan = plan_of(actor);
        self.orders.push(Order::Tell(
            who,
            ToProc::StartActor {
                actor,
                plan,
                incarnation,
            },
        ));
        self.report_assigned(actor, incarnation, who);
        self.publish(self.hosted_here(actor, incarnation, PLACED, who));
    }

    fn hosted_here(&self, actor: ActorId, incarnation: u32, state: u32, who: Proc) -> v1::ActorUpdate {
        v1::ActorUpdate {
            actor_id: actor.0.to_vec(),
            state,
            worker: Some((&address(who, self.index)).into()),
            incarnation,
            ..v1::ActorUpdate::default()
        }
    }

    fn stop_actor(&mut self, now: Duration, stop: &v1::StopActor) {
        if self.mutation == Mutation::StopsAreLost {
            return;
        }
        let Ok(actor) = ActorId::from_bytes(&stop.actor_id) else {
            return;
        };
        let hosted = self.hosted.get(&actor);
        let who = match stop.worker_id.is_empty() {
            true => hosted.and_then(|hosted| hosted.worker),
            false => proc_of(&stop.worker_id).filter(|who| self.workers.contains_key(who)),
        };
        match who {
            Some(who) if stop.graceful => self.orders.push(Order::Tell(who, ToProc::Exit { graceful: true })),
            Some(who) => self.end_at_once(now, who),
            None if hosted.is_some_and(|hosted| hosted.worker.is_none()) && stop.worker_id.is_empty() => {
                self.hosted.remove(&actor);
                self.decide(now, Event::ActorCancelled { actor });
            }
            None => {}
        }
    }

    fn end_at_once(&mut self, now: Duration, who: Proc) {
        self.orders.push(Order::Kill(who));
        self.unschedule(now, who);
        if let Some(actor) = self.actor_of(who) {
            self.worker_gone(actor, who);
        }
    }

    /// A process of the node wants to hear of an actor.
    pub fn follow(&mut self, who: Proc, actor: ActorId, will_be_registered: bool) {
        let here = self.hosted.get(&actor).filter(|hosted| !hosted.is_over);
        let known_here = here.and_then(|hosted| {
            let state = if hosted.is_alive { ALIVE } else { PLACED };
            Some(self.hosted_here(actor, hosted.incarnation, state, hosted.worker?))
        });
        let is_new = !self.followed.contains_key(&actor);
        let followed = self.followed.entry(actor).or_default();
        if followed.last.is_none() {
            followed.last = known_here;
        }
        if !followed.clients.contains(&who) {
            followed.clients.push(who);
        }
        if let Some(last) = &followed.last {
            self.orders
                .push(Order::Tell(who, ToProc::Update(Box::new(last.clone()))));
        } else if is_new && !will_be_registered {
            self.orders.push(Order::LookUp(actor));
        }
    }

    /// How the control store says that an actor is; `None`: it does not know it.
    pub fn looked_up(&mut self, actor: ActorId, found: Option<v1::ActorUpdate>) {
        let gone = v1::ActorUpdate {
            state: DEAD,
            ..v1::ActorUpdate::default()
        };
        let mut update = found.unwrap_or(gone);
        update.actor_id = actor.0.to_vec();
        self.publish(update);
    }

    fn publish(&mut self, update: v1::ActorUpdate) {
        let Ok(actor) = ActorId::from_bytes(&update.actor_id) else {
            return;
        };
        if let Some(hosted) = self.hosted.get_mut(&actor) {
            hosted.is_over |= progress(&update) > (hosted.incarnation, 3);
            hosted.is_alive |= update.state == ALIVE && update.incarnation == hosted.incarnation;
        }
        let Some(followed) = self.followed.get_mut(&actor) else {
            return;
        };
        let is_known = |last: &v1::ActorUpdate| progress(&update) <= progress(last) && !is_elsewhere(&update, last);
        let is_old = followed.last.as_ref().is_some_and(is_known);
        if is_old {
            return;
        }
        for who in &followed.clients {
            self.orders
                .push(Order::Tell(*who, ToProc::Update(Box::new(update.clone()))));
        }
        if update.state == DEAD {
            self.followed.remove(&actor);
        } else {
            followed.last = Some(update);
        }
    }

    /// Actors that it has, each with its worker.
    pub fn living_actors(&self) -> BTreeSet<(ActorId, u32, Proc)> {
        let hosts = |(actor, hosted): (&ActorId, &Hosted)| Some((*actor, hosted.incarnation, hosted.worker?));
        self.hosted.iter().filter_map(hosts).collect()
    }
}

fn client(who: Proc) -> ClientKey {
    ClientKey(u64::from(who))
}

fn worker(who: Proc) -> WorkerKey {
    WorkerKey(u64::from(who))
}

/// As in the raylet: the same life goes on in another process.
fn is_elsewhere(update: &v1::ActorUpdate, last: &v1::ActorUpdate) -> bool {
    match (&update.worker, &last.worker) {
        (Some(worker), Some(before)) => update.incarnation == last.incarnation && worker.worker_id != before.worker_id,
        (None, _) | (_, None) => false,
    }
}

/// As in the raylet: an incarnation begins with pending (or restarting), is placed, is alive.
fn progress(update: &v1::ActorUpdate) -> (u32, u32) {
    match update.state {
        DEAD => (u32::MAX, 0),
        PLACED => (update.incarnation, 1),
        ALIVE => (update.incarnation, 2),
        _ => (update.incarnation, 0),
    }
}
