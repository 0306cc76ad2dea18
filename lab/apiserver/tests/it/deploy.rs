//! `deploy/` by a real kubectl, as README.md says it, against the server.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::fixture::Fixture;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

struct Shell {
    f: Fixture,
    dir: tempfile::TempDir,
}

impl Shell {
    /// `None`, said aloud, where there is no kubectl.
    async fn new(test: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|dir| dir.join("kubectl").is_file()) {
            assert!(std::env::var("CI").is_err(), "kubectl is not installed");
            println!("SKIP {test}: no kubectl in PATH");
            return None;
        }
        let shell = Self {
            f: Fixture::local(tombolo_lab_apiserver::Args::default()).await,
            dir: tempfile::tempdir().unwrap(),
        };
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": shell.f.client.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(shell.dir.path().join("config"), config.to_string()).unwrap();
        Some(shell)
    }

    /// A line as a user types it in the repository.
    async fn ok(&self, line: &str) -> String {
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(repository())
            // Neither this user's configuration nor cache has a say.
            .env("HOME", self.dir.path())
            .env("KUBECONFIG", self.dir.path().join("config"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The lines of a section's code blocks.
fn commands(page: &str, section: &str) -> Vec<String> {
    let begin = page.find(section).unwrap() + section.len();
    let rest = &page[begin..];
    let section = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
    let blocks = section.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| block.lines().skip(1));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_commands_of_the_readme_install_all_there_is() {
    let Some(shell) = Shell::new("the_commands_of_the_readme_install_all_there_is").await else {
        return;
    };
    let page = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let lines = commands(&page, "\n## On a cluster\n");
    let kubectl = |line: &&String| line.starts_with("kubectl ");
    // `make image` and its import have a test of their own (`bin/tombolo`); a rollout needs a cluster that runs something.
    let (rest, lines): (Vec<&String>, Vec<&String>) = lines
        .iter()
        .partition(|line| !kubectl(line) || line.contains(" rollout "));
    assert_eq!((rest.len(), lines.len()), (3, 3), "{rest:?} {lines:?}");
    for line in &lines {
        shell.ok(line).await;
    }
    // Said again, nothing is made.
    let again = shell.ok(lines[1]).await;
    assert!(!again.contains("created"), "{again}");

    let client = &shell.f.client;
    let apps = "/apis/apps/v1/namespaces/kube-system";
    let daemonset = client
        .get(&format!("{apps}/daemonsets/tombolo-agent"))
        .await;
    let daemonset = daemonset.expect(200);
    let pod = &daemonset["spec"]["template"]["spec"];
    // What the pods name is there, by the very name that kustomize gave it.
    let sources = pod["containers"][0]["envFrom"].as_array().unwrap();
    assert_eq!(sources.len(), 2);
    for source in sources {
        let name = source["configMapRef"]["name"].as_str().unwrap();
        let path = format!("/api/v1/namespaces/kube-system/configmaps/{name}");
        client.get(&path).await.expect(200);
    }
    let account = pod["serviceAccountName"].as_str().unwrap();
    let path = format!("/api/v1/namespaces/kube-system/serviceaccounts/{account}");
    client.get(&path).await.expect(200);
    let operator = client
        .get(&format!("{apps}/deployments/tombolo-operator"))
        .await;
    let operator = operator.expect(200);
    assert_eq!(operator["spec"]["replicas"], 2);
    tolerates_what_a_new_node_carries(&operator["spec"]["template"]["spec"]);
    tolerates_what_a_new_node_carries(pod);

    // Deleting the overlay leaves the ledger's definitions.
    shell.ok("kubectl delete -k deploy/overlays/lab").await;
    assert_eq!(
        client
            .get(&format!("{apps}/daemonsets/tombolo-agent"))
            .await
            .code,
        404
    );
    shell.ok("kubectl get nrs,eni,pep,networkprofiles").await;
}

/// A node whose kubelet just registered: no network, no cloud provider, our own start-up taint, perhaps a control plane's.
fn tolerates_what_a_new_node_carries(pod: &Value) {
    assert_eq!(pod["hostNetwork"], true);
    let tolerations = pod["tolerations"].as_array().unwrap();
    for (key, effect) in [
        ("node.kubernetes.io/not-ready", "NoSchedule"),
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/network-unavailable", "NoSchedule"),
        (
            "node.cloudprovider.kubernetes.io/uninitialized",
            "NoSchedule",
        ),
        ("tombolo.dev/agent-not-ready", "NoSchedule"),
        ("node-role.kubernetes.io/master", "NoSchedule"),
        ("node-role.kubernetes.io/control-plane", "NoSchedule"),
    ] {
        let covers = |toleration: &Value| {
            let is =
                |field: &str, wanted: &str| toleration[field].as_str().is_none_or(|t| t == wanted);
            toleration["operator"] == "Exists" && is("key", key) && is("effect", effect)
        };
        assert!(tolerations.iter().any(covers), "{key}:{effect}");
    }
}

/// kubectl from 1.21 on puts the name that it generates for a ConfigMap also into a role that names something else so.
#[test]
fn no_role_names_what_kustomize_renames() {
    let file = |name: &str| repository().join("deploy/base").join(name);
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    let kustomization = read("kustomization.yaml");
    let generated = kustomization
        .lines()
        .filter_map(|l| l.strip_prefix("- name: "));
    let generated: Vec<&str> = generated.collect();
    let roles = read("rbac-agent.yaml") + &read("rbac-operator.yaml");
    let named = roles
        .lines()
        .filter_map(|l| l.trim().strip_prefix("resourceNames: ["));
    let named: Vec<&str> = named.map(|l| l.trim_end_matches(']')).collect();
    assert!(
        generated.len() == 3 && named.contains(&"tombolo-operator"),
        "{generated:?} {named:?}"
    );
    for name in generated {
        assert!(!named.contains(&name), "{name}");
    }
}

#[tokio::test]
async fn every_folder_of_deploy_can_be_built() {
    let Some(shell) = Shell::new("every_folder_of_deploy_can_be_built").await else {
        return;
    };
    for (folder, kinds) in [
        ("crds", &["CustomResourceDefinition"][..]),
        (
            "overlays/lab",
            &["DaemonSet", "Deployment", "PodDisruptionBudget"],
        ),
        (
            "overlays/aws",
            &["DaemonSet", "Deployment", "PodDisruptionBudget"],
        ),
        ("profile", &["NetworkProfile"]),
        ("monitoring", &["PodMonitor"]),
        ("uninstall", &["DaemonSet"]),
    ] {
        let text = shell
            .ok(&format!("kubectl kustomize deploy/{folder}"))
            .await;
        for kind in kinds {
            assert!(
                text.contains(&format!("\nkind: {kind}\n")),
                "{folder}: {kind}"
            );
        }
    }
    shell
        .ok("kubectl apply --validate=false -k deploy/crds")
        .await;
    shell
        .ok("kubectl apply --validate=false -k deploy/profile")
        .await;
    let families = "-o jsonpath={.spec.ipFamilies}{.spec.pool.warmMax}";
    let profile = shell
        .ok(&format!("kubectl get networkprofile default {families}"))
        .await;
    assert_eq!(profile, "DualStack12");
}
