//! What there is to call: functions unpickled once by their id, and the methods of the hosted actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use ray_rs_core_worker::Callee;
use ray_rs_types::FunctionId;
use rustc_hash::FxHashMap;

use super::Executor;
use crate::{errors, gil, imports, pickle, spans};

pub struct Function {
    callable: Py<PyAny>,
    /// Runs so far, for `max_calls`.
    pub runs: AtomicU32,
}

pub struct Method {
    name: Py<PyString>,
    /// One that every actor has besides its class's own; takes the instance first.
    special: Option<Py<PyAny>>,
    /// The class's method, bound to the instance. `None` when only the instance can say what the name means.
    bound: Option<Py<PyAny>>,
    pub is_async: bool,
}

#[derive(Clone)]
pub enum Callable {
    Function(Arc<Function>),
    Method(Arc<Method>),
}

/// Found again by the index that a callee's definition carries (plus one: 0 is none yet).
#[derive(Default)]
pub struct Callees {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    all: Vec<Callable>,
    by_id: FxHashMap<FunctionId, u32>,
    by_method: FxHashMap<Arc<str>, u32>,
}

impl Callees {
    fn at(&self, slot: u32) -> Option<Callable> {
        self.known.lock().all.get(slot.checked_sub(1)? as usize).cloned()
    }

    fn known_slot(&self, callee: &Callee) -> Option<u32> {
        let known = self.known.lock();
        match &callee.function_id {
            Some(id) => known.by_id.get(id).copied(),
            None => known.by_method.get(&callee.method).copied(),
        }
    }

    fn add(&self, callee: &Callee, made: Callable) -> u32 {
        let mut known = self.known.lock();
        known.all.push(made);
        let slot = known.all.len() as u32;
        match &callee.function_id {
            Some(id) => known.by_id.insert(*id, slot),
            None => known.by_method.insert(Arc::clone(&callee.method), slot),
        };
        slot
    }

    /// The callable of a definition if it was ever called.
    pub fn find(&self, callee: &Callee) -> Option<Callable> {
        self.at(callee.binding_slot.load(Ordering::Relaxed))
    }
}

impl Executor {
    pub fn callable(&self, py: Python<'_>, callee: &Callee) -> PyResult<Callable> {
        match self.callees.find(callee) {
            Some(found) => Ok(found),
            None => self.load(py, callee),
        }
    }

    #[cold]
    fn load(&self, py: Python<'_>, callee: &Callee) -> PyResult<Callable> {
        let slot = match self.callees.known_slot(callee) {
            Some(slot) => slot,
            None => {
                let made = match callee.function_id {
                    Some(id) => self.load_function(py, id, &callee.definition)?,
                    None => self.load_method(py, &callee.method)?,
                };
                self.callees.add(callee, made)
            }
        };
        callee.binding_slot.store(slot, Ordering::Relaxed);
        Ok(self.callees.at(slot).expect("the slot was just taken"))
    }

    fn load_function(&self, py: Python<'_>, id: FunctionId, definition: &[u8]) -> PyResult<Callable> {
        let callable = if definition.is_empty() {
            let blob = gil::wait_for(py, |interrupt| self.core.fetch_blob(id, interrupt))?;
            pickle::loads(py, &blob)?.unbind()
        } else {
            pickle::loads(py, definition)?.unbind()
        };
        Ok(Callable::Function(Arc::new(Function {
            callable,
            runs: AtomicU32::new(0),
        })))
    }

    fn load_method(&self, py: Python<'_>, name: &str) -> PyResult<Callable> {
        let instance = self.instance(py)?;
        let special = self.callbacks.special_methods.bind(py).get_item(name)?;
        let bound = match &special {
            Some(_) => None,
            None => of_its_class(instance, name)?,
        };
        let is_async = match (&special, &bound) {
            // What it is told to call may be a coroutine function, which only the call can tell.
            (Some(_), _) => false,
            (None, Some(bound)) => is_coroutine_function(bound)?,
            (None, None) => is_coroutine_function(&instance.getattr(name)?)?,
        };
        let name = PyString::intern(py, name).unbind();
        Ok(Callable::Method(Arc::new(Method {
            name,
            special: special.map(Bound::unbind),
            bound: bound.map(Bound::unbind),
            is_async,
        })))
    }

    /// The hosted actor's instance.
    pub fn instance<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        match self.hosted.get().and_then(|hosted| hosted.instance.get(py)) {
            Some(instance) => Ok(instance.bind(py)),
            None => Err(errors::system(
                py,
                "a method was called in a process that hosts no actor",
            )),
        }
    }
}

impl Callable {
    pub fn call<'py>(
        &self,
        py: Python<'py>,
        executor: &Executor,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match spans::taken_from(kwargs)? {
            Some(carrier) if spans::is_on() => self.call_in_span(py, executor, &carrier, args, kwargs),
            _ => self.call_plainly(py, executor, args, kwargs),
        }
    }

    fn call_plainly<'py>(
        &self,
        py: Python<'py>,
        executor: &Executor,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Function(function) => function.callable.bind(py).call(args, kwargs),
            Self::Method(method) => match (&method.bound, &method.special) {
                (Some(bound), _) => bound.bind(py).call(args, kwargs),
                (None, None) => executor.instance(py)?.getattr(method.name.bind(py))?.call(args, kwargs),
                (None, Some(special)) => special.bind(py).call(with_instance(executor, args)?, kwargs),
            },
        }
    }

    #[cold]
    fn call_in_span<'py>(
        &self,
        py: Python<'py>,
        executor: &Executor,
        carrier: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let none = PyDict::new(py);
        let kwargs = kwargs.unwrap_or(&none);
        let method = match self {
            Self::Function(function) => {
                return spans::executing(function.callable.bind(py), ("", ""), carrier, args, kwargs);
            }
            Self::Method(method) => method,
        };
        let class = executor.instance(py)?.get_type().name()?;
        let names = (class.to_str()?, method.name.to_str(py)?);
        match (&method.bound, &method.special) {
            (Some(bound), _) => spans::executing(bound.bind(py), names, carrier, args, kwargs),
            (None, None) => {
                let found = executor.instance(py)?.getattr(method.name.bind(py))?;
                spans::executing(&found, names, carrier, args, kwargs)
            }
            (None, Some(special)) => {
                let args = with_instance(executor, args)?;
                spans::executing(special.bind(py), names, carrier, &args, kwargs)
            }
        }
    }

    pub fn is_async(&self) -> bool {
        match self {
            Self::Function(_) => false,
            Self::Method(method) => method.is_async,
        }
    }

    /// The function, or the method as found on the actor's class.
    pub fn python<'py>(&self, py: Python<'py>, executor: &Executor) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Function(function) => Ok(function.callable.bind(py).clone()),
            Self::Method(method) => executor.instance(py)?.get_type().getattr(method.name.bind(py)),
        }
    }
}

/// The arguments of a method that takes the instance first.
fn with_instance<'py>(executor: &Executor, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyTuple>> {
    let instance = executor.instance(args.py())?.clone();
    PyTuple::new(args.py(), std::iter::once(instance).chain(args).collect::<Vec<_>>())
}

/// The method of this name of the instance's class, bound to the instance: an attribute of the instance that has the same
/// name does not hide it from callers, as its handles know the class only. `None` for what the class does not define, or
/// computes on each access.
fn of_its_class<'py>(instance: &Bound<'py, PyAny>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = instance.py();
    let class = instance.get_type();
    for base in class.mro() {
        let Ok(found) = base.getattr(intern!(py, "__dict__"))?.get_item(name) else {
            continue;
        };
        let kind = found.get_type();
        if kind.hasattr(intern!(py, "__set__"))? {
            return Ok(None);
        }
        return match kind.getattr_opt(intern!(py, "__get__"))? {
            Some(get) => get.call1((found, instance, &class)).map(Some),
            None => Ok(Some(found)),
        };
    }
    Ok(None)
}

/// As `inspect.iscoroutinefunction`, without importing inspect.
fn is_coroutine_function(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    const CO_COROUTINE: u32 = 0x80;
    let py = function.py();
    let mut function = function.clone();
    if let Some(inner) = function.getattr_opt(intern!(py, "__func__"))? {
        function = inner;
    }
    match function.getattr_opt(intern!(py, "__code__"))? {
        Some(code) => Ok(code.getattr(intern!(py, "co_flags"))?.extract::<u32>()? & CO_COROUTINE != 0),
        None => Ok(false),
    }
}

/// Whether a call gave a coroutine, whatever its function said of itself.
pub fn is_coroutine(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(value.get_type().is(imports::COROUTINE_TYPE.get(value.py())?))
}
