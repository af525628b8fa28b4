//! A snapshot by its ids.

use ray_rs_types::{ActorId, ObjectId, TaskId};
use rustc_hash::FxHashMap;

use crate::snapshot::{Executing, Hosted, Object, Process, Snapshot, Task, TaskKind, Wait};

pub(crate) struct Index<'a> {
    pub snapshot: &'a Snapshot,
    tasks: FxHashMap<TaskId, (usize, usize)>,
    executing: FxHashMap<TaskId, (usize, usize)>,
    hosts: FxHashMap<ActorId, usize>,
    creations: FxHashMap<ActorId, TaskId>,
}

impl<'a> Index<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let mut index = Self {
            snapshot,
            tasks: FxHashMap::default(),
            executing: FxHashMap::default(),
            hosts: FxHashMap::default(),
            creations: FxHashMap::default(),
        };
        for (at, process) in snapshot.processes.iter().enumerate() {
            for (row, task) in process.tasks.iter().enumerate() {
                index.tasks.insert(task.id, (at, row));
                if let (TaskKind::Creation, Some(actor)) = (task.kind, task.actor) {
                    index.creations.insert(actor, task.id);
                }
            }
            for (row, task) in process.executing.iter().enumerate() {
                index.executing.insert(task.id, (at, row));
            }
            if let Some(hosted) = &process.hosted {
                index.hosts.insert(hosted.actor, at);
            }
        }
        index
    }

    /// A task that has not ended, and its owner.
    pub fn task(&self, id: TaskId) -> Option<(&'a Process, &'a Task)> {
        let (process, row) = *self.tasks.get(&id)?;
        let process = &self.snapshot.processes[process];
        Some((process, &process.tasks[row]))
    }

    /// Where it runs.
    pub fn executing(&self, id: TaskId) -> Option<(usize, &'a Executing)> {
        let (process, row) = *self.executing.get(&id)?;
        Some((process, &self.snapshot.processes[process].executing[row]))
    }

    pub fn host(&self, actor: ActorId) -> Option<(usize, &'a Hosted)> {
        let at = *self.hosts.get(&actor)?;
        Some((at, self.snapshot.processes[at].hosted.as_ref()?))
    }

    /// The task that makes an actor, while it is not made.
    pub fn creation(&self, actor: ActorId) -> Option<TaskId> {
        self.creations.get(&actor).copied()
    }

    /// Waits of the task's own thread.
    pub fn waits_of(&self, process: usize, task: TaskId) -> impl Iterator<Item = (usize, &'a Wait)> {
        let waits = self.snapshot.processes[process].waits.iter().enumerate();
        waits.filter(move |(_, wait)| wait.task == Some(task))
    }

    pub fn constructor_waits(&self, process: usize) -> impl Iterator<Item = (usize, &'a Wait)> {
        let waits = self.snapshot.processes[process].waits.iter().enumerate();
        waits.filter(|(_, wait)| wait.is_constructor)
    }

    /// The best that anybody says of it: first its owner, then whoever has it.
    pub fn object(&self, id: ObjectId) -> Option<(&'a Process, &'a Object)> {
        let rows = self.snapshot.processes.iter().flat_map(|process| {
            let rows = process.objects.iter().filter(move |object| object.id == id);
            rows.map(move |object| (process, object))
        });
        rows.max_by_key(|(_, object)| object.is_owned)
    }

    /// As people call it.
    pub fn name(&self, id: TaskId) -> String {
        let known = self.task(id).map(|(_, task)| task.name.as_str());
        let running = || self.executing(id).map(|(_, task)| task.name.as_str());
        known
            .or_else(running)
            .map_or_else(|| format!("task {}", id.hex()), |name| format!("'{name}'"))
    }
}
