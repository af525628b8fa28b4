//! What this process is about, for whoever asks: unfinished tasks, what runs, who waits for what, references.
//!
//! Answered on the progress thread, so also while all of Python is busy. Everything here walks tables; nothing but a wait's
//! [`Blocked`] and a task's [`Moment`] is noted ahead of time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ray_rs_actors::call_order::{CallKey, CallPlace, Connection};
use ray_rs_dispatch::{TaskKey as DispatchKey, TaskPlace};
use ray_rs_ownership::{ObjectView, OwnerIndex, RefKind, RefSlot, TaskKey, TaskState};
use ray_rs_proto::convert::kind_number;
use ray_rs_proto::v1;
use ray_rs_types::task_columns::TaskKind;
use ray_rs_types::{ActorId, ObjectId, TaskId};
use rustc_hash::FxHashSet;
use rustix::time::{ClockId, clock_gettime};

use crate::core::CoreWorker;
use crate::executing::{CONSTRUCTOR, EXECUTING};
use crate::listing::Standing;
use crate::look::Look;
use crate::model::{StoredValue, ValueData};
use crate::state::State;
use crate::submit::{Spec, Work};

/// Rows of a kind, if the asker has no other wish.
const USUAL_LIMIT: usize = 10_000;
/// So many rows of tasks get the dispatcher's word, which costs a walk through its queue.
const MOST_EXPLAINED: usize = 64;

/// Parts of a description.
const TASKS: u32 = 1;
const OBJECTS: u32 = 2;
pub(crate) const LISTING: u32 = 64;

/// A time to a few milliseconds, for the price of reading a few words of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        Self(Duration::new(now.tv_sec as u64, now.tv_nsec as u32))
    }

    /// That of so many microseconds since 1970, if it is past.
    pub fn at_us(us: u64) -> Self {
        let ago = us_ago(Duration::ZERO).saturating_sub(us);
        Self(Self::now().0.saturating_sub(Duration::from_micros(ago)))
    }

    pub fn us(self) -> u64 {
        us_ago(Self::now().0.saturating_sub(self.0))
    }
}

/// Microseconds since 1970, so long ago.
fn us_ago(ago: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(ago).as_micros() as u64
}

fn us_of(instant: Instant) -> u64 {
    us_ago(instant.elapsed())
}

/// A wait that sleeps.
pub(crate) struct Blocked {
    pub serial: u64,
    /// Microseconds since 1970: the same in all descriptions.
    pub since_us: u64,
    pub slots: Vec<RefSlot>,
    pub has_timeout: bool,
    pub all_of: bool,
    /// [`EXECUTING`] of the thread.
    pub executing: u64,
    /// To its last question about it.
    pub answer: Option<Box<v1::Descriptions>>,
}

impl State {
    /// The wait `me` of this thread really sleeps.
    pub fn note_blocked(&mut self, me: u32, slots: &[RefSlot], num_wanted: usize, has_timeout: bool) -> Option<Look> {
        let serial = self.next_wait;
        let waiter = self.waiters.get_mut(me as usize).and_then(Option::as_mut)?;
        self.next_wait += 1;
        let all_of = num_wanted == slots.len();
        // Nobody waits for a driver, nor for a thread that a task has started.
        let may_be_stuck = EXECUTING.get() != 0 && all_of && !has_timeout;
        waiter.blocked = Some(Box::new(Blocked {
            serial,
            since_us: us_ago(Duration::ZERO),
            slots: slots.to_vec(),
            has_timeout,
            all_of,
            executing: EXECUTING.get(),
            answer: None,
        }));
        Some(Look::new(self.me.worker_id, serial, waiter.remaining, may_be_stuck))
    }

    pub fn describe(&mut self, question: &v1::DescribeYourself) -> v1::Description {
        self.drain_lanes(256);
        let limit = match question.limit as usize {
            0 => USUAL_LIMIT,
            limit => limit.min(USUAL_LIMIT),
        };
        let mut description = v1::Description {
            inquiry: question.inquiry,
            process: Some((&self.me).into()),
            job_id: self.job.0.to_vec(),
            is_driver: self.is_driver,
            now_us: us_ago(Duration::ZERO),
            ..v1::Description::default()
        };
        let first: FxHashSet<&[u8]> = question.first.iter().map(Vec::as_slice).collect();
        if question.parts & TASKS != 0 {
            self.describe_tasks(&first, limit, &mut description);
            description.actor = self.describe_hosted();
            description.executing = self.describe_executing();
            self.describe_waits(limit, &mut description);
            description.actors = self.describe_called(limit);
        }
        if question.parts & LISTING != 0 {
            // Whoever lists what has not ended lists what has, right afterwards.
            self.send_task_events();
            self.list_unfinished(question, &first, limit, &mut description);
            description.executing = self.describe_executing();
            self.describe_waits(USUAL_LIMIT, &mut description);
            for wait in &mut description.waits {
                wait.missing.clear();
            }
        }
        if question.parts & OBJECTS != 0 {
            self.describe_objects(&first, limit, &mut description);
        }
        description
    }

    // ---- tasks -------------------------------------------------------------------------------------------------

    fn describe_tasks(&self, first: &FxHashSet<&[u8]>, limit: usize, description: &mut v1::Description) {
        let mut rows: Vec<(TaskKey, TaskState, bool)> = Vec::new();
        for (key, state, spec) in self.owner.tasks() {
            if self.is_made(spec) {
                continue;
            }
            let wanted = !first.is_empty() && first.contains(&self.task_id_of(spec).0[..]);
            description.total_tasks += 1;
            if rows.len() < limit {
                rows.push((key, state, wanted));
            } else if wanted && let Some(other) = rows.iter_mut().find(|(_, _, wanted)| !wanted) {
                *other = (key, state, wanted);
            }
        }
        rows.sort_by_key(|(_, _, wanted)| !wanted);
        let mut explained = 0;
        description.tasks = (rows.into_iter())
            .filter_map(|(key, state, wanted)| {
                let spec = self.owner.spec(key)?;
                let mut row = self.describe_task(key, state, spec);
                row.missing = self.owner.missing_arguments(key).map(|id| id.0.to_vec()).collect();
                if row.state == PENDING_NODE && (wanted || explained < MOST_EXPLAINED) && row.kind == NORMAL {
                    explained += 1;
                    row.why = self.dispatch.explain(DispatchKey(key.0));
                }
                Some(row)
            })
            .collect();
    }

    /// An actor's creation stands for its constructor's references as long as the actor lives.
    pub fn is_made(&self, spec: &Spec) -> bool {
        let Work::Creation(actor) = spec.work else { return false };
        self.actors[actor.0 as usize].order.connection() != Connection::Unresolved
    }

    /// What is in each row of a task, and is found without making one.
    pub fn standing_of(&self, key: TaskKey, state: TaskState, spec: &Spec) -> Standing {
        let mut standing = Standing {
            state: match (state, spec.sent) {
                (TaskState::WaitingForArguments, _) => PENDING_ARGS,
                (TaskState::Submitted | TaskState::Lineage, None) => PENDING_NODE,
                (TaskState::Submitted | TaskState::Lineage, Some(_)) => SUBMITTED,
            },
            kind: None,
            unlisted: false,
        };
        match spec.work {
            Work::Normal(function) => {
                standing.kind = Some(TaskKind::Normal);
                standing.unlisted = self.function(function).unlisted;
                let sent_to = spec.sent.and_then(|(lane, seq)| Some((self.peers.get(lane)?, seq)));
                if self.dispatch.place(DispatchKey(key.0)).0 == TaskPlace::Queued {
                    standing.state = PENDING_NODE;
                } else if sent_to.is_some_and(|(peer, seq)| peer.is_claimed(seq)) {
                    standing.state = RUNNING;
                }
            }
            Work::Creation(actor) => {
                standing.kind = Some(TaskKind::Creation);
                standing.unlisted = (self.actors[actor.0 as usize].spec.as_ref()).is_some_and(|spec| spec.unlisted);
            }
            Work::Call { method, .. } => {
                standing.kind = Some(TaskKind::Call);
                standing.unlisted = self.method(method).unlisted;
            }
            Work::Group => {}
        }
        standing
    }

    pub fn describe_task(&self, key: TaskKey, state: TaskState, spec: &Spec) -> v1::UnfinishedTask {
        let standing = self.standing_of(key, state, spec);
        let mut row = v1::UnfinishedTask {
            task_id: self.task_id_of(spec).0.to_vec(),
            name: self.name_of(spec.work),
            attempt: self.owner.attempt(key),
            parent: self.parent_of(spec),
            submitted_us: spec.since.us(),
            cancelled: spec.cancelled.is_some(),
            state: standing.state,
            kind: standing.kind.map_or(GROUP, kind_number),
            unlisted: standing.unlisted,
            ..v1::UnfinishedTask::default()
        };
        let sent_to = spec.sent.and_then(|(lane, _)| self.peers.get(lane));
        row.worker = sent_to.map(|peer| (&self.peers.address(peer.who)).into());
        match spec.work {
            Work::Normal(function) => row.class = self.usual_class(function),
            Work::Creation(actor) => row.actor_id = self.actors[actor.0 as usize].id.0.to_vec(),
            Work::Call { actor, method } => {
                row.group = self.method(method).group.to_string();
                let target = &self.actors[actor.0 as usize];
                row.actor_id = target.id.0.to_vec();
                if target.order.place(CallKey(key.0)) != Some(CallPlace::InFlight)
                    && let Some(earlier) = target.order.holds_up_others().filter(|other| other.0 != key.0)
                    && let Some(earlier) = self.owner.spec(TaskKey(earlier.0))
                {
                    row.behind = self.task_id_of(earlier).0.to_vec();
                }
            }
            Work::Group => {}
        }
        row
    }

    pub fn name_of(&self, work: Work) -> String {
        match work {
            Work::Normal(function) => self.function(function).name.to_string(),
            Work::Call { method, .. } => self.method(method).name.to_string(),
            Work::Creation(actor) => self.constructor_name(actor).to_string(),
            Work::Group => "placement group".to_owned(),
        }
    }

    pub fn parent_of(&self, spec: &Spec) -> Vec<u8> {
        match spec.parent {
            0 => Vec::new(),
            unique => self.own_task_id(unique),
        }
    }

    /// Of a task that runs, or ran, in this process.
    fn own_task_id(&self, unique: u64) -> Vec<u8> {
        let actor = match self.execution.actor {
            Some((actor, _)) => actor,
            None => ActorId::nil_of(self.job),
        };
        TaskId::new(unique, actor).0.to_vec()
    }

    // ---- what runs, and who waits ------------------------------------------------------------------------------

    fn describe_hosted(&self) -> Option<v1::HostedActor> {
        let ((actor_id, _), hosted) = (self.execution.actor?, self.execution.hosted.as_ref()?);
        let groups = hosted.groups.iter().map(|(name, limit)| v1::NamedLimit {
            name: name.clone(),
            limit: *limit,
        });
        Some(v1::HostedActor {
            actor_id: actor_id.0.to_vec(),
            class_name: hosted.class_name.clone(),
            max_concurrency: hosted.max_concurrency,
            groups: groups.collect(),
            is_async: hosted.is_async,
            constructing_since_us: hosted.constructing.map_or(0, us_of),
            queued: self.execution.waiting() as u64,
        })
    }

    fn describe_executing(&self) -> Vec<v1::ExecutingTask> {
        let rows = self.execution.running.iter().filter_map(|running| {
            let peer = self.peers.get(running.lane)?;
            let callee = peer.callees.get(running.function as usize)?;
            Some(v1::ExecutingTask {
                task_id: self.own_task_id(running.unique),
                name: callee.name.to_string(),
                started_us: us_of(running.started),
                caller: Some((&self.peers.address(peer.who)).into()),
                group: callee.group.to_string(),
            })
        });
        rows.collect()
    }

    fn describe_waits(&self, limit: usize, description: &mut v1::Description) {
        let is_async = self.execution.hosted.as_ref().is_some_and(|hosted| hosted.is_async);
        let mut room = limit;
        for waiter in self.waiters.iter().flatten().filter(|waiter| !waiter.satisfied) {
            let Some(blocked) = &waiter.blocked else { continue };
            description.total_waits += 1;
            if room == 0 {
                continue;
            }
            let missing: Vec<ObjectId> = (blocked.slots.iter())
                .filter(|slot| !self.owner.is_ready(**slot))
                .filter_map(|slot| Some(self.owner.object(*slot)?.id))
                .collect();
            let told = missing.len().min(room);
            room -= told.max(1).min(room);
            description.waits.push(v1::BlockedThread {
                serial: blocked.serial,
                since_us: blocked.since_us,
                missing: missing[..told].iter().map(|id| id.0.to_vec()).collect(),
                total_missing: missing.len() as u64,
                has_timeout: blocked.has_timeout,
                remaining: waiter.remaining as u64,
                all_of: blocked.all_of,
                // A loop's thread runs many calls: which of them blocks it is not known here.
                task_id: match blocked.executing {
                    0 | CONSTRUCTOR => Vec::new(),
                    _ if is_async => Vec::new(),
                    unique => self.own_task_id(unique),
                },
                is_constructor: blocked.executing == CONSTRUCTOR,
                is_await: false,
            });
        }
        let rows = self.awaits.watch.rows().filter(|_| self.awaits.is_fresh);
        for row in rows.take(limit) {
            description.total_waits += 1;
            description.waits.push(v1::BlockedThread {
                serial: row.serial,
                since_us: us_of(row.since),
                missing: row.objects.iter().map(|(_, id)| id.0.to_vec()).collect(),
                total_missing: row.objects.len() as u64,
                remaining: row.objects.len() as u64,
                all_of: true,
                task_id: self.own_task_id(row.call),
                is_await: true,
                ..v1::BlockedThread::default()
            });
        }
    }

    fn describe_called(&self, limit: usize) -> Vec<v1::CalledActor> {
        let rows = self.actors.iter().take(limit).map(|target| v1::CalledActor {
            actor_id: target.id.0.to_vec(),
            connection: match target.order.connection() {
                Connection::Unresolved => 0,
                Connection::Connected => 1,
                Connection::Restarting => 2,
                Connection::Dead => 3,
            },
            pending: target.order.pending() as u64,
            in_flight: target.order.in_flight() as u64,
            pid: target.pid,
        });
        rows.collect()
    }

    // ---- objects -----------------------------------------------------------------------------------------------

    fn describe_objects(&self, first: &FxHashSet<&[u8]>, limit: usize, description: &mut v1::Description) {
        // Where there are too many: those asked for, then those that take room in the store.
        let mut rows: [Vec<ObjectView<'_, StoredValue>>; 3] = Default::default();
        for object in self.owner.objects() {
            let is_stored = || matches!(object.value, Some((value, _)) if matches!(value.data, ValueData::Arena(_)));
            let urgency = match !first.is_empty() && first.contains(&object.id.0[..]) {
                true => 0,
                false if is_stored() => 1,
                false => 2,
            };
            description.total_objects += 1;
            if rows[urgency].len() < limit {
                rows[urgency].push(object);
            }
        }
        let arena = self.arena.stats();
        (description.extent_bytes, description.block_bytes) = (arena.extent_bytes, arena.used_bytes);
        let rows = rows.iter().flatten().take(limit);
        description.objects = rows.map(|object| self.describe_object(object)).collect();
    }

    fn describe_object(&self, object: &ObjectView<'_, StoredValue>) -> v1::KnownObject {
        let mut row = v1::KnownObject {
            object_id: object.id.0.to_vec(),
            is_actor_handle: object.kind == RefKind::ActorHandle,
            owner: (object.owner != OwnerIndex::ME).then(|| (&self.peers.address(object.owner)).into()),
            local: u64::from(object.local),
            submitted: u64::from(object.submitted),
            contained: u64::from(object.contained),
            borrowers: object.borrowers as u64,
            site: self.sites.name(object.site).to_owned(),
            ..v1::KnownObject::default()
        };
        if let Some((value, is_error)) = object.value {
            match &value.data {
                ValueData::Empty => row.place = 1,
                ValueData::Inline(data) => (row.place, row.size) = (2, data.len() as u64),
                ValueData::Arena(location) => {
                    (row.place, row.size) = (3, location.length);
                    (row.offset, row.generation) = (location.offset, location.generation);
                    row.node_id = location.node.map(|node| node.id().0.to_vec()).unwrap_or_default();
                    row.pinned = location.node.is_none() && self.arena.is_pinned_here(location.offset);
                }
                ValueData::Failed(_) => {}
            }
            if is_error && row.place != 3 {
                row.place = 4;
            }
        }
        if let Some(key) = object.task
            && let Some(spec) = self.owner.spec(key)
            && let Some(state) = self.owner.task_state(key)
        {
            row.task_state = self.standing_of(key, state, spec).state;
            row.attempt = self.owner.attempt(key);
        }
        row
    }
}

impl CoreWorker {
    /// Of an object that a task of this process is to make: the task's state (as in `UnfinishedTask`) and its age.
    pub fn standing(&self, slot: RefSlot) -> Option<(u32, Duration)> {
        let state = self.state.lock();
        let key = state.owner.task_of(slot)?;
        let (spec, stands) = (state.owner.spec(key)?, state.owner.task_state(key)?);
        let age = Moment::now().0.saturating_sub(spec.since.0);
        Some((state.standing_of(key, stands, spec).state, age))
    }
}

/// As in `UnfinishedTask`.
const PENDING_ARGS: u32 = 1;
const PENDING_NODE: u32 = 2;
pub(crate) const SUBMITTED: u32 = 3;
pub(crate) const RUNNING: u32 = 4;
const NORMAL: u32 = 1;
pub(crate) const GROUP: u32 = 4;
