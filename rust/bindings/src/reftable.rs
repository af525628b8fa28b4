//! References inside values. While a value is pickled, each reference in it goes into a table beside the stream, and the
//! stream names its index; while it is unpickled, each index becomes an object. Which table is meant is a property of
//! the thread, since pickle calls back without saying for whom.

use std::cell::RefCell;
use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use ray_rs_core_worker::{CoreWorker, RefSlot};
use smallvec::SmallVec;

use crate::core;
use crate::object_ref::{Counted, ObjectRef};

struct Writing {
    /// Address of the core worker that the value is for; references of others don't count.
    core: usize,
    /// One count each.
    slots: SmallVec<[RefSlot; 0]>,
}

struct Entry {
    /// Until it is wrapped.
    counted: Option<Counted>,
    object: Option<Py<ObjectRef>>,
}

thread_local! {
    // Stacks: pickling calls user code, which may pickle. No call into Python happens while one is borrowed.
    static WRITING: RefCell<Vec<Writing>> = const { RefCell::new(Vec::new()) };
    static READING: RefCell<Vec<Vec<Entry>>> = const { RefCell::new(Vec::new()) };
}

fn address(core: &Arc<CoreWorker>) -> usize {
    Arc::as_ptr(core).addr()
}

/// Runs a pickler; gives what it made and the references that were met, one count each.
pub fn collecting<R>(
    core: &Arc<CoreWorker>,
    pickle: impl FnOnce() -> PyResult<R>,
) -> PyResult<(R, SmallVec<[RefSlot; 0]>)> {
    WRITING.with_borrow_mut(|tables| {
        tables.push(Writing {
            core: address(core),
            slots: SmallVec::new(),
        })
    });
    let result = pickle();
    let table = WRITING
        .with_borrow_mut(Vec::pop)
        .expect("whoever pushes a table pops it");
    match result {
        Ok(made) => Ok((made, table.slots)),
        Err(error) => {
            drop_all(core, table.slots);
            Err(error)
        }
    }
}

/// Runs a pickler on a value only to see whether it can; the references in it are not counted.
#[pyfunction]
pub fn pickle_on_trial(pickle: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(core) = core::current() else {
        return pickle.call1((value,)).map(drop);
    };
    let (made, slots) = collecting(&core, || pickle.call1((value,)))?;
    drop(made);
    drop_all(&core, slots);
    Ok(())
}

pub fn drop_all(core: &Arc<CoreWorker>, slots: SmallVec<[RefSlot; 0]>) {
    for slot in slots {
        core.drop_ref(slot);
    }
}

/// Adds a reference to the table of the value being pickled by this thread. `None`: there is none.
pub fn collect(counted: &Counted) -> Option<usize> {
    WRITING.with_borrow_mut(|tables| {
        let table = tables.last_mut().filter(|table| table.core == address(&counted.core))?;
        counted.core.add_ref(counted.slot);
        table.slots.push(counted.slot);
        Some(table.slots.len() - 1)
    })
}

/// Runs an unpickler over a value with these references, whose counts are taken over.
pub fn reading<R>(core: &Arc<CoreWorker>, refs: Vec<RefSlot>, unpickle: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    if refs.is_empty() {
        return unpickle();
    }
    let wrap = |slot| Entry {
        counted: Some(Counted::new(core, slot)),
        object: None,
    };
    let table: Vec<Entry> = refs.into_iter().map(wrap).collect();
    READING.with_borrow_mut(|tables| tables.push(table));
    let result = unpickle();
    let table = READING
        .with_borrow_mut(Vec::pop)
        .expect("whoever pushes a table pops it");
    drop(table);
    result
}

fn with_entry<R>(index: usize, take: impl FnOnce(&mut Entry) -> R) -> PyResult<R> {
    READING
        .with_borrow_mut(|tables| tables.last_mut().and_then(|table| table.get_mut(index)).map(take))
        .ok_or_else(|| PyRuntimeError::new_err("a reference was unpickled outside of the value that holds it"))
}

/// The reference at an index of the value being unpickled by this thread; each time the same object.
pub fn claim_ref(py: Python<'_>, index: usize) -> PyResult<Py<ObjectRef>> {
    enum Found {
        Fresh(Counted),
        Made(Py<ObjectRef>),
    }
    let found = with_entry(index, |entry| match (&entry.object, entry.counted.take()) {
        (Some(object), _) => Some(Found::Made(object.clone_ref(py))),
        (None, counted) => counted.map(Found::Fresh),
    })?;
    match found {
        Some(Found::Made(object)) => Ok(object),
        Some(Found::Fresh(counted)) => {
            // Not under the borrow: making an object may run the garbage collector, and that anything.
            let object = Py::new(py, ObjectRef::new(counted))?;
            with_entry(index, |entry| entry.object = Some(object.clone_ref(py)))?;
            Ok(object)
        }
        None => Err(PyRuntimeError::new_err(
            "a reference was unpickled while it was being unpickled",
        )),
    }
}

/// The count at an index, for what wraps it otherwise (an actor's handle).
pub fn claim_count(index: usize) -> PyResult<Counted> {
    with_entry(index, |entry| entry.counted.clone())?
        .ok_or_else(|| PyRuntimeError::new_err("an actor handle was unpickled as a reference before"))
}
