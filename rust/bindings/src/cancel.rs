//! Cancellation: asked for by whoever holds a reference, carried out in the worker that runs the task.

use pyo3::exceptions::{PyKeyboardInterrupt, PyTypeError, PyValueError};
use pyo3::prelude::*;
use ray_rs_core_worker::ExecTask;

use crate::executor::{Executor, asyncio, context};
use crate::object_ref::ObjectRef;
use crate::{core, errors, imports, stream};

/// Gives up the task that makes an object, wherever it stands; returns before that has taken effect.
///
/// One that has not begun never runs. One that runs gets a `KeyboardInterrupt` (a coroutine a `CancelledError`, another
/// method of an actor only a flag, `get_runtime_context().is_canceled()`), or with `force` loses its process. `get` of
/// the object raises `TaskCancelledError`. Nothing happens to tasks that have ended, or to objects that were put.
///
/// Args:
///     ray_waitable: A return of the task.
///     force: End the process of a running task; not for calls of actors.
///     recursive: Also cancel what the task has submitted itself.
///
/// Raises:
///     TypeError: Not a reference.
///     ValueError: `force` for a call of an actor.
#[pyfunction]
#[pyo3(signature = (ray_waitable, *, force=false, recursive=true))]
pub fn cancel(py: Python<'_>, ray_waitable: &Bound<'_, PyAny>, force: bool, recursive: bool) -> PyResult<()> {
    let core = core::require(py)?;
    let generator_ref = match stream::is_generator(ray_waitable)? {
        true => ray_waitable.getattr("_generator_ref")?,
        false => ray_waitable.clone(),
    };
    let Ok(reference) = generator_ref.cast::<ObjectRef>() else {
        return Err(PyTypeError::new_err(format!(
            "ray.cancel() only supported for object refs. For actors, try ray.kill(). Got: {}.",
            ray_waitable.get_type().repr()?
        )));
    };
    let slot = reference
        .get()
        .slot_in(&core)
        .ok_or_else(|| errors::old_reference(py))?;
    if force && core.is_actor_call(slot) {
        return Err(PyValueError::new_err("force=True is not supported for actor tasks."));
    }
    core.cancel(slot, force, recursive);
    Ok(())
}

/// For a worker's handler of `SIGINT`: whether the task whose body runs on this thread is to be interrupted. True once.
#[pyfunction]
pub fn take_interrupt() -> bool {
    match (core::current(), context::interruptible()) {
        (Some(core), Some(task)) => core.take_interrupt(task),
        _ => false,
    }
}

/// Whether the task that runs here was cancelled; `None` when none runs.
#[pyfunction]
pub fn is_current_task_cancelled(py: Python<'_>) -> PyResult<Option<bool>> {
    let core = core::connected(py)?;
    Ok(context::current_task_id(py)?.map(|task| core.is_cancelled(task)))
}

/// A task that runs here is to end. Called on a thread of the engine, without the GIL: the main thread may be in
/// a function that never lets go of it.
pub fn deliver(unique: u64, is_call: bool) {
    if is_call {
        asyncio::cancel(unique);
    } else {
        // To the process: the kernel gives it to the main thread, which is the one that does not block it.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::INT);
    }
}

impl Executor {
    /// What `KeyboardInterrupt` means when it was a cancellation that raised it.
    pub fn as_cancellation(&self, py: Python<'_>, task: &ExecTask, error: PyErr) -> PyErr {
        if !error.is_instance_of::<PyKeyboardInterrupt>(py) || !self.core.is_cancelled(task.task_id) {
            return error;
        }
        match imports::TASK_CANCELLED
            .get(py)
            .and_then(|class| class.call1((task.task_id.hex(),)))
        {
            Ok(exception) => {
                let cancelled = PyErr::from_value(exception);
                cancelled.set_traceback(py, error.traceback(py));
                cancelled
            }
            Err(_) => error,
        }
    }
}
