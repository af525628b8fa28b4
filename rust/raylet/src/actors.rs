//! Actors placed on this node, and clients that follow actors, wherever those are.

use std::time::Duration;

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_proto::v1::node_command::Body as Command;
use ray_rs_proto::v1::node_report::Body as Report;
use ray_rs_scheduler::{ActorDemand, Event};
use ray_rs_types::{ActorId, JobId, WorkerId};
use rustc_hash::FxHashMap;

use crate::clients::Role;
use crate::input::{ConnKey, Input, Token};
use crate::raylet::Raylet;
use crate::timers::Timer;
use crate::workers::Hosts;
use crate::workers::Leave;

/// A handle may travel faster than its actor's registration: so long, unknown is not dead.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(5);

/// A node that has joined a cluster waits so long for the control store to come back.
const ALONE_LIMIT: Duration = Duration::from_secs(60);

/// People hear of a control store that is away for longer.
const AWAY_UNTOLD: Duration = Duration::from_secs(2);

/// States of `ActorUpdate` by their numbers.
const PLACED: u32 = 1;
const ALIVE: u32 = 2;
const DEAD: u32 = 4;
/// After all that one life of an actor can come to, see [`progress`].
const ENDLESS: u32 = 3;

#[derive(Debug)]
struct Hosted {
    incarnation: u32,
    detached: bool,
    /// Set until a worker has it.
    spec: Option<v1::ActorSpec>,
    /// Set from then on.
    worker: Option<Token>,
    /// The control store has said that its constructor has ended well.
    is_alive: bool,
    /// The control store has said that this life of it is over, or coming to its end.
    is_over: bool,
}

#[derive(Debug, Default)]
struct Followed {
    clients: Vec<ConnKey>,
    last: Option<v1::ActorUpdate>,
}

#[derive(Debug, Default)]
pub(crate) struct Actors {
    hosted: FxHashMap<ActorId, Hosted>,
    followed: FxHashMap<ActorId, Followed>,
}

impl Actors {
    pub fn is_detached(&self, actor: Option<(ActorId, u32)>) -> bool {
        actor
            .and_then(|(actor, _)| self.hosted.get(&actor))
            .is_some_and(|hosted| hosted.detached)
    }

    pub fn unfollow(&mut self, conn: ConnKey) {
        self.followed.retain(|_, followed| {
            followed.clients.retain(|client| *client != conn);
            !followed.clients.is_empty()
        });
    }

    /// The worker that hosted it is gone.
    pub fn worker_gone(&mut self, actor: ActorId, token: Token) {
        if self
            .hosted
            .get(&actor)
            .is_some_and(|hosted| hosted.worker == Some(token))
        {
            self.hosted.remove(&actor);
        }
    }
}

impl Raylet {
    pub fn take_command(&mut self, command: Command) {
        match command {
            Command::Accepted(accepted) => {
                self.node_index = Some(accepted.node_index);
                if !accepted.session.is_empty() {
                    self.session = accepted.session;
                }
                self.gcs_is_back();
                self.tenure_begins(Duration::from_millis(accepted.bound_ms.into()));
                self.report_again();
                self.ask_for_groups_again();
                self.settle_registrations();
            }
            Command::StartActor(start) => self.start_actor(start),
            Command::StopActor(stop) => self.stop_actor(&stop),
            Command::ActorUpdate(update) => self.publish_actor(update),
            Command::PrepareBundles(order) => self.prepare_bundles(&order),
            Command::CommitBundles(order) => self.commit_bundles(&order),
            Command::ReturnBundles(order) => self.return_bundles(order),
            Command::GroupUpdate(update) => self.group_updated(update),
            Command::JobNotice(notice) => self.job_notice(notice),
            Command::NodeChanged(info) => self.node_changed(info),
            Command::Heard(number) => {
                self.tenure.answered(number);
                self.look_at_tenure();
            }
            // A client reaches the control store only.
            Command::Schedulers(_) if self.config.is_client => {}
            Command::Schedulers(schedulers) => self.replicas.set(schedulers.addresses),
            Command::ReturnActors(order) => self.return_actors(&order),
            Command::DrainNode(order) => self.drain_ordered(order),
            Command::WhetherItLives(asked) => self.say_whether_it_lives(asked),
            Command::WorkerGone(gone) => self.remote_worker_gone(&gone),
            Command::JobFinished(finished) => {
                if let Ok(id) = JobId::from_bytes(&finished.job_id) {
                    self.finished_jobs.insert(id);
                }
                if let Some(key) = JobId::from_bytes(&finished.job_id)
                    .ok()
                    .and_then(|id| self.job_by_id(id))
                {
                    self.end_job(key);
                }
            }
        }
    }

    pub fn gcs_is_gone(&mut self) {
        if self.config.gcs_address.is_some() && self.alone_since.is_none() {
            self.alone_since = Some(std::time::Instant::now());
            self.timers
                .set(std::time::Instant::now() + ALONE_LIMIT, Timer::AloneTooLong);
        }
        // Before the first connection it is merely starting.
        if self.node_index.is_some() && self.gcs_away_since.is_none() {
            let now = std::time::Instant::now();
            self.gcs_away_since = Some(now);
            tracing::warn!("the connection to the control store has ended");
            self.timers.set(now + AWAY_UNTOLD, Timer::GcsStaysAway);
        }
    }

    /// One that is started again is back before anybody need know.
    pub fn gcs_stays_away(&mut self) {
        let is_due = self.gcs_away_since.is_some_and(|since| since.elapsed() >= AWAY_UNTOLD);
        if is_due && !std::mem::replace(&mut self.told_gcs_gone, true) {
            self.tell_drivers(
                "The control store (gcs) does not answer. What runs goes on; what needs it (new actors, names, placement \
                 groups) waits for it, a minute at most.",
            );
        }
    }

    /// A node of a cluster that has lost its head has no business any more.
    pub fn alone_too_long(&mut self) {
        if self.alone_since.is_some_and(|since| since.elapsed() >= ALONE_LIMIT) {
            tracing::error!("the cluster's control store did not come back; the node ends");
            self.end_session("its control store stayed away");
        }
    }

    fn gcs_is_back(&mut self) {
        self.alone_since = None;
        self.gcs_away_since = None;
        if std::mem::take(&mut self.told_gcs_gone) {
            self.tell_drivers("The control store (gcs) is back.");
        }
    }

    fn tell_drivers(&self, text: &str) {
        for job in self.jobs.keys() {
            self.notice(*job, text.to_owned());
        }
    }

    /// A control store that has restarted hears again what only this node knows.
    fn report_again(&mut self) {
        self.report_use(true);
        for (token, worker) in &self.workers {
            if let Some((actor, incarnation)) = worker.actor
                && let Some(address) = self.worker_address(*token)
            {
                self.gcs.report(assigned(actor, incarnation, &address));
            }
        }
        // What died while nobody could be told.
        let registered = self
            .clients
            .values()
            .filter(|client| client.registered && client.role != Role::Remote);
        let worker_ids = registered.map(|client| client.worker_id.0.to_vec()).collect();
        self.gcs.report(Report::Processes(v1::NodeProcesses { worker_ids }));
        self.follow_remote_owners();
        self.ask_whether_jobs_have_finished();
    }

    /// Their ends may have been told while nobody listened.
    fn ask_whether_jobs_have_finished(&self) {
        for job in self.jobs.values().filter(|job| !job.ended).filter_map(|job| job.id) {
            let (gcs, inputs) = (self.gcs.clone(), self.inputs.clone());
            tokio::spawn(async move {
                let request = v1::GetJobRequest { job_id: job.0.to_vec() };
                let reply: Result<v1::GetJobReply, _> = gcs.ask("GetJob", request).await;
                let is_over = |reply: v1::GetJobReply| reply.job.is_none_or(|info| info.finished);
                if reply.is_ok_and(is_over) {
                    let finished = v1::JobFinished { job_id: job.0.to_vec() };
                    let _ = inputs.send(Input::Gcs(Box::new(Command::JobFinished(finished)))).await;
                }
            });
        }
    }

    pub fn start_actor(&mut self, start: v1::StartActor) {
        let Some(spec) = start.spec.clone() else { return };
        let Ok(actor) = ActorId::from_bytes(&start.actor_id) else {
            return;
        };
        let incarnation = start.incarnation;
        let Ok(job_id) = JobId::from_bytes(&spec.job_id) else {
            return;
        };
        let Some(job) = self.job_by_id(job_id) else {
            if self.finished_jobs.contains(&job_id) {
                let message = "the job it belongs to has no process on this node any more".to_owned();
                return self.report_start_failed(actor, incarnation, false, message);
            }
            self.starts_waiting.push(start);
            return self.fetch_job(job_id);
        };
        if self.drain.is_some() {
            return self.decline(actor, incarnation);
        }
        if let Some(before) = self.actors.hosted.get(&actor) {
            if before.incarnation >= incarnation {
                return;
            }
            // An earlier life that was to end: it must not keep the new one from its place.
            match before.worker {
                Some(token) => self.end_actor_at_once(token, "its actor is restarted"),
                None => self.decide(Event::ActorCancelled { actor }),
            }
        }
        let env = self.environment_key(job, spec.runtime_env.clone());
        let demand = ActorDemand {
            actor,
            job,
            env,
            placement: (&spec.placement_resources.clone().unwrap_or_default()).into(),
            running: (&spec.running_resources.clone().unwrap_or_default()).into(),
            class_name: spec.class_name.clone(),
        };
        if spec.detached {
            self.jobs.get_mut(&job).expect("just found").detached.insert(actor);
        }
        let hosted = Hosted {
            incarnation,
            detached: spec.detached,
            spec: Some(spec),
            worker: None,
            is_alive: false,
            is_over: false,
        };
        self.actors.hosted.insert(actor, hosted);
        self.decide(Event::ActorRequested(demand));
    }

    pub fn place_actor(&mut self, actor: ActorId, token: Token, gpu_ids: Vec<u32>) {
        let address = self
            .worker_address(token)
            .expect("the scheduler gives registered workers");
        let hosted = self
            .actors
            .hosted
            .get_mut(&actor)
            .expect("the scheduler places actors that were asked for");
        let incarnation = hosted.incarnation;
        let now = self.started.elapsed();
        hosted.worker = Some(token);
        let spec = hosted.spec.take();
        let worker = self.workers.get_mut(&token).expect("it has an address");
        worker.actor = Some((actor, incarnation));
        worker.hosts = Some(Hosts {
            since: now,
            restartable: spec.as_ref().is_some_and(|spec| spec.max_restarts != 0),
        });
        if let Some(client) = worker.conn.and_then(|conn| self.clients.get(&conn)) {
            let start = v1::StartActor {
                actor_id: actor.0.to_vec(),
                spec,
                incarnation,
                gpu_ids,
            };
            client.outbox.send(Body::StartActor(start));
        }
        // Before the constructor has run, so that callers open their lanes meanwhile. If the worker has just died, the
        // report of its death follows. Callers of this node need not wait for the control store to write it down.
        self.gcs.report(assigned(actor, incarnation, &address));
        self.publish_actor(hosted_here(actor, incarnation, PLACED, &address));
    }

    /// What this node knows better than anybody else: which worker an actor has. Whoever follows it from now on hears no
    /// more of what was published before.
    fn known_here(&self, actor: ActorId) -> Option<v1::ActorUpdate> {
        let hosted = self.actors.hosted.get(&actor).filter(|hosted| !hosted.is_over)?;
        let address = self.worker_address(hosted.worker?)?;
        let state = if hosted.is_alive { ALIVE } else { PLACED };
        Some(hosted_here(actor, hosted.incarnation, state, &address))
    }

    pub fn actor_rejected(&mut self, actor: ActorId, environment_failed: bool, reason: String) {
        if let Some(hosted) = self.actors.hosted.remove(&actor) {
            self.report_start_failed(actor, hosted.incarnation, environment_failed, reason);
        }
    }

    pub fn cannot_start(&self, start: &v1::StartActor, message: String) {
        if let Ok(actor) = ActorId::from_bytes(&start.actor_id) {
            self.report_start_failed(actor, start.incarnation, false, message);
        }
    }

    fn report_start_failed(&self, actor: ActorId, incarnation: u32, environment_failed: bool, message: String) {
        let failed = v1::ActorStartFailed {
            actor_id: actor.0.to_vec(),
            incarnation,
            message,
            environment_failed,
            given_back: false,
        };
        self.gcs.report(Report::ActorStartFailed(failed));
    }

    /// Another node is to take it.
    fn decline(&self, actor: ActorId, incarnation: u32) {
        let failed = v1::ActorStartFailed {
            actor_id: actor.0.to_vec(),
            incarnation,
            given_back: true,
            ..v1::ActorStartFailed::default()
        };
        self.gcs.report(Report::ActorStartFailed(failed));
    }

    /// Other nodes have room for some of those that wait here.
    fn return_actors(&mut self, order: &v1::ReturnActors) {
        let mut left = order.count;
        for awaited in &order.actors {
            if left == 0 {
                return;
            }
            left -= u32::from(self.return_actor(awaited));
        }
    }

    /// Whether it waited.
    fn return_actor(&mut self, awaited: &v1::AwaitedActor) -> bool {
        let Ok(actor) = ActorId::from_bytes(&awaited.actor_id) else {
            return false;
        };
        let is_meant =
            |start: &v1::StartActor| start.actor_id == awaited.actor_id && start.incarnation == awaited.incarnation;
        let hosted = self.actors.hosted.get(&actor);
        // It may wait for its job to be known.
        if let Some(index) = self.starts_waiting.iter().position(is_meant) {
            self.starts_waiting.swap_remove(index);
        } else if hosted.is_some_and(|hosted| hosted.incarnation == awaited.incarnation)
            && self.scheduler.is_queued(actor)
        {
            self.actors.hosted.remove(&actor);
            self.decide(Event::ActorCancelled { actor });
        } else {
            return false;
        }
        self.decline(actor, awaited.incarnation);
        true
    }

    /// Those that wait for a place here go to other nodes.
    pub fn decline_waiting_actors(&mut self) {
        let waiting = self.actors.hosted.iter().filter(|(_, hosted)| hosted.worker.is_none());
        let waiting: Vec<(ActorId, u32)> = waiting.map(|(actor, hosted)| (*actor, hosted.incarnation)).collect();
        for (actor, incarnation) in waiting {
            self.actors.hosted.remove(&actor);
            self.decide(Event::ActorCancelled { actor });
            self.decline(actor, incarnation);
        }
        for start in std::mem::take(&mut self.starts_waiting) {
            if let Ok(actor) = ActorId::from_bytes(&start.actor_id) {
                self.decline(actor, start.incarnation);
            }
        }
    }

    fn stop_actor(&mut self, stop: &v1::StopActor) {
        let Ok(actor) = ActorId::from_bytes(&stop.actor_id) else {
            return;
        };
        let named = WorkerId::from_bytes(&stop.worker_id).ok().and_then(|id| {
            self.workers
                .iter()
                .find(|(_, worker)| worker.worker_id == id)
                .map(|(token, _)| *token)
        });
        let hosted = self.actors.hosted.get(&actor);
        // The order may have crossed our word of which worker it is.
        let token = if stop.worker_id.is_empty() {
            hosted.and_then(|hosted| hosted.worker)
        } else {
            named
        };
        match token {
            Some(token) if stop.graceful => self.ask_to_leave(token, &stop.reason, Leave::InItsTime),
            Some(token) => self.end_actor_at_once(token, &stop.reason),
            None if hosted.is_some_and(|hosted| hosted.worker.is_none()) && stop.worker_id.is_empty() => {
                self.actors.hosted.remove(&actor);
                self.decide(Event::ActorCancelled { actor });
            }
            None => {}
        }
    }

    /// What it holds is free at once: nothing survives SIGKILL.
    fn end_actor_at_once(&mut self, token: Token, reason: &str) {
        self.kill_worker(token, reason);
        self.unschedule(token);
        if let Some((actor, _)) = self.workers.get(&token).and_then(|worker| worker.actor) {
            self.actors.worker_gone(actor, token);
        }
    }

    /// A client wants to know all that happens to an actor from now on, and what it is now.
    pub fn follow_actor(&mut self, conn: ConnKey, actor: ActorId, will_be_registered: bool) {
        let known_here = self.known_here(actor);
        let Some(client) = self.clients.get(&conn) else { return };
        let is_new = !self.actors.followed.contains_key(&actor);
        let followed = self.actors.followed.entry(actor).or_default();
        if followed.last.is_none() {
            // What happens to it from here on is published; nothing has to be asked for.
            followed.last = known_here;
        }
        if !followed.clients.contains(&conn) {
            followed.clients.push(conn);
        }
        if let Some(last) = &followed.last {
            client.outbox.send(Body::ActorUpdate(last.clone()));
        } else if is_new && !will_be_registered {
            let (gcs, inputs) = (self.gcs.clone(), self.inputs.clone());
            tokio::spawn(async move {
                // The control store holds the question until it knows the actor.
                let request = v1::GetActorRequest {
                    actor_id: actor.0.to_vec(),
                    patience_ms: REGISTRATION_PATIENCE.as_millis() as u32,
                    ..v1::GetActorRequest::default()
                };
                let reply = gcs.ask_until_answered("GetActor", request).await;
                let reply = Box::new(reply);
                let _ = inputs.send(Input::ActorLookedUp { actor, reply }).await;
            });
        }
    }

    pub fn actor_looked_up(&mut self, actor: ActorId, reply: Result<v1::GetActorReply, String>) {
        let gone = |message: String| v1::ActorUpdate {
            actor_id: actor.0.to_vec(),
            state: DEAD,
            death: Some(v1::ActorDeath {
                message,
                ..v1::ActorDeath::default()
            }),
            ..v1::ActorUpdate::default()
        };
        let update = match reply {
            Ok(reply) => reply.actor.and_then(|actor| actor.status),
            Err(error) => Some(gone(error)),
        };
        let mut update = update.unwrap_or_else(|| gone("the control store does not know this actor".to_owned()));
        update.actor_id = actor.0.to_vec();
        self.publish_actor(update);
    }

    /// Passes an update on, unless its followers know better already.
    fn publish_actor(&mut self, update: v1::ActorUpdate) {
        let Ok(actor) = ActorId::from_bytes(&update.actor_id) else {
            return;
        };
        if update.state == DEAD {
            self.detached_actor_ended(actor);
        }
        if let Some(hosted) = self.actors.hosted.get_mut(&actor) {
            let this_life = (hosted.incarnation, ENDLESS);
            hosted.is_over |= progress(&update) > this_life;
            hosted.is_alive |= update.state == ALIVE && update.incarnation == hosted.incarnation;
        }
        let Some(followed) = self.actors.followed.get_mut(&actor) else {
            return;
        };
        if followed
            .last
            .as_ref()
            .is_some_and(|last| progress(&update) <= progress(last) && !is_elsewhere(&update, last))
        {
            return;
        }
        for client in followed.clients.iter().filter_map(|conn| self.clients.get(conn)) {
            client.outbox.send(Body::ActorUpdate(update.clone()));
        }
        if update.state == DEAD {
            self.actors.followed.remove(&actor);
        } else {
            followed.last = Some(update);
        }
    }
}

fn hosted_here(actor: ActorId, incarnation: u32, state: u32, address: &ray_rs_types::WorkerAddress) -> v1::ActorUpdate {
    v1::ActorUpdate {
        actor_id: actor.0.to_vec(),
        state,
        worker: Some(address.into()),
        incarnation,
        ..v1::ActorUpdate::default()
    }
}

fn assigned(actor: ActorId, incarnation: u32, address: &ray_rs_types::WorkerAddress) -> Report {
    Report::ActorAssigned(v1::ActorAssigned {
        actor_id: actor.0.to_vec(),
        incarnation,
        worker: Some(address.into()),
    })
}

/// Whether the same life of an actor goes on in another process: the control store had not heard of the first before that
/// ended, and so has had it started once more.
fn is_elsewhere(update: &v1::ActorUpdate, last: &v1::ActorUpdate) -> bool {
    match (&update.worker, &last.worker) {
        (Some(worker), Some(before)) => update.incarnation == last.incarnation && worker.worker_id != before.worker_id,
        (None, _) | (_, None) => false,
    }
}

/// Orders the states of an actor's life: an incarnation begins with pending (or restarting), is placed, is alive.
fn progress(update: &v1::ActorUpdate) -> (u32, u32) {
    match update.state {
        DEAD => (u32::MAX, 0),
        PLACED => (update.incarnation, 1),
        ALIVE => (update.incarnation, 2),
        _ => (update.incarnation, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_goes_one_way() {
        let update = |state, incarnation| v1::ActorUpdate {
            state,
            incarnation,
            ..v1::ActorUpdate::default()
        };
        let life = [
            update(0, 0),
            update(PLACED, 0),
            update(ALIVE, 0),
            update(3, 1),
            update(PLACED, 1),
            update(DEAD, 1),
        ];
        assert!(life.windows(2).all(|pair| progress(&pair[0]) < progress(&pair[1])));
    }
}
