//! placeholder
use std::sync::Arc;
use crate::node::Node;
pub async fn start(_node: &Arc<Node>, _node_name: String, _api_server: Option<http::Uri>) -> anyhow::Result<()> { Ok(()) }
