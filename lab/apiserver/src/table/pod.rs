//! The row of a pod: how many of its containers are ready, and one word for its state.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::age;
use crate::object::{self, list, text};

/// Cells of a pod, the wide ones included.
pub fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let statuses = list(pod, "/status/containerStatuses");
    let ready = statuses.iter().filter(|s| s["ready"] == true).count();
    let total = list(pod, "/spec/containers").len();
    let restarts: i64 = statuses
        .iter()
        .filter_map(|s| s["restartCount"].as_i64())
        .sum();
    let or_none = |t: &str| json!(if t.is_empty() { "<none>" } else { t });
    let ip = match list(pod, "/status/podIPs").first() {
        Some(first) => text(first, "/ip"),
        None => text(pod, "/status/podIP"),
    };
    let gates = list(pod, "/spec/readinessGates");
    let open = gates
        .iter()
        .filter(|g| condition(pod, text(g, "/conditionType")) == "True")
        .count();
    let gates = if gates.is_empty() {
        json!("<none>")
    } else {
        json!(format!("{open}/{}", gates.len()))
    };
    vec![
        json!(object::name(pod)),
        json!(format!("{ready}/{total}")),
        json!(state(pod)),
        json!(restarts.to_string()),
        json!(age(text(pod, "/metadata/creationTimestamp"), now)),
        or_none(ip),
        or_none(text(pod, "/spec/nodeName")),
        or_none(text(pod, "/status/nominatedNodeName")),
        gates,
    ]
}

/// Status of a condition of a pod or node, empty where there is none.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    list(object, "/status/conditions")
        .iter()
        .find(|c| c["type"] == kind)
        .map_or("", |c| text(c, "/status"))
}

/// The word in column STATUS: the init container that holds the pod up, else why a container does not run, else the phase.
fn state(pod: &Value) -> String {
    if object::deleting(pod) {
        let lost = text(pod, "/status/reason") == "NodeLost";
        return if lost { "Unknown" } else { "Terminating" }.to_owned();
    }
    let phase = text(pod, "/status/phase");
    let own = text(pod, "/status/reason");
    let mut word = if own.is_empty() { phase } else { own }.to_owned();
    if word.is_empty() {
        word = "Pending".to_owned();
    }
    init_state(pod).unwrap_or_else(|| running_state(pod, word))
}

fn init_state(pod: &Value) -> Option<String> {
    let all = list(pod, "/spec/initContainers").len();
    let statuses = list(pod, "/status/initContainerStatuses");
    for (i, status) in statuses.iter().enumerate() {
        let (ended, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if ended["exitCode"] == 0 {
            continue;
        }
        let reason = text(waiting, "/reason");
        return Some(if ended.is_object() {
            format!("Init:{}", end_word(ended))
        } else if !reason.is_empty() && reason != "PodInitializing" {
            format!("Init:{reason}")
        } else {
            format!("Init:{i}/{all}")
        });
    }
    None
}

fn running_state(pod: &Value, mut word: String) -> String {
    let mut running = false;
    for status in list(pod, "/status/containerStatuses").iter().rev() {
        let state = &status["state"];
        let waiting = text(state, "/waiting/reason");
        if !waiting.is_empty() {
            word = waiting.to_owned();
        } else if state["terminated"].is_object() {
            word = end_word(&state["terminated"]);
        } else if status["ready"] == true && state["running"].is_object() {
            running = true;
        }
    }
    // Some containers ended well while others still run.
    if word == "Completed" && running {
        let ready = condition(pod, "Ready") == "True";
        word = if ready { "Running" } else { "NotReady" }.to_owned();
    }
    word
}

fn end_word(ended: &Value) -> String {
    let reason = text(ended, "/reason");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match ended["signal"].as_i64() {
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended["exitCode"].as_i64().unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(status: Value) -> String {
        state(&json!({"metadata": {}, "spec": {"initContainers": [{}, {}]}, "status": status}))
    }

    #[test]
    fn words() {
        assert_eq!(word(json!({"phase": "Pending"})), "Pending");
        assert_eq!(
            word(json!({"phase": "Failed", "reason": "Evicted"})),
            "Evicted"
        );
        assert_eq!(
            word(
                json!({"initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}}, {"state": {"running": {}}}]})
            ),
            "Init:1/2"
        );
        assert_eq!(
            word(json!({"initContainerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]})),
            "Init:ExitCode:3"
        );
        assert_eq!(
            word(
                json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]})
            ),
            "ContainerCreating"
        );
        assert_eq!(
            word(json!({"phase": "Running", "containerStatuses": [
            {"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}, {"ready": true, "state": {"running": {}}}]})),
            "NotReady"
        );
        let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(state(&gone), "Terminating");
    }
}
