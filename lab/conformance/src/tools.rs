//! Other programs, in namespaces: what the suite sees of the kernel it sees through them.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// How long something may take that happens in the background.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a program; returns its stdout.
///
/// # Errors
/// Where it fails; the error has its stderr.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.with_context(|| format!("start {program}"))?;
    let words: Vec<_> = arguments
        .iter()
        .map(|a| a.as_ref().to_string_lossy())
        .collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {stderr}",
        words.join(" ")
    );
    String::from_utf8(output.stdout).with_context(|| format!("read what {program} says"))
}

/// A program inside the namespace of this file. (Not `ip netns exec`, which mounts.)
#[must_use]
pub fn inside(netns: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", netns.display()))
        .arg(program);
    command
}

/// Runs a program with these blank-separated arguments inside a namespace; returns its stdout.
///
/// # Errors
/// Where it fails.
pub fn run_inside(netns: &Path, program: &str, arguments: &str) -> Result<String> {
    let enter = format!("--net={}", netns.display());
    let words: Vec<&str> = [enter.as_str(), program]
        .into_iter()
        .chain(arguments.split_whitespace())
        .collect();
    run("nsenter", &words)
}

/// `ip -j -d ARGUMENTS` inside a namespace.
///
/// # Errors
/// Where it fails or prints no JSON.
pub fn ip_json(netns: &Path, arguments: &str) -> Result<Vec<Value>> {
    let text = run_inside(netns, "ip", &format!("-j -d {arguments}"))?;
    let lists = lists(&text).with_context(|| format!("ip {arguments}"))?;
    Ok(lists.into_iter().flatten().collect())
}

/// Several such commands of one family (`-4`, `-6`), with one list for each.
///
/// # Errors
/// Where one fails, or there are not as many lists.
pub fn ip_json_batch(netns: &Path, family: &str, commands: &[&str]) -> Result<Vec<Vec<Value>>> {
    let text = batch(netns, &["-j", "-d", family], &commands.join("\n"))?;
    let lists = lists(&text).with_context(|| format!("ip {family} of {commands:?}"))?;
    ensure!(
        lists.len() == commands.len(),
        "ip {family} of {commands:?}: {text}"
    );
    Ok(lists)
}

/// Lists of JSON, one after the other.
fn lists(text: &str) -> Result<Vec<Vec<Value>>> {
    let lists = serde_json::Deserializer::from_str(text).into_iter::<Vec<Value>>();
    let mut lists = lists.collect::<Result<Vec<_>, _>>().context("no JSON")?;
    for list in &mut lists {
        // Entries of other kinds than asked for are printed as empty objects.
        list.retain(|entry| entry.as_object().is_none_or(|fields| !fields.is_empty()));
    }
    Ok(lists)
}

/// Several `ip` commands, one a line.
///
/// # Errors
/// The first that fails.
pub fn ip_batch(netns: &Path, lines: &str) -> Result<()> {
    batch(netns, &[], lines).map(drop)
}

fn batch(netns: &Path, options: &[&str], lines: &str) -> Result<String> {
    let mut command = inside(netns, "ip");
    command.args(options).args(["-batch", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("start ip -batch")?;
    let stdin = child.stdin.take();
    let written = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().context("await ip -batch")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip -batch: {stderr}");
    written.context("write to ip -batch")?;
    String::from_utf8(output.stdout).context("read what ip -batch says")
}

/// Asks until it holds, for a bounded time.
///
/// # Errors
/// Where it cannot be asked, or does not come to hold.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !holds()? {
        ensure!(
            started.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
