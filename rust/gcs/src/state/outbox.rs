//! What the world is told, in order, each after the batch it has to wait for.
//!
//! Something that need not wait still queues behind what does, so that nobody ever hears the later thing first. The
//! wait is one flush: a fraction of a millisecond.

use std::collections::VecDeque;

use ray_rs_proto::v1::NodeCommand;
use ray_rs_proto::v1::node_command::Body;
use ray_rs_types::NodeId;
use tokio::sync::oneshot;

use super::nodes::Nodes;
use crate::commit::Flushed;
use crate::storage::StorageError;

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Node(NodeId),
    AllNodes,
}

type Answer = oneshot::Sender<Result<(), StorageError>>;

#[derive(Debug)]
enum Telling {
    Command(Target, Box<NodeCommand>),
    Reply(Answer),
    /// One that is not told of a failure: it waits until the disk takes it.
    ReplyOnceStored(Answer),
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Waiting, each with the batch that must be flushed first.
    waiting: VecDeque<(u64, Telling)>,
    /// All batches up to here were dealt with,
    flushed: u64,
    /// and all up to here are stored: fewer while the disk takes nothing, for this reason.
    stored: u64,
    failure: Option<StorageError>,
    /// What is told when the disk has it, which has failed ([`waits_for_the_disk`]): after the next flush that succeeds.
    late: Vec<(Target, Box<NodeCommand>)>,
    late_answers: Vec<Answer>,
}

impl Outbox {
    pub(super) fn tell(&mut self, after: u64, target: Target, command: NodeCommand, nodes: &mut Nodes) {
        self.waiting
            .push_back((after, Telling::Command(target, Box::new(command))));
        self.release(nodes);
    }

    pub(super) fn reply(&mut self, after: u64, to: Answer, nodes: &mut Nodes) {
        self.waiting.push_back((after, Telling::Reply(to)));
        self.release(nodes);
    }

    pub(super) fn reply_once_stored(&mut self, after: u64, to: Answer, nodes: &mut Nodes) {
        self.waiting.push_back((after, Telling::ReplyOnceStored(to)));
        self.release(nodes);
    }

    pub(super) fn flushed(&mut self, flushed: &Flushed, nodes: &mut Nodes) {
        self.flushed = flushed.upto;
        self.failure = flushed.outcome.as_ref().err().cloned();
        if self.failure.is_none() {
            self.stored = flushed.upto;
            for (target, command) in std::mem::take(&mut self.late) {
                nodes.send(target, *command);
            }
            for to in std::mem::take(&mut self.late_answers) {
                let _ = to.send(Ok(()));
            }
        }
        self.release(nodes);
    }

    /// Of what waits for a batch that could not be stored yet replies say so; news and most orders leave all the same, because
    /// the tables in memory hold what they follow from.
    fn release(&mut self, nodes: &mut Nodes) {
        while self.waiting.front().is_some_and(|(after, _)| *after <= self.flushed) {
            let (after, telling) = self.waiting.pop_front().expect("just looked at");
            let failure = self.failure.as_ref().filter(|_| after > self.stored);
            match telling {
                Telling::Command(target, command) if failure.is_some() && waits_for_the_disk(&command) => {
                    self.late.push((target, command));
                }
                Telling::Command(target, command) => nodes.send(target, *command),
                Telling::ReplyOnceStored(to) if failure.is_some() => self.late_answers.push(to),
                Telling::Reply(to) | Telling::ReplyOnceStored(to) => {
                    let outcome = match failure {
                        Some(error) => Err(error.clone()),
                        None => Ok(()),
                    };
                    // The caller may have gone away.
                    let _ = to.send(outcome);
                }
            }
        }
    }
}

/// That a group is created, on which somebody would count after a restart of this process; and an order to start an actor
/// (`GCS-3`): a process that does not know of it would give the same life of the actor to another node.
fn waits_for_the_disk(command: &NodeCommand) -> bool {
    match &command.body {
        Some(Body::GroupUpdate(update)) => update.state == super::placement_groups::CREATED,
        Some(Body::StartActor(_)) => true,
        _ => false,
    }
}
