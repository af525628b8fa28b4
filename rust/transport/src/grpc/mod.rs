//! gRPC whose every connection has passed the [`handshake`](crate::handshake) first.

mod client;
mod server;
mod stream;

pub use client::{Address, ConnectError, RawClient, channel};
pub use server::{Listener, ServeError, serve};
pub use stream::{Connection, PeerInfo};
pub use tonic::Code;
pub use tonic::transport::Channel;

/// Largest message that either side takes: pickled functions may carry data with them.
pub const MAX_MESSAGE_BYTES: usize = 512 << 20;
