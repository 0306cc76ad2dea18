//! containerd in a node: its whole state lies in the node's own /run, what it and CNI plugins write elsewhere goes to a layer
//! above the machine's files, and its containers' control groups lie below one of the node's name.
//!
//! ```text
//!  prepare ─▶ command, run by the caller ─▶ ready (images imported) ─▶ … ─▶ end (shims and containers killed, groups removed)
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cri::Cri;
use crate::inside::{Inside, kill_all};
use crate::{cgroups, images};

/// Directory of containerd, inside the node.
pub const DIR: &str = "/run/containerd-lab";
/// Where it listens, inside the node.
pub const SOCKET: &str = "/run/containerd-lab/containerd.sock";
/// Programs that must be there, and Debian's packages of them.
pub const NEEDS: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    (images::BUSYBOX, "busybox-static"),
];

/// How long it may take to answer.
const START: Duration = Duration::from_secs(60);

/// Where it finds plugins and networks, inside the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cni {
    /// Plugins; `loopback` must be among them.
    pub bin_dir: String,
    /// Configurations.
    pub conf_dir: String,
    /// `ip_pref`: whose address is shown first, `ipv4`, `ipv6`, or as the plugin has them (`cni`); absent: containerd's
    /// default, IPv4.
    pub prefer: Option<&'static str>,
}

impl Cni {
    /// Where the lab's nodes have them.
    #[must_use]
    pub fn of_the_lab() -> Self {
        Self {
            bin_dir: "/run/cni/bin".to_owned(),
            conf_dir: "/run/cni/net.d".to_owned(),
            prefer: None,
        }
    }
}

/// containerd in one node.
#[derive(Clone, Debug)]
pub struct Containerd {
    inside: Inside,
    /// The control group of its containers, without leading slash: name it after the node.
    group: String,
}

impl Containerd {
    /// In the node `inside`; containers get control groups below `group`.
    #[must_use]
    pub fn new(inside: Inside, group: &str) -> Self {
        let group = group.to_owned();
        Self { inside, group }
    }

    /// `cgroup_parent` of sandboxes.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.group)
    }

    /// Its socket, seen from outside the node.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.inside.path(SOCKET)
    }

    /// Makes directories, covers and configuration; to be called once in the life of a node.
    ///
    /// # Errors
    /// Where something cannot be made.
    pub fn prepare(&self, cni: &Cni) -> Result<()> {
        // libcni keeps results in /var/lib/cni wherever containerd's own directories are.
        cover(self.inside, "/var/lib")?;
        fs::create_dir_all(self.inside.path(DIR)).context("create containerd's directory")?;
        self.configure(cni)?;
        let path = self.inside.path(&format!("{DIR}/images.tar"));
        fs::write(&path, images::archive()?).with_context(|| format!("write {}", path.display()))
    }

    /// Writes the configuration, which containerd reads when it starts.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn configure(&self, cni: &Cni) -> Result<()> {
        let path = self.inside.path(&format!("{DIR}/config.toml"));
        fs::write(&path, config(cni)).with_context(|| format!("write {}", path.display()))
    }

    /// The command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.inside.command("containerd");
        command.args(["--config", &format!("{DIR}/config.toml")]);
        command
    }

    /// Waits until it serves, and gives it the images.
    ///
    /// # Errors
    /// Where it does not answer within its bound, or does not take the images.
    pub async fn ready(&self) -> Result<Cri> {
        let begin = Instant::now();
        let cri = loop {
            let tried = match Cri::connect(&self.socket()).await {
                Ok(cri) => cri.version().await.map(|_| cri),
                Err(error) => Err(error),
            };
            match tried {
                Ok(cri) => break cri,
                Err(error) if begin.elapsed() > START => {
                    return Err(error.context(format!("containerd: not ready after {START:?}")));
                }
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let images = format!("{DIR}/images.tar");
        let arguments = ["--address", SOCKET, "--namespace", "k8s.io"];
        let import = ["images", "import", "--no-unpack", &images];
        let arguments = [&arguments[..], &import].concat();
        self.inside.output("ctr", &arguments)?;
        // The part of containerd that serves the interface hears of images by events.
        loop {
            let there = cri.images().await?;
            if [images::NAME, images::PAUSE]
                .iter()
                .all(|name| there.iter().any(|t| t == name))
            {
                return Ok(cri);
            }
            if begin.elapsed() > START {
                bail!("containerd has imported the images and shows {there:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything of it that runs or is left: processes (but those of `spared`), then control groups.
    ///
    /// # Errors
    /// Where it cannot be looked up.
    pub fn left(&self, spared: &[i32]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut processes = self.inside.processes()?;
        processes.extend(cgroups::processes(&self.group)?);
        for pid in processes.into_iter().filter(|pid| !spared.contains(pid)) {
            // One that ended since has no name any more, and is not left.
            if let Ok(words) = fs::read_to_string(format!("/proc/{pid}/cmdline")) {
                found.push(format!("process {pid}: {}", words.replace('\0', " ")));
            }
        }
        for group in cgroups::below(&self.group)? {
            found.push(format!("control group {}", group.display()));
        }
        Ok(found)
    }

    /// Kills containerd, its shims and its containers, and removes their control groups. Processes in `spared` stay.
    ///
    /// # Errors
    /// Where something survives.
    pub fn end(&self, spared: &[i32]) -> Result<()> {
        kill_all("containerd and its shims", || {
            let mut found = self.inside.processes()?;
            found.retain(|pid| !spared.contains(pid));
            Ok(found)
        })?;
        end_group(&self.group)
    }
}

/// Kills what runs in a control group and removes it. Needs nothing of the node.
///
/// # Errors
/// Where something survives.
pub fn end_group(group: &str) -> Result<()> {
    kill_all(&format!("containers of {group}"), || {
        cgroups::processes(group)
    })?;
    cgroups::remove(group)
}

/// Puts a layer of the node's own above a directory of the machine.
///
/// # Errors
/// Where it cannot be mounted.
pub fn cover(inside: Inside, dir: &str) -> Result<()> {
    let layer = format!("/run/cover{}", dir.replace('/', "-"));
    let mut options = format!("lowerdir={dir}");
    for (option, below) in [("upperdir", "upper"), ("workdir", "work")] {
        let below = format!("{layer}/{below}");
        fs::create_dir_all(inside.path(&below)).with_context(|| format!("create {below}"))?;
        options.push_str(&format!(",{option}={below}"));
    }
    let arguments = ["-t", "overlay", "overlay", "-o", &options, dir];
    inside.output("mount", &arguments).map(drop)
}

/// What of `NEEDS` is missing on this machine.
#[must_use]
pub fn missing() -> Option<&'static str> {
    let there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
        dirs.push("/usr/sbin".into());
        // An absolute path stays what it is.
        dirs.iter().any(|dir| dir.join(program).exists())
    };
    let missing = NEEDS.iter().find(|(program, _)| !there(program));
    missing.map(|(_, package)| *package)
}

fn config(cni: &Cni) -> String {
    let Cni {
        bin_dir, conf_dir, ..
    } = cni;
    let pause = images::PAUSE;
    let prefer = cni.prefer.unwrap_or_default();
    format!(
        r#"version = 2
root = "{DIR}/root"
state = "{DIR}/state"

[grpc]
  address = "{SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{DIR}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE nobody may lower the score.
  restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{bin_dir}"
  conf_dir = "{conf_dir}"
  ip_pref = "{prefer}"
"#
    )
}
