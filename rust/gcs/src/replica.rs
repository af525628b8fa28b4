//! A replica of the global scheduler: a process of its own that hears of nodes what the control store hears, and proposes.
//!
//! It keeps nothing that the control store would not tell it again. Raylets that were told of it ask it first; when it ends
//! they ask another, and at last the control store, which has a global scheduler, too. Placement groups are known only
//! there: nobody asks a replica for them. It ends with the control store's process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use ray_rs_proto::v1::gcs_client::GcsClient;
use ray_rs_proto::v1::global_scheduler_server::{GlobalScheduler as Service, GlobalSchedulerServer};
use ray_rs_proto::v1::{self, node_news::Body};
use ray_rs_scheduler::bottom_up::GlobalScheduler;
use ray_rs_scheduler::bottom_up::heartbeat::Heard;
use ray_rs_transport::grpc::{Address, Listener, channel, serve};
use ray_rs_transport::{ProcessWatch, Token};
use ray_rs_types::NodeId;
use rustc_hash::FxHashSet;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Request, Response, Status};

use crate::convert;
use crate::state::propose;

/// Between attempts to follow the control store.
const PAUSE: Duration = Duration::from_millis(200);

/// What a replica is told.
#[derive(Debug)]
pub struct ReplicaConfig {
    pub gcs: Address,
    pub token_path: PathBuf,
    /// Where raylets reach it; any free port of that address.
    pub listen: SocketAddr,
    /// It ends with this process.
    pub gcs_pid: u32,
    /// Replicas with different seeds do not all send to the same nodes first.
    pub seed: u64,
}

/// Serves until the control store has ended, or SIGTERM comes.
///
/// # Errors
/// When it cannot start, or the server broke down.
pub async fn run(config: ReplicaConfig) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot take SIGTERM")?;
    let gcs = ProcessWatch::new(config.gcs_pid).context("cannot watch the control store")?;
    let token = Token::read(&config.token_path).context("cannot read the session's token")?;
    let tcp = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = tcp.local_addr()?.to_string();
    let replica = Replica::new(config.seed);
    let following = replica.clone().keep_following(config.gcs, token.clone(), address);
    let service = GlobalSchedulerServer::new(replica);
    let serving = serve(vec![Listener::Tcp(tcp)], token, service, None, std::future::pending());
    tokio::select! {
        () = gcs.ended() => Ok(()),
        _ = terminate.recv() => Ok(()),
        never = following => never,
        outcome = serving => outcome.context("the server broke down"),
    }
}

#[derive(Debug, Clone)]
struct Replica {
    inside: Arc<Mutex<Inside>>,
    /// Somebody may wait for a node.
    changes: watch::Sender<()>,
    started: Instant,
}

#[derive(Debug)]
struct Inside {
    global: GlobalScheduler,
    known: FxHashSet<NodeId>,
    /// Nodes that have asked.
    asked: FxHashSet<Vec<u8>>,
}

impl Replica {
    fn new(seed: u64) -> Self {
        let mut global = GlobalScheduler::new(seed);
        global.set_partial(true);
        let inside = Inside {
            global,
            known: FxHashSet::default(),
            asked: FxHashSet::default(),
        };
        Self {
            inside: Arc::new(Mutex::new(inside)),
            changes: watch::Sender::new(()),
            started: Instant::now(),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("a panic in here ends the process's use")
    }

    async fn keep_following<T>(self, gcs: Address, token: Token, address: String) -> T {
        loop {
            if let Err(error) = self.follow(gcs.clone(), token.clone(), address.clone()).await {
                tracing::warn!(error = format!("{error:#}"), "does not hear of nodes");
            }
            // What it knows may be old from here on.
            self.inside().global.set_partial(true);
            sleep(PAUSE).await;
        }
    }

    /// To the end of one stream.
    async fn follow(&self, gcs: Address, token: Token, address: String) -> anyhow::Result<()> {
        let mut client = GcsClient::new(channel(gcs, token).await?);
        let request = v1::FollowNodesRequest { address };
        let mut news = client.follow_nodes(request).await?.into_inner();
        let mut told = FxHashSet::default();
        while let Some(next) = news.message().await? {
            self.hear(next, &mut told)?;
            self.changes.send_replace(());
        }
        Ok(())
    }

    /// `told`: the nodes of which this stream has said something.
    fn hear(&self, news: v1::NodeNews, told: &mut FxHashSet<NodeId>) -> anyhow::Result<()> {
        let mut inside = self.inside();
        let node = NodeId::from_bytes(&news.node_id)?;
        match news.body {
            Some(Body::Heartbeat(heartbeat)) => {
                let mut beat = convert::heartbeat(&heartbeat);
                if beat.base == 0 {
                    // What was known of it is another stream's.
                    inside.global.node_gone(node);
                    beat.labels = Some(news.labels.into_iter().collect());
                }
                told.insert(node);
                inside.known.insert(node);
                let heard = inside.global.hear(self.started.elapsed(), node, beat);
                anyhow::ensure!(heard != Heard::Lost, "news of a node were lost");
            }
            Some(Body::Gone(_)) => {
                inside.known.remove(&node);
                inside.global.node_gone(node);
            }
            Some(Body::Complete(_)) => {
                let gone: Vec<NodeId> = inside.known.difference(told).copied().collect();
                for node in gone {
                    inside.known.remove(&node);
                    inside.global.node_gone(node);
                }
                inside.global.set_partial(false);
            }
            None => {}
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Service for Replica {
    async fn pick_node(&self, request: Request<v1::PickNodeRequest>) -> Result<Response<v1::PickNodeReply>, Status> {
        let request = request.into_inner();
        let asked = Instant::now();
        let until = asked + Duration::from_millis(request.wait_ms.into());
        let mut changes = self.changes.subscribe();
        loop {
            let (reply, lapse) = {
                let mut inside = self.inside();
                if inside.asked.insert(request.from_node.clone()) {
                    let node = NodeId::from_bytes(&request.from_node).unwrap_or(NodeId::NIL);
                    tracing::info!(node_id = %node, "proposes nodes to a raylet");
                }
                let now = self.started.elapsed();
                let reply = propose(&mut inside.global, now, &request, asked.elapsed(), None);
                (reply, inside.global.next_lapse().map(|at| at.saturating_sub(now)))
            };
            let is_decided = !reply.node_id.is_empty() || !reply.never.is_empty();
            if is_decided || Instant::now() >= until {
                return Ok(Response::new(reply));
            }
            let lapse = lapse.map(|lapse| Instant::now() + lapse + Duration::from_millis(1));
            let _ = timeout_at(lapse.map_or(until, |lapse| lapse.min(until)), changes.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use ray_rs_scheduler::bottom_up::NodeReport;
    use ray_rs_types::ResourceSet;

    use super::*;

    const NODE: NodeId = NodeId([1; 28]);

    fn news(node: NodeId, body: Body) -> v1::NodeNews {
        v1::NodeNews {
            node_id: node.0.to_vec(),
            body: Some(body),
            ..v1::NodeNews::default()
        }
    }

    fn heartbeat(encoder: &mut ray_rs_scheduler::bottom_up::heartbeat::Encoder, cpus: f64) -> Body {
        let cpus = ResourceSet::new().with("CPU", cpus);
        Body::Heartbeat(convert::wire_heartbeat(encoder.next(&NodeReport {
            total: cpus.clone(),
            available: cpus,
            ..NodeReport::default()
        })))
    }

    fn proposed(replica: &Replica) -> Vec<u8> {
        let request = v1::PickNodeRequest {
            resources: Some((&ResourceSet::new().with("CPU", 2.0)).into()),
            ..v1::PickNodeRequest::default()
        };
        propose(
            &mut replica.inside().global,
            replica.started.elapsed(),
            &request,
            Duration::ZERO,
            None,
        )
        .node_id
    }

    #[tokio::test]
    async fn a_replica_knows_what_it_is_told_and_what_a_new_stream_does_not_tell_is_gone() {
        use ray_rs_scheduler::bottom_up::heartbeat::Encoder;
        let replica = Replica::new(1);
        let (mut told, mut encoder) = (FxHashSet::default(), Encoder::new(0));
        assert!(proposed(&replica).is_empty());
        let first = heartbeat(&mut encoder, 1.0);
        replica.hear(news(NODE, first), &mut told).expect("heard");
        assert!(proposed(&replica).is_empty(), "it is too small");
        let second = heartbeat(&mut encoder, 4.0);
        replica.hear(news(NODE, second), &mut told).expect("heard");
        assert_eq!(proposed(&replica), NODE.0);

        let _lost = heartbeat(&mut encoder, 3.0);
        let third = heartbeat(&mut encoder, 5.0);
        replica
            .hear(news(NODE, third), &mut told)
            .expect_err("something is missing");

        let mut told = FxHashSet::default();
        let again = heartbeat(&mut Encoder::new(0), 4.0);
        replica.hear(news(NODE, again), &mut told).expect("everything anew");
        replica
            .hear(news(NodeId::NIL, Body::Complete(v1::Empty {})), &mut told)
            .expect("heard");
        assert_eq!(proposed(&replica), NODE.0);

        let mut told = FxHashSet::default();
        replica
            .hear(news(NodeId::NIL, Body::Complete(v1::Empty {})), &mut told)
            .expect("heard");
        assert!(proposed(&replica).is_empty(), "it had died meanwhile");
    }
}
