//! Actors with `max_concurrency` above one: several Python threads, of which one, the leader, takes calls and runs them.
//!
//! Handing each call to another thread would cost two changes of the GIL's owner per call. So the leader goes on alone
//! as long as its calls are short; the main thread watches, and when the leader has been in one call for
//! [`PATIENCE`] it makes another thread the leader. Whoever comes back from a long call and finds a leader parks.
//!
//! Each concurrency group has such a pool of its own, and so has the default group; the watchers of all but that one are
//! threads, too. The end of one is the end of all.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use ray_rs_core_worker::Next;

use super::{Executor, Exit, exit_of};
use crate::{gil, imports};

/// Between half of this and all of it may pass before a waiting call gets a thread.
const PATIENCE: Duration = Duration::from_micros(500);
/// The watcher sleeps after so many looks at a leader without work.
const IDLE_LOOKS: u32 = 40;
/// How often a sleeping watcher looks for signals.
const SIGNALS: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    /// Whoever parks or is parked takes it.
    Vacant,
    /// The thread of this number waits for a call.
    Waiting(usize),
    /// It is in a call.
    Busy(usize),
}

struct State {
    leader: Leader,
    threads: usize,
    parked: usize,
    /// Threads in calls, the leader among them.
    running: usize,
    /// Calls that leaders have started.
    started: u64,
    /// A call waits, every thread is busy: whoever is free first leads.
    wanted: bool,
    watcher_sleeps: bool,
    exit: Option<Exit>,
}

struct Pool {
    executor: Arc<Executor>,
    /// `None`: the actor has no groups, and the pool takes every call.
    group: Option<String>,
    limit: usize,
    /// The pools of the actor's other groups.
    others: OnceLock<Vec<Weak<Pool>>>,
    state: Mutex<State>,
    parked: Condvar,
    watcher: Condvar,
}

/// What the watcher needs the GIL for.
enum Order {
    StartThread,
    LookForSignals,
    End(Exit),
}

pub fn run(py: Python<'_>, executor: &Arc<Executor>, limit: usize, groups: &[(String, u32)]) -> PyResult<Exit> {
    let mut pools = Vec::new();
    executor.core.use_threads(!groups.is_empty());
    if groups.is_empty() {
        pools.push(Pool::new(executor, None, limit));
    } else {
        pools.push(Pool::new(executor, Some(String::new()), limit));
        let made = groups
            .iter()
            .map(|(name, limit)| Pool::new(executor, Some(name.clone()), *limit as usize));
        pools.extend(made);
    }
    for (index, pool) in pools.iter().enumerate() {
        let others = pools.iter().enumerate().filter(|(other, _)| *other != index);
        let _ = pool
            .others
            .set(others.map(|(_, other)| Arc::downgrade(other)).collect());
    }
    for pool in &pools[1..] {
        let watcher = Watcher(Arc::clone(pool));
        start_python_thread(py, Py::new(py, watcher)?.into_any(), "ray_rs-actor-watcher")?;
    }
    for pool in &pools {
        start_thread(py, pool)?;
    }
    let exit = pools[0].look_after(py)?;
    // Calls of other groups that run are finished, too, unless the end is not graceful.
    py.detach(|| pools[1..].iter().for_each(|pool| pool.wait_for_the_last(&exit)));
    Ok(exit)
}

/// Looks after the pool of a group other than the default one.
#[pyclass(frozen, module = "ray_rs._core")]
struct Watcher(Arc<Pool>);

#[pymethods]
impl Watcher {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        self.0.look_after(py).map(drop)
    }
}

fn start_thread(py: Python<'_>, pool: &Arc<Pool>) -> PyResult<()> {
    let number = {
        let mut state = pool.state.lock();
        state.threads += 1;
        state.threads
    };
    let body = Body {
        pool: Arc::clone(pool),
        number,
    };
    start_python_thread(py, Py::new(py, body)?.into_any(), &format!("ray_rs-actor-{number}"))
}

/// Starts a daemon thread that calls `target`.
pub fn start_python_thread(py: Python<'_>, target: Py<PyAny>, name: &str) -> PyResult<()> {
    let options = PyDict::new(py);
    options.set_item("target", target)?;
    options.set_item("name", name)?;
    options.set_item("daemon", true)?;
    imports::THREAD
        .get(py)?
        .call((), Some(&options))?
        .call_method0("start")
        .map(drop)
}

#[pyclass(frozen, module = "ray_rs._core")]
struct Body {
    pool: Arc<Pool>,
    number: usize,
}

#[pymethods]
impl Body {
    fn __call__(&self, py: Python<'_>) {
        while py.detach(|| self.pool.park_until_leading(self.number)) {
            self.lead(py);
        }
    }
}

impl Body {
    /// Takes calls and runs them until another thread leads.
    fn lead(&self, py: Python<'_>) {
        let core = &self.pool.executor.core;
        let group = self.pool.group.as_deref();
        loop {
            let next = match core.try_next_task_of(group) {
                Some(next) => next,
                None => py.detach(|| core.next_task_of(group, None, &mut gil::never)),
            };
            match next {
                Next::Task(task) => {
                    self.pool.call_started(self.number);
                    let exit = self.pool.executor.run(py, task);
                    if !self.pool.call_ended(self.number, exit) {
                        return;
                    }
                }
                other => {
                    if let Some(exit) = exit_of(other) {
                        self.pool.end(exit);
                        return;
                    }
                }
            }
        }
    }
}

impl Pool {
    fn new(executor: &Arc<Executor>, group: Option<String>, limit: usize) -> Arc<Self> {
        let state = State {
            leader: Leader::Vacant,
            threads: 0,
            parked: 0,
            running: 0,
            started: 0,
            wanted: false,
            watcher_sleeps: false,
            exit: None,
        };
        Arc::new(Self {
            executor: Arc::clone(executor),
            group,
            limit: limit.max(1),
            others: OnceLock::new(),
            state: Mutex::new(state),
            parked: Condvar::new(),
            watcher: Condvar::new(),
        })
    }

    /// Until the actor ends.
    fn look_after(self: &Arc<Self>, py: Python<'_>) -> PyResult<Exit> {
        loop {
            match py.detach(|| self.watch()) {
                Order::StartThread => start_thread(py, self)?,
                Order::LookForSignals => py.check_signals()?,
                Order::End(exit) => return Ok(exit),
            }
        }
    }

    fn wait_for_the_last(&self, exit: &Exit) {
        let mut state = self.state.lock();
        while exit.graceful && state.running > 0 {
            self.watcher.wait_for(&mut state, SIGNALS);
        }
    }

    /// False: the process ends.
    fn park_until_leading(&self, number: usize) -> bool {
        let mut state = self.state.lock();
        state.parked += 1;
        while state.exit.is_none() && state.leader != Leader::Vacant {
            self.parked.wait(&mut state);
        }
        state.parked -= 1;
        if state.exit.is_none() {
            state.leader = Leader::Waiting(number);
        }
        state.exit.is_none()
    }

    fn call_started(&self, number: usize) {
        let mut state = self.state.lock();
        state.leader = Leader::Busy(number);
        state.started += 1;
        state.running += 1;
        state.wanted = false;
        if std::mem::take(&mut state.watcher_sleeps) {
            self.watcher.notify_one();
        }
    }

    /// Whether the thread (still, or now) leads.
    fn call_ended(&self, number: usize, exit: Option<Exit>) -> bool {
        if let Some(exit) = exit {
            self.end(exit);
        }
        let mut state = self.state.lock();
        state.running -= 1;
        if state.exit.is_some() {
            self.watcher.notify_all();
            return false;
        }
        if state.leader == Leader::Busy(number) || state.wanted || state.leader == Leader::Vacant {
            state.leader = Leader::Waiting(number);
            state.wanted = false;
            return true;
        }
        false
    }

    fn end(&self, exit: Exit) {
        for other in self.others.get().into_iter().flatten().filter_map(Weak::upgrade) {
            other.end_alone(exit.clone());
        }
        self.end_alone(exit);
    }

    fn end_alone(&self, exit: Exit) {
        let mut state = self.state.lock();
        state.exit.get_or_insert(exit);
        self.watcher.notify_all();
    }

    /// Looks after the leader until something needs the GIL.
    fn watch(&self) -> Order {
        let mut state = self.state.lock();
        let mut seen = state.started;
        let mut idle_looks = 0;
        loop {
            if let Some(exit) = &state.exit {
                // Calls that run are finished first, unless the end is not graceful.
                if state.running == 0 || !exit.graceful {
                    let exit = exit.clone();
                    self.parked.notify_all();
                    return Order::End(exit);
                }
                self.watcher.wait_for(&mut state, SIGNALS);
                continue;
            }
            match state.leader {
                Leader::Busy(_) if state.started == seen => {
                    if state.parked > 0 {
                        state.leader = Leader::Vacant;
                        self.parked.notify_one();
                    } else if state.threads < self.limit {
                        state.leader = Leader::Vacant;
                        return Order::StartThread;
                    } else {
                        state.wanted = true;
                    }
                    idle_looks = 0;
                }
                Leader::Busy(_) => idle_looks = 0,
                Leader::Waiting(_) | Leader::Vacant => idle_looks += 1,
            }
            seen = state.started;
            if idle_looks > IDLE_LOOKS {
                state.watcher_sleeps = true;
                let timed_out = self.watcher.wait_for(&mut state, SIGNALS).timed_out();
                state.watcher_sleeps = false;
                if timed_out && state.exit.is_none() {
                    return Order::LookForSignals;
                }
            } else {
                self.watcher.wait_for(&mut state, PATIENCE);
            }
        }
    }
}
