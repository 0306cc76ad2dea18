//! Links: look up, create veth pairs, change, delete.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use tombolo_core::types::Mac;

use crate::abi::{AF_INET6, ifla, nlm, rtm};
use crate::message::{Attributes, Body, Reply, mac_of, text, u32_at, u32_of};
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
    /// Index of the peer or lower link, in the namespace that `peer_netns` names.
    pub peer: Option<u32>,
    /// The kernel's id of the namespace of the peer; `None`: the same namespace.
    pub peer_netns: Option<i32>,
    /// Index of the bridge or bond that it belongs to.
    pub master: Option<u32>,
}

/// All links of the socket's namespace.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`]; [`Error::Malformed`] where the list never held still.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let mut request = Request::new("list", "links", rtm::GETLINK, 0, &header(0, 0, 0));
    request.body.put_u32(ifla::EXT_MASK, ifla::SKIP_STATS);
    socket.dump(&request, decode)
}

/// The link with this name, if there is one.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn by_name(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let mut request = Request::new("get link", name, rtm::GETLINK, 0, &header(0, 0, 0));
    request.body.put_str(ifla::IFNAME, name);
    get(socket, request)
}

/// The link with this index, if there is one. On kernels from 6.9 on, asking also completes a carrier change under way.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn by_index(socket: &mut Socket, index: u32) -> Result<Option<Link>, Error> {
    get(
        socket,
        Request::new(
            "get link",
            index.to_string(),
            rtm::GETLINK,
            0,
            &header(index, 0, 0),
        ),
    )
}

/// All links with this MAC. A bridge, a bond or a VLAN on top of a NIC has the NIC's MAC too: look at `kind`.
///
/// # Errors
/// As [`list`].
pub fn by_mac(socket: &mut Socket, mac: Mac) -> Result<Vec<Link>, Error> {
    let mut links = list(socket)?;
    links.retain(|link| link.mac == Some(mac));
    Ok(links)
}

fn get(socket: &mut Socket, mut request: Request) -> Result<Option<Link>, Error> {
    request.body.put_u32(ifla::EXT_MASK, ifla::SKIP_STATS);
    let mut found = None;
    socket.ask(request.tolerate(Errno::NODEV), |reply| {
        found = decode(reply).or(found.take())
    })?;
    Ok(found)
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

/// Creates a veth pair: one end in the socket's namespace, down, and its peer born in `peer_netns`. Both are down (the
/// kernel cannot make them up). Returns (index, index of the peer).
///
/// One queue each: since 5.15 the kernel makes one for every possible CPU, each with entries in sysfs, which serve XDP and
/// GRO on the veth only; a packet is handed over without a queue or a lock.
///
/// # Errors
/// [`Error::Refused`] (`EEXIST` where either name is taken); [`Error::System`].
pub fn create_veth(
    socket: &mut Socket,
    veth: &Veth<'_>,
    peer_netns: BorrowedFd<'_>,
) -> Result<(u32, u32), Error> {
    let subject = format!("{} with peer {}", veth.name, veth.peer_name);
    let flags = nlm::CREATE | nlm::EXCL | nlm::ECHO;
    let mut request = Request::new(
        "create veth",
        subject,
        rtm::NEWLINK,
        flags,
        &header(0, 0, 0),
    );
    request
        .body
        .put_str(ifla::IFNAME, veth.name)
        .put_mac(ifla::ADDRESS, veth.mac)
        .put_u32(ifla::MTU, veth.mtu)
        .put_u32(ifla::NUM_TX_QUEUES, 1)
        .put_u32(ifla::NUM_RX_QUEUES, 1);
    request.body.nest(ifla::LINKINFO, |info| {
        info.put_str(ifla::INFO_KIND, "veth")
            .nest(ifla::INFO_DATA, |data| {
                data.nest(ifla::VETH_INFO_PEER, |peer| {
                    peer.put_raw(&header(0, 0, 0))
                        .put_str(ifla::IFNAME, veth.peer_name)
                        .put_mac(ifla::ADDRESS, veth.peer_mac)
                        .put_u32(ifla::MTU, veth.mtu)
                        .put_u32(ifla::NUM_TX_QUEUES, 1)
                        .put_u32(ifla::NUM_RX_QUEUES, 1)
                        .put_u32(ifla::GROUP, veth.peer_group)
                        .put(ifla::NET_NS_FD, &peer_netns.as_raw_fd().to_ne_bytes());
                });
            });
    });
    let missing = request.malformed("the kernel did not echo the new link");
    let mut made = None;
    socket.ask(request, |reply| {
        if reply.kind == rtm::NEWLINK {
            made = decode(reply).or(made.take());
        }
    })?;
    made.and_then(|link| Some((link.index, link.peer?)))
        .ok_or(missing)
}

fn set(operation: &'static str, index: u32, flags: u32, mask: u32) -> Request {
    Request::new(
        operation,
        index.to_string(),
        rtm::SETLINK,
        0,
        &header(index, flags, mask),
    )
}

/// Sets a link up or down.
#[must_use]
pub fn set_up(index: u32, up: bool) -> Request {
    let (operation, flags) = if up {
        ("set up link", ifla::UP)
    } else {
        ("set down link", 0)
    };
    set(operation, index, flags, ifla::UP)
}

/// Sets a link down and puts it into a group.
#[must_use]
pub fn set_down_in_group(index: u32, group: u32) -> Request {
    let mut request = set("set down link", index, 0, ifla::UP);
    request.body.put_u32(ifla::GROUP, group);
    request
}

/// Renames a link. Kernels before 6.2 refuse while it is up.
#[must_use]
pub fn rename(index: u32, name: &str) -> Request {
    let mut request = set("rename link", index, 0, 0);
    request.subject = format!("{index} to {name}");
    request.body.put_str(ifla::IFNAME, name);
    request
}

/// Sets the MTU in bytes.
#[must_use]
pub fn set_mtu(index: u32, mtu: u32) -> Request {
    let mut request = set("set MTU of link", index, 0, 0);
    request.body.put_u32(ifla::MTU, mtu);
    request
}

/// Sets the link group.
#[must_use]
pub fn set_group(index: u32, group: u32) -> Request {
    let mut request = set("set group of link", index, 0, 0);
    request.body.put_u32(ifla::GROUP, group);
    request
}

/// Sets the MAC.
#[must_use]
pub fn set_mac(index: u32, mac: Mac) -> Request {
    let mut request = set("set MAC of link", index, 0, 0);
    request.body.put_mac(ifla::ADDRESS, mac);
    request
}

/// Sets the alias; empty removes it.
#[must_use]
pub fn set_alias(index: u32, alias: &str) -> Request {
    let mut request = set("set alias of link", index, 0, 0);
    request.body.put(ifla::IFALIAS, alias.as_bytes());
    request
}

/// Makes the kernel invent no IPv6 link-local address for this link.
#[must_use]
pub fn set_addrgenmode_none(index: u32) -> Request {
    let mut request = set("set addrgenmode of link", index, 0, 0);
    request.body.nest(ifla::AF_SPEC, |families| {
        families.nest(AF_INET6.into(), |inet6| {
            inet6.put_u8(ifla::INET6_ADDR_GEN_MODE, ifla::ADDR_GEN_MODE_NONE);
        });
    });
    // No IPv6 in this kernel: nothing to turn off.
    request.tolerate(Errno::AFNOSUPPORT)
}

/// Moves a link to another namespace; the descriptor must stay open until the request was sent.
#[must_use]
pub fn move_to(index: u32, netns: BorrowedFd<'_>) -> Request {
    let mut request = set("move link", index, 0, 0);
    request
        .body
        .put(ifla::NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
    request
}

/// Deletes a link.
#[must_use]
pub fn delete(index: u32) -> Request {
    Request::new(
        "delete link",
        index.to_string(),
        rtm::DELLINK,
        0,
        &header(index, 0, 0),
    )
}

/// Deletes all links of a group at the cost of one.
#[must_use]
pub fn delete_group(group: u32) -> Request {
    let mut request = Request::new(
        "delete links of group",
        group.to_string(),
        rtm::DELLINK,
        0,
        &header(0, 0, 0),
    );
    request.body.put_u32(ifla::GROUP, group);
    request
}

/// `struct ifinfomsg`.
fn header(index: u32, flags: u32, mask: u32) -> [u8; ifla::HEADER] {
    let mut bytes = [0; ifla::HEADER];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&mask.to_ne_bytes());
    bytes
}

pub(crate) fn decode(reply: &Reply<'_>) -> Option<Link> {
    if reply.kind != rtm::NEWLINK && reply.kind != rtm::DELLINK {
        return None;
    }
    let flags = u32_at(reply.payload, 8)?;
    let mut link = Link {
        index: u32_at(reply.payload, 4)?,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags & ifla::UP != 0,
        running: false,
        loopback: flags & ifla::LOOPBACK != 0,
        group: 0,
        alias: None,
        kind: None,
        peer: None,
        peer_netns: None,
        master: None,
    };
    for (kind, value) in reply.attributes(ifla::HEADER) {
        match kind {
            ifla::IFNAME => link.name = text(value)?,
            ifla::ADDRESS => link.mac = mac_of(value),
            ifla::MTU => link.mtu = u32_of(value)?,
            ifla::OPERSTATE => {
                let state = *value.first()?;
                link.running = state == ifla::OPER_UP || state == ifla::OPER_UNKNOWN && link.up;
            }
            ifla::GROUP => link.group = u32_of(value)?,
            ifla::IFALIAS => link.alias = text(value),
            ifla::LINKINFO => link.kind = Attributes(value).value(ifla::INFO_KIND).and_then(text),
            ifla::LINK => link.peer = u32_of(value).filter(|peer| *peer != 0),
            ifla::LINK_NETNSID => link.peer_netns = u32_of(value).map(u32::cast_signed),
            ifla::MASTER => link.master = u32_of(value),
            _ => {}
        }
    }
    Some(link)
}

/// Changes several properties in one message; `None` leaves one alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change<'a> {
    pub name: Option<&'a str>,
    pub mtu: Option<u32>,
    pub group: Option<u32>,
    pub up: Option<bool>,
}

impl Change<'_> {
    /// The message; `None` when there is nothing to change.
    pub fn request(&self, index: u32) -> Option<Request> {
        let (flags, mask) = self
            .up
            .map_or((0, 0), |up| (if up { ifla::UP } else { 0 }, ifla::UP));
        let mut request = set("change link", index, flags, mask);
        let empty = request.body.len();
        let body: &mut Body = &mut request.body;
        if let Some(name) = self.name {
            body.put_str(ifla::IFNAME, name);
        }
        if let Some(mtu) = self.mtu {
            body.put_u32(ifla::MTU, mtu);
        }
        if let Some(group) = self.group {
            body.put_u32(ifla::GROUP, group);
        }
        (self.up.is_some() || request.body.len() > empty).then_some(request)
    }
}
