//! The objects of one kind, by name. Versions only go forward: our own writes are put in at once, and an older version
//! that the watch brings later does not undo them. Locks are never held across an await.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::{Resource, ResourceExt};

/// The objects of one kind.
#[derive(Debug)]
pub struct Store<K> {
    inner: RwLock<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    objects: BTreeMap<String, Arc<K>>,
    /// Objects that cannot be decoded: name and version.
    undecodable: BTreeMap<String, String>,
    synced: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        let inner = Inner {
            objects: BTreeMap::new(),
            undecodable: BTreeMap::new(),
            synced: false,
        };
        Self {
            inner: RwLock::new(inner),
        }
    }
}

/// (name, before, after)
pub type Change<K> = (String, Option<Arc<K>>, Option<Arc<K>>);

impl<K: Resource> Store<K> {
    /// Whether everything was listed once.
    pub fn synced(&self) -> bool {
        self.read().synced
    }

    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        self.read().objects.get(name).cloned()
    }

    /// Whether there is an object of this name that cannot be decoded now (an older version may be in the store).
    pub fn is_undecodable(&self, name: &str) -> bool {
        self.read().undecodable.contains_key(name)
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// Those that fit; the function is called under a lock and must not block.
    pub fn select(&self, fits: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.read()
            .objects
            .values()
            .filter(|object| fits(object))
            .cloned()
            .collect()
    }

    pub fn names(&self) -> Vec<String> {
        self.read().objects.keys().cloned().collect()
    }

    /// Puts in a version unless a newer one is there. Returns what it took the place of, `None` if it was not put in.
    pub fn put(&self, object: Arc<K>) -> Option<Option<Arc<K>>> {
        let mut inner = self.write();
        let name = object.name_any();
        let old = inner.objects.get(&name).cloned();
        if old.as_deref().is_some_and(|old| !supersedes(&*object, old)) {
            return None;
        }
        inner.objects.insert(name, object);
        Some(old)
    }

    /// Takes out an object that was deleted, unless a successor of the same name is in.
    pub fn remove(&self, deleted: &impl ResourceExt) -> Option<Arc<K>> {
        let mut inner = self.write();
        let name = deleted.name_any();
        inner.undecodable.remove(&name);
        let is_it = inner
            .objects
            .get(&name)
            .is_some_and(|old| old.uid() == deleted.uid());
        if is_it {
            inner.objects.remove(&name)
        } else {
            None
        }
    }

    /// Takes in a whole list; `None` stands for an object that exists and cannot be decoded. Returns what changed.
    pub fn replace(&self, list: Vec<(String, Option<Arc<K>>)>) -> Vec<Change<K>> {
        let mut inner = self.write();
        let mut old = std::mem::take(&mut inner.objects);
        let mut changes = Vec::new();
        let names: Vec<String> = list.iter().map(|(name, _)| name.clone()).collect();
        inner.undecodable.retain(|name, _| names.contains(name));
        for (name, object) in list {
            let before = old.remove(&name);
            let newer = match (&object, &before) {
                (Some(new), Some(before)) => supersedes(&**new, &**before),
                (new, _) => new.is_some(),
            };
            let after = if newer { object } else { before.clone() };
            if let Some(after) = &after {
                inner.objects.insert(name.clone(), Arc::clone(after));
            }
            if newer {
                changes.push((name, before, after));
            }
        }
        changes.extend(
            old.into_iter()
                .map(|(name, before)| (name, Some(before), None)),
        );
        inner.synced = true;
        changes
    }

    /// Notes an object that cannot be decoded; true if this version was not noted before.
    pub fn failed(&self, name: &str, version: &str) -> bool {
        self.write()
            .undecodable
            .insert(name.to_owned(), version.to_owned())
            .as_deref()
            != Some(version)
    }

    /// An object can be decoded (again).
    pub fn decoded(&self, name: &str) {
        self.write().undecodable.remove(name);
    }

    /// How many objects cannot be decoded.
    pub fn undecodable(&self) -> usize {
        self.read().undecodable.len()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a version takes the place of another of the same name. Resource versions are numbers that grow; where they are
/// not numbers, the one that came last wins.
fn supersedes<K: Resource>(new: &K, old: &K) -> bool {
    let version = |object: &K| {
        object
            .resource_version()
            .and_then(|version| version.parse::<u64>().ok())
    };
    match (version(new), version(old)) {
        (Some(new), Some(old)) => new > old,
        _ => new.resource_version() != old.resource_version(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;

    fn node(name: &str, uid: &str, version: &str) -> Arc<Node> {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node.metadata.uid = Some(uid.to_owned());
        node.metadata.resource_version = Some(version.to_owned());
        Arc::new(node)
    }

    fn version(store: &Store<Node>, name: &str) -> Option<String> {
        store.get(name).and_then(|node| node.resource_version())
    }

    #[test]
    fn versions_go_forward_only() {
        let store = Store::default();
        assert!(store.put(node("a", "u", "9")).is_some());
        assert!(
            store.put(node("a", "u", "10")).is_some(),
            "compared as numbers"
        );
        assert!(store.put(node("a", "u", "9")).is_none());
        assert!(store.put(node("a", "u", "10")).is_none());
        assert_eq!(version(&store, "a").as_deref(), Some("10"));
        assert!(
            store.put(node("a", "u", "x")).is_some(),
            "not a number: the last wins"
        );
    }

    #[test]
    fn a_deleted_object_does_not_take_its_successor_along() {
        let store = Store::default();
        store.put(node("a", "new", "9"));
        assert!(store.remove(&*node("a", "old", "8")).is_none());
        assert!(store.remove(&*node("a", "new", "10")).is_some());
        assert!(store.get("a").is_none());
    }

    #[test]
    fn a_list_replaces_all_but_keeps_what_is_newer_or_undecodable() {
        let store = Store::default();
        store.put(node("gone", "1", "5"));
        store.put(node("ours", "2", "30"));
        store.put(node("broken", "3", "6"));
        assert!(store.failed("broken", "20"));
        assert!(!store.failed("broken", "20"), "told once a version");
        assert!(!store.synced());
        let list = vec![
            ("ours".to_owned(), Some(node("ours", "2", "29"))),
            ("broken".to_owned(), None),
            ("new".to_owned(), Some(node("new", "4", "21"))),
        ];
        let changes: Vec<(String, bool, bool)> = store
            .replace(list)
            .into_iter()
            .map(|(name, old, new)| (name, old.is_some(), new.is_some()))
            .collect();
        assert_eq!(
            changes,
            [
                ("new".to_owned(), false, true),
                ("gone".to_owned(), true, false)
            ]
        );
        assert_eq!(version(&store, "ours").as_deref(), Some("30"));
        assert_eq!(version(&store, "broken").as_deref(), Some("6"));
        assert!(store.synced() && store.is_undecodable("broken"));
        assert_eq!(store.names(), ["broken", "new", "ours"]);
        store.decoded("broken");
        assert_eq!(store.undecodable(), 0);
    }
}
