//! The program, pointed at plugins that do something wrong: it says what, and exits 1.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::possible;

/// A plugin that is a script, and a configuration for it.
struct Script {
    dir: tempfile::TempDir,
}

impl Script {
    fn new(body: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = Self { dir };
        std::fs::write(script.plugin(), format!("#!/bin/sh\n{body}\n")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(script.plugin(), mode).unwrap();
        std::fs::write(script.conf(), r#"{"x-own": true}"#).unwrap();
        script
    }

    fn plugin(&self) -> PathBuf {
        self.dir.path().join("plugin")
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("conf.json")
    }

    fn tried(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo-conformance"));
        command
            .arg("--plugin")
            .arg(self.plugin())
            .arg("--conf")
            .arg(self.conf());
        command.args(arguments).output().unwrap()
    }
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

const VERSION: &str = r#"if [ "$CNI_COMMAND" = VERSION ]; then
    echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit 0; fi"#;

#[test]
fn what_is_no_plugin_is_told_as_such() {
    let output = Script::new("exit 0").tried(&["--tier", "protocol"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("VERSION"), "{}", text(&output));
}

#[test]
fn a_plugin_that_says_yes_to_everything_fails() {
    let output = Script::new(VERSION).tried(&["--tier", "protocol"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for case in [
        "name_is_missing",
        "no_json",
        "reports_all_missing_variables_together",
    ] {
        let line = text.lines().find(|line| line.contains(case)).unwrap();
        assert!(line.contains("FAIL"), "{line}");
    }
    let line = text
        .lines()
        .find(|line| line.contains("prints_its_versions"));
    assert!(line.unwrap().contains(" pass "), "{text}");
}

/// It forgets what it made: a link on the node, and a file.
#[test]
fn what_is_left_behind_is_seen() {
    if !possible("what_is_left_behind_is_seen") {
        return;
    }
    let script = Script::new(&format!(
        r#"{VERSION}
        if [ "$CNI_COMMAND" = ADD ]; then
            ip link add "x$$" type veth peer name "y$$"
            echo '{{"cniVersion":"1.0.0"}}'
        fi"#
    ));
    let output = script.tried(&["--tier", "netns", "--case", "success_exits_0"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("it leaves left: link"), "{text}");
}
