//! The operations of the API on the store: what an HTTP request, the scheduler and the collector do.

mod binding;
mod delete;
mod write;

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::event;
use crate::object;
use crate::registry::{Behaviour, Registry, Resource};
use crate::store::{Key, State, Store};

pub use binding::set_condition;
pub use delete::{
    CLEANUP, DeleteOptions, Deleted, FOREGROUND, Propagation, drop_finalizer, drop_owners,
};
pub use write::{WriteOptions, Written};

/// Collection of the definitions.
pub const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Store and served kinds.
#[derive(Debug)]
pub struct Api {
    /// The objects.
    pub store: Store,
    registry: RwLock<Arc<Registry>>,
}

impl Api {
    /// An API with the namespaces that every cluster has.
    ///
    /// # Errors
    /// Does not fail in practice; the creations can in principle.
    pub fn new(version: u64, history: usize) -> Result<Self, ApiError> {
        let api = Self {
            store: Store::new(version, history),
            registry: RwLock::new(Arc::new(Registry::builtin())),
        };
        if let Some(namespaces) = api.registry().find("", "v1", "namespaces") {
            for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
                let body = json!({"metadata": {"name": name}});
                api.create(&namespaces, "", body, WriteOptions::default())?;
            }
        }
        Ok(api)
    }

    /// The kinds served now.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The object, in stored form.
    ///
    /// # Errors
    /// 404.
    pub fn get(&self, res: &Resource, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        let key = key(res, namespace, name);
        self.store
            .tx(|s| s.get(&key))
            .ok_or_else(|| ApiError::not_found(res, name))
    }

    /// Stores, and follows what that means for the served kinds.
    fn put(&self, s: &mut State, key: &Key, object: Value) -> Arc<Value> {
        let stored = s.put(key, object);
        self.follow(s, key);
        stored
    }

    /// Removes, and wakes whoever waits for that: a namespace or definition that is going.
    fn remove(&self, s: &mut State, key: &Key, last: Value) -> Option<Arc<Value>> {
        let removed = s.remove(key, last);
        self.follow(s, key);
        if !key.namespace.is_empty() {
            s.suspect(namespace_key(&key.namespace));
        }
        if key.collection.contains('.') {
            s.suspect(Key {
                collection: Arc::from(DEFINITIONS),
                namespace: String::new(),
                name: key.collection.to_string(),
            });
        }
        removed
    }

    fn follow(&self, s: &State, key: &Key) {
        if *key.collection != *DEFINITIONS {
            return;
        }
        let definitions = s.list(DEFINITIONS, "");
        let registry = Registry::with_definitions(definitions.iter().map(Arc::as_ref));
        *self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
    }
}

/// Where an object of a kind lies.
pub fn key(res: &Resource, namespace: &str, name: &str) -> Key {
    Key {
        collection: res.collection.clone(),
        namespace: if res.namespaced { namespace } else { "" }.to_owned(),
        name: name.to_owned(),
    }
}

fn namespace_key(name: &str) -> Key {
    Key {
        collection: Arc::from("namespaces"),
        namespace: String::new(),
        name: name.to_owned(),
    }
}

/// A stored object as clients of this version of its kind see it.
pub fn wire<'a>(res: &Resource, object: &'a Value) -> Cow<'a, Value> {
    match res.behaviour {
        Behaviour::NewEvent => Cow::Owned(event::from_core(object.clone())),
        Behaviour::Custom if object["apiVersion"] != res.api_version().as_str() => {
            let mut object = object.clone();
            object::map_mut(&mut object).insert("apiVersion".to_owned(), json!(res.api_version()));
            Cow::Owned(object)
        }
        _ => Cow::Borrowed(object),
    }
}
