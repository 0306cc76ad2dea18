//! What packets look like on the wires of the VPC.

use anyhow::{Result, ensure};
use tombolo_lab::matrix::{internet, try_connect, untranslated};
use tombolo_lab::topology::Topology;

use crate::support::{
    Capture, fabric_link, ip4, ip6, one_of_each_nic, place, run_pods, scenario, vm_place,
};

/// A plain VM and a pod talk with their own addresses; a pod's IPv4 internet traffic leaves by the primary NIC with the
/// primary address whichever NIC owns the pod, its IPv6 by its own NIC with its own address.
#[test]
fn no_translation_inside_and_the_right_nic_outside() {
    scenario(Topology::with("captures", 1, "t3.medium", 1), async |lab| {
        let running = run_pods(&lab, 7).await?;
        let node = lab.node("node1")?;
        let vm = vm_place(&lab, "vm1")?;
        for ((_, device), pod) in one_of_each_nic(&lab, &running).await? {
            let pod_place = place(&lab, &pod)?;
            let (fabric, own_link) = fabric_link(&lab, &node.instance, device).await?;
            let (_, primary_link) = fabric_link(&lab, &node.instance, 0).await?;

            let capture = Capture::start(&fabric, &own_link, "tcp port 8080")?;
            for cell in untranslated(
                &lab,
                std::slice::from_ref(&vm),
                std::slice::from_ref(&pod_place),
            )? {
                ensure!(cell.good(), "{cell:?}");
            }
            for cell in untranslated(
                &lab,
                std::slice::from_ref(&pod_place),
                std::slice::from_ref(&vm),
            )? {
                ensure!(cell.good(), "{cell:?}");
            }
            let seen = capture.stop()?;
            for (vm_ip, pod_ip) in [(vm.ips[0], ip4(&pod)), (vm.ips[1], ip6(&pod))] {
                for (from, to) in [(vm_ip, pod_ip), (pod_ip, vm_ip)] {
                    ensure!(
                        seen.iter()
                            .any(|l| is_packet(l, &from.to_string(), &to.to_string())),
                        "no packet {from} > {to} on eth{device}: {seen:#?}"
                    );
                }
            }

            let own = Capture::start(&fabric, &own_link, "tcp port 8080")?;
            let primary = Capture::start(&fabric, &primary_link, "tcp port 8080")?;
            for cell in internet(&lab, std::slice::from_ref(&pod_place))? {
                ensure!(cell.good(), "{cell:?}");
            }
            let (own, primary) = (own.stop()?, primary.stop()?);
            for outside in &lab.internet {
                let (link, source) = if outside.is_ipv4() {
                    (&primary, node.address4.into())
                } else {
                    (&own, ip6(&pod))
                };
                let other = if outside.is_ipv4() { &own } else { &primary };
                let out = |lines: &[String]| {
                    lines
                        .iter()
                        .any(|l| is_packet(l, &source.to_string(), &outside.to_string()))
                };
                ensure!(
                    out(link),
                    "no packet {source} > {outside} where it should leave: own {own:#?} primary {primary:#?}"
                );
                ensure!(
                    device == 0 || !out(other),
                    "packet {source} > {outside} on the wrong NIC"
                );
                ensure!(
                    outside.is_ipv6()
                        || !own.iter().chain(&primary).any(|l| is_packet(
                            l,
                            &ip4(&pod).to_string(),
                            &outside.to_string()
                        )),
                    "untranslated IPv4 to the internet"
                );
            }
        }
        Ok(())
    });
}

/// tcpdump writes `10.0.1.7.43210 > 10.0.1.9.8080:`.
fn is_packet(line: &str, from: &str, to: &str) -> bool {
    let Some((left, right)) = line.split_once(" > ").and_then(|_| {
        // With -e there is a link-level " > " first.
        let mut parts = line.rsplitn(2, " > ");
        let right = parts.next()?;
        Some((parts.next()?, right))
    }) else {
        return false;
    };
    let has = |text: &str, ip: &str| {
        text.strip_prefix(ip)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    has(left.rsplit(' ').next().unwrap_or_default(), from) && has(right, to)
}

/// MTU: ten megabytes from a pod to the internet, whose way out is narrower than the NIC.
#[test]
fn a_narrower_way_is_found() {
    scenario(Topology::with("narrow", 1, "t3.medium", 1), async |lab| {
        let running = run_pods(&lab, 1).await?;
        let pod = place(&lab, running.values().next().expect("one pod"))?;
        for outside in &lab.internet {
            let report = try_connect(&lab, &pod, *outside, 10_000_000)?;
            ensure!(
                report.outcome == tombolo_lab::probe::Outcome::Connected,
                "{outside}: {report:?}"
            );
        }
        Result::Ok(())
    });
}
