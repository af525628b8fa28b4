//! Two thousand clusters, each from its number; that a cluster follows from its number alone; and that what is broken on
//! purpose is noticed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ray_rs_testing::cluster::{self, Mutation, Options, Program};

const CLUSTERS: u64 = 2000;
const THREADS: usize = 2;

/// Numbers of clusters that once went wrong: of each mistake in the engine, one.
const ONCE_BAD: [u64; 9] = [
    // An order to start an actor left while the disk took nothing, and was given to another node after a crash.
    49,   // A constructor's end was acknowledged and not stored, as the actor's worker was not named yet.
    977,  // A process that was to leave in order waited for a checkpoint that nobody took.
    1760, // A constructor's end was refused by a full disk, and not told again.
    2184, // What a full disk had not taken was acknowledged when it was asked for once more.
    784,  // An actor was refused by a full disk of which an earlier try had been taken, and lived on.
    104,
    // An actor was found by its name before it was stored, and then forgotten in a crash: who followed it waited for ever.
    4416, // A control store that stood still after its start declared nodes dead that wanted to come to it.
    2335, // Calls were not sent again when an incarnation went on in another process.
    153,
];

/// Runs numbers on some threads until one of them returns true; whether one did.
fn any(numbers: &[u64], run: impl Fn(u64) -> bool + Sync) -> bool {
    let (next, found) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !found.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(number) = numbers.get(at) else { return };
                    if run(*number) {
                        found.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    found.into_inner()
}

#[test]
fn clusters_keep_their_promises() {
    let numbers: Vec<u64> = ONCE_BAD.into_iter().chain(0..CLUSTERS).collect();
    let (calls, faults) = (AtomicU64::new(0), std::sync::Mutex::new(BTreeMap::<&str, u32>::new()));
    any(&numbers, |seed| {
        let report = cluster::run(seed, Mutation::None);
        calls.fetch_add(report.calls as u64, Ordering::Relaxed);
        let mut faults = faults.lock().expect("no code panics with it");
        for (fault, times) in report.faults {
            *faults.entry(fault).or_default() += times;
        }
        false
    });
    let faults = faults.into_inner().expect("as above");
    assert_eq!(faults.len(), 10, "some faults never happen: {faults:?}");
    assert!(faults.values().all(|times| *times > 50), "{faults:?}");
    assert!(calls.into_inner() > 10_000, "few calls are made");
}

#[test]
fn the_same_number_gives_the_same_cluster_byte_for_byte() {
    for seed in [1, 7, 42, 1234, 1901] {
        let run = || {
            let mut options = Options::of_seed(seed, Mutation::None);
            options.traced = true;
            cluster::run_program(Program::random(seed), options)
        };
        let (one, other) = (run(), run());
        assert_eq!(one, other, "seed {seed}");
        assert!(!one.trace.is_empty());
    }
}

#[test]
fn each_broken_thing_is_noticed() {
    // They are to panic; nobody needs to read it. Other tests of this process still fail, only more quietly.
    std::panic::set_hook(Box::new(|_| {}));
    let numbers: Vec<u64> = (0..CLUSTERS).collect();
    let is_noticed = |mutation: &Mutation| {
        any(&numbers, |seed| {
            catch_unwind(AssertUnwindSafe(|| cluster::run(seed, *mutation))).is_err()
        })
    };
    let unseen: Vec<Mutation> = Mutation::ALL
        .into_iter()
        .filter(|mutation| !is_noticed(mutation))
        .collect();
    let _ = std::panic::take_hook();
    assert_eq!(unseen, []);
}
