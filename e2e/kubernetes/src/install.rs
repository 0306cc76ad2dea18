//! Tombolo in the cluster, as a user installs it: the manifests of `deploy/` with an overlay that has the addresses of this cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::cluster::pki::write;
use crate::command::{command, in_netns, output};
use crate::context::Context;
use crate::kubectl::{Kubectl, condition, elements, text};
use crate::wait::until;

/// Where everything of ours is.
pub const NAMESPACE: &str = "kube-system";
pub const AGENT: &str = "tombolo-agent";
pub const OPERATOR: &str = "tombolo-operator";
/// Name of the image in the manifests.
pub const IMAGE: &str = "tombolo.dev/tombolo";

/// What the operator waits for, in seconds instead of minutes.
const SHORT_WAITS: [&str; 7] = [
    "TOMBOLO_NIC_IDLE=3s",
    "TOMBOLO_ATTACH_POLL=100ms",
    "TOMBOLO_SUBNET_HOLD=5s",
    "TOMBOLO_LIMIT_HOLD=5s",
    "TOMBOLO_BACKOFF_MAX=2s",
    "TOMBOLO_LEASE_DURATION=6s",
    "TOMBOLO_LEASE_RENEW=2s",
];

/// The profile of every node: an address rests for seconds instead of a minute.
const PROFILE: &str = "apiVersion: tombolo.dev/v1alpha1
kind: NetworkProfile
metadata: {name: default}
spec:
  pool: {coolingSeconds: 3, churnWindowSeconds: 5, warmMin: 2, warmMax: 6, waitSeconds: 20}
";

/// A copy of `deploy/` in which the overlay `lab` has this cluster's settings, as if a user had edited it.
#[derive(Clone, Debug)]
pub struct Manifests {
    /// Folder in which the manual's commands are run: `deploy` lies in it.
    pub folder: PathBuf,
}

impl Manifests {
    /// Copies `deploy` and puts the settings over what is shipped.
    pub fn prepare(deploy: &Path, cluster: &Cluster) -> Result<Self> {
        let manifests = Self::existing(cluster);
        let copy = manifests.folder.join("deploy");
        fs::create_dir_all(&manifests.folder)
            .with_context(|| format!("create {}", manifests.folder.display()))?;
        output(command("cp").arg("-r").arg(deploy).arg(&copy))?;
        if cluster.programs.since(21) {
            // As its comment says.
            let lab = manifests.path("lab").join("kustomization.yaml");
            output(command("sed").args(["-i", "s/v1beta1$/v1/"]).arg(lab))?;
        }
        let shipped = manifests.path("shipped");
        fs::rename(manifests.path("lab"), &shipped)
            .with_context(|| format!("rename to {}", shipped.display()))?;
        manifests.overlay(
            "lab",
            &overlay("shipped", &cluster.control()?.machine.address.to_string()),
        )?;
        write(&manifests.path("lab").join("profile.yaml"), PROFILE)?;
        Ok(manifests)
    }

    /// Those that were prepared.
    pub fn existing(cluster: &Cluster) -> Self {
        Self {
            folder: cluster.dir.join("user"),
        }
    }

    fn overlay(&self, name: &str, text: &str) -> Result<()> {
        let folder = self.path(name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        write(&folder.join("kustomization.yaml"), text)
    }

    fn path(&self, overlay: &str) -> PathBuf {
        self.folder.join("deploy/overlays").join(overlay)
    }

    /// The same with another tag of the image, as an overlay of this name.
    pub fn with_tag(&self, name: &str, tag: &str) -> Result<()> {
        self.overlay(
            name,
            &format!("bases:\n- ../lab\nimages:\n- name: {IMAGE}\n  newTag: {tag}\n"),
        )
    }

    /// `kubectl VERB -k` of an overlay.
    pub fn kubectl(&self, kubectl: &Kubectl, verb: &str, overlay: &str) -> Result<String> {
        let mut args = vec![verb, "-k"];
        let path = self.path(overlay).display().to_string();
        args.push(&path);
        if verb == "delete" {
            args.extend(["--ignore-not-found", "--wait=false"]);
        }
        kubectl.run(&args)
    }
}

/// The commands by which the manual's section "On a cluster" installs: its first block.
pub fn commands(readme: &str) -> Vec<String> {
    let lines = readme
        .lines()
        .skip_while(|l| *l != "## On a cluster")
        .skip(1)
        .take_while(|l| !l.starts_with("## "));
    let block = lines
        .skip_while(|l| *l != "```sh")
        .skip(1)
        .take_while(|l| *l != "```");
    block
        .map(|l| l.split('#').next().unwrap_or_default().trim().to_owned())
        .filter(|l| !l.is_empty())
        .collect()
}

/// The cluster's addresses, and waiting times with which minutes become seconds.
fn overlay(base: &str, server: &str) -> String {
    let literals = |name: &str, all: &[String]| {
        let head =
            format!("- name: {name}\n  namespace: {NAMESPACE}\n  behavior: merge\n  literals:\n");
        all.iter()
            .fold(head, |text, literal| text + &format!("  - {literal}\n"))
    };
    let server = [
        format!("KUBERNETES_SERVICE_HOST={server}"),
        "KUBERNETES_SERVICE_PORT=6443".to_owned(),
    ];
    let short = SHORT_WAITS.map(str::to_owned);
    format!(
        "bases:\n- ../{base}\nresources:\n- profile.yaml\nconfigMapGenerator:\n{}{}",
        literals("tombolo-config", &server),
        literals("tombolo-operator-config", &short)
    )
}

/// Runs the commands of README.md as they are written: the image on every node, then kubectl as the administrator. The first
/// one, which makes the image, is run by whoever runs us.
pub fn by_the_manual(context: &Context) -> Result<()> {
    let readme =
        fs::read_to_string("README.md").context("read README.md, in the folder of the sources")?;
    let all = commands(&readme);
    let [make, import, definitions, apply] = &all[..] else {
        bail!("README.md installs by {all:?}, not by four commands")
    };
    ensure!(
        make == "make image",
        "the first command of README.md is {make}"
    );
    let manifests = Manifests::prepare(&context.deploy, &context.cluster)?;
    for node in &context.cluster.nodes {
        let (folder, place) = ("/var/lib/user", "target/image/tombolo.tar");
        let archive = node.path(folder).join(place);
        fs::create_dir_all(archive.parent().context("folder of the archive")?)
            .context("make a folder on the node")?;
        fs::copy(&context.image, &archive)
            .with_context(|| format!("copy the image to {}", archive.display()))?;
        output(
            node.enter("sh")
                .args(["-c", &format!("cd {folder} && {import}")]),
        )?;
        fs::remove_dir_all(node.path(folder)).context("remove the archive")?;
    }
    let control = context.cluster.control()?;
    let kube = context.cluster.programs.kube.display();
    let path = std::env::var("PATH").unwrap_or_default();
    for command in [definitions, apply] {
        // Objects of a kind that was only just defined are refused where the server is not that far yet.
        until(command, Duration::from_secs(60), || {
            let mut shell = in_netns(&control.machine.netns, "sh");
            shell
                .env("PATH", format!("{kube}:{path}"))
                .env("KUBECONFIG", &context.kubectl.kubeconfig);
            shell
                .env("HOME", &context.cluster.dir)
                .current_dir(&manifests.folder);
            output(shell.args(["-c", command]))
        })?;
    }
    Ok(())
}

/// Waits until every node is Ready and has no start-up taint.
pub fn await_nodes(kubectl: &Kubectl, count: usize) -> Result<()> {
    until(
        "nodes Ready and without taint",
        Duration::from_secs(120),
        || {
            let nodes = kubectl.items(&["get", "nodes"])?;
            for node in &nodes {
                if condition(node, "Ready") != "True" || tainted(node) {
                    let taints: Vec<_> = elements(node, "/spec/taints").collect();
                    bail!(
                        "{}: Ready={} {taints:?}",
                        text(node, "/metadata/name"),
                        condition(node, "Ready")
                    );
                }
            }
            if nodes.len() != count {
                bail!("{} of {count} nodes", nodes.len());
            }
            Ok(())
        },
    )
}

/// Whether a node has the start-up taint.
pub fn tainted(node: &Value) -> bool {
    elements(node, "/spec/taints").any(|t| text(t, "/key") == crate::cluster::node::TAINT)
}

/// Waits until a rollout is complete.
pub fn rolled_out(kubectl: &Kubectl, what: &str) -> Result<()> {
    let status = ["-n", NAMESPACE, "rollout", "status", what, "--timeout=5s"];
    until(
        &format!("rollout of {what}"),
        Duration::from_secs(180),
        || kubectl.run(&status).map(|_| ()),
    )
}

#[cfg(test)]
mod tests {
    use super::commands;

    #[test]
    fn the_commands_of_the_section_are_read_without_their_comments() {
        let readme = "```sh\nno\n```\n## On a cluster\ntext\n```sh\na b   # why\n\nc -d\n```\n```sh\nno\n```\n## More\n";
        assert_eq!(commands(readme), ["a b", "c -d"]);
        assert!(commands("## More\n```sh\na\n```").is_empty());
    }
}
