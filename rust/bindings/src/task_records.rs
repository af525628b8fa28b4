//! Records of tasks that have ended, for the page: sums, pages and charts as JSON, since they go out as such.

use pyo3::prelude::*;
use ray_rs_core_worker::{RecordFilter, TaskRecord, TaskRecords, TaskWorker, v1};
use ray_rs_types::task_columns::error_message;
use serde_json::{Value, json};

use crate::describe::hex;
use crate::observer::Observer;

/// The records that there were when it was made.
#[pyclass(frozen, name = "TaskRecords", module = "ray_rs._core")]
pub struct PyTaskRecords {
    inner: TaskRecords,
}

#[pymethods]
impl PyTaskRecords {
    #[new]
    fn new(py: Python<'_>, observer: &Observer) -> PyResult<Self> {
        let log: v1::TaskEventBatches = observer.gcs(py, "ListTaskEvents")?;
        let inner = py.detach(|| TaskRecords::new(log));
        Ok(Self { inner })
    }

    fn __len__(&self) -> usize {
        self.inner.records().len()
    }

    #[getter]
    fn dropped(&self) -> u64 {
        self.inner.dropped()
    }

    /// First start and last end, in microseconds since 1970.
    fn span_us(&self) -> Option<(u64, u64)> {
        self.inner.span_us()
    }

    /// Ids of the actors' constructors among them.
    fn creations(&self) -> Vec<String> {
        let records = self.inner.records().iter();
        records
            .filter(|record| record.kind == ray_rs_core_worker::Kind::Creation)
            .map(|record| hex(&record.task_id.0))
            .collect()
    }

    fn by_name(&self, py: Python<'_>) -> String {
        py.detach(|| {
            let names = self.inner.names();
            let rows = self.inner.by_name().into_iter().map(|sums| {
                json!({
                    "name": names[sums.name as usize],
                    "type": sums.kind.word(),
                    "finished": sums.finished,
                    "failed": sums.failed,
                    "ran": sums.ran,
                    "run_us": sums.run_us,
                    "longest_us": sums.longest_us,
                    "wait_us": sums.wait_us,
                    "last_end_us": sums.last_end_us,
                })
            });
            Value::Array(rows.collect()).to_string()
        })
    }

    #[pyo3(signature = (offset, limit, name=None, search=String::new(), failed=None))]
    fn page(
        &self,
        py: Python<'_>,
        offset: usize,
        limit: usize,
        name: Option<String>,
        search: String,
        failed: Option<bool>,
    ) -> (usize, String) {
        let filter = RecordFilter { name, search, failed };
        py.detach(|| {
            let (total, page) = self.inner.page(&filter, offset, limit);
            let rows = page.into_iter().map(|record| self.row(record)).collect();
            (total, Value::Array(rows).to_string())
        })
    }

    fn chart(&self, py: Python<'_>, from_us: u64, to_us: u64, columns: usize) -> String {
        py.detach(|| {
            let chart = self.inner.chart(from_us, to_us, columns);
            let rows = chart.rows.iter().map(|(worker, cells)| {
                let cells = cells.iter();
                let cells = cells.map(|cell| json!([cell.column, cell.width, cell.name, cell.busy, cell.failed]));
                let mut row = worker_of(&self.inner.workers()[*worker as usize]);
                row["cells"] = cells.collect();
                row
            });
            let rows: Value = rows.collect();
            json!({ "records": chart.records, "names": self.inner.names(), "rows": rows }).to_string()
        })
    }
}

fn worker_of(worker: &TaskWorker) -> Value {
    json!({ "node_id": hex(&worker.node_id), "worker_id": hex(&worker.worker_id), "pid": worker.pid })
}

impl PyTaskRecords {
    fn row(&self, record: &TaskRecord) -> Value {
        let worker = record
            .worker
            .map(|worker| worker_of(&self.inner.workers()[worker as usize]));
        json!({
            "task_id": hex(&record.task_id.0),
            "attempt_number": record.attempt,
            "name": self.inner.names()[record.name as usize],
            "type": record.kind.word(),
            "outcome": record.outcome,
            "worker": worker,
            "submitted_us": record.submitted_us,
            "start_us": record.start_us,
            "end_us": record.end_us,
            "error": error_message(record.outcome, self.inner.text_of(record).unwrap_or_default()),
        })
    }
}
