//! What goes wrong in a world: nodes die and leave, replicas of the global scheduler are killed.

use std::time::Duration;

use ray_rs_scheduler::placement_group::Event as GroupEvent;

use super::Options;
use super::events::{Event, State};
use super::workload::{Task, ZONES, id_of};
use super::world::World;
use crate::rng::Rng;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    NodeDies(u32),
    /// The control store has noticed.
    DeathIsKnown(u32),
    NodeDrains(u32),
    ReplicaDies(usize),
    ReplicaIsBack(usize),
}

/// A node that does not answer is declared dead after so long.
const NOTICED_AFTER: Duration = Duration::from_millis(500);
const REPLICA_IS_AWAY: Duration = Duration::from_secs(1);

/// What happens when, in no order. The first nodes, which have one of each resource and label, stay.
pub(super) fn plan(options: &Options, window: Duration) -> Vec<(Duration, Trouble)> {
    let mut rng = Rng::new(options.seed ^ 0x7201_0b1e);
    let mut plan = Vec::new();
    let mut spared: Vec<u32> = (ZONES..options.nodes).collect();
    let at = |rng: &mut Rng| window.mul_f64(0.1 + 0.8 * rng.below(1000) as f64 / 1000.0);
    for number in 0..options.deaths + options.drains {
        if spared.is_empty() {
            break;
        }
        let node = spared.swap_remove(rng.below(spared.len() as u64) as usize);
        let trouble = match number < options.deaths {
            true => Trouble::NodeDies(node),
            false => Trouble::NodeDrains(node),
        };
        plan.push((at(&mut rng), trouble));
    }
    for _ in 0..options.replica_crashes {
        let replica = rng.below(u64::from(options.replicas)) as usize;
        plan.push((at(&mut rng), Trouble::ReplicaDies(replica)));
    }
    plan
}

impl World {
    pub(super) fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::NodeDies(node) => {
                self.nodes[node as usize].is_dead = true;
                let running: f64 = (self.nodes[node as usize].leases.values())
                    .map(|task| self.workload.cpus_of(&self.workload.task(*task)))
                    .sum();
                self.cpus_changed(-running);
                self.schedule(NOTICED_AFTER, Event::Trouble(Trouble::DeathIsKnown(node)));
            }
            Trouble::DeathIsKnown(node) => self.death_is_known(node),
            Trouble::NodeDrains(node) => {
                if !self.nodes[node as usize].is_dead {
                    self.nodes[node as usize].drain();
                    self.beat(node);
                }
            }
            Trouble::ReplicaDies(replica) => {
                if std::mem::replace(&mut self.replicas[replica].is_up, false) {
                    let back = Event::Trouble(Trouble::ReplicaIsBack(replica));
                    self.schedule(REPLICA_IS_AWAY, back);
                }
            }
            Trouble::ReplicaIsBack(replica) => {
                let seed = self.rng.next();
                self.replicas[replica].begin_anew(seed, self.options.nodes);
                // Its channels are open again: each node says everything, once.
                for node in 0..self.options.nodes {
                    let after = self.link();
                    self.schedule(after, Event::StartOver { node, replica });
                }
            }
        }
    }

    pub(super) fn death_is_known(&mut self, dead: u32) {
        for replica in &mut self.replicas {
            replica.node_gone(dead);
        }
        self.table_hears(GroupEvent::NodeDied { node: id_of(dead) });
        let mut again = Vec::new();
        for number in 0..self.next_task {
            let record = self.records[number as usize];
            if !matches!(record.state, State::Waiting | State::Running) {
                continue;
            }
            let task: Task = self.workload.task(number);
            if task.home == dead {
                if record.state == State::Running && !self.nodes[record.at as usize].is_dead {
                    self.cpus_changed(-self.workload.cpus_of(&task));
                }
                self.records[number as usize].state = State::Abandoned;
                self.figures.abandoned += 1;
                self.ended += 1;
            } else if record.at == dead && !self.nodes[task.home as usize].is_dead {
                again.push(number);
            }
        }
        for node in 0..self.options.nodes {
            self.at(node, |node, now, workload, costs, orders| {
                let is_its = |task: u32| workload.task(task).home == dead;
                node.client_gone(now, dead, is_its, costs, orders);
            });
        }
        for number in again {
            let record = &mut self.records[number as usize];
            record.attempt += 1;
            (record.state, record.hops) = (State::Waiting, 0);
            let attempt = record.attempt;
            let after = self.local();
            self.schedule(after, Event::AtHome { task: number, attempt });
        }
    }
}
