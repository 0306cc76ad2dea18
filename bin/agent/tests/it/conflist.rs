//! The network configuration that makes a node Ready: when it appears, that it comes back, and that it stays.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::bed::{Bed, orders, possible, wait_until};

const OTHER: &str = r#"{"cniVersion": "0.4.0", "name": "other", "plugins": [{"type": "bridge"}]}"#;

/// The runtime's directory of a bed.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn of(bed: &Bed) -> Self {
        let path = bed.dir.path().join("net.d");
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn ours(&self) -> PathBuf {
        self.path.join("05-tombolo.conflist")
    }

    fn read(&self) -> Option<Value> {
        let text = fs::read(self.ours()).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn conflicts(bed: &Bed) -> Vec<String> {
    let state = bed.state();
    let problems = state["problems"].as_array().unwrap();
    let of = problems
        .iter()
        .filter(|problem| problem["reason"] == "ForeignConflict");
    of.map(|problem| problem["message"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_conflist_comes_with_the_first_pod_that_could_and_stays() {
    if !possible("the_conflist_comes_with_the_first_pod_that_could_and_stays") {
        return;
    }
    let mut bed = Bed::new(1);
    let dir = Directory::of(&bed);
    let arguments = ["--cni-conf-dir", dir.text(), "--cni-network-name", "pods"];
    // It serves, and nobody has told it of addresses.
    let served = bed.launch_undescribed(&arguments);
    assert!(served.recv_timeout(Duration::from_secs(60)).is_ok());
    assert_eq!(dir.names(), [""; 0]);
    bed.kill();
    assert_eq!(dir.names(), [""; 0]);
    bed.start(&arguments);
    wait_until("the network configuration", || dir.read().is_some());
    let conf = dir.read().unwrap();
    assert_eq!(conf["name"], "pods");
    let plugin = &conf["plugins"][0];
    assert_eq!(plugin["type"], "tombolo-cni");
    let socket = bed.run_dir().join("agent.sock");
    assert_eq!(plugin["agentSocket"], socket.to_str().unwrap());
    assert_eq!(fs::metadata(dir.ours()).unwrap().mode() & 0o7777, 0o600);

    // Neither the agent's end nor its next begin touches it.
    let first = inode(&dir.ours());
    bed.kill();
    assert_eq!(inode(&dir.ours()), first);
    bed.start(&arguments);
    // What comes after the first look: it was looked at.
    fs::write(dir.path.join("00-broken.conf"), "{").unwrap();
    wait_until("the first look", || !conflicts(&bed).is_empty());
    assert_eq!(inode(&dir.ours()), first);

    fs::remove_file(dir.ours()).unwrap();
    wait_until("what was removed is back", || dir.read().is_some());
    fs::write(dir.ours(), "{}").unwrap();
    wait_until("what was changed is back", || {
        dir.read().is_some_and(|conf| conf["name"] == "pods")
    });
    assert_eq!(dir.read().unwrap(), conf);
}

#[test]
fn t21_another_network_is_named_and_taken_over_only_where_told() {
    if !possible("t21_another_network_is_named_and_taken_over_only_where_told") {
        return;
    }
    let mut bed = Bed::new(1);
    let dir = Directory::of(&bed);
    let other = dir.path.join("00-other.conflist");
    let later = dir.path.join("99-other.conflist");
    for path in [&other, &later] {
        fs::write(path, OTHER).unwrap();
    }
    bed.start(&["--cni-conf-dir", dir.text()]);
    wait_until("it is named", || !conflicts(&bed).is_empty());
    let told = conflicts(&bed);
    assert_eq!(told.len(), 1, "{told:?}");
    for word in ["00-other.conflist", "05-tombolo.conflist", "\"other\""] {
        assert!(told[0].contains(word), "{told:?}");
    }
    assert_eq!(
        bed.state()["ready"],
        true,
        "pods can be attached none the less"
    );
    assert_eq!(fs::read_to_string(&other).unwrap(), OTHER);
    // Its owner takes it away.
    fs::remove_file(&other).unwrap();
    wait_until("it is named no more", || conflicts(&bed).is_empty());

    bed.kill();
    fs::write(&other, OTHER).unwrap();
    bed.start(&["--cni-conf-dir", dir.text(), "--cni-take-over"]);
    wait_until("it is renamed", || !other.exists());
    wait_until("it is named no more", || conflicts(&bed).is_empty());
    assert_eq!(
        dir.names(),
        [
            "00-other.conflist.tombolo-saved",
            "05-tombolo.conflist",
            "99-other.conflist"
        ]
    );
    let saved = dir.path.join("00-other.conflist.tombolo-saved");
    assert_eq!(fs::read_to_string(saved).unwrap(), OTHER);
}

#[test]
fn killed_at_every_write_of_the_conflist() {
    if !possible("killed_at_every_write_of_the_conflist") {
        return;
    }
    let mut bed = Bed::new(1);
    let dir = Directory::of(&bed);
    let other = dir.path.join("00-other.conflist");
    let arguments = ["--cni-conf-dir", dir.text(), "--cni-take-over"];
    for order in orders("conf") {
        fs::write(&other, OTHER).unwrap();
        bed.start(&[&arguments[..], &["--failpoint", &order]].concat());
        bed.killed(&order);
        // What a runtime sees at this moment: ours whole or not at all, the other's until ours is there.
        assert!(
            dir.read().is_none_or(|conf| conf["name"] == "tombolo"),
            "{order}"
        );
        assert!(dir.read().is_some() || other.exists(), "{order}");
        bed.start(&arguments);
        wait_until("ours is the first", || {
            dir.read().is_some() && !other.exists()
        });
        bed.kill();
        assert_eq!(
            dir.names(),
            ["00-other.conflist.tombolo-saved", "05-tombolo.conflist"],
            "{order}"
        );
        for name in dir.names() {
            fs::remove_file(dir.path.join(name)).unwrap();
        }
    }
}
