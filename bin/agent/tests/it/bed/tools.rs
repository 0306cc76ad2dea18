//! Other programs, in namespaces.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Asks again until it holds, for at most ten seconds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "not within 30 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    started.elapsed()
}

pub fn ip(netns: &str, arguments: &str) {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    in_netns(netns, "ip", &words);
}

pub fn ip_json(netns: &str, arguments: &str) -> Value {
    let words: Vec<&str> = ["-j", "-d"]
        .into_iter()
        .chain(arguments.split_whitespace())
        .collect();
    let text = in_netns(netns, "ip", &words);
    if text.trim().is_empty() {
        json!([])
    } else {
        serde_json::from_str(&text).unwrap()
    }
}

/// Not `ip -n`: it remounts, which fails where the root is no mount point, as in a chroot.
pub fn in_netns(netns: &str, program: &str, arguments: &[&str]) -> String {
    let enter = format!("--net=/run/netns/{netns}");
    let words: Vec<&str> = [enter.as_str(), program]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    run("nsenter", &words)
}

pub fn ping(netns: &str, ip_: &str) -> bool {
    let enter = format!("--net=/run/netns/{netns}");
    let words = [enter.as_str(), "ping", "-n", "-c1", "-W1", ip_];
    Command::new("nsenter")
        .args(words)
        .stdout(Stdio::null())
        .status()
        .unwrap()
        .success()
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {}: {text}",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).unwrap()
}
