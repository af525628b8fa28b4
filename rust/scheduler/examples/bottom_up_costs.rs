//! What one decision of the global scheduler costs, as the number of nodes grows:
//! `cargo run --release -p ray-rs-scheduler --example bottom_up_costs`.
//!
//! Nodes have 16 CPUs, every eighth 4 GPUs and every fourth a label; most are busy. Each proposal is followed by what it
//! would bring about, the node's next report, so that sets and promises change all the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ray_rs_scheduler::bottom_up::heartbeat::Encoder;
use ray_rs_scheduler::bottom_up::{GlobalScheduler, NodeReport, Wish};
use ray_rs_types::placing::{LabelRule, Placing, Strategy};
use ray_rs_types::{NodeId, ResourceSet};

const ROUNDS: usize = 20_000;
const BATCH: usize = 50;

fn id(number: usize) -> NodeId {
    let mut id = [0; 28];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId(id)
}

struct Nodes {
    reports: Vec<(Encoder, NodeReport)>,
    global: GlobalScheduler,
    now: Duration,
}

impl Nodes {
    fn new(count: usize) -> Self {
        let mut nodes = Self {
            reports: Vec::new(),
            global: GlobalScheduler::new(1),
            now: Duration::ZERO,
        };
        for number in 0..count {
            let mut total = ResourceSet::new().with("CPU", 16.0).with("memory", 64e9);
            if number % 8 == 0 {
                total = total.with("GPU", 4.0);
            }
            let mut report = NodeReport {
                available: total.clone(),
                total,
                labels: BTreeMap::from([("zone".to_owned(), (number % 4).to_string())]),
                ..NodeReport::default()
            };
            // One in ten has room.
            report.available = report.available.with("CPU", if number % 10 == 0 { 8.0 } else { 0.0 });
            nodes.reports.push((Encoder::new(1), report));
        }
        (0..count).for_each(|number| nodes.report(number, 0.0));
        nodes
    }

    fn report(&mut self, number: usize, cpus: f64) {
        let (encoder, report) = &mut self.reports[number];
        if cpus > 0.0 {
            report.available = report.available.clone().with("CPU", cpus);
        }
        self.global.hear(self.now, id(number), encoder.next(report));
    }

    /// Half of the batches took no longer, a call: whatever else the machine does makes some of them long.
    fn nanoseconds(&mut self, mut act: impl FnMut(&mut Self, usize)) -> u128 {
        let mut batches = vec![Duration::ZERO; ROUNDS / BATCH];
        for round in 0..ROUNDS {
            self.now += Duration::from_micros(100);
            if round % 16 == 0 {
                let number = round * 10 % self.reports.len();
                self.report(number, 4.0 + (round / 16 % 8) as f64);
            }
            let begin = Instant::now();
            act(self, round);
            batches[round / BATCH] += begin.elapsed();
        }
        batches.sort_unstable();
        batches[batches.len() / 2].as_nanos() / BATCH as u128
    }
}

fn main() {
    let cpu = ResourceSet::new().with("CPU", 1.0);
    let gpu = ResourceSet::new().with("CPU", 1.0).with("GPU", 1.0);
    let huge = ResourceSet::new().with("CPU", 64.0);
    let spread = Placing {
        strategy: Strategy::Spread,
        selectors: Vec::new(),
    };
    let zone = Placing {
        strategy: Strategy::Default,
        selectors: vec![vec![LabelRule::is("zone", "3")]],
    };
    println!("nanoseconds a decision");
    println!(
        "{:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9} {:>9}",
        "nodes", "any CPU", "a GPU", "bytes", "SPREAD", "a label", "shorter q.", "never", "heartbeat"
    );
    for count in [100, 500, 1_000, 2_000, 5_000, 10_000] {
        let mut nodes = Nodes::new(count);
        // Shapes that others ask for as well.
        for amount in 1..32 {
            nodes
                .global
                .is_feasible(&ResourceSet::new().with("CPU", f64::from(amount) / 2.0));
        }
        let from = Some(id(1));
        let mut ask = |wish: Wish<'_>| nodes.nanoseconds(|nodes, _| drop(nodes.global.propose(nodes.now, wish)));
        let any = ask(Wish { from, ..Wish::of(&cpu) });
        let of_gpu = ask(Wish { from, ..Wish::of(&gpu) });
        let arguments: Vec<(NodeId, u64)> = (0..4).map(|n| (id(n * count / 4), 100 << 20)).collect();
        let bytes = ask(Wish {
            from,
            arguments: &arguments,
            ..Wish::of(&cpu)
        });
        let spreads = ask(Wish {
            placing: Some(&spread),
            from,
            ..Wish::of(&cpu)
        });
        let labelled = ask(Wish {
            placing: Some(&zone),
            from,
            ..Wish::of(&cpu)
        });
        let shorter = ask(Wish {
            from,
            only_if_free: true,
            wait_here: Some(Duration::from_millis(50)),
            ..Wish::of(&cpu)
        });
        let never = ask(Wish {
            from,
            ..Wish::of(&huge)
        });
        let heartbeat = nodes.nanoseconds(|nodes, round| nodes.report(round % count, (round % 16) as f64));
        println!(
            "{count:>7} {any:>9} {of_gpu:>9} {bytes:>9} {spreads:>9} {labelled:>9} {shorter:>10} {never:>9} {heartbeat:>9}"
        );
    }
}
