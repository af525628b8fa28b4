//! Real sockets: tonic serves and calls only behind the challenge and response.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use ray_rs_transport::Token;
use ray_rs_transport::grpc::{Address, Listener, PeerInfo, RawClient, channel, serve};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Code, Status};

/// Counts the calls and declines each.
#[derive(Clone, Default)]
struct Declining {
    calls: Arc<AtomicUsize>,
}

impl Service<http::Request<Body>> for Declining {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let local = match request.extensions().get::<PeerInfo>() {
            Some(PeerInfo::Local { pid, .. }) => *pid == Some(std::process::id()),
            Some(PeerInfo::Remote { address }) => address.ip().is_loopback(),
            None => false,
        };
        assert!(local, "the service knows who calls");
        std::future::ready(Ok(Status::unimplemented(request.uri().path().to_owned()).into_http()))
    }
}

struct Served {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    tcp: std::net::SocketAddr,
    token: Token,
    calls: Arc<AtomicUsize>,
}

async fn start() -> Served {
    start_with(Token::random().expect("random")).await
}

async fn start_with(token: Token) -> Served {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("gcs");
    let bound = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = tcp.local_addr().expect("bound");
    let listeners = vec![
        Listener::unix_from_fd(bound.into()).expect("taken over"),
        Listener::Tcp(tcp),
    ];
    let service = Declining::default();
    let calls = Arc::clone(&service.calls);
    tokio::spawn(serve(listeners, token.clone(), service, None, std::future::pending()));
    Served {
        _dir: dir,
        socket,
        tcp: address,
        token,
        calls,
    }
}

fn run<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}

#[test]
fn tonic_calls_pass_over_unix_and_tcp_with_the_token() {
    calls_pass(Token::random().expect("random"));
}

#[test]
fn tonic_calls_pass_over_unix_and_tls_with_the_token() {
    calls_pass(Token::random().expect("random").with_tls());
}

fn calls_pass(token: Token) {
    run(async {
        let served = start_with(token).await;
        for address in [Address::Unix(served.socket.clone()), Address::Tcp(served.tcp)] {
            let client = RawClient::gcs(channel(address, served.token.clone()).await.expect("connected"));
            let status = client
                .call("KvGet", Bytes::from_static(b"x"))
                .await
                .expect_err("declined");
            assert_eq!(
                (status.code(), status.message()),
                (Code::Unimplemented, "/ray_rs.v1.Gcs/KvGet")
            );
            let status = client.call("../KvGet", Bytes::new()).await.expect_err("never sent");
            assert_eq!(status.code(), Code::InvalidArgument);
        }
        assert_eq!(served.calls.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_wrong_token_never_reaches_tonic() {
    run(async {
        let served = start().await;
        for address in [Address::Unix(served.socket.clone()), Address::Tcp(served.tcp)] {
            let error = channel(address, Token::random().expect("random"))
                .await
                .expect_err("refused");
            let mut chain = String::new();
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                chain.push_str(&format!("{error}: "));
                cause = error.source();
            }
            assert!(chain.contains("token"), "{chain}");
        }
        assert_eq!(served.calls.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn who_does_not_know_of_tls_never_reaches_tonic() {
    run(async {
        let plain = Token::random().expect("random");
        for (here, there) in [
            (plain.clone(), plain.clone().with_tls()),
            (plain.clone().with_tls(), plain.clone()),
        ] {
            let served = start_with(there).await;
            channel(Address::Tcp(served.tcp), here).await.expect_err("refused");
            assert_eq!(served.calls.load(Ordering::Relaxed), 0);
        }
    });
}

#[test]
fn http2_without_the_handshake_gets_a_challenge_and_an_end() {
    run(async {
        let served = start().await;
        let socket = served.socket.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(socket).expect("connected");
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("sent");
            stream.write_all(&[0; 64]).expect("sent");
            let mut answer = Vec::new();
            // The server closes with our bytes unread, which may show as a reset after the challenge.
            let _ = stream.read_to_end(&mut answer);
            answer
        })
        .await
        .expect("joined");
        assert_eq!(answer.len(), 32, "the challenge, and no byte of HTTP/2");
        assert_eq!(served.calls.load(Ordering::Relaxed), 0);
    });
}
