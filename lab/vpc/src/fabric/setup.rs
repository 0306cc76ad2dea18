//! Makes and removes the parts of the fabric that no NIC owns.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};

use super::Sockets;
use super::command::{ip_batch, nft};
use super::ns::{NAMED, Netns, NsError, await_active, await_local, sysctls};
use super::ra::RaSocket;
use super::rules::{INET_LINK, base};
use crate::plan::FabricPlan;

/// Where instances find the cloud API.
pub const API_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Its port.
pub const API_PORT: u16 = 80;
/// Link group of all NICs' links, so that all of them go at the cost of one.
pub const NIC_GROUP: u32 = 1;

const ROUTER_MAC: &str = "0a:4e:ff:ff:ff:01";
const INET_MAC: &str = "0a:4e:ff:ff:ff:02";

const ROUTER_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    // The router's link-local address is given by hand.
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
];

/// For NICs' links, which are made later.
const NIC_SYSCTLS: &[(&str, &str)] = &[("net/ipv4/conf/default/proxy_arp", "1")];

/// Makes both namespaces, joins them, enters the router's with the calling thread and opens the sockets there.
pub fn build(plan: &FabricPlan) -> Result<Sockets, NsError> {
    let inet = Netns::create(&plan.inet())?;
    let fabric = Netns::create(&plan.fabric())?;
    fabric.enter()?;
    sysctls(ROUTER_SYSCTLS)?;
    ip_batch(&router_links(plan, &inet.child_path()))?;
    sysctls(NIC_SYSCTLS)?;
    sysctls(&[(format!("net/ipv4/conf/{INET_LINK}/proxy_arp"), "0")])?;
    nft(&base(plan))?;
    inet.run(|| {
        sysctls(ROUTER_SYSCTLS)?;
        ip_batch(&inet_links(plan))?;
        await_all("lo", &plan.hosts)
    })?;
    await_active(INET_LINK)?;
    await_all("lo", &plan.gateways)?;
    let api = TcpListener::bind((API_ADDRESS, API_PORT))
        .map_err(fabric.io(format!("listen on {API_ADDRESS}:{API_PORT}")))?;
    api.set_nonblocking(true)
        .map_err(fabric.io("make the API's listener non-blocking"))?;
    let ra = RaSocket::open(plan.ra_lifetime_s)
        .map_err(fabric.io("open the router advertisement socket"))?;
    Ok(Sockets { api, ra })
}

/// Waits for the IPv6 ones of a link's addresses.
fn await_all(link: &str, addresses: &[IpAddr]) -> Result<(), NsError> {
    addresses.iter().try_for_each(|address| match address {
        IpAddr::V4(_) => Ok(()),
        IpAddr::V6(a) => await_local(link, *a),
    })
}

fn router_links(plan: &FabricPlan, inet: &str) -> String {
    let mut out = String::new();
    let mtu = plan.inet_mtu;
    line!(out, "link set lo up");
    line!(out, "addr add {API_ADDRESS}/32 dev lo scope host");
    for gateway in &plan.gateways {
        match gateway {
            IpAddr::V4(a) => line!(out, "addr add {a}/32 dev lo"),
            IpAddr::V6(a) => line!(out, "addr add {a}/128 dev lo nodad"),
        }
    }
    line!(
        out,
        "link add {INET_LINK} address {ROUTER_MAC} mtu {mtu} type veth peer name fab0 address {INET_MAC} mtu {mtu} netns {inet}"
    );
    line!(out, "addr add fe80::1/64 dev {INET_LINK} nodad");
    line!(out, "link set {INET_LINK} up");
    line!(
        out,
        "neigh add 192.0.2.2 lladdr {INET_MAC} dev {INET_LINK} nud permanent"
    );
    line!(
        out,
        "neigh add fe80::2 lladdr {INET_MAC} dev {INET_LINK} nud permanent"
    );
    line!(
        out,
        "route add default via 192.0.2.2 dev {INET_LINK} onlink"
    );
    line!(out, "route add default via fe80::2 dev {INET_LINK}");
    for net in &plan.vpc4 {
        line!(out, "route add unreachable {net}");
    }
    for net in &plan.vpc6 {
        line!(out, "route add unreachable {net}");
    }
    out
}

fn inet_links(plan: &FabricPlan) -> String {
    let mut out = String::new();
    line!(out, "link set lo up");
    for host in &plan.hosts {
        match host {
            IpAddr::V4(a) => line!(out, "addr add {a}/32 dev lo"),
            IpAddr::V6(a) => line!(out, "addr add {a}/128 dev lo nodad"),
        }
    }
    line!(out, "addr add fe80::2/64 dev fab0 nodad");
    line!(out, "link set fab0 up");
    line!(
        out,
        "neigh add 192.0.2.1 lladdr {ROUTER_MAC} dev fab0 nud permanent"
    );
    line!(
        out,
        "neigh add fe80::1 lladdr {ROUTER_MAC} dev fab0 nud permanent"
    );
    line!(out, "route add default via 192.0.2.1 dev fab0 onlink");
    line!(out, "route add default via fe80::1 dev fab0");
    out
}

/// Removes both namespaces, as far as they exist. Returns what could not be removed.
pub fn remove(plan: &FabricPlan) -> Vec<String> {
    [plan.fabric(), plan.inet()]
        .iter()
        .filter(|name| std::path::Path::new(NAMED).join(name).exists())
        .filter_map(|name| Netns::remove(name).err().map(|e| e.to_string()))
        .collect()
}

/// Removes every named namespace of a lab that nobody runs any more. Returns the names.
///
/// # Errors
/// One of them cannot be removed.
pub fn sweep(lab: &str) -> Result<Vec<String>, NsError> {
    let prefix = format!("tl-{lab}-");
    let Ok(entries) = std::fs::read_dir(NAMED) else {
        // No named namespace was ever made on this machine.
        return Ok(Vec::new());
    };
    let names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    for name in &names {
        Netns::remove(name)?;
    }
    Ok(names)
}
