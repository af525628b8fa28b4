//! The watch by itself: what it is told, what it orders, and that nothing else happens.

use proptest::prelude::*;

use super::*;

const MB: u64 = 1 << 20;
const LIMIT: u64 = 1000 * MB;
const JOB: JobKey = JobKey(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn usage(used_mb: u64) -> Usage {
    Usage {
        used_bytes: used_mb * MB,
        limit_bytes: LIMIT,
        stalled: false,
    }
}

fn idle(worker: u64, mb: u64) -> WorkerUse {
    WorkerUse {
        worker: WorkerKey(worker),
        bytes: mb * MB,
        role: WorkerRole::Idle,
    }
}

fn task(worker: u64, owner: u64, mb: u64, since: u64) -> WorkerUse {
    WorkerUse {
        worker: WorkerKey(worker),
        bytes: mb * MB,
        role: WorkerRole::Task {
            job: JOB,
            owner: ClientKey(owner),
            name: "f".into(),
            since: ms(since),
            retriable: true,
        },
    }
}

fn final_task(worker: u64, mb: u64, since: u64) -> WorkerUse {
    let mut one = task(worker, 99, mb, since);
    if let WorkerRole::Task { retriable, .. } = &mut one.role {
        *retriable = false;
    }
    one
}

fn actor(worker: u64, mb: u64, since: u64, restartable: bool) -> WorkerUse {
    WorkerUse {
        worker: WorkerKey(worker),
        bytes: mb * MB,
        role: WorkerRole::Actor {
            since: ms(since),
            restartable,
        },
    }
}

struct Watched {
    watch: MemoryWatch,
    now: Duration,
}

impl Watched {
    fn busy() -> Self {
        let mut watched = Self {
            watch: MemoryWatch::new(MemoryOptions::default()),
            now: Duration::ZERO,
        };
        assert_eq!(watched.tell(MemoryEvent::BusyChanged { busy: true }), []);
        watched
    }

    fn tell(&mut self, event: MemoryEvent) -> Vec<MemoryEffect> {
        let mut effects = Vec::new();
        self.watch.on_event(self.now, event, &mut effects);
        self.watch.check_invariants();
        effects
    }

    /// Lets the deadline come, and answers.
    fn look(&mut self, used_mb: u64, workers: &[WorkerUse]) -> Vec<MemoryEffect> {
        self.now = self.watch.next_deadline().expect("somebody is busy");
        assert_eq!(self.tell(MemoryEvent::Tick), [MemoryEffect::ReadUsage]);
        let effects = self.tell(MemoryEvent::UsageRead(usage(used_mb)));
        if effects.is_empty() {
            return effects;
        }
        assert_eq!(effects, [MemoryEffect::ReadWorkers]);
        self.tell(MemoryEvent::WorkersRead {
            usage: usage(used_mb),
            workers: workers.to_vec(),
        })
    }
}

fn ended(effects: &[MemoryEffect]) -> Option<(u64, bool)> {
    effects.iter().find_map(|effect| match effect {
        MemoryEffect::EndWorker { worker, may_retry, .. } => Some((worker.0, *may_retry)),
        MemoryEffect::ReadUsage | MemoryEffect::ReadWorkers | MemoryEffect::Admit(_) => None,
    })
}

fn admission(effects: &[MemoryEffect]) -> &Admission {
    let told = effects.iter().find_map(|effect| match effect {
        MemoryEffect::Admit(admission) => Some(admission),
        MemoryEffect::ReadUsage | MemoryEffect::ReadWorkers | MemoryEffect::EndWorker { .. } => None,
    });
    told.expect("the scheduler is told")
}

#[test]
fn nothing_is_read_while_nobody_is_busy() {
    let mut watched = Watched::busy();
    assert!(watched.watch.next_deadline().is_some());
    assert_eq!(watched.tell(MemoryEvent::BusyChanged { busy: false }), []);
    assert_eq!(watched.watch.next_deadline(), None, "MEM-4");
}

#[test]
fn far_from_the_limit_one_number_is_read_each_second() {
    let mut watched = Watched::busy();
    watched.watch.options.growth_bytes_per_second = 100 * MB;
    assert_eq!(watched.look(10, &[]), []);
    assert_eq!(watched.watch.next_deadline(), Some(watched.now + ms(1000)));
    watched.look(900, &[task(1, 1, 300, 0)]);
    assert_eq!(
        watched.watch.next_deadline(),
        Some(watched.now + ms(250)),
        "near it, more often"
    );
}

#[test]
fn switched_off_it_does_nothing() {
    let mut watch = MemoryWatch::new(MemoryOptions {
        refresh: Duration::ZERO,
        ..MemoryOptions::default()
    });
    let mut effects = Vec::new();
    watch.on_event(ms(1), MemoryEvent::BusyChanged { busy: true }, &mut effects);
    assert_eq!((watch.next_deadline(), effects), (None, vec![]));
}

#[test]
fn first_dispatch_stops_then_idle_workers_go_then_the_newest_ends() {
    let mut watched = Watched::busy();
    let workers = [idle(1, 60), task(2, 1, 400, 10), task(3, 1, 450, 20)];
    let effects = watched.look(900, &workers);
    assert!(admission(&effects).stop);
    assert_eq!(ended(&effects), None, "it is short of memory, not over the line");

    let mut watched = Watched::busy();
    let effects = watched.look(970, &workers);
    assert!(admission(&effects).stop);
    assert_eq!(ended(&effects), None, "what the idle worker has may be enough");
    let effects = watched.look(970, &workers[1..]);
    assert_eq!(ended(&effects), Some((3, true)), "the newest");
    let effects = watched.look(970, &workers[1..]);
    assert_eq!(ended(&effects), None, "MEM-1");
    assert_eq!(watched.tell(MemoryEvent::WorkerDied { worker: WorkerKey(3) }), []);
    let effects = watched.look(500, &workers[1..2]);
    assert_eq!(ended(&effects), None);
    assert!(!admission(&effects).stop, "there is room again");
}

#[test]
fn the_owner_with_most_tasks_pays_first() {
    let workers = [task(1, 7, 300, 1), task(2, 7, 300, 2), task(3, 8, 380, 9)];
    let effects = Watched::busy().look(980, &workers);
    assert_eq!(ended(&effects), Some((2, true)));
}

#[test]
fn what_cannot_be_run_again_comes_last() {
    let workers = [final_task(1, 400, 50), actor(2, 300, 60, false), actor(3, 280, 1, true)];
    let effects = Watched::busy().look(980, &workers);
    assert_eq!(ended(&effects), Some((3, true)), "MEM-2");
    let effects = Watched::busy().look(980, &workers[..2]);
    assert_eq!(ended(&effects), Some((2, false)), "the newest of the rest");
}

#[test]
fn what_is_alone_and_does_not_fit_is_not_tried_again() {
    let effects = Watched::busy().look(980, &[task(1, 1, 970, 1)]);
    assert_eq!(ended(&effects), Some((1, false)), "MEM-3");
}

#[test]
fn a_worker_that_has_next_to_nothing_is_spared() {
    let effects = Watched::busy().look(980, &[task(1, 1, 600, 1), task(2, 1, 350, 2), task(3, 1, 3, 9)]);
    assert_eq!(ended(&effects), Some((2, true)));
}

#[test]
fn standing_still_for_want_of_memory_counts_as_being_over() {
    let mut watched = Watched::busy();
    let workers = [task(1, 1, 400, 1), task(2, 1, 400, 2)];
    watched.look(900, &workers);
    watched.now = watched.watch.next_deadline().expect("busy");
    watched.tell(MemoryEvent::Tick);
    watched.tell(MemoryEvent::UsageRead(usage(900)));
    let stalled = Usage {
        stalled: true,
        ..usage(900)
    };
    let effects = watched.tell(MemoryEvent::WorkersRead {
        usage: stalled,
        workers: workers.to_vec(),
    });
    assert_eq!(ended(&effects), Some((2, true)));
}

#[test]
fn a_function_that_needed_much_needs_it_again() {
    let mut watched = Watched::busy();
    let effects = watched.look(700, &[task(1, 1, 600, 1)]);
    assert_eq!(admission(&effects).needs[&(JOB, "f".into())], 600 * MB);
    // Another has begun and is small yet: both will need what one needed.
    let effects = watched.look(260, &[task(1, 1, 100, 3), task(2, 1, 60, 4)]);
    assert_eq!(admission(&effects).room_bytes, 0);
    let effects = watched.tell(MemoryEvent::BusyChanged { busy: false });
    assert_eq!(admission(&effects).room_bytes, 850 * MB, "what others use stays");
    assert_eq!(watched.watch.peak_bytes(JOB, "f"), Some(600 * MB));
    watched.tell(MemoryEvent::BusyChanged { busy: true });
    watched.watch.options.remember = Duration::ZERO;
    watched.look(500, &[idle(1, 10)]);
    assert_eq!(watched.watch.peak_bytes(JOB, "f"), None, "forgotten in time");
}

#[test]
fn a_wish_for_free_bytes_moves_the_line_up() {
    let mut watched = Watched::busy();
    watched.watch.options.min_free_bytes = Some(10 * MB);
    let workers = [task(1, 1, 470, 1), task(2, 1, 470, 2)];
    assert_eq!(ended(&watched.look(985, &workers)), None);
    assert_eq!(ended(&watched.look(995, &workers)), Some((2, true)));
}

proptest! {
    /// Whatever is read, the promises hold, and whoever is ended is a worker that runs something.
    #[test]
    fn promises_hold(looks in proptest::collection::vec((0u64..1100, proptest::collection::vec((1u64..6, 1u64..4, 0u64..500, 0u64..4), 0..6), any::<bool>()), 1..30)) {
        let mut watched = Watched::busy();
        for (used, workers, dies) in looks {
            let workers: Vec<WorkerUse> = workers.iter().map(|(worker, owner, mb, kind)| match kind {
                0 => idle(*worker, *mb),
                1 => final_task(*worker, *mb, *owner),
                2 => actor(*worker, *mb, *owner, owner % 2 == 0),
                _ => task(*worker, *owner, *mb, *worker),
            }).collect();
            let effects = watched.look(used, &workers);
            if let Some((worker, _)) = ended(&effects) {
                prop_assert!(used > 850);
                prop_assert!(workers.iter().any(|one| one.worker.0 == worker && !matches!(one.role, WorkerRole::Idle)));
                if dies {
                    watched.tell(MemoryEvent::WorkerDied { worker: WorkerKey(worker) });
                }
            }
        }
    }
}
