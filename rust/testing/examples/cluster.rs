//! Many clusters: `cargo run --release -p ray-rs-testing --example cluster -- [how many] [from]`. Each is a number; the bad ones
//! are named, with what is wrong.
//!
//! `cluster -- trace NUMBER` prints all that happens in one. `cluster -- mutations [how many]` says in how many worlds each
//! thing that is broken on purpose is noticed.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::time::Instant;

use ray_rs_testing::cluster::{self, Mutation, Options, Program};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u64| words.get(at).map_or(otherwise, |word| word.parse().expect("a number"));
    match words.first().map(String::as_str) {
        Some("trace") => trace(number(1, 0)),
        Some("mutations") => mutations(number(1, 2000)),
        _ => many(number(0, 10_000), number(1, 0)),
    }
}

fn trace(seed: u64) {
    let mut options = Options::of_seed(seed, Mutation::None);
    options.traced = true;
    options.echoed = true;
    let program = Program::random(seed);
    println!("{program:#?}\n{options:#?}");
    cluster::run_program(program, options);
}

fn mutations(count: u64) {
    std::panic::set_hook(Box::new(|_| {}));
    for mutation in Mutation::ALL {
        let noticed = (0..count).filter(|seed| catch_unwind(|| cluster::run(*seed, mutation)).is_err());
        println!("{mutation:?}: noticed in {} of {count}", noticed.count());
    }
}

fn many(count: u64, from: u64) {
    let began = Instant::now();
    let (mut events, mut calls, mut bad) = (0, 0, 0);
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in from..from + count {
        let Ok(report) = catch_unwind(|| cluster::run(seed, Mutation::None)) else {
            bad += 1;
            continue;
        };
        events += report.events;
        calls += report.calls;
        for (fault, times) in report.faults {
            *faults.entry(fault).or_default() += u64::from(times);
        }
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    println!("{count} clusters, {rate:.0} per second: {events} events, {calls} calls, {faults:?}; {bad} bad");
    if bad > 0 {
        std::process::exit(1);
    }
}
