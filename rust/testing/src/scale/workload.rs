//! Nodes and tasks, each from the seed and its number.

use std::collections::BTreeMap;
use std::time::Duration;

use ray_rs_types::placing::{LabelRule, Placing, Strategy};
use ray_rs_types::resources::{CPU, GPU, MEMORY};
use ray_rs_types::{NodeId, ResourceSet};

use super::{Options, us};
use crate::rng::{Rng, mixed};

const CPUS: u32 = 16;
const GPUS: u32 = 4;
/// One node of so many has GPUs.
const GPU_NODES: u32 = 8;
/// One node of so many has the resource `special`.
const SPECIAL_NODES: u32 = 50;
pub(super) const ZONES: u32 = 4;
const ZONE: &str = "zone";
pub(super) const ARGUMENT_BYTES: u64 = 100 << 20;
/// Of a thousand tasks, how many are of each shape of [`shapes`].
const SHAPE_SHARES: [u64; 6] = [730, 100, 100, 30, 30, 10];

/// The first of them ask for CPUs only.
const PLAIN_SHAPES: usize = 3;

fn shapes() -> [ResourceSet; 6] {
    let cpus = |cpus: f64| ResourceSet::new().with(CPU, cpus);
    [
        cpus(1.0),
        cpus(2.0),
        cpus(0.5),
        cpus(1.0).with(GPU, 1.0),
        cpus(4.0).with(MEMORY, 8e9),
        cpus(1.0).with("special", 1.0),
    ]
}

pub(super) fn id_of(node: u32) -> NodeId {
    let mut id = [0; 28];
    id[..4].copy_from_slice(&node.to_be_bytes());
    NodeId(id)
}

pub(super) fn number_of(id: NodeId) -> u32 {
    let (number, _) = id.0.split_first_chunk::<4>().expect("ids are longer");
    u32::from_be_bytes(*number)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    Anywhere,
    Spread,
    Node {
        node: u32,
        soft: bool,
    },
    Zone(u32),
    /// Its argument is on that node.
    Argument(u32),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
    /// The node of its owner.
    pub home: u32,
    pub shape: usize,
    pub runs: Duration,
    pub wants: Wants,
}

#[derive(Debug)]
pub(super) struct Workload {
    seed: u64,
    nodes: u32,
    hot_percent: u64,
    choosy_permille: u64,
    plain: bool,
    pub shapes: [ResourceSet; 6],
    /// Between two tasks, on average.
    pub pause: Duration,
    pub cpus: f64,
}

impl Workload {
    pub fn new(options: &Options) -> Self {
        let mut workload = Self {
            seed: options.seed,
            nodes: options.nodes,
            hot_percent: u64::from(options.hot_percent),
            choosy_permille: u64::from(options.choosy_permille),
            plain: options.plain,
            shapes: shapes(),
            pause: Duration::ZERO,
            cpus: f64::from(options.nodes * CPUS),
        };
        // The work of a sample says how fast tasks have to come.
        let sample = 10_000;
        let work: f64 = (0..sample).map(|number| workload.work(&workload.task(number))).sum();
        let offered = workload.cpus * f64::from(options.load_percent) / 100.0;
        workload.pause = Duration::from_secs_f64(work / f64::from(sample) / offered);
        workload
    }

    /// Seconds of CPUs.
    pub fn work(&self, task: &Task) -> f64 {
        self.cpus_of(task) * task.runs.as_secs_f64()
    }

    pub fn cpus_of(&self, task: &Task) -> f64 {
        self.shapes[task.shape].get(CPU).to_f64()
    }

    pub fn resources_of(&self, node: u32) -> ResourceSet {
        let mut total = ResourceSet::new().with(CPU, f64::from(CPUS)).with(MEMORY, 64e9);
        if node.is_multiple_of(GPU_NODES) {
            total = total.with(GPU, f64::from(GPUS));
        }
        if node.is_multiple_of(SPECIAL_NODES) {
            total = total.with("special", 8.0);
        }
        total
    }

    pub fn labels_of(&self, node: u32) -> BTreeMap<String, String> {
        BTreeMap::from([(ZONE.to_owned(), (node % ZONES).to_string())])
    }

    pub fn task(&self, number: u32) -> Task {
        let mut rng = Rng::new(mixed(self.seed, u64::from(number)));
        let any_node = |rng: &mut Rng| rng.below(u64::from(self.nodes)) as u32;
        let home = match rng.chance(self.hot_percent) {
            true => rng.below(u64::from(self.nodes.div_ceil(100))) as u32 * 100,
            false => any_node(&mut rng),
        };
        let runs = match rng.below(100) {
            0..=79 => us(50_000 + rng.below(300_000)),
            80..=94 => us(5_000 + rng.below(15_000)),
            _ => us(1_000_000 + rng.below(2_000_000)),
        };
        let mut shape = 0;
        let mut share = rng.below(SHAPE_SHARES.iter().sum());
        while share >= SHAPE_SHARES[shape] {
            share -= SHAPE_SHARES[shape];
            shape += 1;
        }
        let is_plain = shape < PLAIN_SHAPES;
        if self.plain && !is_plain {
            shape = 0;
        }
        let wants = match rng.below(1000) < self.choosy_permille {
            false => Wants::Anywhere,
            true => match rng.below(10) {
                0..=2 => Wants::Spread,
                3 if is_plain => Wants::Node {
                    node: any_node(&mut rng),
                    soft: false,
                },
                4 if is_plain => Wants::Node {
                    node: any_node(&mut rng),
                    soft: true,
                },
                5 if is_plain => Wants::Zone(rng.below(u64::from(ZONES)) as u32),
                _ => Wants::Argument(any_node(&mut rng)),
            },
        };
        Task {
            home: home.min(self.nodes - 1),
            shape,
            runs,
            wants,
        }
    }
}

impl Task {
    pub fn placing(&self) -> Option<Placing> {
        let of = |strategy| {
            Some(Placing {
                strategy,
                selectors: Vec::new(),
            })
        };
        match self.wants {
            Wants::Anywhere | Wants::Argument(_) => None,
            Wants::Spread => of(Strategy::Spread),
            Wants::Node { node, soft } => of(Strategy::NodeAffinity {
                node: id_of(node),
                soft,
                spill_on_unavailable: false,
                fail_on_unavailable: false,
            }),
            Wants::Zone(zone) => Some(Placing {
                strategy: Strategy::Default,
                selectors: vec![vec![LabelRule::is(ZONE, &zone.to_string())]],
            }),
        }
    }

    pub fn arguments(&self) -> Vec<(NodeId, u64)> {
        match self.wants {
            Wants::Argument(node) => vec![(id_of(node), ARGUMENT_BYTES)],
            Wants::Anywhere | Wants::Spread | Wants::Node { .. } | Wants::Zone(_) => Vec::new(),
        }
    }

    /// Whether it may run there, by what it says.
    pub fn accepts(&self, node: u32) -> bool {
        match self.wants {
            Wants::Node { node: named, soft } => soft || named == node,
            Wants::Zone(zone) => node % ZONES == zone,
            Wants::Anywhere | Wants::Spread | Wants::Argument(_) => true,
        }
    }
}
