//! A state from what an earlier process stored.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message;
use ray_rs_actors::lifecycle::{Lifecycle, Phase};
use ray_rs_proto::v1;
use ray_rs_types::{ActorId, NodeId};
use tokio::sync::mpsc::UnboundedReceiver;

use super::actors::{Actors, facts_of};
use super::durable::CallLogs;
use super::jobs::Jobs;
use super::kv::KeyValues;
use super::metrics::Metrics;
use super::nodes::Nodes;
use super::placement_groups::PlacementGroups;
use super::{Outbox, State, TaskEventLog};
use crate::clock::{Clock, SimulatedClock};
use crate::commit::{Committer, Flushed, SteppedCommits};
use crate::convert;
use crate::storage::{Storage, StorageError, Table};

impl State {
    /// Reads all tables. Nodes report themselves again; until then no order leaves.
    ///
    /// # Errors
    /// When the store cannot be read. A record that cannot be decoded is left out, with an error in the log.
    pub fn open(storage: Box<dyn Storage>) -> Result<(Self, UnboundedReceiver<Flushed>), StorageError> {
        let mut state = Self::read(&*storage, Clock::of_machine())?;
        let (committer, flushed) = Committer::start(storage).map_err(|_| StorageError::Ended)?;
        state.committer = committer;
        Ok((state, flushed))
    }

    /// The same for whoever steps through flushes and time by hand.
    ///
    /// # Errors
    /// As those of [`Self::open`].
    pub fn open_stepped(
        storage: Box<dyn Storage>,
        clock: SimulatedClock,
    ) -> Result<(Self, SteppedCommits), StorageError> {
        let mut state = Self::read(&*storage, Clock::Simulated(clock))?;
        let (committer, commits) = Committer::stepped(storage);
        state.committer = committer;
        Ok((state, commits))
    }

    /// Without a way to store anything yet.
    fn read(storage: &dyn Storage, clock: Clock) -> Result<Self, StorageError> {
        let (mut jobs, mut kv, mut nodes) = (Jobs::default(), KeyValues::default(), Nodes::default());
        storage.scan(Table::Jobs, &mut |key, value| {
            if let Some(info) = decoded::<v1::JobInfo>(Table::Jobs, key, value) {
                jobs.restore(info);
            }
        })?;
        storage.scan(Table::Functions, &mut |key, value| kv.restore_function(key, value))?;
        storage.scan(Table::KeyValue, &mut |key, value| kv.restore(key, value))?;
        storage.scan(Table::Nodes, &mut |key, value| {
            if let (Ok(node), Some((index, end))) = (NodeId::from_bytes(key), value.split_first_chunk()) {
                nodes.restore_index(node, u32::from_le_bytes(*index));
                if !end.is_empty() {
                    nodes.restore_death(node);
                }
            }
        })?;
        let (lifecycle, actors) = read_actors(storage)?;
        let is_durable = |actor| actors.spec(actor).is_some_and(|spec| spec.durability.is_some());
        let is_dead = |actor| lifecycle.status(actor).is_none_or(|status| status.phase == Phase::Dead);
        let call_logs = CallLogs::restored(storage, |actor| is_durable(actor) && !is_dead(actor))?;
        let mut groups = PlacementGroups::default();
        storage.scan(Table::PlacementGroups, &mut |key, value| {
            if let Some(record) = decoded::<v1::PlacementGroupInfo>(Table::PlacementGroups, key, value) {
                groups.restore(record);
            }
        })?;
        for actor in actors.all() {
            if let Some(spec) = actors.spec(actor) {
                groups.note_actor(actor, spec);
            }
        }
        nodes.look_for_absent_ones();
        let outbox = Outbox::default();
        let task_events = TaskEventLog::default();
        // Actors that wait for a node are asked about when one registers.
        Ok(Self {
            committer: Committer::default(),
            disk: Ok(()),
            outbox,
            lifecycle,
            actors,
            early: Vec::new(),
            call_logs,
            jobs,
            nodes,
            kv,
            groups,
            task_events,
            metrics: Metrics::default(),
            dead_workers: VecDeque::new(),
            once: super::Once::default(),
            packages: super::Packages::default(),
            session: String::new(),
            autoscaler_report: None,
            clock,
            changes: tokio::sync::watch::Sender::new(()),
        })
    }
}

fn read_actors(storage: &dyn Storage) -> Result<(Lifecycle, Actors), StorageError> {
    let (mut lifecycle, mut actors) = (Lifecycle::default(), Actors::default());
    let mut states: Vec<(ActorId, v1::ActorUpdate)> = Vec::new();
    storage.scan(Table::ActorStates, &mut |key, value| {
        let update = decoded::<v1::ActorUpdate>(Table::ActorStates, key, value);
        if let (Ok(actor), Some(update)) = (ActorId::from_bytes(key), update) {
            states.push((actor, update));
        }
    })?;
    // Both tables are sorted by actor.
    let mut states = states.into_iter().peekable();
    storage.scan(Table::ActorSpecs, &mut |key, value| {
        let Ok(actor) = ActorId::from_bytes(key) else { return };
        let Some(spec) = decoded::<v1::ActorSpec>(Table::ActorSpecs, key, value) else {
            return;
        };
        while states.next_if(|(other, _)| *other < actor).is_some() {}
        let Some((_, update)) = states.next_if(|(other, _)| *other == actor) else {
            return;
        };
        if let (Ok(facts), Some(was)) = (facts_of(&spec), convert::restored(&update, spec.args.is_some())) {
            actors.restore(actor, spec, was.phase, was.death.is_some());
            lifecycle.restore(actor, facts, was, &mut Vec::new());
        }
    })?;
    Ok((lifecycle, actors))
}

fn decoded<M: Message + Default>(table: Table, key: &[u8], value: &[u8]) -> Option<M> {
    match M::decode(value) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::error!(?table, key = ?Bytes::copy_from_slice(key), %error, "left out a stored record");
            None
        }
    }
}
