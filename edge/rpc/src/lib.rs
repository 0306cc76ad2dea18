//! The contract between the plugin and the agent: messages, client and service generated from `proto/tombolo.proto`,
//! and the few words that both sides need beside them.
//!
//! `cargo xtask codegen` writes `generated.rs`; it is committed, so no build needs protoc.

use tombolo_core::types::Reason;

#[cfg(feature = "client")]
mod client;

#[rustfmt::skip]
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
mod generated;

pub use generated::*;

#[cfg(feature = "client")]
pub use client::{ConnectError, Transport, connect};

/// The version of the protocol that this build speaks: it goes with every request.
pub const PROTOCOL: u32 = 1;

/// Where the agent listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tombolo/agent.sock";

/// Whether an agent of this build answers a caller that speaks `version`: its own version and the one before.
#[must_use]
pub const fn protocol_answered(version: u32) -> bool {
    version != 0 && (version == PROTOCOL || version + 1 == PROTOCOL)
}

impl Failure {
    /// A failure with the `reason`'s word; `message` is for people: operation, subject, cause.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>, retryable: bool) -> Self {
        Self {
            reason: reason.word().to_owned(),
            message: message.into(),
            retryable,
        }
    }

    /// The answer to a caller whose protocol version is not answered, or `None` where it is.
    #[must_use]
    pub fn unless_answered(version: u32) -> Option<Self> {
        (!protocol_answered(version)).then(|| {
            let message =
                format!("the caller speaks protocol {version}, this agent speaks {PROTOCOL}");
            Self::new(Reason::ProtocolMismatch, message, false)
        })
    }
}

impl From<Attachment> for AddReply {
    fn from(attachment: Attachment) -> Self {
        Self {
            outcome: Some(add_reply::Outcome::Attachment(attachment)),
        }
    }
}

impl From<Failure> for AddReply {
    fn from(failure: Failure) -> Self {
        Self {
            outcome: Some(add_reply::Outcome::Failure(failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_its_own_version_and_the_one_before() {
        assert!(protocol_answered(PROTOCOL));
        assert!(!protocol_answered(PROTOCOL + 1));
        assert!(!protocol_answered(0));
        let failure = Failure::unless_answered(PROTOCOL + 1).unwrap();
        assert_eq!(failure.reason, "ProtocolMismatch");
        assert_eq!(Failure::unless_answered(PROTOCOL), None);
    }
}
