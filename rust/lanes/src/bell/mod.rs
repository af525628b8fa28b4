//! Doorbells: one per process, in a page that its peers have mapped too, with an eventfd beside it.
//!
//! A thread that has nothing to do looks, spins a little, announces that it sleeps, looks again and sleeps on a futex.
//! A peer that has put something into a ring looks whether somebody sleeps for that, and only then makes a system call.
//! A second thread may at the same time be asleep in `epoll` with the eventfd in its set; it has bits of its own.

mod protocol;

pub(crate) use protocol::BellWords;

use crate::shm::{InSharedMemory, Mapping, invalid};
use crate::spin::Spinner;
use crate::words::{Line, Shared};
use protocol::{EVENTFD_SHIFT, FUTEX_BITS};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::thread::futex;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

/// Rung for replies and control messages.
pub const PROGRESS: u32 = 1;
/// Rung for tasks to run.
pub const EXEC: u32 = 2;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woke {
    /// `ready` said so, before any sleep.
    Ready,
    /// Somebody rang. What for has to be looked at.
    Rung,
    /// `max_sleep` has passed.
    TimedOut,
    /// A signal was handled by this thread.
    Interrupted,
}

#[repr(C)]
struct BellPage {
    words: Line<BellWords<Shared>>,
    /// Rings that made a system call, for benchmarks.
    wakes: Line<AtomicU64>,
    /// The core from which the futex sleeper was last woken.
    rung_from: Line<AtomicU32>,
}

// SAFETY: only atomics, valid for any bits.
unsafe impl InSharedMemory for BellPage {}

/// What the owner of a doorbell and its peers have in common.
#[derive(Debug)]
struct Bell {
    map: Mapping<4096>,
    eventfd: OwnedFd,
}

impl Bell {
    #[inline(always)]
    fn page(&self) -> &BellPage {
        self.map.at(0)
    }

    #[inline(always)]
    fn words(&self) -> &BellWords<Shared> {
        &self.page().words.0
    }

    #[inline]
    fn ring(&self, what: u32) -> bool {
        if !self.words().has_sleeper(what) {
            return false;
        }
        self.wake(what)
    }

    #[cold]
    fn wake(&self, what: u32) -> bool {
        let sleepers = self.words().take_sleepers(what);
        if sleepers.on_futex {
            self.page().rung_from.0.store(current_core(), Relaxed);
            self.wake_futex();
        }
        if sleepers.on_eventfd {
            self.write_eventfd();
        }
        let any = sleepers.on_futex || sleepers.on_eventfd;
        if any {
            self.page().wakes.0.fetch_add(1, Relaxed);
        }
        any
    }

    fn wake_futex(&self) {
        // One thread sleeps here at most; the futex is shared, not private. It cannot fail on a mapped word.
        let _ = futex::wake(self.words().sequence(), futex::Flags::empty(), 1);
    }

    fn write_eventfd(&self) {
        // Full (2^64 - 2 unread rings) means readable, which is all that is wanted.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }
}

fn current_core() -> u32 {
    u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX)
}

/// This process's doorbell.
#[derive(Debug)]
pub struct Doorbell {
    bell: Bell,
    memfd: OwnedFd,
}

impl Doorbell {
    pub fn create() -> io::Result<Self> {
        let (map, memfd) = Mapping::create("ray_rs-bell")?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            bell: Bell { map, eventfd },
            memfd,
        })
    }

    /// Descriptors for a peer: (memfd, eventfd).
    pub fn share(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        Ok((self.memfd.try_clone()?, self.bell.eventfd.try_clone()?))
    }

    /// Waits until `ready()` is true, or somebody rings for one of `wants`, or `max_sleep` has passed, or a signal was
    /// handled. Spins first if `spinner` thinks that it pays.
    ///
    /// What is rung for must be visible to `ready` before the ring: a ring while nobody sleeps leaves no trace. One
    /// thread at a time waits on a doorbell.
    #[inline]
    pub fn wait(
        &self,
        wants: u32,
        spinner: &mut Spinner,
        max_sleep: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Woke {
        if ready() {
            return Woke::Ready;
        }
        let spun = match spinner.spin(max_sleep, &mut ready) {
            Ok(()) => return Woke::Ready,
            Err(spun) => spun,
        };
        let left = max_sleep.saturating_sub(spun);
        if left.is_zero() {
            return Woke::TimedOut;
        }
        let sequence = self.bell.words().announce_futex(wants);
        if ready() {
            self.bell.words().leave_futex();
            return Woke::Ready;
        }
        self.sleep(sequence, left, spinner)
    }

    #[cold]
    fn sleep(&self, sequence: u32, at_most: Duration, spinner: &mut Spinner) -> Woke {
        let began = Instant::now();
        let timeout = futex::Timespec {
            tv_sec: at_most.as_secs().min(i32::MAX as u64) as i64,
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let result = futex::wait(
            self.bell.words().sequence(),
            futex::Flags::empty(),
            sequence,
            Some(&timeout),
        );
        self.bell.words().leave_futex();
        let woke = match result {
            // AGAIN: rung between our announcement and the sleep.
            Ok(()) | Err(Errno::AGAIN) => Woke::Rung,
            Err(Errno::TIMEDOUT) => Woke::TimedOut,
            Err(Errno::INTR) => Woke::Interrupted,
            // Nothing else can happen on a mapped word; the caller looks again, which is right in any case.
            Err(_) => Woke::Rung,
        };
        let same_core = self.bell.page().rung_from.0.load(Relaxed) == current_core();
        spinner.slept(began, woke == Woke::Rung, same_core);
        woke
    }

    /// From now on a ring for one of `wants` writes the eventfd, once: the ring disarms. For a thread or an event loop
    /// that is about to sleep in `epoll`. After this the caller must look at its rings once more before it sleeps.
    /// `0` disarms.
    pub fn arm_eventfd(&self, wants: u32) {
        self.bell.words().announce_eventfd(wants);
    }

    /// Rings no longer write the eventfd. It may still be readable from an earlier ring.
    pub fn disarm_eventfd(&self) {
        self.bell.words().leave_eventfd();
    }

    /// Readable when an armed ring has come; to be put into an `epoll` set.
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.bell.eventfd.as_fd()
    }

    /// Makes the eventfd unreadable again.
    pub fn drain_eventfd(&self) {
        let _ = rustix::io::read(&self.bell.eventfd, &mut [0u8; 8]);
    }

    /// Rings this process's own bell, as a peer would. Safe to call in a signal handler: atomics and system calls.
    pub fn ring_self(&self, what: u32) {
        self.bell.ring(what);
    }

    /// Wakes the futex sleeper and makes the eventfd readable, whoever is announced. To be called when a peer has died:
    /// it may have been killed after it had taken a sleeper's announcement and before it woke it (`BELL-2`).
    pub fn wake_all(&self) {
        self.bell.words().take_sleepers(FUTEX_BITS);
        self.bell.words().bump();
        self.bell.wake_futex();
        self.bell.write_eventfd();
    }

    /// How many rings have cost their ringer a system call since this process began.
    pub fn wakes(&self) -> u64 {
        self.bell.page().wakes.0.load(Relaxed)
    }

    /// Who is announced as asleep now: futex bits, eventfd bits. For explanations.
    pub fn sleepers(&self) -> (u32, u32) {
        let waiting = self.bell.words().waiting();
        (waiting & FUTEX_BITS, waiting >> EVENTFD_SHIFT & FUTEX_BITS)
    }
}

/// A peer's doorbell.
#[derive(Debug)]
pub struct RemoteBell(Bell);

impl RemoteBell {
    /// From the descriptors that the peer has sent. Both are checked; a blocking eventfd would let a peer stop us.
    pub fn attach(memfd: OwnedFd, eventfd: OwnedFd) -> io::Result<Self> {
        if !fcntl_getfl(&eventfd)?.contains(OFlags::NONBLOCK) {
            return Err(invalid("a bell whose eventfd would block".to_owned()));
        }
        Ok(Self(Bell {
            map: Mapping::attach(memfd)?,
            eventfd,
        }))
    }

    /// Wakes the peer if it sleeps and wants `what`. To be called after the change that it is for, and after unlocking.
    /// True when that took a system call.
    #[inline]
    pub fn ring(&self, what: u32) -> bool {
        self.0.ring(what)
    }
}

#[cfg(test)]
mod tests;
