//! Chains of others that forwarded packets pass. A drop there is a drop: an accept of ours in another table does not undo it.

use tombolo_core::datapath::conventions::NFT_TABLE;
use tombolo_core::types::Family;

use super::abi;
use super::fixed::header;
use crate::message::{Reply, be32_of, text};
use crate::{Error, Request, Socket};

/// A chain of another table that drops every forwarded packet that none of its rules accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardDrop {
    /// Family; `None`: both (an `inet` table).
    pub family: Option<Family>,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
}

impl std::fmt::Display for ForwardDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = match self.family {
            Some(Family::V4) => "ip",
            Some(Family::V6) => "ip6",
            None => "inet",
        };
        let Self { table, chain, .. } = self;
        write!(f, "{family} {table} {chain}")
    }
}

/// All of them. What iptables makes with nf_tables below is among them.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`]; [`Error::Malformed`] where the list never held still.
pub fn forward_drops(socket: &mut Socket) -> Result<Vec<ForwardDrop>, Error> {
    let request = Request::new(
        "list nft chains",
        "of all tables",
        abi::GET_CHAIN,
        0,
        &header(abi::ANY),
    );
    let mut found = socket.dump(&request, forward_drop)?;
    found.sort();
    Ok(found)
}

pub(super) fn forward_drop(reply: &Reply<'_>) -> Option<ForwardDrop> {
    let attributes = reply.attributes(abi::HEADER);
    let table = attributes.value(abi::chain::TABLE).and_then(text)?;
    let policy = attributes.value(abi::chain::POLICY).and_then(be32_of)?;
    let family = match *reply.payload.first()? {
        abi::INET => None,
        abi::IPV4 => Some(Family::V4),
        abi::IPV6 => Some(Family::V6),
        _ => return None,
    };
    let drops = sees_forwarded(reply) && policy == abi::chain::DROP && table != NFT_TABLE;
    drops.then_some(ForwardDrop {
        family,
        table,
        chain: attributes.value(abi::chain::NAME).and_then(text)?,
    })
}

/// Whether a notification about a chain may change what [`forward_drops`] finds. One that goes is told of without its hook.
pub(super) fn concerns_forwarding(reply: &Reply<'_>) -> bool {
    match reply.kind {
        abi::NEW_CHAIN => sees_forwarded(reply),
        abi::DEL_CHAIN => true,
        _ => false,
    }
}

fn sees_forwarded(reply: &Reply<'_>) -> bool {
    let hook = reply.attributes(abi::HEADER).inside(abi::chain::HOOK);
    hook.value(abi::chain::HOOK_NUMBER).and_then(be32_of) == Some(abi::chain::FORWARD)
}
