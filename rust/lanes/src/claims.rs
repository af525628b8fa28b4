//! Claim words: for each entry in flight one word that says whether the worker runs it or its owner has taken it back.
//!
//! The owner publishes the word before the entry's message. The worker claims it as it starts the entry; the owner may
//! withdraw it until then. Both are one compare-and-swap on the same word, so exactly one of them wins (`LANE-5`).
//! A word is `sequence << 2 | state` and entries share words round robin: with fewer than [`CLAIM_WORDS`] unresolved
//! entries on a lane a word is used again only after its entry is resolved, and an old entry that is claimed late finds
//! another sequence in its word, which reads as "withdrawn".

use crate::lane::{CLAIMS_OFFSET, LaneMap};
use crate::shm::InSharedMemory;
use crate::words::{Memory, Shared, Word};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

/// Words in each direction; an owner keeps fewer unresolved entries than this on a lane.
pub const CLAIM_WORDS: usize = 1024;

const PENDING: u64 = 1;
const CLAIMED: u64 = 2;
const WITHDRAWN: u64 = 3;

#[repr(C)]
#[derive(Debug)]
pub(crate) struct ClaimWords([AtomicU64; CLAIM_WORDS]);

// SAFETY: only atomics, valid for any bits.
unsafe impl InSharedMemory for ClaimWords {}

#[inline]
fn word(seq: u64, state: u64) -> u64 {
    seq << 2 | state
}

pub(crate) fn publish<M: Memory>(slot: &M::W64, seq: u64) {
    slot.store(word(seq, PENDING), Release);
}

/// True when the entry was still pending and is now in the `state` asked for.
pub(crate) fn resolve<M: Memory>(slot: &M::W64, seq: u64, state: u64) -> bool {
    slot.compare_exchange(word(seq, PENDING), word(seq, state), AcqRel, Acquire)
        .is_ok()
}

pub(crate) fn claim<M: Memory>(slot: &M::W64, seq: u64) -> bool {
    resolve::<M>(slot, seq, CLAIMED)
}

pub(crate) fn withdraw<M: Memory>(slot: &M::W64, seq: u64) -> bool {
    resolve::<M>(slot, seq, WITHDRAWN)
}

#[derive(Debug)]
struct Half {
    map: Arc<LaneMap>,
    offset: usize,
}

impl Half {
    #[inline]
    fn slot(&self, seq: u64) -> &AtomicU64 {
        &self.map.at::<ClaimWords>(self.offset).0[seq as usize % CLAIM_WORDS]
    }
}

/// The owner's half: entries that this process has sent.
#[derive(Debug)]
pub struct OutgoingClaims(Half);

impl OutgoingClaims {
    pub(crate) fn new(map: Arc<LaneMap>, direction: usize) -> Self {
        Self(Half {
            map,
            offset: CLAIMS_OFFSET[direction],
        })
    }

    /// Opens the entry for claiming. To be called before its message is sent.
    pub fn publish(&self, seq: u64) {
        publish::<Shared>(self.0.slot(seq), seq);
    }

    /// Takes the entry back. True: it will not run. False: the worker has claimed it (or it was withdrawn before).
    pub fn withdraw(&self, seq: u64) -> bool {
        withdraw::<Shared>(self.0.slot(seq), seq)
    }

    /// Whether the worker has started the entry; also right after the worker's death.
    pub fn is_claimed(&self, seq: u64) -> bool {
        Word::load(self.0.slot(seq), Acquire) == word(seq, CLAIMED)
    }
}

/// The worker's half: entries that the peer has sent.
#[derive(Debug)]
pub struct IncomingClaims(Half);

impl IncomingClaims {
    pub(crate) fn new(map: Arc<LaneMap>, direction: usize) -> Self {
        Self(Half {
            map,
            offset: CLAIMS_OFFSET[direction],
        })
    }

    /// Claims the entry for running, or for giving it back by message. False: it was withdrawn; skip it.
    pub fn claim(&self, seq: u64) -> bool {
        claim::<Shared>(self.0.slot(seq), seq)
    }
}

#[cfg(test)]
mod tests {
    use crate::Lane;

    #[test]
    fn one_of_claim_and_withdraw_wins() {
        let (owner, fd) = Lane::create().unwrap();
        let (_, _, out, _) = owner.split();
        let (_, _, _, incoming) = Lane::attach(fd).unwrap().split();
        assert!(!incoming.claim(0), "an entry that was never published cannot run");
        for seq in [0, 1, 1023, 1024, u64::from(u32::MAX)] {
            out.publish(seq);
            assert!(!out.is_claimed(seq));
            assert!(incoming.claim(seq) && out.is_claimed(seq));
            assert!(!out.withdraw(seq) && !incoming.claim(seq));
            out.publish(seq + 1);
            assert!(out.withdraw(seq + 1) && !incoming.claim(seq + 1) && !out.is_claimed(seq + 1));
        }
    }

    #[test]
    fn a_word_used_again_answers_the_old_entry_with_withdrawn() {
        let (owner, fd) = Lane::create().unwrap();
        let (_, _, out, _) = owner.split();
        let (_, _, _, incoming) = Lane::attach(fd).unwrap().split();
        out.publish(5);
        assert!(out.withdraw(5));
        out.publish(5 + 1024);
        assert!(!incoming.claim(5) && !out.withdraw(5));
        assert!(incoming.claim(5 + 1024));
    }

    #[test]
    fn the_two_directions_are_apart() {
        let (a, fd) = Lane::create().unwrap();
        let (_, _, a_out, a_in) = a.split();
        let (_, _, b_out, b_in) = Lane::attach(fd).unwrap().split();
        a_out.publish(7);
        assert!(!a_in.claim(7) && !b_out.withdraw(7));
        assert!(b_in.claim(7));
        b_out.publish(8);
        assert!(!b_in.claim(8) && a_in.claim(8));
    }
}
