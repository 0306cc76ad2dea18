//! What is remembered of an ADD until its DEL: one file per network, container and interface.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{NetworkList, RuntimeConf};

const KIND: &str = "cniCacheV1";

/// An entry of the cache. Field names as in libcni's, except that `config` is JSON and not base64 of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cached {
    kind: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// The list, as it was at the time of the ADD.
    pub config: Value,
    /// `CNI_IFNAME`.
    pub if_name: String,
    /// `CNI_NETNS`.
    #[serde(default)]
    pub netns: String,
    /// Network name.
    pub network_name: String,
    /// `CNI_ARGS`.
    #[serde(default)]
    pub cni_args: Vec<(String, String)>,
    /// Capabilities of the runtime.
    #[serde(default)]
    pub capability_args: Map<String, Value>,
    /// What the last plugin answered.
    pub result: Value,
}

impl Cached {
    /// As the runtime said it at the time of the ADD.
    pub(super) fn runtime_conf(&self) -> RuntimeConf {
        RuntimeConf {
            container_id: self.container_id.clone(),
            netns: self.netns.clone(),
            ifname: self.if_name.clone(),
            args: self.cni_args.clone(),
            capabilities: self.capability_args.clone(),
        }
    }
}

/// The cache could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The file.
    #[error("{operation} cached result {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its content.
    #[error("decode cached result {}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

fn path(dir: &Path, list: &NetworkList, rt: &RuntimeConf) -> PathBuf {
    dir.join(format!("{}-{}-{}", list.name, rt.container_id, rt.ifname))
}

pub(super) fn store(
    dir: &Path,
    list: &NetworkList,
    rt: &RuntimeConf,
    result: &Value,
) -> Result<(), CacheError> {
    let entry = Cached {
        kind: KIND.to_owned(),
        container_id: rt.container_id.clone(),
        config: list.source.clone(),
        if_name: rt.ifname.clone(),
        netns: rt.netns.clone(),
        network_name: list.name.clone(),
        cni_args: rt.args.clone(),
        capability_args: rt.capabilities.clone(),
        result: result.clone(),
    };
    let path = path(dir, list, rt);
    let bytes = serde_json::to_vec(&entry).map_err(|source| CacheError::Json {
        path: path.clone(),
        source,
    })?;
    let write = || match fs::write(&path, &bytes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir)?;
            fs::write(&path, &bytes)
        }
        done => done,
    };
    write().map_err(|source| CacheError::File {
        operation: "write",
        path: path.clone(),
        source,
    })
}

pub(super) fn load(
    dir: &Path,
    list: &NetworkList,
    rt: &RuntimeConf,
) -> Result<Option<Cached>, CacheError> {
    let path = path(dir, list, rt);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| CacheError::Json { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CacheError::File {
            operation: "read",
            path,
            source,
        }),
    }
}

/// All entries that can be read, by file name.
pub(super) fn all(dir: &Path) -> Result<Vec<Cached>, CacheError> {
    let failed = |source| CacheError::File {
        operation: "list",
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    let read = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
    Ok(paths.into_iter().filter_map(read).collect())
}

pub(super) fn forget(dir: &Path, list: &NetworkList, rt: &RuntimeConf) -> Result<(), CacheError> {
    let path = path(dir, list, rt);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::File {
            operation: "remove",
            path,
            source: error,
        }),
        _ => Ok(()),
    }
}
