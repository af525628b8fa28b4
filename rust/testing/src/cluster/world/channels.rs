//! The channels between nodes and the control store, and when a node is dead.

use super::*;

impl World {
    pub(super) fn connect(&mut self, index: usize) {
        if !self.nodes[index].is_up || self.nodes[index].channel.is_some() {
            return;
        }
        if self.gcs.is_none() {
            let now = self.now;
            self.nodes[index].tenure.refused(now);
            let after = self.micros(200_000);
            self.schedule(after, Event::Connect(index));
            return;
        }
        self.nodes[index].asked_to_join = self.now;
        let (info, bound) = (self.nodes[index].info(), (index > 0).then_some(DEFAULT_BOUND));
        self.next_number += 1;
        let channel = self.next_number;
        let before = self.connections.get(&index).copied();
        // What it says about this is already on the new channel.
        let registered = self.gcs.as_mut().map(|gcs| gcs.register_node(info, bound));
        match registered {
            Some(Ok(connection)) => {
                let is_first = before.is_none() && self.nodes[index].asks_each.is_none();
                self.connections.insert(index, (channel, connection));
                self.nodes[index].channel = Some(channel);
                if is_first {
                    self.schedule(Duration::from_secs(1), Event::NodeAsks(index));
                }
            }
            Some(Err(_)) if self.options.mutation == Mutation::RefusedNodesGoOn => {
                let now = self.now;
                self.nodes[index].tenure.begin(now, None);
                self.nodes[index].look_at_tenure(now);
            }
            Some(Err(_)) => self.end_node(index),
            None => {}
        }
        self.with_gcs(|_| {});
        self.with_node(index, |_, _| {});
    }

    pub(super) fn node_loses_channel(&mut self, index: usize) {
        if self.nodes[index].channel.take().is_some() {
            let after = Duration::from_millis(20) + self.micros(60_000);
            self.schedule(after, Event::Connect(index));
        }
    }

    pub(super) fn break_channel(&mut self, index: usize, noticed_within: Duration) {
        self.node_loses_channel(index);
        if let Some((_, connection)) = self.connections.remove(&index) {
            let life = self.life;
            let after = self.micros(noticed_within.as_micros() as u64);
            self.schedule(
                after,
                Event::ChannelEnds {
                    life,
                    node: index,
                    connection,
                },
            );
        }
    }

    pub(super) fn channel_ends(&mut self, life: u64, node: usize, connection: u64) {
        if life != self.life {
            return;
        }
        let is_latest = self.with_gcs(|gcs| gcs.node_disconnected(node_id(node), connection));
        // The kernel tells of the end of the head's raylet.
        if is_latest == Some(true) && node > 0 {
            let ended = self.now;
            self.look_at_silence(life, node, connection, ended, None);
        }
    }

    pub(super) fn look_at_silence(
        &mut self,
        life: u64,
        node: usize,
        connection: u64,
        ended: Duration,
        expected: Option<Duration>,
    ) {
        if life != self.life {
            return;
        }
        let bound = Some(DEFAULT_BOUND);
        let look = self.with_gcs(|gcs| gcs.until_its_death((node_id(node), connection), ended, expected, bound));
        match look {
            Some(Some(due)) => {
                let expected = Some(due);
                let event = Event::LookAtSilence {
                    life,
                    node,
                    connection,
                    ended,
                    expected,
                };
                self.schedule(due.saturating_sub(self.now), event);
            }
            Some(None) => {
                let wall_clock = self.wall_clock();
                if self.with_gcs(|gcs| gcs.node_died(node_id(node), connection, wall_clock)) == Some(true) {
                    self.node_is_declared_dead(node);
                }
            }
            None => {}
        }
    }

    pub(super) fn bury_who_stays_away(&mut self, life: u64, expected: Duration) {
        if life != self.life {
            return;
        }
        let due = self.with_gcs(|gcs| gcs.until_the_absent_are_dead(expected, DEFAULT_BOUND));
        if let Some(Some(expected)) = due {
            let event = Event::BuryWhoStaysAway { life, expected };
            return self.schedule(expected.saturating_sub(self.now), event);
        }
        let wall_clock = self.wall_clock();
        let away = self.with_gcs(|gcs| gcs.bury_who_stays_away(wall_clock));
        for node in away.unwrap_or_default() {
            self.node_is_declared_dead(index_of(node));
        }
    }

    pub(super) fn node_is_declared_dead(&mut self, index: usize) {
        self.journal.declared_dead(self.now, index);
        let node = &self.nodes[index];
        let is_idle = node.workers().all(|who| node.actor_of(who).is_none());
        let stands_still = !node.is_up || node.is_halted() || node.frozen_until > self.now || is_idle;
        self.journal.check(stands_still, || {
            format!("LIVE-1: node {index} was declared dead, and its workers run")
        });
        self.actors_are_lost(index);
    }

    pub(super) fn actors_are_lost(&mut self, index: usize) {
        let node = &self.nodes[index];
        for actor in node.workers().filter_map(|who| node.actor_of(who)) {
            self.journal.host_lost(plan_of(actor));
        }
    }
}
