//! Stories of a few processes, and random ones against a model that plays them out.

use proptest::prelude::*;
use ray_rs_types::{ActorId, JobId, NodeId, ObjectId, TaskId, WorkerId};

use crate::*;

fn actor_id(number: u8) -> ActorId {
    ActorId::new([number; 12], JobId::from_int(1))
}

fn normal(number: u64) -> TaskId {
    TaskId::new(number, ActorId::nil_of(JobId::from_int(1)))
}

fn result(task: TaskId) -> ObjectId {
    ObjectId::new(task, 1)
}

fn worker(number: usize) -> WorkerId {
    WorkerId([number as u8; 28])
}

fn process(number: usize) -> Process {
    Process {
        worker: worker(number),
        pid: number as u32 + 100,
        now_us: 20_000_000,
        elsewhere: None,
        is_driver: number == 0,
        hosted: None,
        tasks: Vec::new(),
        executing: Vec::new(),
        waits: Vec::new(),
        called: Vec::new(),
        objects: Vec::new(),
    }
}

fn actor(number: usize, limit: u32) -> Process {
    let mut process = process(number);
    process.hosted = Some(Hosted {
        actor: actor_id(number as u8),
        class_name: format!("Actor{number}"),
        max_concurrency: limit,
        groups: Vec::new(),
        constructing_since_us: None,
        queued: 0,
    });
    process
}

fn task(id: TaskId, kind: TaskKind, state: TaskState) -> Task {
    Task {
        id,
        name: format!("t{}", id.unique()),
        state,
        kind,
        attempt: 0,
        actor: (kind != TaskKind::Normal).then(|| id.actor_id()),
        group: String::new(),
        sent_to: None,
        submitted_us: 0,
        missing: Vec::new(),
        behind: None,
        class: 0,
        why: String::new(),
        cancelled: false,
    }
}

fn runs(id: TaskId) -> Executing {
    Executing {
        id,
        name: format!("t{}", id.unique()),
        started_us: 0,
        group: String::new(),
    }
}

fn waits(serial: u64, since_us: u64, task: Option<TaskId>, missing: &[TaskId]) -> Wait {
    Wait {
        serial,
        since_us,
        missing: missing.iter().map(|task| result(*task)).collect(),
        has_timeout: false,
        all_of: true,
        task,
        is_constructor: false,
        is_await: false,
    }
}

fn key(process: usize, serial: u64) -> WaitKey {
    WaitKey {
        worker: worker(process),
        serial,
    }
}

fn snapshot(processes: Vec<Process>) -> Snapshot {
    Snapshot {
        processes,
        ..Snapshot::default()
    }
}

/// An actor whose method waits for another method of the same actor.
fn own_method(limit: u32) -> Snapshot {
    let mut host = actor(1, limit);
    let (outer, inner) = (TaskId::new(1, actor_id(1)), TaskId::new(2, actor_id(1)));
    let mut driver = process(0);
    driver.tasks.push(task(outer, TaskKind::Call, TaskState::Submitted));
    driver.waits.push(waits(1, 5, None, &[outer]));
    host.tasks.push(task(inner, TaskKind::Call, TaskState::Submitted));
    host.executing.push(runs(outer));
    host.waits.push(waits(1, 10, Some(outer), &[inner]));
    snapshot(vec![driver, host])
}

#[test]
fn a_method_that_waits_for_a_method_of_its_own_actor() {
    let found = deadlock(&own_method(1), key(1, 1)).expect("a deadlock");
    assert_eq!(found.raises, key(1, 1));
    assert_eq!(
        found.lines,
        [
            "'t1' (pid 101) waits in get() for the result of 't2'",
            "'t2' waits until its actor Actor1 (pid 101) is free, which runs 't1'",
        ]
    );
    // Who waits for it from outside is not part of it.
    assert_eq!(deadlock(&own_method(1), key(0, 1)), None);
}

/// A machine whose clock is a day ahead, and one that is a day behind: neither's times are compared with the other's.
#[test]
fn how_long_something_takes_is_told_by_the_clock_that_saw_it_begin() {
    let mut story = own_method(2);
    let day_us = 24 * 3_600_000_000_u64;
    for (process, now_us) in [(0, 2 * day_us), (1, 4 * day_us)] {
        let process = &mut story.processes[process];
        process.now_us = now_us;
        for wait in &mut process.waits {
            wait.since_us = now_us - 3_000_000;
        }
        for running in &mut process.executing {
            running.started_us = now_us - 4_000_000;
        }
    }
    let outer = story.processes[0].tasks[0].id;
    let text = why(&story, Subject::Object(result(outer))).text;
    assert!(text.contains("runs since 4.0 s"), "{text}");
    assert!(text.contains("waits in get() since 3.0 s"), "{text}");
}

#[test]
fn with_a_place_free_it_is_none() {
    assert_eq!(deadlock(&own_method(2), key(1, 1)), None);
}

#[test]
fn a_wait_with_a_limit_or_for_some_is_none() {
    let mut limited = own_method(1);
    limited.processes[1].waits[0].has_timeout = true;
    assert_eq!(deadlock(&limited, key(1, 1)), None);
    let mut some = own_method(1);
    some.processes[1].waits[0].all_of = false;
    assert_eq!(deadlock(&some, key(1, 1)), None);
}

#[test]
fn a_process_that_did_not_answer_proves_nothing() {
    let mut silent = own_method(1);
    silent.processes[1].executing.clear();
    assert_eq!(deadlock(&silent, key(1, 1)), None);
}

/// Two actors whose methods wait for methods of each other.
fn two_actors() -> Snapshot {
    let (a, b) = (TaskId::new(1, actor_id(1)), TaskId::new(2, actor_id(2)));
    let (to_b, to_a) = (TaskId::new(3, actor_id(2)), TaskId::new(4, actor_id(1)));
    let mut driver = process(0);
    driver.tasks.push(task(a, TaskKind::Call, TaskState::Submitted));
    driver.tasks.push(task(b, TaskKind::Call, TaskState::Submitted));
    let (mut first, mut second) = (actor(1, 1), actor(2, 1));
    first.executing.push(runs(a));
    first.tasks.push(task(to_b, TaskKind::Call, TaskState::Submitted));
    first.waits.push(waits(7, 10, Some(a), &[to_b]));
    second.executing.push(runs(b));
    second.tasks.push(task(to_a, TaskKind::Call, TaskState::Submitted));
    second.waits.push(waits(9, 20, Some(b), &[to_a]));
    snapshot(vec![driver, first, second])
}

#[test]
fn of_two_actors_the_younger_wait_raises_whoever_looks() {
    let world = two_actors();
    let (first, second) = (deadlock(&world, key(1, 7)), deadlock(&world, key(2, 9)));
    let (first, second) = (first.expect("a deadlock"), second.expect("a deadlock"));
    assert_eq!((first.raises, second.raises), (key(2, 9), key(2, 9)));
    assert_eq!(first.proof, second.proof);
    assert_eq!(first.lines.len(), 4);
}

#[test]
fn another_wait_in_the_same_place_is_another_proof() {
    let before = deadlock(&two_actors(), key(2, 9)).expect("a deadlock");
    let mut later = two_actors();
    later.processes[1].waits[0].serial = 8;
    let after = deadlock(&later, key(2, 9)).expect("a deadlock");
    assert_ne!(before.proof, after.proof);
    assert_eq!(deadlock(&two_actors(), key(2, 9)), Some(before));
}

#[test]
fn a_task_and_the_actor_that_waits_for_it() {
    let (plain, method) = (normal(1), TaskId::new(2, actor_id(1)));
    let inner = TaskId::new(3, actor_id(1));
    let (mut host, mut other) = (actor(1, 1), process(2));
    host.executing.push(runs(method));
    host.tasks.push(task(plain, TaskKind::Normal, TaskState::Running));
    host.waits.push(waits(1, 10, Some(method), &[plain]));
    other.executing.push(runs(plain));
    other.tasks.push(task(inner, TaskKind::Call, TaskState::Submitted));
    other.waits.push(waits(1, 20, Some(plain), &[inner]));
    let mut driver = process(0);
    driver.tasks.push(task(method, TaskKind::Call, TaskState::Submitted));
    let world = snapshot(vec![driver, host, other]);
    assert_eq!(deadlock(&world, key(1, 1)).expect("a deadlock").raises, key(2, 1));
}

#[test]
fn a_constructor_that_waits_for_its_own_method() {
    let call = TaskId::new(1, actor_id(1));
    let mut host = actor(1, 1);
    host.hosted.as_mut().unwrap().constructing_since_us = Some(1);
    host.tasks.push(task(call, TaskKind::Call, TaskState::Submitted));
    let mut wait = waits(1, 10, None, &[call]);
    wait.is_constructor = true;
    host.waits.push(wait);
    let found = deadlock(&snapshot(vec![host]), key(1, 1)).expect("a deadlock");
    assert!(
        found.lines[0].starts_with("the constructor of Actor1"),
        "{:?}",
        found.lines
    );
}

#[test]
fn why_tells_of_arguments_recursively_and_of_what_runs() {
    let (first, second) = (normal(1), normal(2));
    let mut driver = process(0);
    driver.tasks.push(task(first, TaskKind::Normal, TaskState::Running));
    let mut waiting = task(second, TaskKind::Normal, TaskState::PendingArguments);
    waiting.missing.push(result(first));
    driver.tasks.push(waiting);
    let mut other = process(1);
    other.executing.push(runs(first));
    let told = why(&snapshot(vec![driver, other]), Subject::Object(result(second)));
    let lines: Vec<&str> = told.text.lines().collect();
    assert_eq!(lines.len(), 3, "{}", told.text);
    assert!(lines[0].ends_with("made by 't2', is not there yet."));
    assert_eq!(lines[1], "  't2' waits for an argument that is not there:");
    assert_eq!(lines[2], "    't1' runs since 20 s on pid 101.");
    assert_eq!(told.only_runs, None);
}

#[test]
fn why_of_a_task_that_runs_is_that_it_runs() {
    let mut driver = process(0);
    driver.tasks.push(task(normal(1), TaskKind::Normal, TaskState::Running));
    let mut other = process(1);
    other.executing.push(runs(normal(1)));
    let told = why(&snapshot(vec![driver, other]), Subject::Object(result(normal(1))));
    assert_eq!(told.only_runs, Some(normal(1)));
}

#[test]
fn a_cycle_is_told_once_round() {
    let told = why(&two_actors(), Subject::Task(TaskId::new(1, actor_id(1))));
    assert!(told.text.contains("see above"), "{}", told.text);
    assert!(told.text.lines().count() < 20);
}

// ---- random worlds -------------------------------------------------------------------------------------------------

/// Plays a snapshot out: what can end ends, until nothing more does. True when the wait never ends.
fn never_ends(world: &Snapshot, root: WaitKey) -> bool {
    let mut ended: Vec<TaskId> = Vec::new();
    let is_over = |ended: &[TaskId], id: TaskId| {
        let known = world.processes.iter().flat_map(|process| &process.tasks);
        ended.contains(&id) || !known.clone().any(|task| task.id == id && !task.cancelled)
    };
    let goes_on = |ended: &[TaskId], wait: &Wait| {
        wait.has_timeout || !wait.all_of || wait.missing.iter().all(|object| is_over(ended, object.task_id()))
    };
    loop {
        let before = ended.len();
        for task in world.processes.iter().flat_map(|process| &process.tasks) {
            if ended.contains(&task.id) || task.cancelled {
                continue;
            }
            let arguments = task.missing.iter().all(|object| is_over(&ended, object.task_id()));
            let turn = task.behind.is_none_or(|earlier| is_over(&ended, earlier));
            let runs_in =
                (world.processes.iter()).find(|one| one.executing.iter().any(|running| running.id == task.id));
            let host = (world.processes.iter()).find(|one| {
                one.hosted
                    .as_ref()
                    .is_some_and(|hosted| Some(hosted.actor) == task.actor)
            });
            let can_run = match (runs_in, host) {
                (Some(process), _) => {
                    let mut own = process.waits.iter().filter(|wait| wait.task == Some(task.id));
                    own.all(|wait| goes_on(&ended, wait))
                }
                (None, Some(process)) if task.kind == TaskKind::Call => {
                    let limit = process.hosted.as_ref().unwrap().max_concurrency as usize;
                    let left = process.executing.iter().filter(|running| !is_over(&ended, running.id));
                    left.count() < limit
                }
                _ => true,
            };
            if arguments && turn && can_run {
                ended.push(task.id);
            }
        }
        if ended.len() == before {
            break;
        }
    }
    let process = world.processes.iter().find(|one| one.worker == root.worker).unwrap();
    let wait = process.waits.iter().find(|wait| wait.serial == root.serial).unwrap();
    !goes_on(&ended, wait)
}

/// Of each actor its concurrency; of each task where it is (an actor or none), whether it runs, and what it waits for.
fn worlds() -> impl Strategy<Value = Snapshot> {
    let actors = prop::collection::vec(1u32..3, 1..4);
    let tasks = prop::collection::vec(
        (0usize..5, any::<bool>(), prop::collection::vec(0usize..8, 0..3), 0u8..8),
        1..9,
    );
    (actors, tasks).prop_map(|(limits, tasks)| {
        let ids: Vec<TaskId> = (tasks.iter().enumerate())
            .map(|(number, (place, ..))| match *place < limits.len() {
                true => TaskId::new(number as u64 + 1, actor_id(*place as u8 + 1)),
                false => normal(number as u64 + 1),
            })
            .collect();
        let mut processes = vec![process(0)];
        processes.extend(limits.iter().enumerate().map(|(at, limit)| actor(at + 1, *limit)));
        for (number, (place, begun, needs, odd)) in tasks.iter().enumerate() {
            let id = ids[number];
            let missing: Vec<TaskId> = needs.iter().filter_map(|other| ids.get(*other).copied()).collect();
            let is_call = *place < limits.len();
            let kind = if is_call { TaskKind::Call } else { TaskKind::Normal };
            let mut row = task(id, kind, TaskState::Submitted);
            let host = place + 1;
            let has_room = !is_call || processes[host].executing.len() < limits[*place] as usize;
            row.cancelled = *odd == 7;
            if *begun && has_room {
                let at = match is_call {
                    true => host,
                    false => {
                        processes.push(process(processes.len()));
                        processes.len() - 1
                    }
                };
                processes[at].executing.push(runs(id));
                if !missing.is_empty() {
                    let serial = number as u64 + 1;
                    let mut wait = waits(serial, u64::from(*odd), Some(id), &missing);
                    wait.has_timeout = *odd == 0;
                    wait.all_of = *odd != 1;
                    processes[at].waits.push(wait);
                }
            } else if *odd < 4 {
                row.missing = missing.iter().map(|task| result(*task)).collect();
            } else if is_call {
                row.behind = missing.first().copied();
            }
            processes[0].tasks.push(row);
        }
        snapshot(processes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_deadlock_is_what_never_ends_and_comes_back_to_itself(world in worlds()) {
        let keys: Vec<WaitKey> = (world.processes.iter())
            .flat_map(|process| process.waits.iter().map(|wait| WaitKey { worker: process.worker, serial: wait.serial }))
            .collect();
        let mut raising = Vec::new();
        for root in &keys {
            let found = deadlock(&world, *root);
            if let Some(found) = &found {
                prop_assert!(never_ends(&world, *root), "{root:?} can end: {:?}", found.lines);
                // Who is to raise is told the same by all on the cycle, and is on it.
                let other = deadlock(&world, found.raises);
                prop_assert_eq!(other.map(|other| other.raises), Some(found.raises));
                prop_assert!(!found.lines.is_empty());
                raising.push(found.raises);
            }
        }
        // Where something never ends, somebody raises.
        if keys.iter().any(|root| never_ends(&world, *root)) && no_cycle_without_waits(&world) {
            prop_assert!(!raising.is_empty());
        }
    }
}

/// In a real world arguments and turns point to what was submitted before; random ones may not.
fn no_cycle_without_waits(world: &Snapshot) -> bool {
    let tasks = || world.processes.iter().flat_map(|process| &process.tasks);
    tasks().all(|task| {
        let needs = task.missing.iter().map(|object| object.task_id()).chain(task.behind);
        needs.into_iter().all(|other| other.unique() < task.id.unique())
    })
}

#[test]
fn of_another_node_the_story_says_where_and_silent_nodes_are_named() {
    let node = NodeId([0xab; 28]);
    let mut owner = process(0);
    owner.tasks = vec![task(normal(1), TaskKind::Normal, TaskState::Running)];
    let mut other = process(1);
    other.elsewhere = Some(node);
    other.executing = vec![runs(normal(1))];
    let mut told = snapshot(vec![owner, other]);
    told.silent_nodes = vec![NodeId([0xcd; 28])];
    let text = why(&told, Subject::Object(result(normal(1)))).text;
    assert!(text.contains("on pid 101 on node abababababab."), "{text}");
    assert!(text.ends_with("which did not answer: cdcdcdcdcdcd."), "{text}");
}
