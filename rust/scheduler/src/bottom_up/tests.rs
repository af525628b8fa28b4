//! Proposals as stories, and both ends against what a look at everything would give.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use ray_rs_types::placing::{LabelRule, Placing, Strategy as Where};
use ray_rs_types::resources::CPU;
use ray_rs_types::{NodeId, ResourceSet};

use super::forward::{Arrival, Forwarder, MAX_HOPS, Manner, Rules, Verdict, first_stop};
use super::heartbeat::{Encoder, Heard};
use super::load::Load;
use super::*;

fn cpus(amount: f64) -> ResourceSet {
    ResourceSet::new().with(CPU, amount)
}

fn id(number: u8) -> NodeId {
    NodeId([number; 28])
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn report(number: u8, total: f64, free: f64, waiting: u32) -> NodeReport {
    let backlog = (waiting > 0).then(|| (cpus(1.0), waiting));
    NodeReport {
        total: cpus(total),
        available: cpus(free),
        labels: BTreeMap::from([("number".to_owned(), number.to_string())]),
        backlog: backlog.into_iter().collect(),
        ..NodeReport::default()
    }
}

fn cluster(nodes: &[(u8, f64, f64)]) -> GlobalScheduler {
    let mut global = GlobalScheduler::default();
    for (number, total, free) in nodes {
        global.node_reported(Duration::ZERO, id(*number), report(*number, *total, *free, 0));
    }
    global
}

fn wish(resources: &ResourceSet, from: u8, only_if_free: bool) -> Wish<'_> {
    Wish {
        from: Some(id(from)),
        only_if_free,
        ..Wish::of(resources)
    }
}

fn placed<'a>(resources: &'a ResourceSet, from: u8, placing: &'a Placing) -> Wish<'a> {
    Wish {
        placing: Some(placing),
        ..wish(resources, from, false)
    }
}

fn strategy(strategy: Where) -> Placing {
    Placing {
        strategy,
        selectors: Vec::new(),
    }
}

#[test]
fn room_now_decides_and_the_asking_node_is_no_answer() {
    let mut global = cluster(&[(1, 8.0, 8.0), (2, 4.0, 0.0), (3, 4.0, 3.0)]);
    let one = cpus(1.0);
    assert_eq!(global.pick(Duration::ZERO, wish(&one, 1, true)), Some(id(3)));
}

#[test]
fn what_a_quick_node_has_granted_already_is_not_counted_twice() {
    let mut global = cluster(&[(1, 1.0, 0.0), (2, 2.0, 2.0)]);
    let one = cpus(1.0);
    assert_eq!(global.pick(ms(0), wish(&one, 1, true)), Some(id(2)));
    // Sooner than proposals settle, but it is in there.
    global.node_reported(ms(2), id(2), report(2, 2.0, 1.0, 0));
    global.check_invariants();
    assert_eq!(global.free(id(2)), one);
    assert_eq!(global.pick(ms(3), wish(&one, 1, true)), Some(id(2)));
    // Queued there is in there, too.
    let waits = |global: &mut GlobalScheduler, at| global.pick(ms(at), wish(&one, 1, false));
    assert_eq!(waits(&mut global, 4), Some(id(2)));
    global.node_reported(ms(5), id(2), report(2, 2.0, 0.0, 1));
    global.check_invariants();
    assert_eq!(
        global.next_lapse(),
        Some(PROMISE_HOLDS),
        "all are confirmed; only the list of ends is not swept"
    );
    assert_eq!(global.free(id(2)), ResourceSet::new());
}

#[test]
fn what_was_proposed_is_not_proposed_again_until_the_node_reports_or_time_passes() {
    let mut global = cluster(&[(1, 1.0, 0.0), (2, 2.0, 2.0)]);
    let one = cpus(1.0);
    let pick = |global: &mut GlobalScheduler, at| global.pick(ms(at), wish(&one, 1, true));
    assert_eq!(pick(&mut global, 0), Some(id(2)));
    assert_eq!(pick(&mut global, 1), Some(id(2)));
    assert_eq!(pick(&mut global, 2), None, "both processors are promised");
    global.node_reported(ms(3), id(2), report(2, 2.0, 1.0, 0));
    assert_eq!(
        pick(&mut global, 4),
        None,
        "the report left before the node heard of it"
    );
    global.node_reported(ms(20), id(2), report(2, 2.0, 1.0, 0));
    assert_eq!(pick(&mut global, 21), Some(id(2)));
    assert_eq!(pick(&mut global, 22), None);
    assert_eq!(pick(&mut global, 600), Some(id(2)), "a promise that came to nothing");
    global.check_invariants();
}

#[test]
fn a_node_that_could_is_asked_when_the_asking_one_never_can() {
    let mut global = cluster(&[(1, 1.0, 1.0), (2, 4.0, 0.0)]);
    let two = cpus(2.0);
    assert_eq!(global.pick(Duration::ZERO, wish(&two, 1, true)), None);
    assert_eq!(global.pick(Duration::ZERO, wish(&two, 1, false)), Some(id(2)));
    assert!(!global.is_feasible(&cpus(5.0)));
    let Proposal::Infeasible(why) = global.propose(Duration::ZERO, wish(&cpus(5.0), 1, false)) else {
        panic!("no node could");
    };
    assert_eq!(why, "no node of this cluster has {CPU: 5}");
    global.node_gone(id(2));
    assert_eq!(global.pick(Duration::ZERO, wish(&two, 1, false)), None);
    assert_eq!(
        global.propose(Duration::ZERO, wish(&cpus(1.0), 1, true)),
        Proposal::Stay
    );
}

#[test]
fn a_shorter_queue_is_worth_moving_for_and_an_equal_one_is_not() {
    let mut global = cluster(&[(1, 1.0, 0.0)]);
    global.node_reported(Duration::ZERO, id(2), report(2, 1.0, 0.0, 4));
    let one = cpus(1.0);
    let after = |global: &mut GlobalScheduler, wait| {
        let wish = Wish {
            wait_here: Some(ms(wait)),
            ..wish(&one, 1, true)
        };
        global.propose(Duration::ZERO, wish)
    };
    // Four wait there, for 10 ms each.
    assert_eq!(after(&mut global, 50), Proposal::Stay);
    let moves = Proposal::Node {
        node: id(2),
        has_room: false,
    };
    assert_eq!(after(&mut global, 51), moves);
    assert_eq!(after(&mut global, 51), Proposal::Stay, "now five wait");
}

#[test]
fn bytes_of_arguments_draw_a_task_to_where_they_lie() {
    let mut global = cluster(&[(1, 4.0, 0.0), (2, 4.0, 4.0), (3, 4.0, 4.0), (4, 4.0, 0.0)]);
    let one = cpus(1.0);
    let with = |global: &mut GlobalScheduler, arguments: &[(NodeId, u64)]| {
        let wish = Wish {
            arguments,
            ..wish(&one, 1, false)
        };
        global.pick(Duration::ZERO, wish)
    };
    for node in [2, 3] {
        assert_eq!(
            with(&mut global, &[(id(node), 1 << 20), (id(5 - node), 1 << 10)]),
            Some(id(node))
        );
    }
    // A gigabyte travels for a second; node 4 will have room in 10 ms.
    assert_eq!(with(&mut global, &[(id(4), 1_000_000_000)]), Some(id(4)));
    assert_ne!(with(&mut global, &[(id(4), 1_000)]), Some(id(4)));
}

#[test]
fn who_has_said_nothing_for_long_is_held_for_long() {
    let mut global = cluster(&[(1, 1.0, 1.0), (2, 1.0, 0.0)]);
    let one = cpus(1.0);
    let arguments = [(id(2), 100_000_000)];
    let mut after = |now| {
        let wish = Wish {
            arguments: &arguments,
            wait_here: Some(Duration::ZERO),
            ..wish(&one, 1, true)
        };
        global.propose(ms(now), wish)
    };
    assert_eq!(after(10).node(), Some(id(2)), "10 ms of waiting, or 100 ms on the way");
    assert_eq!(after(1_000), Proposal::Stay);
}

#[test]
fn spread_goes_round_and_passes_full_nodes() {
    let mut global = cluster(&[(1, 4.0, 4.0), (2, 4.0, 0.0), (3, 4.0, 4.0)]);
    let (one, spread) = (cpus(1.0), strategy(Where::Spread));
    let mut took = Vec::new();
    for _ in 0..6 {
        took.push(global.propose(Duration::ZERO, placed(&one, 1, &spread)).node());
    }
    // The asking node has its turn by staying.
    assert_eq!(took, [None, Some(id(3)), None, Some(id(3)), None, Some(id(3))]);
    global.check_invariants();
}

#[test]
fn affinity_and_labels() {
    let mut global = cluster(&[(1, 4.0, 4.0), (2, 4.0, 0.0), (3, 8.0, 8.0)]);
    let one = cpus(1.0);
    let affinity = |node, soft| {
        strategy(Where::NodeAffinity {
            node: id(node),
            soft,
            spill_on_unavailable: false,
            fail_on_unavailable: false,
        })
    };
    let mut ask =
        |placing: &Placing, resources: &ResourceSet| global.propose(Duration::ZERO, placed(resources, 1, placing));
    let busy = Proposal::Node {
        node: id(2),
        has_room: false,
    };
    assert_eq!(ask(&affinity(2, false), &one), busy, "it waits there");
    assert_eq!(ask(&affinity(1, false), &one), Proposal::Stay);
    assert!(matches!(ask(&affinity(9, false), &one), Proposal::Never(_)));
    assert!(matches!(ask(&affinity(2, false), &cpus(5.0)), Proposal::Never(_)));
    assert_eq!(ask(&affinity(9, true), &cpus(5.0)).node(), Some(id(3)));
    let is = |number: &str| vec![LabelRule::is("number", number)];
    let labels = |hard, soft| strategy(Where::NodeLabels { hard, soft });
    assert_eq!(ask(&labels(is("2"), vec![]), &one).node(), Some(id(2)));
    assert_eq!(
        ask(&labels(vec![], is("2")), &one).node(),
        Some(id(2)),
        "it could, one day"
    );
    assert_eq!(ask(&labels(vec![], is("2")), &cpus(5.0)).node(), Some(id(3)));
    let Proposal::Infeasible(why) = ask(&labels(is("7"), vec![]), &one) else {
        panic!("no node has the label");
    };
    assert!(why.contains("number: in(7)"), "{why}");
    let selected = Placing {
        strategy: Where::Default,
        selectors: vec![is("7"), is("3")],
    };
    assert_eq!(ask(&selected, &one).node(), Some(id(3)), "the fallback");
}

#[test]
fn a_node_that_did_not_take_it_is_left_out_until_it_says_something_new() {
    let mut global = cluster(&[(1, 1.0, 0.0), (2, 4.0, 4.0)]);
    let (one, spread) = (cpus(1.0), strategy(Where::Spread));
    let named = strategy(Where::NodeAffinity {
        node: id(2),
        soft: false,
        spill_on_unavailable: false,
        fail_on_unavailable: false,
    });
    let refused = [(id(2), global.view(id(2)))];
    let two = cpus(2.0);
    let wishes = [
        (Proposal::Stay, wish(&one, 1, true)),
        (Proposal::Stay, placed(&one, 1, &spread)),
        (
            Proposal::Pending("the nodes that have {CPU: 2} did not take it".to_owned()),
            wish(&two, 1, false),
        ),
        (
            Proposal::Pending("the node that it names did not take it".to_owned()),
            placed(&one, 1, &named),
        ),
    ];
    for (expected, wish) in &wishes {
        let wish = Wish {
            refused: &refused,
            ..*wish
        };
        assert_eq!(global.propose(Duration::ZERO, wish), *expected);
    }
    assert_eq!(global.next_lapse(), Some(PROMISE_HOLDS), "its turn was promised");
    global.node_reported(ms(10), id(2), report(2, 4.0, 4.0, 0));
    let again = Wish {
        refused: &refused,
        ..wishes[0].1
    };
    assert_eq!(global.propose(ms(10), again).node(), Some(id(2)));
}

#[test]
fn who_has_not_heard_of_all_nodes_says_of_nothing_that_it_is_impossible() {
    let mut global = cluster(&[(1, 4.0, 4.0)]);
    let named = strategy(Where::NodeAffinity {
        node: id(2),
        soft: false,
        spill_on_unavailable: false,
        fail_on_unavailable: false,
    });
    let labelled = Placing {
        strategy: Where::Default,
        selectors: vec![vec![LabelRule::is("number", "2")]],
    };
    let (one, eight) = (cpus(1.0), cpus(8.0));
    let wishes = [
        placed(&one, 1, &named),
        placed(&one, 1, &labelled),
        wish(&eight, 1, false),
    ];
    global.set_partial(true);
    for wish in wishes {
        assert!(matches!(global.propose(Duration::ZERO, wish), Proposal::Pending(_)));
    }
    global.set_partial(false);
    let answers = wishes.map(|wish| global.propose(Duration::ZERO, wish));
    assert!(matches!(
        answers,
        [Proposal::Never(_), Proposal::Infeasible(_), Proposal::Infeasible(_)]
    ));
}

#[test]
fn a_draining_node_gets_nothing_new() {
    let mut global = cluster(&[(1, 1.0, 1.0), (2, 4.0, 4.0)]);
    let leaving = NodeReport {
        draining: true,
        ..report(2, 4.0, 4.0, 0)
    };
    global.node_reported(Duration::ZERO, id(2), leaving);
    let two = cpus(2.0);
    assert!(matches!(
        global.propose(Duration::ZERO, wish(&two, 1, false)),
        Proposal::Pending(_)
    ));
    global.check_invariants();
}

#[test]
fn idle_nodes_are_left_idle_where_others_have_room() {
    let mut global = cluster(&[(1, 1.0, 0.0), (2, 4.0, 4.0), (3, 4.0, 3.0), (4, 4.0, 4.0)]);
    let one = cpus(1.0);
    assert_eq!(global.pick(Duration::ZERO, wish(&one, 1, true)), Some(id(3)));
}

#[test]
fn a_group_s_requests_go_to_its_nodes_where_least_waits() {
    let mut global = cluster(&[(1, 4.0, 0.0), (2, 4.0, 0.0), (3, 4.0, 0.0)]);
    let inside = ResourceSet::new().with("CPU_group_7", 1.0);
    let say = |global: &mut GlobalScheduler, node, waiting| {
        let mut report = report(node, 4.0, 0.0, 0);
        report.backlog.insert(inside.clone(), waiting);
        global.node_reported(Duration::ZERO, id(node), report);
    };
    say(&mut global, 1, 3);
    say(&mut global, 2, 2);
    let among = [id(1), id(2)];
    let ask = |global: &mut GlobalScheduler, from| {
        let wish = Wish {
            among: Some(&among),
            ..wish(&inside, from, false)
        };
        global.propose(Duration::ZERO, wish)
    };
    assert_eq!(ask(&mut global, 3).node(), Some(id(2)));
    assert_eq!(ask(&mut global, 1), Proposal::Stay, "it counts itself");
    say(&mut global, 1, 4);
    assert_eq!(ask(&mut global, 1).node(), Some(id(2)));
    global.node_gone(id(2));
    assert_eq!(ask(&mut global, 1), Proposal::Stay);
    global.node_gone(id(1));
    assert!(matches!(ask(&mut global, 3), Proposal::Pending(_)));
}

#[test]
fn what_waits_is_summed_up_by_shape() {
    let mut global = cluster(&[]);
    global.node_reported(Duration::ZERO, id(1), report(1, 4.0, 0.0, 2));
    let mut full = report(2, 4.0, 0.0, 3);
    full.backlog.insert(cpus(8.0), 1);
    global.node_reported(Duration::ZERO, id(2), full);
    let demand = |shape, waiting, is_feasible| ShapeDemand {
        shape,
        waiting,
        is_feasible,
    };
    assert_eq!(
        global.demand(),
        [demand(cpus(1.0), 5, true), demand(cpus(8.0), 1, false)]
    );
}

#[test]
fn changes_are_heard_and_a_gap_is_noticed() {
    let (mut global, mut node) = (GlobalScheduler::default(), Encoder::new(1));
    let full = node.next(&report(1, 4.0, 4.0, 0));
    assert_eq!(global.hear(Duration::ZERO, id(1), full), Heard::Changed);
    let _lost = node.next(&report(1, 4.0, 3.0, 0));
    assert_eq!(
        global.hear(Duration::ZERO, id(1), node.next(&report(1, 4.0, 2.0, 0))),
        Heard::Lost
    );
    assert_eq!(global.free(id(1)), cpus(4.0), "it is known as it was");
    node.start_over();
    let full = node.next(&report(1, 4.0, 2.0, 0));
    assert_eq!(global.hear(Duration::ZERO, id(1), full), Heard::Changed);
    assert_eq!(global.free(id(1)), cpus(2.0));
    global.node_gone(id(1));
    assert_eq!(
        global.hear(Duration::ZERO, id(1), node.next(&report(1, 4.0, 1.0, 0))),
        Heard::Lost
    );
    assert!(global.is_empty(), "the dead do not come back by halves");
    global.check_invariants();
}

#[derive(Debug, Clone)]
enum Step {
    Report(u8, u8, u8, bool),
    Gone(u8),
    Ask {
        from: u8,
        half_cpus: u8,
        label: Option<u8>,
        spread: bool,
        only_if_free: bool,
    },
    Wait(u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..6, 0_u8..9, 0_u8..9, prop::bool::weighted(0.1))
            .prop_map(|(node, total, free, draining)| Step::Report(node, total, free.min(total), draining)),
        1 => (0_u8..6).prop_map(Step::Gone),
        6 => (0_u8..6, 0_u8..12, prop::option::weighted(0.2, 0_u8..6), any::<bool>(), any::<bool>()).prop_map(
            |(from, half_cpus, label, spread, only_if_free)| Step::Ask { from, half_cpus, label, spread, only_if_free }
        ),
        1 => (0_u16..700).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn nothing_is_promised_twice(frees in prop::collection::vec(0_u32..5, 1..6), asks in 1_usize..40) {
        let nodes: Vec<_> = frees.iter().enumerate().map(|(n, free)| (n as u8 + 2, 8.0, f64::from(*free))).collect();
        let mut global = cluster(&nodes);
        let one = cpus(1.0);
        let given = (0..asks).filter(|_| global.pick(Duration::ZERO, wish(&one, 1, true)).is_some()).count();
        prop_assert_eq!(given, asks.min(frees.iter().sum::<u32>() as usize));
    }

    /// Of nodes that all have room each gets its share, whoever asks.
    #[test]
    fn spreading_is_fair(nodes in 1_u8..12, asks in 1_usize..60, from in 0_u8..14) {
        let all: Vec<_> = (0..nodes).map(|node| (node, 100.0, 100.0)).collect();
        let mut global = cluster(&all);
        let (one, spread) = (cpus(1.0), strategy(Where::Spread));
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        for _ in 0..asks {
            let wish = placed(&one, from, &spread);
            let node = match global.propose(Duration::ZERO, wish) {
                Proposal::Node { node, .. } => node,
                Proposal::Stay => id(from),
                other => panic!("all have room: {other:?}"),
            };
            *counts.entry(node).or_default() += 1;
        }
        let share = asks / usize::from(nodes);
        prop_assert!(counts.values().all(|count| *count == share || *count == share + 1), "{:?}", counts);
        prop_assert_eq!(counts.len(), asks.min(usize::from(nodes)));
    }

    /// GLB-1, GLB-2 after every step; GLB-3 and no false "infeasible", by a look at every node.
    #[test]
    fn proposals_are_what_a_look_at_every_node_allows(steps in prop::collection::vec(any_step(), 1..80)) {
        let mut global = GlobalScheduler::new(7);
        let mut known: BTreeMap<NodeId, NodeReport> = BTreeMap::new();
        let mut now = Duration::ZERO;
        for step in steps {
            match step {
                Step::Report(node, total, free, draining) => {
                    let mut report = report(node, f64::from(total), f64::from(free), 0);
                    report.draining = draining;
                    known.insert(id(node), report.clone());
                    global.node_reported(now, id(node), report);
                }
                Step::Gone(node) => {
                    known.remove(&id(node));
                    global.node_gone(id(node));
                }
                Step::Wait(time) => now += ms(u64::from(time)),
                Step::Ask { from, half_cpus, label, spread, only_if_free } => {
                    let demand = cpus(f64::from(half_cpus) / 2.0);
                    let rules: Vec<LabelRule> = label.iter().map(|label| LabelRule::is("number", &label.to_string())).collect();
                    let placing = Placing {
                        strategy: if spread { Where::Spread } else { Where::Default },
                        selectors: (!rules.is_empty()).then(|| rules.clone()).into_iter().collect(),
                    };
                    let could_at_all = |report: &NodeReport| {
                        !report.draining && report.total.covers(&demand)
                            && rules.iter().all(|rule| rule.is_met_by(report.labels.get(&rule.key)))
                    };
                    let could = |node: &NodeId, report: &NodeReport| *node != id(from) && could_at_all(report);
                    global.forget_promises(now);
                    let roomy: Vec<NodeId> = known.iter()
                        .filter(|(node, report)| could(node, report) && global.free(**node).covers(&demand))
                        .map(|(node, _)| *node)
                        .collect();
                    let is_possible = known.iter().any(|(node, report)| could(node, report));
                    let wish = Wish { only_if_free, ..placed(&demand, from, &placing) };
                    match global.propose(now, wish) {
                        Proposal::Node { node, has_room } => {
                            prop_assert!(could(&node, &known[&node]));
                            prop_assert_eq!(has_room, roomy.contains(&node));
                            prop_assert!(has_room || roomy.is_empty(), "GLB-3");
                        }
                        Proposal::Stay => {
                            let is_one = !only_if_free && known.get(&id(from)).is_some_and(|report| {
                                could_at_all(report) && global.free(id(from)).covers(&demand)
                            });
                            prop_assert!(spread || is_one || roomy.is_empty(), "GLB-3");
                        }
                        Proposal::Pending(_) | Proposal::Infeasible(_) => prop_assert!(!is_possible),
                        Proposal::Never(_) => prop_assert!(false, "nothing was demanded so strictly"),
                    }
                }
            }
            global.check_invariants();
        }
    }
}

// ---- the raylet's end ------------------------------------------------------------------------------------------------

struct Here {
    total: ResourceSet,
    available: ResourceSet,
    forwarder: Forwarder<u32>,
}

impl Here {
    fn new(total: f64, rules: Rules) -> Self {
        Self {
            total: cpus(total),
            available: cpus(0.0),
            forwarder: Forwarder::new(rules),
        }
    }

    fn asks(&mut self, now: Duration) -> Vec<u32> {
        let mut asks = Vec::new();
        self.forwarder.asks(now, &load(&self.total, &self.available), &mut asks);
        self.forwarder.check_invariants();
        asks.into_iter().map(|ask| ask.key).collect()
    }
}

fn moves(node: u8) -> Verdict {
    Verdict::Move {
        node: id(node),
        expects_room: true,
    }
}

fn goes(node: u8) -> Option<Proposal> {
    Some(Proposal::Node {
        node: id(node),
        has_room: true,
    })
}

#[test]
fn a_short_wait_is_waited_for_and_of_a_long_queue_the_last_ask() {
    let mut here = Here::new(16.0, Rules::default());
    here.forwarder
        .waits(ms(0), 0, cpus(1.0), Manner::Queued, 0)
        .expect("room");
    assert_eq!(here.asks(ms(0)), [], "0.6 ms");
    for key in 1..20 {
        here.forwarder
            .waits(ms(0), key, cpus(1.0), Manner::Queued, 0)
            .expect("room");
    }
    assert_eq!(here.forwarder.next_deadline(), Some(ms(20)));
    assert_eq!(here.asks(ms(20)), [19, 18, 17, 16]);
    assert_eq!(here.asks(ms(20)), [], "four at a time");
    assert_eq!(here.forwarder.answered(ms(21), 19, goes(2)), moves(2));
    assert_eq!(here.asks(ms(21)), [15]);
    assert_eq!(here.forwarder.answered(ms(22), 18, Some(Proposal::Stay)), Verdict::Wait);
    assert_eq!(here.asks(ms(22)), [], "asked in vain");
    here.forwarder.no_longer_waits(17);
    assert_eq!(
        here.forwarder.answered(ms(23), 17, goes(2)),
        Verdict::Wait,
        "it was granted meanwhile"
    );
    here.forwarder.check_invariants();
    assert_eq!(here.forwarder.counts.forwarded, 1);
}

#[test]
fn asking_in_vain_becomes_rare_and_a_new_node_makes_it_worth_while() {
    let mut here = Here::new(1.0, Rules::default());
    here.forwarder
        .waits(ms(0), 1, cpus(2.0), Manner::Queued, 0)
        .expect("room");
    let mut asked_at = Vec::new();
    for now in (0..3_000).map(ms) {
        for key in here.asks(now) {
            asked_at.push(now.as_millis());
            let why = "no node of this cluster has it".to_owned();
            assert!(matches!(
                here.forwarder.answered(now, key, Some(Proposal::Infeasible(why))),
                Verdict::WaitTelling(_)
            ));
        }
    }
    assert_eq!(asked_at, [0, 20, 60, 140, 300, 620, 1260, 2260]);
    here.forwarder.look_again(ms(3_000));
    assert_eq!(here.asks(ms(3_000)), [1]);
    assert_eq!(
        here.forwarder.answered(ms(3_000), 1, None),
        Verdict::Wait,
        "the replica has ended"
    );
    here.forwarder.check_invariants();
}

#[test]
fn what_was_sent_on_twice_stays_and_what_cannot_run_here_goes_back() {
    let mut here = Here::new(1.0, Rules::default());
    here.forwarder
        .waits(ms(0), 1, cpus(1.0), Manner::Queued, MAX_HOPS)
        .expect("room");
    here.forwarder
        .waits(ms(0), 2, cpus(1.0), Manner::Queued, MAX_HOPS - 1)
        .expect("room");
    assert_eq!(here.asks(ms(0)), [2]);
}

fn load<'a>(total: &'a ResourceSet, available: &'a ResourceSet) -> Load<'a> {
    Load {
        total,
        available,
        hold: ms(10),
    }
}

#[test]
fn a_node_sends_back_what_it_never_can_serve_and_what_was_promised_room_that_is_gone() {
    let (total, none, one) = (cpus(1.0), cpus(0.0), cpus(1.0));
    let (busy, idle) = (load(&total, &none), load(&total, &total));
    let mut here = Forwarder::<u32>::default();
    let mut arrived =
        |load: &Load<'_>, demand: &ResourceSet, expects_room, hops| here.arrived(load, demand, expects_room, hops);
    assert_eq!(arrived(&idle, &one, true, 1), Arrival::Serve);
    assert_eq!(arrived(&busy, &cpus(2.0), false, 1), Arrival::SpillBack);
    assert_eq!(arrived(&busy, &one, true, 1), Arrival::SpillBack);
    assert_eq!(
        arrived(&busy, &one, false, 1),
        Arrival::Serve,
        "it was sent to wait here"
    );
    assert_eq!(
        arrived(&busy, &one, true, MAX_HOPS),
        Arrival::Serve,
        "it has travelled enough"
    );
    assert_eq!(here.counts.spilled_back, 2);
}

#[test]
fn what_goes_first_to_the_global_scheduler() {
    let rules = Rules::default();
    let first = |placing: Option<&Placing>, arguments: &[(NodeId, u64)]| first_stop(id(1), &rules, placing, arguments);
    assert_eq!(first(None, &[]), Manner::Queued);
    assert_eq!(
        first(None, &[(id(2), 1 << 10)]),
        Manner::Queued,
        "too small to travel for"
    );
    assert_eq!(first(None, &[(id(2), 100 << 20)]), Manner::Drawn);
    assert_eq!(first(None, &[(id(1), 100 << 20), (id(2), 90 << 20)]), Manner::Queued);
    assert_eq!(first(Some(&strategy(Where::Default)), &[]), Manner::Queued);
    assert_eq!(first(Some(&strategy(Where::Spread)), &[]), Manner::Named);
    let named = |node| {
        strategy(Where::NodeAffinity {
            node: id(node),
            soft: false,
            spill_on_unavailable: false,
            fail_on_unavailable: false,
        })
    };
    assert_eq!(first(Some(&named(1)), &[]), Manner::Queued);
    assert_eq!(first(Some(&named(2)), &[]), Manner::Named);
}

#[test]
fn what_named_a_node_is_asked_for_until_there_is_one_and_stays_where_it_is_told_to() {
    let mut here = Here::new(4.0, Rules::default());
    for (key, manner) in [(1, Manner::Named), (2, Manner::Named), (3, Manner::Drawn)] {
        here.forwarder.waits(ms(0), key, cpus(1.0), manner, 0).expect("room");
    }
    assert_eq!(here.asks(ms(0)), [3, 1, 2]);
    let stay = Some(Proposal::Stay);
    for key in [1, 3] {
        assert_eq!(here.forwarder.answered(ms(1), key, stay.clone()), Verdict::Stay);
        here.forwarder.stays(ms(1), key);
    }
    let pending = Some(Proposal::Pending("it leaves".to_owned()));
    assert!(matches!(
        here.forwarder.answered(ms(1), 2, pending),
        Verdict::WaitTelling(_)
    ));
    assert_eq!(here.forwarder.backlog()[&cpus(1.0)], 3);
    assert_eq!(here.asks(ms(10)), [3], "7.5 ms of waiting are before it");
    assert_eq!(here.asks(ms(30)), [2], "the one that named this node stays");
    assert!(here.forwarder.no_longer_waits(1));
    assert!(!here.forwarder.no_longer_waits(1));
    here.forwarder.check_invariants();
}

/// A client's node: what asks for nothing would fit there, and must not stay.
#[test]
fn where_nothing_is_served_everything_is_asked_for_until_there_is_a_node() {
    let rules = Rules {
        serves_here: false,
        ..Rules::default()
    };
    let mut here = Here::new(0.0, rules);
    let nothing = ResourceSet::new();
    for (key, manner) in [(1, Manner::Queued), (2, Manner::Named), (3, Manner::Drawn)] {
        here.forwarder
            .waits(ms(0), key, nothing.clone(), manner, 0)
            .expect("room");
    }
    let mut asked = here.asks(ms(0));
    asked.sort_unstable();
    assert_eq!(asked, [1, 2, 3]);
    for key in [1, 2, 3] {
        let stay = Some(Proposal::Stay);
        assert_eq!(here.forwarder.answered(ms(1), key, stay), Verdict::Wait);
    }
    here.forwarder.check_invariants();
    let mut again = here.asks(ms(100));
    again.sort_unstable();
    assert_eq!(again, [1, 2, 3]);
    let node = NodeId([7; 28]);
    let found = Some(Proposal::Node { node, has_room: true });
    assert!(matches!(
        here.forwarder.answered(ms(101), 2, found),
        Verdict::Move { .. }
    ));
    here.forwarder.check_invariants();
}

#[test]
fn too_many_are_turned_away_and_told_when_to_come_again() {
    let rules = Rules {
        max_waiting: 2,
        ..Rules::default()
    };
    let mut here = Here::new(1.0, rules);
    for key in 0..2 {
        here.forwarder
            .waits(ms(0), key, cpus(1.0), Manner::Queued, 0)
            .expect("room");
    }
    assert_eq!(
        here.forwarder.waits(ms(0), 2, cpus(1.0), Manner::Queued, 0),
        Err(ms(100))
    );
    here.forwarder.no_longer_waits(0);
    here.forwarder
        .waits(ms(1), 2, cpus(1.0), Manner::Queued, 0)
        .expect("room");
    assert_eq!(here.forwarder.counts.turned_away, 1);
}
