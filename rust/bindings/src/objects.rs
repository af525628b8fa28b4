//! `get`, `put` and `wait`, as users call them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyKeyboardInterrupt, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyList, PyTuple};
use ray_rs_core_worker::{CoreWorker, Fetched, NotRead, Read, ReadData, RefSlot, ValueData, WaitOutcome};
use smallvec::SmallVec;

use crate::buffers::Copy;
use crate::executor::context;
use crate::object_ref::ObjectRef;
use crate::{core, errors, gil, pickle, sites, stream};

/// The Python value of what was read of `slot`, or the error that it holds.
pub fn decode_read<'py>(
    py: Python<'py>,
    core: &Arc<CoreWorker>,
    slot: RefSlot,
    read: Read,
) -> PyResult<Bound<'py, PyAny>> {
    decode_for(py, core, slot, read, Copy::No)
}

fn decode_for<'py>(
    py: Python<'py>,
    core: &Arc<CoreWorker>,
    slot: RefSlot,
    read: Read,
    copy: Copy,
) -> PyResult<Bound<'py, PyAny>> {
    match read {
        Read::Value(value) => pickle::decode_for(py, core, value, copy),
        Read::Failed(failure) => Err(errors::from_failure(py, failure, Some(core.object_id(slot)))),
    }
}

pub fn is_away(read: &Read) -> bool {
    matches!(read, Read::Value(value) if matches!(value.data, ReadData::Away(_)))
}

/// When a value must be here; the clock is looked at only if it is not.
fn deadline_of(read: &Read, timeout: Option<Duration>) -> Option<Instant> {
    timeout
        .filter(|_| is_away(read))
        .and_then(|timeout| Instant::now().checked_add(timeout))
}

/// As [`decode_read`]; an object that is on disk or elsewhere, or was lost and is made again (`None`: it is not ready any
/// more), is waited for until `deadline`.
fn decode_until<'py>(
    py: Python<'py>,
    core: &Arc<CoreWorker>,
    slot: RefSlot,
    read: Option<Read>,
    deadline: Option<Instant>,
    copy: Copy,
) -> PyResult<Bound<'py, PyAny>> {
    match read {
        Some(read) if !is_away(&read) => decode_for(py, core, slot, read, copy),
        read => {
            let whole = gil::wait(py, |interrupt| core.read_whole(slot, read, deadline, interrupt))?;
            let read = whole.map_err(|why| not_read(py, core, why))?;
            decode_for(py, core, slot, read, copy)
        }
    }
}

fn not_read(py: Python<'_>, core: &CoreWorker, why: NotRead) -> PyErr {
    match why {
        NotRead::Waited(WaitOutcome::TimedOut) => errors::get_timeout(py),
        NotRead::Waited(WaitOutcome::Interrupted) => PyKeyboardInterrupt::new_err(()),
        NotRead::Waited(WaitOutcome::Deadlocked(why)) => errors::deadlock(py, why),
        NotRead::Waited(WaitOutcome::Disconnected | WaitOutcome::Satisfied) => errors::disconnected(py, core),
        NotRead::Refused(error) => errors::from_core(py, error),
    }
}

/// What `get(copy=...)` may be.
fn which_copy(copy: Option<&Bound<'_, PyAny>>) -> PyResult<Copy> {
    match copy {
        None => Ok(Copy::No),
        Some(copy) if copy.is_none() => Ok(Copy::No),
        Some(copy) if copy.is_exact_instance_of::<PyBool>() => Ok(match copy.is_truthy()? {
            true => Copy::Full,
            false => Copy::No,
        }),
        Some(copy) if copy.extract::<&str>().is_ok_and(|word| word == "on_write") => Ok(Copy::OnWrite),
        Some(other) => Err(PyValueError::new_err(format!(
            "'copy' must be True, False or \"on_write\", not {}",
            other.repr()?
        ))),
    }
}

/// What an error says that nobody `get`s; nothing once the session has ended.
pub fn text_of_error(py: Python<'_>, error: Read) -> PyResult<Option<String>> {
    let Some(core) = core::current() else { return Ok(None) };
    let decoded = match error {
        Read::Value(value) => pickle::decode(py, &core, value),
        Read::Failed(failure) => Err(errors::from_failure(py, failure, None)),
    };
    decoded
        .err()
        .map(|error| Ok(error.value(py).str()?.to_string()))
        .transpose()
}

/// Waits for a value, or for several, and gives them.
///
/// Inside a task it lends the task's CPU to others while it waits. It can be interrupted by Ctrl-C.
///
/// Args:
///     object_refs: A reference, or a list of them.
///     timeout: Seconds to wait for all of them; None: for ever; 0: only what is there.
///     copy: Arrays lie in shared memory and are read-only. With True they are copied, and may be written to; with
///         "on_write" they may be written to as well, and only pages that are written to are copied, when they are. The
///         object stays in the store while such an array lives.
///
/// Returns:
///     The value; a list of values, in the order of the references.
///
/// Raises:
///     GetTimeoutError: It took longer.
///     RayTaskError: The task that makes it raised; the error is also an instance of the class that was raised.
///     RayError: It can't be had for another reason, as its class says; see `ray_rs.exceptions`.
///     ValueError: Not a reference, or a list with something else in it.
///
/// Example:
///     >>> values = ray.get(ref, copy="on_write")
///     >>> values[0] = 1  # nobody else sees it
#[pyfunction]
#[pyo3(
    signature = (object_refs, *, timeout=None, copy=None, _use_object_store=false),
    text_signature = "(object_refs, *, timeout=None, copy=None, _use_object_store=False)"
)]
pub fn get<'py>(
    py: Python<'py>,
    object_refs: &Bound<'py, PyAny>,
    timeout: Option<f64>,
    copy: Option<&Bound<'py, PyAny>>,
    _use_object_store: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let timeout = get_timeout(timeout)?;
    let copy = which_copy(copy)?;
    if let Ok(reference) = object_refs.cast_exact::<ObjectRef>() {
        return get_one(py, reference, timeout, copy);
    }
    let Ok(list) = object_refs.cast::<PyList>() else {
        if stream::is_generator(object_refs)? {
            return Ok(object_refs.clone());
        }
        return Err(PyValueError::new_err(format!(
            "Invalid type of object refs, {}, is given. 'object_refs' must either be an ObjectRef or a list of \
             ObjectRefs.",
            object_refs.get_type()
        )));
    };
    let core = core::require(py)?;
    let slots = slots_of(&core, list, |other| {
        PyTypeError::new_err(format!(
            "Attempting to call `get` on the value {}, which is not an ray.ObjectRef.",
            other.repr().map(|text| text.to_string()).unwrap_or_default()
        ))
    })?;
    // Holds the references while the list may change under us.
    let held = list.as_sequence().to_tuple()?;
    let values = get_all(py, &core, &slots, timeout, copy)?;
    drop(held);
    Ok(values.into_any())
}

fn get_one<'py>(
    py: Python<'py>,
    reference: &Bound<'py, ObjectRef>,
    timeout: Option<Duration>,
    copy: Copy,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(counted) = reference.get().counted() else {
        return Err(errors::old_reference(py));
    };
    let (core, slot) = (&counted.core, counted.slot);
    if !core::is_current(core) {
        return Err(errors::old_reference(py));
    }
    if let Some(read) = core.glance(slot) {
        let deadline = deadline_of(&read, timeout);
        return decode_until(py, core, slot, Some(read), deadline, copy);
    }
    context::warn_if_blocking_a_loop(py)?;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    match gil::wait(py, |interrupt| core.wait(&[slot], 1, timeout, false, interrupt))? {
        WaitOutcome::Satisfied => decode_until(py, core, slot, core.try_read(slot), deadline, copy),
        WaitOutcome::TimedOut => Err(errors::get_timeout(py)),
        WaitOutcome::Interrupted => Err(PyKeyboardInterrupt::new_err(())),
        WaitOutcome::Deadlocked(why) => Err(errors::deadlock(py, why)),
        WaitOutcome::Disconnected => Err(errors::disconnected(py, core)),
    }
}

/// All values in order; or the first error among what is ready, as soon as there is one.
fn get_all<'py>(
    py: Python<'py>,
    core: &Arc<CoreWorker>,
    slots: &[RefSlot],
    timeout: Option<Duration>,
    copy: Copy,
) -> PyResult<Bound<'py, PyList>> {
    let mut mask = Vec::with_capacity(slots.len());
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    while core.ready_mask(slots, slots.len(), &mut mask) < slots.len() {
        let ready = slots.iter().zip(&mask).filter(|(_, ready)| **ready);
        if let Some((slot, _)) = ready.into_iter().find(|(slot, _)| core.is_error(**slot)) {
            core.errors_seen(slots);
            // An error is never lost: it is raised here.
            decode_until(py, core, *slot, core.try_read(*slot), deadline, Copy::No)?;
        }
        context::warn_if_blocking_a_loop(py)?;
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match gil::wait(py, |interrupt| core.wait(slots, slots.len(), left, true, interrupt))? {
            WaitOutcome::Satisfied => {}
            WaitOutcome::TimedOut => {
                // What failed in the last moment comes before the time-out.
                if let Some(slot) = slots.iter().find(|slot| core.is_ready(**slot) && core.is_error(**slot)) {
                    core.errors_seen(slots);
                    decode_until(py, core, *slot, core.try_read(*slot), deadline, Copy::No)?;
                }
                return Err(errors::get_timeout(py));
            }
            WaitOutcome::Interrupted => return Err(PyKeyboardInterrupt::new_err(())),
            WaitOutcome::Deadlocked(why) => return Err(errors::deadlock(py, why)),
            WaitOutcome::Disconnected => return Err(errors::disconnected(py, core)),
        }
        mask.clear();
    }
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let _fetched = from_nodes(py, core, slots, left)?;
    let values = PyList::empty(py);
    let mut asked = 0;
    for (index, slot) in slots.iter().enumerate() {
        let read = core.try_read(*slot);
        if index >= asked && read.as_ref().is_some_and(is_away) {
            // Others are brought back while this one is waited for.
            asked = index + core.bring_next(&slots[index..]);
        }
        let value = decode_until(py, core, *slot, read, deadline, copy);
        values.append(value.inspect_err(|_| core.errors_seen(slots))?)?;
    }
    Ok(values)
}

/// What lies on other nodes comes here first, all at the same time.
fn from_nodes(
    py: Python<'_>,
    core: &Arc<CoreWorker>,
    slots: &[RefSlot],
    timeout: Option<Duration>,
) -> PyResult<Option<Fetched>> {
    if !core.any_elsewhere(slots) {
        return Ok(None);
    }
    let mut fetched = None;
    let outcome = gil::wait(py, |interrupt| {
        let (outcome, held) = core.fetch_from_nodes(slots, timeout, interrupt);
        fetched = Some(held);
        outcome
    })?;
    match outcome {
        WaitOutcome::Satisfied => Ok(fetched),
        WaitOutcome::TimedOut => Err(errors::get_timeout(py)),
        WaitOutcome::Interrupted => Err(PyKeyboardInterrupt::new_err(())),
        WaitOutcome::Deadlocked(why) => Err(errors::deadlock(py, why)),
        WaitOutcome::Disconnected => Err(errors::disconnected(py, core)),
    }
}

fn get_timeout(timeout: Option<f64>) -> PyResult<Option<Duration>> {
    match timeout {
        None => Ok(None),
        Some(-1.0) => Ok(None),
        Some(seconds) if seconds < 0.0 || seconds.is_nan() => Err(PyValueError::new_err(format!(
            "The 'timeout' argument must be nonnegative or -1. Received {seconds}"
        ))),
        // Longer than anyone waits: for ever.
        Some(seconds) => Ok(Duration::try_from_secs_f64(seconds).ok()),
    }
}

fn slots_of(
    core: &Arc<CoreWorker>,
    list: &Bound<'_, PyList>,
    not_a_ref: impl Fn(&Bound<'_, PyAny>) -> PyErr,
) -> PyResult<Vec<RefSlot>> {
    let mut slots = Vec::with_capacity(list.len());
    for item in list.iter() {
        let Ok(reference) = item.cast_exact::<ObjectRef>() else {
            return Err(not_a_ref(&item));
        };
        slots.push(
            reference
                .get()
                .slot_in(core)
                .ok_or_else(|| errors::old_reference(list.py()))?,
        );
    }
    Ok(slots)
}

/// Stores a value once, so that many tasks can use it, and gives a reference to it.
///
/// Up to 100 KiB it stays in this process; a larger one is copied into the node's shared memory, and arrays in it are
/// read there without another copy. It can't be changed afterwards.
///
/// Args:
///     value: Anything that can be pickled, except a reference.
///     _owner: An actor that is to own the object, instead of this process.
///     _tensor_transport: Must be None.
///
/// Returns:
///     The reference; the value is freed when no process has one any more.
///
/// Raises:
///     TypeError: A reference, or what can't be pickled.
///     ObjectStoreFullError: There is no room, and nothing that could be moved to disk.
///     OutOfDiskError: There was something, but the disk is full too.
#[pyfunction]
#[pyo3(signature = (value, *, _owner=None, _tensor_transport=None))]
pub fn put(
    py: Python<'_>,
    value: &Bound<'_, PyAny>,
    _owner: Option<&Bound<'_, PyAny>>,
    _tensor_transport: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<ObjectRef>> {
    if value.is_exact_instance_of::<ObjectRef>() {
        return Err(PyTypeError::new_err(
            "Calling 'put' on an ray.ObjectRef is not allowed. If you really want to do this, you can wrap the \
             ray.ObjectRef in a list and call 'put' on it.",
        ));
    }
    if _owner.is_some() {
        return Err(PyValueError::new_err(
            "The '_owner' argument of put() is no longer supported.",
        ));
    }
    if _tensor_transport.is_some() {
        return Err(PyValueError::new_err(
            "'_tensor_transport' of put() needs a one-sided transport, and none is there.",
        ));
    }
    let core = core::require(py)?;
    let stored = pickle::encode_put(&core, value)?;
    let site = sites::of_put(py, matches!(stored.data, ValueData::Arena(_)));
    let slot = core.put(stored, site.as_deref());
    ObjectRef::wrap(py, &core, slot)
}

/// A whole number; also one that a division gave.
pub struct Count(isize);

impl<'py> FromPyObject<'_, 'py> for Count {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.cast_exact::<PyFloat>() {
            Ok(float) if float.value().fract() == 0.0 => Ok(Self(float.value() as isize)),
            _ => object.extract().map(Self),
        }
    }
}

/// Waits until some of the references are ready: there is a value, or an error.
///
/// Args:
///     ray_waitables: References and generators, each once.
///     num_returns: How many are to be ready.
///     timeout: Seconds to wait; None: for ever.
///     fetch_local: An object on another node is ready when it has been copied here.
///
/// Returns:
///     Two lists, in the order of `ray_waitables`: at most `num_returns` that are ready, and all others.
///
/// Raises:
///     TypeError: Not a list of references.
///     ValueError: The same reference twice, or `num_returns` not between 1 and their number.
#[pyfunction]
#[pyo3(
    signature = (ray_waitables, *, num_returns=Count(1), timeout=None, fetch_local=true),
    text_signature = "(ray_waitables, *, num_returns=1, timeout=None, fetch_local=True)"
)]
pub fn wait<'py>(
    py: Python<'py>,
    ray_waitables: &Bound<'py, PyAny>,
    num_returns: Count,
    timeout: Option<f64>,
    fetch_local: bool,
) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
    if ray_waitables.is_exact_instance_of::<ObjectRef>() {
        return Err(PyTypeError::new_err(
            "wait() expected a list of ray.ObjectRef, got a single ray.ObjectRef",
        ));
    }
    let Ok(list) = ray_waitables.cast::<PyList>() else {
        let text = format!(
            "wait() expected a list of ray.ObjectRef, got {}",
            ray_waitables.get_type()
        );
        return Err(PyTypeError::new_err(text));
    };
    let timeout = match timeout {
        None => None,
        Some(seconds) if seconds < 0.0 || seconds.is_nan() => {
            let text = format!("The 'timeout' argument must be nonnegative. Received {seconds}");
            return Err(PyValueError::new_err(text));
        }
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
    };
    let core = core::require(py)?;
    let waited_for = waited_for(list)?;
    let slots = slots_of(&core, &waited_for, |other| {
        PyTypeError::new_err(format!(
            "wait() expected a list of ray.ObjectRef, got list containing {}",
            other.get_type()
        ))
    })?;
    if slots.is_empty() {
        return Ok((PyList::empty(py), PyList::empty(py)));
    }
    if core.has_duplicates(&slots) {
        return Err(PyValueError::new_err("Wait requires a list of unique ray_waitables."));
    }
    let wanted = wanted_count(num_returns.0, slots.len())?;
    let refs = list.as_sequence().to_tuple()?;
    let mut mask = Vec::with_capacity(slots.len());
    if core.ready_mask(&slots, wanted, &mut mask) < wanted && timeout != Some(Duration::ZERO) {
        context::warn_if_blocking_a_loop(py)?;
        let outcome = gil::wait(py, |interrupt| core.wait(&slots, wanted, timeout, false, interrupt))?;
        match outcome {
            WaitOutcome::Satisfied | WaitOutcome::TimedOut => {}
            WaitOutcome::Interrupted => return Err(PyKeyboardInterrupt::new_err(())),
            WaitOutcome::Deadlocked(why) => return Err(errors::deadlock(py, why)),
            WaitOutcome::Disconnected => return Err(errors::disconnected(py, &core)),
        }
        mask.clear();
        core.ready_mask(&slots, wanted, &mut mask);
    }
    if fetch_local {
        // What is on disk begins to come back.
        let ready = slots.iter().zip(&mask).filter(|(_, ready)| **ready);
        let next: SmallVec<[RefSlot; 8]> = ready.map(|(slot, _)| *slot).take(wanted).collect();
        core.bring_next(&next);
    }
    divide(&refs, &mask, wanted)
}

/// References all: a generator stands for its next item.
fn waited_for<'py>(list: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyList>> {
    if list.iter().all(|item| item.is_exact_instance_of::<ObjectRef>()) {
        return Ok(list.clone());
    }
    let references = PyList::empty(list.py());
    for item in list.iter() {
        match !item.is_exact_instance_of::<ObjectRef>() && stream::is_generator(&item)? {
            true => references.append(item.getattr("_ray_waitable")?)?,
            false => references.append(item)?,
        }
    }
    Ok(references)
}

fn wanted_count(num_returns: isize, count: usize) -> PyResult<usize> {
    match usize::try_from(num_returns) {
        Ok(wanted) if wanted > count => Err(PyValueError::new_err(
            "num_returns cannot be greater than the number of ray_waitables provided to ray.wait.",
        )),
        Ok(wanted) if wanted > 0 => Ok(wanted),
        _ => Err(PyValueError::new_err(format!(
            "Invalid number of objects to return {num_returns}."
        ))),
    }
}

/// The first `wanted` ready ones, and all others.
fn divide<'py>(
    refs: &Bound<'py, PyTuple>,
    mask: &[bool],
    wanted: usize,
) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
    let mut ready = Vec::with_capacity(wanted);
    let mut others = Vec::with_capacity(mask.len());
    for (reference, is_ready) in refs.iter_borrowed().zip(mask) {
        if *is_ready && ready.len() < wanted {
            ready.push(reference);
        } else {
            others.push(reference);
        }
    }
    Ok((PyList::new(refs.py(), ready)?, PyList::new(refs.py(), others)?))
}
