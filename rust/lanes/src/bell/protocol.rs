//! Who sleeps, and who has taken it upon itself to wake them: the bell's two words.
//!
//! `waiting` holds the bits that the futex sleeper wants in its low byte, and those of the eventfd's sleeper in the
//! byte above. A ringer that finds a match clears that sleeper's byte, so one of many ringers makes the system call.
//! Before a futex wake it bumps `sequence`, which a sleeper has read before it announced itself: a wake between the
//! announcement and the futex call makes that call return at once (`BELL-1`).

use crate::words::{Memory, Shared, Word};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

pub(super) const FUTEX_BITS: u32 = 0xff;
pub(super) const EVENTFD_SHIFT: u32 = 8;
const EVENTFD_BITS: u32 = FUTEX_BITS << EVENTFD_SHIFT;

#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct BellWords<M: Memory> {
    sequence: M::W32,
    waiting: M::W32,
}

/// Whom a ringer has to wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sleepers {
    pub on_futex: bool,
    pub on_eventfd: bool,
}

impl BellWords<Shared> {
    pub fn sequence(&self) -> &AtomicU32 {
        &self.sequence
    }
}

impl<M: Memory> BellWords<M> {
    /// Announces a futex sleeper and gives the value to sleep on. The caller looks once more before it sleeps.
    #[inline]
    pub fn announce_futex(&self, wants: u32) -> u32 {
        let sequence = self.sequence.load(Acquire);
        self.waiting.fetch_or(wants & FUTEX_BITS, SeqCst);
        M::fence();
        sequence
    }

    /// The futex sleeper is awake.
    #[inline]
    pub fn leave_futex(&self) {
        self.waiting.fetch_and(!FUTEX_BITS, SeqCst);
    }

    pub fn announce_eventfd(&self, wants: u32) {
        self.waiting.fetch_and(!EVENTFD_BITS, SeqCst);
        if wants != 0 {
            self.waiting.fetch_or((wants & FUTEX_BITS) << EVENTFD_SHIFT, SeqCst);
        }
        M::fence();
    }

    pub fn leave_eventfd(&self) {
        self.waiting.fetch_and(!EVENTFD_BITS, SeqCst);
    }

    /// The ringer's look, after its change: does anybody sleep for `what`?
    #[inline(always)]
    pub fn has_sleeper(&self, what: u32) -> bool {
        M::fence();
        self.waiting.load(Relaxed) & (what | what << EVENTFD_SHIFT) != 0
    }

    /// Takes over the duty to wake those who want `what`; the sequence is already bumped for a futex sleeper.
    pub fn take_sleepers(&self, what: u32) -> Sleepers {
        let what = what & FUTEX_BITS;
        let waiting = self.waiting.load(Relaxed);
        let mut take = 0;
        if waiting & what != 0 {
            take |= FUTEX_BITS;
        }
        if waiting & (what << EVENTFD_SHIFT) != 0 {
            take |= EVENTFD_BITS;
        }
        let taken = if take == 0 {
            0
        } else {
            self.waiting.fetch_and(!take, SeqCst) & take
        };
        // Another sleeper than the one seen by the load may have been taken: it is then woken for nothing, never lost.
        let sleepers = Sleepers {
            on_futex: taken & FUTEX_BITS != 0,
            on_eventfd: taken & EVENTFD_BITS != 0,
        };
        if sleepers.on_futex {
            self.bump();
        }
        sleepers
    }

    /// A futex call on an older sequence returns at once.
    pub fn bump(&self) {
        self.sequence.fetch_add(1, SeqCst);
    }

    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    #[cfg(test)]
    pub fn for_model(sequence: M::W32, waiting: M::W32) -> Self {
        Self { sequence, waiting }
    }

    #[cfg(test)]
    pub fn sequence_word(&self) -> &M::W32 {
        &self.sequence
    }
}
