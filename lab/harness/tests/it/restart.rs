//! The agent ends and starts again under traffic; nobody notices.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tombolo_lab::matrix::PORT;
use tombolo_lab::node::in_netns;
use tombolo_lab::probe::Carried;
use tombolo_lab::topology::Topology;
use tombolo_lab::up;

use crate::support::{one_of_each_nic, place, probe, run_pods, scenario};

#[test]
fn connections_on_both_nics_carry_verified_bytes_throughout() {
    scenario(
        Topology::with("restart", 1, "t3.medium", 1),
        async |mut lab| {
            let running = run_pods(&lab, 7).await?;
            let vm = lab.vm("vm1")?.clone();
            let mut traffic = Vec::new();
            for pod in one_of_each_nic(&lab, &running).await?.values() {
                let netns = place(&lab, pod)?.netns;
                for (pod_ip, vm_ip) in pod.ips.iter().zip(&vm.addresses) {
                    traffic.push(Traffic::start(&vm.netns, SocketAddr::new(*pod_ip, PORT))?);
                    traffic.push(Traffic::start(&netns, SocketAddr::new(*vm_ip, PORT))?);
                }
                for outside in &lab.internet {
                    traffic.push(Traffic::start(&netns, SocketAddr::new(*outside, PORT))?);
                }
            }
            ensure!(
                traffic.len() >= 12,
                "two NICs are wanted: {} connections",
                traffic.len()
            );
            for round in 0..6 {
                let agent = lab.nodes[0].agent.clone().context("an agent runs")?;
                if round % 2 == 0 {
                    agent.kill()?;
                } else {
                    agent.end(Duration::from_secs(10))?;
                }
                lab.nodes[0].agent = Some(up::start_agent(&lab, &lab.nodes[0])?);
                lab.save()?;
                // Served again: a pod can be started.
                let api = tombolo_lab::kubeapi::Api::new(&lab.api_url)?;
                let name = format!("after-{round}");
                tombolo_lab::pods::create(
                    &api,
                    &tombolo_lab::pods::manifest(&name, None, &probe(), &[]),
                )
                .await?;
                tombolo_lab::pods::wait_running(
                    &api,
                    running.len() + 1,
                    Duration::from_secs(30),
                    |_| {},
                )
                .await?;
                tombolo_lab::pods::delete(&api, &name).await?;
                up::wait_for("the pod's end", Duration::from_secs(20), async || {
                    Ok(api
                        .find(&format!("/api/v1/namespaces/default/pods/{name}"))
                        .await?
                        .is_none())
                })
                .await?;
            }
            for connection in traffic {
                connection.carried_throughout()?;
            }
            Ok(())
        },
    );
}

/// One busy connection.
pub struct Traffic {
    child: Child,
    reader: BufReader<std::process::ChildStdout>,
    to: SocketAddr,
}

impl Traffic {
    pub fn start(netns: &str, to: SocketAddr) -> Result<Self> {
        Self::paced(netns, to, Duration::ZERO)
    }

    /// One of many: it rests between two blocks.
    pub fn paced(netns: &str, to: SocketAddr, pause: Duration) -> Result<Self> {
        let mut command = in_netns(netns, probe());
        command
            .args(["probe", "carry", &to.to_string(), "--pause-ms"])
            .arg(pause.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("start traffic")?;
        let mut reader = BufReader::new(child.stdout.take().context("standard output")?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        ensure!(
            line.trim() == "carrying",
            "no connection to {to} from {netns}"
        );
        Ok(Self { child, reader, to })
    }

    /// Ends it; nothing may have broken or stalled it.
    pub fn carried_throughout(self) -> Result<Carried> {
        let (to, carried) = self.stop()?;
        ensure!(carried.error.is_none(), "{to}: {carried:?}");
        ensure!(
            carried.verified > 100_000,
            "{to}: hardly anything was carried: {carried:?}"
        );
        ensure!(
            carried.longest_stall_ms < 1000,
            "{to}: stalled: {carried:?}"
        );
        Ok(carried)
    }

    fn stop(mut self) -> Result<(SocketAddr, Carried)> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        self.child.wait()?;
        Ok((
            self.to,
            serde_json::from_str(&line)
                .with_context(|| format!("traffic to {}: {line:?}", self.to))?,
        ))
    }
}
