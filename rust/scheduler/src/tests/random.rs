//! Random lives: the promises hold after each step, and everything comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use ray_rs_types::ResourceSet;

use super::groups::{group, inside};
use super::{MS, World, actor_id, cpus, job};
use crate::*;

#[derive(Debug, Clone)]
enum Step {
    Request {
        client: u64,
        shape: usize,
        env: u32,
    },
    Return {
        pick: usize,
    },
    ReturnGone {
        pick: usize,
    },
    Cancel {
        back: u64,
        client: u64,
    },
    Block {
        pick: usize,
    },
    Unblock {
        pick: usize,
    },
    Actor {
        number: u8,
        placement: usize,
        running: usize,
    },
    CancelActor {
        number: u8,
    },
    Kill {
        pick: usize,
    },
    ClientGone {
        client: u64,
    },
    ClientJoined {
        client: u64,
    },
    Start {
        fails: bool,
    },
    Advance {
        ms: u64,
    },
    Bundles {
        number: u8,
        pick: usize,
        commit: bool,
    },
    ReturnBundles {
        number: u8,
    },
    RemoveGroup {
        number: u8,
    },
    Memory {
        stop: bool,
        needs: bool,
        room_bytes: u64,
    },
    EndJob,
    StartJob,
}

fn shapes() -> Vec<ResourceSet> {
    vec![
        cpus(1.0),
        cpus(0.5),
        cpus(3.0),
        ResourceSet::new(),
        cpus(1.0).with("GPU", 0.5),
        cpus(1.0).with("GPU", 1.0),
        ResourceSet::new().with("special", 1.0),
        cpus(9.0),
        inside(0, None, cpus(1.0)),
        inside(0, Some(0), cpus(0.5)),
        inside(0, Some(1), ResourceSet::new().with("GPU", 0.5)),
        inside(1, None, ResourceSet::new()),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let shape = 0..shapes().len();
    let pick = 0..64usize;
    prop_oneof![
        6 => (0..3u64, shape.clone(), 0..3u32).prop_map(|(client, shape, env)| Step::Request { client, shape, env: env.saturating_sub(1) }),
        4 => pick.clone().prop_map(|pick| Step::Return { pick }),
        1 => pick.clone().prop_map(|pick| Step::ReturnGone { pick }),
        1 => (0..8u64, 0..3u64).prop_map(|(back, client)| Step::Cancel { back, client }),
        2 => pick.clone().prop_map(|pick| Step::Block { pick }),
        2 => pick.clone().prop_map(|pick| Step::Unblock { pick }),
        2 => (0..6u8, shape.clone(), shape).prop_map(|(number, placement, running)| Step::Actor {
            number,
            placement,
            running
        }),
        1 => (0..6u8).prop_map(|number| Step::CancelActor { number }),
        2 => pick.prop_map(|pick| Step::Kill { pick }),
        1 => (0..3u64).prop_map(|client| Step::ClientGone { client }),
        1 => (0..3u64).prop_map(|client| Step::ClientJoined { client }),
        6 => prop::bool::weighted(0.1).prop_map(|fails| Step::Start { fails }),
        3 => (0..30u64).prop_map(|ms| Step::Advance { ms }),
        3 => (0..2u8, 0..4usize, prop::bool::weighted(0.8))
            .prop_map(|(number, pick, commit)| Step::Bundles { number, pick, commit }),
        1 => (0..2u8).prop_map(|number| Step::ReturnBundles { number }),
        1 => (0..40u8).prop_map(|number| Step::RemoveGroup { number }),
        2 => (prop::bool::weighted(0.2), prop::bool::ANY, 0..3u64)
            .prop_map(|(stop, needs, room_bytes)| Step::Memory { stop, needs, room_bytes }),
        1 => Just(Step::EndJob),
        1 => Just(Step::StartJob),
    ]
}

impl World {
    fn take(&mut self, step: Step) {
        let picked = |world: &Self, pick: usize| {
            let leases: Vec<_> = world.granted.keys().copied().collect();
            (!leases.is_empty()).then(|| leases[pick % leases.len()])
        };
        match step {
            Step::Request { client, shape, env } => {
                self.request_in(EnvKey(env), client, shapes()[shape].clone());
            }
            Step::Return { pick } => {
                if let Some(lease) = picked(self, pick) {
                    self.give_back(lease);
                }
            }
            Step::ReturnGone { pick } => {
                if let Some(lease) = picked(self, pick) {
                    let (client, ..) = self.granted.remove(&lease).expect("picked");
                    self.revoked.remove(&lease);
                    self.on(Event::LeaseReturned {
                        client,
                        lease,
                        worker_gone: true,
                    });
                }
            }
            Step::Cancel { back, client } => {
                let request = RequestKey(self.next_request.saturating_sub(back));
                self.on(Event::LeaseRequestCancelled {
                    client: ClientKey(client),
                    request,
                });
            }
            Step::Block { pick } | Step::Unblock { pick } => {
                if let Some(lease) = picked(self, pick) {
                    let worker = self.granted[&lease].2;
                    let blocks = matches!(step, Step::Block { .. });
                    self.on(if blocks {
                        Event::WorkerBlocked { worker }
                    } else {
                        Event::WorkerUnblocked { worker }
                    });
                }
            }
            Step::Actor {
                number,
                placement,
                running,
            } => {
                // What an actor is placed with and what it runs with are in the same place.
                let is_outside = |shape: usize| shape < 8;
                let same_place = is_outside(placement) && is_outside(running);
                self.on(Event::ActorRequested(ActorDemand {
                    actor: actor_id(number),
                    job: job(1),
                    env: EnvKey(u32::from(number) % 2),
                    placement: shapes()[placement].clone(),
                    running: shapes()[if same_place { running } else { placement }].clone(),
                    class_name: "A".to_owned(),
                }));
            }
            Step::CancelActor { number } => self.on(Event::ActorCancelled {
                actor: actor_id(number),
            }),
            Step::Kill { pick } => {
                let live: Vec<_> = self.live.iter().copied().collect();
                if !live.is_empty() {
                    self.kill(live[pick % live.len()]);
                }
            }
            Step::ClientGone { client } => self.on(Event::ClientGone {
                client: ClientKey(client),
            }),
            Step::ClientJoined { client } => self.on(Event::ClientJoined {
                client: ClientKey(client),
                job: job(1),
            }),
            Step::Start { fails } => {
                if fails && !self.starts.is_empty() {
                    let pool = self.starts.remove(0);
                    self.on(Event::WorkerStartFailed {
                        pool,
                        reason: "test".to_owned(),
                        how: StartFailure::Failed,
                    });
                } else if !self.starts.is_empty() {
                    let event = self.start_one();
                    self.on(event);
                }
            }
            Step::Advance { ms } => self.advance(Duration::from_millis(ms)),
            Step::Bundles { number, pick, commit } => {
                let bundles = [(0, shapes()[pick].clone()), (1, cpus(1.0).with("GPU", 0.5))].to_vec();
                self.reserve(group(number), &bundles, commit);
            }
            Step::ReturnBundles { number } => self.on(Event::BundlesReturned {
                group: group(number),
                bundles: vec![0, 1],
            }),
            Step::RemoveGroup { number } => self.on(Event::GroupRemoved { group: group(number) }),
            Step::Memory {
                stop,
                needs,
                room_bytes,
            } => self.on(Event::AdmissionChanged(Admission {
                stop,
                room_bytes,
                needs: needs.then(|| ((job(1), "f".into()), 1)).into_iter().collect(),
            })),
            Step::EndJob => self.on(Event::JobEnded { job: job(1) }),
            Step::StartJob => self.on(Event::JobStarted { job: job(1) }),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn promises_hold_after_any_steps_and_everything_comes_back(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new(cpus(4.0).with("GPU", 2.0).with("special", 1.0));
        world.auto_start = false;
        for step in steps {
            world.take(step);
        }
        for client in 0..3 {
            world.on(Event::ClientGone { client: ClientKey(client) });
        }
        for number in 0..6 {
            world.on(Event::ActorCancelled { actor: actor_id(number) });
        }
        for worker in world.live.clone() {
            world.kill(worker);
        }
        for number in 0..2 {
            world.on(Event::GroupRemoved { group: group(number) });
        }
        prop_assert_eq!(world.scheduler.available(), world.scheduler.total());
    }

    /// Three clients that always want more, with shapes of their own; each must be served again and again.
    #[test]
    fn no_client_starves(
        shapes in prop::collection::vec(1..=4u32, 3),
        hold_ms in prop::collection::vec(1..20u64, 3),
    ) {
        let mut world = World::new(cpus(4.0));
        let mut held_ms = [0u32; 3];
        let mut until: BTreeMap<LeaseKey, Duration> = BTreeMap::new();
        for client in 0..3 {
            for _ in 0..4 {
                world.request(client, cpus(f64::from(shapes[client as usize])));
            }
        }
        for _ in 0..3000 {
            world.advance(MS);
            for (lease, (client, ..)) in world.granted.clone() {
                let index = client.0 as usize;
                held_ms[index] += 1;
                let end = *until.entry(lease).or_insert_with(|| world.now + hold_ms[index] as u32 * MS);
                // A task's end is no lease's end, unless the lease was asked back.
                if end <= world.now && world.revoked.contains(&lease) {
                    world.give_back(lease);
                    world.request(client.0, cpus(f64::from(shapes[index])));
                }
            }
        }
        for held in held_ms {
            prop_assert!(held >= 100, "SCH-3: leases were held for {:?} of 3000 ms", held_ms);
        }
    }
}
