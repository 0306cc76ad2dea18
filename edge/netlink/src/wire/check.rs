//! Compares one pod's network with what ADD made, for CHECK: differences in words.

use std::collections::BTreeSet;

use tombolo_core::datapath::conventions::POD_LINK_GROUP;
use tombolo_core::datapath::{Address, EndpointState, Selector};
use tombolo_core::types::AttachmentKey;

use super::{PodSide, pod_neighbours, pod_routes, pod_rules};
use crate::link::Link;
use crate::{Error, Kernel, addr, link, neigh, nft, route, rule};

impl PodSide<'_> {
    /// What of the pod's side differs from what ADD made; empty: all is well. What the pod has besides is its own affair.
    ///
    /// # Errors
    /// The kernel's reason where something cannot be looked at.
    pub fn check(
        &mut self,
        key: &AttachmentKey,
        state: &EndpointState,
    ) -> Result<Vec<String>, Error> {
        let Some(found) = link::by_name(&mut self.route, &key.ifname)? else {
            return Ok(vec![format!(
                "interface {} is missing in the pod",
                key.ifname
            )]);
        };
        let mut differences = Vec::new();
        if found.mac != Some(state.macs.0) {
            differences.push(format!(
                "interface {} is not the one that was made",
                key.ifname
            ));
            return Ok(differences);
        }
        // Plugins after us may make it smaller.
        let mtu = state.mtu.min(found.mtu);
        check_link(&found, mtu, "in the pod", &mut differences);
        let addresses: BTreeSet<_> = addr::list(&mut self.route)?
            .into_iter()
            .map(|found| found.address)
            .collect();
        for ip in &state.pod_addresses {
            if !addresses.contains(&Address {
                ifindex: found.index,
                ip: *ip,
            }) {
                differences.push(format!("address {ip} is missing on {}", key.ifname));
            }
        }
        let routes = route::list(&mut self.route)?.ours;
        for wanted in pod_routes(found.index, state)
            .iter()
            .filter(|wanted| !routes.contains(wanted))
        {
            differences.push(format!("route to {} is missing in the pod", wanted.dst));
        }
        if !state.own_table.is_unused() {
            let rules = rule::list(&mut self.route)?.ours;
            for wanted in pod_rules(&key.ifname, state)
                .iter()
                .filter(|wanted| !rules.contains(wanted))
            {
                let table = state.own_table.table;
                differences.push(format!(
                    "rule to table {table} for {} is missing in the pod",
                    match &wanted.selector {
                        Selector::From(address) => address.to_string(),
                        _ => key.ifname.clone(),
                    }
                ));
            }
        }
        let neighbours = neigh::list_ours(&mut self.route)?;
        for wanted in pod_neighbours(found.index, state)
            .iter()
            .filter(|wanted| !neighbours.contains(wanted))
        {
            differences.push(format!(
                "neighbour entry of {} is missing in the pod",
                wanted.ip
            ));
        }
        Ok(differences)
    }
}

/// What of the host side differs from what ADD made; empty: all is well.
///
/// # Errors
/// The kernel's reason where something cannot be looked at.
pub fn check_host(
    kernel: &mut Kernel,
    host_ifindex: u32,
    state: &EndpointState,
) -> Result<Vec<String>, Error> {
    let name = &state.host_ifname;
    let Some(found) =
        link::by_index(&mut kernel.route, host_ifindex)?.filter(|found| found.name == name.0)
    else {
        return Ok(vec![format!("interface {name} is missing on the node")]);
    };
    let mut differences = Vec::new();
    check_link(&found, state.mtu, "on the node", &mut differences);
    if found.group != POD_LINK_GROUP {
        differences.push(format!("interface {name} is not in the group of pod links"));
    }
    let routes = route::list(&mut kernel.route)?.ours;
    for wanted in state
        .routes
        .iter()
        .filter(|wanted| !routes.contains(wanted))
    {
        differences.push(format!(
            "route to {} is missing in table {}",
            wanted.dst, wanted.table
        ));
    }
    let neighbours = neigh::list_ours(&mut kernel.route)?;
    for wanted in state
        .neighbours
        .iter()
        .filter(|wanted| !neighbours.contains(wanted))
    {
        differences.push(format!(
            "neighbour entry of {} is missing on the node",
            wanted.ip
        ));
    }
    match nft::observe(&mut kernel.netfilter)? {
        None => differences.push("the nft tables are missing or were changed".to_owned()),
        Some(nat) => {
            for (ip, mark) in &state.sources {
                let found = match ip {
                    std::net::IpAddr::V4(ip) => nat.pods4.get(&(host_ifindex, *ip)),
                    std::net::IpAddr::V6(ip) => nat.pods6.get(&(host_ifindex, *ip)),
                };
                if found != Some(mark) {
                    differences.push(format!("source {ip} is not admitted on {name}"));
                }
            }
        }
    }
    Ok(differences)
}

fn check_link(link: &Link, mtu: u32, place: &str, differences: &mut Vec<String>) {
    if !link.up {
        differences.push(format!("interface {} is down {place}", link.name));
    }
    if link.mtu != mtu {
        differences.push(format!(
            "interface {} has MTU {} instead of {mtu} {place}",
            link.name, link.mtu
        ));
    }
}
