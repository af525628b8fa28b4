//! Waiting awake for a moment, with manners.
//!
//! A spinning peer answers in a tenth of a microsecond where a sleeping one takes twenty; but on busy cores a spinner
//! keeps from running what it waits for. So a process spins only while that works: see `pace` for when it stops and
//! begins again, `table` for how the processes of a node share the right to spin, and `crowd` for what it does when its peer
//! is on the same core.

mod crowd;
mod pace;
mod table;
#[cfg(test)]
mod tests;

pub use table::SpinTable;

use crowd::Crowd;
use pace::Pace;
use ray_rs_types::config;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Looks at the rings between two looks at the clock.
const LOOKS: u32 = 32;
/// How long a process tries for a slot: the peer that is just waking from its spin is about to free one.
const SLOT_PATIENCE: Duration = Duration::from_micros(3);
/// A spin so long is worth a system call to learn later whether it was preempted.
const NOTE_SWITCHES_AFTER: Duration = Duration::from_micros(5);
/// A sleep so short was the peer's turn.
const SHORT_TURN: Duration = Duration::from_micros(200);
/// Among the spins that hit, each so-many-th is checked for preemption.
const CHECKED_HITS: u64 = 64;

static REMEMBERED_CPUS: OnceLock<usize> = OnceLock::new();

fn count_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get())
}

/// Whether this process may spin at all, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpinPolicy {
    pub enabled: bool,
    pub limit: Duration,
    /// After spins in vain it is not tried for longer and longer, but for no longer than this.
    pub longest_pause: Duration,
}

impl SpinPolicy {
    /// For this process as it is now. Off with `RAY_RS_SPIN=0`, and with less than two CPUs to run on: cores,
    /// affinity mask, and the quota of its cgroup (v1 or v2), all of which the standard library counts.
    pub fn detect() -> Self {
        let cpus = REMEMBERED_CPUS.get().copied().unwrap_or_else(count_cpus);
        let wanted = std::env::var_os("RAY_RS_SPIN").is_none_or(|value| value != "0");
        Self::for_cpus(if wanted { cpus } else { 1 })
    }

    /// Counts the CPUs once for [`Self::detect`], in this process and what it forks: the count reads several files.
    pub fn remember() {
        REMEMBERED_CPUS.get_or_init(count_cpus);
    }

    /// As [`Self::detect`], for a known number of CPUs.
    pub fn for_cpus(cpus: usize) -> Self {
        Self {
            enabled: cpus > 1,
            limit: config::SPIN,
            longest_pause: config::SPIN_PAUSE,
        }
    }

    /// Never spins.
    pub fn off() -> Self {
        Self {
            enabled: false,
            limit: Duration::ZERO,
            longest_pause: config::SPIN_PAUSE,
        }
    }
}

/// What a spinner has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpinStats {
    /// Spins that saw what they waited for.
    pub hits: u64,
    /// Spins that ran into the limit.
    pub misses: u64,
    /// Times that no slot was free.
    pub no_slot: u64,
    /// Futex sleeps.
    pub sleeps: u64,
    /// Sleeps that a ring ended.
    pub wakes: u64,
    /// Times that spinning was switched off because this thread had been preempted.
    pub preempted: u64,
    /// Moves to another core.
    pub moves: u64,
}

/// One thread's spinning. The thread that waits on a doorbell passes it in. Not to be carried over a fork: it knows its
/// process by id.
#[derive(Debug)]
pub struct Spinner {
    table: Option<Arc<SpinTable>>,
    policy: SpinPolicy,
    pid: u32,
    pace: Pace,
    crowd: Crowd,
    stats: SpinStats,
}

impl Spinner {
    /// Without a table the number of spinners is not limited; that is for the moments before a process has one.
    pub fn new(table: Option<Arc<SpinTable>>, policy: SpinPolicy) -> Self {
        let pid = std::process::id();
        Self {
            table,
            policy,
            pid,
            pace: Pace::new(policy.longest_pause),
            crowd: Crowd::new(pid),
            stats: SpinStats::default(),
        }
    }

    pub fn set_table(&mut self, table: Arc<SpinTable>) {
        self.table = Some(table);
    }

    pub fn stats(&self) -> SpinStats {
        self.stats
    }

    /// Whether the next wait would spin, as far as this thread is concerned.
    pub fn is_on(&self) -> bool {
        self.policy.enabled && self.pace.allows(Instant::now)
    }

    /// Spins until `ready`, if spinning pays and a slot is free, and never sleeps; whether `ready` said so. For a thread
    /// that has another place to sleep than a doorbell.
    pub fn spin_until(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        ready() || self.spin(self.policy.limit, &mut ready).is_ok()
    }

    /// Spins until `ready`, at most `at_most` and the policy's limit. The error says how long it tried in vain.
    #[inline]
    pub(crate) fn spin(&mut self, at_most: Duration, ready: &mut impl FnMut() -> bool) -> Result<(), Duration> {
        if !self.policy.enabled || !self.pace.allows(Instant::now) {
            return Err(Duration::ZERO);
        }
        self.spin_in_slot(at_most.min(self.policy.limit), ready)
    }

    fn spin_in_slot(&mut self, limit: Duration, ready: &mut impl FnMut() -> bool) -> Result<(), Duration> {
        let slot = match &self.table {
            None => None,
            Some(table) => match claim_slot(table, self.pid, limit.min(SLOT_PATIENCE), ready) {
                Claim::Slot(slot) => Some(slot),
                Claim::Ready => {
                    self.stats.hits += 1;
                    return Ok(());
                }
                Claim::None(spun) => {
                    self.stats.no_slot += 1;
                    return Err(spun);
                }
            },
        };
        let end = look(limit, ready);
        // Freed first of all: whom we have just heard from may be about to spin.
        drop(slot);
        match end {
            End::Hit { switches_before } => {
                self.crowd.alone();
                self.hit(switches_before);
                Ok(())
            }
            End::Missed {
                now,
                spun,
                switches_before,
            } => {
                self.missed(now, switches_before);
                Err(spun)
            }
        }
    }

    #[cold]
    fn in_company(&mut self, now: Instant) {
        if self.crowd.in_company(now) && crowd::move_away() {
            self.stats.moves += 1;
        }
    }

    fn hit(&mut self, switches_before: Option<i64>) {
        self.stats.hits += 1;
        if let Some(before) = switches_before
            && self.stats.hits.is_multiple_of(CHECKED_HITS)
            && involuntary_switches() > before
        {
            self.stats.preempted += 1;
            return self.pace.preempted(Instant::now());
        }
        self.pace.hit();
    }

    #[cold]
    fn missed(&mut self, now: Instant, switches_before: Option<i64>) {
        self.stats.misses += 1;
        if switches_before.is_some_and(|before| involuntary_switches() > before) {
            self.stats.preempted += 1;
            self.pace.preempted(now);
        } else {
            self.pace.missed(now);
        }
    }

    /// A sleep since `began` has ended, by a ring or not; by one from the core where this thread is now?
    pub(crate) fn slept(&mut self, began: Instant, rung: bool, from_same_core: bool) {
        self.stats.sleeps += 1;
        self.stats.wakes += u64::from(rung);
        if !rung {
            return;
        }
        let now = Instant::now();
        let took = now - began;
        self.pace.woken(took);
        // Two that wake each other all the time without spinning; after a longer sleep it does not matter from where.
        if took > SHORT_TURN || !self.policy.enabled {
            return;
        }
        if from_same_core {
            self.in_company(now);
        } else {
            self.crowd.alone();
        }
    }
}

enum End {
    Hit {
        switches_before: Option<i64>,
    },
    Missed {
        now: Instant,
        spun: Duration,
        switches_before: Option<i64>,
    },
}

/// The spin itself. A hit within the first looks costs no clock.
#[inline]
fn look(limit: Duration, ready: &mut impl FnMut() -> bool) -> End {
    let mut began = None;
    let mut switches_before = None;
    loop {
        for _ in 0..LOOKS {
            if ready() {
                return End::Hit { switches_before };
            }
            std::hint::spin_loop();
        }
        let now = Instant::now();
        let spun = now - *began.get_or_insert(now);
        if spun >= limit {
            return End::Missed {
                now,
                spun,
                switches_before,
            };
        }
        if switches_before.is_none() && spun >= NOTE_SWITCHES_AFTER {
            switches_before = Some(involuntary_switches());
        }
    }
}

enum Claim<'a> {
    Slot(table::Slot<'a>),
    Ready,
    None(Duration),
}

/// Tries for a slot, and looks at the rings meanwhile.
#[inline]
fn claim_slot<'a>(table: &'a SpinTable, pid: u32, patience: Duration, ready: &mut impl FnMut() -> bool) -> Claim<'a> {
    if let Some(slot) = table.claim(pid) {
        return Claim::Slot(slot);
    }
    if table.slots() == 0 {
        return Claim::None(Duration::ZERO);
    }
    let began = Instant::now();
    loop {
        for _ in 0..4 {
            if ready() {
                return Claim::Ready;
            }
            std::hint::spin_loop();
        }
        if let Some(slot) = table.claim(pid) {
            return Claim::Slot(slot);
        }
        let spun = began.elapsed();
        if spun >= patience {
            return Claim::None(spun);
        }
    }
}

/// How often this thread was taken off its core while it had more to do.
fn involuntary_switches() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole `rusage`; all zeroes is a valid one, so it is initialised even on failure.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nivcsw
}
