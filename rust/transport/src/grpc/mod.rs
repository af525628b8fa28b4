//! gRPC whose every connection has passed the [`handshake`](crate::handshake) first.

mod client;
mod server;
mod stream;

use std::net::SocketAddr;
use std::time::Duration;

pub use client::{Address, ConnectError, RawClient, call_number, channel};
pub use server::{Listener, ServeError, serve};
pub use stream::{Connection, PeerInfo};
pub use tonic::transport::Channel;
pub use tonic::{Code, Status};

/// Largest message that either side takes: pickled functions may carry data with them.
pub const MAX_MESSAGE_BYTES: usize = 512 << 20;

/// A peer on another machine that is silent for so long is asked whether it is there, and has so long to answer.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(2);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(3);

/// The other end is a process of this machine (or what looks like one: the end of a tunnel, which has to care for itself).
/// It cannot vanish without a word: its socket ends with it. So it is not asked whether it is there: on a machine with a
/// hundred processes for each processor the answer may take seconds, and nothing is to be declared dead for being slow.
fn is_this_machine(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_this_machine() {
        let is_here = |text: &str| is_this_machine(&text.parse().expect("an address"));
        assert!(
            is_here("127.0.0.1:1") && is_here("127.8.9.1:1") && is_here("[::1]:1") && is_here("[::ffff:127.0.0.1]:1")
        );
        assert!(!is_here("10.0.0.1:1") && !is_here("0.0.0.0:1") && !is_here("[fe80::1]:1"));
    }
}
