//! Runs a list of CNI plugins as libcni does: what each gets on stdin and in its environment, in which order, what is
//! remembered between ADD and DEL.
//!
//! ```text
//! ADD    p1 → p2 → …   stdin: its own configuration + name + cniVersion + prevResult (the one before) + runtimeConfig
//!                      the last result goes into the cache, with the configuration
//! CHECK  p1 → p2 → …   prevResult: the cached one, the same for all (0.4.0 and later)
//! DEL    … → p2 → p1   as CHECK, but an unreadable or absent cache entry is no obstacle; the entry goes at the end
//! GC     DEL of what the cache has of this network and the caller does not list; then p1 → p2 → …, each with the list
//! STATUS p1 → p2 → …   the first that cannot serve an ADD
//! ```
//!
//! Nothing here is asynchronous and nothing starts a thread: one call of one plugin is a `posix_spawn`, a poll loop over
//! its pipes and its pidfd, and a wait.

mod cache;
mod conf;
mod exec;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

pub use cache::{CacheError, Cached};
pub use conf::{ConfError, NetworkList, Plugin};
pub use exec::{Cancel, ExecError, PluginError};

/// What a runtime says of one attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConf {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`: a path; empty where there is none any more.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`, in the order in which they are passed.
    pub args: Vec<(String, String)>,
    /// Values of capabilities by name; a plugin gets those that its configuration declares.
    pub capabilities: Map<String, Value>,
}

/// An attachment that stands, for GC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Valid {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

impl Valid {
    /// Of this container and interface.
    #[must_use]
    pub fn new(container_id: &str, ifname: &str) -> Self {
        Self {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        }
    }
}

/// A command could not be carried out for a list.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No directory of `bin_dirs` holds the plugin.
    #[error("find plugin {kind:?} in {dirs:?}")]
    NoSuchPlugin {
        /// `type` of the plugin.
        kind: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// Calling the plugin failed, or the plugin did.
    #[error("plugin type={kind:?} failed ({command})")]
    Plugin {
        /// `type` of the plugin.
        kind: String,
        /// The CNI command.
        command: &'static str,
        /// What happened.
        #[source]
        source: ExecError,
    },
    /// The result cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The configuration's version has no such command.
    #[error("{command} needs cniVersion {since} or later, network {network:?} has {version}")]
    VersionTooOld {
        /// The CNI command.
        command: &'static str,
        /// First version that has it.
        since: &'static str,
        /// The network.
        network: String,
        /// Its version.
        version: String,
    },
    /// CHECK of what was never added (or was deleted).
    #[error("CHECK network {network:?} of {container_id:?}: no cached result")]
    NothingCached {
        /// The network.
        network: String,
        /// The container.
        container_id: String,
    },
    /// The list names no plugin, so that there is no result.
    #[error("network {network:?} has no plugins")]
    NoPlugins {
        /// The network.
        network: String,
    },
}

impl RunError {
    /// What the plugin itself reported, where it did.
    #[must_use]
    pub fn plugin_error(&self) -> Option<&PluginError> {
        match self {
            Self::Plugin {
                source: ExecError::Failed(error),
                ..
            } => Some(error),
            _ => None,
        }
    }

    /// The whole chain in one line, as runtimes put it into events.
    #[must_use]
    pub fn full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

/// Runs plugins found in some directories, remembering results in another.
#[derive(Clone, Debug)]
pub struct Runner {
    bin_dirs: Vec<PathBuf>,
    cni_path: OsString,
    cache: Option<PathBuf>,
    timeout: Duration,
}

impl Runner {
    /// A runner without a cache, which gives each plugin a minute.
    #[must_use]
    pub fn new(bin_dirs: &[PathBuf]) -> Self {
        let parts: Vec<_> = bin_dirs.iter().map(|dir| dir.as_os_str()).collect();
        Self {
            bin_dirs: bin_dirs.to_vec(),
            cni_path: parts.join(std::ffi::OsStr::new(":")),
            cache: None,
            timeout: Duration::from_secs(60),
        }
    }

    /// Keeps results below `dir` (in `dir/results`).
    #[must_use]
    pub fn with_cache(mut self, dir: &Path) -> Self {
        self.cache = Some(dir.join("results"));
        self
    }

    /// After this long a plugin gets SIGKILL.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// ADD of all plugins, in order; returns the last result. As in libcni, a failure undoes nothing: the caller
    /// sends a DEL.
    ///
    /// # Errors
    /// The first plugin that fails; or the cache.
    pub fn add(
        &self,
        list: &NetworkList,
        rt: &RuntimeConf,
        cancel: Option<&Cancel>,
    ) -> Result<Value, RunError> {
        let mut prev = None;
        for plugin in &list.plugins {
            let stdin = plugin.stdin(list, prev.as_ref(), &rt.capabilities);
            let output = self.call(plugin, "ADD", rt, &stdin, cancel)?;
            let parsed = serde_json::from_slice(&output).map_err(|source| RunError::Plugin {
                kind: plugin.kind.clone(),
                command: "ADD",
                source: ExecError::NotJson {
                    output: String::from_utf8_lossy(&output).into_owned(),
                    source,
                },
            });
            prev = Some(parsed?);
        }
        let result = prev.ok_or_else(|| RunError::NoPlugins {
            network: list.name.clone(),
        })?;
        if let Some(dir) = &self.cache {
            cache::store(dir, list, rt, &result)?;
        }
        Ok(result)
    }

    /// CHECK of all plugins, in order, against the cached result. Does nothing where the list says `disableCheck`.
    ///
    /// # Errors
    /// The first plugin that fails; a version before 0.4.0; nothing cached.
    pub fn check(&self, list: &NetworkList, rt: &RuntimeConf) -> Result<(), RunError> {
        self.since(list, "CHECK", "0.4.0")?;
        if list.disable_check {
            return Ok(());
        }
        let cached = self
            .cached(list, rt)?
            .ok_or_else(|| RunError::NothingCached {
                network: list.name.clone(),
                container_id: rt.container_id.clone(),
            })?;
        for plugin in &list.plugins {
            let stdin = plugin.stdin(list, Some(&cached.result), &rt.capabilities);
            self.call(plugin, "CHECK", rt, &stdin, None)?;
        }
        Ok(())
    }

    /// DEL of all plugins, in reverse order, then forgets the cached result.
    ///
    /// # Errors
    /// The first plugin that fails; those before it in the list are not called then, and the result stays cached.
    pub fn del(&self, list: &NetworkList, rt: &RuntimeConf) -> Result<(), RunError> {
        // What cannot be read counts as absent: the plugins must be able to do without.
        let cached = self
            .cached(list, rt)
            .unwrap_or_default()
            .map(|cached| cached.result);
        let prev = cached.filter(|_| list.at_least("0.4.0"));
        for plugin in list.plugins.iter().rev() {
            let stdin = plugin.stdin(list, prev.as_ref(), &rt.capabilities);
            self.call(plugin, "DEL", rt, &stdin, None)?;
        }
        if let Some(dir) = &self.cache {
            cache::forget(dir, list, rt)?;
        }
        Ok(())
    }

    /// STATUS of all plugins, in order. A version before 1.1.0 knows none: all is well.
    ///
    /// # Errors
    /// The first plugin that cannot serve an ADD now.
    pub fn status(&self, list: &NetworkList) -> Result<(), RunError> {
        if !list.at_least("1.1.0") {
            return Ok(());
        }
        for plugin in &list.plugins {
            let stdin = plugin.stdin(list, None, &Map::new());
            self.call(plugin, "STATUS", &RuntimeConf::default(), &stdin, None)?;
        }
        Ok(())
    }

    /// Everything of this network but `valid` goes: DEL of what the cache still has of it, then (from 1.1.0 on) GC of all
    /// plugins, in order. `None` calls them without a list. Does nothing where the list says `disableGC`.
    ///
    /// # Errors
    /// The first that fails, after all were called.
    pub fn gc(&self, list: &NetworkList, valid: Option<&[Valid]>) -> Result<(), RunError> {
        if list.disable_gc {
            return Ok(());
        }
        let stands = |id: &str, ifname: &str| {
            let mut all = valid.into_iter().flatten();
            all.any(|valid| valid.container_id == id && valid.ifname == ifname)
        };
        let mut first = Ok(());
        for entry in self.attachments(list)? {
            if !stands(&entry.container_id, &entry.if_name) {
                first = first.and(self.del(list, &entry.runtime_conf()));
            }
        }
        if !list.at_least("1.1.0") {
            return first;
        }
        for plugin in &list.plugins {
            let mut stdin = plugin.stdin(list, None, &Map::new());
            if let Some(valid) = valid {
                stdin["cni.dev/valid-attachments"] = json!(valid);
                // The specification's first text said so; libcni sends both.
                stdin["cni.dev/attachments"] = json!(valid);
            }
            let outcome = self.call(plugin, "GC", &RuntimeConf::default(), &stdin, None);
            first = first.and(outcome.map(drop));
        }
        first
    }

    /// What VERSION of the plugin of this type answers.
    ///
    /// # Errors
    /// Where it cannot be called, fails, or does not answer JSON.
    pub fn version(&self, kind: &str) -> Result<Value, RunError> {
        let plugin = Plugin::named(kind);
        let stdin = json!({ "cniVersion": "1.1.0" });
        let output = self.call(&plugin, "VERSION", &RuntimeConf::default(), &stdin, None)?;
        serde_json::from_slice(&output).map_err(|source| RunError::Plugin {
            kind: kind.to_owned(),
            command: "VERSION",
            source: ExecError::NotJson {
                output: String::from_utf8_lossy(&output).into_owned(),
                source,
            },
        })
    }

    /// What the cache has of this network, by container and interface. Entries that cannot be read are left out.
    ///
    /// # Errors
    /// Where the cache cannot be listed.
    pub fn attachments(&self, list: &NetworkList) -> Result<Vec<Cached>, CacheError> {
        let cache = self.cache.as_ref();
        let mut all = cache.map_or(Ok(Vec::new()), |dir| cache::all(dir))?;
        all.retain(|entry| entry.network_name == list.name);
        Ok(all)
    }

    /// The cached result of an attachment.
    ///
    /// # Errors
    /// Where the entry exists but cannot be read.
    pub fn cached(
        &self,
        list: &NetworkList,
        rt: &RuntimeConf,
    ) -> Result<Option<Cached>, CacheError> {
        self.cache
            .as_ref()
            .map_or(Ok(None), |dir| cache::load(dir, list, rt))
    }

    /// One call of one plugin with this stdin; returns its stdout. For measurements and tests of single plugins.
    ///
    /// # Errors
    /// Where it cannot be found or called, or fails.
    pub fn call(
        &self,
        plugin: &Plugin,
        command: &'static str,
        rt: &RuntimeConf,
        stdin: &Value,
        cancel: Option<&Cancel>,
    ) -> Result<Vec<u8>, RunError> {
        let program = self.find(&plugin.kind)?;
        let env = exec::Env {
            command,
            rt,
            cni_path: &self.cni_path,
        };
        exec::run(
            &program,
            &env,
            stdin.to_string().as_bytes(),
            self.timeout,
            cancel,
        )
        .map_err(|source| RunError::Plugin {
            kind: plugin.kind.clone(),
            command,
            source,
        })
    }

    fn find(&self, kind: &str) -> Result<PathBuf, RunError> {
        let candidates = self.bin_dirs.iter().map(|dir| dir.join(kind));
        let plain = !kind.is_empty() && !kind.contains('/');
        let found = candidates.filter(|_| plain).find(|path| path.is_file());
        found.ok_or_else(|| RunError::NoSuchPlugin {
            kind: kind.to_owned(),
            dirs: self.bin_dirs.clone(),
        })
    }

    fn since(
        &self,
        list: &NetworkList,
        command: &'static str,
        since: &'static str,
    ) -> Result<(), RunError> {
        if list.at_least(since) {
            return Ok(());
        }
        let (network, version) = (list.name.clone(), list.cni_version.clone());
        Err(RunError::VersionTooOld {
            command,
            since,
            network,
            version,
        })
    }
}
