//! Placement groups as this process sees them: those it has asked for and those it waits for.
//!
//! A request for a group is not waited for, unless the group has a name that may be taken. What becomes of it comes as
//! news from the raylet, and wakes threads in [`CoreWorker::wait_for_group`] and the references of
//! [`CoreWorker::group_ready`].

use std::thread::Thread;
use std::time::{Duration, Instant};

use ray_rs_ownership::{RefSlot, TaskKey};
use ray_rs_proto::v1;
use ray_rs_proto::v1::to_raylet::Body;
use ray_rs_types::{ActorId, NodeId, PlacementGroupId, ResourceSet};
use smallvec::SmallVec;

use crate::control::GCS_TIMEOUT;
use crate::core::{CoreWorker, Interrupt};
use crate::model::{CoreError, Failure, StoredValue, TaskArgs};
use crate::state::State;
use crate::submit::{Work, split};

/// A placement group to be made.
pub struct GroupRequest {
    /// Empty: none.
    pub name: String,
    pub namespace: String,
    /// As in `PlacementGroupSpec`.
    pub strategy: u32,
    pub bundles: Vec<ResourceSet>,
    pub bundle_selectors: Vec<v1::LabelSelector>,
    pub detached: bool,
    pub creator: Option<ActorId>,
    pub soft_target: Option<NodeId>,
}

/// How a wait for a group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupWait {
    Created,
    TimedOut,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The control store has not been heard of it.
    Asked,
    Waiting,
    Created,
    Removed,
    /// Another has its name.
    Refused(String),
}

#[derive(Debug)]
pub(crate) struct GroupView {
    phase: Phase,
    threads: Vec<Thread>,
    ready: Vec<TaskKey>,
}

impl GroupView {
    pub fn waiting_threads(&self) -> impl Iterator<Item = &Thread> {
        self.threads.iter()
    }
}

impl CoreWorker {
    /// Asks for a group.
    ///
    /// # Errors
    /// When its name is taken, or the control store does not say whether it is.
    pub fn create_group(&self, request: GroupRequest, interrupt: Interrupt<'_>) -> Result<PlacementGroupId, CoreError> {
        if self.is_forked() {
            return Err(CoreError::RayletDied);
        }
        let is_named = !request.name.is_empty();
        let group = self.with(|state| state.create_group(request));
        if is_named {
            let known = |phase: &Phase| *phase != Phase::Asked;
            match self.watch_group(group, Some(GCS_TIMEOUT), interrupt, known)? {
                Some(Phase::Refused(message)) => return Err(CoreError::NotFound(message)),
                Some(_) => {}
                None => {
                    return Err(CoreError::TimedOut {
                        what: "the request for a placement group".to_owned(),
                        after: GCS_TIMEOUT,
                    });
                }
            }
        }
        Ok(group)
    }

    pub fn remove_group(&self, group: PlacementGroupId) {
        self.with(|state| state.tell_raylet(Body::RemoveGroup(request(group))));
    }

    pub fn wait_for_group(
        &self,
        group: PlacementGroupId,
        timeout: Option<Duration>,
        interrupt: Interrupt<'_>,
    ) -> Result<GroupWait, CoreError> {
        let settled = |phase: &Phase| matches!(phase, Phase::Created | Phase::Removed | Phase::Refused(_));
        Ok(match self.watch_group(group, timeout, interrupt, settled)? {
            Some(Phase::Created) => GroupWait::Created,
            Some(_) => GroupWait::Removed,
            None => GroupWait::TimedOut,
        })
    }

    /// Waits until every group that this process has asked for is known to the control store.
    pub fn flush_groups(&self, interrupt: Interrupt<'_>) -> Result<(), CoreError> {
        let asked = self.with(|state| {
            let asked = state.groups.iter().filter(|(_, view)| view.phase == Phase::Asked);
            asked.map(|(group, _)| *group).collect::<Vec<_>>()
        });
        for group in asked {
            let known = |phase: &Phase| *phase != Phase::Asked;
            self.watch_group(group, Some(GCS_TIMEOUT), interrupt, known)?;
        }
        Ok(())
    }

    /// The phase that was waited for; `None` when the time is over.
    fn watch_group(
        &self,
        group: PlacementGroupId,
        timeout: Option<Duration>,
        interrupt: Interrupt<'_>,
        settled: impl Fn(&Phase) -> bool,
    ) -> Result<Option<Phase>, CoreError> {
        if self.is_forked() {
            return Err(CoreError::RayletDied);
        }
        let began = Instant::now();
        let mut is_known = false;
        loop {
            let found = self.with(|state| {
                if state.closed {
                    return Err(CoreError::Closed);
                }
                if state.raylet_dead {
                    return Err(CoreError::RayletDied);
                }
                if is_known && !state.groups.contains_key(&group) {
                    // The news of its end has come meanwhile, and it was forgotten.
                    return Ok(Some(Phase::Removed));
                }
                let view = state.group_view(group);
                if settled(&view.phase) {
                    return Ok(Some(view.phase.clone()));
                }
                let thread = std::thread::current();
                if view.threads.iter().all(|known| known.id() != thread.id()) {
                    view.threads.push(thread);
                }
                Ok(None)
            })?;
            is_known = true;
            if found.is_some() {
                return Ok(found);
            }
            let left = timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            if interrupt() {
                return Err(CoreError::Interrupted);
            }
            let nap = Duration::from_millis(50);
            std::thread::park_timeout(left.map_or(nap, |left| left.min(nap)));
        }
    }

    /// A reference to `value`, which is there when the group is created.
    pub fn group_ready(&self, group: PlacementGroupId, value: StoredValue) -> RefSlot {
        self.with(|state| {
            let task_id = state.fresh_task_id(ActorId::nil_of(state.job));
            let args = TaskArgs {
                values: StoredValue::none(),
                layout: Vec::new(),
                kwarg_names: Vec::new(),
                deps: SmallVec::new(),
                parent: 0,
            };
            let (spec, deps, held) = split(Work::Group, task_id.unique(), args, None);
            let (key, returns) =
                (state.owner).task_submitted(task_id, 1, spec, deps, held, 0, &mut state.owner_effects);
            state.group_tasks.insert(key, (group, value));
            state.run_effects();
            returns[0]
        })
    }
}

impl State {
    fn create_group(&mut self, request: GroupRequest) -> PlacementGroupId {
        let mut id = [0; PlacementGroupId::SIZE];
        id[..8].copy_from_slice(&self.fresh_unique().to_le_bytes());
        id[8..14].copy_from_slice(&self.me.worker_id.0[..6]);
        id[14..].copy_from_slice(&self.job.0);
        let spec = v1::PlacementGroupSpec {
            group_id: id.to_vec(),
            name: request.name,
            namespace: request.namespace,
            strategy: request.strategy,
            bundles: request.bundles.iter().map(v1::ResourceSet::from).collect(),
            bundle_selectors: request.bundle_selectors,
            detached: request.detached,
            job_id: self.job.0.to_vec(),
            creator_actor: request.creator.map(|actor| actor.0.to_vec()).unwrap_or_default(),
            soft_target_node: request.soft_target.map(|node| node.0.to_vec()).unwrap_or_default(),
        };
        let group = PlacementGroupId(id);
        self.groups.insert(
            group,
            GroupView {
                phase: Phase::Asked,
                threads: Vec::new(),
                ready: Vec::new(),
            },
        );
        self.tell_raylet(Body::CreateGroup(spec));
        group
    }

    /// What is known of it; of one that is not known here the raylet is asked.
    fn group_view(&mut self, group: PlacementGroupId) -> &mut GroupView {
        if !self.groups.contains_key(&group) {
            self.tell_raylet(Body::FollowGroup(request(group)));
        }
        self.groups.entry(group).or_insert_with(|| GroupView {
            phase: Phase::Asked,
            threads: Vec::new(),
            ready: Vec::new(),
        })
    }

    /// A reference to a ready group is wanted.
    pub fn group_task_ready(&mut self, key: TaskKey) {
        let Some((group, _)) = self.group_tasks.get(&key) else {
            return;
        };
        let group = *group;
        let view = self.group_view(group);
        match view.phase {
            Phase::Created => self.end_group_task(key, true),
            Phase::Removed | Phase::Refused(_) => self.end_group_task(key, false),
            Phase::Asked | Phase::Waiting => view.ready.push(key),
        }
    }

    fn end_group_task(&mut self, key: TaskKey, created: bool) {
        let Some((_, value)) = self.group_tasks.remove(&key) else {
            return;
        };
        if created {
            self.finish_with_value(key, value);
        } else {
            self.finish_with(key, &StoredValue::failed(Failure::GroupRemoved));
        }
    }

    /// It was cancelled.
    pub fn forget_group_task(&mut self, key: TaskKey) {
        if let Some((group, value)) = self.group_tasks.remove(&key) {
            if let Some(view) = self.groups.get_mut(&group) {
                view.ready.retain(|other| *other != key);
            }
            self.owner.value_abandoned(value, &mut self.owner_effects);
        }
    }

    pub fn group_updated(&mut self, update: v1::GroupUpdate) {
        let Ok(group) = PlacementGroupId::from_bytes(&update.group_id) else {
            return;
        };
        let Some(view) = self.groups.get_mut(&group) else {
            return;
        };
        view.phase = match update.state {
            2 => Phase::Created,
            3 => Phase::Removed,
            5 => Phase::Refused(update.message),
            _ => Phase::Waiting,
        };
        let (phase, threads) = (view.phase.clone(), std::mem::take(&mut view.threads));
        self.after.wake.extend(threads);
        let ready = match phase {
            Phase::Asked | Phase::Waiting => return,
            Phase::Created | Phase::Removed | Phase::Refused(_) => std::mem::take(&mut view.ready),
        };
        for key in ready {
            self.end_group_task(key, phase == Phase::Created);
        }
        if phase == Phase::Removed {
            // Whoever asks later is told the same.
            self.groups.remove(&group);
        }
        self.run_effects();
    }
}

fn request(group: PlacementGroupId) -> v1::GroupRequest {
    v1::GroupRequest {
        group_id: group.0.to_vec(),
    }
}
