//! A cluster, from one number: several nodes, drivers, actors (durable ones among them), the control store and its disk. [`run`]
//! makes a random program, runs it in a world in which things go wrong, and holds what comes out against a model that runs
//! each actor's calls one after another.
//!
//! What decides is what decides in the daemons: the control store's tables as they are ([`ray_rs_gcs::stepped`]), with the
//! life cycle of actors, the stored calls of durable ones and the recovery from a disk; each caller's order of calls and
//! numbers, and the calls of a durable actor's process ([`ray_rs_actors`]); each node's scheduler and tenure
//! ([`ray_rs_scheduler`]). What stands around them here does what raylet and core worker do.
//!
//! | module | what it is |
//! | --- | --- |
//! | `program`, `options` | what the drivers do, and what goes wrong: both from the number |
//! | `world` | the clock, links and processes; carries faults out |
//! | `node`, `host`, `driver` | a raylet, a worker that hosts an actor, a driver |
//! | `disk` | what the control store has written and flushed |
//! | `oracle` | what has happened, and whether it may have |
//!
//! Messages of one stream keep their order and are lost only with all that follow on it. Calls to the control store may be
//! lost, answered in vain, late or doubled. After each event the `check_invariants` of the machine that was told hold.
//!
//! Deliberately absent, so far: tasks and their objects (see [`crate::sim`], of one node), placement groups, drained nodes.

mod disk;
mod driver;
mod host;
mod messages;
mod node;
mod options;
mod oracle;
mod program;
mod world;

pub use options::{Mutation, Options};
pub use program::{ActorPlan, Op, Program};
pub use world::Report;

/// Runs the world of `seed`.
///
/// # Panics
/// With the seed and what is wrong.
pub fn run(seed: u64, mutation: Mutation) -> Report {
    run_program(Program::random(seed), Options::of_seed(seed, mutation))
}

/// Runs a given program.
///
/// # Panics
/// As [`run`].
pub fn run_program(program: Program, options: Options) -> Report {
    let mut world = world::World::new(program, options);
    world.run();
    world.into_report()
}
