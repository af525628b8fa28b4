//! Making actors and finding them by name.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use ray_rs_core_worker::{ActorCreated, ActorRequest, CoreWorker, Durability, NamedActor};

use crate::actor::ActorHandle;
use crate::descriptor::ActorDescriptor;
use crate::object_ref::Counted;
use crate::remote_function::content_id;
use crate::signature::Signature;
use crate::{args, control, core, gil, placement_group, spans};

#[pyfunction]
#[pyo3(signature = (descriptor, class_blob, signature, args, kwargs, *, placement_resources, running_resources,
                    max_restarts=0, max_task_retries=0, max_concurrency=1, is_async=false, detached=false, name="",
                    namespace="", get_if_exists=false, extra=vec![], concurrency_groups=vec![], runtime_env="",
                    strategy=None, captures_children=false, unlisted=false,
                    durability=None))]
#[allow(
    clippy::too_many_arguments,
    reason = "they are keywords, one for each option of an actor"
)]
pub fn create_actor<'py>(
    py: Python<'py>,
    descriptor: &Bound<'py, ActorDescriptor>,
    class_blob: Vec<u8>,
    signature: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: &Bound<'py, PyDict>,
    placement_resources: &Bound<'py, PyAny>,
    running_resources: &Bound<'py, PyAny>,
    max_restarts: i32,
    max_task_retries: i32,
    max_concurrency: u32,
    is_async: bool,
    detached: bool,
    name: &str,
    namespace: &str,
    get_if_exists: bool,
    extra: Vec<u8>,
    concurrency_groups: Vec<(String, u32)>,
    runtime_env: &str,
    strategy: Option<Bound<'py, PyAny>>,
    captures_children: bool,
    unlisted: bool,
    durability: Option<(u32, Option<f64>)>,
) -> PyResult<ActorHandle> {
    Signature::new(signature)?.check(args, Some(kwargs))?;
    let core = core::require(py)?;
    let known = descriptor.get();
    let class_id = content_id(&class_blob);
    let class_name = known.class_name_text().to_owned();
    let create = |kwargs: &Bound<'py, PyDict>| -> PyResult<ActorHandle> {
        let encoded = args::encode(&core, args, Some(kwargs), &format!("{class_name}.__init__"))?;
        let request = ActorRequest {
            class_id,
            class_name: class_name.clone(),
            args: encoded,
            placement_resources: control::resources(placement_resources)?,
            running_resources: control::resources(running_resources)?,
            strategy: strategy.as_ref().map_or(Ok(None), placement_group::strategy)?,
            captures_children,
            max_restarts,
            max_task_retries,
            max_concurrency,
            max_pending_calls: known.max_pending_calls,
            is_async,
            detached,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            get_if_exists,
            handle_descriptor: known.encoded(py)?.as_borrowed().extract()?,
            extra,
            groups: concurrency_groups,
            runtime_env: runtime_env.to_owned(),
            definition: bytes::Bytes::new(),
            unlisted,
            durability: durability.map(|(checkpoint_every, interval)| Durability {
                checkpoint_every,
                checkpoint_interval: control::time_limit(interval),
            }),
        };
        let created = gil::wait_for(py, |interrupt| {
            let definition = core.export_function(class_id, class_blob, interrupt)?;
            core.create_actor(ActorRequest { definition, ..request }, interrupt)
        })?;
        match created {
            ActorCreated::New {
                actor_id,
                actor,
                handle,
            } => {
                let counted = Counted::new(&core, handle);
                Ok(ActorHandle::new(
                    &core,
                    actor_id,
                    actor,
                    Some(counted),
                    descriptor.clone().unbind(),
                ))
            }
            ActorCreated::Existing(named) => handle_of(py, &core, named),
        }
    };
    if spans::is_on() {
        let called = spans::Called {
            class: known.class_name_text(),
            name: "__init__",
            actor_id: String::new(),
        };
        return spans::submitting(py, called, Some(kwargs), create);
    }
    create(kwargs)
}

fn handle_of(py: Python<'_>, core: &Arc<CoreWorker>, named: NamedActor) -> PyResult<ActorHandle> {
    let descriptor = ActorDescriptor::decoded(py, &named.handle_descriptor)?;
    Ok(ActorHandle::new(core, named.actor_id, named.actor, None, descriptor))
}

#[pyfunction]
#[pyo3(signature = (name, namespace=""))]
pub fn get_actor_handle(py: Python<'_>, name: &str, namespace: &str) -> PyResult<Option<ActorHandle>> {
    let core = core::require(py)?;
    let named = gil::wait_for(py, |interrupt| core.get_named_actor(name, namespace, interrupt))?;
    named.map(|named| handle_of(py, &core, named)).transpose()
}
