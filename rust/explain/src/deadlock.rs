//! Whether a wait can never end, since tasks wait for each other.
//!
//! A graph whose nodes are waits, tasks, and the places of actors. A node is blocked if all (of a place: of those that
//! occupy it), or any (of everything else: of what it needs) of what it points to are blocked. The blocked ones are the
//! greatest set for which that holds: everything is assumed to be, and what has a way out is taken away until nothing is.

use std::collections::{BTreeSet, VecDeque};

use ray_rs_types::{ObjectId, TaskId, WorkerId};
use rustc_hash::FxHashMap;

use crate::index::Index;
use crate::snapshot::{Snapshot, Task, TaskKind, TaskState};

/// One wait of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitKey {
    pub worker: WorkerId,
    pub serial: u64,
}

/// What a verdict rests on (`EXP-4`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    Wait(WaitKey),
    Task(TaskId, u32),
    Place(WorkerId, String),
}

/// Comparable with that of a later snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof(BTreeSet<Fact>);

/// A wait that is on a cycle of waits of which none can end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlock {
    /// The youngest wait of those on such cycles with it: the same for all of them, so that one raises and not all.
    pub raises: WaitKey,
    pub proof: Proof,
    /// Of what the wait itself waits for: those objects whose tasks are on such cycles.
    pub objects: Vec<ObjectId>,
    /// The shortest cycle, a line for each step.
    pub lines: Vec<String>,
}

/// The deadlock that `wait` is part of. None also when it merely waits for somebody who is.
pub fn deadlock(snapshot: &Snapshot, wait: WaitKey) -> Option<Deadlock> {
    deadlock_of(&Index::new(snapshot), wait)
}

/// Those that one of `waits` is to raise.
pub fn deadlocks(snapshot: &Snapshot, waits: &[WaitKey]) -> Vec<Deadlock> {
    if waits.is_empty() {
        return Vec::new();
    }
    let index = Index::new(snapshot);
    let found = waits
        .iter()
        .filter_map(|wait| deadlock_of(&index, *wait).filter(|found| found.raises == *wait));
    found.collect()
}

fn deadlock_of(index: &Index<'_>, wait: WaitKey) -> Option<Deadlock> {
    let snapshot = index.snapshot;
    let at = snapshot.processes.iter().position(|one| one.worker == wait.worker)?;
    let row = (snapshot.processes[at].waits.iter()).position(|one| one.serial == wait.serial)?;
    let mut graph = Graph::default();
    let root = graph.build(index, Node::Wait(at, row));
    let blocked = graph.blocked();
    if !blocked[root] {
        return None;
    }
    let ahead = graph.reach(root, &blocked, &graph.edges);
    let back = graph.reach(root, &blocked, &graph.reversed());
    let on_cycles = |node: usize| ahead[node] && back[node];
    let cycle = graph.cycle(root, &on_cycles)?;
    let key = |node: &Node| match node {
        Node::Wait(at, row) => {
            let (process, wait) = (&snapshot.processes[*at], &snapshot.processes[*at].waits[*row]);
            let (worker, serial) = (process.worker, wait.serial);
            Some((wait.since_us, WaitKey { worker, serial }))
        }
        Node::Task(_) | Node::Place(..) => None,
    };
    let members = (0..graph.nodes.len()).filter(|node| on_cycles(*node));
    let (_, raises) = members.filter_map(|node| key(&graph.nodes[node])).max()?;
    let facts = (0..graph.nodes.len())
        .filter(|node| ahead[*node])
        .map(|node| match &graph.nodes[node] {
            Node::Wait(at, row) => {
                let process = &snapshot.processes[*at];
                Fact::Wait(WaitKey {
                    worker: process.worker,
                    serial: process.waits[*row].serial,
                })
            }
            Node::Task(id) => Fact::Task(*id, index.task(*id).map_or(0, |(_, task)| task.attempt)),
            Node::Place(at, group) => Fact::Place(snapshot.processes[*at].worker, group.clone()),
        });
    let missing = snapshot.processes[at].waits[row].missing.iter();
    let is_stuck = |object: &&ObjectId| {
        let node = graph.numbers.get(&Node::Task(object.task_id()));
        node.is_some_and(|node| on_cycles(*node))
    };
    Some(Deadlock {
        raises,
        proof: Proof(facts.collect()),
        objects: missing.filter(is_stuck).copied().collect(),
        lines: tell(index, &graph, &cycle),
    })
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Node {
    /// Process and row.
    Wait(usize, usize),
    Task(TaskId),
    /// The concurrency of one group of the actor in a process.
    Place(usize, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// It has a way out.
    Free,
    /// One blocked is enough.
    Any,
    /// Only if all are.
    All,
}

#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    numbers: FxHashMap<Node, usize>,
    rules: Vec<Rule>,
    edges: Vec<Vec<usize>>,
}

impl Graph {
    fn build(&mut self, index: &Index<'_>, root: Node) -> usize {
        let root = self.number(root);
        let mut done = 0;
        while done < self.nodes.len() {
            let node = self.nodes[done].clone();
            let (rule, targets) = look(index, &node);
            self.rules[done] = rule;
            self.edges[done] = targets.into_iter().map(|target| self.number(target)).collect();
            done += 1;
        }
        root
    }

    fn number(&mut self, node: Node) -> usize {
        if let Some(number) = self.numbers.get(&node) {
            return *number;
        }
        let number = self.nodes.len();
        self.numbers.insert(node.clone(), number);
        self.nodes.push(node);
        self.rules.push(Rule::Free);
        self.edges.push(Vec::new());
        number
    }

    fn reversed(&self) -> Vec<Vec<usize>> {
        let mut reversed = vec![Vec::new(); self.nodes.len()];
        for (from, targets) in self.edges.iter().enumerate() {
            for target in targets {
                reversed[*target].push(from);
            }
        }
        reversed
    }

    fn blocked(&self) -> Vec<bool> {
        let reversed = self.reversed();
        let mut blocked: Vec<bool> = self.rules.iter().map(|rule| *rule != Rule::Free).collect();
        // Of `Any`: how many of its targets are blocked.
        let mut left: Vec<usize> = self.edges.iter().map(Vec::len).collect();
        let mut free: Vec<usize> = (0..self.nodes.len())
            .filter(|node| !blocked[*node] || left[*node] == 0)
            .collect();
        free.iter().for_each(|node| blocked[*node] = false);
        while let Some(node) = free.pop() {
            for before in &reversed[node] {
                left[*before] -= 1;
                let has_way_out = match self.rules[*before] {
                    Rule::Free => false,
                    Rule::Any => left[*before] == 0,
                    Rule::All => true,
                };
                if blocked[*before] && has_way_out {
                    blocked[*before] = false;
                    free.push(*before);
                }
            }
        }
        blocked
    }

    /// Blocked nodes to be reached from `root` by one edge or more.
    fn reach(&self, root: usize, blocked: &[bool], edges: &[Vec<usize>]) -> Vec<bool> {
        let mut reached = vec![false; self.nodes.len()];
        let mut queue = vec![root];
        while let Some(node) = queue.pop() {
            for next in edges[node].iter().filter(|next| blocked[**next]) {
                if !std::mem::replace(&mut reached[*next], true) {
                    queue.push(*next);
                }
            }
        }
        reached
    }

    /// The shortest way from `root` to itself, without its end.
    fn cycle(&self, root: usize, on_cycles: &impl Fn(usize) -> bool) -> Option<Vec<usize>> {
        if !on_cycles(root) {
            return None;
        }
        let mut from = vec![usize::MAX; self.nodes.len()];
        let mut queue = VecDeque::from([root]);
        while let Some(node) = queue.pop_front() {
            for next in self.edges[node].iter().copied().filter(|next| on_cycles(*next)) {
                if next == root {
                    let mut path = vec![node];
                    while *path.last().expect("not empty") != root {
                        path.push(from[*path.last().expect("not empty")]);
                    }
                    path.reverse();
                    return Some(path);
                }
                if from[next] == usize::MAX {
                    from[next] = node;
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

fn look(index: &Index<'_>, node: &Node) -> (Rule, Vec<Node>) {
    match node {
        Node::Wait(at, row) => {
            let wait = &index.snapshot.processes[*at].waits[*row];
            if wait.has_timeout || !wait.all_of {
                return (Rule::Free, Vec::new());
            }
            let tasks = wait.missing.iter().map(|object| Node::Task(object.task_id()));
            (Rule::Any, tasks.collect())
        }
        Node::Task(id) => match index.task(*id) {
            Some((_, task)) if !task.cancelled => look_at_task(index, task),
            Some(_) | None => (Rule::Free, Vec::new()),
        },
        Node::Place(at, group) => look_at_place(index, *at, group),
    }
}

fn look_at_task(index: &Index<'_>, task: &Task) -> (Rule, Vec<Node>) {
    let mut targets: Vec<Node> = task.missing.iter().map(|object| Node::Task(object.task_id())).collect();
    targets.extend(task.behind.map(Node::Task));
    if let Some((at, _)) = index.executing(task.id) {
        targets.extend(index.waits_of(at, task.id).map(|(row, _)| Node::Wait(at, row)));
        return (Rule::Any, targets);
    }
    let host = task.actor.and_then(|actor| index.host(actor));
    match (task.kind, host) {
        (TaskKind::Call, Some((at, hosted))) => {
            let group = match hosted.groups.is_empty() {
                true => String::new(),
                false => task.group.clone(),
            };
            targets.push(Node::Place(at, group));
        }
        (TaskKind::Call, None) => {
            let creation = task.actor.and_then(|actor| index.creation(actor));
            targets.extend(creation.map(Node::Task));
        }
        (TaskKind::Creation, Some((at, _))) if task.state != TaskState::PendingArguments => {
            targets.extend(index.constructor_waits(at).map(|(row, _)| Node::Wait(at, row)));
        }
        (TaskKind::Normal | TaskKind::Creation | TaskKind::Group, _) => {}
    }
    (Rule::Any, targets)
}

fn look_at_place(index: &Index<'_>, at: usize, group: &str) -> (Rule, Vec<Node>) {
    let process = &index.snapshot.processes[at];
    let Some(hosted) = &process.hosted else {
        return (Rule::Free, Vec::new());
    };
    if hosted.constructing_since_us.is_some() {
        let waits = index.constructor_waits(at).map(|(row, _)| Node::Wait(at, row));
        return (Rule::Any, waits.collect());
    }
    let named = hosted.groups.iter().find(|(name, _)| name == group);
    let limit = named.map_or(hosted.max_concurrency, |(_, limit)| *limit).max(1);
    let occupy = |executing: &&crate::snapshot::Executing| hosted.groups.is_empty() || executing.group == group;
    let running: Vec<Node> = (process.executing.iter().filter(occupy))
        .map(|executing| Node::Task(executing.id))
        .collect();
    if running.len() < limit as usize {
        return (Rule::Free, Vec::new());
    }
    (Rule::All, running)
}

fn tell(index: &Index<'_>, graph: &Graph, cycle: &[usize]) -> Vec<String> {
    let mut lines = Vec::new();
    for (step, node) in cycle.iter().enumerate() {
        let next = &graph.nodes[cycle[(step + 1) % cycle.len()]];
        match (&graph.nodes[*node], next) {
            (Node::Wait(at, row), Node::Task(target)) => {
                let process = &index.snapshot.processes[*at];
                let wait = &process.waits[*row];
                let who = match (wait.task, &process.hosted) {
                    (Some(task), _) => index.name(task),
                    (None, Some(hosted)) => format!("the constructor of {}", hosted.class_name),
                    (None, None) => "a thread".to_owned(),
                };
                let (place, result) = (process.place(), index.name(*target));
                let waits = if wait.is_await { "awaits" } else { "waits in get() for" };
                lines.push(format!("{who} ({place}) {waits} the result of {result}"));
            }
            (Node::Task(task), Node::Task(target)) => {
                let behind = index.task(*task).and_then(|(_, task)| task.behind) == Some(*target);
                let (name, target) = (index.name(*task), index.name(*target));
                lines.push(match behind {
                    true => format!(
                        "{name} waits for its turn behind {target}, an earlier call whose arguments are not there"
                    ),
                    false => {
                        format!("{name} waits for {target}, whose result is its argument or which makes its actor")
                    }
                });
            }
            (Node::Task(task), Node::Place(at, _)) => {
                let process = &index.snapshot.processes[*at];
                let actor = process.hosted.as_ref().map_or("", |hosted| &hosted.class_name);
                let busy: Vec<String> = process.executing.iter().map(|one| format!("'{}'", one.name)).collect();
                let runs = match busy.is_empty() {
                    true => "whose constructor has not ended".to_owned(),
                    false => format!("which runs {}", busy.join(", ")),
                };
                let (name, place) = (index.name(*task), process.place());
                lines.push(format!(
                    "{name} waits until its actor {actor} ({place}) is free, {runs}"
                ));
            }
            // The wait or the task that comes next tells of it.
            (Node::Task(_) | Node::Place(..), Node::Wait(..)) | (Node::Place(..), _) | (Node::Wait(..), _) => {}
        }
    }
    lines
}
