//! Installing and removing, as a user does.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cluster::node::Node;
use crate::command::{in_netns, output};
use crate::context::Context;
use crate::install::{
    AGENT, Manifests, NAMESPACE, OPERATOR, await_nodes, by_the_manual, rolled_out, tainted,
};
use crate::kubectl::{condition, text};
use crate::wait::until;

/// What is seen of one node in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    lease: bool,
    /// The agent answers on its node.
    serves: bool,
    /// It has said so in its object.
    agent: bool,
    ready: bool,
    untainted: bool,
}

impl Seen {
    /// What has no cause yet, if anything.
    fn too_early(self) -> Option<&'static str> {
        match self {
            Self {
                agent: true,
                lease: false,
                ..
            } => Some("an agent is ready before an operator has the lease"),
            Self {
                ready: true,
                serves: false,
                ..
            } => Some("the node is Ready before its agent answers"),
            Self {
                untainted: true,
                agent: false,
                ..
            } => Some("the taint is gone before the agent is ready"),
            _ => None,
        }
    }
}

/// No network at first; then the operator, then agents, then nodes, then pods may come.
pub fn in_order(context: &mut Context) -> Result<String> {
    let kubectl = &context.kubectl;
    for node in kubectl.items(&["get", "nodes"])? {
        ensure!(
            condition(&node, "Ready") != "True",
            "{} is Ready without a network",
            text(&node, "/metadata/name")
        );
        ensure!(
            tainted(&node),
            "{} registered without the taint",
            text(&node, "/metadata/name")
        );
    }
    by_the_manual(context)?;
    let kubectl = &context.kubectl;
    let mut order = Vec::new();
    until("all nodes serve", Duration::from_secs(150), || {
        // From effect to cause: what a later look shows may be newer, and so only better.
        let nodes = kubectl.items(&["get", "nodes"])?;
        let sets = kubectl.items(&["get", "netresourcesets"])?;
        let leases = kubectl.items(&["-n", NAMESPACE, "get", "leases"])?;
        let lease = leases.iter().any(|l| {
            text(l, "/metadata/name") == OPERATOR && !text(l, "/spec/holderIdentity").is_empty()
        });
        let mut done = true;
        for node in &nodes {
            let name = text(node, "/metadata/name");
            let set = sets.iter().find(|s| text(s, "/metadata/name") == name);
            let machine = &context.cluster.node(name)?.machine;
            let mut asked = in_netns(&machine.netns, "curl");
            asked.args(["--silent", "--fail", "http://127.0.0.1:9810/readyz"]);
            let seen = Seen {
                lease,
                serves: output(&mut asked).is_ok(),
                agent: set.is_some_and(|s| condition(s, "Ready") == "True"),
                ready: condition(node, "Ready") == "True",
                untainted: !tainted(node),
            };
            order.extend(seen.too_early().map(|why| format!("{name}: {why}")));
            done &= seen
                == Seen {
                    lease: true,
                    serves: true,
                    agent: true,
                    ready: true,
                    untainted: true,
                };
        }
        if !done {
            bail!("not all nodes serve");
        }
        Ok(())
    })?;
    ensure!(order.is_empty(), "out of order: {order:?}");
    await_nodes(kubectl, context.cluster.nodes.len())?;
    rolled_out(kubectl, &format!("daemonset/{AGENT}"))?;
    rolled_out(kubectl, &format!("deployment/{OPERATOR}"))?;
    Ok("by the commands of README.md: lease, agents, nodes Ready, taint gone".to_owned())
}

/// As the manual says: drained, the overlay deleted, `deploy/uninstall` applied and deleted.
pub fn uninstall(context: &mut Context) -> Result<String> {
    let kubectl = context.kubectl.clone();
    for app in ["wide", "far"] {
        kubectl.clear(app)?;
    }
    context.forget_base();
    let manifests = Manifests::existing(&context.cluster);
    manifests.kubectl(&kubectl, "delete", "lab")?;
    let of_ours = [
        "-n",
        NAMESPACE,
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/part-of=tombolo",
        "-o",
        "name",
    ];
    let gone = |what: &str| {
        until(what, Duration::from_secs(60), || {
            let left = kubectl.run(&of_ours)?;
            ensure!(left.trim().is_empty(), "still there: {left}");
            Ok(())
        })
    };
    gone("pods of operator and agents are gone")?;
    manifests.kubectl(&kubectl, "apply", "../uninstall")?;
    rolled_out(&kubectl, "daemonset/tombolo-uninstall")?;
    manifests.kubectl(&kubectl, "delete", "../uninstall")?;
    gone("pods of uninstall are gone")?;
    for node in &context.cluster.nodes {
        let left = left_on(node)?;
        ensure!(left.is_empty(), "on {}: {left:?}", node.spec.name);
    }
    Ok(format!(
        "{} nodes: no table, rule, route, link or file; the ledger of NICs stays (docs/adr/0011)",
        context.cluster.nodes.len()
    ))
}

/// What a node has of ours, read by tools of others.
fn left_on(node: &Node) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let ours = [
        "tombolo",
        "tmb",
        "lookup 990",
        "lookup 1001",
        "lookup 1002",
        "0xb0",
    ];
    for command in [
        &["nft", "list", "tables"][..],
        &["ip", "-4", "rule"],
        &["ip", "-6", "rule"],
        &["ip", "-o", "link"],
        &["ls", "/etc/cni/net.d", "/opt/cni/bin"],
    ] {
        let (program, args) = command.split_first().context("no command")?;
        let text = output(node.enter(program).args(args))?;
        left.extend(
            text.lines()
                .filter(|l| ours.iter().any(|o| l.contains(o)))
                .map(str::to_owned),
        );
    }
    for family in ["-4", "-6"] {
        let routes = output(
            node.enter("ip")
                .args([family, "route", "show", "table", "all", "proto", "116"]),
        )?;
        left.extend(routes.lines().map(str::to_owned));
    }
    let state = node.path("/run/tombolo");
    for entry in std::fs::read_dir(&state).into_iter().flatten() {
        left.push(
            entry
                .context("read /run/tombolo")?
                .path()
                .display()
                .to_string(),
        );
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::Seen;

    #[test]
    fn an_effect_before_its_cause_is_told() {
        let seen = |bits: u8| Seen {
            lease: bits & 1 != 0,
            agent: bits & 2 != 0,
            ready: bits & 4 != 0,
            untainted: bits & 8 != 0,
            serves: bits & 16 != 0,
        };
        for good in [
            0b00000, 0b00001, 0b10000, 0b10001, 0b10100, 0b10011, 0b10111, 0b11111, 0b11011,
        ] {
            assert_eq!(seen(good).too_early(), None, "{good:05b}");
        }
        for bad in [0b00010, 0b10010, 0b00100, 0b00111, 0b11001, 0b11110] {
            assert!(seen(bad).too_early().is_some(), "{bad:05b}");
        }
    }
}
