//! What the processes of the node are about, for whoever asks: every one is asked on its own connection, and the answers
//! go to the asker together. (The processes of other nodes: [`crate::describe_nodes`].)
//!
//! * One round of questions runs at a time; who asks meanwhile is served by the next. So of two rounds the later one began
//!   when the earlier was over, however many ask (a proof that something lasted rests on that, see `ray-rs-explain`).
//! * A round ends when all have answered, and at the latest after [`PATIENCE`]. Who has not answered by then is named.
//! * A process that ends is out of the round, with what it has said.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_scheduler::{EnvKey, PoolKey, Waiter};
use ray_rs_types::WorkerAddress;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::clients::Role;
use crate::input::ConnKey;
use crate::raylet::Raylet;
use crate::timers::Timer;

/// Answers come from threads that never wait for Python: one that takes so long is stopped, or the machine is.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rows of what waits for resources.
const MOST_WAITING: usize = 10_000;
/// Ids that a round puts first, of all its askers.
const MOST_FIRST: usize = 10_000;
/// The parts of a description that the raylet itself gives.
const WAITING: u32 = 4;
const ENVIRONMENTS: u32 = 8;
const MOVES: u32 = 16;
const STORED: u32 = 32;
/// The part of which processes tell what is to be joined with what the control store knows.
const LISTING: u32 = 64;

#[derive(Default)]
pub(crate) struct Inquiries {
    last: u64,
    running: Option<Inquiry>,
    /// Who asks the next round.
    next: VecDeque<(Asker, v1::Describe)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// With the number of its question.
    Client(ConnKey, u64),
    /// This round of questions to all nodes.
    AllNodes(u64),
}

impl Inquiries {
    pub fn fresh_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

struct Inquiry {
    number: u64,
    parts: u32,
    askers: Vec<Asker>,
    awaited: FxHashSet<ConnKey>,
    answers: FxHashMap<ConnKey, v1::Description>,
}

impl Raylet {
    pub fn describe(&mut self, conn: ConnKey, request: v1::Describe) {
        if !request.own_node && self.cluster.has_others() {
            return self.describe_all_nodes(conn, request);
        }
        self.describe_own(Asker::Client(conn, request.request_id), request);
    }

    pub fn describe_own(&mut self, asker: Asker, request: v1::Describe) {
        self.inquiries.next.push_back((asker, request));
        if self.inquiries.running.is_none() {
            self.begin_inquiry();
        }
    }

    fn begin_inquiry(&mut self) {
        let Some((_, first)) = self.inquiries.next.front() else {
            return;
        };
        let (parts, limit, task_filters) = (first.parts, first.limit, first.task_filters.clone());
        let (now, later): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.inquiries.next)
                .into_iter()
                .partition(|(_, request)| {
                    (request.parts, request.limit, &request.task_filters) == (parts, limit, &task_filters)
                });
        self.inquiries.next = later;
        let number = self.inquiries.fresh_number();
        let askers = now.iter().map(|(asker, _)| *asker).collect();
        let first = now.into_iter().flat_map(|(_, request)| request.first);
        let question = v1::DescribeYourself {
            inquiry: number,
            parts,
            limit,
            first: first.take(MOST_FIRST).collect(),
            task_filters,
        };
        let mut awaited = FxHashSet::default();
        // A client of another node is asked there.
        let own = |client: &crate::clients::Client| client.registered && client.role != Role::Remote;
        for (conn, client) in self.clients.iter().filter(|(_, client)| own(client)) {
            client.outbox.send(Body::DescribeYourself(question.clone()));
            awaited.insert(*conn);
        }
        self.inquiries.running = Some(Inquiry {
            number,
            parts,
            askers,
            awaited,
            answers: FxHashMap::default(),
        });
        self.timers
            .set(Instant::now() + PATIENCE, Timer::DescriptionsOverdue(number));
        self.end_inquiry_if_complete();
    }

    /// The client's records of tasks that have ended are on their way.
    pub fn tells_gcs(&mut self, conn: ConnKey, request: u64) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.telling.insert(request);
        }
    }

    /// They have arrived, or never will.
    pub fn told_gcs(&mut self, conn: ConnKey, request: u64) {
        if let Some(client) = self.clients.get_mut(&conn)
            && client.telling.remove(&request)
            && client.telling.is_empty()
            && let Some(listing) = client.listing.take()
        {
            self.described(conn, listing);
        }
    }

    /// An answer. With a listing it waits for what the process has told before: who asks the control store afterwards finds
    /// each task in one place or the other.
    pub fn described(&mut self, conn: ConnKey, answer: v1::Description) {
        if self
            .inquiries
            .running
            .as_ref()
            .is_some_and(|one| one.parts & LISTING != 0)
            && let Some(client) = self.clients.get_mut(&conn)
            && !client.telling.is_empty()
        {
            client.listing = Some(answer);
            return;
        }
        let Some(inquiry) = &mut self.inquiries.running else {
            return;
        };
        if inquiry.number == answer.inquiry && inquiry.awaited.remove(&conn) {
            inquiry.answers.insert(conn, answer);
            self.end_inquiry_if_complete();
        }
    }

    /// Neither asks nor answers any more.
    pub fn describes_no_more(&mut self, conn: ConnKey) {
        let is_gone = |asker: &Asker| matches!(asker, Asker::Client(client, _) if *client == conn);
        self.asks_nodes_no_more(conn);
        self.inquiries.next.retain(|(asker, _)| !is_gone(asker));
        if let Some(inquiry) = &mut self.inquiries.running {
            inquiry.askers.retain(|asker| !is_gone(asker));
            inquiry.awaited.remove(&conn);
            inquiry.answers.remove(&conn);
            self.end_inquiry_if_complete();
        }
    }

    pub fn descriptions_overdue(&mut self, number: u64) {
        let Some(inquiry) = self.inquiries.running.as_mut().filter(|one| one.number == number) else {
            return;
        };
        // The control store does not answer: what has ended is not to be had, the rest is.
        for conn in std::mem::take(&mut inquiry.awaited) {
            match self.clients.get_mut(&conn).and_then(|client| client.listing.take()) {
                Some(listing) if listing.inquiry == number => drop(inquiry.answers.insert(conn, listing)),
                _ => drop(inquiry.awaited.insert(conn)),
            }
        }
        self.end_inquiry();
    }

    fn end_inquiry_if_complete(&mut self) {
        if self
            .inquiries
            .running
            .as_ref()
            .is_some_and(|one| one.awaited.is_empty())
        {
            self.end_inquiry();
        }
    }

    fn end_inquiry(&mut self) {
        let Some(inquiry) = self.inquiries.running.take() else {
            return;
        };
        let wants = |part| inquiry.parts & part != 0;
        let mut waiting = Vec::new();
        if wants(WAITING) {
            waiting = self.waiting_requests();
        }
        let mut environments = Vec::new();
        if wants(ENVIRONMENTS) {
            environments = self.known_environments();
        }
        let mut moves = Vec::new();
        if wants(MOVES) {
            moves = self.store_moves();
        }
        let mut stores = Vec::new();
        if wants(STORED) {
            stores.push(v1::NodeStore {
                node_id: self.node_id.0.to_vec(),
                objects: self.store.objects(0, &self.clients).objects,
            });
        }
        let silent = inquiry.awaited.iter().filter_map(|conn| {
            let client = self.clients.get(conn)?;
            let address = WorkerAddress {
                node_id: self.node_id,
                worker_id: client.worker_id,
                pid: client.pid,
            };
            Some((&address).into())
        });
        let mut reply = v1::Descriptions {
            request_id: 0,
            inquiry: inquiry.number,
            silent: silent.collect(),
            processes: inquiry.answers.into_values().collect(),
            waiting,
            environments,
            moves,
            silent_nodes: Vec::new(),
            stores,
        };
        for asker in inquiry.askers {
            match asker {
                Asker::Client(conn, request_id) => {
                    if let Some(client) = self.clients.get(&conn) {
                        reply.request_id = request_id;
                        client.outbox.send(Body::Descriptions(reply.clone()));
                    }
                }
                Asker::AllNodes(number) => self.node_described(number, self.node_id, Ok(reply.clone())),
            }
        }
        self.begin_inquiry();
    }

    fn known_environments(&self) -> Vec<v1::KnownEnvironment> {
        let mut rows = Vec::new();
        for (key, job) in &self.jobs {
            for (index, environment) in job.environments.iter().enumerate() {
                let pool = PoolKey {
                    job: *key,
                    env: EnvKey(index as u32),
                };
                let workers = self.workers.values().filter(|worker| worker.pool == pool).count();
                rows.push(v1::KnownEnvironment {
                    node_id: self.node_id.0.to_vec(),
                    job_id: job.id.map_or_else(Vec::new, |id| id.0.to_vec()),
                    workers: workers as u32,
                    ..environment.described()
                });
            }
        }
        rows
    }

    fn store_moves(&self) -> Vec<v1::StoreMove> {
        let rows = self.store.moves.iter().map(|one| v1::StoreMove {
            node_id: self.node_id.0.to_vec(),
            kind: one.kind as u32,
            start_us: one.end.saturating_sub(one.took).as_micros() as u64,
            end_us: one.end.as_micros() as u64,
            bytes: one.bytes,
            objects: one.objects,
            failed: one.failed,
            from_node: one.from.map_or_else(Vec::new, |node| node.0.to_vec()),
        });
        rows.collect()
    }

    fn waiting_requests(&self) -> Vec<v1::WaitingRequest> {
        let rows = self.scheduler.waiting(MOST_WAITING).into_iter().filter_map(|waiting| {
            let (worker_id, class, actor_id) = match waiting.who {
                Waiter::Lease(client, request) => {
                    let client = self.clients.get(&ConnKey(client.0))?;
                    // The owner's dispatcher keeps its class there.
                    (client.worker_id.0.to_vec(), (request.0 >> 32) as u32, Vec::new())
                }
                Waiter::Actor(actor) => (Vec::new(), 0, actor.0.to_vec()),
            };
            Some(v1::WaitingRequest {
                worker_id,
                class,
                actor_id,
                name: waiting.name.to_string(),
                why: waiting.why,
                infeasible: waiting.infeasible,
                resources: Some((&*waiting.shape).into()),
            })
        });
        rows.collect()
    }
}
