//! Where everything is measured: network and mount namespaces of our own, with a private /run and /var/lib/cni, made by
//! running this program again inside `unshare`. They go with the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

/// Marks the inner run.
const INNER: &str = "TOMBOLO_BENCH_INNER";
/// What an agent writes, in its directory.
const LOG: &str = "agent.log";

/// Whether this is the inner run; otherwise runs it and returns its exit code.
pub fn enter() -> Result<Option<i32>> {
    if std::env::var_os(INNER).is_some() {
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
        fs::create_dir_all("/run/netns").context("create /run/netns")?;
        fs::create_dir_all("/var/lib/cni").context("create /var/lib/cni")?;
        run("mount", &["-t", "tmpfs", "tmpfs", "/var/lib/cni"])?;
        run("ip", &["link", "set", "lo", "up"])?;
        return Ok(None);
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INNER, "1")
        .status()
        .context("start unshare")?;
    Ok(Some(status.code().unwrap_or(1)))
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {program}"))?;
    if !out.status.success() {
        bail!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs lines of `ip -batch`, in a named namespace or in ours.
pub fn ip(netns: Option<&str>, lines: &str) -> Result<()> {
    use std::io::Write as _;
    let mut command = Command::new("ip");
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("start ip")?;
    child
        .stdin
        .take()
        .context("standard input of ip")?
        .write_all(lines.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("ip -batch in {netns:?} failed on:\n{lines}");
    }
    Ok(())
}

/// One agent that gets its addresses from a file.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    binary: PathBuf,
    dir: PathBuf,
}

/// A NIC of the measured node.
#[derive(Clone, Debug)]
pub struct BenchNic {
    /// Device index; the link is `eth<index>`.
    pub index: u16,
    /// Its MAC.
    pub mac: String,
    /// Third octet of its addresses: 10.0.<net>.0/24 and fd00:0:0:<net>::/64.
    pub net: u8,
    /// Pod addresses.
    pub pods: u8,
}

impl Agent {
    /// Starts one, in a named namespace or in ours, and waits until it answers. `dir` is its run directory.
    pub fn start(
        binary: &Path,
        netns: Option<&str>,
        dir: &Path,
        nics: &[BenchNic],
        families: &str,
    ) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let spec = dir.join("nrs.spec.json");
        fs::write(&spec, serde_json::to_vec_pretty(&nrs(nics, families))?)?;
        let log = fs::File::create(dir.join(LOG))?;
        let mut command = match netns {
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command
            .arg("run")
            .arg("--nrs-file")
            .arg(&spec)
            .arg("--run-dir")
            .arg(dir)
            .args([
                "--node-name",
                "bench",
                "--max-pods",
                "240",
                "--resync-ms",
                "3600000",
                "--http",
                "none",
            ]);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the agent")?;
        let agent = Self {
            child,
            binary: binary.to_owned(),
            dir: dir.to_owned(),
        };
        let socket = dir.join("agent.sock");
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if begin.elapsed() > Duration::from_secs(10) {
                bail!("the agent does not answer: {}", agent.log_end());
            }
            std::thread::yield_now();
        }
        Ok(agent)
    }

    /// Ends it and takes back what it made of the node it runs on (ours).
    pub fn uninstall(self) -> Result<()> {
        let (binary, dir) = (self.binary.clone(), self.dir.clone());
        drop(self);
        let dir = dir.to_string_lossy();
        run(&binary.to_string_lossy(), &["uninstall", "--run-dir", &dir]).map(drop)
    }

    /// The last lines that it wrote.
    pub fn log_end(&self) -> String {
        let log = fs::read_to_string(self.dir.join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Ours, and nothing depends on how it ends.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn nrs(nics: &[BenchNic], families: &str) -> serde_json::Value {
    let entries: Vec<_> = nics
        .iter()
        .map(|n| {
            let (v4, v6) = (format!("10.0.{}", n.net), format!("fd00:0:0:{}", n.net));
            let mut addresses: Vec<String> = (0..n.pods).map(|i| format!("{v4}.{}", 20 + u16::from(i))).collect();
            addresses.extend((0..n.pods).map(|i| format!("{v6}::{:x}", 0x20 + u16::from(i))));
            json!({
                "id": format!("eni-{}", n.index), "mac": n.mac, "deviceIndex": n.index, "subnet": format!("subnet-{}", n.net),
                "cidr4": format!("{v4}.0/24"), "cidr6": format!("{v6}::/64"), "gateway4": format!("{v4}.1"), "gateway6": "fe80::1:1",
                "primary4": format!("{v4}.10"), "mtu": 1500, "addresses": addresses,
            })
        })
        .collect();
    json!({
        "instanceId": "i-bench", "instanceType": "bench", "zone": "zone-a",
        "profile": {
            "name": "bench", "ipFamilies": families, "snat": true,
            "pool": { "warmMin": 0, "warmMax": 250, "coolingSeconds": 0, "churnWindowSeconds": 1, "waitSeconds": 10 },
        },
        "limits": { "maxNics": 8, "ipv4PerNic": 250, "ipv6PerNic": 250 },
        "vpcCidrs": ["10.0.0.0/16", "fd00::/48"],
        "nics": entries, "release": [],
    })
}
