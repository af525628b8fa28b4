//! The node's arena: extents for clients, and pages made ready ahead of demand.
//!
//! Reserving pages that were never touched takes half a millisecond a megabyte, so it happens on a thread of its own.
//! Another thread, of the lowest priority, keeps a small reserve; it sleeps for good when there is enough, and is woken
//! by grants. A request that finds no room waits a moment for other clients to give back what they do not use.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ray_rs_object_store::{ArenaHost, Extent, PendingGrant, StoreFull};
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_types::address::arena_owner;
use rustc_hash::FxBuildHasher;

use crate::clients::Client;
use crate::input::{ConnKey, Input, Inputs};

type Clients = HashMap<ConnKey, Client, FxBuildHasher>;

/// Others get so long to give back unused extents.
const ROOM_LIMIT: Duration = Duration::from_secs(1);
/// The reserve grows in steps, so that the loop never waits long for the arena.
const RESERVE_STEP_BYTES: u64 = 128 << 10;
const RESERVE_PAUSE: Duration = Duration::from_millis(1);
/// Lowest priority of an ordinary thread.
const LOWEST_PRIORITY: i32 = 19;

pub(crate) struct ObjectService {
    arena: Arc<Mutex<ArenaHost>>,
    capacity: u64,
    inputs: Inputs,
    waiting: VecDeque<WaitsForRoom>,
    reserve: Option<Reserve>,
}

struct WaitsForRoom {
    conn: ConnKey,
    row: u32,
    request_id: u64,
    min_bytes: u64,
    since: Instant,
}

struct Reserve {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl ObjectService {
    pub fn create(capacity: u64, inputs: Inputs) -> io::Result<Self> {
        let (host, descriptor) = ArenaHost::create(capacity)?;
        // Each client gets its own copy; this one has no further use.
        drop(descriptor);
        let capacity = host.capacity();
        Ok(Self {
            arena: Arc::new(Mutex::new(host)),
            capacity,
            inputs,
            waiting: VecDeque::new(),
            reserve: None,
        })
    }

    fn arena(&self) -> MutexGuard<'_, ArenaHost> {
        lock(&self.arena)
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    pub fn share(&self) -> io::Result<OwnedFd> {
        self.arena().share()
    }

    pub fn allocate_client(&mut self) -> u32 {
        self.arena().allocate_client()
    }

    /// Starts the thread that keeps pages ready, once.
    pub fn start_prefault(&mut self) {
        if self.reserve.is_some() {
            return;
        }
        let (arena, stop) = (Arc::clone(&self.arena), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let spawned = std::thread::Builder::new()
            .name("page-reserve".to_owned())
            .stack_size(64 << 10)
            .spawn(move || keep_reserve(&arena, &stopped));
        match spawned {
            Ok(thread) => self.reserve = Some(Reserve { thread, stop }),
            Err(error) => tracing::warn!(%error, "no thread for the page reserve; first puts will be slower"),
        }
    }

    pub fn stop(&mut self) {
        if let Some(reserve) = self.reserve.take() {
            reserve.stop.store(true, Ordering::Relaxed);
            reserve.thread.thread().unpark();
        }
    }

    fn wake_reserve(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.thread.thread().unpark();
        }
    }

    /// When the result is set, [`Self::give_up_overdue`] is due then.
    pub fn request_extent(&mut self, conn: ConnKey, request: &v1::RequestExtent, clients: &Clients) -> Option<Instant> {
        let client = clients.get(&conn)?;
        let (request_id, min_bytes) = (request.request_id, request.min_bytes);
        let Err(full) = self.try_grant(conn, client, request_id, min_bytes) else {
            return None;
        };
        if min_bytes > self.capacity || client.arena_row == 0 {
            client.outbox.send(refused(request_id, &full));
            return None;
        }
        let others = clients
            .iter()
            .filter(|(other, client)| **other != conn && client.registered);
        for (_, other) in others {
            other
                .outbox
                .send(Body::ExtentsWanted(v1::ExtentsWanted { bytes: min_bytes }));
        }
        // The asker as well: what it keeps may be in pieces that are too small one by one.
        client
            .outbox
            .send(Body::ExtentsWanted(v1::ExtentsWanted { bytes: min_bytes }));
        let since = Instant::now();
        self.waiting.push_back(WaitsForRoom {
            conn,
            row: client.arena_row,
            request_id,
            min_bytes,
            since,
        });
        Some(since + ROOM_LIMIT)
    }

    fn try_grant(&self, conn: ConnKey, client: &Client, request_id: u64, min_bytes: u64) -> Result<(), StoreFull> {
        let mut arena = self.arena();
        let begun = arena.begin_grant(client.arena_row, min_bytes).or_else(|full| {
            // Blocks that were pinned when they were freed may be free by now.
            if arena.reap() > 0 {
                arena.begin_grant(client.arena_row, min_bytes)
            } else {
                Err(full)
            }
        })?;
        if !begun.needs_pages() {
            let extent = arena.finish_grant(begun)?;
            client.outbox.send(granted(request_id, extent));
            drop(arena);
            self.wake_reserve();
            return Ok(());
        }
        drop(arena);
        let (inputs, row) = (self.inputs.clone(), client.arena_row);
        tokio::task::spawn_blocking(move || {
            let mut grant = begun;
            grant.reserve_pages();
            let _ = inputs.blocking_send(Input::PagesReserved {
                conn,
                request_id,
                row,
                grant,
            });
        });
        Ok(())
    }

    /// `client`: the one that asked, if it is still there.
    pub fn pages_reserved(&mut self, client: Option<&Client>, request_id: u64, row: u32, grant: PendingGrant) {
        let finished = self.arena().finish_grant(grant);
        match (finished, client) {
            (Ok(extent), Some(client)) => client.outbox.send(granted(request_id, extent)),
            (Err(full), Some(client)) => client.outbox.send(refused(request_id, &full)),
            (Ok(extent), None) => {
                if self.arena().give_back(row, extent.offset, extent.len).is_err() {
                    tracing::debug!(row, "an extent of a dead client was taken over already");
                }
            }
            (Err(_), None) => {}
        }
        self.wake_reserve();
    }

    pub fn return_extent(&mut self, conn: ConnKey, request: &v1::ReturnExtent, clients: &Clients) {
        let Some(client) = clients.get(&conn) else { return };
        if self
            .arena()
            .give_back(client.arena_row, request.offset, request.length)
            .is_err()
        {
            tracing::warn!(pid = client.pid, "a client gave back an extent that it did not have");
        }
        self.serve_waiting(clients);
    }

    pub fn free_object(&mut self, request: &v1::FreeObject, clients: &Clients) {
        let mut arena = self.arena();
        arena.free(request.offset, request.generation);
        if arena.has_zombies() {
            arena.reap();
        }
        drop(arena);
        self.serve_waiting(clients);
    }

    pub fn client_died(&mut self, conn: ConnKey, dead: &Client, clients: &Clients) {
        self.waiting.retain(|waiting| waiting.conn != conn);
        if dead.arena_row != 0 {
            let mut arena = self.arena();
            let summary = arena.client_died(dead.arena_row, arena_owner(&dead.worker_id));
            // Its pins are gone, which may free blocks that only they held.
            arena.reap();
            drop(arena);
            tracing::debug!(?summary, "a client's memory was taken over");
        }
        self.serve_waiting(clients);
    }

    fn serve_waiting(&mut self, clients: &Clients) {
        for waiting in std::mem::take(&mut self.waiting) {
            let Some(client) = clients
                .get(&waiting.conn)
                .filter(|client| client.arena_row == waiting.row)
            else {
                continue;
            };
            if self
                .try_grant(waiting.conn, client, waiting.request_id, waiting.min_bytes)
                .is_err()
            {
                self.waiting.push_back(waiting);
            }
        }
    }

    /// Answers those who have waited in vain, and says when to call again.
    pub fn give_up_overdue(&mut self, now: Instant, clients: &Clients) -> Option<Instant> {
        for waiting in std::mem::take(&mut self.waiting) {
            let Some(client) = clients.get(&waiting.conn) else {
                continue;
            };
            let overdue = waiting.since + ROOM_LIMIT <= now;
            match self.try_grant(waiting.conn, client, waiting.request_id, waiting.min_bytes) {
                Ok(()) => {}
                Err(full) if overdue => client.outbox.send(refused(waiting.request_id, &full)),
                Err(_) => self.waiting.push_back(waiting),
            }
        }
        self.waiting.front().map(|waiting| waiting.since + ROOM_LIMIT)
    }

    pub fn stats(&self, request_id: u64) -> v1::StoreStatsReply {
        let stats = self.arena().stats();
        v1::StoreStatsReply {
            request_id,
            capacity_bytes: stats.capacity_bytes,
            granted_bytes: stats.granted_bytes + stats.kept_bytes,
            reserved_bytes: stats.populated_bytes,
        }
    }
}

impl Drop for ObjectService {
    fn drop(&mut self) {
        self.stop();
    }
}

fn granted(request_id: u64, extent: Extent) -> Body {
    let Extent { offset, len } = extent;
    Body::ExtentGranted(v1::ExtentGranted {
        request_id,
        offset,
        length: len,
        error: String::new(),
    })
}

fn refused(request_id: u64, full: &StoreFull) -> Body {
    let error = full.to_string();
    Body::ExtentGranted(v1::ExtentGranted {
        request_id,
        offset: 0,
        length: 0,
        error,
    })
}

fn lock(arena: &Mutex<ArenaHost>) -> MutexGuard<'_, ArenaHost> {
    // A panic in the page thread leaves the tables as they were: it changes them only at the end of a step.
    arena.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep_reserve(arena: &Mutex<ArenaHost>, stop: &AtomicBool) {
    // On Linux a priority is a thread's own.
    let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
    while !stop.load(Ordering::Relaxed) {
        let reserved = lock(arena).prefault_step(RESERVE_STEP_BYTES);
        if reserved == 0 {
            std::thread::park();
        } else {
            std::thread::sleep(RESERVE_PAUSE);
        }
    }
}
