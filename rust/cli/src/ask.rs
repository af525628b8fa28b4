//! Questions to a cluster's control store from a process that is no part of the cluster.

use std::path::Path;

use ray_rs_proto::v1;
use ray_rs_proto::v1::gcs_client::GcsClient;
use ray_rs_transport::Token;
use ray_rs_transport::grpc::{self, Address};

/// The nodes of the cluster whose head is the session in `session_dir`, dead ones too.
///
/// # Errors
/// When the control store does not answer.
pub fn list_nodes(session_dir: &Path) -> anyhow::Result<Vec<v1::NodeInfo>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let token = Token::read(&session_dir.join("token"))?;
        let channel = grpc::channel(Address::Unix(session_dir.join("sockets/gcs")), token).await?;
        let reply = GcsClient::new(channel).list_nodes(v1::Empty {}).await?;
        Ok(reply.into_inner().nodes)
    })
}
