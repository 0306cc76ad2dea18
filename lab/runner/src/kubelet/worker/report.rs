//! What a worker tells the API of its pod, and the end of the pod's object.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::time::Instant;

use super::{REPORT_AGAIN, Worker};
use crate::kubelet::status::{self, Verdict, View};

impl Worker {
    pub(super) fn host_ips(&self) -> Vec<String> {
        self.context
            .args
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    pub(super) fn status(&self, pod: &Pod, verdict: Option<Verdict>) -> PodStatus {
        let waiting: Vec<_> = self.live.iter().map(|live| live.waiting.clone()).collect();
        let (host_ips, problem) = (self.host_ips(), self.problem.as_deref());
        // The latest object, for the conditions that others keep there.
        let latest = self.pod();
        let pod = latest.as_deref().unwrap_or(pod);
        let view = View {
            pod,
            state: &self.state,
            waiting: &waiting,
            host_ips: &host_ips,
            verdict,
            problem,
        };
        status::of(&view, Timestamp::now())
    }

    /// Writes the status where it changed; a failure is made up for later.
    pub(super) async fn report(&mut self, pod: &Pod, verdict: Option<Verdict>) {
        let status = self.status(pod, verdict);
        if self
            .reported
            .as_ref()
            .is_some_and(|reported| same(reported, &status))
        {
            self.report_at = None;
            return;
        }
        let written = self.write(&status).await;
        self.report_at = (!written).then(|| Instant::now() + REPORT_AGAIN);
    }

    /// Whether the status is written, or need not be any more.
    pub(super) async fn write(&mut self, status: &PodStatus) -> bool {
        let api: Api<Pod> = Api::namespaced(self.context.api.clone(), &self.state.namespace);
        // The uid keeps it from a later pod of the same name.
        let patch =
            Patch::Merge(json!({ "metadata": { "uid": self.state.uid }, "status": status }));
        match api
            .patch_status(&self.state.name, &PatchParams::default(), &patch)
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409 | 422) => {
                tracing::info!(
                    pod = self.state.name,
                    code = answer.code,
                    "status not written: {}",
                    answer.message
                );
            }
            Err(error) => {
                tracing::warn!(pod = self.state.name, %error, "status not written");
                return false;
            }
        }
        self.reported = Some(status.clone());
        true
    }

    pub(super) async fn delete_object(&mut self) -> Result<()> {
        if self.wanted.borrow().gone {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.context.api.clone(), &self.state.namespace);
        let uid = Some(self.state.uid.clone());
        let preconditions = Some(Preconditions {
            uid,
            resource_version: None,
        });
        let options = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions,
            ..DeleteParams::default()
        };
        match api.delete(&self.state.name, &options).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
            Err(error) => Err(error).with_context(|| {
                format!("delete pod {}/{}", self.state.namespace, self.state.name)
            }),
        }
    }
}

/// Whether two statuses say the same; when a condition changed is decided anew each time and does not count.
fn same(a: &PodStatus, b: &PodStatus) -> bool {
    let without_times = |status: &PodStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_transition_time = None;
        }
        status
    };
    without_times(a) == without_times(b)
}
