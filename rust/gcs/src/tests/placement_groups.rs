//! Placement groups through the service: a node that obeys, names, ends, and a restart.

use ray_rs_types::PlacementGroupId;
use tonic::Request;

use super::*;
use crate::storage::{StorageError, Table, Write};

fn id(number: u8) -> Vec<u8> {
    PlacementGroupId([number; 18]).0.to_vec()
}

fn group(number: u8, name: &str) -> v1::PlacementGroupSpec {
    v1::PlacementGroupSpec {
        group_id: id(number),
        name: name.to_owned(),
        namespace: "ns".to_owned(),
        bundles: vec![v1::ResourceSet::from(&ResourceSet::new().with("CPU", 1.0))],
        job_id: JobId::from_int(1).0.to_vec(),
        ..v1::PlacementGroupSpec::default()
    }
}

fn request(number: u8) -> v1::GroupRequest {
    v1::GroupRequest { group_id: id(number) }
}

impl NodeSide {
    /// The first words of a raylet: what it holds.
    async fn first_words(&self, held: &[u8]) {
        let held = held.iter().map(|number| v1::HeldBundles {
            group_id: id(*number),
            indices: vec![0],
        });
        self.report(node_report::Body::Heartbeat(v1::NodeHeartbeat {
            available: Some(v1::ResourceSet::from(&ResourceSet::new().with("CPU", 2.0))),
            first: true,
            held: held.collect(),
            ..v1::NodeHeartbeat::default()
        }))
        .await;
    }

    /// Prepares what it is told to.
    async fn prepare(&mut self, number: u8) {
        let node_command::Body::PrepareBundles(order) = self.next().await else {
            panic!("an order to prepare bundles")
        };
        assert_eq!((order.group_id, order.commit), (id(number), true));
        self.report(node_report::Body::BundlesPrepared(v1::BundlesAnswer {
            group_id: id(number),
            attempt: order.attempt,
            has_room: true,
        }))
        .await;
    }

    async fn group_state(&mut self, number: u8) -> u32 {
        match self.next().await {
            node_command::Body::GroupUpdate(update) if update.group_id == id(number) => update.state,
            other => panic!("expected an update, got {other:?}"),
        }
    }
}

const CREATED: u32 = 2;
const REMOVED: u32 = 3;
const REFUSED: u32 = 5;

#[test]
fn a_group_is_created_named_and_removed() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut node = served.node().await;
        node.first_words(&[]).await;
        node.report(node_report::Body::CreateGroup(group(1, "mine"))).await;
        node.prepare(1).await;
        assert_eq!(node.group_state(1).await, CREATED);
        node.report(node_report::Body::CreateGroup(group(2, "mine"))).await;
        assert_eq!(node.group_state(2).await, REFUSED);
        let by_name = v1::GetPlacementGroupRequest {
            name: "mine".to_owned(),
            namespace: "ns".to_owned(),
            ..v1::GetPlacementGroupRequest::default()
        };
        let mut client = served.client().await;
        let found = client
            .get_placement_group(Request::new(by_name))
            .await
            .expect("answered");
        assert_eq!(found.into_inner().groups[0].nodes, [NODE.0.to_vec()]);
        node.report(node_report::Body::RemoveGroup(request(1))).await;
        let node_command::Body::ReturnBundles(order) = node.next().await else {
            panic!("an order to give bundles back")
        };
        assert!(order.removed && order.indices == [0]);
        assert_eq!(node.group_state(1).await, REMOVED);
        node.report(node_report::Body::FollowGroup(request(1))).await;
        assert_eq!(node.group_state(1).await, REMOVED);
        served.stop();
    });
}

/// A store whose disk does nothing while the test holds the lock.
struct Gated(MemoryStorage, Arc<tokio::sync::Mutex<()>>);

impl Storage for Gated {
    fn apply(&self, batch: &[Write]) -> Result<(), StorageError> {
        self.0.apply(batch)
    }

    fn flush(&self) -> Result<(), StorageError> {
        let _open = self.1.blocking_lock();
        self.0.flush()
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        self.0.scan(table, visit)
    }
}

#[test]
fn the_node_prepares_while_the_disk_writes_and_both_are_waited_for() {
    run(async {
        let storage = MemoryStorage::default();
        let disk = Arc::new(tokio::sync::Mutex::new(()));
        let served = Served::start(Gated(storage.clone(), Arc::clone(&disk)));
        let mut node = served.node().await;
        node.first_words(&[]).await;
        let busy = disk.lock().await;
        node.report(node_report::Body::CreateGroup(group(1, ""))).await;
        // The order comes before the disk has anything.
        node.prepare(1).await;
        let early = tokio::time::timeout(Duration::from_millis(100), node.next()).await;
        assert!(early.is_err(), "told before it is durable: {early:?}");
        drop(busy);
        assert_eq!(node.group_state(1).await, CREATED);
        // As it was written when the node was asked; nothing was written when that answered.
        storage.crash();
        served.stop();
        let served = Served::start(storage);
        let mut node = served.node().await;
        node.first_words(&[1]).await;
        node.report(node_report::Body::FollowGroup(request(1))).await;
        while !matches!(node.next().await, node_command::Body::GroupUpdate(update) if update.state == CREATED) {}
        served.stop();
    });
}

#[test]
fn a_created_group_outlives_the_gcs_and_a_removed_one_does_not() {
    run(async {
        let storage = MemoryStorage::default();
        let served = Served::start(storage.clone());
        let mut node = served.node().await;
        node.first_words(&[]).await;
        for number in [1, 2] {
            node.report(node_report::Body::CreateGroup(group(number, ""))).await;
            node.prepare(number).await;
            assert_eq!(node.group_state(number).await, CREATED);
        }
        node.report(node_report::Body::RemoveGroup(request(2))).await;
        let _ = node.next().await;
        assert_eq!(node.group_state(2).await, REMOVED);
        // What was told was durable.
        storage.crash();
        served.stop();
        let served = Served::start(storage);
        let mut node = served.node().await;
        node.first_words(&[1, 2]).await;
        // Its order to commit may have been lost.
        let node_command::Body::CommitBundles(order) = node.next().await else {
            panic!("an order to commit")
        };
        assert_eq!(order.group_id, id(1));
        let node_command::Body::ReturnBundles(order) = node.next().await else {
            panic!("an order to give bundles back")
        };
        assert!(order.group_id == id(2) && order.removed, "nobody wants it any more");
        node.report(node_report::Body::FollowGroup(request(1))).await;
        assert_eq!(node.group_state(1).await, CREATED);
        served.stop();
    });
}

#[test]
fn an_actor_waits_for_its_group_and_dies_with_it() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut node = served.node().await;
        node.first_words(&[]).await;
        let name = format!("bundle_group_{}", PlacementGroupId([1; 18]));
        let resources = v1::ResourceSet::from(&ResourceSet::new().with(name, 0.001));
        let spec = v1::ActorSpec {
            placement_resources: Some(resources),
            max_restarts: -1,
            ..spec(1, "")
        };
        let mut client = served.client().await;
        client
            .register_actor(Request::new(registering(spec)))
            .await
            .expect("registered");
        node.report(node_report::Body::CreateGroup(group(1, ""))).await;
        node.prepare(1).await;
        assert_eq!(node.group_state(1).await, CREATED);
        node.next_start().await;
        node.assigned(actor(1), 0, 9).await;
        node.report(node_report::Body::RemoveGroup(request(1))).await;
        assert!(matches!(node.next().await, node_command::Body::StopActor(_)));
        assert_eq!(
            node.next_update().await,
            (4, 10),
            "not restarted: there is no place for it"
        );
        assert!(matches!(node.next().await, node_command::Body::ReturnBundles(_)));
        served.stop();
    });
}
