//! Bundles prepared, committed and given back, and what waits for or runs in a group that goes.

use std::collections::VecDeque;

use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::{ActorId, PlacementGroupId, ResourceSet};
use rustc_hash::FxHashSet;

use crate::effect::{Effect, Refusal, StopReason};
use crate::event::LeaseKey;
use crate::queue::Wanted;
use crate::scheduler::{Scheduler, WorkerState};

/// Removed groups that requests are still refused for.
const MAX_REMOVED: usize = 10_000;

/// The groups that are known to be gone.
#[derive(Debug, Default)]
pub(crate) struct RemovedGroups {
    known: FxHashSet<PlacementGroupId>,
    order: VecDeque<PlacementGroupId>,
}

impl RemovedGroups {
    fn add(&mut self, group: PlacementGroupId) {
        if self.known.insert(group) {
            self.order.push_back(group);
            if self.order.len() > MAX_REMOVED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    pub fn has(&self, group: PlacementGroupId) -> bool {
        self.known.contains(&group)
    }
}

impl Scheduler {
    /// All of the bundles, or none. Those that are here already (the order was repeated) count as prepared.
    pub(crate) fn bundles_wanted(
        &mut self,
        group: PlacementGroupId,
        attempt: u32,
        bundles: Vec<(u32, ResourceSet)>,
        commit: bool,
        effects: &mut Vec<Effect>,
    ) {
        let mut made = Vec::new();
        let mut has_room = true;
        for (index, resources) in bundles {
            if self.ledger.bundles.has(group, index) {
                continue;
            }
            has_room = self.ledger.fits_in(None, &resources);
            if !has_room {
                break;
            }
            let holding = self.ledger.take(&resources);
            self.ledger.bundles.add(group, index, holding, false);
            made.push(index);
        }
        if !has_room {
            for index in made {
                self.drop_bundle(group, index);
            }
        } else if commit {
            self.ledger.bundles.commit(group);
        }
        effects.push(Effect::BundlesPrepared {
            group,
            attempt,
            has_room,
        });
    }

    pub(crate) fn bundles_committed(&mut self, group: PlacementGroupId) {
        self.ledger.bundles.commit(group);
        self.ledger.changes += 1;
    }

    fn drop_bundle(&mut self, group: PlacementGroupId, index: u32) {
        if let Some(holding) = self.ledger.bundles.remove(group, index) {
            self.ledger.give_back(&holding);
        }
    }

    /// Ends what runs in the bundles; what it held is free at once, as nothing survives the end of its process.
    pub(crate) fn bundles_returned(&mut self, group: PlacementGroupId, bundles: &[u32], effects: &mut Vec<Effect>) {
        let inside = |demand: &Option<BundleDemand>| {
            demand.as_ref().is_some_and(|demand| {
                demand.group == group && demand.index.is_some_and(|index| bundles.contains(&index))
            })
        };
        let mut leases: Vec<LeaseKey> = (self.leases.iter())
            .filter(|(_, lease)| inside(&lease.holding.inside))
            .map(|(key, _)| *key)
            .collect();
        leases.sort_unstable();
        for lease in leases {
            let lease = self.end_lease(lease);
            self.set_worker_state(lease.worker, WorkerState::Leaving);
            effects.push(Effect::StopWorker {
                worker: lease.worker,
                reason: StopReason::GroupRemoved,
            });
        }
        let mut actors: Vec<ActorId> = (self.actors.iter())
            .filter(|(_, hosted)| hosted.holding.as_ref().is_some_and(|holding| inside(&holding.inside)))
            .map(|(actor, _)| *actor)
            .collect();
        actors.sort_unstable();
        for actor in actors {
            let hosted = self.end_actor(actor);
            let worker = hosted.worker.expect("SCH-2: a placed actor has a worker");
            self.set_worker_state(worker, WorkerState::Leaving);
            effects.push(Effect::StopWorker {
                worker,
                reason: StopReason::GroupRemoved,
            });
        }
        // Set aside, and only the worker process is missing: they wait for the bundle again.
        let mut again = Vec::new();
        for pool in self.pools.values_mut() {
            let (out, kept): (VecDeque<_>, VecDeque<_>) =
                (pool.awaiting.drain(..)).partition(|waiting| inside(&waiting.holding.inside));
            pool.awaiting = kept;
            again.extend(out);
        }
        for waiting in again {
            self.release_awaiting(&waiting);
            let job = self.queues[&waiting.queue].job;
            self.enqueue(waiting.queue, job, waiting.item, effects);
        }
        for index in bundles {
            self.drop_bundle(group, *index);
        }
    }

    /// The group is gone for good: whoever waits for it is told.
    pub(crate) fn group_removed(&mut self, group: PlacementGroupId, effects: &mut Vec<Effect>) {
        let bundles: Vec<u32> = (self.ledger.bundles.all())
            .filter(|(of, ..)| *of == group)
            .map(|(_, index, _)| index)
            .collect();
        self.bundles_returned(group, &bundles, effects);
        self.removed_groups.add(group);
        let waiting: Vec<Wanted> = (self.queues.iter())
            .filter(|(key, _)| key.shape.group() == Some(group))
            .flat_map(|(_, queue)| queue.items.iter().map(|item| item.wanted))
            .collect();
        self.withdraw_all(&waiting.iter().copied().collect());
        for wanted in waiting {
            self.refuse_removed(wanted, effects);
        }
    }

    pub(crate) fn refuse_removed(&mut self, wanted: Wanted, effects: &mut Vec<Effect>) {
        match wanted {
            Wanted::Lease(client, request) => effects.push(Effect::RejectLease {
                client,
                request,
                refusal: Refusal::GroupRemoved,
                reason: "its placement group was removed".to_owned(),
            }),
            // The control store, which removes groups, ends their actors itself.
            Wanted::Actor(actor) => {
                self.actors.remove(&actor);
                effects.push(Effect::RejectActor {
                    actor,
                    refusal: Refusal::GroupRemoved,
                    reason: "its placement group was removed".to_owned(),
                });
            }
        }
    }

    /// What the node has, with the resources of the groups that are here by their names.
    pub fn total_with_groups(&self) -> ResourceSet {
        let mut total = self.ledger.total.clone();
        for group in self.ledger.bundles.groups() {
            total.add(&self.ledger.bundles.total_by_name(group));
        }
        total
    }

    pub fn available_with_groups(&self) -> ResourceSet {
        let mut available = self.ledger.available.clone();
        for group in self.ledger.bundles.groups() {
            available.add(&self.ledger.bundles.available_by_name(group));
        }
        available
    }

    pub fn used_outside_bundles(&self) -> ResourceSet {
        self.ledger.used_outside_bundles()
    }

    /// The bundles of each group that is here, those not committed yet among them.
    pub fn bundles_held(&self) -> Vec<(PlacementGroupId, Vec<u32>)> {
        self.ledger.bundles.indices().collect()
    }

    /// Grows with every change of what is available.
    pub fn changes(&self) -> u64 {
        self.ledger.changes
    }
}
