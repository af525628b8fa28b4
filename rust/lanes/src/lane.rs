//! A lane: two rings, one in each direction, and their claim words, in one memory file.
//!
//! The file: a control page (magic, then each ring's words on lines of their own), 1024 claim words from the connector
//! to the acceptor, as many back, and a region of [`RING_BYTES_MAX`] for each ring. A ring begins with
//! the first 64 KiB of its region; pages that nobody has touched cost nothing.

use crate::claims::{ClaimWords, IncomingClaims, OutgoingClaims};
use crate::ring::{LaneReceiver, LaneSender, RING_BYTES_MAX, RingWords};
use crate::shm::{InSharedMemory, Mapping};
use crate::words::{Line, Shared};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// Which end of the lane a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Made the lane and connected to the other.
    Connector,
    /// Was sent the lane's file.
    Acceptor,
}

/// Why a file that a peer has sent is no lane.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error("cannot map the lane that the peer sent: {0}")]
    Io(#[from] io::Error),
    #[error(
        "the file that the peer sent is not a lane of this version (magic {found:#x}); are both processes of one ray_rs build?"
    )]
    NotALane { found: u64 },
}

/// "lane", and the version of everything this crate lays out.
const MAGIC: u64 = 0x6c61_6e65_0000_0001;
const PAGE: usize = 4096;
const CLAIM_BYTES: usize = size_of::<ClaimWords>();
const RINGS: usize = PAGE + 2 * CLAIM_BYTES;
const LANE_BYTES: usize = RINGS + 2 * RING_BYTES_MAX as usize;

// Each pair is [connector to acceptor, acceptor to connector].
pub(crate) const WORDS_OFFSET: [usize; 2] = [
    size_of::<Line<u64>>(),
    size_of::<Line<u64>>() + size_of::<RingWords<Shared>>(),
];
pub(crate) const CLAIMS_OFFSET: [usize; 2] = [PAGE, PAGE + CLAIM_BYTES];
pub(crate) const RING_OFFSET: [usize; 2] = [RINGS, RINGS + RING_BYTES_MAX as usize];
const _: () = assert!(WORDS_OFFSET[1] + size_of::<RingWords<Shared>>() <= PAGE);

pub(crate) type LaneMap = Mapping<LANE_BYTES>;

#[repr(C)]
struct Magic(AtomicU64);

// SAFETY: one atomic.
unsafe impl InSharedMemory for Magic {}

/// One end of a lane, not yet split into its halves.
#[derive(Debug)]
pub struct Lane {
    side: Side,
    map: Arc<LaneMap>,
}

impl Lane {
    /// A new lane: the connector's end and the descriptor that goes to the acceptor.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let (map, fd) = LaneMap::create("ray_rs-lane")?;
        map.at::<Magic>(0).0.store(MAGIC, Release);
        Ok((
            Self {
                side: Side::Connector,
                map: Arc::new(map),
            },
            fd,
        ))
    }

    /// The acceptor's end of a lane whose descriptor a peer has sent. The descriptor is closed.
    pub fn attach(fd: OwnedFd) -> Result<Self, LaneError> {
        let map = LaneMap::attach(fd)?;
        let found = map.at::<Magic>(0).0.load(Relaxed);
        if found != MAGIC {
            return Err(LaneError::NotALane { found });
        }
        Ok(Self {
            side: Side::Acceptor,
            map: Arc::new(map),
        })
    }

    pub fn side(&self) -> Side {
        self.side
    }

    /// The four halves; they may go to different threads, each is used by one at a time.
    pub fn split(self) -> (LaneSender, LaneReceiver, OutgoingClaims, IncomingClaims) {
        let (out, back) = match self.side {
            Side::Connector => (0, 1),
            Side::Acceptor => (1, 0),
        };
        (
            LaneSender::new(self.map.clone(), out),
            LaneReceiver::new(self.map.clone(), back),
            OutgoingClaims::new(self.map.clone(), out),
            IncomingClaims::new(self.map, back),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_lane_is_refused() {
        let (_, short) = Mapping::<PAGE>::create("short").unwrap();
        assert!(matches!(Lane::attach(short), Err(LaneError::Io(_))));
        let (_, blank) = LaneMap::create("blank").unwrap();
        assert!(matches!(Lane::attach(blank), Err(LaneError::NotALane { found: 0 })));
        let open = rustix::fs::memfd_create("open", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&open, LANE_BYTES as u64).unwrap();
        assert!(Lane::attach(open).unwrap_err().to_string().contains("not sealed"));
    }

    #[test]
    fn a_peer_cannot_shrink_it() {
        let (_, fd) = Lane::create().unwrap();
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
    }
}
