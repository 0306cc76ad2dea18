//! The node that the plugin works on: a namespace with two NICs, and one behind them that delivers by the owner of an address,
//! as a VPC does.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::tools::{ip_batch, ip_json, run, wait_until};

/// Addresses of each family on each NIC for pods of our own node.
const ADDRESSES: u8 = 6;
const MACS: [&str; 2] = ["02:77:00:00:00:00", "02:77:00:00:00:01"];
/// The node's address, as seen from the fabric.
pub const NODE: &str = "10.77.0.10";
/// Addresses of the fabric, one of each family.
pub const OUTSIDE: [&str; 2] = ["10.77.0.1", "fd77:0::1"];

/// Both namespaces; they go with it.
#[derive(Debug)]
pub struct Fabric {
    names: [String; 2],
}

impl Fabric {
    /// Makes both.
    ///
    /// # Errors
    /// Where that is not possible here.
    pub fn new(id: &str) -> Result<Self> {
        let fabric = Self {
            names: [format!("{id}-n"), format!("{id}-f")],
        };
        for name in &fabric.names {
            run("ip", &["netns", "add", name])?;
        }
        let (node, outside) = (fabric.node(), fabric.outside());
        let mut links = "link set lo up\n".to_owned();
        let mut far = links.clone();
        for (n, mac) in MACS.iter().enumerate() {
            let peer = &fabric.names[1];
            links +=
                &format!("link add eth{n} address {mac} type veth peer name f{n} netns {peer}\n");
            far += &format!(
                "link set f{n} addrgenmode none\nlink set f{n} up\naddr add 10.77.{n}.1/24 dev f{n}\n"
            );
            far += &format!(
                "addr add fd77:{n}::1/64 dev f{n} nodad\naddr add fe80::77/64 dev f{n} nodad\n"
            );
            for address in addresses(n) {
                far += &format!("route replace {address} dev f{n}\n");
                far += &format!("neigh replace {address} lladdr {mac} dev f{n} nud permanent\n");
            }
        }
        ip_batch(&node, &links)?;
        ip_batch(&outside, &far)?;
        let dad = "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad";
        run(
            "nsenter",
            &[&format!("--net={}", node.display()), "sh", "-c", dad],
        )?;
        let primary = format!(
            "link set eth0 up\naddr add {NODE}/24 dev eth0\naddr add fd77:0::10/64 dev eth0 nodad\n\
             route add default via {}\nroute add default via {}\n",
            OUTSIDE[0], OUTSIDE[1]
        );
        ip_batch(&node, &primary)?;
        // The pods of plugins that bring their own ranges are behind the node.
        let mut behind = String::new();
        for third in [88, 89] {
            behind += &format!(
                "route add 10.{third}.0.0/16 via {NODE}\nroute add fd{third}::/64 via fd77:0::10\n"
            );
        }
        ip_batch(&outside, &behind)?;
        Ok(fabric)
    }

    /// File of the node's namespace.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.names[0])
    }

    /// File of the fabric's namespace.
    #[must_use]
    pub fn outside(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.names[1])
    }

    /// Until the kernel's link watch has seen all carriers, it drops what the links send.
    ///
    /// # Errors
    /// Where they do not come up.
    pub fn await_carrier(&self, nics: usize) -> Result<()> {
        for (netns, prefix) in [(self.node(), "eth"), (self.outside(), "f")] {
            wait_until("carriers of the node's NICs", || {
                let links = ip_json(&netns, "link show")?;
                let up = |n| {
                    let name = format!("{prefix}{n}");
                    links
                        .iter()
                        .any(|link| link["ifname"] == name.as_str() && link["operstate"] == "UP")
                };
                Ok((0..nics).all(up))
            })?;
        }
        Ok(())
    }

    /// The node's specification for our agent.
    #[must_use]
    pub fn specification() -> Value {
        let nic = |n: usize| {
            json!({
                "id": format!("eni-{n}"), "mac": MACS[n], "deviceIndex": n, "subnet": format!("s-{n}"),
                "cidr4": format!("10.77.{n}.0/24"), "cidr6": format!("fd77:{n}::/64"),
                "gateway4": format!("10.77.{n}.1"), "gateway6": "fe80::77",
                "primary4": format!("10.77.{n}.10"), "primary6": format!("fd77:{n}::10"),
                "mtu": 1500, "addresses": addresses(n),
            })
        };
        json!({
            "instanceId": "i-1", "instanceType": "t", "zone": "z",
            "profile": {
                "name": "default", "ipFamilies": "DualStack", "snat": true,
                "pool": {"warmMin": 0, "warmMax": 1, "coolingSeconds": 0, "churnWindowSeconds": 1, "waitSeconds": 2},
            },
            "limits": {"maxNics": 2, "ipv4PerNic": 50, "ipv6PerNic": 50},
            "vpcCidrs": ["10.77.0.0/16", "fd77::/32"],
            "nics": [nic(0), nic(1)],
        })
    }
}

/// Addresses for pods on a NIC.
fn addresses(nic: usize) -> Vec<String> {
    let pair = |n: u8| {
        [
            format!("10.77.{nic}.{}", 100 + n),
            format!("fd77:{nic}::{:x}", 0x100 + u16::from(n)),
        ]
    };
    (0..ADDRESSES).flat_map(pair).collect()
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for name in &self.names {
            drop(run("ip", &["netns", "del", name]));
        }
    }
}
