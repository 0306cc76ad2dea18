//! Runs the plugin once.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// The plugin's own namespace, as the plugin sees it.
pub const NETNS: &str = "/proc/self/ns/net";
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    pub env: BTreeMap<String, String>,
    pub stdin: Vec<u8>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Call {
    /// A well-formed call as a runtime makes it.
    pub fn new(command: &str, socket: &Path, version: &str) -> Self {
        let env = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "cid-1"),
            ("CNI_NETNS", NETNS),
            ("CNI_NETNS_OVERRIDE", "True"),
            ("CNI_IFNAME", "eth0"),
            (
                "CNI_ARGS",
                "K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_UID=u-1",
            ),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let conf = json!({ "cniVersion": version, "name": "net", "type": "tombolo-cni", "agentSocket": socket });
        let mut call = Self {
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            stdin: Vec::new(),
        };
        call.conf(conf);
        call
    }

    pub fn conf(&mut self, conf: Value) -> &mut Self {
        self.stdin = conf.to_string().into_bytes();
        self
    }

    /// Changes fields of the configuration; null removes one.
    pub fn with(mut self, changes: Value) -> Self {
        let mut conf: Value = serde_json::from_slice(&self.stdin).unwrap();
        for (field, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(conf.as_object_mut().unwrap().remove(field)),
                value => conf[field] = value.clone(),
            }
        }
        self.conf(conf);
        self
    }

    /// Sets a variable; empty removes it.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            self.env.remove(name);
        } else {
            self.env.insert(name.to_owned(), value.to_owned());
        }
        self
    }

    pub fn run(&self) -> Ended {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tombolo-cni"))
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The plugin may end before it reads: a broken pipe is no failure of the test.
        let _broken_pipe = child.stdin.take().unwrap().write_all(&self.stdin);
        let output = child.wait_with_output().unwrap();
        Ended {
            exit: output.status.code().expect("not killed"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// The one JSON object on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        let mut objects = serde_json::Deserializer::from_str(&self.stdout).into_iter();
        let object: Value = objects
            .next()
            .unwrap_or_else(|| panic!("no JSON: {self:?}"))
            .unwrap();
        assert!(
            objects.next().is_none(),
            "exactly one JSON object: {self:?}"
        );
        object
    }

    /// Success that says nothing.
    #[track_caller]
    pub fn silent(&self) {
        assert_eq!((self.exit, self.stdout.as_str()), (0, ""), "{self:?}");
    }

    /// Failure with this code, whose message holds all of `words`.
    #[track_caller]
    pub fn failed(&self, code: u64, words: &[&str]) -> Value {
        assert_ne!(self.exit, 0, "{self:?}");
        let error = self.json();
        assert_eq!(error["code"], code, "{self:?}");
        let message = format!(
            "{} {}",
            error["msg"].as_str().unwrap(),
            error["details"].as_str().unwrap_or_default()
        );
        for word in words {
            assert!(message.contains(word), "{word:?} is in {message:?}");
        }
        error
    }
}
