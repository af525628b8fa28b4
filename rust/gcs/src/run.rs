//! A gcs process from its start to the end of the session.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use ray_rs_proto::v1::gcs_server::GcsServer;
use ray_rs_transport::grpc::{Listener, MAX_MESSAGE_BYTES, serve};
use ray_rs_transport::relay::Relay;
use ray_rs_transport::{ProcessWatch, Token, session};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::autoscaler::Running;
use crate::autoscaler::provider::ClusterPlace;
use crate::commit::Flushed;
use crate::config::{GcsConfig, StorageChoice};
use crate::packages::Packages;
use crate::service::GcsService;
use crate::state::State;
use crate::storage::{JournalFile, JournaledStorage, MemoryStorage, ShardedStorage, SledStorage, Storage};

/// How long the end of the session waits for raylets to end their workers.
const RAYLET_LIMIT: Duration = Duration::from_secs(2);

/// Why the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    DriverDied,
    Terminated,
}

/// Serves until the session ends: until its driver has died, or SIGTERM comes. Then waits for the end of this
/// machine's raylets and removes the session's directory.
///
/// Needs a current-thread Tokio runtime with I/O and time enabled.
///
/// # Errors
/// When it cannot start (socket, token, store), or the store's thread or the server broke down.
pub async fn run(config: GcsConfig) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot take SIGTERM")?;
    let driver = config
        .driver_pid
        .map(ProcessWatch::new)
        .transpose()
        .context("cannot watch the driver")?;
    let supervisor = config
        .supervisor
        .map(ProcessWatch::new)
        .transpose()
        .context("cannot watch the raylet")?;
    let token = Token::read(&config.token_path).context("cannot read the session's token")?;
    let tcp = TcpListener::bind(config.tcp_bind)
        .await
        .with_context(|| format!("cannot listen on {}", config.tcp_bind))?;
    let tcp_address = tcp.local_addr()?;
    let address_file = config.session_dir.join(session::GCS_ADDRESS_FILE);
    session::write_atomically(&address_file, &tcp_address.to_string())
        .with_context(|| format!("cannot write {}", address_file.display()))?;
    let (mut state, flushed) = State::open(open_storage(&config)?)?;
    let unix = Listener::unix_from_fd(config.listener).context("cannot take over the listening socket")?;
    state.session = config
        .session_dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let packages = config.session_dir.join("packages");
    let kept = Packages::open(packages.clone()).with_context(|| format!("cannot read {}", packages.display()))?;
    state.keep_packages(kept);
    let state = Arc::new(Mutex::new(state));
    let service = GcsService::new(Arc::clone(&state), config.node_bound);
    service.bury_who_stays_away();

    let grpc = GcsServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut listeners = vec![unix, Listener::Tcp(tcp)];
    if let Some(address) = config.client_bind {
        let further = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        listeners.push(Listener::Tcp(further));
    }
    let known = Arc::clone(&state);
    let relay = Relay::new(move |node| known.lock().expect("a broken state ends the process").address_of(node));
    let mut server = tokio::spawn(serve(listeners, token, grpc, Some(relay), std::future::pending()));
    let mut release = tokio::spawn(release_flushed(Arc::clone(&state), flushed));
    let autoscaler = config.autoscaling.map(|autoscaling| {
        let cluster = ClusterPlace {
            address: tcp_address,
            token_path: config.token_path.clone(),
        };
        Running::start(Arc::clone(&state), autoscaling, cluster)
    });
    let ending = tokio::select! {
        ending = end_of_session(driver.as_ref(), &mut terminate) => ending,
        outcome = &mut server => {
            outcome.context("the server's task broke down")??;
            anyhow::bail!("the server stopped before the session");
        }
        _ = &mut release => anyhow::bail!("the store's thread broke down"),
    };
    tracing::debug!(?ending, "the session ends");
    if let Some(autoscaler) = autoscaler {
        autoscaler.end().await;
    }
    // It goes on serving meanwhile, so that raylets can end their work in order.
    end_raylets(&service, ending, config.supervisor).await;
    server.abort();
    release.abort();
    state.lock().expect("a broken state ends the process").close();
    if supervisor.is_some_and(|supervisor| supervisor.is_running()) {
        return Ok(());
    }
    session::clean_up(&config.session_dir).with_context(|| format!("could not remove {}", config.session_dir.display()))
}

fn open_storage(config: &GcsConfig) -> anyhow::Result<Box<dyn Storage>> {
    match config.storage {
        StorageChoice::Sled => {
            let open = |dir: PathBuf| open_journaled(&dir).with_context(|| format!("cannot open {}", dir.display()));
            let dir = config.session_dir.join("gcs");
            if config.shards <= 1 {
                return Ok(Box::new(open(dir)?));
            }
            let shards = (0..config.shards).map(|number| open(dir.join(format!("shard-{number}"))));
            Ok(Box::new(ShardedStorage::open(shards.collect::<anyhow::Result<_>>()?)?))
        }
        StorageChoice::Memory => Ok(Box::new(MemoryStorage::default())),
    }
}

pub(crate) fn open_journaled(dir: &Path) -> anyhow::Result<JournaledStorage<SledStorage, JournalFile>> {
    let tables = SledStorage::open(dir)?;
    Ok(JournaledStorage::open(tables, JournalFile::open(dir.join("journal"))?)?)
}

/// Carries the news of flushes to whoever waits for them. Ends when the store's thread does.
pub(crate) async fn release_flushed(state: Arc<Mutex<State>>, mut flushed: UnboundedReceiver<Flushed>) {
    while let Some(flushed) = flushed.recv().await {
        state.lock().expect("a broken state ends the process").flushed(&flushed);
    }
}

async fn end_of_session(driver: Option<&ProcessWatch>, terminate: &mut tokio::signal::unix::Signal) -> Ending {
    let driver_died = async {
        match driver {
            Some(driver) => driver.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = driver_died => Ending::DriverDied,
        _ = terminate.recv() => Ending::Terminated,
    }
}

/// Raylets watch the driver themselves; at a SIGTERM, which may have come to this process alone, they are told.
async fn end_raylets(service: &GcsService, ending: Ending, supervisor: Option<u32>) {
    let mut raylets = service.local_raylets();
    // One that waits for this process is not waited for.
    raylets.retain(|raylet| raylet.pid() != std::process::id() && Some(raylet.pid()) != supervisor);
    if ending == Ending::Terminated {
        for raylet in &raylets {
            if let Err(error) = raylet.terminate() {
                tracing::warn!(pid = raylet.pid(), %error, "could not ask a raylet to end");
            }
        }
    }
    let deadline = tokio::time::Instant::now() + RAYLET_LIMIT;
    for raylet in raylets {
        if tokio::time::timeout_at(deadline, raylet.ended()).await.is_err() {
            tracing::warn!(pid = raylet.pid(), "a raylet did not end in time and is killed");
            if let Err(error) = raylet.kill() {
                tracing::error!(pid = raylet.pid(), %error, "could not kill a raylet");
            }
        }
    }
}
