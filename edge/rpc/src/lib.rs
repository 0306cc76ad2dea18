//! The contract between the plugin and the agent: messages, client and service generated from `proto/tombolo.proto`,
//! and the few words that both sides need beside them.
//!
//! `cargo xtask codegen` writes `generated.rs`; it is committed, so no build needs protoc.

use tombolo_core::types::Reason;

#[cfg(feature = "client")]
mod client;
mod clock;

#[rustfmt::skip]
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
mod generated;

pub use generated::*;

#[cfg(feature = "client")]
pub use client::{ConnectError, Transport, connect};
pub use clock::since_boot;

/// The version of the protocol that this build speaks: it goes with every request.
pub const PROTOCOL: u32 = 1;

/// Longest message of either side in bytes. A GC of [`MAX_VALID`] attachments with the longest names has little more than
/// half of it, any other request far less.
pub const MAX_MESSAGE: usize = 2 << 20;

/// Most attachments that a GC lists: more than any node has, of one network.
pub const MAX_VALID: usize = 4096;

/// Longest text of a [`Failure`] in bytes; what is longer is cut, so that a failure can always be told.
pub const MAX_TEXT: usize = 8 << 10;

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
        let mut message = message.into();
        if message.len() > MAX_TEXT {
            message.truncate(message.floor_char_boundary(MAX_TEXT));
            message.push_str(" …");
        }
        Self {
            reason: reason.word().to_owned(),
            message,
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

/// The server of a service, which reads no request longer than [`MAX_MESSAGE`].
#[cfg(feature = "server")]
pub fn server<T: node_server::Node>(service: T) -> node_server::NodeServer<T> {
    node_server::NodeServer::new(service).max_decoding_message_size(MAX_MESSAGE)
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
mod tests;
