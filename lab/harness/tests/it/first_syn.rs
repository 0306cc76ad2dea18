//! A pod's very first instruction opens a connection, and one comes back: no SYN is ever sent twice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tombolo_lab::kubeapi::Api;
use tombolo_lab::matrix::PORT;
use tombolo_lab::probe::First;
use tombolo_lab::topology::Topology;
use tombolo_lab::{pods, up};

use crate::support::{probe, scenario};

const STARTS: usize = 1000;
const BATCH: usize = 50;

#[test]
fn a_thousand_first_syns() {
    let mut topology = Topology::with("firstsyn", 2, "c5.4xlarge", 1);
    for node in &mut topology.nodes {
        node.max_pods = Some(60);
    }
    topology.profile.pool.warm_min = 30;
    topology.profile.pool.warm_max = 60;
    topology.profile.pool.cooling_seconds = 1;
    scenario(topology, async |lab| {
        let api = Api::new(&lab.api_url)?;
        let vm = lab.vm("vm1")?;
        let mut args = Vec::new();
        for ip in &vm.addresses {
            args.extend([
                "--first-connect".to_owned(),
                std::net::SocketAddr::new(*ip, PORT).to_string(),
            ]);
        }
        for batch in 0..STARTS / BATCH {
            for i in 0..BATCH {
                pods::create(
                    &api,
                    &pods::manifest(&format!("s{batch}-{i}"), None, &probe(), &args),
                )
                .await?;
            }
            let running = pods::wait_running(&api, BATCH, Duration::from_secs(60), |_| {}).await?;
            for (name, pod) in &running {
                let reports = first_reports(&lab, name, pod, vm.addresses.len()).await?;
                for first in reports {
                    ensure!(
                        first.out_retransmits == 0 && first.back_retransmits == 0,
                        "{name}: {first:?}"
                    );
                }
            }
            for name in running.keys() {
                pods::delete(&api, name).await?;
            }
            pods::wait_none(&api, Duration::from_secs(60), |_| {}).await?;
        }
        Result::Ok(())
    });
}

/// What the pod printed about its first connections, once it is all there.
async fn first_reports(
    lab: &tombolo_lab::state::Lab,
    name: &str,
    pod: &pods::Pod,
    wanted: usize,
) -> Result<Vec<First>> {
    let log = lab.node(&pod.node)?.path(&format!(
        "/run/tombolo-kubelet/logs/default_{name}_probe.log"
    ));
    let read = || std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()));
    up::wait_for(
        &format!("first connections of {name}"),
        Duration::from_secs(15),
        async || {
            Ok(read()?
                .lines()
                .filter(|l| l.starts_with("first-connect "))
                .count()
                == wanted)
        },
    )
    .await
    .with_context(|| read().unwrap_or_default())?;
    read()?
        .lines()
        .filter_map(|l| l.strip_prefix("first-connect "))
        .map(|l| serde_json::from_str(l).with_context(|| format!("{name}: {l}")))
        .collect()
}
