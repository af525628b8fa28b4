//! Python values to stored values and back.
//!
//! The cost of a small task is mostly pickling, so the cheapest way that is right is taken: nothing for `None`, raw bytes
//! for `bytes`, [`crate::scalars`] for numbers and short texts, C pickle for what is made of exact builtin types, references, handles and plain arrays, and cloudpickle
//! (in Python) for all else. Arrays leave the stream as buffers and are copied once, by the engine.
//!
//! References never lie in a stream by id: they are collected in a table beside it ([`crate::reftable`]).

use std::sync::Arc;

use pyo3::exceptions::{PyException, PyMemoryError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyNone, PySet, PyString, PyTuple, PyType,
};
use ray_rs_core_worker::{
    CoreWorker, Failure, Location, ReadData, ReadValue, RefSlot, StoredValue, ValueData, ValueKind, ValueParts,
};
use ray_rs_types::config::MAX_INLINE_BYTES;
use smallvec::SmallVec;

use crate::actor::ActorHandle;
use crate::buffers::{Copy, Exported, Memory, SharedBuffer};
use crate::object_ref::ObjectRef;
use crate::{building, errors, gil, imports, reftable, scalars};

/// Streams up to here are copied into a `bytes` for the unpickler; longer ones are lent as they lie.
const COPIED_STREAM: usize = 4096;
/// Values with more parts than this go to cloudpickle unseen, which costs them little.
const MOST_PARTS: u32 = 200_000;
const DEEPEST: u32 = 64;

pub fn no_value() -> StoredValue {
    StoredValue {
        kind: ValueKind::None,
        data: ValueData::Empty,
        refs: SmallVec::new(),
    }
}

// ------------------------------------------------------------------------------------------------------------ to bytes

/// What a look at a value's types tells. Later ones win.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Makeup {
    /// Exact builtin types only.
    Plain,
    /// And references or handles.
    WithRefs,
    /// And arrays, whose buffers leave the stream.
    WithArrays,
    /// Anything: cloudpickle's affair.
    Other,
}

fn makeup(value: &Bound<'_, PyAny>, depth: u32, parts: &mut u32) -> Makeup {
    if value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyNone>()
    {
        return Makeup::Plain;
    }
    if value.is_exact_instance_of::<ObjectRef>() || value.is_exact_instance_of::<ActorHandle>() {
        return Makeup::WithRefs;
    }
    if depth == 0 {
        return Makeup::Other;
    }
    if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        return all(
            tuple.iter_borrowed(),
            tuple.len(),
            depth,
            parts,
            |item, depth, parts| makeup(&item, depth, parts),
        );
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        return all(list.iter(), list.len(), depth, parts, |item, depth, parts| {
            makeup(&item, depth, parts)
        });
    }
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        return all(dict.iter(), dict.len(), depth, parts, |(key, value), depth, parts| {
            makeup(&key, depth, parts).max(makeup(&value, depth, parts))
        });
    }
    if let Ok(set) = value.cast_exact::<PySet>() {
        return all(set.iter(), set.len(), depth, parts, |item, depth, parts| {
            makeup(&item, depth, parts)
        });
    }
    if let Ok(set) = value.cast_exact::<PyFrozenSet>() {
        return all(set.iter(), set.len(), depth, parts, |item, depth, parts| {
            makeup(&item, depth, parts)
        });
    }
    if is_plain_array(value) {
        Makeup::WithArrays
    } else {
        Makeup::Other
    }
}

fn all<T>(
    items: impl Iterator<Item = T>,
    count: usize,
    depth: u32,
    parts: &mut u32,
    of_item: impl Fn(T, u32, &mut u32) -> Makeup,
) -> Makeup {
    match parts.checked_sub(count as u32 + 1) {
        Some(left) => *parts = left,
        None => return Makeup::Other,
    }
    let mut found = Makeup::Plain;
    for item in items {
        found = found.max(of_item(item, depth - 1, parts));
        if found == Makeup::Other {
            break;
        }
    }
    found
}

/// A `numpy.ndarray` itself, without objects in it.
fn is_plain_array(value: &Bound<'_, PyAny>) -> bool {
    static NDARRAY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = value.py();
    let class = value.get_type();
    let known = match NDARRAY.get(py) {
        Some(ndarray) => class.is(ndarray),
        None => {
            // Seen for the first time: numpy is imported, or there could be no array.
            let found = class.name().is_ok_and(|name| name == "ndarray")
                && class.module().is_ok_and(|module| module == "numpy");
            if found {
                let _ = NDARRAY.set(py, class.unbind());
            }
            found
        }
    };
    let has_objects = || {
        value
            .getattr(intern!(py, "dtype"))?
            .getattr(intern!(py, "hasobject"))?
            .is_truthy()
    };
    known && !has_objects().unwrap_or(true)
}

struct Pickled<'py> {
    stream: Bound<'py, PyBytes>,
    buffers: Vec<Exported>,
    refs: SmallVec<[RefSlot; 0]>,
}

fn dumps<'py>(core: &Arc<CoreWorker>, value: &Bound<'py, PyAny>) -> PyResult<Pickled<'py>> {
    let py = value.py();
    let mut parts = MOST_PARTS;
    let makeup = makeup(value, DEEPEST, &mut parts);
    if makeup == Makeup::Plain {
        return Ok(Pickled {
            stream: plain_dumps(value)?,
            buffers: Vec::new(),
            refs: SmallVec::new(),
        });
    }
    let ((stream, buffers), refs) = reftable::collecting(core, || match makeup {
        Makeup::Plain | Makeup::WithRefs => Ok((plain_dumps(value)?, None)),
        Makeup::WithArrays => {
            let buffers = PyList::empty(py);
            let options = PyDict::new(py);
            options.set_item(intern!(py, "buffer_callback"), buffers.getattr(intern!(py, "append"))?)?;
            let stream = imports::PICKLE_DUMPS.get(py)?.call((value, 5), Some(&options))?;
            Ok((stream.cast_into::<PyBytes>()?, Some(buffers)))
        }
        Makeup::Other => {
            let made = imports::DUMPS.get(py)?.call1((value,))?;
            let (stream, buffers) = made.extract::<(Bound<'py, PyBytes>, Bound<'py, PyList>)>()?;
            Ok((stream, Some(buffers)))
        }
    })?;
    let exported = match buffers {
        None => Ok(Vec::new()),
        Some(buffers) => buffers
            .iter()
            .map(|buffer| Exported::of(&buffer))
            .collect::<PyResult<Vec<_>>>(),
    };
    match exported {
        Ok(buffers) => Ok(Pickled { stream, buffers, refs }),
        Err(error) => {
            reftable::drop_all(core, refs);
            Err(error)
        }
    }
}

fn plain_dumps<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(imports::PICKLE_DUMPS
        .get(value.py())?
        .call1((value, 5))?
        .cast_into::<PyBytes>()?)
}

/// What a `bytearray` becomes: stored values don't change, so it comes back as `bytes`, as in Ray.
fn frozen<'py>(array: &Bound<'py, PyByteArray>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(array
        .py()
        .get_type::<PyBytes>()
        .call1((array,))?
        .cast_into::<PyBytes>()?)
}

/// Pickles a value and stores it. `what` names it in the error when that can't be done: "the put value".
pub fn encode(
    core: &Arc<CoreWorker>,
    value: &Bound<'_, PyAny>,
    what: impl FnOnce() -> String,
) -> PyResult<StoredValue> {
    let py = value.py();
    if value.is_none() {
        return Ok(no_value());
    }
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        return store(py, core, ValueKind::Raw, bytes.as_bytes(), &[], SmallVec::new());
    }
    if let Ok(array) = value.cast_exact::<PyByteArray>() {
        let bytes = frozen(array)?;
        return store(py, core, ValueKind::Raw, bytes.as_bytes(), &[], SmallVec::new());
    }
    if let Some(stream) = scalars::dumps(value) {
        return store(py, core, ValueKind::Pickle, &stream, &[], SmallVec::new());
    }
    store_pickled(
        core,
        dumps(core, value).map_err(|error| explain(value, error, &what(), ""))?,
    )
}

/// [`encode`], except that what `ray.empty` made is sealed where it lies.
pub fn encode_put(core: &Arc<CoreWorker>, value: &Bound<'_, PyAny>) -> PyResult<StoredValue> {
    let what = || "the put value".to_owned();
    if !building::is_any_open() || value.is_exact_instance_of::<PyBytes>() {
        return encode(core, value, what);
    }
    let pickled = dumps(core, value).map_err(|error| explain(value, error, &what(), ""))?;
    if let [buffer] = &pickled.buffers[..] {
        let sealed = building::seal(
            value.py(),
            core,
            pickled.stream.as_bytes(),
            buffer.bytes(),
            &pickled.refs,
        );
        match sealed {
            Ok(Some(stored)) => return Ok(stored),
            Ok(None) => {}
            Err(error) => {
                reftable::drop_all(core, pickled.refs);
                return Err(error);
            }
        }
    }
    drop(pickled.buffers);
    reftable::drop_all(core, pickled.refs);
    encode(core, value, what)
}

/// Lets the engine copy the parts to where they stay.
pub fn store(
    py: Python<'_>,
    core: &Arc<CoreWorker>,
    kind: ValueKind,
    data: &[u8],
    buffers: &[&[u8]],
    refs: SmallVec<[RefSlot; 0]>,
) -> PyResult<StoredValue> {
    let parts = ValueParts { kind, data, buffers };
    let total = data.len() + buffers.iter().map(|buffer| buffer.len()).sum::<usize>();
    // What surely goes inline is copied too fast for anyone to miss the GIL.
    if total <= MAX_INLINE_BYTES / 2 {
        return core
            .store(parts, refs, &mut gil::never)
            .map_err(|error| errors::from_core(py, error));
    }
    let (stored, raised) = gil::wait_raw(py, |interrupt| core.store(parts, refs, interrupt));
    match (stored, raised) {
        (Ok(stored), None) => Ok(stored),
        (Ok(stored), Some(error)) => {
            core.abandon(stored);
            Err(error)
        }
        (Err(_), Some(error)) => Err(error),
        (Err(error), None) => Err(errors::from_core(py, error)),
    }
}

/// A `TypeError` that says which object is at fault. Interrupts and the like stay what they are.
pub fn explain(value: &Bound<'_, PyAny>, error: PyErr, what: &str, usage: &str) -> PyErr {
    let py = value.py();
    if !error.is_instance_of::<PyException>(py) || error.is_instance_of::<PyMemoryError>(py) {
        return error;
    }
    let cause = error.clone_ref(py);
    let explained = imports::EXPLAIN_FAILURE
        .get(py)
        .and_then(|explain| explain.call1((value, what, error.value(py), usage)));
    match explained {
        Ok(exception) => {
            let explained = PyErr::from_value(exception);
            explained.set_cause(py, Some(cause));
            explained
        }
        Err(error) => error,
    }
}

/// Pickles the by-value arguments of a call.
pub fn encode_arguments(core: &Arc<CoreWorker>, args: &Bound<'_, PyTuple>, callee: &str) -> PyResult<StoredValue> {
    if let Some(stream) = scalars::dumps(args) {
        return store(args.py(), core, ValueKind::Pickle, &stream, &[], SmallVec::new());
    }
    let is_byte_array = |argument: Borrowed<'_, '_, PyAny>| argument.is_exact_instance_of::<PyByteArray>();
    let args = &match args.iter_borrowed().any(is_byte_array) {
        true => with_frozen(args)?,
        false => args.clone(),
    };
    let pickled = dumps(core, args).map_err(|error| {
        let at_fault = args.iter().find_map(|argument| match dumps(core, &argument) {
            Ok(pickled) => {
                reftable::drop_all(core, pickled.refs);
                None
            }
            Err(error) => Some((argument, error)),
        });
        let (culprit, error) = at_fault.unwrap_or_else(|| (args.clone().into_any(), error));
        explain(
            &culprit,
            error,
            "the argument",
            &format!("for a task or actor {callee}"),
        )
    })?;
    store_pickled(core, pickled)
}

fn with_frozen<'py>(args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyTuple>> {
    let freeze = |argument: Bound<'py, PyAny>| match argument.cast_into_exact::<PyByteArray>() {
        Ok(array) => Ok(frozen(&array)?.into_any()),
        Err(other) => Ok(other.into_inner()),
    };
    PyTuple::new(args.py(), args.iter().map(freeze).collect::<PyResult<Vec<_>>>()?)
}

fn store_pickled(core: &Arc<CoreWorker>, pickled: Pickled<'_>) -> PyResult<StoredValue> {
    let Pickled { stream, buffers, refs } = pickled;
    let py = stream.py();
    if buffers.is_empty() {
        return store(py, core, ValueKind::Pickle, stream.as_bytes(), &[], refs);
    }
    let slices: SmallVec<[&[u8]; 4]> = buffers.iter().map(Exported::bytes).collect();
    store(py, core, ValueKind::Laid, stream.as_bytes(), &slices, refs)
}

// ---------------------------------------------------------------------------------------------------------- from bytes

/// Unpickles a stream that refers to nothing.
pub fn loads<'py>(py: Python<'py>, stream: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    imports::PICKLE_LOADS.get(py)?.call1((PyBytes::new(py, stream),))
}

/// The Python object of a value that was read. An error is raised.
pub fn decode<'py>(py: Python<'py>, core: &Arc<CoreWorker>, value: ReadValue) -> PyResult<Bound<'py, PyAny>> {
    decode_for(py, core, value, Copy::No)
}

/// The same, with arrays that are the reader's own if `copy` says so.
pub fn decode_for<'py>(
    py: Python<'py>,
    core: &Arc<CoreWorker>,
    value: ReadValue,
    copy: Copy,
) -> PyResult<Bound<'py, PyAny>> {
    let ReadValue { kind, mut data, refs } = value;
    if let ReadData::Away(location) = data {
        data = brought(py, core, location).inspect_err(|_| refs.iter().for_each(|slot| core.drop_ref(*slot)))?;
    }
    match kind {
        ValueKind::None => Ok(py.None().into_bound(py)),
        ValueKind::Raw => Ok(PyBytes::new(py, Memory::new(data).bytes()).into_any()),
        ValueKind::Pickle | ValueKind::Laid => reftable::reading(core, refs, || unpickle(py, kind, data, copy))
            .map_err(|error| errors::deserialization_failed(py, error)),
        ValueKind::Error => {
            if let Some(failure) = core_failure(&data) {
                return Err(errors::from_failure(py, failure, None));
            }
            let error = reftable::reading(core, refs, || unpickle(py, kind, data, Copy::No))
                .map_err(|error| errors::deserialization_failed(py, error))?;
            Err(raised(error))
        }
    }
}

/// The data of a value that has no reference (any more) and is not where it was made, once it is in memory again.
#[cold]
fn brought(py: Python<'_>, core: &Arc<CoreWorker>, location: Location) -> PyResult<ReadData> {
    let brought = gil::wait(py, |interrupt| core.bring(&[location], None, interrupt))?;
    match brought.map(|mut outcomes| outcomes.pop()) {
        Ok(Some(Ok(data))) => Ok(data),
        Ok(Some(Err(failure))) => Err(errors::from_failure(py, *failure, None)),
        Ok(None) => Err(errors::system(py, "the raylet answered something else")),
        Err(error) => Err(errors::from_core(py, error)),
    }
}

/// An argument that could not be had, instead of a pickle.
fn core_failure(data: &ReadData) -> Option<Failure> {
    match data {
        ReadData::Inline(bytes) => Failure::from_argument(bytes),
        ReadData::Empty | ReadData::Arena(_) | ReadData::Copied(_) | ReadData::Away(_) => None,
    }
}

/// What `get` raises for the error that a task left.
fn raised(error: Bound<'_, PyAny>) -> PyErr {
    let py = error.py();
    match error
        .getattr_opt(intern!(py, "as_instanceof_cause"))
        .and_then(|method| match method {
            Some(method) => method.call0(),
            None => Ok(error),
        }) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

fn unpickle<'py>(py: Python<'py>, kind: ValueKind, data: ReadData, copy: Copy) -> PyResult<Bound<'py, PyAny>> {
    let load = imports::PICKLE_LOADS.get(py)?;
    if kind != ValueKind::Laid {
        let memory = Memory::new(data);
        let length = memory.bytes().len();
        if let Some(value) = scalars::loads(py, memory.bytes()) {
            return Ok(value);
        }
        if length <= COPIED_STREAM {
            return load.call1((PyBytes::new(py, memory.bytes()),));
        }
        return load.call1((SharedBuffer::new(memory, 0..length),));
    }
    let memory = Memory::for_reader(data, copy)?.aligned();
    let parsed =
        ray_rs_object_store::layout::parse(memory.bytes()).map_err(|error| errors::system(py, error.to_string()))?;
    let buffers = PyList::empty(py);
    for range in parsed.buffers {
        buffers.append(SharedBuffer::new(memory.clone(), range))?;
    }
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffers"), buffers)?;
    if parsed.pickle.len() <= COPIED_STREAM {
        return load.call((PyBytes::new(py, &memory.bytes()[parsed.pickle]),), Some(&options));
    }
    load.call((SharedBuffer::new(memory, parsed.pickle),), Some(&options))
}
