//! Host ports that runtimes ask us for: no other plugin is in the chain.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tombolo_lab_runtime::cri::{PortMapping, Protocol};

use crate::bed::{await_from_vm, container, pod, with_containerd};

#[test]
fn a_host_port_by_containerd_leads_to_its_pod_and_goes_with_it() {
    let test = "a_host_port_by_containerd_leads_to_its_pod_and_goes_with_it";
    with_containerd(test, "ctdports", async |bed| {
        let ours = json!({ "capabilities": { "portMappings": true } });
        bed.use_network(ours, &[]).await?;
        let mut config = pod("served", 0, bed);
        let mapping = |protocol: Protocol, container_port, host_port| PortMapping {
            protocol: protocol.into(),
            container_port,
            host_port,
            host_ip: String::new(),
        };
        // containerd does not pass the one without host port.
        config.port_mappings = vec![
            mapping(Protocol::Tcp, 80, 8083),
            mapping(Protocol::Udp, 53, 5353),
            mapping(Protocol::Tcp, 81, 0),
        ];
        let sandbox = bed.cri.run_sandbox(&config).await?;
        let calls = bed.calls_of(&sandbox)?;
        let asked = calls[0].stdin.pointer("/runtimeConfig/portMappings");
        let asked = asked.context("containerd passed no ports")?;
        let expected = json!([
            { "HostPort": 8083, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" },
            { "HostPort": 5353, "ContainerPort": 53, "Protocol": "udp", "HostIP": "" },
        ]);
        ensure!(*asked == expected, "{asked}");
        let server = ["sh", "-c", "echo served >/tmp/x; httpd -f -p 80 -h /tmp"];
        bed.start(&sandbox, &config, &container("server", &server))
            .await?;
        let node = &bed.lab.nodes[0];
        let hosts = [Some(node.address4.into()), node.address6.map(IpAddr::from)];
        let hosts = hosts.into_iter().flatten();
        let addresses: Vec<_> = hosts.map(|host| SocketAddr::new(host, 8083)).collect();
        for address in &addresses {
            await_from_vm(&bed.lab, *address, "served\n").await?;
        }
        bed.cri.stop_sandbox(&sandbox).await?;
        bed.cri.remove_sandbox(&sandbox).await?;
        // Free for the next.
        config.metadata.get_or_insert_default().attempt = 1;
        let again = bed.cri.run_sandbox(&config).await?;
        bed.start(&again, &config, &container("server", &server))
            .await?;
        for address in &addresses {
            await_from_vm(&bed.lab, *address, "served\n").await?;
        }
        bed.cri.stop_sandbox(&again).await?;
        bed.cri.remove_sandbox(&again).await
    });
}
