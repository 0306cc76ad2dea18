//! Which node a pod is on: asked of the API server once a pod, since a pod never moves.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::time::timeout;

use super::review::Refusal;
use super::rule::{BoundPod, forbidden};

/// Below the time that the API server waits for the verdict.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pods remembered at most; beyond, all are asked for anew.
const KNOWN: usize = 20_000;

/// The agents' pods.
pub struct Pods {
    api: Api<Pod>,
    /// By UID: name and node.
    known: Mutex<HashMap<String, (String, String)>>,
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pods").finish_non_exhaustive()
    }
}

impl Pods {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            known: Mutex::default(),
        }
    }

    /// The pod's node.
    ///
    /// # Errors
    /// 403 where there is no such pod on a node, 503 where that cannot be found out.
    pub async fn node(&self, pod: &BoundPod) -> Result<String, Refusal> {
        if let Some(node) = self.recall(pod) {
            return Ok(node);
        }
        let unknown = |why: &dyn fmt::Display| Refusal {
            code: 503,
            message: format!("the node of pod {} cannot be found out: {why}", pod.name),
        };
        let found = match timeout(PATIENCE, self.api.get_opt(&pod.name)).await {
            Err(_) => return Err(unknown(&"the API server does not answer")),
            Ok(Err(error)) => return Err(unknown(&error)),
            Ok(Ok(found)) => found,
        };
        let found = found.filter(|found| found.metadata.uid.as_deref() == Some(&pod.uid));
        let Some(found) = found else {
            return Err(forbidden(format!(
                "the agent's token is bound to pod {} ({}), which is no more",
                pod.name, pod.uid
            )));
        };
        let node = found.spec.and_then(|spec| spec.node_name);
        let Some(node) = node.filter(|node| !node.is_empty()) else {
            return Err(forbidden(format!("pod {} is on no node", pod.name)));
        };
        self.remember(pod, &node);
        Ok(node)
    }

    fn recall(&self, pod: &BoundPod) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, node) = known.get(&pod.uid)?;
        (*name == pod.name).then(|| node.clone())
    }

    fn remember(&self, pod: &BoundPod, node: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(pod.uid.clone(), (pod.name.clone(), node.to_owned()));
    }
}
