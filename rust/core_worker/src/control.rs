//! Questions to the raylet, and through it to the GCS, and its news.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ray_rs_dispatch::{Event, LeaseKey};
use ray_rs_proto::v1;
use ray_rs_types::WorkerId;

use crate::core::{CoreWorker, Interrupt};
use crate::model::{CoreError, HostEvent, Next};
use crate::state::{Answer, Question, State};

/// Ray's `gcs_server_request_timeout_seconds`.
pub(crate) const GCS_TIMEOUT: Duration = Duration::from_secs(60);
/// The raylet answers as soon as there is room, or none can be made; writing much to a slow disk takes its time.
pub(crate) const ROOM_TIMEOUT: Duration = Duration::from_secs(3600);

impl CoreWorker {
    /// Asks the raylet and waits.
    pub(crate) fn ask(
        &self,
        body: impl FnOnce(u64) -> v1::to_raylet::Body,
        what: &str,
        timeout: Duration,
        interrupt: Interrupt<'_>,
    ) -> Result<Answer, CoreError> {
        self.ask_with(
            |state, request| state.tell_raylet(body(request)),
            what,
            timeout,
            interrupt,
        )
    }

    /// Asks in the caller's own way, and waits.
    pub(crate) fn ask_with(
        &self,
        send: impl FnOnce(&mut State, u64),
        what: &str,
        timeout: Duration,
        interrupt: Interrupt<'_>,
    ) -> Result<Answer, CoreError> {
        if self.is_forked() {
            return Err(CoreError::RayletDied);
        }
        let request = self.with(|state| {
            let request = state.fresh_request();
            let thread = std::thread::current();
            state
                .questions
                .insert(request, Question::Thread { thread, answer: None });
            send(state, request);
            request
        });
        let began = Instant::now();
        loop {
            let answer = self.with(|state| {
                if state.raylet_dead || state.closed {
                    let closed = state.closed;
                    state.questions.remove(&request);
                    return Some(Err(if closed {
                        CoreError::Closed
                    } else {
                        CoreError::RayletDied
                    }));
                }
                match state.questions.get_mut(&request) {
                    Some(Question::Thread { answer, .. }) => answer.take().map(|answer| {
                        state.questions.remove(&request);
                        Ok(answer)
                    }),
                    _ => Some(Err(CoreError::RayletDied)),
                }
            });
            if let Some(answer) = answer {
                return answer;
            }
            let give_up = if interrupt() {
                Some(CoreError::Interrupted)
            } else if began.elapsed() >= timeout {
                Some(CoreError::TimedOut {
                    what: what.to_owned(),
                    after: timeout,
                })
            } else {
                None
            };
            if let Some(error) = give_up {
                self.with(|state| state.questions.insert(request, Question::Forget));
                return Err(error);
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// The loop that runs tasks begins: a driver may wait for that.
    pub fn loop_begins(&self) {
        if self.info().is_awaited {
            self.worker_ready();
        }
    }

    /// This worker's set-up is over: it takes what there is to do.
    pub fn worker_ready(&self) {
        self.with(|state| state.tell_raylet(v1::to_raylet::Body::WorkerReady(v1::WorkerReady {})));
    }

    /// A unary call to the GCS.
    pub fn gcs_call(&self, method: &str, payload: Vec<u8>, interrupt: Interrupt<'_>) -> Result<Bytes, CoreError> {
        let method_name = method.to_owned();
        let answer = self.ask(
            |request_id| {
                v1::to_raylet::Body::GcsCall(v1::GcsCall {
                    request_id,
                    method: method_name,
                    payload,
                })
            },
            method,
            GCS_TIMEOUT,
            interrupt,
        )?;
        match answer {
            Answer::Gcs(Ok(bytes)) => Ok(bytes),
            Answer::Gcs(Err(message)) => Err(CoreError::of_gcs(message)),
            _ => Err(CoreError::Gcs("the raylet answered something else".to_owned())),
        }
    }

    pub fn cluster_view(&self, interrupt: Interrupt<'_>) -> Result<v1::ClusterViewReply, CoreError> {
        let body = |request_id| v1::to_raylet::Body::ClusterView(v1::ClusterView { request_id });
        match self.ask(body, "ClusterView", GCS_TIMEOUT, interrupt)? {
            Answer::Cluster(reply) => Ok(reply),
            _ => Err(CoreError::Gcs("the raylet answered something else".to_owned())),
        }
    }

    pub fn store_stats(&self, interrupt: Interrupt<'_>) -> Result<v1::StoreStatsReply, CoreError> {
        let body = |request_id| v1::to_raylet::Body::StoreStats(v1::StoreStats { request_id });
        match self.ask(body, "StoreStats", GCS_TIMEOUT, interrupt)? {
            Answer::Store(reply) => Ok(reply),
            _ => Err(CoreError::Gcs("the raylet answered something else".to_owned())),
        }
    }

    /// Every object of this node's store, in memory or on disk.
    pub fn list_objects(&self, interrupt: Interrupt<'_>) -> Result<v1::ListObjectsReply, CoreError> {
        let body = |request_id| v1::to_raylet::Body::ListObjects(v1::ListObjects { request_id });
        match self.ask(body, "ListObjects", GCS_TIMEOUT, interrupt)? {
            Answer::Objects(reply) => Ok(reply),
            _ => Err(CoreError::Gcs("the raylet answered something else".to_owned())),
        }
    }

    /// What every process of the node is about. `parts` as in the message; rows about the ids in `first` come before others.
    pub fn descriptions(
        &self,
        parts: u32,
        limit: u32,
        first: Vec<Vec<u8>>,
        interrupt: Interrupt<'_>,
    ) -> Result<v1::Descriptions, CoreError> {
        let body = |request_id| {
            v1::to_raylet::Body::Describe(v1::Describe {
                request_id,
                parts,
                limit,
                first,
                own_node: false,
                task_filters: Vec::new(),
            })
        };
        match self.ask(body, "Describe", GCS_TIMEOUT, interrupt)? {
            Answer::Descriptions(reply) => Ok(reply),
            _ => Err(CoreError::Gcs("the raylet answered something else".to_owned())),
        }
    }

    /// Room in the arena for `min_bytes`. As long as the raylet makes room, this waits.
    pub(crate) fn request_extent(&self, min_bytes: u64, interrupt: Interrupt<'_>) -> Result<(u64, u64), CoreError> {
        let body = |request_id| v1::to_raylet::Body::RequestExtent(v1::RequestExtent { request_id, min_bytes });
        match self.ask(body, "RequestExtent", ROOM_TIMEOUT, interrupt)? {
            Answer::Extent(Ok(extent)) => Ok(extent),
            Answer::Extent(Err((mut message, false))) => {
                message.push_str(&self.largest_holders(interrupt));
                Err(CoreError::StoreFull(message))
            }
            Answer::Extent(Err((message, true))) => Err(CoreError::OutOfDisk(message)),
            _ => Err(CoreError::Gcs("the raylet answered something else".to_owned())),
        }
    }
}

impl State {
    pub fn answered(&mut self, request: u64, answer: Answer) {
        match self.questions.get_mut(&request) {
            Some(Question::Thread { thread, answer: slot }) => {
                self.after.wake.push(thread.clone());
                *slot = Some(answer);
            }
            Some(Question::RegisterActor(id)) => {
                let id = *id;
                self.questions.remove(&request);
                if let Answer::Gcs(answer) = answer {
                    self.actor_registration_answered(id, &answer);
                }
            }
            Some(Question::StoreFunction) => {
                self.questions.remove(&request);
                if let Answer::Gcs(Err(error)) = answer
                    && !self.closed
                {
                    let text = format!("The control store could not keep a function: {error}");
                    self.after.host.push(HostEvent::Notice { level: 1, text });
                }
            }
            Some(Question::Bring { token, location }) => {
                let (token, location) = (*token, *location);
                self.questions.remove(&request);
                if let Answer::Restored(restored, memory) = answer {
                    self.brought_for(token, location, &restored, memory);
                }
            }
            Some(Question::Adopt(_)) => {
                if let Some(Question::Adopt(claim)) = self.questions.remove(&request)
                    && let Answer::Gcs(answer) = answer
                {
                    self.adopters_chosen(*claim, answer);
                }
            }
            Some(Question::WhoOwns(_)) => {
                if let Some(Question::WhoOwns(doubt)) = self.questions.remove(&request)
                    && let Answer::Gcs(answer) = answer
                {
                    self.owner_told(*doubt, answer);
                }
            }
            Some(Question::CommitCalls) => {
                self.questions.remove(&request);
                self.commit_answered(answer);
            }
            Some(Question::LookAtAwaits) => {
                self.questions.remove(&request);
                self.awaits_described(answer);
            }
            Some(Question::Look { waiter, serial }) => {
                let (waiter, serial) = (*waiter, *serial);
                self.questions.remove(&request);
                self.look_answered(waiter, serial, answer);
            }
            Some(Question::Forget) => {
                self.questions.remove(&request);
                // Room that nobody waits for any more goes into use all the same.
                match answer {
                    Answer::Extent(Ok((offset, length))) => self.arena.add_extent(offset, length),
                    Answer::Restored(restored, _) => {
                        let request_id = restored.request_id;
                        self.tell_raylet(v1::to_raylet::Body::RestoredTaken(v1::RestoredTaken { request_id }));
                    }
                    _ => {}
                }
            }
            None => {}
        }
    }

    /// `memory`: the descriptor that came with it.
    pub fn raylet_says(&mut self, message: v1::FromRaylet, memory: Option<OwnedFd>) {
        use v1::from_raylet::Body;
        let Some(body) = message.body else { return };
        match body {
            Body::Registered(_) => {}
            Body::LeaseGranted(granted) => self.lease_granted(granted),
            Body::LeaseRejected(rejected) => self.lease_rejected(rejected),
            Body::GroupUpdate(update) => self.group_updated(update),
            Body::LeaseRevoked(revoked) => {
                self.dispatch_event(Event::LeaseRevoked {
                    lease: LeaseKey(revoked.lease_id),
                });
            }
            Body::ExtentGranted(granted) => {
                let answer = if granted.error.is_empty() {
                    Ok((granted.offset, granted.length))
                } else {
                    Err((granted.error, granted.out_of_disk))
                };
                self.answered(granted.request_id, Answer::Extent(answer));
            }
            Body::ExtentsWanted(wanted) => {
                self.arena.reap();
                self.return_drained_extents();
                for (offset, length) in self.arena.unused_extents(wanted.bytes) {
                    self.tell_raylet(v1::to_raylet::Body::ReturnExtent(v1::ReturnExtent { offset, length }));
                }
            }
            Body::CloseExtents(close) => {
                self.arena.reap();
                close.offsets.iter().for_each(|offset| self.arena.close_extent(*offset));
                self.return_drained_extents();
            }
            Body::BlocksSpilled(spilled) => {
                for block in &spilled.blocks {
                    self.arena.spilled(block.offset, block.generation);
                }
                self.return_drained_extents();
            }
            Body::ObjectsRestored(restored) => {
                self.answered(restored.request_id, Answer::Restored(restored, memory));
            }
            Body::ListObjectsReply(reply) => self.answered(reply.request_id, Answer::Objects(reply)),
            Body::GcsReply(reply) => {
                let answer = if reply.error.is_empty() {
                    Ok(reply.payload.into())
                } else {
                    Err(reply.error)
                };
                self.answered(reply.request_id, Answer::Gcs(answer));
            }
            Body::ActorUpdate(update) => self.actor_updated(update),
            Body::WorkerDied(died) => {
                if let Some(mut report) = died.report {
                    report.worker_id = died.worker_id;
                    self.death_reported(&report);
                } else if let Ok(worker) = WorkerId::from_bytes(&died.worker_id)
                    && let Some(who) = self.peers.find(&worker)
                {
                    self.process_died(who);
                }
            }
            Body::DeathReport(report) => self.death_reported(&report),
            Body::LogLines(lines) => {
                let event = HostEvent::Log {
                    name: lines.name,
                    pid: lines.pid,
                    is_stderr: lines.is_stderr,
                    lines: lines.lines,
                };
                self.after.host.push(event);
            }
            Body::LogsFlushed(flushed) => self.answered(flushed.request_id, Answer::LogsFlushed),
            Body::StartActor(start) => self.start_actor(start),
            Body::Exit(exit) if exit.unless_needed && self.owner.owns_any() => {
                self.asked_to_leave = true;
                self.tell_raylet(v1::to_raylet::Body::Stays(v1::Stays {}));
            }
            Body::Exit(exit) => self.order_given(Next::Exit {
                graceful: exit.graceful,
                reason: exit.reason,
            }),
            Body::Notice(notice) => {
                self.after.host.push(HostEvent::Notice {
                    level: notice.level,
                    text: notice.text,
                });
            }
            Body::ClusterViewReply(reply) => self.answered(reply.request_id, Answer::Cluster(reply)),
            Body::DescribeYourself(question) if self.defers(&question) => {}
            Body::DescribeYourself(question) => {
                let description = self.describe(&question);
                self.tell_raylet(v1::to_raylet::Body::Description(description));
            }
            Body::Descriptions(reply) => self.answered(reply.request_id, Answer::Descriptions(reply)),
            Body::LookAtTasks(look) => self.say_what_runs(look.request_id),
            Body::LeaseSpilled(spilled) => {
                self.lease_spilled(&spilled);
                self.run_effects();
            }
            Body::ClusterSize(size) => self.dispatch.useful_leases(size.cpus),
            Body::NodeDied(died) => self.node_died(&died),
            // The progress thread takes these, with the sockets that came with them.
            Body::PeerOpened(_) | Body::PeerConnected(_) => {}
            Body::OrphansEnd(end) => {
                self.arena.owner_died(end.owner);
                self.return_drained_extents();
            }
            Body::ObjectPulled(pulled) => self.object_pulled(pulled),
            Body::StoreStatsReply(reply) => self.answered(reply.request_id, Answer::Store(reply)),
        }
    }

    /// The raylet's socket has ended: nothing will be answered any more.
    pub fn raylet_died(&mut self) {
        if std::mem::replace(&mut self.raylet_dead, true) {
            return;
        }
        let threads: Vec<_> = self
            .questions
            .values()
            .filter_map(|question| match question {
                Question::Thread { thread, .. } => Some(thread.clone()),
                Question::RegisterActor(_)
                | Question::StoreFunction
                | Question::Bring { .. }
                | Question::Look { .. }
                | Question::LookAtAwaits
                | Question::CommitCalls
                | Question::Adopt(_)
                | Question::WhoOwns(_)
                | Question::Forget => None,
            })
            .chain(self.groups.values().flat_map(|view| view.waiting_threads().cloned()))
            .chain(self.waiters.iter().flatten().map(|waiter| waiter.thread.clone()))
            .collect();
        self.after.wake.extend(threads);
        self.bring_nothing_more();
        self.nudge();
        if !self.closed {
            self.after.host.push(HostEvent::RayletDied);
        }
    }
}
