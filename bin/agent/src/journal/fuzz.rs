//! Files as no agent writes them: set aside and reported, or taken for what they say, and then written as they were read.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use tombolo_core::types::DelNote;
use tombolo_fuzz::Target;

use super::*;
use crate::originals::Originals;
use crate::spec::Cached;

const WORDS: &[&str] = &[
    "version",
    "key",
    "network",
    "container_id",
    "ifname",
    "pod",
    "phase",
    "adding",
    "ready",
    "draining",
    "netns",
    "dev",
    "ino",
    "path",
    "addresses",
    "address",
    "ip",
    "nic",
    "mtu",
    "host_ifindex",
    "since",
    "until",
    "values",
    "generation",
    "spec",
];

/// What was read is what is written and read again.
fn again<T: DeserializeOwned + Serialize + Debug>(bytes: &[u8]) -> Option<T> {
    let path = Path::new("x.json");
    let read: T = file::decode(path, bytes, file::VERSION).ok()?;
    let written = file::encode(path, &read).expect("what fits once fits again");
    let reread: T = file::decode(path, &written, file::VERSION).expect("what we write we read");
    assert_eq!(format!("{read:?}"), format!("{reread:?}"));
    Some(read)
}

#[test]
fn contents() {
    Target::new("journal-contents").words(WORDS).check(|bytes| {
        if let Some(record) = again::<Record>(bytes) {
            assert_eq!(record.key.file_stem().len(), 32);
        }
        again::<Cooling>(bytes);
        again::<Cached>(bytes);
        again::<Originals>(bytes);
        // The plugin's.
        drop(file::decode::<DelNote>(
            Path::new("x.json"),
            bytes,
            DelNote::VERSION,
        ));
    });
}

/// The same bytes as an attachment's and as a resting address's file, each under a name that fits where there is one.
#[test]
fn directories() {
    Target::new("journal-directory")
        .words(WORDS)
        .runs(100)
        .check(|bytes| {
            let dir = tempfile::tempdir().expect("a directory");
            let journal = Journal::open(dir.path()).expect("a journal");
            let x = Path::new("x");
            let stem = file::decode::<Record>(x, bytes, file::VERSION)
                .map_or("x".to_owned(), |r| r.key.file_stem());
            let ip = file::decode::<Cooling>(x, bytes, file::VERSION)
                .map_or("x".to_owned(), |c| c.address.ip.to_string());
            for (folder, name) in [("journal", stem), ("cooling", ip)] {
                let path = dir.path().join(folder).join(format!("{name}.json"));
                std::fs::write(path, bytes).expect("a file");
            }
            let found = journal.load().expect("a journal is always read");
            let all = found.records.len() + found.cooling.len() + found.quarantined.len();
            assert_eq!(all, 2, "nothing is lost");
            // What was set aside does not come again; what was read can be forgotten.
            for record in &found.records {
                journal.remove(&record.key).expect("removed");
            }
            for cooling in &found.cooling {
                journal.cooled(cooling.address.ip).expect("removed");
            }
            let after = journal.load().expect("a journal is always read");
            assert_eq!((after.records, after.cooling), (vec![], vec![]));
            assert!(after.quarantined.is_empty());
        });
}

#[test]
fn a_file_has_a_limit_on_its_size_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let most = 4 << 20;
    let space = most - br#"{"version":1,"values":{}}"#.len();
    let of = |space: usize| format!("{{\"version\":1,\"values\":{{}}{}}}", " ".repeat(space));
    std::fs::write(&path, of(space)).unwrap();
    read_versioned::<Originals>(&path).unwrap();
    std::fs::write(&path, of(space + 1)).unwrap();
    let error = read_versioned::<Originals>(&path).unwrap_err();
    assert!(
        error.to_string().ends_with("has more than 4194304 bytes"),
        "{error}"
    );
    // What could not be read again is not written, and what was there stays.
    let mut big = Originals::default();
    big.values.insert("x".to_owned(), "x".repeat(most));
    let error = write_versioned(&path, &big).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLong {
                limit: 4_194_304,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap().len(), most + 1);
}
