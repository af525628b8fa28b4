//! Objects that come back from disk when there is no room for them beside what is looked at: each is read to memory
//! outside the arena, which is its reader's alone. So a program may look at more than the store holds, as long as the
//! machine has the memory.
//!
//! Nothing is lent as long as waiting may help, for [`PATIENCE`]; who was lent something just now waits no more.

use std::time::{Duration, Instant};

use ray_rs_object_store::spill::Key;
use ray_rs_object_store::{LentFile, LentPart};

use crate::input::{ConnKey, Input};
use crate::moves::MoveKind;
use crate::object_service::{Clients, ObjectService};
use crate::room::{Given, Waiting, Want};
use crate::spill_io::NotRead;

/// Longer than what was granted just now is left alone.
const PATIENCE: Duration = Duration::from_millis(250);
/// Whoever was lent something so lately holds the room itself, most likely.
const MEMORY: Duration = Duration::from_secs(2);

/// For whom an object is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub conn: ConnKey,
    pub request_id: u64,
}

impl ObjectService {
    /// Whether it waits for memory that it holds itself.
    pub(crate) fn blocks_itself(&self, waiting: &Waiting, clients: &Clients) -> bool {
        let row = clients.get(&waiting.conn).map_or(0, |client| client.arena_row);
        matches!(waiting.want, Want::Objects { .. }) && row != 0 && self.arena().pinned_by(row) > self.capacity / 2
    }

    /// Nothing can be moved for it: whether it is to be lent what it wants, from now on.
    pub(crate) fn lends_to(&mut self, waiting: &mut Waiting, stalled: Duration, now: Instant) -> bool {
        let awaited = matches!(waiting.want, Want::Objects { ahead: false, .. });
        if !awaited || waiting.lent.is_some() {
            return false;
        }
        let lately = self
            .last_lent
            .is_some_and(|(conn, at)| conn == waiting.conn && now.duration_since(at) < MEMORY);
        if stalled < PATIENCE && !lately {
            return false;
        }
        waiting.lent = LentFile::create().ok();
        waiting.lent.is_some()
    }

    /// Begins to read an object that is on disk alone. False when the machine has no memory for it.
    pub(crate) fn begin_lending(&mut self, file: &mut LentFile, asker: Asker, key: Key, bytes: u64) -> bool {
        if self.headroom.left_bytes() < self.lending_bytes + bytes {
            return false;
        }
        let Some(reading) = self.table.begin_reading(key) else {
            return false;
        };
        let part = file.add(reading.len);
        self.reading += 1;
        self.lending_bytes += reading.len;
        self.last_lent = Some((asker.conn, Instant::now()));
        let inputs = self.inputs.clone();
        self.io.queue_read(Box::new(move |io| {
            let began = Instant::now();
            let outcome = match part.reserve_pages() {
                Ok(()) => io.read(&reading, &mut |at, bytes| part.write(at, bytes)),
                Err(error) => Err(NotRead {
                    lost: false,
                    why: format!("the machine has no memory left to bring it back from disk: {error}"),
                }),
            };
            let input = Input::ObjectLent {
                key,
                asker,
                part,
                outcome,
                took: began.elapsed(),
            };
            let _ = inputs.blocking_send(input);
        }));
        true
    }

    pub fn object_lent(
        &mut self,
        key: Key,
        asker: Asker,
        part: &LentPart,
        outcome: Result<(), NotRead>,
        took: Duration,
        clients: &Clients,
    ) {
        self.reading -= 1;
        self.lending_bytes -= part.len;
        self.moves.note(MoveKind::Restore, took, part.len, 1, outcome.is_err());
        let mut orders = Vec::new();
        let outcome = match outcome {
            Ok(()) => {
                self.table.lent(key, &mut orders);
                Ok(Given::Lent {
                    at: part.at,
                    len: part.len,
                })
            }
            Err(error) => {
                let why = error.why.clone();
                self.not_read(key, error, &mut orders);
                Err(why)
            }
        };
        let its = |waiting: &&mut Waiting| waiting.conn == asker.conn && waiting.request_id == asker.request_id;
        if let Some(waiting) = self.waiting.iter_mut().find(its)
            && let Want::Objects { objects, .. } = &mut waiting.want
            && let Some(wanted) = objects
                .iter_mut()
                .find(|wanted| wanted.key == key && wanted.outcome.is_none())
        {
            wanted.outcome = Some(outcome);
        }
        self.carry_out(&orders, clients);
        self.pump(clients);
    }
}
