//! The lab as a user of kubectl sees it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use tombolo_lab::matrix::untranslated;
use tombolo_lab::node::output;
use tombolo_lab::state::Lab;
use tombolo_lab::topology::Topology;
use tombolo_lab::{pods, up};

use crate::support::{in_ns, place, probe, scenario, vm_place};

fn kubectl(lab: &Lab, args: &[&str]) -> Result<String> {
    let mut command = Command::new("kubectl");
    command
        .arg("--kubeconfig")
        .arg(lab.dir().join("kubeconfig"))
        .args(args);
    output(command)
}

#[test]
fn kubectl_starts_shows_and_ends_a_pod() {
    scenario(Topology::with("objects", 2, "t3.medium", 1), async |lab| {
        let yaml = lab.dir().join("pod.yaml");
        // JSON is YAML.
        std::fs::write(
            &yaml,
            serde_json::to_vec(&pods::manifest("web", None, &probe(), &[]))?,
        )?;
        kubectl(
            &lab,
            &["create", "--validate=false", "-f", &yaml.to_string_lossy()],
        )?;
        let api = tombolo_lab::kubeapi::Api::new(&lab.api_url)?;
        let running = pods::wait_running(&api, 1, Duration::from_secs(30), |_| {}).await?;
        let pod = &running["web"];
        for cell in untranslated(&lab, &[vm_place(&lab, "vm1")?], &[place(&lab, pod)?])? {
            ensure!(cell.good(), "{cell:?}");
        }
        up::wait_for("the PodEndpoint", Duration::from_secs(10), async || {
            Ok(!api
                .list("/apis/tombolo.dev/v1alpha1/podendpoints")
                .await?
                .is_empty())
        })
        .await?;
        let all = kubectl(&lab, &["get", "nrs,eni,pep,pods,nodes"])?;
        for wanted in [
            "INSTANCE",
            "SUBNET",
            "IPV4",
            "STATUS",
            "node1",
            "node2",
            "web",
            &pod.ips[0].to_string(),
            "Running",
            "Ready",
        ] {
            ensure!(all.contains(wanted), "{wanted} is not in\n{all}");
        }
        kubectl(&lab, &["delete", "pod", "web"])?;
        let gone = kubectl(&lab, &["get", "pods", "-o", "name"])?;
        ensure!(gone.trim().is_empty(), "{gone}");
        let node = lab.node(&pod.node)?;
        let routes = in_ns(&node.netns(), "ip", &["route", "show", "table", "all"])?;
        ensure!(
            !routes.contains(&format!("{} dev tmb", pod.ips[0])),
            "the deleted pod still has its route: {routes}"
        );
        ensure!(
            place(&lab, pod).is_err(),
            "the deleted pod still has its address in a namespace"
        );
        Ok(())
    });
}
