//! Questions to a cluster's control store from a process that is no part of the cluster.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ray_rs_proto::v1;
use ray_rs_proto::v1::gcs_client::GcsClient;
use ray_rs_transport::Token;
use ray_rs_transport::grpc::{self, Address};

/// Whoever has not answered by then does not.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The node that is to leave is asked in between.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// Whether the node only hosts a program from outside of the cluster.
pub fn is_client(node: &v1::NodeInfo) -> bool {
    ray_rs_transport::relay::node_behind(&node.raylet_address).is_some()
}

/// The nodes of the cluster whose control store is at `address` (`host:port`, or the path of its socket), dead ones too.
///
/// # Errors
/// When it cannot be reached, does not take the token, or does not answer within [`ANSWER_LIMIT`].
pub fn list_nodes(address: &str, token_path: &Path) -> anyhow::Result<Vec<v1::NodeInfo>> {
    ask(address, token_path, ANSWER_LIMIT, async |mut gcs| {
        Ok(gcs.list_nodes(v1::Empty {}).await?.into_inner().nodes)
    })
}

/// Asks a node of that cluster to take nothing new, and to leave when what runs there has ended.
///
/// # Errors
/// As for [`list_nodes`], and when the node does not agree.
pub fn drain_node(
    address: &str,
    token_path: &Path,
    request: v1::DrainNodeRequest,
) -> anyhow::Result<v1::DrainNodeReply> {
    ask(address, token_path, DRAIN_LIMIT, async |mut gcs| {
        Ok(gcs.drain_node(request).await?.into_inner())
    })
}

fn ask<Answer>(
    address: &str,
    token_path: &Path,
    limit: Duration,
    question: impl AsyncFnOnce(GcsClient<grpc::Channel>) -> anyhow::Result<Answer>,
) -> anyhow::Result<Answer> {
    let token = Token::read(token_path).with_context(|| format!("no token in {}", token_path.display()))?;
    let place = match address.contains('/') {
        true => Address::Unix(address.into()),
        false => Address::Tcp(address.parse().with_context(|| format!("{address} is no address"))?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asking = async {
        // What was the matter, without who passed it on.
        let root = |error: anyhow::Error| anyhow::anyhow!("{}", error.root_cause());
        let channel = grpc::channel(place, token).await.map_err(|error| root(error.into()))?;
        question(GcsClient::new(channel)).await
    };
    runtime.block_on(async {
        let answered = tokio::time::timeout(limit, asking).await;
        answered.unwrap_or_else(|_| anyhow::bail!("{address} does not answer within {} s", limit.as_secs()))
    })
}
