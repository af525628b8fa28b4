//! One process's tables, without its threads; the other ends of its lanes are played here.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ray_rs_dispatch::LeaseKey;
use ray_rs_lanes::{CLAIM_WORDS, Doorbell, IncomingClaims, Lane};
use ray_rs_object_store::{ArenaClient, ArenaHost};
use ray_rs_ownership::TaskKey;
use ray_rs_types::{ActorId, FunctionId, JobId, NodeId, ResourceSet, WorkerAddress, WorkerId};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use smallvec::SmallVec;

use crate::model::{FunctionIndex, FunctionSpec, MethodSpec, StoredValue, TaskArgs};
use crate::peers::PeerIndex;
use crate::state::State;
use crate::submit::{Lease, Work, split};

const LEASE: LeaseKey = LeaseKey(1);

fn address(number: u8) -> WorkerAddress {
    WorkerAddress {
        node_id: NodeId([1; 28]),
        worker_id: WorkerId([number; 28]),
        pid: u32::from(number),
    }
}

fn state() -> State {
    let (mut host, fd) = ArenaHost::create(1 << 20).expect("an arena");
    let arena = ArenaClient::attach(fd, host.allocate_client(), 1).expect("mapped");
    State::new(
        address(1),
        JobId([0, 0, 0, 1]),
        "session_of_a_test".to_owned(),
        PathBuf::from("/nonexistent"),
        1,
        2,
        Arc::new(arena),
        Arc::new(Doorbell::create().expect("a bell")),
    )
}

/// A worker under [`LEASE`]; what is returned are its claims on what is sent to it.
fn leased_worker(state: &mut State) -> (PeerIndex, IncomingClaims, OwnedFd) {
    let (lane, fd) = Lane::create().expect("a lane");
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("sockets");
    let who = state.owner_index(&address(2));
    let index = state.peers.add(who, lane, None, Arc::new(ours));
    state.leases.insert(LEASE, Lease { lane: index });
    let (_, _, _, claims) = Lane::attach(fd).expect("mapped").split();
    (index, claims, theirs)
}

fn function(name: &str) -> FunctionSpec {
    FunctionSpec {
        id: FunctionId([7; 28]),
        name: name.into(),
        resources: ResourceSet::default(),
        runtime_env: "".into(),
        strategy: None,
        captures_children: false,
        max_retries: 0,
        retry_exceptions: Vec::new(),
        max_calls: 0,
        time_limit: None,
        backpressure: 0,
        unlisted: false,
        definition: Bytes::new(),
    }
}

fn no_args() -> TaskArgs {
    TaskArgs {
        values: StoredValue::none(),
        layout: Vec::new(),
        kwarg_names: Vec::new(),
        deps: SmallVec::new(),
        parent: 0,
    }
}

fn task(state: &mut State, function: FunctionIndex) -> TaskKey {
    let id = state.fresh_task_id(ActorId::nil_of(state.job));
    let (spec, deps, held) = split(Work::Normal(function), id.unique(), no_args(), None);
    let mut effects = Vec::new();
    let (key, _) = state.owner.task_submitted(id, 1, spec, deps, held, 0, &mut effects);
    key
}

#[test]
fn an_entry_keeps_its_claim_word_however_many_come_and_go_behind_it() {
    let mut state = state();
    let (lane, claims, _socket) = leased_worker(&mut state);
    let function = state.register_function(function("f"));
    let first = task(&mut state, function);
    state.push_task(LEASE, first);
    let sent = |state: &State| state.peers.get(lane).expect("there").next_seq - 1;
    assert_eq!(sent(&state), 1);
    for _ in 1..CLAIM_WORDS {
        let other = task(&mut state, function);
        state.push_task(LEASE, other);
        assert!(state.withdraw(other), "the worker sleeps");
    }
    // The next one would have the word of the first.
    let next = task(&mut state, function);
    state.push_task(LEASE, next);
    assert_eq!(sent(&state), CLAIM_WORDS as u64, "it was not sent");
    assert!(claims.claim(1), "the first one can still be run");
    state.take_in_flight(lane, 1);
    state.push_task(LEASE, next);
    assert_eq!(sent(&state), CLAIM_WORDS as u64 + 1);
    assert!(claims.claim(CLAIM_WORDS as u64 + 1));
}

fn method(name: &str) -> MethodSpec {
    MethodSpec {
        class_name: "Class".into(),
        name: name.into(),
        method: "method".into(),
        max_task_retries: 0,
        retry_exceptions: Vec::new(),
        time_limit: None,
        backpressure: 0,
        group: "".into(),
        unlisted: false,
        is_durable: false,
    }
}

#[test]
fn methods_that_nobody_needs_leave_room_for_others() {
    let mut state = state();
    let (lane, _claims, _socket) = leased_worker(&mut state);
    let function = state.register_function(function("function"));
    let _ = (state.peers.get_mut(lane).expect("it lives")).definition_of(function.on_lanes());
    let kept = state.register_method(method("kept"));
    let needed = state.register_method(method("needed"));
    state.methods.unuse(needed.0);
    let actor = state.actor_index(ActorId::nil_of(state.job), None);
    let call = state.actor_call(actor, None, needed, no_args(), 1);
    assert!(call.is_ok(), "it waits for its actor");
    let mut highest = 0;
    for number in 0..5000 {
        let index = state.register_method(method(&number.to_string()));
        let peer = state.peers.get_mut(lane).expect("it lives");
        let on_lane = (peer.definition_of(index.on_lanes())).expect_err("a method that the lane does not know");
        assert_ne!(on_lane, 0, "the function's");
        highest = highest.max(on_lane);
        state.methods.unuse(index.0);
    }
    assert!(state.methods.len() <= 512, "{}", state.methods.len());
    assert!(highest <= 512, "a lane's numbers are used again: {highest}");
    assert_eq!(&*state.method(kept).name, "kept");
    assert_eq!(&*state.method(needed).name, "needed", "a call needs it");
    let peer = state.peers.get_mut(lane).expect("it lives");
    assert_eq!(peer.definition_of(function.on_lanes()), Ok(0));
}

#[test]
fn functions_that_nobody_needs_leave_room_for_others() {
    let mut state = state();
    let (lane, _claims, _socket) = leased_worker(&mut state);
    let (kept, needed) = (function("kept"), function("needed"));
    let kept = state.register_function(kept);
    let needed = state.register_function(needed);
    state.functions.unuse(needed.0);
    let sent = task(&mut state, needed);
    state.push_task(LEASE, sent);
    for number in 0..5000 {
        let mut other = function(&number.to_string());
        // A class of its own, as a placement group makes it.
        other.resources = ResourceSet::new().with(format!("CPU_group_{number}"), 1.0);
        let index = state.register_function(other);
        let peer = state.peers.get_mut(lane).expect("it lives");
        let _ = peer.definition_of(index.0);
        state.functions.unuse(index.0);
    }
    assert!(state.functions.len() <= 512, "{}", state.functions.len());
    assert!(state.classes.len() <= 512, "{}", state.classes.len());
    let numbers = (0..10_000).map(|index| {
        state
            .peers
            .get_mut(lane)
            .expect("it lives")
            .definition_of(1 << 30 | index)
    });
    let highest = numbers
        .map(|number| number.unwrap_or_else(|new| new))
        .min()
        .expect("some");
    assert!(highest <= 512, "a lane's numbers are used again: {highest}");
    assert_eq!(&*state.function(kept).name, "kept");
    assert_eq!(&*state.function(needed).name, "needed", "a task needs it");
}
