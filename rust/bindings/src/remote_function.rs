//! `RemoteFunction`: what `@remote` makes of a function. After the first call in a session nothing of a call runs in
//! Python but pickle itself.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use ray_rs_core_worker::{CoreWorker, FunctionIndex, FunctionSpec, Returns, STREAMING};
use ray_rs_types::{FunctionId, PlacementGroupId};
use sha2::{Digest, Sha256};

use crate::executor::context;
use crate::object_ref::ObjectRef;
use crate::signature::Signature;
use crate::{args, control, core, gil, imports, placement_group, sites, spans, stream};

/// Its `remote` lies in its `__dict__`, which comes before the method of the class: an object of its own, so that
/// `inspect.signature` and `help` see the function behind it.
#[pyclass(frozen, subclass, dict, weakref, module = "ray_rs._core")]
pub struct RemoteFunction {
    /// As [`Held`].
    call: Option<Py<RemoteCall>>,
}

// `f.remote`. No docstring: that of the function is its own.
#[pyclass(frozen, weakref, module = "ray_rs._core")]
pub struct RemoteCall {
    held: Held,
    name: String,
    /// What a library calls it from now on, by writing to `_function_name`.
    renamed: Mutex<Option<String>>,
    signature: Signature,
    /// What is settled for one connection.
    bound: Mutex<Option<Arc<Registered>>>,
    /// The same for calls made inside of placement groups that capture them.
    captured: Mutex<Vec<Arc<Registered>>>,
}

/// What the garbage collector may see before it is there: CPython 3.11 makes an object's `__dict__` when it has already
/// shown the object to the collector, and that is before the extension writes to it. All of it is zero then, which is
/// `None` of these.
struct Held {
    function: Option<Py<PyAny>>,
    options: Option<Py<PyDict>>,
    shared: Option<Py<PyAny>>,
}

const MADE: &str = "only the collector sees an object that is not made yet";

struct Registered {
    definitions: u64,
    core: Arc<CoreWorker>,
    index: FunctionIndex,
    name: Arc<str>,
    num_returns: u32,
    /// It says nothing of its node: a group that captures its caller's children takes it.
    follows_caller: bool,
    group: Option<PlacementGroupId>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.core.drop_function(self.index);
    }
}

impl RemoteCall {
    /// A call that fits the signature.
    fn submit<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let to = Self::registered(slf)?;
        let args = args::encode(&to.core, args, kwargs, &to.name)?;
        let returns = to.core.submit(to.index, args, to.num_returns);
        sites::note(slf.py(), &to.core, &returns);
        wrap_returns(slf.py(), &to.core, returns, to.num_returns)
    }

    fn registered(slf: &Bound<'_, Self>) -> PyResult<Arc<Registered>> {
        if let Some(group) = context::capturing_group(slf.py())? {
            return Self::registered_in(slf, group);
        }
        let known = slf.get().bound.lock().clone();
        match known {
            Some(known) if known.definitions == core::definitions() => Ok(known),
            older => {
                drop(older);
                let registered = Self::register(slf)?;
                let older = slf.get().bound.lock().replace(Arc::clone(&registered));
                drop(older);
                Ok(registered)
            }
        }
    }

    #[cold]
    fn registered_in(slf: &Bound<'_, Self>, group: PlacementGroupId) -> PyResult<Arc<Registered>> {
        let definitions = core::definitions();
        let fits = |known: &&Arc<Registered>| {
            known.definitions == definitions && (!known.follows_caller || known.group == Some(group))
        };
        if let Some(known) = slf.get().captured.lock().iter().find(fits).cloned() {
            return Ok(known);
        }
        let registered = Self::register(slf)?;
        let mut captured = slf.get().captured.lock();
        // What is dropped may be the last of an old connection: not under the lock.
        let (mut kept, older): (Vec<_>, Vec<_>) =
            captured.drain(..).partition(|known| known.definitions == definitions);
        kept.push(Arc::clone(&registered));
        *captured = kept;
        drop(captured);
        drop(older);
        Ok(registered)
    }

    #[cold]
    fn register(slf: &Bound<'_, Self>) -> PyResult<Arc<Registered>> {
        let py = slf.py();
        let core = core::require(py)?;
        let definitions = core::definitions();
        let plan = imports::PREPARE.get(py)?.call1((slf,))?;
        let blob = plan.get_item("blob")?.cast_into::<PyBytes>()?.as_bytes().to_vec();
        let id = content_id(&blob);
        let name: Arc<str> = plan.get_item("name")?.extract::<String>()?.into();
        let definition = gil::wait_for(py, |interrupt| core.export_function(id, blob, interrupt))?;
        let spec = FunctionSpec {
            id,
            definition,
            name: Arc::clone(&name),
            resources: control::resources(&plan.get_item("resources")?)?,
            runtime_env: plan.get_item("runtime_env")?.extract::<String>()?.into(),
            strategy: placement_group::strategy(&plan.get_item("strategy")?)?,
            captures_children: plan.get_item("captures_children")?.extract()?,
            max_retries: plan.get_item("max_retries")?.extract()?,
            retry_exceptions: plan.get_item("retry_exceptions")?.extract()?,
            max_calls: plan.get_item("max_calls")?.extract()?,
            backpressure: plan.get_item("backpressure")?.extract()?,
            time_limit: control::time_limit(plan.get_item("timeout_s")?.extract()?),
            unlisted: plan.get_item("unlisted")?.extract()?,
        };
        let num_returns = stream::num_returns(plan.get_item("num_returns")?.extract()?);
        let index = core.register_function(spec);
        let registered = Arc::new(Registered {
            definitions,
            core,
            index,
            name,
            num_returns,
            follows_caller: plan.get_item("follows_caller")?.extract()?,
            group: context::capturing_group(py)?,
        });
        Ok(registered)
    }

    fn function(&self) -> &Py<PyAny> {
        self.held.function.as_ref().expect(MADE)
    }

    fn default_options(&self) -> &Py<PyDict> {
        self.held.options.as_ref().expect(MADE)
    }

    fn shared(&self) -> &Py<PyAny> {
        self.held.shared.as_ref().expect(MADE)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.held.function)?;
        visit.call(&self.held.options)?;
        visit.call(&self.held.shared)
    }

    fn attribute<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.function().bind(py).getattr(name)
    }
}

#[pymethods]
impl RemoteCall {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        this.signature.check(args, kwargs)?;
        if spans::is_on() {
            let called = spans::Called {
                class: "",
                name: &this._function_name(),
                actor_id: String::new(),
            };
            return spans::submitting(slf.py(), called, kwargs, |kwargs| Self::submit(slf, args, Some(kwargs)));
        }
        Self::submit(slf, args, kwargs)
    }

    #[getter]
    fn __wrapped__(&self, py: Python<'_>) -> Py<PyAny> {
        self.function().clone_ref(py)
    }

    #[getter]
    fn __doc__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.attribute(py, "__doc__")
    }

    #[getter]
    fn __name__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.attribute(py, "__name__")
    }

    #[getter]
    fn __qualname__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.attribute(py, "__qualname__")
    }

    #[getter]
    fn _function(&self, py: Python<'_>) -> Py<PyAny> {
        self.function().clone_ref(py)
    }

    #[getter]
    fn _function_name(&self) -> String {
        self.renamed.lock().clone().unwrap_or_else(|| self.name.clone())
    }

    #[getter]
    fn _default_options(&self, py: Python<'_>) -> Py<PyDict> {
        self.default_options().clone_ref(py)
    }

    #[getter]
    fn _signature(&self, py: Python<'_>) -> Py<PyAny> {
        self.signature.python(py)
    }

    #[getter]
    fn _shared(&self, py: Python<'_>) -> Py<PyAny> {
        self.shared().clone_ref(py)
    }

    /// It is its function's `remote`.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let made = imports::REBUILD.get(py)?.call1(self.state(py))?;
        let getattr = py.import("builtins")?.getattr("getattr")?;
        Ok((getattr, (made, "remote")).into_pyobject(py)?.into_any())
    }

    fn __repr__(&self) -> String {
        format!("RemoteFunction({}).remote", self.name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse(&visit)
    }
}

impl RemoteCall {
    /// What makes another one.
    fn state<'py>(&self, py: Python<'py>) -> (Bound<'py, PyAny>, &str, Py<PyAny>, Bound<'py, PyDict>) {
        (
            self.function().bind(py).clone(),
            &self.name,
            self.signature.python(py),
            self.default_options().bind(py).clone(),
        )
    }
}

impl RemoteFunction {
    fn call(&self) -> &RemoteCall {
        self.call.as_ref().expect(MADE).get()
    }
}

#[pymethods]
impl RemoteFunction {
    #[new]
    #[pyo3(signature = (function, name, signature, options, shared=None))]
    fn new(
        py: Python<'_>,
        function: Py<PyAny>,
        name: String,
        signature: &Bound<'_, PyAny>,
        options: &Bound<'_, PyAny>,
        shared: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let copied = PyDict::new(py);
        copied.update(options.cast()?)?;
        let call = RemoteCall {
            held: Held {
                function: Some(function),
                options: Some(copied.unbind()),
                shared: Some(shared.unwrap_or_else(|| PyDict::new(py).into_any().unbind())),
            },
            name,
            renamed: Mutex::new(None),
            signature: Signature::new(signature)?,
            bound: Mutex::new(None),
            captured: Mutex::new(Vec::new()),
        };
        Ok(Self {
            call: Some(Py::new(py, call)?),
        })
    }

    /// What lies in the `__dict__` as `remote`.
    #[getter]
    fn _call(&self, py: Python<'_>) -> Py<RemoteCall> {
        self.call.as_ref().expect(MADE).clone_ref(py)
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn remote<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        RemoteCall::__call__(slf.get().call.as_ref().expect(MADE).bind(slf.py()), args, kwargs)
    }

    #[pyo3(signature = (args=None, kwargs=None, **options))]
    fn _remote<'py>(
        slf: &Bound<'py, Self>,
        args: Option<&Bound<'py, PyAny>>,
        kwargs: Option<&Bound<'py, PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let target = match options {
            Some(options) if !options.is_empty() => Self::options(slf, Some(options))?,
            _ => slf.clone().into_any(),
        };
        call_remote(&target, args, kwargs)
    }

    #[pyo3(signature = (**options))]
    fn options<'py>(slf: &Bound<'py, Self>, options: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let options = options.cloned().unwrap_or_else(|| PyDict::new(py));
        imports::FUNCTION_OPTIONS.get(py)?.call1((slf, options))
    }

    /// Another one of the same function with these (complete) options.
    fn _with_options<'py>(slf: &Bound<'py, Self>, options: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get().call());
        let made = slf.get_type().call1((
            this.function().bind(py),
            &this.name,
            this.signature.python(py),
            options,
            this.shared().bind(py),
        ))?;
        let attributes = made.getattr("__dict__")?;
        attributes.call_method1("update", (slf.getattr("__dict__")?,))?;
        attributes.set_item("remote", made.getattr("_call")?)?;
        Ok(made)
    }

    #[getter]
    fn _function(&self, py: Python<'_>) -> Py<PyAny> {
        self.call()._function(py)
    }

    #[getter]
    fn _function_name(&self) -> String {
        self.call()._function_name()
    }

    /// In Ray it is a plain attribute, and libraries set it.
    #[setter(_function_name)]
    fn rename(&self, name: String) {
        *self.call().renamed.lock() = Some(name);
    }

    #[getter]
    fn _default_options(&self, py: Python<'_>) -> Py<PyDict> {
        self.call()._default_options(py)
    }

    #[getter]
    fn _signature(&self, py: Python<'_>) -> Py<PyAny> {
        self.call()._signature(py)
    }

    #[getter]
    fn _shared(&self, py: Python<'_>) -> Py<PyAny> {
        self.call()._shared(py)
    }

    #[pyo3(signature = (*_args, **_kwargs))]
    fn __call__(&self, _args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let name = &self.call().name;
        Err(PyTypeError::new_err(format!(
            "Remote functions cannot be called directly. Instead of running '{name}()', try '{name}.remote()'."
        )))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let state = self.call().state(py);
        Ok((imports::REBUILD.get(py)?.clone(), state.into_pyobject(py)?))
    }

    fn __repr__(&self) -> String {
        format!("RemoteFunction({})", self.call().name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.call)
    }
}

/// The id of a pickled function or class: the hash of its content.
pub fn content_id(blob: &[u8]) -> FunctionId {
    let digest = Sha256::digest(blob);
    FunctionId::from_bytes(&digest[..FunctionId::SIZE]).expect("a digest is longer than an id")
}

/// One reference, a list of them, `None` for no returns, or a generator.
pub fn wrap_returns<'py>(
    py: Python<'py>,
    core: &Arc<CoreWorker>,
    returns: Returns,
    num_returns: u32,
) -> PyResult<Bound<'py, PyAny>> {
    match returns.as_slice() {
        [slot] if num_returns == STREAMING => stream::wrap(py, core, ObjectRef::wrap(py, core, *slot)?),
        [slot] => Ok(ObjectRef::wrap(py, core, *slot)?.into_bound(py).into_any()),
        [] => Ok(py.None().into_bound(py)),
        several => {
            let refs = several
                .iter()
                .map(|slot| ObjectRef::wrap(py, core, *slot))
                .collect::<PyResult<Vec<_>>>()?;
            Ok(PyList::new(py, refs)?.into_any())
        }
    }
}

/// `target.remote(*args, **kwargs)`.
pub fn call_remote<'py>(
    target: &Bound<'py, PyAny>,
    args: Option<&Bound<'py, PyAny>>,
    kwargs: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = target.py();
    let args = match args {
        Some(args) if !args.is_none() => args.try_iter()?.collect::<PyResult<Vec<_>>>()?,
        _ => Vec::new(),
    };
    let options = PyDict::new(py);
    if let Some(kwargs) = kwargs.filter(|kwargs| !kwargs.is_none()) {
        options.update(kwargs.cast()?)?;
    }
    target.getattr("remote")?.call(PyTuple::new(py, args)?, Some(&options))
}
