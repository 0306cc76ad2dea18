//! What a case has in its hands: the rig, the version, and the calls that most of them make.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::call::Call;
use crate::case::inapplicable;
use crate::rig::{FakeAgent, Pod, Rig};
use crate::version::Version;

/// Handed to a case.
#[derive(Debug)]
pub struct Stage<'a> {
    /// What stands around the plugin.
    pub rig: &'a mut Rig,
    /// The version to try.
    pub version: Version,
}

impl Stage<'_> {
    /// A new container.
    ///
    /// # Errors
    /// Where its namespace cannot be made.
    pub fn pod(&self) -> Result<Pod> {
        self.rig.pod()
    }

    /// A well-formed call for a container.
    #[must_use]
    pub fn call(&self, command: &str, pod: &Pod) -> Call {
        self.rig.call(command, self.version.text(), pod)
    }

    /// A well-formed call for a container, with `prevResult`.
    ///
    /// # Errors
    /// Never, for configurations of this suite.
    pub fn with_result(&self, command: &str, pod: &Pod, result: &Value) -> Result<Call> {
        self.call(command, pod)
            .with(&json!({ "prevResult": result }))
    }

    /// A well-formed call for no container.
    #[must_use]
    pub fn query(&self, command: &str) -> Call {
        self.rig.query(command, self.version.text())
    }

    /// The configuration of the first network.
    #[must_use]
    pub fn conf(&self) -> Value {
        self.rig.conf(self.version.text(), 0)
    }

    /// ADD that must succeed.
    ///
    /// # Errors
    /// Where it does not.
    pub fn add(&self, pod: &Pod) -> Result<Value> {
        self.call("ADD", pod).run()?.result().context("ADD")
    }

    /// DEL that must succeed; as a runtime that remembers the result.
    ///
    /// # Errors
    /// Where it does not.
    pub fn del(&self, pod: &Pod, result: &Value) -> Result<()> {
        // libcni sends no prevResult before 0.4.0.
        let call = if self.version < Version::V0_4_0 {
            self.call("DEL", pod)
        } else {
            self.with_result("DEL", pod, result)?
        };
        call.run()?.silent().context("DEL")
    }

    /// CHECK against a result.
    ///
    /// # Errors
    /// Never, for configurations of this suite.
    pub fn check(&self, pod: &Pod, result: &Value) -> Result<Call> {
        self.with_result("CHECK", pod, result)
    }

    /// The agent by script.
    ///
    /// # Errors
    /// Inapplicable where the plugin has none.
    pub fn fake(&self) -> Result<&FakeAgent> {
        self.rig
            .fake
            .as_ref()
            .ok_or_else(|| inapplicable("it has no agent that could be played"))
    }

    /// Demands that nothing was asked of the agent: what is malformed is refused by the plugin itself.
    ///
    /// # Errors
    /// Where something was.
    pub fn nothing_was_asked(&self) -> Result<()> {
        let asked = self
            .rig
            .fake
            .as_ref()
            .map(FakeAgent::asked)
            .unwrap_or_default();
        ensure!(asked.is_empty(), "the agent was asked: {asked:?}");
        Ok(())
    }
}
