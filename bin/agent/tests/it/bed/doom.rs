//! Agents that end, or stop, at a failpoint.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::{Bed, wait_until};

/// All failpoints of the shipped agent, by itself.
pub fn points() -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_tombolo-agent"))
        .arg("--failpoints")
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// `point.before` and `point.after` for every point of an operation.
pub fn orders(operation: &str) -> Vec<String> {
    let prefix = format!("{operation}.");
    let points = points();
    let of = points.iter().filter(|point| point.starts_with(&prefix));
    let orders: Vec<String> = of
        .flat_map(|point| ["before", "after"].map(|when| format!("{point}.{when}")))
        .collect();
    assert!(!orders.is_empty(), "{operation} has no failpoint");
    orders
}

impl Bed {
    /// Starts the agent with a failpoint and waits until it serves.
    pub fn start_doomed(&mut self, order: &str) {
        self.start(&["--failpoint", order]);
    }

    /// Waits until the agent was killed by itself, at the failpoint and nowhere else.
    pub fn killed(&mut self, order: &str) {
        let pid = self.agent.as_ref().unwrap().child.id();
        wait_until(&format!("{order} is reached: the agent still runs"), || {
            state(pid).is_none_or(|state| state == 'Z')
        });
        let mut agent = self.agent.take().unwrap();
        let status = agent.child.wait().unwrap();
        let marker = format!("failpoint {}=kill", with_count(order));
        // The line is in the pipe; the thread that reads it may be late.
        wait_until(&format!("the agent says {marker:?}"), || {
            agent.log.lock().unwrap().contains(&marker)
        });
        assert_eq!(status.signal(), Some(9), "{order}: {status}");
    }

    /// Waits until the agent stopped itself.
    pub fn stopped(&self) {
        let pid = self.agent.as_ref().unwrap().child.id();
        wait_until("the agent stops", || state(pid) == Some('T'));
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Makes the agent stand still.
    pub fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
        self.stopped();
    }

    /// `uninstall` that is killed at a failpoint.
    pub fn uninstall_doomed(&self, order: &str) {
        let mut command = self.command();
        command.args(["uninstall", "--failpoint", order]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(9), "{order}: {text}");
        assert!(text.contains(&format!("failpoint {}=kill", with_count(order))));
    }
}

fn with_count(order: &str) -> String {
    if order.contains('@') {
        order.to_owned()
    } else {
        format!("{order}@1")
    }
}

/// State letter of a process; `None` where it is gone.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.get(stat.rfind(')')? + 2..)?.chars().next()
}
