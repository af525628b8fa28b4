//! What the raylet answers to requests for leases.

use ray_rs_dispatch::{Event, LeaseKey};
use ray_rs_ownership::TaskKey;
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::WorkerAddress;

use crate::model::{Failure, StoredValue};
use crate::state::State;
use crate::submit::Lease;

impl State {
    pub fn lease_granted(&mut self, granted: v1::LeaseGranted) {
        let lease = LeaseKey(granted.lease_id);
        let request = ray_rs_dispatch::RequestKey(granted.request_id);
        let worker = granted
            .worker
            .as_ref()
            .and_then(|worker| WorkerAddress::try_from(worker).ok());
        let lane = worker.and_then(|worker| {
            let who = self.owner_index(&worker);
            self.open_lane(who)
        });
        let Some(lane) = lane else {
            self.return_lease(lease, true);
            let now = self.now();
            self.dispatch
                .on_event(now, Event::LeaseRejected { request }, &mut self.dispatch_effects);
            return self.run_effects();
        };
        self.leases.insert(lease, Lease { lane });
        self.note_grant(request, lease);
        self.peers.get_mut(lane).expect("just opened").lease = Some(lease);
        let context = v1::LeaseContext {
            lease_id: lease.0,
            resources: self.class(request.class()).map(|class| (&class.resources).into()),
            gpu_ids: granted.gpu_ids,
        };
        self.send_on(lane, Kind::LeaseContext, &context, 0);
        let now = self.now();
        self.dispatch
            .on_event(now, Event::LeaseGranted { request, lease }, &mut self.dispatch_effects);
        self.run_effects();
    }

    /// Unless it may be asked again, the tasks that wait for such a lease fail.
    pub fn lease_rejected(&mut self, rejected: v1::LeaseRejected) {
        let request = ray_rs_dispatch::RequestKey(rejected.request_id);
        let message = rejected.reason;
        self.refusal = match rejected.cause {
            0 => return self.dispatch_event(Event::LeaseRejected { request }),
            2 => Some(Failure::EnvironmentFailed { message }),
            3 => Some(Failure::Unschedulable { message }),
            4 => Some(Failure::GroupRemoved),
            _ => Some(Failure::System { message }),
        };
        self.dispatch_event(Event::LeaseRefused { request });
        self.refusal = None;
    }

    pub(crate) fn refused(&mut self, key: TaskKey) {
        if self.is_given_up(key) {
            return self.end_cancelled(key);
        }
        let why = self.refusal.clone().unwrap_or_else(|| Failure::System {
            message: "no worker process is given to this task".to_owned(),
        });
        self.finish_with(key, &StoredValue::failed(why));
    }
}
