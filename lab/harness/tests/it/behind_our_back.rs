//! Addresses and NICs that vanish or move behind the operator's back: seen, told in objects, made good, and never given to
//! two nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tombolo_lab_vpc::admin::{ForceDetach, MoveAddress, TakeAddress, TerminateInstance, VanishNic};

use crate::bed::{Bed, Node, on_bed};

async fn two_nics(bed: &mut Bed, name: &str) -> Node {
    let node = bed.node(name).await;
    node.say(|says| (says.low, says.high) = (6, 7));
    node
}

#[test]
fn an_address_that_somebody_took_leaves_the_spec_and_is_replaced() {
    on_bed(async |mut bed| {
        let node = two_nics(&mut bed, "n1").await;
        bed.operator().await;
        bed.agree(&[&node]).await;
        let second = bed.ours().await.remove(0);
        let address = second.secondary[0];
        bed.lab(&TakeAddress { address }).await;
        bed.eventually("it is gone from the spec", async || {
            let spec = bed.spec("n1").await;
            (!spec.values().flatten().any(|ip| *ip == address)).then_some(())
        })
        .await;
        bed.agree(&[&node]).await;
        bed.down().await;
    });
}

#[test]
fn a_nic_that_somebody_detached_or_deleted_is_made_good() {
    on_bed(async |mut bed| {
        let node = two_nics(&mut bed, "n1").await;
        bed.operator().await;
        bed.agree(&[&node]).await;
        let nic = bed.ours().await.remove(0).id;
        bed.lab(&ForceDetach { nic: nic.clone() }).await;
        bed.eventually("it is attached again, or another", async || {
            let lost = bed.disagreement(&[&node]).await;
            lost.is_none().then_some(())
        })
        .await;
        let nic = bed.ours().await.remove(0).id;
        bed.lab(&VanishNic { nic: nic.clone() }).await;
        bed.eventually("another takes its place", async || {
            let known = bed
                .enis()
                .await
                .iter()
                .any(|eni| eni.to_string().contains(&nic));
            (!known && bed.disagreement(&[&node]).await.is_none()).then_some(())
        })
        .await;
        assert_eq!(bed.ours().await.len(), 1);
        bed.down().await;
    });
}

async fn lists(bed: &Bed, node: &Node, address: IpAddr) -> bool {
    let spec = bed.spec(&node.name).await;
    spec.values().flatten().any(|ip| *ip == address)
}

#[test]
fn an_address_that_moved_is_never_listed_for_two_nodes() {
    on_bed(async |mut bed| {
        let one = two_nics(&mut bed, "n1").await;
        let two = two_nics(&mut bed, "n2").await;
        two.say(|says| (says.low, says.high) = (1, 9));
        bed.operator().await;
        bed.agree(&[&one, &two]).await;
        let second = bed.spec("n1").await;
        let address: IpAddr = *second
            .values()
            .flatten()
            .find(|ip| ip.is_ipv4() && ip.to_string().starts_with("10.0.1."))
            .unwrap();
        // A pod of the first node uses it.
        one.say(|says| says.bound = BTreeSet::from([address]));
        let to = two.vm.primary_nic.clone();
        bed.lab(&MoveAddress { address, to }).await;
        bed.eventually("it leaves the first node's spec", async || {
            // In this order: what the second one lists now, the first one must not list any more.
            let listed = (
                lists(&bed, &two, address).await,
                lists(&bed, &one, address).await,
            );
            assert_ne!(listed, (true, true));
            (!listed.1).then_some(())
        })
        .await;
        bed.eventually("it is told", async || {
            (bed.begun("ForeignConflict").await > 0).then_some(())
        })
        .await;
        bed.readings(4).await;
        assert!(
            !lists(&bed, &two, address).await,
            "a pod of the other node uses it still"
        );
        // Another operator begins, and knows it too.
        bed.kill_operator().await;
        bed.operator().await;
        bed.readings(3).await;
        assert!(!lists(&bed, &two, address).await, "nor after a restart");
        one.say(|says| says.bound.clear());
        bed.eventually(
            "the pod is gone, and the address is the second node's",
            async || lists(&bed, &two, address).await.then_some(()),
        )
        .await;
        bed.agree(&[&one, &two]).await;
        bed.down().await;
    });
}

#[test]
fn an_instance_that_somebody_terminated_is_reclaimed_whole() {
    on_bed(async |mut bed| {
        let one = two_nics(&mut bed, "n1").await;
        let two = two_nics(&mut bed, "n2").await;
        bed.operator().await;
        bed.agree(&[&one, &two]).await;
        let pods = bed.spec("n1").await.into_values().flatten().collect();
        one.say(|says| says.bound = pods);
        bed.lab(&TerminateInstance {
            instance: one.vm.id.clone(),
        })
        .await;
        bed.api.delete("/api/v1/nodes/n1").await.unwrap();
        bed.eventually("nothing is left of it", async || {
            let objects = bed.enis().await;
            let left = objects.iter().any(|eni| eni["spec"]["node"] == "n1");
            (!left && bed.nrs("n1").await.is_none()).then_some(())
        })
        .await;
        bed.agree(&[&two]).await;
        bed.down().await;
    });
}
