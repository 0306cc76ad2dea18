//! `runtimeConfig.portMappings`: ports of the node that lead to the pod.
//!
//! Runtimes do not agree about upper and lower case, at any level: containerd writes `HostPort`, others `hostPort`. What the
//! entries mean is the agent's to say; here they get their types.

use serde_json::{Map, Value};
use tombolo_rpc::PortMapping;

use crate::config::{ConfigError, Problem};
use crate::runtime::member;

/// The entries that ask for something: one with host port 0 only says which ports the pod has.
pub fn parse(runtime: &Map<String, Value>) -> Result<Vec<PortMapping>, ConfigError> {
    const FIELD: &str = "runtimeConfig.portMappings";
    match member(runtime, "portMappings", "runtimeConfig")? {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            let entries = list.iter().enumerate().map(|(index, entry)| {
                let at = format!("{FIELD}[{index}]");
                match entry {
                    Value::Object(entry) => mapping(entry, &at),
                    _ => Err(wrong(at, "an object")),
                }
            });
            entries.filter_map(Result::transpose).collect()
        }
        Some(_) => Err(wrong(FIELD, "a list")),
    }
}

fn mapping(entry: &Map<String, Value>, at: &str) -> Result<Option<PortMapping>, ConfigError> {
    let host_port = port(entry, "hostPort", at)?;
    if host_port == 0 {
        return Ok(None);
    }
    let protocol = text(entry, "protocol", at)?.filter(|text| !text.is_empty());
    Ok(Some(PortMapping {
        host_port,
        container_port: port(entry, "containerPort", at)?,
        // Kubernetes' own default.
        protocol: protocol.unwrap_or("tcp").to_owned(),
        host_ip: text(entry, "hostIP", at)?.unwrap_or_default().to_owned(),
    }))
}

/// 0 where there is none.
fn port(entry: &Map<String, Value>, name: &str, at: &str) -> Result<u32, ConfigError> {
    let field = format!("{at}.{name}");
    match member(entry, name, at)? {
        None => Ok(0),
        Some(Value::Number(number)) => match number.as_u64() {
            Some(port @ 0..=0xffff) => Ok(u32::try_from(port).unwrap_or_default()),
            _ => {
                let (given, must) = (number.to_string(), "must be a whole number up to 65535");
                Err(ConfigError::field(field, Problem::Value { given, must }))
            }
        },
        Some(_) => Err(wrong(field, "a number")),
    }
}

fn text<'a>(
    entry: &'a Map<String, Value>,
    name: &str,
    at: &str,
) -> Result<Option<&'a str>, ConfigError> {
    match member(entry, name, at)? {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(format!("{at}.{name}"), "a string")),
    }
}

fn wrong(field: impl Into<String>, expected: &'static str) -> ConfigError {
    ConfigError::field(field, Problem::WrongType { expected })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(runtime: &Value) -> Result<Vec<PortMapping>, String> {
        parse(runtime.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_spelling_is_read() {
        let wanted = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: "UDP".to_owned(),
            host_ip: "10.0.0.1".to_owned(),
        };
        for entry in [
            json!({ "hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "10.0.0.1" }),
            json!({ "HostPort": 8080, "ContainerPort": 80, "Protocol": "UDP", "HostIP": "10.0.0.1" }),
            json!({ "hostport": 8080, "containerport": 80, "protocol": "UDP", "hostip": "10.0.0.1", "more": {} }),
        ] {
            for name in ["portMappings", "PortMappings", "portmappings"] {
                let runtime = json!({ name: [entry] });
                assert_eq!(read(&runtime), Ok(vec![wanted.clone()]), "{runtime}");
            }
        }
    }

    #[test]
    fn what_asks_for_nothing_gives_nothing() {
        for runtime in [
            json!({}),
            json!({ "portMappings": null }),
            json!({ "portMappings": [] }),
            json!({ "portMappings": [{ "hostPort": 0, "containerPort": 80 }, { "ContainerPort": 80 }] }),
        ] {
            assert_eq!(read(&runtime), Ok(Vec::new()), "{runtime}");
        }
        let found =
            read(&json!({ "portMappings": [{ "HostPort": 1, "ContainerPort": 2, "HostIP": "" }] }));
        let found = found.unwrap();
        assert_eq!(
            (found[0].protocol.as_str(), found[0].host_ip.as_str()),
            ("tcp", "")
        );
    }

    #[test]
    fn errors_name_the_entry_and_the_field() {
        let at = |entry: Value| json!({ "portMappings": [{ "hostPort": 0 }, entry] });
        for (runtime, field) in [
            (
                json!({ "portMappings": {} }),
                "runtimeConfig.portMappings must be a list",
            ),
            (
                at(json!(7)),
                "runtimeConfig.portMappings[1] must be an object",
            ),
            (
                at(json!({ "hostPort": "80" })),
                "runtimeConfig.portMappings[1].hostPort must be a number",
            ),
            (
                at(json!({ "hostPort": 65536 })),
                "runtimeConfig.portMappings[1].hostPort",
            ),
            (
                at(json!({ "hostPort": -1 })),
                "runtimeConfig.portMappings[1].hostPort",
            ),
            (
                at(json!({ "hostPort": 1, "ContainerPort": 1.5 })),
                "runtimeConfig.portMappings[1].containerPort",
            ),
            (
                at(json!({ "hostPort": 1, "protocol": 6 })),
                "runtimeConfig.portMappings[1].protocol",
            ),
            (
                at(json!({ "hostPort": 1, "hostIP": [] })),
                "runtimeConfig.portMappings[1].hostIP",
            ),
            (
                at(json!({ "hostPort": 1, "HostPort": 2 })),
                "runtimeConfig.portMappings[1].hostPort",
            ),
            (
                json!({ "portMappings": [], "PortMappings": [] }),
                "runtimeConfig.portMappings",
            ),
        ] {
            let error = read(&runtime).unwrap_err();
            assert!(error.contains(field), "{error}: {field}");
        }
    }
}
