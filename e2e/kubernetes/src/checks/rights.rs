//! Who may do what, and what the API server refuses.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::audit::{self, Right, Unused};
use crate::command::{failure, in_netns, run};
use crate::context::Context;
use crate::install::{AGENT, NAMESPACE, OPERATOR};
use crate::kubectl::{elements, text};
use crate::wait::until;

/// Rights that a sound run may not use, each with the reason why it is granted.
const UNUSED: &[Unused] = &[
    Unused {
        account: AGENT,
        resource: "events",
        verb: "create",
        why: "problems, of which a sound run has none",
    },
    Unused {
        account: AGENT,
        resource: "podendpoints",
        verb: "patch",
        why: "one that is there with other content",
    },
    Unused {
        account: OPERATOR,
        resource: "enis",
        verb: "get",
        why: "one that an operator made just before it died",
    },
    Unused {
        account: OPERATOR,
        resource: "netresourcesets",
        verb: "get",
        why: "one that another wrote meanwhile",
    },
];

/// Path of our group.
const OURS: &str = "/apis/tombolo.dev/v1alpha1";

/// Objects that no schema of ours allows, and the field that the refusal must name.
fn wrong() -> Vec<(&'static str, Value)> {
    let profile = |spec: Value| json!({"apiVersion": "tombolo.dev/v1alpha1", "kind": "NetworkProfile", "metadata": {"name": "wrong"}, "spec": spec});
    let endpoint = |spec: Value| json!({"apiVersion": "tombolo.dev/v1alpha1", "kind": "PodEndpoint", "metadata": {"name": "wrong", "namespace": "default"}, "spec": spec});
    vec![
        ("spec.ipFamilies", profile(json!({"ipFamilies": "IPv7"}))),
        ("spec.addressing", profile(json!({"addressing": "magic"}))),
        (
            "spec.pool.warmMin",
            profile(json!({"pool": {"warmMin": "three"}})),
        ),
        (
            "spec.pool.coolingSeconds",
            profile(json!({"pool": {"coolingSeconds": -1}})),
        ),
        ("spec.mtu", profile(json!({"mtu": 100}))),
        (
            "spec.snat.exclude",
            profile(json!({"snat": {"exclude": "10.0.0.0/8"}})),
        ),
        ("spec.nodeSelector", profile(json!({"nodeSelector": ["a"]}))),
        ("spec.node", endpoint(json!({"pod": "p"}))),
    ]
}

/// By the structural schema, and by the rules in it from Kubernetes 1.25 on; before, the operator tells of what breaks one.
pub fn invalid(context: &mut Context) -> Result<String> {
    let wrong = wrong();
    for (field, object) in &wrong {
        let said = context
            .kubectl
            .refused(&["create", "--validate=false", "-f", "-"], Some(object))?;
        ensure!(said.contains(field), "{field} is not named: {said}");
    }
    let by = if context.cluster.programs.since(25) {
        let said = context
            .kubectl
            .refused(&["create", "-f", "-"], Some(&contradicting()))?;
        ensure!(said.contains("spec.pool"), "spec.pool is not named: {said}");
        "refused too"
    } else {
        against_a_rule(context)?;
        "told by the operator"
    };
    Ok(format!(
        "{} objects, each refused with the name of its field; one against a rule, {by}",
        wrong.len()
    ))
}

/// A profile whose fields are each allowed and contradict each other.
fn contradicting() -> Value {
    json!({"apiVersion": "tombolo.dev/v1alpha1", "kind": "NetworkProfile", "metadata": {"name": "contradicting"},
        "spec": {"priority": 9, "nodeSelector": {"kubernetes.io/hostname": "node2"}, "pool": {"warmMin": 3, "warmMax": 2}}})
}

/// The server takes it, and the operator tells of the node that it is for.
fn against_a_rule(context: &Context) -> Result<()> {
    let kubectl = &context.kubectl;
    kubectl.apply(&[contradicting()])?;
    let told = until("the operator tells", Duration::from_secs(60), || {
        let events = kubectl.items(&["-n", NAMESPACE, "get", "events"])?;
        let of_ours = events.iter().find(|e| {
            text(e, "/reason") == "InvalidProfile" && text(e, "/involvedObject/name") == "node2"
        });
        Ok(text(of_ours.context("no Event")?, "/message").to_owned())
    });
    kubectl.run(&["delete", "networkprofile", "contradicting"])?;
    let told = told?;
    ensure!(told.contains("spec.pool.warmMin"), "{told}");
    Ok(())
}

/// A token of an account; bound to a pod, if one is given.
fn token(context: &Context, account: &str, pod: Option<&Value>) -> Result<String> {
    let mut request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    if let (Some(pod), Some(spec)) = (pod, request.pointer_mut("/spec")) {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": text(pod, "/metadata/name"), "uid": text(pod, "/metadata/uid")});
        crate::workload::set(spec, "boundObjectRef", bound);
    }
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token");
    let reply = context
        .kubectl
        .input(&["create", "--raw", &path, "-f", "-"], &request)?;
    let reply: Value = serde_json::from_str(&reply).context("answer to a TokenRequest")?;
    Ok(text(&reply, "/status/token").to_owned())
}

/// One request with a token: whether it was carried out, and what was said.
fn request(
    context: &Context,
    token: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<(bool, String)> {
    let control = context.cluster.control()?;
    let mut curl = in_netns(&control.machine.netns, "curl");
    curl.args(["--silent", "--show-error", "--fail-with-body", "--cacert"])
        .arg(control.pki.path("ca.crt"));
    curl.args([
        "--request",
        method,
        "--header",
        &format!("Authorization: Bearer {token}"),
    ]);
    let kind = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    curl.args([
        "--header",
        &format!("Content-Type: {kind}"),
        "--data",
        &body.to_string(),
    ]);
    curl.arg(format!("{}{path}", control.pki.server));
    let out = run(&mut curl, None)?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    // 22: the server answered, and the answer is an error.
    match out.status.code() {
        Some(0) => Ok((true, said)),
        Some(22) => Ok((false, said)),
        _ => bail!("{}", failure(&curl, &out)),
    }
}

/// The token of an agent writes what belongs to the agent's node, and nothing else.
pub fn identity(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    let agents = context.kubectl.items(&[
        "-n",
        NAMESPACE,
        "get",
        "pods",
        "-l",
        &format!("app.kubernetes.io/name={AGENT}"),
    ])?;
    let agent = agents
        .iter()
        .find(|p| text(p, "/spec/nodeName") == "node1")
        .context("no agent on node1")?;
    let (bound, unbound) = (
        token(context, AGENT, Some(agent))?,
        token(context, AGENT, None)?,
    );
    let endpoints = context.kubectl.items(&["get", "podendpoints"])?;
    let of = |uid: &str| {
        let found = endpoints.iter().find(|e| text(e, "/spec/podUid") == uid);
        found
            .map(|e| {
                format!(
                    "{OURS}/namespaces/default/podendpoints/{}",
                    text(e, "/metadata/name")
                )
            })
            .context("a pod has no PodEndpoint")
    };
    let (near, far) = (of(&base.near.uid)?, of(&base.far.uid)?);
    let set = |node: &str| format!("{OURS}/netresourcesets/{node}/status");
    let nothing = json!({"metadata": {"annotations": {"e2e": null}}});
    let forged = json!({"apiVersion": "tombolo.dev/v1alpha1", "kind": "PodEndpoint", "metadata": {"name": "forged"},
        "spec": {"node": "node2", "pod": "p", "network": "n", "containerId": "c", "ifname": "eth0", "hostIfname": "h", "state": "Ready"}});
    let tries: [(&str, &str, String, &Value, bool); 11] = [
        (&bound, "PATCH", set("node1"), &nothing, true),
        (&bound, "PATCH", near.clone(), &nothing, true),
        (&bound, "PATCH", set("node2"), &nothing, false),
        (&bound, "PATCH", far.clone(), &nothing, false),
        (&bound, "DELETE", far, &nothing, false),
        (
            &bound,
            "POST",
            format!("{OURS}/namespaces/default/podendpoints"),
            &forged,
            false,
        ),
        (
            &bound,
            "PATCH",
            near,
            &json!({"spec": {"node": "node2"}}),
            false,
        ),
        (
            &bound,
            "PATCH",
            format!("{OURS}/netresourcesets/node1"),
            &nothing,
            false,
        ),
        (
            &bound,
            "PATCH",
            "/api/v1/nodes/node1".to_owned(),
            &nothing,
            false,
        ),
        (
            &bound,
            "PATCH",
            "/api/v1/nodes/node2/status".to_owned(),
            &nothing,
            false,
        ),
        (&unbound, "PATCH", set("node1"), &nothing, false),
    ];
    let mut refused = 0;
    for (token, method, path, body, allowed) in &tries {
        let (done, said) = request(context, token, method, path, body)?;
        ensure!(done == *allowed, "{method} {path} with {body}: {said}");
        refused += usize::from(!done);
    }
    Ok(format!(
        "{} own writes pass, {refused} others are refused",
        tries.len() - refused
    ))
}

/// The audit log of the whole run beside the roles.
pub fn rbac(context: &mut Context) -> Result<String> {
    let log = context.cluster.dir.join("audit.log");
    let log = std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    let mut problems = Vec::new();
    let mut rights = 0;
    for account in [AGENT, OPERATOR] {
        let granted = granted(context, account)?;
        rights += granted.len();
        let used = audit::used(&log, account)?;
        let (table, wrong) = audit::compare(account, &granted, &used, UNUSED);
        println!("{table}");
        context.notes.push(table);
        problems.extend(wrong);
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("; "));
    }
    Ok(format!(
        "{rights} rights, {} of them unused for a reason",
        UNUSED.len()
    ))
}

/// Everything that roles grant an account.
fn granted(context: &Context, account: &str) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for (bindings, roles) in [
        ("clusterrolebindings", "clusterrole"),
        ("rolebindings", "role"),
    ] {
        for binding in context.kubectl.items(&["get", bindings, "-A"])? {
            let subjects = elements(&binding, "/subjects");
            let ours = subjects
                .filter(|s| text(s, "/kind") == "ServiceAccount" && text(s, "/name") == account)
                .count()
                > 0;
            if !ours {
                continue;
            }
            let name = text(&binding, "/roleRef/name");
            let namespace = text(&binding, "/metadata/namespace");
            let mut args = vec!["get", roles, name];
            if !namespace.is_empty() {
                args.extend(["-n", namespace]);
            }
            rights.extend(audit::granted(&context.kubectl.json(&args)?));
        }
    }
    ensure!(!rights.is_empty(), "no role grants {account} anything");
    Ok(rights)
}
