//! `ActorHandle` and `ActorMethod`: calls go from here straight into the engine.

use std::sync::Arc;

use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple, PyType};
use ray_rs_core_worker::{ActorIndex, CoreWorker};
use ray_rs_types::{ActorId, ObjectId};

use crate::descriptor::{ActorDescriptor, RegisteredMethod, dict_or_empty};
use crate::ids::{PyActorId, bytes_of, hash_of};
use crate::object_ref::{Counted, address_bytes, address_from};
use crate::remote_function::{call_remote, wrap_returns};
use crate::{args, core, errors, gil, imports, reftable, sites, spans, stream};

/// One actor, as seen from one connection. Handles and their methods share it, so that a method outlives its handle and
/// neither holds the other.
pub struct Target {
    pub core: Arc<CoreWorker>,
    epoch: u64,
    pub actor_id: ActorId,
    actor: ActorIndex,
    /// The count of the actor's handles; `None` for a weak handle.
    counted: Option<Counted>,
}

impl Target {
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        if self.epoch == core::epoch() {
            Ok(())
        } else {
            Err(errors::old_handle(py, &self.actor_id.hex()))
        }
    }
}

#[pyclass(frozen, weakref, module = "ray_rs.actor")]
pub struct ActorHandle {
    pub target: Arc<Target>,
    descriptor: Py<ActorDescriptor>,
    /// Made when first used; by index of the descriptor's methods.
    methods: Vec<PyOnceLock<Py<ActorMethod>>>,
}

impl ActorHandle {
    pub fn new(
        core: &Arc<CoreWorker>,
        actor_id: ActorId,
        actor: ActorIndex,
        counted: Option<Counted>,
        descriptor: Py<ActorDescriptor>,
    ) -> Self {
        let target = Target {
            core: Arc::clone(core),
            epoch: core::epoch(),
            actor_id,
            actor,
            counted,
        };
        let methods = descriptor.get().methods.iter().map(|_| PyOnceLock::new()).collect();
        Self {
            target: Arc::new(target),
            descriptor,
            methods,
        }
    }

    /// For an actor known by its id only.
    pub fn of_id(
        py: Python<'_>,
        core: &Arc<CoreWorker>,
        actor_id: ActorId,
        counted: Option<Counted>,
        descriptor: &[u8],
    ) -> PyResult<Self> {
        let descriptor = ActorDescriptor::decoded(py, descriptor)?;
        let actor = core.actor_index(actor_id, descriptor.get().max_pending_calls);
        Ok(Self::new(core, actor_id, actor, counted, descriptor))
    }

    fn method(&self, py: Python<'_>, index: usize) -> PyResult<Py<ActorMethod>> {
        let make = || {
            let descriptor = self.descriptor.get();
            let made = ActorMethod {
                target: Arc::clone(&self.target),
                descriptor: self.descriptor.clone_ref(py),
                index,
                method: descriptor.registered(&self.target.core, index),
                num_returns: descriptor.methods[index].num_returns,
            };
            Py::new(py, made)
        };
        Ok(self.methods[index].get_or_try_init(py, make)?.clone_ref(py))
    }
}

#[pymethods]
impl ActorHandle {
    fn __getattribute__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        match this.descriptor.get().find(name) {
            Some(index) => Ok(this.method(slf.py(), index)?.into_bound(slf.py()).into_any()),
            None => imports::OBJECT_GETATTRIBUTE.get(slf.py())?.call1((slf, name)),
        }
    }

    /// What is left when neither of the two above knows the name.
    fn __getattr__(&self, name: &str) -> PyResult<Py<PyAny>> {
        Err(PyAttributeError::new_err(format!(
            "'ActorHandle' object has no attribute '{name}'"
        )))
    }

    #[classmethod]
    fn __class_getitem__<'py>(class: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        imports::GENERIC_ALIAS.get(class.py())?.call1((class, item))
    }

    #[getter]
    fn _actor_id(&self) -> PyActorId {
        PyActorId(self.target.actor_id)
    }

    #[getter]
    fn _ray_actor_id(&self) -> PyActorId {
        self._actor_id()
    }

    #[getter]
    fn _ray_descriptor(&self, py: Python<'_>) -> Py<ActorDescriptor> {
        self.descriptor.clone_ref(py)
    }

    #[getter]
    fn _ray_is_weak(&self) -> bool {
        self.target.counted.is_none()
    }

    fn __dir__(&self) -> Vec<String> {
        self.descriptor
            .get()
            .methods
            .iter()
            .map(|method| method.name.to_string())
            .collect()
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other
            .cast::<Self>()
            .is_ok_and(|other| other.get().target.actor_id == self.target.actor_id)
    }

    fn __hash__(&self) -> isize {
        hash_of(self.target.actor_id.as_bytes())
    }

    fn __repr__(&self) -> String {
        format!(
            "Actor({}, {})",
            self.descriptor.get().class_name_text(),
            self.target.actor_id.hex()
        )
    }
}

#[pyclass(frozen, weakref, module = "ray_rs.actor")]
pub struct ActorMethod {
    target: Arc<Target>,
    descriptor: Py<ActorDescriptor>,
    index: usize,
    method: Arc<RegisteredMethod>,
    num_returns: u32,
}

impl ActorMethod {
    fn name(&self) -> &str {
        &self.descriptor.get().methods[self.index].name
    }

    /// A call that fits the signature.
    fn submit<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = args.py();
        let target = &*self.target;
        target.check(py)?;
        let args = args::encode(&target.core, args, kwargs, self.name())?;
        let handle = target.counted.as_ref().map(|counted| counted.slot);
        let returns = target
            .core
            .actor_call(target.actor, handle, self.method.index, args, self.num_returns)
            .map_err(|error| errors::from_core(py, error))?;
        sites::note(py, &target.core, &returns);
        wrap_returns(py, &target.core, returns, self.num_returns)
    }
}

#[pymethods]
impl ActorMethod {
    #[pyo3(signature = (*args, **kwargs))]
    fn remote<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = args.py();
        let descriptor = self.descriptor.get();
        descriptor.methods[self.index].signature.check(args, kwargs)?;
        if spans::is_on() {
            let called = spans::Called {
                class: descriptor.class_name_text(),
                name: self.name(),
                actor_id: self.target.actor_id.hex(),
            };
            return spans::submitting(py, called, kwargs, |kwargs| self.submit(args, Some(kwargs)));
        }
        self.submit(args, kwargs)
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
        imports::METHOD_OPTIONS
            .get(py)?
            .call1((slf, dict_or_empty(py, options)))
    }

    #[pyo3(signature = (*, name=None, num_returns=None, max_task_retries=None, retry_exceptions=None, timeout_s=None,
                        backpressure=None, concurrency_group=None, unlisted=None))]
    #[allow(
        clippy::too_many_arguments,
        reason = "they are keywords, one for each option of a method"
    )]
    fn _with_options(
        &self,
        py: Python<'_>,
        name: Option<&str>,
        num_returns: Option<i64>,
        max_task_retries: Option<i32>,
        retry_exceptions: Option<Vec<u8>>,
        timeout_s: Option<f64>,
        backpressure: Option<u32>,
        concurrency_group: Option<&str>,
        unlisted: Option<bool>,
    ) -> Self {
        let descriptor = self.descriptor.get();
        let method = &descriptor.methods[self.index];
        let registered = match (
            name,
            max_task_retries,
            &retry_exceptions,
            timeout_s,
            backpressure,
            concurrency_group,
            unlisted,
        ) {
            (None, None, None, None, None, None, None) => Arc::clone(&self.method),
            _ => {
                let retries = (
                    max_task_retries.unwrap_or(method.max_task_retries),
                    retry_exceptions.unwrap_or_else(|| method.retry_exceptions.clone()),
                );
                let limits = (
                    timeout_s.or(method.timeout_s),
                    backpressure.unwrap_or(method.backpressure),
                );
                let unlisted = unlisted.unwrap_or(method.unlisted);
                let spec = descriptor.spec(method, name, retries, limits, concurrency_group, unlisted);
                RegisteredMethod::new(&self.target.core, spec)
            }
        };
        Self {
            target: Arc::clone(&self.target),
            descriptor: self.descriptor.clone_ref(py),
            index: self.index,
            method: registered,
            num_returns: num_returns.map_or(self.num_returns, stream::num_returns),
        }
    }

    /// Names of the concurrency groups that its actor has.
    #[getter]
    fn _concurrency_groups(&self, py: Python<'_>) -> Py<PyAny> {
        self.descriptor.get().groups(py)
    }

    /// Its actor is durable.
    #[getter]
    fn _is_durable(&self) -> bool {
        self.descriptor.get().is_durable
    }

    /// How many references a call gives, or "streaming", or "dynamic".
    #[getter]
    fn _num_returns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        stream::told_returns(py, self.num_returns)
    }

    #[getter]
    fn _method_name(&self) -> &str {
        self.name()
    }

    #[getter]
    fn _actor_id(&self) -> PyActorId {
        PyActorId(self.target.actor_id)
    }

    #[pyo3(signature = (*_args, **_kwargs))]
    fn __call__(&self, _args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let name = self.name();
        Err(PyTypeError::new_err(format!(
            "Actor methods cannot be called directly. Instead of running 'object.{name}()', try \
             'object.{name}.remote()'."
        )))
    }

    /// A method is its handle and its name.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let descriptor = self.descriptor.clone_ref(py);
        let target = &self.target;
        let handle = ActorHandle::new(
            &target.core,
            target.actor_id,
            target.actor,
            target.counted.clone(),
            descriptor,
        );
        let getattr = py.import("builtins")?.getattr("getattr")?;
        Ok((getattr, (handle, self.name())).into_pyobject(py)?.into_any())
    }

    fn __repr__(&self) -> String {
        let class_name = self.descriptor.get().class_name_text();
        format!(
            "ActorMethod({class_name}.{}, {})",
            self.name(),
            self.target.actor_id.hex()
        )
    }
}

/// What copyreg calls for each handle inside a value.
#[pyfunction]
pub fn _reduce_actor<'py>(py: Python<'py>, handle: &Bound<'py, ActorHandle>) -> PyResult<Bound<'py, PyAny>> {
    let this = handle.get();
    let target = &this.target;
    let actor_id = PyBytes::new(py, target.actor_id.as_bytes());
    let descriptor = this.descriptor.get().encoded(py)?;
    let Some(counted) = &target.counted else {
        return Ok((imports::LOAD_ACTOR.get(py)?, (actor_id, descriptor, py.None()))
            .into_pyobject(py)?
            .into_any());
    };
    if let Some(index) = reftable::collect(counted) {
        return Ok((imports::LOAD_ACTOR.get(py)?, (actor_id, descriptor, index))
            .into_pyobject(py)?
            .into_any());
    }
    if core::is_forked() {
        return Err(errors::old_reference(py));
    }
    let (id, owner) = counted.core.export_out_of_band(counted.slot);
    let state = (
        actor_id,
        descriptor,
        PyBytes::new(py, id.as_bytes()),
        PyBytes::new(py, &address_bytes(&owner)),
    );
    Ok((imports::LOAD_ACTOR_OUT_OF_BAND.get(py)?, state)
        .into_pyobject(py)?
        .into_any())
}

#[pyfunction]
pub fn _load_actor(
    py: Python<'_>,
    actor_id: &Bound<'_, PyAny>,
    descriptor: &[u8],
    index: Option<usize>,
) -> PyResult<ActorHandle> {
    let counted = index.map(reftable::claim_count).transpose()?;
    let core = match &counted {
        Some(counted) => Arc::clone(&counted.core),
        None => core::require(py)?,
    };
    ActorHandle::of_id(py, &core, ActorId(*bytes_of(actor_id)?), counted, descriptor)
}

#[pyfunction]
pub fn _load_actor_out_of_band(
    py: Python<'_>,
    actor_id: &Bound<'_, PyAny>,
    descriptor: &[u8],
    handle_id: &Bound<'_, PyAny>,
    owner: &[u8],
) -> PyResult<ActorHandle> {
    let core = core::require(py)?;
    let owner = address_from(owner).ok_or_else(|| PyValueError::new_err("not the address of a worker"))?;
    let handle_id = ObjectId(*bytes_of(handle_id)?);
    let slot = py.detach(|| core.import_out_of_band(handle_id, owner));
    let counted = Counted::new(&core, slot);
    ActorHandle::of_id(py, &core, ActorId(*bytes_of(actor_id)?), Some(counted), descriptor)
}

/// Ends an actor's process at once, whatever it does.
///
/// Calls that wait, and later ones, fail with `ActorDiedError`; if the actor may restart, those that were under way
/// fail with `ActorUnavailableError`. An actor whose handles are all dropped ends by itself, after its last call.
///
/// Args:
///     actor: A handle.
///     no_restart: The actor is not to come back, whatever its `max_restarts` is.
///
/// Raises:
///     ValueError: Not a handle.
#[pyfunction]
#[pyo3(signature = (actor, *, no_restart=true))]
pub fn kill(py: Python<'_>, actor: &Bound<'_, PyAny>, no_restart: bool) -> PyResult<()> {
    let Ok(handle) = actor.cast_exact::<ActorHandle>() else {
        return Err(PyValueError::new_err(format!(
            "ray.kill() only supported for actors. For tasks, try ray.cancel(). Got: {}.",
            actor.get_type()
        )));
    };
    core::require(py)?;
    let target = &handle.get().target;
    target.check(py)?;
    gil::wait_for(py, |interrupt| {
        target.core.kill_actor(target.actor_id, no_restart, interrupt)
    })
}
