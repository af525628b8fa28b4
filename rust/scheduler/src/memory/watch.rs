//! The watch's state, and the one way in.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{MemoryEffect, MemoryEvent, MemoryOptions, Usage, WorkerRole, WorkerUse, victim};
use crate::admission::Admission;
use crate::event::{JobKey, WorkerKey};

/// Workers are looked at when so much of what may be used is used.
const NEAR: f64 = 0.5;
/// New leases are held back when so much of what may be used is used.
const SHORT: f64 = 0.9;
/// What needs less than this part of the limit is not worth remembering.
const SMALL_PART: u64 = 64;

#[derive(Debug, Clone, Copy)]
struct Peak {
    bytes: u64,
    seen: Duration,
}

/// See the module's description.
#[derive(Debug)]
pub struct MemoryWatch {
    pub(super) options: MemoryOptions,
    busy: bool,
    /// When to read again; `None` while nobody is busy, and while an answer is awaited.
    deadline: Option<Duration>,
    awaits_answer: bool,
    /// The most that each function was seen to use.
    peaks: FxHashMap<(JobKey, Arc<str>), Peak>,
    /// Told to end, and not yet dead.
    ending: FxHashSet<WorkerKey>,
    /// What the scheduler was told last.
    told: Admission,
    /// Room there will be once no task runs.
    room_when_idle: u64,
}

impl MemoryWatch {
    pub fn new(options: MemoryOptions) -> Self {
        Self {
            options,
            busy: false,
            deadline: None,
            awaits_answer: false,
            peaks: FxHashMap::default(),
            ending: FxHashSet::default(),
            told: Admission::default(),
            room_when_idle: u64::MAX,
        }
    }

    /// When `MemoryEvent::Tick` is due; `None` when only an event can change anything (MEM-4).
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// What a function was seen to need, if that is much.
    pub fn peak_bytes(&self, job: JobKey, name: &str) -> Option<u64> {
        self.peaks.get(&(job, Arc::from(name))).map(|peak| peak.bytes)
    }

    /// Takes a fact in and appends the orders that follow from it.
    pub fn on_event(&mut self, now: Duration, event: MemoryEvent, effects: &mut Vec<MemoryEffect>) {
        if self.options.refresh.is_zero() {
            return;
        }
        match event {
            MemoryEvent::BusyChanged { busy } => self.busy_changed(now, busy, effects),
            MemoryEvent::UsageRead(usage) => self.usage_read(now, usage, effects),
            MemoryEvent::WorkersRead { usage, workers } => self.workers_read(now, usage, &workers, effects),
            MemoryEvent::WorkerDied { worker } => {
                if self.ending.remove(&worker) && self.busy && !self.awaits_answer {
                    // The kernel has its pages by the next look.
                    self.deadline = Some(now + self.options.refresh);
                }
            }
            MemoryEvent::Tick => {
                if self.busy && self.deadline.is_some_and(|deadline| deadline <= now) {
                    self.ask(MemoryEffect::ReadUsage, effects);
                }
            }
        }
    }

    /// # Panics
    /// With the name of the promise that is broken.
    pub fn check_invariants(&self) {
        assert!(self.ending.len() <= 1, "MEM-1: one end at a time");
        assert!(
            self.busy || self.deadline.is_none(),
            "MEM-4: nothing is due while nobody is busy"
        );
        assert!(
            !(self.awaits_answer && self.deadline.is_some()),
            "MEM-4: one read at a time"
        );
    }

    fn ask(&mut self, what: MemoryEffect, effects: &mut Vec<MemoryEffect>) {
        self.deadline = None;
        self.awaits_answer = true;
        effects.push(what);
    }

    fn busy_changed(&mut self, now: Duration, busy: bool, effects: &mut Vec<MemoryEffect>) {
        if self.busy == busy {
            return;
        }
        self.busy = busy;
        if !busy {
            self.deadline = None;
            let admission = self.admission(false, self.room_when_idle);
            self.tell(admission, effects);
        } else if !self.awaits_answer {
            self.deadline = Some(now + self.options.refresh);
        }
    }

    /// The bytes that may be used.
    fn line(&self, limit_bytes: u64) -> u64 {
        let share = (limit_bytes as f64 * self.options.threshold) as u64;
        match self.options.min_free_bytes {
            Some(free) => share.max(limit_bytes.saturating_sub(free)),
            None => share,
        }
    }

    /// The further from the line, the later: it is looked at again before it can have been reached.
    fn pause(&self, headroom_bytes: u64) -> Duration {
        let seconds = headroom_bytes as f64 / self.options.growth_bytes_per_second.max(1) as f64;
        let longest = self.options.slowest.max(self.options.refresh);
        Duration::from_secs_f64(seconds.min(3600.0)).clamp(self.options.refresh, longest)
    }

    fn usage_read(&mut self, now: Duration, usage: Usage, effects: &mut Vec<MemoryEffect>) {
        self.awaits_answer = false;
        if !self.busy {
            return;
        }
        let line = self.line(usage.limit_bytes);
        let is_near = usage.used_bytes as f64 >= line as f64 * NEAR;
        if is_near || !self.peaks.is_empty() {
            return self.ask(MemoryEffect::ReadWorkers, effects);
        }
        self.deadline = Some(now + self.pause(line.saturating_sub(usage.used_bytes)));
    }

    fn workers_read(&mut self, now: Duration, usage: Usage, workers: &[WorkerUse], effects: &mut Vec<MemoryEffect>) {
        self.awaits_answer = false;
        self.learn(now, usage, workers);
        let line = self.line(usage.limit_bytes);
        let is_short = usage.used_bytes as f64 >= line as f64 * SHORT;
        let was_short = self.told.stop;
        self.allot(usage, line, is_short, workers, effects);
        if !self.busy {
            return;
        }
        let is_over = usage.used_bytes > line || (usage.stalled && is_short);
        if is_over && self.ending.is_empty() {
            let idle = workers.iter().filter(|one| matches!(one.role, WorkerRole::Idle));
            let from_idle: u64 = idle.map(|one| one.bytes).sum();
            // First those leave that nobody would miss, if that may be enough.
            let waits = !was_short && from_idle > usage.used_bytes.saturating_sub(line);
            if !waits && let Some((worker, may_retry)) = victim::choose(workers, usage.limit_bytes) {
                self.ending.insert(worker);
                effects.push(MemoryEffect::EndWorker {
                    worker,
                    may_retry,
                    usage,
                    line_bytes: line,
                });
            }
        }
        let pause = if is_short {
            self.options.refresh
        } else {
            self.pause(line.saturating_sub(usage.used_bytes))
        };
        self.deadline = Some(now + pause);
    }

    fn learn(&mut self, now: Duration, usage: Usage, workers: &[WorkerUse]) {
        for one in workers {
            let WorkerRole::Task { job, ref name, .. } = one.role else {
                continue;
            };
            if one.bytes < usage.limit_bytes / SMALL_PART {
                continue;
            }
            let peak = self
                .peaks
                .entry((job, Arc::clone(name)))
                .or_insert(Peak { bytes: 0, seen: now });
            peak.bytes = peak.bytes.max(one.bytes);
            peak.seen = now;
        }
        let remember = self.options.remember;
        self.peaks.retain(|_, peak| peak.seen + remember >= now);
    }

    /// What is left for new leases, when each task that runs comes to need what its function needed before.
    fn allot(
        &mut self,
        usage: Usage,
        line: u64,
        is_short: bool,
        workers: &[WorkerUse],
        effects: &mut Vec<MemoryEffect>,
    ) {
        let (mut held, mut will_be_held) = (0, 0);
        for one in workers {
            if let WorkerRole::Task { job, ref name, .. } = one.role {
                let peak = self.peaks.get(&(job, Arc::clone(name))).map_or(0, |peak| peak.bytes);
                held += one.bytes;
                will_be_held += one.bytes.max(peak);
            }
        }
        let others = usage.used_bytes.saturating_sub(held);
        self.room_when_idle = line.saturating_sub(others);
        let admission = self.admission(is_short, line.saturating_sub(others + will_be_held));
        self.tell(admission, effects);
    }

    fn admission(&self, stop: bool, room_bytes: u64) -> Admission {
        let needs = self.peaks.iter().map(|(key, peak)| (key.clone(), peak.bytes)).collect();
        Admission {
            stop,
            room_bytes,
            needs,
        }
    }

    fn tell(&mut self, admission: Admission, effects: &mut Vec<MemoryEffect>) {
        let is_news = admission.stop != self.told.stop || !admission.needs.is_empty() || !self.told.needs.is_empty();
        if is_news {
            self.told = admission.clone();
            effects.push(MemoryEffect::Admit(admission));
        }
    }
}
