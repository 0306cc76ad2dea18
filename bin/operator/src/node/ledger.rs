//! The Eni objects that a node should have. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use tombolo_api::{Eni, EniPhase, EniSpec, EniStatus, FINALIZER_ENI, LABEL_NODE};
use tombolo_cloud_sim::wire::NicStatus;
use tombolo_core::eni::Ownership;

use super::view::{CloudView, NodeNic};

/// One write.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A NIC without an object: adopt it.
    Create(Box<Eni>),
    /// What is known of it changed.
    Status(Arc<Eni>, Box<EniStatus>),
    /// It got another device index than was meant.
    Index(Arc<Eni>, u16),
    /// Its NIC is gone.
    Drop(Arc<Eni>),
}

/// An Eni object, not yet written.
pub fn object(name: &str, spec: EniSpec) -> Eni {
    let mut eni = Eni::new(name, spec);
    eni.metadata.labels = Some(BTreeMap::from([(
        LABEL_NODE.to_owned(),
        eni.spec.node.clone(),
    )]));
    eni.metadata.finalizers = Some(vec![FINALIZER_ENI.to_owned()]);
    eni
}

/// What to write. `messages`: the last failure of a NIC's calls, by Eni name.
pub fn entries(
    node: &str,
    cloud: &CloudView,
    enis: &[Arc<Eni>],
    messages: &BTreeMap<String, String>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for nic in &cloud.nics {
        let Some(eni) = enis
            .iter()
            .find(|eni| eni.metadata.name.as_deref() == Some(&nic.eni))
        else {
            entries.push(Entry::Create(Box::new(adopted(node, cloud, nic))));
            continue;
        };
        if let Some(index) = nic.index().filter(|index| *index != eni.spec.device_index) {
            entries.push(Entry::Index(Arc::clone(eni), index));
        }
        let status = status(nic, eni, messages.get(&nic.eni));
        if eni.status.as_ref() != Some(&status) {
            entries.push(Entry::Status(Arc::clone(eni), Box::new(status)));
        }
    }
    for eni in enis {
        let name = eni.name_any();
        if cloud.nics.iter().any(|nic| nic.eni == name) {
            continue;
        }
        let made = eni.spec.adopted
            || eni
                .status
                .as_ref()
                .is_some_and(|status| status.nic_id.is_some());
        if made {
            entries.push(Entry::Drop(Arc::clone(eni)));
            continue;
        }
        let message = messages.get(&name).cloned();
        let status = EniStatus {
            message,
            ..eni.status.clone().unwrap_or_default()
        };
        if eni.status.as_ref() != Some(&status) {
            entries.push(Entry::Status(Arc::clone(eni), Box::new(status)));
        }
    }
    entries
}

fn adopted(node: &str, cloud: &CloudView, nic: &NodeNic) -> Eni {
    let spec = EniSpec {
        node: node.to_owned(),
        instance_id: cloud.instance.id.clone(),
        device_index: nic.index().unwrap_or(0),
        subnet: nic.info.subnet.clone(),
        security_groups: nic.info.security_groups.clone(),
        adopted: nic.ownership != Ownership::Ours,
        initial4: 0,
        initial6: 0,
    };
    object(&nic.eni, spec)
}

fn status(nic: &NodeNic, eni: &Eni, message: Option<&String>) -> EniStatus {
    let deleting = eni.metadata.deletion_timestamp.is_some() && nic.ownership == Ownership::Ours;
    let phase = match nic.info.status {
        NicStatus::Available if deleting => EniPhase::Deleting,
        NicStatus::Available => EniPhase::Available,
        NicStatus::Attaching => EniPhase::Attaching,
        NicStatus::InUse => EniPhase::InUse,
        NicStatus::Detaching => EniPhase::Detaching,
    };
    let mut addresses = nic.info.secondary.clone();
    addresses.sort();
    EniStatus {
        phase,
        nic_id: Some(nic.info.id.clone()),
        mac: Some(nic.info.mac.to_string()),
        primary4: Some(nic.info.primary4),
        primary6: nic.info.primary6,
        address_count: u32::try_from(addresses.len()).unwrap_or(u32::MAX),
        addresses,
        message: message.cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::view::tests::snapshot;

    fn written(entries: &[Entry]) -> Vec<Arc<Eni>> {
        let created = |entry: &Entry| match entry {
            Entry::Create(eni) => Some(Arc::new((**eni).clone())),
            _ => None,
        };
        entries.iter().filter_map(created).collect()
    }

    #[test]
    fn every_nic_gets_an_object_then_a_status_then_nothing() {
        let cloud = CloudView::of(&snapshot(), "demo", "n1", "i-1").unwrap();
        let first = entries("n1", &cloud, &[], &BTreeMap::new());
        let objects = written(&first);
        let adopted: Vec<(String, bool)> = objects
            .iter()
            .map(|eni| (eni.name_any(), eni.spec.adopted))
            .collect();
        let wanted = [
            ("n1-0", true),
            ("n1-1-x", false),
            ("n1-eni-2", true),
            ("n1-3-x", false),
        ];
        assert_eq!(
            adopted,
            wanted.map(|(name, adopted)| (name.to_owned(), adopted))
        );
        let second = entries("n1", &cloud, &objects, &BTreeMap::new());
        let with_status: Vec<Arc<Eni>> = second
            .iter()
            .map(|entry| match entry {
                Entry::Status(eni, status) => {
                    let mut eni = (**eni).clone();
                    eni.status = Some((**status).clone());
                    Arc::new(eni)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(with_status[1].status.as_ref().unwrap().address_count, 2);
        assert_eq!(
            with_status[3].status.as_ref().unwrap().phase,
            EniPhase::Available
        );
        assert!(entries("n1", &cloud, &with_status, &BTreeMap::new()).is_empty());
        // A failure is told in the status.
        let message = BTreeMap::from([("n1-1-x".to_owned(), "CloudError: no".to_owned())]);
        assert!(matches!(
            entries("n1", &cloud, &with_status, &message).as_slice(),
            [Entry::Status(..)]
        ));
    }

    #[test]
    fn an_object_goes_with_its_nic_but_an_intention_stays() {
        let cloud = CloudView::of(&snapshot(), "demo", "n1", "i-1").unwrap();
        let mut objects = written(&entries("n1", &cloud, &[], &BTreeMap::new()));
        let intention = object(
            "n1-5-y",
            EniSpec {
                adopted: false,
                ..objects[1].spec.clone()
            },
        );
        let mut gone = object("n1-4-y", intention.spec.clone());
        gone.status = Some(EniStatus {
            nic_id: Some("eni-9".to_owned()),
            ..EniStatus::default()
        });
        objects.extend([Arc::new(intention), Arc::new(gone)]);
        let dropped: Vec<String> = entries("n1", &cloud, &objects, &BTreeMap::new())
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Drop(eni) => Some(eni.name_any()),
                _ => None,
            })
            .collect();
        assert_eq!(dropped, ["n1-4-y"]);
    }
}
