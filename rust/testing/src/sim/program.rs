//! Random programs: functions that call functions further down the list, and pass references about.
//!
//! A function's variables are references, in the order in which it came by them. An operation names one by a number, taken
//! modulo how many there are; a variable that was dropped is skipped.

use crate::rng::Rng;

/// One step of a function.
#[derive(Debug, Clone)]
pub enum Op {
    /// Computes for so many microseconds.
    Work(u64),
    /// Calls a function: `deps` are arguments themselves, `nested` lie inside one. Its return is a new variable.
    Call {
        function: usize,
        deps: Vec<usize>,
        nested: Vec<usize>,
    },
    /// Puts a value that holds references; a new variable.
    Put {
        holds: Vec<usize>,
    },
    /// Takes the value in, and the references in it as new variables.
    Get(usize),
    Drop(usize),
}

/// What a task does. It returns a number that depends on all it saw, and some of its references.
#[derive(Debug, Clone)]
pub struct Function {
    pub ops: Vec<Op>,
    pub returns: Vec<usize>,
    /// -1: for ever.
    pub max_retries: i32,
    /// CPUs, times two.
    pub half_cpus: u32,
}

/// The first function is the driver's.
#[derive(Debug, Clone)]
pub struct Program {
    pub functions: Vec<Function>,
}

impl Program {
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5157_0001);
        let count = 2 + rng.below(5) as usize;
        let functions = (0..count).map(|index| function(&mut rng, index, count)).collect();
        Self { functions }
    }
}

fn picks(rng: &mut Rng, most: u64) -> Vec<usize> {
    (0..rng.below(most + 1)).map(|_| rng.below(8) as usize).collect()
}

fn function(rng: &mut Rng, index: usize, count: usize) -> Function {
    let is_driver = index == 0;
    let steps = if is_driver { 4 + rng.below(14) } else { rng.below(6) };
    let mut ops = Vec::new();
    let mut calls = 0;
    for _ in 0..steps {
        let may_call = index + 1 < count && (is_driver || calls < 2);
        ops.push(match rng.below(10) {
            0..=4 if may_call => {
                calls += 1;
                let function = index + 1 + rng.below((count - index - 1) as u64) as usize;
                Op::Call {
                    function,
                    deps: picks(rng, 2),
                    nested: picks(rng, 2),
                }
            }
            5 => Op::Put { holds: picks(rng, 2) },
            6 | 7 => Op::Get(rng.below(8) as usize),
            8 => Op::Drop(rng.below(8) as usize),
            _ => Op::Work(match rng.below(3) {
                0 => 1 + rng.below(50),
                1 => 100 + rng.below(3000),
                _ => 5000 + rng.below(20_000),
            }),
        });
    }
    Function {
        ops,
        returns: picks(rng, 2),
        max_retries: if rng.chance(85) { -1 } else { rng.below(2) as i32 },
        half_cpus: if rng.chance(80) { 2 } else { 1 },
    }
}
