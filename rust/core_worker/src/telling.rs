//! What the person at the driver is told of errors that no `get` raises: those nobody looked at, and those that are
//! tried again.

use std::sync::Arc;

use ray_rs_ownership::TaskKey;
use ray_rs_proto::v1;

use crate::model::{Failure, HostEvent, Read, ReadData, ReadValue, StoredValue, ValueData};
use crate::state::State;

impl State {
    /// The last chance to see an error: the references inside are gone already.
    pub fn tell_of_unseen_error(&mut self, error: &StoredValue) {
        // What befell a worker is news; an actor's end was told when it came.
        let is_news = match &error.data {
            ValueData::Failed(failure) => {
                matches!(&**failure, Failure::WorkerCrashed { .. } | Failure::OutOfMemory { .. })
            }
            ValueData::Empty | ValueData::Inline(_) | ValueData::Arena(_) => true,
        };
        if let Some(read) = self.readable(error).filter(|_| is_news) {
            self.after.host.push(HostEvent::UnseenError(read));
        }
    }

    /// A task is tried again after `error`; the new try is counted already.
    pub fn tell_of_retry(&mut self, key: TaskKey, name: &Arc<str>, error: Option<&StoredValue>) {
        if !self.is_driver {
            return;
        }
        let retries_left = u32::try_from(self.owner.retries_left(key)).ok().map(|left| left + 1);
        let error = error.and_then(|error| self.readable(error));
        self.after.host.push(HostEvent::Retried {
            task_name: Arc::clone(name),
            retries_left,
            error,
        });
    }

    /// The process of a task has ended in the middle of it.
    pub fn tell_of_crash(&mut self, crash: Failure) {
        if self.is_driver {
            self.after.host.push(HostEvent::WorkerCrashed(crash));
        }
    }

    fn readable(&self, error: &StoredValue) -> Option<Read> {
        if !self.is_driver {
            return None;
        }
        let data = match &error.data {
            ValueData::Empty => return None,
            ValueData::Inline(bytes) => ReadData::Inline(bytes.clone()),
            // Not worth the way.
            ValueData::Arena(location) if location.node.is_some() => return None,
            ValueData::Arena(location) => {
                ReadData::Arena(self.arena.pin(location.offset, location.length, location.generation)?)
            }
            ValueData::Failed(failure) => return Some(Read::Failed((**failure).clone())),
        };
        Some(Read::Value(ReadValue {
            kind: error.kind,
            data,
            refs: Vec::new(),
        }))
    }
}

/// What a task that was lost with its worker fails with.
pub(crate) fn crash(task_name: &str, report: &v1::DeathReport) -> Failure {
    Failure::WorkerCrashed {
        task_name: task_name.to_owned(),
        pid: report.pid,
        exit_code: report.exit_code,
        signal: report.signal,
        last_stderr: report.last_stderr.clone(),
        detail: report.detail.clone(),
    }
}
