//! The crate on real directories, with readers beside it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tombolo_cni_dir::{
    CONFLIST, Conflist, Error, GivenBack, Outcome, PLUGIN, SAVED, Trouble, give_back,
    install_plugin, keep_conflist, remove_conflist, remove_plugin, rivals, take_over,
};

const OTHER: &str = r#"{"cniVersion": "0.4.0", "name": "other", "plugins": [{"type": "bridge"}]}"#;

fn conflist(network: &str) -> Conflist {
    Conflist::new(network, Path::new("/run/tombolo/agent.sock")).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Mode, inode and content.
fn identity(path: &Path) -> (u32, u64, Vec<u8>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (
        metadata.mode() & 0o7777,
        metadata.ino(),
        fs::read(path).unwrap(),
    )
}

#[test]
fn a_reader_finds_the_old_conflist_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(CONFLIST);
    // Of very different lengths: a part of one is none of both.
    let both = [conflist("a"), conflist(&"b".repeat(200_000))];
    keep_conflist(dir.path(), &both[0]).unwrap();
    let texts = both.each_ref().map(Conflist::text);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = [0_u32; 2];
            while !over.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&file).unwrap();
                let which = texts.iter().position(|known| *known == text);
                seen[which.unwrap_or_else(|| panic!("{} bytes of neither", text.len()))] += 1;
                // Nothing else that a runtime would read.
                for name in names(dir.path()) {
                    let read = [".conf", ".conflist", ".json"];
                    let read = read.iter().any(|ending| name.ends_with(ending));
                    assert!(!read || name == CONFLIST, "{name}");
                }
            }
            seen
        });
        // Two writers that know nothing of each other.
        let writers = both.each_ref().map(|conflist| {
            scope.spawn(|| {
                for _ in 0..300 {
                    keep_conflist(dir.path(), conflist).unwrap();
                }
            })
        });
        for writer in writers {
            writer.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        let seen = reader.join().unwrap();
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    });
    assert_eq!(names(dir.path()), [CONFLIST]);
}

#[test]
fn whoever_starts_the_plugin_gets_a_whole_one() {
    let (dir, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let programs = ["one", "two"].map(|word| {
        let path = from.path().join(word);
        // Long enough that it is not written at one go.
        let script = format!("#!/bin/sh\necho {word}\n{}", "#\n".repeat(1 << 20));
        fs::write(&path, script).unwrap();
        path
    });
    install_plugin(&programs[0], dir.path()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = 0;
            while !over.load(Ordering::Relaxed) || calls == 0 {
                let called = std::process::Command::new(dir.path().join(PLUGIN)).output();
                let called = match called {
                    // The child has inherited the very file from the writer, who is in its process here and nowhere else.
                    Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => continue,
                    called => called.unwrap(),
                };
                let said = String::from_utf8(called.stdout).unwrap();
                assert!(["one\n", "two\n"].contains(&said.as_str()), "{said:?}");
                calls += 1;
            }
        });
        for round in 0..60 {
            let outcome = install_plugin(&programs[(round + 1) % 2], dir.path());
            assert_eq!(outcome.unwrap(), Outcome::Replaced);
        }
        over.store(true, Ordering::Relaxed);
        caller.join().unwrap();
    });
    assert_eq!(names(dir.path()), [PLUGIN]);
}

#[test]
fn what_is_there_already_is_not_written_again() {
    let (dir, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (plugin, conf) = (dir.path().join(PLUGIN), dir.path().join(CONFLIST));
    let program = from.path().join("p");
    fs::write(&program, "one").unwrap();
    let install = || install_plugin(&program, dir.path()).unwrap();
    assert_eq!(install(), Outcome::Created);
    assert_eq!(identity(&plugin).0, 0o755);
    let first = identity(&plugin);
    assert_eq!(install(), Outcome::Unchanged);
    assert_eq!(identity(&plugin), first);
    // One that nobody could execute is not the same.
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(install(), Outcome::Replaced);
    assert_eq!(identity(&plugin).0, 0o755);

    let keep = |network| keep_conflist(dir.path(), &conflist(network)).unwrap();
    assert_eq!(keep("a"), Outcome::Created);
    assert_eq!(identity(&conf).0, 0o600);
    let first = identity(&conf);
    assert_eq!(keep("a"), Outcome::Unchanged);
    assert_eq!(identity(&conf), first);
    // Longer, and the same to begin with.
    fs::write(&conf, [&first.2[..], b" "].concat()).unwrap();
    assert_eq!(keep("a"), Outcome::Replaced);
    assert_eq!(keep("b"), Outcome::Replaced);
}

#[test]
fn a_link_in_our_place_is_replaced_and_not_followed() {
    let (dir, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = from.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in [CONFLIST.to_owned(), format!(".{CONFLIST}.new")] {
        symlink(&victim, dir.path().join(&name)).unwrap();
        keep_conflist(dir.path(), &conflist("a")).unwrap();
        remove_conflist(dir.path()).unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(names(dir.path()), [""; 0]);
    fs::create_dir(dir.path().join(CONFLIST)).unwrap();
    let refused = keep_conflist(dir.path(), &conflist("a")).unwrap_err();
    assert!(matches!(refused, Error::NotAFile { .. }), "{refused}");
}

#[test]
fn rivals_are_told_of_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("00-other.conflist", OTHER),
        ("10-later.conflist", OTHER),
        ("20-broken.conflist", "{"),
        ("00-note.txt", "{"),
        ("99-old.conf.bak", "{"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::create_dir(dir.path().join("00-dir.conf")).unwrap();
    symlink("/nonexistent", dir.path().join("01-dangling.conf")).unwrap();
    keep_conflist(dir.path(), &conflist("a")).unwrap();
    let before = names(dir.path());
    let found = rivals(dir.path()).unwrap();
    let told: Vec<_> = found.iter().map(|rival| rival.name.as_str()).collect();
    assert_eq!(
        told,
        [
            "00-other.conflist",
            "01-dangling.conf",
            "20-broken.conflist"
        ]
    );
    let other = Trouble::TakesOurPlace {
        network: "other".to_owned(),
    };
    assert_eq!(found[0].trouble, other);
    assert!(found[1].is_before() && !found[2].is_before());
    assert_eq!(names(dir.path()), before);
    assert_eq!(rivals(Path::new("/nonexistent")).unwrap(), []);
}

#[test]
fn what_was_taken_over_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let (before, behind) = (
        dir.path().join("00-o.conflist"),
        dir.path().join("10-o.conf"),
    );
    let behind_text = r#"{"name": "o", "type": "bridge"}"#;
    fs::write(&before, OTHER).unwrap();
    fs::write(&behind, behind_text).unwrap();
    let whole = [identity(&before), identity(&behind)];
    keep_conflist(dir.path(), &conflist("a")).unwrap();
    assert_eq!(take_over(dir.path()).unwrap(), ["00-o.conflist"]);
    assert_eq!(rivals(dir.path()).unwrap(), []);
    assert_eq!(take_over(dir.path()).unwrap(), [""; 0]);
    assert!(remove_conflist(dir.path()).unwrap());
    let back = GivenBack::Back("00-o.conflist".to_owned());
    assert_eq!(give_back(dir.path()).unwrap(), [back]);
    assert_eq!([identity(&before), identity(&behind)], whole);
    assert_eq!(names(dir.path()), ["00-o.conflist", "10-o.conf"]);

    // Its owner came back while it was put away.
    take_over(dir.path()).unwrap();
    fs::write(&before, "newer").unwrap();
    let saved = dir.path().join(format!("00-o.conflist{SAVED}"));
    assert_eq!(
        give_back(dir.path()).unwrap(),
        [GivenBack::NameTaken(saved.clone())]
    );
    assert_eq!(fs::read_to_string(&before).unwrap(), "newer");
    assert_eq!(fs::read_to_string(&saved).unwrap(), OTHER);
}

#[test]
fn what_is_not_there_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    for dir in [dir.path(), Path::new("/nonexistent")] {
        assert!(!remove_plugin(dir).unwrap());
        assert!(!remove_conflist(dir).unwrap());
        assert_eq!(give_back(dir).unwrap(), []);
    }
    let refused = keep_conflist(Path::new("/nonexistent"), &conflist("a")).unwrap_err();
    assert!(refused.is_missing(), "{refused}");
    assert!(refused.to_string().contains("/nonexistent"), "{refused}");
}
