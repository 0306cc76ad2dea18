//! What must outlive the stand-in: one file for each pod. Written before the thing it names is made, so that a restart
//! finds everything that may exist.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const VERSION: u32 = 1;

/// A pod that this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    version: u32,
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub started_at: Timestamp,
    /// Host ports of its containers, as containerd passes them to plugins.
    #[serde(default)]
    pub port_mappings: Vec<Value>,
    /// The sandbox in use or under construction.
    pub sandbox: Option<Sandbox>,
    /// Sandboxes given up whose DEL has not succeeded yet.
    pub stale: Vec<Sandbox>,
    /// Init containers first, then the others, in the spec's order.
    pub containers: Vec<ContainerState>,
    /// The pod has come to its end and only waits to be deleted.
    pub finished: bool,
    /// Sandboxes planned so far.
    #[serde(default)]
    pub attempts: u32,
}

/// A sandbox: a namespace and, once `attached`, addresses in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// Name of the namespace; absent for a pod in the host's.
    pub netns: Option<String>,
    pub attached: bool,
    /// IPv4 first.
    pub ips: Vec<String>,
    /// Which of the pod's sandboxes this is: with a container runtime, its name there.
    #[serde(default)]
    pub attempt: u32,
    /// A container runtime may hold it, also where it has no namespace of its own.
    #[serde(default)]
    pub in_runtime: bool,
}

/// What is known of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    pub name: String,
    pub init: bool,
    pub restarts: i32,
    pub running: Option<Running>,
    pub last_exit: Option<Exit>,
}

/// A running process; the start time tells it from a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub id: String,
    pub pid: i32,
    /// Clock ticks after boot.
    pub ticks: u64,
    pub started_at: Timestamp,
}

/// How a container ended, or that it could not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub id: String,
    pub code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

impl PodState {
    pub fn new(uid: &str, namespace: &str, name: &str) -> Self {
        Self {
            version: VERSION,
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            started_at: Timestamp::now(),
            port_mappings: Vec::new(),
            sandbox: None,
            stale: Vec::new(),
            containers: Vec::new(),
            finished: false,
            attempts: 0,
        }
    }

    fn path(&self, dir: &Path) -> PathBuf {
        dir.join("pods").join(format!("{}.json", self.uid))
    }

    /// Writes the file as a whole or not at all.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let path = self.path(dir);
        let temporary = path.with_extension("tmp");
        let bytes = serde_json::to_vec(self).context("encode pod state")?;
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("write pod state {}", path.display()))
    }

    pub fn forget(&self, dir: &Path) -> Result<()> {
        let path = self.path(dir);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove pod state {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// All pods of an earlier run. Also makes the directories below `dir`.
pub fn load_all(dir: &Path) -> Result<Vec<PodState>> {
    for below in ["pods", "logs"] {
        let path = dir.join(below);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    let pods = dir.join("pods");
    let mut found = Vec::new();
    for entry in fs::read_dir(&pods).with_context(|| format!("read {}", pods.display()))? {
        let path = entry
            .with_context(|| format!("read {}", pods.display()))?
            .path();
        // A temporary file is a write that did not count.
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes =
            fs::read(&path).with_context(|| format!("read pod state {}", path.display()))?;
        let state: PodState = serde_json::from_slice(&bytes)
            .with_context(|| format!("decode pod state {}", path.display()))?;
        if state.version != VERSION {
            bail!(
                "pod state {} has version {}, this is {VERSION}",
                path.display(),
                state.version
            );
        }
        found.push(state);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load_all(dir.path()).unwrap(), []);
        let mut state = PodState::new("u-1", "shop", "web");
        let (netns, ips) = (Some("cni-x".into()), vec!["10.0.0.1".into()]);
        state.sandbox = Some(Sandbox {
            id: "s".into(),
            netns,
            attached: true,
            ips,
            ..Sandbox::default()
        });
        state.containers.push(ContainerState {
            name: "c".into(),
            ..ContainerState::default()
        });
        state.save(dir.path()).unwrap();
        fs::write(dir.path().join("pods/other.tmp"), "{").unwrap();
        assert_eq!(load_all(dir.path()).unwrap(), [state.clone()]);
        state.forget(dir.path()).unwrap();
        state.forget(dir.path()).unwrap();
        assert_eq!(load_all(dir.path()).unwrap(), []);
        fs::write(dir.path().join("pods/bad.json"), "{").unwrap();
        assert!(load_all(dir.path()).is_err());
    }
}
