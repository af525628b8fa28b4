//! Durable actors in their process: how one begins, its checkpoints, and what its calls may take and give.

use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use ray_rs_core_worker::{
    ActorStart, CoreError, Durability, ExecTask, MAX_CALL_BYTES, MAX_STATE_BYTES, ReadValue, Replay, StoredValue,
    ValueData,
};

use super::run::Ended;
use super::{Executor, Exit, context};
use crate::args::{self, BadArgs};
use crate::{errors, gil};

impl Executor {
    /// The actor as it was, or made for the first time: then that is stored before anybody can call it.
    pub fn construct_durable(
        &self,
        py: Python<'_>,
        mut start: ActorStart,
        durability: Durability,
        info: &Bound<'_, PyDict>,
    ) -> Result<(), BadArgs> {
        let (actor, incarnation) = (start.actor_id, start.incarnation);
        let history = gil::wait_for(py, |interrupt| self.core.call_history(actor, incarnation, interrupt));
        let history = history.map_err(BadArgs::Own)?;
        let class = self.load_class(py, &start).map_err(BadArgs::Own)?;
        let values = std::mem::replace(&mut start.args, ReadValue::empty());
        let deps = std::mem::take(&mut start.deps);
        let (layout, names) = (&start.layout, &start.kwarg_names);
        let state = history.state.as_ref().map(|state| PyBytes::new(py, state));
        let is_called = match &state {
            None => true,
            Some(_) => class.hasattr(intern!(py, "__ray_restore__")).map_err(BadArgs::Own)?,
        };
        let call = if is_called {
            let (args, kwargs) = args::decode(py, &self.core, values, layout, names, deps, &start.dep_refs)?;
            (args, kwargs.unwrap_or_else(|| PyDict::new(py)))
        } else {
            // Its constructor ran in an earlier process, and what it was given may be gone.
            let refs = deps.iter().chain([&values]).flat_map(|value| &value.refs);
            refs.for_each(|slot| self.core.drop_ref(*slot));
            (PyTuple::empty(py), PyDict::new(py))
        };
        let is_new = state.is_none();
        let made = match state {
            None => self.callbacks.start_actor.call1(py, (class, call.0, call.1, info)),
            Some(state) => self
                .callbacks
                .restore_actor
                .call1(py, (class, call.0, call.1, info, state)),
        };
        let hosted = self.hosted.get().expect("set before anything is constructed");
        let _ = hosted.instance.set(py, made.map_err(BadArgs::Own)?);
        let records = self.core.begin_calls((actor, incarnation), durability, history);
        if is_new {
            return self.store_first(py).map_err(BadArgs::Own);
        }
        for record in &records {
            self.replay(py, record).map_err(BadArgs::Own)?;
        }
        Ok(())
    }

    fn store_first(&self, py: Python<'_>) -> PyResult<()> {
        let state = self.saved_state(py)?;
        if state.len() > MAX_STATE_BYTES {
            return Err(PyValueError::new_err(format!(
                "The state of the durable actor has {} bytes, and no more than {MAX_STATE_BYTES} are stored.",
                state.len()
            )));
        }
        py.detach(|| self.core.checkpoint_taken(Ok(state)));
        let stored = gil::wait_for(py, |interrupt| self.core.settle_calls(None, interrupt))?;
        if stored {
            return Ok(());
        }
        let refused = CoreError::Gcs("the control store does not take the state of this actor".to_owned());
        Err(errors::from_core(py, refused))
    }

    fn replay(&self, py: Python<'_>, record: &Bytes) -> PyResult<()> {
        let mut replay: Replay = (self.core.replay(record)).map_err(|error| errors::from_core(py, error))?;
        let mut task = replay.task.take();
        if let Some(task) = &mut task {
            let _running = context::enter(task);
            // How it ends is known: what it raises, it raised when its caller was told.
            if let Ok((callable, (args, kwargs))) = self.prepare(py, task)
                && let Ok(value) = callable.call(py, self, &args, kwargs.as_ref())
            {
                // A generator that it made runs when the result is taken.
                for value in self.encode_returns(task, &value).unwrap_or_else(|failed| failed.made) {
                    self.core.abandon(value);
                }
            }
        }
        self.core.replayed(replay, task);
        Ok(())
    }

    fn saved_state(&self, py: Python<'_>) -> PyResult<Bytes> {
        let saved = self.callbacks.save_actor.call1(py, (self.instance(py)?,))?;
        Ok(Bytes::copy_from_slice(saved.bind(py).cast::<PyBytes>()?.as_bytes()))
    }

    /// Between two calls. An exit, if what was done cannot be kept.
    pub fn take_checkpoint(&self, py: Python<'_>) -> Option<Exit> {
        let saved = self.saved_state(py);
        if let Err(error) = &saved {
            error.print(py);
        }
        let saved = saved.map_err(|error| error.to_string());
        let ends = py.detach(|| self.core.checkpoint_taken(saved));
        ends.then(|| Exit {
            graceful: false,
            code: 1,
            reason: "the state of the durable actor could not be saved".to_owned(),
        })
    }

    /// Before the process ends in order: what was executed is stored, and answered.
    pub fn settle_calls(&self, py: Python<'_>) {
        gil::wait_raw(py, |interrupt| self.core.settle_before_end(interrupt));
    }

    /// Keeps the arguments of a durable actor's call. An error, and the method is not to be called.
    pub fn keep_arguments<'py>(&self, py: Python<'py>, task: &mut ExecTask) -> Result<(), Ended<'py>> {
        let raised = |error, from_argument| Ended::Raised { error, from_argument };
        let core = Arc::clone(&self.core);
        let kept = gil::wait_for(py, |interrupt| core.record_arguments(task, interrupt));
        match kept.map_err(|error| raised(error, true))? {
            None => Ok(()),
            Some(why) => {
                let text = format!("{} was not called: {why}", task.callee.name);
                Err(raised(PyValueError::new_err(text), false))
            }
        }
    }

    /// What a durable actor's method gives is kept with the call.
    pub fn check_kept(&self, task: &ExecTask, returns: &[StoredValue]) -> PyResult<()> {
        let length = |value: &StoredValue| match &value.data {
            ValueData::Inline(bytes) => bytes.len() as u64,
            ValueData::Arena(location) => location.length,
            ValueData::Empty | ValueData::Failed(_) => 0,
        };
        let bytes: u64 = returns.iter().map(length).sum();
        let name = &task.callee.name;
        let why = if returns.iter().any(|value| !value.refs.is_empty()) {
            "has an ObjectRef or an actor handle inside, which might not outlive the actor's process. Return the value itself, \
             or the name of the actor"
                .to_owned()
        } else if bytes > MAX_CALL_BYTES as u64 {
            format!("has {bytes} bytes, and of a durable actor's call no more than {MAX_CALL_BYTES} are kept")
        } else {
            return Ok(());
        };
        Err(PyValueError::new_err(format!(
            "{name} was called, and the state of its durable actor is what the call made of it; but its result {why}."
        )))
    }
}
