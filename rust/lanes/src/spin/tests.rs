use super::pace::Pace;
use super::*;

const ON: SpinPolicy = SpinPolicy {
    enabled: true,
    limit: Duration::from_micros(50),
    longest_pause: Duration::from_millis(64),
};

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

struct World {
    pace: Pace,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            pace: Pace::new(ON.longest_pause),
            now: Instant::now(),
        }
    }
    fn on(&self) -> bool {
        self.pace.allows(|| self.now)
    }
    fn miss(&mut self) {
        assert!(self.on());
        self.pace.missed(self.now);
    }
    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
    /// How many short sleeps it takes until it tries again.
    fn short_sleeps_until_on(&mut self) -> u32 {
        let mut count = 0;
        while !self.on() {
            self.pace.woken(us(15));
            count += 1;
        }
        count
    }
}

#[test]
fn two_misses_in_a_row_stop_it_and_a_short_sleep_brings_it_back() {
    let mut world = World::new();
    world.miss();
    world.pace.hit();
    world.miss();
    assert!(world.on());
    world.miss();
    assert!(!world.on());
    world.pace.woken(us(500));
    assert!(!world.on(), "a spin would not have caught that");
    world.pace.woken(us(40));
    assert!(world.on());
    world.miss();
    assert!(!world.on(), "one miss is enough on trial");
}

#[test]
fn pauses_grow_to_64_ms_and_hits_restore_trust() {
    let mut world = World::new();
    world.miss();
    world.miss();
    for pause in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
        world.pass(Duration::from_millis(pause) - us(1));
        assert!(!world.on(), "{pause}");
        world.pass(us(1));
        world.miss();
    }
    world.pass(Duration::from_millis(64));
    for _ in 0..8 {
        assert!(world.on());
        world.pace.hit();
    }
    world.miss();
    world.miss();
    world.pass(Duration::from_millis(1));
    assert!(world.on());
}

#[test]
fn a_policy_may_ask_for_a_try_more_often() {
    let longest = Duration::from_millis(1);
    let mut world = World::new();
    world.pace = Pace::new(longest);
    world.miss();
    world.miss();
    for _ in 0..10 {
        assert!(!world.on());
        world.pass(longest);
        world.miss();
    }
    world.pass(longest);
    world.pace.preempted(world.now);
    assert!(!world.on());
    world.pass(longest);
    assert!(world.on());
}

#[test]
fn beside_busy_neighbours_nearly_every_wait_is_a_sleep() {
    let mut world = World::new();
    world.miss();
    world.miss();
    let mut tries = Vec::new();
    for round in 0..10 {
        tries.push(world.short_sleeps_until_on());
        if round % 2 == 0 {
            world.pace.hit();
        }
        world.miss();
    }
    assert_eq!(tries, [1, 2, 4, 8, 16, 32, 64, 64, 64, 64]);
}

#[test]
fn a_preempted_spin_stops_it_at_once_and_for_longer() {
    let mut world = World::new();
    world.pace.preempted(world.now);
    assert!(!world.on());
    assert_eq!(world.short_sleeps_until_on(), 16);
    world.pace.preempted(world.now);
    world.pass(Duration::from_millis(15));
    assert!(!world.on());
    world.pass(Duration::from_millis(1));
    assert!(world.on());
}

#[test]
fn policies() {
    assert!(!SpinPolicy::for_cpus(1).enabled && SpinPolicy::for_cpus(2).enabled && !SpinPolicy::off().enabled);
    assert_eq!(SpinPolicy::for_cpus(2).limit, config::SPIN);
    let mut off = Spinner::new(None, SpinPolicy::off());
    assert_eq!(off.spin(us(50), &mut || true), Err(Duration::ZERO), "not even a look");
    assert!(!off.is_on());
    assert!(off.spin_until(|| true) && !off.spin_until(|| false));
}

#[test]
fn slots_are_exactly_so_many_and_given_back() {
    assert_eq!([1, 2, 8, 200].map(SpinTable::slots_for), [0, 1, 7, 63]);
    let (table, fd) = SpinTable::create(3).unwrap();
    let other = SpinTable::attach(fd).unwrap();
    assert_eq!(other.slots(), 3);
    let held: Vec<_> = (100..103).map(|pid| other.claim(pid).unwrap()).collect();
    assert!(other.claim(104).is_none() && table.spinning() == 3);
    drop(held);
    assert_eq!(table.spinning(), 0);
    // Killed in a spin.
    std::mem::forget(other.claim(200).unwrap());
    table.clear_pid(201);
    assert_eq!(table.spinning(), 1);
    table.clear_pid(200);
    assert_eq!(table.spinning(), 0);
    // What was taken away is not given back a second time.
    let late = table.claim(300).unwrap();
    table.clear_pid(300);
    let all: Vec<_> = (301..304).map(|pid| table.claim(pid).unwrap()).collect();
    drop(late);
    assert_eq!(table.spinning(), 3);
    drop(all);
    let (_, blank) = Mapping::<4096>::create("blank").unwrap();
    assert!(SpinTable::attach(blank).is_err());
}

use crate::shm::Mapping;

#[test]
fn without_a_slot_it_looks_for_a_moment_only() {
    let (table, _) = SpinTable::create(1).unwrap();
    let table = Arc::new(table);
    let mut spinner = Spinner::new(Some(table.clone()), ON);
    assert_eq!(spinner.spin(us(50), &mut || true), Ok(()));
    assert_eq!(table.spinning(), 0, "the slot is free again");
    let taken = table.claim(1).unwrap();
    assert!(spinner.spin(us(50), &mut || false).is_err());
    let mut looks = 0;
    let sees = spinner.spin(us(50), &mut || {
        looks += 1;
        looks == 3
    });
    assert_eq!(sees, Ok(()), "what comes while it tries for a slot is seen");
    assert_eq!(
        spinner.stats(),
        SpinStats {
            hits: 2,
            no_slot: 1,
            ..SpinStats::default()
        }
    );
    assert!(spinner.is_on(), "no slot is nobody's fault");
    drop(taken);
    assert!(spinner.spin(us(50), &mut || false).unwrap_err() >= us(50));
    let (none, _) = SpinTable::create(0).unwrap();
    spinner.set_table(Arc::new(none));
    assert_eq!(spinner.spin(us(50), &mut || true), Err(Duration::ZERO));
}

#[test]
fn misses_switch_it_off() {
    let mut spinner = Spinner::new(None, ON);
    let mut tried = 0;
    while spinner.is_on() {
        assert!(spinner.spin(us(10), &mut || false).is_err());
        tried += 1;
    }
    assert!(tried <= 2, "two, or one that was preempted");
    assert_eq!(spinner.stats().misses, tried);
    spinner.slept(Instant::now() - us(2000), true, true);
    spinner.slept(Instant::now() - us(10), false, true);
    assert_eq!((spinner.stats().sleeps, spinner.stats().wakes), (2, 1));
}

#[test]
fn whoever_is_woken_from_its_own_core_over_and_over_moves_once_in_a_while() {
    let mut spinner = Spinner::new(None, ON);
    for _ in 0..20 {
        spinner.slept(Instant::now() - us(2000), true, true);
        spinner.slept(Instant::now() - us(10), true, false);
    }
    assert_eq!(
        spinner.stats().moves,
        0,
        "long sleeps, and wakes from other cores, say nothing"
    );
    for _ in 0..20 {
        spinner.slept(Instant::now() - us(10), true, true);
    }
    let cores = rustix::thread::sched_getaffinity(None).expect("own affinity").count();
    assert_eq!(spinner.stats().moves > 0, cores > 1);
}
