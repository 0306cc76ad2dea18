//! Each node has a folder of its own in every hierarchy of control groups, with the node's pods below.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use tombolo_lab::process::Process;

use crate::wait::until;

const BASE: &str = "/sys/fs/cgroup";
/// Beginning of the folders' names.
const PREFIX: &str = "tombolo-e2e-";

/// Folder of a node inside a hierarchy.
pub fn path_of(node: &str) -> String {
    format!("/{PREFIX}{node}")
}

/// Every hierarchy that is mounted.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let of = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup") && place.starts_with(BASE)).then(|| PathBuf::from(place))
    };
    let found: Vec<_> = mounts.lines().filter_map(of).collect();
    if found.is_empty() {
        bail!("no control groups are mounted below {BASE}");
    }
    Ok(found)
}

/// Folders of a node that exist.
fn folders(node: &str) -> Result<Vec<PathBuf>> {
    let all = hierarchies()?
        .into_iter()
        .map(|h| h.join(format!("{PREFIX}{node}")));
    Ok(all.filter(|f| f.is_dir()).collect())
}

/// Keeps other clusters from this machine as long as the file is open; nothing is left of it.
pub fn lock() -> Result<File> {
    let folder = hierarchies()?
        .into_iter()
        .next()
        .context("no control groups")?;
    let file = File::open(&folder).with_context(|| format!("open {}", folder.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .context("another cluster of this kind runs on this machine")?;
    Ok(file)
}

/// Makes a node's folders.
pub fn create(node: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(format!("{PREFIX}{node}"));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        // A new group of this kind has no processor and takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (hierarchy.join(file), folder.join(file));
            if from.exists() && to.exists() {
                let all = fs::read_to_string(&from)
                    .with_context(|| format!("read {}", from.display()))?;
                fs::write(&to, all).with_context(|| format!("write {}", to.display()))?;
            }
        }
    }
    Ok(())
}

/// The first process of a pod: the one that keeps its sandbox. Those of a server may be gone with the request that they serve.
pub fn process_of_pod(node: &str, uid: &str) -> Result<i32> {
    let wanted = format!("pod{uid}");
    let mut all = Vec::new();
    for folder in folders(node)? {
        walk(&folder, &mut |group| {
            if group.iter().any(|part| part.to_str() == Some(&wanted)) {
                all.extend(processes(group));
            }
        });
    }
    let started = all.into_iter().filter_map(|pid| Some((started(pid)?, pid)));
    let first = started.min();
    first
        .map(|(_, pid)| pid)
        .with_context(|| format!("no process of pod {uid} on {node}"))
}

/// When a process that is there began, in ticks since the boot: field 22 of proc_pid_stat(5).
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, may hold spaces and brackets.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// Kills every process of a node's pods.
pub fn kill(node: &str) -> Result<()> {
    for folder in folders(node)? {
        let mut all = Vec::new();
        walk(&folder, &mut |group| all.extend(processes(group)));
        for pid in all {
            if let Ok(process) = Process::adopt("pod", pid) {
                process.kill()?;
            }
        }
    }
    Ok(())
}

/// Removes a node's folders, which no process may be in.
pub fn remove(node: &str) -> Result<()> {
    for folder in folders(node)? {
        // A group is busy until the kernel has forgotten its last process.
        until("control groups are gone", Duration::from_secs(30), || {
            let mut groups = Vec::new();
            walk(&folder, &mut |group| groups.push(group.to_owned()));
            for group in groups.iter().rev() {
                fs::remove_dir(group).with_context(|| format!("remove {}", group.display()))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Folders of earlier runs and of this one.
pub fn all() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        for entry in
            fs::read_dir(&hierarchy).with_context(|| format!("read {}", hierarchy.display()))?
        {
            let entry = entry.context("read a hierarchy")?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Nodes that have folders.
pub fn nodes() -> Result<BTreeSet<String>> {
    let name = |folder: &PathBuf| {
        Some(
            folder
                .file_name()?
                .to_str()?
                .strip_prefix(PREFIX)?
                .to_owned(),
        )
    };
    Ok(all()?.iter().filter_map(name).collect())
}

/// Calls for a group and all below it, from the top. Groups may go while we walk.
fn walk(group: &Path, visit: &mut impl FnMut(&Path)) {
    visit(group);
    let Ok(entries) = fs::read_dir(group) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), visit);
        }
    }
}

fn processes(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|l| l.parse().ok()).collect()
}
