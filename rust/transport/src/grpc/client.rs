//! Connects, passes the handshake, and calls.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::stream::Connection;
use super::{KEEPALIVE_LIMIT, KEEPALIVE_PAUSE, MAX_MESSAGE_BYTES, is_this_machine};
use crate::faults::{self, Fault};
use crate::handshake::{self, HandshakeError};
use crate::tls;
use crate::token::Token;
use crate::visit::CONNECT_LIMIT;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no connection to {address:?}: {source}")]
    Failed {
        address: Address,
        source: tonic::transport::Error,
    },
}

impl ConnectError {
    /// The other machine is there, and no process listens at the address.
    pub fn is_refused(&self) -> bool {
        let Self::Failed { source, .. } = self;
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return error.kind() == io::ErrorKind::ConnectionRefused;
            }
            if let Some(HandshakeError::Io(error)) = error.downcast_ref::<HandshakeError>() {
                return error.kind() == io::ErrorKind::ConnectionRefused;
            }
            cause = error.source();
        }
        false
    }
}

/// Connects to `address`. When the connection breaks later, the next call connects (and proves itself) again.
///
/// # Errors
/// When nobody listens, or who listens does not know `token`.
pub async fn channel(address: Address, token: Token) -> Result<Channel, ConnectError> {
    // The authority is what HTTP/2 requires; the connector below decides where to connect.
    let mut endpoint = Endpoint::from_static("http://session.ray-rs.invalid").tcp_nodelay(true);
    if matches!(&address, Address::Tcp(address) if !is_this_machine(address)) {
        // A machine that vanishes says nothing: it is asked whether it is there.
        endpoint = endpoint
            .http2_keep_alive_interval(KEEPALIVE_PAUSE)
            .keep_alive_timeout(KEEPALIVE_LIMIT)
            .keep_alive_while_idle(true);
    }
    let connector = Connector {
        address: address.clone(),
        token,
    };
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Failed { address, source })
}

#[derive(Debug, Clone)]
struct Connector {
    address: Address,
    token: Token,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = HandshakeError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, HandshakeError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, token } = self.clone();
        Box::pin(async move {
            let connection = open(&address).await?;
            let (mut connection, binding) = encrypted(connection, &token).await?;
            handshake::connect(&mut connection, &token, &binding).await?;
            Ok(TokioIo::new(connection))
        })
    }
}

/// With TLS, if the token wants it and it goes to another machine; and what that has agreed on.
async fn encrypted(connection: Connection, token: &Token) -> Result<(Connection, Vec<u8>), HandshakeError> {
    match connection {
        Connection::Tcp(stream) if token.wants_tls() => {
            let (stream, binding) = timeout(CONNECT_LIMIT, tls::client(stream))
                .await
                .map_err(|_| HandshakeError::TimedOut)??;
            Ok((Connection::Tls(Box::new(stream)), binding.to_vec()))
        }
        connection => Ok((connection, Vec::new())),
    }
}

async fn open(address: &Address) -> io::Result<Connection> {
    match address {
        Address::Unix(path) => Ok(Connection::Unix(UnixStream::connect(path).await?)),
        Address::Tcp(address) => {
            let connecting = TcpStream::connect(address);
            let stream = timeout(CONNECT_LIMIT, connecting).await.map_err(|_| {
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} s", CONNECT_LIMIT.as_secs()),
                )
            })??;
            stream.set_nodelay(true)?;
            Ok(Connection::Tcp(stream))
        }
    }
}

/// In a call's metadata: what all tries of it have in common, and no other call has.
const CALL_NUMBER: &str = "ray-rs-call";

/// The number of the call of which this request is one of perhaps several tries; `None`: it has none.
pub fn call_number<T>(request: &Request<T>) -> Option<u64> {
    request.metadata().get(CALL_NUMBER)?.to_str().ok()?.parse().ok()
}

/// Makes unary calls whose messages stay encoded: a raylet forwards its clients' calls without looking into them.
#[derive(Debug, Clone)]
pub struct RawClient {
    channel: Channel,
    /// `/ray_rs.v1.Gcs/`
    prefix: &'static str,
}

impl RawClient {
    /// Calls the service `ray_rs.v1.Gcs` over `channel`.
    pub fn gcs(channel: Channel) -> Self {
        Self {
            channel,
            prefix: "/ray_rs.v1.Gcs/",
        }
    }

    /// Calls the service `ray_rs.v1.GlobalScheduler` over `channel`.
    pub fn scheduler(channel: Channel) -> Self {
        Self {
            channel,
            prefix: "/ray_rs.v1.GlobalScheduler/",
        }
    }

    /// Calls `method` (such as `KvGet`) with an encoded request, and returns the encoded reply.
    ///
    /// # Errors
    /// What the service answered; `INVALID_ARGUMENT` when `method` cannot be a method's name.
    pub async fn call(&self, method: &str, payload: Bytes) -> Result<Bytes, Status> {
        self.call_as(0, method, payload).await
    }

    /// The same as one of several tries of one call, which all have this number; 0: none.
    ///
    /// # Errors
    /// As of [`Self::call`].
    pub async fn call_as(&self, number: u64, method: &str, payload: Bytes) -> Result<Bytes, Status> {
        let lost = |what: &str| Err(Status::unavailable(format!("the {what} was lost on purpose")));
        match faults::of_process().and_then(|faults| faults.draw(method)) {
            None => {}
            Some(Fault::RequestLost) => return lost("request"),
            Some(Fault::ReplyLost) => {
                let _ = self.call_once(number, method, payload).await;
                return lost("reply");
            }
            Some(Fault::Twice) => {
                let _ = self.call_once(number, method, payload.clone()).await;
            }
            Some(Fault::Late(by)) => tokio::time::sleep(by).await,
        }
        self.call_once(number, method, payload).await
    }

    async fn call_once(&self, number: u64, method: &str, payload: Bytes) -> Result<Bytes, Status> {
        if method.is_empty() || !method.bytes().all(|c| c.is_ascii_alphanumeric()) {
            return Err(Status::invalid_argument(format!("{method:?} is no method's name")));
        }
        let path = PathAndQuery::try_from(format!("{}{method}", self.prefix)).expect("letters and digits");
        let mut client = tonic::client::Grpc::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(format!("it cannot be reached: {error}")))?;
        let mut request = Request::new(payload);
        if number != 0 {
            request.metadata_mut().insert(CALL_NUMBER, number.into());
        }
        Ok(client.unary(request, path, BytesCodec).await?.into_inner())
    }
}

/// A message is its bytes.
#[derive(Debug, Clone, Copy)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
