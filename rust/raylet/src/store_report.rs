//! What the object store holds, for people: the list of objects, and why something found no room.

use std::fmt::Write as _;

use ray_rs_object_store::{StoreFull, StoredObject};
use ray_rs_proto::v1;
use ray_rs_types::address::arena_owner;
use rustc_hash::FxHashMap;

use crate::object_service::{Clients, ObjectService};

/// Objects that an error names.
const NAMED: usize = 3;
/// As in `StoredObject.place`.
const ARENA: u32 = 0;
const SPILLED: u32 = 1;
const RESTORED: u32 = 2;
const WRITTEN: u32 = 3;
const COPY: u32 = 4;
const MIB: f64 = 1024.0 * 1024.0;

impl ObjectService {
    /// Every object of the node's store, wherever it is.
    pub fn objects(&self, request_id: u64, clients: &Clients) -> v1::ListObjectsReply {
        let pids = Pids::new(clients);
        let mut objects = Vec::new();
        let in_memory = self.arena().objects();
        let mut restored: FxHashMap<u64, StoredObject> = FxHashMap::default();
        for object in in_memory {
            if self.table.at_place(object.key.offset).is_some() {
                restored.insert(object.key.offset, object);
                continue;
            }
            objects.push(v1::StoredObject {
                object: Some(v1::BlockName {
                    offset: object.key.offset,
                    generation: object.key.generation,
                }),
                length: object.len,
                block_bytes: object.block_len,
                place: match object.unsealed {
                    true => WRITTEN,
                    false if self.copies.is_copy(object.key.offset) => COPY,
                    false => ARENA,
                },
                owner_pid: pids.owner(object.owner),
                holder_pid: pids.holder(object.holder),
                pins: object.pins,
            });
        }
        for (key, owner, len, place) in self.table.on_disk() {
            let copy = place.and_then(|place| restored.get(&place.offset));
            objects.push(v1::StoredObject {
                object: Some(v1::BlockName {
                    offset: key.offset,
                    generation: key.generation,
                }),
                length: len,
                block_bytes: copy.map_or(0, |copy| copy.block_len),
                place: if place.is_some() { RESTORED } else { SPILLED },
                owner_pid: pids.owner(owner),
                holder_pid: 0,
                pins: copy.map_or(0, |copy| copy.pins),
            });
        }
        v1::ListObjectsReply { request_id, objects }
    }

    /// Whether values lie here that are in no other node.
    pub fn has_values(&self) -> bool {
        if self.table.on_disk().next().is_some() {
            return true;
        }
        let in_memory = self.arena().objects();
        in_memory.iter().any(|object| !self.copies.is_copy(object.key.offset))
    }

    /// The text of an error: how much is used, and the largest objects that cannot be moved.
    pub fn explain(&self, full: &StoreFull, clients: &Clients) -> String {
        let pids = Pids::new(clients);
        let mut objects: Vec<StoredObject> = self.arena().objects();
        let pinned: u64 = objects
            .iter()
            .filter(|object| object.pins > 0)
            .map(|object| object.len)
            .sum();
        objects.sort_by_key(|object| std::cmp::Reverse((object.pins > 0, object.len)));
        let mut text = full.to_string();
        if full.requested_bytes > self.capacity {
            let _ = write!(text, " It can never fit: it alone is larger than the whole store.");
        }
        if pinned > 0 {
            let _ = write!(
                text,
                " Objects of {:.1} MiB are being looked at (a live array or argument), and cannot be moved to disk meanwhile.",
                pinned as f64 / MIB
            );
        }
        for (index, object) in objects.iter().take(NAMED).enumerate() {
            text.push_str(if index == 0 { " The largest objects: " } else { "; " });
            let _ = write!(text, "{:.1} MiB", object.len as f64 / MIB);
            match pids.owner(object.owner) {
                0 => {}
                pid => {
                    let _ = write!(text, " of process {pid}");
                }
            }
            if object.pins > 0 {
                let _ = write!(text, ", looked at by {}", object.pins);
            }
        }
        if !objects.is_empty() {
            text.push('.');
        }
        text
    }
}

/// Processes by the numbers that the arena knows them by.
struct Pids {
    owners: FxHashMap<u64, u32>,
    rows: FxHashMap<u32, u32>,
}

impl Pids {
    fn new(clients: &Clients) -> Self {
        let registered = || clients.values().filter(|client| client.arena_row != 0);
        Self {
            owners: registered()
                .map(|client| (arena_owner(&client.worker_id), client.pid))
                .collect(),
            rows: registered().map(|client| (client.arena_row, client.pid)).collect(),
        }
    }

    fn owner(&self, owner: u64) -> u32 {
        // With or without the mark of what outlives its owner.
        self.owners.get(&(owner & !1)).copied().unwrap_or(0)
    }

    fn holder(&self, row: u32) -> u32 {
        self.rows.get(&row).copied().unwrap_or(0)
    }
}
