//! The shipped plugin against the shipped agent, killed before and after each thing that it does. The runtime's part is
//! played here: what ended without an answer is followed by DEL, and may be asked for again.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::bed::{Bed, Pod, possible};

/// Beside the agent: the workspace is built as a whole.
fn plugin() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_tombolo-agent")).with_file_name("tombolo-cni");
    assert!(path.exists(), "build the workspace first: no {path:?}");
    path
}

fn call(bed: &Bed, pod: &Pod, command: &str, result: Option<&Value>, failpoint: &str) -> Output {
    let mut conf = json!({
        "cniVersion": "1.1.0", "name": "tombolo", "cni.dev/valid-attachments": [], "type": "tombolo-cni",
        "agentSocket": bed.run_dir().join("agent.sock"),
    });
    if let Some(result) = result {
        conf["prevResult"] = result.clone();
    }
    let mut plugin = Command::new(plugin());
    if !failpoint.is_empty() {
        plugin.args(["--failpoint", failpoint]);
    }
    plugin
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &pod.id)
        .env("CNI_NETNS", format!("/run/netns/{}", pod.netns))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin");
    let pipes = plugin.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(conf.to_string().as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn succeeds(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

#[tokio::test]
async fn the_plugin_killed_at_every_step_leaves_what_del_takes_away() {
    if !possible("the_plugin_killed_at_every_step") {
        return;
    }
    let listed = Command::new(plugin()).arg("--failpoints").output().unwrap();
    let points = String::from_utf8(listed.stdout).unwrap();
    let mut bed = Bed::new(20);
    bed.start(&[]);
    let clean = bed.kernel();
    for order in points
        .lines()
        .flat_map(|point| ["before", "after"].map(|when| format!("{point}.{when}")))
    {
        let pod = bed.pod(&order.replace('.', "-"));
        let (operation, step) = order.split_once('.').unwrap();
        // The answer is that of an ADD.
        let command = match operation {
            "add" | "answer" => "ADD",
            "check" => "CHECK",
            "del" | "note" => "DEL",
            "gc" => "GC",
            "status" => "STATUS",
            other => panic!("{other}: a point without a test"),
        };
        let before = (command != "ADD").then(|| call(&bed, &pod, "ADD", None, ""));
        let result = before.as_ref().map(succeeds);
        if operation == "note" {
            bed.kill();
            if step.starts_with("spare.") || step.starts_with("replace.") {
                succeeds(&call(&bed, &pod, "DEL", result.as_ref(), ""));
            }
        }
        let killed = call(&bed, &pod, command, result.as_ref(), &order);
        assert_eq!(killed.status.signal(), Some(9), "{order}: {killed:?}");
        let marker = format!("failpoint {order}@1=kill");
        assert!(String::from_utf8_lossy(&killed.stderr).contains(&marker));
        // A note once left is never lost; one that is not, is not believed.
        let noted = operation == "note"
            && !["content", "name.before"]
                .iter()
                .any(|s| step.starts_with(s));
        if operation == "note" {
            bed.start(&[]);
        }
        // What the agent answered stands until DEL; what it was not asked, or undid, is not there.
        let stands = !["add.ask.before", "del.ask.after", "gc.ask.after"].contains(&order.as_str())
            && !noted;
        bed.agree(usize::from(stands));
        // What ended without an answer is asked again, or taken away.
        if command == "ADD" && stands {
            let again = succeeds(&call(&bed, &pod, "ADD", None, ""));
            assert!(pod.has_interface() && again["ips"].is_array(), "{order}");
        }
        succeeds(&call(&bed, &pod, "DEL", result.as_ref(), ""));
        bed.agree(0);
        assert_eq!(bed.kernel(), clean, "{order}");
        assert!(!pod.has_interface(), "{order}");
        let notes = std::fs::read_dir(bed.run_dir().join("pending-del")).unwrap();
        assert_eq!(notes.count(), 0, "{order}");
    }
}

#[test]
fn a_failpoint_that_is_none_is_refused_and_a_variable_arms_nothing() {
    for order in ["add.ask", "add.nothing.before"] {
        let output = Command::new(plugin())
            .args(["--failpoint", order])
            .env("CNI_COMMAND", "VERSION")
            .output()
            .unwrap();
        assert!(output.status.code().is_some_and(|code| code != 0));
    }
    let output = Command::new(plugin())
        .env("CNI_COMMAND", "VERSION")
        .env("TOMBOLO_FAILPOINT", "answer.print.before")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
