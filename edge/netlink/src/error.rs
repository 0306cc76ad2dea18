//! The one error type: operation, subject, and what the kernel said.

use rustix::io::Errno;

use crate::netns::NetnsId;

/// Why a kernel operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("{operation} {subject}: {source}{}", hint(.message))]
    Refused {
        /// What was asked, for example `add route`.
        operation: &'static str,
        /// For what, for example `10.0.1.5/32 table 990`.
        subject: String,
        /// The kernel's error number.
        source: Errno,
        /// The kernel's own words (extended acknowledgement), where it gave any.
        message: Option<String>,
    },
    /// A system call or a file access failed.
    #[error("{operation} {subject}: {source}")]
    System {
        /// What was tried, for example `write sysctl`.
        operation: &'static str,
        /// With what, for example `net/ipv4/ip_forward`.
        subject: String,
        /// The error number.
        source: Errno,
    },
    /// The kernel's answer is not what its interface promises.
    #[error("{operation} {subject}: {problem}")]
    Malformed {
        /// What was asked.
        operation: &'static str,
        /// For what.
        subject: String,
        /// What is wrong with the answer.
        problem: &'static str,
    },
    /// The kernel's answer is longer than we read.
    #[error("{operation} {subject}: the answer is longer than {limit} bytes")]
    TooLong {
        /// What was asked.
        operation: &'static str,
        /// For what.
        subject: String,
        /// Longest answer in bytes.
        limit: usize,
    },
    /// The file is not a network namespace.
    #[error("{subject} is not a network namespace")]
    NotNetns {
        /// The file.
        subject: String,
    },
    /// It is a network namespace, but not the one that was meant.
    #[error("{subject} is network namespace {found}, expected {expected}")]
    OtherNetns {
        /// The file.
        subject: String,
        /// What was meant.
        expected: NetnsId,
        /// What it is.
        found: NetnsId,
    },
    /// The namespace that should be a pod's is the node's own.
    #[error("{subject} is the node's own network namespace")]
    HostNetns {
        /// The namespace.
        subject: String,
    },
    /// An interface of that name exists in the pod and is not ours.
    #[error("an interface {name} exists in the pod and is not ours")]
    InterfaceExists {
        /// Its name.
        name: String,
    },
    /// There is no such interface.
    #[error("there is no interface {name}")]
    NoInterface {
        /// Its name or index.
        name: String,
    },
    /// The pod's link and route are there, and the kernel sends its packets elsewhere all the same.
    #[error("packets for {ip} do not reach its link: {way}")]
    Diverted {
        /// The pod's address.
        ip: std::net::IpAddr,
        /// What the kernel does with them.
        way: String,
    },
    /// The kernel did not finish in the background what lets packets pass.
    #[error("{what} did not appear within {millis} ms")]
    NotReady {
        /// What is missing.
        what: String,
        /// How long it was awaited.
        millis: u128,
    },
}

fn hint(message: &Option<String>) -> String {
    message
        .as_ref()
        .map(|m| format!(" ({m})"))
        .unwrap_or_default()
}

impl Error {
    /// The kernel's error number, where there is one.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } | Self::System { source, .. } => Some(*source),
            _ => None,
        }
    }

    /// Whether what was asked for does not exist (any more).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NoInterface { .. })
            || matches!(
                self.errno(),
                Some(Errno::NOENT | Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL | Errno::NXIO)
            )
    }

    /// Whether what should be made exists already.
    #[must_use]
    pub fn is_existing(&self) -> bool {
        matches!(self, Self::InterfaceExists { .. }) || self.errno() == Some(Errno::EXIST)
    }
}
