//! Rows of the built-in kinds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, age_of, name_of, pod};
use crate::object::{list, text};
use crate::registry::{Behaviour, Resource};

/// Headings with their priority (above 0: only with `-o wide`); empty: this kind has no row of its own.
pub fn headings(res: &Resource) -> &'static [(&'static str, i64)] {
    if res.behaviour == Behaviour::Custom {
        return &[];
    }
    match res.plural.as_str() {
        "pods" => &[
            ("Name", 0),
            ("Ready", 0),
            ("Status", 0),
            ("Restarts", 0),
            ("Age", 0),
            ("IP", 1),
            ("Node", 1),
            ("Nominated Node", 1),
            ("Readiness Gates", 1),
        ],
        "nodes" => &[
            ("Name", 0),
            ("Status", 0),
            ("Roles", 0),
            ("Age", 0),
            ("Version", 0),
            ("Internal-IP", 1),
            ("External-IP", 1),
            ("OS-Image", 1),
            ("Kernel-Version", 1),
            ("Container-Runtime", 1),
        ],
        "namespaces" => &[("Name", 0), ("Status", 0), ("Age", 0)],
        "leases" => &[("Name", 0), ("Holder", 0), ("Age", 0)],
        "events" => &[
            ("Last Seen", 0),
            ("Type", 0),
            ("Reason", 0),
            ("Object", 0),
            ("Subobject", 1),
            ("Source", 1),
            ("Message", 0),
            ("First Seen", 1),
            ("Count", 1),
            ("Name", 1),
        ],
        "services" => &[
            ("Name", 0),
            ("Type", 0),
            ("Cluster-IP", 0),
            ("External-IP", 0),
            ("Port(s)", 0),
            ("Age", 0),
            ("Selector", 1),
        ],
        "endpoints" => &[("Name", 0), ("Endpoints", 0), ("Age", 0)],
        "endpointslices" => &[
            ("Name", 0),
            ("AddressType", 0),
            ("Ports", 0),
            ("Endpoints", 0),
            ("Age", 0),
        ],
        "configmaps" => &[("Name", 0), ("Data", 0), ("Age", 0)],
        "secrets" => &[("Name", 0), ("Type", 0), ("Data", 0), ("Age", 0)],
        "customresourcedefinitions" => &[("Name", 0), ("Created At", 0)],
        _ => &[],
    }
}

/// Cells under the headings; `None` where the kind has none of its own.
pub fn cells(res: &Resource, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    if res.behaviour == Behaviour::Custom {
        return None;
    }
    let name = || name_of(object);
    let age = || age_of(object, now);
    let entries = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_object)
            .map_or(0, serde_json::Map::len)
    };
    Some(match res.plural.as_str() {
        "pods" => pod::cells(object, now),
        "nodes" => node(object, now),
        "namespaces" => vec![name(), json!(text(object, "/status/phase")), age()],
        "leases" => vec![name(), json!(text(object, "/spec/holderIdentity")), age()],
        "events" => event(object, now),
        "services" => service(object, now),
        "endpoints" => vec![name(), json!(endpoints(object)), age()],
        "endpointslices" => vec![
            name(),
            json!(text(object, "/addressType")),
            json!(some(ports(object, "/ports"))),
            json!(some(
                list(object, "/endpoints")
                    .iter()
                    .flat_map(|e| list(e, "/addresses"))
                    .filter_map(|a| a.as_str().map(str::to_owned))
                    .collect()
            )),
            age(),
        ],
        "configmaps" => vec![
            name(),
            json!((entries("/data") + entries("/binaryData")).to_string()),
            age(),
        ],
        "secrets" => vec![
            name(),
            json!(text(object, "/type")),
            json!(entries("/data").to_string()),
            age(),
        ],
        "customresourcedefinitions" => {
            vec![name(), json!(text(object, "/metadata/creationTimestamp"))]
        }
        _ => return None,
    })
}

/// Up to three words with commas, then how many more; `<none>` without any.
fn some(words: Vec<String>) -> String {
    match words.len() {
        0 => "<none>".to_owned(),
        n if n > 3 => format!("{} + {} more...", words[..3].join(","), n - 3),
        _ => words.join(","),
    }
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match pod::condition(node, "Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&json!(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.as_str() {
            "kubernetes.io/role" => value.as_str(),
            _ => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    let address = |kind: &str| {
        list(node, "/status/addresses")
            .iter()
            .find(|a| a["type"] == kind)
            .map_or("<none>", |a| text(a, "/address"))
    };
    let info = |field: &str| {
        let pointer = format!("/status/nodeInfo/{field}");
        json!(or(text(node, &pointer), "<unknown>"))
    };
    vec![
        name_of(node),
        json!(status),
        json!(or(&roles.join(","), "<none>")),
        age_of(node, now),
        json!(text(node, "/status/nodeInfo/kubeletVersion")),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    // One form of Event or the other.
    let either = |core: &str, new: &str| or(text(event, core), text(event, new)).to_owned();
    let regarding = |field: &str| {
        either(
            &format!("/involvedObject/{field}"),
            &format!("/regarding/{field}"),
        )
    };
    let first = [
        "/firstTimestamp",
        "/deprecatedFirstTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ];
    let last = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ];
    let since = |pointers: &[&str]| {
        let at = pointers
            .iter()
            .map(|p| text(event, p))
            .find(|t| !t.is_empty());
        json!(age::age(at.unwrap_or_default(), now))
    };
    let count = event
        .pointer("/series/count")
        .or_else(|| event.get("count"))
        .or_else(|| event.get("deprecatedCount"))
        .and_then(Value::as_i64)
        .unwrap_or(1);
    let source = either("/source/component", "/deprecatedSource/component");
    let source = if source.is_empty() {
        either("/reportingComponent", "/reportingController")
    } else {
        source
    };
    vec![
        since(&last),
        json!(text(event, "/type")),
        json!(text(event, "/reason")),
        json!(format!(
            "{}/{}",
            regarding("kind").to_lowercase(),
            regarding("name")
        )),
        json!(regarding("fieldPath")),
        json!(source),
        json!(either("/message", "/note").trim()),
        since(&first),
        json!(count.to_string()),
        name_of(event),
    ]
}

fn service(service: &Value, now: Timestamp) -> Vec<Value> {
    let external = some(
        list(service, "/spec/externalIPs")
            .iter()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect(),
    );
    let selector: Vec<String> = service
        .pointer("/spec/selector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    let ports: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|p| {
            let node = p["nodePort"]
                .as_i64()
                .map_or(String::new(), |n| format!(":{n}"));
            format!("{}{node}/{}", p["port"], or(text(p, "/protocol"), "TCP"))
        })
        .collect();
    vec![
        name_of(service),
        json!(or(text(service, "/spec/type"), "ClusterIP")),
        json!(or(text(service, "/spec/clusterIP"), "<none>")),
        json!(external),
        json!(or(&ports.join(","), "<none>")),
        age_of(service, now),
        json!(or(&selector.join(","), "<none>")),
    ]
}

fn ports(object: &Value, pointer: &str) -> Vec<String> {
    list(object, pointer)
        .iter()
        .map(|p| p["port"].to_string())
        .collect()
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        let ports = ports(subset, "/ports");
        for address in list(subset, "/addresses") {
            let ip = text(address, "/ip");
            let ip = if ip.contains(':') {
                format!("[{ip}]")
            } else {
                ip.to_owned()
            };
            if ports.is_empty() {
                all.push(ip);
            } else {
                all.extend(ports.iter().map(|p| format!("{ip}:{p}")));
            }
        }
    }
    some(all)
}
