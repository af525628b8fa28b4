//! What goes wrong in a world, from its number.

use std::time::Duration;

use crate::rng::Rng;

/// Something is broken on purpose: worlds must notice. Each drops one effect of a machine, or turns one check round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    None,
    /// Effect dropped: `StopWorker` of the life cycle.
    StopsAreLost,
    /// Effect dropped: `Persist` of the life cycle. What is decided about actors is not stored.
    DecisionsAreNotStored,
    /// Effect dropped: `Halt` of the tenure. A node that is cut off goes on working.
    NodesThatAreCutOffGoOn,
    /// Effect dropped: `Commit` of the durable actor: it is taken for stored.
    CommitsAreTakenForStored,
    /// Effect dropped: the order to send the call again after a restart.
    CallsAreNotSentAgain,
    /// Effect dropped: the report of what a node has when it comes back.
    NodesComeBackInSilence,
    /// Effect dropped: a checkpoint's answers, of which callers may not have heard.
    CheckpointsForgetAnswers,
    /// Check inverted: a call that is part of the state already is executed again.
    CallsRunAgain,
    /// Check inverted: a commit of a process that is not the actor's any more is taken.
    RefusalsAreIgnored,
    /// Check inverted: answers leave before what they follow from is durable.
    AnswersLeaveEarly,
    /// Check inverted: a node that is refused, as it was declared dead, takes that for leave to go on.
    RefusedNodesGoOn,
}

impl Mutation {
    /// All but `None`.
    pub const ALL: [Self; 11] = [
        Self::StopsAreLost,
        Self::DecisionsAreNotStored,
        Self::NodesThatAreCutOffGoOn,
        Self::CommitsAreTakenForStored,
        Self::CallsAreNotSentAgain,
        Self::NodesComeBackInSilence,
        Self::CheckpointsForgetAnswers,
        Self::CallsRunAgain,
        Self::RefusalsAreIgnored,
        Self::AnswersLeaveEarly,
        Self::RefusedNodesGoOn,
    ];
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Some worker is killed.
    WorkerDies,
    /// A driver is killed.
    DriverDies,
    /// A node, with all that runs there. Never the head.
    NodeDies,
    /// The control store; it is started again after so long. Of what it has not flushed, perhaps some was.
    GcsDies {
        away: Duration,
    },
    /// The channel of a node breaks.
    ChannelBreaks,
    /// Nothing gets to a node, or from it, for so long.
    Cut {
        lasts: Duration,
    },
    /// All processes of a node stand still.
    NodeFreezes {
        lasts: Duration,
    },
    GcsFreezes {
        lasts: Duration,
    },
    /// The disk takes nothing.
    DiskFails {
        lasts: Duration,
    },
    /// The wall clock of the control store's machine is set.
    ClockJumps {
        by_ms: i64,
    },
}

#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub mutation: Mutation,
    pub nodes: usize,
    /// With their moments.
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// Of a hundred calls to the control store, so many are lost, answered in vain, late or doubled.
    pub faulty_calls: u64,
    /// Of a hundred messages on nodes' channels, so many come twice.
    pub doubled_messages: u64,
    /// Of a hundred worker starts, so many fail.
    pub failing_starts: u64,
    /// Whether all that happens is written down.
    pub traced: bool,
    /// And printed at once.
    pub echoed: bool,
}

impl Options {
    pub fn of_seed(seed: u64, mutation: Mutation) -> Self {
        let mut rng = Rng::new(seed ^ 0xfa17);
        // One world of five is peaceful.
        let count = if rng.chance(20) { 0 } else { 1 + rng.below(6) };
        let faults = (0..count).map(|_| {
            let at = Duration::from_micros(match rng.below(3) {
                0 => rng.below(20_000),
                1 => rng.below(300_000),
                _ => rng.below(2_000_000),
            });
            (at, fault(&mut rng))
        });
        let faults = faults.collect();
        let is_rough = count > 0 && rng.chance(50);
        Self {
            seed,
            mutation,
            nodes: 1 + rng.below(4) as usize,
            faults,
            faulty_calls: if is_rough { 5 + rng.below(20) } else { 0 },
            doubled_messages: if is_rough { rng.below(10) } else { 0 },
            failing_starts: if rng.chance(15) { 10 } else { 0 },
            traced: false,
            echoed: false,
        }
    }
}

fn fault(rng: &mut Rng) -> Fault {
    let ms = Duration::from_millis;
    match rng.below(22) {
        0..=4 => Fault::WorkerDies,
        5 => Fault::DriverDies,
        6 | 7 => Fault::NodeDies,
        8..=11 => Fault::GcsDies {
            away: ms(if rng.chance(80) {
                20 + rng.below(500)
            } else {
                1000 + rng.below(6000)
            }),
        },
        12 | 13 => Fault::ChannelBreaks,
        14..=16 => Fault::Cut {
            lasts: ms(if rng.chance(50) {
                rng.below(5000)
            } else {
                6000 + rng.below(10_000)
            }),
        },
        17 => Fault::NodeFreezes {
            lasts: ms(rng.below(1500)),
        },
        18 => Fault::GcsFreezes {
            lasts: ms(if rng.chance(50) {
                rng.below(1000)
            } else {
                rng.below(15_000)
            }),
        },
        19 | 20 => Fault::DiskFails {
            lasts: ms(rng.below(3000)),
        },
        _ => Fault::ClockJumps {
            by_ms: rng.below(7_200_000) as i64 - 3_600_000,
        },
    }
}
