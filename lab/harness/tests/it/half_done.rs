//! An operator that begins where another one was killed: between a call and its reply, or with objects of an hour ago.
//! What was half done is adopted or removed, never done twice, and what belongs to others is not touched.

use std::collections::BTreeMap;

use serde_json::json;
use tombolo_cloud_sim::wire::{AssignAddresses, AttachNic, CreateNic, NicInfo, NicStatus};
use tombolo_core::types::Family;
use tombolo_lab_vpc::knobs::Knob;

use crate::bed::{Bed, FOR_EVER, Node, on_bed};

/// A node that has what it wants, and then wants a second NIC.
async fn grown(bed: &mut Bed) -> Node {
    let node = bed.node("n1").await;
    bed.operator().await;
    node.say(|says| (says.low, says.high) = (3, 4));
    bed.agree(&[&node]).await;
    node
}

fn hold(verb: &str) -> Knob {
    Knob::HoldReply {
        verb: verb.to_owned(),
        count: 1,
        skip: 0,
    }
}

/// Kills the operator while the reply to this call is under way, and begins another.
async fn killed_during(bed: &mut Bed, node: &Node, verb: &str) {
    bed.turn(hold(verb)).await;
    node.say(|says| (says.low, says.high) = (7, 8));
    bed.eventually("the call was carried out", async || {
        (bed.calls(verb).await.held > 0).then_some(())
    })
    .await;
    bed.kill_operator().await;
    bed.turn(Knob::Reset).await;
    bed.operator().await;
}

#[test]
fn a_nic_whose_maker_was_killed_is_adopted_and_none_made_twice() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        killed_during(&mut bed, &node, "CreateNic").await;
        bed.agree(&[&node]).await;
        assert_eq!(bed.ours().await.len(), 1, "{:?}", bed.ours().await);
        // Not needed any more, it goes, and its object with it.
        node.say(|says| (says.low, says.high) = (1, 2));
        bed.eventually("the NIC goes", async || {
            (bed.ours().await.is_empty() && bed.enis().await.len() == 1).then_some(())
        })
        .await;
        bed.agree(&[&node]).await;
        bed.down().await;
    });
}

#[test]
fn a_nic_whose_maker_was_killed_and_that_no_reading_shows_is_not_made_again() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        let stale = Knob::Stale {
            verb: "DescribeNics".to_owned(),
            ms: 3_600_000,
        };
        bed.turn(stale.clone()).await;
        bed.turn(hold("CreateNic")).await;
        node.say(|says| (says.low, says.high) = (7, 8));
        bed.eventually("the call was carried out", async || {
            (bed.calls("CreateNic").await.held > 0).then_some(())
        })
        .await;
        bed.kill_operator().await;
        // Readings stand still where they were before the NIC was made; the next operator wants fewer addresses of it.
        node.say(|says| (says.low, says.high) = (6, 8));
        bed.operator().await;
        bed.eventually("the intention is resumed", async || {
            (bed.calls("CreateNic").await.ok > 0).then_some(())
        })
        .await;
        bed.turn(Knob::Reset).await;
        bed.agree(&[&node]).await;
        assert_eq!(bed.ours().await.len(), 1);
        bed.down().await;
    });
}

#[test]
fn an_attachment_whose_caller_was_killed_is_taken_over() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        killed_during(&mut bed, &node, "AttachNic").await;
        bed.agree(&[&node]).await;
        let ours = bed.ours().await;
        assert_eq!((ours.len(), ours[0].status), (1, NicStatus::InUse));
        bed.down().await;
    });
}

#[test]
fn one_family_assigned_by_an_operator_that_was_killed_gets_the_other() {
    on_bed(async |mut bed| {
        let node = bed.node("n1").await;
        // One family is given and the reply is held; the other is refused. Then the operator dies.
        bed.turn(hold("AssignAddresses")).await;
        let refuse = Knob::Fail {
            verb: "AssignAddresses".to_owned(),
            code: "InternalError".to_owned(),
            count: FOR_EVER,
            skip: 1,
        };
        bed.turn(refuse).await;
        bed.operator().await;
        node.say(|says| (says.low, says.high) = (2, 3));
        bed.eventually("one family was assigned", async || {
            let calls = bed.calls("AssignAddresses").await;
            (calls.held > 0 && calls.refused > 0).then_some(())
        })
        .await;
        bed.kill_operator().await;
        bed.turn(Knob::Reset).await;
        let primary = bed.nics().await.remove(0);
        let v4 = primary.secondary.iter().filter(|ip| ip.is_ipv4()).count();
        assert!(
            primary.secondary.len() == 2 && (v4 == 0 || v4 == 2),
            "one family: {primary:?}"
        );
        bed.operator().await;
        bed.agree(&[&node]).await;
        let counts = (bed.count("n1", true).await, bed.count("n1", false).await);
        assert_eq!(counts, (2, 2), "nothing was asked for twice");
        bed.down().await;
    });
}

async fn shown(bed: &Bed, ids: &[String]) -> Vec<NicInfo> {
    let mut all = bed.nics().await;
    all.retain(|nic| ids.contains(&nic.id));
    all
}

#[test]
fn what_another_cluster_or_nobody_made_is_left_alone() {
    on_bed(async |mut bed| {
        let node = bed.node("n1").await;
        let make = |cluster: Option<&str>| CreateNic {
            subnet: "s1".to_owned(),
            description: "somebody else's".to_owned(),
            client_token: None,
            ipv4_count: 2,
            ipv6_count: 1,
            security_groups: vec!["sg-other".to_owned()],
            tags: cluster.map_or_else(BTreeMap::new, |cluster| {
                BTreeMap::from([
                    ("tombolo.dev/cluster".to_owned(), cluster.to_owned()),
                    ("tombolo.dev/node".to_owned(), "n1".to_owned()),
                    ("tombolo.dev/eni".to_owned(), "n1-1-x".to_owned()),
                ])
            }),
        };
        // Free and attached, half-attached too, of another cluster with the same names and of nobody.
        let mut strangers = Vec::new();
        for cluster in [Some("other"), Some("other"), None, None] {
            let nic = bed.cloud.cloud(&make(cluster)).await.unwrap();
            strangers.push(nic.id);
        }
        bed.turn(Knob::StickAttach { count: 1 }).await;
        for (nic, device_index) in [(&strangers[0], 1), (&strangers[2], 2)] {
            let attach = AttachNic {
                nic: nic.clone(),
                instance: node.vm.id.clone(),
                device_index,
                delete_on_termination: false,
            };
            bed.cloud.cloud(&attach).await.unwrap();
        }
        bed.eventually("one is attached", async || {
            let nics = bed.nics().await;
            nics.iter()
                .any(|nic| nic.id == strangers[2] && nic.status == NicStatus::InUse)
                .then_some(())
        })
        .await;
        let before = shown(&bed, &strangers).await;
        node.say(|says| (says.low, says.high) = (6, 6));
        // Their places are taken, so the node cannot have all that it wants.
        bed.operator().await;
        bed.eventually("the limit is told", async || {
            (bed.begun("NicLimit").await > 0).then_some(())
        })
        .await;
        bed.kill_operator().await;
        bed.operator().await;
        bed.readings(4).await;
        node.say(|says| (says.low, says.high) = (0, 0));
        bed.eventually("ours are given back", async || {
            (bed.count("n1", true).await == 0).then_some(())
        })
        .await;
        bed.readings(4).await;
        assert_eq!(shown(&bed, &strangers).await, before);
        bed.down().await;
    });
}

#[test]
fn an_intention_that_nobody_needs_any_more_leaves_nothing() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        let lose = Knob::LoseRequest {
            verb: "CreateNic".to_owned(),
            count: FOR_EVER,
            skip: 0,
        };
        bed.turn(lose).await;
        node.say(|says| (says.low, says.high) = (7, 8));
        bed.eventually("the intention is written", async || {
            (bed.enis().await.len() == 2).then_some(())
        })
        .await;
        bed.kill_operator().await;
        bed.turn(Knob::Reset).await;
        node.say(|says| (says.low, says.high) = (3, 4));
        bed.operator().await;
        bed.agree(&[&node]).await;
        assert!(bed.ours().await.is_empty());
        bed.down().await;
    });
}

#[test]
fn objects_that_go_back_an_hour_are_written_anew_from_the_cloud() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        let other = bed.node("n2").await;
        other.say(|says| (says.low, says.high) = (4, 4));
        bed.agree(&[&node, &other]).await;
        bed.post("/lab/v1/backup").await;
        // Within the hour: a NIC comes, another node gives addresses back, and its last NIC changes.
        node.say(|says| (says.low, says.high) = (7, 8));
        other.say(|says| (says.low, says.high) = (1, 1));
        bed.agree(&[&node, &other]).await;
        bed.eventually("addresses go back", async || {
            (bed.count("n2", true).await == 1).then_some(())
        })
        .await;
        bed.agree(&[&node, &other]).await;
        let cloud = bed.nics().await;
        let (made, deleted) = (bed.calls("CreateNic").await, bed.calls("DeleteNic").await);
        bed.post("/lab/v1/restore").await;
        bed.agree(&[&node, &other]).await;
        assert_eq!(bed.count("n2", true).await, 1, "{:?}", bed.spec("n2").await);
        bed.eventually("it is told", async || {
            let told = bed.begun("ApiRestored").await;
            (told == 1 && bed.events().await.contains(&"ApiRestored".to_owned())).then_some(())
        })
        .await;
        bed.readings(3).await;
        assert_eq!(bed.nics().await, cloud, "nothing changed in the cloud");
        assert_eq!(bed.calls("CreateNic").await, made);
        assert_eq!(bed.calls("DeleteNic").await, deleted);
        bed.down().await;
    });
}

#[test]
fn objects_that_went_back_while_no_operator_ran_are_written_anew_too() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        bed.post("/lab/v1/backup").await;
        node.say(|says| (says.low, says.high) = (7, 8));
        bed.agree(&[&node]).await;
        let cloud = bed.nics().await;
        bed.kill_operator().await;
        bed.post("/lab/v1/restore").await;
        bed.operator().await;
        bed.agree(&[&node]).await;
        bed.readings(3).await;
        assert_eq!(
            bed.nics().await,
            cloud,
            "adopted, not made again or deleted"
        );
        bed.down().await;
    });
}

#[test]
fn objects_of_before_the_node_joined_are_made_anew() {
    on_bed(async |mut bed| {
        bed.post("/lab/v1/backup").await;
        let node = grown(&mut bed).await;
        node.say(|says| (says.low, says.high) = (7, 8));
        bed.agree(&[&node]).await;
        let cloud = bed.nics().await;
        bed.post("/lab/v1/restore").await;
        bed.readings(6).await;
        assert_eq!(
            bed.nics().await,
            cloud,
            "nobody is there who could want it, and it stays"
        );
        // The kubelet registers its node again.
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "spec": {"providerID": format!("sim:///{}/{}", node.vm.zone, node.vm.id)},
        });
        bed.api.create("/api/v1/nodes", &object).await.unwrap();
        bed.agree(&[&node]).await;
        assert_eq!(bed.nics().await, cloud);
        bed.down().await;
    });
}

#[test]
fn a_nic_made_twice_is_used_or_given_back() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        node.say(|says| (says.low, says.high) = (6, 8));
        bed.agree(&[&node]).await;
        bed.kill_operator().await;
        // The same intention, carried out once more.
        let twin = bed.ours().await.remove(0);
        let call = CreateNic {
            subnet: twin.subnet.clone(),
            description: String::new(),
            client_token: None,
            ipv4_count: 1,
            ipv6_count: 1,
            security_groups: Vec::new(),
            tags: twin.tags.clone(),
        };
        let second = bed.cloud.cloud(&call).await.unwrap().id;
        bed.operator().await;
        bed.eventually("it is given back", async || {
            bed.nics()
                .await
                .iter()
                .all(|nic| nic.id != second)
                .then_some(())
        })
        .await;
        bed.agree(&[&node]).await;
        let left = bed.ours().await;
        assert_eq!((left.len(), &left[0].id), (1, &twin.id));
        bed.down().await;
    });
}

#[test]
fn half_of_every_batch_adds_up_to_the_whole() {
    on_bed(async |mut bed| {
        let node = bed.node("n1").await;
        bed.turn(Knob::HalfAssign { count: FOR_EVER }).await;
        bed.operator().await;
        node.say(|says| (says.low, says.high) = (4, 4));
        bed.agree(&[&node]).await;
        let counts = (bed.count("n1", true).await, bed.count("n1", false).await);
        assert_eq!(counts, (4, 4));
        bed.down().await;
    });
}

#[test]
fn a_nic_without_addresses_is_told_of_and_filled_when_the_cloud_lets_us() {
    for (code, reason) in [
        ("InternalError", "CloudError"),
        ("PrivateIpAddressLimitExceeded", "AddressLimit"),
        ("InsufficientFreeAddressesInSubnet", "SubnetFull"),
    ] {
        on_bed(async |mut bed| {
            let node = bed.node("n1").await;
            for verb in ["AssignAddresses", "CreateNic"] {
                let knob = Knob::Fail {
                    verb: verb.to_owned(),
                    code: code.to_owned(),
                    count: FOR_EVER,
                    skip: 0,
                };
                bed.turn(knob).await;
            }
            bed.operator().await;
            node.say(|says| (says.low, says.high) = (2, 3));
            bed.eventually("it is told", async || {
                let told = bed.begun(reason).await > 0;
                (told && bed.events().await.contains(&reason.to_owned())).then_some(())
            })
            .await;
            bed.turn(Knob::Reset).await;
            bed.agree(&[&node]).await;
            bed.down().await;
        });
    }
}

/// Somebody assigns to a NIC that is ours: the pool has them, as the cloud says.
#[test]
fn addresses_that_appear_are_taken_in() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        node.say(|says| says.high = 9);
        let call = AssignAddresses {
            nic: node.vm.primary_nic.clone(),
            family: Family::V4,
            count: 1,
        };
        bed.cloud.cloud(&call).await.unwrap();
        bed.eventually("it is listed", async || {
            (bed.count("n1", true).await == 4).then_some(())
        })
        .await;
        bed.down().await;
    });
}
