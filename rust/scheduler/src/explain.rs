//! Why something does not run, in words.

use std::sync::Arc;
use std::time::Duration;

use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::{ActorId, Quantity, ResourceSet};

use crate::effect::Effect;
use crate::event::{ClientKey, RequestKey};
use crate::here::LABELS;
use crate::ledger::Ledger;
use crate::queue::{QueueKey, Wanted};
use crate::scheduler::Scheduler;

/// Who waits for resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiter {
    Lease(ClientKey, RequestKey),
    Actor(ActorId),
}

impl From<Wanted> for Waiter {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Lease(client, request) => Self::Lease(client, request),
            Wanted::Actor(actor) => Self::Actor(actor),
        }
    }
}

/// A request that waits, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub who: Waiter,
    pub name: Arc<str>,
    /// What it asks for.
    pub shape: Arc<ResourceSet>,
    pub why: String,
    /// No node will ever serve it as it is.
    pub infeasible: bool,
}

impl Ledger {
    pub(crate) fn infeasible_text(&self, name: &str, demand: &ResourceSet) -> String {
        if let Some(inside) = BundleDemand::of(demand) {
            return format!(
                "The {name} asks for {} in its placement group {}, of whose bundles none has as much. It waits for ever: \
                 ask for less, or make a group with larger bundles.",
                inside.resources, inside.group
            );
        }
        if let Some(why) = demand.iter().find_map(|(name, _)| name.strip_prefix(LABELS)) {
            return format!(
                "The {name} can't be placed: {why}. It waits until such a node joins. Name nodes with the option \
                 labels of ray_rs.init(), or ask for others."
            );
        }
        let missing: ResourceSet = demand
            .iter()
            .map(|(name, amount)| (name.to_owned(), Quantity((amount.0 - self.total.get(name).0).max(0))))
            .collect();
        format!(
            "The {name} asks for {demand}, which no node of this cluster can ever give: {missing} is missing. It waits \
             until a node that has it joins. Ask for less, or start ray_rs with more."
        )
    }
}

impl Scheduler {
    /// Tells people, once a queue, of requests that only the end of an actor could serve.
    pub(crate) fn tell_stuck(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        // With no actors only what is infeasible does not fit, and of that people are told at once.
        if self.held_by_actors.is_empty() {
            return;
        }
        for position in 0..self.turns.len() {
            let key = self
                .turns
                .get(position)
                .expect("nothing here changes the turns")
                .clone();
            let queue = &self.queues[&key];
            let head = queue.items.front().expect("a queue in the turns has items");
            let due = head.since + self.options.stuck_after;
            if queue.told_stuck || queue.told_infeasible || self.could_fit(&key.shape) {
                continue;
            }
            if due > now {
                self.look_again(due);
                continue;
            }
            let text = format!(
                "The {} has waited for {} since {} s: actors hold what it asks for. It runs when one of them ends; \
                 give actors fewer resources, or start ray_rs with more.",
                head.name,
                key.shape,
                now.saturating_sub(head.since).as_secs(),
            );
            effects.push(Effect::Notice { job: queue.job, text });
            self.queues.get_mut(&key).expect("just read").told_stuck = true;
        }
    }

    /// What waits for this node's resources, in the order of turns, and why; at most `most` of them.
    pub fn waiting(&self, most: usize) -> Vec<Waiting> {
        let mut rows = Vec::new();
        for waiting in self.awaiting_workers().take(most) {
            rows.push(Waiting {
                who: waiting.item.wanted.into(),
                name: Arc::clone(&waiting.item.name),
                shape: Arc::clone(waiting.queue.shape.set()),
                why: format!(
                    "{} is set aside for it, and its worker process starts",
                    waiting.queue.shape
                ),
                infeasible: false,
            });
        }
        for (turn, key) in self.turns.iter().enumerate() {
            for (place, item) in self.queues[key].items.iter().enumerate() {
                if rows.len() >= most {
                    return rows;
                }
                rows.push(Waiting {
                    who: item.wanted.into(),
                    name: Arc::clone(&item.name),
                    shape: Arc::clone(key.shape.set()),
                    why: self.why_waits(turn, key, place, &item.name),
                    infeasible: !self.ledger.feasible(&key.shape),
                });
            }
        }
        rows
    }

    fn why_waits(&self, turn: usize, key: &QueueKey, place: usize, name: &str) -> String {
        if !self.ledger.feasible(&key.shape) {
            return self.ledger.infeasible_text(name, &key.shape);
        }
        let before = match (turn, place) {
            (0, 0) => "It is next".to_owned(),
            (_, 0) => format!("{turn} other queues have their turn before it"),
            (_, 1) => "1 request of the same kind is before it".to_owned(),
            (_, before) => format!("{before} requests of the same kind are before it"),
        };
        let held = match self.could_fit(&key.shape) {
            true => "",
            false => "; actors hold what it asks for, and it runs when one of them ends",
        };
        let available = self.ledger.free_for(&key.shape);
        let free: Vec<String> = (key.shape.iter())
            .map(|(name, _)| format!("{name}: {}", available.get(name).to_f64()))
            .collect();
        format!(
            "{before}; it asks for {}, and free is {{{}}}{held}",
            key.shape,
            free.join(", ")
        )
    }

    /// What keeps a request from being granted.
    pub fn explain(&self, client: ClientKey, request: RequestKey) -> String {
        let wanted = Wanted::Lease(client, request);
        if let Some(waiting) = self.awaiting_workers().find(|waiting| waiting.item.wanted == wanted) {
            return format!(
                "{}: {} is set aside, its worker process starts",
                waiting.item.name, waiting.queue.shape
            );
        }
        for (turn, key) in self.turns.iter().enumerate() {
            let Some(place) = self.queues[key].items.iter().position(|item| item.wanted == wanted) else {
                continue;
            };
            let name = &self.queues[key].items[place].name;
            if !self.ledger.feasible(&key.shape) {
                return self.ledger.infeasible_text(name, &key.shape);
            }
            return format!(
                "{name}: number {} of its queue, whose turn is number {}; it asks for {}, {} is available",
                place + 1,
                turn + 1,
                key.shape,
                self.ledger.free_for(&key.shape),
            );
        }
        "no such request waits here".to_owned()
    }
}
