//! What the processes of the node say of themselves, as plain Python values.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use ray_rs_core_worker::{Subject, v1};
use ray_rs_types::{ActorId, ObjectId, TaskId};

use pyo3::exceptions::{PyTypeError, PyValueError};

use crate::control::{resource_dict, stored_object_list};
use crate::ids::{PyActorId, PyTaskId};
use crate::object_ref::ObjectRef;
use crate::{core, gil, stream};

/// Ray's words for `UnfinishedTask.state`.
const STATES: [&str; 5] = [
    "NIL",
    "PENDING_ARGS_AVAIL",
    "PENDING_NODE_ASSIGNMENT",
    "SUBMITTED_TO_WORKER",
    "RUNNING",
];
const KINDS: [&str; 5] = [
    "",
    "NORMAL_TASK",
    "ACTOR_CREATION_TASK",
    "ACTOR_TASK",
    "PLACEMENT_GROUP",
];
const PLACES: [&str; 5] = ["pending", "none", "inline", "arena", "error"];
const MOVES: [&str; 4] = ["", "spill", "restore", "fetch"];
const CONNECTIONS: [&str; 4] = ["unresolved", "connected", "restarting", "dead"];

fn word(words: &[&'static str], index: u32) -> &'static str {
    words.get(index as usize).copied().unwrap_or("")
}

pub fn state_word(state: u32) -> &'static str {
    word(&STATES, state)
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The bytes of an id in hexadecimal digits; `None` when there are none.
pub fn id(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| hex(bytes))
}

/// A dict of what is named.
macro_rules! dict {
    ($py:expr, $($name:literal: $value:expr),* $(,)?) => {{
        let dict = PyDict::new($py);
        $(dict.set_item($name, $value)?;)*
        dict
    }};
}
pub(crate) use dict;

fn address<'py>(py: Python<'py>, address: Option<&v1::WorkerAddress>) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(address) = address else { return Ok(None) };
    Ok(Some(dict!(py,
        "node_id": hex(&address.node_id),
        "worker_id": hex(&address.worker_id),
        "pid": address.pid,
    )))
}

pub fn list<'py, Row>(
    py: Python<'py>,
    rows: &[Row],
    row: impl Fn(Python<'py>, &Row) -> PyResult<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for one in rows {
        list.append(row(py, one)?)?;
    }
    Ok(list)
}

fn ids(ids: &[Vec<u8>]) -> Vec<String> {
    ids.iter().map(|id| hex(id)).collect()
}

/// Asks every process of every node what it is about, and waits at most a few seconds.
///
/// `tasks`, `objects`, `waiting`, `stored`: which parts. `first`: ids (in hexadecimal digits) whose rows come before others when a
/// process has more rows than `limit`.
#[pyfunction]
#[pyo3(signature = (*, tasks=true, objects=false, waiting=false, stored=false, limit=0, first=Vec::new()))]
pub fn describe_processes<'py>(
    py: Python<'py>,
    tasks: bool,
    objects: bool,
    waiting: bool,
    stored: bool,
    limit: u32,
    first: Vec<String>,
) -> PyResult<Bound<'py, PyDict>> {
    let core = core::connected(py)?;
    let parts = u32::from(tasks) | u32::from(objects) << 1 | u32::from(waiting) << 2 | u32::from(stored) << 5;
    let first = first.iter().filter_map(|text| bytes_of(text)).collect();
    let reply = gil::wait_for(py, |interrupt| core.descriptions(parts, limit, first, interrupt))?;
    descriptions(py, &reply)
}

pub fn descriptions<'py>(py: Python<'py>, reply: &v1::Descriptions) -> PyResult<Bound<'py, PyDict>> {
    let silent = PyList::empty(py);
    for one in &reply.silent {
        silent.append(address(py, Some(one))?)?;
    }
    Ok(dict!(py,
        "processes": list(py, &reply.processes, process)?,
        "silent": silent,
        "silent_nodes": ids(&reply.silent_nodes),
        "waiting": list(py, &reply.waiting, |py, row| Ok(dict!(py,
            "worker_id": id(&row.worker_id),
            "class": row.class,
            "actor_id": id(&row.actor_id),
            "name": &row.name,
            "why": &row.why,
            "infeasible": row.infeasible,
            "resources": resource_dict(py, &row.resources.as_ref().map(Into::into).unwrap_or_default())?,
        )))?,
        "environments": list(py, &reply.environments, |py, row| Ok(dict!(py,
            "node_id": hex(&row.node_id),
            "job_id": id(&row.job_id),
            "text": &row.text,
            "state": row.state,
            "since_us": row.since_us,
            "workers": row.workers,
            "error": &row.error,
        )))?,
        "moves": list(py, &reply.moves, |py, row| Ok(dict!(py,
            "node_id": hex(&row.node_id),
            "kind": word(&MOVES, row.kind),
            "start_us": row.start_us,
            "end_us": row.end_us,
            "bytes": row.bytes,
            "objects": row.objects,
            "failed": row.failed,
            "from_node": id(&row.from_node),
        )))?,
        "stores": list(py, &reply.stores, |py, store| Ok(dict!(py,
            "node_id": hex(&store.node_id),
            "objects": stored_object_list(py, &store.objects)?,
        )))?,
    ))
}

/// Why something is not there yet, and why what it waits for is not; or where it is.
///
/// Asks all processes of all nodes, and answers also while they are busy.
///
/// Args:
///     target: A reference, a generator, an actor's handle, a TaskID, an ActorID, or the hexadecimal digits of an id.
///
/// Returns:
///     Text, a line for each step: what the task runs on since when, which argument it waits for, what is before it in
///     its actor's queue, which resources are missing.
///
/// Raises:
///     TypeError: It is none of these.
///     ValueError: The digits are no id.
///
/// Example:
///     >>> print(ray.why(ref))
#[pyfunction]
pub fn why(py: Python<'_>, target: &Bound<'_, PyAny>) -> PyResult<String> {
    let subject = subject(target)?;
    let core = core::connected(py)?;
    gil::wait_for(py, |interrupt| core.why(subject, interrupt))
}

fn subject(target: &Bound<'_, PyAny>) -> PyResult<Subject> {
    if let Ok(reference) = target.cast_exact::<ObjectRef>() {
        return Ok(Subject::Object(reference.get().id()));
    }
    if let Ok(task) = target.cast_exact::<PyTaskId>() {
        return Ok(Subject::Task(task.get().0));
    }
    if let Ok(actor) = target.cast_exact::<PyActorId>() {
        return Ok(Subject::Actor(actor.get().0));
    }
    if let Ok(digits) = target.extract::<&str>() {
        return subject_of_digits(digits);
    }
    if stream::is_generator(target)? {
        return subject(&target.getattr("_ray_waitable")?);
    }
    if let Ok(actor) = target.getattr("_actor_id") {
        return subject(&actor);
    }
    Err(PyTypeError::new_err(format!(
        "why() takes an ObjectRef, a generator, an actor's handle, a TaskID, an ActorID, or the hexadecimal digits of an \
         id, not {}",
        target.get_type()
    )))
}

pub fn subject_of_digits(digits: &str) -> PyResult<Subject> {
    let object = ObjectId::from_hex(digits).map(Subject::Object);
    let task = || TaskId::from_hex(digits).map(Subject::Task);
    let actor = || ActorId::from_hex(digits).map(Subject::Actor);
    object.or_else(task).or_else(actor).ok_or_else(|| {
        PyValueError::new_err(format!(
            "{digits:?} is no id: an object's has 56 hexadecimal digits, a task's 48, an actor's 32"
        ))
    })
}

pub fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks_exact(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    });
    digits.len().is_multiple_of(2).then(|| pairs.collect())?
}

fn process<'py>(py: Python<'py>, process: &v1::Description) -> PyResult<Bound<'py, PyDict>> {
    let actor = match &process.actor {
        None => None,
        Some(actor) => {
            let groups = PyDict::new(py);
            for group in &actor.groups {
                groups.set_item(&group.name, group.limit)?;
            }
            Some(dict!(py,
                "actor_id": hex(&actor.actor_id),
                "class_name": &actor.class_name,
                "max_concurrency": actor.max_concurrency,
                "groups": groups,
                "is_async": actor.is_async,
                "constructing_since_us": actor.constructing_since_us,
                "queued": actor.queued,
            ))
        }
    };
    Ok(dict!(py,
        "process": address(py, process.process.as_ref())?,
        "job_id": hex(&process.job_id),
        "is_driver": process.is_driver,
        "actor": actor,
        "tasks": list(py, &process.tasks, task)?,
        "total_tasks": process.total_tasks,
        "executing": list(py, &process.executing, executing)?,
        "waits": list(py, &process.waits, wait)?,
        "total_waits": process.total_waits,
        "actors": list(py, &process.actors, |py, row| Ok(dict!(py,
            "actor_id": hex(&row.actor_id),
            "connection": word(&CONNECTIONS, row.connection),
            "pending": row.pending,
            "in_flight": row.in_flight,
            "pid": row.pid,
        )))?,
        "objects": list(py, &process.objects, object)?,
        "total_objects": process.total_objects,
        "extent_bytes": process.extent_bytes,
        "block_bytes": process.block_bytes,
    ))
}

fn task<'py>(py: Python<'py>, row: &v1::UnfinishedTask) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py,
        "task_id": hex(&row.task_id),
        "name": &row.name,
        "state": word(&STATES, row.state),
        "type": word(&KINDS, row.kind),
        "attempt_number": row.attempt,
        "actor_id": id(&row.actor_id),
        "parent_task_id": id(&row.parent),
        "worker": address(py, row.worker.as_ref())?,
        "submitted_us": row.submitted_us,
        "missing": ids(&row.missing),
        "behind": id(&row.behind),
        "class": row.class,
        "why": &row.why,
        "cancelled": row.cancelled,
        "unlisted": row.unlisted,
    ))
}

fn executing<'py>(py: Python<'py>, row: &v1::ExecutingTask) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py,
        "task_id": hex(&row.task_id),
        "name": &row.name,
        "started_us": row.started_us,
        "caller": address(py, row.caller.as_ref())?,
        "group": &row.group,
    ))
}

fn wait<'py>(py: Python<'py>, row: &v1::BlockedThread) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py,
        "serial": row.serial,
        "since_us": row.since_us,
        "missing": ids(&row.missing),
        "total_missing": row.total_missing,
        "has_timeout": row.has_timeout,
        "remaining": row.remaining,
        "all_of": row.all_of,
        "task_id": id(&row.task_id),
        "is_constructor": row.is_constructor,
        "is_await": row.is_await,
    ))
}

fn object<'py>(py: Python<'py>, row: &v1::KnownObject) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py,
        "object_id": hex(&row.object_id),
        "size": row.size,
        "place": word(&PLACES, row.place),
        "offset": row.offset,
        "generation": row.generation,
        "node_id": hex(&row.node_id),
        "is_actor_handle": row.is_actor_handle,
        "owner": address(py, row.owner.as_ref())?,
        "local": row.local,
        "submitted": row.submitted,
        "contained": row.contained,
        "borrowers": row.borrowers,
        "pinned": row.pinned,
        "site": &row.site,
        "task_state": word(&STATES, row.task_state),
        "attempt_number": row.attempt,
    ))
}
