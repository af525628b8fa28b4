//! Events of a trace as Python's dicts. There are hundreds of thousands, so their keys and constants are made once.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use pyo3::{IntoPyObjectExt, intern};
use ray_rs_core_worker::{TraceEvent, TracedTask};

use crate::describe::hex;

macro_rules! event {
    ($py:expr, $($name:literal: $value:expr),* $(,)?) => {{
        let dict = PyDict::new($py);
        $(dict.set_item(intern!($py, $name), $value)?;)*
        dict
    }};
}

pub fn event_list<'py>(py: Python<'py>, events: &[TraceEvent<'_>]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    // Of the task before: the same function's name, and the same job's id.
    let (mut name, mut job) = (PyString::new(py, ""), PyString::new(py, ""));
    let mut about = PyDict::new(py);
    for event in events {
        match event {
            TraceEvent::Worker(node, pid) => list.append(event!(py,
                "name": intern!(py, "thread_name"),
                "ph": intern!(py, "M"),
                "pid": node,
                "tid": pid,
                "args": event!(py, "name": format!("worker {pid}")),
            ))?,
            TraceEvent::Ran(task) => {
                keep(&mut name, &task.row.name)?;
                keep(&mut job, &hex(&task.row.job_id))?;
                about = about_of(task, &job)?;
                list.append(event!(py,
                    "name": &name,
                    "pid": task.node,
                    "tid": task.pid,
                    "cat": intern!(py, "task:execution"),
                    "ph": intern!(py, "X"),
                    "ts": task.start_us,
                    "dur": task.took_us(),
                    "cname": PyString::intern(py, task.colour()),
                    "args": &about,
                ))?;
            }
            TraceEvent::Waited(task, since) => {
                let id = task.id().into_bound_py_any(py)?;
                let waiting = |phase: &Bound<'py, PyString>, at: u64, about: &Bound<'py, PyDict>| {
                    PyResult::Ok(event!(py,
                        "name": &name,
                        "pid": task.node,
                        "tid": task.pid,
                        "cat": intern!(py, "task:queued"),
                        "id": &id,
                        "ph": phase,
                        "ts": at,
                        "args": about,
                    ))
                };
                list.append(waiting(intern!(py, "b"), *since, &about)?)?;
                list.append(waiting(intern!(py, "e"), task.start_us, &PyDict::new(py))?)?;
            }
        }
    }
    Ok(list)
}

/// A new string only for another text.
fn keep(known: &mut Bound<'_, PyString>, text: &str) -> PyResult<()> {
    if known.to_str()? != text {
        *known = PyString::new(known.py(), text);
    }
    Ok(())
}

fn about_of<'py>(task: &TracedTask<'_>, job: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyDict>> {
    let py = job.py();
    let about = event!(py,
        "task_id": task.row.task_id.hex(),
        "attempt": task.row.attempt,
        "job_id": job,
        "state": PyString::intern(py, task.row.state),
    );
    if !task.row.actor_id.is_empty() {
        about.set_item(intern!(py, "actor_id"), hex(&task.row.actor_id))?;
    }
    Ok(about)
}
