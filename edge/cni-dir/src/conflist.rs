//! What our network configuration says. Pure.

use std::path::{Path, PathBuf};

use serde_json::json;

/// Versions of the specification that the plugin speaks, for runtimes that choose.
pub const CNI_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What a runtime takes that does not choose: one of Kubernetes 1.20's time knows nothing later, and CHECK begins here.
const CNI_VERSION: &str = "0.4.0";
/// Where the plugin looks for the agent if nobody tells it.
const DEFAULT_SOCKET: &str = "/run/tombolo/agent.sock";

/// Our network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    network: String,
    socket: PathBuf,
}

/// A value that a network configuration cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "network name {0:?} must begin with a letter or a digit and go on with those, '.', '_' and '-'"
)]
pub struct InvalidConflist(String);

impl Conflist {
    /// For a network of this name, and an agent with this socket.
    ///
    /// # Errors
    /// The name is none that the specification allows.
    pub fn new(network: &str, socket: &Path) -> Result<Self, InvalidConflist> {
        let mut bytes = network.bytes();
        let begins = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        if !begins || !bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(InvalidConflist(network.to_owned()));
        }
        Ok(Self {
            network: network.to_owned(),
            socket: socket.to_owned(),
        })
    }

    /// The file's content.
    #[must_use]
    pub fn text(&self) -> String {
        let mut plugin = json!({
            "type": super::PLUGIN,
            "capabilities": { "portMappings": true },
        });
        if self.socket != Path::new(DEFAULT_SOCKET) {
            plugin["agentSocket"] = json!(self.socket.to_string_lossy());
        }
        let conflist = json!({
            "cniVersion": CNI_VERSION,
            "cniVersions": CNI_VERSIONS,
            "name": self.network,
            "plugins": [plugin],
        });
        format!("{conflist:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_socket_is_named_where_the_plugin_would_not_find_it() {
        let text = |socket: &str| -> Value {
            let conflist = Conflist::new("pods", Path::new(socket)).unwrap();
            serde_json::from_str(&conflist.text()).unwrap()
        };
        let usual = text("/run/tombolo/agent.sock");
        assert_eq!(usual["name"], "pods");
        assert_eq!(usual["plugins"][0]["type"], "tombolo-cni");
        assert_eq!(usual["plugins"][0]["agentSocket"], Value::Null);
        assert_eq!(
            text("/run/x.sock")["plugins"][0]["agentSocket"],
            "/run/x.sock"
        );
    }

    #[test]
    fn names_as_the_specification_allows() {
        for name in ["tombolo", "a", "9.a_b-c"] {
            assert!(Conflist::new(name, Path::new("/s")).is_ok(), "{name}");
        }
        for name in ["", "-a", ".a", "a b", "a/b", "é"] {
            let error = Conflist::new(name, Path::new("/s")).unwrap_err();
            assert!(error.to_string().contains("network name"), "{error}");
        }
    }
}
