//! One node, from one number. [`run`] makes a random program, runs it in a [`World`](world::World) and holds what comes out
//! against what the program gives when it is run by itself, one call after another.
//!
//! What must hold at the end, whatever happened on the way:
//! * every `get` gave the right value, or an error that the world's crashes explain;
//! * without crashes each task began once; with them, once more for each time that its worker died after it had begun;
//! * nothing hangs: virtual time is limited, and when nothing is to happen any more, everything has ended;
//! * no process knows a reference or a task any more, no lease is held, no resource is taken.
//!
//! And after each event, the `check_invariants` of the crate that was told.

mod frame;
mod messages;
mod oracle;
mod process;
mod program;
mod raylet;
mod world;

pub use messages::Msg;
pub use program::{Function, Op, Program};
pub use world::{Mutation, Options, Report, World};

/// Runs the world of `seed`.
///
/// # Panics
/// With the seed and what is wrong.
pub fn run(seed: u64, mutation: Mutation) -> Report {
    let options = Options::of_seed(seed, mutation);
    let program = Program::random(seed);
    run_program(program, options)
}

/// Runs a given program.
///
/// # Panics
/// As [`run`].
pub fn run_program(program: Program, options: Options) -> Report {
    let expected = oracle::result_of(&program);
    let mut world = World::new(program, options);
    world.run();
    world.check_end(&expected);
    world.into_report()
}
