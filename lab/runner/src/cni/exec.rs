//! One call of one plugin: spawn, feed, read, wait, and kill where it takes too long.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;

use super::RuntimeConf;

/// What a pipe takes without blocking once poll says that it is writable.
const PIPE_ATOMIC: usize = 4096;
/// A plugin that writes more than this says nothing that we could use.
const OUTPUT_LIMIT: usize = 16 << 20;

/// Calling a plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program did not start, or its pipes failed.
    #[error("{operation} {}", program.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not end in time and got SIGKILL.
    #[error("no end within {0:?}: killed")]
    TimedOut(Duration),
    /// The caller lost interest; it got SIGKILL.
    #[error("cancelled: killed")]
    Cancelled,
    /// It failed and said why.
    #[error(transparent)]
    Failed(#[from] PluginError),
    /// It failed and did not say why in the way that it should.
    #[error("{status}, stdout {stdout:?}, stderr {stderr:?}")]
    Unexplained {
        /// How it ended.
        status: ExitStatus,
        /// What is no error object.
        stdout: String,
        /// Its log.
        stderr: String,
    },
    /// It succeeded with something else than a JSON object.
    #[error("decode result {output:?}")]
    NotJson {
        /// What it wrote.
        output: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It writes without end.
    #[error("more than {OUTPUT_LIMIT} bytes of output: killed")]
    OutputTooLong,
}

/// The error object that a plugin wrote.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{msg}{}{details} (code {code})", if details.is_empty() { "" } else { "; " })]
pub struct PluginError {
    /// CNI error code.
    pub code: u64,
    /// Short message.
    #[serde(default)]
    pub msg: String,
    /// Long message.
    #[serde(default)]
    pub details: String,
}

/// Lets another thread end a call early: the plugin gets SIGKILL, as a runtime does when its client gives up.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<OwnedFd>);

impl Cancel {
    /// A handle that is not pulled yet; clones are the same handle.
    ///
    /// # Errors
    /// Where no descriptor is to be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?)))
    }

    /// Ends the calls that have this handle, now and later.
    ///
    /// # Errors
    /// Only where the descriptor is broken.
    pub fn pull(&self) -> io::Result<()> {
        rustix::io::write(&*self.0, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

pub(super) struct Env<'a> {
    pub command: &'static str,
    pub rt: &'a RuntimeConf,
    pub cni_path: &'a OsStr,
}

impl Env<'_> {
    fn apply(&self, command: &mut Command) {
        let rt = self.rt;
        command
            .env("CNI_COMMAND", self.command)
            .env("CNI_PATH", self.cni_path);
        let args: Vec<_> = rt
            .args
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        for (name, value) in [
            ("CNI_CONTAINERID", &rt.container_id),
            ("CNI_NETNS", &rt.netns),
            ("CNI_IFNAME", &rt.ifname),
            ("CNI_ARGS", &args.join(";")),
        ] {
            command.env(name, value);
        }
    }
}

/// Runs a plugin to its end and returns its stdout where it succeeds.
pub(super) fn run(
    program: &Path,
    env: &Env<'_>,
    stdin: &[u8],
    timeout: Duration,
    cancel: Option<&Cancel>,
) -> Result<Vec<u8>, ExecError> {
    let deadline = Instant::now() + timeout;
    let io = |operation| {
        move |source| ExecError::Io {
            operation,
            program: program.to_owned(),
            source,
        }
    };
    let mut command = Command::new(program);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    env.apply(&mut command);
    let mut child = command.spawn().map_err(io("start"))?;
    let talked = Talk::new(&mut child)
        .map_err(io("watch"))
        .and_then(|mut talk| {
            match talk
                .converse(stdin, deadline, cancel)
                .map_err(io("talk to"))?
            {
                Ending::Done => Ok(talk),
                Ending::TimedOut => Err(ExecError::TimedOut(timeout)),
                Ending::Cancelled => Err(ExecError::Cancelled),
                Ending::TooLong => Err(ExecError::OutputTooLong),
            }
        });
    if talked.is_err() {
        // It may have ended meanwhile; then there is nothing to kill, and the wait below takes it.
        let _gone = child.kill();
    }
    let status = child.wait().map_err(io("wait for"))?;
    let talk = talked?;
    if status.success() {
        Ok(talk.output)
    } else {
        Err(explain(status, &talk))
    }
}

fn explain(status: ExitStatus, talk: &Talk) -> ExecError {
    match serde_json::from_slice::<PluginError>(&talk.output) {
        Ok(error) if status.signal().is_none() => ExecError::Failed(error),
        _ => ExecError::Unexplained {
            status,
            stdout: String::from_utf8_lossy(&talk.output).into_owned(),
            stderr: String::from_utf8_lossy(&talk.log).trim_end().to_owned(),
        },
    }
}

enum Ending {
    Done,
    TimedOut,
    Cancelled,
    TooLong,
}

/// The pipes of a running plugin. Ends when it has ended and nothing is left in them: a grandchild that keeps stdout
/// open does not hold us up.
struct Talk {
    pidfd: OwnedFd,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    output: Vec<u8>,
    log: Vec<u8>,
}

impl Talk {
    fn new(child: &mut Child) -> io::Result<Self> {
        // Not waited for yet: the number is still its own.
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            output: Vec::new(),
            log: Vec::new(),
        })
    }

    fn converse(
        &mut self,
        mut input: &[u8],
        deadline: Instant,
        cancel: Option<&Cancel>,
    ) -> io::Result<Ending> {
        let mut ended = false;
        loop {
            if input.is_empty() {
                self.stdin = None;
            }
            if self.output.len() + self.log.len() > OUTPUT_LIMIT {
                return Ok(Ending::TooLong);
            }
            let ready = self.wait(if ended { Instant::now() } else { deadline }, cancel)?;
            if ready.cancelled {
                return Ok(Ending::Cancelled);
            }
            if ready.writable
                && let Some(stdin) = &mut self.stdin
            {
                let chunk = &input[..input.len().min(PIPE_ATOMIC)];
                match stdin.write(chunk) {
                    Ok(written) => input = &input[written..],
                    // It does not want to read (all): that is its right.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => input = &[],
                    Err(error) => return Err(error),
                }
            }
            if ready.output {
                read_some(&mut self.stdout, &mut self.output)?;
            }
            if ready.log {
                read_some(&mut self.stderr, &mut self.log)?;
            }
            ended |= ready.ended;
            if ended && !ready.output && !ready.log {
                return Ok(Ending::Done);
            }
            if !ended && Instant::now() >= deadline {
                return Ok(Ending::TimedOut);
            }
        }
    }

    fn wait(&self, until: Instant, cancel: Option<&Cancel>) -> io::Result<Ready> {
        let sources = [
            Some(PollFd::new(&self.pidfd, PollFlags::IN)),
            self.stdin
                .as_ref()
                .map(|fd| PollFd::new(fd, PollFlags::OUT)),
            self.stdout
                .as_ref()
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
            self.stderr
                .as_ref()
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
            cancel.map(|cancel| PollFd::new(&*cancel.0, PollFlags::IN)),
        ];
        let present = sources.each_ref().map(Option::is_some);
        let mut fds: Vec<_> = sources.into_iter().flatten().collect();
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        loop {
            match poll(&mut fds, Some(&left)) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut polled = fds.iter().map(|fd| !fd.revents().is_empty());
        let [ended, writable, output, log, cancelled] =
            present.map(|is| is && polled.next() == Some(true));
        Ok(Ready {
            ended,
            writable,
            output,
            log,
            cancelled,
        })
    }
}

struct Ready {
    ended: bool,
    writable: bool,
    output: bool,
    log: bool,
    cancelled: bool,
}

/// Reads what is there; closes at the end.
fn read_some(from: &mut Option<impl io::Read>, to: &mut Vec<u8>) -> io::Result<()> {
    let Some(pipe) = from else { return Ok(()) };
    let mut buffer = [0; 16 * 1024];
    let got = pipe.read(&mut buffer)?;
    to.extend_from_slice(&buffer[..got]);
    if got == 0 {
        *from = None;
    }
    Ok(())
}
