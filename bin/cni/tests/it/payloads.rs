//! What runtimes really sent, as they sent it: kept from containerd 1.6 and podman 4 (`TOMBOLO_CAPTURES=dir` with the tests of
//! lab/runtime writes them anew), and seeds of the fuzz targets too. Only the namespace and the agent's socket are put in their
//! place.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::fake_agent::{Asked, FakeAgent, Script};
use crate::plugin::{Call, NETNS};

/// A payload's name, and how often the agent is asked because of it.
const PAYLOADS: [(&str, usize); 6] = [
    ("containerd-add", 1),
    ("containerd-del", 1),
    ("containerd-del-again", 1),
    ("podman-version", 0),
    ("podman-add", 1),
    ("podman-del", 1),
];

fn corpus(target: &str, name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");
    let path = PathBuf::from(folder).join(target).join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn payload(name: &str, agent: &FakeAgent) -> Call {
    let environment = String::from_utf8(corpus("cni-environment", name)).unwrap();
    let pairs = environment.lines().filter_map(|line| line.split_once('='));
    let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut call = Call {
        env: env.collect(),
        stdin: Vec::new(),
    };
    let netns = call.env["CNI_NETNS"].clone();
    let mut stdin = String::from_utf8(corpus("cni-stdin", &format!("{name}.json"))).unwrap();
    if netns.starts_with('/') {
        call = call.env("CNI_NETNS", NETNS).env("CNI_NETNS_OVERRIDE", "1");
        stdin = stdin.replace(&netns, NETNS);
    }
    call.stdin = stdin.into_bytes();
    call.with(json!({ "agentSocket": agent.socket() }))
}

#[test]
fn what_runtimes_sent_is_understood() {
    for (name, times) in PAYLOADS {
        let agent = FakeAgent::start(Script::Succeed);
        let call = payload(name, &agent);
        let stdin: Value = serde_json::from_slice(&call.stdin).unwrap();
        let ended = call.run();
        assert_eq!(ended.exit, 0, "{name}: {ended:?}");
        let asked = agent.asked();
        assert_eq!(asked.len(), times, "{name}: {asked:?}");
        let key = match &asked[..] {
            [Asked::Add(request)] => {
                let result = ended.json();
                assert_eq!(result["cniVersion"], stdin["cniVersion"], "{name}");
                assert_eq!(result["interfaces"][1]["sandbox"], NETNS, "{name}");
                let pod = request.pod.as_ref().unwrap();
                let args = &call.env["CNI_ARGS"];
                assert!(args.contains(&format!("K8S_POD_NAME={}", pod.name)));
                assert_eq!(pod.uid.is_empty(), !args.contains("K8S_POD_UID="), "{name}");
                request.key.as_ref()
            }
            [Asked::Del(request)] => {
                ended.silent();
                assert_eq!(request.netns.is_some(), stdin.get("prevResult").is_some());
                request.key.as_ref()
            }
            _ => {
                assert_eq!(ended.json()["cniVersion"], stdin["cniVersion"], "{name}");
                continue;
            }
        };
        let key = key.unwrap();
        assert_eq!(key.network, stdin["name"].as_str().unwrap(), "{name}");
        assert_eq!(key.container_id, call.env["CNI_CONTAINERID"], "{name}");
        assert_eq!(key.ifname, call.env["CNI_IFNAME"], "{name}");
    }
}
