//! podman 4 with its CNI backend: containers without Kubernetes, of one network and of two.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tombolo_lab::node::{in_netns, output};
use tombolo_lab::state::Lab;
use tombolo_lab::up;
use tombolo_lab_runtime::containerd::{cover, end_group};
use tombolo_lab_runtime::{Inside, cgroups, images};

use crate::bed::{PATIENCE, await_from_vm, names, on_a_node, possible};
use crate::calls::{self, Call};

const DIR: &str = "/run/podman-lab";
const NEEDS: [(&str, &str); 3] = [
    ("podman", "podman"),
    ("runc", "runc"),
    (images::BUSYBOX, "busybox-static"),
];

struct Podman<'a> {
    lab: &'a Lab,
    inside: Inside,
    group: String,
}

/// Runs a test with podman set up in the node; no container may be left.
fn with_podman(test: &str, name: &str, body: impl AsyncFnOnce(&Podman<'_>) -> Result<()>) {
    if !possible(test, &NEEDS) {
        return;
    }
    on_a_node(name, async |lab, inside| {
        let group = format!("tombolo-{name}-node1");
        let podman = Podman { lab, inside, group };
        podman.prepare()?;
        let outcome = body(&podman).await;
        // What podman started to clean up ends a moment after it.
        let ended = async || Ok(cgroups::processes(&podman.group)?.is_empty());
        let ended = up::wait_for("containers to end", PATIENCE, ended).await;
        end_group(&podman.group)?;
        outcome?;
        ended?;
        let netns = names(inside, "/run/netns")?;
        ensure!(netns.is_empty(), "namespaces are left: {netns:?}");
        Ok(())
    });
}

impl Podman<'_> {
    fn prepare(&self) -> Result<()> {
        cover(self.inside, "/var/lib")?;
        fs::create_dir_all(self.inside.path(DIR))?;
        images::unpack(&self.inside.path(&format!("{DIR}/rootfs")))?;
        let write = |name: &str, text: &str| {
            let path = self.inside.path(&format!("{DIR}/{name}"));
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        // Limits that nobody without CAP_SYS_RESOURCE may raise stay as they are.
        write(
            "containers.conf",
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n\
             [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"/run/cni/bin\"]\n\
             network_config_dir = \"/run/cni/net.d\"\ndefault_network = \"tombolo\"\n",
        )?;
        write(
            "storage.conf",
            &format!(
                "[storage]\ndriver = \"overlay\"\ngraphroot = \"{DIR}/graph\"\nrunroot = \"{DIR}/run\"\n"
            ),
        )
    }

    fn podman(&self, arguments: &[&str]) -> Result<String> {
        let mut podman = self.inside.command("podman");
        podman
            .env("CONTAINERS_CONF", format!("{DIR}/containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", format!("{DIR}/storage.conf"))
            .args(arguments);
        output(podman)
    }

    /// Starts a container that runs this script; its id.
    fn run(&self, name: &str, options: &[&str], script: &str) -> Result<String> {
        let parent = format!("--cgroup-parent=/{}", self.group);
        let rootfs = format!("{DIR}/rootfs");
        let mut arguments = vec!["run", "--detach", "--name", name, &parent];
        arguments.extend(options);
        // Each its own copy: containers write into it.
        let copy = format!("{rootfs}-{name}");
        images::unpack(&self.inside.path(&copy))?;
        arguments.extend(["--rootfs", &copy, "/bin/sh", "-c", script]);
        Ok(self.podman(&arguments)?.trim().to_owned())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.podman(&["rm", "--force", "--time", "0", name])
            .map(drop)
    }

    /// Addresses of a container's interface, IPv4 first.
    fn addresses(&self, name: &str, interface: &str) -> Result<Vec<IpAddr>> {
        let shown = self.podman(&["exec", name, "ip", "address", "show", interface])?;
        let words: Vec<&str> = shown.split_whitespace().collect();
        let after = |word: &'static str| {
            let pairs = words.windows(2).filter(move |pair| pair[0] == word);
            pairs.filter_map(|pair| pair[1].split('/').next()?.parse::<IpAddr>().ok())
        };
        let link_local = |ip: &IpAddr| ip.to_string().starts_with("fe80");
        let all = after("inet").chain(after("inet6"));
        Ok(all.filter(|ip| !link_local(ip)).collect())
    }

    fn vm(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = in_netns(&self.lab.vm("vm1")?.netns, program);
        command.args(arguments);
        output(command)
    }

    fn vm_reaches(&self, ip: IpAddr) -> Result<()> {
        self.vm("ping", &["-n", "-c1", "-W5", &ip.to_string()])
            .map(drop)
    }

    fn write_network(&self, name: &str, plugins: &Value) -> Result<()> {
        let list = json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins });
        let file = format!("/run/cni/net.d/10-{name}.conflist");
        fs::write(self.inside.path(&file), list.to_string()).context("write a network")
    }

    fn pod_links(&self) -> Result<usize> {
        let netns = PathBuf::from(self.lab.nodes[0].netns());
        let links = crate::bed::Bed::ip_json(&netns, &["link", "show"])?;
        let names = links.as_array().into_iter().flatten();
        let names = names.filter_map(|link| link["ifname"].as_str());
        Ok(names.filter(|name| name.starts_with("tmb")).count())
    }
}

#[test]
fn podman_runs_containers_with_addresses_of_the_vpc_and_a_port() {
    let test = "podman_runs_containers_with_addresses_of_the_vpc_and_a_port";
    with_podman(test, "podmanrun", async |podman| {
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        podman.write_network("tombolo", &json!([{ "type": "tombolo-cni" }, portmap]))?;
        let script = "echo podman >/tmp/x; httpd -f -p 80 -h /tmp";
        let id = podman.run("web", &["--publish", "8082:80"], script)?;
        let addresses = podman.addresses("web", "eth0")?;
        ensure!(addresses.len() == 2, "{addresses:?}");
        for address in &addresses {
            podman.vm_reaches(*address)?;
        }
        let inspected: Value = serde_json::from_str(&podman.podman(&["inspect", "web"])?)?;
        let network = &inspected[0]["NetworkSettings"]["Networks"]["tombolo"];
        ensure!(
            network["IPAddress"] == addresses[0].to_string(),
            "{network}"
        );
        let v6 = addresses[1].to_string();
        ensure!(network["GlobalIPv6Address"] == v6, "{network}");
        let published = SocketAddr::new(podman.lab.nodes[0].address4.into(), 8082);
        await_from_vm(podman.lab, published, "podman\n").await?;
        podman.remove("web")?;
        up::wait_for("no link", PATIENCE, async || Ok(podman.pod_links()? == 0)).await?;

        let calls = calls::calls(podman.inside)?;
        let add = calls.iter().find(|call| call.command == "ADD");
        let add = add.context("podman made no ADD")?;
        ensure!(add.container == id);
        // A name and nothing else of Kubernetes.
        let names: Vec<_> = add.args.keys().map(String::as_str).collect();
        ensure!(names == ["IgnoreUnknown", "K8S_POD_NAME"], "{names:?}");
        let version = calls.iter().any(|call| call.command == "VERSION");
        ensure!(version, "podman asks for versions first");
        let last = calls.last().context("no call")?;
        ensure!(last.command == "DEL" && last.stdin["prevResult"].is_object());
        Ok(())
    });
}

#[test]
fn podman_gives_a_container_two_networks_of_ours_and_takes_them_away() {
    let test = "podman_gives_a_container_two_networks_of_ours_and_takes_them_away";
    with_podman(test, "podmantwo", async |podman| {
        podman.write_network("tombolo", &json!([{ "type": "tombolo-cni" }]))?;
        podman.write_network("second", &json!([{ "type": "tombolo-cni" }]))?;
        let networks = ["--network", "tombolo", "--network", "second"];
        let id = podman.run(
            "both",
            &networks,
            "echo two >/tmp/x; httpd -f -p 80 -h /tmp",
        )?;
        let mut addresses = Vec::new();
        for interface in ["eth0", "eth1"] {
            let found = podman.addresses("both", interface)?;
            ensure!(found.len() == 2, "{interface}: {found:?}");
            addresses.extend(found);
        }
        for address in &addresses {
            podman.vm_reaches(*address)?;
            let server = SocketAddr::new(*address, 80);
            await_from_vm(podman.lab, server, "two\n").await?;
        }
        podman.remove("both")?;
        up::wait_for("no link", PATIENCE, async || Ok(podman.pod_links()? == 0)).await?;
        let calls = calls::calls(podman.inside)?;
        let of = |command: &str| {
            let made = calls.iter().filter(|call| call.container == id);
            let made = made.filter(|call| call.command == command);
            let pair = |call: &Call| {
                let network = call.stdin["name"].as_str().unwrap_or_default();
                (network.to_owned(), call.ifname.clone())
            };
            let mut made: Vec<_> = made.map(pair).collect();
            made.sort();
            made
        };
        // Which network has which interface is podman's choice, and its order is any.
        let added = of("ADD");
        let (networks, interfaces): (BTreeSet<_>, BTreeSet<_>) = added.iter().cloned().unzip();
        ensure!(added.len() == 2, "{added:?}");
        ensure!(networks == ["second", "tombolo"].map(str::to_owned).into());
        ensure!(interfaces == ["eth0", "eth1"].map(str::to_owned).into());
        ensure!(of("DEL") == added, "{added:?}, then {:?}", of("DEL"));
        Ok(())
    });
}
