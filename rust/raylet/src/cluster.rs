//! The other nodes: who they are, and requests for workers that they could serve sooner.
//!
//! A request that finds no room here waits in the local scheduler's queue as ever. Besides, the
//! [`Forwarder`](ray_rs_scheduler::bottom_up::forward::Forwarder) decides for which of those that wait the global scheduler is
//! asked; it answers when it has a node to propose. Then the request leaves the queue and the client is told where to ask. A
//! node that does not take it is not proposed again before it says something new. In a session of one node nothing of this
//! happens.

use std::time::{Duration, Instant};

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_scheduler::bottom_up::Proposal;
use ray_rs_scheduler::bottom_up::forward::{Arrival, Ask, Forwarder, MAX_HOPS, Manner, Rules, Verdict, first_stop};
use ray_rs_scheduler::bottom_up::load::Load;
use ray_rs_scheduler::{ClientKey, Event, LeaseRequest, RequestKey};
use ray_rs_transport::relay;
use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::placing::Placing;
use ray_rs_types::{JobId, NodeId, ResourceSet};
use rustc_hash::FxHashMap;

use crate::clients::Role;
use crate::input::{ConnKey, Input};
use crate::leases::{GROUP_IS_REMOVED, NO_NODE_EVER};
use crate::raylet::Raylet;
use crate::timers::Timer;

/// The global scheduler answers after so long even if it has no node to propose.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// As the cause of a refusal: it may be asked again.
const NO_CAUSE: u32 = 0;
/// The control store is told of a node's end, but not waited for longer than this.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

/// A request as its client and the client's own numbers name it.
type Key = (ConnKey, u64);

#[derive(Debug)]
struct Waiting {
    strategy: Option<v1::SchedulingStrategy>,
    /// One that this node can never serve is not in the scheduler's queue before others were asked: the scheduler would
    /// tell people at once that it is hopeless. Nor is one that may belong on another node.
    held: Option<LeaseRequest>,
    /// As it is in the scheduler's queue, unless it is held.
    queued: Option<LeaseRequest>,
    /// Nodes that did not take it.
    refused: Vec<v1::NodeRefusal>,
    arguments: Vec<v1::NodeBytes>,
    /// People know what it waits for.
    told: bool,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: FxHashMap<NodeId, v1::NodeInfo>,
    pub forwarder: Forwarder<Key>,
    waiting: FxHashMap<Key, Waiting>,
    /// When the forwarder is looked at without cause.
    look_at: Option<Instant>,
}

impl Cluster {
    pub fn new(rules: Rules) -> Self {
        Self {
            nodes: FxHashMap::default(),
            forwarder: Forwarder::new(rules),
            waiting: FxHashMap::default(),
            look_at: None,
        }
    }

    /// Whether the node is a program's from outside of the cluster.
    pub fn is_client(&self, node: NodeId) -> bool {
        let known = self.nodes.get(&node);
        known.is_some_and(|info| relay::node_behind(&info.raylet_address).is_some())
    }

    /// Where a living node's raylet is reached.
    ///
    /// # Errors
    /// Why it is not, for people.
    pub fn address_of(&self, node: NodeId) -> Result<String, String> {
        match self.nodes.get(&node) {
            Some(info) if !info.alive => Err(format!("its node has died: {}", info.death_reason)),
            Some(info) if !info.raylet_address.is_empty() => Ok(info.raylet_address.clone()),
            Some(_) => Err("its node takes no connections from others".to_owned()),
            None => Err("its node is not known".to_owned()),
        }
    }

    pub fn has_others(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Living nodes, and where their raylets are reached.
    pub fn living_others(&self) -> Vec<(NodeId, String)> {
        let living = self
            .nodes
            .iter()
            .filter(|(_, info)| info.alive && !info.raylet_address.is_empty());
        living
            .map(|(node, info)| (*node, info.raylet_address.clone()))
            .collect()
    }

    /// It was granted, cancelled or sent on.
    pub fn no_longer_waits(&mut self, conn: ConnKey, request_id: u64) {
        let key = (conn, request_id);
        if self.forwarder.no_longer_waits(key) {
            self.waiting.remove(&key);
        }
    }

    pub fn client_gone(&mut self, conn: ConnKey) {
        let keys = self.forwarder.keys().filter(|(client, _)| *client == conn);
        for (conn, request_id) in keys.collect::<Vec<_>>() {
            self.no_longer_waits(conn, request_id);
        }
    }

    pub fn counts(&self) -> v1::LeaseCounts {
        let counts = self.forwarder.counts;
        v1::LeaseCounts {
            granted_locally: counts.granted_locally,
            granted_to_others: counts.granted_to_others,
            asked: counts.asked,
            forwarded: counts.forwarded,
            spilled_back: counts.spilled_back,
            turned_away: counts.turned_away,
        }
    }
}

impl Raylet {
    pub fn node_changed(&mut self, info: v1::NodeInfo) {
        let Ok(node) = NodeId::from_bytes(&info.node_id) else {
            return;
        };
        if node == self.node_id {
            return;
        }
        let (alive, was) = (info.alive, self.cluster.nodes.insert(node, info));
        let is_news = was.is_none_or(|was| was.alive != alive);
        if !is_news {
            return;
        }
        if !alive {
            self.transfers.node_died(node);
            self.remote_owners_gone(node);
            for client in self.clients.values().filter(|client| client.registered) {
                client.outbox.send(Body::NodeDied(v1::NodeDied {
                    node_id: node.0.to_vec(),
                }));
            }
        }
        let size = self.cluster_size();
        for client in self
            .clients
            .values()
            .filter(|client| client.registered && client.role != Role::Remote)
        {
            client.outbox.send(Body::ClusterSize(size));
        }
        if alive {
            // With the first of them, what waits for this node alone.
            let now = self.now();
            self.cluster.forwarder.look_again(now);
            self.look_round();
        }
    }

    pub fn cluster_size(&self) -> v1::ClusterSize {
        let cpus_of = |set: &v1::ResourceSet| ResourceSet::from(set).get(ray_rs_types::resources::CPU).to_f64();
        let others = self.cluster.nodes.values().filter(|node| node.alive);
        let cpus = self.total.get(ray_rs_types::resources::CPU).to_f64()
            + others.filter_map(|node| node.total.as_ref()).map(cpus_of).sum::<f64>();
        v1::ClusterSize {
            cpus: cpus.ceil() as u32,
        }
    }

    pub fn lease_requested(&mut self, conn: ConnKey, request: v1::RequestLease) {
        let Some(job) = self.clients.get(&conn).and_then(|client| client.job) else {
            return;
        };
        let resources: ResourceSet = (&request.resources.unwrap_or_default()).into();
        let request_id = request.request_id;
        let is_in_group = BundleDemand::group_of(&resources).is_some();
        let strategy = request.strategy.filter(|_| !is_in_group);
        let placing = strategy.as_ref().and_then(|strategy| Placing::try_from(strategy).ok());
        let lease = LeaseRequest {
            env: self.environment_key(job, request.runtime_env),
            request: RequestKey(request_id),
            resources: resources.clone(),
            placing,
            task_name: request.task_name,
            ahead: request.ahead,
        };
        let client = ClientKey(conn.0);
        if !self.config.is_in_cluster() || request.ahead {
            return self.decide(Event::LeaseRequested { client, request: lease });
        }
        let now = self.now();
        let (mut manner, mut hops) = (Manner::Queued, 0);
        if request.spilled {
            hops = MAX_HOPS;
            if self.is_refused(&resources, request.expects_room) {
                return self.reject(
                    conn,
                    request_id,
                    NO_CAUSE,
                    "this node can't serve it, or not now".to_owned(),
                );
            }
        } else {
            let bytes = |held: &v1::NodeBytes| Some((NodeId::from_bytes(&held.node_id).ok()?, held.bytes));
            let arguments: Vec<(NodeId, u64)> = request.arguments.iter().filter_map(bytes).collect();
            let rules = self.cluster.forwarder.rules();
            manner = first_stop(self.node_id, rules, lease.placing.as_ref(), &arguments);
        }
        let waits = (self.cluster.forwarder).waits(now, (conn, request_id), resources.clone(), manner, hops);
        if let Err(after) = waits {
            return self
                .timers
                .set(Instant::now() + after, Timer::ComeAgain(conn, request_id));
        }
        // Where there are no others yet, all that could come of it happens here; but nothing ever does at a client.
        let may_leave = (self.cluster.has_others() || self.config.is_client) && !request.spilled;
        let is_held =
            may_leave && (manner != Manner::Queued || !self.scheduler.could_serve(&resources) || self.drain.is_some());
        let (held, queued) = match is_held {
            true => (Some(lease.clone()), None),
            false => (None, Some(lease.clone())),
        };
        let waiting = Waiting {
            strategy,
            held,
            queued,
            refused: request.refused,
            arguments: request.arguments,
            told: false,
        };
        self.cluster.waiting.insert((conn, request_id), waiting);
        if !is_held {
            self.decide(Event::LeaseRequested { client, request: lease });
        }
        self.look_round();
    }

    /// Whether a request that another node has sent here goes back.
    fn is_refused(&mut self, resources: &ResourceSet, expects_room: bool) -> bool {
        if self.drain.is_some() {
            return true;
        }
        let hold = self.scheduler.holds().average(self.now());
        let (total, available) = (
            self.scheduler.total_with_groups(),
            self.scheduler.available_with_groups(),
        );
        let load = Load {
            total: &total,
            available: &available,
            hold,
        };
        self.cluster.forwarder.arrived(&load, resources, expects_room, 1) == Arrival::SpillBack
    }

    /// Too many waited when it came.
    pub fn may_come_again(&self, conn: ConnKey, request_id: u64) {
        self.reject(
            conn,
            request_id,
            NO_CAUSE,
            "too many requests wait on this node".to_owned(),
        );
    }

    fn reject(&self, conn: ConnKey, request_id: u64, cause: u32, reason: String) {
        if let Some(client) = self.clients.get(&conn) {
            client.outbox.send(Body::LeaseRejected(v1::LeaseRejected {
                request_id,
                cause,
                reason,
            }));
        }
    }

    /// Asks the global scheduler for some of what waits, if there is cause to.
    pub fn look_round(&mut self) {
        if self.cluster.forwarder.is_empty() || !self.cluster.has_others() {
            return;
        }
        // What has all it asked for, and waits for a worker, is served.
        for (client, request) in self.scheduler.await_workers() {
            self.cluster.no_longer_waits(ConnKey(client.0), request.0);
        }
        let now = self.now();
        if self.cluster.forwarder.next_deadline().is_some_and(|due| due <= now) {
            let (total, available) = (
                self.scheduler.total_with_groups(),
                self.scheduler.available_with_groups(),
            );
            // A node that drains has nothing to offer, to its own clients neither.
            let (total, available) = match self.drain {
                Some(_) => (ResourceSet::new(), ResourceSet::new()),
                None => (total, available),
            };
            let load = Load {
                total: &total,
                available: &available,
                hold: self.scheduler.holds().average(now),
            };
            let mut asks = Vec::new();
            self.cluster.forwarder.asks(now, &load, &mut asks);
            for ask in asks {
                self.ask_for_node(ask);
            }
        }
        if let Some(due) = self.cluster.forwarder.next_deadline() {
            let due = Instant::now() + due.saturating_sub(now);
            if self.cluster.look_at.is_none_or(|at| due < at) {
                self.cluster.look_at = Some(due);
                self.timers.set(due, Timer::LookRound);
            }
        }
    }

    pub fn look_round_is_due(&mut self) {
        if self.cluster.look_at.is_some_and(|at| at <= Instant::now()) {
            self.cluster.look_at = None;
        }
        self.look_round();
    }

    fn ask_for_node(&self, ask: Ask<Key>) {
        let Some(waiting) = self.cluster.waiting.get(&ask.key) else {
            return;
        };
        // What waits for the answer before it may run here is not kept waiting longer than that takes.
        let wait = if waiting.held.is_some() && !waiting.told {
            Duration::ZERO
        } else {
            ANSWER_LIMIT
        };
        let request = v1::PickNodeRequest {
            resources: Some((&ask.resources).into()),
            from_node: self.node_id.0.to_vec(),
            only_if_free: ask.only_if_free,
            strategy: waiting.strategy.clone(),
            refused: waiting.refused.clone(),
            wait_ms: wait.as_millis() as u32,
            wait_here_us: ask.wait_here.map(|wait| wait.as_micros() as u64),
            arguments: waiting.arguments.clone(),
        };
        let is_in_group = BundleDemand::of(&ask.resources).is_some();
        let (gcs, replicas, inputs) = (self.gcs.clone(), self.replicas.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let (conn, request_id) = ask.key;
            let reply = replicas.pick_node(&gcs, request, is_in_group).await;
            let _ = inputs
                .send(Input::NodePicked {
                    conn,
                    request_id,
                    reply,
                })
                .await;
        });
    }

    pub fn node_picked(&mut self, conn: ConnKey, request_id: u64, reply: Result<v1::PickNodeReply, String>) {
        let key = (conn, request_id);
        if self.cluster.forwarder.has(key) {
            match reply {
                Ok(reply) if reply.group_removed => {
                    self.withdraw_from_queue(key);
                    self.reject(
                        conn,
                        request_id,
                        GROUP_IS_REMOVED,
                        "its placement group was removed".to_owned(),
                    );
                }
                Ok(reply) => {
                    let view = reply.view;
                    let proposal = self.proposal_of(reply);
                    self.proposed(key, proposal, view);
                }
                Err(_) => self.proposed(key, None, 0),
            }
        }
        self.look_round();
    }

    fn proposal_of(&self, reply: v1::PickNodeReply) -> Option<Proposal> {
        if !reply.never.is_empty() {
            return Some(Proposal::Never(reply.never));
        }
        match NodeId::from_bytes(&reply.node_id).ok() {
            Some(node) if node == self.node_id => Some(Proposal::Stay),
            // It is heard of through another channel, and may have died since.
            Some(node) => self.cluster.address_of(node).is_ok().then_some(Proposal::Node {
                node,
                has_room: reply.has_room,
            }),
            None if !reply.waits_for.is_empty() => Some(Proposal::Pending(reply.waits_for)),
            None => Some(Proposal::Stay),
        }
    }

    fn proposed(&mut self, key: Key, proposal: Option<Proposal>, view: u64) {
        let (conn, request_id) = key;
        let now = self.now();
        match self.cluster.forwarder.answered(now, key, proposal) {
            Verdict::Move { node, expects_room } => {
                self.withdraw_from_queue(key);
                if let Some(client) = self.clients.get(&conn) {
                    client.outbox.send(Body::LeaseSpilled(v1::LeaseSpilled {
                        request_id,
                        node_id: node.0.to_vec(),
                        view,
                        expects_room,
                    }));
                }
            }
            Verdict::Fail(why) => {
                self.withdraw_from_queue(key);
                self.reject(conn, request_id, NO_NODE_EVER, why);
            }
            Verdict::Stay => {
                self.cluster.forwarder.stays(now, key);
                self.queue_here(key);
            }
            Verdict::Wait => self.queue_unless_named(key),
            Verdict::WaitTelling(why) => {
                self.queue_unless_named(key);
                self.tell_of_waiting_task(key, &why);
            }
        }
    }

    /// This node is about to leave: clients of other nodes are sent back, and what its own wait for is looked for elsewhere
    /// before it is served here.
    pub fn send_waiting_elsewhere(&mut self) {
        let mut keys: Vec<Key> = self.cluster.forwarder.keys().collect();
        keys.sort_unstable();
        for key in keys {
            let (conn, request_id) = key;
            let is_of_another = self
                .clients
                .get(&conn)
                .is_some_and(|client| client.role == Role::Remote);
            if is_of_another {
                self.withdraw_from_queue(key);
                self.reject(conn, request_id, NO_CAUSE, "its node is about to leave".to_owned());
            } else if self.cluster.has_others()
                && let Some(waiting) = self.cluster.waiting.get_mut(&key)
                && let Some(queued) = waiting.queued.take()
            {
                waiting.held = Some(queued);
                self.decide(Event::LeaseRequestCancelled {
                    client: ClientKey(conn.0),
                    request: RequestKey(request_id),
                });
            }
        }
        let now = self.now();
        self.cluster.forwarder.look_again(now);
    }

    fn withdraw_from_queue(&mut self, key: Key) {
        let (conn, request_id) = key;
        self.cluster.no_longer_waits(conn, request_id);
        self.cluster.waiting.remove(&key);
        self.decide(Event::LeaseRequestCancelled {
            client: ClientKey(conn.0),
            request: RequestKey(request_id),
        });
    }

    fn queue_here(&mut self, key: Key) {
        if let Some(waiting) = self.cluster.waiting.get_mut(&key)
            && !self.config.is_client
            && let Some(mut request) = waiting.held.take()
        {
            request.placing = None;
            waiting.queued = Some(request.clone());
            let client = ClientKey(key.0.0);
            self.decide(Event::LeaseRequested { client, request });
        }
    }

    /// No other node takes it now: the local scheduler says what is missing, and others are asked for on.
    fn queue_unless_named(&mut self, key: Key) {
        if (self.cluster.waiting.get(&key)).is_some_and(|waiting| waiting.strategy.is_none()) {
            self.queue_here(key);
        }
    }

    /// Once for each.
    fn tell_of_waiting_task(&mut self, key: Key, why: &str) {
        let Some(waiting) = self.cluster.waiting.get_mut(&key) else {
            return;
        };
        if let Some(request) = &waiting.held
            && !std::mem::replace(&mut waiting.told, true)
        {
            let text = format!(
                "The task {} can't be placed: {why}. It waits until such a node joins.",
                request.task_name
            );
            if let Some(job) = self.clients.get(&key.0).and_then(|client| client.job) {
                self.notice(job, text);
            }
        }
    }

    /// All nodes, as the control store knows them; this one as it is.
    pub fn tell_cluster(&self, conn: ConnKey, request_id: u64) {
        let Some(outbox) = self.clients.get(&conn).map(|client| client.outbox.clone()) else {
            return;
        };
        let total = Some((&self.scheduler.total_with_groups()).into());
        let available = Some((&self.scheduler.available_with_groups()).into());
        let reply = move |nodes| {
            Body::ClusterViewReply(v1::ClusterViewReply {
                request_id,
                total,
                available,
                nodes,
            })
        };
        let mine = self.node_info();
        if !self.cluster.has_others() {
            return outbox.send(reply(vec![mine]));
        }
        let gcs = self.gcs.clone();
        let known: Vec<v1::NodeInfo> = self.cluster.nodes.values().cloned().collect();
        tokio::spawn(async move {
            let listed: Result<v1::ListNodesReply, _> = gcs.ask("ListNodes", v1::Empty {}).await;
            let mut nodes = listed.map_or(known, |listed| listed.nodes);
            nodes.retain(|node| node.node_id != mine.node_id);
            nodes.push(mine);
            nodes.sort_by_key(|node| node.node_index);
            outbox.send(reply(nodes));
        });
    }

    /// The control store need not wait whether this node comes back.
    pub async fn leave_cluster(&self) {
        if self.config.gcs_address.is_some() {
            let request = v1::LeaveClusterRequest {
                node_id: self.node_id.0.to_vec(),
                reason: self
                    .drain
                    .as_ref()
                    .map(crate::draining::Draining::reason)
                    .unwrap_or_default(),
            };
            let asked = self.gcs.ask::<_, v1::Empty>("LeaveCluster", request);
            let _ = tokio::time::timeout(LEAVE_LIMIT, asked).await;
        }
    }

    // ---- jobs of drivers on other nodes --------------------------------------------------------------------------

    /// Asks the control store what the processes of a job need; [`Self::job_fetched`] goes on.
    pub fn fetch_job(&mut self, job: JobId) {
        if !self.fetching_jobs.insert(job) {
            return;
        }
        let (gcs, inputs) = (self.gcs.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let request = v1::GetJobRequest { job_id: job.0.to_vec() };
            let reply = gcs.ask("GetJob", request).await;
            let _ = inputs.send(Input::JobFetched { job, reply }).await;
        });
    }

    pub fn job_fetched(&mut self, job: JobId, reply: Result<v1::GetJobReply, String>) {
        self.fetching_jobs.remove(&job);
        let opened = self.open_fetched(job, reply);
        let waiting: Vec<ConnKey> = self
            .clients
            .iter()
            .filter(|(_, client)| client.wants_job == Some(job) && client.job.is_none())
            .map(|(conn, _)| *conn)
            .collect();
        let starts: Vec<v1::StartActor> = std::mem::take(&mut self.starts_waiting);
        let (now, later): (Vec<_>, Vec<_>) = starts
            .into_iter()
            .partition(|start| start.spec.as_ref().is_some_and(|spec| spec.job_id == job.0));
        self.starts_waiting = later;
        match opened {
            Ok(key) => {
                for conn in waiting {
                    self.clients.get_mut(&conn).expect("just listed").job = Some(key);
                }
                for start in now {
                    self.start_actor(start);
                }
                self.settle_registrations();
            }
            Err(error) => {
                for conn in waiting {
                    self.refuse(conn, &error);
                }
                for start in now {
                    self.cannot_start(&start, error.clone());
                }
            }
        }
    }

    fn open_fetched(
        &mut self,
        job: JobId,
        reply: Result<v1::GetJobReply, String>,
    ) -> Result<ray_rs_scheduler::JobKey, String> {
        if let Some(key) = self.job_by_id(job) {
            return Ok(key);
        }
        let info = reply?.job.ok_or("the control store does not know the job")?;
        if info.finished || self.finished_jobs.contains(&job) {
            return Err("the job has finished".to_owned());
        }
        let config = crate::config::DriverConfig::from_pickle(&info.config)
            .map_err(|error| error.to_string())?
            .without_inherited();
        let key = self.open_job(config, None, Some(job));
        let opened = self.jobs.get_mut(&key).expect("just made");
        opened.remote_driver = info.driver.and_then(|driver| (&driver).try_into().ok());
        Ok(key)
    }
}
