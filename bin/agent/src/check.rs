//! CHECK: what ADD made is still there, and the caller means the same addresses.

use std::collections::BTreeSet;
use std::sync::Arc;

use tombolo_core::types::AttachmentKey;
use tombolo_netlink::Netns;

use crate::attach;
use crate::error::Error;
use crate::journal::Phase;
use crate::node::Node;

/// Fails with every difference. `addresses` are those of the caller's earlier result, with length.
pub async fn check(
    node: &Arc<Node>,
    key: &AttachmentKey,
    netns: Arc<Netns>,
    addresses: &[String],
) -> Result<(), Error> {
    let _guard = node.keys.lock(key, None).await;
    let failed = |differences| {
        Err(Error::CheckFailed {
            key: key.clone(),
            differences,
        })
    };
    let Some(record) = node
        .record(key)
        .filter(|record| record.phase == Phase::Ready)
    else {
        return failed(vec!["there is no such attachment".to_owned()]);
    };
    let mut differences = attach::differences(node, &record, netns).await?;
    let ours: BTreeSet<String> = attach::answer(&record)
        .addresses
        .into_iter()
        .map(|address| address.cidr)
        .collect();
    let theirs: BTreeSet<String> = addresses.iter().cloned().collect();
    // What the result has beyond ours, a plugin after us added: it is for that one to check.
    for address in ours.difference(&theirs) {
        differences.push(format!("the attachment has {address}, prevResult has not"));
    }
    if differences.is_empty() {
        Ok(())
    } else {
        failed(differences)
    }
}
