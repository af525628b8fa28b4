//! Actors with `async def` methods: an event loop on the main thread, whose selector asks here for calls before it
//! sleeps (`_async_loop.py`). So a call that arrives while the loop is awake costs no wake-up at all.
//!
//! Each concurrency group has a loop of its own on a thread of its own, made when the constructor has returned; the main
//! thread's takes the calls of the default group. The end of one is the end of all.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use ray_rs_core_worker::{ActorStart, CoreWorker, ExecTask, Haste, LoopSeat, Next, Rooms};
use rustc_hash::FxHashMap;

use super::away::{Away, has_arguments_away};
use super::callee::{Callable, is_coroutine};
use super::context::{self, TaskContext};
use super::run::Ended;
use super::sync::Started;
use super::{Executor, Exit, exit_of, threaded};
use crate::{gil, imports};

/// Calls started in one turn of the loop at most, so that running ones get their turns.
const BATCH: usize = 256;

#[pyclass(frozen, module = "ray_rs._core")]
pub struct AsyncEngine {
    executor: Arc<Executor>,
    /// Which of the actor's loops it is; the first is the default group's.
    index: usize,
    /// `None`: the actor has no groups.
    group: Option<String>,
    seat: LoopSeat,
    /// Of all loops of the actor.
    rooms: Arc<Mutex<Rooms<Exit>>>,
    /// The loop's thread is about to sleep, and new calls write the eventfd.
    armed: AtomicBool,
    event_loop: PyOnceLock<Py<PyAny>>,
    /// Done when the actor is to end.
    ended: PyOnceLock<Py<PyAny>>,
    /// By the number of the call. asyncio itself holds its tasks weakly.
    calls: Mutex<FxHashMap<u64, Py<PyAny>>>,
    pub(super) away: Away,
}

/// Those of the actor hosted here.
static ENGINES: PyOnceLock<Vec<Py<AsyncEngine>>> = PyOnceLock::new();

fn engines(py: Python<'_>) -> impl Iterator<Item = &'static AsyncEngine> {
    ENGINES.get(py).into_iter().flatten().map(Py::get)
}

/// Cancels the asyncio task of a call, if it has one (plain methods have none). On a thread that is not the loop's.
pub fn cancel(unique: u64) {
    Python::try_attach(|py| {
        for engine in engines(py) {
            let task = engine.calls.lock().get(&unique).map(|task| task.clone_ref(py));
            let Some(task) = task else { continue };
            let ordered = (task.bind(py).getattr("cancel"))
                .and_then(|cancel| engine.event_loop(py).call_method1("call_soon_threadsafe", (cancel,)));
            if let Err(error) = ordered {
                // The loop is closed: everything on it has ended.
                error.write_unraisable(py, None);
            }
        }
    });
}

/// The calls that run and can't go on by themselves, by their numbers, each with the futures that it needs all of.
pub fn awaiting(py: Python<'_>) -> PyResult<Vec<(u64, Vec<Py<PyAny>>)>> {
    let mut all = Vec::new();
    for engine in engines(py) {
        // Cloned under the lock, which runs nothing of Python's.
        let calls: Vec<(u64, Py<PyAny>)> = (engine.calls.lock().iter())
            .map(|(unique, task)| (*unique, task.clone_ref(py)))
            .collect();
        if !calls.is_empty() {
            let found = imports::AWAITED.get(py)?.call1((calls, engine.event_loop(py)))?;
            all.extend(found.extract::<Vec<(u64, Vec<Py<PyAny>>)>>()?);
        }
    }
    Ok(all)
}

/// Makes the loops; gives the default group's, on which `construct` and then `run` go on.
pub fn make<'py>(
    py: Python<'py>,
    executor: &Arc<Executor>,
    limit: usize,
    groups: &[(String, u32)],
) -> PyResult<Bound<'py, AsyncEngine>> {
    let limits = std::iter::once(limit).chain(groups.iter().map(|(_, limit)| *limit as usize));
    let rooms = Arc::new(Mutex::new(Rooms::new(limits)));
    let default = (!groups.is_empty()).then(String::new);
    let names = std::iter::once(default).chain(groups.iter().map(|(name, _)| Some(name.clone())));
    let mut made = Vec::new();
    for (index, group) in names.enumerate() {
        made.push(AsyncEngine::make(py, executor, index, group, &rooms)?);
    }
    let first = made[0].bind(py).clone();
    imports::USE_ASYNC_LOOP.get(py)?.call1((first.get().event_loop(py),))?;
    let _ = ENGINES.set(py, made);
    Ok(first)
}

/// Runs the constructor where asyncio's tasks can be created.
pub fn construct(engine: &Bound<'_, AsyncEngine>, start: ActorStart) -> PyResult<Started> {
    let py = engine.py();
    let construction = Construction {
        executor: Arc::clone(&engine.get().executor),
        start: Mutex::new(Some(start)),
        outcome: Mutex::new(Started::Failed),
    };
    let construction = Bound::new(py, construction)?;
    (imports::CONSTRUCT_ON_LOOP.get(py)?).call1((engine.get().event_loop(py), &construction))?;
    let outcome = *construction.get().outcome.lock();
    Ok(outcome)
}

/// A constructor that the loop is to run.
#[pyclass(frozen, module = "ray_rs._core")]
struct Construction {
    executor: Arc<Executor>,
    start: Mutex<Option<ActorStart>>,
    outcome: Mutex<Started>,
}

#[pymethods]
impl Construction {
    fn __call__(&self, py: Python<'_>) {
        let start = self.start.lock().take();
        if let Some(start) = start {
            let outcome = self.executor.start_actor(py, start);
            *self.outcome.lock() = outcome;
        }
    }
}

/// Runs the actor's loops until it ends, this thread the default group's.
pub fn run(engine: &Bound<'_, AsyncEngine>) -> PyResult<Exit> {
    let py = engine.py();
    engine.get().rooms.lock().constructed();
    for other in ENGINES.get(py).into_iter().flatten().skip(1) {
        let body = Py::new(py, LoopThread(other.clone_ref(py)))?.into_any();
        let group = other.get().group.as_deref().unwrap_or_default();
        threaded::start_python_thread(py, body, &format!("ray_rs-loop-{group}"))?;
    }
    AsyncEngine::run_loop(engine)
}

/// What the thread of a concurrency group runs.
#[pyclass(frozen, module = "ray_rs._core")]
struct LoopThread(Py<AsyncEngine>);

#[pymethods]
impl LoopThread {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.0.bind(py);
        imports::USE_ASYNC_LOOP.get(py)?.call1((engine.get().event_loop(py),))?;
        let exit = AsyncEngine::run_loop(engine).unwrap_or_else(|error| {
            error.print(py);
            Exit {
                graceful: false,
                code: 1,
                reason: "the event loop of a concurrency group failed".to_owned(),
            }
        });
        // Also when the loop has ended by itself. What runs on the others can't go on as if nothing were.
        engine.get().stop(py, exit, Haste::AtOnce)
    }
}

#[pymethods]
impl AsyncEngine {
    #[getter]
    fn eventfd(&self) -> i32 {
        self.executor.core.loop_eventfd(self.seat).as_raw_fd()
    }

    /// Called with the time that the selector may sleep. True: there is work, it must only poll. Else new calls write
    /// the eventfd until `after_select`.
    fn before_select(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let this = slf.get();
        if Self::start_calls(slf)? || timeout.is_some_and(|seconds| seconds <= 0.0) {
            return Ok(true);
        }
        if !this.rooms.lock().is_open(this.index) {
            return Ok(false);
        }
        let core = &this.executor.core;
        let may_spin = timeout.is_none_or(|seconds| seconds > 0.001);
        if (may_spin && slf.py().detach(|| core.spin_for_exec())) || core.arm_loop(this.seat) {
            Self::start_calls(slf)?;
            return Ok(true);
        }
        this.armed.store(true, Ordering::Relaxed);
        Ok(false)
    }

    fn after_select(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        // Only the loop's own thread is ever here.
        if this.armed.swap(false, Ordering::Relaxed) {
            this.executor.core.disarm_loop(this.seat);
            Self::start_calls(slf)?;
        }
        Ok(())
    }
}

impl AsyncEngine {
    fn make(
        py: Python<'_>,
        executor: &Arc<Executor>,
        index: usize,
        group: Option<String>,
        rooms: &Arc<Mutex<Rooms<Exit>>>,
    ) -> PyResult<Py<Self>> {
        let engine = Self {
            executor: Arc::clone(executor),
            index,
            seat: executor.core.add_loop(group.as_deref())?,
            group,
            rooms: Arc::clone(rooms),
            armed: AtomicBool::new(false),
            event_loop: PyOnceLock::new(),
            ended: PyOnceLock::new(),
            calls: Mutex::default(),
            away: Away::default(),
        };
        let engine = Py::new(py, engine)?;
        let event_loop = imports::MAKE_ASYNC_LOOP.get(py)?.call1((&engine,))?;
        let ended = event_loop.call_method0("create_future")?.unbind();
        let _ = engine.get().event_loop.set(py, event_loop.unbind());
        let _ = engine.get().ended.set(py, ended);
        Ok(engine)
    }

    /// Runs the loop on this thread until the actor ends.
    fn run_loop(slf: &Bound<'_, Self>) -> PyResult<Exit> {
        let (py, this) = (slf.py(), slf.get());
        let executor = &this.executor;
        context::this_thread_runs_a_loop();
        let outcome = imports::RUN_ASYNC_LOOP
            .get(py)?
            .call1((this.event_loop(py), this.ended.get(py)));
        if let Some(exit) = this.rooms.lock().exit().cloned() {
            return Ok(exit);
        }
        // asyncio lets SystemExit through at once.
        match outcome {
            Ok(_) => Ok(Exit::graceful(0, "the event loop was stopped")),
            Err(error) => match executor.exit_of_error(py, &error) {
                Some(exit) => {
                    if exit.code == 0 {
                        py.detach(|| executor.core.actor_exiting(exit.reason.clone()));
                    }
                    Ok(exit)
                }
                None => Err(error),
            },
        }
    }

    /// The next call, if there is one and the group has room for it; room is taken for it.
    fn next_call(&self, py: Python<'_>) -> PyResult<Option<Next>> {
        if !self.rooms.lock().reserve(self.index) {
            return Ok(None);
        }
        let next = self.executor.core.try_next_task_of(self.group.as_deref());
        if !matches!(next, Some(Next::Task(_))) {
            self.release(py)?;
        }
        Ok(next)
    }

    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let all_end = self.rooms.lock().release(self.index);
        if all_end { end_all(py) } else { Ok(()) }
    }

    /// Starts what has arrived; says whether there was anything.
    fn start_calls(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        let mut any = false;
        for _ in 0..BATCH {
            match this.next_call(slf.py())? {
                None => break,
                Some(Next::Task(task)) => Self::start(slf, task)?,
                Some(other) => {
                    if let Some(exit) = exit_of(other) {
                        this.stop_as_ordered(slf.py(), exit)?;
                    }
                }
            }
            any = true;
        }
        Ok(any)
    }

    fn start(slf: &Bound<'_, Self>, task: Box<ExecTask>) -> PyResult<()> {
        let this = slf.get();
        if !has_arguments_away(&task) {
            return Self::begin(slf, task);
        }
        Away::wait_for(slf, &this.executor.core, task);
        match this.away.left_over() {
            Some(task) => Self::begin(slf, task),
            None => Ok(()),
        }
    }

    /// A call whose arguments are there.
    pub(super) fn begin(slf: &Bound<'_, Self>, mut task: Box<ExecTask>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let (callable, call) = match this.executor.prepare(py, &mut task) {
            Ok(prepared) => prepared,
            Err(ended) => return this.complete(py, task, ended),
        };
        let variable = context::variable(py)?;
        // asyncio copies the current context into what it starts.
        variable.call_method1("set", (TaskContext::of(&task),))?;
        if callable.is_async() {
            match callable.call(py, &this.executor, &call.0, call.1.as_ref()) {
                Ok(made) if made.hasattr("__anext__")? => Self::start_generator(slf, &made, task)?,
                Ok(coroutine) => Self::start_coroutine(slf, &coroutine, task)?,
                Err(error) => this.complete(
                    py,
                    task,
                    Ended::Raised {
                        error,
                        from_argument: false,
                    },
                )?,
            }
        } else {
            // Not at once: calls start in the order in which they came, and coroutines start with the next turn.
            let (args, kwargs) = call;
            let body = PlainCall {
                engine: slf.clone().unbind(),
                callable,
                waiting: Mutex::new(Some((task, args.unbind(), kwargs.map(Bound::unbind)))),
            };
            this.event_loop(py)
                .call_method1("call_soon", (Bound::new(py, body)?,))?;
        }
        variable.call_method1("set", (py.None(),)).map(drop)
    }

    pub(super) fn core(&self) -> &Arc<CoreWorker> {
        &self.executor.core
    }

    pub(super) fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.event_loop
            .get(py)
            .expect("the loop is made with the engine")
            .bind(py)
    }

    fn start_coroutine(slf: &Bound<'_, Self>, coroutine: &Bound<'_, PyAny>, task: Box<ExecTask>) -> PyResult<()> {
        Self::start_shared(slf, coroutine, Arc::new(Mutex::new(Some(task))))
    }

    fn start_shared(slf: &Bound<'_, Self>, coroutine: &Bound<'_, PyAny>, task: SharedTask) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let Some(task_id) = task.lock().as_ref().map(|task| task.task_id) else {
            return Ok(());
        };
        let started = this.event_loop(py).call_method1("create_task", (coroutine,))?;
        this.calls.lock().insert(task_id.unique(), started.clone().unbind());
        if this.executor.core.is_cancelled(task_id) {
            started.call_method0("cancel")?;
        }
        let done = CoroutineDone {
            engine: slf.clone().unbind(),
            task,
        };
        started
            .call_method1("add_done_callback", (Bound::new(py, done)?,))
            .map(drop)
    }

    /// An asynchronous generator: a coroutine takes its items and sends them.
    fn start_generator(slf: &Bound<'_, Self>, made: &Bound<'_, PyAny>, task: Box<ExecTask>) -> PyResult<()> {
        let py = slf.py();
        let limit = task.streaming.unwrap_or(0);
        let task = Arc::new(Mutex::new(Some(task)));
        let sender = ItemSender {
            engine: slf.clone().unbind(),
            task: Arc::clone(&task),
        };
        let coroutine = imports::SEND_ITEMS.get(py)?.call1((made, sender, limit))?;
        Self::start_shared(slf, &coroutine, task)
    }

    pub(super) fn complete(&self, py: Python<'_>, task: Box<ExecTask>, ended: Ended<'_>) -> PyResult<()> {
        if let Some(exit) = self.executor.complete(py, task, ended) {
            self.stop_as_ordered(py, exit)?;
        }
        self.release(py)
    }

    fn stop_as_ordered(&self, py: Python<'_>, exit: Exit) -> PyResult<()> {
        let haste = if exit.graceful {
            Haste::AfterCalls
        } else {
            Haste::AtOnce
        };
        self.stop(py, exit, haste)
    }

    /// No loop of the actor takes more calls, and all end.
    fn stop(&self, py: Python<'_>, exit: Exit, haste: Haste) -> PyResult<()> {
        let all_end = self.rooms.lock().stop(exit, haste);
        if all_end { end_all(py) } else { Ok(()) }
    }
}

/// Ends the loops of the actor, on whichever of their threads this is.
fn end_all(py: Python<'_>) -> PyResult<()> {
    for engine in ENGINES.get(py).into_iter().flatten() {
        let event_loop = engine.get().event_loop(py);
        if !event_loop.call_method0("is_closed")?.is_truthy()? {
            let end = Bound::new(py, EndLoop(engine.clone_ref(py)))?;
            event_loop.call_method1("call_soon_threadsafe", (end,))?;
        }
    }
    Ok(())
}

/// In the loop's queue.
#[pyclass(frozen, module = "ray_rs._core")]
struct EndLoop(Py<AsyncEngine>);

#[pymethods]
impl EndLoop {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let Some(ended) = self.0.get().ended.get(py) else {
            return Ok(());
        };
        if !ended.call_method0(py, "done")?.is_truthy(py)? {
            ended.call_method1(py, "set_result", (py.None(),))?;
        }
        Ok(())
    }
}

/// A call and its arguments, until the loop gets to it.
type Waiting = (Box<ExecTask>, Py<PyTuple>, Option<Py<PyDict>>);

/// A plain method's call, in the loop's queue.
#[pyclass(frozen, module = "ray_rs._core")]
struct PlainCall {
    engine: Py<AsyncEngine>,
    callable: Callable,
    waiting: Mutex<Option<Waiting>>,
}

#[pymethods]
impl PlainCall {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let Some((task, args, kwargs)) = self.waiting.lock().take() else {
            return Ok(());
        };
        let engine = self.engine.bind(py);
        let executor = &engine.get().executor;
        let result = self.callable.call(
            py,
            executor,
            args.bind(py),
            kwargs.as_ref().map(|kwargs| kwargs.bind(py)),
        );
        drop((args, kwargs));
        match result {
            Ok(value) if value.hasattr("__anext__")? => AsyncEngine::start_generator(engine, &value, task),
            Ok(value) if let Some(limit) = task.streaming => {
                let ended = executor.stream(py, &task, limit, &value);
                engine.get().complete(py, task, ended)
            }
            // A plain function that gives a coroutine, such as a wrapper around an `async def`.
            Ok(value) if is_coroutine(&value)? => AsyncEngine::start_coroutine(engine, &value, task),
            result => engine.get().complete(py, task, result.into()),
        }
    }
}

/// Taken when the call has ended.
type SharedTask = Arc<Mutex<Option<Box<ExecTask>>>>;

/// Sends the items of an asynchronous generator.
#[pyclass(frozen, module = "ray_rs._core")]
struct ItemSender {
    engine: Py<AsyncEngine>,
    task: SharedTask,
}

#[pymethods]
impl ItemSender {
    fn send(&self, py: Python<'_>, index: u32, item: &Bound<'_, PyAny>) -> PyResult<()> {
        // Taken out meanwhile: sending calls into Python, which no lock may do.
        let Some(task) = self.task.lock().take() else {
            return Ok(());
        };
        let sent = self.engine.get().executor.send_item(py, &task, index, item);
        *self.task.lock() = Some(task);
        sent
    }

    /// Waits until fewer than `limit` items are left; called on another thread than the loop's.
    fn wait(&self, py: Python<'_>, produced: u32, limit: u32) {
        let core = &self.engine.get().executor.core;
        py.detach(|| {
            let at = self.task.lock().as_ref().map(|task| task.reply_address());
            if let Some(at) = at {
                core.await_consumer_at(at, produced, limit, &mut gil::never);
            }
        });
    }
}

/// Called by asyncio when a coroutine has ended.
#[pyclass(frozen, module = "ray_rs._core")]
struct CoroutineDone {
    engine: Py<AsyncEngine>,
    task: SharedTask,
}

#[pymethods]
impl CoroutineDone {
    fn __call__(&self, py: Python<'_>, started: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(task) = self.task.lock().take() else {
            return Ok(());
        };
        let engine = self.engine.get();
        let known = engine.calls.lock().remove(&task.task_id.unique());
        drop(known);
        engine.complete(py, task, started.call_method0("result").into())
    }
}
