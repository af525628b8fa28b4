//! A function that runs, in the driver or in a worker.

use std::time::Duration;

use ray_rs_ownership::RefSlot;

use super::messages::Proc;

pub(crate) struct Frame {
    pub function: usize,
    /// Whose task it is, and under which number; none in the driver.
    pub origin: Option<(Proc, u64)>,
    pub unique: u64,
    /// One local count each.
    pub vars: Vec<Option<RefSlot>>,
    /// The next operation.
    pub at: usize,
    pub number: u64,
    /// References that came with the arguments; one local count each, until the reply.
    pub arg_refs: Vec<RefSlot>,
    pub started: Duration,
    /// It sleeps in `get` until this is there.
    pub waiting: Option<RefSlot>,
}

impl Frame {
    pub fn pick(&self, which: usize) -> Option<RefSlot> {
        if self.vars.is_empty() {
            return None;
        }
        self.vars[which % self.vars.len()]
    }

    pub fn pick_all(&self, which: &[usize]) -> Vec<RefSlot> {
        which.iter().filter_map(|which| self.pick(*which)).collect()
    }
}
