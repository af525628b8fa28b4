//! `ray.empty`: memory of the object store that the user fills and `put` seals, without a copy.

use std::os::raw::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyWeakrefReference};
use ray_rs_core_worker::{Building, CoreWorker, RefSlot, StoredValue};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::{buffers, core, errors, gil, imports};

/// Views that `put` itself has of a raw buffer when it seals it: the one that looks at its bytes.
const VIEWS_OF_PUT: usize = 1;

/// What is being built in this process, by the address of its buffer.
static OPEN: Mutex<Option<FxHashMap<usize, Weak<Held>>>> = Mutex::new(None);
/// How many there are, so that a `put` of anything else costs one look.
static OPEN_COUNT: AtomicUsize = AtomicUsize::new(0);

struct Held {
    building: Building,
    /// The array that was handed out, weakly; none for a raw buffer.
    array: PyOnceLock<Py<PyWeakrefReference>>,
    /// Live views of a raw buffer.
    views: AtomicUsize,
}

impl Drop for Held {
    fn drop(&mut self) {
        forget(self.building.address());
    }
}

/// Whether anything is being built in this process.
pub fn is_any_open() -> bool {
    OPEN_COUNT.load(Ordering::Acquire) != 0
}

fn forget(address: usize) {
    if let Some(open) = OPEN.lock().as_mut()
        && open.remove(&address).is_some()
    {
        OPEN_COUNT.fetch_sub(1, Ordering::Release);
    }
}

/// Writable memory of the object store, until it is `put`; then it is read-only.
///
/// Made by `ray_rs.empty`. Reads and writes go through the buffer protocol: `memoryview(buffer)`, `file.readinto(buffer)`,
/// `numpy.frombuffer(buffer)`.
#[pyclass(frozen, weakref, module = "ray_rs._core")]
pub struct WritableBuffer {
    held: Arc<Held>,
}

#[pymethods]
impl WritableBuffer {
    fn __len__(&self) -> usize {
        self.held.building.len()
    }

    /// Whether it was `put`, and so cannot be written to any more.
    #[getter]
    fn readonly(&self) -> bool {
        self.held.building.is_sealed()
    }

    /// Leaves the stream as a buffer, and comes back as a read-only `memoryview`.
    fn __reduce_ex__<'py>(slf: &Bound<'py, Self>, protocol: i32) -> PyResult<Bound<'py, PyTuple>> {
        let py = slf.py();
        if protocol < 5 {
            return Err(PyTypeError::new_err("a WritableBuffer is pickled by protocol 5 only"));
        }
        let buffer = imports::PICKLE_BUFFER.get(py)?.call1((slf,))?;
        (imports::MEMORYVIEW.get(py)?, (buffer,)).into_pyobject(py)
    }

    /// # Safety
    /// As CPython calls it: `view` is valid for writing.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("a view is needed"));
        }
        let building = &slf.get().held.building;
        let sealed = building.is_sealed();
        // SAFETY: `view` is valid by the protocol.
        unsafe { buffers::fill_view(&slf, view, building.address(), building.len(), sealed, flags)? };
        slf.get().held.views.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// # Safety
    /// As CPython calls it: once for each view that was filled.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.held.views.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An array in the object store, to be filled and then `put` without a copy.
///
/// Args:
///     shape: Lengths of the array; without a dtype, a number of bytes.
///     dtype: Anything that `numpy.dtype` takes, except what holds Python objects.
///
/// Returns:
///     A `numpy.ndarray` with any content; without a dtype, a `WritableBuffer`. `put` of it, or of a value that holds
///     it and no other array, seals it where it lies: from then on it is read-only. (Slices of an array that were made
///     before that keep their flag, and must not be written to.) Dropped without `put`, its memory is free again.
///
/// Raises:
///     ValueError: The dtype holds Python objects.
///     ObjectStoreFullError: There is no room.
///
/// Example:
///     >>> array = ray.empty((1000, 1000), "f4")
///     >>> array[:] = 0
///     >>> ref = ray.put(array)
#[pyfunction]
#[pyo3(signature = (shape, dtype=None))]
pub fn empty<'py>(
    py: Python<'py>,
    shape: &Bound<'py, PyAny>,
    dtype: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let core = core::require(py)?;
    let Some(dtype) = dtype else {
        let bytes: u64 = shape.extract().map_err(|_| {
            PyTypeError::new_err(
                "without a dtype, empty() takes the number of bytes; with one, a shape: empty((2, 3), 'f4')",
            )
        })?;
        return Ok(build(py, &core, bytes)?.into_any());
    };
    let numpy = py.import(intern!(py, "numpy"))?;
    let dtype = numpy.getattr(intern!(py, "dtype"))?.call1((dtype,))?;
    if dtype.getattr(intern!(py, "hasobject"))?.is_truthy()? {
        return Err(PyValueError::new_err(format!(
            "an array of {dtype} holds Python objects, which cannot be shared; use put() of an ordinary array"
        )));
    }
    let lengths: Vec<u64> = match shape.extract::<u64>() {
        Ok(length) => vec![length],
        Err(_) => shape.extract()?,
    };
    let item: u64 = dtype.getattr(intern!(py, "itemsize"))?.extract()?;
    let bytes = lengths
        .iter()
        .try_fold(item, |product, length| product.checked_mul(*length))
        .filter(|bytes| isize::try_from(*bytes).is_ok())
        .ok_or_else(|| PyValueError::new_err("the array would be larger than any memory"))?;
    let buffer = build(py, &core, bytes)?;
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffer"), &buffer)?;
    let array = numpy
        .getattr(intern!(py, "ndarray"))?
        .call((PyTuple::new(py, lengths)?, dtype), Some(&options))?;
    let weak = PyWeakrefReference::new(&array)?;
    let _ = buffer.get().held.array.set(py, weak.unbind());
    Ok(array)
}

fn build<'py>(py: Python<'py>, core: &Arc<CoreWorker>, bytes: u64) -> PyResult<Bound<'py, WritableBuffer>> {
    let (built, raised) = gil::wait_raw(py, |interrupt| core.build(bytes, interrupt));
    if let Some(error) = raised {
        return Err(error);
    }
    let building = built.map_err(|error| errors::from_core(py, error))?;
    let held = Arc::new(Held {
        building,
        array: PyOnceLock::new(),
        views: AtomicUsize::new(0),
    });
    if bytes > 0 {
        let mut open = OPEN.lock();
        let open = open.get_or_insert_default();
        if open.insert(held.building.address(), Arc::downgrade(&held)).is_none() {
            OPEN_COUNT.fetch_add(1, Ordering::Release);
        }
    }
    Bound::new(py, WritableBuffer { held })
}

/// Seals what was built, when these are its bytes and all of them; the array that was handed out is read-only then.
///
/// # Errors
/// `BufferError` while somebody holds a view of a raw buffer, through which it could still be written.
pub fn seal(
    py: Python<'_>,
    core: &Arc<CoreWorker>,
    stream: &[u8],
    bytes: &[u8],
    refs: &SmallVec<[RefSlot; 0]>,
) -> PyResult<Option<StoredValue>> {
    let address = bytes.as_ptr().addr();
    let held = OPEN.lock().as_ref().and_then(|open| open.get(&address)?.upgrade());
    let Some(held) = held.filter(|held| held.building.len() == bytes.len()) else {
        return Ok(None);
    };
    let array = held.array.get(py);
    if array.is_none() && held.views.load(Ordering::Relaxed) > VIEWS_OF_PUT {
        return Err(PyBufferError::new_err(
            "views of this buffer still exist, and could change what is put: release them (memoryview.release, del) first",
        ));
    }
    let Some(stored) = core.seal(&held.building, stream, refs) else {
        return Ok(None);
    };
    forget(address);
    if let Some(array) = array.and_then(|weak| weak.bind(py).upgrade()) {
        let flags = array.getattr(intern!(py, "flags"))?;
        flags.setattr(intern!(py, "writeable"), false)?;
    }
    Ok(Some(stored))
}
