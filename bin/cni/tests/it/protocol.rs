//! Every command in every version against an agent that answers.

use serde_json::{Value, json};
use tombolo_rpc::Failure;

use crate::fake_agent::{Asked, FakeAgent, Script};
use crate::plugin::{Call, NETNS, VERSIONS};

#[test]
fn add_answers_in_the_shape_of_every_version() {
    let agent = FakeAgent::start(Script::Succeed);
    for version in VERSIONS {
        let ended = Call::new("ADD", &agent.socket(), version).run();
        assert_eq!(ended.exit, 0, "{ended:?}");
        let mut expected = json!({
            "cniVersion": version,
            "interfaces": [
                { "name": "tmb0123456789ab", "mac": "02:00:00:00:00:01", "sandbox": "" },
                { "name": "eth0", "mac": "02:00:00:00:00:00", "sandbox": NETNS },
            ],
            "ips": [
                { "address": "10.0.1.7/32", "gateway": "169.254.1.1", "interface": 1 },
                { "address": "fd00::7/128", "gateway": "fe80::1", "interface": 1 },
            ],
            "routes": [
                { "dst": "169.254.1.1/32" },
                { "dst": "0.0.0.0/0", "gw": "169.254.1.1" },
                { "dst": "::/0", "gw": "fe80::1" },
            ],
        });
        if version.starts_with("0.") {
            expected["ips"][0]["version"] = json!("4");
            expected["ips"][1]["version"] = json!("6");
        }
        if version == "1.1.0" {
            expected["interfaces"][0]["mtu"] = json!(9001);
            expected["interfaces"][1]["mtu"] = json!(9001);
            expected["routes"][0]["scope"] = json!(253);
        }
        assert_eq!(ended.json(), expected, "{version}");
    }
}

#[test]
fn add_tells_the_agent_who_and_how_long() {
    let agent = FakeAgent::start(Script::Succeed);
    Call::new("ADD", &agent.socket(), "1.0.0")
        .with(json!({ "timeoutSeconds": 7 }))
        .run()
        .json();
    let [Asked::Add(request)] = &agent.asked()[..] else {
        panic!("one ADD")
    };
    let key = request.key.as_ref().unwrap();
    assert_eq!(
        (&*key.network, &*key.container_id, &*key.ifname),
        ("net", "cid-1", "eth0")
    );
    let pod = request.pod.as_ref().unwrap();
    assert_eq!(
        (&*pod.namespace, &*pod.name, &*pod.uid),
        ("shop", "web", "u-1")
    );
    assert_eq!(request.netns.as_ref().unwrap().path, NETNS);
    assert_eq!(request.protocol, tombolo_rpc::PROTOCOL);
    assert!((1..=7000).contains(&request.timeout_ms), "{request:?}");
}

#[test]
fn add_after_other_plugins_keeps_what_they_made() {
    let agent = FakeAgent::start(Script::Succeed);
    for (version, family) in [("0.4.0", Some("4")), ("1.0.0", None)] {
        let prev = json!({
            "interfaces": [{ "name": "lo", "sandbox": NETNS, "x-unknown": 1 }],
            "ips": [{ "address": "127.0.0.1/8", "interface": 0, "version": "4" }],
            "routes": [{ "dst": "198.51.100.0/24", "gw": "127.0.0.1" }],
            "dns": { "nameservers": ["10.0.0.2"] },
        });
        let result = Call::new("ADD", &agent.socket(), version)
            .with(json!({ "prevResult": prev }))
            .run()
            .json();
        assert_eq!(
            result["interfaces"][0],
            json!({ "name": "lo", "sandbox": NETNS, "x-unknown": 1 })
        );
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
        assert_eq!(
            result["ips"][0].get("version").and_then(Value::as_str),
            family
        );
        assert_eq!(
            (
                &result["ips"][1]["interface"],
                &result["ips"][2]["interface"]
            ),
            (&json!(2), &json!(2))
        );
        assert_eq!(result["routes"][0]["dst"], "198.51.100.0/24");
        assert_eq!(result["routes"].as_array().unwrap().len(), 4);
        assert_eq!(result["dns"]["nameservers"][0], "10.0.0.2");
        assert_eq!(result["cniVersion"], version);
    }
}

#[test]
fn add_tolerates_what_runtimes_send_along() {
    let agent = FakeAgent::start(Script::Succeed);
    let extras = json!({
        "capabilities": { "portMappings": true },
        "runtimeConfig": {
            "portMappings": [{ "HostPort": 80, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
            "bandwidth": { "IngressRate": 1 }, "Mac": "", "ips": [], "io.kubernetes.cri.pod-annotations": {},
        },
        "args": { "cni": { "labels": [] } }, "ipam": {}, "dns": {}, "ipMasq": false, "x-unknown": { "a": [null] },
    });
    let call = Call::new("ADD", &agent.socket(), "1.1.0")
        .with(extras)
        .env("CNI_PATH", "")
        .env("CNI_ARGS", "");
    assert_eq!(call.run().json()["ips"][0]["address"], "10.0.1.7/32");
}

#[test]
fn del_is_silent_whatever_is_missing() {
    let agent = FakeAgent::start(Script::Succeed);
    let del = |version| Call::new("DEL", &agent.socket(), version);
    for version in VERSIONS {
        del(version).run().silent();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let lenient = [
        del("1.0.0").env("CNI_NETNS", ""),
        del("1.0.0").env("CNI_NETNS", "/run/netns/never-was"),
        del("1.0.0").env("CNI_NETNS", file.path().to_str().unwrap()),
        del("1.0.0").env("CNI_NETNS_OVERRIDE", ""),
        del("1.0.0").env("CNI_ARGS", "not;pairs"),
        del("1.0.0").with(json!({ "prevResult": "nonsense" })),
        del("1.0.0").with(json!({ "ipam": { "type": "host-local" }, "runtimeConfig": 3 })),
    ];
    for call in &lenient {
        call.run().silent();
    }
    let asked = agent.asked();
    assert_eq!(asked.len(), VERSIONS.len() + lenient.len());
    for (index, asked) in asked.iter().enumerate() {
        let Asked::Del(request) = asked else {
            panic!("only DELs")
        };
        assert_eq!(request.key.as_ref().unwrap().container_id, "cid-1");
        let without = (VERSIONS.len()..VERSIONS.len() + 4).contains(&index);
        assert_eq!(request.netns.is_none(), without, "call {index}");
    }
}

#[test]
fn check_sends_the_addresses_of_its_interface_only() {
    let agent = FakeAgent::start(Script::Succeed);
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let prev = json!({
            "interfaces": [
                { "name": "eth0", "sandbox": "" },
                { "name": "tmb0123456789ab", "sandbox": "" },
                { "name": "eth0", "sandbox": NETNS },
            ],
            "ips": [
                { "address": "10.0.1.7/32", "interface": 2, "version": "4" },
                { "address": "192.0.2.1/24", "interface": 0 },
                { "address": "fd00::7/128", "interface": 2 },
                { "address": "192.0.2.9/24" },
            ],
        });
        Call::new("CHECK", &agent.socket(), version)
            .with(json!({ "prevResult": prev }))
            .run()
            .silent();
    }
    for asked in agent.asked() {
        let Asked::Check(request) = asked else {
            panic!("only CHECKs")
        };
        assert_eq!(request.addresses, ["10.0.1.7/32", "fd00::7/128"]);
    }
}

#[test]
fn version_echoes_a_version_that_it_speaks_and_needs_nothing() {
    for (stdin, expected) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "1.1.0"),
        ("not json", "1.1.0"),
        ("", "1.1.0"),
    ] {
        let mut call = Call::new("VERSION", "/nowhere".as_ref(), "1.0.0");
        call.env.retain(|name, _| name == "CNI_COMMAND");
        call.stdin = stdin.into();
        let ended = call.run();
        assert_eq!(ended.exit, 0);
        assert_eq!(
            ended.json(),
            json!({ "cniVersion": expected, "supportedVersions": VERSIONS })
        );
    }
}

#[test]
fn commands_are_bound_to_versions() {
    let agent = FakeAgent::start(Script::Succeed);
    for version in ["0.3.0", "0.3.1"] {
        let error = Call::new("CHECK", &agent.socket(), version)
            .run()
            .failed(1, &["CHECK", "0.4.0", version]);
        assert_eq!(error["cniVersion"], version);
    }
    for command in ["GC", "STATUS"] {
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
            Call::new(command, &agent.socket(), version)
                .run()
                .failed(1, &[command, "1.1.0", version]);
        }
    }
    assert_eq!(agent.asked(), []);
}

#[test]
fn no_command_says_what_this_is() {
    let ended = Call::new("", "/nowhere".as_ref(), "1.0.0")
        .env("CNI_COMMAND", "")
        .run();
    ended.silent();
    assert!(
        ended.stderr.contains("CNI plugin") && ended.stderr.contains("1.1.0"),
        "{ended:?}"
    );
}

#[test]
fn a_refusal_keeps_its_reason_and_gets_its_code() {
    let refusal = |reason: &str, retryable| Failure {
        reason: reason.into(),
        message: "why so".into(),
        retryable,
    };
    for (reason, retryable, code) in [
        ("PoolEmpty", true, 11),
        ("NotReady", true, 11),
        ("SubnetFull", true, 11),
        ("InvalidConfig", false, 7),
        ("NetnsMismatch", false, 8),
        ("ProtocolMismatch", false, 101),
        ("InterfaceExists", false, 102),
        ("CheckFailed", false, 103),
        ("KernelError", false, 100),
        ("AWordOfALaterAgent", false, 100),
    ] {
        let agent = FakeAgent::start(Script::Fail(refusal(reason, retryable)));
        for version in VERSIONS {
            let error = Call::new("ADD", &agent.socket(), version)
                .run()
                .failed(code, &[reason, "why so"]);
            assert_eq!(error["cniVersion"], version);
        }
        Call::new("DEL", &agent.socket(), "1.0.0")
            .run()
            .failed(code, &[reason]);
        let prev = json!({
            "interfaces": [{ "name": "eth0", "sandbox": NETNS }],
            "ips": [{ "address": "10.0.1.7/32", "interface": 0 }],
        });
        let check =
            Call::new("CHECK", &agent.socket(), "1.0.0").with(json!({ "prevResult": prev }));
        check.run().failed(code, &[reason]);
    }
}
