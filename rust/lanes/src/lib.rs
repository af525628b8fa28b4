//! Bytes between two processes of one node: rings in shared memory, claim words, doorbells, and spinning with manners.
//!
//! This crate knows nothing about tasks. It moves whole messages from one process to another without a system call
//! while both are awake, and with one futex wake when the other sleeps. All `unsafe` of these things lives here.
//!
//! | module | holds or decides |
//! | --- | --- |
//! | `lane` | a pair of single-producer single-consumer rings and the claim words, in one sealed memfd |
//! | `ring` | where the next record goes, when the ring grows, what a reader may believe of what it reads |
//! | `claims` | whether an entry that was sent is run by the worker or taken back by its owner: never both |
//! | `bell` | who sleeps in this process, and how a peer wakes it |
//! | `spin` | whether it is worth waiting awake for a moment, and which processes of the node may |
//! | `shm` | sealed memory files and their mappings |
//! | `at_fork` | code around a fork of this process |
//! | `words` | the shared words as a trait, so that the model tests run the same protocol code under loom |
//!
//! How a message travels:
//!
//! ```
//! use ray_rs_lanes::{Doorbell, Lane, PROGRESS, RemoteBell, Spinner, SpinPolicy, Woke};
//! use std::time::Duration;
//!
//! // The side that connects makes the lane and sends the memfd over a Unix socket; both sides exchange their bells.
//! let (lane, memfd) = Lane::create().unwrap();
//! let (mut sender, ..) = lane.split();
//! let (_, mut receiver, ..) = Lane::attach(memfd).unwrap().split();
//! let doorbell = Doorbell::create().unwrap();
//! let (bell_memfd, eventfd) = doorbell.share().unwrap();
//! let peer = RemoteBell::attach(bell_memfd, eventfd).unwrap();
//!
//! // Writer: encode straight into the ring, then ring. Nobody sleeps, so this makes no system call.
//! sender.send_with(5, |bytes| bytes.copy_from_slice(b"hello"));
//! assert!(!peer.ring(PROGRESS));
//!
//! // Reader: wait, then read in place.
//! let mut spinner = Spinner::new(None, SpinPolicy::detect());
//! let woke = doorbell.wait(PROGRESS, &mut spinner, Duration::from_secs(1), || !receiver.is_empty());
//! assert_eq!(woke, Woke::Ready);
//! assert_eq!(receiver.receive(|bytes| bytes.len()).unwrap(), Some(5));
//! ```
//!
//! # What holds
//!
//! * `LANE-1` A message is seen whole or not at all: the reader sees a record only after the writer has published the
//!   position behind it. A writer killed at any instruction leaves at most an unpublished piece.
//! * `LANE-2` Messages arrive in the order in which they were sent, those that had to queue included.
//! * `LANE-3` A full ring never blocks its writer: the message goes to the sender's own memory and out by `flush`.
//! * `LANE-4` Whatever stands in the shared memory, a reader stays inside its own ring and gets [`Corrupt`] at worst;
//!   lane and bell files are sealed, so a peer cannot shrink them under a mapping.
//! * `LANE-5` An entry is claimed or withdrawn, never both.
//! * `BELL-1` A ring after a change is never lost: the sleeper announces itself and then looks again, the ringer
//!   changes and then looks for sleepers, with a full fence on each side.
//! * `BELL-2` A ringer that is killed in the middle of a ring costs a sleeper one bounded sleep, not more;
//!   [`Doorbell::wake_all`] makes up for it at once when the death is noticed.
//! * `SPIN-1` Without one of the node's slots (cores - 1 of them) a process spins for 3 µs at most.
//!
//! # What is deliberately not here
//!
//! No sockets (the caller passes the descriptors), no knowledge of messages, no locks (a half of a lane is used by one
//! thread at a time, the caller sees to that), no protection of a process from a peer of the same user that rewrites
//! bytes which it has already published: such a peer could as well attach a debugger.

mod at_fork;
mod bell;
mod claims;
mod lane;
mod ring;
mod shm;
mod spin;
mod words;

#[cfg(test)]
mod model;

pub use at_fork::at_fork;
pub use bell::{Doorbell, EXEC, PROGRESS, RemoteBell, Woke};
pub use claims::{CLAIM_WORDS, IncomingClaims, OutgoingClaims};
pub use lane::{Lane, LaneError, Side};
pub use ring::{Corrupt, LaneProbe, LaneReceiver, LaneSender, MAX_MESSAGE_BYTES, RING_BYTES_MAX, RING_BYTES_MIN, Sent};
pub use spin::{SpinPolicy, SpinStats, SpinTable, Spinner};
