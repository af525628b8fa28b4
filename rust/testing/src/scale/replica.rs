//! A replica of the global scheduler.

use std::time::Duration;

use ray_rs_scheduler::bottom_up::forward::Ask;
use ray_rs_scheduler::bottom_up::heartbeat::{Heard, Heartbeat};
use ray_rs_scheduler::bottom_up::{GlobalScheduler, Proposal, Wish};
use ray_rs_types::NodeId;
use rustc_hash::FxHashSet;

use super::costs::Costs;
use super::workload::{Task, Workload, id_of};

#[derive(Debug)]
pub(super) struct Replica {
    global: GlobalScheduler,
    /// The control store has told it so.
    gone: FxHashSet<NodeId>,
    /// In the cluster, as the control store says, but not heard of yet.
    unheard: FxHashSet<NodeId>,
    pub is_up: bool,
    /// Time of the processor in which it was busy.
    pub busy: Duration,
}

impl Replica {
    pub fn new(seed: u64, nodes: u32) -> Self {
        let mut replica = Self {
            global: GlobalScheduler::new(seed),
            gone: FxHashSet::default(),
            unheard: FxHashSet::default(),
            is_up: true,
            busy: Duration::ZERO,
        };
        replica.begin_anew(seed, nodes);
        replica
    }

    /// It comes back, and knows nothing but who is dead, which the control store tells it.
    pub fn begin_anew(&mut self, seed: u64, nodes: u32) {
        self.global = GlobalScheduler::new(seed);
        let all = (0..nodes).map(id_of);
        self.unheard = all.filter(|node| !self.gone.contains(node)).collect();
        self.global.set_partial(!self.unheard.is_empty());
        self.is_up = true;
    }

    fn heard_of(&mut self, node: NodeId) {
        if self.unheard.remove(&node) && self.unheard.is_empty() {
            self.global.set_partial(false);
        }
    }

    pub fn hear(&mut self, now: Duration, node: u32, beat: Heartbeat, costs: &mut Costs) -> Heard {
        let node = id_of(node);
        if self.gone.contains(&node) {
            return Heard::Nothing;
        }
        let before = costs.heartbeats.spent;
        let heard = costs.heartbeats.time(|| self.global.hear(now, node, beat));
        self.busy += costs.heartbeats.spent - before;
        if heard == Heard::Changed {
            self.heard_of(node);
        }
        heard
    }

    pub fn node_gone(&mut self, node: u32) {
        self.gone.insert(id_of(node));
        self.global.node_gone(id_of(node));
        self.heard_of(id_of(node));
    }

    pub fn propose(
        &mut self,
        now: Duration,
        from: u32,
        ask: &Ask<u32>,
        task: &Task,
        workload: &Workload,
        costs: &mut Costs,
    ) -> Proposal {
        let (placing, arguments) = (task.placing(), task.arguments());
        let wish = Wish {
            resources: &workload.shapes[task.shape],
            placing: placing.as_ref(),
            from: Some(id_of(from)),
            only_if_free: ask.only_if_free,
            wait_here: ask.wait_here,
            arguments: &arguments,
            refused: &[],
            among: None,
        };
        let before = costs.proposals.spent;
        let proposal = costs.proposals.time(|| self.global.propose(now, wish));
        self.busy += costs.proposals.spent - before;
        if let Some(node) = proposal.node() {
            assert!(
                !self.gone.contains(&node),
                "a node is proposed that is known to be dead"
            );
            let report = self.global.report(node).expect("a node that reports is proposed");
            assert!(!report.draining, "a draining node is proposed");
        }
        proposal
    }

    pub fn check_invariants(&self) {
        self.global.check_invariants();
    }
}
