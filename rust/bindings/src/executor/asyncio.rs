//! Actors with `async def` methods: an event loop on the main thread, whose selector asks here for calls before it
//! sleeps (`_async_loop.py`). So a call that arrives while the loop is awake costs no wake-up at all.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use ray_rs_core_worker::{ActorStart, CoreWorker, ExecTask, Next};
use rustc_hash::FxHashMap;

use super::away::{Away, has_arguments_away};
use super::callee::{Callable, is_coroutine};
use super::context::{self, TaskContext};
use super::run::Ended;
use super::sync::Started;
use super::{Executor, Exit, exit_of};
use crate::{gil, imports};

/// Calls started in one turn of the loop at most, so that running ones get their turns.
const BATCH: usize = 256;

/// A concurrency group's share of the loop.
struct Group {
    /// `None`: the actor has no groups.
    name: Option<String>,
    running: usize,
    limit: usize,
}

struct State {
    /// The constructor has returned: calls may begin.
    constructed: bool,
    groups: Vec<Group>,
    /// The loop's thread is about to sleep, and new calls write the eventfd.
    armed: bool,
    exit: Option<Exit>,
}

#[pyclass(frozen, module = "ray_rs._core")]
pub struct AsyncEngine {
    executor: Arc<Executor>,
    state: Mutex<State>,
    event_loop: PyOnceLock<Py<PyAny>>,
    /// Done when the actor is to end.
    ended: PyOnceLock<Py<PyAny>>,
    /// By the number of the call. asyncio itself holds its tasks weakly.
    calls: Mutex<FxHashMap<u64, Py<PyAny>>>,
    pub(super) away: Away,
}

/// That of the actor hosted here.
static ENGINE: PyOnceLock<Py<AsyncEngine>> = PyOnceLock::new();

/// Cancels the asyncio task of a call, if it has one (plain methods have none). On a thread that is not the loop's.
pub fn cancel(unique: u64) {
    Python::try_attach(|py| {
        let Some(engine) = ENGINE.get(py).map(Py::get) else {
            return;
        };
        let task = engine.calls.lock().get(&unique).map(|task| task.clone_ref(py));
        let Some(task) = task else { return };
        let ordered = (task.bind(py).getattr("cancel"))
            .and_then(|cancel| engine.event_loop(py).call_method1("call_soon_threadsafe", (cancel,)));
        if let Err(error) = ordered {
            // The loop is closed: everything on it has ended.
            error.write_unraisable(py, None);
        }
    });
}

/// The calls that run and can't go on by themselves, by their numbers, each with the futures that it needs all of.
pub fn awaiting(py: Python<'_>) -> PyResult<Vec<(u64, Vec<Py<PyAny>>)>> {
    let Some(engine) = ENGINE.get(py).map(Py::get) else {
        return Ok(Vec::new());
    };
    // Cloned under the lock, which runs nothing of Python's.
    let calls: Vec<(u64, Py<PyAny>)> = (engine.calls.lock().iter())
        .map(|(unique, task)| (*unique, task.clone_ref(py)))
        .collect();
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    imports::AWAITED
        .get(py)?
        .call1((calls, engine.event_loop(py)))?
        .extract()
}

/// Makes the loop, on which `construct` and then `run` go on.
pub fn make<'py>(
    py: Python<'py>,
    executor: &Arc<Executor>,
    limit: usize,
    groups: &[(String, u32)],
) -> PyResult<Bound<'py, AsyncEngine>> {
    let group = |name: Option<&str>, limit: usize| Group {
        name: name.map(str::to_owned),
        running: 0,
        limit: limit.max(1),
    };
    let mut all = vec![group((!groups.is_empty()).then_some(""), limit)];
    all.extend(groups.iter().map(|(name, limit)| group(Some(name), *limit as usize)));
    let engine = AsyncEngine {
        executor: Arc::clone(executor),
        state: Mutex::new(State {
            constructed: false,
            groups: all,
            armed: false,
            exit: None,
        }),
        event_loop: PyOnceLock::new(),
        ended: PyOnceLock::new(),
        calls: Mutex::default(),
        away: Away::default(),
    };
    let engine = Bound::new(py, engine)?;
    let event_loop = imports::MAKE_ASYNC_LOOP.get(py)?.call1((&engine,))?;
    let ended = event_loop.call_method0("create_future")?.unbind();
    let _ = engine.get().event_loop.set(py, event_loop.unbind());
    let _ = engine.get().ended.set(py, ended);
    let _ = ENGINE.set(py, engine.clone().unbind());
    Ok(engine)
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

pub fn run(engine: &Bound<'_, AsyncEngine>) -> PyResult<Exit> {
    let (py, executor) = (engine.py(), &engine.get().executor);
    context::this_thread_runs_a_loop();
    engine.get().state.lock().constructed = true;
    let ended = engine.get().ended.get(py).map(|ended| ended.clone_ref(py));
    let outcome = imports::RUN_ASYNC_LOOP
        .get(py)?
        .call1((engine.get().event_loop(py), ended));
    if let Some(exit) = engine.get().state.lock().exit.clone() {
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

#[pymethods]
impl AsyncEngine {
    #[getter]
    fn eventfd(&self) -> i32 {
        self.executor.core.exec_eventfd()
    }

    /// Called with the time that the selector may sleep. True: there is work, it must only poll. Else new calls write
    /// the eventfd until `after_select`.
    fn before_select(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let this = slf.get();
        if Self::start_calls(slf)? || timeout.is_some_and(|seconds| seconds <= 0.0) {
            return Ok(true);
        }
        if !this.takes_calls() {
            return Ok(false);
        }
        let core = &this.executor.core;
        let may_spin = timeout.is_none_or(|seconds| seconds > 0.001);
        if (may_spin && slf.py().detach(|| core.spin_for_exec())) || core.arm_exec() {
            Self::start_calls(slf)?;
            return Ok(true);
        }
        this.state.lock().armed = true;
        Ok(false)
    }

    fn after_select(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let was_armed = std::mem::take(&mut this.state.lock().armed);
        if was_armed {
            this.executor.core.disarm_exec();
            Self::start_calls(slf)?;
        }
        Ok(())
    }
}

impl AsyncEngine {
    fn takes_calls(&self) -> bool {
        let state = self.state.lock();
        state.constructed && state.exit.is_none() && state.groups.iter().any(|group| group.running < group.limit)
    }

    /// The next call of any group that has room for one.
    fn next_call(&self) -> Option<Next> {
        let open: Vec<Option<String>> = {
            let state = self.state.lock();
            if state.exit.is_some() || !state.constructed {
                return None;
            }
            let open = state.groups.iter().filter(|group| group.running < group.limit);
            open.map(|group| group.name.clone()).collect()
        };
        let core = &self.executor.core;
        open.iter().find_map(|group| core.try_next_task_of(group.as_deref()))
    }

    fn count(&self, task: &ExecTask, change: impl Fn(&mut usize)) {
        let mut state = self.state.lock();
        let mine = |group: &&mut Group| group.name.as_deref().is_none_or(|name| *name == *task.callee.group);
        let at = state.groups.iter_mut().find(mine);
        if let Some(group) = at {
            change(&mut group.running);
        }
    }

    /// Starts what has arrived; says whether there was anything.
    fn start_calls(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        let mut any = false;
        for _ in 0..BATCH {
            match this.next_call() {
                None => break,
                Some(Next::Task(task)) => Self::start(slf, task)?,
                Some(other) => {
                    if let Some(exit) = exit_of(other) {
                        this.stop(slf.py(), exit)?;
                    }
                }
            }
            any = true;
        }
        Ok(any)
    }

    fn start(slf: &Bound<'_, Self>, task: Box<ExecTask>) -> PyResult<()> {
        let this = slf.get();
        this.count(&task, |running| *running += 1);
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
        self.count(&task, |running| *running -= 1);
        let exit = self.executor.complete(py, task, ended);
        match exit {
            Some(exit) => self.stop(py, exit),
            None => self.end_if_idle(py),
        }
    }

    /// Takes no more calls, and ends when those that run are done, or at once when the end is not graceful.
    fn stop(&self, py: Python<'_>, exit: Exit) -> PyResult<()> {
        self.state.lock().exit.get_or_insert(exit);
        self.end_if_idle(py)
    }

    fn end_if_idle(&self, py: Python<'_>) -> PyResult<()> {
        let ends = {
            let state = self.state.lock();
            state
                .exit
                .as_ref()
                .is_some_and(|exit| state.groups.iter().all(|group| group.running == 0) || !exit.graceful)
        };
        let Some(ended) = self.ended.get(py).filter(|_| ends) else {
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
