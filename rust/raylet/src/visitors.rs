//! The node's TCP port, and connections of this node's processes to others.
//!
//! Whoever has passed the handshake says what it came for: to be a client of the raylet (then its frames are those of the
//! Unix socket), to talk to a core worker (then the socket is passed to that process, and no byte goes through here any
//! more), or to read from the arena. In the other direction a local client asks for a connection and gets the socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_proto::v1::node_report::Body as Report;
use ray_rs_transport::grpc::Address;
use ray_rs_transport::visit::{self, Answer, CONNECT_LIMIT, Greeting, Purpose, Roads, VisitError};
use ray_rs_transport::{Token, local, relay};
use ray_rs_types::address::arena_shared;
use ray_rs_types::{NodeId, WorkerAddress, WorkerId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::clients::{self, Role};
use crate::input::{ConnKey, Input, Inputs};
use crate::raylet::Raylet;
use crate::timers::Timer;

/// Strangers that may be in the middle of a handshake at the same time; more wait in the kernel's backlog.
const MAX_HANDSHAKES: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long what a dead process has shared waits for its holders, in seconds. They answer within milliseconds, unless the
/// control store is away, or somebody has stopped them.
const ORPHANS_KEPT: &str = "RAY_RS_ORPHANS_KEPT_S";
const ORPHANS_KEPT_DEFAULT: Duration = Duration::from_secs(60);
/// A visit that came to nothing is tried again, after the first pause at first and twice as long each time, until then.
const VISIT_LIMIT: Duration = CONNECT_LIMIT.saturating_mul(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Clients that came through the port are numbered from here.
const FIRST_VISITOR: u64 = 1 << 40;

/// Accepts until the runtime ends.
pub(crate) async fn host(listener: TcpListener, token: Token, inputs: Inputs) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let permit = Arc::clone(&handshakes)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (token, inputs) = (token.clone(), inputs.clone());
        tokio::spawn(async move {
            let _permit = permit;
            match visit::receive(stream, &token).await {
                Ok((stream, greeting)) => drop(inputs.send(Input::Visitor { stream, greeting }).await),
                Err(error) => tracing::warn!(%error, "closed a connection"),
            }
        });
    }
}

/// The same for a client, which nobody can connect to. Who talks to it does so through the control store, so that its
/// session ends when the way there is lost: no program waits for answers that cannot come.
pub(crate) async fn host_through(gcs: Address, token: Token, node: NodeId, inputs: Inputs) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let (its, visitors) = (token.clone(), inputs.clone());
    let came = move |way| {
        let (handshakes, token, inputs) = (Arc::clone(&handshakes), its.clone(), visitors.clone());
        tokio::spawn(async move {
            let _permit = handshakes.acquire().await.expect("the semaphore is never closed");
            match visit::receive_through(way, &token).await {
                Ok((stream, greeting)) => drop(inputs.send(Input::Visitor { stream, greeting }).await),
                Err(error) => tracing::warn!(%error, "closed a connection"),
            }
        });
    };
    let error = relay::keep_door(gcs, token, node, came).await;
    tracing::error!(%error, "the way to the cluster is lost");
    let _ = inputs.send(Input::EndSession("the way to the cluster is lost")).await;
}

fn into_fd(stream: TcpStream) -> std::io::Result<OwnedFd> {
    Ok(OwnedFd::from(stream.into_std()?))
}

impl Raylet {
    /// To other nodes.
    ///
    /// # Errors
    /// The session's token cannot be read.
    pub fn roads(&self) -> Result<Roads, String> {
        let token = Token::read(&self.config.session_dir.join("token")).map_err(|error| error.to_string())?;
        let gcs = self.gcs_address.clone();
        Ok(match self.config.is_client {
            true => Roads::through(token, gcs),
            false => Roads::direct(token, gcs),
        })
    }

    /// Where another node is reached from here.
    ///
    /// # Errors
    /// Why it is not, for people.
    pub fn road_to(&self, node: NodeId) -> Result<(Roads, String), String> {
        let (roads, address) = (self.roads()?, self.cluster.address_of(node)?);
        let address = roads.address_of(node, address);
        Ok((roads, address))
    }

    pub fn visitor_came(&mut self, stream: TcpStream, greeting: Greeting) {
        if !matches!(greeting.purpose, Purpose::Data) {
            self.meets(greeting.from.node_id, greeting.from.worker_id);
        }
        let welcome = |stream: &TcpStream| visit::answer(stream, Answer::Welcome);
        let outcome = match greeting.purpose {
            Purpose::Raylet => welcome(&stream)
                .and_then(|()| into_fd(stream))
                .and_then(local::frames_of)
                .map(|(reader, writer)| {
                    self.visitors += 1;
                    let conn = ConnKey(FIRST_VISITOR + self.visitors);
                    let inputs = self.inputs.clone();
                    tokio::spawn(async move { clients::serve(conn, None, reader, writer, &inputs).await });
                }),
            Purpose::Worker(worker) => match self.local_client(worker) {
                Some(client) => welcome(&stream).and_then(|()| into_fd(stream)).map(|socket| {
                    let from = Some((&greeting.from).into());
                    let connected = Body::PeerConnected(v1::PeerConnected { from });
                    client.outbox.send_with_fds(connected, vec![socket]);
                }),
                None => visit::answer(&stream, Answer::NotHere),
            },
            Purpose::Data => welcome(&stream).and_then(|()| self.serve_reader(stream, greeting.from.node_id)),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a visitor was lost");
        }
    }

    /// A process of another node, which may own what lies here from now on: its end is to be heard of.
    fn meets(&mut self, node: NodeId, worker: WorkerId) {
        if node != self.node_id && self.remote_owners.entry(node).or_default().insert(worker) {
            self.gcs.report(follow_worker(node, worker));
        }
    }

    /// Once more, for a control store that may have been started anew.
    pub fn follow_remote_owners(&self) {
        for (node, workers) in &self.remote_owners {
            for worker in workers {
                self.gcs.report(follow_worker(*node, *worker));
            }
        }
    }

    pub fn say_whether_it_lives(&self, asked: v1::WorkerOfNode) {
        let lives = WorkerId::from_bytes(&asked.worker_id).is_ok_and(|worker| self.local_client(worker).is_some());
        if !lives {
            self.gcs.report(Report::WorkerNotHere(asked));
        }
    }

    pub fn remote_worker_gone(&mut self, gone: &v1::WorkerOfNode) {
        let (Ok(node), Ok(worker)) = (NodeId::from_bytes(&gone.node_id), WorkerId::from_bytes(&gone.worker_id)) else {
            return;
        };
        if let Some(known) = self.remote_owners.get_mut(&node)
            && known.remove(&worker)
        {
            self.remote_owner_died(worker);
        }
    }

    fn remote_owner_died(&mut self, worker: WorkerId) {
        self.store.remote_owner_died(&worker, &self.clients);
        self.may_be_adopted(&worker);
    }

    /// A process has ended that may have shared what lies here. Its holders hear of its end as this node does, and say at once
    /// who owns it now; what they have not said so of after a while has no holder.
    pub fn may_be_adopted(&mut self, worker: &WorkerId) {
        let said = std::env::var(ORPHANS_KEPT)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let when = Instant::now() + said.map_or(ORPHANS_KEPT_DEFAULT, Duration::from_secs);
        self.timers.set(when, Timer::OrphansUnclaimed(arena_shared(worker)));
    }

    pub fn orphans_unclaimed(&mut self, owner: u64) {
        self.store.owner_ended(owner, &self.clients);
        // Blocks in the extents of living processes are theirs to free.
        for client in self.clients.values().filter(|client| client.arena_row != 0) {
            client.outbox.send(Body::OrphansEnd(v1::OrphansEnd { owner }));
        }
    }

    /// With a node its processes have ended.
    pub fn remote_owners_gone(&mut self, node: NodeId) {
        for worker in self.remote_owners.remove(&node).unwrap_or_default() {
            self.remote_owner_died(worker);
        }
    }

    fn local_client(&self, worker: WorkerId) -> Option<&clients::Client> {
        self.clients
            .values()
            .find(|client| client.worker_id == worker && client.registered && client.role != Role::Remote)
    }

    /// A local client wants a connection to a process of another node.
    pub fn open_peer(&mut self, conn: ConnKey, request: &v1::OpenPeer) {
        if let (Ok(node), Ok(worker)) = (
            NodeId::from_bytes(&request.node_id),
            WorkerId::from_bytes(&request.worker_id),
        ) {
            self.meets(node, worker);
        }
        let Some(client) = self.clients.get(&conn) else { return };
        let (outbox, request_id) = (client.outbox.clone(), request.request_id);
        let answer = move |outcome: Result<OwnedFd, String>| {
            let (fds, error) = match outcome {
                Ok(socket) => (vec![socket], String::new()),
                Err(error) => (Vec::new(), error),
            };
            outbox.send_with_fds(Body::PeerOpened(v1::PeerOpened { request_id, error }), fds);
        };
        let road = NodeId::from_bytes(&request.node_id)
            .map_err(|error| error.to_string())
            .and_then(|node| self.road_to(node));
        let (roads, address) = match road {
            Ok(road) => road,
            Err(error) => return answer(Err(error)),
        };
        let greeting = Greeting {
            purpose: WorkerId::from_bytes(&request.worker_id).map_or(Purpose::Raylet, Purpose::Worker),
            from: WorkerAddress {
                node_id: self.node_id,
                worker_id: client.worker_id,
                pid: client.pid,
            },
        };
        tokio::spawn(async move {
            let outcome = match visit_again(&roads, &address, &greeting).await {
                Ok(stream) => into_fd(stream).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            answer(outcome);
        });
    }
}

/// A way that breaks while it is opened says nothing of the process at its end: whoever asked would take that for dead. By the
/// end of the limit the death of its node is known, if that is the reason.
async fn visit_again(roads: &Roads, address: &str, greeting: &Greeting) -> Result<TcpStream, VisitError> {
    let until = Instant::now() + VISIT_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        match roads.visit(address, greeting).await {
            Err(error) if error.may_pass() && Instant::now() + pause < until => {
                tracing::debug!(address, %error, "it is tried again");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn follow_worker(node: NodeId, worker: WorkerId) -> Report {
    Report::FollowWorker(v1::WorkerOfNode {
        worker_id: worker.0.to_vec(),
        node_id: node.0.to_vec(),
    })
}
