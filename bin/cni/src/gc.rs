//! What a runtime lists for GC. A list that is missing or malformed anywhere is refused as a whole: what it leaves out
//! loses its network.
//!
//! A list is of the time at which it was made, and the agent may read it much later: it is told when the plugin began.

use serde_json::{Map, Value};
use tombolo_core::types::AttachmentKey;
use tombolo_rpc::{MAX_VALID, ValidAttachment};

use crate::config::{ConfigError, Problem};

/// The key in the configuration. (libcni says the same under `cni.dev/attachments`, too.)
pub const FIELD: &str = "cni.dev/valid-attachments";

/// The attachments of `network` that stand. `null` and an empty list say that none does.
pub fn valid(
    conf: &Map<String, Value>,
    network: &str,
) -> Result<Vec<ValidAttachment>, ConfigError> {
    let wrong = |problem| Err(ConfigError::field(FIELD, problem));
    let listed = match conf.get(FIELD) {
        // Somebody calls GC without knowing what stands: everything would go.
        None => return wrong(Problem::Missing),
        Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(listed)) => listed,
        Some(_) => {
            return wrong(Problem::WrongType { expected: "a list" });
        }
    };
    if listed.len() > MAX_VALID {
        return wrong(Problem::Value {
            given: format!("{} attachments", listed.len()),
            must: "are too many: it may have 4096",
        });
    }
    let entries = listed.iter().enumerate();
    entries
        .map(|(index, entry)| attachment(entry, network, &format!("{FIELD}[{index}]")))
        .collect()
}

fn attachment(entry: &Value, network: &str, path: &str) -> Result<ValidAttachment, ConfigError> {
    let Value::Object(entry) = entry else {
        let expected = "an object";
        return Err(ConfigError::field(path, Problem::WrongType { expected }));
    };
    let part = |name: &str| {
        let at = |problem| ConfigError::field(format!("{path}.{name}"), problem);
        match entry.get(name) {
            None | Some(Value::Null) => Err(at(Problem::Missing)),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(at(Problem::WrongType {
                expected: "a string",
            })),
        }
    };
    let (container_id, ifname) = (part("containerID")?, part("ifname")?);
    AttachmentKey::new(network, &container_id, &ifname).map_err(|invalid| {
        let name = match invalid.field {
            "CNI_CONTAINERID" => "containerID",
            _ => "ifname",
        };
        let problem = Problem::Value {
            given: invalid.value,
            must: invalid.problem,
        };
        ConfigError::field(format!("{path}.{name}"), problem)
    })?;
    Ok(ValidAttachment {
        container_id,
        ifname,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(list: Option<Value>) -> Result<Vec<(String, String)>, String> {
        let conf: Map<_, _> = list
            .map(|list| (FIELD.to_owned(), list))
            .into_iter()
            .collect();
        let found = valid(&conf, "net").map_err(|error| error.to_string())?;
        Ok(found
            .into_iter()
            .map(|valid| (valid.container_id, valid.ifname))
            .collect())
    }

    #[test]
    fn none_is_said_and_not_left_out() {
        assert_eq!(read(Some(Value::Null)), Ok(vec![]));
        assert_eq!(read(Some(json!([]))), Ok(vec![]));
        let listed = json!([{"containerID": "c1", "ifname": "eth0", "x": 1}, {"containerID": "c1", "ifname": "net1"}]);
        let pair = |ifname: &str| ("c1".to_owned(), ifname.to_owned());
        assert_eq!(read(Some(listed)), Ok(vec![pair("eth0"), pair("net1")]));
        let missing = read(None).unwrap_err();
        assert!(
            missing.ends_with("cni.dev/valid-attachments is missing"),
            "{missing}"
        );
    }

    #[test]
    fn what_is_malformed_is_named_and_nothing_is_taken_for_none() {
        let one = |id: Value, ifname: Value| json!([{"containerID": "a", "ifname": "eth0"}, {"containerID": id, "ifname": ifname}]);
        let table = [
            (json!({}), "attachments must be a list"),
            (json!("a"), "attachments must be a list"),
            (json!([[]]), "attachments[0] must be an object"),
            (json!([null]), "attachments[0] must be an object"),
            (json!([{"ifname": "eth0"}]), "[0].containerID is missing"),
            (
                json!([{"containerid": "a", "ifname": "eth0"}]),
                "[0].containerID is missing",
            ),
            (
                one(json!(null), json!("eth0")),
                "[1].containerID is missing",
            ),
            (one(json!("b"), json!(null)), "[1].ifname is missing"),
            (
                one(json!(7), json!("eth0")),
                "[1].containerID must be a string",
            ),
            (
                one(json!("../b"), json!("eth0")),
                "[1].containerID \"../b\" must match",
            ),
            (
                one(json!(""), json!("eth0")),
                "[1].containerID \"\" must match",
            ),
            (
                one(json!("b"), json!("a/b")),
                "[1].ifname \"a/b\" must have",
            ),
        ];
        for (list, words) in table {
            let error = read(Some(list)).unwrap_err();
            assert!(error.contains(words), "{words:?} is in {error:?}");
        }
        let long = vec![json!({"containerID": "a", "ifname": "eth0"}); MAX_VALID + 1];
        let error = read(Some(long.into())).unwrap_err();
        assert!(
            error.contains("4097 attachments") && error.ends_with("4096"),
            "{error}"
        );
    }
}
