//! Heartbeats: a node says of itself what has changed since it last spoke.
//!
//! Each has a number and the number of the one that it builds upon. A receiver that has not that one (it is new, something
//! was lost, or the node has restarted) asks for everything again; until then it keeps what it knew. What comes twice or
//! late changes nothing. One sender has one encoder for each receiver.

use std::collections::BTreeMap;
use std::time::Duration;

use ray_rs_types::{Quantity, ResourceSet};

/// What others know of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeReport {
    pub total: ResourceSet,
    pub available: ResourceSet,
    pub labels: BTreeMap<String, String>,
    /// Requests that wait there, by what they ask for.
    pub backlog: Backlog,
    /// How long it keeps what it is granted, on average; zero when that is not known.
    pub hold: Duration,
    /// Nothing new is to go there.
    pub draining: bool,
}

/// How many requests wait, by what they ask for.
pub type Backlog = BTreeMap<ResourceSet, u32>;

impl NodeReport {
    /// Requests that wait.
    pub fn waiting(&self) -> u32 {
        self.backlog.values().sum()
    }
}

/// One heartbeat. What is absent is as before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Tells one life of the node from the next.
    pub life: u64,
    /// The first of a life is 1.
    pub number: u64,
    /// The heartbeat that this one builds upon; 0: none, it says everything.
    pub base: u64,
    /// Whole: it seldom changes.
    pub total: Option<ResourceSet>,
    pub labels: Option<BTreeMap<String, String>>,
    /// New amounts; zero takes the name away.
    pub available: Vec<(String, Quantity)>,
    /// New counts; zero takes the shape away.
    pub backlog: Vec<(ResourceSet, u32)>,
    pub hold: Option<Duration>,
    pub draining: Option<bool>,
}

impl Heartbeat {
    /// Says only that the node lives.
    pub fn is_empty(&self) -> bool {
        self.base != 0
            && self.total.is_none()
            && self.labels.is_none()
            && self.available.is_empty()
            && self.backlog.is_empty()
            && self.hold.is_none()
            && self.draining.is_none()
    }
}

/// The node's side.
#[derive(Debug)]
pub struct Encoder {
    life: u64,
    number: u64,
    said: NodeReport,
    /// The next heartbeat says everything.
    from_scratch: bool,
}

impl Encoder {
    /// `life`: a number that no earlier life of this node has used, such as its starting time.
    pub fn new(life: u64) -> Self {
        Self {
            life,
            number: 0,
            said: NodeReport::default(),
            from_scratch: true,
        }
    }

    /// The receiver has lost the thread.
    pub fn start_over(&mut self) {
        self.from_scratch = true;
    }

    /// What to say now. One that [is empty](Heartbeat::is_empty) need not be sent but as a sign of life; sent or not,
    /// it counts as said, so it takes no number.
    pub fn next(&mut self, now: &NodeReport) -> Heartbeat {
        let nothing = NodeReport::default();
        let before = if self.from_scratch { &nothing } else { &self.said };
        let base = if self.from_scratch { 0 } else { self.number };
        let mut beat = Heartbeat {
            life: self.life,
            number: self.number,
            base,
            total: (now.total != before.total).then(|| now.total.clone()),
            labels: (now.labels != before.labels).then(|| now.labels.clone()),
            available: changed_amounts(&before.available, &now.available),
            backlog: changed_counts(&before.backlog, &now.backlog),
            hold: (now.hold != before.hold).then_some(now.hold),
            draining: (now.draining != before.draining).then_some(now.draining),
        };
        if !beat.is_empty() {
            self.number += 1;
            beat.number = self.number;
            self.said.clone_from(now);
            self.from_scratch = false;
        }
        beat
    }
}

fn changed_amounts(before: &ResourceSet, now: &ResourceSet) -> Vec<(String, Quantity)> {
    let gone = before
        .iter()
        .filter(|(name, _)| now.get(name) == Quantity::ZERO)
        .map(|(name, _)| (name.to_owned(), Quantity::ZERO));
    let new = now
        .iter()
        .filter(|(name, amount)| before.get(name) != *amount)
        .map(|(name, amount)| (name.to_owned(), amount));
    gone.chain(new).collect()
}

fn changed_counts(before: &Backlog, now: &Backlog) -> Vec<(ResourceSet, u32)> {
    let gone = before
        .keys()
        .filter(|shape| !now.contains_key(*shape))
        .map(|shape| (shape.clone(), 0));
    let new = now
        .iter()
        .filter(|(shape, count)| before.get(*shape) != Some(count))
        .map(|(shape, count)| (shape.clone(), *count));
    gone.chain(new).collect()
}

/// What became of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Changed,
    /// It said nothing new, or came late.
    Nothing,
    /// Ask the node to start over.
    Lost,
}

/// The receiver's side, for one node.
#[derive(Debug, Default)]
pub struct Decoder {
    life: u64,
    number: u64,
    report: NodeReport,
}

impl Decoder {
    /// One that knows a node already, and has heard nothing of it.
    pub fn knowing(report: NodeReport) -> Self {
        Self {
            report,
            ..Self::default()
        }
    }

    pub fn report(&self) -> &NodeReport {
        &self.report
    }

    pub fn hear(&mut self, beat: Heartbeat) -> Heard {
        if self.number != 0 && beat.life < self.life {
            return Heard::Nothing;
        }
        let is_known_life = self.number != 0 && beat.life == self.life;
        if is_known_life && (beat.number < self.number || beat.number == self.number && !beat.is_empty()) {
            return Heard::Nothing;
        }
        if beat.base == 0 {
            self.report = NodeReport::default();
        } else if !is_known_life || beat.base != self.number {
            return Heard::Lost;
        } else if beat.is_empty() {
            return Heard::Nothing;
        }
        (self.life, self.number) = (beat.life, beat.number);
        let report = &mut self.report;
        if let Some(total) = beat.total {
            report.total = total;
        }
        if let Some(labels) = beat.labels {
            report.labels = labels;
        }
        for (name, amount) in beat.available {
            report.available.set(name, amount);
        }
        for (shape, count) in beat.backlog {
            if count == 0 {
                report.backlog.remove(&shape);
            } else {
                report.backlog.insert(shape, count);
            }
        }
        if let Some(hold) = beat.hold {
            report.hold = hold;
        }
        if let Some(draining) = beat.draining {
            report.draining = draining;
        }
        Heard::Changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_set() -> impl Strategy<Value = ResourceSet> {
        proptest::collection::vec(("[ABC]", -3_i64..4), 0..4).prop_map(|amounts| {
            amounts
                .into_iter()
                .map(|(name, amount)| (name, Quantity(amount)))
                .collect()
        })
    }

    fn any_report() -> impl Strategy<Value = NodeReport> {
        let labels = proptest::collection::btree_map("[xy]", "[12]", 0..3);
        let backlog = proptest::collection::btree_map(any_set(), 1_u32..4, 0..3);
        (any_set(), any_set(), labels, backlog, 0_u64..3, any::<bool>()).prop_map(
            |(total, available, labels, backlog, hold, draining)| NodeReport {
                total,
                available,
                labels,
                backlog,
                hold: Duration::from_millis(hold),
                draining,
            },
        )
    }

    /// What the link and the node do with one heartbeat.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Arrives,
        IsLost,
        ComesTwice,
        /// An earlier one comes once more behind it.
        WithAnOldOne,
        NodeRestarts,
    }

    fn any_fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            4 => Just(Fate::Arrives),
            1 => Just(Fate::IsLost),
            1 => Just(Fate::ComesTwice),
            1 => Just(Fate::WithAnOldOne),
            1 => Just(Fate::NodeRestarts),
        ]
    }

    #[test]
    fn an_unchanged_node_says_that_it_lives_and_no_more() {
        let (mut encoder, mut decoder) = (Encoder::new(1), Decoder::default());
        let report = NodeReport {
            total: ResourceSet::new().with("CPU", 4.0),
            ..NodeReport::default()
        };
        assert_eq!(decoder.hear(encoder.next(&report)), Heard::Changed);
        let beat = encoder.next(&report);
        assert!(beat.is_empty());
        assert_eq!(decoder.hear(beat), Heard::Nothing);
        assert_eq!(decoder.report(), &report);
    }

    #[test]
    fn a_sign_of_life_shows_that_something_was_lost() {
        let (mut encoder, mut decoder) = (Encoder::new(1), Decoder::default());
        let mut report = NodeReport::default();
        decoder.hear(encoder.next(&report));
        report.draining = true;
        let _lost = encoder.next(&report);
        assert_eq!(decoder.hear(encoder.next(&report)), Heard::Lost);
        encoder.start_over();
        assert_eq!(decoder.hear(encoder.next(&report)), Heard::Changed);
        assert_eq!(decoder.report(), &report);
    }

    proptest! {
        /// Whatever the link does: what the receiver knows is something that the node was, and is what the node is as
        /// soon as one heartbeat, and at most one request to start over, have come through.
        #[test]
        fn a_receiver_knows_what_the_node_is(history in prop::collection::vec((any_report(), any_fate()), 1..30)) {
            let (mut life, mut sent) = (1, Vec::new());
            let (mut encoder, mut decoder) = (Encoder::new(life), Decoder::default());
            let mut was = vec![NodeReport::default()];
            for (report, fate) in &history {
                if matches!(fate, Fate::NodeRestarts) {
                    life += 1;
                    encoder = Encoder::new(life);
                }
                let beat = encoder.next(report);
                was.push(report.clone());
                sent.push(beat.clone());
                let mut arriving = match fate {
                    Fate::IsLost => vec![],
                    Fate::ComesTwice => vec![beat.clone(), beat],
                    Fate::WithAnOldOne => vec![beat, sent[sent.len() / 2].clone()],
                    Fate::Arrives | Fate::NodeRestarts => vec![beat],
                };
                let arrived = !arriving.is_empty();
                for beat in arriving.drain(..) {
                    if decoder.hear(beat) == Heard::Lost {
                        encoder.start_over();
                        decoder.hear(encoder.next(report));
                    }
                }
                prop_assert!(was.contains(decoder.report()));
                if arrived {
                    prop_assert_eq!(decoder.report(), report);
                }
            }
        }

        /// The difference is never more than everything.
        #[test]
        fn only_what_changed_is_said(before in any_report(), now in any_report()) {
            let mut encoder = Encoder::new(1);
            encoder.next(&before);
            let beat = encoder.next(&now);
            prop_assert_eq!(beat.total.is_some(), before.total != now.total);
            prop_assert_eq!(beat.available.is_empty(), before.available == now.available);
            prop_assert_eq!(beat.backlog.is_empty(), before.backlog == now.backlog);
            prop_assert_eq!(beat.is_empty(), before == now);
        }
    }
}
