//! Deletion.
//!
//! ```text
//!   live ──delete──▶ deleting (deletionTimestamp) ──▶ gone
//!     │                └─ held by: finalizers; a pod's grace period, until its kubelet deletes it with grace 0;
//!     │                   a namespace's or definition's content; with Foreground its dependents
//!     └── nothing holds it ───────────────────────▶ gone
//! ```

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::write::{check_preconditions, released};
use super::{Api, key};
use crate::error::ApiError;
use crate::object::{self, child_mut, meta_mut, stamp, text};
use crate::registry::{Behaviour, Resource};
use crate::store::{Key, State};

/// Finalizer of an owner that waits for its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of a definition that waits for its objects.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What becomes of the objects that name the deleted one as their owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// They are deleted after it.
    #[default]
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay and lose the reference.
    Orphan,
}

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds for a pod to end; absent: its own.
    pub grace: Option<i64>,
    /// Only if the object has this uid (empty: any).
    pub uid: String,
    /// Only if the object has this version (empty: any).
    pub version: String,
    /// Dependents.
    pub propagation: Propagation,
    /// Do everything but delete.
    pub dry_run: bool,
}

/// What a deletion did.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Arc<Value>),
    /// The object waits for something.
    Marked(Arc<Value>),
}

impl Api {
    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// 404, and 409 where a precondition does not hold.
    pub fn delete(
        &self,
        res: &Resource,
        (namespace, name): (&str, &str),
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let at = key(res, namespace, name);
        self.store.tx(|s| self.delete_in(s, res, &at, options))
    }

    pub(crate) fn delete_in(
        &self,
        s: &mut State,
        res: &Resource,
        at: &Key,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let current = s
            .get(at)
            .ok_or_else(|| ApiError::not_found(res, &at.name))?;
        check_preconditions(res, &at.name, &current, &options.uid, &options.version)?;
        let mut new = (*current).clone();
        mark(s, res, &mut new, options);
        if options.dry_run {
            return Ok(Deleted::Marked(Arc::new(new)));
        }
        if options.propagation == Propagation::Orphan {
            self.orphan(s, object::uid(&current));
        }
        if released(&new) {
            return self
                .remove(s, at, new)
                .map(Deleted::Gone)
                .ok_or_else(|| ApiError::not_found(res, &at.name));
        }
        if new == *current {
            return Ok(Deleted::Marked(current));
        }
        Ok(Deleted::Marked(self.put(s, at, new)))
    }

    /// Takes an object whose last holder let go out of the store, or stores that it lost one.
    pub(crate) fn settle(&self, s: &mut State, at: &Key, object: Value) {
        if released(&object) {
            self.remove(s, at, object);
        } else {
            self.put(s, at, object);
        }
    }

    fn orphan(&self, s: &mut State, uid: &str) {
        for at in s.dependents(uid) {
            if let Some(dependent) = s.get(&at) {
                let mut dependent = (*dependent).clone();
                drop_owners(&mut dependent, |owner| owner == uid);
                self.put(s, &at, dependent);
            }
        }
    }
}

/// Takes the owners away whose uid is meant.
pub fn drop_owners(object: &mut Value, meant: impl Fn(&str) -> bool) {
    let meta = meta_mut(object);
    if let Some(Value::Array(owners)) = meta.get_mut("ownerReferences") {
        owners.retain(|o| !meant(text(o, "/uid")));
        if owners.is_empty() {
            meta.remove("ownerReferences");
        }
    }
}

/// Takes a finalizer away.
pub fn drop_finalizer(object: &mut Value, finalizer: &str) {
    let meta = meta_mut(object);
    if let Some(Value::Array(all)) = meta.get_mut("finalizers") {
        all.retain(|f| f != finalizer);
        if all.is_empty() {
            meta.remove("finalizers");
        }
    }
}

fn add_finalizer(object: &mut Value, finalizer: &str) {
    let all = meta_mut(object)
        .entry("finalizers")
        .or_insert_with(|| json!([]));
    if let Value::Array(all) = all
        && !all.iter().any(|f| f == finalizer)
    {
        all.push(json!(finalizer));
    }
}

/// Sets the deletion's marks: time, grace, and the finalizers of what has to go first.
fn mark(s: &State, res: &Resource, object: &mut Value, options: &DeleteOptions) {
    let grace = grace(res, object, options.grace);
    if object::deleting(object) {
        shorten(object, grace);
        return;
    }
    if options.propagation == Propagation::Foreground
        && !s.dependents(object::uid(object)).is_empty()
    {
        add_finalizer(object, FOREGROUND);
    }
    match res.behaviour {
        Behaviour::Definition if !s.list(object::name(object), "").is_empty() => {
            add_finalizer(object, CLEANUP);
        }
        Behaviour::Namespace => {
            child_mut(object, "status").insert("phase".to_owned(), json!("Terminating"));
        }
        _ => {}
    }
    let at = Timestamp::now() + SignedDuration::from_secs(grace);
    let generation = object["metadata"]["generation"].as_i64();
    let meta = meta_mut(object);
    meta.insert("deletionTimestamp".to_owned(), json!(stamp(at)));
    meta.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    if let Some(generation) = generation {
        meta.insert("generation".to_owned(), json!(generation + 1));
    }
}

/// A second deletion can only shorten the grace period.
fn shorten(object: &mut Value, grace: i64) {
    let had = object["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(0);
    if grace >= had {
        return;
    }
    let at = text(object, "/metadata/deletionTimestamp")
        .parse::<Timestamp>()
        .map(|at| at - SignedDuration::from_secs(had - grace));
    let meta = meta_mut(object);
    if let Ok(at) = at {
        meta.insert("deletionTimestamp".to_owned(), json!(stamp(at)));
    }
    meta.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
}

/// Seconds that the object's kubelet has; only pods that run somewhere have any.
fn grace(res: &Resource, object: &Value, asked: Option<i64>) -> i64 {
    let ended = matches!(text(object, "/status/phase"), "Succeeded" | "Failed");
    if res.behaviour != Behaviour::Pod || ended || text(object, "/spec/nodeName").is_empty() {
        return 0;
    }
    let own = || {
        object
            .pointer("/spec/terminationGracePeriodSeconds")?
            .as_i64()
    };
    asked.or_else(own).unwrap_or(30).max(0)
}
