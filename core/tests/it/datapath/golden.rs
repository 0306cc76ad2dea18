//! Whole computed states, compared with the files in `tests/golden`. `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;

use tombolo_core::datapath::{NodeInput, desired};
use tombolo_core::types::{Families, Protocol};

use super::input::{address4, address6, endpoint, mapping, nic, node};

#[track_caller]
fn matches_golden(name: &str, input: &NodeInput) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.json"));
    let mut endpoints = serde_json::Map::new();
    for each in &input.endpoints {
        endpoints.insert(
            each.key.to_string(),
            serde_json::to_value(desired::endpoint(each, &input.nics)).unwrap(),
        );
    }
    let state = serde_json::json!({ "node": desired::node(input), "endpoints": endpoints });
    let text = serde_json::to_string_pretty(&state).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(
        golden,
        text,
        "{} differs; UPDATE_GOLDEN=1 rewrites it",
        path.display()
    );
}

#[test]
fn one_nic_ipv4() {
    let pods = vec![endpoint(1, vec![address4(0, 1)])];
    let mut node = node(Families::V4, vec![nic(0, 0)], pods);
    // One that a pod has, and one that none has.
    node.addresses = [address4(0, 1).ip, address4(0, 9).ip].into();
    matches_golden("one-nic-ipv4", &node);
}

#[test]
fn three_nics_dual_stack_five_pods() {
    let pods = vec![
        endpoint(1, vec![address4(0, 1), address6(0, 1)]),
        endpoint(2, vec![address4(1, 2), address6(1, 2)]),
        endpoint(3, vec![address4(1, 3), address6(1, 3)]),
        endpoint(4, vec![address4(2, 4), address6(2, 4)]),
        // A pair from two NICs.
        endpoint(5, vec![address4(1, 5), address6(2, 5)]),
    ];
    let nics = vec![nic(0, 0), nic(1, 1), nic(2, 2)];
    let mut node = node(Families::Dual, nics, pods);
    node.addresses = [address4(1, 2).ip, address6(1, 2).ip, address6(2, 9).ip].into();
    matches_golden("three-nics-dual", &node);
}

#[test]
fn host_ports() {
    use Protocol::{Sctp, Tcp, Udp};
    let mut both = endpoint(1, vec![address4(0, 1), address6(0, 1)]);
    both.host_ports = vec![
        mapping("", Tcp, (80, 8080)),
        mapping("", Sctp, (80, 8081)),
        mapping("0.0.0.0", Udp, (53, 5353)),
        mapping("fd00::10", Udp, (53, 5354)),
        mapping("127.0.0.1", Tcp, (9000, 9001)),
    ];
    // No port of it is one of the loopback's; and of IPv6 it has no address.
    let mut four = endpoint(2, vec![address4(0, 2)]);
    four.host_ports = vec![
        mapping("10.0.0.10", Tcp, (81, 80)),
        mapping("::", Tcp, (82, 80)),
    ];
    let node = node(Families::Dual, vec![nic(0, 0)], vec![both, four]);
    matches_golden("host-ports", &node);
}

#[test]
fn pod_whose_nic_is_missing() {
    let pods = vec![
        endpoint(1, vec![address4(0, 1)]),
        endpoint(2, vec![address4(3, 2)]),
    ];
    matches_golden(
        "missing-nic",
        &node(Families::V4, vec![nic(0, 0), nic(1, 1)], pods),
    );
}
