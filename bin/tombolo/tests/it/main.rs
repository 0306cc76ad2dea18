//! The command line as a user meets it: the built program, and an API that answers from a table.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod api;
mod image;
mod node;

use std::path::Path;
use std::process::{Command, Output};

use api::Api;
use serde_json::{Value, json};

fn tombolo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
    command
        .args(args)
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent");
    command
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for word in words {
        assert!(stderr.contains(word), "{word:?} is not in: {stderr}");
    }
}

fn set(name: &str, release: &[&str]) -> Value {
    json!({
        "apiVersion": "tombolo.dev/v1alpha1", "kind": "NetResourceSet", "metadata": { "name": name },
        "spec": {
            "instanceId": format!("i-{name}"), "instanceType": "m5.large", "zone": "zone-a",
            "profile": {
                "name": "default", "ipFamilies": "DualStack", "snat": true,
                "pool": { "warmMin": 1, "warmMax": 2, "coolingSeconds": 1, "churnWindowSeconds": 1, "waitSeconds": 1 },
            },
            "limits": { "maxNics": 3, "ipv4PerNic": 10, "ipv6PerNic": 10 },
            "vpcCidrs": ["10.0.0.0/16"],
            "release": release,
            "nics": [{
                "id": "eni-1", "mac": "02:00:00:00:00:01", "deviceIndex": 0, "subnet": "subnet-1", "cidr4": "10.0.1.0/24",
                "gateway4": "10.0.1.1", "primary4": "10.0.1.10", "mtu": 9001,
                "addresses": ["10.0.1.22", "10.0.1.21", "10.0.1.23", "10.0.1.24", "fd00::21"],
            }],
        },
        "status": {
            "agent": { "nics": 1, "used": 2, "total": 5, "inUse": {
                "10.0.1.21": "bound", "fd00::21": "bound", "10.0.1.22": "cooling", "10.0.1.99": "bound",
            } },
            "conditions": [
                { "type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z" },
                { "type": "SubnetsAvailable", "status": "False", "reason": "SubnetFull", "message": "subnet-1 has 0 free",
                  "lastTransitionTime": "2024-01-01T00:00:00Z" },
            ],
        },
    })
}

fn endpoint(node: &str) -> Value {
    json!({
        "apiVersion": "tombolo.dev/v1alpha1", "kind": "PodEndpoint", "metadata": { "name": "web-1", "namespace": "shop" },
        "spec": {
            "node": node, "pod": "web", "network": "tombolo", "containerId": "c1", "ifname": "eth0", "hostIfname": "tmb1",
            "ipv4": { "ip": "10.0.1.21", "nic": "eni-1" }, "ipv6": { "ip": "fd00::21", "nic": "eni-1" }, "state": "Ready",
        },
    })
}

fn eni(name: &str, node: &str, index: u16, status: Value) -> Value {
    json!({
        "apiVersion": "tombolo.dev/v1alpha1", "kind": "Eni", "metadata": { "name": name },
        "spec": { "node": node, "instanceId": "i-1", "deviceIndex": index, "subnet": "subnet-1" },
        "status": status,
    })
}

fn cluster() -> Api {
    let broken = json!({ "apiVersion": "tombolo.dev/v1alpha1", "kind": "NetResourceSet", "metadata": { "name": "broken" },
        "spec": { "instanceId": 7 } });
    Api::start(vec![
        (
            "netresourcesets",
            vec![set("node-1", &["10.0.1.23"]), broken, set("node-2", &[])],
        ),
        ("podendpoints", vec![endpoint("node-1")]),
        (
            "enis",
            vec![
                eni(
                    "b",
                    "node-1",
                    1,
                    json!({ "phase": "Attaching", "message": "AttachTimeout: 30 s" }),
                ),
                eni(
                    "a",
                    "node-1",
                    0,
                    json!({ "phase": "InUse", "nicId": "eni-1", "addresses": ["10.0.1.21", "fd00::21"] }),
                ),
                eni("c", "node-2", 0, json!({})),
            ],
        ),
    ])
}

#[test]
fn status_as_a_table_and_a_broken_object_hides_no_other() {
    let api = cluster();
    let output = tombolo(&["status"])
        .env("KUBECONFIG", api.kubeconfig())
        .output()
        .unwrap();
    let table = stdout(&output);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        [
            "NODE", "INSTANCE", "TYPE", "PROFILE", "NICS", "IPV4", "IPV6", "READY", "PROBLEMS"
        ]
    );
    assert_eq!(
        lines[1],
        [
            "node-1",
            "i-node-1",
            "m5.large",
            "default",
            "1/3",
            "1/4",
            "1/1",
            "True",
            "SubnetFull:",
            "subnet-1",
            "has",
            "0",
            "free"
        ]
    );
    assert_eq!(lines[2][0], "node-2");
    assert_eq!(lines.len(), 3);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("netresourcesets/broken cannot be decoded"),
        "{stderr}"
    );
}

#[test]
fn ipam_by_nic_and_one_by_one() {
    let api = cluster();
    let run = |args: &[&str]| -> Value {
        let output = tombolo(args)
            .env("KUBECONFIG", api.kubeconfig())
            .output()
            .unwrap();
        serde_json::from_str(&stdout(&output)).unwrap()
    };
    let nics = run(&["ipam", "--node", "node-1", "-o", "json"]);
    assert_eq!(
        nics,
        json!([
            { "node": "node-1", "nic": "eni-1", "family": "IPv4", "total": 4, "bound": 1, "draining": 0, "cooling": 1, "free": 2, "releasing": 1, "lost": 0 },
            { "node": "node-1", "nic": "eni-1", "family": "IPv6", "total": 1, "bound": 1, "draining": 0, "cooling": 0, "free": 0, "releasing": 0, "lost": 0 },
            { "node": "node-1", "nic": null, "family": "IPv4", "total": 1, "bound": 0, "draining": 0, "cooling": 0, "free": 0, "releasing": 0, "lost": 1 },
        ])
    );
    let each = run(&["ipam", "--addresses", "--node", "node-1", "-o", "json"]);
    let short: Vec<String> = each
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            format!(
                "{} {} {}",
                row["address"].as_str().unwrap(),
                row["state"].as_str().unwrap(),
                row["pod"]
            )
        })
        .collect();
    assert_eq!(
        short,
        [
            "10.0.1.21 bound \"shop/web\"",
            "10.0.1.22 cooling null",
            "10.0.1.23 free, releasing null",
            "10.0.1.24 free null",
            "fd00::21 bound \"shop/web\"",
            "10.0.1.99 lost null",
        ]
    );
}

#[test]
fn eni_by_node_and_index_as_yaml_and_table() {
    let api = cluster();
    let run = |args: &[&str]| {
        stdout(
            &tombolo(args)
                .env("KUBECONFIG", api.kubeconfig())
                .output()
                .unwrap(),
        )
    };
    let rows: Vec<Value> = serde_norway::from_str(&run(&["eni", "-o", "yaml"])).unwrap();
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(rows[1]["message"], "AttachTimeout: 30 s");
    let table = run(&["eni", "--node", "node-2"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("Creating"), "{table}");
}

#[test]
fn max_pods_from_limits() {
    for (args, expected) in [
        (&["--instance-type-limits", "3,10,10"][..], "27"),
        (
            &["--instance-type-limits", "3,10,10", "--host-network", "2"],
            "29",
        ),
        (
            &["--instance-type-limits", "3,10,10", "--ip-families", "IPv6"],
            "29",
        ),
        (
            &["--instance-type-limits", "4,15,3", "--ip-families", "IPv4"],
            "56",
        ),
        (&["--instance-type-limits", "4,15,3"], "11"),
    ] {
        let output = tombolo(&[&["max-pods"], args].concat()).output().unwrap();
        assert_eq!(stdout(&output).trim(), expected, "{args:?}");
    }
}

#[test]
fn max_pods_of_a_node() {
    let api = cluster();
    let run = |node: &str| {
        tombolo(&["max-pods", "--node", node, "-o", "json"])
            .env("KUBECONFIG", api.kubeconfig())
            .output()
            .unwrap()
    };
    let answer: Value = serde_json::from_str(&stdout(&run("node-1"))).unwrap();
    assert_eq!(
        (&answer["maxPods"], &answer["families"]),
        (&json!(27), &json!("Dual"))
    );
    refused(&run("node-9"), &["netresourcesets/node-9", "--node"]);
    refused(&run("broken"), &["netresourcesets/broken", "instanceId"]);
}

#[test]
fn malformed_limits_name_the_field() {
    for (limits, word) in [
        ("3,10", "there are 2"),
        ("3,x,10", "IPV4"),
        ("0,10,10", "NICS"),
        ("3,10,99999", "IPV6"),
    ] {
        let output = tombolo(&["max-pods", "--instance-type-limits", limits])
            .output()
            .unwrap();
        refused(&output, &["--instance-type-limits", word]);
    }
}

#[test]
fn no_cluster_and_no_answer_are_named() {
    let nowhere = tombolo(&["status"]).output().unwrap();
    refused(&nowhere, &["KUBECONFIG"]);
    let api = Api::start(vec![]);
    let output = tombolo(&["eni"])
        .env("KUBECONFIG", api.kubeconfig())
        .output()
        .unwrap();
    refused(&output, &["list enis"]);
}

#[test]
fn lab_is_handed_every_argument() {
    // A link and no copy: a copy cannot be run while a child of another test still holds it open for writing.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("tombolo");
    std::fs::hard_link(env!("CARGO_BIN_EXE_tombolo"), &program).unwrap();
    let lab = |path: &Path| {
        let mut command = Command::new(path);
        command
            .args(["lab", "up", "--help", "-x", "--", "a b"])
            .env("PATH", "/nonexistent");
        command.output().unwrap()
    };
    refused(&lab(&program), &["tombolo-lab is neither beside"]);
    std::os::unix::fs::symlink("/bin/echo", folder.path().join("tombolo-lab")).unwrap();
    assert_eq!(stdout(&lab(&program)), "up --help -x -- a b\n");
}
