//! Step by step: what is told and answered while the disk takes nothing, and before a node has named a worker.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::stepped::{Request, SimulatedClock, SteppedGcs, StorageError, Write};

/// Memory that takes nothing as long as the flag is set.
#[derive(Clone, Default)]
struct Disk(MemoryStorage, Arc<AtomicBool>);

impl Storage for Disk {
    fn apply(&self, batch: &[Write]) -> Result<(), StorageError> {
        match self.1.load(Ordering::Relaxed) {
            true => Err(StorageError::Ended),
            false => self.0.apply(batch),
        }
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.0.flush()
    }

    fn scan(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        self.0.scan(table, visit)
    }
}

struct World {
    disk: Disk,
    gcs: SteppedGcs,
    calls: u64,
}

impl World {
    fn new() -> Self {
        let disk = Disk::default();
        let gcs = SteppedGcs::open(disk.clone(), SimulatedClock::default()).expect("opened");
        Self { disk, gcs, calls: 0 }
    }

    fn disk_fails(&self, fails: bool) {
        self.disk.1.store(fails, Ordering::Relaxed);
    }

    fn node_comes(&mut self) {
        let total = ResourceSet::new().with("CPU", 4.0);
        let info = v1::NodeInfo {
            node_id: vec![1; 28],
            total: Some((&total).into()),
            ..v1::NodeInfo::default()
        };
        self.gcs.register_node(info, None).expect("let in");
    }

    fn call(&mut self, request: Request) -> u64 {
        self.calls += 1;
        self.gcs.call(self.calls, self.calls, request, 0);
        self.calls
    }

    fn register(&mut self, spec: v1::ActorSpec) -> u64 {
        self.call(Request::RegisterActor(Box::new(registering(spec))))
    }

    fn started(&mut self) -> u64 {
        self.call(Request::ReportActorStarted(v1::ReportActorStartedRequest {
            actor_id: actor(1).0.to_vec(),
            ..v1::ReportActorStartedRequest::default()
        }))
    }

    fn assigned(&mut self) {
        let body = node_report::Body::ActorAssigned(v1::ActorAssigned {
            actor_id: actor(1).0.to_vec(),
            incarnation: 0,
            worker: Some(v1::WorkerAddress {
                node_id: vec![1; 28],
                worker_id: vec![9; 28],
                pid: 9,
            }),
        });
        self.gcs.report(NodeId([1; 28]), v1::NodeReport { body: Some(body) }, 0);
    }

    /// Which calls are answered then, and whether well.
    fn flush(&mut self) -> Vec<(u64, bool)> {
        self.gcs.flush(usize::MAX);
        self.answers()
    }

    fn answers(&mut self) -> Vec<(u64, bool)> {
        let answers = self.gcs.answers().into_iter();
        answers.map(|(ticket, outcome)| (ticket, outcome.is_ok())).collect()
    }

    fn starts(&mut self) -> usize {
        let is_start = |body: &node_command::Body| matches!(body, node_command::Body::StartActor(_));
        let commands = self.gcs.commands();
        commands
            .iter()
            .filter(|(.., command)| command.body.as_ref().is_some_and(is_start))
            .count()
    }

    fn state(&self) -> u32 {
        self.gcs.actors()[0].status.as_ref().expect("it has one").state
    }
}

const ALIVE: u32 = 2;
const DEAD: u32 = 4;

#[test]
fn an_order_to_start_an_actor_waits_for_the_disk() {
    let mut world = World::new();
    world.register(spec(1, ""));
    assert_eq!(world.flush().len(), 1);
    world.disk_fails(true);
    world.node_comes();
    world.flush();
    assert_eq!(world.starts(), 0, "GCS-3");
    world.disk_fails(false);
    world.flush();
    assert_eq!(world.starts(), 1);
}

#[test]
fn what_is_said_once_is_answered_when_it_is_stored() {
    let mut world = World::new();
    world.register(spec(1, ""));
    world.node_comes();
    world.assigned();
    world.flush();
    world.disk_fails(true);
    let told = world.started();
    assert_eq!(world.flush(), [], "it would not be told again");
    assert_eq!(world.state(), ALIVE, "what is known is known");
    world.disk_fails(false);
    assert_eq!(world.flush(), [(told, true)]);
}

#[test]
fn what_a_worker_says_before_it_is_named_is_answered_afterwards() {
    let mut world = World::new();
    world.register(spec(1, ""));
    world.node_comes();
    world.flush();
    let told = world.started();
    assert_eq!(world.flush(), [], "another process would not know of it");
    world.assigned();
    assert_eq!(world.flush(), [(told, true)]);
    assert_eq!(world.state(), ALIVE);
}

#[test]
fn what_is_not_stored_is_not_acknowledged_either_when_it_is_asked_for_again() {
    let mut world = World::new();
    world.disk_fails(true);
    let first = world.register(spec(1, ""));
    let log = Request::GetCallLog(v1::GetCallLogRequest {
        actor_id: actor(1).0.to_vec(),
        ..v1::GetCallLogRequest::default()
    });
    assert_eq!(world.flush(), [(first, false)]);
    // It is ended, since nobody will have a handle of it, which is not stored either.
    assert_eq!(world.flush(), []);
    let later = world.call(log);
    assert_eq!(world.answers(), [(later, false)]);
}

#[test]
fn an_actor_of_which_a_further_try_is_refused_does_not_live_on() {
    let mut world = World::new();
    // Its answer is lost.
    world.register(spec(1, ""));
    world.flush();
    world.disk_fails(true);
    world.call(Request::KvPut(v1::KvPutRequest::default()));
    world.flush();
    let again = world.register(spec(1, ""));
    assert_eq!(world.answers(), [(again, false)]);
    assert_eq!(world.state(), DEAD);
}
