//! A node with two NICs on a fabric, the agent in it, and pods' namespaces. Everything carries the process id in its name
//! and goes when the bed is dropped.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tombolo_rpc as rpc;

mod agree;
mod doom;
mod kernel;
mod process;
pub mod talk;
mod tools;
mod watch;

pub use doom::{orders, points};
use process::Agent;
pub use tools::{in_netns, ip, ip_json, wait_until};
use tools::{ping, run};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether the test can run here. In CI it must.
pub fn possible(test: &str) -> bool {
    let missing = ["ip", "nft", "nsenter", "ping"].into_iter().find(|tool| {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {tool}")])
            .stdout(Stdio::null())
            .status();
        !found.is_ok_and(|status| status.success())
    });
    let reason = match missing {
        Some(tool) => format!("there is no {tool}"),
        None if !rustix::process::geteuid().is_root() => "needs root".to_owned(),
        None => return true,
    };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test}: {reason}"
    );
    println!("SKIP {test}: {reason}");
    false
}

pub struct Bed {
    pub node: String,
    pub fabric: String,
    pods: Vec<String>,
    pub dir: tempfile::TempDir,
    agent: Option<Agent>,
    pub spec: Value,
}

/// A pod's namespace, held open as the plugin does.
pub struct Pod {
    pub netns: String,
    file: std::fs::File,
    pub id: String,
    pub network: String,
    pub ifname: String,
    /// What its ADD asks for.
    pub host_ports: Vec<rpc::PortMapping>,
}

pub const NIC_MACS: [&str; 2] = ["02:77:00:00:00:00", "02:77:00:00:00:01"];

impl Bed {
    /// Node and fabric, with this many addresses a family for pods on each NIC.
    pub fn new(addresses: u8) -> Self {
        let id = format!(
            "tst-agent-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut bed = Self {
            node: format!("{id}-n"),
            fabric: format!("{id}-f"),
            pods: Vec::new(),
            dir: tempfile::tempdir().unwrap(),
            agent: None,
            spec: Value::Null,
        };
        for netns in [&bed.node, &bed.fabric] {
            run("ip", &["netns", "add", netns]);
            ip(netns, "link set lo up");
        }
        for (index, mac) in NIC_MACS.iter().enumerate() {
            let (node, fabric) = (&bed.node, &bed.fabric);
            ip(
                node,
                &format!(
                    "link add eth{index} address {mac} type veth peer name f{index} netns {fabric}"
                ),
            );
            ip(fabric, &format!("link set f{index} up addrgenmode none"));
            ip(fabric, &format!("addr add 10.77.{index}.1/24 dev f{index}"));
            ip(
                fabric,
                &format!("addr add fd77:{index}::1/64 dev f{index} nodad"),
            );
            ip(fabric, &format!("addr add fe80::77/64 dev f{index} nodad"));
        }
        let node = bed.node.clone();
        in_netns(
            &node,
            "sh",
            &["-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad"],
        );
        ip(&node, "link set eth0 up");
        ip(&node, "addr add 10.77.0.10/24 dev eth0");
        ip(&node, "addr add fd77:0::10/64 dev eth0 nodad");
        ip(&node, "route add default via 10.77.0.1");
        ip(&node, "route add default via fd77:0::1");
        let nic = |index: usize| {
            let mut pods = Vec::new();
            for n in 0..addresses {
                pods.push(json!(format!("10.77.{index}.{}", 100 + n)));
                pods.push(json!(format!("fd77:{index}::{:x}", 0x100 + u16::from(n))));
            }
            for ip in &pods {
                bed.route_to_pod(index, ip.as_str().unwrap());
            }
            json!({
                "id": format!("eni-{index}"), "mac": NIC_MACS[index], "deviceIndex": index, "subnet": format!("s-{index}"),
                "cidr4": format!("10.77.{index}.0/24"), "cidr6": format!("fd77:{index}::/64"),
                "gateway4": format!("10.77.{index}.1"), "gateway6": "fe80::77",
                "primary4": format!("10.77.{index}.10"), "primary6": format!("fd77:{index}::10"),
                "mtu": 1500, "addresses": pods,
            })
        };
        bed.spec = json!({
            "instanceId": "i-1", "instanceType": "t", "zone": "z",
            "profile": {
                "name": "default", "ipFamilies": "DualStack", "snat": true,
                "pool": {"warmMin": 0, "warmMax": 1, "coolingSeconds": 1, "churnWindowSeconds": 1, "waitSeconds": 5},
            },
            "limits": {"maxNics": 2, "ipv4PerNic": 50, "ipv6PerNic": 50},
            "vpcCidrs": ["10.77.0.0/16", "fd77::/32"],
            "nics": [nic(0), nic(1)],
        });
        bed.write_spec();
        bed
    }

    /// The fabric delivers by owner, without ARP and ND, as a VPC does.
    fn route_to_pod(&self, index: usize, ip_: &str) {
        let mac = NIC_MACS[index];
        ip(&self.fabric, &format!("route replace {ip_} dev f{index}"));
        ip(
            &self.fabric,
            &format!("neigh replace {ip_} lladdr {mac} dev f{index} nud permanent"),
        );
    }

    pub fn spec_file(&self) -> PathBuf {
        self.dir.path().join("spec/nrs-spec.json")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Writes the specification; a running agent takes it.
    pub fn write_spec(&self) {
        self.write(&self.spec);
    }

    /// Writes another one.
    pub fn write(&self, spec: &Value) {
        let path = self.spec_file();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, spec.to_string()).unwrap();
        std::fs::rename(temporary, path).unwrap();
    }

    /// Until the kernel's link watch has seen all carriers, it drops what these links send.
    pub fn await_carrier(&self) {
        for (netns, name) in [(&self.node, "eth"), (&self.fabric, "f")] {
            let all_up = || {
                let links = ip_json(netns, "link show");
                let count = self.spec["nics"].as_array().unwrap().len();
                let names: Vec<String> = (0..count).map(|n| format!("{name}{n}")).collect();
                let is = |link: &Value, wanted: &String| {
                    link["ifname"] == wanted.as_str() && link["operstate"] == "UP"
                };
                names
                    .iter()
                    .all(|name| links.as_array().unwrap().iter().any(|link| is(link, name)))
            };
            wait_until("carriers", all_up);
        }
    }

    pub fn uninstall(&self) {
        let status = self.command().arg("uninstall").status().unwrap();
        assert!(status.success());
    }

    pub fn pod(&mut self, name: &str) -> Pod {
        let netns = format!("{}-{name}", self.node);
        run("ip", &["netns", "add", &netns]);
        self.pods.push(netns.clone());
        let file = std::fs::File::open(format!("/run/netns/{netns}")).unwrap();
        Pod {
            netns,
            file,
            id: format!("c-{name}"),
            network: "tombolo".to_owned(),
            ifname: "eth0".to_owned(),
            host_ports: Vec::new(),
        }
    }

    pub async fn client(&self) -> rpc::node_client::NodeClient<rpc::Transport> {
        rpc::connect(&self.run_dir().join("agent.sock"))
            .await
            .unwrap()
    }

    pub async fn add(&self, pod: &Pod) -> Result<rpc::Attachment, rpc::Failure> {
        let reply = self
            .client()
            .await
            .add_network(pod.add_request())
            .await
            .unwrap()
            .into_inner();
        match reply.outcome.unwrap() {
            rpc::add_reply::Outcome::Attachment(attachment) => Ok(attachment),
            rpc::add_reply::Outcome::Failure(failure) => Err(failure),
        }
    }

    pub async fn del(&self, pod: &Pod, with_netns: bool) -> Option<rpc::Failure> {
        let mut request = pod.del_request();
        request.netns = request.netns.filter(|_| with_netns);
        self.client()
            .await
            .del_network(request)
            .await
            .unwrap()
            .into_inner()
            .failure
    }

    pub async fn check(&self, pod: &Pod, attachment: &rpc::Attachment) -> Option<rpc::Failure> {
        let addresses = attachment
            .addresses
            .iter()
            .map(|address| address.cidr.clone())
            .collect();
        let request = rpc::CheckRequest {
            protocol: rpc::PROTOCOL,
            key: Some(pod.key()),
            netns: Some(pod.netns_ref()),
            addresses,
        };
        self.client()
            .await
            .check_network(request)
            .await
            .unwrap()
            .into_inner()
            .failure
    }

    /// GC of a network in which only these stand.
    pub async fn gc(&self, network: &str, valid: &[&Pod]) -> Option<rpc::Failure> {
        self.gc_begun(0, network, valid).await
    }

    /// GC by a plugin that began at this time: nanoseconds since boot; 0: does not say.
    pub async fn gc_begun(
        &self,
        begun: u64,
        network: &str,
        valid: &[&Pod],
    ) -> Option<rpc::Failure> {
        let valid = valid.iter().map(|pod| rpc::ValidAttachment {
            container_id: pod.id.clone(),
            ifname: pod.ifname.clone(),
        });
        let request = rpc::GcRequest {
            protocol: rpc::PROTOCOL,
            network: network.to_owned(),
            valid: valid.collect(),
            begun,
        };
        let mut client = self.client().await;
        let reply = client.garbage_collect(request).await.unwrap();
        reply.into_inner().failure
    }

    pub async fn status(&self) -> rpc::StatusReply {
        let protocol = rpc::PROTOCOL;
        let mut client = self.client().await;
        let reply = client.status(rpc::StatusRequest { protocol }).await;
        reply.unwrap().into_inner()
    }

    /// What `/debug/state` says.
    pub fn state(&self) -> Value {
        let netns =
            tombolo_netlink::Netns::open(&PathBuf::from(format!("/run/netns/{}", self.node)))
                .unwrap();
        let mut stream = netns
            .run(|| TcpStream::connect("127.0.0.1:9810"))
            .unwrap()
            .unwrap();
        stream
            .write_all(b"GET /debug/state HTTP/1.0\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// State word of an address in the pool; empty where the pool does not know it.
    pub fn address_state(&self, ip: &str) -> String {
        let state = self.state();
        let all = state["pool"]["addresses"].as_array().unwrap();
        let found = all.iter().find(|address| address["ip"] == ip);
        found
            .map(|address| address["state"].as_str().unwrap().to_owned())
            .unwrap_or_default()
    }

    /// Whether an address answers, asked from the fabric.
    pub fn fabric_reaches(&self, ip_: &str) -> bool {
        ping(&self.fabric, ip_)
    }
}

impl Pod {
    pub fn key(&self) -> rpc::Key {
        rpc::Key {
            network: self.network.clone(),
            container_id: self.id.clone(),
            ifname: self.ifname.clone(),
        }
    }

    /// As files hold it.
    pub fn key_json(&self) -> Value {
        json!({"network": self.network, "container_id": self.id, "ifname": self.ifname})
    }

    /// The same namespace under another container id.
    pub fn under(&self, id: &str) -> Self {
        Self {
            netns: self.netns.clone(),
            file: self.file.try_clone().unwrap(),
            id: id.to_owned(),
            network: self.network.clone(),
            ifname: self.ifname.clone(),
            host_ports: self.host_ports.clone(),
        }
    }

    /// Another interface of the same container, in another network.
    pub fn in_network(&self, network: &str, ifname: &str) -> Self {
        Self {
            network: network.to_owned(),
            ifname: ifname.to_owned(),
            ..self.under(&self.id)
        }
    }

    pub fn netns_ref(&self) -> rpc::NetnsRef {
        let metadata = self.file.metadata().unwrap();
        let path = format!("/run/netns/{}", self.netns);
        rpc::NetnsRef {
            fd: self.file.as_raw_fd(),
            dev: metadata.dev(),
            ino: metadata.ino(),
            path,
        }
    }

    pub fn add_request(&self) -> rpc::AddRequest {
        let pod = rpc::Pod {
            namespace: "default".to_owned(),
            name: self.id.clone(),
            uid: String::new(),
        };
        rpc::AddRequest {
            protocol: rpc::PROTOCOL,
            key: Some(self.key()),
            netns: Some(self.netns_ref()),
            pod: Some(pod),
            timeout_ms: 10_000,
            host_ports: self.host_ports.clone(),
        }
    }

    /// The same pod, with this host port; `host_ip` may be empty.
    pub fn with_port(mut self, protocol: &str, host_ip: &str, ports: (u32, u32)) -> Self {
        self.host_ports.push(rpc::PortMapping {
            host_port: ports.0,
            container_port: ports.1,
            protocol: protocol.to_owned(),
            host_ip: host_ip.to_owned(),
        });
        self
    }

    pub fn del_request(&self) -> rpc::DelRequest {
        rpc::DelRequest {
            protocol: rpc::PROTOCOL,
            key: Some(self.key()),
            netns: Some(self.netns_ref()),
        }
    }

    pub fn reaches(&self, ip_: &str) -> bool {
        ping(&self.netns, ip_)
    }

    pub fn has_interface(&self) -> bool {
        let links = ip_json(&self.netns, "link show");
        links
            .as_array()
            .unwrap()
            .iter()
            .any(|link| link["ifname"] == self.ifname.as_str())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent\n{}", self.log());
            self.dump();
        }
        if let Some(agent) = &mut self.agent {
            drop(agent.child.kill());
            drop(agent.child.wait());
        }
        for netns in self.pods.iter().chain([&self.node, &self.fabric]) {
            drop(Command::new("ip").args(["netns", "del", netns]).status());
        }
    }
}
