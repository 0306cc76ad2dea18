//! Which configurations of others keep a runtime from taking ours. Pure.
//!
//! Runtimes read the files that end in `.conflist`, `.conf` or `.json` in the order of their names and take the first that
//! they can use; some take none at all once one cannot be read, wherever it sorts.

use std::fmt;

use serde_json::{Map, Value};

/// A configuration has a few KiB; we read no more of one than this.
pub const MAX_CONF_BYTES: u64 = 1 << 20;

/// Another's configuration that is in our way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Of the file.
    pub name: String,
    pub trouble: Trouble,
    before: bool,
}

/// How it is in our way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Runtimes take this network and not ours.
    TakesOurPlace {
        /// Of the network.
        network: String,
    },
    /// Runtimes may refuse all configurations because of this one.
    Malformed {
        /// What is wrong with it.
        why: String,
    },
}

impl Rival {
    /// Whether its name sorts before ours.
    #[must_use]
    pub const fn is_before(&self) -> bool {
        self.before
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trouble {
            Trouble::TakesOurPlace { network } => write!(
                f,
                "{} sorts before {}: runtimes take its network {network:?} and not ours",
                self.name,
                super::CONFLIST
            ),
            Trouble::Malformed { why } => write!(
                f,
                "{} cannot be used ({why}): runtimes may refuse all networks because of it",
                self.name
            ),
        }
    }
}

/// Whether runtimes read a file of this name.
pub fn is_read(name: &str) -> bool {
    [".conflist", ".conf", ".json"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

/// Whether this file of another, with its content or why that cannot be read, is in the way of ours.
pub fn judge(ours: &str, name: &str, content: Result<Vec<u8>, String>) -> Option<Rival> {
    let network = content.and_then(|bytes| network(name, &bytes));
    let before = name < ours;
    let trouble = match network {
        Ok(network) if before => Trouble::TakesOurPlace { network },
        Ok(_) => return None,
        Err(why) => Trouble::Malformed { why },
    };
    Some(Rival {
        name: name.to_owned(),
        trouble,
        before,
    })
}

/// The network's name, or what a runtime finds wrong.
fn network(file: &str, bytes: &[u8]) -> Result<String, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let conf = value.as_object().ok_or("it is not a JSON object")?;
    if file.ends_with(".conflist") {
        let plugins = conf.get("plugins").and_then(Value::as_array);
        let plugins = plugins.ok_or("plugins is not a list")?;
        if plugins.is_empty() {
            return Err("plugins is empty".to_owned());
        }
        for (index, plugin) in plugins.iter().enumerate() {
            let plugin = plugin.as_object();
            let plugin = plugin.ok_or_else(|| format!("plugins[{index}] is not an object"))?;
            word(plugin, "type").map_err(|why| format!("plugins[{index}].{why}"))?;
        }
    } else {
        word(conf, "type")?;
    }
    word(conf, "name")
}

/// A text that must be there.
fn word(object: &Map<String, Value>, field: &str) -> Result<String, String> {
    match object.get(field).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("{field} is not a text, or empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "05-tombolo.conflist";

    fn judged(name: &str, content: &str) -> Option<String> {
        judge(OURS, name, Ok(content.as_bytes().to_vec())).map(|rival| rival.to_string())
    }

    #[test]
    fn what_is_in_the_way_and_what_is_not() {
        let list = r#"{"name": "n", "plugins": [{"type": "t"}]}"#;
        let single = r#"{"name": "n", "type": "t"}"#;
        for (name, content, expected) in [
            ("00-a.conflist", list, "sorts before"),
            ("05-a.conf", single, "sorts before"),
            ("00-a.json", single, "sorts before"),
            ("00-a.conflist", single, "plugins is not a list"),
            ("00-a.conf", list, "type is not a text"),
            ("10-a.conflist", "", "EOF"),
            ("10-a.conflist", "[]", "not a JSON object"),
            (
                "10-a.conflist",
                r#"{"name": "n", "plugins": []}"#,
                "plugins is empty",
            ),
            (
                "10-a.conflist",
                r#"{"name": "n", "plugins": [{}]}"#,
                "plugins[0].type",
            ),
            (
                "10-a.conflist",
                r#"{"plugins": [{"type": "t"}]}"#,
                "name is not a text",
            ),
            (
                "10-a.conf",
                r#"{"name": "", "type": "t"}"#,
                "name is not a text, or empty",
            ),
        ] {
            let told = judged(name, content).unwrap();
            assert!(told.starts_with(name) && told.contains(expected), "{told}");
        }
        assert_eq!(judged("10-a.conflist", list), None);
        assert_eq!(judged("99-loopback.conf", single), None);
        let unread = judge(OURS, "10-a.conf", Err("permission denied".to_owned())).unwrap();
        assert!(unread.to_string().contains("permission denied"));
    }

    #[test]
    fn names_that_runtimes_read() {
        for (name, read) in [
            ("10-a.conflist", true),
            ("a.conf", true),
            ("a.json", true),
            ("10-a.conflist.tombolo-saved", false),
            (".05-tombolo.conflist.new", false),
            ("README", false),
        ] {
            assert_eq!(is_read(name), read, "{name}");
        }
    }

    #[test]
    fn fuzz() {
        let words = &["name", "plugins", "type", "[{", "}]", "\"n\"", "null"];
        tombolo_fuzz::Target::new("cni-conf")
            .words(words)
            .check(|bytes| {
                for name in ["00-a.conflist", "00-a.conf", "10-a.json"] {
                    // Any bytes either make a network or are told of; a name that sorts behind ours is told of only if they do not.
                    let made = network(name, bytes).is_ok();
                    let told = judge(OURS, name, Ok(bytes.to_vec()));
                    assert_eq!(told.is_none(), made && name > OURS);
                }
            });
    }
}
