//! What a runtime asks for beside an interface: capabilities (`runtimeConfig`) and `args.cni`.
//!
//! Runtimes do not agree about upper and lower case, at any level: containerd writes the names of Go's fields, others
//! camelCase. What asks for an address or a MAC is refused; what we do not do and nobody misses is ignored, and told on
//! stderr.

use serde_json::{Map, Value};

use crate::config::{ConfigError, Problem};

/// Capabilities that we do not have. Their absence changes no address and no route.
const UNHEARD: [&str; 4] = ["bandwidth", "ipRanges", "infinibandGUID", "deviceID"];

/// Names of a resolver's settings: as `runtimeConfig.dns` has them, and as results do.
const RESOLVER: [(&str, &str); 3] = [
    ("servers", "nameservers"),
    ("searches", "search"),
    ("options", "options"),
];

/// What an ADD is to heed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `dns` of the result.
    pub dns: Option<Map<String, Value>>,
    /// What is ignored.
    pub unheard: Vec<String>,
}

/// Reads what is there.
pub fn asked(conf: &Map<String, Value>) -> Result<Asked, ConfigError> {
    let empty = Map::new();
    let runtime = object(conf.get("runtimeConfig"), "runtimeConfig")?.unwrap_or(&empty);
    let args = object(conf.get("args"), "args")?.unwrap_or(&empty);
    let args = object(member(args, "cni", "args")?, "args.cni")?.unwrap_or(&empty);

    let addresses = "addresses come from the agent";
    let mac = "the MAC follows from the attachment";
    refuse(
        member(runtime, "ips", "runtimeConfig")?,
        "runtimeConfig.ips",
        addresses,
    )?;
    refuse(
        member(runtime, "mac", "runtimeConfig")?,
        "runtimeConfig.mac",
        mac,
    )?;
    refuse(member(args, "ips", "args.cni")?, "args.cni.ips", addresses)?;
    refuse(member(args, "mac", "args.cni")?, "args.cni.mac", mac)?;

    let mut unheard = Vec::new();
    for name in UNHEARD {
        if member(runtime, name, "runtimeConfig")?.is_some_and(asks) {
            unheard.push(format!("runtimeConfig.{name}"));
        }
    }
    let dns = match resolver(runtime)? {
        Some(dns) => Some(dns),
        None => configured_resolver(conf)?,
    };
    Ok(Asked { dns, unheard })
}

/// The member with this name, however it is written; null is none. Two spellings at once contradict each other.
pub fn member<'a>(
    object: &'a Map<String, Value>,
    name: &str,
    at: &str,
) -> Result<Option<&'a Value>, ConfigError> {
    let mut found = object
        .iter()
        .filter(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null());
    match (found.next(), found.next()) {
        (first, None) => Ok(first.map(|(_, value)| value)),
        (_, Some((second, _))) => {
            let (given, must) = (second.clone(), "is there twice, in different spellings");
            let problem = Problem::Value { given, must };
            Err(ConfigError::field(format!("{at}.{name}"), problem))
        }
    }
}

/// What the runtime says of the pod's resolver.
fn resolver(runtime: &Map<String, Value>) -> Result<Option<Map<String, Value>>, ConfigError> {
    let at = "runtimeConfig.dns";
    let Some(dns) = object(member(runtime, "dns", "runtimeConfig")?, at)? else {
        return Ok(None);
    };
    let mut given = Map::new();
    for (name, in_result) in RESOLVER {
        strings(dns, name, at, in_result, &mut given)?;
    }
    Ok(Some(given).filter(|given| !given.is_empty()))
}

/// `dns` of the configuration, which has the form of a result's.
fn configured_resolver(
    conf: &Map<String, Value>,
) -> Result<Option<Map<String, Value>>, ConfigError> {
    let Some(dns) = object(conf.get("dns"), "dns")? else {
        return Ok(None);
    };
    let mut given = Map::new();
    for (_, name) in RESOLVER {
        strings(dns, name, "dns", name, &mut given)?;
    }
    match member(dns, "domain", "dns")? {
        None => {}
        Some(Value::String(domain)) if domain.is_empty() => {}
        Some(Value::String(domain)) => {
            given.insert("domain".to_owned(), domain.clone().into());
        }
        Some(_) => return Err(wrong("dns.domain", "a string")),
    }
    Ok(Some(given).filter(|given| !given.is_empty()))
}

/// A list of texts, if it holds any.
fn strings(
    from: &Map<String, Value>,
    name: &str,
    at: &str,
    in_result: &str,
    given: &mut Map<String, Value>,
) -> Result<(), ConfigError> {
    match member(from, name, at)? {
        None => Ok(()),
        Some(Value::Array(list)) if list.is_empty() => Ok(()),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            given.insert(in_result.to_owned(), list.clone().into());
            Ok(())
        }
        Some(_) => Err(wrong(format!("{at}.{name}"), "a list of strings")),
    }
}

fn object<'a>(
    value: Option<&'a Value>,
    field: &str,
) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(wrong(field, "an object")),
    }
}

fn refuse(value: Option<&Value>, key: &'static str, why: &'static str) -> Result<(), ConfigError> {
    match value.filter(|value| asks(value)) {
        None => Ok(()),
        Some(value) => {
            let value = value.to_string();
            Err(ConfigError::Unsupported { key, value, why })
        }
    }
}

/// Runtimes also send members that say nothing.
fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => object.values().any(asks),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(flag) => *flag,
    }
}

fn wrong(field: impl Into<String>, expected: &'static str) -> ConfigError {
    ConfigError::field(field, Problem::WrongType { expected })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(conf: &Value) -> Result<Asked, String> {
        asked(conf.as_object().unwrap()).map_err(|error| error.to_string())
    }

    fn dns(conf: &Value) -> Value {
        read(conf).unwrap().dns.map_or(Value::Null, Value::Object)
    }

    #[test]
    fn a_resolver_is_read_in_every_spelling() {
        let wanted =
            json!({ "nameservers": ["10.0.0.2"], "search": ["a", "b"], "options": ["ndots:5"] });
        for (name, servers, searches, options) in [
            ("dns", "servers", "searches", "options"),
            ("dns", "Servers", "Searches", "Options"),
            ("DNS", "SERVERS", "searches", "oPtions"),
        ] {
            let given = json!({ servers: ["10.0.0.2"], searches: ["a", "b"], options: ["ndots:5"], "x": 1 });
            assert_eq!(dns(&json!({ "runtimeConfig": { name: given } })), wanted);
        }
    }

    #[test]
    fn the_runtimes_resolver_comes_before_the_configured_one() {
        let configured =
            json!({ "nameservers": ["10.0.0.3"], "domain": "d", "search": [], "options": null });
        let conf =
            |runtime: Value| json!({ "dns": configured, "runtimeConfig": { "dns": runtime } });
        let ours = json!({ "nameservers": ["10.0.0.3"], "domain": "d" });
        for silent in [
            json!(null),
            json!({}),
            json!({ "Servers": null, "Searches": [] }),
        ] {
            assert_eq!(dns(&conf(silent)), ours);
        }
        let said = json!({ "Servers": ["10.0.0.2"] });
        assert_eq!(dns(&conf(said)), json!({ "nameservers": ["10.0.0.2"] }));
        assert_eq!(dns(&json!({ "dns": { "domain": "" } })), Value::Null);
    }

    #[test]
    fn what_is_not_done_is_told_and_what_says_nothing_is_not() {
        let conf = json!({ "runtimeConfig": {
            "Bandwidth": { "IngressRate": 8000, "EgressRate": 0 }, "ipRanges": [[{ "subnet": "10.0.0.0/8" }]],
            "deviceID": "", "aliases": { "net": ["a"] }, "cgroupPath": "/x", "io.kubernetes.cri.pod-annotations": { "a": "b" },
            "portMappings": [{ "HostPort": 1 }],
        } });
        let unheard = read(&conf).unwrap().unheard;
        assert_eq!(
            unheard,
            ["runtimeConfig.bandwidth", "runtimeConfig.ipRanges"]
        );
        let silent =
            json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 0, "egressBurst": 0 } } });
        assert_eq!(read(&silent), Ok(Asked::default()));
        assert_eq!(
            read(&json!({ "runtimeConfig": null, "args": { "cni": null } })),
            Ok(Asked::default())
        );
    }

    #[test]
    fn what_would_choose_an_address_is_refused() {
        for (conf, words) in [
            (
                json!({ "runtimeConfig": { "IPs": ["10.0.0.9"] } }),
                "runtimeConfig.ips [\"10.0.0.9\"] is not supported",
            ),
            (
                json!({ "runtimeConfig": { "mac": "02::" } }),
                "runtimeConfig.mac \"02::\" is not supported",
            ),
            (
                json!({ "args": { "cni": { "ips": ["10.0.0.9"] } } }),
                "args.cni.ips [\"10.0.0.9\"] is not supported",
            ),
            (
                json!({ "runtimeConfig": [] }),
                "runtimeConfig must be an object",
            ),
            (json!({ "args": 1 }), "args must be an object"),
            (
                json!({ "args": { "CNI": 1 } }),
                "args.cni must be an object",
            ),
            (json!({ "dns": 1 }), "dns must be an object"),
            (
                json!({ "dns": { "domain": 1 } }),
                "dns.domain must be a string",
            ),
            (
                json!({ "runtimeConfig": { "dns": { "Servers": "x" } } }),
                "runtimeConfig.dns.servers must be a list of strings",
            ),
            (
                json!({ "runtimeConfig": { "mac": "a", "Mac": "b" } }),
                "is there twice",
            ),
        ] {
            let error = read(&conf).unwrap_err();
            assert!(error.contains(words), "{words:?} is in {error:?}");
        }
        assert_eq!(
            read(&json!({ "runtimeConfig": { "ips": [], "mac": "" } })),
            Ok(Asked::default())
        );
    }
}
