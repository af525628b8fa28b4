//! The connection to the control store: one stream for the node, and calls passed on for clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use ray_rs_proto::v1;
use ray_rs_proto::v1::gcs_client::GcsClient;
use ray_rs_transport::Token;
use ray_rs_transport::faults::{self, Fault};
use ray_rs_transport::grpc::{self, Address, MAX_MESSAGE_BYTES, RawClient};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::input::{CallOutcome, Input, Inputs};

/// Pauses between attempts to reach a control store that is gone.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Whoever asks a control store that is away waits so long for it.
const AWAY_LIMIT: Duration = Duration::from_secs(60);
/// A call waits so long for the first connection.
const FIRST_CONNECTION: Duration = Duration::from_secs(10);
const REPORTS_IN_STREAM: usize = 64;

/// The loop's handle on the link.
#[derive(Debug, Clone)]
pub(crate) struct GcsLink {
    reports: mpsc::UnboundedSender<v1::NodeReport>,
    client: watch::Receiver<Option<RawClient>>,
    /// Of calls, from a random one on: a number is never that of another call of the cluster.
    numbers: Arc<AtomicU64>,
}

impl GcsLink {
    /// Connects in the background, and again whenever the connection is lost. `node` is told each time.
    pub fn start(session_dir: &Path, address: Address, node: v1::NodeInfo, inputs: Inputs) -> Self {
        let (reports, queued) = mpsc::unbounded_channel();
        let (found, client) = watch::channel(None);
        let place = Place {
            token_path: session_dir.join("token"),
            address,
        };
        // Random, and of the node's process alone.
        let first_number = node.incarnation | 1;
        tokio::spawn(keep_connected(place, node, queued, found, inputs));
        let numbers = Arc::new(AtomicU64::new(first_number));
        Self {
            reports,
            client,
            numbers,
        }
    }

    pub fn report(&self, body: v1::node_report::Body) {
        let _ = self.reports.send(v1::NodeReport { body: Some(body) });
    }

    /// Passes an encoded request on, and again after each time that the control store was away, for a minute at most: so
    /// every request must be one that may be made twice. Errors are `"<grpc code>: <message>"`.
    pub async fn call(&self, method: &str, payload: Bytes) -> CallOutcome {
        let mut client = self.client.clone();
        let connected = async { client.wait_for(Option::is_some).await.ok()?.clone() };
        let Ok(Some(_)) = tokio::time::timeout(FIRST_CONNECTION, connected).await else {
            return Err("Unavailable: the control store does not answer".to_owned());
        };
        let until = Instant::now() + AWAY_LIMIT;
        let mut pause = FIRST_PAUSE;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        loop {
            let latest = client.borrow_and_update().clone();
            let Some(latest) = latest else {
                return Err("Unavailable: the control store does not answer".to_owned());
            };
            match latest.call_as(number, method, payload.clone()).await {
                // It is started again. What it had done before it ended it knows, and does not do twice.
                Err(status) if is_away(&status) && Instant::now() < until => {
                    let _ = tokio::time::timeout(pause, client.changed()).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                outcome => return outcome.map_err(|status| format!("{:?}: {}", status.code(), status.message())),
            }
        }
    }

    /// The same as [`Self::ask`], again after each time that the control store was away.
    pub async fn ask_until_answered<Q, A>(&self, method: &str, request: Q) -> Result<A, String>
    where
        Q: Message + Clone,
        A: Message + Default,
    {
        let mut client = self.client.clone();
        loop {
            client.mark_unchanged();
            match self.ask(method, request.clone()).await {
                // The link is being made anew; until it is, there is nobody to ask. An error means that the loop has ended.
                Err(error) if error.starts_with("Unavailable") => client.changed().await.map_err(|_| error)?,
                reply => return reply,
            }
        }
    }

    /// A call of the raylet's own.
    pub async fn ask<Q: Message, A: Message + Default>(&self, method: &str, request: Q) -> Result<A, String> {
        let reply = self.call(method, request.encode_to_vec().into()).await?;
        A::decode(reply).map_err(|error| format!("Internal: {method} was answered with nonsense: {error}"))
    }
}

/// Where the control store is, and what opens it.
struct Place {
    token_path: PathBuf,
    address: Address,
}

async fn keep_connected(
    place: Place,
    node: v1::NodeInfo,
    mut reports: mpsc::UnboundedReceiver<v1::NodeReport>,
    found: watch::Sender<Option<RawClient>>,
    inputs: Inputs,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        match one_connection(&place, &node, &mut reports, &found, &inputs).await {
            Ok(true) => pause = FIRST_PAUSE,
            Ok(false) => return,
            Err(error) => tracing::debug!(%error, "the control store cannot be reached"),
        }
        if inputs.send(Input::GcsLost).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Serves one connection to its end; `Ok(false)`: the loop has ended.
async fn one_connection(
    place: &Place,
    node: &v1::NodeInfo,
    reports: &mut mpsc::UnboundedReceiver<v1::NodeReport>,
    found: &watch::Sender<Option<RawClient>>,
    inputs: &Inputs,
) -> anyhow::Result<bool> {
    let token = Token::read(&place.token_path)?;
    let began = Instant::now();
    let channel = match grpc::channel(place.address.clone(), token).await {
        Err(error) if error.is_refused() => {
            let _ = inputs.send(Input::GcsNotThere(began)).await;
            return Err(error.into());
        }
        channel => channel?,
    };
    // Calls of clients use the same connection; it reconnects by itself when it breaks.
    found.send_replace(Some(RawClient::gcs(channel.clone())));
    let (to_stream, from_loop) = mpsc::channel(REPORTS_IN_STREAM);
    let registered = v1::NodeRegistered {
        node: Some(node.clone()),
    };
    let first = v1::NodeReport {
        body: Some(v1::node_report::Body::Registered(registered)),
    };
    if inputs.send(Input::GcsAsked(Instant::now())).await.is_err() {
        return Ok(false);
    }
    to_stream.send(first).await?;
    let mut client = GcsClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut commands = match client.node_channel(ReceiverStream::new(from_loop)).await {
        Ok(commands) => commands.into_inner(),
        Err(status) if status.code() == grpc::Code::FailedPrecondition => {
            let _ = inputs.send(Input::Refused(status.message().to_owned())).await;
            return Ok(false);
        }
        Err(status) => return Err(status.into()),
    };
    loop {
        tokio::select! {
            command = commands.message() => match command? {
                Some(v1::NodeCommand { body: Some(body) }) => {
                    if on_purpose("NodeCommand").await?
                        && inputs.send(Input::Gcs(Box::new(body.clone()))).await.is_err()
                    {
                        return Ok(false);
                    }
                    if inputs.send(Input::Gcs(Box::new(body))).await.is_err() {
                        return Ok(false);
                    }
                }
                Some(v1::NodeCommand { body: None }) => {}
                None => return Ok(true),
            },
            report = reports.recv() => match report {
                Some(report) => {
                    if on_purpose("NodeReport").await? {
                        to_stream.send(report.clone()).await?;
                    }
                    to_stream.send(report).await?;
                }
                None => return Ok(false),
            },
        }
    }
}

/// Whether the connection, or the other side, has ended under way: a status that the control store has sent has no cause.
fn is_away(status: &grpc::Status) -> bool {
    status.code() == grpc::Code::Unavailable || std::error::Error::source(status).is_some()
}

/// What is lost on a stream is lost with all that follows: then the connection ends. True: the message is to be sent twice.
async fn on_purpose(name: &str) -> anyhow::Result<bool> {
    match faults::of_process().and_then(|faults| faults.draw_named(name)) {
        None => Ok(false),
        Some(Fault::RequestLost | Fault::ReplyLost) => anyhow::bail!("a {name} was lost on purpose"),
        Some(Fault::Twice) => Ok(true),
        Some(Fault::Late(by)) => {
            tokio::time::sleep(by).await;
            Ok(false)
        }
    }
}
