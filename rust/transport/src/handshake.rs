//! The challenge and response that opens every gRPC connection, before a byte of HTTP/2.
//!
//! ```text
//! server -> client   server nonce (32)
//! client -> server   client nonce (32), HMAC-SHA256(token, "ray_rs client" + server nonce + client nonce) (32)
//! server -> client   HMAC-SHA256(token, "ray_rs server" + server nonce + client nonce) (32)
//! ```
//!
//! Who wants a way through a [relay](crate::relay) says "ray_rs relay" in the place of "ray_rs client".
//!
//! Under [`tls`](crate::tls) each HMAC covers the connection's binding as well, after the nonces.
//!
//! Both sides prove that they know the token, and both put in fresh randomness, so that no recorded half can be used
//! again, and neither answer can be used for the other. Every message has a fixed size: there is nothing to parse.

use std::io;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::token::Token;

const NONCE_BYTES: usize = 32;
const MAC_BYTES: usize = 32;
const CLIENT_LABEL: &[u8] = b"ray_rs client";
const RELAY_LABEL: &[u8] = b"ray_rs relay";
const SERVER_LABEL: &[u8] = b"ray_rs server";

/// A peer that has not finished within this time is disconnected.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Why a connection was not opened.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the peer does not know this session's token")]
    WrongToken,
    #[error("the peer did not finish the handshake within {} s", HANDSHAKE_LIMIT.as_secs())]
    TimedOut,
    #[error("the connection broke during the handshake: {0}")]
    Io(#[from] io::Error),
}

/// What a connection is for, as its opening proof says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knock {
    /// Whoever listens is meant.
    Client,
    /// A way through here is wanted.
    Relay,
}

impl Knock {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Client => CLIENT_LABEL,
            Self::Relay => RELAY_LABEL,
        }
    }
}

/// The accepting side. On error the caller must drop the connection unread.
///
/// `binding` is what TLS has agreed on, or empty.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    token: &Token,
    binding: &[u8],
) -> Result<(), HandshakeError> {
    accept_within(HANDSHAKE_LIMIT, stream, token, binding, &[Knock::Client])
        .await
        .map(drop)
}

/// The accepting side where ways lead through: says which is wanted.
pub async fn accept_either<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    token: &Token,
    binding: &[u8],
) -> Result<Knock, HandshakeError> {
    let known = [Knock::Client, Knock::Relay];
    accept_within(HANDSHAKE_LIMIT, stream, token, binding, &known).await
}

async fn accept_within<S: AsyncRead + AsyncWrite + Unpin>(
    limit: Duration,
    stream: &mut S,
    token: &Token,
    binding: &[u8],
    known: &[Knock],
) -> Result<Knock, HandshakeError> {
    limited(limit, async {
        let server_nonce = fresh_nonce()?;
        stream.write_all(&server_nonce).await?;
        stream.flush().await?;
        let mut answer = [0; NONCE_BYTES + MAC_BYTES];
        stream.read_exact(&mut answer).await?;
        let (client_nonce, mac) = answer.split_at(NONCE_BYTES);
        let parts = [&server_nonce[..], client_nonce, binding];
        let is_meant = |knock: &&Knock| verify(token, knock.label(), parts, mac).is_ok();
        let knock = *known.iter().find(is_meant).ok_or(HandshakeError::WrongToken)?;
        let proof = keyed(token, SERVER_LABEL, [&server_nonce, client_nonce, binding])
            .finalize()
            .into_bytes();
        stream.write_all(&proof).await?;
        stream.flush().await?;
        Ok(knock)
    })
    .await
}

/// The connecting side. On error the caller must drop the connection: the server is not the session's.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    token: &Token,
    binding: &[u8],
) -> Result<(), HandshakeError> {
    connect_as(Knock::Client, stream, token, binding).await
}

/// The connecting side of one that wants a way through. On error the caller must drop the connection.
pub async fn connect_to_relay<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    token: &Token,
    binding: &[u8],
) -> Result<(), HandshakeError> {
    connect_as(Knock::Relay, stream, token, binding).await
}

async fn connect_as<S: AsyncRead + AsyncWrite + Unpin>(
    knock: Knock,
    stream: &mut S,
    token: &Token,
    binding: &[u8],
) -> Result<(), HandshakeError> {
    limited(HANDSHAKE_LIMIT, async {
        let mut server_nonce = [0; NONCE_BYTES];
        stream.read_exact(&mut server_nonce).await?;
        let client_nonce = fresh_nonce()?;
        let mut answer = [0; NONCE_BYTES + MAC_BYTES];
        answer[..NONCE_BYTES].copy_from_slice(&client_nonce);
        let mac = keyed(token, knock.label(), [&server_nonce, &client_nonce, binding])
            .finalize()
            .into_bytes();
        answer[NONCE_BYTES..].copy_from_slice(&mac);
        stream.write_all(&answer).await?;
        stream.flush().await?;
        let mut proof = [0; MAC_BYTES];
        match stream.read_exact(&mut proof).await {
            Ok(_) => {}
            // That is how the other side says no.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(HandshakeError::WrongToken),
            Err(error) => return Err(error.into()),
        }
        verify(token, SERVER_LABEL, [&server_nonce, &client_nonce, binding], &proof)
    })
    .await
}

async fn limited<T>(
    limit: Duration,
    steps: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    tokio::time::timeout(limit, steps)
        .await
        .unwrap_or(Err(HandshakeError::TimedOut))
}

fn fresh_nonce() -> io::Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

/// `parts`: the server's nonce, the client's, and the binding; all of them of a fixed length or none.
fn keyed(token: &Token, label: &[u8], parts: [&[u8]; 3]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token.secret()).expect("HMAC takes keys of any length");
    mac.update(label);
    for part in parts {
        mac.update(part);
    }
    mac
}

/// Compares in constant time.
fn verify(token: &Token, label: &[u8], parts: [&[u8]; 3], mac: &[u8]) -> Result<(), HandshakeError> {
    keyed(token, label, parts)
        .verify_slice(mac)
        .map_err(|_| HandshakeError::WrongToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test)
    }

    #[test]
    fn both_sides_agree_when_they_share_the_token() {
        run(async {
            let token = Token::random().expect("random");
            let (mut client, mut server) = tokio::io::duplex(256);
            let (connected, accepted) =
                tokio::join!(connect(&mut client, &token, &[]), accept(&mut server, &token, &[]));
            connected.expect("the server proved itself");
            accepted.expect("the client proved itself");
        });
    }

    #[test]
    fn a_wrong_token_is_refused_before_anything_else_is_sent() {
        run(async {
            let (mut client, mut server) = tokio::io::duplex(256);
            let (mine, theirs) = (Token::random().expect("random"), Token::random().expect("random"));
            let accepting = async {
                let outcome = accept(&mut server, &theirs, &[]).await;
                drop(server);
                outcome
            };
            let (connected, accepted) = tokio::join!(connect(&mut client, &mine, &[]), accepting);
            assert!(matches!(accepted, Err(HandshakeError::WrongToken)));
            assert!(matches!(connected, Err(HandshakeError::WrongToken)));
        });
    }

    /// As with somebody in the middle, who has one TLS connection to each side.
    #[test]
    fn what_proves_one_tls_connection_proves_no_other() {
        run(async {
            let token = Token::random().expect("random");
            let (mut client, mut server) = tokio::io::duplex(256);
            let accepting = async {
                let outcome = accept(&mut server, &token, &[2; 32]).await;
                drop(server);
                outcome
            };
            let (connected, accepted) = tokio::join!(connect(&mut client, &token, &[1; 32]), accepting);
            assert!(matches!(accepted, Err(HandshakeError::WrongToken)));
            assert!(matches!(connected, Err(HandshakeError::WrongToken)));
        });
    }

    #[test]
    fn a_recorded_answer_opens_no_second_connection() {
        run(async {
            let token = Token::random().expect("random");
            let (mut wire, mut server) = tokio::io::duplex(256);
            let recording = async {
                let mut nonce = [0; NONCE_BYTES];
                wire.read_exact(&mut nonce).await.expect("the challenge");
                let client_nonce = [7; NONCE_BYTES];
                let mac = keyed(&token, CLIENT_LABEL, [&nonce, &client_nonce, &[]])
                    .finalize()
                    .into_bytes();
                let answer = [&client_nonce[..], &mac[..]].concat();
                wire.write_all(&answer).await.expect("sent");
                answer
            };
            let (answer, accepted) = tokio::join!(recording, accept(&mut server, &token, &[]));
            accepted.expect("the first use is good");

            let (mut wire, mut server) = tokio::io::duplex(256);
            let replaying = async {
                let mut nonce = [0; NONCE_BYTES];
                wire.read_exact(&mut nonce).await.expect("another challenge");
                wire.write_all(&answer).await.expect("sent");
            };
            let ((), accepted) = tokio::join!(replaying, accept(&mut server, &token, &[]));
            assert!(matches!(accepted, Err(HandshakeError::WrongToken)));
        });
    }

    #[test]
    fn a_server_without_the_token_cannot_mirror_the_clients_answer() {
        run(async {
            let token = Token::random().expect("random");
            let (mut client, mut impostor) = tokio::io::duplex(256);
            let mirroring = async {
                impostor.write_all(&[1; NONCE_BYTES]).await.expect("sent");
                let mut answer = [0; NONCE_BYTES + MAC_BYTES];
                impostor.read_exact(&mut answer).await.expect("the answer");
                impostor.write_all(&answer[NONCE_BYTES..]).await.expect("sent");
            };
            let (connected, ()) = tokio::join!(connect(&mut client, &token, &[]), mirroring);
            assert!(matches!(connected, Err(HandshakeError::WrongToken)));
        });
    }

    #[test]
    fn a_silent_peer_is_dropped_after_the_limit() {
        run(async {
            let (_silent, mut server) = tokio::io::duplex(256);
            let token = Token::random().expect("random");
            let outcome = accept_within(Duration::from_millis(1), &mut server, &token, &[], &[Knock::Client]).await;
            assert!(matches!(outcome, Err(HandshakeError::TimedOut)));
        });
    }

    #[test]
    fn who_wants_a_way_through_is_told_from_who_wants_to_talk_and_let_in_only_where_ways_lead() {
        run(async {
            let token = Token::random().expect("random");
            for knock in [Knock::Client, Knock::Relay] {
                let (mut client, mut server) = tokio::io::duplex(256);
                let (connected, accepted) = tokio::join!(
                    connect_as(knock, &mut client, &token, &[]),
                    accept_either(&mut server, &token, &[])
                );
                connected.expect("the server proved itself");
                assert_eq!(accepted.expect("the client proved itself"), knock);
            }
            let (mut client, mut server) = tokio::io::duplex(256);
            let accepting = async {
                let outcome = accept(&mut server, &token, &[]).await;
                drop(server);
                outcome
            };
            let (connected, accepted) = tokio::join!(connect_to_relay(&mut client, &token, &[]), accepting);
            assert!(connected.is_err() && matches!(accepted, Err(HandshakeError::WrongToken)));
        });
    }
}
