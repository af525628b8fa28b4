//! Rounds: in each, some extents are emptied, their objects written to disk.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ray_rs_object_store::spill::{FileId, Part, Region, RegionKind, fuse, is_nearly_full, plan};
use ray_rs_object_store::{Class, SetAside};
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use rustc_hash::FxHashSet;

use crate::clients::Role;
use crate::input::Input;
use crate::moves::MoveKind;
use crate::object_service::{Clients, ObjectService};
use crate::room::{Waiting, Want};
use crate::spill_io::NotWritten;

/// Objects are fused into files of about this size.
const FILE_BYTES: u64 = 100 << 20;
/// A round writes at least this share of the arena (one in so many parts), or a file.
const BATCH_SHARE: u64 = 8;
/// With less than this share free, the next round begins ahead of need.
const AHEAD_SHARE: u64 = 5;
/// What clients keep empty was enough: that is looked at again, block by block, no sooner than this.
const ROOMY_PAUSE: Duration = Duration::from_millis(20);
/// As long as the last request that found no room is so fresh.
const SHORTAGE_MEMORY: Duration = Duration::from_secs(5);
/// After the disk refused, nothing is written ahead of need for so long.
const REFUSAL_MEMORY: Duration = Duration::from_secs(10);
/// Clients have so long to give back extents that are empty; then the round ends without them.
const RETURN_LIMIT: Duration = Duration::from_millis(200);
/// And what is empty and did not come back is left alone for so long.
const SLOW_PAUSE: Duration = Duration::from_secs(2);
/// When nothing can be moved, pins are looked at again so often,
const STALL_PAUSE: Duration = Duration::from_millis(20);

/// Room that is being made.
pub(crate) struct Round {
    /// Files that are being written.
    jobs: usize,
    /// Extents that are to come back.
    expected: FxHashSet<u64>,
    /// When the round ends without those that are missing; set once the files are written.
    ends_at: Option<Instant>,
}

impl ObjectService {
    /// Whatever is worth doing before somebody must wait for it.
    pub(crate) fn work_ahead(&mut self, now: Instant, clients: &Clients) {
        let is_fresh = |at: Option<Instant>, limit| at.is_some_and(|at| now.duration_since(at) < limit);
        if self.round.is_some()
            || !is_fresh(self.last_shortage, SHORTAGE_MEMORY)
            || is_fresh(self.last_refusal, REFUSAL_MEMORY)
            || is_fresh(self.last_roomy, ROOMY_PAUSE)
            || self.waiting.iter().any(|waiting| waiting.short)
        {
            return;
        }
        if self.arena().stats().free_bytes < self.capacity / AHEAD_SHARE {
            self.begin_round(0, now, clients);
        }
    }

    /// Begins to make room for `need_bytes` in one piece; 0: ahead of need, if little is left. False when nothing can be moved.
    pub(crate) fn begin_round(&mut self, need_bytes: u64, now: Instant, clients: &Clients) -> bool {
        self.slow.retain(|_, until| *until > now);
        let (held, table, copies) = (&self.held, &self.table, &self.copies);
        let class = |offset: u64| {
            if held.contains_key(&offset) {
                return Class::Held;
            }
            if copies.is_copy(offset) {
                return Class::Copy;
            }
            match table.at_place(offset) {
                Some((_, true)) => Class::Copy,
                Some((_, false)) => Class::AwaitedCopy,
                None => Class::Ordinary,
            }
        };
        let mut arena = self.arena.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        arena.reap();
        let mut regions = arena.survey(class);
        for region in regions.iter_mut().filter(|region| region.spill_bytes == 0) {
            region.stuck |= self.slow.contains_key(&region.offset);
        }
        let batch = if is_nearly_full(&regions, AHEAD_SHARE) {
            FILE_BYTES.min(self.capacity / BATCH_SHARE)
        } else {
            self.last_roomy = Some(now);
            0
        };
        let Some(plan) = plan(&regions, need_bytes, batch) else {
            return false;
        };
        let chosen: Vec<&Region> = plan.regions().map(|index| &regions[index]).collect();
        // Before anything of them is set aside: what is placed in them from here on would keep them.
        let expected = close_extents(&chosen, clients);
        let aside = arena.set_aside(chosen, class);
        let sources: Vec<(Part, SetAside)> = aside
            .parts
            .iter()
            .filter_map(|part| Some((*part, arena.bytes_of(part)?)))
            .collect();
        drop(arena);
        for offset in &aside.evicted {
            self.copies.evicted(*offset);
            if let Some((key, _)) = self.table.at_place(*offset) {
                self.table.evicted(key);
            }
        }
        let jobs = self.write(sources);
        if jobs > 0 || !expected.is_empty() {
            self.round = Some(Round {
                jobs,
                expected,
                ends_at: (jobs == 0).then(|| now + RETURN_LIMIT),
            });
            return true;
        }
        !aside.evicted.is_empty()
    }

    /// How many files are on their way.
    fn write(&mut self, mut sources: Vec<(Part, SetAside)>) -> usize {
        let lens: Vec<u64> = sources.iter().map(|(part, _)| part.len).collect();
        let files = fuse(&lens, FILE_BYTES);
        for range in &files {
            let (parts, bytes): (Vec<Part>, Vec<SetAside>) = sources.drain(..range.len()).unzip();
            let file = self.table.begin(&parts);
            let inputs = self.inputs.clone();
            self.io.queue_write(Box::new(move |io| {
                let began = Instant::now();
                let outcome = io.write(file, bytes);
                let took = began.elapsed();
                let _ = inputs.blocking_send(Input::FileWritten {
                    file,
                    parts,
                    outcome,
                    took,
                });
            }));
        }
        files.len()
    }

    pub fn file_written(
        &mut self,
        file: FileId,
        parts: &[Part],
        outcome: Result<Vec<u32>, NotWritten>,
        took: Duration,
        clients: &Clients,
    ) {
        let mut orders = Vec::new();
        let bytes = parts.iter().map(|part| part.len).sum();
        self.moves
            .note(MoveKind::Spill, took, bytes, parts.len() as u32, outcome.is_err());
        let refusal = match outcome {
            Ok(checksums) => {
                self.table.written(file, parts, &checksums, &mut orders);
                let (objects, bytes) = self.table.spilled_ever();
                if let Some(text) = self.notice.written(took, objects, bytes) {
                    tell_drivers(clients, &text);
                }
                None
            }
            Err(error) => {
                self.table.not_written(parts, &mut orders);
                Some(error.to_string())
            }
        };
        self.carry_out(&orders, clients);
        if let Some(round) = &mut self.round {
            round.jobs -= 1;
            if round.jobs == 0 {
                round.ends_at = Some(Instant::now() + RETURN_LIMIT);
            }
        }
        self.end_round_if_done();
        if let Some(text) = refusal {
            tracing::error!(text, "objects could not be spilled");
            self.last_refusal = Some(Instant::now());
            let all = std::mem::take(&mut self.waiting).into_iter();
            let (short, others): (VecDeque<Waiting>, _) = all.partition(|waiting| waiting.short);
            self.waiting = others;
            for mut waiting in short {
                // What is on disk can be read all the same.
                if self.lends_to(&mut waiting, Duration::MAX, Instant::now()) {
                    self.waiting.push_front(waiting);
                    continue;
                }
                self.refuse(waiting, &text, true, clients);
            }
        }
        self.pump(clients);
    }

    /// An extent is the raylet's again.
    pub fn extent_is_back(&mut self, offset: u64) {
        self.slow.remove(&offset);
        if let Some(round) = &mut self.round {
            round.expected.remove(&offset);
        }
        self.end_round_if_done();
    }

    pub fn forget_extents_of_the_dead(&mut self) {
        let Some(round) = &mut self.round else { return };
        let arena = self.arena.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        round.expected.retain(|offset| arena.is_extent(*offset));
        drop(arena);
        self.end_round_if_done();
    }

    fn end_round_if_done(&mut self) {
        if self
            .round
            .as_ref()
            .is_some_and(|round| round.jobs == 0 && round.expected.is_empty())
        {
            self.round = None;
        }
    }

    /// When [`Self::tick`] is due.
    pub fn next_due(&self) -> Option<Instant> {
        let round = self.round.as_ref().and_then(|round| round.ends_at);
        let is_stalled = self.waiting.iter().any(|waiting| waiting.stalled_since.is_some());
        let stall = is_stalled.then(|| self.last_shortage.unwrap_or_else(Instant::now) + STALL_PAUSE);
        [round, stall].into_iter().flatten().min()
    }

    pub fn tick(&mut self, now: Instant, clients: &Clients) {
        if let Some(round) = self.round.take_if(|round| round.ends_at.is_some_and(|at| at <= now)) {
            let until = now + SLOW_PAUSE;
            self.slow
                .extend(round.expected.into_iter().map(|offset| (offset, until)));
        }
        if let Some(stalled) = self.waiting.iter().find(|waiting| waiting.stalled_since.is_some()) {
            // What was freed while somebody looked at it is given back only by who is reminded of it.
            let bytes = match &stalled.want {
                Want::Extent { min_bytes: bytes, .. } | Want::Room { bytes, .. } => *bytes,
                Want::Objects { .. } | Want::ForVisitor { .. } => self.capacity,
            };
            want_extents(clients, bytes);
        }
        self.pump(clients);
    }
}

fn tell_drivers(clients: &Clients, text: &str) {
    for driver in clients.values().filter(|client| client.role == Role::Driver) {
        let text = text.to_owned();
        driver.outbox.send(Body::Notice(v1::Notice { level: 0, text }));
    }
}

/// Tells each client which of its extents are to be emptied; all their offsets.
fn close_extents(chosen: &[&Region], clients: &Clients) -> FxHashSet<u64> {
    let mut expected = FxHashSet::default();
    for client in clients.values().filter(|client| client.arena_row != 0) {
        let its = chosen
            .iter()
            .filter(|region| region.kind == RegionKind::Extent(client.arena_row));
        let offsets: Vec<u64> = its.map(|region| region.offset).collect();
        if !offsets.is_empty() {
            expected.extend(offsets.iter().copied());
            client.outbox.send(Body::CloseExtents(v1::CloseExtents { offsets }));
        }
    }
    expected
}

/// Asks all clients for extents in which nothing lies.
pub(crate) fn want_extents(clients: &Clients, bytes: u64) {
    for client in clients.values().filter(|client| client.registered) {
        client.outbox.send(Body::ExtentsWanted(v1::ExtentsWanted { bytes }));
    }
}
