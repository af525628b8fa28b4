//! The node's arena: extents for clients, pages made ready ahead of demand, and what clients say of objects.
//!
//! Reserving pages that were never touched takes half a millisecond a megabyte, so it happens on a thread of its own.
//! Another thread, of the lowest priority, keeps a small reserve; it sleeps for good when there is enough, and is woken
//! by grants. What finds no room waits in [`crate::room`], which clears some.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ray_rs_object_store::spill::{Key, SpillTable};
use ray_rs_object_store::{ArenaHost, Extent, FreeOutcome, FullReason, PendingGrant, StoreFull};
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_types::WorkerId;
use ray_rs_types::address::arena_owner;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use crate::clients::Client;
use crate::copies::Copies;
use crate::input::{ConnKey, Input, Inputs};
use crate::memory::Headroom;
use crate::moves::MoveLog;
use crate::room::{FRESH_PAUSE, Waiting, Want};
use crate::rounds::Round;
use crate::spill_io::SpillIo;
use crate::spill_notice::SpillNotice;

pub(crate) type Clients = HashMap<ConnKey, Client, FxBuildHasher>;

/// The reserve grows in steps, so that the loop never waits long for the arena; it is there a tenth of a second after the
/// first client came, if a core is idle.
const RESERVE_STEP_BYTES: u64 = 256 << 10;
/// Pages of an extent that are filled in at a time, ahead of the copying of its holder.
const FILL_STEP_BYTES: u64 = 1 << 20;
/// Processes of other nodes whose ends are remembered, for as long as what they owned may still turn up.
const MAX_DEAD_OWNERS: usize = 1024;
/// As the owner of blocks that nobody needs. No process has this mark, since their ids are random.
const NOBODY: u64 = 1;
const RESERVE_PAUSE: Duration = Duration::from_micros(200);
/// Lowest priority of an ordinary thread.
const LOWEST_PRIORITY: i32 = 19;

pub(crate) struct ObjectService {
    pub(crate) arena: Arc<Mutex<ArenaHost>>,
    pub(crate) capacity: u64,
    pub(crate) inputs: Inputs,
    reserve: Option<Reserve>,
    /// What left memory.
    pub(crate) table: SpillTable,
    pub(crate) io: Arc<SpillIo>,
    /// Of values that lie in other nodes.
    pub(crate) copies: Copies,
    /// Processes of other nodes that have ended lately.
    dead_owners: VecDeque<u64>,
    /// Why objects are lost whose files could not be read.
    pub(crate) lost: FxHashMap<Key, String>,
    /// In order of arrival; served in that order, unless the first can only wait.
    pub(crate) waiting: VecDeque<Waiting>,
    /// Room that is being made.
    pub(crate) round: Option<Round>,
    /// By data offset: how many of those who asked for the object have not taken it yet.
    pub(crate) held: FxHashMap<u64, u32>,
    /// By who asked and in which request: the objects held for it, and their offsets.
    pub(crate) answered: FxHashMap<(ConnKey, u64), Vec<(Key, u64)>>,
    /// Objects that are being read.
    pub(crate) reading: usize,
    /// Of them, bytes of those that go to memory outside the arena.
    pub(crate) lending_bytes: u64,
    /// Who was last lent such memory, and when.
    pub(crate) last_lent: Option<(ConnKey, Instant)>,
    pub(crate) headroom: Headroom,
    pub(crate) notice: SpillNotice,
    /// What was written and read lately.
    pub(crate) moves: MoveLog,
    /// When something last found no room.
    pub(crate) last_shortage: Option<Instant>,
    /// When the disk last refused to take objects.
    pub(crate) last_refusal: Option<Instant>,
    /// When more than enough lay empty in what clients hold, though little was left to grant.
    pub(crate) last_roomy: Option<Instant>,
    /// Extents that are empty and yet not to be had, because they were granted just now, or because their clients did not
    /// give them back in time; and until when they are left alone.
    pub(crate) slow: FxHashMap<u64, Instant>,
}

struct Reserve {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl ObjectService {
    pub fn create(capacity: u64, session_dir: &Path, spill_directory: &str, inputs: Inputs) -> io::Result<Self> {
        let (host, descriptor) = ArenaHost::create(capacity)?;
        // Each client gets its own copy; this one has no further use.
        drop(descriptor);
        let capacity = host.capacity();
        Ok(Self {
            arena: Arc::new(Mutex::new(host)),
            capacity,
            inputs,
            reserve: None,
            table: SpillTable::default(),
            copies: Copies::default(),
            io: Arc::new(SpillIo::new(session_dir, spill_directory)),
            dead_owners: VecDeque::new(),
            lost: FxHashMap::default(),
            waiting: VecDeque::new(),
            round: None,
            held: FxHashMap::default(),
            answered: FxHashMap::default(),
            reading: 0,
            lending_bytes: 0,
            last_lent: None,
            headroom: Headroom::from_env(),
            notice: SpillNotice::from_env(),
            moves: MoveLog::default(),
            last_shortage: None,
            last_refusal: None,
            last_roomy: None,
            slow: FxHashMap::default(),
        })
    }

    pub(crate) fn arena(&self) -> MutexGuard<'_, ArenaHost> {
        lock(&self.arena)
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// `/dev/shm` was too small for it.
    pub fn is_memfd(&self) -> bool {
        self.arena().is_memfd()
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
        self.io.stop();
        if let Some(reserve) = self.reserve.take() {
            reserve.stop.store(true, Ordering::Relaxed);
            reserve.thread.thread().unpark();
        }
    }

    pub(crate) fn wake_reserve(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.thread.thread().unpark();
        }
    }

    // ---- extents -----------------------------------------------------------------------------------------------

    pub fn request_extent(&mut self, conn: ConnKey, request: &v1::RequestExtent, clients: &Clients) {
        let Some(client) = clients.get(&conn) else { return };
        let (row, min_bytes) = (client.arena_row, request.min_bytes);
        if min_bytes > self.capacity || row == 0 {
            let reason = if row == 0 {
                FullReason::NoRow
            } else {
                FullReason::NoRoom
            };
            let full = self.arena().full(reason, min_bytes);
            let text = self.explain(&full, clients);
            client.outbox.send(refused(request.request_id, text, false));
            return;
        }
        let want = Want::Extent { row, min_bytes };
        self.waiting.push_back(Waiting::new(conn, request.request_id, want));
        self.pump(clients);
    }

    pub(crate) fn try_grant(
        &mut self,
        conn: ConnKey,
        client: &Client,
        request_id: u64,
        min_bytes: u64,
    ) -> Result<(), StoreFull> {
        let mut arena = self.arena();
        let begun = arena.begin_grant(client.arena_row, min_bytes)?;
        if !begun.needs_pages() {
            let extent = arena.finish_grant(begun)?;
            drop(arena);
            client.outbox.send(self.granted(request_id, extent));
            self.wake_reserve();
            return Ok(());
        }
        drop(arena);
        let (inputs, row, arena) = (self.inputs.clone(), client.arena_row, Arc::clone(&self.arena));
        tokio::task::spawn_blocking(move || {
            let mut grant = begun;
            grant.reserve_pages();
            let fill = grant.fill();
            let _ = inputs.blocking_send(Input::PagesReserved {
                conn,
                request_id,
                row,
                grant,
            });
            if let Some(mut fill) = fill {
                while lock(&arena).wants_filled(&fill) && fill.step(FILL_STEP_BYTES) {}
            }
        });
        Ok(())
    }

    fn granted(&mut self, request_id: u64, extent: Extent) -> Body {
        let Extent { offset, len } = extent;
        if self.last_shortage.is_some() {
            self.slow.insert(offset, Instant::now() + FRESH_PAUSE);
        }
        Body::ExtentGranted(v1::ExtentGranted {
            request_id,
            offset,
            length: len,
            ..v1::ExtentGranted::default()
        })
    }

    /// `client`: the one that asked, if it is still there.
    pub fn pages_reserved(&mut self, conn: ConnKey, request_id: u64, row: u32, grant: PendingGrant, clients: &Clients) {
        let client = clients.get(&conn).filter(|client| client.arena_row == row);
        let finished = self.arena().finish_grant(grant);
        match (finished, client) {
            (Ok(extent), Some(client)) => client.outbox.send(self.granted(request_id, extent)),
            (Err(full), Some(client)) => client
                .outbox
                .send(refused(request_id, self.explain(&full, clients), false)),
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
        self.extent_is_back(request.offset);
        self.pump(clients);
    }

    // ---- objects -----------------------------------------------------------------------------------------------

    pub fn free_object(&mut self, request: &v1::FreeObject, clients: &Clients) {
        let key = Key {
            offset: request.offset,
            generation: request.generation,
        };
        let mut orders = Vec::new();
        if self.table.freed(key, &mut orders) {
            self.lost.remove(&key);
            self.carry_out(&orders, clients);
        } else if self.arena().free(request.offset, request.generation) == FreeOutcome::NotMine {
            self.free_in_its_extent(request.offset, request.generation, clients);
        }
        self.pump(clients);
    }

    /// The block lies in a living process's extent, of which the owner need not know: it may have adopted the object. That
    /// process hears of it by a mark that only such blocks have.
    fn free_in_its_extent(&mut self, offset: u64, generation: u64, clients: &Clients) {
        self.arena().hand_over(offset, generation, NOBODY);
        for client in clients.values().filter(|client| client.arena_row != 0) {
            client.outbox.send(Body::OrphansEnd(v1::OrphansEnd { owner: NOBODY }));
        }
    }

    pub fn handed_over(&mut self, request: &v1::ObjectHandedOver) {
        if let Some(name) = request.object {
            let (offset, generation) = (name.offset, name.generation);
            self.arena().hand_over(offset, generation, request.owner);
            self.table.owner_changed(Key { offset, generation }, request.owner);
        }
    }

    /// A process of another node has ended: what it owned here goes. Of what a process of this node has just written for it the
    /// daemon learns when that ends, perhaps later.
    pub fn remote_owner_died(&mut self, worker: &WorkerId, clients: &Clients) {
        self.owner_ended(arena_owner(worker), clients);
    }

    /// Blocks that name this owner have none any more.
    pub fn owner_ended(&mut self, owner: u64, clients: &Clients) {
        if self.dead_owners.len() == MAX_DEAD_OWNERS {
            self.dead_owners.pop_front();
        }
        self.dead_owners.push_back(owner);
        self.arena().owners_died(|dead| dead == owner);
        let mut orders = Vec::new();
        self.table.owner_died(owner, &mut orders);
        self.carry_out(&orders, clients);
        self.pump(clients);
    }

    pub fn client_died(&mut self, conn: ConnKey, dead: &Client, clients: &Clients) {
        self.waiting.retain(|waiting| waiting.conn != conn);
        let requests: Vec<_> = self
            .answered
            .keys()
            .filter(|(asker, _)| *asker == conn)
            .copied()
            .collect();
        for (conn, request_id) in requests {
            self.objects_taken(conn, request_id);
        }
        if dead.arena_row != 0 {
            let owner = arena_owner(&dead.worker_id);
            let arena = Arc::clone(&self.arena);
            let mut arena = lock(&arena);
            let summary = arena.client_died(dead.arena_row, owner);
            // What it had written for those that have ended before it.
            let dead_owners: FxHashSet<u64> = self.dead_owners.iter().copied().chain([owner]).collect();
            arena.owners_died(|owner| dead_owners.contains(&owner));
            // Its pins are gone, which may free blocks that only they held.
            arena.reap();
            drop(arena);
            tracing::debug!(?summary, "a client's memory was taken over");
            let mut orders = Vec::new();
            // Some of it may have gone to disk meanwhile.
            self.table
                .owners_died(|owner| dead_owners.contains(&owner), &mut orders);
            self.carry_out(&orders, clients);
            self.forget_extents_of_the_dead();
        }
        self.pump(clients);
    }

    pub fn stats(&self, request_id: u64) -> v1::StoreStatsReply {
        let stats = self.arena().stats();
        let spilled = self.table.stats();
        v1::StoreStatsReply {
            request_id,
            capacity_bytes: stats.capacity_bytes,
            granted_bytes: stats.granted_bytes + stats.kept_bytes,
            reserved_bytes: stats.populated_bytes,
            spilled_objects: spilled.objects,
            spilled_bytes: spilled.disk_bytes,
            total_spilled_objects: spilled.spilled_objects,
            total_spilled_bytes: spilled.spilled_bytes,
            total_restored_objects: spilled.restored_objects,
            total_restored_bytes: spilled.restored_bytes,
            ..v1::StoreStatsReply::default()
        }
    }
}

impl Drop for ObjectService {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn refused(request_id: u64, error: String, out_of_disk: bool) -> Body {
    Body::ExtentGranted(v1::ExtentGranted {
        request_id,
        error,
        out_of_disk,
        ..v1::ExtentGranted::default()
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
