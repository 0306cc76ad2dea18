//! The control plane: etcd, API server, controller manager and scheduler in a VM of the VPC that is no node.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tombolo_lab::process::Process;

use super::pki::{Pki, write};
use super::{Programs, SERVICES};
use crate::command::in_netns;
use crate::kubectl::Kubectl;
use crate::vpc::Machine;
use crate::wait::until;

/// What is asked for and by whom, but no bodies; nothing of the control plane's own parts, which ask all the time.
const AUDIT: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
# A watch is told of when it begins: it may never end.
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy", "system:apiserver"]
- level: None
  userGroups: ["system:nodes"]
- level: Metadata
"#;

/// A running control plane.
#[derive(Debug)]
pub struct Control {
    pub machine: Machine,
    pub pki: Pki,
    etcd: Process,
    /// `None` while it is away.
    apiserver: Option<Process>,
    others: Vec<Process>,
}

impl Control {
    /// Starts etcd and the API server, and waits until it serves.
    pub fn start(programs: &Programs, dir: &Path, machine: Machine, pki: Pki) -> Result<Self> {
        let mut etcd = in_netns(&machine.netns, &programs.etcd);
        etcd.arg("--data-dir")
            .arg(dir.join("etcd"))
            .arg("--unsafe-no-fsync");
        etcd.args([
            "--listen-client-urls",
            "http://127.0.0.1:2379",
            "--advertise-client-urls",
            "http://127.0.0.1:2379",
        ]);
        etcd.args([
            "--listen-peer-urls",
            "http://127.0.0.1:2380",
            "--log-level",
            "warn",
            "--logger",
            "zap",
        ]);
        let etcd = Process::spawn("etcd", etcd, &dir.join("logs/etcd.log"))?;
        write(&dir.join("audit.yaml"), AUDIT)?;
        let mut control = Self {
            machine,
            pki,
            etcd,
            apiserver: None,
            others: Vec::new(),
        };
        control.start_apiserver(programs, dir)?;
        Ok(control)
    }

    /// Starts the API server.
    pub fn start_apiserver(&mut self, programs: &Programs, dir: &Path) -> Result<()> {
        let address = self.machine.address;
        let file = |name: &str| self.pki.text(name);
        let mut server = in_netns(&self.machine.netns, programs.kube("kube-apiserver"));
        server.args(["--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443"]);
        server.args([
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
        ]);
        server.args([
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
        ]);
        // Webhooks are reached by the addresses of their pods: no kube-proxy runs here.
        server.arg("--enable-aggregator-routing=true");
        if !programs.since(21) {
            // Tokens in pods are bound to the pod, as they are by default from 1.21 on.
            server.arg("--feature-gates=BoundServiceAccountTokenVolume=true");
        }
        for (flag, value) in [
            ("advertise-address", address.to_string()),
            ("cert-dir", dir.join("apiserver").display().to_string()),
            ("tls-cert-file", file("apiserver.crt")),
            ("tls-private-key-file", file("apiserver.key")),
            ("token-auth-file", file("tokens.csv")),
            ("service-account-key-file", file("sa.pub")),
            ("service-account-signing-key-file", file("sa.key")),
            ("service-cluster-ip-range", SERVICES.to_owned()),
            (
                "audit-policy-file",
                dir.join("audit.yaml").display().to_string(),
            ),
            (
                "audit-log-path",
                dir.join("audit.log").display().to_string(),
            ),
        ] {
            server.arg(format!("--{flag}={value}"));
        }
        self.apiserver = Some(Process::spawn(
            "kube-apiserver",
            server,
            &dir.join("logs/kube-apiserver.log"),
        )?);
        Ok(())
    }

    /// Takes the API server away.
    pub fn stop_apiserver(&mut self) -> Result<()> {
        let server = self
            .apiserver
            .take()
            .context("the API server is away already")?;
        server.kill()
    }

    /// Waits until the API server serves.
    pub fn await_apiserver(&self, kubectl: &Kubectl) -> Result<()> {
        until("the API server", Duration::from_secs(60), || {
            let Some(server) = &self.apiserver else {
                bail!("it was not started")
            };
            if !server.alive() {
                bail!("kube-apiserver has ended");
            }
            kubectl.run(&["get", "--raw", "/readyz"]).map(|_| ())
        })
    }

    /// Starts what needs the API server.
    pub fn start_others(&mut self, programs: &Programs, dir: &Path) -> Result<()> {
        let file = |name: &str| self.pki.text(name);
        let mut manager = in_netns(
            &self.machine.netns,
            programs.kube("kube-controller-manager"),
        );
        manager.args([
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
        ]);
        if !programs.since(21) {
            // Bound tokens need the root certificate in every namespace.
            manager.arg("--feature-gates=RootCAConfigMap=true");
        }
        manager.arg(format!(
            "--kubeconfig={}",
            file("kube-controller-manager.kubeconfig")
        ));
        manager.arg(format!(
            "--service-account-private-key-file={}",
            file("sa.key")
        ));
        manager.arg(format!("--root-ca-file={}", file("ca.crt")));
        manager.arg(format!(
            "--cert-dir={}",
            dir.join("controller-manager").display()
        ));
        let mut scheduler = in_netns(&self.machine.netns, programs.kube("kube-scheduler"));
        scheduler.arg("--leader-elect=false");
        scheduler.arg(format!(
            "--kubeconfig={}",
            file("kube-scheduler.kubeconfig")
        ));
        scheduler.arg(format!("--cert-dir={}", dir.join("scheduler").display()));
        for (name, program) in [
            ("kube-controller-manager", manager),
            ("kube-scheduler", scheduler),
        ] {
            self.others.push(Process::spawn(
                name,
                program,
                &dir.join("logs").join(format!("{name}.log")),
            )?);
        }
        Ok(())
    }

    /// All of its processes, in the order in which they are to be ended.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.others
            .iter()
            .chain(&self.apiserver)
            .chain([&self.etcd])
    }
}
