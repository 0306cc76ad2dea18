//! NICs that this cluster made and that no object knows: made by a call that came through after we had given up on it, or
//! left by objects that were removed by force. They are deleted once they were seen for long enough.

use std::collections::BTreeSet;

use tombolo_api::{TAG_ENI, TAG_NODE};
use tombolo_core::types::Millis;

use crate::clock;
use crate::inventory::Snapshot;
use crate::node::{delete_nic, is_ours};
use crate::shared::Shared;

/// Looks at each resync.
pub async fn keep_collecting(shared: &Shared) {
    loop {
        tokio::time::sleep(shared.config.inventory.resync).await;
        // Nothing is a leak before everything was listed.
        if !shared.objects.synced() || !shared.inventory.swept() {
            continue;
        }
        let objects = &shared.objects;
        let enis: BTreeSet<String> = objects.enis.names().into_iter().collect();
        let nodes: BTreeSet<String> = objects
            .nrs
            .names()
            .into_iter()
            .chain(objects.nodes.names())
            .collect();
        let known = |eni: &str| enis.contains(eni) || objects.enis.is_undecodable(eni);
        let tended = |node: &str| nodes.contains(node) || objects.nrs.is_undecodable(node);
        let (cluster, age) = (&shared.config.cluster, shared.config.leak_age);
        let leaks = shared
            .inventory
            .read(|snapshot| find(snapshot, cluster, clock::now(), age, known, tended));
        for nic in leaks {
            match delete_nic(shared, &nic).await {
                Ok(()) => {
                    shared.metrics.leaks.inc();
                    tracing::warn!(%nic, "deleted a NIC of this cluster that no object knew");
                }
                Err(error) => {
                    tracing::warn!(%nic, error = %error.failure().message, "deleting a leaked NIC failed")
                }
            }
        }
    }
}

/// NICs of this cluster, attached to nothing, whose Eni object does not exist and whose node has no task that would see
/// to them, seen for at least `age`.
fn find(
    snapshot: &Snapshot,
    cluster: &str,
    now: Millis,
    age: Millis,
    known: impl Fn(&str) -> bool,
    tended: impl Fn(&str) -> bool,
) -> Vec<String> {
    let leaked = snapshot.nics.values().filter(|record| {
        let tag = |name| {
            record
                .info
                .tags
                .get(name)
                .map(String::as_str)
                .unwrap_or_default()
        };
        is_ours(&record.info, cluster)
            && record.info.attachment.is_none()
            && !record.in_transition()
            && now - record.first_seen >= age
            && !known(tag(TAG_ENI))
            && !tended(tag(TAG_NODE))
    });
    leaked.map(|record| record.info.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::samples;
    use tombolo_api::TAG_CLUSTER;

    #[test]
    fn only_old_unattached_nics_of_ours_that_nobody_knows() {
        let nic = |id: &str, attached: bool, cluster: &str, eni: &str, node: &str| {
            let mut nic = samples::nic(id, attached.then_some(("i", 1)), &[]);
            for (key, value) in [(TAG_CLUSTER, cluster), (TAG_ENI, eni), (TAG_NODE, node)] {
                nic.tags.insert(key.to_owned(), value.to_owned());
            }
            nic
        };
        let mut snapshot = Snapshot::default();
        let nics = vec![
            nic("leak", false, "demo", "e9", "n9"),
            nic("attached", true, "demo", "e9", "n9"),
            nic("foreign", false, "other", "e9", "n9"),
            nic("known", false, "demo", "e1", "n9"),
            nic("tended", false, "demo", "e9", "n1"),
            samples::nic("untagged", None, &[]),
        ];
        snapshot.absorb(
            samples::reading(vec![], nics),
            0,
            Millis(1000),
            samples::TRUST,
        );
        let find = |now| {
            find(
                &snapshot,
                "demo",
                Millis(now),
                Millis(5000),
                |eni| eni == "e1",
                |node| node == "n1",
            )
        };
        assert!(find(5999).is_empty(), "too young");
        assert_eq!(find(6000), ["leak"]);
    }
}
