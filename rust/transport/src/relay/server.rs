//! The relaying side, which lies behind the control store's port.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ray_rs_types::NodeId;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::doors::Doors;
use super::{CallId, ID_BYTES, WISH_BYTES, Wish};
use crate::grpc::Connection;
use crate::tls;
use crate::visit::{Answer, CONNECT_LIMIT, VisitError, WIRE_VERSION};

/// Copied at once; with TLS smaller pieces, since the process has other things to do in between.
const PIECE_BYTES: usize = 256 << 10;
const TLS_PIECE_BYTES: usize = 32 << 10;
/// Calls that a door has not been told of yet; who comes then is told that there is no way.
const MAX_UNTOLD: usize = 256;
/// A machine that vanishes says nothing: the kernel asks whether it is there after so long, so often, and so many times.
const ALIVE_AFTER: Duration = Duration::from_secs(10);
const ALIVE_EACH: Duration = Duration::from_secs(5);
const ALIVE_TRIES: u32 = 3;

type Caller = oneshot::Sender<Connection>;

/// Relays between nodes. Clones share what is known.
#[derive(Clone)]
pub struct Relay {
    doors: Arc<Mutex<Doors<mpsc::Sender<CallId>, Caller>>>,
    /// Where a living node listens, as it said.
    address_of: Arc<dyn Fn(NodeId) -> Option<String> + Send + Sync>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    /// `address_of`: where a living node listens; it is called in between, and must not wait.
    pub fn new(address_of: impl Fn(NodeId) -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            doors: Arc::default(),
            address_of: Arc::new(address_of),
        }
    }

    fn doors(&self) -> MutexGuard<'_, Doors<mpsc::Sender<CallId>, Caller>> {
        self.doors.lock().expect("no code here panics with the lock held")
    }

    /// Serves a connection that has passed the handshake for relays, to its end.
    pub async fn serve(&self, mut connection: Connection) {
        let mut bytes = [0; WISH_BYTES];
        let Ok(Ok(_)) = timeout(CONNECT_LIMIT, connection.read_exact(&mut bytes)).await else {
            return;
        };
        let outcome = match Wish::decode(&bytes) {
            Ok(Wish::Way(node)) => self.make_way(connection, node).await,
            Ok(Wish::Door(node)) => self.keep_door(connection, node).await,
            Ok(Wish::Answer(call)) => self.bring_together(connection, &call).await,
            Err(VisitError::OtherVersion { .. }) => {
                let mut said = vec![Answer::OtherVersion as u8];
                said.extend_from_slice(&WIRE_VERSION.to_le_bytes());
                connection.write_all(&said).await
            }
            Err(_) => return,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a relayed connection broke");
        }
    }

    async fn make_way(&self, mut asker: Connection, node: NodeId) -> io::Result<()> {
        match self.reach(node).await {
            Some(other) => {
                say(&mut asker, Answer::Welcome).await?;
                carry(asker, other).await
            }
            None => say(&mut asker, Answer::NotHere).await,
        }
    }

    /// A socket to the node, from here or from there.
    async fn reach(&self, node: NodeId) -> Option<Connection> {
        let door = self.doors().door_of(node);
        let Some(door) = door else {
            let address = (self.address_of)(node)?;
            let stream = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await.ok()?.ok()?;
            stream.set_nodelay(true).ok()?;
            return Some(Connection::Tcp(stream));
        };
        let mut call: CallId = [0; ID_BYTES];
        getrandom::fill(&mut call).ok()?;
        let (caller, answered) = oneshot::channel();
        if !self.doors().called(call, caller) {
            return None;
        }
        let came = match door.try_send(call) {
            Ok(()) => timeout(CONNECT_LIMIT, answered).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        // Of no use to anybody any more, whether it was answered or not.
        drop(self.doors().answered(&call));
        came
    }

    async fn keep_door(&self, mut connection: Connection, node: NodeId) -> io::Result<()> {
        let (door, mut calls) = mpsc::channel(MAX_UNTOLD);
        let number = self.doors().opened(node, door);
        let outcome = async {
            keep_whole_alive(&connection);
            say(&mut connection, Answer::Welcome).await?;
            let mut nothing = [0];
            loop {
                tokio::select! {
                    call = calls.recv() => match call {
                        Some(call) => connection.write_all(&call).await?,
                        // A later door has taken its place.
                        None => return Ok(()),
                    },
                    // It has nothing to say: this is its end.
                    _ = connection.read(&mut nothing) => return Ok(()),
                }
            }
        };
        let outcome = outcome.await;
        self.doors().closed(node, number);
        outcome
    }

    async fn bring_together(&self, mut connection: Connection, call: &CallId) -> io::Result<()> {
        let caller = self.doors().answered(call);
        match caller {
            Some(caller) => {
                say(&mut connection, Answer::Welcome).await?;
                // Who has given up meanwhile is gone, and this socket with him.
                drop(caller.send(connection));
                Ok(())
            }
            None => say(&mut connection, Answer::NotHere).await,
        }
    }
}

async fn say(connection: &mut Connection, answer: Answer) -> io::Result<()> {
    connection.write_all(&[answer as u8]).await?;
    connection.flush().await
}

/// Until both sides have ended, or either broke. Sockets without TLS are carried on a thread of their own.
async fn carry(one: Connection, other: Connection) -> io::Result<()> {
    keep_whole_alive(&one);
    keep_whole_alive(&other);
    match (Bare::of(one)?, Bare::of(other)?) {
        (Ok(one), Ok(other)) => {
            let carried = tls::tunnels()?.spawn(async move {
                let (mut one, mut other) = (one.watched()?, other.watched()?);
                copy(&mut one, &mut other, PIECE_BYTES).await
            });
            carried
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()))
        }
        (one, other) => {
            let whole = |side: Result<Bare, Connection>| match side {
                Ok(bare) => bare.watched(),
                Err(connection) => Ok(connection),
            };
            copy(&mut whole(one)?, &mut whole(other)?, TLS_PIECE_BYTES).await
        }
    }
}

async fn copy<A, B>(one: &mut A, other: &mut B, piece_bytes: usize) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(one, other, piece_bytes, piece_bytes).await?;
    Ok(())
}

/// A socket that no runtime watches.
enum Bare {
    Unix(std::os::unix::net::UnixStream),
    Tcp(std::net::TcpStream),
}

impl Bare {
    /// `Err`: it has TLS, whose state belongs to it.
    fn of(connection: Connection) -> io::Result<Result<Self, Connection>> {
        Ok(match connection {
            Connection::Unix(stream) => Ok(Self::Unix(stream.into_std()?)),
            Connection::Tcp(stream) => Ok(Self::Tcp(stream.into_std()?)),
            Connection::Tls(_) => Err(connection),
        })
    }

    /// By the runtime of whoever calls.
    fn watched(self) -> io::Result<Connection> {
        Ok(match self {
            Self::Unix(stream) => Connection::Unix(UnixStream::from_std(stream)?),
            Self::Tcp(stream) => Connection::Tcp(TcpStream::from_std(stream)?),
        })
    }
}

fn keep_whole_alive(connection: &Connection) {
    match connection {
        Connection::Unix(_) => {}
        Connection::Tcp(stream) => keep_alive(stream),
        Connection::Tls(stream) => keep_alive(stream.get_ref().0),
    }
}

/// What is no TCP needs none of this.
pub(super) fn keep_alive(stream: &TcpStream) {
    let set = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, ALIVE_AFTER))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, ALIVE_EACH))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, ALIVE_TRIES));
    if let Err(error) = set {
        tracing::debug!(%error, "the kernel does not watch a relayed connection");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ray_rs_types::{WorkerAddress, WorkerId};
    use tokio::net::TcpListener;

    use super::*;
    use crate::grpc::Address;
    use crate::handshake::{self, Knock};
    use crate::relay::{address_through, enter, keep_door};
    use crate::token::Token;
    use crate::visit::{self, Greeting, Purpose, Roads};

    const NODE: NodeId = NodeId([1; 28]);
    const CLIENT: NodeId = NodeId([2; 28]);

    fn run<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test)
    }

    fn greeting() -> Greeting {
        Greeting {
            purpose: Purpose::Worker(WorkerId([9; 28])),
            from: WorkerAddress {
                node_id: CLIENT,
                worker_id: WorkerId([4; 28]),
                pid: 7,
            },
        }
    }

    /// A control store's port, as far as this goes; `node` is where the node [`NODE`] listens.
    async fn relay_before(node: SocketAddr, token: &Token) -> Address {
        let relay = Relay::new(move |id| (id == NODE).then(|| node.to_string()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let token = token.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("came");
                let (token, relay) = (token.clone(), relay.clone());
                tokio::spawn(async move {
                    let (mut connection, binding) = match token.wants_tls() {
                        true => {
                            let (stream, binding) = tls::server(stream).await.expect("it speaks TLS");
                            (Connection::Tls(Box::new(stream)), binding.to_vec())
                        }
                        false => (Connection::Tcp(stream), Vec::new()),
                    };
                    let knock = handshake::accept_either(&mut connection, &token, &binding).await;
                    if matches!(knock, Ok(Knock::Relay)) {
                        relay.serve(connection).await;
                    }
                });
            }
        });
        Address::Tcp(address)
    }

    /// Lets the visitor in, hears five bytes and says more than any buffer holds.
    async fn host(stream: TcpStream, token: Token) -> Greeting {
        let (mut stream, came) = visit::receive_through(stream, &token).await.expect("a good visitor");
        visit::answer(&stream, Answer::Welcome).expect("said");
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.expect("said");
        assert_eq!(&heard, b"hello");
        stream.write_all(&vec![7; 3_000_000]).await.expect("heard");
        came
    }

    async fn talk(mut inside: TcpStream) {
        inside.write_all(b"hello").await.expect("heard");
        let mut all = Vec::new();
        inside.read_to_end(&mut all).await.expect("said, and ended");
        assert!(all.len() == 3_000_000 && all.iter().all(|byte| *byte == 7));
    }

    fn both_ways_lead_through(token: &Token) {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let gcs = relay_before(listener.local_addr().expect("bound"), token).await;
            // From a client to a node.
            let roads = Roads::through(token.clone(), gcs.clone());
            let hosting = async {
                let (stream, _) = listener.accept().await.expect("came");
                host(stream, token.clone()).await
            };
            let wanted = greeting();
            let address = address_through(NODE);
            let visiting = async { talk(roads.visit(&address, &wanted).await.expect("let in")).await };
            let (came, ()) = tokio::join!(hosting, visiting);
            assert_eq!(came, wanted);
            // From a node to a client, whose door may not be open yet.
            let (ways, mut came) = mpsc::unbounded_channel();
            let door = tokio::spawn(keep_door(gcs.clone(), token.clone(), CLIENT, move |way| {
                let _ = ways.send(way);
            }));
            let hosting = async {
                let way = came.recv().await.expect("somebody comes");
                host(way, token.clone()).await
            };
            let roads = Roads::direct(token.clone(), gcs.clone());
            let address = address_through(CLIENT);
            let visiting = async {
                loop {
                    match roads.visit(&address, &wanted).await {
                        Ok(inside) => break talk(inside).await,
                        Err(VisitError::NoWay) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            let (came, ()) = tokio::join!(hosting, visiting);
            assert_eq!(came, wanted);
            door.abort();
        });
    }

    #[test]
    fn both_ways_lead_through_the_relay() {
        both_ways_lead_through(&Token::random().expect("random"));
    }

    #[test]
    fn both_ways_lead_through_the_relay_with_tls() {
        both_ways_lead_through(&Token::random().expect("random").with_tls());
    }

    #[test]
    fn there_is_no_way_to_who_is_not_there_and_none_for_a_stranger() {
        run(async {
            let token = Token::random().expect("random");
            let nobody = "127.0.0.1:1".parse().expect("an address");
            let gcs = relay_before(nobody, &token).await;
            for wish in [Wish::Way(NODE), Wish::Way(CLIENT), Wish::Answer([3; 28])] {
                assert!(matches!(enter(&gcs, &token, wish).await, Err(VisitError::NoWay)));
            }
            let stranger = Token::random().expect("random");
            let outcome = enter(&gcs, &stranger, Wish::Way(NODE)).await;
            assert!(matches!(outcome, Err(VisitError::Handshake(..))));
        });
    }
}
