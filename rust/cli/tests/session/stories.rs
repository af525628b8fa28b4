//! What a session promises, told one by one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ray_rs_cli::{HeadConfig, Session, SessionInfo, discover, launch_head, stop, sweep};
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body as From;
use ray_rs_proto::v1::to_raylet::Body as To;
use ray_rs_raylet::DriverConfig;
use ray_rs_types::ResourceSet;
use rustix::process::Signal;

use crate::client::{Client, run};
use crate::parts::{HOLDS_SOCKET, fake_python, spawn_driver};

type Story = (&'static str, fn());

pub const ALL: &[Story] = &[
    ("leases_are_granted_and_come_back", leases),
    ("calls_reach_the_control_store", calls),
    ("extents_are_granted_or_refused", extents),
    ("an_actor_lives_prints_and_is_killed", actor),
    ("a_crash_is_reported_with_its_last_words", crash),
    ("orphans_of_a_dead_worker_end", orphans),
    ("a_second_driver_comes_and_goes", second_driver),
    ("a_zygote_that_cannot_start_is_explained", broken_zygote),
    ("a_dead_zygote_is_replaced", dead_zygote),
    ("workers_that_die_before_they_are_answered_are_replaced", dead_newcomers),
    ("a_killed_driver_leaves_nothing", killed_driver),
    ("a_killed_gcs_is_started_again", killed_gcs),
    ("a_session_killed_whole_is_swept", killed_whole),
    ("an_idle_session_does_nothing", idle),
    ("cycles_leave_nothing", cycles),
];

fn cpus(amount: f64) -> ResourceSet {
    ResourceSet::new().with("CPU", amount)
}

fn python() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = fake_python(dir.path());
    (dir, path)
}

pub fn launch(python: &Path, num_cpus: f64) -> Session {
    launch_for(python, num_cpus, DriverConfig::default())
}

fn launch_for(python: &Path, num_cpus: f64, driver: DriverConfig) -> Session {
    let config = HeadConfig {
        python: python.to_owned(),
        core_path: PathBuf::from("/nowhere/ray_rs/_core.so"),
        num_cpus: Some(num_cpus),
        num_gpus: Some(0.0),
        object_store_memory: Some(128 << 20),
        driver_pid: Some(std::process::id()),
        driver_config: Some(driver),
        ..HeadConfig::default()
    };
    launch_head(&config).expect("launched")
}

/// A session with one registered driver, stopped afterwards; nothing of it may be left then.
fn with_driver<F: Future<Output = ()>>(story: impl FnOnce(PathBuf, Client, v1::Registered) -> F) {
    let (_keep, python) = python();
    let mut session = launch(&python, 2.0);
    let dir = session.info.session_dir.clone();
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(async {
            let mut driver = Client::connect(&dir).await;
            let registered = driver.register(&DriverConfig::default()).await;
            story(dir.clone(), driver, registered).await;
        });
    }));
    if let Err(panic) = told {
        // A daemon that has ended by itself explains most of what can go wrong.
        eprintln!(
            "running: gcs {:?}, raylet {:?}",
            session.gcs.as_mut().expect("a head").is_running(),
            session.raylet.is_running()
        );
        std::panic::resume_unwind(panic);
    }
    stop(session);
    assert_gone(&dir);
}

/// Waits until no process that belongs to the session is left, nor its directory (its logs may be).
fn assert_gone(dir: &Path) {
    wait_until("the session's processes and files are gone", || {
        let name = dir.to_string_lossy().into_owned();
        processes_that_mention(&name).is_empty() && !dir.join("token").exists() && !dir.join("sockets").exists()
    });
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "it never came to pass that {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Processes in whose command line or environment the text stands.
fn processes_that_mention(text: &str) -> Vec<u32> {
    let mentions = |pid: &u32| {
        ["cmdline", "environ"].iter().any(|file| {
            let content = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&content).contains(text)
        })
    };
    let pids = std::fs::read_dir("/proc").expect("proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id()).filter(mentions).collect()
}

fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it lives");
}

fn leases() {
    with_driver(async |_, mut driver, registered| {
        assert_eq!(
            registered.process_number >> 18,
            1,
            "the number begins with the node's index"
        );
        assert!(
            registered.gcs_address.starts_with("127.0.0.1:"),
            "{}",
            registered.gcs_address
        );
        let requests = [
            driver.request_lease(cpus(1.0)).await,
            driver.request_lease(cpus(1.0)).await,
        ];
        let first = driver.lease(requests[0]).await;
        let second = driver.lease(requests[1]).await;
        assert_ne!(first.worker, second.worker);
        let third = driver.request_lease(cpus(1.0)).await;
        driver.send(To::ClusterView(v1::ClusterView { request_id: 77 })).await;
        let view = driver
            .expect("view", |body| match body {
                From::ClusterViewReply(view) => Some(view.clone()),
                _ => None,
            })
            .await;
        assert_eq!(ResourceSet::from(&view.available.expect("set")).get("CPU").0, 0);
        assert!(view.nodes[0].is_head && view.nodes[0].alive);
        driver
            .send(To::ReturnLease(v1::ReturnLease {
                lease_id: first.lease_id,
                worker_gone: false,
            }))
            .await;
        assert_eq!(
            driver.lease(third).await.worker,
            first.worker,
            "its lane is open already"
        );
        // What no node has is said, and waits.
        driver.request_lease(cpus(1.0).with("GPU", 1.0)).await;
        driver.notice("The task f asks for {CPU: 1, GPU: 1}").await;
    });
}

fn calls() {
    with_driver(async |_, mut driver, _| {
        let put = v1::KvPutRequest {
            namespace: "usr".to_owned(),
            key: b"k".to_vec(),
            value: b"v".to_vec(),
            overwrite: true,
        };
        let reply: v1::KvPutReply = driver.call("KvPut", &put).await.expect("put");
        assert!(!reply.existed);
        let get = v1::KvGetRequest {
            namespace: "usr".to_owned(),
            key: b"k".to_vec(),
        };
        let reply: v1::KvGetReply = driver.call("KvGet", &get).await.expect("got");
        assert_eq!((reply.found, reply.value.as_slice()), (true, b"v".as_slice()));
        let error = driver
            .call::<v1::Empty>("NoSuchMethod", &get)
            .await
            .expect_err("there is none");
        assert!(error.starts_with("Unimplemented: "), "{error}");
    });
}

fn extents() {
    with_driver(async |_, mut driver, registered| {
        let mut ask = async |min_bytes| {
            let request_id = driver.next_request();
            driver
                .send(To::RequestExtent(v1::RequestExtent { request_id, min_bytes }))
                .await;
            driver
                .expect("extent", |body| match body {
                    From::ExtentGranted(granted) if granted.request_id == request_id => Some(granted.clone()),
                    _ => None,
                })
                .await
        };
        let small = ask(1 << 20).await;
        assert_eq!(small.error, "");
        assert!(small.length >= 1 << 20);
        let large = ask(40 << 20).await;
        assert!(large.error.is_empty() && large.length >= 40 << 20, "{large:?}");
        let impossible = ask(registered.arena_bytes * 2).await;
        assert!(!impossible.error.is_empty());
        driver
            .send(To::ReturnExtent(v1::ReturnExtent {
                offset: large.offset,
                length: large.length,
            }))
            .await;
        driver.send(To::StoreStats(v1::StoreStats { request_id: 99 })).await;
        let stats = driver
            .expect("stats", |body| match body {
                From::StoreStatsReply(stats) => Some(*stats),
                _ => None,
            })
            .await;
        assert_eq!(stats.capacity_bytes, registered.arena_bytes);
        assert!(
            stats.granted_bytes >= 1 << 20 && stats.granted_bytes < 40 << 20,
            "{stats:?}"
        );
    });
}

async fn create_actor(driver: &mut Client, job_id: &[u8], class: &str, unique: u8, max_restarts: i32) -> Vec<u8> {
    let mut actor_id = vec![unique; 12];
    actor_id.extend_from_slice(job_id);
    let spec = v1::ActorSpec {
        actor_id: actor_id.clone(),
        job_id: job_id.to_vec(),
        class_id: vec![2; 28],
        class_name: class.to_owned(),
        args: Some(v1::Value::default()),
        placement_resources: Some((&cpus(1.0)).into()),
        running_resources: Some((&ResourceSet::new()).into()),
        max_restarts,
        owner: Some(v1::WorkerAddress {
            node_id: vec![1; 28],
            worker_id: vec![1; 28],
            pid: std::process::id(),
        }),
        handle_id: vec![unique; 28],
        ..v1::ActorSpec::default()
    };
    let request = v1::RegisterActorRequest {
        spec: Some(spec),
        get_if_exists: false,
    };
    driver
        .call::<v1::RegisterActorReply>("RegisterActor", &request)
        .await
        .expect("registered");
    driver
        .send(To::SubscribeActor(v1::SubscribeActor {
            actor_id: actor_id.clone(),
            is_new: false,
        }))
        .await;
    actor_id
}

fn actor() {
    with_driver(async |_, mut driver, registered| {
        let actor_id = create_actor(&mut driver, &registered.job_id, "Greeter", 5, 1).await;
        let alive = driver.actor_update(2).await;
        let first = alive.worker.expect("an address");
        let line = driver.line("hello from Greeter").await;
        assert_eq!(
            (line.name.as_str(), line.pid, line.is_stderr),
            ("Greeter", first.pid, false)
        );
        // It is restarted once.
        kill(first.pid);
        let report = driver.death_of(&first).await;
        assert_eq!((report.known, report.signal, report.exit_code), (true, 9, -1));
        let again = driver.actor_update(2).await;
        assert_eq!(again.incarnation, 1);
        let second = again.worker.expect("an address");
        assert_ne!(second.pid, first.pid);
        driver.send(To::FlushLogs(v1::FlushLogs { request_id: 1 })).await;
        driver
            .expect("flush", |body| matches!(body, From::LogsFlushed(_)).then_some(()))
            .await;
        // Then it is killed for good.
        let request = v1::KillActorRequest {
            actor_id,
            no_restart: true,
        };
        driver.call::<v1::Empty>("KillActor", &request).await.expect("killed");
        assert_eq!(driver.actor_update(4).await.death.expect("a reason").cause, 2);
        driver.death_of(&second).await;
        let why = v1::WhyDied {
            request_id: 5,
            worker_id: second.worker_id.clone(),
        };
        driver.send(To::WhyDied(why)).await;
        let report = driver
            .expect("report", |body| match body {
                From::DeathReport(report) if report.request_id == 5 => Some(report.clone()),
                _ => None,
            })
            .await;
        assert!(
            report.known && report.signal == 9 && !report.detail.is_empty(),
            "{report:?}"
        );
    });
}

fn crash() {
    with_driver(async |_, mut driver, registered| {
        create_actor(&mut driver, &registered.job_id, "Crasher", 6, 0).await;
        let dead = driver.actor_update(4).await;
        assert_eq!(dead.death.expect("a reason").cause, 1);
        let report = driver
            .expect("death", |body| match body {
                From::WorkerDied(died) => died.report.clone(),
                _ => None,
            })
            .await;
        assert_eq!((report.exit_code, report.signal, report.known), (3, 0, true));
        assert_eq!(report.last_stderr, "about to crash");
        let line = driver.line("about to crash").await;
        assert!(line.is_stderr && line.name == "Crasher");
    });
}

fn orphans() {
    with_driver(async |_, mut driver, registered| {
        create_actor(&mut driver, &registered.job_id, "Parent", 7, 0).await;
        let worker = driver.actor_update(2).await.worker.expect("an address");
        let lines = driver.line("child ").await;
        let line = lines
            .lines
            .iter()
            .find_map(|line| line.strip_prefix("child "))
            .expect("a pid");
        let child: u32 = line.parse().expect("a pid");
        assert!(is_running(child));
        kill(worker.pid);
        driver.death_of(&worker).await;
        wait_until("the orphan is gone", || !is_running(child));
    });
}

fn second_driver() {
    with_driver(async |dir, mut driver, first| {
        let found = discover("auto").expect("it runs");
        assert_eq!(found.session_dir, dir.canonicalize().expect("a path"));
        assert_eq!(discover(&found.gcs_address).expect("by its address"), found);
        let mut other = Client::connect(&dir).await;
        let second = other
            .register(&DriverConfig {
                namespace: "other".to_owned(),
                ..DriverConfig::default()
            })
            .await;
        assert_ne!(first.job_id, second.job_id);
        assert_ne!(first.process_number, second.process_number);
        assert_eq!(second.namespace, "other");
        let request = other.request_lease(cpus(2.0)).await;
        let lease = other.lease(request).await;
        let worker = lease.worker.expect("an address");
        // It goes without a word: its workers end, and what they held is free.
        drop(other);
        driver.death_of(&worker).await;
        assert!(!is_running(worker.pid));
        let request = driver.request_lease(cpus(2.0)).await;
        driver.lease(request).await;
    });
}

fn broken_zygote() {
    let (_keep, python) = python();
    let session = launch(&python, 1.0);
    run(async {
        let mut driver = Client::connect(&session.info.session_dir).await;
        let config = DriverConfig {
            preload: vec!["no_such_module".to_owned()],
            ..DriverConfig::default()
        };
        driver.register(&config).await;
        driver.notice("no_such_module").await;
        let request = driver.request_lease(cpus(1.0)).await;
        let reason = driver
            .expect("rejection", |body| match body {
                From::LeaseRejected(rejected) if rejected.request_id == request => Some(rejected.reason.clone()),
                _ => None,
            })
            .await;
        assert!(reason.contains("no_such_module"), "{reason}");
    });
    let dir = session.info.session_dir.clone();
    stop(session);
    assert_gone(&dir);
    assert!(dir.join("logs").exists(), "logs that say something are kept");
}

fn dead_zygote() {
    with_driver(async |dir, mut driver, _| {
        let request = driver.request_lease(cpus(1.0)).await;
        let worker = driver.lease(request).await.worker.expect("an address");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.pid)).expect("it lives");
        let zygote: u32 = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1))
            .expect("a parent")
            .parse()
            .expect("a pid");
        kill(zygote);
        // Reaped, that is, all its threads: one that waits for a child might still take that child's status with it.
        wait_until("the zygote is gone", || !Path::new(&format!("/proc/{zygote}")).exists());
        // The worker lives on, and how it ends is still known.
        assert!(is_running(worker.pid));
        kill(worker.pid);
        let report = driver.death_of(&worker).await;
        assert_eq!((report.known, report.signal), (true, 9));
        let requests = [
            driver.request_lease(cpus(1.0)).await,
            driver.request_lease(cpus(1.0)).await,
        ];
        for request in requests {
            let worker = driver.lease(request).await.worker.expect("an address");
            assert!(is_running(worker.pid));
        }
        assert!(dir.exists());
    });
}

fn dead_newcomers() {
    let (_keep, python) = python();
    // Their sockets outlive them.
    let config = DriverConfig {
        env: [(HOLDS_SOCKET.to_owned(), "1".to_owned())].into(),
        ..DriverConfig::default()
    };
    let session = launch_for(&python, 1.0, config.clone());
    let dir = session.info.session_dir.clone();
    // Workers wait for the job's id, and that comes from the control store.
    signal(session.info.gcs_pid, Signal::STOP);
    let name = dir.to_string_lossy().into_owned();
    let mut killed = Vec::new();
    run(async {
        let mut driver = Client::connect(&dir).await;
        driver.send_registration(&config).await;
        for _ in 0..3 {
            let mut newcomer = None;
            wait_until("a worker asks to be registered", || {
                newcomer = processes_that_mention(&name)
                    .into_iter()
                    .find(|pid| is_waiting_worker(*pid) && !killed.contains(pid));
                newcomer.is_some()
            });
            let newcomer = newcomer.expect("just found");
            kill(newcomer);
            killed.push(newcomer);
        }
        signal(session.info.gcs_pid, Signal::CONT);
        driver.registered().await;
        let request = driver.request_lease(cpus(1.0)).await;
        driver.lease(request).await;
    });
    stop(session);
    assert_gone(&dir);
}

/// A worker of the tests that sleeps until the raylet answers.
fn is_waiting_worker(pid: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    read("environ").contains("SESSION_TEST_PART=worker") && read("stat").contains(") S ")
}

fn killed_driver() {
    let (_keep, python) = python();
    let mut driver = spawn_driver(&python);
    let mut line = String::new();
    BufReader::new(driver.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("it prints");
    let dir = PathBuf::from(line.trim());
    assert!(dir.join("token").exists());
    driver.kill().expect("killed");
    driver.wait().expect("reaped");
    let killed = Instant::now();
    assert_gone(&dir);
    println!("  gone {} ms after the driver was killed", killed.elapsed().as_millis());
    assert!(discover("auto").is_none());
}

fn killed_gcs() {
    let (_keep, python) = python();
    let session = launch(&python, 1.0);
    let dir = session.info.session_dir.clone();
    run(async {
        let mut driver = Client::connect(&dir).await;
        driver.register(&DriverConfig::default()).await;
        let put = v1::KvPutRequest {
            namespace: "usr".to_owned(),
            key: b"k".to_vec(),
            value: b"v".to_vec(),
            overwrite: true,
        };
        let _: v1::KvPutReply = driver.call("KvPut", &put).await.expect("put");
        kill(session.info.gcs_pid);
        // What needs no control store goes on.
        let request = driver.request_lease(cpus(1.0)).await;
        driver.lease(request).await;
        // What does waits for the next one, which knows what the first has acknowledged.
        let get = v1::KvGetRequest {
            namespace: "usr".to_owned(),
            key: b"k".to_vec(),
        };
        let reply: v1::KvGetReply = driver.call("KvGet", &get).await.expect("got");
        assert_eq!((reply.found, reply.value.as_slice()), (true, b"v".as_slice()));
        let info = SessionInfo::read(&dir).expect("it lives");
        assert_ne!(info.gcs_pid, session.info.gcs_pid);
    });
    stop(session);
    assert_gone(&dir);
}

fn killed_whole() {
    let (_keep, python) = python();
    let session = launch(&python, 1.0);
    let dir = session.info.session_dir.clone();
    run(async {
        let mut driver = Client::connect(&dir).await;
        driver.register(&DriverConfig::default()).await;
        kill(session.info.raylet_pid);
        kill(session.info.gcs_pid);
    });
    let SessionInfo {
        gcs_pid, raylet_pid, ..
    } = session.info;
    drop(session);
    for pid in [gcs_pid, raylet_pid] {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed());
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).expect("our child");
    }
    assert!(dir.join("token").exists());
    sweep().expect("swept");
    assert_gone(&dir);
}

fn idle() {
    with_driver(async |dir, mut driver, _| {
        let info = SessionInfo::read(&dir).expect("it runs");
        let request = driver.request_lease(cpus(1.0)).await;
        let lease = driver.lease(request).await;
        driver
            .send(To::ReturnLease(v1::ReturnLease {
                lease_id: lease.lease_id,
                worker_gone: false,
            }))
            .await;
        // A sleeping process that nothing wakes has the same number of context switches later on.
        let switches = |pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary_ctxt"))
                .expect("a count")
                .to_owned();
            line.split_whitespace()
                .next_back()
                .expect("a number")
                .parse::<u64>()
                .expect("a number")
        };
        let daemons = [info.gcs_pid, info.raylet_pid];
        let mut before = daemons.map(switches);
        let mut quiet = Instant::now();
        let until = Instant::now() + Duration::from_secs(20);
        while quiet.elapsed() < Duration::from_millis(400) {
            assert!(Instant::now() < until, "an idle session goes on doing something");
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = daemons.map(switches);
            if now != before {
                before = now;
                quiet = Instant::now();
            }
        }
    });
}

fn cycles() {
    let (_keep, python) = python();
    let open = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
    let mut after_first = None;
    let mut times = Vec::new();
    for _ in 0..10 {
        let started = Instant::now();
        let session = launch(&python, 1.0);
        let dir = session.info.session_dir.clone();
        run(async {
            let mut driver = Client::connect(&dir).await;
            driver.register(&DriverConfig::default()).await;
        });
        let registered = started.elapsed();
        let stopping = Instant::now();
        stop(session);
        times.push((registered, stopping.elapsed()));
        assert!(!dir.exists(), "a session that said nothing leaves nothing");
        assert_eq!(*after_first.get_or_insert_with(open), open(), "descriptors are closed");
    }
    times.sort();
    let (up, down) = times[times.len() / 2];
    println!(
        "  launch to registered {} ms, stop {} ms (median)",
        up.as_millis(),
        down.as_millis()
    );
}
