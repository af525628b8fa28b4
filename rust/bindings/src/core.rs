//! The process's connection: at most one core worker at a time, replaced by each `init` after a `shutdown`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use ray_rs_core_worker::{ConnectConfig, CoreWorker, HostEvent, Read, Role};

use crate::{cancel, control, errors, futures, gil, imports, objects};

// Locked only with the GIL held and never across a call into Python: so it is free in a forked child, too.
static CURRENT: RwLock<Option<Arc<CoreWorker>>> = RwLock::new(None);
/// Counts connections; whatever is cached for a connection is marked with it. Even while there is none.
static EPOCH: AtomicU64 = AtomicU64::new(0);
/// This process is the child of one that was connected when it forked.
static FORKED: AtomicBool = AtomicBool::new(false);
static IS_DRIVER: AtomicBool = AtomicBool::new(false);
static FORK_GUARD: AtomicBool = AtomicBool::new(false);

/// Counts connections, and times at which what was pickled of functions became out of date.
static DEFINITIONS: AtomicU64 = AtomicU64::new(0);

/// Marks what is registered of functions now: it changes with the connection, and by [`redefine`].
pub fn definitions() -> u64 {
    DEFINITIONS.load(Ordering::Relaxed)
}

/// A module was loaded anew: functions that refer to it are pickled once more before they are called.
#[pyfunction]
pub fn redefine() {
    DEFINITIONS.fetch_add(1, Ordering::Relaxed);
}

/// Marks the connection there is now, see [`EPOCH`].
pub fn epoch() -> u64 {
    EPOCH.load(Ordering::Relaxed)
}

pub fn current() -> Option<Arc<CoreWorker>> {
    CURRENT.read().clone()
}

/// Why nothing works in a forked child.
pub const FORK_TEXT: &str = "this process was forked from one that uses ray_rs, and the connection does not survive a \
                             fork. Use tasks or actors instead, or the 'spawn' start method, or call ray_rs.init() here \
                             first.";

/// The connection, made with `init`'s defaults when there is none.
pub fn require(py: Python<'_>) -> PyResult<Arc<CoreWorker>> {
    if let Some(core) = current() {
        return Ok(core);
    }
    if is_forked() {
        return Err(errors::system(py, FORK_TEXT));
    }
    imports::AUTO_INIT.get(py)?.call0()?;
    connected(py)
}

/// Whether this process is such a child, and has not made a connection of its own.
pub fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// The connection, or an error when there is none.
pub fn connected(py: Python<'_>) -> PyResult<Arc<CoreWorker>> {
    current().ok_or_else(|| errors::system(py, "Ray has not been started yet. You can start Ray with 'ray.init()'."))
}

/// Whether `core` is the one in use.
pub fn is_current(core: &Arc<CoreWorker>) -> bool {
    CURRENT
        .read()
        .as_ref()
        .is_some_and(|current| Arc::ptr_eq(current, core))
}

fn replace(core: Option<Arc<CoreWorker>>) -> Option<Arc<CoreWorker>> {
    EPOCH.fetch_add(1, Ordering::Relaxed);
    DEFINITIONS.fetch_add(1, Ordering::Relaxed);
    std::mem::replace(&mut *CURRENT.write(), core)
}

#[pyfunction]
#[pyo3(signature = (session_dir, *, driver_config=None, fork_token=None, set_up_follows=false, on_event=None))]
pub fn connect(
    py: Python<'_>,
    session_dir: PathBuf,
    driver_config: Option<Vec<u8>>,
    fork_token: Option<u64>,
    set_up_follows: bool,
    on_event: Option<Py<PyAny>>,
) -> PyResult<()> {
    let is_driver = fork_token.is_none();
    let role = match fork_token {
        Some(fork_token) => Role::Worker {
            fork_token,
            set_up_follows,
        },
        None => Role::Driver {
            config: driver_config.unwrap_or_default(),
        },
    };
    let on_event = Box::new(move |event| deliver(event, on_event.as_ref()));
    let config = ConnectConfig {
        session_dir,
        role,
        on_event,
    };
    let core = gil::wait_for(py, |interrupt| CoreWorker::connect(config, interrupt))?;
    install_fork_guard(py)?;
    IS_DRIVER.store(is_driver, Ordering::Relaxed);
    FORKED.store(false, Ordering::Relaxed);
    if let Some(older) = replace(Some(core)) {
        py.detach(|| older.shutdown());
    }
    Ok(())
}

#[pyfunction]
pub fn disconnect(py: Python<'_>) {
    if let Some(core) = replace(None) {
        py.detach(|| core.shutdown());
        futures::fail_all(py, &core);
    }
}

#[pyfunction]
pub fn worker_ready(py: Python<'_>) -> PyResult<()> {
    connected(py)?.worker_ready();
    Ok(())
}

/// Whether this process is part of a session.
#[pyfunction]
pub fn is_initialized() -> bool {
    CURRENT.read().is_some()
}

#[pyfunction]
#[pyo3(signature = (timeout=1.0))]
pub fn flush_logs(py: Python<'_>, timeout: f64) {
    if let Some(core) = current() {
        py.detach(|| core.flush_logs(gil_free_duration(timeout)));
    }
}

fn gil_free_duration(seconds: f64) -> std::time::Duration {
    std::time::Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(std::time::Duration::MAX)
}

#[pyfunction]
pub fn process_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let core = connected(py)?;
    control::process_info(py, core.info(), IS_DRIVER.load(Ordering::Relaxed))
}

/// Runs on the engine's thread for such things, which holds no lock.
fn deliver(event: HostEvent, on_event: Option<&Py<PyAny>>) {
    if let HostEvent::TaskCancelled { unique, is_call } = event {
        return cancel::deliver(unique, is_call);
    }
    // None: the interpreter is going down, and nobody listens any more.
    Python::try_attach(|py| {
        if let HostEvent::Ready(tokens) = event {
            return futures::complete(py, &tokens);
        }
        let event = match event {
            HostEvent::LookAtAwaits { is_asked } => return look_at_awaits(py, is_asked),
            HostEvent::AwaitsDescribed(answer) => {
                return current().map_or((), |core| futures::awaits_described(py, &core, answer));
            }
            other => other,
        };
        let Some(on_event) = on_event else { return };
        let result = match event {
            HostEvent::Log {
                name,
                pid,
                is_stderr,
                lines,
            } => on_event.call1(py, ("log", name, pid, is_stderr, lines)),
            HostEvent::Notice { level, text } => on_event.call1(py, ("notice", level, text)),
            HostEvent::Retried {
                task_name,
                retries_left,
                error,
            } => match error.map_or(Ok(None), |error| objects::text_of_error(py, error)) {
                Ok(text) => on_event.call1(py, ("retried", &*task_name, retries_left, text)),
                Err(error) => Err(error),
            },
            HostEvent::WorkerCrashed(failure) => match objects::text_of_error(py, Read::Failed(failure)) {
                Ok(text) => on_event.call1(py, ("worker_crashed", text)),
                Err(error) => Err(error),
            },
            HostEvent::Explanation(text) => on_event.call1(py, ("explanation", text)),
            HostEvent::UnseenError(read) => match objects::text_of_error(py, read) {
                Ok(Some(text)) => on_event.call1(py, ("unseen_error", text)),
                Ok(None) => return,
                Err(error) => Err(error),
            },
            HostEvent::RayletDied => {
                if let Some(core) = current() {
                    futures::fail_all(py, &core);
                }
                on_event.call1(py, ("raylet_died",))
            }
            HostEvent::Ready(_)
            | HostEvent::TaskCancelled { .. }
            | HostEvent::LookAtAwaits { .. }
            | HostEvent::AwaitsDescribed(_) => return,
        };
        if let Err(error) = result {
            error.write_unraisable(py, Some(on_event.bind(py)));
        }
    });
}

fn look_at_awaits(py: Python<'_>, is_asked: bool) {
    let Some(core) = current() else { return };
    if let Err(error) = futures::look_at_awaits(py, &core, is_asked) {
        error.write_unraisable(py, None);
    }
}

/// A forked child shares the lanes' memory with its parent; it must not touch them.
fn install_fork_guard(py: Python<'_>) -> PyResult<()> {
    if FORK_GUARD.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    // Not os.register_at_fork: the core worker's lock is held from `before_fork` on, and hooks that Python runs after it
    // may let another thread have the GIL, which then waits for that lock.
    CoreWorker::at_fork(before_fork, after_fork_in_parent, after_fork_in_child)
        .map_err(|error| errors::system(py, format!("cannot guard against forks: {error}")))
}

extern "C" fn before_fork() {
    if let Some(core) = current() {
        core.before_fork();
    }
}

extern "C" fn after_fork_in_parent() {
    if let Some(core) = current() {
        core.after_fork_in_parent();
    }
}

extern "C" fn after_fork_in_child() {
    if let Some(core) = replace(None) {
        core.after_fork_in_child();
        FORKED.store(true, Ordering::Relaxed);
        // Its threads exist in the parent only: nothing here may wait for them.
        std::mem::forget(core);
    }
}
