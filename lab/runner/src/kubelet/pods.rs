//! Which pods belong here: the watch, the number that may run, and a worker for each.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Context;
use super::sandbox::port_mappings;
use super::state::PodState;
use super::worker::{Wanted, Worker};

/// Who may run: at most `max` pods that have not come to their end.
#[derive(Debug)]
pub struct Admission {
    max: usize,
    admitted: Mutex<BTreeSet<String>>,
}

/// A place for one pod, free again when dropped.
#[derive(Debug)]
pub struct Place {
    of: Arc<Admission>,
    uid: String,
}

impl Admission {
    fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            max: usize::try_from(max).unwrap_or(usize::MAX),
            admitted: Mutex::default(),
        })
    }

    /// A place, while there is one. A pod of an earlier run (`known`) keeps the one that it has.
    fn admit(self: &Arc<Self>, uid: &str, known: bool) -> Option<Place> {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if admitted.len() >= self.max && !known {
            return None;
        }
        admitted.insert(uid.to_owned());
        Some(Place {
            of: Arc::clone(self),
            uid: uid.to_owned(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of
            .admitted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.uid);
    }
}

/// All workers, by the pod's uid.
#[derive(Debug)]
pub struct Workers {
    context: Arc<Context>,
    admission: Arc<Admission>,
    /// Of an earlier run, not yet seen in the API.
    found: BTreeMap<String, PodState>,
    wanted: BTreeMap<String, watch::Sender<Wanted>>,
    tasks: JoinSet<String>,
}

impl Workers {
    pub fn new(context: Arc<Context>, found: Vec<PodState>) -> Self {
        let admission = Admission::new(context.args.max_pods);
        let found = found
            .into_iter()
            .map(|state| (state.uid.clone(), state))
            .collect();
        Self {
            context,
            admission,
            found,
            wanted: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Follows the node's pods; returns only if the watch ends, which it does not.
    pub async fn watch(&mut self) {
        let api: Api<Pod> = Api::all(self.context.api.clone());
        let ours =
            watcher::Config::default().fields(&format!("spec.nodeName={}", self.context.args.node));
        let mut events = pin!(watcher(api, ours).default_backoff());
        let mut listed = Vec::new();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    None => return,
                    Some(Ok(Event::Init)) => listed.clear(),
                    Some(Ok(Event::InitApply(pod))) => listed.push(pod),
                    Some(Ok(Event::InitDone)) => self.replace(std::mem::take(&mut listed)),
                    Some(Ok(Event::Apply(pod))) => self.apply(pod),
                    Some(Ok(Event::Delete(pod))) => self.gone(pod.metadata.uid.as_deref().unwrap_or_default()),
                    Some(Err(error)) => tracing::warn!(%error, "watch pods"),
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(uid) => drop(self.wanted.remove(&uid)),
                    Err(error) => tracing::error!(%error, "a pod's worker died"),
                },
            }
        }
    }

    /// Waits for the workers to notice that the stand-in ends.
    pub async fn finish(&mut self, bound: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(bound, all).await.is_err() {
            tracing::warn!("some pods are in the middle of something: left to the next run");
        }
    }

    /// The whole truth: what is not in it is gone.
    fn replace(&mut self, mut pods: Vec<Pod>) {
        let listed: BTreeSet<_> = pods
            .iter()
            .filter_map(|pod| pod.metadata.uid.clone())
            .collect();
        // Pods that already run keep their places; the others get theirs in the order in which they came.
        let known = |pod: &Pod| {
            pod.metadata
                .uid
                .as_ref()
                .is_some_and(|uid| self.found.contains_key(uid))
        };
        pods.sort_by_cached_key(|pod| (!known(pod), pod.metadata.creation_timestamp.clone()));
        for pod in pods {
            self.apply(pod);
        }
        let vanished: Vec<_> = self
            .wanted
            .keys()
            .filter(|uid| !listed.contains(*uid))
            .cloned()
            .collect();
        for uid in vanished {
            self.gone(&uid);
        }
        for (uid, state) in std::mem::take(&mut self.found) {
            let place = self.admission.admit(&uid, true);
            self.spawn(
                uid,
                Wanted {
                    pod: None,
                    gone: true,
                },
                state,
                place,
            );
        }
    }

    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        let pod = Arc::new(pod);
        if let Some(wanted) = self.wanted.get(&uid) {
            wanted.send_modify(|wanted| wanted.pod = Some(pod));
            return;
        }
        let found = self.found.remove(&uid);
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let ended = matches!(phase, Some("Succeeded" | "Failed"));
        let known = found.is_some();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let mut state = found.unwrap_or_else(|| {
            let mut new = PodState::new(&uid, namespace, name);
            new.port_mappings = port_mappings(&pod);
            new
        });
        state.finished |= ended;
        let place = if state.finished {
            None
        } else {
            self.admission.admit(&uid, known)
        };
        self.spawn(
            uid,
            Wanted {
                pod: Some(pod),
                gone: false,
            },
            state,
            place,
        );
    }

    fn gone(&mut self, uid: &str) {
        if let Some(wanted) = self.wanted.get(uid) {
            wanted.send_modify(|wanted| wanted.gone = true);
        }
    }

    fn spawn(&mut self, uid: String, wanted: Wanted, state: PodState, place: Option<Place>) {
        let (sender, receiver) = watch::channel(wanted);
        let worker = Worker::new(Arc::clone(&self.context), receiver, state, place);
        self.wanted.insert(uid.clone(), sender);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let admission = Admission::new(2);
        let a = admission.admit("a", false).unwrap();
        let _b = admission.admit("b", false).unwrap();
        assert!(admission.admit("c", false).is_none());
        assert!(
            admission.admit("d", true).is_some(),
            "what already runs stays"
        );
        drop(a);
        assert!(admission.admit("c", false).is_some());
    }
}
