//! Questions to the node and the control store, as plain Python values.

use prost::Message;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use ray_rs_cli::is_client;
use ray_rs_core_worker::ProcessInfo;
use ray_rs_core_worker::v1;
use ray_rs_types::{Quantity, ResourceSet};

use crate::ids::{PyJobId, PyNodeId, PyWorkerId};
use crate::{core, errors, gil};

/// Resources from a mapping of names to amounts.
pub fn resources(mapping: &Bound<'_, PyAny>) -> PyResult<ResourceSet> {
    let mut set = ResourceSet::new();
    for (name, amount) in mapping.cast::<PyDict>()?.iter() {
        set.set(name.extract::<String>()?, Quantity::from_f64(amount.extract()?));
    }
    Ok(set)
}

/// Seconds as a time limit; longer than anybody waits is none.
pub fn time_limit(seconds: Option<f64>) -> Option<std::time::Duration> {
    seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok())
}

pub fn resource_dict<'py>(py: Python<'py>, set: &ResourceSet) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, amount) in set.iter() {
        dict.set_item(name, amount.to_f64())?;
    }
    Ok(dict)
}

pub fn process_info<'py>(py: Python<'py>, info: &ProcessInfo, is_driver: bool) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("worker_id", PyWorkerId(info.address.worker_id))?;
    dict.set_item("node_id", PyNodeId(info.node_id))?;
    dict.set_item("job_id", PyJobId(info.job_id))?;
    dict.set_item("pid", info.address.pid)?;
    dict.set_item("session", &info.session)?;
    dict.set_item("session_dir", &info.session_dir)?;
    dict.set_item("gcs_address", &info.gcs_address)?;
    dict.set_item("node_ip", &info.node_ip)?;
    dict.set_item("namespace", &info.namespace)?;
    dict.set_item("node_resources", resource_dict(py, &info.node_resources)?)?;
    dict.set_item("arena_bytes", info.arena_bytes)?;
    dict.set_item("is_awaited", info.is_awaited)?;
    dict.set_item("is_driver", is_driver)?;
    Ok(dict)
}

#[pyfunction]
pub fn cluster_view(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let core = core::connected(py)?;
    let view = gil::wait_for(py, |interrupt| core.cluster_view(interrupt))?;
    node_list(py, view.nodes)
}

/// How many programs from outside of the cluster are connected to it.
#[pyfunction]
pub fn client_count(py: Python<'_>) -> PyResult<usize> {
    let core = core::connected(py)?;
    let view = gil::wait_for(py, |interrupt| core.cluster_view(interrupt))?;
    let clients = view.nodes.iter().filter(|node| node.alive && is_client(node));
    Ok(clients.count())
}

/// Nodes that only host a program are not among them.
pub fn node_list(py: Python<'_>, view: Vec<v1::NodeInfo>) -> PyResult<Bound<'_, PyList>> {
    let nodes = PyList::empty(py);
    for node in view.into_iter().filter(|node| !is_client(node)) {
        let dict = PyDict::new(py);
        dict.set_item("node_id", PyBytes::new(py, &node.node_id).call_method0("hex")?)?;
        dict.set_item("alive", node.alive)?;
        dict.set_item("address", node.address)?;
        dict.set_item("hostname", node.hostname)?;
        dict.set_item("name", node.name)?;
        dict.set_item("is_head", node.is_head)?;
        dict.set_item("raylet_address", node.raylet_address)?;
        dict.set_item("death_reason", node.death_reason)?;
        dict.set_item("drain", node.drain.map(|drain| drain_dict(py, &drain)).transpose()?)?;
        dict.set_item("idle_ms", node.idle_ms)?;
        dict.set_item("labels", node.labels)?;
        dict.set_item(
            "total",
            resource_dict(py, &node.total.as_ref().map(ResourceSet::from).unwrap_or_default())?,
        )?;
        let available = node.available.as_ref().map(ResourceSet::from).unwrap_or_default();
        dict.set_item("available", resource_dict(py, &available)?)?;
        dict.set_item("leases", lease_counts(py, &node.leases.unwrap_or_default())?)?;
        nodes.append(dict)?;
    }
    Ok(nodes)
}

fn drain_dict<'py>(py: Python<'py>, drain: &v1::DrainInfo) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("reason", drain.reason)?;
    dict.set_item("message", &drain.message)?;
    dict.set_item("deadline_ms", drain.deadline_ms)?;
    Ok(dict)
}

fn lease_counts<'py>(py: Python<'py>, counts: &v1::LeaseCounts) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("granted_locally", counts.granted_locally)?;
    dict.set_item("granted_to_others", counts.granted_to_others)?;
    dict.set_item("asked", counts.asked)?;
    dict.set_item("forwarded", counts.forwarded)?;
    dict.set_item("spilled_back", counts.spilled_back)?;
    dict.set_item("turned_away", counts.turned_away)?;
    Ok(dict)
}

#[pyfunction]
pub fn store_stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let core = core::connected(py)?;
    let stats = gil::wait_for(py, |interrupt| core.store_stats(interrupt))?;
    store_stats_dict(py, &stats)
}

pub fn store_stats_dict<'py>(py: Python<'py>, stats: &v1::StoreStatsReply) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("capacity_bytes", stats.capacity_bytes)?;
    dict.set_item("granted_bytes", stats.granted_bytes)?;
    dict.set_item("reserved_bytes", stats.reserved_bytes)?;
    dict.set_item("spilled_objects", stats.spilled_objects)?;
    dict.set_item("spilled_bytes", stats.spilled_bytes)?;
    dict.set_item("total_spilled_objects", stats.total_spilled_objects)?;
    dict.set_item("total_spilled_bytes", stats.total_spilled_bytes)?;
    dict.set_item("total_restored_objects", stats.total_restored_objects)?;
    dict.set_item("total_restored_bytes", stats.total_restored_bytes)?;
    dict.set_item("sent_bytes", stats.sent_bytes)?;
    dict.set_item("fetched_bytes", stats.fetched_bytes)?;
    Ok(dict)
}

/// Every object of this node's store, as `Observer.store_objects` gives it.
#[pyfunction]
pub fn store_objects(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let core = core::connected(py)?;
    let reply = gil::wait_for(py, |interrupt| core.list_objects(interrupt))?;
    stored_object_list(py, &reply.objects)
}

pub fn stored_object_list<'py>(py: Python<'py>, rows: &[v1::StoredObject]) -> PyResult<Bound<'py, PyList>> {
    let objects = PyList::empty(py);
    for object in rows {
        let name = object.object.unwrap_or_default();
        let dict = PyDict::new(py);
        dict.set_item("offset", name.offset)?;
        dict.set_item("generation", name.generation)?;
        dict.set_item("length", object.length)?;
        dict.set_item("block_bytes", object.block_bytes)?;
        dict.set_item(
            "place",
            ["arena", "spilled", "restored", "written", "copy"].get(object.place as usize),
        )?;
        dict.set_item("owner_pid", object.owner_pid)?;
        dict.set_item("holder_pid", object.holder_pid)?;
        dict.set_item("pins", object.pins)?;
        objects.append(dict)?;
    }
    Ok(objects)
}

/// Calls a method of the control store with serialized messages.
#[pyfunction]
pub fn gcs_call<'py>(py: Python<'py>, method: &str, payload: Vec<u8>) -> PyResult<Bound<'py, PyBytes>> {
    let core = core::connected(py)?;
    let reply = gil::wait_for(py, |interrupt| core.gcs_call(method, payload, interrupt))?;
    Ok(PyBytes::new(py, &reply))
}

fn ask<Reply: Message + Default>(py: Python<'_>, method: &str, request: &impl Message) -> PyResult<Reply> {
    let core = core::connected(py)?;
    let payload = request.encode_to_vec();
    let reply = gil::wait_for(py, |interrupt| core.gcs_call(method, payload, interrupt))?;
    Reply::decode(reply).map_err(|error| errors::system(py, format!("{method} gave an unreadable reply: {error}")))
}

/// What there is to be room for in the cluster: resources that are to be on one node, and how often.
#[pyfunction]
pub fn request_resources(py: Python<'_>, shapes: Vec<(Bound<'_, PyAny>, u32)>) -> PyResult<()> {
    let shape = |(amounts, count): (Bound<'_, PyAny>, u32)| {
        Ok(v1::ShapeCount {
            resources: Some((&resources(&amounts)?).into()),
            count,
            ..v1::ShapeCount::default()
        })
    };
    let shapes = shapes.into_iter().map(shape).collect::<PyResult<_>>()?;
    let _: v1::Empty = ask(py, "RequestResources", &v1::RequestResourcesRequest { shapes })?;
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (namespace, key, value, overwrite=true))]
pub fn kv_put(py: Python<'_>, namespace: String, key: Vec<u8>, value: Vec<u8>, overwrite: bool) -> PyResult<bool> {
    let reply: v1::KvPutReply = ask(
        py,
        "KvPut",
        &v1::KvPutRequest {
            namespace,
            key,
            value,
            overwrite,
        },
    )?;
    Ok(!reply.existed)
}

#[pyfunction]
pub fn kv_get<'py>(py: Python<'py>, namespace: String, key: Vec<u8>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let reply: v1::KvGetReply = ask(py, "KvGet", &v1::KvGetRequest { namespace, key })?;
    Ok(reply.found.then(|| PyBytes::new(py, &reply.value)))
}

#[pyfunction]
pub fn kv_del(py: Python<'_>, namespace: String, key: Vec<u8>) -> PyResult<u64> {
    let reply: v1::KvDelReply = ask(
        py,
        "KvDel",
        &v1::KvDelRequest {
            namespace,
            key,
            by_prefix: false,
        },
    )?;
    Ok(u64::from(reply.deleted))
}

#[pyfunction]
pub fn kv_keys<'py>(py: Python<'py>, namespace: String, prefix: Vec<u8>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let reply: v1::KvKeysReply = ask(py, "KvKeys", &v1::KvKeysRequest { namespace, prefix })?;
    Ok(reply.keys.iter().map(|key| PyBytes::new(py, key)).collect())
}

/// (namespace, name) of each named actor that is not dead.
#[pyfunction]
pub fn named_actors(py: Python<'_>) -> PyResult<Vec<(String, String)>> {
    const DEAD: u32 = 4;
    let reply: v1::ListActorsReply = ask(py, "ListActors", &v1::Empty {})?;
    let is_alive = |actor: &v1::ActorInfo| actor.status.as_ref().is_some_and(|status| status.state != DEAD);
    let specs = reply.actors.into_iter().filter(is_alive).filter_map(|actor| actor.spec);
    Ok(specs
        .filter(|spec| !spec.name.is_empty())
        .map(|spec| (spec.namespace, spec.name))
        .collect())
}

/// What the engine of this process counted, for benchmarks.
#[pyfunction]
pub fn counters(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let counters = core::connected(py)?.counters();
    let dict = PyDict::new(py);
    dict.set_item("references", counters.references)?;
    dict.set_item("tasks", counters.tasks)?;
    dict.set_item("spin_hits", counters.spin_hits)?;
    dict.set_item("spin_misses", counters.spin_misses)?;
    dict.set_item("sleeps", counters.sleeps)?;
    Ok(dict)
}
