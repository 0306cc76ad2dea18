//! One call of a plugin, raw: a program, variables and bytes on stdin; an exit code and bytes on stdout and stderr.
//!
//! Nothing here knows what a well-behaved caller would send: the cases decide. What can fail is said as an error of the
//! case, in words that name what came instead.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::tools::wait_until;

/// Far more than any plugin may need; one that has not ended by then never will.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the plugin finds on stdin.
#[derive(Clone, Debug)]
enum Input {
    Bytes(Vec<u8>),
    /// No stdin at all: the descriptor is closed.
    Closed,
    /// A pipe into which nothing is written and that stays open.
    Silent,
    /// Something that cannot be read: a directory.
    Unreadable,
}

/// A call that can be changed and repeated.
#[derive(Clone, Debug)]
pub struct Call {
    program: PathBuf,
    netns: Option<PathBuf>,
    env: BTreeMap<String, OsString>,
    input: Input,
}

/// A call that goes on.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Kept open for a plugin whose stdin is to stay silent.
    _stdin: Option<ChildStdin>,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code; `None` where a signal ended it.
    pub exit: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

/// The error object of a failed call.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// `code`.
    pub code: u64,
    /// `msg`, and `details` where there are any.
    pub text: String,
    /// The whole object.
    pub object: Value,
}

impl Call {
    /// A call of `program` in the namespace with this file; without variables and configuration.
    #[must_use]
    pub fn new(program: &Path, netns: Option<&Path>) -> Self {
        Self {
            program: program.to_owned(),
            netns: netns.map(Path::to_owned),
            env: BTreeMap::new(),
            input: Input::Bytes(Vec::new()),
        }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Keeps only these variables.
    #[must_use]
    pub fn only(mut self, names: &[&str]) -> Self {
        self.env.retain(|name, _| names.contains(&name.as_str()));
        self
    }

    /// Runs it in another namespace.
    #[must_use]
    pub fn inside(mut self, netns: &Path) -> Self {
        self.netns = Some(netns.to_owned());
        self
    }

    /// The configuration on stdin.
    #[must_use]
    pub fn conf(self, conf: &Value) -> Self {
        self.bytes(conf.to_string())
    }

    /// Any bytes on stdin.
    #[must_use]
    pub fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// No stdin.
    #[must_use]
    pub fn stdin_closed(mut self) -> Self {
        self.input = Input::Closed;
        self
    }

    /// A stdin that neither says anything nor ends.
    #[must_use]
    pub fn stdin_silent(mut self) -> Self {
        self.input = Input::Silent;
        self
    }

    /// A stdin that cannot be read.
    #[must_use]
    pub fn stdin_unreadable(mut self) -> Self {
        self.input = Input::Unreadable;
        self
    }

    /// Changes fields of the configuration; null removes one.
    ///
    /// # Errors
    /// Where stdin holds no JSON object.
    pub fn with(self, changes: &Value) -> Result<Self> {
        let mut conf = self.configuration()?;
        let fields = conf.as_object_mut().context("not an object")?;
        for (field, value) in changes.as_object().context("changes are no object")? {
            match value {
                Value::Null => drop(fields.remove(field)),
                value => drop(fields.insert(field.clone(), value.clone())),
            }
        }
        Ok(self.conf(&conf))
    }

    /// The configuration that it would send.
    ///
    /// # Errors
    /// Where stdin holds no JSON.
    pub fn configuration(&self) -> Result<Value> {
        let Input::Bytes(bytes) = &self.input else {
            bail!("this call has no configuration");
        };
        serde_json::from_slice(bytes).context("this call's stdin is no JSON")
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Where it cannot be started, or does not end within a minute (it is killed then).
    pub fn run(&self) -> Result<Ended> {
        self.start()?.wait()
    }

    /// Starts it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(&self) -> Result<Running> {
        let mut command = match (&self.netns, &self.input) {
            // The shell and nsenter become the plugin: its process id is the child's.
            (None, Input::Closed) => closing(&self.program, &[]),
            (Some(netns), Input::Closed) => closing(Path::new("nsenter"), &[net(netns)]),
            (None, _) => Command::new(&self.program),
            (Some(netns), _) => {
                let mut command = Command::new("nsenter");
                command.arg(net(netns));
                command
            }
        };
        if self.netns.is_some() {
            command.arg(&self.program);
        }
        // Of our own variables only where programs are: some plugins call `iptables`.
        command.env_clear().env("PATH", path()).envs(&self.env);
        command.stdin(match self.input {
            Input::Bytes(_) | Input::Silent => Stdio::piped(),
            Input::Closed => Stdio::null(),
            Input::Unreadable => Stdio::from(std::fs::File::open("/").context("open /")?),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.spawn();
        let mut child = started.with_context(|| format!("start {}", self.program.display()))?;
        let mut stdin = child.stdin.take();
        if let (Input::Bytes(bytes), Some(mut pipe)) = (&self.input, stdin.take()) {
            // It may end before it reads; that is for the case to judge, by how it ends.
            let _broken_pipe = pipe.write_all(bytes);
        }
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Ok(Running {
            child,
            _stdin: stdin,
            stdout: collect(stdout.map(Pipe::Out)),
            stderr: collect(stderr.map(Pipe::Err)),
        })
    }
}

/// A command that closes its stdin and becomes `program`.
fn closing(program: &Path, arguments: &[OsString]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$@" <&-"#, "sh"]);
    command.arg(program).args(arguments);
    command
}

/// Where programs are; those for root are not in everybody's.
fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn net(netns: &Path) -> OsString {
    let mut argument = OsString::from("--net=");
    argument.push(netns);
    argument
}

enum Pipe {
    Out(ChildStdout),
    Err(ChildStderr),
}

fn collect(pipe: Option<Pipe>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is all that there is to judge.
        let _end = match pipe {
            Some(Pipe::Out(mut pipe)) => pipe.read_to_end(&mut bytes),
            Some(Pipe::Err(mut pipe)) => pipe.read_to_end(&mut bytes),
            None => Ok(0),
        };
        bytes
    })
}

impl Running {
    /// Ends it as a runtime does whose patience is over.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill the plugin")?;
        self.child.wait().context("await the killed plugin")?;
        Ok(())
    }

    /// Waits until it has read all of its stdin, or closed it.
    ///
    /// # Errors
    /// Where it does not, or cannot be looked at.
    pub fn await_input_read(&self) -> Result<()> {
        let path = format!("/proc/{}/fd/0", self.child.id());
        wait_until("the plugin has read its configuration", || {
            let pipe = match std::fs::File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
                pipe => pipe.with_context(|| format!("open {path}"))?,
            };
            let unread =
                rustix::io::ioctl_fionread(&pipe).context("look into the plugin's stdin")?;
            Ok(unread == 0)
        })
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub fn is_over(&mut self) -> Result<bool> {
        let status = self.child.try_wait().context("look at the plugin")?;
        Ok(status.is_some())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it does not end within a minute; it is killed then.
    pub fn wait(mut self) -> Result<Ended> {
        let started = Instant::now();
        let status = loop {
            match self.child.try_wait().context("await the plugin")? {
                Some(status) => break status,
                None if started.elapsed() > DEADLINE => {
                    drop(self.child.kill());
                    drop(self.child.wait());
                    bail!("the plugin did not end within {DEADLINE:?}");
                }
                None => std::thread::sleep(Duration::from_micros(500)),
            }
        };
        let text = |reader: JoinHandle<Vec<u8>>| match reader.join() {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(_panic) => bail!("the reader of the plugin's output died"),
        };
        Ok(Ended {
            exit: status.code(),
            stdout: text(self.stdout)?,
            stderr: text(self.stderr)?,
        })
    }
}

impl Ended {
    /// The one JSON object on stdout.
    ///
    /// # Errors
    /// Where stdout is anything else.
    pub fn object(&self) -> Result<Value> {
        let mut values = serde_json::Deserializer::from_str(&self.stdout).into_iter::<Value>();
        let first = values.next().with_context(|| self.said("no JSON"))?;
        let first = first.with_context(|| self.said("no JSON"))?;
        ensure!(first.is_object(), self.said("no JSON object"));
        ensure!(values.next().is_none(), self.said("more than one object"));
        Ok(first)
    }

    /// The result of a successful ADD or VERSION.
    ///
    /// # Errors
    /// Where it failed, or printed no object.
    pub fn result(&self) -> Result<Value> {
        ensure!(self.exit == Some(0), self.said("it failed"));
        self.object()
    }

    /// Success that says nothing.
    ///
    /// # Errors
    /// Where it failed or printed something.
    pub fn silent(&self) -> Result<()> {
        ensure!(self.exit == Some(0), self.said("it failed"));
        ensure!(self.stdout.is_empty(), self.said("stdout is not empty"));
        Ok(())
    }

    /// A failure that is told.
    ///
    /// # Errors
    /// Where it succeeded, or told nothing that can be understood.
    pub fn refusal(&self) -> Result<Refusal> {
        ensure!(self.exit != Some(0), self.said("it succeeded"));
        ensure!(self.exit.is_some(), self.said("a signal ended it"));
        let object = self.object()?;
        let code = object["code"]
            .as_u64()
            .with_context(|| self.said("no code"))?;
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let text = format!("{} {}", text("msg"), text("details"));
        Ok(Refusal { code, text, object })
    }

    /// A failure with this code.
    ///
    /// # Errors
    /// As [`Self::refusal`], or where the code is another.
    pub fn code(&self, code: u64) -> Result<Refusal> {
        let refusal = self.refusal()?;
        let said = || self.said(&format!("code {} instead of {code}", refusal.code));
        ensure!(refusal.code == code, said());
        Ok(refusal)
    }

    /// Something about this call, with what it said itself.
    #[must_use]
    pub fn said(&self, what: &str) -> String {
        let Self {
            exit,
            stdout,
            stderr,
        } = self;
        format!("{what} (exit {exit:?}, stdout {stdout:?}, stderr {stderr:?})")
    }
}

impl Refusal {
    /// Demands that its text names all of these.
    ///
    /// # Errors
    /// Where one is missing.
    pub fn naming(self, words: &[&str]) -> Result<Self> {
        for word in words {
            ensure!(
                self.text.contains(word),
                "{word:?} is not in {:?}",
                self.text
            );
        }
        Ok(self)
    }
}
