//! Who spins on this node: one slot for each process that may at the same time, in a page that the raylet makes.
//!
//! A slot holds the process id of its spinner, so the raylet can free the slot of a process that was killed in a spin.

use crate::shm::{InSharedMemory, Mapping, invalid};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

const SLOTS_MAX: usize = 63;
/// "spin", version 1.
const MAGIC: u32 = 0x7370_6901;

/// On a cache line of its own: a spinner's neighbour comes and goes.
#[repr(C, align(64))]
struct SlotWord(AtomicU32);

#[repr(C, align(64))]
struct Header {
    magic: AtomicU32,
    slots: AtomicU32,
}

#[repr(C)]
struct Page {
    header: Header,
    slots: [SlotWord; SLOTS_MAX],
}

// SAFETY: only atomics and padding, valid for any bits.
unsafe impl InSharedMemory for Page {}

/// The node's table of spinners.
#[derive(Debug)]
pub struct SpinTable {
    map: Mapping<{ size_of::<Page>() }>,
    slots: usize,
}

impl SpinTable {
    /// How many processes may spin beside each other on so many cores: one core always stays free.
    pub fn slots_for(cores: usize) -> usize {
        cores.saturating_sub(1).min(SLOTS_MAX)
    }

    /// A table of `slots` (at most 63; none is fine: then nobody spins) and the descriptor for this node's processes.
    pub fn create(slots: usize) -> io::Result<(Self, OwnedFd)> {
        let (map, fd) = Mapping::create("ray_rs-spinners")?;
        let table = Self {
            map,
            slots: slots.min(SLOTS_MAX),
        };
        let header = &table.page().header;
        header.slots.store(table.slots as u32, Relaxed);
        header.magic.store(MAGIC, Release);
        Ok((table, fd))
    }

    pub fn attach(fd: OwnedFd) -> io::Result<Self> {
        let mut table = Self {
            map: Mapping::attach(fd)?,
            slots: 0,
        };
        let header = &table.page().header;
        if header.magic.load(Acquire) != MAGIC {
            return Err(invalid("a shared file that is no spin table".to_owned()));
        }
        table.slots = (header.slots.load(Relaxed) as usize).min(SLOTS_MAX);
        Ok(table)
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    /// How many spin at this moment.
    pub fn spinning(&self) -> usize {
        self.page().slots[..self.slots]
            .iter()
            .filter(|slot| slot.0.load(Relaxed) != 0)
            .count()
    }

    /// Frees what a dead process may have held.
    pub fn clear_pid(&self, pid: u32) {
        for slot in &self.page().slots[..self.slots] {
            let _ = slot.0.compare_exchange(pid, 0, Release, Relaxed);
        }
    }

    /// A free slot, until the guard is dropped.
    #[inline]
    pub(crate) fn claim(&self, pid: u32) -> Option<Slot<'_>> {
        let slots = &self.page().slots[..self.slots];
        // Beginning at different places keeps processes off each other's lines on a large machine.
        let first = pid as usize % slots.len().max(1);
        let (before, after) = slots.split_at(first);
        after
            .iter()
            .chain(before)
            .find(|slot| slot.0.load(Relaxed) == 0 && slot.0.compare_exchange(0, pid, Acquire, Relaxed).is_ok())
            .map(|slot| Slot { word: &slot.0, pid })
    }

    #[inline]
    fn page(&self) -> &Page {
        self.map.at(0)
    }
}

/// The right to spin.
pub(crate) struct Slot<'a> {
    word: &'a AtomicU32,
    pid: u32,
}

impl Drop for Slot<'_> {
    #[inline]
    fn drop(&mut self) {
        // Not a plain store: if the slot was taken away from us (`clear_pid`) it may be another's by now.
        let _ = self.word.compare_exchange(self.pid, 0, Release, Relaxed);
    }
}
