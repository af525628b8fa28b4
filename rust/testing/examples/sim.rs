//! Many worlds: `cargo run --release -p ray-rs-testing --example sim -- [how many] [from]`. Stops at the first bad one, and
//! leaves its trace beside it.

use ray_rs_testing::sim::{self, Mutation};

fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|word| word.parse::<u64>().expect("a number"));
    let count = numbers.next().unwrap_or(10_000);
    let from = numbers.next().unwrap_or(0);
    let (mut events, mut tasks, mut crashes) = (0, 0, 0);
    for seed in from..from + count {
        let report = sim::run(seed, Mutation::None);
        events += report.events;
        tasks += report.tasks;
        crashes += u64::from(report.crashes);
    }
    println!("{count} worlds: {events} events, {tasks} tasks, {crashes} crashes");
}
