//! The one TCP port of a node: who knocks, and what for.
//!
//! A connection between nodes opens with the [`handshake`](crate::handshake), then one greeting of fixed size from the
//! side that connects and one byte back. What follows belongs to whoever was asked for: the raylet, one of its core
//! workers (which gets the socket itself), or a reader of the node's arena.

use std::io;
use std::time::Duration;

use ray_rs_types::{NodeId, WorkerAddress, WorkerId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::faults::{self, Fault};
use crate::grpc::Address;
use crate::handshake::{self, HandshakeError};
use crate::relay::{self, Wish};
use crate::tls;
use crate::token::Token;

/// Raised when what processes of different nodes say to each other changes.
pub const WIRE_VERSION: u32 = 2;
/// A connection that is not there by then never will be.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);

const ID_BYTES: usize = 28;
const GREETING_BYTES: usize = 8 + 3 * ID_BYTES + 4;

/// What a visitor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be a client of the raylet.
    Raylet,
    /// To talk to this process.
    Worker(WorkerId),
    /// To read from the arena.
    Data,
}

/// The first thing that is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    pub purpose: Purpose,
    /// On whose behalf; for [`Purpose::Data`] only the node counts.
    pub from: WorkerAddress,
}

/// The answer to a greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    Welcome = 1,
    /// There is no such process (any more).
    NotHere = 2,
    /// The other side speaks another version.
    OtherVersion = 3,
}

/// Why a visit came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, io::Error),
    #[error("{0} refused: {1}")]
    Handshake(String, HandshakeError),
    #[error("the process is not there any more")]
    NotHere,
    #[error("its node cannot be reached through the control store (any more)")]
    NoWay,
    #[error(
        "the other side speaks version {theirs} of the wire format, and this one version {WIRE_VERSION}: all nodes of a cluster run one version of ray_rs"
    )]
    OtherVersion { theirs: u32 },
    #[error("no greeting came")]
    NoGreeting,
}

impl VisitError {
    /// Whether another try may succeed, as long as the node lives. A port at which nobody listens is that of a raylet that has
    /// ended: it keeps its port as long as it lives.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_, cause) => cause.kind() != io::ErrorKind::ConnectionRefused,
            Self::Handshake(_, HandshakeError::Io(_) | HandshakeError::TimedOut) => true,
            Self::Handshake(_, HandshakeError::WrongToken)
            | Self::NotHere
            | Self::NoWay
            | Self::OtherVersion { .. }
            | Self::NoGreeting => false,
        }
    }
}

impl Greeting {
    fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        let to = match self.purpose {
            Purpose::Raylet => {
                bytes[0] = 1;
                WorkerId::NIL
            }
            Purpose::Worker(worker) => {
                bytes[0] = 2;
                worker
            }
            Purpose::Data => {
                bytes[0] = 3;
                WorkerId::NIL
            }
        };
        bytes[4..8].copy_from_slice(&WIRE_VERSION.to_le_bytes());
        let ids = [to.0, self.from.node_id.0, self.from.worker_id.0];
        for (index, id) in ids.iter().enumerate() {
            let start = 8 + index * ID_BYTES;
            bytes[start..start + ID_BYTES].copy_from_slice(id);
        }
        bytes[8 + 3 * ID_BYTES..].copy_from_slice(&self.from.pid.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Self, VisitError> {
        let number = |start: usize| u32::from_le_bytes(bytes[start..start + 4].try_into().expect("four bytes"));
        if number(4) != WIRE_VERSION {
            return Err(VisitError::OtherVersion { theirs: number(4) });
        }
        let id = |index: usize| -> [u8; ID_BYTES] {
            let start = 8 + index * ID_BYTES;
            bytes[start..start + ID_BYTES].try_into().expect("an id")
        };
        let purpose = match bytes[0] {
            1 => Purpose::Raylet,
            2 => Purpose::Worker(WorkerId(id(0))),
            3 => Purpose::Data,
            _ => return Err(VisitError::NoGreeting),
        };
        Ok(Self {
            purpose,
            from: WorkerAddress {
                node_id: NodeId(id(1)),
                worker_id: WorkerId(id(2)),
                pid: number(8 + 3 * ID_BYTES),
            },
        })
    }
}

/// How the processes of one node get to other nodes.
#[derive(Debug, Clone)]
pub struct Roads {
    token: Token,
    gcs: Address,
    /// Whatever the address: nothing but the control store can be reached from here.
    only_through: bool,
}

impl Roads {
    /// Of a node that reaches others at their addresses, and through the control store at `gcs` those that have none.
    pub fn direct(token: Token, gcs: Address) -> Self {
        Self {
            token,
            gcs,
            only_through: false,
        }
    }

    /// Of a node that reaches nothing but the control store at `gcs`.
    pub fn through(token: Token, gcs: Address) -> Self {
        Self {
            token,
            gcs,
            only_through: true,
        }
    }

    /// Where a node is reached from here of which is known that it listens at `address`.
    pub fn address_of(&self, node: NodeId, address: String) -> String {
        match self.only_through {
            true => relay::address_through(node),
            false => address,
        }
    }

    /// Connects to the node at `address` (`host:port`, or what stands for a way through the control store) and is let in.
    ///
    /// # Errors
    /// When it cannot be reached within [`CONNECT_LIMIT`], does not know the token, or has no such process.
    pub async fn visit(&self, address: &str, greeting: &Greeting) -> Result<TcpStream, VisitError> {
        let name = match greeting.purpose {
            Purpose::Raylet | Purpose::Worker(_) => "Visit",
            Purpose::Data => "VisitToRead",
        };
        let fault = faults::of_process().and_then(|faults| faults.draw_named(name));
        let lost = || {
            let error = io::Error::other("the visit was lost on purpose");
            Err(VisitError::Unreachable(address.to_owned(), error))
        };
        match fault {
            Some(Fault::RequestLost) => return lost(),
            Some(Fault::Late(by)) => tokio::time::sleep(by).await,
            // Two visits at once are two visits.
            Some(Fault::ReplyLost | Fault::Twice) | None => {}
        }
        let connecting = async {
            let stream = match relay::node_behind(address) {
                Some(node) => relay::enter(&self.gcs, &self.token, Wish::Way(node)).await?,
                None => reach(address).await?,
            };
            be_let_in(stream, address, &self.token, greeting).await
        };
        let timed_out = || VisitError::Unreachable(address.to_owned(), io::ErrorKind::TimedOut.into());
        let outcome = tokio::time::timeout(CONNECT_LIMIT, connecting)
            .await
            .unwrap_or_else(|_| Err(timed_out()));
        if fault == Some(Fault::ReplyLost) {
            return lost();
        }
        outcome
    }
}

async fn reach(address: &str) -> Result<TcpStream, VisitError> {
    let unreachable = |error| VisitError::Unreachable(address.to_owned(), error);
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

async fn be_let_in(
    mut stream: TcpStream,
    address: &str,
    token: &Token,
    greeting: &Greeting,
) -> Result<TcpStream, VisitError> {
    let unreachable = |error| VisitError::Unreachable(address.to_owned(), error);
    let mut binding = Vec::new();
    if token.wants_tls() {
        let (inner, agreed) = tls::client_tunnel(stream).await.map_err(unreachable)?;
        (stream, binding) = (inner, agreed.to_vec());
    }
    handshake::connect(&mut stream, token, &binding)
        .await
        .map_err(|error| VisitError::Handshake(address.to_owned(), error))?;
    stream.write_all(&greeting.encode()).await.map_err(unreachable)?;
    match stream.read_u8().await {
        Ok(answer) if answer == Answer::Welcome as u8 => Ok(stream),
        // Which one is said as well; versions before the second did not.
        Ok(answer) if answer == Answer::OtherVersion as u8 => Err(VisitError::OtherVersion {
            theirs: stream.read_u32_le().await.unwrap_or(1),
        }),
        Ok(_) => Err(VisitError::NotHere),
        Err(error) => Err(unreachable(error)),
    }
}

/// The accepting side up to the greeting: what it says, and the socket on which the rest is said. The caller says
/// [`answer`]; on error the connection ends.
pub async fn receive(stream: TcpStream, token: &Token) -> Result<(TcpStream, Greeting), VisitError> {
    let broke = |error| VisitError::Unreachable("the visitor".to_owned(), error);
    stream.set_nodelay(true).map_err(broke)?;
    receive_through(stream, token).await
}

/// The same of one that comes through the control store; the socket may be of another kind than TCP's.
pub async fn receive_through(mut stream: TcpStream, token: &Token) -> Result<(TcpStream, Greeting), VisitError> {
    let broke = |error| VisitError::Unreachable("the visitor".to_owned(), error);
    let mut binding = Vec::new();
    if token.wants_tls() {
        let (inner, agreed) = tokio::time::timeout(CONNECT_LIMIT, tls::server_tunnel(stream))
            .await
            .map_err(|_| broke(io::ErrorKind::TimedOut.into()))?
            .map_err(broke)?;
        (stream, binding) = (inner, agreed.to_vec());
    }
    handshake::accept(&mut stream, token, &binding)
        .await
        .map_err(|error| VisitError::Handshake("the visitor".to_owned(), error))?;
    let mut bytes = [0; GREETING_BYTES];
    match tokio::time::timeout(CONNECT_LIMIT, stream.read_exact(&mut bytes)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(broke(error)),
        Err(_) => return Err(VisitError::NoGreeting),
    }
    let greeting = Greeting::decode(&bytes);
    if matches!(greeting, Err(VisitError::OtherVersion { .. })) {
        let mut bytes = vec![Answer::OtherVersion as u8];
        bytes.extend_from_slice(&WIRE_VERSION.to_le_bytes());
        let _ = stream.write_all(&bytes).await;
    }
    Ok((stream, greeting?))
}

/// Lets a visitor in, or not. Never waits: nothing else was sent before it.
pub fn answer(stream: &TcpStream, answer: Answer) -> io::Result<()> {
    let sent = rustix::net::send(stream, &[answer as u8], rustix::net::SendFlags::NOSIGNAL)?;
    if sent == 1 {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn greeting(purpose: Purpose) -> Greeting {
        Greeting {
            purpose,
            from: WorkerAddress {
                node_id: NodeId([3; ID_BYTES]),
                worker_id: WorkerId([4; ID_BYTES]),
                pid: 77,
            },
        }
    }

    async fn visit(address: &str, token: &Token, greeting: &Greeting) -> Result<TcpStream, VisitError> {
        let nowhere = Address::Unix("/nowhere".into());
        Roads::direct(token.clone(), nowhere).visit(address, greeting).await
    }

    fn run<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test)
    }

    #[test]
    fn greetings_survive_the_way() {
        for purpose in [Purpose::Raylet, Purpose::Data, Purpose::Worker(WorkerId([9; ID_BYTES]))] {
            let sent = greeting(purpose);
            assert_eq!(Greeting::decode(&sent.encode()).expect("read"), sent);
        }
        let mut other = greeting(Purpose::Data).encode();
        other[4] = 99;
        assert!(matches!(
            Greeting::decode(&other),
            Err(VisitError::OtherVersion { theirs: 99 })
        ));
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_a_greeting_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, GREETING_BYTES), known: bool) {
            let mut bytes: [u8; GREETING_BYTES] = bytes.try_into().expect("so many");
            if known {
                bytes[4..8].copy_from_slice(&WIRE_VERSION.to_le_bytes());
                bytes[0] %= 5;
            }
            if let Ok(greeting) = Greeting::decode(&bytes) {
                proptest::prop_assert_eq!(Greeting::decode(&greeting.encode()).expect("its own words"), greeting);
            }
        }
    }

    /// Through real sockets: nothing that a stranger sends is more than an error, and the next visitor is let in.
    #[test]
    fn garbage_at_the_port_is_an_error_and_no_more() {
        garbage_at_the_port(Token::random().expect("random"));
    }

    #[test]
    fn garbage_at_a_port_with_tls_is_an_error_and_no_more() {
        garbage_at_the_port(Token::random().expect("random").with_tls());
    }

    fn garbage_at_the_port(token: Token) {
        use proptest::strategy::{Strategy, ValueTree};
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let address = listener.local_addr().expect("bound");
            let mut runner = proptest::test_runner::TestRunner::deterministic();
            let garbage = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
            for _ in 0..50 {
                let bytes = garbage.new_tree(&mut runner).expect("some").current();
                let hosting = async {
                    let (stream, _) = listener.accept().await.expect("came");
                    receive(stream, &token).await
                };
                let throwing = async {
                    let mut stream = TcpStream::connect(address).await.expect("connected");
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                };
                let (came, ()) = tokio::join!(hosting, throwing);
                assert!(
                    matches!(came, Err(VisitError::Handshake(..) | VisitError::Unreachable(..))),
                    "{came:?}"
                );
            }
            let wanted = greeting(Purpose::Data);
            let hosting = async {
                let (stream, _) = listener.accept().await.expect("came");
                let (stream, came) = receive(stream, &token).await.expect("a good visitor");
                answer(&stream, Answer::Welcome).expect("said");
                came
            };
            let address = address.to_string();
            let (came, inside) = tokio::join!(hosting, visit(&address, &token, &wanted));
            assert_eq!(came, wanted);
            inside.expect("let in");
        });
    }

    #[test]
    fn a_visitor_is_let_in_or_told_that_nobody_is_there() {
        run(async {
            let token = Token::random().expect("random");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let address = listener.local_addr().expect("bound").to_string();
            for (said, expect_in) in [(Answer::Welcome, true), (Answer::NotHere, false)] {
                let hosting = async {
                    let (stream, _) = listener.accept().await.expect("came");
                    let (stream, came) = receive(stream, &token).await.expect("a good visitor");
                    answer(&stream, said).expect("said");
                    (came, stream)
                };
                let wanted = greeting(Purpose::Worker(WorkerId([1; ID_BYTES])));
                let ((came, _stream), inside) = tokio::join!(hosting, visit(&address, &token, &wanted));
                assert_eq!(came, wanted);
                assert_eq!(inside.is_ok(), expect_in);
            }
        });
    }

    #[test]
    fn a_stranger_gets_nowhere() {
        run(async {
            let (mine, theirs) = (Token::random().expect("random"), Token::random().expect("random"));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let address = listener.local_addr().expect("bound").to_string();
            let hosting = async {
                let (stream, _) = listener.accept().await.expect("came");
                receive(stream, &mine).await
            };
            let wanted = greeting(Purpose::Raylet);
            let (came, inside) = tokio::join!(hosting, visit(&address, &theirs, &wanted));
            assert!(matches!(came, Err(VisitError::Handshake(..))));
            assert!(matches!(inside, Err(VisitError::Handshake(..))));
        });
    }

    /// What is said goes both ways through the tunnel, whoever ends it, and nothing of it is to be read on the way.
    #[test]
    fn a_visit_with_tls_is_a_socket_like_any_other() {
        const SECRET: &[u8] = b"nobody else reads this";
        run(async {
            let token = Token::random().expect("random").with_tls();
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let (address, overheard) = overhear(listener.local_addr().expect("bound")).await;
            let wanted = greeting(Purpose::Data);
            let hosting = async {
                let (stream, _) = listener.accept().await.expect("came");
                let (mut stream, came) = receive(stream, &token).await.expect("a good visitor");
                answer(&stream, Answer::Welcome).expect("said");
                let mut heard = vec![0; SECRET.len()];
                stream.read_exact(&mut heard).await.expect("said");
                stream.write_all(&vec![7; 3_000_000]).await.expect("heard");
                (came, heard)
            };
            let visiting = async {
                let mut inside = visit(&address, &token, &wanted).await.expect("let in");
                inside.write_all(SECRET).await.expect("heard");
                let mut all = Vec::new();
                inside.read_to_end(&mut all).await.expect("said, and ended");
                all
            };
            let ((came, heard), all) = tokio::join!(hosting, visiting);
            assert_eq!((came, heard.as_slice()), (wanted, SECRET));
            assert!(all.len() == 3_000_000 && all.iter().all(|byte| *byte == 7));
            let bytes = overheard.await.expect("ended");
            assert!(bytes.len() > 3_000_000);
            assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET));
        });
    }

    /// Carries one connection to `to`, and in the end tells what went both ways.
    async fn overhear(to: std::net::SocketAddr) -> (String, tokio::task::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let carrying = tokio::spawn(async move {
            let (near, _) = listener.accept().await.expect("came");
            let far = TcpStream::connect(to).await.expect("connected");
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let one_way = |mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf| async move {
                let mut all = Vec::new();
                let mut piece = vec![0; 65536];
                while let Ok(count @ 1..) = from.read(&mut piece).await {
                    all.extend_from_slice(&piece[..count]);
                    if to.write_all(&piece[..count]).await.is_err() {
                        break;
                    }
                }
                all
            };
            let (mut there, back) = tokio::join!(one_way(near_in, far_out), one_way(far_in, near_out));
            there.extend(back);
            there
        });
        (address, carrying)
    }

    #[test]
    fn who_has_a_token_for_tls_says_nothing_without() {
        run(async {
            let plain = Token::random().expect("random");
            let encrypted = plain.clone().with_tls();
            for (hosts, visits) in [(&plain, &encrypted), (&encrypted, &plain)] {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
                let address = listener.local_addr().expect("bound").to_string();
                let hosting = async {
                    let (stream, _) = listener.accept().await.expect("came");
                    receive(stream, hosts).await
                };
                let wanted = greeting(Purpose::Raylet);
                let (came, inside) = tokio::join!(hosting, visit(&address, visits, &wanted));
                assert!(came.is_err() && inside.is_err());
            }
        });
    }
}
