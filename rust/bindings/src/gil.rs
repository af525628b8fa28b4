//! Waiting without the GIL, so that Ctrl-C still works.

use pyo3::prelude::*;
use ray_rs_core_worker::CoreError;

use crate::errors;

/// Runs something that may block, without the GIL. It polls the closure that it is given (at least every 50 ms) and
/// stops when that returns true: then a signal handler of Python has raised, and that is the second thing returned.
pub fn wait_raw<R: Send>(
    py: Python<'_>,
    body: impl FnOnce(&mut dyn FnMut() -> bool) -> R + Send,
) -> (R, Option<PyErr>) {
    let mut raised = None;
    let result = py.detach(|| {
        let mut interrupt = || {
            // Python runs signal handlers on its main thread only; others need not bother the GIL.
            if rustix::thread::gettid() != rustix::process::getpid() {
                return false;
            }
            raised = Python::try_attach(|py| py.check_signals().err()).flatten();
            raised.is_some()
        };
        body(&mut interrupt)
    });
    (result, raised)
}

/// The same, raising what the handler raised.
pub fn wait<R: Send>(py: Python<'_>, body: impl FnOnce(&mut dyn FnMut() -> bool) -> R + Send) -> PyResult<R> {
    match wait_raw(py, body) {
        (_, Some(error)) => Err(error),
        (result, None) => Ok(result),
    }
}

/// The same for what may be refused.
pub fn wait_for<R: Send>(
    py: Python<'_>,
    body: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<R, CoreError> + Send,
) -> PyResult<R> {
    wait(py, body)?.map_err(|error| errors::from_core(py, error))
}

/// For calls that take an `interrupt` but do not block, with the GIL held.
pub fn never() -> bool {
    false
}
