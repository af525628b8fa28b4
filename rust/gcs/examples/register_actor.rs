//! What does the GCS cost an actor's creation, and an idle session?
//!
//! Starts a gcs process (this program once more) on sled in a temporary session, plays the raylet, and measures on the
//! path RegisterActor -> group commit -> StartActor on the node's channel; prints the process's memory before and after.
//!
//! `cargo run --release -p ray-rs-gcs --example register_actor`

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Instant;

use ray_rs_gcs::GcsConfig;
use ray_rs_proto::v1::gcs_client::GcsClient;
use ray_rs_proto::v1::{self, node_command, node_report};
use ray_rs_transport::Token;
use ray_rs_transport::grpc::{Address, channel};
use tokio_stream::wrappers::ReceiverStream;

const ACTORS: u8 = 200;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, session, driver] = &arguments[..] {
        // SAFETY: the parent left its listening socket as descriptor 0, and nothing else here uses it.
        let listener = unsafe { OwnedFd::from_raw_fd(0) };
        let config = GcsConfig::new(PathBuf::from(session), listener, Some(driver.parse()?));
        return runtime.block_on(ray_rs_gcs::run(config));
    }
    let session = std::env::temp_dir().join(format!("session_bench_{}", std::process::id()));
    std::fs::create_dir_all(session.join("logs"))?;
    let token = Token::create(&session.join("token"))?;
    let listener = std::os::unix::net::UnixListener::bind(session.join("gcs.sock"))?;
    let began = Instant::now();
    let gcs = Command::new(std::env::current_exe()?)
        .args([session.display().to_string(), std::process::id().to_string()])
        .stdin(listener.as_fd().try_clone_to_owned()?)
        .spawn()?;
    runtime.block_on(measure(began, &gcs, Address::Unix(session.join("gcs.sock")), token))?;
    // This process was the session's driver: the gcs ends with it and removes the session.
    Ok(())
}

async fn measure(began: Instant, gcs: &Child, address: Address, token: Token) -> anyhow::Result<()> {
    let mut client = GcsClient::new(channel(address, token).await?);
    println!("connected {:?} after the spawn", began.elapsed());
    let (reports, receiver) = tokio::sync::mpsc::channel(1);
    let node = v1::NodeInfo {
        node_id: vec![1; 28],
        ..v1::NodeInfo::default()
    };
    let body = Some(node_report::Body::Registered(v1::NodeRegistered { node: Some(node) }));
    reports.send(v1::NodeReport { body }).await?;
    let mut commands = client.node_channel(ReceiverStream::new(receiver)).await?.into_inner();
    commands.message().await?;
    println!("idle: {}", memory(gcs.id())?);
    let mut times = Vec::new();
    for number in 0..ACTORS {
        let address = v1::WorkerAddress {
            node_id: vec![1; 28],
            worker_id: vec![2; 28],
            pid: 1,
        };
        let spec = v1::ActorSpec {
            actor_id: vec![number; 16],
            class_id: vec![5; 28],
            args: Some(v1::Value::default()),
            owner: Some(address),
            handle_descriptor: vec![0; 600],
            ..v1::ActorSpec::default()
        };
        let start = Instant::now();
        let request = v1::RegisterActorRequest {
            spec: Some(spec),
            get_if_exists: false,
        };
        let (reply, command) = tokio::join!(client.register_actor(request), commands.message());
        reply?;
        let command = command?.and_then(|command| command.body);
        anyhow::ensure!(
            matches!(command, Some(node_command::Body::StartActor(_))),
            "got {command:?}"
        );
        times.push(start.elapsed());
    }
    times.sort();
    let at = |share: usize| times[times.len() * share / 100];
    println!(
        "RegisterActor to StartActor: p50 {:?}, p90 {:?}, p99 {:?}",
        at(50),
        at(90),
        at(99)
    );
    println!("after {ACTORS} actors: {}", memory(gcs.id())?);
    Ok(())
}

fn memory(pid: u32) -> anyhow::Result<String> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let lines = rollup
        .lines()
        .filter(|line| line.starts_with("Pss:") || line.starts_with("Rss:"));
    let fields: Vec<String> = lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?.count();
    Ok(format!("{}, {threads} threads", fields.join(", ")))
}
