//! DELs that came while no agent answered, as notes of the plugin.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::json;
use tombolo_core::types::{AttachmentKey, DelNote};

use crate::bed::{Bed, Pod, possible, wait_until};

fn dir(bed: &Bed) -> PathBuf {
    bed.run_dir().join("pending-del")
}

/// What the plugin writes for this container.
pub fn leave(bed: &Bed, container: &str) -> PathBuf {
    let key = AttachmentKey::new("tombolo", container, "eth0").unwrap();
    let path = dir(bed).join(DelNote::file_name(&key));
    let text = json!({ "version": 1, "key": key }).to_string();
    // It gets its name when it is whole, as from the plugin.
    let unfinished = bed.dir.path().join("unfinished");
    std::fs::write(&unfinished, text).unwrap();
    std::fs::rename(&unfinished, &path).unwrap();
    path
}

fn is_empty(bed: &Bed) -> bool {
    std::fs::read_dir(dir(bed)).unwrap().next().is_none()
}

fn attached(bed: &Bed) -> Vec<String> {
    let state = bed.state();
    let all = state["attachments"].as_array().unwrap();
    all.iter()
        .map(|each| each["key"]["container_id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_thousand_notes_are_caught_up_with() {
    if !possible("a_thousand_notes") {
        return;
    }
    let mut bed = Bed::new(4);
    bed.start(&[]);
    let clean = bed.kernel();
    let pods: Vec<Pod> = ["a", "b", "c"].map(|name| bed.pod(name)).into();
    let mut made = Vec::new();
    for pod in &pods {
        made.push(bed.add(pod).await.unwrap());
    }
    bed.kill();
    for n in 0..998 {
        leave(&bed, &format!("gone-{n}"));
    }
    leave(&bed, &pods[0].id);
    leave(&bed, &pods[2].id);
    bed.start(&[]);
    wait_until("all are obeyed", || is_empty(&bed));
    wait_until("one is left", || attached(&bed) == [pods[1].id.as_str()]);
    assert!(!pods[0].has_interface() && pods[1].has_interface() && !pods[2].has_interface());
    assert!(pods[1].reaches("10.77.0.1") && pods[1].reaches("fd77:0::1"));
    assert_eq!(bed.check(&pods[1], &made[1]).await, None);
    wait_until("the addresses rested", || {
        bed.state()["pool"]["counts"]["IPv4"]["free"] == 7
    });
    // One that comes while the agent runs.
    leave(&bed, &pods[1].id);
    wait_until("it is obeyed", || {
        is_empty(&bed) && attached(&bed).is_empty()
    });
    assert_eq!(bed.kernel(), clean);
}

/// The attachment that a note is about is the one before: an ADD of the same key ends it, and its own stands.
#[tokio::test]
async fn a_note_never_ends_what_a_later_add_made() {
    if !possible("a_note_never_ends") {
        return;
    }
    let mut bed = Bed::new(8);
    bed.start(&[]);
    let pod = bed.pod("a");
    let mut last = bed.add(&pod).await.unwrap();
    for round in 0..20 {
        // With and without a restart in between.
        let restart = round % 5 == 0;
        if restart {
            bed.kill();
        }
        let note = leave(&bed, &pod.id);
        if restart {
            bed.start(&[]);
        }
        let made = bed.add(&pod).await.unwrap();
        assert!(!note.exists(), "round {round}: the note is older than this");
        assert_ne!(made.addresses, last.addresses, "round {round}");
        wait_until("nothing is left to do", || is_empty(&bed));
        assert_eq!(bed.check(&pod, &made).await, None, "round {round}");
        last = made;
    }
    assert!(pod.has_interface());
    assert_eq!(attached(&bed), [pod.id.as_str()]);
    // A DEL that finds its agent takes the note with it.
    bed.kill();
    leave(&bed, &pod.id);
    bed.start(&[]);
    assert_eq!(bed.del(&pod, true).await, None);
    assert!(is_empty(&bed));
}

#[tokio::test]
async fn what_is_no_note_is_set_aside() {
    if !possible("what_is_no_note") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    bed.kill();
    let victim = bed.dir.path().join("victim");
    let text = json!({ "version": 1, "key": pod.key_json() }).to_string();
    std::fs::write(&victim, &text).unwrap();
    // A link under the right name, and the right text under another.
    let name = leave(&bed, &pod.id);
    std::fs::remove_file(&name).unwrap();
    symlink(&victim, &name).unwrap();
    std::fs::write(dir(&bed).join("garbage.json"), b"{").unwrap();
    std::fs::write(dir(&bed).join("misnamed.json"), &text).unwrap();
    let plain = leave(&bed, "unknown");
    bed.start(&[]);
    wait_until("nothing is left", || is_empty(&bed));
    assert!(!plain.exists());
    let aside = std::fs::read_dir(bed.run_dir().join("quarantine")).unwrap();
    assert_eq!(aside.count(), 3);
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), text);
    assert_eq!(bed.check(&pod, &made).await, None);
    assert!(bed.log().contains("was set aside"));
}
