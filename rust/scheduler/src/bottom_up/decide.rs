//! The proposal.
//!
//! Of the nodes with room, some are looked at: those that hold arguments, and a few more from a random place on. The one
//! where the request could begin soonest is proposed, counting the time that its arguments take to travel; of equals one
//! without GPUs that it does not need, then one that is at most half full and has work already (so that idle nodes can be
//! given back), then the emptiest. Where no node has room, the same is done among those that could serve it one day, with
//! what waits there before it.

use std::time::Duration;

use ray_rs_types::placing::{LabelRule, Placing, Strategy};
use ray_rs_types::resources::GPU;
use ray_rs_types::{NodeId, Quantity, ResourceSet};

use super::view::GlobalScheduler;
use super::{NodeReport, Proposal, Wish, travel_time};
use crate::policy::{self, Choice, NodeView, labels, node_affinity};

/// Nodes that are compared for one request.
const SAMPLE: usize = 8;
/// So many of those that hold arguments are looked at besides.
const HOLDERS: usize = 8;
const NOT_ALL_HEARD: &str = "not all nodes of this cluster have been heard of yet";
/// Up to here nodes are filled before others are begun.
const HALF_FULL: f64 = 0.5;

/// How long the arguments that are not on `node` travel.
fn travel(wish: &Wish<'_>, node: Option<NodeId>) -> Duration {
    let missing = (wish.arguments.iter()).filter(|(holder, _)| Some(*holder) != node);
    let bytes: u64 = missing.map(|(_, bytes)| bytes).sum();
    travel_time(bytes)
}

/// `is_there`: some node has the labels.
fn none_has(labels: &str, resources: &ResourceSet, is_there: bool) -> String {
    match is_there {
        true => format!("no node of this cluster has both the labels {labels} and {resources}"),
        false => format!("no node of this cluster has the labels {labels}"),
    }
}

/// Ways to look at a decision's candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Now,
    OneDay,
}

impl GlobalScheduler {
    /// The node to ask, if there is one: see [`Self::propose`].
    pub fn pick(&mut self, now: Duration, wish: Wish<'_>) -> Option<NodeId> {
        self.propose(now, wish).node()
    }

    /// Whether any node could ever serve it.
    pub fn is_feasible(&mut self, resources: &ResourceSet) -> bool {
        let class = self.class(resources, &[]);
        self.classes[class].feasible.count() > 0
    }

    /// Decides, and counts what it proposes as taken.
    pub fn propose(&mut self, now: Duration, wish: Wish<'_>) -> Proposal {
        self.forget_promises(now);
        if let Some(nodes) = wish.among {
            return self.in_group(now, nodes, &wish);
        }
        let Some(placing) = wish.placing else {
            let class = self.class(wish.resources, &[]);
            return self.soonest(now, class, &wish);
        };
        let selector = match self.selector(placing, wish.resources) {
            Ok(selector) => selector,
            Err(_) if self.is_partial => return Proposal::Pending(NOT_ALL_HEARD.to_owned()),
            Err(why) => return Proposal::Infeasible(why),
        };
        match &placing.strategy {
            Strategy::Default => {
                let class = self.class(wish.resources, &[selector]);
                self.soonest(now, class, &wish)
            }
            Strategy::Spread => {
                let class = self.class(wish.resources, &[selector]);
                self.next_in_turn(now, class, &wish)
            }
            Strategy::NodeAffinity {
                node,
                soft,
                spill_on_unavailable,
                fail_on_unavailable,
            } => {
                let affinity = node_affinity::Wish {
                    node: *node,
                    soft: *soft,
                    spill_on_unavailable: *spill_on_unavailable,
                    fail_on_unavailable: *fail_on_unavailable,
                };
                self.named(now, affinity, selector, &wish)
            }
            Strategy::NodeLabels { hard, soft } => {
                let preferred = self.class(wish.resources, &[selector, hard, soft]);
                if !soft.is_empty() && self.classes[preferred].feasible.count() > 0 {
                    return self.soonest(now, preferred, &wish);
                }
                let class = self.class(wish.resources, &[selector, hard]);
                self.soonest(now, class, &wish)
            }
        }
    }

    fn class(&mut self, resources: &ResourceSet, rules: &[&[LabelRule]]) -> usize {
        if let Some(class) = self.classes.find(resources, rules) {
            return class;
        }
        let demand = self.numbers(resources);
        let at = self.classes.make(resources, demand, rules);
        let class = &mut self.classes[at];
        for (place, node) in self.nodes.iter().enumerate() {
            class.place(place, node.as_ref());
        }
        at
    }

    /// The first selector that some node could serve; without any, no rules.
    fn selector<'p>(&mut self, placing: &'p Placing, resources: &ResourceSet) -> Result<&'p [LabelRule], String> {
        if placing.selectors.is_empty() {
            return Ok(&[]);
        }
        for rules in &placing.selectors {
            let class = self.class(resources, &[rules]);
            if self.classes[class].feasible.count() > 0 {
                return Ok(rules);
            }
        }
        let asked: Vec<String> = placing.selectors.iter().map(|rules| labels::describe(rules)).collect();
        let is_there = placing.selectors.iter().any(|rules| self.has_labelled(rules));
        Err(none_has(&asked.join(" or "), resources, is_there))
    }

    fn soonest(&mut self, now: Duration, class: usize, wish: &Wish<'_>) -> Proposal {
        let from = wish.from.and_then(|from| self.places.get(&from).copied());
        // It would stay for an equal: what comes later may need the other node more.
        let here = wish.wait_here.map(|wait| wait + travel(wish, wish.from));
        let found =
            self.best(now, class, from, wish, Room::Now)
                .or_else(|| match wish.only_if_free && here.is_none() {
                    true => None,
                    false => self.best(now, class, from, wish, Room::OneDay),
                });
        // It asks because it named its nodes, and is one of those with room.
        let is_one = from.is_some_and(|from| !wish.only_if_free && self.classes[class].roomy.has(from));
        match found {
            Some((_, cost)) if is_one && travel(wish, wish.from) <= cost => Proposal::Stay,
            Some((place, cost)) if !wish.only_if_free || here.is_none_or(|here| cost < here) => {
                let has_room = self.classes[class].roomy.has(place);
                self.send(now, place, class, has_room)
            }
            Some(_) => Proposal::Stay,
            None => self.nobody(class, from, wish),
        }
    }

    /// Why there is no node.
    fn nobody(&self, class: usize, from: Option<usize>, wish: &Wish<'_>) -> Proposal {
        let class = &self.classes[class];
        if wish.only_if_free || from.is_some_and(|from| class.feasible.has(from)) {
            return Proposal::Stay;
        }
        let mut leaving = self.draining.from(0).map(|place| self.node(place).report());
        let could = |report: &NodeReport| {
            report.total.covers(&class.resources) && labels::are_met(&report.labels, &class.rules)
        };
        if class.feasible.count() > 0 {
            return Proposal::Pending(format!("the nodes that have {} did not take it", class.resources));
        }
        if leaving.any(could) {
            return Proposal::Pending(format!(
                "the nodes of this cluster that have {} are about to leave it",
                class.resources
            ));
        }
        if self.is_partial {
            return Proposal::Pending(NOT_ALL_HEARD.to_owned());
        }
        Proposal::Infeasible(match class.rules.is_empty() {
            true => policy::infeasible(&class.resources),
            false => {
                let is_there = self.has_labelled(&class.rules);
                none_has(&labels::describe(&class.rules), &class.resources, is_there)
            }
        })
    }

    fn has_labelled(&self, rules: &[LabelRule]) -> bool {
        let mut nodes = self.nodes.iter().flatten();
        nodes.any(|node| labels::are_met(&node.report().labels, rules))
    }

    fn best(
        &mut self,
        now: Duration,
        class: usize,
        from: Option<usize>,
        wish: &Wish<'_>,
        room: Room,
    ) -> Option<(usize, Duration)> {
        let start = self.next_random() as usize % self.nodes.len().max(1);
        let class = &self.classes[class];
        let demand = class.demand.as_deref()?;
        let set = match room {
            Room::Now => &class.roomy,
            Room::OneDay => &class.feasible,
        };
        if set.count() == 0 {
            return None;
        }
        let needs_gpu = wish.resources.get(GPU) > Quantity::ZERO;
        let rank = |place: usize| {
            let node = self.node(place);
            let has_room = class.roomy.has(place);
            let wait = if has_room {
                Duration::ZERO
            } else {
                node.wait_of(now, demand)
            };
            let used = node.use_with(demand);
            let filled = match has_room && used <= HALF_FULL {
                true if node.is_idle => HALF_FULL / 2.0,
                true => 0.0,
                false => used,
            };
            (wait + travel(wish, Some(node.id)), node.has_gpus && !needs_gpu, filled)
        };
        // One that has to wait for room may still begin sooner than one that has to wait for bytes.
        let holding = match wish.only_if_free && wish.wait_here.is_none() {
            true => &class.roomy,
            false => &class.feasible,
        };
        let holders = (wish.arguments.iter().take(HOLDERS))
            .filter_map(|(holder, _)| self.places.get(holder).copied())
            .filter(|place| holding.has(*place));
        let may = |place: &usize| Some(*place) != from && !self.has_refused(*place, wish);
        let candidates = set.from(start).filter(may).take(SAMPLE);
        let mut found: Option<(usize, (Duration, bool, f64))> = None;
        for place in candidates.chain(holders.filter(may)) {
            let rank = rank(place);
            let is_better = found.as_ref().is_none_or(|(_, best)| {
                (rank.0, rank.1)
                    .cmp(&(best.0, best.1))
                    .then(rank.2.total_cmp(&best.2))
                    .is_lt()
            });
            if is_better {
                found = Some((place, rank));
            }
        }
        found.map(|(place, rank)| (place, rank.0))
    }

    fn has_refused(&self, place: usize, wish: &Wish<'_>) -> bool {
        let node = self.node(place);
        wish.refused.contains(&(node.id, node.view))
    }

    /// SPREAD: one node after another, those with room first. The asking node has its turn as well.
    fn next_in_turn(&mut self, now: Duration, class: usize, wish: &Wish<'_>) -> Proposal {
        let from = wish.from.and_then(|from| self.places.get(&from).copied());
        let turn = self.classes[class].turn;
        let (roomy, feasible) = (&self.classes[class].roomy, &self.classes[class].feasible);
        let may = |place: &usize| !self.has_refused(*place, wish);
        let next = roomy.from(turn).find(may).or_else(|| feasible.from(turn).find(may));
        let Some(place) = next else {
            return self.nobody(class, from, wish);
        };
        let has_room = roomy.has(place);
        self.classes[class].turn = place + 1;
        let proposal = self.send(now, place, class, has_room);
        if Some(place) == from { Proposal::Stay } else { proposal }
    }

    /// In a placement group: of its nodes one with room, or the one where least waits for the same; equals take turns.
    fn in_group(&mut self, now: Duration, nodes: &[NodeId], wish: &Wish<'_>) -> Proposal {
        self.turn = self.turn.wrapping_add(1);
        let demand = self.numbers(wish.resources);
        let first = self.turn % nodes.len().max(1);
        let in_turn = nodes[first..].iter().chain(&nodes[..first]);
        let known = in_turn.filter_map(|node| self.places.get(node).copied());
        let waiting = |place: usize| {
            let backlog = &self.node(place).report().backlog;
            backlog.get(wish.resources).copied().unwrap_or(0)
        };
        let has_room = |place: usize| (demand.as_deref()).is_some_and(|demand| self.node(place).has_room(demand));
        let may = |place: &usize| Some(self.node(*place).id) != wish.from && !self.has_refused(*place, wish);
        let best = known
            .filter(may)
            .min_by_key(|place| (!has_room(*place), waiting(*place)));
        let here = wish.from.filter(|from| nodes.contains(from));
        let here = here.and_then(|here| self.places.get(&here).copied());
        // Its own backlog counts the one that asks.
        let stays = |there: usize| here.is_some_and(|here| waiting(here).max(1) <= waiting(there) + 1);
        match best {
            Some(there) if has_room(there) => {
                let demand = demand.expect("it was compared");
                self.promise_at(now, there, demand, false);
                Proposal::Node {
                    node: self.node(there).id,
                    has_room: true,
                }
            }
            Some(there) if stays(there) => Proposal::Stay,
            Some(there) => Proposal::Node {
                node: self.node(there).id,
                has_room: false,
            },
            None if here.is_some() => Proposal::Stay,
            None => Proposal::Pending("the nodes of its placement group are not here".to_owned()),
        }
    }

    /// NodeAffinity, by the policy for it: it is shown the one node that counts.
    fn named(
        &mut self,
        now: Duration,
        affinity: node_affinity::Wish,
        selector: &[LabelRule],
        wish: &Wish<'_>,
    ) -> Proposal {
        let class = self.class(wish.resources, &[selector]);
        let place = self.places.get(&affinity.node).copied();
        let place = place.filter(|place| !self.node(*place).report().draining);
        let is_possible = place.is_some_and(|place| self.classes[class].feasible.has(place));
        let has_room = place.is_some_and(|place| self.classes[class].roomy.has(place));
        if affinity.soft && (!is_possible || affinity.spill_on_unavailable && !has_room) {
            return self.soonest(now, class, wish);
        }
        let view = place.map(|place| {
            let node = self.node(place);
            NodeView {
                node: node.id,
                total: node.report().total.clone(),
                available: self.free(node.id),
                labels: node.report().labels.clone(),
            }
        });
        let visible: Vec<&NodeView> = view.iter().filter(|view| labels::meets(view, selector)).collect();
        match (node_affinity::choose(&visible, None, affinity, wish.resources), place) {
            (Choice::Node(_), Some(place)) if self.has_refused(place, wish) => {
                Proposal::Pending("the node that it names did not take it".to_owned())
            }
            (Choice::Node(node), Some(place)) => {
                let proposal = self.send(now, place, class, has_room);
                if wish.from == Some(node) {
                    Proposal::Stay
                } else {
                    proposal
                }
            }
            (Choice::Never(_), None) if self.is_partial => Proposal::Pending(NOT_ALL_HEARD.to_owned()),
            (Choice::Never(why), _) => Proposal::Never(why),
            (Choice::Wait(why), _) => Proposal::Pending(why),
            (Choice::Node(_), None) => unreachable!("it chooses among what it is shown"),
        }
    }

    fn send(&mut self, now: Duration, place: usize, class: usize, has_room: bool) -> Proposal {
        let node = self.node(place).id;
        if let Some(demand) = self.classes[class].demand.clone() {
            self.promise_at(now, place, demand, !has_room);
        }
        Proposal::Node { node, has_room }
    }

    /// SplitMix64: where a look begins need not surprise anybody, only differ.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}
