//! The reading half of a ring. It believes nothing that it reads until it has checked it (`LANE-4`).

use super::{Corrupt, Header, MAX_MESSAGE_BYTES, ReadCursor, RingMemory, record_bytes};
use crate::lane::LaneMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// A long message of which some parts have come.
#[derive(Debug)]
struct Partial {
    total: usize,
    bytes: Vec<u8>,
}

/// Tells without a lock whether a receiver has something to read. Any thread, any number of them.
#[derive(Debug, Clone)]
pub struct LaneProbe(RingMemory);

impl LaneProbe {
    /// As `!LaneReceiver::is_empty()`; true a moment too long while another thread is reading.
    #[inline]
    pub fn has_data(&self) -> bool {
        let words = self.0.words();
        words.head.0.load(Acquire) != words.tail.0.load(Relaxed)
    }
}

/// Receives messages from the peer. One thread at a time, which `&mut` says.
#[derive(Debug)]
pub struct LaneReceiver {
    ring: RingMemory,
    cursor: ReadCursor,
    partial: Option<Partial>,
}

impl LaneReceiver {
    pub(crate) fn new(map: Arc<LaneMap>, direction: usize) -> Self {
        Self {
            ring: RingMemory::new(map, direction),
            cursor: ReadCursor::new(),
            partial: None,
        }
    }

    /// A view for threads that do not hold this receiver.
    pub fn probe(&self) -> LaneProbe {
        LaneProbe(self.ring.clone())
    }

    /// Whether nothing waits in the ring. Not empty does not promise a whole message: it may be part of a long one.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.cursor.is_empty(self.ring.words())
    }

    /// Calls `f` with the next whole message's bytes (in place in the ring, if it was not a long one) and says what it
    /// returned; `None` when there is no whole message yet. The message counts as read even if `f` panics.
    ///
    /// On `Corrupt` nothing more can be read from this lane, and every further call says so again.
    #[inline]
    pub fn receive<R>(&mut self, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, Corrupt> {
        loop {
            let Some(offset) = self.cursor.next(self.ring.words())? else {
                return Ok(None);
            };
            let header = self.ring.header(offset);
            if header.kind() == Header::WHOLE && self.partial.is_none() {
                let bytes = record_bytes(header.len());
                self.cursor.holds(bytes)?;
                let payload = self.ring.payload(offset, header.len());
                let read = Read {
                    ring: &self.ring,
                    cursor: &mut self.cursor,
                    bytes,
                };
                // SAFETY: `holds` and `payload` have checked the range. It is published and not released, so a correct
                // writer leaves it alone until `read` is dropped. (A hostile writer of our own user could change the
                // bytes meanwhile; it could also trace us. What is checked is that they stay inside the mapping.)
                let message = unsafe { std::slice::from_raw_parts(payload, header.len() as usize) };
                let result = f(message);
                drop(read);
                return Ok(Some(result));
            }
            if let Some(message) = self.other_record(offset, header)? {
                return Ok(Some(f(&message)));
            }
        }
    }

    /// True once for each time that the writer got stuck for room and there is room again: the caller then rings the
    /// peer's bell (`PROGRESS`), so that it flushes at once instead of at its next tick. To be asked after draining.
    pub fn peer_waits_for_room(&mut self) -> bool {
        self.cursor.take_starved(self.ring.words())
    }

    /// Everything but the common case; gives a long message when its last part has come.
    #[cold]
    fn other_record(&mut self, offset: u64, header: Header) -> Result<Option<Vec<u8>>, Corrupt> {
        let bytes = match header.kind() {
            Header::GROW => {
                self.cursor.grow(self.ring.words(), header.len())?;
                return Ok(None);
            }
            Header::SKIP => record_bytes(header.len()),
            Header::START => {
                let payload = self.checked(offset, header)?;
                let total = payload
                    .try_into()
                    .map(u64::from_le_bytes)
                    .map_err(|_| Corrupt("a malformed start"))?;
                if self.partial.is_some() || total == 0 || total > MAX_MESSAGE_BYTES as u64 {
                    return Err(Corrupt("a long message of impossible length or inside another"));
                }
                let total = total as usize;
                let mut bytes = Vec::new();
                bytes
                    .try_reserve_exact(total)
                    .map_err(|_| Corrupt("a message longer than the memory"))?;
                self.partial = Some(Partial { total, bytes });
                record_bytes(header.len())
            }
            Header::PART => {
                self.cursor.holds(record_bytes(header.len()))?;
                let payload = self.ring.payload(offset, header.len());
                let Some(partial) = &mut self.partial else {
                    return Err(Corrupt("a part of no message"));
                };
                if header.len() == 0 || header.len() as usize > partial.total - partial.bytes.len() {
                    return Err(Corrupt("parts that are longer than their message"));
                }
                // SAFETY: the range was checked as in `receive`.
                partial
                    .bytes
                    .extend_from_slice(unsafe { std::slice::from_raw_parts(payload, header.len() as usize) });
                record_bytes(header.len())
            }
            _ => return Err(Corrupt("a record of unknown kind or in the midst of a long message")),
        };
        self.cursor.holds(bytes)?;
        self.cursor.release(self.ring.words(), bytes);
        if self
            .partial
            .as_ref()
            .is_some_and(|partial| partial.bytes.len() == partial.total)
        {
            return Ok(self.partial.take().map(|partial| partial.bytes));
        }
        Ok(None)
    }

    /// A record's payload, once it is known to be inside what was published.
    fn checked(&self, offset: u64, header: Header) -> Result<&[u8], Corrupt> {
        self.cursor.holds(record_bytes(header.len()))?;
        let payload = self.ring.payload(offset, header.len());
        // SAFETY: as in `receive`.
        Ok(unsafe { std::slice::from_raw_parts(payload, header.len() as usize) })
    }
}

/// A record being read in place; its room goes back to the writer on drop.
struct Read<'a> {
    ring: &'a RingMemory,
    cursor: &'a mut ReadCursor,
    bytes: u64,
}

impl Drop for Read<'_> {
    #[inline]
    fn drop(&mut self) {
        self.cursor.release(self.ring.words(), self.bytes);
    }
}
