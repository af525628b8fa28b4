//! What is due when. A timer that has lost its purpose is not cancelled: whoever handles it looks whether it has one.

use std::collections::BTreeMap;
use std::time::Instant;

use ray_rs_scheduler::PoolKey;
use ray_rs_types::WorkerId;

use crate::input::{ConnKey, Token};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A worker was ordered and has not registered.
    StartOverdue(Token),
    /// A worker was asked to leave, or has closed its socket, and should be gone.
    MustBeGone(Token),
    /// A worker's process has ended, yet a child of its holds its socket open.
    SocketOutlives(Token),
    /// A worker's exit status has not come.
    StatusOverdue(Token),
    /// A driver has waited long enough for its first worker.
    RegistrationOverdue(ConnKey),
    /// A driver has waited long enough for the control store.
    RegistrationFailed(ConnKey),
    /// Who asked why a process died has waited long enough.
    ReasonOverdue(WorkerId),
    /// An environment had no worker left, when it had been used so often.
    EnvironmentUnused(PoolKey, u64),
    /// An orphan that may belong to a job that has ended did not show where it comes from.
    LookAtOrphans,
    /// Workers were asked what they run, and not all have said.
    AnswersOverdue,
    /// A round of questions to all processes has run long enough.
    DescriptionsOverdue(u64),
    /// The same of a round of questions to all nodes.
    NodesOverdue(u64),
    /// The pause between two such rounds is over.
    AskNodes,
    /// Something that waits may be better off elsewhere by now.
    LookRound,
    /// A request that was turned away may be made again.
    ComeAgain(ConnKey, u64),
    /// What a process has shared that is dead, and nobody has adopted, goes: by its mark in the blocks.
    OrphansUnclaimed(u64),
    /// What changed since the last heartbeat is told.
    Heartbeat,
    /// A node that drains leaves whatever still runs.
    DrainOverdue,
    /// The last value of a node at rest may be gone.
    LookWhetherIdle,
    /// The control store is asked whether it hears this node.
    AskWhetherHeard,
    /// The control store's process has ended: another is started.
    StartGcs,
    /// The control store has been away for so long that people should know.
    GcsStaysAway,
    /// A cluster whose control store stays away so long is over.
    AloneTooLong,
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeMap<(Instant, u64), Timer>,
    next: u64,
}

impl Timers {
    pub fn set(&mut self, when: Instant, timer: Timer) {
        self.next += 1;
        self.due.insert((when, self.next), timer);
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((when, _), _)| *when)
    }

    pub fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let entry = self.due.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
