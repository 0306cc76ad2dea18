//! What a lab could leave behind in the root namespace: taken before and compared after.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::node::output;

/// Everything of the kinds that we make, as lines.
pub fn snapshot() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (kind, program, args) in [
        ("namespace", "ip", &["netns", "list"][..]),
        ("link", "ip", &["-br", "link"]),
        ("rule", "ip", &["-4", "rule"]),
        ("rule6", "ip", &["-6", "rule"]),
        ("nft", "nft", &["list", "tables"]),
    ] {
        let mut command = std::process::Command::new(program);
        command.args(args);
        found.extend(
            output(command)?
                .lines()
                .map(|l| format!("{kind} {}", l.trim())),
        );
    }
    for (kind, file, column) in [
        ("mount", "/proc/self/mounts", 1),
        ("cgroup", "/proc/self/mountinfo", 4),
    ] {
        let text = std::fs::read_to_string(file)?;
        found.extend(
            text.lines()
                .filter_map(|l| Some(format!("{kind} {}", l.split(' ').nth(column)?))),
        );
    }
    // Test programs that run beside a lab call theirs tst…; theirs come and go without us.
    found.retain(|line| !line.contains("tst"));
    Ok(found)
}

/// What is there now and was not before.
pub fn left_since(before: &BTreeSet<String>) -> Result<Vec<String>> {
    Ok(snapshot()?.difference(before).cloned().collect())
}
