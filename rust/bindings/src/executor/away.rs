//! Calls of an async actor whose arguments are on disk or on another node: the loop goes on while these come.
//!
//! A thread waits for each such call, a few at a time, and hands it back to the loop. So calls may begin in another order
//! than that in which they came, as in Ray, where calls of async actors have none.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use ray_rs_core_worker::{CoreError, CoreWorker, ExecTask, ReadData, ReadValue};

use super::asyncio::AsyncEngine;
use super::run::Ended;
use crate::{errors, gil};

/// Threads that wait at the same time; further calls wait for one of them.
const MOST_THREADS: usize = 16;

/// The calls that wait for arguments.
#[derive(Default)]
pub struct Away(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    calls: VecDeque<Box<ExecTask>>,
    threads: usize,
}

/// Whether a call has to wait for some of its arguments.
pub fn has_arguments_away(task: &ExecTask) -> bool {
    let is_away = |value: &ReadValue| matches!(value.data, ReadData::Away(_));
    is_away(&task.args) || task.deps.iter().any(is_away)
}

impl Away {
    /// The loop gets the call again when its arguments are there, or cannot be had.
    pub fn wait_for(engine: &Bound<'_, AsyncEngine>, core: &Arc<CoreWorker>, task: Box<ExecTask>) {
        let away = &engine.get().away;
        {
            let mut waiting = away.0.lock();
            waiting.calls.push_back(task);
            if waiting.threads == MOST_THREADS {
                return;
            }
            waiting.threads += 1;
        }
        let (engine, core) = (engine.clone().unbind(), Arc::clone(core));
        let thread = std::thread::Builder::new().name("ray_rs-arguments".to_owned());
        let spawned = thread.spawn(move || {
            while let Some(mut task) = engine.get().away.next() {
                let ExecTask {
                    args, deps, dep_refs, ..
                } = &mut *task;
                let outcome = core.bring_arguments(args, deps, dep_refs, &mut gil::never);
                hand_back(&engine, task, outcome.err());
            }
            // What is Python's needs its lock to be let go.
            Python::try_attach(|_| drop(engine));
        });
        // Without a thread there is nobody to wait but the loop; those that wait already take it when they are free.
        if spawned.is_err() {
            away.0.lock().threads -= 1;
        }
    }

    fn next(&self) -> Option<Box<ExecTask>> {
        let mut waiting = self.0.lock();
        let next = waiting.calls.pop_front();
        if next.is_none() {
            waiting.threads -= 1;
        }
        next
    }

    /// What no thread could be had for.
    pub fn left_over(&self) -> Option<Box<ExecTask>> {
        let mut waiting = self.0.lock();
        match waiting.threads {
            0 => waiting.calls.pop_front(),
            _ => None,
        }
    }
}

/// A loop that is closed takes nothing: its process ends, of which callers hear.
fn hand_back(engine: &Py<AsyncEngine>, task: Box<ExecTask>, error: Option<CoreError>) {
    Python::try_attach(|py| {
        let came = ArgumentsCame {
            engine: engine.clone_ref(py),
            call: Mutex::new(Some((task, error))),
        };
        let told = Bound::new(py, came).and_then(|came| {
            let event_loop = engine.get().event_loop(py);
            event_loop.call_method1("call_soon_threadsafe", (came,))
        });
        drop(told);
    });
}

/// In the loop's queue.
#[pyclass(frozen, module = "ray_rs._core")]
struct ArgumentsCame {
    engine: Py<AsyncEngine>,
    call: Mutex<Option<(Box<ExecTask>, Option<CoreError>)>>,
}

#[pymethods]
impl ArgumentsCame {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let Some((mut task, error)) = self.call.lock().take() else {
            return Ok(());
        };
        let engine = self.engine.bind(py);
        let Some(error) = error else {
            return AsyncEngine::begin(engine, task);
        };
        let values = std::mem::take(&mut task.deps);
        let refs = values.iter().chain([&task.args]).flat_map(|value| &value.refs);
        refs.for_each(|slot| engine.get().core().drop_ref(*slot));
        task.args.refs.clear();
        let ended = Ended::Raised {
            error: errors::from_core(py, error),
            from_argument: true,
        };
        engine.get().complete(py, task, ended)
    }
}
