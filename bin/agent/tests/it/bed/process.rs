//! The bed's agent as a process: started in the ways that it can be, ended, and what it logged.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Bed, wait_until};

pub struct Agent {
    pub child: Child,
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Bed {
    /// Starts the agent and waits until it serves. The comparison by the clock is an hour away unless the arguments say
    /// otherwise.
    pub fn start(&mut self, arguments: &[&str]) {
        let started = self.launch(arguments).recv_timeout(Duration::from_secs(60));
        assert!(started.is_ok(), "the agent does not serve:\n{}", self.log());
        self.await_carrier();
    }

    /// Starts the agent; it says when it serves.
    pub fn launch(&mut self, arguments: &[&str]) -> Receiver<()> {
        let mut command = self.command();
        command.args(["run", "--http", "127.0.0.1:9810"]);
        if !arguments.contains(&"--resync-ms") {
            command.args(["--resync-ms", "3600000"]);
        }
        command
            .arg("--nrs-file")
            .arg(self.spec_file())
            .args(arguments);
        self.spawn(command)
    }

    /// Starts an agent that nobody describes the node to: its API server cannot be reached. It says when it serves.
    pub fn launch_undescribed(&mut self, arguments: &[&str]) -> Receiver<()> {
        let mut command = self.command();
        let cluster = ["--node-name", "n", "--api-server", "http://192.0.2.1:6443"];
        command.args(["run", "--http", "none"]).args(cluster);
        command.args(arguments);
        self.spawn(command)
    }

    fn spawn(&mut self, mut command: Command) -> Receiver<()> {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (serving, served) = std::sync::mpsc::channel();
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("tombolo_agent::run: serving") {
                    let _started = serving.send(());
                }
                shared.lock().unwrap().push(line);
            }
        });
        self.agent = Some(Agent { child, log });
        served
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.node))
            .arg(env!("CARGO_BIN_EXE_tombolo-agent"));
        command
            .env("TOMBOLO_RUN_DIR", self.run_dir())
            .env("TOMBOLO_LOG", "debug,h2=info,hyper=info");
        command
    }

    /// Ends the agent as a crash does.
    pub fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.child.kill().unwrap();
        agent.child.wait().unwrap();
    }

    /// Asks the agent to end, as a kubelet does, and waits until it has; returns what it logged.
    pub fn end(&mut self) -> String {
        let pid = i32::try_from(self.agent_pid()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        wait_until("the agent ends", || {
            let agent = self.agent.as_mut().unwrap();
            agent.child.try_wait().unwrap().is_some()
        });
        let log = self.log();
        self.agent = None;
        log
    }

    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().child.id()
    }

    /// Runs an agent that is to end by itself.
    pub fn run_once(&self) -> std::process::Output {
        let mut command = self.command();
        command.arg("run").arg("--nrs-file").arg(self.spec_file());
        command.output().unwrap()
    }

    pub fn log(&self) -> String {
        self.agent
            .as_ref()
            .map(|agent| agent.log.lock().unwrap().join("\n"))
            .unwrap_or_default()
    }
}
