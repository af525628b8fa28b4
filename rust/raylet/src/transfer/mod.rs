//! Values that travel between arenas.
//!
//! A process that needs a value of another node's arena asks its raylet, which fetches it once however many ask
//! ([`crate::copies`]). Room for it is asked for and made like room for anything else ([`crate::room`]); the value goes
//! from the source's pages into the reader's, with one copy, which the reader's kernel makes. The value's own node says
//! where a reader gets it: there, or from an earlier reader ([`crate::holders`]), which may itself still be getting it. What
//! lies on the source's disk is brought back first.
//!
//! The bytes move on a thread of their own, which is started with the first of them.

mod fetch;
mod serve;
mod wire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ray_rs_object_store::spill::{Key, Place};
use ray_rs_object_store::{ArenaClient, Pin, Restore};
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_transport::visit::{Greeting, Purpose};
use ray_rs_types::address::arena_owner;
use ray_rs_types::{NodeId, WorkerAddress, WorkerId};
use rustc_hash::FxHashMap;
use tokio::net::TcpStream;
use tokio::sync::{RwLock, oneshot, watch};

pub(crate) use self::fetch::Fetch;
pub(crate) use self::serve::{CopyHere, OwnValue};
use crate::copies::{CopyKey, Wanted};
use crate::holders::{Holders, Origin};
use crate::input::{ConnKey, Input};
use crate::object_service::ObjectService;
use crate::raylet::Raylet;

/// A side that says nothing for so long is given up. A source may have to make room first, and to read from its disk.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Threads that make pages end when there is nothing to do for so long.
const IDLE_LIMIT: Duration = Duration::from_millis(200);

/// What a raylet has itself to do with its arena.
#[derive(Default)]
pub(crate) struct Transfers {
    /// The raylet as a client of its own arena, for what others read; made with the first of them.
    arena: Option<Arc<ArenaClient>>,
    /// Where bytes are moved.
    thread: Option<tokio::runtime::Handle>,
    pub holders: Holders,
    /// Copies that are being fetched, for those who want to read them from here.
    coming: FxHashMap<CopyKey, Coming>,
    sent_bytes: Arc<AtomicU64>,
    fetched_bytes: Arc<AtomicU64>,
}

/// How much of a value is here.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    Begun,
    /// So many bytes, from this place of the arena on.
    Filled {
        data_offset: u64,
        bytes: u64,
    },
    /// All of it; it stays while this is held.
    Here(Arc<Pin>),
    Failed,
}

/// A copy that is being fetched, as those see it who read it from here.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    length: u64,
    progress: watch::Receiver<Progress>,
    /// Held for reading as long as parts of the room may be on the way: it is not given back before.
    in_flight: Arc<RwLock<()>>,
}

/// A copy that is being fetched.
struct Coming {
    incoming: Incoming,
    progress: Arc<watch::Sender<Progress>>,
    home_is_dead: watch::Sender<bool>,
}

/// Why a reader gets no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotServed {
    Gone,
    /// It is on disk, and could not be brought back.
    NotBack,
}

/// To be told where a value is that is not where it was made.
pub(crate) type Lookup = oneshot::Sender<Result<Place, NotServed>>;

impl Transfers {
    pub fn arena(&mut self, store: &mut ObjectService) -> io::Result<Arc<ArenaClient>> {
        if let Some(arena) = &self.arena {
            return Ok(Arc::clone(arena));
        }
        let row = store.allocate_client();
        // No process has this number.
        let arena = Arc::new(ArenaClient::attach(
            store.share()?,
            row,
            arena_owner(&WorkerId([0xff; 28])),
        )?);
        self.arena = Some(Arc::clone(&arena));
        Ok(arena)
    }

    /// Runs a task where bytes are moved: the loop has no time for that, and no number of threads would be enough for
    /// transfers that wait for one another.
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let thread = match &self.thread {
            Some(thread) => thread,
            None => self.thread.insert(start_thread()?),
        };
        thread.spawn(task);
        Ok(())
    }

    /// What is being fetched from there is given up as soon as its way breaks.
    pub fn node_died(&mut self, node: NodeId) {
        self.holders.node_died(node);
        for (_, coming) in self.coming.iter().filter(|(key, _)| key.node == node) {
            coming.home_is_dead.send_replace(true);
        }
    }

    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }
}

/// It ends with the process.
fn start_thread() -> io::Result<tokio::runtime::Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(IDLE_LIMIT)
        .build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("transfers".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

fn key_of(source: &v1::ObjectLocation) -> Option<CopyKey> {
    Some(CopyKey {
        node: NodeId::from_bytes(&source.node_id).ok()?,
        offset: source.offset,
        generation: source.generation,
    })
}

impl Raylet {
    pub fn pull_object(&mut self, conn: ConnKey, request: v1::PullObject) {
        let Some(source) = request.source else { return };
        let Some(key) = key_of(&source) else { return };
        match self.store.copies.wanted(key, (conn, request.request_id)) {
            Wanted::Here(place) => self.tell_pulled(conn, request.request_id, &Ok(place), false),
            Wanted::Coming => {}
            Wanted::Fetch => self.fetch(key, source),
        }
    }

    fn fetch(&mut self, key: CopyKey, source: v1::ObjectLocation) {
        let (roads, address) = match self.road_to(key.node) {
            Ok(road) => road,
            Err(error) => return self.pulled(key, Err(error), false),
        };
        let greeting = Greeting {
            purpose: Purpose::Data,
            from: WorkerAddress {
                node_id: self.node_id,
                worker_id: WorkerId::NIL,
                pid: std::process::id(),
            },
        };
        let (progress, heard) = watch::channel(Progress::Begun);
        let (progress, in_flight) = (Arc::new(progress), Arc::new(RwLock::new(())));
        let incoming = Incoming {
            length: source.length,
            progress: heard,
            in_flight: Arc::clone(&in_flight),
        };
        let (home_is_dead, hears_of_death) = watch::channel(false);
        let coming = Coming {
            incoming,
            progress: Arc::clone(&progress),
            home_is_dead,
        };
        self.transfers.coming.insert(key, coming);
        let fetch = Fetch {
            request: wire::Request {
                value: key,
                length: source.length,
                skip: 0,
                failed: None,
            },
            address,
            roads,
            greeting,
            progress,
            in_flight,
            fetched_bytes: Arc::clone(&self.transfers.fetched_bytes),
            home_is_dead: hears_of_death,
        };
        let inputs = self.inputs.clone();
        let bytes = source.length;
        let with_room = move |room: Result<Restore, String>| {
            // The loop has more to do than to wait for room in its own queue.
            tokio::spawn(async move {
                let input = match room {
                    Ok(room) => Input::RoomForCopy {
                        key,
                        room,
                        fetch: Box::new(fetch),
                    },
                    Err(full) => Input::Pulled {
                        key,
                        outcome: Err(full),
                        bytes,
                        took: Duration::ZERO,
                    },
                };
                let _ = inputs.send(input).await;
            });
        };
        self.store.room_for(source.length, Box::new(with_room), &self.clients);
    }

    pub fn room_for_copy(&mut self, key: CopyKey, room: Restore, fetch: Fetch) {
        let inputs = self.inputs.clone();
        let begun = self.transfers.spawn(async move {
            let (bytes, began) = (room.length_bytes(), Instant::now());
            let outcome = Ok(fetch.run(room).await);
            let took = began.elapsed();
            let pulled = Input::Pulled {
                key,
                outcome,
                bytes,
                took,
            };
            let _ = inputs.send(pulled).await;
        });
        if let Err(error) = begun {
            self.pulled(
                key,
                Err(format!("there is no thread that could fetch it: {error}")),
                true,
            );
        }
    }

    /// `outcome`: the room that was made for it, and why it is not filled; or why there is no room.
    pub fn value_arrived(
        &mut self,
        key: CopyKey,
        outcome: Result<(Restore, Result<(), String>), String>,
        bytes: u64,
        took: Duration,
    ) {
        if let Ok((_, filled)) = &outcome {
            self.store.moves.note_fetched(key.node, took, bytes, filled.is_err());
        }
        let no_room = outcome.is_err();
        let placed = outcome.and_then(|(restore, filled)| self.store.fill_room(restore, filled));
        self.pulled(key, placed, no_room);
        self.store.pump(&self.clients);
    }

    fn pulled(&mut self, key: CopyKey, outcome: Result<Place, String>, no_room: bool) {
        if let Some(Coming { incoming, progress, .. }) = self.transfers.coming.remove(&key) {
            drop(incoming);
            // For nobody it need not be held.
            let pin = match &outcome {
                Ok(place) if progress.receiver_count() > 0 => self.pin_copy(*place),
                Ok(_) | Err(_) => None,
            };
            progress.send_replace(pin.map_or(Progress::Failed, Progress::Here));
        }
        for (conn, request_id) in self.store.copies.came(key, outcome.as_ref().ok().copied()) {
            self.tell_pulled(conn, request_id, &outcome, no_room);
        }
    }

    fn pin_copy(&mut self, place: Place) -> Option<Arc<Pin>> {
        let arena = self.transfers.arena(&mut self.store).ok()?;
        arena.pin(place.offset, place.len, place.generation).map(Arc::new)
    }

    /// Another node wants a copy that lies here.
    pub fn copy_asked(&mut self, key: CopyKey, answer: oneshot::Sender<CopyHere>) {
        let found = match (self.transfers.coming.get(&key), self.store.copies.here(key)) {
            (Some(coming), _) => CopyHere::Coming(coming.incoming.clone()),
            (None, Some(place)) => self.pin_copy(place).map_or(CopyHere::No, CopyHere::Whole),
            (None, None) => CopyHere::No,
        };
        let _ = answer.send(found);
    }

    /// Another node wants a value of this one.
    pub fn reader_asks(&mut self, key: Key, bytes: u64, reader: NodeId, failed: Option<NodeId>) -> OwnValue {
        // Nobody else reads from a client: what it has got, it has got from the cluster through one port.
        if self.cluster.is_client(reader) {
            return OwnValue::Here;
        }
        let mut origin = self.transfers.holders.asked(key, bytes, reader, failed);
        while let Origin::Reader(node) = origin {
            match self.cluster.address_of(node) {
                Ok(address) => return OwnValue::Elsewhere(node, address),
                Err(_) => origin = self.transfers.holders.asked(key, bytes, reader, Some(node)),
            }
        }
        OwnValue::Here
    }

    /// A reader has come.
    pub fn serve_reader(&mut self, stream: TcpStream, reader: NodeId) -> io::Result<()> {
        let arena = self.transfers.arena(&mut self.store)?;
        let stream = stream.into_std()?;
        let (here, inputs) = (self.node_id, self.inputs.clone());
        let sent_bytes = Arc::clone(&self.transfers.sent_bytes);
        self.transfers.spawn(async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let server = serve::Server {
                        stream,
                        reader,
                        here,
                        arena,
                        inputs,
                        sent_bytes,
                    };
                    server.run().await;
                }
                Err(error) => tracing::warn!(%error, "cannot serve a reader"),
            }
        })
    }

    /// The copy stays where it is until the client says that it has it.
    fn tell_pulled(&mut self, conn: ConnKey, request_id: u64, outcome: &Result<Place, String>, no_room: bool) {
        let Some(client) = self.clients.get(&conn) else { return };
        let (location, error) = match outcome {
            Ok(place) => {
                self.store.hold_for((conn, request_id), *place);
                let location = v1::ObjectLocation {
                    offset: place.offset,
                    length: place.len,
                    generation: place.generation,
                    ..v1::ObjectLocation::default()
                };
                (Some(location), String::new())
            }
            Err(error) => (None, error.clone()),
        };
        client.outbox.send(Body::ObjectPulled(v1::ObjectPulled {
            request_id,
            location,
            error,
            no_room,
        }));
    }

    pub fn forget_copy(&mut self, request: &v1::ForgetCopy) {
        if let Some(key) = request.source.as_ref().and_then(key_of) {
            self.store.forget_copy(key, &self.clients);
        }
    }
}
