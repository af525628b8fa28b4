//! Spans of OpenTelemetry around calls and what they call, once a hook of the user's has switched them on
//! (`python/ray_rs/_tracing.py` makes them). Off, which is nearly always, a call costs one load of a flag.
//!
//! A span's context travels among the call's keyword arguments, as in Ray, and is taken out before the function sees
//! them: also where nothing is traced, since the caller may be of another job than the process that it calls.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::imports;

static ON: AtomicBool = AtomicBool::new(false);

pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Whether calls of this process, and what it executes, are traced from now on.
#[pyfunction]
pub fn set_tracing(on: bool) {
    ON.store(on, Ordering::Relaxed);
}

#[pyfunction]
pub fn is_tracing() -> bool {
    is_on()
}

/// What is called, as spans name it.
pub struct Called<'a> {
    /// Empty: it is a function, of the name `name`.
    pub class: &'a str,
    pub name: &'a str,
    /// Hex of the actor; empty when there is none yet.
    pub actor_id: String,
}

/// Submits inside a span of its own, whose context is among the keyword arguments that `submit` gets.
#[cold]
pub fn submitting<'py, T>(
    py: Python<'py>,
    called: Called<'_>,
    kwargs: Option<&Bound<'py, PyDict>>,
    submit: impl FnOnce(&Bound<'py, PyDict>) -> PyResult<T>,
) -> PyResult<T> {
    let span = imports::BEGIN_SUBMISSION
        .get(py)?
        .call1((called.class, called.name, called.actor_id))?;
    let with_context = PyDict::new(py);
    if let Some(kwargs) = kwargs {
        with_context.update(kwargs.as_mapping())?;
    }
    with_context.set_item(intern!(py, "_ray_trace_ctx"), span.getattr("carrier")?)?;
    let outcome = submit(&with_context);
    let error = outcome.as_ref().err().map(|error| error.value(py).clone());
    span.call_method1("end", (error,))?;
    outcome
}

/// Takes the caller's context out of the arguments.
pub fn taken_from<'py>(kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(kwargs) = kwargs else { return Ok(None) };
    let name = intern!(kwargs.py(), "_ray_trace_ctx");
    let carrier = kwargs.get_item(name)?;
    if carrier.is_some() {
        kwargs.del_item(name)?;
    }
    Ok(carrier)
}

/// Calls inside a span that continues the caller's. `class`: empty for functions.
#[cold]
pub fn executing<'py>(
    target: &Bound<'py, PyAny>,
    (class, name): (&str, &str),
    carrier: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyAny>> {
    imports::EXECUTE_IN_SPAN
        .get(target.py())?
        .call1((target, class, name, carrier, args, kwargs))
}
