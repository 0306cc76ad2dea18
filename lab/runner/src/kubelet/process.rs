//! Processes of containers: started in a namespace, watched through a pidfd, found again after a restart, ended with
//! their whole process group.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::command::Launch;
use super::cri::Runtime;
use crate::netns::NamedNetns;

/// A process of ours, or one of an earlier run.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    ticks: u64,
    fd: AsyncFd<OwnedFd>,
    /// Absent for one of an earlier run: its exit code goes to another parent.
    child: Option<Child>,
    /// The first process of this container: all others end with it, and the runtime has its exit code.
    container: Option<(Runtime, String)>,
    /// What the runtime said of the container's end.
    exit: Option<Ended>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
    /// It ended while nobody watched.
    Unknown,
}

/// A process just started, not yet watched.
#[derive(Debug)]
pub struct Started(Child);

/// Starts a process in `netns` (the own one where absent), leader of its own group, output appended to `log`. Blocks
/// for as long as a spawn takes.
pub fn start(launch: &Launch, netns: Option<&NamedNetns>, log: &Path) -> Result<Started> {
    let open = || File::options().create(true).append(true).open(log);
    let out = open().with_context(|| format!("open log {}", log.display()))?;
    let err = out
        .try_clone()
        .with_context(|| format!("open log {} again", log.display()))?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .env_clear()
        .envs(&launch.env)
        .process_group(0);
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    if let Some(dir) = &launch.working_dir {
        command.current_dir(dir);
    }
    // The child is born where this thread is.
    let child = match netns {
        Some(netns) => netns
            .run(|| command.spawn())
            .context("enter the pod's namespace")?,
        None => command.spawn(),
    };
    child
        .map(Started)
        .with_context(|| format!("start {:?}", launch.program))
}

impl Process {
    /// Watches a process just started.
    pub fn watch(Started(child): Started) -> Result<Self> {
        let pid = pid_of(child.id().cast_signed())?;
        let fd = pidfd(pid).context("watch a new process")?;
        // Not waited for: even a process that has ended already still has its entry.
        let ticks = start_ticks(pid)
            .context("read the start time of a new process")?
            .unwrap_or_default();
        Ok(Self {
            pid,
            ticks,
            fd,
            child: Some(child),
            container: None,
            exit: None,
        })
    }

    /// The same, known as the first process of a container.
    #[must_use]
    pub fn of_container(mut self, runtime: &Runtime, id: &str) -> Self {
        self.container = Some((runtime.clone(), id.to_owned()));
        self
    }

    /// Watches the first process of a container just started. One that ended before it could be watched is an error.
    pub fn first_of(runtime: &Runtime, started: super::cri::Started) -> Result<Self> {
        let pid = pid_of(started.pid)?;
        let ticks = start_ticks(pid).context("read the start time of a container's process")?;
        let found = match ticks {
            Some(ticks) => Self::find(started.pid, ticks)?,
            None => None,
        };
        let found = found.with_context(|| format!("container {} ended at once", started.id))?;
        Ok(found.of_container(runtime, &started.id))
    }

    /// Finds a process of an earlier run; `None` where it has ended.
    pub fn find(pid: i32, ticks: u64) -> Result<Option<Self>> {
        let pid = pid_of(pid)?;
        let fd = match pidfd(pid) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context("watch a process of an earlier run"),
        };
        // After the descriptor is held: what we read now is of the process that it names, or of none.
        let seen = start_ticks(pid).context("read the start time of a process")?;
        Ok((seen == Some(ticks)).then_some(Self {
            pid,
            ticks,
            fd,
            child: None,
            container: None,
            exit: None,
        }))
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Waits for its end; what is left of its group is killed then. May be dropped and called again.
    pub async fn ended(&mut self) -> Result<Ended> {
        let _readable = self.fd.readable().await.context("wait for a process")?;
        if let Some((runtime, id)) = &self.container {
            let exit = match self.exit {
                Some(exit) => exit,
                None => {
                    let code = runtime.exit_code(id).await?;
                    *self.exit.insert(code.map_or(Ended::Unknown, Ended::Code))
                }
            };
            runtime.remove(id).await?;
            return Ok(exit);
        }
        let Some(child) = &mut self.child else {
            return Ok(Ended::Unknown);
        };
        // Its number is its own until it is waited for, so the group is its own too.
        kill_group(self.pid)?;
        let status = child.wait().context("take a process's exit status")?;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, Some(signal)) => Ended::Signal(signal),
            (None, None) => Ended::Unknown,
        })
    }

    /// Asks the process to end; its children hear of it from the process, as in a container.
    pub fn terminate(&self) -> Result<()> {
        match pidfd_send_signal(self.fd.get_ref(), Signal::TERM) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => {
                Err(errno).with_context(|| format!("send SIGTERM to process {:?}", self.pid))
            }
        }
    }

    /// Kills the whole group, or the whole container.
    pub fn kill(&self) -> Result<()> {
        if self.container.is_none() {
            return kill_group(self.pid);
        }
        match pidfd_send_signal(self.fd.get_ref(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("kill process {:?}", self.pid)),
        }
    }
}

fn kill_group(pid: Pid) -> Result<()> {
    match kill_process_group(pid, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("kill process group {pid:?}")),
    }
}

fn pid_of(pid: i32) -> Result<Pid> {
    Pid::from_raw(pid).with_context(|| format!("process id {pid}"))
}

fn pidfd(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = pidfd_open(pid, PidfdFlags::empty())?;
    #[expect(
        unsafe_code,
        reason = "tokio's safe constructor is deprecated, as it takes any AsRawFd"
    )]
    // SAFETY: an OwnedFd owns its descriptor, which stays the same and open until the AsyncFd that holds it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(watched?)
}

/// Field 22 of /proc/PID/stat; `None` where there is no such process or it has ended.
fn start_ticks(pid: Pid) -> io::Result<Option<u64>> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = match fs::read_to_string(path) {
        Ok(stat) => stat,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The second field is a name in parentheses that may hold anything.
    let after = stat
        .rfind(')')
        .and_then(|at| stat.get(at + 2..))
        .unwrap_or_default();
    let mut fields = after.split(' ');
    let alive = fields
        .next()
        .is_some_and(|state| !matches!(state, "Z" | "X"));
    let ticks = fields.nth(18).and_then(|ticks| ticks.parse().ok());
    Ok(ticks.filter(|_| alive))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shell(script: &str, log: &Path) -> Process {
        let env = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let args = vec!["-c".to_owned(), script.to_owned()];
        let launch = Launch {
            program: "sh".into(),
            args,
            env,
            working_dir: Some("/".into()),
        };
        Process::watch(start(&launch, None, log).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn tells_how_a_process_ended() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(
            shell("echo out; echo err >&2; exit 7", &log)
                .ended()
                .await
                .unwrap(),
            Ended::Code(7)
        );
        assert_eq!(fs::read_to_string(&log).unwrap(), "out\nerr\n");
        let mut killed = shell("sleep 1000", &log);
        killed.terminate().unwrap();
        assert_eq!(killed.ended().await.unwrap(), Ended::Signal(15));
        killed.terminate().unwrap();
    }

    #[tokio::test]
    async fn takes_the_group_along() {
        let dir = tempfile::tempdir().unwrap();
        let (log, note) = (dir.path().join("log"), dir.path().join("pid"));
        let mut parent = shell(
            &format!("sleep 1000 & echo $! > {}; exit 0", note.display()),
            &log,
        );
        assert_eq!(parent.ended().await.unwrap(), Ended::Code(0));
        let left: i32 = fs::read_to_string(&note).unwrap().trim().parse().unwrap();
        // Killed; whoever inherited it may not have taken its status yet.
        let gone = start_ticks(pid_of(left).unwrap()).unwrap();
        if let Some(ticks) = gone
            && let Some(mut left) = Process::find(left, ticks).unwrap()
        {
            left.ended().await.unwrap();
        }
    }

    #[tokio::test]
    async fn finds_a_process_again_but_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("sleep 1000", &dir.path().join("log"));
        let mut found = Process::find(process.pid(), process.ticks())
            .unwrap()
            .unwrap();
        assert!(
            Process::find(process.pid(), process.ticks() + 1)
                .unwrap()
                .is_none()
        );
        found.kill().unwrap();
        assert_eq!(found.ended().await.unwrap(), Ended::Unknown);
        assert_eq!(process.ended().await.unwrap(), Ended::Signal(9));
        assert!(
            Process::find(process.pid(), process.ticks())
                .unwrap()
                .is_none()
        );
    }
}
