//! Network configurations on disk, and what of them a plugin gets to see.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// The file or directory.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not JSON.
    #[error("decode network configuration")]
    Json(#[source] serde_json::Error),
    /// A field.
    #[error("network configuration: {field} {problem}")]
    Field {
        /// Which.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// One plugin of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// `type`: the program's name.
    pub kind: String,
    conf: Map<String, Value>,
    capabilities: Vec<String>,
}

/// A network: a name, a version and the plugins to run in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkList {
    /// `name`.
    pub name: String,
    /// The version in which the plugins are spoken to: the highest of `cniVersion` and `cniVersions`.
    pub cni_version: String,
    /// `disableCheck`.
    pub disable_check: bool,
    /// `disableGC`.
    pub disable_gc: bool,
    /// `plugins`.
    pub plugins: Vec<Plugin>,
    /// As it was read, for the cache.
    pub(super) source: Value,
}

impl NetworkList {
    /// Reads a list, or a single plugin's configuration as a list of one.
    ///
    /// # Errors
    /// Where it cannot be read, is not JSON, or a field is missing or of the wrong type.
    pub fn load(path: &Path) -> Result<Self, ConfError> {
        let read = std::fs::read(path).map_err(|source| ConfError::Read {
            path: path.to_owned(),
            source,
        });
        Self::parse(&read?)
    }

    /// Reads the first file of a directory, by name, among `.conf`, `.conflist` and `.json`; `None` where there is none.
    ///
    /// # Errors
    /// As [`NetworkList::load`]: a malformed first file hides the later ones, as with containerd.
    pub fn load_first(dir: &Path) -> Result<Option<Self>, ConfError> {
        let failed = |source| ConfError::Read {
            path: dir.to_owned(),
            source,
        };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut first: Option<PathBuf> = None;
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let known = ["conf", "conflist", "json"]
                .iter()
                .any(|e| path.extension().is_some_and(|x| x == *e));
            if known && first.as_ref().is_none_or(|first| path < *first) {
                first = Some(path);
            }
        }
        first.map(|path| Self::load(&path)).transpose()
    }

    /// Reads a list, or a single plugin's configuration as a list of one.
    ///
    /// # Errors
    /// As [`NetworkList::load`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfError> {
        let source: Value = serde_json::from_slice(bytes).map_err(ConfError::Json)?;
        let conf = source
            .as_object()
            .ok_or_else(|| field("the whole", "must be an object"))?;
        let name = text(conf, "name")?
            .filter(|name| !name.is_empty())
            .ok_or_else(|| field("name", "is missing"))?;
        let cni_version = highest_version(conf)?;
        let (disable_check, disable_gc) = (flag(conf, "disableCheck")?, flag(conf, "disableGC")?);
        let plugins = match conf.get("plugins") {
            Some(Value::Array(plugins)) if !plugins.is_empty() => plugins
                .iter()
                .enumerate()
                .map(|(index, plugin)| {
                    let conf = plugin.as_object();
                    let conf = conf
                        .ok_or_else(|| field(format!("plugins[{index}]"), "must be an object"))?;
                    Plugin::new(conf, &format!("plugins[{index}]."))
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(field("plugins", "must be a list that is not empty")),
            None => vec![Plugin::new(conf, "")?],
        };
        Ok(Self {
            name: name.to_owned(),
            cni_version,
            disable_check,
            disable_gc,
            plugins,
            source,
        })
    }

    pub(super) fn at_least(&self, version: &str) -> bool {
        numbers(&self.cni_version) >= numbers(version)
    }
}

impl Plugin {
    pub(super) fn named(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            conf: Map::new(),
            capabilities: Vec::new(),
        }
    }

    fn new(conf: &Map<String, Value>, prefix: &str) -> Result<Self, ConfError> {
        let missing = || field(format!("{prefix}type"), "is missing");
        let kind = text(conf, "type")?
            .filter(|kind| !kind.is_empty())
            .ok_or_else(missing)?
            .to_owned();
        let capabilities = match conf.get("capabilities") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(declared)) => declared
                .iter()
                .filter(|(_, on)| **on == Value::Bool(true))
                .map(|(name, _)| name.clone())
                .collect(),
            Some(_) => return Err(field(format!("{prefix}capabilities"), "must be an object")),
        };
        Ok(Self {
            kind,
            conf: conf.clone(),
            capabilities,
        })
    }

    /// What the plugin gets on stdin: its own configuration, and what the list and the runtime add to it.
    #[must_use]
    pub fn stdin(
        &self,
        list: &NetworkList,
        prev: Option<&Value>,
        capabilities: &Map<String, Value>,
    ) -> Value {
        let mut conf = self.conf.clone();
        conf.insert("name".into(), list.name.clone().into());
        conf.insert("cniVersion".into(), list.cni_version.clone().into());
        if let Some(prev) = prev {
            conf.insert("prevResult".into(), prev.clone());
        }
        let given = self
            .capabilities
            .iter()
            .filter_map(|name| Some((name.clone(), capabilities.get(name)?.clone())));
        let given: Map<_, _> = given.collect();
        if !given.is_empty() {
            conf.insert("runtimeConfig".into(), given.into());
        }
        Value::Object(conf)
    }
}

fn flag(conf: &Map<String, Value>, name: &str) -> Result<bool, ConfError> {
    match conf.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        // libcni takes the word too.
        Some(Value::String(word)) if word == "true" => Ok(true),
        Some(Value::String(word)) if word == "false" => Ok(false),
        Some(_) => Err(field(name, "must be true or false")),
    }
}

/// Versions compare number by number; what is no number counts as 0.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

fn highest_version(conf: &Map<String, Value>) -> Result<String, ConfError> {
    let mut versions: Vec<&str> = text(conf, "cniVersion")?.into_iter().collect();
    match conf.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for version in list {
                versions.push(
                    version
                        .as_str()
                        .ok_or_else(|| field("cniVersions", "must be a list of strings"))?,
                );
            }
        }
        Some(_) => return Err(field("cniVersions", "must be a list of strings")),
    }
    let highest = versions.into_iter().max_by_key(|version| numbers(version));
    // What the specification reads into the absence of a version.
    Ok(highest.unwrap_or("0.1.0").to_owned())
}

fn text<'a>(conf: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ConfError> {
    match conf.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(field(name, "must be a string")),
    }
}

fn field(field: impl Into<String>, problem: &'static str) -> ConfError {
    ConfError::Field {
        field: field.into(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<NetworkList, ConfError> {
        NetworkList::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_plugin_sees_its_own_part_and_what_is_added() {
        let list = parse(&json!({
            "cniVersion": "0.4.0", "cniVersions": ["1.0.0", "0.3.1"], "name": "net", "disableCheck": "true",
            "plugins": [
                { "type": "a", "x": 1, "name": "other", "capabilities": { "portMappings": true, "bandwidth": false } },
                { "type": "b" },
            ],
        }))
        .unwrap();
        assert_eq!(
            (list.cni_version.as_str(), list.disable_check),
            ("1.0.0", true)
        );
        let capabilities = json!({ "portMappings": [1], "bandwidth": {}, "mac": "m" });
        let stdin = list.plugins[0].stdin(
            &list,
            Some(&json!({ "ips": [] })),
            capabilities.as_object().unwrap(),
        );
        let expected = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "a", "x": 1, "prevResult": { "ips": [] },
            "capabilities": { "portMappings": true, "bandwidth": false }, "runtimeConfig": { "portMappings": [1] },
        });
        assert_eq!(stdin, expected);
        let stdin = list.plugins[1].stdin(&list, None, &Map::new());
        assert_eq!(
            stdin,
            json!({ "cniVersion": "1.0.0", "name": "net", "type": "b" })
        );
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list =
            parse(&json!({ "cniVersion": "0.3.1", "name": "lo", "type": "loopback" })).unwrap();
        assert_eq!(
            (list.plugins.len(), list.plugins[0].kind.as_str()),
            (1, "loopback")
        );
        assert!(!list.at_least("0.4.0") && list.at_least("0.3.1"));
    }

    #[test]
    fn the_field_at_fault_is_named() {
        for (conf, name) in [
            (json!([]), "the whole"),
            (json!({ "type": "a" }), "name"),
            (json!({ "name": "n" }), "type"),
            (json!({ "name": "n", "plugins": [] }), "plugins"),
            (
                json!({ "name": "n", "plugins": [{ "type": "a" }, {}] }),
                "plugins[1].type",
            ),
            (
                json!({ "name": "n", "type": "a", "disableCheck": 1 }),
                "disableCheck",
            ),
            (
                json!({ "name": "n", "type": "a", "cniVersions": [1] }),
                "cniVersions",
            ),
            (
                json!({ "name": "n", "type": "a", "capabilities": [] }),
                "capabilities",
            ),
        ] {
            let Err(ConfError::Field { field, .. }) = parse(&conf) else {
                panic!("{conf}")
            };
            assert_eq!(field, name);
        }
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            NetworkList::load_first(&dir.path().join("absent")).unwrap(),
            None
        );
        assert_eq!(NetworkList::load_first(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join("00-tmp"), "{").unwrap();
        std::fs::write(dir.path().join("20-b.conf"), r#"{"name":"b","type":"b"}"#).unwrap();
        std::fs::write(
            dir.path().join("10-a.conflist"),
            r#"{"name":"a","plugins":[{"type":"a"}]}"#,
        )
        .unwrap();
        assert_eq!(
            NetworkList::load_first(dir.path()).unwrap().unwrap().name,
            "a"
        );
        std::fs::write(dir.path().join("05-c.json"), "{").unwrap();
        assert!(matches!(
            NetworkList::load_first(dir.path()),
            Err(ConfError::Json(_))
        ));
    }
}
