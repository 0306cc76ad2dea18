//! `tombolo lab up --runtime containerd`: the lab's pods are containers.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tombolo_lab::kubeapi::Api;
use tombolo_lab::matrix::{PORT, Place};
use tombolo_lab::topology::{Runtime, Topology};
use tombolo_lab::{check, matrix, pods, up};
use tombolo_lab_runtime::containerd::SOCKET;
use tombolo_lab_runtime::cri::Cri;
use tombolo_lab_runtime::{cgroups, containerd, images};

use crate::bed::{PATIENCE, alone, bin_dir, possible};

#[test]
fn a_labs_pods_run_in_containerd() {
    if !possible("a_labs_pods_run_in_containerd", &containerd::NEEDS) {
        return;
    }
    let _one = alone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut topology = Topology::with("ctdlab", 2, "m5.large", 1);
    topology.bin_dir = Some(bin_dir());
    topology.runtime = Runtime::Containerd;
    topology.profile.pool.cooling_seconds = 1;
    let groups = ["node1", "node2"].map(|node| topology.group(node));
    let result = runtime.block_on(async {
        let mut lab = up::up(&topology, false, |_| {}).await?;
        let outcome = lives(&mut lab).await;
        let outcome = outcome.map_err(|error| error.context(up::tails(&lab)));
        up::down(&lab).and(outcome)
    });
    if let Err(error) = result {
        panic!("{error:?}");
    }
    for group in groups {
        let left = cgroups::below(&group).unwrap();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

async fn lives(lab: &mut tombolo_lab::state::Lab) -> Result<()> {
    let api = Api::new(&lab.api_url)?;
    let probe = bin_dir().join("tombolo-lab");
    let port = ["--port".to_owned(), PORT.to_string()];
    for (name, node) in [("a", "node1"), ("b", "node1"), ("c", "node2")] {
        pods::create(&api, &pods::manifest(name, Some(node), &probe, &port)).await?;
    }
    // One of an image that is the runtime's, which ends by itself and is started again.
    let short = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "short", "namespace": "default" },
        "spec": {
            "nodeName": "node2", "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": images::NAME, "command": ["sh", "-c", "sleep 1; exit 7"],
            }],
        },
    });
    pods::create(&api, &short).await?;
    let bound = Duration::from_secs(60);
    up::wait_for("a restart with its exit code", bound, async || {
        let pod = api.get("/api/v1/namespaces/default/pods/short").await?;
        let last = "/status/containerStatuses/0/lastState/terminated/exitCode";
        Ok(pod.pointer(last) == Some(&json!(7)))
    })
    .await?;
    pods::delete(&api, "short").await?;
    let running = pods::wait_running(&api, 3, bound, |_| {}).await?;
    let places = running.values().map(|pod| place(lab, pod));
    let mut places: Vec<_> = places.collect::<Result<_>>()?;
    let vm = lab.vm("vm1")?;
    places.push(Place {
        name: "vm1".to_owned(),
        netns: vm.netns.clone(),
        ips: vm.addresses.clone(),
    });
    // A container runs before its server listens.
    up::wait_for("everybody to reach everybody", PATIENCE, async || {
        let cells = matrix::untranslated(lab, &places, &places)?;
        Ok(cells.iter().all(matrix::Cell::good))
    })
    .await?;

    // The stand-in goes and comes: the containers are the same.
    let node = lab.nodes[0].clone();
    let cri = Cri::connect(&node.path(SOCKET)).await?;
    let ids = async || -> Result<Vec<String>> {
        let containers = cri.containers().await?;
        let mut ids: Vec<_> = containers.into_iter().map(|found| found.id).collect();
        ids.sort();
        Ok(ids)
    };
    let before = ids().await?;
    ensure!(before.len() == 2, "{before:?}");
    let kubelet = node.kubelet.as_ref().context("no kubelet")?;
    kubelet.end(PATIENCE)?;
    lab.nodes[0].kubelet = Some(up::start_kubelet(lab, &node)?);
    lab.save()?;
    up::wait_ready(lab, bound).await?;
    ensure!(ids().await? == before, "containers were replaced");
    let violations = check::settle(lab, PATIENCE).await?;
    ensure!(violations.is_empty(), "{violations:?}");

    for name in running.keys() {
        pods::delete(&api, name).await?;
    }
    pods::wait_none(&api, bound, |_| {}).await?;
    up::wait_for("no container and no sandbox", PATIENCE, async || {
        Ok(ids().await?.is_empty() && cri.sandboxes().await?.is_empty())
    })
    .await?;
    let violations = check::settle(lab, PATIENCE).await?;
    ensure!(violations.is_empty(), "{violations:?}");
    Ok(())
}

fn place(lab: &tombolo_lab::state::Lab, pod: &pods::Pod) -> Result<Place> {
    Ok(Place {
        name: pod.name.clone(),
        netns: pods::netns(lab, pod)?.to_string_lossy().into_owned(),
        ips: pod.ips.clone(),
    })
}
