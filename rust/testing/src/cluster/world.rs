//! The clock, the links, who is alive, and what goes wrong.

mod channels;
mod control_store;
mod faults;
mod processes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use ray_rs_gcs::stepped::{Outcome, Reply, Request, SimulatedClock, SteppedGcs};
use ray_rs_proto::v1::{self, node_command::Body as Command};
use ray_rs_scheduler::liveness::DEFAULT_BOUND;
use ray_rs_types::{ActorId, NodeId};

use super::disk::Disk;
use super::driver::{Driver, DriverContext};
use super::host::{Host, HostContext};
use super::messages::{LaneMsg, Proc, ToProc, node_id, plan_of};
use super::node::{Node, Order};
use super::options::{Fault, Mutation, Options};
use super::oracle::Journal;
use super::program::Program;
use crate::rng::Rng;

/// After the last driver has ended and the last fault is over, so much time is left to whatever is still to happen.
const SETTLE: Duration = Duration::from_secs(40);
/// As in raylet and control store.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(5);
/// No program takes longer.
const TIME_LIMIT: Duration = Duration::from_secs(600);
const MAX_EVENTS: u64 = 400_000;

/// What a run was like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Every event, a line each, if that was asked for.
    pub trace: String,
    pub events: u64,
    pub calls: usize,
    /// By their names.
    pub faults: BTreeMap<&'static str, u32>,
}

/// Who asks the control store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Proc(Proc),
    Raylet(usize),
}

#[derive(Debug)]
struct Ask {
    from: Asker,
    request: Request,
    /// Tries that may still be answered.
    open: BTreeSet<u64>,
}

#[derive(Debug)]
enum Event {
    Connect(usize),
    Report {
        node: usize,
        channel: u64,
        report: Box<v1::NodeReport>,
    },
    Command {
        node: usize,
        channel: u64,
        command: Box<Command>,
    },
    /// The control store's end of it.
    ChannelEnds {
        life: u64,
        node: usize,
        connection: u64,
    },
    LookAtSilence {
        life: u64,
        node: usize,
        connection: u64,
        ended: Duration,
        expected: Option<Duration>,
    },
    BuryWhoStaysAway {
        life: u64,
        expected: Duration,
    },
    /// One try of a call arrives at the control store.
    Call {
        ask: u64,
        attempt: u64,
        life: u64,
    },
    Answer {
        ask: u64,
        outcome: Box<Outcome>,
    },
    AskAgain {
        ask: u64,
    },
    Flush {
        life: u64,
    },
    GcsStarts,
    Tell {
        who: Proc,
        message: ToProc,
    },
    Lane {
        from: Proc,
        to: Proc,
        message: LaneMsg,
    },
    WorkerStarts {
        node: usize,
        fails: bool,
    },
    Ends(Proc),
    /// A raylet notices the end of a process.
    Ended {
        node: usize,
        who: Proc,
    },
    NodeTicks(usize),
    NodeAsks(usize),
    HostResumes(Proc),
    HostTicks(Proc),
    DriverSteps(Proc),
    Fault(Fault),
    DiskWorks,
}

/// The ends of a link that keeps its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    ToGcs(u64),
    FromGcs(u64),
    Within(Proc),
    Lane(Proc, Proc),
}

pub(crate) struct World {
    options: Options,
    program: Program,
    now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    next_number: u64,
    rng: Rng,
    links: BTreeMap<Link, Duration>,
    journal: Journal,
    report: Report,
    // The control store.
    gcs: Option<SteppedGcs>,
    /// How many of its processes there have been.
    life: u64,
    clock: SimulatedClock,
    disk: Disk,
    gcs_frozen_until: Duration,
    wall_ms: i64,
    flush_is_due: bool,
    /// Of each node: its channel, and the connection's number at the control store.
    connections: BTreeMap<usize, (u64, u64)>,
    asks: BTreeMap<u64, Ask>,
    /// Tries of which the answers will be lost.
    answers_lost: BTreeSet<u64>,
    attempts: BTreeMap<u64, u64>,
    /// Until then a call waits for an actor to be known.
    patience: BTreeMap<u64, Duration>,
    // The rest.
    nodes: Vec<Node>,
    hosts: BTreeMap<Proc, Host>,
    drivers: BTreeMap<Proc, Driver>,
    dead_drivers: Vec<Proc>,
    next_proc: Proc,
    ticks: BTreeMap<usize, Duration>,
    host_ticks: BTreeMap<Proc, Duration>,
    /// What waits until the workers of a node go on.
    parked: BTreeMap<usize, Vec<((Duration, u64), Event)>>,
    quiet_from: Duration,
}

fn index_of(node: NodeId) -> usize {
    usize::from(node.0[0]) - 1
}

impl World {
    pub fn new(program: Program, options: Options) -> Self {
        let mutation = options.mutation;
        let mut world = Self {
            rng: Rng::new(options.seed),
            journal: Journal::new(options.seed, program.actors.len()),
            nodes: (0..options.nodes).map(|index| Node::new(index, mutation)).collect(),
            disk: Disk::new(mutation == Mutation::DecisionsAreNotStored),
            program,
            now: Duration::ZERO,
            events: BTreeMap::new(),
            next_number: 0,
            links: BTreeMap::new(),
            report: Report::default(),
            gcs: None,
            life: 0,
            clock: SimulatedClock::default(),
            gcs_frozen_until: Duration::ZERO,
            wall_ms: 1_700_000_000_000,
            flush_is_due: false,
            connections: BTreeMap::new(),
            asks: BTreeMap::new(),
            answers_lost: BTreeSet::new(),
            attempts: BTreeMap::new(),
            patience: BTreeMap::new(),
            hosts: BTreeMap::new(),
            drivers: BTreeMap::new(),
            dead_drivers: Vec::new(),
            next_proc: 0,
            ticks: BTreeMap::new(),
            host_ticks: BTreeMap::new(),
            parked: BTreeMap::new(),
            quiet_from: Duration::ZERO,
            options,
        };
        world.start_gcs();
        for index in 0..world.program.drivers.len() {
            let node = world.rng.below(world.nodes.len() as u64) as usize;
            let who = world.fresh_proc();
            world.drivers.insert(who, Driver::new(who, node, index));
            world.with_node(node, |node, now| node.driver_joined(now, who));
        }
        for node in 0..world.nodes.len() {
            let after = world.micros(5000);
            world.schedule(after, Event::Connect(node));
        }
        for who in world.drivers.keys().copied().collect::<Vec<_>>() {
            world.with_driver(who, Driver::start);
        }
        for (at, fault) in world.options.faults.clone() {
            world.schedule(at, Event::Fault(fault));
        }
        world
    }

    fn fresh_proc(&mut self) -> Proc {
        self.next_proc += 1;
        self.next_proc
    }

    fn micros(&mut self, below: u64) -> Duration {
        Duration::from_micros(1 + self.rng.below(below))
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.next_number += 1;
        self.events.insert((self.now + after, self.next_number), event);
    }

    /// Over a link that keeps its order.
    fn send(&mut self, link: Link, below_micros: u64, event: Event) {
        let slow = match self.rng.below(25) {
            0 => 20,
            _ => 1,
        };
        let arrives =
            (self.now + self.micros(below_micros * slow)).max(self.links.get(&link).copied().unwrap_or_default());
        self.links.insert(link, arrives);
        self.schedule(arrives - self.now, event);
    }

    fn wall_clock(&self) -> u64 {
        let ms = self.wall_ms + i64::try_from(self.now.as_millis()).expect("minutes");
        u64::try_from(ms).expect("long after 1970")
    }

    pub fn run(&mut self) {
        let last_fault = self.options.faults.iter().map(|(at, _)| *at).max().unwrap_or_default();
        let mut ends: Option<Duration> = None;
        while let Some(((at, number), event)) = self.events.pop_first() {
            if ends.is_some_and(|ends| at > ends) {
                break;
            }
            self.now = self.now.max(at);
            self.clock.set(self.now);
            if let Some(until) = self.held_until(&event) {
                self.events.insert((until, number), event);
                continue;
            }
            if let Some(node) = self.halted(&event) {
                self.parked.entry(node).or_default().push(((at, number), event));
                continue;
            }
            self.report.events += 1;
            if self.options.traced {
                let line = format!("{} {event:?}", at.as_nanos());
                if self.options.echoed {
                    println!("{line}");
                }
                let _ = writeln!(self.report.trace, "{line}");
            }
            let seed = self.options.seed;
            assert!(self.report.events < MAX_EVENTS, "seed {seed}: it is busy for ever");
            self.happens(event);
            if ends.is_none() {
                let done = self.drivers.values().all(|driver| driver.is_done(&self.program));
                if done && self.now >= last_fault {
                    ends = Some(self.now.max(self.quiet_from) + SETTLE);
                }
                if self.now > TIME_LIMIT {
                    let waits: String = self
                        .drivers
                        .values()
                        .map(|driver| driver.explain(&self.program))
                        .collect();
                    panic!("seed {seed}: it goes on for ever\n{waits}");
                }
            }
        }
        self.check_end();
    }

    /// Until then nothing happens where the event is, or nothing gets there.
    fn held_until(&self, event: &Event) -> Option<Duration> {
        let gcs = |frozen: Duration| {
            if self.gcs.is_some() {
                frozen.max(self.gcs_frozen_until)
            } else {
                frozen
            }
        };
        let frozen = |node: usize| self.nodes[node].frozen_until;
        let cut = |node: usize| self.nodes[node].cut_until;
        let home = |who: &Proc| self.home(*who).map_or(Duration::ZERO, frozen);
        let until = match event {
            Event::Connect(node) => gcs(frozen(*node).max(cut(*node))),
            Event::Report { node, .. } => gcs(cut(*node)),
            Event::Command { node, .. } => frozen(*node).max(cut(*node)),
            Event::ChannelEnds { .. }
            | Event::LookAtSilence { .. }
            | Event::BuryWhoStaysAway { .. }
            | Event::Flush { .. } => gcs(Duration::ZERO),
            Event::Call { ask, .. } => gcs(self.asker_node(*ask).map_or(Duration::ZERO, cut)),
            Event::Answer { ask, .. } | Event::AskAgain { ask } => self
                .asker_node(*ask)
                .map_or(Duration::ZERO, |node| frozen(node).max(cut(node))),
            Event::Tell { who, .. } | Event::HostResumes(who) | Event::HostTicks(who) | Event::DriverSteps(who) => {
                home(who)
            }
            Event::Lane { from, to, .. } => match (self.home(*from), self.home(*to)) {
                (Some(from), Some(to)) if from != to => frozen(to).max(cut(from)).max(cut(to)),
                (_, Some(to)) => frozen(to),
                (_, None) => Duration::ZERO,
            },
            Event::WorkerStarts { node, .. } | Event::Ended { node, .. } => frozen(*node),
            Event::NodeTicks(node) | Event::NodeAsks(node) => frozen(*node),
            Event::GcsStarts | Event::Ends(_) | Event::Fault(_) | Event::DiskWorks => Duration::ZERO,
        };
        (until > self.now).then_some(until)
    }

    /// The node whose workers are to stand still, if the event is one of a worker there.
    fn halted(&self, event: &Event) -> Option<usize> {
        let who = match event {
            Event::Tell { who, .. } | Event::HostResumes(who) | Event::HostTicks(who) | Event::Lane { to: who, .. } => {
                *who
            }
            Event::Answer { ask, .. } => match self.asks.get(ask)?.from {
                Asker::Proc(who) => who,
                Asker::Raylet(_) => return None,
            },
            _ => return None,
        };
        let node = self.hosts.get(&who)?.node;
        self.nodes[node].is_halted().then_some(node)
    }

    fn home(&self, who: Proc) -> Option<usize> {
        let host = self.hosts.get(&who).map(|host| host.node);
        host.or_else(|| self.drivers.get(&who).map(|driver| driver.node))
    }

    fn asker_node(&self, ask: u64) -> Option<usize> {
        match self.asks.get(&ask)?.from {
            Asker::Proc(who) => self.home(who),
            Asker::Raylet(node) => Some(node),
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Connect(node) => self.connect(node),
            Event::Report { node, channel, report } => {
                if self.connections.get(&node).is_some_and(|(known, _)| *known == channel) {
                    let wall_clock = self.wall_clock();
                    self.with_gcs(|gcs| gcs.report(node_id(node), *report, wall_clock));
                }
            }
            Event::Command { node, channel, command } => {
                if self.nodes[node].channel == Some(channel) {
                    self.with_node(node, |node, now| node.obey(now, *command));
                }
            }
            Event::ChannelEnds { life, node, connection } => self.channel_ends(life, node, connection),
            Event::LookAtSilence {
                life,
                node,
                connection,
                ended,
                expected,
            } => {
                self.look_at_silence(life, node, connection, ended, expected);
            }
            Event::BuryWhoStaysAway { life, expected } => self.bury_who_stays_away(life, expected),
            Event::Call { ask, attempt, life } => self.call_arrives(ask, attempt, life),
            Event::Answer { ask, outcome } => self.answer(ask, *outcome),
            Event::AskAgain { ask } => self.attempt(ask),
            Event::Flush { life } => self.flush(life),
            Event::GcsStarts => self.start_gcs(),
            Event::Tell { who, message } => self.tell(who, message),
            Event::Lane { from, to, message } => {
                self.with_host(to, |host, cx| host.received(cx, from, message));
                self.with_driver(to, |driver, cx| driver.received(cx, from, message));
            }
            Event::WorkerStarts { node, fails } => self.worker_starts(node, fails),
            Event::Ends(who) => self.end(who),
            Event::Ended { node, who } => {
                if let Some(actor) = self.nodes[node].actor_of(who) {
                    self.journal.host_lost(plan_of(actor));
                }
                self.with_node(node, |node, now| node.process_ended(now, who));
            }
            Event::NodeTicks(node) => {
                self.ticks.remove(&node);
                self.with_node(node, |node, now| {
                    node.tick(now);
                    node.look_at_tenure(now);
                });
            }
            Event::NodeAsks(node) => {
                if self.nodes[node].is_up {
                    let pause = self.nodes[node].ask_whether_heard(self.now);
                    self.with_node(node, |_, _| {});
                    self.schedule(pause.unwrap_or(Duration::from_secs(1)), Event::NodeAsks(node));
                }
            }
            Event::HostResumes(who) => self.with_host(who, Host::resume),
            Event::HostTicks(who) => {
                self.host_ticks.remove(&who);
                self.with_host(who, Host::tick);
            }
            Event::DriverSteps(who) => self.with_driver(who, Driver::step),
            Event::Fault(fault) => self.fault(fault),
            Event::DiskWorks => self.disk.set_failing(false),
        }
    }

    fn check_end(&mut self) {
        let seed = self.options.seed;
        let gcs = self.gcs.as_ref().expect("it is started again");
        let mut hosts = Vec::new();
        for host in self.hosts.values() {
            let Some(plan) = host.plan() else { continue };
            assert!(
                host.is_settled(),
                "seed {seed}: process {} has answers that do not leave",
                host.who
            );
            hosts.push((
                host.who,
                plan,
                host.serves()
                    .map(|(_, incarnation, state)| (incarnation, state.clone())),
            ));
        }
        self.journal
            .check_end(&self.program, &gcs.actors(), &hosts, &self.dead_drivers);
        for node in self.nodes.iter().filter(|node| node.is_up) {
            for (actor, incarnation, who) in node.living_actors() {
                let is_there = self.hosts.get(&who).and_then(Host::plan) == Some(plan_of(actor));
                assert!(
                    is_there,
                    "seed {seed}: node {} takes {who} for actor {actor} ({incarnation})",
                    node.index
                );
            }
        }
        self.report.calls = self.journal.calls_made();
    }

    pub fn into_report(self) -> Report {
        self.report
    }
}
