//! gRPC whose every connection has passed the [`handshake`](crate::handshake) first.

mod client;
mod server;
mod stream;

use std::time::Duration;

pub use client::{Address, ConnectError, RawClient, channel};
pub use server::{Listener, ServeError, serve};
pub use stream::{Connection, PeerInfo};
pub use tonic::Code;
pub use tonic::transport::Channel;

/// Largest message that either side takes: pickled functions may carry data with them.
pub const MAX_MESSAGE_BYTES: usize = 512 << 20;

/// A peer on another machine that is silent for so long is asked whether it is there, and has so long to answer.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(2);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(3);
