//! Removes what Tombolo put into this node's kernel, puts settings back, and forgets. Pods lose their network. Goes on
//! through failures and reports all of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, bail};
use tombolo_core::datapath::conventions::{DOOMED_LINK_GROUP, POD_LINK_GROUP};
use tombolo_core::datapath::diff::plan;
use tombolo_core::datapath::{NodeState, Sysctl};
use tombolo_core::types::DelNote;
use tombolo_netlink::{Error as NetlinkError, Kernel, Observation, link, nft, rule, sysctl};

use crate::error::chain;
use crate::{originals, steps};

/// Protocol number of the routes that the kernel makes itself.
const KERNEL: u8 = 2;

/// Everything, in the reverse order of its making.
pub fn uninstall(run_dir: &Path) -> anyhow::Result<()> {
    let _lock = match run_dir.symlink_metadata() {
        Ok(_) => Some(crate::run::lock(run_dir)?),
        Err(_) => None,
    };
    let mut kernel = Kernel::open().context("open kernel sockets")?;
    let mut failures: Vec<String> = Vec::new();
    let mut note = |what: &str, result: Result<(), NetlinkError>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {}", chain(&error)));
        }
    };
    for group in [POD_LINK_GROUP, DOOMED_LINK_GROUP] {
        let delete = link::delete_group(group);
        let deleted = steps::UNINSTALL_LINKS.around(|| kernel.route.request(delete));
        note(
            "delete pod links",
            deleted.or_else(|error| {
                if error.is_missing() {
                    Ok(())
                } else {
                    Err(error)
                }
            }),
        );
    }
    let links = link::list(&mut kernel.route).context("list links")?;
    let is_ours = |link: &&link::Link| {
        link.alias
            .as_ref()
            .is_some_and(|alias| alias.starts_with("tombolo "))
    };
    let nics: BTreeSet<u32> = links
        .iter()
        .filter(is_ours)
        .map(|link| link.index)
        .collect();
    let observed = kernel
        .observe_node(&BTreeSet::new(), &nics)
        .context("observe the node")?;
    let mut nothing = NodeState {
        nat: observed.state.nat.clone(),
        ..NodeState::default()
    };
    nothing.links = observed.state.links.clone();
    for op in plan(&nothing, &observed.state, true) {
        note(
            "remove",
            steps::UNINSTALL_STATE.around(|| kernel.apply(&op)),
        );
    }
    for leftover in observed.foreign_rules.iter().filter_map(rule::del_leftover) {
        let remove = || kernel.route.request(leftover);
        note("remove", steps::UNINSTALL_LEFTOVER.around(remove));
    }
    let removed = steps::UNINSTALL_NFT_TABLES.around(|| nft::remove(&mut kernel.netfilter));
    note("remove nft tables", removed);
    for index in nics {
        let mut request = |request| steps::UNINSTALL_NIC.around(|| kernel.route.request(request));
        if !used_by_others(&observed, index) {
            note("set NIC down", request(link::set_up(index, false)));
        }
        note("remove alias", request(link::set_alias(index, "")));
    }
    match originals::read(run_dir) {
        Ok(originals) => {
            for (path, value) in originals.values {
                let setting = Sysctl { path, value };
                let written = steps::UNINSTALL_SETTING.around(|| sysctl::write(&setting));
                note(
                    "restore setting",
                    written.or_else(|error| {
                        if error.is_missing() {
                            Ok(())
                        } else {
                            Err(error)
                        }
                    }),
                );
            }
        }
        Err(error) => failures.push(format!("read the settings to restore: {}", chain(&error))),
    }
    if !failures.is_empty() {
        bail!(
            "not everything could be removed:\n  {}",
            failures.join("\n  ")
        );
    }
    forget(run_dir)
}

/// Going down, a link would lose what others put on it.
fn used_by_others(observed: &Observation, ifindex: u32) -> bool {
    let has_address = |ip: IpAddr| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    let addresses = &observed.foreign_addresses;
    let routes = &observed.foreign_routes;
    addresses
        .iter()
        .any(|address| address.ifindex == ifindex && has_address(address.ip.addr()))
        || routes
            .iter()
            .any(|route| route.ifindex == Some(ifindex) && route.protocol != KERNEL)
}

/// Our files; the directory itself may be somebody's mount.
fn forget(run_dir: &Path) -> anyhow::Result<()> {
    for name in ["journal", "cooling", "quarantine", DelNote::DIRECTORY] {
        let path = run_dir.join(name);
        if path.symlink_metadata().is_ok() {
            steps::UNINSTALL_FILES
                .around(|| std::fs::remove_dir_all(&path))
                .with_context(|| format!("remove {}", path.display()))?;
        }
    }
    for name in ["nrs.json", "sysctls.json", "agent.sock", "lock"] {
        let path = run_dir.join(name);
        if path.symlink_metadata().is_ok() {
            steps::UNINSTALL_FILES
                .around(|| std::fs::remove_file(&path))
                .with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}
