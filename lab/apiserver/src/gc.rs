//! The collector: deletes what lost its owners, and finishes namespaces, definitions and owners that wait for others.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::api::{Api, CLEANUP, DeleteOptions, FOREGROUND, drop_finalizer, drop_owners};
use crate::object::{self, child_mut, list, text};
use crate::registry::{Behaviour, Resource};
use crate::store::{Key, State};

/// Runs until dropped.
pub async fn run(api: Arc<Api>) {
    loop {
        api.store.collector.notified().await;
        collect(&api);
    }
}

/// Looks at every suspect, until there is none.
pub fn collect(api: &Api) {
    loop {
        let suspects: BTreeSet<Key> = api.store.tx(State::take_suspects);
        if suspects.is_empty() {
            return;
        }
        for key in suspects {
            api.store.tx(|s| look(api, s, &key));
        }
    }
}

fn look(api: &Api, s: &mut State, key: &Key) {
    let Some(object) = s.get(key) else { return };
    let Some(res) = api.registry().of_collection(&key.collection) else {
        return;
    };
    if object::deleting(&object) {
        finish(api, s, &res, key, &object);
    } else if !list(&object, "/metadata/ownerReferences").is_empty() {
        check_owners(api, s, &res, key, &object);
    }
}

/// Deletes an object whose owners are all gone, and drops references to the gone ones of several.
fn check_owners(api: &Api, s: &mut State, res: &Resource, key: &Key, object: &Value) {
    let alive = |owner: &Value| {
        // An owner in another namespace does not count.
        s.by_uid(text(owner, "/uid"))
            .is_some_and(|at| at.namespace.is_empty() || at.namespace == key.namespace)
    };
    let owners = list(object, "/metadata/ownerReferences");
    let gone: Vec<String> = owners
        .iter()
        .filter(|o| !alive(o))
        .map(|o| text(o, "/uid").to_owned())
        .collect();
    if gone.is_empty() {
        return;
    }
    if gone.len() == owners.len() {
        delete(api, s, res, key);
    } else {
        let mut object = object.clone();
        drop_owners(&mut object, |uid| gone.iter().any(|g| g == uid));
        api.settle(s, key, object);
    }
}

fn finish(api: &Api, s: &mut State, res: &Resource, key: &Key, object: &Value) {
    let waits_for = |finalizer: &str| {
        list(object, "/metadata/finalizers")
            .iter()
            .any(|f| f == finalizer)
    };
    let mut next = object.clone();
    let rest = if res.behaviour == Behaviour::Namespace {
        child_mut(&mut next, "spec").remove("finalizers");
        content(s, &key.name)
    } else if waits_for(CLEANUP) {
        drop_finalizer(&mut next, CLEANUP);
        let name: Arc<str> = Arc::from(key.name.as_str());
        keys(s, &name, "")
    } else if waits_for(FOREGROUND) {
        drop_finalizer(&mut next, FOREGROUND);
        s.dependents(object::uid(object))
    } else {
        return;
    };
    for key in &rest {
        if let Some(res) = api.registry().of_collection(&key.collection)
            && s.get(key).is_some_and(|o| !object::deleting(&o))
        {
            delete(api, s, &res, key);
        }
    }
    if rest.iter().all(|key| s.get(key).is_none()) && s.get(key).is_some() {
        api.settle(s, key, next);
    }
}

fn delete(api: &Api, s: &mut State, res: &Resource, key: &Key) {
    if let Err(error) = api.delete_in(s, res, key, &DeleteOptions::default()) {
        tracing::debug!(%error, ?key, "collector could not delete");
    }
}

fn content(s: &State, namespace: &str) -> Vec<Key> {
    let mut all = Vec::new();
    for collection in s.collections() {
        all.extend(keys(s, &collection, namespace));
    }
    all
}

fn keys(s: &State, collection: &Arc<str>, namespace: &str) -> Vec<Key> {
    s.list(collection, namespace)
        .iter()
        .map(|object| Key {
            collection: collection.clone(),
            namespace: object::namespace(object).to_owned(),
            name: object::name(object).to_owned(),
        })
        .collect()
}
