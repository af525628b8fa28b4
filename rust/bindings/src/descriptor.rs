//! `ActorDescriptor`: what every handle of an actor's class shares. It travels with handles as bytes and is rebuilt once
//! in each process.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use ray_rs_core_worker::{CoreWorker, MethodIndex, MethodSpec};
use rustc_hash::FxHashMap;

use crate::signature::Signature;
use crate::{control, core, imports, pickle, stream};

pub struct Method {
    pub name: Arc<str>,
    pub signature: Signature,
    pub num_returns: u32,
    pub max_task_retries: i32,
    pub retry_exceptions: Vec<u8>,
    /// Seconds.
    pub timeout_s: Option<f64>,
    pub backpressure: u32,
    /// Its concurrency group; empty: the default one.
    pub group: Arc<str>,
    /// No listing shows its calls.
    pub unlisted: bool,
}

#[pyclass(frozen, module = "ray_rs._core")]
pub struct ActorDescriptor {
    class_name: String,
    module: String,
    pub methods: Vec<Method>,
    by_name: FxHashMap<String, usize>,
    /// Address of the interned name -> index. Attribute names in code are interned, so this nearly always hits.
    by_address: FxHashMap<usize, usize>,
    /// Keeps those addresses taken.
    names: Vec<Py<PyString>>,
    pub max_pending_calls: Option<usize>,
    /// Its actors are durable.
    pub is_durable: bool,
    extra: Py<PyAny>,
    bytes: PyOnceLock<Py<PyBytes>>,
    /// The constructor's arguments, for `to_bytes`.
    given: Py<PyAny>,
    /// For one connection: what the engine calls each method.
    registered: Mutex<(u64, Vec<Option<Arc<RegisteredMethod>>>)>,
}

/// A method as the engine knows it, for as long as somebody may call it.
pub struct RegisteredMethod {
    /// A class outlives the connection, which is not to stay open for that.
    core: Weak<CoreWorker>,
    pub index: MethodIndex,
}

impl RegisteredMethod {
    pub fn new(core: &Arc<CoreWorker>, spec: MethodSpec) -> Arc<Self> {
        Arc::new(Self {
            core: Arc::downgrade(core),
            index: core.register_method(spec),
        })
    }
}

impl Drop for RegisteredMethod {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.drop_method(self.index);
        }
    }
}

impl ActorDescriptor {
    pub fn find(&self, name: &Bound<'_, PyString>) -> Option<usize> {
        if let Some(index) = self.by_address.get(&name.as_ptr().addr()) {
            return Some(*index);
        }
        self.by_name.get(name.to_str().ok()?).copied()
    }

    pub fn groups(&self, py: Python<'_>) -> Py<PyAny> {
        self.extra.clone_ref(py)
    }

    pub fn class_name_text(&self) -> &str {
        &self.class_name
    }

    /// What the engine calls a method in this connection.
    pub fn registered(&self, core: &Arc<CoreWorker>, index: usize) -> Arc<RegisteredMethod> {
        let epoch = core::epoch();
        let mut registered = self.registered.lock();
        if registered.0 != epoch {
            *registered = (epoch, vec![None; self.methods.len()]);
        }
        let method = registered.1[index].get_or_insert_with(|| {
            let method = &self.methods[index];
            let retries = (method.max_task_retries, method.retry_exceptions.clone());
            let limits = (method.timeout_s, method.backpressure);
            RegisteredMethod::new(core, self.spec(method, None, retries, limits, None, method.unlisted))
        });
        Arc::clone(method)
    }

    pub fn spec(
        &self,
        method: &Method,
        name: Option<&str>,
        (max_task_retries, retry_exceptions): (i32, Vec<u8>),
        (timeout_s, backpressure): (Option<f64>, u32),
        group: Option<&str>,
        unlisted: bool,
    ) -> MethodSpec {
        let name = match name {
            Some(name) => name.into(),
            None => format!("{}.{}", self.class_name, method.name).into(),
        };
        MethodSpec {
            class_name: self.class_name.as_str().into(),
            name,
            method: Arc::clone(&method.name),
            max_task_retries,
            retry_exceptions,
            time_limit: control::time_limit(timeout_s),
            backpressure,
            group: group.map_or_else(|| Arc::clone(&method.group), Into::into),
            unlisted,
            is_durable: self.is_durable,
        }
    }

    pub fn encoded<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyBytes>> {
        let dump = || -> PyResult<Py<PyBytes>> {
            let stream = imports::PICKLE_DUMPS.get(py)?.call1((self.given.bind(py), 5))?;
            Ok(stream.cast_into::<PyBytes>()?.unbind())
        };
        Ok(self.bytes.get_or_try_init(py, dump)?.bind(py))
    }

    /// From what another process encoded.
    pub fn decoded(py: Python<'_>, data: &[u8]) -> PyResult<Py<Self>> {
        // One for each class that this process has met.
        static KNOWN: Mutex<Option<FxHashMap<Vec<u8>, Py<ActorDescriptor>>>> = Mutex::new(None);
        if let Some(known) = KNOWN
            .lock()
            .as_ref()
            .and_then(|known| known.get(data))
            .map(|known| known.clone_ref(py))
        {
            return Ok(known);
        }
        let given = pickle::loads(py, data)?;
        let (class_name, module, methods, max_pending_calls, extra, is_durable) = given.extract()?;
        let made = Py::new(
            py,
            Self::new(py, class_name, module, methods, max_pending_calls, extra, is_durable)?,
        )?;
        let older = KNOWN
            .lock()
            .get_or_insert_default()
            .insert(data.to_vec(), made.clone_ref(py));
        drop(older);
        Ok(made)
    }
}

#[pymethods]
impl ActorDescriptor {
    #[new]
    #[pyo3(signature = (class_name, module, methods, max_pending_calls=-1, extra=None, is_durable=false))]
    fn new(
        py: Python<'_>,
        class_name: String,
        module: String,
        methods: Bound<'_, PyAny>,
        max_pending_calls: isize,
        extra: Option<Py<PyAny>>,
        is_durable: bool,
    ) -> PyResult<Self> {
        let extra = extra.unwrap_or_else(|| py.None());
        let rows = PyList::empty(py);
        let (mut found, mut by_name, mut by_address, mut names) =
            (Vec::new(), FxHashMap::default(), FxHashMap::default(), Vec::new());
        for row in methods.try_iter()? {
            let row = row?;
            type Row<'py> = (
                String,
                Bound<'py, PyAny>,
                i64,
                i32,
                Vec<u8>,
                bool,
                bool,
                Option<f64>,
                u32,
                String,
            );
            let (
                name,
                signature,
                num_returns,
                max_task_retries,
                retry_exceptions,
                _is_async,
                unlisted,
                timeout_s,
                backpressure,
                group,
            ): Row<'_> = row.extract()?;
            let interned = PyString::intern(py, &name);
            by_address.insert(interned.as_ptr().addr(), found.len());
            names.push(interned.unbind());
            by_name.insert(name.clone(), found.len());
            let signature = Signature::new(&signature)?;
            found.push(Method {
                name: name.into(),
                signature,
                num_returns: stream::num_returns(num_returns),
                max_task_retries,
                retry_exceptions,
                timeout_s,
                backpressure,
                group: group.into(),
                unlisted,
            });
            rows.append(row)?;
        }
        let given = (&class_name, &module, rows, max_pending_calls, &extra, is_durable)
            .into_pyobject(py)?
            .into_any()
            .unbind();
        Ok(Self {
            class_name,
            module,
            methods: found,
            by_name,
            by_address,
            names,
            max_pending_calls: usize::try_from(max_pending_calls).ok().filter(|limit| *limit > 0),
            is_durable,
            extra,
            bytes: PyOnceLock::new(),
            given,
            registered: Mutex::new((0, Vec::new())),
        })
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Py<Self>> {
        Self::decoded(py, data)
    }

    fn to_bytes(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        Ok(self.encoded(py)?.clone().unbind())
    }

    #[getter]
    fn class_name(&self) -> &str {
        &self.class_name
    }

    #[getter]
    fn module(&self) -> &str {
        &self.module
    }

    #[getter]
    fn extra(&self, py: Python<'_>) -> Py<PyAny> {
        self.extra.clone_ref(py)
    }

    #[getter]
    fn method_names<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, &self.names)
    }

    /// Descriptors of equal content are told apart by nobody.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (Py<PyBytes>,))> {
        let load = py.get_type::<Self>().getattr("from_bytes")?;
        Ok((load, (self.to_bytes(py)?,)))
    }

    fn __repr__(&self) -> String {
        format!("ActorDescriptor({})", self.class_name)
    }
}

/// A dict of keyword arguments, or an empty one.
pub fn dict_or_empty<'py>(py: Python<'py>, dict: Option<&Bound<'py, PyDict>>) -> Bound<'py, PyDict> {
    dict.cloned().unwrap_or_else(|| PyDict::new(py))
}
