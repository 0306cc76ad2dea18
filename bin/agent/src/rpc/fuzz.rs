//! Requests as no plugin sends them: refused with the field's name, or short enough for the journal.

use std::collections::BTreeSet;

use prost::Message;
use tombolo_fuzz::Target;

use super::*;
use crate::journal;

/// Most bytes of a journal file of an attachment, all its parts as long as they may be and escaped.
const MOST: usize =
    6 * (2 * AttachmentKey::MAX_PART + 15 + 3 * MAX_POD + MAX_PATH) + host_ports::MOST * 160 + 4096;

fn check_key(wire: Option<rpc::Key>) -> Option<AttachmentKey> {
    match key(wire) {
        Ok(key) => Some(key),
        Err(error) => {
            told(&error);
            None
        }
    }
}

fn told(error: &Error) {
    assert!(!error.is_retryable() || matches!(error, Error::Kernel { .. }));
    let failure = error.to_failure();
    assert!(failure.message.len() <= rpc::MAX_TEXT + 4);
}

fn add(request: rpc::AddRequest) {
    let Some(key) = check_key(request.key) else {
        return;
    };
    let pod = match pod(request.pod) {
        Ok(pod) => pod,
        Err(error) => return told(&error),
    };
    let host_ports = match host_ports::of_request(&request.host_ports) {
        Ok(host_ports) => host_ports,
        Err(error) => return told(&error),
    };
    let path = request.netns.clone().unwrap_or_default().path;
    match netns(std::process::id(), request.netns) {
        Ok(found) => drop(found),
        Err(error) => told(&error),
    }
    if path.len() > MAX_PATH {
        return;
    }
    let record = journal::Record {
        key,
        pod,
        phase: journal::Phase::Adding,
        netns: journal::NetnsRecord {
            dev: u64::MAX,
            ino: u64::MAX,
            path,
        },
        addresses: Vec::new(),
        host_ports,
        mtu: u32::MAX,
        host_ifindex: None,
        beside: BTreeSet::new(),
        since: tombolo_core::types::Millis(u64::MAX),
        answered: 0,
    };
    let bytes = serde_json::to_vec(&record).expect("JSON");
    assert!(bytes.len() < MOST, "{} bytes in the journal", bytes.len());
}

/// The first byte says which request; the rest is its protobuf.
#[test]
fn requests() {
    Target::new("agent-requests").check(|bytes| {
        let Some((which, bytes)) = bytes.split_first() else {
            return;
        };
        match which % 4 {
            0 => drop(rpc::AddRequest::decode(bytes).map(add)),
            3 => drop(
                rpc::GcRequest::decode(bytes).map(|request| match valid(request, 1000) {
                    Err(error) => told(&error),
                    Ok(gc) => {
                        assert!(gc.network.len() <= AttachmentKey::MAX_PART);
                        assert!(gc.valid.len() <= rpc::MAX_VALID);
                        assert!((1..=1000).contains(&gc.begun));
                    }
                }),
            ),
            1 => drop(rpc::DelRequest::decode(bytes).map(|request| check_key(request.key))),
            _ => drop(rpc::CheckRequest::decode(bytes).map(|request| {
                if let Err(error) = addresses_fit(&request.addresses) {
                    told(&error);
                }
                check_key(request.key)
            })),
        }
    });
}

#[test]
fn every_text_has_a_limit_on_its_size() {
    let x = |length| "x".repeat(length);
    for (namespace, name, uid, field) in [
        (254, 0, 0, "pod.namespace"),
        (0, 254, 0, "pod.name"),
        (0, 0, 254, "pod.uid"),
    ] {
        let error = pod(Some(rpc::Pod {
            namespace: x(namespace),
            name: x(name),
            uid: x(uid),
        }))
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the request's {field} has more than 253 bytes")
        );
        assert_eq!(error.reason().word(), "InvalidConfig");
    }
    let reference = rpc::NetnsRef {
        path: x(4097),
        ..rpc::NetnsRef::default()
    };
    let error = netns(1, Some(reference)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("netns.path has more than 4096 bytes")
    );
    assert!(addresses_fit(&vec![x(64); 64]).is_ok());
    assert!(addresses_fit(&[x(65)]).is_err());
    let error = addresses_fit(&vec![x(1); 65]).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("addresses has more than 64 entries")
    );
}
