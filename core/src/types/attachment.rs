//! The key of a pod attachment, and the interface names and MACs that follow from it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Mac;

/// What identifies one attachment: never the pod's name (reused by a successor), never the address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// CNI network name.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface's name in the pod.
    pub ifname: String,
}

/// A part of an attachment key does not have the form that the CNI specification demands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} {problem}")]
pub struct InvalidKey {
    /// The field at fault, in the runtime's words.
    pub field: &'static str,
    /// What was given.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl AttachmentKey {
    /// Most bytes of a container id and of a network name: runtimes use 64. It bounds what is journalled of a key.
    pub const MAX_PART: usize = 255;

    /// Builds a key, checking each part against the CNI specification (container id and network name:
    /// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`; interface name: 1 to 15 bytes, not `.` or `..`, no `/`, `:` or white space), against
    /// [`Self::MAX_PART`], and against names that the kernel reads otherwise than they are written (`%` asks it for a
    /// number, a zero byte ends the name).
    ///
    /// # Errors
    /// Names the first part at fault.
    pub fn new(network: &str, container_id: &str, ifname: &str) -> Result<Self, InvalidKey> {
        check_part("name", network)?;
        check_part("CNI_CONTAINERID", container_id)?;
        let bad_char =
            |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
        if ifname.is_empty()
            || ifname.len() > 15
            || ifname == "."
            || ifname == ".."
            || ifname.contains(bad_char)
        {
            return Err(invalid(
                "CNI_IFNAME",
                ifname,
                "must have 1 to 15 bytes, without '/', ':', '%', white space and control characters, and be neither '.' nor '..'",
            ));
        }
        Ok(Self {
            network: network.to_owned(),
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// Checks a network name alone, as [`Self::new`] does.
    ///
    /// # Errors
    /// Names it.
    pub fn check_network(network: &str) -> Result<(), InvalidKey> {
        check_part("name", network)
    }

    /// SHA-256 over the parts, each followed by a zero byte (which no part can hold).
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.network, &self.container_id, &self.ifname] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.finalize().into()
    }

    /// A file name for this attachment's journal entry: 32 hexadecimal digits.
    #[must_use]
    pub fn file_stem(&self) -> String {
        hex(&self.digest()[..16])
    }

    /// The name of the host end of the pod's veth.
    #[must_use]
    pub fn host_ifname(&self) -> HostIfName {
        HostIfName(format!(
            "{}{}",
            HostIfName::PREFIX,
            &hex(&self.digest()[..6])[..12]
        ))
    }

    /// The MACs of (pod end, host end): locally administered, unicast, the same at every attempt.
    #[must_use]
    pub fn macs(&self) -> (Mac, Mac) {
        let d = self.digest();
        let mac = |low: u8| Mac([0x02, d[16], d[17], d[18], d[19], (d[20] & 0xfe) | low]);
        (mac(0), mac(1))
    }
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}

fn invalid(field: &'static str, value: &str, problem: &'static str) -> InvalidKey {
    InvalidKey {
        field,
        value: value.to_owned(),
        problem,
    }
}

fn check_part(field: &'static str, value: &str) -> Result<(), InvalidKey> {
    let mut bytes = value.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if !first || !rest {
        let must = "must match [a-zA-Z0-9][a-zA-Z0-9_.-]*";
        return Err(invalid(field, value, must));
    }
    if value.len() > AttachmentKey::MAX_PART {
        let start = &value[..AttachmentKey::MAX_PART];
        return Err(invalid(field, start, "goes on: it may have 255 bytes"));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Name of the host end of a pod's veth: prefix and 12 hexadecimal digits of the key's hash (15 bytes in all).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostIfName(pub String);

impl HostIfName {
    /// What every host end's name begins with.
    pub const PREFIX: &str = "tmb";
}

impl fmt::Display for HostIfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The pod behind an attachment, for people and objects; empty strings outside Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty where the runtime does not tell.
    #[serde(default)]
    pub uid: String,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
