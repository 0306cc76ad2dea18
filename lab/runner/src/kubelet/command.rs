//! What a container runs: command, arguments and environment, with `$(NAME)` replaced. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

/// A container's command line as it will be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    pub program: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<String>,
}

/// A container that cannot be started as its spec says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    #[error(
        "container {0:?}: command is empty, and there are no images here: name a program of the host"
    )]
    NoCommand(String),
    #[error(
        "container {container:?}: environment variable {name:?}: this source of values is not supported"
    )]
    Source { container: String, name: String },
}

/// Search path of every container.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line of `container` in `pod`, which has these addresses.
pub fn launch(
    pod: &Pod,
    container: &Container,
    pod_ips: &[String],
    host_ip: &str,
) -> Result<Launch, LaunchError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let ip = pod_ips.first().cloned().unwrap_or_default();
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOSTNAME".to_owned(), name),
        ("POD_IP".to_owned(), ip),
        ("POD_IPS".to_owned(), pod_ips.join(",")),
    ]);
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => expand(value, &env),
            (None, None) => String::new(),
            (None, Some(source)) => source
                .field_ref
                .as_ref()
                .and_then(|field| field_value(pod, &field.field_path, pod_ips, host_ip))
                .ok_or_else(|| LaunchError::Source {
                    container: container.name.clone(),
                    name: variable.name.clone(),
                })?,
        };
        env.insert(variable.name.clone(), value);
    }
    let words = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten());
    let has_command = container
        .command
        .as_ref()
        .is_some_and(|command| !command.is_empty());
    let mut words = words.map(|word| expand(word, &env));
    match words
        .next()
        .filter(|program| has_command && !program.is_empty())
    {
        Some(program) => {
            let args = words.collect();
            Ok(Launch {
                program,
                args,
                env,
                working_dir: container.working_dir.clone(),
            })
        }
        None => Err(LaunchError::NoCommand(container.name.clone())),
    }
}

fn field_value(pod: &Pod, path: &str, pod_ips: &[String], host_ip: &str) -> Option<String> {
    let metadata = &pod.metadata;
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => pod.spec.as_ref()?.node_name.clone(),
        "status.podIP" => pod_ips.first().cloned(),
        "status.podIPs" => Some(pod_ips.join(",")),
        "status.hostIP" => Some(host_ip.to_owned()),
        _ => None,
    }
}

/// Replaces `$(NAME)` where NAME is known; `$$(NAME)` stands for `$(NAME)`.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(escaped) = rest.strip_prefix('$') {
            out.push('$');
            rest = escaped;
            continue;
        }
        let name = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, after)| Some((env.get(name)?, after))) {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use k8s_openapi::serde_json::{Value, from_value, json};

    use super::*;

    fn of(container: Value) -> Result<Launch, LaunchError> {
        let metadata = json!({ "name": "web", "namespace": "shop", "uid": "u" });
        let spec = json!({ "nodeName": "n1", "containers": [container] });
        let pod: Pod = from_value(json!({ "metadata": metadata, "spec": spec })).unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        launch(
            &pod,
            &container,
            &["10.0.0.1".into(), "fd00::1".into()],
            "10.0.9.9",
        )
    }

    #[test]
    fn addresses_names_and_variables_are_there() {
        let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
        let made = of(json!({
            "name": "c", "command": ["/bin/$(X)"], "args": ["$(POD_IP)", "$(ABSENT)", "$$(X)", "a$", "$(X"],
            "workingDir": "/tmp",
            "env": [
                { "name": "X", "value": "x" }, { "name": "Y", "value": "$(X)$(X)" }, { "name": "EMPTY" },
                { "name": "NODE", "valueFrom": field("spec.nodeName") },
                { "name": "HOST", "valueFrom": field("status.hostIP") },
            ],
        }))
        .unwrap();
        assert_eq!(made.program, "/bin/x");
        assert_eq!(made.args, ["10.0.0.1", "$(ABSENT)", "$(X)", "a$", "$(X"]);
        for (name, value) in [
            ("POD_IPS", "10.0.0.1,fd00::1"),
            ("HOSTNAME", "web"),
            ("Y", "xx"),
            ("NODE", "n1"),
            ("HOST", "10.0.9.9"),
        ] {
            assert_eq!(made.env[name], value);
        }
        assert_eq!(
            (made.env["EMPTY"].as_str(), made.working_dir.as_deref()),
            ("", Some("/tmp"))
        );
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        assert_eq!(
            of(json!({ "name": "c", "image": "x" })),
            Err(LaunchError::NoCommand("c".into()))
        );
        assert_eq!(
            of(json!({ "name": "c", "args": ["x"] })),
            Err(LaunchError::NoCommand("c".into()))
        );
        let secret = json!({ "secretKeyRef": { "name": "s", "key": "k" } });
        let env = json!([{ "name": "S", "valueFrom": secret }]);
        let error = LaunchError::Source {
            container: "c".into(),
            name: "S".into(),
        };
        assert_eq!(
            of(json!({ "name": "c", "command": ["a"], "env": env })),
            Err(error)
        );
    }
}
