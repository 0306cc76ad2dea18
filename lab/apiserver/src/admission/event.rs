//! Events, in the core form in which they are stored. Whoever writes one by `events.k8s.io` must say when, who, what and
//! about what.

use serde_json::{Value, json};

use crate::error::Cause;
use crate::object::{self, text};

/// Longest note in bytes.
const NOTE: usize = 1024;

/// What is wrong with a new Event; `new` where it came by `events.k8s.io`.
pub fn check(event: &Value, new: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    let (own, about) = (
        object::namespace(event),
        text(event, "/involvedObject/namespace"),
    );
    // As in 1.20; later versions take both of these namespaces for both kinds.
    let timed = !text(event, "/eventTime").is_empty();
    let agree = match about {
        "" => own == if timed { "kube-system" } else { "default" },
        about => timed || own == about,
    };
    if !agree {
        let problem = "does not match event.namespace";
        causes.push(Cause::invalid(
            "involvedObject.namespace",
            &json!(about),
            problem,
        ));
    }
    if !new {
        return causes;
    }
    for (pointer, field) in [
        ("/eventTime", "eventTime"),
        ("/reportingComponent", "reportingController"),
        ("/reportingInstance", "reportingInstance"),
        ("/action", "action"),
        ("/reason", "reason"),
    ] {
        if text(event, pointer).is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    let kind = text(event, "/type");
    if !matches!(kind, "Normal" | "Warning") {
        causes.push(Cause::invalid("type", &json!(kind), "has invalid value"));
    }
    if text(event, "/message").len() > NOTE {
        let problem = "can have at most 1024 characters";
        causes.push(Cause::invalid("message", &json!(""), problem));
    }
    causes
}
