//! Replicas of the global scheduler: each hears what nodes say of themselves, as the one in here does.

use ray_rs_proto::v1::{self, node_news::Body};
use ray_rs_scheduler::bottom_up::NodeReport;
use ray_rs_scheduler::bottom_up::heartbeat::Encoder;
use ray_rs_types::NodeId;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tonic::Status;

use crate::convert;

/// News that may wait for a replica to read them. One that lags further is cut off, and begins anew.
const MAX_WAITING_NEWS: usize = 1 << 16;

/// What goes down a replica's stream.
pub type NodeNewsStream = Receiver<Result<v1::NodeNews, Status>>;

#[derive(Debug, Default)]
pub(super) struct Followers {
    followers: Vec<Follower>,
    /// Given out so far.
    numbers: u64,
}

#[derive(Debug)]
struct Follower {
    number: u64,
    address: String,
    news: Sender<Result<v1::NodeNews, Status>>,
    encoders: FxHashMap<NodeId, Encoder>,
}

impl Followers {
    /// It is told of all nodes that there are, at once.
    pub fn add<'a>(
        &mut self,
        address: String,
        nodes: impl Iterator<Item = (NodeId, &'a NodeReport)>,
    ) -> (u64, NodeNewsStream) {
        let (news, stream) = channel(MAX_WAITING_NEWS);
        self.numbers += 1;
        let mut follower = Follower {
            number: self.numbers,
            address,
            news,
            encoders: FxHashMap::default(),
        };
        for (node, report) in nodes {
            follower.node_changed(node, report);
        }
        follower.tell(NodeId::NIL, Body::Complete(v1::Empty {}));
        self.followers.push(follower);
        (self.numbers, stream)
    }

    /// Whether it was there.
    pub fn remove(&mut self, number: u64) -> bool {
        let before = self.followers.len();
        self.followers.retain(|follower| follower.number != number);
        self.followers.len() != before
    }

    pub fn addresses(&self) -> Vec<String> {
        let mut addresses: Vec<String> = self.followers.iter().map(|follower| follower.address.clone()).collect();
        addresses.sort();
        addresses
    }

    pub fn node_changed(&mut self, node: NodeId, report: &NodeReport) {
        self.followers
            .retain_mut(|follower| follower.node_changed(node, report));
    }

    pub fn node_gone(&mut self, node: NodeId) {
        self.followers.retain_mut(|follower| {
            follower.encoders.remove(&node);
            follower.tell(node, Body::Gone(v1::Empty {}))
        });
    }
}

impl Follower {
    fn node_changed(&mut self, node: NodeId, report: &NodeReport) -> bool {
        let encoder = self.encoders.entry(node).or_insert_with(|| Encoder::new(0));
        let beat = encoder.next(report);
        if beat.is_empty() {
            return true;
        }
        let labels = beat.labels.clone().unwrap_or_default().into_iter().collect();
        self.send(v1::NodeNews {
            node_id: node.0.to_vec(),
            body: Some(Body::Heartbeat(convert::wire_heartbeat(beat))),
            labels,
        })
    }

    fn tell(&self, node: NodeId, body: Body) -> bool {
        self.send(v1::NodeNews {
            node_id: node.0.to_vec(),
            body: Some(body),
            ..v1::NodeNews::default()
        })
    }

    /// False: it does not read, or has gone.
    fn send(&self, news: v1::NodeNews) -> bool {
        self.news.try_send(Ok(news)).is_ok()
    }
}
