//! A wait that lasts looks round: what it waits for, whether that can ever come, and what there is to tell of it.
//!
//! The waiting thread asks the raylet as anybody may (see `describe.rs`), and goes on waiting: the answer is put down for
//! it, and looked at when it is next awake. Nothing is asked before [`DEADLOCK_LOOK`], so no short wait pays for it.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ray_rs_explain as explain;
use ray_rs_explain::{Deadlock, Snapshot, Subject, WaitKey};
use ray_rs_proto::v1;
use ray_rs_types::config::{DEADLOCK_LOOK, WAIT_TOLD};
use ray_rs_types::{ActorId, NodeId, ObjectId, TaskId, WorkerId};
use rustc_hash::FxHashSet;

use crate::core::{CoreWorker, Interrupt};
use crate::model::{CoreError, HostEvent};
use crate::state::{Answer, Question, State};

/// Seconds after which a wait without progress tells what it waits for; 0: never.
const TOLD_AFTER: &str = "RAY_RS_EXPLAIN_WAITS_AFTER_S";
/// `0`: waits that can never end go on.
const DETECT: &str = "RAY_RS_DETECT_DEADLOCKS";

/// Between the first sight of a cycle and the look that proves it.
pub(crate) const PROOF_PAUSE: Duration = Duration::from_millis(250);
/// Pauses between looks double up to this.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What is told once more is told after six and sixty times the first time, and then at that pace.
const LATER: [u32; 2] = [6, 60];
/// Of the things that one waits for.
pub(crate) const MOST_TOLD: usize = 3;
/// All parts of a description, and the part with tasks and waits.
pub(crate) const TASKS: u32 = 1;
const OBJECTS: u32 = 2;
pub(crate) const WAITING: u32 = 4;
const STORED: u32 = 32;
/// As in `StoredObject`.
const SPILLED: u32 = 1;

pub(crate) struct Settings {
    pub told_after: Option<Duration>,
    pub detect: bool,
}

pub(crate) fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let seconds = std::env::var(TOLD_AFTER)
            .ok()
            .and_then(|text| text.trim().parse::<f64>().ok());
        let after = seconds.map_or(Some(WAIT_TOLD), |seconds| Duration::try_from_secs_f64(seconds).ok());
        Settings {
            told_after: after.filter(|after| !after.is_zero()),
            detect: std::env::var(DETECT).map_or(true, |text| text.trim() != "0"),
        }
    })
}

/// What the thread of one wait keeps of its looks.
pub(crate) struct Look {
    key: WaitKey,
    /// When it last came nearer to its end.
    progress: Instant,
    remaining: usize,
    /// How often it has told.
    told: u32,
    told_runs: Option<TaskId>,
    /// Pause before the next look for a deadlock, and when that is due; none for a wait that is never part of one.
    pause: Duration,
    next_look: Option<Instant>,
    /// The answer that is awaited is to be told of.
    asked: Option<bool>,
    /// What the last look has found, and in which round.
    suspicion: Option<(u64, Deadlock)>,
}

impl Look {
    /// `executing`: some task waits for this thread.
    pub fn new(worker: WorkerId, serial: u64, remaining: usize, may_be_stuck: bool) -> Self {
        let now = Instant::now();
        Self {
            key: WaitKey { worker, serial },
            progress: now,
            remaining,
            told: 0,
            told_runs: None,
            pause: DEADLOCK_LOOK,
            next_look: (may_be_stuck && settings().detect).then(|| now + DEADLOCK_LOOK),
            asked: None,
            suspicion: None,
        }
    }

    fn tells_at(&self) -> Option<Instant> {
        tells_at(settings().told_after?, self.progress, self.told)
    }
}

/// When a wait that was told of so often is told of next.
pub(crate) fn tells_at(first: Duration, since: Instant, told: u32) -> Option<Instant> {
    let times = match told {
        0 => 1,
        1 => LATER[0],
        more => LATER[1].checked_mul(more - 1)?,
    };
    since.checked_add(first.checked_mul(times)?)
}

pub(crate) fn deadlock_text(what: &str, found: &Deadlock) -> String {
    format!(
        "This {what} can never end, because tasks wait for each other:\n  {}\nLet a task return its references instead of \
         waiting for them, give the actor a higher max_concurrency, or call the other actor with a time limit, \
         get(timeout=...).",
        found.lines.join("\n  ")
    )
}

/// `what` has waited for so long for so many objects; `stories` are of the first of them.
pub(crate) fn wait_text(what: &str, age: Duration, count: usize, stories: &[String]) -> String {
    let objects = match count {
        1 => "an object that is".to_owned(),
        more => format!("{more} objects that are"),
    };
    format!(
        "{what} has waited for {} s for {objects} not there:\n{}",
        age.as_secs(),
        stories.join("\n")
    )
}

impl CoreWorker {
    /// Looks round, if it is time to. The text of the error, when this wait can never end and is the one to say so.
    pub(crate) fn look_round(&self, me: u32, look: &mut Look) -> Option<String> {
        let now = Instant::now();
        let tells = look.tells_at().is_some_and(|at| at <= now);
        let looks = look.next_look.is_some_and(|at| at <= now);
        if !tells && !looks && look.asked.is_none() {
            return None;
        }
        let (answer, missing) = self.with(|state| {
            let Some(waiter) = state.waiters.get_mut(me as usize).and_then(Option::as_mut) else {
                return (None, Vec::new());
            };
            if waiter.remaining != look.remaining {
                look.remaining = waiter.remaining;
                look.progress = now;
                look.told = 0;
            }
            let Some(blocked) = &mut waiter.blocked else {
                return (None, Vec::new());
            };
            let answer = blocked.answer.take();
            let missing = blocked.slots.iter().filter(|slot| !state.owner.is_ready(**slot));
            let missing: Vec<ObjectId> = missing.take(MOST_TOLD).map(|slot| state.owner.id(*slot)).collect();
            let tells = tells && look.told_after_progress(now);
            if (tells || looks) && look.asked.is_none() {
                look.asked = Some(tells);
                let parts = if tells { TASKS | WAITING } else { TASKS };
                state.ask_for_look(me, look.key.serial, parts, &missing);
            }
            (answer, missing)
        });
        let answer = answer?;
        let tells = look.asked.take()?;
        let inquiry = answer.inquiry;
        let snapshot = snapshot_of(answer, Some(self.info().address.node_id));
        if tells {
            look.told += 1;
            self.tell(look, &snapshot, &missing);
        }
        look.next_look?;
        look.next_look = Some(now + look.pause);
        look.pause = (look.pause * 2).min(LONGEST_PAUSE);
        let found = explain::deadlock(&snapshot, look.key).filter(|found| found.raises == look.key);
        let Some(found) = found else {
            look.suspicion = None;
            return None;
        };
        match look.suspicion.take() {
            // EXP-4: the round came after that of the first sight, and nothing has moved.
            Some((earlier, before)) if earlier < inquiry && before.proof == found.proof => {
                Some(deadlock_text("get()", &found))
            }
            _ => {
                look.suspicion = Some((inquiry, found));
                look.next_look = Some(now + PROOF_PAUSE);
                None
            }
        }
    }

    fn tell(&self, look: &mut Look, snapshot: &Snapshot, missing: &[ObjectId]) {
        let mut parts = Vec::new();
        let mut runs = None;
        for id in missing {
            let why = explain::why(snapshot, Subject::Object(*id));
            runs = why.only_runs;
            parts.push(why.text);
        }
        if parts.is_empty() {
            return;
        }
        // A task that simply runs for long is told of once.
        if missing.len() == 1 && runs.is_some() {
            if look.told_runs == runs {
                return;
            }
            look.told_runs = runs;
        }
        let age = look.progress.elapsed();
        self.tell_person(wait_text("A get() or wait()", age, look.remaining, &parts));
    }

    pub(crate) fn tell_person(&self, text: String) {
        if self.is_driver {
            self.host.send(HostEvent::Explanation(text));
        } else {
            // Its log is what the driver shows.
            eprintln!("{text}");
        }
    }

    /// Why it is not there yet, or where it is.
    ///
    /// # Errors
    /// The raylet is gone, or an interrupt.
    pub fn why(&self, subject: Subject, interrupt: Interrupt<'_>) -> Result<String, CoreError> {
        let answer = self.descriptions(ALL_PARTS, 0, first_rows(subject), interrupt)?;
        Ok(explained(answer, subject, Some(self.info().address.node_id)))
    }
}

pub(crate) const ALL_PARTS: u32 = TASKS | OBJECTS | WAITING | STORED;

/// Ids whose rows a description must have, so that it says something of `subject`.
pub(crate) fn first_rows(subject: Subject) -> Vec<Vec<u8>> {
    match subject {
        Subject::Object(id) => vec![id.0.to_vec(), id.task_id().0.to_vec()],
        Subject::Task(id) => vec![id.0.to_vec()],
        Subject::Actor(_) => Vec::new(),
    }
}

/// The story of `subject`.
pub(crate) fn explained(answer: v1::Descriptions, subject: Subject, own_node: Option<NodeId>) -> String {
    let mut is_spilled = false;
    if let Subject::Object(id) = subject {
        let spilled = answer.stores.iter().flat_map(|store| {
            let rows = store.objects.iter().filter(|object| object.place == SPILLED);
            rows.filter_map(|object| Some((&store.node_id, object.object?)))
        });
        let spilled: FxHashSet<(&Vec<u8>, v1::BlockName)> = spilled.collect();
        is_spilled = answer.processes.iter().any(|process| {
            let here = process.process.as_ref().map(|process| &process.node_id);
            let mut rows = process
                .objects
                .iter()
                .filter(|row| row.place == 3 && row.object_id == id.0);
            rows.any(|row| {
                let node = if row.node_id.is_empty() {
                    here
                } else {
                    Some(&row.node_id)
                };
                let name = v1::BlockName {
                    offset: row.offset,
                    generation: row.generation,
                };
                node.is_some_and(|node| spilled.contains(&(node, name)))
            })
        });
    }
    let mut snapshot = snapshot_of(answer, own_node);
    let objects = snapshot.processes.iter_mut().flat_map(|process| &mut process.objects);
    for object in objects.filter(|object| is_spilled && Subject::Object(object.id) == subject) {
        object.place = explain::Place::Spilled;
    }
    explain::why(&snapshot, subject).text
}

impl Look {
    fn told_after_progress(&self, now: Instant) -> bool {
        self.tells_at().is_some_and(|at| at <= now)
    }
}

impl State {
    fn ask_for_look(&mut self, waiter: u32, serial: u64, parts: u32, missing: &[ObjectId]) {
        let request_id = self.fresh_request();
        self.questions.insert(request_id, Question::Look { waiter, serial });
        self.tell_raylet(v1::to_raylet::Body::Describe(v1::Describe {
            request_id,
            parts,
            limit: 0,
            first: missing.iter().map(|id| id.task_id().0.to_vec()).collect(),
            own_node: false,
            task_filters: Vec::new(),
        }));
    }

    /// The wait looks at it when it is next awake.
    pub fn look_answered(&mut self, waiter: u32, serial: u64, answer: Answer) {
        let waiter = self.waiters.get_mut(waiter as usize).and_then(Option::as_mut);
        if let (Some(waiter), Answer::Descriptions(reply)) = (waiter, answer)
            && let Some(blocked) = waiter.blocked.as_mut().filter(|blocked| blocked.serial == serial)
        {
            blocked.answer = Some(Box::new(reply));
        }
    }
}

// ---- from the wire -------------------------------------------------------------------------------------------------

fn task_id(bytes: &[u8]) -> Option<TaskId> {
    TaskId::from_bytes(bytes).ok()
}

fn object_ids(ids: &[Vec<u8>]) -> Vec<ObjectId> {
    ids.iter().filter_map(|id| ObjectId::from_bytes(id).ok()).collect()
}

/// `own_node`: the asker's, which goes without saying; `None` when it has none.
pub(crate) fn snapshot_of(answer: impl Into<Box<v1::Descriptions>>, own_node: Option<NodeId>) -> Snapshot {
    let answer = *answer.into();
    Snapshot {
        processes: (answer.processes.into_iter())
            .filter_map(|said| process_of(said, own_node))
            .collect(),
        silent: answer.silent.iter().map(|address| address.pid).collect(),
        silent_nodes: (answer.silent_nodes.iter())
            .filter_map(|node| NodeId::from_bytes(node).ok())
            .collect(),
        waiting: answer.waiting.into_iter().map(waiting_of).collect(),
    }
}

fn waiting_of(row: v1::WaitingRequest) -> explain::Waiting {
    explain::Waiting {
        owner: WorkerId::from_bytes(&row.worker_id)
            .ok()
            .map(|owner| (owner, row.class)),
        actor: ActorId::from_bytes(&row.actor_id).ok(),
        why: row.why,
    }
}

fn process_of(said: v1::Description, own_node: Option<NodeId>) -> Option<explain::Process> {
    let address = said.process?;
    let node = NodeId::from_bytes(&address.node_id).ok();
    let executing = said.executing.into_iter().filter_map(|row| {
        Some(explain::Executing {
            id: task_id(&row.task_id)?,
            name: row.name,
            started_us: row.started_us,
            group: row.group,
        })
    });
    let waits = said.waits.into_iter().map(|row| explain::Wait {
        serial: row.serial,
        since_us: row.since_us,
        missing: object_ids(&row.missing),
        has_timeout: row.has_timeout,
        all_of: row.all_of,
        task: task_id(&row.task_id),
        is_constructor: row.is_constructor,
        is_await: row.is_await,
    });
    let called = said.actors.into_iter().filter_map(|row| {
        Some(explain::Called {
            actor: ActorId::from_bytes(&row.actor_id).ok()?,
            connection: match row.connection {
                1 => explain::Connection::Connected,
                2 => explain::Connection::Restarting,
                3 => explain::Connection::Dead,
                _ => explain::Connection::Unresolved,
            },
            pending: row.pending,
        })
    });
    let objects = said.objects.into_iter().filter_map(|row| {
        Some(explain::Object {
            id: ObjectId::from_bytes(&row.object_id).ok()?,
            is_owned: row.owner.is_none(),
            place: match row.place {
                1 => explain::Place::Empty,
                2 => explain::Place::Inline,
                3 => explain::Place::Arena,
                4 => explain::Place::Error,
                _ => explain::Place::Pending,
            },
            size: row.size,
            site: row.site,
        })
    });
    Some(explain::Process {
        worker: WorkerId::from_bytes(&address.worker_id).ok()?,
        pid: address.pid,
        now_us: said.now_us,
        elsewhere: node.filter(|node| own_node.is_some_and(|own| own != *node)),
        is_driver: said.is_driver,
        hosted: said.actor.and_then(hosted_of),
        tasks: said.tasks.into_iter().filter_map(task_of).collect(),
        executing: executing.collect(),
        waits: waits.collect(),
        called: called.collect(),
        objects: objects.collect(),
    })
}

fn hosted_of(actor: v1::HostedActor) -> Option<explain::Hosted> {
    let since = actor.constructing_since_us;
    Some(explain::Hosted {
        actor: ActorId::from_bytes(&actor.actor_id).ok()?,
        class_name: actor.class_name,
        max_concurrency: actor.max_concurrency,
        groups: actor
            .groups
            .into_iter()
            .map(|group| (group.name, group.limit))
            .collect(),
        constructing_since_us: (since > 0).then_some(since),
        queued: actor.queued,
    })
}

fn task_of(row: v1::UnfinishedTask) -> Option<explain::Task> {
    Some(explain::Task {
        id: task_id(&row.task_id)?,
        name: row.name,
        state: match row.state {
            1 => explain::TaskState::PendingArguments,
            2 => explain::TaskState::PendingNode,
            3 => explain::TaskState::Submitted,
            _ => explain::TaskState::Running,
        },
        kind: match row.kind {
            2 => explain::TaskKind::Creation,
            3 => explain::TaskKind::Call,
            4 => explain::TaskKind::Group,
            _ => explain::TaskKind::Normal,
        },
        attempt: row.attempt,
        actor: ActorId::from_bytes(&row.actor_id).ok(),
        group: row.group,
        sent_to: (row.worker.as_ref())
            .and_then(|worker| Some((WorkerId::from_bytes(&worker.worker_id).ok()?, worker.pid))),
        submitted_us: row.submitted_us,
        missing: object_ids(&row.missing),
        behind: task_id(&row.behind),
        class: row.class,
        why: row.why,
        cancelled: row.cancelled,
    })
}
