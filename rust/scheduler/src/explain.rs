//! Why something does not run, in words.

use std::time::Duration;

use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::{Quantity, ResourceSet};

use crate::effect::Effect;
use crate::event::{ClientKey, RequestKey};
use crate::here::LABELS;
use crate::ledger::Ledger;
use crate::queue::Wanted;
use crate::scheduler::Scheduler;

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
        for position in 0..self.turns.len() {
            let key = self.turns[position].clone();
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
