//! Durable actors: what is stored of them, for whom, and for how long.

use super::*;

fn durable(unique: u8) -> v1::ActorSpec {
    v1::ActorSpec {
        max_restarts: -1,
        durability: Some(v1::Durability {
            checkpoint_every: 100,
            checkpoint_interval_ms: 0,
        }),
        ..spec(unique, "")
    }
}

fn commit(
    incarnation: u32,
    first: u64,
    records: &[&'static str],
    checkpoint: Option<(u64, usize)>,
) -> v1::CommitCallsRequest {
    v1::CommitCallsRequest {
        actor_id: actor(1).0.to_vec(),
        incarnation,
        first,
        records: records
            .iter()
            .map(|record| Bytes::from_static(record.as_bytes()))
            .collect(),
        checkpoint: checkpoint.map(|(position, length)| v1::Checkpoint {
            position,
            data: vec![position as u8; length].into(),
        }),
    }
}

async fn stores(client: &mut GcsClient<Channel>, request: v1::CommitCallsRequest) -> bool {
    let reply = client.commit_calls(request).await.expect("asked").into_inner();
    reply.refused.is_empty()
}

async fn log(client: &mut GcsClient<Channel>, incarnation: u32) -> v1::GetCallLogReply {
    let request = v1::GetCallLogRequest {
        actor_id: actor(1).0.to_vec(),
        incarnation,
        from: 0,
        with_checkpoint: true,
    };
    client.get_call_log(request).await.expect("asked").into_inner()
}

fn kept(storage: &MemoryStorage) -> usize {
    let mut count = 0;
    for table in [Table::CallRecords, Table::Checkpoints] {
        storage.scan(table, &mut |_, _| count += 1).expect("scanned");
    }
    count
}

#[test]
fn calls_that_were_acknowledged_are_there_after_a_crash_and_go_with_their_actor() {
    let storage = MemoryStorage::default();
    run(async {
        let served = Served::start(storage.clone());
        let mut client = served.client().await;
        client
            .register_actor(registering(durable(1)))
            .await
            .expect("registered");
        let first = commit(0, 0, &["a", "b"], Some((0, 3 << 20)));
        assert!(stores(&mut client, first.clone()).await);
        assert!(
            stores(&mut client, first).await,
            "the answer was lost, and it came again"
        );
        assert!(stores(&mut client, commit(0, 2, &["c"], None)).await);
        assert!(!stores(&mut client, commit(0, 7, &["x"], None)).await, "a gap");
        storage.crash();
        let again = Served::start(storage.clone());
        let mut client = again.client().await;
        let found = log(&mut client, 0).await;
        assert_eq!((found.first, found.next, found.records.len()), (0, 0, 3));
        assert_eq!(found.checkpoint.expect("one").data.len(), 3 << 20);
        assert!(stores(&mut client, commit(0, 3, &["d"], Some((2, 10)))).await);
        storage.crash();
        let again = Served::start(storage.clone());
        let mut client = again.client().await;
        let found = log(&mut client, 0).await;
        assert_eq!(
            (found.first, found.records),
            (2, vec![Bytes::from("c"), Bytes::from("d")])
        );
        assert_eq!(found.checkpoint.expect("one").position, 2);
        assert_eq!(
            kept(&storage),
            3,
            "what a checkpoint covers is gone, and the parts of the larger one"
        );
        let kill = v1::KillActorRequest {
            actor_id: actor(1).0.to_vec(),
            no_restart: true,
        };
        client.kill_actor(kill).await.expect("killed");
        assert_eq!(kept(&storage), 0);
        assert!(!stores(&mut client, commit(0, 4, &["x"], None)).await, "it is dead");
        again.stop();
        served.stop();
    });
}

#[test]
fn an_earlier_process_of_the_actor_stores_nothing_more() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        let mut node = served.node().await;
        client
            .register_actor(registering(durable(1)))
            .await
            .expect("registered");
        node.next_start().await;
        node.assigned(actor(1), 0, 9).await;
        assert!(stores(&mut client, commit(0, 0, &["a"], Some((0, 1)))).await);
        node.worker_died(9, Vec::new()).await;
        assert_eq!(node.next_update().await, (3, 0));
        assert_eq!(node.next_start().await.incarnation, 1);
        assert!(!stores(&mut client, commit(0, 1, &["late"], None)).await, "DUR-4");
        assert!(!log(&mut client, 0).await.refused.is_empty());
        let found = log(&mut client, 1).await;
        assert_eq!((found.refused, found.records), (String::new(), vec![Bytes::from("a")]));
        assert!(stores(&mut client, commit(1, 1, &["b"], None)).await);
        served.stop();
    });
}

#[test]
fn only_a_durable_actor_has_a_log() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        client
            .register_actor(registering(spec(1, "")))
            .await
            .expect("registered");
        assert!(!stores(&mut client, commit(0, 0, &["a"], Some((0, 1)))).await);
        served.stop();
    });
}
