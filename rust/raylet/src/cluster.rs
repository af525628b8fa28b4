//! The other nodes: who they are, and requests for workers that they could serve sooner.
//!
//! A request that finds no room here waits in the local scheduler's queue as ever. Besides, the global scheduler is asked
//! for a node, at once, and as long as the request waits: it answers when it has one to propose. Then the request leaves the
//! queue and the client is told where to ask. A node that does not take it is not proposed again before it says something
//! new. In a session of one node nothing of this happens.

use std::collections::BTreeMap;
use std::time::Duration;

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_scheduler::{ClientKey, Event, LeaseRequest, RequestKey};
use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::placing::Placing;
use ray_rs_types::{JobId, NodeId, ResourceSet};
use rustc_hash::FxHashMap;

use crate::clients::Role;
use crate::input::{ConnKey, Input};
use crate::leases::{GROUP_IS_REMOVED, NO_NODE_EVER};
use crate::raylet::Raylet;

/// The global scheduler answers after so long even if it has no node to propose.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// It is kept asked for so many requests of one shape at a time: what it has no room for, it has no room for.
const AT_A_TIME: usize = 4;
/// As the cause of a refusal: it may be asked again.
const NO_CAUSE: u32 = 0;
/// The control store is told of a node's end, but not waited for longer than this.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Waiting {
    resources: ResourceSet,
    strategy: Option<v1::SchedulingStrategy>,
    /// One that this node can never serve is not in the scheduler's queue before others were asked: the scheduler would
    /// tell people at once that it is hopeless. Nor is one whose strategy may name another node.
    held: Option<LeaseRequest>,
    /// Nodes that did not take it.
    refused: Vec<v1::NodeRefusal>,
    /// The global scheduler is being asked.
    asking: bool,
    /// People know what it waits for.
    told: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Cluster {
    nodes: FxHashMap<NodeId, v1::NodeInfo>,
    /// Requests of this node's clients that wait, oldest first within a client.
    waiting: BTreeMap<(ConnKey, u64), Waiting>,
}

impl Cluster {
    /// Where a living node's raylet is reached.
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

    pub fn waiting(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    /// It was granted, cancelled or sent on.
    pub fn no_longer_waits(&mut self, conn: ConnKey, request_id: u64) -> Option<Waiting> {
        self.waiting.remove(&(conn, request_id))
    }

    pub fn client_gone(&mut self, conn: ConnKey) {
        self.waiting.retain(|(client, _), _| *client != conn);
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
            self.keep_asking();
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
        if request.spilled && !self.scheduler.could_serve(&resources) {
            return self.reject(conn, request_id, NO_CAUSE, "this node can never serve it".to_owned());
        }
        let may_move = self.config.listen.is_some() && !request.spilled;
        let is_in_group = BundleDemand::group_of(&resources).is_some();
        let strategy = request.strategy.filter(|_| !is_in_group);
        let placing = strategy.as_ref().and_then(|strategy| Placing::try_from(strategy).ok());
        let lease = LeaseRequest {
            env: self.environment_key(job, request.runtime_env),
            request: RequestKey(request_id),
            resources: resources.clone(),
            placing,
            task_name: request.task_name,
        };
        if !may_move {
            return self.decide(Event::LeaseRequested {
                client: ClientKey(conn.0),
                request: lease,
            });
        }
        let has_room = self.scheduler.has_room_for(&resources);
        // Where there are no others yet, all that could come of it happens here.
        let is_held = self.cluster.has_others() && (strategy.is_some() || !self.scheduler.could_serve(&resources));
        let waiting = Waiting {
            resources,
            strategy,
            held: is_held.then(|| lease.clone()),
            refused: request.refused,
            asking: false,
            told: false,
        };
        self.cluster.waiting.insert((conn, request_id), waiting);
        if is_held {
            return self.ask_for_node((conn, request_id), Duration::ZERO);
        }
        self.decide(Event::LeaseRequested {
            client: ClientKey(conn.0),
            request: lease,
        });
        if has_room || !self.cluster.has_others() {
            // It waits for a worker, if it waits; should somebody else get the room, then that is the time to ask. Or it waits
            // for others to come.
            return;
        }
        self.ask_for_node((conn, request_id), Duration::ZERO);
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

    /// `wait`: for so long the answer may wait for a node.
    fn ask_for_node(&mut self, key: (ConnKey, u64), wait: Duration) {
        let Some(waiting) = self.cluster.waiting.get_mut(&key) else {
            return;
        };
        waiting.asking = true;
        let request = v1::PickNodeRequest {
            resources: Some((&waiting.resources).into()),
            from_node: self.node_id.0.to_vec(),
            only_if_free: self.scheduler.could_serve(&waiting.resources),
            strategy: waiting.strategy.clone(),
            refused: waiting.refused.clone(),
            wait_ms: wait.as_millis() as u32,
        };
        let (gcs, inputs) = (self.gcs.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let (conn, request_id) = key;
            let reply = gcs.ask_until_answered("PickNode", request).await;
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
        if let Some(waiting) = self.cluster.waiting.get_mut(&key) {
            waiting.asking = false;
            if let Ok(reply) = reply {
                self.proposed(key, reply);
            }
        }
        self.keep_asking();
    }

    fn proposed(&mut self, key: (ConnKey, u64), reply: v1::PickNodeReply) {
        let (conn, request_id) = key;
        if reply.group_removed || !reply.never.is_empty() {
            self.withdraw_from_queue(conn, request_id);
            let (cause, reason) = match reply.group_removed {
                true => (GROUP_IS_REMOVED, "its placement group was removed".to_owned()),
                false => (NO_NODE_EVER, reply.never),
            };
            return self.reject(conn, request_id, cause, reason);
        }
        let node = NodeId::from_bytes(&reply.node_id).ok();
        let is_here = node == Some(self.node_id);
        let Some(node) = node.filter(|node| !is_here && self.cluster.address_of(*node).is_ok()) else {
            return self.stays(key, is_here, &reply.waits_for);
        };
        self.withdraw_from_queue(conn, request_id);
        if let Some(client) = self.clients.get(&conn) {
            client.outbox.send(Body::LeaseSpilled(v1::LeaseSpilled {
                request_id,
                node_id: node.0.to_vec(),
                view: reply.view,
            }));
        }
    }

    fn withdraw_from_queue(&mut self, conn: ConnKey, request_id: u64) {
        self.cluster.no_longer_waits(conn, request_id);
        self.decide(Event::LeaseRequestCancelled {
            client: ClientKey(conn.0),
            request: RequestKey(request_id),
        });
    }

    /// No other node takes it. `is_here`: this is the node of its strategy.
    fn stays(&mut self, key: (ConnKey, u64), is_here: bool, waits_for: &str) {
        let Some(waiting) = self.cluster.waiting.get_mut(&key) else {
            return;
        };
        let client = ClientKey(key.0.0);
        if waiting.strategy.is_none() || is_here {
            if let Some(mut request) = waiting.held.take() {
                request.placing = None;
                if is_here {
                    self.cluster.waiting.remove(&key);
                }
                self.decide(Event::LeaseRequested { client, request });
            }
            return;
        }
        if let Some(request) = waiting.held.as_ref().filter(|_| !waits_for.is_empty())
            && !std::mem::replace(&mut waiting.told, true)
        {
            let text = format!(
                "The task {} can't be placed: {waits_for}. It waits until such a node joins.",
                request.task_name
            );
            if let Some(job) = self.clients.get(&key.0).and_then(|client| client.job) {
                self.notice(job, text);
            }
        }
    }

    /// As long as requests wait, the global scheduler is asked for some of each shape, the oldest first.
    pub fn keep_asking(&mut self) {
        if self.cluster.waiting.is_empty() || !self.cluster.has_others() {
            return;
        }
        let mut shapes: Vec<(&Waiting, usize)> = Vec::new();
        let mut chosen = Vec::new();
        for (key, waiting) in &self.cluster.waiting {
            let is_same = |other: &Waiting| waiting.resources == other.resources && waiting.strategy == other.strategy;
            match shapes.iter_mut().find(|(other, _)| is_same(other)) {
                Some((_, count)) if *count >= AT_A_TIME => continue,
                Some((_, count)) => *count += 1,
                None => shapes.push((waiting, 1)),
            }
            // What could run here, and has room, waits for a worker.
            let is_served = waiting.strategy.is_none() && self.scheduler.has_room_for(&waiting.resources);
            if !waiting.asking && !is_served {
                chosen.push(*key);
            }
        }
        for key in chosen {
            self.ask_for_node(key, ANSWER_LIMIT);
        }
    }

    /// All nodes, as the control store knows them; this one as it is.
    pub fn tell_cluster(&self, conn: ConnKey, request_id: u64) {
        let Some(outbox) = self.clients.get(&conn).map(|client| client.outbox.clone()) else {
            return;
        };
        let reply = move |nodes| {
            Body::ClusterViewReply(v1::ClusterViewReply {
                request_id,
                total: None,
                available: None,
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
        let key = self.open_job(config, None);
        let opened = self.jobs.get_mut(&key).expect("just made");
        opened.id = Some(job);
        opened.remote_driver = info.driver.and_then(|driver| (&driver).try_into().ok());
        Ok(key)
    }
}
