//! When a NIC's MTU changes, its pods follow. The host end is ordinary desired state; the pod's end lies in a namespace
//! that we do not hold open (that would keep it alive), so it is looked up: by the runtime's path, else through a process
//! that lives in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tombolo_netlink::{Error as NetlinkError, Netns, NetnsId, Socket, link};
use tracing::{info, warn};

use crate::error::Error;
use crate::journal::{NetnsRecord, Phase, Record};
use crate::node::Node;
use crate::steps;

/// Brings every pod whose MTU should be another to it.
pub async fn follow(node: &Arc<Node>) -> Result<(), Error> {
    let wired = node.wired.borrow().clone();
    for record in node.all_records() {
        let mtu = wired.pod_mtu(&record.addresses);
        if record.phase == Phase::Ready && record.mtu != mtu {
            let Some(_guard) = node.keys.try_lock(&record.key) else {
                node.look_again_soon();
                continue;
            };
            if node.record(&record.key).as_ref() == Some(&record) {
                change(node, record, mtu).await?;
            }
        }
    }
    Ok(())
}

async fn change(node: &Arc<Node>, record: Record, mtu: u32) -> Result<(), Error> {
    let journal = node.journal.clone();
    let changed = node.kernels.run(move |_| {
        let (pod_mac, _) = record.key.macs();
        let Some(netns) = find(&record.netns) else {
            warn!(key = %record.key, mtu, "its namespace cannot be found: the pod keeps its MTU");
            return Ok(None);
        };
        let mut socket = Socket::route_in(&netns)?;
        let found = link::by_name(&mut socket, &record.key.ifname)?
            .filter(|link| link.mac == Some(pod_mac));
        if let Some(found) = found {
            steps::MTU_POD_END.around(|| socket.request(link::set_mtu(found.index, mtu)))?;
        }
        Ok::<_, NetlinkError>(Some(Record { mtu, ..record }))
    });
    let changed = changed.await?;
    let changed = changed.map_err(|source| Error::Kernel {
        operation: "set MTU",
        key: mtu.to_string(),
        source,
    })?;
    if let Some(record) = changed {
        info!(key = %record.key, mtu, "followed its NIC's MTU");
        node.put_record(record.clone());
        let write = move || steps::MTU_JOURNAL.around(|| journal.write(&record));
        tokio::task::spawn_blocking(write).await??;
    }
    Ok(())
}

/// The namespace of an attachment, if something still leads there.
fn find(record: &NetnsRecord) -> Option<Netns> {
    let wanted = NetnsId {
        dev: record.dev,
        ino: record.ino,
    };
    let open = |path: &Path| Netns::open(path).ok().filter(|netns| netns.id() == wanted);
    if let Some(netns) = open(Path::new(&record.path)) {
        return Some(netns);
    }
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let paths = processes.map(|entry| -> PathBuf { entry.path().join("ns/net") });
    paths
        .filter(|path| inode(path) == Some(record.ino))
        .find_map(|path| open(&path))
}

/// Cheaper than opening: the inode from the link's text, `net:[4026531840]`.
fn inode(path: &Path) -> Option<u64> {
    let target = std::fs::read_link(path).ok()?;
    target
        .to_str()?
        .strip_prefix("net:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}
