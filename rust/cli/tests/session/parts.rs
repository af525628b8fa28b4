//! The parts that this program plays besides running the stories.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use prost::Message;
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body as From;
use ray_rs_proto::v1::to_raylet::Body as To;

const PART: &str = "SESSION_TEST_PART";
/// Set: a worker starts a program that keeps its connection to the raylet open.
pub const HOLDS_SOCKET: &str = "SESSION_TEST_HOLDS_SOCKET";

/// A script that stands for Python: it starts this program with Python's arguments.
pub fn fake_python(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("python");
    let program = std::env::current_exe().expect("this program has a path");
    let script = format!("#!/bin/sh\nexport {PART}=python\nexec '{}' \"$@\"\n", program.display());
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("set");
    path
}

/// A process that launches a session, registers with it, prints its directory and waits to be killed.
pub fn spawn_driver(python: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().expect("this program has a path"))
        .env(PART, "driver")
        .env("SESSION_TEST_PYTHON", python)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started")
}

/// Plays the part that the environment names, if any.
pub fn play() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    match std::env::var(PART).as_deref() {
        Ok("python") if arguments[1] == "-I" => daemon(&arguments),
        Ok("python") => zygote(&arguments),
        Ok("worker") => worker(),
        Ok("driver") => driver(),
        _ => return false,
    }
    true
}

/// `-I -S -c <boot> <core> <daemon> <configs>`
fn daemon(arguments: &[String]) {
    let code = match arguments[6].as_str() {
        "head" => ray_rs_cli::run_head(&arguments[7], &arguments[8], |_| {}),
        "gcs" => ray_rs_cli::run_gcs(&arguments[7], &arguments[8], |_| {}),
        "raylet" => ray_rs_cli::run_raylet(&arguments[7], |_| {}),
        "scheduler" => ray_rs_cli::run_scheduler(&arguments[7], |_| {}),
        other => panic!("there is no daemon {other}"),
    };
    let _ = ExitCode::from(code as u8);
    std::process::exit(code);
}

/// `-S -c <boot> <config>`
fn zygote(arguments: &[String]) {
    let config: serde_json::Value = serde_json::from_str(&arguments[4]).expect("the configuration is JSON");
    assert_eq!(
        config["thread_env"]["OMP_NUM_THREADS"],
        std::env::var("TEST_OMP")
            .ok()
            .map_or(serde_json::Value::Null, serde_json::Value::String)
    );
    if config["preload"]
        .as_array()
        .is_some_and(|modules| modules.iter().any(|module| module == "no_such_module"))
    {
        eprintln!("ModuleNotFoundError: no_such_module");
        std::process::exit(1);
    }
    let socket: OwnedFd = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .expect("a descriptor is left");
    let socket = UnixDatagram::from(socket);
    let mut packet = [0; 128];
    loop {
        let length = socket.recv(&mut packet).unwrap_or(0);
        if length == 0 {
            std::process::exit(0);
        }
        let word = std::str::from_utf8(&packet[..length]).expect("ASCII");
        let token = word.strip_prefix("fork ").expect("the only word there is");
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .env(PART, "worker")
            .env("TEST_TOKEN", token)
            .env("TEST_SESSION_DIR", config["session_dir"].as_str().expect("text"))
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("started");
        socket
            .send(format!("forked {token} {}", child.id()).as_bytes())
            .expect("sent");
        let socket = socket.try_clone().expect("a descriptor is left");
        std::thread::spawn(move || {
            use std::os::unix::process::ExitStatusExt;
            let pid = child.id();
            let status = child.wait().expect("waited").into_raw();
            let _ = socket.send(format!("exited {pid} {status}").as_bytes());
        });
    }
}

/// A worker's side of the raylet's socket, without descriptors.
struct Wire(UnixStream);

impl Wire {
    fn send(&mut self, body: To) {
        let message = v1::ToRaylet { body: Some(body) };
        let mut bytes = (message.encoded_len() as u32).to_le_bytes().to_vec();
        message.encode(&mut bytes).expect("a vector grows");
        self.0.write_all(&bytes).expect("sent");
    }

    fn receive(&mut self) -> Option<From> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut bytes).ok()?;
        v1::FromRaylet::decode(bytes.as_slice()).expect("a frame").body
    }
}

/// Registers, says hello in its log, and becomes any actor, whose class name says what it does.
fn worker() {
    let session_dir = PathBuf::from(std::env::var("TEST_SESSION_DIR").expect("set"));
    let token: u64 = std::env::var("TEST_TOKEN").expect("set").parse().expect("a number");
    let pid = std::process::id();
    let mut worker_id = vec![7; 28];
    worker_id[..4].copy_from_slice(&pid.to_le_bytes());
    let mut wire = Wire(UnixStream::connect(session_dir.join("sockets/raylet")).expect("the raylet listens"));
    if std::env::var(HOLDS_SOCKET).is_ok() {
        #[expect(clippy::zombie_processes, reason = "it is to be left behind")]
        Command::new("sleep")
            .arg("1000")
            .stdin(OwnedFd::from(wire.0.try_clone().expect("a descriptor is left")))
            .spawn()
            .expect("started");
    }
    let register = v1::Register {
        role: 1,
        worker_id: worker_id.clone(),
        pid,
        driver_config: Vec::new(),
        fork_token: token,
        set_up_follows: false,
        job_id: Vec::new(),
    };
    wire.send(To::Register(register));
    let Some(From::Registered(registered)) = wire.receive() else {
        std::process::exit(1)
    };
    assert_eq!(registered.error, "");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let stem = format!("worker-{}-{}-{pid}", hex(&worker_id), hex(&registered.job_id));
    let log = |suffix: &str, text: &str| {
        let path = session_dir.join("logs").join(format!("{stem}.{suffix}"));
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("opened");
        file.write_all(text.as_bytes()).expect("written");
    };
    if registered.say_ready {
        wire.send(To::WorkerReady(v1::WorkerReady {}));
    }
    while let Some(body) = wire.receive() {
        match body {
            From::StartActor(start) => {
                let class = start.spec.as_ref().expect("a spec").class_name.clone();
                log("out", &format!(":actor_name:{class}\nhello from {class}\n"));
                if class == "Crasher" {
                    log("err", ":actor_name:Crasher\nabout to crash\n");
                    std::process::exit(3);
                }
                if class == "Parent" {
                    // It carries no mark, like a program in the middle of `exec`: its group tells whose it is.
                    #[expect(clippy::zombie_processes, reason = "it is to be left behind")]
                    let child = Command::new("sleep").arg("1000").env_clear().spawn().expect("started");
                    log("out", &format!("child {}\n", child.id()));
                }
                let request = v1::ReportActorStartedRequest {
                    actor_id: start.actor_id,
                    incarnation: start.incarnation,
                    ..v1::ReportActorStartedRequest::default()
                };
                let method = "ReportActorStarted".to_owned();
                wire.send(To::GcsCall(v1::GcsCall {
                    request_id: 1,
                    method,
                    payload: request.encode_to_vec(),
                }));
            }
            From::Exit(_) => std::process::exit(0),
            _ => {}
        }
    }
}

fn driver() {
    let python = PathBuf::from(std::env::var("SESSION_TEST_PYTHON").expect("set"));
    let session = crate::stories::launch(&python, 2.0);
    crate::client::run(async {
        let mut driver = crate::client::Client::connect(&session.info.session_dir).await;
        driver.register(&Default::default()).await;
        println!("{}", session.info.session_dir.display());
        std::future::pending::<()>().await;
    });
}
