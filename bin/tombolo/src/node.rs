//! `tombolo install` and `tombolo uninstall`: what a node has of us outside its kernel, and by `tombolo-agent uninstall`
//! what it has in it. Both may be repeated, and say what they found.
//!
//! ```text
//!   install     plugin                               (the agent writes the network configuration, once it serves)
//!   uninstall   no agent? no pods, or told so? ─▶ network configuration ─▶ what was taken over ─▶ kernel ─▶ plugin
//! ```

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use tombolo_cni_dir::{self as cni_dir, CONFLIST, GivenBack, Outcome, PLUGIN};

use crate::output::{self, Format, Row};

/// The agent's program.
const AGENT: &str = "tombolo-agent";

/// What `install` takes.
#[derive(Debug, clap::Args)]
pub struct Install {
    /// The runtime's directory of plugins.
    #[arg(long, env = "TOMBOLO_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The plugin; default: the one beside this program.
    #[arg(long)]
    plugin: Option<PathBuf>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What `uninstall` takes.
#[derive(Debug, clap::Args)]
pub struct Uninstall {
    /// The runtime's directory of plugins.
    #[arg(long, env = "TOMBOLO_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The runtime's directory of network configurations.
    #[arg(long, env = "TOMBOLO_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The agent's directory.
    #[arg(long, env = "TOMBOLO_RUN_DIR", default_value = "/run/tombolo")]
    run_dir: PathBuf,
    /// Goes on although pods of this node have their network from Tombolo. They lose it.
    #[arg(long)]
    pods_lose_network: bool,
    /// Does not end when it is done, so that a DaemonSet can run it.
    #[arg(long)]
    stay: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// One thing that was to be there, or to be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    pub what: &'static str,
    pub path: PathBuf,
    pub result: &'static str,
}

impl Row for Done {
    const HEADER: &'static [&'static str] = &["WHAT", "PATH", "RESULT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.what.to_owned(),
            self.path.display().to_string(),
            self.result.to_owned(),
        ]
    }
}

/// Puts the plugin where the runtime looks for it.
pub fn install(args: &Install) -> anyhow::Result<()> {
    let plugin = match &args.plugin {
        Some(plugin) => plugin.clone(),
        None => beside(PLUGIN)?,
    };
    let outcome = cni_dir::install_plugin(&plugin, &args.bin_dir).context("install the plugin")?;
    let done = Done {
        what: "plugin",
        path: args.bin_dir.join(PLUGIN),
        result: match outcome {
            Outcome::Unchanged => "unchanged",
            Outcome::Created => "created",
            Outcome::Replaced => "replaced",
        },
    };
    output::print(&[done], args.output)
}

/// Removes what `install` and the agent put on this node, and what they took away comes back.
pub fn uninstall(args: &Uninstall) -> anyhow::Result<()> {
    refuse_beside_agent(&args.run_dir)?;
    let pods = attachments(&args.run_dir)?;
    if pods > 0 && !args.pods_lose_network {
        bail!(
            "{pods} attachments of pods are in {}: drain this node first, or say --pods-lose-network",
            args.run_dir.display()
        );
    }
    let gone = |removed| if removed { "removed" } else { "was not there" };
    let removed = cni_dir::remove_conflist(&args.conf_dir);
    let mut rows = vec![Done {
        what: "network configuration",
        path: args.conf_dir.join(CONFLIST),
        result: gone(removed.context("remove the network configuration")?),
    }];
    let given = cni_dir::give_back(&args.conf_dir).context("give back what was taken over")?;
    rows.extend(given.into_iter().map(|given| match given {
        GivenBack::Back(name) => Done {
            what: "taken over",
            path: args.conf_dir.join(name),
            result: "has its name again",
        },
        GivenBack::NameTaken(path) => Done {
            what: "taken over",
            path,
            result: "stays: another has its name",
        },
    }));
    run_agent_uninstall(&args.run_dir)?;
    rows.push(Done {
        what: "kernel state",
        path: args.run_dir.clone(),
        result: "removed",
    });
    // Last: as long as there are pods, their DEL needs it.
    let removed = cni_dir::remove_plugin(&args.bin_dir).context("remove the plugin")?;
    rows.push(Done {
        what: "plugin",
        path: args.bin_dir.join(PLUGIN),
        result: gone(removed),
    });
    output::print(&rows, args.output)?;
    if !args.stay {
        return Ok(());
    }
    loop {
        std::thread::park();
    }
}

/// It would put everything back.
fn refuse_beside_agent(run_dir: &Path) -> anyhow::Result<()> {
    let path = run_dir.join("lock");
    let lock = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        lock => lock.with_context(|| format!("open {}", path.display()))?,
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => bail!(
            "an agent runs with {}: it would put everything back; end it first (delete the DaemonSet tombolo-agent)",
            run_dir.display()
        ),
        Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// How many pods' attachments the agent's journal holds.
fn attachments(run_dir: &Path) -> anyhow::Result<usize> {
    let journal = run_dir.join("journal");
    let list = || format!("list {}", journal.display());
    let mut count = 0;
    let entries = match journal.read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.with_context(list)?,
    };
    for entry in entries {
        let path = entry.with_context(list)?.path();
        count += usize::from(path.extension().is_some_and(|ending| ending == "json"));
    }
    Ok(count)
}

fn run_agent_uninstall(run_dir: &Path) -> anyhow::Result<()> {
    let agent = beside(AGENT)?;
    let mut command = Command::new(&agent);
    command.arg("uninstall").arg("--run-dir").arg(run_dir);
    let status = command
        .status()
        .with_context(|| format!("start {}", agent.display()))?;
    if !status.success() {
        bail!("{} uninstall: {status}; the plugin stays", agent.display());
    }
    Ok(())
}

/// Another of our programs: they are shipped in one folder.
fn beside(program: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find the folder of this program")?;
    let path = own.with_file_name(program);
    if path.is_file() {
        return Ok(path);
    }
    bail!("{program} is not beside {}", own.display())
}
