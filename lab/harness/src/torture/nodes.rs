//! What is done to a node: kernel state flushed, files deleted, everything ended at once as by a reboot.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::step::Flushed;
use crate::node::{in_netns, output};
use crate::process::Process;
use crate::state::{Lab, Node};
use crate::up;

/// Our protocol number on rules and routes, as `ip` takes it.
const OURS: &str = "116";

/// Deletes kernel state, with the tools that an administrator would use.
pub fn flush(node: &Node, what: Flushed) -> Result<()> {
    let netns = node.netns();
    let run = |program: &str, args: &[&str]| -> Result<()> {
        let mut command: Command = in_netns(&netns, program);
        command.args(args);
        output(command).map(drop)
    };
    match what {
        Flushed::Rules4 => run("ip", &["-4", "rule", "flush", "protocol", OURS]),
        Flushed::Rules6 => run("ip", &["-6", "rule", "flush", "protocol", OURS]),
        Flushed::AllRules4 => run("ip", &["-4", "rule", "flush"]),
        Flushed::AllRules6 => run("ip", &["-6", "rule", "flush"]),
        Flushed::Routes => ["-4", "-6"].iter().try_for_each(|family| {
            run(
                "ip",
                &[family, "route", "flush", "table", "all", "proto", OURS],
            )
        }),
        // Either may just be missing, and `destroy` is unknown to nft before 1.0.7.
        Flushed::Tables => ["inet", "arp"].iter().try_for_each(|family| {
            let table = format!("table {family} tombolo");
            run("nft", &[&format!("add {table}; delete {table}")])
        }),
        Flushed::Ruleset => run("nft", &["flush", "ruleset"]),
        Flushed::Neighbours => ["-4", "-6"]
            .iter()
            .try_for_each(|family| run("ip", &[family, "neigh", "flush", "nud", "permanent"])),
    }
}

/// Kills a node's agent, if one runs.
pub fn stop_agent(lab: &Lab, node: usize) -> Result<()> {
    let agent = lab.nodes[node].agent.as_ref();
    agent.context("the node has no agent")?.kill()
}

/// Ends a node's agent in some way and starts a new one.
pub fn replace_agent(
    lab: &mut Lab,
    node: usize,
    end: impl Fn(&Process) -> Result<()>,
) -> Result<()> {
    let agent = lab.nodes[node].agent.as_ref();
    end(agent.context("the node has no agent")?)?;
    lab.nodes[node].agent = Some(up::start_agent(lab, &lab.nodes[node])?);
    lab.save()
}

/// The kubelet stand-in begins anew; what runs goes on.
pub fn restart_kubelet(lab: &mut Lab, node: usize) -> Result<()> {
    let kubelet = lab.nodes[node].kubelet.as_ref();
    kubelet
        .context("the node has no kubelet")?
        .end(Duration::from_secs(10))?;
    lab.nodes[node].kubelet = Some(up::start_kubelet(lab, &lab.nodes[node])?);
    lab.save()
}

/// The agent dies, and its journal with it.
pub fn lose_journal(lab: &mut Lab, node: usize) -> Result<()> {
    let journal = lab.nodes[node].path("/run/tombolo/journal");
    replace_agent(lab, node, |agent| {
        agent.kill()?;
        match std::fs::remove_dir_all(&journal) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
        .with_context(|| format!("remove {}", journal.display()))
    })
}

/// What a reboot leaves of a node's namespaces: the primary NIC as the operating system configures it, other NICs as
/// plugged, `/run` as installed, nothing of what programs set.
const BOOT: &str = r#"set -e
for each in /run/netns/*; do [ ! -e "$each" ] || ip netns delete "${each##*/}"; done
find /run -mindepth 1 -maxdepth 1 ! -name cni ! -name lab ! -name netns -exec rm -rf {} +
nft flush ruleset
conntrack -F >/dev/null 2>&1 || true
for family in -4 -6; do
  ip $family rule flush protocol 116
  ip $family rule add priority 32766 lookup main protocol kernel 2>/dev/null || true
  # Routes go with the links of the namespaces just deleted, and ip stops at one that went before it: it begins again.
  for attempt in 1 2 3 4 5; do ! ip $family route flush table all proto 116 2>/dev/null || break; done
  [ -z "$(ip $family route show table all proto 116)" ]
done
sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
others=$(ip -br link show type veth | sed -n 's/^\(eth[1-9][0-9]*\)@.*/\1/p')
for link in $others; do ip address flush dev "$link"; ip link set "$link" down; done
set -- $others
if [ $# -ge 2 ]; then
  ip link set "$1" name swapped
  ip link set "$2" name "$1"
  ip link set swapped name "$2"
fi
"#;

/// Ends everything on a node and boots it anew.
pub fn reboot(lab: &mut Lab, node: usize) -> Result<()> {
    let which = &lab.nodes[node];
    for process in [&which.kubelet, &which.agent].into_iter().flatten() {
        process.kill()?;
    }
    up::kill_namespace(which)?;
    let mut boot = which.command("sh");
    boot.args(["-c", BOOT]);
    output(boot).with_context(|| format!("boot {}", which.name))?;
    // The runtime is ready before the agent is.
    lab.nodes[node].kubelet = Some(up::start_kubelet(lab, &lab.nodes[node])?);
    lab.nodes[node].agent = Some(up::start_agent(lab, &lab.nodes[node])?);
    lab.save()
}
