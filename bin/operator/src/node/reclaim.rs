//! The end of a node: its instance is gone, so nobody can use its addresses and nobody is asked. Everything that this
//! cluster made for it goes, objects last.

use kube::ResourceExt;
use tombolo_core::types::Reason;

use super::execute::{Error, delete_nic};
use super::view::is_ours;
use crate::shared::Shared;

/// What is left to do for a node whose instance is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaimed {
    /// Nothing.
    Done,
    /// The cloud still detaches its NICs.
    Waiting,
}

/// Takes everything back that was made for this node on this instance.
pub async fn reclaim(shared: &Shared, node: &str, instance: &str) -> Result<Reclaimed, Error> {
    let cluster = &shared.config.cluster;
    let enis: Vec<_> = shared
        .objects
        .enis_of(node)
        .into_iter()
        .filter(|eni| eni.spec.instance_id == instance)
        .collect();
    let mut waiting = false;
    for eni in enis {
        let named = eni.status.as_ref().and_then(|status| status.nic_id.clone());
        let name = eni.name_any();
        let nic = shared.inventory.read(|snapshot| {
            let by_tag = || {
                let tagged = |nic: &&crate::inventory::NicRecord| {
                    let tag = nic.info.tags.get(tombolo_api::TAG_ENI);
                    is_ours(&nic.info, cluster) && tag.is_some_and(|tag| *tag == name)
                };
                snapshot.nics.values().find(tagged)
            };
            let record = named
                .as_ref()
                .and_then(|id| snapshot.nics.get(id))
                .or_else(by_tag);
            record.map(|record| {
                (
                    record.info.id.clone(),
                    record.instance().is_some(),
                    is_ours(&record.info, cluster),
                )
            })
        });
        match nic {
            Some((_, true, true)) => {
                waiting = true;
                continue;
            }
            Some((id, false, true)) if !eni.spec.adopted => delete_nic(shared, &id).await?,
            // Not ours, or gone.
            Some(_) | None => {}
        }
        shared.writer.drop_eni(&eni).await?;
    }
    if waiting {
        shared.inventory.want_sweep();
        return Ok(Reclaimed::Waiting);
    }
    shared.writer.drop_endpoints(node).await?;
    if let Some(nrs) = shared
        .objects
        .nrs
        .get(node)
        .filter(|nrs| nrs.spec.instance_id == instance)
    {
        shared.writer.drop_nrs(&nrs).await?;
        shared.objects.nrs.remove(&*nrs);
    }
    shared
        .inventory
        .write(|snapshot| snapshot.forget_instance(instance));
    tracing::info!(node, instance, "reclaimed a node whose instance is gone");
    Ok(Reclaimed::Done)
}

/// Reasons that an Error of reclaiming is told under.
pub fn reason(error: &Error) -> Reason {
    error.reason()
}
