//! The loop's state, and the loop.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ray_rs_lanes::SpinTable;
use ray_rs_proto::v1;
use ray_rs_scheduler::bottom_up::forward::Rules;
use ray_rs_scheduler::bottom_up::heartbeat::{Backlog, Encoder};
use ray_rs_scheduler::liveness::Tenure;
use ray_rs_scheduler::{Event, JobKey, Options, PoolKey, Scheduler};
use ray_rs_transport::grpc::Address;
use ray_rs_transport::process::Identity;
use ray_rs_transport::session::{GCS_SOCKET, RAYLET_SOCKET};
use ray_rs_transport::{ProcessMark, ProcessWatch, Token as Secret, relay};
use ray_rs_types::{JobId, NodeId, ResourceSet, WorkerId};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::actors::Actors;
use crate::clients::{Client, accept_loop};
use crate::cluster::Cluster;
use crate::config::RayletConfig;
use crate::describe::Inquiries;
use crate::describe_nodes::NodeInquiries;
use crate::draining::{Draining, Idleness};
use crate::gcs_link::GcsLink;
use crate::gcs_process::GcsProcess;
use crate::groups::Groups;
use crate::input::{ConnKey, Input, Inputs, Token, ZygoteKey};
use crate::jobs::Job;
use crate::logs::{LogAgent, Sink};
use crate::memory::Memory;
use crate::object_service::ObjectService;
use crate::reaper::children_end;
use crate::replicas::Replicas;
use crate::timers::{Timer, Timers};
use crate::transfer::Transfers;
use crate::visitors;
use crate::workers::{Deaths, WorkerProcess};

/// Inputs that wait; clients that send more than the loop can take wait on their sockets.
const INPUTS: usize = 1024;
/// Inputs taken before the timers are looked at again.
const INPUTS_AT_ONCE: usize = 64;
/// What is available is told to the control store at most so often, and only when it has changed.
const HEARTBEAT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Raylet {
    pub config: RayletConfig,
    pub session: String,
    pub node_id: NodeId,
    pub total: ResourceSet,
    /// Given by the control store; nobody is registered before.
    pub node_index: Option<u32>,
    pub next_process: u32,
    pub inputs: Inputs,
    pub timers: Timers,
    pub started: Instant,
    pub scheduler: Scheduler,
    /// Events that arose while orders were carried out.
    pub undecided: VecDeque<Event>,
    pub deciding: bool,
    pub clients: FxHashMap<ConnKey, Client>,
    pub workers: FxHashMap<Token, WorkerProcess>,
    pub next_token: u64,
    pub jobs: FxHashMap<JobKey, Job>,
    pub next_job: u32,
    /// Of the zygotes that live, the environment of each.
    pub zygotes: FxHashMap<ZygoteKey, PoolKey>,
    pub next_zygote: u64,
    /// Zygotes whose job has ended: whatever descends from one is ended when it is found.
    pub marks_to_end: Vec<(ZygoteKey, JobKey)>,
    /// Of workers that have left in order, while something runs that they have started.
    pub marks_left_behind: FxHashSet<ProcessMark>,
    /// Looks in vain at orphans that did not show their mark, since the last job ended.
    pub looks_at_orphans: u32,
    /// What a worker has started ends with it, and not only with its job.
    pub children_end: bool,
    pub deaths: Deaths,
    pub actors: Actors,
    pub groups: Groups,
    pub gcs: GcsLink,
    pub gcs_address: Address,
    /// On a head: what is started again when it ends.
    pub gcs_process: Option<GcsProcess>,
    /// Since when there has been no connection to the control store, after the first.
    pub gcs_away_since: Option<Instant>,
    /// Drivers were told that the control store is gone.
    pub told_gcs_gone: bool,
    pub store: ObjectService,
    pub spin: Arc<SpinTable>,
    pub spin_fd: OwnedFd,
    pub logs: LogAgent,
    pub memory: Memory,
    pub inquiries: Inquiries,
    pub node_inquiries: NodeInquiries,
    pub cluster: Cluster,
    pub replicas: Replicas,
    /// Processes of other nodes that have to do with processes of this one, and may own what lies here.
    pub remote_owners: FxHashMap<NodeId, FxHashSet<WorkerId>>,
    pub transfers: Transfers,
    /// Clients that came through the node's port so far.
    pub visitors: u64,
    /// Asked for, see [`Self::fetch_job`].
    pub fetching_jobs: FxHashSet<JobId>,
    /// Orders that wait for their job.
    pub starts_waiting: Vec<v1::StartActor>,
    pub finished_jobs: FxHashSet<JobId>,
    /// Since when a node of a cluster has had no control store.
    pub alone_since: Option<Instant>,
    /// How long its workers may run without word from the control store.
    pub tenure: Tenure,
    /// When the link asked for this node to be taken, the last time.
    pub asked_to_join: Option<Instant>,
    /// How often the control store is asked whether it hears this node; `None`: never.
    pub asks_each: Option<Duration>,
    /// It is about to leave its cluster.
    pub drain: Option<Draining>,
    pub idleness: Idleness,
    told_backlog: Backlog,
    /// Actors that wait here, as the control store knows.
    told_actors: Backlog,
    pub(crate) heartbeats: Encoder,
    /// The scheduler's count of changes that the control store knows.
    told_changes: u64,
    heartbeat_set: bool,
    last_heartbeat: Instant,
    ended: Option<&'static str>,
}

/// Serves the node until its session ends: by SIGTERM, by the end of the driver that it belongs to, or by that driver's
/// word. `listener` is `<session>/sockets/raylet`, bound and listening. All processes of the node have ended when this
/// returns.
///
/// Must run on a current-thread Tokio runtime, in a process that has no other children.
///
/// # Errors
/// When the node cannot be set up. Once it serves, nothing but the end of the session ends it.
pub async fn run(config: RayletConfig, listener: OwnedFd) -> anyhow::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot become a subreaper")?;
    let (inputs, mut incoming) = mpsc::channel(INPUTS);
    let mut config = config;
    let port = match config.listen {
        Some(address) => {
            let port = tokio::net::TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))?;
            // Where others reach it: the port that it got, at the address by which the node is known.
            config.listen = Some(SocketAddr::new(config.node_ip.parse()?, port.local_addr()?.port()));
            Some(port)
        }
        None => None,
    };
    let mut raylet = Raylet::new(config, inputs.clone())?;
    if port.is_some() || raylet.config.is_client {
        let secret =
            Secret::read(&raylet.config.session_dir.join("token")).context("cannot read the session's token")?;
        match port {
            Some(port) => tokio::spawn(visitors::host(port, secret, inputs.clone())),
            None => tokio::spawn(visitors::host_through(
                raylet.gcs_address.clone(),
                secret,
                raylet.node_id,
                inputs.clone(),
            )),
        };
    }
    watch_ends(&raylet, inputs.clone())?;
    if let Some(gcs) = &raylet.gcs_process {
        gcs.watch(inputs.clone()).context("cannot watch the control store")?;
    }
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let accepting = tokio::spawn(accept_loop(UnixListener::from_std(listener)?, inputs));
    while raylet.ended.is_none() {
        let due = raylet.next_due();
        tokio::select! {
            input = incoming.recv() => {
                let Some(input) = input else { break };
                raylet.take(input);
                for _ in 0..INPUTS_AT_ONCE {
                    match incoming.try_recv() {
                        Ok(input) if raylet.ended.is_none() => raylet.take(input),
                        Ok(_) | Err(_) => break,
                    }
                }
            }
            () = sleep_until(due) => {}
        }
        raylet.take_timers();
        raylet.watch_memory();
        raylet.look_whether_idle();
        raylet.heartbeat_if_changed();
        raylet.leave_if_drained();
    }
    tracing::debug!(why = raylet.ended.unwrap_or_default(), "the session ends");
    accepting.abort();
    raylet.leave_cluster().await;
    raylet.end_everything();
    raylet.end_gcs();
    // The sign that nothing is left to end.
    let _ = std::fs::remove_file(raylet.config.session_dir.join(RAYLET_SOCKET));
    Ok(())
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The three ways in which a session ends, and the ends of children, as inputs.
fn watch_ends(raylet: &Raylet, inputs: Inputs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut children = signal(SignalKind::child())?;
    let driver = raylet.config.driver_pid.map(ProcessWatch::new).transpose()?;
    tokio::spawn(async move {
        let driver_ended = async {
            match &driver {
                Some(driver) => driver.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(driver_ended);
        loop {
            let input = tokio::select! {
                _ = terminate.recv() => Input::EndSession("it was asked to end"),
                _ = interrupt.recv() => Input::EndSession("it was interrupted"),
                () = &mut driver_ended => Input::EndSession("its driver has ended"),
                _ = children.recv() => Input::ChildEnded,
            };
            let last = matches!(input, Input::EndSession(_));
            if inputs.send(input).await.is_err() || last {
                return;
            }
        }
    });
    Ok(())
}

impl Raylet {
    fn new(mut config: RayletConfig, inputs: Inputs) -> anyhow::Result<Self> {
        // The launching driver's zygote takes longest of all that a start waits for, so it comes first.
        let launched = config.driver_config.clone().map(|driver| {
            let zygote = Job::first_zygote(&driver, &config, &inputs);
            (driver, zygote)
        });
        let total = config.resource_set();
        let log_dir = config.session_dir.join("logs");
        let logs = LogAgent::start(&log_dir, inputs.clone()).context("cannot watch the log directory")?;
        let mut node_id = [0; NodeId::SIZE];
        getrandom::fill(&mut node_id).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        let node_id = match parse_hex(&config.node_id) {
            Some(chosen) => NodeId(chosen),
            None => NodeId(node_id),
        };
        config.labels.insert("ray.io/node-id".to_owned(), node_id.hex());
        let mut scheduler = Scheduler::new(total.clone(), Options::default()).on_node(node_id, config.labels.clone());
        let drain = config.is_client.then(Draining::of_client);
        let rules = Rules {
            serves_here: !config.is_client,
            ..Rules::default()
        };
        if config.is_client {
            // Before anything is there that could follow from it.
            scheduler.on_event(Duration::ZERO, Event::NodeDrains, &mut Vec::new());
        }
        let mut incarnation = [0; 8];
        getrandom::fill(&mut incarnation).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        let node = v1::NodeInfo {
            incarnation: u64::from_ne_bytes(incarnation),
            process: Identity::mine().map(|mine| v1::ProcessIdentity {
                pid: mine.pid,
                pid_namespace: mine.pid_namespace,
                started_ticks: mine.started_ticks,
            }),
            drain: drain.as_ref().map(|drain| drain.info.clone()),
            ..node_info(&config, node_id, 0, &total, &total)
        };
        let gcs_address = match config.gcs_address {
            Some(address) => Address::Tcp(address),
            None => Address::Unix(config.session_dir.join(GCS_SOCKET)),
        };
        let gcs = GcsLink::start(&config.session_dir, gcs_address.clone(), node, inputs.clone());
        let store = ObjectService::create(
            config.object_store_bytes,
            &config.session_dir,
            &config.spill_directory,
            inputs.clone(),
        )
        .context("cannot make the object store's memory")?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (spin, spin_fd) = SpinTable::create(SpinTable::slots_for(cores)).context("cannot make the spin table")?;
        let session = config
            .session_dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut raylet = Self {
            session,
            node_id,
            told_changes: 0,
            total,
            node_index: None,
            next_process: 0,
            inputs,
            timers: Timers::default(),
            started: Instant::now(),
            scheduler,
            undecided: VecDeque::new(),
            deciding: false,
            clients: FxHashMap::default(),
            workers: FxHashMap::default(),
            next_token: 0,
            jobs: FxHashMap::default(),
            next_job: 0,
            zygotes: FxHashMap::default(),
            next_zygote: 0,
            marks_to_end: Vec::new(),
            marks_left_behind: FxHashSet::default(),
            looks_at_orphans: 0,
            children_end: children_end(),
            deaths: Deaths::default(),
            actors: Actors::default(),
            groups: Groups::default(),
            gcs,
            gcs_address,
            gcs_process: GcsProcess::launched(&config),
            gcs_away_since: None,
            told_gcs_gone: false,
            store,
            spin: Arc::new(spin),
            spin_fd,
            logs,
            memory: Memory::from_env(),
            inquiries: Inquiries::default(),
            node_inquiries: NodeInquiries::default(),
            cluster: Cluster::new(rules),
            replicas: Replicas::new(config.session_dir.join("token"), node_id),
            remote_owners: FxHashMap::default(),
            transfers: Transfers::default(),
            visitors: 0,
            fetching_jobs: FxHashSet::default(),
            starts_waiting: Vec::new(),
            finished_jobs: FxHashSet::default(),
            alone_since: None,
            tenure: Tenure::default(),
            asked_to_join: None,
            asks_each: None,
            drain,
            idleness: Idleness::default(),
            told_backlog: Backlog::new(),
            told_actors: Backlog::new(),
            heartbeats: Encoder::new(0),
            heartbeat_set: false,
            last_heartbeat: Instant::now(),
            ended: None,
            config,
        };
        if let Some((driver, zygote)) = launched {
            raylet.open_job(driver, zygote, None);
        }
        Ok(raylet)
    }

    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn next_due(&self) -> Option<Instant> {
        let decision = self.scheduler.next_deadline().map(|deadline| self.started + deadline);
        let memory = self.memory.next_deadline().map(|deadline| self.started + deadline);
        let tenure = self.tenure.next_deadline().map(|deadline| self.started + deadline);
        [decision, memory, tenure, self.timers.next_due(), self.store.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Connected {
                conn,
                pid,
                outbox,
                reader,
            } => {
                self.clients.insert(conn, Client::new(pid, outbox, reader));
            }
            Input::Frame { conn, body } => self.take_frame(conn, body),
            Input::Disconnected { conn } => self.disconnected(conn),
            Input::Drained { conn } => self.read_kept_logs(conn),
            Input::Zygote { zygote, word } => self.take_zygote_word(zygote, word),
            Input::EnvironmentMade { pool, answer } => self.environment_made(pool, answer.trim_end()),
            Input::ChildEnded => self.reap(),
            Input::Gcs(body) => self.take_command(*body),
            Input::GcsLost => self.gcs_is_gone(),
            Input::GcsEnded => self.gcs_ended(),
            Input::GcsAsked(when) => self.asked_to_join = Some(when),
            Input::GcsNotThere(when) => self.control_store_is_not_there(when),
            Input::CallAnswered { conn, reply } => {
                let request = reply.request_id;
                if let Some(client) = self.clients.get(&conn) {
                    client.outbox.send(v1::from_raylet::Body::GcsReply(reply));
                }
                self.told_gcs(conn, request);
            }
            Input::JobRegistered { conn, reply } => self.job_registered(conn, reply),
            Input::ActorLookedUp { actor, reply } => self.actor_looked_up(actor, *reply),
            Input::PagesReserved {
                conn,
                request_id,
                row,
                grant,
            } => {
                self.store.pages_reserved(conn, request_id, row, grant, &self.clients);
            }
            Input::FileWritten {
                file,
                parts,
                outcome,
                took,
            } => {
                self.store.file_written(file, &parts, outcome, took, &self.clients);
            }
            Input::ObjectRead {
                key,
                restore,
                outcome,
                took,
            } => {
                self.store.object_read(key, restore, outcome, took, &self.clients);
            }
            Input::ObjectLent {
                key,
                asker,
                part,
                outcome,
                took,
            } => {
                self.store.object_lent(key, asker, &part, outcome, took, &self.clients);
            }
            Input::Visitor { stream, greeting } => self.visitor_came(stream, greeting),
            Input::JobFetched { job, reply } => self.job_fetched(job, reply),
            Input::NodePicked {
                conn,
                request_id,
                reply,
            } => self.node_picked(conn, request_id, reply),
            Input::RoomForCopy { key, room, fetch } => self.room_for_copy(key, room, *fetch),
            Input::ReaderAsks {
                key,
                bytes,
                reader,
                failed,
                answer,
            } => {
                let _ = answer.send(self.reader_asks(key, bytes, reader, failed));
            }
            Input::CopyAsked { key, answer } => self.copy_asked(key, answer),
            Input::Pulled {
                key,
                outcome,
                bytes,
                took,
            } => self.value_arrived(key, outcome, bytes, took),
            Input::NodeDescribed { inquiry, node, outcome } => self.node_described(inquiry, node, outcome),
            Input::VisitorWants { key, answer } => self.store.visitor_wants(key, answer, &self.clients),
            Input::VisitorHasIt(place) => self.store.visitor_has_it(place, &self.clients),
            Input::Refused(why) => {
                tracing::error!(why, "the cluster does not take this node");
                self.ended = Some("the cluster refused it");
            }
            Input::LogsWritten(names) => self.logs_written(&names),
            Input::EndSession(why) => self.ended = Some(why),
        }
    }

    fn take_timers(&mut self) {
        let now = Instant::now();
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::StartOverdue(token) => self.start_overdue(token),
                Timer::MustBeGone(token) => self.must_be_gone(token),
                Timer::SocketOutlives(token) => self.socket_outlives(token),
                Timer::StatusOverdue(token) => self.status_overdue(token),
                Timer::RegistrationOverdue(conn) => self.registration_overdue(conn),
                Timer::RegistrationFailed(conn) => self.registration_failed(conn),
                Timer::ReasonOverdue(worker) => self.reason_overdue(worker),
                Timer::EnvironmentUnused(pool, uses) => self.environment_unused(pool, uses),
                Timer::LookAtOrphans => self.end_orphans(),
                Timer::AnswersOverdue => self.look_at_workers_is_over(),
                Timer::DescriptionsOverdue(inquiry) => self.descriptions_overdue(inquiry),
                Timer::NodesOverdue(inquiry) => self.nodes_overdue(inquiry),
                Timer::AskNodes => self.begin_asking_nodes(),
                Timer::LookRound => self.look_round_is_due(),
                Timer::ComeAgain(conn, request_id) => self.may_come_again(conn, request_id),
                Timer::OrphansUnclaimed(owner) => self.orphans_unclaimed(owner),
                Timer::Heartbeat => self.heartbeat(),
                Timer::DrainOverdue => self.drain_overdue(),
                // It has woken the loop, which looks.
                Timer::LookWhetherIdle => {}
                Timer::AloneTooLong => self.alone_too_long(),
                Timer::StartGcs => self.start_gcs(),
                Timer::GcsStaysAway => self.gcs_stays_away(),
                Timer::AskWhetherHeard => self.ask_whether_heard(),
            }
        }
        self.look_at_tenure();
        if self.store.next_due().is_some_and(|due| due <= now) {
            self.store.tick(now, &self.clients);
        }
        if self
            .scheduler
            .next_deadline()
            .is_some_and(|deadline| deadline <= self.now())
        {
            self.decide(Event::Tick);
        }
    }

    fn heartbeat_if_changed(&mut self) {
        let changed =
            self.told_changes != self.scheduler.changes() || self.told_backlog != *self.cluster.forwarder.backlog();
        let changed = changed || self.config.is_in_cluster() && self.told_actors != self.scheduler.actors_waiting();
        let changed = changed || self.idleness.is_idle != self.idleness.told;
        if !self.heartbeat_set && changed {
            self.heartbeat_set = true;
            self.timers.set(self.last_heartbeat + HEARTBEAT_PAUSE, Timer::Heartbeat);
        }
    }

    fn heartbeat(&mut self) {
        self.heartbeat_set = false;
        self.last_heartbeat = Instant::now();
        self.told_changes = self.scheduler.changes();
        self.told_backlog.clone_from(self.cluster.forwarder.backlog());
        self.told_actors = self.scheduler.actors_waiting();
        self.report_use(false);
    }

    /// The session's end, by a client's word.
    pub fn end_session(&mut self, why: &'static str) {
        self.ended = Some(why);
    }

    pub fn node_info(&self) -> v1::NodeInfo {
        let index = self.node_index.unwrap_or(0);
        let info = node_info(
            &self.config,
            self.node_id,
            index,
            &self.scheduler.total_with_groups(),
            &self.scheduler.available_with_groups(),
        );
        v1::NodeInfo {
            backlog: self.cluster.forwarder.len() as u32,
            leases: Some(self.cluster.counts()),
            drain: self.drain.as_ref().map(|drain| drain.info.clone()),
            ..info
        }
    }

    fn logs_written(&mut self, names: &[String]) {
        let (logs, mut sink) = self.logs_and_sink();
        if names.is_empty() {
            // The kernel lost count.
            logs.read_everything(&mut sink);
        }
        let again: Vec<String> = names
            .iter()
            .filter(|name| logs.read(name, &mut sink))
            .cloned()
            .collect();
        if !again.is_empty() {
            // Behind what has come meanwhile, so that a flood of lines holds nothing up.
            let inputs = self.inputs.clone();
            tokio::spawn(async move { inputs.send(Input::LogsWritten(again)).await });
        }
    }

    fn read_kept_logs(&mut self, conn: ConnKey) {
        if self.clients.contains_key(&conn) {
            let names = self.logs.unread();
            if !names.is_empty() {
                self.logs_written(&names);
            }
        }
    }

    /// The log agent, and the drivers as its sink.
    pub fn logs_and_sink(&mut self) -> (&mut LogAgent, Drivers<'_>) {
        (
            &mut self.logs,
            Drivers {
                jobs: &self.jobs,
                clients: &self.clients,
            },
        )
    }
}

/// Where printed lines go: to the driver of the job, if it wants them.
pub(crate) struct Drivers<'a> {
    jobs: &'a FxHashMap<JobKey, Job>,
    clients: &'a FxHashMap<ConnKey, Client>,
}

impl Drivers<'_> {
    fn client(&self, job: JobId) -> Option<&Client> {
        let job = self.jobs.values().find(|known| known.id == Some(job))?;
        if job.config.log_to_driver == Some(false) {
            return None;
        }
        self.clients.get(&job.driver?)
    }
}

impl Sink for Drivers<'_> {
    fn takes(&self, job: JobId) -> bool {
        self.client(job).is_none_or(|client| !client.outbox.is_crowded())
    }

    fn give(&mut self, job: JobId, lines: v1::LogLines) {
        if let Some(client) = self.client(job) {
            client.outbox.send(v1::from_raylet::Body::LogLines(lines));
        }
    }
}

/// An id as people write it.
fn parse_hex(hex: &str) -> Option<[u8; NodeId::SIZE]> {
    let mut bytes = [0; NodeId::SIZE];
    if hex.len() != 2 * bytes.len() || !hex.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

fn node_info(
    config: &RayletConfig,
    node_id: NodeId,
    node_index: u32,
    total: &ResourceSet,
    available: &ResourceSet,
) -> v1::NodeInfo {
    v1::NodeInfo {
        node_id: node_id.0.to_vec(),
        alive: true,
        address: config.node_ip.clone(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        total: Some(total.into()),
        available: Some(available.into()),
        labels: config.labels.clone().into_iter().collect(),
        is_head: config.is_head,
        node_index,
        name: config.node_name.clone(),
        raylet_address: match config.is_client {
            true => relay::address_through(node_id),
            false => config.listen.map(|address| address.to_string()).unwrap_or_default(),
        },
        versions: config.versions(),
        ..v1::NodeInfo::default()
    }
}
