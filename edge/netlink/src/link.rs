//! Links: look up, create veth pairs, change, delete.

use std::os::fd::BorrowedFd;

use tombolo_core::types::Mac;

use crate::{Error, Request, Socket};

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address, where it has one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Operationally up: packets sent now leave.
    pub running: bool,
    /// Loopback interface.
    pub loopback: bool,
    /// Link group (0: default).
    pub group: u32,
    /// Alias (`ip link set … alias`).
    pub alias: Option<String>,
    /// Kind of virtual link (`veth`, `bridge`, …); `None` for a hardware NIC.
    pub kind: Option<String>,
    /// Index of the peer or lower link, in the namespace that `netns_id` names.
    pub peer: Option<u32>,
    /// The kernel's id of the namespace of the peer; `None`: the same namespace.
    pub peer_netns: Option<i32>,
    /// Index of the bridge or bond that it belongs to.
    pub master: Option<u32>,
}

/// All links of the socket's namespace.
pub fn list(_socket: &mut Socket) -> Result<Vec<Link>, Error> {
    todo!()
}

/// The link with this name, if there is one.
pub fn by_name(_socket: &mut Socket, _name: &str) -> Result<Option<Link>, Error> {
    todo!()
}

/// The link with this index, if there is one.
pub fn by_index(_socket: &mut Socket, _index: u32) -> Result<Option<Link>, Error> {
    todo!()
}

/// The hardware-like links with this MAC (veth ends included, members of bridges and VLANs above it excluded by the
/// caller).
pub fn by_mac(_socket: &mut Socket, _mac: Mac) -> Result<Vec<Link>, Error> {
    todo!()
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of the end in the socket's namespace.
    pub name: &'a str,
    /// MAC of that end.
    pub mac: Mac,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// MAC of the other end.
    pub peer_mac: Mac,
    /// Link group of the other end.
    pub peer_group: u32,
    /// MTU in bytes of both ends.
    pub mtu: u32,
}

/// Creates a veth pair: one end in the socket's namespace, the other born in `peer_netns`. Both are down. Returns
/// (index, index of the peer).
pub fn create_veth(_socket: &mut Socket, _veth: &Veth<'_>, _peer_netns: BorrowedFd<'_>) -> Result<(u32, u32), Error> {
    todo!()
}

/// Sets a link up or down.
#[must_use]
pub fn set_up(_index: u32, _up: bool) -> Request {
    todo!()
}
/// Renames a link.
#[must_use]
pub fn rename(_index: u32, _name: &str) -> Request {
    todo!()
}
/// Sets the MTU in bytes.
#[must_use]
pub fn set_mtu(_index: u32, _mtu: u32) -> Request {
    todo!()
}
/// Sets the link group.
#[must_use]
pub fn set_group(_index: u32, _group: u32) -> Request {
    todo!()
}
/// Sets the MAC.
#[must_use]
pub fn set_mac(_index: u32, _mac: Mac) -> Request {
    todo!()
}
/// Sets the alias; empty removes it.
#[must_use]
pub fn set_alias(_index: u32, _alias: &str) -> Request {
    todo!()
}
/// Makes the kernel invent no IPv6 link-local address for this link.
#[must_use]
pub fn set_addrgenmode_none(_index: u32) -> Request {
    todo!()
}
/// Moves a link to another namespace; the descriptor must stay open until the request was sent.
#[must_use]
pub fn move_to(_index: u32, _netns: BorrowedFd<'_>) -> Request {
    todo!()
}
/// Deletes a link.
#[must_use]
pub fn delete(_index: u32) -> Request {
    todo!()
}
/// Deletes all links of a group at the cost of one.
#[must_use]
pub fn delete_group(_group: u32) -> Request {
    todo!()
}
