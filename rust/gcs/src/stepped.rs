//! A control store without sockets, threads or a clock of its own: whoever holds it says what arrives, when something is
//! stored, and what time it is. For simulators.
//!
//! The tables are those of the daemon ([`State`]); what stands here in the service's place asks and changes them as that does,
//! and hands out answers and commands instead of sending them.

use std::collections::BTreeMap;
use std::time::Duration;

use ray_rs_proto::v1::{self, NodeCommand};
use ray_rs_types::NodeId;
use tokio::sync::oneshot::error::TryRecvError;
use tonic::Status;

pub use crate::clock::SimulatedClock;
use crate::commit::SteppedCommits;
use crate::service::not_stored;
use crate::state::{Durable, NodeRegistration, State};
pub use crate::storage::{MemoryStorage, Storage, StorageError, Table, Write};

/// A call of a client; the number is that of the call, the same at each try.
#[derive(Debug, Clone)]
pub enum Request {
    RegisterJob(v1::RegisterJobRequest),
    RegisterActor(Box<v1::RegisterActorRequest>),
    GetActor(v1::GetActorRequest),
    KillActor(v1::KillActorRequest),
    ReportActorStarted(v1::ReportActorStartedRequest),
    ReportActorExit(v1::ReportActorExitRequest),
    ActorOutOfScope(v1::ActorOutOfScopeRequest),
    CommitCalls(v1::CommitCallsRequest),
    GetCallLog(v1::GetCallLogRequest),
    KvPut(v1::KvPutRequest),
    KvGet(v1::KvGetRequest),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Empty,
    RegisterJob(v1::RegisterJobReply),
    RegisterActor(Box<v1::RegisterActorReply>),
    GetActor(Box<v1::GetActorReply>),
    CommitCalls(v1::CommitCallsReply),
    GetCallLog(v1::GetCallLogReply),
    KvPut(v1::KvPutReply),
    KvGet(v1::KvGetReply),
}

/// How a call ended. The status is the wire's.
pub type Outcome = Result<Reply, Status>;

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    reply: Reply,
    durable: Durable,
    /// The actor that is registered by it.
    registers: Option<Vec<u8>>,
}

/// One control store process.
pub struct SteppedGcs {
    state: State,
    commits: SteppedCommits,
    channels: BTreeMap<NodeId, NodeRegistration>,
    waiting: Vec<Waiting>,
    refused: Vec<(u64, Status)>,
}

impl SteppedGcs {
    /// From what an earlier process stored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(storage: impl Storage, clock: SimulatedClock) -> Result<Self, StorageError> {
        let (mut state, commits) = State::open_stepped(Box::new(storage), clock)?;
        state.session = "simulated".to_owned();
        Ok(Self {
            state,
            commits,
            channels: BTreeMap::new(),
            waiting: Vec::new(),
            refused: Vec::new(),
        })
    }

    /// A node's channel begins; the number is that of the connection. `bound`: as in the service.
    ///
    /// # Errors
    /// Why the node is not let in.
    pub fn register_node(&mut self, info: v1::NodeInfo, bound: Option<Duration>) -> Result<u64, Status> {
        let registration = self.state.register_node(info, bound)?;
        let connection = registration.connection;
        self.channels.insert(registration.node, registration);
        Ok(connection)
    }

    /// What a node says on its channel. Nonsense is ignored, as the service does.
    pub fn report(&mut self, node: NodeId, report: v1::NodeReport, now_ms: u64) {
        if let Err(error) = self.state.node_report(node, report, now_ms) {
            tracing::warn!(node_id = %node, %error, "ignored a report");
        }
    }

    /// A node's channel has ended; whether it was its latest.
    pub fn node_disconnected(&mut self, node: NodeId, connection: u64) -> bool {
        self.state.node_disconnected(node, connection)
    }

    /// When to look again at a node whose channel ended at `ended`; `None`: now it may be declared dead, or has come back. `expected`: what the
    /// look before has given.
    pub fn until_its_death(
        &mut self,
        node: (NodeId, u64),
        ended: Duration,
        expected: Option<Duration>,
        bound: Option<Duration>,
    ) -> Option<Duration> {
        self.state.until_its_death(node, ended, expected, bound)
    }

    /// It is declared dead, unless it has come back since that connection ended; whether that was done.
    pub fn node_died(&mut self, node: NodeId, connection: u64, now_ms: u64) -> bool {
        let was_alive = self.is_alive(node);
        let reason = "its connection broke and it did not come back";
        self.state.node_died(node, connection, reason, now_ms);
        was_alive && !self.is_alive(node)
    }

    fn is_alive(&self, node: NodeId) -> bool {
        let nodes = self.state.list_nodes().nodes;
        nodes.iter().any(|info| info.node_id == node.0 && info.alive)
    }

    /// When to look again at nodes of an earlier process that have not come to this one; `None`: they may be declared dead.
    pub fn until_the_absent_are_dead(&self, expected: Duration, bound: Duration) -> Option<Duration> {
        self.state.until_the_absent_are_dead(expected, bound)
    }

    /// Nodes of an earlier process that have not come to this one are dead; which those are.
    pub fn bury_who_stays_away(&mut self, now_ms: u64) -> Vec<NodeId> {
        let mut away = self.state.awaited_nodes();
        away.sort();
        for node in &away {
            self.state.node_stayed_away(*node, now_ms);
        }
        away
    }

    /// A call arrives; its answer comes out of [`Self::answers`] with this ticket.
    pub fn call(&mut self, ticket: u64, number: u64, request: Request, now_ms: u64) {
        let registers = match &request {
            Request::RegisterActor(request) => request.spec.as_ref().map(|spec| spec.actor_id.clone()),
            _ => None,
        };
        match self.begin(number, request, now_ms) {
            Ok((reply, durable)) => self.waiting.push(Waiting {
                ticket,
                reply,
                durable,
                registers,
            }),
            Err(status) => {
                if let Some(actor_id) = registers.filter(|_| self.state.takes_changes().is_err()) {
                    self.give_up(actor_id);
                }
                self.refused.push((ticket, status));
            }
        }
    }

    /// As in the service: of an actor whose registration is refused by the disk nobody will have a handle.
    fn give_up(&mut self, actor_id: Vec<u8>) {
        let no_restart = true;
        drop(self.state.kill_actor(&v1::KillActorRequest { actor_id, no_restart }));
    }

    fn begin(&mut self, number: u64, request: Request, now_ms: u64) -> Result<(Reply, Durable), Status> {
        let changes = match &request {
            Request::RegisterJob(_) | Request::RegisterActor(_) | Request::CommitCalls(_) | Request::KvPut(_) => true,
            Request::GetActor(_)
            | Request::KillActor(_)
            | Request::ReportActorStarted(_)
            | Request::ReportActorExit(_)
            | Request::ActorOutOfScope(_)
            | Request::GetCallLog(_)
            | Request::KvGet(_) => false,
        };
        if changes {
            self.state.takes_changes().map_err(|error| not_stored(&error))?;
        }
        let state = &mut self.state;
        let empty = |durable| (Reply::Empty, durable);
        Ok(match request {
            Request::RegisterJob(request) => {
                let (reply, durable) = state.register_job(request, now_ms)?;
                (Reply::RegisterJob(reply), durable)
            }
            Request::RegisterActor(request) => {
                let (reply, durable) = state.register_actor(*request)?;
                (Reply::RegisterActor(Box::new(reply)), durable)
            }
            Request::GetActor(request) => {
                let reply = Reply::GetActor(Box::new(state.get_actor(&request)?));
                (reply, state.durable_so_far())
            }
            Request::KillActor(request) => empty(state.kill_actor_once(Some(number), &request)?),
            Request::ReportActorStarted(request) => empty(state.actor_started(request)?),
            Request::ReportActorExit(request) => empty(state.actor_exited(request)?),
            Request::ActorOutOfScope(request) => empty(state.actor_out_of_scope(&request)?),
            Request::CommitCalls(request) => {
                let (reply, durable) = state.commit_calls(request)?;
                (Reply::CommitCalls(reply), durable)
            }
            Request::GetCallLog(request) => {
                let (reply, durable) = state.call_log(&request)?;
                (Reply::GetCallLog(reply), durable)
            }
            Request::KvPut(request) => {
                let (reply, durable) = state.kv_put_once(Some(number), request)?;
                (Reply::KvPut(reply), durable)
            }
            Request::KvGet(request) => at_once(Reply::KvGet(state.kv_get(&request))),
        })
    }

    /// Answers that may leave now, in the order of the calls.
    pub fn answers(&mut self) -> Vec<(u64, Outcome)> {
        let mut answers: Vec<(u64, Outcome)> = Vec::new();
        answers.extend(self.refused.drain(..).map(|(ticket, status)| (ticket, Err(status))));
        for mut waiting in std::mem::take(&mut self.waiting) {
            let outcome = match waiting.durable.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.waiting.push(waiting);
                    continue;
                }
                Ok(Ok(())) => Ok(waiting.reply),
                // A disk that takes nothing keeps nobody from reading.
                Ok(Err(_)) if matches!(waiting.reply, Reply::GetActor(_)) => Ok(waiting.reply),
                Ok(Err(error)) => Err(not_stored(&error)),
                Err(TryRecvError::Closed) => Err(Status::unavailable("the control store is ending")),
            };
            if let (Err(_), Some(actor_id)) = (&outcome, waiting.registers) {
                self.give_up(actor_id);
            }
            answers.push((waiting.ticket, outcome));
        }
        answers
    }

    /// What is told to nodes, in order for each; with the number of the connection.
    pub fn commands(&mut self) -> Vec<(NodeId, u64, NodeCommand)> {
        let mut commands = Vec::new();
        for (node, registration) in &mut self.channels {
            // The end of a channel is noticed by the node itself.
            while let Ok(Ok(command)) = registration.commands.try_recv() {
                commands.push((*node, registration.connection, command));
            }
        }
        commands
    }

    /// Stores so many of the batches that wait, and tells those who wait for that. Whether the disk took it.
    pub fn flush(&mut self, most: usize) -> bool {
        let flushed = self.commits.flush(most);
        self.state.flushed(&flushed);
        flushed.outcome.is_ok()
    }

    /// The same, and nobody is told: it is the last thing that this process does.
    pub fn flush_and_die(mut self, most: usize) {
        drop(self.commits.flush(most));
    }

    /// Whether there is, or was, such an actor. The service waits for a moment before it says that there is none.
    pub fn knows_actor(&self, actor_id: &[u8]) -> bool {
        let request = v1::GetActorRequest {
            actor_id: actor_id.to_vec(),
            ..v1::GetActorRequest::default()
        };
        self.state.get_actor(&request).is_ok_and(|reply| reply.actor.is_some())
    }

    /// All actors, by their ids.
    pub fn actors(&self) -> Vec<v1::ActorInfo> {
        self.state.list_actors().actors
    }

    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        self.state.check_invariants();
    }
}

fn at_once(reply: Reply) -> (Reply, Durable) {
    let (sender, durable) = tokio::sync::oneshot::channel();
    // The other end is here.
    let _ = sender.send(Ok(()));
    (reply, durable)
}
