//! A node, by a process that lives in its namespaces: commands and paths in it, and what else runs there.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long killed processes may take to be gone: those that hold namespaces wait for the kernel.
const GONE: Duration = Duration::from_secs(60);

/// The namespaces of a process, which must outlive this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside(i32);

impl Inside {
    /// Those of the process with this number.
    #[must_use]
    pub const fn of(pid: i32) -> Self {
        Self(pid)
    }

    /// A command that will run there.
    #[must_use]
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            // Its root: ours may be another than that of its mount namespace.
            .args(["--net", "--mount", "--uts", "--root", "--target"])
            .arg(self.0.to_string())
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command there and returns its standard output.
    ///
    /// # Errors
    /// Where it cannot be started or fails; the error quotes its standard error.
    pub fn output(self, program: &str, args: &[&str]) -> Result<String> {
        let what = || format!("{program} {}", args.join(" "));
        let mut command = self.command(program);
        let output = command.args(args).stdin(std::process::Stdio::null());
        let output = output.output().with_context(what)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}: {}", what(), output.status, text.trim());
        }
        String::from_utf8(output.stdout).with_context(|| format!("output of {}", what()))
    }

    /// A path there, seen from here.
    #[must_use]
    pub fn path(self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.0))
    }

    /// Processes that live in its mount namespace, but for the one that this is called after.
    ///
    /// # Errors
    /// Where /proc cannot be read, or that process is gone.
    pub fn processes(self) -> Result<Vec<i32>> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/mnt"));
        let own = namespace(self.0).with_context(|| format!("mount namespace of {}", self.0))?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").context("read /proc")? {
            let name = entry.context("read /proc")?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            // Processes may end while we look.
            if let Some(pid) = pid.filter(|pid| *pid != self.0)
                && namespace(pid).is_ok_and(|of| of == own)
            {
                found.push(pid);
            }
        }
        Ok(found)
    }
}

/// Kills what `find` finds until it finds nothing.
///
/// # Errors
/// Where something is still found after a minute, or a signal cannot be sent.
pub fn kill_all(what: &str, find: impl Fn() -> Result<Vec<i32>>) -> Result<()> {
    let begin = Instant::now();
    loop {
        let found = find()?;
        if found.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > GONE {
            bail!("{what}: {found:?} survive SIGKILL");
        }
        for pid in found.into_iter().filter_map(Pid::from_raw) {
            match kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(errno).with_context(|| format!("{what}: kill {pid:?}")),
            }
        }
        // What became an orphan is waited for by nobody whom we could ask.
        std::thread::sleep(Duration::from_millis(10));
    }
}
