//! Who gets what is free: queues take turns, and each queue keeps its order.

use std::time::Duration;

use ray_rs_types::bundles::cpus_of;
use ray_rs_types::resources::CPU;
use ray_rs_types::{Quantity, ResourceSet};

use crate::effect::Effect;
use crate::event::{JobKey, LeaseKey, PoolKey, WorkerKey};
use crate::queue::{Item, Queue, QueueKey, Wanted};
use crate::scheduler::{AwaitsWorker, Lease, Scheduler, Use, WaitedFor, WorkerState};
use crate::shape::Shape;

impl Scheduler {
    pub(crate) fn enqueue(&mut self, key: QueueKey, job: JobKey, item: Item, effects: &mut Vec<Effect>) {
        // The one that is there already: comparing the two is comparing addresses from then on.
        let known = self.queues.get_key_value(&key).map(|(known, _)| known.clone());
        let key = known.unwrap_or(key);
        let queue = self.queues.entry(key.clone()).or_insert_with(|| Queue::new(job));
        if queue.items.is_empty() {
            self.turns.push_back(key.clone());
        }
        let tell = !queue.told_infeasible && !self.ledger.feasible(&key.shape);
        if tell {
            queue.told_infeasible = true;
            let awaited = key.shape.group().filter(|group| !self.ledger.bundles.knows(*group));
            effects.push(match awaited {
                Some(group) => Effect::AskAboutGroup { group },
                None => Effect::Notice {
                    job,
                    text: self.ledger.infeasible_text(&item.name, &key.shape),
                },
            });
        }
        self.queues.get_mut(&key).expect("just entered").items.push_back(item);
    }

    /// Grants whatever fits, in turns.
    pub(crate) fn serve(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.stop_waiting_in_vain(now);
        let mut index = 0;
        while self.turns.any_asks_for_at_most(self.ledger.available.get(CPU)) {
            let Some(key) = self.turns.get(index).cloned() else {
                break;
            };
            if !self.may_serve(&key) || self.is_held_back(now, &key) {
                index += 1;
                continue;
            }
            self.turns.remove(index);
            self.speak_for_memory(&key);
            self.note_overtaken(now, index, &key.shape);
            let queue = self.queues.get_mut(&key).expect("a queue in the turns exists");
            let item = queue.items.pop_front().expect("a queue in the turns has items");
            queue.passed_over = 0;
            queue.held += 1;
            queue.told_stuck = false;
            if !queue.items.is_empty() {
                self.turns.push_back(key.clone());
            }
            if self
                .waited_for
                .as_ref()
                .is_some_and(|waited_for| waited_for.queue == key)
            {
                self.waited_for = None;
            }
            self.place(now, key, item, effects);
            // What came before did not fit and does not now; but the one waited for may have been served, which lifts
            // the hold on what others may take.
            index = 0;
        }
        if let Some(waited_for) = &self.waited_for {
            self.look_again(waited_for.until);
        }
    }

    fn may_serve(&self, key: &QueueKey) -> bool {
        if !self.ledger.fits(&key.shape) {
            return false;
        }
        if cpus_of(&key.shape) == Quantity::ZERO
            && self.queues[key]
                .items
                .front()
                .is_some_and(|item| matches!(item.wanted, Wanted::Lease(..)))
            && self.leases_without_cpu() >= self.options.max_leases_without_cpu
        {
            return false;
        }
        match &self.waited_for {
            Some(waited_for) if waited_for.queue != *key => !self.lacks_any_of(&waited_for.queue.shape, &key.shape),
            Some(_) | None => true,
        }
    }

    fn leases_without_cpu(&self) -> usize {
        self.leases
            .values()
            .filter(|lease| !lease.holding.cpu_lent && lease.holding.cpu() == Quantity::ZERO)
            .count()
    }

    /// Whether of some resource of `granted` there is less free than `demand` needs.
    fn lacks_any_of(&self, demand: &Shape, granted: &ResourceSet) -> bool {
        let of_group = demand.group().map(|_| self.ledger.free_for(demand));
        let free = of_group.as_ref().unwrap_or(&self.ledger.available);
        granted
            .iter()
            .any(|(name, _)| demand.get(name) > free.get(name).max(Quantity::ZERO))
    }

    /// SCH-3: counts for each queue whose turn it was that something it lacks goes to another; who is overtaken too
    /// often is waited for, as long as it has waited so far.
    fn note_overtaken(&mut self, now: Duration, before: usize, granted: &ResourceSet) {
        for position in 0..before {
            let key = self.turns.get(position).expect("the caller has come by it").clone();
            if !self.lacks_any_of(&key.shape, granted) || !self.could_fit(&key.shape) {
                continue;
            }
            let queue = self.queues.get_mut(&key).expect("a queue in the turns exists");
            queue.passed_over += 1;
            if queue.passed_over >= self.options.passed_over_limit && self.waited_for.is_none() {
                let since = queue.items.front().expect("a queue in the turns has items").since;
                let patience = now.saturating_sub(since).max(Duration::from_millis(500));
                self.waited_for = Some(WaitedFor {
                    queue: key,
                    until: now + patience,
                });
            }
        }
    }

    /// Whether it would fit if every lease were returned: actors may hold what they have for ever.
    pub(crate) fn could_fit(&self, demand: &Shape) -> bool {
        if !self.ledger.feasible(demand) {
            return false;
        }
        let of_group = demand.group().map(|_| self.ledger.total_for(demand));
        let total = of_group.as_ref().unwrap_or(&self.ledger.total);
        (demand.iter()).all(|(name, amount)| total.get(name).0 - self.held_by_actors.get(name).0 >= amount.0)
    }

    fn stop_waiting_in_vain(&mut self, now: Duration) {
        let in_vain = self.waited_for.as_ref().is_some_and(|waited_for| {
            waited_for.until <= now
                || self
                    .queues
                    .get(&waited_for.queue)
                    .is_none_or(|queue| queue.items.is_empty())
        });
        if in_vain {
            let waited_for = self.waited_for.take().expect("just looked at");
            if let Some(queue) = self.queues.get_mut(&waited_for.queue) {
                queue.passed_over = 0;
            }
        }
    }

    fn place(&mut self, now: Duration, queue: QueueKey, item: Item, effects: &mut Vec<Effect>) {
        let pool = PoolKey {
            job: self.queues[&queue].job,
            env: queue.env,
        };
        let holding = self.ledger.take(&queue.shape);
        let waiting = AwaitsWorker { queue, item, holding };
        match self.pick_idle(pool, &waiting.item.wanted) {
            Some(worker) => self.give_worker(now, waiting, worker, effects),
            None => self.pools.entry(pool).or_default().awaiting.push_back(waiting),
        }
    }

    /// A worker that this client has used before has its lane open; failing that, of those that nobody has used the one
    /// that came first, because the latest may still be setting itself up; failing that, the one that was active last.
    /// Never the one that asks.
    pub(crate) fn pick_idle(&self, pool: PoolKey, wanted: &Wanted) -> Option<WorkerKey> {
        let may = |worker: &&WorkerKey| match wanted {
            Wanted::Lease(client, _) => self.workers[*worker].client != *client,
            Wanted::Actor(_) => true,
        };
        let idle = || {
            self.pools
                .get(&pool)
                .into_iter()
                .flat_map(|pool| &pool.idle)
                .filter(may)
        };
        let last_client = |worker: &&WorkerKey| self.workers[*worker].last_client;
        let chosen = match wanted {
            Wanted::Lease(client, _) => idle()
                .rev()
                .find(|worker| last_client(worker) == Some(*client))
                .or_else(|| idle().find(|worker| last_client(worker).is_none())),
            // An actor never needs the lanes of tasks, so it takes the worker that nobody would miss.
            Wanted::Actor(_) => idle()
                .find(|worker| last_client(worker).is_none())
                .or_else(|| idle().next()),
        };
        chosen.or_else(|| idle().next_back()).copied()
    }

    pub(crate) fn give_worker(
        &mut self,
        now: Duration,
        waiting: AwaitsWorker,
        worker: WorkerKey,
        effects: &mut Vec<Effect>,
    ) {
        let AwaitsWorker {
            queue,
            item,
            mut holding,
        } = waiting;
        match item.wanted {
            Wanted::Lease(client, request) => {
                self.last_lease += 1;
                let lease = LeaseKey(self.last_lease);
                let gpus = holding.gpu_indices();
                self.set_worker_state(worker, WorkerState::Leased(lease));
                self.workers.get_mut(&worker).expect("just changed").last_client = Some(client);
                if item.ahead {
                    self.ledger.lend_cpu(&mut holding);
                }
                let granted = Lease {
                    client,
                    task: item.task,
                    queue,
                    worker,
                    holding,
                    granted_at: now,
                    lent_at: now,
                    revoked: false,
                    usage: if item.ahead { Use::None } else { Use::Begun },
                };
                self.leases.insert(lease, granted);
                self.holds.began(now);
                effects.push(Effect::GrantLease {
                    client,
                    request,
                    lease,
                    worker,
                    gpus,
                });
            }
            Wanted::Actor(actor) => {
                self.queues
                    .get_mut(&queue)
                    .expect("a queue lives while something of it awaits a worker")
                    .held -= 1;
                self.forget_if_empty(&queue);
                self.set_worker_state(worker, WorkerState::Actor(actor));
                let hosted = self.actors.get_mut(&actor).expect("a cancelled actor is withdrawn");
                let holding = self.ledger.swap(holding, &hosted.demand.running);
                self.held_by_actors.add(&holding.resources);
                let gpus = holding.gpu_indices();
                hosted.holding = Some(holding);
                hosted.worker = Some(worker);
                effects.push(Effect::PlaceActor { actor, worker, gpus });
            }
        }
    }

    pub(crate) fn release_awaiting(&mut self, waiting: &AwaitsWorker) {
        self.ledger.give_back(&waiting.holding);
        self.queues
            .get_mut(&waiting.queue)
            .expect("a queue lives while something of it awaits a worker")
            .held -= 1;
    }

    pub(crate) fn forget_if_empty(&mut self, key: &QueueKey) {
        let Some(queue) = self.queues.get(key) else { return };
        if queue.items.is_empty() {
            self.turns.forget(key);
        }
        if queue.is_forgettable() {
            self.queues.remove(key);
        }
    }
}
