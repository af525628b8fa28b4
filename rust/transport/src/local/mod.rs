//! Framed messages between processes of one node, with descriptors beside them.
//!
//! A frame is four bytes of little-endian length and one encoded prost message. Descriptors travel with a frame's
//! first byte (`SCM_RIGHTS`).

mod frame;
mod scm;

use std::io;

use tokio::net::UnixStream;

pub use frame::{Frame, FrameReader, FrameWriter, MAX_FDS, MAX_FRAME_BYTES, frames, frames_of};

/// The process at the other end of a local socket, as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub pid: Option<u32>,
}

/// Says who is at the other end.
///
/// # Errors
/// `PermissionDenied` when it is another user's process: the caller drops the connection unread.
pub fn check_peer(stream: &UnixStream) -> io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    if credentials.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "user {} connected to a socket of another user's session",
                credentials.uid()
            ),
        ));
    }
    Ok(Peer {
        uid: credentials.uid(),
        pid: credentials.pid().and_then(|pid| u32::try_from(pid).ok()),
    })
}
