//! Who may be a node of the cluster, and what replicas of the global scheduler hear of nodes.

use ray_rs_proto::v1::node_news::Body as News;

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

/// Why the control store does not take it; `None`: it does.
fn refusal(served: &Served, info: v1::NodeInfo) -> Option<String> {
    let mut state = served.state.lock().expect("whole");
    state
        .register_node(info)
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
            state.register_node(info(7, 1.0)).expect("taken")
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
