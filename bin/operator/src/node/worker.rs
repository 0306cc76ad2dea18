//! The task of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use tokio::sync::{Notify, watch};
use tombolo_api::{Eni, FINALIZER_NRS, LABEL_NODE, NetResourceSet};
use tombolo_cloud_sim::wire::InstanceState;
use tombolo_core::eni::{Action, Backoff, Call, Failure, Input, Planner, ProviderId, Term};
use tombolo_core::types::{Millis, NicLimits, Reason};

use super::execute::{self, Given, Target, execute};
use super::ledger::{self, Entry};
use super::problems::{Problems, Source};
use super::reclaim::{self, Reclaimed, reclaim};
use super::spec;
use super::view::{self, CloudView};
use crate::api;
use crate::clock;
use crate::inventory::Snapshot;
use crate::profile::{self, Chosen};
use crate::readiness;
use crate::shared::Shared;

/// Wait before a look at things that tell nobody when they change.
const LOOK_AGAIN: Millis = Millis(5000);

/// One node's task.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    node: String,
    planner: Planner,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// NICs whose detachment is under way: already out of the spec. By Eni name: NIC id.
    leaving: BTreeMap<String, String>,
    problems: Problems,
    /// Why the cloud as a whole cannot be read, as far as it was told.
    unreachable: Option<Reason>,
    /// The last failure of a NIC's calls, by Eni name.
    messages: BTreeMap<String, String>,
    /// Failures in a row of writes to the Kubernetes API.
    retry: Backoff,
}

type Ended = (Call, Result<Given, Failure>);

/// When to look again, apart from wake-ups.
enum Next {
    /// At this time.
    At(Option<Millis>),
    /// Never: there is nothing left of this node.
    Gone,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, node: &str) -> Self {
        Self {
            planner: Planner::new(node, shared.config.planner),
            problems: Problems::new(node, shared.events.clone(), Arc::clone(&shared.metrics)),
            node: node.to_owned(),
            shared,
            calls: FuturesUnordered::new(),
            leaving: BTreeMap::new(),
            unreachable: None,
            messages: BTreeMap::new(),
            retry: Backoff::default(),
        }
    }

    /// Runs until the node is gone for good or until shutdown; calls under way at shutdown are taken in.
    pub async fn run(mut self, notify: Arc<Notify>, mut shutdown: watch::Receiver<bool>) {
        loop {
            let next = match self.step().await {
                Ok(Next::Gone) => return,
                Ok(Next::At(time)) => {
                    self.retry = Backoff::default();
                    time
                }
                Err(error) => {
                    let failure = error.failure();
                    tracing::warn!(node = %self.node, error = %failure.message, "looking after the node failed");
                    self.retry.fail(
                        clock::now(),
                        &self.shared.config.planner.backoff,
                        failure.spread,
                    );
                    Some(self.retry.until())
                }
            };
            let timer = async {
                match next {
                    Some(time) => tokio::time::sleep(clock::until(time)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = notify.notified() => {}
                Some(ended) = self.calls.next() => self.take_in(ended),
                () = timer => {}
                _ = shutdown.wait_for(|stop| *stop) => break,
            }
            // What ended at the same time goes into the same plan.
            while let Some(Some(ended)) = futures::FutureExt::now_or_never(self.calls.next()) {
                self.take_in(ended);
            }
        }
        while let Some(ended) = self.calls.next().await {
            self.take_in(ended);
        }
    }

    fn take_in(&mut self, (call, outcome): Ended) {
        let eni = match &call {
            Call::Create { eni }
            | Call::Attach { eni }
            | Call::Assign { eni, .. }
            | Call::Unassign { eni }
            | Call::Detach { eni }
            | Call::Delete { eni } => eni.clone(),
        };
        if matches!(call, Call::Detach { .. }) {
            self.leaving.remove(&eni);
        }
        match &outcome {
            Ok(given) => {
                self.messages.remove(&eni);
                if !given.is_empty() {
                    self.planner
                        .handle(clock::now(), Input::Given(given.clone()));
                }
            }
            Err(failure) => {
                tracing::info!(node = %self.node, ?call, reason = %failure.reason, error = %failure.message, "call failed");
                self.messages
                    .insert(eni, format!("{}: {}", failure.reason, failure.message));
            }
        }
        let planned = self
            .planner
            .handle(clock::now(), Input::Finished(call, outcome.map(drop)));
        debug_assert!(
            planned.is_empty(),
            "nothing is planned before the next observation"
        );
    }

    async fn step(&mut self) -> Result<Next, execute::Error> {
        let shared = Arc::clone(&self.shared);
        if shared.objects.nrs.is_undecodable(&self.node) {
            // Told where it was found. Nothing may be decided on an older version.
            return Ok(Next::At(None));
        }
        let node = shared.objects.nodes.get(&self.node);
        let nrs = shared.objects.nrs.get(&self.node);
        if !shared.inventory.swept() {
            return Ok(Next::At(None));
        }
        self.note_reachability();
        let told = match &node {
            Some(node) => self.tell_node(node, nrs.as_deref()).await,
            None => Ok(()),
        };
        let next = match (node, nrs) {
            (None, None) => self.remains().await,
            (Some(node), None) => self.join(&node).await,
            (node, Some(nrs)) => self.tend(node.as_deref(), nrs).await,
        };
        // What cannot be told keeps nothing from being done.
        told?;
        next
    }

    fn note_reachability(&mut self) {
        let now = self.shared.inventory.unreachable();
        if let Some(before) = self
            .unreachable
            .take_if(|before| now.as_ref().is_none_or(|(reason, _)| reason != before))
        {
            self.problems.end(Source::Readings, before);
        }
        if let Some((reason, message)) = now {
            self.problems.begin(Source::Readings, reason, message);
            self.unreachable = Some(reason);
        }
    }

    /// The Node's condition and taint, from what the agent says. Not of nodes of other clouds: no agent of ours is there.
    async fn tell_node(
        &mut self,
        node: &Node,
        nrs: Option<&NetResourceSet>,
    ) -> Result<(), api::Error> {
        let shared = &self.shared;
        let outdone = nrs.is_some_and(|nrs| shared.leadership.is_over(Term(nrs.spec.term)));
        if outdone || (nrs.is_none() && self.provider_id(node).is_none()) {
            return Ok(());
        }
        shared
            .writer
            .write_node(node, readiness::wanted(node, nrs))
            .await
    }

    /// Neither Node nor NetResourceSet: Eni objects may be left where the latter was removed by force.
    async fn remains(&mut self) -> Result<Next, execute::Error> {
        let mut left = false;
        let mut instances: BTreeSet<String> = BTreeSet::new();
        instances.extend(
            self.shared
                .objects
                .enis_of(&self.node)
                .iter()
                .map(|eni| eni.spec.instance_id.clone()),
        );
        for instance in instances {
            let gone = self.is_gone(&instance, true);
            left |=
                !gone || reclaim(&self.shared, &self.node, &instance).await? == Reclaimed::Waiting;
        }
        Ok(if left {
            Next::At(Some(clock::now() + LOOK_AGAIN))
        } else {
            Next::Gone
        })
    }

    /// A Node that has no NetResourceSet yet.
    async fn join(&mut self, node: &Node) -> Result<Next, execute::Error> {
        let Some(id) = self.provider_id(node) else {
            return Ok(Next::At(None));
        };
        let shared = Arc::clone(&self.shared);
        let cluster = &shared.config.cluster;
        let cloud = shared
            .inventory
            .read(|snapshot| CloudView::of(snapshot, cluster, &self.node, &id.instance));
        let Some(cloud) = cloud else {
            tracing::debug!(node = %self.node, instance = %id.instance, "the cloud does not list the instance yet");
            shared.inventory.want_sweep();
            return Ok(Next::At(Some(clock::now() + LOOK_AGAIN)));
        };
        shared.wakers.set_instance(&self.node, &id.instance);
        if cloud.instance.state == InstanceState::Terminated {
            return Ok(Next::At(None));
        }
        let Some(limits) = self.limits(&cloud) else {
            return Ok(Next::At(None));
        };
        let Some(chosen) = self.choose(Some(node), None) else {
            return Ok(Next::At(None));
        };
        let (none, no_nics) = (BTreeSet::new(), BTreeSet::new());
        let own = shared.leadership.term;
        let spec = spec::desired(&cloud, limits, &chosen, &none, &none, &no_nics, own);
        let mut nrs = NetResourceSet::new(&self.node, spec);
        nrs.metadata.labels = Some(BTreeMap::from([(LABEL_NODE.to_owned(), self.node.clone())]));
        nrs.metadata.finalizers = Some(vec![FINALIZER_NRS.to_owned()]);
        shared.writer.create_nrs(&nrs).await?;
        tracing::info!(node = %self.node, instance = %id.instance, "made the NetResourceSet");
        Ok(Next::At(Some(clock::now())))
    }

    /// The usual case.
    async fn tend(
        &mut self,
        node: Option<&Node>,
        nrs: Arc<NetResourceSet>,
    ) -> Result<Next, execute::Error> {
        let shared = Arc::clone(&self.shared);
        let (own, signed) = (shared.leadership.term, Term(nrs.spec.term));
        if shared.leadership.is_over(signed) {
            return Ok(Next::At(None));
        }
        let instance = nrs.spec.instance_id.clone();
        if self.is_gone(&instance, node.is_none()) {
            return match reclaim(&shared, &self.node, &instance).await {
                Ok(Reclaimed::Done) => {
                    self.planner = Planner::new(&self.node, shared.config.planner);
                    Ok(Next::At(Some(clock::now())))
                }
                Ok(Reclaimed::Waiting) => Ok(Next::At(Some(clock::now() + LOOK_AGAIN))),
                Err(error) => {
                    tracing::warn!(node = %self.node, reason = %reclaim::reason(&error), "reclaiming failed");
                    Err(error)
                }
            };
        }
        let other = self.other_instance(node, &instance);
        if nrs.metadata.deletion_timestamp.is_none()
            && !nrs.finalizers().iter().any(|f| f == FINALIZER_NRS)
        {
            shared.writer.hold_nrs(&nrs).await?;
            // What is written below must be written into this very version.
            return Ok(Next::At(Some(clock::now())));
        }
        let cluster = &shared.config.cluster;
        let cloud = shared
            .inventory
            .read(|snapshot| CloudView::of(snapshot, cluster, &self.node, &instance));
        // An instance that is not listed: nothing is known, so nothing is changed.
        let Some(shown) = cloud else {
            self.problems
                .set(Source::Worker, Reason::ForeignConflict, other);
            return Ok(Next::At(None));
        };
        let (withheld, user) = self.used_elsewhere(&shown);
        let mut cloud = shown.clone();
        cloud.withhold(&withheld);
        self.problems
            .set(Source::Worker, Reason::ForeignConflict, other.or(user));
        shared.wakers.set_instance(&self.node, &instance);
        // One reading that shows less than was known before we began proves nothing; the next one wakes us.
        if !shared.inventory.settled() && view::shows_less(&cloud, &nrs) {
            tracing::info!(node = %self.node, "the first reading of the cloud shows less than the NetResourceSet: waiting for a second");
            return Ok(Next::At(None));
        }
        let Some(limits) = self.limits(&cloud) else {
            return Ok(Next::At(None));
        };
        let Some(chosen) = self.choose(node, Some(&nrs)) else {
            return Ok(Next::At(None));
        };
        let enis = shared.objects.enis_of(&self.node);
        let observation = view::observe(&cloud, limits, &nrs, &enis, &chosen, own);
        let mut release = observation.marked.clone();
        let actions = self
            .planner
            .handle(clock::now(), Input::Observed(observation));
        let mut calls = Vec::new();
        for action in actions {
            self.note(&mut release, &mut calls, action);
        }
        let leaving: BTreeSet<String> = self.leaving.values().cloned().collect();
        let taking = self.planner.taking();
        let must_write = |action: &Action| own.must_write_before(action, signed);
        let confirm = calls.iter().any(must_write);
        let mut wanted =
            spec::desired(&cloud, limits, &chosen, &release, &taking, &leaving, signed);
        let writes = confirm || wanted != nrs.spec;
        wanted.term = own.sign(signed, writes, !taking.is_empty()).0;
        let target = Target {
            node: self.node.clone(),
            instance,
            security_groups: match (chosen.security_groups.is_empty(), cloud.primary()) {
                (true, Some(primary)) => primary.info.security_groups.clone(),
                _ => chosen.security_groups.clone(),
            },
        };
        let written = shared.writer.write_nrs_spec(&nrs, &wanted, confirm).await;
        for action in calls {
            // A NIC leaves the spec before it leaves the node; an address that is taken is in the spec before; and before
            // any call of ours no earlier leader can write any more.
            if written.is_err() && must_write(&action) {
                self.put_off(&action);
            } else {
                self.begin(&target, action);
            }
        }
        match written {
            // Somebody else wrote meanwhile, in most cases the agent its status: that version is looked at, now. The watch
            // would bring it later, and busy agents write often.
            Err(error) if error.is_conflict() => {
                shared.writer.read_nrs(&self.node).await?;
                return Ok(Next::At(Some(clock::now())));
            }
            other => other?,
        }
        self.keep_ledger(&shown, &enis).await?;
        self.keep_conditions().await?;
        let next = self.planner.next_deadline(clock::now());
        // Nobody tells us when the other node is done with them.
        let look = (!withheld.is_empty()).then(|| clock::now() + LOOK_AGAIN);
        Ok(Next::At(next.into_iter().chain(look).min()))
    }

    fn note(&mut self, release: &mut BTreeSet<IpAddr>, calls: &mut Vec<Action>, action: Action) {
        let labels = crate::metrics::ActionLabels {
            action: action.word(),
        };
        self.shared.metrics.actions.get_or_create(&labels).inc();
        action.change_marks(release);
        match action {
            Action::MarkRelease(addresses) => {
                tracing::info!(node = %self.node, count = addresses.len(), "asking for addresses back");
            }
            Action::Unmark(_) => {}
            Action::Report(problem) => {
                let message = problem.to_string();
                self.problems
                    .begin(Source::Planner, problem.reason, message);
            }
            Action::ClearReport(reason) => self.problems.end(Source::Planner, reason),
            call => {
                if let Action::DetachNic { eni, nic } = &call {
                    self.leaving.insert(eni.clone(), nic.0.clone());
                }
                calls.push(call);
            }
        }
    }

    /// A call that the object does not tell of is not made.
    fn put_off(&mut self, action: &Action) {
        if let Action::DetachNic { eni, .. } = action {
            self.leaving.remove(eni);
        }
        if let Some(call) = action.call() {
            self.planner.handle(clock::now(), Input::NotMade(call));
        }
    }

    fn begin(&mut self, target: &Target, action: Action) {
        let Some(call) = action.call() else { return };
        tracing::info!(node = %self.node, ?action, "call");
        let (shared, target) = (Arc::clone(&self.shared), target.clone());
        self.calls.push(Box::pin(async move {
            let outcome = execute(&shared, &target, action).await;
            (call, outcome.map_err(|error| error.failure()))
        }));
    }

    async fn keep_ledger(
        &mut self,
        cloud: &CloudView,
        enis: &[Arc<Eni>],
    ) -> Result<(), api::Error> {
        let entries = ledger::entries(&self.node, cloud, enis, &self.messages);
        for entry in entries {
            let writer = &self.shared.writer;
            match entry {
                Entry::Create(eni) => {
                    if !self.shared.objects.enis.is_undecodable(&eni.name_any()) {
                        writer.create_eni(&eni).await?;
                    }
                }
                Entry::Status(eni, status) => writer.write_eni_status(&eni, &status).await?,
                Entry::Index(eni, index) => writer.write_eni_index(&eni, index).await?,
                Entry::Drop(eni) => writer.drop_eni(&eni).await?,
            }
        }
        Ok(())
    }

    async fn keep_conditions(&mut self) -> Result<(), api::Error> {
        // The version of just now: the spec may have been written a moment ago.
        let Some(nrs) = self.shared.objects.nrs.get(&self.node) else {
            return Ok(());
        };
        let present = nrs
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        let Some(conditions) = self.problems.conditions(present) else {
            return Ok(());
        };
        match self
            .shared
            .writer
            .write_nrs_conditions(&nrs, &conditions)
            .await
        {
            // The agent wrote meanwhile; its version wakes us.
            Err(error) if error.is_conflict() => Ok(()),
            other => other,
        }
    }

    fn provider_id(&self, node: &Node) -> Option<ProviderId> {
        let text = node.spec.as_ref()?.provider_id.as_deref()?;
        match text.parse::<ProviderId>() {
            Ok(id) if id.cloud == self.shared.config.cloud.word() => Some(id),
            Ok(id) => {
                tracing::debug!(node = %self.node, cloud = %id.cloud, "a node of another cloud");
                None
            }
            Err(error) => {
                tracing::warn!(node = %self.node, %error, "cannot tell the node's instance");
                None
            }
        }
    }

    fn limits(&mut self, cloud: &CloudView) -> Option<NicLimits> {
        let kind = &cloud.instance.instance_type;
        let message = cloud
            .limits
            .is_none()
            .then(|| format!("the cloud does not know instance type {kind:?}"));
        self.problems
            .set(Source::Worker, Reason::UnknownInstanceType, message);
        cloud.limits
    }

    fn choose(&mut self, node: Option<&Node>, nrs: Option<&NetResourceSet>) -> Option<Chosen> {
        let profiles = self.shared.objects.profiles.list();
        let kept = || {
            let nrs = nrs?;
            let resolved = &nrs.spec.profile;
            let profile = profiles
                .iter()
                .find(|profile| profile.name_any() == resolved.name);
            Some(profile::keep(resolved, profile.map(AsRef::as_ref)))
        };
        let Some(node) = node else { return kept() };
        match profile::choose(profiles.iter().map(AsRef::as_ref), node.labels()) {
            Ok(chosen) => {
                self.problems.end(Source::Worker, Reason::InvalidProfile);
                Some(chosen)
            }
            Err(error) => {
                self.problems
                    .begin(Source::Worker, Reason::InvalidProfile, error.to_string());
                kept()
            }
        }
    }

    /// Whether the instance is gone for good: two readings said that it was terminated; or the cloud has not listed it for
    /// a long time and Kubernetes does not know the node either.
    fn is_gone(&self, instance: &str, node_gone: bool) -> bool {
        let (swept, grace) = (
            self.shared.inventory.swept(),
            self.shared.config.absent_grace,
        );
        self.shared
            .inventory
            .read(|snapshot| match snapshot.instances.get(instance) {
                Some(record) => {
                    let absent = record
                        .absent_since()
                        .is_some_and(|since| clock::now() - since >= grace);
                    record.is_terminated() || (node_gone && absent)
                }
                // Never listed since we began: as good as absent, but since when is not known.
                None => {
                    swept
                        && node_gone
                        && snapshot
                            .started
                            .is_some_and(|start| clock::now() - start >= grace)
                }
            })
    }

    /// Addresses that came to this node's NICs from another instance's and may still be used there, and by whom.
    fn used_elsewhere(&self, cloud: &CloudView) -> (BTreeSet<IpAddr>, Option<String>) {
        let shared = &self.shared;
        let mut withheld = BTreeSet::new();
        let mut user = None;
        if !shared.inventory.read(Snapshot::has_moved) {
            return (withheld, user);
        }
        for ip in cloud.nics.iter().flat_map(|nic| &nic.info.secondary) {
            let from = shared
                .inventory
                .read(|snapshot| snapshot.moved_from(*ip).map(str::to_owned));
            let Some(from) = from.filter(|from| *from != cloud.instance.id) else {
                continue;
            };
            let had = shared
                .objects
                .nrs
                .select(|nrs| nrs.spec.instance_id == from);
            if let Some(nrs) = had.iter().find(|nrs| view::may_use(nrs, *ip)) {
                let node = nrs.name_any();
                user.get_or_insert(format!(
                    "{ip} came to this node's NIC while node {node} may still use it: it is given to no pod before that ends"
                ));
                withheld.insert(*ip);
            } else {
                shared.inventory.write(|snapshot| snapshot.settle_move(*ip));
            }
        }
        (withheld, user)
    }

    fn other_instance(&self, node: Option<&Node>, ours: &str) -> Option<String> {
        let theirs = node
            .and_then(|node| self.provider_id(node))
            .map(|id| id.instance);
        theirs.filter(|theirs| theirs != ours).map(|theirs| {
            format!("the Node says that it is instance {theirs}, its NetResourceSet belongs to {ours}, which still exists")
        })
    }
}
