//! Connections to other nodes: to their core workers, and to their raylets.
//!
//! The raylet of this node opens them (it has the token and knows where everybody is) and passes the connected socket.
//! Until it has come, what is to be sent waits. What is said to a core worker is the same as on a lane, each message
//! behind four bytes of length; what is said to a raylet are the frames of its Unix socket. Sends are put together under
//! the lock and written after it, as far as the socket takes them; the progress thread writes the rest, and reads.
//!
//! There are no claim words over a network: what is on its way counts as claimed, and a withdrawal is a message whose
//! answer names the entries that had not begun.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ray_rs_dispatch::{ClassKey, Event, LeaseKey, RequestKey};
use ray_rs_ownership::OwnerIndex;
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body as News;
use ray_rs_proto::v1::to_raylet::Body as Order;
use ray_rs_types::{NodeId, WorkerAddress, WorkerId};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::net::SendFlags;

use crate::core::CoreWorker;
use crate::frames;
use crate::peers::{Link, PeerIndex};
use crate::state::State;

/// A longer message is a broken peer.
const MAX_MESSAGE_BYTES: usize = 1 << 30;
const PREFIX_BYTES: usize = 4;
/// A lease's key: the raylet that granted it above these bits, that raylet's number below.
const LEASE_BITS: u32 = 48;
/// What is not written when a process ends gets so long.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// A socket to another node, and what it has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    /// Set when the raylet has passed it.
    pub socket: OnceLock<OwnedFd>,
    unsent: Mutex<Unsent>,
}

#[derive(Debug, Default)]
struct Unsent {
    bytes: Vec<u8>,
    start: usize,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Peer(PeerIndex),
    /// By its place in [`Remote::raylets`].
    Raylet(u16),
}

/// The way to a core worker of another node.
pub(crate) struct RemoteLink {
    pub pipe: Arc<Pipe>,
    /// Decided and not yet handed to the pipe.
    out: Vec<u8>,
    input: Vec<u8>,
    /// Where the first unread message begins.
    at: usize,
}

impl RemoteLink {
    pub fn new(pipe: Arc<Pipe>) -> Self {
        Self {
            pipe,
            out: Vec::new(),
            input: Vec::new(),
            at: 0,
        }
    }

    // Out of the way of lanes, whose every message comes past here.
    #[cold]
    #[inline(never)]
    pub fn write(&mut self, kind: Kind, message: &impl prost::Message) {
        let len = message.encoded_len() + 1;
        self.out.reserve(PREFIX_BYTES + len);
        self.out
            .extend_from_slice(&u32::try_from(len).expect("messages are far below 4 GiB").to_le_bytes());
        self.out.push(kind as u8);
        message.encode(&mut self.out).expect("a Vec grows");
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.input.len()
    }

    /// The next whole message; an error when the peer does not speak messages.
    #[cold]
    #[inline(never)]
    pub fn receive<T>(&mut self, decode: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, ()> {
        let rest = &self.input[self.at..];
        let Some(prefix) = rest.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*prefix) as usize;
        if len > MAX_MESSAGE_BYTES {
            return Err(());
        }
        let Some(body) = rest.get(PREFIX_BYTES..PREFIX_BYTES + len) else {
            return Ok(None);
        };
        let message = decode(body);
        self.at += PREFIX_BYTES + len;
        if self.at == self.input.len() {
            self.at = 0;
            self.input.clear();
            if self.input.capacity() > 1 << 20 {
                self.input = Vec::new();
            }
        }
        Ok(Some(message))
    }

    fn arrived(&mut self, bytes: &[u8]) {
        if self.at > 1 << 16 {
            self.input.drain(..self.at);
            self.at = 0;
        }
        self.input.extend_from_slice(bytes);
    }
}

/// The raylet of another node, as one that grants leases.
struct RemoteRaylet {
    node: NodeId,
    pipe: Arc<Pipe>,
    out: Vec<u8>,
    lost: bool,
}

/// A lease request that another node was proposed for.
struct Spilled {
    place: u16,
    node: NodeId,
    view: u64,
}

/// What this process knows of other nodes.
#[derive(Default)]
pub(crate) struct Remote {
    /// Never used again once lost: leases carry the place. The first stands for the own raylet and is empty.
    raylets: Vec<Option<RemoteRaylet>>,
    by_node: FxHashMap<NodeId, u16>,
    /// Lease requests that another raylet has.
    spilled: FxHashMap<u64, Spilled>,
    /// Nodes that did not take requests of a class, and on which view of them they had been proposed.
    refusals: FxHashMap<(ClassKey, NodeId), u64>,
    opening: FxHashMap<u64, Target>,
    /// Opened since the progress thread last looked.
    pub new_pipes: Vec<(Target, Arc<Pipe>)>,
    dead_nodes: FxHashSet<NodeId>,
    pub leases_spilled: u64,
}

impl Remote {
    /// What is being opened for a lane that is no more is closed when it comes.
    pub fn forget_opening(&mut self, lane: PeerIndex) {
        self.opening.retain(|_, target| *target != Target::Peer(lane));
    }

    /// There is no such class any more.
    pub fn forget_refusals(&mut self, class: ClassKey) {
        self.refusals.retain(|(whose, _), _| *whose != class);
    }

    /// To be told with each request of the class, so that nobody is asked in vain again and again.
    pub fn refusals_of(&self, class: ClassKey) -> Vec<v1::NodeRefusal> {
        let its = self.refusals.iter().filter(|((whose, _), _)| *whose == class);
        its.map(|((_, node), view)| v1::NodeRefusal {
            node_id: node.0.to_vec(),
            view: *view,
        })
        .collect()
    }
}

impl CoreWorker {
    /// Writes what the socket takes now.
    pub(crate) fn flush_pipe(&self, target: Target, pipe: &Arc<Pipe>) {
        // This order of locks keeps the messages of several threads in the order in which they were decided.
        let mut unsent = pipe.unsent.lock();
        self.state.lock().take_out(target, pipe, &mut unsent.bytes);
        let Some(socket) = pipe.socket.get() else { return };
        while unsent.start < unsent.bytes.len() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(socket, &unsent.bytes[unsent.start..], flags) {
                Ok(sent) => unsent.start += sent,
                Err(rustix::io::Errno::INTR) => {}
                // Full, or broken: the progress thread hears of either.
                Err(_) => return,
            }
        }
        unsent.start = 0;
        unsent.bytes.clear();
        if unsent.bytes.capacity() > 1 << 20 {
            unsent.bytes = Vec::new();
        }
    }

    /// Before the process ends: what was said to other nodes goes out.
    pub(crate) fn flush_pipes(&self) {
        let until = Instant::now() + LAST_WRITE;
        let pipes = self.state.lock().pipes();
        for (target, pipe) in pipes {
            while pipe.socket.get().is_some() && Instant::now() < until {
                self.flush_pipe(target, &pipe);
                if pipe.unsent.lock().bytes.is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl State {
    fn pipe_of(&self, target: Target) -> Option<&Arc<Pipe>> {
        match target {
            Target::Peer(lane) => match &self.peers.get(lane)?.link {
                Link::Remote(link) => Some(&link.pipe),
                Link::Lane { .. } => None,
            },
            Target::Raylet(place) => self
                .remote
                .raylets
                .get(usize::from(place))?
                .as_ref()
                .map(|raylet| &raylet.pipe),
        }
    }

    fn pipes(&self) -> Vec<(Target, Arc<Pipe>)> {
        let lanes = (0..self.peers.lanes.len() as u32).map(|lane| Target::Peer(PeerIndex(lane)));
        let raylets = (0..self.remote.raylets.len() as u16).map(Target::Raylet);
        lanes
            .chain(raylets)
            .filter_map(|target| Some((target, Arc::clone(self.pipe_of(target)?))))
            .collect()
    }

    fn take_out(&mut self, target: Target, pipe: &Arc<Pipe>, into: &mut Vec<u8>) {
        let out = match target {
            Target::Peer(lane) => match self.peers.get_mut(lane).map(|peer| &mut peer.link) {
                // The number may be another lane's by now.
                Some(Link::Remote(link)) if Arc::ptr_eq(&link.pipe, pipe) => &mut link.out,
                _ => return,
            },
            Target::Raylet(place) => match self.remote.raylets.get_mut(usize::from(place)) {
                Some(Some(raylet)) => &mut raylet.out,
                _ => return,
            },
        };
        into.append(out);
    }

    /// Has what was written to a lane of another node sent once the lock is free.
    pub fn send_out(&mut self, target: Target) {
        let Some(pipe) = self.pipe_of(target).cloned() else {
            return;
        };
        if !self.after.pipes.iter().any(|(other, _)| *other == target) {
            self.after.pipes.push((target, pipe));
        }
    }

    // ---- opening -----------------------------------------------------------------------------------------------

    fn open(&mut self, target: Target, node: NodeId, worker: Option<WorkerId>) {
        let request_id = self.fresh_request();
        self.remote.opening.insert(request_id, target);
        self.tell_raylet(Order::OpenPeer(v1::OpenPeer {
            request_id,
            node_id: node.0.to_vec(),
            worker_id: worker.map(|worker| worker.0.to_vec()).unwrap_or_default(),
        }));
    }

    /// A lane to a process of another node; it can be written to at once.
    pub fn open_remote(&mut self, who: OwnerIndex) -> Option<PeerIndex> {
        let address = self.peers.address(who);
        if self.raylet_dead || self.remote.dead_nodes.contains(&address.node_id) {
            return None;
        }
        let lane = self.peers.add_remote(who, RemoteLink::new(Arc::default()));
        self.open(Target::Peer(lane), address.node_id, Some(address.worker_id));
        // It tells how processes of that node end.
        self.raylet_of(address.node_id);
        Some(lane)
    }

    pub fn peer_opened(&mut self, opened: &v1::PeerOpened, socket: Option<OwnedFd>) {
        let Some(target) = self.remote.opening.remove(&opened.request_id) else {
            return;
        };
        match socket {
            Some(socket) => {
                let Some(pipe) = self.pipe_of(target).cloned() else {
                    return;
                };
                let _ = pipe.socket.set(socket);
                self.remote.new_pipes.push((target, pipe));
                self.send_out(target);
            }
            None => self.pipe_closed(target, None, &opened.error),
        }
    }

    /// A core worker of another node has connected.
    pub fn peer_connected(&mut self, connected: &v1::PeerConnected, socket: OwnedFd) {
        let Some(Ok(from)) = connected.from.as_ref().map(WorkerAddress::try_from) else {
            return;
        };
        let who = self.owner_index(&from);
        if self.peers.is_dead(who) {
            return;
        }
        let pipe = Arc::new(Pipe::default());
        let _ = pipe.socket.set(socket);
        let lane = self.peers.add_remote(who, RemoteLink::new(Arc::clone(&pipe)));
        self.remote.new_pipes.push((Target::Peer(lane), pipe));
        self.raylet_of(from.node_id);
    }

    pub fn bytes_arrived(&mut self, lane: PeerIndex, pipe: &Arc<Pipe>, bytes: &[u8]) {
        match self.peers.get_mut(lane).map(|peer| &mut peer.link) {
            Some(Link::Remote(link)) if Arc::ptr_eq(&link.pipe, pipe) => link.arrived(bytes),
            _ => return,
        }
        self.drain_lane(lane, usize::MAX);
        if self.holder_rests && self.execution.has_work() {
            self.nudge();
        }
    }

    /// The other end is gone. `pipe`: the one that ended, if it was ever open.
    pub fn pipe_closed(&mut self, target: Target, pipe: Option<&Arc<Pipe>>, why: &str) {
        if pipe.is_some_and(|pipe| self.pipe_of(target).is_none_or(|known| !Arc::ptr_eq(known, pipe))) {
            return;
        }
        match target {
            Target::Peer(lane) => {
                if let Some(who) = self.peers.get(lane).map(|peer| peer.who) {
                    tracing::debug!(why, worker = %self.peers.address(who).worker_id, "a process of another node is gone");
                    self.process_died(who);
                }
            }
            Target::Raylet(place) => self.raylet_lost(place, why),
        }
    }

    // ---- raylets of other nodes ----------------------------------------------------------------------------------

    fn raylet_of(&mut self, node: NodeId) -> Option<u16> {
        if let Some(place) = self.remote.by_node.get(&node) {
            return Some(*place);
        }
        if self.remote.dead_nodes.contains(&node) || self.closed {
            return None;
        }
        if self.remote.raylets.is_empty() {
            self.remote.raylets.push(None);
        }
        let place = u16::try_from(self.remote.raylets.len()).ok()?;
        let mut out = Vec::new();
        let register = v1::Register {
            role: 2,
            worker_id: self.me.worker_id.0.to_vec(),
            pid: self.me.pid,
            job_id: self.job.0.to_vec(),
            ..v1::Register::default()
        };
        frames::append(
            &mut out,
            &v1::ToRaylet {
                body: Some(Order::Register(register)),
            },
        );
        self.remote.raylets.push(Some(RemoteRaylet {
            node,
            pipe: Arc::default(),
            out,
            lost: false,
        }));
        self.remote.by_node.insert(node, place);
        self.open(Target::Raylet(place), node, None);
        Some(place)
    }

    fn tell_raylet_at(&mut self, place: u16, body: Order) {
        if let Some(Some(raylet)) = self.remote.raylets.get_mut(usize::from(place)) {
            frames::append(&mut raylet.out, &v1::ToRaylet { body: Some(body) });
            self.send_out(Target::Raylet(place));
        }
    }

    /// Tells the raylet of `node`, this one's or another's; false when there is none (any more).
    pub fn tell_raylet_of(&mut self, node: NodeId, body: Order) -> bool {
        if node == self.me.node_id {
            self.tell_raylet(body);
            return true;
        }
        match self.raylet_of(node) {
            Some(place) => {
                self.tell_raylet_at(place, body);
                true
            }
            None => false,
        }
    }

    /// Gives a lease back to whoever granted it.
    pub fn return_lease(&mut self, lease: LeaseKey, worker_gone: bool) {
        let body = Order::ReturnLease(v1::ReturnLease {
            lease_id: lease.0 & ((1 << LEASE_BITS) - 1),
            worker_gone,
        });
        match (lease.0 >> LEASE_BITS) as u16 {
            0 => self.tell_raylet(body),
            place => self.tell_raylet_at(place, body),
        }
    }

    pub fn cancel_lease_request(&mut self, request: RequestKey) {
        let body = Order::CancelLeaseRequest(v1::CancelLeaseRequest { request_id: request.0 });
        match self.remote.spilled.remove(&request.0) {
            Some(spilled) => self.tell_raylet_at(spilled.place, body),
            None => self.tell_raylet(body),
        }
    }

    /// The own raylet proposes another node for a request.
    pub fn lease_spilled(&mut self, spilled: &v1::LeaseSpilled) {
        let request = RequestKey(spilled.request_id);
        let Ok(node) = NodeId::from_bytes(&spilled.node_id) else {
            return self.dispatch_event(Event::LeaseRejected { request });
        };
        let Some(place) = self.raylet_of(node) else {
            return self.not_taken(request, node, spilled.view);
        };
        let Some(class) = self.class(request.class()) else {
            // It was cancelled meanwhile.
            return self.dispatch_event(Event::LeaseRejected { request });
        };
        let message = v1::RequestLease {
            request_id: request.0,
            resources: Some((&class.resources).into()),
            runtime_env: class.runtime_env.to_string(),
            spilled: true,
            expects_room: spilled.expects_room,
            ..v1::RequestLease::default()
        };
        self.remote.leases_spilled += 1;
        let view = spilled.view;
        self.remote.spilled.insert(request.0, Spilled { place, node, view });
        self.tell_raylet_at(place, Order::RequestLease(message));
    }

    /// The request is made anew, and the node is left out as long as it says nothing new.
    fn not_taken(&mut self, request: RequestKey, node: NodeId, view: u64) {
        self.remote.refusals.insert((request.class(), node), view);
        self.dispatch_event(Event::LeaseRejected { request });
    }

    /// Leases of all raylets have different keys.
    fn lease_key(place: u16, lease_id: u64) -> LeaseKey {
        LeaseKey(u64::from(place) << LEASE_BITS | lease_id)
    }

    pub fn remote_raylet_says(&mut self, place: u16, message: v1::FromRaylet) {
        let Some(body) = message.body else { return };
        match body {
            News::LeaseGranted(mut granted) => {
                if let Some(spilled) = self.remote.spilled.remove(&granted.request_id) {
                    let class = RequestKey(granted.request_id).class();
                    self.remote.refusals.remove(&(class, spilled.node));
                }
                granted.lease_id = Self::lease_key(place, granted.lease_id).0;
                self.lease_granted(granted);
            }
            News::LeaseRejected(rejected) => {
                let spilled = self.remote.spilled.remove(&rejected.request_id);
                match spilled.filter(|_| rejected.cause == 0) {
                    Some(Spilled { node, view, .. }) => self.not_taken(RequestKey(rejected.request_id), node, view),
                    None => self.lease_rejected(rejected),
                }
            }
            News::LeaseRevoked(revoked) => {
                let lease = Self::lease_key(place, revoked.lease_id);
                self.dispatch_event(Event::LeaseRevoked { lease });
            }
            News::Registered(registered) if !registered.error.is_empty() => {
                tracing::debug!(error = registered.error, "another node's raylet refuses this process");
                self.raylet_lost(place, &registered.error);
            }
            // How processes there end, and what they print.
            body @ (News::WorkerDied(_) | News::DeathReport(_) | News::LogLines(_) | News::Notice(_)) => {
                self.raylet_says(v1::FromRaylet { body: Some(body) }, None);
            }
            // Nothing else concerns a client from elsewhere.
            _ => {}
        }
    }

    fn raylet_lost(&mut self, place: u16, why: &str) {
        let Some(Some(raylet)) = self.remote.raylets.get_mut(usize::from(place)) else {
            return;
        };
        if std::mem::replace(&mut raylet.lost, true) {
            return;
        }
        let node = raylet.node;
        self.remote.raylets[usize::from(place)] = None;
        self.remote.by_node.remove(&node);
        let its = |_: &u64, spilled: &mut Spilled| spilled.place == place;
        let requests: Vec<(u64, Spilled)> = self.remote.spilled.extract_if(its).collect();
        for (request, spilled) in requests {
            self.not_taken(RequestKey(request), spilled.node, spilled.view);
        }
        // Nobody is left who could say how these ended.
        let awaited: Vec<WorkerId> = self.awaiting_reports.iter().map(|waiting| waiting.worker).collect();
        for worker in awaited {
            if self
                .peers
                .find(&worker)
                .is_some_and(|who| self.peers.address(who).node_id == node)
            {
                self.death_reported(&unexplained(&worker, why));
            }
        }
        // A raylet takes its workers with it; leases that it granted are dead with them.
        let leased: Vec<OwnerIndex> = self
            .leases
            .iter()
            .filter(|(lease, _)| (lease.0 >> LEASE_BITS) as u16 == place)
            .filter_map(|(_, lease)| self.peers.get(lease.lane).map(|peer| peer.who))
            .collect();
        for who in leased {
            self.process_died(who);
        }
    }

    /// Asks how a process ended; [`Self::death_reported`] is called in any case.
    pub fn ask_why_died(&mut self, worker: WorkerId) {
        let node = self
            .peers
            .find(&worker)
            .map_or(self.me.node_id, |who| self.peers.address(who).node_id);
        let request_id = self.fresh_request();
        let message = v1::WhyDied {
            request_id,
            worker_id: worker.0.to_vec(),
        };
        if !self.tell_raylet_of(node, Order::WhyDied(message)) {
            self.death_reported(&unexplained(&worker, "its node has died"));
        }
    }

    /// The control store says that a node is gone, with all that ran there.
    pub fn node_died(&mut self, died: &v1::NodeDied) {
        let Ok(node) = NodeId::from_bytes(&died.node_id) else {
            return;
        };
        self.remote.dead_nodes.insert(node);
        for who in self.peers.on_node(node) {
            self.process_died(who);
        }
        if let Some(place) = self.remote.by_node.get(&node).copied() {
            self.raylet_lost(place, "its node has died");
        }
        self.run_effects();
    }
}

fn unexplained(worker: &WorkerId, why: &str) -> v1::DeathReport {
    v1::DeathReport {
        worker_id: worker.0.to_vec(),
        exit_code: -1,
        detail: format!("the connection to its node was lost: {why}"),
        ..v1::DeathReport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_put_together_from_any_pieces() {
        let mut sender = RemoteLink::new(Arc::default());
        for seq in 0..50_u64 {
            let seqs = (0..seq).collect();
            sender.write(Kind::EntriesReturned, &v1::EntriesReturned { seqs });
        }
        for piece in [1, 3, 64, 100_000] {
            let mut receiver = RemoteLink::new(Arc::default());
            let mut lengths = Vec::new();
            for bytes in sender.out.chunks(piece) {
                receiver.arrived(bytes);
                while let Some((kind, len)) = receiver
                    .receive(|body| {
                        let message: v1::EntriesReturned = prost::Message::decode(&body[1..]).expect("whole");
                        (body[0], message.seqs.len())
                    })
                    .expect("well formed")
                {
                    assert_eq!(kind, Kind::EntriesReturned as u8);
                    lengths.push(len);
                }
            }
            assert_eq!(lengths, (0..50).collect::<Vec<_>>());
            assert!(receiver.is_empty());
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        let mut receiver = RemoteLink::new(Arc::default());
        receiver.arrived(&[0xff; 8]);
        assert!(receiver.receive(<[u8]>::len).is_err());
    }
}
