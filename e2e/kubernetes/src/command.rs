//! Programs of others: started with nothing on their standard input, never in our process group, so that ^C is ours alone.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// A command with nothing on its standard input.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// A command in a network namespace given by path.
pub fn in_netns(netns: &str, program: impl AsRef<OsStr>) -> Command {
    let mut inside = command("nsenter");
    inside.arg(format!("--net={netns}")).arg("--").arg(program);
    inside
}

/// Standard output of a command that must succeed.
pub fn output(command: &mut Command) -> Result<String> {
    let out = run(command, None)?;
    if !out.status.success() {
        bail!("{}", failure(command, &out));
    }
    String::from_utf8(out.stdout).with_context(|| format!("{command:?}: output is not UTF-8"))
}

/// Runs a command with this on its standard input, and tells how it went.
pub fn run(command: &mut Command, input: Option<&str>) -> Result<Output> {
    let start = format!("start {command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let Some(input) = input else {
        return command.output().context(start);
    };
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| start.clone())?;
    let mut stdin = child.stdin.take().context("standard input of a child")?;
    let text = input.to_owned();
    // A thread of its own: the child may answer before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let out = child.wait_with_output().context(start)?;
    // A child that did not want all of it tells why itself.
    let _written = writer.join();
    Ok(out)
}

/// What a failed command said.
pub fn failure(command: &Command, out: &Output) -> String {
    let said = String::from_utf8_lossy(&out.stderr);
    format!("{command:?}: {}: {}", out.status, said.trim())
}
