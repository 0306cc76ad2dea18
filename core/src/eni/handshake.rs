//! The release handshake, the operator's half of what the objects carry: `marked -> ready | refused -> taken`.
//!
//! | list of the object | writer | means |
//! |---|---|---|
//! | `release` | operator | asked for |
//! | answers | agent | agreed or refused, about one version of the operator's lists |
//! | `taking` | operator | the cloud is, or is about to be, asked; never the node's again ([`Planner::taking`](super::Planner::taking)) |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Action, Consent};

/// The answers that count. Only a status about exactly this spec answers exactly these marks: an answer to an earlier
/// marking of the same address says nothing about now. Both are generations of the object.
#[must_use]
pub fn answers_to(
    spec: Option<i64>,
    status_is_about: i64,
    answers: impl IntoIterator<Item = (IpAddr, Consent)>,
) -> BTreeMap<IpAddr, Consent> {
    if spec == Some(status_is_about) {
        answers.into_iter().collect()
    } else {
        BTreeMap::new()
    }
}

impl Action {
    /// What the action does to the addresses asked for.
    pub fn change_marks(&self, release: &mut BTreeSet<IpAddr>) {
        match self {
            Self::MarkRelease(addresses) => release.extend(addresses),
            Self::Unmark(addresses) => release.retain(|ip| !addresses.contains(ip)),
            _ => {}
        }
    }
}
