//! The control store's process, and whoever asks it something.

use super::*;

impl World {
    pub(super) fn start_gcs(&mut self) {
        self.life += 1;
        let gcs = SteppedGcs::open(self.disk.clone(), self.clock.clone()).expect("the disk can be read");
        self.gcs = Some(gcs);
        let life = self.life;
        if life > 1 {
            let expected = self.now + DEFAULT_BOUND;
            self.schedule(DEFAULT_BOUND, Event::BuryWhoStaysAway { life, expected });
        }
        self.flush_is_due = false;
    }

    /// Lets it do something; what it says then is on its way.
    pub(super) fn with_gcs<T>(&mut self, act: impl FnOnce(&mut SteppedGcs) -> T) -> Option<T> {
        let gcs = self.gcs.as_mut()?;
        let result = act(gcs);
        gcs.check_invariants();
        let (answers, commands) = (gcs.answers(), gcs.commands());
        for (attempt, outcome) in answers {
            self.answer_leaves(attempt, outcome);
        }
        for (node, connection, command) in commands {
            let node = index_of(node);
            let Some((channel, _)) = self
                .connections
                .get(&node)
                .filter(|(_, known)| *known == connection)
                .copied()
            else {
                continue;
            };
            let Some(command) = command.body.map(Box::new) else {
                continue;
            };
            let times = 1 + u32::from(self.rng.chance(self.options.doubled_messages));
            for _ in 0..times {
                let command = command.clone();
                self.send(Link::FromGcs(channel), 400, Event::Command { node, channel, command });
            }
        }
        if !std::mem::replace(&mut self.flush_is_due, true) {
            let after = self.micros(4000);
            let life = self.life;
            self.schedule(after, Event::Flush { life });
        }
        Some(result)
    }

    pub(super) fn flush(&mut self, life: u64) {
        if life != self.life || self.gcs.is_none() {
            return;
        }
        // Only what comes from now on asks for another flush, unless this one fails.
        self.flush_is_due = true;
        let is_stored = self.with_gcs(|gcs| gcs.flush(usize::MAX)).unwrap_or(false);
        self.flush_is_due = !is_stored;
        if !is_stored {
            self.schedule(Duration::from_millis(200), Event::Flush { life });
        }
    }

    pub(super) fn gcs_dies(&mut self, away: Duration) {
        let Some(gcs) = self.gcs.take() else { return };
        let most = self.rng.below(4) as usize;
        gcs.flush_and_die(most);
        self.journal.decisions_may_be_forgotten |= self.disk.is_failing();
        self.disk.crash();
        self.life += 1;
        self.gcs_frozen_until = Duration::ZERO;
        for node in 0..self.nodes.len() {
            self.node_loses_channel(node);
        }
        self.connections.clear();
        let unanswered: Vec<u64> = self.asks.keys().copied().collect();
        for ask in unanswered {
            self.attempts_fail(ask);
        }
        self.schedule(away, Event::GcsStarts);
        self.quiet_from = self.quiet_from.max(self.now + away);
    }

    /// Whoever has tried hears that it was in vain.
    pub(super) fn attempts_fail(&mut self, ask: u64) {
        let Some(entry) = self.asks.get_mut(&ask) else { return };
        if std::mem::take(&mut entry.open).is_empty() {
            return;
        }
        let after = self.micros(100_000);
        self.schedule(after, Event::AskAgain { ask });
    }

    pub(super) fn ask(&mut self, from: Asker, request: Request) {
        self.next_number += 1;
        let ask = self.next_number;
        let open = BTreeSet::new();
        self.asks.insert(ask, Ask { from, request, open });
        self.attempt(ask);
    }

    /// One more try, on which whatever may happen to calls happens.
    pub(super) fn attempt(&mut self, ask: u64) {
        let Some(node) = self.asker_node(ask) else {
            return;
        };
        // The raylet has to be known to the control store before anybody there asks for anything.
        if !self.nodes[node].was_accepted {
            let after = self.micros(2000);
            return self.schedule(after, Event::AskAgain { ask });
        }
        let below = match self.rng.below(20) {
            0 => 20_000,
            _ => 500,
        };
        let after = self.micros(below);
        let attempt = self.one_attempt(ask, after);
        if !self.rng.chance(self.options.faulty_calls) {
            return;
        }
        match self.rng.below(4) {
            // Lost on its way there,
            0 => {
                self.attempts.remove(&attempt);
                self.attempts_fail(ask);
            }
            // or back,
            1 => {
                self.answers_lost.insert(attempt);
            }
            // or late: another is made before it arrives,
            2 => {
                self.attempts_fail(ask);
                let after = self.micros(1_000_000);
                self.one_attempt(ask, after);
            }
            // or it comes twice.
            _ => {
                let after = self.micros(10_000);
                self.one_attempt(ask, after);
            }
        }
    }

    pub(super) fn one_attempt(&mut self, ask: u64, after: Duration) -> u64 {
        self.next_number += 1;
        let attempt = self.next_number;
        self.attempts.insert(attempt, ask);
        if let Some(entry) = self.asks.get_mut(&ask) {
            entry.open.insert(attempt);
        }
        let life = self.life;
        self.schedule(after, Event::Call { ask, attempt, life });
        attempt
    }

    pub(super) fn call_arrives(&mut self, ask: u64, attempt: u64, life: u64) {
        let Some(entry) = self.asks.get(&ask).filter(|_| self.attempts.contains_key(&attempt)) else {
            return;
        };
        if life != self.life || self.gcs.is_none() {
            return self.attempts_fail(ask);
        }
        let request = entry.request.clone();
        if self.is_premature(attempt, &request) {
            return self.schedule(Duration::from_millis(20), Event::Call { ask, attempt, life });
        }
        if let Request::KillActor(kill) = &request
            && let Ok(actor) = ActorId::from_bytes(&kill.actor_id)
        {
            self.journal.kill_arrives(plan_of(actor));
        }
        let wall_clock = self.wall_clock();
        self.with_gcs(|gcs| gcs.call(attempt, ask, request, wall_clock));
    }

    /// Whether it waits in the service for the registration of an actor: handles may travel faster.
    pub(super) fn is_premature(&mut self, attempt: u64, request: &Request) -> bool {
        let id = match request {
            Request::KillActor(request) => &request.actor_id,
            Request::GetActor(request) if !request.actor_id.is_empty() => &request.actor_id,
            _ => return false,
        };
        let is_known = self.gcs.as_ref().is_some_and(|gcs| gcs.knows_actor(id));
        let until = *self.patience.entry(attempt).or_insert(self.now + REGISTRATION_PATIENCE);
        !is_known && self.now < until
    }

    pub(super) fn answer_leaves(&mut self, attempt: u64, outcome: Outcome) {
        let Some(ask) = self.attempts.remove(&attempt) else {
            return;
        };
        if self.answers_lost.remove(&attempt) {
            return self.attempts_fail(ask);
        }
        let after = self.micros(500);
        let outcome = Box::new(outcome);
        self.schedule(after, Event::Answer { ask, outcome });
    }

    pub(super) fn answer(&mut self, ask: u64, outcome: Outcome) {
        let Some(Ask { from, request, open }) = self.asks.remove(&ask) else {
            return;
        };
        for attempt in open {
            self.attempts.remove(&attempt);
        }
        match from {
            Asker::Proc(who) => {
                self.with_host(who, |host, cx| host.answered(cx, &request, outcome.clone()));
                self.with_driver(who, |driver, cx| driver.answered(cx, &request, outcome));
            }
            Asker::Raylet(node) => {
                let Request::GetActor(request) = request else {
                    unreachable!("raylets ask nothing else")
                };
                let Ok(actor) = ActorId::from_bytes(&request.actor_id) else {
                    return;
                };
                let found = match outcome {
                    Ok(Reply::GetActor(reply)) => reply.actor.and_then(|info| info.status),
                    _ => None,
                };
                self.with_node(node, |node, _| node.looked_up(actor, found));
            }
        }
    }
}
