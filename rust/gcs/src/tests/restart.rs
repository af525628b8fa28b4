//! A control store that is started again: what it knows at once, and what it concludes from what nodes say.

use super::*;
use crate::run::open_journaled;

const OTHER: NodeId = NodeId([5; 28]);

fn node_info(node: NodeId) -> v1::NodeInfo {
    v1::NodeInfo {
        node_id: node.0.to_vec(),
        ..v1::NodeInfo::default()
    }
}

/// Has the node say it, on its present connection.
fn say(served: &Served, node: NodeId, body: node_report::Body) {
    let report = v1::NodeReport { body: Some(body) };
    let mut state = served.state.lock().expect("whole");
    state.node_report(node, report, 0).expect("taken");
}

fn come(served: &Served, node: NodeId) -> mpsc::Receiver<Result<v1::NodeCommand, tonic::Status>> {
    let mut state = served.state.lock().expect("whole");
    state.register_node(node_info(node), None).expect("taken").commands
}

fn processes(numbers: &[u8]) -> node_report::Body {
    node_report::Body::Processes(v1::NodeProcesses {
        worker_ids: numbers.iter().map(|number| vec![*number; 28]).collect(),
    })
}

fn assigned(number: u8, worker: u8) -> node_report::Body {
    node_report::Body::ActorAssigned(v1::ActorAssigned {
        actor_id: actor(number).0.to_vec(),
        incarnation: 0,
        worker: Some(wire(worker)),
    })
}

async fn state_of(client: &mut GcsClient<Channel>, number: u8) -> u32 {
    let request = v1::GetActorRequest {
        actor_id: actor(number).0.to_vec(),
        ..v1::GetActorRequest::default()
    };
    let found = client.get_actor(request).await.expect("asked").into_inner();
    found.actor.and_then(|actor| actor.status).expect("known").state
}

const DEAD: u32 = 4;
const PLACED: u32 = 1;

#[test]
fn what_a_node_does_not_have_any_more_has_died() {
    run(async {
        let storage = MemoryStorage::default();
        let served = Served::start(storage.clone());
        let _commands = come(&served, NODE);
        let mut client = served.client().await;
        let job = start_job(&mut client).await;
        for number in [1, 2] {
            client
                .register_actor(registering(spec(number, "")))
                .await
                .expect("registered");
            say(&served, NODE, assigned(number, 10 + number));
        }
        // The driver came with this connection: what the node says of its processes may be older.
        say(&served, NODE, processes(&[11, 12]));
        let jobs = |client: &mut GcsClient<Channel>| {
            let mut client = client.clone();
            async move { client.list_jobs(Empty {}).await.expect("asked").into_inner().jobs }
        };
        assert!(!jobs(&mut client).await[0].finished);
        served.stop();

        let served = Served::start(storage);
        let mut client = served.client().await;
        let _commands = come(&served, NODE);
        say(&served, NODE, assigned(1, 11));
        say(&served, NODE, processes(&[11, DRIVER]));
        assert_eq!(state_of(&mut client, 1).await, PLACED);
        assert_eq!(state_of(&mut client, 2).await, DEAD);
        assert!(!jobs(&mut client).await[0].finished);
        // The next time the driver is not among them.
        let _commands = come(&served, NODE);
        say(&served, NODE, processes(&[11]));
        let known = jobs(&mut client).await;
        assert_eq!((&known[0].job_id, known[0].finished), (&job, true));
        assert_eq!(state_of(&mut client, 1).await, DEAD, "with its job");
        served.stop();
    });
}

/// The node that was told first may have a worker for it by now, of which nobody could be told.
#[test]
fn no_other_node_is_told_to_start_what_one_was_told_to_start() {
    run(async {
        let storage = MemoryStorage::default();
        let served = Served::start(storage.clone());
        let mut commands = come(&served, NODE);
        let mut client = served.client().await;
        start_job(&mut client).await;
        client
            .register_actor(registering(spec(1, "")))
            .await
            .expect("registered");
        assert_eq!(starts(&mut commands).await, 1);
        served.stop();

        let served = Served::start(storage);
        let mut client = served.client().await;
        // It comes first, and has room.
        let mut others = come(&served, OTHER);
        let mut commands = come(&served, NODE);
        assert_eq!(
            starts(&mut commands).await,
            1,
            "once more: the order may have been lost"
        );
        say(&served, NODE, assigned(1, 9));
        assert_eq!(state_of(&mut client, 1).await, PLACED);
        assert_eq!(told_so_far(&mut others), 0);
        served.stop();
    });
}

fn is_start(command: &v1::NodeCommand) -> bool {
    matches!(command.body, Some(v1::node_command::Body::StartActor(_)))
}

/// Waits for an order to start an actor.
async fn starts(commands: &mut mpsc::Receiver<Result<v1::NodeCommand, tonic::Status>>) -> usize {
    let waiting = async {
        while let Some(command) = commands.recv().await {
            if is_start(&command.expect("a command")) {
                return 1;
            }
        }
        0
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .expect("an order")
}

fn told_so_far(commands: &mut mpsc::Receiver<Result<v1::NodeCommand, tonic::Status>>) -> usize {
    let told = std::iter::from_fn(|| commands.try_recv().ok());
    told.filter(|command| command.as_ref().is_ok_and(is_start)).count()
}

#[test]
fn a_node_that_does_not_come_back_is_dead() {
    run(async {
        let storage = MemoryStorage::default();
        let served = Served::start(storage.clone());
        let _commands = (come(&served, NODE), come(&served, OTHER));
        let mut client = served.client().await;
        start_job(&mut client).await;
        client
            .register_actor(registering(spec(1, "")))
            .await
            .expect("registered");
        say(&served, NODE, assigned(1, 9));
        served.stop();

        let served = Served::start(storage);
        let mut client = served.client().await;
        let mut commands = come(&served, OTHER);
        {
            let mut state = served.state.lock().expect("whole");
            assert_eq!(state.awaited_nodes(), [NODE]);
            state.node_stayed_away(OTHER, 0);
            state.node_stayed_away(NODE, 0);
            assert_eq!(state.awaited_nodes(), []);
        }
        assert_eq!(state_of(&mut client, 1).await, DEAD);
        let mut told = false;
        while let Ok(Ok(command)) = commands.try_recv() {
            told |= matches!(command.body, Some(node_command::Body::NodeChanged(info)) if info.node_id == NODE.0 && !info.alive);
        }
        assert!(told, "the others hear of it");
        let mut state = served.state.lock().expect("whole");
        assert!(state.register_node(node_info(NODE), None).is_err(), "it stays dead");
        drop(state);
        served.stop();
    });
}

/// Only that node will do.
fn nowhere_else(node: NodeId) -> v1::SchedulingStrategy {
    v1::SchedulingStrategy {
        kind: 2,
        node_id: node.0.to_vec(),
        ..v1::SchedulingStrategy::default()
    }
}

const UNSCHEDULABLE: &str = "can't run it";

/// Why the control store holds that a task for `node` can't run, or what it waits for.
fn picked(served: &Served, node: NodeId) -> (String, String) {
    let request = v1::PickNodeRequest {
        from_node: OTHER.0.to_vec(),
        strategy: Some(nowhere_else(node)),
        ..v1::PickNodeRequest::default()
    };
    let mut state = served.state.lock().expect("whole");
    let reply = state.pick_node(&request, std::time::Duration::ZERO);
    (reply.never, reply.waits_for)
}

#[test]
fn what_names_a_node_that_may_still_come_back_waits_for_it() {
    run(async {
        let storage = MemoryStorage::default();
        let served = Served::start(storage.clone());
        let _commands = (come(&served, NODE), come(&served, OTHER));
        let mut client = served.client().await;
        start_job(&mut client).await;
        served.stop();

        for comes in [true, false] {
            let served = Served::start(storage.clone());
            let mut client = served.client().await;
            let _other = come(&served, OTHER);
            let number = 1 + u8::from(comes);
            let wanted = v1::ActorSpec {
                strategy: Some(nowhere_else(NODE)),
                ..spec(number, "")
            };
            client.register_actor(registering(wanted)).await.expect("registered");
            assert_ne!(state_of(&mut client, number).await, DEAD, "the node has not come yet");
            let (never, waits_for) = picked(&served, NODE);
            assert!(never.is_empty() && !waits_for.is_empty(), "{never}, {waits_for}");
            if comes {
                let _commands = come(&served, NODE);
                say(&served, NODE, assigned(number, 9));
                assert_eq!(state_of(&mut client, number).await, PLACED);
            } else {
                served.state.lock().expect("whole").node_stayed_away(NODE, 0);
                assert_eq!(state_of(&mut client, number).await, DEAD, "now it is known");
                assert!(picked(&served, NODE).0.contains(UNSCHEDULABLE));
            }
            served.stop();
        }
    });
}

#[test]
fn what_names_a_node_whose_connection_has_just_ended_waits_for_it() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let _commands = come(&served, OTHER);
        let registration = served.state.lock().expect("whole").register_node(node_info(NODE), None);
        let connection = registration.expect("taken").connection;
        let mut client = served.client().await;
        start_job(&mut client).await;
        assert!(served.state.lock().expect("whole").node_disconnected(NODE, connection));
        let wanted = v1::ActorSpec {
            strategy: Some(nowhere_else(NODE)),
            ..spec(1, "")
        };
        client.register_actor(registering(wanted)).await.expect("registered");
        assert_ne!(state_of(&mut client, 1).await, DEAD);
        {
            let mut state = served.state.lock().expect("whole");
            state.node_died(NODE, connection, "it stayed away", 0);
        }
        assert_eq!(state_of(&mut client, 1).await, DEAD);
        served.stop();
    });
}

#[test]
fn who_follows_a_process_hears_of_its_end_once() {
    run(async {
        let served = Served::start(MemoryStorage::default());
        let _commands = come(&served, NODE);
        let mut other = come(&served, OTHER);
        let follow = |worker: u8| {
            node_report::Body::FollowWorker(v1::WorkerOfNode {
                worker_id: vec![worker; 28],
                node_id: NODE.0.to_vec(),
            })
        };
        let died = |worker: u8| {
            node_report::Body::WorkerDied(v1::NodeWorkerDied {
                worker_id: vec![worker; 28],
                ..v1::NodeWorkerDied::default()
            })
        };
        // What is told leaves when what it follows from is on disk.
        let mut told = async |wanted: usize| {
            let mut told = Vec::new();
            let patience = std::time::Duration::from_secs(if wanted > 0 { 10 } else { 0 });
            let until = tokio::time::Instant::now() + patience.max(std::time::Duration::from_millis(50));
            while let Ok(Some(Ok(command))) = tokio::time::timeout_at(until, other.recv()).await {
                if let Some(node_command::Body::WorkerGone(gone)) = command.body {
                    told.push(gone.worker_id[0]);
                }
                if wanted > 0 && told.len() == wanted {
                    break;
                }
            }
            told
        };
        for worker in [1, 2, 3, 1] {
            say(&served, OTHER, follow(worker));
        }
        say(&served, NODE, died(1));
        say(&served, NODE, died(1));
        assert_eq!(told(1).await, [1]);
        say(&served, OTHER, follow(1));
        assert_eq!(told(1).await, [1], "it has ended already");
        // Older than the follower's word, perhaps; and on the next connection it is not.
        say(&served, NODE, processes(&[2]));
        assert_eq!(told(0).await, [0_u8; 0]);
        let _commands = come(&served, NODE);
        say(&served, NODE, processes(&[2]));
        assert_eq!(told(1).await, [3]);
        assert_eq!(told(0).await, [0_u8; 0]);
        served.stop();
    });
}

#[test]
fn ten_thousand_actors_are_known_again() {
    const ACTORS: u32 = 10_000;
    let (dir, killed) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let numbered = |number: u32| {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        ActorId::new(bytes, JobId::from_int(1))
    };
    run(async {
        let served = Served::start(open_journaled(dir.path()).expect("opened"));
        let mut client = served.client().await;
        start_job(&mut client).await;
        let mut last = None;
        for number in 0..ACTORS {
            let spec = v1::ActorSpec {
                actor_id: numbered(number).0.to_vec(),
                ..spec(0, &format!("actor {number}"))
            };
            let mut state = served.state.lock().expect("whole");
            last = Some(state.register_actor(registering(spec)).expect("registered").1);
        }
        last.expect("some").await.expect("answered").expect("durable");
        // As a process that is killed leaves it: this one has it open, and has written nothing at an end.
        copy_all(dir.path(), killed.path());
        served.stop();
    });
    run(async {
        let began = std::time::Instant::now();
        let served = Served::start(open_journaled(killed.path()).expect("opened"));
        println!("{ACTORS} actors are read in {:?}", began.elapsed());
        let mut client = served.client().await;
        let listed = client.list_actors(Empty {}).await.expect("asked").into_inner().actors;
        assert_eq!(listed.len(), ACTORS as usize);
        for number in [0, 1, 4711, ACTORS - 1] {
            let request = by_name(&format!("actor {number}"));
            let found = client.get_actor(request).await.expect("asked").into_inner();
            let id = found.actor.and_then(|actor| actor.spec).expect("known").actor_id;
            assert_eq!(id, numbered(number).0);
        }
        served.stop();
    });
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            std::fs::create_dir(&target).expect("made");
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("copied");
        }
    }
}
