use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use ray_rs_types::{ActorId, JobId, NodeId, WorkerAddress, WorkerId};

use super::*;

const NODE: NodeId = NodeId([1; 28]);
const JOB: JobId = JobId::from_int(1);

fn worker(number: u8) -> WorkerAddress {
    WorkerAddress {
        node_id: NODE,
        worker_id: WorkerId([number; 28]),
        pid: u32::from(number),
    }
}

fn actor(number: u8) -> ActorId {
    ActorId::new([number; 12], JOB)
}

fn facts(max_restarts: i32, detached: bool) -> ActorFacts {
    // The owner lives on another node.
    let owner = WorkerAddress {
        node_id: NodeId([2; 28]),
        ..worker(200)
    };
    ActorFacts {
        owner,
        max_restarts,
        detached,
    }
}

/// One actor's story: feeds events, checks invariants after each, returns the effects.
#[derive(Default)]
struct Story(Lifecycle);

impl Story {
    fn event(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.0.on_event(event, &mut effects);
        self.0.check_invariants();
        effects
    }

    fn registered(max_restarts: i32, detached: bool) -> Self {
        let mut story = Self::default();
        let effects = story.event(Event::Registered {
            actor: actor(1),
            facts: facts(max_restarts, detached),
            has_arguments: true,
        });
        assert_eq!(
            effects,
            [
                Effect::Persist { actor: actor(1) },
                Effect::ChooseNode { actor: actor(1) }
            ]
        );
        story
    }

    fn starting(max_restarts: i32) -> Self {
        let mut story = Self::registered(max_restarts, false);
        story.start(0);
        story
    }

    fn alive(max_restarts: i32) -> Self {
        let mut story = Self::starting(max_restarts);
        story.run(0, 9);
        story
    }

    fn start(&mut self, incarnation: u32) {
        let effects = self.event(Event::NodeChosen {
            actor: actor(1),
            node: NODE,
        });
        assert_eq!(
            effects,
            [
                persist(),
                Effect::StartOnNode {
                    actor: actor(1),
                    node: NODE,
                    incarnation
                }
            ],
            "written before the order leaves"
        );
    }

    fn run(&mut self, incarnation: u32, number: u8) {
        let assigned = Event::Assigned {
            actor: actor(1),
            incarnation,
            worker: worker(number),
        };
        assert_eq!(self.event(assigned), [persist(), publish()]);
        assert_eq!(self.phase(), Phase::Placed);
        assert_eq!(
            self.event(Event::Started {
                actor: actor(1),
                incarnation
            }),
            [persist(), publish()]
        );
        assert_eq!(self.phase(), Phase::Alive);
    }

    fn phase(&self) -> Phase {
        self.0.status(actor(1)).expect("known").phase
    }

    fn death(&self) -> Option<Death> {
        self.0.status(actor(1)).expect("known").death.cloned()
    }
}

fn persist() -> Effect {
    Effect::Persist { actor: actor(1) }
}

fn publish() -> Effect {
    Effect::Publish { actor: actor(1) }
}

fn release() -> Effect {
    Effect::ReleaseName { actor: actor(1) }
}

fn choose() -> Effect {
    Effect::ChooseNode { actor: actor(1) }
}

fn stop(worker: Option<WorkerAddress>, graceful: bool, reason: &'static str) -> Effect {
    Effect::StopWorker {
        actor: actor(1),
        node: NODE,
        worker: worker.map(|worker| worker.worker_id),
        graceful,
        reason,
    }
}

#[test]
fn an_actor_is_placed_then_alive_and_a_second_registration_changes_nothing() {
    let mut story = Story::alive(0);
    assert_eq!(
        story.event(Event::Registered {
            actor: actor(1),
            facts: facts(0, false),
            has_arguments: true,
        }),
        []
    );
    assert_eq!(
        story.event(Event::NodeChosen {
            actor: actor(1),
            node: NODE
        }),
        []
    );
    assert_eq!(
        story.event(Event::Assigned {
            actor: actor(1),
            incarnation: 0,
            worker: worker(9)
        }),
        []
    );
    assert_eq!(story.0.status(actor(1)).expect("known").worker, Some(worker(9)));
}

#[test]
fn a_dead_worker_restarts_its_actor_as_often_as_allowed() {
    let mut story = Story::alive(1);
    let died = |number| Event::WorkerDied {
        worker: worker(number).worker_id,
        message: "signal 9".to_owned(),
    };
    assert_eq!(story.event(died(9)), [persist(), publish(), choose()]);
    assert_eq!(story.phase(), Phase::Restarting);
    story.start(1);
    assert_eq!(
        story.event(Event::Started {
            actor: actor(1),
            incarnation: 0
        }),
        [],
        "the old incarnation's report"
    );
    story.run(1, 10);
    assert_eq!(story.event(died(9)), [], "that one has nothing to do with it any more");
    assert_eq!(story.event(died(10)), [persist(), publish(), release()]);
    assert_eq!(story.death(), Some(Death::WorkerDied("signal 9".to_owned())));
}

#[test]
fn negative_max_restarts_means_for_ever() {
    let mut story = Story::alive(-1);
    for number in 10..40 {
        let died = Event::WorkerDied {
            worker: worker(number - 1).worker_id,
            message: String::new(),
        };
        assert_eq!(story.event(died), [persist(), publish(), choose()]);
        story.start(u32::from(number) - 9);
        story.run(u32::from(number) - 9, number);
    }
}

#[test]
fn the_constructors_end_may_be_heard_before_the_worker_is_named() {
    let mut story = Story::starting(0);
    assert_eq!(
        story.event(Event::Started {
            actor: actor(1),
            incarnation: 0
        }),
        []
    );
    assert_eq!(story.phase(), Phase::PendingCreation);
    let assigned = Event::Assigned {
        actor: actor(1),
        incarnation: 0,
        worker: worker(9),
    };
    assert_eq!(story.event(assigned), [persist(), publish()]);
    assert_eq!(story.phase(), Phase::Alive);
}

#[test]
fn a_constructor_that_raised_ends_the_actor_whatever_its_restarts() {
    let failed = || Event::ConstructorFailed {
        actor: actor(1),
        incarnation: 0,
        message: "ValueError".to_owned(),
        error: vec![1],
    };
    let mut placed = Story::starting(-1);
    placed.event(Event::Assigned {
        actor: actor(1),
        incarnation: 0,
        worker: worker(9),
    });
    let stopped = stop(Some(worker(9)), true, "the actor's constructor raised");
    assert_eq!(placed.event(failed()), [stopped, persist(), publish(), release()]);
    assert_eq!(
        placed.death(),
        Some(Death::CreationFailed {
            message: "ValueError".to_owned(),
            error: vec![1]
        })
    );

    let mut early = Story::starting(-1);
    let stopped = stop(None, true, "the actor's constructor raised");
    assert_eq!(early.event(failed()), [stopped, persist(), publish(), release()]);
    let late = early.event(Event::Assigned {
        actor: actor(1),
        incarnation: 0,
        worker: worker(9),
    });
    assert!(
        matches!(
            late[..],
            [Effect::StopWorker {
                worker: Some(_),
                graceful: false,
                ..
            }]
        ),
        "ACT-2: {late:?}"
    );
}

#[test]
fn kill_without_restart_is_final_in_every_state() {
    let kill = || Event::KillRequested {
        actor: actor(1),
        no_restart: true,
    };
    let mut waiting = Story::registered(-1, false);
    assert_eq!(waiting.event(kill()), [persist(), publish(), release()]);
    let mut starting = Story::starting(-1);
    assert_eq!(
        starting.event(kill()),
        [stop(None, false, "ray.kill"), persist(), publish(), release()]
    );
    let mut alive = Story::alive(-1);
    assert_eq!(
        alive.event(kill()),
        [
            stop(Some(worker(9)), false, "ray.kill"),
            persist(),
            publish(),
            release()
        ]
    );
    assert_eq!(alive.death(), Some(Death::Killed));
    assert_eq!(alive.event(kill()), []);
}

#[test]
fn kill_with_restart_uses_one_restart_up() {
    let kill = || Event::KillRequested {
        actor: actor(1),
        no_restart: false,
    };
    let mut story = Story::alive(1);
    let stopped = stop(Some(worker(9)), false, "ray.kill");
    assert_eq!(story.event(kill()), [stopped, persist(), publish(), choose()]);
    let died = Event::WorkerDied {
        worker: worker(9).worker_id,
        message: String::new(),
    };
    assert_eq!(story.event(died), [], "the restart has begun already");
    story.start(1);
    story.run(1, 10);
    assert!(story.event(kill()).contains(&release()), "none is left");
}

#[test]
fn out_of_scope_waits_for_the_workers_own_end() {
    let mut story = Story::alive(-1);
    let effects = story.event(Event::OutOfScope { actor: actor(1) });
    assert_eq!(
        effects,
        [persist(), stop(Some(worker(9)), true, "no handle to the actor is left")]
    );
    assert_eq!(story.phase(), Phase::Alive, "ACT-4");
    assert_eq!(story.death(), Some(Death::OutOfScope));
    let died = Event::WorkerDied {
        worker: worker(9).worker_id,
        message: "exit code 0".to_owned(),
    };
    assert_eq!(story.event(died), [persist(), publish(), release()]);
    assert_eq!(story.phase(), Phase::Dead);
}

#[test]
fn an_actor_that_exits_is_not_restarted() {
    let mut story = Story::alive(-1);
    let exited = Event::ExitedItself {
        actor: actor(1),
        message: "exit_actor".to_owned(),
    };
    assert_eq!(story.event(exited), [persist(), release()]);
    let died = Event::WorkerDied {
        worker: worker(9).worker_id,
        message: "exit code 0".to_owned(),
    };
    assert_eq!(story.event(died), [persist(), publish(), release()]);
    assert_eq!(story.death(), Some(Death::ExitedItself("exit_actor".to_owned())));
}

#[test]
fn owners_and_jobs_take_their_actors_along_but_not_detached_ones() {
    let owner_died = || Event::WorkerDied {
        worker: worker(200).worker_id,
        message: String::new(),
    };
    let mut owned = Story::alive(-1);
    let effects = owned.event(owner_died());
    let stopped = stop(Some(worker(9)), false, "the actor's owner has ended");
    assert_eq!(effects, [stopped.clone(), persist(), publish(), release()]);
    assert!(matches!(owned.death(), Some(Death::OwnerDied(_))));

    let mut of_job = Story::alive(-1);
    assert_eq!(
        of_job.event(Event::JobFinished {
            job: JobId::from_int(2)
        }),
        []
    );
    assert_eq!(
        of_job.event(Event::JobFinished { job: JOB }),
        [stopped, persist(), publish(), release()]
    );

    let mut detached = Story::registered(0, true);
    assert_eq!(detached.event(owner_died()), []);
    assert_eq!(detached.event(Event::JobFinished { job: JOB }), []);
    assert_eq!(detached.event(Event::OutOfScope { actor: actor(1) }), []);
}

#[test]
fn an_actor_without_arguments_is_known_and_not_started() {
    let without_arguments = |detached| {
        let mut story = Story::default();
        let registered = Event::Registered {
            actor: actor(1),
            facts: facts(0, detached),
            has_arguments: false,
        };
        assert_eq!(story.event(registered), [persist()]);
        assert_eq!(story.phase(), Phase::PendingCreation);
        assert!(story.0.awaits_arguments(actor(1)) && story.0.waiting_for_node().is_empty());
        story
    };
    let came = || Event::ArgumentsCame { actor: actor(1) };
    let owner_died = || Event::WorkerDied {
        worker: worker(200).worker_id,
        message: String::new(),
    };
    let mut story = without_arguments(true);
    assert_eq!(story.event(came()), [choose()]);
    assert_eq!(story.event(came()), []);
    assert_eq!(story.event(owner_died()), [], "it is detached");

    // Only the owner could have computed them.
    let mut orphan = without_arguments(true);
    assert_eq!(orphan.event(owner_died()), [persist(), publish(), release()]);
    assert_eq!(orphan.event(came()), []);

    let mut failed = without_arguments(false);
    let failure = Event::ConstructorFailed {
        actor: actor(1),
        incarnation: 0,
        message: "an argument".to_owned(),
        error: vec![1],
    };
    assert_eq!(failed.event(failure), [persist(), publish(), release()]);
    let mut killed = without_arguments(false);
    let kill = Event::KillRequested {
        actor: actor(1),
        no_restart: true,
    };
    assert_eq!(killed.event(kill), [persist(), publish(), release()]);
}

#[test]
fn a_node_that_cannot_start_it_is_asked_again_and_then_no_more() {
    let mut story = Story::starting(0);
    let failed = || Event::StartFailed {
        actor: actor(1),
        incarnation: 0,
        message: "no memory".to_owned(),
        environment_failed: false,
    };
    for _ in 0..2 {
        assert_eq!(story.event(failed()), [choose()]);
        story.start(0);
    }
    assert_eq!(story.event(failed()), [persist(), publish(), release()]);
    assert_eq!(story.death(), Some(Death::CannotBeScheduled("no memory".to_owned())));
    assert!(story.0.forget(actor(1)));
    assert!(story.0.status(actor(1)).is_none());

    let mut story = Story::starting(3);
    let broken = Event::StartFailed {
        actor: actor(1),
        incarnation: 0,
        message: "no such package".to_owned(),
        environment_failed: true,
    };
    assert_eq!(story.event(broken), [persist(), publish(), release()], "no second try");
    let why = Death::EnvironmentFailed("no such package".to_owned());
    assert_eq!(story.death(), Some(why));
}

#[test]
fn a_dead_node_moves_what_may_move() {
    let mut starting = Story::starting(0);
    assert_eq!(
        starting.event(Event::NodeDied { node: NODE }),
        [persist(), choose()],
        "nor would it be this node's for whoever is started again"
    );
    let mut alive = Story::alive(0);
    let effects = alive.event(Event::NodeDied { node: NODE });
    assert_eq!(effects, [persist(), publish(), release()]);
    assert!(!alive.0.forget(actor(2)), "unknown");
}

#[test]
fn a_node_that_drains_gives_its_actors_to_others_and_no_restart_is_counted() {
    let died = |number| Event::WorkerDied {
        worker: worker(number).worker_id,
        message: String::new(),
    };
    let mut bound = Story::alive(0);
    assert_eq!(
        bound.event(Event::NodeDrains { node: NODE }),
        [],
        "it may not be restarted"
    );
    let mut story = Story::alive(1);
    let ends = stop(Some(worker(9)), true, "its node is drained");
    assert_eq!(story.event(Event::NodeDrains { node: NODE }), [ends]);
    assert_eq!(story.event(Event::NodeDrains { node: NODE }), [], "said already");
    assert_eq!(story.event(died(9)), [persist(), publish(), choose()]);
    story.event(Event::NodeDied { node: NODE });
    // The one restart that it has is left to it.
    story.start(1);
    story.run(1, 10);
    assert_eq!(story.event(died(10)), [persist(), publish(), choose()]);
    story.start(2);
    story.run(2, 11);
    let status = story.0.status(actor(1)).expect("it is known");
    assert_eq!((status.incarnation, status.moves), (2, 1));
    // And then it is moved once more all the same.
    story.event(Event::NodeDrains { node: NODE });
    assert_eq!(story.event(died(11)), [persist(), publish(), choose()]);
    story.event(Event::NodeDied { node: NODE });
    story.start(3);
    story.run(3, 12);
    assert_eq!(story.event(died(12)), [persist(), publish(), release()]);
}

#[test]
fn a_node_gives_an_actor_back_that_it_has_not_started() {
    let mut story = Story::starting(0);
    assert!(story.0.is_starting_on(actor(1), NODE, 0));
    let given_back = |incarnation| Event::StartDeclined {
        actor: actor(1),
        incarnation,
    };
    assert_eq!(story.event(given_back(1)), [], "another life");
    for _ in 0..5 {
        // No try has failed.
        assert_eq!(story.event(given_back(0)), [choose()]);
        story.start(0);
    }
    story.run(0, 9);
    assert_eq!(story.event(given_back(0)), []);
}

#[test]
fn a_restored_actor_goes_on_where_it_was() {
    let mut lifecycle = Lifecycle::default();
    let mut effects = Vec::new();
    let restored = |phase, worker| Restored {
        phase,
        worker,
        starting_on: None,
        incarnation: 2,
        moves: 0,
        death: None,
        has_arguments: true,
    };
    lifecycle.restore(
        actor(1),
        facts(-1, false),
        restored(Phase::Restarting, None),
        &mut effects,
    );
    lifecycle.restore(
        actor(2),
        facts(-1, false),
        restored(Phase::Alive, Some(worker(9))),
        &mut effects,
    );
    lifecycle.check_invariants();
    let without_arguments = Restored {
        has_arguments: false,
        ..restored(Phase::PendingCreation, None)
    };
    lifecycle.restore(actor(3), facts(-1, true), without_arguments, &mut effects);
    lifecycle.check_invariants();
    assert_eq!(effects, [choose()]);
    assert_eq!(lifecycle.waiting_for_node(), [actor(1)]);
    assert!(lifecycle.awaits_arguments(actor(3)));
    lifecycle.on_event(
        Event::WorkerDied {
            worker: worker(9).worker_id,
            message: String::new(),
        },
        &mut effects,
    );
    assert_eq!(lifecycle.status(actor(2)).expect("known").incarnation, 3);
    lifecycle.check_invariants();
}

/// Whoever decides may end after the node was told, and the node has a worker for the actor by then.
#[test]
fn a_restored_actor_that_a_node_was_told_to_start_is_that_nodes() {
    let story = Story::starting(0);
    let status = story.0.status(actor(1)).expect("known");
    let was = Restored {
        phase: status.phase,
        worker: status.worker,
        starting_on: status.starting_on,
        incarnation: status.incarnation,
        moves: status.moves,
        death: None,
        has_arguments: true,
    };
    let restored = || {
        let (mut story, mut effects) = (Story::default(), Vec::new());
        story.0.restore(actor(1), facts(0, false), was.clone(), &mut effects);
        assert_eq!(effects, [], "no other node is asked");
        story
    };
    let mut here = restored();
    assert_eq!(here.0.starting_on(NODE), [(actor(1), 0)], "it is told once more");
    here.run(0, 9);
    let mut gone = restored();
    assert_eq!(gone.event(Event::NodeDied { node: NODE }), [persist(), choose()]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let id = || (0u8..4).prop_map(actor);
    let process = || (0u8..12).prop_map(worker);
    prop_oneof![
        4 => (id(), -1..3i32, any::<bool>(), process(), any::<bool>()).prop_map(
            |(actor, max_restarts, detached, owner, has_arguments)| {
                let facts = ActorFacts { owner, max_restarts, detached };
                Event::Registered { actor, facts, has_arguments }
            }
        ),
        3 => id().prop_map(|actor| Event::ArgumentsCame { actor }),
        6 => id().prop_map(|actor| Event::NodeChosen { actor, node: NODE }),
        6 => (id(), 0..3u32, process()).prop_map(|(actor, incarnation, worker)| {
            Event::Assigned { actor, incarnation, worker }
        }),
        2 => (id(), 0..3u32).prop_map(|(actor, incarnation)| {
            Event::StartFailed { actor, incarnation, message: String::new(), environment_failed: false }
        }),
        4 => (id(), 0..3u32).prop_map(|(actor, incarnation)| Event::Started { actor, incarnation }),
        1 => (id(), 0..3u32).prop_map(|(actor, incarnation)| {
            Event::ConstructorFailed { actor, incarnation, message: String::new(), error: Vec::new() }
        }),
        3 => process().prop_map(|worker| Event::WorkerDied { worker: worker.worker_id, message: String::new() }),
        1 => Just(Event::NodeDied { node: NODE }),
        1 => Just(Event::NodeDrains { node: NODE }),
        1 => (id(), 0..3u32).prop_map(|(actor, incarnation)| Event::StartDeclined { actor, incarnation }),
        2 => (id(), any::<bool>()).prop_map(|(actor, no_restart)| Event::KillRequested { actor, no_restart }),
        1 => id().prop_map(|actor| Event::OutOfScope { actor }),
        1 => id().prop_map(|actor| Event::ExitedItself { actor, message: String::new() }),
        1 => Just(Event::JobFinished { job: JOB }),
    ]
}

proptest! {
    /// Any order of facts: the dead stay dead, incarnations only grow, each incarnation is asked for and started in
    /// turn, and a worker that is no actor's has been told to stop.
    #[test]
    fn any_history_keeps_the_promises(history in proptest::collection::vec(any_event(), 0..120)) {
        let mut story = Story::default();
        let mut assigned: HashSet<WorkerId> = HashSet::new();
        let mut dead: HashSet<ActorId> = HashSet::new();
        let mut last: HashMap<ActorId, u32> = HashMap::new();
        for event in history {
            // A process is given to one actor only, and once: what the raylet promises.
            if let Event::Assigned { worker, .. } = &event && !assigned.insert(worker.worker_id) {
                continue;
            }
            let given = match &event {
                Event::Assigned { worker, actor, .. } => Some((*worker, *actor)),
                _ => None,
            };
            let effects = story.event(event);
            let mut stopped = HashSet::new();
            for effect in &effects {
                match effect {
                    Effect::StartOnNode { actor, incarnation, .. } => {
                        prop_assert!(!dead.contains(actor), "ACT-3");
                        prop_assert!(last.get(actor).is_none_or(|last| incarnation >= last), "ACT-1");
                        last.insert(*actor, *incarnation);
                    }
                    Effect::ChooseNode { actor } => prop_assert!(!dead.contains(actor), "ACT-3"),
                    Effect::StopWorker { worker: Some(worker), .. } => { stopped.insert(*worker); }
                    Effect::Publish { actor } => {
                        let status = story.0.status(*actor).expect("published actors are known");
                        if status.phase == Phase::Dead {
                            prop_assert!(dead.insert(*actor), "ACT-3: it dies once");
                        } else {
                            prop_assert!(!dead.contains(actor), "ACT-3");
                        }
                    }
                    Effect::StopWorker { worker: None, .. } | Effect::Persist { .. } | Effect::ReleaseName { .. } => {}
                }
            }
            if let Some((worker, actor)) = given {
                let hosts = story.0.status(actor).is_some_and(|status| status.worker == Some(worker));
                prop_assert!(hosts != stopped.contains(&worker.worker_id), "ACT-2");
            }
        }
    }
}
