//! What came out of a world.

use std::fmt;
use std::time::Duration;

use ray_rs_scheduler::bottom_up::forward::Counts;

use super::costs::Costs;

/// Waiting times, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waits(Vec<u32>);

impl Waits {
    pub(super) fn note(&mut self, wait: Duration) {
        self.0.push(u32::try_from(wait.as_micros()).unwrap_or(u32::MAX));
    }

    pub(super) fn sort(&mut self) {
        self.0.sort_unstable();
    }

    /// Of a thousand waits so many were no longer.
    pub fn permille(&self, permille: usize) -> Duration {
        let at = (self.0.len() * permille / 1000).min(self.0.len().saturating_sub(1));
        Duration::from_micros(u64::from(self.0.get(at).copied().unwrap_or(0)))
    }

    pub fn longest(&self) -> Duration {
        self.permille(1000)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub nodes: u32,
    pub tasks: u32,
    /// Tasks whose owner died with its node.
    pub abandoned: u32,
    /// Tasks that can never run: the node that they named is no more.
    pub failed: u32,
    /// Grants: more than tasks where nodes died.
    pub grants: u32,
    /// From a task's call to its beginning.
    pub waits: Waits,
    /// Of what the CPUs could have done while tasks came.
    pub utilisation: f64,
    /// What was asked of them then.
    pub offered: f64,
    /// Of all nodes together.
    pub counts: Counts,
    /// Bytes of arguments that had to travel, and that did not, because their task went to them.
    pub bytes_moved: u64,
    pub bytes_spared: u64,
    /// From the wish to the confirmation.
    pub group_waits: Waits,
    pub heartbeats: u64,
    /// In the world.
    pub ended: Duration,
    /// While tasks came, in the world.
    pub window: Duration,
    pub events: u64,
    /// Of every grant, in order: two runs of one seed agree in it.
    pub digest: u64,
    pub costs: Costs,
    /// Time of the processor for everything, playing the world included.
    pub real: Duration,
    /// Time of the processor that the busiest replica of the global scheduler took.
    pub busiest_replica: Duration,
}

impl Figures {
    /// Decisions, local and global, a second that deciding took on one core.
    pub fn decisions_per_second(&self) -> f64 {
        let costs = &self.costs;
        let calls = costs.local.calls + costs.proposals.calls;
        let spent = costs.local.spent + costs.forwarding.spent + costs.proposals.spent + costs.heartbeats.spent;
        calls as f64 / spent.as_secs_f64().max(1e-9)
    }

    /// Of one core, in the time of the world.
    pub fn replica_share(&self) -> f64 {
        self.busiest_replica.as_secs_f64() / self.window.as_secs_f64().max(1e-9)
    }
}

struct Ms(Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_secs_f64() * 1e3;
        f.pad(&if ms < 10.0 {
            format!("{ms:.2}")
        } else {
            format!("{ms:.0}")
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (costs, counts) = (&self.costs, &self.counts);
        writeln!(
            f,
            "{} nodes, {} tasks in {:.1} s of the world ({:.0}/s), {:.1} s of one core, {} events",
            self.nodes,
            self.tasks,
            self.ended.as_secs_f64(),
            f64::from(self.tasks) / self.window.as_secs_f64(),
            self.real.as_secs_f64(),
            self.events
        )?;
        writeln!(
            f,
            "  utilisation {:.1} % of {:.1} % offered; waits in ms: half {}, 90 % {}, 99 % {}, 99.9 % {}, longest {}",
            self.utilisation * 100.0,
            self.offered * 100.0,
            Ms(self.waits.permille(500)),
            Ms(self.waits.permille(900)),
            Ms(self.waits.permille(990)),
            Ms(self.waits.permille(999)),
            Ms(self.waits.longest())
        )?;
        writeln!(
            f,
            "  leases: {} to clients of the node, {} to others; {} asked for a node, {} forwarded, {} spilled back, {} turned away",
            counts.granted_locally,
            counts.granted_to_others,
            counts.asked,
            counts.forwarded,
            counts.spilled_back,
            counts.turned_away
        )?;
        let of_bytes = self.bytes_spared as f64 / (self.bytes_moved + self.bytes_spared).max(1) as f64;
        writeln!(
            f,
            "  arguments: {:.0} % of the bytes did not travel; abandoned {}, failed {}, begun again {}",
            of_bytes * 100.0,
            self.abandoned,
            self.failed,
            u64::from(self.grants) + u64::from(self.abandoned + self.failed) - u64::from(self.tasks)
        )?;
        if self.group_waits.count() > 0 {
            writeln!(
                f,
                "  placement groups: {}; waits in ms: half {}, 99 % {}; {:.1} us an event ({} events, longest {} ms)",
                self.group_waits.count(),
                Ms(self.group_waits.permille(500)),
                Ms(self.group_waits.permille(990)),
                costs.groups.microseconds(),
                costs.groups.calls,
                Ms(costs.groups.longest)
            )?;
        }
        let one =
            |name: &str, cost: &super::Cost| format!("{name} {:.2} us ({} calls)", cost.microseconds(), cost.calls);
        write!(
            f,
            "  a call costs: {}, {}, {}, {}; {:.0} decisions a second on one core; the busiest replica takes {:.1} % of one",
            one("local scheduler", &costs.local),
            one("forwarding", &costs.forwarding),
            one("proposal", &costs.proposals),
            one("heartbeat", &costs.heartbeats),
            self.decisions_per_second(),
            self.replica_share() * 100.0
        )
    }
}
