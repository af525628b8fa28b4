//! Why an object, task or actor is not there yet, in words, and why what it waits for is not.

use std::fmt::Write as _;

use ray_rs_types::{ActorId, ObjectId, TaskId};
use rustc_hash::FxHashSet;

use crate::index::Index;
use crate::snapshot::{Connection, Place, Process, Snapshot, Task, TaskKind, TaskState, Wait, short};

/// So far from the thing that was asked about.
const DEEPEST: usize = 10;
/// Of several things that one waits for.
const MOST_ARGUMENTS: usize = 4;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Object(ObjectId),
    Task(TaskId),
    Actor(ActorId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// A line for each step, indented by how far it is from the subject.
    pub text: String,
    /// All there is to it: this task runs.
    pub only_runs: Option<TaskId>,
}

pub fn why(snapshot: &Snapshot, subject: Subject) -> Why {
    let index = Index::new(snapshot);
    let mut story = Story {
        index: &index,
        text: String::new(),
        told: FxHashSet::default(),
        only_runs: None,
        steps: 0,
    };
    match subject {
        Subject::Object(id) => story.object(0, id),
        Subject::Task(id) => story.task(0, id),
        Subject::Actor(id) => story.actor(0, id),
    }
    if !snapshot.silent.is_empty() {
        let pids: Vec<String> = snapshot.silent.iter().map(u32::to_string).collect();
        story.line(
            0,
            &format!(
                "Not known is what these processes do, which did not answer: pid {}.",
                pids.join(", ")
            ),
        );
    }
    if !snapshot.silent_nodes.is_empty() {
        let nodes: Vec<String> = snapshot.silent_nodes.iter().copied().map(short).collect();
        story.line(
            0,
            &format!(
                "Not known is what happens on these nodes, which did not answer: {}.",
                nodes.join(", ")
            ),
        );
    }
    let text = story.text.trim_end().to_owned();
    let only_runs = story.only_runs.filter(|_| story.steps == 1);
    Why { text, only_runs }
}

struct Story<'a> {
    index: &'a Index<'a>,
    text: String,
    told: FxHashSet<TaskId>,
    only_runs: Option<TaskId>,
    /// Tasks and actors told of.
    steps: usize,
}

impl Story<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.text, "{:indent$}{text}", "", indent = 2 * depth);
    }

    /// How long ago that was, by the clock of the process that said it.
    fn since(process: &Process, us: u64) -> String {
        let ms = process.now_us.saturating_sub(us) / 1000;
        match ms {
            0..10_000 => format!("{:.1} s", ms as f64 / 1000.0),
            10_000..600_000 => format!("{} s", ms / 1000),
            _ => format!("{} min", ms / 60_000),
        }
    }

    // ---- objects -----------------------------------------------------------------------------------------------

    fn object(&mut self, depth: usize, id: ObjectId) {
        let row = self.index.object(id);
        if let Some((process, object)) = row
            && object.place != Place::Pending
        {
            let (owner, bytes) = (process.place(), size(object.size));
            let site = match object.site.is_empty() {
                true => String::new(),
                false => format!(", made at {}", object.site),
            };
            let words = match object.place {
                Place::Pending => return,
                Place::Empty => format!("is there: it is None (owner: {owner})"),
                Place::Inline => format!("is there: {bytes} in the memory of its owner, {owner}{site}"),
                Place::Arena => format!("is there: {bytes} in the object store (owner: {owner}){site}"),
                Place::Spilled => format!(
                    "is there, but on disk: {bytes} that were spilled (owner: {owner}){site}; get() brings them back"
                ),
                Place::Error => format!("is an error, which get() raises (owner: {owner}){site}"),
            };
            return self.line(depth, &format!("{} {words}.", self.name_of_object(id)));
        }
        if self.index.task(id.task_id()).is_some() {
            if depth == 0 {
                self.line(0, &format!("{} is not there yet.", self.name_of_object(id)));
            }
            return self.task(depth + usize::from(depth == 0), id.task_id());
        }
        let words = match row {
            Some((process, object)) if object.is_owned => format!(
                "is not there yet, and no task makes it: {} waits for it from elsewhere (an item of a generator, or \
                 the answer of a process)",
                process.place()
            ),
            Some((process, _)) => format!(
                "is only borrowed by {}, and no process says that it owns it or makes it: it comes at this moment, or \
                 its owner has ended",
                process.place()
            ),
            None => "is known to no process that answered: it was freed, or its owner has ended".to_owned(),
        };
        self.line(depth, &format!("{} {words}.", self.name_of_object(id)));
    }

    fn name_of_object(&self, id: ObjectId) -> String {
        let task = id.task_id();
        match self.index.task(task) {
            Some(_) => format!("ObjectRef({}), made by {},", id.hex(), self.index.name(task)),
            None => format!("ObjectRef({})", id.hex()),
        }
    }

    fn objects(&mut self, depth: usize, ids: &[ObjectId]) {
        for id in &ids[..ids.len().min(MOST_ARGUMENTS)] {
            self.object(depth, *id);
        }
        if ids.len() > MOST_ARGUMENTS {
            self.line(depth, &format!("... and {} more.", ids.len() - MOST_ARGUMENTS));
        }
    }

    // ---- tasks -------------------------------------------------------------------------------------------------

    fn task(&mut self, depth: usize, id: TaskId) {
        self.steps += 1;
        let name = match self.index.task(id) {
            Some((_, task)) if task.attempt > 0 => format!("{} (try number {})", self.index.name(id), task.attempt + 1),
            _ => self.index.name(id),
        };
        if !self.told.insert(id) {
            return self.line(depth, &format!("{name}: see above."));
        }
        if depth > DEEPEST {
            return self.line(depth, &format!("{name}: and so on."));
        }
        if let Some((at, running)) = self.index.executing(id) {
            let process = &self.index.snapshot.processes[at];
            let text = format!(
                "{name} runs since {} on {}.",
                Self::since(process, running.started_us),
                process.place()
            );
            self.line(depth, &text);
            let waits: Vec<&Wait> = self.index.waits_of(at, id).map(|(_, wait)| wait).collect();
            if waits.is_empty() && self.only_runs.is_none() {
                self.only_runs = Some(id);
            }
            return waits.into_iter().for_each(|wait| self.wait(depth + 1, process, wait));
        }
        let Some((owner, task)) = self.index.task(id) else {
            return self.line(
                depth,
                &format!("{name} has ended, or no process that answered knows it."),
            );
        };
        if task.cancelled {
            self.line(
                depth,
                &format!("{name} was cancelled; its worker has not said yet that it has let it go."),
            );
        }
        if !task.missing.is_empty() {
            let which = match task.missing.len() {
                1 => "an argument that is not there".to_owned(),
                more => format!("{more} arguments that are not there"),
            };
            self.line(depth, &format!("{name} waits for {which}:"));
            return self.objects(depth + 1, &task.missing);
        }
        match task.kind {
            TaskKind::Normal => self.normal_task(depth, &name, owner, task),
            TaskKind::Call => self.call(depth, &name, owner, task),
            TaskKind::Creation => {
                if let Some(actor) = task.actor {
                    self.actor(depth, actor);
                }
            }
            TaskKind::Group => self.line(
                depth,
                "It is ready when its placement group is, which waits for resources of its bundles.",
            ),
        }
    }

    fn wait(&mut self, depth: usize, process: &Process, wait: &Wait) {
        let limit = if wait.has_timeout { ", with a time limit," } else { "" };
        let what = match (wait.is_await, wait.all_of) {
            (true, _) => "awaits",
            (false, true) => "waits in get()",
            (false, false) => "waits in wait()",
        };
        let text = format!("It {what}{limit} since {}:", Self::since(process, wait.since_us));
        self.line(depth, &text);
        self.objects(depth + 1, &wait.missing);
    }

    fn normal_task(&mut self, depth: usize, name: &str, owner: &Process, task: &Task) {
        if task.state == TaskState::PendingNode {
            self.line(
                depth,
                &format!(
                    "{name} waits for a worker since {}.",
                    Self::since(owner, task.submitted_us)
                ),
            );
            let mut asked = self.index.snapshot.waiting.iter();
            let row = asked.find(|row| row.owner == Some((owner.worker, task.class)));
            if let Some(row) = row {
                self.line(depth + 1, &format!("The node: {}.", row.why.trim_end_matches('.')));
            }
            if !task.why.is_empty() {
                self.line(depth + 1, &format!("Its owner ({}): {}", owner.place(), task.why));
            }
            return;
        }
        let Some((worker, pid)) = task.sent_to else {
            return self.line(depth, &format!("{name} is on its way to a worker."));
        };
        let worker = (self.index.snapshot.processes.iter()).find(|process| process.worker == worker);
        let place = worker.map_or_else(|| format!("pid {pid}"), Process::place);
        let busy: Vec<TaskId> =
            worker.map_or_else(Vec::new, |worker| worker.executing.iter().map(|one| one.id).collect());
        self.line(
            depth,
            &format!("{name} was sent to the worker of {place} and has not begun."),
        );
        busy.into_iter().for_each(|id| self.task(depth + 1, id));
    }

    fn call(&mut self, depth: usize, name: &str, owner: &Process, task: &Task) {
        let Some(actor) = task.actor else { return };
        if let Some(earlier) = task.behind {
            self.line(
                depth,
                &format!(
                    "{name} waits for its turn: an earlier call of {} to the same actor goes first.",
                    owner.place()
                ),
            );
            return self.task(depth + 1, earlier);
        }
        let called = owner.called.iter().find(|called| called.actor == actor);
        match (called.map(|called| called.connection), self.index.host(actor)) {
            (Some(Connection::Restarting), _) => {
                self.line(depth, &format!("{name} waits: its actor is restarting."));
                self.actor(depth + 1, actor);
            }
            (_, None) => {
                self.line(depth, &format!("{name} waits: its actor is not created yet."));
                self.actor(depth + 1, actor);
            }
            (_, Some(_)) => {
                self.line(depth, &format!("{name} waits for its turn in its actor."));
                self.actor(depth + 1, actor);
            }
        }
    }

    // ---- actors ------------------------------------------------------------------------------------------------

    fn actor(&mut self, depth: usize, id: ActorId) {
        self.steps += 1;
        let Some((at, hosted)) = self.index.host(id) else {
            return self.actor_without_process(depth, id);
        };
        let process = &self.index.snapshot.processes[at];
        let name = format!("The actor {} ({})", hosted.class_name, process.place());
        if let Some(since) = hosted.constructing_since_us {
            self.line(
                depth,
                &format!(
                    "{name} is being made: its constructor runs since {}.",
                    Self::since(process, since)
                ),
            );
            let waits: Vec<&Wait> = self.index.constructor_waits(at).map(|(_, wait)| wait).collect();
            return waits.into_iter().for_each(|wait| self.wait(depth + 1, process, wait));
        }
        let queued = match hosted.queued {
            0 => "no call waits there".to_owned(),
            1 => "1 call waits there".to_owned(),
            more => format!("{more} calls wait there"),
        };
        if process.executing.is_empty() {
            return self.line(depth, &format!("{name} runs nothing at this moment; {queued}."));
        }
        let limit = match hosted.max_concurrency {
            1 => String::new(),
            more => format!(" (at most {more} at once)"),
        };
        self.line(
            depth,
            &format!(
                "{name} runs {} of its methods{limit}; {queued}:",
                process.executing.len()
            ),
        );
        for running in process.executing.iter().take(MOST_ARGUMENTS) {
            self.task(depth + 1, running.id);
        }
    }

    fn actor_without_process(&mut self, depth: usize, id: ActorId) {
        let row = self.index.snapshot.waiting.iter().find(|row| row.actor == Some(id));
        if let Some(row) = row {
            let text = format!(
                "The actor waits for a worker. The node: {}.",
                row.why.trim_end_matches('.')
            );
            return self.line(depth, &text);
        }
        if let Some(creation) = self.index.creation(id)
            && let Some((_, task)) = self.index.task(creation)
            && !task.missing.is_empty()
            && self.told.insert(creation)
        {
            self.line(
                depth,
                &format!(
                    "The actor waits for arguments of its constructor, {}:",
                    self.index.name(creation)
                ),
            );
            return self.objects(depth + 1, &task.missing);
        }
        let mut called = self.index.snapshot.processes.iter().flat_map(|process| &process.called);
        let dead = called.any(|called| called.actor == id && called.connection == Connection::Dead);
        self.line(
            depth,
            match dead {
                true => "The actor is dead.",
                false => "The actor has no process now: it is being placed, or the process did not answer.",
            },
        );
    }
}

fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let amount = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", amount / KIB),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", amount / KIB / KIB),
        _ => format!("{:.2} GiB", amount / KIB / KIB / KIB),
    }
}
