//! Keeps the node's kernel state as it should be: compares the whole node, repairs the difference, and tells the pool
//! which NICs it may use. One task; asked by the specification, by kernel notifications ([`crate::watch`]) and by a clock.
//!
//! ```text
//!   plan + links ── join ──▶ NICs ─┐
//!   records ───────────────────────┴─ desired ──▶ diff with what is there ──▶ empty: done
//!                                                        └─▶ again with the gate closed ──▶ apply
//! ```
//! The first look is made with the gate open: it may meet a pod half-way and see a difference that is none. Only what a
//! second look, with the gate closed, still shows is changed. Where nobody went through the gate meanwhile, the first look
//! met no pod half-way, and counts as the second. What is refused is looked at once more before it is called a problem.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::MissedTickBehavior;
use tombolo_core::datapath::conventions::nic_alias;
use tombolo_core::datapath::diff::{Op, plan as plan_ops};
use tombolo_core::datapath::system_rules::{self, SystemRule};
use tombolo_core::datapath::{Endpoint, NodeInput, NodeState, RouteKind, desired};
use tombolo_core::ipam::{Input, NicSupply};
use tombolo_core::types::{Nic, Reason};
use tombolo_netlink::link::{self, Link};
use tombolo_netlink::{Error as NetlinkError, Kernel, Observation, Request, rule, wire};
use tracing::{debug, error, info, warn};

use crate::conflicts;
use crate::detach;
use crate::error::Error;
use crate::firewall;
use crate::host_ports;
use crate::join::{Joined, join};
use crate::journal::{Phase, Record};
use crate::kernel_rules;
use crate::lost;
use crate::node::{Node, Orphan, Problem, Wired};
use crate::originals;
use crate::pod_mtu;
use crate::reaper;
use crate::scrub;
use crate::spec::Plan;
use crate::steps;

/// Runs until the node is gone. The caller made the first pass.
pub async fn run(node: Arc<Node>) {
    let mut clock = tokio::time::interval(node.config.resync);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock.tick().await;
    loop {
        tokio::select! {
            () = node.repair.notified() => {}
            _ = clock.tick() => {
                if let Err(error) = scrub::sweep(&node).await {
                    error!(error = error.chain(), reason = %error.reason(), "connections of addresses without pod");
                    node.metrics.failed("sweep", error.reason());
                }
            }
        }
        if let Err(error) = pass(&node).await {
            error!(error = error.chain(), reason = %error.reason(), "comparison with the kernel");
            node.metrics.failed("resync", error.reason());
        }
    }
}

/// One comparison and repair of everything.
pub async fn pass(node: &Arc<Node>) -> Result<(), Error> {
    let Some(plan) = node.plan.borrow().clone() else {
        return kernel_rules::undescribed(node).await;
    };
    let started = Instant::now();
    let quiet = node.gate.quiet();
    let first = look(node, &plan).await?;
    let found = if first.is_settled() {
        first
    } else {
        let _closed = node.gate.write().await;
        let second = match quiet {
            Some(since) if node.gate.still(since) => first,
            _ => look(node, &plan).await?,
        };
        if second.is_settled() {
            second
        } else {
            settle(node, &plan, second).await?
        }
    };
    node.metrics.resynced(started.elapsed());
    finish(node, plan, found).await
}

/// What one look found.
struct Found {
    joined: Joined,
    ops: Vec<Op>,
    /// NICs that do not yet carry our alias.
    aliases: Vec<(u32, String)>,
    /// Rules that carry our mark and that no build of today writes.
    leftovers: Vec<Request>,
    /// The kernel's own rules that somebody flushed.
    system_rules: Vec<SystemRule>,
    /// Ready attachments whose link is gone.
    lost: Vec<Record>,
    /// Orphans whose link is gone.
    departed: Vec<u32>,
}

impl Found {
    const fn is_settled(&self) -> bool {
        self.ops.is_empty()
            && self.aliases.is_empty()
            && self.leftovers.is_empty()
            && self.system_rules.is_empty()
    }
}

async fn look(node: &Arc<Node>, plan: &Arc<Plan>) -> Result<Found, Error> {
    let records: Vec<Record> = node
        .all_records()
        .into_iter()
        .filter(|record| record.phase == Phase::Ready)
        .collect();
    let orphans = node.orphans();
    let plan = Arc::clone(plan);
    let looked = node.kernels.run(move |kernel| {
        let joined = join(&plan, &link::list(&mut kernel.route)?);
        compare(kernel, &plan, joined, &records, &orphans)
    });
    looked.await?.map_err(|source| Error::Kernel {
        operation: "observe",
        key: "the node".to_owned(),
        source,
    })
}

fn compare(
    kernel: &mut Kernel,
    plan: &Plan,
    mut joined: Joined,
    records: &[Record],
    orphans: &BTreeMap<u32, Orphan>,
) -> Result<Found, NetlinkError> {
    let wired = Wired {
        nics: joined.nics.clone(),
        plan: Some(Arc::new(plan.clone())),
        problems: Vec::new(),
    };
    let input = NodeInput {
        families: plan.pool.families,
        nics: joined.nics.clone(),
        endpoints: records
            .iter()
            .filter_map(|record| endpoint(record, &wired))
            .collect(),
        addresses: plan.held(),
        vpc_cidrs: plan.untranslated.clone(),
        snat: plan.snat,
    };
    let mut desired = desired::node(&input);
    let sysctls: BTreeSet<String> = desired
        .sysctls
        .iter()
        .map(|sysctl| sysctl.path.clone())
        .collect();
    let nics: BTreeSet<u32> = joined.nics.iter().map(|nic| nic.ifindex).collect();
    let observed = kernel.observe_node(&sysctls, &nics)?;
    joined
        .problems
        .extend(conflicts::find(&mut desired, &observed, &input));
    let present = |ifindex: u32| observed.links.iter().any(|link| link.index == ifindex);
    let lost: Vec<Record> = records
        .iter()
        .filter(|record| !record.host_ifindex.is_some_and(present))
        .cloned()
        .collect();
    forget_links(&mut desired, &lost);
    leave_alone(&mut desired, &observed, orphans);
    let ops = plan_ops(&desired, &observed.state, observed.nat_intact);
    let aliases = missing_aliases(&joined.nics, &observed.links);
    let departed = orphans
        .keys()
        .copied()
        .filter(|ifindex| !present(*ifindex))
        .collect();
    let leftovers = observed.foreign_rules.iter().filter_map(rule::del_leftover);
    let asked = rule::system_tables_asked(&observed.foreign_rules);
    Ok(Found {
        system_rules: system_rules::missing(input.families.iter(), &asked),
        ops,
        aliases,
        leftovers: leftovers.collect(),
        lost,
        departed,
        joined,
    })
}

/// Our alias on a NIC tells a person, and `uninstall`, whose it is. The primary NIC is the OS's.
fn missing_aliases(nics: &[Nic], links: &[Link]) -> Vec<(u32, String)> {
    let secondary = nics.iter().filter(|nic| !nic.is_primary());
    let wanted = secondary.map(|nic| (nic.ifindex, nic_alias(&nic.id)));
    let has = |index: u32, alias: &str| {
        links
            .iter()
            .any(|link| link.index == index && link.alias.as_deref() == Some(alias))
    };
    wanted
        .filter(|(index, alias)| !has(*index, alias))
        .collect()
}

/// An attachment as the desired state sees it, with the MTU that it should have now.
fn endpoint(record: &Record, wired: &Wired) -> Option<Endpoint> {
    Some(Endpoint {
        key: record.key.clone(),
        host_ifindex: record.host_ifindex?,
        addresses: record.addresses.clone(),
        host_ports: record.host_ports.clone(),
        mtu: wired.pod_mtu(&record.addresses),
    })
}

/// Nothing can be put on a link that is gone.
fn forget_links(desired: &mut NodeState, lost: &[Record]) {
    let gone: BTreeSet<u32> = lost
        .iter()
        .filter_map(|record| record.host_ifindex)
        .collect();
    let names: Vec<String> = lost
        .iter()
        .map(|record| format!("/{}/", record.key.host_ifname()))
        .collect();
    desired.links.retain(|index, _| !gone.contains(index));
    desired.routes.retain(
        |route| !matches!(route.kind, RouteKind::Link { ifindex } if gone.contains(&ifindex)),
    );
    desired
        .neighbours
        .retain(|neighbour| !gone.contains(&neighbour.ifindex));
    desired
        .nat
        .pods4
        .retain(|(index, _), _| !gone.contains(index));
    desired
        .nat
        .pods6
        .retain(|(index, _), _| !gone.contains(index));
    let addresses: BTreeSet<IpAddr> = lost
        .iter()
        .flat_map(|record| &record.addresses)
        .map(|address| address.ip)
        .collect();
    desired
        .nat
        .host_ports
        .retain(|_, to| !addresses.contains(&to.ip()));
    desired
        .sysctls
        .retain(|sysctl| !names.iter().any(|name| sysctl.path.contains(name)));
}

/// What is on an orphan's link stays as it is.
fn leave_alone(desired: &mut NodeState, observed: &Observation, orphans: &BTreeMap<u32, Orphan>) {
    let state = &observed.state;
    let on_orphan = |kind: &RouteKind| matches!(kind, RouteKind::Link { ifindex } if orphans.contains_key(ifindex));
    desired.routes.extend(
        state
            .routes
            .iter()
            .filter(|route| on_orphan(&route.kind))
            .cloned(),
    );
    let of_orphan = |ifindex: &u32| orphans.contains_key(ifindex);
    desired.neighbours.extend(
        state
            .neighbours
            .iter()
            .filter(|n| of_orphan(&n.ifindex))
            .cloned(),
    );
    desired.nat.pods4.extend(
        state
            .nat
            .pods4
            .iter()
            .filter(|((i, _), _)| of_orphan(i))
            .map(|(k, v)| (*k, *v)),
    );
    desired.nat.pods6.extend(
        state
            .nat
            .pods6
            .iter()
            .filter(|((i, _), _)| of_orphan(i))
            .map(|(k, v)| (*k, *v)),
    );
    let addresses: BTreeSet<IpAddr> = orphans
        .values()
        .flat_map(|orphan| orphan.addresses.iter().copied())
        .collect();
    for (port, to) in &state.nat.host_ports {
        if addresses.contains(&to.ip()) {
            desired.nat.host_ports.entry(*port).or_insert(*to);
        }
    }
}

/// Repairs. What the kernel refuses is looked at again, because a NIC can go while it is being set up: only what is still
/// wanted then, and refused again, is a problem.
async fn settle(node: &Arc<Node>, plan: &Arc<Plan>, found: Found) -> Result<Found, Error> {
    let (found, refused) = repair(node, found).await?;
    if refused.is_empty() {
        return Ok(found);
    }
    for error in &refused {
        info!(error = error.chain(), "refused, looking again");
    }
    let again = look(node, plan).await?;
    if again.is_settled() {
        return Ok(again);
    }
    let (mut found, refused) = repair(node, again).await?;
    for error in refused {
        error!(error = error.chain(), reason = %error.reason(), "repair");
        node.metrics.failed("repair", error.reason());
        found.joined.problems.push(Problem {
            reason: error.reason(),
            message: error.chain(),
            serving: false,
        });
    }
    Ok(found)
}

/// Applies all operations, and returns what was refused. A refusal does not stop the others: what remains is found again.
async fn repair(node: &Arc<Node>, found: Found) -> Result<(Found, Vec<Error>), Error> {
    let run_dir = node.config.run_dir.clone();
    let applied = node.kernels.run(move |kernel| {
        let mut failures = Vec::new();
        let together =
            |one: &Op, next: &Op| kind(one) == kind(next) && !matches!(one, Op::SetSysctl(_));
        for ops in found.ops.chunk_by(together) {
            let Some(op) = ops.first() else { continue };
            if let Op::SetSysctl(setting) = op
                && let Err(error) = originals::keep(&run_dir, setting)
            {
                failures.push(Error::from(error));
                continue;
            }
            let outcomes = steps::repair(op).around(|| kernel.apply_all(ops));
            let failed = outcomes.into_iter().filter_map(Result::err);
            failures.extend(failed.map(|source| Error::Kernel {
                operation: "repair",
                key: kind(op).to_owned(),
                source,
            }));
        }
        let ports = host_ports::that_came(&found.ops);
        if wire::any_udp(&ports)
            && let Err(source) =
                steps::REPAIR_STALE_UDP.around(|| wire::forget_stale_udp(kernel, &ports))
        {
            failures.push(Error::Kernel {
                operation: "forget connections",
                key: "host ports".to_owned(),
                source,
            });
        }
        // Last: what main takes must have been offered to all of ours before.
        for missing in &found.system_rules {
            if let Err(source) = kernel_rules::restore(kernel, missing) {
                failures.push(Error::Kernel {
                    operation: "repair",
                    key: "rule of the kernel".to_owned(),
                    source,
                });
            }
        }
        for leftover in &found.leftovers {
            info!(?leftover, "removed");
            let remove = || kernel.route.request(leftover.clone());
            if let Err(source) = steps::REPAIR_LEFTOVER.around(remove) {
                failures.push(Error::Kernel {
                    operation: "repair",
                    key: "rule".to_owned(),
                    source,
                });
            }
        }
        for (index, alias) in &found.aliases {
            let request = link::set_alias(*index, alias);
            if let Err(source) = steps::REPAIR_ALIAS.around(|| kernel.route.request(request)) {
                failures.push(Error::Kernel {
                    operation: "set alias",
                    key: alias.clone(),
                    source,
                });
            }
        }
        (found, failures)
    });
    let (found, failures) = applied.await?;
    for op in &found.ops {
        node.metrics.repaired(kind(op));
        if matches!(op, Op::AddRoute(route) | Op::DelRoute(route) if route.kind == RouteKind::Unreachable)
        {
            // Whenever the cloud gives or takes addresses.
            debug!(?op, "changed");
        } else {
            info!(kind = kind(op), ?op, "changed");
        }
    }
    kernel_rules::restored(node, &found.system_rules);
    Ok((found, failures))
}

const fn kind(op: &Op) -> &'static str {
    match op {
        Op::SetSysctl(_) => "sysctl",
        Op::SetLink(..) => "link",
        Op::AddAddress(_) | Op::DelAddress(_) => "address",
        Op::AddNeighbour(_) | Op::DelNeighbour(_) => "neighbour",
        Op::AddRoute(_) | Op::DelRoute(_) => "route",
        Op::AddRule(_) | Op::DelRule(_) => "rule",
        Op::ReplaceNat(_) => "nft-table",
        Op::UpdateNat(_) => "nft-element",
    }
}

/// Tells all others what is in place now.
async fn finish(node: &Arc<Node>, plan: Arc<Plan>, found: Found) -> Result<(), Error> {
    let Found {
        mut joined,
        lost,
        departed,
        ..
    } = found;
    if let Err(error) = scrub::scrub(node, &plan).await {
        error!(error = error.chain(), reason = %error.reason(), "earlier owners' connections");
        node.metrics.failed("scrub", error.reason());
        joined.problems.push(Problem {
            reason: error.reason(),
            message: error.chain(),
            serving: false,
        });
    }
    match firewall::find(node, &plan).await {
        Ok(problems) => joined.problems.extend(problems),
        Err(error) => {
            error!(error = error.chain(), reason = %error.reason(), "firewalls of others");
            node.metrics.failed("firewall", error.reason());
        }
    }
    joined
        .problems
        .extend(lost::problem(&node.all_records(), &plan));
    joined.problems.extend(node.rivals.borrow().iter().cloned());
    let usable: BTreeSet<u16> = joined
        .nics
        .iter()
        .map(|nic: &Nic| nic.device_index)
        .collect();
    let broken = joined
        .problems
        .iter()
        .any(|problem| problem.reason == Reason::KernelError);
    let wired = Wired {
        nics: joined.nics,
        plan: Some(Arc::clone(&plan)),
        problems: joined.problems,
    };
    for problem in &wired.problems {
        if !node.wired.borrow().problems.contains(problem) {
            warn!(reason = %problem.reason, problem.message, problem.serving, "problem on this node");
            node.metrics.failed("node", problem.reason);
        }
    }
    let supply = plan.nics.iter().map(|nic| NicSupply {
        nic: nic.id.clone(),
        usable: usable.contains(&nic.device_index) && !broken,
        device_index: nic.device_index,
        addresses: nic.addresses.clone(),
    });
    let inputs = Input::of_specification(plan.release.clone(), supply.collect());
    node.wired.send_replace(Arc::new(wired));
    node.pool
        .inputs(Some(plan.pool.clone()), inputs.into())
        .await?;
    if broken {
        // Nobody may notify us of what failed.
        node.look_again_soon();
    }
    for ifindex in departed {
        let Some(orphan) = node.orphans().remove(&ifindex) else {
            continue;
        };
        reaper::forget(node, &orphan.addresses).await?;
        if let Some(orphan) = node.drop_orphan(ifindex) {
            info!(orphan.ifname, "an unknown pod link is gone");
            node.pool.release(&orphan.key).await?;
            node.pool.removed(&orphan.key).await?;
        }
    }
    for record in lost {
        give_up(node, record).await?;
    }
    pod_mtu::follow(node).await
}

/// The link of a running attachment is gone: its namespace was deleted without DEL, or somebody deleted the link. The pod
/// has no network and cannot get this one back, so that its addresses may rest and serve another.
async fn give_up(node: &Arc<Node>, record: Record) -> Result<(), Error> {
    let Some(_guard) = node.keys.try_lock(&record.key) else {
        // An ADD or DEL of this key is at work, and may itself wait for this task.
        node.look_again_soon();
        return Ok(());
    };
    match node.record(&record.key) {
        Some(now) if now == record => {
            warn!(key = %record.key, pod = %record.pod, "its link is gone without DEL: the attachment ends");
            detach::drain(node, now, None).await
        }
        _ => Ok(()),
    }
}
