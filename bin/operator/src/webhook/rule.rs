//! Who may write what: an agent the objects of its own node, nothing else. Pure.
//!
//! An agent is known by its service account, and its node by the pod that its token is bound to: the API server checks both
//! when it authenticates, and an agent can choose neither. Everybody else passes: what they may is for RBAC to say.

use serde_json::Value;
use tombolo_api::{GROUP, LABEL_NODE};

use super::review::{Refusal, Request};

/// Where the API server puts the pod that a token is bound to.
const EXTRA_POD: &str = "authentication.kubernetes.io/pod-name";
const EXTRA_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The rule for the agents of one service account.
#[derive(Clone, Debug)]
pub struct Rule {
    agent: String,
}

/// The pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoundPod {
    pub name: String,
    pub uid: String,
}

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Decided(Result<(), Refusal>),
    /// Allowed where that pod is on that node.
    IfOn {
        pod: BoundPod,
        node: String,
    },
}

/// A refusal for good.
pub fn forbidden(message: String) -> Refusal {
    Refusal { code: 403, message }
}

impl Rule {
    /// Of the agents that run as this service account.
    pub fn new(namespace: &str, account: &str) -> Self {
        Self {
            agent: format!("system:serviceaccount:{namespace}:{account}"),
        }
    }

    /// What comes of this request.
    pub fn judge(&self, request: &Request) -> Verdict {
        if request.user_info.username != self.agent {
            return Verdict::Decided(Ok(()));
        }
        let asked = node_of(request).and_then(|node| Ok((node, bound_pod(request)?)));
        match asked {
            Ok((node, pod)) => Verdict::IfOn { pod, node },
            Err(message) => Verdict::Decided(Err(forbidden(message))),
        }
    }
}

/// The node whose object is written.
fn node_of(request: &Request) -> Result<String, String> {
    let resource = &request.resource;
    let what = (resource.resource.as_str(), request.sub_resource.as_str());
    if resource.group == GROUP {
        match (what, request.operation.as_str()) {
            (("netresourcesets", "status"), "UPDATE") => {
                return named("metadata.name", request.name.as_str());
            }
            (("podendpoints", ""), "CREATE") => return written(&request.object),
            (("podendpoints", ""), "UPDATE") => {
                let (before, after) = (owner(&request.old_object)?, written(&request.object)?);
                return if before == after {
                    Ok(after)
                } else {
                    Err(format!(
                        "spec.node: {before:?} cannot become {after:?}: a PodEndpoint stays its node's"
                    ))
                };
            }
            (("podendpoints", ""), "DELETE") => return owner(&request.old_object),
            _ => {}
        }
    }
    let sub = if what.1.is_empty() { "" } else { "/" };
    Err(format!(
        "agents do not {} {}{sub}{} of {:?}",
        request.operation.to_lowercase(),
        what.0,
        what.1,
        resource.group
    ))
}

fn named(field: &str, value: &str) -> Result<String, String> {
    if value.is_empty() {
        Err(format!("{field}: is empty"))
    } else {
        Ok(value.to_owned())
    }
}

/// The node of a PodEndpoint as it is.
fn owner(object: &Value) -> Result<String, String> {
    let node = object.pointer("/spec/node").and_then(Value::as_str);
    named("spec.node", node.unwrap_or_default())
}

/// The node of a PodEndpoint as it would be. Lists and clean-up go by the label, so it must say the same.
fn written(object: &Value) -> Result<String, String> {
    let node = owner(object)?;
    let label = object
        .pointer("/metadata/labels")
        .and_then(|labels| labels.get(LABEL_NODE));
    if label.and_then(Value::as_str) == Some(&node) {
        Ok(node)
    } else {
        Err(format!(
            "metadata.labels[{LABEL_NODE}]: must be the same as spec.node, {node:?}"
        ))
    }
}

fn bound_pod(request: &Request) -> Result<BoundPod, String> {
    let extra = |key: &str| {
        let values = request.user_info.extra.get(key)?;
        values.first().filter(|value| !value.is_empty()).cloned()
    };
    match (extra(EXTRA_POD), extra(EXTRA_UID)) {
        (Some(name), Some(uid)) => Ok(BoundPod { name, uid }),
        _ => {
            Err("the agent's token is not bound to a pod, so that its node is not known".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::review::{Resource, User};
    use serde_json::json;

    const AGENT: &str = "system:serviceaccount:kube-system:tombolo-agent";

    fn endpoint(node: &str, label: &str) -> Value {
        json!({ "metadata": { "labels": { LABEL_NODE: label } }, "spec": { "node": node } })
    }

    fn request(operation: &str, resource: &str, (before, after): (Value, Value)) -> Request {
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        Request {
            uid: "1".to_owned(),
            operation: operation.to_owned(),
            resource: Resource {
                group: GROUP.to_owned(),
                resource: resource.to_owned(),
            },
            sub_resource: sub.to_owned(),
            name: "a".to_owned(),
            user_info: User {
                username: AGENT.to_owned(),
                extra: [(EXTRA_POD, "agent-x"), (EXTRA_UID, "u-1")]
                    .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
                    .into(),
            },
            object: after,
            old_object: before,
        }
    }

    /// The node that the verdict is about, or the refusal.
    fn judge(request: &Request) -> Result<String, String> {
        match Rule::new("kube-system", "tombolo-agent").judge(request) {
            Verdict::Decided(Ok(())) => Ok("anything".to_owned()),
            Verdict::Decided(Err(refusal)) => Err(refusal.message),
            Verdict::IfOn { node, pod } => {
                assert_eq!((pod.name.as_str(), pod.uid.as_str()), ("agent-x", "u-1"));
                Ok(node)
            }
        }
    }

    #[test]
    fn the_node_is_that_of_the_object() {
        let none = || Value::Null;
        let a = || endpoint("a", "a");
        for (operation, resource, objects, expected) in [
            (
                "UPDATE",
                "netresourcesets/status",
                (none(), none()),
                Ok("a"),
            ),
            ("CREATE", "podendpoints", (none(), a()), Ok("a")),
            ("UPDATE", "podendpoints", (a(), a()), Ok("a")),
            // Its label was spoiled by somebody: the owner puts it right.
            ("UPDATE", "podendpoints", (endpoint("a", "b"), a()), Ok("a")),
            ("DELETE", "podendpoints", (a(), none()), Ok("a")),
            (
                "DELETE",
                "podendpoints",
                (endpoint("b", "a"), none()),
                Ok("b"),
            ),
            (
                "UPDATE",
                "podendpoints",
                (endpoint("b", "b"), a()),
                Err("spec.node: \"b\" cannot become \"a\""),
            ),
            (
                "CREATE",
                "podendpoints",
                (none(), endpoint("a", "b")),
                Err("metadata.labels[tombolo.dev/node]: "),
            ),
            (
                "CREATE",
                "podendpoints",
                (none(), json!({ "spec": { "node": "a" } })),
                Err("metadata.labels["),
            ),
            (
                "CREATE",
                "podendpoints",
                (none(), json!({})),
                Err("spec.node: is empty"),
            ),
            (
                "DELETE",
                "podendpoints",
                (none(), none()),
                Err("spec.node: is empty"),
            ),
            (
                "UPDATE",
                "netresourcesets",
                (none(), none()),
                Err("agents do not update netresourcesets of"),
            ),
            (
                "CREATE",
                "netresourcesets/status",
                (none(), none()),
                Err("agents do not create netresourcesets/status"),
            ),
            (
                "DELETE",
                "enis",
                (none(), none()),
                Err("agents do not delete enis"),
            ),
        ] {
            let what = format!("{operation} {resource} {objects:?}");
            match (judge(&request(operation, resource, objects)), expected) {
                (Ok(node), Ok(expected)) => assert_eq!(node, expected, "{what}"),
                (Err(message), Err(begin)) => {
                    assert!(message.starts_with(begin), "{what}: {message}");
                }
                (got, _) => panic!("{what}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_token_that_says_no_pod_is_refused() {
        for missing in [EXTRA_POD, EXTRA_UID] {
            let mut asked = request(
                "UPDATE",
                "netresourcesets/status",
                (Value::Null, Value::Null),
            );
            asked.user_info.extra.remove(missing);
            assert!(judge(&asked).unwrap_err().contains("not bound to a pod"));
            asked
                .user_info
                .extra
                .insert(missing.to_owned(), vec![String::new()]);
            assert!(judge(&asked).unwrap_err().contains("not bound to a pod"));
        }
    }

    #[test]
    fn others_are_left_to_rbac() {
        let objects = (Value::Null, endpoint("b", "b"));
        let mut asked = request("CREATE", "podendpoints", objects);
        for user in ["admin", "system:serviceaccount:other:tombolo-agent", ""] {
            asked.user_info.username = user.to_owned();
            assert_eq!(judge(&asked), Ok("anything".to_owned()));
        }
    }
}
