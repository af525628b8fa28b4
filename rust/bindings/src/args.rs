//! The arguments of a call, on their way out and in.
//!
//! References given as arguments become dependencies, which the callee gets as values; everything else goes into one
//! tuple that is pickled once. The layout says which is which, and is empty when there are no references.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use ray_rs_core_worker::{ArgumentRefs, CoreWorker, ReadData, ReadValue, TaskArgs, ValueKind};
use smallvec::SmallVec;

use crate::executor::context;
use crate::object_ref::ObjectRef;
use crate::{errors, gil, pickle};

const BY_VALUE: u8 = 0;
const DEPENDENCY: u8 = 1;

pub fn encode(
    core: &Arc<CoreWorker>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    callee: &str,
) -> PyResult<TaskArgs> {
    let kwargs = kwargs.filter(|kwargs| !kwargs.is_empty());
    let is_ref = |argument: &Bound<'_, PyAny>| argument.is_exact_instance_of::<ObjectRef>();
    if kwargs.is_none() && !args.iter_borrowed().any(|argument| is_ref(&argument)) {
        let values = match args.is_empty() {
            true => pickle::no_value(),
            false => pickle::encode_arguments(core, args, callee)?,
        };
        return Ok(TaskArgs {
            values,
            layout: Vec::new(),
            kwarg_names: Vec::new(),
            deps: SmallVec::new(),
            parent: context::parent(args.py())?,
        });
    }
    let py = args.py();
    let mut by_value = Vec::with_capacity(args.len());
    let mut layout = Vec::with_capacity(args.len());
    let mut kwarg_names = Vec::new();
    let mut slots = SmallVec::new();
    let mut take = |argument: Bound<'_, PyAny>| -> PyResult<()> {
        match argument.cast_exact::<ObjectRef>() {
            Ok(reference) => {
                slots.push(reference.get().slot_in(core).ok_or_else(|| errors::old_reference(py))?);
                layout.push(DEPENDENCY);
            }
            Err(_) => {
                by_value.push(argument.unbind());
                layout.push(BY_VALUE);
            }
        }
        Ok(())
    };
    for argument in args.iter() {
        take(argument)?;
    }
    for (name, argument) in kwargs.into_iter().flatten() {
        kwarg_names.push(name.cast::<PyString>()?.to_str()?.to_owned());
        take(argument)?;
    }
    let values = match by_value.is_empty() {
        true => pickle::no_value(),
        false => pickle::encode_arguments(core, &PyTuple::new(py, by_value)?, callee)?,
    };
    // Only now, so that nothing has to be given back when pickling fails. The arguments are alive until we return.
    for slot in &slots {
        core.add_ref(*slot);
    }
    if slots.is_empty() {
        layout.clear();
    }
    Ok(TaskArgs {
        values,
        layout,
        kwarg_names,
        deps: slots,
        parent: context::parent(py)?,
    })
}

/// Why arguments could not be made.
pub enum BadArgs {
    /// One of the references holds an error.
    Dependency(PyErr),
    /// They would not unpickle.
    Own(PyErr),
}

/// What a function is called with.
pub type Call<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

pub fn decode<'py>(
    py: Python<'py>,
    core: &Arc<CoreWorker>,
    mut values: ReadValue,
    layout: &[u8],
    kwarg_names: &[String],
    mut deps: Vec<ReadValue>,
    dep_refs: &ArgumentRefs,
) -> Result<Call<'py>, BadArgs> {
    if deps
        .iter()
        .chain([&values])
        .any(|value| matches!(value.data, ReadData::Away(_)))
    {
        let brought = gil::wait_for(py, |interrupt| {
            core.bring_arguments(&mut values, &mut deps, dep_refs, interrupt)
        });
        if let Err(error) = brought {
            let refs = deps.iter().chain([&values]).flat_map(|value| &value.refs);
            refs.for_each(|slot| core.drop_ref(*slot));
            return Err(BadArgs::Dependency(error));
        }
    }
    let mut resolved = Vec::with_capacity(deps.len());
    let mut failed = None;
    for value in deps {
        // All are decoded even after an error, since that is what gives back the references inside them.
        match pickle::decode(py, core, value) {
            Ok(value) => resolved.push(value),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let own = match values.kind {
        ValueKind::None => Ok(PyTuple::empty(py)),
        _ => pickle::decode(py, core, values).and_then(|tuple| Ok(tuple.cast_into::<PyTuple>()?)),
    };
    if let Some(error) = failed {
        return Err(BadArgs::Dependency(error));
    }
    let own = own.map_err(BadArgs::Own)?;
    if layout.is_empty() && kwarg_names.is_empty() {
        return Ok((own, None));
    }
    merge(&own, layout, kwarg_names, resolved).map_err(BadArgs::Own)
}

fn merge<'py>(
    own: &Bound<'py, PyTuple>,
    layout: &[u8],
    kwarg_names: &[String],
    resolved: Vec<Bound<'py, PyAny>>,
) -> PyResult<Call<'py>> {
    let py = own.py();
    let short = || PyRuntimeError::new_err("a call's layout does not fit its arguments");
    let all: Vec<Bound<'py, PyAny>> = if layout.is_empty() {
        own.iter().collect()
    } else {
        let (mut own, mut resolved) = (own.iter(), resolved.into_iter());
        let next = |source: &u8| {
            if *source == DEPENDENCY {
                resolved.next()
            } else {
                own.next()
            }
        };
        layout.iter().map(next).collect::<Option<_>>().ok_or_else(short)?
    };
    let positional = all.len().checked_sub(kwarg_names.len()).ok_or_else(short)?;
    let args = PyTuple::new(py, &all[..positional])?;
    if kwarg_names.is_empty() {
        return Ok((args, None));
    }
    let kwargs = PyDict::new(py);
    for (name, value) in kwarg_names.iter().zip(&all[positional..]) {
        kwargs.set_item(name, value)?;
    }
    Ok((args, Some(kwargs)))
}
