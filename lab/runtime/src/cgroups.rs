//! The control groups of a node's containers: all lie below one that is named after the node, in every hierarchy, so that
//! whatever a runtime leaves can be found and ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The mount points of the control group hierarchies, of either version.
///
/// # Errors
/// Where the mount table cannot be read.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let of = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(point))
    };
    Ok(table.lines().filter_map(of).collect())
}

/// Every group called `/name` or below, the deepest first.
///
/// # Errors
/// Where a directory that is there cannot be read.
pub fn below(name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        collect(&hierarchy.join(name), &mut found)?;
    }
    Ok(found)
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}", dir.display())),
    };
    for entry in entries {
        // A group may go while it is read.
        let Ok(entry) = entry else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found)?;
        }
    }
    found.push(dir.to_owned());
    Ok(())
}

/// The processes of these groups.
///
/// # Errors
/// Where a list that is there cannot be read.
pub fn processes(name: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for group in below(name)? {
        let list = group.join("cgroup.procs");
        match fs::read_to_string(&list) {
            Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", list.display())),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Removes the groups; they must be empty.
///
/// # Errors
/// Where one cannot be removed.
pub fn remove(name: &str) -> Result<()> {
    for group in below(name)? {
        match fs::remove_dir(&group) {
            Err(error) if !gone(&error) => {
                return Err(error).with_context(|| format!("remove {}", group.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Not there, or gone since it was opened.
fn gone(error: &io::Error) -> bool {
    let device = rustix::io::Errno::NODEV.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(device)
}
