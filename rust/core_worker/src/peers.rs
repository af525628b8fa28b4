//! The other processes: their numbers, and the lanes to those on this node.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use ray_rs_dispatch::LeaseKey;
use ray_rs_lanes::{IncomingClaims, Lane, LaneProbe, LaneReceiver, LaneSender, OutgoingClaims, RemoteBell, Sent};
use ray_rs_ownership::{OwnerIndex, TaskKey};
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::{NodeId, WorkerAddress, WorkerId};
use rustc_hash::FxHashMap;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::frames;
use crate::model::{Callee, LeaseTerms};
use crate::remote::{RemoteLink, Target};
use crate::state::State;

/// Number of a lane in this process; not used twice while anything may name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PeerIndex(pub u32);

/// What is known of one process, whether or not a lane leads to it.
struct Known {
    address: WorkerAddress,
    /// The lane that messages to it take: one only, so that they stay in order.
    lane: Option<PeerIndex>,
    dead: bool,
}

/// What carries the messages.
pub(crate) enum Link {
    /// Memory shared with a process of this node.
    Lane {
        sender: LaneSender,
        receiver: LaneReceiver,
        out_claims: OutgoingClaims,
        in_claims: IncomingClaims,
    },
    /// A connection to a process of another node.
    Remote(RemoteLink),
}

/// One lane.
pub(crate) struct Peer {
    pub who: OwnerIndex,
    pub link: Link,
    /// Unknown until the other side has answered the hand-shake.
    pub bell: Option<Arc<RemoteBell>>,
    /// What is to be rung for, once the bell is known or the lock is free.
    pub unrung: u32,
    /// Replies written since the last ring.
    pub quiet_replies: u32,
    /// Of a lane: the socket over which it was opened.
    pub socket: Option<Arc<OwnedFd>>,
    /// Sequence number of the next normal task, and of the first in `in_flight`.
    pub next_seq: u64,
    pub first_seq: u64,
    /// Normal tasks pushed and not answered, by sequence number; answers come nearly in order.
    pub in_flight: VecDeque<Option<TaskKey>>,
    /// Actor calls pushed and not answered, by sequence number (these have the high bit set).
    pub calls: FxHashMap<u64, TaskKey>,
    /// Functions and methods defined on this lane, by our number; the value is the lane's.
    defined: FxHashMap<u32, u32>,
    /// Numbers of the lane that were taken back, since no task sent there needs them any more.
    undefined: Vec<u32>,
    /// What the other side defined.
    pub callees: Vec<Arc<Callee>>,
    /// Of the lease under which it pushes.
    pub lease_terms: Arc<LeaseTerms>,
    pub had_backlog: bool,
    /// The lease under which this process pushes to it.
    pub lease: Option<LeaseKey>,
}

/// Set on sequence numbers of actor calls: they are not withdrawn, so they need no claim words and may finish in any order.
pub(crate) const CALL_SEQ: u64 = 1 << 63;

pub(crate) struct Peers {
    known: Vec<Known>,
    by_worker: FxHashMap<WorkerId, OwnerIndex>,
    pub lanes: Vec<Option<Peer>>,
    /// Tasks and calls in flight on all lanes.
    pub in_flight: usize,
    /// Lanes with messages queued in this process.
    pub backlog: usize,
    /// For looking at all lanes without the lock.
    pub probes: Arc<Vec<LaneProbe>>,
    /// Sockets opened since the progress thread last looked.
    pub new_sockets: Vec<(PeerIndex, Arc<OwnedFd>)>,
}

impl Peers {
    pub fn new(me: WorkerAddress) -> Self {
        let mut peers = Self {
            known: Vec::new(),
            by_worker: FxHashMap::default(),
            lanes: Vec::new(),
            in_flight: 0,
            backlog: 0,
            probes: Arc::new(Vec::new()),
            new_sockets: Vec::new(),
        };
        let index = peers.index_of(&me);
        debug_assert_eq!(index, OwnerIndex::ME);
        peers
    }

    pub fn index_of(&mut self, address: &WorkerAddress) -> OwnerIndex {
        if let Some(index) = self.by_worker.get(&address.worker_id) {
            return *index;
        }
        let index = OwnerIndex(self.known.len() as u32);
        self.known.push(Known {
            address: *address,
            lane: None,
            dead: false,
        });
        self.by_worker.insert(address.worker_id, index);
        index
    }

    pub fn address(&self, index: OwnerIndex) -> WorkerAddress {
        self.known[index.0 as usize].address
    }

    pub fn find(&self, worker: &WorkerId) -> Option<OwnerIndex> {
        self.by_worker.get(worker).copied()
    }

    pub fn is_alive(&self, worker: &WorkerId) -> bool {
        self.find(worker)
            .is_some_and(|index| !self.known[index.0 as usize].dead)
    }

    pub fn is_dead(&self, index: OwnerIndex) -> bool {
        self.known[index.0 as usize].dead
    }

    /// True the first time.
    pub fn mark_dead(&mut self, index: OwnerIndex) -> bool {
        let known = &mut self.known[index.0 as usize];
        known.lane = None;
        !std::mem::replace(&mut known.dead, true)
    }

    pub fn lane_to(&self, index: OwnerIndex) -> Option<PeerIndex> {
        self.known[index.0 as usize].lane
    }

    pub fn get(&self, lane: PeerIndex) -> Option<&Peer> {
        self.lanes.get(lane.0 as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, lane: PeerIndex) -> Option<&mut Peer> {
        self.lanes.get_mut(lane.0 as usize)?.as_mut()
    }

    pub fn add(&mut self, who: OwnerIndex, lane: Lane, bell: Option<RemoteBell>, socket: Arc<OwnedFd>) -> PeerIndex {
        let (sender, receiver, out_claims, in_claims) = lane.split();
        let link = Link::Lane {
            sender,
            receiver,
            out_claims,
            in_claims,
        };
        self.add_link(who, link, bell, Some(socket))
    }

    pub fn add_remote(&mut self, who: OwnerIndex, link: RemoteLink) -> PeerIndex {
        self.add_link(who, Link::Remote(link), None, None)
    }

    /// Those that run, or ran, on a node.
    pub fn on_node(&self, node: NodeId) -> Vec<OwnerIndex> {
        (0..self.known.len() as u32)
            .map(OwnerIndex)
            .filter(|index| self.address(*index).node_id == node)
            .collect()
    }

    /// A function or a method is no more. It may only be said of one that no task needs: numbers of lanes are given anew.
    pub fn undefine(&mut self, ours: u32) {
        for peer in self.lanes.iter_mut().flatten() {
            peer.undefined.extend(peer.defined.remove(&ours));
        }
    }

    fn add_link(
        &mut self,
        who: OwnerIndex,
        link: Link,
        bell: Option<RemoteBell>,
        socket: Option<Arc<OwnedFd>>,
    ) -> PeerIndex {
        let peer = Peer {
            who,
            link,
            bell: bell.map(Arc::new),
            unrung: 0,
            quiet_replies: 0,
            socket,
            next_seq: 1,
            first_seq: 1,
            in_flight: VecDeque::new(),
            calls: FxHashMap::default(),
            defined: FxHashMap::default(),
            undefined: Vec::new(),
            callees: Vec::new(),
            lease_terms: Arc::default(),
            had_backlog: false,
            lease: None,
        };
        let index = match self.lanes.iter().position(Option::is_none) {
            Some(free) => {
                self.lanes[free] = Some(peer);
                PeerIndex(free as u32)
            }
            None => {
                self.lanes.push(Some(peer));
                PeerIndex(self.lanes.len() as u32 - 1)
            }
        };
        let known = &mut self.known[who.0 as usize];
        known.lane.get_or_insert(index);
        self.renew_probes();
        index
    }

    pub fn remove(&mut self, lane: PeerIndex) -> Option<Peer> {
        let peer = self.lanes.get_mut(lane.0 as usize)?.take()?;
        if let Link::Remote(link) = &peer.link
            && let Some(socket) = link.pipe.socket.get()
        {
            // The progress thread holds it as well.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        self.in_flight -= peer.in_flight.iter().flatten().count() + peer.calls.len();
        self.backlog -= usize::from(peer.had_backlog);
        let known = &mut self.known[peer.who.0 as usize];
        if known.lane == Some(lane) {
            known.lane = None;
        }
        self.renew_probes();
        Some(peer)
    }

    fn renew_probes(&mut self) {
        let probe = |peer: &Peer| match &peer.link {
            Link::Lane { receiver, .. } => Some(receiver.probe()),
            Link::Remote(_) => None,
        };
        self.probes = Arc::new(self.lanes.iter().flatten().filter_map(probe).collect());
    }
}

impl Peer {
    /// The lane's number for one of ours.
    ///
    /// # Errors
    /// The number that it has from now on, which the other side must be told.
    pub fn definition_of(&mut self, ours: u32) -> Result<u32, u32> {
        if let Some(index) = self.defined.get(&ours) {
            return Ok(*index);
        }
        let index = self.undefined.pop().unwrap_or(self.defined.len() as u32);
        self.defined.insert(ours, index);
        Err(index)
    }

    /// Writes one message; the bell is rung for `what` after the lock is free.
    pub fn write(&mut self, kind: Kind, message: &impl prost::Message) -> Sent {
        let sender = match &mut self.link {
            Link::Lane { sender, .. } => sender,
            Link::Remote(link) => {
                link.write(kind, message);
                return Sent::InRing;
            }
        };
        let len = message.encoded_len() + 1;
        sender.send_with(len, |mut bytes| {
            bytes[0] = kind as u8;
            let mut body = &mut bytes[1..];
            message.encode(&mut body).expect("encoded_len is exact");
            bytes = &mut [];
            let _ = bytes;
        })
    }

    #[inline]
    pub fn is_remote(&self) -> bool {
        matches!(self.link, Link::Remote(_))
    }

    /// Reads one message; an error when the peer writes nonsense.
    #[inline]
    pub fn receive<T>(&mut self, decode: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, ()> {
        match &mut self.link {
            Link::Lane { receiver, .. } => receiver.receive(decode).map_err(drop),
            Link::Remote(link) => link.receive(decode),
        }
    }

    /// Nothing is here to be read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        match &self.link {
            Link::Lane { receiver, .. } => receiver.is_empty(),
            Link::Remote(link) => link.is_empty(),
        }
    }

    pub fn waits_for_room(&mut self) -> bool {
        match &mut self.link {
            Link::Lane { receiver, .. } => receiver.peer_waits_for_room(),
            Link::Remote(_) => false,
        }
    }

    /// Moves what had to wait for room; (whether anything moved, whether something still waits).
    pub fn flush(&mut self) -> (bool, bool) {
        match &mut self.link {
            Link::Lane { sender, .. } => {
                let moved = sender.flush();
                (moved, sender.has_backlog())
            }
            Link::Remote(_) => (false, false),
        }
    }

    /// The entry may be claimed from here on.
    #[inline]
    pub fn publish(&mut self, seq: u64) {
        if let Link::Lane { out_claims, .. } = &mut self.link {
            out_claims.publish(seq);
        }
    }

    /// Takes an entry back that the other side has not claimed. Over a network that is asked, not done.
    pub fn withdraw(&mut self, seq: u64) -> bool {
        match &mut self.link {
            Link::Lane { out_claims, .. } => out_claims.withdraw(seq),
            Link::Remote(_) => false,
        }
    }

    /// Whether the other side has begun with the entry, or may have.
    pub fn is_claimed(&self, seq: u64) -> bool {
        match &self.link {
            Link::Lane { out_claims, .. } => out_claims.is_claimed(seq),
            Link::Remote(_) => true,
        }
    }

    /// Claims an entry of the other side's; false when it was withdrawn.
    #[inline]
    pub fn claim(&self, seq: u64) -> bool {
        match &self.link {
            Link::Lane { in_claims, .. } => in_claims.claim(seq),
            Link::Remote(_) => true,
        }
    }
}

impl State {
    /// Sends to a process, over its lane, which is opened if need be. Nothing is sent to the dead.
    pub fn send_to(&mut self, who: OwnerIndex, kind: Kind, message: &impl prost::Message) {
        if let Some(lane) = self.open_lane(who) {
            self.send_on(lane, kind, message, ray_rs_lanes::PROGRESS);
        }
    }

    pub fn send_to_worker(&mut self, worker: &WorkerId, kind: Kind, message: &impl prost::Message) {
        if let Some(who) = self.peers.find(worker) {
            self.send_to(who, kind, message);
        }
    }

    /// Sends on a lane and rings for `what` once the lock is free; 0 rings nobody.
    pub fn send_on(&mut self, lane: PeerIndex, kind: Kind, message: &impl prost::Message, what: u32) {
        let Some(peer) = self.peers.get_mut(lane) else { return };
        if peer.write(kind, message) == Sent::Queued && !peer.had_backlog {
            peer.had_backlog = true;
            self.peers.backlog += 1;
        }
        self.ring(lane, what);
    }

    pub fn ring(&mut self, lane: PeerIndex, what: u32) {
        let Some(peer) = self.peers.get_mut(lane) else { return };
        if what == 0 {
            return;
        }
        if peer.is_remote() {
            return self.send_out(Target::Peer(lane));
        }
        match &peer.bell {
            Some(bell) => match self.after.bells.iter_mut().find(|(other, _)| Arc::ptr_eq(other, bell)) {
                Some((_, already)) => *already |= what,
                None => self.after.bells.push((Arc::clone(bell), what)),
            },
            None => peer.unrung |= what,
        }
    }

    /// The lane to a process.
    pub fn open_lane(&mut self, who: OwnerIndex) -> Option<PeerIndex> {
        if let Some(lane) = self.peers.lane_to(who) {
            return Some(lane);
        }
        if who == OwnerIndex::ME {
            return None;
        }
        self.open_lane_to_actor(who)
    }

    /// The same, also to this process: an actor calls itself as it calls others, over a lane whose both ends are here.
    pub fn open_lane_to_actor(&mut self, who: OwnerIndex) -> Option<PeerIndex> {
        if let Some(lane) = self.peers.lane_to(who) {
            return Some(lane);
        }
        if self.peers.is_dead(who) || self.closed {
            return None;
        }
        if self.peers.address(who).node_id != self.me.node_id {
            return self.open_remote(who);
        }
        match self.connect(who) {
            Ok(lane) => Some(lane),
            Err(error) => {
                tracing::debug!(%error, worker = %self.peers.address(who).worker_id, "no lane to a worker: it is gone");
                self.process_died(who);
                None
            }
        }
    }

    // Done under the lock: once in the life of a pair of processes, and the accepting side is not waited for.
    fn connect(&mut self, who: OwnerIndex) -> io::Result<PeerIndex> {
        let address = self.peers.address(who);
        let socket = connect_socket(&self.socket_dir.join(address.socket_name()))?;
        let (lane, memory) = Lane::create()?;
        let (bell_memory, bell_eventfd) = self.bell.share()?;
        let mut hello = Vec::new();
        frames::append(
            &mut hello,
            &v1::Hello {
                from: Some((&self.me).into()),
                session: self.session.clone(),
            },
        );
        frames::write_with_fds(
            socket.as_fd(),
            &hello,
            &[memory.as_fd(), bell_memory.as_fd(), bell_eventfd.as_fd()],
        )?;
        let socket = Arc::new(socket);
        let index = self.peers.add(who, lane, None, Arc::clone(&socket));
        self.peers.new_sockets.push((index, socket));
        self.after.kick = true;
        Ok(index)
    }
}

fn connect_socket(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let peer = rustix::net::sockopt::socket_peercred(&socket)?;
    if peer.uid != rustix::process::getuid() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the socket belongs to another user",
        ));
    }
    Ok(socket)
}
