//! The three kinds of patch. Server-side apply is refused: nothing here keeps managed fields.

mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::error::{ApiError, Cause};
use crate::http::BODY_LIMIT;
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
    /// 415 for other types, 400 for a body that is no such patch, 422 where its operations are unknown or, of a custom
    /// resource, where it is no object.
    pub fn parse(res: &Resource, content_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let custom = res.behaviour == Behaviour::Custom;
        let json = || -> Result<Value, ApiError> {
            let value: Value = serde_json::from_slice(body)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
            if value.is_object() {
                Ok(value)
            } else if custom {
                let problem = "couldn't get version/kind";
                let cause = Cause::invalid("patch", &value, problem);
                Err(ApiError::invalid(res, "", &[cause]))
            } else {
                Err(ApiError::bad_request(
                    "error decoding patch: it is not an object",
                ))
            }
        };
        match content_type {
            "application/merge-patch+json" => json().map(Self::Merge),
            "application/strategic-merge-patch+json" if !custom => json().map(Self::Strategic),
            "application/json-patch+json" => {
                let operations: Vec<Value> = serde_json::from_slice(body)
                    .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
                serde_json::from_value(Value::Array(operations))
                    .map(Self::Json)
                    .map_err(|e| unprocessable(&e))
            }
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
                // Copies of copies double with each operation.
                let mut copied = 0;
                for operation in &patch.0 {
                    if let PatchOperation::Copy(copy) = operation
                        && let Some(value) = patched.pointer(copy.from.as_str())
                    {
                        copied += value.to_string().len();
                        if copied > BODY_LIMIT {
                            return Err(ApiError::too_large(BODY_LIMIT));
                        }
                    }
                    let one = std::slice::from_ref(operation);
                    json_patch::patch(&mut patched, one).map_err(|e| unprocessable(&e))?;
                }
            }
        }
        Ok(patched)
    }
}

fn unprocessable(error: &dyn std::fmt::Display) -> ApiError {
    ApiError {
        code: 422,
        reason: "Invalid",
        message: format!("the server rejected our request due to an error in our request: {error}"),
        details: Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::Registry;

    const TYPES: [&str; 3] = [
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/json-patch+json",
    ];

    /// `{"object": …, "patch": …}`, the patch as each of the three kinds.
    #[test]
    fn fuzz() {
        let words = &[
            "op",
            "add",
            "remove",
            "replace",
            "move",
            "copy",
            "test",
            "path",
            "from",
            "value",
            "/a/-",
            "/a/0",
            "/",
            "$patch",
            "delete",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
            "containers",
            "name",
            "metadata",
            "finalizers",
        ];
        let pods = Registry::builtin().find("", "v1", "pods").unwrap();
        tombolo_fuzz::Target::new("lab-patch")
            .words(words)
            .check(|bytes| {
                let Ok(input) = serde_json::from_slice::<Value>(bytes) else {
                    return;
                };
                let patch = serde_json::to_vec(&input["patch"]).unwrap();
                for kind in TYPES {
                    let patched =
                        Patch::parse(&pods, kind, &patch).and_then(|p| p.apply(&input["object"]));
                    if let Err(error) = patched {
                        assert!([400, 413, 422].contains(&error.code), "{error:?}");
                    }
                }
            });
    }

    #[test]
    fn copies_have_a_limit_on_their_size() {
        let doubling = vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 64];
        let pods = Registry::builtin().find("", "v1", "pods").unwrap();
        let patch = Patch::parse(&pods, TYPES[2], json!(doubling).to_string().as_bytes()).unwrap();
        let error = patch.apply(&json!({"a": ["x"]})).unwrap_err();
        assert_eq!(error.code, 413);
        let few = Patch::Json(serde_json::from_value(json!(doubling[..3])).unwrap());
        assert_eq!(
            few.apply(&json!({"a": []})).unwrap()["a"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
    }
}
