//! Sends values of this node's arena to readers of other nodes: its own, and copies of others', also while they come.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ray_rs_object_store::spill::{Key, Place};
use ray_rs_object_store::{ArenaClient, Pin};
use ray_rs_types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::wire::{MAX_ADDRESS_BYTES, REQUEST_BYTES, Reply, Request};
use super::{Incoming, NotServed, Progress, SILENCE_LIMIT};
use crate::input::{Input, Inputs};

/// Sent at once; then other transfers get their turn.
const PIECE_BYTES: u64 = 1 << 20;

/// What the loop says of a question for one of this node's own values.
#[derive(Debug)]
pub(crate) enum OwnValue {
    Here,
    Elsewhere(NodeId, String),
}

/// What the loop says of a question for another node's value.
#[derive(Debug)]
pub(crate) enum CopyHere {
    No,
    Whole(Arc<Pin>),
    Coming(Incoming),
}

/// One connection of a reader.
pub(super) struct Server {
    pub stream: TcpStream,
    /// The reader's node.
    pub reader: NodeId,
    pub here: NodeId,
    pub arena: Arc<ArenaClient>,
    pub inputs: Inputs,
    pub sent_bytes: Arc<AtomicU64>,
}

impl Server {
    /// Answers until the reader closes.
    pub async fn run(mut self) {
        let mut bytes = [0; REQUEST_BYTES];
        while self.stream.read_exact(&mut bytes).await.is_ok() {
            let Some(request) = Request::decode(&bytes) else {
                tracing::warn!(reader = %self.reader, "a reader of the arena talks nonsense");
                return;
            };
            let answered = if request.value.node == self.here {
                self.own_value(&request).await
            } else {
                self.copy(&request).await
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "a reader of the arena is gone");
                return;
            }
        }
    }

    async fn own_value(&mut self, request: &Request) -> io::Result<()> {
        match self.ask(|answer| self.reader_asks(request, answer)).await {
            Some(OwnValue::Elsewhere(node, address)) if address.len() <= MAX_ADDRESS_BYTES => {
                let mut reply = vec![Reply::AskAnother as u8];
                reply.extend_from_slice(&node.0);
                reply.push(address.len() as u8);
                reply.extend_from_slice(address.as_bytes());
                self.stream.write_all(&reply).await
            }
            Some(OwnValue::Here | OwnValue::Elsewhere(..)) | None => match self.pin(request).await {
                Ok(pin) => self.send_pinned(&pin, request).await,
                Err(NotServed::Gone) => self.say(Reply::Gone).await,
                Err(NotServed::NotBack) => self.say(Reply::NotBack).await,
            },
        }
    }

    fn reader_asks(&self, request: &Request, answer: oneshot::Sender<OwnValue>) -> Input {
        Input::ReaderAsks {
            key: request.key(),
            bytes: request.length,
            reader: self.reader,
            failed: request.failed,
            answer,
        }
    }

    /// Asks the loop.
    async fn ask<A>(&self, question: impl FnOnce(oneshot::Sender<A>) -> Input) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        self.inputs.send(question(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Bounds and generation are checked. What lies on disk is brought back.
    async fn pin(&self, request: &Request) -> Result<Arc<Pin>, NotServed> {
        let Key { offset, generation } = request.key();
        if let Some(pin) = self.arena.pin(offset, request.length, generation) {
            return Ok(Arc::new(pin));
        }
        let key = request.key();
        let place: Place = self
            .ask(|answer| Input::VisitorWants { key, answer })
            .await
            .unwrap_or(Err(NotServed::Gone))?;
        // It is held until the loop hears that it is pinned.
        let pin = self.arena.pin(place.offset, request.length, place.generation);
        let _ = self.inputs.send(Input::VisitorHasIt(place)).await;
        pin.map(Arc::new).ok_or(NotServed::Gone)
    }

    async fn copy(&mut self, request: &Request) -> io::Result<()> {
        let key = request.value;
        match self.ask(|answer| Input::CopyAsked { key, answer }).await {
            Some(CopyHere::Whole(pin)) => self.send_pinned(&pin, request).await,
            Some(CopyHere::Coming(incoming)) => self.send_as_it_comes(incoming, request).await,
            Some(CopyHere::No) | None => self.say(Reply::Gone).await,
        }
    }

    async fn say(&mut self, reply: Reply) -> io::Result<()> {
        self.stream.write_u8(reply as u8).await
    }

    async fn send_pinned(&mut self, pin: &Arc<Pin>, request: &Request) -> io::Result<()> {
        let (offset, length, _) = pin.place();
        if length < request.length {
            return self.say(Reply::Gone).await;
        }
        self.say(Reply::HereItComes).await?;
        self.send(offset + request.skip, request.length - request.skip).await?;
        self.reader_has_it().await
    }

    /// Every part of the copy as soon as it is here.
    async fn send_as_it_comes(&mut self, mut incoming: Incoming, request: &Request) -> io::Result<()> {
        if incoming.length < request.length {
            return self.say(Reply::Gone).await;
        }
        let _in_flight = incoming.in_flight.read_owned().await;
        self.say(Reply::HereItComes).await?;
        let mut sent = request.skip;
        loop {
            let progress = incoming.progress.borrow_and_update().clone();
            match progress {
                Progress::Begun => {}
                Progress::Filled { data_offset, bytes } => {
                    let until = bytes.min(request.length);
                    if until > sent {
                        self.send(data_offset + sent, until - sent).await?;
                        sent = until;
                    }
                }
                Progress::Here(pin) => {
                    self.send(pin.place().0 + sent, request.length - sent).await?;
                    return self.reader_has_it().await;
                }
                Progress::Failed => {
                    // It hears the end, and closes; then nothing of the room is on its way any more.
                    self.stream.shutdown().await?;
                    let _ = timeout(SILENCE_LIMIT, self.stream.read_u8()).await;
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            if incoming.progress.changed().await.is_err() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }

    /// The arena's pages themselves, without a copy: whoever calls keeps them as they are until the reader has them.
    async fn send(&self, mut offset: u64, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let piece = bytes.min(PIECE_BYTES);
            let send = || self.arena.send_pages(self.stream.as_fd(), offset, piece);
            let count = match timeout(SILENCE_LIMIT, self.stream.async_io(Interest::WRITABLE, send)).await {
                Ok(count) => count?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.sent_bytes.fetch_add(count, Ordering::Relaxed);
            offset += count;
            bytes -= count;
        }
        Ok(())
    }

    async fn reader_has_it(&mut self) -> io::Result<()> {
        match timeout(SILENCE_LIMIT, self.stream.read_u8()).await {
            Ok(said) => said.map(drop),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
