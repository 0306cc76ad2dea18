//! The plugin's calls as the runtime made them, kept by a script that stands in the plugin's place and becomes the plugin.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tombolo_lab_runtime::{Inside, images};

const PLUGIN: &str = "/run/cni/bin/tombolo-cni";
const REAL: &str = "/run/cni/real/tombolo-cni";
const RECORDED: &str = "/run/cni/recorded";

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    pub command: String,
    pub container: String,
    pub ifname: String,
    pub netns: String,
    /// `CNI_ARGS`, taken apart.
    pub args: BTreeMap<String, String>,
    pub stdin: Value,
    /// All `CNI_` variables, a line each.
    pub environment: String,
    pub raw: Vec<u8>,
}

/// Puts the recorder into the place of the node's plugin.
pub fn record(inside: Inside) -> Result<()> {
    for dir in [Path::new(REAL).parent().unwrap(), Path::new(RECORDED)] {
        fs::create_dir_all(inside.path(&dir.to_string_lossy()))?;
    }
    fs::rename(inside.path(PLUGIN), inside.path(REAL)).context("move the plugin away")?;
    let busybox = images::BUSYBOX;
    // The directory's making is what numbers a call: it succeeds for one caller only.
    let script = format!(
        "#!{busybox} sh\n\
         n=0\n\
         until {busybox} mkdir {RECORDED}/$n 2>{RECORDED}/errors; do n=$((n + 1)); done\n\
         {busybox} env | {busybox} grep ^CNI_ >{RECORDED}/$n/environment\n\
         {busybox} cat >{RECORDED}/$n/partial\n\
         {busybox} mv {RECORDED}/$n/partial {RECORDED}/$n/stdin\n\
         exec {REAL} <{RECORDED}/$n/stdin\n"
    );
    let plugin = inside.path(PLUGIN);
    fs::write(&plugin, script).context("write the recorder")?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).context("make it executable")
}

/// All calls so far, in their order; without those that are still being written down.
pub fn calls(inside: Inside) -> Result<Vec<Call>> {
    let mut found = Vec::new();
    for number in 0.. {
        let dir = inside.path(&format!("{RECORDED}/{number}"));
        if !dir.exists() {
            break;
        }
        if !dir.join("stdin").exists() {
            continue;
        }
        found.push(read(&dir).with_context(|| format!("read {}", dir.display()))?);
    }
    Ok(found)
}

fn read(dir: &Path) -> Result<Call> {
    let environment = fs::read_to_string(dir.join("environment"))?;
    let variables: BTreeMap<_, _> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let variable = |name: &str| variables.get(name).copied().unwrap_or_default().to_owned();
    let args = variable("CNI_ARGS");
    let args = args
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let raw = fs::read(dir.join("stdin"))?;
    Ok(Call {
        command: variable("CNI_COMMAND"),
        container: variable("CNI_CONTAINERID"),
        ifname: variable("CNI_IFNAME"),
        netns: variable("CNI_NETNS"),
        args: args.collect(),
        stdin: serde_json::from_slice(&raw).context("decode standard input")?,
        environment,
        raw,
    })
}

/// Keeps the calls of a test for fixtures, where `TOMBOLO_CAPTURES` names a directory.
pub fn keep(inside: Inside, test: &str) -> Result<()> {
    let Some(dir) = std::env::var_os("TOMBOLO_CAPTURES") else {
        return Ok(());
    };
    let dir = Path::new(&dir).join(test);
    fs::create_dir_all(&dir)?;
    for (number, call) in calls(inside)?.iter().enumerate() {
        let name = format!("{number:02}-{}", call.command);
        fs::write(dir.join(format!("{name}.env")), &call.environment)?;
        fs::write(dir.join(format!("{name}.json")), &call.raw)?;
    }
    Ok(())
}
