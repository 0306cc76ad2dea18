//! Long-lived processes of a lab: started detached, with their output in a file, and ended by pid. A pid is only trusted
//! together with the process's start time, so that a reused pid is never signalled.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process that a lab started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What it is, for people and for the log file's name.
    pub name: String,
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of /proc/PID/stat): makes the pid unique.
    pub started: u64,
}

impl Process {
    /// Starts `command` in a session of its own, standard output and error to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open log {}", log.display()))?;
        let err = out
            .try_clone()
            .with_context(|| format!("duplicate log {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        let pid = i32::try_from(child.id()).context("pid out of range")?;
        Self::adopt(name, pid).with_context(|| format!("see {}", log.display()))
    }

    /// A process that somebody else of the lab started.
    pub fn adopt(name: &str, pid: i32) -> Result<Self> {
        let started =
            start_time(pid).with_context(|| format!("{name} (pid {pid}) ended at once"))?;
        Ok(Self {
            name: name.to_owned(),
            pid,
            started,
        })
    }

    /// Whether it still runs (a zombie does not).
    #[must_use]
    pub fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Sends a signal if it still runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.alive() {
            return Ok(());
        }
        match kill_process(self.rustix_pid()?, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => {
                Err(errno).with_context(|| format!("signal {} (pid {})", self.name, self.pid))
            }
        }
    }

    /// SIGTERM, then after `grace` SIGKILL; returns when it is gone.
    pub fn end(&self, grace: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        if self.wait_gone(grace)? {
            return Ok(());
        }
        self.kill()
    }

    /// SIGKILL; returns when it is gone. Where the machine has much to do, the kernel takes long to close what it had open
    /// (the end of an inotify group waits for a worker, and workers have been seen to stand still for 50 s).
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if self.wait_gone(Duration::from_secs(180))? {
            Ok(())
        } else {
            bail!("{} (pid {}) survives SIGKILL", self.name, self.pid)
        }
    }

    /// Waits for its end at most this long, without polling: a pidfd becomes readable.
    pub fn wait_gone(&self, bound: Duration) -> Result<bool> {
        // A zombie is not enough: the first thread may be one while others still hold files and locks.
        if stat(self.pid).is_none_or(|(_, started)| started != self.started) {
            return Ok(true);
        }
        let fd = match pidfd_open(self.rustix_pid()?, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(true),
            Err(errno) => return Err(errno).with_context(|| format!("pidfd of {}", self.name)),
        };
        let deadline = Instant::now() + bound;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).context("poll pidfd"),
            }
        }
    }

    fn rustix_pid(&self) -> Result<Pid> {
        Pid::from_raw(self.pid)
            .with_context(|| format!("{}: pid {} is not a pid", self.name, self.pid))
    }
}

/// Start time of a process that runs; `None` for one that is gone or a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let (state, started) = stat(pid)?;
    (state != 'Z' && state != 'X').then_some(started)
}

/// State and start time: fields 3 and 22 of /proc/PID/stat. Both are the first thread's.
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}
