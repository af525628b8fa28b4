//! What the first task of a program would have to wait for, done before there is one: a lane to a worker, and a lease of it
//! for the kind of task that most programs begin with. The lease takes nothing from anybody before it is used.

use std::sync::Arc;

use ray_rs_dispatch::{ClassKey, Event, LeaseKey, RequestKey};
use ray_rs_proto::v1;
use ray_rs_types::resources::CPU;
use ray_rs_types::{Quantity, ResourceSet, WorkerAddress};

use crate::functions::Class;
use crate::state::State;

#[derive(Debug, Default)]
pub(crate) struct Ahead {
    request: Option<RequestKey>,
    /// Granted, and not used yet.
    lease: Option<LeaseKey>,
}

impl State {
    /// `first_worker`: the one that the raylet would lease first.
    pub fn prepare_first_task(&mut self, first_worker: Option<&v1::WorkerAddress>, node: &ResourceSet) {
        let Some(first) = first_worker.and_then(|address| WorkerAddress::try_from(address).ok()) else {
            return;
        };
        let first = self.owner_index(&first);
        self.open_lane(first);
        let one = Quantity::from_f64(1.0);
        if node.get(CPU) >= one {
            let class = self.class_like(Class {
                resources: ResourceSet::new().with(CPU, one.to_f64()),
                runtime_env: Arc::from(""),
                strategy: None,
                near: None,
            });
            self.dispatch_event(Event::Expected { class: ClassKey(class) });
        }
    }

    pub fn request_ahead(&mut self, request: RequestKey, class: ClassKey) {
        self.ahead.request = Some(request);
        self.tell_raylet(v1::to_raylet::Body::RequestLease(v1::RequestLease {
            request_id: request.0,
            resources: self.class(class).map(|class| (&class.resources).into()),
            ahead: true,
            ..v1::RequestLease::default()
        }));
    }

    pub fn note_grant(&mut self, request: RequestKey, lease: LeaseKey) {
        if self.ahead.request == Some(request) {
            self.ahead = Ahead {
                request: None,
                lease: Some(lease),
            };
        }
    }

    /// A task goes to the worker of this lease.
    pub fn note_use(&mut self, lease: LeaseKey) {
        if self.ahead.lease == Some(lease) {
            self.ahead.lease = None;
            self.tell_raylet(v1::to_raylet::Body::LeaseBegun(v1::LeaseBegun { lease_id: lease.0 }));
        }
    }
}
