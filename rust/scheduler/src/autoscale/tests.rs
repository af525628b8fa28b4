use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use ray_rs_types::placing::GroupStrategy;
use ray_rs_types::{NodeId, ResourceSet};

use super::*;

fn cpus(cpus: f64) -> ResourceSet {
    ResourceSet::new().with("CPU", cpus)
}

fn of_type(name: &str, resources: ResourceSet, min_workers: u32, max_workers: u32) -> NodeType {
    NodeType {
        name: name.to_owned(),
        resources,
        min_workers,
        max_workers,
    }
}

fn config(types: Vec<NodeType>, max_workers: u32) -> Config {
    Config {
        types,
        max_workers,
        idle_timeout: s(10),
        start_timeout: s(60),
        upscaling_speed: 1.0,
        first_pause: s(1),
        longest_pause: s(30),
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn node(number: u8, total: f64, available: f64) -> Node {
    Node {
        node: NodeId([number; 28]),
        ordered: None,
        total: cpus(total),
        available: cpus(available),
        idle_for: None,
        drains: false,
    }
}

fn waits(demand: &[(ResourceSet, u32)]) -> View {
    View {
        nodes: vec![node(0, 0.0, 0.0)],
        demand: demand.iter().cloned().collect(),
        ..View::default()
    }
}

fn planned(config: &Config, view: &View) -> Vec<(String, u32)> {
    let plan = plan(config, view, &BTreeMap::new(), &[], &BTreeSet::new());
    plan.start.into_iter().collect()
}

fn start(name: &str, count: u32) -> (String, u32) {
    (name.to_owned(), count)
}

// ---- plans ---------------------------------------------------------------------------------------------------------

#[test]
fn as_many_are_started_as_what_waits_fills() {
    let config = config(vec![of_type("four", cpus(4.0), 0, 10)], 10);
    assert_eq!(planned(&config, &waits(&[])), []);
    assert_eq!(planned(&config, &waits(&[(cpus(1.0), 1)])), [start("four", 1)]);
    assert_eq!(planned(&config, &waits(&[(cpus(1.0), 9)])), [start("four", 3)]);
    // The large ones first, and the small ones beside them.
    assert_eq!(
        planned(&config, &waits(&[(cpus(1.0), 2), (cpus(3.0), 2)])),
        [start("four", 2)]
    );
    // AUT-4: what fits into what is there.
    let mut view = waits(&[(cpus(2.0), 3)]);
    view.nodes.push(node(1, 4.0, 4.0));
    assert_eq!(planned(&config, &view), [start("four", 1)]);
    view.nodes[1].drains = true;
    assert_eq!(planned(&config, &view), [start("four", 2)]);
}

#[test]
fn limits_are_kept_and_what_they_leave_waiting_is_told() {
    let config = config(vec![of_type("a", cpus(1.0), 0, 2), of_type("b", cpus(1.0), 0, 9)], 3);
    let view = waits(&[(cpus(1.0), 5), (cpus(64.0), 1)]);
    let found = plan(&config, &view, &BTreeMap::new(), &[], &BTreeSet::new());
    assert_eq!(found.start.values().sum::<u32>(), 3);
    assert_eq!(found.start["a"], 2);
    assert_eq!(found.delayed, BTreeMap::from([(cpus(1.0), 2)]));
    assert_eq!(found.infeasible, BTreeMap::from([(cpus(64.0), 1)]));
}

#[test]
fn the_type_that_is_of_most_use_is_chosen() {
    let gpu = cpus(8.0).with("GPU", 1.0);
    let types = vec![
        of_type("big", cpus(16.0), 0, 5),
        of_type("gpu", gpu, 0, 5),
        of_type("small", cpus(2.0), 0, 5),
    ];
    let config = config(types, 20);
    assert_eq!(planned(&config, &waits(&[(cpus(1.0), 1)])), [start("small", 1)]);
    assert_eq!(planned(&config, &waits(&[(cpus(1.0), 16)])), [start("big", 1)]);
    assert_eq!(
        planned(&config, &waits(&[(cpus(4.0), 1)])),
        [start("big", 1)],
        "no GPU for who needs none"
    );
    let with_gpu = ResourceSet::new().with("GPU", 1.0);
    assert_eq!(planned(&config, &waits(&[(with_gpu, 1)])), [start("gpu", 1)]);
    // A type whose starts fail is passed over.
    let paused = BTreeSet::from(["small".to_owned()]);
    let found = plan(&config, &waits(&[(cpus(1.0), 1)]), &BTreeMap::new(), &[], &paused);
    assert_eq!(found.start, BTreeMap::from([start("big", 1)]));
}

#[test]
fn minimum_and_requests_count_what_is_there_and_coming() {
    let config = config(vec![of_type("two", cpus(2.0), 2, 10)], 10);
    assert_eq!(planned(&config, &waits(&[])), [start("two", 2)]);
    let mut view = waits(&[]);
    view.requested = BTreeMap::from([(cpus(1.0), 7)]);
    assert_eq!(planned(&config, &view), [start("two", 4)]);
    // What is in use counts as well: requests are of the whole cluster.
    view.nodes.push(node(1, 2.0, 0.0));
    let ordered = BTreeMap::from([start("two", 2)]);
    let found = plan(&config, &view, &ordered, &["two".to_owned()], &BTreeSet::new());
    assert_eq!(found.start, BTreeMap::from([start("two", 2)]));
    // The nodes that are started for them serve what waits.
    view.demand = BTreeMap::from([(cpus(1.0), 4)]);
    let found = plan(&config, &view, &ordered, &["two".to_owned()], &BTreeSet::new());
    assert_eq!(found.start, BTreeMap::from([start("two", 2)]));
}

#[test]
fn groups_get_nodes_as_their_strategies_ask() {
    let config = config(
        vec![of_type("two", cpus(2.0), 0, 10), of_type("eight", cpus(8.0), 0, 10)],
        10,
    );
    let group = |strategy, count: usize| View {
        groups: vec![Group {
            strategy,
            bundles: vec![cpus(2.0); count],
        }],
        ..waits(&[])
    };
    let nodes = |strategy, count| planned(&config, &group(strategy, count));
    assert_eq!(nodes(GroupStrategy::StrictPack, 3), [start("eight", 1)]);
    assert_eq!(nodes(GroupStrategy::StrictSpread, 3), [start("two", 3)]);
    assert_eq!(nodes(GroupStrategy::Pack, 4), [start("eight", 1)]);
    let on_one = group(GroupStrategy::StrictPack, 5);
    let found = plan(&config, &on_one, &BTreeMap::new(), &[], &BTreeSet::new());
    assert_eq!(found.start, BTreeMap::new(), "no node has ten");
    assert_eq!(found.infeasible, BTreeMap::from([(cpus(10.0), 1)]));
    // Half a group is of no use.
    let few = self::config(vec![of_type("two", cpus(2.0), 0, 2)], 2);
    assert_eq!(planned(&few, &group(GroupStrategy::StrictSpread, 3)), []);
    let mut there = group(GroupStrategy::StrictSpread, 3);
    there.nodes.push(node(1, 4.0, 4.0));
    assert_eq!(planned(&few, &there), [start("two", 2)]);
}

// ---- the machine ---------------------------------------------------------------------------------------------------

struct Story {
    scaler: Autoscaler,
    now: Duration,
    view: View,
    effects: Vec<Effect>,
}

impl Story {
    fn new(config: Config) -> Self {
        Self {
            scaler: Autoscaler::new(config, "life"),
            now: s(100),
            view: waits(&[]),
            effects: Vec::new(),
        }
    }

    fn event(&mut self, event: Event) {
        self.scaler.on_event(self.now, event, &mut self.effects);
        self.scaler.check_invariants();
    }

    /// Looks twice, since what waits is served when it still does at the second look.
    fn look(&mut self) {
        for _ in 0..2 {
            self.now += Duration::from_millis(500);
            self.event(Event::Looked(self.view.clone()));
        }
    }

    /// The names of what is to be started; nothing else was ordered.
    fn starts(&mut self) -> Vec<String> {
        let name = |effect| match effect {
            Effect::Start { instance, .. } => instance,
            other => panic!("{other:?} was ordered"),
        };
        self.effects.drain(..).map(name).collect()
    }

    fn joins(&mut self, number: u8, instance: &str, total: f64) {
        self.view.nodes.push(Node {
            ordered: Some(Ordered {
                instance: instance.to_owned(),
                node_type: "two".to_owned(),
            }),
            ..node(number, total, total)
        });
    }

    fn is_idle(&mut self, number: u8, idle: Duration) {
        let found = self
            .view
            .nodes
            .iter_mut()
            .find(|node| node.node == NodeId([number; 28]));
        found.expect("it is there").idle_for = Some(idle);
    }

    fn leaves(&mut self, number: u8) {
        self.view.nodes.retain(|node| node.node != NodeId([number; 28]));
    }
}

fn two(min: u32, max: u32) -> Story {
    Story::new(config(vec![of_type("two", cpus(2.0), min, max)], max))
}

#[test]
fn a_node_comes_as_work_waits_and_goes_when_it_is_idle() {
    let mut story = two(0, 4);
    story.view.demand = BTreeMap::from([(cpus(1.0), 2)]);
    story.look();
    let [instance] = story.starts().try_into().expect("one is enough");
    assert_eq!(instance, "two-life-1");
    story.look();
    assert_eq!(story.effects, [], "AUT-4: it is coming");
    story.event(Event::Started {
        instance: instance.clone(),
    });
    story.joins(1, &instance, 2.0);
    story.view.demand.clear();
    story.look();
    story.now += s(20);
    story.is_idle(1, s(9));
    story.look();
    assert_eq!(story.effects, []);
    story.is_idle(1, s(10));
    story.look();
    let drain = Effect::Drain {
        instance: instance.clone(),
        node: NodeId([1; 28]),
    };
    assert_eq!(std::mem::take(&mut story.effects), std::slice::from_ref(&drain));
    // It was needed after all, and then not.
    story.event(Event::DrainAnswered {
        instance: instance.clone(),
        refused: Some("busy".to_owned()),
    });
    story.now += s(20);
    story.look();
    assert_eq!(std::mem::take(&mut story.effects), [drain]);
    story.leaves(1);
    story.look();
    let end = Effect::End {
        instance: instance.clone(),
    };
    assert_eq!(std::mem::take(&mut story.effects), [end]);
    story.event(Event::Ended { instance });
    assert_eq!(story.scaler.instances(), Vec::<String>::new());
    assert_eq!(story.scaler.report().failures, []);
}

#[test]
fn what_waits_for_a_moment_starts_nothing() {
    let mut story = two(0, 4);
    for round in 0..6 {
        story.view.demand = BTreeMap::from([(cpus(1.0), round % 2)]);
        story.event(Event::Looked(story.view.clone()));
    }
    assert_eq!(story.effects, []);
}

#[test]
fn a_minimum_and_a_request_keep_idle_nodes() {
    let mut story = two(1, 4);
    story.look();
    let [first] = story.starts().try_into().expect("the minimum");
    story.joins(1, &first, 2.0);
    story.view.requested = BTreeMap::from([(cpus(1.0), 4)]);
    story.look();
    let [second] = story.starts().try_into().expect("the request");
    story.joins(2, &second, 2.0);
    story.look();
    story.now += s(100);
    story.is_idle(1, s(50));
    story.is_idle(2, s(60));
    story.look();
    assert_eq!(story.effects, []);
    story.view.requested.clear();
    story.look();
    let [Effect::Drain { instance, .. }] = &story.effects[..] else {
        panic!("{:?}", story.effects)
    };
    assert_eq!(
        *instance, second,
        "the one that is idle longest; the other is the minimum"
    );
}

#[test]
fn failures_are_told_and_followed_by_longer_and_longer_pauses() {
    let mut story = two(0, 4);
    story.view.demand = BTreeMap::from([(cpus(1.0), 1)]);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let began = story.now;
        let instance = loop {
            story.look();
            if let Some(instance) = story.starts().pop() {
                break instance;
            }
        };
        pauses.push((story.now - began).as_secs());
        story.event(Event::StartFailed {
            instance: instance.clone(),
            why: "no quota".to_owned(),
        });
        assert_eq!(
            std::mem::take(&mut story.effects),
            [Effect::End {
                instance: instance.clone()
            }],
            "AUT-2: half of it may be there"
        );
        story.event(Event::Ended { instance });
    }
    assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 30]);
    let report = story.scaler.report();
    assert_eq!(report.failures.len(), 7);
    assert_eq!(report.failures[0].why, "no quota");
    assert_eq!(report.paused.len(), 1);
    assert_eq!(report.delayed, BTreeMap::new(), "at the last look it was started");
}

#[test]
fn who_does_not_join_is_ended_and_tried_anew() {
    let mut story = two(0, 1);
    story.view.demand = BTreeMap::from([(cpus(1.0), 1)]);
    story.look();
    let [instance] = story.starts().try_into().expect("one");
    story.event(Event::Started {
        instance: instance.clone(),
    });
    story.now += s(60);
    story.look();
    let end = Effect::End {
        instance: instance.clone(),
    };
    assert_eq!(std::mem::take(&mut story.effects), std::slice::from_ref(&end));
    assert!(
        story.scaler.report().failures[0]
            .why
            .contains("has not joined within 60 s")
    );
    // Ending it fails, and is tried again; till then it counts (AUT-1).
    story.event(Event::EndFailed {
        instance: instance.clone(),
        why: "no answer".to_owned(),
    });
    story.look();
    story.now += s(2);
    story.look();
    assert_eq!(std::mem::take(&mut story.effects), [end]);
    story.event(Event::Ended { instance });
    story.now += s(2);
    story.look();
    assert_eq!(story.starts(), ["two-life-2"]);
}

#[test]
fn a_node_that_dies_is_cleared_away_and_replaced_as_work_needs_it() {
    let mut story = two(0, 4);
    story.view.demand = BTreeMap::from([(cpus(2.0), 1)]);
    story.look();
    let [instance] = story.starts().try_into().expect("one");
    story.joins(1, &instance, 2.0);
    story.view.nodes[1].available = cpus(0.0);
    story.view.demand.clear();
    story.look();
    story.leaves(1);
    story.look();
    assert_eq!(story.effects, [], "AUT-2: whatever starts it still goes on");
    story.event(Event::Started {
        instance: instance.clone(),
    });
    assert_eq!(std::mem::take(&mut story.effects), [Effect::End { instance }]);
    assert!(story.scaler.report().failures[0].why.contains("unasked"));
    story.view.demand = BTreeMap::from([(cpus(2.0), 1)]);
    story.look();
    assert_eq!(story.starts(), ["two-life-2"]);
}

#[test]
fn a_node_that_comes_and_dies_between_two_looks_is_not_waited_for() {
    let mut story = two(0, 4);
    story.view.demand = BTreeMap::from([(cpus(2.0), 1)]);
    story.look();
    let [instance] = story.starts().try_into().expect("one");
    story.event(Event::Started {
        instance: instance.clone(),
    });
    story.view.gone.insert(instance.clone());
    story.look();
    assert_eq!(story.scaler.report().failures[0].why, "it has left the cluster unasked");
    let started: Vec<Effect> = std::mem::take(&mut story.effects);
    assert!(started.contains(&Effect::End { instance }), "{started:?}");
    assert!(
        started.iter().any(|effect| matches!(effect, Effect::Start { .. })),
        "what waits gets another at once: {started:?}"
    );
}

#[test]
fn nodes_of_an_earlier_life_are_taken_on() {
    let mut story = two(0, 2);
    story.joins(1, "two-before-1", 2.0);
    story.joins(2, "two-before-2", 2.0);
    story.view.demand = BTreeMap::from([(cpus(2.0), 5)]);
    story.look();
    assert_eq!(story.effects, [], "AUT-1: they count");
    story.view.demand.clear();
    story.now += s(20);
    story.is_idle(1, s(20));
    story.look();
    assert_eq!(story.effects.len(), 1);
}

#[test]
fn not_all_are_started_at_once() {
    let mut story = two(0, 100);
    story.view.demand = BTreeMap::from([(cpus(2.0), 50)]);
    story.look();
    assert_eq!(story.starts().len(), 5);
    story.look();
    assert_eq!(story.starts().len(), 0, "they are coming");
    for number in 1..=5 {
        story.joins(number, &format!("two-life-{number}"), 2.0);
        story.view.nodes[usize::from(number)].available = cpus(0.0);
    }
    story.look();
    assert_eq!(story.starts().len(), 5);
}

#[test]
fn names_are_fit_for_machines_jobs_and_pods() {
    let types = vec![
        of_type("Ray.Worker_(GPU)", cpus(1.0), 1, 1),
        of_type("_", cpus(1.0), 1, 1),
    ];
    let mut story = Story::new(config(types, 5));
    story.look();
    assert_eq!(story.starts(), ["ray-worker-gpu-life-1", "node-life-2"]);
}

// ---- any history ---------------------------------------------------------------------------------------------------

/// A provider and a cluster of the simplest kind. Nodes that have joined take what waits.
#[derive(Debug, Clone, Default)]
struct World {
    /// Whatever the provider has of an instance.
    things: BTreeMap<String, String>,
    joined: BTreeMap<String, (u8, Duration, u32)>,
    /// They do not come back.
    left: BTreeSet<String>,
    next: u8,
}

#[derive(Debug, Clone)]
enum Fate {
    Looks,
    /// So many more wait, of so many CPUs.
    Demand(u8, u32),
    Request(u32),
    TasksEnd,
    /// The n-th order that has not been answered is carried out, or fails.
    Answer(usize, bool),
    Joins(usize),
    Dies(usize),
    Minutes(u64),
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Looks),
        2 => (1u8..9, 0u32..6).prop_map(|(cpus, count)| Fate::Demand(cpus, count)),
        1 => (0u32..6).prop_map(Fate::Request),
        2 => Just(Fate::TasksEnd),
        6 => (0usize..8, prop::bool::weighted(0.7)).prop_map(|(at, works)| Fate::Answer(at, works)),
        4 => (0usize..8).prop_map(Fate::Joins),
        1 => (0usize..8).prop_map(Fate::Dies),
        1 => (1u64..5).prop_map(Fate::Minutes),
    ]
}

struct Any {
    story: Story,
    world: World,
    open: Vec<Effect>,
}

impl Any {
    fn new() -> Self {
        let types = vec![of_type("small", cpus(2.0), 1, 4), of_type("large", cpus(8.0), 0, 3)];
        Self {
            story: Story::new(config(types, 6)),
            world: World::default(),
            open: Vec::new(),
        }
    }

    fn size(node_type: &str) -> f64 {
        if node_type == "small" { 2.0 } else { 8.0 }
    }

    fn show(&mut self) {
        let now = self.story.now;
        let joined = self.world.joined.iter().map(|(instance, (number, idle_since, used))| {
            let node_type = &self.world.things[instance];
            let total = Self::size(node_type);
            Node {
                ordered: Some(Ordered {
                    instance: instance.clone(),
                    node_type: node_type.clone(),
                }),
                idle_for: (*used == 0).then(|| now.saturating_sub(*idle_since)),
                ..node(*number, total, total - f64::from(*used))
            }
        });
        self.story.view.nodes = [node(0, 0.0, 0.0)].into_iter().chain(joined).collect();
    }

    fn step(&mut self, fate: &Fate) {
        match fate {
            Fate::Looks => {
                self.show();
                self.story.look();
            }
            Fate::Demand(size, count) => {
                *self.story.view.demand.entry(cpus(f64::from(*size))).or_default() += count;
                self.story.view.demand.retain(|_, count| *count > 0);
            }
            Fate::Request(count) => {
                self.story.view.requested = BTreeMap::from([(cpus(1.0), *count)]);
                self.story.view.requested.retain(|_, count| *count > 0);
            }
            Fate::TasksEnd => {
                for (_, idle_since, used) in self.world.joined.values_mut() {
                    (*idle_since, *used) = (self.story.now, 0);
                }
            }
            Fate::Answer(at, works) => self.answer(*at, *works),
            Fate::Joins(at) => {
                let World { joined, left, .. } = &self.world;
                let may_join = |name: &&String| !joined.contains_key(*name) && !left.contains(*name);
                let coming = self.world.things.keys().filter(may_join);
                if let Some(name) = coming.cloned().collect::<Vec<_>>().get(*at) {
                    self.world.next = self.world.next.wrapping_add(1).max(1);
                    self.world
                        .joined
                        .insert(name.clone(), (self.world.next, self.story.now, 0));
                    self.run_what_waits();
                }
            }
            Fate::Dies(at) => {
                if let Some(name) = self.world.joined.keys().nth(*at).cloned() {
                    self.world.joined.remove(&name);
                    self.world.left.insert(name);
                }
            }
            Fate::Minutes(minutes) => self.story.now += s(60 * minutes),
        }
        self.open.append(&mut self.story.effects);
    }

    fn run_what_waits(&mut self) {
        for (instance, (_, _, used)) in &mut self.world.joined {
            let mut free = Self::size(&self.world.things[instance]) - f64::from(*used);
            for (shape, count) in &mut self.story.view.demand {
                let each = shape.get("CPU").to_f64();
                while *count > 0 && each <= free {
                    (free, *count) = (free - each, *count - 1);
                    *used += each as u32;
                }
            }
        }
        self.story.view.demand.retain(|_, count| *count > 0);
    }

    fn answer(&mut self, at: usize, works: bool) {
        if at >= self.open.len() {
            return;
        }
        let why = || "it went wrong".to_owned();
        let event = match self.open.remove(at) {
            Effect::Start { instance, node_type } => {
                assert!(!self.world.things.contains_key(&instance), "names never come twice");
                // What failed may be there all the same.
                self.world.things.insert(instance.clone(), node_type);
                match works {
                    true => Event::Started { instance },
                    false => Event::StartFailed { instance, why: why() },
                }
            }
            Effect::Drain { instance, .. } => {
                let used = self.world.joined.get(&instance).map(|(_, _, used)| *used);
                match used {
                    // AUT-3, as far as it can know.
                    Some(0) if works => {
                        self.world.joined.remove(&instance);
                        self.world.left.insert(instance.clone());
                        Event::DrainAnswered {
                            instance,
                            refused: None,
                        }
                    }
                    Some(_) => Event::DrainAnswered {
                        instance,
                        refused: Some(why()),
                    },
                    None => Event::DrainAnswered {
                        instance,
                        refused: None,
                    },
                }
            }
            Effect::End { instance } if works => {
                assert!(self.world.things.contains_key(&instance), "AUT-2: its start is over");
                self.world.joined.remove(&instance);
                self.world.things.remove(&instance);
                Event::Ended { instance }
            }
            Effect::End { instance } => Event::EndFailed { instance, why: why() },
        };
        self.story.event(event);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// AUT-1 after each step. And whatever went wrong before: once things go right again all that waits is served, and
    /// when nothing is needed any more nothing but the minimum is left.
    #[test]
    fn any_history_ends_well(history in prop::collection::vec(any_fate(), 0..120)) {
        let mut any = Any::new();
        for fate in &history {
            any.step(fate);
        }
        let settle = |any: &mut Any| {
            for _ in 0..40 {
                any.step(&Fate::Looks);
                while !any.open.is_empty() {
                    any.step(&Fate::Answer(0, true));
                }
                for _ in 0..8 {
                    any.step(&Fate::Joins(0));
                }
                any.run_what_waits();
                any.step(&Fate::Minutes(1));
            }
        };
        any.story.view.demand.clear();
        any.story.view.requested.clear();
        any.step(&Fate::TasksEnd);
        settle(&mut any);
        any.step(&Fate::Demand(8, 2));
        any.step(&Fate::Demand(1, 2));
        settle(&mut any);
        prop_assert!(any.story.view.demand.is_empty(), "{:?}", any.story.view.demand);
        any.step(&Fate::TasksEnd);
        settle(&mut any);
        let left: Vec<&String> = any.world.things.values().collect();
        prop_assert_eq!(left, ["small"], "the minimum");
    }
}
