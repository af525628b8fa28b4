//! "Why does it not run?"

use std::fmt::Write;

use crate::dispatcher::Dispatcher;
use crate::event::TaskKey;
use crate::lease::LeaseState;
use crate::queue::TaskPlace;

impl Dispatcher {
    /// One or two sentences for people. Walks the queue.
    pub fn explain(&self, task: TaskKey) -> String {
        let Some(slot) = self.tasks.get(task.0 as usize) else {
            return unknown();
        };
        match slot.place {
            TaskPlace::Unknown => unknown(),
            TaskPlace::Queued => self.explain_queued(task, slot.class, slot.function),
            TaskPlace::InFlight | TaskPlace::Withdrawing => {
                let lease = &self.leases[slot.lease as usize];
                let before = lease.in_flight.iter().take_while(|&&other| other != task).count();
                let mut text = match before {
                    0 => format!(
                        "Was sent to the worker of lease {}; nothing is before it there.",
                        lease.key.0
                    ),
                    _ => format!(
                        "Was sent to the worker of lease {}; {before} tasks are before it.",
                        lease.key.0
                    ),
                };
                if slot.place == TaskPlace::Withdrawing {
                    text.push_str(" It is being withdrawn.");
                }
                text
            }
        }
    }

    fn explain_queued(&self, task: TaskKey, class: u32, function: u32) -> String {
        let class = &self.classes[class as usize];
        let before = class.queue.iter(&self.tasks).take_while(|&other| other != task).count();
        let mut text = format!("Waits for a lease; {before} tasks are before it.");
        let count = |state| {
            class
                .leases
                .iter()
                .filter(|&&index| self.leases[index as usize].state == state)
                .count()
        };
        let states = [
            (LeaseState::Alone, "run one long or unknown task"),
            (LeaseState::Streaming, "are full of short tasks"),
            (LeaseState::Stalled, "made no progress for a while"),
            (LeaseState::Blocked, "wait inside a task"),
            (LeaseState::Revoked, "are wanted back by the raylet"),
        ];
        let _ = write!(text, " Leases held: {}", class.leases.len());
        for (state, words) in states {
            match count(state) {
                0 => {}
                leases => {
                    let _ = write!(text, ", {leases} {words}");
                }
            }
        }
        let _ = write!(text, "; requested: {}.", class.requests.outstanding.len());
        if !class.requests.paused_until.is_zero() {
            text.push_str(" The raylet rejected the last request.");
        }
        match self.functions[function as usize].average() {
            None => text.push_str(" How long its function runs is not known yet, so it needs a lease of its own."),
            Some(average) => {
                let _ = write!(text, " Its function usually runs {average:?}.");
            }
        }
        text
    }
}

fn unknown() -> String {
    "Is not with the dispatcher: its arguments are not ready, or it has finished.".to_owned()
}
