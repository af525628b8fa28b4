//! What a request says of the node to run on, held against this one.
//!
//! The policies choose among all nodes that are known, which is this one. A request whose labels no node has waits as one
//! whose resources no node has: it asks for a resource that stands for the labels, until a node joins.

use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::{Quantity, ResourceSet};

use crate::event::{ClientKey, LeaseRequest, RequestKey};
use crate::policy::{self, Choice, NodeView};
use crate::queue::Wanted;
use crate::scheduler::Scheduler;

/// Begins the name of the resource that stands for labels; no user's resource is called so.
pub(crate) const LABELS: &str = "node labels: ";

impl Scheduler {
    fn view(&self) -> NodeView {
        NodeView {
            node: self.node.0,
            total: self.ledger.total.clone(),
            available: self.ledger.available.clone(),
            labels: self.node.1.clone(),
        }
    }

    /// Whether this node, when it is empty, or the bundles that are here could serve it.
    pub fn could_serve(&self, resources: &ResourceSet) -> bool {
        self.ledger.feasible_in(BundleDemand::of(resources).as_ref(), resources)
    }

    /// Requests that have what they ask for, but no worker yet.
    pub fn await_workers(&self) -> impl Iterator<Item = (ClientKey, RequestKey)> + '_ {
        self.awaiting_workers().filter_map(|waiting| match waiting.item.wanted {
            Wanted::Lease(client, request) => Some((client, request)),
            Wanted::Actor(_) => None,
        })
    }

    /// Whether it could be served now, if there are workers.
    pub fn has_room_for(&self, resources: &ResourceSet) -> bool {
        self.ledger.fits_in(BundleDemand::of(resources).as_ref(), resources)
    }

    /// The resources to wait for.
    ///
    /// # Errors
    /// Why it can never run.
    pub(crate) fn shape_of(&self, request: &LeaseRequest) -> Result<ResourceSet, String> {
        let resources = request.resources.clone();
        let Some(placing) = &request.placing else {
            return Ok(resources);
        };
        if BundleDemand::group_of(&resources).is_some() {
            // The bundles were placed already.
            return Ok(resources);
        }
        let nodes = [self.view()];
        let ask = |demand: &ResourceSet| policy::choose(&nodes, Some(self.node.0), placing, demand, &mut 0);
        match ask(&resources) {
            Choice::Node(_) => Ok(resources),
            Choice::Never(why) => Err(why),
            Choice::Wait(_) => match ask(&ResourceSet::new()) {
                Choice::Node(_) => Ok(resources),
                Choice::Wait(why) | Choice::Never(why) => {
                    let mut shape = resources;
                    shape.set(format!("{LABELS}{why}"), Quantity(1));
                    Ok(shape)
                }
            },
        }
    }

    pub(crate) fn is_removed(&self, shape: &ResourceSet) -> bool {
        BundleDemand::group_of(shape).is_some_and(|group| self.removed_groups.has(group))
    }
}
