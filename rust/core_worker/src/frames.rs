//! Frames on Unix sockets: four bytes of little-endian length, then a prost message, with descriptors attached to the
//! first byte. Plain blocking or non-blocking descriptors: a worker process carries no async runtime.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Nobody sends more; a longer length is a broken peer.
const MAX_FRAME_BYTES: usize = 1 << 30;
/// Room for what comes next, at first: most frames are small, and most workers never see many. Each worker has several
/// readers, and memory that is read into is memory it does not share with the others.
const SMALL_READ: usize = 2 << 10;
/// And when that was full.
const LARGE_READ: usize = 32 << 10;
/// A frame carries at most this many descriptors.
const MAX_FDS: usize = 4;

/// Appends one frame to `out`.
pub fn append(out: &mut Vec<u8>, message: &impl prost::Message) {
    let len = message.encoded_len();
    out.extend_from_slice(&u32::try_from(len).expect("frames are far below 4 GiB").to_le_bytes());
    message.encode(out).expect("a Vec grows");
}

/// Writes all of `bytes`, waiting when the socket is full.
pub fn write_all(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    write_with_fds(socket, bytes, &[])
}

/// The same, with descriptors on the first byte.
pub fn write_with_fds(socket: BorrowedFd<'_>, mut bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut fds = fds;
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                bytes = &bytes[sent..];
                fds = &[];
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut poll = [rustix::event::PollFd::from_borrowed_fd(
                    socket,
                    rustix::event::PollFlags::OUT,
                )];
                match rustix::event::poll(&mut poll, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Puts frames together from what the socket gives.
#[derive(Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    /// The last read took all that there was room for.
    was_full: bool,
    fds: Vec<OwnedFd>,
}

/// What one read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    Some,
    /// Nothing now (non-blocking read).
    Nothing,
    /// The peer closed, or the connection broke.
    Closed,
}

impl FrameReader {
    /// Reads once. `flags` decides whether it may block.
    pub fn fill(&mut self, socket: impl AsFd, flags: RecvFlags) -> Filled {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let old = self.buffer.len();
        let room = self.missing().max(if self.was_full { LARGE_READ } else { SMALL_READ });
        self.buffer.resize(old + room, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer[old..])];
            match rustix::net::recvmsg(&socket, &mut parts, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        match received {
            Ok(message) if message.bytes > 0 && !message.flags.contains(ReturnFlags::CTRUNC) => {
                self.was_full = message.bytes == room;
                self.buffer.truncate(old + message.bytes);
                Filled::Some
            }
            Err(rustix::io::Errno::AGAIN) => {
                self.buffer.truncate(old);
                Filled::Nothing
            }
            Ok(_) | Err(_) => {
                self.buffer.truncate(old);
                Filled::Closed
            }
        }
    }

    fn missing(&self) -> usize {
        match self.length() {
            Some(len) => (len + 4).saturating_sub(self.buffer.len() - self.start),
            None => 0,
        }
    }

    fn length(&self) -> Option<usize> {
        let head = self.buffer.get(self.start..self.start + 4)?;
        Some(u32::from_le_bytes(head.try_into().expect("four bytes")) as usize)
    }

    /// The next whole frame; an error when the peer does not speak frames.
    pub fn next<M: prost::Message + Default>(&mut self) -> Result<Option<M>, prost::DecodeError> {
        let Some(len) = self.length() else { return Ok(None) };
        if len > MAX_FRAME_BYTES {
            // Any decoding error will do: the connection is closed on it.
            return M::decode(&[0xff_u8][..]).map(Some);
        }
        let Some(body) = self.buffer.get(self.start + 4..self.start + 4 + len) else {
            return Ok(None);
        };
        let message = M::decode(body);
        self.start += 4 + len;
        message.map(Some)
    }

    /// The descriptor that came first, of those not taken yet.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        (!self.fds.is_empty()).then(|| self.fds.remove(0))
    }

    /// Descriptors received so far, in order.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }
}

#[cfg(test)]
mod tests {
    use ray_rs_proto::v1;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket pair")
    }

    #[test]
    fn frames_and_descriptors_arrive_whole_and_in_order() {
        let (left, right) = pair();
        let mut bytes = vec![];
        append(&mut bytes, &v1::LeaseRevoked { lease_id: 7 });
        append(
            &mut bytes,
            &v1::LeaseRejected {
                request_id: 8,
                reason: "x".repeat(40_000),
                cause: 0,
            },
        );
        let writer = std::thread::spawn({
            let extra = left.try_clone().expect("dup");
            move || write_with_fds(left.as_fd(), &bytes, &[extra.as_fd()]).expect("written")
        });
        let mut reader = FrameReader::default();
        let mut first = None;
        let mut second = None;
        while second.is_none() {
            if first.is_none() {
                first = reader.next::<v1::LeaseRevoked>().expect("well formed");
            }
            if first.is_some() {
                second = reader.next::<v1::LeaseRejected>().expect("well formed");
            }
            if second.is_none() {
                assert_eq!(reader.fill(&right, RecvFlags::empty()), Filled::Some);
            }
        }
        writer.join().expect("no panic");
        assert_eq!(first.map(|f| f.lease_id), Some(7));
        assert_eq!(second.map(|f| f.reason.len()), Some(40_000));
        assert_eq!(reader.take_fds().len(), 1);
        assert_eq!(reader.fill(&right, RecvFlags::empty()), Filled::Closed);
    }

    #[test]
    fn nonsense_is_an_error() {
        let mut reader = FrameReader {
            buffer: vec![0xff; 8],
            ..FrameReader::default()
        };
        assert!(reader.next::<v1::LeaseRevoked>().is_err());
    }
}
