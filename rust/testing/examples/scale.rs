//! Clusters of thousands of nodes: `cargo run --release -p ray-rs-testing --example scale -- [part] [seed] [nodes] [tasks]`.
//!
//! | part | what it runs |
//! | --- | --- |
//! | `main` | 2,000 nodes and 1,000,000 tasks, a part of which choose their nodes, and placement groups |
//! | `trouble` | the same at a tenth of the size, with nodes that die and leave, replicas that are killed, lost heartbeats |
//! | `growth` | a hundred tasks a node on 100 to 10,000 nodes |
//! | `placement` | 10,000 nodes whose tasks all come from a hundred of them, and 1,000 placement groups |
//! | `all` | all of these |
//! | `small` | so many small worlds with trouble as the second number says, from the seed on, with every invariant checked |

use std::time::Duration;

use ray_rs_testing::scale::{Cost, Options, run};

const GROWTH: [u32; 6] = [100, 500, 1_000, 2_000, 5_000, 10_000];

fn main() {
    let mut words = std::env::args().skip(1);
    let part = words.next().unwrap_or_else(|| "all".to_owned());
    let mut number = |default: u32| words.next().map_or(default, |word| word.parse().expect("a number"));
    let (seed, nodes, tasks) = (u64::from(number(1)), number(2_000), number(1_000_000));
    if part == "small" {
        return small(seed, u64::from(nodes));
    }
    let is_wanted = |name: &str| part == name || part == "all";
    if is_wanted("main") {
        println!("main, seed {seed}: {}\n", run(usual(seed, nodes, tasks)));
    }
    if is_wanted("trouble") {
        let (nodes, tasks) = (nodes / 10, tasks / 10);
        let options = Options {
            replicas: 3,
            deaths: nodes / 40,
            drains: nodes / 40,
            replica_crashes: 6,
            lost_beats_permille: 10,
            load_percent: 80,
            ..usual(seed, nodes, tasks)
        };
        println!("trouble, seed {seed}: {}\n", run(options));
    }
    if is_wanted("growth") {
        growth(seed);
    }
    if is_wanted("placement") {
        let options = Options {
            hot_percent: 100,
            choosy_permille: 0,
            load_percent: 60,
            groups: 1_000,
            ..Options::new(seed, 10_000, 300_000)
        };
        println!("placement, seed {seed}: {}", run(options));
    }
}

fn small(from: u64, count: u64) {
    let (mut tasks, mut again) = (0, 0);
    for seed in from..from + count {
        let figures = run(Options {
            groups: 6,
            replicas: 1 + (seed % 3) as u32,
            deaths: (seed % 5) as u32,
            drains: (seed % 4) as u32,
            replica_crashes: (seed % 6) as u32,
            lost_beats_permille: (seed % 7 * 30) as u32,
            load_percent: 50 + (seed % 8 * 10) as u32,
            checks: true,
            ..Options::new(seed, 10 + (seed % 41) as u32, 600)
        });
        tasks += figures.tasks;
        again += figures.grants + figures.abandoned + figures.failed - figures.tasks;
    }
    println!("{count} worlds from {from}: {tasks} tasks, {again} begun again");
}

fn usual(seed: u64, nodes: u32, tasks: u32) -> Options {
    Options {
        groups: nodes / 10,
        ..Options::new(seed, nodes, tasks)
    }
}

fn growth(seed: u64) {
    println!("growth, seed {seed}: a hundred tasks a node; microseconds of one core a call, milliseconds of the world");
    println!(
        "{:>6} {:>9} {:>9} {:>7} {:>9} {:>9} {:>8} {:>7} {:>8} {:>8} {:>8} {:>8}",
        "nodes",
        "tasks/s",
        "decis./s",
        "local",
        "proposal",
        "heartb.",
        "replica",
        "util.",
        "50 %",
        "99 %",
        "99.9 %",
        "groups"
    );
    for nodes in GROWTH {
        let figures = run(usual(seed, nodes, nodes * 100));
        let us = |cost: &Cost| cost.microseconds();
        let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
        println!(
            "{nodes:>6} {:>9.0} {:>9.0} {:>7.2} {:>9.2} {:>9.2} {:>6.1} % {:>5.1} % {:>8.2} {:>8.1} {:>8.1} {:>8.1}",
            f64::from(figures.tasks) / figures.window.as_secs_f64(),
            figures.decisions_per_second(),
            us(&figures.costs.local),
            us(&figures.costs.proposals),
            us(&figures.costs.heartbeats),
            figures.replica_share() * 100.0,
            figures.utilisation * 100.0,
            ms(figures.waits.permille(500)),
            ms(figures.waits.permille(990)),
            ms(figures.waits.permille(999)),
            us(&figures.costs.groups),
        );
    }
    println!();
}
