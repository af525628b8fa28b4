//! When a raylet asks the global scheduler at all, how often, and whom it turns away.
//!
//! A request that finds room here never meets this, unless it names its nodes or its arguments are worth a journey
//! ([`first_stop`]). One that has to wait is shown to the global scheduler when this node can never serve it, or when what
//! waits before it would take longer than moving is worth; of one shape only a few at a time, and after an answer in vain
//! less and less often, so that a cluster where everything is taken does not spend its time asking. Of those that could
//! run here the last asks first: it would wait longest.
//!
//! * `FWD-1`: of one shape and manner no more questions are open than [`Rules::at_a_time`] allows.
//! * `FWD-2`: what has been sent on [`MAX_HOPS`] times stays where it could ever run.
//! * `FWD-3`: no more than [`Rules::max_waiting`] requests wait; further ones are turned away and told when to come again.
//! * `FWD-4`: the backlog that is reported is what waits, by shape.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::Duration;

use ray_rs_types::placing::{Placing, Strategy};
use ray_rs_types::{NodeId, ResourceSet};
use rustc_hash::FxHashMap;

use super::heartbeat::Backlog;
use super::load::Load;
use super::{Proposal, travel_time};

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
    /// False: nothing ever runs on this node, not even what asks for nothing.
    pub serves_here: bool,
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
            serves_here: true,
        }
    }
}

impl Rules {
    /// Those that have to be asked for are asked for by more at a time than those that might gain by it.
    fn at_a_time_of(&self, manner: Manner) -> usize {
        match manner {
            Manner::Queued => self.at_a_time,
            Manner::Drawn | Manner::Named => self.at_a_time * 8,
        }
    }
}

/// How a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// In the local scheduler's queue, as nearly all do, if this node could ever serve it; else for a node that can.
    Queued,
    /// For the global scheduler's word: its arguments are elsewhere.
    Drawn,
    /// For the global scheduler's word: it says which nodes it wants.
    Named,
}

/// How a request of a client of this node waits at first. `arguments`: bytes of them that lie on nodes.
pub fn first_stop(here: NodeId, rules: &Rules, placing: Option<&Placing>, arguments: &[(NodeId, u64)]) -> Manner {
    let names_others = placing.is_some_and(|placing| {
        let names_here = matches!(placing.strategy, Strategy::NodeAffinity { node, .. } if node == here);
        !(placing.selectors.is_empty() && (names_here || placing.strategy == Strategy::Default))
    });
    if names_others {
        return Manner::Named;
    }
    let mut held: FxHashMap<NodeId, u64> = FxHashMap::default();
    for (node, bytes) in arguments {
        *held.entry(*node).or_default() += bytes;
    }
    let most = held.values().copied().max().unwrap_or(0);
    let spared = most.saturating_sub(held.get(&here).copied().unwrap_or(0));
    match travel_time(spared) > rules.moving {
        true => Manner::Drawn,
        false => Manner::Queued,
    }
}

/// What to do with a request that another node has sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    Serve,
    /// This node can never serve it, or has no room though room was promised: whoever sent it knew too little, and asks
    /// again.
    SpillBack,
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
    Move {
        node: NodeId,
        expects_room: bool,
    },
    Wait,
    /// It waited for this word, and is to enter the local queue, of which [`Forwarder::stays`] is told.
    Stay,
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

/// The requests that wait here, and which of them may move. `K` names a request.
#[derive(Debug)]
pub struct Forwarder<K> {
    rules: Rules,
    waiting: FxHashMap<K, Waiting>,
    lines: BTreeMap<(ResourceSet, Manner), Line<K>>,
    /// FWD-4.
    backlog: Backlog,
    /// The sum of all that waits.
    queued: ResourceSet,
    /// Given to requests in the order in which they come.
    last: u64,
    pub counts: Counts,
}

#[derive(Debug)]
struct Waiting {
    resources: ResourceSet,
    number: u64,
    since: Duration,
    is_asked: bool,
    /// `None`: it stays.
    line: Option<Manner>,
}

/// Requests of one shape.
#[derive(Debug)]
struct Line<K> {
    /// Those that may move, by their numbers.
    keys: BTreeMap<u64, K>,
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
            backlog: Backlog::new(),
            queued: ResourceSet::new(),
            last: 0,
            counts: Counts::default(),
        }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What waits here, summed up.
    pub fn queued(&self) -> &ResourceSet {
        &self.queued
    }

    /// What waits here, for the node's heartbeat.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// In no order.
    pub fn keys(&self) -> impl Iterator<Item = K> + '_ {
        self.waiting.keys().copied()
    }

    pub fn has(&self, key: K) -> bool {
        self.waiting.contains_key(&key)
    }

    /// A request waits. `hops`: how often it was sent on before; whoever was sent on too often may only be queued.
    ///
    /// # Errors
    /// Too many wait: it is turned away, and may come again after this time (`FWD-3`).
    pub fn waits(
        &mut self,
        now: Duration,
        key: K,
        resources: ResourceSet,
        manner: Manner,
        hops: u8,
    ) -> Result<(), Duration> {
        if self.waiting.len() >= self.rules.max_waiting {
            self.counts.turned_away += 1;
            return Err(self.rules.come_again);
        }
        self.queued.add(&resources);
        match self.backlog.get_mut(&resources) {
            Some(count) => *count += 1,
            None => drop(self.backlog.insert(resources.clone(), 1)),
        }
        self.last += 1;
        let waiting = Waiting {
            resources,
            number: self.last,
            since: now,
            is_asked: false,
            line: None,
        };
        let before = self.waiting.insert(key, waiting);
        debug_assert!(before.is_none(), "{key:?} waits twice");
        if hops < MAX_HOPS {
            self.enter_line(now, key, manner);
        }
        Ok(())
    }

    fn enter_line(&mut self, now: Duration, key: K, manner: Manner) {
        let waiting = self.waiting.get_mut(&key).expect("the caller has entered it");
        waiting.line = Some(manner);
        let line = self.lines.entry((waiting.resources.clone(), manner));
        let line = line.or_insert_with(|| Line {
            keys: BTreeMap::new(),
            open_questions: 0,
            pause: Duration::ZERO,
            not_before: now,
        });
        line.keys.insert(waiting.number, key);
    }

    fn leave_line(&mut self, key: K) {
        let waiting = self.waiting.get_mut(&key).expect("the caller has looked it up");
        let is_asked = std::mem::replace(&mut waiting.is_asked, false);
        let Some(manner) = waiting.line.take() else { return };
        let at = (waiting.resources.clone(), manner);
        let line = self.lines.get_mut(&at).expect("who may move is in a line");
        line.open_questions -= usize::from(is_asked);
        line.keys.remove(&waiting.number);
        if line.keys.is_empty() {
            self.lines.remove(&at);
        }
    }

    /// What waited for the global scheduler's word has it: it is in the local queue from now on. What named this node
    /// stays for good.
    pub fn stays(&mut self, now: Duration, key: K) {
        let Some(manner) = self.waiting.get(&key).and_then(|waiting| waiting.line) else {
            return;
        };
        if manner != Manner::Queued {
            self.leave_line(key);
        }
        if manner == Manner::Drawn {
            self.enter_line(now, key, Manner::Queued);
        }
    }

    /// Another node's client has come with a request that was sent on `hops` times, this one included. `expects_room`: the
    /// global scheduler believed that it could begin here at once.
    pub fn arrived(&mut self, load: &Load<'_>, demand: &ResourceSet, expects_room: bool, hops: u8) -> Arrival {
        let is_disappointed = || {
            let mut queued = self.queued.clone();
            queued.add(demand);
            expects_room && hops < MAX_HOPS && !load.has_room(demand) && load.wait(&queued, demand) > self.rules.moving
        };
        if load.could_serve(demand) && !is_disappointed() {
            return Arrival::Serve;
        }
        self.counts.spilled_back += 1;
        Arrival::SpillBack
    }

    /// It was granted, cancelled or sent on; false: it did not wait.
    pub fn no_longer_waits(&mut self, key: K) -> bool {
        if !self.waiting.contains_key(&key) {
            return false;
        }
        self.leave_line(key);
        let waiting = self.waiting.remove(&key).expect("just looked at");
        self.queued.subtract(&waiting.resources);
        let count = self.backlog.get_mut(&waiting.resources);
        let count = count.expect("FWD-4: what waits is counted");
        *count -= 1;
        if *count == 0 {
            self.backlog.remove(&waiting.resources);
        }
        true
    }

    /// What to ask now; call it again at [`Self::next_deadline`], and after each change.
    pub fn asks(&mut self, now: Duration, load: &Load<'_>, asks: &mut Vec<Ask<K>>) {
        for ((resources, manner), line) in &mut self.lines {
            let at_a_time = self.rules.at_a_time_of(*manner);
            if line.not_before > now || line.open_questions >= at_a_time {
                continue;
            }
            let could_stay = self.rules.serves_here && load.could_serve(resources);
            let stays_if_need_be = *manner != Manner::Named && could_stay;
            let wait = match manner {
                Manner::Drawn if load.has_room(resources) => Duration::ZERO,
                Manner::Queued | Manner::Drawn | Manner::Named => {
                    let first = line.keys.values().next().expect("no line is empty");
                    // Estimates can be wrong; what the first has waited already is no estimate.
                    load.wait(&self.queued, resources)
                        .max(now.saturating_sub(self.waiting[first].since))
                }
            };
            let is_in_queue = *manner == Manner::Queued && stays_if_need_be;
            if is_in_queue && wait <= self.rules.moving {
                line.not_before = now + self.rules.first_pause;
                continue;
            }
            let room = at_a_time - line.open_questions;
            // Questions are few, so those that are asked already are passed quickly.
            let free = |key: &&K| !self.waiting[*key].is_asked;
            let chosen: Vec<K> = match is_in_queue {
                true => line.keys.values().rev().filter(free).take(room).copied().collect(),
                false => line.keys.values().filter(free).take(room).copied().collect(),
            };
            for key in chosen {
                self.waiting.get_mut(&key).expect("it is in its line").is_asked = true;
                line.open_questions += 1;
                self.counts.asked += 1;
                asks.push(Ask {
                    key,
                    resources: resources.clone(),
                    only_if_free: stays_if_need_be,
                    wait_here: stays_if_need_be.then_some(wait),
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
        let manner = waiting.line.expect("who was asked for is in a line");
        let line = self.lines.get_mut(&(waiting.resources.clone(), manner));
        let line = line.expect("who was asked for is in a line");
        line.open_questions -= 1;
        match proposal {
            Some(Proposal::Node { node, has_room }) => {
                line.pause = Duration::ZERO;
                line.not_before = now;
                self.counts.forwarded += 1;
                self.no_longer_waits(key);
                return Verdict::Move {
                    node,
                    expects_room: has_room,
                };
            }
            Some(Proposal::Never(why)) => {
                self.no_longer_waits(key);
                return Verdict::Fail(why);
            }
            Some(Proposal::Stay | Proposal::Pending(_) | Proposal::Infeasible(_)) | None => {}
        }
        if proposal == Some(Proposal::Stay) && manner != Manner::Queued && self.rules.serves_here {
            return Verdict::Stay;
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
        let idle = |((_, manner), line): &(&(ResourceSet, Manner), &Line<K>)| {
            line.open_questions < self.rules.at_a_time_of(*manner).min(line.keys.len())
        };
        let idle = self.lines.iter().filter(idle);
        idle.map(|(_, line)| line.not_before).min()
    }

    /// # Panics
    /// With the name of the promise that is broken.
    pub fn check_invariants(&self) {
        assert!(self.waiting.len() <= self.rules.max_waiting, "FWD-3");
        let mut sum = ResourceSet::new();
        self.waiting.values().for_each(|waiting| sum.add(&waiting.resources));
        assert_eq!(sum, self.queued, "what waits is summed up");
        let counted: u32 = self.backlog.values().sum();
        assert_eq!(counted as usize, self.waiting.len(), "FWD-4");
        for ((shape, manner), line) in &self.lines {
            assert!(!line.keys.is_empty(), "no line is empty");
            let waiting: Vec<&Waiting> = line.keys.values().map(|key| &self.waiting[key]).collect();
            let is_right = |waiting: &&Waiting| waiting.resources == *shape && waiting.line == Some(*manner);
            assert!(waiting.iter().all(is_right), "FWD-2: each is in the line that it names");
            let asked = waiting.iter().filter(|waiting| waiting.is_asked).count();
            assert_eq!(asked, line.open_questions, "FWD-1: open questions are counted");
            assert!(asked <= self.rules.at_a_time_of(*manner), "FWD-1");
        }
        let in_lines: usize = self.lines.values().map(|line| line.keys.len()).sum();
        let may_move = self.waiting.values().filter(|waiting| waiting.line.is_some());
        assert_eq!(in_lines, may_move.count(), "FWD-2: who may move is in a line");
    }
}
