//! The state, and the one way in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ray_rs_types::resources::CPU;
use ray_rs_types::{ActorId, NodeId, ResourceSet};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::admission::Admission;
use crate::bottom_up::heartbeat::Backlog;
use crate::bottom_up::load::Holds;
use crate::effect::{Effect, Refusal, StopReason};
use crate::event::{
    ActorDemand, ClientKey, EnvKey, Event, JobKey, LeaseKey, LeaseRequest, PoolKey, StartFailure, WorkerKey,
};
use crate::groups::RemovedGroups;
use crate::ledger::{Holding, Ledger};
use crate::pool::Pool;
use crate::queue::{Item, Queue, QueueKey, Source, Wanted};
use crate::shape::{Shape, Turns};

/// The scheduler's knobs.
#[derive(Debug, Clone)]
pub struct Options {
    /// A lease held for so long may be asked back for a request that waits.
    pub revoke_after: Duration,
    /// On a node that is about to leave a lease is asked back after so long.
    pub drain_lease: Duration,
    /// An idle worker above what the pool keeps is ended after so long.
    pub idle_grace: Duration,
    /// Workers of a job that nobody asks for start so long after its first has come: until then the processors belong to
    /// the program's first task.
    pub spares_after: Duration,
    /// A request that nothing but actors keep from running is told to people after so long.
    pub stuck_after: Duration,
    /// A request overtaken so often is waited for.
    pub passed_over_limit: u32,
    /// Leases without a CPU are limited by this number only, as they cost a process each.
    pub max_leases_without_cpu: usize,
    /// Worker processes of one pool that may be starting at a time.
    pub max_starting: usize,
    /// Nothing waits for memory for longer.
    pub memory_patience: Duration,
    /// A task that sleeps counts as one that computes for so long: what waits for memory is not let in beside it at once.
    pub memory_settles: Duration,
    /// Starts that fail one after another before requests are rejected.
    pub max_start_failures: u32,
    /// The same for starts whose processes were killed by something else.
    pub max_killed_starts: u32,
    /// Pause after the first failed start; each further one doubles it, up to `longest_start_pause`.
    pub first_start_pause: Duration,
    pub longest_start_pause: Duration,
    /// A worker that ends by itself so soon, before anybody used it, has failed to start.
    pub young: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            revoke_after: Duration::from_millis(5),
            drain_lease: Duration::from_millis(200),
            idle_grace: Duration::from_secs(1),
            spares_after: Duration::from_millis(100),
            stuck_after: Duration::from_secs(10),
            passed_over_limit: 4,
            max_leases_without_cpu: 256,
            max_starting: 16,
            memory_patience: Duration::from_secs(30),
            memory_settles: Duration::from_millis(100),
            max_start_failures: 3,
            max_killed_starts: 10,
            first_start_pause: Duration::from_millis(20),
            longest_start_pause: Duration::from_secs(10),
            young: Duration::from_secs(1),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerState {
    Idle {
        since: Duration,
    },
    Leased(LeaseKey),
    Actor(ActorId),
    /// It was told to end, or said that it does; only its death is awaited.
    Leaving,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub pool: PoolKey,
    pub state: WorkerState,
    /// Who leased it last: between the two a lane is open already.
    pub last_client: Option<ClientKey>,
    /// What it is when it asks for leases itself. It gets others then: a process has no lane to itself.
    pub client: ClientKey,
    /// It was asked to leave since it last worked, and owns something.
    pub needed: bool,
    /// It gets nothing any more, and ends by itself.
    pub retired: bool,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub client: ClientKey,
    /// Name of the task that it was asked for.
    pub task: Arc<str>,
    pub queue: QueueKey,
    pub worker: WorkerKey,
    pub holding: Holding,
    pub granted_at: Duration,
    /// When its task began to sleep last; of one that never did, when it was granted.
    pub lent_at: Duration,
    pub revoked: bool,
    pub usage: Use,
}

/// What has become of a lease that was asked for ahead of any task; all others are `Begun`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Begun,
    None,
    /// Its worker says that a task sleeps, so it has one; only its client's word has not come yet.
    Blocked,
}

/// A worker in use.
#[derive(Debug, Clone)]
pub struct Running {
    pub worker: WorkerKey,
    pub job: JobKey,
    pub occupant: Occupant,
}

/// Who uses a worker.
#[derive(Debug, Clone)]
pub enum Occupant {
    Lease {
        client: ClientKey,
        /// The task that the lease was asked for; others of its shape may run under it.
        task: Arc<str>,
        since: Duration,
    },
    Actor(ActorId),
}

/// Resources are set aside; only the worker process is missing.
#[derive(Debug)]
pub(crate) struct AwaitsWorker {
    pub queue: QueueKey,
    pub item: Item,
    pub holding: Holding,
}

#[derive(Debug)]
pub(crate) struct HostedActor {
    pub demand: ActorDemand,
    /// Set with `worker`: until then the actor is an item of a queue or awaits a worker.
    pub holding: Option<Holding>,
    pub worker: Option<WorkerKey>,
}

/// The longest overtaken request: what it lacks is kept for it.
#[derive(Debug)]
pub(crate) struct WaitedFor {
    pub queue: QueueKey,
    pub until: Duration,
}

/// See the crate's description.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) options: Options,
    pub(crate) ledger: Ledger,
    /// Whole CPUs of the node: how many workers are kept ready.
    pub(crate) cpus: usize,
    pub(crate) pools: FxHashMap<PoolKey, Pool>,
    pub(crate) workers: FxHashMap<WorkerKey, Worker>,
    pub(crate) clients: FxHashMap<ClientKey, JobKey>,
    pub(crate) queues: FxHashMap<QueueKey, Queue>,
    pub(crate) turns: Turns,
    pub(crate) leases: FxHashMap<LeaseKey, Lease>,
    pub(crate) actors: FxHashMap<ActorId, HostedActor>,
    /// The sum of what they hold.
    pub(crate) held_by_actors: ResourceSet,
    pub(crate) waited_for: Option<WaitedFor>,
    pub(crate) admission: Admission,
    pub(crate) removed_groups: RemovedGroups,
    /// This node, for the policies.
    pub(crate) node: (NodeId, BTreeMap<String, String>),
    pub(crate) last_lease: u64,
    pub(crate) holds: Holds,
    pub(crate) drains: bool,
    /// Of the event that is being taken in.
    now: Duration,
    pub(crate) deadline: Option<Duration>,
}

impl Scheduler {
    pub fn new(total: ResourceSet, options: Options) -> Self {
        let cpus = (total.get(CPU).to_f64().ceil() as usize).max(1);
        Self {
            options,
            ledger: Ledger::new(total),
            cpus,
            pools: FxHashMap::default(),
            workers: FxHashMap::default(),
            clients: FxHashMap::default(),
            queues: FxHashMap::default(),
            turns: Turns::default(),
            leases: FxHashMap::default(),
            actors: FxHashMap::default(),
            held_by_actors: ResourceSet::new(),
            waited_for: None,
            admission: Admission::default(),
            removed_groups: RemovedGroups::default(),
            node: (NodeId::NIL, BTreeMap::new()),
            last_lease: 0,
            holds: Holds::default(),
            drains: false,
            now: Duration::ZERO,
            deadline: None,
        }
    }

    /// Tells it which node this is.
    #[must_use]
    pub fn on_node(mut self, node: NodeId, labels: BTreeMap<String, String>) -> Self {
        self.node = (node, labels);
        self
    }

    pub fn total(&self) -> &ResourceSet {
        &self.ledger.total
    }

    /// What is free now; below zero where a woken worker took CPUs that were gone.
    pub fn available(&self) -> &ResourceSet {
        &self.ledger.available
    }

    /// When `Event::Tick` is due; `None` when only an event can change anything.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// How long leases are kept.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Whether any worker has something to do.
    pub fn is_busy(&self) -> bool {
        !self.leases.is_empty() || !self.actors.is_empty()
    }

    /// Whether nothing runs, and nobody waits.
    pub fn is_at_rest(&self) -> bool {
        !self.is_busy() && self.turns.is_empty() && self.awaiting_workers().next().is_none()
    }

    /// Actors that wait for resources, by what they ask for.
    pub fn actors_waiting(&self) -> Backlog {
        let mut waiting = Backlog::new();
        for (key, queue) in self
            .queues
            .iter()
            .filter(|(key, _)| matches!(key.source, Source::Actors(_)))
        {
            if !queue.items.is_empty() {
                *waiting.entry(ResourceSet::clone(&key.shape)).or_default() += queue.items.len() as u32;
            }
        }
        waiting
    }

    /// Whether the actor waits for resources.
    pub fn is_queued(&self, actor: ActorId) -> bool {
        let Some(hosted) = self.actors.get(&actor) else {
            return false;
        };
        let of_job = self
            .queues
            .iter()
            .filter(|(key, _)| key.source == Source::Actors(hosted.demand.job));
        let mut items = of_job.flat_map(|(_, queue)| &queue.items);
        items.any(|item| item.wanted == Wanted::Actor(actor))
    }

    /// Whether some worker was asked to leave or wants to, and stays since it owns something.
    pub fn has_needed_workers(&self) -> bool {
        self.workers.values().any(|worker| worker.needed || worker.retired)
    }

    /// What the workers that are in use are used for.
    pub fn running(&self) -> impl Iterator<Item = Running> + '_ {
        self.workers.iter().filter_map(|(key, worker)| {
            let occupant = match worker.state {
                WorkerState::Leased(lease) => {
                    let lease = &self.leases[&lease];
                    if lease.usage == Use::None {
                        return None;
                    }
                    Occupant::Lease {
                        client: lease.client,
                        task: Arc::clone(&lease.task),
                        since: lease.granted_at,
                    }
                }
                WorkerState::Actor(actor) => Occupant::Actor(actor),
                WorkerState::Idle { .. } | WorkerState::Leaving => return None,
            };
            Some(Running {
                worker: *key,
                job: worker.pool.job,
                occupant,
            })
        })
    }

    /// Takes a fact in and appends the orders that follow from it.
    pub fn on_event(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        self.now = now;
        match event {
            Event::ClientJoined { client, job } => {
                self.clients.insert(client, job);
            }
            Event::ClientGone { client } => self.client_gone(client, effects),
            Event::JobStarted { job } => {
                let pool = PoolKey { job, env: EnvKey::JOB };
                self.pools.entry(pool).or_default().is_kept = true;
            }
            Event::JobEnded { job } => self.job_ended(job, effects),
            Event::WorkerStarted { worker, client, pool } => self.worker_started(now, worker, client, pool),
            Event::WorkerStays { worker } => self.worker_stays(now, worker, effects),
            Event::WorkerRetires { worker } => self.worker_retires(worker),
            Event::WorkerUnneeded { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.needed = false;
                }
            }
            Event::WorkerStartFailed { pool, reason, how } => {
                self.worker_start_failed(now, pool, &reason, how, effects);
            }
            Event::WorkerDied { worker } => self.worker_died(now, worker, effects),
            Event::LeaseRequested { client, request } => self.lease_requested(now, client, request, effects),
            Event::LeaseRequestCancelled { client, request } => self.withdraw(Wanted::Lease(client, request)),
            Event::LeaseBegun { client, lease } => {
                if let Some(held) = self.leases.get_mut(&lease).filter(|held| held.client == client) {
                    if held.usage == Use::None {
                        self.ledger.retake_cpu(&mut held.holding);
                    }
                    held.usage = Use::Begun;
                }
            }
            Event::LeaseReturned {
                client,
                lease,
                worker_gone,
            } => {
                self.lease_returned(now, client, lease, worker_gone, effects);
            }
            Event::WorkerBlocked { worker } => {
                if let Some(lease) = self.lease_of(worker) {
                    let lease = self
                        .leases
                        .get_mut(&lease)
                        .expect("SCH-2: a leased worker's lease exists");
                    if lease.usage == Use::None || !lease.holding.cpu_lent {
                        lease.lent_at = now;
                    }
                    if lease.usage == Use::None {
                        lease.usage = Use::Blocked;
                    }
                    self.ledger.lend_cpu(&mut lease.holding);
                }
            }
            Event::WorkerUnblocked { worker } => {
                if let Some(lease) = self.lease_of(worker) {
                    let lease = self
                        .leases
                        .get_mut(&lease)
                        .expect("SCH-2: a leased worker's lease exists");
                    lease.usage = Use::Begun;
                    self.ledger.retake_cpu(&mut lease.holding);
                }
            }
            Event::ActorRequested(demand) => self.actor_requested(now, demand, effects),
            Event::ActorCancelled { actor } => self.actor_cancelled(actor),
            Event::AdmissionChanged(admission) => self.admission = admission,
            Event::BundlesWanted {
                group,
                attempt,
                bundles,
                commit,
            } => self.bundles_wanted(group, attempt, bundles, commit, effects),
            Event::BundlesCommitted { group } => self.bundles_committed(group),
            Event::BundlesReturned { group, bundles } => self.bundles_returned(group, &bundles, effects),
            Event::GroupRemoved { group } => self.group_removed(group, effects),
            Event::NodeDrains => self.drains = true,
            Event::Tick => {}
        }
        self.settle(now, effects);
    }

    /// What follows from any change: grants, then the pool, then revocations; and when to look again.
    fn settle(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.deadline = None;
        self.hand_out_idle(now, effects);
        self.serve(now, effects);
        self.size_pools(now, effects);
        if self.drains {
            self.ask_all_back(now, effects);
        } else {
            self.ask_leases_back(now, effects);
        }
        self.tell_stuck(now, effects);
    }

    /// Remembers to look again at `when`.
    pub(crate) fn look_again(&mut self, when: Duration) {
        self.deadline = Some(self.deadline.map_or(when, |deadline| deadline.min(when)));
    }

    fn lease_of(&self, worker: WorkerKey) -> Option<LeaseKey> {
        match self.workers.get(&worker)?.state {
            WorkerState::Leased(lease) => Some(lease),
            WorkerState::Idle { .. } | WorkerState::Actor(_) | WorkerState::Leaving => None,
        }
    }

    fn lease_requested(&mut self, now: Duration, client: ClientKey, request: LeaseRequest, effects: &mut Vec<Effect>) {
        let Some(&job) = self.clients.get(&client) else { return };
        let wanted = Wanted::Lease(client, request.request);
        let shape = match self.shape_of(&request) {
            Ok(shape) => shape,
            Err(reason) => {
                return effects.push(Effect::RejectLease {
                    client,
                    request: request.request,
                    refusal: Refusal::ForEver,
                    reason,
                });
            }
        };
        if self.is_removed(&shape) {
            return self.refuse_removed(wanted, effects);
        }
        let key = QueueKey {
            source: Source::Client(client),
            shape: Shape::new(shape),
            env: request.env,
        };
        let item = Item {
            wanted,
            name: format!("task {}", request.task_name).into(),
            task: request.task_name.into(),
            since: now,
            ahead: request.ahead,
        };
        if !request.ahead {
            self.ask_unused_back(&key, effects);
        }
        self.enqueue(key, job, item, effects);
    }

    fn actor_requested(&mut self, now: Duration, demand: ActorDemand, effects: &mut Vec<Effect>) {
        if self.actors.contains_key(&demand.actor) {
            return;
        }
        if self.is_removed(&demand.placement) {
            return self.refuse_removed(Wanted::Actor(demand.actor), effects);
        }
        let key = QueueKey {
            source: Source::Actors(demand.job),
            shape: Shape::new(demand.placement.clone()),
            env: demand.env,
        };
        let item = Item {
            wanted: Wanted::Actor(demand.actor),
            name: format!("actor {}", demand.class_name).into(),
            task: demand.class_name.as_str().into(),
            since: now,
            ahead: false,
        };
        self.ask_unused_back(&key, effects);
        let job = demand.job;
        self.actors.insert(
            demand.actor,
            HostedActor {
                demand,
                holding: None,
                worker: None,
            },
        );
        self.enqueue(key, job, item, effects);
    }

    fn actor_cancelled(&mut self, actor: ActorId) {
        if self.actors.get(&actor).is_some_and(|hosted| hosted.worker.is_none()) {
            self.actors.remove(&actor);
            self.withdraw(Wanted::Actor(actor));
        }
    }

    fn lease_returned(
        &mut self,
        now: Duration,
        client: ClientKey,
        lease: LeaseKey,
        worker_gone: bool,
        effects: &mut Vec<Effect>,
    ) {
        if self.leases.get(&lease).is_none_or(|held| held.client != client) {
            return;
        }
        let lease = self.end_lease(lease);
        if !worker_gone {
            let pool = self.workers[&lease.worker].pool;
            let pool = self.pools.get_mut(&pool).expect("a pool lives as long as its workers");
            pool.starts.proved();
            let state = match self.workers[&lease.worker].retired {
                true => WorkerState::Leaving,
                false => WorkerState::Idle { since: now },
            };
            return self.set_worker_state(lease.worker, state);
        }
        self.set_worker_state(lease.worker, WorkerState::Leaving);
        effects.push(Effect::StopWorker {
            worker: lease.worker,
            reason: StopReason::Unusable,
        });
    }

    /// Frees what a lease holds. Its worker's state is the caller's next concern.
    pub(crate) fn end_lease(&mut self, key: LeaseKey) -> Lease {
        let lease = self
            .leases
            .remove(&key)
            .expect("SCH-2: the caller has looked the lease up");
        self.ledger.give_back(&lease.holding);
        self.holds.ended(self.now, lease.granted_at);
        let queue = self
            .queues
            .get_mut(&lease.queue)
            .expect("a queue lives as long as its leases");
        queue.held -= 1;
        queue.revoked -= usize::from(lease.revoked);
        self.forget_if_empty(&lease.queue);
        lease
    }

    /// Frees what a placed actor holds; as with a lease, its worker's state is the caller's next concern.
    pub(crate) fn end_actor(&mut self, actor: ActorId) -> HostedActor {
        let hosted = self
            .actors
            .remove(&actor)
            .expect("SCH-2: the caller has looked the actor up");
        let holding = hosted.holding.as_ref().expect("SCH-2: a placed actor holds resources");
        self.ledger.give_back(holding);
        self.held_by_actors.subtract(&holding.resources);
        hosted
    }

    fn client_gone(&mut self, client: ClientKey, effects: &mut Vec<Effect>) {
        if self.clients.remove(&client).is_none() {
            return;
        }
        let waiting: Vec<Wanted> = self
            .queues
            .iter()
            .filter(|(key, _)| key.source == Source::Client(client))
            .flat_map(|(_, queue)| queue.items.iter().map(|item| item.wanted))
            .chain(
                self.awaiting_workers()
                    .map(|waiting| waiting.item.wanted)
                    .filter(|wanted| matches!(wanted, Wanted::Lease(owner, _) if *owner == client)),
            )
            .collect();
        self.withdraw_all(&waiting.into_iter().collect());
        let mut held: Vec<LeaseKey> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.client == client)
            .map(|(key, _)| *key)
            .collect();
        held.sort_unstable();
        for lease in held {
            let lease = self.end_lease(lease);
            self.set_worker_state(lease.worker, WorkerState::Leaving);
            effects.push(Effect::StopWorker {
                worker: lease.worker,
                reason: StopReason::OwnerGone,
            });
        }
    }

    fn job_ended(&mut self, job: JobKey, effects: &mut Vec<Effect>) {
        let mut idle = Vec::new();
        for (_, pool) in self.pools.iter_mut().filter(|(key, _)| key.job == job) {
            pool.is_kept = false;
            idle.extend_from_slice(&pool.idle);
        }
        let stays = |worker: &Worker| worker.retired && worker.state == WorkerState::Leaving && worker.pool.job == job;
        idle.extend(
            self.workers
                .iter()
                .filter(|(_, worker)| stays(worker))
                .map(|(key, _)| *key),
        );
        idle.sort_unstable();
        for worker in idle {
            self.set_worker_state(worker, WorkerState::Leaving);
            effects.push(Effect::StopWorker {
                worker,
                reason: StopReason::JobEnded,
            });
        }
    }

    fn worker_died(&mut self, now: Duration, worker: WorkerKey, effects: &mut Vec<Effect>) {
        let Some((pool, state)) = self.workers.get(&worker).map(|worker| (worker.pool, worker.state)) else {
            return;
        };
        let died_unused = self.died_unused(now, worker);
        match state {
            WorkerState::Leased(lease) => {
                self.end_lease(lease);
            }
            WorkerState::Actor(actor) => {
                self.end_actor(actor);
            }
            WorkerState::Idle { .. } | WorkerState::Leaving => {}
        }
        self.set_worker_state(worker, WorkerState::Leaving);
        self.workers.remove(&worker);
        self.pools
            .get_mut(&pool)
            .expect("a pool lives as long as its workers")
            .workers -= 1;
        if died_unused {
            // How it ended is not known yet. What is broken in itself ends before it is ready, and says why.
            self.note_failed_start(now, pool, "", StartFailure::Killed, effects);
        }
    }

    /// Changes a worker's role and keeps its pool's list of idle workers true.
    pub(crate) fn set_worker_state(&mut self, key: WorkerKey, state: WorkerState) {
        let worker = self
            .workers
            .get_mut(&key)
            .expect("SCH-2: roles are given to known workers");
        let pool = self
            .pools
            .get_mut(&worker.pool)
            .expect("a pool lives as long as its workers");
        if matches!(worker.state, WorkerState::Idle { .. }) {
            pool.idle.retain(|idle| *idle != key);
        }
        if matches!(state, WorkerState::Idle { .. }) {
            pool.idle.push(key);
        } else if state != WorkerState::Leaving {
            worker.needed = false;
        }
        worker.state = state;
    }

    /// Drops requests wherever they wait.
    pub(crate) fn withdraw_all(&mut self, gone: &FxHashSet<Wanted>) {
        if gone.is_empty() {
            return;
        }
        let mut touched = Vec::new();
        for (key, queue) in &mut self.queues {
            let before = queue.items.len();
            queue.items.retain(|item| !gone.contains(&item.wanted));
            if queue.items.len() != before {
                touched.push(key.clone());
            }
        }
        let mut released = Vec::new();
        for pool in self.pools.values_mut() {
            let (dropped, kept): (VecDeque<_>, VecDeque<_>) = pool
                .awaiting
                .drain(..)
                .partition(|waiting| gone.contains(&waiting.item.wanted));
            pool.awaiting = kept;
            released.push(dropped);
        }
        for waiting in released.into_iter().flatten() {
            self.release_awaiting(&waiting);
            touched.push(waiting.queue);
        }
        for key in touched {
            self.forget_if_empty(&key);
        }
    }

    pub(crate) fn withdraw(&mut self, wanted: Wanted) {
        self.withdraw_all(&FxHashSet::from_iter([wanted]));
    }

    pub(crate) fn awaiting_workers(&self) -> impl Iterator<Item = &AwaitsWorker> {
        self.pools.values().flat_map(|pool| pool.awaiting.iter())
    }
}
