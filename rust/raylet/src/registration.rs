//! How a process becomes a client.
//!
//! A driver's job gets its id from the control store, and its workers wait for that id; the driver in turn waits (for a
//! while) for its first worker, so that its first task starts at once.

use std::time::{Duration, Instant};

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_scheduler::{ClientKey, EnvKey, Event, JobKey};
use ray_rs_transport::session::GCS_ADDRESS_FILE;
use ray_rs_types::{JobId, WorkerAddress, WorkerId};

use crate::clients::Role;
use crate::config::DriverConfig;
use crate::input::{ConnKey, Input, Token};
use crate::raylet::Raylet;
use crate::timers::Timer;
use crate::workers::kill_process;

/// A driver is answered by then, with or without a worker.
const FIRST_WORKER_LIMIT: Duration = Duration::from_secs(10);
/// A driver that has no job by then is refused.
const JOB_LIMIT: Duration = Duration::from_secs(30);
/// So many failed starts, and a driver is told instead of waiting on.
const FAILURES_TO_TELL: u32 = 3;
/// Bits of a process number that count the processes of a node.
const PROCESS_BITS: u32 = 18;
const DRIVER: u32 = 0;
const WORKER: u32 = 1;
const REMOTE: u32 = 2;

impl Raylet {
    pub fn register(&mut self, conn: ConnKey, request: v1::Register) {
        let Some(client) = self.clients.get_mut(&conn) else {
            return;
        };
        if client.role != Role::Unknown {
            tracing::warn!(pid = client.pid, "a client registers twice");
            return;
        }
        let Ok(worker_id) = WorkerId::from_bytes(&request.worker_id) else {
            return self.refuse(conn, "the worker id is not 28 bytes long");
        };
        tracing::debug!(pid = request.pid, role = request.role, "a client registers");
        client.worker_id = worker_id;
        if client.pid == 0 {
            client.pid = request.pid;
        }
        match request.role {
            DRIVER => self.register_driver(conn, request),
            WORKER => self.register_worker(conn, Token(request.fork_token), request.set_up_follows),
            REMOTE => self.register_remote(conn, &request),
            role => self.refuse(conn, &format!("there is no role {role}")),
        }
    }

    fn register_driver(&mut self, conn: ConnKey, request: v1::Register) {
        let config = match DriverConfig::from_pickle(&request.driver_config) {
            Ok(config) => config.without_inherited(),
            Err(error) => return self.refuse(conn, &error.to_string()),
        };
        let job_config = request.driver_config;
        let key = self.job_for(config);
        let job = self.jobs.get_mut(&key).expect("just found or made");
        job.driver = Some(conn);
        let (namespace, entrypoint) = (job.config.namespace.clone(), job.config.entrypoint.clone());
        let client = self.clients.get_mut(&conn).expect("the caller has looked it up");
        client.role = Role::Driver;
        client.watch_process(conn, self.inputs.clone());
        client.job = Some(key);
        let driver = WorkerAddress {
            node_id: self.node_id,
            worker_id: client.worker_id,
            pid: client.pid,
        };
        let request = v1::RegisterJobRequest {
            driver: Some((&driver).into()),
            entrypoint,
            namespace,
            config: job_config,
        };
        let (gcs, inputs) = (self.gcs.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let reply = gcs.ask("RegisterJob", request).await;
            let _ = inputs.send(Input::JobRegistered { conn, reply }).await;
        });
        let now = Instant::now();
        self.timers
            .set(now + FIRST_WORKER_LIMIT, Timer::RegistrationOverdue(conn));
        self.timers.set(now + JOB_LIMIT, Timer::RegistrationFailed(conn));
    }

    /// The job that was opened ahead for this driver, or a new one.
    fn job_for(&mut self, config: DriverConfig) -> JobKey {
        let opened = self
            .jobs
            .iter()
            .find(|(_, job)| job.driver.is_none() && job.id.is_none() && !job.ended);
        match opened.map(|(key, job)| (*key, job.config.same_zygote(&config))) {
            Some((key, true)) => {
                self.jobs.get_mut(&key).expect("just found").config = config;
                key
            }
            Some((key, false)) => {
                self.end_job(key);
                self.open_job(config, None, None)
            }
            None => self.open_job(config, None, None),
        }
    }

    fn register_worker(&mut self, conn: ConnKey, token: Token, set_up_follows: bool) {
        let worker = self
            .workers
            .get_mut(&token)
            .filter(|worker| worker.conn.is_none() && worker.stop_reason.is_none());
        let client = self.clients.get_mut(&conn).expect("the caller has looked it up");
        let Some(worker) = worker else {
            if token.0 <= self.next_token {
                // Ordered once, and not wanted any more: it should not get so far as to complain of a refusal.
                kill_process(client.pid);
            }
            return self.refuse(conn, "no worker with this fork token is expected");
        };
        client.role = Role::Worker(token);
        client.job = Some(worker.pool.job);
        worker.set_up_follows = set_up_follows;
        worker.conn = Some(conn);
        worker.worker_id = client.worker_id;
        worker.learn_pid(client.pid);
        self.settle_registrations();
    }

    /// A process of another node wants workers of this one.
    fn register_remote(&mut self, conn: ConnKey, request: &v1::Register) {
        let Ok(job) = JobId::from_bytes(&request.job_id) else {
            return self.refuse(conn, "the job id is not 4 bytes long");
        };
        let known = self.job_by_id(job);
        let client = self.clients.get_mut(&conn).expect("the caller has looked it up");
        client.role = Role::Remote;
        client.wants_job = Some(job);
        client.job = known;
        match known {
            Some(_) => self.settle_registrations(),
            None => self.fetch_job(job),
        }
    }

    fn complete_remote(&mut self, conn: ConnKey) {
        let client = self.clients.get_mut(&conn).expect("the caller lists connected clients");
        let key = client.job.expect("its role is known");
        client.registered = true;
        let job = self.jobs.get_mut(&key).expect("the caller has looked");
        if job
            .remote_driver
            .is_some_and(|driver| driver.worker_id == client.worker_id)
        {
            job.driver = Some(conn);
        }
        client.outbox.send(Body::Registered(v1::Registered {
            node_id: self.node_id.0.to_vec(),
            job_id: job.id.expect("the caller has looked").0.to_vec(),
            ..v1::Registered::default()
        }));
        let held = std::mem::take(&mut client.held);
        self.decide(Event::ClientJoined {
            client: ClientKey(conn.0),
            job: key,
        });
        for body in held {
            self.take_frame(conn, body);
        }
    }

    /// Says why, and is done with the client.
    pub fn refuse(&mut self, conn: ConnKey, error: &str) {
        if let Some(client) = self.clients.get(&conn) {
            tracing::info!(pid = client.pid, error, "refused a client");
            client.outbox.send(Body::Registered(v1::Registered {
                error: error.to_owned(),
                ..v1::Registered::default()
            }));
            self.disconnected(conn);
        }
    }

    pub fn job_registered(&mut self, conn: ConnKey, reply: Result<v1::RegisterJobReply, String>) {
        tracing::debug!("the control store has answered for a job");
        let id = reply.and_then(|reply| JobId::from_bytes(&reply.job_id).map_err(|error| error.to_string()));
        let key = self.clients.get(&conn).and_then(|client| client.job);
        match (id, key) {
            (Ok(id), Some(key)) => {
                if let Some(job) = self.jobs.get_mut(&key) {
                    job.id = Some(id);
                }
                self.settle_registrations();
            }
            (Err(error), Some(_)) => {
                self.refuse(conn, &format!("the control store did not accept the job: {error}"));
            }
            // The driver is gone already; let the control store know, it counts the job as running.
            (Ok(id), None) => {
                let gcs = self.gcs.clone();
                tokio::spawn(async move {
                    let request = v1::FinishJobRequest { job_id: id.0.to_vec() };
                    let _ = gcs.ask::<_, v1::Empty>("FinishJob", request).await;
                });
            }
            (Err(_), None) => {}
        }
    }

    /// The driver goes on without a worker. What it must have, it hears of.
    pub fn registration_overdue(&mut self, conn: ConnKey) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.waited_enough = true;
            self.settle_registrations();
        }
        if let Some(what) = self.registration_lacks(conn) {
            let text = format!(
                "init() has waited {} s for the control store: {}.",
                FIRST_WORKER_LIMIT.as_secs(),
                what.in_words()
            );
            self.clients[&conn]
                .outbox
                .send(Body::Notice(v1::Notice { level: 1, text }));
        }
    }

    /// The end of a driver's wait for the control store. If its job is registered all the same some day, that is finished
    /// at once ([`Self::job_registered`]).
    pub fn registration_failed(&mut self, conn: ConnKey) {
        if let Some(what) = self.registration_lacks(conn) {
            let logs = self.config.session_dir.join("logs");
            let error = format!(
                "the control store (gcs) has not answered for {} s: {}. Is its disk very busy or full, or its process \
                 stopped? Its log is in {}. Call init() again when that is over",
                JOB_LIMIT.as_secs(),
                what.in_words(),
                logs.display()
            );
            self.refuse(conn, &error);
        }
    }

    /// What a driver that is not registered has not got from the control store.
    fn registration_lacks(&self, conn: ConnKey) -> Option<Lacking> {
        let client = self.clients.get(&conn).filter(|client| !client.registered)?;
        let job = client.job.and_then(|key| self.jobs.get(&key))?;
        Lacking::of(self.node_index.is_some(), job.id.is_some())
    }

    /// Answers everybody who needs to wait no longer.
    pub fn settle_registrations(&mut self) {
        if self.node_index.is_none() {
            return;
        }
        let ready = |conn: &ConnKey| {
            let client = &self.clients[conn];
            let Some(job) = client.job.and_then(|key| self.jobs.get(&key)) else {
                return false;
            };
            // A client has no workers, and the cluster's take no time of its start.
            let has_waited = client.waited_enough
                || self.config.is_client
                || job.workers_seen > 0
                || job.start_failures >= FAILURES_TO_TELL
                || job.own().is_under_way();
            !client.registered && job.id.is_some() && (client.role != Role::Driver || has_waited)
        };
        let mut conns: Vec<ConnKey> = self.clients.keys().copied().filter(ready).collect();
        conns.sort_unstable();
        for conn in conns {
            // What one registration sets in motion may have settled another.
            if self.clients.get(&conn).is_some_and(|client| !client.registered) {
                self.complete_registration(conn);
            }
        }
    }

    /// A driver's first lease takes its oldest worker that nobody has used.
    fn first_worker_for(&self, driver: ConnKey) -> Option<WorkerAddress> {
        let client = self.clients.get(&driver)?;
        if client.role != Role::Driver {
            return None;
        }
        let oldest = self
            .workers
            .iter()
            .filter(|(_, worker)| Some(worker.pool.job) == client.job && worker.pool.env == EnvKey::JOB)
            .filter(|(_, worker)| worker.conn.is_some() && !worker.set_up_follows)
            .min_by_key(|(token, _)| token.0);
        self.worker_address(*oldest?.0)
    }

    fn waits_for_a_worker(&self, job: JobKey) -> bool {
        self.clients
            .values()
            .any(|client| client.role == Role::Driver && client.job == Some(job) && !client.registered)
    }

    fn complete_registration(&mut self, conn: ConnKey) {
        if self.clients[&conn].role == Role::Remote {
            return self.complete_remote(conn);
        }
        let fds = match (self.store.share(), self.spin_fd.try_clone()) {
            (Ok(arena), Ok(spin)) => vec![arena, spin],
            (Err(error), _) | (_, Err(error)) => return self.refuse(conn, &format!("no descriptor is left: {error}")),
        };
        let arena_row = self.store.allocate_client();
        let process_number = self.next_process_number();
        let first_worker = self.first_worker_for(conn);
        let client = self.clients.get_mut(&conn).expect("the caller lists connected clients");
        let key = client.job.expect("its role is known");
        let job = &self.jobs[&key];
        client.registered = true;
        client.arena_row = arena_row;
        let role = client.role;
        // A program that begins finds its first worker waiting, not half-way through its start.
        let say_ready = matches!(role, Role::Worker(_)) && self.waits_for_a_worker(key);
        let client = &self.clients[&conn];
        let address_file = self.config.session_dir.join(GCS_ADDRESS_FILE);
        let registered = v1::Registered {
            node_id: self.node_id.0.to_vec(),
            job_id: job.id.expect("the caller has looked").0.to_vec(),
            process_number,
            arena_bytes: self.store.capacity(),
            arena_client: arena_row,
            session: self.session.clone(),
            session_dir: self.config.session_dir.to_string_lossy().into_owned(),
            gcs_address: std::fs::read_to_string(address_file)
                .unwrap_or_default()
                .trim()
                .to_owned(),
            node_ip: self.config.node_ip.clone(),
            namespace: job.config.namespace.clone(),
            node_resources: Some((&self.total).into()),
            error: String::new(),
            first_worker: first_worker.as_ref().map(Into::into),
            say_ready,
        };
        tracing::debug!(pid = client.pid, process_number, "a client is registered");
        client.outbox.send_with_fds(Body::Registered(registered), fds);
        if self.cluster.has_others() {
            let size = self.cluster_size();
            self.clients[&conn].outbox.send(Body::ClusterSize(size));
        }
        let (client, job) = (&self.clients[&conn], &self.jobs[&key]);
        if role == Role::Driver && job.workers_seen == 0 && !job.own().is_under_way() && !self.config.is_client {
            let last_failure = &job.own().last_failure;
            let text = if last_failure.is_empty() {
                "no worker process has started yet; tasks wait until one does".to_owned()
            } else {
                format!("worker processes do not start: {last_failure}")
            };
            client.outbox.send(Body::Notice(v1::Notice { level: 2, text }));
        }
        if role == Role::Driver && self.store.is_memfd() {
            let text = format!(
                "/dev/shm has no room for an object store of {} MiB, so it lies in anonymous shared memory.",
                self.store.capacity() >> 20
            );
            client.outbox.send(Body::Notice(v1::Notice { level: 0, text }));
        }
        self.decide(Event::ClientJoined {
            client: ClientKey(conn.0),
            job: key,
        });
        if let Role::Worker(token) = role {
            let worker = self.workers.get_mut(&token).expect("a connected worker is known");
            worker.was_registered = true;
            worker.says_ready = say_ready;
            if !worker.set_up_follows {
                self.worker_ready(token);
            }
        }
        self.store.start_prefault();
    }

    fn next_process_number(&mut self) -> u32 {
        let counter = self.next_process & ((1 << PROCESS_BITS) - 1);
        self.next_process += 1;
        self.node_index.expect("nobody is registered before") << PROCESS_BITS | counter
    }
}

/// What only the control store can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lacking {
    Node,
    Job,
}

impl Lacking {
    /// `has_node`: this node was accepted; `has_job`: the driver's job has its id.
    fn of(has_node: bool, has_job: bool) -> Option<Self> {
        match (has_node, has_job) {
            (false, _) => Some(Self::Node),
            (true, false) => Some(Self::Job),
            (true, true) => None,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Node => "it has not accepted this node yet",
            Self::Job => "it has not registered the program's job, which it does once the job is on its disk",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_lacks_the_node_before_the_job() {
        assert_eq!(Lacking::of(false, false), Some(Lacking::Node));
        assert_eq!(Lacking::of(false, true), Some(Lacking::Node));
        assert_eq!(Lacking::of(true, false), Some(Lacking::Job));
        assert_eq!(Lacking::of(true, true), None);
    }
}
