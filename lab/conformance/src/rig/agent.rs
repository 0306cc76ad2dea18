//! Our agent as a process on the node: started, stopped, killed.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::tools::{inside, wait_until};

/// A running agent; it ends with the value.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
}

/// Where an agent is started.
#[derive(Clone, Debug)]
pub struct Place {
    /// `tombolo-agent`.
    pub program: PathBuf,
    /// File of the node's namespace.
    pub node: PathBuf,
    /// The rig's directory.
    pub dir: PathBuf,
}

impl Place {
    /// Where the agent listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/agent.sock")
    }

    /// Starts one and waits until it listens.
    ///
    /// # Errors
    /// Where it ends, or does not listen in time.
    pub fn start(&self, arguments: &[&str]) -> Result<Agent> {
        let log = self.dir.join("agent.log");
        let stderr = std::fs::File::create(&log).context("create the agent's log")?;
        let mut command = inside(&self.node, &self.program.to_string_lossy());
        command.args(["run", "--http", "none", "--resync-ms", "3600000"]);
        command.arg("--run-dir").arg(self.dir.join("run"));
        command.arg("--nrs-file").arg(self.specification());
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let mut agent = Agent {
            child: command.spawn().context("start the agent")?,
            log,
        };
        let socket = self.socket();
        let mut serves = || {
            let ended = agent.child.try_wait().context("look at the agent")?;
            ensure!(ended.is_none(), "the agent ended");
            Ok(UnixStream::connect(&socket).is_ok())
        };
        let listens = wait_until("the agent listens", &mut serves);
        listens.with_context(|| agent.log())?;
        Ok(agent)
    }

    /// The file with the node's specification.
    #[must_use]
    pub fn specification(&self) -> PathBuf {
        self.dir.join("nrs.json")
    }
}

impl Agent {
    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string())
    }

    /// Ends it as a crash does.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill the agent")?;
        self.child
            .wait()
            .context("await the killed agent")
            .map(drop)
    }

    /// It neither ends nor answers any more.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        wait_until("the agent is stopped", || self.is_stopped())
    }

    /// It goes on.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether it is stopped.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn is_stopped(&self) -> Result<bool> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Ok(stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T')))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("the agent's process id")?, signal).context("signal the agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
