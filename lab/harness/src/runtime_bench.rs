//! How long containerd takes to run and to stop a sandbox with Tombolo, beside the reference plugins `ptp` and `portmap`, in
//! one run. Each has a node and a containerd of its own, and they take turns sandbox by sandbox, so that whatever else the
//! machine does falls on both.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tombolo_lab_runtime::cri::{Cri, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata};

use crate::state::{Lab, Node};
use crate::topology::{Runtime, Topology};
use crate::up;

/// What is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {
    /// Sandboxes of each side that stand at once.
    #[arg(long, default_value_t = 6)]
    sandboxes: u32,
    /// How often that many are run and stopped.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// Plugins of the other side.
const PEERS: [&str; 3] = ["ptp", "portmap", "host-local"];

struct Side {
    name: &'static str,
    cri: Cri,
    group: String,
    run: Vec<Duration>,
    stop: Vec<Duration>,
    stands: Vec<String>,
}

/// Brings a lab up, measures, prints a table, takes the lab down.
pub async fn command(args: Args) -> Result<()> {
    ensure!(args.sandboxes > 0, "--sandboxes must be above 0");
    ensure!(args.rounds > 0, "--rounds must be above 0");
    let mut topology = Topology::with("runtimebench", 2, "c5.4xlarge", 0);
    topology.runtime = Runtime::Containerd;
    topology.profile.pool.cooling_seconds = 1;
    // Supply is not what is measured.
    topology.profile.pool.warm_min = args.sandboxes + 2;
    topology.profile.pool.warm_max = args.sandboxes + 8;
    let lab = up::up(&topology, false, |line| eprintln!("{line}")).await?;
    let outcome = measure(&lab, args).await;
    let outcome = outcome.map_err(|error| error.context(up::tails(&lab)));
    up::down(&lab)?;
    print!("{}", table(&outcome?));
    Ok(())
}

async fn measure(lab: &Lab, args: Args) -> Result<Vec<Side>> {
    let [ours, theirs] = &lab.nodes[..] else {
        anyhow::bail!("two nodes are wanted");
    };
    use_peers(theirs)?;
    let mut sides = vec![
        side(lab, ours, "tombolo (dual stack)").await?,
        side(lab, theirs, "ptp + portmap (IPv4)").await?,
    ];
    for round in 0..=args.rounds {
        // The first does not count: files are read, programs come into memory.
        let counts = round > 0;
        for number in 0..args.sandboxes {
            let turn = usize::from((round + number) % 2 == 1);
            sides.rotate_left(turn);
            for side in &mut sides {
                side.start(round * args.sandboxes + number, counts).await?;
            }
            sides.rotate_right(turn);
        }
        for _ in 0..args.sandboxes {
            for side in &mut sides {
                side.end(counts).await?;
            }
        }
    }
    Ok(sides)
}

/// Replaces a node's network.
fn use_peers(node: &Node) -> Result<()> {
    for plugin in PEERS {
        let to = node.path("/run/cni/bin").join(plugin);
        fs::copy(format!("/usr/lib/cni/{plugin}"), &to)
            .with_context(|| format!("copy {plugin} (Debian: containernetworking-plugins)"))?;
    }
    let ipam = json!({
        "type": "host-local", "dataDir": "/run/host-local",
        "ranges": [[{ "subnet": "10.250.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let list = json!({
        "cniVersion": "1.0.0", "name": "peer",
        "plugins": [
            { "type": "ptp", "ipam": ipam },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    let dir = node.path("/run/cni/net.d");
    fs::write(dir.join(".new"), list.to_string())
        .and_then(|()| fs::rename(dir.join(".new"), dir.join("05-peer.conflist")))
        .context("write the peer's network")
}

async fn side(lab: &Lab, node: &Node, name: &'static str) -> Result<Side> {
    let cri = Cri::connect(&node.path(tombolo_lab_runtime::containerd::SOCKET)).await?;
    // Which network it has is only seen in a sandbox; that it has one is seen here.
    up::wait_for("the network", Duration::from_secs(20), async || {
        Ok(cri.condition("NetworkReady").await?.0.status)
    })
    .await?;
    Ok(Side {
        name,
        cri,
        group: format!("/{}", lab.topology.group(&node.name)),
        run: Vec::new(),
        stop: Vec::new(),
        stands: Vec::new(),
    })
}

impl Side {
    async fn start(&mut self, number: u32, counts: bool) -> Result<()> {
        let name = format!("bench-{number}");
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                uid: name.clone(),
                namespace: "default".to_owned(),
                attempt: 0,
                name,
            }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.group.clone(),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        let begin = Instant::now();
        let id = self.cri.run_sandbox(&config).await?;
        let took = begin.elapsed();
        let (status, _) = self.cri.sandbox(&id).await?;
        let addresses = status.network.unwrap_or_default().addresses()?;
        let of_peer = addresses
            .iter()
            .any(|ip| ip.to_string().starts_with("10.250."));
        ensure!(
            of_peer == self.name.starts_with("ptp"),
            "{}: a sandbox has {addresses:?}",
            self.name
        );
        if counts {
            self.run.push(took);
        }
        self.stands.push(id);
        Ok(())
    }

    async fn end(&mut self, counts: bool) -> Result<()> {
        let id = self.stands.pop().context("no sandbox stands")?;
        let begin = Instant::now();
        self.cri.stop_sandbox(&id).await?;
        if counts {
            self.stop.push(begin.elapsed());
        }
        self.cri.remove_sandbox(&id).await
    }
}

/// The value below which this part of them lies, in milliseconds.
fn quantile(times: &[Duration], part: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a short list"
    )]
    let place = ((sorted.len().saturating_sub(1)) as f64 * part).round() as usize;
    sorted
        .get(place)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

fn table(sides: &[Side]) -> String {
    let mut table = comfy_table::Table::new();
    table.set_header([
        "network",
        "sandboxes",
        "run p50",
        "run p90",
        "stop p50",
        "stop p90",
    ]);
    for side in sides {
        let shown = |times: &[Duration], part| format!("{:.1} ms", quantile(times, part));
        table.add_row([
            side.name.to_owned(),
            side.run.len().to_string(),
            shown(&side.run, 0.5),
            shown(&side.run, 0.9),
            shown(&side.stop, 0.5),
            shown(&side.stop, 0.9),
        ]);
    }
    let ratio = match sides {
        [ours, theirs] => quantile(&ours.run, 0.5) / quantile(&theirs.run, 0.5),
        _ => f64::NAN,
    };
    format!("{table}\nRunPodSandbox p50, ours to theirs: {ratio:.2}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_short_list() {
        let times: Vec<_> = (1..=5).map(Duration::from_millis).collect();
        for (part, expected) in [(0.0, 1.0), (0.5, 3.0), (0.9, 5.0), (1.0, 5.0)] {
            assert!((quantile(&times, part) - expected).abs() < 1e-9, "{part}");
        }
        assert!(quantile(&[], 0.5).is_nan());
    }
}
