//! Messages that are well formed and mean nothing: the tables take or refuse them, and go on. A panic would be the end of
//! the control store.

use proptest::prelude::*;

use super::*;

/// What nodes and clients say in the life of an actor and of a placement group, in an order that makes sense.
fn words() -> Vec<Vec<u8>> {
    let resources = v1::ResourceSet::from(&ResourceSet::new().with("CPU", 1.0));
    let group = vec![3; 18];
    let answer = v1::BundlesAnswer {
        group_id: group.clone(),
        attempt: 1,
        has_room: true,
    };
    let asked = v1::GroupRequest {
        group_id: group.clone(),
    };
    let bodies = [
        node_report::Body::Heartbeat(v1::NodeHeartbeat {
            number: 1,
            first: true,
            total: Some(resources.clone()),
            available: Some(resources.clone()),
            used_outside_bundles: Some(resources.clone()),
            waiting: vec![v1::ShapeCount {
                resources: Some(resources.clone()),
                count: 3,
                ..v1::ShapeCount::default()
            }],
            held: vec![v1::HeldBundles {
                group_id: group.clone(),
                indices: vec![0, 1, 7],
            }],
            ..v1::NodeHeartbeat::default()
        }),
        node_report::Body::CreateGroup(v1::PlacementGroupSpec {
            group_id: group,
            bundles: vec![resources.clone(), resources],
            job_id: JobId::from_int(1).0.to_vec(),
            ..v1::PlacementGroupSpec::default()
        }),
        node_report::Body::BundlesPrepared(answer),
        node_report::Body::ActorAssigned(v1::ActorAssigned {
            actor_id: actor(1).0.to_vec(),
            worker: Some(wire(9)),
            ..v1::ActorAssigned::default()
        }),
        node_report::Body::ActorStartFailed(v1::ActorStartFailed {
            actor_id: actor(1).0.to_vec(),
            message: "no".to_owned(),
            ..v1::ActorStartFailed::default()
        }),
        node_report::Body::WorkerDied(v1::NodeWorkerDied {
            worker_id: vec![9; 28],
            ..v1::NodeWorkerDied::default()
        }),
        node_report::Body::FollowGroup(asked.clone()),
        node_report::Body::RemoveGroup(asked),
        node_report::Body::AsksWhetherHeard(5),
    ];
    bodies
        .map(|body| v1::NodeReport { body: Some(body) }.encode_to_vec())
        .to_vec()
}

/// One byte is another, missing, or there twice.
fn damage(bytes: &mut Vec<u8>, place: prop::sample::Index, byte: u8, how: u8) {
    let place = place.index(bytes.len());
    match how % 3 {
        0 => bytes[place] = byte,
        1 => drop(bytes.remove(place)),
        _ => bytes.insert(place, byte),
    }
}

/// Says the same words to all that take some, whatever kind they were meant as.
fn say(state: &mut State, bytes: &[u8]) {
    if let Ok(report) = v1::NodeReport::decode(bytes) {
        let _ = state.node_report(NODE, report, 0);
    }
    if let Ok(info) = v1::NodeInfo::decode(bytes) {
        let _ = state.register_node(info, None);
    }
    if let Ok(request) = v1::RegisterActorRequest::decode(bytes) {
        drop(state.register_actor(request));
    }
    if let Ok(request) = v1::RegisterJobRequest::decode(bytes) {
        drop(state.register_job(request, 0));
    }
    if let Ok(request) = v1::ReportActorStartedRequest::decode(bytes) {
        drop(state.actor_started(request));
    }
    if let Ok(request) = v1::KillActorRequest::decode(bytes) {
        drop(state.kill_actor(&request));
    }
    if let Ok(request) = v1::PickNodeRequest::decode(bytes) {
        let _ = state.pick_node(&request, Duration::ZERO);
    }
    if let Ok(request) = v1::RequestResourcesRequest::decode(bytes) {
        drop(state.request_resources(&request));
    }
    if let Ok(request) = v1::KvPutRequest::decode(bytes) {
        drop(state.kv_put(request));
    }
    if let Ok(request) = v1::LeaveClusterRequest::decode(bytes) {
        let _ = state.node_left(&request, 0);
    }
    if let Ok(events) = v1::TaskEvents::decode(bytes) {
        let _ = state.add_task_events(events);
    }
    if let Ok(request) = v1::ListTasksRequest::decode(bytes) {
        let _ = state.list_tasks(&request);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_means_nothing_harms_nothing(
        damages in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 0..40),
        noise in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..10),
    ) {
        let (mut state, _flushed) = State::open(Box::new(MemoryStorage::default())).expect("opened");
        let resources = v1::ResourceSet::from(&ResourceSet::new().with("CPU", 4.0));
        let info = v1::NodeInfo {
            node_id: NODE.0.to_vec(),
            total: Some(resources.clone()),
            available: Some(resources),
            raylet_address: "10.0.0.1:5".to_owned(),
            ..v1::NodeInfo::default()
        };
        drop(state.register_node(info.clone(), None).expect("taken"));
        drop(state.register_actor(registering(spec(1, "a"))).expect("taken"));
        let mut words = words();
        for word in words.clone() {
            say(&mut state, &word);
        }
        words.push(info.encode_to_vec());
        words.push(registering(spec(2, "b")).encode_to_vec());
        for (which, place, byte, how) in damages {
            let which = which.index(words.len());
            let word = &mut words[which];
            if !word.is_empty() {
                damage(word, place, byte, how);
            }
            say(&mut state, word);
        }
        for bytes in noise {
            say(&mut state, &bytes);
        }
        // It still answers.
        let _ = (state.list_nodes(), state.list_actors(), state.list_placement_groups(), state.list_jobs());
        drop(state.register_actor(registering(spec(3, "a fresh name"))));
        let listed = state.list_actors().actors;
        let is_fresh = |spec: &v1::ActorSpec| spec.actor_id == actor(3).0;
        let is_there = listed.iter().any(|info| info.spec.as_ref().is_some_and(is_fresh));
        prop_assert!(is_there);
    }
}
