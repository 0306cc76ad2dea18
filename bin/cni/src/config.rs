//! The network configuration on stdin: what we read of it, and which field is at fault where it is malformed.
//!
//! Read field by field from untyped JSON, so that every complaint names its field and fields that we do not know pass.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use tombolo_core::types::{AttachmentKey, InvalidKey};
use tombolo_rpc::ValidAttachment;

use crate::env::Command;
use crate::gc;
use crate::runtime::{self, Asked};
use crate::version::CniVersion;

/// How long an ADD may take in all. A cloud attaches a NIC in 5 to 30 seconds; the kubelet gives a sandbox four
/// minutes, so that a first attempt that ends in vain leaves time for its DEL and two more.
const DEFAULT_TIMEOUT_SECONDS: u64 = 60;
/// Beyond this the kubelet's four minutes would end before ours, and its error would hide our reason.
const MAX_TIMEOUT_SECONDS: u64 = 220;
/// The kernel's limit of a unix socket's path, less the closing zero.
const MAX_SOCKET_PATH: usize = 107;

/// What is wrong with a field.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    Missing,
    WrongType { expected: &'static str },
    Value { given: String, must: &'static str },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::WrongType { expected } => write!(f, "must be {expected}"),
            Self::Value { given, must } => write!(f, "{given:?} {must}"),
        }
    }
}

/// The configuration cannot be used; nothing was sent to the agent.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("decode network configuration")]
    Json(#[source] serde_json::Error),
    #[error("decode network configuration: must be a JSON object")]
    NotAnObject,
    #[error("cniVersion {0:?} is not a version")]
    VersionForm(String),
    #[error("cniVersion {0:?} is not supported (supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0)")]
    VersionUnsupported(String),
    #[error("CNI_COMMAND {command} needs cniVersion {} or later, the configuration has {version}", command.since())]
    VersionTooOld {
        command: Command,
        version: CniVersion,
    },
    #[error("network configuration: {0}")]
    Name(#[source] InvalidKey),
    #[error("network configuration: {field} {problem}")]
    Field { field: String, problem: Problem },
    #[error("network configuration: {key} {value} is not supported: {why}")]
    Unsupported {
        key: &'static str,
        value: String,
        why: &'static str,
    },
}

impl ConfigError {
    pub fn field(field: impl Into<String>, problem: Problem) -> Self {
        Self::Field {
            field: field.into(),
            problem,
        }
    }
}

/// A configuration that can be acted upon.
#[derive(Clone, Debug)]
pub struct NetConf {
    pub version: CniVersion,
    pub name: String,
    pub agent_socket: PathBuf,
    pub timeout: Duration,
    /// For GC: what stands of this network.
    pub valid: Vec<ValidAttachment>,
    /// For ADD: what the runtime wants beside an interface.
    pub asked: Asked,
    /// The result of the plugins before us; absent where we are the first.
    pub prev_result: Option<Map<String, Value>>,
}

/// The `cniVersion` of a configuration that may otherwise be unusable, if it is one that we speak.
pub fn version_of(stdin: &[u8]) -> Option<CniVersion> {
    let value: Value = serde_json::from_slice(stdin).ok()?;
    CniVersion::parse(value.get("cniVersion")?.as_str()?)
}

impl NetConf {
    pub fn parse(stdin: &[u8], command: Command) -> Result<Self, ConfigError> {
        let mut conf = match serde_json::from_slice(stdin).map_err(ConfigError::Json)? {
            Value::Object(conf) => conf,
            _ => return Err(ConfigError::NotAnObject),
        };
        let version = version(&conf)?;
        if version < command.since() {
            return Err(ConfigError::VersionTooOld { command, version });
        }
        let name = string(&conf, "name")?.filter(|name| !name.is_empty());
        let name = name
            .ok_or_else(|| ConfigError::field("name", Problem::Missing))?
            .to_owned();
        AttachmentKey::check_network(&name).map_err(ConfigError::Name)?;
        let agent_socket = agent_socket(&conf)?;
        let timeout = timeout(&conf)?;
        let valid = match command {
            Command::Gc => gc::valid(&conf, &name)?,
            _ => Vec::new(),
        };
        let mut asked = Asked::default();
        if matches!(command, Command::Add) {
            refuse_ipam(&conf)?;
            asked = runtime::asked(&conf)?;
        }
        let prev_result = match conf.remove("prevResult") {
            None | Some(Value::Null) => None,
            Some(Value::Object(prev)) => Some(prev),
            // Releasing does not depend on what the runtime remembers.
            Some(_) if !matches!(command, Command::Add | Command::Check) => None,
            Some(_) => {
                return Err(ConfigError::field(
                    "prevResult",
                    Problem::WrongType {
                        expected: "an object",
                    },
                ));
            }
        };
        if command == Command::Check && prev_result.is_none() {
            return Err(ConfigError::field("prevResult", Problem::Missing));
        }
        Ok(Self {
            version,
            name,
            agent_socket,
            timeout,
            valid,
            asked,
            prev_result,
        })
    }
}

fn string<'a>(conf: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>, ConfigError> {
    match conf.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ConfigError::field(
            field,
            Problem::WrongType {
                expected: "a string",
            },
        )),
    }
}

fn version(conf: &Map<String, Value>) -> Result<CniVersion, ConfigError> {
    let text = match conf.get("cniVersion") {
        // What the specification reads into its absence, and the reference into an empty one.
        None | Some(Value::Null) => "0.1.0",
        Some(Value::String(text)) if text.is_empty() => "0.1.0",
        Some(Value::String(text)) => text,
        Some(other) => return Err(ConfigError::VersionForm(other.to_string())),
    };
    match CniVersion::parse(text) {
        Some(version) => Ok(version),
        None if CniVersion::is_version(text) => {
            Err(ConfigError::VersionUnsupported(text.to_owned()))
        }
        None => Err(ConfigError::VersionForm(text.to_owned())),
    }
}

fn agent_socket(conf: &Map<String, Value>) -> Result<PathBuf, ConfigError> {
    let path = string(conf, "agentSocket")?.unwrap_or(tombolo_rpc::DEFAULT_SOCKET);
    let must = if !path.starts_with('/') {
        "must be an absolute path"
    } else if path.len() > MAX_SOCKET_PATH {
        "must have at most 107 bytes"
    } else if path.contains('\0') {
        "must hold no zero byte"
    } else {
        return Ok(PathBuf::from(path));
    };
    Err(ConfigError::field(
        "agentSocket",
        Problem::Value {
            given: path.to_owned(),
            must,
        },
    ))
}

fn timeout(conf: &Map<String, Value>) -> Result<Duration, ConfigError> {
    let seconds = match conf.get("timeoutSeconds") {
        None | Some(Value::Null) => DEFAULT_TIMEOUT_SECONDS,
        Some(Value::Number(number)) => match number.as_u64() {
            Some(seconds @ 1..=MAX_TIMEOUT_SECONDS) => seconds,
            _ => {
                let problem = Problem::Value {
                    given: number.to_string(),
                    must: "must be a whole number from 1 to 220",
                };
                return Err(ConfigError::field("timeoutSeconds", problem));
            }
        },
        Some(_) => {
            return Err(ConfigError::field(
                "timeoutSeconds",
                Problem::WrongType {
                    expected: "a number",
                },
            ));
        }
    };
    Ok(Duration::from_secs(seconds))
}

/// An IPAM plugin beside our pool would go unheard.
fn refuse_ipam(conf: &Map<String, Value>) -> Result<(), ConfigError> {
    match conf.get("ipam") {
        None | Some(Value::Null) => {}
        Some(Value::Object(ipam)) => {
            if let Some(kind) = ipam.get("type") {
                return Err(ConfigError::Unsupported {
                    key: "ipam.type",
                    value: kind.to_string(),
                    why: "addresses come from the agent",
                });
            }
        }
        Some(_) => {
            return Err(ConfigError::field(
                "ipam",
                Problem::WrongType {
                    expected: "an object",
                },
            ));
        }
    }
    Ok(())
}
