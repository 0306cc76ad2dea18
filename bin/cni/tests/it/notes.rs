//! DEL while no agent answers: a note for it, or a reason why none is needed or possible.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tombolo_rpc::Failure;

use crate::fake_agent::{FakeAgent, Script, socket_in};
use crate::plugin::Call;

/// A directory as the agent makes it.
fn notes_in(directory: &Path) -> PathBuf {
    let path = directory.join("pending-del");
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .unwrap();
    path
}

fn del(socket: &Path) -> Call {
    Call::new("DEL", socket, "1.0.0").with(json!({ "timeoutSeconds": 1 }))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The one note in a directory.
#[track_caller]
fn the_note(directory: &Path) -> Value {
    let files = files(directory);
    let [file] = files.as_slice() else {
        panic!("one note: {files:?}")
    };
    let mode = file.symlink_metadata().unwrap().permissions().mode();
    assert_eq!(mode, 0o100_600);
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn note() -> Value {
    json!({ "version": 1, "key": { "network": "net", "container_id": "cid-1", "ifname": "eth0" } })
}

#[test]
fn del_leaves_a_note_and_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let notes = notes_in(directory.path());
    let socket = socket_in(directory.path());
    // No socket; then one that an agent left that was killed.
    del(&socket).run().silent();
    assert_eq!(the_note(&notes), note());
    drop(UnixListener::bind(&socket).unwrap());
    del(&socket).run().silent();
    assert_eq!(the_note(&notes), note());
    // Another interface of the same container is another attachment.
    del(&socket).env("CNI_IFNAME", "net1").run().silent();
    assert_eq!(files(&notes).len(), 2);
}

#[test]
fn an_agent_that_hangs_or_dies_is_left_a_note() {
    let agent = FakeAgent::start(Script::Never);
    let notes = notes_in(agent.socket().parent().unwrap());
    del(&agent.socket()).run().silent();
    assert_eq!(the_note(&notes), note());

    let directory = tempfile::tempdir().unwrap();
    let notes = notes_in(directory.path());
    let socket = socket_in(directory.path());
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _read = std::io::Read::read(&mut connection.unwrap(), &mut [0; 64]);
        }
    });
    Call::new("DEL", &socket, "1.0.0").run().silent();
    assert_eq!(the_note(&notes), note());
}

#[test]
fn an_agent_that_answers_needs_no_note() {
    for script in [
        Script::Succeed,
        Script::Fail(Failure {
            reason: "KernelError".to_owned(),
            message: "by script".to_owned(),
            retryable: true,
        }),
        Script::Status(tonic::Code::PermissionDenied),
    ] {
        let agent = FakeAgent::start(script.clone());
        let notes = notes_in(agent.socket().parent().unwrap());
        let ended = del(&agent.socket()).run();
        assert_eq!(ended.exit == 0, matches!(script, Script::Succeed));
        assert!(files(&notes).is_empty(), "{script:?}");
    }
}

#[test]
fn only_del_leaves_notes() {
    let directory = tempfile::tempdir().unwrap();
    let notes = notes_in(directory.path());
    let call = Call::new("ADD", &socket_in(directory.path()), "1.0.0");
    let ended = call.with(json!({ "timeoutSeconds": 1 })).run();
    ended.failed(11, &["AgentUnavailable"]);
    assert!(files(&notes).is_empty());
}

#[test]
fn where_no_agent_ever_was_there_is_nothing_to_detach() {
    let directory = tempfile::tempdir().unwrap();
    for socket in [
        socket_in(directory.path()),
        directory.path().join("no/such/agent.sock"),
    ] {
        let ended = del(&socket).run();
        ended.silent();
        assert!(ended.stderr.contains("nothing to detach"), "{ended:?}");
    }
    assert!(files(directory.path()).is_empty());
}

#[test]
fn nothing_is_written_where_others_could_read_or_lead_it_elsewhere() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let socket = socket_in(directory.path());
    let path = directory.path().join("pending-del");
    symlink(elsewhere.path(), &path).unwrap();
    let words = ["AgentUnavailable", "no note could be left", "pending-del"];
    del(&socket).run().failed(11, &words);
    assert!(files(elsewhere.path()).is_empty());

    std::fs::remove_file(&path).unwrap();
    notes_in(directory.path());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
    del(&socket).run().failed(11, &["is open to others"]);
    assert!(files(&path).is_empty());

    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, b"").unwrap();
    del(&socket).run().failed(11, &["no note could be left"]);
}

#[test]
fn a_directory_of_another_user_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "needs root");
        println!("SKIP a_directory_of_another_user_is_not_used: needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let notes = notes_in(directory.path());
    std::os::unix::fs::chown(&notes, Some(65_534), None).unwrap();
    let ended = del(&socket_in(directory.path())).run();
    ended.failed(11, &["belongs to another user"]);
    assert!(files(&notes).is_empty());
}

#[test]
fn a_link_in_place_of_a_note_is_replaced_and_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let notes = notes_in(directory.path());
    let socket = socket_in(directory.path());
    del(&socket).run().silent();
    let name = files(&notes).remove(0);
    let victim = directory.path().join("victim");
    std::fs::write(&victim, b"untouched").unwrap();
    std::fs::remove_file(&name).unwrap();
    symlink(&victim, &name).unwrap();
    del(&socket).run().silent();
    assert_eq!(the_note(&notes), note());
    assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
    // What is damaged does not stand in for the note.
    std::fs::write(&name, b"{").unwrap();
    del(&socket).run().silent();
    assert_eq!(the_note(&notes), note());
}
