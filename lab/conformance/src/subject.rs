//! The plugin under test: its program, the network configuration that it is given, what must run beside it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::call::Call;
use crate::version::Version;

/// Where Debian has the reference plugins.
pub const DEBIAN: &str = "/usr/lib/cni";
/// Names of the two networks of a rig.
pub const NETWORKS: [&str; 2] = ["conform-a", "conform-b"];

/// What is known of a plugin beforehand.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Ours, with its agent.
    Tombolo {
        /// `tombolo-agent`.
        agent: PathBuf,
    },
    /// One of the reference's that makes interfaces and has its addresses from `host-local`.
    Reference,
    /// Any other: this is its configuration, but for `cniVersion` and `name`.
    Given {
        /// The configuration.
        conf: Value,
    },
}

/// A plugin under test.
#[derive(Clone, Debug)]
pub struct Subject {
    /// As it is called in reports.
    pub name: String,
    /// Its program.
    pub plugin: PathBuf,
    /// What is known of it.
    pub kind: Kind,
}

impl Subject {
    /// Our plugin and agent, in the folder of the programs.
    ///
    /// # Errors
    /// Where they were not built.
    pub fn tombolo(programs: &Path) -> Result<Self> {
        let (plugin, agent) = (programs.join("tombolo-cni"), programs.join("tombolo-agent"));
        for program in [&plugin, &agent] {
            ensure!(program.exists(), "{} was not built", program.display());
        }
        Ok(Self {
            name: "Tombolo".to_owned(),
            plugin,
            kind: Kind::Tombolo { agent },
        })
    }

    /// Debian's plugin of this type: `ptp` or `bridge`.
    ///
    /// # Errors
    /// Where it is not installed.
    pub fn reference(kind: &str) -> Result<Self> {
        let plugin = Path::new(DEBIAN).join(kind);
        ensure!(plugin.exists(), "there is no {}", plugin.display());
        Ok(Self {
            name: kind.to_owned(),
            plugin,
            kind: Kind::Reference,
        })
    }

    /// Any plugin.
    #[must_use]
    pub fn given(plugin: &Path, conf: Value) -> Self {
        let name = plugin.file_name().unwrap_or(plugin.as_os_str());
        Self {
            name: name.to_string_lossy().into_owned(),
            plugin: plugin.to_owned(),
            kind: Kind::Given { conf },
        }
    }

    /// Whether it has its addresses from another plugin.
    #[must_use]
    pub fn delegates(&self) -> bool {
        match &self.kind {
            Kind::Tombolo { .. } => false,
            Kind::Reference => true,
            Kind::Given { conf } => conf["ipam"]["type"].is_string(),
        }
    }

    /// The versions that it claims and that the suite speaks.
    ///
    /// # Errors
    /// Where it does not answer VERSION, or claims none of them.
    pub fn versions(&self) -> Result<Vec<Version>> {
        let call = Call::new(&self.plugin, None).env("CNI_COMMAND", "VERSION");
        let call = call.conf(&json!({ "cniVersion": "1.0.0" }));
        let answer = call.run()?.result().context("VERSION")?;
        let claimed = answer["supportedVersions"].as_array();
        let claimed = claimed.context("VERSION: no supportedVersions")?;
        let claims = |version: &Version| claimed.iter().any(|claim| claim == version.text());
        let versions: Vec<_> = Version::ALL.into_iter().filter(claims).collect();
        ensure!(
            !versions.is_empty(),
            "VERSION: none of 0.3.0 to 1.1.0 in {claimed:?}"
        );
        Ok(versions)
    }

    /// The `type` in a configuration.
    #[must_use]
    pub fn type_name(&self) -> String {
        let name = self.plugin.file_name().unwrap_or(self.plugin.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// The configuration of one of the [`NETWORKS`], where `dir` is the rig's directory.
    #[must_use]
    pub fn conf(&self, dir: &Path, version: &str, network: usize) -> Value {
        let mut conf = match &self.kind {
            Kind::Tombolo { .. } => {
                json!({ "agentSocket": dir.join("run/agent.sock"), "timeoutSeconds": 10 })
            }
            Kind::Reference => reference(dir, network),
            Kind::Given { conf } => conf.clone(),
        };
        conf["cniVersion"] = version.into();
        conf["name"] = NETWORKS[network].into();
        conf["type"] = self.type_name().into();
        conf
    }
}

/// For `ptp` and `bridge`: as few addresses as our own node has.
fn reference(dir: &Path, network: usize) -> Value {
    let third = network + 88;
    json!({
        "ipMasq": false,
        // For bridge.
        "bridge": format!("cnf{network}"),
        "isGateway": true,
        "ipam": {
            "type": "host-local",
            "dataDir": dir.join("host-local"),
            "ranges": [
                [{ "subnet": format!("10.{third}.0.0/28") }],
                [{ "subnet": format!("fd{third}::/124") }],
            ],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    })
}
