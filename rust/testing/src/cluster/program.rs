//! Random programs: drivers that make actors, call them, kill them, and keep things in the control store.

use crate::rng::Rng;

/// What an actor is like; fixed when it is made.
#[derive(Debug, Clone)]
pub struct ActorPlan {
    /// The driver that makes it.
    pub creator: usize,
    /// Whether others can find it.
    pub named: bool,
    pub detached: bool,
    pub max_restarts: i32,
    /// Of its calls.
    pub max_task_retries: i32,
    /// Checkpoint after so many calls; 0: it is not durable.
    pub checkpoint_every: u32,
    /// And after so many milliseconds; 0: never.
    pub checkpoint_interval_ms: u64,
    /// Of a hundred checkpoints, so many fail.
    pub failing_checkpoints: u64,
    /// Its constructor raises.
    pub broken: bool,
}

impl ActorPlan {
    pub fn is_durable(&self) -> bool {
        self.checkpoint_every > 0
    }
}

/// One step of a driver. Actors are named by their place in the plan.
#[derive(Debug, Clone)]
pub enum Op {
    Create(usize),
    /// Calls an actor; the call takes so many microseconds.
    Call {
        actor: usize,
        work: u64,
    },
    /// Until all its calls have ended.
    Wait,
    Work(u64),
    Kill {
        actor: usize,
        no_restart: bool,
    },
    /// The creator has no use for it any more.
    Drop(usize),
    /// Keeps a value under one of the driver's own keys.
    Put {
        key: u8,
        value: u64,
    },
    Get {
        key: u8,
    },
}

#[derive(Debug, Clone)]
pub struct Program {
    pub actors: Vec<ActorPlan>,
    /// Of each driver.
    pub drivers: Vec<Vec<Op>>,
}

impl Program {
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0c1a_57e5);
        let drivers = 1 + rng.below(3) as usize;
        let count = 1 + rng.below(4) as usize;
        let actors: Vec<ActorPlan> = (0..count).map(|_| plan(&mut rng, drivers)).collect();
        let drivers = (0..drivers).map(|index| ops(&mut rng, index, &actors)).collect();
        Self { actors, drivers }
    }
}

fn plan(rng: &mut Rng, drivers: usize) -> ActorPlan {
    let durable = rng.chance(55);
    let max_restarts = match rng.below(4) {
        0 => 0,
        1 => 1 + rng.below(2) as i32,
        _ => -1,
    };
    ActorPlan {
        creator: rng.below(drivers as u64) as usize,
        named: rng.chance(70),
        detached: rng.chance(40),
        max_restarts,
        max_task_retries: [0, 0, 1, -1][rng.below(4) as usize],
        checkpoint_every: if durable {
            [1, 2, 3, 8, 100][rng.below(5) as usize]
        } else {
            0
        },
        checkpoint_interval_ms: if rng.chance(30) { 1 + rng.below(50) } else { 0 },
        failing_checkpoints: if rng.chance(15) { 20 } else { 0 },
        broken: rng.chance(5),
    }
}

fn ops(rng: &mut Rng, driver: usize, actors: &[ActorPlan]) -> Vec<Op> {
    let mine: Vec<usize> = (0..actors.len())
        .filter(|index| actors[*index].creator == driver)
        .collect();
    let mut usable: Vec<usize> = (0..actors.len())
        .filter(|index| actors[*index].named && actors[*index].creator != driver)
        .collect();
    let mut ops = Vec::new();
    let mut unmade = mine.clone();
    for _ in 0..6 + rng.below(22) {
        let some = |rng: &mut Rng, of: &[usize]| of[rng.below(of.len() as u64) as usize];
        ops.push(match rng.below(24) {
            0..=3 if !unmade.is_empty() => {
                let actor = unmade.remove(0);
                usable.push(actor);
                Op::Create(actor)
            }
            4 => Op::Wait,
            5..=7 => Op::Work(match rng.below(3) {
                0 => rng.below(500),
                1 => rng.below(20_000),
                _ => rng.below(400_000),
            }),
            8 if rng.chance(40) && !usable.is_empty() => Op::Kill {
                actor: some(rng, &usable),
                no_restart: rng.chance(30),
            },
            9 if rng.chance(30) && !mine.is_empty() => Op::Drop(some(rng, &mine)),
            10 | 11 => Op::Put {
                key: rng.below(3) as u8,
                value: rng.next(),
            },
            12 => Op::Get {
                key: rng.below(3) as u8,
            },
            _ if !usable.is_empty() => Op::Call {
                actor: some(rng, &usable),
                work: if rng.chance(80) {
                    rng.below(300)
                } else {
                    rng.below(30_000)
                },
            },
            _ => Op::Work(rng.below(2000)),
        });
    }
    ops.push(Op::Wait);
    ops.extend((0..3).map(|key| Op::Get { key }));
    ops
}
