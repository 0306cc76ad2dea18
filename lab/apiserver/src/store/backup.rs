//! Going back in time, as a cluster does whose database is restored from a backup: objects, UIDs and the version counter
//! are those of the backup, and versions that were given since are given again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::{Key, State};

/// The objects of one collection, by namespace and name.
type Objects = BTreeMap<(String, String), Arc<Value>>;

/// All objects at one moment.
#[derive(Debug, Clone)]
pub struct Backup {
    version: u64,
    objects: HashMap<Arc<str>, Objects>,
}

impl State {
    /// All objects as they are.
    pub fn backup(&self) -> Backup {
        let objects = self
            .collections
            .iter()
            .map(|(name, c)| (name.clone(), c.objects.clone()))
            .collect();
        Backup {
            version: self.version,
            objects,
        }
    }

    /// Goes back. No history reaches further back than that moment, so every watch from before has to begin anew.
    pub fn restore(&mut self, backup: &Backup) {
        self.version = backup.version;
        self.start = backup.version;
        self.uids.clear();
        self.dependents.clear();
        self.suspects.clear();
        for (name, collection) in &mut self.collections {
            collection.objects = backup.objects.get(name).cloned().unwrap_or_default();
            collection.history.clear();
            collection.floor = backup.version;
            collection.signal.send_replace(backup.version);
        }
        for (collection, objects) in &backup.objects {
            for ((namespace, name), object) in objects {
                let key = Key {
                    collection: collection.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                };
                self.index(&key, object);
            }
        }
    }
}
