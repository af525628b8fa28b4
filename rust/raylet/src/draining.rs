//! The node is about to leave its cluster, or could: it is drained, or idle.
//!
//! Whoever wants a node gone asks the control store, which asks the node. For idleness it agrees only if it is idle; to any
//! other reason always. From then on it says in its heartbeats that it drains, sends clients of other nodes back, and its own
//! clients to other nodes; what no other node could ever serve it still serves, so that a task that waits for another is not
//! stuck. Leases are asked back, idle workers leave, and actors that wait for a place go elsewhere. Whatever runs goes on.
//! When all processes of the node are gone, and all values that only it has are freed, it leaves; or at the deadline, if
//! there is one. Deliberately absent: values do not move to other nodes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ray_rs_proto::v1;
use ray_rs_proto::v1::node_report::Body as Report;
use ray_rs_scheduler::Event;

use crate::clients::Role;
use crate::raylet::Raylet;
use crate::timers::Timer;

/// `DrainInfo.reason`.
const IDLE_TERMINATION: u32 = 1;
/// A node at rest looks so often whether the last value is gone.
const IDLE_PAUSE: Duration = Duration::from_millis(500);

/// An order to leave that the node has agreed to.
#[derive(Debug)]
pub(crate) struct Draining {
    pub info: v1::DrainInfo,
    deadline: Option<Instant>,
    /// No look at the values before.
    not_before: Option<Instant>,
}

impl Draining {
    /// A client's node is in the cluster as one that takes nothing.
    pub fn of_client() -> Self {
        Self {
            info: v1::DrainInfo {
                message: "it hosts a program from outside of the cluster".to_owned(),
                ..v1::DrainInfo::default()
            },
            deadline: None,
            not_before: None,
        }
    }

    /// Why the node is gone, for people.
    pub fn reason(&self) -> String {
        let kind = match self.info.reason {
            IDLE_TERMINATION => "it was idle",
            _ => "it was drained",
        };
        match self.info.message.as_str() {
            "" => kind.to_owned(),
            message => format!("{kind}: {message}"),
        }
    }
}

/// Whether the node is idle, as far as was looked.
#[derive(Debug, Default)]
pub(crate) struct Idleness {
    pub is_idle: bool,
    /// What the control store knows.
    pub told: bool,
    /// No look at the values before.
    not_before: Option<Instant>,
}

impl Raylet {
    pub fn drain_ordered(&mut self, order: v1::DrainNodeRequest) {
        let refused = self.why_not_drained(&order);
        if refused.is_none() {
            self.begin_drain(order);
        }
        let answer = v1::DrainNodeReply {
            accepted: refused.is_none(),
            rejection: refused.unwrap_or_default(),
        };
        self.gcs.report(Report::DrainAnswered(answer));
    }

    fn why_not_drained(&mut self, order: &v1::DrainNodeRequest) -> Option<String> {
        if self.config.is_client {
            return Some("it hosts a program from outside of the cluster, and leaves with it".to_owned());
        }
        if order.reason != IDLE_TERMINATION || self.drain.is_some() {
            return None;
        }
        if !self.rests() {
            return Some("the node is not idle: something runs or waits there, or a program is connected".to_owned());
        }
        self.store
            .has_values()
            .then(|| "the node is not idle: values lie in its object store".to_owned())
    }

    fn begin_drain(&mut self, order: v1::DrainNodeRequest) {
        let remaining = Duration::from_millis(order.remaining_ms);
        let deadline = (order.remaining_ms > 0).then(|| Instant::now() + remaining);
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let info = v1::DrainInfo {
            reason: order.reason,
            message: order.message,
            deadline_ms: deadline.map_or(0, |_| (epoch + remaining).as_millis() as u64),
        };
        tracing::info!(
            reason = info.reason,
            message = info.message,
            deadline_ms = info.deadline_ms,
            "the node drains"
        );
        let is_first = self.drain.replace(Draining {
            info,
            deadline,
            not_before: None,
        });
        let is_first = is_first.is_none();
        if let Some(deadline) = deadline {
            self.timers.set(deadline, Timer::DrainOverdue);
        }
        if is_first {
            // Nobody is sent here from now on; whoever was is sent back.
            self.decline_waiting_actors();
            self.send_waiting_elsewhere();
            self.decide(Event::NodeDrains);
        }
        self.report_use(false);
        self.look_round();
    }

    pub fn drain_overdue(&mut self) {
        let due = self.drain.as_ref().and_then(|drain| drain.deadline);
        if due.is_some_and(|due| due <= Instant::now()) {
            self.end_session("the deadline of its drain has passed");
        }
    }

    /// Leaves when nothing is left that needs the node.
    pub fn leave_if_drained(&mut self) {
        let Some(drain) = self.drain.as_ref().filter(|_| !self.config.is_client) else {
            return;
        };
        let now = Instant::now();
        if drain.not_before.is_some_and(|due| now < due)
            || !self.scheduler.is_at_rest()
            || !self.workers.is_empty()
            || self.has_clients_of_its_own()
        {
            return;
        }
        if !self.store.has_values() {
            return self.end_session("it was drained");
        }
        let due = now + IDLE_PAUSE;
        if let Some(drain) = &mut self.drain {
            drain.not_before = Some(due);
        }
        self.timers.set(due, Timer::LookWhetherIdle);
    }

    fn has_clients_of_its_own(&self) -> bool {
        let programs = self.clients.values().any(|client| client.role == Role::Driver);
        programs || !self.cluster.forwarder.is_empty()
    }

    /// Nothing runs or waits, nobody is connected, and no bundle is reserved here.
    fn rests(&self) -> bool {
        self.scheduler.is_at_rest()
            && !self.has_clients_of_its_own()
            && !self.scheduler.has_needed_workers()
            && self.scheduler.bundles_held().is_empty()
    }

    /// Keeps [`Idleness::is_idle`] true. While work is done this is a few comparisons; a node at rest that has values looks
    /// at them now and then, since nobody says when the last one is freed.
    pub fn look_whether_idle(&mut self) {
        if !self.config.is_in_cluster() {
            return;
        }
        if !self.rests() {
            self.idleness.is_idle = false;
            return;
        }
        let now = Instant::now();
        if self.idleness.is_idle || self.idleness.not_before.is_some_and(|due| now < due) {
            return;
        }
        self.idleness.is_idle = !self.store.has_values();
        if !self.idleness.is_idle {
            let due = now + IDLE_PAUSE;
            self.idleness.not_before = Some(due);
            self.timers.set(due, Timer::LookWhetherIdle);
        }
    }
}
