//! The node's tenure ([`ray_rs_scheduler::liveness`]): without word from the control store its workers are halted before
//! their work may be given to others, and go on when it turns out that it was not.
//!
//! A worker is halted by SIGSTOP, with what it has started, as nothing less holds in all of a user's code. Only where the
//! control store is on another machine: on this one the kernel tells of the end of the raylet, with which all workers end.

use std::time::{Duration, Instant};

use ray_rs_proto::v1::node_report::Body as Report;
use ray_rs_scheduler::liveness::{Order, pause_of, tenure_of};

use crate::raylet::Raylet;
use crate::timers::Timer;

impl Raylet {
    /// The control store has taken this node. `bound`: zero, if the node may be silent.
    pub fn tenure_begins(&mut self, bound: Duration) {
        let asked = self.asked_to_join.unwrap_or_else(Instant::now);
        let length = (!bound.is_zero()).then(|| tenure_of(bound));
        self.tenure.begin(asked.saturating_duration_since(self.started), length);
        let was = std::mem::replace(&mut self.asks_each, length.map(|_| pause_of(bound)));
        if was.is_none() && self.asks_each.is_some() {
            self.ask_whether_heard();
        }
        self.look_at_tenure();
    }

    /// Asks, and will again: also while there is no connection, as the question goes out with the next one.
    pub fn ask_whether_heard(&mut self) {
        let Some(pause) = self.asks_each else { return };
        if self.alone_since.is_none() {
            let number = self.tenure.ask(self.now());
            self.gcs.report(Report::AsksWhetherHeard(number));
        }
        self.timers.set(Instant::now() + pause, Timer::AskWhetherHeard);
    }

    /// At that moment there was no control store on its machine.
    pub fn control_store_is_not_there(&mut self, when: Instant) {
        self.tenure.refused(when.saturating_duration_since(self.started));
        self.look_at_tenure();
    }

    /// Halts the workers, or lets them go on, when it is time.
    pub fn look_at_tenure(&mut self) {
        match self.tenure.look(self.now()) {
            None => {}
            Some(Order::Halt) => {
                tracing::warn!(
                    "the control store does not answer: workers are halted, as their work may be given to other nodes"
                );
                for worker in self.workers.values() {
                    worker.halt();
                }
            }
            Some(Order::GoOn) => {
                tracing::warn!("the control store answers again: workers go on");
                for worker in self.workers.values() {
                    worker.go_on();
                }
            }
        }
    }
}
