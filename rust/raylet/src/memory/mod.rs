//! The memory watch carried out: reads what [`MemoryWatch`] wants to know, asks workers what they run, and ends the worker
//! that it chooses, with a report that says who used how much.

mod meter;
mod report;
mod settings;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_scheduler::memory::{MemoryEffect, MemoryEvent, MemoryWatch, Usage, WorkerRole, WorkerUse};
use ray_rs_scheduler::{Event, JobKey, Occupant, Running, WorkerKey};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::input::Token;
use crate::raylet::Raylet;
use crate::timers::Timer;

use meter::Meter;
use report::Story;
use settings::Settings;

/// Workers get so long to say what they run. One that is short of memory may be slow: then its lease tells.
const ANSWER_LIMIT: Duration = Duration::from_millis(100);

/// How much of the machine's memory may still be used, for whoever is about to use some.
pub(crate) struct Headroom {
    meter: Meter,
    threshold: f64,
}

impl Headroom {
    pub fn from_env() -> Self {
        let settings = Settings::from_env();
        Self {
            meter: Meter::new(&settings.root),
            threshold: settings.options.threshold,
        }
    }

    /// Until the watch would find that memory is short. What cannot be read limits nothing.
    pub fn left_bytes(&self) -> u64 {
        self.meter.read(true).map_or(u64::MAX, |usage| {
            ((usage.limit_bytes as f64 * self.threshold) as u64).saturating_sub(usage.used_bytes)
        })
    }
}

pub(crate) struct Memory {
    watch: MemoryWatch,
    settings: Settings,
    meter: Meter,
    /// Facts not told to the watch yet.
    news: VecDeque<MemoryEvent>,
    busy: bool,
    look: Option<Look>,
    next_look: u64,
}

/// Workers are being asked what they run.
struct Look {
    number: u64,
    awaited: FxHashSet<Token>,
    /// Of each worker the task that began last.
    answers: FxHashMap<Token, v1::RunningTask>,
}

impl Memory {
    pub fn from_env() -> Self {
        let settings = Settings::from_env();
        Self {
            watch: MemoryWatch::new(settings.options.clone()),
            meter: Meter::new(&settings.root),
            settings,
            news: VecDeque::new(),
            busy: false,
            look: None,
            next_look: 0,
        }
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.watch.next_deadline()
    }

    pub fn worker_died(&mut self, token: Token) {
        let worker = WorkerKey(token.0);
        self.news.push_back(MemoryEvent::WorkerDied { worker });
    }
}

impl Raylet {
    /// Tells the watch what is new and due, and does what it orders.
    pub fn watch_memory(&mut self) {
        let now = self.now();
        let busy = self.scheduler.is_busy();
        if busy != self.memory.busy {
            self.memory.busy = busy;
            self.memory.news.push_back(MemoryEvent::BusyChanged { busy });
        }
        if self.memory.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.memory.news.push_back(MemoryEvent::Tick);
        }
        let mut effects = Vec::new();
        while let Some(event) = self.memory.news.pop_front() {
            self.memory.watch.on_event(now, event, &mut effects);
            for effect in effects.drain(..) {
                self.obey_watch(effect);
            }
        }
    }

    fn obey_watch(&mut self, effect: MemoryEffect) {
        match effect {
            MemoryEffect::ReadUsage => {
                let usage = self.memory_usage(false);
                self.memory.news.push_back(MemoryEvent::UsageRead(usage));
            }
            MemoryEffect::ReadWorkers => self.look_at_workers(),
            MemoryEffect::Admit(admission) => self.decide(Event::AdmissionChanged(admission)),
            MemoryEffect::EndWorker {
                worker,
                may_retry,
                usage,
                line_bytes,
            } => self.end_for_memory(Token(worker.0), may_retry, usage, line_bytes),
        }
    }

    fn memory_usage(&self, closely: bool) -> Usage {
        // What cannot be read limits nothing.
        const NOTHING: Usage = Usage {
            used_bytes: 0,
            limit_bytes: u64::MAX,
            stalled: false,
        };
        let Some(limit_bytes) = self.memory.settings.own_limit_bytes else {
            return self.memory.meter.read(closely).unwrap_or(NOTHING);
        };
        let pids = self.workers.values().filter_map(|worker| worker.pid);
        let workers: u64 = pids.map(|pid| self.memory.meter.process_bytes(pid)).sum();
        Usage {
            used_bytes: workers + self.store.stats(0).reserved_bytes,
            limit_bytes,
            stalled: false,
        }
    }

    fn look_at_workers(&mut self) {
        self.memory.next_look += 1;
        let number = self.memory.next_look;
        let leased = self
            .scheduler
            .running()
            .filter(|one| matches!(one.occupant, Occupant::Lease { .. }));
        let mut awaited = FxHashSet::default();
        for token in leased.map(|one| Token(one.worker.0)) {
            let conn = self.workers.get(&token).and_then(|worker| worker.conn);
            if let Some(client) = conn.and_then(|conn| self.clients.get(&conn)) {
                let request = v1::LookAtTasks { request_id: number };
                client.outbox.send(Body::LookAtTasks(request));
                awaited.insert(token);
            }
        }
        let nobody = awaited.is_empty();
        self.memory.look = Some(Look {
            number,
            awaited,
            answers: FxHashMap::default(),
        });
        if nobody {
            return self.look_at_workers_is_over();
        }
        self.timers.set(Instant::now() + ANSWER_LIMIT, Timer::AnswersOverdue);
    }

    pub fn worker_says_what_runs(&mut self, token: Token, answer: v1::RunningTasks) {
        let Some(look) = &mut self.memory.look else { return };
        if look.number != answer.request_id || !look.awaited.remove(&token) {
            return;
        }
        let newest = answer.tasks.into_iter().min_by_key(|task| task.age_ms);
        if let Some(newest) = newest {
            look.answers.insert(token, newest);
        }
        if look.awaited.is_empty() {
            self.look_at_workers_is_over();
        }
    }

    /// All have answered, or had their time.
    pub fn look_at_workers_is_over(&mut self) {
        let Some(look) = self.memory.look.take() else { return };
        let now = self.now();
        let in_use: FxHashMap<WorkerKey, Running> = self.scheduler.running().map(|one| (one.worker, one)).collect();
        let mut workers = Vec::new();
        for (token, worker) in &self.workers {
            let Some(pid) = worker.pid else { continue };
            let key = WorkerKey(token.0);
            let role = match in_use.get(&key) {
                None => WorkerRole::Idle,
                Some(Running {
                    job,
                    occupant: Occupant::Lease { client, task, since },
                    ..
                }) => role_of_lease(now, *job, (*client, task, *since), look.answers.get(token)),
                Some(Running {
                    occupant: Occupant::Actor(_),
                    ..
                }) => WorkerRole::Actor {
                    since: worker.hosts.map_or(Duration::ZERO, |hosts| hosts.since),
                    restartable: worker.hosts.is_some_and(|hosts| hosts.restartable),
                },
            };
            workers.push(WorkerUse {
                worker: key,
                bytes: self.memory.meter.process_bytes(pid),
                role,
            });
        }
        let usage = self.memory_usage(true);
        self.memory.news.push_back(MemoryEvent::WorkersRead { usage, workers });
    }

    fn end_for_memory(&mut self, token: Token, may_retry: bool, usage: Usage, line_bytes: u64) {
        let in_use: FxHashMap<u32, String> = self
            .scheduler
            .running()
            .filter_map(|one| {
                let pid = self.workers.get(&Token(one.worker.0))?.pid?;
                let what = match one.occupant {
                    Occupant::Lease { task, .. } => format!("task {task}"),
                    Occupant::Actor(actor) => format!("actor {}", actor.hex()),
                };
                Some((pid, what))
            })
            .collect();
        let Some(worker) = self.workers.get_mut(&token) else {
            return;
        };
        let pid = worker.pid.unwrap_or_default();
        worker.out_of_memory = Some(may_retry);
        let job = worker.pool.job;
        let is_actor = worker.actor.is_some();
        let story = Story {
            victim: in_use.get(&pid).cloned().unwrap_or_else(|| "a task".to_owned()),
            pid,
            bytes: self.memory.meter.process_bytes(pid),
            usage,
            line_bytes,
            node_ip: &self.config.node_ip,
            node_id: self.node_id.hex(),
            largest: self.memory.meter.largest(10),
            named: &in_use,
        };
        let (text, first_line) = (story.told(), story.first_line());
        tracing::warn!(pid, "a worker is ended for want of memory");
        self.kill_worker(token, &text);
        let what = if is_actor { "actor" } else { "task" };
        let then = if may_retry && !is_actor {
            ", to be tried again"
        } else {
            ""
        };
        self.notice(
            job,
            format!("1 worker ({what}) killed due to memory pressure (OOM){then}: {first_line}"),
        );
    }
}

fn role_of_lease(
    now: Duration,
    job: JobKey,
    (owner, task, granted): (ray_rs_scheduler::ClientKey, &Arc<str>, Duration),
    answer: Option<&v1::RunningTask>,
) -> WorkerRole {
    match answer {
        Some(answer) => WorkerRole::Task {
            job,
            owner,
            name: answer.name.as_str().into(),
            since: now.saturating_sub(Duration::from_millis(answer.age_ms)),
            retriable: answer.retriable,
        },
        // Between two tasks, or too slow to say.
        None => WorkerRole::Task {
            job,
            owner,
            name: Arc::clone(task),
            since: granted,
            retriable: true,
        },
    }
}
