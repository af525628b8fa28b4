//! Coroutines that await references: what they wait for, whether that can ever come, and what there is to tell of it.
//!
//! A thread inside `get` looks round by itself (see `look.rs`); a coroutine has no thread. Which of them awaits what only
//! the language above knows, and it does not say so as it happens, since that would cost each await. So once an await may
//! have lasted, and whenever somebody asks an async actor what it is about, the host is asked to look
//! ([`HostEvent::LookAtAwaits`]) and answers with [`AwaitsSeen`]; a description waits for that at most
//! [`HOST_PAUSE`], for Python may be busy, and then nobody on the loop awaits anything that matters.
//!
//! [`AwaitWatch`] decides when to look round and what is proven; it knows no clock.

use std::time::{Duration, Instant};

use ray_rs_explain as explain;
use ray_rs_explain::{Deadlock, Snapshot, Subject, WaitKey};
use ray_rs_ownership::RefSlot;
use ray_rs_proto::v1;
use ray_rs_types::config::DEADLOCK_LOOK;
use ray_rs_types::{ObjectId, TaskId};
use rustc_hash::FxHashMap;

use crate::await_lending::AwaitLending;
use crate::core::CoreWorker;
use crate::look::{self, LONGEST_PAUSE, MOST_TOLD, PROOF_PAUSE, TASKS, WAITING};
use crate::model::HostEvent;
use crate::state::{Answer, Question, State};

/// So long a description waits for what the host sees.
const HOST_PAUSE: Duration = Duration::from_millis(400);
/// Between two looks, other than for a proof: each asks all processes of the node.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// A reference that is awaited, by whom ever, and has not come.
pub struct Awaited {
    pub token: u64,
    pub slot: RefSlot,
    pub since: Instant,
}

/// A call of this process's actor, or a task that it runs, that can't go on before all of these tokens have come.
pub struct AwaitingCall {
    /// Number of the call.
    pub call: u64,
    pub tokens: Vec<u64>,
}

/// What the host sees.
#[derive(Default)]
pub struct AwaitsSeen {
    pub awaited: Vec<Awaited>,
    pub calls: Vec<AwaitingCall>,
    /// Tasks whose event loop has nothing to do, each with all that is awaited on it.
    pub idle: Vec<AwaitingCall>,
}

/// A call that awaits, as descriptions tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub call: u64,
    pub serial: u64,
    pub since: Instant,
    /// With their tokens.
    pub objects: Vec<(u64, ObjectId)>,
}

#[derive(Debug)]
struct Watched {
    row: Row,
    next_look: Instant,
    pause: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    times: u32,
    /// It was told that this task simply runs: once is enough.
    runs: bool,
}

/// What is known of one awaited reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reference {
    id: ObjectId,
    since: Instant,
}

/// What a look is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub tells: bool,
    pub proves: bool,
}

pub(crate) struct AwaitWatch {
    told_after: Option<Duration>,
    detects: bool,
    watched: Vec<Watched>,
    references: FxHashMap<u64, Reference>,
    told: FxHashMap<u64, Told>,
    /// By serial number: in which round, and what.
    suspicions: FxHashMap<u64, (u64, Deadlock)>,
    last_look: Option<Instant>,
}

impl AwaitWatch {
    pub fn new(told_after: Option<Duration>, detects: bool) -> Self {
        Self {
            told_after,
            detects,
            watched: Vec::new(),
            references: FxHashMap::default(),
            told: FxHashMap::default(),
            suspicions: FxHashMap::default(),
            last_look: None,
        }
    }

    /// When an await that begins at `now` is first worth a look.
    pub fn first_look(&self, now: Duration, is_async_actor: bool) -> Option<Duration> {
        let detects = (self.detects && is_async_actor).then_some(DEADLOCK_LOOK);
        let after = detects.into_iter().chain(self.told_after).min()?;
        Some(now + after)
    }

    /// All that is awaited now. A call that awaits the same as before is in the same wait: its tokens are of it alone, and
    /// an await ends only when its token comes or it is cancelled.
    pub fn seen(&mut self, awaited: Vec<(u64, ObjectId, Instant)>, calls: Vec<AwaitingCall>, next_serial: &mut u64) {
        self.references = awaited
            .into_iter()
            .map(|(token, id, since)| (token, Reference { id, since }))
            .collect();
        let references = &self.references;
        self.told.retain(|token, _| references.contains_key(token));
        let mut before: FxHashMap<u64, Watched> = std::mem::take(&mut self.watched)
            .into_iter()
            .map(|watched| (watched.row.call, watched))
            .collect();
        for AwaitingCall { call, tokens } in calls {
            let known = tokens.iter().filter_map(|token| Some((*token, references.get(token)?)));
            let mut objects: Vec<(u64, ObjectId)> =
                known.clone().map(|(token, reference)| (token, reference.id)).collect();
            objects.sort_unstable();
            let Some(since) = known.map(|(_, reference)| reference.since).max() else {
                continue;
            };
            let same = before.remove(&call).filter(|before| before.row.objects == objects);
            self.watched.push(same.unwrap_or_else(|| {
                let serial = *next_serial;
                *next_serial += 1;
                Watched {
                    row: Row {
                        call,
                        serial,
                        since,
                        objects,
                    },
                    next_look: since + DEADLOCK_LOOK,
                    pause: DEADLOCK_LOOK,
                }
            }));
        }
        let serials: Vec<u64> = self.watched.iter().map(|watched| watched.row.serial).collect();
        self.suspicions.retain(|serial, _| serials.contains(serial));
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.watched.iter().map(|watched| &watched.row)
    }

    fn tells_at(&self, token: u64, reference: &Reference) -> Option<Instant> {
        let told = self.told.get(&token);
        if told.is_some_and(|told| told.runs) {
            return None;
        }
        look::tells_at(self.told_after?, reference.since, told.map_or(0, |told| told.times))
    }

    pub fn due(&self, now: Instant) -> Due {
        let tells =
            |(token, reference): (&u64, &Reference)| self.tells_at(*token, reference).is_some_and(|at| at <= now);
        Due {
            tells: self.references.iter().any(tells),
            proves: self.detects && self.watched.iter().any(|watched| watched.next_look <= now),
        }
    }

    /// When to look next, as far as is known.
    pub fn next_look(&self, now: Instant, is_async_actor: bool) -> Option<Instant> {
        let tells = self
            .references
            .iter()
            .filter_map(|(token, reference)| self.tells_at(*token, reference));
        let proofs = self
            .watched
            .iter()
            .map(|watched| watched.next_look)
            .filter(|_| self.detects);
        // What is young may be awaited by a call when it is older.
        let young = self
            .references
            .values()
            .map(|reference| reference.since + DEADLOCK_LOOK);
        let young = young.filter(|at| is_async_actor && self.detects && *at > now);
        let next = tells.chain(proofs).chain(young).min()?;
        let pause = match self.suspicions.is_empty() {
            true => LOOK_PAUSE,
            false => PROOF_PAUSE,
        };
        Some(next.max(self.last_look.map_or(now, |last| last + pause)))
    }

    pub fn looked(&mut self, now: Instant) {
        self.last_look = Some(now);
    }

    /// The waits of a snapshot that are now looked at.
    pub fn to_prove(&self, now: Instant) -> Vec<u64> {
        let due = self.watched.iter().filter(|watched| watched.next_look <= now);
        due.map(|watched| watched.row.serial).collect()
    }

    /// What a round has shown of the waits that were looked at: those that it proves, with the tokens that never come.
    pub fn judge(
        &mut self,
        now: Instant,
        inquiry: u64,
        looked: &[u64],
        found: Vec<Deadlock>,
    ) -> Vec<(Vec<u64>, Deadlock)> {
        for watched in self
            .watched
            .iter_mut()
            .filter(|watched| looked.contains(&watched.row.serial))
        {
            watched.next_look = now + watched.pause;
            watched.pause = (watched.pause * 2).min(LONGEST_PAUSE);
        }
        let mut proven = Vec::new();
        let mut suspicions = std::mem::take(&mut self.suspicions);
        for found in found {
            let serial = found.raises.serial;
            let Some(watched) = self.watched.iter_mut().find(|watched| watched.row.serial == serial) else {
                continue;
            };
            match suspicions.remove(&serial) {
                // EXP-4: the round came after that of the first sight, and nothing has moved.
                Some((earlier, before)) if earlier < inquiry && before.proof == found.proof => {
                    let stuck = watched.row.objects.iter().filter(|(_, id)| found.objects.contains(id));
                    proven.push((stuck.map(|(token, _)| *token).collect(), found));
                }
                _ => {
                    watched.next_look = now + PROOF_PAUSE;
                    self.suspicions.insert(serial, (inquiry, found));
                }
            }
        }
        proven
    }

    /// What to tell of now: how long the oldest has lasted, how many there are, and the first of them.
    pub fn to_tell(&self, now: Instant) -> Option<(Duration, usize, Vec<(u64, ObjectId)>)> {
        let mut due: Vec<(Instant, u64, ObjectId)> = (self.references.iter())
            .filter(|(token, reference)| self.tells_at(**token, reference).is_some_and(|at| at <= now))
            .map(|(token, reference)| (reference.since, *token, reference.id))
            .collect();
        due.sort_unstable();
        let (since, ..) = due.first()?;
        let objects = due.iter().map(|(_, token, id)| (*token, *id)).collect();
        Some((now.saturating_duration_since(*since), due.len(), objects))
    }

    /// `runs`: that is all there is to say of it.
    pub fn was_told(&mut self, token: u64, runs: bool) {
        let told = self.told.entry(token).or_insert(Told { times: 0, runs: false });
        told.times += 1;
        told.runs |= runs;
    }
}

/// What a process has to do with its coroutines' waits.
pub(crate) struct Awaits {
    pub watch: AwaitWatch,
    /// When the host is to look.
    look_at: Option<Duration>,
    /// Questions that wait for what the host sees, and until when.
    deferred: Vec<(v1::DescribeYourself, Duration)>,
    /// Rows are of this moment.
    pub is_fresh: bool,
    /// Tasks that await in an event loop of their own.
    pub lending: AwaitLending,
    /// Something was awaited when the host looked last, or has been since.
    any: bool,
    /// The raylet was asked, and for what.
    asked: Option<Due>,
}

impl Default for Awaits {
    fn default() -> Self {
        let settings = look::settings();
        Self {
            watch: AwaitWatch::new(settings.told_after, settings.detect),
            look_at: None,
            deferred: Vec::new(),
            is_fresh: false,
            lending: AwaitLending::default(),
            any: false,
            asked: None,
        }
    }
}

impl Awaits {
    pub fn next_deadline(&self) -> Option<Duration> {
        let deferred = self.deferred.iter().map(|(_, until)| *until);
        deferred.chain(self.look_at).min()
    }
}

impl State {
    /// A reference begins to be awaited.
    pub fn await_begins(&mut self) {
        let now = self.now();
        self.awaits.any = true;
        if self.awaits.look_at.is_none() {
            self.awaits.look_at = self.awaits.watch.first_look(now, self.runs_coroutines());
        }
        if self.may_lend() {
            let look_at = self.awaits.lending.look_at(now);
            self.awaits.look_at = Some(self.awaits.look_at.map_or(look_at, |at| at.min(look_at)));
        }
    }

    /// Coroutines may be what tasks or an actor of this process consist of.
    fn runs_coroutines(&self) -> bool {
        self.hosts_async_actor() || !self.execution.running.is_empty()
    }

    /// It runs a task, which holds a CPU; an actor's calls hold none of their own.
    fn may_lend(&self) -> bool {
        self.execution.hosted.is_none() && !self.execution.running.is_empty()
    }

    /// What a coroutine of a task awaits is there.
    pub fn await_ends(&mut self, token: u64) {
        for _ in 0..self.awaits.lending.came(token) {
            self.task_unblocks();
        }
    }

    /// A task that may have lent its CPU has ended.
    pub fn awaiting_task_ended(&mut self, unique: u64) {
        if self.awaits.lending.ended(unique) {
            self.task_unblocks();
        }
    }

    fn lend_for(&mut self, mut idle: Vec<AwaitingCall>, now: Duration) {
        if self.execution.hosted.is_some() {
            return;
        }
        idle.retain(|call| self.execution.running.iter().any(|running| running.unique == call.call));
        let idle: Vec<(u64, Vec<u64>)> = idle.into_iter().map(|call| (call.call, call.tokens)).collect();
        let turn = self.awaits.lending.seen(&idle);
        self.awaits.lending.looked(now);
        for _ in 0..turn.lend {
            self.task_blocks();
        }
        for _ in 0..turn.take_back {
            self.task_unblocks();
        }
    }

    fn hosts_async_actor(&self) -> bool {
        self.execution.hosted.as_ref().is_some_and(|hosted| hosted.is_async)
    }

    /// Whether the answer needs what the host sees; then it is given later.
    pub fn defers(&mut self, question: &v1::DescribeYourself) -> bool {
        let may_await = self.hosts_async_actor() || self.awaits.any;
        if question.parts & TASKS == 0 || !may_await || self.execution.running.is_empty() {
            return false;
        }
        let until = self.now() + HOST_PAUSE;
        self.awaits.deferred.push((question.clone(), until));
        self.after.host.push(HostEvent::LookAtAwaits { is_asked: true });
        true
    }

    /// Time has come for the host to look, or to be waited for no longer.
    pub fn await_deadlines(&mut self, now: Duration) {
        if self.awaits.look_at.is_some_and(|at| at <= now) {
            self.awaits.look_at = None;
            self.after.host.push(HostEvent::LookAtAwaits { is_asked: false });
        }
        let (overdue, still) = std::mem::take(&mut self.awaits.deferred)
            .into_iter()
            .partition(|(_, until)| *until <= now);
        self.awaits.deferred = still;
        self.answer_deferred(overdue);
    }

    fn answer_deferred(&mut self, questions: Vec<(v1::DescribeYourself, Duration)>) {
        for (question, _) in questions {
            let description = self.describe(&question);
            self.tell_raylet(v1::to_raylet::Body::Description(description));
        }
    }

    fn awaits_seen(&mut self, seen: AwaitsSeen) {
        let awaited = seen.awaited.iter().filter(|one| !self.owner.is_ready(one.slot));
        let awaited = awaited.map(|one| (one.token, self.owner.id(one.slot), one.since));
        let awaited: Vec<_> = awaited.collect();
        self.awaits.any = !awaited.is_empty();
        let missing = |token: &u64| awaited.iter().any(|(other, ..)| other == token);
        let mut idle = seen.idle;
        idle.retain(|call| call.tokens.iter().all(missing));
        self.awaits.watch.seen(awaited, seen.calls, &mut self.next_wait);
        self.lend_for(idle, self.now());
        self.awaits.is_fresh = true;
        let questions = std::mem::take(&mut self.awaits.deferred);
        self.answer_deferred(questions);
        self.awaits.is_fresh = false;
        let now = Instant::now();
        let due = self.awaits.watch.due(now);
        if self.awaits.asked.is_none() && (due.tells || due.proves) {
            self.awaits.asked = Some(due);
            self.awaits.watch.looked(now);
            let request_id = self.fresh_request();
            self.questions.insert(request_id, Question::LookAtAwaits);
            let told = self
                .awaits
                .watch
                .to_tell(now)
                .map_or_else(Vec::new, |(_, _, objects)| objects);
            self.tell_raylet(v1::to_raylet::Body::Describe(v1::Describe {
                request_id,
                parts: if due.tells { TASKS | WAITING } else { TASKS },
                limit: 0,
                first: told
                    .iter()
                    .take(MOST_TOLD)
                    .map(|(_, id)| id.task_id().0.to_vec())
                    .collect(),
                own_node: false,
                task_filters: Vec::new(),
            }));
        }
        self.schedule_look(now);
    }

    fn schedule_look(&mut self, now: Instant) {
        if self.awaits.asked.is_some() {
            // The answer comes first.
            return;
        }
        let next = self.awaits.watch.next_look(now, self.runs_coroutines());
        let next = next.map(|at| self.now() + at.saturating_duration_since(now));
        let lends = (self.awaits.any && self.may_lend()).then(|| self.awaits.lending.look_at(self.now()));
        self.awaits.look_at = next.into_iter().chain(lends).chain(self.awaits.look_at).min();
    }

    pub fn awaits_described(&mut self, answer: Answer) {
        match answer {
            Answer::Descriptions(reply) => self.after.host.push(HostEvent::AwaitsDescribed(Box::new(reply))),
            _ => self.awaits.asked = None,
        }
    }
}

impl AwaitsSeen {
    /// Whether anything was awaited for so long that it matters who awaits it.
    #[must_use]
    pub fn are_long(&self) -> bool {
        self.awaited.iter().any(|one| one.since.elapsed() >= DEADLOCK_LOOK)
    }
}

impl CoreWorker {
    /// Answers [`HostEvent::LookAtAwaits`].
    pub fn awaits_seen(&self, seen: AwaitsSeen) {
        self.with(|state| state.awaits_seen(seen));
    }

    /// Answers [`HostEvent::AwaitsDescribed`]: what never comes, and the text of the error.
    #[must_use]
    pub fn awaits_described(&self, answer: Box<v1::Descriptions>) -> Vec<(u64, String)> {
        let inquiry = answer.inquiry;
        let snapshot = look::snapshot_of(answer, Some(self.info().address.node_id));
        let now = Instant::now();
        let (due, looked, told, worker) = self.with(|state| {
            let watch = &state.awaits.watch;
            let due = state.awaits.asked.take().unwrap_or_default();
            let looked = if due.proves { watch.to_prove(now) } else { Vec::new() };
            let told = watch.to_tell(now).filter(|_| due.tells);
            (due, looked, told, state.me.worker_id)
        });
        if let Some((age, count, objects)) = told {
            self.tell_of_awaits(&snapshot, age, count, &objects);
        }
        let keys: Vec<WaitKey> = looked
            .iter()
            .map(|serial| WaitKey {
                worker,
                serial: *serial,
            })
            .collect();
        let found = explain::deadlocks(&snapshot, &keys);
        let proven = self.with(|state| {
            let mut proven = Vec::new();
            if due.proves {
                proven = state.awaits.watch.judge(now, inquiry, &looked, found);
            }
            state.schedule_look(now);
            proven
        });
        let mut failing = Vec::new();
        for (tokens, deadlock) in proven {
            let text = look::deadlock_text("await", &deadlock);
            failing.extend(tokens.into_iter().map(|token| (token, text.clone())));
        }
        failing
    }

    fn tell_of_awaits(&self, snapshot: &Snapshot, age: Duration, count: usize, objects: &[(u64, ObjectId)]) {
        let mut parts = Vec::new();
        let mut runs: FxHashMap<u64, Option<TaskId>> = FxHashMap::default();
        for (token, id) in &objects[..objects.len().min(MOST_TOLD)] {
            let why = explain::why(snapshot, Subject::Object(*id));
            runs.insert(*token, why.only_runs);
            parts.push(why.text);
        }
        self.with(|state| {
            for (token, _) in objects {
                let runs = runs.get(token).is_some_and(Option::is_some);
                state.awaits.watch.was_told(*token, runs);
            }
        });
        self.tell_person(look::wait_text("An await", age, count, &parts));
    }
}

#[cfg(test)]
mod tests {
    use ray_rs_types::ActorId;

    use super::*;

    const TELL: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn object(number: u64) -> ObjectId {
        ObjectId::new(TaskId::new(number, ActorId([9; 16])), 1)
    }

    fn call(call: u64, tokens: &[u64]) -> AwaitingCall {
        AwaitingCall {
            call,
            tokens: tokens.to_vec(),
        }
    }

    struct Story {
        watch: AwaitWatch,
        start: Instant,
        serial: u64,
    }

    impl Story {
        fn new() -> Self {
            Self {
                watch: AwaitWatch::new(Some(TELL), true),
                start: Instant::now(),
                serial: 1,
            }
        }

        fn seen(&mut self, tokens: &[u64], calls: Vec<AwaitingCall>) {
            let awaited = tokens
                .iter()
                .map(|token| (*token, object(*token), self.start))
                .collect();
            self.watch.seen(awaited, calls, &mut self.serial);
        }

        fn serials(&self) -> Vec<u64> {
            self.watch.rows().map(|row| row.serial).collect()
        }
    }

    #[test]
    fn the_same_wait_keeps_its_number_and_another_gets_one_of_its_own() {
        let mut story = Story::new();
        story.seen(&[1, 2], vec![call(7, &[1, 2])]);
        story.seen(&[1, 2], vec![call(7, &[2, 1])]);
        assert_eq!(story.serials(), [1]);
        // One has come: the wait is the same, but a proof must not rest on that.
        story.seen(&[1], vec![call(7, &[1])]);
        assert_eq!(story.serials(), [2]);
        story.seen(&[1, 3], vec![call(7, &[3]), call(8, &[1])]);
        assert_eq!(story.serials(), [3, 4]);
        // What is not awaited any more keeps nobody.
        story.seen(&[3], vec![call(7, &[3]), call(8, &[1])]);
        assert_eq!(story.serials(), [3]);
    }

    #[test]
    fn told_after_a_while_again_much_later_and_of_what_simply_runs_once() {
        let mut story = Story::new();
        story.seen(&[1, 2], Vec::new());
        let at = |seconds| story.start + SECOND * seconds;
        assert_eq!(story.watch.due(at(9)), Due::default());
        assert_eq!(story.watch.next_look(at(9), false), Some(at(10)));
        let (age, count, objects) = story.watch.to_tell(at(10)).expect("due");
        assert_eq!((age, count), (TELL, 2));
        assert_eq!(objects, [(1, object(1)), (2, object(2))]);
        story.watch.was_told(1, true);
        story.watch.was_told(2, false);
        assert_eq!(story.watch.due(at(59)), Due::default());
        assert_eq!(story.watch.to_tell(at(60)).expect("due").2, [(2, object(2))]);
        story.watch.was_told(2, false);
        assert_eq!(story.watch.next_look(at(60), false), Some(at(600)));
    }

    #[test]
    fn two_rounds_prove_and_a_move_between_them_does_not() {
        let mut story = Story::new();
        let key = WaitKey {
            worker: ray_rs_types::WorkerId([1; 28]),
            serial: 1,
        };
        let deadlock = |story: &Story| {
            let snapshot = snapshot_of_one(key, story.serials()[0]);
            explain::deadlocks(
                &snapshot,
                &[WaitKey {
                    serial: story.serials()[0],
                    ..key
                }],
            )
        };
        story.seen(&[1], vec![call(7, &[1])]);
        let at = |story: &Story, ms| story.start + Duration::from_millis(ms);
        let now = at(&story, 2000);
        assert!(story.watch.due(now).proves && story.watch.to_prove(now) == [1]);
        assert!(story.watch.judge(now, 1, &[1], deadlock(&story)).is_empty());
        assert_eq!(story.watch.next_look(now, true), Some(at(&story, 2250)));
        // The same round again proves nothing; a later one does.
        assert!(story.watch.judge(now, 1, &[1], deadlock(&story)).is_empty());
        let proven = story.watch.judge(at(&story, 2250), 2, &[1], deadlock(&story));
        assert_eq!(proven.len(), 1);
        assert_eq!(proven[0].0, [1]);
        // Another wait of the same call begins anew.
        story.seen(&[2], vec![call(7, &[2])]);
        let now = at(&story, 3000);
        assert!(story.watch.judge(now, 3, &[2], deadlock(&story)).is_empty());
        story.seen(&[1], vec![call(7, &[1])]);
        assert!(story.watch.judge(now, 4, &[3], deadlock(&story)).is_empty());
    }

    /// A call that awaits its own result.
    fn snapshot_of_one(key: WaitKey, serial: u64) -> Snapshot {
        let task = object(1).task_id();
        let other = object(2).task_id();
        let row = |id: TaskId| explain::Task {
            id,
            name: "A.call".to_owned(),
            state: explain::TaskState::Running,
            kind: explain::TaskKind::Call,
            attempt: 0,
            actor: None,
            group: String::new(),
            sent_to: None,
            submitted_us: 0,
            missing: Vec::new(),
            behind: None,
            class: 0,
            why: String::new(),
            cancelled: false,
        };
        let runs = |id: TaskId| explain::Executing {
            id,
            name: "A.call".to_owned(),
            started_us: 0,
            group: String::new(),
        };
        Snapshot {
            processes: vec![explain::Process {
                worker: key.worker,
                pid: 1,
                now_us: 0,
                elsewhere: None,
                is_driver: false,
                hosted: None,
                tasks: vec![row(task), row(other)],
                executing: vec![runs(task), runs(other)],
                waits: [task, other]
                    .iter()
                    .map(|task| explain::Wait {
                        serial,
                        since_us: 0,
                        missing: vec![ObjectId::new(*task, 1)],
                        has_timeout: false,
                        all_of: true,
                        task: Some(*task),
                        is_constructor: false,
                        is_await: true,
                    })
                    .collect(),
                called: Vec::new(),
                objects: Vec::new(),
            }],
            ..Snapshot::default()
        }
    }
}
