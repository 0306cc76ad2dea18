//! The one word for each way of failing: the same in the CNI error, Event, condition, metric label and log field.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Why something failed. The variant's name is the word that people see everywhere.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* $name,)+ }

        impl Reason {
            /// All reasons, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

reasons! {
    /// The node has no free address and none came within the bound.
    PoolEmpty,
    /// The subnet has no free address left.
    SubnetFull,
    /// The instance type allows no further NIC.
    NicLimit,
    /// The NIC carries as many addresses as its type allows.
    AddressLimit,
    /// The cloud throttles our calls.
    CloudThrottled,
    /// The cloud refused or failed a call for another reason.
    CloudError,
    /// A NIC did not become usable in time.
    AttachTimeout,
    /// The agent has not yet learned which NICs and addresses its node has.
    NotReady,
    /// The agent does not answer.
    AgentUnavailable,
    /// The caller and the agent speak different versions of their protocol.
    ProtocolMismatch,
    /// The configuration or environment that the runtime sent is malformed or contradicts itself.
    InvalidConfig,
    /// A NetworkProfile is malformed or contradicts itself.
    InvalidProfile,
    /// The cloud does not know the instance type.
    UnknownInstanceType,
    /// The namespace is gone, or is not the one that the plugin saw.
    NetnsMismatch,
    /// An interface of that name exists in the pod and is not ours.
    InterfaceExists,
    /// A port of the node that the pod asks for is another pod's (named in the message).
    HostPortConflict,
    /// CHECK found the pod's network different from what ADD made.
    CheckFailed,
    /// A kernel call failed.
    KernelError,
    /// The kernel lacks something that the profile needs.
    KernelUnsupported,
    /// The journal could not be written or read.
    JournalError,
    /// Another program changes or blocks what we need (named in the message).
    ForeignConflict,
    /// An API object of ours cannot be decoded.
    UndecodableObject,
    /// The Kubernetes API went back to an earlier state: it was restored from a backup.
    ApiRestored,
    /// A concurrent DEL overtook this ADD.
    Superseded,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What people are told to do about each, and no word that does not exist.
    #[test]
    fn failures_md_has_each_reason_once() {
        let page = include_str!("../../../docs/failures.md");
        let mut told: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .map(|(word, rest)| {
                let cells: Vec<&str> = rest.trim_end_matches('|').split(" | ").collect();
                assert_eq!(cells.len(), 2, "{word}: a meaning and an advice");
                assert!(cells.iter().all(|cell| !cell.trim().is_empty()), "{word}");
                word
            })
            .collect();
        let mut all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        told.sort_unstable();
        all.sort_unstable();
        assert_eq!(told, all);
    }
}
