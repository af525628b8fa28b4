//! The same question to all nodes of the cluster: what their processes are about.
//!
//! The raylet that a client asks puts the question to its own processes ([`crate::describe`]) and, as a client that never
//! registers, to the raylets of the other nodes, each of which answers for its own alone.
//!
//! * One round runs at a time; who asks meanwhile is served by the next. (Rounds of own processes go on beside it: two
//!   raylets may ask each other.) Whoever asks again after an answer gets one that was begun after it.
//! * A round ends when all nodes have answered, and at the latest after [`PATIENCE`]. Nodes that have not are named.
//! * Between the beginnings of two rounds lies a pause that grows with the number of nodes ([`PAUSE_FOR_EACH`]), so that a
//!   node is asked no oftener when there are many. In a session of one node nothing of this happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_transport::local::{self, MAX_FRAME_BYTES};
use ray_rs_transport::visit::{Greeting, Purpose, Roads};
use ray_rs_types::{NodeId, WorkerAddress, WorkerId};
use rustc_hash::FxHashSet;
use tokio::sync::Semaphore;

use crate::describe::Asker;
use crate::input::{ConnKey, Input};
use crate::raylet::Raylet;
use crate::timers::Timer;

/// A node may have to end a round of its own first, and waits two seconds for its processes.
const PATIENCE: Duration = Duration::from_secs(4);
const PAUSE_FOR_EACH: Duration = Duration::from_millis(10);
/// Connections that are made at the same time.
const MOST_AT_ONCE: usize = 64;
/// Rows of a kind from one process, if the asker has no other wish and there are a few nodes; fewer of many.
const USUAL_LIMIT: u32 = 10_000;
const FEW_NODES: u32 = 8;
const LEAST_LIMIT: u32 = 100;
/// Of one answer to a client.
const MOST_BYTES: usize = MAX_FRAME_BYTES / 2;

#[derive(Default)]
pub(crate) struct NodeInquiries {
    running: Option<Round>,
    /// Who asks the next round.
    next: VecDeque<(ConnKey, v1::Describe)>,
    /// When the next may begin.
    not_before: Option<Instant>,
}

struct Round {
    number: u64,
    askers: Vec<(ConnKey, u64)>,
    awaited: FxHashSet<NodeId>,
    answer: v1::Descriptions,
    answer_bytes: usize,
}

impl Raylet {
    pub fn describe_all_nodes(&mut self, conn: ConnKey, request: v1::Describe) {
        self.node_inquiries.next.push_back((conn, request));
        self.begin_asking_nodes();
    }

    pub fn begin_asking_nodes(&mut self) {
        let inquiries = &mut self.node_inquiries;
        let Some((_, first)) = inquiries.next.front() else {
            return;
        };
        if inquiries.running.is_some() {
            return;
        }
        let now = Instant::now();
        if let Some(at) = inquiries.not_before.filter(|at| *at > now) {
            return self.timers.set(at, Timer::AskNodes);
        }
        let (parts, limit, task_filters) = (first.parts, first.limit, first.task_filters.clone());
        let (these, later): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut inquiries.next)
                .into_iter()
                .partition(|(_, request)| {
                    (request.parts, request.limit, &request.task_filters) == (parts, limit, &task_filters)
                });
        inquiries.next = later;
        let others = self.cluster.living_others();
        let number = self.inquiries.fresh_number();
        let nodes = others.len() as u32 + 1;
        let question = v1::Describe {
            request_id: number,
            parts,
            limit: limit_of_each(limit, nodes),
            first: these.iter().flat_map(|(_, request)| request.first.clone()).collect(),
            own_node: true,
            task_filters,
        };
        let inquiries = &mut self.node_inquiries;
        inquiries.not_before = Some(now + PAUSE_FOR_EACH * nodes);
        inquiries.running = Some(Round {
            number,
            askers: these
                .iter()
                .map(|(conn, request)| (*conn, request.request_id))
                .collect(),
            awaited: others.iter().map(|(node, _)| *node).chain([self.node_id]).collect(),
            answer: v1::Descriptions {
                inquiry: number,
                ..v1::Descriptions::default()
            },
            answer_bytes: 0,
        });
        self.timers.set(now + PATIENCE, Timer::NodesOverdue(number));
        self.ask_nodes(others, &question);
        self.describe_own(Asker::AllNodes(number), question);
    }

    fn ask_nodes(&self, nodes: Vec<(NodeId, String)>, question: &v1::Describe) {
        let roads = self.roads();
        let greeting = Greeting {
            purpose: Purpose::Raylet,
            from: WorkerAddress {
                node_id: self.node_id,
                worker_id: WorkerId::NIL,
                pid: std::process::id(),
            },
        };
        let at_once = Arc::new(Semaphore::new(MOST_AT_ONCE));
        for (node, address) in nodes {
            let (roads, question, inputs) = (roads.clone(), question.clone(), self.inputs.clone());
            let at_once = Arc::clone(&at_once);
            tokio::spawn(async move {
                let asking = async {
                    let _permit = at_once.acquire().await.expect("the semaphore is never closed");
                    let roads = roads?;
                    let address = roads.address_of(node, address);
                    ask(&roads, &address, &greeting, &question).await
                };
                let outcome = tokio::time::timeout(PATIENCE, asking)
                    .await
                    .unwrap_or_else(|_| Err("it has not answered in time".to_owned()));
                let inquiry = question.request_id;
                let _ = inputs.send(Input::NodeDescribed { inquiry, node, outcome }).await;
            });
        }
    }

    /// This node, too, has its answer here.
    pub fn node_described(&mut self, number: u64, node: NodeId, outcome: Result<v1::Descriptions, String>) {
        let Some(round) = &mut self.node_inquiries.running else {
            return;
        };
        if round.number != number || !round.awaited.remove(&node) {
            return;
        }
        match outcome {
            Ok(said) => round.add(node, said),
            Err(why) => {
                tracing::debug!(node = %node.hex(), why, "a node did not say what its processes are about");
                round.answer.silent_nodes.push(node.0.to_vec());
            }
        }
        if round.awaited.is_empty() {
            self.end_asking_nodes();
        }
    }

    pub fn nodes_overdue(&mut self, number: u64) {
        if self
            .node_inquiries
            .running
            .as_ref()
            .is_some_and(|round| round.number == number)
        {
            self.end_asking_nodes();
        }
    }

    fn end_asking_nodes(&mut self) {
        let Some(mut round) = self.node_inquiries.running.take() else {
            return;
        };
        let silent = round.awaited.iter().map(|node| node.0.to_vec());
        round.answer.silent_nodes.extend(silent);
        for (conn, request_id) in round.askers {
            if let Some(client) = self.clients.get(&conn) {
                round.answer.request_id = request_id;
                client.outbox.send(Body::Descriptions(round.answer.clone()));
            }
        }
        self.begin_asking_nodes();
    }

    /// The client is gone.
    pub fn asks_nodes_no_more(&mut self, conn: ConnKey) {
        self.node_inquiries.next.retain(|(asker, _)| *asker != conn);
        if let Some(round) = &mut self.node_inquiries.running {
            round.askers.retain(|(asker, _)| *asker != conn);
        }
    }
}

impl Round {
    fn add(&mut self, node: NodeId, said: v1::Descriptions) {
        self.answer_bytes += said.encoded_len();
        if self.answer_bytes > MOST_BYTES {
            self.answer.silent_nodes.push(node.0.to_vec());
            return;
        }
        self.answer.processes.extend(said.processes);
        self.answer.silent.extend(said.silent);
        self.answer.waiting.extend(said.waiting);
        self.answer.environments.extend(said.environments);
        self.answer.moves.extend(said.moves);
        self.answer.stores.extend(said.stores);
    }
}

/// Rows of a kind that one process may give.
fn limit_of_each(wish: u32, nodes: u32) -> u32 {
    let wish = if wish == 0 { USUAL_LIMIT } else { wish };
    let share = USUAL_LIMIT.saturating_mul(FEW_NODES) / nodes.max(FEW_NODES);
    wish.min(share.max(LEAST_LIMIT))
}

/// Asks another raylet, and hangs up.
async fn ask(
    roads: &Roads,
    address: &str,
    greeting: &Greeting,
    question: &v1::Describe,
) -> Result<v1::Descriptions, String> {
    let broken = |error: std::io::Error| format!("the connection to it broke: {error}");
    let stream = roads
        .visit(address, greeting)
        .await
        .map_err(|error| error.to_string())?;
    let socket = stream.into_std().map_err(broken)?.into();
    let (mut reader, mut writer) = local::frames_of(socket).map_err(broken)?;
    let body = Some(v1::to_raylet::Body::Describe(question.clone()));
    writer.queue(&v1::ToRaylet { body }).map_err(broken)?;
    writer.flush().await.map_err(broken)?;
    while let Some((message, _)) = reader.next_message::<v1::FromRaylet>().await.map_err(broken)? {
        if let Some(Body::Descriptions(said)) = message.body {
            return Ok(said);
        }
    }
    Err("it has hung up".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_nodes_each_says_less() {
        assert_eq!(limit_of_each(0, 2), USUAL_LIMIT);
        assert_eq!(limit_of_each(50, 2), 50);
        assert_eq!(limit_of_each(0, 80), USUAL_LIMIT / 10);
        assert_eq!(limit_of_each(0, 1_000_000), LEAST_LIMIT);
    }

    #[test]
    fn an_answer_that_would_be_too_long_is_left_out_and_said_so() {
        let mut round = Round {
            number: 1,
            askers: Vec::new(),
            awaited: FxHashSet::default(),
            answer: v1::Descriptions::default(),
            answer_bytes: 0,
        };
        let said = |count| v1::Descriptions {
            silent: vec![v1::WorkerAddress::default(); count],
            ..v1::Descriptions::default()
        };
        round.add(NodeId([1; 28]), said(3));
        assert_eq!((round.answer.silent.len(), round.answer.silent_nodes.len()), (3, 0));
        round.answer_bytes = MOST_BYTES;
        round.add(NodeId([2; 28]), said(3));
        assert_eq!(round.answer.silent.len(), 3);
        assert_eq!(round.answer.silent_nodes, [vec![2; 28]]);
    }
}
