//! Routes. Everything we add carries our protocol number.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tombolo_core::datapath::conventions::PROTOCOL;
use tombolo_core::datapath::{Route, RouteKind};
use tombolo_core::types::Family;

use crate::abi::{nlm, rta, rtm};
use crate::addr::absent_family_is_empty;
use crate::message::{Reply, family_number, family_of, ip_of, u32_at, u32_of};
use crate::{Error, Request, Socket};

/// A route that is not ours, or that carries our protocol but has a shape that we do not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRoute {
    /// Table.
    pub table: u32,
    /// Destination.
    pub dst: IpNet,
    /// Protocol number (2 kernel, 3 boot, 4 static, 9 RA, 16 DHCP …).
    pub protocol: u8,
    /// Kernel route type (1 unicast, 7 unreachable …).
    pub kind: u8,
    /// Outgoing link.
    pub ifindex: Option<u32>,
    /// Router.
    pub gateway: Option<IpAddr>,
    /// Metric.
    pub metric: u32,
}

impl ForeignRoute {
    /// Whether it leads somewhere.
    pub(crate) const fn is_unicast(&self) -> bool {
        self.kind == rta::UNICAST
    }
}

/// What a dump holds.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Ours.
    pub ours: BTreeSet<Route>,
    /// Others', without those of the kernel's local table.
    pub foreign: Vec<ForeignRoute>,
}

/// Adds a route, or replaces the one with the same table, destination and metric, whoever's it is.
#[must_use]
pub fn add(route: &Route) -> Request {
    encode(
        "add route",
        route,
        rtm::NEWROUTE,
        nlm::CREATE | nlm::REPLACE,
    )
}

/// Adds a route where none has the same table, destination and metric; one that is there stays, without an error.
#[must_use]
pub fn add_new(route: &Route) -> Request {
    let flags = nlm::CREATE | nlm::EXCL;
    encode("add route", route, rtm::NEWROUTE, flags).tolerate(rustix::io::Errno::EXIST)
}

/// Delivers packets to this address locally: what the kernel adds for each address, for IPv6 with a delay.
#[must_use]
pub(crate) fn add_local(ip: IpAddr, ifindex: u32) -> Request {
    let family = Family::of(ip);
    let local = u8::try_from(rta::TABLE_LOCAL).unwrap_or(u8::MAX);
    let mut header = [0; rta::HEADER];
    header[..2].copy_from_slice(&[family_number(family), family.host_prefix()]);
    header[4..8].copy_from_slice(&[local, PROTOCOL, rta::SCOPE_HOST, rta::LOCAL]);
    let flags = nlm::CREATE | nlm::REPLACE;
    let mut request = Request::new(
        "add local route",
        ip.to_string(),
        rtm::NEWROUTE,
        flags,
        &header,
    );
    request.body.put_ip(rta::DST, ip).put_u32(rta::OIF, ifindex);
    request
}

/// Removes exactly this route, only if it carries our protocol number.
#[must_use]
pub fn del(route: &Route) -> Request {
    encode("delete route", route, rtm::DELROUTE, 0)
}

fn encode(operation: &'static str, route: &Route, kind: u16, flags: u16) -> Request {
    let family = Family::of(route.dst.addr());
    let (scope, route_type, route_flags) = match route.kind {
        RouteKind::Link { .. } if family == Family::V4 => (rta::SCOPE_LINK, rta::UNICAST, 0),
        RouteKind::Link { .. } => (rta::SCOPE_UNIVERSE, rta::UNICAST, 0),
        RouteKind::Via { .. } => (rta::SCOPE_UNIVERSE, rta::UNICAST, rta::F_ONLINK),
        RouteKind::Unreachable => (rta::SCOPE_UNIVERSE, rta::UNREACHABLE, 0),
    };
    let mut header = [0; rta::HEADER];
    header[0] = family_number(family);
    header[1] = route.dst.prefix_len();
    header[4] = u8::try_from(route.table).unwrap_or(0);
    header[5] = PROTOCOL;
    header[6] = scope;
    header[7] = route_type;
    header[8..12].copy_from_slice(&route_flags.to_ne_bytes());
    let subject = format!("{} table {}", route.dst, route.table);
    let mut request = Request::new(operation, subject, kind, flags, &header);
    let body = &mut request.body;
    body.put_u32(rta::TABLE, route.table);
    if route.dst.prefix_len() > 0 {
        body.put_ip(rta::DST, route.dst.network());
    }
    if route.metric > 0 {
        body.put_u32(rta::PRIORITY, route.metric);
    }
    match route.kind {
        RouteKind::Link { ifindex } => {
            body.put_u32(rta::OIF, ifindex);
        }
        RouteKind::Via { gateway, ifindex } if Family::of(gateway) == family => {
            body.put_ip(rta::GATEWAY, gateway)
                .put_u32(rta::OIF, ifindex);
        }
        RouteKind::Via { gateway, ifindex } => {
            // A router of the other family: `struct rtvia`.
            let mut via = u16::from(family_number(Family::of(gateway)))
                .to_ne_bytes()
                .to_vec();
            match gateway {
                IpAddr::V4(ip) => via.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => via.extend_from_slice(&ip.octets()),
            }
            body.put(rta::VIA, &via).put_u32(rta::OIF, ifindex);
        }
        RouteKind::Unreachable => {}
    }
    request
}

/// All routes of the socket's namespace, both families.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`]; [`Error::Malformed`] where the list never held still.
pub fn list(socket: &mut Socket) -> Result<Routes, Error> {
    let mut routes = Routes::default();
    for family in Family::ALL {
        let mut header = [0; rta::HEADER];
        header[0] = family_number(family);
        let request = Request::new(
            "list",
            format!("{family} routes"),
            rtm::GETROUTE,
            0,
            &header,
        );
        for decoded in absent_family_is_empty(socket.dump(&request, decode))? {
            match decoded {
                Ok(route) => {
                    routes.ours.insert(route);
                }
                Err(foreign) => routes.foreign.push(foreign),
            }
        }
    }
    Ok(routes)
}

/// The way that a packet of the node's own to this address would take now, whoever's rules and routes say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Table in which the route was found.
    pub table: u32,
    /// Kernel route type (1 unicast, 2 local …).
    pub kind: u8,
    /// Outgoing link.
    pub ifindex: Option<u32>,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            table,
            kind,
            ifindex,
        } = self;
        let link = ifindex.map_or_else(String::new, |ifindex| format!(" by link {ifindex}"));
        if *kind == rta::LOCAL {
            write!(f, "it is an address of the node itself (table {table})")
        } else {
            write!(f, "table {table} leads it{link} (route type {kind})")
        }
    }
}

/// Asks the kernel where it would send a packet for this address.
///
/// # Errors
/// [`Error::Refused`] where there is no way (`EHOSTUNREACH`, `ENETUNREACH`); [`Error::System`].
pub fn way(socket: &mut Socket, ip: IpAddr) -> Result<Way, Error> {
    let family = Family::of(ip);
    let mut header = [0; rta::HEADER];
    header[..2].copy_from_slice(&[family_number(family), family.host_prefix()]);
    if family == Family::V4 {
        // IPv6 tells the table anyway, and does not take the flag.
        header[8..12].copy_from_slice(&rta::F_LOOKUP_TABLE.to_ne_bytes());
    }
    let mut request = Request::new("find the way to", ip.to_string(), rtm::GETROUTE, 0, &header);
    request.body.put_ip(rta::DST, ip);
    let silent = request.malformed("there is no answer");
    let mut way = None;
    socket.ask(request, |reply| {
        let attributes = reply.attributes(rta::HEADER);
        let number = |kind| attributes.value(kind).and_then(u32_of);
        if let (rtm::NEWROUTE, [_, _, _, _, low_table, _, _, kind, ..]) =
            (reply.kind, reply.payload)
        {
            way = Some(Way {
                table: number(rta::TABLE).unwrap_or(u32::from(*low_table)),
                kind: *kind,
                ifindex: number(rta::OIF),
            });
        }
    })?;
    way.ok_or(silent)
}

/// Ours, or another's.
pub(crate) fn decode(reply: &Reply<'_>) -> Option<Result<Route, ForeignRoute>> {
    let [
        family,
        dst_len,
        src_len,
        tos,
        low_table,
        protocol,
        _,
        kind,
        ..,
    ] = *reply.payload
    else {
        return None;
    };
    let family = family_of(family)?;
    let flags = u32_at(reply.payload, 8)?;
    let (mut table, mut metric, mut dst) = (u32::from(low_table), 0, unspecified(family));
    let (mut ifindex, mut gateway) = (None, None);
    let mut plain = src_len == 0 && tos == 0;
    for (attribute, value) in reply.attributes(rta::HEADER) {
        match attribute {
            rta::TABLE => table = u32_of(value)?,
            rta::DST => dst = ip_of(value)?,
            rta::OIF => ifindex = u32_of(value),
            rta::GATEWAY => gateway = ip_of(value),
            rta::VIA => gateway = value.get(2..).and_then(ip_of),
            rta::PRIORITY => metric = u32_of(value)?,
            rta::SRC | rta::PREFSRC | rta::METRICS | rta::MULTIPATH | rta::ENCAP | rta::NH_ID => {
                plain = false
            }
            _ => {}
        }
    }
    if table == rta::TABLE_LOCAL || flags & rta::F_CLONED != 0 {
        return None;
    }
    let dst = IpNet::new(dst, dst_len).ok()?;
    plain &= dst == dst.trunc() && Family::of(dst.addr()) == family;
    let shape = match (kind, ifindex, gateway) {
        (rta::UNICAST, Some(ifindex), Some(gateway)) => Some(RouteKind::Via { gateway, ifindex }),
        (rta::UNICAST, Some(ifindex), None) => Some(RouteKind::Link { ifindex }),
        // The kernel shows an IPv6 one with the loopback link.
        (rta::UNREACHABLE, _, None) => Some(RouteKind::Unreachable),
        _ => None,
    };
    Some(match shape {
        Some(kind) if protocol == PROTOCOL && plain => Ok(Route {
            table,
            dst,
            kind,
            metric,
        }),
        _ => Err(ForeignRoute {
            table,
            dst,
            protocol,
            kind,
            ifindex,
            gateway,
            metric,
        }),
    })
}

/// Family, table and protocol of a notification about a route.
pub(crate) fn summary(reply: &Reply<'_>) -> Option<(Family, u32, u8)> {
    let family = family_of(*reply.payload.first()?)?;
    if u32_at(reply.payload, 8)? & rta::F_CLONED != 0 {
        return None;
    }
    let table = reply
        .attributes(rta::HEADER)
        .value(rta::TABLE)
        .and_then(u32_of);
    Some((
        family,
        table.unwrap_or(u32::from(*reply.payload.get(4)?)),
        *reply.payload.get(5)?,
    ))
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}
