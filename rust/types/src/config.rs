//! One place for each knob: name, default, environment variable, meaning.

use std::time::Duration;

/// Values up to this many bytes stay in their owner's memory and travel inline (Ray: `max_direct_call_object_size`).
pub const MAX_INLINE_BYTES: usize = 100 * 1024;
/// How long a process that was just active spins before it sleeps on its doorbell.
pub const SPIN: Duration = Duration::from_micros(50);
/// How long it does without at most, when spins had been in vain: beside busy neighbours nearly every wait is a sleep then.
pub const SPIN_PAUSE: Duration = Duration::from_millis(64);
/// How long a `get` looks for its value awake while it still has the interpreter: as long as it would take to hand the
/// interpreter to another thread and get it back.
pub const GLANCE: Duration = Duration::from_micros(25);
/// And how long such looks are left off at most when they had been in vain. Where they pay they save many times what they
/// cost, and a look in so long a time costs next to nothing.
pub const GLANCE_PAUSE: Duration = Duration::from_millis(1);
/// Most tasks that an owner puts on one lane before they are finished.
pub const MAX_IN_FLIGHT: usize = 512;
/// Most calls that a caller sends to one actor before they are answered: far more than an asynchronous actor runs at once
/// by default (1000), since a call that is held back may be the one that the others wait for.
pub const MAX_CALLS_IN_FLIGHT: usize = 16_384;
/// A worker rings its caller after this many replies even when more requests wait.
pub const REPLIES_PER_RING: u32 = 32;
/// Work that an owner likes to have in flight on one worker.
pub const WINDOW_WORK: Duration = Duration::from_millis(2);
/// Work in front of it that a task rather waits for than have another worker woken, which takes about as long.
pub const WAKE_WORK: Duration = Duration::from_micros(50);
/// A lane without progress for so long loses its unclaimed entries to other workers.
pub const STALLED_LANE: Duration = Duration::from_millis(10);
/// A `get` or `wait` without progress for so long tells what it waits for.
pub const WAIT_TOLD: Duration = Duration::from_secs(10);
/// A `get` inside a task that lasts so long looks whether it can ever end.
pub const DEADLOCK_LOOK: Duration = Duration::from_secs(2);
/// How long an owner keeps an idle lease that nobody else asks for.
pub const LEASE_LINGER: Duration = Duration::from_millis(200);
