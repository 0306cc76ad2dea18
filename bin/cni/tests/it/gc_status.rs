//! GC and STATUS: what they ask of the agent, and what becomes of each answer and of none.

use serde_json::{Value, json};
use tombolo_rpc::{Failure, GcRequest, ValidAttachment};

use crate::fake_agent::{Asked, FakeAgent, Script, socket_in};
use crate::plugin::Call;

const VALID: &str = "cni.dev/valid-attachments";

fn refusal(reason: &str, retryable: bool) -> Failure {
    Failure {
        reason: reason.into(),
        message: "why so".into(),
        retryable,
    }
}

/// As libcni sends it: no container, no namespace, the list under two names.
fn gc(agent: &FakeAgent, valid: Value) -> Call {
    let conf = json!({ VALID: valid, "cni.dev/attachments": valid });
    without_container(Call::new("GC", &agent.socket(), "1.1.0")).with(conf)
}

fn since_boot() -> u64 {
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(since.tv_sec * 1_000_000_000 + since.tv_nsec).unwrap()
}

fn without_container(mut call: Call) -> Call {
    call.env
        .retain(|name, _| ["CNI_COMMAND", "CNI_PATH"].contains(&name.as_str()));
    call
}

#[test]
fn gc_hands_the_list_of_its_network_on() {
    let agent = FakeAgent::start(Script::Succeed);
    let before = since_boot();
    let listed = json!([
        { "containerID": "c1", "ifname": "eth0" },
        { "containerID": "c1", "ifname": "net1", "x-unknown": 1 },
    ]);
    gc(&agent, listed).run().silent();
    gc(&agent, json!([])).run().silent();
    // `with` would remove it.
    let mut call = gc(&agent, json!([]));
    call.stdin = String::from_utf8(call.stdin)
        .unwrap()
        .replace(
            r#""cni.dev/valid-attachments":[]"#,
            r#""cni.dev/valid-attachments":null"#,
        )
        .into_bytes();
    call.run().silent();
    let request = |ifnames: &[&str]| {
        let valid = ifnames.iter().map(|ifname| ValidAttachment {
            container_id: "c1".into(),
            ifname: (*ifname).into(),
        });
        Asked::Gc(GcRequest {
            protocol: tombolo_rpc::PROTOCOL,
            network: "net".into(),
            valid: valid.collect(),
            begun: 0,
        })
    };
    let expected = [request(&["eth0", "net1"]), request(&[]), request(&[])];
    let mut asked = agent.asked();
    let mut last = before;
    for asked in &mut asked {
        if let Asked::Gc(request) = asked {
            let begun = std::mem::take(&mut request.begun);
            assert!(last < begun, "one after the other: {last} {begun}");
            last = begun;
        }
    }
    assert!(last < since_boot());
    assert_eq!(asked, expected);
}

#[test]
fn a_list_that_is_absent_or_malformed_costs_nobody_the_network() {
    let agent = FakeAgent::start(Script::Succeed);
    let call = without_container(Call::new("GC", &agent.socket(), "1.1.0"));
    call.run().failed(7, &[VALID, "is missing"]);
    for (list, words) in [
        (json!({}), "must be a list"),
        (json!([{ "ifname": "eth0" }]), "[0].containerID is missing"),
        (
            json!([{ "containerID": "c", "ifname": "a b" }]),
            "[0].ifname \"a b\"",
        ),
    ] {
        gc(&agent, list).run().failed(7, &[VALID, words]);
    }
    gc(&agent, json!([]))
        .with(json!({ "name": null }))
        .run()
        .failed(7, &["name is missing"]);
    assert_eq!(agent.asked(), []);
}

#[test]
fn gc_that_did_not_happen_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let away = Call::new("GC", &socket_in(directory.path()), "1.1.0")
        .with(json!({ VALID: [], "timeoutSeconds": 1 }));
    away.run().failed(11, &["AgentUnavailable", "away"]);
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "no note"
    );

    let older = FakeAgent::start(Script::Status(tonic::Code::Unimplemented));
    let error = gc(&older, json!([])).run().failed(
        101,
        &["ProtocolMismatch", "older build than this plugin", "no GC"],
    );
    assert_eq!(error["cniVersion"], "1.1.0");

    let failing = FakeAgent::start(Script::Fail(refusal("KernelError", true)));
    gc(&failing, json!([]))
        .run()
        .failed(11, &["KernelError", "why so"]);
    let silent = FakeAgent::start(Script::Never);
    gc(&silent, json!([]))
        .with(json!({ "timeoutSeconds": 1 }))
        .run()
        .failed(11, &["AgentUnavailable", "did not answer within 1s"]);
}

#[test]
fn status_is_silent_where_a_pod_can_be_added() {
    let agent = FakeAgent::start(Script::Succeed);
    without_container(Call::new("STATUS", &agent.socket(), "1.1.0"))
        .run()
        .silent();
    assert!(matches!(agent.asked()[..], [Asked::Status(_)]));
}

#[test]
fn status_tells_what_concerns_new_pods_from_what_concerns_all() {
    let status = |agent: &FakeAgent| Call::new("STATUS", &agent.socket(), "1.1.0").run();
    for (reason, retryable) in [("NotReady", true), ("PoolEmpty", true), ("X", false)] {
        let agent = FakeAgent::start(Script::Fail(refusal(reason, retryable)));
        let error = status(&agent).failed(50, &[reason, "no pod can be added", "why so"]);
        assert_eq!(error["cniVersion"], "1.1.0");
        let agent = FakeAgent::start(Script::FailAffected(refusal(reason, retryable)));
        status(&agent).failed(51, &[reason, "why so"]);
    }
    let other = FakeAgent::start(Script::Status(tonic::Code::Unimplemented));
    status(&other).failed(50, &["ProtocolMismatch"]);
}

#[test]
fn status_does_not_wait_long_for_anybody() {
    // A generous timeout of the configuration is for ADD. The bound itself is in the message.
    let long = json!({ "timeoutSeconds": 200 });
    let directory = tempfile::tempdir().unwrap();
    Call::new("STATUS", &socket_in(directory.path()), "1.1.0")
        .with(long.clone())
        .run()
        .failed(50, &["AgentUnavailable", "away"]);
    let silent = FakeAgent::start(Script::Never);
    let error = Call::new("STATUS", &silent.socket(), "1.1.0")
        .with(long)
        .run()
        .failed(50, &["AgentUnavailable", "did not answer within"]);
    let message = error["msg"].as_str().unwrap();
    assert!(message.ends_with("ms"), "below a second: {message}");

    // A runtime that never closes stdin.
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tombolo-cni"))
        .env("CNI_COMMAND", "STATUS")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["code"], 5, "{error}");
}

#[test]
fn gc_and_status_pay_no_heed_to_what_names_a_container() {
    let agent = FakeAgent::start(Script::Succeed);
    for command in ["GC", "STATUS"] {
        Call::new(command, &agent.socket(), "1.1.0")
            .with(json!({ VALID: [], "prevResult": 3, "ipam": { "type": "host-local" } }))
            .env("CNI_CONTAINERID", "../x")
            .env("CNI_NETNS", "/nowhere")
            .env("CNI_ARGS", "broken")
            .run()
            .silent();
    }
    assert_eq!(agent.asked().len(), 2);
}
