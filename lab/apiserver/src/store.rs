//! Objects, the version counter, each collection's history, and the signal that something changed.
//!
//! Every change takes the next value of one counter and goes to the history of its collection. Watchers keep a cursor and
//! read the history from there, so a slow watcher costs nothing: when the history no longer reaches its cursor, it is told
//! that it expired. A state in the past is the present with the newer changes undone.
//!
//! ```text
//!   floor < change < change < ... < change <= version
//!     └── changes up to here are forgotten: a cursor below it is expired
//! ```

mod backup;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::object;

pub use backup::Backup;

/// Where an object lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Collection: `pods`, `enis.tombolo.dev`.
    pub collection: Arc<str>,
    /// Namespace, empty in cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Change {
    /// Version that it made.
    pub version: u64,
    /// State before; `None`: created.
    pub before: Option<Arc<Value>>,
    /// State after; for a deletion the last state, stamped with the deletion's version.
    pub after: Arc<Value>,
    /// Whether the object is gone after it.
    pub deleted: bool,
}

/// The history no longer reaches that far back, or the version is not one of this server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {wanted} ({oldest})")]
pub struct Expired {
    /// Version asked for.
    pub wanted: u64,
    /// Oldest version that can be served.
    pub oldest: u64,
}

#[derive(Debug)]
struct Collection {
    objects: BTreeMap<(String, String), Arc<Value>>,
    history: VecDeque<Change>,
    floor: u64,
    signal: watch::Sender<u64>,
}

/// Everything that the server knows. Only reached through [`Store::tx`].
#[derive(Debug)]
pub struct State {
    /// Version before the first change: no history begins later.
    start: u64,
    version: u64,
    history: usize,
    collections: HashMap<Arc<str>, Collection>,
    uids: HashMap<String, Key>,
    dependents: HashMap<String, BTreeSet<Key>>,
    /// Keys that the collector has to look at.
    suspects: BTreeSet<Key>,
}

/// The state behind a lock.
#[derive(Debug)]
pub struct Store {
    state: Mutex<State>,
    /// Rung when `suspects` gets entries.
    pub collector: Notify,
}

impl Store {
    /// An empty store whose first version is `version + 1` and that keeps `history` changes a collection.
    pub fn new(version: u64, history: usize) -> Self {
        Self {
            state: Mutex::new(State {
                start: version,
                version,
                history: history.max(1),
                collections: HashMap::new(),
                uids: HashMap::new(),
                dependents: HashMap::new(),
                suspects: BTreeSet::new(),
            }),
            collector: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on the state with nobody else in it.
    pub fn tx<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = f(&mut state);
        if !state.suspects.is_empty() {
            self.collector.notify_one();
        }
        result
    }

    /// Receives the newest version of a collection whenever it changes.
    pub fn signal(&self, collection: &Arc<str>) -> watch::Receiver<u64> {
        self.lock().collection(collection).signal.subscribe()
    }
}

impl State {
    fn collection(&mut self, name: &Arc<str>) -> &mut Collection {
        let floor = self.start;
        self.collections
            .entry(name.clone())
            .or_insert_with(|| Collection {
                objects: BTreeMap::new(),
                history: VecDeque::new(),
                floor,
                signal: watch::channel(floor).0,
            })
    }

    /// Newest version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The object at a key.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        let objects = &self.collections.get(&key.collection)?.objects;
        objects
            .get(&(key.namespace.clone(), key.name.clone()))
            .cloned()
    }

    /// The objects of a collection by namespace (empty: all) and name.
    pub fn list(&self, collection: &str, namespace: &str) -> Vec<Arc<Value>> {
        let Some(c) = self.collections.get(collection) else {
            return Vec::new();
        };
        if namespace.is_empty() {
            return c.objects.values().cloned().collect();
        }
        c.objects
            .range((namespace.to_owned(), String::new())..)
            .take_while(|((ns, _), _)| ns == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// As [`State::list`], as it was at `version`.
    ///
    /// # Errors
    /// Where the history does not reach back to `version`.
    pub fn list_at(
        &self,
        collection: &str,
        namespace: &str,
        version: u64,
    ) -> Result<Vec<Arc<Value>>, Expired> {
        let Some(c) = self.collections.get(collection) else {
            return Ok(Vec::new());
        };
        if version < c.floor || version > self.version {
            return Err(Expired {
                wanted: version,
                oldest: c.floor,
            });
        }
        let mut objects = c.objects.clone();
        for change in c.history.iter().rev().take_while(|ch| ch.version > version) {
            let at = (
                object::namespace(&change.after).to_owned(),
                object::name(&change.after).to_owned(),
            );
            match &change.before {
                Some(before) => objects.insert(at, before.clone()),
                None => objects.remove(&at),
            };
        }
        Ok(objects
            .into_iter()
            .filter(|((ns, _), _)| namespace.is_empty() || ns == namespace)
            .map(|(_, object)| object)
            .collect())
    }

    /// Up to `max` changes of a collection after `version`, and the version up to which the reader then is.
    ///
    /// # Errors
    /// Where the history does not reach back to `version`, or `version` is in the future.
    pub fn changes(
        &mut self,
        collection: &Arc<str>,
        version: u64,
        max: usize,
    ) -> Result<(Vec<Change>, u64), Expired> {
        let current = self.version;
        let c = self.collection(collection);
        if version < c.floor || version > current {
            return Err(Expired {
                wanted: version,
                oldest: c.floor,
            });
        }
        let from = c.history.partition_point(|ch| ch.version <= version);
        let changes: Vec<Change> = c.history.range(from..).take(max).cloned().collect();
        let reached = match changes.last() {
            Some(last) if changes.len() == max => last.version,
            _ => current,
        };
        Ok((changes, reached))
    }

    /// Stores an object under its key, stamped with the next version.
    pub fn put(&mut self, key: &Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        let version = self.version;
        object::meta_mut(&mut object)
            .insert("resourceVersion".to_owned(), json!(version.to_string()));
        let after = Arc::new(object);
        let before = self
            .collection(&key.collection)
            .objects
            .insert((key.namespace.clone(), key.name.clone()), after.clone());
        self.unindex(key, before.as_deref());
        self.index(key, &after);
        self.record(
            &key.collection,
            Change {
                version,
                before,
                after: after.clone(),
                deleted: false,
            },
        );
        after
    }

    /// Takes an object away; `last` is its last state, which watchers get. `None` where there was none.
    pub fn remove(&mut self, key: &Key, mut last: Value) -> Option<Arc<Value>> {
        let before = self
            .collection(&key.collection)
            .objects
            .remove(&(key.namespace.clone(), key.name.clone()))?;
        self.version += 1;
        let version = self.version;
        object::meta_mut(&mut last)
            .insert("resourceVersion".to_owned(), json!(version.to_string()));
        let after = Arc::new(last);
        self.unindex(key, Some(&before));
        if let Some(dependents) = self.dependents.get(object::uid(&before)) {
            self.suspects.extend(dependents.iter().cloned());
        }
        self.record(
            &key.collection,
            Change {
                version,
                before: Some(before),
                after: after.clone(),
                deleted: true,
            },
        );
        Some(after)
    }

    fn record(&mut self, collection: &Arc<str>, change: Change) {
        let (cap, version) = (self.history, change.version);
        let c = self.collection(collection);
        c.history.push_back(change);
        while c.history.len() > cap {
            if let Some(forgotten) = c.history.pop_front() {
                c.floor = forgotten.version;
            }
        }
        c.signal.send_replace(version);
    }

    fn index(&mut self, key: &Key, object: &Value) {
        self.uids
            .insert(object::uid(object).to_owned(), key.clone());
        let owners = object::list(object, "/metadata/ownerReferences");
        for owner in owners {
            self.dependents
                .entry(object::text(owner, "/uid").to_owned())
                .or_default()
                .insert(key.clone());
        }
        if !owners.is_empty() || object::deleting(object) {
            self.suspects.insert(key.clone());
        }
    }

    fn unindex(&mut self, key: &Key, object: Option<&Value>) {
        let Some(object) = object else { return };
        self.uids.remove(object::uid(object));
        for owner in object::list(object, "/metadata/ownerReferences") {
            let uid = object::text(owner, "/uid");
            if let Some(set) = self.dependents.get_mut(uid) {
                set.remove(key);
                if set.is_empty() {
                    self.dependents.remove(uid);
                }
                // An owner that waits for its dependents may go on.
                if let Some(owner) = self.uids.get(uid) {
                    self.suspects.insert(owner.clone());
                }
            }
        }
    }

    /// Key of the object with that uid.
    pub fn by_uid(&self, uid: &str) -> Option<&Key> {
        self.uids.get(uid)
    }

    /// Objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Key> {
        self.dependents
            .get(uid)
            .map_or_else(Vec::new, |set| set.iter().cloned().collect())
    }

    /// Names of all collections.
    pub fn collections(&self) -> Vec<Arc<str>> {
        self.collections.keys().cloned().collect()
    }

    /// Asks the collector to look at a key.
    pub fn suspect(&mut self, key: Key) {
        self.suspects.insert(key);
    }

    /// Takes the collector's work.
    pub fn take_suspects(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.suspects)
    }
}

#[cfg(test)]
mod tests;
