//! The clock, the links, and all that is there.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use ray_rs_scheduler::Event as NodeEvent;
use ray_rs_scheduler::bottom_up::heartbeat::Heard;
use ray_rs_scheduler::placement_group::Event as GroupEvent;

use super::costs::cpu_time;
use super::events::{Due, Event, Record, State};
use super::figures::Figures;
use super::groups::Groups;
use super::node::{Node, Order};
use super::replica::Replica;
use super::trouble;
use super::workload::{Workload, id_of};
use super::{Options, us};
use crate::rng::{Rng, mixed};

/// Everything is up before the first task comes.
pub(super) const BEGIN: Duration = Duration::from_millis(500);
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Nothing waits for so long after the last task has come.
const PATIENCE: Duration = Duration::from_secs(300);

pub struct World {
    pub(super) options: Options,
    pub(super) workload: Workload,
    pub(super) now: Duration,
    pub(super) last: u64,
    pub(super) due: BinaryHeap<Reverse<Due>>,
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Node>,
    pub(super) replicas: Vec<Replica>,
    pub(super) groups: Groups,
    pub(super) records: Vec<Record>,
    pub(super) next_task: u32,
    /// Tasks of which nothing more is to come.
    pub(super) ended: u32,
    /// When the next look of each node is due.
    pub(super) ticks: Vec<Option<Duration>>,
    /// When each node's last heartbeat left, and whether the next is due.
    pub(super) beats: Vec<(Duration, bool)>,
    /// When each node's last heartbeat reaches each replica: what is sent later does not come sooner.
    pub(super) links: Vec<Duration>,
    pub(super) cpus_in_use: f64,
    pub(super) used: f64,
    pub(super) counted_upto: Duration,
    pub(super) figures: Figures,
    pub(super) orders: Vec<Order>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World({:?} at {:?})", self.options, self.now)
    }
}

impl World {
    pub fn new(options: Options) -> Self {
        let workload = Workload::new(&options);
        let window = workload.pause * options.tasks;
        let new_node = |number| Node::new(number, options.replicas, &workload, &options.rules);
        let record = Record {
            called: Duration::ZERO,
            at: 0,
            state: State::NotYet,
            hops: 0,
            attempt: 0,
        };
        let replica = |number: u32| Replica::new(mixed(options.seed, u64::from(number)), options.nodes);
        let mut world = Self {
            now: Duration::ZERO,
            last: 0,
            due: BinaryHeap::new(),
            rng: Rng::new(options.seed),
            nodes: (0..options.nodes).map(new_node).collect(),
            replicas: (0..options.replicas).map(replica).collect(),
            groups: Groups::default(),
            records: vec![record; options.tasks as usize],
            next_task: 0,
            ended: 0,
            ticks: vec![None; options.nodes as usize],
            beats: vec![(Duration::ZERO, false); options.nodes as usize],
            links: vec![Duration::ZERO; (options.nodes * options.replicas) as usize],
            cpus_in_use: 0.0,
            used: 0.0,
            counted_upto: Duration::ZERO,
            figures: Figures {
                nodes: options.nodes,
                tasks: options.tasks,
                window,
                ..Figures::default()
            },
            orders: Vec::new(),
            options,
            workload,
        };
        world.begin(window);
        world
    }

    pub(super) fn begin(&mut self, window: Duration) {
        for node in 0..self.options.nodes {
            let came = GroupEvent::NodeCame {
                node: id_of(node),
                total: self.workload.resources_of(node),
                labels: self.workload.labels_of(node),
                held: Vec::new(),
            };
            self.table_hears(came);
            let mut orders = std::mem::take(&mut self.orders);
            self.nodes[node as usize].start(self.now, &mut self.figures.costs, &mut orders);
            self.orders = orders;
            self.obey(node);
            self.beat(node);
            let first = SIGN_OF_LIFE.mul_f64(f64::from(node) / f64::from(self.options.nodes));
            self.schedule(SIGN_OF_LIFE + first, Event::SignOfLife { node });
        }
        if self.options.tasks > 0 {
            self.schedule(BEGIN, Event::Arrival);
        }
        // Groups that are still to be asked for are left, too.
        self.groups.left = self.options.groups;
        for number in 0..self.options.groups {
            let at = BEGIN + window.mul_f64(f64::from(number) / f64::from(self.options.groups));
            self.schedule(at, Event::GroupWanted(number));
        }
        for (at, trouble) in trouble::plan(&self.options, window) {
            self.schedule(BEGIN + at, Event::Trouble(trouble));
        }
        self.counted_upto = BEGIN;
    }

    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        self.last += 1;
        self.due.push(Reverse(Due {
            at: self.now + after,
            number: self.last,
            event,
        }));
    }

    /// From one process to another on the same node.
    pub(super) fn local(&mut self) -> Duration {
        us(15 + self.rng.below(15))
    }

    /// From one node to another.
    pub(super) fn link(&mut self) -> Duration {
        us(match self.rng.below(100) {
            0 => 2_000,
            _ => 100 + self.rng.below(200),
        })
    }

    pub fn run(&mut self) {
        let begin = cpu_time();
        while let Some(Reverse(due)) = self.due.pop() {
            debug_assert!(due.at >= self.now, "time goes on");
            self.now = due.at;
            self.figures.events += 1;
            self.handle(due.event);
            let limit = self.figures.window + PATIENCE;
            assert!(
                self.now < limit,
                "seed {}: it hangs\n{}",
                self.options.seed,
                self.describe()
            );
        }
        self.figures.real = cpu_time() - begin;
    }

    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        let waiting = |record: &&(usize, &Record)| matches!(record.1.state, State::Waiting | State::Running);
        for (number, record) in self
            .records
            .iter()
            .enumerate()
            .collect::<Vec<_>>()
            .iter()
            .filter(waiting)
            .take(10)
        {
            let task = self.workload.task(*number as u32);
            let is_there = self.nodes[record.at as usize].forwarder.has(*number as u32);
            text += &format!("task {number}: {record:?} {task:?}; its node knows it: {is_there}\n");
        }
        text
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Arrival => {
                let task = self.next_task;
                self.next_task += 1;
                if self.next_task < self.options.tasks {
                    // Between nothing and twice the average.
                    let pause = self.workload.pause.mul_f64(self.rng.below(2_000) as f64 / 1_000.0);
                    self.schedule(pause, Event::Arrival);
                }
                let home = self.workload.task(task).home;
                let record = &mut self.records[task as usize];
                (record.called, record.at) = (self.now, home);
                record.state = match self.nodes[home as usize].is_dead {
                    true => State::Abandoned,
                    false => State::Waiting,
                };
                match record.state {
                    State::Waiting => {
                        let after = self.local();
                        self.schedule(after, Event::AtHome { task, attempt: 0 });
                    }
                    _ => {
                        self.figures.abandoned += 1;
                        self.ended += 1;
                    }
                }
            }
            Event::AtHome { task, attempt } => self.at_home(task, attempt),
            Event::AtNode {
                node,
                task,
                attempt,
                expects_room,
            } => self.at_node(node, task, attempt, expects_room),
            Event::Ask { replica, node, ask } => {
                let task = self.workload.task(ask.key);
                let up = Some(&mut self.replicas[replica]).filter(|replica| replica.is_up);
                let proposal = up.map(|replica| {
                    let costs = &mut self.figures.costs;
                    replica.propose(self.now, node, &ask, &task, &self.workload, costs)
                });
                let after = self.link();
                let (task, proposal) = (ask.key, Box::new(proposal));
                self.schedule(after, Event::Answer { node, task, proposal });
            }
            Event::Answer { node, task, proposal } => {
                let facts = self.workload.task(task);
                self.at(node, |node, now, world, costs, orders| {
                    node.answered(now, (task, &facts), *proposal, world, costs, orders);
                });
            }
            Event::Finished { node, lease, task } => self.finished(node, lease, task),
            Event::WorkerUp { node } => {
                self.at(node, |node, now, _, costs, orders| {
                    node.worker_started(now, costs, orders)
                });
            }
            Event::WorkerEnded { node, worker } => self.at(node, |node, now, _, costs, orders| {
                node.decide(now, NodeEvent::WorkerDied { worker }, costs, orders);
            }),
            Event::Tick { node } => {
                if self.ticks[node as usize].is_none_or(|at| at > self.now) {
                    return;
                }
                self.ticks[node as usize] = None;
                self.at(node, |node, now, _, costs, orders| {
                    if node.scheduler.next_deadline().is_some_and(|due| due <= now) {
                        node.decide(now, NodeEvent::Tick, costs, orders);
                    }
                });
            }
            Event::Beat { node } => self.beat(node),
            Event::SignOfLife { node } => {
                if self.is_open() {
                    self.beat(node);
                    self.schedule(SIGN_OF_LIFE, Event::SignOfLife { node });
                }
            }
            Event::Heartbeat { replica, node, beat } => {
                let up = Some(&mut self.replicas[replica]).filter(|replica| replica.is_up);
                let Some(up) = up else { return };
                self.figures.heartbeats += 1;
                if up.hear(self.now, node, *beat, &mut self.figures.costs) == Heard::Lost {
                    let after = self.link();
                    self.schedule(after, Event::StartOver { node, replica });
                }
            }
            Event::StartOver { node, replica } => {
                if !self.nodes[node as usize].is_dead {
                    let beat = self.nodes[node as usize].start_over(replica);
                    self.send_beat(node, replica, beat);
                }
            }
            Event::GroupWanted(number) => {
                let event = self.groups.want(self.now, number);
                self.table_hears(event);
            }
            Event::GroupUnwanted(group) => {
                self.groups.left -= 1;
                self.table_hears(GroupEvent::Unwanted { group });
            }
            Event::ToTable(event) => self.table_hears(*event),
            Event::ToNode(node, effect) => self.obey_table(node, *effect),
            Event::Trouble(trouble) => self.trouble(trouble),
        }
    }

    /// Whether something is still to happen.
    pub(super) fn is_open(&self) -> bool {
        self.ended < self.options.tasks || self.groups.left > 0
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    /// # Panics
    /// When something is not as it must be, with the seed.
    pub fn check_end(&self) {
        let seed = self.options.seed;
        for (number, record) in self.records.iter().enumerate() {
            let has_ended = matches!(record.state, State::Done | State::Abandoned | State::Failed);
            assert!(
                has_ended,
                "seed {seed}: task {number} is {record:?}\n{}",
                self.describe()
            );
        }
        for node in self.nodes.iter().filter(|node| !node.is_dead) {
            let (number, scheduler) = (node.number, &node.scheduler);
            assert!(
                node.leases.is_empty(),
                "seed {seed}: leases of node {number} are never returned"
            );
            assert!(!scheduler.is_busy(), "seed {seed}: node {number} is busy");
            assert!(
                node.forwarder.is_empty(),
                "seed {seed}: something waits on node {number}"
            );
            assert_eq!(
                scheduler.available(),
                scheduler.total(),
                "seed {seed}: resources of node {number} are gone"
            );
            node.check_invariants();
        }
        for replica in &self.replicas {
            replica.check_invariants();
        }
        assert_eq!(self.groups.left, 0, "seed {seed}: groups were never created");
        assert!(!self.groups.table.has_pending(), "seed {seed}: a group waits");
    }

    pub fn into_figures(mut self) -> Figures {
        self.cpus_changed(0.0);
        let mut figures = self.figures;
        let whole = self.workload.cpus * figures.window.as_secs_f64();
        figures.utilisation = self.used / whole.max(1e-9);
        let tasks = (0..self.options.tasks).map(|number| self.workload.work(&self.workload.task(number)));
        figures.offered = tasks.sum::<f64>() / whole.max(1e-9);
        figures.ended = self.now;
        figures.waits.sort();
        figures.group_waits.sort();
        let busiest = self.replicas.iter().map(|replica| replica.busy).max();
        figures.busiest_replica = busiest.unwrap_or_default();
        for node in &self.nodes {
            let counts = &node.forwarder.counts;
            figures.counts.granted_locally += counts.granted_locally;
            figures.counts.granted_to_others += counts.granted_to_others;
            figures.counts.asked += counts.asked;
            figures.counts.forwarded += counts.forwarded;
            figures.counts.spilled_back += counts.spilled_back;
            figures.counts.turned_away += counts.turned_away;
        }
        figures
    }
}
