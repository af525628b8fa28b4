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

#[derive(Debug)]
enum Telling {
    Command(Target, Box<NodeCommand>),
    Reply(oneshot::Sender<Result<(), StorageError>>),
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Waiting, each with the batch that must be flushed first.
    waiting: VecDeque<(u64, Telling)>,
    /// All batches up to here are flushed.
    flushed: u64,
    /// That a group is created is told when the disk has it, which has failed; it is the next flush that succeeds.
    late: Vec<(Target, Box<NodeCommand>)>,
}

impl Outbox {
    pub(super) fn tell(&mut self, after: u64, target: Target, command: NodeCommand, nodes: &mut Nodes) {
        self.waiting
            .push_back((after, Telling::Command(target, Box::new(command))));
        self.release(None, nodes);
    }

    pub(super) fn reply(&mut self, after: u64, to: oneshot::Sender<Result<(), StorageError>>, nodes: &mut Nodes) {
        self.waiting.push_back((after, Telling::Reply(to)));
        self.release(None, nodes);
    }

    pub(super) fn flushed(&mut self, flushed: &Flushed, nodes: &mut Nodes) {
        let before = self.flushed;
        self.flushed = flushed.upto;
        if flushed.outcome.is_ok() {
            for (target, command) in std::mem::take(&mut self.late) {
                nodes.send(target, *command);
            }
        }
        self.release(flushed.outcome.as_ref().err().map(|error| (before, error)), nodes);
    }

    /// `failure`: batches after this number could not be stored yet, and why. Replies say so; orders leave all the same,
    /// because the tables in memory hold what they follow from. What a client would take for a promise waits.
    fn release(&mut self, failure: Option<(u64, &StorageError)>, nodes: &mut Nodes) {
        while self.waiting.front().is_some_and(|(after, _)| *after <= self.flushed) {
            let (after, telling) = self.waiting.pop_front().expect("just looked at");
            let failure = failure.filter(|(before, _)| after > *before);
            match telling {
                Telling::Command(target, command) if failure.is_some() && is_promise(&command) => {
                    self.late.push((target, command));
                }
                Telling::Command(target, command) => nodes.send(target, *command),
                Telling::Reply(to) => {
                    let outcome = match failure {
                        Some((_, error)) => Err(error.clone()),
                        None => Ok(()),
                    };
                    // The caller may have gone away.
                    let _ = to.send(outcome);
                }
            }
        }
    }
}

/// Whether somebody would count on it after a restart.
fn is_promise(command: &NodeCommand) -> bool {
    matches!(&command.body, Some(Body::GroupUpdate(update)) if update.state == super::placement_groups::CREATED)
}
