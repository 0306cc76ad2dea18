//! Standard input and environment as no runtime sends them: an error that names a field, or a configuration that holds what
//! it promises; and one small JSON object as the answer.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::{Value, json};
use tombolo_core::types::AttachmentKey;
use tombolo_fuzz::Target;
use tombolo_rpc::{Address, Attachment, MAX_VALID, Route};

use crate::config::{self, NetConf};
use crate::env::{Command, Invocation};
use crate::error::PluginError;
use crate::gc;
use crate::result::{self, Earlier};

const IFNAME: &str = "eth0";
const NETNS: &str = "/run/netns/x";

fn made() -> Attachment {
    let address = |cidr: &str, gateway: &str| Address {
        cidr: cidr.to_owned(),
        gateway: gateway.to_owned(),
    };
    Attachment {
        host_ifname: "tmb0123456789ab".to_owned(),
        host_mac: "02:00:00:00:00:01".to_owned(),
        pod_mac: "02:00:00:00:00:00".to_owned(),
        mtu: 1500,
        addresses: vec![
            address("fd00::5/128", "fe80::1"),
            address("10.0.0.5/32", "169.254.1.1"),
        ],
        routes: vec![Route {
            dst: "0.0.0.0/0".to_owned(),
            gateway: "169.254.1.1".to_owned(),
            table: 0,
        }],
    }
}

/// What a runtime is told of an error can be read, and is short.
fn told(error: PluginError, stdin: &[u8]) {
    let text = error.object(config::version_of(stdin)).to_string();
    // Text of 4096 bytes twice, each byte up to six in JSON.
    assert!(text.len() < 60_000, "{} bytes of error", text.len());
    let object: Value = serde_json::from_str(&text).expect("JSON");
    assert!(object["code"].as_u64().is_some_and(|code| code > 0));
    assert!(!object["msg"].as_str().expect("text").is_empty());
}

fn add(conf: NetConf) -> Result<(), PluginError> {
    let version = conf.version;
    let before = conf.prev_result.clone().unwrap_or_default();
    let listed = |field: &str| {
        before
            .get(field)
            .and_then(Value::as_array)
            .map_or(0, Vec::len)
    };
    let mut earlier = Earlier::parse(conf.prev_result, IFNAME, NETNS)?;
    if let Some(dns) = conf.asked.dns {
        assert!(!dns.is_empty());
        earlier.set_dns(dns);
    }
    let result = result::of_add(version, earlier, &made(), IFNAME, NETNS);
    let result: Value = serde_json::from_str(&result.to_string()).expect("JSON");
    assert_eq!(result["cniVersion"], version.text());
    for (field, more) in [("interfaces", 2), ("ips", 2), ("routes", 1)] {
        let after = result[field].as_array().map_or(0, Vec::len);
        assert_eq!(after, listed(field) + more, "{field}");
    }
    for key in before.keys() {
        assert!(
            result.get(key).is_some() || before[key].is_null() || before[key] == json!({}),
            "{key} is lost"
        );
    }
    Ok(())
}

#[test]
fn stdin() {
    let words = &[
        "cniVersion",
        "0.3.0",
        "0.4.0",
        "1.0.0",
        "1.1.0",
        "name",
        "prevResult",
        "interfaces",
        "ips",
        "routes",
        "dns",
        "sandbox",
        "interface",
        "address",
        "gateway",
        "runtimeConfig",
        "Servers",
        "searches",
        "bandwidth",
        "args",
        "cni",
        "ips",
        "mac",
        "ipam",
        "timeoutSeconds",
        "agentSocket",
        gc::FIELD,
        "containerID",
        "ifname",
        NETNS,
        IFNAME,
    ];
    Target::new("cni-stdin").words(words).check(|stdin| {
        for command in [Command::Add, Command::Del, Command::Check, Command::Gc] {
            let conf = match NetConf::parse(stdin, command) {
                Err(error) => {
                    told(error.into(), stdin);
                    continue;
                }
                Ok(conf) => conf,
            };
            assert_eq!(config::version_of(stdin), Some(conf.version));
            assert!(conf.agent_socket.is_absolute());
            assert!(conf.agent_socket.as_os_str().len() <= 107);
            assert!((1..=220).contains(&conf.timeout.as_secs()));
            assert!(conf.valid.len() <= MAX_VALID);
            for valid in &conf.valid {
                AttachmentKey::new(&conf.name, &valid.container_id, &valid.ifname).expect("a key");
            }
            if let Some(prev) = &conf.prev_result {
                match result::addresses_of(prev, IFNAME, NETNS) {
                    Ok(addresses) => assert!((1..=64).contains(&addresses.len())),
                    Err(error) => told(error.into(), stdin),
                }
            }
            if command == Command::Add
                && let Err(error) = add(conf)
            {
                told(error, stdin);
            }
        }
    });
}

/// Lines of `NAME=value`, as the environment has them.
#[test]
fn environment() {
    let words = &[
        "CNI_COMMAND=",
        "ADD",
        "DEL",
        "CHECK",
        "VERSION",
        "GC",
        "CNI_CONTAINERID=",
        "CNI_NETNS=",
        "CNI_IFNAME=",
        "CNI_ARGS=",
        "CNI_NETNS_OVERRIDE=",
        "K8S_POD_NAME=",
        "K8S_POD_NAMESPACE=",
        "K8S_POD_UID=",
        "IgnoreUnknown=1;",
        "\n",
        ";",
    ];
    Target::new("cni-environment").words(words).check(|bytes| {
        let lookup = |name: &str| {
            bytes
                .split(|byte| *byte == b'\n')
                .find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
                .map(|value| OsString::from_vec(value.to_vec()))
        };
        let invocation = match Invocation::read(lookup) {
            Err(error) => return told(error.into(), b""),
            Ok(None) => return,
            Ok(Some(invocation)) => invocation,
        };
        match invocation.pod() {
            Err(error) => told(error.into(), b""),
            Ok(pod) => {
                let all = [&pod.namespace, &pod.name, &pod.uid];
                assert!(all.iter().all(|part| part.len() <= 253));
            }
        }
        match AttachmentKey::new("net", &invocation.container_id, &invocation.ifname) {
            Err(error) => told(error.into(), b""),
            Ok(key) => assert!((1..=15).contains(&key.ifname.len())),
        }
    });
}
