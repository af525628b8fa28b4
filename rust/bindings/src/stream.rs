//! Generators: the consumer's end, on which `ray_rs._generator` builds `ObjectRefGenerator`, and the producer's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyIterator;
use ray_rs_core_worker::{CoreWorker, DYNAMIC, ExecTask, NextItem, STREAMING, WaitOutcome};

use crate::executor::run::Ended;
use crate::executor::{Executor, context};
use crate::object_ref::{Counted, ObjectRef};
use crate::{core, errors, gil, imports, pickle};

/// What the caller of a generator holds: dropping it drops what was not taken.
#[pyclass(frozen, module = "ray_rs._core")]
pub struct Stream {
    core: Arc<CoreWorker>,
    number: u64,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.core.drop_stream(self.number);
    }
}

#[pymethods]
impl Stream {
    /// The next item's reference, or `None` after the last. Waits until there is one or the other.
    #[pyo3(signature = (timeout=None))]
    fn next(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<ObjectRef>>> {
        if !core::is_current(&self.core) {
            return Err(errors::old_reference(py));
        }
        let limit = timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            let promise = match self.core.next_item(self.number) {
                NextItem::End => return Ok(None),
                NextItem::Item(slot) => return ObjectRef::wrap(py, &self.core, slot).map(Some),
                NextItem::Wait(slot) => Counted::new(&self.core, slot),
            };
            context::warn_if_blocking_a_loop(py)?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let (core, slot) = (&self.core, promise.slot);
            match gil::wait(py, |interrupt| core.wait(&[slot], 1, left, false, interrupt))? {
                WaitOutcome::Satisfied => {}
                WaitOutcome::TimedOut => return Err(errors::get_timeout(py)),
                WaitOutcome::Interrupted => return Err(PyKeyboardInterrupt::new_err(())),
                WaitOutcome::Deadlocked(why) => return Err(errors::deadlock(py, why)),
                WaitOutcome::Disconnected => return Err(errors::disconnected(py, core)),
            }
        }
    }

    /// A reference that is ready as soon as `next` does not wait. Its value is the next item's, or of no meaning.
    fn peek(&self, py: Python<'_>) -> PyResult<Py<ObjectRef>> {
        match self.core.peek_item(self.number) {
            Some(slot) => ObjectRef::wrap(py, &self.core, slot),
            None => Err(errors::old_reference(py)),
        }
    }

    /// Whether every item was taken, and no more come.
    fn is_over(&self) -> bool {
        self.core.is_stream_over(self.number)
    }
}

/// What a call of a generator gives.
pub fn wrap<'py>(py: Python<'py>, core: &Arc<CoreWorker>, end: Py<ObjectRef>) -> PyResult<Bound<'py, PyAny>> {
    let number = {
        let end = end.get();
        let slot = end.slot_in(core).expect("it was made a moment ago");
        core.object_id(slot).task_id().unique()
    };
    let stream = Stream {
        core: Arc::clone(core),
        number,
    };
    imports::OBJECT_REF_GENERATOR.get(py)?.call1((end, stream))
}

/// Whether it is an `ObjectRefGenerator`.
pub fn is_generator(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.is_instance(imports::OBJECT_REF_GENERATOR.get(value.py())?)
}

/// Number of returns as Python gives it: -1 is a stream, -2 the items in one value.
pub fn num_returns(given: i64) -> u32 {
    match given {
        -2 => DYNAMIC,
        _ => u32::try_from(given).unwrap_or(STREAMING),
    }
}

/// The same as Ray's code reads it: the words for generators, else how many.
pub fn told_returns(py: Python<'_>, num_returns: u32) -> PyResult<Bound<'_, PyAny>> {
    Ok(match num_returns {
        STREAMING => "streaming".into_pyobject(py)?.into_any(),
        DYNAMIC => "dynamic".into_pyobject(py)?.into_any(),
        count => count.into_pyobject(py)?.into_any(),
    })
}

impl Executor {
    /// Sends what a generator yields, as it comes.
    pub fn stream<'py>(&self, py: Python<'py>, task: &ExecTask, limit: u32, made: &Bound<'py, PyAny>) -> Ended<'py> {
        self.send_items(py, task, limit, made)
            .map(|()| py.None().into_bound(py))
            .into()
    }

    fn send_items(&self, py: Python<'_>, task: &ExecTask, limit: u32, made: &Bound<'_, PyAny>) -> PyResult<()> {
        let iterator = match made.hasattr("__anext__")? {
            // Of a plain task: there is no loop yet.
            true => imports::ITERATE_ASYNC.get(py)?.call1((made,))?.try_iter()?,
            false => made.try_iter()?,
        };
        let mut produced = 0;
        while let Some(item) = self.next_yielded(task, &iterator)? {
            self.send_item(py, task, produced, &item)?;
            drop(item);
            produced += 1;
            if limit > 0 {
                let core = &self.core;
                gil::wait(py, |interrupt| core.await_consumer(task, produced, limit, interrupt))?;
            }
        }
        Ok(())
    }

    fn next_yielded<'py>(
        &self,
        task: &ExecTask,
        iterator: &Bound<'py, PyIterator>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let _body = context::enter_body();
        if self.core.take_interrupt(task.task_id) {
            return Err(PyKeyboardInterrupt::new_err(()));
        }
        iterator.clone().next().transpose()
    }

    pub fn send_item(&self, py: Python<'_>, task: &ExecTask, index: u32, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let name = &task.callee.name;
        let stored = pickle::encode(&self.core, item, || format!("item {index} of {name}"))?;
        py.detach(|| self.core.report_item(task, index, stored));
        Ok(())
    }
}
