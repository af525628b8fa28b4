//! Placement groups: bundles on this node as the control store orders them, and clients that ask for groups or follow
//! them.
//!
//! What clients ask goes up the node's channel and is answered there, in order. What was not answered when the channel
//! broke is asked again on the next.

use std::collections::hash_map::Entry;

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body;
use ray_rs_proto::v1::node_report::Body as Report;
use ray_rs_scheduler::Event;
use ray_rs_scheduler::bottom_up::NodeReport;
use ray_rs_types::{JobId, PlacementGroupId, ResourceSet};
use rustc_hash::FxHashMap;

use crate::input::ConnKey;
use crate::raylet::Raylet;

/// `GroupUpdate.state`.
const REMOVED: u32 = 3;
const REFUSED: u32 = 5;

#[derive(Debug, Default)]
struct Followed {
    clients: Vec<ConnKey>,
    /// Set while the control store has not answered the request for it.
    wanted: Option<v1::PlacementGroupSpec>,
    last: Option<v1::GroupUpdate>,
    /// Set from when a client wants it removed until the control store says that it is.
    unwanted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Groups(FxHashMap<PlacementGroupId, Followed>);

impl Groups {
    /// The groups themselves live on.
    pub fn unfollow(&mut self, conn: ConnKey) {
        for followed in self.0.values_mut() {
            followed.clients.retain(|client| *client != conn);
        }
    }

    fn follow(&mut self, group: PlacementGroupId, conn: ConnKey) -> &mut Followed {
        let followed = self.0.entry(group).or_default();
        if !followed.clients.contains(&conn) {
            followed.clients.push(conn);
        }
        followed
    }
}

fn request(group: PlacementGroupId) -> v1::GroupRequest {
    v1::GroupRequest {
        group_id: group.0.to_vec(),
    }
}

impl Raylet {
    pub fn create_group(&mut self, conn: ConnKey, spec: v1::PlacementGroupSpec) {
        let Ok(group) = PlacementGroupId::from_bytes(&spec.group_id) else {
            return;
        };
        self.groups.follow(group, conn).wanted = Some(spec.clone());
        self.gcs.report(Report::CreateGroup(spec));
    }

    pub fn remove_group(&mut self, asked: v1::GroupRequest) {
        if let Ok(group) = PlacementGroupId::from_bytes(&asked.group_id) {
            // It is followed until it is gone, and asked for again on the next connection if that is lost.
            self.ask_about_group(group);
            self.groups.0.entry(group).or_default().unwanted = true;
        }
        self.gcs.report(Report::RemoveGroup(asked));
    }

    pub fn follow_group(&mut self, conn: ConnKey, asked: &v1::GroupRequest) {
        let Ok(group) = PlacementGroupId::from_bytes(&asked.group_id) else {
            return;
        };
        let is_new = !self.groups.0.contains_key(&group);
        let last = self.groups.follow(group, conn).last.clone();
        if let (Some(last), Some(client)) = (last, self.clients.get(&conn)) {
            client.outbox.send(Body::GroupUpdate(last));
        } else if is_new {
            self.gcs.report(Report::FollowGroup(request(group)));
        }
    }

    /// A request waits for it here.
    pub fn ask_about_group(&mut self, group: PlacementGroupId) {
        if let Entry::Vacant(place) = self.groups.0.entry(group) {
            place.insert(Followed::default());
            self.gcs.report(Report::FollowGroup(request(group)));
        }
    }

    pub fn group_updated(&mut self, update: v1::GroupUpdate) {
        let Ok(group) = PlacementGroupId::from_bytes(&update.group_id) else {
            return;
        };
        let is_over = matches!(update.state, REMOVED | REFUSED);
        if let Some(followed) = self.groups.0.get_mut(&group) {
            followed.wanted = None;
            followed.last = Some(update.clone());
            for client in followed.clients.iter().filter_map(|conn| self.clients.get(conn)) {
                client.outbox.send(Body::GroupUpdate(update.clone()));
            }
        }
        if is_over {
            self.groups.0.remove(&group);
            self.decide(Event::GroupRemoved { group });
        }
    }

    pub fn prepare_bundles(&mut self, order: &v1::PrepareBundles) {
        let Ok(group) = PlacementGroupId::from_bytes(&order.group_id) else {
            return;
        };
        let bundles = order
            .indices
            .iter()
            .copied()
            .zip(order.bundles.iter().map(ResourceSet::from));
        self.decide(Event::BundlesWanted {
            group,
            attempt: order.attempt,
            bundles: bundles.collect(),
            commit: order.commit,
        });
    }

    pub fn bundles_prepared(&mut self, group: PlacementGroupId, attempt: u32, has_room: bool) {
        if !has_room {
            // What the control store knew of this node was old.
            self.report_use(false);
        }
        self.gcs.report(Report::BundlesPrepared(v1::BundlesAnswer {
            group_id: group.0.to_vec(),
            attempt,
            has_room,
        }));
    }

    pub fn commit_bundles(&mut self, order: &v1::CommitBundles) {
        let Ok(group) = PlacementGroupId::from_bytes(&order.group_id) else {
            return;
        };
        self.decide(Event::BundlesCommitted { group });
    }

    pub fn return_bundles(&mut self, order: v1::ReturnBundles) {
        let Ok(group) = PlacementGroupId::from_bytes(&order.group_id) else {
            return;
        };
        self.decide(if order.removed {
            Event::GroupRemoved { group }
        } else {
            Event::BundlesReturned {
                group,
                bundles: order.indices,
            }
        });
    }

    /// What has changed here since the last heartbeat; `first` on a connection, everything, with the bundles that are here.
    pub fn report_use(&mut self, first: bool) {
        let held = |(group, indices): (PlacementGroupId, Vec<u32>)| v1::HeldBundles {
            group_id: group.0.to_vec(),
            indices,
        };
        let held = match first {
            true => self.scheduler.bundles_held().into_iter().map(held).collect(),
            false => Vec::new(),
        };
        if first {
            self.heartbeats.start_over();
        }
        // Where there are others, the global scheduler wants to know what is in bundles as well.
        let (total, available) = match self.config.is_in_cluster() {
            true => (
                self.scheduler.total_with_groups(),
                self.scheduler.available_with_groups(),
            ),
            false => (self.scheduler.total().clone(), self.scheduler.available().clone()),
        };
        let mut backlog = self.cluster.forwarder.backlog().clone();
        if self.config.is_in_cluster() {
            for (shape, count) in self.scheduler.actors_waiting() {
                *backlog.entry(shape).or_default() += count;
            }
        }
        let report = NodeReport {
            total,
            available,
            backlog,
            hold: self.scheduler.holds().reported(self.now()),
            draining: self.drain.is_some(),
            ..NodeReport::default()
        };
        let is_idle = self.idleness.is_idle;
        let tells_idle = std::mem::replace(&mut self.idleness.told, is_idle) != is_idle || first;
        let drain = self.drain.as_ref().map(|drain| drain.info.clone());
        let beat = self.heartbeats.next(&report);
        let drain = drain.filter(|_| beat.draining.is_some());
        let amounts = beat.available.into_iter().map(|(name, amount)| (name, amount.0));
        let count = |(shape, count): (ResourceSet, u32)| v1::ShapeCount {
            resources: Some((&shape).into()),
            count,
            ..v1::ShapeCount::default()
        };
        self.gcs.report(Report::Heartbeat(v1::NodeHeartbeat {
            number: beat.number,
            base: beat.base,
            total: beat.total.as_ref().map(Into::into),
            available: Some(v1::ResourceSet {
                quantities: amounts.collect(),
            }),
            waiting: beat.backlog.into_iter().map(count).collect(),
            hold_ns: beat.hold.map(|hold| hold.as_nanos() as u64),
            leases: Some(self.cluster.counts()),
            used_outside_bundles: Some((&self.scheduler.used_outside_bundles()).into()),
            first,
            held,
            drain,
            idle: tells_idle.then_some(is_idle),
        }));
    }

    /// What a connection took with it is asked for again.
    pub fn ask_for_groups_again(&self) {
        for (group, followed) in &self.groups.0 {
            self.gcs.report(match &followed.wanted {
                Some(spec) => Report::CreateGroup(spec.clone()),
                None => Report::FollowGroup(request(*group)),
            });
            if followed.unwanted {
                self.gcs.report(Report::RemoveGroup(request(*group)));
            }
        }
    }

    pub fn job_notice(&self, notice: v1::JobNotice) {
        if let Some(job) = JobId::from_bytes(&notice.job_id).ok().and_then(|id| self.job_by_id(id)) {
            self.notice(job, notice.text);
        }
    }
}
