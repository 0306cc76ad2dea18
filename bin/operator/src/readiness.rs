//! What a Node says of its network: the condition NetworkUnavailable, and the start-up taint, which goes once pods can be
//! attached. The agent says how it is, in the condition Ready of its NetResourceSet; only the operator writes Nodes, since
//! what a node may write there cannot be held apart from what other nodes are (docs/adr/0012). Pure.

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;
use serde_json::{Value, json};
use tombolo_api::{
    CONDITION_NETWORK_UNAVAILABLE, CONDITION_READY, NetResourceSet, TAINT_NOT_READY,
};

/// What is to be written to a Node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The condition, without times.
    pub condition: Option<Value>,
    /// All taints but ours, where ours is there and has to go.
    pub taints: Option<Vec<Taint>>,
}

/// What differs between the Node and what its agent says.
pub fn wanted(node: &Node, nrs: Option<&NetResourceSet>) -> Wanted {
    let conditions = nrs
        .and_then(|nrs| nrs.status.as_ref())
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let said = conditions.iter().find(|c| c.type_ == CONDITION_READY);
    let serves = said.is_some_and(|said| said.status == "True");
    let (status, reason, message) = match said {
        _ if serves => ("False", "TomboloServes", "pods can be attached"),
        Some(said) => ("True", said.reason.as_str(), said.message.as_str()),
        None if nrs.is_none() => (
            "True",
            "NotReady",
            "the operator has not yet described this node",
        ),
        None => (
            "True",
            "NotReady",
            "the node's agent has not yet said that pods can be attached",
        ),
    };
    let same = condition(node).is_some_and(|now| now == (status, Some(reason)));
    let condition = (!same).then(|| {
        json!({
            "type": CONDITION_NETWORK_UNAVAILABLE, "status": status, "reason": reason, "message": message,
        })
    });
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let taints = taints.filter(|_| serves && is_tainted(node)).map(|all| {
        all.iter()
            .filter(|taint| taint.key != TAINT_NOT_READY)
            .cloned()
            .collect()
    });
    Wanted { condition, taints }
}

/// What of a Node this looks at.
pub fn of_interest(node: &Node) -> (Option<(String, Option<String>)>, bool) {
    let condition =
        condition(node).map(|(status, reason)| (status.to_owned(), reason.map(str::to_owned)));
    (condition, is_tainted(node))
}

/// Status and reason of the condition.
fn condition(node: &Node) -> Option<(&str, Option<&str>)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ours = conditions
        .iter()
        .find(|c| c.type_ == CONDITION_NETWORK_UNAVAILABLE)?;
    Some((ours.status.as_str(), ours.reason.as_deref()))
}

fn is_tainted(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == TAINT_NOT_READY))
}

/// The patch that writes the taints into the version that they were read from: one that somebody else set in between must
/// not be lost.
pub fn taint_patch(node: &Node, rest: &[Taint]) -> Value {
    json!({
        "metadata": { "uid": node.uid(), "resourceVersion": node.resource_version() }, "spec": { "taints": rest },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(taints: &[&str], condition: Option<(&str, &str)>) -> Node {
        let taints: Vec<_> = taints
            .iter()
            .map(|key| json!({ "key": key, "effect": "NoSchedule" }))
            .collect();
        let other = json!({ "type": "Ready", "status": "True" });
        let ours = condition.map(|(status, reason)| {
            json!({ "type": CONDITION_NETWORK_UNAVAILABLE, "status": status, "reason": reason })
        });
        let conditions: Vec<_> = ours.into_iter().chain([other]).collect();
        let node = json!({
            "metadata": { "name": "n" }, "spec": { "taints": taints }, "status": { "conditions": conditions },
        });
        serde_json::from_value(node).unwrap()
    }

    fn set(ready: Option<(&str, &str)>) -> NetResourceSet {
        let ready = ready.map(|(status, reason)| {
            json!({
                "type": "Ready", "status": status, "reason": reason, "message": "why",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        });
        let conditions: Vec<_> = ready.into_iter().collect();
        let profile = json!({ "name": "p", "ipFamilies": "IPv4", "pool": {}, "snat": true });
        let spec = json!({
            "instanceId": "i", "instanceType": "t", "zone": "z", "profile": profile, "vpcCidrs": [],
            "limits": { "maxNics": 1, "ipv4PerNic": 1, "ipv6PerNic": 1 },
        });
        let nrs = json!({
            "apiVersion": "tombolo.dev/v1alpha1", "kind": "NetResourceSet", "metadata": { "name": "n" },
            "spec": spec, "status": { "conditions": conditions },
        });
        serde_json::from_value(nrs).unwrap()
    }

    #[test]
    fn the_node_follows_its_agent() {
        let fresh = node(&[TAINT_NOT_READY, "other"], None);
        let served = node(&["other"], Some(("False", "TomboloServes")));
        let serves = set(Some(("True", "Serving")));
        let fails = set(Some(("False", "ForeignConflict")));
        for (what, node, nrs, condition, untainted) in [
            ("no object", &fresh, None, Some(("True", "NotReady")), false),
            (
                "an agent that said nothing",
                &fresh,
                Some(&set(None)),
                Some(("True", "NotReady")),
                false,
            ),
            (
                "an agent that serves",
                &fresh,
                Some(&serves),
                Some(("False", "TomboloServes")),
                true,
            ),
            ("nothing to do", &served, Some(&serves), None, false),
            (
                "one that fails",
                &served,
                Some(&fails),
                Some(("True", "ForeignConflict")),
                false,
            ),
            (
                "tainted while it fails",
                &fresh,
                Some(&fails),
                Some(("True", "ForeignConflict")),
                false,
            ),
        ] {
            let wanted = wanted(node, nrs);
            let written = wanted.condition.as_ref();
            let written =
                written.map(|c| (c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()));
            assert_eq!(written, condition, "{what}");
            let rest = wanted.taints.as_deref();
            let rest = rest.map(|rest| rest.iter().map(|t| t.key.as_str()).collect::<Vec<_>>());
            assert_eq!(rest, untainted.then(|| vec!["other"]), "{what}");
        }
        let message = &wanted(&served, Some(&fails)).condition.unwrap()["message"];
        assert_eq!(message, "why");
    }
}
