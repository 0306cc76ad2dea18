//! What cannot be done for a node, with the numbers that a person needs to act on it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{Family, Reason};

/// One problem of a node. Reported once when it begins and cleared when it is over; counts are addresses a family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// Its word.
    pub reason: Reason,
    /// What refused: a subnet, a NIC, an instance type, a call.
    pub subject: String,
    /// Addresses that the node wants at least.
    pub wanted: u32,
    /// Addresses that it has or is about to get.
    pub have: u32,
    /// What there is at most (addresses or NICs, by reason), where a limit is the cause.
    pub limit: Option<u32>,
    /// What is free, by subnet, where a subnet is the cause.
    pub free: Vec<(String, u32)>,
    /// Family, where only one is affected.
    pub family: Option<Family>,
    /// The cloud's own words, where it said something.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            subject,
            wanted,
            have,
            limit,
            free,
            family,
            detail,
        } = self;
        write!(f, "{subject}")?;
        match (reason, limit) {
            (Reason::NicLimit, Some(limit)) => write!(f, ": {limit} NICs are the most")?,
            (Reason::AddressLimit, Some(limit)) => {
                write!(f, ": {limit} addresses a NIC are the most")?
            }
            (Reason::AttachTimeout, Some(limit)) => write!(f, ": not attached after {limit} s")?,
            _ => {}
        }
        if !free.is_empty() {
            let list: Vec<String> = free
                .iter()
                .map(|(subnet, free)| format!("{subnet} {free}"))
                .collect();
            write!(f, ": free addresses by subnet: {}", list.join(", "))?;
        }
        write!(f, "; the node has {have} and wants {wanted}")?;
        if let Some(family) = family {
            write!(f, " ({family})")?;
        }
        if !detail.is_empty() {
            write!(f, "; the cloud said: {detail}")?;
        }
        Ok(())
    }
}
