//! Why an operation on an attachment failed: one variant a cause, each with its reason word and whether asking again may
//! help.

use std::fmt;
use std::time::Duration;

use tombolo_core::types::{AttachmentKey, Families, InvalidKey, PortMapping, Reason};
use tombolo_netlink as netlink;
use tombolo_rpc::Failure;

use crate::{journal, spec};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the request has no {field}")]
    MissingField { field: &'static str },
    #[error("the request's {field} has more than {limit} {unit}")]
    TooLong {
        field: &'static str,
        limit: usize,
        unit: &'static str,
    },
    #[error("portMappings[{index}].{field} {value:?} {problem}")]
    HostPort {
        index: usize,
        field: &'static str,
        value: String,
        problem: &'static str,
    },
    #[error("host port {port} is that of pod {owner}{leaving}")]
    HostPortConflict {
        port: PortMapping,
        owner: String,
        /// How it goes, where it does.
        leaving: Leaving,
    },
    #[error("the request's key is malformed")]
    Key(#[from] InvalidKey),
    #[error("the caller's namespace {path}")]
    Netns {
        path: String,
        #[source]
        source: netlink::Error,
    },
    #[error("interface {ifname} exists in {path} and is not ours")]
    InterfaceExists { ifname: String, path: String },
    #[error("{operation} for {key}")]
    Kernel {
        operation: &'static str,
        key: String,
        #[source]
        source: netlink::Error,
    },
    #[error("journal")]
    Journal(#[from] journal::Error),
    #[error("the node's specification")]
    Spec(#[from] spec::Invalid),
    #[error(
        "no free {families} address within {waited_ms} ms: {bound} bound, {cooling} cooling, {yielded} given back, of {total}{hint}"
    )]
    NoAddress {
        reason: Reason,
        families: &'static str,
        waited_ms: u128,
        bound: u32,
        cooling: u32,
        yielded: u32,
        total: u32,
        /// What the operator says about it.
        hint: String,
    },
    #[error("{key} was released while its ADD ran")]
    Superseded { key: AttachmentKey },
    #[error("the caller of {key} went away")]
    Vanished { key: AttachmentKey },
    #[error("{key} was still being removed after {waited_ms} ms")]
    StillDraining { key: AttachmentKey, waited_ms: u128 },
    #[error("not ready after {waited_ms} ms: {what}")]
    NotReady {
        /// What is in the way, where that is known.
        reason: Reason,
        what: String,
        waited_ms: u128,
    },
    #[error("{key} differs from what ADD made: {}", differences.join("; "))]
    CheckFailed {
        key: AttachmentKey,
        differences: Vec<String>,
    },
    #[error(
        "{} of {found} attachments of network {network:?} could not be detached: {}{}",
        causes.len() + unnamed, causes.join("; "), more(*unnamed)
    )]
    Collect {
        network: String,
        /// Of the first failure.
        reason: Reason,
        found: usize,
        causes: Vec<String>,
        unnamed: usize,
    },
    #[error("a task of the agent ended early")]
    Task(#[from] tokio::task::JoinError),
    #[error("the agent is shutting down")]
    Stopping,
}

/// The bound within which an owner that goes has not gone, if it goes.
#[derive(Clone, Copy, Debug)]
pub struct Leaving(pub Option<Duration>);

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |waited| {
            let millis = waited.as_millis();
            write!(f, ", which was still being removed after {millis} ms")
        })
    }
}

impl Error {
    /// The word.
    pub fn reason(&self) -> Reason {
        match self {
            Self::MissingField { .. }
            | Self::TooLong { .. }
            | Self::HostPort { .. }
            | Self::Key(_) => Reason::InvalidConfig,
            Self::HostPortConflict { .. } => Reason::HostPortConflict,
            Self::Netns { .. } => Reason::NetnsMismatch,
            Self::InterfaceExists { .. } => Reason::InterfaceExists,
            Self::Kernel {
                source: netlink::Error::Diverted { .. },
                ..
            } => Reason::ForeignConflict,
            Self::Kernel { .. } | Self::Task(_) => Reason::KernelError,
            Self::Journal(_) => Reason::JournalError,
            Self::Spec(invalid) => invalid.reason(),
            Self::NoAddress { reason, .. }
            | Self::NotReady { reason, .. }
            | Self::Collect { reason, .. } => *reason,
            Self::Superseded { .. } | Self::Vanished { .. } => Reason::Superseded,
            Self::StillDraining { .. } => Reason::NotReady,
            Self::CheckFailed { .. } => Reason::CheckFailed,
            Self::Stopping => Reason::AgentUnavailable,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::HostPortConflict { leaving, .. } => leaving.0.is_some(),
            Self::MissingField { .. }
            | Self::TooLong { .. }
            | Self::HostPort { .. }
            | Self::Key(_)
            | Self::Netns { .. }
            | Self::InterfaceExists { .. }
            | Self::CheckFailed { .. }
            | Self::Superseded { .. }
            | Self::Vanished { .. } => false,
            Self::Kernel { .. }
            | Self::Task(_)
            | Self::Journal(_)
            | Self::Spec(_)
            | Self::NoAddress { .. }
            | Self::StillDraining { .. }
            | Self::NotReady { .. }
            | Self::Collect { .. }
            | Self::Stopping => true,
        }
    }

    /// For the caller: all causes in one line.
    pub fn to_failure(&self) -> Failure {
        Failure::new(self.reason(), self.chain(), self.is_retryable())
    }

    /// The message and all its causes.
    pub fn chain(&self) -> String {
        chain(self)
    }

    pub fn kernel(
        operation: &'static str,
        key: &AttachmentKey,
    ) -> impl FnOnce(netlink::Error) -> Self {
        let key = key.to_string();
        move |source| Self::Kernel {
            operation,
            key,
            source,
        }
    }
}

fn more(unnamed: usize) -> String {
    if unnamed == 0 {
        String::new()
    } else {
        format!("; and {unnamed} more")
    }
}

/// Families in words.
pub const fn families_word(families: Families) -> &'static str {
    match families {
        Families::V4 => "IPv4",
        Families::V6 => "IPv6",
        Families::Dual => "IPv4 and IPv6",
    }
}

/// An error and all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
