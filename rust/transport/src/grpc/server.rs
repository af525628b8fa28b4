//! Accepts connections, lets those through that pass the handshake, and hands them to tonic.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::Server;

use super::stream::{Authenticated, Connection, PeerInfo};
use super::{KEEPALIVE_LIMIT, KEEPALIVE_PAUSE};
use crate::handshake::{self, HANDSHAKE_LIMIT, HandshakeError, Knock};
use crate::relay::Relay;
use crate::tls;
use crate::token::Token;

/// Strangers that may be in the middle of a handshake at the same time; more wait in the kernel's backlog.
const MAX_HANDSHAKES: usize = 64;
/// Pause after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that listens.
#[derive(Debug)]
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Takes over a Unix socket that the parent process bound and listens on.
    pub fn unix_from_fd(fd: OwnedFd) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(UnixListener::from_std(listener)?))
    }

    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Unix(listener) => Ok(Connection::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
        }
    }
}

/// The server stopped for another reason than its shutdown.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves `service` on all `listeners` until `shutdown` resolves; then open calls get to finish, and streams must end by
/// themselves. A connection from another machine is asked now and then whether its other end is there, and ends if not.
///
/// A connection from another user of this machine, or one that fails the handshake, is closed without a word. With a
/// `relay`, those that want a way through are its business.
pub async fn serve<S>(
    listeners: Vec<Listener>,
    token: Token,
    service: S,
    relay: Option<Relay>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (to_near, near) = mpsc::channel(MAX_HANDSHAKES);
    let (to_far, far) = mpsc::channel(MAX_HANDSHAKES);
    let ready = Accepted { to_near, to_far, relay };
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let acceptors: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            AbortOnDrop(tokio::spawn(accept_loop(
                listener,
                token.clone(),
                Arc::clone(&handshakes),
                ready.clone(),
            )))
        })
        .collect();
    drop(ready);
    // What belongs to a server of tonic belongs to all its connections, so there are two.
    let (shut, is_shut) = watch::channel(false);
    let shut_down = |mut is_shut: watch::Receiver<bool>| async move {
        let _ = is_shut.wait_for(|shut| *shut).await;
    };
    let near = Server::builder().serve_with_incoming_shutdown(
        service.clone(),
        ReceiverStream::new(near),
        shut_down(is_shut.clone()),
    );
    let far = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_PAUSE))
        .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
        .serve_with_incoming_shutdown(service, ReceiverStream::new(far), shut_down(is_shut));
    let tell = async {
        shutdown.await;
        shut.send_replace(true);
        Ok(())
    };
    let served = tokio::try_join!(near, far, tell);
    drop(acceptors);
    served?;
    Ok(())
}

type Queue = mpsc::Sender<Result<Authenticated, Infallible>>;

/// Where connections go that have passed the handshake.
#[derive(Debug, Clone)]
struct Accepted {
    /// Those of this machine: the kernel says when their other end is gone, and who only is slow is not.
    to_near: Queue,
    to_far: Queue,
    /// Who wants a way through; none: nobody is let through.
    relay: Option<Relay>,
}

impl Accepted {
    fn queue_of(&self, peer: &PeerInfo) -> &Queue {
        match peer.is_this_machine() {
            true => &self.to_near,
            false => &self.to_far,
        }
    }
}

/// Ends its task with the server, so that the sockets close when it does.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept_loop(listener: Listener, token: Token, handshakes: Arc<Semaphore>, ready: Accepted) {
    loop {
        let permit = Arc::clone(&handshakes)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let connection = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (token, ready) = (token.clone(), ready.clone());
        tokio::spawn(async move {
            let authenticated = tokio::select! {
                authenticated = authenticate(connection, &token, ready.relay.is_some()) => authenticated,
                () = ready.to_near.closed() => None,
            };
            match (authenticated, &ready.relay) {
                (Some((authenticated, Knock::Client)), _) => {
                    // A send error means that the server has ended; the connection ends with it.
                    let _ = ready.queue_of(&authenticated.peer).send(Ok(authenticated)).await;
                }
                (Some((authenticated, Knock::Relay)), Some(relay)) => {
                    drop(permit);
                    tokio::select! {
                        () = relay.serve(authenticated.connection) => {}
                        () = ready.to_near.closed() => {}
                    }
                }
                (_, _) => {}
            }
        });
    }
}

async fn authenticate(connection: Connection, token: &Token, relays: bool) -> Option<(Authenticated, Knock)> {
    let peer = connection.peer().ok()?;
    if let PeerInfo::Local { uid, .. } = peer
        && uid != rustix::process::geteuid().as_raw()
    {
        tracing::warn!(uid, "closed a connection from another user");
        return None;
    }
    match prove(connection, token, relays).await {
        Ok((connection, knock)) => Some((Authenticated { connection, peer }, knock)),
        Err(error) => {
            tracing::warn!(?peer, %error, "closed a connection");
            None
        }
    }
}

async fn prove(connection: Connection, token: &Token, relays: bool) -> Result<(Connection, Knock), HandshakeError> {
    let (mut connection, binding) = match connection {
        Connection::Tcp(stream) if token.wants_tls() => {
            let (stream, binding) = timeout(HANDSHAKE_LIMIT, tls::server(stream))
                .await
                .map_err(|_| HandshakeError::TimedOut)??;
            (Connection::Tls(Box::new(stream)), binding.to_vec())
        }
        connection => (connection, Vec::new()),
    };
    let knock = match relays {
        true => handshake::accept_either(&mut connection, token, &binding).await?,
        false => {
            handshake::accept(&mut connection, token, &binding).await?;
            Knock::Client
        }
    };
    Ok((connection, knock))
}
