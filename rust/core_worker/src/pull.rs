//! Values that lie in the arena of another node: brought here before somebody reads them.
//!
//! The raylet fetches (once for all processes of this node) and says where the copy lies; it is pinned here from that
//! moment until whoever asked has read it. A task's arguments are asked for when the task arrives, and the task waits in
//! its place; a `get` asks when the value is ready.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use ray_rs_object_store::Pin;
use ray_rs_ownership::OwnerIndex;
use ray_rs_proto::v1;
use ray_rs_proto::v1::to_raylet::Body as Order;
use ray_rs_types::NodeId;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::core::{CoreWorker, Interrupt};
use crate::model::{CoreError, Failure, HostEvent, Location, ReadData, RefSlot, ValueData, WaitOutcome};
use crate::other_nodes::OtherNode;
use crate::peers::PeerIndex;
use crate::state::State;

/// Signals are looked for at least so often.
const SLICE: Duration = Duration::from_millis(50);

/// Where a value lies, elsewhere: (node, offset, generation) never means another one.
type Source = (OtherNode, u64, u64);

/// Who waits for a value to be brought.
pub(crate) enum Reader {
    Thread(Thread),
    /// Somebody who is told by [`HostEvent::Ready`].
    Token(u64),
    /// A task or call that has been pushed to this process.
    Task(PeerIndex, u64),
    /// The constructor of the actor that this process is to become.
    Constructor,
}

struct Pull {
    location: Location,
    reader: Reader,
}

/// A copy in this node's arena; it stays while it is pinned.
struct Copy {
    _pin: Pin,
    offset: u64,
    length: u64,
    generation: u64,
}

/// What became of a value that was asked for. Its reader holds it until the value was read.
pub(crate) struct Brought {
    source: Source,
    outcome: Result<Copy, Box<Failure>>,
}

/// Values on their way, or just arrived.
#[derive(Default)]
pub(crate) struct Pulls {
    asked: FxHashMap<u64, Pull>,
    /// For threads that wait, by the number of the request.
    brought: FxHashMap<u64, Brought>,
    /// What was brought for the task whose arguments are being read.
    pub reading: Vec<Brought>,
    /// Nodes that have been told of a value in this node's arena, by offset and generation.
    travelled: FxHashMap<(u64, u64), SmallVec<[NodeId; 2]>>,
    /// An order to become an actor, how many of its arguments are on their way, and which have come.
    pub starting: Option<(v1::StartActor, usize, Vec<Brought>)>,
    /// This process has heard of a value on another node.
    any_elsewhere: Cell<bool>,
}

/// What [`CoreWorker::fetch_from_nodes`] brought stays here until this is dropped.
#[must_use]
pub struct Fetched {
    core: Arc<CoreWorker>,
    requests: Vec<u64>,
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if !self.requests.is_empty() {
            let mut state = self.core.state.lock();
            for request in &self.requests {
                state.pulls.asked.remove(request);
                state.pulls.brought.remove(request);
            }
        }
    }
}

impl Location {
    fn source(&self) -> Option<Source> {
        Some((self.node?, self.offset, self.generation))
    }
}

impl CoreWorker {
    /// Brings what lies on other nodes of these ready values, for as long as the answer is held. What cannot be brought is
    /// an error when it is read.
    pub fn fetch_from_nodes(
        self: &Arc<Self>,
        slots: &[RefSlot],
        timeout: Option<Duration>,
        interrupt: Interrupt<'_>,
    ) -> (WaitOutcome, Fetched) {
        let elsewhere = self.with(|state| slots.iter().filter_map(|slot| state.elsewhere(*slot)).collect());
        self.fetch(elsewhere, timeout, interrupt)
    }

    pub(crate) fn fetch(
        self: &Arc<Self>,
        elsewhere: Vec<Location>,
        timeout: Option<Duration>,
        interrupt: Interrupt<'_>,
    ) -> (WaitOutcome, Fetched) {
        let requests = self.with(|state| {
            let thread = std::thread::current();
            let ask = |location: &Location| state.pull(location, Reader::Thread(thread.clone()));
            elsewhere.iter().map(ask).collect::<Vec<u64>>()
        });
        let fetched = Fetched {
            core: Arc::clone(self),
            requests,
        };
        let began = Instant::now();
        let outcome = loop {
            let waits = {
                let state = self.state.lock();
                let is_coming = |request| state.pulls.asked.contains_key(request);
                fetched.requests.iter().any(is_coming)
            };
            if !waits {
                break WaitOutcome::Satisfied;
            }
            if self.is_disconnected() {
                break WaitOutcome::Disconnected;
            }
            if timeout.is_some_and(|limit| began.elapsed() >= limit) {
                break WaitOutcome::TimedOut;
            }
            if interrupt() {
                break WaitOutcome::Interrupted;
            }
            std::thread::park_timeout(SLICE);
        };
        (outcome, fetched)
    }

    /// Whether some of these ready values must be brought before they are read.
    pub fn any_elsewhere(&self, slots: &[RefSlot]) -> bool {
        let state = self.state.lock();
        state.pulls.any_elsewhere.get() && slots.iter().any(|slot| state.elsewhere(*slot).is_some())
    }
}

impl State {
    /// Where a ready value lies, if that is on another node and it was not brought just now.
    pub fn elsewhere(&self, slot: RefSlot) -> Option<Location> {
        if !self.pulls.any_elsewhere.get() {
            return None;
        }
        match &self.owner.value(slot)?.0.data {
            ValueData::Arena(location) => {
                let source = location.source()?;
                self.brought_copy(source).is_none().then_some(*location)
            }
            ValueData::Empty | ValueData::Inline(_) | ValueData::Failed(_) => None,
        }
    }

    fn brought_copy(&self, source: Source) -> Option<&Brought> {
        let all = self.pulls.reading.iter().chain(self.pulls.brought.values());
        // Of several that were brought at different times one may have failed.
        all.filter(|brought| brought.source == source)
            .max_by_key(|brought| brought.outcome.is_ok())
    }

    /// Brings one value without waiting; [`HostEvent::Ready`] with `token` says that it is in [`State::brought`].
    pub fn pull_for(&mut self, token: u64, location: &Location) {
        self.pull(location, Reader::Token(token));
    }

    /// Nothing more comes from the raylet.
    pub fn pull_nothing_more(&mut self) {
        let asked = self
            .pulls
            .asked
            .extract_if(|_, pull| matches!(pull.reader, Reader::Token(_)));
        let tokens: Vec<u64> = asked
            .filter_map(|(_, pull)| match pull.reader {
                Reader::Token(token) => Some(token),
                _ => None,
            })
            .collect();
        for token in &tokens {
            self.brought.insert(*token, Err(CoreError::RayletDied));
        }
        if !tokens.is_empty() {
            self.after.host.push(HostEvent::Ready(tokens));
        }
    }

    fn pull(&mut self, location: &Location, reader: Reader) -> u64 {
        let request_id = self.fresh_request();
        let source = Some(location.into());
        let location = *location;
        self.pulls.asked.insert(request_id, Pull { location, reader });
        self.tell_raylet(Order::PullObject(v1::PullObject { request_id, source }));
        request_id
    }

    /// Asks for what lies elsewhere of these; how many there are.
    pub fn pull_all<'a>(&mut self, values: impl Iterator<Item = &'a v1::Value>, reader: impl Fn() -> Reader) -> usize {
        let mut count = 0;
        for wire in values {
            let Some(location) = wire.location.as_ref().filter(|location| !location.node_id.is_empty()) else {
                continue;
            };
            let location = self.location_from_wire(location);
            if location.node.is_some() {
                self.pull(&location, reader());
                count += 1;
            }
        }
        count
    }

    pub fn object_pulled(&mut self, pulled: v1::ObjectPulled) {
        let request_id = pulled.request_id;
        let asked = self.pulls.asked.remove(&request_id);
        let outcome = match (&pulled.location, &asked) {
            (Some(location), Some(_)) => {
                let (offset, length, generation) = (location.offset, location.length, location.generation);
                let pin = self.arena.pin(offset, length, generation);
                pin.ok_or_else(|| "it was freed meanwhile".to_owned()).map(|pin| Copy {
                    _pin: pin,
                    offset,
                    length,
                    generation,
                })
            }
            _ => Err(pulled.error),
        };
        let no_room = pulled.no_room;
        if pulled.location.is_some() {
            // The raylet need not hold it any longer.
            self.tell_raylet(Order::RestoredTaken(v1::RestoredTaken { request_id }));
        }
        let Some(pull) = asked else { return };
        let source = pull.location.source().expect("it lies elsewhere");
        let outcome = outcome.map_err(|error| not_brought(source, &error, no_room));
        let brought = Brought { source, outcome };
        match pull.reader {
            Reader::Thread(thread) => {
                self.pulls.brought.insert(pulled.request_id, brought);
                self.after.wake.push(thread);
            }
            Reader::Token(token) => {
                let data = self.read_copy(&brought).map(ReadData::Copied);
                self.brought.insert(token, Ok(data));
                self.after.host.push(HostEvent::Ready(vec![token]));
            }
            Reader::Task(lane, seq) => self.argument_brought(lane, seq, brought),
            Reader::Constructor => self.constructor_argument_brought(brought),
        }
    }

    /// The value at `location` of another node, if it was brought.
    pub fn read_brought(&self, location: &Location) -> Option<Result<Pin, Box<Failure>>> {
        Some(self.read_copy(self.brought_copy(location.source()?)?))
    }

    fn read_copy(&self, brought: &Brought) -> Result<Pin, Box<Failure>> {
        match &brought.outcome {
            // Another pin of the same block.
            Ok(copy) => (self.arena)
                .pin(copy.offset, copy.length, copy.generation)
                .ok_or_else(|| not_brought(brought.source, "its copy was freed", false)),
            Err(failure) => Err(failure.clone()),
        }
    }

    /// Frees a value that lies in another node's arena, and the copy here.
    pub fn free_elsewhere(&mut self, location: &Location) {
        let Some((node, offset, generation)) = location.source() else {
            return;
        };
        let copy = v1::ForgetCopy {
            source: Some(location.into()),
        };
        self.tell_raylet(Order::ForgetCopy(copy));
        match location.holder {
            Some(holder) if self.peers.is_alive(&holder) => {
                let message = v1::FreeBlock { offset, generation };
                self.send_to_worker(&holder, ray_rs_proto::lane::Kind::FreeBlock, &message);
            }
            Some(_) | None => {
                self.tell_raylet_of(node.id(), Order::FreeObject(v1::FreeObject { offset, generation }));
            }
        }
    }

    /// Other nodes may have copies of a block of this one, which is freed.
    pub fn forget_copies(&mut self, location: &Location) {
        if self.pulls.travelled.is_empty() {
            return;
        }
        let nodes = self.pulls.travelled.remove(&(location.offset, location.generation));
        for node in nodes.unwrap_or_default() {
            let mut source: v1::ObjectLocation = location.into();
            source.node_id = self.me.node_id.0.to_vec();
            let copy = v1::ForgetCopy { source: Some(source) };
            self.tell_raylet_of(node, Order::ForgetCopy(copy));
        }
    }

    /// The location as it is told to `receiver`.
    pub fn location_to_wire(&mut self, location: &Location, receiver: OwnerIndex) -> v1::ObjectLocation {
        let mut wire: v1::ObjectLocation = location.into();
        let node = self.peers.address(receiver).node_id;
        if location.node.is_none() && node != self.me.node_id {
            wire.node_id = self.me.node_id.0.to_vec();
            let nodes = self
                .pulls
                .travelled
                .entry((location.offset, location.generation))
                .or_default();
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        wire
    }

    /// For whoever may read it, wherever that is.
    pub fn name_node(&self, value: &mut v1::Value) {
        if let Some(location) = &mut value.location
            && location.node_id.is_empty()
        {
            location.node_id = self.me.node_id.0.to_vec();
        }
    }

    pub fn location_from_wire(&self, wire: &v1::ObjectLocation) -> Location {
        let node = NodeId::from_bytes(&wire.node_id).ok();
        let node = node.filter(|node| *node != self.me.node_id).map(OtherNode::of);
        if node.is_some() {
            self.pulls.any_elsewhere.set(true);
        }
        Location {
            offset: wire.offset,
            length: wire.length,
            generation: wire.generation,
            holder: ray_rs_types::WorkerId::from_bytes(&wire.holder).ok(),
            node,
        }
    }
}

fn not_brought(source: Source, error: &str, no_room: bool) -> Box<Failure> {
    let node = source.0.id();
    let message = format!("it lies on node {node}, from where it could not be brought: {error}");
    Box::new(match no_room {
        true => Failure::StoreFull { message },
        false => Failure::ObjectLost {
            owner_died: false,
            message,
        },
    })
}

impl From<&Location> for v1::ObjectLocation {
    fn from(location: &Location) -> Self {
        Self {
            offset: location.offset,
            length: location.length,
            generation: location.generation,
            holder: location.holder.map(|holder| holder.0.to_vec()).unwrap_or_default(),
            node_id: location.node.map(|node| node.id().0.to_vec()).unwrap_or_default(),
        }
    }
}
