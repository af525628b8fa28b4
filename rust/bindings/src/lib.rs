//! The Python extension `ray_rs._core`: where Python meets the engine, and nowhere else.
//!
//! It converts, calls, and converts back. What is called for every task is a native class here
//! ([`remote_function`], [`actor`], [`object_ref`]); the rest is Python around it. `python/ray_rs/_core.pyi` is the list
//! of everything, with what each means.
//!
//! * to and from bytes: [`pickle`], [`scalars`], [`reftable`], [`buffers`], [`args`]
//! * for users: [`objects`] (`get`, `put`, `wait`), [`remote_function`], [`actor`], [`object_ref`], [`ids`]
//! * a worker's loops: [`executor`]
//! * the process: [`core`] (the connection), [`forking`] (before there is one), [`gil`] (waiting), [`errors`] (the one map to exceptions), [`daemons`],
//!   [`spans`] (of OpenTelemetry, when they are on)
//!
//! `unsafe` stands in [`buffers`] and in [`executor::title`] only. Rules: no Python object is made or dropped, and nothing of Python called, while
//! a lock is held; nothing blocks with the GIL held; every wait of the main thread looks for signals.

mod actor;
mod args;
mod buffers;
mod building;
mod cancel;
mod control;
mod core;
mod create_actor;
mod daemons;
mod describe;
mod descriptor;
mod errors;
mod executor;
mod forking;
mod futures;
mod gil;
mod ids;
mod imports;
mod object_ref;
mod objects;
mod observer;
mod pickle;
mod placement_group;
mod reftable;
mod remote_function;
mod scalars;
mod signature;
mod sites;
mod spans;
mod stream;
mod task_records;
mod trace;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ids::PyJobId>()?;
    module.add_class::<ids::PyActorId>()?;
    module.add_class::<ids::PyTaskId>()?;
    module.add_class::<ids::PyNodeId>()?;
    module.add_class::<ids::PyWorkerId>()?;
    module.add_class::<ids::PyFunctionId>()?;
    module.add_class::<ids::PyActorClassId>()?;
    module.add_class::<ids::PyUniqueId>()?;
    module.add_class::<ids::PyClusterId>()?;
    module.add_class::<ids::PyPlacementGroupId>()?;
    module.add_class::<object_ref::ObjectRef>()?;
    module.add_class::<remote_function::RemoteFunction>()?;
    module.add_class::<remote_function::RemoteCall>()?;
    module.add_class::<descriptor::ActorDescriptor>()?;
    module.add_class::<actor::ActorHandle>()?;
    module.add_class::<actor::ActorMethod>()?;
    module.add_class::<buffers::SharedBuffer>()?;
    module.add_class::<building::WritableBuffer>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<observer::Observer>()?;
    module.add_class::<task_records::PyTaskRecords>()?;
    module.add_class::<executor::context::TaskContext>()?;

    macro_rules! functions {
        ($($function:path),* $(,)?) => { $(module.add_function(wrap_pyfunction!($function, module)?)?;)* };
    }
    functions!(
        objects::get,
        objects::put,
        building::empty,
        objects::wait,
        actor::kill,
        cancel::cancel,
        cancel::take_interrupt,
        cancel::is_current_task_cancelled,
        create_actor::create_actor,
        create_actor::get_actor_handle,
        core::redefine,
        core::connect,
        core::disconnect,
        core::worker_ready,
        forking::give_back_code,
        forking::prepare_to_fork,
        forking::mark_process,
        forking::end_marked_processes,
        core::is_initialized,
        core::flush_logs,
        spans::set_tracing,
        spans::is_tracing,
        core::process_info,
        control::cluster_view,
        control::client_count,
        control::store_objects,
        describe::describe_processes,
        observer::send_metrics,
        describe::why,
        control::store_stats,
        control::gcs_call,
        control::request_resources,
        control::kv_put,
        control::kv_get,
        control::kv_del,
        control::kv_keys,
        control::named_actors,
        control::counters,
        placement_group::create_placement_group,
        placement_group::remove_placement_group,
        placement_group::wait_placement_group,
        placement_group::placement_group_ready,
        placement_group::get_placement_group,
        placement_group::list_placement_groups,
        placement_group::current_placement_group,
        daemons::launch_head,
        daemons::stop_head,
        daemons::list_nodes,
        daemons::drain_node,
        daemons::list_sessions,
        daemons::discover,
        daemons::run_head,
        daemons::run_raylet,
        daemons::run_gcs,
        daemons::run_scheduler,
        daemons::serve_web,
        executor::run_worker_loop,
        executor::context::current_task,
        executor::context::current_task_name,
        executor::context::current_actor,
        executor::context::own_actor_handle,
        object_ref::_reduce_ref,
        reftable::pickle_on_trial,
        object_ref::_load_ref,
        object_ref::_load_out_of_band,
        actor::_reduce_actor,
        actor::_load_actor,
        actor::_load_actor_out_of_band,
    );
    let py = module.py();
    module.add(
        "_object_getattribute",
        py.import("builtins")?.getattr("object")?.getattr("__getattribute__")?,
    )?;
    // The C pickler asks copyreg's table by exact type, before anything of Python's runs.
    let register = py.import("copyreg")?.getattr("pickle")?;
    register.call1((py.get_type::<object_ref::ObjectRef>(), module.getattr("_reduce_ref")?))?;
    register.call1((py.get_type::<actor::ActorHandle>(), module.getattr("_reduce_actor")?))?;
    Ok(())
}
