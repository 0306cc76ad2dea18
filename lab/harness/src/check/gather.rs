//! Takes the snapshot: HTTP for cloud, objects and pool; files for the journal; `ip -j` and `nft -j` for the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::host_ports;
use super::snapshot::{CloudNic, EndpointView, EniView, KernelView, NodeView, PodView, Snapshot};
use crate::http;
use crate::kubeapi::{Api, text};
use crate::node::{in_netns, output};
use crate::state::{Lab, Node};

/// Port of the agent's own HTTP server inside its node.
pub const AGENT_PORT: u16 = 9810;

/// One snapshot of everything.
pub async fn gather(lab: &Lab) -> Result<Snapshot> {
    gather_with(lab, None).await
}

/// The same, but with the pools of an earlier snapshot: for labs whose agents stand still and cannot answer.
pub async fn gather_with_pools_of(lab: &Lab, earlier: &Snapshot) -> Result<Snapshot> {
    gather_with(lab, Some(earlier)).await
}

async fn gather_with(lab: &Lab, earlier: Option<&Snapshot>) -> Result<Snapshot> {
    let api = Api::new(&lab.api_url)?;
    let mut snapshot = Snapshot::default();
    for object in api
        .list("/apis/tombolo.dev/v1alpha1/netresourcesets")
        .await?
    {
        let name = text(&object, "/metadata/name");
        let mut view = NodeView {
            instance: text(&object, "/spec/instanceId"),
            release: addresses(&object, "/spec/release"),
            ..NodeView::default()
        };
        for nic in array(&object, "/spec/nics") {
            view.nrs
                .insert(text(nic, "/id"), addresses(nic, "/addresses"));
        }
        snapshot.nodes.insert(name, view);
    }
    for object in api.list("/apis/tombolo.dev/v1alpha1/enis").await? {
        let view = EniView {
            node: text(&object, "/spec/node"),
            addresses: addresses(&object, "/status/addresses"),
            phase: text(&object, "/status/phase"),
        };
        let id = text(&object, "/status/nicId");
        snapshot.enis.insert(
            if id.is_empty() {
                text(&object, "/metadata/name")
            } else {
                id
            },
            view,
        );
    }
    for object in api.list("/apis/tombolo.dev/v1alpha1/podendpoints").await? {
        snapshot
            .endpoints
            .insert(full_name(&object), endpoint(&object));
    }
    for object in api.list("/api/v1/pods").await? {
        let ips = array(&object, "/status/podIPs")
            .filter_map(|v| text(v, "/ip").parse().ok())
            .collect();
        let view = PodView {
            node: text(&object, "/spec/nodeName"),
            ips,
            phase: text(&object, "/status/phase"),
            host_network: object.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)),
        };
        snapshot.pods.insert(full_name(&object), view);
    }
    cloud(lab, &mut snapshot).await?;
    for node in &lab.nodes {
        let view = snapshot.nodes.entry(node.name.clone()).or_default();
        view.pool = match earlier.and_then(|s| s.nodes.get(&node.name)) {
            Some(earlier) => earlier.pool.clone(),
            None => pool(node).await?,
        };
        (view.journal, view.host_ports) = journal(node)?;
        view.kernel = kernel(node)?;
    }
    Ok(snapshot)
}

fn endpoint(object: &Value) -> EndpointView {
    let mut ips = BTreeMap::new();
    for family in ["/spec/ipv4", "/spec/ipv6"] {
        if let Some(ip) = object
            .pointer(family)
            .and_then(|v| text(v, "/ip").parse().ok())
        {
            ips.insert(ip, text(object, &format!("{family}/nic")));
        }
    }
    let key = ["network", "containerId", "ifname"]
        .map(|f| text(object, &format!("/spec/{f}")))
        .join("/");
    let pod = format!(
        "{}/{}",
        text(object, "/metadata/namespace"),
        text(object, "/spec/pod")
    );
    EndpointView {
        node: text(object, "/spec/node"),
        pod,
        key,
        ips,
    }
}

async fn cloud(lab: &Lab, snapshot: &mut Snapshot) -> Result<()> {
    let socket = lab.vpc_socket();
    let nics = http::post_unix(&socket, "/v1/DescribeNics", &json!({})).await?;
    let instances: BTreeSet<String> = lab.nodes.iter().map(|n| n.instance.clone()).collect();
    for nic in nics.as_array().context("DescribeNics: not a list")? {
        let instance = nic
            .pointer("/attachment/instance")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let ours = text(nic, "/tags/tombolo.dev~1cluster") == lab.topology.name;
        if ours || instance.as_ref().is_some_and(|i| instances.contains(i)) {
            let device_index = nic
                .pointer("/attachment/device_index")
                .and_then(Value::as_u64)
                .unwrap_or_default();
            let view = CloudNic {
                instance,
                device_index: u16::try_from(device_index).context("device index")?,
                secondary: addresses(nic, "/secondary"),
                ours,
            };
            snapshot.cloud.insert(text(nic, "/id"), view);
        }
    }
    let counters = http::post_unix(&socket, "/lab/v1/Counters", &json!({})).await?;
    let nics = counters.get("nics").and_then(Value::as_object);
    for (nic, counts) in nics.context("Counters: no nics")? {
        let drops = counts.get("spoof").and_then(Value::as_u64);
        snapshot
            .spoof_drops
            .insert(nic.clone(), drops.context("Counters: no spoof")?);
    }
    Ok(())
}

/// An agent's pool: NIC, state and key of each address.
pub async fn pool(node: &Node) -> Result<BTreeMap<IpAddr, (String, String, String)>> {
    let address = SocketAddr::from(([127, 0, 0, 1], AGENT_PORT));
    let state = http::get_in_netns(&node.netns(), address, "/debug/state").await?;
    let mut pool = BTreeMap::new();
    for entry in array(&state, "/pool/addresses") {
        let ip = text(entry, "/ip")
            .parse()
            .with_context(|| format!("pool of {}: {entry}", node.name))?;
        pool.insert(
            ip,
            (
                text(entry, "/nic"),
                text(entry, "/state"),
                text(entry, "/key"),
            ),
        );
    }
    Ok(pool)
}

/// Addresses and their NICs by key, and host ports.
type Journal = (
    BTreeMap<String, BTreeMap<IpAddr, String>>,
    BTreeMap<String, String>,
);

fn journal(node: &Node) -> Result<Journal> {
    let dir = node.path("/run/tombolo/journal");
    let mut journal = BTreeMap::new();
    let mut ports = BTreeMap::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        // An entry may be finished and removed between the listing and now.
        let Ok(bytes) = std::fs::read(&path) else {
            continue;
        };
        let value: Value =
            serde_json::from_slice(&bytes).with_context(|| format!("decode {}", path.display()))?;
        if text(&value, "/phase") == "draining" {
            continue;
        }
        let key = ["network", "container_id", "ifname"]
            .map(|f| text(&value, &format!("/key/{f}")))
            .join("/");
        let mut ips = BTreeMap::new();
        for address in array(&value, "/addresses") {
            ips.insert(
                text(address, "/ip")
                    .parse()
                    .with_context(|| format!("{}: {address}", path.display()))?,
                text(address, "/nic"),
            );
        }
        journal.insert(key, ips);
        ports.extend(host_ports::of_journal(&value).with_context(|| path.display().to_string())?);
    }
    Ok((journal, ports))
}

fn kernel(node: &Node) -> Result<KernelView> {
    let netns = node.netns();
    let mut view = KernelView::default();
    for link in ip_json(&netns, &["link", "show"])? {
        if text(&link, "/ifname").starts_with("tmb") && text(&link, "/group") != "29796" {
            view.host_ends.insert(text(&link, "/ifname"));
        }
    }
    for (family, flag) in [("IPv4", "-4"), ("IPv6", "-6")] {
        for neighbour in ip_json(&netns, &[flag, "neigh", "show", "nud", "permanent"])? {
            let dev = text(&neighbour, "/dev");
            if dev.starts_with("tmb") {
                view.neighbours.insert(
                    text(&neighbour, "/dst")
                        .parse()
                        .with_context(|| format!("neighbour {neighbour}"))?,
                    dev,
                );
            }
        }
        let rules = ip_json(&netns, &[flag, "rule", "show"])?;
        let ours = rules
            .iter()
            .filter(|r| text(r, "/protocol") == "116")
            .filter_map(|r| {
                Some((
                    u32::try_from(r.get("priority")?.as_u64()?).ok()?,
                    r.to_string(),
                ))
            });
        view.rules.insert(family.to_owned(), ours.collect());
        for route in ip_json(&netns, &[flag, "route", "show", "table", "all"])? {
            let table: u32 = text(&route, "/table").parse().unwrap_or_default();
            if table == 990 {
                let dst = text(&route, "/dst");
                // With -N the type is a number: RTN_UNREACHABLE is 7.
                if ["unreachable", "7"].contains(&text(&route, "/type").as_str()) {
                    view.unreachable.extend(covered(&dst)?);
                } else {
                    let ip = dst.split('/').next().unwrap_or_default().parse();
                    let ip = ip.with_context(|| format!("route {route}"))?;
                    view.routes.insert(ip, text(&route, "/dev"));
                }
            }
            let ours = text(&route, "/protocol") == "116";
            if ours && (1001..=1254).contains(&table) && text(&route, "/dst") == "default" {
                view.nic_tables.insert((table, family.to_owned()));
            }
        }
    }
    for map in ["pods4", "pods6"] {
        sources(&netns, map, &mut view)?;
    }
    host_ports::of_kernel(&netns, &mut view)?;
    pod_addresses(node, &mut view)?;
    Ok(view)
}

fn sources(netns: &str, map: &str, view: &mut KernelView) -> Result<()> {
    let mut command = in_netns(netns, "nft");
    command.args(["-j", "list", "map", "inet", "tombolo", map]);
    let value: Value =
        serde_json::from_str(&output(command)?).with_context(|| format!("decode nft map {map}"))?;
    for object in array(&value, "/nftables") {
        for element in array(object, "/map/elem") {
            let concat: Vec<String> = array(element, "/0/concat")
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            let (Some(end), Some(ip)) = (concat.first(), concat.get(1)) else {
                anyhow::bail!("map {map}: element {element}")
            };
            let mark = element
                .get(1)
                .and_then(Value::as_u64)
                .with_context(|| format!("map {map}: element {element}"))?;
            let ip = ip
                .parse()
                .with_context(|| format!("map {map}: element {element}"))?;
            view.sources
                .insert(ip, (end.clone(), u32::try_from(mark).context("mark")?));
        }
    }
    Ok(())
}

/// Addresses in the pods' namespaces, which the kubelet stand-in keeps below the node's private /run/netns.
fn pod_addresses(node: &Node, view: &mut KernelView) -> Result<()> {
    let dir = node.path("/run/netns");
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A namespace may go between the listing and now; a file that is no namespace is one being made.
        let Ok(links) = ip_json(
            &entry.path().to_string_lossy(),
            &["address", "show", "scope", "global"],
        ) else {
            continue;
        };
        for link in &links {
            // What the filter leaves out comes as an empty object.
            for address in array(link, "/addr_info").filter(|a| a.get("local").is_some()) {
                view.pod_addresses.insert(
                    text(address, "/local")
                        .parse()
                        .with_context(|| format!("address {address}"))?,
                    name.clone(),
                );
            }
        }
    }
    Ok(())
}

/// `ip -j -d …` in a namespace.
pub fn ip_json(netns: &str, args: &[&str]) -> Result<Vec<Value>> {
    let mut command = in_netns(netns, "ip");
    command.args(["-N", "-d", "-j"]).args(args);
    let text = output(command)?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).with_context(|| format!("decode `ip {}`", args.join(" ")))
}

fn array<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn addresses(value: &Value, pointer: &str) -> BTreeSet<IpAddr> {
    array(value, pointer)
        .filter_map(|v| v.as_str()?.parse().ok())
        .collect()
}

fn full_name(object: &Value) -> String {
    format!(
        "{}/{}",
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    )
}

/// The addresses of a route's destination. A block is at most as large as what a node holds.
fn covered(dst: &str) -> Result<Vec<IpAddr>> {
    let address: Result<IpAddr, _> = dst.parse();
    let net = address.map_or_else(|_| dst.parse(), |ip| Ok(IpNet::from(ip)));
    let net: IpNet = net.with_context(|| format!("destination {dst}"))?;
    let host_bits = net.max_prefix_len() - net.prefix_len();
    ensure!(host_bits <= 12, "{dst} is refused as a whole");
    let each = net.subnets(net.max_prefix_len())?;
    Ok(each.map(|one| one.addr()).collect())
}
