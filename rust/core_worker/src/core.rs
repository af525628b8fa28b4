//! The facade: joining a session, the lock, and the calls of the binding.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{ArcMutexGuard, Mutex, MutexGuard, RawMutex};
use ray_rs_lanes::{Doorbell, SpinPolicy, SpinTable, Spinner};
use ray_rs_object_store::ArenaClient;
use ray_rs_ownership::{OwnerIndex, OwnerTable, RefKind};
use ray_rs_proto::v1;
use ray_rs_types::address::arena_owner;
use ray_rs_types::config::{GLANCE, GLANCE_PAUSE};
use ray_rs_types::{ActorId, FunctionId, JobId, NodeId, ObjectId, ResourceSet, WorkerAddress, WorkerId};
use rustc_hash::FxHashSet;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::frames::{self, FrameReader};
use crate::host::HostThread;
use crate::joining::{ANSWER_LIMIT, await_registration};
use crate::model::*;
use crate::state::{Answer, State};
use crate::submit::Spec;

/// Functions to this size are sent to each worker that runs them: one message where there would be a question as well.
const MAX_DEFINITION_BYTES: usize = 8 * 1024;

fn put_function(id: FunctionId, blob: Vec<u8>) -> v1::KvPutRequest {
    v1::KvPutRequest {
        namespace: "fun".to_owned(),
        key: id.0.to_vec(),
        value: blob,
        overwrite: false,
    }
}

/// What happened so far, for benchmarks and tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    pub references: u64,
    pub tasks: u64,
    pub spin_hits: u64,
    pub spin_misses: u64,
    pub sleeps: u64,
}

/// One process's membership in a session.
pub struct CoreWorker {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) arena: Arc<ArenaClient>,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) spinner: Mutex<Spinner>,
    /// Of those that look for a moment before they really wait, see [`Self::glance`].
    pub(crate) glancer: Mutex<Spinner>,
    /// How many glances have seen what they looked for.
    pub(crate) glances: AtomicU64,
    pub(crate) host: HostThread,
    pub(crate) raylet: OwnedFd,
    raylet_writer: Mutex<Vec<u8>>,
    /// Number of the task whose thread is to be interrupted; 0: none.
    pub(crate) interrupted: Arc<AtomicU64>,
    /// Local counts dropped while the lock was taken.
    dropped: Mutex<Vec<RefSlot>>,
    has_dropped: AtomicBool,
    /// Functions that the program let go.
    dropped_functions: Mutex<Vec<FunctionIndex>>,
    dropped_methods: Mutex<Vec<MethodIndex>>,
    info: ProcessInfo,
    forked: AtomicBool,
    /// In a forked child: the references it has inherited, which still have their names. The lock is not to be had there.
    left_behind: OnceLock<OwnerTable<StoredValue, Spec>>,
    pub(crate) closed: AtomicBool,
    pub(crate) is_driver: bool,
    exported: Mutex<FxHashSet<FunctionId>>,
    pub(crate) socket_path: PathBuf,
    progress: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl CoreWorker {
    /// Joins the session: registers with the raylet, maps the arena, starts the progress thread.
    ///
    /// # Errors
    /// [`CoreError::ConnectionFailed`] with what could not be reached, or why the raylet refused, or that it did not answer
    /// a driver in time. [`CoreError::Interrupted`] when `interrupt` said so, of which a driver's wait asks now and then.
    pub fn connect(config: ConnectConfig, interrupt: &mut dyn FnMut() -> bool) -> Result<Arc<Self>, CoreError> {
        let sockets = config.session_dir.join("sockets");
        let failed = |what: &str, error: std::io::Error| {
            CoreError::ConnectionFailed(format!("{what} in {}: {error}", config.session_dir.display()))
        };
        let raylet = connect_raylet(&sockets.join("raylet")).map_err(|e| failed("cannot reach the raylet", e))?;
        let mut random = [0u8; 28];
        getrandom::fill(&mut random).map_err(|e| CoreError::ConnectionFailed(format!("no random numbers: {e}")))?;
        let worker_id = WorkerId(random);
        let pid = std::process::id();
        let is_driver = matches!(config.role, Role::Driver { .. });
        let register = match config.role {
            Role::Driver { config } => v1::Register {
                role: 0,
                worker_id: random.to_vec(),
                pid,
                driver_config: config,
                fork_token: 0,
                set_up_follows: false,
                job_id: Vec::new(),
            },
            Role::Worker {
                fork_token,
                set_up_follows,
            } => v1::Register {
                role: 1,
                worker_id: random.to_vec(),
                pid,
                driver_config: Vec::new(),
                fork_token,
                set_up_follows,
                job_id: Vec::new(),
            },
        };
        // Listening before anybody can know of us.
        let socket_path = sockets.join(ray_rs_types::address::socket_name(&worker_id));
        let listener = listen(&socket_path).map_err(|e| failed("cannot listen", e))?;
        let mut bytes = Vec::new();
        frames::append(
            &mut bytes,
            &v1::ToRaylet {
                body: Some(v1::to_raylet::Body::Register(register)),
            },
        );
        frames::write_all(raylet.as_fd(), &bytes).map_err(|e| failed("cannot register with the raylet", e))?;
        let mut reader = FrameReader::default();
        let limit = is_driver.then_some(ANSWER_LIMIT);
        let registered =
            await_registration(&raylet, &mut reader, limit, &config.on_event, interrupt).inspect_err(|_| {
                // Nobody will look for it.
                let _ = std::fs::remove_file(&socket_path);
            })?;
        let mut fds = reader.take_fds().into_iter();
        let (Some(arena_fd), Some(spin_fd)) = (fds.next(), fds.next()) else {
            return Err(CoreError::ConnectionFailed(
                "the raylet passed no shared memory".to_owned(),
            ));
        };
        let arena = ArenaClient::attach(arena_fd, registered.arena_client, arena_owner(&worker_id))
            .map_err(|e| failed("cannot map the arena", e))?;
        let table = SpinTable::attach(spin_fd).ok().map(Arc::new);
        let bell = Arc::new(Doorbell::create().map_err(|e| failed("cannot make a doorbell", e))?);
        let node_id = NodeId::from_bytes(&registered.node_id).unwrap_or(NodeId::NIL);
        let job_id = JobId::from_bytes(&registered.job_id).unwrap_or(JobId::NIL);
        let me = WorkerAddress {
            node_id,
            worker_id,
            pid,
        };
        let node_resources: ResourceSet = registered.node_resources.as_ref().map(Into::into).unwrap_or_default();
        let info = ProcessInfo {
            address: me,
            job_id,
            node_id,
            session: registered.session.clone(),
            session_dir: registered.session_dir,
            gcs_address: registered.gcs_address,
            node_ip: registered.node_ip,
            namespace: registered.namespace,
            node_resources: node_resources.clone(),
            arena_bytes: registered.arena_bytes,
            is_awaited: registered.say_ready,
        };
        let cpus = node_resources.get(ray_rs_types::resources::CPU).to_f64().ceil() as u32;
        let arena = Arc::new(arena);
        let mut state = State::new(
            me,
            job_id,
            registered.session,
            sockets,
            registered.process_number,
            cpus,
            Arc::clone(&arena),
            Arc::clone(&bell),
        );
        state.is_driver = is_driver;
        state.node_ip.clone_from(&info.node_ip);
        let interrupted = Arc::clone(&state.interrupted);
        let spinning = SpinPolicy::detect();
        let core = Arc::new(Self {
            state: Arc::new(Mutex::new(state)),
            arena,
            bell,
            spinner: Mutex::new(Spinner::new(table.clone(), spinning)),
            glancer: Mutex::new(Spinner::new(
                table,
                SpinPolicy {
                    limit: GLANCE,
                    longest_pause: GLANCE_PAUSE,
                    ..spinning
                },
            )),
            glances: AtomicU64::new(0),
            host: HostThread::new(config.on_event),
            raylet,
            interrupted,
            raylet_writer: Mutex::new(Vec::new()),
            dropped: Mutex::new(Vec::new()),
            has_dropped: AtomicBool::new(false),
            dropped_functions: Mutex::new(Vec::new()),
            dropped_methods: Mutex::new(Vec::new()),
            info,
            forked: AtomicBool::new(false),
            left_behind: OnceLock::new(),
            closed: AtomicBool::new(false),
            is_driver,
            exported: Mutex::new(FxHashSet::default()),
            socket_path,
            progress: Mutex::new(None),
        });
        let handle = std::thread::Builder::new()
            .name("ray_rs-progress".into())
            .stack_size(512 * 1024)
            .spawn({
                let core = Arc::clone(&core);
                move || crate::progress::run(&core, listener, reader)
            })
            .map_err(|e| failed("cannot start a thread", e))?;
        *core.progress.lock() = Some(handle);
        core.with(|state| state.prepare_first_task(registered.first_worker.as_ref(), &node_resources));
        Ok(core)
    }

    pub fn info(&self) -> &ProcessInfo {
        &self.info
    }

    // ---- the lock ----------------------------------------------------------------------------------------------

    /// Runs `f` under the lock, then does what it left to be done without it.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        self.take_dropped(&mut state);
        let result = f(&mut state);
        self.leave(state);
        result
    }

    fn take_dropped(&self, state: &mut State) {
        if self.has_dropped.load(Ordering::Acquire) {
            self.has_dropped.store(false, Ordering::Release);
            for slot in std::mem::take(&mut *self.dropped.lock()) {
                state.drop_local(slot);
            }
            state.run_effects();
        }
    }

    fn leave(&self, mut state: MutexGuard<'_, State>) {
        state.wake_loops();
        if state.asked_to_leave && !state.owner.owns_any() {
            state.asked_to_leave = false;
            state.tell_raylet(v1::to_raylet::Body::Unneeded(v1::Unneeded {}));
        }
        if state.retires.is_some() && !state.owner.owns_any() {
            let reason = state.retires.take().expect("looked at above");
            state.order_given(Next::Exit { graceful: true, reason });
        }
        // The progress thread must not sleep past the next deadline.
        if state.progress_sleeping
            && let Some(deadline) = state.next_deadline()
            && state
                .progress_wakes_at
                .is_none_or(|wakes| deadline + Duration::from_millis(1) < wakes)
        {
            state.progress_wakes_at = Some(deadline);
            state.after.kick = true;
        }
        if state.after.is_empty() {
            return;
        }
        let after = std::mem::take(&mut state.after);
        drop(state);
        for (bell, what) in &after.bells {
            bell.ring(*what);
        }
        for thread in &after.wake {
            thread.unpark();
        }
        for event in after.host {
            self.host.send(event);
        }
        for (target, pipe) in &after.pipes {
            self.flush_pipe(*target, pipe);
        }
        if after.raylet {
            self.write_to_raylet();
        }
        if after.kick {
            self.kick_progress();
        }
        if after.die {
            // Nothing of Python's is asked: its main thread is the reason. The raylet tells of the end.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }

    pub(crate) fn kick_progress(&self) {
        let _ = rustix::io::write(self.bell.eventfd(), &1u64.to_ne_bytes());
    }

    fn write_to_raylet(&self) {
        // This order of locks keeps the frames of several threads in the order in which they were decided.
        let mut buffer = self.raylet_writer.lock();
        {
            let mut state = self.state.lock();
            std::mem::swap(&mut *buffer, &mut state.raylet_out);
        }
        if !buffer.is_empty() && frames::write_all(self.raylet.as_fd(), &buffer).is_err() {
            tracing::debug!("the raylet no longer reads; the progress thread will see its end");
        }
        buffer.clear();
        if buffer.capacity() > 1 << 20 {
            *buffer = Vec::new();
        }
    }

    // ---- functions ---------------------------------------------------------------------------------------------

    /// Stores a pickled function or class in the GCS under the hash of its content, once for each process.
    pub fn export_blob(&self, id: FunctionId, blob: Vec<u8>, interrupt: Interrupt<'_>) -> Result<(), CoreError> {
        if self.exported.lock().contains(&id) {
            return Ok(());
        }
        let message = put_function(id, blob);
        self.gcs_call("KvPut", prost::Message::encode_to_vec(&message), interrupt)?;
        self.exported.lock().insert(id);
        Ok(())
    }

    /// Keeps a pickled function in the control store. A small one travels to workers with its first task, so that nobody
    /// waits until it is on the store's disk; returns what is to travel (nothing of a large one, which is there by then).
    ///
    /// # Errors
    /// As [`Self::export_blob`]. Of a small one only that the raylet is gone: what else goes wrong is told as a notice.
    pub fn export_function(&self, id: FunctionId, blob: Vec<u8>, interrupt: Interrupt<'_>) -> Result<Bytes, CoreError> {
        if blob.len() > MAX_DEFINITION_BYTES {
            self.export_blob(id, blob, interrupt)?;
            return Ok(Bytes::new());
        }
        let definition = Bytes::from(blob);
        if self.exported.lock().insert(id) {
            let message = put_function(id, definition.to_vec());
            self.with(|state| {
                if state.raylet_dead {
                    return Err(CoreError::RayletDied);
                }
                state.keep_function(&message);
                Ok(())
            })?;
        }
        Ok(definition)
    }

    pub fn fetch_blob(&self, id: FunctionId, interrupt: Interrupt<'_>) -> Result<Bytes, CoreError> {
        let message = v1::KvGetRequest {
            namespace: "fun".to_owned(),
            key: id.0.to_vec(),
        };
        let reply = self.gcs_call("KvGet", prost::Message::encode_to_vec(&message), interrupt)?;
        let reply: v1::KvGetReply =
            prost::Message::decode(reply).map_err(|e| CoreError::Gcs(format!("an unreadable answer: {e}")))?;
        if reply.found {
            Ok(reply.value.into())
        } else {
            Err(CoreError::NotFound(format!(
                "function {id} is not in the control store"
            )))
        }
    }

    /// The index is good until [`CoreWorker::drop_function`], to be called once for each call of this.
    pub fn register_function(&self, spec: FunctionSpec) -> FunctionIndex {
        let unused = std::mem::take(&mut *self.dropped_functions.lock());
        self.with(|state| {
            for FunctionIndex(index) in unused {
                state.functions.unuse(index);
            }
            state.register_function(spec)
        })
    }

    /// Never waits for the state's lock: a destructor may run anywhere.
    pub fn drop_function(&self, index: FunctionIndex) {
        self.dropped_functions.lock().push(index);
    }

    /// The index is good until [`CoreWorker::drop_method`], to be called once for each call of this.
    pub fn register_method(&self, spec: MethodSpec) -> MethodIndex {
        if self.is_forked() {
            // Nothing can be called there.
            return MethodIndex(u32::MAX);
        }
        let unused = std::mem::take(&mut *self.dropped_methods.lock());
        self.with(|state| {
            for MethodIndex(index) in unused {
                state.methods.unuse(index);
            }
            state.register_method(spec)
        })
    }

    /// As [`CoreWorker::drop_function`].
    pub fn drop_method(&self, index: MethodIndex) {
        self.dropped_methods.lock().push(index);
    }

    // ---- tasks -------------------------------------------------------------------------------------------------

    pub fn submit(&self, function: FunctionIndex, args: TaskArgs, num_returns: u32) -> Returns {
        self.with(|state| {
            let returns = state.submit_normal(function, args, num_returns);
            state.submits = state.submits.wrapping_add(1);
            if state.submits.is_multiple_of(16) && !state.holder {
                state.drain_lanes(64);
            }
            returns
        })
    }

    pub fn actor_index(&self, actor_id: ActorId, max_pending_calls: Option<usize>) -> ActorIndex {
        self.with(|state| state.actor_index(actor_id, max_pending_calls))
    }

    pub fn actor_call(
        &self,
        actor: ActorIndex,
        handle: Option<RefSlot>,
        method: MethodIndex,
        args: TaskArgs,
        num_returns: u32,
    ) -> Result<Returns, CoreError> {
        self.with(|state| {
            let returns = state.actor_call(actor, handle, method, args, num_returns);
            state.submits = state.submits.wrapping_add(1);
            if state.submits.is_multiple_of(16) && !state.holder {
                state.drain_lanes(64);
            }
            returns
        })
    }

    // ---- references --------------------------------------------------------------------------------------------

    pub fn object_id(&self, slot: RefSlot) -> ObjectId {
        match self.left_behind.get() {
            Some(owner) => owner.id(slot),
            None => self.state.lock().owner.id(slot),
        }
    }

    pub fn add_ref(&self, slot: RefSlot) {
        if !self.is_forked() {
            self.state.lock().owner.local_added(slot);
        }
    }

    /// Never waits for a lock: a destructor may run anywhere.
    pub fn drop_ref(&self, slot: RefSlot) {
        if self.forked.load(Ordering::Relaxed) || self.closed.load(Ordering::Relaxed) {
            return;
        }
        if let Some(mut state) = self.state.try_lock() {
            state.drop_local(slot);
            state.run_effects();
            return self.leave(state);
        }
        self.dropped.lock().push(slot);
        self.has_dropped.store(true, Ordering::Release);
        if let Some(mut state) = self.state.try_lock() {
            self.take_dropped(&mut state);
            self.leave(state);
        }
    }

    pub fn owner_address(&self, slot: RefSlot) -> WorkerAddress {
        let state = self.state.lock();
        state.peers.address(state.owner.owner(slot))
    }

    /// For a reference that leaves by a way the engine does not see: it is kept for the life of the process.
    pub fn export_out_of_band(&self, slot: RefSlot) -> (ObjectId, WorkerAddress) {
        self.with(|state| {
            state.owner.local_added(slot);
            state.owner.index(slot);
            state.pins_for_life.push(slot);
            (state.owner.id(slot), state.peers.address(state.owner.owner(slot)))
        })
    }

    pub fn import_out_of_band(&self, id: ObjectId, owner: WorkerAddress) -> RefSlot {
        self.with(|state| {
            let owner = state.owner_index(&owner);
            state.owner.imported(id, owner, RefKind::Value)
        })
    }

    /// A reference made of nothing but an id. One that nobody here knows holds an error from the start: there is nobody
    /// to be asked.
    pub fn import_by_id(&self, id: ObjectId) -> RefSlot {
        self.with(|state| {
            if let Some(slot) = state.owner.named(&id) {
                return slot;
            }
            let slot = state.owner.imported(id, OwnerIndex::ME, RefKind::Value);
            let message = "this process knows no object of this id; to pass a reference on, pass the ObjectRef itself";
            let value = StoredValue::failed(Failure::ObjectLost {
                owner_died: false,
                message: message.to_owned(),
            });
            state.owner.fetched(slot, value, true, &mut state.owner_effects);
            state.owner.seen(slot);
            state.run_effects();
            slot
        })
    }

    // ---- end ---------------------------------------------------------------------------------------------------

    /// Returns when everything that workers printed so far was handed to `on_event`.
    pub fn flush_logs(&self, timeout: Duration) {
        let asked = self.ask(
            |request_id| v1::to_raylet::Body::FlushLogs(v1::FlushLogs { request_id }),
            "FlushLogs",
            timeout,
            &mut || false,
        );
        if matches!(asked, Ok(Answer::LogsFlushed)) {
            self.host.flush(timeout);
        }
    }

    /// Leaves the session. Idempotent.
    pub fn shutdown(&self) {
        if self.closed.swap(true, Ordering::SeqCst) || self.forked.load(Ordering::Relaxed) {
            return;
        }
        self.with(|state| {
            state.closed = true;
            state.send_task_events();
            let threads: Vec<_> = state
                .waiters
                .iter()
                .flatten()
                .map(|waiter| waiter.thread.clone())
                .collect();
            state.after.wake.extend(threads);
        });
        self.bell.wake_all();
        self.kick_progress();
        if let Some(handle) = self.progress.lock().take()
            && handle.thread().id() != std::thread::current().id()
        {
            drop(handle.join());
        }
        self.host.stop();
        drop(std::fs::remove_file(&self.socket_path));
        let _ = rustix::net::shutdown(&self.raylet, rustix::net::Shutdown::Both);
    }

    /// Has [`Self::before_fork`] and what follows it called around each fork of this process, see [`ray_rs_lanes::at_fork`].
    ///
    /// # Errors
    /// Out of memory.
    pub fn at_fork(
        before: extern "C" fn(),
        in_parent: extern "C" fn(),
        in_child: extern "C" fn(),
    ) -> std::io::Result<()> {
        ray_rs_lanes::at_fork(before, in_parent, in_child)
    }

    /// User code is about to fork on this thread. What the lock guards stays whole until the fork is done: the thread
    /// that would let the lock go does not exist in the child.
    pub fn before_fork(&self) {
        let guard = self.state.lock_arc();
        HELD_OVER_FORK.with_borrow_mut(|held| held.push(guard));
    }

    pub fn after_fork_in_parent(&self) {
        HELD_OVER_FORK.with_borrow_mut(Vec::pop);
    }

    /// In the child of a fork of user code: the engine is dead here, and never touches what it shares with the parent.
    pub fn after_fork_in_child(&self) {
        self.forked.store(true, Ordering::SeqCst);
        self.arena.after_fork_in_child();
        let Some(mut state) = HELD_OVER_FORK.with_borrow_mut(Vec::pop) else {
            return;
        };
        let _ = self.left_behind.set(std::mem::take(&mut state.owner));
        // Never unlocked: among those who wait for it may be threads of the parent, and one of them would get it.
        std::mem::forget(state);
    }

    pub fn is_forked(&self) -> bool {
        self.forked.load(Ordering::Relaxed)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Nothing that is not here yet will come any more.
    pub fn is_disconnected(&self) -> bool {
        self.is_closed() || self.state.lock().raylet_dead
    }

    pub fn counters(&self) -> Counters {
        let (references, tasks) = {
            let state = self.state.lock();
            (state.owner.reference_count() as u64, state.owner.task_count() as u64)
        };
        let stats = self
            .spinner
            .try_lock()
            .map(|spinner| spinner.stats())
            .unwrap_or_default();
        Counters {
            references,
            tasks,
            spin_hits: stats.hits,
            spin_misses: stats.misses,
            sleeps: stats.sleeps,
        }
    }
}

/// Polled at least every 50 ms during a wait; true stops it.
pub type Interrupt<'a> = &'a mut dyn FnMut() -> bool;

std::thread_local! {
    static HELD_OVER_FORK: RefCell<Vec<ArcMutexGuard<RawMutex, State>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn connect_raylet(path: &std::path::Path) -> std::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn listen(path: &std::path::Path) -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 4096)?;
    Ok(socket)
}
