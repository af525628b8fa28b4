//! Values that lie in the arena of another node: brought here before somebody reads them.
//!
//! The raylet fetches (once for all processes of this node) and says where the copy lies; it is pinned here from that
//! moment until whoever asked has read it. A task's arguments are asked for when the task arrives, and the task waits in
//! its place; a `get` asks when the value is ready.

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
use crate::model::{Failure, Location, RefSlot, ValueData, WaitOutcome};
use crate::peers::PeerIndex;
use crate::state::State;

/// Signals are looked for at least so often.
const SLICE: Duration = Duration::from_millis(50);

/// Where a value lies, elsewhere: (node, offset, generation) never means another one.
type Source = (NodeId, u64, u64);

/// Who waits for a value to be brought.
pub(crate) enum Reader {
    Thread(Thread),
    /// A task or call that has been pushed to this process.
    Task(PeerIndex, u64),
    /// The constructor of the actor that this process is to become.
    Constructor,
}

struct Pull {
    location: Location,
    reader: Reader,
    /// Its copy was gone before it was pinned, once.
    again: bool,
}

/// A copy in this node's arena; it stays while it is pinned.
struct Copy {
    _pin: Pin,
    offset: u64,
    length: u64,
    generation: u64,
}

/// Brought, and not read by everybody who has asked.
struct Brought {
    outcome: Result<Copy, String>,
    readers: u32,
}

/// Values on their way, or just arrived.
#[derive(Default)]
pub(crate) struct Pulls {
    asked: FxHashMap<u64, Pull>,
    brought: FxHashMap<Source, Brought>,
    /// Nodes that have been told of a value in this node's arena, by offset and generation.
    travelled: FxHashMap<(u64, u64), SmallVec<[NodeId; 2]>>,
    /// An order to become an actor, and how many of its arguments are on their way.
    pub starting: Option<(v1::StartActor, usize)>,
}

impl Location {
    fn source(&self) -> Option<Source> {
        Some((self.node?, self.offset, self.generation))
    }
}

impl CoreWorker {
    /// Brings what lies on other nodes of these ready values. What cannot be brought is an error when it is read.
    pub fn fetch_from_nodes(
        &self,
        slots: &[RefSlot],
        timeout: Option<Duration>,
        interrupt: Interrupt<'_>,
    ) -> WaitOutcome {
        let requests = self.with(|state| {
            let elsewhere: Vec<Location> = slots.iter().filter_map(|slot| state.elsewhere(*slot)).collect();
            let thread = std::thread::current();
            elsewhere
                .iter()
                .map(|location| state.pull(location, Reader::Thread(thread.clone())))
                .collect::<Vec<u64>>()
        });
        let began = Instant::now();
        loop {
            let waits = {
                let state = self.state.lock();
                requests.iter().any(|request| state.pulls.asked.contains_key(request))
            };
            if !waits {
                return WaitOutcome::Satisfied;
            }
            if self.is_disconnected() {
                return WaitOutcome::Disconnected;
            }
            if timeout.is_some_and(|limit| began.elapsed() >= limit) {
                return WaitOutcome::TimedOut;
            }
            if interrupt() {
                return WaitOutcome::Interrupted;
            }
            std::thread::park_timeout(SLICE);
        }
    }

    /// Whether a ready value must be brought before it is read.
    pub fn is_elsewhere(&self, slot: RefSlot) -> bool {
        self.state.lock().elsewhere(slot).is_some()
    }
}

impl State {
    /// Where a ready value lies, if that is on another node and it was not brought just now.
    pub fn elsewhere(&self, slot: RefSlot) -> Option<Location> {
        match &self.owner.value(slot)?.0.data {
            ValueData::Arena(location) => {
                let source = location.source()?;
                (!self.pulls.brought.contains_key(&source)).then_some(*location)
            }
            ValueData::Empty | ValueData::Inline(_) | ValueData::Failed(_) => None,
        }
    }

    fn pull(&mut self, location: &Location, reader: Reader) -> u64 {
        let request_id = self.fresh_request();
        self.ask_for(request_id, *location, reader, false);
        request_id
    }

    fn ask_for(&mut self, request_id: u64, location: Location, reader: Reader, again: bool) {
        let source = Some((&location).into());
        let pull = Pull {
            location,
            reader,
            again,
        };
        self.pulls.asked.insert(request_id, pull);
        self.tell_raylet(Order::PullObject(v1::PullObject { request_id, source }));
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
        let Some(pull) = self.pulls.asked.remove(&pulled.request_id) else {
            return;
        };
        let outcome = match &pulled.location {
            Some(location) if pulled.error.is_empty() => {
                let (offset, length, generation) = (location.offset, pull.location.length, location.generation);
                let pin = self.arena.pin(offset, length, generation);
                if pin.is_none() && !pull.again {
                    // It was in the way of something else in this very moment.
                    let source = Some((&pull.location).into());
                    self.tell_raylet(Order::ForgetCopy(v1::ForgetCopy { source }));
                    return self.ask_for(pulled.request_id, pull.location, pull.reader, true);
                }
                pin.ok_or_else(|| "there was no room to keep it".to_owned())
                    .map(|pin| Copy {
                        _pin: pin,
                        offset,
                        length,
                        generation,
                    })
            }
            _ => Err(pulled.error),
        };
        let source = pull.location.source().expect("it lies elsewhere");
        let brought = self.pulls.brought.entry(source).or_insert(Brought {
            outcome: Err(String::new()),
            readers: 0,
        });
        brought.readers += 1;
        if brought.outcome.is_err() {
            brought.outcome = outcome;
        }
        let is_wanted = match pull.reader {
            Reader::Thread(thread) => {
                self.after.wake.push(thread);
                true
            }
            Reader::Task(lane, seq) => self.argument_brought(lane, seq),
            Reader::Constructor => {
                self.constructor_argument_brought();
                true
            }
        };
        if !is_wanted {
            self.done_reading(source);
        }
    }

    /// The value at `location` of another node, which was brought.
    pub fn read_brought(&mut self, location: &Location) -> Result<Pin, Box<Failure>> {
        let source = location.source().expect("it lies elsewhere");
        let outcome = match self.pulls.brought.get(&source).map(|brought| &brought.outcome) {
            // Another pin of the same block.
            Some(Ok(copy)) => self
                .arena
                .pin(copy.offset, copy.length, copy.generation)
                .ok_or_else(|| "its copy was freed".to_owned()),
            Some(Err(error)) => Err(error.clone()),
            None => Err("it was not asked for".to_owned()),
        };
        self.done_reading(source);
        outcome.map_err(|error| {
            Box::new(Failure::ObjectLost {
                owner_died: false,
                message: format!(
                    "it lies on node {}, from where it could not be brought: {error}",
                    source.0
                ),
            })
        })
    }

    fn done_reading(&mut self, source: Source) {
        if let Some(brought) = self.pulls.brought.get_mut(&source) {
            brought.readers = brought.readers.saturating_sub(1);
            if brought.readers == 0 {
                self.pulls.brought.remove(&source);
            }
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
                self.tell_raylet_of(node, Order::FreeObject(v1::FreeObject { offset, generation }));
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
        Location {
            offset: wire.offset,
            length: wire.length,
            generation: wire.generation,
            holder: ray_rs_types::WorkerId::from_bytes(&wire.holder).ok(),
            node: NodeId::from_bytes(&wire.node_id)
                .ok()
                .filter(|node| *node != self.me.node_id),
        }
    }
}

impl From<&Location> for v1::ObjectLocation {
    fn from(location: &Location) -> Self {
        Self {
            offset: location.offset,
            length: location.length,
            generation: location.generation,
            holder: location.holder.map(|holder| holder.0.to_vec()).unwrap_or_default(),
            node_id: location.node.map(|node| node.0.to_vec()).unwrap_or_default(),
        }
    }
}
