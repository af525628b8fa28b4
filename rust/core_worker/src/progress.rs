//! The progress thread: sockets, deaths, deadlines, and the lanes when no caller is inside the library. It never takes
//! the GIL.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ray_rs_lanes::{EXEC, Lane, PROGRESS, RemoteBell};
use ray_rs_proto::v1;
use ray_rs_types::WorkerAddress;
use rustc_hash::FxHashMap;
use rustix::event::epoll;
use rustix::net::{RecvFlags, SocketFlags};

use crate::bring;
use crate::core::CoreWorker;
use crate::frames::{self, Filled, FrameReader};
use crate::peers::PeerIndex;
use crate::remote::{Pipe, Target};
use crate::state::State;

const RAYLET: u64 = 0;
const LISTENER: u64 = 1;
const BELL: u64 = 2;
const FIRST_SOCKET: u64 = 3;

/// Looks at the lanes so often while answers are expected and nobody else looks.
const POLL: Duration = Duration::from_millis(1);
/// After so many looks in vain it asks to be rung instead.
const VAIN_LOOKS: u32 = 5;

/// Read at once from another node.
const PIPE_BYTES: usize = 64 << 10;

struct Connection {
    socket: Arc<OwnedFd>,
    reader: FrameReader,
    /// Known once the hand-shake is done (from the start for lanes that this process opened).
    lane: Option<PeerIndex>,
}

pub(crate) fn run(core: &Arc<CoreWorker>, listener: OwnedFd, raylet_reader: FrameReader) {
    if let Err(error) = Progress::new(core, listener, raylet_reader).and_then(|mut progress| progress.run()) {
        tracing::error!(%error, "the progress thread cannot go on");
        without_raylet(core);
    }
}

/// A worker without a raylet has no business: nothing it does can be seen, and nobody would end it. It ends before its
/// threads hear of it: what they made of that would be taken for their tasks' own errors, where owners live elsewhere.
fn without_raylet(core: &CoreWorker) {
    if !core.is_driver && !core.is_closed() {
        drop(std::fs::remove_file(&core.socket_path));
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    core.with(State::raylet_died);
}

struct Progress<'a> {
    core: &'a Arc<CoreWorker>,
    epoll: OwnedFd,
    listener: OwnedFd,
    raylet_reader: FrameReader,
    connections: FxHashMap<u64, Connection>,
    /// Connections to other nodes.
    pipes: FxHashMap<u64, PipeEnd>,
    next_token: u64,
    vain: u32,
    /// The core's count of glances at the last look.
    glances: u64,
}

/// The receiving side of a connection to another node.
struct PipeEnd {
    target: Target,
    pipe: Arc<Pipe>,
    /// For what a raylet says.
    reader: FrameReader,
}

impl<'a> Progress<'a> {
    fn new(core: &'a Arc<CoreWorker>, listener: OwnedFd, raylet_reader: FrameReader) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let add = |fd: rustix::fd::BorrowedFd<'_>, token| {
            epoll::add(&poll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
        };
        add(core.raylet.as_fd(), RAYLET)?;
        add(listener.as_fd(), LISTENER)?;
        add(core.bell.eventfd(), BELL)?;
        Ok(Self {
            core,
            epoll: poll,
            listener,
            raylet_reader,
            connections: FxHashMap::default(),
            pipes: FxHashMap::default(),
            next_token: FIRST_SOCKET,
            vain: 0,
            glances: 0,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        // What came behind the registration.
        self.read_raylet(false);
        let mut events = Vec::with_capacity(64);
        while !self.core.is_closed() {
            let timeout = self.before_sleep();
            let timeout = timeout.map(|left| rustix::event::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            });
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.core.state.lock().progress_sleeping = false;
            let tokens: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
            // The raylet last: when it passes on what a dead worker held, that the worker's lane ended is known already.
            for &token in tokens.iter().filter(|token| **token != RAYLET) {
                match token {
                    LISTENER => self.accept(),
                    BELL => self.core.bell.drain_eventfd(),
                    other if self.pipes.contains_key(&other) => self.serve_pipe(other),
                    other => self.read_socket(other),
                }
            }
            if tokens.contains(&RAYLET) && !self.read_raylet(true) {
                return Ok(());
            }
            self.look_at_lanes();
            self.watch_what_is_new();
        }
        Ok(())
    }

    /// How long to sleep. Arms the eventfd when nobody else would hear a ring.
    fn before_sleep(&mut self) -> Option<Duration> {
        let vain = self.vain;
        self.core.with(|state| {
            let mut timeout = state.next_deadline().map(|at| at.saturating_sub(state.now()));
            if !state.holder {
                if state.expects_something() && vain < VAIN_LOOKS {
                    timeout = Some(timeout.map_or(POLL, |other| other.min(POLL)));
                } else {
                    self.core.bell.arm_eventfd(PROGRESS | state.execution.loops.wants());
                    if state.drain_lanes(256) {
                        timeout = Some(Duration::ZERO);
                    }
                }
            }
            state.progress_wakes_at = timeout.map(|timeout| state.now() + timeout);
            state.progress_sleeping = true;
            timeout
        })
    }

    fn look_at_lanes(&mut self) {
        let glances = self.core.glances.load(Ordering::Relaxed);
        // As long as another thread sees to the lanes, not every answer needs to wake this one as well.
        let others_look = std::mem::replace(&mut self.glances, glances) != glances;
        let vain = &mut self.vain;
        self.core.with(|state| {
            if !state.holder && state.drain_lanes(1024) || others_look {
                *vain = 0;
            } else {
                *vain = vain.saturating_add(1);
            }
            state.on_deadline();
        });
    }

    /// False when the raylet is gone.
    fn read_raylet(&mut self, fill: bool) -> bool {
        let filled = if fill {
            self.raylet_reader.fill(&self.core.raylet, RecvFlags::DONTWAIT)
        } else {
            Filled::Some
        };
        loop {
            match self.raylet_reader.next::<v1::FromRaylet>() {
                Ok(Some(message)) => self.raylet_says(message),
                Ok(None) => break,
                Err(_) => return self.raylet_gone(),
            }
        }
        if filled == Filled::Closed {
            return self.raylet_gone();
        }
        true
    }

    fn raylet_says(&mut self, message: v1::FromRaylet) {
        match message.body {
            Some(v1::from_raylet::Body::PeerOpened(opened)) => {
                let socket = if opened.error.is_empty() {
                    self.raylet_reader.take_fd()
                } else {
                    None
                };
                self.core.with(|state| state.peer_opened(&opened, socket));
            }
            Some(v1::from_raylet::Body::PeerConnected(connected)) => {
                if let Some(socket) = self.raylet_reader.take_fd() {
                    self.core.with(|state| state.peer_connected(&connected, socket));
                }
            }
            body => {
                let message = v1::FromRaylet { body };
                let carries = bring::carries_memory(&message);
                let memory = carries.then(|| self.raylet_reader.take_fd()).flatten();
                self.core.with(|state| state.raylet_says(message, memory));
            }
        }
    }

    /// A connection to another node can be read, or takes more.
    ///
    /// Not part of its caller: the stack of a worker that talks to its own node only stays small.
    #[inline(never)]
    fn serve_pipe(&mut self, token: u64) {
        let PipeEnd { target, pipe, reader } = self.pipes.get_mut(&token).expect("the caller looked");
        let (target, socket) = (*target, pipe.socket.get().expect("watched when it was open"));
        self.core.flush_pipe(target, pipe);
        let mut failed = None;
        let mut buffer = [0; PIPE_BYTES];
        // Edge-triggered: to the end of what is there.
        while failed.is_none() {
            match target {
                Target::Peer(lane) => match rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                    Ok((0, _)) => failed = Some("it was closed".to_owned()),
                    Ok((count, _)) => self
                        .core
                        .with(|state| state.bytes_arrived(lane, pipe, &buffer[..count])),
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => failed = Some(error.to_string()),
                },
                Target::Raylet(place) => {
                    let filled = reader.fill(socket, RecvFlags::DONTWAIT);
                    loop {
                        match reader.next::<v1::FromRaylet>() {
                            Ok(Some(message)) => self.core.with(|state| state.remote_raylet_says(place, message)),
                            Ok(None) => break,
                            Err(error) => {
                                failed = Some(error.to_string());
                                break;
                            }
                        }
                    }
                    match filled {
                        Filled::Some => {}
                        Filled::Nothing => break,
                        Filled::Closed => failed = Some("it was closed".to_owned()),
                    }
                }
            }
        }
        if let Some(why) = failed {
            let end = self.pipes.remove(&token).expect("looked at above");
            let _ = epoll::delete(&self.epoll, end.pipe.socket.get().expect("it was watched"));
            self.core
                .with(|state| state.pipe_closed(end.target, Some(&end.pipe), &why));
        }
    }

    fn watch_what_is_new(&mut self) {
        let (sockets, pipes) = {
            let mut state = self.core.state.lock();
            let sockets = std::mem::take(&mut state.peers.new_sockets);
            (sockets, std::mem::take(&mut state.remote.new_pipes))
        };
        for (lane, socket) in sockets {
            self.watch(socket, Some(lane));
        }
        for (target, pipe) in pipes {
            let token = self.next_token;
            self.next_token += 1;
            let flags =
                epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            let socket = pipe.socket.get().expect("it is open");
            if epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), flags).is_ok() {
                let reader = FrameReader::default();
                self.pipes.insert(token, PipeEnd { target, pipe, reader });
            }
        }
    }

    fn raylet_gone(&self) -> bool {
        without_raylet(self.core);
        false
    }

    fn watch(&mut self, socket: Arc<OwnedFd>, lane: Option<PeerIndex>) {
        let token = self.next_token;
        self.next_token += 1;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        if epoll::add(&self.epoll, &*socket, epoll::EventData::new_u64(token), flags).is_ok() {
            self.connections.insert(
                token,
                Connection {
                    socket,
                    reader: FrameReader::default(),
                    lane,
                },
            );
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            let same_user =
                rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == rustix::process::getuid());
            if same_user {
                self.watch(Arc::new(socket), None);
            }
        }
    }

    fn read_socket(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let filled = connection.reader.fill(&*connection.socket, RecvFlags::DONTWAIT);
        let done = match connection.lane {
            None => accept_lane(self.core, connection),
            Some(lane) => acknowledge(self.core, connection, lane),
        };
        if filled == Filled::Closed || done.is_err() {
            let connection = self.connections.remove(&token).expect("looked at above");
            let _ = epoll::delete(&self.epoll, &*connection.socket);
            if let Some(lane) = connection.lane {
                self.core.with(|state| {
                    // The index may lead to another lane by now.
                    let who = state
                        .peers
                        .get(lane)
                        .filter(|peer| {
                            peer.socket
                                .as_ref()
                                .is_some_and(|socket| Arc::ptr_eq(socket, &connection.socket))
                        })
                        .map(|peer| peer.who);
                    if let Some(who) = who {
                        state.process_died(who);
                    }
                });
            }
        }
    }
}

/// The other side introduced itself: map its lane and answer.
fn accept_lane(core: &CoreWorker, connection: &mut Connection) -> io::Result<()> {
    let nonsense = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let Some(hello) = connection.reader.next::<v1::Hello>().map_err(io::Error::other)? else {
        return Ok(());
    };
    let mut fds = connection.reader.take_fds().into_iter();
    let (Some(memory), Some(bell), Some(eventfd)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(nonsense("a greeting without descriptors"));
    };
    let from = hello.from.as_ref().and_then(|from| WorkerAddress::try_from(from).ok());
    let from = from.ok_or_else(|| nonsense("a greeting without an address"))?;
    let lane = Lane::attach(memory).map_err(io::Error::other)?;
    let bell = RemoteBell::attach(bell, eventfd)?;
    let index = core.with(|state| {
        if hello.session != state.session {
            return None;
        }
        let who = state.owner_index(&from);
        if state.peers.is_dead(who) {
            return None;
        }
        Some(state.peers.add(who, lane, Some(bell), Arc::clone(&connection.socket)))
    });
    let Some(index) = index else {
        return Err(nonsense("a greeting from another session, or from the dead"));
    };
    connection.lane = Some(index);
    let (my_bell, my_eventfd) = core.bell.share()?;
    let mut bytes = Vec::new();
    let me = core.info().address;
    frames::append(
        &mut bytes,
        &v1::HelloAck {
            from: Some((&me).into()),
        },
    );
    frames::write_with_fds(
        connection.socket.as_fd(),
        &bytes,
        &[my_bell.as_fd(), my_eventfd.as_fd()],
    )?;
    core.with(|state| {
        state.drain_lanes(256);
        // The thread that waits knows the old set of lanes only.
        if state.holder {
            state.nudge();
        }
    });
    Ok(())
}

/// The other side answered our greeting: now it can be rung.
fn acknowledge(core: &CoreWorker, connection: &mut Connection, lane: PeerIndex) -> io::Result<()> {
    let Some(_) = connection.reader.next::<v1::HelloAck>().map_err(io::Error::other)? else {
        return Ok(());
    };
    let mut fds = connection.reader.take_fds().into_iter();
    let (Some(bell), Some(eventfd)) = (fds.next(), fds.next()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an answer without descriptors",
        ));
    };
    let bell = RemoteBell::attach(bell, eventfd)?;
    core.with(|state| {
        if let Some(peer) = state.peers.get_mut(lane) {
            peer.bell = Some(Arc::new(bell));
            peer.unrung = 0;
            state.ring(lane, PROGRESS | EXEC);
        }
    });
    Ok(())
}
