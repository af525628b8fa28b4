//! `ObjectRef`: one local count of one object, and the ways to wait for it.

use std::sync::Arc;

use pyo3::exceptions::{PyNotImplementedError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use ray_rs_core_worker::{CoreWorker, RefSlot};
use ray_rs_types::{ObjectId, WorkerAddress};

use crate::ids::{PyJobId, PyTaskId, bytes_of, hash_of};
use crate::{core, describe, errors, futures, imports, objects, reftable};

/// One local count of an object.
pub struct Counted {
    pub core: Arc<CoreWorker>,
    pub slot: RefSlot,
}

impl Counted {
    /// Takes over one count.
    pub fn new(core: &Arc<CoreWorker>, slot: RefSlot) -> Self {
        Self {
            core: Arc::clone(core),
            slot,
        }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.core.add_ref(self.slot);
        Self::new(&self.core, self.slot)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.core.drop_ref(self.slot);
    }
}

/// A counted reference to an object that is there or will be; `await` of it gives the value, as `get` does.
///
/// The object lives as long as some process has a reference to it. `ObjectRef(bytes)` makes one of an object that
/// another process owns, which is looked up by the id.
#[pyclass(frozen, weakref, module = "ray_rs", name = "ObjectRef")]
pub struct ObjectRef {
    /// `None`: an id that stands for no object (`nil`, or made without a connection).
    counted: Option<Counted>,
    bare: Option<Box<ObjectId>>,
}

impl ObjectRef {
    pub fn new(counted: Counted) -> Self {
        Self {
            counted: Some(counted),
            bare: None,
        }
    }

    fn bare(id: ObjectId) -> Self {
        Self {
            counted: None,
            bare: Some(Box::new(id)),
        }
    }

    /// Wraps a count that the engine gave.
    pub fn wrap(py: Python<'_>, core: &Arc<CoreWorker>, slot: RefSlot) -> PyResult<Py<Self>> {
        Py::new(py, Self::new(Counted::new(core, slot)))
    }

    pub fn counted(&self) -> Option<&Counted> {
        self.counted.as_ref()
    }

    /// The slot, when it is one of this connection.
    pub fn slot_in(&self, core: &Arc<CoreWorker>) -> Option<RefSlot> {
        self.counted
            .as_ref()
            .filter(|counted| Arc::ptr_eq(&counted.core, core))
            .map(|counted| counted.slot)
    }

    fn live(&self, py: Python<'_>) -> PyResult<&Counted> {
        let live = self.counted.as_ref().filter(|counted| core::is_current(&counted.core));
        live.ok_or_else(|| errors::old_reference(py))
    }

    pub fn id(&self) -> ObjectId {
        match (&self.counted, &self.bare) {
            (Some(counted), _) => counted.core.object_id(counted.slot),
            (None, Some(id)) => **id,
            (None, None) => ObjectId::NIL,
        }
    }
}

#[pymethods]
impl ObjectRef {
    #[new]
    fn from_bytes(py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<Self> {
        let id = ObjectId(*bytes_of::<{ ObjectId::SIZE }>(id)?);
        match core::current() {
            Some(core) if !id.is_nil() => {
                // Without an owner's address it can only be an object known here.
                let slot = py.detach(|| core.import_by_id(id));
                Ok(Self::new(Counted::new(&core, slot)))
            }
            _ => Ok(Self::bare(id)),
        }
    }

    /// A reference to the object of this id, as `ObjectRef(id)`.
    #[classmethod]
    fn from_binary(_class: &Bound<'_, PyType>, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::from_bytes(py, id)
    }

    /// NotImplementedError, as in Ray.
    #[classmethod]
    fn from_hex(_class: &Bound<'_, PyType>, hex_id: &str) -> PyResult<Self> {
        Err(PyNotImplementedError::new_err(format!(
            "from_hex is not supported on ObjectRef; use ObjectRef(bytes.fromhex({hex_id:?}))"
        )))
    }

    /// A reference to nothing.
    #[classmethod]
    fn nil(_class: &Bound<'_, PyType>) -> Self {
        Self::bare(ObjectId::NIL)
    }

    /// Length of an id in bytes.
    #[classmethod]
    fn size(_class: &Bound<'_, PyType>) -> usize {
        ObjectId::SIZE
    }

    #[classmethod]
    fn __class_getitem__<'py>(class: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        imports::GENERIC_ALIAS.get(class.py())?.call1((class, item))
    }

    /// The object's id as bytes.
    fn binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.id().as_bytes())
    }

    /// The object's id in hexadecimal digits.
    fn hex(&self) -> String {
        self.id().hex()
    }

    /// Whether it refers to nothing.
    fn is_nil(&self) -> bool {
        self.id().is_nil()
    }

    /// The task that makes the object, or that has put it.
    fn task_id(&self) -> PyTaskId {
        PyTaskId(self.id().task_id())
    }

    /// The job that it belongs to.
    fn job_id(&self) -> PyJobId {
        PyJobId(self.id().task_id().job_id())
    }

    /// Of the process that owns it: node id, worker id, pid (little-endian u32).
    fn owner_address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let counted = self.live(py)?;
        Ok(PyBytes::new(
            py,
            &address_bytes(&counted.core.owner_address(counted.slot)),
        ))
    }

    /// The line of the program that made it, as "file.py:12"; empty where that was not noted.
    fn call_site(&self) -> String {
        let live = self.counted().filter(|counted| core::is_current(&counted.core));
        live.map(|counted| counted.core.site(counted.slot)).unwrap_or_default()
    }

    /// What is known here without asking anybody: (is an error, bytes) of a value that is there; else `None`.
    fn _glance(&self) -> Option<(bool, u64)> {
        let counted = self.counted().filter(|counted| core::is_current(&counted.core))?;
        counted.core.at_a_glance(counted.slot)
    }

    /// Where the task stands that makes it, in Ray's words, and seconds since it was submitted; `None` where that is not
    /// known here, or when it has ended.
    fn _standing(&self) -> Option<(&'static str, f64)> {
        let counted = self.counted().filter(|counted| core::is_current(&counted.core))?;
        let (state, age) = counted.core.standing(counted.slot)?;
        Some((describe::state_word(state), age.as_secs_f64()))
    }

    /// A future of the value, for threads.
    fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        futures::concurrent(py, self.live(py)?)
    }

    /// A future of the value, of the event loop that runs.
    fn as_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        futures::asyncio(py, self.live(py)?)
    }

    fn _on_completed(&self, py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
        futures::call_back(self.live(py)?, callback);
        Ok(())
    }

    fn __await__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let counted = self.live(py)?;
        if let Some(read) = counted.core.try_read(counted.slot) {
            if objects::is_away(&read) {
                futures::drop_read(&counted.core, &read);
                return futures::asyncio(py, counted)?.call_method0("__await__");
            }
            let value = objects::decode_read(py, &counted.core, counted.slot, read)?;
            return Ok(Bound::new(py, Resolved(value.unbind()))?.into_any());
        }
        futures::asyncio(py, counted)?.call_method0("__await__")
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let Ok(other) = other.cast_exact::<Self>() else {
            return false;
        };
        let other = other.get();
        match (&self.counted, &other.counted) {
            (Some(one), Some(two)) if Arc::ptr_eq(&one.core, &two.core) && one.slot == two.slot => true,
            _ => self.id() == other.id(),
        }
    }

    fn __hash__(&self) -> isize {
        hash_of(self.id().as_bytes())
    }

    fn __repr__(&self) -> String {
        format!("ObjectRef({})", self.id().hex())
    }
}

/// What awaiting a reference to a ready object gives: ends at once, without the event loop.
#[pyclass(frozen, module = "ray_rs._core")]
struct Resolved(Py<PyAny>);

#[pymethods]
impl Resolved {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Err(PyStopIteration::new_err((self.0.clone_ref(py),)))
    }
}

/// What copyreg calls for each reference inside a value.
#[pyfunction]
pub fn _reduce_ref<'py>(py: Python<'py>, reference: &Bound<'py, ObjectRef>) -> PyResult<Bound<'py, PyAny>> {
    let this = reference.get();
    let Some(counted) = this.counted() else {
        return Ok((py.get_type::<ObjectRef>(), (this.binary(py),))
            .into_pyobject(py)?
            .into_any());
    };
    if let Some(index) = reftable::collect(counted) {
        return Ok((imports::LOAD_REF.get(py)?, (index,)).into_pyobject(py)?.into_any());
    }
    if core::is_forked() {
        return Err(errors::old_reference(py));
    }
    let (id, owner) = counted.core.export_out_of_band(counted.slot);
    let load = imports::LOAD_OUT_OF_BAND.get(py)?;
    let state = (
        PyBytes::new(py, id.as_bytes()),
        PyBytes::new(py, &address_bytes(&owner)),
    );
    Ok((load, state).into_pyobject(py)?.into_any())
}

#[pyfunction]
pub fn _load_ref(py: Python<'_>, index: usize) -> PyResult<Py<ObjectRef>> {
    reftable::claim_ref(py, index)
}

#[pyfunction]
pub fn _load_out_of_band(py: Python<'_>, id: &Bound<'_, PyAny>, owner: &[u8]) -> PyResult<ObjectRef> {
    let id = ObjectId(*bytes_of::<{ ObjectId::SIZE }>(id)?);
    match (core::current(), address_from(owner)) {
        (Some(core), Some(owner)) => {
            let slot = py.detach(|| core.import_out_of_band(id, owner));
            Ok(ObjectRef::new(Counted::new(&core, slot)))
        }
        _ => Ok(ObjectRef::bare(id)),
    }
}

pub fn address_bytes(address: &WorkerAddress) -> [u8; 60] {
    let mut bytes = [0; 60];
    bytes[..28].copy_from_slice(address.node_id.as_bytes());
    bytes[28..56].copy_from_slice(address.worker_id.as_bytes());
    bytes[56..].copy_from_slice(&address.pid.to_le_bytes());
    bytes
}

pub fn address_from(bytes: &[u8]) -> Option<WorkerAddress> {
    let bytes: &[u8; 60] = bytes.try_into().ok()?;
    Some(WorkerAddress {
        node_id: ray_rs_types::NodeId::from_bytes(&bytes[..28]).ok()?,
        worker_id: ray_rs_types::WorkerId::from_bytes(&bytes[28..56]).ok()?,
        pid: u32::from_le_bytes(bytes[56..].try_into().ok()?),
    })
}
