//! Whom to end. Assumes that whatever runs longest is worth most, and that one owner's many tasks are alike.

use std::cmp::Reverse;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{WorkerRole, WorkerUse};
use crate::event::{ClientKey, WorkerKey};

/// Ending a worker that has less than this part of the limit helps nobody.
const NEGLIGIBLE_PART: u64 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Group {
    Owner(ClientKey),
    /// What cannot be run again, and actors, are a group each.
    Single(WorkerKey),
}

struct Candidate {
    worker: WorkerKey,
    group: Group,
    retriable: bool,
    since: Duration,
}

/// The worker to end, and whether what it runs may be tried again (MEM-2, MEM-3).
pub(super) fn choose(workers: &[WorkerUse], limit_bytes: u64) -> Option<(WorkerKey, bool)> {
    let running = workers.iter().filter(|one| !matches!(one.role, WorkerRole::Idle));
    let is_alone = running.clone().count() == 1;
    let weighty = running.clone().filter(|one| one.bytes >= limit_bytes / NEGLIGIBLE_PART);
    let mut candidates: Vec<Candidate> = weighty.filter_map(candidate).collect();
    if candidates.is_empty() {
        candidates = running.filter_map(candidate).collect();
    }
    let mut sizes: FxHashMap<Group, (usize, Duration)> = FxHashMap::default();
    for one in &candidates {
        let (size, oldest) = sizes.entry(one.group).or_insert((0, one.since));
        *size += 1;
        *oldest = (*oldest).min(one.since);
    }
    let chosen = candidates.iter().max_by_key(|one| {
        let (size, oldest) = sizes[&one.group];
        (one.retriable, size, oldest, one.since, Reverse(one.worker))
    })?;
    Some((chosen.worker, chosen.retriable && !is_alone))
}

fn candidate(one: &WorkerUse) -> Option<Candidate> {
    let single = Group::Single(one.worker);
    let (group, retriable, since) = match one.role {
        WorkerRole::Idle => return None,
        WorkerRole::Task {
            owner,
            since,
            retriable,
            ..
        } => (if retriable { Group::Owner(owner) } else { single }, retriable, since),
        WorkerRole::Actor { since, restartable } => (single, restartable, since),
    };
    Some(Candidate {
        worker: one.worker,
        group,
        retriable,
        since,
    })
}
