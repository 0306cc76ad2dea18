//! Malformed and contradicting input: one error with its code that names the field, and not a word to the agent.

use serde_json::{Value, json};

use crate::fake_agent::{FakeAgent, Script};
use crate::plugin::{Call, NETNS};

#[test]
fn environment() {
    let agent = FakeAgent::start(Script::Succeed);
    let long = "a".repeat(16);
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = file.path().to_str().unwrap();
    // (command, variable, value; empty: unset), code, words of the message.
    let table: &[(&str, &str, &str, u64, &[&str])] = &[
        ("ADD", "CNI_COMMAND", "add", 4, &["CNI_COMMAND", "add"]),
        (
            "ADD",
            "CNI_COMMAND",
            "UPDATE",
            4,
            &["CNI_COMMAND", "UPDATE"],
        ),
        (
            "ADD",
            "CNI_CONTAINERID",
            "",
            4,
            &["required env variables [CNI_CONTAINERID] missing"],
        ),
        (
            "ADD",
            "CNI_NETNS",
            "",
            4,
            &["required env variables [CNI_NETNS] missing"],
        ),
        (
            "ADD",
            "CNI_IFNAME",
            "",
            4,
            &["required env variables [CNI_IFNAME] missing"],
        ),
        ("CHECK", "CNI_NETNS", "", 4, &["CNI_NETNS"]),
        ("DEL", "CNI_CONTAINERID", "", 4, &["CNI_CONTAINERID"]),
        ("DEL", "CNI_IFNAME", "", 4, &["CNI_IFNAME"]),
        (
            "ADD",
            "CNI_CONTAINERID",
            "../x",
            4,
            &["CNI_CONTAINERID", "../x"],
        ),
        ("ADD", "CNI_CONTAINERID", "-x", 4, &["CNI_CONTAINERID"]),
        ("DEL", "CNI_CONTAINERID", "a b", 4, &["CNI_CONTAINERID"]),
        ("ADD", "CNI_IFNAME", &long, 4, &["CNI_IFNAME"]),
        ("ADD", "CNI_IFNAME", ".", 4, &["CNI_IFNAME"]),
        ("ADD", "CNI_IFNAME", "..", 4, &["CNI_IFNAME"]),
        ("ADD", "CNI_IFNAME", "a/b", 4, &["CNI_IFNAME"]),
        ("ADD", "CNI_IFNAME", "a:b", 4, &["CNI_IFNAME"]),
        ("ADD", "CNI_IFNAME", "a b", 4, &["CNI_IFNAME"]),
        (
            "ADD",
            "CNI_ARGS",
            "K8S_POD_NAME",
            4,
            &["CNI_ARGS", "K8S_POD_NAME"],
        ),
        (
            "ADD",
            "CNI_NETNS",
            "/run/netns/never-was",
            8,
            &["CNI_NETNS", "never-was", "No such file"],
        ),
        (
            "ADD",
            "CNI_NETNS",
            file,
            8,
            &["CNI_NETNS", "not a namespace"],
        ),
        ("ADD", "CNI_NETNS_OVERRIDE", "", 8, &["CNI_NETNS", "own"]),
        ("ADD", "CNI_NETNS_OVERRIDE", "yes", 8, &["CNI_NETNS", "own"]),
    ];
    for (command, variable, value, code, words) in table {
        let ended = Call::new(command, &agent.socket(), "1.0.0")
            .env(variable, value)
            .run();
        let error = ended.failed(*code, words);
        assert!(error["cniVersion"].is_string(), "{error}");
    }
    assert_eq!(agent.asked(), []);
}

#[test]
fn all_missing_variables_in_one_message() {
    let mut call = Call::new("ADD", "/nowhere".as_ref(), "1.0.0");
    call.env.retain(|name, _| name == "CNI_COMMAND");
    call.run().failed(
        4,
        &["required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing"],
    );
}

#[test]
fn configuration_that_is_no_configuration() {
    let agent = FakeAgent::start(Script::Succeed);
    for stdin in [
        "",
        "{",
        "[]",
        "3",
        "\"x\"",
        "{\"name\": \"a\"} trailing",
        "\u{feff}{}",
    ] {
        for command in ["ADD", "DEL", "CHECK"] {
            let mut call = Call::new(command, &agent.socket(), "1.0.0");
            call.stdin = stdin.into();
            call.run().failed(6, &["decode network configuration"]);
        }
    }
    assert_eq!(agent.asked(), []);
}

#[test]
fn fields_of_the_configuration() {
    let agent = FakeAgent::start(Script::Succeed);
    let long = format!("/{}", "x".repeat(107));
    let eth0 = json!([{ "name": "eth0", "sandbox": NETNS }]);
    // Fields changed (null: removed), code, words of the message.
    let table: &[(Value, u64, &[&str])] = &[
        (json!({ "cniVersion": null }), 1, &["cniVersion", "0.1.0"]),
        (json!({ "cniVersion": "" }), 1, &["cniVersion", "0.1.0"]),
        (json!({ "name": "a/b" }), 7, &["name", "a/b", "must match"]),
        (
            json!({ "cniVersion": "0.2.0" }),
            1,
            &["cniVersion", "0.2.0"],
        ),
        (
            json!({ "cniVersion": "2.0.0" }),
            1,
            &["cniVersion", "2.0.0"],
        ),
        (json!({ "cniVersion": "one" }), 6, &["cniVersion", "one"]),
        (json!({ "cniVersion": "1.0" }), 6, &["cniVersion"]),
        (json!({ "cniVersion": 1 }), 6, &["cniVersion"]),
        (json!({ "name": null }), 7, &["name", "missing"]),
        (json!({ "name": "" }), 7, &["name", "missing"]),
        (json!({ "name": 5 }), 7, &["name", "string"]),
        (json!({ "name": "a b" }), 7, &["name", "a b"]),
        (json!({ "name": "../etc" }), 7, &["name", "../etc"]),
        (json!({ "agentSocket": 5 }), 7, &["agentSocket", "string"]),
        (
            json!({ "agentSocket": "" }),
            7,
            &["agentSocket", "absolute"],
        ),
        (
            json!({ "agentSocket": "run/agent.sock" }),
            7,
            &["agentSocket", "absolute"],
        ),
        (json!({ "agentSocket": long }), 7, &["agentSocket", "107"]),
        (
            json!({ "agentSocket": "/a\0b" }),
            7,
            &["agentSocket", "zero"],
        ),
        (
            json!({ "timeoutSeconds": 0 }),
            7,
            &["timeoutSeconds", "1 to 220"],
        ),
        (
            json!({ "timeoutSeconds": 221 }),
            7,
            &["timeoutSeconds", "221"],
        ),
        (json!({ "timeoutSeconds": -1 }), 7, &["timeoutSeconds"]),
        (json!({ "timeoutSeconds": 1.5 }), 7, &["timeoutSeconds"]),
        (
            json!({ "timeoutSeconds": "60" }),
            7,
            &["timeoutSeconds", "number"],
        ),
        (
            json!({ "runtimeConfig": [] }),
            7,
            &["runtimeConfig", "object"],
        ),
        (
            json!({ "runtimeConfig": { "ips": ["10.0.0.9"] } }),
            2,
            &["runtimeConfig.ips", "10.0.0.9"],
        ),
        (
            json!({ "runtimeConfig": { "IPs": ["10.0.0.9"] } }),
            2,
            &["runtimeConfig.ips", "10.0.0.9"],
        ),
        (
            json!({ "runtimeConfig": { "Mac": "02:00:00:00:00:09" } }),
            2,
            &["runtimeConfig.mac", "02:00"],
        ),
        (
            json!({ "ipam": { "type": "host-local" } }),
            2,
            &["ipam.type", "host-local"],
        ),
        (json!({ "ipam": "host-local" }), 7, &["ipam", "object"]),
        (json!({ "prevResult": [] }), 7, &["prevResult", "object"]),
        (
            json!({ "prevResult": { "interfaces": {} } }),
            7,
            &["prevResult.interfaces", "list"],
        ),
        (
            json!({ "prevResult": { "ips": [3] } }),
            7,
            &["prevResult.ips[0]", "object"],
        ),
        (
            json!({ "prevResult": { "routes": "x" } }),
            7,
            &["prevResult.routes", "list"],
        ),
        (
            json!({ "prevResult": { "interfaces": eth0 } }),
            7,
            &["prevResult.interfaces[0].name", "eth0"],
        ),
    ];
    for (changes, code, words) in table {
        Call::new("ADD", &agent.socket(), "1.0.0")
            .with(changes.clone())
            .run()
            .failed(*code, words);
    }
    assert_eq!(agent.asked(), []);
}

#[test]
fn check_without_a_usable_previous_result() {
    let agent = FakeAgent::start(Script::Succeed);
    let pod = json!({ "name": "eth0", "sandbox": NETNS });
    let table: &[(Value, &[&str])] = &[
        (Value::Null, &["prevResult", "missing"]),
        (json!({}), &["prevResult.interfaces", "eth0"]),
        (
            json!({ "interfaces": [{ "name": "eth0", "sandbox": "/other" }] }),
            &["prevResult.interfaces", "CNI_NETNS"],
        ),
        (
            json!({ "interfaces": [pod] }),
            &["prevResult.ips", "no address"],
        ),
        (
            json!({ "interfaces": [pod], "ips": [{ "interface": 0 }] }),
            &["prevResult.ips[0].address", "string"],
        ),
    ];
    for (prev, words) in table {
        Call::new("CHECK", &agent.socket(), "1.0.0")
            .with(json!({ "prevResult": prev }))
            .run()
            .failed(7, words);
    }
    assert_eq!(agent.asked(), []);
}
