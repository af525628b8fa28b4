//! Running tasks in a worker: what is common to plain workers and to actors of all three kinds.
//!
//! * plain workers and simple actors: [`sync`], all on the main thread;
//! * actors with `max_concurrency` above one: [`threaded`];
//! * actors with `async def` methods: [`asyncio`], an event loop for each concurrency group.

pub mod asyncio;
mod away;
pub mod callee;
pub mod context;
mod durable;
pub mod run;
pub mod sync;
pub mod threaded;
pub mod title;

use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use ray_rs_core_worker::{CoreWorker, Next};
use ray_rs_types::ActorId;

use crate::core;
use callee::Callees;

/// Why the process ends.
#[derive(Debug, Clone)]
pub struct Exit {
    /// atexit handlers run.
    pub graceful: bool,
    pub code: i32,
    pub reason: String,
}

impl Exit {
    pub fn graceful(code: i32, reason: impl Into<String>) -> Self {
        Self {
            graceful: true,
            code,
            reason: reason.into(),
        }
    }
}

/// The Python side of a worker; `_core.pyi` says what each does.
pub struct Callbacks {
    pub make_error: Py<PyAny>,
    pub should_retry: Py<PyAny>,
    pub start_actor: Py<PyAny>,
    pub restore_actor: Py<PyAny>,
    pub save_actor: Py<PyAny>,
    pub say_creation_failed: Py<PyAny>,
    pub set_gpus: Py<PyAny>,
    pub set_cpus: Py<PyAny>,
    pub warn_return_ignored: Py<PyAny>,
    pub warn_items_ignored: Py<PyAny>,
    pub end_forked_child: Py<PyAny>,
    pub special_methods: Py<PyDict>,
    pub actor_exit: Py<PyAny>,
}

impl Callbacks {
    fn of(callbacks: &Bound<'_, PyAny>) -> PyResult<Self> {
        let find = |name| callbacks.getattr(name).map(Bound::unbind);
        Ok(Self {
            make_error: find("make_error")?,
            should_retry: find("should_retry")?,
            start_actor: find("start_actor")?,
            restore_actor: find("restore_actor")?,
            save_actor: find("save_actor")?,
            say_creation_failed: find("say_creation_failed")?,
            set_gpus: find("set_gpus")?,
            set_cpus: find("set_cpus")?,
            warn_return_ignored: find("warn_return_ignored")?,
            warn_items_ignored: find("warn_items_ignored")?,
            end_forked_child: find("end_forked_child")?,
            special_methods: callbacks.getattr("special_methods")?.cast_into()?.unbind(),
            actor_exit: find("actor_exit")?,
        })
    }
}

/// The actor that this process hosts.
pub struct Hosted {
    pub actor_id: ActorId,
    pub descriptor: Vec<u8>,
    pub resources: ray_rs_types::ResourceSet,
    pub captures_children: bool,
    /// Set when the constructor has returned.
    pub instance: PyOnceLock<Py<PyAny>>,
}

pub struct Executor {
    pub core: Arc<CoreWorker>,
    pub callbacks: Callbacks,
    pub callees: Callees,
    pub hosted: OnceLock<Hosted>,
}

/// Of this process, once it is a worker.
static EXECUTOR: OnceLock<Arc<Executor>> = OnceLock::new();

pub fn executor() -> Option<&'static Arc<Executor>> {
    EXECUTOR.get()
}

/// What an engine without work to give means to a loop.
fn exit_of(next: Next) -> Option<Exit> {
    match next {
        Next::Exit { graceful, reason } => Some(Exit {
            graceful,
            code: 0,
            reason,
        }),
        // An actor's process is given no second actor, and tasks are taken before this is asked.
        Next::Task(_) | Next::StartActor(_) | Next::Checkpoint | Next::Nothing => None,
    }
}

/// Runs tasks, or becomes an actor, until told to end.
#[pyfunction]
pub fn run_worker_loop(py: Python<'_>, callbacks: &Bound<'_, PyAny>) -> PyResult<(bool, i32, String)> {
    let core = core::connected(py)?;
    let made = Executor {
        core,
        callbacks: Callbacks::of(callbacks)?,
        callees: Callees::default(),
        hosted: OnceLock::new(),
    };
    let executor = EXECUTOR.get_or_init(|| Arc::new(made));
    executor.core.loop_begins();
    let exit = sync::run(py, executor)?;
    Ok((exit.graceful, exit.code, exit.reason))
}
