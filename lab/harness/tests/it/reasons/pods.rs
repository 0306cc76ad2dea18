//! Pods that come and go by the shipped plugin, called as a runtime does.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use tombolo_lab::kubeapi::text;
use tombolo_lab::node::output;
use tombolo_lab::state::{Lab, Node};

use super::Day;
use super::faults::Row;

/// What the plugin wrote when it failed.
#[derive(Debug)]
pub(super) struct CniError {
    pub(super) code: u64,
    pub(super) msg: String,
}

impl Day<'_> {
    /// Takes the free address.
    pub(super) async fn eat(&self, node: &Node) -> Result<()> {
        self.add_now(node, &self.name()).map(drop)
    }

    /// ADDs that wait as long as the profile says.
    pub(super) fn add_some(&self, row: &Row, node: &Node) -> Result<()> {
        let names: Vec<String> = (0..row.adds).map(|_| self.name()).collect();
        let outcomes: Vec<Result<_>> = std::thread::scope(|scope| {
            let adds: Vec<_> = names
                .iter()
                .map(|name| scope.spawn(|| plugin(node, "ADD", name, 30)))
                .collect();
            adds.into_iter()
                .map(|add| add.join().expect("a thread"))
                .collect()
        });
        for (name, outcome) in names.into_iter().zip(outcomes) {
            outcome?.map_err(|failed| anyhow!("ADD: {failed:?}"))?;
            self.pods.borrow_mut().push((node.name.clone(), name));
        }
        Ok(())
    }

    /// An ADD that succeeds; the pod's IPv4 address.
    pub(super) fn add_now(&self, node: &Node, name: &str) -> Result<IpAddr> {
        let added = self.add(node, name, 30)?;
        let result = added.map_err(|failed| anyhow!("ADD: {failed:?}"))?;
        let address = text(&result, "/ips/0/address");
        let ip = address.split('/').next().unwrap_or_default();
        ip.parse()
            .with_context(|| format!("no address in {result}"))
    }

    pub(super) fn add(
        &self,
        node: &Node,
        name: &str,
        seconds: u64,
    ) -> Result<Result<Value, CniError>> {
        let outcome = plugin(node, "ADD", name, seconds)?;
        if outcome.is_ok() {
            self.pods
                .borrow_mut()
                .push((node.name.clone(), name.to_owned()));
        }
        Ok(outcome)
    }

    /// The pods beyond so many go.
    pub(super) fn leave(&self, staying: usize) -> Result<()> {
        let leaving = self.pods.borrow_mut().split_off(staying);
        let lab = self.lab;
        std::thread::scope(|scope| {
            let lanes: Vec<_> = leaving
                .chunks(leaving.len().div_ceil(4).max(1))
                .map(|pods| scope.spawn(|| pods.iter().try_for_each(|pod| del(lab, pod))))
                .collect();
            let mut lanes = lanes.into_iter().map(|lane| lane.join().unwrap());
            lanes.try_for_each(|outcome| outcome)
        })
    }

    pub(super) fn name(&self) -> String {
        self.number.set(self.number.get() + 1);
        format!("pod-{:03}", self.number.get())
    }
}

/// Calls the plugin as a runtime does. Success gives its result (DEL: nothing).
fn plugin(node: &Node, command: &str, name: &str, seconds: u64) -> Result<Result<Value, CniError>> {
    let netns = format!("/run/netns/{name}");
    if command == "ADD" && !node.path(&netns).exists() {
        let mut make = node.command("ip");
        make.args(["netns", "add", name]);
        output(make)?;
    }
    let mut process = node.command("/run/cni/bin/tombolo-cni");
    process
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", name)
        .env("CNI_NETNS", &netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/run/cni/bin")
        .env(
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={name}"
            ),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let conf = json!({"cniVersion": "1.1.0", "name": "tombolo", "type": "tombolo-cni", "timeoutSeconds": seconds});
    let mut child = process.spawn().context("start the plugin")?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    stdin.write_all(&serde_json::to_vec(&conf)?)?;
    drop(stdin);
    let out = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() {
        return Ok(Ok(serde_json::from_str(&said).unwrap_or_default()));
    }
    let object: Value = serde_json::from_str(&said).with_context(|| {
        format!(
            "{command}: {said:?}, {:?}",
            String::from_utf8_lossy(&out.stderr)
        )
    })?;
    Ok(Err(CniError {
        code: object["code"].as_u64().context("code")?,
        msg: text(&object, "/msg"),
    }))
}

fn del(lab: &Lab, (node, name): &(String, String)) -> Result<()> {
    let node = lab.node(node)?;
    let outcome = plugin(node, "DEL", name, 30)?;
    outcome.map_err(|failed| anyhow!("DEL: {failed:?}"))?;
    let mut command = node.command("ip");
    command.args(["netns", "del", name]);
    output(command).map(drop)
}
