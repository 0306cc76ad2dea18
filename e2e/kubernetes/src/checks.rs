//! What must hold on a real cluster, one function each, in the order in which they run.

mod install;
mod nodes;
mod pods;
mod rights;
mod rollout;
mod services;

use anyhow::{Result, bail};

use crate::context::Context;
use crate::report::Report;
use crate::wait;

/// One check.
#[derive(Debug)]
pub struct Check {
    pub name: &'static str,
    /// What holds when it passes.
    pub shows: &'static str,
    /// The oldest Kubernetes, 1.`since`, that can be asked for it.
    since: u32,
    run: fn(&mut Context) -> Result<String>,
}

/// All of them. `install` is run before whatever is asked for.
pub const CHECKS: &[Check] = &[
    Check {
        name: "install",
        shows: "from bare nodes to a network: lease, agents, nodes Ready, taint, in this order",
        since: 0,
        run: install::in_order,
    },
    Check {
        name: "addresses",
        shows: "pods have addresses that the cloud has for their node, on several NICs, and PodEndpoints",
        since: 0,
        run: pods::addresses,
    },
    Check {
        name: "matrix",
        shows: "pods, nodes' pods and VMs reach each other across nodes and NICs without translation",
        since: 0,
        run: pods::matrix,
    },
    Check {
        name: "probes",
        shows: "readiness, liveness and start-up probes by HTTP, TCP and exec",
        since: 0,
        run: pods::probes,
    },
    Check {
        name: "exec",
        shows: "exec and logs",
        since: 0,
        run: pods::exec_and_logs,
    },
    Check {
        name: "host-network",
        shows: "hostNetwork pods have the node's network and nothing of ours",
        since: 0,
        run: pods::host_network,
    },
    Check {
        name: "full-node",
        shows: "20 pods more than max-pods stay Pending and no ADD fails",
        since: 0,
        run: pods::full_node,
    },
    Check {
        name: "cluster-ip",
        shows: "a Service answers pods and nodes, by every backend",
        since: 0,
        run: services::cluster_ip_answers,
    },
    Check {
        name: "node-port",
        shows: "NodePort from outside on every NIC of every node",
        since: 0,
        run: services::node_port_answers,
    },
    Check {
        name: "local",
        shows: "externalTrafficPolicy Local keeps the client's source",
        since: 0,
        run: services::local,
    },
    Check {
        name: "hairpin",
        shows: "a pod reaches itself through its Service",
        since: 0,
        run: services::hairpin,
    },
    Check {
        name: "affinity",
        shows: "sessionAffinity ClientIP",
        since: 0,
        run: services::affinity,
    },
    Check {
        name: "nftables",
        shows: "the last five again with kube-proxy in nftables mode (Kubernetes 1.31)",
        since: 31,
        run: services::nftables,
    },
    Check {
        name: "host-port",
        shows: "hostPort from outside on every NIC, from nodes and pods; a conflict is not scheduled",
        since: 0,
        run: services::host_port,
    },
    Check {
        name: "drain",
        shows: "drained pods run elsewhere, and their addresses are free again",
        since: 0,
        run: nodes::drain,
    },
    Check {
        name: "node-object",
        shows: "a deleted Node whose instance runs costs no address, no NIC, no request",
        since: 0,
        run: nodes::node_object,
    },
    Check {
        name: "rollout",
        shows: "rolling update of the DaemonSet under traffic: no failed request",
        since: 0,
        run: rollout::restart,
    },
    Check {
        name: "upgrade",
        shows: "the previous commit's image and this one under traffic: no failed request",
        since: 0,
        run: rollout::upgrade,
    },
    Check {
        name: "api-away",
        shows: "2 minutes without API server: pods serve, a new one gets its address",
        since: 0,
        run: nodes::api_away,
    },
    Check {
        name: "invalid",
        shows: "invalid objects are refused with the name of the field",
        since: 0,
        run: rights::invalid,
    },
    Check {
        name: "identity",
        shows: "a node's agent writes its own node's objects only",
        since: 0,
        run: rights::identity,
    },
    Check {
        name: "terminated",
        shows: "an instance that is terminated leaves nothing in cloud and API",
        since: 0,
        run: nodes::terminated,
    },
    Check {
        name: "rbac",
        shows: "the verbs that were used are the verbs that are granted",
        since: 0,
        run: rights::rbac,
    },
    Check {
        name: "uninstall",
        shows: "removing Tombolo leaves nothing on nodes",
        since: 0,
        run: install::uninstall,
    },
];

/// Runs the checks, `install` in any case and first. Without it there is nothing to check.
pub fn run(context: &mut Context, only: &[String], report: &mut Report) {
    for check in CHECKS {
        let wanted = only.is_empty()
            || check.name == "install"
            || only.iter().any(|name| name == check.name);
        if !wanted || wait::interrupted() {
            continue;
        }
        if !context.cluster.programs.since(check.since) {
            let needs = format!(
                "{} needs Kubernetes 1.{}, this is 1.{}",
                check.name, check.since, context.cluster.programs.minor
            );
            match only {
                [] => context.notes.push(format!("not checked: {needs}")),
                _ => drop(report.take::<()>(check.name, || bail!(needs))),
            }
            continue;
        }
        let done = report.take(check.name, || Ok(((), (check.run)(context)?)));
        if done.is_none() {
            // Whatever it left half-done, the next one begins with pods that run.
            context.forget_base();
            if check.name == "install" {
                println!("{}", context.cluster.tails());
                break;
            }
        }
    }
    if wait::interrupted() {
        report.take("whole run", interrupted);
    }
    report.notes.append(&mut context.notes);
}

fn interrupted() -> Result<((), String)> {
    bail!("interrupted")
}
