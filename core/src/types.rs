//! The vocabulary that all parts share. Newtypes where mixing two strings up would be a bug.

mod attachment;
mod family;
mod mac;
mod nic;
mod note;
mod port;
mod reason;
#[cfg(test)]
mod tests;
mod time;

pub use attachment::{AttachmentKey, HostIfName, InvalidKey, PodRef};
pub use family::{Families, Family};
pub use mac::{InvalidMac, Mac};
pub use nic::{Nic, NicId, NicLimits};
pub use note::DelNote;
pub use port::{HostAddress, InvalidProtocol, PortMapping, Protocol};
pub use reason::Reason;
pub use time::Millis;
