//! What core and the plugin must not name, which of core's folders may use which, and how long a file may be.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::paths::{self, Named};
use super::{Ban, Breach};

/// Lines of a product file above which it must be split.
pub const MAX_LINES: usize = 800;

/// Folders with sources of ours.
const FOLDERS: &[&str] = &[
    "core",
    "model",
    "edge",
    "bin",
    "lab",
    "e2e",
    "xtask/src",
    "bench",
    "fuzz",
];

/// What core must not name. A path stands for all below it, and for the modules above it when they are named alone
/// (`use std::time;` would hide `time::Instant`).
const CORE: &[(&str, Ban)] = &[
    ("std::time::Instant", Ban::Clock),
    ("std::time::SystemTime", Ban::Clock),
    ("std::time::UNIX_EPOCH", Ban::Clock),
    ("std::fs", Ban::Io),
    ("std::io", Ban::Io),
    ("std::process", Ban::Io),
    ("std::os", Ban::Io),
    ("std::net::TcpListener", Ban::Io),
    ("std::net::TcpStream", Ban::Io),
    ("std::net::UdpSocket", Ban::Io),
    ("std::net::ToSocketAddrs", Ban::Io),
    ("print!", Ban::Io),
    ("println!", Ban::Io),
    ("eprint!", Ban::Io),
    ("eprintln!", Ban::Io),
    ("dbg!", Ban::Io),
    ("std::env", Ban::Environment),
    ("env!", Ban::Environment),
    ("option_env!", Ban::Environment),
    ("std::collections::HashMap", Ban::Randomness),
    ("std::collections::HashSet", Ban::Randomness),
    ("std::collections::hash_map", Ban::Randomness),
    ("std::collections::hash_set", Ban::Randomness),
    ("std::hash::RandomState", Ban::Randomness),
    ("rand", Ban::Randomness),
    ("fastrand", Ban::Randomness),
    ("getrandom", Ban::Randomness),
    ("async", Ban::Async),
    ("await", Ban::Async),
    ("std::future", Ban::Async),
    ("tokio", Ban::Async),
    ("futures", Ban::Async),
    ("std::thread", Ban::Threads),
    ("std::sync::mpsc", Ban::Threads),
];

/// What the plugin must not name; `*` stands for any path.
const PLUGIN: &[(&str, Ban)] = &[
    ("std::process::Command", Ban::PluginChildren),
    ("std::thread", Ban::PluginChildren),
    ("tokio::process", Ban::PluginChildren),
    ("tokio::task::spawn_blocking", Ban::PluginChildren),
    ("*::new_multi_thread", Ban::PluginChildren),
    ("rustix::runtime", Ban::PluginChildren),
];

/// Core's folders may use themselves, `types`, and this.
const BETWEEN_FOLDERS: &[(&str, &str)] = &[
    ("ipam", "crate::datapath::EndpointAddress"),
    ("eni", "crate::datapath::EndpointAddress"),
    // What a node wants is what its planner works on.
    ("eni", "crate::ipam::Demand"),
];

/// A source file: path below the root, and text.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: String,
    pub text: String,
}

/// All sources of the repository at `root`.
pub fn read(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut files = Vec::new();
    for folder in FOLDERS
        .iter()
        .map(|folder| root.join(folder))
        .filter(|folder| folder.is_dir())
    {
        walk(root, &folder, &mut files)?;
    }
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<Source>) -> anyhow::Result<()> {
    let list = || format!("list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(list)? {
        let path = entry.with_context(list)?.path();
        if path.is_dir() && !path.ends_with("target") {
            walk(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            files.push(Source {
                path: path.strip_prefix(root)?.display().to_string(),
                text,
            });
        }
    }
    Ok(())
}

/// What is wrong with this file.
pub fn breaches(file: &Source) -> anyhow::Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    let lines = file.text.lines().count();
    if lines > MAX_LINES && !file.path.ends_with("/generated.rs") {
        let found = format!("{lines} lines, {MAX_LINES} are allowed");
        breaches.push(Breach {
            place: file.path.clone(),
            ban: Ban::Length,
            found,
        });
    }
    let bans = match file.path.as_str() {
        path if is_test(path) => return Ok(breaches),
        path if path.starts_with("core/src/") => CORE,
        path if path.starts_with("bin/cni/src/") => PLUGIN,
        _ => return Ok(breaches),
    };
    let module = module(&file.path);
    let names = paths::names(&file.text, &module).with_context(|| format!("read {}", file.path))?;
    for name in names {
        let breach = |ban, found| Breach {
            place: format!("{}:{}", file.path, name.line),
            ban,
            found,
        };
        let broken = bans.iter().filter(|(banned, _)| covers(banned, &name));
        breaches
            .extend(broken.map(|(banned, ban)| {
                breach(*ban, format!("{} ({banned} is banned)", name.text()))
            }));
        if file.path.starts_with("core/src/") && !folder_may_use(&module, &name) {
            breaches.push(breach(
                Ban::Folders,
                format!("{} is not for {}", name.text(), module.join("::")),
            ));
        }
    }
    Ok(breaches)
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// `core/src/ipam/pool.rs` is `crate::ipam::pool`.
fn module(path: &str) -> Vec<String> {
    let below = path
        .split_once("/src/")
        .map_or(path, |(_, below)| below)
        .trim_end_matches(".rs");
    let parts = below
        .split('/')
        .filter(|part| !["lib", "main"].contains(part));
    std::iter::once("crate")
        .chain(parts)
        .map(str::to_owned)
        .collect()
}

/// Whether a name is the banned path, lies below it, or is a module above it.
fn covers(banned: &str, name: &Named) -> bool {
    let Some(last) = name.path.last() else {
        return false;
    };
    if let Some(ending) = banned.strip_prefix("*::") {
        return last == ending;
    }
    let banned: Vec<&str> = banned.split("::").collect();
    let common = banned
        .iter()
        .zip(&name.path)
        .take_while(|(a, b)| *a == b)
        .count();
    let is_module = last.starts_with(|c: char| c.is_ascii_lowercase());
    common == banned.len() || (common == name.path.len() && common >= 2 && is_module)
}

fn folder_may_use(module: &[String], name: &Named) -> bool {
    let (Some(own), Some(other)) = (module.get(1), name.path.get(1)) else {
        return true;
    };
    if name.path[0] != "crate" || own == other || other == "types" {
        return true;
    }
    BETWEEN_FOLDERS
        .iter()
        .any(|(folder, path)| folder == own && name.text() == *path)
}
