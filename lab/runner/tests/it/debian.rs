//! Debian's reference plugins in real namespaces. Everything happens inside a host namespace of the test's own, so that
//! bridges, routes and NAT rules cannot leak.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tombolo_lab_runner::cni::{NetworkList, Runner, RuntimeConf};

use crate::netns::Temporary;
use crate::privilege::available;

const BIN: &str = "/usr/lib/cni";

/// A "host" and a pod, and the runner called inside the host.
struct Node {
    host: Temporary,
    pod: Temporary,
    state: tempfile::TempDir,
}

impl Node {
    fn new(name: &str) -> Self {
        let (host, pod) = (
            Temporary::new(&format!("{name}-h")),
            Temporary::new(&format!("{name}-p")),
        );
        Self {
            host,
            pod,
            state: tempfile::tempdir().unwrap(),
        }
    }

    fn runner(&self) -> Runner {
        Runner::new(&[PathBuf::from(BIN)]).with_cache(self.state.path())
    }

    fn rt(&self) -> RuntimeConf {
        let (container_id, netns) = (format!("tst{}", std::process::id()), self.pod.path());
        RuntimeConf {
            container_id,
            netns,
            ifname: "eth0".into(),
            ..RuntimeConf::default()
        }
    }

    fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        self.host.0.run(f).unwrap()
    }

    fn addresses(netns: &Temporary, ifname: &str) -> Vec<String> {
        let show = || {
            Command::new("ip")
                .args(["-j", "address", "show", "dev", ifname])
                .output()
                .unwrap()
                .stdout
        };
        let links: Value = serde_json::from_slice(&netns.0.run(show).unwrap()).unwrap_or(json!([]));
        let infos = links[0]["addr_info"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        infos
            .iter()
            .map(|info| info["local"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn dual_stack_ipam(state: &Path) -> Value {
    let range = |subnet: &str| json!([{ "subnet": subnet }]);
    json!({
        "type": "host-local", "dataDir": state.join("ipam"),
        "ranges": [range("10.99.0.0/24"), range("fd99::/64")],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
    })
}

fn network(name: &str, plugins: &[Value]) -> NetworkList {
    let conf = json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins });
    NetworkList::parse(conf.to_string().as_bytes()).unwrap()
}

fn add_check_del(node: &Node, list: &NetworkList, host_link: Option<&str>) {
    let (runner, rt) = (node.runner(), node.rt());
    let result = node.inside(|| runner.add(list, &rt, None)).unwrap();
    let given: Vec<_> = result["ips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ip| ip["address"].as_str().unwrap())
        .collect();
    assert_eq!(given.len(), 2, "{result}");
    let seen = Node::addresses(&node.pod, "eth0");
    for address in &given {
        assert!(
            seen.contains(&address.split('/').next().unwrap().to_owned()),
            "{address} in {seen:?}"
        );
    }
    if let Some(link) = host_link {
        assert!(!Node::addresses(&node.host, link).is_empty(), "{link}");
    }
    node.inside(|| runner.check(list, &rt)).unwrap();
    assert_eq!(runner.cached(list, &rt).unwrap().unwrap().result, result);

    // A pod that lost its addresses does not pass.
    node.pod
        .0
        .run(|| {
            Command::new("ip")
                .args(["address", "flush", "dev", "eth0"])
                .status()
                .unwrap()
        })
        .unwrap();
    let error = node.inside(|| runner.check(list, &rt)).unwrap_err();
    assert!(error.full().contains("failed (CHECK)"), "{}", error.full());

    for _ in 0..2 {
        node.inside(|| runner.del(list, &rt)).unwrap();
        assert_eq!(Node::addresses(&node.pod, "eth0"), Vec::<String>::new());
    }
    assert_eq!(runner.cached(list, &rt).unwrap(), None);
}

#[test]
fn ptp_with_host_local() {
    if !available(
        "ptp_with_host_local",
        &["/usr/lib/cni/ptp", "/usr/lib/cni/host-local"],
    ) {
        return;
    }
    let node = Node::new("ptp");
    let ptp = json!({ "type": "ptp", "ipam": dual_stack_ipam(node.state.path()) });
    add_check_del(&node, &network("ptp-net", &[ptp]), None);
    let left = std::fs::read_dir(node.state.path().join("ipam/ptp-net")).unwrap();
    let left: Vec<_> = left
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        left.iter()
            .all(|name| name.starts_with("last_reserved_ip") || name == "lock"),
        "{left:?}"
    );
}

#[test]
fn bridge_then_tuning() {
    if !available(
        "bridge_then_tuning",
        &["/usr/lib/cni/bridge", "/usr/lib/cni/tuning"],
    ) {
        return;
    }
    let node = Node::new("br");
    let bridge = json!({ "type": "bridge", "bridge": "tst-br0", "isGateway": true, "ipam": dual_stack_ipam(node.state.path()) });
    let tuning = json!({ "type": "tuning", "dataDir": node.state.path() });
    add_check_del(
        &node,
        &network("br-net", &[bridge, tuning]),
        Some("tst-br0"),
    );
}

#[test]
fn loopback_and_versions() {
    if !available("loopback_and_versions", &["/usr/lib/cni/loopback"]) {
        return;
    }
    let node = Node::new("lo");
    let list = network("lo-net", &[json!({ "type": "loopback" })]);
    let rt = RuntimeConf {
        ifname: "lo".into(),
        ..node.rt()
    };
    let result = node.inside(|| node.runner().add(&list, &rt, None)).unwrap();
    assert_eq!(result["interfaces"][0]["name"], "lo");
    node.inside(|| node.runner().del(&list, &rt)).unwrap();
    let versions = node.runner().version("loopback").unwrap();
    assert!(
        versions["supportedVersions"]
            .as_array()
            .unwrap()
            .contains(&json!("1.0.0"))
    );
}

#[test]
fn a_refusal_of_a_real_plugin_is_understood() {
    if !available(
        "a_refusal_of_a_real_plugin_is_understood",
        &["/usr/lib/cni/ptp"],
    ) {
        return;
    }
    let node = Node::new("bad");
    let list = network(
        "bad-net",
        &[json!({ "type": "ptp", "ipam": { "type": "absent-ipam" } })],
    );
    let error = node
        .inside(|| node.runner().add(&list, &node.rt(), None))
        .unwrap_err();
    assert!(
        error.plugin_error().unwrap().msg.contains("absent-ipam"),
        "{}",
        error.full()
    );
}
