//! Debian's or Kubernetes' own kubectl, run in the control plane's namespace.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::command::{failure, in_netns, output, run};
use crate::wait::until;

/// A kubectl with an identity.
#[derive(Clone, Debug)]
pub struct Kubectl {
    pub program: PathBuf,
    /// Namespace from which the API server is reached.
    pub netns: String,
    pub kubeconfig: PathBuf,
    /// Where it keeps what it knows of the server.
    pub cache: PathBuf,
}

impl Kubectl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = in_netns(&self.netns, &self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.arg("--cache-dir").arg(&self.cache);
        command.arg("--request-timeout=30s").args(args);
        command
    }

    /// Standard output of a command that must succeed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        output(&mut self.command(args))
    }

    /// As JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.run(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {args:?}: {text:.200}"))
    }

    /// The items of a list.
    pub fn items(&self, args: &[&str]) -> Result<Vec<Value>> {
        match self.json(args)?.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => bail!("kubectl {args:?}: no items"),
        }
    }

    /// Applies these objects.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let mut command = self.command(&["apply", "-f", "-"]);
        let out = run(&mut command, Some(&list(objects)))?;
        if !out.status.success() {
            bail!("{}", failure(&command, &out));
        }
        Ok(())
    }

    /// What a refused command says; one that succeeds is an error.
    pub fn refused(&self, args: &[&str], input: Option<&Value>) -> Result<String> {
        let text = input.map(Value::to_string);
        let out = run(&mut self.command(args), text.as_deref())?;
        if out.status.success() {
            bail!("kubectl {args:?} was not refused");
        }
        Ok(String::from_utf8_lossy(&out.stderr).trim().to_owned())
    }

    /// As [`Self::run`], with this on its standard input.
    pub fn input(&self, args: &[&str], input: &Value) -> Result<String> {
        let mut command = self.command(args);
        let out = run(&mut command, Some(&input.to_string()))?;
        if !out.status.success() {
            bail!("{}", failure(&command, &out));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Deletes what carries this label in the namespace `default`, and waits until it is gone.
    pub fn clear(&self, label: &str) -> Result<()> {
        let kinds = "deployment,replicaset,pod,service";
        let label = format!("app={label}");
        self.run(&["delete", kinds, "-l", &label, "--wait=false"])?;
        until("deleted objects are gone", Duration::from_secs(90), || {
            let left = self.run(&["get", kinds, "-l", &label, "-o", "name"])?;
            if !left.trim().is_empty() {
                bail!("still there: {left}");
            }
            Ok(())
        })
    }
}

fn list(objects: &[Value]) -> String {
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// Text at a pointer; empty where there is none.
pub fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Elements of the array at a pointer; none where there is no array.
pub fn elements<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// Status of a condition; empty where there is none of that type.
pub fn condition<'v>(value: &'v Value, kind: &str) -> &'v str {
    elements(value, "/status/conditions")
        .find(|c| text(c, "/type") == kind)
        .map_or("", |c| text(c, "/status"))
}
