//! Runs a CNI plugin once, as a runtime does, and takes the time. One function for ours, for the peer and for the floor.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::sandbox::{ip, run};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Name in the table.
    pub name: &'static str,
    /// Program.
    pub binary: PathBuf,
    /// Further arguments (the floor's families).
    pub args: Vec<String>,
    /// Network configuration on standard input.
    pub conf: Value,
}

/// A pod's namespace, made before the clock starts.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Container id, and name of the namespace.
    pub id: String,
}

impl Sandbox {
    /// Makes one.
    pub fn create(id: String) -> Result<Self> {
        run("ip", &["netns", "add", &id])?;
        ip(Some(&id), "link set lo up\n")?;
        Ok(Self { id })
    }

    /// Makes several, named `prefix-number`.
    pub fn create_all(prefix: &str, count: usize) -> Result<Vec<Self>> {
        (0..count)
            .map(|i| Self::create(format!("{prefix}-{i}")))
            .collect()
    }

    /// Removes several.
    pub fn remove_all(sandboxes: &[Self]) -> Result<()> {
        let lines = sandboxes.iter().map(|s| format!("netns del {}\n", s.id));
        ip(None, &lines.collect::<String>())
    }
}

/// One call; its time and its answer.
pub fn exec(
    plugin: &Plugin,
    verb: &str,
    sandbox: &Sandbox,
    previous: Option<&Value>,
) -> Result<(Duration, Value)> {
    let mut conf = plugin.conf.clone();
    if let (Some(previous), Some(map)) = (previous, conf.as_object_mut()) {
        map.insert("prevResult".to_owned(), previous.clone());
    }
    let stdin = serde_json::to_vec(&conf)?;
    let mut command = Command::new(&plugin.binary);
    command
        .args(&plugin.args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &sandbox.id)
        .env("CNI_NETNS", format!("/run/netns/{}", sandbox.id))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/usr/lib/cni")
        .env(
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={}",
                sandbox.id
            ),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let begin = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", plugin.binary.display()))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read its input is fine.
        let _written = pipe.write_all(&stdin);
    }
    let mut text = String::new();
    child
        .stdout
        .take()
        .context("standard output")?
        .read_to_string(&mut text)?;
    let status = child.wait()?;
    let took = begin.elapsed();
    if !status.success() {
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .context("standard error")?
            .read_to_string(&mut stderr)?;
        bail!(
            "{} {verb} {}: {status}: {text} {stderr}",
            plugin.name,
            sandbox.id
        );
    }
    let answer = if text.trim().is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).with_context(|| format!("{} {verb}: {text}", plugin.name))?
    };
    Ok((took, answer))
}
