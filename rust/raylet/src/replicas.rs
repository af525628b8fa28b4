//! Replicas of the global scheduler, as a raylet asks them: one for as long as it answers, then the next, and at last the
//! control store, which has a global scheduler of its own and alone knows placement groups.
//!
//! It is always the same one that a raylet asks first, since what it says of nodes' views has a meaning only there; other
//! raylets ask others.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use prost::Message;
use ray_rs_proto::v1;
use ray_rs_transport::Token;
use ray_rs_transport::grpc::{self, Address, RawClient};
use ray_rs_types::NodeId;

use crate::gcs_link::GcsLink;

/// Clones share what is known.
#[derive(Debug, Clone)]
pub(crate) struct Replicas {
    token_path: PathBuf,
    /// Where this raylet begins.
    turn: usize,
    known: Arc<Mutex<Vec<Replica>>>,
}

#[derive(Debug, Clone)]
struct Replica {
    address: String,
    client: Option<RawClient>,
}

impl Replicas {
    pub fn new(token_path: PathBuf, node: NodeId) -> Self {
        Self {
            token_path,
            turn: node.0.iter().map(|byte| usize::from(*byte)).sum(),
            known: Arc::default(),
        }
    }

    /// All that can be reached from here now.
    pub fn set(&self, addresses: Vec<String>) {
        let mut known = self.known();
        let before = std::mem::take(&mut *known);
        *known = addresses
            .into_iter()
            .map(|address| {
                let client = before.iter().find(|replica| replica.address == address);
                let client = client.and_then(|replica| replica.client.clone());
                Replica { address, client }
            })
            .collect();
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Vec<Replica>> {
        self.known.lock().expect("no code here panics with the lock held")
    }

    /// The addresses, in the order in which this raylet asks.
    fn order(&self) -> Vec<Replica> {
        let mut order = self.known().clone();
        if !order.is_empty() {
            let first = self.turn % order.len();
            order.rotate_left(first);
        }
        order
    }

    /// A node for a request.
    pub async fn pick_node(
        &self,
        gcs: &GcsLink,
        request: v1::PickNodeRequest,
        is_in_group: bool,
    ) -> Result<v1::PickNodeReply, String> {
        if !is_in_group {
            for replica in self.order() {
                match self.ask(&replica, &request).await {
                    Ok(reply) => return Ok(reply),
                    Err(error) => {
                        tracing::debug!(address = replica.address, error, "a replica does not answer");
                        self.forget(&replica.address);
                    }
                }
            }
        }
        gcs.ask_until_answered("PickNode", request).await
    }

    async fn ask(&self, replica: &Replica, request: &v1::PickNodeRequest) -> Result<v1::PickNodeReply, String> {
        let client = match &replica.client {
            Some(client) => client.clone(),
            None => self.connect(&replica.address).await?,
        };
        let reply = client.call("PickNode", request.encode_to_vec().into()).await;
        let reply = reply.map_err(|status| status.to_string())?;
        v1::PickNodeReply::decode(reply).map_err(|error| error.to_string())
    }

    async fn connect(&self, address: &str) -> Result<RawClient, String> {
        let token = Token::read(&self.token_path).map_err(|error| error.to_string())?;
        let at = address.parse().map_err(|_| format!("{address:?} is no address"))?;
        let channel = grpc::channel(Address::Tcp(at), token)
            .await
            .map_err(|error| error.to_string())?;
        let client = RawClient::scheduler(channel);
        if let Some(replica) = self.known().iter_mut().find(|replica| replica.address == address) {
            replica.client = Some(client.clone());
        }
        Ok(client)
    }

    /// Until the control store names it again.
    fn forget(&self, address: &str) {
        self.known().retain(|replica| replica.address != address);
    }
}
