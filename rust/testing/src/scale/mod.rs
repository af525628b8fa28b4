//! A cluster of thousands of nodes, from one number: what scheduling costs, how full the nodes are, how long tasks wait.
//!
//! What decides is what decides in the daemons: in each node the local [`Scheduler`](ray_rs_scheduler::Scheduler), the
//! [`Forwarder`](ray_rs_scheduler::bottom_up::forward::Forwarder) that sends requests away, and the encoders of its
//! heartbeats; beside them replicas of the [`GlobalScheduler`](ray_rs_scheduler::bottom_up::GlobalScheduler), and the control
//! store's [`GroupTable`](ray_rs_scheduler::placement_group::GroupTable). What stands around them is played: links that
//! delay, clients that ask for a lease for each of their tasks and give it back when it has run, worker processes that take
//! a while to start; and, where that is asked for, nodes that die or leave, replicas that are killed, and heartbeats that are lost.
//!
//! Each task asks for a lease of its own, which is the most that tasks can ask of schedulers: an owner with many equal ones
//! keeps its leases from one to the next.
//!
//! What must hold, whatever happens:
//! * each task whose owner lives runs to its end once, or fails because it can never run; none is lost, none hangs;
//! * none is granted on a node that cannot have it or that it did not want, and what is proposed is no node that its replica
//!   knows to be gone;
//! * at the end no lease is held, nothing waits, and all resources are there again.
//!
//! The figures that come out depend on the number alone, but for those of time of the processor, which say what a decision
//! costs on the machine that ran it.

mod costs;
mod events;
mod figures;
mod groups;
mod node;
mod owners;
mod raylets;
mod replica;
mod trouble;
mod workload;
mod world;

pub use costs::{Cost, Costs};
pub use figures::Figures;
pub use world::World;

use std::time::Duration;

use ray_rs_scheduler::bottom_up::forward::Rules;

/// What a world is like.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub nodes: u32,
    pub tasks: u32,
    /// Of the global scheduler.
    pub replicas: u32,
    /// Work that is offered, in percent of what all CPUs can do.
    pub load_percent: u32,
    /// So many tasks of a hundred are made on one node of a hundred, which therefore cannot serve them all.
    pub hot_percent: u32,
    /// So many tasks of a thousand name nodes, or have arguments that are worth a journey.
    pub choosy_permille: u32,
    /// All tasks ask for CPUs only, which each node has.
    pub plain: bool,
    /// Placement groups, of four bundles each, that come and go meanwhile.
    pub groups: u32,
    /// Nodes that die.
    pub deaths: u32,
    /// Nodes that take nothing new from some moment on.
    pub drains: u32,
    /// Times that a replica is killed, to come back empty a second later.
    pub replica_crashes: u32,
    /// So many heartbeats of a thousand are lost.
    pub lost_beats_permille: u32,
    /// The invariants of all machines are checked after each event: for small worlds.
    pub checks: bool,
    pub rules: Rules,
}

impl Options {
    /// Nothing goes wrong, and nine tenths of all CPUs have something to do.
    pub fn new(seed: u64, nodes: u32, tasks: u32) -> Self {
        Self {
            seed,
            nodes,
            tasks,
            replicas: 2,
            load_percent: 90,
            hot_percent: 30,
            choosy_permille: 100,
            plain: false,
            groups: 0,
            deaths: 0,
            drains: 0,
            replica_crashes: 0,
            lost_beats_permille: 0,
            checks: false,
            rules: Rules::default(),
        }
    }
}

/// Runs a world to its end.
///
/// # Panics
/// With the seed and what is wrong.
pub fn run(options: Options) -> Figures {
    let mut world = World::new(options);
    world.run();
    world.check_end();
    world.into_figures()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}
