//! The kinds that are served: the built-in ones, and one for every version of every CustomResourceDefinition.

mod builtin;
mod crd;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::schema::Schema;

pub use crd::{established, validate as validate_crd};

/// What a kind does differently from plain storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Stored as it comes.
    Plain,
    /// Graceful deletion, an immutable spec, binding.
    Pod,
    /// Status may come with the creation.
    Node,
    /// Deleted after its content.
    Namespace,
    /// Serves a kind; deleted after its objects.
    Definition,
    /// Served by a definition.
    Custom,
    /// An Event, stored in the core form.
    Event,
    /// The same Event in the form of `events.k8s.io`.
    NewEvent,
}

/// A column of the table that `kubectl get` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// Format word, as `name`; mostly empty.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0: always; above: only with `-o wide`.
    pub priority: i64,
    /// JSONPath of the cell; empty for columns of built-in kinds.
    pub path: String,
}

/// One served kind in one version.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of a list of it.
    pub list_kind: String,
    /// Name in paths.
    pub plural: String,
    /// Name of one.
    pub singular: String,
    /// Short names for kubectl.
    pub short_names: Vec<String>,
    /// Categories for kubectl (`all`).
    pub categories: Vec<String>,
    /// Whether objects lie in namespaces.
    pub namespaced: bool,
    /// Whether `status` is written through its own subresource.
    pub status: bool,
    /// Whether `metadata.generation` is kept.
    pub generation: bool,
    /// Whether PUT without a `resourceVersion` is taken.
    pub unconditional_update: bool,
    /// Whether PUT makes what is not there.
    pub create_on_update: bool,
    /// Collection in the store.
    pub collection: Arc<str>,
    /// What it does differently.
    pub behaviour: Behaviour,
    /// Schema of custom resources.
    pub schema: Option<Arc<Schema>>,
    /// Columns of custom resources; empty: name and age.
    pub columns: Vec<Column>,
    /// Fields for field selectors besides name and namespace.
    pub fields: Vec<String>,
}

impl Resource {
    /// `group/version`, or the version alone in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `plural.group`, or the plural alone in the core group.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether a field selector may name this field.
    pub fn selectable(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && self.namespaced)
            || self.fields.iter().any(|f| f == field)
    }

    /// Subresources besides the object itself.
    pub fn subresources(&self) -> Vec<&'static str> {
        let mut subs = Vec::new();
        if self.behaviour == Behaviour::Pod {
            subs.push("binding");
        }
        if self.status {
            subs.push("status");
        }
        subs
    }
}

/// All served kinds.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// By group, version and plural.
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// The built-in kinds.
    pub fn builtin() -> Self {
        let mut registry = Self::default();
        for resource in builtin::resources() {
            registry.add(resource);
        }
        registry
    }

    /// The built-in kinds and those of the definitions, which have been validated before they were stored.
    pub fn with_definitions<'a>(definitions: impl Iterator<Item = &'a Value>) -> Self {
        let mut registry = Self::builtin();
        for definition in definitions {
            for resource in crd::resources(definition) {
                registry.add(resource);
            }
        }
        registry
    }

    fn add(&mut self, resource: Resource) {
        let at = (
            resource.group.clone(),
            resource.version.clone(),
            resource.plural.clone(),
        );
        self.resources.insert(at, Arc::new(resource));
    }

    /// The kind at a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let at = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.resources.get(&at).cloned()
    }

    /// The kind that an object names by `apiVersion` and `kind`.
    pub fn of_object(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.all()
            .find(|r| r.kind == kind && r.api_version() == api_version)
            .cloned()
    }

    /// Any version of the kind that is stored in a collection.
    pub fn of_collection(&self, collection: &str) -> Option<Arc<Resource>> {
        self.all().find(|r| *r.collection == *collection).cloned()
    }

    /// All kinds, by group, version and plural.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// Groups but the core one, each with its versions, the preferred first.
    pub fn groups(&self) -> BTreeMap<String, Vec<String>> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for r in self.all().filter(|r| !r.group.is_empty()) {
            let versions = groups.entry(r.group.clone()).or_default();
            if !versions.contains(&r.version) {
                versions.push(r.version.clone());
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by_key(|v| std::cmp::Reverse(crd::version_rank(v)));
        }
        groups
    }
}
