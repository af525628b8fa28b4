//! Tasks whose worker was ended since the node's memory ran out: tried again by a count of their own, each time later.
//!
//! In the worker: what it says when the raylet asks what runs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use ray_rs_ownership::{TaskKey, TaskState};
use ray_rs_proto::v1;

use crate::model::{Failure, FunctionIndex, StoredValue};
use crate::state::State;
use crate::submit::Work;

/// How often such a task may run again; -1: for ever. `max_retries` is not touched.
const LIMIT: &str = "RAY_task_oom_retries";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct MemoryRetries {
    limit: Option<u16>,
    /// (when, key, number of the task).
    due: BinaryHeap<Reverse<(Duration, u32, u64)>>,
}

impl MemoryRetries {
    pub fn from_env() -> Self {
        let limit = std::env::var(LIMIT)
            .ok()
            .and_then(|text| text.trim().parse::<i64>().ok());
        Self {
            limit: limit
                .filter(|limit| *limit >= 0)
                .map(|limit| u16::try_from(limit).unwrap_or(u16::MAX)),
            due: BinaryHeap::new(),
        }
    }

    pub fn next_due(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }
}

/// Before try `number` (from 1) that follows an end for want of memory.
fn pause_before(number: u16) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << u32::from(number - 1).min(16))
        .min(LONGEST_PAUSE)
}

impl State {
    /// The raylet has ended the worker of a task that ran.
    pub fn ended_for_memory(
        &mut self,
        key: TaskKey,
        function: FunctionIndex,
        may_retry: bool,
        report: &v1::DeathReport,
    ) {
        let now = self.now();
        let function = Arc::clone(self.function(function));
        let limit = self.memory_retries.limit;
        let Some(spec) = self.owner.spec_mut(key) else { return };
        let tries = spec.memory_retries;
        if may_retry && function.max_retries != 0 && limit.is_none_or(|limit| tries < limit) {
            spec.memory_retries = tries.saturating_add(1);
            let due = (now + pause_before(spec.memory_retries), key.0, spec.unique);
            self.memory_retries.due.push(Reverse(due));
            self.owner.tried_for_free(key);
            return;
        }
        let mut message = format!("Task '{}' was ended: {}", function.name, report.detail);
        if function.max_retries == 0 {
            message.push_str("\nIt was not tried again, since its `max_retries` is 0.");
        } else if !may_retry {
            message
                .push_str("\nIt was not tried again, since it had the node to itself and would not fit the next time.");
        } else {
            message.push_str(&format!(
                "\nIt was tried again {tries} times; `{LIMIT}` allows no more."
            ));
        }
        self.finish_with(key, &StoredValue::failed(Failure::OutOfMemory { message }));
    }

    /// Runs those again whose pause is over.
    pub fn run_memory_retries(&mut self, now: Duration) {
        while let Some(Reverse((at, key, unique))) = self.memory_retries.due.peek().copied()
            && at <= now
        {
            self.memory_retries.due.pop();
            let key = TaskKey(key);
            // It may have been cancelled meanwhile, and the key be another task's.
            let work = self
                .owner
                .spec(key)
                .filter(|spec| spec.unique == unique)
                .map(|spec| spec.work);
            if let Some(Work::Normal(function)) = work
                && self.owner.task_state(key) == Some(TaskState::Submitted)
            {
                self.enqueue(key, function, false);
            }
        }
    }

    /// What this worker runs, for the raylet.
    pub fn say_what_runs(&mut self, request_id: u64) {
        let running = self.execution.running.iter().filter_map(|running| {
            let callee = self.peers.get(running.lane)?.callees.get(running.function as usize)?;
            Some(v1::RunningTask {
                name: callee.name.to_string(),
                age_ms: running.started.elapsed().as_millis() as u64,
                retriable: !callee.no_retry,
            })
        });
        let tasks = running.collect();
        self.tell_raylet(v1::to_raylet::Body::RunningTasks(v1::RunningTasks {
            request_id,
            tasks,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<u64> = [1, 2, 3, 7, 60, u16::MAX]
            .map(|number| pause_before(number).as_secs())
            .into();
        assert_eq!(pauses, [1, 2, 4, 60, 60, 60]);
    }
}
