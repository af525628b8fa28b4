//! When each node was heard last, and so when it may be declared dead.

use std::time::{Duration, Instant};

use ray_rs_scheduler::liveness;
use ray_rs_types::NodeId;

use super::{RECONNECT_GRACE, State};

impl State {
    /// It said something just now.
    pub fn node_heard(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.nodes.get_mut(&node) {
            entry.heard = Instant::now();
        }
    }

    /// When a node may be declared dead whose connection ended then; `LIVE-1`, where there is a bound.
    pub fn death_of(&self, node: NodeId, ended: Instant, bound: Option<Duration>) -> Instant {
        let entry = self.nodes.nodes.get(&node);
        let (Some(bound), Some(heard)) = (bound, entry.map(|entry| entry.heard)) else {
            return ended + RECONNECT_GRACE;
        };
        let since = |moment: Instant| moment.saturating_duration_since(self.started);
        self.started + liveness::death(since(heard), bound, since(ended), RECONNECT_GRACE)
    }
}
