//! `make demo`: the main job from end to end on one machine, with packets, in tables.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::Table;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::check;
use crate::kubeapi::{Api, text};
use crate::matrix::{self, Cell, Place};
use crate::node::{in_netns, output};
use crate::pods::{self, Pod};
use crate::residue;
use crate::state::Lab;
use crate::topology::Topology;
use crate::up;

const NAME: &str = "demo";
const NODES: usize = 3;
/// t3.medium carries 3 NICs with 5 pod addresses each: the sixth pod of a node needs the second NIC.
const INSTANCE_TYPE: &str = "t3.medium";
const PODS: usize = NODES * 7;

/// Runs the demo; leaves the lab up when asked to.
pub async fn run(keep: bool) -> Result<()> {
    let begin = Instant::now();
    let before = residue::snapshot()?;
    let mut topology = Topology::with(NAME, NODES, INSTANCE_TYPE, 1);
    topology.profile.pool.warm_max = 3;
    title("A VPC with 3 nodes, a plain VM and an internet host");
    let lab = up::up(&topology, false, |line| println!("  {line}")).await?;
    let result = show(&lab).await;
    if result.is_err() {
        println!("{}", up::tails(&lab));
    }
    if keep {
        println!("the lab stays up: tombolo lab status --name {NAME}");
        return result;
    }
    up::down(&lab)?;
    result?;
    let left = residue::left_since(&before)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    title(&format!(
        "Done in {:.0} s; no namespace, link, rule, nft table, cgroup or mount is left",
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}

async fn show(lab: &Lab) -> Result<()> {
    let api = Api::new(&lab.api_url)?;
    title(&format!("{PODS} pods: every node needs a second NIC"));
    let running = scale_up(lab, &api).await?;
    let nics = endpoints(&api, &running).await?;
    pods_table(lab, &running, &nics)?;
    holds(lab).await?;

    title("Who reaches whom, by packets (the address the other side saw)");
    matrix_tables(lab, &running, &nics)?;

    title("Kernel state of node1");
    kernel_tables(lab)?;

    title("Scale down: addresses cool and return, NICs are given back");
    scale_down(lab, &api, &running).await
}

async fn scale_up(lab: &Lab, api: &Api) -> Result<BTreeMap<String, Pod>> {
    let probe = lab.topology.binary("tombolo-lab")?;
    for i in 0..PODS {
        pods::create(
            api,
            &pods::manifest(&format!("web-{i:02}"), None, &probe, &[]),
        )
        .await?;
    }
    let bar = bar(PODS, "pods running")?;
    let running = pods::wait_running(api, PODS, Duration::from_secs(40), |n| {
        bar.set_position(n as u64)
    })
    .await?;
    bar.finish();
    Ok(running)
}

/// Pod -> NIC of its IPv4 address, and that NIC's device index.
async fn endpoints(
    api: &Api,
    running: &BTreeMap<String, Pod>,
) -> Result<BTreeMap<String, (String, u64)>> {
    up::wait_for("PodEndpoints", Duration::from_secs(10), async || {
        Ok(api
            .list("/apis/tombolo.dev/v1alpha1/podendpoints")
            .await?
            .len()
            >= running.len())
    })
    .await?;
    let mut index = BTreeMap::new();
    for eni in api.list("/apis/tombolo.dev/v1alpha1/enis").await? {
        index.insert(
            text(&eni, "/status/nicId"),
            eni.pointer("/spec/deviceIndex")
                .and_then(Value::as_u64)
                .unwrap_or_default(),
        );
    }
    let mut nics = BTreeMap::new();
    for object in api.list("/apis/tombolo.dev/v1alpha1/podendpoints").await? {
        let nic = text(&object, "/spec/ipv4/nic");
        let device = index
            .get(&nic)
            .copied()
            .with_context(|| format!("no Eni object for NIC {nic:?}"))?;
        nics.insert(text(&object, "/spec/pod"), (nic, device));
    }
    Ok(nics)
}

fn pods_table(
    lab: &Lab,
    running: &BTreeMap<String, Pod>,
    nics: &BTreeMap<String, (String, u64)>,
) -> Result<()> {
    let mut table = Table::new();
    table.set_header(["Pod", "Node", "IPv4", "IPv6", "NIC", "Device"]);
    let mut second: BTreeSet<&str> = BTreeSet::new();
    for (name, pod) in running {
        let ip = |v4: bool| {
            pod.ips
                .iter()
                .find(|ip| ip.is_ipv4() == v4)
                .map(ToString::to_string)
                .unwrap_or_default()
        };
        let (nic, device) = nics
            .get(name)
            .with_context(|| format!("pod {name} has no PodEndpoint"))?;
        if *device > 0 {
            second.insert(&pod.node);
        }
        table.add_row([
            name.clone(),
            pod.node.clone(),
            ip(true),
            ip(false),
            nic.clone(),
            format!("eth{device}"),
        ]);
    }
    println!("{table}");
    ensure!(
        second.len() == lab.nodes.len(),
        "only {second:?} use a second NIC"
    );
    Ok(())
}

fn matrix_tables(
    lab: &Lab,
    running: &BTreeMap<String, Pod>,
    nics: &BTreeMap<String, (String, u64)>,
) -> Result<()> {
    let place = |name: &String, pod: &Pod| -> Result<Place> {
        let device = nics.get(name).map_or(0, |(_, d)| *d);
        let netns = pods::netns(lab, pod)?.to_string_lossy().into_owned();
        Ok(Place {
            name: format!("{name} ({} eth{device})", pod.node),
            netns,
            ips: pod.ips.clone(),
        })
    };
    // One pod of each NIC on two nodes: same node, across nodes, across NICs.
    let mut chosen = BTreeMap::new();
    for (name, pod) in running.iter().filter(|(_, p)| p.node != "node3") {
        chosen
            .entry((pod.node.clone(), nics.get(name).map_or(0, |(_, d)| *d)))
            .or_insert((name, pod));
    }
    let pods: Vec<Place> = chosen
        .values()
        .map(|(n, p)| place(n, p))
        .collect::<Result<_>>()?;
    let vms: Vec<Place> = lab
        .vms
        .iter()
        .filter(|v| v.name != "control")
        .map(|v| Place {
            name: v.name.clone(),
            netns: v.netns.clone(),
            ips: v.addresses.clone(),
        })
        .collect();
    let nodes: Vec<Place> = lab
        .nodes
        .iter()
        .take(1)
        .map(|n| Place {
            name: n.name.clone(),
            netns: n.netns(),
            ips: std::iter::once(n.address4.into())
                .chain(n.address6.map(Into::into))
                .collect(),
        })
        .collect();
    let mut bad = Vec::new();
    for (what, cells) in [
        ("pod -> pod", matrix::untranslated(lab, &pods, &pods)?),
        ("plain VM -> pod", matrix::untranslated(lab, &vms, &pods)?),
        ("pod -> plain VM", matrix::untranslated(lab, &pods, &vms)?),
        ("node -> pod", matrix::untranslated(lab, &nodes, &pods)?),
        ("pod -> internet", matrix::internet(lab, &pods)?),
    ] {
        println!("  {what}");
        println!("{}", cells_table(&cells));
        bad.extend(cells.into_iter().filter(|c| !c.good()));
    }
    ensure!(
        bad.is_empty(),
        "{} connections are not as they should be: {bad:?}",
        bad.len()
    );
    Ok(())
}

fn cells_table(cells: &[Cell]) -> Table {
    let mut table = Table::new();
    table.set_header(["From", "To", "Address", "Outcome", "Seen as", "Translated"]);
    for cell in cells {
        let seen = cell
            .report
            .seen_by_server
            .map(|ip| ip.to_string())
            .unwrap_or_default();
        let translated = if cell.report.seen_by_server == cell.report.local {
            "no"
        } else {
            "yes"
        };
        let outcome = format!(
            "{:?}{}",
            cell.report.outcome,
            if cell.good() { "" } else { " (WRONG)" }
        );
        table.add_row([
            cell.from.clone(),
            cell.to.clone(),
            cell.address.to_string(),
            outcome,
            seen,
            translated.to_owned(),
        ]);
    }
    table
}

fn kernel_tables(lab: &Lab) -> Result<()> {
    let node = lab.nodes.first().context("no node")?;
    for args in [
        &["-4", "rule"][..],
        &["-6", "rule"],
        &["-4", "route", "show", "table", "990"],
        &["-4", "route", "show", "table", "1001"],
    ] {
        println!("  # ip {}", args.join(" "));
        let mut command = in_netns(&node.netns(), "ip");
        command.args(args);
        for line in output(command)?.lines() {
            println!("    {line}");
        }
    }
    Ok(())
}

async fn scale_down(lab: &Lab, api: &Api, running: &BTreeMap<String, Pod>) -> Result<()> {
    for name in running.keys() {
        pods::delete(api, name).await?;
    }
    let bar_pods = bar(running.len(), "pods gone")?;
    pods::wait_none(api, Duration::from_secs(30), |left| {
        bar_pods.set_position((running.len() - left.min(running.len())) as u64)
    })
    .await?;
    bar_pods.finish();

    let began = nic_count(api).await?;
    let extra = began.saturating_sub(lab.nodes.len());
    let bar_nics = bar(extra, "NICs given back")?;
    let begin = Instant::now();
    loop {
        let now = nic_count(api).await?;
        bar_nics.set_position((began - now.min(began)) as u64);
        if now <= lab.nodes.len() {
            break;
        }
        if begin.elapsed() > Duration::from_secs(40) {
            bail!(
                "{now} NICs are left, {} are the nodes' own",
                lab.nodes.len()
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bar_nics.finish();
    holds(lab).await
}

async fn nic_count(api: &Api) -> Result<usize> {
    Ok(api.list("/apis/tombolo.dev/v1alpha1/enis").await?.len())
}

async fn holds(lab: &Lab) -> Result<()> {
    let violations = check::settle(lab, Duration::from_secs(10)).await?;
    for violation in &violations {
        println!("  {violation}");
    }
    ensure!(
        violations.is_empty(),
        "the invariant does not hold: {} violations",
        violations.len()
    );
    println!("  cloud == objects == pool == journal == kernel: holds");
    Ok(())
}

fn bar(length: usize, what: &str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("  {msg:16} [{bar:40}] {pos}/{len} {elapsed}")
        .context("progress bar")?;
    let bar = ProgressBar::new(length as u64).with_style(style.progress_chars("=> "));
    bar.set_message(what.to_owned());
    Ok(bar)
}

fn title(text: &str) {
    println!("\n== {text}");
}
