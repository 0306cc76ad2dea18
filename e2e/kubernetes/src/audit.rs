//! What the API server's audit log says that an account did, beside what its roles allow.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::kubectl::{elements, text};

/// A right: verb, group, resource (with subresource).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub resource: String,
    pub group: String,
    pub verb: String,
}

/// A right that is granted though a run may not use it.
#[derive(Clone, Copy, Debug)]
pub struct Unused {
    pub account: &'static str,
    pub resource: &'static str,
    pub verb: &'static str,
    pub why: &'static str,
}

/// Rights of a role's rules.
pub fn granted(role: &Value) -> BTreeSet<Right> {
    let list = |rule: &Value, field: &str| {
        elements(rule, field)
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut rights = BTreeSet::new();
    for rule in elements(role, "/rules") {
        for group in list(rule, "/apiGroups") {
            for resource in list(rule, "/resources") {
                for verb in list(rule, "/verbs") {
                    rights.insert(Right {
                        resource: resource.clone(),
                        group: group.clone(),
                        verb,
                    });
                }
            }
        }
    }
    rights
}

/// What the log says of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// What it did, and how often.
    pub rights: BTreeMap<Right, u64>,
    /// What it was refused, with the server's words.
    pub refused: BTreeSet<String>,
}

/// Reads a log. Requests by kubectl and curl are not the account's: the checks make them in its name.
pub fn used(log: &str, account: &str) -> Result<Used> {
    let user = format!("system:serviceaccount:kube-system:{account}");
    let mut used = Used::default();
    let mut forbidden = BTreeMap::new();
    // The last line may not be whole yet.
    let whole = log
        .rfind('\n')
        .and_then(|end| log.get(..end))
        .unwrap_or_default();
    for line in whole.lines().filter(|line| line.contains(&user)) {
        let event: Value = serde_json::from_str(line)
            .with_context(|| format!("line of the audit log: {line:.200}"))?;
        let reference = event.pointer("/objectRef");
        let (Some(reference), true) = (reference, text(&event, "/user/username") == user) else {
            continue;
        };
        // Of a watch both its beginning and its end are told.
        if text(&event, "/verb") == "watch" && text(&event, "/stage") != "ResponseStarted" {
            continue;
        }
        let program = text(&event, "/userAgent");
        if program.starts_with("kubectl") || program.starts_with("curl") {
            continue;
        }
        let subresource = text(reference, "/subresource");
        let resource = match subresource {
            "" => text(reference, "/resource").to_owned(),
            below => format!("{}/{below}", text(reference, "/resource")),
        };
        let right = Right {
            resource,
            group: text(reference, "/apiGroup").to_owned(),
            verb: text(&event, "/verb").to_owned(),
        };
        let code = event
            .pointer("/responseStatus/code")
            .and_then(Value::as_u64);
        let said = || format!("{right:?} {}", text(&event, "/responseStatus/message"));
        let request = (right.clone(), name(reference));
        match code {
            // No valid object.
            Some(400 | 422) => drop(used.refused.insert(said())),
            Some(403) => drop(forbidden.insert(request, said())),
            _ => {
                // A server that only starts has not read its roles yet, and the same is asked again.
                forbidden.remove(&request);
                *used.rights.entry(right).or_default() += 1;
            }
        }
    }
    used.refused.extend(forbidden.into_values());
    Ok(used)
}

/// The name of the object of a request; of one that has none yet, nothing.
fn name(reference: &Value) -> (String, String) {
    let part = |pointer| text(reference, pointer).to_owned();
    (part("/namespace"), part("/name"))
}

/// Two columns, and whether they are the same but for `unused`: rights that no run uses, each with the reason.
pub fn compare(
    account: &str,
    granted: &BTreeSet<Right>,
    used: &Used,
    unused: &[Unused],
) -> (String, Vec<String>) {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header([account, "verb", "granted", "requests", ""]);
    let mut problems: Vec<String> = used
        .refused
        .iter()
        .map(|r| format!("{account} was refused {r}"))
        .collect();
    let all: BTreeSet<&Right> = granted.iter().chain(used.rights.keys()).collect();
    for right in all {
        let times = used.rights.get(right).copied().unwrap_or_default();
        let reason = unused
            .iter()
            .find(|u| (u.account, u.resource, u.verb) == (account, &*right.resource, &*right.verb));
        let (is_granted, comment) = (granted.contains(right), reason.map_or("", |r| r.why));
        if !is_granted {
            problems.push(format!(
                "{account}: {} {} is used and granted by no role of ours",
                right.verb, right.resource
            ));
        } else if times == 0 && comment.is_empty() {
            problems.push(format!(
                "{account}: {} {} is granted and was never used",
                right.verb, right.resource
            ));
        }
        let resource = if right.group.is_empty() {
            right.resource.clone()
        } else {
            format!("{}.{}", right.resource, right.group)
        };
        let yes = if is_granted { "yes" } else { "NO" };
        table.add_row([&resource, &right.verb, yes, &times.to_string(), comment]);
    }
    (table.to_string(), problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn right(resource: &str, verb: &str) -> Right {
        Right {
            resource: resource.to_owned(),
            group: "tombolo.dev".to_owned(),
            verb: verb.to_owned(),
        }
    }

    fn line(user: &str, agent: &str, verb: &str, code: u64) -> String {
        let event = json!({
            "user": {"username": format!("system:serviceaccount:kube-system:{user}")}, "userAgent": agent, "verb": verb,
            "objectRef": {"resource": "enis", "subresource": "status", "apiGroup": "tombolo.dev"}, "responseStatus": {"code": code},
        });
        format!("{event}\n")
    }

    #[test]
    fn rules_are_all_their_combinations() {
        let role = json!({"rules": [{"apiGroups": ["tombolo.dev"], "resources": ["enis", "enis/status"], "verbs": ["get", "patch"]}]});
        let wanted = [
            right("enis", "get"),
            right("enis", "patch"),
            right("enis/status", "get"),
            right("enis/status", "patch"),
        ];
        assert_eq!(granted(&role), BTreeSet::from(wanted));
    }

    #[test]
    fn a_log_is_read_for_one_account_without_what_kubectl_did_in_its_name() {
        let log = line("a", "tombolo", "patch", 200)
            + &line("a", "tombolo", "patch", 200)
            + &line("b", "tombolo", "get", 200)
            + &line("a", "kubectl/v1", "delete", 200)
            // Carried out when it was asked again.
            + &line("a", "tombolo", "update", 403)
            + &line("a", "tombolo", "update", 200)
            + &line("a", "tombolo", "create", 403)
            + &line("a", "tombolo", "delete", 422)
            + "{\"half";
        let used = used(&log, "a").unwrap();
        assert_eq!(
            used.rights,
            BTreeMap::from([
                (right("enis/status", "patch"), 2),
                (right("enis/status", "update"), 1)
            ])
        );
        assert_eq!(used.refused.len(), 2, "{:?}", used.refused);
    }

    #[test]
    fn what_is_unused_ungranted_or_refused_is_a_problem_unless_it_has_a_reason() {
        let granted = BTreeSet::from([
            right("enis", "get"),
            right("enis", "patch"),
            right("enis", "list"),
        ]);
        let mut used = Used::default();
        used.rights.insert(right("enis", "get"), 3);
        used.rights.insert(right("enis", "watch"), 1);
        used.refused.insert("x".to_owned());
        let (_, problems) = compare(
            "a",
            &granted,
            &used,
            &[Unused {
                account: "a",
                resource: "enis",
                verb: "list",
                why: "why",
            }],
        );
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
