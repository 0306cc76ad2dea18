//! The question that the API server puts to an admission webhook, and the answer: what of `admission.k8s.io/v1` we need.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// Longest review in bytes: it carries an object twice (before and after), and etcd allows an object 1.5 MiB.
pub const MAX_REVIEW: usize = 4 << 20;

/// The question.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Goes into the answer.
    pub uid: String,
    pub operation: String,
    pub resource: Resource,
    #[serde(default)]
    pub sub_resource: String,
    /// Empty where the server makes the name.
    #[serde(default)]
    pub name: String,
    pub user_info: User,
    /// As it would be; `null` at a deletion.
    #[serde(default)]
    pub object: Value,
    /// As it is; `null` at a creation.
    #[serde(default)]
    pub old_object: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Resource {
    #[serde(default)]
    pub group: String,
    pub resource: String,
}

/// Who asks, as the API server authenticated them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct User {
    #[serde(default)]
    pub username: String,
    /// What the token says beside the name.
    #[serde(default)]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Bytes that are no review.
#[derive(Debug, thiserror::Error)]
pub enum NoReview {
    #[error("the review has {0} bytes, more than {MAX_REVIEW}")]
    TooLong(usize),
    #[error("{path}: {source}")]
    Field {
        path: String,
        source: serde_json::Error,
    },
    #[error("apiVersion {0:?} is not admission.k8s.io/v1")]
    Version(String),
    #[error("request: there is none")]
    NoRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    request: Option<Request>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status that the one who asked gets.
    pub code: u16,
    pub message: String,
}

/// Reads a review.
///
/// # Errors
/// Names the field at fault.
pub fn read(bytes: &[u8]) -> Result<Request, NoReview> {
    if bytes.len() > MAX_REVIEW {
        return Err(NoReview::TooLong(bytes.len()));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let review: Review =
        serde_path_to_error::deserialize(&mut json).map_err(|error| NoReview::Field {
            path: error.path().to_string(),
            source: error.into_inner(),
        })?;
    if review.api_version != "admission.k8s.io/v1" {
        return Err(NoReview::Version(review.api_version));
    }
    review.request.ok_or(NoReview::NoRequest)
}

/// The answer to the request of this UID.
pub fn answer(uid: &str, verdict: &Result<(), Refusal>) -> Value {
    let mut response = json!({ "uid": uid, "allowed": verdict.is_ok() });
    if let Err(refusal) = verdict {
        let reason = if refusal.code == 403 {
            "Forbidden"
        } else {
            "ServiceUnavailable"
        };
        response["status"] = json!({
            "status": "Failure", "code": refusal.code, "reason": reason, "message": refusal.message,
        });
    }
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_at_fault_is_named() {
        let review = |request: Value| json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request });
        let good = json!({
            "uid": "1", "operation": "UPDATE", "resource": { "group": "tombolo.dev", "version": "v1alpha1", "resource": "x" },
            "userInfo": { "username": "u", "groups": ["g"], "extra": { "k": ["v"] } }, "object": null, "dryRun": false,
        });
        let parse = |value: &Value| read(value.to_string().as_bytes());
        assert_eq!(
            parse(&review(good.clone())).unwrap().user_info.username,
            "u"
        );
        let mut bad = good;
        bad["userInfo"]["extra"]["k"] = json!("v");
        for (value, message) in [
            (json!({ "request": {} }), "request: "),
            (json!({ "apiVersion": "v2" }), "apiVersion \"v2\""),
            (
                json!({ "apiVersion": "admission.k8s.io/v1" }),
                "request: there is none",
            ),
            (review(bad), "request.userInfo.extra.k: "),
        ] {
            let error = parse(&value).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let long = vec![b' '; MAX_REVIEW + 1];
        let error = read(&long).unwrap_err().to_string();
        assert!(error.contains("4194305 bytes"), "{error}");
    }

    #[test]
    fn an_answer_carries_code_and_message() {
        let refusal = Refusal {
            code: 403,
            message: "no".to_owned(),
        };
        let refused = answer("7", &Err(refusal));
        assert_eq!(refused["response"]["uid"], "7");
        assert_eq!(refused["response"]["allowed"], false);
        assert_eq!(refused["response"]["status"]["code"], 403);
        let allowed = answer("8", &Ok(()));
        assert_eq!(allowed["response"], json!({ "uid": "8", "allowed": true }));
    }
}
