//! Reading objects. Each is decoded by itself: one that cannot be is named on standard error, the others are shown.

use anyhow::Context;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// A connection to the cluster of the kubeconfig, or of the pod that we run in.
pub struct Cluster {
    client: Client,
}

impl Cluster {
    /// Finds the cluster: `KUBECONFIG`, `~/.kube/config`, the service account.
    pub async fn connect() -> anyhow::Result<Self> {
        let config = kube::Config::infer()
            .await
            .context("find a cluster: KUBECONFIG, ~/.kube/config or a service account")?;
        let client =
            tombolo_api::client(config).context("prepare the connection to the cluster")?;
        Ok(Self { client })
    }

    /// All objects of a kind that can be decoded, by name.
    pub async fn all<K>(&self) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let plural = K::plural(&());
        let api: Api<DynamicObject> =
            Api::all_with(self.client.clone(), &ApiResource::erase::<K>(&()));
        let list = api
            .list(&ListParams::default())
            .await
            .with_context(|| format!("list {plural}"))?;
        let mut objects = Vec::new();
        for object in list {
            let name = object.name_any();
            match decode::<K>(object) {
                Ok(object) => objects.push(object),
                Err(error) => eprintln!("tombolo: {plural}/{name} cannot be decoded: {error:#}"),
            }
        }
        objects.sort_by_key(|object| (object.namespace(), object.name_any()));
        Ok(objects)
    }

    /// One object of cluster scope.
    pub async fn one<K>(&self, name: &str) -> anyhow::Result<Option<K>>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let plural = K::plural(&());
        let api: Api<DynamicObject> =
            Api::all_with(self.client.clone(), &ApiResource::erase::<K>(&()));
        let found = api
            .get_opt(name)
            .await
            .with_context(|| format!("get {plural}/{name}"))?;
        found
            .map(decode)
            .transpose()
            .with_context(|| format!("decode {plural}/{name}"))
    }
}

/// Decodes one object; the error names the field.
fn decode<K: DeserializeOwned>(object: DynamicObject) -> anyhow::Result<K> {
    let value = serde_json::to_value(object).context("read the object as JSON")?;
    Ok(serde_path_to_error::deserialize(value)?)
}
