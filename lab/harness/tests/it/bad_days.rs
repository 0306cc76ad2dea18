//! Exhaustion and bad objects: reported once, in one word, with numbers; nothing else suffers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tombolo_lab::kubeapi::{Api, text};
use tombolo_lab::topology::Topology;
use tombolo_lab::{pods, up};

use crate::support::{probe, run_pods, scenario};

async fn events(api: &Api, reason: &str) -> Result<Vec<Value>> {
    let mut found = api.list("/api/v1/events").await?;
    found.extend(
        api.list("/apis/events.k8s.io/v1/events")
            .await
            .unwrap_or_default(),
    );
    found.retain(|e| text(e, "/reason") == reason);
    found.sort_by_key(|e| text(e, "/metadata/name"));
    found.dedup_by_key(|e| text(e, "/metadata/name"));
    Ok(found)
}

fn event_text(event: &Value) -> String {
    format!("{}{}", text(event, "/message"), text(event, "/note"))
}

async fn condition(api: &Api, node: &str, kind: &str) -> Result<Value> {
    let nrs = api
        .get(&format!(
            "/apis/tombolo.dev/v1alpha1/netresourcesets/{node}"
        ))
        .await?;
    let mut conditions = nrs
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    Ok(conditions
        .rfind(|c| text(c, "/type") == kind)
        .cloned()
        .unwrap_or_default())
}

/// t3.nano: 2 NICs with one pod address each. The third pod waits a bounded time and then fails with the reason.
#[test]
fn the_nic_limit_is_reported_once_with_numbers() {
    let mut topology = Topology::with("niclimit", 1, "t3.nano", 1);
    topology.nodes[0].max_pods = Some(10);
    topology.profile.pool.wait_seconds = 2;
    topology.profile.pool.warm_min = 0;
    topology.profile.pool.warm_max = 1;
    scenario(topology, async |lab| {
        let api = Api::new(&lab.api_url)?;
        for i in 0..3 {
            pods::create(
                &api,
                &pods::manifest(&format!("pod-{i}"), None, &probe(), &[]),
            )
            .await?;
        }
        pods::wait_running(&api, 2, Duration::from_secs(30), |_| {}).await?;
        up::wait_for("the condition", Duration::from_secs(20), async || {
            Ok(text(&condition(&api, "node1", "NicsAvailable").await?, "/reason") == "NicLimit")
        })
        .await?;
        let condition = condition(&api, "node1", "NicsAvailable").await?;
        ensure!(
            text(&condition, "/status") == "False" && text(&condition, "/message").contains('2'),
            "{condition}"
        );
        let reported = events(&api, "NicLimit").await?;
        ensure!(
            reported.len() == 1 && event_text(&reported[0]).contains('2'),
            "{reported:?}"
        );

        // The kubelet stand-in passes the CNI error on: the operator's word, with the pool's numbers.
        up::wait_for("the pod's failure", Duration::from_secs(20), async || {
            let all = api.list("/api/v1/namespaces/default/pods").await?;
            Ok(all
                .iter()
                .any(|p| p["status"].to_string().contains("failed (ADD): NicLimit"))
                || api
                    .list("/api/v1/events")
                    .await?
                    .iter()
                    .any(|e| event_text(e).contains("failed (ADD): NicLimit")))
        })
        .await?;
        // Room again: the third one runs.
        pods::delete(&api, "pod-0").await?;
        pods::delete(&api, "pod-1").await?;
        up::wait_for("the third pod", Duration::from_secs(60), async || {
            Ok(pods::running(&api).await?.contains_key("pod-2"))
        })
        .await?;
        Ok(())
    });
}

/// A /28 has 11 addresses for NICs: control, VM, node and its pods use them up.
#[test]
fn a_full_subnet_is_reported_once_with_numbers() {
    let mut topology = Topology::with("subnetfull", 1, "m5.large", 1);
    topology.nodes[0].max_pods = Some(20);
    topology.profile.pool.wait_seconds = 2;
    topology.profile.pool.warm_min = 0;
    topology.profile.pool.warm_max = 1;
    topology.vpc = Some(json!({
        "cidrs": ["10.0.0.0/16", "2001:db8:1::/48"],
        "subnets": [{ "id": "tiny", "zone": "zone-a", "cidr4": "10.0.1.0/28", "cidr6": "2001:db8:1:1::/64" }],
    }));
    scenario(topology, async |lab| {
        let api = Api::new(&lab.api_url)?;
        for i in 0..12 {
            pods::create(
                &api,
                &pods::manifest(&format!("pod-{i:02}"), None, &probe(), &[]),
            )
            .await?;
        }
        up::wait_for("the condition", Duration::from_secs(30), async || {
            Ok(text(
                &condition(&api, "node1", "SubnetsAvailable").await?,
                "/reason",
            ) == "SubnetFull")
        })
        .await?;
        let reported = events(&api, "SubnetFull").await?;
        ensure!(
            reported.len() == 1 && event_text(&reported[0]).contains("tiny"),
            "{reported:?}"
        );
        // 16 addresses, 5 are the cloud's, 3 the VMs' and the node's.
        pods::wait_running(&api, 8, Duration::from_secs(30), |_| {}).await?;
        for i in 0..12 {
            pods::delete(&api, &format!("pod-{i:02}")).await?;
        }
        pods::wait_none(&api, Duration::from_secs(40), |_| {}).await?;
        Ok(())
    });
}

/// One object of ours that nobody can decode does not stop the others.
#[test]
fn an_undecodable_object_stops_nobody() {
    scenario(
        Topology::with("undecodable", 1, "t3.medium", 1),
        async |lab| {
            let api = Api::new(&lab.api_url)?;
            // The schema refuses such an object; one may have been stored before the schema was.
            let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/netresourcesets.tombolo.dev";
            let mut definition = api.get(crd).await?;
            let whole = definition.clone();
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
                json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
            api.call("PUT", crd, "application/json", Some(&definition))
                .await?;
            let broken = json!({ "apiVersion": "tombolo.dev/v1alpha1", "kind": "NetResourceSet", "metadata": { "name": "broken" }, "spec": { "nics": 7 } });
            api.create("/apis/tombolo.dev/v1alpha1/netresourcesets", &broken)
                .await?;
            let mut restore = whole;
            restore["metadata"]["resourceVersion"] =
                api.get(crd).await?["metadata"]["resourceVersion"].clone();
            api.call("PUT", crd, "application/json", Some(&restore))
                .await?;
            run_pods(&lab, 6).await?;
            up::wait_for("the Event", Duration::from_secs(15), async || {
                Ok(!events(&api, "UndecodableObject").await?.is_empty())
            })
            .await?;
            api.delete("/apis/tombolo.dev/v1alpha1/netresourcesets/broken")
                .await?;
            Ok(())
        },
    );
}
