//! A node's worth of ADDs at once, with API server, operator and cloud API standing still: ADD needs none of them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use tombolo_lab::node::output;
use tombolo_lab::topology::Topology;
use tombolo_lab::up;

use crate::support::{in_ns, scenario};

const PODS: usize = 110;

#[test]
fn a_full_node_at_once_without_api_server_operator_and_cloud() {
    let mut topology = Topology::with("burst", 1, "c5.4xlarge", 1);
    topology.nodes[0].max_pods = Some(110);
    topology.profile.pool.warm_min = 110;
    topology.profile.pool.warm_max = 120;
    scenario(topology, async |lab| {
        let node = &lab.nodes[0];
        let state = async || {
            tombolo_lab::http::get_in_netns(
                &node.netns(),
                ([127, 0, 0, 1], tombolo_lab::check::gather::AGENT_PORT).into(),
                "/debug/state",
            )
            .await
        };
        up::wait_for("a warm pool", Duration::from_secs(40), async || {
            let state = state().await?;
            let free = state["pool"]["addresses"]
                .as_array()
                .map_or(0, |a| a.iter().filter(|e| e["state"] == "free").count());
            Ok(free >= 2 * PODS)
        })
        .await?;
        let still: Vec<_> = lab
            .services
            .iter()
            .filter(|p| ["vpc", "apiserver", "operator"].contains(&p.name.as_str()))
            .collect();
        ensure!(still.len() == 3, "services: {still:?}");
        for process in &still {
            process.signal(Signal::STOP)?;
        }
        // In the node's own mount namespace: /run there is private.
        let script = format!(
            r#"set -e
            for i in $(seq 1 {PODS}); do ip netns add burst-$i; done
            call() {{ CNI_COMMAND=$1 CNI_CONTAINERID=burst-$2 CNI_NETNS=/run/netns/burst-$2 CNI_IFNAME=eth0 CNI_PATH=/run/cni/bin /run/cni/bin/tombolo-cni >/run/burst-$1-$2 2>&1 <<'CONF'
{conf}
CONF
            }}
            pids=; for i in $(seq 1 {PODS}); do call ADD $i & pids="$pids $!"; done; for p in $pids; do wait $p; done
            grep -L '"ips"' /run/burst-ADD-* || true
            pids=; for i in $(seq 1 {PODS}); do call DEL $i & pids="$pids $!"; done; for p in $pids; do wait $p; done
            for i in $(seq 1 {PODS}); do ip netns del burst-$i; done
            "#,
            conf = json!({ "cniVersion": "1.0.0", "name": "tombolo", "type": "tombolo-cni" }),
        );
        let mut command = node.command("sh");
        command.args(["-c", &script]);
        let result = output(command);
        for process in &still {
            process.signal(Signal::CONT)?;
        }
        let without = result.context("110 ADDs and DELs")?;
        ensure!(
            without.trim().is_empty(),
            "no addresses in the results {without}"
        );
        // The last link goes with the reaper.
        up::wait_for(
            "the end of all host ends",
            Duration::from_secs(20),
            async || Ok(!in_ns(&node.netns(), "ip", &["-o", "link"])?.contains("tmb")),
        )
        .await?;
        Result::Ok(())
    });
}
