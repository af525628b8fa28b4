//! Worker processes, from the order to fork one to the report of its death.
//!
//! A worker's end shows in two ways that come in either order: its socket closes, and its exit status arrives (from its
//! zygote, or from the kernel when the zygote died first). The first frees what it held; the report to everybody waits
//! for the second, for a second at most.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_scheduler::{ClientKey, EnvKey, Event, PoolKey, StartFailure, WorkerKey};
use ray_rs_types::address::{arena_shared, socket_name};
use ray_rs_types::{ActorId, WorkerId};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitStatus, kill_process_group, pidfd_open, pidfd_send_signal, test_kill_process,
};

use crate::clients::{Client, Role};
use crate::input::{ConnKey, Token, ZygoteKey};
use crate::logs;
use crate::raylet::Raylet;
use crate::timers::Timer;

/// A worker that has not registered by then is ended.
const START_LIMIT: Duration = Duration::from_secs(60);
/// From the end of a socket to the end of its process.
const EXIT_LIMIT: Duration = Duration::from_secs(1);
/// From the end of a process to the end of its socket, which a child of it may hold open.
const SOCKET_LIMIT: Duration = Duration::from_millis(100);
/// From the order to leave to the end.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);
/// Reports kept for those who ask late.
const KEPT_REPORTS: usize = 1000;

#[derive(Debug)]
pub(crate) struct WorkerProcess {
    pub pool: PoolKey,
    pub zygote: ZygoteKey,
    /// Known when the zygote has said so, or the worker has registered.
    pub pid: Option<u32>,
    /// Set with `pid`, unless it had ended by then.
    pidfd: Option<OwnedFd>,
    /// Its connection, from its first frame to its end.
    pub conn: Option<ConnKey>,
    pub worker_id: WorkerId,
    /// The scheduler was told that it started, and not yet that it died.
    pub is_scheduled: bool,
    /// It was a registered client.
    pub was_registered: bool,
    /// It said that it has to set itself up after its registration, and has not said that it has.
    pub set_up_follows: bool,
    /// It was asked to send `WorkerReady` when it begins to wait; it may be leased before.
    pub says_ready: bool,
    /// The actor that it hosts, with the incarnation.
    pub actor: Option<(ActorId, u32)>,
    /// Since when it hosts its actor, and whether that is started again after its end.
    pub hosts: Option<Hosts>,
    /// It was ended for want of memory; whether what ran may be tried again.
    pub out_of_memory: Option<bool>,
    /// As `waitpid` gave it.
    status: Option<i32>,
    /// Why this raylet ended it.
    pub stop_reason: Option<String>,
    /// It was asked to leave, or has closed its socket, and is ended then.
    must_be_gone: Option<Instant>,
    /// It was sent SIGKILL.
    was_killed: bool,
}

/// How a worker is asked to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// When all that is queued there has run.
    InItsTime,
    /// Within [`LEAVE_LIMIT`].
    Soon,
    /// The same, if it owns nothing.
    UnlessNeeded,
}

fn exit(reason: &str, how: Leave) -> Body {
    Body::Exit(v1::Exit {
        reason: reason.to_owned(),
        graceful: true,
        unless_needed: how == Leave::UnlessNeeded,
    })
}

/// What is remembered of the actor that a worker hosts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hosts {
    pub since: Duration,
    pub restartable: bool,
}

/// Reports of processes that have died, and who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    reports: FxHashMap<WorkerId, v1::DeathReport>,
    order: VecDeque<WorkerId>,
    waiting: FxHashMap<WorkerId, Vec<(ConnKey, u64)>>,
}

impl Deaths {
    fn keep(&mut self, worker: WorkerId, report: v1::DeathReport) {
        if self.reports.insert(worker, report).is_none() {
            self.order.push_back(worker);
        }
        while self.order.len() > KEPT_REPORTS {
            let oldest = self.order.pop_front().expect("it is longer than the limit");
            self.reports.remove(&oldest);
        }
    }
}

impl Raylet {
    /// Orders a worker for a pool; what comes of it is told to the scheduler.
    pub fn start_worker(&mut self, pool: PoolKey) {
        let token = Token(self.next_token + 1);
        match self.zygote_for(pool) {
            Ok(Some(zygote)) => {
                zygote.fork(token);
                let zygote = zygote.key;
                self.next_token += 1;
                let worker = WorkerProcess {
                    pool,
                    zygote,
                    pid: None,
                    pidfd: None,
                    conn: None,
                    worker_id: WorkerId::NIL,
                    is_scheduled: false,
                    was_registered: false,
                    set_up_follows: false,
                    says_ready: false,
                    actor: None,
                    hosts: None,
                    out_of_memory: None,
                    status: None,
                    stop_reason: None,
                    must_be_gone: None,
                    was_killed: false,
                };
                self.workers.insert(token, worker);
                self.timers
                    .set(Instant::now() + START_LIMIT, Timer::StartOverdue(token));
            }
            Ok(None) => {}
            Err((reason, true)) => self.note_start_failure(pool, reason, StartFailure::Final),
            Err((reason, false)) => self.note_start_failure(pool, reason, StartFailure::Failed),
        }
    }

    pub fn worker_forked(&mut self, token: Token, pid: u32) {
        let Some(worker) = self.workers.get_mut(&token) else {
            // It was given up meanwhile (its job has ended): what was forked for it must not stay.
            return kill_process(pid);
        };
        tracing::debug!(pid, "a worker was forked");
        worker.learn_pid(pid);
        if worker.stop_reason.is_some() {
            worker.kill();
        } else if self.tenure.is_halted() {
            worker.halt();
        }
    }

    /// The worker can be given something to do.
    pub fn worker_ready(&mut self, token: Token) {
        let Some(worker) = self.workers.get_mut(&token).filter(|worker| worker.was_registered) else {
            return;
        };
        let pool = worker.pool;
        let Some(conn) = worker.conn else { return };
        let is_new = !std::mem::replace(&mut worker.is_scheduled, true);
        worker.set_up_follows = false;
        if !is_new || !worker.says_ready {
            if let Some(job) = self.jobs.get_mut(&pool.job) {
                job.workers_seen += 1;
            }
            self.settle_registrations();
        }
        if !is_new {
            return;
        }
        self.decide(Event::WorkerStarted {
            worker: WorkerKey(token.0),
            client: ClientKey(conn.0),
            pool,
        });
    }

    fn note_start_failure(&mut self, pool: PoolKey, reason: String, how: StartFailure) {
        if let Some(environment) = self.environment(pool) {
            environment.last_failure.clone_from(&reason);
        }
        if pool.env == EnvKey::JOB
            && let Some(known) = self.jobs.get_mut(&pool.job)
        {
            known.start_failures += 1;
        }
        let failed = Event::WorkerStartFailed { pool, reason, how };
        self.decide(failed);
        self.settle_registrations();
    }

    /// A worker that never registered will not.
    pub fn start_failed(&mut self, token: Token, reason: &str, how: StartFailure) {
        let Some(mut worker) = self.workers.remove(&token) else {
            return;
        };
        worker.kill();
        self.note_start_failure(worker.pool, reason.to_owned(), how);
        self.end_orphans();
        self.forget_job_if_over(worker.pool.job);
    }

    pub fn start_overdue(&mut self, token: Token) {
        if self
            .workers
            .get(&token)
            .is_some_and(|worker| worker.conn.is_none() && !worker.was_registered)
        {
            let reason = "a new worker process did not register within a minute";
            self.start_failed(token, reason, StartFailure::Failed);
        } else if self.workers.get(&token).is_some_and(|worker| worker.set_up_follows) {
            self.kill_worker(token, "its set-up did not end within a minute");
        }
    }

    pub fn kill_worker(&mut self, token: Token, reason: &str) {
        let Some(worker) = self.workers.get_mut(&token) else {
            return;
        };
        worker.stop_reason.get_or_insert_with(|| reason.to_owned());
        worker.kill();
    }

    /// It was asked to leave as idle and has answered that it is needed.
    pub fn worker_stays(&mut self, conn: ConnKey) {
        let Some(token) = self.worker_of(conn) else { return };
        let worker = self.workers.get_mut(&token).expect("the client is this worker's");
        (worker.stop_reason, worker.must_be_gone) = (None, None);
        self.decide(Event::WorkerStays {
            worker: WorkerKey(token.0),
        });
    }

    /// Nobody has a use for this worker any more. If it lives it leaves; how it ends is told as it is.
    pub fn let_go(&mut self, token: Token) {
        let worker = self.workers.get(&token);
        if let Some(client) = worker.and_then(|worker| self.clients.get(&worker.conn?)) {
            client.outbox.send(exit("it was of no use any more", Leave::Soon));
            self.set_leave_limit(token, LEAVE_LIMIT);
        }
    }

    fn set_leave_limit(&mut self, token: Token, limit: Duration) {
        if let Some(worker) = self.workers.get_mut(&token) {
            let due = Instant::now() + limit;
            worker.must_be_gone = Some(worker.must_be_gone.map_or(due, |earlier| earlier.min(due)));
            self.timers.set(due, Timer::MustBeGone(token));
        }
    }

    pub fn worker_of(&self, conn: ConnKey) -> Option<Token> {
        match self.clients.get(&conn)?.role {
            Role::Worker(token) => Some(token),
            Role::Driver | Role::Unknown | Role::Remote => None,
        }
    }

    /// Asks a worker to leave in order.
    pub fn ask_to_leave(&mut self, token: Token, reason: &str, how: Leave) {
        let Some(worker) = self.workers.get_mut(&token) else {
            return;
        };
        worker.stop_reason.get_or_insert_with(|| reason.to_owned());
        if let Some(client) = worker.conn.and_then(|conn| self.clients.get(&conn)) {
            client.outbox.send(exit(reason, how));
            if how != Leave::InItsTime {
                self.set_leave_limit(token, LEAVE_LIMIT);
            }
        } else {
            worker.kill();
        }
    }

    pub fn must_be_gone(&mut self, token: Token) {
        if let Some(worker) = self.workers.get_mut(&token)
            && worker.must_be_gone.is_some_and(|due| due <= Instant::now())
        {
            worker.kill();
        }
    }

    /// A client's socket has closed (RAY-1).
    pub fn disconnected(&mut self, conn: ConnKey) {
        let Some(client) = self.clients.remove(&conn) else {
            return;
        };
        client.reader.abort();
        self.describes_no_more(conn);
        if client.registered {
            self.release_client(conn, &client);
        }
        if matches!(client.role, Role::Driver | Role::Worker(_)) {
            // Who was killed has not removed it.
            let sockets = self.config.session_dir.join("sockets");
            let _ = std::fs::remove_file(sockets.join(socket_name(&client.worker_id)));
        }
        match client.role {
            Role::Unknown => {}
            Role::Driver => self.driver_gone(client),
            Role::Remote => {
                if let Some(job) = client.job.and_then(|key| self.jobs.get_mut(&key))
                    && job.driver == Some(conn)
                {
                    job.driver = None;
                }
            }
            Role::Worker(token) => {
                let Some(worker) = self.workers.get_mut(&token) else {
                    return;
                };
                worker.conn = None;
                if worker.status.is_some() {
                    self.worker_gone(token);
                } else {
                    self.set_leave_limit(token, EXIT_LIMIT);
                    let overdue = Instant::now() + EXIT_LIMIT + EXIT_LIMIT / 5;
                    self.timers.set(overdue, Timer::StatusOverdue(token));
                    self.give_up_lost_statuses();
                }
            }
        }
    }

    fn release_client(&mut self, conn: ConnKey, client: &Client) {
        if let Role::Worker(token) = client.role {
            self.unschedule(token);
        }
        self.decide(Event::ClientGone {
            client: ClientKey(conn.0),
        });
        self.actors.unfollow(conn);
        self.groups.unfollow(conn);
        self.cluster.client_gone(conn);
        if client.role == Role::Remote {
            return;
        }
        self.spin.clear_pid(client.pid);
        self.store.client_died(conn, client, &self.clients);
        let job_is_over = |key| self.jobs.get(&key).is_none_or(|job| job.ended);
        match client.role {
            Role::Worker(_) if client.job.is_some_and(job_is_over) => {
                self.orphans_unclaimed(arena_shared(&client.worker_id));
            }
            Role::Worker(_) => self.may_be_adopted(&client.worker_id),
            Role::Unknown | Role::Driver | Role::Remote => {}
        }
    }

    /// The worker's resources are free from here on.
    pub fn unschedule(&mut self, token: Token) {
        if let Some(worker) = self.workers.get_mut(&token)
            && std::mem::take(&mut worker.is_scheduled)
        {
            self.decide(Event::WorkerDied {
                worker: WorkerKey(token.0),
            });
        }
    }

    fn driver_gone(&mut self, client: Client) {
        let Some(key) = client.job else { return };
        let job_id = self.jobs.get(&key).and_then(|job| job.id);
        self.end_job(key);
        let report = v1::DeathReport {
            worker_id: client.worker_id.0.to_vec(),
            pid: client.pid,
            exit_code: -1,
            detail: "the driver has disconnected".to_owned(),
            known: true,
            ..v1::DeathReport::default()
        };
        if let Some(job_id) = job_id {
            self.publish_death(client.worker_id, report, job_id.0.to_vec());
        }
    }

    /// Some process has ended: as its zygote says, or as the kernel says to us as its (foster) parent.
    pub fn process_ended(&mut self, pid: u32, status: Option<i32>) {
        let found = self
            .workers
            .iter()
            .find(|(_, worker)| worker.pid == Some(pid))
            .map(|(token, _)| *token);
        let Some(token) = found else { return };
        let worker = self.workers.get_mut(&token).expect("just found");
        worker.status = worker.status.or(status);
        if worker.conn.is_some() {
            // What it sent last is still to be read.
            self.timers
                .set(Instant::now() + SOCKET_LIMIT, Timer::SocketOutlives(token));
        } else if worker.was_registered {
            self.worker_gone(token);
        } else {
            let (pool, zygote, worker_was_killed) = (worker.pool, worker.zygote, worker.was_killed);
            let how = describe(status);
            let zygote = self
                .environment(pool)
                .and_then(|environment| environment.zygote.as_ref())
                .filter(|known| known.key == zygote);
            let last_words = zygote
                .map(|zygote| logs::last_words(&zygote.stderr_path))
                .unwrap_or_default();
            let reason = format!("a new worker process ended before it registered ({how})\n{last_words}");
            let how = how_ended(status, worker_was_killed);
            self.start_failed(token, reason.trim_end(), how);
        }
    }

    pub fn socket_outlives(&mut self, token: Token) {
        let conn = self
            .workers
            .get(&token)
            .filter(|worker| worker.status.is_some())
            .and_then(|worker| worker.conn);
        if let Some(conn) = conn {
            self.disconnected(conn);
        }
    }

    pub fn status_overdue(&mut self, token: Token) {
        if self.workers.get(&token).is_some_and(|worker| worker.conn.is_none()) {
            self.worker_gone(token);
        }
    }

    /// A zygote that is killed may have taken its children's statuses with it, untold: then nobody will ever tell.
    pub fn give_up_lost_statuses(&mut self) {
        let is_lost = |worker: &WorkerProcess| {
            let awaited = worker.conn.is_none() && worker.pid.is_some() && worker.status.is_none();
            awaited && !self.zygotes.contains_key(&worker.zygote) && worker.is_reaped()
        };
        let lost = self.workers.iter().filter(|(_, worker)| is_lost(worker));
        let lost: Vec<Token> = lost.map(|(token, _)| *token).collect();
        for token in lost {
            self.worker_gone(token);
        }
    }

    /// Everything that will ever be known of its end is known.
    fn worker_gone(&mut self, token: Token) {
        if self.workers.get(&token).is_some_and(|worker| !worker.was_registered) {
            let reason = "a new worker process ended before it registered";
            return self.start_failed(token, reason, StartFailure::Killed);
        }
        let Some(worker) = self.workers.remove(&token) else {
            return;
        };
        if let Some((actor, _)) = worker.actor {
            self.actors.worker_gone(actor, token);
        }
        self.memory.worker_died(token);
        let pid = worker.pid.unwrap_or_default();
        let job_id = self.jobs.get(&worker.pool.job).and_then(|job| job.id);
        let last_stderr = match job_id {
            Some(job) => {
                let stem = logs::file_stem(&worker.worker_id, job, pid);
                let (logs, mut sink) = self.logs_and_sink();
                logs.process_ended(&stem, &mut sink)
            }
            None => String::new(),
        };
        // What was killed from here, and nobody tells of, died of that.
        let status = worker.status.or(worker.was_killed.then_some(Signal::KILL.as_raw()));
        let (exit_code, signal) = decode(status);
        let left_in_order = exit_code == 0 && !worker.was_killed;
        let group_removed = worker.stop_reason.as_deref() == Some(crate::leases::GROUP_REMOVED);
        let report = v1::DeathReport {
            request_id: 0,
            worker_id: worker.worker_id.0.to_vec(),
            pid,
            exit_code,
            signal,
            last_stderr,
            detail: worker
                .stop_reason
                .map(|why| format!("the raylet ended it because {why}"))
                .unwrap_or_default(),
            known: status.is_some(),
            out_of_memory: worker.out_of_memory.map(|may_retry| v1::OutOfMemory { may_retry }),
            group_removed,
        };
        if worker.set_up_follows {
            let reason = format!(
                "the set-up of a worker process failed ({}):\n{}",
                describe(status),
                report.last_stderr
            );
            self.note_start_failure(worker.pool, reason, how_ended(status, worker.was_killed));
        } else if !report.last_stderr.is_empty()
            && let Some(environment) = self.environment(worker.pool)
        {
            environment.last_failure = format!(
                "a worker process ended ({}); its last words were:\n{}",
                describe(status),
                report.last_stderr
            );
        }
        self.publish_death(worker.worker_id, report, Vec::new());
        self.end_orphans_of(token, worker.zygote, pid, left_in_order);
        self.forget_job_if_over(worker.pool.job);
    }

    fn publish_death(&mut self, worker: WorkerId, report: v1::DeathReport, driver_job_id: Vec<u8>) {
        for (conn, request_id) in self.deaths.waiting.remove(&worker).unwrap_or_default() {
            if let Some(client) = self.clients.get(&conn) {
                client.outbox.send(Body::DeathReport(v1::DeathReport {
                    request_id,
                    ..report.clone()
                }));
            }
        }
        let worker_id = worker.0.to_vec();
        for client in self.clients.values().filter(|client| client.registered) {
            let died = v1::WorkerDied {
                worker_id: worker_id.clone(),
                report: Some(report.clone()),
            };
            client.outbox.send(Body::WorkerDied(died));
        }
        let died = v1::NodeWorkerDied {
            worker_id,
            driver_job_id,
            report: Some(report.clone()),
        };
        self.gcs.report(v1::node_report::Body::WorkerDied(died));
        self.deaths.keep(worker, report);
    }

    /// A client asks how another process ended.
    pub fn why_died(&mut self, conn: ConnKey, request: &v1::WhyDied) {
        let Ok(worker) = WorkerId::from_bytes(&request.worker_id) else {
            return;
        };
        let Some(client) = self.clients.get(&conn) else { return };
        let request_id = request.request_id;
        if let Some(report) = self.deaths.reports.get(&worker) {
            client.outbox.send(Body::DeathReport(v1::DeathReport {
                request_id,
                ..report.clone()
            }));
            return;
        }
        self.deaths.waiting.entry(worker).or_default().push((conn, request_id));
        self.timers
            .set(Instant::now() + EXIT_LIMIT, Timer::ReasonOverdue(worker));
    }

    pub fn reason_overdue(&mut self, worker: WorkerId) {
        for (conn, request_id) in self.deaths.waiting.remove(&worker).unwrap_or_default() {
            if let Some(client) = self.clients.get(&conn) {
                let worker_id = worker.0.to_vec();
                let unknown = v1::DeathReport {
                    request_id,
                    worker_id,
                    exit_code: -1,
                    ..v1::DeathReport::default()
                };
                client.outbox.send(Body::DeathReport(unknown));
            }
        }
    }

    /// The pids of workers that may still live.
    pub fn worker_pids(&self) -> FxHashSet<u32> {
        self.workers.values().filter_map(|worker| worker.pid).collect()
    }
}

impl WorkerProcess {
    pub fn learn_pid(&mut self, pid: u32) {
        if self.pid.is_none() {
            self.pid = Some(pid);
            // It may have ended already: then there is nothing to signal, and its status is on the way.
            self.pidfd = as_pid(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        }
    }

    pub fn kill(&mut self) {
        if let Some(pidfd) = &self.pidfd
            && pidfd_send_signal(pidfd, Signal::KILL).is_ok()
        {
            self.was_killed = true;
        }
    }

    /// Stops it where it stands, and what it has started; [`kill`](Self::kill) works all the same.
    pub fn halt(&self) {
        self.signal_all(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        if let Some(pidfd) = &self.pidfd
            && pidfd_send_signal(pidfd, signal).is_ok()
            && let Some(pid) = self.pid.and_then(as_pid)
        {
            // As long as it lives, its number is that of its group; it has none of its own when it was forked just now.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Its process is gone, status and all. (Should the number be in use again, a timer says so later.)
    fn is_reaped(&self) -> bool {
        self.pid
            .and_then(as_pid)
            .is_none_or(|pid| test_kill_process(pid).is_err())
    }
}

/// Ends a process that is no worker of ours (any more), if it is still there.
pub(crate) fn kill_process(pid: u32) {
    if let Some(pid) = as_pid(pid)
        && let Ok(fd) = pidfd_open(pid, PidfdFlags::empty())
    {
        let _ = pidfd_send_signal(fd, Signal::KILL);
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Exit code and signal.
fn decode(status: Option<i32>) -> (i32, i32) {
    // The numbers are those of `waitpid`: seven bits of signal, then eight of exit code.
    let Some(status) = status else { return (-1, 0) };
    match status & 0x7f {
        0 => ((status >> 8) & 0xff, 0),
        signal => (-1, signal),
    }
}

/// What the end of a process that was not ready yet says of the next. `by_us`: it was to end.
pub(crate) fn how_ended(status: Option<i32>, by_us: bool) -> StartFailure {
    match decode(status) {
        (_, signal) if signal == Signal::KILL.as_raw() && !by_us => StartFailure::Killed,
        _ => StartFailure::Failed,
    }
}

fn describe(status: Option<i32>) -> String {
    match (status, decode(status)) {
        (None, _) => "its exit status is unknown".to_owned(),
        (Some(_), (code, 0)) => format!("exit code {code}"),
        (Some(_), (_, signal)) => format!("signal {signal}"),
    }
}

/// The number that `waitpid` gave.
pub(crate) fn raw_status(status: WaitStatus) -> i32 {
    status.as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_read() {
        assert_eq!(decode(Some(0)), (0, 0));
        assert_eq!(decode(Some(3 << 8)), (3, 0));
        assert_eq!(decode(Some(9)), (-1, 9));
        assert_eq!(decode(Some(11 | 0x80)), (-1, 11), "a core was dumped");
        assert_eq!(decode(None), (-1, 0));
        assert_eq!(describe(Some(9)), "signal 9");
    }
}
