//! Writes to the Kubernetes API. Each returns the object as the server has it now, and puts it into the store at once.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use tombolo_api::{
    Eni, EniStatus, FINALIZER_ENI, FINALIZER_NRS, LABEL_NODE, NetResourceSet, NetResourceSetSpec,
    PodEndpoint, merge,
};
use tombolo_failpoint::Point;

use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::readiness::{self, Wanted};
use crate::steps;

/// A write (or the read before it) failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}")]
pub struct Error {
    /// What was tried.
    pub operation: &'static str,
    /// With what.
    pub subject: String,
    #[source]
    pub source: Cause,
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("call the API")]
    Api(#[from] kube::Error),
    #[error("encode the object")]
    Encode(#[from] serde_json::Error),
}

impl Error {
    /// The object changed meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.has_code(409)
    }

    fn has_code(&self, code: u16) -> bool {
        matches!(&self.source, Cause::Api(kube::Error::Api(status)) if status.code == code)
    }
}

/// The writer.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    nodes: Api<Node>,
    nrs: Api<NetResourceSet>,
    enis: Api<Eni>,
    objects: Arc<Objects>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub fn new(client: Client, objects: Arc<Objects>, metrics: Arc<Metrics>) -> Self {
        let (nrs, enis) = (Api::all(client.clone()), Api::all(client.clone()));
        Self {
            nodes: Api::all(client.clone()),
            client,
            nrs,
            enis,
            objects,
            metrics,
        }
    }

    fn done<T>(
        &self,
        operation: &'static str,
        subject: &str,
        result: Result<T, Cause>,
    ) -> Result<T, Error> {
        self.metrics.api_write(operation, result.is_ok());
        result.map_err(|source| Error {
            operation,
            subject: subject.to_owned(),
            source,
        })
    }

    /// Makes a NetResourceSet.
    pub async fn create_nrs(&self, nrs: &NetResourceSet) -> Result<(), Error> {
        let name = nrs.name_any();
        let params = PostParams::default();
        let create = self.nrs.create(&params, nrs);
        let result = steps::NRS_CREATE.during(create).await.map_err(Cause::from);
        self.objects
            .nrs
            .put(Arc::new(self.done("create-nrs", &name, result)?));
        Ok(())
    }

    /// Writes the spec of a NetResourceSet, what changed only, into the very version that it was planned for: another
    /// operator, or a write of our own that was thought lost, may have come in between. `confirm`: where nothing is to be
    /// written, that version is still the present one.
    pub async fn write_nrs_spec(
        &self,
        nrs: &NetResourceSet,
        spec: &NetResourceSetSpec,
        confirm: bool,
    ) -> Result<(), Error> {
        let name = nrs.name_any();
        let result = async {
            let change = merge::diff(
                &serde_json::to_value(&nrs.spec)?,
                &serde_json::to_value(spec)?,
            );
            let change = match change {
                Some(change) => change,
                None if confirm => json!({}),
                None => return Ok(None),
            };
            // The UID: never into a successor of the same name.
            let metadata = json!({ "uid": nrs.uid(), "resourceVersion": nrs.resource_version() });
            let patch = json!({ "metadata": metadata, "spec": change });
            let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
            let write = self.nrs.patch(&name, &params, &patch);
            Ok(Some(steps::NRS_SPEC.during(write).await?))
        };
        let result = result.await;
        if let Some(written) = self.done("write-nrs-spec", &name, result)? {
            self.objects.nrs.put(Arc::new(written));
        }
        Ok(())
    }

    /// Reads a NetResourceSet: for those who wrote into a version that is not the present one.
    pub async fn read_nrs(&self, name: &str) -> Result<(), Error> {
        let result = self.nrs.get_opt(name).await.map_err(Cause::from);
        let present = result.map_err(|source| Error {
            operation: "read-nrs",
            subject: name.to_owned(),
            source,
        })?;
        // One that was deleted: the watch tells.
        if let Some(present) = present {
            self.objects.nrs.put(Arc::new(present));
        }
        Ok(())
    }

    /// Writes the whole list of conditions; refused where the object changed meanwhile, since the list has several writers.
    pub async fn write_nrs_conditions(
        &self,
        nrs: &NetResourceSet,
        conditions: &impl Serialize,
    ) -> Result<(), Error> {
        let name = nrs.name_any();
        let metadata = json!({ "uid": nrs.uid(), "resourceVersion": nrs.resource_version() });
        let patch = json!({ "metadata": metadata, "status": { "conditions": conditions } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let write = self.nrs.patch_status(&name, &params, &patch);
        let result = steps::NRS_CONDITIONS.during(write).await;
        let written = self.done("write-nrs-conditions", &name, result.map_err(Cause::from))?;
        self.objects.nrs.put(Arc::new(written));
        Ok(())
    }

    /// Adds our finalizer.
    pub async fn hold_nrs(&self, nrs: &NetResourceSet) -> Result<(), Error> {
        let mut finalizers = nrs.finalizers().to_vec();
        finalizers.push(FINALIZER_NRS.to_owned());
        let name = nrs.name_any();
        let write = self.write_finalizers(&self.nrs, nrs, &finalizers);
        let written = self.done("hold-nrs", &name, steps::NRS_HOLD.during(write).await)?;
        self.objects.nrs.put(Arc::new(written));
        Ok(())
    }

    /// Deletes a NetResourceSet and lets it go.
    pub async fn drop_nrs(&self, nrs: &NetResourceSet) -> Result<(), Error> {
        let points = (&steps::NRS_DELETE, &steps::NRS_LET_GO);
        let result = self
            .drop_object(&self.nrs, nrs, FINALIZER_NRS, points)
            .await;
        self.done("delete-nrs", &nrs.name_any(), result)
    }

    /// Writes what a Node is to say of its network.
    pub async fn write_node(&self, node: &Node, wanted: Wanted) -> Result<(), Error> {
        let name = node.name_any();
        // First, since it is written into the version that was seen.
        if let Some(rest) = wanted.taints {
            let patch = Patch::Merge(readiness::taint_patch(node, &rest));
            let params = PatchParams::default();
            let write = self.nodes.patch(&name, &params, &patch);
            let result = match steps::NODE_TAINT.during(write).await {
                // The watch brings the version in between.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                other => gone(other.map(drop)),
            };
            self.done("remove-start-up-taint", &name, result)?;
        }
        if let Some(mut condition) = wanted.condition {
            let now = json!(Timestamp::now());
            condition["lastHeartbeatTime"] = now.clone();
            condition["lastTransitionTime"] = now;
            // Conditions are merged by type: those of others stay.
            let patch = json!({ "metadata": { "uid": node.uid() }, "status": { "conditions": [condition] } });
            let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
            let write = self.nodes.patch_status(&name, &params, &patch);
            let result = steps::NODE_CONDITION.during(write).await;
            self.done("write-node-condition", &name, gone(result.map(drop)))?;
        }
        Ok(())
    }

    /// Makes an Eni object, or returns the one that is there.
    pub async fn create_eni(&self, eni: &Eni) -> Result<Arc<Eni>, Error> {
        let name = eni.name_any();
        let params = PostParams::default();
        let create = self.enis.create(&params, eni);
        let result = match steps::ENI_CREATE.during(create).await {
            Err(kube::Error::Api(status)) if status.code == 409 => self.enis.get(&name).await,
            other => other,
        };
        let written = Arc::new(self.done("create-eni", &name, result.map_err(Cause::from))?);
        self.objects.enis.put(Arc::clone(&written));
        Ok(written)
    }

    /// Writes the status of an Eni object: all of it is ours.
    pub async fn write_eni_status(&self, eni: &Eni, status: &EniStatus) -> Result<(), Error> {
        let name = eni.name_any();
        let result = async {
            let old = serde_json::to_value(eni.status.clone().unwrap_or_default())?;
            let Some(change) = merge::diff(&old, &serde_json::to_value(status)?) else {
                return Ok(None);
            };
            // A first status is written whole.
            let change = if eni.status.is_some() {
                change
            } else {
                serde_json::to_value(status)?
            };
            let patch = json!({ "metadata": { "uid": eni.uid() }, "status": change });
            let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
            let write = self.enis.patch_status(&name, &params, &patch);
            Ok(Some(steps::ENI_STATUS.during(write).await?))
        };
        let result = result.await;
        if let Some(written) = self.done("write-eni-status", &name, result)? {
            self.objects.enis.put(Arc::new(written));
        }
        Ok(())
    }

    /// Writes the device index that a NIC really got.
    pub async fn write_eni_index(&self, eni: &Eni, index: u16) -> Result<(), Error> {
        let name = eni.name_any();
        let patch = json!({ "metadata": { "uid": eni.uid() }, "spec": { "deviceIndex": index } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let write = self.enis.patch(&name, &params, &patch);
        let result = steps::ENI_INDEX.during(write).await;
        let written = self.done("write-eni-spec", &name, result.map_err(Cause::from))?;
        self.objects.enis.put(Arc::new(written));
        Ok(())
    }

    /// Deletes an Eni object and lets it go.
    pub async fn drop_eni(&self, eni: &Eni) -> Result<(), Error> {
        let points = (&steps::ENI_DELETE, &steps::ENI_LET_GO);
        let result = self
            .drop_object(&self.enis, eni, FINALIZER_ENI, points)
            .await;
        self.done("delete-eni", &eni.name_any(), result)?;
        self.objects.enis.remove(eni);
        Ok(())
    }

    /// Deletes the PodEndpoints of a node that is no more.
    pub async fn drop_endpoints(&self, node: &str) -> Result<(), Error> {
        let resource = ApiResource::erase::<PodEndpoint>(&());
        let result = async {
            // Undecoded: one that cannot be decoded must go as well.
            let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
            let list = all
                .list(&ListParams::default().labels(&format!("{LABEL_NODE}={node}")))
                .await?;
            for pep in list {
                let Some(namespace) = pep.namespace() else {
                    continue;
                };
                let api: Api<DynamicObject> =
                    Api::namespaced_with(self.client.clone(), &namespace, &resource);
                let (name, params) = (pep.name_any(), DeleteParams::default());
                let delete = api.delete(&name, &params);
                gone(steps::ENDPOINT_DELETE.during(delete).await.map(drop))?;
            }
            Ok(())
        };
        let result = result.await;
        self.done("delete-pep", node, result)
    }

    async fn drop_object<K>(
        &self,
        api: &Api<K>,
        object: &K,
        finalizer: &str,
        (deleting, letting_go): (&Point, &Point),
    ) -> Result<(), Cause>
    where
        K: ResourceExt + Clone + serde::de::DeserializeOwned + fmt::Debug,
    {
        let name = object.name_any();
        if object.meta().deletion_timestamp.is_none() {
            let preconditions = kube::api::Preconditions {
                uid: object.uid(),
                resource_version: None,
            };
            let params = DeleteParams {
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            let delete = api.delete(&name, &params);
            gone(deleting.during(delete).await.map(drop))?;
        }
        if object.finalizers().iter().any(|held| held == finalizer) {
            let kept: Vec<String> = object
                .finalizers()
                .iter()
                .filter(|held| *held != finalizer)
                .cloned()
                .collect();
            let write = self.write_finalizers(api, object, &kept);
            gone(
                letting_go
                    .during(write)
                    .await
                    .map(drop)
                    .map_err(|cause| match cause {
                        Cause::Api(error) => error,
                        Cause::Encode(error) => kube::Error::SerdeError(error),
                    }),
            )?;
        }
        Ok(())
    }

    async fn write_finalizers<K>(
        &self,
        api: &Api<K>,
        object: &K,
        finalizers: &[String],
    ) -> Result<K, Cause>
    where
        K: ResourceExt + Clone + serde::de::DeserializeOwned + fmt::Debug,
    {
        let value = if finalizers.is_empty() {
            Value::Null
        } else {
            json!(finalizers)
        };
        let patch = json!({ "metadata": { "uid": object.uid(), "finalizers": value } });
        Ok(api
            .patch(
                &object.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?)
    }
}

/// What is not there any more needs no deletion.
fn gone(result: kube::Result<()>) -> Result<(), Cause> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other?),
    }
}
