//! containerd: configurations that come and go, and other plugins after ours.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tombolo_lab::node::{in_netns, output};
use tombolo_lab_runtime::cri::{
    DnsConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PortMapping,
};

use crate::bed::{Bed, await_from_vm, container, names, pod, with_containerd};

#[test]
fn a_network_comes_and_goes_with_its_file() {
    with_containerd(
        "a_network_comes_and_goes_with_its_file",
        "ctdfile",
        async |bed| {
            let running = bed.cri.run_sandbox(&pod("running", 0, bed)).await?;
            let address = bed.addresses(&running).await?[0];
            let list = std::fs::read_to_string(
                bed.inside
                    .path("/run/cni/net.d")
                    .join("10-tombolo.conflist"),
            )?;
            bed.remove_network("10-tombolo.conflist")?;
            let told = bed.await_network(false).await?;
            ensure!(told.contains("cni"), "{told}");
            bed.vm_reaches(address)?;
            ensure!(
                bed.cri.run_sandbox(&pod("early", 0, bed)).await.is_err(),
                "a pod without network"
            );
            bed.write_network("10-tombolo.conflist", &list)?;
            bed.await_network(true).await?;
            // containerd keeps what it could not take down, until it is told again.
            for kept in bed.cri.sandboxes().await? {
                if kept.id != running {
                    bed.cri.remove_sandbox(&kept.id).await?;
                }
            }

            // A file before ours that nobody can read takes the network from everybody, and is named.
            bed.write_network("00-other.conflist", "{")?;
            let told = bed.await_network(false).await?;
            ensure!(told.contains("00-other.conflist"), "{told}");
            bed.vm_reaches(address)?;
            bed.remove_network("00-other.conflist")?;
            bed.await_network(true).await?;
            let later = bed.cri.run_sandbox(&pod("later", 0, bed)).await?;
            for sandbox in [later, running] {
                bed.vm_reaches(bed.addresses(&sandbox).await?[0])?;
                bed.cri.stop_sandbox(&sandbox).await?;
                bed.cri.remove_sandbox(&sandbox).await?;
            }
            Ok(())
        },
    );
}

#[test]
fn a_sandbox_in_the_nodes_namespace_asks_for_no_network() {
    with_containerd(
        "a_sandbox_in_the_nodes_namespace_asks_for_no_network",
        "ctdhost",
        async |bed| {
            let mut config = pod("host", 0, bed);
            config.hostname.clear();
            let linux = config.linux.get_or_insert_default();
            linux.security_context = Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: NamespaceMode::Node.into(),
                    ..NamespaceOption::default()
                }),
            });
            let sandbox = bed.cri.run_sandbox(&config).await?;
            ensure!(bed.pod_links()?.is_empty());
            bed.cri.stop_sandbox(&sandbox).await?;
            bed.cri.remove_sandbox(&sandbox).await?;
            ensure!(bed.calls()?.is_empty(), "{:?}", bed.calls()?);
            Ok(())
        },
    );
}

fn annotations() -> HashMap<String, String> {
    let of = |direction: &str, rate: &str| {
        let key = format!("kubernetes.io/{direction}-bandwidth");
        (key, rate.to_owned())
    };
    HashMap::from([of("ingress", "10M"), of("egress", "20M")])
}

#[test]
fn bandwidth_annotations_and_name_servers_are_accepted() {
    with_containerd(
        "bandwidth_annotations_and_name_servers_are_accepted",
        "ctdbandwidth",
        async |bed| {
            let ours = json!({ "capabilities": { "bandwidth": true, "dns": true } });
            bed.use_network(ours, &[]).await?;
            let mut config = pod("slow", 0, bed);
            config.annotations = annotations();
            config.dns_config = Some(DnsConfig {
                servers: vec!["10.0.0.2".to_owned()],
                searches: vec!["default.svc.cluster.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            });
            let sandbox = bed.cri.run_sandbox(&config).await?;
            let calls = bed.calls_of(&sandbox)?;
            let asked = calls[0].stdin.pointer("/runtimeConfig/bandwidth");
            let asked = asked.context("containerd passed no bandwidth")?;
            // Names as Go has them, and bits a second.
            ensure!(asked["IngressRate"] == 10_000_000, "{asked}");
            let dns = calls[0].stdin.pointer("/runtimeConfig/dns/Servers");
            ensure!(dns == Some(&json!(["10.0.0.2"])), "{dns:?}");
            bed.vm_reaches(bed.addresses(&sandbox).await?[0])?;
            bed.cri.stop_sandbox(&sandbox).await?;
            bed.cri.remove_sandbox(&sandbox).await
        },
    );
}

/// What a program of the node says, in the node's namespaces.
fn in_node(bed: &Bed, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command: Command = in_netns(&bed.lab.nodes[0].netns(), program);
    command.args(arguments);
    output(command)
}

#[test]
fn portmap_tuning_bandwidth_and_firewall_work_after_us() {
    let test = "portmap_tuning_bandwidth_and_firewall_work_after_us";
    with_containerd(test, "ctdchain", async |bed| {
        let sysctl = "net.ipv4.tcp_keepalive_time";
        let others = [
            json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
            json!({ "type": "tuning", "sysctl": { sysctl: "77" } }),
            json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
            json!({ "type": "firewall" }),
        ];
        bed.use_network(json!({}), &others).await?;
        let mut config = pod("chained", 0, bed);
        config.annotations = annotations();
        config.port_mappings = vec![PortMapping {
            container_port: 80,
            host_port: 8081,
            ..PortMapping::default()
        }];
        let sandbox = bed.cri.run_sandbox(&config).await?;
        let server = ["sh", "-c", "echo chained >/tmp/x; httpd -f -p 80 -h /tmp"];
        let server = bed
            .start(&sandbox, &config, &container("server", &server))
            .await?;

        let shown = bed
            .cri
            .exec(&server, &["cat", "/proc/sys/net/ipv4/tcp_keepalive_time"]);
        let shown = shown.await?;
        ensure!(shown.stdout == "77\n", "tuning: {shown:?}");
        let links = bed.pod_links()?;
        let queues = in_node(bed, "tc", &["qdisc", "show", "dev", &links[0]])?;
        ensure!(queues.contains("tbf"), "bandwidth: {queues}");
        let addresses = bed.addresses(&sandbox).await?;
        for (program, address) in [("iptables", addresses[0]), ("ip6tables", addresses[1])] {
            let rules = in_node(bed, program, &["-S"])?;
            ensure!(rules.contains(&address.to_string()), "firewall: {rules}");
        }
        let node = &bed.lab.nodes[0];
        let hosts = [Some(node.address4.into()), node.address6.map(IpAddr::from)];
        for host in hosts.into_iter().flatten() {
            await_from_vm(&bed.lab, SocketAddr::new(host, 8081), "chained\n").await?;
        }

        bed.cri.stop_sandbox(&sandbox).await?;
        bed.cri.remove_sandbox(&sandbox).await?;
        for program in ["iptables", "ip6tables"] {
            for table in ["filter", "nat"] {
                let rules = in_node(bed, program, &["-t", table, "-S"])?;
                let left = addresses.iter().any(|a| rules.contains(&a.to_string()));
                ensure!(!left, "{program} {table}: {rules}");
            }
        }
        let netns = PathBuf::from(node.netns());
        let links = Bed::ip_json(&netns, &["link", "show", "type", "ifb"])?;
        let left: Vec<&Value> = links.as_array().into_iter().flatten().collect();
        let left: Vec<_> = left.iter().filter(|l| l["ifname"].is_string()).collect();
        ensure!(left.is_empty(), "bandwidth: {left:?}");
        // What the runtime keeps of the calls goes with the pod.
        let kept = names(bed.inside, "/var/lib/cni/results")?;
        ensure!(kept.is_empty(), "results: {kept:?}");
        Ok(())
    });
}
