//! `install` and `uninstall` as the shipped program does them, on a node that is a few directories. The agent beside it is a
//! script that says what it was asked: what it does to a kernel has its own tests.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

const OTHER: &str = r#"{"cniVersion": "0.4.0", "name": "other", "plugins": [{"type": "bridge"}]}"#;

struct Node {
    dir: tempfile::TempDir,
}

/// By another process: one that we wrote ourselves could be "busy" when it is started, because a child of another test has
/// inherited it open.
fn shell(line: &str, path: &Path, argument: &str) {
    let mut command = Command::new("sh");
    command.args(["-ec", line, "sh"]).arg(path).arg(argument);
    assert!(command.status().unwrap().success());
}

impl Node {
    fn new() -> Self {
        let node = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for name in ["ship", "bin", "net.d", "run"] {
            fs::create_dir(node.path(name)).unwrap();
        }
        let program = env!("CARGO_BIN_EXE_tombolo");
        shell("ln $2 $1 || cp $2 $1", &node.path("ship/tombolo"), program);
        node.script("ship/tombolo-cni", "echo one");
        let asked = node.path("asked");
        let asked = asked.display();
        node.script("ship/tombolo-agent", &format!("echo \"$@\" >> {asked}"));
        // What others have there.
        node.script("bin/bridge", "echo bridge");
        fs::write(node.path("net.d/99-loopback.conf"), "{}").unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path(name);
        let text = format!("#!/bin/sh\n{text}");
        shell(
            "rm -f $1; printf '%s\\n' \"$2\" >$1; chmod 755 $1",
            &path,
            &text,
        );
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(self.path("ship/tombolo"));
        command.args(args);
        for (variable, name) in [
            ("TOMBOLO_CNI_BIN_DIR", "bin"),
            ("TOMBOLO_CNI_CONF_DIR", "net.d"),
            ("TOMBOLO_RUN_DIR", "run"),
        ] {
            command.env(variable, self.path(name));
        }
        command.output().unwrap()
    }

    /// Rows of `what` and `result` of a run that succeeds.
    #[track_caller]
    fn rows(&self, args: &[&str]) -> Vec<(String, String)> {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
        rows.iter()
            .map(|row| (text(row, "what"), text(row, "result")))
            .collect()
    }

    fn install(&self) -> String {
        let rows = self.rows(&["install", "-o", "json"]);
        assert_eq!(rows.len(), 1);
        rows[0].1.clone()
    }

    /// As the agent leaves it.
    fn configure(&self) {
        let ours =
            json!({"cniVersion": "1.0.0", "name": "tombolo", "plugins": [{"type": "tombolo-cni"}]});
        fs::write(self.path("net.d/05-tombolo.conflist"), ours.to_string()).unwrap();
        fs::write(self.path("net.d/00-other.conflist.tombolo-saved"), OTHER).unwrap();
    }

    fn says_plugin(&self) -> String {
        let output = Command::new(self.path("bin/tombolo-cni")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Every file of the runtime's directories: name, mode, inode, content.
    fn all(&self) -> Vec<(String, u32, u64, Vec<u8>)> {
        let mut all = Vec::new();
        for folder in ["bin", "net.d"] {
            for entry in fs::read_dir(self.path(folder)).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::metadata(&path).unwrap();
                let name = path.strip_prefix(self.dir.path()).unwrap();
                let content = fs::read(&path).unwrap();
                let name = name.to_str().unwrap().to_owned();
                all.push((name, metadata.mode(), metadata.ino(), content));
            }
        }
        all.sort();
        all
    }
}

/// Names of the program's failpoints, `before` and `after`, of one kind of file.
fn orders(kinds: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_tombolo"))
        .arg("--failpoints")
        .output()
        .unwrap();
    let points = String::from_utf8(output.stdout).unwrap();
    let mut all = Vec::new();
    for point in points.lines() {
        if kinds.contains(&point) {
            all.extend(["before", "after"].map(|when| format!("{point}.{when}")));
        }
    }
    assert_eq!(all.len(), kinds.len() * 2, "{points}");
    all
}

fn refused(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for word in words {
        assert!(stderr.contains(word), "{word:?} is not in: {stderr}");
    }
}

#[test]
fn t21_installed_over_an_old_one_and_removed_all_else_is_as_it_was() {
    let node = Node::new();
    fs::write(node.path("net.d/00-other.conflist"), OTHER).unwrap();
    let before = node.all();
    assert_eq!(node.install(), "created");
    assert_eq!(node.install(), "unchanged");
    assert_eq!(node.says_plugin(), "one");
    node.script("ship/tombolo-cni", "echo two");
    assert_eq!(node.install(), "replaced");
    assert_eq!(node.says_plugin(), "two");

    // The agent took over.
    fs::rename(
        node.path("net.d/00-other.conflist"),
        node.path("net.d/00-other.conflist.tombolo-saved"),
    )
    .unwrap();
    fs::write(node.path("net.d/05-tombolo.conflist"), "{}").unwrap();
    let row = |what: &str, result: &str| (what.to_owned(), result.to_owned());
    assert_eq!(
        node.rows(&["uninstall", "-o", "json"]),
        [
            row("network configuration", "removed"),
            row("taken over", "has its name again"),
            row("kernel state", "removed"),
            row("plugin", "removed"),
        ]
    );
    assert_eq!(node.all(), before);
    let asked = format!("uninstall --run-dir {}\n", node.path("run").display());
    assert_eq!(fs::read_to_string(node.path("asked")).unwrap(), asked);
    // Once more: there is nothing to do.
    assert_eq!(
        node.rows(&["uninstall", "-o", "json"]),
        [
            row("network configuration", "was not there"),
            row("kernel state", "removed"),
            row("plugin", "was not there"),
        ]
    );
    assert_eq!(node.all(), before);
}

#[test]
fn uninstall_waits_for_the_agent_and_for_pods() {
    let node = Node::new();
    node.install();
    node.configure();
    let before = node.all();
    let lock = fs::File::create(node.path("run/lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    refused(&node.run(&["uninstall"]), &["an agent runs", "DaemonSet"]);
    drop(lock);
    fs::create_dir(node.path("run/journal")).unwrap();
    fs::write(node.path("run/journal/a.json"), "{}").unwrap();
    refused(
        &node.run(&["uninstall"]),
        &["1 attachments", "--pods-lose-network"],
    );
    assert_eq!(node.all(), before);
    assert!(!node.path("asked").exists());
    assert!(
        node.run(&["uninstall", "--pods-lose-network"])
            .status
            .success()
    );
    assert!(node.path("asked").exists());
}

#[test]
fn the_plugin_stays_where_the_kernel_state_does() {
    let node = Node::new();
    node.install();
    node.script("ship/tombolo-agent", "exit 3");
    refused(
        &node.run(&["uninstall"]),
        &["exit status: 3", "the plugin stays"],
    );
    assert_eq!(node.says_plugin(), "one");
}

#[test]
fn errors_name_the_path() {
    let node = Node::new();
    let gone = node.path("gone");
    let gone = gone.to_str().unwrap();
    refused(&node.run(&["install", "--bin-dir", gone]), &[gone]);
    refused(&node.run(&["install", "--plugin", gone]), &[gone]);
    fs::remove_file(node.path("ship/tombolo-cni")).unwrap();
    refused(&node.run(&["install"]), &["tombolo-cni is not beside"]);
}

#[track_caller]
fn killed(node: &Node, order: &str, command: &str) {
    let output = node.run(&["--failpoint", order, command]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(9), "{order}: {stderr}");
    assert!(stderr.contains(&format!("failpoint {order}")), "{stderr}");
}

#[test]
fn killed_at_every_write_of_install() {
    for old in [None, Some("echo old")] {
        for order in orders(&["plugin.content", "plugin.name"]) {
            let node = Node::new();
            if let Some(old) = old {
                node.script("bin/tombolo-cni", old);
            }
            killed(&node, &order, "install");
            // Whole or not at all, whoever calls it now.
            let path = node.path("bin/tombolo-cni");
            let said = path.exists().then(|| node.says_plugin());
            let new = order == "plugin.name.after";
            let expected = if new { Some("one") } else { old.map(|_| "old") };
            assert_eq!(said.as_deref(), expected, "{order}");
            node.install();
            assert_eq!(node.says_plugin(), "one");
            let names: Vec<_> = node.all().into_iter().map(|file| file.0).collect();
            assert_eq!(
                names,
                ["bin/bridge", "bin/tombolo-cni", "net.d/99-loopback.conf"],
                "{order}"
            );
        }
    }
}

#[test]
fn killed_at_every_write_of_uninstall() {
    for order in orders(&["conf.remove", "conf.give-back", "plugin.remove"]) {
        let node = Node::new();
        node.install();
        node.configure();
        killed(&node, &order, "uninstall");
        // As long as ours is the network of this node, its plugin is there.
        let ours = node.path("net.d/05-tombolo.conflist").exists();
        assert!(!ours || node.says_plugin() == "one", "{order}");
        node.rows(&["uninstall", "-o", "json"]);
        let names: Vec<_> = node.all().into_iter().map(|file| file.0).collect();
        assert_eq!(
            names,
            [
                "bin/bridge",
                "net.d/00-other.conflist",
                "net.d/99-loopback.conf"
            ],
            "{order}"
        );
    }
}
