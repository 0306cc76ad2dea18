//! What the server's tasks share: the model under its lock, and the ways to change it and to wait for the fabric.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tombolo_cloud_sim::wire::ApiError;
use tombolo_core::types::Millis;

use super::Options;
use super::dispatch::{self, error};
use crate::admin::{CallCount, CounterReport, InstanceDetail, LabInfo, LinkInfo, RunInstance};
use crate::fabric::{self, Fabric, NsError, Outcome};
use crate::knobs::{Knob, KnobBoard, KnobState, lens};
use crate::model::{AttachEnd, Model, Refusal};

/// What the tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    info: LabInfo,
    origin: Instant,
    model: Mutex<Model>,
    knobs: Mutex<KnobBoard>,
    calls: Mutex<BTreeMap<String, CallCount>>,
    /// The last successful reply of each verb.
    replies: Mutex<BTreeMap<String, Bytes>>,
    /// Grows whenever held replies are let go.
    let_go: watch::Sender<u64>,
    outcome: Mutex<Outcome>,
    pub(super) fabric: Option<Fabric>,
    pub(super) kick: Notify,
    in_place: watch::Receiver<u64>,
    pub(super) stop: watch::Sender<bool>,
}

/// None of the locked values is left half-changed by a panic, so a poisoned lock is as good as any.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        options: &Options,
        model: Model,
        fabric: Option<Fabric>,
        in_place: watch::Receiver<u64>,
    ) -> Self {
        let mut knobs = KnobBoard::default();
        let delays = &options.config.delays;
        for knob in [
            Knob::AttachDelay {
                ms: delays.attach_ms,
            },
            Knob::DetachDelay {
                ms: delays.detach_ms,
            },
        ] {
            knobs.set(Millis(0), knob, || model.view());
        }
        let plan = model.fabric_plan();
        let path = |name: String| options.fabric.then(|| format!("/run/netns/{name}"));
        let info = LabInfo {
            lab: options.lab.clone(),
            pid: std::process::id(),
            fabric_netns: path(plan.fabric()),
            inet_netns: path(plan.inet()),
            config: options.config.clone(),
        };
        Self {
            info,
            origin: Instant::now(),
            model: Mutex::new(model),
            knobs: Mutex::new(knobs),
            calls: Mutex::default(),
            replies: Mutex::default(),
            let_go: watch::Sender::new(0),
            outcome: Mutex::default(),
            fabric,
            kick: Notify::new(),
            in_place,
            stop: watch::Sender::new(false),
        }
    }

    pub(super) fn now(&self) -> Millis {
        Millis(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        locked(&self.model)
    }

    pub(super) fn knobs(&self) -> MutexGuard<'_, KnobBoard> {
        locked(&self.knobs)
    }

    pub(super) fn calls(&self) -> MutexGuard<'_, BTreeMap<String, CallCount>> {
        locked(&self.calls)
    }

    pub(super) fn count(&self, verb: &str, add: impl FnOnce(&mut CallCount)) {
        add(self.calls().entry(verb.to_owned()).or_default());
    }

    pub(super) fn info(&self) -> LabInfo {
        self.info.clone()
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn note(&self, outcome: Outcome) {
        let mut last = locked(&self.outcome);
        for (what, why) in &outcome.errors {
            if last.errors.get(what) != Some(why) {
                tracing::warn!(what, why, "not as desired; trying again");
            }
        }
        *last = outcome;
    }

    /// A cloud call: the model's answer, after the fabric caught up where the call promises that.
    pub(super) async fn cloud(&self, verb: &str, body: &[u8]) -> Result<Bytes, ApiError> {
        let done = {
            let mut model = self.model();
            let now = self.now();
            let seen = self.knobs().lens.look(now, verb, || model.view());
            let done = dispatch::cloud(&mut model, now, seen, verb, body);
            self.remember(&model);
            done?
        };
        self.kick.notify_one();
        if done.wait {
            self.settle().await?;
        }
        let body = Bytes::from(done.body);
        locked(&self.replies).insert(verb.to_owned(), body.clone());
        Ok(body)
    }

    /// The last successful reply of a verb.
    pub(super) fn last_reply(&self, verb: &str) -> Option<Bytes> {
        locked(&self.replies).get(verb).cloned()
    }

    /// Notes how the world looks, where describe calls are to show the past.
    pub(super) fn remember(&self, model: &Model) {
        let mut knobs = self.knobs();
        if knobs.lens.wants_past() {
            knobs.lens.remember(self.now(), model.view());
        }
    }

    /// Waits until held replies are let go, or until the server stops.
    pub(super) async fn hold(&self, verb: &str) {
        let mut let_go = self.let_go.subscribe();
        let mut stop = self.stop.subscribe();
        let _held = Held::new(self, verb);
        // An error means that the server is gone.
        tokio::select! {
            _ = let_go.changed() => {}
            _ = stop.wait_for(|s| *s) => {}
        }
    }

    /// Changes the model and waits until the fabric caught up.
    pub(super) async fn change<T>(
        &self,
        change: impl FnOnce(&mut Model) -> Result<T, Refusal>,
    ) -> Result<T, ApiError> {
        let done = {
            let mut model = self.model();
            let done = change(&mut model);
            self.remember(&model);
            done?
        };
        self.kick.notify_one();
        self.settle().await?;
        Ok(done)
    }

    /// Waits until everything that the model desires has been tried.
    pub(super) async fn settle(&self) -> Result<(), ApiError> {
        let mut in_place = self.in_place.clone();
        loop {
            let generation = self.model().generation();
            in_place
                .wait_for(|g| *g >= generation)
                .await
                .map_err(|_| error("ServiceUnavailable", "the VPC is being taken down"))?;
            if self.model().generation() == generation {
                return Ok(());
            }
        }
    }

    pub(super) async fn run_instance(
        &self,
        call: &RunInstance,
    ) -> Result<InstanceDetail, ApiError> {
        let detail = self.change(|m| m.run_instance(call)).await?;
        let failure = {
            let outcome = locked(&self.outcome);
            outcome
                .errors
                .get(&detail.id)
                .or_else(|| outcome.errors.get(&detail.primary_nic))
                .cloned()
        };
        let Some(failure) = failure else {
            return Ok(detail);
        };
        self.change(|m| m.terminate_instance(&detail.id)).await?;
        Err(error(
            "InternalError",
            format!("instance {:?} could not be plugged: {failure}", detail.name),
        ))
    }

    pub(super) fn links(&self) -> Vec<LinkInfo> {
        let mut links = self.model().links();
        let outcome = locked(&self.outcome);
        for link in &mut links {
            link.plugged = outcome.plugged.contains(&link.nic);
            link.error = outcome
                .errors
                .get(&link.nic)
                .or_else(|| outcome.errors.get(&link.instance))
                .cloned();
        }
        links
    }

    pub(super) async fn counters(&self) -> Result<CounterReport, ApiError> {
        let Some(fabric) = &self.fabric else {
            return Ok(CounterReport::default());
        };
        flatten(fabric.counters().await)
    }

    pub(super) async fn reset_counters(&self) -> Result<(), ApiError> {
        let Some(fabric) = &self.fabric else {
            return Ok(());
        };
        flatten(fabric.reset_counters().await)
    }

    pub(super) fn set_knob(&self, knob: Knob) -> Result<(), ApiError> {
        if let Some(verb) = knob.verb().filter(|v| !dispatch::is_cloud_verb(v)) {
            return Err(Refusal::parameter("verb", format!("there is no call {verb:?}")).into());
        }
        let mut model = self.model();
        match &knob {
            Knob::AttachDelay { ms } => model.set_attach_delay(Millis(*ms)),
            Knob::DetachDelay { ms } => model.set_detach_delay(Millis(*ms)),
            Knob::FailAttach { count } => model.set_attach_end(AttachEnd::Fails, *count),
            Knob::StickAttach { count } => model.set_attach_end(AttachEnd::Sticks, *count),
            Knob::HalfAssign { count } => model.set_half_assigns(*count),
            Knob::Stale { verb, .. } if !lens::SEEING.contains(&verb.as_str()) => {
                let problem = format!("{verb} shows no inventory");
                return Err(Refusal::parameter("verb", problem).into());
            }
            Knob::LetGo => self.let_go.send_modify(|n| *n += 1),
            Knob::Reset => {
                model.set_attach_end(AttachEnd::Fails, 0);
                model.set_attach_end(AttachEnd::Sticks, 0);
                model.set_half_assigns(0);
                self.let_go.send_modify(|n| *n += 1);
            }
            _ => {}
        }
        let now = self.now();
        self.knobs().set(now, knob, || model.view());
        Ok(())
    }

    pub(super) fn knob_state(&self) -> KnobState {
        let model = self.model();
        KnobState {
            fail_attach: model.attach_ends(AttachEnd::Fails),
            stick_attach: model.attach_ends(AttachEnd::Sticks),
            half_assign: model.half_assigns(),
            ..self.knobs().state()
        }
    }
}

/// Counts a reply as held for as long as it is.
struct Held<'a> {
    shared: &'a Shared,
    verb: &'a str,
}

impl<'a> Held<'a> {
    fn new(shared: &'a Shared, verb: &'a str) -> Self {
        shared.count(verb, |c| c.held += 1);
        Self { shared, verb }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // The counters may have been reset meanwhile.
        self.shared
            .count(self.verb, |c| c.held = c.held.saturating_sub(1));
    }
}

fn flatten<T>(outcome: Result<Result<T, NsError>, fabric::Ended>) -> Result<T, ApiError> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(error("InternalError", e.to_string())),
        Err(e) => Err(error("InternalError", e.to_string())),
    }
}
