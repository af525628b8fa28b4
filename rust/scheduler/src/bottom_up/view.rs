//! All nodes as they report, less what was proposed since.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::resources::GPU;
use ray_rs_types::{NodeId, Quantity, ResourceSet};
use rustc_hash::FxHashMap;

use super::classes::{Classes, Places};
use super::heartbeat::{Backlog, Decoder, Heard, Heartbeat, NodeReport};
use super::{ASSUMED_HOLD, PROMISE_HOLDS, PROMISE_SETTLES};

/// Amounts by the numbers of resources.
pub(super) type Demand = Arc<[(u32, i64)]>;

/// See the module's description.
#[derive(Debug, Default)]
pub struct GlobalScheduler {
    pub(super) nodes: Vec<Option<Node>>,
    pub(super) places: FxHashMap<NodeId, usize>,
    vacant: Vec<usize>,
    /// Some nodes of the cluster may not have been heard of yet.
    pub(super) is_partial: bool,
    /// Nodes that get nothing new.
    pub(super) draining: Places,
    names: Names,
    pub(super) classes: Classes,
    /// Promises in the order in which they were made, which is that in which they end.
    ending: VecDeque<Ending>,
    last_promise: u64,
    reports: u64,
    pub(super) random: u64,
    /// Where the next look at a placement group's nodes begins.
    pub(super) turn: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    pub id: NodeId,
    /// Number of what it said last, among all that nodes have said.
    pub view: u64,
    said_at: Duration,
    heard: Decoder,
    pub has_gpus: bool,
    pub is_idle: bool,
    amounts: Vec<Amount>,
    /// In the order in which they were made.
    promises: VecDeque<Promise>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Amount {
    name: u32,
    total: i64,
    /// GLB-1.
    free: i64,
    /// Asked for by requests that wait there.
    queued: i64,
}

/// Requests of one shape that wait, wherever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeDemand {
    pub shape: ResourceSet,
    pub waiting: u32,
    /// Some node that stays could serve it.
    pub is_feasible: bool,
}

#[derive(Debug)]
struct Promise {
    number: u64,
    made: Duration,
    demand: Demand,
    /// It will wait there.
    waits: bool,
}

#[derive(Debug)]
struct Ending {
    number: u64,
    made: Duration,
    place: usize,
    node: NodeId,
}

/// Numbers for the names of resources, which are compared often.
#[derive(Debug, Default)]
struct Names {
    numbers: FxHashMap<Box<str>, u32>,
}

/// A cluster whose nodes come and go may have resources named after each: the numbers are given anew after so many.
const MAX_NAMES: usize = 1 << 16;

impl Node {
    pub fn report(&self) -> &NodeReport {
        self.heard.report()
    }

    fn amount(&self, name: u32) -> Option<&Amount> {
        // Nodes have few resources.
        self.amounts.iter().find(|amount| amount.name == name)
    }

    fn amount_mut(&mut self, name: u32) -> Option<&mut Amount> {
        self.amounts.iter_mut().find(|amount| amount.name == name)
    }

    pub fn could_serve(&self, demand: &[(u32, i64)]) -> bool {
        let covers = |(name, wanted): &(u32, i64)| self.amount(*name).is_some_and(|amount| amount.total >= *wanted);
        demand.iter().all(covers)
    }

    pub fn has_room(&self, demand: &[(u32, i64)]) -> bool {
        let covers = |(name, wanted): &(u32, i64)| self.amount(*name).is_some_and(|amount| amount.free >= *wanted);
        demand.iter().all(covers)
    }

    /// How full it would be with the demand, in parts of 1: the fullest of its resources counts.
    pub fn use_with(&self, demand: &[(u32, i64)]) -> f64 {
        let wanted = |name: u32| {
            demand
                .iter()
                .find(|(other, _)| *other == name)
                .map_or(0, |(_, wanted)| *wanted)
        };
        let used = |amount: &Amount| {
            let used = (amount.total - amount.free + wanted(amount.name)).max(0);
            used as f64 / amount.total.max(1) as f64
        };
        self.amounts.iter().map(used).fold(0.0, f64::max)
    }

    /// How long a request that comes now would wait: what is before it, in rounds of the whole node. Where nothing has
    /// changed for long, what holds the node holds it for so long at least.
    pub fn wait_of(&self, now: Duration, demand: &[(u32, i64)]) -> Duration {
        let rounds = |(name, wanted): &(u32, i64)| {
            let Some(amount) = self.amount(*name) else { return 0.0 };
            (amount.queued + wanted) as f64 / amount.total.max(1) as f64
        };
        let rounds = demand.iter().map(rounds).fold(0.0, f64::max);
        let hold = match self.report().hold {
            Duration::ZERO => ASSUMED_HOLD,
            known => known,
        };
        hold.max(now.saturating_sub(self.said_at)).mul_f64(rounds)
    }

    /// The promises that the node, which says that it has `amounts`, has not heard of: those made a moment ago, unless it
    /// has granted or queued so much more than it said before. (What clients of its own took may pass for a promise: then
    /// one request too many is sent there, and comes back.)
    fn unconfirmed(mut self, now: Duration, amounts: &[Amount]) -> VecDeque<Promise> {
        let promises = std::mem::take(&mut self.promises);
        for promise in &promises {
            self.take(&promise.demand, promise.waits, -1);
        }
        // What is more than before, of each that has changed so: granted, and queued.
        let mut more: [Vec<(u32, i64)>; 2] = Default::default();
        for amount in amounts {
            if let Some(before) = self.amount(amount.name) {
                more[0].push((amount.name, before.free - amount.free));
                more[1].push((amount.name, amount.queued - before.queued));
            }
        }
        let is_shown = |demand: &[(u32, i64)], more: &mut Vec<(u32, i64)>| {
            let covers = |(name, wanted): &(u32, i64)| more.iter().any(|(other, much)| other == name && much >= wanted);
            let shown = demand.iter().all(covers);
            for (name, wanted) in demand.iter().filter(|_| shown) {
                let row = more.iter_mut().find(|(other, _)| other == name);
                row.expect("it was covered").1 -= wanted;
            }
            shown
        };
        let [mut granted, mut queued] = more;
        let mut unconfirmed = promises;
        unconfirmed.retain(|promise| {
            let shown = is_shown(&promise.demand, &mut granted) || is_shown(&promise.demand, &mut queued);
            !shown && now.saturating_sub(promise.made) < PROMISE_SETTLES
        });
        unconfirmed
    }

    /// Takes the demand, or gives it back with `sign` -1.
    fn take(&mut self, demand: &[(u32, i64)], waits: bool, sign: i64) {
        for (name, wanted) in demand {
            if let Some(amount) = self.amount_mut(*name) {
                if waits {
                    amount.queued += sign * wanted;
                } else {
                    amount.free -= sign * wanted;
                }
            }
        }
    }
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(name.into(), number);
        number
    }

    /// `None`: no node has one of them.
    fn numbers(&self, resources: &ResourceSet) -> Option<Demand> {
        resources
            .iter()
            .map(|(name, wanted)| Some((*self.numbers.get(name)?, wanted.0)))
            .collect()
    }

    fn amounts(&mut self, report: &NodeReport) -> Vec<Amount> {
        let mut amounts: Vec<Amount> = report
            .total
            .iter()
            .map(|(name, total)| Amount {
                name: self.number(name),
                total: total.0,
                free: report.available.get(name).0,
                queued: 0,
            })
            .collect();
        for (shape, count) in &report.backlog {
            for (name, wanted) in shape.iter() {
                let number = self.numbers.get(name).copied();
                if let Some(amount) = amounts.iter_mut().find(|amount| Some(amount.name) == number) {
                    let queued = wanted.0.saturating_mul(i64::from(*count));
                    amount.queued = amount.queued.saturating_add(queued);
                }
            }
        }
        amounts
    }
}

impl GlobalScheduler {
    /// Replicas with different seeds do not all send to the same nodes first.
    pub fn new(seed: u64) -> Self {
        Self {
            random: seed,
            ..Self::default()
        }
    }

    /// Whether some nodes of the cluster may not have been heard of yet, as when a replica has just begun: until it has
    /// heard of all that the control store knows, nothing is impossible.
    pub fn set_partial(&mut self, is_partial: bool) {
        self.is_partial = is_partial;
    }

    /// A node came, or reports anew, everything at once.
    pub fn node_reported(&mut self, now: Duration, node: NodeId, report: NodeReport) {
        self.heard(now, node, Decoder::knowing(report));
    }

    /// A node says what has changed. What is heard of a node that is gone brings it back only when it says everything.
    pub fn hear(&mut self, now: Duration, node: NodeId, beat: Heartbeat) -> Heard {
        let known = self.places.get(&node).copied();
        let mut new = Decoder::default();
        let decoder = match known {
            Some(place) => {
                &mut self.nodes[place]
                    .as_mut()
                    .expect("GLB-2: who has a place is there")
                    .heard
            }
            None => &mut new,
        };
        let heard = decoder.hear(beat);
        if heard == Heard::Changed {
            let decoder = std::mem::take(decoder);
            self.heard(now, node, decoder);
        }
        heard
    }

    fn heard(&mut self, now: Duration, id: NodeId, heard: Decoder) {
        self.forget_promises(now);
        self.reports += 1;
        if self.names.numbers.len() > MAX_NAMES {
            self.number_anew();
        }
        let report = heard.report();
        let is_known_name = |(name, _): (&str, Quantity)| self.names.numbers.contains_key(name);
        let has_new_names = !report.total.iter().all(is_known_name);
        let amounts = self.names.amounts(report);
        if has_new_names {
            self.renumber_demands();
        }
        let place = match self.places.get(&id) {
            Some(place) => *place,
            None => {
                let place = self.vacant.pop().unwrap_or(self.nodes.len());
                if place == self.nodes.len() {
                    self.nodes.push(None);
                }
                self.places.insert(id, place);
                place
            }
        };
        let before = self.nodes[place].take();
        let promises = before.map_or_else(VecDeque::new, |node| node.unconfirmed(now, &amounts));
        let mut known = Node {
            id,
            view: self.reports,
            said_at: now,
            has_gpus: report.total.get(GPU) > Quantity::ZERO,
            is_idle: report.available == report.total,
            heard,
            amounts,
            promises: VecDeque::new(),
        };
        for promise in &promises {
            known.take(&promise.demand, promise.waits, 1);
        }
        known.promises = promises;
        self.draining.set(place, known.report().draining);
        self.nodes[place] = Some(known);
        self.place_in_classes(place);
    }

    /// It died, or does not answer.
    pub fn node_gone(&mut self, node: NodeId) {
        if let Some(place) = self.places.remove(&node) {
            self.nodes[place] = None;
            self.vacant.push(place);
            self.draining.set(place, false);
            self.place_in_classes(place);
        }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What the node last reported.
    pub fn report(&self, node: NodeId) -> Option<&NodeReport> {
        Some(self.node(*self.places.get(&node)?).report())
    }

    /// Names what the node has said last.
    pub fn view(&self, node: NodeId) -> u64 {
        self.places.get(&node).map_or(0, |place| self.node(*place).view)
    }

    /// When the oldest proposal is forgotten that no report has confirmed: then there may be more room than now.
    pub fn next_lapse(&self) -> Option<Duration> {
        self.ending.front().map(|first| first.made + PROMISE_HOLDS)
    }

    /// What the node has free, less what was proposed to others.
    pub fn free(&self, node: NodeId) -> ResourceSet {
        let Some(place) = self.places.get(&node) else {
            return ResourceSet::new();
        };
        let node = self.node(*place);
        let amount = |name: &str| node.amount(*self.names.numbers.get(name)?);
        let free =
            |(name, _): (&str, Quantity)| (name.to_owned(), Quantity(amount(name).map_or(0, |amount| amount.free)));
        node.report().total.iter().map(free).collect()
    }

    /// Whether some node that stays could serve it.
    pub fn could_serve(&self, shape: &ResourceSet) -> bool {
        let mut open = self.nodes.iter().flatten().filter(|node| !node.report().draining);
        open.any(|node| node.report().total.covers(shape))
    }

    /// What waits on all nodes, by what it asks for, and whether any node could ever serve it.
    pub fn demand(&self) -> Vec<ShapeDemand> {
        let mut sum = Backlog::new();
        for node in self.nodes.iter().flatten() {
            for (shape, count) in &node.report().backlog {
                *sum.entry(shape.clone()).or_default() += count;
            }
        }
        let of_shape = |(shape, waiting): (ResourceSet, u32)| ShapeDemand {
            // What is in a bundle has its place.
            is_feasible: BundleDemand::group_of(&shape).is_some() || self.could_serve(&shape),
            shape,
            waiting,
        };
        sum.into_iter().map(of_shape).collect()
    }

    /// Counts `resources` as taken until the node reports.
    pub fn promise(&mut self, now: Duration, node: NodeId, resources: &ResourceSet) {
        self.forget_promises(now);
        if let (Some(place), Some(demand)) = (self.places.get(&node), self.names.numbers(resources)) {
            self.promise_at(now, *place, demand, false);
        }
    }

    pub(super) fn promise_at(&mut self, now: Duration, place: usize, demand: Demand, waits: bool) {
        self.last_promise += 1;
        let node = self.nodes[place].as_mut().expect("the caller has looked it up");
        node.take(&demand, waits, 1);
        self.ending.push_back(Ending {
            number: self.last_promise,
            made: now,
            place,
            node: node.id,
        });
        node.promises.push_back(Promise {
            number: self.last_promise,
            made: now,
            demand,
            waits,
        });
        if !waits {
            self.place_in_classes(place);
        }
    }

    /// Those that hold no longer.
    pub(super) fn forget_promises(&mut self, now: Duration) {
        while (self.ending.front()).is_some_and(|first| now.saturating_sub(first.made) >= PROMISE_HOLDS) {
            let ended = self.ending.pop_front().expect("just looked at");
            let Some(node) = self.nodes[ended.place].as_mut().filter(|node| node.id == ended.node) else {
                continue;
            };
            if (node.promises.front()).is_none_or(|first| first.number != ended.number) {
                continue;
            }
            let promise = node.promises.pop_front().expect("just looked at");
            node.take(&promise.demand, promise.waits, -1);
            self.place_in_classes(ended.place);
        }
    }

    pub(super) fn node(&self, place: usize) -> &Node {
        self.nodes[place].as_ref().expect("GLB-2: only nodes are in sets")
    }

    pub(super) fn numbers(&self, resources: &ResourceSet) -> Option<Demand> {
        self.names.numbers(resources)
    }

    fn place_in_classes(&mut self, place: usize) {
        let node = self.nodes[place].as_ref();
        for class in self.classes.iter_mut() {
            class.place(place, node);
        }
    }

    /// A resource that no node had until now.
    fn renumber_demands(&mut self) {
        for class in self.classes.iter_mut().filter(|class| class.demand.is_none()) {
            class.demand = self.names.numbers(&class.resources);
        }
    }

    /// Names that no node has any more go.
    fn number_anew(&mut self) {
        self.names = Names::default();
        self.ending.clear();
        self.classes.clear();
        for node in self.nodes.iter_mut().flatten() {
            node.amounts = self.names.amounts(node.heard.report());
            node.promises.clear();
        }
    }

    /// Looks at every node and class.
    ///
    /// # Panics
    /// With the name of the promise that is broken.
    pub fn check_invariants(&self) {
        for (place, node) in self.nodes.iter().enumerate() {
            if let Some(node) = node {
                assert_eq!(
                    self.places.get(&node.id),
                    Some(&place),
                    "GLB-2: a node is where it is said to be"
                );
                for (name, _) in node.report().total.iter() {
                    let number = self.names.numbers[name];
                    let taken: i64 = node
                        .promises
                        .iter()
                        .filter(|promise| !promise.waits)
                        .flat_map(|promise| promise.demand.iter())
                        .filter(|(other, _)| *other == number)
                        .map(|(_, amount)| amount)
                        .sum();
                    let free = node.amount(number).expect("it is of its total").free;
                    assert_eq!(free, node.report().available.get(name).0 - taken, "GLB-1: {name}");
                }
            }
            for class in self.classes.iter() {
                let open = node.as_ref().filter(|node| !node.report().draining);
                let could = open.is_some_and(|node| {
                    node.report().total.covers(&class.resources)
                        && crate::policy::labels::are_met(&node.report().labels, &class.rules)
                });
                assert_eq!(
                    class.feasible.has(place),
                    could,
                    "GLB-2: who could serve {}",
                    class.resources
                );
                let has_room = could && open.is_some_and(|node| self.free(node.id).covers(&class.resources));
                assert_eq!(
                    class.roomy.has(place),
                    has_room,
                    "GLB-2: who has room for {}",
                    class.resources
                );
            }
        }
    }
}
