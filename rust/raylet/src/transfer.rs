//! Values that travel between arenas.
//!
//! A process that needs a value of another node's arena asks its raylet, which fetches it once however many ask, straight
//! from the socket into a block of its own, and keeps the copy for whoever needs it next. A copy is named by where the
//! value lies (node, offset, generation), which never means another value. It goes when the value's owner says so, or
//! when room is short; who reads it at that moment has it pinned.
//!
//! On a data connection the reader sends 24 bytes (offset, length, generation) for each value, and gets one byte (1: here
//! it comes) and then the value.

use std::io::{self, Read, Write};
use std::net::TcpStream as BlockingStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ray_rs_object_store::{ArenaClient, ArenaHost, NeedExtent};
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_transport::Token;
use ray_rs_transport::visit::{self, Greeting, Purpose};
use ray_rs_types::address::arena_owner;
use ray_rs_types::{NodeId, WorkerAddress, WorkerId};
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::input::{ConnKey, Input};
use crate::object_service::ObjectService;
use crate::raylet::Raylet;

const REQUEST_BYTES: usize = 24;
const HERE_IT_COMES: u8 = 1;
const GONE: u8 = 0;
/// A source that sends nothing for so long is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Which value a copy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CopyKey {
    node: NodeId,
    offset: u64,
    generation: u64,
}

/// Why there is no copy.
#[derive(Debug)]
pub(crate) enum PullError {
    /// Nothing was asked of the source.
    Full {
        min_bytes: u64,
        text: String,
    },
    Failed(String),
}

#[derive(Debug)]
enum Copy {
    Coming {
        waiting: Vec<(ConnKey, u64)>,
        source: v1::ObjectLocation,
        /// Room was made once.
        again: bool,
    },
    Here(v1::ObjectLocation),
}

#[derive(Default)]
pub(crate) struct Transfers {
    /// The raylet as a client of its own arena; made with the first transfer.
    arena: Option<Arc<ArenaClient>>,
    copies: FxHashMap<CopyKey, Copy>,
}

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

    /// Gives up all copies that nobody reads; true when that made room.
    pub fn make_room(&mut self, store: &mut ObjectService) -> bool {
        let Some(arena) = &self.arena else { return false };
        self.copies.retain(|_, copy| match copy {
            Copy::Here(location) => {
                arena.free(location.offset, location.generation);
                false
            }
            Copy::Coming { .. } => true,
        });
        arena.reap();
        let unused = arena.unused_extents(u64::MAX);
        let any = !unused.is_empty();
        for (offset, length) in unused {
            store.take_back(arena.client(), offset, length);
        }
        any
    }
}

impl Raylet {
    pub fn pull_object(&mut self, conn: ConnKey, request: v1::PullObject) {
        let request_id = request.request_id;
        let Some(source) = request.source else { return };
        let Ok(node) = NodeId::from_bytes(&source.node_id) else {
            return;
        };
        let key = CopyKey {
            node,
            offset: source.offset,
            generation: source.generation,
        };
        match self.transfers.copies.get_mut(&key) {
            Some(Copy::Here(location)) => {
                let outcome = Ok(location.clone());
                return self.tell_pulled(conn, request_id, &outcome);
            }
            Some(Copy::Coming { waiting, .. }) => return waiting.push((conn, request_id)),
            None => {}
        }
        let coming = Copy::Coming {
            waiting: vec![(conn, request_id)],
            source: source.clone(),
            again: false,
        };
        self.transfers.copies.insert(key, coming);
        self.start_pull(key, source);
    }

    fn start_pull(&mut self, key: CopyKey, source: v1::ObjectLocation) {
        let failed = |error: String| Err(PullError::Failed(error));
        let address = self.cluster.address_of(key.node);
        let token = Token::read(&self.config.session_dir.join("token")).map_err(|error| error.to_string());
        let arena = self.transfers.arena(&mut self.store).map_err(|error| error.to_string());
        let (address, token, arena) = match (address, token, arena) {
            (Ok(address), Ok(token), Ok(arena)) => (address, token, arena),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => return self.pulled(key, failed(error)),
        };
        let greeting = Greeting {
            purpose: Purpose::Data,
            from: WorkerAddress {
                node_id: self.node_id,
                worker_id: WorkerId::NIL,
                pid: std::process::id(),
            },
        };
        let (host, inputs) = (self.store.host(), self.inputs.clone());
        tokio::spawn(async move {
            let connected = visit::visit(&address, &token, &greeting)
                .await
                .map_err(|error| PullError::Failed(error.to_string()));
            let outcome = match connected.and_then(|stream| blocking(stream).map_err(broken)) {
                Ok(stream) => tokio::task::spawn_blocking(move || fetch(&stream, &arena, &host, &source))
                    .await
                    .unwrap_or_else(|error| Err(PullError::Failed(error.to_string()))),
                Err(error) => Err(error),
            };
            let _ = inputs.send(Input::Pulled { key, outcome }).await;
        });
    }

    pub fn pulled(&mut self, key: CopyKey, outcome: Result<v1::ObjectLocation, PullError>) {
        let Some(Copy::Coming { waiting, source, again }) = self.transfers.copies.remove(&key) else {
            // Its owner gave it up meanwhile.
            if let (Ok(location), Some(arena)) = (outcome, &self.transfers.arena) {
                arena.free(location.offset, location.generation);
            }
            return;
        };
        let outcome = match outcome {
            Err(PullError::Full { .. }) if !again && self.transfers.make_room(&mut self.store) => {
                let coming = Copy::Coming {
                    waiting,
                    source: source.clone(),
                    again: true,
                };
                self.transfers.copies.insert(key, coming);
                return self.start_pull(key, source);
            }
            Err(PullError::Full { min_bytes, text }) => {
                Err(format!("there is no room for its {min_bytes} bytes: {text}"))
            }
            Err(PullError::Failed(error)) => Err(error),
            Ok(location) => Ok(location),
        };
        if let Ok(location) = &outcome {
            self.transfers.copies.insert(key, Copy::Here(location.clone()));
        }
        for (conn, request_id) in waiting {
            self.tell_pulled(conn, request_id, &outcome);
        }
    }

    fn tell_pulled(&self, conn: ConnKey, request_id: u64, outcome: &Result<v1::ObjectLocation, String>) {
        if let Some(client) = self.clients.get(&conn) {
            let (location, error) = match outcome {
                Ok(location) => (Some(location.clone()), String::new()),
                Err(error) => (None, error.clone()),
            };
            client.outbox.send(Body::ObjectPulled(v1::ObjectPulled {
                request_id,
                location,
                error,
            }));
        }
    }

    pub fn forget_copy(&mut self, request: &v1::ForgetCopy) {
        let Some(source) = &request.source else { return };
        let Ok(node) = NodeId::from_bytes(&source.node_id) else {
            return;
        };
        let key = CopyKey {
            node,
            offset: source.offset,
            generation: source.generation,
        };
        // One that is coming is wanted by somebody who asks: it stays until it is in the way.
        if let Some(Copy::Here(location)) = self.transfers.copies.get(&key)
            && let Some(arena) = &self.transfers.arena
        {
            arena.free(location.offset, location.generation);
            arena.reap();
            self.transfers.copies.remove(&key);
        }
    }
}

fn blocking(stream: TcpStream) -> io::Result<BlockingStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE_LIMIT))?;
    Ok(stream)
}

fn broken(error: io::Error) -> PullError {
    PullError::Failed(format!("the connection to its node broke: {error}"))
}

/// Fetches one value into a block of `arena`. On a thread of its own: it waits for the network and for pages.
fn fetch(
    mut stream: &BlockingStream,
    arena: &ArenaClient,
    host: &Mutex<ArenaHost>,
    source: &v1::ObjectLocation,
) -> Result<v1::ObjectLocation, PullError> {
    let block = loop {
        match arena.allocate(source.length) {
            Ok(block) => break block,
            Err(NeedExtent { min_bytes }) => {
                let full = |text: String| PullError::Full { min_bytes, text };
                let lock = || host.lock().unwrap_or_else(PoisonError::into_inner);
                let mut grant = lock()
                    .begin_grant(arena.client(), min_bytes)
                    .map_err(|error| full(error.to_string()))?;
                grant.reserve_pages();
                let extent = lock().finish_grant(grant).map_err(|error| full(error.to_string()))?;
                arena.add_extent(extent.offset, extent.len);
            }
        }
    };
    let mut request = [0; REQUEST_BYTES];
    for (part, number) in request
        .chunks_exact_mut(8)
        .zip([source.offset, source.length, source.generation])
    {
        part.copy_from_slice(&number.to_le_bytes());
    }
    let mut first = [0];
    let outcome = stream
        .write_all(&request)
        .and_then(|()| stream.read_exact(&mut first))
        .map_err(broken)
        .and_then(|()| match first[0] {
            HERE_IT_COMES => stream.read_exact(&mut arena.writer(&block)).map_err(broken),
            _ => Err(PullError::Failed("its memory was freed there".to_owned())),
        });
    if let Err(error) = outcome {
        arena.abandon(block);
        return Err(error);
    }
    let location = v1::ObjectLocation {
        offset: block.offset,
        length: block.len,
        generation: block.generation,
        holder: Vec::new(),
        node_id: Vec::new(),
    };
    arena.seal(block);
    Ok(location)
}

/// Sends values of the arena to one reader until it closes.
pub(crate) async fn serve(mut stream: TcpStream, arena: Arc<ArenaClient>) {
    let mut request = [0; REQUEST_BYTES];
    while stream.read_exact(&mut request).await.is_ok() {
        let number = |index: usize| {
            let start = 8 * index;
            u64::from_le_bytes(request[start..start + 8].try_into().expect("eight bytes"))
        };
        // Bounds and generation are checked there.
        let pin = arena.pin(number(0), number(1), number(2));
        let sent = match &pin {
            Some(pin) => match stream.write_u8(HERE_IT_COMES).await {
                Ok(()) => stream.write_all(pin).await,
                Err(error) => Err(error),
            },
            None => stream.write_u8(GONE).await,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a reader of the arena is gone");
            return;
        }
    }
}
