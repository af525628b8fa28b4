//! Placement groups: what `ray_rs.util.placement_group` asks of the engine.

use std::time::Duration;

use prost::Message;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use ray_rs_core_worker::{GroupRequest, GroupWait, v1};
use ray_rs_types::{NodeId, PlacementGroupId, ResourceSet};

use crate::ids::PyPlacementGroupId;
use crate::object_ref::ObjectRef;
use crate::{control, core, errors, executor, gil, pickle};

/// (key, test, values); the test is numbered as in `LabelRule`.
type Rule = (String, u32, Vec<String>);
/// (kind, node id, soft, spill, fail, hard rules, preferred rules, selectors), as in `SchedulingStrategy`.
type StrategyParts = (u32, Vec<u8>, bool, bool, bool, Vec<Rule>, Vec<Rule>, Vec<Vec<Rule>>);

fn selector(rules: Vec<Rule>) -> v1::LabelSelector {
    let rule = |(key, test, values)| v1::LabelRule { key, test, values };
    v1::LabelSelector {
        rules: rules.into_iter().map(rule).collect(),
    }
}

/// What the plan of a task or actor says of its node.
pub fn strategy(parts: &Bound<'_, PyAny>) -> PyResult<Option<v1::SchedulingStrategy>> {
    let parts: Option<StrategyParts> = parts.extract()?;
    let made = parts.map(
        |(kind, node_id, soft, spill_on_unavailable, fail_on_unavailable, hard, preferred, selectors)| {
            v1::SchedulingStrategy {
                kind,
                node_id,
                soft,
                spill_on_unavailable,
                fail_on_unavailable,
                hard: (!hard.is_empty()).then(|| selector(hard)),
                preferred: (!preferred.is_empty()).then(|| selector(preferred)),
                selectors: selectors.into_iter().map(selector).collect(),
            }
        },
    );
    Ok(made)
}

#[pyfunction]
#[pyo3(signature = (bundles, strategy, name="", namespace="", detached=false, soft_target_node=None, selectors=vec![]))]
pub fn create_placement_group(
    py: Python<'_>,
    bundles: Vec<Bound<'_, PyAny>>,
    strategy: u32,
    name: &str,
    namespace: &str,
    detached: bool,
    soft_target_node: Option<Vec<u8>>,
    selectors: Vec<Vec<Rule>>,
) -> PyResult<PyPlacementGroupId> {
    let core = core::require(py)?;
    let bundles: Vec<ResourceSet> = bundles.iter().map(control::resources).collect::<PyResult<_>>()?;
    let request = GroupRequest {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        strategy,
        bundles,
        bundle_selectors: selectors.into_iter().map(selector).collect(),
        detached,
        creator: executor::executor().and_then(|executor| Some(executor.hosted.get()?.actor_id)),
        soft_target: soft_target_node.and_then(|node| NodeId::from_bytes(&node).ok()),
    };
    if name.is_empty() {
        // Nothing is waited for.
        return core
            .create_group(request, &mut || false)
            .map(PyPlacementGroupId)
            .map_err(|error| errors::from_core(py, error));
    }
    gil::wait_for(py, |interrupt| core.create_group(request, interrupt)).map(PyPlacementGroupId)
}

fn group_of(id: &[u8]) -> PyResult<PlacementGroupId> {
    PlacementGroupId::from_bytes(id).map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))
}

#[pyfunction]
pub fn remove_placement_group(py: Python<'_>, id: &[u8]) -> PyResult<()> {
    core::require(py)?.remove_group(group_of(id)?);
    Ok(())
}

/// True: it is created; False: the time is over; None: it was removed.
#[pyfunction]
pub fn wait_placement_group(py: Python<'_>, id: &[u8], timeout_s: Option<f64>) -> PyResult<Option<bool>> {
    let (core, group) = (core::require(py)?, group_of(id)?);
    let timeout = timeout_s.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
    let outcome = gil::wait_for(py, |interrupt| core.wait_for_group(group, timeout, interrupt))?;
    Ok(match outcome {
        GroupWait::Created => Some(true),
        GroupWait::TimedOut => Some(false),
        GroupWait::Removed => None,
    })
}

/// A reference to `value`, which is there when the group is.
#[pyfunction]
pub fn placement_group_ready<'py>(py: Python<'py>, id: &[u8], value: &Bound<'py, PyAny>) -> PyResult<Py<ObjectRef>> {
    let (core, group) = (core::require(py)?, group_of(id)?);
    let stored = pickle::encode(&core, value, || "a placement group".to_owned())?;
    let slot = core.group_ready(group, stored);
    ObjectRef::wrap(py, &core, slot)
}

fn ask(py: Python<'_>, method: &str, request: &impl Message) -> PyResult<Vec<v1::PlacementGroupInfo>> {
    let core = core::connected(py)?;
    let payload = request.encode_to_vec();
    let reply = gil::wait_for(py, |interrupt| {
        // What this process has asked for counts as asked for.
        core.flush_groups(interrupt)?;
        core.gcs_call(method, payload, interrupt)
    })?;
    let reply = v1::ListPlacementGroupsReply::decode(reply);
    reply
        .map(|reply| reply.groups)
        .map_err(|error| errors::system(py, format!("{method} gave an unreadable reply: {error}")))
}

fn as_dict<'py>(py: Python<'py>, info: v1::PlacementGroupInfo) -> PyResult<Bound<'py, PyDict>> {
    let spec = info.spec.unwrap_or_default();
    let dict = PyDict::new(py);
    dict.set_item("id", PyBytes::new(py, &spec.group_id))?;
    dict.set_item("name", spec.name)?;
    dict.set_item("namespace", spec.namespace)?;
    dict.set_item("strategy", spec.strategy)?;
    dict.set_item("detached", spec.detached)?;
    dict.set_item("state", info.state)?;
    dict.set_item("detail", info.detail)?;
    dict.set_item("creation_ms", info.creation_ms)?;
    let bundles = PyList::empty(py);
    for bundle in &spec.bundles {
        bundles.append(control::resource_dict(py, &bundle.into())?)?;
    }
    dict.set_item("bundles", bundles)?;
    let nodes: Vec<Bound<'py, PyAny>> = info
        .nodes
        .iter()
        .map(|node| PyBytes::new(py, node).call_method0("hex"))
        .collect::<PyResult<_>>()?;
    dict.set_item("nodes", nodes)?;
    Ok(dict)
}

/// By id, or by name; `None` when there is none.
#[pyfunction]
#[pyo3(signature = (id=None, name="", namespace=""))]
pub fn get_placement_group<'py>(
    py: Python<'py>,
    id: Option<Vec<u8>>,
    name: &str,
    namespace: &str,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let request = v1::GetPlacementGroupRequest {
        group_id: id.unwrap_or_default(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    };
    let found = ask(py, "GetPlacementGroup", &request)?.into_iter().next();
    found.map(|info| as_dict(py, info)).transpose()
}

#[pyfunction]
pub fn list_placement_groups(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let groups = ask(py, "ListPlacementGroups", &v1::Empty {})?;
    groups.into_iter().map(|info| as_dict(py, info)).collect()
}

/// (id, whether it captures children) of the group that the caller runs in.
#[pyfunction]
pub fn current_placement_group(py: Python<'_>) -> PyResult<Option<(PyPlacementGroupId, bool)>> {
    Ok(executor::context::current_group(py)?.map(|(group, captures)| (PyPlacementGroupId(group), captures)))
}
