//! Routes. Everything we add carries our protocol number.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_core::datapath::Route;

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
    /// Kernel route type (1 unicast, 2 local …).
    pub kind: u8,
    /// Outgoing link.
    pub ifindex: Option<u32>,
    /// Router.
    pub gateway: Option<IpAddr>,
    /// Metric.
    pub metric: u32,
}

/// What a dump holds.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Ours.
    pub ours: BTreeSet<Route>,
    /// Others', without the kernel's local and multicast tables.
    pub foreign: Vec<ForeignRoute>,
}

/// Adds a route, or replaces the one with the same table, destination and metric.
#[must_use]
pub fn add(_route: &Route) -> Request {
    todo!()
}

/// Removes exactly this route, only if it carries our protocol number.
#[must_use]
pub fn del(_route: &Route) -> Request {
    todo!()
}

/// All routes of the socket's namespace, both families.
pub fn list(_socket: &mut Socket) -> Result<Routes, Error> {
    todo!()
}
