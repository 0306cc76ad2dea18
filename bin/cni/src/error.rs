//! Every way of failing, its reason word, its CNI code, and the error object that carries them.
//!
//! | code | meaning here |
//! |---|---|
//! | 1 | CNI version not spoken, or too old for the command |
//! | 2 | a field asks for what we do not do |
//! | 4 | environment |
//! | 5 | stdin or /proc cannot be read |
//! | 6 | configuration is not JSON, or its version is not a version |
//! | 7 | configuration names a field with a bad value |
//! | 8 | CNI_NETNS is no namespace for a pod |
//! | 11 | try again: no address, agent away or not ready |
//! | 50 | STATUS: an ADD would not work now |
//! | 51 | STATUS: … and pods that run suffer from the same |
//! | 100 | the agent refused for a reason that a repeat will not mend |
//! | 101 | plugin and agent speak different protocols |
//! | 102 | an interface of that name exists |
//! | 103 | CHECK found a difference |

use std::error::Error;

use serde_json::{Value, json};
use tombolo_core::types::{InvalidKey, Reason};

use crate::agent::AgentError;
use crate::config::ConfigError;
use crate::env::EnvError;
use crate::input::InputError;
use crate::netns::NetnsError;
use crate::note::NoteError;
use crate::version::CniVersion;

/// Most bytes of an error's text: what was given is quoted in it, and runtimes put it into Events and logs.
const MAX_TEXT: usize = 4096;

/// Why the plugin ends without success.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Key(#[from] InvalidKey),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("no pod can be added: {source}")]
    Unavailable {
        /// What is wrong concerns the traffic of pods that run, too.
        traffic_affected: bool,
        source: AgentError,
    },
    #[error("{silence}, and no note could be left for it")]
    Note {
        silence: Box<AgentError>,
        #[source]
        source: NoteError,
    },
}

impl PluginError {
    /// The word that people find in logs, events and metrics too.
    fn reason(&self) -> &str {
        match self {
            Self::Env(_) | Self::Input(_) | Self::Config(_) | Self::Key(_) => {
                Reason::InvalidConfig.word()
            }
            Self::Netns(_) => Reason::NetnsMismatch.word(),
            Self::Runtime(_) => Reason::KernelError.word(),
            Self::Agent(error) | Self::Unavailable { source: error, .. } => reason(error),
            Self::Note { .. } => Reason::AgentUnavailable.word(),
        }
    }

    fn code(&self) -> u32 {
        match self {
            Self::Config(
                ConfigError::VersionUnsupported(_) | ConfigError::VersionTooOld { .. },
            ) => 1,
            Self::Config(ConfigError::Unsupported { .. })
            | Self::Env(EnvError::ArgUnsupported { .. }) => 2,
            Self::Env(_) => 4,
            Self::Key(invalid) if invalid.field.starts_with("CNI_") => 4,
            Self::Input(_) | Self::Runtime(_) | Self::Netns(NetnsError::Examine { .. }) => 5,
            Self::Config(
                ConfigError::Json(_) | ConfigError::NotAnObject | ConfigError::VersionForm(_),
            ) => 6,
            Self::Config(ConfigError::Field { .. } | ConfigError::Name(_)) | Self::Key(_) => 7,
            Self::Netns(_) => 8,
            Self::Unavailable {
                traffic_affected, ..
            } => {
                if *traffic_affected {
                    51
                } else {
                    50
                }
            }
            Self::Agent(AgentError::Refused(failure)) if failure.retryable => 11,
            Self::Agent(AgentError::Away { .. } | AgentError::TimedOut { .. })
            | Self::Note { .. } => 11,
            Self::Agent(_) => match self.reason() {
                "AgentUnavailable" => 11,
                "InvalidConfig" => 7,
                "NetnsMismatch" => 8,
                "ProtocolMismatch" => 101,
                "InterfaceExists" => 102,
                "CheckFailed" => 103,
                _ => 100,
            },
        }
    }

    /// The error object of the specification; `version` as far as the configuration let us know it.
    pub fn object(&self, version: Option<CniVersion>) -> Value {
        let mut causes = Vec::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        let mut object = json!({
            "cniVersion": version.unwrap_or(CniVersion::NEWEST).text(),
            "code": self.code(),
            "msg": shortened(format!("{}: {self}", self.reason())),
        });
        if !causes.is_empty() {
            object["details"] = shortened(causes.join(": ")).into();
        }
        object
    }
}

/// The agent's own word, or the one for how it could not be asked.
fn reason(error: &AgentError) -> &str {
    match error {
        AgentError::Refused(failure) => &failure.reason,
        AgentError::EmptyAnswer | AgentError::Older { .. } => Reason::ProtocolMismatch.word(),
        AgentError::Call { source, .. } if source.code() == tonic::Code::Unimplemented => {
            Reason::ProtocolMismatch.word()
        }
        _ => Reason::AgentUnavailable.word(),
    }
}

/// The text, or its beginning.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push_str(" …");
    }
    text
}
