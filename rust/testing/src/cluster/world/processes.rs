//! Nodes, and the processes that run there.

use super::*;

impl World {
    pub(super) fn with_node(&mut self, index: usize, act: impl FnOnce(&mut Node, Duration)) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if !node.is_up {
            return;
        }
        act(node, now);
        let orders = std::mem::take(&mut node.orders);
        let deadlines = [node.scheduler.next_deadline(), node.tenure.next_deadline()];
        let reports = match node.channel {
            Some(channel) => node.reports.drain(..).map(|report| (channel, report)).collect(),
            None => Vec::new(),
        };
        let goes_on = !node.is_halted();
        for (channel, report) in reports {
            let times = 1 + u32::from(self.rng.chance(self.options.doubled_messages));
            for _ in 0..times {
                let report = Box::new(report.clone());
                self.send(
                    Link::ToGcs(channel),
                    400,
                    Event::Report {
                        node: index,
                        channel,
                        report,
                    },
                );
            }
        }
        for order in orders {
            match order {
                Order::Tell(who, message) => self.send(Link::Within(who), 60, Event::Tell { who, message }),
                Order::StartWorker => {
                    let fails = self.rng.chance(self.options.failing_starts);
                    let after = Duration::from_millis(1) + self.micros(9000);
                    self.schedule(after, Event::WorkerStarts { node: index, fails });
                }
                Order::Kill(who) => {
                    let after = self.micros(100);
                    self.schedule(after, Event::Ends(who));
                }
                Order::LookUp(actor) => {
                    let request = v1::GetActorRequest {
                        actor_id: actor.0.to_vec(),
                        ..v1::GetActorRequest::default()
                    };
                    self.ask(Asker::Raylet(index), Request::GetActor(request));
                }
            }
        }
        if let Some(deadline) = deadlines.into_iter().flatten().min()
            && self.ticks.get(&index).is_none_or(|at| deadline < *at)
        {
            self.ticks.insert(index, deadline);
            self.schedule(deadline.saturating_sub(now), Event::NodeTicks(index));
        }
        if goes_on && let Some(parked) = self.parked.remove(&index) {
            for ((_, number), event) in parked {
                self.events.insert((now, number), event);
            }
        }
    }

    pub(super) fn worker_starts(&mut self, node: usize, fails: bool) {
        if fails {
            self.journal.failed_starts += 1;
            return self.with_node(node, |node, now| node.worker_start_failed(now));
        }
        if self.nodes[node].is_up {
            let who = self.fresh_proc();
            self.hosts.insert(who, Host::new(who, node));
            self.with_node(node, |node, now| node.worker_started(now, who));
        }
    }

    pub(super) fn tell(&mut self, who: Proc, message: ToProc) {
        if let ToProc::Update(update) = &message {
            self.with_driver(who, |driver, cx| driver.updated(cx, update));
        }
        let is_idle = self.hosts.get(&who).is_some_and(|host| host.plan().is_none());
        if matches!(message, ToProc::Exit { .. }) && is_idle {
            return self.end(who);
        }
        self.with_host(who, |host, cx| host.told(cx, message));
    }

    /// A process is no more; its raylet notices.
    pub(super) fn end(&mut self, who: Proc) {
        let Some(node) = self.vanishes(who) else { return };
        let after = self.micros(3000);
        self.schedule(after, Event::Ended { node, who });
    }

    pub(super) fn vanishes(&mut self, who: Proc) -> Option<usize> {
        let node = self.home(who)?;
        self.hosts.remove(&who);
        if let Some(driver) = self.drivers.remove(&who) {
            self.dead_drivers.push(who);
            self.journal.driver_died(&self.program, driver.index());
        }
        self.asks.retain(|_, ask| ask.from != Asker::Proc(who));
        Some(node)
    }

    /// With all that runs there; it is not noticed by anybody but through the network.
    pub(super) fn end_node(&mut self, index: usize) {
        self.actors_are_lost(index);
        let there: Vec<Proc> = self.nodes[index].workers().chain(self.nodes[index].drivers()).collect();
        let homeless: Vec<Proc> = self
            .hosts
            .values()
            .filter(|host| host.node == index)
            .map(|host| host.who)
            .collect();
        for who in there.into_iter().chain(homeless) {
            self.vanishes(who);
        }
        self.nodes[index].is_up = false;
        self.asks.retain(|_, ask| ask.from != Asker::Raylet(index));
        self.parked.remove(&index);
        self.break_channel(index, Duration::from_millis(20));
    }

    pub(super) fn with_host(&mut self, who: Proc, act: impl FnOnce(&mut Host, &mut HostContext<'_>)) {
        let Some(host) = self.hosts.get_mut(&who) else { return };
        let mut cx = HostContext {
            now: self.now,
            program: &self.program,
            journal: &mut self.journal,
            rng: &mut self.rng,
            mutation: self.options.mutation,
            sent: Vec::new(),
            asks: Vec::new(),
            resume: None,
            ends: false,
        };
        act(host, &mut cx);
        let deadline = host.next_deadline();
        let HostContext {
            sent,
            asks,
            resume,
            ends,
            ..
        } = cx;
        self.carry_out(who, sent, asks);
        if let Some(after) = resume {
            self.schedule(after, Event::HostResumes(who));
        }
        if let Some(at) = deadline
            && self.host_ticks.get(&who).is_none_or(|before| at < *before)
        {
            self.host_ticks.insert(who, at);
            self.schedule(at.saturating_sub(self.now), Event::HostTicks(who));
        }
        if ends {
            self.end(who);
        }
    }

    pub(super) fn with_driver(&mut self, who: Proc, act: impl FnOnce(&mut Driver, &mut DriverContext<'_>)) {
        let Some(driver) = self.drivers.get_mut(&who) else {
            return;
        };
        let node = driver.node;
        let mut cx = DriverContext {
            now: self.now,
            program: &self.program,
            journal: &mut self.journal,
            mutation: self.options.mutation,
            sent: Vec::new(),
            asks: Vec::new(),
            follows: Vec::new(),
            resume: None,
            job: None,
        };
        act(driver, &mut cx);
        let DriverContext {
            sent,
            asks,
            follows,
            resume,
            job,
            ..
        } = cx;
        if let Some(job) = job {
            self.with_node(node, |node, _| node.job_began(who, job));
        }
        for (actor, is_new) in follows {
            self.with_node(node, |node, _| node.follow(who, actor, is_new));
        }
        self.carry_out(who, sent, asks);
        if let Some(after) = resume {
            self.schedule(after, Event::DriverSteps(who));
        }
    }

    pub(super) fn carry_out(&mut self, who: Proc, sent: Vec<(Proc, LaneMsg)>, asks: Vec<Request>) {
        for (to, message) in sent {
            let below = if self.home(who) == self.home(to) { 40 } else { 800 };
            self.send(Link::Lane(who, to), below, Event::Lane { from: who, to, message });
        }
        for request in asks {
            self.ask(Asker::Proc(who), request);
        }
    }
}
