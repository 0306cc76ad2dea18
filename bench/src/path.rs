//! The path of a packet from a pod to a pod on another node: with Tombolo (by the second NIC), with `ptp` + ipMasq, with a
//! hand-made veth and static routes, and from node to node, all in the same fabric of namespaces.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::cni::Effort;
use crate::exec::Plugin;
use crate::load::Kind;
use crate::sandbox::{Agent, BenchNic, ip, run};
use crate::stats::{Rounds, Row};

const NODES: [&str; 2] = ["na", "nb"];
const PORT: u16 = 7000;

/// A way from the first node to the second.
struct Way {
    name: &'static str,
    client: String,
    server: String,
    address: IpAddr,
    samples: [Rounds; 2],
}

/// Measures all ways, interleaved.
pub fn measure(bin: &Path, effort: Effort) -> Result<Vec<Row>> {
    run("ip", &["netns", "add", "fabric"])?;
    run(
        "ip",
        &[
            "netns",
            "exec",
            "fabric",
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
        ],
    )?;
    let mut agents = Vec::new();
    let mut ways = Vec::new();
    let mut ends: Vec<[(String, IpAddr); 4]> = Vec::new();
    for (n, node) in NODES.iter().enumerate() {
        let n = u8::try_from(n)?;
        let nics = make_node(node, n)?;
        let dir = PathBuf::from(format!("/run/path-{node}"));
        agents.push(Agent::start(
            &bin.join("tombolo-agent"),
            Some(node),
            &dir,
            &nics,
            "IPv4",
        )?);
        ends.push([
            tombolo(bin, node, &dir.join("agent.sock"))?,
            ptp(node, n)?,
            by_hand(node, n)?,
            (
                (*node).to_owned(),
                format!("10.0.{}.10", 2 * n + 1).parse()?,
            ),
        ]);
    }
    let [first, second] = ends.as_slice() else {
        anyhow::bail!("two nodes are wanted")
    };
    for (i, name) in ["tombolo", "ptp+ipMasq", "by hand", "node to node"]
        .into_iter()
        .enumerate()
    {
        let ((client, _), (server, address)) = (&first[i], &second[i]);
        ways.push(Way {
            name,
            client: client.clone(),
            server: server.clone(),
            address: *address,
            samples: Default::default(),
        });
    }
    let servers: Vec<Server> = ways.iter().map(Server::start).collect::<Result<_>>()?;
    for _ in 0..effort.rounds {
        for way in &mut ways {
            effort.pass()?;
            for (kind, samples) in [Kind::RoundTrips, Kind::Stream]
                .into_iter()
                .zip(&mut way.samples)
            {
                samples.begin();
                samples.add(call(&way.client, SocketAddr::new(way.address, PORT), kind)?);
            }
        }
    }
    drop(servers);
    drop(agents);
    // All are ours: nodes, pods, the fabric. What the agents and the peer remember of them goes, too: a build may come after
    // another.
    run("ip", &["-all", "netns", "del"])?;
    for node in NODES {
        let dir = format!("/run/path-{node}");
        fs::remove_dir_all(&dir).with_context(|| format!("remove {dir}"))?;
    }
    for entry in fs::read_dir("/var/lib/cni").context("read /var/lib/cni")? {
        let path = entry.context("read /var/lib/cni")?.path();
        fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    rows(&ways)
}

fn rows(ways: &[Way]) -> Result<Vec<Row>> {
    let [ours, ptp, hand, node] = ways else {
        anyhow::bail!("four ways are wanted")
    };
    let mut rows = Vec::new();
    for (k, (name, unit)) in [
        ("path: round trips, 1 byte", "1/s"),
        ("path: stream", "Gbit/s"),
    ]
    .into_iter()
    .enumerate()
    {
        let median = |w: &Way| w.samples.get(k).and_then(|s| s.quantile(0.5));
        let n = ours.samples.get(k).map_or(0, Rounds::count);
        rows.push(Row::new(
            name,
            unit,
            median(ours),
            median(ptp).map(|v| (ptp.name, v)),
            median(hand),
            n,
        ));
        rows.push(Row::new(
            &format!("{name}, {}", node.name),
            unit,
            median(node),
            None,
            median(hand),
            n,
        ));
    }
    Ok(rows)
}

/// Two NICs: the node's own, and one for pods.
fn make_node(node: &str, n: u8) -> Result<Vec<BenchNic>> {
    run("ip", &["netns", "add", node])?;
    run(
        "ip",
        &[
            "netns",
            "exec",
            node,
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
        ],
    )?;
    let mut nics = Vec::new();
    for i in 0..2_u8 {
        let net = 2 * n + 1 + i;
        let nic = BenchNic {
            index: i.into(),
            mac: format!("02:00:00:00:0{n}:1{i}"),
            net,
            pods: if i == 0 { 0 } else { 8 },
        };
        let link = format!("{node}{i}");
        let eth = format!("eth{i}");
        run(
            "ip",
            &[
                "-n", node, "link", "add", &eth, "address", &nic.mac, "type", "veth", "peer",
                "name", &link, "netns", "fabric",
            ],
        )?;
        // The fabric delivers by owner, as a VPC does: no ARP for a pod's address.
        ip(
            Some("fabric"),
            &format!(
                "link set {link} up\naddress add 10.0.{net}.1/32 dev {link}\nneigh add 10.0.{net}.10 lladdr {} dev {link} nud permanent\n\
             route add 10.0.{net}.10/32 dev {link}\nroute add 10.0.{net}.0/24 via 10.0.{net}.10 dev {link} onlink\n",
                nic.mac
            ),
        )?;
        nics.push(nic);
    }
    let net = 2 * n + 1;
    ip(
        Some(node),
        &format!(
            "link set lo up\nlink set eth0 up\naddress add 10.0.{net}.10/24 dev eth0\nroute add default via 10.0.{net}.1\n"
        ),
    )?;
    ip(
        Some("fabric"),
        &format!(
            "route add 10.244.{n}.0/24 via 10.0.{net}.10 dev {node}0 onlink\nroute add 10.245.{n}.0/24 via 10.0.{net}.10 dev {node}0 onlink\n"
        ),
    )?;
    Ok(nics)
}

fn tombolo(bin: &Path, node: &str, socket: &Path) -> Result<(String, IpAddr)> {
    let conf = json!({ "cniVersion": "1.0.0", "name": "tombolo", "type": "tombolo-cni", "agentSocket": socket });
    add(
        node,
        &format!("t{node}"),
        &Plugin {
            name: "tombolo",
            binary: bin.join("tombolo-cni"),
            args: Vec::new(),
            conf,
        },
    )
}

fn ptp(node: &str, n: u8) -> Result<(String, IpAddr)> {
    let ipam = json!({ "type": "host-local", "subnet": format!("10.244.{n}.0/24"), "routes": [{ "dst": "0.0.0.0/0" }] });
    let conf = json!({ "cniVersion": "1.0.0", "name": format!("ptp{n}"), "type": "ptp", "ipMasq": true, "ipam": ipam });
    add(
        node,
        &format!("p{node}"),
        &Plugin {
            name: "ptp",
            binary: PathBuf::from("/usr/lib/cni/ptp"),
            args: Vec::new(),
            conf,
        },
    )
}

/// ADD inside a node.
fn add(node: &str, pod: &str, plugin: &Plugin) -> Result<(String, IpAddr)> {
    let sandbox = crate::exec::Sandbox::create(pod.to_owned())?;
    let inside = Plugin {
        name: plugin.name,
        binary: PathBuf::from("/usr/bin/nsenter"),
        args: vec![
            format!("--net=/run/netns/{node}"),
            plugin.binary.to_string_lossy().into_owned(),
        ],
        conf: plugin.conf.clone(),
    };
    let (_, answer) = crate::exec::exec(&inside, "ADD", &sandbox, None)?;
    let address = answer
        .pointer("/ips/0/address")
        .and_then(|v| v.as_str())
        .context("no address in the result")?;
    let address = address
        .split('/')
        .next()
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("address {address}"))?;
    Ok((pod.to_owned(), address))
}

fn by_hand(node: &str, n: u8) -> Result<(String, IpAddr)> {
    let pod = format!("h{node}");
    run("ip", &["netns", "add", &pod])?;
    run(
        "ip",
        &[
            "-n", &pod, "link", "add", "eth0", "type", "veth", "peer", "name", "hand", "netns",
            node,
        ],
    )?;
    ip(
        Some(&pod),
        &format!(
            "link set lo up\nlink set eth0 up\naddress add 10.245.{n}.2/24 dev eth0\nroute add default via 10.245.{n}.1\n"
        ),
    )?;
    ip(
        Some(node),
        &format!("link set hand up\naddress add 10.245.{n}.1/24 dev hand\n"),
    )?;
    Ok((pod, format!("10.245.{n}.2").parse()?))
}

/// A server in a namespace, ended on drop.
struct Server(Child);

impl Server {
    fn start(way: &Way) -> Result<Self> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &way.server])
            .arg(std::env::current_exe()?)
            .args(["serve", &SocketAddr::new(way.address, PORT).to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context("start the load server")?;
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(child.stdout.take().context("standard output")?),
            &mut line,
        )?;
        anyhow::ensure!(
            line.trim() == "ready",
            "the load server of {} did not start",
            way.name
        );
        Ok(Self(child))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ours, and nothing depends on how it ends.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn call(client: &str, to: SocketAddr, kind: Kind) -> Result<f64> {
    let kind = if kind == Kind::Stream { "stream" } else { "rr" };
    let seconds = Duration::from_secs(2).as_secs().to_string();
    let own = std::env::current_exe()?;
    let text = run(
        "ip",
        &[
            "netns",
            "exec",
            client,
            &own.to_string_lossy(),
            "call",
            &to.to_string(),
            kind,
            &seconds,
        ],
    )?;
    text.trim()
        .parse()
        .with_context(|| format!("load client in {client}: {text:?}"))
}
