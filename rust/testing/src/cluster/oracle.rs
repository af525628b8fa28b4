//! What has happened, and whether it may have: a sequential model of each actor, held against every answer, and against
//! what is left in the end.
//!
//! An actor is a list of calls: the model runs it from the beginning, one call after another, and must come to what the
//! answers say. Which calls there are, how often each ran and in which order is checked against what the drivers did, and
//! what became of each actor against what has happened to it.

use std::collections::BTreeMap;
use std::time::Duration;

use ray_rs_proto::v1;
use ray_rs_types::ActorId;

use super::host::State;
use super::messages::{Answer, Proc, plan_of, proc_of};
use super::program::{ActorPlan, Program};

const ALIVE: u32 = 2;
const DEAD: u32 = 4;
/// A node may fail so often to start an actor.
const START_ATTEMPTS: u32 = 3;

/// How a call ended for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Answered(Answer),
    /// The state could not be saved after it: it counts as not made.
    Undone,
    Unavailable,
    Died,
}

#[derive(Debug)]
struct CallNote {
    plan: usize,
    caller: Proc,
    submitted: Duration,
    ended: Option<(Duration, End)>,
    begun: u32,
    /// -1: for ever.
    retries: i32,
}

/// What has happened to an actor.
#[derive(Debug, Clone, Default)]
struct Fate {
    id: Option<ActorId>,
    /// The control store has acknowledged it, then.
    registered: Option<Duration>,
    refused: bool,
    /// Processes that hosted it and are gone, by whatever cause.
    losses: u32,
    /// Orders to kill it that have reached the control store: one may do so twice.
    kills: u32,
    killed_for_good: bool,
    kill_for_good_acknowledged: bool,
    dropped: bool,
    creator_died: bool,
}

/// All that the checks need to know.
#[derive(Debug)]
pub(crate) struct Journal {
    seed: u64,
    calls: BTreeMap<u64, CallNote>,
    /// Of actors that are not durable: what each process of one has executed.
    executed: BTreeMap<(usize, Proc), Vec<u64>>,
    /// Of durable ones: which call is known to be at which position for ever.
    settled: BTreeMap<usize, BTreeMap<u64, u64>>,
    /// Calls of it whose answers have left.
    released: BTreeMap<usize, u64>,
    fates: Vec<Fate>,
    /// Nodes that were declared dead.
    declared: BTreeMap<usize, Duration>,
    pub failed_starts: u32,
    /// The control store died while its disk took nothing: what it had decided about actors meanwhile, and told, may be
    /// forgotten. A dead one may be back.
    pub decisions_may_be_forgotten: bool,
}

impl Journal {
    pub fn new(seed: u64, actors: usize) -> Self {
        Self {
            seed,
            calls: BTreeMap::new(),
            executed: BTreeMap::new(),
            settled: BTreeMap::new(),
            released: BTreeMap::new(),
            fates: vec![Fate::default(); actors],
            declared: BTreeMap::new(),
            failed_starts: 0,
            decisions_may_be_forgotten: false,
        }
    }

    /// # Panics
    /// With the seed, when it does not hold.
    pub fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        assert!(holds, "seed {}: {}", self.seed, what());
    }

    // ---- what happens ---------------------------------------------------------------------------------------------------

    pub fn creation_begins(&mut self, plan: usize, id: ActorId) {
        self.fates[plan].id = Some(id);
    }

    pub fn registered(&mut self, now: Duration, plan: usize, is_ok: bool) {
        let fate = &mut self.fates[plan];
        fate.refused |= !is_ok;
        if is_ok {
            fate.registered = Some(now);
        }
    }

    pub fn submitted(&mut self, now: Duration, plan: usize, uid: u64, caller: Proc, retries: i32) {
        let note = CallNote {
            plan,
            caller,
            submitted: now,
            ended: None,
            begun: 0,
            retries,
        };
        let before = self.calls.insert(uid, note);
        self.check(before.is_none(), || format!("call {uid} is made twice"));
    }

    pub fn ended(&mut self, now: Duration, uid: u64, end: End) {
        let note = self.calls.get_mut(&uid).expect("it was submitted");
        let before = note.ended.replace((now, end));
        self.check(before.is_none(), || {
            format!("call {uid} ended twice: {before:?}, {end:?}")
        });
    }

    pub fn begun(&mut self, now: Duration, plan: usize, uid: u64, node: usize) {
        let note = self.calls.get_mut(&uid).expect("it was submitted");
        note.begun += 1;
        let (begun, retries) = (note.begun, note.retries);
        let allowed = u32::try_from(retries).map_or(u32::MAX, |retries| retries + 1);
        self.check(begun <= allowed, || {
            format!("call {uid} of actor {plan} began {begun} times, and may be retried {retries} times")
        });
        let declared = self.declared.get(&node).copied();
        self.check(declared.is_none(), || {
            format!("LIVE-1: node {node} was declared dead at {declared:?}, and call {uid} began there at {now:?}")
        });
    }

    pub fn executed(&mut self, plan: usize, by: Proc, uid: u64) {
        self.executed.entry((plan, by)).or_default().push(uid);
    }

    fn settle(&mut self, plan: usize, position: u64, uid: u64) {
        let before = self.settled.entry(plan).or_default().insert(position, uid);
        self.check(before.is_none_or(|before| before == uid), || {
            format!("durable actor {plan}: call {uid} is at position {position}, where {before:?} was")
        });
    }

    /// An answer of a durable actor may leave.
    pub fn released(&mut self, plan: usize, position: u64, uid: u64) {
        self.settle(plan, position, uid);
        let released = self.released.entry(plan).or_default();
        *released = (*released).max(position + 1);
    }

    /// A new process of a durable actor has been told how it was.
    pub fn restored(&mut self, plan: usize, log: &[u64]) {
        let released = self.released.get(&plan).copied().unwrap_or(0);
        self.check(log.len() as u64 >= released, || {
            format!(
                "DUR-1: durable actor {plan} begins with {} calls, and {released} were answered",
                log.len()
            )
        });
        for (position, uid) in (0..).zip(log) {
            self.settle(plan, position, *uid);
        }
    }

    pub fn kill_arrives(&mut self, plan: usize) {
        self.fates[plan].kills += 1;
    }

    pub fn kill_asked(&mut self, plan: usize, no_restart: bool) {
        self.fates[plan].killed_for_good |= no_restart;
    }

    pub fn killed(&mut self, plan: usize, no_restart: bool) {
        self.fates[plan].kill_for_good_acknowledged |= no_restart;
    }

    pub fn dropped(&mut self, plan: usize) {
        self.fates[plan].dropped = true;
    }

    pub fn host_lost(&mut self, plan: usize) {
        self.fates[plan].losses += 1;
    }

    pub fn driver_died(&mut self, program: &Program, index: usize) {
        for (plan, fate) in program.actors.iter().zip(&mut self.fates) {
            fate.creator_died |= plan.creator == index;
        }
    }

    pub fn declared_dead(&mut self, now: Duration, node: usize) {
        self.declared.insert(node, now);
    }

    /// Nobody had the name when that was asked, from `began` on.
    pub fn not_found(&self, program: &Program, plan: usize, began: Duration) {
        let was_there = self.fates[plan].registered.is_some_and(|at| at <= began);
        self.check(!was_there || self.may_be_dead(program, plan), || {
            format!("actor {plan} was acknowledged and is not found by its name")
        });
    }

    pub fn calls_made(&self) -> usize {
        self.calls.len()
    }

    // ---- what may have become of an actor ----------------------------------------------------------------------------------

    fn may_be_dead(&self, program: &Program, plan: usize) -> bool {
        let (fate, facts) = (&self.fates[plan], &program.actors[plan]);
        let ends = fate.losses + fate.kills;
        let is_worn_out = u32::try_from(facts.max_restarts).is_ok_and(|most| ends > most);
        is_worn_out
            || fate.refused
            || fate.killed_for_good
            || fate.dropped
            || facts.broken
            || self.decisions_may_be_forgotten
            || self.failed_starts >= START_ATTEMPTS
            || fate.creator_died && (!facts.detached || fate.registered.is_none())
    }

    fn must_be_dead(&self, facts: &ActorPlan, plan: usize) -> bool {
        let fate = &self.fates[plan];
        fate.kill_for_good_acknowledged || facts.broken || (fate.creator_died || fate.dropped) && !facts.detached
    }

    // ---- the end --------------------------------------------------------------------------------------------------------------

    /// `hosts`: processes that host an actor, with its incarnation, and its state if they take calls. `dead_drivers`: nobody
    /// waits for what those called.
    pub fn check_end(
        &self,
        program: &Program,
        known: &[v1::ActorInfo],
        hosts: &[(Proc, usize, Option<(u32, State)>)],
        dead_drivers: &[Proc],
    ) {
        let settled = self.settled_by_hosts(program, hosts);
        self.check_calls(program, dead_drivers, &settled);
        self.check_orders(&settled);
        self.check_actors(program, known, hosts);
    }

    /// What is at which position of each durable actor, by its answers and by its state.
    fn settled_by_hosts(
        &self,
        program: &Program,
        hosts: &[(Proc, usize, Option<(u32, State)>)],
    ) -> BTreeMap<usize, BTreeMap<u64, u64>> {
        let mut settled = self.settled.clone();
        for (who, plan, serving) in hosts {
            let Some((_, state)) = serving.as_ref().filter(|_| program.actors[*plan].is_durable()) else {
                continue;
            };
            let known = settled.entry(*plan).or_default();
            self.check(
                known
                    .keys()
                    .next_back()
                    .is_none_or(|last| *last < state.log.len() as u64),
                || format!("durable actor {plan}: its state in process {who} lacks calls that were answered"),
            );
            for (position, uid) in (0..).zip(&state.log) {
                let before = known.insert(position, *uid);
                self.check(before.is_none_or(|before| before == *uid), || {
                    format!("durable actor {plan} has call {uid} at {position}, where {before:?} was answered")
                });
            }
        }
        settled
    }

    fn check_calls(&self, program: &Program, dead_drivers: &[Proc], settled: &BTreeMap<usize, BTreeMap<u64, u64>>) {
        for (uid, note) in &self.calls {
            let (plan, facts) = (note.plan, &program.actors[note.plan]);
            let Some((_, end)) = note.ended else {
                self.check(dead_drivers.contains(&note.caller), || {
                    format!("call {uid} has not ended")
                });
                continue;
            };
            match end {
                End::Answered(answer) => self.check_answer(program, plan, *uid, answer, settled),
                End::Undone => {
                    self.check(facts.failing_checkpoints > 0, || {
                        format!("call {uid} was undone out of nothing")
                    });
                    let is_there = settled
                        .get(&plan)
                        .is_some_and(|log| log.values().any(|other| other == uid));
                    self.check(!is_there, || format!("call {uid} was undone, and is part of the state"));
                }
                End::Unavailable => {
                    let fate = &self.fates[plan];
                    self.check(!facts.is_durable(), || {
                        format!("call {uid} of a durable actor was given up")
                    });
                    self.check(fate.losses + fate.kills > 0, || {
                        format!("call {uid} failed out of nothing")
                    });
                }
                End::Died => self.check(self.may_be_dead(program, plan), || {
                    format!(
                        "call {uid} failed since actor {plan} is dead, which nothing explains: {:?}",
                        self.fates[plan]
                    )
                }),
            }
        }
    }

    /// The model, up to this call.
    fn check_answer(
        &self,
        program: &Program,
        plan: usize,
        uid: u64,
        answer: Answer,
        settled: &BTreeMap<usize, BTreeMap<u64, u64>>,
    ) {
        let upto = answer.position as usize + 1;
        let mut model = State::default();
        if program.actors[plan].is_durable() {
            let log = settled.get(&plan).into_iter().flatten().take(upto);
            // Of a dead actor some positions may never have been heard of: those that were stored and not answered.
            let whole: Vec<u64> = (0..)
                .zip(log)
                .take_while(|(at, (position, _))| at == *position)
                .map(|(_, (_, uid))| *uid)
                .collect();
            if whole.len() < upto {
                return;
            }
            for uid in &whole {
                model.apply(*uid);
            }
        } else {
            let log = self.executed.get(&(plan, answer.by)).into_iter().flatten().take(upto);
            for uid in log {
                model.apply(*uid);
            }
        }
        self.check(model.log.len() == upto && model.log.last() == Some(&uid), || {
            format!(
                "call {uid} of actor {plan} says that it was at {}, where {:?} was",
                answer.position,
                model.log.last()
            )
        });
        self.check(model.digest == answer.digest, || {
            format!("call {uid} of actor {plan} was answered with another state than the model's")
        });
    }

    /// Calls of one caller in its order, each once; and no call before one that had ended when it was made.
    fn check_orders(&self, settled: &BTreeMap<usize, BTreeMap<u64, u64>>) {
        let durable = settled
            .iter()
            .map(|(plan, log)| (*plan, log.values().copied().collect::<Vec<u64>>()));
        let plain = self.executed.iter().map(|((plan, _), log)| (*plan, log.clone()));
        for (plan, log) in durable.chain(plain) {
            let mut last: BTreeMap<Proc, u64> = BTreeMap::new();
            for uid in &log {
                let before = last.insert(self.calls[uid].caller, *uid);
                self.check(before.is_none_or(|before| before < *uid), || {
                    format!("actor {plan} has call {uid} after {before:?}: twice, or out of order")
                });
            }
            let mut earliest = Duration::MAX;
            for uid in log.iter().rev() {
                let note = &self.calls[uid];
                self.check(note.submitted <= earliest, || {
                    format!("actor {plan} has call {uid} before one that had been answered when it was made")
                });
                if let Some((at, End::Answered(_))) = note.ended {
                    earliest = earliest.min(at);
                }
            }
        }
    }

    fn check_actors(&self, program: &Program, known: &[v1::ActorInfo], hosts: &[(Proc, usize, Option<(u32, State)>)]) {
        let mut status: BTreeMap<usize, &v1::ActorUpdate> = BTreeMap::new();
        for info in known {
            if let Some(update) = &info.status
                && let Ok(id) = ActorId::from_bytes(&update.actor_id)
            {
                status.insert(plan_of(id), update);
            }
        }
        for (plan, facts) in program.actors.iter().enumerate() {
            let fate = &self.fates[plan];
            let hosting: Vec<&(Proc, usize, Option<(u32, State)>)> =
                hosts.iter().filter(|(_, hosted, _)| *hosted == plan).collect();
            let Some(update) = status.get(&plan) else {
                self.check(fate.registered.is_none(), || {
                    format!("actor {plan} was acknowledged and is forgotten")
                });
                self.check(hosting.is_empty(), || format!("actor {plan} runs, and nobody knows it"));
                continue;
            };
            if update.state == DEAD {
                self.check(self.may_be_dead(program, plan), || {
                    format!(
                        "actor {plan} is dead, which nothing explains: {fate:?}, {:?}",
                        update.death
                    )
                });
                self.check(hosting.is_empty(), || {
                    format!("ACT-2: actor {plan} is dead and runs in {hosting:?}")
                });
                continue;
            }
            self.check(!self.must_be_dead(facts, plan), || {
                format!("ACT-3: actor {plan} is to be dead, and is not: {fate:?}, {update:?}")
            });
            self.check(update.state == ALIVE, || {
                format!("actor {plan} is neither alive nor dead in the end: {update:?}")
            });
            let restarts = update.incarnation - update.moves;
            self.check(restarts <= fate.losses + fate.kills, || {
                format!("ACT-1: actor {plan} was restarted {restarts} times, with {fate:?}")
            });
            let place = update.worker.as_ref().and_then(|worker| proc_of(&worker.worker_id));
            let is_there = hosting.iter().any(|(who, _, serving)| {
                Some(*who) == place
                    && serving
                        .as_ref()
                        .is_some_and(|(incarnation, _)| *incarnation == update.incarnation)
            });
            self.check(is_there && hosting.len() == 1, || {
                format!(
                    "ACT-2: actor {plan} is to live in {place:?} as {}, and is in {hosting:?}",
                    update.incarnation
                )
            });
        }
    }
}
