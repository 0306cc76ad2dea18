//! Services by the rules of others, in the shape that kube-proxy gives them: a translation of the destination, a mark for
//! what must get the node's source, a chain that lets forwarded packets pass.

use std::net::IpAddr;

use crate::bed::in_netns;

/// A Service with one backend and a port on every node.
#[derive(Clone, Debug)]
pub struct Service {
    pub vip: IpAddr,
    pub backend: IpAddr,
    pub node_port: u16,
    port: u16,
    number: u16,
}

impl Service {
    /// The n-th of its family.
    pub fn new(v6: bool, number: u16, backend: IpAddr, port: u16) -> Self {
        let vip = if v6 {
            IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, 0x10 + number])
        } else {
            IpAddr::V4((0x0a60_0010 + u32::from(number)).into())
        };
        Self {
            vip,
            backend,
            node_port: 30080 + number,
            port,
            number,
        }
    }

    /// Address and port, as programs want them.
    fn backend(&self) -> String {
        let (ip, port) = (self.backend, self.port);
        if ip.is_ipv6() {
            format!("[{ip}]:{port}")
        } else {
            format!("{ip}:{port}")
        }
    }
}

/// Who writes them.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Legacy,
    Nft,
    Native,
}

pub const KINDS: [Kind; 3] = [Kind::Legacy, Kind::Nft, Kind::Native];

impl Kind {
    pub fn install(self, node: &str, services: &[Service]) {
        match self {
            Self::Legacy => iptables(node, "legacy", services),
            Self::Nft => iptables(node, "nft", services),
            Self::Native => {
                in_netns(node, "nft", &[&native(services)]);
            }
        }
    }

    /// What a reload does: everything of theirs, whoever made it.
    pub fn flush(self, node: &str) {
        let variant = match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
            Self::Native => {
                in_netns(node, "nft", &["delete", "table", "inet", "proxy"]);
                return;
            }
        };
        for program in ["iptables", "ip6tables"] {
            for table in ["nat", "filter"] {
                for what in ["-F", "-X"] {
                    in_netns(
                        node,
                        &format!("{program}-{variant}"),
                        &["-w", "-t", table, what],
                    );
                }
            }
        }
        // The reload of a firewall that keeps its rules in tables of its own.
        if variant == "nft" {
            for table in ["ip nat", "ip filter", "ip6 nat", "ip6 filter"] {
                in_netns(node, "nft", &["delete", "table", table]);
            }
        }
    }
}

fn iptables(node: &str, variant: &str, services: &[Service]) {
    for (program, v6) in [("iptables", false), ("ip6tables", true)] {
        let mut nat = vec![
            ":PREROUTING ACCEPT [0:0]".to_owned(),
            ":OUTPUT ACCEPT [0:0]".to_owned(),
            ":POSTROUTING ACCEPT [0:0]".to_owned(),
            ":KUBE-SERVICES - [0:0]".to_owned(),
            ":KUBE-MARK-MASQ - [0:0]".to_owned(),
            ":KUBE-POSTROUTING - [0:0]".to_owned(),
        ];
        let of_family = || services.iter().filter(|one| one.vip.is_ipv6() == v6);
        for Service { number, .. } in of_family() {
            nat.push(format!(":KUBE-SVC-{number} - [0:0]"));
            nat.push(format!(":KUBE-EXT-{number} - [0:0]"));
        }
        let rules = [
            "-A PREROUTING -j KUBE-SERVICES",
            "-A OUTPUT -j KUBE-SERVICES",
            "-A POSTROUTING -j KUBE-POSTROUTING",
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
            "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
        ];
        nat.extend(rules.map(str::to_owned));
        for service in of_family() {
            let Service {
                vip,
                backend,
                node_port,
                port,
                number,
            } = service;
            nat.push(format!(
                "-A KUBE-SVC-{number} -s {backend} -j KUBE-MARK-MASQ"
            ));
            nat.push(format!("-A KUBE-EXT-{number} -j KUBE-MARK-MASQ"));
            nat.push(format!("-A KUBE-EXT-{number} -j KUBE-SVC-{number}"));
            for protocol in ["tcp", "udp"] {
                let to = service.backend();
                nat.push(format!(
                    "-A KUBE-SERVICES -d {vip} -p {protocol} --dport {port} -j KUBE-SVC-{number}"
                ));
                nat.push(format!(
                    "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -p {protocol} --dport {node_port} -j KUBE-EXT-{number}"
                ));
                nat.push(format!(
                    "-A KUBE-SVC-{number} -p {protocol} -j DNAT --to-destination {to}"
                ));
            }
        }
        let filter = [
            ":INPUT ACCEPT [0:0]",
            ":FORWARD ACCEPT [0:0]",
            ":OUTPUT ACCEPT [0:0]",
            ":KUBE-FORWARD - [0:0]",
            "-A FORWARD -j KUBE-FORWARD",
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
            "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ];
        let text = format!(
            "*nat\n{}\nCOMMIT\n*filter\n{}\nCOMMIT\n",
            nat.join("\n"),
            filter.join("\n")
        );
        let script = format!("{program}-{variant}-restore -w <<'END'\n{text}END\n");
        in_netns(node, "sh", &["-c", &script]);
    }
}

/// With maps, as the nftables mode has them.
fn native(services: &[Service]) -> String {
    let mut cluster = String::new();
    let mut masquerade = String::new();
    for service in services {
        let Service {
            vip,
            backend,
            node_port,
            port,
            ..
        } = service;
        let family = if vip.is_ipv6() { "ip6" } else { "ip" };
        let of_family = if vip.is_ipv6() { "ipv6" } else { "ipv4" };
        let to = service.backend();
        masquerade += &format!(
            "{family} daddr {vip} {family} saddr {backend} meta mark set meta mark | 0x4000\n"
        );
        cluster += &format!(
            "{family} daddr {vip} meta l4proto {{ tcp, udp }} th dport {port} dnat {family} to {to}\n"
        );
        cluster += &format!(
            "meta nfproto {of_family} fib daddr type local meta l4proto {{ tcp, udp }} th dport {node_port} meta mark set meta mark | 0x4000 dnat {family} to {to}\n"
        );
    }
    format!(
        "table inet proxy {{
           chain services {{\n{masquerade}{cluster}}}
           chain pre {{ type nat hook prerouting priority dstnat; jump services; }}
           chain out {{ type nat hook output priority -100; jump services; }}
           chain post {{ type nat hook postrouting priority srcnat; meta mark & 0x4000 == 0x4000 masquerade fully-random; }}
           chain forward {{ type filter hook forward priority filter; ct state invalid drop; }}
         }}"
    )
}
