//! TLS on connections between machines, for clusters whose token asks for it.
//!
//! Nobody has to make or copy certificates. A server shows one that it has made for itself when it started, and a client
//! takes any: what proves both sides is the [`handshake`](crate::handshake), whose answers also cover a value that only
//! the two ends of this very TLS connection can compute (`tls-exporter`, RFC 9266). Somebody in the middle has two
//! connections with two such values, so that what one side says proves nothing to the other.
//!
//! gRPC speaks TLS directly ([`client`], [`server`]). Connections of nodes go on as plain sockets, which are passed from
//! process to process and filled straight from the arena: for them there is a [`tunnel`](client_tunnel), a pair of local
//! sockets with a thread of this process between the one end and the network.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConnectionCommon, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// What both ends of one TLS connection know, and nobody else.
pub type Binding = [u8; 32];

const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// No name is checked; the protocol wants one.
const SERVER_NAME: &str = "session.ray-rs.invalid";
/// Moved at once between a tunnel's end and the network.
const PIECE_BYTES: usize = 256 << 10;

/// The connecting side of TLS on `stream`.
///
/// # Errors
/// When the other side does not speak TLS 1.3, or ends.
pub async fn client(stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Binding)> {
    let name = ServerName::try_from(SERVER_NAME).expect("a name");
    let stream = TlsConnector::from(client_config()?)
        .connect(name, stream)
        .await
        .map_err(explained)?;
    let binding = binding_of(stream.get_ref().1)?;
    Ok((TlsStream::Client(stream), binding))
}

/// The accepting side.
///
/// # Errors
/// When the other side does not speak TLS 1.3, or ends.
pub async fn server(stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Binding)> {
    let stream = TlsAcceptor::from(server_config()?)
        .accept(stream)
        .await
        .map_err(explained)?;
    let binding = binding_of(stream.get_ref().1)?;
    Ok((TlsStream::Server(stream), binding))
}

fn binding_of<Side>(connection: &ConnectionCommon<Side>) -> io::Result<Binding> {
    connection
        .export_keying_material(Binding::default(), EXPORTER_LABEL, None)
        .map_err(io::Error::other)
}

/// The same, where what comes back has to be a socket: one end of a pair, between whose other end and the network a
/// thread of this process encrypts. The tunnel ends when either side does, and with this process.
///
/// # Errors
/// As of [`client`].
pub async fn client_tunnel(stream: TcpStream) -> io::Result<(TcpStream, Binding)> {
    tunnel(stream, client).await
}

/// The accepting side of [`client_tunnel`].
///
/// # Errors
/// As of [`server`].
pub async fn server_tunnel(stream: TcpStream) -> io::Result<(TcpStream, Binding)> {
    tunnel(stream, server).await
}

async fn tunnel<F>(stream: TcpStream, begin: fn(TcpStream) -> F) -> io::Result<(TcpStream, Binding)>
where
    F: Future<Output = io::Result<(TlsStream<TcpStream>, Binding)>> + Send + 'static,
{
    let stream = stream.into_std()?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let task = tunnels()?.spawn(async move {
        // From here on this runtime watches the socket, not the caller's.
        let begun = async {
            let (tls, binding) = begin(TcpStream::from_std(stream)?).await?;
            io::Result::Ok((tls, UnixStream::from_std(ours)?, binding))
        };
        match begun.await {
            Ok((tls, local, binding)) => {
                if ready.send(Ok(binding)).is_ok() {
                    carry(tls, local).await;
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    });
    // Who gives up midway leaves nothing behind.
    let guard = AbortOnDrop(Some(task));
    let binding = is_ready
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()))?;
    guard.let_go();
    // An owned socket is a socket: tokio's type for it only reads, writes and waits.
    let theirs = std::net::TcpStream::from(OwnedFd::from(theirs));
    Ok((TcpStream::from_std(theirs)?, binding))
}

/// Until either side ends; what one has said before is still brought to the other.
async fn carry(mut tls: TlsStream<TcpStream>, mut local: UnixStream) {
    if let Err(error) = copy_bidirectional_with_sizes(&mut tls, &mut local, PIECE_BYTES, PIECE_BYTES).await {
        tracing::debug!(%error, "a tunnel broke");
    }
    let _ = tls.shutdown().await;
}

struct AbortOnDrop(Option<tokio::task::JoinHandle<()>>);

impl AbortOnDrop {
    fn let_go(mut self) {
        self.0 = None;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// The runtime of this process's tunnels and relays, on a thread of its own: carrying gigabytes must not hold up a daemon's loop.
pub(crate) fn tunnels() -> io::Result<Handle> {
    static TUNNELS: OnceLock<Result<Handle, io::ErrorKind>> = OnceLock::new();
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("ray_rs-tunnels".to_owned())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        io::Result::Ok(handle)
    };
    TUNNELS
        .get_or_init(|| start().map_err(|error| error.kind()))
        .clone()
        .map_err(io::Error::from)
}

fn explained(error: io::Error) -> io::Error {
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        let hint = "is it a cluster with TLS, as the token that was used here says?";
        return io::Error::new(
            error.kind(),
            format!("the other side does not speak TLS ({error}); {hint}"),
        );
    }
    error
}

fn client_config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    // Each connection proves itself anew.
    config.resumption = Resumption::disabled();
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
}

fn server_config() -> io::Result<Arc<ServerConfig>> {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).map_err(io::Error::other)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.into()], key.into())
        .map_err(io::Error::other)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
}

/// Takes any certificate whose key the other side has: who it is shows in the handshake that follows.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
