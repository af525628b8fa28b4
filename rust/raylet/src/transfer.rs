//! Values that travel between arenas.
//!
//! A process that needs a value of another node's arena asks its raylet, which fetches it once however many ask
//! ([`crate::copies`]). Room for it is asked for and made like room for anything else ([`crate::room`]); the value goes
//! straight from the socket into the arena.
//!
//! On a data connection the reader sends 24 bytes (offset, length, generation) for each value, and gets one byte (1: here
//! it comes) and then the value. What lies on the source's disk is brought back for it first.

use std::io::{self, Read, Write};
use std::net::TcpStream as BlockingStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ray_rs_object_store::spill::{Key, Place};
use ray_rs_object_store::{ArenaClient, Restore};
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_transport::Token;
use ray_rs_transport::visit::{self, Greeting, Purpose};
use ray_rs_types::address::arena_owner;
use ray_rs_types::{NodeId, WorkerAddress, WorkerId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::copies::{CopyKey, Wanted};
use crate::input::{ConnKey, Input, Inputs};
use crate::object_service::ObjectService;
use crate::raylet::Raylet;

const REQUEST_BYTES: usize = 24;
const HERE_IT_COMES: u8 = 1;
/// A source that sends nothing for so long is given up. It may have to make room first, and to read from its disk.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// What a raylet has itself to do with its arena.
#[derive(Default)]
pub(crate) struct Transfers {
    /// The raylet as a client of its own arena, for what others read; made with the first of them.
    arena: Option<Arc<ArenaClient>>,
}

/// Why a reader gets no value; the byte that it gets instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum NotServed {
    Gone = 0,
    /// It is on disk, and could not be brought back.
    NotBack = 2,
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
            Wanted::Here(place) => self.tell_pulled(conn, request.request_id, &Ok(place)),
            Wanted::Coming => {}
            Wanted::Fetch => self.fetch(key, source),
        }
    }

    fn fetch(&mut self, key: CopyKey, source: v1::ObjectLocation) {
        let address = self.cluster.address_of(key.node);
        let token = Token::read(&self.config.session_dir.join("token")).map_err(|error| error.to_string());
        let (address, token) = match (address, token) {
            (Ok(address), Ok(token)) => (address, token),
            (Err(error), _) | (_, Err(error)) => return self.pulled(key, Err(error)),
        };
        let greeting = Greeting {
            purpose: Purpose::Data,
            from: WorkerAddress {
                node_id: self.node_id,
                worker_id: WorkerId::NIL,
                pid: std::process::id(),
            },
        };
        let (inputs, bytes) = (self.inputs.clone(), source.length);
        let with_room = move |room: Result<Restore, String>| {
            tokio::spawn(async move {
                let began = Instant::now();
                let outcome = match room {
                    Ok(restore) => Ok(bring(restore, &address, &token, &greeting, &source).await),
                    Err(full) => Err(full),
                };
                let took = began.elapsed();
                let pulled = Input::Pulled {
                    key,
                    outcome,
                    bytes,
                    took,
                };
                let _ = inputs.send(pulled).await;
            });
        };
        self.store.room_for(bytes, Box::new(with_room), &self.clients);
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
        let placed = outcome.and_then(|(restore, filled)| self.store.fill_room(restore, filled));
        self.pulled(key, placed);
        self.store.pump(&self.clients);
    }

    fn pulled(&mut self, key: CopyKey, outcome: Result<Place, String>) {
        for (conn, request_id) in self.store.copies.came(key, outcome.as_ref().ok().copied()) {
            self.tell_pulled(conn, request_id, &outcome);
        }
    }

    /// The copy stays where it is until the client says that it has it.
    fn tell_pulled(&mut self, conn: ConnKey, request_id: u64, outcome: &Result<Place, String>) {
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
        }));
    }

    pub fn forget_copy(&mut self, request: &v1::ForgetCopy) {
        if let Some(key) = request.source.as_ref().and_then(key_of) {
            self.store.forget_copy(key, &self.clients);
        }
    }
}

/// Fills the room with the value.
async fn bring(
    mut restore: Restore,
    address: &str,
    token: &Token,
    greeting: &Greeting,
    source: &v1::ObjectLocation,
) -> (Restore, Result<(), String>) {
    let stream = match visit::visit(address, token, greeting).await {
        Ok(stream) => blocking(stream).map_err(broken),
        Err(error) => Err(error.to_string()),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => return (restore, Err(error)),
    };
    let request = [source.offset, source.length, source.generation];
    let reading = tokio::task::spawn_blocking(move || {
        let outcome = read(&stream, &mut restore, request);
        (restore, outcome)
    });
    reading.await.expect("reading does not panic")
}

fn blocking(stream: TcpStream) -> io::Result<BlockingStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE_LIMIT))?;
    Ok(stream)
}

fn broken(error: io::Error) -> String {
    format!("the connection to its node broke: {error}")
}

/// On a thread of its own: it waits for the network and for pages.
fn read(mut stream: &BlockingStream, restore: &mut Restore, request: [u64; 3]) -> Result<(), String> {
    if !restore.reserve_pages() {
        return Err("the machine has no memory left for it".to_owned());
    }
    let mut bytes = [0; REQUEST_BYTES];
    for (part, number) in bytes.chunks_exact_mut(8).zip(request) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    stream.write_all(&bytes).map_err(broken)?;
    let mut first = [0];
    stream.read_exact(&mut first).map_err(broken)?;
    match first[0] {
        HERE_IT_COMES => stream.read_exact(restore.bytes()).map_err(broken),
        byte if byte == NotServed::NotBack as u8 => {
            Err("it is on disk there, and could not be brought back".to_owned())
        }
        _ => Err("its memory was freed there".to_owned()),
    }
}

/// Sends values of the arena to one reader until it closes.
pub(crate) async fn serve(mut stream: TcpStream, arena: Arc<ArenaClient>, inputs: Inputs) {
    let mut request = [0; REQUEST_BYTES];
    while stream.read_exact(&mut request).await.is_ok() {
        let number = |index: usize| {
            let start = 8 * index;
            u64::from_le_bytes(request[start..start + 8].try_into().expect("eight bytes"))
        };
        let (offset, len, generation) = (number(0), number(1), number(2));
        // Bounds and generation are checked there.
        let mut held = None;
        let pin = match arena.pin(offset, len, generation) {
            Some(pin) => Ok(pin),
            None => match look_up(&inputs, Key { offset, generation }).await {
                Ok(place) => {
                    held = Some(place);
                    arena.pin(place.offset, len, place.generation).ok_or(NotServed::Gone)
                }
                Err(why) => Err(why),
            },
        };
        if let Some(place) = held {
            let _ = inputs.send(Input::VisitorHasIt(place)).await;
        }
        let sent = match &pin {
            Ok(pin) => match stream.write_u8(HERE_IT_COMES).await {
                Ok(()) => stream.write_all(pin).await,
                Err(error) => Err(error),
            },
            Err(why) => stream.write_u8(*why as u8).await,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a reader of the arena is gone");
            return;
        }
    }
}

/// Asks the loop for a value that is not where it was made; it is held until the loop hears that it was pinned.
async fn look_up(inputs: &Inputs, key: Key) -> Result<Place, NotServed> {
    let (answer, answered) = oneshot::channel();
    if inputs.send(Input::VisitorWants { key, answer }).await.is_err() {
        return Err(NotServed::Gone);
    }
    answered.await.unwrap_or(Err(NotServed::Gone))
}
