//! What the process may do, and what others may do to its files.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::bed::{Bed, possible};

/// Bits of CAP_NET_ADMIN, CAP_SYS_PTRACE and CAP_SYS_ADMIN.
const KEPT: u64 = 1 << 12 | 1 << 19 | 1 << 21;

/// Fields of every thread's status.
fn statuses(pid: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let parse = |text: String| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok())
        .map(parse)
        .collect()
}

fn everything_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn every_thread_has_the_listed_capabilities_and_no_others() {
    if !possible("every_thread_has_the_listed_capabilities") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a");
    bed.add(&pod).await.unwrap();
    let threads = statuses(bed.agent_pid());
    assert!(threads.len() > 2, "{}", threads.len());
    for thread in threads {
        let set = |name: &str| u64::from_str_radix(&thread[name], 16).unwrap();
        let name = &thread["Name"];
        for kept in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(set(kept), KEPT, "{kept} of {name}");
        }
        for empty in ["CapInh", "CapAmb"] {
            assert_eq!(set(empty), 0, "{empty} of {name}");
        }
        assert_eq!(thread["NoNewPrivs"], "1", "{name}");
    }
    let listed = include_str!("../../../../SECURITY.md");
    for capability in ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"] {
        assert!(listed.contains(capability));
    }
}

#[tokio::test]
async fn a_process_that_lacks_one_says_which() {
    if !possible("a_process_that_lacks_one") {
        return;
    }
    let bed = Bed::new(0);
    let output = std::process::Command::new("setpriv")
        .args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"])
        .args([env!("CARGO_BIN_EXE_tombolo-agent"), "run", "--nrs-file"])
        .arg(bed.spec_file())
        .arg("--run-dir")
        .arg(bed.run_dir())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        words.contains("needs CAP_SYS_PTRACE, which it was not given"),
        "{words}"
    );
}

#[tokio::test]
async fn nobody_else_can_read_or_reach_anything() {
    if !possible("nobody_else_can_read") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&[]);
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    bed.add(&a).await.unwrap();
    bed.add(&b).await.unwrap();
    assert_eq!(bed.del(&b, true).await, None);
    let all = everything_below(&bed.run_dir());
    assert!(all.len() > 8, "{all:?}");
    for path in all {
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}", path.display());
    }
    let socket = bed.run_dir().join("agent.sock");
    assert!(socket.metadata().unwrap().file_type().is_socket());
}

#[tokio::test]
async fn planted_links_are_not_followed() {
    if !possible("planted_links_are_not_followed") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a");
    bed.add(&pod).await.unwrap();
    bed.kill();
    let victim = bed.dir.path().join("victim");
    let absent = bed.dir.path().join("absent");
    std::fs::write(&victim, b"untouched").unwrap();
    let replace = |name: &str, target: &Path| {
        let path = bed.run_dir().join(name);
        drop(std::fs::remove_file(&path));
        symlink(target, path).unwrap();
    };
    for name in ["nrs.json", "nrs.tmp", "sysctls.tmp", "agent.sock"] {
        replace(name, &victim);
    }
    replace("journal/planted.json", &victim);
    replace("journal/planted.tmp", &absent);
    replace("cooling/planted.json", &victim);
    replace("pending-del/planted.json", &victim);
    bed.start(&[]);
    bed.add(&pod).await.unwrap();
    assert_eq!(bed.del(&pod, true).await, None);
    assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
    assert!(!absent.exists());
    bed.kill();

    // Where following would be the only way on, there is none.
    for name in ["lock", "journal", "cooling", "quarantine", "pending-del"] {
        let path = bed.run_dir().join(name);
        let kept = bed.dir.path().join("kept");
        std::fs::rename(&path, &kept).unwrap();
        symlink(&absent, &path).unwrap();
        let output = bed.run_once();
        assert!(!output.status.success(), "{name}");
        assert!(!absent.exists(), "{name}");
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&kept, &path).unwrap();
    }
    bed.start(&[]);
}
