//! The whole service in one process: tonic over a Unix socket in a temporary directory, prost messages, both stores.

mod durable;
mod nodes;
mod nonsense;
mod placement_groups;
mod restart;
mod stepped;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use ray_rs_proto::v1::gcs_client::GcsClient;
use ray_rs_proto::v1::gcs_server::GcsServer;
use ray_rs_proto::v1::{self, Empty, node_command, node_report};
use ray_rs_transport::Token;
use ray_rs_transport::grpc::{Address, Listener, RawClient, channel, serve};
use ray_rs_types::{ActorId, JobId, NodeId, ResourceSet, WorkerAddress, WorkerId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::config::GcsConfig;
use crate::run::release_flushed;
use crate::service::GcsService;
use crate::state::State;
use crate::storage::{MemoryStorage, SledStorage, Storage, Table};

fn run<F: Future>(test: F) -> F::Output {
    crate::tests::init_tracing();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}

fn init_tracing() {
    ray_rs_telemetry::init("gcs-test");
}

/// One gcs, for as long as the value lives.
struct Served {
    dir: tempfile::TempDir,
    token: Token,
    state: Arc<Mutex<State>>,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    fn start(storage: impl Storage) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = std::os::unix::net::UnixListener::bind(dir.path().join("gcs")).expect("bound");
        let listener = Listener::unix_from_fd(socket.into()).expect("taken over");
        let (state, flushed) = State::open(Box::new(storage)).expect("opened");
        let state = Arc::new(Mutex::new(state));
        tokio::spawn(release_flushed(Arc::clone(&state), flushed));
        let token = Token::random().expect("random");
        let service = GcsServer::new(GcsService::new(Arc::clone(&state), Duration::from_secs(8)));
        let serving = serve(vec![listener], token.clone(), service, None, std::future::pending());
        let server = tokio::spawn(async move { serving.await.expect("served") });
        Self {
            dir,
            token,
            state,
            server,
        }
    }

    async fn channel(&self) -> Channel {
        channel(Address::Unix(self.dir.path().join("gcs")), self.token.clone())
            .await
            .expect("connected")
    }

    async fn client(&self) -> GcsClient<Channel> {
        GcsClient::new(self.channel().await)
    }

    async fn node(&self) -> NodeSide {
        NodeSide::connect(self.client().await).await
    }

    fn stop(self) {
        self.server.abort();
        self.state.lock().expect("whole").close();
    }
}

/// What a raylet does on its channel.
struct NodeSide {
    reports: mpsc::Sender<v1::NodeReport>,
    commands: Streaming<v1::NodeCommand>,
}

const NODE: NodeId = NodeId([1; 28]);

impl NodeSide {
    async fn connect(mut client: GcsClient<Channel>) -> Self {
        let (reports, receiver) = mpsc::channel(16);
        let resources = v1::ResourceSet::from(&ResourceSet::new().with("CPU", 2.0));
        let node = v1::NodeInfo {
            node_id: NODE.0.to_vec(),
            total: Some(resources.clone()),
            available: Some(resources),
            ..v1::NodeInfo::default()
        };
        let registered = node_report::Body::Registered(v1::NodeRegistered { node: Some(node) });
        reports
            .send(v1::NodeReport { body: Some(registered) })
            .await
            .expect("room");
        let commands = client
            .node_channel(ReceiverStream::new(receiver))
            .await
            .expect("a channel")
            .into_inner();
        let mut side = Self { reports, commands };
        assert_eq!(
            side.next().await,
            node_command::Body::Accepted(v1::NodeAccepted {
                node_index: 1,
                ..v1::NodeAccepted::default()
            })
        );
        side
    }

    async fn next(&mut self) -> node_command::Body {
        self.commands
            .message()
            .await
            .expect("whole")
            .expect("open")
            .body
            .expect("a command")
    }

    async fn next_update(&mut self) -> (u32, u32) {
        match self.next().await {
            node_command::Body::ActorUpdate(update) => (update.state, update.death.map_or(0, |death| death.cause)),
            other => panic!("expected an update, got {other:?}"),
        }
    }

    async fn next_start(&mut self) -> v1::StartActor {
        match self.next().await {
            node_command::Body::StartActor(start) => start,
            other => panic!("expected a start, got {other:?}"),
        }
    }

    async fn report(&self, body: node_report::Body) {
        self.reports
            .send(v1::NodeReport { body: Some(body) })
            .await
            .expect("room");
    }

    async fn assigned(&mut self, actor: ActorId, incarnation: u32, number: u8) {
        let worker = Some(wire(number));
        self.report(node_report::Body::ActorAssigned(v1::ActorAssigned {
            actor_id: actor.0.to_vec(),
            incarnation,
            worker,
        }))
        .await;
        assert_eq!(self.next_update().await, (1, 0));
    }

    async fn worker_died(&self, number: u8, driver_job_id: Vec<u8>) {
        let worker_id = WorkerId([number; 28]).0.to_vec();
        self.report(node_report::Body::WorkerDied(v1::NodeWorkerDied {
            worker_id,
            driver_job_id,
            report: None,
        }))
        .await;
    }
}

fn wire(number: u8) -> v1::WorkerAddress {
    let worker_id = WorkerId([number; 28]);
    v1::WorkerAddress::from(&WorkerAddress {
        node_id: NODE,
        worker_id,
        pid: u32::from(number),
    })
}

const DRIVER: u8 = 200;

fn actor(number: u8) -> ActorId {
    ActorId::new([number; 12], JobId::from_int(1))
}

fn spec(number: u8, name: &str) -> v1::ActorSpec {
    v1::ActorSpec {
        actor_id: actor(number).0.to_vec(),
        job_id: JobId::from_int(1).0.to_vec(),
        class_id: vec![5; 28],
        class_name: "Counter".to_owned(),
        args: Some(v1::Value {
            kind: 1,
            data: vec![7; 10].into(),
            ..v1::Value::default()
        }),
        owner: Some(wire(DRIVER)),
        name: name.to_owned(),
        namespace: "ns".to_owned(),
        ..v1::ActorSpec::default()
    }
}

fn registering(spec: v1::ActorSpec) -> v1::RegisterActorRequest {
    v1::RegisterActorRequest {
        spec: Some(spec),
        get_if_exists: false,
    }
}

fn by_name(name: &str) -> v1::GetActorRequest {
    v1::GetActorRequest {
        actor_id: Vec::new(),
        name: name.to_owned(),
        namespace: "ns".to_owned(),
        patience_ms: 0,
    }
}

fn killing(number: u8) -> v1::KillActorRequest {
    v1::KillActorRequest {
        actor_id: actor(number).0.to_vec(),
        no_restart: true,
    }
}

async fn start_job(client: &mut GcsClient<Channel>) -> Vec<u8> {
    let request = v1::RegisterJobRequest {
        driver: Some(wire(DRIVER)),
        ..v1::RegisterJobRequest::default()
    };
    client
        .register_job(request)
        .await
        .expect("registered")
        .into_inner()
        .job_id
}

async fn create_call_and_kill(storage: impl Storage) {
    let served = Served::start(storage);
    let mut client = served.client().await;
    let mut node = served.node().await;
    assert_eq!(start_job(&mut client).await, JobId::from_int(1).0);
    assert_eq!(
        start_job(&mut client).await,
        JobId::from_int(1).0,
        "once more after a lost answer"
    );

    client
        .register_actor(registering(spec(1, "a")))
        .await
        .expect("registered");
    let start = node.next_start().await;
    assert_eq!(start.spec.expect("whole").args.expect("whole").data[..], [7; 10]);
    node.assigned(actor(1), 0, 9).await;
    let started = v1::ReportActorStartedRequest {
        actor_id: actor(1).0.to_vec(),
        ..Default::default()
    };
    client.report_actor_started(started).await.expect("told");
    assert_eq!(node.next_update().await, (2, 0));

    let found = client
        .get_actor(by_name("a"))
        .await
        .expect("asked")
        .into_inner()
        .actor
        .expect("there");
    assert_eq!(found.status.expect("known").worker, Some(wire(9)));
    assert_eq!(
        found.spec.expect("known").args,
        None,
        "arguments go to the constructor only"
    );

    client.kill_actor(killing(1)).await.expect("killed");
    match node.next().await {
        node_command::Body::StopActor(stop) => assert_eq!((stop.worker_id, stop.graceful), (vec![9; 28], false)),
        other => panic!("expected a stop, got {other:?}"),
    }
    assert_eq!(node.next_update().await, (4, 2));
    assert!(
        client
            .get_actor(by_name("a"))
            .await
            .expect("asked")
            .into_inner()
            .actor
            .is_none()
    );
    assert_eq!(
        client
            .list_actors(Empty {})
            .await
            .expect("asked")
            .into_inner()
            .actors
            .len(),
        1
    );
    served.stop();
}

#[test]
fn an_actor_lives_and_dies_over_tonic_and_memory() {
    run(create_call_and_kill(MemoryStorage::default()));
}

#[test]
fn an_actor_lives_and_dies_over_tonic_and_sled() {
    let dir = tempfile::tempdir().expect("a directory");
    run(create_call_and_kill(SledStorage::open(dir.path()).expect("opened")));
}

#[test]
fn a_taken_name_is_an_error_or_the_actor_that_has_it() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        client
            .register_actor(registering(spec(1, "a")))
            .await
            .expect("registered");
        client
            .register_actor(registering(spec(1, "a")))
            .await
            .expect("the same again is fine");
        let error = client
            .register_actor(registering(spec(2, "a")))
            .await
            .expect_err("taken");
        assert_eq!(error.code(), Code::AlreadyExists);
        assert!(error.message().contains("name a"), "{}", error.message());
        let request = v1::RegisterActorRequest {
            get_if_exists: true,
            ..registering(spec(2, "a"))
        };
        let existing = client
            .register_actor(request)
            .await
            .expect("found")
            .into_inner()
            .existing
            .expect("there");
        assert_eq!(existing.spec.expect("whole").actor_id, actor(1).0);
        client.kill_actor(killing(1)).await.expect("killed");
        client
            .register_actor(registering(spec(2, "a")))
            .await
            .expect("the name is free again");
        served.stop();
    });
}

#[test]
fn a_name_is_taken_before_the_arguments_have_come() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        let mut node = served.node().await;
        let without_arguments = v1::ActorSpec {
            args: None,
            ..spec(1, "a")
        };
        client
            .register_actor(registering(without_arguments.clone()))
            .await
            .expect("registered");
        let error = client
            .register_actor(registering(spec(2, "a")))
            .await
            .expect_err("taken");
        assert_eq!(error.code(), Code::AlreadyExists);
        client
            .register_actor(registering(without_arguments))
            .await
            .expect("once more after a lost answer");
        client
            .register_actor(registering(spec(1, "a")))
            .await
            .expect("the arguments");
        client
            .register_actor(registering(spec(1, "a")))
            .await
            .expect("once more after a lost answer");
        let start = node.next_start().await;
        assert_eq!(start.spec.expect("whole").args.expect("whole").data[..], [7; 10]);
        node.assigned(actor(1), 0, 9).await;
        served.stop();
    });
}

#[test]
fn the_name_of_an_actor_that_is_ending_is_found_but_not_taken() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        let mut node = served.node().await;
        client
            .register_actor(registering(spec(1, "a")))
            .await
            .expect("registered");
        node.next_start().await;
        node.assigned(actor(1), 0, 9).await;
        let request = v1::ActorOutOfScopeRequest {
            actor_id: actor(1).0.to_vec(),
        };
        client.actor_out_of_scope(request).await.expect("told");
        assert!(matches!(node.next().await, node_command::Body::StopActor(_)));
        let holder = async || {
            let found = client.clone().get_actor(by_name("a")).await.expect("asked");
            let actor = found.into_inner().actor;
            actor.and_then(|actor| actor.spec).map(|spec| spec.actor_id)
        };
        assert_eq!(holder().await, Some(actor(1).0.to_vec()));
        let request = v1::RegisterActorRequest {
            get_if_exists: true,
            ..registering(spec(2, "a"))
        };
        let reply = client.clone().register_actor(request).await.expect("registered");
        assert!(reply.into_inner().existing.is_none());
        node.next_start().await;
        node.worker_died(9, Vec::new()).await;
        assert_eq!(node.next_update().await, (4, 4));
        assert_eq!(holder().await, Some(actor(2).0.to_vec()));
        served.stop();
    });
}

#[test]
fn a_registration_is_waited_for() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        let mut node = served.node().await;
        let asking = |number: u8, patience_ms| v1::GetActorRequest {
            actor_id: actor(number).0.to_vec(),
            patience_ms,
            ..v1::GetActorRequest::default()
        };
        let mut followers = [client.clone(), client.clone(), client.clone()];
        let [follower, killer, impatient] = &mut followers;
        let (found, killed, gave_up, ()) = tokio::join!(
            follower.get_actor(asking(1, u32::MAX)),
            killer.kill_actor(killing(2)),
            impatient.get_actor(asking(3, 1)),
            async {
                // The questions are there first.
                while served.state.lock().expect("whole").awaited_actors() < 2 {
                    tokio::task::yield_now().await;
                }
                for number in [1, 2] {
                    client
                        .register_actor(registering(spec(number, "")))
                        .await
                        .expect("registered");
                    node.next_start().await;
                }
            }
        );
        assert!(found.expect("asked").into_inner().actor.is_some());
        assert!(gave_up.expect("asked").into_inner().actor.is_none());
        killed.expect("killed");
        let dead = client.get_actor(asking(2, 0)).await.expect("asked").into_inner().actor;
        assert_eq!(dead.expect("known").status.expect("known").state, 4);
        served.stop();
    });
}

#[test]
fn a_dead_driver_ends_its_job_and_all_but_detached_actors() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        let mut node = served.node().await;
        let job = start_job(&mut client).await;
        client
            .register_actor(registering(spec(1, "")))
            .await
            .expect("registered");
        node.next_start().await;
        let detached = v1::ActorSpec {
            detached: true,
            ..spec(2, "stays")
        };
        client.register_actor(registering(detached)).await.expect("registered");
        node.next_start().await;
        node.assigned(actor(1), 0, 9).await;
        node.worker_died(DRIVER, job.clone()).await;
        match node.next().await {
            node_command::Body::StopActor(stop) => assert_eq!(stop.actor_id, actor(1).0),
            other => panic!("expected a stop, got {other:?}"),
        }
        assert_eq!(node.next_update().await, (4, 6));
        assert_eq!(
            node.next().await,
            node_command::Body::JobFinished(v1::JobFinished { job_id: job })
        );
        let jobs = client.list_jobs(Empty {}).await.expect("asked").into_inner().jobs;
        assert!(jobs[0].finished && jobs[0].end_ms >= jobs[0].start_ms);
        assert!(
            client
                .get_actor(by_name("stays"))
                .await
                .expect("asked")
                .into_inner()
                .actor
                .is_some()
        );
        let error = client
            .register_actor(registering(spec(3, "")))
            .await
            .expect_err("too late");
        assert_eq!(error.code(), Code::FailedPrecondition);
        served.stop();
    });
}

#[test]
fn a_worker_that_dies_is_replaced_as_often_as_allowed() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        let mut node = served.node().await;
        let restartable = v1::ActorSpec {
            max_restarts: 1,
            ..spec(1, "")
        };
        client
            .register_actor(registering(restartable))
            .await
            .expect("registered");
        assert_eq!(node.next_start().await.incarnation, 0);
        node.assigned(actor(1), 0, 9).await;
        node.worker_died(9, Vec::new()).await;
        assert_eq!(node.next_update().await, (3, 0));
        let again = node.next_start().await;
        assert_eq!(
            (again.incarnation, again.spec.expect("whole").args.is_some()),
            (1, true)
        );
        node.assigned(actor(1), 1, 10).await;
        node.worker_died(10, Vec::new()).await;
        assert_eq!(node.next_update().await, (4, 1));
        served.stop();
    });
}

#[test]
fn a_node_that_connects_again_is_told_how_things_stand() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        client
            .register_actor(registering(spec(1, "")))
            .await
            .expect("registered");
        let mut node = served.node().await;
        assert_eq!(node.next_update().await, (0, 0));
        assert_eq!(node.next_start().await.actor_id, actor(1).0, "it waited for a node");
        drop(node);
        let mut node = served.node().await;
        assert_eq!(node.next_update().await, (0, 0));
        assert_eq!(
            node.next_start().await.actor_id,
            actor(1).0,
            "the order may have been lost"
        );
        node.assigned(actor(1), 0, 9).await;
        let nodes = client.list_nodes(Empty {}).await.expect("asked").into_inner().nodes;
        assert_eq!((nodes.len(), nodes[0].node_index, nodes[0].alive), (1, 1, true));
        served.stop();
    });
}

async fn fill(client: &mut GcsClient<Channel>) {
    start_job(client).await;
    client
        .register_actor(registering(spec(1, "a")))
        .await
        .expect("registered");
    for (namespace, key) in [("fun", "hash"), ("usr", "k1"), ("usr", "k2"), ("session", "k1")] {
        let request = v1::KvPutRequest {
            namespace: namespace.to_owned(),
            key: key.as_bytes().to_vec(),
            value: format!("{namespace}/{key}").into_bytes(),
            overwrite: false,
        };
        assert!(!client.kv_put(request).await.expect("put").into_inner().existed);
    }
}

async fn check_filled(client: &mut GcsClient<Channel>) {
    let found = client
        .get_actor(by_name("a"))
        .await
        .expect("asked")
        .into_inner()
        .actor
        .expect("there");
    assert_eq!(found.status.expect("known").state, 0);
    assert_eq!(
        client.list_jobs(Empty {}).await.expect("asked").into_inner().jobs.len(),
        1
    );
    let get = v1::KvGetRequest {
        namespace: "fun".to_owned(),
        key: b"hash".to_vec(),
    };
    assert_eq!(client.kv_get(get).await.expect("asked").into_inner().value, b"fun/hash");
    let keys = v1::KvKeysRequest {
        namespace: "usr".to_owned(),
        prefix: b"k".to_vec(),
    };
    assert_eq!(
        client.kv_keys(keys).await.expect("asked").into_inner().keys,
        [b"k1", b"k2"]
    );
}

#[test]
fn what_was_acknowledged_survives_a_crash_of_memory() {
    run(async {
        let storage = MemoryStorage::default();
        let served = Served::start(storage.clone());
        fill(&mut served.client().await).await;
        storage.crash();
        let again = Served::start(storage);
        check_filled(&mut again.client().await).await;
        assert_eq!(again.node().await.next_update().await, (0, 0));
        again.stop();
        served.stop();
    });
}

#[test]
fn what_was_acknowledged_survives_a_restart_on_sled() {
    let dir = tempfile::tempdir().expect("a directory");
    for life in 0..2 {
        run(async {
            let served = Served::start(SledStorage::open(dir.path()).expect("opened"));
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
fn keys_and_values_are_put_kept_and_deleted() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let mut client = served.client().await;
        fill(&mut client).await;
        let put = |overwrite| v1::KvPutRequest {
            namespace: "usr".to_owned(),
            key: b"k1".to_vec(),
            value: b"new".to_vec(),
            overwrite,
        };
        let get = v1::KvGetRequest {
            namespace: "usr".to_owned(),
            key: b"k1".to_vec(),
        };
        assert!(client.kv_put(put(false)).await.expect("put").into_inner().existed);
        assert_eq!(
            client.kv_get(get.clone()).await.expect("asked").into_inner().value,
            b"usr/k1"
        );
        assert!(client.kv_put(put(true)).await.expect("put").into_inner().existed);
        assert_eq!(
            client.kv_get(get.clone()).await.expect("asked").into_inner().value,
            b"new"
        );
        let del = v1::KvDelRequest {
            namespace: "usr".to_owned(),
            key: b"k".to_vec(),
            by_prefix: true,
        };
        assert_eq!(client.kv_del(del).await.expect("deleted").into_inner().deleted, 2);
        assert!(!client.kv_get(get).await.expect("asked").into_inner().found);
        served.stop();
    });
}

#[test]
fn encoded_prost_calls_pass_through_unread() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let raw = RawClient::gcs(served.channel().await);
        let request = registering(spec(1, "a")).encode_to_vec();
        let reply = raw
            .call("RegisterActor", Bytes::from(request))
            .await
            .expect("registered");
        assert_eq!(
            v1::RegisterActorReply::decode(reply).expect("whole"),
            v1::RegisterActorReply::default()
        );
        let error = raw
            .call("RegisterActor", Bytes::from_static(&[255]))
            .await
            .expect_err("no message");
        assert_eq!(error.code(), Code::Internal);
        assert_eq!(
            raw.call("NoSuch", Bytes::new()).await.expect_err("unknown").code(),
            Code::Unimplemented
        );
        served.stop();
    });
}

#[test]
fn the_end_of_the_driver_ends_the_session_and_its_directory() {
    run(async {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("session_1_1");
        std::fs::create_dir_all(dir.join("logs")).expect("made");
        let token = Token::create(&dir.join("token")).expect("created");
        let socket = std::os::unix::net::UnixListener::bind(dir.join("gcs.sock")).expect("bound");
        let mut driver = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("started");
        let config = GcsConfig::new(dir.clone(), socket.into(), Some(driver.id()));
        let (outcome, ()) = tokio::join!(crate::run(config), async {
            // It can be reached on both sockets; the address file comes before the server does.
            let over_unix = channel(Address::Unix(dir.join("gcs.sock")), token.clone())
                .await
                .expect("connected");
            GcsClient::new(over_unix).list_nodes(Empty {}).await.expect("asked");
            let address = std::fs::read_to_string(dir.join("gcs_address")).expect("written");
            let tcp = Address::Tcp(address.parse().expect("an address"));
            let mut client = GcsClient::new(channel(tcp, token.clone()).await.expect("connected"));
            fill(&mut client).await;
            assert!(has_files(&dir.join("gcs")), "sled keeps its files in the session");
            driver.kill().expect("killed");
        });
        driver.wait().expect("reaped");
        outcome.expect("a clean end");
        assert!(!dir.exists());
    });
}

fn has_files(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut inside| inside.next().is_some())
}
