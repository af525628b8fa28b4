//! The gRPC service: takes requests apart, changes or asks the [`State`], and answers when that is durable.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ray_rs_proto::v1::gcs_server::Gcs;
use ray_rs_proto::v1::{self, Empty, node_report};
use ray_rs_transport::ProcessWatch;
use ray_rs_transport::grpc::{PeerInfo, call_number};
use ray_rs_transport::process::Identity;
use ray_rs_types::NodeId;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::packages::{self, PartKey, Reserved};
use crate::state::{Durable, RECONNECT_GRACE, State};
use crate::storage::StorageError;

/// `ray.kill` of an actor that is not known waits so long for its registration.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// A node that is to leave answers at once, if it answers.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// A placement group that is not known is waited for so long.
const GROUP_PATIENCE: Duration = Duration::from_millis(500);

/// Clones serve the same state.
#[derive(Debug, Clone)]
pub struct GcsService {
    state: Arc<Mutex<State>>,
    /// How long a node may be silent, or stopped.
    bound: Duration,
    /// The raylets of this machine that have registered.
    raylets: Arc<Mutex<Vec<Arc<ProcessWatch>>>>,
    /// Counts parts of packages, for the names of their unfinished files.
    parts: Arc<AtomicU64>,
}

impl GcsService {
    pub fn new(state: Arc<Mutex<State>>, bound: Duration) -> Self {
        Self {
            state,
            bound,
            raylets: Arc::default(),
            parts: Arc::default(),
        }
    }

    pub fn local_raylets(&self) -> Vec<Arc<ProcessWatch>> {
        self.raylets.lock().expect("no code panics with this lock held").clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("a panic in the state ends the process's use: it cannot be trusted any more")
    }

    /// GCS-5.
    fn takes_changes(&self) -> Result<(), Status> {
        self.state().takes_changes().map_err(|error| not_stored(&error))
    }

    /// A part of a package, written to its file.
    async fn put_part(&self, request: v1::KvPutRequest) -> Result<Response<v1::KvPutReply>, Status> {
        let key = PartKey::parse(&request.key)?;
        let path = match self.state().reserve_part(&key, request.value.len())? {
            Reserved::Exists => return Ok(Response::new(v1::KvPutReply { existed: true })),
            Reserved::Write(path) => path,
        };
        let number = self.parts.fetch_add(1, Ordering::Relaxed);
        let service = self.clone();
        // To its end, whether somebody waits for the answer or not.
        let writing = tokio::task::spawn_blocking(move || {
            let outcome = packages::write_part(&path, number, &request.value);
            let is_kept = service.state().part_written(&key, outcome.is_ok());
            if !is_kept {
                packages::remove_all([path.clone()]);
            }
            outcome.map_err(|error| not_written(&path, &error)).map(|()| is_kept)
        });
        let is_kept = writing
            .await
            .map_err(|_| Status::internal("the writing of a part broke down"))??;
        if !is_kept {
            return Err(Status::failed_precondition("the job has ended"));
        }
        Ok(Response::new(v1::KvPutReply { existed: false }))
    }

    async fn get_part(&self, request: &v1::KvGetRequest) -> Result<Response<v1::KvGetReply>, Status> {
        let key = PartKey::parse(&request.key)?;
        let Some(path) = self.state().part_path(&key) else {
            return Ok(Response::new(v1::KvGetReply::default()));
        };
        let reading = tokio::task::spawn_blocking(move || std::fs::read(path));
        let value = reading
            .await
            .map_err(|_| Status::internal("the reading of a part broke down"))?;
        let found = value.is_ok();
        match value {
            // Its job has ended at this moment.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Status::internal(format!("a part of a package cannot be read: {error}")))
            }
            value => Ok(Response::new(v1::KvGetReply {
                found,
                value: value.unwrap_or_default(),
            })),
        }
    }

    /// Follows a node's reports until its channel ends; and then, unless it comes back, declares it dead.
    async fn follow(
        self,
        mut reports: Streaming<v1::NodeReport>,
        node: NodeId,
        connection: u64,
        process: Option<Arc<ProcessWatch>>,
        bound: Option<Duration>,
    ) {
        loop {
            match reports.message().await {
                Ok(Some(report)) => {
                    if let Err(error) = self.state().node_report(node, report, now_ms()) {
                        tracing::warn!(node_id = %node, %error, "ignored a report");
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(node_id = %node, %error, "a node's channel broke");
                    break;
                }
            }
        }
        if !self.state().node_disconnected(node, connection) {
            return;
        }
        match process {
            Some(process) => process.ended().await,
            None => self.until_its_death((node, connection), bound).await,
        }
        self.state().node_died(
            node,
            connection,
            "its connection broke and it did not come back",
            now_ms(),
        );
    }

    /// Waits until a node may be declared dead whose connection has ended now, or has come back.
    async fn until_its_death(&self, node: (NodeId, u64), bound: Option<Duration>) {
        let (ended, mut expected) = (self.state().now(), None);
        loop {
            let pause = {
                let mut state = self.state();
                expected = state.until_its_death(node, ended, expected, bound);
                expected.map(|due| due.saturating_sub(state.now()))
            };
            let Some(pause) = pause else { return };
            tokio::time::sleep(pause).await;
        }
    }

    /// Nodes that an earlier process knew and that do not come to this one within the bound are dead (`LIVE-1`: it is counted
    /// from a moment after the last at which any of them was answered).
    pub fn bury_who_stays_away(&self) {
        if self.state().awaited_nodes().is_empty() {
            return;
        }
        let service = self.clone();
        tokio::spawn(async move {
            let bound = service.bound.max(RECONNECT_GRACE);
            let mut due = Some(service.state().now() + bound);
            while let Some(expected) = due {
                let pause = expected.saturating_sub(service.state().now());
                tokio::time::sleep(pause).await;
                due = service.state().until_the_absent_are_dead(expected, bound);
            }
            let mut state = service.state();
            for node in state.awaited_nodes() {
                state.node_stayed_away(node, now_ms());
            }
        });
    }

    /// Ends a process of this machine that somebody has stopped, and not let go on for the bound: its work is wanted
    /// elsewhere, and when it is gone nothing of it can go on. Returns then.
    async fn end_if_stopped(&self, node: NodeId, process: &ProcessWatch) {
        let mut since = None;
        loop {
            tokio::time::sleep(self.bound / 4).await;
            if !process.is_stopped() {
                since = None;
                continue;
            }
            let since = *since.get_or_insert_with(Instant::now);
            if since.elapsed() < self.bound / 2 {
                continue;
            }
            tracing::error!(node_id = %node, pid = process.pid(), "a raylet was stopped (SIGSTOP) and is ended");
            match process.kill() {
                Ok(()) => return,
                Err(error) => tracing::error!(pid = process.pid(), %error, "could not end it"),
            }
        }
    }

    /// Waits until the actor is known, at most so long: handles may travel faster than registrations.
    async fn registration_of(&self, actor_id: &[u8], patience: Duration) -> Result<(), Status> {
        let awaited = self.state().await_registration(crate::state::actor_id(actor_id)?);
        if let Some(awaited) = awaited {
            // Whether it came or not, the caller looks again.
            let _ = tokio::time::timeout(patience, awaited).await;
        }
        Ok(())
    }

    /// The process behind a local connection; the session's end waits for its end.
    fn watch_peer(&self, peer: Option<PeerInfo>) -> Option<Arc<ProcessWatch>> {
        let Some(PeerInfo::Local { pid: Some(pid), .. }) = peer else {
            return None;
        };
        match ProcessWatch::new(pid) {
            Ok(process) => {
                let process = Arc::new(process);
                let mut raylets = self.raylets.lock().expect("no code panics with this lock held");
                raylets.retain(|known| known.pid() != pid);
                raylets.push(Arc::clone(&process));
                Some(process)
            }
            Err(error) => {
                tracing::warn!(pid, %error, "cannot watch the raylet's process");
                None
            }
        }
    }
}

/// The process of a node that has joined over the loopback, if it is seen from here.
fn watch_joined(process: v1::ProcessIdentity) -> Option<Arc<ProcessWatch>> {
    let identity = Identity {
        pid: process.pid,
        pid_namespace: process.pid_namespace,
        started_ticks: process.started_ticks,
    };
    let watch = ProcessWatch::new(process.pid).ok()?;
    // In this order: what is watched is the process that has the identity.
    identity.is_here().then(|| Arc::new(watch))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn not_written(path: &Path, error: &io::Error) -> Status {
    Status::unavailable(format!("the control store could not write {}: {error}", path.display()))
}

/// Asks a node to leave in its time, and waits for its answer.
pub(crate) async fn drain(state: &Mutex<State>, request: v1::DrainNodeRequest) -> v1::DrainNodeReply {
    let refused = |rejection: String| v1::DrainNodeReply {
        accepted: false,
        rejection,
    };
    let asked = {
        let mut state = state.lock().expect("a broken state ends the process");
        state.drain_node(request)
    };
    match asked {
        Ok(answer) => match tokio::time::timeout(DRAIN_PATIENCE, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => refused("the node has ended meanwhile".to_owned()),
            Err(_) => refused(format!(
                "the node has not answered within {} s",
                DRAIN_PATIENCE.as_secs()
            )),
        },
        Err(why) => refused(why),
    }
}

/// A disk may take so long to keep a change; then whoever waits for that hears of it.
const DISK_LIMIT: Duration = Duration::from_secs(60);

/// What was refused, or was not known to be stored when this was said.
pub(crate) fn not_stored(error: &StorageError) -> Status {
    match error.is_full() {
        true => Status::resource_exhausted(error.to_string()),
        false => Status::internal(error.to_string()),
    }
}

/// Answers `reply` once the change is durable. Past [`DISK_LIMIT`] it is not known whether it will be, and the answer says so.
async fn after<T>(durable: Durable, reply: T) -> Result<Response<T>, Status> {
    match tokio::time::timeout(DISK_LIMIT, durable).await {
        Ok(Ok(Ok(()))) => Ok(Response::new(reply)),
        Ok(Ok(Err(error))) => Err(not_stored(&error)),
        Ok(Err(_)) => Err(Status::unavailable("the control store is ending")),
        Err(_) => {
            let seconds = DISK_LIMIT.as_secs();
            tracing::error!(
                seconds,
                "the disk does not take what is to be stored; whoever waits is told"
            );
            Err(Status::deadline_exceeded(format!(
                "the control store's disk has not taken a change for {seconds} s; it may still do. Is it very busy, or broken?"
            )))
        }
    }
}

#[tonic::async_trait]
impl Gcs for GcsService {
    type NodeChannelStream = ReceiverStream<Result<v1::NodeCommand, Status>>;

    async fn node_channel(
        &self,
        request: Request<Streaming<v1::NodeReport>>,
    ) -> Result<Response<Self::NodeChannelStream>, Status> {
        let peer = request.extensions().get::<PeerInfo>().copied();
        let mut reports = request.into_inner();
        let Some(node_report::Body::Registered(registered)) = reports.message().await?.and_then(|first| first.body)
        else {
            return Err(Status::invalid_argument("a node registers first"));
        };
        let info = registered
            .node
            .ok_or_else(|| Status::invalid_argument("there is no node"))?;
        let is_here = peer.is_none_or(|peer| peer.is_this_machine());
        let bound = (!is_here).then_some(self.bound);
        let joined = info.process.filter(|_| is_here).and_then(watch_joined);
        let registration = self.state().register_node(info, bound)?;
        let process = self.watch_peer(peer).or_else(|| joined.clone());
        let (node, connection) = (registration.node, registration.connection);
        let following = self.clone().follow(reports, node, connection, process, bound);
        let service = self.clone();
        tokio::spawn(async move {
            tokio::pin!(following);
            if let Some(process) = joined {
                tokio::select! {
                    () = &mut following => return,
                    () = service.end_if_stopped(node, &process) => {}
                }
            }
            following.await;
        });
        Ok(Response::new(ReceiverStream::new(registration.commands)))
    }

    async fn register_job(
        &self,
        request: Request<v1::RegisterJobRequest>,
    ) -> Result<Response<v1::RegisterJobReply>, Status> {
        self.takes_changes()?;
        let (reply, durable) = self.state().register_job(request.into_inner(), now_ms())?;
        after(durable, reply).await
    }

    async fn finish_job(&self, request: Request<v1::FinishJobRequest>) -> Result<Response<Empty>, Status> {
        let durable = self.state().finish_job(&request.into_inner().job_id, now_ms())?;
        after(durable, Empty {}).await
    }

    async fn list_jobs(&self, _: Request<Empty>) -> Result<Response<v1::ListJobsReply>, Status> {
        Ok(Response::new(self.state().list_jobs()))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobReply>, Status> {
        Ok(Response::new(self.state().get_job(&request.into_inner())?))
    }

    async fn leave_cluster(&self, request: Request<v1::LeaveClusterRequest>) -> Result<Response<Empty>, Status> {
        self.state().node_left(&request.into_inner(), now_ms())?;
        Ok(Response::new(Empty {}))
    }

    type FollowNodesStream = ReceiverStream<Result<v1::NodeNews, Status>>;

    async fn follow_nodes(
        &self,
        request: Request<v1::FollowNodesRequest>,
    ) -> Result<Response<Self::FollowNodesStream>, Status> {
        let (news, heard) = mpsc::channel(1);
        let (number, mut stream) = self.state().follow_nodes(request.into_inner().address);
        let service = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = news.closed() => break,
                    next = stream.recv() => match next {
                        Some(next) => if news.send(next).await.is_err() { break },
                        None => break,
                    },
                }
            }
            service.state().follower_gone(number);
        });
        Ok(Response::new(ReceiverStream::new(heard)))
    }

    async fn drain_node(&self, request: Request<v1::DrainNodeRequest>) -> Result<Response<v1::DrainNodeReply>, Status> {
        Ok(Response::new(drain(&self.state, request.into_inner()).await))
    }

    async fn request_resources(
        &self,
        request: Request<v1::RequestResourcesRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.takes_changes()?;
        let durable = self.state().request_resources(&request.into_inner())?;
        after(durable, Empty {}).await
    }

    async fn pick_node(&self, request: Request<v1::PickNodeRequest>) -> Result<Response<v1::PickNodeReply>, Status> {
        let request = request.into_inner();
        let asked = Instant::now();
        let until = asked + Duration::from_millis(request.wait_ms.into());
        let mut changes = self.state().cluster_changes();
        loop {
            let (reply, lapse) = {
                let mut state = self.state();
                (
                    state.pick_node(&request, asked.elapsed()),
                    state.until_a_proposal_lapses(),
                )
            };
            let is_decided = !reply.node_id.is_empty() || !reply.never.is_empty() || reply.group_removed;
            if is_decided || Instant::now() >= until {
                return Ok(Response::new(reply));
            }
            let lapse = lapse.map(|lapse| Instant::now() + lapse + Duration::from_millis(1));
            let _ = timeout_at(lapse.map_or(until, |lapse| lapse.min(until)), changes.changed()).await;
        }
    }

    async fn kv_put(&self, request: Request<v1::KvPutRequest>) -> Result<Response<v1::KvPutReply>, Status> {
        self.takes_changes()?;
        if request.get_ref().namespace == packages::NAMESPACE {
            return self.put_part(request.into_inner()).await;
        }
        let number = call_number(&request);
        let (reply, durable) = self.state().kv_put_once(number, request.into_inner())?;
        after(durable, reply).await
    }

    async fn kv_get(&self, request: Request<v1::KvGetRequest>) -> Result<Response<v1::KvGetReply>, Status> {
        if request.get_ref().namespace == packages::NAMESPACE {
            return self.get_part(&request.into_inner()).await;
        }
        Ok(Response::new(self.state().kv_get(&request.into_inner())))
    }

    async fn kv_del(&self, request: Request<v1::KvDelRequest>) -> Result<Response<v1::KvDelReply>, Status> {
        self.takes_changes()?;
        let number = call_number(&request);
        let (reply, durable) = self.state().kv_del_once(number, &request.into_inner());
        after(durable, reply).await
    }

    async fn kv_keys(&self, request: Request<v1::KvKeysRequest>) -> Result<Response<v1::KvKeysReply>, Status> {
        Ok(Response::new(self.state().kv_keys(&request.into_inner())))
    }

    async fn register_actor(
        &self,
        request: Request<v1::RegisterActorRequest>,
    ) -> Result<Response<v1::RegisterActorReply>, Status> {
        let request = request.into_inner();
        let actor_id = request.spec.as_ref().map(|spec| spec.actor_id.clone());
        let answer = match self.takes_changes() {
            Ok(()) => {
                let (reply, durable) = self.state().register_actor(request)?;
                after(durable, reply).await
            }
            // It may be known: an earlier try was taken, and its answer lost.
            Err(refused) => Err(refused),
        };
        if let (Err(error), Some(actor_id)) = (&answer, actor_id) {
            // Nobody will have a handle of it.
            tracing::warn!(%error, "an actor is ended that could not be stored");
            let no_restart = true;
            drop(self.state().kill_actor(&v1::KillActorRequest { actor_id, no_restart }));
        }
        answer
    }

    async fn get_actor(&self, request: Request<v1::GetActorRequest>) -> Result<Response<v1::GetActorReply>, Status> {
        let request = request.into_inner();
        if !request.actor_id.is_empty() && request.patience_ms > 0 {
            let patience = Duration::from_millis(u64::from(request.patience_ms));
            self.registration_of(&request.actor_id, patience).await?;
        }
        let (reply, durable) = {
            let mut state = self.state();
            (state.get_actor(&request)?, state.durable_so_far())
        };
        // Whoever hears of an actor counts on it. A disk that takes nothing keeps nobody from reading.
        let _ = tokio::time::timeout(DISK_LIMIT, durable).await;
        Ok(Response::new(reply))
    }

    async fn list_actors(&self, _: Request<Empty>) -> Result<Response<v1::ListActorsReply>, Status> {
        Ok(Response::new(self.state().list_actors()))
    }

    async fn kill_actor(&self, request: Request<v1::KillActorRequest>) -> Result<Response<Empty>, Status> {
        let number = call_number(&request);
        let request = request.into_inner();
        self.registration_of(&request.actor_id, KILL_PATIENCE).await?;
        let durable = self.state().kill_actor_once(number, &request)?;
        after(durable, Empty {}).await
    }

    async fn report_actor_started(
        &self,
        request: Request<v1::ReportActorStartedRequest>,
    ) -> Result<Response<Empty>, Status> {
        let durable = self.state().actor_started(request.into_inner())?;
        after(durable, Empty {}).await
    }

    async fn actor_out_of_scope(
        &self,
        request: Request<v1::ActorOutOfScopeRequest>,
    ) -> Result<Response<Empty>, Status> {
        let durable = self.state().actor_out_of_scope(&request.into_inner())?;
        after(durable, Empty {}).await
    }

    async fn report_actor_exit(&self, request: Request<v1::ReportActorExitRequest>) -> Result<Response<Empty>, Status> {
        let durable = self.state().actor_exited(request.into_inner())?;
        after(durable, Empty {}).await
    }

    async fn commit_calls(
        &self,
        request: Request<v1::CommitCallsRequest>,
    ) -> Result<Response<v1::CommitCallsReply>, Status> {
        self.takes_changes()?;
        let (reply, durable) = self.state().commit_calls(request.into_inner())?;
        after(durable, reply).await
    }

    async fn adopt(&self, request: Request<v1::AdoptRequest>) -> Result<Response<v1::AdoptReply>, Status> {
        self.takes_changes()?;
        let (reply, durable) = self.state().adopt(request.into_inner())?;
        after(durable, reply).await
    }

    async fn get_call_log(
        &self,
        request: Request<v1::GetCallLogRequest>,
    ) -> Result<Response<v1::GetCallLogReply>, Status> {
        let (reply, durable) = self.state().call_log(&request.into_inner())?;
        after(durable, reply).await
    }

    async fn get_placement_group(
        &self,
        request: Request<v1::GetPlacementGroupRequest>,
    ) -> Result<Response<v1::ListPlacementGroupsReply>, Status> {
        let request = request.into_inner();
        if !request.group_id.is_empty() {
            let awaited = self.state().await_group(&request.group_id);
            if let Some(awaited) = awaited {
                // Whether it came or not, the group is looked for again.
                let _ = tokio::time::timeout(GROUP_PATIENCE, awaited).await;
            }
        }
        Ok(Response::new(self.state().get_placement_group(&request)?))
    }

    async fn list_placement_groups(&self, _: Request<Empty>) -> Result<Response<v1::ListPlacementGroupsReply>, Status> {
        Ok(Response::new(self.state().list_placement_groups()))
    }

    async fn list_nodes(&self, _: Request<Empty>) -> Result<Response<v1::ListNodesReply>, Status> {
        Ok(Response::new(self.state().list_nodes()))
    }

    async fn add_task_events(&self, request: Request<v1::TaskEvents>) -> Result<Response<Empty>, Status> {
        let number = call_number(&request);
        let mut state = self.state();
        let reply = state.once(number, |state| state.add_task_events(request.into_inner()))?;
        Ok(Response::new(reply))
    }

    async fn list_task_events(&self, _: Request<v1::Empty>) -> Result<Response<v1::TaskEventBatches>, Status> {
        Ok(Response::new(self.state().list_task_events()))
    }

    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Result<Response<v1::ListTasksReply>, Status> {
        Ok(Response::new(self.state().list_tasks(request.get_ref())?))
    }

    async fn add_metrics(&self, request: Request<v1::MetricBatch>) -> Result<Response<Empty>, Status> {
        let number = call_number(&request);
        let mut state = self.state();
        let reply = state.once(number, |state| state.add_metrics(request.into_inner()))?;
        Ok(Response::new(reply))
    }

    async fn list_metrics(&self, _: Request<Empty>) -> Result<Response<v1::MetricBatch>, Status> {
        Ok(Response::new(self.state().list_metrics()))
    }

    async fn list_dead_workers(&self, _: Request<Empty>) -> Result<Response<v1::ListDeadWorkersReply>, Status> {
        Ok(Response::new(self.state().list_dead_workers()))
    }
}
