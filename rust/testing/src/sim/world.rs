//! The clock, the links, and who is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use super::messages::{Msg, Proc, RAYLET};
use super::process::{Context, Process};
use super::program::Program;
use super::raylet::{Order, Raylet};
use crate::rng::Rng;

/// Something is broken on purpose: worlds must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    None,
    ReturnedBorrowsAreLost,
    GrantsAreLost,
    RepliesReportNothing,
    ReturnedLeasesAreLost,
    SleepersLendNothing,
    WithdrawalsAlwaysSucceed,
    WithdrawnTasksRun,
    ClaimedTasksRunAgainForFree,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub cpus: u32,
    /// Workers that are killed, at random moments of the first part of the run.
    pub crashes: u32,
    /// Of a hundred worker starts, so many fail.
    pub failing_starts: u64,
    pub mutation: Mutation,
    /// Nothing takes longer.
    pub time_limit: Duration,
}

impl Options {
    pub fn of_seed(seed: u64, mutation: Mutation) -> Self {
        let mut rng = Rng::new(seed ^ 0x0971_0035);
        Self {
            seed,
            cpus: 1 + rng.below(4) as u32,
            // Half of the worlds are peaceful.
            crashes: if rng.chance(50) { 0 } else { 1 + rng.below(4) as u32 },
            failing_starts: if rng.chance(80) { 0 } else { 10 },
            mutation,
            time_limit: Duration::from_secs(120),
        }
    }
}

/// What a run was like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Every event, a line each.
    pub trace: String,
    pub events: u64,
    pub tasks: usize,
    pub crashes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Pending,
    Claimed,
    Withdrawn,
}

/// The claim words of all lanes, by owner, worker and sequence number: memory that both ends share.
#[derive(Debug, Default)]
pub(crate) struct Claims(BTreeMap<(Proc, Proc, u64), Claim>);

impl Claims {
    pub fn publish(&mut self, at: (Proc, Proc, u64)) {
        self.0.insert(at, Claim::Pending);
    }

    pub fn claim(&mut self, at: (Proc, Proc, u64)) -> bool {
        self.change(at, Claim::Claimed)
    }

    pub fn withdraw(&mut self, at: (Proc, Proc, u64)) -> bool {
        self.change(at, Claim::Withdrawn)
    }

    fn change(&mut self, at: (Proc, Proc, u64), to: Claim) -> bool {
        match self.0.get_mut(&at) {
            Some(claim) if *claim == Claim::Pending => {
                *claim = to;
                true
            }
            _ => false,
        }
    }

    pub fn is_claimed(&self, at: (Proc, Proc, u64)) -> bool {
        self.0.get(&at) == Some(&Claim::Claimed)
    }
}

#[derive(Debug)]
enum Event {
    Deliver {
        from: Proc,
        to: Proc,
        msg: Msg,
    },
    /// The frame of a process goes on.
    Resume(Proc),
    Tick(Proc),
    WorkerStarts {
        fails: bool,
    },
    Crash,
    Kill(Proc),
}

pub struct World {
    options: Options,
    program: Program,
    now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    next_event: u64,
    rng: Rng,
    procs: BTreeMap<Proc, Process>,
    raylet: Raylet,
    next_proc: Proc,
    /// When the last message of a link arrives: links keep their order.
    links: BTreeMap<(Proc, Proc), Duration>,
    ticks: BTreeMap<Proc, Duration>,
    claims: Claims,
    /// How often each task began, and of which function it is.
    begun: BTreeMap<u64, (u32, usize)>,
    /// How often a task's worker died after it had begun and before it had replied.
    interrupted: BTreeMap<u64, u32>,
    crashes: u32,
    failed_starts: u32,
    handled: u64,
    trace: String,
}

impl World {
    pub fn new(program: Program, options: Options) -> Self {
        let mut world = Self {
            rng: Rng::new(options.seed),
            raylet: Raylet::new(options.cpus),
            procs: BTreeMap::from([(0, Process::new(0, options.cpus))]),
            program,
            now: Duration::ZERO,
            events: BTreeMap::new(),
            next_event: 0,
            next_proc: 1,
            links: BTreeMap::new(),
            ticks: BTreeMap::new(),
            claims: Claims::default(),
            begun: BTreeMap::new(),
            interrupted: BTreeMap::new(),
            crashes: 0,
            failed_starts: 0,
            handled: 0,
            trace: String::new(),
            options,
        };
        for _ in 0..world.options.crashes {
            let at = Duration::from_micros(world.rng.below(120_000));
            world.schedule(at, Event::Crash);
        }
        world
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + after, self.next_event), event);
    }

    /// From the driver's first step until nothing is to happen any more.
    pub fn run(&mut self) {
        let mut orders = Vec::new();
        self.raylet.start(self.now, &mut orders);
        self.obey(orders);
        self.with_process(0, Process::start_driver);
        while self.step() {}
    }

    /// Lets the next thing happen; false when there is none.
    pub fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.events.pop_first() else {
            return false;
        };
        self.now = at;
        self.handled += 1;
        let seed = self.options.seed;
        assert!(at <= self.options.time_limit, "seed {seed}: it goes on for ever");
        assert!(self.handled < 2_000_000, "seed {seed}: it is busy for ever");
        let _ = writeln!(self.trace, "{} {event:?}", at.as_nanos());
        match event {
            Event::Deliver { from, to: RAYLET, msg } => {
                let mut orders = Vec::new();
                self.raylet.receive(self.now, from, msg, &mut orders);
                self.obey(orders);
            }
            Event::Deliver { from, to, msg } => {
                if let Msg::DeathReport { worker } = msg {
                    self.hurry(worker, to);
                }
                if !self.procs.contains_key(&to) && self.procs.contains_key(&from) {
                    // Nobody answers its socket.
                    self.send(to, from, Msg::Closed);
                }
                self.with_process(to, |process, cx| process.receive(cx, from, msg));
            }
            Event::Resume(who) => self.with_process(who, Process::step),
            Event::Tick(RAYLET) => {
                self.ticks.remove(&RAYLET);
                let mut orders = Vec::new();
                self.raylet.tick(self.now, &mut orders);
                self.obey(orders);
            }
            Event::Tick(who) => {
                self.ticks.remove(&who);
                self.with_process(who, Process::tick);
            }
            Event::WorkerStarts { fails } => {
                let mut orders = Vec::new();
                if fails {
                    self.failed_starts += 1;
                    self.raylet.worker_start_failed(self.now, &mut orders);
                } else {
                    let who = self.next_proc;
                    self.next_proc += 1;
                    self.procs.insert(who, Process::new(who, self.options.cpus));
                    self.raylet.worker_started(self.now, who, &mut orders);
                }
                self.obey(orders);
            }
            Event::Crash => {
                let workers: Vec<Proc> = self.procs.keys().copied().filter(|who| *who != 0).collect();
                if !workers.is_empty() {
                    let victim = workers[self.rng.below(workers.len() as u64) as usize];
                    self.crashes += 1;
                    self.end(victim);
                }
            }
            Event::Kill(who) => self.end(who),
        }
        true
    }

    fn with_process(&mut self, who: Proc, act: impl FnOnce(&mut Process, &mut Context<'_>)) {
        let Some(process) = self.procs.get_mut(&who) else {
            return;
        };
        let mut cx = Context {
            now: self.now,
            program: &self.program,
            claims: &mut self.claims,
            mutation: self.options.mutation,
            out: Vec::new(),
            resume: None,
            begun: Vec::new(),
            leaves: false,
        };
        act(process, &mut cx);
        process.check_invariants();
        let Context {
            out,
            resume,
            begun,
            leaves,
            ..
        } = cx;
        let deadline = process.dispatch.next_deadline();
        for (task, function) in begun {
            self.begun.entry(task).or_insert((0, function)).0 += 1;
        }
        for (to, msg) in out {
            self.send(who, to, msg);
        }
        if let Some(after) = resume {
            self.schedule(after, Event::Resume(who));
        }
        self.set_tick(who, deadline);
        if leaves {
            self.end(who);
        }
    }

    /// What a process wrote into its rings before it died counts, and is there at once, whoever tells of its death.
    fn hurry(&mut self, from: Proc, to: Proc) {
        let is_it = |event: &Event| matches!(event, Event::Deliver { from: f, to: t, .. } if *f == from && *t == to);
        let late: Vec<(Duration, u64)> = self
            .events
            .iter()
            .filter(|(_, event)| is_it(event))
            .map(|(at, _)| *at)
            .collect();
        for at in late {
            if let Some(Event::Deliver { msg, .. }) = self.events.remove(&at) {
                self.with_process(to, |process, cx| process.receive(cx, from, msg));
            }
        }
    }

    fn set_tick(&mut self, who: Proc, deadline: Option<Duration>) {
        let Some(deadline) = deadline else { return };
        if self.ticks.get(&who).is_none_or(|at| deadline < *at) {
            self.ticks.insert(who, deadline);
            self.schedule(deadline.saturating_sub(self.now), Event::Tick(who));
        }
    }

    fn send(&mut self, from: Proc, to: Proc, msg: Msg) {
        let delay = match self.rng.below(20) {
            0 => 5000,
            1 | 2 => 500,
            _ => 20,
        };
        let earliest = self.now + Duration::from_micros(1 + self.rng.below(delay));
        let last = self.links.get(&(from, to)).copied().unwrap_or_default();
        let arrives = earliest.max(last);
        self.links.insert((from, to), arrives);
        self.schedule(arrives - self.now, Event::Deliver { from, to, msg });
    }

    fn obey(&mut self, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Send(to, msg) => self.send(RAYLET, to, msg),
                Order::StartWorker => {
                    let takes = Duration::from_micros(1000 + self.rng.below(9000));
                    let fails = self.rng.chance(self.options.failing_starts);
                    self.schedule(takes, Event::WorkerStarts { fails });
                }
                Order::Kill(who) => self.schedule(Duration::from_micros(50), Event::Kill(who)),
            }
        }
        let deadline = self.raylet.scheduler.next_deadline();
        self.set_tick(RAYLET, deadline);
    }

    /// A process is no more. What it has sent arrives, and then the end of its sockets.
    fn end(&mut self, who: Proc) {
        let Some(process) = self.procs.remove(&who) else { return };
        if let Some(frame) = &process.frame {
            *self.interrupted.entry(frame.unique).or_default() += 1;
        }
        let others: BTreeSet<Proc> = self.procs.keys().copied().chain([RAYLET]).collect();
        for other in others {
            self.send(who, other, Msg::Closed);
        }
    }

    /// # Panics
    /// When something is not as it must be, with the seed.
    pub fn check_end(&self, expected: &[u64]) {
        let seed = self.options.seed;
        let driver = &self.procs[&0];
        if !driver.is_done {
            let waits: String = self.procs.values().map(Process::explain).collect();
            panic!("seed {seed}: the driver hangs\n{waits}");
        }
        let trouble = self.crashes > 0 || self.failed_starts > 0;
        for (index, seen) in driver.seen.iter().enumerate() {
            match seen {
                Some(number) => assert_eq!(
                    Some(number),
                    expected.get(index),
                    "seed {seed}: value {index} of the driver is wrong"
                ),
                None => assert!(trouble, "seed {seed}: an error out of nothing"),
            }
        }
        let failed = driver.seen.contains(&None);
        assert!(
            failed || driver.seen.len() == expected.len(),
            "seed {seed}: a value is missing"
        );
        for (task, (times, function)) in &self.begun {
            let retries = self.program.functions[*function].max_retries;
            assert!(
                u32::try_from(retries).is_ok_and(|most| *times <= 1 + most) || retries < 0,
                "seed {seed}: task {task:x} began {times} times, and may be retried {retries} times"
            );
            let interrupted = self.interrupted.get(task).copied().unwrap_or(0);
            assert!(
                *times <= 1 + interrupted,
                "seed {seed}: task {task:x} began {times} times, and was interrupted {interrupted} times"
            );
        }
        for (who, process) in &self.procs {
            if let Some(left) = process.leftovers() {
                panic!("seed {seed}: process {who} still has {left}\n{}", process.explain());
            }
        }
        let scheduler = &self.raylet.scheduler;
        assert!(!scheduler.is_busy(), "seed {seed}: a lease is never returned");
        assert_eq!(
            scheduler.available(),
            scheduler.total(),
            "seed {seed}: resources are gone"
        );
    }

    pub fn into_report(self) -> Report {
        Report {
            events: self.handled,
            tasks: self.begun.len(),
            crashes: self.crashes,
            trace: self.trace,
        }
    }
}
