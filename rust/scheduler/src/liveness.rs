//! How long a node may go unheard, and what it may do meanwhile.
//!
//! A control store that has not heard a node for a bound declares it dead, and gives its work to others. The node cannot
//! know when that is: it may be cut off. So it has leave to work only for a [`Tenure`], shorter than the bound, from the
//! moment at which it *asked* a question that was answered. Whatever the network does to the answer, the control store has
//! heard the node at that moment or later. At the end of its tenure what runs there is halted. It goes on if another
//! question is answered; else the node was declared dead, and ends when it learns of that.
//!
//! * `LIVE-1`: when a node is declared dead, nothing has run on it for the rest of the bound: at least a quarter of it.
//!
//! Each side counts on a clock of its own that only goes forward; what the clocks show does not matter. A control store that
//! is not there (its machine refuses connections) declares nobody dead, and one that starts anew begins to count when it
//! hears a node: so to be refused is as good as an answer.

use std::collections::VecDeque;
use std::time::Duration;

/// A node that was not heard for so long is declared dead, unless it is told otherwise.
pub const DEFAULT_BOUND: Duration = Duration::from_secs(8);
/// Questions that may be under way. The oldest are given up: a later one's answer is worth more.
const MAX_QUESTIONS: usize = 64;

/// What a node may do with a bound: how long it works without an answer.
pub fn tenure_of(bound: Duration) -> Duration {
    bound * 3 / 4
}

/// How often it asks.
pub fn pause_of(bound: Duration) -> Duration {
    bound / 8
}

/// When a node may be declared dead that was heard last at `heard`, and whose connection ended at `ended` (`grace`: how long
/// one that ends may take to come back).
pub fn death(heard: Duration, bound: Duration, ended: Duration, grace: Duration) -> Duration {
    (heard + bound).max(ended + grace)
}

/// What is to happen to the work of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Halt,
    GoOn,
}

/// The node's side.
#[derive(Debug, Default)]
pub struct Tenure {
    /// `None`: there is no end to it, as the kernel tells the control store of the end of this process.
    length: Option<Duration>,
    /// Not answered yet, with when they were asked, in order.
    questions: VecDeque<(u64, Duration)>,
    asked: u64,
    /// The control store has heard this node then, or later.
    heard: Duration,
    is_halted: bool,
}

impl Tenure {
    /// The control store has taken the node, which asked for that at `asked`.
    pub fn begin(&mut self, asked: Duration, length: Option<Duration>) {
        self.length = length;
        // Answers come on the connection of their questions.
        self.questions.clear();
        self.heard = self.heard.max(asked);
    }

    /// The number of a question that is asked now.
    pub fn ask(&mut self, now: Duration) -> u64 {
        self.asked += 1;
        self.questions.push_back((self.asked, now));
        if self.questions.len() > MAX_QUESTIONS {
            self.questions.pop_front();
        }
        self.asked
    }

    /// It was answered, and those before it will not be. Of one that is not under way nothing is concluded.
    pub fn answered(&mut self, number: u64) {
        if let Ok(index) = self.questions.binary_search_by_key(&number, |(question, _)| *question) {
            self.heard = self.heard.max(self.questions[index].1);
            self.questions.drain(..=index);
        }
    }

    /// There was no control store at its address at that moment.
    pub fn refused(&mut self, when: Duration) {
        self.heard = self.heard.max(when);
    }

    pub fn is_halted(&self) -> bool {
        self.is_halted
    }

    /// What has to happen now, once.
    pub fn look(&mut self, now: Duration) -> Option<Order> {
        let is_over = self.length.is_some_and(|length| now >= self.heard + length);
        if std::mem::replace(&mut self.is_halted, is_over) == is_over {
            return None;
        }
        Some(if is_over { Order::Halt } else { Order::GoOn })
    }

    /// When to look, at the latest; `None`: not without news.
    pub fn next_deadline(&self) -> Option<Duration> {
        let length = self.length.filter(|_| !self.is_halted)?;
        Some(self.heard + length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Duration {
        SECOND * seconds
    }

    #[test]
    fn a_node_that_is_answered_works_on() {
        let mut tenure = Tenure::default();
        tenure.begin(at(1), Some(at(6)));
        for second in 2..60 {
            let question = tenure.ask(at(second));
            tenure.answered(question);
            assert_eq!(tenure.look(at(second)), None);
            assert_eq!(tenure.next_deadline(), Some(at(second + 6)));
        }
    }

    #[test]
    fn work_halts_once_and_goes_on_once() {
        let mut tenure = Tenure::default();
        tenure.begin(at(1), Some(at(6)));
        assert_eq!(tenure.look(at(6)), None);
        assert_eq!(tenure.look(at(7)), Some(Order::Halt));
        assert_eq!(tenure.look(at(8)), None);
        assert_eq!(tenure.next_deadline(), None);
        let question = tenure.ask(at(9));
        tenure.answered(question);
        assert_eq!(tenure.look(at(10)), Some(Order::GoOn));
        assert_eq!(tenure.look(at(11)), None);
    }

    #[test]
    fn it_counts_when_a_question_was_asked_not_when_it_was_answered() {
        let mut tenure = Tenure::default();
        tenure.begin(at(0), Some(at(6)));
        let question = tenure.ask(at(1));
        assert_eq!(tenure.look(at(6)), Some(Order::Halt));
        tenure.answered(question);
        assert_eq!(tenure.look(at(7)), None, "the answer is too old to go on");
        tenure.answered(77);
        assert_eq!(tenure.look(at(8)), None, "nobody asked that");
    }

    #[test]
    fn where_nobody_is_there_is_nobody_who_declares_it_dead() {
        let mut tenure = Tenure::default();
        tenure.begin(at(0), Some(at(6)));
        for second in 1..60 {
            tenure.refused(at(second));
            assert_eq!(tenure.look(at(second)), None);
        }
    }

    #[test]
    fn where_the_kernel_tells_of_the_end_there_is_no_tenure() {
        let mut tenure = Tenure::default();
        assert_eq!((tenure.look(at(1000)), tenure.next_deadline()), (None, None));
        tenure.begin(at(0), None);
        assert_eq!((tenure.look(at(1000)), tenure.next_deadline()), (None, None));
    }

    proptest! {
        /// LIVE-1, over a link that loses messages and holds them up, with clocks that began at different times: a question
        /// every eighth of the bound, each lost or so long under way, there and back.
        #[test]
        fn who_is_declared_dead_has_halted(
            ways in proptest::collection::vec(proptest::option::weighted(0.5, (0..12_000_u64, 0..12_000_u64)), 1..40),
            skew in 0..1_000_000_u64,
        ) {
            let ms = Duration::from_millis;
            let bound = DEFAULT_BOUND;
            let mut tenure = Tenure::default();
            tenure.begin(ms(0), Some(tenure_of(bound)));
            // What arrives when, on the one clock that is true.
            let mut events = Vec::new();
            for (turn, way) in ways.iter().enumerate() {
                let asked = pause_of(bound) * turn as u32;
                events.push((asked, 0, turn as u64 + 1));
                if let Some((there, back)) = way {
                    events.push((asked + ms(*there), 1, turn as u64 + 1));
                    events.push((asked + ms(*there) + ms(*back), 2, turn as u64 + 1));
                }
            }
            events.sort_unstable();
            let (mut heard, mut halted_since, mut dead) = (ms(skew), None, false);
            let mut answers = std::collections::BTreeSet::new();
            for (now, what, number) in events {
                // Between events the node looks when it has to.
                if let Some(due) = tenure.next_deadline().filter(|due| *due <= now)
                    && tenure.look(due) == Some(Order::Halt)
                {
                    halted_since = Some(due);
                }
                // What the control store decides before this event reaches it.
                let its_death = death(heard, bound, ms(0), ms(0)) - ms(skew);
                if !dead && its_death <= now {
                    dead = true;
                    let since = halted_since.expect("LIVE-1");
                    prop_assert!(its_death - since >= bound / 4, "LIVE-1");
                }
                match what {
                    0 => prop_assert_eq!(tenure.ask(now), number),
                    1 if !dead => {
                        heard = heard.max(now + ms(skew));
                        answers.insert(number);
                    }
                    2 if answers.contains(&number) => tenure.answered(number),
                    _ => {}
                }
                match tenure.look(now) {
                    Some(Order::Halt) => halted_since = Some(now),
                    Some(Order::GoOn) => {
                        prop_assert!(!dead, "LIVE-1: a dead node never goes on");
                        halted_since = None;
                    }
                    None => {}
                }
            }
        }
    }
}
