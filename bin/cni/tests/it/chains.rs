//! What comes before us in a chain, what comes after us, and what runtimes ask for beside an interface.

use serde_json::{Value, json};
use tombolo_rpc::Attachment;

use crate::fake_agent::{Asked, FakeAgent, Script, attachment};
use crate::plugin::{Call, NETNS, VERSIONS};

fn add(agent: &FakeAgent, version: &str) -> Call {
    Call::new("ADD", &agent.socket(), version)
}

#[test]
fn what_plugins_after_us_look_for_is_there() {
    let agent = FakeAgent::start(Script::Succeed);
    for version in VERSIONS {
        let result = add(&agent, version).run().json();
        let interfaces = result["interfaces"].as_array().unwrap();
        let of = |ip: &Value| {
            let index = usize::try_from(ip["interface"].as_u64().unwrap()).unwrap();
            interfaces[index].clone()
        };
        for ip in result["ips"].as_array().unwrap() {
            // portmap, firewall, bandwidth: the pod's interface by its name, with a sandbox.
            assert_eq!(
                (&of(ip)["name"], &of(ip)["sandbox"]),
                (&json!("eth0"), &json!(NETNS))
            );
        }
        // bandwidth: the first interface without sandbox is the node's end.
        let host: Vec<_> = interfaces.iter().filter(|i| i["sandbox"] == "").collect();
        assert_eq!(host.len(), 1);
        assert!(host[0]["name"].as_str().unwrap().starts_with("tmb"));
    }
}

#[test]
fn earlier_interfaces_are_told_as_the_version_knows_them() {
    let agent = FakeAgent::start(Script::Succeed);
    let earlier = json!({ "name": "lo", "sandbox": NETNS, "mtu": 65536, "socketPath": "/s", "pciID": "p", "x": 1 });
    for version in VERSIONS {
        // A result of the same version, which need not say so.
        let prev = json!({ "interfaces": [earlier], "dns": {} });
        let result = add(&agent, version)
            .with(json!({ "prevResult": prev }))
            .run()
            .json();
        let mut wanted = earlier.clone();
        if version.starts_with("0.") {
            for later in ["mtu", "socketPath", "pciID"] {
                wanted.as_object_mut().unwrap().remove(later);
            }
        }
        assert_eq!(result["interfaces"][0], wanted, "{version}");
        assert_eq!(result.get("dns"), None, "an empty one is none");
        assert_eq!(result["ips"][0]["interface"], 2);
    }
}

#[test]
fn the_resolver_that_the_runtime_names_is_in_the_result() {
    let agent = FakeAgent::start(Script::Succeed);
    let prev =
        json!({ "interfaces": [], "dns": { "nameservers": ["10.0.0.1"], "domain": "before" } });
    for runtime in [
        json!({ "dns": { "Servers": ["10.0.0.2"], "Searches": ["s"], "Options": ["o"] } }),
        json!({ "dns": { "servers": ["10.0.0.2"], "searches": ["s"], "options": ["o"] } }),
    ] {
        let result = add(&agent, "1.0.0")
            .with(json!({ "runtimeConfig": runtime, "prevResult": prev, "dns": { "nameservers": ["10.0.0.3"] } }))
            .run()
            .json();
        let wanted = json!({ "nameservers": ["10.0.0.2"], "search": ["s"], "options": ["o"] });
        assert_eq!(result["dns"], wanted);
    }
    let result = add(&agent, "1.0.0")
        .with(json!({ "prevResult": prev }))
        .run()
        .json();
    assert_eq!(result["dns"], prev["dns"]);
}

#[test]
fn what_is_ignored_is_told_on_stderr_only() {
    let agent = FakeAgent::start(Script::Succeed);
    let runtime =
        json!({ "Bandwidth": { "IngressRate": 8000, "IngressBurst": 4_294_967_295_u32 } });
    let ended = add(&agent, "1.0.0")
        .with(json!({ "runtimeConfig": runtime }))
        .run();
    assert_eq!(ended.exit, 0);
    assert!(ended.json().get("runtimeConfig").is_none());
    let told = "runtimeConfig.bandwidth is not supported and ignored";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
}

#[test]
fn addresses_of_somebodys_choice_are_refused_for_add_and_do_not_stop_del() {
    let agent = FakeAgent::start(Script::Succeed);
    for (conf, args, words) in [
        (
            json!({ "runtimeConfig": { "Ips": ["10.0.0.9/32"] } }),
            "",
            ["runtimeConfig.ips", "10.0.0.9"],
        ),
        (
            json!({ "runtimeConfig": { "MAC": "02:00:00:00:00:01" } }),
            "",
            ["runtimeConfig.mac", "02:00"],
        ),
        (
            json!({ "args": { "cni": { "ips": ["10.0.0.9"] } } }),
            "",
            ["args.cni.ips", "10.0.0.9"],
        ),
        (
            json!({}),
            "IgnoreUnknown=1;IP=10.0.0.9",
            ["CNI_ARGS", "IP=10.0.0.9"],
        ),
        (
            json!({}),
            "MAC=02:00:00:00:00:01",
            ["CNI_ARGS", "MAC=02:00"],
        ),
    ] {
        let call = |command| {
            Call::new(command, &agent.socket(), "1.0.0")
                .with(conf.clone())
                .env("CNI_ARGS", args)
        };
        call("ADD").run().failed(2, &words);
        call("DEL").run().silent();
    }
    let all = agent.asked();
    assert!(all.iter().all(|asked| matches!(asked, Asked::Del(_))));
}

#[test]
fn routes_of_a_table_of_its_own_are_told_where_a_table_can_be() {
    let mut made: Attachment = attachment();
    for route in &mut made.routes[..2] {
        route.table = 116_009;
    }
    let agent = FakeAgent::start(Script::Made(made));
    let older = json!([{ "dst": "::/0", "gw": "fe80::1" }]);
    for version in VERSIONS {
        let routes = add(&agent, version).run().json()["routes"].clone();
        if version == "1.1.0" {
            let wanted = json!([
                { "dst": "169.254.1.1/32", "scope": 253, "table": 116_009 },
                { "dst": "0.0.0.0/0", "gw": "169.254.1.1", "table": 116_009 },
                { "dst": "::/0", "gw": "fe80::1" },
            ]);
            assert_eq!(routes, wanted);
        } else {
            assert_eq!(routes, older, "{version}");
        }
    }
}
