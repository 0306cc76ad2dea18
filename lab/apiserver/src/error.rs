//! Errors as clients see them: a `Status` object with code, reason, message and details.

use serde_json::{Value, json};

use crate::registry::Resource;

/// Why a request was not done. It is sent to the client as a `Status` object.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable reason; empty where a real server has none.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
    /// `details` of the `Status`; null where there are none.
    pub details: Value,
}

/// One broken field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Path of the field, `spec.nics[0].mac`.
    pub field: String,
    /// What is wrong, as a `FieldValue…` reason.
    pub reason: &'static str,
    /// Sentence without the field's name.
    pub message: String,
}

impl Cause {
    /// A field that must be there.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self {
            field: field.into(),
            reason: "FieldValueRequired",
            message,
        }
    }

    /// A value that is not acceptable.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {detail}"),
        }
    }

    /// A value of the wrong JSON type.
    pub fn wrong_type(field: impl Into<String>, wanted: &str, got: &str) -> Self {
        let field = field.into();
        Self {
            message: format!(
                "Invalid value: \"{got}\": {field} in body must be of type {wanted}: \"{got}\""
            ),
            field,
            reason: "FieldValueTypeInvalid",
        }
    }

    /// A value that is not one of a list.
    pub fn unsupported(field: impl Into<String>, value: &Value, allowed: &[Value]) -> Self {
        let list: Vec<String> = allowed.iter().map(Value::to_string).collect();
        Self {
            field: field.into(),
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: {value}: supported values: {}",
                list.join(", ")
            ),
        }
    }

    /// A change or field that is not allowed.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {detail}"),
        }
    }

    /// A second entry with the same key.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {value}"),
        }
    }
}

impl ApiError {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    fn about(code: u16, reason: &'static str, res: &Resource, name: &str, message: String) -> Self {
        let mut details = json!({"name": name, "kind": res.plural});
        if !res.group.is_empty() {
            details["group"] = json!(res.group);
        }
        Self {
            code,
            reason,
            message,
            details,
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// 404 for an object.
    pub fn not_found(res: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", res.qualified());
        Self::about(404, "NotFound", res, name, message)
    }

    /// 404 for a path that nothing serves.
    pub fn no_such_path() -> Self {
        let mut e = Self::plain(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
        e.details = json!({});
        e
    }

    /// 409 for a name that is taken.
    pub fn already_exists(res: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", res.qualified());
        Self::about(409, "AlreadyExists", res, name, message)
    }

    /// 409 for a write that is not based on the latest state.
    pub fn conflict(res: &Resource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            res.qualified()
        );
        Self::about(409, "Conflict", res, name, message)
    }

    /// 409 for a stale `resourceVersion`.
    pub fn stale(res: &Resource, name: &str) -> Self {
        Self::conflict(
            res,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403.
    pub fn forbidden(res: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", res.qualified());
        Self::about(403, "Forbidden", res, name, message)
    }

    /// 422 with one cause a field.
    pub fn invalid(res: &Resource, name: &str, causes: &[Cause]) -> Self {
        let lines: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let list = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let kind = if res.group.is_empty() {
            res.kind.clone()
        } else {
            format!("{}.{}", res.kind, res.group)
        };
        let mut details = json!({
            "name": name,
            "kind": res.kind,
            "causes": causes.iter().map(|c| json!({
                "reason": c.reason, "message": c.message, "field": c.field,
            })).collect::<Vec<_>>(),
        });
        if !res.group.is_empty() {
            details["group"] = json!(res.group);
        }
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("{kind} \"{name}\" is invalid: {list}"),
            details,
        }
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::plain(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406.
    pub fn not_acceptable(offered: &str) -> Self {
        Self::plain(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {offered}"),
        )
    }

    /// 410 for a version that the kept history no longer reaches.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::plain(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// 415.
    pub fn unsupported_media(accepted: &str) -> Self {
        Self::plain(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ),
        )
    }

    /// 500 as a real server answers a create that carries a `resourceVersion`.
    pub fn version_on_create() -> Self {
        Self::plain(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        )
    }

    /// 503 while the lab keeps the server away.
    pub fn unavailable() -> Self {
        Self::plain(
            503,
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
        )
    }

    /// 504 for a list at a version that does not exist yet.
    pub fn future_version(wanted: u64, current: u64) -> Self {
        let mut e = Self::plain(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {wanted}, current: {current}"),
        );
        e.details = json!({"causes": [{
            "reason": "ResourceVersionTooLarge", "message": "Too large resource version",
        }], "retryAfterSeconds": 1});
        e
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// The `Status` of an object that is gone.
pub fn success(res: &Resource, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": res.plural, "uid": uid});
    if !res.group.is_empty() {
        details["group"] = json!(res.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
