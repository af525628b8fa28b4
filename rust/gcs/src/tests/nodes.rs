//! Who may be a node of the cluster, and what replicas of the global scheduler hear of nodes.

use ray_rs_proto::v1::node_news::Body as News;
use tonic::Request;

use super::*;
use crate::storage::ShardedStorage;

fn info(incarnation: u64, cpus: f64) -> v1::NodeInfo {
    let resources = v1::ResourceSet::from(&ResourceSet::new().with("CPU", cpus));
    v1::NodeInfo {
        node_id: NODE.0.to_vec(),
        total: Some(resources.clone()),
        available: Some(resources),
        incarnation,
        raylet_address: "10.0.0.1:5".to_owned(),
        ..v1::NodeInfo::default()
    }
}

const OTHER: NodeId = NodeId([5; 28]);

/// The next command of the wanted kind; others are passed over.
async fn next_of<T>(
    commands: &mut mpsc::Receiver<Result<v1::NodeCommand, tonic::Status>>,
    mut wanted: impl FnMut(node_command::Body) -> Option<T>,
) -> T {
    loop {
        let command = commands.recv().await.expect("open").expect("a command");
        if let Some(found) = command.body.and_then(&mut wanted) {
            return found;
        }
    }
}

fn start_of(body: node_command::Body) -> Option<v1::StartActor> {
    match body {
        node_command::Body::StartActor(start) => Some(start),
        _ => None,
    }
}

/// The node of a program from outside: in the cluster, and no place for anything.
#[test]
fn a_client_is_offered_nothing_and_reached_by_no_address() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut state = served.state.lock().expect("whole");
        let client = v1::NodeInfo {
            node_id: OTHER.0.to_vec(),
            raylet_address: ray_rs_transport::relay::address_through(OTHER),
            drain: Some(v1::DrainInfo::default()),
            ..info(8, 0.0)
        };
        state.register_node(info(7, 1.0), None).expect("taken");
        state.register_node(client, None).expect("taken");
        assert_eq!(state.address_of(NODE).as_deref(), Some("10.0.0.1:5"));
        assert_eq!(state.address_of(OTHER), None);
        let offered: Vec<NodeId> = state.offered_nodes();
        assert_eq!(offered, [NODE]);
        drop(state);
        served.stop();
    });
}

#[test]
fn an_actor_that_waits_moves_to_a_node_that_comes_and_is_asked_for_once() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let with_state = |what: &mut dyn FnMut(&mut State)| what(&mut served.state.lock().expect("whole"));
        let register = |info| {
            served
                .state
                .lock()
                .expect("whole")
                .register_node(info, None)
                .expect("taken")
                .commands
        };
        let one_cpu = v1::ResourceSet::from(&ResourceSet::new().with("CPU", 1.0));
        let mut full = register(info(7, 1.0));
        let mut client = served.client().await;
        for number in 1..=3 {
            let spec = v1::ActorSpec {
                placement_resources: Some(one_cpu.clone()),
                ..spec(number, "")
            };
            client
                .register_actor(Request::new(registering(spec)))
                .await
                .expect("registered");
            next_of(&mut full, start_of).await;
        }
        let mut free = register(v1::NodeInfo {
            node_id: OTHER.0.to_vec(),
            raylet_address: "10.0.0.2:5".to_owned(),
            ..info(8, 1.0)
        });
        let mut number = 0;
        let mut beat = |node: NodeId, cpus: f64, waiting: u32| {
            number += 1;
            let report = v1::NodeReport {
                body: Some(node_report::Body::Heartbeat(v1::NodeHeartbeat {
                    number,
                    total: Some(one_cpu.clone()),
                    available: Some(v1::ResourceSet::from(&ResourceSet::new().with("CPU", cpus))),
                    waiting: vec![v1::ShapeCount {
                        resources: Some(one_cpu.clone()),
                        count: waiting,
                        ..v1::ShapeCount::default()
                    }],
                    ..v1::NodeHeartbeat::default()
                })),
            };
            with_state(&mut |state| state.node_report(node, report.clone(), 0).expect("taken"));
        };
        // Which of the three has the place there is not known here: the node says.
        beat(NODE, 0.0, 2);
        let asked_back = |body| match body {
            node_command::Body::ReturnActors(order) => Some(order),
            _ => None,
        };
        let order = next_of(&mut full, asked_back).await;
        assert_eq!((order.actors.len(), order.count), (3, 1));
        // Neither has anything new to say about the room that was offered.
        with_state(&mut |state| state.move_waiting_actors());
        let given_back = node_report::Body::ActorStartFailed(v1::ActorStartFailed {
            actor_id: actor(2).0.to_vec(),
            given_back: true,
            ..v1::ActorStartFailed::default()
        });
        let report = v1::NodeReport { body: Some(given_back) };
        with_state(&mut |state| state.node_report(NODE, report.clone(), 0).expect("taken"));
        let start = next_of(&mut free, start_of).await;
        assert_eq!(start.actor_id, actor(2).0);
        beat(NODE, 0.0, 1);
        beat(OTHER, 0.0, 0);
        while let Ok(command) = full.try_recv() {
            assert_eq!(command.expect("a command").body.and_then(asked_back), None);
        }
        // The other's actor ends: there is room for the last.
        beat(OTHER, 1.0, 0);
        assert_eq!(next_of(&mut full, asked_back).await.count, 1);
        served.stop();
    });
}

/// Why the control store does not take it; `None`: it does.
fn refusal(served: &Served, info: v1::NodeInfo) -> Option<String> {
    let mut state = served.state.lock().expect("whole");
    state
        .register_node(info, None)
        .err()
        .map(|status| status.message().to_owned())
}

#[test]
fn a_node_that_was_declared_dead_does_not_come_back_also_after_a_restart() {
    run(async {
        let storage = MemoryStorage::default();
        let served = Served::start(storage.clone());
        let registration = {
            let mut state = served.state.lock().expect("whole");
            state.register_node(info(7, 1.0), None).expect("taken")
        };
        let mut commands = registration.commands;
        served
            .state
            .lock()
            .expect("whole")
            .node_died(NODE, registration.connection, "nothing came", 0);
        // What it is told ends, so that it comes back and hears why.
        while commands.recv().await.is_some() {}
        let why = refusal(&served, info(7, 1.0)).expect("refused");
        assert!(why.contains("declared dead (nothing came)"), "{why}");
        served.stop();

        let again = Served::start(storage);
        let why = refusal(&again, info(7, 1.0)).expect("refused");
        assert!(why.contains("declared dead"), "{why}");
        again.stop();
    });
}

#[test]
fn a_second_node_with_the_id_of_the_first_is_refused_by_its_address() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        assert_eq!(refusal(&served, info(7, 1.0)), None);
        let why = refusal(&served, info(8, 1.0)).expect("refused");
        assert!(why.contains("10.0.0.1:5"), "{why}");
        assert_eq!(refusal(&served, info(7, 1.0)), None, "the first connects again");
        served.stop();
    });
}

#[test]
fn nonsense_is_no_node() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let why = refusal(&served, info(7, -2.0)).expect("refused");
        assert!(why.contains("-2 CPU"), "{why}");
        let mut bad = info(7, 1.0);
        bad.node_id.pop();
        assert!(refusal(&served, bad).is_some());
        served.stop();
    });
}

#[test]
fn a_replica_hears_of_all_nodes_and_raylets_hear_of_it() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        let mut node = served.node().await;
        let request = v1::FollowNodesRequest {
            address: "10.0.0.9:1".to_owned(),
        };
        let mut news = client.follow_nodes(request).await.expect("followed").into_inner();
        let first = news.message().await.expect("whole").expect("open");
        assert_eq!(first.node_id, NODE.0);
        assert!(matches!(first.body, Some(News::Heartbeat(beat)) if beat.base == 0 && beat.number == 1));
        let second = news.message().await.expect("whole").expect("open");
        assert!(matches!(second.body, Some(News::Complete(_))));
        let told = |addresses: &[&str]| {
            node_command::Body::Schedulers(v1::Schedulers {
                addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            })
        };
        assert_eq!(node.next().await, told(&["10.0.0.9:1"]));
        drop(news);
        assert_eq!(node.next().await, told(&[]));
        served.stop();
    });
}

#[test]
fn what_was_acknowledged_survives_a_restart_on_two_shards() {
    let dir = tempfile::tempdir().expect("a directory");
    for life in 0..2 {
        run(async {
            let shard = |name| SledStorage::open(&dir.path().join(name)).expect("opened");
            let storage = ShardedStorage::open(vec![shard("a"), shard("b")]).expect("opened");
            let served = Served::start(storage);
            let mut client = served.client().await;
            if life == 0 {
                fill(&mut client).await;
            }
            check_filled(&mut client).await;
            served.stop();
        });
    }
}

#[test]
fn an_actor_lives_and_dies_over_two_shards() {
    run(create_call_and_kill(
        ShardedStorage::open(vec![MemoryStorage::default(), MemoryStorage::default()]).expect("opened"),
    ));
}
