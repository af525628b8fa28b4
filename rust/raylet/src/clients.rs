//! Connections on the raylet's socket: one task reads, one writes, the loop decides.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message;
use ray_rs_proto::v1;
use ray_rs_scheduler::JobKey;
use ray_rs_transport::ProcessWatch;
use ray_rs_transport::local::{self, FrameReader, FrameWriter};
use ray_rs_types::{JobId, WorkerId};
use rustc_hash::FxHashSet;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::input::{ConnKey, Fds, Input, Inputs, Token};

/// Above so many bytes queued for a client, what can wait (printed lines) waits.
const MUCH_QUEUED_BYTES: usize = 4 << 20;
/// Pause after `accept` failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Messages on their way to one client. Cheap to clone; messages to a client that is gone vanish.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<(v1::FromRaylet, Fds)>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Outbox {
    pub fn send(&self, body: v1::from_raylet::Body) {
        self.send_with_fds(body, Vec::new());
    }

    pub fn send_with_fds(&self, body: v1::from_raylet::Body, fds: Vec<OwnedFd>) {
        let message = v1::FromRaylet { body: Some(body) };
        self.queued_bytes.fetch_add(message.encoded_len(), Ordering::Relaxed);
        // An error means that the client is gone, of which the loop learns by the reader.
        let _ = self.queue.send((message, fds));
    }

    pub fn is_crowded(&self) -> bool {
        self.queued_bytes.load(Ordering::Relaxed) > MUCH_QUEUED_BYTES
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing was received yet.
    Unknown,
    Driver,
    Worker(Token),
    /// A driver or worker of another node.
    Remote,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub role: Role,
    /// As the kernel says; else as the client says.
    pub pid: u32,
    pub worker_id: WorkerId,
    /// Set with the first frame.
    pub job: Option<JobKey>,
    /// Of a client from another node, until its job is known here.
    pub wants_job: Option<JobId>,
    /// What it has asked since, until then.
    pub held: Vec<v1::to_raylet::Body>,
    /// Records of ended tasks that are on their way to the control store, by the numbers of the calls.
    pub telling: FxHashSet<u64>,
    /// Its part of a listing, which waits for them.
    pub listing: Option<v1::Description>,
    /// Row of the arena's pin tables; set when `registered`.
    pub arena_row: u32,
    /// `Registered` was sent.
    pub registered: bool,
    /// It is answered even without a worker.
    pub waited_enough: bool,
    pub outbox: Outbox,
    pub reader: AbortHandle,
    /// Of a driver: a process that it forked may hold its socket open after its end.
    pub death_watch: Option<AbortHandle>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(watch) = &self.death_watch {
            watch.abort();
        }
    }
}

impl Client {
    pub fn new(pid: Option<u32>, outbox: Outbox, reader: AbortHandle) -> Self {
        Self {
            role: Role::Unknown,
            pid: pid.unwrap_or(0),
            worker_id: WorkerId::NIL,
            job: None,
            wants_job: None,
            held: Vec::new(),
            telling: FxHashSet::default(),
            listing: None,
            arena_row: 0,
            registered: false,
            waited_enough: false,
            outbox,
            reader,
            death_watch: None,
        }
    }

    /// Counts the end of its process as the end of its connection.
    pub fn watch_process(&mut self, conn: ConnKey, inputs: Inputs) {
        let Ok(process) = ProcessWatch::new(self.pid) else {
            return;
        };
        let watching = tokio::spawn(async move {
            process.ended().await;
            let _ = inputs.send(Input::Disconnected { conn }).await;
        });
        self.death_watch = Some(watching.abort_handle());
    }
}

/// Accepts until the runtime ends.
pub(crate) async fn accept_loop(listener: UnixListener, inputs: Inputs) {
    let mut next = 0;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        next += 1;
        if let Err(error) = connect(ConnKey(next), stream, &inputs).await {
            tracing::warn!(%error, "closed a connection");
        }
    }
}

async fn connect(conn: ConnKey, stream: UnixStream, inputs: &Inputs) -> io::Result<()> {
    let peer = local::check_peer(&stream)?;
    let (reader, writer) = local::frames(stream);
    serve(conn, peer.pid, reader, writer, inputs).await;
    Ok(())
}

/// Starts to read from and to write to a client.
pub(crate) async fn serve(conn: ConnKey, pid: Option<u32>, reader: FrameReader, writer: FrameWriter, inputs: &Inputs) {
    let (queue, queued) = mpsc::unbounded_channel();
    let outbox = Outbox {
        queue,
        queued_bytes: Arc::new(AtomicUsize::new(0)),
    };
    tokio::spawn(write_loop(
        conn,
        writer,
        queued,
        Arc::clone(&outbox.queued_bytes),
        inputs.clone(),
    ));
    // The reader starts after `Connected` is in the queue, so that no frame overtakes it.
    let (go, started) = tokio::sync::oneshot::channel::<()>();
    let to_loop = inputs.clone();
    let reading = tokio::spawn(async move {
        if started.await.is_ok() {
            read_loop(conn, reader, to_loop).await;
        }
    });
    let reader = reading.abort_handle();
    // An error means that the loop has ended.
    let _ = inputs
        .send(Input::Connected {
            conn,
            pid,
            outbox,
            reader,
        })
        .await;
    let _ = go.send(());
}

async fn read_loop(conn: ConnKey, mut reader: FrameReader, inputs: Inputs) {
    loop {
        match reader.next_message::<v1::ToRaylet>().await {
            Ok(Some((v1::ToRaylet { body: Some(body) }, _))) => {
                if inputs.send(Input::Frame { conn, body }).await.is_err() {
                    return;
                }
            }
            // A message of a later version: nothing that this one could do.
            Ok(Some((v1::ToRaylet { body: None }, _))) => {}
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "a client's connection broke");
                break;
            }
        }
    }
    let _ = inputs.send(Input::Disconnected { conn }).await;
}

async fn write_loop(
    conn: ConnKey,
    mut writer: FrameWriter,
    mut queued: mpsc::UnboundedReceiver<(v1::FromRaylet, Fds)>,
    queued_bytes: Arc<AtomicUsize>,
    inputs: Inputs,
) {
    while let Some(first) = queued.recv().await {
        let mut next = Some(first);
        let mut taken = 0;
        let mut failed = Ok(());
        while let Some((message, fds)) = next.take() {
            taken += message.encoded_len();
            failed = failed.and(writer.queue_with_fds(&message, fds));
            next = if taken < MUCH_QUEUED_BYTES {
                queued.try_recv().ok()
            } else {
                None
            };
        }
        if let Err(error) = failed {
            // Too long for a frame: whoever waits for it would wait for ever.
            tracing::error!(%error, "a message to a client could not be sent; closing its connection");
            let _ = writer.shutdown();
            return;
        }
        if writer.flush().await.is_err() {
            return;
        }
        let before = queued_bytes.fetch_sub(taken, Ordering::Relaxed);
        if before > MUCH_QUEUED_BYTES && before - taken <= MUCH_QUEUED_BYTES {
            let _ = inputs.send(Input::Drained { conn }).await;
        }
    }
    let _ = writer.shutdown();
}
