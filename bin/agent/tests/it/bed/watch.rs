//! What the fabric and the node's settings show.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Bed, Pod, in_netns, ip, ip_json};

impl Bed {
    /// From now on the fabric counts what comes from pods: by their own NIC, and by another.
    pub fn count_arrivals(&self) {
        let mut rules = String::new();
        for (link, own) in [("f0", ""), ("f1", "1")] {
            let (other4, other6) = if own.is_empty() {
                ("10.77.1.0/24", "fd77:1::/64")
            } else {
                ("10.77.0.0/24", "fd77::/64")
            };
            rules += &format!(
                "iifname \"{link}\" ip saddr {other4} counter\n iifname \"{link}\" ip6 saddr {other6} counter\n"
            );
        }
        let table = format!(
            "table inet look {{ chain wrong {{ type filter hook prerouting priority -400;\n {rules} }}\n }}"
        );
        in_netns(&self.fabric, "nft", &[&table]);
    }

    /// Packets that came by a NIC that does not own their source.
    pub fn wrong_arrivals(&self) -> u64 {
        packets(&in_netns(
            &self.fabric,
            "nft",
            &["-j", "list", "chain", "inet", "look", "wrong"],
        ))
    }

    /// An address of the world outside the VPC.
    pub fn outside(&self, address: &str) {
        ip(&self.fabric, &format!("addr add {address} dev lo"));
    }

    /// Counts what comes to the fabric from `source` for `destination`, both IPv4, from now on.
    pub fn count(&self, name: &str, source: &str, destination: &str) {
        let table = format!(
            "table ip {name} {{ chain in {{ type filter hook prerouting priority -400;\n ip saddr {source} ip daddr {destination} counter\n }}\n }}"
        );
        in_netns(&self.fabric, "nft", &[&table]);
    }

    pub fn counted(&self, name: &str) -> u64 {
        packets(&in_netns(
            &self.fabric,
            "nft",
            &["-j", "list", "chain", "ip", name, "in"],
        ))
    }

    /// The rules that the kernel itself made, both families.
    pub fn system_rules(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for family in ["-4", "-6"] {
            let shown = ip_json(&self.node, &format!("{family} rule show"));
            let rules = shown.as_array().unwrap().iter();
            all.extend(
                rules
                    .filter(|rule| rule["protocol"] == "kernel")
                    .cloned()
                    .map(|mut rule| {
                        rule["family"] = family.into();
                        rule
                    }),
            );
        }
        all
    }

    /// A setting of the node below `/proc/sys/net`.
    pub fn setting(&self, path: &str) -> String {
        in_netns(&self.node, "cat", &[&format!("/proc/sys/net/{path}")])
            .trim()
            .to_owned()
    }

    pub fn set(&self, path: &str, value: &str) {
        let script = format!("echo {value} > /proc/sys/net/{path}");
        in_netns(&self.node, "sh", &["-c", &script]);
    }

    /// Addresses on a link of the node that a program gave it.
    pub fn addresses(&self, link: &str) -> Vec<String> {
        let shown = ip_json(&self.node, &format!("addr show dev {link} scope global"));
        // What the filter leaves out is an empty object.
        let links = shown.as_array().unwrap().iter();
        let infos = links.filter_map(|found| found["addr_info"].as_array());
        let mut all: Vec<String> = infos
            .flatten()
            .filter(|info| info["local"].is_string())
            .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
            .collect();
        all.sort();
        all
    }

    /// Words of the problems that the agent names.
    pub fn problems(&self) -> String {
        self.state()["problems"].to_string()
    }

    /// The agent stands still, or goes on.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.agent_pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

/// Sum of all counters in a listing.
fn packets(listing: &str) -> u64 {
    let shown: Value = serde_json::from_str(listing).unwrap();
    let rules = shown["nftables"].as_array().unwrap().iter();
    rules
        .filter_map(|object| object.pointer("/rule/expr"))
        .flat_map(|expr| expr.as_array().unwrap())
        .filter_map(|expr| expr.pointer("/counter/packets"))
        .map(|packets| packets.as_u64().unwrap())
        .sum()
}

/// Pings without end until it is dropped.
pub struct Stream(Child);

impl Pod {
    /// Sends a packet every few milliseconds, whether or not something answers.
    pub fn stream(&self, to: &str) -> Stream {
        let enter = format!("--net=/run/netns/{}", self.netns);
        let mut command = Command::new("nsenter");
        command.args([enter.as_str(), "ping", "-n", "-q", "-i", "0.005", to]);
        Stream(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
