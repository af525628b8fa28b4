//! Futures of references: each waits with a token, and the engine's thread for such things completes them in batches,
//! one call into an event loop for all that became ready together. What is on disk is waited for without a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use ray_rs_core_worker::{Awaited, AwaitingCall, AwaitsSeen, CoreWorker, Read, ReadData, v1};
use rustc_hash::FxHashMap;

use crate::executor::{asyncio, context};
use crate::object_ref::Counted;
use crate::{errors, imports, objects};

enum Waiter {
    Asyncio {
        event_loop: Py<PyAny>,
        future: Py<PyAny>,
        /// The number of the task whose thread runs the loop; none in drivers and on the loop of an async actor.
        task: Option<u64>,
    },
    Concurrent {
        future: Py<PyAny>,
    },
    Callback {
        callback: Py<PyAny>,
    },
}

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);
// Moved in and out only: no Python object is made or dropped under this lock.
static WAITERS: Mutex<Option<FxHashMap<u64, Entry>>> = Mutex::new(None);

struct Entry {
    waiter: Waiter,
    arrived: Arrived,
    since: Instant,
}

/// A reference, and what was read of it.
struct Arrived {
    counted: Counted,
    value: Option<PyResult<Read>>,
}

impl Drop for Arrived {
    fn drop(&mut self) {
        if let Some(Ok(read)) = &self.value {
            drop_read(&self.counted.core, read);
        }
    }
}

/// Gives back the references inside a value that is not decoded.
pub fn drop_read(core: &CoreWorker, read: &Read) {
    if let Read::Value(value) = read {
        value.refs.iter().for_each(|slot| core.drop_ref(*slot));
    }
}

fn insert(token: u64, entry: Entry) {
    WAITERS.lock().get_or_insert_default().insert(token, entry);
}

fn register(counted: &Counted, waiter: Waiter) {
    let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
    let arrived = Arrived {
        counted: counted.clone(),
        value: None,
    };
    let is_awaited = matches!(waiter, Waiter::Asyncio { .. });
    let since = Instant::now();
    insert(token, Entry { waiter, arrived, since });
    counted.core.notify_when_ready(counted.slot, token, is_awaited);
}

fn take(token: u64) -> Option<Entry> {
    WAITERS.lock().as_mut()?.remove(&token)
}

/// What became ready and can be read without waiting. What is on disk is asked for, and its token comes again.
fn read(py: Python<'_>, token: u64) -> Option<Entry> {
    let mut entry = take(token)?;
    let Arrived { counted, value } = &mut entry.arrived;
    let core = Arc::clone(&counted.core);
    match value {
        None => match core.try_read(counted.slot) {
            Some(read) => *value = Some(Ok(read)),
            None if core.is_disconnected() => *value = Some(Err(errors::disconnected(py, &core))),
            // It was lost in the meantime.
            None => return wait_again(token, entry),
        },
        Some(Ok(Read::Value(read))) => match (core.take_brought(token), &read.data) {
            (Some(Ok(Ok(data))), _) => read.data = data,
            (failed, data) => {
                let error = match (failed, data) {
                    (Some(Ok(Err(failure))), ReadData::Away(location)) => {
                        let id = core.object_id(counted.slot);
                        let failure = core.value_lost(counted.slot, location, failure);
                        failure.map(|failure| errors::from_failure(py, *failure, Some(id)))
                    }
                    (Some(Err(error)), _) => Some(errors::from_core(py, error)),
                    _ => Some(errors::disconnected(py, &core)),
                };
                read.refs.iter().for_each(|slot| core.drop_ref(*slot));
                *value = error.map(Err);
                if value.is_none() {
                    return wait_again(token, entry);
                }
            }
        },
        Some(Ok(Read::Failed(_)) | Err(_)) => {}
    }
    if let Some(Ok(Read::Value(read))) = value
        && let ReadData::Away(location) = read.data
    {
        insert(token, entry);
        core.bring_for(token, location);
        return None;
    }
    Some(entry)
}

/// The value was lost: its token comes again with the next one.
fn wait_again(token: u64, entry: Entry) -> Option<Entry> {
    let counted = entry.arrived.counted.clone();
    let is_awaited = matches!(entry.waiter, Waiter::Asyncio { .. });
    insert(token, entry);
    counted.core.notify_when_ready(counted.slot, token, is_awaited);
    None
}

/// The session has ended: what has not come will never come.
pub fn fail_all(py: Python<'_>, core: &Arc<CoreWorker>) {
    let tokens: Vec<u64> = match WAITERS.lock().as_ref() {
        Some(waiters) => {
            let of_session = |(_, entry): &(&u64, &Entry)| Arc::ptr_eq(&entry.arrived.counted.core, core);
            waiters.iter().filter(of_session).map(|(token, _)| *token).collect()
        }
        None => return,
    };
    complete(py, &tokens);
}

/// A `concurrent.futures.Future` of the value.
pub fn concurrent<'py>(py: Python<'py>, counted: &Counted) -> PyResult<Bound<'py, PyAny>> {
    let future = imports::CONCURRENT_FUTURE.get(py)?.call0()?;
    register(
        counted,
        Waiter::Concurrent {
            future: future.clone().unbind(),
        },
    );
    Ok(future)
}

/// A future of the running event loop.
pub fn asyncio<'py>(py: Python<'py>, counted: &Counted) -> PyResult<Bound<'py, PyAny>> {
    let event_loop = imports::RUNNING_LOOP.get(py)?.call0()?;
    let future = event_loop.call_method0("create_future")?;
    let waiter = Waiter::Asyncio {
        event_loop: event_loop.unbind(),
        future: future.clone().unbind(),
        task: context::task_of_thread(),
    };
    register(counted, waiter);
    Ok(future)
}

/// Calls back with the value or the exception, on the engine's thread.
pub fn call_back(counted: &Counted, callback: Py<PyAny>) {
    register(counted, Waiter::Callback { callback });
}

/// These are ready, or never will be.
pub fn complete(py: Python<'_>, tokens: &[u64]) {
    type OfLoop = (Py<PyAny>, Vec<(Arrived, Py<PyAny>)>);
    let mut batches: Vec<OfLoop> = Vec::new();
    for token in tokens {
        let Some(Entry { waiter, arrived, .. }) = read(py, *token) else {
            continue;
        };
        let result = match waiter {
            Waiter::Asyncio { event_loop, future, .. } => {
                match batches.iter_mut().find(|(other, _)| other.is(&event_loop)) {
                    Some((_, batch)) => batch.push((arrived, future)),
                    None => batches.push((event_loop, vec![(arrived, future)])),
                }
                Ok(())
            }
            Waiter::Concurrent { future } => settle(py, arrived, future.bind(py)),
            Waiter::Callback { callback } => {
                let outcome = value_of(py, arrived).unwrap_or_else(|error| error.into_value(py).into_any());
                callback.call1(py, (outcome,)).map(drop)
            }
        };
        if let Err(error) = result {
            error.write_unraisable(py, None);
        }
    }
    for (event_loop, batch) in batches {
        settle_on_loop(py, &event_loop, batch);
    }
}

/// On its own thread.
fn settle_on_loop(py: Python<'_>, event_loop: &Py<PyAny>, batch: Vec<(Arrived, Py<PyAny>)>) {
    // A loop that was closed meanwhile refuses; then nobody awaits these any more.
    let _ = Py::new(py, Batch(Mutex::new(batch)))
        .and_then(|batch| event_loop.call_method1(py, "call_soon_threadsafe", (batch,)));
}

// ------------------------------------------------------------------------------------------------------ what is awaited

/// Tells the engine which references coroutines of this process await, and which calls can't go on without them.
pub fn look_at_awaits(py: Python<'_>, core: &Arc<CoreWorker>, is_asked: bool) -> PyResult<()> {
    // Cloned under the lock, which makes no Python object; looked at when it is free.
    let mut pending = Vec::new();
    let mut loops: Vec<(u64, Py<PyAny>)> = Vec::new();
    if let Some(waiters) = WAITERS.lock().as_ref() {
        for (token, entry) in waiters {
            if let Waiter::Asyncio {
                future,
                event_loop,
                task,
            } = &entry.waiter
                && entry.arrived.value.is_none()
                && Arc::ptr_eq(&entry.arrived.counted.core, core)
            {
                pending.push((
                    *token,
                    entry.arrived.counted.slot,
                    entry.since,
                    future.clone_ref(py),
                    *task,
                ));
                if let Some(task) = task
                    && !loops.iter().any(|(other, known)| other == task && known.is(event_loop))
                {
                    loops.push((*task, event_loop.clone_ref(py)));
                }
            }
        }
    }
    let mut seen = AwaitsSeen::default();
    let mut token_of = FxHashMap::default();
    for (token, slot, since, future, _) in &pending {
        // One that was cancelled is awaited by nobody.
        if !future.call_method0(py, "done")?.is_truthy(py)? {
            token_of.insert(future.as_ptr().addr(), *token);
            seen.awaited.push(Awaited {
                token: *token,
                slot: *slot,
                since: *since,
            });
        }
    }
    let mut calls = match is_asked || seen.are_long() {
        true => asyncio::awaiting(py)?,
        false => Vec::new(),
    };
    if !loops.is_empty() {
        let found = imports::AWAITED_BY_TASKS.get(py)?.call1((loops,))?;
        let (stuck, idle): (Vec<(u64, Vec<Py<PyAny>>)>, Vec<u64>) = found.extract()?;
        calls.extend(stuck);
        for call in idle {
            let of_call = |(token, _, _, _, task): &&(u64, _, _, Py<PyAny>, Option<u64>)| {
                *task == Some(call) && seen.awaited.iter().any(|one| one.token == *token)
            };
            let tokens: Vec<u64> = pending.iter().filter(of_call).map(|(token, ..)| *token).collect();
            if !tokens.is_empty() {
                seen.idle.push(AwaitingCall { call, tokens });
            }
        }
    }
    for (call, futures) in calls {
        let tokens: Vec<u64> = futures
            .iter()
            .filter_map(|future| token_of.get(&future.as_ptr().addr()).copied())
            .collect();
        if !tokens.is_empty() {
            seen.calls.push(AwaitingCall { call, tokens });
        }
    }
    py.detach(|| core.awaits_seen(seen));
    Ok(())
}

/// Awaits last: this is what all processes are about. Those that never end raise.
pub fn awaits_described(py: Python<'_>, core: &Arc<CoreWorker>, answer: Box<v1::Descriptions>) {
    for (token, why) in py.detach(|| core.awaits_described(answer)) {
        let Some(mut entry) = take(token) else { continue };
        match entry.waiter {
            Waiter::Asyncio { event_loop, future, .. } => {
                entry.arrived.value = Some(Err(errors::deadlock(py, why)));
                settle_on_loop(py, &event_loop, vec![(entry.arrived, future)]);
            }
            Waiter::Concurrent { .. } | Waiter::Callback { .. } => insert(token, entry),
        }
    }
}

/// Completes futures on their own loop.
#[pyclass(frozen, module = "ray_rs._core")]
struct Batch(Mutex<Vec<(Arrived, Py<PyAny>)>>);

#[pymethods]
impl Batch {
    fn __call__(&self, py: Python<'_>) {
        let batch = std::mem::take(&mut *self.0.lock());
        for (arrived, future) in batch {
            if let Err(error) = settle(py, arrived, future.bind(py)) {
                error.write_unraisable(py, Some(future.bind(py)));
            }
        }
    }
}

fn value_of(py: Python<'_>, mut arrived: Arrived) -> PyResult<Py<PyAny>> {
    let read = arrived.value.take();
    let counted = &arrived.counted;
    let read = read.unwrap_or_else(|| Err(errors::disconnected(py, &counted.core)))?;
    Ok(objects::decode_read(py, &counted.core, counted.slot, read)?.unbind())
}

/// Gives a future of either kind its value or exception, unless it was cancelled.
fn settle(py: Python<'_>, arrived: Arrived, future: &Bound<'_, PyAny>) -> PyResult<()> {
    if future.call_method0("done")?.is_truthy()? {
        return Ok(());
    }
    match value_of(py, arrived) {
        Ok(value) => future.call_method1("set_result", (value,)).map(drop),
        Err(error) => {
            let exception = error.into_value(py);
            match future.call_method1("set_exception", (&exception,)) {
                // asyncio refuses StopIteration, which would end the awaiting coroutine unseen.
                Err(refusal) if refusal.is_instance_of::<pyo3::exceptions::PyTypeError>(py) => {
                    let wrapped = PyRuntimeError::new_err(exception.bind(py).str()?.to_string());
                    wrapped.set_cause(py, Some(PyErr::from_value(exception.into_bound(py).into_any())));
                    future
                        .call_method1("set_exception", (wrapped.into_value(py),))
                        .map(drop)
                }
                other => other.map(drop),
            }
        }
    }
}
