//! Who waits for room in the arena or for an object that is on disk. How room is made is in `rounds.rs`.
//!
//! Requests are served as they came. When the first of them finds no room, a *round* clears some: clients close the
//! extents that `spill::plan` chose, objects in them are written to disk, and extents that are empty come back. One round runs
//! at a time; it clears more than was asked for, so that files are large. While objects keep going to disk, the next
//! round begins before anybody has to wait for it.
//!
//! Objects somebody looks at are never moved, and when nothing else is left the request waits for them, for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ray_rs_object_store::extents::PAGE;
use ray_rs_object_store::spill::{Found, Key, Order, Place};
use ray_rs_object_store::{LentFile, Restore, StoreFull};
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;

use crate::clients::Client;
use crate::copies::{Asked, CopyKey};
use crate::input::{ConnKey, Input};
use crate::lending::Asker;
use crate::moves::MoveKind;
use crate::object_service::{Clients, ObjectService, refused};
use crate::rounds::want_extents;
use crate::spill_io::NotRead;
use crate::transfer::{Lookup, NotServed};

/// What was granted just now is not empty for long.
pub(crate) const FRESH_PAUSE: Duration = Duration::from_millis(200);
/// and who waits gives up after this.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// Why memory outside the arena was no help.
const NEITHER: &str = " Nor has the machine the memory for a copy outside of the store. Get objects one after another, and let \
                       each go (`del`) before the next; or start with a larger object_store_memory.";
/// Who waits on behalf of the node itself, or of another one.
const NOBODY: ConnKey = ConnKey(u64::MAX);
/// Objects that are read at once.
const MAX_READS: usize = 4;

/// A request that is not answered yet.
pub(crate) struct Waiting {
    pub conn: ConnKey,
    pub request_id: u64,
    pub want: Want,
    /// It found no room, and nothing that could be moved.
    pub(crate) stalled_since: Option<Instant>,
    /// It found no room when it was last looked at.
    pub(crate) short: bool,
    /// What does not fit is read to here.
    pub lent: Option<LentFile>,
}

pub(crate) enum Want {
    Extent {
        row: u32,
        min_bytes: u64,
    },
    /// All of them in memory at once.
    Objects {
        objects: Vec<Wanted>,
        /// Nobody waits for them yet: they come if there is room.
        ahead: bool,
    },
    /// Room for a value that comes from another node.
    Room {
        bytes: u64,
        then: Option<WithRoom>,
    },
    /// A reader from another node wants an object that is not where it was made.
    ForVisitor {
        wanted: Wanted,
        answer: Option<Lookup>,
    },
}

/// Is called once: with the room, or with why there is none.
pub(crate) type WithRoom = Box<dyn FnOnce(Result<Restore, String>) + Send>;

impl Want {
    fn objects(&mut self) -> &mut [Wanted] {
        match self {
            Self::Objects { objects, .. } => objects,
            Self::ForVisitor { wanted, .. } => std::slice::from_mut(wanted),
            Self::Extent { .. } | Self::Room { .. } => &mut [],
        }
    }
}

pub(crate) struct Wanted {
    pub key: Key,
    pub outcome: Option<Result<Given, String>>,
}

/// Where an object is that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Given {
    /// In the arena, and held there.
    Held(Place),
    /// In memory that is the asker's alone.
    Lent { at: u64, len: u64 },
}

impl Wanted {
    fn held(&self) -> Option<Place> {
        match self.outcome {
            Some(Ok(Given::Held(place))) => Some(place),
            Some(Ok(Given::Lent { .. }) | Err(_)) | None => None,
        }
    }
}

enum Served {
    Done,
    /// What it wants is on its way.
    Moving,
    NoRoom(StoreFull),
}

impl Waiting {
    pub fn new(conn: ConnKey, request_id: u64, want: Want) -> Self {
        Self {
            conn,
            request_id,
            want,
            stalled_since: None,
            short: false,
            lent: None,
        }
    }
}

impl ObjectService {
    /// Objects are wanted that are not where they were made.
    pub fn restore_objects(&mut self, conn: ConnKey, request: v1::RestoreObjects, clients: &Clients) {
        let ahead = request.ahead;
        let objects = request.objects.into_iter().map(|name| Wanted {
            key: Key {
                offset: name.offset,
                generation: name.generation,
            },
            outcome: None,
        });
        let mut wait_for = |objects| {
            let want = Want::Objects { objects, ahead };
            self.waiting.push_back(Waiting::new(conn, request.request_id, want));
        };
        if ahead {
            objects.for_each(|wanted| wait_for(vec![wanted]));
        } else {
            wait_for(objects.collect());
        }
        self.pump(clients);
    }

    /// Asks for room for a value that comes from another node.
    pub fn room_for(&mut self, bytes: u64, then: WithRoom, clients: &Clients) {
        let then = Some(then);
        self.waiting
            .push_back(Waiting::new(NOBODY, 0, Want::Room { bytes, then }));
        self.pump(clients);
    }

    /// The value is there, or does not come.
    pub fn fill_room(&mut self, room: Restore, filled: Result<(), String>) -> Result<Place, String> {
        match filled {
            Ok(()) => self.arena().finish_restore(room).map_err(|full| full.to_string()),
            Err(why) => {
                self.arena().cancel_restore(room);
                Err(why)
            }
        }
    }

    /// A reader from another node wants an object that is not where it was made.
    pub fn visitor_wants(&mut self, key: Key, answer: Lookup, clients: &Clients) {
        let (wanted, answer) = (Wanted { key, outcome: None }, Some(answer));
        self.waiting
            .push_back(Waiting::new(NOBODY, 0, Want::ForVisitor { wanted, answer }));
        self.pump(clients);
    }

    /// It is pinned.
    pub fn visitor_has_it(&mut self, place: Place, clients: &Clients) {
        self.let_go(place.offset);
        if let Some((key, _)) = self.table.at_place(place.offset) {
            self.table.used(key);
        }
        self.pump(clients);
    }

    /// Keeps a copy where it is until the client says that it has it.
    pub fn hold_for(&mut self, asked: Asked, place: Place) {
        let Place { offset, generation, .. } = place;
        *self.held.entry(offset).or_default() += 1;
        self.answered.insert(asked, vec![(Key { offset, generation }, offset)]);
    }

    /// The value is gone that a copy is of.
    pub fn forget_copy(&mut self, key: CopyKey, clients: &Clients) {
        if let Some(place) = self.copies.forget(key) {
            self.arena().free(place.offset, place.generation);
            self.pump(clients);
        }
    }

    /// Who asked has pinned them, or is gone.
    pub fn objects_taken(&mut self, conn: ConnKey, request_id: u64) {
        for (key, offset) in self.answered.remove(&(conn, request_id)).unwrap_or_default() {
            self.let_go(offset);
            self.table.used(key);
        }
    }

    fn let_go(&mut self, offset: u64) {
        if let Some(count) = self.held.get_mut(&offset) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&offset);
            }
        }
    }

    /// Serves whom it can, and makes room for the others.
    pub fn pump(&mut self, clients: &Clients) {
        let now = Instant::now();
        // A round that only dropped copies has made room already, so it is looked at again.
        while self.serve_all(now, clients) {}
        self.work_ahead(now, clients);
    }

    /// True when room has been made meanwhile.
    fn serve_all(&mut self, now: Instant, clients: &Clients) -> bool {
        let mut queue = std::mem::take(&mut self.waiting);
        let mut left = VecDeque::with_capacity(queue.len());
        let mut made_room = false;
        while let Some(mut waiting) = queue.pop_front() {
            let full = match self.serve(&mut waiting, clients) {
                Served::Done => continue,
                Served::Moving => {
                    (waiting.short, waiting.stalled_since) = (false, None);
                    left.push_back(waiting);
                    continue;
                }
                // Nothing is moved for what nobody waits for yet.
                Served::NoRoom(_) if matches!(waiting.want, Want::Objects { ahead: true, .. }) => continue,
                Served::NoRoom(full) => full,
            };
            if !std::mem::replace(&mut waiting.short, true) {
                want_extents(clients, full.requested_bytes);
            }
            self.last_shortage = Some(now);
            let need = full.requested_bytes.next_multiple_of(PAGE);
            if self.round.is_some() || self.begin_round(need, now, clients) {
                waiting.stalled_since = None;
                left.push_back(waiting);
                made_room = self.round.is_none();
                // The room that is being made is for the first who needs it.
                break;
            }
            let since = *waiting.stalled_since.get_or_insert(now);
            if self.lends_to(&mut waiting, now.duration_since(since), now) {
                queue.push_front(waiting);
            } else if now.duration_since(since) < STALL_LIMIT
                && !(waiting.lent.is_some() && self.blocks_itself(&waiting, clients))
            {
                left.push_back(waiting);
            } else {
                let mut text = self.explain(&full, clients);
                if waiting.lent.is_some() {
                    text.push_str(NEITHER);
                }
                self.refuse(waiting, &text, false, clients);
            }
        }
        left.append(&mut queue);
        self.waiting = left;
        made_room
    }

    fn serve(&mut self, waiting: &mut Waiting, clients: &Clients) -> Served {
        match &mut waiting.want {
            Want::Room { bytes, then } => return self.serve_room(*bytes, then),
            Want::ForVisitor { wanted, answer } => return self.serve_visitor(wanted, answer),
            Want::Extent { .. } | Want::Objects { .. } => {}
        }
        let Some(client) = clients.get(&waiting.conn) else {
            return Served::Done;
        };
        let (conn, request_id) = (waiting.conn, waiting.request_id);
        match &mut waiting.want {
            Want::Extent { row, min_bytes } if client.arena_row == *row => {
                match self.try_grant(conn, client, request_id, *min_bytes) {
                    Ok(()) => Served::Done,
                    Err(full) => Served::NoRoom(full),
                }
            }
            Want::Extent { .. } | Want::Room { .. } | Want::ForVisitor { .. } => Served::Done,
            Want::Objects { objects, ahead } => {
                let ahead = *ahead;
                let mut moving = false;
                for wanted in objects.iter_mut().filter(|wanted| wanted.outcome.is_none()) {
                    match self.look_for(wanted) {
                        Served::Done => {}
                        Served::Moving => moving = true,
                        Served::NoRoom(full) => {
                            let asker = Asker { conn, request_id };
                            let is_coming = waiting
                                .lent
                                .as_mut()
                                .is_some_and(|file| self.begin_lending(file, asker, wanted.key, full.requested_bytes));
                            if !is_coming {
                                return Served::NoRoom(full);
                            }
                            moving = true;
                        }
                    }
                }
                if moving {
                    return Served::Moving;
                }
                let objects = std::mem::take(objects);
                if ahead {
                    for place in objects.iter().filter_map(Wanted::held) {
                        self.let_go(place.offset);
                    }
                } else {
                    self.answer(waiting, objects, client);
                }
                Served::Done
            }
        }
    }

    fn serve_room(&mut self, bytes: u64, then: &mut Option<WithRoom>) -> Served {
        let begun = {
            let mut arena = self.arena();
            arena.reap();
            arena.begin_restore(bytes)
        };
        match begun {
            Ok(room) => {
                if let Some(then) = then.take() {
                    then(Ok(room));
                }
                Served::Done
            }
            Err(full) => Served::NoRoom(full),
        }
    }

    fn serve_visitor(&mut self, wanted: &mut Wanted, answer: &mut Option<Lookup>) -> Served {
        if wanted.outcome.is_none() {
            match self.look_for(wanted) {
                Served::Done => {}
                other => return other,
            }
        }
        let place = wanted.held();
        let told = answer.take().map(|answer| answer.send(place.ok_or(NotServed::Gone)));
        if let (Some(place), Some(Err(_)) | None) = (place, told) {
            // The reader is gone.
            self.let_go(place.offset);
        }
        Served::Done
    }

    /// Holds the object in memory, or brings it there.
    fn look_for(&mut self, wanted: &mut Wanted) -> Served {
        let key = wanted.key;
        let outcome = match self.table.find(key) {
            Found::Moving => return Served::Moving,
            Found::OnDisk { .. } if self.reading >= MAX_READS => return Served::Moving,
            Found::OnDisk { len } => return self.begin_restore(key, len),
            Found::Back(place) => Ok(Given::Held(place)),
            Found::Lost => Err(self.lost.get(&key).cloned().unwrap_or_default()),
            Found::Unknown => match self.arena().sealed_len(key) {
                Some(len) => Ok(Given::Held(Place {
                    offset: key.offset,
                    len,
                    generation: key.generation,
                })),
                None => Err(String::new()),
            },
        };
        wanted.outcome = Some(outcome);
        if let Some(place) = wanted.held() {
            *self.held.entry(place.offset).or_default() += 1;
        }
        Served::Done
    }

    fn begin_restore(&mut self, key: Key, len: u64) -> Served {
        let begun = {
            let mut arena = self.arena();
            arena.reap();
            arena.begin_restore(len)
        };
        let mut restore = match begun {
            Ok(restore) => restore,
            Err(full) => return Served::NoRoom(full),
        };
        let reading = self.table.begin_reading(key).expect("it was found on disk");
        self.reading += 1;
        let inputs = self.inputs.clone();
        self.io.queue_read(Box::new(move |io| {
            let began = Instant::now();
            let outcome = if restore.reserve_pages() {
                io.read(&reading, &mut |at, bytes| {
                    restore.write(at, bytes);
                    Ok(())
                })
            } else {
                let why = "the machine has no memory left to bring it back from disk".to_owned();
                Err(NotRead { lost: false, why })
            };
            let took = began.elapsed();
            let _ = inputs.blocking_send(Input::ObjectRead {
                key,
                restore,
                outcome,
                took,
            });
        }));
        Served::Moving
    }

    pub fn object_read(
        &mut self,
        key: Key,
        restore: Restore,
        outcome: Result<(), NotRead>,
        took: Duration,
        clients: &Clients,
    ) {
        self.reading -= 1;
        self.moves
            .note(MoveKind::Restore, took, restore.length_bytes(), 1, outcome.is_err());
        let mut orders = Vec::new();
        match outcome {
            Ok(()) => {
                let finished = self.arena().finish_restore(restore);
                match finished {
                    Ok(place) => self.table.read(key, place, &mut orders),
                    Err(_) => self.table.not_read(key, false, &mut orders),
                }
            }
            Err(error) => {
                self.arena().cancel_restore(restore);
                self.not_read(key, error, &mut orders);
            }
        }
        self.carry_out(&orders, clients);
        self.pump(clients);
    }

    pub(crate) fn not_read(&mut self, key: Key, NotRead { lost, why }: NotRead, orders: &mut Vec<Order>) {
        self.table.not_read(key, lost, orders);
        if lost {
            tracing::error!(why, "an object is lost");
            self.lost.insert(key, why);
            return;
        }
        // Whoever waits for it would wait for ever.
        for waiting in &mut self.waiting {
            let its = waiting.want.objects().iter_mut().filter(|wanted| wanted.key == key);
            its.for_each(|wanted| wanted.outcome = Some(Err(why.clone())));
        }
    }

    fn answer(&mut self, waiting: &mut Waiting, objects: Vec<Wanted>, client: &Client) {
        let mut held = Vec::new();
        let mut any_lent = false;
        let answered = objects.into_iter().map(|wanted| match wanted.outcome {
            Some(Ok(Given::Lent { at, len })) => {
                any_lent = true;
                v1::RestoredObject {
                    offset: at,
                    length: len,
                    lent: true,
                    ..v1::RestoredObject::default()
                }
            }
            Some(Ok(Given::Held(place))) => {
                held.push((wanted.key, place.offset));
                v1::RestoredObject {
                    offset: place.offset,
                    length: place.len,
                    generation: place.generation,
                    ..v1::RestoredObject::default()
                }
            }
            Some(Err(lost)) => v1::RestoredObject {
                lost,
                ..v1::RestoredObject::default()
            },
            None => v1::RestoredObject::default(),
        });
        let objects = answered.collect();
        self.answered.insert((waiting.conn, waiting.request_id), held);
        let mut restored = v1::ObjectsRestored {
            request_id: waiting.request_id,
            objects,
            ..v1::ObjectsRestored::default()
        };
        let lent = waiting.lent.take().filter(|_| any_lent).map(LentFile::finish);
        let files = match lent.transpose() {
            Ok(file) => file.into_iter().collect(),
            Err(error) => {
                self.objects_taken(waiting.conn, waiting.request_id);
                restored.objects.clear();
                restored.error = format!("the memory for objects that are on disk could not be handed over: {error}");
                Vec::new()
            }
        };
        client.outbox.send_with_fds(Body::ObjectsRestored(restored), files);
    }

    pub(crate) fn refuse(&mut self, waiting: Waiting, text: &str, out_of_disk: bool, clients: &Clients) {
        let client = clients.get(&waiting.conn);
        let body = match waiting.want {
            Want::Extent { .. } => refused(waiting.request_id, text.to_owned(), out_of_disk),
            Want::Room { then, .. } => {
                if let Some(then) = then {
                    then(Err(text.to_owned()));
                }
                return;
            }
            Want::ForVisitor { answer, .. } => {
                if let Some(answer) = answer {
                    let _ = answer.send(Err(NotServed::NotBack));
                }
                return;
            }
            Want::Objects { objects, ahead } => {
                for place in objects.iter().filter_map(Wanted::held) {
                    self.let_go(place.offset);
                }
                if ahead {
                    return;
                }
                Body::ObjectsRestored(v1::ObjectsRestored {
                    request_id: waiting.request_id,
                    error: text.to_owned(),
                    out_of_disk,
                    ..v1::ObjectsRestored::default()
                })
            }
        };
        if let Some(client) = client {
            client.outbox.send(body);
        }
    }

    // ---- orders ------------------------------------------------------------------------------------------------

    pub fn carry_out(&mut self, orders: &[Order], clients: &Clients) {
        let mut released: Vec<(u32, Vec<v1::BlockName>)> = Vec::new();
        for order in orders {
            match order {
                Order::ReleaseBlock(key) => {
                    let Some(row) = self.arena().release_block(*key) else {
                        continue;
                    };
                    let (offset, generation) = (key.offset, key.generation);
                    let name = v1::BlockName { offset, generation };
                    match released.iter_mut().find(|(known, _)| *known == row) {
                        Some((_, names)) => names.push(name),
                        None => released.push((row, vec![name])),
                    }
                }
                Order::KeepBlock(key) => self.arena().keep_block(*key),
                Order::FreePlace(place) => {
                    self.arena().free(place.offset, place.generation);
                }
                Order::RemoveFile(file) => {
                    let file = *file;
                    self.io.queue_write(Box::new(move |io| io.remove(file)));
                }
            }
        }
        for (row, blocks) in released {
            if let Some(client) = clients.values().find(|client| client.arena_row == row) {
                client.outbox.send(Body::BlocksSpilled(v1::BlocksSpilled { blocks }));
            }
        }
    }
}
