//! The owners of tasks: they ask for leases, run their tasks under them, and give them back.

use std::time::Duration;

use ray_rs_scheduler::LeaseKey;

use super::events::{Event, State};
use super::workload::{ARGUMENT_BYTES, Wants};
use super::world::{BEGIN, World};
use crate::rng::mixed;

/// Bytes a second that a link carries.
const LINK: f64 = 1e9;

impl World {
    /// Whether what is said of it is about what it is now.
    pub(super) fn is_current(&self, task: u32, attempt: u8) -> bool {
        let record = &self.records[task as usize];
        record.state == State::Waiting && record.attempt == attempt
    }

    pub(super) fn at_home(&mut self, number: u32, attempt: u8) {
        let task = self.workload.task(number);
        if !self.is_current(number, attempt) || self.nodes[task.home as usize].is_dead {
            return;
        }
        let record = &mut self.records[number as usize];
        record.at = task.home;
        let hops = record.hops;
        self.at(task.home, |node, now, world, costs, orders| {
            node.submitted(now, (number, &task), hops, world, costs, orders);
        });
    }

    pub(super) fn at_node(&mut self, to: u32, number: u32, attempt: u8, expects_room: bool) {
        if !self.is_current(number, attempt) {
            return;
        }
        if self.nodes[to as usize].is_dead {
            // Nobody listens there: its own raylet is asked again.
            let after = self.link();
            return self.schedule(after, Event::AtHome { task: number, attempt });
        }
        let task = self.workload.task(number);
        let hops = self.records[number as usize].hops;
        self.at(to, |node, now, world, costs, orders| {
            node.arrived(now, (number, &task), (expects_room, hops), world, costs, orders);
        });
    }

    pub(super) fn granted(&mut self, node: u32, number: u32, lease: LeaseKey) {
        let task = self.workload.task(number);
        if self.nodes[task.home as usize].is_dead {
            // Until that is known, nobody gives the lease back.
            return;
        }
        let to_owner = if task.home == node { self.local() } else { self.link() };
        let to_worker = if task.home == node { self.local() } else { self.link() };
        let seed = self.options.seed;
        let record = &mut self.records[number as usize];
        assert!(
            record.state == State::Waiting && record.at == node,
            "seed {seed}: task {number} is granted on node {node}, but is {record:?}"
        );
        assert!(task.accepts(node), "seed {seed}: {task:?} does not want node {node}");
        record.state = State::Running;
        self.cpus_changed(self.workload.cpus_of(&task));
        let mut begins = to_owner + to_worker;
        if let Wants::Argument(holder) = task.wants {
            match holder == node {
                true => self.figures.bytes_spared += ARGUMENT_BYTES,
                false => {
                    self.figures.bytes_moved += ARGUMENT_BYTES;
                    begins += Duration::from_secs_f64(ARGUMENT_BYTES as f64 / LINK);
                }
            }
        }
        let waited = self.now + begins - self.records[number as usize].called;
        self.figures.waits.note(waited);
        self.figures.grants += 1;
        self.figures.digest = mixed(
            self.figures.digest,
            u64::from(number) << 32 ^ u64::from(node) ^ self.now.as_nanos() as u64,
        );
        let counts = &mut self.nodes[node as usize].forwarder.counts;
        match task.home == node {
            true => counts.granted_locally += 1,
            false => counts.granted_to_others += 1,
        }
        let back = if task.home == node { self.local() } else { self.link() };
        let task = number;
        self.schedule(
            begins + self.workload.task(number).runs + back,
            Event::Finished { node, lease, task },
        );
    }

    pub(super) fn finished(&mut self, node: u32, lease: LeaseKey, number: u32) {
        let task = self.workload.task(number);
        if self.nodes[node as usize].is_dead || self.nodes[task.home as usize].is_dead {
            return;
        }
        let mut was_held = false;
        self.at(node, |node, now, _, costs, orders| {
            was_held = node.returned(now, lease, task.home, costs, orders);
        });
        assert!(
            was_held,
            "seed {}: the lease of task {number} is gone",
            self.options.seed
        );
        self.records[number as usize].state = State::Done;
        self.ended += 1;
        self.cpus_changed(-self.workload.cpus_of(&task));
    }

    pub(super) fn cpus_changed(&mut self, by: f64) {
        let end = BEGIN + self.figures.window;
        let upto = self.now.min(end);
        if upto > self.counted_upto {
            self.used += self.cpus_in_use * (upto - self.counted_upto).as_secs_f64();
            self.counted_upto = upto;
        }
        self.cpus_in_use += by;
    }
}
