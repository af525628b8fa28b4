//! CORE-3 for a worker that waits for work: a real core worker, against a raylet and peers that the tests play.
//!
//! An idle executor sleeps for an hour at a time, so whatever should have woken it and did not shows as a test that
//! hangs; `LIMIT` ends it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use prost::Message;
use ray_rs_core_worker::{ConnectConfig, CoreWorker, LoopSeat, Next, Role, StoredValue, TaskStatus, WaitOutcome, v1};
use ray_rs_lanes::{Doorbell, EXEC, Lane, LaneSender, OutgoingClaims, RemoteBell, SpinTable};
use ray_rs_object_store::ArenaHost;
use ray_rs_proto::lane::Kind;
use ray_rs_types::{NodeId, PlacementGroupId, WorkerAddress, WorkerId};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

const LIMIT: Duration = Duration::from_secs(20);
const SESSION: &str = "session_of_a_test";

fn send(socket: &UnixStream, message: &impl Message, fds: &[BorrowedFd<'_>]) {
    let mut frame = (message.encoded_len() as u32).to_le_bytes().to_vec();
    message.encode(&mut frame).expect("a Vec grows");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&frame)], &mut control, SendFlags::empty());
    assert_eq!(sent.expect("sent"), frame.len(), "small frames go out whole");
}

fn receive<M: Message + Default>(socket: &UnixStream) -> (M, Vec<OwnedFd>) {
    let mut bytes = Vec::new();
    let mut fds = Vec::new();
    loop {
        if let Some((length, body)) = bytes.split_first_chunk::<4>()
            && body.len() >= u32::from_le_bytes(*length) as usize
        {
            return (M::decode(body).expect("one frame"), fds);
        }
        let mut buffer = [0; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC);
        assert_eq!(received.expect("received").bytes, 1, "the other side has closed");
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        bytes.push(buffer[0]);
    }
}

/// What the raylet is to one worker.
struct Raylet {
    directory: tempfile::TempDir,
    worker: UnixStream,
    _arena: ArenaHost,
}

fn worker() -> (Raylet, Arc<CoreWorker>) {
    let directory = tempfile::tempdir().expect("a directory");
    let sockets = directory.path().join("sockets");
    std::fs::create_dir(&sockets).expect("created");
    let listener = UnixListener::bind(sockets.join("raylet")).expect("bound");
    let path = directory.path().to_owned();
    let connecting = std::thread::spawn(move || {
        let config = ConnectConfig {
            session_dir: path,
            role: Role::Worker {
                fork_token: 1,
                set_up_follows: false,
            },
            on_event: Box::new(|_| {}),
        };
        CoreWorker::connect(config, &mut || false)
    });
    let (worker, _) = listener.accept().expect("a worker");
    let (_, _): (v1::ToRaylet, _) = receive(&worker);
    let (mut arena, arena_fd) = ArenaHost::create(1 << 20).expect("an arena");
    // No slots: nobody spins, so that an idle worker sleeps soon.
    let (_, spin_fd) = SpinTable::create(0).expect("a table");
    let registered = v1::Registered {
        node_id: NodeId([1; 28]).0.to_vec(),
        job_id: vec![0, 0, 0, 1],
        process_number: 1,
        arena_client: arena.allocate_client(),
        session: SESSION.to_owned(),
        ..v1::Registered::default()
    };
    let body = Some(v1::from_raylet::Body::Registered(registered));
    send(&worker, &v1::FromRaylet { body }, &[arena_fd.as_fd(), spin_fd.as_fd()]);
    let core = connecting.join().expect("no panic").expect("connected");
    let raylet = Raylet {
        directory,
        worker,
        _arena: arena,
    };
    (raylet, core)
}

impl Raylet {
    fn order_exit(&self) {
        let exit = v1::Exit {
            graceful: true,
            unless_needed: false,
            reason: "a test".to_owned(),
        };
        let body = Some(v1::from_raylet::Body::Exit(exit));
        send(&self.worker, &v1::FromRaylet { body }, &[]);
    }
}

/// Runs tasks until told to end; says so for each.
fn executor(core: &Arc<CoreWorker>) -> Receiver<&'static str> {
    let (say, heard) = channel();
    let core = Arc::clone(core);
    std::thread::spawn(move || {
        loop {
            match core.next_task(None, &mut || false) {
                Next::Task(task) => {
                    core.finish(*task, TaskStatus::Finished, Vec::new(), String::new(), false);
                    say.send("ran a task").expect("the test listens");
                }
                Next::Exit { .. } => return say.send("was told to end").expect("the test listens"),
                Next::StartActor(_) | Next::Checkpoint | Next::Nothing => unreachable!("nobody asked for that"),
            }
        }
    });
    heard
}

/// Another process, with a lane to the worker.
struct Peer {
    socket: UnixStream,
    sender: LaneSender,
    claims: OutgoingClaims,
    bell: RemoteBell,
    bell_memory: OwnedFd,
    _doorbell: Doorbell,
}

impl Peer {
    fn connect(to: &CoreWorker, sockets: &Path, number: u8) -> Self {
        let socket = UnixStream::connect(sockets.join(to.info().address.socket_name())).expect("it listens");
        let (lane, memory) = Lane::create().expect("a lane");
        let doorbell = Doorbell::create().expect("a bell");
        let (bell_memory, bell_eventfd) = doorbell.share().expect("dup");
        let me = WorkerAddress {
            node_id: to.info().node_id,
            worker_id: WorkerId([number; 28]),
            pid: u32::from(number),
        };
        let hello = v1::Hello {
            from: Some((&me).into()),
            session: SESSION.to_owned(),
        };
        send(
            &socket,
            &hello,
            &[memory.as_fd(), bell_memory.as_fd(), bell_eventfd.as_fd()],
        );
        let (_, fds): (v1::HelloAck, _) = receive(&socket);
        let [bell_memory, eventfd] = fds.try_into().expect("a bell is two descriptors");
        let bell = RemoteBell::attach(bell_memory.try_clone().expect("dup"), eventfd).expect("a bell");
        let (sender, _, claims, _) = lane.split();
        Self {
            socket,
            sender,
            claims,
            bell,
            bell_memory,
            _doorbell: doorbell,
        }
    }

    fn write(&mut self, kind: Kind, message: &impl Message) {
        let body = message.encode_to_vec();
        self.sender.send_with(body.len() + 1, |bytes| {
            bytes[0] = kind as u8;
            bytes[1..].copy_from_slice(&body);
        });
    }

    fn push_task(&mut self, seq: u64) {
        if seq == 1 {
            let definition = v1::DefineFunction {
                function_id: vec![5; 28],
                ..v1::DefineFunction::default()
            };
            self.write(Kind::DefineFunction, &definition);
        }
        self.claims.publish(seq);
        let task = v1::PushTask {
            seq,
            task_unique: seq,
            ..v1::PushTask::default()
        };
        self.write(Kind::PushTask, &task);
        self.bell.ring(EXEC);
    }

    /// The bits that the worker's sleeper wants: the second word of the bell's page.
    fn sleeper(&self) -> u32 {
        let mut word = [0; 4];
        rustix::io::pread(&self.bell_memory, &mut word, 4).expect("a page");
        u32::from_le_bytes(word)
    }

    /// Until the worker's executor sleeps, and a ring would wake it.
    fn wait_for_sleeper(&self) {
        let began = Instant::now();
        while self.sleeper() & EXEC == 0 {
            assert!(began.elapsed() < LIMIT, "nobody says that it sleeps");
            std::thread::yield_now();
        }
    }

    /// What is left when this process is killed in the middle of a ring: the announcement is taken, nobody is woken.
    fn die_in_the_middle_of_a_ring(self) {
        self.wait_for_sleeper();
        rustix::io::pwrite(&self.bell_memory, &[0; 4], 4).expect("the page can be written");
        drop(self.socket);
    }
}

#[test]
fn an_idle_worker_hears_the_raylet() {
    let (raylet, core) = worker();
    let heard = executor(&core);
    let mut peer = Peer::connect(&core, &raylet.directory.path().join("sockets"), 2);
    peer.push_task(1);
    assert_eq!(heard.recv_timeout(LIMIT), Ok("ran a task"));
    peer.wait_for_sleeper();
    // By the socket, which the sleeping thread does not watch.
    raylet.order_exit();
    assert_eq!(heard.recv_timeout(LIMIT), Ok("was told to end"));
    core.shutdown();
}

#[test]
fn an_idle_worker_hears_a_newcomer() {
    let (raylet, core) = worker();
    let heard = executor(&core);
    let sockets = raylet.directory.path().join("sockets");
    let mut first = Peer::connect(&core, &sockets, 2);
    first.wait_for_sleeper();
    // The sleeper does not know this lane.
    let mut second = Peer::connect(&core, &sockets, 3);
    second.push_task(1);
    first.push_task(1);
    assert_eq!(heard.recv_timeout(LIMIT), Ok("ran a task"));
    assert_eq!(heard.recv_timeout(LIMIT), Ok("ran a task"));
    core.shutdown();
}

#[test]
fn a_ringer_that_is_killed_costs_the_sleeper_nothing() {
    let (raylet, core) = worker();
    let heard = executor(&core);
    let sockets = raylet.directory.path().join("sockets");
    let doomed = Peer::connect(&core, &sockets, 2);
    let mut other = Peer::connect(&core, &sockets, 3);
    doomed.die_in_the_middle_of_a_ring();
    // Nobody would be woken by a ring now. The death is noticed, and the sleeper announces itself again.
    other.wait_for_sleeper();
    other.push_task(1);
    assert_eq!(heard.recv_timeout(LIMIT), Ok("ran a task"));
    core.shutdown();
}

/// A thread inside a `get` whose object never comes.
fn getter(core: &Arc<CoreWorker>) -> std::thread::JoinHandle<WaitOutcome> {
    let core = Arc::clone(core);
    std::thread::spawn(move || {
        // The raylet of these tests makes no groups.
        let never = core.group_ready(PlacementGroupId([7; 18]), StoredValue::none());
        core.wait(&[never], 1, None, false, &mut || false)
    })
}

#[test]
fn a_thread_in_a_get_hears_of_calls_that_other_threads_take() {
    let (raylet, core) = worker();
    core.use_threads(false);
    let getting = getter(&core);
    let mut peer = Peer::connect(&core, &raylet.directory.path().join("sockets"), 2);
    // Nobody else is there to sleep on the doorbell.
    peer.wait_for_sleeper();
    let heard = executor(&core);
    for seq in 1..=3 {
        peer.push_task(seq);
        assert_eq!(heard.recv_timeout(LIMIT), Ok("ran a task"));
    }
    core.shutdown();
    assert_eq!(heard.recv_timeout(LIMIT), Ok("was told to end"));
    assert!(matches!(getting.join(), Ok(WaitOutcome::Disconnected)));
}

/// Takes the next task the way an event loop does.
fn loop_takes_a_task(core: &CoreWorker, seat: LoopSeat) -> bool {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        if let Some(Next::Task(task)) = core.try_next_task() {
            core.finish(*task, TaskStatus::Finished, Vec::new(), String::new(), false);
            return true;
        }
        if !core.arm_loop(seat) {
            let event = core.loop_eventfd(seat);
            let mut polled = [PollFd::new(&*event, PollFlags::IN)];
            let limit = rustix::time::Timespec::try_from(LIMIT).expect("short");
            rustix::event::poll(&mut polled, Some(&limit)).expect("polled");
        }
        core.disarm_loop(seat);
    }
    false
}

#[test]
fn a_sleeping_loop_hears_of_tasks_whoever_else_sleeps() {
    let (raylet, core) = worker();
    let seat = core.add_loop(None).expect("an eventfd");
    let mut peer = Peer::connect(&core, &raylet.directory.path().join("sockets"), 2);
    for seq in 1..=20 {
        let pushed = std::thread::spawn(move || {
            peer.push_task(seq);
            peer
        });
        assert!(loop_takes_a_task(&core, seat), "of task {seq} it never heard");
        peer = pushed.join().expect("no panic");
    }
    let getting = getter(&core);
    peer.wait_for_sleeper();
    for seq in 21..=40 {
        peer.push_task(seq);
        assert!(loop_takes_a_task(&core, seat), "of task {seq} it never heard");
    }
    core.shutdown();
    assert!(matches!(getting.join(), Ok(WaitOutcome::Disconnected)));
}

#[test]
fn shutdown_ends_every_wait() {
    let (_raylet, core) = worker();
    let heard = executor(&core);
    let asking = std::thread::spawn({
        let core = Arc::clone(&core);
        // The raylet of this test answers nothing.
        move || core.gcs_call("KvGet", Vec::new(), &mut || false)
    });
    core.shutdown();
    assert_eq!(heard.recv_timeout(LIMIT), Ok("was told to end"));
    assert!(asking.join().expect("no panic").is_err());
}
