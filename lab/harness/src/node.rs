//! A node is a network, mount and UTS namespace with a private /run, kept by a holder process and entered with nsenter.
//! (`ip netns exec` would remount /sys and hide the cgroups.)

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tombolo_lab_runtime::Inside;

use crate::process::Process;
use crate::state::Node;

/// What the holder runs after `unshare`: private file systems, a name, then nothing until it is killed.
pub fn hold(hostname: &str) -> Result<()> {
    rustix::system::sethostname(hostname.as_bytes())
        .with_context(|| format!("set host name {hostname}"))?;
    keep_mounts_here().context("make the mounts private")?;
    mount(
        "tmpfs",
        "/run",
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=0755"),
    )
    .context("mount /run")?;
    for dir in ["/run/cni/bin", "/run/cni/net.d", "/run/netns"] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {dir}"))?;
    }
    println!("ready");
    // Blocks until killed: nobody ever writes to our standard input.
    let mut nothing = [0_u8; 1];
    let _eof = std::io::stdin().read(&mut nothing);
    loop {
        std::thread::park();
    }
}

/// What is mounted from now on stays in this mount namespace. `unshare` would do that itself, but not where our root is no
/// mount point, as in a plain chroot: so we look at the namespace from its own root for a moment.
pub fn keep_mounts_here() -> rustix::io::Result<()> {
    let open = |path| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let (root, here) = (open("/")?, open("/proc/self/ns/mnt")?);
    // Entering a mount namespace, if only one's own, leads to its root.
    move_into_link_name_space(here.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let changed = mount_change("/", private);
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    changed
}

/// Starts a holder and waits until its file systems are in place.
pub fn start_holder(own_binary: &Path, hostname: &str) -> Result<Process> {
    let mut child = Command::new("unshare")
        .args(["--net", "--mount", "--uts", "--propagation=unchanged", "--"])
        .arg(own_binary)
        .args(["node-holder", hostname])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // It outlives us: whoever reads our output must not wait for it.
        .stderr(Stdio::null())
        .spawn()
        .context("start unshare")?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("holder's standard output")?;
    BufReader::new(stdout)
        .read_line(&mut line)
        .context("read from the node's holder")?;
    if line.trim() != "ready" {
        bail!(
            "the holder of node {hostname} did not start: {:?}",
            child.wait()
        );
    }
    let pid = i32::try_from(child.id()).context("pid out of range")?;
    Process::adopt(&format!("holder-{hostname}"), pid)
}

impl Node {
    /// The node's network namespace as a path.
    #[must_use]
    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.pid)
    }

    /// The node's namespaces, for a runtime.
    #[must_use]
    pub fn inside(&self) -> Inside {
        Inside::of(self.holder.pid)
    }

    /// A path inside the node, seen from outside.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.holder.pid))
    }

    /// A command that will run inside the node.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            // The holder's root: ours may be another than that of its mount namespace.
            .args(["--net", "--mount", "--uts", "--root", "--target"])
            .arg(self.holder.pid.to_string())
            .arg("--")
            .arg(program);
        command
    }
}

/// A command that will run in a network namespace given by path, in our own file system.
#[must_use]
pub fn in_netns(netns: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={netns}")).arg("--").arg(program);
    command
}

/// Runs a command and returns its standard output; failure quotes its standard error.
pub fn output(mut command: Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    if !out.status.success() {
        bail!(
            "{command:?}: {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    String::from_utf8(out.stdout).with_context(|| format!("{command:?}: output is not UTF-8"))
}
