//! The client, and the API resources that we speak of untyped.

use anyhow::Context as _;
use kube::api::ApiResource;
use kube::{Client, Config, Resource};

/// A client for this URL, or for the kubeconfig or the pod's service account. Failed calls are not repeated by the client:
/// every task here decides for itself when to look again.
pub async fn connect(api_server: Option<http::Uri>) -> anyhow::Result<Client> {
    let mut config = match api_server {
        Some(url) => Config::new(url),
        None => Config::infer().await.context("find the API server")?,
    };
    config.default_retry = false;
    tombolo_api::client(config).context("make a client")
}

/// The resource of one of our kinds, for objects that are decoded by ourselves.
pub fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}
