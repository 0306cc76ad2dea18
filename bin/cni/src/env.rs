//! The environment of one call: which command, for which container and interface.

use std::ffi::OsString;
use std::fmt;

use crate::version::CniVersion;

/// Most bytes of what `CNI_ARGS` says of the pod: Kubernetes' names have at most 253. The kernel allows a variable 128 KiB.
const MAX_POD_ARG: usize = 253;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Version,
    Gc,
    Status,
}

impl Command {
    const ALL: [Self; 6] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Version,
        Self::Gc,
        Self::Status,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Version => "VERSION",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }

    /// The version of the specification that introduced the command.
    pub const fn since(self) -> CniVersion {
        match self {
            Self::Add | Self::Del | Self::Version => CniVersion::V0_3_0,
            Self::Check => CniVersion::V0_4_0,
            Self::Gc | Self::Status => CniVersion::V1_1_0,
        }
    }

    const fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Version | Self::Gc | Self::Status => &[],
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The environment is not one that the specification allows.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("required env variables [{}] missing", .0.join(","))]
    Missing(Vec<&'static str>),
    #[error("unknown CNI_COMMAND {0:?}")]
    UnknownCommand(String),
    #[error("{name} is not valid UTF-8: {lossy:?}")]
    NotUtf8 { name: &'static str, lossy: String },
    #[error("CNI_ARGS pair {0:?} must have the form KEY=VALUE")]
    ArgsPair(String),
    #[error("CNI_ARGS {key}={value} is not supported: {why}")]
    ArgUnsupported {
        key: &'static str,
        value: String,
        why: &'static str,
    },
    #[error("{name} in CNI_ARGS has more than {MAX_POD_ARG} bytes")]
    ArgTooLong { name: &'static str },
}

/// What the runtime asks for. Empty where a variable is absent and not required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub command: Command,
    pub container_id: String,
    pub netns: String,
    pub ifname: String,
    /// `CNI_ARGS`, not yet taken apart: it must not be able to spoil a DEL.
    args: Option<OsString>,
    /// The runtime means it when it names the plugin's own namespace.
    pub netns_override: bool,
}

/// The pod that `CNI_ARGS` names; empty where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodArgs {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Invocation {
    /// Takes the variables through `lookup`; `None` where no command is given (someone runs the plugin by hand).
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, EnvError> {
        let text = |name: &'static str| match lookup(name).map(OsString::into_string) {
            None => Ok(String::new()),
            Some(Ok(text)) => Ok(text),
            Some(Err(raw)) => Err(EnvError::NotUtf8 {
                name,
                lossy: raw.to_string_lossy().into_owned(),
            }),
        };
        let command = text("CNI_COMMAND")?;
        if command.is_empty() {
            return Ok(None);
        }
        let Some(command) = Command::ALL
            .into_iter()
            .find(|known| known.word() == command)
        else {
            return Err(EnvError::UnknownCommand(command));
        };
        let absent = |name: &&'static str| lookup(name).is_none_or(|value| value.is_empty());
        let missing: Vec<_> = command.required().iter().copied().filter(absent).collect();
        if !missing.is_empty() {
            return Err(EnvError::Missing(missing));
        }
        // These ask about the plugin or a network, not about a container: what else is set does not matter.
        if command.required().is_empty() {
            let (container_id, netns, ifname) = Default::default();
            return Ok(Some(Self {
                command,
                container_id,
                netns,
                ifname,
                args: None,
                netns_override: false,
            }));
        }
        Ok(Some(Self {
            command,
            container_id: text("CNI_CONTAINERID")?,
            netns: text("CNI_NETNS")?,
            ifname: text("CNI_IFNAME")?,
            args: lookup("CNI_ARGS"),
            netns_override: matches!(
                &*text("CNI_NETNS_OVERRIDE")?.to_ascii_lowercase(),
                "1" | "true"
            ),
        }))
    }

    /// Takes `CNI_ARGS` apart: pairs in any order, unknown keys ignored. An address or MAC of somebody's choice, as podman
    /// passes it, is refused.
    pub fn pod(&self) -> Result<PodArgs, EnvError> {
        let mut pod = PodArgs::default();
        let Some(args) = &self.args else {
            return Ok(pod);
        };
        let Some(args) = args.to_str() else {
            return Err(EnvError::NotUtf8 {
                name: "CNI_ARGS",
                lossy: args.to_string_lossy().into_owned(),
            });
        };
        for pair in args.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(EnvError::ArgsPair(pair.to_owned()));
            };
            let (name, field) = match key {
                "K8S_POD_NAMESPACE" => ("K8S_POD_NAMESPACE", &mut pod.namespace),
                "K8S_POD_NAME" => ("K8S_POD_NAME", &mut pod.name),
                "K8S_POD_UID" => ("K8S_POD_UID", &mut pod.uid),
                "IP" if !value.is_empty() => {
                    let why = "addresses come from the agent";
                    return Err(refused("IP", value, why));
                }
                "MAC" if !value.is_empty() => {
                    let why = "the MAC follows from the attachment";
                    return Err(refused("MAC", value, why));
                }
                _ => continue,
            };
            if value.len() > MAX_POD_ARG {
                return Err(EnvError::ArgTooLong { name });
            }
            value.clone_into(field);
        }
        Ok(pod)
    }
}

fn refused(key: &'static str, value: &str, why: &'static str) -> EnvError {
    let value = value.to_owned();
    EnvError::ArgUnsupported { key, value, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Option<Invocation>, EnvError> {
        Invocation::read(|name| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        })
    }

    #[test]
    fn reports_all_missing_variables_together() {
        let all = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
        assert_eq!(
            read(&[("CNI_COMMAND", "ADD")]),
            Err(EnvError::Missing(all.to_vec()))
        );
        assert_eq!(
            read(&[("CNI_COMMAND", "CHECK")]),
            Err(EnvError::Missing(all.to_vec()))
        );
        let some = vec!["CNI_CONTAINERID", "CNI_IFNAME"];
        assert_eq!(
            read(&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "")]),
            Err(EnvError::Missing(some))
        );
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(
            read(&[("CNI_COMMAND", "add")]),
            Err(EnvError::UnknownCommand("add".into()))
        );
        assert!(read(&[("CNI_COMMAND", "VERSION")]).unwrap().is_some());
    }

    #[test]
    fn takes_the_pod_from_args_in_any_order() {
        let with = |args| {
            let vars = [
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", "c"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_ARGS", args),
            ];
            read(&vars).unwrap().unwrap().pod()
        };
        let pod =
            with("K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_UID=u;K8S_POD_NAMESPACE=shop;X=a=b")
                .unwrap();
        assert_eq!(
            pod,
            PodArgs {
                namespace: "shop".into(),
                name: "web".into(),
                uid: "u".into()
            }
        );
        assert_eq!(with("").unwrap(), PodArgs::default());
        for args in ["IgnoreUnknown=1;IP=10.0.0.9", "MAC=02:00:00:00:00:01"] {
            let refused = with(args).unwrap_err();
            assert!(
                matches!(refused, EnvError::ArgUnsupported { .. }),
                "{refused}"
            );
        }
        assert_eq!(with("IP=;MAC=").unwrap(), PodArgs::default());
        assert_eq!(with("A=1;broken"), Err(EnvError::ArgsPair("broken".into())));
    }
}
