//! What applications measure, and which processes have ended, for the state API. Never stored: a new gcs starts with
//! nothing, as a program that is scraped does after its restart.
//!
//! Processes tell what they have added since they told last, so that what a process has counted outlives it; of gauges
//! they tell the value, which goes when the process ends.

use std::collections::BTreeMap;

use ray_rs_proto::v1::{DeadWorker, ListDeadWorkersReply, MetricBatch, MetricSeries, NodeWorkerDied};
use ray_rs_types::NodeId;
use tonic::Status;

use super::State;

/// More series than that are refused: somebody puts what never repeats into a tag.
const MAX_SERIES: usize = 10_000;
const MAX_DEAD_WORKERS: usize = 1_000;
const GAUGE: u32 = 1;
const HISTOGRAM: u32 = 2;

/// Name, tags, and of a gauge whose it is.
type Key = (String, Vec<String>, Vec<u8>);

#[derive(Debug, Default)]
pub(super) struct Metrics {
    series: BTreeMap<Key, MetricSeries>,
    dropped: u64,
}

impl Metrics {
    fn add(&mut self, batch: MetricBatch) -> Result<(), Status> {
        for series in batch.series {
            if series.tags.len() % 2 != 0 {
                return Err(Status::invalid_argument("a tag has no value"));
            }
            if series.kind == HISTOGRAM && series.counts.len() != series.boundaries.len() + 1 {
                return Err(Status::invalid_argument(
                    "a histogram needs one count more than it has boundaries",
                ));
            }
            let worker = if series.kind == GAUGE {
                batch.worker_id.clone()
            } else {
                Vec::new()
            };
            let key = (series.name.clone(), series.tags.clone(), worker.clone());
            let is_full = self.series.len() >= MAX_SERIES;
            match self.series.get_mut(&key) {
                // Two processes may mean different things by one name; the first has it.
                Some(known) if known.kind != series.kind || known.boundaries != series.boundaries => self.dropped += 1,
                Some(known) if series.kind == GAUGE => known.value = series.value,
                Some(known) => {
                    known.value += series.value;
                    for (known, added) in known.counts.iter_mut().zip(series.counts) {
                        *known += added;
                    }
                }
                None if is_full => self.dropped += 1,
                None => {
                    self.series.insert(
                        key,
                        MetricSeries {
                            worker_id: worker,
                            ..series
                        },
                    );
                }
            }
        }
        Ok(())
    }

    fn worker_died(&mut self, worker: &[u8]) {
        self.series
            .retain(|_, series| series.kind != GAUGE || series.worker_id != worker);
    }
}

impl State {
    pub fn add_metrics(&mut self, batch: MetricBatch) -> Result<(), Status> {
        self.metrics.add(batch)
    }

    pub fn list_metrics(&self) -> MetricBatch {
        MetricBatch {
            worker_id: Vec::new(),
            series: self.metrics.series.values().cloned().collect(),
            dropped: self.metrics.dropped,
        }
    }

    pub(super) fn note_dead_worker(&mut self, node: NodeId, died: NodeWorkerDied, now_ms: u64) {
        self.metrics.worker_died(&died.worker_id);
        if self.dead_workers.len() == MAX_DEAD_WORKERS {
            self.dead_workers.pop_front();
        }
        self.dead_workers.push_back(DeadWorker {
            is_driver: !died.driver_job_id.is_empty(),
            worker_id: died.worker_id,
            node_id: node.0.to_vec(),
            end_ms: now_ms,
            report: died.report,
        });
    }

    pub fn list_dead_workers(&self) -> ListDeadWorkersReply {
        ListDeadWorkersReply {
            workers: self.dead_workers.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(worker: u8, kind: u32, value: f64) -> MetricBatch {
        let series = MetricSeries {
            name: "n".to_owned(),
            kind,
            tags: vec!["k".to_owned(), "v".to_owned()],
            value,
            boundaries: if kind == HISTOGRAM { vec![1.0] } else { Vec::new() },
            counts: if kind == HISTOGRAM { vec![1, 2] } else { Vec::new() },
            ..MetricSeries::default()
        };
        MetricBatch {
            worker_id: vec![worker; 28],
            series: vec![series],
            dropped: 0,
        }
    }

    fn values(metrics: &Metrics) -> Vec<f64> {
        metrics.series.values().map(|series| series.value).collect()
    }

    #[test]
    fn what_a_process_has_counted_outlives_it_and_its_gauges_do_not() {
        let mut counters = Metrics::default();
        counters.add(batch(1, 0, 2.0)).expect("good");
        counters.add(batch(2, 0, 3.0)).expect("good");
        counters.worker_died(&[1; 28]);
        assert_eq!(values(&counters), [5.0]);
        let mut gauges = Metrics::default();
        gauges.add(batch(1, GAUGE, 2.0)).expect("good");
        gauges.add(batch(2, GAUGE, 3.0)).expect("good");
        gauges.add(batch(2, GAUGE, 4.0)).expect("good");
        assert_eq!(values(&gauges), [2.0, 4.0]);
        gauges.worker_died(&[1; 28]);
        assert_eq!(values(&gauges), [4.0]);
    }

    #[test]
    fn histograms_add_up_and_another_kind_of_the_same_name_is_refused() {
        let mut metrics = Metrics::default();
        metrics.add(batch(1, HISTOGRAM, 2.0)).expect("good");
        metrics.add(batch(2, HISTOGRAM, 3.0)).expect("good");
        let counts: Vec<_> = metrics.series.values().map(|series| series.counts.clone()).collect();
        assert_eq!((values(&metrics), counts), (vec![5.0], vec![vec![2, 4]]));
        metrics.add(batch(1, 0, 1.0)).expect("good");
        assert_eq!((metrics.dropped, values(&metrics)), (1, vec![5.0]));
        let mut crooked = batch(1, HISTOGRAM, 1.0);
        crooked.series[0].counts.pop();
        assert!(metrics.add(crooked).is_err());
    }
}
