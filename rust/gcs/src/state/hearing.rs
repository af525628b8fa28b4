//! When each node was heard last, and so when it may be declared dead; and what has ended while nobody could be told.

use std::time::Duration;

use ray_rs_actors::lifecycle::Event;
use ray_rs_proto::v1::{self, node_command::Body};
use ray_rs_scheduler::liveness;
use ray_rs_types::{NodeId, WorkerId};
use rustc_hash::{FxHashMap, FxHashSet};
use tonic::Status;

use super::{RECONNECT_GRACE, State, Target};

impl State {
    /// It said something just now.
    pub fn node_heard(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.nodes.get_mut(&node) {
            entry.heard = self.clock.now();
        }
    }

    /// The time of [`Self::until_its_death`].
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// `None`: the node may be declared dead, whose connection ended at `ended` (`LIVE-1`, where there is a bound), or it has
    /// come back since. Else when to look again. `expected`: the moment for which this look was meant. If that has long passed, this process stood still
    /// itself, and what was said meanwhile has not been read.
    pub fn until_its_death(
        &mut self,
        (node, connection): (NodeId, u64),
        ended: Duration,
        expected: Option<Duration>,
        bound: Option<Duration>,
    ) -> Option<Duration> {
        let now = self.clock.now();
        if self.nodes.connection_of(node) != Some(connection) {
            return None;
        }
        if let (Some(bound), Some(expected)) = (bound, expected)
            && now.saturating_sub(expected) > bound / 4
        {
            self.node_heard(node);
        }
        let heard = self.nodes.nodes.get(&node).map(|entry| entry.heard);
        let due = match (bound, heard) {
            (Some(bound), Some(heard)) => liveness::death(heard, bound, ended, RECONNECT_GRACE),
            (None, _) | (_, None) => ended + RECONNECT_GRACE,
        };
        (now < due).then_some(due)
    }
}

/// Processes by their nodes; of each who wants to hear of its end, and the connection that its node had when that was said
/// first. What the node said of its processes on that connection may be older.
pub(super) type FollowedWorkers = FxHashMap<NodeId, FxHashMap<WorkerId, Followed>>;

#[derive(Debug)]
pub(super) struct Followed {
    by: Vec<NodeId>,
    since: Option<u64>,
}

impl State {
    pub(super) fn worker_followed(&mut self, by: NodeId, followed: &v1::WorkerOfNode) -> Result<(), Status> {
        let invalid = |error: ray_rs_types::IdError| Status::invalid_argument(error.to_string());
        let worker = WorkerId::from_bytes(&followed.worker_id).map_err(invalid)?;
        let node = NodeId::from_bytes(&followed.node_id).map_err(invalid)?;
        if self.dead_workers.iter().any(|dead| dead.worker_id == worker.0) {
            self.tell(0, Target::Node(by), Body::WorkerGone(followed.clone()));
            return Ok(());
        }
        let since = self.nodes.connection_of(node);
        let of_node = self.nodes.followed_workers.entry(node).or_default();
        let entry = of_node.entry(worker).or_insert(Followed { by: Vec::new(), since });
        if !entry.by.contains(&by) {
            entry.by.push(by);
        }
        // It may have ended before anybody asked for the news.
        self.tell(0, Target::Node(node), Body::WhetherItLives(followed.clone()));
        Ok(())
    }

    /// Some processes of a node have ended.
    pub(super) fn tell_who_follows(&mut self, node: NodeId, is_gone: impl Fn(WorkerId) -> bool) {
        let Some(of_node) = self.nodes.followed_workers.get_mut(&node) else {
            return;
        };
        let mut gone: Vec<WorkerId> = of_node.keys().copied().filter(|worker| is_gone(*worker)).collect();
        gone.sort();
        let told: Vec<_> = gone
            .into_iter()
            .map(|worker| (worker, of_node.remove(&worker)))
            .collect();
        for (worker, followed) in told {
            for by in followed.map(|followed| followed.by).unwrap_or_default() {
                let news = v1::WorkerOfNode {
                    worker_id: worker.0.to_vec(),
                    node_id: node.0.to_vec(),
                };
                self.tell(0, Target::Node(by), Body::WorkerGone(news));
            }
        }
    }

    /// Nodes that an earlier process knew, and did not know to be dead, and that have not come to this one.
    pub fn awaited_nodes(&self) -> Vec<NodeId> {
        let known = self.nodes.known_living();
        known.filter(|node| self.nodes.connection_of(*node).is_none()).collect()
    }

    /// `None`: those may be declared dead. Else when to look again: `expected`, the moment for which this look was meant, has
    /// long passed. Then this process stood still itself, and so did who wanted to come to it.
    pub fn until_the_absent_are_dead(&self, expected: Duration, bound: Duration) -> Option<Duration> {
        let now = self.clock.now();
        (now.saturating_sub(expected) > bound / 4).then(|| now + bound)
    }

    /// It has not come back to a control store that has been started again. What ran on it is dead.
    pub fn node_stayed_away(&mut self, node: NodeId, now_ms: u64) {
        if !self.awaited_nodes().contains(&node) {
            return;
        }
        tracing::warn!(node_id = %node, "a node did not come back to the restarted control store, and counts as dead");
        let info = v1::NodeInfo {
            node_id: node.0.to_vec(),
            death_reason: "it did not come back when the control store was restarted".to_owned(),
            ..v1::NodeInfo::default()
        };
        self.nodes.restore_death(node);
        self.bury(node, info, now_ms);
    }

    /// All processes that a node has: what is taken for one of its and is not among them has died meanwhile.
    pub(super) fn node_has_processes(
        &mut self,
        node: NodeId,
        living: &v1::NodeProcesses,
        now_ms: u64,
    ) -> Result<(), Status> {
        let Some(connection) = self.nodes.connection_of(node) else {
            return Ok(());
        };
        let living: FxHashSet<&[u8]> = living.worker_ids.iter().map(Vec::as_slice).collect();
        self.drivers_are(node, connection, &living, now_ms);
        let of_node = self.nodes.followed_workers.get(&node).into_iter().flatten();
        let older = of_node
            .filter(|(worker, followed)| followed.since != Some(connection) && !living.contains(worker.0.as_slice()));
        let gone: FxHashSet<WorkerId> = older.map(|(worker, _)| *worker).collect();
        self.tell_who_follows(node, |worker| gone.contains(&worker));
        let newer = self.drivers_that_came_with(connection);
        for worker in self.lifecycle.workers_on(node) {
            if !living.contains(worker.0.as_slice()) && !newer.contains(worker.0.as_slice()) {
                let message = "it ended while the control store was away".to_owned();
                self.actor_fact(Event::WorkerDied { worker, message });
            }
        }
        Ok(())
    }
}
