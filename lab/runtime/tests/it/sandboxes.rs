//! containerd: sandboxes that come, are looked at, stop, go, and come again.

use anyhow::{Context as _, Result, ensure};
use tombolo_lab_runtime::cri::PodSandboxState;

use crate::bed::{Bed, container, pod, with_containerd};

#[test]
fn a_sandbox_lives_through_containerd_and_leaves_nothing() {
    let test = "a_sandbox_lives_through_containerd_and_leaves_nothing";
    with_containerd(test, "ctdlife", async |bed| {
        let config = pod("web", 0, bed);
        let first = bed.cri.run_sandbox(&config).await?;
        let addresses = bed.addresses(&first).await?;
        let v4_first = matches!(addresses[..], [a, b] if a.is_ipv4() && b.is_ipv6());
        ensure!(v4_first, "the runtime shows {addresses:?}");
        let of_the_cloud = bed.addresses_of_the_cloud().await?;
        let links = Bed::ip_json(&bed.netns(&first).await?, &["address", "show", "eth0"])?;
        for address in &addresses {
            ensure!(of_the_cloud.contains(address), "{address} is not the VPC's");
            let words = format!("\"local\":\"{address}\"");
            ensure!(links.to_string().contains(&words), "{links}");
            bed.vm_reaches(*address)?;
        }
        // Once more while it stops, as the kubelet does, then the removal.
        for _ in 0..2 {
            bed.cri.stop_sandbox(&first).await?;
            let (status, _) = bed.cri.sandbox(&first).await?;
            ensure!(status.state() == PodSandboxState::SandboxNotready);
        }
        bed.cri.remove_sandbox(&first).await?;
        bed.cri.remove_sandbox(&first).await?;
        ensure!(bed.cri.sandbox(&first).await.is_err(), "it is still known");

        let calls = bed.calls_of(&first)?;
        let commands: Vec<_> = calls.iter().map(|call| call.command.as_str()).collect();
        ensure!(commands == ["ADD", "DEL", "DEL", "DEL"], "{commands:?}");
        let add = &calls[0];
        ensure!(add.ifname == "eth0" && add.stdin.get("prevResult").is_none());
        let expected = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_INFRA_CONTAINER_ID", first.as_str()),
            ("K8S_POD_NAME", "web"),
            ("K8S_POD_NAMESPACE", "default"),
            ("K8S_POD_UID", "uid-of-web"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        ensure!(add.args == expected.into(), "{:?}", add.args);
        let prev = calls[1].stdin.get("prevResult");
        let prev = prev.context("the first DEL has no prevResult")?;
        ensure!(prev["interfaces"].is_array(), "{prev}");
        ensure!(!calls[1].netns.is_empty());
        for later in &calls[2..] {
            ensure!(later.netns.is_empty(), "{}", later.netns);
            ensure!(later.stdin.get("prevResult").is_none(), "{}", later.stdin);
        }

        // The same pod again: another sandbox, and a network of its own.
        let second = bed.cri.run_sandbox(&pod("web", 1, bed)).await?;
        ensure!(second != first);
        for address in bed.addresses(&second).await? {
            bed.vm_reaches(address)?;
        }
        let calls = bed.calls_of(&second)?;
        ensure!(calls[0].args["K8S_POD_UID"] == "uid-of-web");
        // Without being stopped first.
        bed.cri.remove_sandbox(&second).await
    });
}

#[test]
fn containers_share_their_sandbox() {
    with_containerd("containers_share_their_sandbox", "ctdshare", async |bed| {
        let config = pod("pair", 0, bed);
        let sandbox = bed.cri.run_sandbox(&config).await?;
        let server = ["sh", "-c", "echo here >/tmp/x; httpd -f -p 8080 -h /tmp"];
        let server = bed
            .start(&sandbox, &config, &container("server", &server))
            .await?;
        let client = container("client", &["sleep", "1000"]);
        let client = bed.start(&sandbox, &config, &client).await?;
        let mut seen = Vec::new();
        for id in [&server, &client] {
            let shown = bed.cri.exec(id, &["ip", "address", "show", "eth0"]).await?;
            ensure!(shown.code == 0, "{shown:?}");
            seen.push(shown.stdout);
        }
        ensure!(seen[0] == seen[1], "{seen:?}");
        let addresses = bed.addresses(&sandbox).await?;
        ensure!(seen[0].contains(&addresses[0].to_string()), "{seen:?}");
        let fetch = ["wget", "-q", "-O-", "http://127.0.0.1:8080/x"];
        let fetched = async || -> Result<bool> {
            Ok(bed.cri.exec(&client, &fetch).await?.stdout == "here\n")
        };
        tombolo_lab::up::wait_for("the server", crate::bed::PATIENCE, fetched).await?;
        // One of them ends; the network stays.
        bed.cri.stop_container(&server, 0).await?;
        bed.cri.remove_container(&server).await?;
        bed.vm_reaches(addresses[0])?;
        let calls = bed.calls_of(&sandbox)?;
        ensure!(calls.len() == 1, "one ADD for the sandbox, not {calls:?}");
        bed.cri.stop_sandbox(&sandbox).await?;
        bed.cri.remove_sandbox(&sandbox).await
    });
}
