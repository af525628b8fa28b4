//! What nodes order is done, and what they have to say is said.

use std::time::Duration;

use ray_rs_scheduler::Event as NodeEvent;
use ray_rs_scheduler::bottom_up::heartbeat::Heartbeat;
use ray_rs_scheduler::placement_group::{Effect as GroupEffect, Event as GroupEvent};

use super::events::{Event, State};
use super::groups;
use super::node::{Node, Order};
use super::workload::{Wants, Workload, id_of, number_of};
use super::world::World;
use super::{ms, us};

/// As the raylet's.
const BEAT_PAUSE: Duration = Duration::from_millis(100);
const GROUP_LIVES: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn at(
        &mut self,
        number: u32,
        act: impl FnOnce(&mut Node, Duration, &Workload, &mut super::Costs, &mut Vec<Order>),
    ) {
        let node = &mut self.nodes[number as usize];
        if node.is_dead {
            return;
        }
        let mut orders = std::mem::take(&mut self.orders);
        let costs = &mut self.figures.costs;
        act(node, self.now, &self.workload, costs, &mut orders);
        node.look_round(self.now, costs, &mut orders);
        if self.options.checks {
            node.check_invariants();
        }
        self.orders = orders;
        self.obey(number);
        self.plan(number);
    }

    pub(super) fn obey(&mut self, node: u32) {
        let mut orders = std::mem::take(&mut self.orders);
        for order in orders.drain(..) {
            match order {
                Order::Granted { task, lease } => self.granted(node, task, lease),
                Order::Ask(ask) => {
                    let first = node as usize % self.replicas.len();
                    let all = (first..self.replicas.len()).chain(0..first);
                    let replica = { all }.find(|at| self.replicas[*at].is_up).unwrap_or(first);
                    let (after, ask) = (self.link(), Box::new(ask));
                    self.schedule(after, Event::Ask { replica, node, ask });
                }
                Order::Move { task, to, expects_room } => {
                    let after = self.local() + self.link();
                    let record = &mut self.records[task as usize];
                    record.hops = record.hops.saturating_add(1);
                    let (attempt, node) = (record.attempt, number_of(to));
                    record.at = node;
                    let at_node = Event::AtNode {
                        node,
                        task,
                        attempt,
                        expects_room,
                    };
                    self.schedule(after, at_node);
                }
                Order::SpillBack { task } => {
                    let after = self.link() + self.local();
                    let attempt = self.records[task as usize].attempt;
                    self.schedule(after, Event::AtHome { task, attempt });
                }
                Order::ComeAgain { task, after } => {
                    let after = after + us(self.rng.below(10_000));
                    let attempt = self.records[task as usize].attempt;
                    self.schedule(after, Event::AtHome { task, attempt });
                }
                Order::Failed { task, why } => {
                    let wants = self.workload.task(task).wants;
                    let Wants::Node { node, soft: false } = wants else {
                        panic!("seed {}: {wants:?} failed: {why}", self.options.seed)
                    };
                    assert!(
                        self.options.deaths + self.options.drains > 0,
                        "node {node} is there, and task {task} failed: {why}"
                    );
                    self.records[task as usize].state = State::Failed;
                    self.figures.failed += 1;
                    self.ended += 1;
                }
                Order::StartWorker => {
                    let after = us(5_000 + self.rng.below(5_000));
                    self.schedule(after, Event::WorkerUp { node });
                }
                Order::WorkerEnds(worker) => self.schedule(ms(1), Event::WorkerEnded { node, worker }),
                Order::BundlesPrepared {
                    group,
                    attempt,
                    has_room,
                } => {
                    let event = GroupEvent::Prepared {
                        group,
                        attempt,
                        node: id_of(node),
                        has_room,
                    };
                    let after = self.link();
                    self.schedule(after, Event::ToTable(Box::new(event)));
                    if !has_room {
                        // What the table knew of it was old.
                        self.beat(node);
                    }
                }
            }
        }
        self.orders = orders;
    }

    /// When this node is to be looked at again, and heard of.
    pub(super) fn plan(&mut self, number: u32) {
        let node = &self.nodes[number as usize];
        let tick = &mut self.ticks[number as usize];
        if let Some(due) = node.next_deadline()
            && tick.is_none_or(|at| due < at)
        {
            // What is due now and could not be done waits for the next moment.
            let due = due.max(self.now + us(1));
            *tick = Some(due);
            self.schedule(due - self.now, Event::Tick { node: number });
        }
        let (last, is_set) = self.beats[number as usize];
        if !is_set && self.nodes[number as usize].has_news() {
            self.beats[number as usize].1 = true;
            let after = (last + BEAT_PAUSE).saturating_sub(self.now);
            self.schedule(after, Event::Beat { node: number });
        }
    }

    pub(super) fn beat(&mut self, number: u32) {
        self.beats[number as usize] = (self.now, false);
        let node = &mut self.nodes[number as usize];
        if node.is_dead {
            return;
        }
        let beats = node.beats(self.now);
        if self.options.groups > 0 {
            let use_of_it = GroupEvent::NodeUse {
                node: id_of(number),
                in_use: node.scheduler.used_outside_bundles(),
            };
            let after = self.link();
            self.schedule(after, Event::ToTable(Box::new(use_of_it)));
        }
        for (replica, beat) in beats.into_iter().enumerate() {
            self.send_beat(number, replica, beat);
        }
    }

    pub(super) fn send_beat(&mut self, node: u32, replica: usize, beat: Heartbeat) {
        if self.rng.below(1000) < u64::from(self.options.lost_beats_permille) {
            return;
        }
        let at = self.now + self.link();
        let last = &mut self.links[node as usize * self.replicas.len() + replica];
        *last = at.max(*last);
        let after = *last - self.now;
        let beat = Box::new(beat);
        self.schedule(after, Event::Heartbeat { replica, node, beat });
    }

    pub(super) fn table_hears(&mut self, event: GroupEvent) {
        let effects = self.groups.on_event(event, &mut self.figures.costs.groups);
        if self.options.checks {
            self.groups.table.check_invariants();
        }
        for effect in effects {
            match effect {
                GroupEffect::Prepare { node, .. }
                | GroupEffect::Commit { node, .. }
                | GroupEffect::Return { node, .. } => {
                    let after = self.link();
                    self.schedule(after, Event::ToNode(number_of(node), Box::new(effect)));
                }
                GroupEffect::Publish { group } => {
                    if let Some(waited) = self.groups.published(self.now, group) {
                        self.figures.group_waits.note(waited);
                        self.schedule(GROUP_LIVES, Event::GroupUnwanted(group));
                    }
                }
                GroupEffect::Persist { .. } | GroupEffect::Removed { .. } | GroupEffect::Forget { .. } => {}
            }
        }
    }

    pub(super) fn obey_table(&mut self, number: u32, effect: GroupEffect) {
        if self.nodes[number as usize].is_dead {
            return;
        }
        let event = match effect {
            GroupEffect::Prepare {
                group,
                attempt,
                bundles,
                commit,
                ..
            } => NodeEvent::BundlesWanted {
                group,
                attempt,
                bundles: groups::bundles(&bundles),
                commit,
            },
            GroupEffect::Commit { group, .. } => NodeEvent::BundlesCommitted { group },
            GroupEffect::Return {
                group, removed: true, ..
            } => NodeEvent::GroupRemoved { group },
            GroupEffect::Return { group, bundles, .. } => NodeEvent::BundlesReturned { group, bundles },
            GroupEffect::Persist { .. }
            | GroupEffect::Publish { .. }
            | GroupEffect::Removed { .. }
            | GroupEffect::Forget { .. } => unreachable!("no order to a node"),
        };
        self.at(number, |node, now, _, costs, orders| {
            node.decide(now, event, costs, orders)
        });
    }
}
