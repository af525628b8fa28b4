//! A driver's connection, as the core worker would have it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body as From;
use ray_rs_proto::v1::to_raylet::Body as To;
use ray_rs_raylet::DriverConfig;
use ray_rs_transport::local::{FrameReader, FrameWriter, frames};
use ray_rs_types::ResourceSet;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn run<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(story)
}

pub struct Client {
    reader: FrameReader,
    writer: FrameWriter,
    /// Received while something else was awaited.
    kept: VecDeque<From>,
    fds: Vec<OwnedFd>,
    last_request: u64,
}

impl Client {
    pub async fn connect(session_dir: &Path) -> Self {
        let stream = tokio::net::UnixStream::connect(session_dir.join("sockets/raylet"))
            .await
            .expect("it listens");
        let (reader, writer) = frames(stream);
        Self {
            reader,
            writer,
            kept: VecDeque::new(),
            fds: Vec::new(),
            last_request: 0,
        }
    }

    pub async fn send(&mut self, body: To) {
        self.writer
            .send(&v1::ToRaylet { body: Some(body) })
            .await
            .expect("sent");
    }

    /// The next message that `pick` takes; others are kept for later.
    pub async fn expect<T>(&mut self, what: &str, mut pick: impl FnMut(&From) -> Option<T>) -> T {
        for index in 0..self.kept.len() {
            if let Some(found) = pick(&self.kept[index]) {
                self.kept.remove(index);
                return found;
            }
        }
        let waiting = async {
            loop {
                let (message, fds) = self
                    .reader
                    .next_message::<v1::FromRaylet>()
                    .await
                    .expect("whole")
                    .expect("open");
                self.fds.extend(fds);
                let body = message.body.expect("a known message");
                match pick(&body) {
                    Some(found) => return found,
                    None => self.kept.push_back(body),
                }
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("no {what} came; what came instead: {:?}", self.kept),
        }
    }

    pub async fn register(&mut self, config: &DriverConfig) -> v1::Registered {
        self.send_registration(config).await;
        self.registered().await
    }

    pub async fn send_registration(&mut self, config: &DriverConfig) {
        let mut worker_id = vec![1; 28];
        worker_id[..8].copy_from_slice(&(&raw const *self as u64).to_le_bytes());
        let driver_config = serde_pickle::to_vec(config, serde_pickle::SerOptions::new()).expect("pickled");
        let register = v1::Register {
            role: 0,
            worker_id,
            pid: std::process::id(),
            driver_config,
            fork_token: 0,
            set_up_follows: false,
            job_id: Vec::new(),
        };
        self.send(To::Register(register)).await;
    }

    pub async fn registered(&mut self) -> v1::Registered {
        let registered = self
            .expect("registration", |body| match body {
                From::Registered(registered) => Some(registered.clone()),
                _ => None,
            })
            .await;
        assert_eq!(registered.error, "");
        assert_eq!(self.fds.len(), 2, "the arena and the spin table");
        registered
    }

    pub fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    pub async fn request_lease(&mut self, resources: ResourceSet) -> u64 {
        let request_id = self.next_request();
        let resources = Some((&resources).into());
        let request = v1::RequestLease {
            request_id,
            resources,
            backlog: 1,
            spilled: false,
            refused: Vec::new(),
            task_name: "f".to_owned(),
            runtime_env: String::new(),
            strategy: None,
            expects_room: false,
            arguments: Vec::new(),
            ahead: false,
        };
        self.send(To::RequestLease(request)).await;
        request_id
    }

    pub async fn lease(&mut self, request_id: u64) -> v1::LeaseGranted {
        self.expect("lease", |body| match body {
            From::LeaseGranted(granted) if granted.request_id == request_id => Some(granted.clone()),
            _ => None,
        })
        .await
    }

    pub async fn call<A: Message + Default>(&mut self, method: &str, request: &impl Message) -> Result<A, String> {
        let request_id = self.next_request();
        let call = v1::GcsCall {
            request_id,
            method: method.to_owned(),
            payload: request.encode_to_vec(),
        };
        self.send(To::GcsCall(call)).await;
        let reply = self
            .expect("reply of the control store", |body| match body {
                From::GcsReply(reply) if reply.request_id == request_id => Some(reply.clone()),
                _ => None,
            })
            .await;
        if reply.error.is_empty() {
            Ok(A::decode(reply.payload.as_slice()).expect("a reply"))
        } else {
            Err(reply.error)
        }
    }

    pub async fn actor_update(&mut self, state: u32) -> v1::ActorUpdate {
        self.expect("update of an actor", |body| match body {
            From::ActorUpdate(update) if update.state == state => Some(update.clone()),
            _ => None,
        })
        .await
    }

    pub async fn death_of(&mut self, worker: &v1::WorkerAddress) -> v1::DeathReport {
        self.expect("death", |body| match body {
            From::WorkerDied(died) if died.worker_id == worker.worker_id => died.report.clone(),
            _ => None,
        })
        .await
    }

    pub async fn notice(&mut self, text: &str) {
        self.expect("notice", |body| match body {
            From::Notice(notice) => notice.text.contains(text).then_some(()),
            _ => None,
        })
        .await;
    }

    pub async fn line(&mut self, text: &str) -> v1::LogLines {
        self.expect("printed line", |body| match body {
            From::LogLines(lines) if lines.lines.iter().any(|line| line.contains(text)) => Some(lines.clone()),
            _ => None,
        })
        .await
    }
}
