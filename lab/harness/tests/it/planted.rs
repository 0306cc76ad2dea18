//! The checker must be able to fail: one discrepancy is planted for each clause, and that clause must name it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use tombolo_lab::check::clauses::{Clause, judge};
use tombolo_lab::check::gather;
use tombolo_lab::check::snapshot::{CloudNic, EndpointView, EniView, NodeView, PodView, Snapshot};
use tombolo_lab::http::post_unix;
use tombolo_lab::kubeapi::Api;
use tombolo_lab::topology::Topology;

use crate::support::{in_ns, ip4, place, run_pods, scenario};

/// Planted for real, with agent and operator standing still so that they cannot mend it meanwhile.
#[test]
fn each_discrepancy_planted_in_a_lab_is_found() {
    scenario(Topology::with("planted", 1, "t3.medium", 1), async |lab| {
        let running = run_pods(&lab, 2).await?;
        let left = tombolo_lab::check::settle(&lab, std::time::Duration::from_secs(10)).await?;
        ensure!(left.is_empty(), "before anything was planted: {left:?}");
        let pod = running.values().next().context("a pod")?;
        let node = &lab.nodes[0];
        let netns = node.netns();
        let pod_netns = place(&lab, pod)?.netns;
        let before = gather::gather(&lab).await?;
        let view = &before.nodes["node1"];
        let host_end = view.kernel.routes[&ip4(pod)].clone();
        let nic = before.cloud.keys().next().context("a NIC")?.clone();
        let api = Api::new(&lab.api_url)?;

        let processes = [
            node.agent.clone(),
            lab.services.iter().find(|p| p.name == "operator").cloned(),
        ];
        for process in processes.iter().flatten() {
            process.signal(Signal::STOP)?;
        }
        let judge_now = async || -> Result<BTreeSet<Clause>> {
            // The agent that stands still cannot show its pool; the one from before still holds.
            let now = gather::gather_with_pools_of(&lab, &before).await?;
            Ok(judge(&now).into_iter().map(|v| v.clause).collect())
        };
        ensure!(
            judge_now().await?.is_empty(),
            "standing still alone is no violation"
        );

        let alien = "10.0.1.250";
        let element = format!("{{ \"{host_end}\" . {alien} : 0x0b010000 }}");
        type Plant<'a> = (Clause, &'a str, Vec<&'a str>, &'a str, Vec<&'a str>);
        let plants: Vec<Plant<'_>> = vec![
            (
                Clause::JournalIsKernelRoute,
                "ip",
                vec!["route", "add", alien, "dev", &host_end, "table", "990"],
                "ip",
                vec!["route", "del", alien, "table", "990"],
            ),
            (
                Clause::NrsIsKernelUnreachable,
                "ip",
                vec!["route", "add", "unreachable", alien, "table", "990"],
                "ip",
                vec!["route", "del", "unreachable", alien, "table", "990"],
            ),
            (
                Clause::JournalIsKernelNeighbour,
                "ip",
                vec![
                    "neigh",
                    "add",
                    alien,
                    "lladdr",
                    "02:00:00:00:00:01",
                    "dev",
                    &host_end,
                    "nud",
                    "permanent",
                ],
                "ip",
                vec!["neigh", "del", alien, "dev", &host_end],
            ),
            (
                Clause::JournalIsKernelSource,
                "nft",
                vec!["add", "element", "inet", "tombolo", "pods4", &element],
                "nft",
                vec!["delete", "element", "inet", "tombolo", "pods4", &element],
            ),
            (
                Clause::JournalIsHostPort,
                "nft",
                vec![
                    "add",
                    "element",
                    "inet",
                    "tombolo-hostports",
                    "ports4",
                    "{ tcp . 22 : 10.0.1.250 . 22 }",
                ],
                "nft",
                vec![
                    "delete",
                    "element",
                    "inet",
                    "tombolo-hostports",
                    "ports4",
                    "{ tcp . 22 }",
                ],
            ),
            (
                Clause::JournalIsHostEnd,
                "ip",
                vec![
                    "link",
                    "add",
                    "tmbalien",
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "alienpeer",
                ],
                "ip",
                vec!["link", "del", "tmbalien"],
            ),
            (
                Clause::NicHasItsRules,
                "ip",
                vec![
                    "rule",
                    "add",
                    "pref",
                    "1600",
                    "fwmark",
                    "1",
                    "blackhole",
                    "proto",
                    "116",
                ],
                "ip",
                vec!["rule", "del", "pref", "1600", "fwmark", "1", "blackhole"],
            ),
        ];
        for (clause, plant, plant_args, undo, undo_args) in plants {
            in_ns(&netns, plant, &plant_args)?;
            let found = judge_now().await?;
            ensure!(
                found.contains(&clause),
                "{clause:?} does not see `{plant} {}`; seen: {found:?}",
                plant_args.join(" ")
            );
            in_ns(&netns, undo, &undo_args)?;
        }

        in_ns(
            &pod_netns,
            "ip",
            &["address", "add", "10.0.1.251/32", "dev", "eth0"],
        )?;
        ensure!(judge_now().await?.contains(&Clause::JournalIsPodAddress));
        in_ns(
            &pod_netns,
            "ip",
            &["address", "del", "10.0.1.251/32", "dev", "eth0"],
        )?;

        let assigned = post_unix(
            &lab.vpc_socket(),
            "/v1/AssignAddresses",
            &json!({ "nic": nic, "family": "IPv4", "count": 1 }),
        )
        .await?;
        let found = judge_now().await?;
        ensure!(
            found.contains(&Clause::CloudIsEni) && found.contains(&Clause::CloudIsNrs),
            "an address that only the cloud knows: {found:?}"
        );
        post_unix(
            &lab.vpc_socket(),
            "/v1/UnassignAddresses",
            &json!({ "nic": nic, "addresses": assigned["addresses"] }),
        )
        .await?;

        let nrs = "/apis/tombolo.dev/v1alpha1/netresourcesets/node1";
        let spec = api.get(nrs).await?["spec"].clone();
        let mut fewer = spec.clone();
        fewer["nics"][0]["addresses"]
            .as_array_mut()
            .context("addresses")?
            .pop();
        api.merge(nrs, &json!({ "spec": fewer })).await?;
        let found = judge_now().await?;
        ensure!(
            found.contains(&Clause::NrsIsPool) && found.contains(&Clause::CloudIsNrs),
            "an address that the object lost: {found:?}"
        );
        api.merge(nrs, &json!({ "spec": spec })).await?;

        let journal = node.path("/run/tombolo/journal");
        let entry = std::fs::read_dir(&journal)?
            .filter_map(Result::ok)
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "json"))
            .context("an entry")?;
        let bytes = std::fs::read(&entry)?;
        std::fs::remove_file(&entry)?;
        let found = judge_now().await?;
        ensure!(
            found.contains(&Clause::PoolIsJournal) && found.contains(&Clause::JournalIsEndpoint),
            "a lost journal entry: {found:?}"
        );
        std::fs::write(&entry, bytes)?;

        let peps = api.list("/apis/tombolo.dev/v1alpha1/podendpoints").await?;
        let mut pep = peps[0].clone();
        let path = format!(
            "/apis/tombolo.dev/v1alpha1/namespaces/default/podendpoints/{}",
            pep["metadata"]["name"].as_str().context("name")?
        );
        api.delete(&path).await?;
        let found = judge_now().await?;
        ensure!(
            found.contains(&Clause::PodIsEndpoint),
            "a lost PodEndpoint: {found:?}"
        );
        if let Some(metadata) = pep["metadata"].as_object_mut() {
            metadata.retain(|k, _| matches!(k.as_str(), "name" | "namespace" | "labels"));
        }
        api.create(
            "/apis/tombolo.dev/v1alpha1/namespaces/default/podendpoints",
            &pep,
        )
        .await?;

        ensure!(
            judge_now().await?.is_empty(),
            "everything planted was undone"
        );
        for process in processes.iter().flatten() {
            process.signal(Signal::CONT)?;
        }
        Ok(())
    });
}

/// The two clauses that cannot be planted without breaking the simulator itself, on a snapshot.
#[test]
fn duplicates_and_spoof_drops_are_found_in_a_snapshot() {
    let good = snapshot();
    assert_eq!(judge(&good), []);
    let mut duplicate = good.clone();
    let journal = duplicate.nodes["a"].journal.clone();
    duplicate.nodes.insert(
        "b".into(),
        NodeView {
            journal,
            ..NodeView::default()
        },
    );
    assert!(
        judge(&duplicate)
            .iter()
            .any(|v| v.clause == Clause::AddressIsUnique)
    );
    let mut spoofed = good;
    spoofed.spoof_drops.insert("eni-1".into(), 1);
    assert_eq!(
        judge(&spoofed).iter().map(|v| v.clause).collect::<Vec<_>>(),
        [Clause::NoSpoofDrops]
    );
}

/// One node, one NIC, one pod, nothing wrong.
fn snapshot() -> Snapshot {
    let ip = "10.0.1.7".parse().unwrap();
    let (nic, key, end) = ("eni-1".to_owned(), "n/c/eth0".to_owned(), "tmb1".to_owned());
    let secondary = BTreeSet::from([ip]);
    let mut node = NodeView {
        instance: "i-1".into(),
        ..NodeView::default()
    };
    node.nrs.insert(nic.clone(), secondary.clone());
    node.pool
        .insert(ip, (nic.clone(), "bound".into(), key.clone()));
    node.journal
        .insert(key.clone(), BTreeMap::from([(ip, nic.clone())]));
    node.kernel.routes.insert(ip, end.clone());
    node.kernel.unreachable.insert(ip);
    node.kernel.neighbours.insert(ip, end.clone());
    node.kernel.sources.insert(ip, (end.clone(), 0x0b01_0000));
    node.kernel.host_ends.insert(end);
    node.kernel.pod_addresses.insert(ip, "cni-1".into());
    let rules = [512, 1024, 1600, 1700, 2000].map(|p| (p, String::new()));
    node.kernel
        .rules
        .insert("IPv4".into(), BTreeSet::from(rules));
    let mut s = Snapshot::default();
    s.nodes.insert("a".into(), node);
    s.cloud.insert(
        nic.clone(),
        CloudNic {
            instance: Some("i-1".into()),
            device_index: 0,
            secondary: secondary.clone(),
            ours: true,
        },
    );
    s.enis.insert(
        nic.clone(),
        EniView {
            node: "a".into(),
            addresses: secondary.clone(),
            phase: "InUse".into(),
        },
    );
    s.pods.insert(
        "default/p".into(),
        PodView {
            node: "a".into(),
            ips: secondary,
            phase: "Running".into(),
            host_network: false,
        },
    );
    let ips = BTreeMap::from([(ip, nic)]);
    s.endpoints.insert(
        "default/p-1".into(),
        EndpointView {
            node: "a".into(),
            pod: "default/p".into(),
            key,
            ips,
        },
    );
    s
}
