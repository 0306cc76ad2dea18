//! The release handshake, the operator's half of what the objects carry: `marked -> ready | refused -> taken`.
//!
//! | list of the object | writer | means |
//! |---|---|---|
//! | `release` | operator | asked for |
//! | answers | agent | agreed or refused, about one version of the operator's lists |
//! | `taking` | operator | the cloud is, or is about to be, asked; never the node's again ([`Planner::taking`](super::Planner::taking)) |
//! | `term` | operator | under which leadership these lists were written: a fencing token |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Action, Consent};

/// A leadership: the lease counts how often it was taken. Of two operators that both think they lead, the later has the
/// greater term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub i64);

impl Term {
    /// Whether an object that carries `signed` is a later leader's: then nothing may be written and no call be made.
    #[must_use]
    pub fn is_over(self, signed: Self) -> bool {
        signed > self
    }

    /// The term that an object carries after a look at it. Whoever changes anything signs, and so does who has to write
    /// before a call; and where addresses are being taken, since the time for which they are withheld begins with it.
    #[must_use]
    pub const fn sign(self, signed: Self, writes: bool, takes: bool) -> Self {
        if writes || takes { self } else { signed }
    }

    /// Whether the object must be written, or confirmed to be the version that was looked at, before this is done: a call
    /// that must be known each time, any call as long as the object is signed by an earlier leader. After that signature no
    /// earlier leader writes the object any more, and all that earlier leaders asked the cloud to take is in it.
    #[must_use]
    pub fn must_write_before(self, action: &Action, signed: Self) -> bool {
        action.call().is_some() && (action.must_be_known() || signed != self)
    }
}

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
