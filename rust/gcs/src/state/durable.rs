//! What is stored of durable actors: in memory as `ray_rs_actors::durable::shelf` has it, and in two tables.
//!
//! It goes with the actor: an actor that is dead has nothing here, and nothing on disk.

use bytes::{BufMut, Bytes};
use ray_rs_actors::durable::shelf::{Change, Commit, Shelf};
use ray_rs_actors::lifecycle::Phase;
use ray_rs_proto::v1;
use ray_rs_types::ActorId;
use rustc_hash::FxHashMap;
use tonic::Status;

use super::actors::actor_id;
use super::{Durable, State};
use crate::storage::{Storage, StorageError, Table, Write};

/// A checkpoint lies in the table in parts of this size.
const PART_BYTES: usize = 1 << 20;
/// And is sent to a new process with records in answers of about this size.
const PAGE_BYTES: usize = 8 << 20;
/// Position and number of parts, before the first part.
const HEAD_BYTES: usize = 12;

#[derive(Debug, Default)]
pub(super) struct CallLogs {
    shelves: FxHashMap<ActorId, Stored>,
}

#[derive(Debug, Default)]
struct Stored {
    shelf: Shelf,
    /// Parts that its checkpoint has in the table.
    parts: u32,
}

fn record_key(actor: ActorId, position: u64) -> Vec<u8> {
    let mut key = actor.0.to_vec();
    key.put_u64(position);
    key
}

fn part_key(actor: ActorId, part: u32) -> Vec<u8> {
    let mut key = actor.0.to_vec();
    key.put_u32(part);
    key
}

fn parts_of(position: u64, data: &Bytes) -> Vec<Bytes> {
    let first = data.len().min(PART_BYTES - HEAD_BYTES);
    let rest = data.slice(first..);
    let mut parts: Vec<Bytes> = vec![Bytes::new()];
    parts.extend(
        (0..rest.len())
            .step_by(PART_BYTES)
            .map(|at| rest.slice(at..rest.len().min(at + PART_BYTES))),
    );
    let mut head = Vec::with_capacity(HEAD_BYTES + first);
    head.put_u64_le(position);
    head.put_u32_le(u32::try_from(parts.len()).expect("a message has fewer bytes than this parts"));
    head.extend_from_slice(&data[..first]);
    parts[0] = head.into();
    parts
}

/// What parts make, if they are all there: `parts_of` backwards.
fn whole(parts: &[(u32, Bytes)]) -> Option<(u64, Bytes)> {
    let (0, head) = parts.first()? else { return None };
    let (position, rest) = head.split_first_chunk()?;
    let (count, first) = rest.split_first_chunk()?;
    let count = u32::from_le_bytes(*count) as usize;
    let in_order = parts.iter().enumerate().all(|(at, (number, _))| at == *number as usize);
    if !in_order || parts.len() < count {
        return None;
    }
    let mut data = first.to_vec();
    parts[1..count]
        .iter()
        .for_each(|(_, part)| data.extend_from_slice(part));
    Some((u64::from_le_bytes(*position), data.into()))
}

impl CallLogs {
    /// What an earlier process stored of actors that are `wanted`. The tables keep what it has of others until an actor of
    /// that id dies; there is none unless its death was not written to the end.
    pub(super) fn restored(storage: &dyn Storage, wanted: impl Fn(ActorId) -> bool) -> Result<Self, StorageError> {
        let mut parts: FxHashMap<ActorId, Vec<(u32, Bytes)>> = FxHashMap::default();
        storage.scan(Table::Checkpoints, &mut |key, value| {
            if let Some((actor, number)) = split_key(key)
                && wanted(actor)
            {
                let number = u32::from_be_bytes(number);
                parts
                    .entry(actor)
                    .or_default()
                    .push((number, Bytes::copy_from_slice(value)));
            }
        })?;
        let mut records: FxHashMap<ActorId, Vec<(u64, Bytes)>> = FxHashMap::default();
        storage.scan(Table::CallRecords, &mut |key, value| {
            if let Some((actor, position)) = split_key(key)
                && wanted(actor)
            {
                let position = u64::from_be_bytes(position);
                records
                    .entry(actor)
                    .or_default()
                    .push((position, Bytes::copy_from_slice(value)));
            }
        })?;
        let mut shelves = FxHashMap::default();
        for (actor, parts) in parts {
            let checkpoint = whole(&parts);
            if checkpoint.is_none() {
                tracing::error!(actor_id = %actor, "the checkpoint of a durable actor cannot be read; it begins anew");
            }
            let records = records.remove(&actor).unwrap_or_default();
            let stored = Stored {
                shelf: Shelf::restored(checkpoint, records),
                parts: u32::try_from(parts.len()).unwrap_or(u32::MAX),
            };
            shelves.insert(actor, stored);
        }
        Ok(Self { shelves })
    }

    /// The actor is dead.
    pub(super) fn forget(&mut self, actor: ActorId, writes: &mut Vec<Write>) {
        let Some(stored) = self.shelves.remove(&actor) else {
            return;
        };
        let (first, page) = stored.shelf.page(0, usize::MAX);
        writes.extend(
            (first..first + page.len() as u64).map(|position| gone(Table::CallRecords, record_key(actor, position))),
        );
        writes.extend((0..stored.parts).map(|part| gone(Table::Checkpoints, part_key(actor, part))));
    }
}

fn split_key<const N: usize>(key: &[u8]) -> Option<(ActorId, [u8; N])> {
    let (actor, rest) = key.split_at_checked(ActorId::SIZE)?;
    Some((ActorId::from_bytes(actor).ok()?, rest.try_into().ok()?))
}

fn gone(table: Table, key: Vec<u8>) -> Write {
    Write {
        table,
        key,
        value: None,
    }
}

fn put(table: Table, key: Vec<u8>, value: Bytes) -> Write {
    Write {
        table,
        key,
        value: Some(value),
    }
}

impl Stored {
    fn writes(&mut self, actor: ActorId, change: Change) -> Vec<Write> {
        let mut writes: Vec<Write> = (change.removed)
            .map(|position| gone(Table::CallRecords, record_key(actor, position)))
            .collect();
        let (first, records) = change.added;
        let positions = first..;
        let added = positions.zip(records);
        writes.extend(added.map(|(position, record)| put(Table::CallRecords, record_key(actor, position), record)));
        if let Some((position, data)) = self.shelf.checkpoint().filter(|_| change.checkpoint) {
            let parts = parts_of(*position, data);
            let count = u32::try_from(parts.len()).expect("counted when they were made");
            let surplus = count..self.parts.max(count);
            writes.extend(surplus.map(|part| gone(Table::Checkpoints, part_key(actor, part))));
            let numbered = (0..count).zip(parts);
            writes.extend(numbered.map(|(number, part)| put(Table::Checkpoints, part_key(actor, number), part)));
            self.parts = count;
        }
        writes
    }
}

impl State {
    /// Why this process may not speak for the actor (`DUR-4`).
    fn refusal(&self, actor: ActorId, incarnation: u32) -> Option<String> {
        let is_durable = self.actors.spec(actor).is_some_and(|spec| spec.durability.is_some());
        match self.lifecycle.status(actor) {
            Some(status) if is_durable && status.phase != Phase::Dead => {
                (status.incarnation != incarnation).then(|| {
                    format!(
                        "the actor lives in another process by now (its start number {})",
                        status.incarnation
                    )
                })
            }
            _ => Some("there is no such durable actor (any more)".to_owned()),
        }
    }

    pub fn commit_calls(&mut self, request: v1::CommitCallsRequest) -> Result<(v1::CommitCallsReply, Durable), Status> {
        let actor = actor_id(&request.actor_id)?;
        let mut refused = self.refusal(actor, request.incarnation);
        let mut writes = Vec::new();
        if refused.is_none() {
            let commit = Commit {
                first: request.first,
                records: request.records,
                checkpoint: request
                    .checkpoint
                    .map(|checkpoint| (checkpoint.position, checkpoint.data)),
            };
            let stored = self.call_logs.shelves.entry(actor).or_default();
            match stored.shelf.commit(commit) {
                Ok(change) => writes = stored.writes(actor, change),
                Err(gap) => {
                    tracing::error!(actor_id = %actor, first = request.first, next = gap.next, "calls are missing (DUR-3)");
                    refused = Some(format!("calls are missing: {} are stored", gap.next));
                }
            }
        }
        let durable = if writes.is_empty() {
            self.durable_so_far()
        } else {
            self.commit(writes)
        };
        let refused = refused.unwrap_or_default();
        Ok((v1::CommitCallsReply { refused }, durable))
    }

    pub fn call_log(&mut self, request: &v1::GetCallLogRequest) -> Result<(v1::GetCallLogReply, Durable), Status> {
        let actor = actor_id(&request.actor_id)?;
        let mut reply = v1::GetCallLogReply {
            refused: self.refusal(actor, request.incarnation).unwrap_or_default(),
            ..v1::GetCallLogReply::default()
        };
        if reply.refused.is_empty()
            && let Some(Stored { shelf, .. }) = self.call_logs.shelves.get(&actor)
        {
            (reply.first, reply.records) = shelf.page(request.from, PAGE_BYTES);
            let next = reply.first + reply.records.len() as u64;
            reply.next = if next < shelf.next() { next } else { 0 };
            let checkpoint = shelf.checkpoint().filter(|_| request.with_checkpoint);
            reply.checkpoint = checkpoint.map(|(position, data)| v1::Checkpoint {
                position: *position,
                data: data.clone(),
            });
        }
        // What the new process builds upon must not be lost again.
        Ok((reply, self.durable_so_far()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_put_together_again() {
        for length in [0, 1, PART_BYTES - HEAD_BYTES, PART_BYTES, 3 * PART_BYTES + 17] {
            let data: Bytes = (0..length).map(|at| at as u8).collect::<Vec<_>>().into();
            let parts: Vec<(u32, Bytes)> = (0..).zip(parts_of(7, &data)).collect();
            assert_eq!(whole(&parts), Some((7, data)));
            assert_eq!(whole(&parts[..parts.len() - 1]), None);
        }
        assert_eq!(whole(&[(0, Bytes::from_static(b"short"))]), None);
    }
}
