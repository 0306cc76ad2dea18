//! Tests that are named after what users suffered: docs/acceptance.md lists them with those that show the rest.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tombolo_lab::http::{get_text_in_netns, post_unix};
use tombolo_lab::kubeapi::Api;
use tombolo_lab::matrix::untranslated;
use tombolo_lab::node::{in_netns, output};
use tombolo_lab::state::Lab;
use tombolo_lab::topology::Topology;
use tombolo_lab::{check, pods, up};
use tombolo_lab_vpc::admin::{CallCount, TakeAddress, TerminateInstance};
use tombolo_lab_vpc::knobs::Knob;

use crate::bed::on_bed;
use crate::support::{in_ns, ip4, ip6, lines, place, probe, run_pods, scenario, vm_place};

/// Lines of `ip route` of the pod table that name an address.
fn routes_of(lab: &Lab, ip: &str) -> Result<Vec<String>> {
    let family = if ip.contains(':') { "-6" } else { "-4" };
    let args = [family, "route", "show", "table", "990"];
    let all = in_ns(&lab.nodes[0].netns(), "ip", &args)?;
    let named = all.lines().filter(|line| line.split(' ').any(|w| w == ip));
    Ok(named.map(|line| line.trim().to_owned()).collect())
}

/// A pod that is deleted while no agent runs loses everything when one starts; what an address was before does not reach
/// the pod that has it next.
#[test]
fn t3_nothing_of_a_pod_outlives_it_though_the_agent_was_away() {
    let mut topology = Topology::with("stale", 1, "t3.medium", 1);
    topology.profile.pool.cooling_seconds = 1;
    scenario(topology, async |mut lab| {
        let running = run_pods(&lab, 3).await?;
        let api = Api::new(&lab.api_url)?;
        let pod = running.get("pod-000").context("a pod")?.clone();
        let (four, six) = (ip4(&pod).to_string(), ip6(&pod).to_string());
        let agent = lab.nodes[0].agent.clone().context("an agent runs")?;
        agent.kill()?;
        pods::delete(&api, "pod-000").await?;
        up::wait_for("the pod's end", Duration::from_secs(20), async || {
            let path = "/api/v1/namespaces/default/pods/pod-000";
            Ok(api.find(path).await?.is_none())
        })
        .await?;
        // Garbage with our mark on a link that is nobody's, and a connection of long ago.
        let netns = lab.nodes[0].netns();
        let add = ["link", "add", "junk0", "type", "veth", "peer", "junk1"];
        in_ns(&netns, "ip", &add)?;
        in_ns(&netns, "ip", &["link", "set", "junk0", "up"])?;
        for (family, ip) in [("-4", &four), ("-6", &six)] {
            let route = ["route", "add", ip, "dev", "junk0", "table", "990"];
            let more = ["metric", "77", "proto", "116"];
            in_ns(&netns, "ip", &[&[family][..], &route, &more].concat())?;
            let entry = [
                "-I",
                "-p",
                "tcp",
                "--state",
                "ESTABLISHED",
                "--timeout",
                "600",
            ];
            let peer = if family == "-4" {
                "10.0.9.9"
            } else {
                "2001:db8:9::9"
            };
            let ends = [
                "-u", "ASSURED", "-s", peer, "-d", ip, "--sport", "40000", "--dport", "80",
            ];
            in_ns(&netns, "conntrack", &[&entry[..], &ends].concat())?;
            ensure!(
                routes_of(&lab, ip)?.len() >= 2,
                "{:?}",
                routes_of(&lab, ip)?
            );
        }
        lab.nodes[0].agent = Some(up::start_agent(&lab, &lab.nodes[0])?);
        lab.save()?;
        up::wait_for(
            "the end of all of it",
            Duration::from_secs(20),
            async || {
                let routes = [routes_of(&lab, &four)?, routes_of(&lab, &six)?].concat();
                let mut connections = in_ns(&netns, "conntrack", &["-L", "-f", "ipv4"])?;
                connections += &in_ns(&netns, "conntrack", &["-L", "-f", "ipv6"])?;
                let named = |ip: &str| connections.split([' ', '=']).any(|word| word == ip);
                let only_refused = routes.iter().all(|line| line.starts_with("unreachable"));
                Ok(only_refused && !named(&four) && !named(&six))
            },
        )
        .await?;
        in_ns(&netns, "ip", &["link", "del", "junk0"])?;
        // The addresses serve again: more pods than there are others.
        for i in 10..18 {
            let pod = pods::manifest(&format!("pod-{i:03}"), None, &probe(), &[]);
            pods::create(&api, &pod).await?;
        }
        let all = pods::wait_running(&api, 10, Duration::from_secs(60), |_| {}).await?;
        let vm = vm_place(&lab, "vm1")?;
        let places = all.values().map(|pod| place(&lab, pod));
        let bad = bad_cells(&lab, &[vm], &places.collect::<Result<Vec<_>>>()?)?;
        ensure!(bad.is_empty(), "{bad:?}");
        Ok(())
    });
}

fn bad_cells(
    lab: &Lab,
    from: &[tombolo_lab::matrix::Place],
    to: &[tombolo_lab::matrix::Place],
) -> Result<Vec<String>> {
    let cells = untranslated(lab, from, to)?;
    ensure!(!cells.is_empty(), "nobody was tried");
    let bad = cells.iter().filter(|cell| !cell.good());
    Ok(bad.map(|cell| format!("{cell:?}")).collect())
}

/// The API server goes back to when the node had more addresses. They went back to the cloud since, and can be another
/// node's: none of them reaches a pod, however many want one, before the operator has written what is true.
#[test]
fn t4_what_only_a_restored_api_server_says_reaches_no_pod() {
    let mut topology = Topology::with("restored", 1, "t3.medium", 1);
    topology.profile.pool.warm_min = 1;
    topology.profile.pool.warm_max = 1;
    scenario(topology, async |lab| {
        run_pods(&lab, 9).await?;
        let api = Api::new(&lab.api_url)?;
        let post = async |what: &str| {
            let (path, nothing) = (format!("/lab/v1/{what}"), serde_json::json!({}));
            api.call("POST", &path, "application/json", Some(&nothing))
                .await
        };
        let left = check::settle(&lab, Duration::from_secs(20)).await?;
        ensure!(left.is_empty(), "{}", lines(&left));
        post("backup").await?;
        for i in 2..9 {
            pods::delete(&api, &format!("pod-{i:03}")).await?;
        }
        up::wait_for("addresses go back", Duration::from_secs(60), async || {
            let nics = check::gather::gather(&lab).await?.cloud;
            let node = &lab.nodes[0].instance;
            let held = nics
                .values()
                .filter(|nic| nic.instance.as_ref() == Some(node));
            Ok(held.map(|nic| nic.secondary.len()).sum::<usize>() == 6)
        })
        .await?;
        let left = check::settle(&lab, Duration::from_secs(20)).await?;
        ensure!(left.is_empty(), "{}", lines(&left));
        let operator = lab.services.iter().find(|p| p.name == "operator");
        let operator = operator.context("an operator runs")?.clone();
        operator.signal(Signal::STOP)?;
        post("restore").await?;
        let log = lab.log("agent-node1");
        up::wait_for(
            "the agent's word for it",
            Duration::from_secs(60),
            async || Ok(std::fs::read_to_string(&log)?.contains("ApiRestored")),
        )
        .await?;
        // The seven pods are back with the objects, and want addresses; one is free.
        let wired = async || -> Result<Vec<std::net::IpAddr>> {
            let now = check::gather::gather(&lab).await?;
            Ok(now.nodes["node1"].kernel.routes.keys().copied().collect())
        };
        let waits = async || {
            let log = std::fs::read_to_string(&log)?;
            let after = log.rsplit("ApiRestored").next().unwrap_or_default();
            Ok(after.contains("waits for an address") && wired().await?.len() == 6)
        };
        up::wait_for("the first to wait", Duration::from_secs(60), waits).await?;
        let cloud = check::gather::gather(&lab).await?.cloud;
        let held: Vec<_> = cloud.values().flat_map(|nic| &nic.secondary).collect();
        let mut alien = wired().await?;
        alien.retain(|ip| !held.contains(&ip));
        ensure!(alien.is_empty(), "{alien:?} reached pods");
        operator.signal(Signal::CONT)?;
        up::wait_for("all pods", Duration::from_secs(120), async || {
            Ok(wired().await?.len() == 18)
        })
        .await?;
        Ok(())
    });
}

/// Ranges in every spelling (all of IPv4, one inside another, one twice, one with host bits) are written once: whoever
/// watches the kernel sees that further comparisons change nothing.
#[test]
fn t9_a_second_comparison_changes_nothing_whatever_the_ranges() {
    let mut topology = Topology::with("ranges", 1, "t3.medium", 1);
    let ranges = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/16",
        "10.9.8.7/24",
        "192.0.2.1/32",
    ];
    topology.profile.snat.exclude = ranges.iter().filter_map(|r| r.parse().ok()).collect();
    topology.agent_args = vec!["--resync-ms".to_owned(), "200".to_owned()];
    scenario(topology, async |lab| {
        run_pods(&lab, 6).await?;
        let left = check::settle(&lab, Duration::from_secs(20)).await?;
        ensure!(left.is_empty(), "{}", lines(&left));
        let mut table = in_netns(&lab.nodes[0].netns(), "nft");
        table.args(["list", "table", "inet", "tombolo"]);
        let before = output(table)?;
        ensure!(
            before.contains("0.0.0.0/0") || before.contains("0.0.0.0-"),
            "{before}"
        );
        for program in ["nft", "ip"] {
            let mut watch = in_netns(&lab.nodes[0].netns(), "timeout");
            watch.args(["2", program, "monitor"]);
            if program == "ip" {
                watch.args(["rule", "route"]);
            }
            let seen = watch.output().context("watch the kernel")?;
            let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
            let ours = seen
                .lines()
                .filter(|l| l.contains("tombolo") || l.contains("116"));
            let ours: Vec<&str> = ours.collect();
            ensure!(ours.is_empty(), "{program} monitor saw {ours:?}");
        }
        Ok(())
    });
}

/// What distributions do to a node: rules and routes flushed, all tables gone, links renamed. NICs are known by MAC.
#[test]
fn t16_flushed_and_renamed_under_us_and_still_served() {
    scenario(Topology::with("distro", 1, "t3.medium", 1), async |lab| {
        let running = run_pods(&lab, 7).await?;
        let netns = lab.nodes[0].netns();
        for args in [
            &["link", "set", "eth1", "down"][..],
            &["link", "set", "eth1", "name", "enp9s0"],
            &["link", "set", "enp9s0", "up"],
            &["-4", "rule", "flush", "protocol", "116"],
            &["-6", "rule", "flush", "protocol", "116"],
            &["-4", "route", "flush", "table", "all", "proto", "116"],
            &["-6", "route", "flush", "table", "all", "proto", "116"],
        ] {
            in_ns(&netns, "ip", args)?;
        }
        in_ns(&netns, "nft", &["flush", "ruleset"])?;
        let left = check::settle(&lab, Duration::from_secs(20)).await?;
        ensure!(left.is_empty(), "{}", lines(&left));
        let rules = in_ns(&netns, "ip", &["rule", "show", "proto", "116"])?;
        ensure!(
            rules.contains("iif enp9s0") && !rules.contains("iif eth1"),
            "{rules}"
        );
        let vm = vm_place(&lab, "vm1")?;
        let places = running.values().map(|pod| place(&lab, pod));
        let places = places.collect::<Result<Vec<_>>>()?;
        let bad = bad_cells(&lab, std::slice::from_ref(&vm), &places)?;
        ensure!(bad.is_empty(), "to pods: {bad:?}");
        let bad = bad_cells(&lab, &places, &[vm])?;
        ensure!(bad.is_empty(), "from pods: {bad:?}");
        Ok(())
    });
}

/// An instance dies between any two calls about its NICs: nothing of it is left, whatever came of the call.
#[test]
fn t18_an_instance_that_dies_between_two_calls_leaves_nothing() {
    for verb in ["CreateNic", "AttachNic", "AssignAddresses"] {
        on_bed(async |mut bed| {
            let other = bed.node("n2").await;
            other.say(|says| (says.low, says.high) = (6, 7));
            bed.operator().await;
            bed.agree(&[&other]).await;
            let kept = bed.ours().await;
            let node = bed.node("n1").await;
            bed.turn(Knob::HoldReply {
                verb: verb.to_owned(),
                count: 1,
                skip: 0,
            })
            .await;
            node.say(|says| (says.low, says.high) = (6, 7));
            bed.eventually("the call was carried out", async || {
                let CallCount { held, .. } = bed.calls(verb).await;
                (held > 0).then_some(())
            })
            .await;
            let instance = node.vm.id.clone();
            bed.lab(&TerminateInstance { instance }).await;
            bed.api.delete("/api/v1/nodes/n1").await.unwrap();
            bed.turn(Knob::Reset).await;
            bed.eventually("nothing is left of it", async || {
                let objects = bed.enis().await;
                let left = objects.iter().any(|eni| eni["spec"]["node"] == "n1");
                let gone = !left && bed.nrs("n1").await.is_none();
                (gone && bed.ours().await == kept).then_some(())
            })
            .await;
            bed.agree(&[&other]).await;
            bed.down().await;
        });
    }
}

/// The word of an address that somebody took from a running pod: Event, metric, log.
#[test]
fn an_address_taken_from_a_pod_is_told_in_one_word() {
    scenario(Topology::with("taken", 1, "t3.medium", 1), async |lab| {
        let running = run_pods(&lab, 2).await?;
        let api = Api::new(&lab.api_url)?;
        let pod = running.get("pod-000").context("a pod")?;
        let (address, text) = (ip4(pod), ip4(pod).to_string());
        let body = serde_json::to_value(TakeAddress { address })?;
        post_unix(&lab.vpc_socket(), "/lab/v1/TakeAddress", &body).await?;
        let word = "ForeignConflict";
        up::wait_for("the Event", Duration::from_secs(90), async || {
            let mut all = api.list("/api/v1/events").await?;
            all.extend(
                api.list("/apis/events.k8s.io/v1/events")
                    .await
                    .unwrap_or_default(),
            );
            Ok(all
                .iter()
                .any(|e| e["reason"] == word && e.to_string().contains(&text)))
        })
        .await?;
        let agent = ([127, 0, 0, 1], check::gather::AGENT_PORT).into();
        let netns = lab.nodes[0].netns();
        let metrics = get_text_in_netns(&netns, agent, "/metrics").await?;
        let label = format!("operations_total{{operation=\"node\",reason=\"{word}\"}}");
        ensure!(metrics.contains(&label), "{metrics}");
        let log = std::fs::read_to_string(lab.log("agent-node1"))?;
        let told = log
            .lines()
            .any(|line| line.contains(word) && line.contains(&text));
        ensure!(told, "the log does not name {word}");
        // Its pod keeps it until the end, and the address is nobody's then.
        pods::delete(&api, "pod-000").await
    });
}
