//! Create, replace and patch.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, key, namespace_key, wire};
use crate::admission::{self, FieldValidation, Target};
use crate::error::{ApiError, Cause};
use crate::object;
use crate::patch::Patch;
use crate::registry::{Behaviour, Resource};
use crate::store::{Key, State};

/// How a write is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Do everything but store.
    pub dry_run: bool,
    /// What to do with unknown fields of custom resources.
    pub fields: FieldValidation,
}

/// A done write.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object, in stored form.
    pub object: Arc<Value>,
    /// For the client to show.
    pub warnings: Vec<String>,
    /// Whether it is new.
    pub created: bool,
}

impl Api {
    /// Creates an object.
    ///
    /// # Errors
    /// As a real server: 400, 403, 404 (namespace), 409, 422.
    pub fn create(
        &self,
        res: &Resource,
        namespace: &str,
        body: Value,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        let object = admission::incoming(res, namespace, None, body)?;
        self.store
            .tx(|s| self.create_in(s, res, namespace, object, options))
    }

    fn create_in(
        &self,
        s: &mut State,
        res: &Resource,
        namespace: &str,
        mut object: Value,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        if res.namespaced {
            check_namespace(s, res, namespace, &object)?;
        }
        let mut warnings = admission::create(res, &mut object, options.fields)?;
        let mut at = key(res, namespace, object::name(&object));
        let generated = !object::text(&object, "/metadata/generateName").is_empty();
        while generated && s.get(&at).is_some() {
            at.name = object::generated_name(object::text(&object, "/metadata/generateName"));
            object::meta_mut(&mut object).insert("name".to_owned(), json!(at.name));
        }
        if s.get(&at).is_some() {
            return Err(ApiError::already_exists(res, &at.name));
        }
        store_version(self, res, &mut object);
        warnings.sort_unstable();
        let object = if options.dry_run {
            Arc::new(object)
        } else {
            self.put(s, &at, object)
        };
        Ok(Written {
            object,
            warnings,
            created: true,
        })
    }

    /// Replaces an object or its status.
    ///
    /// # Errors
    /// As a real server: 400, 404, 409, 422.
    pub fn replace(
        &self,
        res: &Resource,
        (namespace, name): (&str, &str),
        target: Target,
        body: Value,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        let at = key(res, namespace, name);
        self.store.tx(|s| {
            let Some(current) = s.get(&at) else {
                if !res.create_on_update || target == Target::Status {
                    return Err(ApiError::not_found(res, name));
                }
                let object = admission::incoming(res, namespace, Some(name), body)?;
                return self.create_in(s, res, namespace, object, options);
            };
            if object::version(&body).is_empty() && !res.unconditional_update {
                let cause = Cause {
                    field: "metadata.resourceVersion".to_owned(),
                    reason: "FieldValueInvalid",
                    message: "Invalid value: 0x0: must be specified for an update".to_owned(),
                };
                return Err(ApiError::invalid(res, name, &[cause]));
            }
            self.update_in(s, res, &at, target, &current, body, options)
        })
    }

    /// Patches an object or its status. The patch is applied to the latest state, so it conflicts only where it carries a
    /// `resourceVersion` or `uid` itself.
    ///
    /// # Errors
    /// As a real server: 400, 404, 409, 422.
    pub fn patch(
        &self,
        res: &Resource,
        (namespace, name): (&str, &str),
        target: Target,
        patch: &Patch,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        let at = key(res, namespace, name);
        self.store.tx(|s| {
            let current = s.get(&at).ok_or_else(|| ApiError::not_found(res, name))?;
            let body = patch.apply(&wire(res, &current))?;
            self.update_in(s, res, &at, target, &current, body, options)
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    fn update_in(
        &self,
        s: &mut State,
        res: &Resource,
        at: &Key,
        target: Target,
        current: &Arc<Value>,
        body: Value,
        options: WriteOptions,
    ) -> Result<Written, ApiError> {
        let mut new = admission::incoming(res, &at.namespace, Some(&at.name), body)?;
        check_preconditions(
            res,
            &at.name,
            current,
            object::uid(&new),
            object::version(&new),
        )?;
        let warnings = admission::update(res, target, current, &mut new, options.fields)?;
        store_version(self, res, &mut new);
        let object = if new == **current {
            // Nothing changed: no new version, no event.
            current.clone()
        } else if options.dry_run {
            Arc::new(new)
        } else if released(&new) {
            self.remove(s, at, new)
                .ok_or_else(|| ApiError::not_found(res, &at.name))?
        } else {
            self.put(s, at, new)
        };
        Ok(Written {
            object,
            warnings,
            created: false,
        })
    }
}

/// Whether deletion has begun and nothing holds the object any more.
pub fn released(object: &Value) -> bool {
    object::deleting(object)
        && !object::has_finalizers(object)
        && object::list(object, "/spec/finalizers").is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
}

/// Compares the uid and version that a client holds (empty: any) with the object's.
///
/// # Errors
/// 409.
pub fn check_preconditions(
    res: &Resource,
    name: &str,
    current: &Value,
    uid: &str,
    version: &str,
) -> Result<(), ApiError> {
    if !uid.is_empty() && uid != object::uid(current) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(current)
        );
        return Err(ApiError::conflict(res, name, &why));
    }
    if !version.is_empty() && version != "0" && version != object::version(current) {
        return Err(ApiError::stale(res, name));
    }
    Ok(())
}

fn check_namespace(
    s: &State,
    res: &Resource,
    namespace: &str,
    object: &Value,
) -> Result<(), ApiError> {
    match s.get(&namespace_key(namespace)) {
        None => Err(ApiError {
            code: 404,
            reason: "NotFound",
            message: format!("namespaces \"{namespace}\" not found"),
            details: json!({"name": namespace, "kind": "namespaces"}),
        }),
        Some(ns) if object::deleting(&ns) => {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            Err(ApiError::forbidden(res, object::name(object), &why))
        }
        Some(_) => Ok(()),
    }
}

/// Custom resources are stored in one version, whichever they came in.
fn store_version(api: &Api, res: &Resource, object: &mut Value) {
    if res.behaviour == Behaviour::Custom
        && let Some(preferred) = api.registry().of_collection(&res.collection)
    {
        object::map_mut(object).insert("apiVersion".to_owned(), json!(preferred.api_version()));
    }
}
