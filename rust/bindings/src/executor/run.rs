//! One task: decode, call, encode, finish.

use std::sync::atomic::Ordering;

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use ray_rs_core_worker::{DYNAMIC, ExecTask, ReadData, ReadValue, StoredValue, TaskStatus, ValueKind};
use smallvec::SmallVec;

use super::callee::Callable;
use super::{Executor, Exit, context};
use crate::args::{self, BadArgs, Call};
use crate::object_ref::ObjectRef;
use crate::{imports, pickle, reftable};

/// How the body ended.
pub enum Ended<'py> {
    Returned(Bound<'py, PyAny>),
    Raised { error: PyErr, from_argument: bool },
}

impl<'py> From<PyResult<Bound<'py, PyAny>>> for Ended<'py> {
    fn from(result: PyResult<Bound<'py, PyAny>>) -> Self {
        match result {
            Ok(value) => Self::Returned(value),
            Err(error) => Self::Raised {
                error,
                from_argument: false,
            },
        }
    }
}

/// Takes a value out of a task; what stays holds nothing.
fn taken(value: &mut ReadValue) -> ReadValue {
    std::mem::replace(
        value,
        ReadValue {
            kind: ValueKind::None,
            data: ReadData::Empty,
            refs: Vec::new(),
        },
    )
}

impl Executor {
    /// Runs a task to its end on this thread. Gives an exit when the process is to end.
    pub fn run(&self, py: Python<'_>, mut task: Box<ExecTask>) -> Option<Exit> {
        let running = context::enter(&task);
        if task.is_recorded()
            && let Err(ended) = self.keep_arguments(py, &mut task)
        {
            return self.complete(py, task, ended);
        }
        let ended = match self.prepare(py, &mut task) {
            Ok((callable, (args, kwargs))) => self.body(py, &task, &callable, &args, kwargs.as_ref()),
            Err(ended) => ended,
        };
        let ended = match (ended, task.streaming) {
            (Ended::Returned(made), Some(limit)) => self.stream(py, &task, limit, &made),
            (ended, _) => ended,
        };
        let exit = self.complete(py, task, ended);
        drop(running);
        exit
    }

    /// The user's function. A cancellation that came before it began ends it here.
    fn body<'py>(
        &self,
        py: Python<'py>,
        task: &ExecTask,
        callable: &Callable,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> Ended<'py> {
        let _body = context::enter_body();
        if self.core.take_interrupt(task.task_id) {
            return Err(PyKeyboardInterrupt::new_err(())).into();
        }
        callable.call(py, self, args, kwargs).into()
    }

    /// What to call and with what. The references among the arguments live no longer than what is returned.
    pub fn prepare<'py>(&self, py: Python<'py>, task: &mut ExecTask) -> Result<(Callable, Call<'py>), Ended<'py>> {
        let own = |error| Ended::Raised {
            error,
            from_argument: false,
        };
        let values = taken(&mut task.args);
        let deps = std::mem::take(&mut task.deps);
        let (layout, names) = (&task.layout, &task.kwarg_names);
        let call = args::decode(py, &self.core, values, layout, names, deps, &task.dep_refs);
        let callable = self.callable(py, &task.callee).map_err(own)?;
        if !task.lease.gpu_ids.is_empty() {
            self.callbacks
                .set_gpus
                .call1(py, (task.lease.gpu_ids.clone(),))
                .map_err(own)?;
        }
        match call {
            Ok(call) => Ok((callable, call)),
            Err(BadArgs::Own(error) | BadArgs::Dependency(error)) => Err(Ended::Raised {
                error,
                from_argument: true,
            }),
        }
    }

    /// Encodes how a task ended and tells its caller.
    pub fn complete(&self, py: Python<'_>, task: Box<ExecTask>, ended: Ended<'_>) -> Option<Exit> {
        if self.core.is_forked() {
            return Some(self.end_forked_child(py, task, ended));
        }
        let value = match ended {
            Ended::Returned(value) => value,
            Ended::Raised { error, from_argument } => return self.fail(py, task, error, from_argument, Vec::new()),
        };
        let returns = match self.encode_returns(&task, &value) {
            Ok(returns) => returns,
            Err(NotAll { made, error }) => return self.fail(py, task, error, false, made),
        };
        if task.is_recorded()
            && let Err(error) = self.check_kept(&task, &returns)
        {
            returns.into_iter().for_each(|stored| self.core.abandon(stored));
            return self.fail(py, task, error, false, Vec::new());
        }
        drop(value);
        let exit = self.count_run(&task);
        self.core
            .finish(*task, TaskStatus::Finished, returns, String::new(), exit.is_some());
        exit.flatten()
    }

    /// User code forked, and this is the child, back from the function that only its parent is to answer for.
    fn end_forked_child(&self, py: Python<'_>, task: Box<ExecTask>, ended: Ended<'_>) -> Exit {
        let error = match ended {
            Ended::Returned(_) => None,
            Ended::Raised { error, .. } => Some(error.into_value(py)),
        };
        // The parent's memory is not given back from here.
        std::mem::forget(task);
        if let Err(error) = self.callbacks.end_forked_child.call1(py, (error,)) {
            error.write_unraisable(py, None);
        }
        Exit {
            graceful: false,
            code: 1,
            reason: "a forked child came back from its task".to_owned(),
        }
    }

    /// `max_calls`: `Some` when this was the last run, with the exit if the process need not stay for what it owns.
    fn count_run(&self, task: &ExecTask) -> Option<Option<Exit>> {
        let limit = task.callee.max_calls;
        if limit == 0 {
            return None;
        }
        match self.callees.find(&task.callee) {
            Some(Callable::Function(function)) if function.runs.fetch_add(1, Ordering::Relaxed) + 1 >= limit => {
                let reason = format!("{} ran max_calls={limit} times", task.callee.name);
                Some((!self.core.retire(&reason)).then(|| Exit::graceful(0, reason)))
            }
            _ => None,
        }
    }

    pub fn encode_returns(&self, task: &ExecTask, value: &Bound<'_, PyAny>) -> Result<Vec<StoredValue>, NotAll> {
        let name = &task.callee.name;
        let what = || format!("the result of {name}");
        match task.num_returns {
            DYNAMIC => Ok(vec![self.encode_dynamic(task, value)?]),
            1 if is_generator(value)? => {
                imports::CHECK_MEANT.get(value.py())?.call1((value, &**name))?;
                self.encode_items(name, 1, value)
            }
            1 => Ok(vec![pickle::encode(&self.core, value, what)?]),
            0 => {
                if !value.is_none() {
                    self.callbacks.warn_return_ignored.call1(value.py(), (&**name,))?;
                }
                Ok(Vec::new())
            }
            expected if value.hasattr("__next__")? => self.encode_items(name, expected as usize, value),
            expected => {
                let count = value.len()?;
                if count != expected as usize {
                    return Err(wrong_count(count, expected as usize).into());
                }
                let mut returns = Vec::with_capacity(count);
                for item in value.try_iter()? {
                    match item.and_then(|item| pickle::encode(&self.core, &item, what)) {
                        Ok(stored) => returns.push(stored),
                        Err(error) => {
                            returns.into_iter().for_each(|stored| self.core.abandon(stored));
                            return Err(error.into());
                        }
                    }
                }
                Ok(returns)
            }
        }
    }

    /// A reference to each item, in one value. An error after which the task does not run again is the last of them.
    fn encode_dynamic(&self, task: &ExecTask, items: &Bound<'_, PyAny>) -> PyResult<StoredValue> {
        let (py, name) = (items.py(), &task.callee.name);
        let (collected, error): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
            imports::COLLECT.get(py)?.call1((items,))?.extract()?;
        if !error.is_none() {
            let error = PyErr::from_value(error);
            if self.is_retryable(py, task, &error) {
                return Err(error);
            }
            let mut made = self.encode_error(py, name, error, false, 1);
            let stored = made.pop().expect("one was asked for");
            let reference = ObjectRef::wrap(py, &self.core, self.core.put(stored, None))?;
            collected.call_method1("_append", (reference,))?;
        }
        pickle::encode(&self.core, &collected, || format!("the result of {name}"))
    }

    /// A generator with a fixed number of returns: what it has yielded stays, whatever it does afterwards.
    fn encode_items(&self, name: &str, expected: usize, items: &Bound<'_, PyAny>) -> Result<Vec<StoredValue>, NotAll> {
        let what = || format!("the result of {name}");
        let mut made = Vec::with_capacity(expected);
        for item in items.try_iter()? {
            if made.len() == expected {
                // Every return has its value; also an error can only be told.
                let error = item.err();
                self.callbacks
                    .warn_items_ignored
                    .call1(items.py(), (name, expected, error))?;
                return Ok(made);
            }
            match item.and_then(|item| pickle::encode(&self.core, &item, what)) {
                Ok(stored) => made.push(stored),
                Err(error) => return Err(NotAll { made, error }),
            }
        }
        match made.len() == expected {
            true => Ok(made),
            false => Err(NotAll {
                error: wrong_count(made.len(), expected),
                made,
            }),
        }
    }

    /// `made`: values of the first returns, which stay.
    fn fail(
        &self,
        py: Python<'_>,
        task: Box<ExecTask>,
        error: PyErr,
        from_argument: bool,
        mut made: Vec<StoredValue>,
    ) -> Option<Exit> {
        if let Some(exit) = self.exit_of_error(py, &error) {
            made.into_iter().for_each(|stored| self.core.abandon(stored));
            if exit.code == 0 && self.hosted.get().is_some() {
                self.settle_calls(py);
                py.detach(|| self.core.actor_exiting(exit.reason.clone()));
                let text = exit.reason.clone();
                self.core.finish(*task, TaskStatus::ActorExited, Vec::new(), text, true);
            }
            // Else nobody is told: the caller learns of the process's end, as of any other.
            return Some(exit);
        }
        let error = self.as_cancellation(py, &task, error);
        let status = match !from_argument && self.is_retryable(py, &task, &error) {
            true => TaskStatus::FailedRetryable,
            false => TaskStatus::Failed,
        };
        let text = error.to_string();
        let all = if task.num_returns == DYNAMIC {
            1
        } else {
            task.num_returns
        };
        let left = all - made.len() as u32;
        made.extend(self.encode_error(py, &task.callee.name, error, from_argument, left));
        let returns = made;
        let exit = self.count_run(&task);
        self.core.finish(*task, status, returns, text, exit.is_some());
        exit.flatten()
    }

    fn is_retryable(&self, py: Python<'_>, task: &ExecTask, error: &PyErr) -> bool {
        match &*task.callee.retry_exceptions {
            [] => false,
            [1] => error.is_instance_of::<pyo3::exceptions::PyException>(py),
            classes => {
                let answer = self
                    .callbacks
                    .should_retry
                    .call1(py, (PyBytes::new(py, classes), error.value(py)));
                answer.and_then(|answer| answer.is_truthy(py)).unwrap_or(false)
            }
        }
    }

    /// The end of the process that some errors stand for.
    pub fn exit_of_error(&self, py: Python<'_>, error: &PyErr) -> Option<Exit> {
        if self.hosted.get().is_some() && error.matches(py, self.callbacks.actor_exit.bind(py)).unwrap_or(false) {
            return Some(Exit::graceful(0, "exit_actor() was called."));
        }
        if !error.is_instance_of::<PySystemExit>(py) {
            return None;
        }
        let code = error.value(py).getattr("code").ok()?;
        let number = if code.is_none() {
            0
        } else {
            code.extract::<i32>().unwrap_or(1)
        };
        Some(Exit::graceful(number, format!("sys.exit({number}) was called.")))
    }

    /// The pickled error, once for each return.
    pub fn encode_error(
        &self,
        py: Python<'_>,
        name: &str,
        error: PyErr,
        from_argument: bool,
        count: u32,
    ) -> Vec<StoredValue> {
        let made = reftable::collecting(&self.core, || self.error_bytes(py, name, error, from_argument));
        let (bytes, refs) = made.unwrap_or_else(|error| (unspeakable(py, &error), SmallVec::new()));
        let copy = |_| {
            refs.iter().for_each(|slot| self.core.add_ref(*slot));
            pickle::store(py, &self.core, ValueKind::Error, &bytes, &[], refs.clone())
        };
        // An error too large for the store leaves a smaller one.
        let small = |error: PyErr| StoredValue {
            kind: ValueKind::Error,
            data: ray_rs_core_worker::ValueData::Inline(unspeakable(py, &error).into()),
            refs: SmallVec::new(),
        };
        let returns = (0..count).map(|index| copy(index).unwrap_or_else(small)).collect();
        reftable::drop_all(&self.core, refs);
        returns
    }

    pub fn error_bytes(&self, py: Python<'_>, name: &str, error: PyErr, from_argument: bool) -> PyResult<Vec<u8>> {
        let exception = error.into_value(py);
        self.callbacks
            .make_error
            .call1(py, (exception, name, from_argument))?
            .extract(py)
    }
}

/// Why not every return has a value.
pub struct NotAll {
    /// Of the first returns.
    pub made: Vec<StoredValue>,
    pub error: PyErr,
}

impl From<PyErr> for NotAll {
    fn from(error: PyErr) -> Self {
        let made = Vec::new();
        Self { made, error }
    }
}

fn wrong_count(count: usize, expected: usize) -> PyErr {
    PyValueError::new_err(format!("Task returned {count} objects, but num_returns={expected}."))
}

/// Whether it is a generator of either kind.
fn is_generator(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let (py, kind) = (value.py(), value.get_type());
    Ok(kind.is(imports::GENERATOR_TYPE.get(py)?) || kind.is(imports::ASYNC_GENERATOR_TYPE.get(py)?))
}

/// A pickled `RuntimeError`, for errors that even `make_error` could not put into bytes.
fn unspeakable(py: Python<'_>, error: &PyErr) -> Vec<u8> {
    let text = format!("a task failed, and its error could not be pickled: {error}");
    let exception = pyo3::exceptions::PyRuntimeError::new_err(text).into_value(py);
    let stream = imports::PICKLE_DUMPS
        .get(py)
        .and_then(|dumps| dumps.call1((exception, 5))?.extract());
    stream.unwrap_or_default()
}
