//! Ways through the control store's port, to and from nodes that nobody can connect to.
//!
//! A client's node ([`ray_rs_types`]' word: a node that only hosts a program) may be anywhere: behind a router, a firewall, a
//! tunnel. It listens on no port, and of the cluster it needs to reach one port alone, that of the control store. To any other
//! node it goes *through* there; and it keeps a *door* open there, over which it is told when somebody wants in. Then it comes
//! for him, with the number of the call.
//!
//! ```text
//! who connects -> control store   the handshake, in its words for relays
//! who connects -> control store   what for: 4 bytes; version of the wire: 4; a node, or the number of a call: 28
//! control store -> who connects   one byte, as in `visit`
//! ```
//!
//! What follows on a way is between its two ends, who begin with the [handshake](crate::handshake) (and TLS) as on any
//! connection between nodes: whoever relays reads nothing of it.
//!
//! * `REL-1`: each call is answered once or not at all, and both ends of a way belong to the cluster.
//! * `REL-2`: a node has one door; a later one takes the place of an earlier one, whose end then changes nothing.

mod doors;
mod server;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ray_rs_types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

pub use self::server::Relay;
use crate::grpc::Address;
use crate::handshake;
use crate::tls;
use crate::token::Token;
use crate::visit::{Answer, CONNECT_LIMIT, VisitError, WIRE_VERSION};

const ID_BYTES: usize = NodeId::SIZE;
const WISH_BYTES: usize = 8 + ID_BYTES;
/// Begins what stands for the address of a node that is reached through the control store.
const PREFIX: &str = "relay:";
/// Before the door is tried again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The number of a call: random, so that nobody guesses it.
pub type CallId = [u8; ID_BYTES];

/// What somebody comes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A way to this node.
    Way(NodeId),
    /// To be told when somebody wants to reach this node, which is the one that connects.
    Door(NodeId),
    /// Here is who was called.
    Answer(CallId),
}

impl Wish {
    fn encode(self) -> [u8; WISH_BYTES] {
        let (kind, id) = match self {
            Self::Way(node) => (1, node.0),
            Self::Door(node) => (2, node.0),
            Self::Answer(call) => (3, call),
        };
        let mut bytes = [0; WISH_BYTES];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&WIRE_VERSION.to_le_bytes());
        bytes[8..].copy_from_slice(&id);
        bytes
    }

    fn decode(bytes: &[u8; WISH_BYTES]) -> Result<Self, VisitError> {
        let theirs = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
        if theirs != WIRE_VERSION {
            return Err(VisitError::OtherVersion { theirs });
        }
        let id: [u8; ID_BYTES] = bytes[8..].try_into().expect("an id");
        match bytes[0] {
            1 => Ok(Self::Way(NodeId(id))),
            2 => Ok(Self::Door(NodeId(id))),
            3 => Ok(Self::Answer(id)),
            _ => Err(VisitError::NoGreeting),
        }
    }
}

/// What stands for the address of a node that is reached through the control store.
pub fn address_through(node: NodeId) -> String {
    format!("{PREFIX}{}", node.hex())
}

/// The node that is meant by such a word; `None`: it is an address of the network.
pub fn node_behind(address: &str) -> Option<NodeId> {
    NodeId::from_hex(address.strip_prefix(PREFIX)?)
}

/// Goes through the control store at `gcs`.
///
/// # Errors
/// When it cannot be reached within [`CONNECT_LIMIT`], does not know the token, or there is no way to where the wish goes.
pub(crate) async fn enter(gcs: &Address, token: &Token, wish: Wish) -> Result<TcpStream, VisitError> {
    let named = || match gcs {
        Address::Unix(path) => path.display().to_string(),
        Address::Tcp(address) => address.to_string(),
    };
    let unreachable = |error| VisitError::Unreachable(named(), error);
    let entering = async {
        let (mut stream, binding) = open(gcs, token).await.map_err(unreachable)?;
        handshake::connect_to_relay(&mut stream, token, &binding)
            .await
            .map_err(|error| VisitError::Handshake(named(), error))?;
        stream.write_all(&wish.encode()).await.map_err(unreachable)?;
        match stream.read_u8().await {
            Ok(answer) if answer == Answer::Welcome as u8 => Ok(stream),
            Ok(answer) if answer == Answer::OtherVersion as u8 => Err(VisitError::OtherVersion {
                theirs: stream.read_u32_le().await.unwrap_or(1),
            }),
            Ok(_) => Err(VisitError::NoWay),
            Err(error) => Err(unreachable(error)),
        }
    };
    timeout(CONNECT_LIMIT, entering)
        .await
        .unwrap_or_else(|_| Err(unreachable(io::ErrorKind::TimedOut.into())))
}

/// A socket to the control store, and what TLS has agreed on if there is any.
async fn open(gcs: &Address, token: &Token) -> io::Result<(TcpStream, Vec<u8>)> {
    match gcs {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await?.into_std()?;
            // An owned socket is a socket: tokio's type for it only reads, writes and waits.
            let stream = std::net::TcpStream::from(OwnedFd::from(stream));
            Ok((TcpStream::from_std(stream)?, Vec::new()))
        }
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            if !token.wants_tls() {
                return Ok((stream, Vec::new()));
            }
            let (stream, binding) = tls::client_tunnel(stream).await?;
            Ok((stream, binding.to_vec()))
        }
    }
}

/// Opens the door of `node`, however long that takes, and comes for everybody who wants in. Each way goes to `came`, which is
/// not to take long; what was not let in there within seconds is given up by the other side. Ends when the door is lost,
/// and with it whatever was relayed, and says how.
pub async fn keep_door(
    gcs: Address,
    token: Token,
    node: NodeId,
    came: impl Fn(TcpStream) + Clone + Send + 'static,
) -> io::Error {
    let mut pause = FIRST_PAUSE;
    loop {
        match enter(&gcs, &token, Wish::Door(node)).await {
            Ok(door) => {
                server::keep_alive(&door);
                return attend(door, &gcs, &token, &came).await;
            }
            Err(error) => tracing::debug!(%error, "no door at the control store"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Until the door breaks.
async fn attend(
    mut door: TcpStream,
    gcs: &Address,
    token: &Token,
    came: &(impl Fn(TcpStream) + Clone + Send + 'static),
) -> io::Error {
    loop {
        let mut call: CallId = [0; ID_BYTES];
        if let Err(error) = door.read_exact(&mut call).await {
            return error;
        }
        let (gcs, token, came) = (gcs.clone(), token.clone(), came.clone());
        tokio::spawn(async move {
            match enter(&gcs, &token, Wish::Answer(call)).await {
                Ok(way) => came(way),
                Err(error) => tracing::debug!(%error, "who wanted in has gone"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_a_wish_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, WISH_BYTES), known: bool) {
            let mut bytes: [u8; WISH_BYTES] = bytes.try_into().expect("so many");
            if known {
                bytes[0] %= 5;
                bytes[4..8].copy_from_slice(&WIRE_VERSION.to_le_bytes());
            }
            if let Ok(wish) = Wish::decode(&bytes) {
                proptest::prop_assert_eq!(Wish::decode(&wish.encode()).expect("its own words"), wish);
            }
        }
    }

    #[test]
    fn an_address_is_of_the_network_or_names_a_node() {
        let node = NodeId([7; ID_BYTES]);
        assert_eq!(node_behind(&address_through(node)), Some(node));
        for address in ["10.0.0.1:6379", "relay:", "relay:77", "[::1]:5", ""] {
            assert_eq!(node_behind(address), None, "{address}");
        }
    }
}
