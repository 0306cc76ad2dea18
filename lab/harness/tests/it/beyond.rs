//! A network outside the VPC that the VPC reaches without translation, as by a peering or a VPN: two hops from the router,
//! the first of them narrower than both ends.
//!
//! ```text
//!   VPC router ── 1400 ── middle ── 9001 ── far
//! ```

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tombolo_lab::node::{in_netns, output};
use tombolo_lab::probe::Report;
use tombolo_lab::state::Lab;

use crate::support::{in_ns, probe};

/// Addresses of the far end.
pub const FAR: [&str; 2] = ["172.31.9.2", "fd99:31::2"];
/// The narrow hop's MTU in bytes.
const NARROW: u32 = 1400;

pub struct Beyond {
    middle: String,
    far: String,
    child: Option<Child>,
}

impl Beyond {
    pub fn new(lab: &Lab) -> Result<Self> {
        let named = |part: &str| format!("tst-{}-{part}", lab.topology.name);
        let fabric = format!("/run/netns/tl-{}-fabric", lab.topology.name);
        let mut this = Self {
            middle: named("middle"),
            far: named("far"),
            child: None,
        };
        for name in [&this.middle, &this.far] {
            host(&["netns", "add", name])?;
            in_ns(&path(name), "ip", &["link", "set", "lo", "up"])?;
            // Else link-local addresses are tentative for a second, and neighbours are not asked.
            let no_detection =
                "for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done";
            in_ns(&path(name), "sh", &["-c", no_detection])?;
        }
        let far = path(&this.far);
        let middle = path(&this.middle);
        let ip = |netns: &str, line: &str| {
            in_ns(netns, "ip", &line.split(' ').collect::<Vec<_>>())
                .with_context(|| line.to_owned())
        };
        ip(
            &fabric,
            &format!(
                "link add beyond0 mtu {NARROW} type veth peer name b0 mtu {NARROW} netns {}",
                this.middle
            ),
        )?;
        ip(
            &middle,
            &format!(
                "link add b1 mtu 9001 type veth peer name eth0 mtu 9001 netns {}",
                this.far
            ),
        )?;
        for (netns, lines) in [
            (
                &fabric,
                &[
                    "addr add 172.30.0.1/30 dev beyond0",
                    "addr add fd99:30::1/64 dev beyond0 nodad",
                    // The fabric's links have none by themselves; without it a router asks for no neighbour.
                    "addr add fe80::1/64 dev beyond0 nodad",
                    "link set beyond0 up",
                    "route add 172.31.9.0/24 via 172.30.0.2",
                    "-6 route add fd99:31::/64 via fd99:30::2",
                ][..],
            ),
            (
                &middle,
                &[
                    "addr add 172.30.0.2/30 dev b0",
                    "addr add fd99:30::2/64 dev b0 nodad",
                    "link set b0 up",
                    "addr add 172.31.9.1/24 dev b1",
                    "addr add fd99:31::1/64 dev b1 nodad",
                    "link set b1 up",
                    "route add default via 172.30.0.1",
                    "-6 route add default via fd99:30::1",
                ],
            ),
            (
                &far,
                &[
                    "addr add 172.31.9.2/24 dev eth0",
                    "addr add fd99:31::2/64 dev eth0 nodad",
                    "link set eth0 up",
                    "route add default via 172.31.9.1",
                    "-6 route add default via fd99:31::1",
                ],
            ),
        ] {
            for line in lines {
                ip(netns, line)?;
            }
        }
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; \
                       echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit";
        in_ns(&middle, "sh", &["-c", forward])?;
        let mut serve = in_netns(&far, probe());
        serve.args(["probe", "serve"]).stdout(Stdio::piped());
        let child = this.child.insert(serve.spawn()?);
        let mut line = String::new();
        let stdout = child.stdout.take().context("its standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.starts_with("serving on"), "{line:?}");
        Ok(this)
    }

    /// Namespace of the far end, a path.
    pub fn far(&self) -> String {
        path(&self.far)
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
        for name in [&self.far, &self.middle] {
            drop(host(&["netns", "del", name]));
        }
    }
}

fn path(name: &str) -> String {
    format!("/run/netns/{name}")
}

fn host(args: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(args);
    output(command)
}

/// One connection from a namespace, with so many bytes to and fro.
pub fn connect(netns: &str, to: IpAddr, port: u16, bytes: usize) -> Result<Report> {
    let mut command = in_netns(netns, probe());
    command.args([
        "probe",
        "connect",
        &SocketAddr::new(to, port).to_string(),
        "--timeout-ms",
        "4000",
        "--bytes",
        &bytes.to_string(),
    ]);
    let text = output(command)?;
    serde_json::from_str(&text).with_context(|| format!("probe to {to}: {text:?}"))
}
