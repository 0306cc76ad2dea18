//! Start: what the journal promises is compared with the pod links that the kernel shows, before anything is served.
//!
//! | journal | link | then |
//! |---|---|---|
//! | ready | there | it stands; the first comparison checks the rest |
//! | ready | gone, or doomed | it ends as if by DEL |
//! | adding | any | undone |
//! | draining | any | finished |
//! | nothing | there | an orphan: left alone, its addresses withheld |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tombolo_core::datapath::conventions::{POD_LINK_GROUP, POD_TABLE};
use tombolo_core::datapath::{EndpointAddress, RouteKind};
use tombolo_core::ipam::{Action, Input};
use tombolo_core::types::{AttachmentKey, NicId};
use tombolo_netlink::{Error as NetlinkError, Kernel, route, wire};
use tracing::{error, info, warn};

use crate::error::{Error, chain};
use crate::journal::{Phase, Record};
use crate::node::{Node, Orphan};
use crate::steps;

/// Restores records and pool. Run before anything else uses the node.
pub async fn restore(node: &Arc<Node>) -> Result<(), Error> {
    let journal = node.journal.clone();
    let found = tokio::task::spawn_blocking(move || journal.load()).await??;
    for file in &found.quarantined {
        let error = chain(&file.error);
        error!(moved_to = %file.moved_to.display(), error, "a journal file cannot be used and was set aside");
        node.metrics
            .failed("journal", tombolo_core::types::Reason::JournalError);
    }
    let observed = node.kernels.run(pod_links).await?;
    let links = observed.map_err(|source| Error::Kernel {
        operation: "list",
        key: "pod links".to_owned(),
        source,
    })?;
    let mut inputs: Vec<Input> = found
        .cooling
        .into_iter()
        .map(|note| Input::RestoreCooling(note.address, note.until))
        .collect();
    let mut ending = Vec::new();
    let mut known = BTreeSet::new();
    for record in found.records {
        known.insert(record.key.host_ifname().0);
        inputs.push(Input::Restore(record.key.clone(), record.addresses.clone()));
        match links.get(&record.key.host_ifname().0) {
            Some(link) if record.phase == Phase::Ready => {
                let host_ifindex = Some(link.ifindex);
                node.put_record(Record {
                    host_ifindex,
                    // When it really was is not known any more; a GC that began before this process leaves it alone.
                    answered: tombolo_rpc::since_boot(),
                    ..record
                });
            }
            _ => {
                inputs.push(Input::Release(record.key.clone()));
                ending.push(record);
            }
        }
    }
    for (name, link) in links.into_iter().filter(|(name, _)| !known.contains(name)) {
        inputs.extend(adopt_orphan(node, name, link));
    }
    for action in node.pool.inputs(None, inputs).await? {
        if let Action::Refuse(key, reason) = action {
            error!(%key, %reason, "its addresses are another attachment's: the journal contradicts itself");
        }
    }
    for record in ending {
        info!(key = %record.key, phase = ?record.phase, "is ended");
        let record = Record {
            phase: Phase::Draining,
            ..record
        };
        node.put_record(record.clone());
        let journal = node.journal.clone();
        let key = record.key.clone();
        let write = move || steps::START_JOURNAL_DRAINING.around(|| journal.write(&record));
        tokio::task::spawn_blocking(write).await??;
        node.doomed.send(key).map_err(|_| Error::Stopping)?;
    }
    Ok(())
}

/// A pod link with the addresses that are routed to it.
struct Found {
    ifindex: u32,
    addresses: Vec<IpAddr>,
}

/// All live pod links by name.
fn pod_links(kernel: &mut Kernel) -> Result<BTreeMap<String, Found>, NetlinkError> {
    let routes = route::list(&mut kernel.route)?.ours;
    let to = |index: u32| {
        let on = move |kind: &RouteKind| matches!(kind, RouteKind::Link { ifindex } if *ifindex == index);
        routes
            .iter()
            .filter(move |r| r.table == POD_TABLE && on(&r.kind))
            .map(|r| r.dst.addr())
            .collect()
    };
    let links = wire::pod_links(kernel)?
        .into_iter()
        .filter(|link| link.group == POD_LINK_GROUP);
    Ok(links
        .map(|link| {
            (
                link.name,
                Found {
                    ifindex: link.index,
                    addresses: to(link.index),
                },
            )
        })
        .collect())
}

/// Withholds an orphan's addresses.
fn adopt_orphan(node: &Node, ifname: String, link: Found) -> Option<Input> {
    warn!(ifname, addresses = ?link.addresses, "a pod link without a journal entry is left alone");
    let plan = node.plan.borrow().clone();
    let owner = |ip: &IpAddr| {
        let nics = plan.iter().flat_map(|plan| &plan.nics);
        nics.filter(|nic| nic.addresses.contains(ip))
            .map(|nic| nic.id.clone())
            .next()
    };
    let unknown = || NicId("unknown".to_owned());
    let key = AttachmentKey {
        network: "orphan".to_owned(),
        container_id: ifname.clone(),
        ifname: "eth0".to_owned(),
    };
    let addresses: Vec<EndpointAddress> = link
        .addresses
        .iter()
        .map(|ip| EndpointAddress {
            ip: *ip,
            nic: owner(ip).unwrap_or_else(unknown),
        })
        .collect();
    node.put_orphan(
        link.ifindex,
        Orphan {
            ifname,
            key: key.clone(),
            addresses: link.addresses,
        },
    );
    (!addresses.is_empty()).then_some(Input::Restore(key, addresses))
}
