//! When a raylet asks the global scheduler at all, how often, and whom it turns away.
//!
//! A request that finds room here never meets this. One that has to wait is shown to the global scheduler when this node
//! can never serve it, or when what waits before it would take longer than moving is worth; of one shape only a few at a
//! time, and after an answer in vain less and less often, so that a cluster where everything is taken does not spend its
//! time asking. Of those that could run here the last asks first: it would wait longest.
//!
//! * `FWD-1`: of one shape at most [`Rules::at_a_time`] questions are open.
//! * `FWD-2`: what has been sent on [`MAX_HOPS`] times stays where it could ever run.
//! * `FWD-3`: no more than [`Rules::max_waiting`] requests wait; further ones are turned away and told when to come again.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use ray_rs_types::{Quantity, ResourceSet};
use rustc_hash::FxHashMap;

use super::Proposal;
use super::view::ASSUMED_HOLD;

/// A request is sent on so often; then it waits where it is.
pub const MAX_HOPS: u8 = 2;

#[derive(Debug, Clone)]
pub struct Rules {
    /// Moving a request costs about so much; a shorter wait here is not worth it.
    pub moving: Duration,
    pub at_a_time: usize,
    /// After an answer in vain; each further one doubles it.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    pub max_waiting: usize,
    /// Whom is turned away comes again after so long.
    pub come_again: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            moving: Duration::from_millis(2),
            at_a_time: 4,
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_secs(1),
            max_waiting: 10_000,
            come_again: Duration::from_millis(100),
        }
    }
}

/// This node, as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    pub total: &'a ResourceSet,
    pub available: &'a ResourceSet,
    /// The sum of what waits here.
    pub queued: &'a ResourceSet,
    /// How long what is granted is kept, on average; zero: not known.
    pub hold: Duration,
}

impl Load<'_> {
    /// How long the last of what waits will wait.
    pub fn wait(&self, demand: &ResourceSet) -> Duration {
        let hold = if self.hold.is_zero() { ASSUMED_HOLD } else { self.hold };
        let rounds = |(name, wanted): (&str, Quantity)| {
            (self.queued.get(name).0.max(wanted.0)) as f64 / self.total.get(name).0.max(1) as f64
        };
        hold.mul_f64(demand.iter().map(rounds).fold(0.0, f64::max).min(1e6))
    }
}

/// What to do with a request that another node has sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    Serve,
    /// This node can never serve it: whoever sent it knew too little.
    SpillBack,
}

pub fn arrived(load: &Load<'_>, demand: &ResourceSet) -> Arrival {
    match load.total.covers(demand) {
        true => Arrival::Serve,
        false => Arrival::SpillBack,
    }
}

/// Ask the global scheduler for a node. Answered by [`Forwarder::answered`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<K> {
    pub key: K,
    pub resources: ResourceSet,
    /// As in [`Wish`](super::Wish).
    pub only_if_free: bool,
    pub wait_here: Option<Duration>,
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves the queue here; its client is to ask that node.
    Move(ray_rs_types::NodeId),
    Wait,
    /// It waits, and its people should know why.
    WaitTelling(String),
    Fail(String),
}

/// So many of each since the raylet began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leases granted here to clients of this node.
    pub granted_locally: u64,
    /// Granted here to requests that other nodes sent.
    pub granted_to_others: u64,
    /// Questions to the global scheduler.
    pub asked: u64,
    /// Requests that went to another node.
    pub forwarded: u64,
    /// Sent here, and back again.
    pub spilled_back: u64,
    pub turned_away: u64,
}

/// The requests that wait here and may move. `K` names a request.
#[derive(Debug)]
pub struct Forwarder<K> {
    rules: Rules,
    waiting: FxHashMap<K, Waiting>,
    lines: BTreeMap<Vec<(String, Quantity)>, Line<K>>,
    /// The sum of all that waits.
    queued: ResourceSet,
    pub counts: Counts,
}

#[derive(Debug)]
struct Waiting {
    resources: ResourceSet,
    is_asked: bool,
    may_move: bool,
}

/// Requests of one shape.
#[derive(Debug)]
struct Line<K> {
    /// Those that may move, in the order in which they came.
    keys: VecDeque<K>,
    open_questions: usize,
    pause: Duration,
    not_before: Duration,
}

impl<K: Copy + Eq + Hash + std::fmt::Debug> Default for Forwarder<K> {
    fn default() -> Self {
        Self::new(Rules::default())
    }
}

impl<K: Copy + Eq + Hash + std::fmt::Debug> Forwarder<K> {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            waiting: FxHashMap::default(),
            lines: BTreeMap::new(),
            queued: ResourceSet::new(),
            counts: Counts::default(),
        }
    }

    /// What waits here, summed up.
    pub fn queued(&self) -> &ResourceSet {
        &self.queued
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What waits here, for the node's heartbeat.
    pub fn backlog(&self) -> BTreeMap<Vec<(String, Quantity)>, u32> {
        let mut backlog = BTreeMap::new();
        for waiting in self.waiting.values() {
            *backlog
                .entry(super::heartbeat::shape_of(&waiting.resources))
                .or_default() += 1;
        }
        backlog
    }

    /// A request found no room and waits. `hops`: how often it was sent on before.
    ///
    /// # Errors
    /// Too many wait: it is turned away, and may come again after this time (`FWD-3`).
    pub fn waits(&mut self, now: Duration, key: K, resources: ResourceSet, hops: u8) -> Result<(), Duration> {
        if self.waiting.len() >= self.rules.max_waiting {
            self.counts.turned_away += 1;
            return Err(self.rules.come_again);
        }
        let may_move = hops < MAX_HOPS;
        self.queued.add(&resources);
        if may_move {
            let line = self
                .lines
                .entry(super::heartbeat::shape_of(&resources))
                .or_insert_with(|| Line {
                    keys: VecDeque::new(),
                    open_questions: 0,
                    pause: Duration::ZERO,
                    not_before: now,
                });
            line.keys.push_back(key);
        }
        let waiting = Waiting {
            resources,
            is_asked: false,
            may_move,
        };
        let before = self.waiting.insert(key, waiting);
        debug_assert!(before.is_none(), "{key:?} waits twice");
        Ok(())
    }

    /// It was granted, cancelled or sent on.
    pub fn no_longer_waits(&mut self, key: K) {
        let Some(waiting) = self.waiting.remove(&key) else {
            return;
        };
        self.queued.subtract(&waiting.resources);
        if !waiting.may_move {
            return;
        }
        let shape = super::heartbeat::shape_of(&waiting.resources);
        let Some(line) = self.lines.get_mut(&shape) else { return };
        line.open_questions -= usize::from(waiting.is_asked);
        // It is at one of the two ends, as a rule.
        match line.keys.iter().rposition(|other| *other == key) {
            _ if line.keys.front() == Some(&key) => drop(line.keys.pop_front()),
            Some(at) => drop(line.keys.remove(at)),
            None => {}
        }
        if line.keys.is_empty() {
            self.lines.remove(&shape);
        }
    }

    /// What to ask now; call it again at [`Self::next_deadline`], and after each change.
    pub fn asks(&mut self, now: Duration, load: &Load<'_>, asks: &mut Vec<Ask<K>>) {
        for line in self.lines.values_mut() {
            if line.not_before > now || line.open_questions >= self.rules.at_a_time {
                continue;
            }
            let resources = self.waiting[&line.keys[0]].resources.clone();
            let could_here = load.total.covers(&resources);
            let wait = load.wait(&resources);
            if could_here && wait <= self.rules.moving {
                line.not_before = now + self.rules.first_pause;
                continue;
            }
            let room = self.rules.at_a_time - line.open_questions;
            let mut places: Box<dyn Iterator<Item = &K>> = match could_here {
                true => Box::new(line.keys.iter().rev()),
                false => Box::new(line.keys.iter()),
            };
            let mut chosen: Vec<K> = Vec::new();
            // Questions are few, so those that are asked already are passed quickly.
            while let (true, Some(key)) = (chosen.len() < room, places.next()) {
                if !self.waiting[key].is_asked {
                    chosen.push(*key);
                }
            }
            for key in chosen {
                self.waiting.get_mut(&key).expect("it is in its line").is_asked = true;
                line.open_questions += 1;
                self.counts.asked += 1;
                asks.push(Ask {
                    key,
                    resources: resources.clone(),
                    only_if_free: could_here,
                    wait_here: could_here.then_some(wait),
                });
            }
        }
    }

    /// The global scheduler's answer; `None`: it could not be reached. Whoever no longer waits is not moved.
    pub fn answered(&mut self, now: Duration, key: K, proposal: Option<Proposal>) -> Verdict {
        let Some(waiting) = self.waiting.get_mut(&key) else {
            return Verdict::Wait;
        };
        if !std::mem::replace(&mut waiting.is_asked, false) {
            return Verdict::Wait;
        }
        let shape = super::heartbeat::shape_of(&waiting.resources);
        let line = self.lines.get_mut(&shape).expect("who was asked for is in a line");
        line.open_questions -= 1;
        if let Some(Proposal::Node { node, .. }) = proposal {
            line.pause = Duration::ZERO;
            line.not_before = now;
            self.counts.forwarded += 1;
            self.no_longer_waits(key);
            return Verdict::Move(node);
        }
        if let Some(Proposal::Never(why)) = proposal {
            self.no_longer_waits(key);
            return Verdict::Fail(why);
        }
        line.pause = (line.pause * 2).clamp(self.rules.first_pause, self.rules.longest_pause);
        line.not_before = now + line.pause;
        match proposal {
            Some(Proposal::Infeasible(why) | Proposal::Pending(why)) => Verdict::WaitTelling(why),
            _ => Verdict::Wait,
        }
    }

    /// A node came, or room was reported: asking may pay again at once.
    pub fn look_again(&mut self, now: Duration) {
        for line in self.lines.values_mut() {
            line.pause = Duration::ZERO;
            line.not_before = line.not_before.min(now);
        }
    }

    /// When [`Self::asks`] has something to ask though nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let idle = |line: &&Line<K>| line.open_questions < self.rules.at_a_time.min(line.keys.len());
        self.lines.values().filter(idle).map(|line| line.not_before).min()
    }

    /// # Panics
    /// With the name of the promise that is broken.
    pub fn check_invariants(&self) {
        assert!(self.waiting.len() <= self.rules.max_waiting, "FWD-3");
        let mut sum = ResourceSet::new();
        self.waiting.values().for_each(|waiting| sum.add(&waiting.resources));
        assert_eq!(sum, self.queued, "what waits is summed up");
        for line in self.lines.values() {
            let asked = line.keys.iter().filter(|key| self.waiting[key].is_asked).count();
            assert_eq!(asked, line.open_questions, "FWD-1: open questions are counted");
            assert!(asked <= self.rules.at_a_time, "FWD-1");
            assert!(line.keys.iter().all(|key| self.waiting[key].may_move), "FWD-2");
        }
    }
}
