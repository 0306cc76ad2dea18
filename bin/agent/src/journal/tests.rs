use std::os::unix::fs::{PermissionsExt, symlink};

use tombolo_core::types::NicId;

use super::*;

fn record(n: u32) -> Record {
    Record {
        key: AttachmentKey::new("net", &format!("c{n}"), "eth0").unwrap(),
        pod: PodRef {
            namespace: "default".to_owned(),
            name: format!("p{n}"),
            uid: String::new(),
        },
        phase: Phase::Ready,
        netns: NetnsRecord {
            dev: 4,
            ino: 99,
            path: "/run/netns/x".to_owned(),
        },
        addresses: vec![EndpointAddress {
            ip: "10.0.0.1".parse().unwrap(),
            nic: NicId("eni-1".to_owned()),
        }],
        host_ports: Vec::new(),
        mtu: 1500,
        beside: BTreeSet::new(),
        host_ifindex: Some(7),
        since: Millis(5),
        answered: 0,
    }
}

fn journal() -> (tempfile::TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    (dir, journal)
}

#[test]
fn what_is_written_is_read() {
    let (dir, journal) = journal();
    journal.write(&record(1)).unwrap();
    journal
        .write(&Record {
            phase: Phase::Draining,
            ..record(1)
        })
        .unwrap();
    journal.write(&record(2)).unwrap();
    journal.remove(&record(2).key).unwrap();
    journal.remove(&record(2).key).unwrap();
    let note = Cooling {
        address: EndpointAddress {
            ip: "fd00::1".parse().unwrap(),
            nic: NicId("e".to_owned()),
        },
        until: Millis(9),
    };
    journal.cool(&note).unwrap();
    let found = journal.load().unwrap();
    assert_eq!(
        found.records,
        [Record {
            phase: Phase::Draining,
            ..record(1)
        }]
    );
    assert_eq!(found.cooling, std::slice::from_ref(&note));
    assert!(found.quarantined.is_empty());
    journal.cooled(note.address.ip).unwrap();
    assert!(journal.load().unwrap().cooling.is_empty());
    for (path, mode) in [("journal", 0o40700), ("cooling", 0o40700)] {
        assert_eq!(
            dir.path()
                .join(path)
                .metadata()
                .unwrap()
                .permissions()
                .mode(),
            mode
        );
    }
    let file = file::list(&dir.path().join("journal")).unwrap().remove(0);
    assert_eq!(file.metadata().unwrap().permissions().mode(), 0o100_600);
}

#[test]
fn unreadable_files_are_set_aside_and_reported() {
    let (dir, journal) = journal();
    let files = dir.path().join("journal");
    journal.write(&record(1)).unwrap();
    let good = std::fs::read(file::list(&files).unwrap().remove(0)).unwrap();
    std::fs::write(files.join("garbage.json"), b"{\"version\":1").unwrap();
    std::fs::write(
        files.join("future.json"),
        b"{\"version\":2,\"attachment\":null}",
    )
    .unwrap();
    std::fs::write(files.join("bare.json"), b"{}").unwrap();
    std::fs::write(files.join("misnamed.json"), good).unwrap();
    std::fs::write(files.join("half.tmp"), b"{").unwrap();
    symlink("/etc/hostname", files.join("link.json")).unwrap();
    let found = journal.load().unwrap();
    assert_eq!(found.records, [record(1)]);
    let mut kinds: Vec<&str> = found
        .quarantined
        .iter()
        .map(|q| match q.error {
            Error::Garbage { .. } => "garbage",
            Error::Version { found: 2, .. } => "version",
            Error::Misnamed { .. } => "misnamed",
            Error::NotAFile { .. } => "link",
            _ => "other",
        })
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["garbage", "garbage", "link", "misnamed", "version"]);
    assert!(
        found
            .quarantined
            .iter()
            .all(|q| q.moved_to.symlink_metadata().is_ok())
    );
    assert!(!files.join("half.tmp").exists());
    // Set aside once: the next start does not meet them again.
    assert!(journal.load().unwrap().quarantined.is_empty());
}

#[test]
fn directory_that_is_a_link_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), dir.path().join("journal")).unwrap();
    assert!(matches!(
        Journal::open(dir.path()),
        Err(Error::Directory { .. })
    ));
}

#[test]
fn directory_open_to_others_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    Journal::open(dir.path()).unwrap();
    assert_eq!(
        dir.path().metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn link_in_place_of_a_file_is_replaced_not_followed() {
    let (dir, journal) = journal();
    let target = dir.path().join("victim");
    std::fs::write(&target, b"untouched").unwrap();
    let path = dir
        .path()
        .join("journal")
        .join(format!("{}.json", record(1).key.file_stem()));
    symlink(&target, path.with_extension("tmp")).unwrap();
    symlink(&target, &path).unwrap();
    journal.write(&record(1)).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"untouched");
    assert_eq!(journal.load().unwrap().records, [record(1)]);
}
