//! Every kernel setting that we change, and why. Whoever wonders what Tombolo does to a node's sysctls reads this page.
//!
//! `rp_filter` is the administrator's: 0, 1 and 2 all work, because every NIC compares with the mark that our nft table
//! gave to the packet (`src_valid_mark`), and the route back to a pod leads to its own link.
//!
//! Host ends get one setting only (and one more for host ports), because each is a write inside ADD. The rest that a router might want is moot there:
//! - redirects from a pod: IPv6 ones need a router's link-local source and are ignored while the node forwards; IPv4 ones
//!   count only from the gateway of a route, which no pod is;
//! - redirects to a pod: nothing leaves by the link that it came from;
//! - duplicate detection and link-local addresses: the host end has no address (`addrgenmode none`).

use super::Sysctl;
use crate::types::{Family, HostIfName, Nic};

/// Lets the node forward IPv4.
const FORWARD4: &str = "ipv4/ip_forward";
/// Lets the node forward IPv6 (and makes it the default of new links).
const FORWARD6: &str = "ipv6/conf/all/forwarding";

/// Settings of the node as a whole and of its NICs.
pub(super) fn node(families: impl Iterator<Item = Family>, nics: &[Nic]) -> Vec<Sysctl> {
    let mut all = Vec::new();
    // Forwarding waits for the primary NIC: coming on while the node's advertised default route has no `accept_ra` of 2 to
    // protect it, it would take that route away until the next advertisement.
    let may_forward = nics.iter().any(Nic::is_primary);
    for family in families {
        if may_forward {
            all.push(match family {
                Family::V4 => set(FORWARD4, "1"),
                Family::V6 => set(FORWARD6, "1"),
            });
        }
        for nic in nics {
            let name = &nic.ifname;
            if may_forward {
                // Comes and goes with the node's; network managers switch it off on a NIC alone.
                let path = match family {
                    Family::V4 => format!("ipv4/conf/{name}/forwarding"),
                    Family::V6 => format!("ipv6/conf/{name}/forwarding"),
                };
                all.push(set(path, "1"));
            }
            match family {
                // Reverse-path filtering asks the tables that the packet's mark selects.
                Family::V4 => all.push(set(format!("ipv4/conf/{name}/src_valid_mark"), "1")),
                // A forwarding node ignores router advertisements, and would lose its own default route, unless told.
                Family::V6 if nic.is_primary() => {
                    all.push(set(format!("ipv6/conf/{name}/accept_ra"), "2"))
                }
                Family::V6 => {}
            }
        }
    }
    for nic in nics.iter().filter(|nic| !nic.is_primary()) {
        let name = &nic.ifname;
        all.extend([
            // Whatever the profile's families: an advertisement would give the node a second default route in main.
            set(format!("ipv6/conf/{name}/accept_ra"), "0"),
            // The cloud hands out every address once; detection would delay the first packet by a second.
            set(format!("ipv6/conf/{name}/accept_dad"), "0"),
            // Several NICs in one subnet: each answers for and speaks with its own address only.
            set(format!("ipv4/conf/{name}/arp_ignore"), "1"),
            set(format!("ipv4/conf/{name}/arp_announce"), "2"),
        ]);
    }
    all
}

/// Settings of the host end of a pod's link; `loopback`: the node's processes reach the pod by a port of 127.0.0.1.
pub(super) fn host_end(name: &HostIfName, loopback: bool) -> Vec<Sysctl> {
    // Our nft table drops a pod's advertisements; this holds while the table is gone, too.
    let mut all = vec![set(format!("ipv6/conf/{name}/accept_ra"), "0")];
    if loopback {
        // What comes from there is routed to the pod before its source is translated, and the answers come back to there.
        // The other direction, a pod that speaks to 127.0.0.1 of its node, is dropped by chain `guard`.
        all.push(set(format!("ipv4/conf/{name}/route_localnet"), "1"));
    }
    all
}

/// Whether a setting lets packets pass that did not pass before: such are written when everything that steers is in place.
pub(super) fn admits(sysctl: &Sysctl) -> bool {
    sysctl.path == FORWARD4 || sysctl.path.ends_with("/forwarding")
}

fn set(path: impl Into<String>, value: &str) -> Sysctl {
    Sysctl {
        path: path.into(),
        value: value.to_owned(),
    }
}
