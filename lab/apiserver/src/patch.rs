//! The three kinds of patch. Server-side apply is refused: nothing here keeps managed fields.

mod strategic;

use serde_json::Value;

use crate::error::ApiError;
use crate::registry::{Behaviour, Resource};

/// A patch as it came.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(json_patch::Patch),
    /// Kubernetes' own, for built-in kinds only.
    Strategic(Value),
}

impl Patch {
    /// Reads a body by its content type.
    ///
    /// # Errors
    /// 415 for other types, 400 for a body that is no such patch.
    pub fn parse(res: &Resource, content_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let custom = res.behaviour == Behaviour::Custom;
        let json = || -> Result<Value, ApiError> {
            let value: Value = serde_json::from_slice(body)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
            if value.is_object() {
                Ok(value)
            } else {
                Err(ApiError::bad_request(
                    "error decoding patch: it is not an object",
                ))
            }
        };
        match content_type {
            "application/merge-patch+json" => json().map(Self::Merge),
            "application/strategic-merge-patch+json" if !custom => json().map(Self::Strategic),
            "application/json-patch+json" => serde_json::from_slice(body)
                .map(Self::Json)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}"))),
            _ => Err(ApiError::unsupported_media(if custom {
                "application/json-patch+json, application/merge-patch+json"
            } else {
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
            })),
        }
    }

    /// The object with the patch applied.
    ///
    /// # Errors
    /// 422 where a JSON patch does not fit the object.
    pub fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let mut patched = object.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Strategic(patch) => strategic::merge(&mut patched, patch),
            Self::Json(patch) => {
                json_patch::patch(&mut patched, patch).map_err(|e| ApiError {
                    code: 422,
                    reason: "Invalid",
                    message: format!(
                        "the server rejected our request due to an error in our request: {e}"
                    ),
                    details: Value::Null,
                })?;
            }
        }
        Ok(patched)
    }
}
