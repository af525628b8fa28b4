//! Which task runs here, for whoever asks: the runtime context, the log prefix.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use ray_rs_core_worker::{Callee, ExecTask, LeaseTerms};
use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::{PlacementGroupId, TaskId};

use super::executor;
use crate::actor::ActorHandle;
use crate::ids::{PyActorId, PyJobId, PyTaskId};
use crate::{control, imports};

#[derive(Clone)]
#[pyclass(frozen, module = "ray_rs._core")]
pub struct TaskContext {
    task_id: TaskId,
    callee: Arc<Callee>,
    #[pyo3(get)]
    attempt: u32,
    lease: Arc<LeaseTerms>,
}

impl TaskContext {
    pub fn of(task: &ExecTask) -> Self {
        Self {
            task_id: task.task_id,
            callee: Arc::clone(&task.callee),
            attempt: task.attempt,
            lease: Arc::clone(&task.lease),
        }
    }
}

#[pymethods]
impl TaskContext {
    #[getter]
    fn task_id(&self) -> PyTaskId {
        PyTaskId(self.task_id)
    }

    #[getter]
    fn name(&self) -> &str {
        &self.callee.name
    }

    #[getter]
    fn job_id(&self) -> PyJobId {
        PyJobId(self.callee.job_id)
    }

    #[getter]
    fn actor_id(&self) -> Option<PyActorId> {
        executor()?.hosted.get().map(|hosted| PyActorId(hosted.actor_id))
    }

    /// The function, or the method as found on the actor's class.
    #[getter]
    fn function<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(executor) = executor() else { return Ok(None) };
        executor
            .callees
            .find(&self.callee)
            .map(|callable| callable.python(py, executor))
            .transpose()
    }

    /// What the task holds, or its actor.
    #[getter]
    fn resources<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let hosted = executor().and_then(|executor| executor.hosted.get());
        control::resource_dict(py, hosted.map_or(&self.lease.resources, |hosted| &hosted.resources))
    }

    /// Those of the task; an actor's are known to its process.
    #[getter]
    fn gpu_ids(&self) -> Vec<u32> {
        self.lease.gpu_ids.clone()
    }
}

/// Some task or actor of this process captures what it makes: only then is it asked in which group that runs.
static CAPTURES: AtomicBool = AtomicBool::new(false);

pub fn now_captures() {
    CAPTURES.store(true, Ordering::Relaxed);
}

/// The placement group that the caller runs in, and whether what it makes runs there as well.
pub fn current_group(py: Python<'_>) -> PyResult<Option<(PlacementGroupId, bool)>> {
    if let Some(hosted) = executor().and_then(|executor| executor.hosted.get()) {
        return Ok(BundleDemand::group_of(&hosted.resources).map(|group| (group, hosted.captures_children)));
    }
    let found = with_current(py, |context| {
        let group = BundleDemand::group_of(&context.lease.resources);
        group.map(|group| (group, context.callee.captures_children))
    })?;
    Ok(found.flatten())
}

/// The group that takes what the caller makes, if one does.
pub fn capturing_group(py: Python<'_>) -> PyResult<Option<PlacementGroupId>> {
    if !CAPTURES.load(Ordering::Relaxed) {
        return Ok(None);
    }
    Ok(current_group(py)?
        .filter(|(_, captures)| *captures)
        .map(|(group, _)| group))
}

thread_local! {
    static CURRENT: RefCell<Option<TaskContext>> = const { RefCell::new(None) };
    /// This thread runs the event loop of an async actor.
    static RUNS_LOOP: Cell<bool> = const { Cell::new(false) };
    /// The function itself runs, and not what the engine does before and after it.
    static IN_BODY: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, the user's function runs on this thread, and may be interrupted.
pub struct Body(bool);

pub fn enter_body() -> Body {
    Body(IN_BODY.replace(true))
}

impl Drop for Body {
    fn drop(&mut self) {
        IN_BODY.set(self.0);
    }
}

/// The task whose body runs on this thread.
pub fn interruptible() -> Option<TaskId> {
    let current = CURRENT.with_borrow(|current| current.as_ref().map(|context| context.task_id));
    current.filter(|_| IN_BODY.get())
}

/// The number of the task that this thread runs.
pub fn task_of_thread() -> Option<u64> {
    CURRENT.with_borrow(|current| current.as_ref().map(|context| context.task_id.unique()))
}

/// While it lives, the thread runs a task.
pub struct Running(Option<TaskContext>);

pub fn enter(task: &ExecTask) -> Running {
    if task.callee.captures_children {
        now_captures();
    }
    Running(CURRENT.replace(Some(TaskContext::of(task))))
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(CURRENT.replace(self.0.take()));
    }
}

/// Of async actors: each asyncio task has its own value.
pub fn variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || Ok::<_, PyErr>(imports::CONTEXT_VAR.get(py)?.call1(("ray_rs_task",))?.unbind());
    Ok(VARIABLE.get_or_try_init(py, make)?.bind(py))
}

pub fn this_thread_runs_a_loop() {
    RUNS_LOOP.set(true);
}

/// Says once that a blocking call on an event loop stops everything else on it.
pub fn warn_if_blocking_a_loop(py: Python<'_>) -> PyResult<()> {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if RUNS_LOOP.get() && !WARNED.swap(true, Ordering::Relaxed) {
        imports::WARN_BLOCKING_GET.get(py)?.call0()?;
    }
    Ok(())
}

fn with_current<R>(py: Python<'_>, read: impl Fn(&TaskContext) -> R) -> PyResult<Option<R>> {
    if let Some(found) = CURRENT.with_borrow(|current| current.as_ref().map(&read)) {
        return Ok(Some(found));
    }
    if !RUNS_LOOP.get() {
        return Ok(None);
    }
    let found = variable(py)?.call_method1("get", (py.None(),))?;
    Ok(found.cast::<TaskContext>().ok().map(|context| read(context.get())))
}

pub fn current_task_id(py: Python<'_>) -> PyResult<Option<TaskId>> {
    with_current(py, |context| context.task_id)
}

/// What a call made here says of its caller: the number of the task that runs; 0 if none does.
pub fn parent(py: Python<'_>) -> PyResult<u64> {
    Ok(current_task_id(py)?.map_or(0, |task| task.unique()))
}

#[pyfunction]
pub fn current_task(py: Python<'_>) -> PyResult<Option<TaskContext>> {
    with_current(py, TaskContext::clone)
}

#[pyfunction]
pub fn current_task_name(py: Python<'_>) -> PyResult<String> {
    Ok(with_current(py, |context| context.callee.name.to_string())?.unwrap_or_default())
}

/// (id, instance); the instance is `None` while its constructor runs.
#[pyfunction]
pub fn current_actor(py: Python<'_>) -> Option<(PyActorId, Option<Py<PyAny>>)> {
    let hosted = executor()?.hosted.get()?;
    Some((
        PyActorId(hosted.actor_id),
        hosted.instance.get(py).map(|instance| instance.clone_ref(py)),
    ))
}

/// A weak handle to the actor hosted here.
#[pyfunction]
pub fn own_actor_handle(py: Python<'_>) -> PyResult<Option<ActorHandle>> {
    let Some((executor, hosted)) = executor().and_then(|executor| Some((executor, executor.hosted.get()?))) else {
        return Ok(None);
    };
    ActorHandle::of_id(py, &executor.core, hosted.actor_id, None, &hosted.descriptor).map(Some)
}
