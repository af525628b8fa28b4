//! What the state API and the command line ask a session, which they need not be part of, as plain Python values.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use ray_rs_core_worker::v1::from_raylet::Body as From;
use ray_rs_core_worker::v1::to_raylet::Body as To;
use ray_rs_core_worker::{CoreError, TaskQuery, TaskRow, TraceRows, json_of, v1};
use ray_rs_types::ResourceSet;

use crate::control::{node_list, resource_dict, store_stats_dict, stored_object_list};
use crate::describe::{bytes_of, descriptions, dict, hex, id, list, subject_of_digits};
use crate::{core, gil, trace};

/// Connection of somebody who looks at a session.
#[pyclass(frozen, module = "ray_rs._core")]
pub struct Observer {
    inner: ray_rs_core_worker::Observer,
    limit: Duration,
}

fn other_answer() -> CoreError {
    CoreError::Gcs("the raylet answered something else".to_owned())
}

impl Observer {
    fn raylet(&self, py: Python<'_>, body: impl FnOnce(u64) -> To + Send) -> PyResult<From> {
        gil::wait_for(py, |interrupt| self.inner.ask(body, self.limit, interrupt))
    }

    pub(crate) fn gcs<Reply: Message + Default + Send>(&self, py: Python<'_>, method: &str) -> PyResult<Reply> {
        self.ask_with(py, method, &v1::Empty {})
    }

    fn ask_with<Request: Message, Reply: Message + Default + Send>(
        &self,
        py: Python<'_>,
        method: &str,
        request: &Request,
    ) -> PyResult<Reply> {
        gil::wait_for(py, |interrupt| {
            self.inner.ask_gcs(method, request, self.limit, interrupt)
        })
    }
}

#[pymethods]
impl Observer {
    #[new]
    #[pyo3(signature = (session_dir, timeout=30.0))]
    fn new(py: Python<'_>, session_dir: PathBuf, timeout: f64) -> PyResult<Self> {
        let limit = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::from_secs(3600));
        let inner = gil::wait_for(py, |_| ray_rs_core_worker::Observer::connect(&session_dir))?;
        Ok(Self { inner, limit })
    }

    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        match self.raylet(py, |request_id| To::ClusterView(v1::ClusterView { request_id }))? {
            From::ClusterViewReply(view) => node_list(py, view.nodes),
            _ => Err(crate::errors::from_core(py, other_answer())),
        }
    }

    /// All nodes, and what waits on any of them: (resources, how many, why, no node could ever serve it), tasks and actors.
    fn cluster<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let reply: v1::ListNodesReply = self.gcs(py, "ListNodes")?;
        let shapes = |counts: &[v1::ShapeCount]| {
            list(py, counts, |py, count| {
                let resources = count.resources.as_ref().map(ResourceSet::from).unwrap_or_default();
                Ok(dict!(py,
                    "resources": resource_dict(py, &resources)?,
                    "count": count.count,
                    "why": &count.why,
                    "infeasible": count.infeasible,
                ))
            })
        };
        let (waiting, waiting_actors) = (shapes(&reply.waiting)?, shapes(&reply.waiting_actors)?);
        let requested = shapes(&reply.requested)?;
        let autoscaler = reply.autoscaler.map(|report| {
            let instances = list(py, &report.instances, |py, instance| {
                Ok(dict!(py,
                    "instance": &instance.instance,
                    "node_type": &instance.node_type,
                    "stage": instance.stage,
                    "node_id": id(&instance.node_id),
                    "age_ms": instance.age_ms,
                ))
            })?;
            let failures = list(py, &report.failures, |py, failure| {
                Ok(dict!(py,
                    "instance": &failure.instance,
                    "node_type": &failure.node_type,
                    "why": &failure.why,
                    "age_ms": failure.age_ms,
                ))
            })?;
            let pauses = list(py, &report.pauses, |py, pause| {
                Ok(dict!(py, "node_type": &pause.node_type, "remaining_ms": pause.remaining_ms))
            })?;
            PyResult::Ok(dict!(py,
                "instances": instances,
                "failures": failures,
                "pauses": pauses,
                "infeasible": shapes(&report.infeasible)?,
                "delayed": shapes(&report.delayed)?,
            ))
        });
        let autoscaler = autoscaler.transpose()?;
        Ok(dict!(py,
            "nodes": node_list(py, reply.nodes)?,
            "waiting": waiting,
            "waiting_actors": waiting_actors,
            "requested": requested,
            "autoscaler": autoscaler,
        ))
    }

    fn store_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        match self.raylet(py, |request_id| To::StoreStats(v1::StoreStats { request_id }))? {
            From::StoreStatsReply(stats) => store_stats_dict(py, &stats),
            _ => Err(crate::errors::from_core(py, other_answer())),
        }
    }

    /// Every object of the node's store.
    fn store_objects<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        match self.raylet(py, |request_id| To::ListObjects(v1::ListObjects { request_id }))? {
            From::ListObjectsReply(reply) => stored_object_list(py, &reply.objects),
            _ => Err(crate::errors::from_core(py, other_answer())),
        }
    }

    /// As `describe_processes`.
    #[pyo3(signature = (*, tasks=true, objects=false, waiting=false, environments=false, moves=false, stored=false, limit=0,
                        first=Vec::new()))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords, one for each part")]
    fn describe_processes<'py>(
        &self,
        py: Python<'py>,
        tasks: bool,
        objects: bool,
        waiting: bool,
        environments: bool,
        moves: bool,
        stored: bool,
        limit: u32,
        first: Vec<String>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let first: Vec<Vec<u8>> = first.iter().filter_map(|text| bytes_of(text)).collect();
        let wanted = [tasks, objects, waiting, environments, moves, stored];
        let parts = (wanted.iter().enumerate()).fold(0, |parts, (bit, wanted)| parts | u32::from(*wanted) << bit);
        let body = move |request_id| {
            To::Describe(v1::Describe {
                request_id,
                parts,
                limit,
                first,
                own_node: false,
                task_filters: Vec::new(),
            })
        };
        match self.raylet(py, body)? {
            From::Descriptions(reply) => descriptions(py, &reply),
            _ => Err(crate::errors::from_core(py, other_answer())),
        }
    }

    /// As the function `why`, of the digits of an id.
    fn why(&self, py: Python<'_>, id: &str) -> PyResult<String> {
        let subject = subject_of_digits(id)?;
        gil::wait_for(py, |interrupt| self.inner.why(subject, self.limit, interrupt))
    }

    fn actors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let reply: v1::ListActorsReply = self.gcs(py, "ListActors")?;
        list(py, &reply.actors, |py, actor| {
            let spec = actor.spec.clone().unwrap_or_default();
            let status = actor.status.clone().unwrap_or_default();
            let worker = status.worker.as_ref();
            let death = status.death.as_ref();
            let resources = spec
                .running_resources
                .as_ref()
                .map(ResourceSet::from)
                .unwrap_or_default();
            Ok(dict!(py,
                "actor_id": hex(&spec.actor_id),
                "job_id": hex(&spec.job_id),
                "class_name": &spec.class_name,
                "name": &spec.name,
                "namespace": &spec.namespace,
                "is_detached": spec.detached,
                "runtime_env": &spec.runtime_env,
                "resources": resource_dict(py, &resources)?,
                "created_us": spec.created_us,
                "unlisted": spec.unlisted,
                "has_arguments": actor.has_arguments,
                "state": status.state,
                "num_restarts": status.incarnation,
                "node_id": worker.map(|worker| hex(&worker.node_id)),
                "worker_id": worker.map(|worker| hex(&worker.worker_id)),
                "pid": worker.map(|worker| worker.pid),
                "death_cause": death.map(|death| death.cause),
                "death_message": death.map(|death| death.message.clone()),
            ))
        })
    }

    fn jobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let reply: v1::ListJobsReply = self.gcs(py, "ListJobs")?;
        list(py, &reply.jobs, |py, job| {
            let driver = job.driver.clone().unwrap_or_default();
            Ok(dict!(py,
                "job_id": hex(&job.job_id),
                "driver_worker_id": hex(&driver.worker_id),
                "driver_node_id": hex(&driver.node_id),
                "driver_pid": driver.pid,
                "entrypoint": &job.entrypoint,
                "namespace": &job.namespace,
                "start_ms": job.start_ms,
                "end_ms": job.end_ms,
                "finished": job.finished,
            ))
        })
    }

    /// Keys that begin with `prefix`, with their values.
    fn kv_entries<'py>(
        &self,
        py: Python<'py>,
        namespace: String,
        prefix: Vec<u8>,
    ) -> PyResult<Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
        let keys: v1::KvKeysReply = self.ask_with(
            py,
            "KvKeys",
            &v1::KvKeysRequest {
                namespace: namespace.clone(),
                prefix,
            },
        )?;
        let mut entries = Vec::with_capacity(keys.keys.len());
        for key in keys.keys {
            let namespace = namespace.clone();
            let request = v1::KvGetRequest {
                namespace,
                key: key.clone(),
            };
            let reply: v1::KvGetReply = self.ask_with(py, "KvGet", &request)?;
            // It may have been removed meanwhile.
            if reply.found {
                entries.push((PyBytes::new(py, &key), PyBytes::new(py, &reply.value)));
            }
        }
        Ok(entries)
    }

    fn kv_get<'py>(&self, py: Python<'py>, namespace: String, key: Vec<u8>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let reply: v1::KvGetReply = self.ask_with(py, "KvGet", &v1::KvGetRequest { namespace, key })?;
        Ok(reply.found.then(|| PyBytes::new(py, &reply.value)))
    }

    fn placement_groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let reply: v1::ListPlacementGroupsReply = self.gcs(py, "ListPlacementGroups")?;
        list(py, &reply.groups, |py, group| {
            let spec = group.spec.clone().unwrap_or_default();
            let bundles = PyList::empty(py);
            for (index, bundle) in spec.bundles.iter().enumerate() {
                bundles.append(dict!(py,
                    "bundle_index": index,
                    "resources": resource_dict(py, &bundle.into())?,
                    "node_id": group.nodes.get(index).and_then(|node| id(node)),
                ))?;
            }
            Ok(dict!(py,
                "placement_group_id": hex(&spec.group_id),
                "job_id": hex(&spec.job_id),
                "name": &spec.name,
                "namespace": &spec.namespace,
                "strategy": spec.strategy,
                "is_detached": spec.detached,
                "state": group.state,
                "creation_ms": group.creation_ms,
                "detail": &group.detail,
                "bundles": bundles,
            ))
        })
    }

    fn dead_workers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let reply: v1::ListDeadWorkersReply = self.gcs(py, "ListDeadWorkers")?;
        list(py, &reply.workers, |py, worker| {
            let report = worker.report.clone().unwrap_or_default();
            Ok(dict!(py,
                "worker_id": hex(&worker.worker_id),
                "node_id": hex(&worker.node_id),
                "is_driver": worker.is_driver,
                "end_ms": worker.end_ms,
                "pid": report.pid,
                "exit_code": report.exit_code,
                "signal": report.signal,
                "detail": &report.detail,
                "out_of_memory": report.out_of_memory.is_some(),
            ))
        })
    }

    /// A page of tasks: its rows (tuples in the order of `TaskState`'s columns), how many tasks pass the filters (column, differs,
    /// value), the next page's cursor or 0, how many tasks were dropped, and counts (name, type, state, number).
    #[pyo3(signature = (filters, *, limit, cursor=0, ended_only=false, counts=false))]
    fn list_tasks<'py>(
        &self,
        py: Python<'py>,
        filters: Vec<(String, bool, Option<String>)>,
        limit: u32,
        cursor: u64,
        ended_only: bool,
        counts: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let filters = filters
            .into_iter()
            .map(|(column, differs, value)| v1::ColumnFilter { column, differs, value });
        let query = TaskQuery {
            filters: filters.collect(),
            limit,
            cursor,
            ended_only,
            counts,
        };
        let page = gil::wait_for(py, |interrupt| self.inner.list_tasks(&query, self.limit, interrupt))?;
        let rows = PyList::empty(py);
        for row in &page.rows {
            rows.append(task_row(py, row)?)?;
        }
        let counts = page
            .counts
            .iter()
            .map(|(name, kind, state, count)| (name, kind.word(), *state, *count));
        Ok(dict!(py,
            "rows": rows,
            "total": page.total,
            "cursor": page.cursor,
            "dropped": page.dropped,
            "counts": counts.collect::<Vec<_>>(),
        ))
    }

    /// A page of tasks that have ended, the oldest first, as events of a trace: text, or a list of dicts; and the cursor of the
    /// next one, or 0. `numbers` of nodes and `named` workers (number and pid) are given back with what was added.
    #[allow(clippy::type_complexity, reason = "what came in goes out")]
    fn trace_tasks<'py>(
        &self,
        py: Python<'py>,
        cursor: u64,
        limit: u32,
        numbers: HashMap<String, u32>,
        named: HashSet<(u32, u32)>,
        as_text: bool,
    ) -> PyResult<(Bound<'py, PyAny>, u64, HashMap<String, u32>, HashSet<(u32, u32)>)> {
        let query = TaskQuery {
            limit,
            cursor,
            ended_only: true,
            ..TaskQuery::default()
        };
        let mut rows = TraceRows { numbers, named };
        let page = gil::wait_for(py, |interrupt| self.inner.list_tasks(&query, self.limit, interrupt))?;
        let events = rows.events(&page.rows);
        let told = match as_text {
            true => py.detach(|| json_of(&events)).into_pyobject(py)?.into_any(),
            false => trace::event_list(py, &events)?.into_any(),
        };
        Ok((told, page.cursor, rows.numbers, rows.named))
    }

    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let reply: v1::MetricBatch = self.gcs(py, "ListMetrics")?;
        list(py, &reply.series, |py, series| {
            Ok(dict!(py,
                "name": &series.name,
                "description": &series.description,
                "kind": series.kind,
                "tags": series.tags.clone(),
                "value": series.value,
                "boundaries": series.boundaries.clone(),
                "counts": series.counts.clone(),
                "worker_id": id(&series.worker_id),
            ))
        })
    }
}

fn task_row<'py>(py: Python<'py>, row: &TaskRow) -> PyResult<Bound<'py, PyTuple>> {
    let worker = row.worker.as_ref();
    let ms = |us: Option<u64>| us.map(|us| us as f64 / 1000.0);
    let first = (
        row.task_id.hex(),
        row.attempt,
        &row.name,
        row.state,
        hex(&row.job_id),
        id(&row.actor_id),
        row.kind.word(),
        &row.name,
        id(&row.parent),
    );
    let second = (
        worker.map(|worker| hex(&worker.node_id)),
        worker.map(|worker| hex(&worker.worker_id)),
        worker.map(|worker| worker.pid),
        row.error_type,
        "PYTHON",
        ms(row.submitted_us),
        ms(row.start_us),
        ms(row.end_us),
        &row.error_message,
    );
    let (first, second) = (first.into_pyobject(py)?, second.into_pyobject(py)?);
    first
        .as_sequence()
        .concat(second.as_sequence())?
        .cast_into()
        .map_err(Into::into)
}

type Series = (String, String, u32, Vec<String>, f64, Vec<f64>, Vec<u64>);

/// Tells the control store what was measured here: (name, description, kind, tags, value, boundaries, counts) of each
/// series.
#[pyfunction]
pub fn send_metrics(py: Python<'_>, series: Vec<Series>) -> PyResult<()> {
    let core = core::connected(py)?;
    let series = series
        .into_iter()
        .map(
            |(name, description, kind, tags, value, boundaries, counts)| v1::MetricSeries {
                name,
                description,
                kind,
                tags,
                value,
                boundaries,
                counts,
                worker_id: Vec::new(),
            },
        )
        .collect();
    let batch = v1::MetricBatch {
        worker_id: core.info().address.worker_id.0.to_vec(),
        series,
        dropped: 0,
    };
    let payload = batch.encode_to_vec();
    gil::wait_for(py, |interrupt| core.gcs_call("AddMetrics", payload, interrupt))?;
    Ok(())
}
