//! Debian's chained plugins after the plugin under test: each gets its result, as it stands, and must be able to work with it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tombolo_netlink::Netns;

use crate::call::Call;
use crate::case::{Case, Tier, case, inapplicable};
use crate::rig::{NODE, Pod};
use crate::stage::Stage;
use crate::subject::{DEBIAN, NETWORKS};
use crate::tools::{ip_json, run_inside, wait_until};
use crate::version::Version;

use Tier::Chain;

/// The port on the node.
const HOST_PORT: u16 = 18080;
/// The port in the pod.
const POD_PORT: u16 = 8080;
const MAC: &str = "02:cc:00:00:00:01";

pub const CASES: &[Case] = &[
    case(Chain, "portmap_publishes_a_port", &["21a", "21e"], portmap).until(Version::V1_0_0),
    case(Chain, "bandwidth_limits_the_pod", &["21b"], bandwidth).until(Version::V1_0_0),
    case(Chain, "tuning_changes_the_interface", &["21c"], tuning).until(Version::V1_0_0),
    case(Chain, "firewall_admits_the_pod", &["21d"], firewall)
        .since(Version::V0_4_0)
        .until(Version::V1_0_0),
    case(
        Chain,
        "check_goes_through_the_whole_chain",
        &["Cj", "21a", "21b", "21d"],
        check_all,
    )
    .since(Version::V0_4_0)
    .until(Version::V1_0_0)
    .ported(&["libcni: executes all, in reverse order for DEL"]),
];

/// One of Debian's plugins after ours.
struct Link<'a> {
    kind: &'a str,
    conf: Value,
    /// Whether its CHECK can be believed.
    checks: bool,
}

impl Link<'_> {
    fn call(&self, stage: &Stage<'_>, command: &str, pod: &Pod, result: &Value) -> Result<Call> {
        let program = Path::new(DEBIAN).join(self.kind);
        let node = stage.rig.fabric()?.node();
        let mut conf = self.conf.clone();
        conf["cniVersion"] = stage.version.text().into();
        conf["name"] = NETWORKS[0].into();
        conf["type"] = self.kind.into();
        conf["prevResult"] = result.clone();
        let call = Call::new(&program, Some(&node))
            .env("CNI_COMMAND", command)
            .conf(&conf);
        let call = call
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", &pod.path);
        Ok(call
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", stage.rig.cni_path()))
    }
}

/// ADD of all, a look, CHECK of all, DEL of all in reverse order; the pod's interface is gone in the end.
fn chain(
    stage: &Stage<'_>,
    links: &[Link<'_>],
    look: impl FnOnce(&Pod, &Value) -> Result<()>,
) -> Result<()> {
    for link in links {
        let program = Path::new(DEBIAN).join(link.kind);
        ensure!(program.exists(), "there is no {}", program.display());
    }
    let pod = stage.pod()?;
    let mut result = stage.add(&pod)?;
    let mut added = Ok(());
    for link in links {
        match link.call(stage, "ADD", &pod, &result)?.run()?.result() {
            Ok(next) => result = next,
            Err(error) => {
                added = Err(error.context(format!("ADD of {}", link.kind)));
                break;
            }
        }
    }
    let looked = added.and_then(|()| look(&pod, &result));
    let mut checked = Ok(());
    if stage.version >= Version::V0_4_0 && looked.is_ok() {
        checked = stage.check(&pod, &result)?.run()?.silent().context("CHECK");
        for link in links.iter().filter(|link| link.checks) {
            let call = link.call(stage, "CHECK", &pod, &result)?;
            let one = call.run()?.silent();
            checked = checked.and(one.with_context(|| format!("CHECK of {}", link.kind)));
        }
    }
    for link in links.iter().rev() {
        let deleted = link.call(stage, "DEL", &pod, &result)?.run()?.silent();
        deleted.with_context(|| format!("DEL of {}", link.kind))?;
    }
    stage.del(&pod, &result)?;
    wait_until("eth0 is gone", || Ok(pod.link("eth0")?.is_none()))?;
    looked?;
    checked
}

fn portmap_link() -> Link<'static> {
    let mapping = json!({ "hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "tcp" });
    Link {
        kind: "portmap",
        conf: json!({ "capabilities": { "portMappings": true }, "runtimeConfig": { "portMappings": [mapping] } }),
        // Of a pod with both families it looks for the rule of IPv4 among those of IPv6.
        checks: false,
    }
}

fn bandwidth_link() -> Link<'static> {
    let rates = json!({ "ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000 });
    Link {
        kind: "bandwidth",
        conf: json!({ "capabilities": { "bandwidth": true }, "runtimeConfig": { "bandwidth": rates } }),
        checks: true,
    }
}

fn firewall_link() -> Link<'static> {
    Link {
        kind: "firewall",
        conf: json!({ "backend": "iptables" }),
        checks: true,
    }
}

/// A connection from behind the node to its port comes out at a listener in the pod.
pub fn reaches_pod(stage: &Stage<'_>, pod: &Pod, pod_port: u16, host_port: u16) -> Result<()> {
    let netns = Netns::open(&pod.path).context("open the pod's namespace")?;
    let any: SocketAddr = ([0, 0, 0, 0], pod_port).into();
    let listener = netns
        .run(|| TcpListener::bind(any))
        .context("enter the pod")?;
    let listener = listener.context("listen in the pod")?;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut connection, _) = listener.accept()?;
        connection.write_all(b"pod")
    });
    let outside = Netns::open(&stage.rig.fabric()?.outside()).context("open the fabric")?;
    let address: SocketAddr = format!("{NODE}:{host_port}").parse()?;
    let patience = Duration::from_secs(3);
    let connected = outside.run(|| TcpStream::connect_timeout(&address, patience));
    let answer = connected
        .context("enter the fabric")?
        .map_err(anyhow::Error::new);
    let answer = answer.and_then(|mut connection| {
        connection.set_read_timeout(Some(patience))?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        Ok(text)
    });
    if answer.is_err() {
        // The listener waits for somebody.
        let own: SocketAddr = ([127, 0, 0, 1], pod_port).into();
        drop(netns.run(|| TcpStream::connect_timeout(&own, patience)));
    }
    let served = server.join();
    ensure!(matches!(served, Ok(Ok(()))), "the listener in the pod died");
    let answer = answer.with_context(|| format!("connect to {address} from behind the node"))?;
    ensure!(answer == "pod", "{answer:?} answers at {address}");
    Ok(())
}

fn portmap(stage: &mut Stage<'_>) -> Result<()> {
    chain(stage, &[portmap_link()], |pod, _| {
        reaches_pod(stage, pod, POD_PORT, HOST_PORT)
    })
}

/// What the result says is the host's end, by the kernel.
fn host_end(stage: &Stage<'_>, pod: &Pod) -> Result<String> {
    let peer = pod.eth0()?["link_index"]
        .as_u64()
        .context("eth0 has no peer")?;
    let links = ip_json(&stage.rig.fabric()?.node(), "link show")?;
    let link = links
        .iter()
        .find(|link| link["ifindex"].as_u64() == Some(peer));
    let link = link.context("eth0's peer is not on the host")?;
    link["ifname"]
        .as_str()
        .map(str::to_owned)
        .context("a link without name")
}

fn is_limited(stage: &Stage<'_>, pod: &Pod) -> Result<()> {
    let (node, name) = (stage.rig.fabric()?.node(), host_end(stage, pod)?);
    let qdiscs = run_inside(&node, "tc", &format!("qdisc show dev {name}"))?;
    ensure!(
        qdiscs.contains("tbf") && qdiscs.contains("8Mbit"),
        "{name}: {qdiscs}"
    );
    ensure!(qdiscs.contains("ingress"), "{name}: {qdiscs}");
    Ok(())
}

fn bandwidth(stage: &mut Stage<'_>) -> Result<()> {
    chain(stage, &[bandwidth_link()], |pod, _| is_limited(stage, pod))
}

fn tuning(stage: &mut Stage<'_>) -> Result<()> {
    let link = Link {
        kind: "tuning",
        conf: json!({
            "mac": MAC, "mtu": 1400, "dataDir": stage.rig.bin().join("tuning"),
            "sysctl": { "net.ipv4.conf.all.log_martians": "1" },
        }),
        checks: true,
    };
    let pod = stage.pod()?;
    let mut result = stage.add(&pod)?;
    let added = link.call(stage, "ADD", &pod, &result)?.run()?.result();
    if let Ok(next) = &added {
        result = next.clone();
    }
    let after = pod.eth0();
    link.call(stage, "DEL", &pod, &result)?
        .run()?
        .silent()
        .context("DEL of tuning")?;
    stage.del(&pod, &result)?;
    wait_until("eth0 is gone", || Ok(pod.link("eth0")?.is_none()))?;
    added.context("ADD of tuning")?;
    let after = after?;
    ensure!(after["address"] == MAC && after["mtu"] == 1400, "{after}");
    let entries = result["interfaces"].as_array().into_iter().flatten();
    let mut ours = entries.filter(|entry| entry["name"] == "eth0");
    ensure!(ours.any(|entry| entry["mac"] == MAC), "{result}");
    Ok(())
}

fn firewall(stage: &mut Stage<'_>) -> Result<()> {
    chain(stage, &[firewall_link()], |_, result| {
        let rules = run_inside(&stage.rig.fabric()?.node(), "iptables", "-S CNI-FORWARD")?;
        let ips = result["ips"].as_array().into_iter().flatten();
        let mut v4 = ips
            .filter_map(|ip| ip["address"].as_str())
            .filter(|ip| !ip.contains(':'));
        let address = v4
            .next()
            .and_then(|ip| ip.split('/').next())
            .context("no IPv4 address")?;
        ensure!(rules.contains(address), "{address} is in no rule: {rules}");
        Ok(())
    })
}

fn check_all(stage: &mut Stage<'_>) -> Result<()> {
    if stage.version < Version::V0_4_0 {
        return Err(inapplicable("this version has no CHECK"));
    }
    let links = [firewall_link(), portmap_link(), bandwidth_link()];
    chain(stage, &links, |pod, _| {
        is_limited(stage, pod)?;
        reaches_pod(stage, pod, POD_PORT, HOST_PORT)
    })
}
