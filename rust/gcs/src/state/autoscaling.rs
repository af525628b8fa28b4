//! What the autoscaler is shown, and what it is asked for.

use std::collections::BTreeMap;

use prost::Message;
use ray_rs_proto::v1;
use ray_rs_scheduler::autoscale::{Group, Node, Ordered, View};
use ray_rs_types::bundles::BundleDemand;
use ray_rs_types::{NodeId, ResourceSet};
use tonic::Status;

use super::{Durable, State};
use crate::autoscaler::provider::{INSTANCE_LABEL, TYPE_LABEL};

/// Where what programs ask for is kept.
const NAMESPACE: &str = "autoscaler";
const REQUESTED: &[u8] = b"requested";

impl State {
    pub fn autoscaler_view(&self) -> View {
        let (nodes, dead): (Vec<_>, Vec<_>) = self.list_nodes().nodes.into_iter().partition(|node| node.alive);
        let instance_of = |mut node: v1::NodeInfo| node.labels.remove(INSTANCE_LABEL);
        let mut demand: BTreeMap<ResourceSet, u32> = BTreeMap::new();
        let waiting = self.nodes.global.demand().into_iter().chain(self.actors_without_node());
        // What is in a bundle waits for its group, which has a place or is listed itself.
        for waits in waiting.filter(|waits| BundleDemand::group_of(&waits.shape).is_none()) {
            *demand.entry(waits.shape).or_default() += waits.waiting;
        }
        let group = |group: ray_rs_scheduler::placement_group::PendingGroup<'_>| Group {
            strategy: group.strategy,
            bundles: group.bundles.into_iter().cloned().collect(),
        };
        View {
            nodes: nodes.into_iter().filter_map(node_of).collect(),
            gone: dead.into_iter().filter_map(instance_of).collect(),
            demand,
            groups: self.groups.pending().map(group).collect(),
            requested: self.requested_resources(),
        }
    }

    fn requested_resources(&self) -> BTreeMap<ResourceSet, u32> {
        let kept = self.kv_get(&v1::KvGetRequest {
            namespace: NAMESPACE.to_owned(),
            key: REQUESTED.to_vec(),
        });
        let request = v1::RequestResourcesRequest::decode(&*kept.value).unwrap_or_default();
        let mut requested: BTreeMap<ResourceSet, u32> = BTreeMap::new();
        for shape in &request.shapes {
            let resources = shape.resources.as_ref().map(ResourceSet::from).unwrap_or_default();
            if shape.count > 0 {
                *requested.entry(resources).or_default() += shape.count;
            }
        }
        requested
    }

    /// Replaces what was asked for before.
    pub fn request_resources(&mut self, request: &v1::RequestResourcesRequest) -> Result<Durable, Status> {
        let (_, durable) = self.kv_put(v1::KvPutRequest {
            namespace: NAMESPACE.to_owned(),
            key: REQUESTED.to_vec(),
            value: request.encode_to_vec(),
            overwrite: true,
        })?;
        Ok(durable)
    }

    pub(super) fn requested_shapes(&self) -> Vec<v1::ShapeCount> {
        let shape = |(resources, count): (ResourceSet, u32)| v1::ShapeCount {
            resources: Some((&resources).into()),
            count,
            ..v1::ShapeCount::default()
        };
        self.requested_resources().into_iter().map(shape).collect()
    }
}

fn node_of(info: v1::NodeInfo) -> Option<Node> {
    let set = |set: &Option<v1::ResourceSet>| set.as_ref().map(ResourceSet::from).unwrap_or_default();
    let instance = info.labels.get(INSTANCE_LABEL);
    Some(Node {
        node: NodeId::from_bytes(&info.node_id).ok()?,
        ordered: instance.map(|instance| Ordered {
            instance: instance.clone(),
            node_type: info.labels.get(TYPE_LABEL).cloned().unwrap_or_default(),
        }),
        total: set(&info.total),
        available: set(&info.available),
        idle_for: info.idle_ms.map(std::time::Duration::from_millis),
        drains: info.drain.is_some(),
    })
}
