//! How processes of the control plane talk: gRPC connections that begin with a challenge, frames with descriptors on
//! Unix sockets, the ends of processes and sessions, and what a process keeps in memory of its code.
//!
//! Called by `gcs`, `raylet` and `cli`. It moves bytes and decides nothing about nodes, actors or tasks. The data path
//! between core workers is not here: that is `lanes`.
//!
//! * `TRA-1`: nothing of a peer is parsed before it has shown that it knows the session's token ([`handshake`]) or,
//!   on a local socket, that it belongs to the same user ([`local::check_peer`]).
//! * `TRA-2`: the token never crosses a socket, and an answer that was overheard opens no second connection.
//! * `TRA-3`: dropping a future of this crate midway loses no byte and no descriptor.

pub mod code_pages;
pub mod faults;
pub mod grpc;
pub mod handshake;
pub mod local;
pub mod process;
pub mod process_mark;
pub mod relay;
pub mod session;
pub mod tls;
pub mod token;
pub mod visit;

pub use process::ProcessWatch;
pub use process_mark::ProcessMark;
pub use token::Token;
