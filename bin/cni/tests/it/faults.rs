//! An agent that is away, late, silent, broken or foreign. No test asserts how long anything took.

use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::fake_agent::{Asked, FakeAgent, Script, socket_in};
use crate::plugin::Call;

#[test]
fn an_agent_away_is_worth_another_try() {
    let directory = tempfile::tempdir().unwrap();
    Call::new("ADD", &socket_in(directory.path()), "1.0.0")
        .with(json!({ "timeoutSeconds": 1 }))
        .run()
        .failed(11, &["AgentUnavailable", "the agent is away", "agent.sock"]);
}

#[test]
fn add_waits_for_an_agent_that_is_being_restarted() {
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_in(directory.path());
    // Left behind by an agent that was killed: refuses connections.
    drop(UnixListener::bind(&socket).unwrap());
    let call = Call::new("ADD", &socket, "1.0.0");
    let plugin = std::thread::spawn(move || call.run());
    let agent = FakeAgent::start_later(Script::Succeed, directory);
    std::fs::remove_file(&socket).unwrap();
    agent.listen();
    assert_eq!(
        plugin.join().unwrap().json()["ips"][0]["address"],
        "10.0.1.7/32"
    );
}

#[test]
fn a_request_whose_connection_broke_is_sent_again_a_few_times() {
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_in(directory.path());
    let listener = UnixListener::bind(&socket).unwrap();
    let accepted = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&accepted);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            // Reads the request's beginning, so that the plugin has sent it, and dies.
            let _read = std::io::Read::read(&mut connection.unwrap(), &mut [0; 64]);
        }
    });
    Call::new("ADD", &socket, "1.0.0")
        .run()
        .failed(11, &["AgentUnavailable", "agent.sock"]);
    assert_eq!(
        accepted.load(Ordering::SeqCst),
        4,
        "once and three times again"
    );
}

#[test]
fn an_agent_that_dies_in_the_middle_is_asked_again_when_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_in(directory.path());
    let listener = UnixListener::bind(&socket).unwrap();
    let call = Call::new("ADD", &socket, "1.0.0");
    let plugin = std::thread::spawn(move || call.run());
    let (connection, _) = listener.accept().unwrap();
    drop(listener);
    std::fs::remove_file(&socket).unwrap();
    drop(connection);
    let agent = FakeAgent::start_later(Script::Succeed, directory);
    agent.listen();
    assert_eq!(
        plugin.join().unwrap().json()["ips"][0]["address"],
        "10.0.1.7/32"
    );
    assert_eq!(agent.asked().len(), 1);
}

#[test]
fn a_silent_agent_does_not_hold_the_runtime_up() {
    let agent = FakeAgent::start(Script::Never);
    let call =
        |command| Call::new(command, &agent.socket(), "1.0.0").with(json!({ "timeoutSeconds": 1 }));
    call("ADD")
        .run()
        .failed(11, &["AgentUnavailable", "did not answer within 1s"]);
    call("DEL")
        .run()
        .failed(11, &["AgentUnavailable", "did not answer within 1s"]);
}

#[test]
fn something_else_that_listens_there_is_not_the_agent() {
    let directory = tempfile::tempdir().unwrap();
    let socket = socket_in(directory.path());
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _written = std::io::Write::write_all(
                &mut connection.unwrap(),
                b"HTTP/1.1 400 Bad Request\r\n\r\n",
            );
        }
    });
    Call::new("DEL", &socket, "1.0.0")
        .run()
        .failed(11, &["AgentUnavailable"]);
}

#[test]
fn an_agent_of_another_kind_is_named_as_such() {
    let agent = FakeAgent::start(Script::Status(tonic::Code::Unimplemented));
    Call::new("ADD", &agent.socket(), "1.0.0")
        .run()
        .failed(101, &["ProtocolMismatch", "by script"]);
    assert_eq!(
        agent.asked().len(),
        1,
        "what the agent itself says is not asked again"
    );

    let agent = FakeAgent::start(Script::Status(tonic::Code::PermissionDenied));
    Call::new("ADD", &agent.socket(), "1.0.0")
        .run()
        .failed(11, &["AgentUnavailable", "by script"]);
    assert_eq!(agent.asked().len(), 1);

    let agent = FakeAgent::start(Script::Empty);
    Call::new("ADD", &agent.socket(), "1.0.0")
        .run()
        .failed(101, &["ProtocolMismatch"]);
}

#[test]
fn version_does_not_wait_for_stdin_to_end() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tombolo-cni"))
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("supportedVersions")
    );
}

#[test]
fn many_at_once() {
    let agent = FakeAgent::start(Script::Succeed);
    let socket = agent.socket();
    std::thread::scope(|scope| {
        for container in 0..16 {
            let call = Call::new("ADD", &socket, "1.1.0")
                .env("CNI_CONTAINERID", &format!("cid-{container}"));
            scope.spawn(move || assert_eq!(call.run().exit, 0));
        }
    });
    let mut containers: Vec<_> = agent
        .asked()
        .into_iter()
        .map(|asked| match asked {
            Asked::Add(request) => request.key.unwrap().container_id,
            other => panic!("{other:?}"),
        })
        .collect();
    containers.sort();
    containers.dedup();
    assert_eq!(containers.len(), 16);
}
