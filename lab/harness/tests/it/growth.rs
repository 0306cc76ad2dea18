//! Kernel cost is O(NICs): rules do not grow with pods.

use std::time::Duration;

use anyhow::{Result, ensure};
use tombolo_lab::kubeapi::Api;
use tombolo_lab::state::Node;
use tombolo_lab::topology::Topology;
use tombolo_lab::{pods, up};

use crate::support::{in_ns, probe, scenario};

#[test]
fn as_many_rules_with_100_pods_as_with_one() {
    // The pool wants all that maxPods allows from the beginning: the number of NICs stays.
    let mut topology = Topology::with("growth", 1, "c5.4xlarge", 1);
    topology.nodes[0].max_pods = Some(110);
    topology.profile.pool.warm_min = 110;
    topology.profile.pool.warm_max = 120;
    scenario(topology, async |lab| {
        let api = Api::new(&lab.api_url)?;
        let node = &lab.nodes[0];
        up::wait_for("four NICs", Duration::from_secs(30), async || {
            Ok(
                in_ns(&node.netns(), "ip", &["-4", "rule", "show", "pref", "1536"])?
                    .lines()
                    .count()
                    == 3,
            )
        })
        .await?;
        pods::create(&api, &pods::manifest("first", None, &probe(), &[])).await?;
        pods::wait_running(&api, 1, Duration::from_secs(30), |_| {}).await?;
        let one = rules(node)?;
        for i in 1..100 {
            pods::create(
                &api,
                &pods::manifest(&format!("pod-{i:03}"), None, &probe(), &[]),
            )
            .await?;
        }
        pods::wait_running(&api, 100, Duration::from_secs(120), |_| {}).await?;
        let hundred = rules(node)?;
        ensure!(one == hundred, "1 pod: {one:#?}\n100 pods: {hundred:#?}");
        ensure!(one[0].len() > 8, "hardly any rule: {one:#?}");
        Result::Ok(())
    });
}

fn rules(node: &Node) -> Result<[Vec<String>; 2]> {
    let lines = |family| -> Result<Vec<String>> {
        Ok(in_ns(&node.netns(), "ip", &[family, "rule"])?
            .lines()
            .map(str::to_owned)
            .collect())
    };
    Ok([lines("-4")?, lines("-6")?])
}
