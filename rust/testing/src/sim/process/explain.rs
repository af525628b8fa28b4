//! What a process waits for, for people who look at a world that hangs.

use std::fmt::Write as _;

use ray_rs_dispatch::TaskKey as Key;

use super::Process;

impl Process {
    /// What it waits for, and why its tasks have not finished, a line each.
    pub fn explain(&self) -> String {
        let mut text = format!("process {}", self.id);
        if let Some(frame) = &self.frame {
            let _ = write!(text, " runs {:x} of {:?}", frame.unique, frame.origin);
            if let Some(slot) = frame.waiting {
                let (id, owner) = (self.owner.id(slot), self.who(self.owner.owner(slot)));
                let _ = write!(text, ", waits for {id:?} of process {owner}");
            }
        }
        let queued: Vec<String> = self.queue.iter().map(|task| format!("{:x}", task.unique)).collect();
        let fetches: Vec<String> = self
            .fetches
            .iter()
            .map(|(request, slot)| {
                let owner = self.who(self.owner.owner(*slot));
                format!("{request:x}: {:?} of process {owner}", self.owner.id(*slot))
            })
            .collect();
        let _ = writeln!(text, "; entries {queued:?}, fetches {fetches:?}");
        for key in self.owner.unfinished(|_| true) {
            let spec = self.owner.spec(key).expect("it is not finished");
            let missing = self
                .owner
                .deps(key)
                .iter()
                .filter(|slot| !self.owner.is_ready(**slot))
                .count();
            let _ = writeln!(
                text,
                "  task {:x}, sent to {:?}, {missing} arguments missing: {}",
                spec.unique,
                spec.sent,
                self.dispatch.explain(Key(key.0))
            );
        }
        text
    }
}
